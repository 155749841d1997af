//! Settings whose feature does not work yet. They are parsed and checked like all others, and then refused with
//! "... is not available yet", so that none is ever silently ignored. To make a feature available, delete its line.

/// The feature, as its reader calls it, and what to do for now.
const PENDING: &[(&str, Option<&str>)] = &[
    (
        "proxy_protocol",
        Some("for now, let the load balancer send X-Forwarded-For and list it in trusted_proxies"),
    ),
    ("unix_listener", Some("for now, listen on a loopback address such as \"127.0.0.1:8080\"")),
    ("unix_target", Some("for now, name a TCP address such as \"http://127.0.0.1:5000\"")),
    ("https_target", Some("for now, only targets with http:// can be reached")),
    ("h2_target", Some("for now, targets are spoken to in HTTP/1.1")),
    ("upstream_tls", None),
    ("delegate", None),
    ("cluster", None),
    ("rate_limit", None),
    ("cors", None),
];

/// `None`: the feature works. Else what to do for now, if there is anything.
pub(super) fn hint(feature: &str) -> Option<Option<&'static str>> {
    PENDING.iter().find(|(name, _)| *name == feature).map(|(_, hint)| *hint)
}

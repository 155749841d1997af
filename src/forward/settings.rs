//! What of `[server]` concerns the rewriting of messages.

use http::HeaderName;
use ipnet::IpNet;

/// Whom we believe, and what never passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Only from these are `Forwarded` and `X-Forwarded-*` believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Removed from requests in any spelling that folds to one of them (`_` = `-`).
    pub strip_headers: Vec<HeaderName>,
    /// Kept if it is a plain token of at most 128 bytes, else made.
    pub request_id_header: HeaderName,
}

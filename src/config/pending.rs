//! Settings whose feature does not work yet. They are parsed and checked like all others, and then refused with
//! "... is not available yet", so that none is ever silently ignored. To make a feature available, delete its line.

/// The feature, as its reader calls it, and what to do for now.
const PENDING: &[(&str, Option<&str>)] = &[("cluster_postgres", Some("write \"redis://HOST:PORT\""))];

/// `None`: the feature works. Else what to do for now, if there is anything.
pub(super) fn hint(feature: &str) -> Option<Option<&'static str>> {
    PENDING.iter().find(|(name, _)| *name == feature).map(|(_, hint)| *hint)
}

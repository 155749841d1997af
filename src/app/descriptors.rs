//! Open files: every connection takes one, and every request at an upstream another.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Beside connections: listeners, logs, databases, connections of the admin listener.
const RESERVE: u64 = 1536;

/// Has the process open as many files as it may. The soft limit of most systems, 1,024, is for programs that call
/// select(2); we do not, and a proxy is full with some five hundred clients under it.
pub(super) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => {
            tracing::debug!(from = ?limit.current, to = ?limit.maximum, "raised the limit on open files")
        }
        Err(error) => tracing::warn!(%error, "cannot raise the limit on open files"),
    }
}

/// Says so when `max_connections`, each with a request at an upstream, are more than the process may open.
pub(super) fn warn(max_connections: Option<usize>) {
    let Some(allowed) = getrlimit(Resource::Nofile).current else { return };
    if let Some(short) = shortage(max_connections, allowed) {
        tracing::warn!(
            max_connections = short.connections,
            needed = short.needed,
            allowed,
            "the limit on open files is too low for max_connections, each with a connection to an upstream: raise it \
             (LimitNOFILE= of systemd, --ulimit nofile= of a container) or lower max_connections to {}",
            short.fitting,
        );
    }
}

/// By how much it does not fit.
#[derive(Debug, PartialEq, Eq)]
struct Shortage {
    connections: u64,
    needed: u64,
    /// The `max_connections` that would fit.
    fitting: u64,
}

/// `None` when it fits, and when nobody says how many there may be.
fn shortage(max_connections: Option<usize>, allowed: u64) -> Option<Shortage> {
    let connections = u64::try_from(max_connections?).unwrap_or(u64::MAX);
    let needed = connections.saturating_mul(2).saturating_add(RESERVE);
    let fitting = (allowed.saturating_sub(RESERVE) / 2).max(1);
    (needed > allowed).then_some(Shortage { connections, needed, fitting })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_to_fit_does() {
        assert_eq!(shortage(None, 64), None);
        assert_eq!(shortage(Some(16_384), 34_304), None);
        let short = shortage(Some(16_384), 20_000).unwrap();
        assert_eq!((short.needed, short.fitting), (34_304, 9_232));
        assert_eq!(shortage(Some(9_232), 20_000), None);
        assert!(shortage(Some(usize::MAX), u64::MAX).is_none());
        assert_eq!(shortage(Some(10), 64).unwrap().fitting, 1);
    }
}

//! What a connection waits for, and for how long.

use std::time::Duration;

use tokio::time::Instant;

/// After we have said good-bye, an idle client has so long to hang up.
const FAREWELL: Duration = Duration::from_secs(5);
/// What a connection without requests waits for.
#[derive(Debug)]
pub(super) struct Waits {
    /// The first request.
    first: Option<Instant>,
    /// The next one.
    idle: Option<Duration>,
    since: Option<Instant>,
    /// We have said good-bye; when we hang up, once it is known.
    parting: Option<Option<Instant>>,
}

/// What it has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// To say good-bye.
    Parting,
    /// To hang up.
    End,
}

impl Waits {
    /// For the first request until `first`, for each further one for `idle`.
    pub(super) const fn new(first: Option<Instant>, idle: Option<Duration>) -> Self {
        Self { first, idle, since: None, parting: None }
    }

    /// We have said good-bye.
    pub(super) fn part(&mut self) {
        self.parting.get_or_insert(None);
    }

    /// Whether we have.
    pub(super) const fn is_parting(&self) -> bool {
        self.parting.is_some()
    }

    /// When something is due, and what; `None` while requests are served, and where there is no limit.
    pub(super) fn next(&mut self, idle: bool, served: bool) -> Option<(Instant, Due)> {
        if !idle {
            self.since = None;
            self.parting = self.parting.map(|_| None);
            return None;
        }
        if let Some(until) = &mut self.parting {
            return Some((*until.get_or_insert_with(|| Instant::now() + FAREWELL), Due::End));
        }
        if !served {
            return self.first.map(|first| (first, Due::End));
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        self.idle.map(|limit| (since + limit, Due::Parting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_depends_on_what_was_served() {
        let (first, idle) = (Instant::now() + Duration::from_secs(9), Duration::from_secs(60));
        let mut waits = Waits::new(Some(first), Some(idle));
        assert_eq!(waits.next(true, false), Some((first, Due::End)));
        assert_eq!(waits.next(false, true), None);
        let parting = waits.next(true, true).unwrap();
        assert_eq!((parting.1, waits.next(true, true)), (Due::Parting, Some(parting)));
        assert_eq!(waits.next(false, true), None);
        assert!(waits.next(true, true).unwrap().0 >= parting.0);
        waits.part();
        let farewell = waits.next(true, true).unwrap();
        assert_eq!((farewell.1, waits.next(true, true)), (Due::End, Some(farewell)));
        assert_eq!(waits.next(false, true), None);
        assert!(waits.is_parting() && waits.next(true, true).unwrap().0 >= farewell.0);
        assert_eq!(Waits::new(None, None).next(true, false), None);
    }
}

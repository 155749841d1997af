//! What a connection waits for, and for how long.

use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::Instant;

/// A client that has said nothing for so long is asked whether it is there. No other frame may come between the
/// frames of one head, so this also ends a head that never does.
const PING_EVERY: Duration = Duration::from_secs(20);
/// And has so long to answer: what we have sent before may be on its way for a while.
const PING_WITHIN: Duration = Duration::from_secs(40);
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

/// Asks a silent client whether it is there.
pub(super) struct Pulse {
    pings: PingPong,
    heard: Instant,
    /// It is being asked since then.
    asked: Option<Instant>,
}

impl Pulse {
    /// Heard of just now.
    pub(super) fn new(pings: PingPong) -> Self {
        Self { pings, heard: Instant::now(), asked: None }
    }

    /// The client has said something.
    pub(super) const fn hear(&mut self, now: Instant) {
        self.heard = now;
    }

    /// When there is something to do.
    pub(super) fn next(&self) -> Instant {
        self.asked.map_or(self.heard + PING_EVERY, |asked| asked + PING_WITHIN)
    }

    /// Takes the client's word that it is there, if it comes.
    pub(super) fn look(&mut self, cx: &mut Context<'_>) {
        if self.asked.is_some() && matches!(self.pings.poll_pong(cx), Poll::Ready(Ok(_))) {
            self.asked = None;
            self.hear(Instant::now());
        }
    }

    /// Does what was due at [`Pulse::next`]; false when the client has not answered.
    pub(super) fn beat(&mut self) -> bool {
        if self.asked.is_some() {
            return false;
        }
        // An error: the connection ends.
        if self.pings.send_ping(Ping::opaque()).is_ok() {
            self.asked = Some(Instant::now());
        } else {
            self.hear(Instant::now());
        }
        true
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

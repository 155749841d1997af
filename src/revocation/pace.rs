//! How hard a snapshot may work: it has all the time in the world, and requests have not.

use std::time::{Duration, Instant};

/// Work without a rest: a small part of what the system gives a thread at a time, so that a request that waits for the
/// processor does not wait for long.
const WORK: Duration = Duration::from_micros(60);
/// Rests are so many times as long as the work before: a quarter of a core at most.
const REST: u32 = 3;

/// Long work in small pieces.
pub(super) struct Pace {
    since: Instant,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { since: Instant::now() }
    }

    /// Between two pieces of work: rests when it is time to.
    pub(super) fn rest(&mut self) {
        let worked = self.since.elapsed();
        if worked >= WORK {
            std::thread::sleep(worked * REST);
            self.since = Instant::now();
        }
    }
}

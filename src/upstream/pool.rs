//! The idle connections of one target: last in, first out, so that those in use stay warm and the surplus ages.
//!
//! A connection is looked at when it is taken, never trusted for having been put here. Ages are counted in ticks
//! of [`Pool::tick`], so the request path reads no clock; the lock is held for a push or a pop and never across
//! an await.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::wire::Wire;

/// The longest time between two ticks.
const TICK_MAX: Duration = Duration::from_secs(1);
/// The shortest.
const TICK_MIN: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Pool {
    stack: Mutex<Stack>,
    now: AtomicU32,
    keep_ticks: u32,
    max_idle: usize,
}

#[derive(Debug, Default)]
struct Stack {
    wires: Vec<Wire>,
    retired: bool,
}

/// How often [`Pool::tick`] is to be called for connections that stay idle at most `keep` (and one tick).
pub(super) fn tick_every(keep: Duration) -> Duration {
    (keep / 8).clamp(TICK_MIN, TICK_MAX)
}

/// [`tick_every`] of them for `keep`.
pub(super) fn keep_ticks(keep: Duration) -> u32 {
    let ticks = keep.as_nanos().div_ceil(tick_every(keep).as_nanos());
    u32::try_from(ticks).unwrap_or(u32::MAX)
}

impl Pool {
    /// At most `max_idle` connections, each for `keep`; without either, none are kept.
    pub(super) fn new(keep: Duration, max_idle: usize) -> Self {
        Self {
            stack: Mutex::default(),
            now: AtomicU32::new(0),
            keep_ticks: keep_ticks(keep),
            max_idle: if keep.is_zero() { 0 } else { max_idle },
        }
    }

    /// The connection put here last. Whether it is still open is found out by whoever uses it.
    pub(super) fn take(&self) -> Option<Wire> {
        self.stack().wires.pop()
    }

    /// Keeps a connection whose response has ended; closes it where there are enough.
    pub(super) fn put(&self, mut wire: Wire) {
        wire.rest_from(self.now.load(Ordering::Relaxed));
        let mut stack = self.stack();
        if !stack.retired && stack.wires.len() < self.max_idle {
            stack.wires.push(wire);
            return;
        }
        drop(stack);
        drop(wire);
    }

    /// One tick later: closes what has been idle for too long, and forgets what the other side closed.
    pub(super) fn tick(&self) {
        let now = self.now.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let mut stack = self.stack();
        stack
            .wires
            .retain_mut(|wire| now.wrapping_sub(wire.pooled_at()) <= self.keep_ticks && !wire.is_closed());
    }

    /// Connections that wait for a request.
    pub(super) fn idle(&self) -> usize {
        self.stack().wires.len()
    }

    /// Closes all idle connections, and from now on every one that comes back.
    pub(super) fn retire(&self) {
        let mut stack = self.stack();
        stack.retired = true;
        let wires = std::mem::take(&mut stack.wires);
        drop(stack);
        drop(wires);
    }

    fn stack(&self) -> MutexGuard<'_, Stack> {
        self.stack.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_time_is_never_cut_short_and_at_most_a_tick_too_long() {
        for millis in [1, 20, 100, 1_000, 60_000, 3_600_000] {
            let keep = Duration::from_millis(millis);
            let ticks = Pool::new(keep, 1).keep_ticks;
            assert!(tick_every(keep) * ticks >= keep, "{keep:?}");
            assert!(tick_every(keep) * ticks < keep + tick_every(keep), "{keep:?}");
        }
    }

    #[test]
    fn without_an_idle_time_nothing_is_kept() {
        assert_eq!(Pool::new(Duration::ZERO, 256).max_idle, 0);
    }
}

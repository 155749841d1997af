//! The idle connections of one target: last in, first out, so that those in use stay warm and the surplus ages.
//!
//! Each worker has a stack of its own, for a connection is woken by the reactor of the worker that opened it. One
//! that has none left takes one of another's, and the connection moves over to its reactor.
//!
//! A connection is looked at when it is taken, never trusted for having been put here. Ages are counted in ticks
//! of [`Pool::tick`], so the request path reads no clock; a lock is held for a push or a pop and never across
//! an await.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::names::Name;
use super::wire::Wire;
use crate::worker;

/// The longest time between two ticks.
const TICK_MAX: Duration = Duration::from_secs(1);
/// The shortest.
const TICK_MIN: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Pool {
    stacks: Box<[Stack]>,
    /// In all stacks together.
    idle: AtomicUsize,
    now: AtomicU32,
    keep_ticks: u32,
    max_idle: usize,
    /// By which the target is found: a connection to what it no longer leads to is not kept.
    name: Option<Arc<Name>>,
}

/// What one worker has; on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stack(Mutex<Wires>);

#[derive(Debug, Default)]
struct Wires {
    list: Vec<Wire>,
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
    /// At most `max_idle` connections, each for `keep`; without either, none are kept. For so many `workers`.
    pub(super) fn new(keep: Duration, max_idle: usize, workers: usize, name: Option<Arc<Name>>) -> Self {
        Self {
            stacks: (0..workers.max(1)).map(|_| Stack::default()).collect(),
            idle: AtomicUsize::new(0),
            now: AtomicU32::new(0),
            keep_ticks: keep_ticks(keep),
            max_idle: if keep.is_zero() { 0 } else { max_idle },
            name,
        }
    }

    /// The connection put here last, by this worker if there is one. Whether it is still open is found out by whoever
    /// uses it.
    pub(super) fn take(&self) -> Option<Wire> {
        let own = worker::index();
        if let Some(wire) = self.take_of(own) {
            return Some(wire);
        }
        // Before the locks of the others are touched.
        if self.idle.load(Ordering::Relaxed) == 0 {
            return None;
        }
        (1..self.stacks.len()).find_map(|step| self.take_of(own + step))?.moved_to(own)
    }

    fn take_of(&self, worker: usize) -> Option<Wire> {
        let wire = self.stack(worker).list.pop()?;
        self.idle.fetch_sub(1, Ordering::Relaxed);
        Some(wire)
    }

    /// Keeps a connection whose response has ended; closes it where there are enough.
    pub(super) fn put(&self, mut wire: Wire) {
        wire.rest_from(self.now.load(Ordering::Relaxed));
        let before = self.idle.fetch_add(1, Ordering::Relaxed);
        let mut stack = self.stack(wire.worker());
        // Looked up under the lock: either this sees that the address is gone, or `leave` sees the connection.
        if !stack.retired && before < self.max_idle && wire.leads_by(self.name.as_deref()) {
            stack.list.push(wire);
            return;
        }
        drop(stack);
        self.idle.fetch_sub(1, Ordering::Relaxed);
        drop(wire);
    }

    /// One tick later: closes what has been idle for too long, and forgets what the other side closed.
    pub(super) fn tick(&self) {
        let now = self.now.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        self.retain(|wire| now.wrapping_sub(wire.pooled_at()) <= self.keep_ticks && !wire.is_closed());
    }

    /// Closes those to addresses that the name no longer has.
    pub(super) fn leave(&self) {
        self.retain(|wire| wire.leads_by(self.name.as_deref()));
    }

    fn retain(&self, mut keep: impl FnMut(&mut Wire) -> bool) {
        for index in 0..self.stacks.len() {
            let mut stack = self.stack(index);
            let before = stack.list.len();
            stack.list.retain_mut(&mut keep);
            self.idle.fetch_sub(before - stack.list.len(), Ordering::Relaxed);
        }
    }

    /// Connections that wait for a request.
    pub(super) fn idle(&self) -> usize {
        (0..self.stacks.len()).map(|index| self.stack(index).list.len()).sum()
    }

    /// Closes all idle connections, and from now on every one that comes back.
    pub(super) fn retire(&self) {
        for index in 0..self.stacks.len() {
            let mut stack = self.stack(index);
            stack.retired = true;
            let wires = std::mem::take(&mut stack.list);
            drop(stack);
            self.idle.fetch_sub(wires.len(), Ordering::Relaxed);
            drop(wires);
        }
    }

    fn stack(&self, worker: usize) -> MutexGuard<'_, Wires> {
        self.stacks[worker % self.stacks.len()].0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_time_is_never_cut_short_and_at_most_a_tick_too_long() {
        for millis in [1, 20, 100, 1_000, 60_000, 3_600_000] {
            let keep = Duration::from_millis(millis);
            let ticks = Pool::new(keep, 1, 1, None).keep_ticks;
            assert!(tick_every(keep) * ticks >= keep, "{keep:?}");
            assert!(tick_every(keep) * ticks < keep + tick_every(keep), "{keep:?}");
        }
    }

    #[test]
    fn without_an_idle_time_nothing_is_kept() {
        assert_eq!(Pool::new(Duration::ZERO, 256, 1, None).max_idle, 0);
    }
}

//! Housekeeping of the log on a thread of its own: snapshots, the segments that they make superfluous, and the sweep
//! of expired entries.

use std::error::Error;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::files::{Name, segment_name, snapshot_name};
use super::load::Snapshot;
use super::shared::Shared;
use super::snapshot;
use super::{SnapshotError, SnapshotReport};
use crate::clock::UnixTime;
use crate::worker::{self, Pace};

/// Snapshots kept.
const GENERATIONS: usize = 2;
/// Between two rounds of housekeeping.
const ROUND: Duration = Duration::from_secs(1);
/// Rounds in which every shard is swept once.
const SWEEP_ROUNDS: usize = 120;
/// Between two attempts at a snapshot that failed.
const RETRY: Duration = Duration::from_secs(30);
/// An entry is kept for so long after its expiry, on top of the greatest leeway (CONTRACT §8).
const GRACE: Duration = Duration::from_secs(60);

/// Housekeeping has all the time in the world: a tenth of what a thread gets that serves requests.
const NICENESS: i32 = 10;

/// Its rests are so many times as long as its work: a fifth of a core at most.
pub(super) const REST: u32 = 4;

/// How long a snapshot waits for the audit trail to be on disk.
const TRAIL_PATIENCE: Duration = Duration::from_secs(1);

type Answer = oneshot::Sender<Result<SnapshotReport, Arc<SnapshotError>>>;

#[derive(Default)]
struct State {
    wanted: Vec<Answer>,
    closed: bool,
}

/// What the keeper is asked for.
#[derive(Default)]
pub(super) struct Orders {
    state: Mutex<State>,
    ready: Condvar,
}

impl Orders {
    /// Asks for a snapshot; `None` when closed.
    pub(super) fn snapshot(&self) -> Option<oneshot::Receiver<Result<SnapshotReport, Arc<SnapshotError>>>> {
        let (answer, answered) = oneshot::channel();
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        state.wanted.push(answer);
        drop(state);
        self.ready.notify_one();
        Some(answered)
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_all();
    }

    /// Who wants a snapshot, after at most a round; `None` when closed.
    fn wait(&self) -> Option<Vec<Answer>> {
        let idle = |state: &mut State| state.wanted.is_empty() && !state.closed;
        let (mut state, _) =
            self.ready.wait_timeout_while(self.lock(), ROUND, idle).unwrap_or_else(PoisonError::into_inner);
        if state.closed { None } else { Some(std::mem::take(&mut state.wanted)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    pub(super) orders: Arc<Orders>,
    pub(super) patience: Patience,
    pub(super) next_shard: usize,
    pub(super) last_attempt: Instant,
    pub(super) failed: bool,
}

impl Keeper {
    /// Works until closed.
    pub(super) fn run(mut self) {
        worker::give_way(NICENESS);
        while let Some(wanted) = self.orders.wait() {
            if !wanted.is_empty() || self.is_due() {
                let done = self.snapshot().map_err(Arc::new);
                if let Err(error) = &done {
                    tracing::error!(error = &**error as &dyn Error, "no snapshot was taken");
                }
                wanted.into_iter().for_each(|answer| drop(answer.send(done.clone())));
            }
            self.sweep();
        }
    }

    fn is_due(&self) -> bool {
        let (newest, appended_then) = {
            let snapshots = self.shared.snapshots();
            (snapshots.positions.last().copied().unwrap_or(0), snapshots.newest_appended)
        };
        if *self.shared.settled.borrow() <= newest {
            return false;
        }
        let since = self.last_attempt.elapsed();
        // What was appended since, and what an earlier process left to be replayed.
        let appended = self.shared.appended.load(Ordering::Relaxed).saturating_sub(appended_then);
        let left: u64 = self
            .shared
            .segments
            .list()
            .iter()
            .filter(|(first, _)| *first > newest)
            .map(|(_, bytes)| bytes)
            .sum();
        let bytes = appended.max(left);
        if self.failed {
            since >= RETRY
        } else {
            let pace = self.shared.pace();
            since >= pace.snapshot_every || bytes >= pace.snapshot_log_bytes
        }
    }

    /// Takes a snapshot, reads it back, and lets go of what it supersedes.
    pub(super) fn snapshot(&mut self) -> Result<SnapshotReport, SnapshotError> {
        self.last_attempt = Instant::now();
        self.failed = true;
        let shared = &self.shared;
        // Read before the copy begins. Everything up to it is applied, and cannot be lost from the log any more.
        let position = *shared.settled.borrow();
        let appended = shared.appended.load(Ordering::Relaxed);
        let place = *shared.place.lock().unwrap_or_else(PoisonError::into_inner);
        let now = shared.clock.now();
        let written =
            snapshot::write(&*shared.disk, &shared.blocklist, (position, place), now, shared.gateway)
                .map_err(SnapshotError::Io)?;
        let read = Snapshot::open(&*shared.disk, position)
            .and_then(|snapshot| snapshot.read(1, false).map(|_| snapshot.summary));
        let read_back = match read {
            Ok(summary) if summary == written => Ok(()),
            Ok(_) => Err(SnapshotError::Io(std::io::Error::other("another file was read back"))),
            Err(error) => Err(SnapshotError::ReadBack(Box::new(error))),
        };
        if let Err(error) = read_back {
            // Nothing older goes, so that a start can pass it over; better still if it need not.
            let _ = shared.disk.remove(&snapshot_name(position));
            shared.snapshots().positions.retain(|other| *other != position);
            return Err(error);
        }
        {
            let mut snapshots = shared.snapshots();
            snapshots.positions.retain(|other| *other != position);
            snapshots.positions.push(position);
            snapshots.newest_at = Some(now);
            snapshots.newest_bytes = written.bytes;
            snapshots.newest_appended = appended;
        }
        let segments_removed = self.let_go();
        self.failed = false;
        let entries = written.tokens + written.sessions + written.cutoffs;
        Ok(SnapshotReport { sequence: position, entries, bytes: written.bytes, segments_removed })
    }

    /// Removes snapshots older than the two newest whole ones, and segments that neither these, nor the audit trail, nor
    /// whoever tells others need. The oldest go first, so that what a crash leaves has no hole. What cannot be removed is tried again
    /// next time.
    fn let_go(&self) -> usize {
        let shared = &self.shared;
        let mut pace = Pace::new(REST);
        let mut remove = |name: &str| shared.disk.remove_by_pieces(name, &mut || pace.rest());
        let kept = {
            let mut snapshots = shared.snapshots();
            let surplus = snapshots.positions.len().saturating_sub(GENERATIONS);
            snapshots.positions.drain(..surplus);
            snapshots.positions.clone()
        };
        for (name, _) in shared.disk.list().unwrap_or_default() {
            if matches!(Name::parse(&name), Some(Name::Snapshot(position)) if !kept.contains(&position)) {
                let _ = remove(&name);
            }
        }
        let by_snapshots = if kept.len() < GENERATIONS { 0 } else { kept[0] };
        let told = shared.told_position.load(Ordering::SeqCst);
        let needed_after = by_snapshots.min(self.trail_durable()).min(told);
        let segments = shared.segments.list();
        let mut removed = 0;
        for pair in segments.windows(2) {
            let ((first, _), (next, _)) = (pair[0], pair[1]);
            // All that it holds is below `next`.
            if next > needed_after + 1 || remove(&segment_name(first)).is_err() {
                break;
            }
            shared.segments.forget(first);
            removed += 1;
        }
        if let Err(error) = shared.disk.sync_dir() {
            tracing::warn!(
                error = &error as &dyn Error,
                "removed files of the log may come back after a power cut"
            );
        }
        removed
    }

    /// What the audit trail cannot lose any more; has it sync what it has been fed, and waits a little for that.
    fn trail_durable(&self) -> u64 {
        let since = Instant::now();
        let shared = &self.shared;
        loop {
            let durable = shared.trail_durable.load(Ordering::SeqCst);
            let is_all = durable >= shared.trail_position.load(Ordering::SeqCst);
            // What is not durable now will be at the next snapshot.
            if is_all || since.elapsed() >= TRAIL_PATIENCE || shared.closed.load(Ordering::SeqCst) {
                return durable;
            }
            shared.trail_sync.notify_one();
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Drops expired entries from the next few shards.
    fn sweep(&mut self) {
        let before = self.patience.now(self.shared.clock.now(), Instant::now());
        let before = before.minus(self.shared.pace().leeway_max).minus(GRACE);
        let shards = self.shared.blocklist.shards();
        let mut pace = Pace::new(REST);
        for _ in 0..shards.div_ceil(SWEEP_ROUNDS) {
            self.shared.blocklist.sweep(self.next_shard, before, || pace.rest());
            self.next_shard = (self.next_shard + 1) % shards;
        }
    }
}

/// The time as believed by the sweep. A clock that leaps ahead, and back when the mistake is found, would have
/// every entry dropped in between while their tokens are good again; so the believed time follows a leap no faster
/// than a minute a second, and a clock that goes back at once.
pub(super) struct Patience {
    believed: UnixTime,
    at: Instant,
}

impl Patience {
    const SPEED: u32 = 60;

    /// Begins at the last time that is known to have been.
    pub(super) const fn new(known: UnixTime, at: Instant) -> Self {
        Self { believed: known, at }
    }

    pub(super) fn now(&mut self, wall: UnixTime, at: Instant) -> UnixTime {
        let passed = at.saturating_duration_since(self.at);
        let reachable = self.believed.plus(passed.saturating_mul(Self::SPEED));
        self.believed = wall.min(reachable);
        self.at = at;
        self.believed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_leaps_ahead_is_believed_slowly_and_one_that_goes_back_at_once() {
        let start = Instant::now();
        let noon = UnixTime::from_secs(1_795_000_000);
        let mut patience = Patience::new(noon, start);
        let year = Duration::from_secs(365 * 24 * 3600);
        let second = Duration::from_secs(1);
        assert_eq!(patience.now(noon.plus(second), start + second), noon.plus(second));
        let ahead = patience.now(noon.plus(year), start + 2 * second);
        assert_eq!(ahead, noon.plus(second).plus(Duration::from_secs(60)));
        assert_eq!(patience.now(noon.plus(3 * second), start + 3 * second), noon.plus(3 * second));
    }
}

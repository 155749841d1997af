//! The life of a revocation: append, sync, apply to every projection, acknowledge.
//!
//! One plain thread does it, for one group after another. While the disk syncs one group the next one gathers, so
//! the more there is to do, the more each sync carries.

use std::any::Any;
use std::collections::VecDeque;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::bulk::Spool;
use super::log::Log;
use super::queue::{Batch, Command, Drained, Queue};
use super::record::Origin;
use super::settings::Fsync;
use super::shared::{Applied, Shared};
use super::{Ack, AppendError, Health, Projection, Revocation};

/// A log that cannot be written is tried again after this.
const PROBE_EVERY: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 1000 });
/// A log that has been idle for so long says what is durable.
const NOTE_AFTER: Duration = Duration::from_millis(250);
/// What nobody waits for is on disk after this at the latest.
const LAZY_SYNC_AFTER: Duration = Duration::from_millis(20);
/// With `fsync` as an interval, this much unsynced is synced at once.
const UNSYNCED_BYTES_MAX: usize = 8 << 20;

type Answer = oneshot::Sender<Result<Ack, AppendError>>;

/// A batch on its way through one group.
struct Passenger {
    first: u64,
    batch: Batch,
    answer: Answer,
    permit: OwnedSemaphorePermit,
}

pub(super) struct Writer {
    pub(super) log: Log,
    pub(super) shared: Arc<Shared>,
    pub(super) queue: Arc<Queue>,
    pub(super) projections: Vec<Box<dyn Projection>>,
    pub(super) on_fsync: Box<dyn FnMut(Duration) + Send>,
    pub(super) last_sync: Instant,
    pub(super) last_failure: Option<Instant>,
}

impl Writer {
    /// Works until the queue is closed and empty. A panic here ends the process: what is in the log may not be in
    /// force then, and the next start puts it in force.
    pub(super) fn run(mut self, lock: Box<dyn Any + Send + Sync>) {
        let _abort = AbortOnPanic;
        loop {
            match self.queue.drain(self.patience()) {
                Drained::Some(commands) => self.work(commands),
                Drained::Nothing => self.idle(),
                Drained::Closed => break,
            }
        }
        if let Err(error) = self.log.close() {
            tracing::error!(error = &error as &dyn Error, "the revocation log could not be closed");
        }
        self.publish();
        self.shared.closed.store(true, Ordering::SeqCst);
        self.shared.settled.send_modify(|_| {});
        self.shared.trail_hurry.notify_one();
        drop(lock);
    }

    pub(super) fn work(&mut self, mut commands: VecDeque<Command>) {
        while !commands.is_empty() {
            let mut group = Vec::new();
            while let Some(Command::Append(..)) = commands.front() {
                if let Some(Command::Append(batch, answer, permit)) = commands.pop_front() {
                    group.push((batch, answer, permit));
                }
            }
            if !group.is_empty() {
                self.group(group);
            }
            if let Some(Command::Bulk(spool, answer)) = commands.pop_front() {
                self.bulk(spool, answer);
            }
        }
    }

    /// The story: many batches, one write, one sync.
    fn group(&mut self, group: Vec<(Batch, Answer, OwnedSemaphorePermit)>) {
        if self.is_resting() {
            return group.into_iter().for_each(|(_, answer, _)| refuse(answer));
        }
        let mut aboard = Vec::with_capacity(group.len());
        let awaited = group.iter().any(|(batch, ..)| !batch.lazy);
        for (mut batch, answer, permit) in group {
            let first = self.log.stage(std::mem::take(&mut batch.chunks));
            aboard.push(Passenger { first, batch, answer, permit });
        }
        let unsynced = self.log.unsynced_bytes();
        let sync = (self.shared.pace().fsync == Fsync::Always && awaited)
            || unsynced >= UNSYNCED_BYTES_MAX
            || self.interval_is_over();
        let durable = self.log.durable();
        let written = self.log.commit(sync);
        self.took_note_of(&written, durable);
        if written.is_err() {
            return aboard.into_iter().for_each(|passenger| refuse(passenger.answer));
        }
        let mut answers = Vec::with_capacity(aboard.len());
        for Passenger { first, batch, answer, permit } in aboard {
            let accepted = batch.entries.len();
            answers.push((answer, Ack { sequence: first + accepted as u64 - 1, accepted }, permit));
            self.apply(first, batch.keys.into_iter(), batch.entries, batch.origins);
        }
        self.publish();
        for (answer, ack, _permit) in answers {
            let _ = answer.send(Ok(ack));
        }
    }

    /// The same for one batch that is too large for memory.
    fn bulk(&mut self, spool: Spool, answer: Answer) {
        if self.is_resting() {
            return refuse(answer);
        }
        let durable = self.log.durable();
        let written = self.log.append_large(spool.len(), |index| spool.chunk(index));
        let outcome = written.as_ref().map(|_| ()).map_err(|error| io::Error::from(error.kind()));
        self.took_note_of(&outcome, durable);
        let Ok(first) = written else { return refuse(answer) };
        let mut next = first;
        for index in 0..spool.len() {
            // It is in the log, so it must be in force; should it not be readable any more, the next start will.
            let (keys, entries) = spool.read_entries(index).expect("read and checked a moment ago");
            let count = entries.len() as u64;
            self.apply(next, keys.into_iter(), entries, Vec::new());
            next += count;
        }
        self.publish();
        let accepted = spool.entries;
        drop(spool);
        let _ = answer.send(Ok(Ack { sequence: next - 1, accepted }));
        let durable = self.log.durable();
        let rotated = self.log.rotate();
        self.took_note_of(&rotated, durable);
    }

    /// Puts entries in force: first the blocklist, then whoever cuts what is live, so that a stream that registers
    /// and then looks the blocklist up is either seen by the one or sees the other.
    fn apply(
        &mut self,
        first: u64,
        keys: impl Iterator<Item = super::SelectorKey>,
        entries: Vec<Revocation>,
        origins: Vec<Origin>,
    ) {
        for (key, entry) in keys.zip(&entries) {
            self.shared.blocklist.apply(key, entry);
        }
        for projection in &mut self.projections {
            projection.applied(first, &entries);
        }
        self.shared.remember(Applied { first, entries: Arc::new(entries), origins: origins.into() });
    }

    /// Nothing to do for a while: what the time asks for.
    pub(super) fn idle(&mut self) {
        let durable = self.log.durable();
        let done = if self.log.is_whole() {
            let synced = if self.interval_is_over() { self.log.sync() } else { Ok(()) };
            synced.and_then(|()| if self.log.wants_note() { self.log.note() } else { Ok(()) })
        } else if self.is_resting() {
            return;
        } else {
            self.log.mend()
        };
        self.took_note_of(&done, durable);
        self.publish();
    }

    /// How long the queue may be waited for.
    fn patience(&self) -> Duration {
        match (self.log.is_whole(), self.shared.pace().fsync) {
            (false, _) => PROBE_EVERY,
            (true, _) if self.log.unsynced_bytes() > 0 => {
                self.interval().saturating_sub(self.last_sync.elapsed())
            }
            (true, _) if self.log.wants_note() => NOTE_AFTER,
            (true, _) => Duration::from_secs(60),
        }
    }

    fn interval_is_over(&self) -> bool {
        self.log.unsynced_bytes() > 0 && self.last_sync.elapsed() >= self.interval()
    }

    /// Between two syncs of what nobody waits for, or of what a reload found unsynced.
    fn interval(&self) -> Duration {
        match self.shared.pace().fsync {
            Fsync::Always => LAZY_SYNC_AFTER,
            Fsync::Every(interval) => interval,
        }
    }

    /// Broken, and tried only a moment ago: nobody is made to wait for a failing disk.
    fn is_resting(&self) -> bool {
        !self.log.is_whole() && self.last_failure.is_some_and(|at| at.elapsed() < PROBE_EVERY)
    }

    /// Keeps the health, and tells how long a sync took if there was one.
    fn took_note_of(&mut self, done: &io::Result<()>, durable_before: u64) {
        match done {
            Ok(()) => {
                if self.last_failure.take().is_some() {
                    self.shared.set_health(Health::Ready);
                    tracing::info!("the revocation log can be written again");
                }
                if self.log.durable() != durable_before {
                    self.last_sync = Instant::now();
                    let took = self.log.last_sync();
                    (self.on_fsync)(took);
                    let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
                    self.shared.last_sync_nanos.store(nanos, Ordering::Relaxed);
                    self.shared.syncs.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(error) => {
                if self.last_failure.is_none() {
                    let since = self.shared.clock.now();
                    self.shared.set_health(Health::LogUnavailable { since, why: error.to_string() });
                    let error: &dyn Error = error;
                    tracing::error!(
                        error,
                        "the revocation log cannot be written; revocations are refused until it can"
                    );
                }
                self.last_failure = Some(Instant::now());
            }
        }
    }

    fn publish(&self) {
        self.shared.durable.store(self.log.durable(), Ordering::SeqCst);
        self.shared.appended.store(self.log.appended(), Ordering::Relaxed);
        if self.shared.applied.load(Ordering::SeqCst) != self.log.next() - 1 {
            self.shared.set_applied(self.log.next() - 1);
        }
        self.shared.settle();
    }
}

fn refuse(answer: Answer) {
    let _ = answer.send(Err(AppendError::LogUnavailable));
}

struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("the writer of the revocation log failed; the process ends");
            std::process::abort();
        }
    }
}

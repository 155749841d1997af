//! What the rest of the gateway holds of the log.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::bulk::Bulk;
use super::disk::Disk;
use super::keeper::Orders;
use super::queue::{Batch, Command, Queue};
use super::settings::Settings;
use super::shared::{Pace, Shared};
use super::{AppendError, Blocklist, Follower, GatewayId, Revocation, SnapshotError};
use crate::clock::UnixTime;

/// What a projection of the log is told, on the writer's thread, in the order of the log, after the blocklist and
/// before the acknowledgement. It must be quick and must not wait: the next group waits for it.
pub trait Projection: Send {
    /// These entries are in force; the first one has this sequence, the others follow it.
    fn applied(&mut self, sequence: u64, entries: &[Revocation]);
}

/// A batch is on disk, by the policy of `fsync`, and in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The sequence of its last entry.
    pub sequence: u64,
    /// How many entries it had.
    pub accepted: usize,
}

/// How the log does, for `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It can be written.
    Ready,
    /// It cannot; what is in force stays so, and it is tried again every second.
    LogUnavailable {
        /// Since when.
        since: UnixTime,
        /// The words of the file system.
        why: String,
    },
    /// It was closed.
    Closed,
}

/// A snapshot that was taken, synced and read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotReport {
    /// Replay would go on behind this sequence.
    pub sequence: u64,
    /// Entries in it.
    pub entries: u64,
    /// Bytes of it.
    pub bytes: u64,
    /// Segments that went because of it.
    pub segments_removed: usize,
}

/// The log in numbers, for metrics and `/admin/stats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// The last sequence in force.
    pub sequence: u64,
    /// When it came in force.
    pub applied_at: UnixTime,
    /// The last sequence on disk.
    pub durable: u64,
    /// What the audit trail has.
    pub trail_position: u64,
    /// Segments on disk.
    pub segments: usize,
    /// Their bytes.
    pub segment_bytes: u64,
    /// Syncs since the start.
    pub fsyncs: u64,
    /// How long the last one took.
    pub last_fsync: Duration,
    /// Whole snapshots on disk.
    pub snapshots: usize,
    /// Where the newest one stands.
    pub snapshot_sequence: u64,
    /// When it was taken.
    pub snapshot_at: Option<UnixTime>,
    /// Its bytes.
    pub snapshot_bytes: u64,
}

pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: Arc<Queue>,
    pub(super) orders: Arc<Orders>,
    pub(super) ended: watch::Receiver<usize>,
    pub(super) threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The number of threads of an open log.
pub(super) const THREADS: usize = 2;

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue.close();
        self.orders.close();
    }
}

/// The open log. Clones are the same log; when the last one is dropped, it closes by itself.
#[derive(Clone)]
pub struct Handle(pub(super) Arc<Inner>);

impl Handle {
    /// Makes a batch durable and puts it in force, all of it or nothing. It may have up to some ten thousand
    /// entries; [`Handle::bulk`] takes more. Needs a tokio runtime with time. If the future is dropped, the batch
    /// may or may not have its effect.
    ///
    /// # Errors
    /// [`AppendError::Invalid`] names the item; [`AppendError::Overloaded`] after five seconds of a full queue;
    /// [`AppendError::LogUnavailable`] when the disk fails; nothing is in force then.
    pub async fn append(&self, revocations: Vec<Revocation>) -> Result<Ack, AppendError> {
        if revocations.is_empty() {
            return Ok(Ack { sequence: self.sequence(), accepted: 0 });
        }
        let batch = Batch::prepare(revocations)?;
        let permit = self.0.queue.room(&batch).await?;
        let (answer, answered) = oneshot::channel();
        self.0.queue.put(Command::Append(batch, answer, permit))?;
        answered.await.unwrap_or(Err(AppendError::Closed))
    }

    /// Begins a batch of any size, which comes in pieces.
    ///
    /// # Errors
    /// [`AppendError::Overloaded`] when four of them are under way; [`AppendError::LogUnavailable`] when its file
    /// cannot be made.
    pub fn bulk(&self) -> Result<Bulk, AppendError> {
        let permit =
            Arc::clone(&self.0.shared.bulks).try_acquire_owned().map_err(|_| AppendError::Overloaded)?;
        Bulk::begin(self.clone(), permit).map_err(|_| AppendError::LogUnavailable)
    }

    /// The last sequence in force.
    pub fn sequence(&self) -> u64 {
        self.0.shared.applied.load(Ordering::SeqCst)
    }

    /// Goes on with other settings: `fsync`, when snapshots are taken, and the greatest leeway of all issuers. The
    /// others are those that it was opened with.
    pub fn adjust(&self, settings: &Settings, leeway_max: Duration) {
        self.0.shared.pace.store(Arc::new(Pace::of(settings, leeway_max)));
    }

    /// Puts in force here what another process has put into the log that was closed here, and goes on with.
    pub fn learn(&self, entries: &[Revocation]) {
        entries.iter().for_each(|entry| self.blocklist().apply(entry.selector.key(), entry));
    }

    /// The id of this gateway.
    pub fn gateway(&self) -> GatewayId {
        self.0.shared.gateway
    }

    /// What requests are checked against.
    pub fn blocklist(&self) -> &Arc<Blocklist> {
        &self.0.shared.blocklist
    }

    /// How the log does.
    pub fn health(&self) -> Health {
        if *self.0.ended.borrow() > 0 { Health::Closed } else { self.0.shared.health() }
    }

    /// The log in numbers. Takes two short locks.
    pub fn stats(&self) -> Stats {
        let shared = &self.0.shared;
        let segments = shared.segments.list();
        let snapshots = shared.snapshots().clone();
        Stats {
            sequence: self.sequence(),
            applied_at: UnixTime::from_millis(shared.applied_at.load(Ordering::Relaxed)),
            durable: shared.durable.load(Ordering::SeqCst),
            trail_position: shared.trail_position.load(Ordering::SeqCst),
            segments: segments.len(),
            segment_bytes: segments.iter().map(|(_, bytes)| bytes).sum(),
            fsyncs: shared.syncs.load(Ordering::Relaxed),
            last_fsync: Duration::from_nanos(shared.last_sync_nanos.load(Ordering::Relaxed)),
            snapshots: snapshots.positions.len(),
            snapshot_sequence: snapshots.positions.last().copied().unwrap_or(0),
            snapshot_at: snapshots.newest_at,
            snapshot_bytes: snapshots.newest_bytes,
        }
    }

    /// Takes a snapshot now and waits for it; several who ask at once get one. If the future is dropped, it is
    /// taken all the same.
    ///
    /// # Errors
    /// When it could not be written or read back; the older ones stay.
    pub async fn snapshot(&self) -> Result<SnapshotReport, Arc<SnapshotError>> {
        let answered = self.0.orders.snapshot().ok_or_else(|| Arc::new(SnapshotError::Closed))?;
        answered.await.unwrap_or_else(|_| Err(Arc::new(SnapshotError::Closed)))
    }

    /// Follows the log from behind `position`: entries that are in force and on disk, in order.
    pub fn follow(&self, position: u64) -> Follower {
        Follower::new(Arc::clone(&self.0.shared), position)
    }

    /// Waits until the audit trail has everything up to `sequence`. Needs [`super::audit::project`] to run.
    pub async fn trail_has(&self, sequence: u64) {
        super::audit::wait_for(&self.0.shared, sequence).await;
    }

    /// Closes the log: what waits is still done, everything is synced, the lock is given back. Returns when that
    /// is done.
    pub async fn close(&self) {
        self.0.queue.close();
        self.0.orders.close();
        let mut ended = self.0.ended.clone();
        let _ = ended.wait_for(|threads| *threads == THREADS).await;
        let threads = std::mem::take(&mut *self.0.threads.lock().unwrap_or_else(PoisonError::into_inner));
        // They have said that they are done; nothing is left to wait for.
        threads.into_iter().for_each(|thread| drop(thread.join()));
        self.0.shared.set_health(Health::Closed);
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    pub(super) fn disk(&self) -> &Arc<dyn Disk> {
        &self.0.shared.disk
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.0.queue
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("sequence", &self.sequence()).field("health", &self.health()).finish()
    }
}

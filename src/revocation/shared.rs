//! What the threads of the log have in common: how far it is, how it does, and what is known of its files.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, Semaphore, watch};

use super::blocklist::Blocklist;
use super::disk::Disk;
use super::log::Segments;
use super::loss::Loss;
use super::record::{GatewayId, Origin, Place};
use super::settings::{Fsync, Settings};
use super::{Health, Revocation};
use crate::clock::{Clock, UnixTime};

/// Entries kept in memory for those who follow the log closely.
const RING_ENTRIES: usize = 16 << 10;
/// Batches that may be spooled at once.
const BULKS: usize = 4;

/// A batch as it was applied.
#[derive(Clone)]
pub(super) struct Applied {
    pub(super) first: u64,
    pub(super) entries: Arc<Vec<Revocation>>,
    /// Empty: all of them were made here.
    pub(super) origins: Arc<[Origin]>,
}

/// The newest batches.
#[derive(Default)]
pub(super) struct Ring {
    pub(super) batches: VecDeque<Applied>,
    entries: usize,
}

impl Ring {
    fn push(&mut self, applied: Applied) {
        self.entries += applied.entries.len();
        self.batches.push_back(applied);
        while self.entries > RING_ENTRIES {
            match self.batches.pop_front() {
                Some(oldest) => self.entries -= oldest.entries.len(),
                None => break,
            }
        }
    }
}

/// The snapshots that are whole, oldest first, and when the newest was taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshots {
    pub(super) positions: Vec<u64>,
    pub(super) newest_at: Option<UnixTime>,
    pub(super) newest_bytes: u64,
    /// Bytes that the log had been given when it was taken.
    pub(super) newest_appended: u64,
}

/// What of the settings may change while the log is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    pub(super) fsync: Fsync,
    pub(super) snapshot_every: Duration,
    pub(super) snapshot_log_bytes: u64,
    pub(super) leeway_max: Duration,
}

impl Pace {
    pub(super) const fn of(settings: &Settings, leeway_max: Duration) -> Self {
        let Settings { fsync, snapshot_every, snapshot_log_bytes, .. } = settings;
        Self {
            fsync: *fsync,
            snapshot_every: *snapshot_every,
            snapshot_log_bytes: *snapshot_log_bytes,
            leeway_max,
        }
    }
}

pub(super) struct Shared {
    pub(super) pace: ArcSwap<Pace>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) gateway: GatewayId,
    pub(super) blocklist: Arc<Blocklist>,
    pub(super) segments: Arc<Segments>,
    pub(super) bulks: Arc<Semaphore>,
    /// The last sequence in force, and when that was.
    pub(super) applied: AtomicU64,
    pub(super) applied_at: AtomicU64,
    pub(super) durable: AtomicU64,
    pub(super) appended: AtomicU64,
    pub(super) last_sync_nanos: AtomicU64,
    pub(super) syncs: AtomicU64,
    /// The last sequence that is both in force and on disk: what projections with a memory of their own may see,
    /// since it can no longer be lost.
    pub(super) settled: watch::Sender<u64>,
    /// What the audit trail has.
    pub(super) trail_position: AtomicU64,
    /// What of it no power cut can take back; segments behind it are kept.
    pub(super) trail_durable: AtomicU64,
    /// Somebody waits for the trail to have what is in the log.
    pub(super) trail_hurry: Notify,
    /// Somebody waits for what the trail has to be durable.
    pub(super) trail_sync: Notify,
    /// What others wait to be told of from the log; segments behind it are kept.
    pub(super) told_position: AtomicU64,
    /// How much of the log that gateways share is in force here.
    pub(super) place: Mutex<Option<Place>>,
    /// Where the log began, or began again after a loss, if that is still there; what stands before it is not followed.
    pub(super) genesis: AtomicU64,
    /// The last loss of this log whose cutoffs are not everybody's.
    pub(super) loss: Mutex<Option<Loss>>,
    /// The writer is done; nothing will follow.
    pub(super) closed: AtomicBool,
    health: Mutex<Health>,
    ring: Mutex<Ring>,
    snapshots: Mutex<Snapshots>,
}

impl Shared {
    pub(super) fn new(
        pace: Pace,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        gateway: GatewayId,
        blocklist: Arc<Blocklist>,
        segments: Arc<Segments>,
        (sequence, snapshots): (u64, Snapshots),
    ) -> Self {
        let applied_at = AtomicU64::new(clock.now().millis());
        Self {
            pace: ArcSwap::from_pointee(pace),
            disk,
            clock,
            gateway,
            blocklist,
            segments,
            bulks: Arc::new(Semaphore::new(BULKS)),
            applied: AtomicU64::new(sequence),
            applied_at,
            durable: AtomicU64::new(sequence),
            appended: AtomicU64::new(0),
            last_sync_nanos: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            settled: watch::Sender::new(sequence),
            trail_position: AtomicU64::new(0),
            trail_durable: AtomicU64::new(0),
            trail_hurry: Notify::new(),
            trail_sync: Notify::new(),
            told_position: AtomicU64::new(u64::MAX),
            place: Mutex::default(),
            genesis: AtomicU64::new(0),
            loss: Mutex::default(),
            closed: AtomicBool::new(false),
            health: Mutex::new(Health::Ready),
            ring: Mutex::default(),
            snapshots: Mutex::new(snapshots),
        }
    }

    pub(super) fn pace(&self) -> Pace {
        **self.pace.load()
    }

    pub(super) fn health(&self) -> Health {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_health(&self, health: Health) {
        *self.health.lock().unwrap_or_else(PoisonError::into_inner) = health;
    }

    /// Keeps a batch for those who follow closely. Before the watermark moves over it.
    pub(super) fn remember(&self, applied: Applied) {
        self.ring().push(applied);
    }

    pub(super) fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn snapshots(&self) -> MutexGuard<'_, Snapshots> {
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_applied(&self, sequence: u64) {
        self.applied.store(sequence, Ordering::SeqCst);
        self.applied_at.store(self.clock.now().millis(), Ordering::Relaxed);
    }

    /// Tells those who wait how far the log is, on disk and in force.
    pub(super) fn settle(&self) {
        let settled = self.applied.load(Ordering::SeqCst).min(self.durable.load(Ordering::SeqCst));
        self.settled.send_if_modified(|before| std::mem::replace(before, settled) != settled);
    }
}

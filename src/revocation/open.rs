//! Opening the log: lock, check, recover, make what was recovered durable again, and start its threads.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::blocklist::Blocklist;
use super::disk::Disk;
use super::error::OpenError;
use super::files::{IDENTITY_NAME, segment_name, unfinished};
use super::handle::{Handle, Inner, Projection};
use super::keeper::{Keeper, Orders, Patience};
use super::log::{Chunk, Log, Resume, Segments};
use super::loss::{self, Loss};
use super::queue::Queue;
use super::record::{GatewayId, Origin, SEGMENT_HEAD_BYTES, encode_entry, random};
use super::recovery::{self, Recovered, recover};
use super::settings::{OnLostState, Settings};
use super::shared::{Pace, Shared, Snapshots};
use super::writer::Writer;
use super::{Counts, Damage, Revocation};
use crate::clock::{Clock, UnixTime};

/// After a loss the log goes on so far behind what was seen of it: what was acknowledged but not seen by the store
/// must not share its sequences with anything new.
const SEQUENCES_SKIPPED: u64 = 1 << 20;
/// What a cutoff that was made because the log was lost has for a reason.
pub const LOST_REASON: &str = "the revocation log was lost";
const SEGMENT_BYTES_LEAST: u64 = 1 << 20;
const SEGMENT_BYTES_MOST: u64 = 64 << 20;

/// An issuer, as far as a loss of the log concerns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerTerm {
    /// Its name in the configuration (`self` for the gateway's own).
    pub name: Box<str>,
    /// The longest time that a token of it can be good for, refresh tokens included.
    pub lifetime_max: Duration,
}

/// What the log needs to be opened.
pub struct Opening<'a> {
    /// Of `[revocation]`; the directory is the disk's.
    pub settings: &'a Settings,
    /// The state directory.
    pub disk: Arc<dyn Disk>,
    /// For times of snapshots and for sweeps.
    pub clock: Arc<dyn Clock>,
    /// Told of every entry that comes in force from now on; not of those replayed.
    pub projections: Vec<Box<dyn Projection>>,
    /// Told how long each sync took, on the writer's thread.
    pub on_fsync: Box<dyn FnMut(Duration) + Send>,
    /// The greatest leeway of all issuers: entries are kept so much longer.
    pub leeway_max: Duration,
    /// The last sequence of this log that the store or the fleet has seen; 0 when none. If the log ends before it,
    /// it was lost or is an old copy, and `on_lost_state` decides.
    pub seen: u64,
    /// The store or the fleet has met a gateway of this state directory: if there is no log at all, it was lost, even
    /// where nothing of it was seen.
    pub known: bool,
    /// The id that a directory without one gets, where the store belongs to one gateway; `None`: a new one.
    pub gateway: Option<GatewayId>,
    /// All issuers, for `on_lost_state = "cutoff"`.
    pub issuers: Vec<IssuerTerm>,
}

#[cfg(test)]
impl<'a> Opening<'a> {
    /// A log in `dir` that belongs to nobody, for tests of other rooms. `dir` gets the mode that it must have.
    pub(crate) fn for_test(settings: &'a Settings, dir: &std::path::Path) -> Self {
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        Self {
            settings,
            disk: Arc::new(super::RealDisk::at(dir).unwrap()),
            clock: Arc::new(crate::clock::SystemClock),
            projections: Vec::new(),
            on_fsync: Box::new(|_| {}),
            leeway_max: Duration::ZERO,
            seen: 0,
            known: false,
            gateway: None,
            issuers: Vec::new(),
        }
    }
}

/// What was found when the log was opened.
#[derive(Clone, Debug)]
pub struct Report {
    /// The id of this gateway.
    pub gateway: GatewayId,
    /// The last sequence.
    pub sequence: u64,
    /// The snapshot that was loaded, by the sequence it stands at.
    pub snapshot: Option<u64>,
    /// Records replayed on top of it.
    pub replayed: u64,
    /// Entries in force.
    pub counts: Counts,
    /// Damaged snapshots that an older one and its log made up for.
    pub passed_over: Vec<Damage>,
    /// The torn end of the log that was cut off: where it began, and how many bytes it had.
    pub torn: Option<(Damage, u64)>,
    /// The log was lost, or older than what was seen of it; what was done about it.
    pub lost: Option<OnLostState>,
    /// How long it took.
    pub took: Duration,
}

/// Opens the log of a state directory, or begins one: afterwards every acknowledged revocation is in force.
///
/// Blocks for as long as it takes to read snapshot and log. Everything worth a warning is logged, and in the report.
///
/// # Errors
/// When the directory is in use, can be used by others, was written by a newer program, or when an acknowledged
/// revocation may be lost.
pub fn open(opening: Opening<'_>) -> Result<(Handle, Arc<Blocklist>, Report), OpenError> {
    let start = Instant::now();
    let Opening { settings, disk, clock, projections, on_fsync, leeway_max, seen, known, gateway, issuers } =
        opening;
    let locking = OpenError::io(format!("lock {}", disk.place().display()));
    let lock = disk.lock().map_err(locking)?;
    let lock = lock.ok_or_else(|| OpenError::Locked { place: disk.place().to_owned() })?;
    refuse_exposed(&*disk)?;

    let recovered = recover(&*disk)?;
    let torn = warn_about(&*disk, &recovered);
    let lost = loss(&*disk, &recovered, seen, known, settings.on_lost_state)?;
    let gateway = match recovered.gateway.or(gateway) {
        Some(gateway) => gateway,
        None => GatewayId(random().map_err(OpenError::io("get random bytes"))?),
    };
    // Nothing that an earlier process left unsynced can be trusted to be on disk, not even if it can be read.
    let failed = || OpenError::io(format!("write to {}", disk.place().display()));
    renew(&*disk, &recovered).map_err(failed())?;

    let segments = Arc::new(Segments::default());
    recovered.segments.iter().for_each(|(first, bytes)| segments.set(*first, *bytes));
    let begins = recovered.segments.is_empty() || lost.is_some();
    let now = clock.now();
    if lost == Some(OnLostState::Cutoff) {
        // Before there is a log whose cutoffs nobody could tell from others.
        loss::loss_of(seen, now).remember(&*disk).map_err(failed())?;
    }
    let last = if lost.is_some() { seen.max(recovered.last) + SEQUENCES_SKIPPED } else { recovered.last };
    let genesis = if begins { last + 1 } else { recovered.genesis };
    let resume = Resume {
        gateway,
        genesis,
        last,
        segment_bytes_full: (settings.snapshot_log_bytes / 4).clamp(SEGMENT_BYTES_LEAST, SEGMENT_BYTES_MOST),
    };
    let mut log = Log::begin(Arc::clone(&disk), Arc::clone(&segments), resume).map_err(failed())?;
    if !recovered.identified {
        write_identity(&*disk, gateway).map_err(failed())?;
    }
    if lost == Some(OnLostState::Cutoff) {
        begin_with(&mut log, &recovered.blocklist, &loss::cutoffs(&issuers, now)).map_err(failed())?;
    }

    let remembered = Loss::recall(&*disk).map_err(failed())?;
    let known = if recovered.newest == UnixTime::ZERO { now } else { recovered.newest };
    let snapshots = Snapshots {
        positions: recovered.snapshots,
        newest_at: recovered.snapshot.map(|summary| summary.taken_at),
        newest_bytes: recovered.snapshot.map_or(0, |summary| summary.bytes),
        newest_appended: 0,
    };
    let blocklist = Arc::new(recovered.blocklist);
    let report = Report {
        gateway,
        sequence: log.durable(),
        snapshot: recovered.snapshot.map(|summary| summary.position),
        replayed: recovered.replayed,
        counts: blocklist.counts(),
        passed_over: recovered.passed_over,
        torn,
        lost,
        took: start.elapsed(),
    };
    let shared = Arc::new(Shared::new(
        Pace::of(settings, leeway_max),
        disk,
        clock,
        gateway,
        Arc::clone(&blocklist),
        segments,
        (log.durable(), snapshots),
    ));
    *shared.place.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = recovered.place;
    shared.genesis.store(genesis, std::sync::atomic::Ordering::SeqCst);
    *shared.loss.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = remembered;
    let (queue, orders) = (Arc::new(Queue::new()), Arc::new(Orders::default()));
    let started_at = Instant::now();
    let writer = Writer {
        log,
        shared: Arc::clone(&shared),
        queue: Arc::clone(&queue),
        projections,
        on_fsync,
        last_sync: started_at,
        last_failure: None,
    };
    let keeper = Keeper {
        shared: Arc::clone(&shared),
        orders: Arc::clone(&orders),
        patience: Patience::new(known, started_at),
        next_shard: 0,
        last_attempt: started_at,
        failed: false,
    };
    let (ended, watch) = watch::channel(0);
    let inner = Inner { shared, queue, orders, ended: watch, threads: Mutex::default() };
    let ended = Arc::new(ended);
    let started = [
        spawn("revocation-log", Arc::clone(&ended), move || writer.run(lock))?,
        spawn("revocation-keeper", ended, move || keeper.run())?,
    ];
    if let Ok(mut threads) = inner.threads.lock() {
        threads.extend(started);
    }
    Ok((Handle(Arc::new(inner)), blocklist, report))
}

fn spawn(
    name: &str,
    ended: Arc<watch::Sender<usize>>,
    work: impl FnOnce() + Send + 'static,
) -> Result<std::thread::JoinHandle<()>, OpenError> {
    let body = move || {
        let _ended = Ended(ended);
        work();
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(OpenError::Thread)
}

/// Says that a thread is done, however it ends.
struct Ended(Arc<watch::Sender<usize>>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.send_modify(|threads| *threads += 1);
    }
}

fn refuse_exposed(disk: &dyn Disk) -> Result<(), OpenError> {
    let exposed = disk.exposed().map_err(OpenError::io(format!("look at {}", disk.place().display())))?;
    match exposed.into_iter().next() {
        Some((path, mode)) => {
            let want = if path == disk.place() { 0o700 } else { 0o600 };
            Err(OpenError::Exposed { path, mode, want })
        }
        None => Ok(()),
    }
}

fn warn_about(disk: &dyn Disk, recovered: &Recovered) -> Option<(Damage, u64)> {
    for damage in &recovered.passed_over {
        tracing::warn!(
            file = %damage.file.display(), offset = damage.offset, what = damage.what,
            instead = recovery::loaded_name(recovered), "a damaged snapshot was passed over"
        );
    }
    let scan = recovered.end.as_ref()?;
    let (offset, what) = scan.torn?;
    let bytes = scan.length - scan.end;
    let damage = Damage { file: disk.place().join(segment_name(scan.head.first)), offset, what };
    tracing::warn!(
        file = %damage.file.display(), offset, what, bytes, sequence = scan.last,
        "the torn end of the revocation log was cut off: it was never acknowledged"
    );
    Some((damage, bytes))
}

/// Whether the log is gone or an old copy, and what is to be done then.
fn loss(
    disk: &dyn Disk,
    recovered: &Recovered,
    seen: u64,
    known: bool,
    on_lost_state: OnLostState,
) -> Result<Option<OnLostState>, OpenError> {
    // The id is written when a log has been begun: an id without a log is what a loss leaves.
    let emptied = (recovered.identified || known) && recovered.segments.is_empty();
    if seen <= recovered.last && !emptied {
        return Ok(None);
    }
    let found = recovered.last;
    match on_lost_state {
        OnLostState::Refuse => {
            return Err(OpenError::LostState { place: disk.place().to_owned(), found, seen });
        }
        OnLostState::Cutoff => {
            tracing::error!(
                found,
                seen,
                "the revocation log was lost: every token issued before now is refused"
            );
        }
        OnLostState::Empty => {
            tracing::error!(
                found,
                seen,
                "the revocation log was lost: what was revoked may be accepted again"
            );
        }
    }
    Ok(Some(on_lost_state))
}

/// Writes the last segment anew without its torn end, durable, and removes files that were never finished.
fn renew(disk: &dyn Disk, recovered: &Recovered) -> std::io::Result<()> {
    for name in &recovered.unfinished {
        disk.remove(name)?;
    }
    // One without records is about to be replaced by a new one of its name.
    if let Some(scan) = recovered.end.as_ref().filter(|scan| scan.end > SEGMENT_HEAD_BYTES as u64) {
        let name = segment_name(scan.head.first);
        let old = disk.open(&name)?;
        let mut new = disk.create(&unfinished(&name))?;
        let (mut offset, mut buffer) = (0, vec![0; 1 << 20]);
        while offset < scan.end {
            let want = buffer.len().min(usize::try_from(scan.end - offset).unwrap_or(usize::MAX));
            let count = old.read_at(offset, &mut buffer[..want])?;
            if count == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            new.append(&buffer[..count])?;
            offset += count as u64;
        }
        new.sync()?;
        disk.rename(&unfinished(&name), &name)?;
    }
    disk.sync_dir()
}

fn write_identity(disk: &dyn Disk, gateway: GatewayId) -> std::io::Result<()> {
    let temporary = unfinished(IDENTITY_NAME);
    let mut file = disk.create(&temporary)?;
    file.append(format!("{gateway}\n").as_bytes())?;
    file.sync()?;
    disk.rename(&temporary, IDENTITY_NAME)?;
    disk.sync_dir()
}

/// Puts these into the log and in force.
fn begin_with(log: &mut Log, blocklist: &Blocklist, entries: &[Revocation]) -> std::io::Result<()> {
    let mut chunk = Chunk::default();
    for entry in entries {
        encode_entry(entry, &Origin::Local, &mut chunk.body);
        chunk.count += 1;
    }
    if chunk.count > 0 {
        log.stage(vec![chunk]);
        log.commit(true)?;
    }
    entries.iter().for_each(|entry| blocklist.apply(entry.selector.key(), entry));
    Ok(())
}

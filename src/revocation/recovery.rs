//! From the files of a state directory to the state that they hold; reads only. What it may pass over, and what must
//! stop the start, is in `docs/design.md`.

use std::collections::BTreeMap;

use super::blocklist::{Blocklist, SHARDS};
use super::disk::Disk;
use super::error::{Damage, OpenError};
use super::files::{IDENTITY_NAME, Name, segment_name, snapshot_name};
use super::load::Snapshot;
use super::mix::Mix;
use super::record::{GatewayId, Origin, Place, random};
use super::replay::{self, Scan};
use super::snapshot::Summary;
use crate::clock::UnixTime;

/// Threads that load a snapshot.
const LOAD_THREADS_MIN: usize = 2;
const LOAD_THREADS_MAX: usize = 8;

/// What was recovered.
pub(super) struct Recovered {
    pub(super) blocklist: Blocklist,
    /// `None` when there was neither log nor snapshot.
    pub(super) gateway: Option<GatewayId>,
    /// The id file is there.
    pub(super) identified: bool,
    /// The first sequence ever, where the segment that it began with is still there; else 0.
    pub(super) genesis: u64,
    /// The last sequence.
    pub(super) last: u64,
    /// First sequences and bytes of the segments.
    pub(super) segments: BTreeMap<u64, u64>,
    /// The last segment.
    pub(super) end: Option<Scan>,
    /// The snapshot that was loaded.
    pub(super) snapshot: Option<Summary>,
    /// Whole snapshots, as far as they were looked at: the loaded one and, unread, those before it.
    pub(super) snapshots: Vec<u64>,
    /// Damaged snapshots that were passed over.
    pub(super) passed_over: Vec<Damage>,
    /// Records replayed on top of the snapshot.
    pub(super) replayed: u64,
    /// The latest time that the log or a snapshot knows of.
    pub(super) newest: UnixTime,
    /// What of the shared log is in it.
    pub(super) place: Option<Place>,
    /// Files that were not finished.
    pub(super) unfinished: Vec<String>,
}

/// Reads the directory.
///
/// # Errors
/// Whatever could mean that an acknowledged revocation is lost, or that a newer program was here.
pub(super) fn recover(disk: &dyn Disk) -> Result<Recovered, OpenError> {
    let listed = disk.list().map_err(OpenError::io(format!("list {}", disk.place().display())))?;
    let (mut segments, mut positions, mut unfinished, mut identified) =
        (BTreeMap::new(), vec![], vec![], false);
    for (name, bytes) in listed {
        match Name::parse(&name) {
            Some(Name::Segment(first)) => drop(segments.insert(first, bytes)),
            Some(Name::Snapshot(position)) => positions.push(position),
            Some(Name::Unfinished) => unfinished.push(name),
            Some(Name::Identity) => identified = true,
            Some(Name::Lock | Name::Loss) | None => {}
        }
    }
    positions.sort_unstable();
    let seen = positions.last().copied().unwrap_or(0);
    let base = base(disk, &segments, &positions)?;
    let position = base.summary.map_or(0, |summary| summary.position);
    let mut recovered = Recovered {
        blocklist: base.blocklist,
        gateway: base.summary.map(|summary| summary.gateway),
        identified,
        genesis: 0,
        last: position,
        segments,
        end: None,
        snapshot: base.summary,
        snapshots: positions.into_iter().filter(|p| base.summary.is_some() && *p <= position).collect(),
        passed_over: base.passed_over,
        replayed: 0,
        newest: base.summary.map_or(UnixTime::ZERO, |summary| summary.taken_at),
        place: base.summary.and_then(|summary| summary.place),
        unfinished,
    };
    replay_rest(disk, position, seen, &mut recovered)?;
    identity(disk, &mut recovered)?;
    Ok(recovered)
}

/// What replay begins from.
struct Base {
    blocklist: Blocklist,
    summary: Option<Summary>,
    passed_over: Vec<Damage>,
}

/// The newest snapshot that is whole and whose log is there; without snapshots, nothing and the log's beginning.
fn base(disk: &dyn Disk, segments: &BTreeMap<u64, u64>, positions: &[u64]) -> Result<Base, OpenError> {
    let missing = |from, to| OpenError::Missing { place: disk.place().to_owned(), behind: None, from, to };
    let threads = std::thread::available_parallelism().map_or(LOAD_THREADS_MIN, usize::from);
    let mut passed_over = Vec::new();
    for &position in positions.iter().rev() {
        // A segment goes only when no snapshot needs it, so this one's rest is there, or something is wrong.
        if segments.range(..=position + 1).next().is_none() {
            let to = segments.keys().next().map_or(position + 1, |first| first - 1);
            return Err(passed_over.pop().map_or_else(|| missing(position + 1, to), OpenError::Damaged));
        }
        let loaded = Snapshot::open(disk, position).and_then(|snapshot| {
            let blocklist = snapshot.read(threads.clamp(LOAD_THREADS_MIN, LOAD_THREADS_MAX), true)?;
            Ok((blocklist, snapshot.summary))
        });
        match loaded {
            Ok((Some(blocklist), summary)) => {
                return Ok(Base { blocklist, summary: Some(summary), passed_over });
            }
            Ok((None, _)) => {}
            Err(OpenError::Damaged(damage)) => passed_over.push(damage),
            Err(other) => return Err(other),
        }
    }
    if let Some(&first) = segments.keys().next()
        && !replay::scan_head(disk, &segment_name(first), first)?.genesis
    {
        return Err(passed_over.pop().map_or_else(|| missing(1, first - 1), OpenError::Damaged));
    }
    let mut words = [0; 2];
    for word in &mut words {
        *word = u64::from_le_bytes(random().map_err(OpenError::io("get random bytes"))?);
    }
    Ok(Base { blocklist: Blocklist::new(SHARDS, Mix(words)), summary: None, passed_over })
}

/// Applies every record after `position`.
///
/// `seen` is the newest position that any snapshot has in its name, damaged ones included: so far the log was on disk
/// once, and an end before it is damage, however much it looks torn.
fn replay_rest(
    disk: &dyn Disk,
    position: u64,
    seen: u64,
    recovered: &mut Recovered,
) -> Result<(), OpenError> {
    let firsts: Vec<u64> = recovered.segments.keys().copied().collect();
    let start = firsts.partition_point(|first| *first <= position + 1).saturating_sub(1);
    for (index, &first) in firsts.iter().enumerate().skip(start) {
        let next = firsts.get(index + 1).copied();
        let name = segment_name(first);
        let damaged =
            |offset, what| OpenError::Damaged(Damage { file: disk.place().join(&name), offset, what });
        let scan = replay::scan(disk, &name, first, next)?;
        if *recovered.gateway.get_or_insert(scan.head.gateway) != scan.head.gateway {
            return Err(damaged(40, "it belongs to another gateway"));
        }
        if let Some(next) = next
            && scan.last + 1 != next
            && !replay::scan_head(disk, &segment_name(next), next)?.genesis
        {
            // This file was cut at the end of a record, or one behind it is gone; nothing tells which.
            let (place, behind) = (disk.place().to_owned(), Some((name.clone(), scan.end)));
            return Err(OpenError::Missing { place, behind, from: scan.last + 1, to: next - 1 });
        }
        if scan.head.genesis {
            recovered.genesis = first;
        }
        replay::replay(disk, &name, &scan, position, &mut |records| {
            recovered.replayed += records.len() as u64;
            for record in &records {
                recovered.newest = recovered.newest.max(record.revocation.at);
                if let Origin::Shared { position, .. } = record.origin {
                    let epoch = recovered.place.map_or(0, |place| place.epoch);
                    recovered.place = Some(Place { epoch, position });
                }
                recovered.blocklist.apply(record.revocation.selector.key(), &record.revocation);
            }
        })?;
        recovered.last = recovered.last.max(scan.last);
        if next.is_none() {
            if scan.last < seen {
                return Err(damaged(scan.end, "the log ends before the snapshot does"));
            }
            recovered.end = Some(scan);
        }
    }
    Ok(())
}

/// The id of the gateway that a state directory belongs to; `None` when there is none, or none that can be read, which
/// opening the log will tell of.
pub fn gateway_of(disk: &dyn Disk) -> Option<GatewayId> {
    let mut text = [0; 64];
    let count = disk.open(IDENTITY_NAME).and_then(|file| file.read_at(0, &mut text)).ok()?;
    GatewayId::parse(std::str::from_utf8(&text[..count]).ok()?.trim_end())
}

/// The id in its file must be the log's.
fn identity(disk: &dyn Disk, recovered: &mut Recovered) -> Result<(), OpenError> {
    if !recovered.identified {
        return Ok(());
    }
    let path = disk.place().join(IDENTITY_NAME);
    let mut text = [0; 64];
    let count = disk
        .open(IDENTITY_NAME)
        .and_then(|file| file.read_at(0, &mut text))
        .map_err(OpenError::io(format!("read {}", path.display())))?;
    let id = std::str::from_utf8(&text[..count]).ok().and_then(|text| GatewayId::parse(text.trim_end()));
    let damaged = |what| OpenError::Damaged(Damage { file: path.clone(), offset: 0, what });
    let id = id.ok_or_else(|| damaged("not the id of a gateway"))?;
    if *recovered.gateway.get_or_insert(id) == id {
        Ok(())
    } else {
        Err(damaged("it is not the id that the log has"))
    }
}

/// The name of the snapshot that was loaded.
pub(super) fn loaded_name(recovered: &Recovered) -> Option<String> {
    recovered.snapshot.map(|summary| snapshot_name(summary.position))
}

//! `portcullis verify`: a state directory looked through without changing it, every file to its last byte.

use std::path::PathBuf;

use super::disk::Disk;
use super::error::OpenError;
use super::files::{Name, segment_name, snapshot_name};
use super::load::Snapshot;
use super::recovery::recover;
use super::replay;
use super::{Counts, GatewayId};
use crate::clock::UnixTime;

/// What was found.
#[derive(Debug)]
pub struct Verdict {
    /// The directory.
    pub place: PathBuf,
    /// A gateway is using it: what was found may be a moment old already.
    pub in_use: bool,
    /// The segments, oldest first.
    pub segments: Vec<SegmentVerdict>,
    /// The snapshots, oldest first.
    pub snapshots: Vec<SnapshotVerdict>,
    /// Unfinished files, which the next start removes.
    pub unfinished: Vec<String>,
    /// What a start would load, or why it would stop.
    pub start: Result<WouldLoad, OpenError>,
}

impl Verdict {
    /// Whether every file is whole (a torn end of the log counts as whole) and a gateway would start.
    pub fn is_good(&self) -> bool {
        let segments = self.segments.iter().all(|segment| segment.problem.is_none());
        let snapshots = self.snapshots.iter().all(|snapshot| snapshot.problem.is_none());
        segments && snapshots && self.start.is_ok()
    }
}

/// One segment.
#[derive(Debug)]
pub struct SegmentVerdict {
    /// The file's name.
    pub file: String,
    /// Its bytes.
    pub bytes: u64,
    /// Its first sequence.
    pub first: u64,
    /// Its last sequence; the one before `first` when it has no record.
    pub last: u64,
    /// Groups of records in it.
    pub frames: u64,
    /// Bytes behind its last whole record that a start passes over.
    pub torn_bytes: u64,
    /// What is wrong with it: damage, or sequences missing behind it.
    pub problem: Option<OpenError>,
}

/// One snapshot.
#[derive(Debug)]
pub struct SnapshotVerdict {
    /// The file's name.
    pub file: String,
    /// Replay goes on behind this sequence.
    pub position: u64,
    /// When it was taken.
    pub taken_at: Option<UnixTime>,
    /// Its bytes.
    pub bytes: u64,
    /// Entries of kind token, session, and all others.
    pub entries: [u64; 3],
    /// What is wrong with it.
    pub problem: Option<OpenError>,
}

/// What a start would make of the directory.
#[derive(Clone, Debug)]
pub struct WouldLoad {
    /// Whose log it is; `None` when there is none.
    pub gateway: Option<GatewayId>,
    /// The snapshot that it would load.
    pub snapshot: Option<u64>,
    /// Records that it would replay.
    pub replayed: u64,
    /// The last sequence.
    pub sequence: u64,
    /// Entries in force.
    pub counts: Counts,
}

/// Looks through a state directory. Needs as much memory as a start, and changes nothing.
///
/// # Errors
/// Only when the directory cannot be listed; all else is in the verdict.
pub fn verify(disk: &dyn Disk) -> Result<Verdict, OpenError> {
    let listed = disk.list().map_err(OpenError::io(format!("list {}", disk.place().display())))?;
    let has_lock = listed.iter().any(|(name, _)| Name::parse(name) == Some(Name::Lock));
    let in_use = has_lock && disk.lock().is_ok_and(|lock| lock.is_none());
    let named = |wanted: fn(Name) -> Option<u64>| {
        let numbers =
            listed.iter().filter_map(move |(name, bytes)| Some((wanted(Name::parse(name)?)?, *bytes)));
        numbers.collect::<Vec<_>>()
    };
    let segments = named(|name| if let Name::Segment(first) = name { Some(first) } else { None });
    let snapshots = named(|name| if let Name::Snapshot(position) = name { Some(position) } else { None });
    let unfinished = listed.iter().filter(|(name, _)| Name::parse(name) == Some(Name::Unfinished));
    let start = recover(disk).map(|recovered| WouldLoad {
        gateway: recovered.gateway,
        snapshot: recovered.snapshot.map(|summary| summary.position),
        replayed: recovered.replayed,
        sequence: recovered.last,
        counts: recovered.blocklist.counts(),
    });
    Ok(Verdict {
        place: disk.place().to_owned(),
        in_use,
        segments: (0..segments.len()).map(|index| segment(disk, &segments, index)).collect(),
        snapshots: snapshots.iter().map(|(position, bytes)| snapshot(disk, *position, *bytes)).collect(),
        unfinished: unfinished.map(|(name, _)| name.clone()).collect(),
        start,
    })
}

fn segment(disk: &dyn Disk, segments: &[(u64, u64)], index: usize) -> SegmentVerdict {
    let (first, bytes) = segments[index];
    let next = segments.get(index + 1).map(|(next, _)| *next);
    let file = segment_name(first);
    let mut verdict =
        SegmentVerdict { bytes, first, last: first - 1, frames: 0, torn_bytes: 0, problem: None, file };
    let looked = replay::scan(disk, &verdict.file, first, next).and_then(|scan| {
        (verdict.last, verdict.frames) = (scan.last, scan.frames);
        verdict.torn_bytes = scan.length.saturating_sub(scan.end);
        // Checksums can be right over entries that make no sense; so every entry is read.
        replay::replay(disk, &verdict.file, &scan, 0, &mut |_| {})?;
        match next {
            Some(next)
                if scan.last + 1 != next && !replay::scan_head(disk, &segment_name(next), next)?.genesis =>
            {
                let place = disk.place().to_owned();
                let behind = Some((verdict.file.clone(), scan.end));
                Err(OpenError::Missing { place, behind, from: scan.last + 1, to: next - 1 })
            }
            _ => Ok(()),
        }
    });
    verdict.problem = looked.err();
    verdict
}

fn snapshot(disk: &dyn Disk, position: u64, bytes: u64) -> SnapshotVerdict {
    let file = snapshot_name(position);
    let mut verdict =
        SnapshotVerdict { file, position, taken_at: None, bytes, entries: [0; 3], problem: None };
    let looked = Snapshot::open(disk, position).and_then(|snapshot| {
        let summary = snapshot.summary;
        verdict.taken_at = Some(summary.taken_at);
        verdict.entries = [summary.tokens, summary.sessions, summary.cutoffs];
        snapshot.read(2, false).map(drop)
    });
    verdict.problem = looked.err();
    verdict
}

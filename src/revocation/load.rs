//! Reading a snapshot: what surrounds its blocks first, then the blocks on several threads, into a blocklist or only
//! to see that they are whole.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::blocklist::Blocklist;
use super::cutoffs::Cutoff;
use super::disk::{Disk, File};
use super::error::{Damage, OpenError};
use super::files::snapshot_name;
use super::keeper::REST;
use super::mix::Mix;
use super::record::{Bad, GatewayId, Place, Reader, Salt};
use super::snapshot::{
    ABSOLUTE_BYTES, BLOCK_HEAD_BYTES, CUTOFF_BYTES, END_BYTES, HEAD_BYTES, LISTING_BYTES, Listing,
    PIECE_BYTES, Summary, VERSION, block_crc,
};
use super::{Kind, SelectorKey};
use crate::clock::UnixTime;
use crate::worker::Pace;

/// A snapshot whose head, end and directory are good.
pub(super) struct Snapshot {
    file: Box<dyn File>,
    path: std::path::PathBuf,
    salt: Salt,
    mix: Mix,
    shards: u32,
    listings: Vec<Listing>,
    pub(super) summary: Summary,
}

impl Snapshot {
    /// Reads what surrounds the blocks.
    ///
    /// # Errors
    /// Damage, a newer format, or a failing disk.
    pub(super) fn open(disk: &dyn Disk, position: u64) -> Result<Self, OpenError> {
        let name = snapshot_name(position);
        let path = disk.place().join(&name);
        let failed = || OpenError::io(format!("read {}", path.display()));
        let damaged = |offset, what| OpenError::Damaged(Damage { file: path.clone(), offset, what });
        let file = disk.open(&name).map_err(failed())?;
        let length = file.length().map_err(failed())?;
        let read = |offset: u64, length: usize| -> Result<Vec<u8>, OpenError> {
            let mut bytes = vec![0; length];
            match file.read_at(offset, &mut bytes).map_err(failed())? {
                count if count == length => Ok(bytes),
                _ => Err(damaged(offset, "the snapshot is cut short")),
            }
        };
        let broken = |offset: u64| move |_: Bad| damaged(offset, "the snapshot makes no sense");

        let head = read(0, HEAD_BYTES)?;
        if crc32fast::hash(&head[..HEAD_BYTES - 4]).to_le_bytes() != head[HEAD_BYTES - 4..] {
            return Err(damaged(0, "the checksum of the head does not fit"));
        }
        if head[..8] != *b"PORTSNAP" {
            return Err(damaged(0, "not a snapshot"));
        }
        let mut fields = Reader(&head[8..]);
        let version = fields.u16().map_err(broken(0))?;
        if version > VERSION {
            return Err(OpenError::Newer { file: path.clone(), version, known: VERSION });
        }
        fields.take::<6>().map_err(broken(0))?;
        let mut number = || fields.u64().map_err(broken(0));
        let (found, taken_at) = (number()?, UnixTime::from_millis(number()?));
        let gateway = GatewayId(fields.take().map_err(broken(0))?);
        let salt = Salt::new(fields.take().map_err(broken(0))?);
        let mix = Mix([fields.u64().map_err(broken(0))?, fields.u64().map_err(broken(0))?]);
        let (shards, cutoff_shards) = (fields.u32().map_err(broken(0))?, fields.u32().map_err(broken(0))?);
        if found != position {
            return Err(damaged(0, "its name does not fit its head"));
        }
        let mut number = || fields.u64().map_err(broken(0));
        let place = Place { position: (number()?, number()?), epoch: number()? };
        let place = Some(place).filter(|place| *place != Place { epoch: 0, position: (0, 0) });

        let at = length.saturating_sub(END_BYTES as u64);
        let end = read(at, END_BYTES)?;
        if end[..8] != *b"PORTSEND" || salt.crc(&end[..60]).to_le_bytes() != end[60..] {
            return Err(damaged(at, "the snapshot has no whole end"));
        }
        let mut fields = Reader(&end[8..]);
        let mut number = || fields.u64().map_err(broken(at));
        let (directory, blocks) = (number()?, number()?);
        let (tokens, sessions, cutoffs) = (number()?, number()?, number()?);
        if blocks.checked_mul(LISTING_BYTES as u64).and_then(|bytes| bytes.checked_add(directory)) != Some(at)
        {
            return Err(damaged(at, "the directory is not where it should be"));
        }

        let listed = read(directory, usize::try_from(at - directory).unwrap_or(0))?;
        let mut listings = Vec::with_capacity(listed.len() / LISTING_BYTES);
        for (index, bytes) in listed.chunks_exact(LISTING_BYTES).enumerate() {
            let at = directory + (index * LISTING_BYTES) as u64;
            if salt.crc(&bytes[..20]).to_le_bytes() != bytes[20..] {
                return Err(damaged(at, "the checksum of the directory does not fit"));
            }
            let mut fields = Reader(bytes);
            let offset = fields.u64().map_err(broken(at))?;
            let [kind, ..] = fields.take::<4>().map_err(broken(at))?;
            let (shard, count) = (fields.u32().map_err(broken(at))?, fields.u32().map_err(broken(at))?);
            let bound = if kind == 3 { cutoff_shards } else { shards };
            if !(1..=3).contains(&kind) || shard >= bound || offset >= directory {
                return Err(damaged(at, "the directory makes no sense"));
            }
            listings.push(Listing { offset, kind, shard, count });
        }
        let summary =
            Summary { position, taken_at, gateway, tokens, sessions, cutoffs, bytes: length, place };
        let good = |shards: u32| shards.is_power_of_two() && (2..=1 << 20).contains(&shards);
        if !good(shards) || !good(cutoff_shards) {
            return Err(damaged(0, "the head makes no sense"));
        }
        Ok(Self { file, path, salt, mix, shards, listings, summary })
    }

    /// Reads every block on `threads` threads, and checks that all is there; into a blocklist when `load`.
    ///
    /// # Errors
    /// Damage or a failing disk.
    pub(super) fn read(&self, threads: usize, load: bool) -> Result<Option<Blocklist>, OpenError> {
        let blocklist = load.then(|| Blocklist::new(self.shards as usize, self.mix));
        let (next, error) = (AtomicUsize::new(0), Mutex::new(None));
        let found: [AtomicU64; 4] = Default::default();
        std::thread::scope(|scope| {
            for thread in 0..threads.max(1) {
                let (next, error, found, blocklist) = (&next, &error, &found, blocklist.as_ref());
                scope.spawn(move || {
                    // Read back by one thread while requests go on; a start and `verify` have more, and are in a hurry.
                    let mut pace = (!load && threads == 1).then(|| Pace::new(REST));
                    let mut progress = Progress::new(thread == 0, self.listings.len());
                    let mut bytes = Vec::new();
                    while let Some(listing) = self.listings.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let rest = || pace.as_mut().map_or((), Pace::rest);
                        match self.block(listing, blocklist, &mut bytes, rest) {
                            Ok(()) => found[usize::from(listing.kind)]
                                .fetch_add(listing.count.into(), Ordering::Relaxed),
                            Err(why) => {
                                error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
                                return;
                            }
                        };
                        progress.show(next.load(Ordering::Relaxed));
                    }
                });
            }
        });
        if let Some(error) = error.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let [_, tokens, sessions, cutoffs] = found.map(AtomicU64::into_inner);
        let Summary { tokens: t, sessions: s, cutoffs: c, .. } = self.summary;
        if (tokens, sessions, cutoffs) == (t, s, c) {
            Ok(blocklist)
        } else {
            Err(self.damaged(self.summary.bytes - END_BYTES as u64, "entries are missing"))
        }
    }

    /// Reads one block into `bytes`, which is there to be used again, and checks it; resting by `rest` between pieces.
    fn block(
        &self,
        listing: &Listing,
        blocklist: Option<&Blocklist>,
        bytes: &mut Vec<u8>,
        mut rest: impl FnMut(),
    ) -> Result<(), OpenError> {
        bytes.resize(BLOCK_HEAD_BYTES + listing.body_bytes().min(self.summary.bytes as usize), 0);
        let mut count = 0;
        for piece in bytes.chunks_mut(PIECE_BYTES) {
            count += self
                .file
                .read_at(listing.offset + count as u64, piece)
                .map_err(OpenError::io(format!("read {}", self.path.display())))?;
            rest();
        }
        if count != BLOCK_HEAD_BYTES + listing.body_bytes() {
            return Err(self.damaged(listing.offset, "the snapshot is cut short"));
        }
        let (head, body) = bytes.split_at(BLOCK_HEAD_BYTES);
        let same = head[0] == listing.kind
            && head[4..8] == listing.shard.to_le_bytes()
            && head[8..12] == listing.count.to_le_bytes();
        if !same || block_crc(&self.salt, &head[..12], body).to_le_bytes() != head[12..] {
            return Err(self.damaged(listing.offset, "the checksum of a block does not fit"));
        }
        let Some(blocklist) = blocklist else { return Ok(()) };
        let word = |bytes: &[u8], at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let key = |bytes: &[u8]| SelectorKey([0, 4, 8, 12].map(|at| word(bytes, at)));
        if listing.kind == 3 {
            for entry in body.chunks_exact(CUTOFF_BYTES) {
                let millis = u64::from(word(entry, 16)) | u64::from(word(entry, 20)) << 32;
                let issued_before = UnixTime::from_millis(millis);
                blocklist.raise_cutoff(
                    key(entry),
                    Cutoff { issued_before, expires: word(entry, 24), kind: entry[28] },
                );
            }
        } else {
            let kind = if listing.kind == 1 { Kind::Token } else { Kind::Session };
            let entries = body.chunks_exact(ABSOLUTE_BYTES).map(|entry| (key(entry), word(entry, 16)));
            blocklist.load_absolute(&kind, listing.shard as usize, entries);
        }
        Ok(())
    }

    fn damaged(&self, offset: u64, what: &'static str) -> OpenError {
        OpenError::Damaged(Damage { file: self.path.clone(), offset, what })
    }
}

/// Says every few seconds how far a long load has come.
struct Progress {
    speaks: bool,
    blocks: usize,
    next: Instant,
}

impl Progress {
    const EVERY: Duration = Duration::from_secs(3);

    fn new(speaks: bool, blocks: usize) -> Self {
        Self { speaks, blocks, next: Instant::now() + Self::EVERY }
    }

    fn show(&mut self, done: usize) {
        if self.speaks && Instant::now() >= self.next {
            self.next += Self::EVERY;
            tracing::info!(percent = 100 * done / self.blocks.max(1), "loading the snapshot");
        }
    }
}

//! The blocklist on disk, so that a start need not read the whole log.
//!
//! It is copied shard by shard while the log goes on: each shard is as of some moment after `position` was read, and
//! replay from there gives each entry its last state whatever the moment was (`docs/design.md` has the argument).
//!
//! ```text
//! head (128)                                block, one a shard that has entries
//!   0  8  "PORTSNAP"                          0  1  kind: 1 token, 2 session, 3 cutoffs
//!   8  2  format version (1)                  1  3  0
//!  10  6  0                                   4  4  shard
//!  16  8  position: replay goes on after it   8  4  number of entries
//!  24  8  taken at, ms                       12  4  CRC32 of salt, 0..12 and the entries
//!  32 16  gateway id                         16  .  entries: key 16, expiry 4 (s)
//!  48 16  salt, drawn for this file                 of cutoffs: key 16, cutoff 8 (ms), expiry 4 (s), kind 1, 0 3
//!  64 16  words that choose shards
//!  80  4  shards of tokens and sessions      directory, one a block: offset 8, kind 1, 0 3, shard 4, entries 4,
//!  84  4  shards of cutoffs                    CRC32 of its first 20 bytes and the salt 4
//!  88 24  shared log: position 8 and 8, epoch 8; or 0
//! 112 12  0                                  end (64): "PORTSEND", offset of the directory 8, blocks 8, tokens 8,
//! 124  4  CRC32 of 0..124                      sessions 8, cutoffs 8, 0 12, CRC32 of salt and 0..60
//! ```

use std::io;

use super::Kind;
use super::blocklist::Blocklist;
use super::disk::{Disk, File};
use super::files::{snapshot_name, unfinished};
use super::keeper::REST;
use super::record::{GatewayId, Place, Salt, random};
use crate::clock::UnixTime;
use crate::worker::Pace;

pub(super) const VERSION: u16 = 1;
pub(super) const HEAD_BYTES: usize = 128;
pub(super) const BLOCK_HEAD_BYTES: usize = 16;
pub(super) const LISTING_BYTES: usize = 24;
pub(super) const END_BYTES: usize = 64;
pub(super) const ABSOLUTE_BYTES: usize = 20;
pub(super) const CUTOFF_BYTES: usize = 32;
/// Written at once: some ten microseconds of work for the system, which nothing interrupts.
pub(super) const PIECE_BYTES: usize = 32 << 10;
/// A snapshot is synced piece by piece: a large sync keeps a processor busy for milliseconds, and the log's next one waits
/// for it.
const SYNC_BYTES: u64 = 1 << 20;

/// What a snapshot says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    /// Replay goes on behind this sequence.
    pub(super) position: u64,
    pub(super) taken_at: UnixTime,
    pub(super) gateway: GatewayId,
    pub(super) tokens: u64,
    pub(super) sessions: u64,
    pub(super) cutoffs: u64,
    pub(super) bytes: u64,
    /// What of the shared log is in it.
    pub(super) place: Option<Place>,
}

#[derive(Clone, Copy)]
pub(super) struct Listing {
    pub(super) offset: u64,
    pub(super) kind: u8,
    pub(super) shard: u32,
    pub(super) count: u32,
}

impl Listing {
    const fn entry_bytes(&self) -> usize {
        if self.kind == 3 { CUTOFF_BYTES } else { ABSOLUTE_BYTES }
    }

    pub(super) fn body_bytes(&self) -> usize {
        self.count as usize * self.entry_bytes()
    }
}

/// Writes a snapshot of the blocklist under its final name, durable. `position` and `place` must have been read before,
/// with every entry up to them applied.
///
/// # Errors
/// When the disk fails; the unfinished file is removed if it can be.
pub(super) fn write(
    disk: &dyn Disk,
    blocklist: &Blocklist,
    (position, place): (u64, Option<Place>),
    taken_at: UnixTime,
    gateway: GatewayId,
) -> io::Result<Summary> {
    let name = snapshot_name(position);
    let written = Writer::start(disk, &unfinished(&name), blocklist, (position, place, taken_at, gateway))
        .and_then(|writer| writer.run(blocklist));
    match written {
        Ok(summary) => {
            disk.rename(&unfinished(&name), &name)?;
            disk.sync_dir()?;
            Ok(summary)
        }
        Err(error) => {
            let _ = disk.remove(&unfinished(&name));
            Err(error)
        }
    }
}

struct Writer {
    file: Box<dyn File>,
    salt: Salt,
    out: Vec<u8>,
    offset: u64,
    synced: u64,
    listings: Vec<Listing>,
    summary: Summary,
    pace: Pace,
}

impl Writer {
    fn start(
        disk: &dyn Disk,
        name: &str,
        blocklist: &Blocklist,
        (position, place, taken_at, gateway): (u64, Option<Place>, UnixTime, GatewayId),
    ) -> io::Result<Self> {
        let salt = Salt::new(random()?);
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.extend_from_slice(b"PORTSNAP");
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&[0; 6]);
        head.extend_from_slice(&position.to_le_bytes());
        head.extend_from_slice(&taken_at.millis().to_le_bytes());
        head.extend_from_slice(&gateway.0);
        head.extend_from_slice(&salt.bytes());
        blocklist.mix().0.iter().for_each(|word| head.extend_from_slice(&word.to_le_bytes()));
        for shards in [blocklist.shards(), blocklist.cutoff_shards()] {
            head.extend_from_slice(&u32::try_from(shards).expect("few shards").to_le_bytes());
        }
        let numbers = place.map_or([0; 3], |place| [place.position.0, place.position.1, place.epoch]);
        numbers.iter().for_each(|number| head.extend_from_slice(&number.to_le_bytes()));
        head.resize(HEAD_BYTES - 4, 0);
        head.extend_from_slice(&crc32fast::hash(&head).to_le_bytes());
        let summary =
            Summary { position, taken_at, gateway, tokens: 0, sessions: 0, cutoffs: 0, bytes: 0, place };
        let file = disk.create(name)?;
        let listings = Vec::new();
        Ok(Self { file, salt, out: head, offset: 0, synced: 0, listings, summary, pace: Pace::new(REST) })
    }

    fn run(mut self, blocklist: &Blocklist) -> io::Result<Summary> {
        for (number, kind) in [(1, Kind::Token), (2, Kind::Session)] {
            for shard in 0..blocklist.shards() {
                let count = self.block(number, shard, |out, pace| {
                    for (key, expires) in blocklist.absolute_shard(&kind, shard, || pace.rest()) {
                        out.extend_from_slice(&key.to_bytes());
                        out.extend_from_slice(&expires.to_le_bytes());
                    }
                })?;
                *(if number == 1 { &mut self.summary.tokens } else { &mut self.summary.sessions }) += count;
            }
        }
        for shard in 0..blocklist.cutoff_shards() {
            self.summary.cutoffs += self.block(3, shard, |out, _| {
                for (key, cutoff) in blocklist.cutoff_shard(shard) {
                    out.extend_from_slice(&key.to_bytes());
                    out.extend_from_slice(&cutoff.issued_before.millis().to_le_bytes());
                    out.extend_from_slice(&cutoff.expires.to_le_bytes());
                    out.extend_from_slice(&[cutoff.kind, 0, 0, 0]);
                }
            })?;
        }
        self.finish()
    }

    /// Writes one block, and returns how many entries it has.
    fn block(
        &mut self,
        kind: u8,
        shard: usize,
        fill: impl FnOnce(&mut Vec<u8>, &mut Pace),
    ) -> io::Result<u64> {
        let start = self.out.len();
        self.out.resize(start + BLOCK_HEAD_BYTES, 0);
        fill(&mut self.out, &mut self.pace);
        let shard = u32::try_from(shard).expect("few shards");
        let mut listing = Listing { offset: self.offset + start as u64, kind, shard, count: 0 };
        let body = self.out.len() - start - BLOCK_HEAD_BYTES;
        listing.count = u32::try_from(body / listing.entry_bytes()).map_err(io::Error::other)?;
        if listing.count == 0 {
            self.out.truncate(start);
            return Ok(0);
        }
        self.out[start] = kind;
        self.out[start + 4..start + 8].copy_from_slice(&shard.to_le_bytes());
        self.out[start + 8..start + 12].copy_from_slice(&listing.count.to_le_bytes());
        let crc = block_crc(&self.salt, &self.out[start..start + 12], &self.out[start + BLOCK_HEAD_BYTES..]);
        self.out[start + 12..start + 16].copy_from_slice(&crc.to_le_bytes());
        self.listings.push(listing);
        self.pace.rest();
        if self.out.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(listing.count.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        for piece in self.out.chunks(PIECE_BYTES) {
            self.file.append(piece)?;
            self.pace.rest();
        }
        self.offset += self.out.len() as u64;
        self.out.clear();
        if self.offset - self.synced >= SYNC_BYTES {
            self.file.sync()?;
            self.synced = self.offset;
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<Summary> {
        let directory = self.offset + self.out.len() as u64;
        for listing in &self.listings {
            let start = self.out.len();
            self.out.extend_from_slice(&listing.offset.to_le_bytes());
            self.out.extend_from_slice(&[listing.kind, 0, 0, 0]);
            self.out.extend_from_slice(&listing.shard.to_le_bytes());
            self.out.extend_from_slice(&listing.count.to_le_bytes());
            let crc = self.salt.crc(&self.out[start..]);
            self.out.extend_from_slice(&crc.to_le_bytes());
        }
        let start = self.out.len();
        self.out.extend_from_slice(b"PORTSEND");
        let Summary { tokens, sessions, cutoffs, .. } = self.summary;
        for number in [directory, self.listings.len() as u64, tokens, sessions, cutoffs] {
            self.out.extend_from_slice(&number.to_le_bytes());
        }
        self.out.resize(start + END_BYTES - 4, 0);
        let crc = self.salt.crc(&self.out[start..]);
        self.out.extend_from_slice(&crc.to_le_bytes());
        self.flush()?;
        self.file.sync()?;
        self.summary.bytes = self.offset;
        Ok(self.summary)
    }
}

pub(super) fn block_crc(salt: &Salt, head: &[u8], body: &[u8]) -> u32 {
    // Both parts through one checksum without copying them together.
    let mut whole = crc32fast::Hasher::new_with_initial(salt.crc(head));
    whole.update(body);
    whole.finalize()
}

#[cfg(test)]
mod tests {
    use super::super::error::OpenError;
    use super::super::load::Snapshot;
    use super::super::mix::Mix;
    use super::super::model::{Model, NOON, revoke};
    use super::super::sim::SimDisk;
    use super::*;

    const GATEWAY: GatewayId = GatewayId([7; 16]);
    const PLACE: Option<Place> = Some(Place { epoch: 5, position: (6, 7) });

    fn filled(count: usize) -> (Blocklist, Model) {
        let list = Blocklist::new(8, Mix([11, 13]));
        let mut model = Model::default();
        let kinds = [Kind::Token, Kind::Session, Kind::Subject, Kind::Key, Kind::Claim("tenant".into())];
        for number in 0..count {
            let entry = revoke(kinds[number % kinds.len()].clone(), &number.to_string());
            list.apply(entry.selector.key(), &entry);
            model.apply(&[entry]);
        }
        (list, model)
    }

    #[test]
    fn what_is_written_is_what_is_loaded_on_any_number_of_threads() {
        for count in [0, 1, 5, 3000] {
            let (list, model) = filled(count);
            let disk = SimDisk::default();
            let written = write(&disk, &list, (42, PLACE), NOON, GATEWAY).unwrap();
            for threads in [1, 2, 5] {
                let snapshot = Snapshot::open(&disk, 42).unwrap();
                assert_eq!(snapshot.summary, written);
                let loaded = snapshot.read(threads, true).unwrap().unwrap();
                assert!(model.fits(&loaded), "{count} {threads}");
                assert_eq!((loaded.mix(), loaded.shards()), (list.mix(), list.shards()));
            }
        }
    }

    #[test]
    fn a_loaded_table_has_room_for_what_it_holds_and_no_more() {
        let (list, _) = filled(3000);
        let disk = SimDisk::default();
        write(&disk, &list, (1, PLACE), NOON, GATEWAY).unwrap();
        let loaded = Snapshot::open(&disk, 1).unwrap().read(2, true).unwrap().unwrap();
        assert!(loaded.memory_bytes() <= list.memory_bytes());
    }

    #[test]
    fn an_unfinished_one_has_no_name_of_its_own() {
        let (list, _) = filled(100);
        let whole = SimDisk::default();
        write(&whole, &list, (9, PLACE), NOON, GATEWAY).unwrap();
        for at in 0..whole.operations() {
            let disk = SimDisk::default();
            disk.fail_at(at, super::super::sim::Fault::Stop);
            assert!(write(&disk, &list, (9, PLACE), NOON, GATEWAY).is_err());
            for seed in 0..5 {
                let left = disk.power_cut(seed);
                let named = left.list().unwrap().iter().any(|(name, _)| *name == snapshot_name(9));
                assert!(!named || Snapshot::open(&left, 9).unwrap().read(1, false).is_ok());
            }
        }
    }

    #[test]
    fn a_newer_one_is_refused_and_not_passed_over() {
        let (list, _) = filled(10);
        let disk = SimDisk::default();
        write(&disk, &list, (3, PLACE), NOON, GATEWAY).unwrap();
        let mut bytes = disk.content(&snapshot_name(3));
        bytes[8] = 9;
        let crc = crc32fast::hash(&bytes[..HEAD_BYTES - 4]);
        bytes[HEAD_BYTES - 4..HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
        disk.put(&snapshot_name(3), bytes);
        assert!(matches!(Snapshot::open(&disk, 3), Err(OpenError::Newer { version: 9, .. })));
    }
}

//! The log being written: one active segment, group commit, rotation, and what is done when the disk fails.
//!
//! A segment is made under another name with its head in it, synced, renamed, and its directory synced, so a file
//! with a segment's name always has a whole head. Records of a group go out in one write, into room that was made for
//! them before. A write or sync that fails is final for its segment: a new one begins behind the last durable record,
//! with everything since written to it before it takes its name.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::disk::{Disk, File};
use super::files::{segment_name, unfinished};
use super::record::{
    COMMIT, FRAME_BODY_BYTES_FULL, FrameHead, GatewayId, NOTE, SEGMENT_HEAD_BYTES, Salt, SegmentHead, random,
};

/// Room made behind the records of a segment at once: as much as they take, within these.
const ROOM_BYTES_MIN: u64 = 64 << 10;
const ROOM_BYTES_MAX: u64 = 1 << 20;
/// A group of more than this is not worth it: its own bytes are most of what its sync costs.
const ROOM_FOR_GROUPS_OF: usize = 64 << 10;

/// Segments that there are: first sequence to bytes.
#[derive(Debug, Default)]
pub(super) struct Segments(Mutex<BTreeMap<u64, u64>>);

impl Segments {
    pub(super) fn set(&self, first: u64, bytes: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(first, bytes);
    }

    pub(super) fn forget(&self, first: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&first);
    }

    /// First sequences and lengths, in order.
    pub(super) fn list(&self) -> Vec<(u64, u64)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(k, v)| (*k, *v)).collect()
    }
}

/// Encoded entries, at most [`super::record::FRAME_BODY_BYTES_MAX`].
#[derive(Clone, Debug, Default)]
pub(super) struct Chunk {
    pub(super) count: u32,
    pub(super) body: Vec<u8>,
}

/// A frame that is not durable yet.
struct Frame {
    first: u64,
    flags: u16,
    chunk: Chunk,
}

struct Active {
    file: Box<dyn File>,
    first: u64,
    salt: Salt,
    bytes: u64,
    /// Bytes of it that hold what was acknowledged.
    kept_bytes: u64,
    /// Up to where it holds records and room for more; `None` when the disk would not give any.
    room: Option<u64>,
    /// Nothing was written to it since the last note, or since it was made.
    noted: bool,
}

/// The log, at its writing end.
pub(super) struct Log {
    disk: Arc<dyn Disk>,
    gateway: GatewayId,
    genesis: u64,
    segment_bytes_full: u64,
    segments: Arc<Segments>,
    /// `None` after a failure, until a new segment could be begun.
    active: Option<Active>,
    failed: Vec<Active>,
    /// The next sequence to give out.
    next: u64,
    /// The next sequence after the last acknowledged one.
    kept: u64,
    durable: u64,
    /// Frames after `durable`, of which the first `written` are in the active segment.
    pending: Vec<Frame>,
    written: usize,
    out: Vec<u8>,
    /// Bytes written in all.
    appended: u64,
    last_sync: Duration,
}

/// Where a log goes on.
pub(super) struct Resume {
    pub(super) gateway: GatewayId,
    /// The first sequence ever.
    pub(super) genesis: u64,
    /// The last sequence there is.
    pub(super) last: u64,
    pub(super) segment_bytes_full: u64,
}

impl Log {
    /// A log that goes on behind `resume.last`, in a new segment.
    ///
    /// # Errors
    /// When that cannot be made.
    pub(super) fn begin(disk: Arc<dyn Disk>, segments: Arc<Segments>, resume: Resume) -> io::Result<Self> {
        let Resume { gateway, genesis, last, segment_bytes_full } = resume;
        let mut log = Self {
            disk,
            gateway,
            genesis,
            segment_bytes_full,
            segments,
            active: None,
            failed: Vec::new(),
            next: last + 1,
            kept: last + 1,
            durable: last,
            pending: Vec::new(),
            written: 0,
            out: Vec::new(),
            appended: 0,
            last_sync: Duration::ZERO,
        };
        log.begin_segment()?;
        Ok(log)
    }

    /// The last sequence that is on disk.
    pub(super) const fn durable(&self) -> u64 {
        self.durable
    }

    /// The next sequence to be given out.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// Whether the last thing done worked.
    pub(super) const fn is_whole(&self) -> bool {
        self.active.is_some()
    }

    pub(super) const fn appended(&self) -> u64 {
        self.appended
    }

    /// How long the last sync took.
    pub(super) const fn last_sync(&self) -> Duration {
        self.last_sync
    }

    pub(super) fn unsynced_bytes(&self) -> usize {
        self.pending.iter().map(|frame| frame.chunk.body.len()).sum()
    }

    /// Takes a batch into the group; returns the sequence of its first entry. Small batches share a frame; of a
    /// batch of several frames only the last one commits.
    pub(super) fn stage(&mut self, chunks: Vec<Chunk>) -> u64 {
        let first = self.next;
        let count = chunks.len();
        let alone = count == 1;
        for (index, chunk) in chunks.into_iter().enumerate() {
            let flags = if index + 1 == count { COMMIT } else { 0 };
            self.next += u64::from(chunk.count);
            let open = if self.pending.len() > self.written { self.pending.last_mut() } else { None };
            match open {
                Some(frame)
                    if alone
                        && frame.first >= self.kept
                        && frame.flags == COMMIT
                        && frame.chunk.body.len() + chunk.body.len() <= FRAME_BODY_BYTES_FULL =>
                {
                    frame.chunk.body.extend_from_slice(&chunk.body);
                    frame.chunk.count += chunk.count;
                }
                _ => self.pending.push(Frame { first: self.next - u64::from(chunk.count), flags, chunk }),
            }
        }
        first
    }

    /// Makes everything staged part of the log, on disk when `sync`.
    ///
    /// # Errors
    /// Nothing of what was staged is part of the log then, its sequences will be given out again; what was part of
    /// it before still is.
    pub(super) fn commit(&mut self, sync: bool) -> io::Result<()> {
        let rotate =
            self.written == 0 && self.active.as_ref().is_none_or(|a| a.bytes >= self.segment_bytes_full);
        let tried = if rotate {
            self.begin_segment()
        } else {
            self.write().and_then(|()| if sync { self.sync_active() } else { Ok(()) })
        };
        self.settle(tried)
    }

    /// Brings everything written to disk.
    ///
    /// # Errors
    /// It is still kept here, and goes to the next segment that can be made ([`Log::mend`]).
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let tried = if self.active.is_some() { self.sync_active() } else { self.begin_segment() };
        self.settle(tried)
    }

    /// After a failure: tries to begin a new segment.
    ///
    /// # Errors
    /// When the disk still fails.
    pub(super) fn mend(&mut self) -> io::Result<()> {
        let tried = if self.active.is_some() { Ok(()) } else { self.begin_segment() };
        self.settle(tried)
    }

    /// Writes a batch that is too large to be kept here, chunk by chunk, and syncs it; returns the sequence of its
    /// first entry. Nothing may be staged.
    ///
    /// # Errors
    /// None of it is part of the log then.
    pub(super) fn append_large(
        &mut self,
        count: usize,
        mut chunk: impl FnMut(usize) -> io::Result<Chunk>,
    ) -> io::Result<u64> {
        self.sync()?;
        if self.active.as_ref().is_none_or(|active| active.bytes >= self.segment_bytes_full) {
            let tried = self.begin_segment();
            self.settle(tried)?;
        }
        let first = self.next;
        let mut write = || -> io::Result<()> {
            for index in 0..count {
                let chunk = chunk(index)?;
                let flags = if index + 1 == count { COMMIT } else { 0 };
                let frame = Frame { first: self.next, flags, chunk };
                self.next += u64::from(frame.chunk.count);
                let active = self.active.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
                self.out.clear();
                encode(&active.salt, self.durable, &frame, &mut self.out);
                active.append(&self.out)?;
            }
            Ok(())
        };
        let tried = write().and_then(|()| self.sync_active());
        if let Err(error) = tried {
            self.abandon();
            self.give_up();
            return Err(error);
        }
        self.appended += self.active.as_ref().map_or(0, |active| active.bytes - active.kept_bytes);
        self.keep();
        Ok(first)
    }

    /// After a batch of its own: goes on in a new segment when this one is full. Every start copies the last segment,
    /// and what a large batch left in it is not worth that.
    ///
    /// # Errors
    /// As any write; what was written stays durable.
    pub(super) fn rotate(&mut self) -> io::Result<()> {
        let full = self.active.as_ref().is_some_and(|active| active.bytes >= self.segment_bytes_full);
        if !full || !self.pending.is_empty() {
            return Ok(());
        }
        let tried = self.begin_segment();
        self.settle(tried)
    }

    /// When the log has been idle: writes what is durable, so that later damage to the last records can be told
    /// from a torn end. Not synced; it is worth nothing before the disk has it, and does no harm.
    ///
    /// # Errors
    /// As any write.
    pub(super) fn note(&mut self) -> io::Result<()> {
        let Some(active) = self.active.as_mut().filter(|active| !active.noted) else { return Ok(()) };
        if !self.pending.is_empty() {
            return Ok(());
        }
        let frame = Frame { first: self.next, flags: NOTE, chunk: Chunk::default() };
        self.out.clear();
        encode(&active.salt, self.durable, &frame, &mut self.out);
        let tried = active.append(&self.out);
        active.noted = true;
        self.settle(tried)
    }

    pub(super) fn wants_note(&self) -> bool {
        self.pending.is_empty() && self.active.as_ref().is_some_and(|active| !active.noted)
    }

    /// The end: everything on disk, and a note that says so.
    ///
    /// # Errors
    /// As [`Log::sync`].
    pub(super) fn close(&mut self) -> io::Result<()> {
        self.sync()?;
        self.note()?;
        self.active.as_mut().map_or(Ok(()), |active| {
            active.take_room_back();
            active.file.sync()
        })
    }

    /// After a first attempt: one more in a new segment, then the books are kept accordingly.
    fn settle(&mut self, tried: io::Result<()>) -> io::Result<()> {
        let done = tried.or_else(|error| {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a write to the revocation log failed; its segment is given up"
            );
            self.abandon();
            self.begin_segment()
        });
        match done {
            Ok(()) => self.keep(),
            Err(_) => {
                self.abandon();
                self.give_up();
            }
        }
        done
    }

    fn keep(&mut self) {
        self.kept = self.next;
        self.failed.clear();
        if let Some(active) = &mut self.active {
            active.kept_bytes = active.bytes;
            self.segments.set(active.first, active.bytes);
        }
    }

    /// Forgets what was not acknowledged, here and, as far as the disk still does what it is told, there: what was
    /// answered with a failure had better not come back with the next start.
    fn give_up(&mut self) {
        self.pending.retain(|frame| frame.first < self.kept);
        self.next = self.kept;
        for mut failed in self.failed.drain(..) {
            let _ = failed.file.truncate(failed.kept_bytes);
        }
    }

    fn abandon(&mut self) {
        self.failed.extend(self.active.take());
        self.written = 0;
    }

    fn write(&mut self) -> io::Result<()> {
        let active = self.active.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        self.out.clear();
        for frame in &self.pending[self.written..] {
            encode(&active.salt, self.durable, frame, &mut self.out);
        }
        active.append(&self.out)?;
        if self.out.len() <= ROOM_FOR_GROUPS_OF {
            active.make_room();
        }
        self.written = self.pending.len();
        self.appended += self.out.len() as u64;
        Ok(())
    }

    fn sync_active(&mut self) -> io::Result<()> {
        let active = self.active.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        let start = Instant::now();
        active.file.sync()?;
        self.last_sync = start.elapsed();
        self.all_durable();
        Ok(())
    }

    /// Begins a segment behind the last durable record, and writes everything since to it, durable with it.
    fn begin_segment(&mut self) -> io::Result<()> {
        let first = self.durable + 1;
        let head = SegmentHead {
            first,
            salt: Salt::new(random()?),
            gateway: self.gateway,
            genesis: first == self.genesis,
        };
        self.out.clear();
        self.out.extend_from_slice(&head.encode());
        let mut kept_bytes = SEGMENT_HEAD_BYTES as u64;
        for frame in &self.pending {
            encode(&head.salt, self.durable, frame, &mut self.out);
            if frame.first < self.kept {
                kept_bytes = self.out.len() as u64;
            }
        }
        let name = segment_name(first);
        let mut file = self.disk.create(&unfinished(&name))?;
        file.append(&self.out)?;
        let start = Instant::now();
        file.sync()?;
        self.last_sync = start.elapsed();
        self.disk.rename(&unfinished(&name), &name)?;
        let bytes = self.out.len() as u64;
        let noted = self.pending.is_empty();
        let room = Some(bytes);
        let begun = Active { file, first, salt: head.salt, bytes, kept_bytes, room, noted };
        if let Some(mut full) = self.active.replace(begun) {
            full.take_room_back();
        }
        self.disk.sync_dir()?;
        self.appended += bytes;
        self.segments.set(first, bytes);
        self.all_durable();
        Ok(())
    }

    fn all_durable(&mut self) {
        self.pending.clear();
        self.written = 0;
        self.durable = self.next - 1;
    }
}

impl Active {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.noted = false;
        self.file.append(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Makes room when it is used up, so that most syncs have nothing to bring to the disk but records.
    fn make_room(&mut self) {
        if self.room.is_none_or(|room| self.bytes < room) {
            return;
        }
        let more = self.bytes.clamp(ROOM_BYTES_MIN, ROOM_BYTES_MAX);
        self.room = match self.file.make_room(usize::try_from(more).unwrap_or(0)) {
            Ok(()) => Some(self.bytes + more),
            // Then records take it as they come; whether they get it is for them to say.
            Err(_) => None,
        };
    }

    /// For a segment that gets no more records. Room that stays does no harm.
    fn take_room_back(&mut self) {
        if self.room.is_none_or(|room| self.bytes < room) {
            let _ = self.file.truncate(self.bytes);
        }
    }
}

fn encode(salt: &Salt, durable: u64, frame: &Frame, out: &mut Vec<u8>) {
    FrameHead::encode(salt, (frame.first, durable), (frame.chunk.count, frame.flags), &frame.chunk.body, out);
}

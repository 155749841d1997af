//! A batch of any size in bounded memory: it is spooled to a file of its own while it comes in, and goes to the log
//! in one piece when it is complete.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::disk::{Disk, File};
use super::log::Chunk;
use super::queue::{Batch, Command};
use super::record::{FRAME_BODY_BYTES_FULL, FRAME_BODY_BYTES_MAX, decode_entries};
use super::{Ack, AppendError, Handle, Revocation, SelectorKey};

/// The most entries of one batch: a million, and as many again for luck.
pub const BULK_ENTRIES_MAX: usize = 2_000_000;

/// A batch under way. Dropped before [`Bulk::commit`], it has no effect.
pub struct Bulk {
    spool: Spool,
    handle: Handle,
}

impl Bulk {
    pub(super) fn begin(handle: Handle, permit: OwnedSemaphorePermit) -> io::Result<Self> {
        Ok(Self { spool: Spool::create(Arc::clone(handle.disk()), permit)?, handle })
    }

    /// Adds entries. Blocks for as long as it takes to write them to the page cache: call it where blocking is
    /// allowed (`spawn_blocking`, a command), in pieces of some thousand.
    ///
    /// # Errors
    /// [`AppendError::Invalid`] counts items from the beginning of the whole batch. After any error the batch is
    /// of no use.
    pub fn push(&mut self, entries: Vec<Revocation>) -> Result<(), AppendError> {
        let before = self.spool.entries;
        let batch = Batch::prepare(entries).map_err(|error| match error {
            AppendError::Invalid { index, why } => AppendError::Invalid { index: before + index, why },
            other => other,
        })?;
        if before + batch.entries.len() > BULK_ENTRIES_MAX {
            return Err(AppendError::TooLarge);
        }
        let mut keys = &batch.keys[..];
        for chunk in batch.chunks {
            let (its, rest) = keys.split_at(chunk.count as usize);
            self.spool.push(chunk, its).map_err(|_| AppendError::LogUnavailable)?;
            keys = rest;
        }
        Ok(())
    }

    /// How many entries it has by now.
    pub fn entries(&self) -> usize {
        self.spool.entries
    }

    /// Makes all of it durable and puts it in force, or nothing of it. If the future is dropped, either may happen.
    ///
    /// # Errors
    /// As [`Handle::append`].
    pub async fn commit(self) -> Result<Ack, AppendError> {
        let Self { mut spool, handle } = self;
        spool.finish().map_err(|_| AppendError::LogUnavailable)?;
        if spool.entries == 0 {
            return Ok(Ack { sequence: handle.sequence(), accepted: 0 });
        }
        let (answer, answered) = oneshot::channel();
        handle.queue().put(Command::Bulk(spool, answer))?;
        answered.await.unwrap_or(Err(AppendError::Closed))
    }
}

/// The file of a batch under way; removed when dropped. Of each chunk it holds the body and, so that the writer need
/// not make them again, the keys of its entries.
pub(super) struct Spool {
    disk: Arc<dyn Disk>,
    name: String,
    file: Box<dyn File>,
    open: Chunk,
    open_keys: Vec<u8>,
    chunks: Vec<Place>,
    bytes: u64,
    pub(super) entries: usize,
    _permit: OwnedSemaphorePermit,
}

/// Where a chunk lies; its keys follow its body.
#[derive(Clone, Copy)]
struct Place {
    offset: u64,
    body_bytes: u32,
    count: u32,
    crc: u32,
    keys_crc: u32,
}

const KEY_BYTES: usize = 16;

impl Spool {
    fn create(disk: Arc<dyn Disk>, permit: OwnedSemaphorePermit) -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("batch-{}.new", NUMBER.fetch_add(1, Ordering::Relaxed));
        let file = disk.create(&name)?;
        Ok(Self {
            disk,
            name,
            file,
            open: Chunk::default(),
            open_keys: Vec::new(),
            chunks: Vec::new(),
            bytes: 0,
            entries: 0,
            _permit: permit,
        })
    }

    fn push(&mut self, chunk: Chunk, keys: &[SelectorKey]) -> io::Result<()> {
        self.entries += chunk.count as usize;
        if self.open.body.len() + chunk.body.len() > FRAME_BODY_BYTES_MAX {
            self.write()?;
        }
        self.open.body.extend_from_slice(&chunk.body);
        self.open.count += chunk.count;
        keys.iter().for_each(|key| self.open_keys.extend_from_slice(&key.to_bytes()));
        if self.open.body.len() >= FRAME_BODY_BYTES_FULL { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> io::Result<()> {
        let Self { open: Chunk { count, body }, open_keys, .. } = self;
        if *count > 0 {
            let (crc, keys_crc) = (crc32fast::hash(body), crc32fast::hash(open_keys));
            let body_bytes = u32::try_from(body.len()).map_err(io::Error::other)?;
            self.chunks.push(Place { offset: self.bytes, body_bytes, count: *count, crc, keys_crc });
            body.extend_from_slice(open_keys);
            self.file.append(body)?;
            self.bytes += body.len() as u64;
            *count = 0;
            body.clear();
            open_keys.clear();
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.write()
    }

    pub(super) fn len(&self) -> usize {
        self.chunks.len()
    }

    pub(super) fn chunk(&self, index: usize) -> io::Result<Chunk> {
        let place = self.chunks[index];
        let body = self.read(place.offset, place.body_bytes as usize, place.crc)?;
        Ok(Chunk { count: place.count, body })
    }

    /// The entries of one chunk and their keys.
    pub(super) fn read_entries(&self, index: usize) -> io::Result<(Vec<SelectorKey>, Vec<Revocation>)> {
        let place = self.chunks[index];
        let chunk = self.chunk(index)?;
        let behind = place.offset + u64::from(place.body_bytes);
        let keys = self.read(behind, place.count as usize * KEY_BYTES, place.keys_crc)?;
        let (keys, _) = keys.as_chunks::<KEY_BYTES>();
        // Sequences do not matter here.
        let records = decode_entries(1, chunk.count, &chunk.body)
            .map_err(|bad| io::Error::other(format!("{bad:?}")))?;
        Ok((
            keys.iter().map(|key| SelectorKey::from_bytes(*key)).collect(),
            records.into_iter().map(|record| record.revocation).collect(),
        ))
    }

    fn read(&self, offset: u64, length: usize, crc: u32) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        if self.file.read_at(offset, &mut bytes)? != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if crc32fast::hash(&bytes) != crc {
            return Err(io::Error::other("the spooled batch read back wrong"));
        }
        Ok(bytes)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let _ = self.disk.remove(&self.name);
    }
}

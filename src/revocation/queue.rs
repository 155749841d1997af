//! What waits for the writer: bounded by weight, so by memory; drained whole, which is what makes a group.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::bulk::Spool;
use super::log::Chunk;
use super::record::{ENTRY_BYTES_BESIDE_TEXTS, FRAME_BODY_BYTES_FULL, Origin, encode_entry};
use super::{Ack, AppendError, Kind, Revocation, SelectorKey};

/// The most weight that may wait: one for each entry and each [`WEIGHT_BYTES`] of it, so about 16 MiB.
const WEIGHT_MAX: usize = 64 << 10;
const WEIGHT_BYTES: usize = 256;
/// The most of it that one append may ask for, so that four can wait.
const APPEND_WEIGHT_MAX: usize = WEIGHT_MAX / 4;
/// How long a batch waits for room before it is refused.
const PATIENCE: Duration = Duration::from_secs(5);

/// A batch, checked and encoded on the thread of who asks, so that the writer only copies.
pub(super) struct Batch {
    pub(super) chunks: Vec<Chunk>,
    pub(super) entries: Vec<Revocation>,
    pub(super) keys: Vec<SelectorKey>,
    /// Where each was made; empty: all of them here.
    pub(super) origins: Vec<Origin>,
    /// It can be had again, so that nobody waits for it to be on disk.
    pub(super) lazy: bool,
}

impl Batch {
    /// # Errors
    /// The first item that cannot be written.
    pub(super) fn prepare(entries: Vec<Revocation>) -> Result<Self, AppendError> {
        Self::of(entries, Vec::new(), false)
    }

    /// # Errors
    /// The first item that cannot be written.
    pub(super) fn of(
        entries: Vec<Revocation>,
        origins: Vec<Origin>,
        lazy: bool,
    ) -> Result<Self, AppendError> {
        let mut chunks = vec![Chunk::default()];
        let mut keys = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            entry.validate().map_err(|why| AppendError::Invalid { index, why })?;
            keys.push(entry.selector.key());
            if chunks.last().is_some_and(|chunk| chunk.body.len() >= FRAME_BODY_BYTES_FULL) {
                chunks.push(Chunk::default());
            }
            if let Some(chunk) = chunks.last_mut() {
                encode_entry(entry, origins.get(index).unwrap_or(&Origin::Local), &mut chunk.body);
                chunk.count += 1;
            }
        }
        Ok(Self { chunks, entries, keys, origins, lazy })
    }

    fn weight(&self) -> usize {
        let bytes: usize = self.chunks.iter().map(|chunk| chunk.body.len()).sum();
        self.entries.len() + bytes / WEIGHT_BYTES
    }
}

/// Whether these may be more than one append carries, so that they have to go as a [`super::Bulk`]. Counted as if each
/// were as long on disk as it can get, so nothing that passes is refused for its weight.
pub fn is_for_bulk(entries: &[Revocation]) -> bool {
    let bytes = |entry: &Revocation| match &entry.selector.kind {
        Kind::Claim(name) => ENTRY_BYTES_BESIDE_TEXTS + name.len() + entry.value_bytes(),
        _ => ENTRY_BYTES_BESIDE_TEXTS + entry.value_bytes(),
    };
    entries.len() + entries.iter().map(bytes).sum::<usize>() / WEIGHT_BYTES > APPEND_WEIGHT_MAX
}

/// Something for the writer to do, and where to answer.
pub(super) enum Command {
    Append(Batch, oneshot::Sender<Result<Ack, AppendError>>, OwnedSemaphorePermit),
    Bulk(Spool, oneshot::Sender<Result<Ack, AppendError>>),
}

#[derive(Default)]
struct State {
    commands: VecDeque<Command>,
    closed: bool,
}

pub(super) struct Queue {
    state: Mutex<State>,
    ready: Condvar,
    room: Arc<Semaphore>,
}

/// What the writer found.
pub(super) enum Drained {
    Some(VecDeque<Command>),
    Nothing,
    Closed,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), ready: Condvar::new(), room: Arc::new(Semaphore::new(WEIGHT_MAX)) }
    }

    /// Room for the batch, waited for.
    ///
    /// # Errors
    /// [`AppendError::TooLarge`] or [`AppendError::Overloaded`].
    pub(super) async fn room(&self, batch: &Batch) -> Result<OwnedSemaphorePermit, AppendError> {
        let weight = batch.weight();
        if weight > APPEND_WEIGHT_MAX {
            return Err(AppendError::TooLarge);
        }
        let weight = u32::try_from(weight).map_err(|_| AppendError::TooLarge)?;
        // Nearly always there is room; then no timer is needed.
        if let Ok(permit) = Arc::clone(&self.room).try_acquire_many_owned(weight) {
            return Ok(permit);
        }
        let room = Arc::clone(&self.room).acquire_many_owned(weight);
        match tokio::time::timeout(PATIENCE, room).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(AppendError::Closed),
            Err(_) => Err(AppendError::Overloaded),
        }
    }

    /// # Errors
    /// [`AppendError::Closed`].
    pub(super) fn put(&self, command: Command) -> Result<(), AppendError> {
        let mut state = self.lock();
        if state.closed {
            return Err(AppendError::Closed);
        }
        state.commands.push_back(command);
        drop(state);
        self.ready.notify_one();
        Ok(())
    }

    /// Everything that waits; when nothing does, waits for something until `timeout`.
    pub(super) fn drain(&self, timeout: Duration) -> Drained {
        let state = self.lock();
        let idle = |state: &mut State| state.commands.is_empty() && !state.closed;
        let (mut state, _) =
            self.ready.wait_timeout_while(state, timeout, idle).unwrap_or_else(PoisonError::into_inner);
        if state.commands.is_empty() {
            return if state.closed { Drained::Closed } else { Drained::Nothing };
        }
        Drained::Some(std::mem::take(&mut state.commands))
    }

    /// Nothing more gets in; what is in is still drained.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.room.close();
        self.ready.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! What the log offers to whoever shares it with other gateways. It does not know who they are.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::queue::{Batch, Command};
use super::record::{Origin, Place};
use super::{Ack, AppendError, Blocklist, Handle, Revocation, SelectorKey};
use crate::clock::UnixTime;

/// What a blocklist holds of one selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The number of its kind ([`super::Kind::number`]).
    pub kind: u8,
    /// What tokens are matched by.
    pub key: SelectorKey,
    /// Seconds since 1970.
    pub expires: u32,
    /// For the kinds that have one.
    pub issued_before: Option<UnixTime>,
}

/// A batch that only has to be put in its place in the order of the log.
pub struct Prepared {
    batch: Batch,
    permit: OwnedSemaphorePermit,
}

impl Prepared {
    /// The keys of its entries.
    pub fn keys(&self) -> &[SelectorKey] {
        &self.batch.keys
    }

    /// Its entries.
    pub fn entries(&self) -> &[Revocation] {
        &self.batch.entries
    }
}

/// The answer to a batch that has its place in the order of the log.
pub struct Promise(oneshot::Receiver<Result<Ack, AppendError>>);

impl Promise {
    /// The same as [`Promise::kept`]; it is of no use once it has answered.
    ///
    /// # Errors
    /// As [`Handle::append`].
    pub async fn keeping(&mut self) -> Result<Ack, AppendError> {
        (&mut self.0).await.unwrap_or(Err(AppendError::Closed))
    }

    /// Waits until the batch is in force, and on disk unless it was lazy.
    ///
    /// # Errors
    /// As [`Handle::append`].
    pub async fn kept(self) -> Result<Ack, AppendError> {
        self.0.await.unwrap_or(Err(AppendError::Closed))
    }
}

impl Handle {
    /// The first half of [`Handle::append`]: checks and encodes a batch and waits for room. `origins` tells where each
    /// entry was made, and is empty for those made here. A `lazy` batch can be had again: it is in force when the
    /// promise is kept, and on disk some milliseconds later. It may not be empty.
    ///
    /// # Errors
    /// As [`Handle::append`].
    pub async fn prepare(
        &self,
        entries: Vec<Revocation>,
        origins: Vec<Origin>,
        lazy: bool,
    ) -> Result<Prepared, AppendError> {
        let batch = Batch::of(entries, origins, lazy)?;
        let permit = self.queue().room(&batch).await?;
        Ok(Prepared { batch, permit })
    }

    /// The second half, which waits for nothing: batches are in the log in the order of these calls.
    ///
    /// # Errors
    /// When the log is closed.
    pub fn put(&self, prepared: Prepared) -> Result<Promise, AppendError> {
        let (answer, answered) = oneshot::channel();
        self.queue().put(Command::Append(prepared.batch, answer, prepared.permit))?;
        Ok(Promise(answered))
    }

    /// How much of the shared log is in force here, as far as this log and its snapshots tell.
    pub fn place(&self) -> Option<Place> {
        *self.shared().place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything of the shared log up to this place is in force now. The next snapshot remembers it.
    pub fn set_place(&self, place: Place) {
        *self.shared().place.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
    }

    /// The first sequence that can be followed.
    pub fn oldest(&self) -> u64 {
        let first = self.shared().segments.list().first().map_or(0, |(first, _)| *first);
        first.max(self.shared().genesis.load(Ordering::SeqCst))
    }

    /// Segments with entries behind `sequence` are kept until this is called again: others have not been told of them.
    pub fn keep_behind(&self, sequence: u64) {
        self.shared().told_position.store(sequence, Ordering::SeqCst);
    }

    /// Puts entries in force that are not in the log and will not be: they last if a snapshot is taken afterwards, before
    /// [`Handle::set_place`] says that they are here. No projection hears of them.
    pub fn absorb(&self, entries: &[Standing]) {
        let blocklist: &Blocklist = self.blocklist();
        entries.iter().for_each(|entry| blocklist.absorb(entry));
    }
}

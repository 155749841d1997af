//! The audit trail of revocations: who, when, why, from where. A projection of the revocation log; the store keeps
//! the position up to which it has been fed in the same transaction as the entries, so each entry is in it once.

use super::Answer;
use crate::clock::UnixTime;

/// One entry of the log, with its place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrailEntry {
    /// Position in the local log.
    pub sequence: u64,
    /// `token`, `session`, …, `claim:NAME`.
    pub kind: Box<str>,
    /// The issuer's name in the configuration.
    pub issuer: Box<str>,
    /// The value.
    pub value: Box<str>,
    /// It took the entry of this selector away.
    pub lift: bool,
    /// The cutoff as asked for.
    pub issued_before: Option<UnixTime>,
    /// The expiry as asked for.
    pub expires_at: UnixTime,
    /// Why.
    pub reason: Box<str>,
    /// Who.
    pub actor: Box<str>,
    /// From where.
    pub address: Box<str>,
    /// When.
    pub at: UnixTime,
}

/// Which entries of the trail are asked for; newest first, if not said otherwise.
#[derive(Clone, Debug, Default)]
pub struct TrailFilter {
    /// Only this kind.
    pub kind: Option<Box<str>>,
    /// Only this issuer.
    pub issuer: Option<Box<str>>,
    /// Only this value.
    pub value: Option<Box<str>>,
    /// Only entries with a greater sequence than this.
    pub since: Option<u64>,
    /// Only entries with a lower sequence than this (the cursor of a list).
    pub before: Option<u64>,
    /// Of each selector only its newest entry, and none where that one is a lift.
    pub standing: bool,
    /// Oldest first.
    pub oldest_first: bool,
    /// At most so many.
    pub limit: usize,
}

/// The store's part in the audit trail.
pub trait Trail: Send + Sync {
    /// The greatest sequence that it has been fed; 0 when none.
    fn trail_position(&self) -> Answer<'_, u64>;

    /// Adds entries (ascending sequences) and moves the position to the last one's, in one transaction. Entries at
    /// or below the position are passed over. Until [`trail_sync`](Self::trail_sync) has answered, a power cut may
    /// take the last of them back, and the position with them: whoever feeds must still have them.
    fn trail_append(&self, entries: Vec<TrailEntry>) -> Answer<'_, ()>;

    /// Makes durable what was appended before.
    fn trail_sync(&self) -> Answer<'_, ()>;

    /// Entries that fit the filter, in its order.
    fn trail_list(&self, filter: TrailFilter) -> Answer<'_, Vec<TrailEntry>>;
}

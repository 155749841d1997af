//! Proofs that were used, for as long as one could come again (RFC 9449 §11.1).

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use super::dpop::{AGE_MAX_SECS, AHEAD_MAX_SECS};
use super::{Proof, ProofError};
use crate::clock::UnixTime;

/// A proof that was used at one time is too old after this: then it may be forgotten.
const REMEMBERED_SECS: u64 = AGE_MAX_SECS + AHEAD_MAX_SECS + 1;
/// More locks than threads that would wait for one another.
const SHARDS: usize = 32;

/// Used proofs, by key and `jti`; in memory alone: after a restart a proof of the last minute would pass once more, with
/// a token that is checked all the same. Bounded: a proof that there is no room to remember is not taken.
pub struct Replays {
    shards: [Mutex<Shard>; SHARDS],
    /// Proofs in one shard's generation, at most.
    room: usize,
}

/// Two generations: the older goes, and the newer takes its place, once in [`REMEMBERED_SECS`].
#[derive(Default)]
struct Shard {
    since_secs: u64,
    new: HashSet<[u8; 16]>,
    old: HashSet<[u8; 16]>,
}

/// Why a proof was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// It was used before.
    Replayed,
    /// There is no room to remember it.
    Full,
}

impl From<NotTaken> for super::VerifyError {
    fn from(why: NotTaken) -> Self {
        match why {
            NotTaken::Replayed => Self::Proof(ProofError::Replayed),
            NotTaken::Full => Self::Busy,
        }
    }
}

impl Default for Replays {
    fn default() -> Self {
        Self::new(1 << 20)
    }
}

impl Replays {
    /// Room for about so many proofs in a minute.
    pub fn new(room: usize) -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), room: room.div_ceil(SHARDS) }
    }

    /// Takes a proof: of any number of uses of the same one, the first.
    ///
    /// # Errors
    /// See [`NotTaken`].
    pub fn take(&self, proof: &Proof, now: UnixTime) -> Result<(), NotTaken> {
        let id = proof.id();
        let shard = &self.shards[usize::from(id[0]) % SHARDS];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that went back must not forget anything.
        if now.secs() >= shard.since_secs + REMEMBERED_SECS {
            let is_all_old = now.secs() >= shard.since_secs + 2 * REMEMBERED_SECS;
            shard.old = std::mem::take(&mut shard.new);
            if is_all_old {
                shard.old.clear();
            }
            shard.since_secs = now.secs();
        }
        if shard.old.contains(&id) || shard.new.contains(&id) {
            return Err(NotTaken::Replayed);
        }
        if shard.new.len() >= self.room {
            return Err(NotTaken::Full);
        }
        shard.new.insert(id);
        Ok(())
    }
}

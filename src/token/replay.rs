//! Proofs that were used, for as long as one could come again (RFC 9449 §11.1).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::dpop::{AGE_MAX_SECS, AHEAD_MAX_SECS};
use super::{Proof, ProofError, decode_base64url, encode_base64url};
use crate::clock::UnixTime;

/// A proof that was used at one time is too old after this: then it may be forgotten.
const REMEMBERED_SECS: u64 = AGE_MAX_SECS + AHEAD_MAX_SECS + 1;
/// How long a proof that was used must be remembered.
pub const PROOF_REMEMBERED: Duration = Duration::from_secs(REMEMBERED_SECS);
/// More locks than threads that would wait for one another.
const SHARDS: usize = 32;

/// Used proofs, by key and `jti`; in memory alone: after a restart a proof of the last minute would pass once more, with
/// a token that is checked all the same (a process that takes the place of this one is [told](Replays::handed_over)).
/// Bounded: a proof that there is no room to remember is not taken.
pub struct Replays {
    shards: Arc<[Mutex<Shard>; SHARDS]>,
    /// Proofs in one shard's generation, at most.
    room: usize,
    /// Every proof must have a nonce of ours.
    nonces: Option<Nonces>,
}

/// Nonces without a memory of them: the minute, and a MAC over it by this secret.
struct Nonces(Mutex<Zeroizing<Vec<u8>>>);

/// How long a nonce is good, in minutes, the one in which it was made not counted.
const NONCE_MINUTES: u64 = 5;

impl Nonces {
    fn secret(&self) -> MutexGuard<'_, Zeroizing<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, minute: u64) -> Box<str> {
        let bytes = minute.to_be_bytes();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.secret());
        let tag = hmac::sign(&key, &bytes);
        encode_base64url([&bytes[..], &tag.as_ref()[..16]].concat()).into()
    }

    /// That this is a nonce of ours, and not an old one; else the one to use now.
    fn check(&self, nonce: Option<&str>, now: UnixTime) -> Result<(), Box<str>> {
        let minute = now.secs() / 60;
        let is_good = |nonce: &str| {
            let bytes = decode_base64url(nonce).ok().filter(|bytes| bytes.len() == 24)?;
            let made = u64::from_be_bytes(bytes[..8].try_into().ok()?);
            let fresh = (minute.saturating_sub(NONCE_MINUTES)..=minute + 1).contains(&made);
            Some(fresh && bool::from(self.of(made).as_bytes().ct_eq(nonce.as_bytes())))
        };
        match nonce.and_then(is_good) {
            Some(true) => Ok(()),
            _ => Err(self.of(minute)),
        }
    }
}

/// Two generations: the older goes, and the newer takes its place, once in [`REMEMBERED_SECS`].
#[derive(Default)]
struct Shard {
    since_secs: u64,
    new: HashSet<[u8; 16]>,
    old: HashSet<[u8; 16]>,
}

/// Why a proof was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// It was used before.
    Replayed,
    /// There is no room to remember it.
    Full,
    /// It needs this nonce.
    NonceWanted(Box<str>),
}

impl From<NotTaken> for super::VerifyError {
    fn from(why: NotTaken) -> Self {
        match why {
            NotTaken::Replayed => Self::Proof(ProofError::Replayed),
            NotTaken::Full => Self::Busy,
            NotTaken::NonceWanted(nonce) => Self::NonceWanted(nonce),
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
        let shards = Arc::new(std::array::from_fn(|_| Mutex::default()));
        Self { shards, room: room.div_ceil(SHARDS), nonces: None }
    }

    /// The same memory, where every proof must have a nonce of ours, made with this secret; `None`: none need have
    /// one.
    pub fn with_nonces(&self, secret: Option<&[u8]>) -> Self {
        let nonces = secret.map(|secret| Nonces(Mutex::new(Zeroizing::new(secret.to_vec()))));
        Self { shards: Arc::clone(&self.shards), room: self.room, nonces }
    }

    /// Every proof must have a nonce of ours.
    pub const fn asks_for_nonces(&self) -> bool {
        self.nonces.is_some()
    }

    /// All that were used and could come again, and what makes nonces, for the process that takes the place of this one.
    pub fn handed_over(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for shard in &*self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            // How many there are of the newer generation and of the older, since when it is the newer one, and all ids.
            let counts = [shard.new.len() as u64, shard.old.len() as u64, shard.since_secs];
            counts.iter().for_each(|count| bytes.extend_from_slice(&count.to_le_bytes()));
            shard.new.iter().chain(&shard.old).for_each(|id| bytes.extend_from_slice(id));
        }
        if let Some(nonces) = &self.nonces {
            bytes.extend_from_slice(&nonces.secret());
        }
        bytes
    }

    /// Goes on with what [`handed_over`](Self::handed_over) gave, before any proof is taken here.
    pub fn take_over(&self, mut bytes: &[u8]) {
        fn number(bytes: &mut &[u8]) -> Option<u64> {
            bytes.split_off(..8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes)
        }
        fn ids(bytes: &mut &[u8], count: u64, room: usize) -> Option<HashSet<[u8; 16]>> {
            let count = usize::try_from(count).ok().filter(|count| *count <= room)?;
            Some(bytes.split_off(..count * 16)?.as_chunks().0.iter().copied().collect())
        }
        for shard in &*self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let numbers = (number(&mut bytes), number(&mut bytes), number(&mut bytes));
            let (Some(new), Some(old), Some(since_secs)) = numbers else { return };
            let sets = (ids(&mut bytes, new, self.room), ids(&mut bytes, old, self.room));
            let (Some(new), Some(old)) = sets else { return };
            *shard = Shard { since_secs, new, old };
        }
        if let Some(nonces) = self.nonces.as_ref().filter(|_| !bytes.is_empty()) {
            *nonces.secret() = Zeroizing::new(bytes.to_vec());
        }
    }

    /// Takes a proof: of any number of uses of the same one, the first.
    ///
    /// # Errors
    /// See [`NotTaken`].
    pub fn take(&self, proof: &Proof, now: UnixTime) -> Result<(), NotTaken> {
        if let Some(nonces) = &self.nonces {
            nonces.check(proof.nonce(), now).map_err(NotTaken::NonceWanted)?;
        }
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

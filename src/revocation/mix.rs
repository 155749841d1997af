//! The hash of the blocklist's maps: two random words, one multiplication.

use std::hash::{BuildHasher, Hasher};

use super::SelectorKey;

/// The words that choose shard and place; drawn at random, so that nobody can make keys that aim at one place.
/// They are kept in the snapshot (mode 0600), so that it loads shard by shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mix(pub(super) [u64; 2]);

impl Mix {
    /// Both halves masked, multiplied, and the product folded.
    pub(super) fn hash(self, key: &SelectorKey) -> u64 {
        let [a, b, c, d] = key.0.map(u64::from);
        let product = u128::from((a | b << 32) ^ self.0[0]) * u128::from((c | d << 32) ^ self.0[1]);
        product as u64 ^ (product >> 64) as u64
    }
}

impl BuildHasher for Mix {
    type Hasher = MixHasher;

    fn build_hasher(&self) -> MixHasher {
        MixHasher { mix: *self, hash: 0 }
    }
}

/// Hashes one [`SelectorKey`].
pub(super) struct MixHasher {
    mix: Mix,
    hash: u64,
}

impl Hasher for MixHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(16) {
            let mut whole = [0; 16];
            whole[..chunk.len()].copy_from_slice(chunk);
            self.hash ^= self.mix.hash(&SelectorKey::from_bytes(whole));
        }
    }

    /// The length that an array puts before its items: always four.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.hash
    }
}

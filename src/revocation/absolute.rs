//! The map of one absolute kind (tokens, sessions): key to expiry, 21 bytes a slot, in shards that can be copied,
//! loaded and swept one by one.

use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::mapref::entry::Entry;
use dashmap::{DashMap, SharedValue};

use super::SelectorKey;

/// The words that choose shard and bucket; drawn at random, so that nobody can make keys that aim at one bucket.
/// They are kept in the snapshot (mode 0600), so that it loads shard by shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mix(pub(super) [u64; 2]);

impl BuildHasher for Mix {
    type Hasher = MixHasher;

    fn build_hasher(&self) -> MixHasher {
        MixHasher { words: self.0, hash: 0 }
    }
}

/// Hashes one [`SelectorKey`]: both halves masked, multiplied, and the product folded.
pub(super) struct MixHasher {
    words: [u64; 2],
    hash: u64,
}

impl Hasher for MixHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(16) {
            let mut whole = [0; 16];
            whole[..chunk.len()].copy_from_slice(chunk);
            let key = u128::from_le_bytes(whole);
            let (low, high) = (key as u64 ^ self.words[0], (key >> 64) as u64 ^ self.words[1] ^ self.hash);
            let product = u128::from(low) * u128::from(high);
            self.hash = product as u64 ^ (product >> 64) as u64;
        }
    }

    /// The length that an array puts before its items: always four.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.hash
    }
}

/// One map whose entries are counted per kind before they can be found, so that a count of zero means that there
/// is nothing to find.
pub(super) struct Absolute {
    pub(super) map: DashMap<SelectorKey, u32, Mix>,
    pub(super) count: AtomicU64,
}

impl Absolute {
    pub(super) fn new(shards: usize, mix: Mix) -> Self {
        Self { map: DashMap::with_hasher_and_shard_amount(mix, shards), count: AtomicU64::new(0) }
    }

    pub(super) fn refuses(&self, key: &SelectorKey) -> bool {
        self.count.load(Ordering::Acquire) != 0 && self.map.contains_key(key)
    }

    pub(super) fn raise(&self, key: SelectorKey, expires: u32) {
        match self.map.entry(key) {
            Entry::Occupied(mut entry) => {
                let later = expires.max(*entry.get());
                entry.insert(later);
            }
            Entry::Vacant(entry) => {
                self.count.fetch_add(1, Ordering::SeqCst);
                entry.insert(expires);
            }
        }
    }

    pub(super) fn lift(&self, key: &SelectorKey) {
        if self.map.remove(key).is_some() {
            self.count.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// The entries of one shard. The shard is locked while its table is copied, not while the copy is read.
    pub(super) fn shard(&self, index: usize) -> impl Iterator<Item = (SelectorKey, u32)> + use<> {
        let copy = self.map.shards()[index].read().clone();
        copy.into_iter().map(|(key, expires)| (key, expires.into_inner()))
    }

    /// Puts in what a snapshot holds of one shard.
    pub(super) fn load(&self, index: usize, entries: impl ExactSizeIterator<Item = (SelectorKey, u32)>) {
        let place = |(key, _): &(SelectorKey, SharedValue<u32>)| self.map.hash_usize(key) as u64;
        let mut shard = self.map.shards()[index].write();
        shard.reserve(entries.len(), place);
        self.count.fetch_add(entries.len() as u64, Ordering::SeqCst);
        for (key, expires) in entries {
            let hash = self.map.hash_usize(&key) as u64;
            shard.insert_entry(hash, (key, SharedValue::new(expires)), place);
        }
    }

    pub(super) fn sweep(&self, index: usize, before: u32) -> usize {
        let expired: Vec<_> = self.shard(index).filter(|(_, at)| *at < before).map(|(key, _)| key).collect();
        let mut dropped = 0;
        for key in &expired {
            // Looked at once more under the lock: it may have been given a later expiry meanwhile.
            if self.map.remove_if(key, |_, at| *at < before).is_some() {
                self.count.fetch_sub(1, Ordering::SeqCst);
                dropped += 1;
            }
        }
        if dropped > 0 {
            let mut shard = self.map.shards()[index].write();
            if shard.len() < shard.capacity() / 4 {
                let room = shard.len() * 2;
                shard.shrink_to(room, |(key, _)| self.map.hash_usize(key) as u64);
            }
        }
        dropped
    }

    pub(super) fn bytes(&self) -> u64 {
        let slot = size_of::<(SelectorKey, u32)>() + 1;
        let shards = self.map.shards();
        let tables: usize = shards.iter().map(|shard| shard.read().buckets() * slot).sum();
        (tables + size_of_val(shards)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::super::sim::Random;
    use super::*;

    fn filled(entries: u64, shards: usize) -> Absolute {
        let map = Absolute::new(shards, Mix([0x1234_5678_9abc_def1, 0xfedc_ba98_7654_3211]));
        let mut random = Random(1);
        for _ in 0..entries {
            let (a, b) = (random.next(), random.next());
            map.raise(SelectorKey([a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32]), 1);
        }
        map
    }

    #[test]
    fn an_entry_takes_at_most_forty_bytes_where_tables_are_as_full_as_at_ten_million() {
        // A table's fill depends on the entries of a shard: 2,441 of them at 10 million in 4,096 shards.
        let map = filled(2441 * 32, 32);
        assert!(map.bytes() / (2441 * 32) <= 40, "{}", map.bytes() / (2441 * 32));
    }

    #[test]
    fn keys_that_differ_in_one_word_only_are_spread_over_shards_and_buckets() {
        let map = Absolute::new(64, Mix([0x1234_5678_9abc_def1, 0xfedc_ba98_7654_3211]));
        for word in 0..4 {
            let mut counts = [0_u32; 64];
            for number in 0..6400 {
                let mut key = [7; 4];
                key[word] = number;
                counts[map.map.determine_map(&SelectorKey(key))] += 1;
            }
            assert!(counts.iter().all(|count| (40..180).contains(count)), "{word}: {counts:?}");
        }
    }

    /// Run it by name; it takes some 400 MB.
    #[test]
    #[ignore = "ten million entries"]
    fn ten_million_entries_take_at_most_forty_bytes_each() {
        let map = filled(10_000_000, 4096);
        assert!(map.bytes() <= 400_000_000, "{}", map.bytes());
    }
}

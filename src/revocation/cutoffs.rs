//! The map of the kinds with a cutoff: key to cutoff, expiry and kind, with a filter before it.
//!
//! All tokens have the same few clients, keys, issuers and listed claims, so every check of every thread would take
//! the same locks. Hence the filter: one byte for each of a million groups of keys counts the entries of the group,
//! and a check takes a lock only where there is one. It saves look-ups and decides nothing.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use super::SelectorKey;
use super::mix::Mix;
use crate::clock::UnixTime;

const SHARDS: usize = 64;
/// Groups of the filter, a power of two: a megabyte.
const GROUPS: usize = if cfg!(test) { 1 << 6 } else { 1 << 20 };

/// A cutoff as kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cutoff {
    pub(super) issued_before: UnixTime,
    pub(super) expires: u32,
    /// As [`super::record::kind_number`].
    pub(super) kind: u8,
}

pub(super) struct Cutoffs {
    map: DashMap<SelectorKey, Cutoff, Mix>,
    /// Entries of each group. One that has reached 255 stays there: it is not known any more how many there are.
    filter: Box<[AtomicU8]>,
    /// By [`super::record::kind_number`]; the first is of all kinds together, the next two are not used.
    counts: [AtomicU64; 8],
}

impl Cutoffs {
    /// An empty map of at most `shards` shards.
    pub(super) fn new(shards: usize, mix: Mix) -> Self {
        Self {
            map: DashMap::with_hasher_and_shard_amount(mix, SHARDS.min(shards)),
            filter: std::iter::repeat_with(AtomicU8::default).take(GROUPS).collect(),
            counts: Default::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.counts[0].load(Ordering::Acquire) == 0
    }

    /// Entries of the kind of this number.
    pub(super) fn count(&self, kind: usize) -> u64 {
        self.counts[kind].load(Ordering::Acquire)
    }

    pub(super) fn get(&self, key: &SelectorKey) -> Option<Cutoff> {
        // Counted before it is put in, so none counted means that none is there.
        if self.group(key).load(Ordering::Acquire) == 0 {
            return None;
        }
        self.map.get(key).map(|cutoff| *cutoff)
    }

    /// Makes the cutoff at least as strict as this: the later cutoff and the later expiry win.
    pub(super) fn raise(&self, key: SelectorKey, new: Cutoff) {
        match self.map.entry(key) {
            Entry::Occupied(mut entry) => {
                let old = *entry.get();
                let issued_before = old.issued_before.max(new.issued_before);
                entry.insert(Cutoff { issued_before, expires: old.expires.max(new.expires), kind: old.kind });
            }
            Entry::Vacant(entry) => {
                self.counts[usize::from(new.kind & 7)].fetch_add(1, Ordering::SeqCst);
                self.counts[0].fetch_add(1, Ordering::SeqCst);
                self.regroup(&key, |count| count.saturating_add(1));
                entry.insert(new);
            }
        }
    }

    pub(super) fn lift(&self, key: &SelectorKey) {
        if let Some((_, cutoff)) = self.map.remove(key) {
            self.count_away(key, cutoff);
        }
    }

    /// Drops what has expired before `before` from one shard.
    pub(super) fn sweep(&self, index: usize, before: u32) -> usize {
        let expired = self.shard(index).filter(|(_, cutoff)| cutoff.expires < before);
        let mut dropped = 0;
        for (key, _) in expired.collect::<Vec<_>>() {
            if let Some((_, cutoff)) = self.map.remove_if(&key, |_, cutoff| cutoff.expires < before) {
                self.count_away(&key, cutoff);
                dropped += 1;
            }
        }
        dropped
    }

    /// The entries of one shard, which is locked while its table is copied.
    pub(super) fn shard(&self, index: usize) -> impl Iterator<Item = (SelectorKey, Cutoff)> + use<> {
        let copy = self.map.shards()[index].read().clone();
        copy.into_iter().map(|(key, cutoff)| (key, cutoff.into_inner()))
    }

    pub(super) fn shards(&self) -> usize {
        self.map.shards().len()
    }

    pub(super) fn bytes(&self) -> u64 {
        let slot = size_of::<(SelectorKey, Cutoff)>() + 1;
        let tables: usize = self.map.shards().iter().map(|shard| shard.read().buckets() * slot).sum();
        (tables + GROUPS) as u64
    }

    fn count_away(&self, key: &SelectorKey, cutoff: Cutoff) {
        self.regroup(key, |count| if count == u8::MAX { count } else { count.saturating_sub(1) });
        self.counts[usize::from(cutoff.kind & 7)].fetch_sub(1, Ordering::SeqCst);
        self.counts[0].fetch_sub(1, Ordering::SeqCst);
    }

    fn regroup(&self, key: &SelectorKey, change: impl Fn(u8) -> u8) {
        let _ = self.group(key).fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| Some(change(count)));
    }

    fn group(&self, key: &SelectorKey) -> &AtomicU8 {
        &self.filter[self.map.hash_usize(key) & (GROUPS - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> SelectorKey {
        SelectorKey([number, 7, number.rotate_left(9), 1])
    }

    fn cutoff() -> Cutoff {
        Cutoff { issued_before: UnixTime::from_secs(5), expires: 9, kind: 3 }
    }

    #[test]
    fn the_filter_never_hides_an_entry_even_when_its_counters_are_full() {
        // Five hundred to a group, then nearly all of them taken away again.
        let map = Cutoffs::new(4, Mix([3, 5]));
        let all = 500 * GROUPS as u32;
        (0..all).for_each(|number| map.raise(key(number), cutoff()));
        (0..all).filter(|number| number % 97 != 0).for_each(|number| map.lift(&key(number)));
        for number in 0..all {
            assert_eq!(map.get(&key(number)).is_some(), number % 97 == 0, "{number}");
        }
        assert_eq!(map.count(3), u64::from(all.div_ceil(97)));
    }

    #[test]
    fn the_filter_is_empty_again_when_the_map_is() {
        let map = Cutoffs::new(4, Mix([3, 5]));
        (0..1000).for_each(|number| map.raise(key(number), cutoff()));
        (0..500).for_each(|number| map.lift(&key(number)));
        (0..map.shards()).for_each(|shard| _ = map.sweep(shard, 10));
        assert!(map.is_empty());
        assert!(map.filter.iter().all(|count| count.load(Ordering::SeqCst) == 0));
    }
}

//! The table of one shard of tokens or sessions: its layout, and looking in it. `absolute.rs` says who may write.
//!
//! ```text
//! filter   one word for each four slots: four bits set for each entry
//! slots    key 4 words, expiry 1 word (0: free); in the order of their hash, each at its home or as little behind it
//!          as that allows
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::SelectorKey;
use super::mix::Mix;

/// Slots of the smallest table.
const SLOTS_MIN: usize = 16;
/// Slots that share a word of the filter, and the words of all of them together.
const GROUP_SLOTS: usize = 4;
const GROUP_WORDS: usize = 1 + GROUP_SLOTS * 5;
/// The four words of a key and its expiry, at least 1; 0 marks a free slot.
pub(super) type Slot = [AtomicU32; 5];
/// The words of the filter, and behind them the slots, in the order of their hash.
pub(super) type Table = Arc<[AtomicU32]>;
/// Where a key is, or would have to be.
pub(super) enum Place {
    Taken(usize),
    Free(usize),
}

/// The expiry of this key, of which `hash` is the lower half of its hash. Means something only when no slot was written
/// meanwhile.
pub(super) fn find(mix: Mix, slots: &[Slot], key: &SelectorKey, hash: u32) -> Option<u32> {
    let mut rest = slots.get(home(slots.len(), hash)..)?;
    while let Some((slot, behind)) = rest.split_first() {
        let (found, expires) = read(slot);
        if expires == 0 {
            return None;
        }
        if found == *key {
            return Some(expires);
        }
        if mix.hash(&found) as u32 > hash {
            return None;
        }
        rest = behind;
    }
    None
}

/// The same for who writes.
pub(super) fn seek(mix: Mix, slots: &[Slot], key: &SelectorKey, hash: u32) -> Place {
    let mut at = home(slots.len(), hash);
    while let Some(slot) = slots.get(at) {
        let (found, expires) = read(slot);
        if expires == 0 {
            break;
        }
        if found == *key {
            return Place::Taken(at);
        }
        if mix.hash(&found) as u32 > hash {
            break;
        }
        at += 1;
    }
    Place::Free(at)
}

/// A table of at least so many slots with these entries, which come in the order of their hash.
pub(super) fn table(mix: Mix, mut count: usize, entries: &[(SelectorKey, u32)]) -> Table {
    loop {
        let table: Table = (0..words(count)).map(|_| AtomicU32::new(0)).collect();
        let (slots, mut next) = (slots(&table), 0);
        let fits = entries.iter().all(|(key, expires)| {
            let hash = mix.hash(key);
            let at = next.max(home(slots.len(), hash as u32));
            next = at + 1;
            set_bits(&table, hash);
            slots.get(at).map(|slot| write(slot, key, *expires)).is_some()
        });
        if fits {
            return table;
        }
        count = slots_after(count);
    }
}

/// The slots of a table.
pub(super) fn slots(table: &[AtomicU32]) -> &[Slot] {
    table[table.len() / GROUP_WORDS..].as_chunks().0
}

/// The words of a table of so many slots.
const fn words(slots: usize) -> usize {
    slots / GROUP_SLOTS * GROUP_WORDS
}

/// Where in the filter an entry of this hash sets its bits, and which.
const fn bits(words: usize, hash: u64) -> (usize, u32) {
    // The upper half, of which a part is the same all over a shard, spread.
    let spread = ((hash >> 32) as u32).wrapping_mul(0x9e37_79b1);
    let bits =
        1 << (spread >> 27) | 1 << (spread >> 22 & 31) | 1 << (spread >> 17 & 31) | 1 << (spread >> 12 & 31);
    ((((hash & 0xffff_ffff) * (words / GROUP_WORDS) as u64) >> 32) as usize, bits)
}

/// False when no entry of this hash is in the table.
pub(super) fn may_hold(table: &[AtomicU32], hash: u64) -> bool {
    let (word, bits) = bits(table.len(), hash);
    table.get(word).is_some_and(|word| word.load(Ordering::Relaxed) & bits == bits)
}

pub(super) fn set_bits(table: &[AtomicU32], hash: u64) {
    let (word, bits) = bits(table.len(), hash);
    if let Some(word) = table.get(word) {
        word.fetch_or(bits, Ordering::Relaxed);
    }
}

pub(super) fn read(slot: &Slot) -> (SelectorKey, u32) {
    let word = |at: usize| slot[at].load(Ordering::Relaxed);
    (SelectorKey([word(0), word(1), word(2), word(3)]), word(4))
}

pub(super) fn write(slot: &Slot, key: &SelectorKey, expires: u32) {
    let [a, b, c, d, e] = slot;
    for (place, word) in [a, b, c, d].into_iter().zip(key.0) {
        place.store(word, Ordering::Relaxed);
    }
    e.store(expires, Ordering::Relaxed);
}

/// Slots of a table that are homes. The others, at its end, take what the last homes have no room for.
const fn homes(slots: usize) -> usize {
    let quarter = slots / 4;
    slots - if quarter < 24 { quarter } else { 24 } - slots / 128
}

/// Where an entry of this hash should be.
pub(super) const fn home(slots: usize, hash: u32) -> usize {
    ((hash as u64 * homes(slots) as u64) >> u32::BITS) as usize
}

/// Entries that a table takes: five sixths of its homes.
pub(super) const fn entries_max(slots: usize) -> usize {
    homes(slots) / 6 * 5
}

/// Slots for so many entries: as many as if it had grown to them.
pub(super) fn slots_for(entries: usize) -> usize {
    let mut slots = if entries == 0 { 0 } else { size_class(SLOTS_MIN.max(entries * 6 / 5)) };
    while entries_max(slots) < entries {
        slots = slots_after(slots);
    }
    slots
}

pub(super) fn slots_after(slots: usize) -> usize {
    size_class(SLOTS_MIN.max(slots + 1))
}

/// The number of slots from `slots` that fills a size class of the allocator: there are four to each power of two,
/// and what is between them would be wasted.
fn size_class(slots: usize) -> usize {
    // In front of the words stand the two counters of the `Arc`.
    let head = 2 * size_of::<usize>();
    let group = GROUP_WORDS * size_of::<AtomicU32>();
    let bytes = head + slots.div_ceil(GROUP_SLOTS) * group;
    let step = 1 << bytes.ilog2().saturating_sub(2);
    (bytes.next_multiple_of(step) - head) / group * GROUP_SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_fills_its_size_class_and_the_next_is_a_quarter_larger_at_most() {
        let mut slots = 0;
        for _ in 0..80 {
            let next = slots_after(slots);
            let bytes = words(next) * 4 + 16;
            let class = 1_usize << (bytes.ilog2() - 2);
            assert!(
                bytes.is_multiple_of(class) || class - bytes % class < 4 * GROUP_WORDS,
                "{next} slots, {bytes} B"
            );
            assert!(slots < SLOTS_MIN || next <= slots * 4 / 3 + GROUP_SLOTS, "{slots} to {next}");
            assert!(entries_max(next) < homes(next) && homes(next) < next);
            slots = next;
        }
    }

    #[test]
    fn there_is_room_for_what_is_asked_for_and_for_no_more_than_growing_would_give() {
        for entries in 1..20_000 {
            let slots = slots_for(entries);
            assert!(entries_max(slots) >= entries);
            let mut grown = 0;
            while entries_max(grown) < entries {
                grown = slots_after(grown);
            }
            assert!(slots <= grown, "{entries}");
        }
    }
}

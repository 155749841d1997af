//! The maps of the absolute kinds (tokens, sessions): key to expiry, 21 bytes a slot, in shards that can be copied,
//! loaded and swept one by one. A look-up takes no lock that another thread takes.
//!
//! A shard is a table of slots in the order of their hash, each at its home (its hash scaled to the length of the
//! table) or as little behind it as the order allows; so it may be filled to five sixths, and a look-up ends, found
//! or not, after three or four neighbours. It grows by one size class of the allocator at a time.
//!
//! Before the slots stands a filter: a word for each four of them, with four bits set for each entry. Ninety-eight of
//! a hundred keys that are not there need no more than this word, and since the processor guesses that, it fetches
//! the words of one check at the same time. The filter saves look-ups and decides nothing.
//!
//! Readers look while the one writer writes: each shard has a version, odd while slots are moved, and who reads
//! looks again when it has changed meanwhile. Which table a shard has is written down once for each lane of readers,
//! behind a lock that only the growth of a table takes for writing; so the cache lines that a reader writes to are
//! its own.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use super::SelectorKey;
use super::mix::Mix;
use super::table::{
    Place, Table, entries_max, find, home, may_hold, read, seek, set_bits, slots, slots_after, slots_for,
    table, write,
};

/// Copies of the directory for readers to share as little as possible; 128 KiB each with 4,096 shards.
const LANES: usize = 8;
/// Looks at a shard that is being written before the thread gives way: its writer may be waiting for this processor.
const LOOKS: u32 = 64;
/// Slots of a shard that are copied at a time: some ten microseconds.
const PIECE: usize = 512;
/// Copies of a shard that are made in vain, since it was written to meanwhile, before its writer is kept waiting.
const COPIES: usize = 8;

/// The entries of a shard: key and expiry, in the order of their hash.
pub(super) type Copied = Vec<(SelectorKey, u32)>;

/// Which of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Tokens,
    Sessions,
}

/// The table of each shard: those of tokens, then those of sessions.
type Directory = Box<[Table]>;

/// Both maps. Entries are counted before they can be found, so that a count of zero means that there is nothing to
/// find.
pub(super) struct Absolutes {
    mix: Mix,
    /// Of each map.
    shards: usize,
    counts: [AtomicU64; 2],
    /// Of each shard; odd while it is written.
    versions: Box<[AtomicU32]>,
    lanes: [Lane; LANES],
    writing: Mutex<Writing>,
}

/// A directory in cache lines of its own.
#[repr(align(128))]
struct Lane(RwLock<Directory>);

/// What only who writes needs.
struct Writing {
    tables: Directory,
    /// Entries of each shard.
    lens: Box<[u32]>,
}

/// Both maps, being looked at: tables may be written meanwhile but are not exchanged. Not to be kept.
pub(super) struct View<'a> {
    maps: &'a Absolutes,
    tables: RwLockReadGuard<'a, Directory>,
}

impl View<'_> {
    /// The expiry of this key.
    pub(super) fn get(&self, which: Which, key: &SelectorKey) -> Option<u32> {
        let hash = self.maps.mix.hash(key);
        let shard = self.maps.shard_of(which, hash);
        let table = &*self.tables[shard];
        // Bits are set before an entry is there and are not taken away, so this needs no version.
        if !may_hold(table, hash) {
            return None;
        }
        let (slots, version) = (slots(table), &self.maps.versions[shard]);
        let mut looks = 0_u32;
        loop {
            let before = version.load(Ordering::Acquire);
            if before % 2 == 0 {
                let found = find(self.maps.mix, slots, key, hash as u32);
                // What was read stays before the second look at the version.
                fence(Ordering::Acquire);
                if version.load(Ordering::Relaxed) == before {
                    return found;
                }
            }
            looks += 1;
            if looks.is_multiple_of(LOOKS) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
    }
}

impl Absolutes {
    /// Empty ones. `shards` is a power of two, at least 2.
    pub(super) fn new(shards: usize, mix: Mix) -> Self {
        let none = Table::default();
        let directory = || -> Directory { std::iter::repeat_n(none.clone(), 2 * shards).collect() };
        Self {
            mix,
            shards,
            counts: Default::default(),
            versions: std::iter::repeat_with(AtomicU32::default).take(2 * shards).collect(),
            lanes: [(); LANES].map(|()| Lane(RwLock::new(directory()))),
            writing: Mutex::new(Writing { tables: directory(), lens: vec![0; 2 * shards].into() }),
        }
    }

    /// Shards of each map.
    pub(super) const fn shards(&self) -> usize {
        self.shards
    }

    /// Entries of one of them.
    pub(super) fn count(&self, which: Which) -> u64 {
        self.counts[which as usize].load(Ordering::Acquire)
    }

    /// For look-ups. Takes a lock of this thread's own, or of few threads.
    pub(super) fn view(&self) -> View<'_> {
        let lane = &self.lanes[own_lane()].0;
        View { maps: self, tables: lane.read().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Makes the expiry at least this late.
    pub(super) fn raise(&self, which: Which, key: SelectorKey, expires: u32) {
        let (hash, expires) = (self.mix.hash(&key), expires.max(1));
        let shard = self.shard_of(which, hash);
        let mut writing = self.write();
        let there = slots(&writing.tables[shard]);
        if let Place::Taken(at) = seek(self.mix, there, &key, hash as u32) {
            // One word: it needs no version.
            there[at][4].fetch_max(expires, Ordering::Relaxed);
            return;
        }
        let full = writing.lens[shard] as usize >= entries_max(there.len());
        self.counts[which as usize].fetch_add(1, Ordering::SeqCst);
        if full {
            self.grow(&mut writing, shard);
        }
        while !self.insert(&writing.tables[shard], shard, &key, expires) {
            self.grow(&mut writing, shard);
        }
        writing.lens[shard] += 1;
    }

    pub(super) fn lift(&self, which: Which, key: &SelectorKey) {
        let hash = self.mix.hash(key);
        let shard = self.shard_of(which, hash);
        let mut writing = self.write();
        let slots = slots(&writing.tables[shard]);
        let Place::Taken(at) = seek(self.mix, slots, key, hash as u32) else { return };
        self.versioned(shard, || {
            // Those behind it move up, as far as they are behind their homes. The filter stays as it is.
            let mut free = at;
            while let Some(slot) = slots.get(free + 1) {
                let (key, expires) = read(slot);
                if expires == 0 || home(slots.len(), self.mix.hash(&key) as u32) > free {
                    break;
                }
                write(&slots[free], &key, expires);
                free += 1;
            }
            slots[free][4].store(0, Ordering::Relaxed);
        });
        writing.lens[shard] -= 1;
        self.counts[which as usize].fetch_sub(1, Ordering::SeqCst);
    }

    /// The entries of one shard as of one moment. Nobody waits while they are copied, however
    /// often `pause` rests between pieces of them.
    pub(super) fn shard(&self, which: Which, index: usize, mut pause: impl FnMut()) -> Copied {
        let shard = self.shard_at(which, index);
        let version = &self.versions[shard];
        let mut entries = Vec::new();
        for _ in 0..COPIES {
            let (table, count) = {
                let writing = self.write();
                (Table::clone(&writing.tables[shard]), writing.lens[shard] as usize)
            };
            // A table that another one has taken the place of meanwhile is not written to any more.
            let before = version.load(Ordering::Acquire);
            if before % 2 == 1 {
                pause();
                continue;
            }
            entries.clear();
            entries.reserve(count);
            for piece in slots(&table).chunks(PIECE) {
                entries.extend(piece.iter().map(read).filter(|(_, expires)| *expires > 0));
                pause();
            }
            // What was read stays before the second look at the version.
            fence(Ordering::Acquire);
            if version.load(Ordering::Relaxed) == before {
                return entries;
            }
        }
        let writing = self.write();
        entries.clear();
        entries.extend(slots(&writing.tables[shard]).iter().map(read).filter(|(_, expires)| *expires > 0));
        entries
    }

    /// Puts in what a snapshot holds of one shard, which is empty.
    pub(super) fn load(
        &self,
        which: Which,
        index: usize,
        entries: impl ExactSizeIterator<Item = (SelectorKey, u32)>,
    ) {
        let mut entries: Vec<_> = entries.map(|(key, expires)| (key, expires.max(1))).collect();
        let order = |(key, _): &(SelectorKey, u32)| self.mix.hash(key) as u32;
        // A snapshot of ours has them in order; one of the first version need not.
        if !entries.is_sorted_by_key(order) {
            entries.sort_unstable_by_key(order);
        }
        let table = table(self.mix, slots_for(entries.len()), &entries);
        let count = u32::try_from(entries.len()).expect("a block counts in 32 bits");
        self.counts[which as usize].fetch_add(count.into(), Ordering::SeqCst);
        let shard = self.shard_at(which, index);
        let mut writing = self.write();
        writing.lens[shard] = count;
        self.exchange(&mut writing, shard, table);
    }

    /// Drops what has expired before `before` from one shard: it gets a new table without. Whoever writes waits for that,
    /// but not while it is found out whether there is anything to drop.
    pub(super) fn sweep(&self, which: Which, index: usize, before: u32, mut pause: impl FnMut()) -> usize {
        let shard = self.shard_at(which, index);
        let has_expired = |(_, at): &(SelectorKey, u32)| *at > 0 && *at < before;
        let looked_at = Table::clone(&self.write().tables[shard]);
        // What a writer moves meanwhile may be missed, and is found the next time.
        let found = slots(&looked_at).chunks(PIECE).any(|piece| {
            pause();
            piece.iter().map(read).any(|entry| has_expired(&entry))
        });
        drop(looked_at);
        if !found {
            return 0;
        }
        let mut writing = self.write();
        let had = slots(&writing.tables[shard]);
        let mut left = Vec::with_capacity(writing.lens[shard] as usize);
        left.extend(had.iter().map(read).filter(|entry| entry.1 > 0 && !has_expired(entry)));
        // Not smaller at once, or it would grow again with the next entries.
        let slots = if left.len() < had.len() / 2 { slots_for(left.len()) } else { had.len() };
        let table = table(self.mix, slots, &left);
        let dropped = writing.lens[shard] - left.len() as u32;
        writing.lens[shard] = left.len() as u32;
        self.exchange(&mut writing, shard, table);
        self.counts[which as usize].fetch_sub(dropped.into(), Ordering::SeqCst);
        dropped as usize
    }

    pub(super) fn bytes(&self) -> u64 {
        let writing = self.write();
        let tables: usize = writing.tables.iter().map(|table| size_of_val(&**table)).sum();
        let directories = (LANES + 1) * size_of_val(&*writing.tables);
        (tables + directories) as u64
    }

    /// False when there is no free slot behind its place.
    fn insert(&self, table: &Table, shard: usize, key: &SelectorKey, expires: u32) -> bool {
        let (slots, hash) = (slots(table), self.mix.hash(key));
        let Place::Free(at) = seek(self.mix, slots, key, hash as u32) else { return true };
        let behind = slots.get(at..).unwrap_or_default();
        let free = behind.iter().position(|slot| slot[4].load(Ordering::Relaxed) == 0);
        let Some(free) = free.map(|behind| at + behind) else { return false };
        set_bits(table, hash);
        self.versioned(shard, || {
            for slot in (at..free).rev() {
                let (key, expires) = read(&slots[slot]);
                write(&slots[slot + 1], &key, expires);
            }
            write(&slots[at], key, expires);
        });
        true
    }

    fn grow(&self, writing: &mut Writing, shard: usize) {
        let slots = slots(&writing.tables[shard]);
        let entries: Vec<_> = slots.iter().map(read).filter(|(_, expires)| *expires > 0).collect();
        let table = table(self.mix, slots_after(slots.len()), &entries);
        self.exchange(writing, shard, table);
    }

    /// Gives a shard another table. Until a lane has it, its readers look at the old one, which nobody writes to any
    /// more: whoever waits for this to return waits for all.
    fn exchange(&self, writing: &mut Writing, shard: usize, table: Table) {
        for lane in &self.lanes {
            lane.0.write().unwrap_or_else(PoisonError::into_inner)[shard] = table.clone();
        }
        writing.tables[shard] = table;
    }

    /// Has readers of this shard look again.
    fn versioned(&self, shard: usize, write: impl FnOnce()) {
        let version = &self.versions[shard];
        let before = version.load(Ordering::Relaxed);
        version.store(before.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        write();
        version.store(before.wrapping_add(2), Ordering::Release);
    }

    fn write(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shard of a hash. Its bits are none of those that choose the place; snapshots keep to it.
    const fn shard_of(&self, which: Which, hash: u64) -> usize {
        self.shard_at(which, ((hash << 7) >> (u64::BITS - self.shards.trailing_zeros())) as usize)
    }

    const fn shard_at(&self, which: Which, index: usize) -> usize {
        which as usize * self.shards + index
    }
}

/// The lane of this thread.
fn own_lane() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static LANE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % LANES;
    }
    LANE.with(|lane| *lane)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};
    use std::sync::atomic::AtomicBool;

    use super::super::sim::Random;
    use super::*;

    const MIX: Mix = Mix([0x1234_5678_9abc_def1, 0xfedc_ba98_7654_3211]);

    fn key(random: &mut Random) -> SelectorKey {
        let (a, b) = (random.next(), random.next());
        SelectorKey([a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32])
    }

    fn filled(entries: u64, shards: usize) -> Absolutes {
        let maps = Absolutes::new(shards, MIX);
        let mut random = Random(1);
        (0..entries).for_each(|_| maps.raise(Which::Tokens, key(&mut random), 1));
        maps
    }

    #[test]
    fn an_entry_takes_at_most_thirty_two_bytes_however_many_there_are() {
        // A table's fill depends on the entries of a shard, so few shards show what many do.
        for each in [1000, 1221, 2441, 3000, 4500, 24_414] {
            let maps = filled(each * 8, 8);
            let bytes = maps.bytes() / (each * 8);
            assert!(bytes <= 32, "{bytes} B with {each} entries a shard");
        }
    }

    #[test]
    fn keys_that_differ_in_one_word_only_are_spread_over_shards_and_places() {
        let maps = Absolutes::new(64, MIX);
        for word in 0..4 {
            let (mut shards, mut places) = ([0_u32; 64], [0_u32; 64]);
            for number in 0..6400 {
                let mut key = [7; 4];
                key[word] = number;
                let hash = MIX.hash(&SelectorKey(key));
                shards[maps.shard_of(Which::Tokens, hash)] += 1;
                places[hash as u32 as usize >> 26] += 1;
            }
            for counts in [shards, places] {
                assert!(counts.iter().all(|count| (40..180).contains(count)), "{word}: {counts:?}");
            }
        }
    }

    #[test]
    fn it_holds_what_a_plain_map_holds_and_in_order() {
        for (seed, keys) in [(1, 30), (2, 300), (3, 5000)] {
            let mut random = Random(seed);
            let known: Vec<_> = (0..keys).map(|_| key(&mut random)).collect();
            let (maps, mut model) = (Absolutes::new(2, MIX), [BTreeMap::new(), BTreeMap::new()]);
            for _ in 0..keys * 8 {
                let key = known[random.next() as usize % known.len()];
                let (which, at) = (random.next() % 2, 1 + random.next() as u32 % 1000);
                let (which, model) = match which {
                    0 => (Which::Tokens, &mut model[0]),
                    _ => (Which::Sessions, &mut model[1]),
                };
                match random.next() % 100 {
                    0..60 => {
                        maps.raise(which, key, at);
                        let expires = model.entry(key).or_insert(at);
                        *expires = at.max(*expires);
                    }
                    60..98 => {
                        maps.lift(which, &key);
                        model.remove(&key);
                    }
                    _ => {
                        let before = at / 10;
                        let dropped: usize =
                            (0..2).map(|shard| maps.sweep(which, shard, before, || {})).sum();
                        let had = model.len();
                        model.retain(|_, at| *at >= before);
                        assert_eq!(dropped, had - model.len());
                    }
                }
            }
            for (which, model) in [(Which::Tokens, &model[0]), (Which::Sessions, &model[1])] {
                let view = maps.view();
                known.iter().for_each(|key| assert_eq!(view.get(which, key), model.get(key).copied()));
                drop(view);
                let shards: Vec<_> = (0..2).map(|shard| maps.shard(which, shard, || {})).collect();
                let order = |(key, _): &(SelectorKey, u32)| MIX.hash(key) as u32;
                assert!(shards.iter().all(|shard| shard.is_sorted_by_key(order)));
                assert_eq!(shards.concat().into_iter().collect::<BTreeMap<_, _>>(), *model);
                assert_eq!(maps.count(which), model.len() as u64);
            }
        }
    }

    #[test]
    fn entries_whose_hashes_crowd_at_the_end_of_a_table_make_it_grow() {
        let maps = Absolutes::new(2, MIX);
        let mut random = Random(9);
        let crowd = std::iter::repeat_with(|| key(&mut random));
        let crowd: Vec<_> =
            crowd.filter(|key| MIX.hash(key) as u32 >= u32::MAX - (1 << 22)).take(60).collect();
        crowd.iter().for_each(|key| maps.raise(Which::Tokens, *key, 7));
        let copied = Absolutes::new(2, MIX);
        (0..2).for_each(|shard| {
            copied.load(Which::Tokens, shard, maps.shard(Which::Tokens, shard, || {}).into_iter())
        });
        for maps in [maps, copied] {
            assert!(crowd.iter().all(|key| maps.view().get(Which::Tokens, key) == Some(7)));
        }
    }

    #[test]
    fn a_reader_finds_what_is_there_while_its_neighbours_are_moved() {
        let maps = Absolutes::new(2, MIX);
        let mut random = Random(5);
        let (stay, go): (Vec<_>, Vec<_>) = (0..400).map(|_| (key(&mut random), key(&mut random))).unzip();
        let never: Vec<_> = (0..100).map(|_| key(&mut random)).collect();
        stay.iter().for_each(|key| maps.raise(Which::Tokens, *key, 7));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let view = maps.view();
                        assert!(stay.iter().all(|key| view.get(Which::Tokens, key) == Some(7)));
                        assert!(never.iter().all(|key| view.get(Which::Tokens, key).is_none()));
                    }
                });
            }
            for round in 0..40 {
                go.iter().for_each(|key| maps.raise(Which::Tokens, *key, 3));
                go[round..].iter().for_each(|key| maps.lift(Which::Tokens, key));
                (0..2).for_each(|shard| _ = maps.sweep(Which::Tokens, shard, 5, || {}));
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(maps.count(Which::Tokens), 400);
    }

    #[test]
    fn a_copy_of_a_shard_is_as_of_one_moment_while_its_entries_are_moved() {
        let maps = Absolutes::new(2, MIX);
        let mut random = Random(6);
        let (stay, go): (Vec<_>, Vec<_>) = (0..700).map(|_| (key(&mut random), key(&mut random))).unzip();
        stay.iter().for_each(|key| maps.raise(Which::Tokens, *key, 7));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let copies = scope.spawn(|| {
                let mut copies = 0;
                while !done.load(Ordering::Relaxed) || copies == 0 {
                    let rest = || std::thread::yield_now();
                    let all: Vec<_> =
                        (0..2).flat_map(|shard| maps.shard(Which::Tokens, shard, rest)).collect();
                    let keys: HashSet<_> = all.iter().map(|(key, _)| key.0).collect();
                    assert_eq!(keys.len(), all.len(), "each once");
                    assert!(stay.iter().all(|key| keys.contains(&key.0)), "none is missing");
                    copies += 1;
                }
                copies
            });
            for round in 0..60 {
                go.iter().for_each(|key| maps.raise(Which::Tokens, *key, 3));
                go[round..].iter().for_each(|key| maps.lift(Which::Tokens, key));
                (0..2).for_each(|shard| _ = maps.sweep(Which::Tokens, shard, 5, || {}));
            }
            done.store(true, Ordering::Relaxed);
            assert!(copies.join().unwrap() > 0);
        });
    }
}

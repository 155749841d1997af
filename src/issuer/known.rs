//! Tokens that were verified before, kept under their whole text.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, UnitWeighter};

use crate::revocation::KnownToken;

/// Shards of the cache. A look-up writes to the lock of its shard, which costs as much as the rest of it when
/// another core has just done the same; with so many this is rare.
const SHARDS: usize = 256;
/// Counters that threads share as little as possible, for the same reason.
const LANES: usize = 32;

/// The cache, its counters, and the number that the next set of keys gets. Shared by every [`super::Issuers`] that
/// follows from another.
///
/// The key is the text itself: a digest of it would cost more than all the rest of a check. Only tokens that were
/// verified get in, so nobody can fill it with rubbish; a token whose signature was tampered with is another text.
pub(super) struct KnownTokens {
    /// `None`: switched off.
    cache: Option<Arc<Cache<Box<str>, Arc<KnownToken>>>>,
    capacity: usize,
    counts: Arc<Counts>,
}

/// What goes on counting whatever becomes of the cache.
#[derive(Default)]
struct Counts {
    lanes: [Lane; LANES],
    generations: AtomicU64,
}

/// The look-ups of some threads, in cache lines of their own.
#[derive(Default)]
#[repr(align(128))]
struct Lane {
    hits: AtomicU64,
    misses: AtomicU64,
}

impl KnownTokens {
    pub(super) fn new(capacity: usize) -> Self {
        Self { cache: Self::cache(capacity), capacity, counts: Arc::default() }
    }

    /// Room for another number of tokens. Those that are kept stay where the room is the same.
    pub(super) fn resized(&self, capacity: usize) -> Self {
        let cache = if capacity == self.capacity { self.cache.clone() } else { Self::cache(capacity) };
        Self { cache, capacity, counts: Arc::clone(&self.counts) }
    }

    fn cache(capacity: usize) -> Option<Arc<Cache<Box<str>, Arc<KnownToken>>>> {
        (capacity > 0).then(|| {
            let options = OptionsBuilder::new()
                .shards(SHARDS)
                .estimated_items_capacity(capacity)
                .weight_capacity(capacity as u64)
                .build()
                .expect("both capacities are set");
            let (hasher, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
            Arc::new(Cache::with_options(options, UnitWeighter, hasher, lifecycle))
        })
    }

    /// A number that no set of keys had before.
    pub(super) fn next_generation(&self) -> u64 {
        self.counts.generations.fetch_add(1, Ordering::Relaxed)
    }

    /// The token of this text, if it is kept and `still_good`.
    pub(super) fn get(
        &self,
        text: &str,
        still_good: impl FnOnce(&KnownToken) -> bool,
    ) -> Option<Arc<KnownToken>> {
        let cache = self.cache.as_ref()?;
        let found = cache.get(text).filter(|known| still_good(known));
        let lane = &self.counts.lanes[own_lane()];
        let counter = if found.is_some() { &lane.hits } else { &lane.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    pub(super) fn insert(&self, text: &str, known: &Arc<KnownToken>) {
        if let Some(cache) = &self.cache {
            cache.insert(text.into(), Arc::clone(known));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.cache.as_ref().map_or(0, |cache| cache.len())
    }

    pub(super) fn hits(&self) -> u64 {
        self.counts.lanes.iter().map(|lane| lane.hits.load(Ordering::Relaxed)).sum()
    }

    pub(super) fn misses(&self) -> u64 {
        self.counts.lanes.iter().map(|lane| lane.misses.load(Ordering::Relaxed)).sum()
    }
}

/// Where this thread counts.
fn own_lane() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static LANE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % LANES;
    }
    LANE.with(|lane| *lane)
}

//! Tokens that were verified before, kept under a fingerprint of their whole text.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, UnitWeighter};

use super::fingerprint::{Fingerprint, Fingerprints, Places};
use crate::revocation::KnownToken;

/// Shards of the cache. A look-up writes to the lock of its shard, which costs as much as the rest of it when
/// another core has just done the same; with so many this is rare.
const SHARDS: usize = 256;
/// Counters that threads share as little as possible, for the same reason.
const LANES: usize = 32;

/// The cache, its counters, and the number that the next set of keys gets. Shared by every [`super::Issuers`] that
/// follows from another.
///
/// The key is a fingerprint, which stands for its text and no other (`fingerprint.rs`): comparing the text itself would
/// fetch ten times as much memory. Only tokens that were verified get in, so nobody can fill it with rubbish; a token
/// whose signature was tampered with is another text.
pub(super) struct KnownTokens {
    /// `None`: switched off.
    kept: Option<Arc<Kept>>,
    room: Room,
    counts: Arc<Counts>,
}

/// How many tokens, and of how many bytes at most.
type Room = (usize, usize);

/// What goes on counting whatever becomes of the cache.
#[derive(Default)]
struct Counts {
    lanes: [Lane; LANES],
    generations: AtomicU64,
}

struct Kept {
    fingerprints: Fingerprints,
    cache: Cache<Fingerprint, Arc<KnownToken>, UnitWeighter, Places>,
}

/// The look-ups of some threads, in cache lines of their own.
#[derive(Default)]
#[repr(align(128))]
struct Lane {
    hits: AtomicU64,
    misses: AtomicU64,
}

impl KnownTokens {
    /// For so many tokens of at most `text_bytes_max` bytes. Without random bytes nothing is kept.
    pub(super) fn new(capacity: usize, text_bytes_max: usize) -> Self {
        let room = (capacity, text_bytes_max);
        Self { kept: Self::kept(room), room, counts: Arc::default() }
    }

    /// Room for others. Those that are kept stay where the room is the same.
    pub(super) fn resized(&self, capacity: usize, text_bytes_max: usize) -> Self {
        let room = (capacity, text_bytes_max);
        let kept = if room == self.room { self.kept.clone() } else { Self::kept(room) };
        Self { kept, room, counts: Arc::clone(&self.counts) }
    }

    fn kept((capacity, text_bytes_max): Room) -> Option<Arc<Kept>> {
        (capacity > 0).then(|| Kept::new(capacity, text_bytes_max)).and_then(|kept| {
            let kept = kept.map(Arc::new);
            kept.inspect_err(|error| tracing::error!(%error, "verified tokens are not kept: no random bytes"))
                .ok()
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
        let kept = self.kept.as_ref()?;
        let found = kept.cache.get(&kept.fingerprints.of(text)?).filter(|known| still_good(known));
        let lane = &self.counts.lanes[own_lane()];
        let counter = if found.is_some() { &lane.hits } else { &lane.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    pub(super) fn insert(&self, text: &str, known: &Arc<KnownToken>) {
        if let Some(kept) = &self.kept
            && let Some(fingerprint) = kept.fingerprints.of(text)
        {
            kept.cache.insert(fingerprint, Arc::clone(known));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.cache.len())
    }

    pub(super) fn hits(&self) -> u64 {
        self.counts.lanes.iter().map(|lane| lane.hits.load(Ordering::Relaxed)).sum()
    }

    pub(super) fn misses(&self) -> u64 {
        self.counts.lanes.iter().map(|lane| lane.misses.load(Ordering::Relaxed)).sum()
    }
}

impl Kept {
    fn new(capacity: usize, text_bytes_max: usize) -> Result<Self, getrandom::Error> {
        let fingerprints = Fingerprints::new(text_bytes_max)?;
        let options = OptionsBuilder::new()
            .shards(SHARDS)
            .estimated_items_capacity(capacity)
            .weight_capacity(capacity as u64)
            .build()
            .expect("both capacities are set");
        let (places, lifecycle) = (fingerprints.places(), DefaultLifecycle::default());
        Ok(Self { cache: Cache::with_options(options, UnitWeighter, places, lifecycle), fingerprints })
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

//! Tokens that were verified before, kept under a fingerprint of their whole text.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::fingerprint::Fingerprints;
use crate::revocation::{KnownToken, TextMark};

/// Tokens that share a set.
const WAYS: usize = 8;
/// Marks that a set remembers of tokens seen once.
const GLIMPSES: usize = 8;
/// Sets that are made together.
const GROUP: usize = 64;
/// Counters that threads share as little as possible, for the same reason.
const LANES: usize = 32;

/// The cache, its counters, and the number that the next set of keys gets. Shared by every [`super::Issuers`] that
/// follows from another.
///
/// A token is known by a mark, which stands for its text and no other (`fingerprint.rs`): comparing the text itself would
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

/// A table of sets of a few places. Which set a token belongs to is in its fingerprint, so one lock and two cache lines
/// tell whether it is kept; the third, of the token itself, proves it.
struct Kept {
    fingerprints: Fingerprints,
    /// Made when the first token comes that belongs into them.
    groups: Box<[OnceLock<Box<[Set]>>]>,
    /// Of all groups together.
    sets: u64,
    capacity: usize,
    len: AtomicUsize,
}

/// In two cache lines, which processors fetch together.
#[derive(Default)]
#[repr(align(128))]
struct Set(Mutex<Ways>);

#[derive(Default)]
#[repr(C)]
struct Ways {
    /// What tells most others apart without a look at the token.
    tags: [u32; WAYS],
    /// A bit for each that was found since the hand passed by.
    found: u8,
    /// The next that may have to go.
    hand: u8,
    /// Of tokens that came once and are not kept: parts of their tags, 0 for none, and where the next goes.
    glimpses: [u16; GLIMPSES],
    next_glimpse: u8,
    tokens: [Option<Arc<KnownToken>>; WAYS],
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

    /// What a text is known by; `None` where none is kept that is so long.
    pub(super) fn mark(&self, text: &str) -> Option<TextMark> {
        self.kept.as_ref()?.fingerprints.of(text)
    }

    /// The token of this text, if it is kept and `still_good`.
    pub(super) fn get(
        &self,
        mark: &TextMark,
        still_good: impl FnOnce(&KnownToken) -> bool,
    ) -> Option<Arc<KnownToken>> {
        let found = self.kept.as_ref()?.get(mark).filter(|known| still_good(known));
        let lane = &self.counts.lanes[own_lane()];
        let counter = if found.is_some() { &lane.hits } else { &lane.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Keeps a token under its own mark; where another has to go for it, when it comes for the second time. One without a mark
    /// is not kept.
    pub(super) fn insert(&self, known: &Arc<KnownToken>) {
        if let Some(kept) = &self.kept {
            kept.insert(known);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.len.load(Ordering::Relaxed))
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
        // Half as many places again: where all sets are equally likely, some are full long before the others.
        let sets = (capacity + capacity / 2).div_ceil(WAYS);
        Ok(Self {
            fingerprints: Fingerprints::new(text_bytes_max)?,
            groups: (0..sets.div_ceil(GROUP)).map(|_| OnceLock::new()).collect(),
            sets: sets as u64,
            capacity,
            len: AtomicUsize::new(0),
        })
    }

    /// The set that a mark belongs to, and the tag that it has there.
    fn place(&self, mark: &TextMark) -> (usize, u32) {
        let place = self.fingerprints.place(mark);
        ((((place >> 32) * self.sets) >> 32) as usize, place as u32)
    }

    fn get(&self, mark: &TextMark) -> Option<Arc<KnownToken>> {
        let (set, tag) = self.place(mark);
        let mut ways = self.groups[set / GROUP].get()?[set % GROUP].ways();
        let way = ways.find(mark, tag)?;
        if ways.found & 1 << way == 0 {
            ways.found |= 1 << way;
        }
        ways.tokens[way].clone()
    }

    fn insert(&self, known: &Arc<KnownToken>) {
        let Some(mark) = &known.mark else { return };
        let (set, tag) = self.place(mark);
        let group = self.groups[set / GROUP].get_or_init(|| (0..GROUP).map(|_| Set::default()).collect());
        let mut ways = group[set % GROUP].ways();
        let way = match ways.find(mark, tag).or_else(|| self.free(&ways)) {
            Some(way) => way,
            // One that comes once is not worth another's place, nor the time to take that one apart.
            None if !ways.came_before(tag) => return,
            None => {
                if ways.is_empty() {
                    drop(ways);
                    self.make_room(set);
                    ways = group[set % GROUP].ways();
                }
                ways.next_to_go()
            }
        };
        let before = ways.put(way, tag, known);
        if before.is_none() {
            self.len.fetch_add(1, Ordering::Relaxed);
        }
        drop(ways);
        // Taken apart after the lock.
        drop(before);
    }

    /// Drops one that is kept in another set.
    fn make_room(&self, set: usize) {
        let others = (1..self.sets as usize).map(|step| (set + step) % self.sets as usize);
        for other in others {
            let Some(group) = self.groups[other / GROUP].get() else { continue };
            let mut ways = group[other % GROUP].ways();
            if ways.is_empty() {
                continue;
            }
            let way = ways.next_to_go();
            let gone = ways.tokens[way].take();
            drop(ways);
            self.len.fetch_sub(1, Ordering::Relaxed);
            drop(gone);
            return;
        }
    }

    fn free(&self, ways: &Ways) -> Option<usize> {
        let has_room = self.len.load(Ordering::Relaxed) < self.capacity;
        ways.tokens.iter().position(Option::is_none).filter(|_| has_room)
    }
}

impl Set {
    fn ways(&self) -> MutexGuard<'_, Ways> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ways {
    fn find(&self, mark: &TextMark, tag: u32) -> Option<usize> {
        let is = |way: &usize| {
            self.tags[*way] == tag
                && self.tokens[*way].as_ref().is_some_and(|known| known.mark == Some(*mark))
        };
        (0..WAYS).find(is)
    }

    /// Whether a token of this tag, or one of a few others, came before, lately. If not, it has now.
    fn came_before(&mut self, tag: u32) -> bool {
        let glimpse = ((tag >> 16) as u16).max(1);
        match self.glimpses.iter_mut().find(|other| **other == glimpse) {
            Some(other) => {
                *other = 0;
                true
            }
            None => {
                self.glimpses[usize::from(self.next_glimpse) % GLIMPSES] = glimpse;
                self.next_glimpse = self.next_glimpse.wrapping_add(1);
                false
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.tokens.iter().all(Option::is_none)
    }

    /// One that was not found since the hand last passed it (the clock algorithm); any, where there is none.
    fn next_to_go(&mut self) -> usize {
        if self.is_empty() {
            return 0;
        }
        loop {
            let way = usize::from(self.hand) % WAYS;
            self.hand = self.hand.wrapping_add(1);
            if self.tokens[way].is_some() && self.found & 1 << way == 0 {
                return way;
            }
            self.found &= !(1 << way);
        }
    }

    fn put(&mut self, way: usize, tag: u32, known: &Arc<KnownToken>) -> Option<Arc<KnownToken>> {
        self.tags[way] = tag;
        self.found &= !(1 << way);
        self.tokens[way].replace(Arc::clone(known))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixTime;
    use crate::revocation::TokenKeys;
    use crate::token::{KeptClaims, TokenType, VerifiedToken};

    /// A token that is kept under this text.
    fn token(kept: &KnownTokens, text: &str) -> Arc<KnownToken> {
        let claims = serde_json::Map::new();
        let token = VerifiedToken {
            issuer: "self".into(),
            token_id: text.into(),
            subject: None,
            session: None,
            client: None,
            other_clients: Box::default(),
            key_id: None,
            scopes: Box::default(),
            token_type: TokenType::Access,
            issued_at: None,
            expires_at: UnixTime::from_secs(1),
            fresh_until: None,
            binding: None,
            claims: KeptClaims::from(&claims),
        };
        let keys = TokenKeys::of(&token, &[]);
        Arc::new(KnownToken { mark: kept.mark(text), ..KnownToken::for_test(token, keys) })
    }

    fn find(kept: &KnownTokens, text: &str) -> Option<Box<str>> {
        kept.get(&kept.mark(text)?, |_| true).map(|known| known.token.token_id.clone())
    }

    #[test]
    fn a_token_is_found_under_its_own_text_alone() {
        let kept = KnownTokens::new(20_000, 100);
        let texts: Vec<String> = (0..500).map(|number| format!("token {number}")).collect();
        texts.iter().for_each(|text| kept.insert(&token(&kept, text)));
        for text in &texts {
            assert_eq!(find(&kept, text).as_deref(), Some(&**text));
            assert_eq!(find(&kept, &format!("{text} ")), None);
        }
        assert_eq!((kept.len(), kept.hits(), kept.misses()), (500, 500, 500));
        texts.iter().for_each(|text| kept.insert(&token(&kept, text)));
        assert_eq!(kept.len(), 500, "each once");
    }

    #[test]
    fn whatever_comes_no_more_are_kept_than_may_be_and_what_came_twice_is() {
        for capacity in [1, 3, 8, 9, 100, 5000] {
            let kept = KnownTokens::new(capacity, 100);
            let mut at_once = 0;
            for number in 0..3 * capacity + 20 {
                let text = format!("token {number}");
                kept.insert(&token(&kept, &text));
                at_once += usize::from(find(&kept, &text).is_some());
                kept.insert(&token(&kept, &text));
                assert!(kept.len() <= capacity, "{} of {capacity}", kept.len());
                assert_eq!(find(&kept, &text).as_deref(), Some(&*text));
            }
            assert_eq!(kept.len(), capacity);
            // Those that found room; and some ten in 100,000, whose tags look like those of others.
            assert!((capacity..=capacity + 20).contains(&at_once), "{at_once} of {capacity}");
        }
    }

    #[test]
    fn what_is_asked_for_outlives_what_is_seen_once() {
        let kept = KnownTokens::new(8, 100);
        let asked: Vec<String> = (0..4).map(|number| format!("asked {number}")).collect();
        asked.iter().for_each(|text| kept.insert(&token(&kept, text)));
        for number in 0..1000 {
            asked.iter().for_each(|text| assert!(find(&kept, text).is_some(), "{text} after {number}"));
            kept.insert(&token(&kept, &format!("once {number}")));
        }
    }

    #[test]
    fn threads_that_keep_and_find_agree_on_the_number() {
        let kept = KnownTokens::new(64, 100);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let kept = &kept;
                scope.spawn(move || {
                    for number in 0..2000 {
                        let text = format!("token {}", (number * (thread + 3)) % 150);
                        kept.insert(&token(kept, &text));
                        if let Some(found) = find(kept, &text) {
                            assert_eq!(*found, *text);
                        }
                    }
                });
            }
        });
        let there = (0..150).filter(|number| find(&kept, &format!("token {number}")).is_some()).count();
        assert_eq!(kept.len(), there);
        // Threads that find room at the same moment may all take it.
        assert!(there <= 64 + 4, "{there}");
    }

    #[test]
    fn nothing_is_kept_where_none_may_be() {
        let kept = KnownTokens::new(0, 100);
        assert_eq!(kept.mark("token"), None);
        kept.insert(&token(&kept, "token"));
        assert_eq!(kept.len(), 0);
    }
}

//! The projection of the log that every request is checked against: exact, in memory, by 128-bit keys.
//!
//! Tokens and sessions are nearly all entries and are absolute: a map each, 16-byte key to 4-byte expiry, 21 bytes
//! a slot. The kinds with a cutoff are few and share one. A kind without entries costs a check one atomic load.
//!
//! Time plays no part in a check: an entry refuses until it is dropped, so a clock that jumps back un-revokes
//! nothing. Only the log's writer puts entries in and lifts them; [`Blocklist::sweep`] drops expired ones.

use super::absolute::{Absolutes, Copied, Which};
use super::cutoffs::{Cutoff, Cutoffs};
use super::mix::Mix;
use super::record::kind_number;
use super::{Kind, Revocation, Selector, SelectorKey, Standing, TokenKeys, cutoff_refuses};
use crate::clock::UnixTime;

/// Shards of the maps of tokens and sessions: 24,000 entries each at 100 million, so that a shard is copied or grown
/// in tens of microseconds.
pub(super) const SHARDS: usize = if cfg!(test) { 64 } else { 4096 };

/// What refuses a token, in the order in which the selectors are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hit {
    /// Its token id.
    Token,
    /// Its session.
    Session,
    /// Its subject, issued before the cutoff; the same for the rest.
    Subject,
    /// Its client.
    Client,
    /// The key it is signed with.
    Key,
    /// Its issuer.
    Issuer,
    /// One of the listed claims.
    Claim,
}

impl Hit {
    /// The kind's label, as [`Kind::label`].
    pub const fn label(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Session => "session",
            Self::Subject => "subject",
            Self::Client => "client",
            Self::Key => "key",
            Self::Issuer => "issuer",
            Self::Claim => "claim",
        }
    }
}

/// The entry of one selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InForce {
    /// When it can be forgotten, in whole seconds, rounded up.
    pub expires_at: UnixTime,
    /// Tokens issued before this are refused; `None` for tokens and sessions, which are refused whatever their `iat`.
    pub issued_before: Option<UnixTime>,
}

/// How many entries there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Kind `token`, and so on.
    pub token: u64,
    /// See the kind.
    pub session: u64,
    /// See the kind.
    pub subject: u64,
    /// See the kind.
    pub client: u64,
    /// See the kind.
    pub key: u64,
    /// See the kind.
    pub issuer: u64,
    /// All claims together.
    pub claim: u64,
}

impl Counts {
    /// Label and number of each kind.
    pub const fn each(&self) -> [(&'static str, u64); 7] {
        [
            ("token", self.token),
            ("session", self.session),
            ("subject", self.subject),
            ("client", self.client),
            ("key", self.key),
            ("issuer", self.issuer),
            ("claim", self.claim),
        ]
    }

    /// Of all kinds.
    pub fn total(&self) -> u64 {
        self.each().iter().map(|(_, count)| count).sum()
    }
}

/// The table that the request path reads.
pub struct Blocklist {
    mix: Mix,
    absolutes: Absolutes,
    cutoffs: Cutoffs,
}

impl Blocklist {
    /// An empty one. `shards` is a power of two, at least 2.
    pub(super) fn new(shards: usize, mix: Mix) -> Self {
        Self { mix, absolutes: Absolutes::new(shards, mix), cutoffs: Cutoffs::new(shards, mix) }
    }

    /// An empty one that no log feeds; it refuses nothing. For tests of the rooms above, and for `explain` offline.
    pub fn empty() -> Self {
        Self::new(2, Mix([0x517c_c1b7_2722_0a95, 0x2545_f491_4f6c_dd1d]))
    }

    /// What refuses the token with these keys: every selector that can match is looked up. Allocates nothing, and
    /// takes no lock that is held for longer than a look-up.
    pub fn check(&self, keys: &TokenKeys) -> Option<Hit> {
        if let [Some(hit), _] | [None, Some(hit)] = self.absolute_hits(keys) {
            return Some(hit);
        }
        if self.cutoffs.is_empty() {
            return None;
        }
        self.cutoff_hits(keys).next()
    }

    /// Everything that refuses the token with these keys, in the order of [`Hit`], each kind once.
    pub fn refused_by(&self, keys: &TokenKeys) -> Vec<Hit> {
        let absolute = self.absolute_hits(keys).into_iter().flatten();
        let mut hits: Vec<_> = absolute.chain(self.cutoff_hits(keys)).collect();
        hits.dedup();
        hits
    }

    /// The entry of this selector, or `None`.
    pub fn get(&self, selector: &Selector) -> Option<InForce> {
        let key = selector.key();
        let absolute = |which: Which| {
            let expires = self.absolutes.view().get(which, &key)?;
            Some(InForce { expires_at: UnixTime::from_secs(expires.into()), issued_before: None })
        };
        match selector.kind {
            Kind::Token => absolute(Which::Tokens),
            Kind::Session => absolute(Which::Sessions),
            _ => self.cutoffs.get(&key).map(|cutoff| InForce {
                expires_at: UnixTime::from_secs(cutoff.expires.into()),
                issued_before: Some(cutoff.issued_before),
            }),
        }
    }

    /// Whether the entry of this selector, if there is one, refuses a token issued at `issued_at`
    /// ([`UnixTime::ZERO`] for a token without `iat`).
    pub fn refuses_selector(&self, selector: &Selector, issued_at: UnixTime) -> bool {
        self.get(selector).is_some_and(|entry| {
            entry.issued_before.is_none_or(|issued_before| cutoff_refuses(issued_before, issued_at))
        })
    }

    /// The entries of one shard, of [`Blocklist::state_shards`].
    pub fn state_shard(&self, index: usize) -> Vec<Standing> {
        let absolute = |kind: Kind| {
            let number = kind.number();
            let entries = self.absolute_shard(&kind, index, || {}).into_iter();
            entries.map(move |(key, expires)| Standing { kind: number, key, expires, issued_before: None })
        };
        let mut entries: Vec<_> = absolute(Kind::Token).chain(absolute(Kind::Session)).collect();
        if index < self.cutoff_shards() {
            entries.extend(self.cutoff_shard(index).map(|(key, cutoff)| Standing {
                kind: cutoff.kind,
                key,
                expires: cutoff.expires,
                issued_before: Some(cutoff.issued_before),
            }));
        }
        entries
    }

    /// How many parts [`Blocklist::state_shard`] gives it in.
    pub fn state_shards(&self) -> usize {
        self.shards()
    }

    /// Whether what it has of this key is at least as strict.
    pub fn has(&self, entry: &Standing) -> bool {
        match entry.kind {
            1 | 2 => {
                let which = if entry.kind == 1 { Which::Tokens } else { Which::Sessions };
                self.absolutes.view().get(which, &entry.key).is_some_and(|expires| expires >= entry.expires)
            }
            _ => self.cutoffs.get(&entry.key).is_some_and(|cutoff| {
                cutoff.expires >= entry.expires && Some(cutoff.issued_before) >= entry.issued_before
            }),
        }
    }

    /// Whether it has anything of the selector of this entry.
    pub fn has_key(&self, entry: &Revocation) -> bool {
        self.get(&entry.selector).is_some()
    }

    /// An empty one that no log feeds, to compare another with: `shards` as [`Blocklist::state_shards`] has them.
    pub fn sized(shards: usize) -> Self {
        Self::new(shards, Self::empty().mix)
    }

    /// Makes one that no log feeds at least as strict.
    pub fn hold(&self, entry: &Standing) {
        self.absorb(entry);
    }

    /// Makes what it has of this key at least as strict.
    pub(super) fn absorb(&self, entry: &Standing) {
        match entry.kind {
            1 => self.absolutes.raise(Which::Tokens, entry.key, entry.expires),
            2 => self.absolutes.raise(Which::Sessions, entry.key, entry.expires),
            kind => {
                let issued_before = entry.issued_before.unwrap_or(UnixTime::ZERO);
                self.cutoffs.raise(entry.key, Cutoff { issued_before, expires: entry.expires, kind });
            }
        }
    }

    /// Entries of each kind; seven atomic loads.
    pub fn counts(&self) -> Counts {
        let cutoffs = |number: usize| self.cutoffs.count(number);
        Counts {
            token: self.absolutes.count(Which::Tokens),
            session: self.absolutes.count(Which::Sessions),
            subject: cutoffs(3),
            client: cutoffs(4),
            key: cutoffs(5),
            issuer: cutoffs(6),
            claim: cutoffs(7),
        }
    }

    /// Bytes of the tables, filled or not. Looks at every shard: a tenth of a millisecond.
    pub fn memory_bytes(&self) -> u64 {
        self.absolutes.bytes() + self.cutoffs.bytes()
    }

    /// One with these selectors in force, for tests of other rooms.
    #[cfg(test)]
    pub(crate) fn holding(selectors: &[Selector]) -> Self {
        let blocklist = Self::empty();
        for selector in selectors {
            let end = UnixTime::from_secs(u64::from(u32::MAX) - 1);
            let revocation = Revocation {
                selector: selector.clone(),
                lift: false,
                issued_before: (!selector.kind.is_absolute()).then_some(end),
                expires_at: end,
                reason: "".into(),
                actor: "test".into(),
                address: "".into(),
                at: UnixTime::ZERO,
            };
            blocklist.apply(selector.key(), &revocation);
        }
        blocklist
    }

    /// What the log's writer does with an entry, for tests of other rooms.
    #[cfg(test)]
    pub(crate) fn put_in_force(&self, revocation: &Revocation) {
        self.apply(revocation.selector.key(), revocation);
    }

    /// Does what an entry of the log says. In order of the log; applying it twice changes nothing.
    pub(super) fn apply(&self, key: SelectorKey, revocation: &Revocation) {
        // Rounded up: an entry is never forgotten too early. The last second of 2^32 stands for "not before 2106".
        let expires = u32::try_from(revocation.expires_at.secs_ceil()).unwrap_or(u32::MAX);
        match (&revocation.selector.kind, revocation.lift) {
            (Kind::Token, false) => self.absolutes.raise(Which::Tokens, key, expires),
            (Kind::Token, true) => self.absolutes.lift(Which::Tokens, &key),
            (Kind::Session, false) => self.absolutes.raise(Which::Sessions, key, expires),
            (Kind::Session, true) => self.absolutes.lift(Which::Sessions, &key),
            (kind, false) => {
                let issued_before = revocation.issued_before.unwrap_or(UnixTime::ZERO);
                self.cutoffs.raise(key, Cutoff { issued_before, expires, kind: kind_number(kind) });
            }
            (_, true) => self.cutoffs.lift(&key),
        }
    }

    /// Drops what has expired before `before` from the shard `index` of each map, resting by `pause`. Returns how many
    /// entries went.
    pub(super) fn sweep(&self, index: usize, before: UnixTime, mut pause: impl FnMut()) -> usize {
        let before = u32::try_from(before.secs()).unwrap_or(u32::MAX);
        let absolutes = [Which::Tokens, Which::Sessions].into_iter();
        let mut dropped = absolutes.map(|which| self.absolutes.sweep(which, index, before, &mut pause)).sum();
        if index < self.cutoffs.shards() {
            dropped += self.cutoffs.sweep(index, before);
        }
        dropped
    }

    /// Shards of the maps of tokens and sessions; no map has more.
    pub(super) fn shards(&self) -> usize {
        self.absolutes.shards()
    }

    pub(super) fn cutoff_shards(&self) -> usize {
        self.cutoffs.shards()
    }

    pub(super) const fn mix(&self) -> Mix {
        self.mix
    }

    /// The entries of one shard of the tokens or sessions, copied with rests by `pause`.
    pub(super) fn absolute_shard(&self, kind: &Kind, index: usize, pause: impl FnMut()) -> Copied {
        self.absolutes.shard(which(kind), index, pause)
    }

    /// The entries of one shard of the cutoffs.
    pub(super) fn cutoff_shard(&self, index: usize) -> impl Iterator<Item = (SelectorKey, Cutoff)> + use<> {
        self.cutoffs.shard(index)
    }

    /// Puts one shard of a snapshot in. The blocklist must be empty there, of the snapshot's mix and shards, and
    /// the keys must differ.
    pub(super) fn load_absolute(
        &self,
        kind: &Kind,
        index: usize,
        entries: impl ExactSizeIterator<Item = (SelectorKey, u32)>,
    ) {
        self.absolutes.load(which(kind), index, entries);
    }

    /// Makes the cutoff at least as strict as this: the later cutoff and the later expiry win.
    pub(super) fn raise_cutoff(&self, key: SelectorKey, new: Cutoff) {
        self.cutoffs.raise(key, new);
    }

    /// Both are looked up even if the first refuses: hardly any does, and the processor can fetch both at once.
    fn absolute_hits(&self, keys: &TokenKeys) -> [Option<Hit>; 2] {
        let tokens = self.absolutes.count(Which::Tokens) > 0;
        let session = keys.session.as_ref().filter(|_| self.absolutes.count(Which::Sessions) > 0);
        if !tokens && session.is_none() {
            return [None, None];
        }
        let view = self.absolutes.view();
        let token = tokens.then(|| view.get(Which::Tokens, &keys.token)).flatten();
        let session = session.and_then(|key| view.get(Which::Sessions, key));
        [token.map(|_| Hit::Token), session.map(|_| Hit::Session)]
    }

    fn cutoff_hits<'a>(&'a self, keys: &'a TokenKeys) -> impl Iterator<Item = Hit> + 'a {
        let clients = keys.client.iter().chain(&keys.other_clients).map(|key| (Some(key), 4, Hit::Client));
        let claims = keys.claims.iter().map(|key| (Some(key), 7, Hit::Claim));
        let named = [(keys.key.as_ref(), 5, Hit::Key), (Some(&keys.issuer), 6, Hit::Issuer)];
        let subject = [(keys.subject.as_ref(), 3, Hit::Subject)];
        subject.into_iter().chain(clients).chain(named).chain(claims).filter_map(move |(key, kind, hit)| {
            let key = key?;
            if self.cutoffs.count(kind) == 0 {
                return None;
            }
            let issued_before = self.cutoffs.get(key)?.issued_before;
            cutoff_refuses(issued_before, keys.issued_at).then_some(hit)
        })
    }
}

fn which(kind: &Kind) -> Which {
    if *kind == Kind::Session { Which::Sessions } else { Which::Tokens }
}

impl std::fmt::Debug for Blocklist {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocklist").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::model::{Model, NOON, revoke};
    use super::super::record::tests::revocations;
    use super::*;
    use proptest::prelude::*;

    fn list() -> Blocklist {
        Blocklist::new(4, Mix([3, 5]))
    }

    fn put(list: &Blocklist, revocation: &Revocation) {
        list.apply(revocation.selector.key(), revocation);
    }

    fn keys(iat: UnixTime) -> TokenKeys {
        let key = |kind: Kind, value: &str| SelectorKey::of(&kind, "self", value);
        TokenKeys {
            token: key(Kind::Token, "t"),
            session: Some(key(Kind::Session, "s")),
            subject: Some(key(Kind::Subject, "u")),
            client: Some(key(Kind::Client, "c")),
            other_clients: [key(Kind::Client, "azp")].into(),
            key: Some(key(Kind::Key, "k")),
            issuer: key(Kind::Issuer, ""),
            claims: [key(Kind::Claim("tenant".into()), "acme")].into_iter().collect(),
            issued_at: iat,
        }
    }

    #[test]
    fn every_kind_refuses_what_it_matches_and_nothing_else() {
        let cases = [
            (Kind::Token, "t", Hit::Token),
            (Kind::Session, "s", Hit::Session),
            (Kind::Subject, "u", Hit::Subject),
            (Kind::Client, "c", Hit::Client),
            (Kind::Client, "azp", Hit::Client),
            (Kind::Key, "k", Hit::Key),
            (Kind::Issuer, "", Hit::Issuer),
            (Kind::Claim("tenant".into()), "acme", Hit::Claim),
        ];
        let before = NOON.minus(Duration::from_secs(1));
        for (kind, value, hit) in cases {
            let list = list();
            assert_eq!(list.check(&keys(before)), None);
            let entry = revoke(kind.clone(), value);
            put(&list, &entry);
            assert_eq!(list.check(&keys(before)), Some(hit));
            assert_eq!(list.refused_by(&keys(before)), [hit]);
            // A token issued at the cutoff itself, after it, or of another name.
            assert_eq!(list.check(&keys(NOON)), kind.is_absolute().then_some(hit));
            let mut other = keys(before);
            other.token.0[0] ^= 1;
            for key in [&mut other.session, &mut other.subject, &mut other.client, &mut other.key]
                .into_iter()
                .flatten()
            {
                key.0[3] ^= 1;
            }
            other.other_clients[0].0[3] ^= 1;
            other.issuer.0[1] ^= 1;
            other.claims =
                [SelectorKey::of(&Kind::Claim("tenant".into()), "self", "acme inc")].into_iter().collect();
            assert_eq!(list.check(&other), None);
            assert_eq!(
                list.counts().each().iter().filter(|(label, n)| *n == 1 && *label == hit.label()).count(),
                1
            );
            put(&list, &Revocation { lift: true, ..entry });
            assert_eq!((list.check(&keys(before)), list.counts()), (None, Counts::default()));
        }
    }

    #[test]
    fn a_lift_never_re_admits_what_another_entry_still_refuses() {
        let list = list();
        let before = keys(UnixTime::ZERO);
        let (token, subject) = (revoke(Kind::Token, "t"), revoke(Kind::Subject, "u"));
        put(&list, &token);
        put(&list, &subject);
        assert_eq!(list.refused_by(&before), [Hit::Token, Hit::Subject]);
        put(&list, &Revocation { lift: true, ..token });
        assert_eq!(list.check(&before), Some(Hit::Subject));
    }

    #[test]
    fn a_second_revocation_never_loosens_the_first() {
        let list = list();
        let early = NOON.minus(Duration::from_secs(100));
        let later = NOON.plus(Duration::from_secs(5000));
        let first = revoke(Kind::Subject, "u");
        put(&list, &first);
        put(&list, &Revocation { issued_before: Some(early), expires_at: later, ..first.clone() });
        let found = list.get(&first.selector).unwrap();
        assert_eq!((found.issued_before, found.expires_at), (Some(NOON), later));
        let token = revoke(Kind::Token, "t");
        put(&list, &token);
        put(&list, &Revocation { expires_at: NOON, ..token.clone() });
        assert_eq!(list.get(&token.selector).unwrap().expires_at, token.expires_at);
    }

    #[test]
    fn an_entry_refuses_until_it_is_swept_and_is_swept_only_when_expired() {
        let list = list();
        let (token, subject) = (revoke(Kind::Token, "t"), revoke(Kind::Subject, "u"));
        let expiry = token.expires_at;
        put(&list, &token);
        put(&list, &subject);
        let sweep = |before| (0..list.shards()).map(|shard| list.sweep(shard, before, || {})).sum::<usize>();
        assert_eq!(sweep(expiry), 0, "not in the second of its expiry");
        // A clock that has jumped back sweeps less, and checks do not ask it at all.
        assert_eq!(sweep(UnixTime::ZERO), 0);
        assert!(list.check(&keys(UnixTime::ZERO)).is_some());
        assert_eq!(sweep(expiry.plus(Duration::from_secs(1))), 2);
        assert_eq!((list.check(&keys(UnixTime::ZERO)), list.counts()), (None, Counts::default()));
    }

    #[test]
    fn sweeping_gives_memory_back_and_leaves_the_living() {
        let list = list();
        for number in 0..2000 {
            let mut entry = revoke(Kind::Token, &number.to_string());
            entry.expires_at = NOON.plus(Duration::from_secs(if number % 10 == 0 { 1000 } else { 0 }));
            put(&list, &entry);
        }
        let full = list.memory_bytes();
        (0..list.shards()).for_each(|shard| {
            list.sweep(shard, NOON.plus(Duration::from_secs(1)), || {});
        });
        assert_eq!(list.counts().token, 200);
        assert!(list.memory_bytes() < full / 2);
        for number in (0..2000).step_by(10) {
            assert!(list.get(&Selector::new(Kind::Token, "self", number.to_string())).is_some());
        }
    }

    #[test]
    fn a_far_expiry_is_kept_and_not_taken_for_an_early_one() {
        let list = list();
        put(&list, &Revocation { expires_at: UnixTime::from_millis(u64::MAX), ..revoke(Kind::Session, "s") });
        (0..list.shards()).for_each(|shard| {
            list.sweep(shard, UnixTime::from_millis(u64::MAX), || {});
        });
        assert_eq!(list.check(&keys(NOON)), Some(Hit::Session));
    }

    #[test]
    fn checks_see_every_entry_throughout_while_others_come_go_and_are_swept() {
        let list = Blocklist::new(2, Mix([3, 5]));
        put(&list, &revoke(Kind::Token, "t"));
        put(&list, &revoke(Kind::Subject, "u"));
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for number in 0..20_000 {
                    let kind = if number % 2 == 0 { Kind::Token } else { Kind::Client };
                    let mut entry = revoke(kind, &(number % 500).to_string());
                    entry.expires_at = if number % 3 == 0 { UnixTime::ZERO } else { entry.expires_at };
                    entry.lift = number % 7 == 0;
                    put(&list, &entry);
                }
            });
            let list = &list;
            scope.spawn(move || {
                let shards = list.shards();
                let mut shard = 0;
                while !writer.is_finished() {
                    list.sweep(shard % shards, NOON, || {});
                    shard += 1;
                }
                list.sweep(0, NOON, || {});
            });
            scope.spawn(|| {
                let (token, mut subject) = (keys(NOON), keys(UnixTime::ZERO));
                subject.token.0[0] ^= 1;
                for _ in 0..20_000 {
                    assert_eq!(list.check(&token), Some(Hit::Token));
                    assert_eq!(list.check(&subject), Some(Hit::Subject));
                }
            });
        });
        (0..list.shards()).for_each(|shard| {
            list.sweep(shard, NOON, || {});
        });
        let found: usize =
            (0..list.shards()).map(|i| list.absolute_shard(&Kind::Token, i, || {}).len()).sum();
        assert_eq!(list.counts().token, found as u64, "the counter is the truth");
    }

    proptest! {
        #[test]
        fn it_is_what_the_model_is_and_applying_the_rest_again_changes_nothing(
            entries in prop::collection::vec(revocations(), 0..60),
            from in any::<prop::sample::Index>(),
        ) {
            let entries: Vec<_> = entries
                .into_iter()
                .map(|mut entry| {
                    // Few selectors, so that entries meet.
                    let value = if entry.selector.value.len() % 2 == 0 { "a" } else { "b" };
                    entry.selector.value = if entry.selector.kind == Kind::Issuer { "".into() } else { value.into() };
                    entry.selector.issuer = "self".into();
                    entry.expires_at = UnixTime::from_millis(entry.expires_at.millis() % 4_000_000_000_000);
                    entry
                })
                .collect();
            let list = list();
            entries.iter().for_each(|entry| put(&list, entry));
            let mut model = Model::default();
            model.apply(&entries);
            prop_assert!(model.fits(&list));
            let from = if entries.is_empty() { 0 } else { from.index(entries.len()) };
            entries[from..].iter().for_each(|entry| put(&list, entry));
            prop_assert!(model.fits(&list));
        }
    }
}

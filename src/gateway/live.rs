//! Responses and tunnels still open, by token: cut when the token is revoked or expires (CONTRACT §3.8).
//!
//! A projection of the revocation log. The writer's thread puts a revocation into the blocklist, then marks and wakes
//! what is registered here, then acknowledges; it waits for nothing but short locks. A stream is registered first and
//! then looks the blocklist up once more. Both take the lock of the same shard in between, so whatever the
//! interleaving, one of the two sees the other:
//!
//! ```text
//!   writer   blocklist ──────── shard ── mark
//!   stream             shard ──────────────── blocklist      the stream comes first: it is marked
//!   stream                      shard ─ blocklist            the writer comes first: the blocklist refuses
//! ```
//!
//! By token id and by session a stream is found at once; for the rarer kinds all of them are looked through, once a
//! batch. What is marked ends by itself: its task is woken, and the first thing it looks at is the mark.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

use crate::answer::{Code, Cut, Cuttable};
use crate::clock::{Clock, UnixTime};
use crate::revocation::{
    Blocklist, Kind, KnownToken, Projection, Revocation, SelectorKey, TokenKeys, cutoff_refuses,
};
use crate::telemetry::Metrics;

const SHARDS: usize = 64;
/// The wall clock may be set forward while we wait for an expiry; this late it is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// No expiry is waited for.
const NEVER: u64 = u64::MAX;

/// Why a stream was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Revoked = 1,
    Expired = 2,
}

impl Cause {
    pub(super) const fn code(self) -> Code {
        match self {
            Self::Revoked => Code::TokenRevoked,
            Self::Expired => Code::TokenExpired,
        }
    }

    /// For the client.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Revoked => "token revoked",
            Self::Expired => "token expired",
        }
    }
}

/// Every stream that ends with its token. A clone is the same registry.
#[derive(Clone)]
pub struct Live(Arc<Registry>);

struct Registry {
    shards: [Mutex<Shard>; SHARDS],
    /// The earliest expiry that [`Live::keep_expiring`] sleeps for, in milliseconds; [`NEVER`] while it looks.
    awaited: AtomicU64,
    sooner: Notify,
    metrics: Arc<Metrics>,
}

/// Keys are those of a hash, so their first bits spread. The second part of a key is the stream's address.
#[derive(Default)]
struct Shard {
    by_token: BTreeMap<(SelectorKey, usize), Arc<Stream>>,
    /// Streams of the same token stand in the same shard here.
    by_expiry: BTreeMap<(UnixTime, usize), Arc<Stream>>,
    by_session: BTreeMap<(SelectorKey, usize), Arc<Stream>>,
}

/// A response or tunnel that is open.
struct Stream {
    token: Arc<KnownToken>,
    /// A [`Cause`], or 0.
    cut: AtomicU8,
    task: AtomicWaker,
}

impl Live {
    /// An empty one, counted in `metrics`.
    pub fn new(metrics: &Arc<Metrics>) -> Self {
        Self(Arc::new(Registry {
            shards: std::array::from_fn(|_| Mutex::default()),
            awaited: AtomicU64::new(NEVER),
            sooner: Notify::new(),
            metrics: Arc::clone(metrics),
        }))
    }

    /// What the log's writer tells of each revocation.
    pub fn projection(&self) -> Box<dyn Projection> {
        Box::new(Cutter(self.clone()))
    }

    /// Looks every stream up: something came in force that no projection was told of.
    pub fn recheck(&self, blocklist: &Blocklist) {
        for shard in &self.0.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let streams: Vec<_> = shard.by_token.values().map(Arc::clone).collect();
            drop(shard);
            let refused = streams.iter().filter(|stream| blocklist.check(&stream.token.keys).is_some());
            refused.for_each(|stream| stream.cut(Cause::Revoked));
        }
    }

    /// How many streams are open.
    pub fn open(&self) -> usize {
        usize::try_from(self.0.metrics.live_connections.get()).unwrap_or(0)
    }

    /// Cuts streams when their tokens expire, for as long as it is polled.
    pub async fn keep_expiring(&self, clock: Arc<dyn Clock>) {
        let registry = &*self.0;
        loop {
            let sooner = registry.sooner.notified();
            // Who registers from here on either is seen below or finds this and calls again.
            registry.awaited.store(NEVER, Ordering::SeqCst);
            let now = clock.now();
            match registry.expire(now) {
                Some(next) => {
                    registry.awaited.store(next.millis(), Ordering::SeqCst);
                    let _ = tokio::time::timeout(next.since(now).min(LOOK_EVERY), sooner).await;
                }
                None => sooner.await,
            }
        }
    }

    /// Registers a stream of this token, then looks up whether the token is still good. If it is not, the stream is
    /// cut already.
    pub(super) fn watch(&self, token: &Arc<KnownToken>, blocklist: &Blocklist, now: UnixTime) -> Watched {
        let stream =
            Arc::new(Stream { token: Arc::clone(token), cut: AtomicU8::new(0), task: AtomicWaker::new() });
        self.0.insert(&stream);
        if blocklist.check(&token.keys).is_some() {
            stream.cut(Cause::Revoked);
        } else if token.is_expired(now) {
            stream.cut(Cause::Expired);
        }
        Watched { live: self.clone(), stream }
    }
}

/// A registered stream; dropping it takes it out.
pub(super) struct Watched {
    live: Live,
    stream: Arc<Stream>,
}

impl Watched {
    /// Ready when the stream is cut; else the task is woken then.
    pub(super) fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<Cause> {
        ready!(self.stream.poll_cut(cx));
        Poll::Ready(self.cause().unwrap_or(Cause::Revoked))
    }

    /// Why it was cut, if it was.
    pub(super) fn cause(&self) -> Option<Cause> {
        self.stream.cause()
    }

    /// For whoever drives the connection.
    pub(super) fn cut(&self) -> Cut {
        Cut(self.stream.clone())
    }

    /// The cut has ended the stream.
    pub(super) fn count(&self) {
        self.live.0.metrics.cut_connections.inc();
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.live.0.remove(&self.stream);
    }
}

impl Stream {
    fn cut(&self, cause: Cause) {
        // The first cause stays.
        if self.cut.compare_exchange(0, cause as u8, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.task.wake();
        }
    }

    fn cause(&self) -> Option<Cause> {
        match self.cut.load(Ordering::Acquire) {
            0 => None,
            2 => Some(Cause::Expired),
            _ => Some(Cause::Revoked),
        }
    }

    fn place(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn session(&self) -> Option<(SelectorKey, usize)> {
        Some((self.token.keys.session?, self.place()))
    }
}

impl Cuttable for Stream {
    fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.cause().is_none() {
            self.task.register(cx.waker());
            if self.cause().is_none() {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }
}

impl Registry {
    fn shard(&self, key: &SelectorKey) -> MutexGuard<'_, Shard> {
        self.shards[key.0[0] as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, stream: &Arc<Stream>) {
        let (key, place, until) = (stream.token.keys.token, stream.place(), stream.token.good_until());
        let mut shard = self.shard(&key);
        shard.by_token.insert((key, place), Arc::clone(stream));
        shard.by_expiry.insert((until, place), Arc::clone(stream));
        drop(shard);
        if let Some(session) = stream.session() {
            self.shard(&session.0).by_session.insert(session, Arc::clone(stream));
        }
        self.metrics.live_connections.inc();
        if until.millis() < self.awaited.load(Ordering::SeqCst) {
            self.sooner.notify_one();
        }
    }

    fn remove(&self, stream: &Stream) {
        let (key, place) = (stream.token.keys.token, stream.place());
        let mut shard = self.shard(&key);
        // Dropped after the lock: what they hold is not ours to drop under it.
        let gone = (
            shard.by_token.remove(&(key, place)),
            shard.by_expiry.remove(&(stream.token.good_until(), place)),
        );
        drop(shard);
        let session = stream.session().map(|session| self.shard(&session.0).by_session.remove(&session));
        self.metrics.live_connections.dec();
        drop((gone, session));
    }

    /// Cuts the streams found in one map under this key.
    fn cut_by(&self, key: SelectorKey, map: impl Fn(&Shard) -> &BTreeMap<(SelectorKey, usize), Arc<Stream>>) {
        let shard = self.shard(&key);
        let found: Vec<_> =
            map(&shard).range((key, 0)..=(key, usize::MAX)).map(|(_, s)| Arc::clone(s)).collect();
        drop(shard);
        found.iter().for_each(|stream| stream.cut(Cause::Revoked));
    }

    /// Cuts every stream whose token one of these refuses.
    fn cut_all(&self, cutoffs: &BTreeMap<SelectorKey, UnixTime>) {
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let refused = shard.by_token.values().filter(|stream| refuses(cutoffs, &stream.token.keys));
            let refused: Vec<_> = refused.cloned().collect();
            drop(shard);
            refused.iter().for_each(|stream| stream.cut(Cause::Revoked));
        }
    }

    /// Cuts what has expired; when to look again.
    fn expire(&self, now: UnixTime) -> Option<UnixTime> {
        let mut next: Option<UnixTime> = None;
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let ahead = shard.by_expiry.split_off(&(now, usize::MAX));
            let expired = std::mem::replace(&mut shard.by_expiry, ahead);
            let first = shard.by_expiry.first_key_value().map(|((at, _), _)| *at);
            drop(shard);
            next = next.into_iter().chain(first).min();
            expired.values().for_each(|stream| stream.cut(Cause::Expired));
        }
        next
    }
}

fn refuses(cutoffs: &BTreeMap<SelectorKey, UnixTime>, keys: &TokenKeys) -> bool {
    let TokenKeys { subject, client, other_clients, key, issuer, claims, issued_at, .. } = keys;
    let named = subject
        .iter()
        .chain(client)
        .chain(other_clients.iter())
        .chain(key)
        .chain([issuer])
        .chain(claims.iter());
    named.filter_map(|key| cutoffs.get(key)).any(|cutoff| cutoff_refuses(*cutoff, *issued_at))
}

/// The projection.
struct Cutter(Live);

impl Projection for Cutter {
    fn applied(&mut self, _sequence: u64, entries: &[Revocation]) {
        let registry = &*self.0.0;
        let mut cutoffs = BTreeMap::new();
        for entry in entries.iter().filter(|entry| !entry.lift) {
            let key = entry.selector.key();
            match entry.selector.kind {
                Kind::Token => registry.cut_by(key, |shard| &shard.by_token),
                Kind::Session => registry.cut_by(key, |shard| &shard.by_session),
                _ => {
                    // As the blocklist has it: without a cutoff it refuses nothing, and the later one wins.
                    let before = entry.issued_before.unwrap_or(UnixTime::ZERO);
                    let cutoff = cutoffs.entry(key).or_insert(before);
                    *cutoff = before.max(*cutoff);
                }
            }
        }
        if !cutoffs.is_empty() {
            registry.cut_all(&cutoffs);
        }
    }
}

#[cfg(test)]
mod tests;

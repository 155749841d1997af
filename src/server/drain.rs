//! Serving, draining, stopped: for all connections of one or more listeners.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// How long after the cut the connections' tasks have to let go of their sockets. They need one turn each.
const LETTING_GO: Duration = Duration::from_secs(1);

/// Connections over the limit that may be open at once, to be told so.
const TURNED_AWAY_MAX: usize = 128;

/// Where a listener stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Accepts and answers.
    Serving,
    /// Accepts nothing; idle connections are closed, others finish what runs.
    Draining,
    /// Every connection is cut.
    Stopped,
}

/// The life and the connections of one or more listeners. Clones are the same drain. Listeners that must outlive
/// others (the admin one) get a drain of their own.
#[derive(Clone, Debug, Default)]
pub struct Drain(Arc<State>);

#[derive(Debug, Default)]
struct State {
    phase: AtomicU8,
    changed: Arc<Notify>,
    /// Whoever waits at the door is somebody else's.
    handed_over: AtomicBool,
    /// Of which this is a part: what is open here is open there, too.
    whole: Option<Drain>,
    parts: Mutex<Vec<Weak<State>>>,
    open: AtomicUsize,
    closed: Notify,
    turned_away: AtomicUsize,
    accepted_total: AtomicU64,
    turned_away_total: AtomicU64,
}

impl Drain {
    /// Serving, with no connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// A part of this drain, for listeners that may have to go before the others: it can be drained by itself, and is
    /// whenever the whole is. Its connections count for both.
    #[must_use]
    pub fn part(&self) -> Self {
        let part = Self(Arc::new(State { whole: Some(self.clone()), ..State::default() }));
        let mut parts = self.0.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.retain(|part| part.strong_count() > 0);
        parts.push(Arc::downgrade(&part.0));
        // Under the lock, so that no change of phase falls between.
        part.enter(self.phase());
        drop(parts);
        part
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        match self.0.phase.load(Ordering::SeqCst) {
            0 => Phase::Serving,
            1 => Phase::Draining,
            _ => Phase::Stopped,
        }
    }

    /// Connections open now, upgraded ones included (gauge `portcullis_connections`).
    pub fn open(&self) -> usize {
        self.0.open.load(Ordering::SeqCst)
    }

    /// Connections let in so far.
    pub fn accepted_total(&self) -> u64 {
        self.0.accepted_total.load(Ordering::Relaxed)
    }

    /// Connections answered 503 or dropped so far because there were too many.
    pub fn turned_away_total(&self) -> u64 {
        self.0.turned_away_total.load(Ordering::Relaxed)
    }

    /// Stops accepting, closes idle connections, lets the others finish. Does not wait. Again: nothing happens.
    pub fn begin(&self) {
        self.enter(Phase::Draining);
    }

    /// [`Drain::begin`], where another process accepts from the same sockets: who waits to be accepted is left to it.
    pub fn hand_over(&self) {
        self.0.handed_over.store(true, Ordering::SeqCst);
        self.begin();
    }

    /// Whether it was [handed over](Self::hand_over).
    pub fn is_handed_over(&self) -> bool {
        self.whole().0.handed_over.load(Ordering::SeqCst)
    }

    /// [`Drain::begin`], then waits until every connection has ended, at most for `timeout`, then cuts the rest.
    /// Returns how many were cut, for the warning. Dropping the future leaves the drain begun and nothing cut.
    pub async fn stop(&self, timeout: Duration) -> usize {
        self.begin();
        let _ = tokio::time::timeout(timeout, self.ended()).await;
        let cut = self.open();
        self.enter(Phase::Stopped);
        let _ = tokio::time::timeout(LETTING_GO, self.ended()).await;
        cut
    }

    /// Waits until no connection is open.
    pub async fn ended(&self) {
        loop {
            let closed = self.0.closed.notified();
            tokio::pin!(closed);
            closed.as_mut().enable();
            if self.open() == 0 {
                return;
            }
            closed.await;
        }
    }

    /// Waits until this phase has come, or a later one.
    pub async fn reached(&self, phase: Phase) {
        let mut watch = Watch::new(self.clone());
        std::future::poll_fn(
            |cx| if watch.poll_phase(cx) >= phase { Poll::Ready(()) } else { Poll::Pending },
        )
        .await;
    }

    fn enter(&self, phase: Phase) {
        let parts = self.0.parts.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.phase.fetch_max(phase as u8, Ordering::SeqCst);
        self.0.changed.notify_waiters();
        parts.iter().filter_map(Weak::upgrade).for_each(|part| Self(part).enter(phase));
    }

    fn left(&self) {
        if self.0.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.closed.notify_waiters();
        }
    }

    fn whole(&self) -> &Self {
        self.0.whole.as_ref().unwrap_or(self)
    }

    /// Counts a new connection in; the limit is that of the whole. Beyond `limit` it is a [`Admission::TurnedAway`], and when there are too many of
    /// those too, `None`.
    pub(super) fn admit(&self, limit: Option<usize>) -> Option<(Admission, Ticket)> {
        let whole = &self.whole().0;
        let before = whole.open.fetch_add(1, Ordering::SeqCst);
        if self.0.whole.is_some() {
            self.0.open.fetch_add(1, Ordering::SeqCst);
        }
        let mut ticket = Ticket { drain: self.clone(), turned_away: false, cut: None };
        // Those to be told that there are too many are open, too, but do not fill the limit.
        let away = whole.turned_away.load(Ordering::SeqCst);
        if limit.is_none_or(|limit| before.saturating_sub(away) < limit) {
            whole.accepted_total.fetch_add(1, Ordering::Relaxed);
            return Some((Admission::Welcome, ticket));
        }
        whole.turned_away_total.fetch_add(1, Ordering::Relaxed);
        if whole.turned_away.fetch_add(1, Ordering::SeqCst) >= TURNED_AWAY_MAX {
            whole.turned_away.fetch_sub(1, Ordering::SeqCst);
            return None;
        }
        ticket.turned_away = true;
        Some((Admission::TurnedAway, ticket))
    }
}

/// Whether a connection is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Welcome,
    /// Gets 503 and is closed.
    TurnedAway,
}

/// One open connection; gives its place back when dropped.
pub(super) struct Ticket {
    drain: Drain,
    turned_away: bool,
    /// For an upgraded connection, whose task nobody holds any more.
    cut: Option<Box<Watch>>,
}

impl Ticket {
    /// Ready when everything is to be cut; else `cx` is woken then.
    pub(super) fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let drain = &self.drain;
        let watch = self.cut.get_or_insert_with(|| Box::new(Watch::new(drain.clone())));
        if watch.poll_phase(cx) == Phase::Stopped { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let whole = self.drain.whole();
        if self.turned_away {
            whole.0.turned_away.fetch_sub(1, Ordering::SeqCst);
        }
        whole.left();
        if self.drain.0.whole.is_some() {
            self.drain.left();
        }
    }
}

/// Tells a task of changes of phase. Polled on every turn of a connection, so between changes it is one load and one
/// comparison of wakers.
pub(super) struct Watch {
    drain: Drain,
    changed: Pin<Box<OwnedNotified>>,
    registered: Option<Waker>,
    seen: Phase,
}

impl Watch {
    pub(super) fn new(drain: Drain) -> Self {
        let changed = Box::pin(drain.0.changed.clone().notified_owned());
        Self { drain, changed, registered: None, seen: Phase::Serving }
    }

    /// The phase now; `cx` is woken when it changes.
    pub(super) fn poll_phase(&mut self, cx: &mut Context<'_>) -> Phase {
        let phase = self.drain.phase();
        if phase == self.seen && self.registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            return phase;
        }
        // Registered first and read again after, so that no change falls between.
        while self.changed.as_mut().poll(cx).is_ready() {
            self.changed.set(self.drain.0.changed.clone().notified_owned());
        }
        self.registered = Some(cx.waker().clone());
        self.seen = self.drain.phase();
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_turns_away() {
        let drain = Drain::new();
        let (first, ticket) = drain.admit(Some(1)).unwrap();
        assert_eq!((first, drain.open()), (Admission::Welcome, 1));
        let away: Vec<_> = (0..TURNED_AWAY_MAX).map(|_| drain.admit(Some(1)).unwrap()).collect();
        assert!(away.iter().all(|(admission, _)| *admission == Admission::TurnedAway));
        assert!(drain.admit(Some(1)).is_none());
        drop(ticket);
        assert_eq!(drain.admit(Some(1)).unwrap().0, Admission::Welcome);
        drop(away);
        assert_eq!(drain.open(), 0);
        assert_eq!((drain.accepted_total(), drain.turned_away_total()), (2, TURNED_AWAY_MAX as u64 + 1));
    }

    #[tokio::test]
    async fn a_phase_is_never_missed_and_never_goes_back() {
        let drain = Drain::new();
        let waiting = tokio::spawn({
            let drain = drain.clone();
            async move { drain.reached(Phase::Stopped).await }
        });
        drain.begin();
        assert_eq!(drain.stop(Duration::ZERO).await, 0);
        drain.begin();
        assert_eq!(drain.phase(), Phase::Stopped);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn a_part_can_go_by_itself_and_goes_with_the_whole() {
        let whole = Drain::new();
        let (one, two) = (whole.part(), whole.part());
        let (_, ticket) = one.admit(Some(1)).unwrap();
        assert_eq!(two.admit(Some(1)).unwrap().0, Admission::TurnedAway, "the limit is of all together");
        one.begin();
        assert_eq!([&one, &two, &whole].map(Drain::phase), [Phase::Draining, Phase::Serving, Phase::Serving]);
        drop(ticket);
        one.ended().await;
        assert_eq!((one.open(), whole.open(), whole.accepted_total()), (0, 0, 1));
        whole.begin();
        assert_eq!(two.phase(), Phase::Draining);
        assert_eq!(whole.part().phase(), Phase::Draining);
    }

    #[tokio::test]
    async fn stop_counts_what_it_cuts() {
        let drain = Drain::new();
        let (_, ticket) = drain.admit(None).unwrap();
        let stop = tokio::spawn({
            let drain = drain.clone();
            async move { drain.stop(Duration::ZERO).await }
        });
        drain.reached(Phase::Stopped).await;
        drop(ticket);
        assert_eq!(stop.await.unwrap(), 1);
    }
}

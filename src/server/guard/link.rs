//! What the guard, the service above hyper and the connection's task tell each other.
//!
//! All three run in one task, so nothing here is ever contended; the lock is there because hyper moves them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::framer::Verdict;
use crate::answer::{Body, BoxError, Cut};

/// Requests released to hyper and not yet answered; pipelined ones beyond wait in the guard, then in the socket.
const PIPELINED_MAX: usize = 32;

/// One connection's shared state.
#[derive(Default)]
pub(in crate::server) struct Link {
    queue: Mutex<Queue>,
    /// Requests released and not yet answered in full.
    outstanding: AtomicUsize,
    /// The guard stands still until something here changes, and [`Queue::reader`] wakes it.
    stalled: AtomicBool,
    in_body: AtomicBool,
    mid_head: AtomicBool,
    abort: AtomicBool,
    /// hyper waits for the next request, and holds nothing of this one or that.
    resting: AtomicBool,
    /// Whether [`Queue::cut`] is there.
    cuttable: AtomicBool,
}

#[derive(Default)]
struct Queue {
    /// Verdicts on requests that hyper was given and has not handed to the service yet.
    verdicts: VecDeque<Verdict>,
    reader: Option<Waker>,
    upgrade: Option<Upgrade>,
    /// Of the answer under way.
    cut: Option<Cut>,
}

/// The word on an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Upgrade {
    /// 101 was answered: every byte from here on belongs to the tunnel.
    Accepted,
    /// Anything else was answered: the next request follows.
    Refused,
}

impl Link {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many more heads may be released.
    pub(super) fn room(&self) -> usize {
        PIPELINED_MAX.saturating_sub(self.outstanding())
    }

    pub(super) fn push(&self, verdict: Verdict) {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
        self.set_resting(false);
        self.queue().verdicts.push_back(verdict);
    }

    /// The verdict on the request that hyper has just handed over; `None` if the guard released no such head.
    pub(in crate::server) fn take(&self) -> Option<Verdict> {
        self.queue().verdicts.pop_front()
    }

    /// Requests released and not yet answered in full.
    pub(in crate::server) fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Acquire)
    }

    fn answered(&self) {
        if self.cuttable.swap(false, Ordering::AcqRel) {
            self.queue().cut = None;
        }
        let less = |n: usize| n.checked_sub(1);
        let _ = self.outstanding.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        self.wake_reader();
    }

    /// The answer that now begins may be cut.
    pub(in crate::server) fn watch(&self, cut: Cut) {
        self.queue().cut = Some(cut);
        self.cuttable.store(true, Ordering::Release);
    }

    /// Ready when the answer under way is cut.
    pub(in crate::server) fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.cuttable.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        self.queue().cut.as_ref().map_or(Poll::Pending, |cut| cut.0.poll_cut(cx))
    }

    /// The word on the upgrade that the last request asked for.
    pub(in crate::server) fn decide(&self, upgrade: Upgrade) {
        self.queue().upgrade = Some(upgrade);
        self.wake_reader();
    }

    pub(super) fn decision(&self) -> Option<Upgrade> {
        self.queue().upgrade.take()
    }

    /// Has `waker` woken when a request is answered or an upgrade decided.
    pub(super) fn stall(&self, waker: &Waker) {
        self.queue().reader = Some(waker.clone());
        self.stalled.store(true, Ordering::Release);
    }

    fn wake_reader(&self) {
        if self.stalled.swap(false, Ordering::AcqRel)
            && let Some(waker) = self.queue().reader.take()
        {
            waker.wake();
        }
    }

    /// Where the guard stands: between head and end of a body; between the first byte and the end of a head.
    pub(super) fn set_place(&self, in_body: bool, mid_head: bool) {
        self.in_body.store(in_body, Ordering::Release);
        self.mid_head.store(mid_head, Ordering::Release);
    }

    /// The body of the request being answered has not come in whole. With others behind it, it has: then it is the
    /// last one's body that is on its way.
    pub(in crate::server) fn owes_body(&self) -> bool {
        self.in_body.load(Ordering::Acquire) && self.outstanding() == 1
    }

    /// Part of a head has come in.
    pub(in crate::server) fn mid_head(&self) -> bool {
        self.mid_head.load(Ordering::Acquire)
    }

    /// Every request that came is answered, every answer is out, and hyper has asked for the next one.
    pub(in crate::server) fn resting(&self) -> bool {
        self.resting.load(Ordering::Acquire)
    }

    pub(super) fn set_resting(&self, resting: bool) {
        self.resting.store(resting, Ordering::Release);
    }

    /// The connection is to end with a reset, so that nobody takes what was sent for complete.
    pub(in crate::server) fn set_abort(&self) {
        self.abort.store(true, Ordering::Release);
    }

    pub(super) fn abort(&self) -> bool {
        self.abort.load(Ordering::Acquire)
    }
}

/// A request being answered; ends when it is dropped, which is when hyper has taken the last of the answer.
pub(in crate::server) struct Answering(Arc<Link>);

impl Answering {
    pub(in crate::server) const fn new(link: Arc<Link>) -> Self {
        Self(link)
    }

    /// Keeps it alive as long as the body.
    pub(in crate::server) const fn with(self, body: Body) -> Answer {
        Answer { body, _answering: self }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answered();
    }
}

/// The body of an answer.
pub(in crate::server) struct Answer {
    body: Body,
    _answering: Answering,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_come_in_the_order_of_the_connection() {
        let link = Link::default();
        link.push(Err(super::super::Fault::Fold));
        link.push(Err(super::super::Fault::Control));
        assert_eq!(link.take(), Some(Err(super::super::Fault::Fold)));
        assert_eq!(link.take(), Some(Err(super::super::Fault::Control)));
        assert_eq!(link.take(), None);
    }
}

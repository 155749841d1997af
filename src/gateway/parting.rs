//! The end of a listener, or of the process, as tunnels hear of it: they say good-bye before they are cut.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// Begun once, when what is still open will be cut in a moment. A clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Parting(Arc<State>);

#[derive(Debug, Default)]
struct State {
    begun: AtomicBool,
    told: Arc<Notify>,
}

impl Parting {
    /// Tells all tunnels.
    pub fn begin(&self) {
        self.0.begun.store(true, Ordering::SeqCst);
        self.0.told.notify_waiters();
    }
}

/// Waits for the first of two partings. Polled on every turn of a tunnel, so until then it is two loads and one comparison
/// of wakers.
pub(super) struct First {
    of: Arc<[Parting; 2]>,
    told: [Pin<Box<OwnedNotified>>; 2],
    registered: Option<Waker>,
}

impl First {
    pub(super) fn of(partings: &Arc<[Parting; 2]>) -> Self {
        let told = [0, 1].map(|one| Box::pin(partings[one].0.told.clone().notified_owned()));
        Self { of: Arc::clone(partings), told, registered: None }
    }

    /// Ready when one has begun; else `cx` is woken then.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let begun = |of: &[Parting; 2]| of.iter().any(|parting| parting.0.begun.load(Ordering::SeqCst));
        if !begun(&self.of) && !self.registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            for told in &mut self.told {
                let _ = told.as_mut().poll(cx);
            }
            self.registered = Some(cx.waker().clone());
        }
        // Looked at again after, so that no beginning falls between.
        if begun(&self.of) { Poll::Ready(()) } else { Poll::Pending }
    }
}

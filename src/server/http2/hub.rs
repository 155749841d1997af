//! What wakes a connection, and for what.
//!
//! All that happens on a connection happens on its one task. So that it need not look at every stream each time it is
//! woken, each stream has a bell of its own, and the connection one for its frames; and a bell that rings while the task
//! runs wakes nobody, for it is heard before the task rests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use futures_util::task::AtomicWaker;

use crate::http2::Heard;

/// Places for streams.
pub(super) const PLACES: usize = 2 * WORD;
const WORD: usize = u64::BITS as usize;
/// The bell of the connection itself.
const CONNECTION: usize = PLACES;

/// What a connection's task and those who wake it share.
#[derive(Debug, Default)]
pub(super) struct Hub {
    /// Which bells have rung: those of the places, then the connection's.
    rung: [AtomicU64; 3],
    /// The task runs, and looks at the bells before it rests.
    running: AtomicBool,
    task: AtomicWaker,
    tunnels: AtomicUsize,
    /// The client has said something.
    pub(super) heard: Heard,
}

/// One of the bells.
struct Bell {
    hub: Arc<Hub>,
    index: usize,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.hub.ring(self.index);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.hub.ring(self.index);
    }
}

/// A tunnel on a stream of the connection.
#[derive(Debug)]
pub(super) struct TunnelCount(Arc<Hub>);

impl Drop for TunnelCount {
    fn drop(&mut self) {
        if self.0.tunnels.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.ring(CONNECTION);
        }
    }
}

impl Hub {
    /// The bell of this place.
    pub(super) fn bell(self: &Arc<Self>, place: usize) -> Waker {
        Waker::from(Arc::new(Bell { hub: Arc::clone(self), index: place }))
    }

    /// The bell of the connection.
    pub(super) fn own_bell(self: &Arc<Self>) -> Waker {
        self.bell(CONNECTION)
    }

    fn ring(&self, index: usize) {
        self.rung[index / WORD].fetch_or(1 << (index % WORD), Ordering::SeqCst);
        if !self.running.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }

    /// The task runs from now on; `waker` is its own.
    pub(super) fn begin(&self, waker: &Waker) {
        self.task.register(waker);
        self.running.store(true, Ordering::SeqCst);
    }

    /// No bell has rung that it has not heard.
    pub(super) fn is_quiet(&self) -> bool {
        self.rung.iter().all(|word| word.load(Ordering::SeqCst) == 0)
    }

    /// The task is about to rest. True when it may: all is quiet.
    pub(super) fn rest(&self) -> bool {
        self.running.store(false, Ordering::SeqCst);
        let quiet = self.is_quiet();
        if !quiet {
            self.running.store(true, Ordering::SeqCst);
        }
        quiet
    }

    /// The task rests although there is more to do: it has woken itself.
    pub(super) fn pause(&self) {
        self.running.store(false, Ordering::SeqCst);
    }

    /// The places whose bells have rung since the last time.
    pub(super) fn places(&self) -> [u64; 2] {
        [0, 1].map(|word: usize| match self.rung[word].load(Ordering::Relaxed) {
            0 => 0,
            _ => self.rung[word].swap(0, Ordering::SeqCst),
        })
    }

    /// Whether the connection's own bell has.
    pub(super) fn connection(&self) -> bool {
        self.rung[2].load(Ordering::Relaxed) != 0 && self.rung[2].swap(0, Ordering::SeqCst) != 0
    }

    /// One more tunnel, until that is dropped.
    pub(super) fn tunnel(self: &Arc<Self>) -> TunnelCount {
        self.tunnels.fetch_add(1, Ordering::AcqRel);
        TunnelCount(Arc::clone(self))
    }

    /// Whether there are tunnels.
    pub(super) fn has_tunnels(&self) -> bool {
        self.tunnels.load(Ordering::Acquire) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_bell_wakes_a_task_that_rests_and_keeps_one_that_runs_from_resting() {
        let (hub, woken) = (Arc::new(Hub::default()), Arc::new(Count(AtomicUsize::new(0))));
        let task = Waker::from(Arc::clone(&woken));
        let bells = [0, 63, 64, 127].map(|place| hub.bell(place));
        hub.begin(&task);
        bells[0].wake_by_ref();
        bells[3].wake_by_ref();
        assert_eq!(woken.0.load(Ordering::SeqCst), 0);
        assert!(!hub.rest(), "two have rung");
        assert_eq!((hub.places(), hub.connection()), ([1, 1 << 63], false));
        hub.own_bell().wake();
        assert!(!hub.rest() && hub.connection() && hub.rest());
        assert_eq!(woken.0.load(Ordering::SeqCst), 0);
        bells[1].wake_by_ref();
        bells[2].wake_by_ref();
        assert_eq!(woken.0.load(Ordering::SeqCst), 1, "woken once");
        hub.begin(&task);
        assert_eq!((hub.places(), hub.places()), ([1 << 63, 1], [0, 0]));
    }

    #[test]
    fn the_last_tunnel_to_end_is_heard_of() {
        let hub = Arc::new(Hub::default());
        let tunnels = [hub.tunnel(), hub.tunnel()];
        assert!(hub.has_tunnels());
        drop(tunnels);
        assert!(!hub.has_tunnels() && hub.connection());
    }
}

//! Where the streams of a connection run: on its task, in places that are used again.
//!
//! A task for each would cost what its start, its scheduling and its end do; and a stream's future is large, because
//! all that a request may come to wait for is in it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::hub::{Hub, PLACES};

const WORD: usize = u64::BITS as usize;

/// Futures that run on the task of their connection.
pub(super) struct Places<F> {
    hub: Arc<Hub>,
    list: Vec<Place<F>>,
    taken: [u64; 2],
}

struct Place<F> {
    /// A bell that was rung for whoever had the place before is rung in vain.
    bell: Waker,
    future: Pin<Box<Option<F>>>,
}

impl<F: Future> Places<F> {
    /// None is taken.
    pub(super) fn new(hub: &Arc<Hub>) -> Self {
        Self { hub: Arc::clone(hub), list: Vec::new(), taken: [0; 2] }
    }

    /// Whether none is taken.
    pub(super) const fn is_empty(&self) -> bool {
        self.taken[0] | self.taken[1] == 0
    }

    /// The first that is free.
    pub(super) fn free(&self) -> Option<usize> {
        let place = match self.taken {
            [u64::MAX, second] => WORD + second.trailing_ones() as usize,
            [first, _] => first.trailing_ones() as usize,
        };
        (place < PLACES).then_some(place)
    }

    /// Those that are taken.
    pub(super) const fn taken(&self) -> [u64; 2] {
        self.taken
    }

    /// Puts a future into a place that is free; it is made with the bell that is rung for it, and has not been polled.
    pub(super) fn put(&mut self, place: usize, future: impl FnOnce(&Waker) -> F) {
        while self.list.len() <= place {
            let bell = self.hub.bell(self.list.len());
            self.list.push(Place { bell, future: Box::pin(None) });
        }
        let free = &mut self.list[place];
        free.future.set(Some(future(&free.bell)));
        self.taken[place / WORD] |= 1 << (place % WORD);
    }

    /// Polls what is in a place; ready when nothing is any more. `None`: it panicked.
    pub(super) fn poll(&mut self, place: usize) -> Poll<Option<F::Output>> {
        let Some(Place { bell, future }) = self.list.get_mut(place) else { return Poll::Pending };
        let Some(running) = future.as_mut().as_pin_mut() else { return Poll::Pending };
        let mut cx = Context::from_waker(bell);
        // What was under way is dropped as it is: nobody looks at it again.
        let output = match catch_unwind(AssertUnwindSafe(|| running.poll(&mut cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Some(output),
            Err(_) => None,
        };
        future.set(None);
        self.taken[place / WORD] &= !(1 << (place % WORD));
        Poll::Ready(output)
    }

    /// Gives back what it keeps for streams to come. None is taken.
    pub(super) fn rest(&mut self) {
        self.list = Vec::new();
    }
}

/// The places in a set of them.
pub(super) fn each(set: [u64; 2]) -> impl Iterator<Item = usize> {
    set.into_iter().enumerate().flat_map(|(word, mut bits)| {
        std::iter::from_fn(move || {
            let bit = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
            bits &= bits - 1;
            Some(word * WORD + bit)
        })
    })
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn places_are_used_again_and_there_is_an_end_of_them() {
        let hub = Arc::new(Hub::default());
        let mut places = Places::new(&hub);
        let mut tell = Vec::new();
        for expected in 0..PLACES {
            let (told, wait) = oneshot::channel::<()>();
            tell.push(told);
            assert_eq!(places.free(), Some(expected));
            places.put(expected, |_| async move {
                assert!(wait.await.is_err(), "asked to panic");
                expected
            });
            assert!(places.poll(expected).is_pending());
        }
        assert_eq!(places.free(), None);
        for place in [70, 3] {
            drop(tell.remove(place));
        }
        assert_eq!(each(hub.places()).collect::<Vec<_>>(), [3, 70]);
        assert!(matches!(places.poll(3), Poll::Ready(Some(3))));
        assert_eq!(places.free(), Some(3));
        assert!(places.poll(3).is_pending(), "nobody is there");
        assert!(matches!(places.poll(70), Poll::Ready(Some(70))));
        tell.remove(1).send(()).unwrap();
        assert!(matches!(places.poll(1), Poll::Ready(None)), "it panicked");
        assert_eq!((places.free(), each(places.taken()).count()), (Some(1), PLACES - 3));
    }
}

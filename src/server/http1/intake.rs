//! The body of a request, on its way from the connection to whoever reads it, which may be another task.
//!
//! One piece is on its way at a time, and none is read before it is asked for: that is all the back-pressure there is.
//! A body that came whole with its head takes no part in this.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::answer::BoxError;
use crate::server::HeadLimits;
use crate::server::guard::{BodyLength, Chunked, Fault};

/// Where in a body we are.
#[derive(Debug)]
pub(super) enum Framing {
    /// So many bytes are still to come; 0: it has ended.
    Length(u64),
    Chunked(Chunked),
}

/// What the bytes that have come are.
#[derive(Debug)]
pub(super) enum Piece {
    Data(Bytes),
    /// The body has ended.
    End,
    /// Nothing before more has come.
    More,
    Bad(Fault),
}

impl Framing {
    pub(super) const fn new(body: BodyLength) -> Self {
        match body {
            BodyLength::None => Self::Length(0),
            BodyLength::Known(length) => Self::Length(length),
            BodyLength::Chunked => Self::Chunked(Chunked::new()),
        }
    }

    pub(super) const fn is_over(&self) -> bool {
        matches!(self, Self::Length(0))
    }

    /// How many bytes are still to come, where that was said.
    pub(super) const fn left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Chunked(_) => None,
        }
    }

    /// The next piece, out of what was read. Copies nothing. Trailers end here.
    pub(super) fn take(&mut self, read: &mut BytesMut, limits: &HeadLimits) -> Piece {
        match self {
            Self::Length(0) => Piece::End,
            Self::Length(left) => match data(read, *left) {
                Some(data) => {
                    *left -= data.len() as u64;
                    Piece::Data(data)
                }
                None => Piece::More,
            },
            Self::Chunked(chunked) => {
                let mut taken = None;
                if let Some(data) = data(read, chunked.data()) {
                    chunked.took(data.len());
                    taken = Some(data);
                }
                // Behind a piece too, so that a body which has ended does so with its last one.
                let (good, end) = chunked.around(read, limits);
                read.advance(good);
                match (end, taken) {
                    (Some(Ok(())), taken) => {
                        *self = Self::Length(0);
                        taken.map_or(Piece::End, Piece::Data)
                    }
                    (_, Some(data)) => Piece::Data(data),
                    (Some(Err(fault)), None) => Piece::Bad(fault),
                    (None, None) if chunked.data() == 0 || read.is_empty() => Piece::More,
                    (None, None) => self.take(read, limits),
                }
            }
        }
    }
}

fn data(read: &mut BytesMut, left: u64) -> Option<Bytes> {
    let here = usize::try_from(left).unwrap_or(usize::MAX).min(read.len());
    (here > 0).then(|| read.split_to(here).freeze())
}

/// What both sides know.
#[derive(Debug, Default)]
struct State {
    /// On its way; empty: nothing.
    data: Bytes,
    end: Option<Result<(), (io::ErrorKind, &'static str)>>,
    /// The reader waits.
    wanted: bool,
    /// The reader is not there any more.
    gone: bool,
    reader: Option<Waker>,
    connection: Option<Waker>,
}

/// The connection's side.
#[derive(Debug)]
pub(super) struct Intake(Arc<Mutex<State>>);

/// The reader's side.
#[derive(Debug)]
pub(super) struct Incoming {
    state: Arc<Mutex<State>>,
    left: Option<u64>,
    over: bool,
}

/// What the reader wants of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Nothing yet.
    Nothing,
    More,
    /// Nothing, for ever.
    Gone,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps `waker` in `place`.
fn keep(place: &mut Option<Waker>, waker: &Waker) {
    match place {
        Some(kept) => kept.clone_from(waker),
        None => *place = Some(waker.clone()),
    }
}

impl Intake {
    /// Both sides of a body that ends after `left` bytes, where that is known.
    pub(super) fn new(left: Option<u64>) -> (Self, Incoming) {
        let state = Arc::<Mutex<State>>::default();
        (Self(Arc::clone(&state)), Incoming { state, left, over: false })
    }

    /// What is wanted now; `cx` is woken when that changes, unless it is the task of `cx` itself that changes it.
    pub(super) fn poll_wish(&self, cx: &Context<'_>) -> Wish {
        let mut state = lock(&self.0);
        keep(&mut state.connection, cx.waker());
        match (state.gone, state.wanted) {
            (true, _) => Wish::Gone,
            (false, true) => Wish::More,
            (false, false) => Wish::Nothing,
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        lock(&self.0).gone
    }

    /// Gives the reader what it wants, and the end with it if it has come. True when that is the task of `cx`, which
    /// is not woken.
    pub(super) fn give(
        &self,
        data: Bytes,
        end: Option<Result<(), (io::ErrorKind, &'static str)>>,
        cx: &Context<'_>,
    ) -> bool {
        let mut state = lock(&self.0);
        (state.data, state.end, state.wanted) = (data, end, false);
        let reader = state.reader.take();
        drop(state);
        match reader {
            Some(reader) if reader.will_wake(cx.waker()) => true,
            Some(reader) => {
                reader.wake();
                false
            }
            None => false,
        }
    }
}

impl Drop for Intake {
    /// A body that has not ended by now never will.
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        if state.end.is_none() {
            state.end = Some(Err((io::ErrorKind::UnexpectedEof, "the connection ended before the body")));
            if let Some(reader) = state.reader.take() {
                drop(state);
                reader.wake();
            }
        }
    }
}

impl HttpBody for Incoming {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        let mut state = lock(&this.state);
        let data = std::mem::take(&mut state.data);
        if !data.is_empty() {
            this.over = matches!(state.end, Some(Ok(())));
            if let Some(left) = &mut this.left {
                *left = left.saturating_sub(data.len() as u64);
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match state.end {
            Some(end) => {
                this.over = true;
                let error = |(kind, why)| Some(Err(io::Error::new(kind, why).into()));
                Poll::Ready(end.map_or_else(error, |()| None))
            }
            None => {
                keep(&mut state.reader, cx.waker());
                state.wanted = true;
                // The connection looks again by itself when it is its own task that waits.
                if let Some(connection) = state.connection.take_if(|waker| !waker.will_wake(cx.waker())) {
                    drop(state);
                    connection.wake();
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }

    fn size_hint(&self) -> SizeHint {
        match (self.over, self.left) {
            (true, _) => SizeHint::with_exact(0),
            (false, Some(left)) => SizeHint::with_exact(left),
            (false, None) => SizeHint::default(),
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.gone = true;
        state.data = Bytes::new();
        if let Some(connection) = state.connection.take().filter(|_| !self.over) {
            drop(state);
            connection.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(body: BodyLength, reads: &[&str]) -> (String, bool, Option<Fault>) {
        let (mut framing, mut read) = (Framing::new(body), BytesMut::new());
        let limits = HeadLimits::new(1024, 3, 100);
        let mut data = String::new();
        for bytes in reads {
            read.extend_from_slice(bytes.as_bytes());
            loop {
                match framing.take(&mut read, &limits) {
                    Piece::Data(piece) => data.push_str(std::str::from_utf8(&piece).unwrap()),
                    Piece::End => return (data + "|" + std::str::from_utf8(&read).unwrap(), true, None),
                    Piece::More => break,
                    Piece::Bad(fault) => return (data, framing.is_over(), Some(fault)),
                }
            }
        }
        (data, framing.is_over(), None)
    }

    #[test]
    fn a_body_is_taken_out_of_its_frame_whatever_the_pieces() {
        let known = BodyLength::Known(5);
        assert_eq!(pieces(known, &["he", "lloGET"]), ("hello|GET".into(), true, None));
        assert_eq!(pieces(known, &["hel"]), ("hel".into(), false, None));
        let bytes = "3;x\r\nabc\r\n1\r\nd\r\n0\r\nt: u\r\n\r\nGET";
        let whole = ("abcd|GET".to_owned(), true, None);
        assert_eq!(pieces(BodyLength::Chunked, &[bytes]), whole);
        for at in 1..bytes.len() - 3 {
            let (one, two) = bytes.split_at(at);
            assert_eq!(pieces(BodyLength::Chunked, &[one, two]), whole, "cut at {at}");
        }
        let bad = pieces(BodyLength::Chunked, &["3\r\nabcX\r\n"]);
        assert_eq!(bad, ("abc".into(), false, Some(Fault::ChunkEnd)));
    }

    #[tokio::test]
    async fn the_reader_is_woken_for_each_piece_and_told_of_a_connection_that_is_gone() {
        let (intake, mut incoming) = Intake::new(None);
        let reading = tokio::spawn(async move {
            let mut read = Vec::new();
            loop {
                let polled = std::future::poll_fn(|cx| Pin::new(&mut incoming).poll_frame(cx)).await;
                match polled {
                    Some(Ok(frame)) => read.extend_from_slice(&frame.into_data().unwrap()),
                    Some(Err(error)) => return (read, error.downcast::<io::Error>().unwrap().kind()),
                    None => panic!("an end that nobody told of"),
                }
            }
        });
        for piece in ["ab", "c"] {
            std::future::poll_fn(|cx| match intake.poll_wish(cx) {
                Wish::More => {
                    assert!(!intake.give(piece.into(), None, cx));
                    Poll::Ready(())
                }
                _ => Poll::Pending,
            })
            .await;
        }
        drop(intake);
        assert_eq!(reading.await.unwrap(), (b"abc".to_vec(), io::ErrorKind::UnexpectedEof));
    }
}

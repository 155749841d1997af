//! The body of a request, as its frames come.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use crate::answer::BoxError;
use crate::clock::Timer;
use crate::http2::Heard;

/// Whether whoever takes a body waits for a client that waits for a word (RFC 9110 §10.1.1).
#[derive(Debug)]
pub(super) struct Expected {
    asked: AtomicBool,
    /// The bell of the stream.
    bell: Waker,
}

impl Expected {
    /// `bell` is rung when the body is wanted.
    pub(super) fn new(bell: Waker) -> Arc<Self> {
        Arc::new(Self { asked: AtomicBool::new(false), bell })
    }

    /// Whether the client is to be told now.
    pub(super) fn take(&self) -> bool {
        self.asked.swap(false, Ordering::AcqRel)
    }
}

/// A request body that errs when the client is too slow. What is taken of it makes room for more.
pub(super) struct Upload {
    stream: RecvStream,
    heard: Heard,
    /// What is still to come, where that is said.
    left: Option<u64>,
    expected: Option<Arc<Expected>>,
    limit: Option<Duration>,
    deadline: Option<Instant>,
    timer: Timer,
}

impl Upload {
    /// Of `length` bytes; each piece has to come within `limit`.
    pub(super) fn new(
        stream: RecvStream,
        heard: Heard,
        length: Option<u64>,
        limit: Option<Duration>,
    ) -> Self {
        Self { stream, heard, left: length, expected: None, limit, deadline: None, timer: Timer::default() }
    }

    /// The client waits for a word before it sends it.
    pub(super) fn expects(&mut self, expected: Arc<Expected>) {
        self.expected = Some(expected);
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        loop {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() && !self.stream.is_end_stream() => {}
                Some(Ok(data)) => {
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    // An error: the stream has ended, and its room with it.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    let trailers = ready!(self.stream.poll_trailers(cx));
                    return Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).transpose());
                }
            }
        }
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = this.poll_next(cx) {
            (this.deadline, this.expected) = (None, None);
            this.heard.hear();
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| broken(error).into())));
        }
        if let Some(expected) = this.expected.take() {
            expected.asked.store(true, Ordering::Release);
            expected.bell.wake_by_ref();
        }
        let Some(limit) = this.limit else { return Poll::Pending };
        let deadline = *this.deadline.get_or_insert_with(|| Instant::now() + limit);
        ready!(this.timer.poll(deadline, cx));
        let late = io::Error::new(io::ErrorKind::TimedOut, "the request body did not arrive in time");
        Poll::Ready(Some(Err(late.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Whatever the code of a reset: the upstream must not take what came before for all of it.
fn broken(error: h2::Error) -> io::Error {
    let kind = if error.is_library() { io::ErrorKind::InvalidData } else { io::ErrorKind::UnexpectedEof };
    io::Error::new(kind, error)
}

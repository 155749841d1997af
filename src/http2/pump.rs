//! A body on its way out.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use http_body::Body;

/// The most of a body that is handed on at once: a frame.
const PIECE_BYTES: usize = 16 * 1024;

/// A body, and the stream on which it goes out.
#[derive(Debug)]
pub struct Pump<B> {
    body: B,
    to: SendStream<Bytes>,
    /// Taken of the body, and not sent.
    rest: Bytes,
    /// It is the last of it.
    last: bool,
    /// Makes trailers such as may be sent.
    prepare: fn(&mut HeaderMap),
    pieces: u64,
}

impl<B: Body<Data = Bytes> + Unpin> Pump<B> {
    /// Begins with the first byte of `body`; the head has been sent on `to`. `prepare` gets the trailers.
    pub const fn new(body: B, to: SendStream<Bytes>, prepare: fn(&mut HeaderMap)) -> Self {
        Self { body, to, rest: Bytes::new(), last: false, prepare, pieces: 0 }
    }

    /// Sends; ready when that is over: all of it, or the other side has ended the stream.
    ///
    /// # Errors
    /// That of the body, which has broken off; it is for the caller to [`reset`](Self::reset) the stream.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), B::Error>> {
        let sent = self.poll_body(cx);
        if sent.is_pending() { self.to.poll_reset(cx).map(|_| Ok(())) } else { sent }
    }

    /// Ends the stream before the end of the body.
    pub fn reset(&mut self, reason: Reason) {
        self.to.send_reset(reason);
    }

    /// The other side takes nothing of what is there.
    pub fn waits_for_room(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Pieces that went out so far.
    pub const fn pieces(&self) -> u64 {
        self.pieces
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), B::Error>> {
        loop {
            if !self.rest.is_empty() {
                let room = ready!(self.poll_room(cx));
                if room == 0 {
                    return Poll::Ready(Ok(())); // it has ended
                }
                self.pieces += 1;
                let piece = self.rest.split_to(room);
                let over = self.last && self.rest.is_empty();
                if self.to.send_data(piece, over).is_err() || over {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let sent = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.last = self.body.is_end_stream();
                        if !data.is_empty() {
                            self.rest = data;
                            continue;
                        }
                        if !self.last {
                            continue;
                        }
                        self.to.send_data(data, true)
                    }
                    Err(frame) => {
                        let mut trailers = frame.into_trailers().unwrap_or_default();
                        (self.prepare)(&mut trailers);
                        self.to.send_trailers(trailers)
                    }
                },
                None => self.to.send_data(Bytes::new(), true),
                Some(Err(error)) => return Poll::Ready(Err(error)),
            };
            if let Err(error) = sent {
                tracing::debug!(%error, "the end of a body could not be sent");
                self.to.send_reset(Reason::INTERNAL_ERROR);
            }
            return Poll::Ready(Ok(()));
        }
    }

    /// What the other side takes now of what is left; 0 when it takes nothing any more.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        if self.to.capacity() == 0 {
            self.to.reserve_capacity(self.rest.len().min(PIECE_BYTES));
        }
        while self.to.capacity() == 0 {
            match ready!(self.to.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(0),
            }
        }
        Poll::Ready(self.to.capacity().min(self.rest.len()))
    }
}

//! Responses on their way back: heads that could be read in two ways are refused, bodies give their connection
//! back when they have ended.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::response::Parts;
use http::{HeaderValue, Response, StatusCode, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use crate::answer::{Body, BoxError};
use crate::clock::Timer;
use crate::http2;

use super::channel::Place;
use super::decode::{self, Framing};
use super::error::{BodyError, Fault};
use super::stream::Download;
use super::target::Ticket;
use super::tunnel::Side;
use super::upload::Upload;
use super::wire::{Wire, later};
use super::{Slot, Tunnel};

/// Refuses what a parser lets through although two readers could disagree about where it ends, and takes
/// from a 204 the `Content-Length` that it must not have.
pub(super) fn check(head: &mut Parts, upgrade: bool) -> Result<(), Fault> {
    let (status, version) = (head.status, head.version);
    let headers = &mut head.headers;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        // Nothing else is ever asked for (RFC 6455 §4.1, point 2 of the server's answer).
        let to = headers.get(UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
        if !upgrade || !to {
            return Err(Fault::Unasked101);
        }
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        let digits = length.as_bytes();
        if lengths.next().is_some() || digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Err(Fault::ContentLength);
        }
        if headers.contains_key(TRANSFER_ENCODING) {
            return Err(Fault::TwoLengths);
        }
        // Leading zeros are allowed here, and octal to some; what goes on is in the one spelling.
        let plain = digits.iter().position(|&digit| digit != b'0').unwrap_or(digits.len() - 1);
        if plain > 0 {
            let length = HeaderValue::from_bytes(&digits[plain..]).map_err(|_| Fault::ContentLength)?;
            headers.insert(CONTENT_LENGTH, length);
        }
        if status == StatusCode::NO_CONTENT || status == StatusCode::SWITCHING_PROTOCOLS {
            headers.remove(CONTENT_LENGTH);
        }
        return Ok(());
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked");
        if !chunked || codings.next().is_some() || version != Version::HTTP_11 {
            return Err(Fault::TransferEncoding);
        }
    }
    Ok(())
}

/// What a response holds until its body has ended: the connection, and its place among those under way.
#[derive(Debug)]
pub(super) struct Lease {
    ticket: Ticket,
    slot: Option<Slot>,
    upload: Option<Arc<Upload>>,
}

impl Lease {
    pub(super) const fn new(ticket: Ticket, slot: Option<Slot>, upload: Option<Arc<Upload>>) -> Self {
        Self { ticket, slot, upload }
    }
}

/// Where a body comes from. Dropping it closes the connection, or resets the stream.
#[derive(Debug)]
enum Source {
    /// A connection of its own.
    Wire {
        wire: Wire,
        framing: Framing,
        /// The connection goes on behind the answer.
        reusable: bool,
    },
    /// One of many streams.
    Stream {
        incoming: Download,
        /// The frame that was looked at too early to know whether it is the only one.
        peeked: Poll<Option<Result<Frame<Bytes>, h2::Error>>>,
        _place: Place,
    },
}

/// A 101: the connection and its place among those under way go to the tunnel.
pub(super) fn switch(
    head: Parts,
    wire: Wire,
    lease: Lease,
    idle: Option<Duration>,
) -> (Response<Body>, Option<Tunnel>) {
    let side = wire.into_socket().map(|(first, socket)| Side::Socket { first, socket });
    let tunnel = side.map(|side| Tunnel { idle, side, _ticket: lease.ticket, _slot: lease.slot });
    (Response::from_parts(head, Body::empty()), tunnel)
}

/// The same for a stream that has become one.
pub(super) fn switch_http2(
    head: Parts,
    stream: http2::Tunnel,
    place: Place,
    lease: Lease,
    idle: Option<Duration>,
) -> (Response<Body>, Tunnel) {
    let side = Side::Stream { stream: Box::new(stream), _place: place };
    let tunnel = Tunnel { idle, side, _ticket: lease.ticket, _slot: lease.slot };
    (Response::from_parts(head, Body::empty()), tunnel)
}

/// The response with a body that holds the connection to its end. A body that is there already, whole and of known
/// length, is taken at once: it costs no allocation, and its connection serves the next request the sooner.
pub(super) fn stream(
    head: Parts,
    mut wire: Wire,
    mut framing: Framing,
    lease: Lease,
    idle: Option<Duration>,
) -> Response<Body> {
    let reusable = decode::keeps_alive(&head);
    let body = match wire.whole_body(&mut framing) {
        Ok(Some(bytes)) => Body::full(bytes),
        _ => Body::empty(),
    };
    let source = Source::Wire { wire, framing, reusable };
    if source.is_over() {
        source.finish(lease);
        return Response::from_parts(head, body);
    }
    Response::from_parts(head, Pooled::body(source, lease, idle))
}

/// The same for one of many streams.
pub(super) async fn stream_http2(
    response: Response<Download>,
    place: Place,
    lease: Lease,
    idle: Option<Duration>,
) -> Response<Body> {
    let (head, mut incoming) = response.into_parts();
    if incoming.is_end_stream() {
        return Response::from_parts(head, Body::empty());
    }
    let mut peeked = Poll::Pending;
    if incoming.size_hint().exact().is_some() {
        peeked = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut incoming).poll_frame(cx))).await;
        if incoming.is_end_stream()
            && let Poll::Ready(Some(Ok(frame))) = peeked
        {
            return Response::from_parts(head, Body::full(frame.into_data().unwrap_or_default()));
        }
    }
    Response::from_parts(head, Pooled::body(Source::Stream { incoming, peeked, _place: place }, lease, idle))
}

/// A response body that gives its connection back at its end, and closes it when it is dropped before.
#[derive(Debug)]
struct Pooled {
    /// Gone when the body has ended, one way or the other.
    held: Option<(Source, Lease)>,
    /// Why it broke off, until somebody is told.
    broken: Option<BoxError>,
    idle: Option<Idle>,
}

/// Ends a body in which nothing moves.
#[derive(Debug)]
struct Idle {
    limit: Duration,
    /// When something last did; `None` until the body waits for the first time.
    moved: Option<Instant>,
    /// Of a stream; a connection has a timer of its own.
    timer: Timer,
}

impl Source {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self {
            Self::Wire { wire, framing, .. } => wire.poll_body(framing, cx),
            Self::Stream { incoming, peeked, .. } => match std::mem::replace(peeked, Poll::Pending) {
                Poll::Pending => Pin::new(incoming).poll_frame(cx),
                ready => ready,
            }
            .map_err(Into::into),
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Wire { framing, .. } => framing.is_over(),
            Self::Stream { incoming, peeked, .. } => peeked.is_pending() && incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Wire { framing, .. } => framing.left().map_or_else(SizeHint::default, SizeHint::with_exact),
            Self::Stream { incoming, peeked, .. } => {
                let rest = incoming.size_hint();
                match (peeked, rest.exact()) {
                    (Poll::Ready(Some(Ok(frame))), Some(rest)) => {
                        SizeHint::with_exact(rest + frame.data_ref().map_or(0, |data| data.len() as u64))
                    }
                    _ => rest,
                }
            }
        }
    }

    /// The response has ended. The connection goes back to the pool unless its request is still being sent: an
    /// upstream that answers before it has read the body may never read the rest, so that one is closed.
    fn finish(self, lease: Lease) {
        if let Self::Wire { wire, reusable: true, .. } = self
            && wire.is_at_rest()
        {
            lease.ticket.target().pool.put(wire);
        }
    }
}

impl Pooled {
    fn body(source: Source, lease: Lease, idle: Option<Duration>) -> Body {
        let idle = idle.map(|limit| Idle { limit, moved: None, timer: Timer::default() });
        Body::boxed(Self { held: Some((source, lease)), broken: None, idle })
    }

    fn finish(&mut self) {
        if let Some((source, lease)) = self.held.take() {
            source.finish(lease);
        }
    }
}

impl HttpBody for Pooled {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(error) = this.broken.take() {
            return Poll::Ready(Some(Err(BodyError::Broken(error))));
        }
        let Some((source, lease)) = &mut this.held else { return Poll::Ready(None) };
        match source.poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(idle) = &mut this.idle {
                    idle.moved();
                }
                // Trailers come last, and nobody asks for more after them.
                if frame.is_trailers() || source.is_over() {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                // In a moment: the client's connection is reset then, and what came before may go out first.
                (this.held, this.broken) = (None, Some(error));
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => {
                let Some(idle) = &mut this.idle else { return Poll::Pending };
                ready!(idle.poll_expired(cx, source, lease.upload.as_deref()));
                this.held = None;
                Poll::Ready(Some(Err(BodyError::Idle(idle.limit))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.broken.is_none() && self.held.as_ref().is_none_or(|(source, _)| source.is_over())
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.held, &self.broken) {
            (Some((source, _)), _) => source.size_hint(),
            (None, Some(_)) => SizeHint::default(),
            (None, None) => SizeHint::with_exact(0),
        }
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        // A reader that knows the length may stop without asking for the end.
        if self.is_end_stream() {
            self.finish();
        }
    }
}

impl Idle {
    fn moved(&mut self) {
        if let Some(moved) = &mut self.moved {
            *moved = Instant::now();
        }
    }

    /// Ready when nothing has moved for the limit, in this body or in the request that is still being sent.
    fn poll_expired(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Source,
        upload: Option<&Upload>,
    ) -> Poll<()> {
        let moved = *self.moved.get_or_insert_with(Instant::now);
        let moved = upload.map_or(moved, |upload| upload.moved_at().max(moved));
        let deadline = later(moved, self.limit);
        match source {
            Source::Wire { wire, .. } => wire.poll_deadline(deadline, cx),
            Source::Stream { .. } => self.timer.poll(deadline, cx),
        }
    }
}

//! Responses on their way back: heads that could be read in two ways are refused, bodies give their connection
//! back when they have ended.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, Response, StatusCode, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use crate::answer::Body;

use super::channel::Place;
use super::error::{BodyError, Fault};
use super::target::Ticket;
use super::upload::Upload;
use super::wire::{Wire, later};
use super::{Slot, Tunnel};

/// Refuses what hyper's parser lets through although two readers could disagree about where it ends, and takes
/// from a 204 the `Content-Length` that it must not have.
pub(super) fn check(response: &mut Response<Incoming>, upgrade: bool) -> Result<(), Fault> {
    let (status, version) = (response.status(), response.version());
    let headers = response.headers_mut();
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
    held: Held,
    ticket: Ticket,
    slot: Option<Slot>,
    upload: Option<Arc<Upload>>,
    reusable: bool,
}

/// What a response comes on.
#[derive(Debug)]
pub(super) enum Held {
    /// A connection of its own.
    Wire(Wire),
    /// One of many streams.
    Stream { _place: Place },
}

impl From<Wire> for Held {
    fn from(wire: Wire) -> Self {
        Self::Wire(wire)
    }
}

impl From<Place> for Held {
    fn from(place: Place) -> Self {
        Self::Stream { _place: place }
    }
}

impl Lease {
    pub(super) fn new(
        held: impl Into<Held>,
        ticket: Ticket,
        slot: Option<Slot>,
        upload: Option<Arc<Upload>>,
    ) -> Self {
        Self { held: held.into(), ticket, slot, upload, reusable: false }
    }

    /// The response has ended. The connection goes back to the pool unless its request is still being sent: an
    /// upstream that answers before it has read the body may never read the rest, so that one is closed.
    fn finish(self) {
        if let Held::Wire(wire) = self.held
            && self.reusable
            && self.upload.is_none_or(|upload| upload.ended())
        {
            self.ticket.target().pool.put(wire);
        }
    }
}

/// A 101: the connection goes on in the response's extensions, its place among those under way in the tunnel.
pub(super) fn switch(
    response: Response<Incoming>,
    lease: Lease,
    idle: Option<Duration>,
) -> (Response<Body>, Tunnel) {
    let held = match lease.held {
        Held::Wire(wire) => {
            wire.detach();
            None
        }
        stream => Some(stream),
    };
    let tunnel = Tunnel { idle, _held: held, _ticket: lease.ticket, _slot: lease.slot };
    (response.map(|_| Body::empty()), tunnel)
}

/// The response with a body that holds the lease to its end. A body that is there already, whole and of known
/// length, is taken at once: it costs no allocation, and its connection serves the next request the sooner.
pub(super) async fn stream(
    response: Response<Incoming>,
    mut lease: Lease,
    idle: Option<Duration>,
) -> Response<Body> {
    let (head, mut incoming) = response.into_parts();
    // After an HTTP/1.0 answer hyper would speak HTTP/1.0 on that connection.
    lease.reusable = head.version == Version::HTTP_11;
    if incoming.is_end_stream() {
        lease.finish();
        return Response::from_parts(head, Body::empty());
    }
    let mut peeked = Poll::Pending;
    if incoming.size_hint().exact().is_some() {
        peeked = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut incoming).poll_frame(cx))).await;
        if incoming.is_end_stream()
            && let Poll::Ready(Some(Ok(frame))) = peeked
        {
            lease.finish();
            return Response::from_parts(head, Body::full(frame.into_data().unwrap_or_default()));
        }
    }
    let idle = idle.map(|limit| Idle { limit, moved: Instant::now(), alarm: None });
    Response::from_parts(head, Body::boxed(Pooled { incoming, peeked, lease: Some(lease), idle }))
}

/// A response body that gives its connection back at its end, and closes it when it is dropped before.
#[derive(Debug)]
struct Pooled {
    incoming: Incoming,
    /// The frame that was looked at too early to know whether it is the only one.
    peeked: Peeked,
    /// Gone when the body has ended, one way or the other.
    lease: Option<Lease>,
    idle: Option<Idle>,
}

type Peeked = Poll<Option<Result<Frame<Bytes>, hyper::Error>>>;

/// Ends a body in which nothing moves. Its timer is made when a body waits for the first time.
#[derive(Debug)]
struct Idle {
    limit: Duration,
    moved: Instant,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Pooled {
    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.finish();
        }
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Peeked {
        match std::mem::replace(&mut self.peeked, Poll::Pending) {
            Poll::Pending => Pin::new(&mut self.incoming).poll_frame(cx),
            ready => ready,
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
        if this.lease.is_none() {
            return Poll::Ready(None);
        }
        match this.poll_incoming(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(idle) = &mut this.idle {
                    idle.moved();
                }
                // Trailers come last, and nobody asks for more after them.
                if frame.is_trailers() || this.incoming.is_end_stream() {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                this.lease = None;
                Poll::Ready(Some(Err(BodyError::Broken(error))))
            }
            Poll::Pending => {
                let Some(idle) = &mut this.idle else { return Poll::Pending };
                let upload = this.lease.as_ref().and_then(|lease| lease.upload.as_deref());
                ready!(idle.poll_expired(cx, upload));
                this.lease = None;
                Poll::Ready(Some(Err(BodyError::Idle(idle.limit))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.peeked.is_pending() && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.incoming.size_hint();
        match (&self.peeked, rest.exact()) {
            (Poll::Ready(Some(Ok(frame))), Some(rest)) => {
                SizeHint::with_exact(rest + frame.data_ref().map_or(0, |data| data.len() as u64))
            }
            _ => rest,
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
        if self.alarm.is_some() {
            self.moved = Instant::now();
        }
    }

    /// Ready when nothing has moved for the limit, in this body or in the request that is still being sent.
    fn poll_expired(&mut self, cx: &mut Context<'_>, upload: Option<&Upload>) -> Poll<()> {
        let alarm = match &mut self.alarm {
            Some(alarm) => alarm,
            None => {
                self.moved = Instant::now();
                self.alarm.insert(Box::pin(sleep(self.limit)))
            }
        };
        loop {
            ready!(alarm.as_mut().poll(cx));
            let moved = upload.map_or(self.moved, |upload| upload.moved_at().max(self.moved));
            let next = later(moved, self.limit);
            if next <= Instant::now() {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(next);
        }
    }
}

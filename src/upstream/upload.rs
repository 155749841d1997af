//! The request body on its way out: what it shows of its progress, and the error it ended with.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use thiserror::Error;
use tokio::time::Instant;

use crate::answer::{Body, BoxError};

/// What is known of a body while the connection's task takes it.
#[derive(Debug)]
pub(super) struct Upload {
    started: Instant,
    /// When bytes were last handed over, in milliseconds after `started`.
    moved_ms: AtomicU64,
    /// The connection waits for the client.
    awaiting_client: AtomicBool,
    error: Mutex<Option<BoxError>>,
}

impl Upload {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            moved_ms: AtomicU64::new(0),
            awaiting_client: AtomicBool::new(false),
            error: Mutex::new(None),
        }
    }

    /// Since when the upstream has been silent: now, while it is the client that we wait for.
    pub(super) fn silent_since(&self, now: Instant) -> Instant {
        if self.awaiting_client.load(Ordering::Acquire) { now } else { self.moved_at() }
    }

    /// When bytes last moved, or when the upload began.
    pub(super) fn moved_at(&self) -> Instant {
        self.started + Duration::from_millis(self.moved_ms.load(Ordering::Acquire))
    }

    /// The error that the body ended with, once.
    pub(super) fn take_error(&self) -> Option<BoxError> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn moved(&self) {
        let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_ms.store(millis, Ordering::Release);
        self.awaiting_client.store(false, Ordering::Release);
    }
}

/// The body type of every upstream connection. Trailers are dropped over HTTP/1.1, which carries them only where both
/// sides have agreed to (RFC 9110 §6.5.1).
#[derive(Debug)]
pub(super) struct Outgoing {
    body: Body,
    /// Comes before the rest: it was taken for a connection that took nothing.
    first: Bytes,
    /// Absent for a body that is empty from the start, so that a plain GET allocates nothing here.
    upload: Option<Arc<Upload>>,
    trailers: bool,
}

/// Ends the connection; the error itself is in [`Upload`].
#[derive(Debug, Error)]
#[error("the request body failed")]
pub(super) struct UploadFailed;

impl Outgoing {
    pub(super) fn new(body: Body) -> Self {
        let upload = (!body.is_end_stream()).then(|| Arc::new(Upload::new()));
        Self { body, first: Bytes::new(), upload, trailers: false }
    }

    /// A body without bytes.
    pub(super) const fn empty() -> Self {
        Self { body: Body::empty(), first: Bytes::new(), upload: None, trailers: false }
    }

    /// What was taken last comes once more.
    pub(super) fn put_back(&mut self, data: Bytes) {
        if !data.is_empty() {
            self.first = data;
        }
    }

    /// Whether trailers go on to the target.
    pub(super) const fn keep_trailers(&mut self, keep: bool) {
        self.trailers = keep;
    }

    /// Its progress; `None` when there is nothing to send.
    pub(super) const fn upload(&self) -> Option<&Arc<Upload>> {
        self.upload.as_ref()
    }
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = UploadFailed;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadFailed>>> {
        let this = &mut *self;
        let Some(upload) = &this.upload else { return Poll::Ready(None) };
        if !this.first.is_empty() {
            upload.moved();
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.first)))));
        }
        loop {
            let polled = Pin::new(&mut this.body).poll_frame(cx);
            if polled.is_pending() {
                upload.awaiting_client.store(true, Ordering::Release);
            }
            match ready!(polled) {
                Some(Ok(frame)) if frame.is_trailers() && !this.trailers => {}
                Some(Ok(frame)) => {
                    upload.moved();
                    return Poll::Ready(Some(Ok(frame)));
                }
                None => {
                    upload.moved();
                    return Poll::Ready(None);
                }
                Some(Err(error)) => {
                    *upload.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return Poll::Ready(Some(Err(UploadFailed)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.upload.is_none() || (self.first.is_empty() && self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.body.size_hint();
        match rest.exact() {
            Some(rest) => SizeHint::with_exact(rest + self.first.len() as u64),
            None => rest,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    #[test]
    fn an_empty_body_has_nothing_to_upload() {
        assert!(Outgoing::new(Body::empty()).upload().is_none());
        assert!(Outgoing::new(Body::full("")).upload().is_none());
        assert!(Outgoing::new(Body::full("x")).upload().is_some());
    }

    #[tokio::test]
    async fn what_is_put_back_comes_first_and_once() {
        let pieces =
            ["ab", "cd"].map(|piece| Ok::<_, BoxError>(Frame::data(Bytes::from_static(piece.as_bytes()))));
        for body in [Body::boxed(StreamBody::new(stream::iter(pieces))), Body::full("abcd")] {
            let mut outgoing = Outgoing::new(body);
            let length = outgoing.size_hint().exact();
            let taken = outgoing.frame().await.unwrap().unwrap().into_data().unwrap();
            outgoing.put_back(taken);
            assert!(!outgoing.is_end_stream());
            assert_eq!(outgoing.size_hint().exact(), length);
            assert_eq!(outgoing.collect().await.unwrap().to_bytes(), "abcd");
        }
    }

    #[tokio::test]
    async fn trailers_do_not_pass() {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-user", http::HeaderValue::from_static("root"));
        let frames =
            [Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"abc"))), Ok(Frame::trailers(trailers))];
        let body = Body::boxed(StreamBody::new(stream::iter(frames)));
        let outgoing = Outgoing::new(body);
        let collected = outgoing.collect().await.unwrap();
        assert!(collected.trailers().is_none());
        assert_eq!(collected.to_bytes(), "abc");
    }

    #[tokio::test]
    async fn the_error_of_the_body_is_kept_for_the_caller() {
        let body =
            Body::boxed(StreamBody::new(stream::iter([Err::<Frame<Bytes>, BoxError>("too large".into())])));
        let outgoing = Outgoing::new(body);
        let upload = Arc::clone(outgoing.upload().unwrap());
        assert!(outgoing.collect().await.is_err());
        assert_eq!(upload.take_error().unwrap().to_string(), "too large");
    }
}

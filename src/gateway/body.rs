//! Bodies that are counted on their way: the request's against its limit, the response's for the access log.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::setup::Setup;
use super::story::Ending;
use crate::answer::{Body, BoxError};
use crate::forward;
use crate::worker;

/// A request body grew over its limit: 413.
#[derive(Debug, thiserror::Error)]
#[error("the request body is larger than {0} bytes")]
pub(super) struct TooLarge(pub(super) u64);

/// A request body that fails once more than so many bytes have come.
pub(super) struct Limited<B> {
    inner: B,
    left: u64,
    limit: u64,
}

impl<B> Limited<B> {
    pub(super) fn new(inner: B, limit: u64) -> Self {
        Self { inner, left: limit, limit }
    }
}

impl<B> HttpBody for Limited<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            match self.left.checked_sub(data.len() as u64) {
                Some(left) => self.left = left,
                None => return Poll::Ready(Some(Err(Box::new(TooLarge(self.limit))))),
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A request body whose trailers go on without what they must not say, or not at all.
pub(super) struct Trailing {
    inner: Body,
    /// `None`: there are to be none.
    setup: Option<Arc<Setup>>,
}

impl Trailing {
    pub(super) fn new(inner: Body, setup: Option<Arc<Setup>>) -> Self {
        Self { inner, setup }
    }
}

impl HttpBody for Trailing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            let mut frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
            if let Some(Ok(frame)) = &mut frame
                && let Some(trailers) = frame.trailers_mut()
            {
                let Some(setup) = &self.setup else { continue };
                setup.forwarding.strip_trailers(trailers);
            }
            return Poll::Ready(frame);
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The token of a response was revoked, or has expired, while it was sent.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct CutOff(&'static str);

/// A response body that ends its request's story when it has been sent, given up or cut.
pub(super) struct Told {
    inner: Body,
    ending: Ending,
}

impl Told {
    pub(super) fn new(inner: Body, mut ending: Ending) -> Self {
        // A body that is over before it began (HEAD, 204) is never polled.
        ending.complete = inner.is_end_stream();
        Self { inner, ending }
    }

    /// Drops what is left of the body, and with it its connection to the upstream, a little later: where a revocation cuts
    /// thousands of responses, the clients come first.
    fn let_go(&mut self) {
        worker::later(std::mem::replace(&mut self.inner, Body::empty()));
    }
}

/// The connection may have seen the cut first.
impl Drop for Told {
    fn drop(&mut self) {
        if self.ending.is_cut() && !self.inner.is_end_stream() {
            self.let_go();
        }
    }
}

impl HttpBody for Told {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(cause) = self.ending.poll_cut(cx) {
            self.let_go(); // and with it goes the request at the upstream
            return Poll::Ready(Some(Err(Box::new(CutOff(cause.words())))));
        }
        let mut frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            forward::response_trailers(trailers);
        }
        match &frame {
            None => self.ending.complete = true,
            Some(Ok(frame)) => {
                self.ending.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                // A body of known length is not polled again after its last byte.
                self.ending.complete = frame.is_trailers() || self.inner.is_end_stream();
            }
            Some(Err(_)) => self.ending.complete = false,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    #[tokio::test]
    async fn a_body_at_its_limit_passes_and_one_byte_more_does_not() {
        let body = |n| Limited::new(Full::new(Bytes::from(vec![b'x'; n])), 4);
        assert_eq!(body(4).collect().await.unwrap().to_bytes().len(), 4);
        let error = body(5).collect().await.unwrap_err();
        assert!(error.is::<TooLarge>());
    }
}

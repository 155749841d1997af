//! A client's stream as hyper has it, and the way back.
//!
//! hyper keeps some twenty KiB of buffers for a connection as long as it lives, also while nothing is asked on it. It
//! gives nothing back but by being dropped, with all that it holds; so what it holds is a loan that can be recalled.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Where a stream goes when the loan ends: nowhere, unless it was recalled.
#[derive(Debug)]
pub(super) struct Lender<S>(Arc<Mutex<Place<S>>>);

#[derive(Debug)]
struct Place<S> {
    recalled: bool,
    returned: Option<S>,
}

/// A stream on loan; dropping it closes the stream or, once recalled, gives it back.
#[derive(Debug)]
pub(super) struct Lent<S> {
    /// There until the drop.
    stream: Option<S>,
    place: Arc<Mutex<Place<S>>>,
}

/// Lends a stream.
pub(super) fn lend<S>(stream: S) -> (Lent<S>, Lender<S>) {
    let place = Arc::new(Mutex::new(Place { recalled: false, returned: None }));
    (Lent { stream: Some(stream), place: Arc::clone(&place) }, Lender(place))
}

impl<S> Lender<S> {
    /// The stream, when `borrower`, whom it was lent to, is gone.
    pub(super) fn recall<B>(self, borrower: B) -> Option<S> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).recalled = true;
        drop(borrower);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).returned.take()
    }
}

impl<S> Drop for Lent<S> {
    fn drop(&mut self) {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if place.recalled {
            place.returned = self.stream.take();
        }
    }
}

impl<S: Unpin> Lent<S> {
    fn stream(&mut self) -> io::Result<Pin<&mut S>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lent<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(cx, out)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lent<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lent_comes_back_when_it_is_recalled_and_ends_when_it_is_not() {
        let stream = Arc::new(());
        let (lent, lender) = lend(Arc::clone(&stream));
        assert!(lender.recall(lent).is_some());
        let (lent, lender) = lend(Arc::clone(&stream));
        drop(lent);
        assert_eq!(Arc::strong_count(&stream), 1);
        assert!(lender.recall(()).is_none());
    }
}

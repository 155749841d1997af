//! What lies between the frames and the stream: one write for all that is to be said at a time.
//!
//! The library writes each frame of some length by itself. Here they are gathered until the connection has done all
//! there is to do, so that the answers which came at the same time leave in one write, over TLS in one record.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::server::stream::Stream;

/// What is made for a first frame; most answers need no more.
const FIRST_BYTES: usize = 4 * 1024;
/// With so much gathered, it is written before more is taken.
const GATHERED_MAX: usize = 32 * 1024;

/// A stream whose writes wait for [`Cork::poll_out`]. A clone is the same.
pub(super) struct Cork(Arc<Mutex<Inner>>);

struct Inner {
    stream: Box<dyn Stream>,
    /// Gathered; from `at` on not written.
    out: Vec<u8>,
    at: usize,
    unflushed: bool,
}

impl Clone for Cork {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl Cork {
    /// Around this stream.
    pub(super) fn new(stream: Box<dyn Stream>) -> Self {
        Self(Arc::new(Mutex::new(Inner { stream, out: Vec::new(), at: 0, unflushed: false })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what was gathered.
    pub(super) fn poll_out(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_out(cx)
    }

    /// Gives back what it keeps for writes to come.
    pub(super) fn rest(&self) {
        let mut inner = self.inner();
        if inner.out.is_empty() {
            inner.out = Vec::new();
        }
    }
}

impl Inner {
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.at < self.out.len() {
            let written = ready!(Pin::new(&mut *self.stream).poll_write(cx, &self.out[self.at..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            (self.at, self.unflushed) = (self.at + written, true);
        }
        self.out.clear();
        self.at = 0;
        if self.unflushed {
            ready!(Pin::new(&mut *self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_gather(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let count: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.out.len() - self.at >= GATHERED_MAX {
            ready!(self.poll_out(cx))?;
        }
        if self.out.is_empty() && count >= GATHERED_MAX / 2 {
            self.unflushed = true;
            return Pin::new(&mut *self.stream).poll_write_vectored(cx, slices);
        }
        if self.out.capacity() == 0 {
            self.out.reserve(count.max(FIRST_BYTES));
        }
        // Else a client that takes a little at a time would have all kept that it has taken.
        self.out.drain(..std::mem::take(&mut self.at));
        slices.iter().for_each(|slice| self.out.extend_from_slice(slice));
        Poll::Ready(Ok(count))
    }
}

impl AsyncRead for Cork {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner().stream).poll_read(cx, out)
    }
}

impl AsyncWrite for Cork {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.inner().poll_gather(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_gather(cx, slices)
    }

    /// Bodies come from where they are, and are copied once.
    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Later.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        ready!(inner.poll_out(cx))?;
        Pin::new(&mut *inner.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn small_writes_wait_for_one_and_large_ones_push_them_out_in_order() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut cork = Cork::new(Box::new(near));
        for word in ["one ", "two "] {
            cork.write_all(word.as_bytes()).await.unwrap();
            cork.flush().await.unwrap();
        }
        let mut there = [0; 64];
        let mut cx = Context::from_waker(Waker::noop());
        assert!(poll_read(&mut far, &mut there, &mut cx).is_pending(), "nothing has left");
        assert!(cork.poll_out(&mut cx).is_ready());
        assert_eq!(far.read(&mut there).await.unwrap(), 8);
        cork.write_all(b"three ").await.unwrap();
        let long = vec![b'x'; 2 * GATHERED_MAX];
        cork.write_all(&long).await.unwrap();
        cork.shutdown().await.unwrap();
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, [&b"three "[..], &long].concat());
    }

    fn poll_read(
        from: &mut tokio::io::DuplexStream,
        to: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(from).poll_read(cx, &mut ReadBuf::new(to))
    }

    use std::task::Waker;

    #[tokio::test]
    async fn a_stream_that_takes_nothing_holds_up_whoever_writes() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut cork = Cork::new(Box::new(near));
        let mut cx = Context::from_waker(Waker::noop());
        let piece = [b'x'; 1024];
        let mut taken = 0;
        while let Poll::Ready(count) = Pin::new(&mut cork).poll_write(&mut cx, &piece) {
            taken += count.unwrap();
            assert!(taken < GATHERED_MAX + 2 * piece.len());
        }
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.map(|_| all)
        });
        cork.shutdown().await.unwrap();
        drop(cork);
        assert_eq!(reading.await.unwrap().unwrap().len(), taken);
    }
}

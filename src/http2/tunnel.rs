//! A stream that has become a tunnel (RFC 8441): its bytes are nobody's but those of whoever holds it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Heard;

/// The most that is asked room for at once: a frame.
const PIECE_BYTES: usize = 16 * 1024;

/// Both ways of a stream. What was written before it is dropped still goes out, unless it was abandoned.
#[derive(Debug)]
pub struct Tunnel {
    from: RecvStream,
    to: SendStream<Bytes>,
    heard: Heard,
    /// Came, and was not read.
    read: Bytes,
    shut: bool,
    abandoned: Arc<AtomicBool>,
}

impl Tunnel {
    /// `from` the other side, `to` the other side; `abandoned` is looked at when it is dropped.
    pub const fn new(
        from: RecvStream,
        to: SendStream<Bytes>,
        heard: Heard,
        abandoned: Arc<AtomicBool>,
    ) -> Self {
        Self { from, to, heard, read: Bytes::new(), shut: false, abandoned }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.read.is_empty() {
            match ready!(this.from.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(data)) => this.read = data,
                Some(Err(error)) => {
                    // To say that all is well, or that nobody listens any more, is a way to hang up.
                    let hangs_up = matches!(error.reason(), Some(Reason::NO_ERROR | Reason::CANCEL));
                    return Poll::Ready(if hangs_up { Ok(()) } else { Err(io_error(error)) });
                }
            }
            this.heard.hear();
        }
        let now = this.read.len().min(out.remaining());
        out.put_slice(&this.read[..now]);
        this.read.advance(now);
        // An error: the stream has ended, and its room with it.
        let _ = this.from.flow_control().release_capacity(now);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let to = &mut self.to;
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if to.capacity() == 0 {
            to.reserve_capacity(bytes.len().min(PIECE_BYTES));
        }
        while to.capacity() == 0 {
            match ready!(to.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let now = to.capacity().min(bytes.len());
        to.send_data(Bytes::copy_from_slice(&bytes[..now]), false).map_err(io_error)?;
        Poll::Ready(Ok(now))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.shut, true) {
            self.to.send_data(Bytes::new(), true).map_err(io_error)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if self.abandoned.load(Ordering::Acquire) {
            self.to.send_reset(Reason::CANCEL);
        } else if !self.shut {
            // An error: the other side has ended it already.
            let _ = self.to.send_data(Bytes::new(), true);
        }
    }
}

fn io_error(error: h2::Error) -> io::Error {
    let kind = match error.reason() {
        Some(Reason::STREAM_CLOSED) => io::ErrorKind::BrokenPipe,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

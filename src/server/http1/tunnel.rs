//! A connection that has become a tunnel: every byte passes unseen.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::line::Socket;
use crate::server::drain::Ticket;
use crate::server::stream::Stream;

/// The stream, what was read of it already, and its place among the connections, which it keeps.
pub(super) struct Tunnel<S: Stream> {
    pub(super) first: Bytes,
    pub(super) socket: Socket<S>,
    pub(super) ticket: Ticket,
}

impl<S: Stream> AsyncRead for Tunnel<S> {
    /// Nobody waits for a tunnel but whoever reads it: here it learns that everything is to be cut.
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ticket.poll_cut(cx).is_ready() {
            this.socket.cut_short = true;
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if this.first.is_empty() {
            return Pin::new(&mut this.socket.stream).poll_read(cx, out);
        }
        let now = this.first.len().min(out.remaining());
        out.put_slice(&this.first[..now]);
        this.first.advance(now);
        if this.first.is_empty() {
            this.first = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Stream> AsyncWrite for Tunnel<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket.stream).poll_shutdown(cx)
    }
}

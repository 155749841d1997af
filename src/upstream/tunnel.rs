//! The connection behind a 101: what came with the head first, then whatever comes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Tunnel;
use super::channel::Place;
use super::socket::Socket;
use crate::http2;

/// What a tunnel goes through.
#[derive(Debug)]
pub(super) enum Side {
    /// A connection of its own; `first` came behind the head.
    Socket { first: Bytes, socket: Socket },
    /// A stream of a connection over HTTP/2.
    Stream { stream: Box<http2::Tunnel>, _place: Place },
}

macro_rules! each {
    ($self:ident, $io:ident => $call:expr) => {
        match &mut $self.get_mut().side {
            Side::Socket { socket: $io, .. } => $call,
            Side::Stream { stream: $io, .. } => $call,
        }
    };
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Side::Socket { first, .. } = &mut self.side
            && !first.is_empty()
        {
            let now = first.len().min(out.remaining());
            out.put_slice(&first[..now]);
            first.advance(now);
            return Poll::Ready(Ok(()));
        }
        each!(self, io => Pin::new(io).poll_read(cx, out))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.side {
            Side::Socket { socket, .. } => socket.is_write_vectored(),
            Side::Stream { stream, .. } => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}

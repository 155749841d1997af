//! What a connection to a client is made of: a socket, and what may lie around it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// A connection to a client.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Resets the connection, so that a peer cannot take what it got for complete; `false`: with the close that follows.
    fn abort(&mut self) -> bool;
}

impl Stream for TcpStream {
    fn abort(&mut self) -> bool {
        // Linux sends the reset at once; whatever does not, with the close.
        #[cfg(target_os = "linux")]
        if rustix::net::connect_unspec(&*self).is_ok() {
            return true;
        }
        // Fails on a socket that is gone already.
        let _ = self.set_zero_linger();
        false
    }
}

impl Stream for UnixStream {
    /// There is no such thing as a reset here: what was sent before is read, and the framing tells that it was not
    /// all.
    fn abort(&mut self) -> bool {
        false
    }
}

impl<S: Stream> Stream for TlsStream<S> {
    /// Beside the reset, no `close_notify` is sent, so that TLS tells of the truncation as well.
    fn abort(&mut self) -> bool {
        self.get_mut().0.abort()
    }
}

impl<S: Stream + ?Sized> Stream for Box<S> {
    fn abort(&mut self) -> bool {
        (**self).abort()
    }
}

/// A stream of which the first bytes have been read already.
pub(super) struct Prefixed<S> {
    first: Vec<u8>,
    at: usize,
    stream: S,
}

impl<S> Prefixed<S> {
    /// `first` comes before what `stream` still gives.
    pub(super) const fn new(first: Vec<u8>, stream: S) -> Self {
        Self { first, at: 0, stream }
    }
}

impl<S: Stream> Stream for Prefixed<S> {
    fn abort(&mut self) -> bool {
        self.stream.abort()
    }
}

impl<S: Stream> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.at == this.first.len() {
            return Pin::new(&mut this.stream).poll_read(cx, out);
        }
        let now = (this.first.len() - this.at).min(out.remaining());
        out.put_slice(&this.first[this.at..this.at + now]);
        this.at += now;
        if this.at == this.first.len() {
            (this.first, this.at) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Stream> AsyncWrite for Prefixed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    impl Stream for tokio::io::DuplexStream {
        fn abort(&mut self) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn what_was_read_already_comes_first_and_in_any_pieces() {
        let (near, mut far) = tokio::io::duplex(64);
        tokio::io::AsyncWriteExt::write_all(&mut far, b"cdef").await.unwrap();
        drop(far);
        let mut stream = Prefixed::new(b"ab".to_vec(), near);
        let mut one = [0; 1];
        stream.read_exact(&mut one).await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!((&one, &*rest), (b"a", "bcdef"));
    }
}

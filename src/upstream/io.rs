//! The bytes of one connection, seen before hyper's client sees them.
//!
//! hyper skips informational responses without end and does not say whether a connection died before or after
//! the first byte of an answer. Both are known here, where the bytes pass, at the cost of looking at the first
//! of them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::socket::Socket;

/// Informational responses (RFC 9110 §15.2) before one answer; an upstream that sends more is broken.
pub(super) const INFORMATIONAL_MAX: u32 = 100;
/// All informational responses before one answer, in bytes: as much as a final head may have.
const INFORMATIONAL_BYTES_MAX: usize = 64 * 1024;
/// A head kept for replay; longer ones are not replayed. Stays allocated with the connection.
const KEPT_BYTES_MAX: usize = 8 * 1024;

/// What the two sides of a connection tell each other: the task that drives it, and the request that waits.
#[derive(Debug, Default)]
pub(super) struct Watch {
    spoke: AtomicBool,
    begun: AtomicBool,
    answered: AtomicBool,
    flooded: AtomicBool,
    sent: Mutex<Sent>,
}

#[derive(Debug, Default)]
struct Sent {
    keep: bool,
    bytes: Vec<u8>,
}

impl Watch {
    /// A request is about to be sent; with `keep` its bytes are remembered for [`Watch::kept`].
    pub(super) fn begin(&self, keep: bool) {
        let mut sent = self.sent();
        sent.keep = keep;
        sent.bytes.clear();
        drop(sent);
        self.answered.store(false, Ordering::Relaxed);
        // Released by the hand-over of the request to the connection's task, which reads it after that.
        self.begun.store(true, Ordering::Release);
    }

    /// Whether a byte came back since the request began.
    pub(super) fn answered(&self) -> bool {
        self.answered.load(Ordering::Acquire)
    }

    /// Whether a byte ever came on this connection.
    pub(super) fn spoke(&self) -> bool {
        self.spoke.load(Ordering::Acquire)
    }

    /// Whether the connection was ended for its informational responses.
    pub(super) fn flooded(&self) -> bool {
        self.flooded.load(Ordering::Acquire)
    }

    /// The bytes that were written since the request began, if they were to be kept; empty otherwise.
    pub(super) fn kept(&self) -> Vec<u8> {
        std::mem::take(&mut self.sent().bytes)
    }

    fn wrote(&self, parts: &[&[u8]], mut count: usize) {
        let mut sent = self.sent();
        if !sent.keep {
            return;
        }
        if sent.bytes.len() + count > KEPT_BYTES_MAX {
            sent.keep = false;
            sent.bytes = Vec::new();
            return;
        }
        for part in parts {
            let taken = part.len().min(count);
            sent.bytes.extend_from_slice(&part[..taken]);
            count -= taken;
        }
    }

    fn sent(&self) -> MutexGuard<'_, Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A number that goes up while this lives.
#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connected stream under watch.
#[derive(Debug)]
pub(super) struct Io {
    stream: Socket,
    watch: Arc<Watch>,
    heads: Heads,
    spoke: bool,
    _open: Counted,
}

impl Io {
    pub(super) fn new(stream: Socket, watch: Arc<Watch>, open: Counted) -> Self {
        Self { stream, watch, heads: Heads::default(), spoke: false, _open: open }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let fresh = &buf.filled()[before..];
        if fresh.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if !this.spoke {
            this.spoke = true;
            this.watch.spoke.store(true, Ordering::Release);
        }
        if this.watch.begun.load(Ordering::Relaxed) && this.watch.begun.swap(false, Ordering::Acquire) {
            this.watch.answered.store(true, Ordering::Release);
            this.heads = Heads::awaiting();
        }
        if this.heads.flooded_by(fresh) {
            this.watch.flooded.store(true, Ordering::Release);
            return Poll::Ready(Err(io::Error::other("endless informational responses")));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let count = ready!(Pin::new(&mut this.stream).poll_write(cx, buf))?;
        this.watch.wrote(&[buf], count);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let count = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, bufs))?;
        // A request that is kept has no body, so its bytes all stand in the first slice.
        match bufs {
            [] => {}
            [only] => this.watch.wrote(&[only], count),
            [first, second, ..] => this.watch.wrote(&[first, second], count),
        }
        Poll::Ready(Ok(count))
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

/// Where in the heads before an answer the bytes are: `HTTP/1.1 1xx … CRLF CRLF` any number of times, then
/// something else. Pure; looks at every byte of informational responses and at the first ten of the rest.
#[derive(Clone, Copy, Debug, Default)]
struct Heads {
    at: At,
    count: u32,
    bytes: usize,
}

#[derive(Clone, Copy, Debug, Default)]
enum At {
    /// In the final response, or between two of them.
    #[default]
    Past,
    /// So many bytes of a status line were seen.
    Start(u8),
    /// In an informational head; so many bytes of its end were seen.
    Within(u8),
}

impl Heads {
    fn awaiting() -> Self {
        Self { at: At::Start(0), count: 0, bytes: 0 }
    }

    fn flooded_by(&mut self, bytes: &[u8]) -> bool {
        if matches!(self.at, At::Past) {
            return false;
        }
        for &byte in bytes {
            self.at = match (self.at, byte) {
                (At::Past, _) => break,
                // Empty lines before a status line are skipped by the parser too.
                (At::Start(0), b'\r' | b'\n') => At::Start(0),
                // The tenth byte, after "HTTP/1.1 ", is the class of the status.
                (At::Start(9), b'1') => {
                    self.count += 1;
                    At::Within(0)
                }
                (At::Start(9), _) => At::Past,
                (At::Start(seen), _) => At::Start(seen + 1),
                // Bare line feeds end lines for the parser, so they do here; carriage returns are neutral.
                (At::Within(0), b'\n') => At::Within(1),
                (At::Within(1), b'\n') => At::Start(0),
                (At::Within(seen), b'\r') => At::Within(seen),
                (At::Within(_), _) => At::Within(0),
            };
            self.bytes += 1;
        }
        self.count > INFORMATIONAL_MAX || self.bytes > INFORMATIONAL_BYTES_MAX && self.count > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flooded(chunks: impl IntoIterator<Item = Vec<u8>>) -> bool {
        let mut heads = Heads::awaiting();
        chunks.into_iter().any(|chunk| heads.flooded_by(&chunk))
    }

    #[test]
    fn an_ordinary_answer_of_any_length_passes() {
        let body = vec![b'1'; 1 << 20];
        assert!(!flooded([b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), body]));
    }

    #[test]
    fn a_few_informational_responses_pass_wherever_the_reads_cut_them() {
        let wire =
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nlink: a\r\n\r\n\r\nHTTP/1.1 200 OK\r\n\r\nHTTP/1.1 1";
        for size in 1..wire.len() {
            let mut heads = Heads::awaiting();
            for chunk in wire.chunks(size) {
                assert!(!heads.flooded_by(chunk));
            }
            assert_eq!((heads.count, matches!(heads.at, At::Past)), (2, true), "reads of {size}");
        }
    }

    #[test]
    fn many_or_long_informational_responses_are_a_flood() {
        let short = b"HTTP/1.1 102 Processing\r\n\r\n".to_vec();
        assert!(!flooded(vec![short.clone(); 100]));
        assert!(flooded(vec![short; 101]));
        let long = [b"HTTP/1.1 103 x\r\nlink: ".to_vec(), vec![b'a'; 40_000], b"\r\n\r\n".to_vec()].concat();
        assert!(!flooded([long.clone()]));
        assert!(flooded([long.clone(), long]));
    }

    #[test]
    fn only_what_was_asked_to_be_kept_is_kept() {
        let watch = Watch::default();
        watch.begin(true);
        watch.wrote(&[b"GET / ", b"HTTP/1.1"], 10);
        assert_eq!(watch.kept(), b"GET / HTTP");
        watch.begin(false);
        watch.wrote(&[b"POST"], 4);
        assert!(watch.kept().is_empty());
        watch.begin(true);
        watch.wrote(&[&vec![b'x'; KEPT_BYTES_MAX + 1]], KEPT_BYTES_MAX + 1);
        assert!(watch.kept().is_empty());
    }
}

//! What the frames of an HTTP/2 connection tell and the libraries over it do not.
//!
//! * **Informational answers without end.** They are kept for as long as they come, and nobody is asked, so that a
//!   target could keep a request and a task busy until its time is over. An answer has one HEADERS frame, at most one
//!   more for trailers, and whatever else comes of these on a stream that has not ended is informational.
//! * **Half an answer.** A reset by NO_ERROR or CANCEL behind an answer in full refuses the rest of the request (RFC 9113
//!   §8.1), and the library does not tell where it came. Before the end of the answer it is an error: so there the
//!   code becomes INTERNAL_ERROR on its way to the library.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::decode::INFORMATIONAL_MAX;
use super::socket::Socket;

/// Length, type, flags, stream (RFC 9113 §4.1).
const HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;
const CODE_BYTES: usize = 4;
const CANCEL: u8 = 8;
const INTERNAL_ERROR: u8 = 2;

/// A connection that fails when a target sends informational answers without end, and on which a reset before the end
/// of an answer is an error.
#[derive(Debug)]
pub(super) struct Bounded {
    socket: Socket,
    answers: Answers,
    /// Where in what we write we are.
    written: Frames,
    flooded: Arc<AtomicBool>,
}

impl Bounded {
    /// Sets `flooded` before it fails.
    pub(super) fn new(socket: Socket, flooded: Arc<AtomicBool>) -> Self {
        Self { socket, answers: Answers::default(), written: Frames::default(), flooded }
    }

    /// Streams that we reset are over; of those no other end is seen.
    fn wrote<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]>, mut count: usize) {
        for part in parts {
            let taken = part.len().min(count);
            count -= taken;
            let mut rest = &part[..taken];
            while let Some((frame, used)) = self.written.next(rest) {
                rest = &rest[used..];
                if frame.kind == RST_STREAM {
                    self.answers.streams.remove(&frame.stream);
                }
            }
        }
    }
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = out.filled().len();
        ready!(Pin::new(&mut this.socket).poll_read(cx, out))?;
        if this.answers.flooded_by(&mut out.filled_mut()[before..]) {
            this.flooded.store(true, Ordering::Release);
            return Poll::Ready(Err(io::Error::other("endless informational responses")));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.socket).poll_write(cx, bytes))?;
        self.wrote(std::iter::once(bytes), count);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, slices))?;
        self.wrote(slices.iter().map(|slice| &**slice), count);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// The head of a frame.
struct Frame {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

/// Where in the frames of one direction we are. Pure; looks at the heads of frames alone.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; HEAD_BYTES],
    seen: usize,
    /// Of the payload that is to be passed over.
    left: usize,
}

impl Frames {
    /// The next head that is whole with these bytes, and how many of them belong to it or come before it; `None` when
    /// all of them are used up before that.
    fn next(&mut self, bytes: &[u8]) -> Option<(Frame, usize)> {
        let passed = self.left.min(bytes.len());
        self.left -= passed;
        let more = (HEAD_BYTES - self.seen).min(bytes.len() - passed);
        self.head[self.seen..self.seen + more].copy_from_slice(&bytes[passed..passed + more]);
        self.seen += more;
        if self.seen < HEAD_BYTES {
            return None;
        }
        self.seen = 0;
        let [a, b, c, kind, flags, stream @ ..] = self.head;
        self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
        Some((Frame { length: self.left, kind, flags, stream }, passed + more))
    }
}

/// The answers of a target that have begun and not ended.
#[derive(Debug, Default)]
struct Answers {
    frames: Frames,
    /// HEADERS frames so far.
    streams: BTreeMap<u32, u32>,
    /// So many bytes of the code of a reset that comes too early were seen, and all of them were 0.
    early: Option<usize>,
}

impl Answers {
    fn flooded_by(&mut self, bytes: &mut [u8]) -> bool {
        let mut at = 0;
        loop {
            at += self.mend(&mut bytes[at..]);
            let Some((frame, used)) = self.frames.next(&bytes[at..]) else { return false };
            at += used;
            match frame.kind {
                DATA | HEADERS if frame.flags & END_STREAM != 0 => {
                    self.streams.remove(&frame.stream);
                }
                RST_STREAM if self.streams.remove(&frame.stream).is_some() && frame.length == CODE_BYTES => {
                    self.early = Some(0);
                }
                HEADERS => {
                    let count = self.streams.entry(frame.stream).or_default();
                    *count += 1;
                    if *count > INFORMATIONAL_MAX + 1 {
                        return true;
                    }
                }
                _ => {}
            }
        }
    }

    /// Goes over the code of a reset that comes too early; how many bytes that were.
    fn mend(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        while let Some(seen) = self.early
            && let Some(byte) = bytes.get_mut(at)
        {
            self.early = (seen + 1 < CODE_BYTES && *byte == 0).then_some(seen + 1);
            if seen + 1 == CODE_BYTES && matches!(*byte, 0 | CANCEL) {
                *byte = INTERNAL_ERROR;
            }
            at += 1;
            self.frames.left -= 1;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn flooded(bytes: &[u8], pieces: usize) -> bool {
        let (mut answers, mut bytes) = (Answers::default(), bytes.to_vec());
        bytes.chunks_mut(pieces).any(|piece| answers.flooded_by(piece))
    }

    #[test]
    fn only_heads_that_never_become_an_answer_are_a_flood() {
        let interim = frame(HEADERS, 4, 1, b"\x08\x03103");
        let answers: Vec<u8> = (0..10_000_u32)
            .flat_map(|n| {
                let stream = 2 * n + 1;
                let data = frame(DATA, END_STREAM, stream, &[HEADERS; 40]);
                [frame(HEADERS, 4, stream, b"\x88"), data].concat()
            })
            .collect();
        for pieces in [1, 7, 9, 16 * 1024] {
            assert!(!flooded(&interim.repeat(101), pieces));
            assert!(flooded(&interim.repeat(102), pieces));
            assert!(!flooded(&answers, pieces));
        }
    }

    #[test]
    fn a_reset_is_an_error_before_the_end_of_an_answer_and_none_behind_it() {
        let (begun, data) = (frame(HEADERS, 4, 1, b"\x88"), frame(DATA, 0, 1, b"half"));
        let ended = frame(DATA, END_STREAM, 1, b"");
        let reset = |code: u32| frame(RST_STREAM, 0, 1, &code.to_be_bytes());
        for (wire, code, becomes) in [
            ([&begun[..], &data].concat(), 0, 2),
            ([&begun[..], &data].concat(), 8, 2),
            ([&begun[..], &data].concat(), 7, 7),
            ([&begun[..], &data].concat(), 0x100, 0x100),
            ([&begun[..], &data].concat(), 0x108, 0x108),
            ([&begun[..], &data, &ended].concat(), 0, 0),
            ([&begun[..], &data, &ended].concat(), 8, 8),
            (Vec::new(), 8, 8),
        ] {
            let sent = [&wire[..], &reset(code), &frame(DATA, 0, 3, b"\0\0\0\0")].concat();
            let wanted = [&wire[..], &reset(becomes), &frame(DATA, 0, 3, b"\0\0\0\0")].concat();
            for pieces in [1, 2, 5, 9, 4096] {
                let (mut answers, mut bytes) = (Answers::default(), sent.clone());
                assert!(!bytes.chunks_mut(pieces).any(|piece| answers.flooded_by(piece)));
                assert_eq!(bytes, wanted, "{code} in pieces of {pieces}");
            }
        }
    }
}

//! What is on its way to the client: bytes of ours, then a piece of a body or two, then the end of its chunk.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use tokio::io::AsyncWrite;

/// With so much to be written, no more is taken from a body.
const FULL: usize = 16 * 1024;
/// A piece of a body that is no longer goes beside the bytes of ours: cheaper than a place of its own in a write.
const COPIED_MAX: usize = 2 * 1024;

/// How the end of a body is told to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// So many bytes are still to come.
    Length(u64),
    Chunked,
    /// By the end of the connection.
    Close,
}

/// The body is shorter than the length that was announced, or longer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct WrongLength;

/// Bytes to be written, in their order. Its room is used again.
#[derive(Debug, Default)]
pub(super) struct Out {
    ours: Vec<u8>,
    at: usize,
    data: Bytes,
    /// What follows a piece that was not long: one write for both.
    more: Bytes,
    tail: &'static [u8],
    /// Goes up with every byte that is taken.
    written: u64,
}

impl Out {
    /// How many bytes have been taken.
    pub(super) const fn written(&self) -> u64 {
        self.written
    }

    /// Where bytes of ours go. To be asked for while nothing else is on its way.
    pub(super) const fn ours(&mut self) -> &mut Vec<u8> {
        &mut self.ours
    }

    /// Whether more can be added.
    pub(super) const fn has_room(&self) -> bool {
        self.more.is_empty() && self.tail.is_empty() && self.ours.len() - self.at + self.data.len() < FULL
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.at == self.ours.len() && self.data.is_empty() && self.more.is_empty() && self.tail.is_empty()
    }

    /// Adds a piece of a body, which is not empty; `over`: the last one.
    ///
    /// # Errors
    /// When it is not what was announced. A body that is too long is cut before that.
    pub(super) fn data(
        &mut self,
        mut data: Bytes,
        coding: &mut Coding,
        over: bool,
    ) -> Result<(), WrongLength> {
        match coding {
            Coding::Length(left) => {
                let here = data.len() as u64;
                if here > *left || over && here < *left {
                    return Err(WrongLength);
                }
                *left -= here;
            }
            Coding::Chunked => {
                size_line(&mut self.ours, data.len());
                self.tail = if over { b"\r\n0\r\n\r\n" } else { b"\r\n" };
            }
            Coding::Close => {}
        }
        if !self.data.is_empty() {
            self.more = data; // chunks have a tail, after which there is no room
            return Ok(());
        }
        if data.len() <= COPIED_MAX {
            self.ours.extend_from_slice(&data);
            self.ours.extend_from_slice(self.tail);
            self.tail = b"";
            data = Bytes::new();
        }
        self.data = data;
        Ok(())
    }

    /// Adds the end of a body that did not say with its last piece that it was the last.
    ///
    /// # Errors
    /// When something is missing.
    pub(super) fn end(&mut self, coding: Coding) -> Result<(), WrongLength> {
        match coding {
            Coding::Length(0) | Coding::Close => {}
            Coding::Length(_) => return Err(WrongLength),
            Coding::Chunked => self.ours.extend_from_slice(b"0\r\n\r\n"),
        }
        Ok(())
    }

    /// Writes what the stream takes; ready when nothing is left.
    pub(super) fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let ours = &self.ours[self.at..];
            let written = if self.data.is_empty() && self.more.is_empty() && self.tail.is_empty() {
                Pin::new(&mut *to).poll_write(cx, ours)
            } else {
                let slices = [ours, &self.data, &self.more, self.tail].map(IoSlice::new);
                let first = slices.iter().take_while(|slice| slice.is_empty()).count();
                Pin::new(&mut *to).poll_write_vectored(cx, &slices[first..])
            };
            match std::task::ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.advance(count),
            }
        }
        (self.at, self.tail) = (0, b"");
        self.ours.clear();
        if self.ours.capacity() > 2 * FULL {
            self.ours = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut count: usize) {
        self.written += count as u64;
        let ours = count.min(self.ours.len() - self.at);
        self.at += ours;
        count -= ours;
        let data = count.min(self.data.len());
        advance(&mut self.data, data);
        count -= data;
        let more = count.min(self.more.len());
        advance(&mut self.more, more);
        self.tail = &self.tail[count - more..];
    }
}

/// Gives the memory back with the last byte.
fn advance(piece: &mut Bytes, count: usize) {
    if count == piece.len() {
        *piece = Bytes::new();
    } else {
        piece.advance(count);
    }
}

/// `length` in hexadecimal digits, and the end of the line.
fn size_line(out: &mut Vec<u8>, length: usize) {
    let digits = (usize::BITS - length.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        out.push(b"0123456789abcdef"[length >> (4 * place) & 15]);
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    async fn written(mut out: Out, room: usize) -> String {
        let (mut near, mut far) = tokio::io::duplex(room);
        let writing = async move { std::future::poll_fn(|cx| out.poll_write(&mut near, cx)).await.unwrap() };
        let mut text = String::new();
        let (read, ()) = tokio::join!(far.read_to_string(&mut text), writing);
        read.unwrap();
        text
    }

    #[test]
    fn chunk_sizes_are_written_in_hexadecimal() {
        for size in [1, 9, 10, 15, 16, 255, 256, 4096, 65_535, 0xfed_cba9] {
            let mut out = Vec::new();
            size_line(&mut out, size);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{size:x}\r\n"));
        }
    }

    #[tokio::test]
    async fn pieces_large_and_small_go_out_in_order_however_little_is_taken() {
        let large = "y".repeat(COPIED_MAX + 1);
        for room in [1, 7, 100_000] {
            let (mut out, mut coding) = (Out::default(), Coding::Chunked);
            out.ours().extend_from_slice(b"head ");
            out.data("abc".into(), &mut coding, false).unwrap();
            out.data("de".into(), &mut coding, false).unwrap();
            assert!(out.has_room());
            out.data(large.clone().into(), &mut coding, true).unwrap();
            assert!(!out.has_room());
            let expected = format!("head 3\r\nabc\r\n2\r\nde\r\n801\r\n{large}\r\n0\r\n\r\n");
            assert_eq!(written(out, room).await, expected);
        }
    }

    #[tokio::test]
    async fn what_follows_a_piece_that_is_not_long_goes_out_with_it() {
        let piece = |letter: &str, length| letter.repeat(length);
        for room in [1, 100, 100_000] {
            for second in [1, COPIED_MAX, FULL - COPIED_MAX, 70_000] {
                let (mut out, first) = (Out::default(), piece("a", COPIED_MAX + 1));
                let mut coding = Coding::Length((first.len() + second) as u64);
                out.ours().extend_from_slice(b"head ");
                out.data(first.clone().into(), &mut coding, false).unwrap();
                assert!(out.has_room());
                out.data(piece("b", second).into(), &mut coding, true).unwrap();
                assert_eq!((out.has_room(), out.is_empty(), coding), (false, false, Coding::Length(0)));
                assert_eq!(written(out, room).await, format!("head {first}{}", piece("b", second)));
            }
        }
        let mut out = Out::default();
        out.data(piece("a", FULL).into(), &mut Coding::Close, false).unwrap();
        assert!(!out.has_room(), "it was long");
    }

    #[test]
    fn a_body_is_as_long_as_was_announced_or_fails() {
        let mut out = Out::default();
        assert_eq!(out.data("abc".into(), &mut Coding::Length(4), true), Err(WrongLength));
        assert_eq!(out.data("abcde".into(), &mut Coding::Length(4), false), Err(WrongLength));
        assert_eq!(out.end(Coding::Length(1)), Err(WrongLength));
        let mut coding = Coding::Length(4);
        out.data("abcd".into(), &mut coding, false).unwrap();
        out.end(coding).unwrap();
    }
}

//! A request on its way out over HTTP/1.1: its head, then its body as it comes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::HeaderMap;
use http::header::TRANSFER_ENCODING;
use http::request::Parts;
use http_body::Body as _;
use tokio::io::AsyncWrite;

use super::upload::Outgoing;

/// Room for a head that is kept with its connection; a longer one is let go.
const KEPT_BYTES_MAX: usize = 8 * 1024;

/// Why a request was not sent whole.
#[derive(Debug)]
pub(super) enum Unfinished {
    /// The connection took no more.
    Write(io::Error),
    /// The body failed; [`super::upload::Upload`] has the error.
    Body,
    /// The body was shorter or longer than the length it was announced with.
    Length,
}

/// What is to be written: bytes of ours, then a piece of the body, then the end of its chunk.
#[derive(Debug, Default)]
pub(super) struct Out {
    ours: Vec<u8>,
    at: usize,
    data: Bytes,
    tail: &'static [u8],
}

/// The rest of a request.
#[derive(Debug)]
pub(super) struct Sending {
    body: Outgoing,
    framing: Framing,
    /// The last piece of a body by its length, while it has not said that it has ended: a client over HTTP/2 may go on
    /// to say more than it announced, and its request must not be whole by then.
    held: Bytes,
    /// All of it is in [`Out`], or written.
    over: bool,
    /// A byte of the request was taken.
    begun: bool,
}

#[derive(Debug)]
enum Framing {
    Length(u64),
    Chunked,
}

impl Out {
    /// Writes the head of a request, in the place of whatever is left of another; `lines` are fields as they go out.
    pub(super) fn head(&mut self, head: &Parts, lines: &[u8]) {
        let Self { ours, at, data, tail } = self;
        (*at, *data, *tail) = (0, Bytes::new(), b"");
        ours.clear();
        ours.extend_from_slice(head.method.as_str().as_bytes());
        ours.push(b' ');
        ours.extend_from_slice(head.uri.path_and_query().map_or("/", |target| target.as_str()).as_bytes());
        ours.extend_from_slice(b" HTTP/1.1\r\n");
        for (name, value) in &head.headers {
            ours.extend_from_slice(name.as_str().as_bytes());
            ours.extend_from_slice(b": ");
            ours.extend_from_slice(value.as_bytes());
            ours.extend_from_slice(b"\r\n");
        }
        ours.extend_from_slice(lines);
        ours.extend_from_slice(b"\r\n");
    }

    /// A piece of the body that was not written.
    pub(super) fn take_data(&mut self) -> Bytes {
        std::mem::take(&mut self.data)
    }

    fn is_empty(&self) -> bool {
        self.at == self.ours.len() && self.data.is_empty() && self.tail.is_empty()
    }

    /// All was written; the room stays for the next head.
    fn clear(&mut self) {
        self.at = 0;
        self.ours.clear();
        if self.ours.capacity() > KEPT_BYTES_MAX {
            self.ours = Vec::new();
        }
    }

    fn advance(&mut self, mut count: usize) {
        let ours = count.min(self.ours.len() - self.at);
        self.at += ours;
        count -= ours;
        let data = count.min(self.data.len());
        self.data.advance(data);
        self.tail = &self.tail[count - data..];
    }

    fn poll_write<W: AsyncWrite + Unpin>(&self, to: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let ours = &self.ours[self.at..];
        if self.data.is_empty() && self.tail.is_empty() {
            return Pin::new(to).poll_write(cx, ours);
        }
        let slices = [IoSlice::new(ours), IoSlice::new(&self.data), IoSlice::new(self.tail)];
        Pin::new(to).poll_write_vectored(cx, if ours.is_empty() { &slices[1..] } else { &slices })
    }
}

impl Sending {
    /// `headers` say how the body is framed, and `body` what there is.
    pub(super) fn new(body: Outgoing, headers: &HeaderMap) -> Self {
        let over = body.upload().is_none();
        let framing = match body.size_hint().exact() {
            _ if over => Framing::Length(0),
            _ if headers.contains_key(TRANSFER_ENCODING) => Framing::Chunked,
            Some(length) => Framing::Length(length),
            None => Framing::Length(announced(headers)),
        };
        Self { body, framing, held: Bytes::new(), over, begun: false }
    }

    /// Whether a byte of the request was taken.
    pub(super) const fn begun(&self) -> bool {
        self.begun
    }

    /// The body once more, of a request that has not begun; `data` was taken out of it.
    pub(super) fn into_body(mut self, data: Bytes) -> Outgoing {
        self.body.put_back(if data.is_empty() { self.held } else { data });
        self.body
    }

    /// Writes on; ready when all was written.
    ///
    /// # Errors
    /// [`Unfinished`], after which nothing more is to be written.
    pub(super) fn poll<W: AsyncWrite + Unpin>(
        &mut self,
        out: &mut Out,
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Unfinished>> {
        loop {
            let waits = !self.over && out.data.is_empty() && out.tail.is_empty() && !self.fill(out, cx)?;
            if out.is_empty() {
                // What TLS holds back must go out before anybody waits for more.
                ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Unfinished::Write)?;
                out.clear();
                if self.over {
                    return Poll::Ready(Ok(()));
                }
                if waits {
                    return Poll::Pending;
                }
                continue;
            }
            match ready!(out.poll_write(to, cx)) {
                Ok(0) => return Poll::Ready(Err(Unfinished::Write(io::ErrorKind::WriteZero.into()))),
                Ok(count) => {
                    self.begun = true;
                    out.advance(count);
                }
                Err(error) => return Poll::Ready(Err(Unfinished::Write(error))),
            }
        }
    }

    /// Takes the next piece of the body; `false` while there is none.
    fn fill(&mut self, out: &mut Out, cx: &mut Context<'_>) -> Result<bool, Unfinished> {
        if !self.held.is_empty() {
            return self.let_go(out, cx);
        }
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => return Ok(false),
            Poll::Ready(None) => {
                self.over = true;
                return match self.framing {
                    Framing::Chunked => {
                        out.ours.extend_from_slice(b"0\r\n\r\n");
                        Ok(true)
                    }
                    Framing::Length(0) => Ok(true),
                    Framing::Length(_) => Err(Unfinished::Length),
                };
            }
            Poll::Ready(Some(Err(_))) => return Err(Unfinished::Body),
            Poll::Ready(Some(Ok(frame))) => frame,
        };
        // Trailers do not get here.
        let data = frame.into_data().unwrap_or_default();
        if data.is_empty() {
            return Ok(true);
        }
        match &mut self.framing {
            Framing::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Unfinished::Length)?;
                self.over = *left == 0 && self.body.is_end_stream();
                if *left == 0 && !self.over {
                    self.held = data;
                    return self.let_go(out, cx);
                }
            }
            Framing::Chunked => {
                // Writing to memory does not fail.
                let _ = io::Write::write_fmt(&mut out.ours, format_args!("{:x}\r\n", data.len()));
                out.tail = b"\r\n";
                if self.body.is_end_stream() {
                    self.over = true;
                    out.tail = b"\r\n0\r\n\r\n";
                }
            }
        }
        out.data = data;
        Ok(true)
    }
}

impl Sending {
    /// Writes the piece that was held back once the body has ended with it; `false` while that is not known.
    fn let_go(&mut self, out: &mut Out, cx: &mut Context<'_>) -> Result<bool, Unfinished> {
        loop {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(None) => break,
                Poll::Ready(Some(Ok(frame))) if frame.data_ref().is_none_or(Bytes::is_empty) => {}
                Poll::Ready(Some(Ok(_))) => return Err(Unfinished::Length),
                Poll::Ready(Some(Err(_))) => return Err(Unfinished::Body),
            }
        }
        (self.over, out.data) = (true, std::mem::take(&mut self.held));
        Ok(true)
    }
}

/// Of a body that does not say itself how long it is.
fn announced(headers: &HeaderMap) -> u64 {
    let said = headers.get(http::header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    said.and_then(|length| length.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http::Request;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tokio::io::AsyncReadExt as _;

    use crate::answer::{Body, BoxError};

    use super::*;

    async fn sent(fields: &[(&'static str, &'static str)], body: Body, room: usize) -> String {
        let mut request = Request::post("http://a.example/x?y").body(Outgoing::new(body)).unwrap();
        for (name, value) in fields {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        let (head, body) = request.into_parts();
        let (mut near, mut far) = tokio::io::duplex(room);
        let (mut out, mut sending) = (Out::default(), Sending::new(body, &head.headers));
        out.head(&head, b"x: 2\r\n");
        let writing = async move {
            std::future::poll_fn(|cx| sending.poll(&mut out, &mut near, cx)).await.unwrap();
        };
        let mut text = String::new();
        let (read, ()) = tokio::join!(far.read_to_string(&mut text), writing);
        read.unwrap();
        text
    }

    fn pieces(pieces: &'static [&'static str]) -> Body {
        let frame =
            |piece: &&'static str| Ok::<_, BoxError>(Frame::data(Bytes::from_static(piece.as_bytes())));
        Body::boxed(StreamBody::new(stream::iter(pieces.iter().map(frame))))
    }

    #[tokio::test]
    async fn a_request_is_not_whole_before_its_body_has_ended_well() {
        let frame =
            |piece: &'static str| Ok::<_, BoxError>(Frame::data(Bytes::from_static(piece.as_bytes())));
        for last in [Err("reset".into()), frame("more")] {
            let pieces = [frame("he"), frame(""), last];
            let mut request = Request::post("/")
                .body(Outgoing::new(Body::boxed(StreamBody::new(stream::iter(pieces)))))
                .unwrap();
            request.headers_mut().insert("content-length", "2".parse().unwrap());
            let (head, body) = request.into_parts();
            let (mut near, mut far) = tokio::io::duplex(1000);
            let (mut out, mut sending) = (Out::default(), Sending::new(body, &head.headers));
            out.head(&head, b"");
            std::future::poll_fn(|cx| sending.poll(&mut out, &mut near, cx)).await.unwrap_err();
            drop(near);
            let mut text = String::new();
            far.read_to_string(&mut text).await.unwrap();
            assert!(!text.contains("he\r") && !text.ends_with("he"), "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_request_is_written_whole_however_little_is_taken_at_once() {
        for room in [1, 2, 3, 7, 1000] {
            let head = "POST /x?y HTTP/1.1\r\nhost: a\r\nx: 1\r\nx: 2\r\n";
            let fields = [("host", "a"), ("x", "1")];
            assert_eq!(sent(&fields, Body::empty(), room).await, format!("{head}\r\n"));
            let chunked = [&[("transfer-encoding", "chunked")], &fields[..]].concat();
            assert_eq!(
                sent(&chunked, pieces(&["abc", "", "0123456789abcdef"]), room).await,
                format!(
                    "{}\r\n3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n",
                    head.replacen("\r\n", "\r\ntransfer-encoding: chunked\r\n", 1)
                )
            );
            let length = [&[("content-length", "4")], &fields[..]].concat();
            let head = head.replacen("\r\n", "\r\ncontent-length: 4\r\n", 1);
            let expected = format!("{head}\r\nabcd");
            assert_eq!(sent(&length, Body::full("abcd"), room).await, expected);
            assert_eq!(sent(&length, pieces(&["ab", "cd"]), room).await, expected);
        }
    }
}

//! Bytes of HTTP/1.1 responses to heads and bodies. Pure: it is given what has come, and says what it was.

use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use http_body::Frame;
use hyper::ext::ReasonPhrase;
use memchr::memchr;
use thiserror::Error;

use super::Tell;
use super::error::Fault;

/// A response head, status line included, and each block of trailers.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Fields of a head, and of a block of trailers.
const FIELDS_MAX: usize = 128;
/// Informational responses (RFC 9110 §15.2) before one answer; an upstream that sends more is broken.
pub(super) const INFORMATIONAL_MAX: u32 = 100;
/// All informational responses before one answer, in bytes: as much as a final head may have.
pub(super) const INFORMATIONAL_BYTES_MAX: usize = 64 * 1024;
/// What every head of ours begins with.
const START: &[u8] = b"HTTP/";
/// Fields that are added on the way to the client; there is to be room for them.
const ADDED: usize = 4;
/// The line of a chunk's size; extensions are part of it, and nobody uses them for anything.
const SIZE_LINE_BYTES_MAX: usize = 1024;

/// Bytes that are no HTTP/1.1 response.
#[derive(Debug, Error)]
pub(super) enum Malformed {
    /// The head, or a block of trailers.
    #[error("{0}")]
    Head(#[from] httparse::Error),
    /// A length that is none, or an end of line that is missing.
    #[error("the body is not framed as a chunked one must be")]
    Chunk,
    /// The connection ended before the body.
    #[error("the connection ended within the body")]
    Ended,
    /// More of it than anybody needs.
    #[error("the head or the trailers are too long")]
    TooLong,
}

impl From<Malformed> for Fault {
    fn from(why: Malformed) -> Self {
        Self::Parse(why.into())
    }
}

/// How far the search for the end of a head has come.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// No end of a head begins before.
    searched: usize,
    /// Informational responses before it, and their bytes.
    informational: (u32, usize),
}

/// The next final response head, taken out of `read`; `None` while it is not whole. Informational ones before it are
/// told of, where somebody hears of them. `spare` is a map whose room is used again. Allocates names that are not well known.
///
/// # Errors
/// For what is no response, and for informational responses without end.
pub(super) fn head(
    read: &mut BytesMut,
    search: &mut Search,
    spare: &mut HeaderMap,
    tell: Tell<'_>,
) -> Result<Option<Parts>, Fault> {
    loop {
        // Empty lines before a status line are nothing (RFC 9112 §2.2 says so of requests).
        let blank = read.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        if blank > 0 {
            search.searched = search.searched.saturating_sub(blank);
            search.informational.1 += blank;
            read.advance(blank);
        }
        let begun = read.len().min(START.len());
        if read[..begun] != START[..begun] {
            return Err(Malformed::Head(httparse::Error::Version).into());
        }
        let Some(end) = end_of_head(read, search.searched) else {
            // The two bytes before may belong to it.
            search.searched = read.len().saturating_sub(2);
            let (count, bytes) = search.informational;
            if count > 0 && bytes + read.len() > INFORMATIONAL_BYTES_MAX {
                return Err(Fault::Informational);
            }
            return if read.len() > HEAD_BYTES_MAX { Err(Malformed::TooLong.into()) } else { Ok(None) };
        };
        if end > HEAD_BYTES_MAX {
            return Err(Malformed::TooLong.into());
        }
        search.searched = 0;
        let bytes = read.split_to(end).freeze();
        let (count, sum) = search.informational;
        let many = count >= INFORMATIONAL_MAX || sum + end > INFORMATIONAL_BYTES_MAX;
        if let Some(parts) = final_head(&bytes, spare, if many { Tell::default() } else { tell })? {
            return Ok(Some(parts));
        }
        if many {
            return Err(Fault::Informational);
        }
        search.informational = (count + 1, sum + end);
    }
}

/// Behind the empty line that ends a head or a block of trailers; bare line feeds end lines too (RFC 9112 §2.2).
fn end_of_head(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += memchr(b'\n', bytes.get(at..)?)? + 1;
        match bytes.get(at..)? {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
}

/// The head that these bytes are; `None` for an informational one.
fn final_head(bytes: &Bytes, spare: &mut HeaderMap, tell: Tell<'_>) -> Result<Option<Parts>, Malformed> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let whole = config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut fields)?;
    let code = parsed.code.unwrap_or_default();
    if whole != httparse::Status::Complete(bytes.len()) {
        return Err(Malformed::Head(httparse::Error::NewLine));
    }
    if (100..200).contains(&code) && code != StatusCode::SWITCHING_PROTOCOLS.as_u16() {
        // Whether we want the body is for us to say, not for the upstream: its 100 ends here.
        if let Tell(Some(tell)) = tell
            && code != StatusCode::CONTINUE.as_u16()
        {
            let (mut parts, ()) = Response::new(()).into_parts();
            parts.status = StatusCode::from_u16(code).map_err(|_| httparse::Error::Status)?;
            fill(&mut parts.headers, bytes, parsed.headers)?;
            tell(parts);
        }
        return Ok(None);
    }
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = StatusCode::from_u16(code).map_err(|_| httparse::Error::Status)?;
    parts.version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    parts.headers = std::mem::take(spare);
    parts.headers.clear();
    fill(&mut parts.headers, bytes, parsed.headers)?;
    if let Some(reason) = parsed.reason
        && parts.status.canonical_reason() != Some(reason)
        && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes())
    {
        parts.extensions.insert(reason);
    }
    Ok(Some(parts))
}

fn fill(map: &mut HeaderMap, bytes: &Bytes, fields: &[httparse::Header<'_>]) -> Result<(), Malformed> {
    map.reserve(fields.len() + ADDED);
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| httparse::Error::HeaderName)?;
        // Shares the bytes of the head.
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value));
        map.append(name, value.map_err(|_| httparse::Error::HeaderValue)?);
    }
    Ok(())
}

/// Whether the connection goes on behind this answer. After one of HTTP/1.0 it does not, whatever that says.
pub(super) fn keeps_alive(parts: &Parts) -> bool {
    let mut said = parts.headers.get_all(CONNECTION).iter();
    let close = |value: &HeaderValue| {
        value
            .as_bytes()
            .split(|&byte| byte == b',')
            .any(|one| one.trim_ascii().eq_ignore_ascii_case(b"close"))
    };
    parts.version == Version::HTTP_11 && !said.any(close)
}

/// How the end of a body is told (RFC 9112 §6.3).
#[derive(Debug)]
pub(super) enum Framing {
    /// So many bytes are still to come; 0: it has ended.
    Length(u64),
    /// In chunks.
    Chunked(Chunks),
    /// By the end of the connection.
    Close,
}

impl Framing {
    /// Of the answer to a request with this method. Its head has been checked.
    ///
    /// # Errors
    /// When its length is no number that we can count to.
    pub(super) fn of(parts: &Parts, method: &Method) -> Result<Self, Fault> {
        let bodiless = matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let length = parts.headers.get(CONTENT_LENGTH).map(|length| length.as_bytes());
        let length = length.map(|digits| number(digits, 10).ok_or(Fault::ContentLength)).transpose()?;
        if bodiless || *method == Method::HEAD {
            return Ok(Self::Length(0));
        }
        Ok(match length {
            Some(length) => Self::Length(length),
            None if parts.headers.contains_key(TRANSFER_ENCODING) => Self::Chunked(Chunks::default()),
            None => Self::Close,
        })
    }

    /// Whether the body has ended.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.at == At::Over,
            Self::Close => false,
        }
    }

    /// How many bytes are still to come, where that was said.
    pub(super) fn left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Chunked(chunks) => (chunks.at == At::Over).then_some(0),
            Self::Close => None,
        }
    }

    /// The next piece of the body, out of what was read; `None` when that holds none. Copies nothing.
    ///
    /// # Errors
    /// For chunks that are not framed as they must be.
    pub(super) fn take(&mut self, read: &mut BytesMut) -> Result<Option<Frame<Bytes>>, Malformed> {
        match self {
            Self::Length(left) => Ok(data(read, left)),
            Self::Chunked(chunks) => chunks.take(read),
            Self::Close if read.is_empty() => Ok(None),
            Self::Close => Ok(Some(Frame::data(read.split().freeze()))),
        }
    }

    /// The connection has ended, and so has the body, if it may.
    ///
    /// # Errors
    /// When it was cut short.
    pub(super) fn end(&mut self) -> Result<(), Malformed> {
        if !self.is_over() && !matches!(self, Self::Close) {
            return Err(Malformed::Ended);
        }
        *self = Self::Length(0);
        Ok(())
    }
}

fn data(read: &mut BytesMut, left: &mut u64) -> Option<Frame<Bytes>> {
    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(read.len());
    if here == 0 {
        return None;
    }
    *left -= here as u64;
    Some(Frame::data(read.split_to(here).freeze()))
}

fn number(digits: &[u8], radix: u32) -> Option<u64> {
    // `from_str_radix` would take a sign.
    let plain = digits.iter().all(|&byte| char::from(byte).is_digit(radix));
    std::str::from_utf8(digits).ok().filter(|_| plain).and_then(|text| u64::from_str_radix(text, radix).ok())
}

/// Where in a chunked body we are (RFC 9112 §7.1).
#[derive(Debug, Default)]
pub(super) struct Chunks {
    at: At,
    /// Of the chunk.
    left: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// Before the line with the size of a chunk.
    #[default]
    Size,
    Data,
    /// Before the end of the line that the data ends with.
    DataEnd,
    Trailers,
    Over,
}

impl Chunks {
    fn take(&mut self, read: &mut BytesMut) -> Result<Option<Frame<Bytes>>, Malformed> {
        if let Some(trailers) = self.advance(read)? {
            return Ok(Some(Frame::trailers(trailers)));
        }
        if self.at != At::Data {
            return Ok(None);
        }
        let frame = data(read, &mut self.left);
        if self.left == 0 {
            self.at = At::DataEnd;
            // Where the end of the body is here already, it is known with its last byte.
            if read.starts_with(b"\r\n0\r\n\r\n") {
                read.advance(7);
                self.at = At::Over;
            }
        }
        Ok(frame)
    }

    /// Goes on to the next data, or to the end, as far as what was read lets it; the trailers if there are some.
    fn advance(&mut self, read: &mut BytesMut) -> Result<Option<HeaderMap>, Malformed> {
        loop {
            match self.at {
                At::Data | At::Over => return Ok(None),
                At::DataEnd => match &read[..] {
                    [b'\r', b'\n', ..] => {
                        read.advance(2);
                        self.at = At::Size;
                    }
                    [] | [b'\r'] => return Ok(None),
                    _ => return Err(Malformed::Chunk),
                },
                At::Size => {
                    let Some(end) = memchr(b'\n', read) else {
                        let long = read.len() > SIZE_LINE_BYTES_MAX;
                        return if long { Err(Malformed::TooLong) } else { Ok(None) };
                    };
                    self.left = size(&read[..end])?;
                    self.at = if self.left == 0 { At::Trailers } else { At::Data };
                    read.advance(end + 1);
                }
                At::Trailers => return self.trailers(read),
            }
        }
    }

    fn trailers(&mut self, read: &mut BytesMut) -> Result<Option<HeaderMap>, Malformed> {
        match &read[..] {
            [b'\r', b'\n', ..] => {
                read.advance(2);
                self.at = At::Over;
                return Ok(None);
            }
            [] | [b'\r'] => return Ok(None),
            _ => {}
        }
        let Some(end) = end_of_head(read, 0) else {
            return if read.len() > HEAD_BYTES_MAX { Err(Malformed::TooLong) } else { Ok(None) };
        };
        let bytes = read.split_to(end).freeze();
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let httparse::Status::Complete((_, fields)) = httparse::parse_headers(&bytes, &mut fields)? else {
            return Err(Malformed::Head(httparse::Error::NewLine));
        };
        let mut trailers = HeaderMap::new();
        fill(&mut trailers, &bytes, fields)?;
        self.at = At::Over;
        Ok(Some(trailers))
    }
}

/// The size of a chunk, out of its line without the line feed.
fn size(line: &[u8]) -> Result<u64, Malformed> {
    let line = line.strip_suffix(b"\r").ok_or(Malformed::Chunk)?;
    if line.len() > SIZE_LINE_BYTES_MAX {
        return Err(Malformed::TooLong);
    }
    let digits = line.split(|&byte| byte == b';').next().unwrap_or_default();
    let digits = digits.trim_ascii_end();
    if digits.is_empty() {
        return Err(Malformed::Chunk);
    }
    number(digits, 16).ok_or(Malformed::Chunk)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANSWER: &str = "HTTP/1.1 200 OK\r\nserver: x\r\nset-cookie: a\r\nset-cookie: b\r\n\r\n";

    fn read(bytes: &str) -> Result<Option<Parts>, Fault> {
        head(&mut bytes.into(), &mut Search::default(), &mut HeaderMap::new(), Tell::default())
    }

    #[test]
    fn a_head_is_what_it_is_wherever_the_reads_cut_it() {
        let early = "\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nlink: a\r\n\r\n";
        let wire = [early, ANSWER, "body"].concat();
        for size in 1..wire.len() {
            let (mut bytes, mut search) = (BytesMut::new(), Search::default());
            let mut found = None;
            for chunk in wire.as_bytes().chunks(size) {
                bytes.extend_from_slice(chunk);
                if found.is_none() {
                    found = head(&mut bytes, &mut search, &mut HeaderMap::new(), Tell::default()).unwrap();
                }
            }
            let parts = found.unwrap();
            assert_eq!(parts.headers.get_all("set-cookie").iter().count(), 2, "reads of {size}");
            assert_eq!((parts.status, &bytes[..]), (StatusCode::OK, &b"body"[..]), "reads of {size}");
        }
    }

    #[test]
    fn informational_responses_are_told_of_but_for_those_that_are_ours_to_say() {
        let early =
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nlink: a\r\nlink: b\r\n\r\nHTTP/1.1 102 y\r\n\r\n";
        let told = std::sync::Mutex::new(Vec::new());
        let tell = |parts: Parts| {
            told.lock().unwrap().push((parts.status.as_u16(), parts.headers.get_all("link").iter().count()));
        };
        let mut bytes = BytesMut::from(&*[early, ANSWER].concat());
        let parts = head(&mut bytes, &mut Search::default(), &mut HeaderMap::new(), Tell(Some(&tell)));
        assert_eq!(parts.unwrap().unwrap().status, StatusCode::OK);
        assert_eq!(*told.lock().unwrap(), [(103, 2), (102, 0)]);
    }

    #[test]
    fn nothing_is_left_of_the_map_whose_room_is_used() {
        let mut spare = HeaderMap::new();
        spare.insert("authorization", HeaderValue::from_static("secret"));
        let parts =
            head(&mut ANSWER.into(), &mut Search::default(), &mut spare, Tell::default()).unwrap().unwrap();
        assert!(spare.is_empty() && !parts.headers.contains_key("authorization"));
    }

    #[test]
    fn what_cannot_become_a_head_is_refused_at_its_first_byte() {
        for bad in ["2", "220 mail.example ESMTP\r\n", "SSH-2.0", "HTTQ", "http/1.1 200 OK"] {
            assert!(matches!(read(bad), Err(Fault::Parse(_))), "{bad}");
        }
        for begun in ["", "H", "HTTP/", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nx: y\r\n"] {
            assert!(matches!(read(begun), Ok(None)), "{begun}");
        }
    }

    #[test]
    fn many_or_long_informational_responses_are_a_flood() {
        let short = "HTTP/1.1 102 Processing\r\n\r\n";
        assert!(matches!(read(&short.repeat(100)), Ok(None)));
        assert!(matches!(read(&short.repeat(101)), Err(Fault::Informational)));
        let long = format!("HTTP/1.1 103 x\r\nlink: {}\r\n\r\n", "a".repeat(40_000));
        assert!(matches!(read(&long), Ok(None)));
        assert!(matches!(read(&long.repeat(2)), Err(Fault::Informational)));
        assert!(matches!(read(&format!("{long}{}", &long[..30_000])), Err(Fault::Informational)));
    }

    #[test]
    fn a_reason_of_its_own_goes_on() {
        let parts = read("HTTP/1.1 200 Fine\r\n\r\n").unwrap().unwrap();
        assert_eq!(parts.extensions.get::<ReasonPhrase>().unwrap().as_bytes(), b"Fine");
        assert!(read(ANSWER).unwrap().unwrap().extensions.get::<ReasonPhrase>().is_none());
    }

    type Dechunked = (Vec<u8>, Option<HeaderMap>, Vec<u8>);

    /// All that comes of a chunked body in pieces of `size`, and what is left behind it.
    fn dechunk(wire: &[u8], size: usize) -> Result<Dechunked, Malformed> {
        let (mut framing, mut bytes) = (Framing::Chunked(Chunks::default()), BytesMut::new());
        let (mut body, mut trailers) = (Vec::new(), None);
        for piece in wire.chunks(size) {
            bytes.extend_from_slice(piece);
            while let Some(frame) = framing.take(&mut bytes)? {
                match frame.into_data() {
                    Ok(data) => body.extend_from_slice(&data),
                    Err(frame) => trailers = frame.into_trailers().ok(),
                }
            }
        }
        framing.end()?;
        Ok((body, trailers, bytes.to_vec()))
    }

    #[test]
    fn chunks_that_are_not_framed_as_they_must_be_are_refused() {
        for bad in [
            "zz\r\nhalf\r\n0\r\n\r\n",
            "\r\n0\r\n\r\n",
            "+4\r\nhalf\r\n0\r\n\r\n",
            "-1\r\n",
            "0x4\r\nhalf\r\n0\r\n\r\n",
            " 4\r\nhalf\r\n0\r\n\r\n",
            "4\nhalf\r\n0\r\n\r\n",
            "4\r\nhalfx\r\n0\r\n\r\n",
            "4\r\nhalf\n0\r\n\r\n",
            "11111111111111111\r\n",
            "0\r\nno colon\r\n\r\n",
            "4\r\nhalf\r\n0\r\n",
            "4\r\nhal",
            "4\r\nhalf\r\n",
            "",
        ] {
            for size in 1..=bad.len().max(1) {
                assert!(dechunk(bad.as_bytes(), size).is_err(), "{bad:?} in reads of {size}");
            }
        }
        let long = format!("4;{}", "a".repeat(2 * SIZE_LINE_BYTES_MAX));
        assert!(dechunk(long.as_bytes(), 100).is_err());
        let trailers = format!("0\r\nx: {}", "a".repeat(HEAD_BYTES_MAX + 1));
        assert!(dechunk(trailers.as_bytes(), 1000).is_err());
    }

    proptest! {
        #[test]
        fn chunks_give_back_what_was_put_into_them(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            extension in prop::sample::select(vec!["", ";a=b", " ;x", ";\"q\""]),
            trailer in any::<bool>(),
            size in 1_usize..60,
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}{extension}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(if trailer { b"0\r\nx-sum: 1\r\n\r\n" } else { b"0\r\n\r\n" });
            wire.extend_from_slice(b"next");
            let (body, trailers, left) = dechunk(&wire, size).unwrap();
            prop_assert_eq!(body, chunks.concat());
            prop_assert_eq!(trailers.is_some(), trailer);
            prop_assert_eq!(left, b"next");
        }
    }
}

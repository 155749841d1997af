//! The head of an answer, as it is written.

use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRAILER, TRANSFER_ENCODING};
use http::{HeaderMap, Response, StatusCode};
use http_body::Body as _;
use hyper::ext::ReasonPhrase;

use super::out::Coding;
use crate::answer::Body;
use crate::server::date;

/// What of a request rules the form of its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) head: bool,
    pub(super) http_10: bool,
    pub(super) keep_alive: bool,
}

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Follows {
    /// The body, and how it is framed.
    pub(super) body: Option<Coding>,
    /// The connection ends behind it.
    pub(super) close: bool,
}

/// Writes the head of `response` behind what is in `out`. `close`: it ends the connection in any case.
pub(super) fn head(out: &mut Vec<u8>, response: &Response<Body>, asked: Asked, close: bool) -> Follows {
    let status = response.status();
    let switches = status == StatusCode::SWITCHING_PROTOCOLS;
    let coding = coding(response, asked);
    let mut close = close || !asked.keep_alive || coding == Some(Coding::Close);
    status_line(out, response, asked.http_10);

    // That of a 304 would be right (RFC 9110 §8.6), and is where readers differ: nothing is lost without it.
    let lengthless = switches || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let told = asked.head && !lengthless;
    let mut dated = false;
    for (name, value) in response.headers() {
        match *name {
            // Said below, as it is.
            TRANSFER_ENCODING | TRAILER => continue,
            CONTENT_LENGTH if !told => continue,
            CONNECTION if !switches => {
                let mut words = value.as_bytes().split(|&byte| byte == b',');
                close |= words.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"close"));
                continue;
            }
            DATE => dated = true,
            _ => {}
        }
        line(out, name.as_str(), value.as_bytes());
    }
    match coding {
        // The length of a body that is not sent is what the answer says it is.
        _ if told && response.headers().contains_key(CONTENT_LENGTH) => {}
        Some(Coding::Length(length)) => number_line(out, length),
        Some(Coding::Chunked) => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        None if told && !response.body().is_end_stream() => {
            if let Some(length) = response.body().size_hint().exact() {
                number_line(out, length);
            }
        }
        None if !asked.head && !lengthless => number_line(out, 0),
        Some(Coding::Close) | None => {}
    }
    match (switches, close) {
        (true, _) => {}
        (false, true) => out.extend_from_slice(b"connection: close\r\n"),
        (false, false) if asked.http_10 => out.extend_from_slice(b"connection: keep-alive\r\n"),
        (false, false) => {}
    }
    if !dated {
        line(out, DATE.as_str(), &date::text());
    }
    out.extend_from_slice(b"\r\n");
    Follows { body: coding, close }
}

/// Writes the head of an informational answer, which is all of it.
pub(super) fn interim(out: &mut Vec<u8>, status: StatusCode, headers: &HeaderMap) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or("<none>").as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in headers {
        // It frames nothing (RFC 9110 §8.6, RFC 9112 §6.1).
        if !matches!(*name, CONTENT_LENGTH | TRANSFER_ENCODING | CONNECTION) {
            line(out, name.as_str(), value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// How the body is framed, if there is to be one (RFC 9112 §6.3).
fn coding(response: &Response<Body>, asked: Asked) -> Option<Coding> {
    let status = response.status();
    let body = response.body();
    let none = asked.head
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || body.is_end_stream();
    if none {
        return None;
    }
    // What the body says of itself; else what is said of it.
    let said = || response.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
    let length = body.size_hint().exact().or_else(said);
    Some(match length {
        Some(length) => Coding::Length(length),
        None if asked.http_10 => Coding::Close,
        None => Coding::Chunked,
    })
}

fn status_line(out: &mut Vec<u8>, response: &Response<Body>, http_10: bool) {
    let status = response.status();
    let reason = response.extensions().get::<ReasonPhrase>();
    if status == StatusCode::OK && reason.is_none() && !http_10 {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.extend_from_slice(if http_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    match reason {
        Some(reason) => out.extend_from_slice(reason.as_bytes()),
        None => out.extend_from_slice(status.canonical_reason().unwrap_or("<none>").as_bytes()),
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes one field.
pub(super) fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn number_line(out: &mut Vec<u8>, mut length: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (length % 10) as u8;
        length /= 10;
        if length == 0 {
            break;
        }
    }
    line(out, CONTENT_LENGTH.as_str(), &digits[at..]);
}

#[cfg(test)]
mod tests {
    use http_body::Frame;

    use super::*;
    use crate::answer::BoxError;

    const ASKED: Asked = Asked { head: false, http_10: false, keep_alive: true };

    fn streaming() -> Body {
        let frame = Ok::<_, BoxError>(Frame::data(bytes::Bytes::from_static(b"abc")));
        Body::boxed(http_body_util::StreamBody::new(futures_util::stream::iter([frame])))
    }

    /// Without the line of its date.
    fn written(
        status: u16,
        fields: &[(&str, &str)],
        body: Body,
        asked: Asked,
        close: bool,
    ) -> (String, Follows) {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        let mut out = Vec::new();
        let follows = head(&mut out, &response.body(body).unwrap(), asked, close);
        let text = String::from_utf8(out).unwrap();
        let (lines, rest) = text.split_once("\r\n\r\n").unwrap();
        assert!(rest.is_empty() && lines.contains("\r\ndate: "), "{text}");
        let lines: Vec<_> = lines.split("\r\n").filter(|line| !line.starts_with("date: ")).collect();
        (lines.join("|"), follows)
    }

    #[test]
    fn the_body_decides_how_it_is_framed() {
        let length = |n| Follows { body: Some(Coding::Length(n)), close: false };
        let none = Follows { body: None, close: false };
        let cases = [
            (written(200, &[], Body::empty(), ASKED, false), "HTTP/1.1 200 OK|content-length: 0", none),
            (
                written(200, &[], Body::full("abc"), ASKED, false),
                "HTTP/1.1 200 OK|content-length: 3",
                length(3),
            ),
            (
                written(404, &[("content-length", "9"), ("x", "y")], Body::full("abc"), ASKED, false),
                "HTTP/1.1 404 Not Found|x: y|content-length: 3",
                length(3),
            ),
            (
                written(200, &[("content-length", "3")], streaming(), ASKED, false),
                "HTTP/1.1 200 OK|content-length: 3",
                length(3),
            ),
            (
                written(200, &[("transfer-encoding", "gzip"), ("trailer", "x")], streaming(), ASKED, false),
                "HTTP/1.1 200 OK|transfer-encoding: chunked",
                Follows { body: Some(Coding::Chunked), close: false },
            ),
            (
                written(204, &[("content-length", "3")], Body::empty(), ASKED, false),
                "HTTP/1.1 204 No Content",
                none,
            ),
            (
                written(304, &[("content-length", "3")], Body::empty(), ASKED, false),
                "HTTP/1.1 304 Not Modified",
                none,
            ),
        ];
        for ((lines, follows), expected, then) in cases {
            assert_eq!((&*lines, follows), (expected, then));
        }
    }

    #[test]
    fn head_tells_of_a_body_that_is_not_sent() {
        let asked = Asked { head: true, ..ASKED };
        let none = Follows { body: None, close: false };
        for (fields, body, lines) in [
            (&[("content-length", "7")][..], Body::empty(), "HTTP/1.1 200 OK|content-length: 7"),
            (&[], Body::full("abc"), "HTTP/1.1 200 OK|content-length: 3"),
            (&[], Body::empty(), "HTTP/1.1 200 OK"),
            (&[], streaming(), "HTTP/1.1 200 OK"),
        ] {
            assert_eq!(written(200, fields, body, asked, false), (lines.to_owned(), none));
        }
    }

    #[test]
    fn whether_the_connection_goes_on_is_said_where_it_is_not_clear() {
        let closes =
            |(lines, follows): (String, Follows)| (lines.contains("|connection: close"), follows.close);
        assert_eq!(closes(written(200, &[], Body::empty(), ASKED, true)), (true, true));
        let said = [("connection", "x, Close")];
        assert_eq!(closes(written(200, &said, Body::empty(), ASKED, false)), (true, true));
        let last = Asked { keep_alive: false, ..ASKED };
        assert_eq!(closes(written(200, &[], Body::empty(), last, false)), (true, true));
        let old = Asked { http_10: true, ..ASKED };
        let (lines, follows) = written(200, &[], Body::full("abc"), old, false);
        assert_eq!(lines, "HTTP/1.0 200 OK|content-length: 3|connection: keep-alive");
        assert!(!follows.close);
        let (lines, follows) = written(200, &[], streaming(), old, false);
        assert_eq!(lines, "HTTP/1.0 200 OK|connection: close");
        assert_eq!(follows, Follows { body: Some(Coding::Close), close: true });
        let fields = [("connection", "upgrade"), ("upgrade", "websocket")];
        let (lines, _) = written(101, &fields, Body::empty(), ASKED, false);
        assert_eq!(lines, "HTTP/1.1 101 Switching Protocols|connection: upgrade|upgrade: websocket");
    }
}

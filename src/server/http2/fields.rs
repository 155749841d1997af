//! The fields of an answer, as they may go out over HTTP/2.

use bytes::BytesMut;
use http::header::{
    AGE, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, DATE, ETAG, HeaderName, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, LOCATION, SET_COOKIE, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue};

use crate::server::date;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Values that are remembered together have one piece of memory, up to this size: each of them keeps all of it.
const TOGETHER_MAX: usize = 512;

/// Takes out what speaks of one connection alone (RFC 9113 §8.2.2), and gives the values that are left memory of their
/// own. True where there is a `Date`.
///
/// The library remembers what it has sent for as long as the connection lives (RFC 7541 §2.3.2), and values are parts of
/// the buffer that the upstream's head was read into: each would keep all of it.
pub(super) fn prepare(headers: &mut HeaderMap) -> bool {
    let (mut specific, mut dated, mut bytes) = (false, false, 0);
    for (name, value) in &*headers {
        specific |= is_specific(name);
        dated |= *name == DATE;
        if is_remembered(name, value) {
            bytes += value.len();
        }
    }
    if specific {
        for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE, TE, KEEP_ALIVE, PROXY_CONNECTION] {
            headers.remove(name);
        }
    }
    if bytes > TOGETHER_MAX {
        for (name, value) in headers.iter_mut() {
            if is_remembered(name, value) {
                *value = HeaderValue::from_bytes(value.as_bytes()).expect("it is one already");
            }
        }
    } else if bytes > 0 {
        let mut together = BytesMut::with_capacity(bytes);
        for (name, value) in &*headers {
            if is_remembered(name, value) {
                together.extend_from_slice(value.as_bytes());
            }
        }
        let mut together = together.freeze();
        for (name, value) in headers.iter_mut() {
            if is_remembered(name, value) {
                let own = together.split_to(value.len());
                *value = HeaderValue::from_maybe_shared(own).expect("it is one already");
            }
        }
    }
    dated
}

/// The same for the head of an answer, which says when it was made.
pub(super) fn prepare_head(headers: &mut HeaderMap) {
    if !prepare(headers) {
        headers.insert(DATE, date::value());
    }
}

/// The same for trailers, which do not.
pub(super) fn prepare_trailers(trailers: &mut HeaderMap) {
    prepare(trailers);
}

/// Over HTTP/2 it would be an error.
fn is_specific(name: &HeaderName) -> bool {
    match *name {
        CONNECTION | TRANSFER_ENCODING | UPGRADE | TE => true,
        _ => match name.as_str().len() {
            10 => *name == KEEP_ALIVE,
            16 => *name == PROXY_CONNECTION,
            _ => false,
        },
    }
}

/// Whether the library may remember it: it does so with all values but those that seldom come twice.
fn is_remembered(name: &HeaderName, value: &HeaderValue) -> bool {
    !value.is_sensitive()
        && !matches!(
            *name,
            AGE | AUTHORIZATION
                | CONTENT_LENGTH
                | ETAG
                | IF_MODIFIED_SINCE
                | IF_NONE_MATCH
                | LOCATION
                | COOKIE
                | SET_COOKIE
        )
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn shared(head: &Bytes, at: std::ops::Range<usize>) -> HeaderValue {
        HeaderValue::from_maybe_shared(head.slice(at)).unwrap()
    }

    #[test]
    fn what_is_remembered_keeps_no_buffer() {
        for length in [3, 2000] {
            let head = Bytes::from(vec![b'v'; 8192]);
            let mut headers = HeaderMap::new();
            headers.insert("content-type", shared(&head, 0..length));
            headers.append("x-own", shared(&head, 9..9 + length));
            headers.append("x-own", shared(&head, 30..32));
            headers.insert("date", shared(&head, 40..50));
            assert!(prepare(&mut headers));
            assert!(head.is_unique(), "nobody else has a part of it");
            let own: Vec<_> = headers.get_all("x-own").iter().map(HeaderValue::len).collect();
            assert_eq!((headers["content-type"].len(), &own[..]), (length, &[length, 2][..]));
            assert_eq!(headers["date"], "v".repeat(10));
        }
    }

    #[test]
    fn nothing_of_one_connection_goes_out_and_every_head_has_a_date() {
        let mut headers = HeaderMap::new();
        for name in
            ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade", "x-kept"]
        {
            headers.insert(name, HeaderValue::from_static("x"));
        }
        prepare_head(&mut headers);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["date", "x-kept"]);
        assert_eq!(headers["date"].len(), 29);
    }
}

//! The names by which a request can be found again: its id, and its W3C trace context.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::clock::UnixTime;

use super::fields::Lines;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Of an id that a client may choose.
const ID_BYTES_MAX: usize = 128;
/// Of an id that we make: a UUID with its dashes.
const ID_BYTES: usize = 36;

/// A request's id: a plain token of at most 128 bytes, so that it can stand in any log and any header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Id);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Id {
    /// As the client sent it.
    Kept(HeaderValue),
    /// In place, for most ids are made, and few of them are ever looked at.
    Made([u8; ID_BYTES]),
}

impl RequestId {
    /// The one that the client sent under this name, if it sent exactly one and that is a plain token (RFC 9110
    /// §5.6.2) of at most 128 bytes; else a new one.
    pub fn kept_or_made(headers: &HeaderMap, name: &HeaderName, now: UnixTime) -> Self {
        let mut sent = headers.get_all(name).iter();
        match (sent.next(), sent.next()) {
            (Some(value), None) if is_plain_token(value.as_bytes()) => Self(Id::Kept(value.clone())),
            _ => Self::made(now),
        }
    }

    /// A UUIDv7 of this time (RFC 9562 §5.7): 48 bits of milliseconds, 74 bits that nobody else has. Allocates nothing.
    pub fn made(now: UnixTime) -> Self {
        let (high, low) = (distinct(), distinct());
        let time = now.millis() << 16;
        let id = u128::from(time | 0x7000 | (high & 0x0fff)) << 64 | u128::from(low >> 2 | 1 << 63);
        let mut text = [b'-'; ID_BYTES];
        let (mut at, digits) = (0, hex(id));
        for group in [0..8, 8..12, 12..16, 16..20, 20..32] {
            let length = group.len();
            text[at..at + length].copy_from_slice(&digits[group]);
            at += length + 1;
        }
        Self(Id::Made(text))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        let text = match &self.0 {
            Id::Kept(value) => value.as_bytes(),
            Id::Made(text) => text,
        };
        std::str::from_utf8(text).expect("only tokens are kept and made")
    }

    /// As a header value; allocates one where the id was made.
    pub fn value(&self) -> HeaderValue {
        match &self.0 {
            Id::Kept(value) => value.clone(),
            Id::Made(text) => HeaderValue::from_bytes(text).expect("hex digits and dashes"),
        }
    }
}

/// Keeps a valid `traceparent` (W3C Trace Context §3.2) as it is; else makes one, not sampled, and drops `tracestate`,
/// which means nothing without the other (§3.3).
pub(super) fn keep_or_make_trace(headers: &mut HeaderMap, lines: &mut Lines) {
    let mut sent = headers.get_all(TRACEPARENT).iter();
    match (sent.next(), sent.next()) {
        (Some(value), None) if is_traceparent(value.as_bytes()) => return,
        (None, _) => {}
        _ => drop(headers.remove(TRACEPARENT)),
    }
    headers.remove(TRACESTATE);
    let trace = u128::from(distinct()) << 64 | u128::from(distinct()) | 1; // zero would be invalid
    lines.begin(&TRACEPARENT);
    lines.push(b"00-");
    lines.push(&hex(trace));
    lines.push(b"-");
    lines.push(&hex(u128::from(distinct() | 1))[16..]);
    lines.push(b"-00");
    lines.end();
}

/// 32 digits in lower case.
fn hex(number: u128) -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(number.to_be_bytes()) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

fn is_plain_token(value: &[u8]) -> bool {
    let tchar = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    (1..=ID_BYTES_MAX).contains(&value.len()) && value.iter().all(tchar)
}

fn is_traceparent(value: &[u8]) -> bool {
    let mut parts = value.splitn(5, |byte| *byte == b'-');
    let mut hex = |len: usize| {
        let part = parts.next()?;
        let good = part.len() == len && part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        good.then_some(part)
    };
    let (Some(version), Some(trace), Some(parent), Some(_flags)) = (hex(2), hex(32), hex(16), hex(2)) else {
        return false;
    };
    let nonzero = |part: &[u8]| part.iter().any(|digit| *digit != b'0');
    // Later versions may have more parts; version 00 has none, and ff is not a version.
    version != b"ff" && nonzero(trace) && nonzero(parent) && (version != b"00" || parts.next().is_none())
}

/// A number that nobody else has. Ids need to be distinct, not secret: each thread goes its own way (SplitMix64) from a
/// start that the system made at random.
fn distinct() -> u64 {
    thread_local! {
        static AT: Cell<u64> = Cell::new(RandomState::new().hash_one(0_u8));
    }
    let at = AT.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    AT.set(at);
    let mixed = (at ^ (at >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const NAME: HeaderName = HeaderName::from_static("x-request-id");

    fn id(values: &[&str]) -> RequestId {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(NAME, HeaderValue::from_str(value).unwrap());
        }
        RequestId::kept_or_made(&headers, &NAME, UnixTime::from_millis(0x0192_3456_789a))
    }

    #[test]
    fn keeps_a_plain_token_alone() {
        let long = "x".repeat(ID_BYTES_MAX);
        for kept in ["a", "req-1.2_3~4", &long] {
            assert_eq!(id(&[kept]).as_str(), kept);
        }
        for made in ["", "a b", "a,b", "a;b", "a\"b", "a/b", "é", &format!("{long}x")] {
            assert_ne!(id(&[made]).as_str(), made);
        }
        assert_eq!(id(&["a", "a"]).as_str().len(), 36);
    }

    #[test]
    fn a_made_id_is_a_uuid_of_its_time_and_distinct() {
        let text = id(&[]).as_str().to_owned();
        assert!(text.starts_with("01923456-789a-7"), "{text}");
        let uuid = uuid::Uuid::parse_str(&text).unwrap();
        assert_eq!((uuid.get_version_num(), uuid.get_variant()), (7, uuid::Variant::RFC4122));
        let many: HashSet<_> = (0..10_000).map(|_| id(&[]).as_str().to_owned()).collect();
        assert_eq!(many.len(), 10_000);
    }

    fn trace(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let mut lines = Lines::new();
        keep_or_make_trace(&mut headers, &mut lines);
        lines.append_to(&mut headers);
        headers
    }

    #[test]
    fn keeps_a_valid_trace_and_makes_one_for_all_else() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let kept = trace(&[("traceparent", good), ("tracestate", "a=b")]);
        assert_eq!(
            (&kept["traceparent"], &kept["tracestate"]),
            (&HeaderValue::from_static(good), &HeaderValue::from_static("a=b"))
        );
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert_eq!(trace(&[("traceparent", later)])["traceparent"], later);
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        ] {
            let made = trace(&[("traceparent", bad), ("tracestate", "a=b")]);
            assert!(is_traceparent(made["traceparent"].as_bytes()) && made["traceparent"] != bad, "{bad}");
            assert!(!made.contains_key("tracestate"));
        }
        assert_ne!(trace(&[("traceparent", good), ("traceparent", good)])["traceparent"], good);
    }
}

//! The names by which a request can be found again: its id, and its W3C trace context.

use std::hash::{BuildHasher, RandomState};

use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Builder;

use crate::clock::UnixTime;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

const ID_BYTES_MAX: usize = 128;

/// A request's id: a plain token of at most 128 bytes, so that it can stand in any log and any header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The one that the client sent under this name, if it sent exactly one and that is a plain token (RFC 9110
    /// §5.6.2) of at most 128 bytes; else a new one.
    pub fn kept_or_made(headers: &HeaderMap, name: &HeaderName, now: UnixTime) -> Self {
        let mut sent = headers.get_all(name).iter();
        match (sent.next(), sent.next()) {
            (Some(value), None) if is_plain_token(value.as_bytes()) => Self(value.clone()),
            _ => Self::made(now),
        }
    }

    /// A UUIDv7 of this time (RFC 9562 §5.7).
    pub fn made(now: UnixTime) -> Self {
        let mut random = [0; 10];
        random[..8].copy_from_slice(&distinct().to_ne_bytes());
        random[8..].copy_from_slice(&distinct().to_ne_bytes()[..2]);
        let id = Builder::from_unix_timestamp_millis(now.millis(), &random).into_uuid();
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        let text = id.hyphenated().encode_lower(&mut text);
        Self(HeaderValue::from_str(text).expect("hex digits and dashes"))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().expect("only tokens are kept and made")
    }

    /// As a header value.
    pub const fn value(&self) -> &HeaderValue {
        &self.0
    }
}

/// Keeps a valid `traceparent` (W3C Trace Context §3.2) as it is; else makes one, not sampled, and drops `tracestate`,
/// which means nothing without the other (§3.3).
pub(super) fn keep_or_make_trace(headers: &mut HeaderMap) {
    let mut sent = headers.get_all(TRACEPARENT).iter();
    if let (Some(value), None) = (sent.next(), sent.next())
        && is_traceparent(value.as_bytes())
    {
        return;
    }
    let trace = u128::from(distinct()) << 64 | u128::from(distinct()) | 1; // zero would be invalid
    let text = format!("00-{trace:032x}-{:016x}-00", distinct() | 1);
    headers.insert(TRACEPARENT, HeaderValue::try_from(text).expect("hex digits and dashes"));
    headers.remove(TRACESTATE);
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

/// A number that nobody else has. Ids need to be distinct, not secret, so this does without a system call: a hash
/// under keys that are random per thread and differ on each turn.
fn distinct() -> u64 {
    RandomState::new().hash_one(0_u8)
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
        let many: HashSet<_> = (0..10_000).map(|_| id(&[]).as_str().to_owned()).collect();
        assert_eq!(many.len(), 10_000);
    }

    fn trace(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        keep_or_make_trace(&mut headers);
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

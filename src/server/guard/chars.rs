//! Which bytes may stand where (RFC 9110 §5.6.2, RFC 3986 §2), as tables.

const TOKEN: u8 = 1;
const PATH: u8 = 2;
const QUERY: u8 = 4;
const NAME: u8 = 8;

static CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let b = i as u8;
        let mut class = 0;
        if b.is_ascii_alphanumeric() || member(b"!#$%&'*+-.^_`|~", b) {
            class |= TOKEN;
        }
        // More than RFC 3986 allows, because browsers and curl send them raw and no program frames them
        // differently; less than `http::Uri` takes: no byte over 0x7E, and no `#`, which it would cut off.
        if b.is_ascii_graphic() && !member(b"#<>?`", b) {
            class |= PATH;
        }
        if b.is_ascii_graphic() && !member(b"#<>\"", b) {
            class |= QUERY;
        }
        // Of RFC 3986's reg-name the unreserved characters alone: a comma joins two hosts, a percent sign hides one.
        if b.is_ascii_alphanumeric() || member(b"-._~", b) {
            class |= NAME;
        }
        table[i] = class;
        i += 1;
    }
    table
}

const fn member(set: &[u8], b: u8) -> bool {
    let mut i = 0;
    while i < set.len() {
        if set[i] == b {
            return true;
        }
        i += 1;
    }
    false
}

fn all(bytes: &[u8], class: u8) -> bool {
    bytes.iter().all(|&b| CLASS[b as usize] & class != 0)
}

/// A byte of a token (RFC 9110 §5.6.2).
pub(super) fn is_token(b: u8) -> bool {
    CLASS[b as usize] & TOKEN != 0
}

/// A token: not empty, and nothing else in it.
pub(super) fn token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && all(bytes, TOKEN)
}

/// No control character but the tab; bytes over 0x7F pass (obs-text, RFC 9110 §5.5). No branch in the loop, so that
/// it becomes vector instructions.
pub(super) fn no_control(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |bad, &b| bad | u8::from((b < 0x20) & (b != b'\t')) | u8::from(b == 0x7F)) == 0
}

/// A byte of a field value.
pub(super) const fn is_value(b: u8) -> bool {
    !(b < 0x20 && b != b'\t' || b == 0x7F)
}

/// The path and query of a request target; the path may be empty.
pub(super) fn path_and_query(bytes: &[u8]) -> bool {
    match memchr::memchr(b'?', bytes) {
        Some(at) => all(&bytes[..at], PATH) && all(&bytes[at + 1..], QUERY),
        None => all(bytes, PATH),
    }
}

/// `uri-host [ ":" port ]` (RFC 9110 §7.2): no user information, no empty host, no empty port.
pub(super) fn host_and_port(bytes: &[u8]) -> bool {
    if bytes.len() > 262 {
        return false; // 255 of a name, a colon, five digits; an address is shorter
    }
    let (host, rest) = if bytes.first() == Some(&b'[') {
        let Some(end) = memchr::memchr(b']', bytes) else { return false };
        let literal = std::str::from_utf8(&bytes[1..end]).ok();
        if literal.is_none_or(|text| text.parse::<std::net::Ipv6Addr>().is_err()) {
            return false;
        }
        (&bytes[..=end], &bytes[end + 1..])
    } else {
        let end = memchr::memchr(b':', bytes).unwrap_or(bytes.len());
        if !all(&bytes[..end], NAME) {
            return false;
        }
        (&bytes[..end], &bytes[end..])
    };
    !host.is_empty() && (rest.is_empty() || port(&rest[1..]) && rest[0] == b':')
}

fn port(digits: &[u8]) -> bool {
    (1..=5).contains(&digits.len())
        && digits.iter().all(u8::is_ascii_digit)
        && digits.iter().fold(0u32, |n, b| n * 10 + u32::from(b - b'0')) <= 65_535
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_hosts_and_nothing_that_could_be_two() {
        for good in ["a", "a.b", "a_b:80", "127.0.0.1:65535", "[::1]", "[::1]:8080", "a.b.", "x~y"] {
            assert!(host_and_port(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a:",
            "a:x",
            "a:65536",
            "a:000080",
            "a b",
            "a,b",
            "u@a",
            "a/b",
            "a%41",
            "[::1",
            "[]",
            "[::1]x",
            "[::1]:",
            "[1.2.3.4]",
            "a:80:80",
            "é",
            "a?b",
            "a#b",
            "a\\b",
        ] {
            assert!(!host_and_port(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn whatever_passes_as_a_target_is_a_uri() {
        for b in 0..=255u8 {
            for bytes in [vec![b'/', b], vec![b'/', b'?', b]] {
                if path_and_query(&bytes) {
                    let text = String::from_utf8(bytes.clone()).unwrap();
                    let uri: http::Uri = text.parse().unwrap();
                    assert_eq!(uri.to_string(), text, "taken, but changed");
                }
            }
        }
    }
}

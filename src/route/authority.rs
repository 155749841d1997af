//! Host and port of a request, in one spelling (RFC 3986 §3.2.2, RFC 9110 §7.2).

use std::borrow::Cow;
use std::net::Ipv6Addr;

use http::HeaderValue;
use thiserror::Error;

/// A host and maybe a port: lower case, without the root's dot, IPv6 literals in brackets and canonical, the port
/// without leading zeros. It is what is matched, and what the upstream gets as `Host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    value: HeaderValue,
    host_len: usize,
    port: Option<u16>,
}

/// The text is not a host with an optional port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a host name or address with an optional port")]
pub struct AuthorityError;

/// 253 characters of a name (RFC 1035 §2.3.4), and some room.
const HOST_BYTES_MAX: usize = 255;

impl Authority {
    /// Reads `host`, `host:port`, `[v6]`, `[v6]:port`. Shares the value's bytes when they are canonical already.
    ///
    /// # Errors
    /// For user information, a path, a percent escape, an empty host or label, an empty, zero or too large port.
    pub fn parse(value: &HeaderValue) -> Result<Self, AuthorityError> {
        let text = std::str::from_utf8(value.as_bytes()).map_err(|_| AuthorityError)?;
        let (raw_host, digits) = split(text).ok_or(AuthorityError)?;
        let port = digits.map(parse_port).transpose()?;
        let host = canonical_host(raw_host)?;
        let host_len = host.len();
        let canonical = host == raw_host && !digits.is_some_and(|digits| digits.starts_with('0'));
        let value = match port {
            _ if canonical => Ok(value.clone()),
            Some(port) => HeaderValue::try_from(format!("{host}:{port}")),
            None => HeaderValue::from_str(&host),
        };
        let value = value.map_err(|_| AuthorityError)?;
        Ok(Self { value, host_len, port })
    }

    /// The host alone.
    pub fn host(&self) -> &str {
        &self.as_str()[..self.host_len]
    }

    /// The port, where one was given.
    pub const fn port(&self) -> Option<u16> {
        self.port
    }

    /// `host` or `host:port`.
    pub fn as_str(&self) -> &str {
        self.value.to_str().expect("parse() admits visible ASCII only")
    }

    /// As the value of `Host`.
    pub const fn value(&self) -> &HeaderValue {
        &self.value
    }
}

/// A host name or address in canonical form; IPv6 literals may come with or without brackets.
pub(super) fn canonical_host(host: &str) -> Result<Cow<'_, str>, AuthorityError> {
    if is_canonical_name(host) {
        return Ok(Cow::Borrowed(host));
    }
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if bare.contains(':') {
        let address: Ipv6Addr = bare.parse().map_err(|_| AuthorityError)?;
        return Ok(Cow::Owned(format!("[{address}]")));
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let labels_good = name.split('.').all(|label| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    });
    if !labels_good || name.len() > HOST_BYTES_MAX {
        return Err(AuthorityError);
    }
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Ok(Cow::Owned(name.to_ascii_lowercase()));
    }
    Ok(Cow::Borrowed(name))
}

/// Nearly every host is; this says so in one look. A name that this refuses may be good all the same.
fn is_canonical_name(host: &str) -> bool {
    let mut previous = b'.';
    for &byte in host.as_bytes() {
        let label = byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        if !label && (byte != b'.' || previous == b'.') {
            return false;
        }
        previous = byte;
    }
    previous != b'.' && host.len() <= HOST_BYTES_MAX
}

fn split(text: &str) -> Option<(&str, Option<&str>)> {
    if text.starts_with('[') {
        let end = text.find(']')? + 1;
        let (host, rest) = text.split_at(end);
        if !host.contains(':') {
            return None; // brackets are for IPv6 alone
        }
        return if rest.is_empty() {
            Some((host, None))
        } else {
            Some((host, Some(rest.strip_prefix(':')?)))
        };
    }
    match text.split_once(':') {
        Some((host, port)) => Some((host, Some(port))),
        None => Some((text, None)),
    }
}

fn parse_port(digits: &str) -> Result<u16, AuthorityError> {
    let plain = !digits.is_empty() && digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let port = if plain { digits.parse().unwrap_or(0) } else { 0 };
    if port == 0 { Err(AuthorityError) } else { Ok(port) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<(&str, Option<u16>, &str)>) {
        let value = HeaderValue::from_bytes(text.as_bytes()).unwrap();
        let got = Authority::parse(&value).ok();
        let got = got.as_ref().map(|got| (got.host(), got.port(), got.as_str()));
        assert_eq!(got, expected, "for {text:?}");
    }

    #[test]
    fn brings_a_host_into_one_spelling() {
        check("example.com", Some(("example.com", None, "example.com")));
        check("EXAMPLE.com", Some(("example.com", None, "example.com")));
        check("example.com.", Some(("example.com", None, "example.com")));
        check("Example.com.:8080", Some(("example.com", Some(8080), "example.com:8080")));
        check("a_b.internal:080", Some(("a_b.internal", Some(80), "a_b.internal:80")));
        check("127.0.0.1:65535", Some(("127.0.0.1", Some(65535), "127.0.0.1:65535")));
        check("[::1]", Some(("[::1]", None, "[::1]")));
        check("[2001:DB8:0:0::1]:443", Some(("[2001:db8::1]", Some(443), "[2001:db8::1]:443")));
        check(&"a".repeat(255), Some((&"a".repeat(255), None, &"a".repeat(255))));
    }

    #[test]
    fn refuses_what_is_not_a_host_and_port() {
        for text in [
            "",
            ".",
            "..",
            ".a",
            "a..b",
            ":80",
            "a:",
            "a:0",
            "a:65536",
            "a:+80",
            "a:80:80",
            "a:8a",
            "a:000080",
            "user@a",
            "user:pw@a",
            "a/b",
            "/",
            "a b",
            "a,b",
            "a%2eb",
            "a?b",
            "a#b",
            "a\\b",
            "*",
            "*.a",
            "::1",
            "[::1",
            "[::1]80",
            "[::1]:",
            "[fe80::1%25eth0]",
            "[v1.a]",
            "[a]",
            "[1.2.3.4]",
            "[]",
            "caf\u{e9}",
            "a]",
        ] {
            check(text, None);
        }
        check(&"a".repeat(256), None);
    }
}

//! Small tools over header maps, thrifty with allocations.

use std::borrow::Cow;
use std::io::Write as _;
use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};

/// Removals noted without an allocation; a message with more is rebuilt.
const FEW: usize = 8;

/// Keeps the fields whose names `keep` wants. Linear in the number of fields, and free of allocation when few go.
pub(super) fn retain(headers: &mut HeaderMap, mut keep: impl FnMut(&HeaderName) -> bool) {
    let mut doomed: [Option<HeaderName>; FEW] = Default::default();
    let mut free = doomed.iter_mut();
    for name in headers.keys().filter(|name| !keep(name)) {
        match free.next() {
            Some(place) => *place = Some(name.clone()),
            None => return rebuild(headers, keep),
        }
    }
    for name in doomed.into_iter().flatten() {
        headers.remove(name);
    }
}

fn rebuild(headers: &mut HeaderMap, mut keep: impl FnMut(&HeaderName) -> bool) {
    let old = std::mem::take(headers);
    headers.reserve(old.keys_len());
    let mut current = None; // a name comes with the first of its values alone
    for (name, value) in old {
        if let Some(name) = name {
            current = keep(&name).then_some(name);
        }
        if let Some(name) = &current {
            headers.append(name.clone(), value);
        }
    }
}

/// Of letters, digits and `-` alone, as every name that we write or judge. CGI makes a variable of a name, and with it
/// one name of several: `_` for `-` at most programs, for all other punctuation, too, at some (lighttpd, older Apache).
pub(super) fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// The plain name that such a program would see.
pub(super) fn fold(name: &str) -> Cow<'_, str> {
    if is_plain(name) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect())
}

/// The members of a comma-separated list (RFC 9110 §5.6.1), empty ones left out.
pub(super) fn members(value: &HeaderValue) -> impl Iterator<Item = &str> {
    let text = std::str::from_utf8(value.as_bytes()).unwrap_or_default();
    text.split(',').map(str::trim).filter(|member| !member.is_empty())
}

/// Fields of ours, written once, the way they go over the wire in HTTP/1.1: `name: value CRLF` each. A map of them would
/// be hashed and filled only to be written out again, field by field; where a map is wanted all the same (HTTP/2, or a
/// route that changes fields), [`Lines::append_to`] makes one.
///
/// Whoever writes them vouches for their form: values are made of header values and of visible ASCII.
#[derive(Debug, Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// None yet, and room for those that there usually are.
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(768))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A field begins.
    pub(super) fn begin(&mut self, name: &HeaderName) {
        self.push(name.as_str().as_bytes());
        self.push(b": ");
    }

    /// Its value goes on.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// All values of a field that stands in the map, and the separator after each.
    pub(super) fn push_all(&mut self, headers: &HeaderMap, name: &HeaderName, separator: &[u8]) {
        for value in headers.get_all(name) {
            self.push(value.as_bytes());
            self.push(separator);
        }
    }

    /// An address as `Display` writes it; the common kind without the machinery of formatting.
    pub(super) fn push_address(&mut self, address: IpAddr) {
        let IpAddr::V4(address) = address else {
            // Writing to memory does not fail.
            let _ = write!(self.0, "{address}");
            return;
        };
        for (index, octet) in address.octets().into_iter().enumerate() {
            if index > 0 {
                self.0.push(b'.');
            }
            if octet >= 100 {
                self.0.push(b'0' + octet / 100);
            }
            if octet >= 10 {
                self.0.push(b'0' + octet / 10 % 10);
            }
            self.0.push(b'0' + octet % 10);
        }
    }

    /// The field ends.
    pub(super) fn end(&mut self) {
        self.push(b"\r\n");
    }

    /// One whole field.
    pub(super) fn field(&mut self, name: &HeaderName, value: &[u8]) {
        self.begin(name);
        self.push(value);
        self.end();
    }

    /// Adds the fields to a map.
    pub fn append_to(&self, headers: &mut HeaderMap) {
        let mut rest = &self.0[..];
        while let Some(end) = memchr::memmem::find(rest, b"\r\n") {
            let (line, next) = (&rest[..end], &rest[end + 2..]);
            rest = next;
            let Some(colon) = memchr::memchr(b':', line) else { continue };
            let name = HeaderName::from_bytes(&line[..colon]);
            let value = HeaderValue::from_bytes(line.get(colon + 2..).unwrap_or_default());
            if let (Ok(name), Ok(value)) = (name, value) {
                headers.append(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_wanted_whether_few_or_many_go() {
        for doomed in [0, 1, FEW, FEW + 1, 50] {
            let mut headers = HeaderMap::new();
            for i in 0..doomed {
                headers.append(HeaderName::try_from(format!("drop-{i}")).unwrap(), HeaderValue::from(i));
            }
            for value in ["1", "2"] {
                headers.append("keep", HeaderValue::from_static(value));
            }
            retain(&mut headers, |name| !name.as_str().starts_with("drop"));
            assert_eq!(headers.len(), 2, "of {doomed}");
            assert_eq!(headers.get_all("keep").iter().collect::<Vec<_>>(), ["1", "2"]);
        }
    }

    #[test]
    fn lines_are_what_a_map_of_them_is() {
        let mut lines = Lines::new();
        lines.field(&http::header::VIA, b"1.1 a");
        lines.begin(&http::header::FORWARDED);
        for (address, text) in
            [("192.0.2.9", "192.0.2.9"), ("0.10.100.255", "0.10.100.255"), ("2001:db8::1", "2001:db8::1")]
        {
            lines.push_address(address.parse().unwrap());
            assert!(lines.as_bytes().ends_with(text.as_bytes()), "{text}");
            lines.push(b" ");
        }
        lines.end();
        lines.field(&http::header::HOST, b"");
        let mut headers = HeaderMap::new();
        headers.append(http::header::VIA, HeaderValue::from_static("1.0 b"));
        lines.append_to(&mut headers);
        assert_eq!(headers.get_all("via").iter().collect::<Vec<_>>(), ["1.0 b", "1.1 a"]);
        assert_eq!(headers["forwarded"], "192.0.2.9 0.10.100.255 2001:db8::1 ");
        assert_eq!((headers.len(), &headers["host"]), (4, &HeaderValue::from_static("")));
    }

    #[test]
    fn lists_members_without_empty_ones() {
        let value = HeaderValue::from_static(" a,, B ,\tc , ");
        assert_eq!(members(&value).collect::<Vec<_>>(), ["a", "B", "c"]);
    }
}

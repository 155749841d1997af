//! Small tools over header maps, thrifty with allocations.

use std::borrow::Cow;
use std::fmt;

use bytes::BytesMut;
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

/// Where the values of one message are written, one after the other, into shared allocations.
pub(super) struct Scratch(BytesMut);

impl Scratch {
    pub(super) fn new() -> Self {
        Self(BytesMut::with_capacity(512))
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// All values of a field and the separator after each.
    pub(super) fn push_all(&mut self, headers: &HeaderMap, name: &HeaderName, separator: &[u8]) {
        for value in headers.get_all(name) {
            self.push(value.as_bytes());
            self.push(separator);
        }
    }

    /// What was pushed since the last turn becomes the only value of this field.
    pub(super) fn set(&mut self, headers: &mut HeaderMap, name: impl http::header::IntoHeaderName) {
        let value = HeaderValue::from_maybe_shared(self.0.split().freeze());
        headers.insert(name, value.expect("made of header values and visible ASCII"));
    }
}

impl fmt::Write for Scratch {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
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
    fn lists_members_without_empty_ones() {
        let value = HeaderValue::from_static(" a,, B ,\tc , ");
        assert_eq!(members(&value).collect::<Vec<_>>(), ["a", "B", "c"]);
    }
}

//! Identity fields: always removed from what the client sent, set only from what was verified.

use std::collections::HashSet;

use http::HeaderName;

use crate::route::settings::IdentityHeaders;

use super::fields::{Lines, fold};

/// What was verified about the sender of a request.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// `sub`.
    pub subject: Option<&'a str>,
    /// `sid`.
    pub session: Option<&'a str>,
    /// Token id.
    pub token_id: &'a str,
    /// Granted scopes; the field has a space between each two, and is left out when there are none.
    pub scope: &'a [Box<str>],
    /// The issuer's name.
    pub issuer: &'a str,
}

/// Names that no client may send, in any spelling.
#[derive(Clone, Debug, Default)]
pub(super) struct Reserved {
    folded: HashSet<Box<str>>,
    /// Bit n: some name has n bytes (the last bit: 127 or more). Spares most names the hash.
    lengths: u128,
}

impl Reserved {
    pub(super) fn insert(&mut self, name: &HeaderName) {
        let folded = fold(name.as_str());
        self.lengths |= length_bit(&folded);
        self.folded.insert(folded.into());
    }

    pub(super) fn insert_all(&mut self, names: &IdentityHeaders) {
        let IdentityHeaders { subject, session, token, scope, issuer } = names;
        for name in [subject, session, token, scope, issuer].into_iter().flatten() {
            self.insert(name);
        }
    }

    /// `folded` as [`fold`] gives it.
    pub(super) fn covers(&self, folded: &str) -> bool {
        self.lengths & length_bit(folded) != 0 && self.folded.contains(folded)
    }
}

/// Writes the fields that the route names and the token has.
pub(super) fn write(names: &IdentityHeaders, identity: &Identity<'_>, lines: &mut Lines) {
    let mut one = |name: &Option<HeaderName>, value: Option<&str>| {
        if let (Some(name), Some(value)) = (name, value) {
            lines.begin(name);
            push_encoded(value, lines);
            lines.end();
        }
    };
    one(&names.subject, identity.subject);
    one(&names.session, identity.session);
    one(&names.token, Some(identity.token_id));
    one(&names.issuer, Some(identity.issuer));
    if let (Some(name), [first, rest @ ..]) = (&names.scope, identity.scope) {
        lines.begin(name);
        push_encoded(first, lines);
        for scope in rest {
            lines.push(b" ");
            push_encoded(scope, lines);
        }
        lines.end();
    }
}

/// Bytes outside visible ASCII and `% , ; "` as `%XX`: one value stays one value for whoever splits lists or
/// parameters, and decoding gives back exactly what the token said.
fn push_encoded(value: &str, lines: &mut Lines) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut rest = value.as_bytes();
    // Nearly always. Without a way out of the loop, the compiler takes many bytes at once.
    if rest.iter().fold(true, |plain, &byte| plain & is_plain(byte)) {
        return lines.push(rest);
    }
    while let Some(at) = rest.iter().position(|&byte| !is_plain(byte)) {
        let byte = rest[at];
        lines.push(&rest[..at]);
        lines.push(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        rest = &rest[at + 1..];
    }
    lines.push(rest);
}

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'%' | b',' | b';' | b'"')
}

fn length_bit(name: &str) -> u128 {
    1 << name.len().min(127)
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;

    use super::*;

    fn written(subject: &str) -> String {
        let identity =
            Identity { subject: Some(subject), session: None, token_id: "", scope: &[], issuer: "" };
        let (mut headers, mut lines) = (HeaderMap::new(), Lines::new());
        write(&IdentityHeaders::default(), &identity, &mut lines);
        lines.append_to(&mut headers);
        headers["x-auth-subject"].to_str().unwrap().to_owned()
    }

    #[test]
    fn encodes_what_could_be_read_as_something_else() {
        for (subject, value) in [
            ("user-1@example.com", "user-1@example.com"),
            ("a b", "a%20b"),
            ("100%,;\"", "100%25%2C%3B%22"),
            ("é\n\u{0}", "%C3%A9%0A%00"),
            ("", ""),
            (",a,", "%2Ca%2C"),
        ] {
            assert_eq!(written(subject), value, "for {subject:?}");
        }
    }

    #[test]
    fn sets_what_the_route_names_and_the_token_has() {
        let scope = ["read".into(), "a b".into()];
        let identity =
            Identity { subject: None, session: Some("s"), token_id: "t", scope: &scope, issuer: "self" };
        let names = IdentityHeaders { issuer: None, ..IdentityHeaders::default() };
        let (mut headers, mut lines) = (HeaderMap::new(), Lines::new());
        write(&names, &identity, &mut lines);
        lines.append_to(&mut headers);
        assert_eq!(headers.len(), 3);
        assert_eq!(headers["x-auth-session"], "s");
        assert_eq!(headers["x-auth-token-id"], "t");
        assert_eq!(headers["x-auth-scope"], "read a%20b");
    }

    #[test]
    fn reserves_every_spelling() {
        let mut reserved = Reserved::default();
        reserved.insert(&HeaderName::from_static("x_auth-user"));
        for name in ["x-auth-user", "x_auth_user", "x-auth_user", "X-Auth-User"] {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            assert!(reserved.covers(&fold(name.as_str())), "{name}");
        }
        assert!(!reserved.covers("x-auth-usr") && !reserved.covers("y-auth-user"));
    }

    proptest! {
        #[test]
        fn decoding_gives_back_the_subject(subject in ".*") {
            let value = written(&subject);
            prop_assert!(value.bytes().all(|byte| is_plain(byte) || byte == b'%'));
            prop_assert_eq!(percent_encoding::percent_decode_str(&value).decode_utf8().unwrap(), subject);
        }
    }
}

//! Identity fields: always removed from what the client sent, set only from what was verified.

use std::collections::HashSet;

use http::{HeaderMap, HeaderName};

use crate::route::settings::IdentityHeaders;

use super::fields::{Scratch, fold};

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

/// Sets the fields that the route names and the token has.
pub(super) fn write(
    headers: &mut HeaderMap,
    names: &IdentityHeaders,
    identity: &Identity<'_>,
    scratch: &mut Scratch,
) {
    let mut one = |name: &Option<HeaderName>, value: Option<&str>| {
        if let (Some(name), Some(value)) = (name, value) {
            push_encoded(value, scratch);
            scratch.set(headers, name.clone());
        }
    };
    one(&names.subject, identity.subject);
    one(&names.session, identity.session);
    one(&names.token, Some(identity.token_id));
    one(&names.issuer, Some(identity.issuer));
    if let (Some(name), [first, rest @ ..]) = (&names.scope, identity.scope) {
        push_encoded(first, scratch);
        for scope in rest {
            scratch.push(b" ");
            push_encoded(scope, scratch);
        }
        scratch.set(headers, name.clone());
    }
}

/// Bytes outside visible ASCII and `% , ; "` as `%XX`: one value stays one value for whoever splits lists or
/// parameters, and decoding gives back exactly what the token said.
fn push_encoded(value: &str, scratch: &mut Scratch) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for run in value.as_bytes().chunk_by(|a, b| is_plain(*a) && is_plain(*b)) {
        match run {
            [byte] if !is_plain(*byte) => {
                scratch.push(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
            plain => scratch.push(plain),
        }
    }
}

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'%' | b',' | b';' | b'"')
}

fn length_bit(name: &str) -> u128 {
    1 << name.len().min(127)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(subject: &str) -> String {
        let identity =
            Identity { subject: Some(subject), session: None, token_id: "", scope: &[], issuer: "" };
        let mut headers = HeaderMap::new();
        write(&mut headers, &IdentityHeaders::default(), &identity, &mut Scratch::new());
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
        let mut headers = HeaderMap::new();
        write(&mut headers, &names, &identity, &mut Scratch::new());
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

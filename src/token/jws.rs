//! The outer form of a token: compact serialization and header (RFC 7515 §7.1, §4.1).

use std::cell::RefCell;
use std::rc::Rc;

use serde_json::Value;

use super::claims::{NAME_BYTES_MAX, usable};
use super::{Algorithm, Claims, Part, VerifyError, decode_base64url, json_object};

/// A compact JWS (RFC 7515 §7.1), taken apart.
pub(super) struct Jws<'a> {
    /// Header and claims with the dot between: what is signed.
    pub(super) signed: &'a str,
    pub(super) header: &'a str,
    pub(super) claims: &'a str,
    pub(super) signature: &'a str,
}

impl<'a> Jws<'a> {
    pub(super) fn split(text: &'a str, token_bytes_max: usize) -> Result<Self, VerifyError> {
        if text.len() > token_bytes_max {
            return Err(VerifyError::TooLong);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(VerifyError::Parts)?;
        let (header, claims) = signed.split_once('.').ok_or(VerifyError::Parts)?;
        if claims.contains('.') {
            return Err(VerifyError::Parts); // five parts: a JWE
        }
        Ok(Self { signed, header, claims, signature })
    }

    /// The object of this part.
    pub(super) fn object(&self, part: Part, text: &str) -> Result<Claims, VerifyError> {
        let bytes = decode_base64url(text).map_err(|_| VerifyError::Encoding(part))?;
        json_object(&bytes).map_err(|why| VerifyError::Json(part, why))
    }
}

/// What of the header counts. `jwk`, `jku`, `x5u`, `x5c` and the like do not: a key that a token brings along proves
/// nothing (RFC 8725 §3.10).
pub(super) struct Header<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<&'a str>,
    pub(super) typ: Option<&'a str>,
}

impl<'a> Header<'a> {
    pub(super) fn read(header: &'a Claims) -> Result<Self, VerifyError> {
        let text = |name: &'static str| match header.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(VerifyError::Header(name)),
        };
        if header.contains_key("crit") || header.contains_key("b64") {
            return Err(VerifyError::Extension);
        }
        let algorithm = text("alg")?.ok_or(VerifyError::Header("alg"))?;
        let key_id = text("kid")?;
        if key_id.is_some_and(|id| usable(id, NAME_BYTES_MAX).is_none()) {
            return Err(VerifyError::Header("kid"));
        }
        // `none` is no Algorithm, so it ends here.
        let algorithm = algorithm.parse().map_err(|_| VerifyError::Algorithm)?;
        Ok(Self { algorithm, key_id, typ: text("typ")? })
    }
}

/// Headers as long as this are remembered, and so many of them by each thread: an issuer has one for each of its keys.
const SEEN_BYTES_MAX: usize = 256;
const SEEN: usize = 4;

/// What a header said that began a good token. All tokens of a key begin with the same bytes, so that these are
/// recognised, and neither decoded nor parsed again. Forgeries cannot push one out: only good tokens leave theirs.
pub(super) struct Seen {
    text: Box<str>,
    algorithm: Algorithm,
    key_id: Option<Box<str>>,
    typ: Option<Box<str>>,
}

thread_local! {
    static RECENT: RefCell<([Option<Rc<Seen>>; SEEN], usize)> = RefCell::default();
}

impl Seen {
    /// What this text said, if it did so on this thread lately.
    pub(super) fn find(text: &str) -> Option<Rc<Self>> {
        RECENT.with_borrow(|(recent, _)| recent.iter().flatten().find(|seen| *seen.text == *text).cloned())
    }

    /// Remembers it, in place of the oldest.
    pub(super) fn remember(text: &str, header: &Header<'_>) {
        if text.len() > SEEN_BYTES_MAX {
            return;
        }
        let &Header { algorithm, key_id, typ } = header;
        let seen =
            Self { text: text.into(), algorithm, key_id: key_id.map(Into::into), typ: typ.map(Into::into) };
        RECENT.with_borrow_mut(|(recent, next)| {
            recent[*next % SEEN] = Some(Rc::new(seen));
            *next = (*next + 1) % SEEN;
        });
    }

    /// As it was read.
    pub(super) fn header(&self) -> Header<'_> {
        Header { algorithm: self.algorithm, key_id: self.key_id.as_deref(), typ: self.typ.as_deref() }
    }
}

/// Whether two media types are the same; `application/` may be left out where no other `/` is (RFC 7515 §4.1.9).
pub(super) fn is_media_type(one: &str, other: &str) -> bool {
    fn short(typ: &str) -> &str {
        const PREFIX: &str = "application/";
        match typ.split_at_checked(PREFIX.len()) {
            Some((prefix, rest)) if prefix.eq_ignore_ascii_case(PREFIX) && !rest.contains('/') => rest,
            _ => typ,
        }
    }
    short(one).eq_ignore_ascii_case(short(other))
}

//! The outer form of a token: compact serialization and header (RFC 7515 §7.1, §4.1).

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

    /// The object of this part, and its text.
    pub(super) fn object(&self, part: Part, text: &str) -> Result<(Claims, Vec<u8>), VerifyError> {
        let bytes = decode_base64url(text).map_err(|_| VerifyError::Encoding(part))?;
        let object = json_object(&bytes).map_err(|why| VerifyError::Json(part, why))?;
        Ok((object, bytes))
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

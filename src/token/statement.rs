//! JWTs that state something and open nothing: security event tokens (RFC 8417), logout tokens (OpenID Connect
//! Back-Channel Logout), client assertions (RFC 7523).
//!
//! What comes out of [`verify_statement`] is no [`super::VerifiedToken`], so none of them can pass for an access token
//! whatever its claims are; and whoever takes one looks at its `typ` and at claims that no access token has, so that
//! no access token passes for a statement (RFC 8725 §3.11, §3.12).

use serde_json::Value;

use super::claims;
use super::jws::{Header, Jws, is_media_type};
use super::{Claims, KeySet, Part, VerifyError, decode_base64url};
use crate::clock::UnixTime;

/// A well-signed JWT; nothing but its form and its signature has been checked.
#[derive(Clone, Debug)]
pub struct Statement {
    typ: Option<Box<str>>,
    claims: Claims,
}

/// Verifies a compact JWT that is no credential, with the keys that `keys` gives for its `iss`. As strict in its form
/// as [`super::verify`]; what the claims say is for the caller to judge.
///
/// # Errors
/// See [`VerifyError`]; none about claims but `iss`.
pub fn verify_statement<'k>(
    text: &str,
    bytes_max: usize,
    keys: impl FnOnce(Option<&str>) -> Option<&'k KeySet>,
    now: UnixTime,
) -> Result<Statement, VerifyError> {
    let jws = Jws::split(text, bytes_max)?;
    let header = jws.object(Part::Header, jws.header)?;
    let claims = jws.object(Part::Claims, jws.claims)?;
    let signature = decode_base64url(jws.signature).map_err(|_| VerifyError::Encoding(Part::Signature))?;
    let header = Header::read(&header)?;
    let keys = keys(claims::text(&claims, "iss")?).ok_or(VerifyError::UnknownIssuer)?;
    keys.check(header.key_id, header.algorithm, now, jws.signed.as_bytes(), &signature)?;
    Ok(Statement { typ: header.typ.map(Into::into), claims })
}

impl Statement {
    /// Whether its `typ` is this media type; `None`: whether it has none.
    pub fn is_typed(&self, kind: Option<&str>) -> bool {
        match (&self.typ, kind) {
            (None, None) => true,
            (Some(typ), Some(kind)) => is_media_type(typ, kind),
            _ => false,
        }
    }

    /// A claim as it is.
    pub fn claim(&self, name: &str) -> Option<&Value> {
        self.claims.get(name)
    }

    /// A claim that must be a string when it is there.
    ///
    /// # Errors
    /// [`VerifyError::ClaimType`].
    pub fn text(&self, name: &str) -> Result<Option<&str>, VerifyError> {
        claims::text(&self.claims, name)
    }

    /// A claim that must be there as a string of 1 to `bytes_max` bytes without control characters.
    ///
    /// # Errors
    /// [`VerifyError::ClaimMissing`], [`VerifyError::ClaimType`], [`VerifyError::ClaimName`].
    pub fn name(&self, name: &str, bytes_max: usize) -> Result<&str, VerifyError> {
        let text = self.text(name)?.ok_or_else(|| VerifyError::ClaimMissing(name.into()))?;
        claims::usable(text, bytes_max).ok_or_else(|| VerifyError::name(name))
    }

    /// A NumericDate (RFC 7519 §2).
    ///
    /// # Errors
    /// [`VerifyError::ClaimType`].
    pub fn date(&self, name: &str) -> Result<Option<UnixTime>, VerifyError> {
        claims::date(&self.claims, name)
    }

    /// That `aud` is well typed and, where `wanted` has any, names one of them.
    ///
    /// # Errors
    /// [`VerifyError::Audience`], [`VerifyError::ClaimType`].
    pub fn audience(&self, wanted: &[Box<str>]) -> Result<(), VerifyError> {
        claims::audience(&self.claims, wanted)
    }

    /// That `nbf` and `iat`, where they are there, lie no further ahead than `latest`, and that `exp`, where it is
    /// there, lies behind `earliest`.
    ///
    /// # Errors
    /// [`VerifyError::NotYetValid`], [`VerifyError::IssuedInFuture`], [`VerifyError::Expired`],
    /// [`VerifyError::ClaimType`].
    pub fn times(&self, earliest: UnixTime, latest: UnixTime) -> Result<(), VerifyError> {
        let later = |name| self.date(name).map(|at| at.is_some_and(|at| at > latest));
        if later("nbf")? {
            return Err(VerifyError::NotYetValid);
        }
        if later("iat")? {
            return Err(VerifyError::IssuedInFuture);
        }
        match self.date("exp")? {
            Some(end) if end <= earliest => Err(VerifyError::Expired),
            _ => Ok(()),
        }
    }
}

/// A NumericDate out of a value that is no claim of its own; `None` for what is none.
pub fn numeric_date(value: &Value) -> Option<UnixTime> {
    claims::numeric_date(value)
}

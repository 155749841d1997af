//! On what terms tokens of an issuer are accepted, and what of that can be checked without the time.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::claims;
use super::json::{Member, Members};
use super::jws::is_media_type;
use super::{ClaimNames, KeySet, TokenType, VerifyError};
use crate::clock::UnixTime;

/// On what terms tokens of one issuer are accepted.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The issuer's name in the configuration.
    pub issuer: Arc<str>,
    /// What verifies its tokens.
    pub keys: Arc<KeySet>,
    /// One of these must be in `aud`; empty: a token with any or no `aud` is accepted.
    pub audience: Vec<Box<str>>,
    /// How long after `exp` a token is still good.
    pub leeway: Duration,
    /// How far `iat` and `nbf` may lie in the future.
    pub skew: Duration,
    /// The longest `exp − iat` (from now, where there is no `iat`).
    pub lifetime_max: Duration,
    /// Claims that must be present, beside `exp`.
    pub require: Vec<Box<str>>,
    /// Which `typ` headers are accepted.
    pub typ: Typ,
    /// Under which names claims are looked up.
    pub claims: ClaimNames,
    /// Claims that can be revoked by: their values must be usable.
    pub revocable: Arc<[Box<str>]>,
    /// How freshness is told.
    pub fresh: Fresh,
}

/// Which kinds of JWT are accepted, by the header `typ` (RFC 8725 §3.11), compared as media types: without regard to
/// case, with or without `application/`. `logout+jwt`, `secevent+jwt` and `dpop+jwt` never are: they are no access and no
/// refresh tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typ {
    /// Any or none.
    Any,
    /// Only these.
    Listed(Vec<Box<str>>),
    /// Our own: `at+jwt` for access, `JWT` for refresh, and the type claim must be there.
    Own,
}

/// How a token tells that it comes of a recent password sign-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fresh {
    /// `fresh: true` holds for so long after `iat`.
    For(Duration),
    /// `fresh: true` holds as long as the token, a number until then (flask-jwt-extended).
    Claimed,
}

impl Typ {
    pub(super) fn admits(&self, typ: Option<&str>) -> Result<(), VerifyError> {
        let is = |kind: &str| typ.is_some_and(|typ| is_media_type(typ, kind));
        if ["logout+jwt", "secevent+jwt", "dpop+jwt"].into_iter().any(is) {
            return Err(VerifyError::Typ);
        }
        let good = match self {
            Self::Any => true,
            Self::Listed(kinds) => kinds.iter().any(|kind| is(kind)),
            Self::Own => is("at+jwt") || is("jwt"),
        };
        if good { Ok(()) } else { Err(VerifyError::Typ) }
    }
}

impl Terms {
    /// Types of the registered claims that are read nowhere else, presence of the required ones.
    pub(super) fn check_form(&self, claims: &impl Members) -> Result<(), VerifyError> {
        claims::text(claims, "sub")?;
        claims::text(claims, "jti")?;
        // An object of events is what makes a JWT a security event or logout token (RFC 8417 §2.2), also where its
        // sender has left `typ` out.
        if claims.member("events").and_then(Member::other).is_some_and(Value::is_object) {
            return Err(VerifyError::Typ);
        }
        // `null` says nothing, so it does not count as present.
        let is_missing = |name: &str| matches!(claims.member(name), None | Some(Member::Other(Value::Null)));
        match self.require.iter().find(|name| is_missing(name)) {
            Some(name) => Err(VerifyError::ClaimMissing(name.clone())),
            None => Ok(()),
        }
    }

    /// Another type than the two (`id`, say) is refused: an ID token opens nothing.
    pub(super) fn token_type(
        &self,
        claims: &impl Members,
        typ: Option<&str>,
    ) -> Result<TokenType, VerifyError> {
        let member = self.claims.token_type.iter().find_map(|name| claims.member(name));
        let token_type = match member {
            None if self.typ == Typ::Own => return Err(VerifyError::TokenType),
            None => TokenType::Access,
            Some(member) => match member.text() {
                Some("access") => TokenType::Access,
                Some("refresh") => TokenType::Refresh,
                _ => return Err(VerifyError::TokenType),
            },
        };
        let kind = match token_type {
            TokenType::Access => "at+jwt",
            TokenType::Refresh => "JWT",
        };
        if self.typ == Typ::Own && !typ.is_some_and(|typ| is_media_type(typ, kind)) {
            return Err(VerifyError::Typ);
        }
        Ok(token_type)
    }
}

impl Fresh {
    pub(super) fn until(
        self,
        claims: &impl Members,
        issued_at: Option<UnixTime>,
        expires_at: UnixTime,
    ) -> Option<UnixTime> {
        match (self, claims.member("fresh")?.other()?) {
            (Self::For(long), Value::Bool(true)) => issued_at.map(|at| at.plus(long)),
            (Self::Claimed, Value::Bool(true)) => Some(expires_at),
            (Self::Claimed, value @ Value::Number(_)) => claims::numeric_date(value),
            _ => None,
        }
    }
}

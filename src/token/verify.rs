//! Token, whose it may be, now → [`Verified`]. One pass in a fixed order, each check an early exit; nothing in the
//! token is believed before its signature, except `iss` and `kid` to choose among what is configured.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;

use super::claims::{self, NAME_BYTES_MAX, SUBJECT_BYTES_MAX};
use super::json::{FlatObject, Members};
use super::jws::{Header, Jws, Seen};
use super::steps::OrNone;
use super::{
    Binding, Claims, KeptClaims, Part, Step, Steps, Terms, VerifiedToken, VerifyError, decode_base64url,
    encode_base64url,
};
use crate::clock::UnixTime;

/// A token that is good in everything but perhaps its expiry.
#[derive(Clone, Debug)]
pub struct Verified {
    /// What it says.
    pub token: VerifiedToken,
    /// `exp` and the leeway: from then on it is expired.
    pub good_until: UnixTime,
    /// From then on its key verifies nothing, if there is such a time.
    pub key_until: Option<UnixTime>,
}

impl Verified {
    /// Whether its time is over.
    pub fn is_expired(&self, now: UnixTime) -> bool {
        now >= self.good_until
    }
}

/// Verifies a compact JWT at `now`. `issuer` gives the terms for an `iss`, or for a token without one; `steps` is
/// told of each step passed (`&mut ()` when nobody cares). Expiry is left to the caller ([`Verified::is_expired`]), so
/// that logout and RFC 7009 can take an expired token: everything else has been checked when this returns.
///
/// Costs one signature check, two JSON objects and the allocation of what they hold.
///
/// # Errors
/// See [`VerifyError`]; never [`VerifyError::Expired`].
pub fn verify<'t>(
    text: &str,
    token_bytes_max: usize,
    issuer: impl FnOnce(Option<&str>) -> Option<&'t Terms>,
    now: UnixTime,
    steps: &mut impl Steps,
) -> Result<Verified, VerifyError> {
    let jws = Jws::split(text, token_bytes_max)?;
    let seen = Seen::find(jws.header);
    let object = if seen.is_none() { jws.object(Part::Header, jws.header)? } else { Claims::new() };
    let json = decode_base64url(jws.claims).map_err(|_| VerifyError::Encoding(Part::Claims))?;
    let claims = FlatObject::read(&json).map_err(|why| VerifyError::Json(Part::Claims, why))?;
    let signature = decode_base64url(jws.signature).map_err(|_| VerifyError::Encoding(Part::Signature))?;
    steps.passed(Step::Form, format_args!("three parts of strict base64url, two JSON objects"));

    let header = match &seen {
        Some(seen) => seen.header(),
        None => Header::read(&object)?,
    };
    steps.passed(Step::Header, format_args!("alg {:?}, kid {}", header.algorithm, OrNone(header.key_id)));
    let terms = issuer(claims::text(&claims, "iss")?).ok_or(VerifyError::UnknownIssuer)?;
    steps.passed(Step::Issuer, format_args!("{:?}", terms.issuer));
    terms.typ.admits(header.typ)?;
    steps.passed(Step::Typ, format_args!("{}", OrNone(header.typ)));
    let checked = terms.keys.check(header.key_id, header.algorithm, now, jws.signed.as_bytes(), &signature);
    // Where nothing but the signature is wrong, the key was found.
    if let Ok(_) | Err(VerifyError::Signature) = &checked {
        let id = checked.as_ref().map_or(header.key_id, |key| key.id);
        steps.passed(Step::Key, format_args!("{}, which is for {:?}", OrNone(id), header.algorithm));
    }
    let key = checked?;
    steps.passed(Step::Signature, format_args!("good, by {:?}", header.algorithm));
    if seen.is_none() {
        Seen::remember(jws.header, &header);
    }

    let times = Times::read(&claims)?;
    terms.check_form(&claims)?;
    let binding = Binding::of(&claims)?;
    steps.passed(Step::Claims, format_args!("well typed, nothing required is missing"));
    claims::audience(&claims, &terms.audience)?;
    match claims.member("aud") {
        Some(audience) => steps.passed(Step::Audience, format_args!("{audience}")),
        None => steps.passed(Step::Audience, format_args!("none")),
    }
    times.check(terms, now)?;
    steps.passed(Step::Times, format_args!("{times}"));

    let token_id = match claims::text(&claims, "jti")? {
        Some(id) => claims::usable(id, NAME_BYTES_MAX).ok_or_else(|| VerifyError::name("jti"))?.into(),
        None => digest_id(jws.signed),
    };
    let subject = claims::usable_name(&claims, &terms.claims.subject, SUBJECT_BYTES_MAX)?;
    let session = claims::usable_name(&claims, &terms.claims.session, NAME_BYTES_MAX)?;
    let mut clients = claims::usable_names(&claims, &terms.claims.client, NAME_BYTES_MAX)?.into_iter();
    let (client, other_clients) = (clients.next(), clients.collect());
    terms.revocable.iter().try_for_each(|name| claims::revocable(&claims, name))?;
    let (of_subject, of_session) = (OrNone(subject.as_ref()), OrNone(session.as_ref()));
    steps.passed(
        Step::Names,
        format_args!("token id \"{token_id}\", subject {of_subject}, session {of_session}"),
    );
    let scopes = claims::scopes(&claims, &terms.claims.scope)?;
    let token_type = terms.token_type(&claims, header.typ)?;
    let fresh_until = terms.fresh.until(&claims, times.issued_at, times.expires_at);
    steps.passed(Step::TokenType, format_args!("{}", token_type.name()));

    Ok(Verified {
        good_until: times.expires_at.plus(terms.leeway),
        key_until: key.until,
        token: VerifiedToken {
            issuer: Arc::clone(&terms.issuer),
            token_id,
            subject,
            session,
            client,
            other_clients,
            key_id: header.key_id.or(key.id).map(Into::into),
            scopes,
            token_type,
            issued_at: times.issued_at,
            expires_at: times.expires_at,
            fresh_until,
            binding: binding.map(Box::new),
            claims: KeptClaims::of(json.into()),
        },
    })
}

/// `exp`, `nbf`, `iat`.
#[derive(Debug)]
pub(super) struct Times {
    pub(super) expires_at: UnixTime,
    not_before: Option<UnixTime>,
    pub(super) issued_at: Option<UnixTime>,
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expires {}", self.expires_at.rfc3339())?;
        self.not_before.iter().try_for_each(|time| write!(f, ", not before {}", time.rfc3339()))?;
        self.issued_at.iter().try_for_each(|time| write!(f, ", issued {}", time.rfc3339()))
    }
}

impl Times {
    pub(super) fn read(claims: &impl Members) -> Result<Self, VerifyError> {
        Ok(Self {
            expires_at: claims::date(claims, "exp")?
                .ok_or_else(|| VerifyError::ClaimMissing("exp".into()))?,
            not_before: claims::date(claims, "nbf")?,
            issued_at: claims::date(claims, "iat")?,
        })
    }

    pub(super) fn check(&self, terms: &Terms, now: UnixTime) -> Result<(), VerifyError> {
        let horizon = now.plus(terms.skew);
        if self.not_before.is_some_and(|at| at > horizon) {
            return Err(VerifyError::NotYetValid);
        }
        if self.issued_at.is_some_and(|at| at > horizon) {
            return Err(VerifyError::IssuedInFuture);
        }
        // An entry of the blocklist is kept for as long as a token can live; one that lives longer would come back.
        if self.expires_at.since(self.issued_at.unwrap_or(now)) > terms.lifetime_max {
            return Err(VerifyError::LivesTooLong);
        }
        Ok(())
    }
}

/// The token id of a token without `jti`. Over the signing input, not the whole text: signatures can be respelled.
pub(super) fn digest_id(signed: &str) -> Box<str> {
    let hash = digest::digest(&digest::SHA256, signed.as_bytes());
    format!("sha256:{}", encode_base64url(hash)).into()
}

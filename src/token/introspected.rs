//! An opaque token whose issuer has told what it stands for (RFC 7662 §2.2), judged on the same terms as a JWT.

use super::claims::{self, NAME_BYTES_MAX, SUBJECT_BYTES_MAX};
use super::json::{FlatObject, Member, Members as _};
use super::verify::{Times, digest_id};
use super::{Binding, KeptClaims, Part, Terms, Verified, VerifiedToken, VerifyError};
use crate::clock::UnixTime;

/// What the issuer answered about a token.
#[derive(Clone, Debug)]
pub enum Introspected {
    /// `active` is true, and everything that it says is good, but perhaps its expiry.
    Active(Box<Verified>),
    /// `active` is false.
    Inactive,
    /// Active, and not acceptable here.
    Refused(VerifyError),
}

/// Reads the answer `json` about the token `text`; `iss` is whom the answer may name as issuer. The token id is its
/// `jti`, or `sha256:` + base64url of SHA-256 over the whole text: an opaque token has one spelling only.
///
/// # Errors
/// When it is no answer as RFC 7662 §2.2 wants it: an object with a boolean `active`.
pub fn introspected(
    text: &str,
    json: &[u8],
    iss: Option<&str>,
    terms: &Terms,
    now: UnixTime,
) -> Result<Introspected, VerifyError> {
    let answer = FlatObject::read(json).map_err(|why| VerifyError::Json(Part::Claims, why))?;
    match answer.member("active").and_then(Member::other).and_then(serde_json::Value::as_bool) {
        None => Err(VerifyError::claim_type("active")),
        Some(false) => Ok(Introspected::Inactive),
        Some(true) => Ok(match active(text, &answer, json, iss, terms, now) {
            Ok(verified) => Introspected::Active(Box::new(verified)),
            Err(error) => Introspected::Refused(error),
        }),
    }
}

fn active(
    text: &str,
    answer: &FlatObject<'_>,
    json: &[u8],
    iss: Option<&str>,
    terms: &Terms,
    now: UnixTime,
) -> Result<Verified, VerifyError> {
    // `iss` is optional here; one that is somebody else's means that the answer is about another issuer's token.
    if let (Some(said), Some(iss)) = (claims::text(answer, "iss")?, iss)
        && said != iss
    {
        return Err(VerifyError::UnknownIssuer);
    }
    let times = Times::read(answer)?;
    terms.check_form(answer)?;
    let binding = Binding::of(answer)?;
    claims::audience(answer, &terms.audience)?;
    times.check(terms, now)?;
    let token_id = match claims::text(answer, "jti")? {
        Some(id) => claims::usable(id, NAME_BYTES_MAX).ok_or_else(|| VerifyError::name("jti"))?.into(),
        None => digest_id(text),
    };
    let subject = claims::usable_name(answer, &terms.claims.subject, SUBJECT_BYTES_MAX)?;
    let session = claims::usable_name(answer, &terms.claims.session, NAME_BYTES_MAX)?;
    let mut clients = claims::usable_names(answer, &terms.claims.client, NAME_BYTES_MAX)?.into_iter();
    let (client, other_clients) = (clients.next(), clients.collect());
    terms.revocable.iter().try_for_each(|name| claims::revocable(answer, name))?;
    Ok(Verified {
        good_until: times.expires_at.plus(terms.leeway),
        key_until: None,
        token: VerifiedToken {
            issuer: terms.issuer.clone(),
            token_id,
            subject,
            session,
            client,
            other_clients,
            key_id: None,
            scopes: claims::scopes(answer, &terms.claims.scope)?,
            token_type: terms.token_type(answer, None)?,
            issued_at: times.issued_at,
            expires_at: times.expires_at,
            fresh_until: terms.fresh.until(answer, times.issued_at, times.expires_at),
            binding: binding.map(Box::new),
            claims: KeptClaims::of(json.into()),
        },
    })
}

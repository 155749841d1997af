//! The other direction: signing tokens of our own. What a token says is given whole, ids and times included, so that
//! a refresh repeated within its grace can be answered with the same successor.

use serde_json::Value;

use super::{Binding, Claims, SigningKey, TokenType, encode_base64url};
use crate::clock::UnixTime;

/// What a token of our own says.
#[derive(Clone, Copy, Debug)]
pub struct NewToken<'a> {
    /// `iss`.
    pub issuer: &'a str,
    /// `aud`; left out when empty, a string when it is one.
    pub audience: &'a [Box<str>],
    /// `type`, and `typ` in the header.
    pub token_type: TokenType,
    /// `sub`.
    pub subject: &'a str,
    /// `sid`; a token that a client got for itself has none.
    pub session: Option<&'a str>,
    /// `client_id`.
    pub client: Option<&'a str>,
    /// `jti`.
    pub token_id: &'a str,
    /// `iat`, in whole seconds, rounded down.
    pub issued_at: UnixTime,
    /// `exp`, in whole seconds, rounded down.
    pub expires_at: UnixTime,
    /// It comes of a password sign-in: `fresh: true`.
    pub fresh: bool,
    /// `cnf`: what whoever brings it must hold.
    pub binding: Option<Binding>,
    /// `scope`; left out when empty.
    pub scopes: &'a [Box<str>],
    /// Static claims (`[auth.claims]`, the delegate's). One that is named like a claim above does not count.
    pub extra: &'a Claims,
}

/// A token could not be signed; the library failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token could not be signed")]
pub struct IssueError;

/// `token` as a compact JWT, signed by `key`. `ES*` and `PS*` signatures differ from one time to the next; everything
/// before the signature is the same for the same `token` and `key`.
///
/// # Errors
/// When the library fails to sign.
pub fn issue(key: &SigningKey, token: &NewToken<'_>) -> Result<String, IssueError> {
    let typ = match token.token_type {
        TokenType::Access => "at+jwt", // RFC 9068 §2.1
        TokenType::Refresh => "JWT",
    };
    sign(key, typ, claims(token))
}

/// Any claims as a compact JWT of this `typ`, signed by `key`.
///
/// # Errors
/// When the library fails to sign.
pub fn sign(key: &SigningKey, typ: &str, claims: Claims) -> Result<String, IssueError> {
    let header = serde_json::json!({ "alg": format!("{:?}", key.algorithm()), "kid": key.id(), "typ": typ });
    let claims = Value::Object(claims);
    let mut text =
        format!("{}.{}", encode_base64url(header.to_string()), encode_base64url(claims.to_string()));
    let signature = key.sign(text.as_bytes()).ok_or(IssueError)?;
    text.push('.');
    text.push_str(&encode_base64url(signature));
    Ok(text)
}

fn claims(token: &NewToken<'_>) -> Claims {
    /// What only this function writes. The rest of RFC 7519 and what verification reads is kept out of `extra` too.
    const OURS: [&str; 14] = [
        "iss",
        "sub",
        "aud",
        "iat",
        "exp",
        "nbf",
        "jti",
        "sid",
        "type",
        "token_use",
        "fresh",
        "scope",
        "cnf",
        "client_id",
    ];
    let foreign = token.extra.iter().filter(|(name, _)| !OURS.contains(&name.as_str()));
    let mut claims: Claims = foreign.map(|(name, value)| (name.clone(), value.clone())).collect();
    let mut put = |name: &str, value: Value| claims.insert(name.to_owned(), value);
    put("iss", token.issuer.into());
    put("sub", token.subject.into());
    put("iat", token.issued_at.secs().into());
    put("exp", token.expires_at.secs().into());
    put("jti", token.token_id.into());
    put("type", token.token_type.name().into());
    for (name, value) in [("sid", token.session), ("client_id", token.client)] {
        if let Some(value) = value {
            put(name, value.into());
        }
    }
    match token.audience {
        [] => {}
        [one] => drop(put("aud", (**one).into())),
        many => drop(put("aud", many.iter().map(|one| Value::from(&**one)).collect())),
    }
    if let Some(binding) = &token.binding {
        put("cnf", binding.to_json());
    }
    if token.fresh {
        put("fresh", true.into());
    }
    if !token.scopes.is_empty() {
        put("scope", token.scopes.join(" ").into());
    }
    claims
}

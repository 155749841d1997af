//! Tokens that are good only in the hands of whoever holds a key: the claim `cnf` (RFC 7800 §3.1), as DPoP (RFC 9449
//! §6.1) and mutual TLS (RFC 8705 §3.1) write it, and what a client has shown to hold.

use std::fmt;

use serde_json::{Map, Value};

use super::json::Members;
use super::{Proof, VerifyError, decode_base64url, encode_base64url};

/// A SHA-256 over a public key (RFC 7638) or a certificate (RFC 8705 §3.1, `x5t#S256`).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Thumbprint(pub [u8; 32]);

impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode_base64url(self.0))
    }
}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a bound token asks of whoever brings it; at least one of the two, and where there are two, both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// `jkt`: the key that proofs are signed with (RFC 9449 §6.1).
    pub key: Option<Thumbprint>,
    /// `x5t#S256`: the client certificate of the connection (RFC 8705 §3.1).
    pub certificate: Option<Thumbprint>,
}

impl Binding {
    /// The binding that `cnf` tells of; `None` without the claim.
    ///
    /// # Errors
    /// A member that we cannot check, or none: the token asks for something that nobody would look at.
    pub(super) fn of(claims: &impl Members) -> Result<Option<Self>, VerifyError> {
        let Some(cnf) = claims.member("cnf") else { return Ok(None) };
        let cnf = cnf.other().and_then(Value::as_object).ok_or(VerifyError::Bound)?;
        if cnf.is_empty() || cnf.keys().any(|name| name != "jkt" && name != "x5t#S256") {
            return Err(VerifyError::Bound);
        }
        let read = |name: &str| {
            let Some(value) = cnf.get(name) else { return Ok(None) };
            let bytes = value.as_str().and_then(|text| decode_base64url(text).ok());
            let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
            bytes.map(|bytes| Some(Thumbprint(bytes))).ok_or(VerifyError::claim_type("cnf"))
        };
        Ok(Some(Self { key: read("jkt")?, certificate: read("x5t#S256")? }))
    }

    /// The value of `cnf`.
    pub fn to_json(&self) -> Value {
        let members = [("jkt", self.key), ("x5t#S256", self.certificate)];
        let some = members.into_iter().filter_map(|(name, value)| Some((name, value?)));
        Value::Object(
            some.map(|(name, value)| (name.to_owned(), value.to_string().into())).collect::<Map<_, _>>(),
        )
    }

    /// Whether it asks for nothing.
    pub const fn is_empty(&self) -> bool {
        self.key.is_none() && self.certificate.is_none()
    }
}

/// How a token was presented.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// `Authorization: Bearer` (RFC 6750), a cookie, a form.
    #[default]
    Bearer,
    /// `Authorization: DPoP` (RFC 9449 §7.1): good for bound tokens alone.
    Dpop,
}

/// What a client has shown to hold beside its token. Whoever admits a token must have one at hand: without proofs it
/// is [`Possession::default`], with which no bound token is admitted.
#[derive(Clone, Debug, Default)]
pub struct Possession {
    /// How the token came.
    pub scheme: Scheme,
    /// A good proof for this very request. Whether it was used before is not known yet.
    pub proof: Option<Proof>,
    /// The verified client certificate of its connection.
    pub certificate: Option<Thumbprint>,
}

impl Possession {
    /// What a token that is issued to this client is to be bound to, if the client has shown anything.
    pub fn binding(&self) -> Option<Binding> {
        let binding = Binding { key: self.proof.as_ref().map(Proof::key), certificate: self.certificate };
        (!binding.is_empty()).then_some(binding)
    }

    /// That a token with this binding may be taken from this client.
    ///
    /// # Errors
    /// See [`VerifyError`].
    pub fn suits(&self, binding: Option<&Binding>) -> Result<(), VerifyError> {
        let key = binding.and_then(|binding| binding.key);
        match (self.scheme, key) {
            (Scheme::Dpop, None) => return Err(VerifyError::NotBound),
            // RFC 9449 §7.2: a bound token that comes as a bearer token was taken from somebody.
            (Scheme::Bearer, Some(_)) if self.proof.is_none() => return Err(VerifyError::Bound),
            (_, Some(key)) if self.proof.as_ref().map(Proof::key) != Some(key) => {
                return Err(VerifyError::OtherKey);
            }
            _ => {}
        }
        match binding.and_then(|binding| binding.certificate) {
            Some(wanted) if self.certificate != Some(wanted) => Err(VerifyError::OtherCertificate),
            _ => Ok(()),
        }
    }
}

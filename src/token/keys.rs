//! Key id to key, each pinned to what it may verify (RFC 8725 §3.1): a token's `alg` never chooses alone.

use std::fmt;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::ParsedPublicKey;
use serde_json::Value;

use super::claims::{NAME_BYTES_MAX, usable};
use super::{
    Algorithm, Claims, JsonError, PublicKey, SigningKey, VerifyError, decode_base64url, json_object,
};
use crate::clock::UnixTime;

/// Why something cannot be used as a key. The operator reads it; no key material gets into it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No PEM block of a kind that is known.
    #[error(
        "is not PEM with a public key or a certificate (-----BEGIN PUBLIC KEY-----, RSA PUBLIC KEY, CERTIFICATE)"
    )]
    NotPem,
    /// No private key as this program keeps it.
    #[error("is not an unencrypted private key in PKCS#8 PEM (-----BEGIN PRIVATE KEY-----)")]
    NotPkcs8,
    /// A private key where a public one belongs.
    #[error("holds a private key where a public one belongs: give the public key (openssl pkey -pubout)")]
    Private,
    /// More than one key where one belongs.
    #[error("holds several keys: give one, or a JWK set as jwks_file")]
    Several,
    /// Broken DER or numbers.
    #[error("is malformed")]
    Malformed,
    /// A kind of key or a curve that no algorithm here uses.
    #[error("is of a kind that is not supported: use RSA, EC on P-256 or P-384, Ed25519, or a secret")]
    Unsupported,
    /// RFC 7518 §3.3.
    #[error("is an RSA key of {0} bits: 2048 are the least")]
    RsaTooSmall(usize),
    /// Verifying would be too slow.
    #[error("is an RSA key of {0} bits: 8192 are the most")]
    RsaTooLarge(usize),
    /// Even, one, or larger than 33 bits.
    #[error("is an RSA key with an unusable public exponent")]
    RsaExponent,
    /// Not on its curve, of small order, or not in uncompressed form.
    #[error("is not a valid public point of its curve in uncompressed form")]
    Point,
    /// A member of a JWK is missing, of the wrong type or not strict base64url.
    #[error("lacks a well-formed \"{0}\"")]
    Member(&'static str),
    /// `use` other than `sig`, or `key_ops` without `verify` (RFC 7517 §4.2, §4.3).
    #[error("is not meant for verifying signatures (\"{0}\")")]
    Purpose(&'static str),
    /// Its own `alg` is unknown, not in the issuer's list, or not of its type; or no algorithm of the list is.
    #[error("is a {kind}, which goes with none of the algorithms {algorithms:?}")]
    NoAlgorithm {
        /// What it is.
        kind: String,
        /// What could have been used.
        algorithms: Vec<Algorithm>,
    },
    /// A secret without a byte.
    #[error("is empty")]
    EmptySecret,
    /// RFC 7518 §3.2.
    #[error("is a secret of {bits} bits: {algorithm:?} needs {needed}")]
    ShortSecret {
        /// What it has.
        bits: usize,
        /// What it is for.
        algorithm: Algorithm,
        /// What that needs.
        needed: usize,
    },
    /// Not a JWK set (RFC 7517 §5).
    #[error("is not a JWK set: it {0}")]
    NotJson(JsonError),
    /// Not a JWK set (RFC 7517 §5).
    #[error("is not a JWK set: it has no array \"keys\"")]
    NotJwks,
    /// A set out of which nothing is left.
    #[error("has no usable key{}", Skipped::list(.0))]
    NoUsableKey(Vec<Skipped>),
    /// The random source or the library failed.
    #[error("could not be made")]
    Generation,
}

/// A key of a set that was passed over (RFC 7517 §5 says to ignore what is not understood).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its place in the array, from 0.
    pub index: usize,
    /// Its `kid`.
    pub id: Option<String>,
    /// Why.
    pub why: KeyError,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}", self.index)?;
        if let Some(id) = &self.id {
            write!(f, " (kid {id:?})")?;
        }
        write!(f, " {}", self.why)
    }
}

impl Skipped {
    fn list(skipped: &[Self]) -> String {
        skipped.iter().map(|one| format!("; {one}")).collect()
    }
}

/// How one key checks signatures of one algorithm: kept as the library keeps it, read once.
enum Verifier {
    Signature(ParsedPublicKey),
    Mac(Box<hmac::Key>),
}

impl Verifier {
    fn of_secret(secret: &[u8], algorithm: Algorithm) -> Option<Self> {
        mac_algorithm(algorithm).map(|mac| Self::Mac(Box::new(hmac::Key::new(mac, secret))))
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Signature(key) => key.verify_sig(message, signature).is_ok(),
            Self::Mac(key) => hmac::verify(key, message, signature).is_ok(),
        }
    }
}

pub(super) fn mac_algorithm(algorithm: Algorithm) -> Option<hmac::Algorithm> {
    Some(match algorithm {
        Algorithm::HS256 => hmac::HMAC_SHA256,
        Algorithm::HS384 => hmac::HMAC_SHA384,
        Algorithm::HS512 => hmac::HMAC_SHA512,
        _ => return None,
    })
}

/// One key of a set with everything it may verify.
struct Key {
    id: Option<Box<str>>,
    /// From then on it verifies nothing.
    until: Option<UnixTime>,
    verifiers: Vec<(Algorithm, Verifier)>,
}

impl Key {
    fn verifier(&self, algorithm: Algorithm) -> Option<&Verifier> {
        self.verifiers.iter().find(|(own, _)| *own == algorithm).map(|(_, verifier)| verifier)
    }

    fn lives(&self, now: UnixTime) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// The keys that tokens of one issuer are verified with. Immutable; a change makes a new one.
pub struct KeySet {
    keys: Vec<Key>,
    /// One configured key: a token's `kid` is ignored.
    single: bool,
}

/// Which key verified a token.
pub(super) struct Matched<'a> {
    pub(super) id: Option<&'a str>,
    pub(super) until: Option<UnixTime>,
}

impl KeySet {
    /// The keys of a JWK set (RFC 7517 §5) that fit one of `algorithms`, and why others were passed over.
    ///
    /// # Errors
    /// When it is not a JWK set, or when no key of it can be used.
    pub fn from_jwks(text: &str, algorithms: &[Algorithm]) -> Result<(Self, Vec<Skipped>), KeyError> {
        let set = json_object(text.as_bytes()).map_err(KeyError::NotJson)?;
        let entries = set.get("keys").and_then(Value::as_array).ok_or(KeyError::NotJwks)?;
        let (mut keys, mut skipped) = (Vec::new(), Vec::new());
        for (index, entry) in entries.iter().enumerate() {
            let jwk = entry.as_object();
            match jwk.ok_or(KeyError::Malformed).and_then(|jwk| key_of_jwk(jwk, algorithms)) {
                Ok(key) => keys.push(key),
                Err(why) => {
                    let id = jwk.and_then(|jwk| jwk.get("kid")).and_then(Value::as_str).map(str::to_owned);
                    skipped.push(Skipped { index, id, why });
                }
            }
        }
        if keys.is_empty() {
            return Err(KeyError::NoUsableKey(skipped));
        }
        Ok((Self { keys, single: false }, skipped))
    }

    /// One public key in PEM, for those of `algorithms` that fit its type.
    ///
    /// # Errors
    /// When it is no usable key ([`PublicKey::from_pem`]), or fits none of them.
    pub fn from_public_key(pem: &str, algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        let verifiers = public_verifiers(&PublicKey::from_pem(pem)?, algorithms)?;
        Ok(Self { keys: vec![Key { id: None, until: None, verifiers }], single: true })
    }

    /// One shared secret. Its length is the configuration's to judge (`allow_short_secret`).
    ///
    /// # Errors
    /// When it is empty, or when `algorithms` are not all symmetric.
    pub fn from_secret(secret: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        if secret.is_empty() {
            return Err(KeyError::EmptySecret);
        }
        let verifiers = secret_verifiers(secret, algorithms);
        if verifiers.is_empty() || verifiers.len() != algorithms.len() {
            return Err(KeyError::NoAlgorithm { kind: "secret".to_owned(), algorithms: algorithms.to_vec() });
        }
        Ok(Self { keys: vec![Key { id: None, until: None, verifiers }], single: true })
    }

    /// Our own keys, each with the time from which on it verifies nothing, if there is one.
    ///
    /// # Errors
    /// When the library refuses a key; it made or checked it itself.
    pub fn from_signing_keys<'a>(
        keys: impl IntoIterator<Item = (&'a SigningKey, Option<UnixTime>)>,
    ) -> Result<Self, KeyError> {
        let of_key = |(key, until): (&SigningKey, Option<UnixTime>)| {
            let algorithm = key.algorithm();
            let verifier = match (key.public_key(), key.secret()) {
                (Some(public), _) => Verifier::Signature(public.parsed(algorithm)?),
                (_, Some(secret)) => Verifier::of_secret(secret, algorithm).ok_or(KeyError::Unsupported)?,
                _ => return Err(KeyError::Unsupported),
            };
            Ok(Key { id: Some(key.id().into()), until, verifiers: vec![(algorithm, verifier)] })
        };
        Ok(Self { keys: keys.into_iter().map(of_key).collect::<Result<_, _>>()?, single: false })
    }

    /// No key at all: those of an issuer that have not been had yet.
    pub const fn none() -> Self {
        Self { keys: Vec::new(), single: false }
    }

    /// How many keys it has.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether it has none, so that no token verifies.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Checks `signature` over `message` with the key that `id` and `algorithm` lead to. With a single configured key
    /// the id is ignored; in a set it picks, and without one exactly one living key must fit. Where a set gives one id
    /// to several keys, all that fit are tried.
    pub(super) fn check(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
        now: UnixTime,
        message: &[u8],
        signature: &[u8],
    ) -> Result<Matched<'_>, VerifyError> {
        if self.keys.is_empty() {
            return Err(VerifyError::NoKeys);
        }
        let picked = |key: &&Key| match id {
            Some(id) if !self.single => key.id.as_deref() == Some(id) && key.lives(now),
            _ => key.lives(now),
        };
        let by_id = id.is_some() || self.single;
        if by_id && !self.keys.iter().any(|key| picked(&key)) {
            return Err(VerifyError::UnknownKey);
        }
        let fitting = || {
            let keys = self.keys.iter().filter(picked);
            keys.filter_map(move |key| key.verifier(algorithm).map(|verifier| (key, verifier)))
        };
        match fitting().count() {
            0 => return Err(VerifyError::Algorithm),
            1 => {}
            _ if by_id => {}
            _ => return Err(VerifyError::AmbiguousKey),
        }
        fitting()
            .find(|(_, verifier)| verifier.verifies(message, signature))
            .map(|(key, _)| Matched { id: key.id.as_deref(), until: key.until })
            .ok_or(VerifyError::Signature)
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let describe =
            |key: &Key| (key.id.clone(), key.verifiers.iter().map(|(own, _)| *own).collect::<Vec<_>>());
        f.debug_list().entries(self.keys.iter().map(describe)).finish()
    }
}

fn key_of_jwk(jwk: &Claims, algorithms: &[Algorithm]) -> Result<Key, KeyError> {
    let id = match jwk.get("kid") {
        None => None,
        // An id that could not be revoked by is refused in a token, so its key could verify none.
        Some(Value::String(id)) if usable(id, NAME_BYTES_MAX).is_some() => Some(id.as_str().into()),
        Some(_) => return Err(KeyError::Member("kid")),
    };
    match jwk.get("use") {
        None => {}
        Some(Value::String(purpose)) if purpose == "sig" => {}
        Some(_) => return Err(KeyError::Purpose("use")),
    }
    match jwk.get("key_ops") {
        None => {}
        Some(Value::Array(operations)) if operations.iter().any(|operation| operation == "verify") => {}
        Some(_) => return Err(KeyError::Purpose("key_ops")),
    }
    // A key that names its algorithm is for that one alone (RFC 8725 §3.1).
    let pinned: Vec<Algorithm> = match jwk.get("alg") {
        None => algorithms.to_vec(),
        Some(Value::String(name)) => {
            algorithms.iter().copied().filter(|algorithm| is_named(*algorithm, name)).collect()
        }
        Some(_) => return Err(KeyError::Member("alg")),
    };
    let refused = |kind: String| KeyError::NoAlgorithm { kind, algorithms: algorithms.to_vec() };
    let verifiers = if jwk.get("kty").and_then(Value::as_str) == Some("oct") {
        let secret = jwk.get("k").and_then(Value::as_str).and_then(|text| decode_base64url(text).ok());
        let secret = zeroize::Zeroizing::new(secret.ok_or(KeyError::Member("k"))?);
        let bits = secret.len() * 8;
        if let Some(&algorithm) = pinned.iter().find(|algorithm| bits < secret_bits_min(**algorithm)) {
            let needed = secret_bits_min(algorithm);
            return Err(KeyError::ShortSecret { bits, algorithm, needed });
        }
        secret_verifiers(&secret, &pinned)
    } else {
        let key = PublicKey::from_jwk(jwk)?;
        public_verifiers(&key, &pinned).map_err(|_| refused(key.kind()))?
    };
    if verifiers.is_empty() {
        return Err(refused("secret".to_owned()));
    }
    Ok(Key { id, until: None, verifiers })
}

fn public_verifiers(
    key: &PublicKey,
    algorithms: &[Algorithm],
) -> Result<Vec<(Algorithm, Verifier)>, KeyError> {
    let fitting = algorithms.iter().copied().filter(|algorithm| key.fits(*algorithm));
    let verifiers: Vec<_> = fitting
        .map(|algorithm| Ok((algorithm, Verifier::Signature(key.parsed(algorithm)?))))
        .collect::<Result<_, KeyError>>()?;
    if verifiers.is_empty() {
        return Err(KeyError::NoAlgorithm { kind: key.kind(), algorithms: algorithms.to_vec() });
    }
    Ok(verifiers)
}

fn secret_verifiers(secret: &[u8], algorithms: &[Algorithm]) -> Vec<(Algorithm, Verifier)> {
    let of = |algorithm| Verifier::of_secret(secret, algorithm).map(|verifier| (algorithm, verifier));
    algorithms.iter().copied().filter_map(of).collect()
}

/// Whether `name` is what the algorithm is called in `alg` (RFC 7518 §3.1): exactly, case counts.
fn is_named(algorithm: Algorithm, name: &str) -> bool {
    name.parse().is_ok_and(|named: Algorithm| named == algorithm)
}

/// The least bits of a secret (RFC 7518 §3.2); 0 for what is not symmetric.
fn secret_bits_min(algorithm: Algorithm) -> usize {
    match algorithm {
        Algorithm::HS256 => 256,
        Algorithm::HS384 => 384,
        Algorithm::HS512 => 512,
        _ => 0,
    }
}

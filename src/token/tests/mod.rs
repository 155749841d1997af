//! Tokens made by hand against [`super::verify`]: one helper, many claims.

mod attacks;
mod claims;
mod dpop;
mod form;
mod keys;
mod round_trip;
mod vectors;
mod wycheproof;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::clock::UnixTime;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
const TOKEN_BYTES_MAX: usize = 8192;
const ISS: &str = "https://id.example.com";

const ALGORITHMS: [Algorithm; 12] = [
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::HS256,
    Algorithm::HS384,
    Algorithm::HS512,
];

fn names(list: &[&str]) -> Vec<Box<str>> {
    list.iter().map(|&name| name.into()).collect()
}

/// The terms of an external issuer with these keys and nothing asked for.
fn terms(keys: KeySet) -> Terms {
    Terms {
        issuer: "legacy".into(),
        keys: Arc::new(keys),
        audience: Vec::new(),
        leeway: Duration::ZERO,
        skew: Duration::ZERO,
        lifetime_max: Duration::from_secs(30 * 86400),
        require: Vec::new(),
        typ: Typ::Any,
        claims: ClaimNames::default(),
        revocable: Arc::default(),
        fresh: Fresh::Claimed,
    }
}

/// A key, and the terms of an issuer that has no other.
struct Bench {
    key: SigningKey,
    terms: Terms,
}

impl Bench {
    fn new() -> Self {
        let key = SigningKey::generate(Algorithm::ES256).unwrap();
        let keys = KeySet::from_signing_keys([(&key, None)]).unwrap();
        Self { key, terms: terms(keys) }
    }

    /// The header that its tokens have when a test does not care.
    fn header(&self) -> Value {
        json!({ "alg": "ES256", "kid": self.key.id() })
    }

    /// A token of exactly this header and these claims, well signed.
    fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    fn sign_text(&self, header: &str, claims: &str) -> String {
        signed(&self.key, header, claims)
    }

    fn verify(&self, text: &str) -> Result<Verified, VerifyError> {
        check_with(&self.terms, text)
    }

    /// The verdict on a well-signed token of this header.
    fn check_header(&self, header: &Value) -> Result<Verified, VerifyError> {
        self.verify(&self.sign(header, &good()))
    }

    /// The verdict on a well-signed token of good claims, in which these take the place of theirs.
    fn check(&self, change: &Value) -> Result<Verified, VerifyError> {
        let mut claims = good();
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        self.verify(&self.sign(&self.header(), &claims))
    }

    /// The same without this claim.
    fn check_without(&self, name: &str) -> Result<Verified, VerifyError> {
        let mut claims = good();
        claims.as_object_mut().unwrap().remove(name);
        self.verify(&self.sign(&self.header(), &claims))
    }
}

fn signed(key: &SigningKey, header: &str, claims: &str) -> String {
    let input = format!("{}.{}", encode_base64url(header), encode_base64url(claims));
    let signature = key.sign(input.as_bytes()).unwrap();
    format!("{input}.{}", encode_base64url(signature))
}

fn check_with(terms: &Terms, text: &str) -> Result<Verified, VerifyError> {
    verify(text, TOKEN_BYTES_MAX, |iss| (iss == Some(ISS)).then_some(terms), NOW, &mut ())
}

fn good() -> Value {
    json!({
        "iss": ISS, "sub": "7", "jti": "t1", "sid": "s1",
        "iat": NOW.secs() - 60, "exp": NOW.secs() + 600,
    })
}

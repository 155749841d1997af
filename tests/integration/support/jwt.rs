//! Tokens made by hand: any header, any payload, any signature, right or wrong.

use std::fmt;
use std::fs;
use std::path::Path;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair,
};
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::now;

/// A key to sign with, and the algorithm that goes with it.
pub(crate) enum Key {
    Hs256(Vec<u8>),
    Hs512(Vec<u8>),
    Es256(EcdsaKeyPair),
    Es384(EcdsaKeyPair),
    Rs256(RsaKeyPair),
    Ps256(RsaKeyPair),
    EdDsa(Ed25519KeyPair),
    /// `alg: none`, an empty signature.
    None,
}

impl Key {
    /// Bytes enough for every HMAC of RFC 7518 §3.2.
    pub(crate) fn secret(text: &str) -> Self {
        Self::Hs256(long(text))
    }

    pub(crate) fn es256() -> Self {
        Self::Es256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub(crate) fn es384() -> Self {
        Self::Es384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap())
    }

    pub(crate) fn rs256() -> Self {
        Self::Rs256(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    pub(crate) fn ps256() -> Self {
        Self::Ps256(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    pub(crate) fn eddsa() -> Self {
        Self::EdDsa(Ed25519KeyPair::generate().unwrap())
    }

    /// Its name in `alg`.
    pub(crate) fn alg(&self) -> &'static str {
        match self {
            Self::Hs256(_) => "HS256",
            Self::Hs512(_) => "HS512",
            Self::Es256(_) => "ES256",
            Self::Es384(_) => "ES384",
            Self::Rs256(_) => "RS256",
            Self::Ps256(_) => "PS256",
            Self::EdDsa(_) => "EdDSA",
            Self::None => "none",
        }
    }

    /// What goes into a `secret_file`.
    pub(crate) fn secret_bytes(&self) -> &[u8] {
        match self {
            Self::Hs256(secret) | Self::Hs512(secret) => secret,
            _ => panic!("{self:?} has no shared secret"),
        }
    }

    /// What goes into a `public_key_file`: SPKI in PEM.
    pub(crate) fn public_pem(&self) -> String {
        let text = STANDARD.encode(self.spki());
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    /// Its public half as a JWK (RFC 7517); for a shared secret the secret itself.
    pub(crate) fn jwk(&self, kid: Option<&str>) -> Value {
        let mut jwk = match self {
            Self::Hs256(secret) | Self::Hs512(secret) => json!({ "kty": "oct", "k": base64url(secret) }),
            Self::Es256(pair) => point("P-256", pair.public_key().as_ref()),
            Self::Es384(pair) => point("P-384", pair.public_key().as_ref()),
            Self::Rs256(pair) | Self::Ps256(pair) => {
                let (n, e) = modulus_and_exponent(pair.public_key().as_ref());
                json!({ "kty": "RSA", "n": base64url(&n), "e": base64url(&e) })
            }
            Self::EdDsa(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key().as_ref()) })
            }
            Self::None => panic!("no key"),
        };
        if let Some(kid) = kid {
            jwk["kid"] = kid.into();
        }
        jwk
    }

    /// The signature as JWS has it (RFC 7515; ECDSA as r‖s).
    pub(crate) fn sign(&self, input: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Hs256(secret) => tag(hmac::HMAC_SHA256, secret, input),
            Self::Hs512(secret) => tag(hmac::HMAC_SHA512, secret, input),
            Self::Es256(pair) | Self::Es384(pair) => pair.sign(&random, input).unwrap().as_ref().to_vec(),
            Self::Rs256(pair) => rsa(pair, &RSA_PKCS1_SHA256, input),
            Self::Ps256(pair) => rsa(pair, &RSA_PSS_SHA256, input),
            Self::EdDsa(pair) => pair.sign(input).as_ref().to_vec(),
            Self::None => Vec::new(),
        }
    }

    /// A token of this key with these claims; the header says `alg` and `typ` and what `header` adds or, with null,
    /// takes away.
    pub(crate) fn token_with(&self, header: &Value, claims: &Value) -> String {
        let whole = changed(json!({ "alg": self.alg(), "typ": "JWT" }), header);
        self.compose(&whole.to_string(), &claims.to_string())
    }

    /// A token of this key with these claims.
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({}), claims)
    }

    /// Signs any two texts, JSON or not.
    pub(crate) fn compose(&self, header: &str, payload: &str) -> String {
        let input = format!("{}.{}", base64url(header.as_bytes()), base64url(payload.as_bytes()));
        let signature = base64url(&self.sign(input.as_bytes()));
        format!("{input}.{signature}")
    }

    fn spki(&self) -> Vec<u8> {
        let der: PublicKeyX509Der<'static> = match self {
            Self::Es256(pair) | Self::Es384(pair) => pair.public_key().as_der().unwrap(),
            Self::Rs256(pair) | Self::Ps256(pair) => pair.public_key().as_der().unwrap(),
            Self::EdDsa(pair) => pair.public_key().as_der().unwrap(),
            Self::Hs256(_) | Self::Hs512(_) | Self::None => panic!("{self:?} has no public half"),
        };
        der.as_ref().to_vec()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.alg())
    }
}

/// A secret of 64 bytes that begins with these words.
fn long(text: &str) -> Vec<u8> {
    text.bytes().chain(std::iter::repeat(b'.')).take(64).collect()
}

/// Claims of a good access token of ten minutes: `sub`, `jti`, `iat`, `exp`; `more` adds to them or, with null,
/// takes away.
pub(crate) fn claims(token_id: &str, more: &Value) -> Value {
    let now = now();
    changed(json!({ "sub": "ada", "jti": token_id, "iat": now, "exp": now + 600 }), more)
}

/// An object with more members, or fewer where the change says null.
fn changed(mut object: Value, change: &Value) -> Value {
    for (name, value) in change.as_object().expect("a change is an object") {
        if value.is_null() {
            object.as_object_mut().expect("an object").remove(name);
        } else {
            object[name.as_str()] = value.clone();
        }
    }
    object
}

/// The header of a token.
pub(crate) fn header_of(token: &str) -> Value {
    part(token, 0)
}

/// The payload of a token.
pub(crate) fn claims_of(token: &str) -> Value {
    part(token, 1)
}

/// The token id of a token without `jti` (CONTRACT §1).
pub(crate) fn derived_id(token: &str) -> String {
    let input = token.rsplit_once('.').expect("three parts").0;
    format!("sha256:{}", base64url(digest::digest(&digest::SHA256, input.as_bytes()).as_ref()))
}

pub(crate) fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Writes a JWK set.
pub(crate) fn write_jwks(path: &Path, keys: &[Value]) {
    fs::write(path, json!({ "keys": keys }).to_string()).unwrap();
}

fn part(token: &str, index: usize) -> Value {
    let text = token.split('.').nth(index).unwrap_or_else(|| panic!("part {index} of a token"));
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
}

fn tag(algorithm: hmac::Algorithm, secret: &[u8], input: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(algorithm, secret), input).as_ref().to_vec()
}

fn rsa(pair: &RsaKeyPair, encoding: &'static dyn RsaEncoding, input: &[u8]) -> Vec<u8> {
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(encoding, &SystemRandom::new(), input, &mut signature).unwrap();
    signature
}

/// An uncompressed point (SEC 1 §2.3.3) as a JWK.
fn point(curve: &str, bytes: &[u8]) -> Value {
    assert_eq!(bytes[0], 4, "an uncompressed point");
    let (x, y) = bytes[1..].split_at((bytes.len() - 1) / 2);
    json!({ "kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y) })
}

/// The two integers of an `RSAPublicKey` (RFC 8017 §A.1.1), without their sign bytes.
fn modulus_and_exponent(der: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (sequence, _) = element(der, 0x30);
    let (n, rest) = element(sequence, 0x02);
    let (e, _) = element(rest, 0x02);
    let bare = |bytes: &[u8]| bytes.iter().copied().skip_while(|&byte| byte == 0).collect();
    (bare(n), bare(e))
}

/// The content of the first DER element, which must have this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> (&[u8], &[u8]) {
    assert_eq!(der[0], tag);
    let (length, start) = match der[1] {
        short @ 0..=0x7f => (usize::from(short), 2),
        long => {
            let count = usize::from(long & 0x7f);
            let length = der[2..2 + count].iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
            (length, 2 + count)
        }
    };
    der[start..].split_at(length)
}

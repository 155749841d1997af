//! DPoP proofs (RFC 9449 §4): a JWT that a client signs for one request, with a key that it shows along.

use aws_lc_rs::digest;
use http::{HeaderMap, HeaderName};
use serde_json::Value;

use super::claims::{self, NAME_BYTES_MAX};
use super::jws::{Header, Jws, is_media_type};
use super::{Algorithm, Claims, Part, PublicKey, Thumbprint, decode_base64url, encode_base64url};
use crate::clock::UnixTime;

/// The longest proof: an RSA key of 8192 bits and its signature, and room for the claims.
const PROOF_BYTES_MAX: usize = 6144;
/// How old a proof may be, in seconds. Long enough for a slow line, short enough to remember every one.
pub(super) const AGE_MAX_SECS: u64 = 60;
/// How far ahead of ours the clock of a client may be, in seconds.
pub(super) const AHEAD_MAX_SECS: u64 = 10;

/// The algorithms that proofs may be signed with, as they are told to clients.
pub const PROOF_ALGORITHMS: &str = "ES256 ES384 EdDSA RS256 RS384 RS512 PS256 PS384 PS512";

/// Members of a JWK that belong to its owner alone (RFC 7518 §6.2.2, §6.3.2, §6.4.1).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// Why a proof is not accepted. The client reads the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// None came with a token that needs one.
    #[error("the request has no DPoP proof")]
    Missing,
    /// Two fields.
    #[error("the request has more than one DPoP proof")]
    Several,
    /// Not a JWS of three parts with strict base64url and unambiguous JSON.
    #[error("the DPoP proof is not a well-formed JWT")]
    Form,
    /// `typ` is not `dpop+jwt`.
    #[error("the DPoP proof is not of type dpop+jwt")]
    Typ,
    /// `none`, symmetric, or not what the key is for.
    #[error("the DPoP proof is signed with an algorithm that is not accepted")]
    Algorithm,
    /// `jwk` is missing, broken or weak.
    #[error("the DPoP proof has no usable public key")]
    Key,
    /// `jwk` shows a private key.
    #[error("the DPoP proof shows a private key: make a new one, and keep it")]
    PrivateKey,
    /// It does not verify.
    #[error("the signature of the DPoP proof is not valid")]
    Signature,
    /// A claim is missing or of the wrong type.
    #[error("the DPoP proof lacks a well-formed \"{0}\"")]
    Claim(&'static str),
    /// For another method.
    #[error("the DPoP proof is for another method")]
    Method,
    /// For another URL.
    #[error("the DPoP proof is for another URL")]
    Url,
    /// `iat` is too far from now.
    #[error("the DPoP proof is too old, or from a clock that is ahead")]
    Time,
    /// `ath` is not the digest of the token.
    #[error("the DPoP proof is for another access token")]
    Token,
    /// The same proof again.
    #[error("the DPoP proof was used before")]
    Replayed,
}

/// A good proof, for one request. Only [`check_proof`] makes one.
#[derive(Clone, Debug)]
pub struct Proof {
    key: Thumbprint,
    /// SHA-256 over key and `jti`, cut: what it is remembered by.
    id: [u8; 16],
    nonce: Option<Box<str>>,
}

impl Proof {
    /// The RFC 7638 thumbprint of the key that signed it.
    pub const fn key(&self) -> Thumbprint {
        self.key
    }

    /// By what it is remembered: a digest over its key and `jti`.
    pub const fn id(&self) -> [u8; 16] {
        self.id
    }

    /// The nonce in it.
    pub fn nonce(&self) -> Option<&str> {
        self.nonce.as_deref()
    }
}

/// The field that carries proofs (RFC 9449 §4.1).
pub const DPOP: HeaderName = HeaderName::from_static("dpop");

/// The one proof of a request, if it has any.
///
/// # Errors
/// Several, or bytes that no proof has.
pub fn proof_text(headers: &HeaderMap) -> Result<Option<&str>, ProofError> {
    let mut fields = headers.get_all(DPOP).iter();
    let Some(field) = fields.next() else { return Ok(None) };
    if fields.next().is_some() {
        return Err(ProofError::Several);
    }
    field.to_str().map(Some).map_err(|_| ProofError::Form)
}

/// What a proof must be for.
#[derive(Clone, Copy, Debug)]
pub struct ProofFor<'a> {
    /// The request's method, exactly.
    pub method: &'a str,
    /// `http` or `https`, as the client sees it.
    pub scheme: &'a str,
    /// Host and port as the client sees them, in lower case.
    pub authority: &'a str,
    /// The path in normal form.
    pub path: &'a str,
    /// The token that came along; `None` where one is asked for (RFC 9449 §5).
    pub token: Option<&'a str>,
    /// `ath` must be there: the token is an access token (RFC 9449 §7).
    pub with_ath: bool,
}

/// Checks a proof (RFC 9449 §4.3) but for replay and nonce. One signature check by a key of the client's choice.
///
/// # Errors
/// See [`ProofError`].
pub fn check_proof(text: &str, wanted: &ProofFor<'_>, now: UnixTime) -> Result<Proof, ProofError> {
    let jws = Jws::split(text, PROOF_BYTES_MAX).map_err(|_| ProofError::Form)?;
    let header = jws.object(Part::Header, jws.header).map_err(|_| ProofError::Form)?;
    let claims = jws.object(Part::Claims, jws.claims).map_err(|_| ProofError::Form)?;
    let signature = decode_base64url(jws.signature).map_err(|_| ProofError::Form)?;

    let typed = header.get("typ").and_then(Value::as_str);
    if !typed.is_some_and(|typ| is_media_type(typ, "dpop+jwt")) {
        return Err(ProofError::Typ);
    }
    let algorithm = Header::read(&header).map_err(|_| ProofError::Algorithm)?.algorithm;
    let key = public_key(&header, algorithm)?;
    let parsed = key.parsed(algorithm).map_err(|_| ProofError::Algorithm)?;
    parsed.verify_sig(jws.signed.as_bytes(), &signature).map_err(|_| ProofError::Signature)?;

    let text = |name: &'static str| match claims.get(name) {
        Some(Value::String(text)) => Ok(text.as_str()),
        _ => Err(ProofError::Claim(name)),
    };
    let id = claims::usable(text("jti")?, NAME_BYTES_MAX).ok_or(ProofError::Claim("jti"))?;
    if text("htm")? != wanted.method {
        return Err(ProofError::Method);
    }
    if !is_url_of(text("htu")?, wanted) {
        return Err(ProofError::Url);
    }
    let issued_at = claims.get("iat").and_then(claims::numeric_date).ok_or(ProofError::Claim("iat"))?;
    if issued_at.secs() + AGE_MAX_SECS < now.secs() || issued_at.secs() > now.secs() + AHEAD_MAX_SECS {
        return Err(ProofError::Time);
    }
    match (wanted.token, claims.get("ath")) {
        (_, None) if !wanted.with_ath => {}
        (_, None) => return Err(ProofError::Claim("ath")),
        (None, Some(_)) => return Err(ProofError::Token),
        (Some(token), Some(said)) => {
            let digest = encode_base64url(digest::digest(&digest::SHA256, token.as_bytes()));
            if said.as_str() != Some(&*digest) {
                return Err(ProofError::Token);
            }
        }
    }
    let nonce = match claims.get("nonce") {
        None => None,
        Some(Value::String(nonce)) => Some(nonce.as_str().into()),
        Some(_) => return Err(ProofError::Claim("nonce")),
    };
    let key = key.thumbprint_bytes();
    Ok(Proof { key, id: proof_id(key, id), nonce })
}

fn public_key(header: &Claims, algorithm: Algorithm) -> Result<PublicKey, ProofError> {
    let jwk = header.get("jwk").and_then(Value::as_object).ok_or(ProofError::Key)?;
    if PRIVATE.iter().any(|name| jwk.contains_key(*name)) {
        return Err(ProofError::PrivateKey);
    }
    let key = PublicKey::from_jwk(jwk).map_err(|_| ProofError::Key)?;
    // A symmetric algorithm fits no public key.
    if key.fits(algorithm) { Ok(key) } else { Err(ProofError::Algorithm) }
}

fn proof_id(key: Thumbprint, id: &str) -> [u8; 16] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&key.0);
    context.update(id.as_bytes());
    let mut short = [0; 16];
    short.copy_from_slice(&context.finish().as_ref()[..16]);
    short
}

/// Whether `htu` is the URL of the request, query and fragment aside (RFC 9449 §4.3 point 9, normalised as RFC 3986
/// §6.2.2 and §6.2.3 say).
fn is_url_of(htu: &str, wanted: &ProofFor<'_>) -> bool {
    let bare = htu.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = bare.split_once("://") else { return false };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let default_port = match wanted.scheme {
        "https" => ":443",
        _ => ":80",
    };
    let bare_authority = |authority: &str| {
        let lower = authority.to_ascii_lowercase();
        lower.strip_suffix(default_port).map(str::to_owned).unwrap_or(lower)
    };
    scheme.eq_ignore_ascii_case(wanted.scheme)
        && bare_authority(authority) == bare_authority(wanted.authority)
        && (path == wanted.path || normal(path).is_some_and(|path| path == wanted.path))
}

/// Percent-encoding in its normal form; what that leaves different is another path.
fn normal(path: &str) -> Option<String> {
    let mut out = Vec::with_capacity(path.len());
    let bytes = path.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        if byte != b'%' {
            out.push(byte);
            at += 1;
            continue;
        }
        let value = u8::from_str_radix(path.get(at + 1..at + 3)?, 16).ok()?;
        if value.is_ascii_alphanumeric() || b"-._~".contains(&value) {
            out.push(value);
        } else {
            out.extend_from_slice(format!("%{value:02X}").as_bytes());
        }
        at += 3;
    }
    String::from_utf8(out).ok()
}

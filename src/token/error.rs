//! Why a token is not accepted.

use std::fmt;

use http::StatusCode;

use super::{JsonError, PROOF_ALGORITHMS, ProofError, Step};

/// When to come again about a token whose issuer cannot be asked: keys are fetched for its sake once in so long.
const ISSUER_RETRY_AFTER_SECS: u64 = 10;
use crate::answer::{Code, Problem};

/// A part of a compact JWS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first.
    Header,
    /// The second.
    Claims,
    /// The third.
    Signature,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Claims => "payload",
            Self::Signature => "signature",
        })
    }
}

/// Why a token is not accepted. The client reads the words; they name claims, never values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    // Not a JWT as it should be.
    /// Longer than `max_token_bytes`.
    #[error("the token is longer than allowed")]
    TooLong,
    /// Not `header.payload.signature` (RFC 7515 §7.1).
    #[error("the token does not have three parts")]
    Parts,
    /// Padding, white space, spare bits, another alphabet.
    #[error("the token's {0} is not unpadded base64url")]
    Encoding(Part),
    /// Broken or ambiguous JSON.
    #[error("the token's {0} {1}")]
    Json(Part, JsonError),
    /// A header of the wrong type, or a `kid` that could not be revoked by.
    #[error("the token's header has an unusable \"{0}\"")]
    Header(&'static str),
    /// `crit` or `b64`: we understand no extension (RFC 7515 §4.1.11, RFC 7797 §6).
    #[error("the token's header asks for an extension that is not supported")]
    Extension,

    // Not from one whom we trust.
    /// No configured issuer has this `iss`.
    #[error("the token's issuer is not accepted")]
    UnknownIssuer,
    /// The key of this `kid` is not, or no longer, the issuer's.
    #[error("the token's key is not known")]
    UnknownKey,
    /// The issuer's keys have not been had yet.
    #[error("the keys of the token's issuer are not known now")]
    NoKeys,
    /// The issuer did not say what the token stands for (RFC 7662).
    #[error("the token's issuer cannot be asked now")]
    Unavailable,
    /// The issuer says that the token is not, or no longer, good (RFC 7662 §2.2).
    #[error("the token's issuer says that it is not active")]
    Inactive,
    /// No `kid`, and several keys would fit.
    #[error("the token names no key, and more than one would fit")]
    AmbiguousKey,
    /// Not in the issuer's list, or not what its key is pinned to.
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// It does not verify.
    #[error("the token's signature is not valid")]
    Signature,

    // Well signed, but not for this or not in this form.
    /// Another kind of JWT, by `typ`.
    #[error("the token is of a kind that is not accepted here")]
    Typ,
    /// A required claim is missing.
    #[error("the token lacks the claim \"{0}\"")]
    ClaimMissing(Box<str>),
    /// A claim of the wrong type.
    #[error("the token's claim \"{0}\" has the wrong type or value")]
    ClaimType(Box<str>),
    /// A name that could not be revoked by: empty, too long, with control characters, of several spellings.
    #[error("the token's claim \"{0}\" cannot be used")]
    ClaimName(Box<str>),
    /// For somebody else.
    #[error("the token is for another audience")]
    Audience,
    /// `nbf` lies ahead.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `iat` lies ahead.
    #[error("the token was issued in the future")]
    IssuedInFuture,
    /// Longer than `max_token_ttl`.
    #[error("the token is valid for longer than allowed")]
    LivesTooLong,
    /// `cnf`: bound to a key whose proof nobody checked (RFC 7800 §3.1).
    #[error("the token is bound to a key, and no proof of it was given")]
    Bound,
    /// Presented with a proof, but bound to no key (RFC 9449 §7.1).
    #[error("the token is bound to no key: it is a bearer token")]
    NotBound,
    /// The proof was signed with another key than `cnf.jkt`.
    #[error("the token is bound to another key")]
    OtherKey,
    /// The client certificate is not that of `cnf.x5t#S256`, or there is none.
    #[error("the token is bound to another client certificate")]
    OtherCertificate,
    /// The proof itself.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// The proof needs this nonce of ours (RFC 9449 §9).
    #[error("the DPoP proof needs the nonce that comes with this answer")]
    NonceWanted(Box<str>),
    /// There is no room to remember one more proof; it is ours to blame.
    #[error("too many proofs at this time")]
    Busy,
    /// Neither `access` nor `refresh`.
    #[error("the token is neither an access nor a refresh token")]
    TokenType,

    // Good once.
    /// Past its `exp`. Said only of a token that is good in everything else.
    #[error("the token has expired")]
    Expired,
}

impl VerifyError {
    /// Whether it is `token_expired` rather than `token_invalid`.
    pub const fn is_expired(&self) -> bool {
        matches!(self, Self::Expired)
    }

    /// What the client is told.
    pub fn to_problem(&self) -> Problem {
        let problem = |code| Problem::new(code, self.to_string());
        // RFC 9449 §7.1 knows no other status for what is wrong with a proof.
        let of_proof = |error| {
            problem(Code::TokenInvalid)
                .with_status(StatusCode::UNAUTHORIZED)
                .for_dpop(PROOF_ALGORITHMS, Some(error))
        };
        match self {
            Self::Expired => problem(Code::TokenExpired),
            Self::Busy => problem(Code::Overloaded),
            Self::NoKeys | Self::Unavailable => {
                problem(Code::Overloaded).with_retry_after(ISSUER_RETRY_AFTER_SECS)
            }
            Self::Proof(_) => of_proof("invalid_dpop_proof"),
            Self::NonceWanted(nonce) => of_proof("use_dpop_nonce").with_nonce(nonce.clone()),
            Self::Bound | Self::NotBound | Self::OtherKey => {
                problem(Code::TokenInvalid).for_dpop(PROOF_ALGORITHMS, None)
            }
            _ => problem(Code::TokenInvalid),
        }
    }

    /// Whether it is about what was shown beside the token, and not about the token itself.
    pub const fn is_about_possession(&self) -> bool {
        matches!(
            self,
            Self::Bound
                | Self::NotBound
                | Self::OtherKey
                | Self::OtherCertificate
                | Self::Proof(_)
                | Self::NonceWanted(_)
                | Self::Busy
        )
    }

    /// Whether nothing is wrong with the token as far as is known, but that cannot be told now: 503, not 401.
    pub const fn is_unavailable(&self) -> bool {
        matches!(self, Self::NoKeys | Self::Unavailable)
    }

    /// The step that was not passed.
    pub const fn step(&self) -> Step {
        match self {
            Self::TooLong | Self::Parts | Self::Encoding(_) | Self::Json(..) => Step::Form,
            Self::Header(_) | Self::Extension => Step::Header,
            Self::UnknownIssuer => Step::Issuer,
            Self::Typ => Step::Typ,
            Self::NoKeys | Self::UnknownKey | Self::AmbiguousKey | Self::Algorithm => Step::Key,
            Self::Unavailable | Self::Inactive | Self::Signature => Step::Signature,
            Self::ClaimMissing(_)
            | Self::ClaimType(_)
            | Self::Bound
            | Self::NotBound
            | Self::OtherKey
            | Self::OtherCertificate
            | Self::Proof(_)
            | Self::NonceWanted(_)
            | Self::Busy => Step::Claims,
            Self::Audience => Step::Audience,
            Self::NotYetValid | Self::IssuedInFuture | Self::LivesTooLong => Step::Times,
            Self::ClaimName(_) => Step::Names,
            Self::TokenType => Step::TokenType,
            Self::Expired => Step::Expiry,
        }
    }

    pub(super) fn claim_type(name: &str) -> Self {
        Self::ClaimType(name.into())
    }

    pub(super) fn name(name: &str) -> Self {
        Self::ClaimName(name.into())
    }
}

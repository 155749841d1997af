//! What a verified token is to the rest of the gateway.

use std::sync::Arc;

pub use jsonwebtoken::Algorithm;

use super::{Binding, KeptClaims};
use crate::clock::UnixTime;

/// What a token is good for: the claim `token_use` or `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenType {
    /// Opens routes.
    Access,
    /// Is exchanged for a new pair at the refresh endpoint.
    Refresh,
}

impl TokenType {
    /// The claim's value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Refresh => "refresh",
        }
    }
}

/// All claims of a verified token, in JSON; duplicates were refused.
pub type Claims = serde_json::Map<String, serde_json::Value>;

/// A token whose signature, issuer, audience, times and form are good. Only `token::verify` makes one; that it is
/// not expired was true at the time it was given, and is checked again on each use of a kept one.
///
/// Names (`token_id`, `subject`, `session`, `client`, `key_id`) were checked for length and control characters
/// (CONTRACT §1), so every one of them can be revoked by.
#[derive(Clone, Debug)]
pub struct VerifiedToken {
    /// The issuer's name in the configuration (`self` for the gateway's own tokens).
    pub issuer: Arc<str>,
    /// `jti`, or `sha256:` + base64url of SHA-256 over the signing input where there is none.
    pub token_id: Box<str>,
    /// `sub`.
    pub subject: Option<Box<str>>,
    /// `sid`, under the name configured for the issuer.
    pub session: Option<Box<str>>,
    /// `client_id` or `azp`.
    pub client: Option<Box<str>>,
    /// What it names as its client under the other names: revoking any of them refuses it.
    pub other_clients: Box<[Box<str>]>,
    /// The key that it was signed with: `kid` of the header; without one, that of the key that verified it.
    pub key_id: Option<Box<str>>,
    /// Granted scopes, in order.
    pub scopes: Box<[Box<str>]>,
    /// Access or refresh; an external token without the claim is an access token.
    pub token_type: TokenType,
    /// `iat`; a token without one counts as issued at the beginning of time.
    pub issued_at: Option<UnixTime>,
    /// `exp`.
    pub expires_at: UnixTime,
    /// Until when it counts as fresh (CONTRACT §2 `fresh_ttl`); `None`: it does not.
    pub fresh_until: Option<UnixTime>,
    /// `cnf`: whoever brings it must show to hold these.
    pub binding: Option<Box<Binding>>,
    /// Every claim, for `require_claims` and for revocation by `claim:NAME`.
    pub claims: KeptClaims,
}

/// Under which claim names things are looked up; each list tries in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimNames {
    /// Default `sub`.
    pub subject: Vec<Box<str>>,
    /// Default `sid`.
    pub session: Vec<Box<str>>,
    /// Default `scope`; a string of words or an array of strings.
    pub scope: Vec<Box<str>>,
    /// Default `client_id`, `azp`.
    pub client: Vec<Box<str>>,
    /// Default `token_use`, `type`.
    pub token_type: Vec<Box<str>>,
}

impl Default for ClaimNames {
    fn default() -> Self {
        let names = |list: &[&str]| list.iter().map(|&name| name.into()).collect();
        Self {
            subject: names(&["sub"]),
            session: names(&["sid"]),
            scope: names(&["scope"]),
            client: names(&["client_id", "azp"]),
            token_type: names(&["token_use", "type"]),
        }
    }
}

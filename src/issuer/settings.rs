//! `[[issuers]]` as used, and what of `[auth]` makes the gateway an issuer itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::sealing::Sealing;
use crate::token::Algorithm;
pub use crate::token::ClaimNames;

/// The name of the gateway's own issuer in selectors and routes.
pub const SELF: &str = "self";

/// The gateway as an issuer: `[auth]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Own {
    /// `iss` of its tokens.
    pub issuer: Box<str>,
    /// `aud` put into and required of its tokens, when not empty.
    pub audience: Vec<Box<str>>,
    /// What new tokens are signed with.
    pub algorithm: Algorithm,
    /// Lifetime of an access token.
    pub access_ttl: Duration,
    /// Lifetime of a session, absolute.
    pub refresh_ttl: Duration,
    /// How long after a password sign-in an access token counts as fresh.
    pub fresh_ttl: Duration,
    /// An own token that the store does not know is refused too.
    pub strict: bool,
    /// Where keys live: `<state dir>/keys`.
    pub keys_dir: PathBuf,
    /// They live in the shared store instead, sealed by this (`key_encryption_file`).
    pub sealing: Option<Arc<Sealing>>,
}

/// An external issuer: the gateway verifies and revokes, somebody else issues.
#[derive(Clone, Debug, PartialEq)]
pub struct External {
    /// Its name in selectors and routes.
    pub name: Arc<str>,
    /// `iss`; `None` for the one legacy issuer that sets none.
    pub issuer: Option<Box<str>>,
    /// Empty: a token with any or no `aud` is accepted.
    pub audience: Vec<Box<str>>,
    /// Never empty; symmetric and asymmetric never mix.
    pub algorithms: Vec<Algorithm>,
    /// Where its keys come from.
    pub keys: KeySource,
    /// Clock skew allowed on `exp`, `nbf`, `iat`.
    pub leeway: Duration,
    /// `exp − iat` (from now, where there is no `iat`); longer is refused.
    pub max_token_ttl: Duration,
    /// Claims that must be present, beside `exp`.
    pub require: Vec<Box<str>>,
    /// Accepted `typ` headers; empty: any that is not another kind's.
    pub typ: Vec<Box<str>>,
    /// Under which names claims are looked up.
    pub claims: ClaimNames,
}

/// Keys that are fetched from their issuer, and fetched again.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// Of the key set, or of the metadata that names it.
    pub url: http::Uri,
    /// `url` is that of the metadata (OpenID Connect Discovery 1.0 §4, RFC 8414 §3).
    pub discovery: bool,
    /// How often they are fetched.
    pub refresh: Duration,
    /// The directory with the last good copy of each issuer's.
    pub copies_dir: PathBuf,
}

/// Opaque tokens: the issuer is asked what each stands for (RFC 7662).
#[derive(Clone, PartialEq)]
pub struct Introspection {
    /// Of the introspection endpoint.
    pub url: http::Uri,
    /// As whom we ask.
    pub client_id: Box<str>,
    /// What proves it.
    pub secret: zeroize::Zeroizing<Vec<u8>>,
    /// How long an answer holds.
    pub cache: Duration,
}

/// Where the keys of an external issuer come from.
#[derive(Clone, PartialEq)]
pub enum KeySource {
    /// A JWK set, already read and checked to be JSON.
    JwksFile {
        /// For messages and reloads.
        path: PathBuf,
        /// What was in it.
        text: String,
    },
    /// One public key in PEM (SPKI, PKCS#1 or a certificate); a token's `kid` is ignored.
    PublicKeyFile {
        /// For messages and reloads.
        path: PathBuf,
        /// What was in it.
        pem: String,
    },
    /// One shared secret, less one trailing newline; a token's `kid` is ignored.
    SecretFile {
        /// For messages and reloads.
        path: PathBuf,
        /// Its bytes.
        secret: zeroize::Zeroizing<Vec<u8>>,
    },
    /// `jwks_url` or `discovery_url`.
    Published(Published),
    /// No keys: its tokens are opaque.
    Introspection(Introspection),
}

impl std::fmt::Debug for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::JwksFile { path, .. } => write!(f, "JwksFile({})", path.display()),
            Self::PublicKeyFile { path, .. } => write!(f, "PublicKeyFile({})", path.display()),
            Self::SecretFile { path, .. } => write!(f, "SecretFile({})", path.display()),
            Self::Published(published) => published.fmt(f),
            Self::Introspection(at) => write!(f, "Introspection({}, as {})", at.url, at.client_id),
        }
    }
}

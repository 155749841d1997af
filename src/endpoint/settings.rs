//! `[auth]` and `[[clients]]` as used by the endpoints.

use std::sync::Arc;
use std::time::Duration;

use crate::issuer::settings::Own;
use crate::route::settings::Cors;
use crate::token::{Algorithm, Claims, KeyError, KeySet};

/// What a reuse of a retired refresh token brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReuse {
    /// RFC 9700 §4.14.
    RevokeSession,
    /// All sessions of the subject.
    RevokeSubject,
    /// Only a log line and an audit event.
    Log,
}

/// `[auth]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Mounts, each starting with `/` and without a trailing one.
    pub prefixes: Vec<Box<str>>,
    /// Lower-case host names; empty: all.
    pub hosts: Vec<Box<str>>,
    /// Whether strangers may make accounts.
    pub signup: bool,
    /// Names, times and algorithm of our own tokens.
    pub own: Own,
    /// Each refresh gives a new refresh token and retires the old one.
    pub rotate_refresh: bool,
    /// A retired token answers with the same successor this long, while that is unused.
    pub reuse_grace: Duration,
    /// What a later use of a retired token brings.
    pub on_reuse: OnReuse,
    /// Extra sign-up fields, kept and returned.
    pub user_fields: Vec<Box<str>>,
    /// `None`: any number; else the oldest is revoked.
    pub max_sessions_per_user: Option<u32>,
    /// Tokens in `Authorization`.
    pub header_transport: bool,
    /// Tokens in cookies.
    pub cookie_transport: bool,
    /// Password rules and hashing.
    pub password: Password,
    /// Brute-force brake.
    pub lockout: Lockout,
    /// Static claims put into every access token.
    pub claims: Claims,
    /// Pages of other origins that may use the endpoints.
    pub cors: Option<Arc<Cors>>,
    /// Somebody else checks the passwords.
    pub delegate: Option<Delegate>,
}

/// `[auth.delegate]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegate {
    /// Where the sign-in is posted to.
    pub url: http::Uri,
    /// In PEM, the authorities that its certificate is verified against in place of the system's.
    pub ca_pem: Option<Box<[u8]>>,
    /// JSON pointer (RFC 6901) to the subject in its 2xx answer. Like the others, it leads into the payload of a JWT
    /// behind a `#`.
    pub subject: Box<str>,
    /// Members of the access token, with pointers to them; `scope` is the scope of the account.
    pub claims: Vec<(Box<str>, Box<str>)>,
    /// Members of the user (`email`, `username`, the `user_fields`), with pointers to them.
    pub fields: Vec<(Box<str>, Box<str>)>,
    /// The member of the sign-in body that names the account.
    pub account: Box<str>,
    /// More members of the sign-in body that are passed on.
    pub pass: Vec<Box<str>>,
    /// For connection and whole answer.
    pub timeout: Duration,
}

/// `[auth.password]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Password {
    /// In characters, after NFC.
    pub min_length: usize,
    /// At least one digit.
    pub require_digit: bool,
    /// At least one character that is neither letter nor digit.
    pub require_symbol: bool,
    /// Refuse the well-known worst.
    pub deny_common: bool,
    /// In KiB.
    pub memory_kib: u32,
    /// Passes.
    pub iterations: u32,
    /// Lanes.
    pub parallelism: u32,
    /// Hashes computed at once; never 0 here.
    pub max_concurrent_hashes: usize,
}

/// `[auth.lockout]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lockout {
    /// Failed sign-ins per account and address; ten times that per account.
    pub attempts: u32,
    /// In this window.
    pub window: Duration,
}

/// How a client proves who it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// `secret_file`: its bytes, less one trailing newline.
    Secret(zeroize::Zeroizing<Vec<u8>>),
    /// `public_key_file`: what verifies its assertions (`private_key_jwt`).
    Key(ClientKey),
}

/// The public key of a client.
#[derive(Clone)]
pub struct ClientKey {
    pem: String,
    keys: Arc<KeySet>,
}

/// What an assertion may be signed with. Symmetric algorithms have no place here: the file is public.
pub const ASSERTION_ALGORITHMS: [Algorithm; 9] = [
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

impl ClientKey {
    /// One public key in PEM.
    ///
    /// # Errors
    /// As [`KeySet::from_public_key`].
    pub fn from_pem(pem: String) -> Result<Self, KeyError> {
        let keys = Arc::new(KeySet::from_public_key(&pem, &ASSERTION_ALGORITHMS)?);
        Ok(Self { pem, keys })
    }
}

impl PartialEq for ClientKey {
    fn eq(&self, other: &Self) -> bool {
        self.pem == other.pem
    }
}

impl Eq for ClientKey {}

impl Credential {
    /// What verifies its assertions, if it makes any.
    pub(super) fn keys(&self) -> Option<&KeySet> {
        match self {
            Self::Secret(_) => None,
            Self::Key(key) => Some(&key.keys),
        }
    }
}

/// `[[clients]]`: who may call the OAuth endpoints as a client.
#[derive(Clone, PartialEq, Eq)]
pub struct Client {
    /// `client_id`.
    pub id: Box<str>,
    /// How it proves who it is.
    pub credential: Credential,
    /// May call `/oauth2/introspect`.
    pub introspect: bool,
    /// May call `/oauth2/revoke` as a client.
    pub revoke: bool,
    /// May use `client_credentials`.
    pub token: bool,
    /// Scopes it may ask for.
    pub scopes: Vec<Box<str>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.id)
    }
}

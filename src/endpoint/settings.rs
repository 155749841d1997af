//! `[auth]` and `[[clients]]` as used by the endpoints.

use std::time::Duration;

use crate::issuer::settings::Own;
use crate::token::Claims;

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

/// `[[clients]]`: who may call the OAuth endpoints as a client.
#[derive(Clone, PartialEq, Eq)]
pub struct Client {
    /// `client_id`.
    pub id: Box<str>,
    /// Its secret, less one trailing newline.
    pub secret: zeroize::Zeroizing<Vec<u8>>,
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

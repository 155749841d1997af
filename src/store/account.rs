//! Users, their sessions and the tokens issued to them.

use std::fmt;
use std::time::Duration;

use super::Answer;
use crate::clock::UnixTime;
use crate::token::{Claims, TokenType};

/// A password hash as a PHC string; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(pub Box<str>);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(redacted)")
    }
}

/// Somebody with an account.
#[derive(Clone, Debug, PartialEq)]
pub struct User {
    /// A UUID; the `sub` of their tokens.
    pub id: Box<str>,
    /// As they wrote it.
    pub email: Box<str>,
    /// As returned; the email where they chose none.
    pub username: Box<str>,
    /// Checked at sign-in.
    pub password_hash: PasswordHash,
    /// The configured `user_fields` that they gave.
    pub fields: Claims,
    /// Put into their access tokens, separated by spaces; mostly empty.
    pub scope: Box<str>,
    /// When they signed up.
    pub created: UnixTime,
    /// May not sign in or refresh.
    pub disabled: bool,
}

/// One login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// A UUID; the `sid` of its tokens.
    pub id: Box<str>,
    /// Whose; the `sub` of its tokens.
    pub subject: Box<str>,
    /// When it began.
    pub created: UnixTime,
    /// When its last token ends; rotation does not extend it.
    pub expires: UnixTime,
    /// What the client called itself, cut to size.
    pub user_agent: Box<str>,
    /// Where it signed in from.
    pub address: Box<str>,
}

/// One issued token, less its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// `jti`.
    pub id: Box<str>,
    /// `sid`; empty for one that a client got for itself.
    pub session: Box<str>,
    /// `sub`.
    pub subject: Box<str>,
    /// Access or refresh.
    pub token_type: TokenType,
    /// `kid` that it was signed with.
    pub key_id: Option<Box<str>>,
    /// `iat`, whole seconds.
    pub issued_at: UnixTime,
    /// `exp`, whole seconds.
    pub expires_at: UnixTime,
    /// What the client that got it called itself, cut to size.
    pub user_agent: Box<str>,
    /// Where it was sent to.
    pub address: Box<str>,
}

impl PasswordHash {
    /// Of an account whose password is checked elsewhere: no password fits it.
    pub fn elsewhere() -> Self {
        Self("!elsewhere".into())
    }
}

/// Somebody whose password was checked elsewhere, as told there.
#[derive(Clone, Debug, PartialEq)]
pub struct Guest {
    /// Their subject there; the `sub` of their tokens here.
    pub id: Box<str>,
    /// As told, or as they wrote it.
    pub email: Box<str>,
    /// The spelling by which emails are compared.
    pub email_key: Box<str>,
    /// As told; the email where nothing was.
    pub username: Box<str>,
    /// The `user_fields` that were told.
    pub fields: Claims,
    /// The scope of their tokens; `None`: as it is here.
    pub scope: Option<Box<str>>,
    /// Now.
    pub at: UnixTime,
}

/// A session and the first tokens of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The session.
    pub session: Session,
    /// Its tokens.
    pub tokens: Vec<Token>,
}

/// A session as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// Its place among all sessions; the cursor of lists.
    pub number: u64,
    /// The session.
    pub session: Session,
    /// When it was revoked, as far as the store and the trail know.
    pub revoked_at: Option<UnixTime>,
    /// `iat` of its newest token.
    pub last_issued_at: UnixTime,
}

/// A token as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// Its place among all tokens; the cursor of lists.
    pub number: u64,
    /// The token.
    pub token: Token,
    /// When the token, its session or its subject was last revoked, as far as the store and the trail know. May
    /// tell of a revocation that has been lifted since: whether it is in force is the blocklist's to say.
    pub revoked_at: Option<UnixTime>,
    /// Who revoked this very token, in the words of the log (`subject:ID`).
    pub revoked_by: Option<Box<str>>,
    /// When a refresh gave its holder a newer one.
    pub retired_at: Option<UnixTime>,
}

/// A part of a list, newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Only rows with a lower number than this.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: usize,
}

/// What became of a new account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It is there, with its session and tokens if there were any.
    Done,
    /// Somebody has that email; nothing was written.
    EmailTaken,
    /// Somebody has that id; nothing was written.
    IdTaken,
}

/// What became of a new session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// It is there, with its tokens.
    Done,
    /// Since the password was checked it was changed, or the account was disabled or deleted; nothing was written.
    CredentialsChanged,
}

/// What is marked as revoked, for people to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Sessions.
    pub sessions: Vec<Box<str>>,
    /// Tokens.
    pub tokens: Vec<Box<str>>,
    /// When.
    pub at: UnixTime,
    /// By whom, in the words of the log.
    pub by: Box<str>,
}

/// A refresh token is exchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The presented refresh token.
    pub presented: Token,
    /// Now.
    pub now: UnixTime,
    /// How long a retired token answers with the same successor.
    pub grace: Duration,
    /// Take in a well-signed token that the store does not know (it was restored from an older copy), with this
    /// session; `None`: such a token is [`Rotated::Unknown`].
    pub adopt: Option<Session>,
    /// The new access token; recorded whenever the exchange succeeds.
    pub access: Token,
    /// The new refresh token, which takes the place of the presented one; `None`: that one stays good.
    pub successor: Option<Token>,
}

/// The refresh token that took the place of a retired one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Successor {
    /// `jti`.
    pub id: Box<str>,
    /// `iat`.
    pub issued_at: UnixTime,
    /// `exp`.
    pub expires_at: UnixTime,
}

/// What became of a refresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotated {
    /// The presented token was good; the tokens given are recorded.
    Done,
    /// It had been retired within the grace, and its successor was not used yet: here it is. Only the access token
    /// given is recorded.
    Repeated(Successor),
    /// It had been retired before; nothing was written.
    Reused,
    /// The store does not know it; nothing was written.
    Unknown,
    /// Its account is disabled or gone; nothing was written.
    NoAccount,
}

/// The store's part in accounts. Every change is one transaction.
pub trait Accounts: Send + Sync {
    /// Makes an account; `email_key` is the spelling by which emails are compared. With `login`, also its first
    /// session and tokens, all or nothing.
    fn create_user(&self, user: User, email_key: Box<str>, login: Option<Login>) -> Answer<'_, Created>;

    /// The account of somebody whose password was checked elsewhere: made at their first sign-in, and brought up to
    /// date at each. An email belongs to whom it was told of last; another account that had it keeps it for show only.
    fn welcome(&self, guest: Guest) -> Answer<'_, User>;

    /// The account with this email, in the spelling by which emails are compared.
    fn user_by_email<'a>(&'a self, email_key: &'a str) -> Answer<'a, Option<User>>;

    /// The account with this id.
    fn user<'a>(&'a self, id: &'a str) -> Answer<'a, Option<User>>;

    /// Accounts by the spelling by which emails are compared, in byte order, those behind `after` (such a spelling), at
    /// most `limit`.
    fn users<'a>(&'a self, after: &'a str, limit: usize) -> Answer<'a, Vec<User>>;

    /// The hash of the account whose id is the first at or behind this one in byte order, else of the first of all;
    /// `None` where there are no accounts. Drawing ids at random draws hashes as they are mixed in the store.
    fn hash_near<'a>(&'a self, id: &'a str) -> Answer<'a, Option<PasswordHash>>;

    /// Lets an account sign in and refresh, or not; whether there is one.
    fn set_disabled<'a>(&'a self, id: &'a str, disabled: bool) -> Answer<'a, bool>;

    /// Forgets an account with its sessions and tokens; whether there was one. What was revoked is in the log.
    fn delete_user<'a>(&'a self, id: &'a str) -> Answer<'a, bool>;

    /// Begins a session, provided that the account is enabled and still has the hash that was just checked.
    fn start_session(&self, login: Login, checked: PasswordHash) -> Answer<'_, Started>;

    /// Sets a password hash, provided that the old one is still in force; whether it was.
    fn set_password(&self, user: Box<str>, old: PasswordHash, new: PasswordHash) -> Answer<'_, bool>;

    /// The session with this id.
    fn session<'a>(&'a self, id: &'a str) -> Answer<'a, Option<SessionRow>>;

    /// Sessions of a subject, newest first.
    fn sessions<'a>(&'a self, subject: &'a str, page: Page) -> Answer<'a, Vec<SessionRow>>;

    /// All sessions of a subject that have not expired, oldest first, whether or not they are marked as revoked: a mark
    /// stays when its revocation is taken back, so what is in force is for the blocklist to say.
    fn unexpired_sessions<'a>(&'a self, subject: &'a str, now: UnixTime) -> Answer<'a, Vec<Session>>;

    /// Records a token that belongs to no session: one that a client got for itself. Its `session` is empty.
    fn record_token(&self, token: Token) -> Answer<'_, ()>;

    /// The token with this id.
    fn token<'a>(&'a self, id: &'a str) -> Answer<'a, Option<TokenRow>>;

    /// Tokens of a subject, newest first.
    fn tokens<'a>(&'a self, subject: &'a str, page: Page) -> Answer<'a, Vec<TokenRow>>;

    /// Tokens of a subject that belong to no session, were issued at `since` or later, and have not expired.
    fn lone_tokens<'a>(
        &'a self,
        subject: &'a str,
        since: UnixTime,
        now: UnixTime,
    ) -> Answer<'a, Vec<TokenRow>>;

    /// Marks as revoked what is not marked yet; what the store does not know is passed over.
    fn mark_revoked(&self, mark: Mark) -> Answer<'_, ()>;

    /// Takes the mark off a token.
    fn unmark_token<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;

    /// Exchanges a refresh token: retires it and records its successor, by compare-and-set. Of any number of
    /// exchanges of one token at once, one is [`Rotated::Done`].
    fn rotate(&self, rotation: Rotation) -> Answer<'_, Rotated>;

    /// Forgets up to `limit` tokens, then up to `limit` sessions without tokens, that expired before `before`; how
    /// many tokens and sessions went.
    fn prune(&self, before: UnixTime, limit: usize) -> Answer<'_, u64>;
}

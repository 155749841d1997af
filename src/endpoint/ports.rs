//! What the endpoints need of the rooms around them, as two narrow traits: tokens to verify and issue, and the
//! revocation log. The real ones are put together in `app`; tests have small ones of their own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::answer::Problem;
use crate::clock::UnixTime;
use crate::issuer::Stated;
use crate::revocation::{Kind, Revocation, Selector, TokenKeys};
use crate::token::{Binding, Claims, Possession, Proof, TokenType, VerifiedToken, VerifyError};

/// Why a token was not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unverified {
    /// Malformed, forged, of an issuer, key or audience that is not ours to accept.
    Invalid,
    /// Good but for its `exp`.
    Expired,
    /// What it is bound to was not shown; the problem says how to.
    Unheld(Box<Problem>),
    /// It could not be told: the key set is being fetched, or the key store is away.
    Unavailable,
}

/// Why a statement of somebody else was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unstated {
    /// Malformed, forged, of nobody that we know.
    Invalid(VerifyError),
    /// It could not be told: the key set is being fetched.
    Unavailable,
}

/// What a new token shall say.
#[derive(Clone, Copy, Debug)]
pub struct Grant<'a> {
    /// `type`, and `typ` of the header (`at+jwt` or `JWT`).
    pub token_type: TokenType,
    /// `jti`.
    pub token_id: &'a str,
    /// `sub`.
    pub subject: &'a str,
    /// `sid`; `None` for a token that a client gets for itself.
    pub session: Option<&'a str>,
    /// `client_id`.
    pub client: Option<&'a str>,
    /// `iat`, whole seconds.
    pub issued_at: UnixTime,
    /// `exp`, whole seconds.
    pub expires_at: UnixTime,
    /// `fresh`: it comes of a password sign-in just now. Left out when false.
    pub fresh: bool,
    /// `scope`; left out when empty.
    pub scope: &'a str,
    /// `cnf`: what it is bound to.
    pub binding: Option<Binding>,
    /// More claims; never one of those above.
    pub claims: &'a Claims,
}

/// A new token.
#[derive(Clone)]
pub struct Issued {
    /// Its text.
    pub text: String,
    /// The `kid` it was signed with.
    pub key_id: Option<Box<str>>,
}

/// The signer failed; the details are in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token could not be signed")]
pub struct SigningFailed;

/// Verifying and issuing tokens.
pub trait Tokens: Send + Sync + 'static {
    /// Takes one of the gateway's own tokens, of any type, from a client that has shown `possession`; a proof in it
    /// counts as used then. Whether the token is revoked is not looked at.
    ///
    /// # Errors
    /// See [`Unverified`]; a token of another issuer is [`Unverified::Invalid`].
    fn admit_own<'a>(
        &'a self,
        text: &'a str,
        possession: &'a Possession,
        now: UnixTime,
    ) -> BoxFuture<'a, Result<Arc<VerifiedToken>, Unverified>>;

    /// Takes a proof that came without a token of ours, from a client that asks for one bound to its key.
    ///
    /// # Errors
    /// [`Unverified::Unheld`]: it was used before, lacks a nonce, or cannot be remembered.
    fn take_proof(&self, proof: &Proof, now: UnixTime) -> Result<(), Unverified>;

    /// The same, whatever its `exp`.
    ///
    /// # Errors
    /// Never [`Unverified::Expired`].
    fn verify_own_tolerating_expiry<'a>(
        &'a self,
        text: &'a str,
        now: UnixTime,
    ) -> BoxFuture<'a, Result<Arc<VerifiedToken>, Unverified>>;

    /// Verifies a token of any configured issuer, the gateway itself among them.
    fn verify<'a>(
        &'a self,
        text: &'a str,
        now: UnixTime,
    ) -> BoxFuture<'a, Result<Arc<VerifiedToken>, Unverified>>;

    /// The same, for revoking alone: whether or not it is valid yet.
    fn verify_for_revoking<'a>(
        &'a self,
        text: &'a str,
        now: UnixTime,
    ) -> BoxFuture<'a, Result<Arc<VerifiedToken>, Unverified>>;

    /// Verifies a JWT of an external issuer that is no credential: a security event or logout token. Its form and its
    /// signature alone have been looked at.
    ///
    /// # Errors
    /// See [`Unstated`].
    fn verify_statement<'a>(
        &'a self,
        text: &'a str,
        now: UnixTime,
    ) -> BoxFuture<'a, Result<Stated, Unstated>>;

    /// The longest that a token of this issuer can live.
    fn lifetime_max(&self, issuer: &str) -> Duration;

    /// Signs a token. With an algorithm that signs with randomness the same grant gives another text each time.
    ///
    /// # Errors
    /// The signer failed.
    fn issue(&self, grant: &Grant<'_>) -> Result<Issued, SigningFailed>;

    /// Signs an introspection response for this audience (RFC 9701 §5). `None` where there is no key of ours that
    /// others could verify it with.
    ///
    /// # Errors
    /// The signer failed.
    fn sign_introspection(
        &self,
        audience: &str,
        view: &Claims,
        now: UnixTime,
    ) -> Result<Option<String>, SigningFailed>;

    /// The public keys that verify at `now` as a JWK set (RFC 7517 §5), in JSON.
    fn jwks(&self, now: UnixTime) -> Bytes;
}

/// The log cannot take entries now; none of the batch is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the revocation log is unavailable")]
pub struct LogUnavailable;

/// The revocation log and the blocklist.
pub trait Revocations: Send + Sync + 'static {
    /// Appends a batch: when this is done it is durable and enforced, all of it. Gives the sequence of the last
    /// entry. Dropping the future may or may not stop it.
    fn append(&self, batch: Vec<Revocation>) -> BoxFuture<'_, Result<u64, LogUnavailable>>;

    /// Every kind of entry that refuses a token with these keys; none: it is not refused.
    fn refused_by(&self, keys: &TokenKeys, now: UnixTime) -> Vec<Kind>;

    /// Until when the entry of this selector is in force at least; `None`: there is none.
    fn in_force_until(&self, selector: &Selector) -> Option<UnixTime>;

    /// The sequence of the last entry.
    fn sequence(&self) -> u64;

    /// Done when the trail in the store has been fed up to this sequence.
    fn trail_caught_up(&self, sequence: u64) -> BoxFuture<'_, ()>;
}

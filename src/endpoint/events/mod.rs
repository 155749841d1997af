//! Receivers of what others know first: that a session is over, an account disabled, a credential changed.
//!
//! What they promise: a statement counts only if an external issuer signed it with a key of its tokens, says that it is
//! of this kind, and speaks of its own subjects; what it asks for is in the log before it is acknowledged; it has its
//! effect once. Statements and tokens never pass for each other: see [`crate::token::verify_statement`].
//!
//! **Once.** The log remembers: with the effects of a statement, in the same batch, goes an entry of kind `token` whose
//! value is `event:` and its `jti`. So the memory is as durable as the effects, reaches every gateway of a fleet, and
//! is forgotten when the effects are. What comes again after that, or across a gateway that has not heard of it yet,
//! changes nothing either: a cutoff is taken from the statement's own times and not from the moment it arrived, so no
//! token issued since is refused.

mod logout_token;
mod push;
mod subject;

use std::time::Duration;

use aws_lc_rs::digest;
use tokio::sync::Mutex;

use super::Endpoints;
use super::call::Call;
use crate::answer::Problem;
use crate::clock::UnixTime;
use crate::issuer::Stated;
use crate::revocation::{Kind, Revocation, Selector};
use crate::token::{NAME_BYTES_MAX, VerifyError};

pub(super) use logout_token::refuse as refuse_logout_token;
pub(super) use push::refuse as refuse_push;

/// How far the clock of an issuer may be ahead. More than for tokens: a revocation should not have to wait.
const SKEW: Duration = Duration::from_secs(60);
/// What marks an entry as the memory of a statement.
const MARK: &str = "event:";
/// The longest `jti`, so that it fits a token id with the mark before it.
const ID_BYTES_MAX: usize = NAME_BYTES_MAX - MARK.len();
/// Doors before the log. Statements with one `jti` go through the same one, one at a time.
const DOORS: usize = 64;

/// What keeps two deliveries of one statement from having their effects both.
#[derive(Debug)]
pub(super) struct Doors([Mutex<()>; DOORS]);

impl Default for Doors {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

/// What a statement asks to be refused.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    kind: Kind,
    value: Box<str>,
    /// For kinds with a cutoff.
    issued_before: UnixTime,
}

/// What became of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// What it asks for is in force.
    Done,
    /// It came before.
    Again,
    /// It asks for nothing that can be done here.
    Nothing,
}

/// The cutoff for what happened at this time. `iat` counts whole seconds, so that second is refused whole.
fn cutoff_of(at: UnixTime) -> UnixTime {
    UnixTime::from_secs(at.secs().saturating_add(1))
}

/// When a statement was made; for statements must say so, and not in the future.
fn made_at(stated: &Stated, now: UnixTime) -> Result<UnixTime, VerifyError> {
    let leeway = stated.terms.leeway;
    stated.statement.times(now.minus(leeway), now.plus(leeway.max(SKEW)))?;
    let made = stated.statement.date("iat")?;
    made.ok_or_else(|| VerifyError::ClaimMissing("iat".into()))
}

impl Endpoints {
    /// Gives a statement its effects, unless it had them before: when this is done they are durable and in force.
    ///
    /// # Errors
    /// 503 when the log does not take them; none is in force then, and it can be sent again.
    async fn take(
        &self,
        call: &Call,
        stated: &Stated,
        id: &str,
        targets: Vec<Target>,
        reason: &str,
    ) -> Result<Taken, Problem> {
        if targets.is_empty() {
            return Ok(Taken::Nothing);
        }
        let issuer = &*stated.terms.issuer;
        let mark = Selector::new(Kind::Token, issuer, format!("{MARK}{id}"));
        let hash = digest::digest(&digest::SHA256, mark.value.as_bytes());
        let _door = self.doors.0[usize::from(hash.as_ref()[0]) % DOORS].lock().await;
        if self.parts.revocations.in_force_until(&mark).is_some() {
            return Ok(Taken::Again);
        }
        let now = self.parts.clock.now();
        let entry = |selector: Selector, issued_before, reason: &str| Revocation {
            selector,
            lift: false,
            issued_before,
            expires_at: now.plus(self.parts.tokens.lifetime_max(issuer)),
            reason: reason.into(),
            actor: format!("event:{issuer}").into(),
            address: call.address(),
            at: now,
        };
        let mut batch: Vec<Revocation> = Vec::with_capacity(targets.len() + 1);
        for Target { kind, value, issued_before } in targets {
            let issued_before = (!kind.is_absolute()).then_some(issued_before);
            let entry = entry(Selector::new(kind, issuer, value), issued_before, reason);
            if !batch.contains(&entry) {
                batch.push(entry);
            }
        }
        batch.push(entry(mark, None, "this event was received"));
        self.parts.revocations.append(batch).await?;
        Ok(Taken::Done)
    }

    fn tell(&self, call: &Call, stated: &Stated, id: &str, what: &str, taken: Taken) {
        let effect = match taken {
            Taken::Done => "in force",
            Taken::Again => "none: it came before",
            Taken::Nothing => "none: it names nothing that can be revoked here",
        };
        tracing::info!(
            target: "portcullis::audit",
            issuer = &*stated.terms.issuer,
            jti = id,
            event = what,
            effect,
            address = &*call.address(),
            "an event was received"
        );
    }
}

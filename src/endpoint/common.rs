//! What the gateways of one store know in common, so that whoever guesses or repeats gains nothing by going from one to
//! the next: failed sign-ins, assertions and proofs that were used.
//!
//! This gateway keeps all of it in its own memory, too, and goes by that where there is no such store or it does not
//! answer at once: nobody is refused because of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;

use super::lockout::{self, Attempt, Locked, Lockout};
use super::settings;
use crate::clock::UnixTime;
use crate::route::network;
use crate::store::{Answer, Common, CommonKey, Count};

/// How long an answer of the store is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// The way to it; none where the store is of this gateway alone.
pub(super) struct Shared(pub(super) Option<Arc<dyn Common>>);

impl Shared {
    /// `None`: there is nothing in common, or it cannot be told now.
    async fn ask<T>(&self, ask: impl FnOnce(&dyn Common) -> Answer<'_, T>) -> Option<T> {
        let common = self.0.as_deref()?;
        match tokio::time::timeout(PATIENCE, ask(common)).await {
            Ok(Ok(told)) => Some(told),
            Ok(Err(error)) => {
                tracing::debug!(%error, "what gateways have in common is not known");
                None
            }
            Err(_) => None,
        }
    }

    /// Asked before a password is looked at.
    ///
    /// # Errors
    /// Locked, and for how long yet.
    pub(super) async fn check(
        &self,
        own: &Lockout,
        attempt: Attempt<'_>,
        rule: settings::Lockout,
        now: UnixTime,
    ) -> Result<(), Locked> {
        match self.ask(|common| common.counts(keys(attempt), now)).await {
            Some(counts) => judge(counts, rule, now),
            None => own.check(attempt, rule, now),
        }
    }

    /// Told what became of the attempt, as [`Lockout::conclude`].
    ///
    /// # Errors
    /// Locked meanwhile.
    pub(super) async fn conclude(
        &self,
        own: &Lockout,
        attempt: Attempt<'_>,
        rule: settings::Lockout,
        now: UnixTime,
        good: bool,
    ) -> Result<(), Locked> {
        let here = own.conclude(attempt, rule, now, good);
        let keys = keys(attempt);
        if good {
            let Some(counts) = self.ask(|common| common.counts(keys, now)).await else { return here };
            judge(counts, rule, now)?;
            if counts[0].count > 0 {
                self.ask(|common| common.forget(keys[0])).await;
            }
            return Ok(());
        }
        let here_max = u64::from(lockout::limits(rule)[0]);
        match self.ask(|common| common.count(keys, here_max, now.plus(rule.window), now)).await {
            // This one is counted already.
            Some(counts) => {
                judge(counts.map(|it| Count { count: it.count.saturating_sub(1), ..it }), rule, now)
            }
            None => here,
        }
    }

    /// Whether nobody of the others has used this, which may be used once until `until`; `true` where it cannot be
    /// told. `kind` keeps those of one kind apart from the others.
    pub(super) async fn is_first_use(&self, kind: &str, id: &[u8], until: UnixTime, now: UnixTime) -> bool {
        let key = key(kind, &[id]);
        self.ask(|common| common.use_once(key, until, now)).await.unwrap_or(true)
    }
}

fn judge(counts: [Count; 2], rule: settings::Lockout, now: UnixTime) -> Result<(), Locked> {
    let limits = lockout::limits(rule);
    let full = counts.iter().zip(limits).find(|(count, limit)| count.count >= u64::from(*limit));
    full.map_or(Ok(()), |(count, _)| Err(Locked(count.until.since(now))))
}

/// By what the failures of an account from an address are known, and those from all addresses.
fn keys(attempt: Attempt<'_>) -> [CommonKey; 2] {
    let account = attempt.account.as_bytes();
    let here = match attempt.address.map(network) {
        None => key("failed here", &[&[], account]),
        Some(IpAddr::V4(address)) => key("failed here", &[&address.octets(), account]),
        Some(IpAddr::V6(address)) => key("failed here", &[&address.octets(), account]),
    };
    [here, key("failed", &[account])]
}

fn key(kind: &str, parts: &[&[u8]]) -> CommonKey {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [kind.as_bytes()].iter().chain(parts) {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part);
    }
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

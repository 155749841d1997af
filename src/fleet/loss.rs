//! After this gateway has lost its log, or got an old copy of it back.
//!
//! It refuses what was issued before (`on_lost_state`). The others need not: what this gateway had appended they have.
//! But what it had acknowledged and not forwarded yet, or what the shared log has lost as well, nobody has any more. The
//! audit trail tells: if something was revoked here that is not in force now that the whole shared log is, the cutoffs
//! are for everybody, or a token that was revoked would be let in elsewhere.

use std::time::Duration;

use super::hub::Hub;
use super::{Batch, BatchEntry, EngineError, Epoch, Met, Stamp};
use crate::revocation::settings::OnLostState;
use crate::revocation::{Kind, LOST_REASON, Loss, Revocation, Selector};
use crate::store::{StoreError, TrailEntry, TrailFilter};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The others may be refilling the shared log: so many looks find something missing before it is.
const LOOKS: u32 = 10;
/// Rows of the trail that are read at once, the newest first.
const PAGE: usize = 1000;

/// Settles the last loss, if it is not yet; then waits for ever.
pub(super) async fn settle(
    hub: &Hub,
    epoch: Epoch,
    mut is_caught_up: tokio::sync::watch::Receiver<bool>,
) -> Result<std::convert::Infallible, EngineError> {
    if let Some(loss) = hub.log.loss().filter(|loss| !loss.is_settled) {
        let _ = is_caught_up.wait_for(|caught| *caught).await;
        if is_lacking(hub, loss).await {
            tell(hub, epoch, loss).await?;
            remember(hub, None);
        } else {
            tracing::info!(
                "what the lost log had is in force again, as far as the audit trail knows: the other gateways need \
                 not refuse what was issued before"
            );
            remember(hub, Some(Loss { is_settled: true, ..loss }));
        }
    }
    std::future::pending().await
}

/// The shared log has more of this gateway's log than there is: it is an old copy, which nobody could tell at the
/// start, because the engine was away.
pub(super) async fn notice(hub: &Hub, met: &Met) -> Result<(), EngineError> {
    let Some(seen) = met.own.filter(|own| *own > hub.log.sequence()) else { return Ok(()) };
    let found = hub.log.sequence();
    match hub.losing.on_lost_state {
        OnLostState::Refuse => Err(EngineError::Refused(format!(
            "it has seen this gateway's log up to {seen}, and the log ends at {found}: it is an old copy. Restore it, or \
             choose another [revocation] on_lost_state, and restart"
        ))),
        OnLostState::Empty => {
            tracing::error!(
                found,
                seen,
                "the revocation log is an old copy: what was revoked and not forwarded may be accepted again"
            );
            Ok(())
        }
        // At a later attempt to come in, after the same loss.
        OnLostState::Cutoff if is_cut(hub, seen) => Ok(()),
        OnLostState::Cutoff => {
            tracing::error!(
                found,
                seen,
                "the revocation log is an old copy: every token issued before now is refused"
            );
            let done = hub.log.cut_everything(&hub.losing.issuers, seen, hub.clock.now()).await;
            done.map_err(|error| EngineError::Unreachable(error.to_string()))
        }
    }
}

/// Whether everything that was issued before this loss is refused already.
fn is_cut(hub: &Hub, seen: u64) -> bool {
    let Some(loss) = hub.log.loss().filter(|loss| loss.seen >= seen) else { return false };
    hub.losing.issuers.iter().all(|issuer| {
        let entry = hub.log.blocklist().get(&Selector::new(Kind::Issuer, issuer.name.clone(), ""));
        entry.is_some_and(|entry| entry.issued_before >= Some(loss.cutoff))
    })
}

/// Whether something was revoked here that is in force nowhere. While the store is away nobody knows.
async fn is_lacking(hub: &Hub, loss: Loss) -> bool {
    let mut lacking = 0;
    loop {
        match lacks(hub, loss).await {
            Ok(None) => return false,
            Ok(Some(entry)) => {
                lacking += 1;
                if lacking >= LOOKS {
                    tracing::error!(
                        kind = %entry.kind, issuer = %entry.issuer, sequence = entry.sequence,
                        "what this gateway had revoked is lost with its log, and the other gateways have not got it: \
                         all of them are told to refuse what was issued before"
                    );
                    return true;
                }
            }
            Err(error) => tracing::debug!(%error, "a loss waits for the store"),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// An entry that was made here, that the shared log did not have when this gateway met it again, and that is not in
/// force.
async fn lacks(hub: &Hub, loss: Loss) -> Result<Option<TrailEntry>, StoreError> {
    let booked = hub.booked().filter(|booked| *booked <= loss.seen);
    let now = hub.clock.now();
    let mut before = loss.seen.saturating_add(1);
    loop {
        let filter = TrailFilter {
            since: Some(booked.unwrap_or(0)),
            before: Some(before),
            standing: true,
            limit: PAGE,
            ..TrailFilter::default()
        };
        let rows = hub.losing.trail.trail_list(filter).await?;
        let Some(last) = rows.last() else { return Ok(None) };
        before = last.sequence;
        let is_ours = |row: &TrailEntry| match row.address.rsplit_once("gateway ") {
            None => true,
            // What went to the shared log first is written as if it came from another.
            Some((_, gateway)) => booked.is_none() && *gateway == *hub.gateway().to_string(),
        };
        let missing = rows.into_iter().find(|row| {
            let selector =
                row.kind.parse().map(|kind| Selector::new(kind, row.issuer.clone(), row.value.clone()));
            let in_force = selector.ok().and_then(|selector| hub.log.blocklist().get(&selector));
            is_ours(row)
                && row.expires_at > now
                && in_force.is_none_or(|in_force| in_force.issued_before < row.issued_before)
        });
        if missing.is_some() {
            return Ok(missing);
        }
    }
}

/// Appends the cutoffs that the loss left to the shared log; the books stay as they are.
async fn tell(hub: &Hub, epoch: Epoch, loss: Loss) -> Result<(), EngineError> {
    let now = hub.clock.now();
    let entry = |name: &str| {
        let selector = Selector::new(Kind::Issuer, name, "");
        // Lifted meanwhile, or somebody else's: then it goes the way of every entry.
        let ours =
            hub.log.blocklist().get(&selector).filter(|ours| ours.issued_before == Some(loss.cutoff))?;
        let revocation = Revocation {
            selector,
            lift: false,
            issued_before: ours.issued_before,
            expires_at: ours.expires_at,
            reason: LOST_REASON.into(),
            actor: "gateway".into(),
            address: "".into(),
            at: now,
        };
        Some(BatchEntry { sequence: 0, revocation })
    };
    let entries: Vec<_> = hub.losing.issuers.iter().filter_map(|issuer| entry(&issuer.name)).collect();
    if !entries.is_empty() {
        let batch = Batch { gateway: hub.gateway(), sent_at: now, entries };
        hub.engine.append(epoch, Stamp::Refill, batch).await?;
    }
    Ok(())
}

/// Whom the loss concerns is kept for the next start; if it cannot be, it is found out again.
fn remember(hub: &Hub, loss: Option<Loss>) {
    if let Err(error) = tokio::task::block_in_place(|| hub.log.set_loss(loss)) {
        tracing::warn!(%error, "what was found out about the lost log is not remembered");
    }
}

//! The link to the shared log, from one failure to the next.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::hub::Hub;
use super::{EngineError, Epoch, Member, Met, Position, inbox, loss, outbox, whole};
use crate::revocation::{FollowError, Origin, Record, SelectorKey};

/// The first and the longest pause before the next attempt.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LONGEST: Duration = Duration::from_secs(1);
/// Who refills the shared log waits for up to so long first, so that not everybody does at once.
const SPREAD: Duration = Duration::from_secs(2);
/// Between two looks at whether the shared log is still the same.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks between two reports of how this gateway does.
const LOOKS_A_BEAT: u32 = 3;

/// Keeps the link up for as long as it is polled.
pub(super) async fn keep(hub: Arc<Hub>) {
    let mut pause = PAUSE_FIRST;
    let mut told = String::new();
    let mut warned = false;
    loop {
        let began = Instant::now();
        let Err(error) = once(&hub, &mut warned, &mut told).await;
        hub.lost_touch();
        let words = error.to_string();
        if words != told {
            tracing::warn!(engine = %hub.engine.name(), error = %words, "the link to the shared log is down");
            told = words;
        }
        pause =
            if began.elapsed() > 2 * PAUSE_LONGEST { PAUSE_FIRST } else { (pause * 2).min(PAUSE_LONGEST) };
        // Not all gateways at once.
        tokio::time::sleep(pause.mul_f64(0.5 + chance() / 2.0)).await;
    }
}

/// Looks at the age of what is known, some times a second.
pub(super) async fn watch(hub: Arc<Hub>) {
    let mut was_stale = false;
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        hub.status.look();
        let stale = hub.status.is_stale();
        if stale != was_stale {
            let age_s = hub.status.age().as_secs();
            if stale {
                tracing::warn!(
                    age_s,
                    "nothing was heard from the shared log for too long: what is known is stale"
                );
            } else {
                tracing::info!("the shared log is heard again");
            }
            was_stale = stale;
        }
    }
}

async fn once(
    hub: &Hub,
    warned: &mut bool,
    told: &mut String,
) -> Result<std::convert::Infallible, EngineError> {
    let met = hub.engine.meet(hub.gateway()).await?;
    hub.status.compare_clocks(met.now, hub.clock.now());
    hub.books_say(met.own);
    if !std::mem::replace(warned, true) {
        for warning in hub.engine.warnings().await? {
            tracing::warn!(engine = %hub.engine.name(), "the shared log may lose revocations: {warning}");
        }
    }
    let (from, own, newest) = come_in(hub, met).await?;
    let epoch = met_epoch(hub)?;
    let follow = hub.engine.follow(from).await?;
    hub.status.set_connected(true);
    tracing::info!(engine = %hub.engine.name(), %from, "linked to the shared log");
    told.clear();
    let (caught_up, is_caught_up) = tokio::sync::watch::channel(false);
    let forward = async {
        // What others did comes first: a lift of ours that they overtook is not forwarded.
        let _ = is_caught_up.clone().wait_for(|caught| *caught).await;
        outbox::run(hub, epoch, own).await
    };
    tokio::select! {
        ended = inbox::run(hub, epoch, follow, newest, &caught_up) => ended,
        ended = forward => ended,
        ended = look(hub, epoch) => ended,
        ended = loss::settle(hub, epoch, is_caught_up.clone()) => ended,
    }
}

fn met_epoch(hub: &Hub) -> Result<Epoch, EngineError> {
    let epoch = *hub.epoch.lock().unwrap_or_else(PoisonError::into_inner);
    epoch.map(|(epoch, _)| epoch).ok_or(EngineError::OtherEpoch)
}

/// Finds out where to go on: the position to follow from, the own sequence to forward from, and the position at which
/// this gateway has caught up.
async fn come_in(hub: &Hub, met: Met) -> Result<(Position, u64, Position), EngineError> {
    let place = hub.log.place();
    loss::notice(hub, &met).await?;
    let sequence = hub.log.sequence();
    let sent_before = hub.sent.borrow().sent;
    let oldest = hub.log.oldest();
    let is_same = place.is_some_and(|place| place.epoch == 0 || place.epoch == met.epoch.0);
    let at = place.map(|place| Position(place.position.0, place.position.1));
    let gapless = match at {
        Some(at) if is_same => at <= met.newest && (at == met.newest || hub.engine.holds(at).await?),
        _ => false,
    };
    let can_forward = met.own.is_some_and(|own| own <= sequence && own + 1 >= oldest);
    let (met, own) = if gapless && can_forward {
        let own = met.own;
        (met, own)
    } else {
        if let Some(own) = met.own.filter(|_| can_forward) {
            // What was lifted here and is still to be forwarded must not be taken over as if it were new.
            recall(hub, own, sent_before, false).await?;
        }
        rejoin(hub, met, place.is_some()).await?
    };
    let own = own.unwrap_or(0);
    recall(hub, own, sent_before, gapless && can_forward).await?;
    *hub.epoch.lock().unwrap_or_else(PoisonError::into_inner) = Some((met.epoch, met.replicas));
    let from = if gapless && can_forward { at.unwrap_or(Position::START) } else { met.newest };
    Ok((from, own, met.newest))
}

/// This gateway is new, or was away for too long, or the shared log is not what it was: both get what they lack.
async fn rejoin(hub: &Hub, met: Met, was_in: bool) -> Result<(Met, Option<u64>), EngineError> {
    let has_some = hub.log.blocklist().counts().total() > 0;
    if was_in && has_some {
        tracing::warn!(
            "the shared log does not go on where this gateway left it: it is compared with what is in force here"
        );
        tokio::time::sleep(SPREAD.mul_f64(chance())).await;
    }
    // Others may have refilled it meanwhile.
    let met = if was_in { hub.engine.meet(hub.gateway()).await? } else { met };
    let sequence = hub.log.sequence();
    let theirs = whole::load(hub, &met).await?;
    // A log that nobody was told of yet, and that is all there, tells better than its keys do who revoked and why.
    let tells = !was_in && hub.log.oldest() <= 1;
    if has_some && !tells {
        whole::refill(hub, met.epoch, &theirs).await?;
    }
    let keeps = met.own.is_some_and(|own| own <= sequence && own + 1 >= hub.log.oldest());
    if keeps {
        let own = met.own;
        return Ok((met, own));
    }
    let own = if tells { 0 } else { sequence };
    hub.engine.enter(met.epoch, hub.gateway(), own).await?;
    Ok((met, Some(own)))
}

/// Reads back which own entries the shared log does not have. Lifts that it had and lost stay lost: what was revoked
/// since must not be lifted by them.
async fn recall(hub: &Hub, own: u64, sent_before: u64, goes_on: bool) -> Result<(), EngineError> {
    let until = hub.log.sequence();
    let mut entries = Vec::new();
    let mut lifts: HashMap<SelectorKey, Vec<usize>> = HashMap::new();
    if own < until {
        let mut follower = hub.log.follow(own);
        while follower.position() < until {
            let records = match follower.next().await {
                Ok(records) => records,
                Err(FollowError::Closed) => std::future::pending().await,
                Err(error) => return Err(EngineError::Unreadable(error.to_string())),
            };
            for Record { sequence, origin, revocation } in records {
                let (key, lift) = (revocation.selector.key(), revocation.lift);
                match origin {
                    Origin::Local => {
                        if lift {
                            lifts.entry(key).or_default().push(entries.len());
                        }
                        entries.push((sequence, key, lift, lift && sequence <= sent_before));
                    }
                    // Others have revoked it since, and a restart must not make us forget it.
                    Origin::Shared { gateway, sequence, .. }
                        if !lift && (gateway != hub.gateway() || sequence == 0) =>
                    {
                        for at in lifts.remove(&key).unwrap_or_default() {
                            entries[at].3 = true;
                        }
                    }
                    Origin::Shared { .. } => {}
                }
            }
        }
    }
    hub.pending().recall(own, until, goes_on, entries);
    Ok(())
}

/// Whether the shared log is still the one that it was, and how this gateway does.
async fn look(hub: &Hub, epoch: Epoch) -> Result<std::convert::Infallible, EngineError> {
    let mut looks = 0_u32;
    loop {
        if looks.is_multiple_of(LOOKS_A_BEAT) {
            hub.engine.beat(member(hub)).await?;
        }
        tokio::time::sleep(LOOK_EVERY).await;
        looks += 1;
        let applied = *hub.applied.borrow();
        let met = hub.engine.meet(hub.gateway()).await?;
        if met.epoch != epoch {
            return Err(EngineError::OtherEpoch);
        }
        if met.newest < applied {
            return Err(EngineError::Unreachable("the shared log is an older copy of itself".to_owned()));
        }
        hub.status.compare_clocks(met.now, hub.clock.now());
        *hub.epoch.lock().unwrap_or_else(PoisonError::into_inner) = Some((epoch, met.replicas));
    }
}

fn member(hub: &Hub) -> Member {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let now = hub.clock.now();
    Member {
        gateway: hub.gateway().to_string().into(),
        host: host.trim().into(),
        version: env!("CARGO_PKG_VERSION").into(),
        started_at: hub.started_at.millis(),
        beat_at: now.millis(),
        position: hub.applied.borrow().to_string().into(),
        sequence: hub.log.sequence(),
        outbox: hub.outbox(),
        lag_ms: millis(hub.lag()),
        ready: hub.status.not_ready().is_none(),
    }
}

/// Between 0 and 1.
fn chance() -> f64 {
    let mut byte = [0; 2];
    let _ = getrandom::fill(&mut byte);
    f64::from(u16::from_le_bytes(byte)) / f64::from(u16::MAX)
}

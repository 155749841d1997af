//! The whole state at once: for a gateway that is new or was away for too long, and for a shared log that lost some.

use std::collections::HashMap;

use super::hub::Hub;
use super::{Batch, BatchEntry, EngineError, Epoch, Met, Position, Stamp, StateEntry};
use crate::clock::UnixTime;
use crate::revocation::{Blocklist, Kind, Origin, Place, Revocation, Selector, SelectorKey, Standing};

/// Entries of one batch of a refill.
const REFILL_ENTRIES: usize = 500;

/// Takes over the state of the shared log; afterwards everything up to `met.newest` is in force here. Gives what the
/// shared log holds, for a comparison.
pub(super) async fn load(hub: &Hub, met: &Met) -> Result<Blocklist, EngineError> {
    let before = hub.log.place();
    let now = u32::try_from(hub.clock.now().secs()).unwrap_or(u32::MAX);
    let ours = hub.log.blocklist();
    let compare = ours.counts().total() > 0;
    let theirs = Blocklist::sized(if compare { ours.state_shards() } else { 2 });
    // What the books have of ours is part of what is read.
    let placed = met.own.unwrap_or(0);
    let mut lifts: HashMap<SelectorKey, (Position, u8)> = HashMap::new();
    let (mut seen, mut absorbed) = (0_u64, 0_u64);
    let mut pages = hub.engine.state().await?;
    while let Some(page) = pages.next().await? {
        let mut new = Vec::new();
        for (position, entry) in page {
            if entry.lift {
                let last = lifts.entry(entry.key).or_insert((position, entry.kind));
                last.0 = last.0.max(position);
                continue;
            }
            if entry.expires < now || lifts.get(&entry.key).is_some_and(|(lifted, _)| *lifted > position) {
                continue;
            }
            seen += 1;
            let standing = standing(&entry);
            if compare {
                theirs.hold(&standing);
            }
            if !ours.has(&standing) && !hub.pending().has(&entry.key, true, placed) {
                new.push(standing);
            }
        }
        absorbed += new.len() as u64;
        hub.log.absorb(&new);
    }
    if compare {
        lift(hub, met, before, &lifts, &theirs).await?;
    }
    hub.log.set_place(Place { epoch: met.epoch.0, position: (met.newest.0, met.newest.1) });
    if absorbed > 0 {
        (hub.on_absorbed)();
    }
    if absorbed > 0 || before.is_none_or(|place| place.epoch != met.epoch.0) {
        hub.log.snapshot().await.map_err(|error| EngineError::Unreachable(format!("{error}")))?;
    }
    hub.applied.send_replace(met.newest);
    tracing::info!(entries = seen, new = absorbed, position = %met.newest, "took over the state of the shared log");
    Ok(theirs)
}

/// What was lifted behind our place, and not revoked again, is lifted here.
async fn lift(
    hub: &Hub,
    met: &Met,
    before: Option<Place>,
    lifts: &HashMap<SelectorKey, (Position, u8)>,
    theirs: &Blocklist,
) -> Result<(), EngineError> {
    let known = before.filter(|place| place.epoch == 0 || place.epoch == met.epoch.0);
    let behind = known.map_or(Position::START, |place| Position(place.position.0, place.position.1));
    let now = hub.clock.now();
    let mut entries = Vec::new();
    for (key, (position, kind)) in lifts {
        let Some(kind) = Kind::of_number(*kind) else { continue };
        let selector = Selector::unnamed(kind, *key);
        let ours = hub.log.blocklist().get(&selector);
        if *position > behind
            && let Some(ours) = ours
            && theirs.get(&selector).is_none()
            // A lift that is older than the loss does not know of its cutoffs.
            && !is_of_a_loss(hub, selector.kind.number(), ours.issued_before)
            && !hub.pending().has(key, false, met.own.unwrap_or(0))
        {
            entries.push(unnamed(selector, true, None, ours.expires_at, now));
        }
    }
    for some in entries.chunks(1000) {
        let done = async {
            let origin = Origin::Shared {
                gateway: hub.gateway(),
                sequence: 0,
                position: (met.newest.0, met.newest.1),
            };
            let prepared = hub.log.prepare(some.to_vec(), vec![origin; some.len()], false).await?;
            hub.log.put(prepared)?.kept().await
        };
        done.await.map_err(|error| EngineError::Unreachable(error.to_string()))?;
    }
    Ok(())
}

/// Appends what is in force here and not in `theirs`.
pub(super) async fn refill(hub: &Hub, epoch: Epoch, theirs: &Blocklist) -> Result<(), EngineError> {
    let now = hub.clock.now();
    let ours = hub.log.blocklist();
    let mut entries = Vec::new();
    let mut count = 0_u64;
    for shard in 0..ours.state_shards() {
        for standing in ours.state_shard(shard) {
            let is_past = u64::from(standing.expires) < now.secs();
            if theirs.has(&standing) || is_past || is_of_a_loss(hub, standing.kind, standing.issued_before) {
                continue;
            }
            let Some(kind) = Kind::of_number(standing.kind) else { continue };
            let selector = Selector::unnamed(kind, standing.key);
            let expires_at = UnixTime::from_secs(standing.expires.into());
            let revocation = unnamed(selector, false, standing.issued_before, expires_at, now);
            entries.push(BatchEntry { sequence: 0, revocation });
        }
        if entries.len() >= REFILL_ENTRIES || shard + 1 == ours.state_shards() {
            while !entries.is_empty() {
                let some: Vec<_> = entries.drain(..entries.len().min(REFILL_ENTRIES)).collect();
                count += some.len() as u64;
                let batch = Batch { gateway: hub.gateway(), sent_at: now, entries: some };
                hub.engine.append(epoch, Stamp::Refill, batch).await?;
            }
        }
    }
    if count > 0 {
        tracing::warn!(
            entries = count,
            "the shared log lacked entries that are in force here; it has them again"
        );
    }
    Ok(())
}

/// The cutoffs that the loss of this gateway's log has left are not for the others (`loss.rs`).
fn is_of_a_loss(hub: &Hub, kind: u8, issued_before: Option<UnixTime>) -> bool {
    let is_issuer = kind == Kind::Issuer.number();
    is_issuer && hub.log.loss().is_some_and(|loss| issued_before == Some(loss.cutoff))
}

fn standing(entry: &StateEntry) -> Standing {
    Standing { kind: entry.kind, key: entry.key, expires: entry.expires, issued_before: entry.issued_before }
}

fn unnamed(
    selector: Selector,
    lift: bool,
    issued_before: Option<UnixTime>,
    expires_at: UnixTime,
    at: UnixTime,
) -> Revocation {
    Revocation {
        selector,
        lift,
        issued_before,
        expires_at,
        reason: "known by its key only".into(),
        actor: "gateway".into(),
        address: "".into(),
        at,
    }
}

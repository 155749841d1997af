//! What others have revoked: into the log of this gateway, in the order of the shared log.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Duration;

use super::hub::Hub;
use super::pending::Pending;
use super::{Batch, Delivered, EngineError, Epoch, Follow, Position};
use crate::revocation::{AppendError, Blocklist, GatewayId, Origin, Place, Revocation, SelectorKey};

/// How long the engine is asked to wait for something new.
const QUIET: Duration = Duration::from_millis(500);
/// A batch that is younger than this is the end of the shared log.
const RECENT: Duration = Duration::from_secs(1);
/// The most weight of what goes to the log at once; a quarter of what may wait there.
const WEIGHT_MAX: usize = 8 << 10;
/// Before the log is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// One entry on its way to the log.
type Incoming = (Revocation, Origin);

/// Follows until something fails.
pub(super) async fn run(
    hub: &Hub,
    epoch: Epoch,
    mut follow: Box<dyn Follow>,
    newest: Position,
    caught_up: &tokio::sync::watch::Sender<bool>,
) -> Result<std::convert::Infallible, EngineError> {
    loop {
        let delivered = follow.next(QUIET).await?;
        let at_end = match delivered.last() {
            None => true,
            Some(last) => hub.status.engine_time(hub.clock.now()).since(last.at) < RECENT,
        };
        let reached = delivered.last().map(|last| last.position);
        for piece in pieces(hub, delivered)? {
            apply(hub, epoch, piece).await?;
        }
        if at_end || reached.is_some_and(|reached| reached >= newest) {
            caught_up.send_if_modified(|caught| !std::mem::replace(caught, true));
        }
        if at_end {
            hub.status.heard_all();
        }
    }
}

/// As much as the log takes at once.
#[derive(Default)]
struct Piece {
    entries: Vec<Incoming>,
    weight: usize,
    /// The last own sequence that came back.
    returned: u64,
    /// Positions of own entries that go to the log now.
    direct: Vec<Position>,
    end: Position,
}

fn pieces(hub: &Hub, delivered: Vec<Delivered>) -> Result<Vec<Piece>, EngineError> {
    let mut pieces = vec![Piece::default()];
    for Delivered { position, payload, .. } in delivered {
        let batch = Batch::read(&payload).map_err(|error| EngineError::Unreadable(error.to_string()))?;
        if pieces.last().is_some_and(|piece| piece.weight >= WEIGHT_MAX) {
            pieces.push(Piece::default());
        }
        let own = batch.gateway == hub.gateway();
        for entry in batch.entries {
            let (sequence, revocation) = (entry.sequence, entry.revocation);
            let Some(piece) = pieces.last_mut() else { break };
            if own && sequence > 0 {
                piece.returned = sequence;
            } else if own && piece.direct.last() != Some(&position) {
                piece.direct.push(position);
            }
            piece.weight += 1 + (revocation.value_bytes() + 128) / 256;
            let shared =
                Origin::Shared { gateway: batch.gateway, sequence, position: (position.0, position.1) };
            piece.entries.push((revocation, shared));
            piece.end = position;
            // A batch of others that is cut in two is read again from its beginning after a crash, which is harmless.
            if piece.weight >= 2 * WEIGHT_MAX {
                pieces.push(Piece::default());
            }
        }
        if let Some(piece) = pieces.last_mut() {
            piece.end = position;
        }
    }
    pieces.retain(|piece| piece.end > Position::START);
    Ok(pieces)
}

async fn apply(hub: &Hub, epoch: Epoch, piece: Piece) -> Result<(), EngineError> {
    let Piece { entries, returned, direct, end, .. } = piece;
    let delicate = entries.iter().any(|(entry, _)| entry.lift);
    loop {
        let wanted = {
            let mut pending = hub.pending();
            if returned > 0 && !delicate && !pending.has_lifts() {
                pending.returned(returned);
            }
            wanted(hub.gateway(), hub.log.blocklist(), &mut pending, &entries)
        };
        if wanted.is_empty() {
            break;
        }
        let (revocations, origins): (Vec<_>, Vec<_>) = wanted.iter().cloned().unzip();
        // Whoever waits for an own entry waits for the disk, too.
        let lazy = direct.is_empty();
        let prepared = match hub.log.prepare(revocations, origins, lazy).await {
            Ok(prepared) => prepared,
            Err(error) => {
                rest(error).await?;
                continue;
            }
        };
        let put = {
            let mut pending = hub.pending();
            let is_delicate = delicate || pending.has_lifts();
            if is_delicate
                && self::wanted(hub.gateway(), hub.log.blocklist(), &mut pending, &entries) != wanted
            {
                continue;
            }
            hub.log.put(prepared)
        };
        let kept = match put {
            Ok(promise) => promise.kept().await,
            Err(error) => Err(error),
        };
        match kept {
            Ok(ack) => {
                let now = hub.clock.now();
                let foreign = wanted.iter().filter(
                    |(_, origin)| matches!(origin, Origin::Shared { gateway, .. } if *gateway != hub.gateway()),
                );
                foreign.for_each(|(entry, _)| hub.metrics.propagation_seconds.observe(now.since(entry.at)));
                for (offset, (_, origin)) in wanted.iter().enumerate() {
                    if let Origin::Shared { gateway, sequence: 0, position } = origin
                        && *gateway == hub.gateway()
                        && direct.contains(&Position(position.0, position.1))
                    {
                        let position = Position(position.0, position.1);
                        hub.came_back(position, ack.sequence + 1 + offset as u64 - wanted.len() as u64);
                    }
                }
                break;
            }
            Err(error) => rest(error).await?,
        }
    }
    if returned > 0 {
        hub.pending().returned(returned);
    }
    hub.log.set_place(Place { epoch: epoch.0, position: (end.0, end.1) });
    hub.applied.send_replace(end);
    Ok(())
}

/// The log cannot be written now: nothing is lost, the shared log has it.
async fn rest(error: AppendError) -> Result<(), EngineError> {
    match error {
        AppendError::Closed => std::future::pending().await,
        AppendError::Invalid { .. } | AppendError::TooLarge => {
            Err(EngineError::Unreadable(error.to_string()))
        }
        _ => {
            tokio::time::sleep(RETRY).await;
            Ok(())
        }
    }
}

/// What of these has to go to the log, in view of what is on its way from here. Each is looked at as if those before it
/// had been carried out: what is in force now is not what will be then.
fn wanted(
    gateway: GatewayId,
    list: &Blocklist,
    pending: &mut Pending,
    entries: &[Incoming],
) -> Vec<Incoming> {
    let delicate = entries.iter().any(|(entry, _)| entry.lift);
    // Keys that those before have revoked (true) or lifted.
    let mut changed: HashMap<SelectorKey, bool> = HashMap::new();
    // Own entries up to here stand before the one that is looked at.
    let mut behind = 0;
    let mut wanted = Vec::with_capacity(entries.len());
    for (entry, origin) in entries {
        let key = entry.selector.key();
        let Origin::Shared { gateway: from, sequence, .. } = *origin else { continue };
        let own = from == gateway && sequence > 0;
        if own {
            behind = sequence;
        }
        let before = changed.get(&key).copied();
        let in_force = before != Some(false) && list.has(&entry.standing());
        let is_wanted = match (own, entry.lift) {
            // It is in the log; what others did before it in the shared log may have undone it.
            (true, false) => !in_force && !pending.has(&key, true, behind),
            (true, true) => {
                before.unwrap_or_else(|| list.has_key(entry)) && !pending.has(&key, false, behind)
            }
            (false, true) => !pending.has(&key, false, behind),
            (false, false) => {
                pending.void_lifts(&key);
                // What only repeats what is in force is not worth a line, unless it tells who and why.
                !(in_force && entry.selector.is_unnamed())
            }
        };
        if is_wanted {
            if delicate {
                changed.insert(key, !entry.lift);
            }
            wanted.push((entry.clone(), *origin));
        }
    }
    wanted
}

impl Hub {
    /// How many own entries the shared log does not have.
    pub(super) fn outbox(&self) -> u64 {
        let sent = self.sent.borrow().sent;
        self.log.sequence().saturating_sub(sent)
    }

    /// Forgets which shared log it was.
    pub(super) fn lost_touch(&self) {
        *self.epoch.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.set_sent(|sent| sent.up = false);
        self.status.set_connected(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixTime;
    use crate::revocation::{Kind, Selector};

    const HERE: GatewayId = GatewayId([1; 16]);
    const THERE: GatewayId = GatewayId([2; 16]);

    fn entry(lift: bool) -> Revocation {
        Revocation {
            selector: Selector::new(Kind::Token, "self", "t"),
            lift,
            issued_before: None,
            expires_at: UnixTime::from_secs(4_000_000_000),
            reason: "".into(),
            actor: "".into(),
            address: "".into(),
            at: UnixTime::from_secs(1),
        }
    }

    /// Entries of one token in the order of the shared log: whose, its sequence there, whether it takes back.
    fn incoming(order: &[(GatewayId, u64, bool)]) -> Vec<Incoming> {
        let shared = |gateway, sequence| Origin::Shared { gateway, sequence, position: (sequence, 0) };
        order.iter().map(|&(gateway, sequence, lift)| (entry(lift), shared(gateway, sequence))).collect()
    }

    /// Whether the token is revoked in the end, when all of `order` is looked at as one piece.
    fn is_revoked(before: bool, pending: &mut Pending, order: &[(GatewayId, u64, bool)]) -> bool {
        let list = Blocklist::sized(2);
        if before {
            list.hold(&entry(false).standing());
        }
        let last = wanted(HERE, &list, pending, &incoming(order)).pop();
        last.map_or(before, |(entry, _)| !entry.lift)
    }

    fn on_its_way(lifts: &[bool]) -> Pending {
        let mut pending = Pending::default();
        let key = entry(false).selector.key();
        let ticket = pending.begin(lifts.iter().map(|lift| (key, *lift)));
        pending.settle(ticket, Some(lifts.len() as u64));
        pending
    }

    #[test]
    fn a_lift_behind_an_own_revocation_is_carried_out_also_when_both_come_at_once() {
        assert!(!is_revoked(true, &mut on_its_way(&[false]), &[(HERE, 1, false), (THERE, 1, true)]));
        assert!(is_revoked(true, &mut on_its_way(&[false]), &[(THERE, 1, true), (HERE, 1, false)]));
        // The second own one is still to come.
        let order = [(HERE, 1, false), (THERE, 1, true)];
        assert!(is_revoked(true, &mut on_its_way(&[false, false]), &order));
    }

    #[test]
    fn what_is_read_again_ends_as_the_shared_log_has_it() {
        // Nothing of it is known to be on its way: the gateway was away, or started.
        let mut none = Pending::default();
        assert!(is_revoked(true, &mut none, &[(THERE, 1, true), (HERE, 1, false)]));
        assert!(is_revoked(true, &mut none, &[(HERE, 1, true), (HERE, 2, false)]));
        assert!(!is_revoked(false, &mut none, &[(THERE, 1, false), (HERE, 1, true)]));
        assert!(!is_revoked(false, &mut none, &[(HERE, 1, false), (THERE, 1, true)]));
    }
}

//! The projection of the log into the audit trail of the store: each entry once, in order, never on the way of a
//! request or of an acknowledgement. While the store is away, the segments that it has not seen are kept.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::follow::{FollowError, trail_reached};
use super::shared::Shared;
use super::{Handle, Origin, Record};
use crate::store::{StoreError, Trail, TrailEntry};

/// The first and the longest pause after a failure.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LONGEST: Duration = Duration::from_secs(10);
/// Fewer entries than this are followed by a rest, in which the next gather: each transaction writes the last pages
/// of its tables once more. Whoever waits for the trail ends the rest.
const FEW: usize = 4096;
const REST: Duration = Duration::from_millis(25);
/// What the trail has is made durable so often at most: a sync of the store is in the way of the log's own, on one disk.
/// Until then the log has it: its segments stay, and a power cut takes the position back with the entries.
const SYNC_EVERY: Duration = Duration::from_secs(5);

/// Feeds the trail until the log is closed. The position is the store's own, kept in the transaction of the entries,
/// so that this can be dropped and begun again at any moment.
pub async fn project(handle: Handle, trail: Arc<dyn Trail>) {
    let mut pause = PAUSE_FIRST;
    loop {
        let Err(stop) = feed(&handle, &*trail, &mut pause).await;
        match stop {
            Stop::Closed => return,
            Stop::Store(error) => {
                tracing::warn!(error = &error as &dyn Error, "the audit trail waits for the store");
            }
            Stop::Log(error) => {
                tracing::error!(error = &error as &dyn Error, "the audit trail waits for the log");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_LONGEST);
    }
}

enum Stop {
    Closed,
    Store(StoreError),
    Log(FollowError),
}

async fn feed(
    handle: &Handle,
    trail: &dyn Trail,
    pause: &mut Duration,
) -> Result<std::convert::Infallible, Stop> {
    let shared = handle.shared();
    let mut position = trail.trail_position().await.map_err(Stop::Store)?;
    if position > handle.sequence() {
        tracing::error!(
            position,
            "the audit trail is ahead of the log; entries up to there will not be in it"
        );
    }
    trail_reached(shared, position.min(handle.sequence()));
    // What can be read need not be on disk: the process before may have been killed between the two.
    sync(shared, trail, position).await?;
    let mut durable = position;
    let mut synced_at = Instant::now();
    // One follower for all of it: it remembers where in a segment it is.
    let mut follower = handle.follow(position);
    loop {
        let is_behind = durable < position;
        let next = tokio::select! {
            biased;
            () = shared.trail_sync.notified(), if is_behind => None,
            () = tokio::time::sleep_until(synced_at + SYNC_EVERY), if is_behind => None,
            next = follower.next() => Some(next),
        };
        let records = match next {
            None => {
                sync(shared, trail, position).await?;
                durable = position;
                synced_at = Instant::now();
                continue;
            }
            Some(Ok(records)) => records,
            Some(Err(FollowError::Closed)) => {
                if is_behind {
                    sync(shared, trail, position).await?;
                }
                return Err(Stop::Closed);
            }
            Some(Err(FollowError::Gone { oldest })) => {
                tracing::error!(
                    from = position + 1,
                    to = oldest,
                    "the audit trail has a gap: the log is gone there"
                );
                position = oldest;
                trail_reached(shared, position);
                follower = handle.follow(position);
                continue;
            }
            Some(Err(error)) => return Err(Stop::Log(error)),
        };
        let last = records.last().map_or(position, |record| record.sequence);
        let few = records.len() < FEW;
        trail.trail_append(records.into_iter().map(entry).collect()).await.map_err(Stop::Store)?;
        position = last;
        trail_reached(shared, position);
        *pause = PAUSE_FIRST;
        if few {
            let _ = tokio::time::timeout(REST, shared.trail_hurry.notified()).await;
        }
    }
}

/// Makes everything durable that was appended, up to `position`.
async fn sync(shared: &Shared, trail: &dyn Trail, position: u64) -> Result<(), Stop> {
    trail.trail_sync().await.map_err(Stop::Store)?;
    shared.trail_durable.fetch_max(position, Ordering::SeqCst);
    Ok(())
}

fn entry(record: Record) -> TrailEntry {
    let address = address(&record);
    let Record { sequence, revocation, .. } = record;
    TrailEntry {
        sequence,
        kind: revocation.selector.kind.to_string().into(),
        issuer: revocation.selector.issuer,
        value: revocation.selector.value,
        lift: revocation.lift,
        issued_before: revocation.issued_before,
        expires_at: revocation.expires_at,
        reason: revocation.reason,
        actor: revocation.actor,
        address,
        at: revocation.at,
    }
}

/// From where an entry was asked for, as the trail tells it: with the gateway, where that was another.
pub fn address(record: &Record) -> Box<str> {
    let address = &record.revocation.address;
    match record.origin {
        Origin::Local => address.clone(),
        Origin::Shared { gateway, .. } if address.is_empty() => format!("gateway {gateway}").into(),
        Origin::Shared { gateway, .. } => format!("{address}, gateway {gateway}").into(),
    }
}

pub(super) async fn wait_for(shared: &Shared, sequence: u64) {
    let mut settled = shared.settled.subscribe();
    while shared.trail_position.load(Ordering::SeqCst) < sequence {
        shared.trail_hurry.notify_one();
        if shared.closed.load(Ordering::SeqCst) || settled.changed().await.is_err() {
            return;
        }
    }
}

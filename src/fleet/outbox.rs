//! What was revoked here: from the log of this gateway into the shared log, each entry once.

use super::hub::{Hub, Sent};
use super::{Batch, BatchEntry, EngineError, Epoch, Stamp};
use crate::revocation::{FollowError, LOST_REASON, Origin, Record, Revocation};

/// Entries of one batch, and their bytes.
const ENTRIES_MAX: usize = 500;
const BYTES_MAX: usize = 256 << 10;
/// So many entries of others in a row are told to the books, so that they need not be read again.
const SILENT_MAX: u64 = 10_000;

/// Forwards until something fails. `booked` is what the books of the shared log say.
pub(super) async fn run(
    hub: &Hub,
    epoch: Epoch,
    mut booked: u64,
) -> Result<std::convert::Infallible, EngineError> {
    let mut follower = hub.log.follow(booked);
    hub.log.keep_behind(booked);
    hub.set_sent(|sent| {
        *sent = Sent { up: true, sent: booked, sure: sent.sure.min(booked), position: sent.position };
    });
    loop {
        let records = match follower.next().await {
            Ok(records) => records,
            // The link begins anew, and finds that the log does not reach back.
            Err(FollowError::Gone { .. }) => return Err(EngineError::OutOfStep { own: Some(booked) }),
            Err(FollowError::Closed) => std::future::pending().await,
            Err(error @ FollowError::Read(_)) => return Err(EngineError::Unreadable(error.to_string())),
        };
        let mut rest = records.into_iter().peekable();
        while rest.peek().is_some() {
            let (mut entries, mut bytes, mut last) = (Vec::new(), 0, 0);
            while entries.len() < ENTRIES_MAX
                && bytes < BYTES_MAX
                && let Some(Record { sequence, origin, revocation }) = rest.next()
            {
                last = sequence;
                if is_of_a_loss(&revocation) {
                    continue;
                }
                if origin == Origin::Local && !(revocation.lift && hub.pending().is_void(sequence)) {
                    bytes += revocation.value_bytes() + 128;
                    entries.push(BatchEntry { sequence, revocation });
                } else if origin == Origin::Local {
                    hub.pending().drop_lift(sequence);
                    tracing::warn!(
                        sequence,
                        "an entry was taken back here while others revoked it again: it stays revoked elsewhere"
                    );
                }
            }
            send(hub, epoch, &mut booked, last, entries).await?;
        }
    }
}

/// A gateway that lost its log refuses what was issued before; whether the others must is found out in `loss.rs`.
fn is_of_a_loss(revocation: &Revocation) -> bool {
    &*revocation.actor == "gateway" && &*revocation.reason == LOST_REASON
}

async fn send(
    hub: &Hub,
    epoch: Epoch,
    booked: &mut u64,
    last: u64,
    entries: Vec<BatchEntry>,
) -> Result<(), EngineError> {
    let wanted = hub.settings.wait_replicas;
    let mut sure = true;
    let mut position = None;
    if !entries.is_empty() {
        let batch = Batch { gateway: hub.gateway(), sent_at: hub.clock.now(), entries };
        let appended = hub.engine.append(epoch, Stamp::Log { after: *booked, last }, batch).await?;
        *booked = last;
        sure = appended.replicas >= wanted;
        position = Some(appended.position);
    } else if last - *booked > SILENT_MAX {
        hub.engine.enter(epoch, hub.gateway(), last).await?;
        *booked = last;
    }
    hub.log.keep_behind(last);
    hub.set_sent(|sent| {
        sent.up = true;
        sent.sent = last;
        if sure {
            sent.sure = last;
        }
        sent.position = position.unwrap_or(sent.position);
    });
    Ok(())
}

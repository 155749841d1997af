//! Following the log: from memory when close behind, from its segments when further back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error::OpenError;
use super::files::segment_name;
use super::record::{Origin, Record};
use super::replay;
use super::shared::{Applied, Shared};

/// Records read from segments at once, and what else their last frame has.
const READ_MAX: usize = 4096;

/// Why a follower cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The log does not reach back so far any more.
    #[error("the log begins after sequence {oldest}")]
    Gone {
        /// The last sequence that is not in the log any more: one can follow from here.
        oldest: u64,
    },
    /// A segment could not be read.
    #[error("the log could not be read back")]
    Read(#[source] Arc<OpenError>),
    /// The log was closed.
    #[error("the revocation log is closed")]
    Closed,
}

/// One who follows the log. It sees what is in force and on disk, so nothing that a power cut could take back.
pub struct Follower {
    shared: Arc<Shared>,
    position: u64,
    /// Where reading goes on: the first sequence of a segment, and an offset in it.
    place: (u64, u64),
}

impl Follower {
    pub(super) fn new(shared: Arc<Shared>, position: u64) -> Self {
        Self { shared, position, place: (0, 0) }
    }

    /// The sequence of the last record that was given out.
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// The next records, some thousand at most, at least one; waits for them. Nothing is lost if the future is
    /// dropped.
    ///
    /// # Errors
    /// [`FollowError::Gone`] when segments behind its position were removed; a damaged or failing disk.
    pub async fn next(&mut self) -> Result<Vec<Record>, FollowError> {
        let mut settled = self.shared.settled.subscribe();
        loop {
            let until = *settled.borrow_and_update();
            if until > self.position {
                let records = match self.remembered(until) {
                    Some(records) => records,
                    None => self.read(until).await?,
                };
                if let Some(last) = records.last() {
                    self.position = last.sequence;
                    return Ok(records);
                }
            }
            if self.shared.closed.load(Ordering::SeqCst) && *settled.borrow() <= self.position {
                return Err(FollowError::Closed);
            }
            settled.changed().await.map_err(|_| FollowError::Closed)?;
        }
    }

    /// `None` when memory does not reach back so far.
    fn remembered(&self, until: u64) -> Option<Vec<Record>> {
        let ring = self.shared.ring();
        let wanted = self.position + 1;
        if ring.batches.front()?.first > wanted {
            return None;
        }
        let start = ring.batches.partition_point(|batch| batch.first + batch.entries.len() as u64 <= wanted);
        let mut taken = 0;
        let enough = |batch: &&Applied| {
            let go_on = taken < READ_MAX;
            taken += batch.entries.len();
            go_on
        };
        let batches: Vec<_> = ring.batches.iter().skip(start).take_while(enough).cloned().collect();
        drop(ring);
        let records = batches.iter().flat_map(|batch| {
            let origins = batch.origins.iter().copied().chain(std::iter::repeat(Origin::Local));
            (batch.first..).zip(batch.entries.iter().zip(origins))
        });
        let records = records.filter(|(sequence, _)| (wanted..=until).contains(sequence)).take(READ_MAX).map(
            |(sequence, (revocation, origin))| Record { sequence, origin, revocation: revocation.clone() },
        );
        Some(records.collect())
    }

    async fn read(&mut self, until: u64) -> Result<Vec<Record>, FollowError> {
        let (shared, after, place) = (Arc::clone(&self.shared), self.position, self.place);
        let read = tokio::task::spawn_blocking(move || read_segments(&shared, after, until, place));
        let (records, place) = read.await.map_err(|_| FollowError::Closed)??;
        self.place = place;
        Ok(records)
    }
}

/// Records after `after`, up to `until` and to the end of one segment; and where to go on.
fn read_segments(
    shared: &Shared,
    after: u64,
    until: u64,
    place: (u64, u64),
) -> Result<(Vec<Record>, (u64, u64)), FollowError> {
    let segments = shared.segments.list();
    let at = segments.partition_point(|(first, _)| *first <= after + 1);
    let Some(&(first, _)) = at.checked_sub(1).and_then(|at| segments.get(at)) else {
        let oldest = segments.first().map_or(until, |(first, _)| first - 1);
        return Err(FollowError::Gone { oldest });
    };
    let next = segments.get(at).map(|(next, _)| *next);
    let settled = until;
    let until = next.map_or(until, |next| until.min(next - 1));
    let name = segment_name(first);
    let from = if place.0 == first { place.1 } else { 0 };
    let mut records: Vec<Record> = Vec::new();
    let read = replay::read_on(&*shared.disk, &name, (first, from), (after, until), &mut |more| {
        records.extend(more);
        records.len() < READ_MAX
    });
    match (read, next) {
        // An old copy of the log ends before what was seen of it; what follows the loss begins far behind.
        (Ok(_), Some(next)) if records.is_empty() && next <= settled => {
            Err(FollowError::Gone { oldest: next - 1 })
        }
        (Ok(offset), _) => Ok((records, (first, offset))),
        // It may have been removed between the look at the list and the look at the file.
        (Err(_), _) if !shared.segments.list().iter().any(|(other, _)| *other == first) => {
            let oldest = shared.segments.list().first().map_or(until, |(first, _)| first - 1);
            Err(FollowError::Gone { oldest })
        }
        (Err(error), _) => Err(FollowError::Read(Arc::new(error))),
    }
}

/// Says that the audit trail has everything up to `sequence`.
pub(super) fn trail_reached(shared: &Shared, sequence: u64) {
    shared.trail_position.fetch_max(sequence, Ordering::SeqCst);
    // Whoever waits looks again.
    shared.settled.send_modify(|_| {});
}

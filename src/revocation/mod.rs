//! The revocation log, and what is projected from it.
//!
//! The log is the truth; the blocklist that requests are checked against, snapshots, the audit trail, live
//! connections to cut are projections of it, fed in its order. What this room promises:
//!
//! * A revocation that was acknowledged is on disk (by the policy of `fsync`) and in force, and is so again before
//!   [`open`] returns after any crash. A batch is whole or not there.
//! * Matching is exact, and a check waits for nothing.
//! * A damaged file is never read as something else: the torn end of the log, which nobody was told is durable, is
//!   cut off; anything else that could be a loss stops the start.
//! * A disk that fails costs new revocations, never those in force, and is tried again by itself.
//!
//! `writer.rs` tells the story; `docs/design.md` draws the formats and argues the crash cases. The room knows nothing
//! of requests, tokens' text, SQL or other gateways.

mod absolute;
pub mod audit;
mod blocklist;
mod bulk;
mod cutoff;
mod cutoffs;
mod disk;
mod entry;
mod error;
mod files;
mod follow;
mod handle;
mod keeper;
mod keys;
mod load;
mod log;
mod loss;
mod mix;
#[cfg(test)]
mod model;
mod open;
mod queue;
mod record;
mod recovery;
mod replay;
pub mod settings;
mod shared;
mod sharing;
#[cfg(test)]
mod sim;
mod snapshot;
#[cfg(test)]
mod stories;
mod table;
mod validate;
mod verify;
mod writer;

pub use blocklist::{Blocklist, Counts, Hit, InForce};
pub use bulk::{BULK_ENTRIES_MAX, Bulk};
pub use cutoff::{cutoff_now, cutoff_refuses};
pub use disk::{Disk, File, RealDisk};
pub use entry::{Kind, NAME_BYTES_MAX, Revocation, SUBJECT_BYTES_MAX, Selector, SelectorKey, UnknownKind};
pub use error::{AppendError, Damage, OpenError, SnapshotError};
pub use follow::{FollowError, Follower};
pub use handle::{Ack, Handle, Health, Projection, SnapshotReport, Stats};
pub use keys::{Admitted, ClaimKeys, KnownToken, TextMark, TokenKeys};
pub use loss::Loss;
pub use open::{IssuerTerm, LOST_REASON, Opening, Report, open};
pub use queue::is_for_bulk;
pub use record::{GatewayId, Origin, Place, Record};
pub use recovery::gateway_of;
pub use sharing::{Prepared, Promise, Standing};

pub use validate::{ACTOR_BYTES_MAX, ADDRESS_BYTES_MAX, InvalidRevocation, REASON_BYTES_MAX};
pub use verify::{SegmentVerdict, SnapshotVerdict, Verdict, WouldLoad, verify};

//! The fleet: how gateways tell each other what was revoked.
//!
//! Each gateway's own log stays the truth of what it enforces; the shared log, which an [`Engine`] holds, is how the
//! others hear of it. What this room promises:
//!
//! * What one gateway acknowledged as propagated is in the shared log, and every other gateway that can reach the
//!   engine puts it in force in the order of the shared log.
//! * What was acknowledged while the engine was away is forwarded when it is back, once, also after a restart.
//! * A gateway knows how old its knowledge is, and says so ([`Linked`]).
//! * A gateway that lost its log has the others refuse what was issued before only where nobody has what it lost.
//! * An engine that lost entries is noticed and gets them again from every gateway that still has them.
//!
//! `revocation` below knows nothing of other gateways. Nothing here is waited for by a request that is proxied.
//!
//! # How an engine is added
//! Implement [`Engine`] (`engine.rs` says what each method owes), read its URL in `settings.rs`, make it in
//! `open.rs`, and call `suite::holds` (tests) with a function that makes a new, empty shared log.

mod engine;
mod error;
mod hub;
mod inbox;
mod link;
mod log;
mod loss;
mod member;
mod open;
mod outbox;
mod pending;
mod postgres;
mod redis;
pub mod settings;
mod status;
#[cfg(test)]
mod suite;
mod whole;
mod wire;

pub use engine::{Answer, Appended, Delivered, Engine, Epoch, Follow, Met, Pages, Position, Stamp};
pub use error::EngineError;
pub use log::{Ack, Bulk, Linked, Linking, Log, Losing, NotReached};
pub use member::Member;
pub use open::{open, seen};
pub use wire::{Batch, BatchEntry, Malformed, StateEntry};

//! Sockets: bind, accept, judge raw request heads, limits, timeouts, drain.
//!
//! What this room promises:
//! * Bytes that two programs could frame differently never leave it. The guard sits under hyper, sees every
//!   raw byte of an HTTP/1.1 connection, and hands a head on only when it is whole and good. In place of a bad
//!   one hyper gets a harmless stand-in and the [`Handler`] an `Err(Problem)`, so that a refusal is answered,
//!   logged and counted like every other one.
//! * Every wait for a client has an end: head, body, idle, write, close.
//! * A connection over the limit is told so, and holds nothing.
//! * [`Drain`] ends what is idle at once, lets the rest finish, and cuts what does not.
//!
//! ```text
//!   accept ── permit ── first bytes ── Guard ── hyper ── Handler
//!   listener            connection     guard/            gateway, admin
//! ```

mod connection;
mod drain;
mod guard;
mod listener;
mod rules;
pub mod settings;
#[cfg(test)]
mod tests;

pub use connection::Handler;
pub use drain::{Drain, Phase};
pub use guard::{BodyLength, HeadFacts};
pub use listener::{Listener, serve};
pub use rules::{HeadLimits, LiveRules, Rules};

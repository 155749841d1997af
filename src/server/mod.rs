//! Sockets: bind, accept, judge raw request heads, limits, timeouts, drain.
//!
//! What this room promises:
//! * Bytes that two programs could frame differently never leave it. The guard sits under hyper, sees every
//!   raw byte of an HTTP/1.1 connection, and hands a head on only when it is whole and good. In place of a bad
//!   one hyper gets a harmless stand-in and the [`Handler`] an `Err(Problem)`, so that a refusal is answered,
//!   logged and counted like every other one.
//! * HTTP/2 frames its messages without doubt, so there the library's checks and those of the parsed head suffice;
//!   floods are held off by its limits, and slow clients by ours.
//! * Every wait for a client has an end: head, body, idle, write, close.
//! * A connection over the limit is told so, and holds nothing.
//! * [`Drain`] ends what is idle at once, lets the rest finish, and cuts what does not.
//!
//! ```text
//!   accept ── permit ── PROXY, TLS ── first bytes ─┬─ Guard ── hyper ─┬─ Handler
//!   listener            layers        connection   │  guard/          │  gateway, admin
//!                                                  └─ http2 ──────────┘
//! ```

mod connection;
mod drain;
mod guard;
mod http2;
mod layers;
mod lent;
mod listener;
mod proxy;
mod rules;
pub mod settings;
mod stream;
#[cfg(test)]
mod tests;

pub use connection::Handler;
pub use drain::{Drain, Phase};
pub use guard::{BodyLength, HeadFacts};
pub use layers::{Layers, LiveLayers};
pub use listener::{Inherited, Listener, serve};
pub use rules::{HeadLimits, LiveRules, Rules};

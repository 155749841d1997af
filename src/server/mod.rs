//! Sockets: bind, accept, judge raw request heads, limits, timeouts, drain.
//!
//! What this room promises:
//! * Bytes that two programs could frame differently never leave it. Every raw byte of an HTTP/1.1 connection is
//!   judged, and a head becomes a request only when it is whole and good. In place of a bad one the [`Handler`] gets a
//!   harmless stand-in and an `Err(Problem)`, so that a refusal is answered, logged and counted like every other one.
//! * HTTP/2 frames its messages without doubt, so there the library's checks and those of the parsed head suffice;
//!   floods are held off by its limits and ours, and slow clients by ours.
//! * Every wait for a client has an end: head, body, idle, write, close.
//! * A connection over the limit is told so, and holds nothing.
//! * [`Drain`] ends what is idle at once, lets the rest finish, and cuts what does not.
//!
//! ```text
//!   accept ── permit ── PROXY, TLS ── first bytes ─┬─ http1 (guard) ──┬─ Handler
//!   listener            layers        connection   │                  │  gateway, admin
//!                                                  └─ http2 (h2) ─────┘
//! ```

mod connection;
mod date;
mod drain;
mod guard;
mod http1;
mod http2;
mod layers;
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

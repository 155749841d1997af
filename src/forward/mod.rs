//! Rewriting a message between its two sides. Pure.
//!
//! [`request`] turns an admitted request into what the upstream gets, [`response`] an upstream's answer into what the
//! client gets. What a client says of itself in fields that are ours to set (identity, where it comes from, how long
//! the connection lives) never passes; what we say of it comes from a verified token and the socket alone. This room
//! does not know whether a request may pass: that was decided before.

pub mod cors;
mod fields;
mod forwarded;
mod forwarding;
mod hop;
mod identity;
mod request;
mod request_id;
mod response;
pub mod settings;

pub use fields::Lines;
pub use forwarding::Forwarding;
pub use identity::Identity;
pub use request::{Outbound, request};
pub use request_id::RequestId;
pub use response::{Inbound, response, response_trailers};

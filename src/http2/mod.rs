//! What both sides of HTTP/2 share: a body on its way out, a stream that has become a tunnel, and the question whether the other side is there.
//!
//! Knows nothing of clients, upstreams or requests.

mod pulse;
mod pump;
mod tunnel;

pub use pulse::{Heard, Pulse};
pub use pump::Pump;
pub use tunnel::Tunnel;

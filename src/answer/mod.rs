//! Answers that the gateway itself gives: stable codes, problem documents (RFC 9457), challenges (RFC 6750).
//!
//! Every refusal and failure of every room ends here as a [`Problem`]; the status of a code is chosen in this
//! room alone, and nothing of a token, a key or a password can get into one.

mod body;
mod code;
mod cut;
mod interim;
mod problem;

pub use body::{Body, BoxError};
pub use code::Code;
pub use cut::{Cut, Cuttable, Duplex, Handing, Handover, Hold, Holding, handover};
pub use interim::Interim;
pub use problem::{Context, Problem};

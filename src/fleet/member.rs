//! How a gateway of the fleet does, as it says itself.

use serde::{Deserialize, Serialize};

/// One gateway of the fleet. Written into the shared log's engine every few seconds; unknown members of a newer
/// version are passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id, 32 hexadecimal digits.
    pub gateway: Box<str>,
    /// The host's name, as far as the system tells.
    pub host: Box<str>,
    /// The version of the program.
    pub version: Box<str>,
    /// When it started; milliseconds since 1970.
    pub started_at: u64,
    /// When it wrote this, by its own clock.
    pub beat_at: u64,
    /// The last position of the shared log that it has in force, as it is written.
    pub position: Box<str>,
    /// Its own last sequence.
    pub sequence: u64,
    /// Its own entries that the shared log does not have yet.
    pub outbox: u64,
    /// How old its knowledge of the shared log is, in milliseconds.
    pub lag_ms: u64,
    /// It is ready.
    pub ready: bool,
}

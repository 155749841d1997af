//! `[revocation]` and `[state]` as used.

use std::path::PathBuf;
use std::time::Duration;

/// When a revocation is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Before it is acknowledged.
    Always,
    /// At this interval; acknowledged before.
    Every(Duration),
}

/// What to do when the store knows this gateway but its log is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLostState {
    /// Refuse everything issued before now.
    Cutoff,
    /// Do not start.
    Refuse,
    /// Start with nothing revoked, with a warning.
    Empty,
}

#[cfg(test)]
impl Settings {
    /// For tests of other rooms: every append is on disk, and no snapshot is due.
    pub(crate) fn for_test(dir: &std::path::Path) -> Self {
        Self {
            state_dir: dir.into(),
            fsync: Fsync::Always,
            snapshot_every: Duration::from_secs(3600),
            snapshot_log_bytes: 1 << 30,
            claims: Vec::new(),
            on_lost_state: OnLostState::Empty,
            cut_live_connections: true,
            token_cache: 0,
        }
    }
}

/// `[revocation]`, and the directory of `[state]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Log, snapshots, keys; mode 0700.
    pub state_dir: PathBuf,
    /// When a revocation is on disk.
    pub fsync: Fsync,
    /// Between two snapshots.
    pub snapshot_every: Duration,
    /// A snapshot is also taken when the log outgrows this.
    pub snapshot_log_bytes: u64,
    /// Claims that can be revoked by.
    pub claims: Vec<Box<str>>,
    /// See [`OnLostState`].
    pub on_lost_state: OnLostState,
    /// Streams end when their token is revoked or expires.
    pub cut_live_connections: bool,
    /// Verified tokens kept; 0 turns the cache off.
    pub token_cache: usize,
}

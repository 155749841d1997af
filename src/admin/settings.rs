//! `[admin]` as used.

use std::net::SocketAddr;
use std::path::PathBuf;

/// The admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its own listener.
    pub listen: SocketAddr,
    /// Made (mode 0600) on first start if missing.
    pub token_file: PathBuf,
}

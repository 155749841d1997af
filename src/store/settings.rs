//! `[store]` as used.

use std::fmt;
use std::path::PathBuf;

/// Where users, sessions, issued tokens and the audit trail live.
#[derive(Clone, PartialEq, Eq)]
pub enum Settings {
    /// `sqlite:PATH`, resolved.
    Sqlite(PathBuf),
    /// `postgres://…`; not available yet.
    Postgres(String),
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(_) => f.write_str("postgres:(redacted)"),
        }
    }
}

//! What can go wrong with the log, by who is to act: the client, whoever tries again, or the operator.

use std::io;
use std::path::PathBuf;

use super::InvalidRevocation;

/// Why a revocation was not accepted. Unless it says otherwise, it was not applied and is not in force.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The client's fault: nothing of the batch was applied.
    #[error("item {index}: {why}")]
    Invalid {
        /// Which item of the batch, from 0.
        index: usize,
        /// What is wrong with it.
        why: InvalidRevocation,
    },
    /// More than one `append` may carry; a [`super::Bulk`] has no such bound.
    #[error("too many items for one batch")]
    TooLarge,
    /// The queue stayed full for too long; try again.
    #[error("too many revocations are waiting for the disk")]
    Overloaded,
    /// The log cannot be written now; it recovers by itself when the disk does.
    #[error("the revocation log cannot be written")]
    LogUnavailable,
    /// The log that gateways share cannot be reached, and without it nothing is to be accepted.
    #[error("the log that the gateways share cannot be reached")]
    SharedLogUnavailable,
    /// The log was closed. What was asked for may or may not be in it.
    #[error("the revocation log is closed")]
    Closed,
}

/// A place in a file that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What is wrong there.
    pub what: &'static str,
}

/// Why a state directory cannot be worked with. For the operator: where, what, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process works on it.
    #[error("{} is locked: another gateway or command is using it", place.display())]
    Locked {
        /// The directory.
        place: PathBuf,
    },
    /// Others could read or change it.
    #[error("{} can be used by others (mode {mode:03o}); mend it with: chmod {want:03o} {}", path.display(), path.display())]
    Exposed {
        /// The file or directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// What it should be.
        want: u32,
    },
    /// Acknowledged revocations may be lost, so the gate stays shut.
    #[error("{} is damaged at byte {}: {}; look at it with: portcullis verify", .0.file.display(), .0.offset, .0.what)]
    Damaged(Damage),
    /// Files are missing, or begin too late.
    #[error(
        "{}: revocations {from} to {to} are in no file{}; look at it with: portcullis verify",
        place.display(), behind.as_ref().map(|(name, offset)| format!(" (expected at byte {offset} of {name}, or in a file behind it)")).unwrap_or_default()
    )]
    Missing {
        /// The directory.
        place: PathBuf,
        /// The segment that ends too early, or after which one is missing, and where it ends.
        behind: Option<(String, u64)>,
        /// The first one missing.
        from: u64,
        /// The last one missing.
        to: u64,
    },
    /// Written by a newer version of the program.
    #[error("{} was written by a newer version (format {version}); this one knows formats up to {known}", file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its version.
        version: u16,
        /// The newest one that this program knows.
        known: u16,
    },
    /// `on_lost_state = "refuse"`.
    #[error(
        "the revocation log in {} is gone or older than what was seen of it (it ends at {found}, {seen} was seen): restore \
         it, or choose another [revocation] on_lost_state", place.display()
    )]
    LostState {
        /// The directory.
        place: PathBuf,
        /// The last sequence found.
        found: u64,
        /// The last sequence that the store has seen.
        seen: u64,
    },
    /// An operation of the file system failed.
    #[error("cannot {doing}")]
    Io {
        /// What was being done, and to what.
        doing: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start the thread of the revocation log")]
    Thread(#[source] io::Error),
}

impl OpenError {
    pub(super) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}

/// Why a snapshot was not taken. The older ones and the log are as they were.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It could not be written.
    #[error("the snapshot could not be written")]
    Io(#[source] io::Error),
    /// What was read back is not what was written.
    #[error("the snapshot read back wrong: {0}")]
    ReadBack(#[source] Box<OpenError>),
    /// The log was closed.
    #[error("the revocation log is closed")]
    Closed,
}

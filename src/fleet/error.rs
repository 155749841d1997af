//! What can go wrong with the engine of the shared log.

/// Why an engine did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// It cannot be reached, or does not answer in time. What was asked for may have been done.
    #[error("the engine of the shared log does not answer: {0}")]
    Unreachable(String),
    /// It answers, and refuses: a wrong password, a missing right, a full memory. For the operator.
    #[error("the engine of the shared log refuses: {0}")]
    Refused(String),
    /// The shared log is not the one that was met: it was made anew. Meet it again; nothing was done.
    #[error("the shared log was made anew")]
    OtherEpoch,
    /// The engine's record of what this gateway has appended is not what was expected: this is what it has. Nothing
    /// was done.
    #[error("the shared log has this gateway's entries up to {own:?}, which was not expected")]
    OutOfStep {
        /// The last sequence of this gateway that the shared log has, if it knows the gateway.
        own: Option<u64>,
    },
    /// The time until which an append was wanted had passed when the engine came to it; nothing was done.
    #[error("the engine of the shared log was too slow")]
    TooLate,
    /// What is in the shared log was written by a newer version, or by something else.
    #[error("the shared log holds what this version cannot read: {0}")]
    Unreadable(String),
}

impl EngineError {
    /// Whether it may be gone at the next attempt, without anybody doing anything.
    pub const fn is_passing(&self) -> bool {
        !matches!(self, Self::Refused(_) | Self::Unreadable(_))
    }
}

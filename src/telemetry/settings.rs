//! What of `[server]` concerns the access log.

/// How the access log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// One JSON object a line.
    Json,
    /// One line for people.
    Text,
    /// None.
    Off,
}

//! What of `[server]` concerns answers and the access log.

use http::StatusCode;

pub use crate::telemetry::settings::AccessLogFormat as AccessLog;

/// Answers and the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Of challenges.
    pub realm: Box<str>,
    /// 401 (RFC 6750), or 422 for clients of flask-jwt-extended.
    pub invalid_token_status: StatusCode,
    /// Every DPoP proof must have a nonce of ours (RFC 9449 §9).
    pub dpop_nonce: bool,
    /// How the access log is written.
    pub access_log: AccessLog,
}

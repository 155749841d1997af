//! How the admin API answers.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode};
use serde_json::Value;

use crate::answer::{Body, Code, Context, Problem};
use crate::clock::UnixTime;
use crate::revocation::AppendError;
use crate::store::StoreError;

/// A problem as an answer.
pub(super) struct Refused(pub(super) Problem);

/// What a resource answers.
pub(super) type Reply = Result<Json<Value>, Refused>;

impl Refused {
    /// 400 in these words.
    pub(super) fn invalid(words: impl Into<String>) -> Self {
        Self(Problem::new(Code::InvalidRequest, words.into()))
    }

    /// 404 in these words.
    pub(super) fn not_found(words: &'static str) -> Self {
        Self(Problem::new(Code::NotFound, words))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let request_id = uuid::Uuid::now_v7().to_string();
        let mut response = self.0.into_response(&Context {
            request_id: &request_id,
            realm: "portcullis-admin",
            invalid_token_status: StatusCode::UNAUTHORIZED,
            head: false,
            grpc: false,
            error_member: false,
        });
        if let Ok(id) = HeaderValue::from_str(&request_id) {
            response.headers_mut().insert("x-request-id", id);
        }
        response.map(|body: Body| axum::body::Body::new(body))
    }
}

impl From<AppendError> for Refused {
    fn from(error: AppendError) -> Self {
        tracing::warn!(%error, "a revocation was not accepted");
        Self(match error {
            AppendError::Invalid { .. } | AppendError::TooLarge => {
                Problem::new(Code::InvalidRequest, error.to_string())
            }
            AppendError::Overloaded => {
                Problem::new(Code::Overloaded, "too many revocations are waiting for the disk")
            }
            _ => Problem::new(
                Code::LogUnavailable,
                "the revocation cannot be made durable now; it is not in force",
            ),
        })
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "the store did not answer the admin API");
        Self(Problem::new(Code::StoreUnavailable, "the store cannot be read now"))
    }
}

/// The whole body, of at most so many bytes.
///
/// # Errors
/// 413 for more, and for one that breaks off.
pub(super) async fn body(request: axum::extract::Request, bytes_max: usize) -> Result<bytes::Bytes, Refused> {
    axum::body::to_bytes(request.into_body(), bytes_max).await.map_err(|_| {
        let words = format!("the body is larger than {bytes_max} bytes, or broke off");
        Refused(Problem::new(Code::BodyTooLarge, words))
    })
}

/// A task of ours that ended without an answer: a panic, or the end of the process.
pub(super) fn ended_early(error: tokio::task::JoinError) -> Refused {
    tracing::error!(%error, "work for the admin API ended early");
    Refused(Problem::new(Code::Internal, "the request could not be served"))
}

/// A time on the wire, or null.
pub(super) fn time(at: Option<UnixTime>) -> Value {
    at.map_or(Value::Null, |at| at.rfc3339().into())
}

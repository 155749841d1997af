//! How the admin API answers.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode};
use http_body_util::LengthLimitError;
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
/// 413 for more, 408 for one that comes too slowly, 400 for one that breaks off.
pub(super) async fn body(request: axum::extract::Request, bytes_max: usize) -> Result<bytes::Bytes, Refused> {
    axum::body::to_bytes(request.into_body(), bytes_max)
        .await
        .map_err(|error| not_whole(&error, &format!("the body is larger than {bytes_max} bytes")))
}

/// A body that did not come to its end: by its sender's fault, or because it is `larger` than it may be.
pub(super) fn not_whole(error: &(dyn std::error::Error + 'static), larger: &str) -> Refused {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::TimedOut) {
            let words = "the body came too slowly; nothing of it was applied";
            return Refused(Problem::new(Code::RequestTimeout, words).closing());
        }
        if error.is::<LengthLimitError>() {
            return Refused(Problem::new(Code::BodyTooLarge, larger.to_owned()));
        }
        cause = error.source();
    }
    Refused::invalid("the body broke off; nothing of it was applied")
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

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_body_that_did_not_come_is_blamed_on_what_stopped_it() {
        let check = |error: axum::Error, expected: Code| {
            let Refused(problem) = not_whole(&error, "too large");
            assert_eq!(problem.code(), expected, "{error:?}");
        };
        let io = |kind| axum::Error::new(axum::Error::new(io::Error::from(kind)));
        check(io(io::ErrorKind::TimedOut), Code::RequestTimeout);
        check(io(io::ErrorKind::UnexpectedEof), Code::InvalidRequest);
    }

    #[tokio::test]
    async fn a_body_larger_than_its_limit_is_too_large() {
        let request = axum::extract::Request::new(axum::body::Body::from("four"));
        let Refused(problem) = body(request, 3).await.unwrap_err();
        assert_eq!(problem.code(), Code::BodyTooLarge);
    }
}

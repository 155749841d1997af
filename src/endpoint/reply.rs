//! Answers in the shape of CONTRACT §5.

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use super::ports::{LogUnavailable, SigningFailed, Unverified};
use crate::answer::{Body, Code, Problem};
use crate::store::StoreError;

/// JSON that nobody keeps.
pub(super) fn answer(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::full(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// `{"status": N, "data": [ROW]}`.
pub(super) fn one(status: StatusCode, row: Value) -> Response<Body> {
    answer(status, &json!({ "status": status.as_u16(), "data": [row] }))
}

/// Cuts rows of which one more than `limit` were asked for to their page; whether another page follows.
pub(super) fn cut_to<T>(rows: &mut Vec<T>, limit: usize) -> bool {
    let more = rows.len() > limit;
    rows.truncate(limit);
    more
}

/// `{"status": 200, "data": […], "next": CURSOR}`: the cursor, where another page follows, is the number of the last row.
pub(super) fn list(rows: Vec<Value>, next: Option<u64>) -> Response<Body> {
    let next = next.map(|number| number.to_string());
    answer(StatusCode::OK, &json!({ "status": 200, "data": rows, "next": next }))
}

/// `{"status": 200, "message": "…"}`.
pub(super) fn message(words: &str) -> Response<Body> {
    answer(StatusCode::OK, &json!({ "status": 200, "message": words }))
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::warn!(error = &error as &dyn std::error::Error, "the store failed");
        Self::new(Code::StoreUnavailable, "Accounts cannot be reached now; try again soon")
    }
}

impl From<LogUnavailable> for Problem {
    fn from(_: LogUnavailable) -> Self {
        Self::new(Code::LogUnavailable, "Revocations cannot be recorded now; try again soon")
    }
}

impl From<SigningFailed> for Problem {
    fn from(_: SigningFailed) -> Self {
        Self::new(Code::Internal, "No token could be issued")
    }
}

impl From<Unverified> for Problem {
    fn from(error: Unverified) -> Self {
        match error {
            Unverified::Invalid => Self::new(Code::TokenInvalid, "The token is not valid"),
            Unverified::Expired => Self::new(Code::TokenExpired, "The token has expired"),
            Unverified::Unheld(problem) => *problem,
            Unverified::Unavailable => Self::new(Code::Overloaded, "The token cannot be checked now"),
        }
    }
}

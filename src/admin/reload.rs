//! `POST /admin/reload`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::json;

use super::reply::Refused;
use super::{NotReloaded, Shared};
use crate::answer::{Code, Problem};

/// Reads the configuration anew: 200 with what has changed, 400 with all that is wrong, 409 with what takes a restart or cannot be had.
/// Whatever is refused is refused whole.
pub(super) async fn reload(State(parts): State<Shared>) -> Response {
    match (parts.reload)().await {
        Ok(report) => Json(report).into_response(),
        Err(NotReloaded::Invalid { errors, words }) => {
            with(Problem::new(Code::InvalidRequest, words), "errors", errors).await
        }
        Err(NotReloaded::Failed(words)) => Refused(Problem::new(Code::Conflict, words)).into_response(),
        Err(NotReloaded::Restart(reasons)) => {
            let problem = Problem::new(Code::Conflict, reasons.join("\n"));
            with(problem, "restart_to_apply", json!(reasons)).await
        }
        Err(NotReloaded::Draining) => {
            Refused(Problem::new(Code::Draining, "the gateway is about to end")).into_response()
        }
    }
}

/// The problem document with one more member.
async fn with(problem: Problem, member: &str, value: serde_json::Value) -> Response {
    let (mut parts, body) = Refused(problem).into_response().into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let Ok(mut document) = serde_json::from_slice::<serde_json::Value>(&bytes) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    document[member] = value;
    parts.headers.remove(http::header::CONTENT_LENGTH);
    Response::from_parts(parts, axum::body::Body::from(document.to_string()))
}

//! `/admin/users`: what the operator does to accounts. The work itself is the endpoints'.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};

use super::query::{InPath, Pairs, Parameters};
use super::reply::{Refused, Reply, body, ended_early};
use super::{From, Shared};
use crate::answer::{Code, Problem};
use crate::endpoint::{CreatedUser, Endpoints};

/// The most bytes of one account, and of lines of them.
const USER_BYTES_MAX: usize = 64 << 10;
const LINES_BYTES_MAX: usize = 4 << 20;

/// `GET /admin/users`: in the order of their emails, or the one with this email.
pub(super) async fn list(State(parts): State<Shared>, pairs: Pairs) -> Reply {
    let asked = Parameters::of(pairs, &["limit", "after", "email"])?;
    let limit = asked.limit()?;
    let endpoints = parts.gateway.setup().endpoints.clone();
    let (data, next) = match asked.text("email") {
        Some(email) => (endpoints.user_of_email(email).await.map_err(Refused)?.into_iter().collect(), None),
        None => endpoints.users(asked.text("after"), limit).await.map_err(Refused)?,
    };
    Ok(Json(json!({ "data": data, "next": next })))
}

/// `GET /admin/users/{id}`.
pub(super) async fn show(State(parts): State<Shared>, InPath(id): InPath<String>) -> Reply {
    let endpoints = parts.gateway.setup().endpoints.clone();
    endpoints.user(&id).await.map(Json).map_err(Refused)
}

/// `POST /admin/users`: one account as JSON, or one a line as NDJSON, each for itself.
pub(super) async fn create(State(parts): State<Shared>, request: Request) -> Result<Response, Refused> {
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.unwrap_or("application/json").split(';').next().unwrap_or_default().trim();
    let ndjson = essence.eq_ignore_ascii_case("application/x-ndjson");
    if !ndjson && !essence.eq_ignore_ascii_case("application/json") {
        let words = "users come as application/json or application/x-ndjson";
        return Err(Refused(Problem::new(Code::UnsupportedMediaType, words)));
    }
    let bytes = body(request, if ndjson { LINES_BYTES_MAX } else { USER_BYTES_MAX }).await?;
    let endpoints = parts.gateway.setup().endpoints.clone();
    if ndjson {
        let done = done(async move { endpoints.create_users(&bytes).await }).await?;
        let errors: Vec<Value> =
            done.errors.iter().map(|(line, detail)| json!({ "line": line, "detail": detail })).collect();
        let told = json!({ "created": done.created, "skipped": done.skipped, "errors": errors });
        return Ok(Json(told).into_response());
    }
    match done(async move { endpoints.create_user(&bytes).await }).await? {
        CreatedUser::Done(view) => Ok((StatusCode::CREATED, Json(view)).into_response()),
        CreatedUser::EmailTaken => {
            Err(Refused(Problem::new(Code::Conflict, "There is a user with this email")))
        }
    }
}

/// `POST /admin/users/{id}/disable`.
pub(super) async fn disable(
    State(parts): State<Shared>,
    Extension(From(address)): Extension<From>,
    InPath(id): InPath<String>,
    request: Request,
) -> Reply {
    let (endpoints, json) = asked(&parts, request).await?;
    done(async move { endpoints.disable_user(&id, address, &json).await }).await.map(Json)
}

/// `POST /admin/users/{id}/enable`.
pub(super) async fn enable(
    State(parts): State<Shared>,
    Extension(From(address)): Extension<From>,
    InPath(id): InPath<String>,
    request: Request,
) -> Reply {
    let (endpoints, json) = asked(&parts, request).await?;
    done(async move { endpoints.enable_user(&id, address, &json).await }).await.map(Json)
}

/// `POST /admin/users/{id}/revoke`.
pub(super) async fn revoke(
    State(parts): State<Shared>,
    Extension(From(address)): Extension<From>,
    InPath(id): InPath<String>,
    request: Request,
) -> Reply {
    let (endpoints, json) = asked(&parts, request).await?;
    done(async move { endpoints.revoke_user(&id, address, &json).await }).await.map(Json)
}

/// `POST /admin/users/{id}/password`.
pub(super) async fn password(
    State(parts): State<Shared>,
    Extension(From(address)): Extension<From>,
    InPath(id): InPath<String>,
    request: Request,
) -> Reply {
    let (endpoints, json) = asked(&parts, request).await?;
    done(async move { endpoints.reset_password(&id, address, &json).await }).await.map(Json)
}

/// `DELETE /admin/users/{id}`.
pub(super) async fn delete(
    State(parts): State<Shared>,
    Extension(From(address)): Extension<From>,
    InPath(id): InPath<String>,
) -> Reply {
    let endpoints = parts.gateway.setup().endpoints.clone();
    let deleted = id.clone();
    let sequence = done(async move { endpoints.delete_user(&id, address).await }).await?;
    Ok(Json(json!({ "id": deleted, "deleted": true, "sequence": sequence })))
}

async fn asked(parts: &Shared, request: Request) -> Result<(Arc<Endpoints>, Bytes), Refused> {
    let json = body(request, USER_BYTES_MAX).await?;
    Ok((parts.gateway.setup().endpoints.clone(), json))
}

/// In a task of its own: a client that hangs up must not stop a change half-way.
async fn done<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Refused> {
    tokio::spawn(work).await.map_err(ended_early)?.map_err(Refused)
}

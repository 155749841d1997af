//! The admin listener's API (CONTRACT §6): one file per resource. `/livez`, `/readyz` and `/metrics` need no token,
//! all else does. Lives on the control plane.

mod append;
mod events;
mod explain;
mod idempotency;
mod intake;
mod items;
mod keys;
mod members;
mod pages;
mod query;
mod reload;
mod reply;
mod revocations;
pub mod settings;
mod state;
mod token;
mod users;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use futures_util::future::BoxFuture;
use http::header::{ALLOW, AUTHORIZATION};
use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;
use tower::ServiceExt;

pub use token::{AdminToken, TokenError};

use crate::answer::{Body, Code, Problem};
use crate::clock::Clock;
use crate::fleet;
use crate::gateway::{Gateway, watermark};
use crate::revocation::Blocklist;
use crate::route::Peer;
use crate::store::Store;
use crate::telemetry::Metrics;

use items::Scope;
use reply::Refused;

pub use intake::{Intake, IntakeError, Live, Lookup, live_of, token_of};
pub use keys::{duration, imported_key, key_revocation, keys_shown};
pub use revocations::row_shown;

pub use items::{Issuer, Scope as RevocationScope};

/// What the admin API works on.
pub struct Parts {
    /// Who may call it.
    pub token: AdminToken,
    /// What can be revoked by, read for each request: a reload may change it.
    pub scope: Box<dyn Fn() -> Scope + Send + Sync>,
    /// The log.
    pub log: fleet::Log,
    /// What requests are checked against.
    pub blocklist: Arc<Blocklist>,
    /// Users, sessions, tokens, trail.
    pub store: Arc<dyn Store>,
    /// Routes, issuers and upstreams in use.
    pub gateway: Gateway,
    /// For scrapes.
    pub metrics: Arc<Metrics>,
    /// Why the gateway is not ready; empty: it is.
    pub not_ready: Box<dyn Fn() -> Vec<String> + Send + Sync>,
    /// How many client connections are open.
    pub live_connections: Box<dyn Fn() -> usize + Send + Sync>,
    /// The settings in use, secrets redacted.
    pub config: Box<dyn Fn() -> Value + Send + Sync>,
    /// Reads the configuration anew.
    pub reload: Reload,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Reads the configuration anew, and tells what has changed.
pub type Reload = Box<dyn Fn() -> BoxFuture<'static, Result<Value, NotReloaded>> + Send + Sync>;

/// Why the configuration was not taken; the one before stays.
#[derive(Clone, Debug, PartialEq)]
pub enum NotReloaded {
    /// It is bad: every problem, as an object and as the operator reads it.
    Invalid {
        /// For programs.
        errors: Value,
        /// For people.
        words: String,
    },
    /// It is good, but this process cannot go over to it: what takes a restart, each in words.
    Restart(Vec<String>),
    /// It is good, but something that it asks for cannot be had now, in words.
    Failed(String),
    /// The process is about to end.
    Draining,
}

/// The admin API. A clone shares everything.
#[derive(Clone)]
pub struct Admin {
    router: Router,
    parts: Shared,
    answers: idempotency::Answers,
}

type Shared = Arc<Parts>;

/// Where revocations are listed and made.
const REVOCATIONS: &str = "/admin/revocations";

/// Where a request came from, for the audit trail.
#[derive(Clone, Debug)]
struct From(String);

impl Admin {
    /// The API over these parts.
    pub fn new(parts: Parts) -> Self {
        let parts = Arc::new(parts);
        let answers = idempotency::Answers::default();
        let guarded = Router::new()
            .route(REVOCATIONS, get(revocations::list).post(append::append))
            .route(
                "/admin/revocations/{kind}/{value}",
                get(revocations::in_force).delete(revocations::unrevoke),
            )
            .route("/admin/users", get(users::list).post(users::create))
            .route("/admin/users/{id}", get(users::show).delete(users::delete))
            .route("/admin/users/{id}/disable", post(users::disable))
            .route("/admin/users/{id}/enable", post(users::enable))
            .route("/admin/users/{id}/revoke", post(users::revoke))
            .route("/admin/users/{id}/password", post(users::password))
            .route("/admin/keys", get(keys::list))
            .route("/admin/keys/rotate", post(keys::rotate))
            .route("/admin/keys/import", post(keys::import))
            .route("/admin/keys/{kid}/retire", post(keys::retire))
            .route("/admin/events", get(events::events))
            .route("/admin/explain", post(explain::explain))
            .route("/admin/snapshot", post(state::snapshot))
            .route("/admin/reload", post(reload::reload))
            .route("/admin/config", get(state::config))
            .route("/admin/stats", get(state::stats))
            .route("/admin/watermark", get(state::watermark))
            .route("/admin/fleet", get(members::list))
            .route("/admin/routes", get(state::routes))
            .route("/admin/upstreams", get(state::upstreams))
            .fallback(not_found)
            // Before the layers: what a resource takes is not told without the token either.
            .method_not_allowed_fallback(method_not_allowed)
            .layer(Extension(answers.clone()))
            .layer(Extension(events::Places::default()))
            .layer(middleware::from_fn_with_state(parts.clone(), admin_only));
        let router = Router::new()
            .route("/livez", get(state::livez))
            .route("/readyz", get(state::readyz))
            .route("/metrics", get(state::metrics))
            .method_not_allowed_fallback(method_not_allowed)
            .merge(guarded)
            .with_state(parts.clone());
        let pages = pages::router(router.clone(), parts.clone());
        Self { router: router.merge(pages), parts, answers }
    }

    /// The answer to one request.
    /// `refused` is why the head was refused on its raw bytes, if it was.
    pub async fn serve(
        &self,
        peer: Peer,
        refused: Option<Problem>,
        request: http::Request<Body>,
    ) -> http::Response<Body> {
        if let Some(problem) = refused {
            return Refused(problem).into_response().map(Body::boxed);
        }
        let mut request = request.map(axum::body::Body::new);
        let from = From(peer.address.map_or_else(|| "-".to_owned(), |address| address.ip().to_string()));
        if request.method() == Method::POST && request.uri().path() == REVOCATIONS {
            return self.append(from, request).await.map(Body::boxed);
        }
        request.extensions_mut().insert(from);
        let Ok(mut response) = self.router.clone().oneshot(request).await;
        // axum adds `Allow` to whatever became of another method, the 401 of a caller without the token among it.
        if response.status() != StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().remove(ALLOW);
        }
        response.map(Body::boxed)
    }

    /// The one resource that may be called ten thousand times a second, past the router, whose layers allocate more than
    /// all the rest of it.
    async fn append(&self, from: From, request: Request) -> Response {
        if let Err(refused) = admit(&self.parts, request.headers()) {
            return refused.into_response();
        }
        let pairs = match query::Pairs::try_from_uri(request.uri()) {
            Ok(pairs) => pairs,
            Err(rejection) => return Refused::invalid(rejection.body_text()).into_response(),
        };
        let (parts, answers) = (self.parts.clone(), self.answers.clone());
        let shared = parts.clone();
        let answer = async |request| {
            append::append(State(parts), Extension(from), Extension(answers), pairs, request)
                .await
                .into_response()
        };
        watched(&shared, request, answer).await
    }
}

async fn admin_only(State(parts): State<Shared>, request: Request, next: Next) -> Response {
    match admit(&parts, request.headers()) {
        Ok(()) => watched(&parts, request, |request| next.run(request)).await,
        Err(refused) => refused.into_response(),
    }
}

/// With the watermarks that a request may ask for.
async fn watched<F: Future<Output = Response>>(
    parts: &Shared,
    mut request: Request,
    answer: impl FnOnce(Request) -> F,
) -> Response {
    let tells = match watermark::reach(request.headers_mut(), &parts.log).await {
        Ok(tells) => tells,
        Err(problem) => return Refused(problem).into_response(),
    };
    let mut response = answer(request).await;
    if tells {
        watermark::tell(response.headers_mut(), &parts.log).await;
    }
    response
}

/// # Errors
/// 401 without the admin token.
fn admit(parts: &Parts, headers: &HeaderMap) -> Result<(), Refused> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = bearer.and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start_matches(' '))
    });
    match token {
        Some(token) if parts.token.is(token) => Ok(()),
        Some(_) => Err(Refused(Problem::new(Code::AdminToken, "the admin token is wrong"))),
        None => {
            let words = "the admin API needs its token: Authorization: Bearer …";
            Err(Refused(Problem::new(Code::AdminToken, words)))
        }
    }
}

async fn not_found() -> Refused {
    Refused(Problem::new(Code::NotFound, "there is no such resource in the admin API"))
}

async fn method_not_allowed() -> Refused {
    // axum adds `Allow` itself.
    Refused(Problem::new(Code::MethodNotAllowed, "this resource does not take that method"))
}

//! What the gateway says of itself.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::reply::{Refused, Reply, time};
use super::{Parts, Shared};
use crate::answer::{Code, Problem};
use crate::revocation::Selector;
use crate::route::settings::{HostPattern, PathPattern, Requirement, Route};
use crate::store::{TrailEntry, TrailFilter};

/// For whoever asks for it, as Prometheus does.
const OPENMETRICS: &str = "application/openmetrics-text";
const OPENMETRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Prometheus' own text format, for everybody else.
const CLASSIC_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `GET /livez`: the process answers.
pub(super) async fn livez() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

/// `GET /readyz`: 503 with reasons where requests should not come here.
pub(super) async fn readyz(State(parts): State<Shared>) -> Response {
    let reasons = (parts.not_ready)();
    if reasons.is_empty() {
        return Json(json!({ "status": "ready" })).into_response();
    }
    let mut response =
        (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "not ready", "reasons": reasons })))
            .into_response();
    response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// `GET /metrics`.
pub(super) async fn metrics(State(parts): State<Shared>, headers: HeaderMap) -> Response {
    let (kind, text) = if names_openmetrics(&headers) {
        (OPENMETRICS_TYPE, parts.metrics.text())
    } else {
        (CLASSIC_TYPE, parts.metrics.classic_text())
    };
    let mut response = text.into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn names_openmetrics(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|range| range.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(OPENMETRICS))
}

/// `GET /admin/watermark`.
pub(super) async fn watermark(State(parts): State<Shared>) -> Json<Value> {
    Json(json!({
        "sequence": parts.log.sequence(),
        "applied_at": parts.log.stats().applied_at.rfc3339(),
        "cluster": parts.log.link().map(|link| json!({
            "position": link.position.to_string(), "connected": link.connected,
            "lag_ms": u64::try_from(link.lag.as_millis()).unwrap_or(u64::MAX),
            "stale": link.stale, "outbox": link.outbox,
        })),
    }))
}

/// `GET /admin/upstreams`.
pub(super) async fn upstreams(State(parts): State<Shared>) -> Json<Value> {
    Json(json!({ "data": parts.gateway.setup().upstreams.report(), "next": null }))
}

/// `GET /admin/config`.
pub(super) async fn config(State(parts): State<Shared>) -> Json<Value> {
    Json((parts.config)())
}

/// `POST /admin/snapshot`: takes one now, and answers when it is on disk and was read back.
pub(super) async fn snapshot(State(parts): State<Shared>) -> Reply {
    let report = parts.log.snapshot().await.map_err(|error| {
        tracing::error!(error = &*error as &dyn std::error::Error, "no snapshot was taken");
        let words = "the snapshot could not be taken; the older ones and the log are as they were";
        Refused(Problem::new(Code::LogUnavailable, words))
    })?;
    Ok(Json(json!({
        "sequence": report.sequence, "entries": report.entries, "bytes": report.bytes,
        "segments_removed": report.segments_removed,
    })))
}

impl Parts {
    /// Waits until the trail in the store has what is in the log now, so that a list shows what was just done.
    ///
    /// # Errors
    /// 503 when the store stays behind.
    pub(super) async fn trail_caught_up(&self) -> Result<(), Refused> {
        let patience = std::time::Duration::from_secs(5);
        let caught_up = self.log.trail_has(self.log.sequence());
        tokio::time::timeout(patience, caught_up).await.map_err(|_| {
            let words = "the audit trail is behind the log; try again";
            Refused(Problem::new(Code::StoreUnavailable, words))
        })
    }

    /// The newest entry of the trail about this selector.
    ///
    /// # Errors
    /// 503 when the store cannot be read.
    pub(super) async fn newest(&self, selector: &Selector) -> Result<Option<TrailEntry>, Refused> {
        let filter = TrailFilter {
            kind: Some(selector.kind.to_string().into()),
            issuer: Some(selector.issuer.clone()),
            value: Some(selector.value.clone()),
            limit: 1,
            ..TrailFilter::default()
        };
        Ok(self.store.trail_list(filter).await?.pop())
    }
}

/// `GET /admin/routes`: in the order of the file.
pub(super) async fn routes(State(parts): State<Shared>) -> Json<Value> {
    let setup = parts.gateway.setup();
    let rows: Vec<Value> = setup.list.iter().map(|route| shown(route)).collect();
    Json(json!({ "data": rows, "next": null }))
}

fn shown(route: &Route) -> Value {
    let host = match &route.host {
        HostPattern::Any => String::new(),
        HostPattern::Exact(host) => host.to_string(),
        HostPattern::Suffix(host) => format!("*.{host}"),
    };
    let path = match &route.path {
        PathPattern::Exact(path) => format!("={path}"),
        PathPattern::Prefix(path) => path.to_string(),
    };
    let auth = match route.auth {
        Requirement::Public => "public",
        Requirement::Optional => "optional",
        Requirement::Access => "access",
        Requirement::Refresh => "refresh",
        Requirement::Fresh => "fresh",
    };
    json!({
        "name": &*route.name, "host": host, "path": path,
        "methods": route.methods.iter().map(|method| method.as_str()).collect::<Vec<_>>(),
        "auth": auth, "mode": if route.shadow { "shadow" } else { "enforce" },
        "issuers": route.issuers.iter().map(|name| &**name).collect::<Vec<_>>(), "scopes": route.scopes,
    })
}

/// `GET /admin/stats`.
pub(super) async fn stats(State(parts): State<Shared>) -> Json<Value> {
    let blocklist = &parts.blocklist;
    let log = parts.log.stats();
    let entries: serde_json::Map<String, Value> =
        blocklist.counts().each().into_iter().map(|(kind, n)| (kind.to_owned(), n.into())).collect();
    let setup = parts.gateway.setup();
    let issuers = setup.issuers.load();
    Json(json!({
        "entries": entries,
        "memory_bytes": blocklist.memory_bytes(),
        "log": {
            "sequence": log.sequence, "durable": log.durable, "segments": log.segments,
            "bytes": log.segment_bytes, "fsyncs": log.fsyncs,
            "last_fsync_us": u64::try_from(log.last_fsync.as_micros()).unwrap_or(u64::MAX),
            "trail_position": log.trail_position,
        },
        "snapshot": {
            "sequence": log.snapshot_sequence, "at": time(log.snapshot_at), "bytes": log.snapshot_bytes,
            "generations": log.snapshots,
        },
        "live_connections": (parts.live_connections)(),
        "cache": {
            "entries": issuers.cached_tokens(), "hits": issuers.cache_hits(), "misses": issuers.cache_misses(),
        },
    }))
}

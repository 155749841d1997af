//! What a route asks of a request beside its token: who of other origins may send it, and how often it may come.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::Body as _;

use super::respond::Stop;
use super::setup::Setup;
use super::story::Story;
use crate::access::{self, Evidence, Permit, Quota};
use crate::answer::{Body, Problem};
use crate::forward::cors::{Page, Preflight};
use crate::revocation::Blocklist;
use crate::route::settings::{Cors, Route};
use crate::route::{Head, Match};

/// What our own endpoints take.
const ENDPOINT_METHODS: [Method; 4] = [Method::GET, Method::POST, Method::PUT, Method::DELETE];

/// The question of a browser, if that is what it is.
pub(super) fn preflight(head: &Head, request: &Request<Body>) -> Option<Preflight> {
    Preflight::of(head, request.headers(), request.body().is_end_stream())
}

/// The route of a request. That of a preflight is the one of the request that may follow, if it has rules; without,
/// the upstream answers, and a route that takes OPTIONS by name comes first.
pub(super) fn find<'s>(
    setup: &'s Setup,
    head: &Head,
    asked: Option<&Preflight>,
) -> Result<Match<'s>, Problem> {
    let Some(preflight) = asked else { return setup.routes.find(head) };
    let following = setup.routes.find_for(head, &preflight.method);
    if following.as_ref().is_ok_and(|found| found.route.cors.is_some()) {
        return following;
    }
    setup.routes.find(head).or(following)
}

/// The answer to a preflight, where there are rules; else what they say of the answer to come is noted.
///
/// # Errors
/// 403 for a preflight of a page that may not.
pub(super) fn cross_origin(
    cors: Option<&Arc<Cors>>,
    route: Option<&Route>,
    asked: Option<&Preflight>,
    headers: &HeaderMap,
    story: &mut Story,
) -> Result<Option<Response<Body>>, Problem> {
    let Some(cors) = cors else { return Ok(None) };
    if let Some(preflight) = asked {
        let methods = route.map_or(&ENDPOINT_METHODS[..], |route| &route.methods);
        return preflight.answer(cors, methods).map(Some);
    }
    story.page = Some(Page::of(cors, headers));
    Ok(None)
}

/// The decision, and the count of what may pass.
///
/// # Errors
/// 401, 403, 429.
pub(super) fn decide(
    setup: &Setup,
    found: &Match<'_>,
    evidence: Evidence,
    asked: Option<&Preflight>,
    (head, headers): (&Head, &HeaderMap),
    blocklist: &Blocklist,
    story: &mut Story,
) -> Result<Permit, Stop> {
    let permit = match evidence {
        Evidence::Absent if asked.is_some() => access::pass_preflight(found.route),
        evidence => access::decide(found.route, evidence, blocklist, story.at)?,
    };
    let address = || setup.forwarding.client_address(head.peer(), headers);
    let (permit, quota) = setup.limiters.count(permit, address, Instant::now());
    story.quota = quota;
    Ok(permit?)
}

/// `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10).
pub(super) fn tell(quota: &Quota, route: &str, headers: &mut HeaderMap) {
    // A string of structured fields (RFC 9651 §3.3.3).
    let name: String = route
        .chars()
        .filter(|c| (' '..='~').contains(c))
        .flat_map(|c| matches!(c, '"' | '\\').then_some('\\').into_iter().chain([c]))
        .collect();
    let policy = format!("\"{name}\";q={};w={}", quota.requests, quota.window_secs);
    let limit = format!("\"{name}\";r={};t={}", quota.left, quota.reset_secs);
    for (field, text) in [("ratelimit-policy", policy), ("ratelimit", limit)] {
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(field, value);
        }
    }
}

//! `POST /admin/explain`: what would become of a request with this token, step by step. No side effect: nothing is
//! cached, counted or sent.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::{HeaderValue, Method, Request, Uri};
use serde::Deserialize;
use serde_json::{Value, json};

use super::reply::{Refused, Reply, body, time};
use super::{Parts, Shared};
use crate::access::{self, Evidence};
use crate::answer::{Code, Problem};
use crate::clock::UnixTime;
use crate::gateway::Setup;
use crate::revocation::{Admitted, Blocklist, Kind, KnownToken, Selector, TokenKeys, cutoff_refuses};
use crate::route::settings::{Requirement, Route};
use crate::route::{Head, Peer};
use crate::store::Standing;
use crate::token::{VerifiedToken, VerifyError};

/// The most bytes of a question.
const BODY_BYTES_MAX: usize = 2 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    token: String,
    method: Option<String>,
    host: Option<String>,
    path: Option<String>,
}

/// What was found, step by step, and the first thing that refuses.
#[derive(Default)]
struct Explained {
    steps: Vec<Value>,
    refused: Option<Code>,
}

impl Explained {
    fn passed(&mut self, step: impl Into<String>, detail: impl Into<String>) {
        self.steps.push(json!({ "step": step.into(), "ok": true, "detail": detail.into() }));
    }

    fn failed(&mut self, step: impl Into<String>, detail: impl Into<String>) {
        self.steps.push(json!({ "step": step.into(), "ok": false, "detail": detail.into() }));
    }

    fn refused(&mut self, code: Code, step: impl Into<String>, detail: impl Into<String>) {
        self.failed(step, detail);
        self.refused.get_or_insert(code);
    }
}

/// Where the request would go.
enum Place {
    /// No path was given: the token alone is judged.
    Anywhere,
    /// Under this route.
    Route(Arc<Route>),
    /// To one of our own endpoints, each of which judges for itself.
    Endpoint,
    /// Nowhere.
    Refused,
}

pub(super) async fn explain(State(parts): State<Shared>, request: axum::extract::Request) -> Reply {
    let body = body(request, BODY_BYTES_MAX).await?;
    let asked: Asked = serde_json::from_slice(&body)
        .map_err(|error| Refused::invalid(format!("the body is not as it should be: {error}")))?;
    let now = parts.clock.now();
    let setup = parts.gateway.setup();
    let mut told = Explained::default();
    let place = place(&setup, &asked, &mut told)?;

    let text = asked.token.trim();
    let text = text.strip_prefix("Bearer ").unwrap_or(text).trim();
    let (steps, verified) = setup.issuers.explain(text, now).await;
    for (step, detail) in steps {
        told.passed(step.name(), detail);
    }
    let looked_at = !matches!(&place, Place::Route(route) if route.auth == Requirement::Public);
    match &verified {
        Ok(token) => judge(&parts, &setup, token, &place, now, &mut told).await,
        Err(error) if looked_at => told.refused(code_of(error), error.step().name(), error.to_string()),
        Err(error) => told.failed(error.step().name(), error.to_string()),
    }
    if !looked_at {
        told.passed("policy", "the route is public: no token is looked at");
        // Nothing about the token refuses here.
        told.refused = None;
    }
    let shadow = matches!(&place, Place::Route(route) if route.shadow) && told.refused.is_some();
    if shadow {
        told.passed("mode", "the route is in shadow mode: the refusal is counted, and the request forwarded");
    }
    let verdict = match (&told.refused, shadow) {
        (None, _) => "allow",
        (Some(_), true) => "shadow",
        (Some(_), false) => "refuse",
    };
    Ok(Json(json!({ "verdict": verdict, "code": told.refused.map(Code::name), "steps": told.steps })))
}

fn code_of(error: &VerifyError) -> Code {
    match error {
        error if error.is_unavailable() => Code::Overloaded,
        error if error.is_expired() => Code::TokenExpired,
        _ => Code::TokenInvalid,
    }
}

/// Which route the request falls under, through the same doors as a real one.
fn place(setup: &Setup, asked: &Asked, told: &mut Explained) -> Result<Place, Refused> {
    let Some(path) = &asked.path else { return Ok(Place::Anywhere) };
    let invalid = |what: &str| Refused::invalid(format!("'{what}' cannot be one"));
    let method = asked.method.as_deref().unwrap_or("GET");
    let method: Method = method.parse().map_err(|_| invalid("method"))?;
    let host = HeaderValue::from_str(asked.host.as_deref().unwrap_or("localhost"));
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = path.parse::<Uri>().map_err(|_| invalid("path"))?;
    request.headers_mut().insert(http::header::HOST, host.map_err(|_| invalid("host"))?);
    let peer = Peer::default();
    let refused = |problem: &Problem, told: &mut Explained| {
        told.refused(problem.code(), "route", problem.detail().to_owned());
        Place::Refused
    };
    let head = match Head::admit(&request, peer, &setup.limits) {
        Ok(head) => head,
        Err(problem) => return Ok(refused(&problem, told)),
    };
    if setup.endpoints.matches(head.path(), head.host()) {
        told.passed("route", "one of the gateway's own endpoints, which judges for itself");
        return Ok(Place::Endpoint);
    }
    Ok(match setup.routes.find(&head) {
        Ok(found) => {
            told.passed("route", format!("\"{}\"", found.route.name));
            Place::Route(found.route.clone())
        }
        Err(problem) => refused(&problem, told),
    })
}

/// All that can refuse a verified token: the store, the blocklist, the route's policy; every one is told of.
async fn judge(
    parts: &Parts,
    setup: &Setup,
    token: &VerifiedToken,
    place: &Place,
    now: UnixTime,
    told: &mut Explained,
) {
    let mut standing = Standing::Good;
    if setup.issuers.load().asks_registry(token) {
        match setup.issuers.load_full().standing(token, &*parts.store).await {
            Ok(found) => standing = found,
            Err(_) => told.refused(Code::StoreUnavailable, "registry", "the store cannot be asked now"),
        }
    }
    let claims = (parts.scope)().claims;
    let keys = TokenKeys::of(token, &claims);
    let known = Arc::new(KnownToken {
        mark: None,
        token: token.clone(),
        keys,
        good_until: token.expires_at,
        key_until: None,
        place: 0,
        bound: token.binding.is_some(),
        generation: 0,
    });
    // The order in which a request is judged; the policy over an empty blocklist is told of on its own below.
    let decided = match place {
        Place::Route(route) => {
            let enforcing = Arc::new(Route { shadow: false, ..(**route).clone() });
            let over = |blocklist: &Blocklist, standing| {
                let evidence = Evidence::Token(Admitted::for_explaining(known.clone()), standing);
                access::decide(&enforcing, evidence, blocklist, now).err().map(|refusal| refusal.problem)
            };
            let whole = over(&parts.blocklist, standing);
            if told.refused.is_none() {
                told.refused = whole.as_ref().map(Problem::code);
            }
            over(&Blocklist::empty(), Standing::Good)
        }
        _ => None,
    };
    match standing {
        Standing::Good => {}
        Standing::Unknown => told.refused(Code::TokenInvalid, "registry", "the token is not on record"),
        Standing::Retired => {
            told.refused(Code::TokenRevoked, "registry", "the refresh token was exchanged for another");
        }
    }
    selectors(parts, token, &claims, told);
    match (place, decided) {
        (Place::Route(_), Some(problem)) => {
            told.refused(problem.code(), "policy", problem.detail().to_owned());
        }
        (Place::Route(route), None) => told.passed("policy", policy(route)),
        _ => {}
    }
}

/// Each selector that can match the token, looked up.
fn selectors(parts: &Parts, token: &VerifiedToken, claims: &[Box<str>], told: &mut Explained) {
    let issued_at = token.issued_at.unwrap_or(UnixTime::ZERO);
    let mut wanted: Vec<(Kind, Box<str>)> = vec![(Kind::Token, token.token_id.clone())];
    let named = [
        (Kind::Session, &token.session),
        (Kind::Subject, &token.subject),
        (Kind::Client, &token.client),
        (Kind::Key, &token.key_id),
    ];
    wanted.extend(named.into_iter().filter_map(|(kind, value)| Some((kind, value.clone()?))));
    wanted.extend(token.other_clients.iter().map(|value| (Kind::Client, value.clone())));
    wanted.push((Kind::Issuer, "".into()));
    for name in claims {
        let values = match token.claims.get(name) {
            Some(Value::Array(values)) => values,
            value => value.into_iter().collect(),
        };
        for value in values {
            let text: Box<str> = match value {
                Value::String(text) => text.as_str().into(),
                Value::Number(_) | Value::Bool(_) => value.to_string().into(),
                _ => continue,
            };
            wanted.push((Kind::Claim(name.clone()), text));
        }
    }
    for (kind, value) in wanted {
        let step = format!("revoked:{kind}");
        let selector = Selector::new(kind, &*token.issuer, value);
        let about = if selector.value.is_empty() { &selector.issuer } else { &selector.value };
        match parts.blocklist.get(&selector) {
            None => told.passed(step, format!("\"{about}\": no entry")),
            Some(entry) => {
                let until = entry.expires_at.rfc3339();
                match entry.issued_before {
                    Some(cutoff) if !cutoff_refuses(cutoff, issued_at) => {
                        let words = format!("\"{about}\": only what was issued before {}", cutoff.rfc3339());
                        told.passed(step, words);
                    }
                    cutoff => {
                        let before = time(cutoff);
                        let before = before.as_str().map(|at| format!(" issued before {at}"));
                        let words =
                            format!("\"{about}\": revoked{}, until {until}", before.unwrap_or_default());
                        told.refused(Code::TokenRevoked, step, words);
                    }
                }
            }
        }
    }
}

fn policy(route: &Route) -> String {
    let wants = match route.auth {
        Requirement::Public => "no token",
        Requirement::Optional => "a good token or none",
        Requirement::Access => "an access token",
        Requirement::Refresh => "a refresh token",
        Requirement::Fresh => "a fresh access token",
    };
    let mut words = format!("the route takes {wants}");
    if !route.scopes.is_empty() {
        words = format!("{words} with scope {}", route.scopes.join(" "));
    }
    if let Some(limit) = &route.rate_limit {
        words = format!("{words}, {} times in {:?} (not counted here)", limit.requests, limit.per);
    }
    words
}

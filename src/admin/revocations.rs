//! `/admin/revocations`: list them, look at one, take one back.

use axum::Json;
use axum::extract::{Extension, Request, State};
use serde_json::{Value, json};

use super::idempotency::{Answers, Fingerprint, Turn};
use super::query::{InPath, Pairs, Parameters};
use super::reply::{Refused, Reply, ended_early, time};
use super::{From, Parts, Shared};
use crate::issuer::settings::SELF;
use crate::revocation::{Blocklist, Kind, Revocation, Selector};
use crate::store::{TokenRow, TrailEntry, TrailFilter};
use crate::token::TokenType;

/// What a list may be asked for.
const PARAMETERS: [&str; 8] = ["kind", "value", "issuer", "since", "limit", "after", "in_force", "order"];

/// `GET /admin/revocations`: the trail, newest first where nothing else is asked for.
pub(super) async fn list(State(parts): State<Shared>, pairs: Pairs) -> Reply {
    let asked = Parameters::of(pairs, &PARAMETERS)?;
    let kind = asked.text("kind").map(str::parse::<Kind>).transpose();
    let kind = kind.map_err(|error| Refused::invalid(error.to_string()))?;
    let (issuer, value) = named(kind.as_ref(), asked.text("issuer"), asked.text("value"))?;
    let limit = asked.limit()?;
    let (asked_since, after) = (asked.number("since")?, asked.number("after")?);
    // Only what is in force, each selector once.
    let in_force = asked.choice("in_force", &["false", "true"])? == 1;
    let oldest_first = asked.choice("order", &["newest", "oldest"])? == 1;
    parts.trail_caught_up().await?;
    // A cursor is the last sequence of the page before, in whichever direction.
    let (since, before) = match (oldest_first, after) {
        (true, Some(after)) => (Some(asked_since.map_or(after, |since| since.max(after))), None),
        (_, after) => (asked_since, after),
    };
    let mut rows = parts
        .store
        .trail_list(TrailFilter {
            kind: asked.text("kind").map(Into::into),
            issuer: issuer.map(Into::into),
            value: value.map(Into::into),
            since,
            before,
            standing: in_force,
            oldest_first,
            limit: limit + 1,
        })
        .await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|row| row.sequence.to_string());
    let data: Vec<Value> = rows.iter().filter_map(|row| row_shown(&parts.blocklist, row, in_force)).collect();
    Ok(Json(json!({ "data": data, "next": next })))
}

/// The issuer and the value that a list is narrowed to: of kind `issuer` the trail has an empty value, and where one is
/// asked for it is the issuer's name, as in a revocation.
fn named<'p>(
    kind: Option<&Kind>,
    issuer: Option<&'p str>,
    value: Option<&'p str>,
) -> Result<(Option<&'p str>, Option<&'p str>), Refused> {
    match (kind, value) {
        (Some(Kind::Issuer), Some(name)) if !name.is_empty() => {
            if issuer.is_some_and(|issuer| issuer != name) {
                return Err(Refused::invalid("for kind \"issuer\" the value is empty or the issuer's name"));
            }
            Ok((Some(name), Some("")))
        }
        _ => Ok((issuer, value)),
    }
}

/// One row of the trail; `None` for one that is not in force, where only those are wanted. These show the cutoff and the expiry in
/// force, which an earlier entry of the selector may have set.
pub fn row_shown(blocklist: &Blocklist, row: &TrailEntry, only_in_force: bool) -> Option<Value> {
    let kind: Option<Kind> = row.kind.parse().ok();
    let entry = kind.and_then(|kind| blocklist.get(&Selector::new(kind, &*row.issuer, &*row.value)));
    let (issued_before, expires_at) = match entry {
        Some(entry) if only_in_force => (entry.issued_before, entry.expires_at),
        None if only_in_force => return None,
        _ => (row.issued_before, row.expires_at),
    };
    Some(json!({
        "sequence": row.sequence, "kind": row.kind, "value": row.value, "issuer": row.issuer,
        "lift": row.lift, "issued_before": time(issued_before), "expires_at": expires_at.rfc3339(),
        "reason": row.reason, "actor": row.actor, "address": row.address, "at": row.at.rfc3339(),
        "in_force": entry.is_some() && !row.lift,
    }))
}

/// Whose selector is meant is told by the parameter `issuer`.
fn selector(parts: &Parts, kind: &str, value: &str, pairs: Pairs) -> Result<Selector, Refused> {
    let asked = Parameters::of(pairs, &["issuer"])?;
    (parts.scope)().selector(kind, value, asked.text("issuer")).map_err(Refused::invalid)
}

/// `GET /admin/revocations/{kind}/{value}`: the entry in force.
pub(super) async fn in_force(
    State(parts): State<Shared>,
    InPath((kind, value)): InPath<(String, String)>,
    pairs: Pairs,
) -> Reply {
    let selector = selector(&parts, &kind, &value, pairs)?;
    let entry = parts.blocklist.get(&selector).ok_or(Refused::not_found("no such revocation is in force"))?;
    parts.trail_caught_up().await?;
    // The newest entry says who and why; cutoff and expiry are those in force, which may be an earlier one's.
    let newest = parts.newest(&selector).await?;
    let told = newest.as_ref();
    Ok(Json(json!({
        "kind": selector.kind.to_string(), "value": selector.value, "issuer": selector.issuer,
        "issued_before": time(entry.issued_before), "expires_at": entry.expires_at.rfc3339(),
        "sequence": told.map(|row| row.sequence), "reason": told.map(|row| &row.reason),
        "actor": told.map(|row| &row.actor), "address": told.map(|row| &row.address),
        "at": time(told.map(|row| row.at)),
    })))
}

/// `DELETE /admin/revocations/{kind}/{value}`: takes it back, durable likewise.
pub(super) async fn unrevoke(
    State(parts): State<Shared>,
    Extension(from): Extension<From>,
    Extension(answers): Extension<Answers>,
    InPath((kind, value)): InPath<(String, String)>,
    pairs: Pairs,
    request: Request,
) -> Reply {
    let selector = selector(&parts, &kind, &value, pairs)?;
    let now = parts.clock.now();
    let fingerprint = Fingerprint::of(&request);
    let claim = match answers.turn(request.headers(), now)? {
        Some(Turn::Again(first)) => return first.answer_to(fingerprint).map(Json),
        Some(Turn::First(claim)) => Some(claim),
        None => None,
    };
    let entry = parts.blocklist.get(&selector).ok_or(Refused::not_found("no such revocation is in force"))?;
    let lift = Revocation {
        selector: selector.clone(),
        lift: true,
        issued_before: None,
        expires_at: entry.expires_at,
        reason: "".into(),
        actor: "admin".into(),
        address: from.0.into(),
        at: now,
    };
    let work = tokio::spawn(async move {
        let ack = parts.log.append(vec![lift]).await?;
        let still = still_refused_by(&parts, &selector).await?;
        let mut answer = json!({ "sequence": ack.sequence, "still_refused_by": still });
        if parts.log.link().is_some() {
            answer["propagated"] = ack.propagated.into();
        }
        Ok(Json(match claim {
            Some(claim) => claim.keep(fingerprint, now, answer),
            None => answer,
        }))
    });
    work.await.map_err(ended_early)?
}

/// What else refuses this own token or session, as far as the store knows it.
async fn still_refused_by(parts: &Parts, selector: &Selector) -> Result<Vec<Value>, Refused> {
    if &*selector.issuer != SELF || !selector.kind.is_absolute() {
        return Ok(Vec::new());
    }
    let mut candidates: Vec<(Kind, Box<str>)> = Vec::new();
    let (subject, issued_at, is_access) = match selector.kind {
        Kind::Token => {
            let Some(TokenRow { token, .. }) = parts.store.token(&selector.value).await? else {
                return Ok(Vec::new());
            };
            // One without a session was got by a client for itself, and has it as its subject.
            candidates.push(match &*token.session {
                "" => (Kind::Client, token.subject.clone()),
                _ => (Kind::Session, token.session),
            });
            candidates.extend(token.key_id.map(|id| (Kind::Key, id)));
            (token.subject, token.issued_at, token.token_type == TokenType::Access)
        }
        _ => match parts.store.session(&selector.value).await? {
            // A cutoff ends it only if it refuses its newest tokens.
            Some(row) => (row.session.subject, row.last_issued_at, true),
            None => return Ok(Vec::new()),
        },
    };
    candidates.extend([(Kind::Subject, subject), (Kind::Issuer, "".into())]);
    if is_access {
        candidates.extend(parts.gateway.setup().endpoints.fixed_claims());
    }
    let mut still = Vec::new();
    for (kind, value) in candidates {
        let other = Selector::new(kind, SELF, value);
        if parts.blocklist.refuses_selector(&other, issued_at) {
            still.push(json!({
                "kind": other.kind.to_string(), "value": other.value, "issuer": other.issuer,
            }));
        }
    }
    Ok(still)
}

//! POST `/events/ssf`: Security Event Tokens (RFC 8417) pushed over HTTP (RFC 8935), with events of CAEP and RISC.

use http::header::{ALLOW, CACHE_CONTROL, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::subject::{Named, Sought, Subjects};
use super::{ID_BYTES_MAX, Target, cutoff_of, made_at};
use crate::answer::{Body, Context, Problem};
use crate::clock::UnixTime;
use crate::endpoint::Endpoints;
use crate::endpoint::call::Call;
use crate::endpoint::fields::media_type;
use crate::endpoint::ports::Unstated;
use crate::endpoint::reply;
use crate::issuer::Stated;
use crate::token::{VerifyError, numeric_date};

/// The events that have an effect: the end of their URI, and what of their subject is revoked.
const EVENTS: [(&str, Sought); 9] = [
    ("caep/event-type/session-revoked", Sought::Session),
    ("caep/event-type/credential-change", Sought::Account),
    ("caep/event-type/token-claims-change", Sought::Claims),
    ("risc/event-type/account-disabled", Sought::Account),
    ("risc/event-type/account-purged", Sought::Account),
    ("risc/event-type/account-credential-change-required", Sought::Account),
    ("risc/event-type/credential-compromise", Sought::Account),
    // The two names that it had.
    ("risc/event-type/sessions-revoked", Sought::Account),
    ("risc/event-type/account-sessions-revoked", Sought::Account),
];
const EVENTS_BASE: &str = "https://schemas.openid.net/secevent/";

/// An error of RFC 8935 §2.3.
#[derive(Debug, PartialEq, Eq)]
struct PushError {
    status: StatusCode,
    err: &'static str,
    description: String,
}

impl PushError {
    fn invalid(description: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, err: "invalid_request", description: description.into() }
    }

    fn into_response(self) -> Response<Body> {
        let document = json!({ "err": self.err, "description": self.description });
        let mut response = reply::answer(self.status, &document);
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<VerifyError> for PushError {
    fn from(error: VerifyError) -> Self {
        // The codes of RFC 8935 §2.4.
        let err = match error {
            VerifyError::UnknownIssuer => "invalid_issuer",
            VerifyError::UnknownKey
            | VerifyError::AmbiguousKey
            | VerifyError::Algorithm
            | VerifyError::Signature => "invalid_key",
            VerifyError::Audience => "invalid_audience",
            _ => "invalid_request",
        };
        Self { err, ..Self::invalid(error.to_string()) }
    }
}

impl From<Problem> for PushError {
    fn from(problem: Problem) -> Self {
        let status = problem.code().status();
        let err = if status.is_server_error() { "temporarily_unavailable" } else { "invalid_request" };
        Self { status, err, description: problem.detail().to_owned() }
    }
}

/// A problem that came up before the receiver had its say.
pub(in crate::endpoint) fn refuse(problem: Problem, context: &Context<'_>) -> Response<Body> {
    let mut response = PushError::from(problem.clone()).into_response();
    let mut plain = problem.into_response(context);
    for name in [ALLOW, RETRY_AFTER] {
        if let Some(value) = plain.headers_mut().remove(&name) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

impl Endpoints {
    /// 202 with nothing to read, once what the events ask for is in force. Also for what has no effect here: an event
    /// that is not known, a subject that nobody is. RFC 8935 §2.2 has only bad tokens refused.
    pub(in crate::endpoint) async fn push(&self, call: &Call) -> Response<Body> {
        match self.received(call).await {
            Ok(()) => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::ACCEPTED;
                response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
                response
            }
            Err(error) => error.into_response(),
        }
    }

    async fn received(&self, call: &Call) -> Result<(), PushError> {
        if media_type(&call.headers).as_deref() != Some("application/secevent+jwt") {
            return Err(PushError::invalid("The body must be application/secevent+jwt"));
        }
        let text = std::str::from_utf8(&call.body).map(str::trim_ascii).unwrap_or_default();
        let stated = match self.parts.tokens.verify_statement(text, call.now).await {
            Ok(stated) => stated,
            Err(Unstated::Invalid(error)) => return Err(error.into()),
            Err(Unstated::Unavailable) => {
                let problem: Problem = crate::endpoint::ports::Unverified::Unavailable.into();
                return Err(problem.into());
            }
        };
        let event = judge(&stated, &self.parts.revocable_claims, call.now)?;
        let taken = self.take(call, &stated, event.id, event.targets, &event.reason).await?;
        self.tell(call, &stated, event.id, &event.reason, taken);
        Ok(())
    }
}

/// A good SET.
#[derive(Debug)]
struct Judged<'s> {
    id: &'s str,
    targets: Vec<Target>,
    /// Its events, in short.
    reason: String,
}

/// What a well-signed statement asks for, if it is a SET for us.
fn judge<'s>(stated: &'s Stated, revocable: &[Box<str>], now: UnixTime) -> Result<Judged<'s>, PushError> {
    let statement = &stated.statement;
    // Said outright, so that no other kind of JWT of this issuer passes for one (RFC 8417 §2.3).
    if !statement.is_typed(Some("secevent+jwt")) {
        return Err(VerifyError::Typ.into());
    }
    statement.audience(&stated.terms.audience)?;
    let made = made_at(stated, now)?;
    let id = statement.name("jti", ID_BYTES_MAX)?;
    let events = statement.claim("events").and_then(Value::as_object).filter(|events| !events.is_empty());
    let events =
        events.ok_or_else(|| PushError::invalid("The token has no object \"events\" with any in it"))?;
    let subjects = Subjects {
        issuer: statement.text("iss")?.unwrap_or_default(),
        subject_claims: &stated.terms.claims.subject,
        revocable,
    };
    let (mut targets, mut names) = (Vec::new(), Vec::new());
    for (uri, payload) in events {
        let malformed = || PushError::invalid("An event's payload is not as its definition says");
        let payload = payload.as_object().ok_or_else(malformed)?;
        let known = uri.strip_prefix(EVENTS_BASE);
        let known = known.and_then(|end| EVENTS.iter().find(|(name, _)| *name == end));
        let Some((name, sought)) = known else {
            names.push("an event without effect".to_owned());
            continue;
        };
        let at = happened_at(statement.claim("toe"), payload, made).ok_or_else(malformed)?;
        let found = match subject_of(statement.claim("sub_id"), payload) {
            Some(subject) => subjects.find(subject, *sought).map_err(|_| malformed())?,
            // RFC 8417 §2.2: `sub` may name it too.
            None => match statement.text("sub")? {
                Some(sub) => subjects.by_subject(sub),
                None => return Err(PushError::invalid("The token names no subject")),
            },
        };
        let target = |Named { kind, value }| Target { kind, value, issued_before: cutoff_of(at) };
        targets.extend(found.into_iter().map(target));
        names.push(name.replace("/event-type/", " "));
    }
    Ok(Judged { id, targets, reason: names.join(", ") })
}

/// `sub_id` of the token (RFC 9493 §4.1), else what events had before that was written: `subject` of their own.
fn subject_of<'a>(sub_id: Option<&'a Value>, payload: &'a Map<String, Value>) -> Option<&'a Value> {
    sub_id.or_else(|| payload.get("subject")).or_else(|| payload.get("sub_id"))
}

/// When it happened: the event's own time, else `toe` (RFC 8417 §2.2), else when the token was made; never after that,
/// for nobody states what has not happened. `None` for what is no time.
fn happened_at(toe: Option<&Value>, payload: &Map<String, Value>, made: UnixTime) -> Option<UnixTime> {
    let at = match payload.get("event_timestamp").or(toe) {
        None => made,
        // Early drafts of CAEP counted milliseconds.
        Some(value) => numeric_date(value).or_else(|| {
            value.as_u64().filter(|millis| *millis > 1_000_000_000_000).map(UnixTime::from_millis)
        })?,
    };
    Some(at.min(made))
}

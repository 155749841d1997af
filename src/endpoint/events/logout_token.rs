//! POST `/events/backchannel-logout`: OpenID Connect Back-Channel Logout 1.0.

use http::header::{ALLOW, CACHE_CONTROL, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use super::{ID_BYTES_MAX, Target, cutoff_of, made_at};
use crate::answer::{Body, Context, Problem};
use crate::clock::UnixTime;
use crate::endpoint::Endpoints;
use crate::endpoint::call::Call;
use crate::endpoint::fields::Fields;
use crate::endpoint::ports::{Unstated, Unverified};
use crate::endpoint::reply;
use crate::issuer::Stated;
use crate::revocation::{Kind, NAME_BYTES_MAX, SUBJECT_BYTES_MAX};
use crate::token::VerifyError;

/// The member of `events` that makes a JWT a logout token (§2.4).
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// An error of §2.8.
#[derive(Debug)]
struct LogoutError {
    status: StatusCode,
    description: String,
}

impl LogoutError {
    fn invalid(description: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, description: description.into() }
    }

    fn into_response(self) -> Response<Body> {
        let unavailable = self.status.is_server_error();
        let error = if unavailable { "temporarily_unavailable" } else { "invalid_request" };
        let document = json!({ "error": error, "error_description": self.description });
        let mut response = reply::answer(self.status, &document);
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<VerifyError> for LogoutError {
    fn from(error: VerifyError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<Problem> for LogoutError {
    fn from(problem: Problem) -> Self {
        let status = match problem.code().status() {
            // §2.8 knows 400 alone for what cannot be read.
            StatusCode::UNSUPPORTED_MEDIA_TYPE => StatusCode::BAD_REQUEST,
            status => status,
        };
        Self { status, description: problem.detail().to_owned() }
    }
}

/// A problem that came up before the receiver had its say.
pub(in crate::endpoint) fn refuse(problem: Problem, context: &Context<'_>) -> Response<Body> {
    let mut response = LogoutError::from(problem.clone()).into_response();
    let mut plain = problem.into_response(context);
    for name in [ALLOW, RETRY_AFTER] {
        if let Some(value) = plain.headers_mut().remove(&name) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

impl Endpoints {
    /// 200 once the session, or all sessions of the subject, are over (§2.7); also when it came before.
    pub(in crate::endpoint) async fn backchannel_logout(&self, call: &Call) -> Response<Body> {
        match self.logged_out(call).await {
            Ok(()) => {
                let mut response = Response::new(Body::empty());
                response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
                response
            }
            Err(error) => error.into_response(),
        }
    }

    async fn logged_out(&self, call: &Call) -> Result<(), LogoutError> {
        let fields = Fields::of_form(&call.headers, &call.body)?;
        let text = fields.required("logout_token", call.body.len())?;
        let stated = match self.parts.tokens.verify_statement(text, call.now).await {
            Ok(stated) => stated,
            Err(Unstated::Invalid(error)) => return Err(error.into()),
            Err(Unstated::Unavailable) => return Err(Problem::from(Unverified::Unavailable).into()),
        };
        let (id, target) = judge(&stated, call.now)?;
        let what = "back-channel logout";
        let taken = self.take(call, &stated, id, vec![target], what).await?;
        self.tell(call, &stated, id, what, taken);
        Ok(())
    }
}

/// The `jti` of a logout token (§2.6), and what it ends: the session that it names, else every session of its subject.
fn judge(stated: &Stated, now: UnixTime) -> Result<(&str, Target), LogoutError> {
    let statement = &stated.statement;
    // Typed outright, or as JWTs were before they were typed; never as something else (RFC 8725 §3.11).
    if ![None, Some("logout+jwt"), Some("JWT")].into_iter().any(|kind| statement.is_typed(kind)) {
        return Err(VerifyError::Typ.into());
    }
    let events = statement.claim("events").and_then(|events| events.get(EVENT));
    if !events.is_some_and(Value::is_object) {
        return Err(LogoutError::invalid("The token is not a logout token: its \"events\" do not say so"));
    }
    // §2.4: so that an ID token never passes for one.
    if statement.claim("nonce").is_some() {
        return Err(LogoutError::invalid("A logout token has no \"nonce\""));
    }
    for name in ["aud", "exp"] {
        if statement.claim(name).is_none() {
            return Err(VerifyError::ClaimMissing(name.into()).into());
        }
    }
    statement.audience(&stated.terms.audience)?;
    let made = made_at(stated, now)?;
    let id = statement.name("jti", ID_BYTES_MAX)?;
    let (session, subject) = (statement.claim("sid").is_some(), statement.claim("sub").is_some());
    // Both are looked at where both are there, for a malformed one is no good token.
    let session = session.then(|| statement.name("sid", NAME_BYTES_MAX)).transpose()?;
    let subject = subject.then(|| statement.name("sub", SUBJECT_BYTES_MAX)).transpose()?;
    let (kind, value) = match (session, subject) {
        (Some(session), _) => (Kind::Session, session),
        (None, Some(subject)) => (Kind::Subject, subject),
        (None, None) => return Err(LogoutError::invalid("The token names neither \"sid\" nor \"sub\"")),
    };
    Ok((id, Target { kind, value: value.into(), issued_before: cutoff_of(made) }))
}

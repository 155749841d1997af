//! The OAuth endpoints: form-encoded requests, answers and errors in the JSON of RFC 6749 §5.2.

mod assertion;
mod client;
mod credentials;
mod introspect;
mod revoke;
mod token;

use http::header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;

use super::reply;
use crate::answer::{Body, Code, Context, Problem};
use crate::token::Binding;

pub(super) use assertion::Assertions;

/// An error of RFC 6749 §5.2.
#[derive(Debug)]
struct OauthError {
    status: StatusCode,
    error: &'static str,
    description: String,
    /// How to authenticate, on 401.
    challenge: Option<String>,
    /// The nonce that the next proof must have.
    nonce: Option<String>,
}

impl OauthError {
    fn new(status: StatusCode, error: &'static str, description: impl Into<String>) -> Self {
        Self { status, error, description: description.into(), challenge: None, nonce: None }
    }

    fn invalid_request(description: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", description)
    }

    fn invalid_grant(description: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_grant", description)
    }

    fn invalid_client(realm: &str) -> Self {
        let realm: String =
            realm.chars().filter(|c| matches!(c, ' '..='~') && !matches!(c, '"' | '\\')).collect();
        Self {
            challenge: Some(format!("Basic realm=\"{realm}\", charset=\"UTF-8\"")),
            ..Self::new(StatusCode::UNAUTHORIZED, "invalid_client", "The client could not be authenticated")
        }
    }

    fn invalid_scope() -> Self {
        let words = "The scope goes beyond what may be granted";
        Self::new(StatusCode::BAD_REQUEST, "invalid_scope", words)
    }

    fn overloaded() -> Self {
        let words = "There is no room for this now; try again soon";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", words)
    }

    fn into_response(self) -> Response<Body> {
        let document = json!({ "error": self.error, "error_description": self.description });
        let mut response = reply::answer(self.status, &document);
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(nonce) = self.nonce.and_then(|text| HeaderValue::from_str(&text).ok()) {
            response.headers_mut().insert("dpop-nonce", nonce);
        }
        if let Some(challenge) = self.challenge.and_then(|text| HeaderValue::from_str(&text).ok()) {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// What went wrong below, in the words of OAuth.
impl From<Problem> for OauthError {
    fn from(problem: Problem) -> Self {
        let words = problem.detail();
        match problem.code() {
            // RFC 9449 §5: 400, with the error that tells the client what to mend.
            _ if problem.dpop_error().is_some() => Self {
                nonce: problem.nonce().map(str::to_owned),
                ..Self::new(StatusCode::BAD_REQUEST, problem.dpop_error().unwrap_or_default(), words)
            },
            Code::InvalidRequest | Code::UnsupportedMediaType => Self::invalid_request(words),
            Code::TokenInvalid | Code::TokenExpired | Code::TokenRevoked => Self::invalid_grant(words),
            code if code.status() == StatusCode::SERVICE_UNAVAILABLE => {
                Self::new(code.status(), "temporarily_unavailable", words)
            }
            code if code.status().is_client_error() => Self::new(code.status(), "invalid_request", words),
            code => Self::new(code.status(), "server_error", words),
        }
    }
}

/// A problem that came up before the endpoint had its say, in the words of OAuth.
pub(super) fn refuse(problem: Problem, context: &Context<'_>) -> Response<Body> {
    let mut response = OauthError::from(problem.clone()).into_response();
    let mut plain = problem.into_response(context);
    for name in [ALLOW, RETRY_AFTER] {
        if let Some(value) = plain.headers_mut().remove(&name) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// `token_type` of a token (RFC 6749 §7.1, RFC 9449 §5): whether it needs a proof.
fn token_type(binding: Option<&Binding>) -> &'static str {
    if binding.is_some_and(|binding| binding.key.is_some()) { "DPoP" } else { "Bearer" }
}

fn answered(result: Result<Response<Body>, OauthError>) -> Response<Body> {
    result.unwrap_or_else(OauthError::into_response)
}

//! A problem document (RFC 9457) and the challenge that goes with it (RFC 6750 §3).

use std::borrow::Cow;
use std::fmt::Write as _;

use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::{Body, Code};

/// Why the gateway itself answers, before it is written out. Boxed: every step of a request may end in one, and those
/// that do not should not carry the room for it along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    code: Code,
    detail: Cow<'static, str>,
    status: Option<StatusCode>,
    retry_after_secs: Option<u64>,
    allow: Option<String>,
    scope: Option<String>,
    challenge: bool,
    dpop: Option<Box<Dpop>>,
    close: bool,
}

/// The challenge is one for DPoP (RFC 9449 §7.1).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Dpop {
    /// In place of the error that the code has for bearer tokens.
    error: Option<&'static str>,
    algorithms: &'static str,
    nonce: Option<Box<str>>,
}

/// What the writer of an answer must know of the request and the settings.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The request's id, as logged.
    pub request_id: &'a str,
    /// `realm` of challenges.
    pub realm: &'a str,
    /// The status of `token_invalid`: 401, 422, or always 422 at the auth endpoints.
    pub invalid_token_status: StatusCode,
    /// A HEAD request: no body.
    pub head: bool,
    /// A gRPC request: a trailers-only answer with `grpc-status`.
    pub grpc: bool,
    /// At the auth endpoints: one more member, `error`, the same words as `detail`.
    pub error_member: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl Problem {
    /// A problem with the status of its code. `detail` is for the client: nothing of our insides.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        let challenge = matches!(
            code,
            Code::TokenMissing
                | Code::TokenInvalid
                | Code::TokenExpired
                | Code::TokenRevoked
                | Code::TokenNotFresh
                | Code::InsufficientScope
                | Code::AdminToken
        );
        Self(Box::new(Inner {
            code,
            detail: detail.into(),
            status: None,
            retry_after_secs: None,
            allow: None,
            scope: None,
            challenge,
            dpop: None,
            close: false,
        }))
    }

    /// Another status than the code's own.
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.0.status = Some(status);
        self
    }

    /// `Retry-After` in whole seconds.
    pub fn with_retry_after(mut self, secs: u64) -> Self {
        self.0.retry_after_secs = Some(secs);
        self
    }

    /// `Allow`, as 405 must have it (RFC 9110 §15.5.6).
    pub fn with_allow(mut self, methods: String) -> Self {
        self.0.allow = Some(methods);
        self
    }

    /// The scopes that would have done, for the challenge (RFC 6750 §3).
    pub fn with_scope(mut self, scopes: String) -> Self {
        self.0.scope = Some(scopes);
        self
    }

    /// With a challenge, where the code has none by itself: the refusal is about the token.
    pub fn challenging(mut self) -> Self {
        self.0.challenge = true;
        self
    }

    /// With a challenge for DPoP (RFC 9449 §7.1) in place of one for bearer tokens: `algorithms` are those of proofs,
    /// `error` is `invalid_dpop_proof` and the like, where the code's own does not do.
    pub fn for_dpop(mut self, algorithms: &'static str, error: Option<&'static str>) -> Self {
        self.0.challenge = true;
        self.0.dpop = Some(Box::new(Dpop { error, algorithms, nonce: None }));
        self
    }

    /// The nonce that the next proof must have (RFC 9449 §8, §9), after [`Problem::for_dpop`].
    pub fn with_nonce(mut self, nonce: Box<str>) -> Self {
        if let Some(dpop) = &mut self.0.dpop {
            dpop.nonce = Some(nonce);
        }
        self
    }

    /// The error about a DPoP proof, if that is what it is.
    pub fn dpop_error(&self) -> Option<&'static str> {
        self.0.dpop.as_ref()?.error
    }

    /// The nonce that the next proof must have.
    pub fn nonce(&self) -> Option<&str> {
        self.0.dpop.as_ref()?.nonce.as_deref()
    }

    /// The connection ends with this answer.
    pub fn closing(mut self) -> Self {
        self.0.close = true;
        self
    }

    /// The stable code.
    pub const fn code(&self) -> Code {
        self.0.code
    }

    /// The words for the client.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// Whether the connection ends with this answer.
    pub const fn closes(&self) -> bool {
        self.0.close
    }

    /// The status under these settings.
    pub fn status(&self, context: &Context<'_>) -> StatusCode {
        match (self.0.status, self.0.code) {
            (Some(status), _) => status,
            (None, Code::TokenInvalid) => context.invalid_token_status,
            (None, code) => code.status(),
        }
    }

    /// The whole answer.
    pub fn into_response(self, context: &Context<'_>) -> Response<Body> {
        let status = self.status(context);
        let mut response = if context.grpc { self.grpc() } else { self.document(status, context) };
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // A 503 always says when to come back; one second where nobody knows better.
        let unavailable = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1);
        if let Some(secs) = self.0.retry_after_secs.or(unavailable) {
            headers.insert(RETRY_AFTER, HeaderValue::from(secs));
        }
        if let Some(allow) = self.0.allow.as_deref().and_then(|text| HeaderValue::from_str(text).ok()) {
            headers.insert(ALLOW, allow);
        }
        if self.0.challenge
            && let Ok(value) = HeaderValue::from_str(&self.challenge_text(context.realm))
        {
            headers.insert(WWW_AUTHENTICATE, value);
        }
        if let Some(nonce) = self.nonce().and_then(|nonce| HeaderValue::from_str(nonce).ok()) {
            headers.insert("dpop-nonce", nonce);
        }
        if self.0.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        // For the access log and the metrics, whoever made the answer.
        response.extensions_mut().insert(self.0.code);
        response
    }

    fn document(&self, status: StatusCode, context: &Context<'_>) -> Response<Body> {
        let document = Document {
            r#type: format!("urn:portcullis:error:{}", self.0.code.name()),
            title: self.0.code.title(),
            status: status.as_u16(),
            detail: &self.0.detail,
            code: self.0.code.name(),
            request_id: context.request_id,
            error: context.error_member.then_some(&*self.0.detail),
        };
        let text = serde_json::to_vec(&document).expect("strings and a number always serialise");
        let length = HeaderValue::from(text.len());
        let mut response = Response::new(if context.head { Body::empty() } else { Body::full(text) });
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response.headers_mut().insert(http::header::CONTENT_LENGTH, length);
        response
    }

    /// A trailers-only answer: 200 with the gRPC status in the head (gRPC over HTTP/2, Responses).
    fn grpc(&self) -> Response<Body> {
        let number = match self.0.code.status().as_u16() {
            401 | 422 => 16,      // UNAUTHENTICATED
            403 => 7,             // PERMISSION_DENIED
            429 | 413 | 431 => 8, // RESOURCE_EXHAUSTED
            400 => 13,            // INTERNAL, as gRPC maps HTTP 400
            404 | 405 => 12,      // UNIMPLEMENTED
            _ => 14,              // UNAVAILABLE
        };
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(number));
        let words = percent_encoding::utf8_percent_encode(&self.0.detail, GRPC_MESSAGE).to_string();
        if let Ok(words) = HeaderValue::from_str(&words) {
            headers.insert("grpc-message", words);
        }
        response
    }

    /// About a token that was shown without its proof there are two, as in RFC 9449 §7.2: whoever knows only bearer tokens
    /// finds what they know.
    fn challenge_text(&self, realm: &str) -> String {
        match &self.0.dpop {
            None => self.challenge_of("Bearer", realm),
            Some(dpop) => {
                let mut text = self.challenge_of("DPoP", realm);
                let _ = write!(text, ", algs=\"{}\"", dpop.algorithms);
                if dpop.error.is_none() {
                    text = format!("{}, {text}", self.challenge_of("Bearer", realm));
                }
                text
            }
        }
    }

    fn challenge_of(&self, scheme: &str, realm: &str) -> String {
        let mut text = format!("{scheme} realm=\"{}\"", quoted(realm));
        let error = match self.0.code {
            _ if self.dpop_error().is_some() => self.dpop_error(),
            Code::TokenInvalid | Code::TokenExpired | Code::TokenRevoked | Code::TokenNotFresh => {
                Some("invalid_token")
            }
            // RFC 6750 §3.1 has no other word for "not with this token".
            Code::InsufficientScope | Code::Forbidden => Some("insufficient_scope"),
            _ => None,
        };
        if let Some(error) = error {
            let _ = write!(text, ", error=\"{error}\", error_description=\"{}\"", quoted(&self.0.detail));
        }
        if let Some(scope) = &self.0.scope {
            let _ = write!(text, ", scope=\"{}\"", quoted(scope));
        }
        text
    }
}

/// gRPC percent-encodes everything outside printable ASCII, and the percent sign.
const GRPC_MESSAGE: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'%');

/// The inside of a quoted-string whose characters RFC 6750 §3 allows: no `"` and no `\`.
fn quoted(text: &str) -> String {
    text.chars().map(|c| if matches!(c, ' '..='~') && c != '"' && c != '\\' { c } else { '\'' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context<'static> {
        Context {
            request_id: "r-1",
            realm: "portcullis",
            invalid_token_status: StatusCode::UNAUTHORIZED,
            head: false,
            grpc: false,
            error_member: false,
        }
    }

    fn challenge(problem: Problem) -> String {
        let response = problem.into_response(&context());
        response.headers()[WWW_AUTHENTICATE].to_str().unwrap().to_owned()
    }

    #[test]
    fn a_missing_token_gets_a_bare_challenge() {
        assert_eq!(challenge(Problem::new(Code::TokenMissing, "no token")), "Bearer realm=\"portcullis\"");
    }

    #[test]
    fn a_revoked_token_gets_the_error_of_rfc_6750() {
        assert_eq!(
            challenge(Problem::new(Code::TokenRevoked, "the \"token\" was revoked")),
            "Bearer realm=\"portcullis\", error=\"invalid_token\", error_description=\"the 'token' was revoked\""
        );
    }

    #[test]
    fn only_an_invalid_token_takes_the_configured_status() {
        let context = Context { invalid_token_status: StatusCode::UNPROCESSABLE_ENTITY, ..context() };
        assert_eq!(Problem::new(Code::TokenInvalid, "").status(&context), 422);
        assert_eq!(Problem::new(Code::TokenExpired, "").status(&context), 401);
    }

    #[test]
    fn unavailable_always_says_when_to_come_back() {
        let response = Problem::new(Code::Draining, "").into_response(&context());
        assert_eq!(response.headers()[RETRY_AFTER], "1");
    }

    #[test]
    fn grpc_gets_a_trailers_only_answer() {
        let context = Context { grpc: true, ..context() };
        let response = Problem::new(Code::TokenRevoked, "revoked").into_response(&context);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "16");
    }
}

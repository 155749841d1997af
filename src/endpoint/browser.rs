//! Tokens in cookies: taken, guarded against other sites' pages (CSRF), set and cleared.
//!
//! What scripts of a page can read is not worth more than the page: access and refresh tokens are `HttpOnly`, and where
//! cookies are the only transport no body has them either. The third cookie is for scripts: its value is drawn at the
//! sign-in, stands in each token of the session as the claim `csrf`, and must be repeated in `x-csrf-token`.

use http::header::{HOST, SET_COOKIE};
use http::{HeaderValue, Response};
use serde_json::Value;

use super::Endpoints;
use super::call::Call;
use super::delegate::Delegate;
use super::fields::bad;
use super::place::Place;
use crate::access;
use crate::answer::{Body, Code, Problem};
use crate::clock::UnixTime;
use crate::token::{
    ACCESS_COOKIE, BearerError, CSRF_COOKIE, Claims, REFRESH_COOKIE, TokenType, VerifiedToken, cookie_name,
    encode_base64url, own_cookie,
};

/// The claim that binds a session's tokens to the value of its readable cookie; only where cookies carry tokens.
pub const CSRF_CLAIM: &str = "csrf";
/// Browsers drop a longer cookie without a word (RFC 6265bis §5.6).
const COOKIE_BYTES_MAX: usize = 4096;

/// What a session's cookies are to hold.
#[derive(Clone, Copy)]
pub(super) struct Cookies<'a> {
    /// The access token, and its end.
    pub(super) access: (&'a str, UnixTime),
    /// The refresh token, and its end; `None`: the browser keeps the one it has.
    pub(super) refresh: Option<(&'a str, UnixTime)>,
    /// The value to be repeated, and the end of the session.
    pub(super) csrf: (&'a str, UnixTime),
}

/// The token of a request, not verified.
#[derive(Clone, Copy)]
pub(super) struct Presented<'a> {
    pub(super) text: &'a str,
    /// A browser may have sent it by itself.
    pub(super) by_cookie: bool,
}

impl Endpoints {
    /// The token of the request, not verified: out of `Authorization`, or the cookie of the type that the endpoint
    /// takes. To log out, either will do.
    ///
    /// # Errors
    /// 400 in two places; what it means that there is none is the caller's to say.
    pub(super) fn presented<'a>(&self, call: &'a Call) -> Result<Option<Presented<'a>>, Problem> {
        let transport = self.transport();
        let header = call.bearer()?;
        if !transport.cookie {
            return Ok(header.map(|text| Presented { text, by_cookie: false }));
        }
        let wanted: &[TokenType] = match call.place {
            Place::Refresh => &[TokenType::Refresh],
            Place::Logout => &[TokenType::Access, TokenType::Refresh],
            _ => &[TokenType::Access],
        };
        let mut cookie = None;
        for wanted in wanted {
            cookie = cookie.or(own_cookie(&call.headers, cookie_name(*wanted)).map_err(unreadable)?);
        }
        match (header.filter(|_| transport.header || cookie.is_some()), cookie) {
            (Some(_), Some(_)) => Err(bad("The token is in the Authorization field and in a cookie")),
            (Some(text), None) => Ok(Some(Presented { text, by_cookie: false })),
            (None, Some(text)) => Ok(Some(Presented { text, by_cookie: true })),
            (None, None) => Ok(None),
        }
    }

    /// Whether a request whose token came by a cookie was made by a page of ours, where that matters.
    ///
    /// # Errors
    /// 403 `csrf`.
    pub(super) fn guard(&self, call: &Call, token: &VerifiedToken) -> Result<(), Problem> {
        let by_cookie = self.presented(call)?.is_some_and(|token| token.by_cookie);
        if !by_cookie || call.method.is_safe() {
            return Ok(());
        }
        self.own_page(call)?;
        let claim = token.claims.get(CSRF_CLAIM);
        match access::repeats_csrf(&call.headers, claim.as_ref().and_then(Value::as_str))
            .map_err(unreadable)?
        {
            true => Ok(()),
            false => Err(Problem::new(
                Code::Csrf,
                "x-csrf-token does not repeat the value of the session's cookie",
            )),
        }
    }

    /// # Errors
    /// 403 `csrf` for a request made by a page of another origin.
    pub(super) fn own_page(&self, call: &Call) -> Result<(), Problem> {
        let trusted = self.cors().filter(|cors| cors.credentials).map_or(&[][..], |cors| &cors.origins);
        match call.headers.get(HOST).is_some_and(|host| access::is_own_page(&call.headers, host, trusted)) {
            true => Ok(()),
            false => Err(Problem::new(Code::Csrf, "The page that made the request is of another origin")),
        }
    }

    /// Whether a sign-in is answered with cookies. A page elsewhere must not sign its visitors in here as somebody
    /// of its choice: with cookies alone it is refused, and where bodies carry tokens it gets those alone.
    ///
    /// # Errors
    /// 403 `csrf`.
    pub(super) fn signs_in_by_cookie(&self, call: &Call) -> Result<bool, Problem> {
        let transport = self.transport();
        match (transport.cookie, self.own_page(call)) {
            (false, _) => Ok(false),
            (true, Ok(())) => Ok(true),
            (true, Err(_)) if transport.header => Ok(false),
            (true, Err(problem)) => Err(problem),
        }
    }

    /// The claims of a new session beside the usual ones.
    ///
    /// # Errors
    /// No random bytes.
    pub(super) fn session_claims(&self) -> Result<Claims, Problem> {
        let mut claims = Claims::new();
        if self.transport().cookie {
            claims.insert(CSRF_CLAIM.to_owned(), drawn()?.into());
        }
        Ok(claims)
    }

    /// Of the claims of a refresh token, those that its session's tokens go on with.
    pub(super) fn carried_claims(&self, token: &VerifiedToken) -> Claims {
        let csrf = [CSRF_CLAIM].into_iter().filter(|_| self.transport().cookie);
        let names = csrf.chain(self.delegate.iter().flat_map(Delegate::claim_names));
        names.filter_map(|name| Some((name.to_owned(), token.claims.get(name)?))).collect()
    }
}

/// Of these claims the value to be repeated; a new one where the session began without.
///
/// # Errors
/// No random bytes.
pub(super) fn csrf_value(claims: &Claims) -> Result<String, Problem> {
    match claims.get(CSRF_CLAIM).and_then(Value::as_str) {
        Some(value) => Ok(value.to_owned()),
        None => drawn(),
    }
}

/// Sets a session's cookies.
pub(super) fn set_cookies(response: &mut Response<Body>, now: UnixTime, cookies: Cookies<'_>) {
    let mut set = |name, (value, until): (&str, UnixTime), readable| {
        append(response, name, value, until.since(now).as_secs(), readable);
    };
    set(ACCESS_COOKIE, cookies.access, false);
    if let Some(refresh) = cookies.refresh {
        set(REFRESH_COOKIE, refresh, false);
    }
    set(CSRF_COOKIE, cookies.csrf, true);
}

/// Clears all three.
pub(super) fn clear_cookies(response: &mut Response<Body>) {
    append(response, ACCESS_COOKIE, "", 0, false);
    append(response, REFRESH_COOKIE, "", 0, false);
    append(response, CSRF_COOKIE, "", 0, true);
}

fn append(response: &mut Response<Body>, name: &str, value: &str, max_age_secs: u64, readable: bool) {
    let readable = if readable { "" } else { "; HttpOnly" };
    let text = format!("{name}={value}; Path=/; Max-Age={max_age_secs}; Secure; SameSite=Lax{readable}");
    if name.len() + value.len() > COOKIE_BYTES_MAX {
        tracing::warn!(
            cookie = name,
            bytes = value.len(),
            "a token is too long for a cookie; browsers drop it"
        );
    }
    // Tokens are base64url and dots.
    if let Ok(mut value) = HeaderValue::from_str(&text) {
        value.set_sensitive(true);
        response.headers_mut().append(SET_COOKIE, value);
    }
}

/// 128 random bits: 22 characters.
fn drawn() -> Result<String, Problem> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| Problem::new(Code::Internal, "No token could be issued"))?;
    Ok(encode_base64url(bytes))
}

fn unreadable(error: BearerError) -> Problem {
    let code = if error == BearerError::Twice { Code::InvalidRequest } else { Code::TokenInvalid };
    Problem::new(code, error.to_string())
}

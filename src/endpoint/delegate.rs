//! A sign-in whose password somebody else checks (`[auth.delegate]`): the old backend says yes or no and who it is, the
//! gateway issues the tokens.
//!
//! What the backend is told is the account, the password, and the members that `pass` names, nothing else of the
//! request: a second name for an account would get around the count of failed sign-ins. What it answers is held
//! whole within a limit and taken only as what it must be; redirects are not followed. The subject that it names is
//! trusted as the operator trusts it. So is a JWT in its answer, whose signature is not checked: it comes over a
//! connection that we opened to the backend, which could say in plain what it says there.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::Endpoints;
use super::account::{FIELD_BYTES_MAX, bad_credentials, locked_out, nobody};
use super::call::Call;
use super::email::{EMAIL_BYTES_MAX, email_key};
use super::fields::Fields;
use super::lockout::Attempt;
use super::settings;
use crate::answer::{Body, Code, Problem};
use crate::fetch::{FetchError, Fetched, Fetcher, Limits, form};
use crate::store::{Guest, Started};
use crate::token::{Claims, decode_base64url, json_object};

/// Questions under way at once: as many workers as an old backend is likely to have, and a few that wait.
const AT_ONCE: usize = 64;
/// Of an answer.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Of the claims together, in JSON, as a part of `max_token_bytes`: base64 makes four of three, and a refresh token
/// carries them too.
const CLAIMS_PART: usize = 4;
/// CONTRACT §1.
const SUBJECT_BYTES_MAX: usize = 1024;
/// Tokens with JSON deeper than 32 levels are refused.
const DEPTH_MAX: usize = 16;
/// A longer wait that the backend asks for counts as this.
const WAIT_MAX: u64 = 3600;

/// Asks the backend.
pub(super) struct Delegate {
    settings: settings::Delegate,
    fetcher: Fetcher,
    places: Semaphore,
    claims_bytes_max: usize,
}

/// Who signed in, as the backend tells it.
#[derive(Debug, PartialEq)]
struct Told {
    subject: Box<str>,
    claims: Claims,
    fields: Claims,
    scope: Option<Box<str>>,
}

/// What the backend made of the password.
enum Verdict {
    Good(Told),
    Wrong,
}

impl Delegate {
    /// # Errors
    /// The certificate authorities cannot be used.
    pub(super) fn new(settings: &settings::Delegate, token_bytes_max: usize) -> std::io::Result<Self> {
        let limits = Limits {
            connect: settings.timeout.min(Duration::from_secs(5)),
            total: settings.timeout,
            body_bytes: ANSWER_BYTES_MAX,
        };
        let fetcher = Fetcher::new(settings.ca_pem.as_deref()).map_err(std::io::Error::other)?;
        let fetcher = fetcher.with_limits(limits);
        Ok(Self {
            settings: settings.clone(),
            fetcher,
            places: Semaphore::new(AT_ONCE),
            claims_bytes_max: token_bytes_max / CLAIMS_PART,
        })
    }

    /// # Errors
    /// 502, 503, 504 when the backend gives no answer that can be used; 429 when it asks to wait.
    async fn ask(&self, call: &Call, fields: &Fields) -> Result<Verdict, Problem> {
        let Ok(_place) = self.places.try_acquire() else {
            return Err(Problem::new(Code::Overloaded, "Too many sign-ins at once").with_retry_after(1));
        };
        let (headers, body) = self.question(call, fields)?;
        let fetched = self.fetcher.post(&self.settings.url, headers, body).await;
        let fetched = fetched.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "the backend did not check a password");
            unanswered(&error)
        })?;
        self.verdict(&fetched)
    }

    /// In the form in which the client sent it.
    fn question(&self, call: &Call, fields: &Fields) -> Result<(HeaderMap, Bytes), Problem> {
        let mut members = vec![(&*self.settings.account, fields.given(&self.settings.account)?)];
        members.push(("password", fields.given("password")?));
        for name in &self.settings.pass {
            if fields.has(name) {
                members.push((name, fields.given(name)?));
            }
        }
        let (kind, body) = if fields.is_form() {
            let mut body = String::new();
            members.iter().for_each(|(name, value)| form::add_pair(&mut body, name, value));
            ("application/x-www-form-urlencoded", body)
        } else {
            let members = members.into_iter().map(|(name, value)| (name.to_owned(), value.into()));
            ("application/json", Value::Object(members.collect()).to_string())
        };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        // So that a brake of the backend's own does not take all sign-ins for one client's.
        if let Ok(address) = HeaderValue::from_str(&call.address())
            && !address.is_empty()
        {
            headers.insert("x-forwarded-for", address);
        }
        Ok((headers, body.into()))
    }

    fn verdict(&self, fetched: &Fetched) -> Result<Verdict, Problem> {
        let refused = |why: &str, problem: Problem| {
            tracing::warn!(status = fetched.status.as_u16(), why, "the backend did not check a password");
            problem
        };
        match fetched.status.as_u16() {
            200..=299 => match self.told(&fetched.body) {
                Ok(told) => Ok(Verdict::Good(told)),
                Err(why) => Err(refused(why, nonsense())),
            },
            400 | 401 | 403 | 404 | 422 => Ok(Verdict::Wrong),
            429 => {
                let problem = Problem::new(Code::LockedOut, "Too many sign-ins; try again later");
                Err(refused("it asks to wait", problem.with_retry_after(wait(&fetched.headers))))
            }
            503 => {
                let problem = Problem::new(Code::Overloaded, "Sign-in is not possible now; try again soon");
                Err(refused("it is not available", problem.with_retry_after(wait(&fetched.headers))))
            }
            300..=399 => Err(refused("it redirects, which is not followed", nonsense())),
            _ => Err(refused("its status says neither yes nor no", nonsense())),
        }
    }

    /// # Errors
    /// Why the answer cannot be used, for the log.
    fn told(&self, body: &[u8]) -> Result<Told, &'static str> {
        let answer = read(body).ok_or("the answer is not JSON")?;
        let subject = match at(&answer, &self.settings.subject).as_deref() {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) if number.is_i64() || number.is_u64() => number.to_string(),
            Some(_) => return Err("the subject is neither a string nor a whole number"),
            None => return Err("the subject is not where the pointer says"),
        };
        if subject.is_empty() || subject.len() > SUBJECT_BYTES_MAX || subject.contains(char::is_control) {
            return Err("the subject cannot be one: it is empty, too long, or has control characters");
        }
        let (mut claims, mut scope) = (Claims::new(), None);
        for (name, pointer) in &self.settings.claims {
            let value = at(&answer, pointer).filter(|value| !value.is_null());
            if &**name == "scope" {
                scope = Some(value.as_deref().map_or(Ok(Box::default()), scope_of)?);
            } else if let Some(value) = value {
                if !is_shallow(&value, DEPTH_MAX) {
                    return Err("a claim is nested too deeply");
                }
                claims.insert(name.to_string(), value.into_owned());
            }
        }
        if json!(claims).to_string().len() > self.claims_bytes_max {
            return Err("the claims are too long for a token");
        }
        let mut fields = Claims::new();
        for (name, pointer) in &self.settings.fields {
            match at(&answer, pointer).as_deref() {
                Some(Value::String(text))
                    if text.len() > FIELD_BYTES_MAX || text.contains(char::is_control) =>
                {
                    return Err("a field is too long, or has control characters");
                }
                Some(value @ (Value::String(_) | Value::Number(_) | Value::Bool(_))) => {
                    fields.insert(name.to_string(), value.clone());
                }
                Some(Value::Null) | None => {}
                Some(_) => return Err("a field is neither a string, a number, true nor false"),
            }
        }
        Ok(Told { subject: subject.into(), claims, fields, scope })
    }

    /// The claims that a refresh goes on with.
    pub(super) fn claim_names(&self) -> impl Iterator<Item = &str> {
        self.settings.claims.iter().map(|(name, _)| &**name).filter(|name| *name != "scope")
    }
}

impl Endpoints {
    /// POST `/auth/signin` under `[auth.delegate]`. A backend that gives no verdict counts neither for nor against
    /// the account.
    pub(super) async fn sign_in_elsewhere(
        &self,
        call: &Call,
        delegate: &Delegate,
    ) -> Result<Response<Body>, Problem> {
        let by_cookie = self.signs_in_by_cookie(call)?;
        let fields = call.fields()?;
        let name = fields.given(&delegate.settings.account)?;
        let password = Zeroizing::new(fields.given("password")?.to_owned());
        let usable = !name.is_empty() && name.len() <= EMAIL_BYTES_MAX && !name.contains(char::is_control);
        let key = if usable { email_key(name) } else { nobody(name) };
        let attempt = Attempt { account: &key, address: call.ip };
        let rule = self.auth()?.lockout;
        self.common.check(&self.lockout, attempt, rule, call.now).await.map_err(locked_out)?;
        let verdict = match usable && !password.is_empty() {
            true => delegate.ask(call, &fields).await?,
            false => Verdict::Wrong,
        };
        let now = self.parts.clock.now();
        let good = matches!(verdict, Verdict::Good(_));
        let concluded = self.common.conclude(&self.lockout, attempt, rule, now, good).await;
        let told = match verdict {
            Verdict::Good(told) if concluded.is_ok() => told,
            verdict => {
                tracing::info!(
                    target: "portcullis::audit",
                    address = &*call.address(),
                    right = matches!(verdict, Verdict::Good(_)),
                    locked = concluded.is_err(),
                    "a sign-in was refused"
                );
                concluded.map_err(locked_out)?;
                return Err(bad_credentials());
            }
        };

        let mut claims = self.session_claims()?;
        claims.extend(told.claims.clone());
        let user = self.parts.store.welcome(guest(told, name, key, now)).await?;
        if user.disabled {
            tracing::info!(
                target: "portcullis::audit",
                subject = &*user.id,
                address = &*call.address(),
                "a sign-in was refused: the account is disabled"
            );
            return Err(bad_credentials());
        }
        let prepared = self.prepare_login(call, &user, claims)?;
        match self.parts.store.start_session(prepared.login.clone(), user.password_hash.clone()).await? {
            Started::Done => {}
            Started::CredentialsChanged => return Err(bad_credentials()),
        }
        self.keep_session_limit(call, &user.id).await?;
        self.signed_in(StatusCode::OK, &prepared, &user, by_cookie)
    }
}

/// JSON; an answer that is a JWT and nothing else counts as a string of it.
fn read(body: &[u8]) -> Option<Value> {
    serde_json::from_slice(body).ok().or_else(|| {
        let text = std::str::from_utf8(body).ok()?.trim();
        payload(text).map(|_| Value::from(text))
    })
}

/// What a pointer leads to: what stands behind a `#` leads on in the payload of the JWT that stands there.
fn at<'a>(answer: &'a Value, pointer: &str) -> Option<Cow<'a, Value>> {
    match pointer.split_once('#') {
        None => answer.pointer(pointer).map(Cow::Borrowed),
        Some((token, inner)) => {
            let payload = Value::Object(payload(answer.pointer(token)?.as_str()?)?);
            payload.pointer(inner).cloned().map(Cow::Owned)
        }
    }
}

/// The claims of a JWT in its compact form (RFC 7519 §7.2), whoever signed it; none of one that is encrypted.
fn payload(token: &str) -> Option<Claims> {
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    json_object(&decode_base64url(claims).ok()?).ok()
}

/// The account of whom the backend told, who called themselves `name`.
fn guest(told: Told, name: &str, key: String, at: crate::clock::UnixTime) -> Guest {
    let mut fields = told.fields;
    let mut taken = |field: &str| match fields.remove(field) {
        Some(Value::String(text)) if !text.is_empty() => Some(text),
        _ => None,
    };
    let (email, username) = (taken("email"), taken("username"));
    let email_key = email.as_deref().map_or(key, email_key);
    let email = email.unwrap_or_else(|| name.to_owned());
    let username = username.unwrap_or_else(|| email.clone());
    Guest {
        id: told.subject,
        email: email.into(),
        email_key: email_key.into(),
        username: username.into(),
        fields,
        scope: told.scope,
        at,
    }
}

/// A scope as OAuth writes it, or an array of its parts.
fn scope_of(value: &Value) -> Result<Box<str>, &'static str> {
    const WRONG: &str = "the scope is neither a string nor an array of scopes";
    let parts: Vec<&str> = match value {
        Value::String(text) => text.split(' ').filter(|part| !part.is_empty()).collect(),
        Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().filter(|it| !it.is_empty()))
            .collect::<Option<_>>()
            .ok_or(WRONG)?,
        _ => return Err(WRONG),
    };
    // RFC 6749 §3.3.
    let good = |part: &&str| part.bytes().all(|b| matches!(b, b'!' | b'#'..=b'[' | b']'..=b'~'));
    let text = parts.join(" ");
    if !parts.iter().all(good) || text.len() > FIELD_BYTES_MAX {
        return Err(WRONG);
    }
    Ok(text.into())
}

fn is_shallow(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels > 0 && items.iter().all(|item| is_shallow(item, levels - 1)),
        Value::Object(members) => levels > 0 && members.values().all(|item| is_shallow(item, levels - 1)),
        _ => true,
    }
}

/// Whole seconds; a date counts as none.
fn wait(headers: &HeaderMap) -> u64 {
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    seconds.unwrap_or(1).clamp(1, WAIT_MAX)
}

fn nonsense() -> Problem {
    Problem::new(
        Code::UpstreamProtocolError,
        "Sign-in is not possible now: the backend gave no usable answer",
    )
}

fn unanswered(error: &FetchError) -> Problem {
    match error {
        FetchError::Timeout(_) | FetchError::ConnectTimeout(_) => Problem::new(
            Code::UpstreamTimeout,
            "Sign-in is not possible now: the backend did not answer in time",
        ),
        FetchError::Connect(_) | FetchError::Tls(_) => Problem::new(
            Code::UpstreamUnreachable,
            "Sign-in is not possible now: the backend cannot be reached",
        ),
        _ => nonsense(),
    }
}

#[cfg(test)]
mod tests {
    use crate::token::encode_base64url;

    use super::*;

    #[test]
    fn a_pointer_leads_on_in_a_jwt_and_nowhere_in_anything_else() {
        let claims = encode_base64url(r#"{"sub":"7","realm":{"roles":["a"]},"a/b":1}"#);
        let token = format!("e30.{claims}.c2ln");
        let answer = json!({
            "access_token": token, "plain": "text", "encrypted": format!("a.{claims}.c.d.e"),
            "list": [1, token],
        });
        let check = |pointer: &str, expected: Option<Value>| {
            assert_eq!(at(&answer, pointer).map(Cow::into_owned), expected, "{pointer}");
        };
        check("/access_token#/sub", Some(json!("7")));
        check("/access_token#/realm/roles/0", Some(json!("a")));
        check("/access_token#/a~1b", Some(json!(1)));
        check("/list/1#/sub", Some(json!("7")));
        check("/access_token#/none", None);
        for nowhere in ["/plain#/sub", "/encrypted#/sub", "/list#/sub", "/none#/sub", "/list/0#/sub"] {
            check(nowhere, None);
        }
        check("/plain", Some(json!("text")));
        assert_eq!(at(&Value::from(token.as_str()), "#/sub").as_deref(), Some(&json!("7")));
        assert_eq!(read(format!("{token}\n").as_bytes()), Some(Value::from(token)));
        assert_eq!(read(b"not.a.token"), None);
    }
}

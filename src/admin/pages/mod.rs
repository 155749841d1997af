//! The dashboard: `GET /` of the admin listener, and what is below `/ui`. Pages are made here and work without scripts;
//! the one script adds a live feed, fresh figures and questions before what cannot be undone.
//!
//! Every page asks the admin API itself, by its own router, with the admin token: it can do what that can, says what that
//! says, and leaves the same trail. Who may: [`session`]. A form is taken from our own pages alone: `SameSite=Strict`,
//! `Origin` and `Sec-Fetch-Site` (another port of this host is the same site), and a value that the page was given.

mod html;
mod people;
mod revocations;
mod session;
mod views;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Form, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, SET_COOKIE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;
use tower::ServiceExt as _;

use self::html::{Html, html};
use self::session::{Session, Sessions};
use super::{From, Shared};
use crate::access;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("app.js");
/// Of an answer of the API that becomes a page.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Where the pages lead.
const PLACES: [(&str, &str); 8] = [
    ("/", "Overview"),
    ("/ui/revocations", "Revocations"),
    ("/ui/events", "Live events"),
    ("/ui/users", "Users"),
    ("/ui/keys", "Keys"),
    ("/ui/routes", "Routes"),
    ("/ui/upstreams", "Upstreams"),
    ("/ui/explain", "Explain a token"),
];
/// Nothing but our own files, no script in a page, and no page around ours.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// What the pages work on.
pub(super) struct Pages {
    api: Router,
    parts: Shared,
    sessions: Sessions,
}

type Ours = Arc<Pages>;

/// The pages over this API.
pub(super) fn router(api: Router, parts: Shared) -> Router {
    let pages = Arc::new(Pages { api, parts, sessions: Sessions::default() });
    let guarded = Router::new()
        .route("/ui/sign-out", post(sign_out))
        .route("/ui/revocations", get(revocations::list).post(revocations::revoke))
        .route("/ui/unrevoke", post(revocations::unrevoke))
        .route("/ui/events", get(revocations::events))
        .route("/ui/feed", get(revocations::feed))
        .route("/ui/users", get(people::list))
        .route("/ui/users/{id}", get(people::show).post(people::act))
        .route("/ui/keys", get(views::keys).post(views::change_key))
        .route("/ui/routes", get(views::routes))
        .route("/ui/upstreams", get(views::upstreams))
        .route("/ui/explain", get(views::explain).post(views::explained))
        .method_not_allowed_fallback(super::method_not_allowed)
        .layer(middleware::from_fn_with_state(pages.clone(), signed_in_only));
    Router::new()
        .route("/", get(front))
        .route("/ui/sign-in", post(sign_in))
        .route("/ui/style.css", get(|| asset("text/css; charset=utf-8", STYLE)))
        .route("/ui/app.js", get(|| asset("text/javascript; charset=utf-8", SCRIPT)))
        .method_not_allowed_fallback(super::method_not_allowed)
        .merge(guarded)
        .layer(middleware::map_response(protected))
        .with_state(pages)
}

impl Pages {
    /// What the admin API answers. `Err`: why not, in its words.
    async fn ask(
        &self,
        from: &From,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, String> {
        let response = self.send(from, method, path, body).await;
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), ANSWER_BYTES_MAX).await;
        let value: Value =
            bytes.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        if status.is_success() || value.get("reasons").is_some() {
            return Ok(value);
        }
        Err(value["detail"].as_str().unwrap_or("the admin API gave no answer").to_owned())
    }

    async fn send(&self, from: &From, method: Method, path: &str, body: Option<Value>) -> Response {
        let token = self.parts.token.secret();
        let mut authorization = HeaderValue::from_bytes(&[b"Bearer ", token.as_slice()].concat())
            .unwrap_or(HeaderValue::from_static(""));
        authorization.set_sensitive(true);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::AUTHORIZATION, authorization)
            .header(CONTENT_TYPE, "application/json")
            .extension(from.clone())
            .body(body.map_or_else(axum::body::Body::empty, |body| body.to_string().into()));
        match request {
            Ok(request) => {
                let Ok(response) = self.api.clone().oneshot(request).await;
                response
            }
            Err(_) => StatusCode::BAD_REQUEST.into_response(),
        }
    }

    /// Has the next page of a session tell what became of a change, and leads there.
    fn back(&self, session: &Session, told: Result<String, String>, to: &str) -> Response {
        let notice = match told {
            Ok(words) => (true, words),
            Err(words) => (false, words),
        };
        self.sessions.tell(session, notice, self.parts.clock.now());
        Redirect::to(to).into_response()
    }
}

/// Everything that a page is made for.
#[derive(Clone)]
struct Asked {
    session: Session,
    from: From,
}

async fn signed_in_only(State(pages): State<Ours>, mut request: Request, next: Next) -> Response {
    let from = request.extensions().get::<From>().cloned().unwrap_or(From("-".to_owned()));
    let page = request.method() == Method::GET && request.uri().path() != "/ui/feed";
    let now = pages.parts.clock.now();
    match pages.sessions.find(request.headers(), now, page) {
        None => Redirect::to("/").into_response(),
        Some(_) if request.method() == Method::POST && !is_ours(request.headers()) => refused(),
        Some(session) => {
            request.extensions_mut().insert(Asked { session, from });
            next.run(request).await
        }
    }
}

/// Sent by one of our own pages, as far as the browser tells.
fn is_ours(headers: &HeaderMap) -> bool {
    headers.get(HOST).is_some_and(|host| access::is_own_page(headers, host, &[]))
}

fn refused() -> Response {
    let words = html!(
        "<h1>Refused</h1><p>This form was not sent by a page of this dashboard.</p><p><a href=\"/\">Back</a></p>"
    );
    (StatusCode::FORBIDDEN, bare("Refused", words)).into_response()
}

/// `GET /`: the overview, or the door.
async fn front(State(pages): State<Ours>, request: Request) -> Response {
    let from = request.extensions().get::<From>().cloned().unwrap_or(From("-".to_owned()));
    match pages.sessions.find(request.headers(), pages.parts.clock.now(), true) {
        Some(session) => views::overview(&pages, &Asked { session, from }).await,
        None => {
            // Nothing but these words is to be had without the token (CONTRACT §2).
            let challenge = [(WWW_AUTHENTICATE, "Bearer realm=\"portcullis admin\"")];
            (StatusCode::UNAUTHORIZED, challenge, door(None)).into_response()
        }
    }
}

fn door(wrong: Option<&str>) -> Response {
    let wrong =
        wrong.map(|words| html!("<p class=\"notice bad\" role=\"alert\">{}</p>", words)).unwrap_or_default();
    let form = html!(
        "<form method=\"post\" action=\"/ui/sign-in\" class=\"door\"><span class=\"mark\" aria-hidden=\"true\"></span>\
         <h1>Portcullis</h1>{}<label for=\"token\">Admin token</label>\
         <input id=\"token\" name=\"token\" type=\"password\" autocomplete=\"off\" required autofocus>\
         <button>Sign in</button><p class=\"hint\">It is in the file that <code>[admin] token_file</code> names.</p></form>",
        wrong
    );
    bare("Sign in", form).into_response()
}

#[derive(Deserialize)]
struct SignIn {
    token: String,
}

async fn sign_in(State(pages): State<Ours>, headers: HeaderMap, Form(given): Form<SignIn>) -> Response {
    if !is_ours(&headers) {
        return refused();
    }
    if !pages.parts.token.is(given.token.trim()) {
        tracing::info!(target: "portcullis::audit", "a sign-in to the dashboard was refused");
        let mut response = door(Some("This is not the admin token."));
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        return response;
    }
    match pages.sessions.begin(pages.parts.clock.now()) {
        Ok(cookie) => ([(SET_COOKIE, cookie)], Redirect::to("/")).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn sign_out(
    State(pages): State<Ours>,
    axum::Extension(asked): axum::Extension<Asked>,
    Form(given): Form<Value>,
) -> Response {
    if !asked.session.made(text(&given, "csrf")) {
        return refused();
    }
    let cookie = pages.sessions.end(&asked.session, pages.parts.clock.now());
    ([(SET_COOKIE, cookie)], Redirect::to("/")).into_response()
}

/// A whole page of somebody who is signed in.
fn page(asked: &Asked, place: &str, title: &str, content: Html) -> Response {
    let link = |(path, name): &(&str, &str)| {
        let current =
            if *path == place { Html(" aria-current=\"page\"".to_owned()) } else { Html::default() };
        html!("<li><a href=\"{}\"{}>{}</a></li>", path, current, name)
    };
    let links: Html = PLACES.iter().map(link).collect();
    let notice = asked.session.notice.as_ref().map_or_else(Html::default, |(good, words)| {
        html!("<p class=\"notice {}\" role=\"status\">{}</p>", if *good { "good" } else { "bad" }, words)
    });
    let body = html!(
        "<a class=\"skip\" href=\"#main\">Skip to the content</a><header><a class=\"brand\" href=\"/\"><span class=\"mark\" \
         aria-hidden=\"true\"></span>Portcullis</a><nav aria-label=\"Pages\"><ul>{}</ul></nav>\
         <form method=\"post\" action=\"/ui/sign-out\">{}<button class=\"quiet\">Sign out</button></form></header>\
         <main id=\"main\" tabindex=\"-1\"><h1>{}</h1>{}{}</main>",
        links,
        csrf(asked),
        title,
        notice,
        content
    );
    bare(title, body).into_response()
}

fn bare(title: &str, body: Html) -> impl IntoResponse + use<> {
    let page = html!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{} · Portcullis</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><link rel=\"stylesheet\" href=\"/ui/style.css\">\
         <script src=\"/ui/app.js\" defer></script></head><body>{}</body></html>",
        title,
        body
    );
    ([(CONTENT_TYPE, "text/html; charset=utf-8")], page.0)
}

/// What every form of a session repeats.
fn csrf(asked: &Asked) -> Html {
    html!("<input type=\"hidden\" name=\"csrf\" value=\"{}\">", asked.session.csrf)
}

/// Why something could not be shown.
fn failed(words: &str) -> Html {
    html!("<p class=\"notice bad\" role=\"alert\">{}</p>", words)
}

/// A member of a form; empty where it is not there.
fn text<'v>(form: &'v Value, name: &str) -> &'v str {
    form.get(name).and_then(Value::as_str).unwrap_or_default().trim()
}

/// For a path or a query.
fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// A query of the pairs that say something.
fn query(pairs: &[(&str, &str)]) -> String {
    let said = pairs.iter().filter(|(_, value)| !value.is_empty());
    let pairs: Vec<String> = said.map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

async fn asset(kind: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, kind)], text).into_response()
}

async fn protected(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (HeaderName::from_static("content-security-policy"), POLICY),
        (HeaderName::from_static("x-content-type-options"), "nosniff"),
        (HeaderName::from_static("x-frame-options"), "DENY"),
        (HeaderName::from_static("referrer-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

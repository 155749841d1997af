//! Pages of other origins (Fetch standard, "HTTP extensions: CORS protocol"): which may ask, and which may read.
//!
//! A route with `cors` answers for its upstream: preflights never reach that one, and what it says of CORS itself is
//! replaced, on its answers as on ours, so that one place decides who may read them.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

use super::fields::retain;
use crate::answer::{Body, Code, Problem};
use crate::route::Head;
use crate::route::settings::Cors;

/// What a page may be told in one go about the fields that it wants to send.
const ASKED_BYTES_MAX: usize = 2048;
/// Fields by which a request says that it is another than it seems; no browser puts one on a preflight.
const OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];

/// The question of a browser whether a page may send a request.
#[derive(Clone, Debug)]
pub struct Preflight {
    /// Of the request that may follow.
    pub method: Method,
    origin: HeaderValue,
    headers: Option<HeaderValue>,
}

/// A request as CORS sees it, for the fields of its answer.
#[derive(Clone, Debug)]
pub struct Page {
    /// As sent, where it may read.
    origin: Option<HeaderValue>,
    any: bool,
    credentials: bool,
    expose: Option<HeaderValue>,
}

impl Preflight {
    /// `None` for what is no preflight. A browser's has no credentials, no body and no field that a page chose; one
    /// that has is judged as the request that it is.
    pub fn of(head: &Head, headers: &HeaderMap, empty: bool) -> Option<Self> {
        if *head.method() != Method::OPTIONS || !empty {
            return None;
        }
        let odd = |name: &HeaderName| *name == AUTHORIZATION || OVERRIDES.contains(&name.as_str());
        if head.content_length().is_some_and(|length| length > 0)
            || head.is_chunked()
            || headers.keys().any(odd)
        {
            return None;
        }
        let method = Method::from_bytes(only(headers, &ACCESS_CONTROL_REQUEST_METHOD)?.as_bytes()).ok()?;
        let origin = only(headers, &ORIGIN)?.clone();
        Some(Self { method, origin, headers: headers.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned() })
    }

    /// The answer. `methods`: those that the route takes; none for all.
    ///
    /// # Errors
    /// 403 for an origin or a field that is not allowed.
    pub fn answer(&self, cors: &Cors, methods: &[Method]) -> Result<Response<Body>, Problem> {
        let refused = |words: &'static str| Problem::new(Code::Forbidden, words);
        let allowed = allowed(cors, Some(&self.origin));
        let origin = allowed.ok_or_else(|| refused("pages of this origin may not ask for this"))?;
        let asked = match &self.headers {
            None => None,
            Some(asked) => {
                let names = names(asked).ok_or_else(|| refused("the names of the fields cannot be read"))?;
                let listed = |name: &str| cors.headers.iter().any(|known| known.eq_ignore_ascii_case(name));
                if !cors.headers.is_empty() && !names.iter().all(|name| listed(name)) {
                    return Err(refused("pages may not send one of these fields here"));
                }
                Some(asked)
            }
        };
        let methods = match methods {
            [] => self.method.as_str().to_owned(),
            some => some.iter().map(Method::as_str).collect::<Vec<_>>().join(", "),
        };
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let fields = response.headers_mut();
        fields.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if cors.credentials {
            fields.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Ok(methods) = HeaderValue::from_str(&methods) {
            fields.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
        }
        if let Some(asked) = asked {
            fields.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        }
        fields.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(cors.max_age.as_secs()));
        let varies = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";
        fields.insert(VARY, HeaderValue::from_static(varies));
        Ok(response)
    }
}

impl Page {
    /// Of a request to a place with these rules.
    pub fn of(cors: &Cors, headers: &HeaderMap) -> Self {
        let origin = headers.contains_key(ORIGIN).then(|| only(headers, &ORIGIN)).flatten();
        Self {
            origin: allowed(cors, origin),
            any: is_any(cors),
            credentials: cors.credentials,
            expose: cors.expose.clone(),
        }
    }

    /// Writes what the page may do with this answer, in place of what others have said.
    pub fn dress(&self, headers: &mut HeaderMap) {
        retain(headers, |name| !name.as_str().starts_with("access-control-"));
        if !self.any && !names_origin(headers) {
            // Another origin gets another answer, and so does none (Fetch, "CORS protocol and HTTP caches").
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
        let Some(origin) = &self.origin else { return };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Some(expose) = &self.expose {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }
}

/// `*` says the same to all; credentials never go with it.
fn is_any(cors: &Cors) -> bool {
    !cors.credentials && cors.origins.iter().any(|origin| &**origin == "*")
}

/// What `Access-Control-Allow-Origin` says to this origin.
fn allowed(cors: &Cors, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
    if is_any(cors) {
        return origin.map(|_| HeaderValue::from_static("*"));
    }
    let origin = origin?;
    cors.origins.iter().any(|known| known.as_bytes() == origin.as_bytes()).then(|| origin.clone())
}

fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first)
}

fn names(value: &HeaderValue) -> Option<Vec<&str>> {
    let text = value.to_str().ok().filter(|text| text.len() <= ASKED_BYTES_MAX)?;
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.map(|name| HeaderName::from_bytes(name.as_bytes()).is_ok().then_some(name)).collect()
}

fn names_origin(headers: &HeaderMap) -> bool {
    let values = headers.get_all(VARY).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|text| text.split(','))
        .any(|name| matches!(name.trim(), "*") || name.trim().eq_ignore_ascii_case("origin"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn cors(origins: &[&str], credentials: bool) -> Cors {
        Cors {
            origins: origins.iter().map(|origin| Box::from(*origin)).collect(),
            credentials,
            headers: vec!["X-Known".into()],
            expose: Some(HeaderValue::from_static("x-request-id")),
            max_age: Duration::from_secs(600),
        }
    }

    fn page(cors: &Cors, origin: &[&'static str], upstream: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut request = HeaderMap::new();
        for origin in origin {
            request.append(ORIGIN, HeaderValue::from_static(origin));
        }
        let mut answer = HeaderMap::new();
        for (name, value) in upstream {
            answer.append(*name, HeaderValue::from_static(value));
        }
        Page::of(cors, &request).dress(&mut answer);
        answer
    }

    const APP: &str = "https://app.example.com";

    #[test]
    fn only_listed_origins_read_and_only_what_we_say() {
        let cors = cors(&[APP], true);
        let theirs = [
            ("access-control-allow-origin", "*"),
            ("access-control-allow-methods", "PUT"),
            ("vary", "Accept"),
        ];
        let answer = page(&cors, &[APP], &theirs);
        assert_eq!(answer["access-control-allow-origin"], APP);
        assert_eq!(answer["access-control-allow-credentials"], "true");
        assert_eq!(answer["access-control-expose-headers"], "x-request-id");
        assert!(!answer.contains_key("access-control-allow-methods"));
        assert_eq!(answer.get_all(VARY).iter().count(), 2);
        for origins in
            [&["https://app.example.com.evil"][..], &["null"], &["HTTPS://APP.EXAMPLE.COM"], &[APP, APP], &[]]
        {
            let answer = page(&cors, origins, &theirs);
            assert!(answer.keys().all(|name| !name.as_str().starts_with("access-control-")), "{origins:?}");
            assert!(names_origin(&answer));
        }
    }

    #[test]
    fn anybody_is_told_the_same_and_never_with_credentials() {
        let answer = page(&cors(&["*"], false), &["https://any.example"], &[]);
        assert_eq!(answer["access-control-allow-origin"], "*");
        assert!(!answer.contains_key(VARY) && !answer.contains_key("access-control-allow-credentials"));
        // The configuration refuses this pair; should it come about, it is no rule for anybody.
        assert!(
            !page(&cors(&["*"], true), &["https://any.example"], &[])
                .contains_key("access-control-allow-origin")
        );
    }

    #[test]
    fn vary_is_said_once() {
        for vary in ["Accept, origin", "*"] {
            assert_eq!(page(&cors(&[APP], true), &[APP], &[("vary", vary)]).get_all(VARY).iter().count(), 1);
        }
    }

    #[test]
    fn a_preflight_is_answered_for_the_origins_fields_and_methods_that_are_allowed() {
        let ask = |origin: &'static str, headers: Option<&'static str>| {
            let preflight = Preflight {
                method: Method::PUT,
                origin: HeaderValue::from_static(origin),
                headers: headers.map(HeaderValue::from_static),
            };
            preflight.answer(&cors(&[APP], true), &[Method::GET, Method::PUT])
        };
        let answer = ask(APP, Some("x-known")).unwrap();
        let field = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(answer.status(), 204);
        assert_eq!(field("access-control-allow-methods"), "GET, PUT");
        assert_eq!(field("access-control-allow-headers"), "x-known");
        assert_eq!(field("access-control-max-age"), "600");
        for (origin, headers) in [
            ("https://evil.example", None),
            (APP, Some("x-other")),
            (APP, Some("a b")),
            (APP, Some("x-known, (")),
        ] {
            assert!(ask(origin, headers).is_err(), "{origin} {headers:?}");
        }
    }
}

//! `[[routes]]`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};

use super::reader::{Table, Text, Value, boxed};
use super::source::Span;
use super::suggest::{did_you_mean, nearest, quote, quoted_list};
use super::{check, headers, json, policy};
use crate::issuer::settings::SELF;
use crate::route::settings::{HostPattern, PathPattern, Requirement, Route};

/// Methods that are in use (the IANA registry, less CONNECT and TRACE); others are taken unless they look like a slip.
const METHODS: [&str; 24] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
    "SEARCH",
    "QUERY",
    "ACL",
    "BIND",
    "UNBIND",
    "REBIND",
    "LINK",
    "UNLINK",
    "PURGE",
];

/// What routes refer to.
pub(super) struct Declared<'a> {
    pub(super) upstreams: Vec<&'a str>,
    pub(super) issuers: Vec<&'a str>,
    /// The gateway issues tokens itself.
    pub(super) own: bool,
    /// `[server] max_body`.
    pub(super) max_body: Option<u64>,
    /// `[server] request_id_header`.
    pub(super) request_id: &'a HeaderName,
}

/// Reads `[[routes]]`.
pub(super) fn read(root: &mut Table<'_>, declared: &Declared<'_>) -> Vec<Route> {
    let mut names = check::Names::new(root.cx, "routes");
    let mut routes: Vec<(Route, Span)> = Vec::new();
    // By what they match but for the methods: there may be ten thousand.
    let mut places: HashMap<_, Vec<usize>> = HashMap::new();
    for t in root.sections("routes") {
        let at = t.at.clone().unwrap_or_default();
        let cx = t.cx;
        let Some(read) = route(t, declared, &mut names) else { continue };
        let here = places.entry((read.host.clone(), read.path.clone())).or_default();
        let rival = here
            .iter()
            .map(|index| &routes[*index])
            .find(|(other, _)| common_method(&other.methods, &read.methods));
        if let Some((other, other_at)) = rival {
            let message =
                format!("routes {} and {} match the same requests", quote(&other.name), quote(&read.name));
            let line = cx.line(other_at);
            let hint = format!(
                "{} is on line {line}; give them different host, path or methods",
                quote(&other.name)
            );
            cx.fail_absent(Some(&at), message, hint);
        }
        here.push(routes.len());
        routes.push((read, at));
    }
    routes.into_iter().map(|(route, _)| route).collect()
}

fn common_method(a: &[Method], b: &[Method]) -> bool {
    a.is_empty() || b.is_empty() || a.iter().any(|method| b.contains(method))
}

/// One route; `None` where host or path are wrong, so that it is not compared with others.
fn route<'c>(mut t: Table<'c>, declared: &Declared<'_>, names: &mut check::Names<'c>) -> Option<Route> {
    let cx = t.cx;
    let name = t.get("name").required("give it a name, for logs and metrics").filled().filter(check::name);
    if let Some(name) = &name {
        t.rename("route", &name.value);
        names.add(&name.value, &name.at);
    }
    let allow_encoded_slash = t.get("allow_encoded_slash").flag(false);
    let host = match t.get("host").text_or_none() {
        None => Some(HostPattern::Any),
        Some(text) => host_pattern(&text),
    };
    let path = match t.get("path").filled() {
        None => Some(PathPattern::Prefix("/".into())),
        Some(text) => path_pattern(&text, allow_encoded_slash),
    };
    let methods_value = t.get("methods");
    let methods = methods(&methods_value);
    let upstream = upstream(&t.get("upstream").required("name one of the [[upstreams]]"), &t.label, declared);
    let auth = t.get("auth").choice(
        &[
            ("public", Requirement::Public),
            ("optional", Requirement::Optional),
            ("access", Requirement::Access),
            ("refresh", Requirement::Refresh),
            ("fresh", Requirement::Fresh),
        ],
        Requirement::Access,
    );
    let shadow = t.get("mode").choice(&[("enforce", false), ("shadow", true)], false);
    let issuers_value = t.get("issuers");
    let issuers = issuers(&issuers_value, &t.label, declared);
    let scopes_value = t.get("scopes");
    let scopes = boxed(&scopes_value.texts().into_iter().filter(check::scope).collect::<Vec<_>>());
    let claims_value = t.get("require_claims");
    let require_claims = require_claims(&claims_value);
    if auth == Requirement::Public {
        let looked_at = [
            (&issuers_value, issuers.is_empty()),
            (&scopes_value, scopes.is_empty()),
            (&claims_value, require_claims.is_empty()),
        ];
        for (value, _) in looked_at.iter().filter(|(_, empty)| !empty) {
            let message = format!("{} is public, so {} is never looked at", t.label, value.label());
            cx.fail(
                value.key_at(),
                message,
                "set auth to \"access\" or \"optional\", or leave it out".to_owned(),
            );
        }
    } else {
        token_source(&t, auth, declared);
    }
    let strip = t.get("strip_prefix");
    let strip_prefix = strip.flag(false);
    let rewrite_value = t.get("rewrite");
    let rewrite = rewrite_value.text_or_none().and_then(|text| rewrite(&text, allow_encoded_slash));
    if strip_prefix && rewrite.is_some() {
        let hint = "rewrite takes the matched prefix off as well; leave strip_prefix out".to_owned();
        cx.fail(rewrite_value.key_at(), format!("{} has both strip_prefix and rewrite", t.label), hint);
    }
    let timeout_value = t.get("timeout");
    let own_timeout = !timeout_value.is_empty_text();
    let timeout =
        (timeout_value.is_given() && own_timeout).then(|| timeout_value.duration(Duration::from_secs(30)));
    let max_body_value = t.get("max_body");
    let own_body = !max_body_value.is_empty_text();
    let max_body =
        if own_body { max_body_value.size_or_unlimited(declared.max_body) } else { declared.max_body };
    let allow_method_override = t.get("allow_method_override").flag(false);
    let rate_limit = policy::rate_limit(&t.get("rate_limit"), auth);
    let cors = policy::cors(&t.get("cors"));
    let request_value = t.get("request_headers");
    let request_headers = headers::edits(&request_value, true);
    let response_headers = headers::edits(&t.get("response_headers"), false);
    let identity_headers = headers::identity(&t.get("identity_headers"), declared.request_id);
    headers::claimed_by_identity(&request_value, &request_headers, &identity_headers);
    let forward_authorization = t.get("forward_authorization").flag(true);
    let dpop_as_bearer = t.get("dpop_as_bearer").flag(false);
    t.finish();
    Some(Route {
        name: Arc::from(name.map_or_else(String::new, |name| name.value)),
        host: host?,
        path: path?,
        methods,
        upstream,
        auth,
        shadow,
        issuers,
        scopes,
        require_claims,
        strip_prefix,
        rewrite,
        timeout,
        max_body,
        allow_encoded_slash,
        allow_method_override,
        rate_limit,
        cors,
        request_headers,
        response_headers,
        identity_headers,
        forward_authorization,
        dpop_as_bearer,
    })
}

fn host_pattern(text: &Text<'_>) -> Option<HostPattern> {
    match text.value.strip_prefix("*.") {
        None => check::host(text).map(HostPattern::Exact),
        Some(suffix) => check::host(&text.part(suffix)).map(HostPattern::Suffix),
    }
}

fn path_pattern(text: &Text<'_>, encoded_slash: bool) -> Option<PathPattern> {
    if let Some(exact) = text.value.strip_prefix('=') {
        return check::path(text, exact, encoded_slash).map(|path| PathPattern::Exact(path.into()));
    }
    let path = check::path(text, &text.value, encoded_slash)?;
    if path != "/" && path.ends_with('/') {
        let trimmed = path.trim_end_matches('/');
        let hint = if text.is_expanded() {
            "leave the \"/\" at the end out".to_owned()
        } else {
            format!(
                "write {} for it and all below it, or {} for this path alone",
                quote(trimmed),
                quote(&format!("={path}"))
            )
        };
        text.fail(format!("path {} ends with \"/\"", text.quoted()), hint);
        return None;
    }
    Some(PathPattern::Prefix(path.into()))
}

fn methods(value: &Value<'_>) -> Vec<Method> {
    let mut methods = Vec::new();
    for text in value.texts() {
        let name = text.value.as_str();
        let upper = name.to_ascii_uppercase();
        let hint = if matches!(upper.as_str(), "CONNECT" | "TRACE") {
            "the gateway answers it with 405 on every route".to_owned()
        } else if name == "*" {
            "leave methods out for all of them".to_owned()
        } else if METHODS.contains(&upper.as_str()) && upper != name {
            format!("methods are written in capitals: \"{upper}\"")
        } else if let Some(near) =
            nearest(&upper, METHODS).filter(|near| *near != name && strsim::osa_distance(&upper, near) == 1)
        {
            format!("did you mean \"{near}\"?")
        } else {
            match Method::from_bytes(name.as_bytes()) {
                Ok(method) => {
                    methods.push(method);
                    continue;
                }
                Err(_) => "write methods such as \"GET\" or \"POST\"".to_owned(),
            }
        };
        text.fail(format!("method {} cannot be routed", text.quoted()), hint);
    }
    if methods.contains(&Method::GET) && !methods.contains(&Method::HEAD) {
        methods.push(Method::HEAD);
    }
    methods
}

fn upstream(value: &Value<'_>, label: &str, declared: &Declared<'_>) -> usize {
    let Some(text) = value.filled() else { return 0 };
    let index = declared.upstreams.iter().position(|name| *name == text.value);
    if index.is_none() {
        let message = format!("{label} names upstream {}, which is not declared", text.quoted());
        let hint = match declared.upstreams.as_slice() {
            [] => format!("declare it: [[upstreams]] with name = {}", text.quoted()),
            [only] => format!("the only declared upstream is {}", quote(only)),
            all => {
                let near = if text.is_expanded() { None } else { nearest(&text.value, all.iter().copied()) };
                let near = near.map_or_else(String::new, |near| format!("; did you mean {}?", quote(near)));
                format!("declared upstreams are {}{near}", quoted_list(all.iter().copied(), "and"))
            }
        };
        text.cx.fail_absent(Some(&text.at), message, hint);
    }
    index.unwrap_or(0)
}

fn issuers(value: &Value<'_>, label: &str, declared: &Declared<'_>) -> Vec<Arc<str>> {
    let texts = value.texts();
    for text in &texts {
        if text.value == SELF && !declared.own {
            let message = format!("{label} takes tokens of \"self\", but the gateway issues none");
            text.fail(message, "[auth] is turned off; set enabled = true or leave \"self\" out".to_owned());
        } else if text.value != SELF && !declared.issuers.contains(&text.value.as_str()) {
            let names = || declared.issuers.iter().copied().chain(declared.own.then_some(SELF));
            let list = || match names().count() {
                0 => "there are no issuers; declare it in [[issuers]]".to_owned(),
                _ => format!("declared are {}", quoted_list(names(), "and")),
            };
            let hint = if text.is_expanded() { list() } else { did_you_mean(&text.value, names(), list) };
            let message = format!("{label} names issuer {}, which is not declared", text.quoted());
            text.cx.fail_absent(Some(&text.at), message, hint);
        }
    }
    texts.iter().map(|text| Arc::from(text.value.as_str())).collect()
}

/// Somebody must issue the tokens that the route asks for.
fn token_source(t: &Table<'_>, auth: Requirement, declared: &Declared<'_>) {
    if declared.own {
        return;
    }
    if auth == Requirement::Fresh {
        let hint = "only tokens of the gateway itself can be fresh; set enabled = true in [auth], or auth = \"access\"";
        t.cx.fail(
            t.at.as_ref(),
            format!("{} asks for a fresh token, but [auth] is turned off", t.label),
            hint.to_owned(),
        );
    } else if declared.issuers.is_empty() {
        let hint = "add [[issuers]], set enabled = true in [auth], or auth = \"public\" here".to_owned();
        t.cx.fail_absent(
            t.at.as_ref(),
            format!("{} asks for a token, but no issuer is configured", t.label),
            hint,
        );
    }
}

fn require_claims(value: &Value<'_>) -> Vec<(Box<str>, Vec<Box<str>>)> {
    let mut claims = Vec::new();
    for (name, _, value) in value.table().entries() {
        let values: Vec<Box<str>> = match value.raw() {
            Some(toml::de::DeValue::Array(items)) => {
                if items.is_empty() {
                    value.fail(
                        format!("{name} lists no value: no token could have it"),
                        "name at least one value".to_owned(),
                    );
                }
                value.items("values").iter().filter_map(json::scalar).collect()
            }
            _ => json::scalar(&value).into_iter().collect(),
        };
        claims.push((name.into(), values));
    }
    claims
}

fn rewrite(text: &Text<'_>, encoded_slash: bool) -> Option<Box<str>> {
    let path = check::path(text, &text.value, encoded_slash)?;
    if path != "/" && path.ends_with('/') {
        let hint = if text.is_expanded() {
            "leave the \"/\" at the end out".to_owned()
        } else {
            format!("write {}", quote(path.trim_end_matches('/')))
        };
        text.fail(format!("rewrite {} ends with \"/\"", text.quoted()), hint);
        return None;
    }
    Some(path.into())
}

//! `request_headers`, `response_headers` and `identity_headers` of a route.

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderName, HeaderValue};

use super::check;
use super::reader::Value;
use super::suggest::quote;
use crate::route::settings::{HeaderEdits, IdentityHeaders};

/// Request fields that mean something else already, so that no identity may stand in them.
const MEANINGFUL: [&str; 7] = [
    "authorization",
    "cookie",
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

/// `request_headers`, `response_headers`. That of requests may set `Host`: many backends know only their own name.
pub(super) fn edits(value: &Value<'_>, of_request: bool) -> HeaderEdits {
    let mut t = value.table();
    let (set_value, remove_value) = (t.get("set"), t.get("remove"));
    t.finish();
    let mut edits = HeaderEdits::default();
    for (name, name_at, value) in set_value.table().entries() {
        let text = value.text();
        let name = match of_request && name.eq_ignore_ascii_case(HOST.as_str()) {
            true => Some(HOST),
            false => check::editable_header_key(value.cx, &name, &name_at),
        };
        let Some(name) = name else { continue };
        if edits.set.iter().any(|(other, _)| *other == name) {
            value.cx.fail(Some(&name_at), format!("header {} is set twice", quote(name.as_str())), None);
        }
        let Some(text) = text else { continue };
        if name == HOST && !is_host(&text.value) {
            let hint =
                "write a name or an address, with its port if need be: \"legacy.internal:8080\"".to_owned();
            text.fail(format!("{} is not a host", text.quoted()), hint);
            continue;
        }
        match HeaderValue::from_str(&text.value) {
            Ok(header) if text.value.trim() == text.value => edits.set.push((name, header)),
            _ => text.fail(
                format!("{} is not a header value", text.quoted()),
                "write visible ASCII characters, without spaces at the ends".to_owned(),
            ),
        }
    }
    for text in remove_value.texts() {
        let Some(name) = check::editable_header(&text) else { continue };
        if edits.set.iter().any(|(set, _)| *set == name) {
            let hint = "set replaces what is there; leave it out of remove".to_owned();
            text.fail(format!("header {} is both set and removed", text.quoted()), hint);
        }
        edits.remove.push(name);
    }
    edits
}

/// RFC 9110 §7.2: an authority without user information.
fn is_host(text: &str) -> bool {
    text.parse::<Authority>()
        .is_ok_and(|authority| !authority.as_str().contains('@') && !authority.host().is_empty())
}

/// `identity_headers`; no two facts in one header, none in a header that means something else.
pub(super) fn identity(value: &Value<'_>, request_id: &HeaderName) -> IdentityHeaders {
    let mut t = value.table();
    let default = IdentityHeaders::default();
    let mut seen: Vec<(String, &'static str)> = Vec::new();
    let mut name = |key: &'static str, default: Option<HeaderName>| {
        let value = t.get(key);
        let header = match value.text() {
            None => default,
            // Empty: this fact is not passed on.
            Some(text) if text.value.is_empty() => None,
            Some(text) => check::editable_header(&text).filter(|name| {
                let taken = MEANINGFUL.contains(&name.as_str()) || name == request_id;
                if taken {
                    let hint =
                        "it has a meaning of its own; choose another such as \"x-auth-subject\"".to_owned();
                    text.fail(format!("header {} cannot carry an identity", text.quoted()), hint);
                }
                !taken
            }),
        };
        if let Some(header) = &header {
            let folded = check::folded(header);
            if let Some((_, other)) = seen.iter().find(|(seen, _)| *seen == folded) {
                let at = value.at.as_ref().or(value.owner_at());
                let message =
                    format!("identity headers {other} and {key} are both {}", quote(header.as_str()));
                value.cx.fail(
                    at,
                    message,
                    "give each a header of its own, or \"\" to leave one out".to_owned(),
                );
            }
            seen.push((folded, key));
        }
        header
    };
    let headers = IdentityHeaders {
        subject: name("subject", default.subject),
        session: name("session", default.session),
        token: name("token", default.token),
        scope: name("scope", default.scope),
        issuer: name("issuer", default.issuer),
    };
    t.finish();
    headers
}

/// What the upstream takes for a verified identity is set by nothing else.
pub(super) fn claimed_by_identity(value: &Value<'_>, edits: &HeaderEdits, identity: &IdentityHeaders) {
    let IdentityHeaders { subject, session, token, scope, issuer } = identity;
    let taken: Vec<String> =
        [subject, session, token, scope, issuer].into_iter().flatten().map(check::folded).collect();
    for (name, _) in edits.set.iter().filter(|(name, _)| taken.contains(&check::folded(name))) {
        let hint = "the upstream could not tell it from a verified one; choose another header".to_owned();
        value
            .fail(format!("request_headers sets {}, which carries the identity", quote(name.as_str())), hint);
    }
}

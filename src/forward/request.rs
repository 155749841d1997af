//! From the client's request to the upstream's.

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version};

use crate::answer::{Code, Problem};
use crate::route::settings::{HeaderEdits, Route};
use crate::route::{Head, is_underscored};

use super::fields::{Lines, fold, is_plain, retain};
use super::forwarding::Forwarding;
use super::identity::{self, Identity};
use super::request_id::{RequestId, keep_or_make_trace};
use super::{forwarded, hop};

/// What the rewriting of one request needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Outbound<'a> {
    /// The request as admitted.
    pub head: &'a Head,
    /// The route it falls under.
    pub route: &'a Route,
    /// How much of the path the route covers ([`crate::route::Match`]).
    pub prefix_len: usize,
    /// What was verified of its sender; `None`: anonymous.
    pub identity: Option<Identity<'a>>,
    /// Prepared settings.
    pub forwarding: &'a Forwarding,
    /// Its id.
    pub request_id: &'a RequestId,
    /// There is a body of unknown length: HTTP/1 has to chunk it, also for methods that hardly ever have one.
    pub chunked: bool,
    /// The WebSocket upgrade goes on to the upstream.
    pub upgrade: bool,
    /// The upstream speaks HTTP/2.
    pub http2: bool,
}

/// Rewrites a request head for its upstream.
///
/// The target becomes origin-form: the normal path, with the route's prefix stripped or rewritten, and the query
/// untouched. `Host` stays what the client asked for (in the one spelling that was matched), so that backends which
/// know their hosts or build links go on working behind us; a route that wants another sets `host` in
/// `request_headers`. The order of the steps is that of CONTRACT §3.7, and matters: nominated fields go before
/// anything of ours comes, and the route's own edits speak last.
///
/// Allocates one buffer for all fields of ours, and one for a target that has to be rewritten.
///
/// # Errors
/// 414 when the rewritten target is too long for a URI; 500 when the route's `rewrite` makes it none.
pub fn request(mut parts: Parts, outbound: &Outbound<'_>) -> Result<(Parts, Lines), Problem> {
    let &Outbound { head, route, forwarding, .. } = outbound;
    let headers = &mut parts.headers;
    let mut lines = Lines::new();

    let trailers = outbound.http2 && hop::wants_trailers(headers);
    hop::remove_nominated(headers);
    let trusted = forwarding.trusts(head.peer());
    retain(headers, |name| !is_dropped(name, trusted, outbound));
    join_cookies(headers);
    if route.dpop_as_bearer {
        as_bearer(headers);
    }

    let host = head.authority().value();
    if headers.get(HOST) != Some(host) {
        headers.insert(HOST, host.clone());
    }
    lines.field(&VIA, forwarded::via(head.version()).as_bytes());
    forwarded::write(headers, trusted, head, &mut lines);
    if let Some(identity) = &outbound.identity {
        identity::write(&route.identity_headers, identity, &mut lines);
    }
    lines.field(forwarding.request_id_header(), outbound.request_id.as_str().as_bytes());
    keep_or_make_trace(headers, &mut lines);
    if !route.request_headers.is_empty() {
        // They may be about fields of ours.
        std::mem::take(&mut lines).append_to(headers);
        edit(headers, &route.request_headers);
    }

    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if outbound.chunked && !outbound.http2 && !headers.contains_key(CONTENT_LENGTH) {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if outbound.upgrade {
        // For an upstream of HTTP/2, too: how it is asked there is for those to know who hold the connection.
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    parts.method = head.method().clone();
    parts.uri = Uri::from(target(outbound)?);
    parts.version = if outbound.http2 { Version::HTTP_2 } else { Version::HTTP_11 };
    Ok((parts, lines))
}

/// Sets and removes what a route's configuration says.
pub(super) fn edit(headers: &mut HeaderMap, edits: &HeaderEdits) {
    for name in &edits.remove {
        headers.remove(name);
    }
    for (name, value) in &edits.set {
        headers.insert(name.clone(), value.clone());
    }
}

fn is_dropped(name: &HeaderName, trusted: bool, outbound: &Outbound<'_>) -> bool {
    if is_plain(name.as_str()) {
        if name == outbound.forwarding.request_id_header() {
            return true; // it is among our own lines
        }
        let name = name.as_str();
        return is_stripped(name, outbound)
            || (!trusted && (forwarded::is_claim(name) || name == VIA.as_str()));
    }
    // A second spelling of a field that we set, checked or delimit the body by would speak against the first.
    let folded = fold(name.as_str());
    let edits = &outbound.route.request_headers;
    let mut edited = edits.set.iter().map(|(name, _)| name).chain(&edits.remove);
    is_underscored(name) && !outbound.forwarding.allows_underscores()
        || is_stripped(&folded, outbound)
        || forwarded::is_claim(&folded)
        || outbound.forwarding.is_ours(&folded)
        || *folded == *CONTENT_LENGTH.as_str()
        || edited.any(|name| fold(name.as_str()) == folded)
}

fn is_stripped(folded: &str, outbound: &Outbound<'_>) -> bool {
    match folded {
        "expect" => true, // we answered it, or will
        "authorization" => !outbound.route.forward_authorization,
        "x-http-method-override" | "x-http-method" | "x-method-override" => {
            !outbound.route.allow_method_override
        }
        folded => hop::is_hop_by_hop(folded) || outbound.forwarding.is_reserved(folded),
    }
}

/// For an upstream that knows bearer tokens alone: the token under that scheme, without its proof. That it was held by
/// its owner has been checked here.
fn as_bearer(headers: &mut HeaderMap) {
    let token = headers.get(AUTHORIZATION).and_then(|value| match value.as_bytes().split_at_checked(5) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"dpop ") => Some(token.trim_ascii_start()),
        _ => None,
    });
    let Some(token) = token else { return };
    set(headers, AUTHORIZATION, [b"Bearer ", token].concat());
    headers.remove("dpop");
}

/// HTTP/2 may split `Cookie` (RFC 9113 §8.2.3); everyone else expects one.
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let cookies: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    set(headers, COOKIE, cookies.join(&b"; "[..]));
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: Vec<u8>) {
    let value = HeaderValue::from_maybe_shared(bytes::Bytes::from(value));
    headers.insert(name, value.expect("made of header values and visible ASCII"));
}

/// The target in origin-form.
fn target(outbound: &Outbound<'_>) -> Result<PathAndQuery, Problem> {
    let &Outbound { head, route, prefix_len, .. } = outbound;
    let replacement = match &route.rewrite {
        Some(rewrite) if !rewrite.is_empty() => Some(&**rewrite),
        _ => route.strip_prefix.then_some(""),
    };
    let path = head.path();
    let mut text = match (replacement, head.normal_target()) {
        (None, Some(target)) => return Ok(target.clone()),
        (Some(_), _) if path == "*" => return Ok(PathAndQuery::from_static("*")),
        (Some(replacement), _) => with_prefix(replacement, path.get(prefix_len..).unwrap_or_default()),
        (None, None) => path.to_owned(),
    };
    if let Some(query) = head.query() {
        text.push('?');
        text.push_str(query);
    }
    let too_long = text.len() >= usize::from(u16::MAX); // http's limit for any URI
    PathAndQuery::try_from(text).map_err(|_| match too_long {
        true => Problem::new(Code::UriTooLong, "the rewritten request target is too long"),
        false => Problem::new(Code::Internal, "the route's rewrite gives no valid path"),
    })
}

/// Exactly one slash between what replaces the prefix and what came after it; an empty path is `/`.
fn with_prefix(replacement: &str, rest: &str) -> String {
    let mut text = String::with_capacity(replacement.len() + rest.len() + 2);
    if !replacement.starts_with('/') {
        text.push('/');
    }
    text.push_str(replacement);
    if !rest.is_empty() {
        text.truncate(text.trim_end_matches('/').len());
        if !rest.starts_with('/') {
            text.push('/');
        }
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests;

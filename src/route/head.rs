//! The admitted view of a request: what everything after it believes of method, host, path and framing.

use h2::ext::Protocol;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, SEC_WEBSOCKET_KEY,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::PathAndQuery;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use crate::answer::{Code, Problem};

use super::Peer;
use super::authority::Authority;
use super::path;
use super::settings::Limits;

/// A request head that can be read in one way only (CONTRACT §3.1, §3.2).
///
/// Owned, so that it outlives the request it was read from; making it clones reference counts, and copies only a
/// host or a path that was not in normal form.
#[derive(Clone, Debug)]
pub struct Head {
    method: Method,
    version: Version,
    authority: Authority,
    target: PathAndQuery,
    normal_path: Option<Box<str>>, // where it differs from the target's
    encoded_slash: bool,
    absolute_form: bool,
    framing: Framing,
    expect_continue: bool,
    websocket: bool,
    grpc: bool,
    peer: Peer,
}

/// How the body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// Nothing said: no body in HTTP/1, whatever comes in HTTP/2.
    Unsaid,
    Length(u64),
    Chunked,
}

impl Head {
    /// Admits a request, or says why not. The parser before us has already dropped some evidence (a `Content-Length`
    /// beside `Transfer-Encoding`, folded lines, a fragment); this checks what its result still shows, for HTTP/2 as
    /// for HTTP/1.
    ///
    /// # Errors
    /// 400 closing the connection for anything ambiguous, 405 for CONNECT and TRACE, 414, 417, 421, 431.
    pub fn admit<B>(request: &Request<B>, peer: Peer, limits: &Limits) -> Result<Self, Problem> {
        let websocket = connects_to_websocket(request.extensions());
        admit(request.method(), request.uri(), request.version(), request.headers(), websocket, peer, limits)
    }

    /// [`Head::admit`] for a head without its body.
    ///
    /// # Errors
    /// As [`Head::admit`].
    pub fn admit_parts(parts: &http::request::Parts, peer: Peer, limits: &Limits) -> Result<Self, Problem> {
        let websocket = connects_to_websocket(&parts.extensions);
        admit(&parts.method, &parts.uri, parts.version, &parts.headers, websocket, peer, limits)
    }

    /// Never CONNECT or TRACE: a WebSocket over HTTP/2 is asked for with CONNECT (RFC 8441), and judged and forwarded
    /// as the GET that it is over HTTP/1.1.
    pub const fn method(&self) -> &Method {
        &self.method
    }

    /// As received.
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Lower case, without port or final dot; an IPv6 literal in brackets.
    pub fn host(&self) -> &str {
        self.authority.host()
    }

    /// Host and port: the target's in absolute-form and HTTP/2, else that of `Host`.
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// In normal form (see [`path::normalise`]); `*` for `OPTIONS *`.
    pub fn path(&self) -> &str {
        self.normal_path.as_deref().unwrap_or_else(|| self.target.path())
    }

    /// As received, without the `?`.
    pub fn query(&self) -> Option<&str> {
        self.target.query()
    }

    /// The received path and query, where the path was in normal form already.
    pub fn normal_target(&self) -> Option<&PathAndQuery> {
        self.normal_path.is_none().then_some(&self.target)
    }

    /// The path holds `%2F`.
    pub const fn has_encoded_slash(&self) -> bool {
        self.encoded_slash
    }

    /// The target was an absolute URI in HTTP/1, as for a forward proxy; its authority has replaced `Host`.
    pub const fn is_absolute_form(&self) -> bool {
        self.absolute_form
    }

    /// The body's length in octets, where it was said.
    pub const fn content_length(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(length) => Some(length),
            _ => None,
        }
    }

    /// `Transfer-Encoding: chunked`.
    pub fn is_chunked(&self) -> bool {
        self.framing == Framing::Chunked
    }

    /// The client waits for 100 before it sends the body.
    pub const fn expects_continue(&self) -> bool {
        self.expect_continue
    }

    /// Asks to go on as WebSocket: a GET with `Upgrade` and a key in HTTP/1.1 (RFC 6455 §4.1), a CONNECT with `:protocol` in
    /// HTTP/2 (RFC 8441 §4).
    pub const fn wants_websocket(&self) -> bool {
        self.websocket
    }

    /// The latter. To such a client every 2xx means that the tunnel is open.
    pub fn is_extended_connect(&self) -> bool {
        self.websocket && self.version == Version::HTTP_2
    }

    /// `Content-Type: application/grpc`, `application/grpc+proto` and so on.
    pub const fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// The other end of the connection.
    pub const fn peer(&self) -> &Peer {
        &self.peer
    }
}

/// A name with `_`: many programs read it as if it had `-`, so that it can stand in for a field that we set or
/// remove. Dropped when a request is forwarded, unless `underscore_headers = "allow"`.
pub fn is_underscored(name: &HeaderName) -> bool {
    name.as_str().contains('_')
}

/// What 405 answers CONNECT and TRACE with: they are refused whatever the path.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

fn admit(
    method: &Method,
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
    to_websocket: bool,
    peer: Peer,
    limits: &Limits,
) -> Result<Head, Problem> {
    check_size(uri, headers, limits)?;
    let tunnel = to_websocket && version == Version::HTTP_2 && *method == Method::CONNECT;
    let method = if tunnel { &Method::GET } else { method };
    if matches!(*method, Method::CONNECT | Method::TRACE) {
        return Err(Problem::new(Code::MethodNotAllowed, "the method is not allowed here")
            .with_allow(METHODS.to_owned()));
    }
    check_values(headers)?;
    if has_many(headers, &AUTHORIZATION) {
        return Err(ambiguous("more than one Authorization field"));
    }
    let authority = authority(uri, version, headers)?;
    misdirected(&authority, &peer)?;
    let target = target(method, uri)?;
    if version > Version::HTTP_11 {
        check_query(&target)?;
    }
    let (normal_path, encoded_slash) = normal_path(&target)?;
    let framing = framing(version, headers)?;
    let expect_continue = expect_continue(headers)?;
    Ok(Head {
        method: method.clone(),
        version,
        authority,
        target,
        normal_path,
        encoded_slash,
        absolute_form: version <= Version::HTTP_11 && uri.scheme().is_some(),
        framing,
        expect_continue,
        websocket: tunnel
            || version == Version::HTTP_11 && *method == Method::GET && wants_websocket(headers),
        grpc: is_grpc(headers),
        peer,
    })
}

/// The connection goes as well: who sent this may mean the next bytes differently than we would.
fn ambiguous(detail: &'static str) -> Problem {
    Problem::new(Code::InvalidRequest, detail).closing()
}

fn check_size(uri: &Uri, headers: &HeaderMap, limits: &Limits) -> Result<(), Problem> {
    let scheme = uri.scheme_str().map_or(0, |scheme| scheme.len() + "://".len());
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    let target = scheme + authority + uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target > limits.uri_bytes_max {
        return Err(Problem::new(Code::UriTooLong, "the request target is too long"));
    }
    if headers.len() > limits.headers_max {
        return Err(Problem::new(Code::HeadersTooLarge, "too many header fields"));
    }
    let fields = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    if target + fields.sum::<usize>() > limits.header_bytes_max {
        return Err(Problem::new(Code::HeadersTooLarge, "the request head is too large"));
    }
    Ok(())
}

/// `HeaderValue` promises this, but its unchecked constructors do not.
fn check_values(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.values().any(|value| holds_control(value.as_bytes())) {
        return Err(ambiguous("a header field holds a control character"));
    }
    Ok(())
}

/// Octets above ASCII are `obs-text` (RFC 9110 §5.5) and pass. Looks at all of them, whatever the first says: without a
/// way out of the loop, the compiler takes many at once.
fn holds_control(value: &[u8]) -> bool {
    value.iter().fold(false, |held, &byte| held | ((byte < 0x20) & (byte != b'\t')) | (byte == 0x7f))
}

fn authority(uri: &Uri, version: Version, headers: &HeaderMap) -> Result<Authority, Problem> {
    if has_many(headers, &HOST) {
        return Err(ambiguous("more than one Host field"));
    }
    let parse = |value| Authority::parse(value).map_err(|_| ambiguous("the host is not valid"));
    let host = headers.get(HOST).map(parse).transpose()?;
    let target = uri.authority().map(|authority| HeaderValue::from_str(authority.as_str()));
    let target = target.transpose().map_err(|_| ambiguous("the host is not valid"))?;
    let target = target.as_ref().map(parse).transpose()?;
    match (target, host) {
        (Some(target), Some(host)) if version > Version::HTTP_11 && target != host => {
            Err(ambiguous("the Host field differs from :authority"))
        }
        // RFC 9112 §3.2: every HTTP/1.1 request has Host, one in absolute-form too.
        (_, None) if version <= Version::HTTP_11 => Err(ambiguous("no Host field")),
        (Some(authority), _) | (None, Some(authority)) => Ok(authority),
        (None, None) => Err(ambiguous("no host")),
    }
}

/// Who shows a certificate shows it to the host that it asked for in the handshake. Where certificates count, a request
/// for another host does not belong on that connection (RFC 9110 §7.4, §15.5.20); elsewhere a client may do so.
fn misdirected(authority: &Authority, peer: &Peer) -> Result<(), Problem> {
    let Some(tls) = peer.tls.as_ref().filter(|tls| tls.verifies_clients) else { return Ok(()) };
    match &tls.server_name {
        Some(name) if **name != *authority.host() => {
            let words = "this connection was made for another host; ask on one of its own";
            Err(Problem::new(Code::MisdirectedRequest, words))
        }
        _ => Ok(()),
    }
}

fn target(method: &Method, uri: &Uri) -> Result<PathAndQuery, Problem> {
    let web = uri.scheme_str().is_none_or(|scheme| matches!(scheme, "http" | "https"));
    // Authority-form ("host:80") has no path at all.
    let path = uri.path_and_query().filter(|path| {
        web && (path.path().starts_with('/') || (path.as_str() == "*" && *method == Method::OPTIONS))
    });
    path.cloned().ok_or_else(|| ambiguous("the request target has neither origin-form nor absolute-form"))
}

/// In HTTP/1.1 the raw bytes of the target have been judged; in HTTP/2 whatever the library takes for a query comes
/// here, and would go on as it is into the request line of an upstream that may stop, or decode, at such a byte.
fn check_query(target: &PathAndQuery) -> Result<(), Problem> {
    if target.query().is_none_or(|query| query.bytes().all(|byte| byte.is_ascii_graphic())) {
        return Ok(());
    }
    Err(ambiguous("the query holds a character that must be percent-encoded"))
}

/// The path where it has to be rewritten, and whether it holds `%2F`.
fn normal_path(target: &PathAndQuery) -> Result<(Option<Box<str>>, bool), Problem> {
    if target.path() == "*" {
        return Ok((None, false));
    }
    let normal = path::normalise(target.path())
        .map_err(|error| Problem::new(Code::InvalidRequest, error.to_string()).closing())?;
    // "http://host?q" has a path, "/", that its text does not show.
    let shown = target.as_str().starts_with('/') && normal.path == target.path();
    Ok(((!shown).then(|| normal.path.into()), normal.encoded_slash))
}

fn framing(version: Version, headers: &HeaderMap) -> Result<Framing, Problem> {
    let length = match headers.get(CONTENT_LENGTH) {
        None => None,
        Some(_) if has_many(headers, &CONTENT_LENGTH) => {
            return Err(ambiguous("more than one Content-Length field"));
        }
        Some(value) => {
            Some(content_length(value).ok_or_else(|| ambiguous("the Content-Length is not valid"))?)
        }
    };
    match (headers.get(TRANSFER_ENCODING), length) {
        (None, None) => Ok(Framing::Unsaid),
        (None, Some(length)) => Ok(Framing::Length(length)),
        (Some(_), _) if version != Version::HTTP_11 => {
            Err(ambiguous("Transfer-Encoding is for HTTP/1.1 alone"))
        }
        (Some(_), Some(_)) => Err(ambiguous("both Transfer-Encoding and Content-Length")),
        (Some(value), None) => {
            let chunked = value.as_bytes().eq_ignore_ascii_case(b"chunked");
            if chunked && !has_many(headers, &TRANSFER_ENCODING) {
                Ok(Framing::Chunked)
            } else {
                Err(ambiguous("a Transfer-Encoding other than chunked"))
            }
        }
    }
}

/// Digits alone: no sign, no list, no white space inside.
fn content_length(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?;
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

fn expect_continue(headers: &HeaderMap) -> Result<bool, Problem> {
    let mut values = headers.get_all(EXPECT).iter();
    if values.any(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(Problem::new(Code::ExpectationFailed, "the only expectation met here is 100-continue"));
    }
    Ok(headers.contains_key(EXPECT))
}

fn connects_to_websocket(extensions: &Extensions) -> bool {
    extensions.get::<Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket")
}

fn wants_websocket(headers: &HeaderMap) -> bool {
    let asked = lists(headers, &UPGRADE, "websocket") && lists(headers, &CONNECTION, "upgrade");
    asked && headers.contains_key(SEC_WEBSOCKET_KEY)
}

/// A comma-separated field, on one line or more, has this member (RFC 9110 §5.6.1), ignoring case.
fn lists(headers: &HeaderMap, name: &HeaderName, member: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(member))
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    let (start, rest) = value.as_bytes().split_at(value.len().min("application/grpc".len()));
    start.eq_ignore_ascii_case(b"application/grpc") && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

fn has_many(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get_all(name).iter().nth(1).is_some()
}

#[cfg(test)]
mod tests;

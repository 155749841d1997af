//! `[[routes]]` as used, and the limits on a request head.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

/// Limits on a request head (`[server]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// All of the head: 431.
    pub header_bytes_max: usize,
    /// Number of fields: 431.
    pub headers_max: usize,
    /// The request target: 414.
    pub uri_bytes_max: usize,
    /// A token: refused as invalid.
    pub token_bytes_max: usize,
    /// Request header names with `_` pass.
    pub underscore_headers: bool,
}

/// A rule that matches requests and says which upstream and which policy they get.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Its name, for logs and metrics.
    pub name: Arc<str>,
    /// Which hosts.
    pub host: HostPattern,
    /// Which paths.
    pub path: PathPattern,
    /// Empty: all; GET implies HEAD (already added here).
    pub methods: Vec<Method>,
    /// Index into the configured upstreams.
    pub upstream: usize,
    /// What token it asks for.
    pub auth: Requirement,
    /// Would-be refusals are counted, logged and forwarded.
    pub shadow: bool,
    /// Names of the issuers whose tokens it takes; empty: any configured.
    pub issuers: Vec<Arc<str>>,
    /// All must be granted.
    pub scopes: Vec<Box<str>>,
    /// Each claim must have one of the values.
    pub require_claims: Vec<(Box<str>, Vec<Box<str>>)>,
    /// The matched prefix is taken off the forwarded path.
    pub strip_prefix: bool,
    /// Replaces the matched prefix.
    pub rewrite: Option<Box<str>>,
    /// To the response head, in place of the upstream's.
    pub timeout: Option<Duration>,
    /// Request body: 413; `None`: no limit.
    pub max_body: Option<u64>,
    /// `%2F` is data.
    pub allow_encoded_slash: bool,
    /// Method override fields pass.
    pub allow_method_override: bool,
    /// Requests over time.
    pub rate_limit: Option<RateLimit>,
    /// Cross-origin policy.
    pub cors: Option<Arc<Cors>>,
    /// Changes to the forwarded request head.
    pub request_headers: HeaderEdits,
    /// Changes to the response head.
    pub response_headers: HeaderEdits,
    /// Where the verified identity goes.
    pub identity_headers: IdentityHeaders,
    /// The client's `Authorization` reaches the upstream.
    pub forward_authorization: bool,
    /// A token that came with a DPoP proof goes on as a bearer token, the proof does not.
    pub dpop_as_bearer: bool,
}

/// Which hosts a route matches; names in lower case, without port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// Any host.
    Any,
    /// This one.
    Exact(Box<str>),
    /// `*.example.com` holds `example.com`: one or more labels before it.
    Suffix(Box<str>),
}

/// Which paths a route matches, in normalised form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// This path alone.
    Exact(Box<str>),
    /// This path and everything below it, on segment boundaries.
    Prefix(Box<str>),
}

/// What token a route asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// None; one that is there is not looked at.
    Public,
    /// No token: anonymous; a bad one: refused.
    Optional,
    /// An access token.
    Access,
    /// A refresh token.
    Refresh,
    /// An access token from a recent password sign-in.
    Fresh,
}

/// `rate_limit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// So many…
    pub requests: u32,
    /// … in this time.
    pub per: Duration,
    /// At once.
    pub burst: u32,
    /// Counted by.
    pub by: RateLimitBy,
}

/// What a rate is counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateLimitBy {
    /// The token's subject.
    Subject,
    /// The client's address.
    Address,
    /// The token.
    Token,
}

/// `cors`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Allowed origins, or `*`.
    pub origins: Vec<Box<str>>,
    /// Credentials allowed.
    pub credentials: bool,
    /// Fields that pages may send; empty: whatever they ask for.
    pub headers: Vec<Box<str>>,
    /// Fields that pages may read beside those that all may, joined by commas.
    pub expose: Option<HeaderValue>,
    /// How long a preflight may be kept.
    pub max_age: Duration,
}

/// `request_headers`, `response_headers`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Set, in place of what is there.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Removed.
    pub remove: Vec<HeaderName>,
}

impl HeaderEdits {
    /// Whether they change nothing.
    pub const fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }
}

/// `identity_headers`; `None`: this fact is not passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityHeaders {
    /// `sub`.
    pub subject: Option<HeaderName>,
    /// `sid`.
    pub session: Option<HeaderName>,
    /// Token id.
    pub token: Option<HeaderName>,
    /// Scopes, separated by spaces.
    pub scope: Option<HeaderName>,
    /// Issuer name.
    pub issuer: Option<HeaderName>,
}

impl Default for IdentityHeaders {
    fn default() -> Self {
        let name = |name| Some(HeaderName::from_static(name));
        Self {
            subject: name("x-auth-subject"),
            session: name("x-auth-session"),
            token: name("x-auth-token-id"),
            scope: name("x-auth-scope"),
            issuer: name("x-auth-issuer"),
        }
    }
}

//! A plain route and plain limits, for tests to change.

use super::Peer;
use super::settings::{HeaderEdits, HostPattern, IdentityHeaders, Limits, PathPattern, Requirement, Route};

/// Someone on a Unix socket.
pub(crate) const PEER: Peer = Peer { address: None, local: None, secure: false, tls: None };

/// Room for any test.
pub(crate) const LIMITS: Limits = Limits {
    header_bytes_max: 1 << 20,
    headers_max: 1000,
    uri_bytes_max: 1 << 16,
    token_bytes_max: 1 << 13,
    underscore_headers: false,
};

/// Any host, every path, every method, public, nothing changed.
pub(crate) fn route() -> Route {
    Route {
        name: "test".into(),
        host: HostPattern::Any,
        path: PathPattern::Prefix("/".into()),
        methods: Vec::new(),
        upstream: 0,
        auth: Requirement::Public,
        shadow: false,
        issuers: Vec::new(),
        scopes: Vec::new(),
        require_claims: Vec::new(),
        strip_prefix: false,
        rewrite: None,
        timeout: None,
        max_body: None,
        allow_encoded_slash: false,
        allow_method_override: false,
        rate_limit: None,
        cors: None,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        identity_headers: IdentityHeaders::default(),
        forward_authorization: true,
        dpop_as_bearer: false,
    }
}

//! The stable codes of answers: in the body, in the access log and in the metrics alike.

use http::StatusCode;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $status:ident, $title:literal;)*) => {
        /// A stable name for why the gateway itself answered.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code { $($(#[$doc])* $variant,)* }

        impl Code {
            /// Every code, in the order of the contract.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name on the wire.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The status that goes with it where nothing else is configured.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            /// A few words for a person (RFC 9457 §3.1.3 `title`).
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

codes! {
    /// Ambiguous or malformed request, token in two places, bad body.
    InvalidRequest = "invalid_request", BAD_REQUEST, "Invalid request";
    /// Protected route, no token.
    TokenMissing = "token_missing", UNAUTHORIZED, "Token missing";
    /// Malformed, bad signature, unknown issuer or key, wrong audience, wrong type for the route.
    TokenInvalid = "token_invalid", UNAUTHORIZED, "Token invalid";
    /// Past its `exp`.
    TokenExpired = "token_expired", UNAUTHORIZED, "Token expired";
    /// Refused by an entry of the blocklist.
    TokenRevoked = "token_revoked", UNAUTHORIZED, "Token revoked";
    /// The route asks for a token from a recent password sign-in.
    TokenNotFresh = "token_not_fresh", UNAUTHORIZED, "Token not fresh";
    /// Sign-in with a wrong email or password.
    BadCredentials = "bad_credentials", UNAUTHORIZED, "Bad credentials";
    /// Missing or wrong admin token.
    AdminToken = "admin_token", UNAUTHORIZED, "Admin token required";
    /// The token lacks a scope that the route asks for.
    InsufficientScope = "insufficient_scope", FORBIDDEN, "Insufficient scope";
    /// A claim that the route asks for is missing, or an action is not allowed.
    Forbidden = "forbidden", FORBIDDEN, "Forbidden";
    /// A cookie-carried token without its double-submit value.
    Csrf = "csrf", FORBIDDEN, "CSRF check failed";
    /// No route matches.
    NoRoute = "no_route", NOT_FOUND, "No route";
    /// No such thing at one of our endpoints.
    NotFound = "not_found", NOT_FOUND, "Not found";
    /// The path is known, the method is not; with `Allow`.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "Method not allowed";
    /// The client was too slow.
    RequestTimeout = "request_timeout", REQUEST_TIMEOUT, "Request timeout";
    /// The state of the thing does not allow it.
    Conflict = "conflict", CONFLICT, "Conflict";
    /// Request body over the limit.
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "Body too large";
    /// Request target over the limit.
    UriTooLong = "uri_too_long", URI_TOO_LONG, "URI too long";
    /// A content type that the endpoint does not take.
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "Unsupported media type";
    /// `Expect` other than `100-continue`.
    ExpectationFailed = "expectation_failed", EXPECTATION_FAILED, "Expectation failed";
    /// The connection is not authoritative for this host (RFC 9110 §15.5.20).
    MisdirectedRequest = "misdirected_request", MISDIRECTED_REQUEST, "Misdirected request";
    /// Request head over the limits.
    HeadersTooLarge = "headers_too_large", REQUEST_HEADER_FIELDS_TOO_LARGE, "Headers too large";
    /// Over the rate limit; with `Retry-After`.
    RateLimited = "rate_limited", TOO_MANY_REQUESTS, "Rate limited";
    /// Too many failed sign-ins; with `Retry-After`.
    LockedOut = "locked_out", TOO_MANY_REQUESTS, "Locked out";
    /// No connection to the upstream could be had, or it broke before an answer.
    UpstreamUnreachable = "upstream_unreachable", BAD_GATEWAY, "Upstream unreachable";
    /// The upstream's answer was not HTTP.
    UpstreamProtocolError = "upstream_protocol_error", BAD_GATEWAY, "Upstream protocol error";
    /// The upstream did not connect or answer in time.
    UpstreamTimeout = "upstream_timeout", GATEWAY_TIMEOUT, "Upstream timeout";
    /// A bounded queue is full.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, "Overloaded";
    /// Every target of the upstream is out.
    NoHealthyTarget = "no_healthy_target", SERVICE_UNAVAILABLE, "No healthy target";
    /// The shared log was not heard from for too long.
    StaleRevocations = "stale_revocations", SERVICE_UNAVAILABLE, "Stale revocations";
    /// Users, sessions or issued tokens cannot be read or written.
    StoreUnavailable = "store_unavailable", SERVICE_UNAVAILABLE, "Store unavailable";
    /// A revocation cannot be made durable.
    LogUnavailable = "log_unavailable", SERVICE_UNAVAILABLE, "Log unavailable";
    /// The gateway is about to stop.
    Draining = "draining", SERVICE_UNAVAILABLE, "Draining";
    /// A fault of ours; the details are in our log.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Internal error";
}

//! What reaches the upstream.

use http::Request;
use proptest::prelude::*;

use crate::clock::UnixTime;
use crate::route::settings::{IdentityHeaders, Limits};
use crate::route::{Peer, fixtures};

use super::super::settings::Settings;
use super::*;

/// One request through one route.
struct Case {
    route: Route,
    prefix_len: usize,
    peer: &'static str,
    underscores: bool,
    identity: bool,
    chunked: bool,
    upgrade: bool,
    http2: bool,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            route: fixtures::route(),
            prefix_len: 1,
            peer: "192.0.2.9:4711",
            underscores: false,
            identity: true,
            chunked: false,
            upgrade: false,
            http2: false,
        }
    }
}

impl Case {
    fn forward(&self, line: &str, fields: &[(&str, &str)]) -> Parts {
        self.try_forward(line, fields).unwrap()
    }

    fn try_forward(&self, line: &str, fields: &[(&str, &str)]) -> Result<Parts, Problem> {
        let (method, target) = line.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(target).header("host", "Api.example");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        let settings = Settings {
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            strip_headers: vec![HeaderName::from_static("x-remote-user")],
            request_id_header: HeaderName::from_static("x-request-id"),
        };
        let limits = Limits { underscore_headers: self.underscores, ..fixtures::LIMITS };
        let elsewhere = Route {
            identity_headers: IdentityHeaders {
                subject: Some(HeaderName::from_static("x-other-user")),
                ..IdentityHeaders::default()
            },
            ..fixtures::route()
        };
        let forwarding = Forwarding::new(&settings, &limits, [&self.route, &elsewhere]);
        let peer = Peer { address: Some(self.peer.parse().unwrap()), local: None, secure: true, tls: None };
        let head = Head::admit(&request, peer, &limits).unwrap();
        let request_id = forwarding.request_id(request.headers(), UnixTime::from_secs(1));
        let identity = Identity {
            subject: Some("alice"),
            session: Some("s1"),
            token_id: "t1",
            scope: &["read".into()],
            issuer: "self",
        };
        let outbound = Outbound {
            head: &head,
            route: &self.route,
            prefix_len: self.prefix_len,
            identity: self.identity.then_some(identity),
            forwarding: &forwarding,
            request_id: &request_id,
            chunked: self.chunked,
            upgrade: self.upgrade,
            http2: self.http2,
        };
        let (mut parts, lines) = super::request(request.into_parts().0, &outbound)?;
        lines.append_to(&mut parts.headers);
        Ok(parts)
    }

    fn target(&self, target: &str, expected: &str) {
        let uri = self.forward(&format!("GET {target}"), &[]).uri;
        assert_eq!(uri.to_string(), expected, "for {target}");
        assert!(uri.scheme().is_none() && uri.authority().is_none());
    }
}

fn all<'p>(parts: &'p Parts, name: &str) -> Vec<&'p str> {
    parts.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

/// What we set on every request of [`Case`].
const OURS: [&str; 13] = [
    "host",
    "via",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-auth-subject",
    "x-auth-session",
    "x-auth-token-id",
    "x-auth-scope",
    "x-auth-issuer",
    "x-request-id",
    "traceparent",
];

#[test]
fn says_who_sent_it_and_from_where() {
    let parts = Case::default().forward("GET /", &[]);
    let mut names: Vec<_> = parts.headers.keys().map(HeaderName::as_str).collect();
    let mut ours = OURS;
    names.sort_unstable();
    ours.sort_unstable();
    assert_eq!(names, ours);
    assert_eq!(all(&parts, "host"), ["api.example"]);
    assert_eq!(all(&parts, "via"), ["1.1 portcullis"]);
    assert_eq!(all(&parts, "forwarded"), ["for=192.0.2.9;host=api.example;proto=https"]);
    assert_eq!(all(&parts, "x-forwarded-for"), ["192.0.2.9"]);
    assert_eq!(all(&parts, "x-forwarded-proto"), ["https"]);
    assert_eq!(all(&parts, "x-forwarded-host"), ["api.example"]);
    assert_eq!(all(&parts, "x-auth-subject"), ["alice"]);
    assert_eq!(parts.version, Version::HTTP_11);
}

#[test]
fn a_client_does_not_say_where_it_comes_from() {
    let claims = [
        ("forwarded", "for=1.1.1.1"),
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-proto", "spoof"),
        ("x-forwarded-host", "spoof"),
        ("x-forwarded-prefix", "/spoof"),
        ("x-real-ip", "1.1.1.1"),
        ("x_forwarded_for", "1.1.1.1"),
        ("via", "1.0 before"),
    ];
    let case = Case { underscores: true, ..Case::default() };
    let parts = case.forward("GET /", &claims);
    assert_eq!(all(&parts, "x-forwarded-for"), ["192.0.2.9"]);
    assert_eq!(all(&parts, "x-forwarded-proto"), ["https"]);
    assert_eq!(all(&parts, "forwarded"), ["for=192.0.2.9;host=api.example;proto=https"]);
    assert_eq!(all(&parts, "via"), ["1.1 portcullis"]);
    assert_eq!(parts.headers.keys_len(), OURS.len());
}

#[test]
fn a_trusted_proxy_is_appended_to() {
    let case = Case { peer: "10.1.2.3:80", ..Case::default() };
    let parts = case.forward(
        "GET /",
        &[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "203.0.113.7"),
            ("x-forwarded-proto", "http"),
            ("forwarded", "for=203.0.113.7"),
            ("x-forwarded-prefix", "/v1"),
        ],
    );
    assert_eq!(all(&parts, "x-forwarded-for"), ["1.1.1.1, 203.0.113.7, 10.1.2.3"]);
    assert_eq!(all(&parts, "x-forwarded-proto"), ["http, https"]);
    assert_eq!(all(&parts, "x-forwarded-prefix"), ["/v1"]);
    let forwarded = ["for=203.0.113.7, for=10.1.2.3;host=api.example;proto=https"];
    assert_eq!(all(&parts, "forwarded"), forwarded);
}

#[test]
fn an_ipv6_peer_is_quoted_in_forwarded() {
    let case = Case { peer: "[2001:db8::1]:80", ..Case::default() };
    let parts = case.forward("GET http://h.example:8080/", &[]);
    let forwarded = ["for=\"[2001:db8::1]\";host=\"h.example:8080\";proto=https"];
    assert_eq!(all(&parts, "forwarded"), forwarded);
    assert_eq!(all(&parts, "x-forwarded-for"), ["2001:db8::1"]);
    assert_eq!(all(&parts, "host"), ["h.example:8080"]);
}

#[test]
fn identity_is_never_the_clients_own_not_even_of_another_route() {
    let sent = [
        ("x-auth-subject", "root"),
        ("x_auth_subject", "root"),
        ("X-Auth_Scope", "admin"),
        ("x-other-user", "root"),
        ("x-remote-user", "root"),
        ("x_remote_user", "root"),
        // CGI of lighttpd and of older Apache makes a `_` of every one of these.
        ("x.auth.subject", "root"),
        ("x-auth+subject", "root"),
        ("x~remote!user", "root"),
    ];
    for underscores in [false, true] {
        let case = Case { identity: false, underscores, ..Case::default() };
        let parts = case.forward("GET /", &sent);
        assert!(parts.headers.values().all(|value| value != "root" && value != "admin"));
        let parts = Case { underscores, ..Case::default() }.forward("GET /", &sent);
        assert_eq!(all(&parts, "x-auth-subject"), ["alice"]);
    }
}

#[test]
fn connection_cannot_take_away_what_we_set() {
    let parts = Case::default().forward(
        "POST /",
        &[
            (
                "connection",
                "x-auth-subject, content-length, host, x-forwarded-for, via, authorization, x-own",
            ),
            ("content-length", "3"),
            ("authorization", "Bearer x"),
            ("x-own", "1"),
        ],
    );
    assert_eq!(all(&parts, "x-auth-subject"), ["alice"]);
    assert_eq!(all(&parts, "content-length"), ["3"]);
    assert_eq!(all(&parts, "host"), ["api.example"]);
    assert!(!parts.headers.contains_key("authorization") && !parts.headers.contains_key("x-own"));
}

#[test]
fn underscored_names_are_dropped_unless_allowed() {
    let sent = [("x_note", "1"), ("content_length", "9"), ("x_request_id", "9")];
    assert!(!Case::default().forward("GET /", &sent).headers.contains_key("x_note"));
    let case = Case { underscores: true, ..Case::default() };
    let parts = case.forward("GET /", &[&sent[..], &[("x.note", "1"), ("x.request.id", "9")]].concat());
    assert_eq!(all(&parts, "x_note"), ["1"]);
    assert_eq!(all(&parts, "x.note"), ["1"]);
    assert!(!parts.headers.contains_key("x.request.id"));
    assert!(!parts.headers.contains_key("content_length") && !parts.headers.contains_key("x_request_id"));
}

#[test]
fn method_overrides_pass_only_where_allowed() {
    let sent = [("x-http-method-override", "PUT"), ("x-http-method", "PUT"), ("x-method-override", "PUT")];
    assert_eq!(Case::default().forward("POST /", &sent).headers.keys_len(), OURS.len());
    let mut case = Case::default();
    case.route.allow_method_override = true;
    assert_eq!(case.forward("POST /", &sent).headers.keys_len(), OURS.len() + 3);
}

#[test]
fn the_authorization_reaches_the_upstream_unless_the_route_keeps_it() {
    let sent =
        [("authorization", "Bearer x"), ("proxy-authorization", "Basic y"), ("expect", "100-continue")];
    let parts = Case::default().forward("GET /", &sent);
    assert_eq!(all(&parts, "authorization"), ["Bearer x"]);
    assert_eq!(parts.headers.keys_len(), OURS.len() + 1);
    let mut case = Case::default();
    case.route.forward_authorization = false;
    assert_eq!(case.forward("GET /", &sent).headers.keys_len(), OURS.len());
}

#[test]
fn cookies_are_joined() {
    let parts = Case::default().forward("GET /", &[("cookie", "a=1"), ("cookie", "b=2; c=3")]);
    assert_eq!(all(&parts, "cookie"), ["a=1; b=2; c=3"]);
}

#[test]
fn the_routes_edits_speak_last() {
    let mut case = Case { underscores: true, ..Case::default() };
    let pair = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
    case.route.request_headers = HeaderEdits {
        set: vec![pair("host", "inner.example"), pair("x-gate-key", "k")],
        remove: vec![HeaderName::from_static("x-forwarded-proto")],
    };
    let parts = case.forward("GET /", &[("x-gate-key", "spoof"), ("x_gate_key", "spoof")]);
    assert_eq!(all(&parts, "host"), ["inner.example"]);
    assert_eq!(all(&parts, "x-gate-key"), ["k"]);
    assert!(!parts.headers.contains_key("x_gate_key"));
    assert!(!parts.headers.contains_key("x-forwarded-proto"));
}

#[test]
fn a_body_of_unknown_length_is_chunked_for_every_method() {
    let case = Case { chunked: true, ..Case::default() };
    let sent = [("transfer-encoding", "chunked")];
    assert_eq!(all(&case.forward("GET /", &sent), "transfer-encoding"), ["chunked"]);
    assert!(!Case { http2: true, ..case }.forward("GET /", &sent).headers.contains_key("transfer-encoding"));
    assert!(!Case::default().forward("GET /", &[]).headers.contains_key("transfer-encoding"));
}

#[test]
fn only_a_wanted_websocket_goes_on_as_an_upgrade() {
    let sent = [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-key", "k")];
    let plain = Case::default().forward("GET /", &sent);
    assert!(!plain.headers.contains_key("upgrade") && !plain.headers.contains_key("connection"));
    let upgraded = Case { upgrade: true, ..Case::default() }.forward("GET /", &sent);
    assert_eq!(all(&upgraded, "upgrade"), ["websocket"]);
    assert_eq!(all(&upgraded, "connection"), ["upgrade"]);
    assert_eq!(all(&upgraded, "sec-websocket-key"), ["k"]);
}

#[test]
fn trailers_are_asked_for_over_http2_alone() {
    let sent = [("te", "gzip, trailers")];
    assert!(!Case::default().forward("GET /", &sent).headers.contains_key("te"));
    let case = Case { http2: true, ..Case::default() };
    assert_eq!(all(&case.forward("GET /", &sent), "te"), ["trailers"]);
    assert!(!case.forward("GET /", &[("te", "gzip")]).headers.contains_key("te"));
}

#[test]
fn the_normal_path_is_forwarded_with_the_query_as_it_was() {
    let case = Case::default();
    case.target("/", "/");
    case.target("/a/b?c=%2e%zz//..", "/a/b?c=%2e%zz//..");
    case.target("/a//./%62?", "/a/b?");
    case.target("http://other.example/a/../b?q", "/b?q");
    case.target("http://other.example?q", "/?q");
    assert_eq!(case.forward("OPTIONS *", &[]).uri, "*");
}

#[test]
fn a_prefix_is_stripped_or_rewritten() {
    let case = |prefix: &str, strip, rewrite: &str| {
        let mut case = Case { prefix_len: prefix.len(), ..Case::default() };
        case.route.strip_prefix = strip;
        case.route.rewrite = Some(rewrite.into()).filter(|_| !rewrite.is_empty());
        case
    };
    case("/api", true, "").target("/api", "/");
    case("/api", true, "").target("/api/", "/");
    case("/api", true, "").target("/api//x/%79?q=/api", "/x/y?q=/api");
    case("/api/", true, "").target("/api/x", "/x");
    case("/", true, "").target("/x", "/x");
    case("/api", false, "/v2").target("/api", "/v2");
    case("/api", false, "/v2").target("/api/x?q", "/v2/x?q");
    case("/api", false, "/v2/").target("/api/x", "/v2/x");
    case("/api/", false, "/v2").target("/api/x", "/v2/x");
    case("/", false, "/v2").target("/x", "/v2/x");
    case("/", false, "/v2").target("/", "/v2");
    case("/api", false, "/").target("/api/x", "/x");
    case("/api", true, "/v2").target("/api/x", "/v2/x");
    case("/api", false, "").target("/api/x", "/api/x");
}

#[test]
fn a_rewrite_that_gives_no_target_is_an_answer_not_a_panic() {
    let code = |rewrite: &str, rest: usize| {
        let mut case = Case::default();
        case.route.rewrite = Some(rewrite.into());
        let refused = case.try_forward(&format!("GET /{}", "x".repeat(rest)), &[]);
        refused.map(drop).map_err(|problem| problem.code())
    };
    assert_eq!(code("/v2", 60_000), Ok(()));
    assert_eq!(code(&"/v2".repeat(2000), 60_000), Err(Code::UriTooLong));
    assert_eq!(code("/not a path", 1), Err(Code::Internal));
}

/// Names that matter, in any spelling, and some that do not.
fn name() -> impl Strategy<Value = String> {
    let known = prop::sample::select(
        &[
            "x-auth-subject",
            "x-auth-scope",
            "x-other-user",
            "x-remote-user",
            "x-forwarded-for",
            "forwarded",
            "via",
            "keep-alive",
            "upgrade",
            "te",
            "trailer",
            "expect-not",
            "cookie",
            "accept",
            "x-request-id",
        ][..],
    );
    let spelled = (known, any::<u32>()).prop_map(|(name, bits)| {
        let respell = |(at, c): (usize, char)| match (c, bits >> (at % 32) & 1) {
            ('-', 1) => '_',
            (c, 1) => c.to_ascii_uppercase(),
            (c, _) => c,
        };
        name.chars().enumerate().map(respell).collect()
    });
    prop_oneof![spelled, "[a-z][a-z-]{0,6}[a-z]"]
}

proptest! {
    #[test]
    fn nothing_that_connection_lists_survives_but_what_we_set(
        fields in prop::collection::vec((name(), "[ -~]{0,8}"), 0..12),
        listed in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        lines in 1_usize..3,
        underscores: bool,
        trusted: bool,
    ) {
        prop_assume!(!fields.is_empty());
        let forbidden = ["host", "expect", "connection", "content-length", "authorization"];
        let fields: Vec<_> =
            fields.into_iter().filter(|(name, _)| !forbidden.contains(&name.as_str())).collect();
        prop_assume!(!fields.is_empty());
        let listed: Vec<_> = listed.iter().map(|index| index.get(&fields).0.clone()).collect();
        let connection: Vec<_> = listed.chunks(lines).map(|names| names.join(" , ")).collect();
        let mut sent: Vec<(&str, &str)> =
            fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        sent.extend(connection.iter().map(|names| ("connection", names.as_str())));
        let peer = if trusted { "10.0.0.1:1" } else { "192.0.2.9:1" };
        let parts = Case { underscores, peer, ..Case::default() }.forward("GET /", &sent);
        prop_assert!(!parts.headers.contains_key("connection"));
        for name in &listed {
            let survives = parts.headers.contains_key(name.as_str());
            prop_assert!(!survives || OURS.contains(&name.to_ascii_lowercase().as_str()), "{} survives", name);
        }
    }

    #[test]
    fn no_spelling_of_an_identity_field_survives(
        names in prop::collection::vec(name(), 1..12),
        underscores: bool,
        identity: bool,
    ) {
        let sent: Vec<_> = names.iter().map(|name| (name.as_str(), "forged")).collect();
        let parts = Case { underscores, identity, ..Case::default() }.forward("GET /", &sent);
        for (name, value) in &parts.headers {
            let folded = fold(name.as_str()).into_owned();
            let reserved = folded.starts_with("x-auth-") || folded.ends_with("-user");
            prop_assert!(!reserved || value != "forged", "{} survives", name);
            prop_assert!(!reserved || identity, "{} for nobody", name);
        }
    }
}

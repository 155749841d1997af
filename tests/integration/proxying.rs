//! What reaches the upstream and what comes back (CONTRACT §3.2, §3.7): rewriting, paths, framing, failures.

use std::io::{Read as _, Write as _};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::support::jwt::{Key, claims};
use crate::support::upstream::{receive, receive_head, take};
use crate::support::{Connection, Gateway, Received, Reply, Setup, Upstream, wait_for};

/// A gateway with one public route to an upstream.
fn open(upstream: &Upstream) -> Gateway {
    Setup::without_auth().upstream("up", upstream.address()).route("all", "/", "up", "public").start()
}

const ISSUER: &str =
    "[[issuers]]\nname = \"legacy\"\nalgorithms = [\"HS256\"]\nsecret_file = \"legacy.key\"\n";

/// The secret of `ISSUER`.
fn legacy() -> Key {
    Key::secret("legacy")
}

/// A setup that takes tokens of `legacy`.
fn with_issuer(setup: Setup) -> Setup {
    setup.secret("legacy.key", legacy().secret_bytes()).section(ISSUER)
}

// --- what the gateway writes -------------------------------------------------------------------------------------

#[test]
fn the_upstream_learns_who_asked_and_how() {
    let upstream = Upstream::echo();
    let gateway = open(&upstream);
    gateway.get("/x?y=%2f&z").send().expect(200);
    let request = upstream.nth(1);
    assert_eq!(request.line, "GET /x?y=%2f&z HTTP/1.1");
    assert_eq!(request.one("x-forwarded-for"), "127.0.0.1");
    assert_eq!(request.one("x-forwarded-proto"), "http");
    assert_eq!(request.one("x-forwarded-host"), "gateway.test");
    let forwarded = request.one("forwarded").to_lowercase();
    for pair in ["for=127.0.0.1", "proto=http", "host=gateway.test"] {
        assert!(forwarded.replace('"', "").contains(pair), "{pair} in {forwarded}");
    }
    assert!(request.one("via").starts_with("1.1 "), "{:?}", request.all("via"));
    assert!(uuid_v7(request.one("x-request-id")), "{:?}", request.all("x-request-id"));
    assert!(traceparent(request.one("traceparent")), "{:?}", request.all("traceparent"));
}

#[test]
fn what_a_stranger_says_of_itself_is_not_believed() {
    let upstream = Upstream::echo();
    let gateway = open(&upstream);
    let lies = [
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil.test"),
        ("Forwarded", "for=6.6.6.6;proto=https;host=evil.test"),
        ("Via", "1.0 evil.test"),
    ];
    let call = lies.iter().fold(gateway.get("/"), |call, (name, value)| call.header(name, value));
    call.send().expect(200);
    let request = upstream.nth(1);
    let text = format!("{:?}", request.headers);
    for lie in ["6.6.6.6", "evil.test", "https"] {
        assert!(!text.contains(lie), "{lie} in {text}");
    }
    assert_eq!(request.one("x-forwarded-for"), "127.0.0.1");
}

#[test]
fn a_trusted_proxy_is_believed_and_appended_to() {
    let upstream = Upstream::echo();
    let gateway = Setup::without_auth()
        .server(r#"trusted_proxies = ["127.0.0.0/8"]"#)
        .upstream("up", upstream.address())
        .route("all", "/", "up", "public")
        .start();
    gateway
        .get("/")
        .header("X-Forwarded-For", "203.0.113.9")
        .header("X-Forwarded-Proto", "https")
        .header("Forwarded", "for=203.0.113.9;proto=https")
        .send()
        .expect(200);
    let request = upstream.nth(1);
    let hops: Vec<String> =
        request.all("x-forwarded-for").join(",").split(',').map(|hop| hop.trim().to_owned()).collect();
    assert_eq!(hops, ["203.0.113.9", "127.0.0.1"]);
    let forwarded = request.all("forwarded").join(",").replace('"', "").to_lowercase();
    let (first, last) = forwarded.split_once(',').expect("two hops");
    assert!(first.contains("for=203.0.113.9") && last.contains("for=127.0.0.1"), "{forwarded}");
}

#[test]
fn a_request_id_is_kept_only_when_it_is_a_plain_token() {
    let upstream = Upstream::echo();
    let gateway = open(&upstream);
    let long = "a".repeat(129);
    for (sent, kept) in [
        ("abc-123_X.~", true),
        (&long[..128], true),
        (&long[..], false),
        ("a b", false),
        ("a,b", false),
        ("a\"b", false),
    ] {
        let count = upstream.received().len();
        gateway.get("/").header("X-Request-Id", sent).send().expect(200);
        let request = upstream.nth(count + 1);
        let id = request.one("x-request-id");
        assert_eq!(id == sent, kept, "{sent} became {id}");
        assert!(kept || uuid_v7(id), "{id}");
    }
}

#[test]
fn a_trace_is_continued_and_a_broken_one_begun_anew() {
    let upstream = Upstream::echo();
    let gateway = open(&upstream);
    let id = "0af7651916cd43dd8448eb211c80319c";
    gateway.get("/").header("traceparent", &format!("00-{id}-b7ad6b7169203331-01")).send().expect(200);
    let kept = upstream.nth(1);
    assert!(traceparent(kept.one("traceparent")) && kept.one("traceparent").contains(id));
    for broken in [
        "00-x",
        &format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
        &format!("ff-{id}-b7ad6b7169203331-01"),
    ] {
        let count = upstream.received().len();
        gateway.get("/").header("traceparent", broken).send().expect(200);
        let made = upstream.nth(count + 1);
        assert!(traceparent(made.one("traceparent")) && made.one("traceparent") != broken, "{broken}");
    }
}

fn uuid_v7(text: &str) -> bool {
    let parts: Vec<usize> = text.split('-').map(str::len).collect();
    parts == [8, 4, 4, 4, 12] && text.as_bytes()[14] == b'7'
}

fn traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |text: &&str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    parts.len() == 4
        && parts.iter().all(hex)
        && parts[0] == "00"
        && (parts[1].len(), parts[2].len(), parts[3].len()) == (32, 16, 2)
        && parts[1].bytes().any(|byte| byte != b'0')
}

// --- identity ----------------------------------------------------------------------------------------------------

const IDENTITY: [&str; 5] =
    ["x-auth-subject", "x-auth-session", "x-auth-token-id", "x-auth-scope", "x-auth-issuer"];

#[test]
fn the_upstream_is_told_who_the_token_names() {
    let upstream = Upstream::echo();
    let gateway = with_issuer(Setup::without_auth())
        .upstream("up", upstream.address())
        .route("api", "/", "up", "access")
        .start();
    let more = json!({ "sub": "jané, \"x\"", "sid": "s-1", "scope": "books:read books:write" });
    let token = legacy().token(&claims("t-1", &more));
    gateway.get("/").bearer(&token).send().expect(200);
    let request = upstream.nth(1);
    assert_eq!(request.one("x-auth-subject"), "jan%C3%A9%2C%20%22x%22");
    assert_eq!(request.one("x-auth-session"), "s-1");
    assert_eq!(request.one("x-auth-token-id"), "t-1");
    assert_eq!(request.one("x-auth-scope"), "books:read books:write");
    assert_eq!(request.one("x-auth-issuer"), "legacy");
    assert_eq!(request.one("authorization"), format!("Bearer {token}"));
}

#[test]
fn identity_headers_can_be_renamed_and_credentials_kept_back() {
    let upstream = Upstream::echo();
    let gateway = with_issuer(Setup::without_auth())
        .upstream("up", upstream.address())
        .route_with(
            "api",
            "/",
            "up",
            "access",
            "identity_headers = { subject = \"x-user\" }\nforward_authorization = false",
        )
        .start();
    let token = legacy().token(&claims("t-1", &json!({})));
    gateway.get("/").bearer(&token).header("X-User", "root").send().expect(200);
    let request = upstream.nth(1);
    assert_eq!(request.one("x-user"), "ada");
    assert!(request.all("authorization").is_empty(), "{:?}", request.headers);
}

#[test]
fn no_spelling_of_an_identity_header_gets_through() {
    let spellings: fn(&str) -> Vec<String> = |name| {
        let capital: Vec<String> =
            name.split('-').map(|word| word[..1].to_uppercase() + &word[1..]).collect();
        vec![
            name.to_owned(),
            name.to_uppercase(),
            capital.join("-"),
            name.replace('-', "_"),
            name.to_uppercase().replace('-', "_"),
            name.replacen('-', "_", 1),
        ]
    };
    for underscores in ["drop", "allow"] {
        let upstream = Upstream::echo();
        let gateway =
            with_issuer(Setup::without_auth().server(&format!("underscore_headers = \"{underscores}\"")))
                .upstream("up", upstream.address())
                .route("public", "/public", "up", "public")
                .route("optional", "/optional", "up", "optional")
                .route("api", "/api", "up", "access")
                .start();
        let token = legacy().token(&claims("t-1", &json!({})));
        for name in
            IDENTITY.into_iter().chain(["x-remote-user", "x-forwarded-user", "proxy", "x-original-url"])
        {
            for spelling in spellings(name) {
                for path in ["/public", "/optional", "/api"] {
                    let count = upstream.received().len();
                    let call = gateway.get(path).header(&spelling, "mallory");
                    let call = if path == "/api" { call.bearer(&token) } else { call };
                    call.send().expect(200);
                    let request = upstream.nth(count + 1);
                    let text = format!("{:?}", request.headers);
                    assert!(!text.contains("mallory"), "{spelling} on {path} ({underscores}): {text}");
                    if path == "/public" {
                        assert!(!request.folded(name), "{name} without a token: {text}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_client_cannot_have_the_identity_dropped_by_naming_it_in_connection() {
    let upstream = Upstream::echo();
    let gateway = with_issuer(Setup::without_auth())
        .upstream("up", upstream.address())
        .route("api", "/", "up", "access")
        .start();
    let token = legacy().token(&claims("t-1", &json!({})));
    let nominated = "keep-alive, x-auth-subject, x-forwarded-for, via, x-request-id, X-Auth-Token-Id";
    gateway.get("/").bearer(&token).header("Connection", nominated).send().expect(200);
    let request = upstream.nth(1);
    assert_eq!(request.one("x-auth-subject"), "ada");
    assert_eq!(request.one("x-auth-token-id"), "t-1");
    assert_eq!(request.one("x-forwarded-for"), "127.0.0.1");
    assert_eq!(request.all("via").len(), 1);
    let folded = request.all("connection").join(",").to_lowercase();
    assert!(!folded.contains("x-auth"), "{folded}");
}

#[test]
fn names_with_underscores_are_dropped_unless_allowed() {
    for (setting, passes) in [("drop", false), ("allow", true)] {
        let upstream = Upstream::echo();
        let gateway = Setup::without_auth()
            .server(&format!("underscore_headers = \"{setting}\""))
            .upstream("up", upstream.address())
            .route("all", "/", "up", "public")
            .start();
        gateway.get("/").header("trace_me", "1").header("trace-me-too", "2").send().expect(200);
        let request = upstream.nth(1);
        assert_eq!(request.all("trace_me").len() == 1, passes, "{setting}");
        assert_eq!(request.one("trace-me-too"), "2");
    }
}

// --- hop by hop --------------------------------------------------------------------------------------------------

#[test]
fn hop_by_hop_fields_end_at_the_gateway_in_both_directions() {
    let upstream = Upstream::new(|_| {
        Reply::Raw(
            b"HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Secret\r\nKeep-Alive: timeout=9\r\nX-Secret: s\r\n\
              Proxy-Authenticate: Basic\r\nX-Kept: k\r\nContent-Length: 2\r\n\r\nok"
                .to_vec(),
        )
    });
    let gateway = open(&upstream);
    let answer = gateway
        .get("/")
        .header("Connection", "keep-alive, X-Drop-Me")
        .header("X-Drop-Me", "1")
        .header("Keep-Alive", "timeout=5")
        .header("Proxy-Connection", "keep-alive")
        .header("TE", "gzip")
        .header("Upgrade", "h2c")
        .header("HTTP2-Settings", "AAMAAABkAAQAAP__")
        .header("X-Kept", "k")
        .send()
        .expect(200);
    let request = upstream.nth(1);
    for gone in ["x-drop-me", "keep-alive", "proxy-connection", "te", "upgrade"] {
        assert!(request.all(gone).is_empty(), "{gone} in {:?}", request.headers);
    }
    assert_eq!(request.one("x-kept"), "k");
    assert_eq!(answer.header("x-kept"), Some("k"));
    for gone in ["x-secret", "keep-alive"] {
        assert_eq!(answer.header(gone), None, "{gone}");
    }
}

#[test]
fn configured_edits_reach_both_sides() {
    let upstream = Upstream::new(|_| {
        Reply::Full(200, vec![("Server", "old".to_owned()), ("X-Debug", "1".to_owned())], vec![])
    });
    let gateway = Setup::without_auth()
        .upstream("up", upstream.address())
        .route_with(
            "all",
            "/",
            "up",
            "public",
            "request_headers = { set = { x-stage = \"test\", host = \"legacy.internal:81\" }, remove = [\"x-noise\"] }\n\
             response_headers = { set = { x-frame-options = \"DENY\" }, remove = [\"x-debug\"] }",
        )
        .start();
    let answer = gateway.get("/").header("X-Noise", "1").header("X-Stage", "prod").send().expect(200);
    let request = upstream.nth(1);
    assert_eq!((request.one("x-stage"), request.one("host")), ("test", "legacy.internal:81"));
    assert!(request.all("x-noise").is_empty());
    assert_eq!(answer.header("x-frame-options"), Some("DENY"));
    assert_eq!(answer.header("x-debug"), None);
}

#[test]
fn method_overrides_are_removed_unless_the_route_takes_them() {
    let upstream = Upstream::echo();
    let gateway = Setup::without_auth()
        .upstream("up", upstream.address())
        .route("all", "/", "up", "public")
        .route_with("old", "/old", "up", "public", "allow_method_override = true")
        .start();
    for (path, passes) in [("/", false), ("/old", true)] {
        for name in ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"] {
            let count = upstream.received().len();
            gateway.post(path).header(name, "DELETE").body("text/plain", "x").send().expect(200);
            assert_eq!(upstream.nth(count + 1).all(name).len() == 1, passes, "{name} on {path}");
        }
    }
}

// --- routes and paths --------------------------------------------------------------------------------------------

#[test]
fn one_normalised_path_is_matched_and_forwarded() {
    let upstream = Upstream::echo();
    let gateway = open(&upstream);
    let check = |sent: &str, expected: Option<&str>| {
        let count = upstream.received().len();
        let answer = gateway.get(sent).send();
        match expected {
            Some(forwarded) => {
                assert_eq!(answer.status, 200, "{sent}: {}", answer.text());
                assert_eq!(upstream.nth(count + 1).target(), forwarded, "{sent}");
            }
            None => {
                assert_eq!(answer.verdict(), (400, "invalid_request".to_owned()), "{sent}");
                assert_eq!(upstream.received().len(), count, "{sent} reached the upstream");
            }
        }
    };
    for (sent, forwarded) in [
        ("/", "/"),
        ("/a/%7Euser", "/a/~user"),
        ("/%41%2d%5f%2E%7e", "/A-_.~"),
        ("/%e4%bd%a0", "/%E4%BD%A0"),
        ("/a%20b%3fc", "/a%20b%3Fc"),
        ("//a///b//", "/a/b/"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/b/..", "/a/"),
        ("/a/b/.", "/a/b/"),
        ("/a//../b", "/b"),
        ("/../../x", "/x"),
        ("/a/%2eb", "/a/.b"),
        ("/a/...", "/a/..."),
        ("/a/b..", "/a/b.."),
        ("/a;v=1/b;w", "/a;v=1/b;w"),
        ("/a/b?x=%2f..//%zz&y", "/a/b?x=%2f..//%zz&y"),
        ("/a?", "/a?"),
        ("/a?b?c=/../d", "/a?b?c=/../d"),
        ("/%25", "/%25"),
        ("/100%25sure", "/100%25sure"),
    ] {
        check(sent, Some(forwarded));
    }
    for sent in [
        "/a%2Fb",
        "/a%2fb",
        "/a%5Cb",
        "/a%5cb",
        "/a\\b",
        "/%2e%2e/x",
        "/%2E%2E/x",
        "/.%2e/x",
        "/%2e./x",
        "/a/%2e/x",
        "/a/%2e%2e",
        "/a/..;/x",
        "/a/..;v=1/x",
        "/a/.;/x",
        "/%252e%252e/x",
        "/%252E/x",
        "/a%252fb",
        "/a%255cb",
        "/%00",
        "/a%0ab",
        "/a%0Db",
        "/a%1fb",
        "/a%7fb",
        "/%ff",
        "/%c0%ae",
        "/%e4%bd",
        "/%ed%a0%80",
        "/%",
        "/%2",
        "/%zz",
        "/a#b",
        "/a%2F..%2Fb",
    ] {
        check(sent, None);
    }
}

#[test]
fn an_encoded_slash_is_data_where_the_route_says_so() {
    let upstream = Upstream::echo();
    let gateway = Setup::without_auth()
        .upstream("up", upstream.address())
        .route("all", "/", "up", "public")
        .route_with("files", "/files", "up", "public", "allow_encoded_slash = true")
        .start();
    gateway.get("/files/a%2fb").send().expect(200);
    assert_eq!(upstream.nth(1).target(), "/files/a%2Fb");
    gateway.get("/other/a%2fb").send().expect_problem(400, "invalid_request");
    gateway.get("/files/a%5cb").send().expect_problem(400, "invalid_request");
}

#[test]
fn no_detour_leads_around_a_protected_path() {
    let upstream = Upstream::echo();
    let gateway = with_issuer(Setup::without_auth())
        .upstream("up", upstream.address())
        .route("public", "/public", "up", "public")
        .route("admin", "/admin", "up", "access")
        .start();
    for path in [
        "/admin",
        "/admin/",
        "//admin",
        "/public/../admin",
        "/public/..//admin",
        "/./admin",
        "/%61dmin",
        "/public/x/../../admin/users",
    ] {
        gateway.get(path).send().expect_problem(401, "token_missing");
    }
    for path in ["/public/%2e%2e/admin", "/public/..;/admin", "/public/..%2fadmin", "/public%2f..%2fadmin"] {
        gateway.get(path).send().expect_problem(400, "invalid_request");
    }
    assert!(upstream.received().is_empty());
}

#[test]
fn the_most_specific_path_wins_and_then_its_methods_decide() {
    let upstream = Upstream::new(|request| Reply::json(&json!(request.one("x-route"))));
    let tagged = |name: &str, lines: &str| {
        format!("request_headers = {{ set = {{ x-route = \"{name}\" }} }}\n{lines}")
    };
    let gateway = Setup::without_auth()
        .upstream("up", upstream.address())
        .route_with("all", "/all", "up", "public", &tagged("all", ""))
        .route_with("deep", "/all/deep", "up", "public", &tagged("deep", r#"methods = ["GET", "PUT"]"#))
        .route_with("deep-post", "/all/deep", "up", "public", &tagged("deep-post", r#"methods = ["POST"]"#))
        .route_with("exact", "=/all/exact", "up", "public", &tagged("exact", ""))
        .route_with("host", "/all", "up", "public", &tagged("host", r#"host = "api.example.com""#))
        .route_with("wild", "/all", "up", "public", &tagged("wild", r#"host = "*.example.com""#))
        .start();
    let check = |method: &str, host: &str, path: &str, expected: &str| {
        let mut connection = gateway.connect();
        connection.send(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n"));
        let answer = connection.answer(method);
        let text = if answer.status == 200 { answer.json() } else { json!(answer.code()) };
        assert_eq!(text, expected, "{method} {host}{path}");
        answer
    };
    check("GET", "any.test", "/all", "all");
    check("GET", "any.test", "/all/x", "all");
    check("GET", "any.test", "/allx", "no_route");
    check("GET", "any.test", "/", "no_route");
    check("GET", "any.test", "/all/deep/x", "deep");
    check("GET", "any.test", "/all/deeper", "all");
    check("POST", "any.test", "/all/deep", "deep-post");
    check("GET", "any.test", "/all/exact", "exact");
    check("GET", "any.test", "/all/exact/x", "all");
    check("GET", "api.example.com", "/all/deep", "host");
    check("GET", "API.Example.COM:8080", "/all", "host");
    check("GET", "a.b.example.com", "/all", "wild");
    check("GET", "example.com", "/all", "all");
    let answer = check("DELETE", "any.test", "/all/deep", "method_not_allowed");
    let mut methods: Vec<&str> = answer.header("allow").expect("Allow").split(',').map(str::trim).collect();
    methods.sort_unstable();
    methods.retain(|method| *method != "OPTIONS");
    assert_eq!(methods, ["GET", "HEAD", "POST", "PUT"]);
}

#[test]
fn a_prefix_can_be_stripped_or_replaced() {
    let upstream = Upstream::echo();
    let gateway = Setup::without_auth()
        .upstream("up", upstream.address())
        .route_with("strip", "/api/v1", "up", "public", "strip_prefix = true")
        .route_with("rewrite", "/old", "up", "public", "rewrite = \"/v2\"")
        .start();
    for (sent, forwarded) in [
        ("/api/v1", "/"),
        ("/api/v1/books?x=1", "/books?x=1"),
        ("/api/v1//books", "/books"),
        ("/old", "/v2"),
        ("/old/books?x", "/v2/books?x"),
    ] {
        let count = upstream.received().len();
        gateway.get(sent).send().expect(200);
        assert_eq!(upstream.nth(count + 1).target(), forwarded, "{sent}");
    }
}

// --- framing and bodies ------------------------------------------------------------------------------------------

#[test]
fn one_connection_carries_many_requests() {
    let upstream = Upstream::echo();
    let gateway = Setup::without_auth()
        .upstream("up", upstream.address())
        .route("api", "/api", "up", "public")
        .route_with("closed", "/closed", "up", "public", r#"methods = ["PUT"]"#)
        .start();
    let mut connection = gateway.connect();
    for number in 0..20 {
        let call = gateway.post(&format!("/api/{number}")).body("text/plain", format!("body {number}"));
        let answer = call.send_on(&mut connection).expect(200);
        assert_eq!(answer.json()["body"], format!("body {number}"));
    }
    // Refusals leave it open.
    gateway.get("/nowhere").send_on(&mut connection).expect_problem(404, "no_route");
    gateway
        .post("/closed")
        .body("text/plain", "x")
        .send_on(&mut connection)
        .expect_problem(405, "method_not_allowed");
    gateway.get("/api/last").send_on(&mut connection).expect(200);
    // Several at once, answered in order.
    let three: Vec<u8> = (0..3).flat_map(|number| gateway.get(&format!("/api/p{number}")).bytes()).collect();
    connection.send(three);
    for number in 0..3 {
        let answer = connection.answer("GET").expect(200);
        assert_eq!(answer.json()["line"], format!("GET /api/p{number} HTTP/1.1"));
    }
    assert!(upstream.connections() < 10, "the pool keeps connections: {}", upstream.connections());
}

#[test]
fn head_204_and_304_have_no_body_and_keep_the_connection() {
    let upstream = Upstream::new(|request| match request.target() {
        "/204" => Reply::Full(204, vec![], vec![]),
        "/304" => Reply::Full(304, vec![("ETag", "\"x\"".to_owned())], vec![]),
        _ => Reply::Full(200, vec![("X-Method", request.line.clone())], b"twelve bytes".to_vec()),
    });
    let gateway = Setup::without_auth()
        .upstream("up", upstream.address())
        .route_with("all", "/", "up", "public", r#"methods = ["GET"]"#)
        .start();
    let mut connection = gateway.connect();
    let answer = gateway.call("HEAD", "/x").send_on(&mut connection).expect(200);
    assert_eq!(answer.header("content-length"), Some("12"));
    assert_eq!(answer.header("x-method"), Some("HEAD /x HTTP/1.1"));
    gateway.get("/204").send_on(&mut connection).expect(204);
    let answer = gateway.get("/304").send_on(&mut connection).expect(304);
    assert_eq!(answer.header("etag"), Some("\"x\""));
    let answer = gateway.get("/x").send_on(&mut connection).expect(200);
    assert_eq!(answer.text(), "twelve bytes");
    // A refusal of a HEAD has no body either.
    let answer = gateway.call("HEAD", "/%00").send();
    assert_eq!((answer.status, answer.body.len()), (400, 0));
}

#[test]
fn bodies_pass_whole_in_both_directions() {
    let upstream = Upstream::new(|request| Reply::Full(200, vec![], request.body.clone()));
    let gateway = open(&upstream);
    let body: Vec<u8> =
        (0..5 * 1024 * 1024_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let answer = gateway.post("/").body("application/octet-stream", body.clone()).send().expect(200);
    assert!(answer.complete && answer.body == body);
    assert_eq!(upstream.nth(1).one("content-length"), body.len().to_string());
    // In chunks: the framing may change, the content may not; trailers are dropped.
    let mut connection = gateway.connect();
    connection.send("POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\nTrailer: X-Auth-Subject\r\n\r\n");
    connection.send("5\r\nhello\r\n1;ext=1\r\n!\r\n0\r\nX-Auth-Subject: root\r\nX-Late: 1\r\n\r\n");
    assert_eq!(connection.answer("POST").expect(200).text(), "hello!");
    let request = upstream.nth(2);
    assert!(request.trailers.is_empty() && !request.folded("x-auth-subject"), "{request:?}");
}

#[test]
fn a_get_keeps_a_body_of_unknown_length() {
    let upstream = Upstream::echo();
    let gateway = open(&upstream);
    let mut connection = gateway.connect();
    connection.send(
        "GET / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    );
    assert_eq!(connection.answer("GET").expect(200).json()["body"], "hello");
}

#[test]
fn a_response_streams_before_it_is_complete() {
    let (go, wait) = sync_channel::<()>(1);
    let wait = Mutex::new(wait);
    let upstream = Upstream::raw(move |mut stream, _| {
        receive(&mut stream, &mut Vec::new());
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").unwrap();
        wait.lock().unwrap().recv().unwrap();
        stream.write_all(b"6\r\nsecond\r\n0\r\n\r\n").unwrap();
    });
    let gateway = open(&upstream);
    let mut connection = gateway.connect();
    connection.send(gateway.get("/").bytes());
    connection.read_until("the first chunk", |bytes| bytes.windows(5).any(|part| part == b"first"));
    go.send(()).unwrap();
    assert_eq!(connection.answer("GET").expect(200).text(), "firstsecond");
}

#[test]
fn a_request_streams_before_it_is_complete() {
    let (saw, seen) = sync_channel::<Vec<u8>>(1);
    let upstream = Upstream::raw(move |mut stream, _| {
        let mut buffer = Vec::new();
        receive_head(&mut stream, &mut buffer).unwrap();
        saw.send(take(&mut stream, &mut buffer, 5).unwrap()).unwrap();
        take(&mut stream, &mut buffer, 6).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
    });
    let gateway = open(&upstream);
    let mut connection = gateway.connect();
    connection.send("POST / HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 11\r\n\r\nfirst");
    assert_eq!(seen.recv_timeout(crate::support::wait::DEADLINE).expect("half a body"), b"first");
    connection.send("second");
    assert_eq!(connection.answer("POST").expect(200).text(), "ok");
}

#[test]
fn a_slow_reader_holds_the_upstream_back() {
    let sent = Arc::new(Mutex::new(0_usize));
    let count = sent.clone();
    let upstream = Upstream::raw(move |mut stream, _| {
        receive(&mut stream, &mut Vec::new());
        stream.set_write_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
        let total = 256 * 1024 * 1024;
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n").as_bytes()).unwrap();
        let block = vec![b'x'; 64 * 1024];
        while stream.write_all(&block).is_ok() {
            *count.lock().unwrap() += block.len();
        }
        *count.lock().unwrap() |= 1; // stuck: the pipe is full
    });
    let gateway = open(&upstream);
    let mut connection = gateway.connect();
    connection.send(gateway.get("/").bytes());
    connection.read_until("the head", |bytes| bytes.windows(4).any(|part| part == b"\r\n\r\n"));
    let stuck = wait_for("the upstream to be held back", || {
        let sent = *sent.lock().unwrap();
        (sent & 1 == 1).then_some(sent)
    });
    assert!(stuck < 64 * 1024 * 1024, "{stuck} bytes were taken for a client that reads nothing");
}

#[test]
fn an_expected_100_comes_only_after_the_decision() {
    let upstream = Upstream::echo();
    let gateway = with_issuer(Setup::without_auth())
        .upstream("up", upstream.address())
        .route("open", "/open", "up", "public")
        .route("shut", "/shut", "up", "access")
        .start();
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: gateway.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        )
    };
    let mut connection = gateway.connect();
    connection.send(head("/open"));
    assert_eq!(connection.head().status, 100);
    connection.send("hello");
    assert_eq!(connection.answer("POST").expect(200).json()["body"], "hello");
    assert!(upstream.nth(1).all("expect").is_empty());
    let mut connection = gateway.connect();
    connection.send(head("/shut"));
    let answer = connection.answer("POST").expect_problem(401, "token_missing");
    assert!(answer.interim.is_empty(), "{:?}", answer.interim);
}

// --- failures of the upstream ------------------------------------------------------------------------------------

#[test]
fn failures_of_the_upstream_are_named() {
    let garbage = Upstream::raw(|mut stream, _| {
        receive(&mut stream, &mut Vec::new());
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n");
    });
    let silent = Upstream::raw(|mut stream, _| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let hangs_up = Upstream::raw(|mut stream, _| {
        receive(&mut stream, &mut Vec::new());
    });
    let gateway = Setup::without_auth()
        .upstream("nobody", Upstream::nobody())
        .upstream("garbage", garbage.address())
        .upstream_with("silent", silent.address(), "response_timeout = \"300ms\"")
        .upstream("hangs-up", hangs_up.address())
        .route("nobody", "/nobody", "nobody", "public")
        .route("garbage", "/garbage", "garbage", "public")
        .route("silent", "/silent", "silent", "public")
        .route_with("hurry", "/hurry", "garbage", "public", "timeout = \"10s\"")
        .route("hangs-up", "/hangs-up", "hangs-up", "public")
        .start();
    gateway.get("/nobody").send().expect_problem(502, "upstream_unreachable");
    gateway.get("/garbage").send().expect_problem(502, "upstream_protocol_error");
    gateway.get("/silent").send().expect_problem(504, "upstream_timeout");
    gateway.get("/hangs-up").send().expect_problem(502, "upstream_unreachable");
    gateway.post("/nobody").body("text/plain", "x").send().expect_problem(502, "upstream_unreachable");
}

#[test]
fn a_response_that_breaks_off_is_never_taken_for_complete() {
    for framing in ["Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
        let upstream = Upstream::raw(move |mut stream, _| {
            receive(&mut stream, &mut Vec::new());
            stream.write_all(format!("HTTP/1.1 200 OK\r\n{framing}").as_bytes()).unwrap();
        });
        let gateway = open(&upstream);
        let answer = gateway.get("/").send();
        assert_eq!(answer.status, 200);
        assert!(!answer.complete, "{framing:?}: {answer:?}");
    }
}

#[test]
fn a_stale_pooled_connection_costs_no_request() {
    let upstream = Upstream::raw(|mut stream, _| {
        receive(&mut stream, &mut Vec::new());
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        // and hangs up without having said so
    });
    let gateway = open(&upstream);
    let mut connection = gateway.connect();
    for _ in 0..20 {
        gateway.get("/").send_on(&mut connection).expect(200);
    }
}

// --- heads that two programs could read differently --------------------------------------------------------------

#[test]
fn ambiguous_heads_are_refused_and_never_forwarded() {
    let upstream = Upstream::echo();
    let gateway = open(&upstream);
    let host = "Host: gateway.test\r\n";
    let post = |fields: &str| format!("POST / HTTP/1.1\r\n{host}{fields}\r\n");
    let get = |fields: &str| format!("GET / HTTP/1.1\r\n{host}{fields}\r\n");
    let cases: Vec<(&str, String)> = vec![
        ("both framings", post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n"),
        ("two lengths", post("Content-Length: 4\r\nContent-Length: 5\r\n") + "xxxxx"),
        ("a list of lengths", post("Content-Length: 4, 5\r\n") + "xxxxx"),
        ("a signed length", post("Content-Length: +4\r\n") + "xxxx"),
        ("a negative length", post("Content-Length: -4\r\n") + "xxxx"),
        ("a hexadecimal length", post("Content-Length: 0x4\r\n") + "xxxx"),
        ("no length at all", post("Content-Length: \r\n")),
        ("a length too large", post("Content-Length: 99999999999999999999999\r\n")),
        ("gzip", post("Transfer-Encoding: gzip\r\n") + "0\r\n\r\n"),
        ("gzip, chunked", post("Transfer-Encoding: gzip, chunked\r\n") + "0\r\n\r\n"),
        ("chunked twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n"),
        ("chunked, chunked", post("Transfer-Encoding: chunked, chunked\r\n") + "0\r\n\r\n"),
        ("chunked and identity", post("Transfer-Encoding: chunked, identity\r\n") + "0\r\n\r\n"),
        ("xchunked", post("Transfer-Encoding: xchunked\r\n") + "0\r\n\r\n"),
        ("chunked in 1.0", format!("POST / HTTP/1.0\r\n{host}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")),
        ("white space before the colon", get("X-A : b\r\n")),
        ("length, white space before the colon", post("Content-Length : 4\r\n") + "xxxx"),
        ("a folded line", get("X-A: b\r\n c\r\n")),
        ("a bare CR in a value", get("X-A: b\rc\r\n")),
        ("NUL in a value", get("X-A: b\0c\r\n")),
        ("a control character in a value", get("X-A: b\x01c\r\n")),
        ("DEL in a value", get("X-A: b\x7fc\r\n")),
        ("a name with a space", get("X A: b\r\n")),
        ("no name", get(": b\r\n")),
        ("no colon", get("X-A\r\n")),
        ("no host", "GET / HTTP/1.1\r\n\r\n".to_owned()),
        ("two hosts", get("Host: other.test\r\n")),
        ("the same host twice", get(host)),
        ("an empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n".to_owned()),
        ("a host with a space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned()),
        ("a host with user info", "GET / HTTP/1.1\r\nHost: user@gateway.test\r\n\r\n".to_owned()),
        ("a host with a path", "GET / HTTP/1.1\r\nHost: gateway.test/x\r\n\r\n".to_owned()),
        ("a host with a bad port", "GET / HTTP/1.1\r\nHost: gateway.test:99999\r\n\r\n".to_owned()),
        ("two authorizations", get("Authorization: Bearer a\r\nAuthorization: Bearer b\r\n")),
        ("a target that is no path", format!("GET x HTTP/1.1\r\n{host}\r\n")),
        ("an asterisk for GET", format!("GET * HTTP/1.1\r\n{host}\r\n")),
        ("a target with a space", format!("GET /a b HTTP/1.1\r\n{host}\r\n")),
        (
            "an absolute target with user info",
            format!("GET http://user@gateway.test/ HTTP/1.1\r\n{host}\r\n"),
        ),
    ];
    for (case, bytes) in cases {
        let mut connection = gateway.connect();
        connection.send(&bytes);
        // Were it forwarded, or read as two requests, this one would be answered too.
        connection.send("GET /smuggled HTTP/1.1\r\nHost: gateway.test\r\n\r\n");
        let answer = connection.answer("GET");
        assert_eq!(answer.status, 400, "{case}: {}", answer.text());
        assert!(connection.closed(), "{case}: the connection stays open");
        assert!(connection.rest().is_empty(), "{case}: {:?}", String::from_utf8_lossy(connection.rest()));
        assert!(upstream.received().is_empty(), "{case}: {:?}", upstream.received());
    }
}

#[test]
fn odd_but_clear_heads_get_their_own_answer() {
    let upstream = Upstream::echo();
    let gateway = open(&upstream);
    let check = |bytes: String, status: u16, code: &str| {
        let mut connection = gateway.connect();
        connection.send(&bytes);
        let answer = connection.answer("GET");
        assert_eq!(answer.verdict(), (status, code.to_owned()), "{:?}", &bytes[..bytes.len().min(80)]);
    };
    let host = "Host: gateway.test\r\n";
    check(format!("CONNECT gateway.test:443 HTTP/1.1\r\n{host}\r\n"), 405, "method_not_allowed");
    check(format!("TRACE / HTTP/1.1\r\n{host}\r\n"), 405, "method_not_allowed");
    check(format!("GET / HTTP/1.1\r\n{host}Expect: miracles\r\n\r\n"), 417, "expectation_failed");
    check(format!("GET /{} HTTP/1.1\r\n{host}\r\n", "a".repeat(9 * 1024)), 414, "uri_too_long");
    check(
        format!("GET / HTTP/1.1\r\n{host}X-A: {}\r\n\r\n", "a".repeat(33 * 1024)),
        431,
        "headers_too_large",
    );
    check(format!("GET / HTTP/1.1\r\n{host}{}\r\n", "X-A: b\r\n".repeat(101)), 431, "headers_too_large");
    assert!(upstream.received().is_empty());
}

#[test]
fn an_absolute_targets_authority_replaces_host() {
    let upstream = Upstream::echo();
    let gateway = open(&upstream);
    let mut connection = gateway.connect();
    connection.send("GET http://absolute.test/x?y HTTP/1.1\r\nHost: other.test\r\n\r\n");
    connection.answer("GET").expect(200);
    let request: Received = upstream.nth(1);
    assert_eq!(request.target(), "/x?y");
    assert_eq!(request.one("x-forwarded-host"), "absolute.test");
}

// --- limits ------------------------------------------------------------------------------------------------------

#[test]
fn a_body_over_the_limit_is_refused_or_cut() {
    let upstream = Upstream::echo();
    let gateway = Setup::without_auth()
        .server("max_body = \"1KiB\"")
        .upstream("up", upstream.address())
        .route("all", "/", "up", "public")
        .route_with("wide", "/wide", "up", "public", "max_body = \"4KiB\"")
        .start();
    let post = |path: &str, bytes: usize| gateway.post(path).body("text/plain", vec![b'x'; bytes]).send();
    post("/", 1024).expect(200);
    post("/wide", 4096).expect(200);
    let count = upstream.received().len();
    post("/", 1025).expect_problem(413, "body_too_large");
    post("/wide", 4097).expect_problem(413, "body_too_large");
    // In chunks the length shows late: whatever the client sees, the upstream sees no whole request.
    let mut connection = gateway.connect();
    connection.send("POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    connection.send(format!("400\r\n{}\r\n400\r\n{}\r\n0\r\n\r\n", "x".repeat(1024), "x".repeat(1024)));
    let answer = connection.answer("POST");
    assert_eq!(answer.verdict(), (413, "body_too_large".to_owned()));
    assert_eq!(upstream.received().len(), count);
}

#[test]
fn slow_clients_are_timed_out() {
    let upstream = Upstream::echo();
    let gateway = Setup::without_auth()
        .server("header_read_timeout = \"300ms\"\nbody_read_timeout = \"300ms\"\nidle_timeout = \"300ms\"")
        .upstream("up", upstream.address())
        .route("all", "/", "up", "public")
        .start();
    for half in ["", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: gateway.test\r\nX-A: b"] {
        let mut connection = gateway.connect();
        connection.send(half);
        let answer = connection.answer("GET");
        assert_eq!(answer.status, 408, "{half:?}");
        assert!(connection.closed());
    }
    let mut connection = gateway.connect();
    connection.send("POST / HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 10\r\n\r\nhalf");
    connection.answer("POST").expect_problem(408, "request_timeout");
    assert!(connection.closed());
    // Between requests it is simply closed.
    let mut connection = gateway.connect();
    gateway.get("/").send_on(&mut connection).expect(200);
    assert!(connection.closed());
    assert!(connection.rest().is_empty(), "{:?}", String::from_utf8_lossy(connection.rest()));
}

#[test]
fn too_many_connections_are_told_to_come_back() {
    let upstream = Upstream::echo();
    let gateway = Setup::without_auth()
        .server("max_connections = 2")
        .upstream("up", upstream.address())
        .route("all", "/", "up", "public")
        .start();
    let mut held: Vec<Connection> = (0..2).map(|_| gateway.connect()).collect();
    for connection in &mut held {
        gateway.get("/").send_on(connection).expect(200);
    }
    let mut third = gateway.connect();
    third.send(gateway.get("/").bytes());
    let answer = third.answer("GET");
    assert_eq!(answer.verdict(), (503, "overloaded".to_owned()));
    assert!(answer.header("retry-after").is_some());
    assert!(third.closed());
    drop(held);
    wait_for("a permit to come back", || (gateway.get("/").send().status == 200).then_some(()));
}

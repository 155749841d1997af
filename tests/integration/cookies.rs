//! Tokens in cookies through the whole gateway: who may send them, what reaches the upstream.

use serde_json::{Value, json};

use crate::support::account::PASSWORD;
use crate::support::jwt::claims_of;
use crate::support::{Answer, Call, Gateway, Setup, Upstream};

/// A browser's cookies of one session.
#[derive(Clone)]
struct Jar(Vec<(String, String)>);

impl Jar {
    #[track_caller]
    fn sign_up(gateway: &Gateway, email: &str) -> Self {
        let account = json!({ "email": email, "password": PASSWORD });
        Self(Vec::new()).with(&gateway.post("/auth/signup").json(&account).send().expect(201))
    }

    /// With what the answer sets.
    fn with(mut self, answer: &Answer) -> Self {
        for (_, set) in answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie")) {
            assert!(
                set.contains("; Secure") && set.contains("; SameSite=Lax") && set.contains("; Path=/"),
                "{set}"
            );
            assert_eq!(set.contains("HttpOnly"), !set.contains("_csrf="), "{set}");
            let (name, value) = set.split(';').next().unwrap().split_once('=').unwrap();
            self.0.retain(|(known, _)| known != name);
            if !set.contains("Max-Age=0") {
                self.0.push((name.to_owned(), value.to_owned()));
            }
        }
        self
    }

    fn get(&self, name: &str) -> &str {
        let name = format!("__Host-portcullis_{name}");
        &self.0.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no {name}")).1
    }

    fn on(&self, call: Call) -> Call {
        let line: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        call.header("Cookie", &format!("theme=dark; {};lang=\"de\"", line.join("; ")))
    }

    /// With the value repeated.
    fn proven_on(&self, call: Call) -> Call {
        self.on(call).header("X-CSRF-Token", self.get("csrf"))
    }
}

fn start(transport: &str) -> (Gateway, Upstream) {
    let upstream = Upstream::echo();
    let gateway = Setup::new()
        .auth(&format!("token_transport = {transport}"))
        .upstream("api", upstream.address())
        .route("api", "/api", "api", "access")
        .route("public", "/public", "api", "public")
        .route("optional", "/optional", "api", "optional")
        .route_with("bare", "/bare", "api", "access", "forward_authorization = false")
        .start();
    (gateway, upstream)
}

fn verdict(call: &Call) -> (u16, String) {
    call.send().verdict()
}

fn csrf() -> (u16, String) {
    (403, "csrf".to_owned())
}

#[test]
fn an_upstream_gets_the_identity_and_the_token_and_none_of_our_cookies() {
    let (gateway, upstream) = start(r#"["cookie"]"#);
    let jar = Jar::sign_up(&gateway, "ada@example.com");
    let mut count = 0;
    let mut reached = |path: &str| {
        jar.on(gateway.get(path)).send().expect(200);
        count += 1;
        let received = upstream.nth(count);
        assert_eq!(received.one("cookie"), "theme=dark;lang=\"de\"", "{path}");
        received
    };
    let bearer = format!("Bearer {}", jar.get("access"));
    for (path, identity, authorization) in
        [("/api", true, true), ("/optional", true, true), ("/bare", true, false), ("/public", false, false)]
    {
        let received = reached(path);
        let subject = claims_of(jar.get("access"))["sub"].as_str().unwrap().to_owned();
        assert_eq!(received.all("x-auth-subject"), if identity { vec![&*subject] } else { vec![] }, "{path}");
        assert_eq!(
            received.all("authorization"),
            if authorization { vec![&*bearer] } else { vec![] },
            "{path}"
        );
    }
    // Nothing else of the field is left, so the field goes.
    let bare = format!("__Host-portcullis_access={}", jar.get("access"));
    gateway.get("/api").header("Cookie", &bare).send().expect(200);
    assert!(upstream.nth(count + 1).all("cookie").is_empty());
}

#[test]
fn what_may_change_something_must_come_from_a_page_of_ours() {
    let (gateway, upstream) = start(r#"["header", "cookie"]"#);
    let jar = Jar::sign_up(&gateway, "ada@example.com");
    for method in ["GET", "HEAD", "OPTIONS"] {
        let call = jar.on(gateway.call(method, "/api")).header("Origin", "https://evil.example");
        assert_eq!(call.send().status, 200, "{method}: SameSite=Lax keeps a browser from the rest");
    }
    let before = upstream.received().len();
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let call = || gateway.call(method, "/api");
        assert_eq!(verdict(&jar.on(call())), csrf(), "{method}");
        assert_eq!(verdict(&jar.on(call()).header("X-CSRF-Token", "guess")), csrf(), "{method}");
        assert_eq!(verdict(&jar.proven_on(call()).header("Origin", "https://evil.example")), csrf());
        assert_eq!(verdict(&jar.proven_on(call()).header("Sec-Fetch-Site", "cross-site")), csrf());
        assert_eq!(upstream.received().len(), before, "{method}");
    }
    jar.on(gateway.post("/api")).send().expect_problem(403, "csrf");
    let own = jar.proven_on(gateway.post("/api")).header("Origin", "https://gateway.test");
    assert_eq!(own.header("Sec-Fetch-Site", "same-origin").send().status, 200);
    // A client by header sends no cookies, and is asked for no proof.
    assert_eq!(gateway.post("/api").bearer(jar.get("access")).send().status, 200);
    assert_eq!(gateway.post("/public").header("Origin", "https://evil.example").send().status, 200);
}

#[test]
fn a_websocket_by_cookie_is_opened_by_a_page_of_ours_alone() {
    let (gateway, _upstream) = start(r#"["cookie"]"#);
    let jar = Jar::sign_up(&gateway, "ada@example.com");
    let handshake = |origin: &str| {
        let call = jar.on(gateway.get("/api")).header("Connection", "Upgrade").header("Upgrade", "websocket");
        let call = call
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
        if origin.is_empty() { call } else { call.header("Origin", origin) }
    };
    for origin in ["https://evil.example", "null", "https://gateway.test.evil.example"] {
        assert_eq!(verdict(&handshake(origin)), csrf(), "{origin}");
    }
    // The echo upstream does not upgrade; what matters is that it is asked.
    for origin in ["https://gateway.test", ""] {
        assert_eq!(handshake(origin).send().status, 200, "{origin}");
    }
}

#[test]
fn a_token_in_two_places_and_a_cookie_twice_are_ambiguous() {
    let (gateway, upstream) = start(r#"["header", "cookie"]"#);
    let jar = Jar::sign_up(&gateway, "ada@example.com");
    let twice = format!("__Host-portcullis_access={}", jar.get("access"));
    for path in ["/api", "/optional", "/auth/me"] {
        jar.on(gateway.get(path)).bearer(jar.get("access")).send().expect_problem(400, "invalid_request");
        jar.on(gateway.get(path)).header("Cookie", &twice).send().expect_problem(400, "invalid_request");
    }
    assert!(upstream.received().is_empty());
    assert_eq!(jar.on(gateway.get("/api")).header("Cookie", "theme=light").send().status, 200, "two fields");
    let received = upstream.nth(1);
    assert_eq!(received.one("cookie"), "theme=dark;lang=\"de\"; theme=light");
}

#[test]
fn a_session_lives_and_ends_in_its_cookies() {
    let (gateway, _upstream) = start(r#"["cookie"]"#);
    let first = Jar::sign_up(&gateway, "ada@example.com");
    let answer = first.proven_on(gateway.post("/auth/refresh")).send().expect(200);
    assert!(!answer.text().contains("eyJ"), "no token in the body: {}", answer.text());
    let second = first.clone().with(&answer);
    assert_ne!(first.get("refresh"), second.get("refresh"));
    assert_eq!(verdict(&second.on(gateway.get("/api"))), (200, String::new()));
    let third = second.clone().with(&second.proven_on(gateway.post("/auth/refresh")).send().expect(200));
    // The first token comes back after its successor was used: a thief, and the session is over.
    let refused = first.proven_on(gateway.post("/auth/refresh")).send();
    assert_eq!(refused.verdict(), (401, "token_revoked".to_owned()));
    assert_eq!(verdict(&third.on(gateway.get("/api"))), (401, "token_revoked".to_owned()));

    let account = json!({ "email": "ada@example.com", "password": PASSWORD });
    let again = Jar(Vec::new()).with(&gateway.post("/auth/signin").json(&account).send().expect(200));
    let out = again.proven_on(gateway.post("/auth/logout")).send().expect(200);
    assert!(again.clone().with(&out).0.is_empty(), "all are cleared");
    assert_eq!(verdict(&again.on(gateway.get("/api"))), (401, "token_revoked".to_owned()));
    assert_eq!(again.proven_on(gateway.post("/auth/logout")).send().status, 200, "said again");
    let log = format!("{}{}", gateway.stdout(), gateway.stderr());
    for secret in [again.get("access"), again.get("refresh"), again.get("csrf"), first.get("refresh")] {
        assert!(!log.contains(secret), "a secret in the log");
    }
}

#[test]
fn the_header_does_not_count_where_only_cookies_do() {
    let (gateway, upstream) = start(r#"["cookie"]"#);
    let jar = Jar::sign_up(&gateway, "ada@example.com");
    gateway.get("/api").bearer(jar.get("access")).send().expect_problem(401, "token_missing");
    gateway.get("/auth/me").bearer(jar.get("access")).send().expect_problem(401, "token_missing");
    assert!(upstream.received().is_empty());
    let me: Value = jar.on(gateway.get("/auth/me")).send().expect(200).json();
    assert_eq!(me["data"][0]["email"], "ada@example.com");
}

#[test]
fn sign_ins_are_counted_by_the_client_behind_the_proxy() {
    let gateway = Setup::new()
        .server("trusted_proxies = [\"127.0.0.1/32\"]")
        .auth("[auth.lockout]\nattempts = 2")
        .start();
    let attempt = |email: &str, client: &str| {
        let wrong = json!({ "email": email, "password": "wr0ng-secret!" });
        let answer = gateway.post("/auth/signin").json(&wrong).header("X-Forwarded-For", client).send();
        if answer.status == 429 {
            assert!(answer.header("retry-after").is_some());
        }
        answer.verdict()
    };
    let (refused, locked) = ((401, "bad_credentials".to_owned()), (429, "locked_out".to_owned()));
    for address in ["198.51.100.1", "2001:db8:0:1::7"] {
        for _ in 0..2 {
            assert_eq!(attempt("ada@example.com", address), refused);
        }
        assert_eq!(attempt("ada@example.com", address), locked, "{address}");
    }
    assert_eq!(attempt("ada@example.com", "2001:db8:0:1:ffff::"), locked, "the same network");
    assert_eq!(attempt("ada@example.com", "2001:db8:0:2::7"), refused, "another");
    assert_eq!(attempt("eve@example.com", "198.51.100.1"), refused, "another account");
    let log = gateway.stderr();
    assert!(log.contains("a sign-in was refused") && log.contains("198.51.100.1"), "{log}");
    assert!(!log.contains("wr0ng-secret!") && !log.contains("ada@example.com"), "{log}");
}

//! What clients send that they should not.

use bytes::Bytes;
use http::header::{ALLOW, RETRY_AFTER};
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};

use super::super::support::{As, GOOD, World, settings};
use super::super::{Endpoints, settings::Settings};

async fn post(world: &World, path: &str, content_type: &str, body: impl Into<Bytes>) -> (u16, String) {
    let request = Request::builder().method("POST").uri(path).header("content-type", content_type);
    let answer = world.send(request.body(Full::new(body.into())).unwrap()).await;
    (answer.status, answer.body["error"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn sign_up_refuses_and_writes_nothing() {
    let world = World::new();
    let long_email = format!("{}@example.com", "a".repeat(250));
    let long_password = format!("{GOOD}{}", "x".repeat(1024));
    let rule = "The password must have at least 8 characters, with at least one digit and one symbol";
    let control = "must not contain control characters";
    let cases = [
        (json!({}), "Missing 'email' in body"),
        (json!({ "password": GOOD }), "Missing 'email' in body"),
        (json!({ "email": null, "password": GOOD }), "Missing 'email' in body"),
        (json!({ "email": "ada@example.com" }), "Missing 'password' in body"),
        (json!({ "email": "ada", "password": GOOD }), "Invalid email format"),
        (json!({ "email": "", "password": GOOD }), "Invalid email format"),
        (json!({ "email": 7, "password": GOOD }), "'email' must be a string"),
        (json!({ "email": ["a@b.co"], "password": GOOD }), "'email' must be a string"),
        (json!({ "email": "ada@example.com", "password": 12345678 }), "'password' must be a string"),
        (json!({ "email": "ada@example.com", "password": "short" }), rule),
        (json!({ "email": "ada@example.com", "password": "" }), rule),
        (json!({ "email": "a\u{0}@example.com", "password": GOOD }), "Invalid email format"),
        (json!({ "email": "ada@example.com", "password": format!("{GOOD}\u{0}") }), control),
        (json!({ "email": "ada@example.com", "password": GOOD, "firstname": "\u{0}" }), control),
        (
            json!({ "email": "ada@example.com", "password": GOOD, "firstname": 1 }),
            "'firstname' must be a string",
        ),
        (
            json!({ "email": "ada@example.com", "password": GOOD, "lastname": "x".repeat(1025) }),
            "'lastname' must have at most 1024 bytes",
        ),
        (json!({ "email": long_email, "password": GOOD }), "Invalid email format"),
        (
            json!({ "email": "ada@example.com", "password": long_password }),
            "'password' must have at most 1024 bytes",
        ),
    ];
    for (members, words) in cases {
        let answer = world.post("/auth/signup", "", members.clone()).await;
        let (status, error) = answer.refusal();
        assert!(status == 400 && error.ends_with(words), "{members}: {answer:?}");
        assert_eq!(answer.code(), "invalid_request");
    }
    assert!(world.store.user_by_email("ada@example.com").await.unwrap().is_none());
    world.sign_up("ada@example.com").await;
}

#[tokio::test]
async fn sign_in_names_what_is_missing() {
    let world = World::new();
    for (members, words) in [
        (json!({ "password": "x" }), "Missing 'email' in body"),
        (json!({ "email": "x" }), "Missing 'password' in body"),
        (Value::Null, "Missing 'email' in body"),
    ] {
        assert_eq!(world.post("/auth/signin", "", members).await.refusal(), (400, words));
    }
}

#[tokio::test]
async fn bodies_that_cannot_be_read_have_statuses_of_their_own() {
    let world = World::new();
    let json = "application/json";
    for path in ["/auth/signup", "/auth/signin"] {
        let large = format!("{{\"email\":\"{}\"}}", "a".repeat(1 << 20));
        assert_eq!(post(&world, path, json, large).await.0, 413);
        assert_eq!(post(&world, path, json, "{\"email\":").await.0, 400);
        assert_eq!(post(&world, path, json, "[1]").await.0, 400);
        assert_eq!(post(&world, path, json, "\u{feff}{}").await.0, 400);
        assert_eq!(post(&world, path, json, &b"{\"email\":\"\xff\"}"[..]).await.0, 400);
        assert_eq!(post(&world, path, json, r#"{"email":"a@b.co","\u0065mail":"c@d.co"}"#).await.0, 400);
        assert_eq!(post(&world, path, "text/plain", "email=a").await.0, 415);
        assert_eq!(post(&world, path, "multipart/form-data; boundary=x", "x").await.0, 415);
        assert_eq!(post(&world, path, "application/x-www-form-urlencoded", "email=a&email=b").await.0, 400);
    }
    let (_, words) = post(&world, "/auth/signin", json, "{\"password\": \"hunter2 ").await;
    assert!(!words.contains("hunter2"), "{words}");
}

/// A body without a length, as a chunked request has it.
#[tokio::test]
async fn a_body_of_unknown_length_is_bounded_too() {
    let world = World::new();
    let chunks =
        (0..100).map(|_| Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from(vec![b'a'; 1000]))));
    let body = http_body_util::StreamBody::new(futures_util::stream::iter(chunks));
    let request = Request::builder().method("POST").uri("/auth/signin").body(body).unwrap();
    let peer = crate::route::Peer::default();
    assert_eq!(world.endpoints.serve(peer, "r", request).await.status(), 413);
}

#[tokio::test]
async fn unknown_paths_and_methods() {
    let world = World::new();
    for path in ["/auth", "/auth/", "/auth/nothing", "/auth/tokens/a/b", "/api/v1/auth/signin/x"] {
        let answer = world.get(path, "").await;
        assert_eq!((answer.status, answer.code()), (404, "not_found"), "{path}");
    }
    for (line, allow) in [
        ("GET /auth/signin", "POST"),
        ("PUT /auth/logout", "POST, DELETE"),
        ("POST /auth/tokens", "GET, HEAD, DELETE"),
        ("GET /auth/tokens/x", "PUT"),
        ("OPTIONS /auth/me", "GET, HEAD"),
    ] {
        let answer = world.call(As::Json, line, "", Value::Null).await;
        assert_eq!((answer.status, answer.code()), (405, "method_not_allowed"), "{line}");
        assert_eq!(answer.headers[ALLOW], allow, "{line}");
    }
}

#[tokio::test]
async fn the_oauth_endpoints_refuse_in_words_of_oauth() {
    let world = World::new();
    let answer = world.get("/oauth2/revoke", "").await;
    assert_eq!((answer.status, &answer.body["error"]), (405, &json!("invalid_request")));
    assert_eq!(answer.headers[ALLOW], "POST");
    let large = json!({ "token": "x".repeat(1 << 20) });
    let answer = world.call(As::Form, "POST /oauth2/revoke", "", large).await;
    assert_eq!((answer.status, &answer.body["error"]), (413, &json!("invalid_request")));
}

#[tokio::test]
async fn a_store_that_is_away_is_a_503_and_keeps_nobody_from_logging_out() {
    let world = World::new();
    let (access, refresh) = world.sign_up("ada@example.com").await;
    let file = rusqlite::Connection::open(world.dir.path().join("p.db")).unwrap();
    file.execute_batch("DROP TABLE users; DROP TABLE sessions; DROP TABLE tokens").unwrap();
    let sign_in = json!({ "email": "ada@example.com", "password": GOOD });
    for (line, token, members) in [
        ("POST /auth/signin", "", sign_in.clone()),
        ("POST /auth/signup", "", sign_in),
        ("POST /auth/refresh", &refresh, Value::Null),
        ("GET /auth/me", &access, Value::Null),
        ("GET /auth/tokens", &access, Value::Null),
        ("POST /auth/logout-all", &access, Value::Null),
    ] {
        let answer = world.call(As::Json, line, token, members).await;
        assert_eq!((answer.status, answer.code()), (503, "store_unavailable"), "{line}");
        assert!(answer.headers.contains_key(RETRY_AFTER));
    }
    assert_eq!(world.post("/auth/logout", &access, Value::Null).await.status, 200);
    assert!(!world.opens(&access).await);
}

#[tokio::test]
async fn what_needs_no_body_takes_an_empty_one_of_any_kind() {
    let world = World::new();
    let (access, refresh) = world.sign_up("ada@example.com").await;
    for (path, token) in [("/auth/refresh", &refresh), ("/auth/logout", &access)] {
        for content_type in ["application/json", "text/plain", "application/x-www-form-urlencoded"] {
            let request =
                Request::builder().method(Method::POST).uri(path).header("content-type", content_type);
            let request = request.header("authorization", format!("bearer {token}"));
            let answer = world.send(request.body(Full::default()).unwrap()).await;
            assert_eq!(answer.status, 200, "{path} {content_type}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn tokens_that_cannot_be_processed_are_422_and_missing_ones_401() {
    let world = World::new();
    let (access, refresh) = world.sign_up("ada@example.com").await;
    let external = super::super::support::ToyTokens::sign("legacy", &json!({ "iss": "legacy", "sub": "x" }));
    for line in ["GET /auth/me", "GET /auth/tokens", "POST /auth/logout-all", "GET /auth/sessions"] {
        let status = |answer: super::super::support::Answered| (answer.status, answer.code().to_owned());
        let bad = (422, "token_invalid".to_owned());
        for token in ["x", &format!("{access}@"), &refresh, &external, &"x".repeat(9000)] {
            assert_eq!(status(world.call(As::Json, line, token, Value::Null).await), bad, "{line} {token}");
        }
        let missing = (401, "token_missing".to_owned());
        assert_eq!(status(world.call(As::Json, line, "", Value::Null).await), missing);
    }
    let basic =
        Request::builder().uri("/auth/me").header("authorization", "Basic eDp5").body(Full::default());
    assert_eq!(world.send(basic.unwrap()).await.code(), "token_missing");
    let twice = Request::builder().uri("/auth/me").header("authorization", format!("Bearer {access}"));
    let twice = twice.header("authorization", "Bearer x").body(Full::default()).unwrap();
    assert_eq!(world.send(twice).await.code(), "invalid_request");
    world.advance(901);
    assert_eq!(world.get("/auth/me", &access).await.code(), "token_expired");
}

#[tokio::test]
async fn put_wants_a_boolean() {
    let world = World::new();
    let (access, _) = world.sign_up("ada@example.com").await;
    let line = format!("PUT /auth/tokens/{}", super::super::support::claim(&access, "jti"));
    for members in
        [json!({}), json!({ "revoke": "false" }), json!({ "revoke": 0 }), json!({ "revoke": null })]
    {
        assert_eq!(world.call(As::Json, &line, &access, members).await.status, 400);
    }
    assert_eq!(world.call(As::Form, &line, &access, json!({ "revoke": "no" })).await.status, 400);
    assert_eq!(world.call(As::Form, &line, &access, json!({ "revoke": "false" })).await.status, 200);
    assert!(world.opens(&access).await);
    let unknown = world.call(As::Json, "PUT /auth/tokens/nothing", &access, json!({ "revoke": true })).await;
    assert_eq!((unknown.status, unknown.code()), (404, "not_found"));
}

#[tokio::test]
async fn lists_refuse_limits_and_cursors_that_are_none() {
    let world = World::new();
    let (access, _) = world.sign_up("ada@example.com").await;
    for query in ["limit=0", "limit=x", "limit=1001", "limit=-1", "after=x", "limit=1&limit=2", "after=%zz"] {
        assert_eq!(world.get(&format!("/auth/tokens?{query}"), &access).await.status, 400, "{query}");
    }
    let one = world.get("/auth/tokens?limit=1", &access).await;
    let next = one.body["next"].as_str().unwrap();
    let two = world.get(&format!("/auth/tokens?limit=1&after={next}"), &access).await;
    assert_eq!((one.first("token_type"), two.first("token_type")), ("refresh".into(), "access".into()));
    assert_eq!(two.body["next"], Value::Null, "it is the last one");
    let none = world.get("/auth/tokens?after=0", &access).await;
    assert_eq!(none.body, json!({ "status": 200, "data": [], "next": null }));
}

#[tokio::test]
async fn only_a_page_that_another_follows_has_a_cursor() {
    let world = World::new();
    world.sign_up("ada@example.com").await;
    let (access, _) = world.sign_in("ada@example.com").await;
    for (path, rows) in [("/auth/tokens", 4), ("/auth/sessions", 2)] {
        for limit in 1..=rows + 1 {
            let page = world.get(&format!("{path}?limit={limit}"), &access).await;
            let length = page.body["data"].as_array().unwrap().len();
            assert_eq!(length, limit.min(rows), "{path} {limit}");
            assert_eq!(page.body["next"].is_string(), limit < rows, "{path} {limit}");
        }
    }
}

#[test]
fn only_our_paths_on_our_hosts_are_ours() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let hosts = vec!["api.example.com".into(), "[::1]".into()];
        let world = World::with(Some(Settings { hosts, ..settings() }));
        let matches = |path, host| Endpoints::matches(&world.endpoints, path, host);
        assert!(matches("/auth/signin", "api.example.com"));
        assert!(matches("/auth/signin", "API.example.com:8443"));
        assert!(matches("/auth/nothing", "[::1]:80"));
        assert!(matches("/.well-known/jwks.json", "[::1]"));
        assert!(!matches("/auth/signin", "other.example.com"));
        assert!(!matches("/authx", "api.example.com"));
        assert!(!matches("/.well-known/other", "api.example.com"));

        let bare = World::with(None);
        assert!(bare.endpoints.matches("/oauth2/revoke", "any"));
        assert!(!bare.endpoints.matches("/auth/signin", "any"));
    });
}

#[tokio::test]
async fn a_log_that_is_away_is_a_503_and_nothing_is_marked() {
    let world = World::new();
    let (access, _) = world.sign_up("ada@example.com").await;
    world.log.failing.store(true, std::sync::atomic::Ordering::SeqCst);
    let jti = super::super::support::claim(&access, "jti");
    for line in ["POST /auth/logout", "POST /auth/logout-all", &format!("PUT /auth/tokens/{jti}")] {
        let answer = world.call(As::Json, line, &access, json!({ "revoke": true })).await;
        assert_eq!((answer.status, answer.code()), (503, "log_unavailable"), "{line}");
        assert!(answer.headers.contains_key(RETRY_AFTER));
    }
    assert_eq!(world.store.token(&jti).await.unwrap().unwrap().revoked_at, None);
    assert!(world.opens(&access).await);
}

#[tokio::test]
async fn a_head_request_has_no_body() {
    let world = World::new();
    let (access, _) = world.sign_up("ada@example.com").await;
    let answer = world.call(As::Json, "HEAD /auth/me", &access, Value::Null).await;
    assert_eq!((answer.status, answer.body), (200, Value::Null));
}

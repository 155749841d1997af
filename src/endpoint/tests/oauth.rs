//! The standard endpoints at the root.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http::header::{CACHE_CONTROL, ETAG, WWW_AUTHENTICATE};
use http_body_util::Full;
use serde_json::{Value, json};

use super::super::support::{ADMIN, Answered, As, ToyTokens, World, claim};
use crate::revocation::Kind;

async fn form(world: &World, path: &str, members: Value) -> Answered {
    world.call(As::Form, &format!("POST {path}"), "", members).await
}

async fn with_basic(world: &World, path: &str, credentials: &str, body: String) -> Answered {
    let request = Request::builder()
        .method("POST")
        .uri(path)
        .header("content-type", "application/x-www-form-urlencoded")
        .header("authorization", format!("Basic {}", STANDARD.encode(credentials)));
    world.send(request.body(Full::new(Bytes::from(body))).unwrap()).await
}

fn external(claims: Value) -> String {
    let mut all = json!({ "iss": "legacy", "iat": 1_800_000_000, "exp": 1_800_000_900 });
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    ToyTokens::sign("legacy", &all)
}

#[tokio::test]
async fn whoever_holds_a_token_revokes_it() {
    let world = World::new();
    let (access, refresh) = world.sign_up("ada@example.com").await;
    let (other, other_refresh) = world.sign_in("ada@example.com").await;
    let answer = form(&world, "/oauth2/revoke", json!({ "token": access, "token_type_hint": "x" })).await;
    assert_eq!((answer.status, &answer.body), (200, &Value::Null));
    assert_eq!(answer.headers[CACHE_CONTROL], "no-store");
    assert!(!world.opens(&access).await);
    assert_eq!(world.post("/auth/refresh", &refresh, Value::Null).await.status, 200, "the token alone");

    assert_eq!(form(&world, "/oauth2/revoke", json!({ "token": other_refresh })).await.status, 200);
    assert!(!world.opens(&other).await, "a refresh token takes its session with it");
    let entries = world.log.entries.lock().unwrap().clone();
    let kinds: Vec<_> = entries.iter().map(|entry| entry.selector.kind.clone()).collect();
    assert_eq!(kinds, [Kind::Token, Kind::Session]);
}

#[tokio::test]
async fn tokens_of_external_issuers_are_revoked_under_their_issuer() {
    let world = World::with(None);
    let access = external(json!({ "jti": "t1", "sub": "7" }));
    let refresh = external(json!({ "jti": "t2", "sub": "7", "type": "refresh" }));
    let bound = external(json!({ "jti": "t3", "sub": "7", "sid": "s", "type": "refresh" }));
    for token in [&access, &access, &refresh, &bound] {
        assert_eq!(form(&world, "/oauth2/revoke", json!({ "token": token })).await.status, 200);
    }
    let entries = world.log.entries.lock().unwrap().clone();
    let selectors: Vec<_> = entries
        .iter()
        .map(|entry| (entry.selector.kind.to_string(), &*entry.selector.issuer, &*entry.selector.value))
        .collect();
    let expected = [("token", "t1"), ("token", "t2"), ("session", "s")];
    assert_eq!(selectors, expected.map(|(kind, value)| (kind.to_owned(), "legacy", value)));
    assert_eq!((&*entries[0].actor, entries[0].expires_at.secs()), ("subject:7", 1_800_000_900));
}

#[tokio::test]
async fn forged_expired_and_unknown_tokens_are_200_without_effect() {
    let world = World::new();
    let (access, _) = world.sign_up("ada@example.com").await;
    let expired = external(json!({ "jti": "t", "exp": 1_700_000_000 }));
    for token in [&format!("{access}x"), "x", "", &expired, &"x".repeat(9000)] {
        assert_eq!(form(&world, "/oauth2/revoke", json!({ "token": token })).await.status, 200, "{token}");
    }
    assert!(world.log.entries.lock().unwrap().is_empty());
    let missing = form(&world, "/oauth2/revoke", json!({})).await;
    assert_eq!((missing.status, &missing.body["error"]), (400, &json!("invalid_request")));
    let json = world.post("/oauth2/revoke", "", json!({ "token": access })).await;
    assert_eq!((json.status, &json.body["error"]), (400, &json!("invalid_request")));
}

#[tokio::test]
async fn a_client_that_says_who_it_is_must_prove_it() {
    let world = World::new();
    let (access, _) = world.sign_up("ada@example.com").await;
    let body = format!("token={access}");
    for bad in ["billing:wrong", "nobody:x", "billing", ":", "billing:s3cret%3a"] {
        let answer = with_basic(&world, "/oauth2/revoke", bad, body.clone()).await;
        assert_eq!((answer.status, &answer.body["error"]), (401, &json!("invalid_client")), "{bad}");
        assert!(answer.headers[WWW_AUTHENTICATE].to_str().unwrap().starts_with("Basic "));
    }
    let wrong = json!({ "token": access, "client_id": "billing", "client_secret": "wrong" });
    assert_eq!(form(&world, "/oauth2/revoke", wrong).await.body["error"], "invalid_client");
    let without = json!({ "token": access, "client_id": "billing" });
    assert_eq!(form(&world, "/oauth2/revoke", without).await.body["error"], "invalid_client");
    let forbidden = json!({ "token": access, "client_id": "nothing", "client_secret": "s3cret:%" });
    assert_eq!(form(&world, "/oauth2/revoke", forbidden).await.body["error"], "unauthorized_client");
    assert!(world.opens(&access).await);

    let good = with_basic(&world, "/oauth2/revoke", "billing:s3cret%3A%25", body).await;
    assert_eq!(good.status, 200);
    assert!(!world.opens(&access).await);
    assert_eq!(&*world.log.entries.lock().unwrap()[0].actor, "client:billing");
    assert_eq!(
        with_basic(&world, "/oauth2/revoke", "billing:s3cret:%", "token=x".to_owned()).await.status,
        200
    );
    // What a holder revoked this way is not what its owner revoked in the list.
    let (again, _) = world.sign_in("ada@example.com").await;
    let line = format!("PUT /auth/tokens/{}", claim(&access, "jti"));
    assert_eq!(world.call(As::Json, &line, &again, json!({ "revoke": false })).await.status, 409);
}

#[tokio::test]
async fn introspection_tells_those_who_may_know() {
    let world = World::new();
    let (access, refresh) = world.sign_up("ada@example.com").await;
    let ask = |token: &str| json!({ "token": token, "client_id": "billing", "client_secret": "s3cret:%" });
    let active = form(&world, "/oauth2/introspect", ask(&access)).await;
    assert_eq!(active.body["active"], true);
    assert_eq!(active.body["sub"], claim(&access, "sub"));
    assert_eq!(active.body["token_type"], "Bearer");
    let by_admin = world.call(As::Form, "POST /oauth2/introspect", ADMIN, json!({ "token": access })).await;
    assert_eq!(by_admin.body, active.body);

    assert_eq!(form(&world, "/oauth2/introspect", json!({ "token": access })).await.status, 401);
    let forbidden = json!({ "token": access, "client_id": "nothing", "client_secret": "s3cret:%" });
    assert_eq!(form(&world, "/oauth2/introspect", forbidden).await.status, 403);
    let wrong = world.call(As::Form, "POST /oauth2/introspect", "wrong", json!({ "token": access })).await;
    assert_eq!(wrong.status, 401);

    world.post("/auth/refresh", &refresh, Value::Null).await;
    let external = external(json!({ "jti": "t", "sub": "7" }));
    assert_eq!(form(&world, "/oauth2/introspect", ask(&external)).await.body["iss"], "legacy");
    world.post("/auth/logout", &access, Value::Null).await;
    for token in [&*access, &refresh, "garbage", "", &"x".repeat(9000)] {
        let answer = form(&world, "/oauth2/introspect", ask(token)).await;
        assert_eq!((answer.status, &answer.body), (200, &json!({ "active": false })), "{token}");
    }
}

#[tokio::test]
async fn a_retired_refresh_token_is_not_active() {
    let world = World::new();
    let (_, refresh) = world.sign_up("ada@example.com").await;
    let ask = || world.call(As::Form, "POST /oauth2/introspect", ADMIN, json!({ "token": refresh }));
    assert_eq!(ask().await.body["active"], true);
    world.post("/auth/refresh", &refresh, Value::Null).await;
    assert_eq!(ask().await.body, json!({ "active": false }));
}

#[tokio::test]
async fn the_token_endpoint_refreshes() {
    let world = World::new();
    let (access, refresh) = world.sign_up("ada@example.com").await;
    let grant = |token: &str| json!({ "grant_type": "refresh_token", "refresh_token": token });
    let answer = form(&world, "/oauth2/token", grant(&refresh)).await;
    assert_eq!(answer.status, 200);
    assert_eq!((&answer.body["token_type"], &answer.body["expires_in"]), (&json!("Bearer"), &json!(900)));
    assert!(world.opens(answer.body["access_token"].as_str().unwrap()).await);
    assert!(answer.body["refresh_token"].is_string());

    for (members, error) in [
        (grant(&access), "invalid_grant"),
        (grant("x"), "invalid_grant"),
        (json!({ "grant_type": "refresh_token" }), "invalid_request"),
        (json!({}), "invalid_request"),
        (json!({ "grant_type": "password" }), "unsupported_grant_type"),
    ] {
        let answer = form(&world, "/oauth2/token", members).await;
        assert_eq!((answer.status, &answer.body["error"]), (400, &json!(error)));
    }
    let mut scoped = grant(answer.body["refresh_token"].as_str().unwrap());
    scoped["scope"] = "admin".into();
    assert_eq!(form(&world, "/oauth2/token", scoped).await.body["error"], "invalid_scope");
    world.advance(11);
    assert_eq!(form(&world, "/oauth2/token", grant(&refresh)).await.body["error"], "invalid_grant");
    assert!(!world.opens(&access).await, "reuse is reuse here too");
}

#[tokio::test]
async fn the_documents_at_the_root_can_be_kept() {
    let world = World::new();
    let keys = world.get("/.well-known/jwks.json", "").await;
    assert_eq!((keys.status, &keys.body), (200, &json!({ "keys": [] })));
    assert_eq!(keys.headers[CACHE_CONTROL], "public, max-age=300");
    let tag = keys.headers[ETAG].to_str().unwrap();
    for known in [tag.to_owned(), format!("\"x\", W/{tag}"), "*".to_owned()] {
        let request = Request::builder().uri("/.well-known/jwks.json").header("if-none-match", known);
        assert_eq!(world.send(request.body(Full::default()).unwrap()).await.status, 304);
    }
    let request =
        Request::builder().uri("/.well-known/oauth-authorization-server").header("host", "a.example:8443");
    let metadata = world.send(request.body(Full::default()).unwrap()).await;
    assert_eq!(metadata.body["issuer"], "portcullis");
    assert_eq!(metadata.body["token_endpoint"], "https://a.example:8443/oauth2/token");
    assert_eq!(metadata.body["grant_types_supported"], json!(["refresh_token", "client_credentials"]));
}

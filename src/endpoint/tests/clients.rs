//! Clients: how they prove who they are, and the tokens that they get for themselves.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};

use super::super::revoking::Cause;
use super::super::settings::Settings;
use super::super::support::{ADMIN, Answered, As, NOW, SIGNER, World, claim, settings};
use crate::clock::UnixTime;
use crate::issuer::settings::{Own, SELF};
use crate::revocation::{Kind, Revocation, Selector};
use crate::token::{Algorithm, SigningKey, sign};

const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const TOKEN: &str = "/oauth2/token";

async fn form(world: &World, path: &str, members: Value) -> Answered {
    world.call(As::Form, &format!("POST {path}"), "", members).await
}

/// A request for a token by the client `worker`, with more members.
fn asking(more: Value) -> Value {
    let mut all =
        json!({ "grant_type": "client_credentials", "client_id": "worker", "client_secret": "s3cret:%" });
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    all
}

fn check_error(answer: &Answered, status: u16, error: &str) {
    assert_eq!((answer.status, &answer.body["error"]), (status, &json!(error)), "{answer:?}");
}

#[tokio::test]
async fn a_client_gets_a_token_for_itself_and_no_more() {
    let world = World::new();
    let answer = form(&world, TOKEN, asking(json!({}))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.headers["cache-control"], "no-store");
    let expected = json!({
        "access_token": answer.body["access_token"], "token_type": "Bearer", "expires_in": 900,
        "scope": "read write",
    });
    assert_eq!(answer.body, expected, "no refresh token");
    let token = answer.body["access_token"].as_str().unwrap();
    for (name, value) in [
        ("sub", "worker"),
        ("client_id", "worker"),
        ("scope", "read write"),
        ("type", "access"),
        ("sid", "null"),
        ("tenant", "acme"),
    ] {
        assert_eq!(claim(token, name), value, "{name}");
    }
    let row = world.store.token(&claim(token, "jti")).await.unwrap().unwrap();
    assert_eq!((&*row.token.subject, &*row.token.session), ("worker", ""));
    let seen = world.call(As::Form, "POST /oauth2/introspect", ADMIN, json!({ "token": token })).await;
    assert_eq!((&seen.body["active"], &seen.body["client_id"]), (&json!(true), &json!("worker")));
    // It is nobody's account.
    assert_eq!(world.get("/auth/me", token).await.status, 422);
    assert_eq!(world.get("/auth/tokens", token).await.status, 422);
    assert_eq!(world.post("/auth/logout-all", token, Value::Null).await.status, 422);
    let prune = world.call(As::Json, "DELETE /auth/tokens", token, Value::Null).await;
    assert_eq!((prune.status, prune.code()), (403, "insufficient_scope"));
}

/// Its tokens have no session, which is by what those of the blurred second are revoked (CONTRACT §1).
#[tokio::test]
async fn a_client_that_is_revoked_as_a_subject_loses_the_tokens_of_that_second_and_gets_new_ones() {
    let world = World::new();
    let get = async || {
        let answer = form(&world, TOKEN, asking(json!({}))).await;
        answer.body["access_token"].as_str().unwrap().to_owned()
    };
    let active = async |token: &str| {
        let seen = world.call(As::Form, "POST /oauth2/introspect", ADMIN, json!({ "token": token })).await;
        seen.body["active"].as_bool().unwrap()
    };
    let long_ago = get().await;
    world.advance(1);
    let before = get().await;
    let cause = Cause { actor: "admin", reason: "" };
    world.endpoints.revoke_subject_from("", "worker", None, cause).await.unwrap();
    let after = get().await;
    assert_eq!(claim(&before, "iat"), claim(&after, "iat"), "the clock stands");
    assert!(!active(&long_ago).await && !active(&before).await && active(&after).await);
    assert_eq!(world.log.entries.lock().unwrap().len(), 2, "the cutoff takes the older one");
}

#[tokio::test]
async fn a_client_gets_the_scopes_it_asks_for_of_those_it_may_have() {
    let world = World::new();
    let narrow = form(&world, TOKEN, asking(json!({ "scope": "write" }))).await;
    assert_eq!((narrow.status, &narrow.body["scope"]), (200, &json!("write")));
    for scope in ["admin", "read admin", "read  write", " read", "Read", "read,write", "read\u{a0}"] {
        check_error(&form(&world, TOKEN, asking(json!({ "scope": scope }))).await, 400, "invalid_scope");
    }
}

#[tokio::test]
async fn only_a_client_that_may_and_proves_it_gets_a_token() {
    let world = World::new();
    for (client, secret, status, error) in [
        ("billing", "s3cret:%", 400, "unauthorized_client"),
        ("worker", "wrong", 401, "invalid_client"),
        ("nobody", "s3cret:%", 401, "invalid_client"),
        ("signer", "", 401, "invalid_client"),
        ("signer", "s3cret:%", 401, "invalid_client"),
    ] {
        let members = asking(json!({ "client_id": client, "client_secret": secret }));
        check_error(&form(&world, TOKEN, members).await, status, error);
    }
    for client in ["worker", "nobody"] {
        let members = json!({ "grant_type": "client_credentials", "client_id": client });
        check_error(&form(&world, TOKEN, members).await, 401, "invalid_client");
    }
    let anonymous = form(&world, TOKEN, json!({ "grant_type": "client_credentials" })).await;
    check_error(&anonymous, 401, "invalid_client");
}

#[tokio::test]
async fn all_tokens_of_a_client_die_with_it() {
    let world = World::new();
    let token = form(&world, TOKEN, asking(json!({}))).await.body["access_token"].clone();
    let ask = || world.call(As::Form, "POST /oauth2/introspect", ADMIN, json!({ "token": token }));
    assert_eq!(ask().await.body["active"], true);
    world.log.entries.lock().unwrap().push(Revocation {
        selector: Selector::new(Kind::Client, SELF, "worker"),
        lift: false,
        issued_before: Some(UnixTime::from_secs(NOW.secs() + 1)),
        expires_at: UnixTime::from_secs(NOW.secs() + 9999),
        reason: "".into(),
        actor: "admin".into(),
        address: "".into(),
        at: NOW,
    });
    assert_eq!(ask().await.body, json!({ "active": false }));
}

fn key() -> SigningKey {
    SigningKey::from_pkcs8_pem(Algorithm::ES256, &SIGNER.serialize_pem()).unwrap()
}

/// An assertion of the client `signer` with these changes; null takes away.
fn assertion(typ: &str, change: Value) -> String {
    let now = NOW.secs();
    let mut claims = json!({
        "iss": "signer", "sub": "signer", "aud": "portcullis", "jti": "1", "iat": now, "exp": now + 300,
    });
    for (name, value) in change.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    sign(&key(), typ, claims.as_object().unwrap().clone()).unwrap()
}

fn by_assertion(text: &str) -> Value {
    json!({ "grant_type": "client_credentials", "client_assertion_type": TYPE, "client_assertion": text })
}

#[tokio::test]
async fn a_client_proves_itself_by_an_assertion_once() {
    let world = World::new();
    let members = by_assertion(&assertion("JWT", json!({})));
    let answer = form(&world, TOKEN, members.clone()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(claim(answer.body["access_token"].as_str().unwrap(), "client_id"), "signer");
    check_error(&form(&world, TOKEN, members).await, 401, "invalid_client");

    let fresh = |id: u64, more: Value| {
        let mut change = json!({ "jti": id.to_string() });
        change.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assertion("client-authentication+jwt", change)
    };
    // The endpoint itself, by the address that the client connected to.
    for (id, audience) in [
        (2, json!("https://192.0.2.1:443/oauth2/token")),
        (3, json!(["https://else.example", "https://192.0.2.1:443"])),
        (4, json!("portcullis")),
    ] {
        let text = fresh(id, json!({ "aud": audience, "iat": null }));
        let body = serde_urlencoded(&by_assertion(&text));
        let request = Request::builder()
            .method("POST")
            .uri(TOKEN)
            .header("host", "192.0.2.1:443")
            .header("content-type", "application/x-www-form-urlencoded");
        let answer = world.send(request.body(Full::new(Bytes::from(body))).unwrap()).await;
        assert_eq!(answer.status, 200, "{audience}: {answer:?}");
    }
    let mut named = by_assertion(&fresh(5, json!({})));
    named["client_id"] = "signer".into();
    assert_eq!(form(&world, TOKEN, named.clone()).await.status, 200);
    named["client_assertion"] = fresh(6, json!({})).into();
    named["client_id"] = "worker".into();
    check_error(&form(&world, TOKEN, named).await, 401, "invalid_client");
}

fn serde_urlencoded(members: &Value) -> String {
    let pair =
        |(name, value): (&String, &Value)| format!("{name}={}", value.as_str().unwrap().replace(':', "%3A"));
    members.as_object().unwrap().iter().map(pair).collect::<Vec<_>>().join("&")
}

#[tokio::test]
async fn an_assertion_that_is_not_for_us_or_not_theirs_proves_nothing() {
    let world = World::new();
    let now = NOW.secs();
    for change in [
        json!({ "iss": "worker" }),
        json!({ "iss": "nobody" }),
        json!({ "iss": null }),
        json!({ "sub": "worker" }),
        json!({ "sub": null }),
        json!({ "aud": null }),
        json!({ "aud": "https://evil.example/oauth2/token" }),
        json!({ "aud": ["else"] }),
        json!({ "aud": 1 }),
        json!({ "exp": null }),
        json!({ "exp": now - 61 }),
        json!({ "exp": now + 86_400 }),
        json!({ "exp": "soon" }),
        json!({ "nbf": now + 120 }),
        json!({ "iat": now + 120 }),
        json!({ "iat": now - 1 }),
        json!({ "jti": null }),
        json!({ "jti": "" }),
        json!({ "jti": 1 }),
        json!({ "jti": "a\u{0}" }),
    ] {
        let answer = form(&world, TOKEN, by_assertion(&assertion("JWT", change.clone()))).await;
        assert_eq!((answer.status, &answer.body["error"]), (401, &json!("invalid_client")), "{change}");
    }
    for typ in ["at+jwt", "secevent+jwt", "logout+jwt", "dpop+jwt", ""] {
        let answer = form(&world, TOKEN, by_assertion(&assertion(typ, json!({})))).await;
        check_error(&answer, 401, "invalid_client");
    }
    let other = SigningKey::generate(Algorithm::ES256).unwrap();
    let claims =
        json!({ "iss": "signer", "sub": "signer", "aud": "portcullis", "jti": "9", "exp": now + 60 });
    let forged = sign(&other, "JWT", claims.as_object().unwrap().clone()).unwrap();
    for text in [forged.as_str(), "x", "", "a.b.c", &"x".repeat(30_000)] {
        check_error(&form(&world, TOKEN, by_assertion(text)).await, 401, "invalid_client");
    }
    // None of the failures used it up.
    assert_eq!(form(&world, TOKEN, by_assertion(&assertion("JWT", json!({})))).await.status, 200);
}

#[tokio::test]
async fn a_host_that_the_request_names_is_no_audience() {
    let world = World::new();
    let text = assertion("JWT", json!({ "aud": "https://evil.example/oauth2/token" }));
    let request = Request::builder()
        .method("POST")
        .uri(TOKEN)
        .header("host", "evil.example")
        .header("content-type", "application/x-www-form-urlencoded");
    let body = serde_urlencoded(&by_assertion(&text));
    let answer = world.send(request.body(Full::new(Bytes::from(body))).unwrap()).await;
    check_error(&answer, 401, "invalid_client");
    // Unless the operator says that it is ours.
    let world = World::with(Some(Settings { hosts: vec!["api.example".into()], ..settings() }));
    let text = assertion("JWT", json!({ "aud": "https://api.example/oauth2/token" }));
    let request = Request::builder()
        .method("POST")
        .uri(TOKEN)
        .header("host", "api.example")
        .header("content-type", "application/x-www-form-urlencoded");
    let body = serde_urlencoded(&by_assertion(&text));
    assert_eq!(world.send(request.body(Full::new(Bytes::from(body))).unwrap()).await.status, 200);
}

#[tokio::test]
async fn a_client_authenticates_in_one_way_at_a_time() {
    let world = World::new();
    let text = assertion("JWT", json!({}));
    let mut both = by_assertion(&text);
    both["client_id"] = "worker".into();
    both["client_secret"] = "s3cret:%".into();
    check_error(&form(&world, TOKEN, both).await, 400, "invalid_request");
    let request = Request::builder()
        .method("POST")
        .uri(TOKEN)
        .header("content-type", "application/x-www-form-urlencoded")
        .header("authorization", format!("Basic {}", STANDARD.encode("worker:s3cret:%")));
    let body = serde_urlencoded(&by_assertion(&text));
    let answer = world.send(request.body(Full::new(Bytes::from(body))).unwrap()).await;
    check_error(&answer, 400, "invalid_request");
    for (name, value) in [("client_assertion_type", json!("urn:x")), ("client_assertion_type", Value::Null)] {
        let mut members = by_assertion(&text);
        members[name] = value;
        if members[name].is_null() {
            members.as_object_mut().unwrap().remove(name);
        }
        check_error(&form(&world, TOKEN, members).await, 401, "invalid_client");
    }
    assert_eq!(form(&world, TOKEN, by_assertion(&text)).await.status, 200, "it is unused");
}

#[tokio::test]
async fn the_document_about_us_says_what_works() {
    let issuer = "https://id.example/tenant";
    let own = Own { issuer: issuer.into(), algorithm: Algorithm::ES256, ..settings().own };
    let world = World::with(Some(Settings { own, ..settings() }));
    for path in ["/.well-known/oauth-authorization-server", "/.well-known/oauth-authorization-server/tenant"]
    {
        let body = world.get(path, "").await.body;
        assert_eq!(
            (&body["issuer"], &body["token_endpoint"]),
            (&json!(issuer), &json!("https://id.example/oauth2/token"))
        );
        let methods = body["token_endpoint_auth_methods_supported"].as_array().unwrap();
        assert!(methods.contains(&json!("private_key_jwt")), "{body}");
        let algorithms = body["token_endpoint_auth_signing_alg_values_supported"].as_array().unwrap();
        assert!(algorithms.contains(&json!("ES256")) && !algorithms.contains(&json!("HS256")), "{body}");
        assert_eq!(body["introspection_signing_alg_values_supported"], json!(["ES256"]));
    }
    let plain = World::new().get("/.well-known/oauth-authorization-server/tenant", "").await;
    assert_eq!(plain.status, 404);
}

#[tokio::test]
async fn a_signed_introspection_is_for_who_asks() {
    let world = World::new();
    let (access, _) = world.sign_up("ada@example.com").await;
    let request = Request::builder()
        .method("POST")
        .uri("/oauth2/introspect")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("authorization", format!("Basic {}", STANDARD.encode("billing:s3cret:%")))
        .header("accept", "application/token-introspection+jwt");
    let peer = crate::route::Peer::default();
    let request = request.body(Full::new(Bytes::from(format!("token={access}")))).unwrap();
    let response = world.endpoints.serve(peer, "r-1", request).await;
    assert_eq!(response.headers()["content-type"], "application/token-introspection+jwt");
    let text = response.into_body().collect().await.unwrap().to_bytes();
    let payload = std::str::from_utf8(&text).unwrap().split('.').next().unwrap().to_owned();
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!((&claims["aud"], &claims["token_introspection"]["active"]), (&json!("billing"), &json!(true)));
    assert_eq!(claims["token_introspection"]["username"], "ada@example.com");
}

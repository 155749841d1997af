//! The receivers: security event tokens and logout tokens.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};

use super::super::support::{Answered, As, NOW, SIGNER, STATER, World};
use crate::clock::UnixTime;
use crate::token::{Algorithm, SigningKey, sign};

const SESSION_REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";
const CREDENTIAL_CHANGE: &str = "https://schemas.openid.net/secevent/caep/event-type/credential-change";
const CLAIMS_CHANGE: &str = "https://schemas.openid.net/secevent/caep/event-type/token-claims-change";
const ACCOUNT_DISABLED: &str = "https://schemas.openid.net/secevent/risc/event-type/account-disabled";
const LOGOUT: &str = "http://schemas.openid.net/event/backchannel-logout";

fn key() -> SigningKey {
    SigningKey::from_pkcs8_pem(Algorithm::ES256, &SIGNER.serialize_pem()).unwrap()
}

/// `claims` with these changes, signed; null takes away.
fn signed(typ: Option<&str>, mut claims: Value, change: &Value) -> String {
    for (name, value) in change.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    let claims = claims.as_object().unwrap().clone();
    match typ {
        Some(typ) => sign(&key(), typ, claims).unwrap(),
        None => untyped(claims),
    }
}

/// Signed without a `typ`.
fn untyped(claims: crate::token::Claims) -> String {
    let encode = |text: String| crate::token::encode_base64url(text);
    let input =
        format!("{}.{}", encode(r#"{"alg":"ES256"}"#.to_owned()), encode(Value::Object(claims).to_string()));
    let pem = rcgen::SigningKey::sign(&*SIGNER, input.as_bytes()).unwrap();
    // ASN.1 to r‖s (RFC 7518 §3.4).
    let integer = |at: usize| {
        let length = usize::from(pem[at + 1]);
        let bytes = &pem[at + 2..at + 2 + length];
        let bare: Vec<u8> = bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
        ([vec![0; 32 - bare.len()], bare].concat(), at + 2 + length)
    };
    let (r, next) = integer(2);
    let (s, _) = integer(next);
    format!("{input}.{}", crate::token::encode_base64url([r, s].concat()))
}

fn set(event: &str, change: Value) -> String {
    let claims = json!({
        "iss": STATER, "aud": "us", "jti": "1", "iat": NOW.secs(),
        "sub_id": { "format": "iss_sub", "iss": STATER, "sub": "7" },
        "events": { event: {} },
    });
    signed(Some("secevent+jwt"), claims, &change)
}

fn logout_token(typ: Option<&str>, change: Value) -> String {
    let now = NOW.secs();
    let claims = json!({
        "iss": STATER, "aud": "us", "jti": "1", "iat": now, "exp": now + 120, "sub": "7",
        "events": { LOGOUT: {} },
    });
    signed(typ, claims, &change)
}

async fn push(world: &World, text: &str) -> Answered {
    push_as(world, "application/secevent+jwt", text).await
}

async fn push_as(world: &World, kind: &str, text: &str) -> Answered {
    let request = Request::builder().method("POST").uri("/events/ssf").header("content-type", kind);
    world.send(request.body(Full::new(Bytes::from(text.to_owned()))).unwrap()).await
}

async fn log_out(world: &World, text: &str) -> Answered {
    world.call(As::Form, "POST /events/backchannel-logout", "", json!({ "logout_token": text })).await
}

/// The log, less the memory of what was received.
fn entries(world: &World) -> Vec<(String, Option<u64>)> {
    let entries = world.log.entries.lock().unwrap();
    let effects = entries.iter().filter(|entry| !entry.selector.value.starts_with("event:"));
    effects
        .map(|entry| {
            assert_eq!((&*entry.selector.issuer, &*entry.actor), ("legacy", "event:legacy"));
            let what = format!("{}={}", entry.selector.kind, entry.selector.value);
            (what, entry.issued_before.map(UnixTime::secs))
        })
        .collect()
}

fn check(answer: &Answered, err: &str) {
    assert_eq!((answer.status, &answer.body["err"]), (400, &json!(err)), "{answer:?}");
    assert!(answer.body["description"].as_str().is_some_and(|words| !words.is_empty()));
    assert_eq!(answer.headers["cache-control"], "no-store");
}

#[tokio::test]
async fn an_event_about_an_account_refuses_what_was_issued_until_then() {
    let world = World::with(None);
    let answer = push(&world, &set(ACCOUNT_DISABLED, json!({}))).await;
    assert_eq!((answer.status, &answer.body), (202, &Value::Null));
    assert_eq!(entries(&world), [("subject=7".to_owned(), Some(NOW.secs() + 1))]);
    // The event's own time counts where there is one, and never the future.
    let at = NOW.secs() - 100;
    for (id, time, cutoff) in [
        ("2", json!(at), at + 1),
        ("3", json!(at * 1000), at + 1),
        ("4", json!(NOW.secs() + 5000), NOW.secs() + 1),
    ] {
        let events = json!({ CREDENTIAL_CHANGE: { "event_timestamp": time, "change_type": "update" } });
        let text = set(CREDENTIAL_CHANGE, json!({ "jti": id, "events": events }));
        assert_eq!(push(&world, &text).await.status, 202);
        assert_eq!(entries(&world).pop(), Some(("subject=7".to_owned(), Some(cutoff))));
    }
    let text = set(CLAIMS_CHANGE, json!({ "jti": "5", "toe": at }));
    assert_eq!(push(&world, &text).await.status, 202);
    assert_eq!(entries(&world).pop(), Some(("subject=7".to_owned(), Some(at + 1))));
    let log = world.log.entries.lock().unwrap();
    assert_eq!(&*log[0].reason, "risc account-disabled");
    assert_eq!(&*log[0].address, "192.0.2.7");
}

#[tokio::test]
async fn an_event_about_a_session_ends_that_one() {
    let world = World::new();
    let subject = json!({
        "format": "complex",
        "user": { "format": "iss_sub", "iss": STATER, "sub": "7" },
        "session": { "format": "opaque", "id": "s-1" },
    });
    assert_eq!(push(&world, &set(SESSION_REVOKED, json!({ "sub_id": subject }))).await.status, 202);
    assert_eq!(entries(&world), [("session=s-1".to_owned(), None)]);
    // Where subjects stood before RFC 9493.
    let events = json!({ SESSION_REVOKED: { "subject": { "format": "opaque", "id": "x" } } });
    let text = set(SESSION_REVOKED, json!({ "jti": "2", "sub_id": null, "events": events }));
    assert_eq!(push(&world, &text).await.status, 202);
    assert_eq!(
        entries(&world)[1..],
        [("subject=x".to_owned(), Some(NOW.secs() + 1)), ("session=x".to_owned(), None)]
    );
}

#[tokio::test]
async fn an_event_has_its_effect_once() {
    let world = World::new();
    let text = set(ACCOUNT_DISABLED, json!({}));
    let (one, two) = tokio::join!(push(&world, &text), push(&world, &text));
    assert_eq!((one.status, two.status), (202, 202));
    let sequence = world.log.entries.lock().unwrap().len();
    assert_eq!(push(&world, &text).await.status, 202);
    assert_eq!(world.log.entries.lock().unwrap().len(), sequence);
    assert_eq!(entries(&world).len(), 1);
    // Another jti is another event; the same one of another kind is the same.
    assert_eq!(push(&world, &set(ACCOUNT_DISABLED, json!({ "jti": "2" }))).await.status, 202);
    assert_eq!(log_out(&world, &logout_token(Some("logout+jwt"), json!({}))).await.status, 200);
    assert_eq!(entries(&world).len(), 2);
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_acknowledged() {
    let world = World::new();
    world.log.failing.store(true, Ordering::SeqCst);
    let text = set(ACCOUNT_DISABLED, json!({}));
    let answer = push(&world, &text).await;
    assert_eq!((answer.status, answer.headers["retry-after"].to_str().unwrap()), (503, "1"));
    let logout = logout_token(None, json!({ "jti": "2" }));
    assert_eq!(log_out(&world, &logout).await.status, 503);
    world.log.failing.store(false, Ordering::SeqCst);
    assert_eq!(push(&world, &text).await.status, 202);
    assert_eq!(log_out(&world, &logout).await.status, 200);
    assert_eq!(entries(&world).len(), 2);
}

#[tokio::test]
async fn what_means_nothing_here_is_acknowledged_without_effect() {
    let world = World::new();
    for (id, change) in [
        json!({ "events": { "https://schemas.openid.net/secevent/ssf/event-type/verification": { "state": "x" } } }),
        json!({ "events": { "https://example.com/event": {} } }),
        json!({ "sub_id": { "format": "iss_sub", "iss": "https://else", "sub": "7" } }),
        json!({ "sub_id": { "format": "iss_sub", "iss": "portcullis", "sub": "7" } }),
        json!({ "sub_id": { "format": "did", "url": "did:example:1" } }),
        json!({ "sub_id": { "format": "opaque", "id": "" } }),
    ]
    .into_iter()
    .enumerate()
    {
        let mut change = change;
        change["jti"] = id.to_string().into();
        let answer = push(&world, &set(ACCOUNT_DISABLED, change.clone())).await;
        assert_eq!(answer.status, 202, "{change}: {answer:?}");
    }
    assert!(world.log.entries.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_bad_event_is_refused_in_the_words_of_its_rfc() {
    let world = World::new();
    for (change, err) in [
        (json!({ "iss": "https://else.example" }), "invalid_issuer"),
        (json!({ "iss": "portcullis" }), "invalid_issuer"),
        (json!({ "iss": null }), "invalid_issuer"),
        (json!({ "iss": 1 }), "invalid_request"),
        (json!({ "aud": "them" }), "invalid_audience"),
        (json!({ "aud": null }), "invalid_audience"),
        (json!({ "aud": 1 }), "invalid_request"),
        (json!({ "iat": null }), "invalid_request"),
        (json!({ "iat": NOW.secs() + 3600 }), "invalid_request"),
        (json!({ "iat": "now" }), "invalid_request"),
        (json!({ "exp": NOW.secs() - 1 }), "invalid_request"),
        (json!({ "jti": null }), "invalid_request"),
        (json!({ "jti": "" }), "invalid_request"),
        (json!({ "jti": "x".repeat(250) }), "invalid_request"),
        (json!({ "events": null }), "invalid_request"),
        (json!({ "events": {} }), "invalid_request"),
        (json!({ "events": [] }), "invalid_request"),
        (json!({ "events": { ACCOUNT_DISABLED: 1 } }), "invalid_request"),
        (json!({ "events": { ACCOUNT_DISABLED: { "event_timestamp": "x" } } }), "invalid_request"),
        (json!({ "sub_id": "7" }), "invalid_request"),
        (json!({ "sub_id": { "format": "iss_sub" } }), "invalid_request"),
        (json!({ "sub_id": null }), "invalid_request"),
    ] {
        let answer = push(&world, &set(ACCOUNT_DISABLED, change.clone())).await;
        assert_eq!((answer.status, &answer.body["err"]), (400, &json!(err)), "{change}");
        check(&answer, err);
    }
    let good = set(ACCOUNT_DISABLED, json!({}));
    for text in ["", "x", "a.b.c", "\u{0}", &good[..good.len() - 40], &"x".repeat(60_000)] {
        check(&push(&world, text).await, "invalid_request");
    }
    let (signed, _) = good.rsplit_once('.').unwrap();
    let forged = format!("{signed}.{}", crate::token::encode_base64url([7; 64]));
    check(&push(&world, &forged).await, "invalid_key");
    let none = format!(
        "{}.{}.",
        crate::token::encode_base64url(r#"{"alg":"none","typ":"secevent+jwt"}"#),
        signed.split('.').nth(1).unwrap()
    );
    assert_eq!(push(&world, &none).await.status, 400);
    for kind in ["application/jwt", "application/json", "text/plain", "application/x-www-form-urlencoded"] {
        check(&push_as(&world, kind, &good).await, "invalid_request");
    }
    let huge = push(&world, &"x".repeat(70_000)).await;
    assert_eq!((huge.status, &huge.body["err"]), (413, &json!("invalid_request")));
    let get = Request::builder().uri("/events/ssf").body(Full::default()).unwrap();
    let answer = world.send(get).await;
    assert_eq!((answer.status, answer.headers["allow"].to_str().unwrap()), (405, "POST"));
    assert!(world.log.entries.lock().unwrap().is_empty());
    assert_eq!(push(&world, &format!("{good}\n")).await.status, 202, "none of them used it up");
}

#[tokio::test]
async fn no_other_kind_of_jwt_is_an_event() {
    let world = World::new();
    let claims = json!({
        "iss": STATER, "aud": "us", "jti": "1", "iat": NOW.secs(), "sub": "7", "sid": "s",
        "exp": NOW.secs() + 60, "events": { ACCOUNT_DISABLED: {}, LOGOUT: {} },
    });
    for typ in [None, Some("JWT"), Some("at+jwt"), Some("logout+jwt"), Some("dpop+jwt"), Some("secevent")] {
        check(&push(&world, &signed(typ, claims.clone(), &json!({}))).await, "invalid_request");
    }
    for typ in ["secevent+jwt", "at+jwt", "dpop+jwt", "application/at+jwt"] {
        let answer = log_out(&world, &signed(Some(typ), claims.clone(), &json!({}))).await;
        assert_eq!((answer.status, &answer.body["error"]), (400, &json!("invalid_request")), "{typ}");
    }
    assert!(world.log.entries.lock().unwrap().is_empty());
    let typed = signed(Some("application/secevent+jwt"), claims, &json!({}));
    assert_eq!(push(&world, &typed).await.status, 202);
}

#[tokio::test]
async fn a_logout_token_ends_a_session_or_all_of_a_subject() {
    let world = World::with(None);
    let answer = log_out(&world, &logout_token(Some("logout+jwt"), json!({}))).await;
    assert_eq!((answer.status, &answer.body), (200, &Value::Null));
    assert_eq!(answer.headers["cache-control"], "no-store");
    let text = logout_token(None, json!({ "jti": "2", "sid": "s-1" }));
    assert_eq!(log_out(&world, &text).await.status, 200);
    assert_eq!(log_out(&world, &text).await.status, 200, "again, without effect");
    let text = logout_token(Some("JWT"), json!({ "jti": "3", "sid": "s-2", "sub": null }));
    assert_eq!(log_out(&world, &text).await.status, 200);
    let expected = [
        ("subject=7".to_owned(), Some(NOW.secs() + 1)),
        ("session=s-1".to_owned(), None),
        ("session=s-2".to_owned(), None),
    ];
    assert_eq!(entries(&world), expected);
}

#[tokio::test]
async fn a_bad_logout_token_is_refused() {
    let world = World::new();
    for change in [
        json!({ "iss": "https://else.example" }),
        json!({ "iss": null }),
        json!({ "aud": "them" }),
        json!({ "aud": null }),
        json!({ "iat": null }),
        json!({ "iat": NOW.secs() + 3600 }),
        json!({ "exp": null }),
        json!({ "exp": NOW.secs() }),
        json!({ "jti": null }),
        json!({ "sub": null }),
        json!({ "sub": 7 }),
        json!({ "sub": "" }),
        json!({ "sid": 7 }),
        json!({ "sid": "a\nb" }),
        json!({ "nonce": "n" }),
        json!({ "events": null }),
        json!({ "events": { "https://else": {} } }),
        json!({ "events": { LOGOUT: true } }),
        json!({ "events": [LOGOUT] }),
    ] {
        let answer = log_out(&world, &logout_token(Some("logout+jwt"), change.clone())).await;
        assert_eq!((answer.status, &answer.body["error"]), (400, &json!("invalid_request")), "{change}");
        assert_eq!(answer.headers["cache-control"], "no-store");
    }
    let bare = world.call(As::Form, "POST /events/backchannel-logout", "", json!({ "x": "y" })).await;
    assert_eq!((bare.status, &bare.body["error"]), (400, &json!("invalid_request")));
    let text = logout_token(Some("logout+jwt"), json!({}));
    let json = world.post("/events/backchannel-logout", "", json!({ "logout_token": text })).await;
    assert_eq!((json.status, &json.body["error"]), (400, &json!("invalid_request")));
    assert!(world.log.entries.lock().unwrap().is_empty());
    assert_eq!(log_out(&world, &text).await.status, 200);
}

#[tokio::test]
async fn no_text_makes_a_receiver_panic_or_do_anything() {
    let world = World::new();
    let good = set(ACCOUNT_DISABLED, json!({}));
    for at in (0..good.len()).step_by(3) {
        for new in ['.', 'A', '=', '\u{e9}'] {
            let mut text: String = good.chars().collect();
            text.replace_range(at..=at, &new.to_string());
            if text != good {
                assert_eq!(push(&world, &text).await.status, 400, "{text}");
                assert_eq!(log_out(&world, &text).await.status, 400);
            }
        }
    }
    assert!(world.log.entries.lock().unwrap().is_empty());
}

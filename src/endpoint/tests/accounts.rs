//! Sign-up, sign-in, password change, and the checks of the tutorial.

use std::time::Duration;

use http::header::{CACHE_CONTROL, RETRY_AFTER};
use serde_json::{Value, json};

use super::super::settings::{Lockout, Settings};
use super::super::support::{As, GOOD, World, claim, settings};

/// What the clients of the tutorial's API do, and what they expect.
async fn tutorial(how: As, prefix: &str) {
    let world = World::new();
    let at = |line: &str| line.replace("/auth", prefix);
    let account = json!({ "email": "ada@example.com", "password": GOOD, "firstname": "Ada" });

    let up = world.call(how, &at("POST /auth/signup"), "", account.clone()).await;
    assert_eq!((up.status, &up.body["status"]), (201, &json!(201)));
    let (access, refresh) = (up.first("access_token"), up.first("refresh_token"));
    let user = &up.body["data"][0]["user"];
    assert_eq!(user["email"], "ada@example.com");
    assert_eq!(user["username"], "ada@example.com");
    assert_eq!((&user["firstname"], &user["lastname"]), (&json!("Ada"), &Value::Null));
    assert_eq!(user["createdon"], "2027-01-15T08:00:00.25Z");
    assert_eq!(up.headers[CACHE_CONTROL], "no-store");

    let again = world.call(how, &at("POST /auth/signup"), "", account.clone()).await;
    assert_eq!(again.refusal(), (400, "User already exists"));

    let signed_in = world.call(how, &at("POST /auth/signin"), "", account).await;
    assert_eq!(signed_in.status, 200);
    assert_eq!(signed_in.body["data"][0]["user"], *user);

    let line = at("POST /auth/refresh");
    let refreshed = world.call(how, &line, &refresh, Value::Null).await;
    assert_eq!(refreshed.status, 200);
    assert!(world.opens(&refreshed.first("access_token")).await);
    assert_eq!(world.call(how, &line, &access, Value::Null).await.status, 422);
    assert_eq!(world.call(how, &line, &format!("{refresh}@"), Value::Null).await.status, 422);
    assert_eq!(world.call(how, &line, "", Value::Null).await.code(), "token_missing");

    let listed = world.call(how, &at("GET /auth/tokens"), &access, Value::Null).await;
    assert_eq!((listed.status, &listed.body["next"]), (200, &Value::Null));
    let rows = listed.body["data"].as_array().unwrap();
    let row = rows.iter().find(|row| row["current"] == true).unwrap();
    assert_eq!(row["jti"], claim(&access, "jti"));
    assert_eq!(row["user_identity"], user["id"]);
    let mut names: Vec<_> = row.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    let expected = "address current expires issued jti revoked revoked_at session token_id token_type user_agent \
                    user_identity";
    assert_eq!(names.join(" "), expected);

    let put = at(&format!("PUT /auth/token/{}", row["token_id"].as_str().unwrap()));
    let (_, other) = (world.sign_in("ada@example.com").await, &refreshed.first("access_token"));
    assert_eq!(world.call(how, &put, other, json!({ "revoke": true })).await.status, 200);
    assert!(!world.opens(&access).await);
    let refused = world.call(how, &at("GET /auth/me"), &access, Value::Null).await;
    assert_eq!((refused.status, refused.code()), (401, "token_revoked"));
    assert_eq!(world.call(how, &put, other, json!({ "revoke": false })).await.status, 200);
    assert!(world.opens(&access).await);
}

#[tokio::test]
async fn the_tutorial_s_checks_hold_in_both_kinds_of_body_under_both_prefixes() {
    for how in [As::Json, As::Form] {
        for prefix in ["/auth", "/api/v1/auth"] {
            tutorial(how, prefix).await;
        }
    }
}

#[tokio::test]
async fn the_account_is_one_however_its_email_is_spelt() {
    let world = World::new();
    world.sign_up("Ada@Example.com").await;
    let again = json!({ "email": "ada@example.COM", "password": GOOD });
    assert_eq!(world.post("/auth/signup", "", again.clone()).await.refusal().1, "User already exists");
    let answer = world.post("/auth/signin", "", again).await;
    assert_eq!(answer.body["data"][0]["user"]["email"], "Ada@Example.com", "as it was given");
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_account_sound_the_same() {
    let world = World::new();
    world.sign_up("ada@example.com").await;
    let mut answers = Vec::new();
    for email in ["ada@example.com", "nobody@example.com", "not an email"] {
        let answer = world.post("/auth/signin", "", json!({ "email": email, "password": "wrong" })).await;
        assert_eq!(answer.refusal(), (401, "Bad email or password"));
        assert_eq!(answer.code(), "bad_credentials");
        answers.push(answer.body.to_string());
    }
    answers.dedup();
    assert_eq!(answers.len(), 1);
}

#[tokio::test]
async fn guessing_is_locked_out_whether_or_not_there_is_an_account() {
    for email in ["ada@example.com", "nobody@example.com"] {
        let world = World::new();
        world.sign_up("ada@example.com").await;
        let attempt = |password: &str| json!({ "email": email, "password": password });
        for _ in 0..5 {
            assert_eq!(world.post("/auth/signin", "", attempt("wrong")).await.status, 401);
        }
        let locked = world.post("/auth/signin", "", attempt(GOOD)).await;
        assert_eq!((locked.status, locked.code()), (429, "locked_out"));
        assert_eq!(locked.headers[RETRY_AFTER], "900");
        world.advance(900);
        let status = world.post("/auth/signin", "", attempt(GOOD)).await.status;
        assert_eq!(status, if email == "ada@example.com" { 200 } else { 401 });
    }
}

#[tokio::test]
async fn many_guesses_at_once_learn_no_more_than_the_limit() {
    let lockout = Lockout { attempts: 5, window: Duration::from_secs(900) };
    let world = World::with(Some(Settings { lockout, ..settings() }));
    world.sign_up("ada@example.com").await;
    let guess = |n: usize| {
        let password = if n == 39 { GOOD.to_owned() } else { format!("wrong {n}") };
        let world = &world;
        async move {
            world
                .post("/auth/signin", "", json!({ "email": "ada@example.com", "password": password }))
                .await
                .status
        }
    };
    let mut statuses = futures_util::future::join_all((0..40).map(guess)).await;
    statuses.sort_unstable();
    assert!(statuses.iter().filter(|status| **status == 401).count() <= 5, "{statuses:?}");
}

#[tokio::test]
async fn sign_up_can_be_closed() {
    let world = World::with(Some(Settings { signup: false, ..settings() }));
    let answer = world.post("/auth/signup", "", json!({ "email": "a@b.co", "password": GOOD })).await;
    assert_eq!((answer.status, answer.code()), (403, "forbidden"));
}

#[tokio::test]
async fn a_password_is_never_kept_as_an_extra_field() {
    let world =
        World::with(Some(Settings { user_fields: vec!["password".into(), "id".into()], ..settings() }));
    let account = json!({ "email": "ada@example.com", "password": GOOD, "id": "chosen" });
    let up = world.post("/auth/signup", "", account).await;
    assert_ne!(up.body["data"][0]["user"]["id"], "chosen");
    assert!(!up.body.to_string().contains(GOOD));
    let user = world.store.user_by_email("ada@example.com").await.unwrap().unwrap();
    assert!(user.fields.is_empty());
}

#[tokio::test]
async fn two_sign_ups_at_once_make_one_account() {
    let world = World::new();
    let account = json!({ "email": "ada@example.com", "password": GOOD });
    let up = || world.post("/auth/signup", "", account.clone());
    let mut statuses = futures_util::future::join_all((0..8).map(|_| up())).await;
    statuses.sort_by_key(|answer| answer.status);
    assert_eq!(statuses[0].status, 201);
    assert!(statuses[1..].iter().all(|answer| answer.refusal() == (400, "User already exists")));
}

#[tokio::test]
async fn a_new_password_ends_all_other_sessions_and_not_this_one() {
    let world = World::new();
    let (first, first_refresh) = world.sign_up("ada@example.com").await;
    let (here, here_refresh) = world.sign_in("ada@example.com").await;
    let change = json!({ "password": GOOD, "new_password": "another horse 2?" });

    let wrong = json!({ "password": "wrong", "new_password": "another horse 2?" });
    assert_eq!(world.post("/auth/password", &here, wrong).await.code(), "bad_credentials");
    let weak = json!({ "password": GOOD, "new_password": "weak" });
    assert_eq!(world.post("/auth/password", &here, weak).await.status, 400);
    assert!(world.opens(&first).await, "nothing happened yet");

    assert_eq!(world.post("/auth/password", &here, change).await.status, 200);
    assert!(!world.opens(&first).await);
    assert_eq!(world.post("/auth/refresh", &first_refresh, Value::Null).await.status, 401);
    assert!(world.opens(&here).await);
    let stale = world.post("/auth/refresh", &here_refresh, Value::Null).await.first("access_token");
    let old = json!({ "email": "ada@example.com", "password": GOOD });
    assert_eq!(world.post("/auth/signin", "", old).await.status, 401);

    // A token that came of a refresh, or is no longer fresh, does not change passwords.
    let change = json!({ "password": "another horse 2?", "new_password": GOOD });
    assert_eq!(world.post("/auth/password", &stale, change.clone()).await.code(), "token_not_fresh");
    assert_eq!(world.post("/auth/password", &here_refresh, change.clone()).await.status, 422);
    assert_eq!(world.post("/auth/password", &here, change).await.status, 200);
}

#[tokio::test]
async fn the_oldest_session_goes_when_there_are_too_many() {
    let world = World::with(Some(Settings { max_sessions_per_user: Some(2), ..settings() }));
    let (first, _) = world.sign_up("ada@example.com").await;
    let (second, _) = world.sign_in("ada@example.com").await;
    assert!(world.opens(&first).await);
    let (third, _) = world.sign_in("ada@example.com").await;
    assert_eq!(
        (world.opens(&first).await, world.opens(&second).await, world.opens(&third).await),
        (false, true, true)
    );
}

#[tokio::test]
async fn access_tokens_carry_the_static_claims_and_end_with_their_session() {
    let mut short = settings();
    short.own.refresh_ttl = Duration::from_secs(60);
    let world = World::with(Some(short));
    let (access, refresh) = world.sign_up("ada@example.com").await;
    assert_eq!(claim(&access, "tenant"), "acme");
    assert_eq!(claim(&access, "exp"), claim(&refresh, "exp"));
    world.advance(30);
    let again = world.post("/auth/refresh", &refresh, Value::Null).await;
    assert_eq!(claim(&again.first("access_token"), "exp"), claim(&refresh, "exp"));
    assert_eq!(claim(&again.first("refresh_token"), "exp"), claim(&refresh, "exp"), "absolute");
    world.advance(30);
    assert_eq!(world.post("/auth/refresh", &refresh, Value::Null).await.code(), "token_expired");
}

#[tokio::test]
async fn a_strict_registry_refuses_what_the_store_does_not_know() {
    use crate::issuer::settings::SELF;
    for strict in [false, true] {
        let mut auth = settings();
        auth.own.strict = strict;
        let world = World::with(Some(auth));
        let (access, refresh) = world.sign_up("ada@example.com").await;
        let mut claims =
            json!({ "iss": SELF, "sub": claim(&access, "sub"), "sid": "elsewhere", "jti": "unknown" });
        claims["iat"] = 1_800_000_000.into();
        claims["exp"] = 1_800_000_900.into();
        let forgotten = super::super::support::ToyTokens::sign(SELF, &claims);
        assert!(world.opens(&access).await);
        assert_eq!(world.opens(&forgotten).await, !strict);
        claims["type"] = "refresh".into();
        let forgotten = super::super::support::ToyTokens::sign(SELF, &claims);
        let status = world.post("/auth/refresh", &forgotten, Value::Null).await.status;
        assert_eq!(status, if strict { 401 } else { 200 });
        assert_eq!(world.post("/auth/refresh", &refresh, Value::Null).await.status, 200);
    }
}

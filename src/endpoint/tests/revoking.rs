//! Logout, sessions, and tokens revoked and restored one by one.

use futures_util::FutureExt as _;
use serde_json::{Value, json};

use super::super::settings::Settings;
use super::super::support::{As, GOOD, ToyTokens, World, claim, settings};
use crate::clock::UnixTime;
use crate::issuer::settings::SELF;
use crate::revocation::{Kind, Revocation, Selector};

/// An administrator's revocation.
fn by_admin(kind: Kind, value: &str) -> Revocation {
    Revocation {
        issued_before: (!kind.is_absolute()).then_some(UnixTime::from_secs(1_900_000_000)),
        selector: Selector::new(kind, SELF, value),
        lift: false,
        expires_at: UnixTime::from_secs(1_900_000_000),
        reason: "stolen".into(),
        actor: "admin".into(),
        address: "".into(),
        at: UnixTime::from_secs(1_800_000_000),
    }
}

async fn put(world: &World, caller: &str, token: &str, revoke: bool) -> u16 {
    let line = format!("PUT /auth/tokens/{}", claim(token, "jti"));
    world.call(As::Json, &line, caller, json!({ "revoke": revoke })).await.status
}

/// `revoked`, and whether `revoked_at` is there, of a token in the list.
async fn listed(world: &World, caller: &str, token: &str) -> (bool, bool) {
    let list = world.get("/auth/tokens", caller).await;
    let jti = claim(token, "jti");
    let row = list.body["data"].as_array().unwrap().iter().find(|row| row["jti"] == jti).unwrap();
    (row["revoked"].as_bool().unwrap(), row["revoked_at"].is_string())
}

#[tokio::test]
async fn logout_ends_the_session_with_all_its_tokens_and_can_be_said_again() {
    for method in ["POST", "DELETE"] {
        let world = World::new();
        let (access, refresh) = world.sign_up("ada@example.com").await;
        let (other, _) = world.sign_in("ada@example.com").await;
        let line = format!("{method} /auth/logout");
        let answer = world.call(As::Json, &line, &refresh, Value::Null).await;
        assert_eq!(answer.body, json!({ "status": 200, "message": "Logged out" }));
        assert!(!world.opens(&access).await);
        assert_eq!(world.post("/auth/refresh", &refresh, Value::Null).await.status, 401);
        assert!(world.opens(&other).await);
        assert_eq!(listed(&world, &other, &access).await, (true, true));

        assert_eq!(world.call(As::Json, &line, &access, Value::Null).await.status, 200, "revoked");
        world.advance(1000);
        assert_eq!(world.call(As::Json, &line, &access, Value::Null).await.status, 200, "expired");
        assert_eq!(world.call(As::Json, &line, &format!("{access}@"), Value::Null).await.status, 422);
        assert_eq!(world.call(As::Json, &line, "", Value::Null).await.status, 401);
        assert_eq!(world.log.entries.lock().unwrap().len(), 1, "said once in the log");
    }
}

#[tokio::test]
async fn an_expired_access_token_still_ends_its_session() {
    let world = World::new();
    let (access, refresh) = world.sign_up("ada@example.com").await;
    world.advance(1000);
    assert_eq!(world.post("/auth/logout", &access, Value::Null).await.status, 200);
    assert_eq!(world.post("/auth/refresh", &refresh, Value::Null).await.status, 401);
    let entry = world.log.entries.lock().unwrap()[0].clone();
    assert_eq!(entry.expires_at.secs().to_string(), claim(&refresh, "exp"));
    assert_eq!(&*entry.actor, format!("subject:{}", claim(&access, "sub")));
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_stop_a_logout() {
    let world = World::new();
    let (access, _) = world.sign_up("ada@example.com").await;
    let hung_up = world.post("/auth/logout", &access, Value::Null).now_or_never();
    assert!(hung_up.is_none(), "it was still waiting for the store");
    while world.opens(&access).await {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn after_logout_all_a_login_in_the_same_second_works() {
    let world = World::new();
    let (first, _) = world.sign_up("ada@example.com").await;
    let (second, refresh) = world.sign_in("ada@example.com").await;
    let (bob, _) = world.sign_up("bob@example.com").await;
    assert_eq!(world.post("/auth/logout-all", &first, Value::Null).await.status, 200);
    let (later, _) = world.sign_in("ada@example.com").await;
    assert_eq!(claim(&later, "iat"), claim(&first, "iat"), "the clock stands");
    assert_eq!((world.opens(&first).await, world.opens(&second).await), (false, false));
    assert_eq!(world.post("/auth/refresh", &refresh, Value::Null).await.status, 401);
    assert!(world.opens(&later).await && world.opens(&bob).await);
    assert_eq!(world.post("/auth/logout-all", &first, Value::Null).await.status, 401);
    let kinds: Vec<_> =
        world.log.entries.lock().unwrap().iter().map(|entry| entry.selector.kind.to_string()).collect();
    assert_eq!(kinds.last().unwrap(), "subject");
}

/// The mark in the store stayed when the revocation was taken back, and nothing that ends sessions saw it any more.
#[tokio::test]
async fn a_session_that_was_given_back_is_live_again_to_whatever_ends_sessions() {
    for path in ["/auth/logout-all", "/auth/password", "disable"] {
        let world = World::new();
        let (here, _) = world.sign_up("ada@example.com").await;
        let (there, refresh) = world.sign_in("ada@example.com").await;
        assert_eq!(world.post("/auth/logout", &there, Value::Null).await.status, 200);
        let lift = Revocation { lift: true, ..by_admin(Kind::Session, &claim(&there, "sid")) };
        world.log.entries.lock().unwrap().push(lift);
        assert!(world.opens(&there).await, "{path}");
        let subject = claim(&here, "sub");
        assert_eq!(world.endpoints.user(&subject).await.unwrap()["live_sessions"], 2, "{path}");
        if path == "disable" {
            world.endpoints.disable_user(&subject, String::new(), b"").await.unwrap();
        } else {
            let words = json!({ "password": GOOD, "new_password": "another horse 2!" });
            let answer = world.post(path, &here, words).await;
            assert_eq!(answer.status, 200, "{path} {answer:?}");
        }
        assert!(!world.opens(&there).await, "{path}");
        assert_eq!(world.post("/auth/refresh", &refresh, Value::Null).await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn what_has_ended_already_is_not_ended_again() {
    let world = World::new();
    let (here, _) = world.sign_up("ada@example.com").await;
    for _ in 0..3 {
        let (there, _) = world.sign_in("ada@example.com").await;
        world.post("/auth/logout", &there, Value::Null).await;
    }
    assert_eq!(world.post("/auth/logout-all", &here, Value::Null).await.status, 200);
    assert_eq!(world.log.entries.lock().unwrap().len(), 3 + 2, "one session and the subject");
}

#[tokio::test]
async fn a_caller_sees_and_ends_their_own_sessions_alone() {
    let world = World::new();
    let (here, _) = world.sign_up("ada@example.com").await;
    let (there, _) = world.sign_in("ada@example.com").await;
    let (bob, _) = world.sign_up("bob@example.com").await;
    let list = world.get("/auth/sessions", &here).await;
    let rows = list.body["data"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!((&rows[0]["current"], &rows[1]["current"]), (&json!(false), &json!(true)));
    assert_eq!((&rows[0]["user_agent"], &rows[0]["address"]), (&json!("test/1"), &json!("192.0.2.7")));

    let end = format!("DELETE /auth/sessions/{}", claim(&there, "sid"));
    assert_eq!(world.call(As::Json, &end, &bob, Value::Null).await.status, 404);
    assert!(world.opens(&there).await);
    assert_eq!(world.call(As::Json, &end, &here, Value::Null).await.status, 200);
    assert_eq!(world.call(As::Json, &end, &here, Value::Null).await.status, 200);
    assert!(!world.opens(&there).await && world.opens(&here).await);
    let list = world.get("/auth/sessions", &here).await;
    assert_eq!(list.body["data"][0]["revoked"], true);
    assert!(list.body["data"][0]["revoked_at"].is_string());
    assert_eq!(list.body["data"][1]["revoked"], false);
}

#[tokio::test]
async fn an_owner_restores_what_they_revoked_and_nothing_else() {
    let world = World::new();
    let (here, _) = world.sign_up("ada@example.com").await;
    let (there, _) = world.sign_in("ada@example.com").await;
    let (bob, _) = world.sign_up("bob@example.com").await;
    assert_eq!(put(&world, &bob, &there, true).await, 404);
    assert_eq!(put(&world, &here, &there, false).await, 200, "never revoked");
    assert_eq!(listed(&world, &here, &there).await, (false, false));
    assert_eq!(put(&world, &here, &there, true).await, 200);
    assert_eq!(put(&world, &here, &there, true).await, 200);
    assert_eq!(listed(&world, &here, &there).await, (true, true));
    assert!(!world.opens(&there).await);
    assert_eq!(put(&world, &here, &there, false).await, 200);
    assert!(world.opens(&there).await);
    assert_eq!(listed(&world, &here, &there).await, (false, false));
}

#[tokio::test]
async fn what_an_administrator_revoked_its_owner_cannot_restore() {
    let world = World::new();
    let (here, _) = world.sign_up("ada@example.com").await;
    let (there, _) = world.sign_in("ada@example.com").await;
    let jti = claim(&there, "jti");
    world.log.entries.lock().unwrap().push(by_admin(Kind::Token, &jti));
    assert_eq!(put(&world, &here, &there, false).await, 409);
    // Nor by revoking it themselves first, before or after.
    assert_eq!(put(&world, &here, &there, true).await, 200);
    assert_eq!(put(&world, &here, &there, false).await, 409);
    assert!(!world.opens(&there).await);
    assert!(listed(&world, &here, &there).await.0);
}

#[tokio::test]
async fn an_administrator_s_revocation_that_crosses_a_restore_is_put_back() {
    let world = World::new();
    let (here, _) = world.sign_up("ada@example.com").await;
    let (there, _) = world.sign_in("ada@example.com").await;
    assert_eq!(put(&world, &here, &there, true).await, 200);
    let crossing = by_admin(Kind::Token, &claim(&there, "jti"));
    *world.log.crossing.lock().unwrap() = Some(Box::new(move |entries| entries.push(crossing)));
    assert_eq!(put(&world, &here, &there, false).await, 409);
    assert!(!world.opens(&there).await);
    assert_eq!(put(&world, &here, &there, false).await, 409);
}

#[tokio::test]
async fn what_else_refuses_a_token_is_a_conflict_and_shows_in_the_list() {
    let world = World::new();
    let (first, _) = world.sign_up("ada@example.com").await;
    let sub = claim(&first, "sub");
    let (by_session, _) = world.sign_in("ada@example.com").await;
    assert_eq!(put(&world, &first, &by_session, true).await, 200);
    world.post("/auth/logout", &by_session, Value::Null).await;
    assert_eq!(put(&world, &first, &by_session, false).await, 409);

    let (_, retired) = world.sign_in("ada@example.com").await;
    world.post("/auth/refresh", &retired, Value::Null).await;
    assert_eq!(put(&world, &first, &retired, false).await, 409);
    assert_eq!(listed(&world, &first, &retired).await, (true, true));

    world.advance(5);
    let mut cutoff = by_admin(Kind::Subject, &sub);
    cutoff.issued_before = Some(UnixTime::from_secs(1_800_000_004));
    world.log.entries.lock().unwrap().push(cutoff);
    let (later, _) = world.sign_in("ada@example.com").await;
    assert!(!world.opens(&first).await);
    assert!(listed(&world, &later, &first).await.0);
    assert_eq!(put(&world, &later, &first, false).await, 409);
    assert_eq!(listed(&world, &later, &later).await, (false, false));

    let tenant = by_admin(Kind::Claim("tenant".into()), "acme");
    world.log.entries.lock().unwrap().push(tenant);
    assert!(!world.opens(&later).await, "a static claim can be revoked by");
}

#[tokio::test]
async fn a_missing_mark_after_a_crash_changes_nothing_of_what_holds() {
    let world = World::new();
    let (here, _) = world.sign_up("ada@example.com").await;
    let (there, _) = world.sign_in("ada@example.com").await;
    assert_eq!(put(&world, &here, &there, true).await, 200);
    // As if the gateway had stopped between the log and the mark.
    world.store.unmark_token(&claim(&there, "jti")).await.unwrap();
    assert!(!world.opens(&there).await);
    assert!(listed(&world, &here, &there).await.0);
    assert_eq!(put(&world, &here, &there, false).await, 200);
    assert!(world.opens(&there).await);
}

#[tokio::test]
async fn pruning_takes_the_scope_admin() {
    let world = World::new();
    let (access, _) = world.sign_up("ada@example.com").await;
    let answer = world.call(As::Json, "DELETE /auth/tokens", &access, Value::Null).await;
    assert_eq!((answer.status, answer.code()), (403, "insufficient_scope"));
    let claims = json!({
        "iss": SELF, "sub": claim(&access, "sub"), "sid": claim(&access, "sid"), "jti": "admin", "scope": "x admin",
        "iat": 1_800_000_000, "exp": 1_900_000_000,
    });
    let admin = ToyTokens::sign(SELF, &claims);
    world.advance(31 * 86_400);
    let answer = world.call(As::Json, "DELETE /auth/tokens", &admin, Value::Null).await;
    assert_eq!(answer.body, json!({ "status": 200, "message": "Pruned 3 expired tokens and sessions" }));
    assert_eq!(world.endpoints.prune().await.unwrap(), 0);
}

#[tokio::test]
async fn a_scope_for_everybody_comes_from_the_static_claims() {
    let mut auth = settings();
    auth.claims.insert("scope".to_owned(), "read admin".into());
    let world = World::with(Some(auth));
    let (access, refresh) = world.sign_up("ada@example.com").await;
    assert_eq!(world.call(As::Json, "DELETE /auth/tokens", &access, Value::Null).await.status, 200);
    let again = world.post("/auth/refresh", &refresh, Value::Null).await.first("access_token");
    assert_eq!(claim(&again, "scope"), "read admin");
}

#[tokio::test]
async fn a_reload_keeps_the_count_of_failed_sign_ins() {
    let mut world = World::new();
    world.sign_up("ada@example.com").await;
    for _ in 0..5 {
        let wrong = json!({ "email": "ada@example.com", "password": "wrong" });
        assert_eq!(world.post("/auth/signin", "", wrong).await.status, 401);
    }
    let mut parts = world.endpoints.parts.clone();
    parts.auth = Some(Settings { signup: false, ..settings() });
    world.endpoints = std::sync::Arc::new(world.endpoints.renewed(parts).unwrap());
    let right = json!({ "email": "ada@example.com", "password": super::super::support::GOOD });
    assert_eq!(world.post("/auth/signin", "", right).await.status, 429);
}

//! Refresh: rotation, grace, reuse.

use std::collections::HashSet;

use serde_json::Value;

use super::super::settings::{OnReuse, Settings};
use super::super::support::{World, claim, settings};
use crate::revocation::Kind;

async fn refresh(world: &World, token: &str) -> (String, String) {
    let answer = world.post("/auth/refresh", token, Value::Null).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    (answer.first("access_token"), answer.first("refresh_token"))
}

async fn refusal(world: &World, token: &str) -> (u16, String) {
    let answer = world.post("/auth/refresh", token, Value::Null).await;
    (answer.status, answer.code().to_owned())
}

const REVOKED: (u16, &str) = (401, "token_revoked");

#[tokio::test]
async fn a_repeat_within_the_grace_gives_the_same_successor() {
    let world = World::new();
    let (access, first) = world.sign_up("ada@example.com").await;
    world.advance(60);
    let (access2, second) = refresh(&world, &first).await;
    world.advance(9);
    let (access3, again) = refresh(&world, &first).await;
    for name in ["jti", "iat", "exp", "sid"] {
        assert_eq!(claim(&second, name), claim(&again, name), "{name}");
    }
    for access in [&access, &access2, &access3] {
        assert!(world.opens(access).await, "a refresh revokes no access token");
    }
    refresh(&world, &second).await;
}

#[tokio::test]
async fn reuse_after_the_grace_ends_the_session_for_both() {
    let world = World::new();
    let (access, first) = world.sign_up("ada@example.com").await;
    let (other, _) = world.sign_in("ada@example.com").await;
    let (access2, second) = refresh(&world, &first).await;
    world.advance(10);
    let answer = world.post("/auth/refresh", &first, Value::Null).await;
    assert_eq!(answer.refusal(), (401, "The refresh token was used before; its session is revoked"));
    assert!(!world.opens(&access).await && !world.opens(&access2).await);
    assert_eq!(refusal(&world, &second).await, (REVOKED.0, REVOKED.1.to_owned()));
    assert!(world.opens(&other).await, "another session is not touched");
    let entry = world.log.entries.lock().unwrap()[0].clone();
    assert_eq!(
        (entry.selector.kind, &*entry.actor, &*entry.address),
        (Kind::Session, "gateway", "192.0.2.7")
    );
}

#[tokio::test]
async fn reuse_is_caught_at_once_when_the_successor_was_used() {
    let world = World::new();
    let (_, first) = world.sign_up("ada@example.com").await;
    let (_, second) = refresh(&world, &first).await;
    let (access, _) = refresh(&world, &second).await;
    assert_eq!(refusal(&world, &first).await.0, 401, "within the grace");
    assert!(!world.opens(&access).await);
}

#[tokio::test]
async fn reuse_does_what_is_configured() {
    for (on_reuse, this, others) in [
        (OnReuse::RevokeSession, false, true),
        (OnReuse::RevokeSubject, false, false),
        (OnReuse::Log, true, true),
    ] {
        let world = World::with(Some(Settings { on_reuse, ..settings() }));
        let (access, first) = world.sign_up("ada@example.com").await;
        let (other, _) = world.sign_in("ada@example.com").await;
        refresh(&world, &first).await;
        world.advance(11);
        assert_eq!(refusal(&world, &first).await.0, 401);
        assert_eq!((world.opens(&access).await, world.opens(&other).await), (this, others), "{on_reuse:?}");
        let (again, _) = world.sign_in("ada@example.com").await;
        assert!(world.opens(&again).await);
    }
}

#[tokio::test]
async fn without_rotation_the_token_stays_and_no_other_comes() {
    let world = World::with(Some(Settings { rotate_refresh: false, ..settings() }));
    let (_, token) = world.sign_up("ada@example.com").await;
    for _ in 0..3 {
        world.advance(60);
        let answer = world.post("/auth/refresh", &token, Value::Null).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body["data"][0].get("refresh_token"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_refreshes_at_once_have_one_successor() {
    let world = World::new();
    let (_, token) = world.sign_up("ada@example.com").await;
    let pairs = futures_util::future::join_all((0..50).map(|_| refresh(&world, &token))).await;
    let successors: HashSet<_> = pairs.iter().map(|(_, refresh)| claim(refresh, "jti")).collect();
    assert_eq!(successors.len(), 1);
    let accesses: HashSet<_> = pairs.iter().map(|(access, _)| claim(access, "jti")).collect();
    assert_eq!(accesses.len(), 50);
    for (access, _) in &pairs[..3] {
        assert!(world.opens(access).await);
    }
}

#[tokio::test]
async fn a_disabled_or_unknown_account_does_not_refresh() {
    let world = World::new();
    let claims = serde_json::json!({
        "iss": "self", "sub": "gone", "sid": "s", "jti": "j", "iat": 1_800_000_000, "exp": 1_800_009_000,
        "type": "refresh",
    });
    let token = super::super::support::ToyTokens::sign("self", &claims);
    assert_eq!(refusal(&world, &token).await, (REVOKED.0, REVOKED.1.to_owned()));
}

//! A revocation lasts as long as anything that it must refuse, whoever made a shorter one before (CONTRACT §1: what
//! is revoked stays revoked, the later expiry wins), and takes a token that is not valid yet.

use serde_json::{Value, json};

use crate::support::jwt::{Key, claims};
use crate::support::{Account, Gateway, Setup, Upstream, now};

const HOUR: i64 = 3600;

fn start() -> Gateway {
    Setup::new()
        .secret("legacy.key", Key::secret("legacy").secret_bytes())
        .section(
            "[[issuers]]\nname = \"legacy\"\nissuer = \"https://id.test\"\nalgorithms = [\"HS256\"]\n\
             secret_file = \"legacy.key\"\nmax_token_ttl = \"2h\"\n",
        )
        .upstream("up", Upstream::echo().address())
        .route("api", "/", "up", "access")
        .start()
}

fn token(id: &str, more: &Value) -> String {
    let mut whole = json!({ "iss": "https://id.test" });
    whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Key::secret("legacy").token(&claims(id, &whole))
}

fn revoke_by_holder(gateway: &Gateway, token: &str) {
    gateway.post("/oauth2/revoke").form(&[("token", token)]).send().expect(200);
}

/// When the entry in force ends, in seconds from now.
#[track_caller]
fn left(gateway: &Gateway, kind: &str, value: &str, issuer: &str) -> i64 {
    let entry = gateway.entry(kind, value, issuer).expect(200).json();
    let end = entry["expires_at"].as_str().unwrap();
    let end = portcullis::clock::UnixTime::parse_rfc3339(end).unwrap().secs();
    i64::try_from(end).unwrap() - now()
}

#[test]
fn a_session_of_others_is_revoked_for_their_longest_lifetime() {
    let gateway = start();
    let short = json!({ "sid": "s-1", "type": "refresh", "exp": now() + 60 });
    revoke_by_holder(&gateway, &token("short", &short));
    assert!(
        left(&gateway, "session", "s-1", "legacy") > HOUR,
        "an access token of it may live for two hours"
    );
}

#[test]
fn a_shorter_entry_does_not_keep_a_longer_one_out() {
    let gateway = start();
    let soon = now() + 300;
    gateway.revoke(&json!({ "kind": "token", "value": "t-1", "issuer": "legacy", "expires_at": soon }));
    revoke_by_holder(&gateway, &token("t-1", &json!({ "exp": now() + HOUR })));
    assert!(left(&gateway, "token", "t-1", "legacy") > HOUR / 2);

    for way in ["logout", "session"] {
        let account = Account::sign_up(&gateway, &format!("{way}@example.com"));
        let me = account.tokens(&gateway);
        let session = me[0]["session"].as_str().unwrap();
        // An admin's entry that ends long before the session does.
        gateway.revoke(&json!({ "kind": "session", "value": session, "expires_at": soon }));
        match way {
            "logout" => drop(gateway.post("/auth/logout").bearer(&account.access).send().expect(200)),
            _ => {
                // The session that ends another one of the same person.
                let other = Account::sign_in(&gateway, "session@example.com");
                let target = format!("/auth/sessions/{session}");
                gateway.call("DELETE", &target).bearer(&other.access).send().expect(200);
            }
        }
        assert!(left(&gateway, "session", session, "self") > 24 * HOUR, "{way}");
    }
}

#[test]
fn a_token_that_is_not_valid_yet_can_be_revoked() {
    let gateway = start();
    for (id, more) in [("iat", json!({ "iat": now() + 600 })), ("nbf", json!({ "nbf": now() + 600 }))] {
        let early = token(id, &more);
        gateway.get("/x").bearer(&early).send().expect_problem(401, "token_invalid");
        revoke_by_holder(&gateway, &early);
        gateway.entry("token", id, "legacy").expect(200);
        // What revokes it does not make it valid.
        gateway.get("/x").bearer(&early).send().expect_problem(401, "token_invalid");
        let other = token(&format!("{id}-admin"), &more);
        gateway.revoke(&json!({ "token": other }));
        gateway.entry("token", &format!("{id}-admin"), "legacy").expect(200);
    }
}

#[test]
fn a_retired_refresh_token_is_a_reuse_whatever_else_refuses_it() {
    let gateway = start();
    let first = Account::sign_up(&gateway, "ada@example.com");
    let second = Account::of(&first.refreshed(&gateway).expect(200));
    let third = Account::of(&second.refreshed(&gateway).expect(200));
    let rows = third.tokens(&gateway);
    let oldest = rows.iter().rev().find(|row| row["token_type"] == "refresh").unwrap();
    let id = oldest["jti"].as_str().unwrap();
    let target = format!("/auth/tokens/{id}");
    gateway.call("PUT", &target).bearer(&third.access).json(&json!({ "revoke": true })).send().expect(200);
    first.refreshed(&gateway).expect(401);
    gateway.get("/x").bearer(&third.access).send().expect_problem(401, "token_revoked");
}

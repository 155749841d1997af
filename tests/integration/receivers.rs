//! The receivers of events, as a provider sees them: what they acknowledge is in force, durably, and once.

use serde_json::{Value, json};

use crate::support::jwt::{Key, claims};
use crate::support::{Answer, Gateway, Setup, Upstream, now};

const ISS: &str = "https://id.example";
const DISABLED: &str = "https://schemas.openid.net/secevent/risc/event-type/account-disabled";
const LOGOUT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// A gateway that issues nothing itself, and the provider whose tokens it takes.
struct World {
    gateway: Gateway,
    key: Key,
    _upstream: Upstream,
}

impl World {
    fn start() -> Self {
        let (upstream, key) = (Upstream::echo(), Key::es256());
        let gateway = Setup::without_auth()
            .secret("keys/id.pem", key.public_pem())
            .section(&format!(
                "[[issuers]]\nname = \"id\"\nissuer = \"{ISS}\"\naudience = [\"api\"]\nalgorithms = [\"ES256\"]\n\
                 public_key_file = \"keys/id.pem\""
            ))
            .upstream("api", upstream.address())
            .route("api", "/", "api", "access")
            .start();
        Self { gateway, key, _upstream: upstream }
    }

    fn token(&self, subject: &str, session: &str) -> String {
        let more = json!({ "iss": ISS, "aud": "api", "sub": subject, "sid": session });
        self.key.token(&claims(&format!("{subject}-{session}"), &more))
    }

    fn statement(&self, typ: &str, more: &Value) -> String {
        let mut all = json!({ "iss": ISS, "aud": "api", "iat": now(), "jti": "e-1" });
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.key.token_with(&json!({ "typ": typ }), &all)
    }

    fn disabled(&self, subject: &str) -> String {
        let sub_id = json!({ "format": "iss_sub", "iss": ISS, "sub": subject });
        self.statement("secevent+jwt", &json!({ "sub_id": sub_id, "events": { DISABLED: {} } }))
    }

    fn push(&self, set: &str) -> Answer {
        self.gateway.post("/events/ssf").body("application/secevent+jwt", set).send()
    }

    fn log_out(&self, token: &str) -> Answer {
        self.gateway.post("/events/backchannel-logout").form(&[("logout_token", token)]).send()
    }

    #[track_caller]
    fn check(&self, token: &str, works: bool) {
        let answer = self.gateway.get("/x").bearer(token).send();
        match works {
            true => drop(answer.expect(200)),
            false => drop(answer.expect_problem(401, "token_revoked")),
        }
    }

    fn sequence(&self) -> Value {
        self.gateway.admin("GET", "/admin/watermark").send().expect(200).json()["sequence"].clone()
    }
}

#[test]
fn an_acknowledged_event_is_in_force_after_a_kill_and_does_not_come_back_when_it_is_sent_again() {
    let mut world = World::start();
    let (ada, bob) = (world.token("ada", "s1"), world.token("bob", "s2"));
    world.check(&ada, true);
    let set = world.disabled("ada");
    assert!(world.push(&set).expect(202).body.is_empty());
    world.check(&ada, false);
    world.check(&bob, true);

    world.gateway.kill9();
    world.gateway.restart();
    world.check(&ada, false);
    let row = world.gateway.entry("subject", "ada", "id").expect(200).json();
    assert_eq!(
        (&row["actor"], &row["reason"]),
        (&json!("event:id"), &json!("risc account-disabled")),
        "{row}"
    );

    // An administrator decides otherwise; the provider tries again.
    world.gateway.unrevoke("subject", "ada", "id").expect(200);
    world.check(&ada, true);
    let sequence = world.sequence();
    world.push(&set).expect(202);
    assert_eq!(world.sequence(), sequence, "no second effect");
    world.check(&ada, true);
}

#[test]
fn a_logout_token_ends_one_session_or_all() {
    let world = World::start();
    let (one, two) = (world.token("ada", "s1"), world.token("ada", "s2"));
    let token = |more: Value| {
        let mut all = json!({ "exp": now() + 120, "events": { LOGOUT: {} } });
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        world.statement("logout+jwt", &all)
    };
    let answer = world.log_out(&token(json!({ "sub": "ada", "sid": "s1", "jti": "1" }))).expect(200);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    world.check(&one, false);
    world.check(&two, true);
    world.log_out(&token(json!({ "sub": "ada", "jti": "2" }))).expect(200);
    world.check(&two, false);
    let answer = world.log_out(&token(json!({ "sub": "ada", "jti": "3", "nonce": "n" }))).expect(400);
    assert_eq!(answer.json()["error"], "invalid_request");
}

#[test]
fn neither_tokens_nor_statements_pass_for_each_other() {
    let world = World::start();
    let access = world.token("ada", "s1");
    assert_eq!(world.push(&access).expect(400).json()["err"], "invalid_request");
    world.log_out(&access).expect(400);
    world.check(&access, true);
    // Everything that an access token has, and events.
    let both = json!({ "sub": "ada", "exp": now() + 120, "events": { LOGOUT: {}, DISABLED: {} } });
    for typ in [json!(null), json!("JWT"), json!("at+jwt"), json!("logout+jwt"), json!("secevent+jwt")] {
        let mut all = json!({ "iss": ISS, "aud": "api", "iat": now(), "jti": "e-9" });
        all.as_object_mut().unwrap().extend(both.as_object().unwrap().clone());
        let statement = world.key.token_with(&json!({ "typ": typ }), &all);
        world.gateway.get("/x").bearer(&statement).send().expect_problem(401, "token_invalid");
    }
    let forged = Key::es256().token_with(&json!({ "typ": "secevent+jwt" }), &json!({ "iss": ISS }));
    assert_eq!(world.push(&forged).expect(400).json()["err"], "invalid_key");
}

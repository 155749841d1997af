//! A wall clock that jumps, under the real program: going back un-revokes nothing, and neither does a leap ahead that
//! turns out to be a mistake.

use std::fs;

use serde_json::json;

use crate::ledger::{legacy, setup};
use crate::shim::Shim;
use crate::support::jwt::claims;
use crate::support::{Gateway, now, wait_for};

const DAY: i64 = 24 * 3600;

/// The gateway's clock.
struct Clock {
    shim: Shim,
}

impl Clock {
    fn new() -> Self {
        let clock = Self { shim: Shim::new() };
        clock.set(0);
        clock
    }

    /// Wrong by so many seconds, from now on.
    fn set(&self, seconds: i64) {
        fs::write(self.shim.path("clock.new"), seconds.to_string()).unwrap();
        fs::rename(self.shim.path("clock.new"), self.shim.path("clock")).unwrap();
    }

    fn start(&self, revocation: &str) -> Gateway {
        setup()
            .environment("LD_PRELOAD", self.shim.library().to_str().unwrap())
            .environment("PORTCULLIS_SHIM_CLOCK", self.shim.path("clock").to_str().unwrap())
            .section(&format!("[revocation]\n{revocation}"))
            .start()
    }
}

/// A token that is good today and was good some days ago.
fn token(id: &str, subject: &str) -> String {
    let day = now();
    legacy().token(&claims(id, &json!({ "sub": subject, "iat": day - 5 * DAY, "exp": day + 2 * DAY })))
}

fn verdict(gateway: &Gateway, token: &str) -> (u16, String) {
    gateway.get("/x").bearer(token).send().verdict()
}

fn refused() -> (u16, String) {
    (401, "token_revoked".to_owned())
}

#[test]
fn a_clock_that_goes_back_revives_nothing() {
    let clock = Clock::new();
    let mut gateway = clock.start("");
    let [by_id, by_subject, good] =
        [("t", "x"), ("u", "ada"), ("v", "eve")].map(|(id, subject)| token(id, subject));
    let subject = json!({ "kind": "subject", "value": "ada", "issuer": "legacy" });
    gateway
        .revoke(&json!({ "kind": "token", "value": "t", "issuer": "legacy", "expires_at": now() + 2 * DAY }));
    gateway.revoke(&subject);
    let cutoff = |gateway: &Gateway| {
        gateway.entry("subject", "ada", "legacy").expect(200).json()["issued_before"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let before = cutoff(&gateway);
    clock.set(-3 * DAY);
    for restarted in [false, true] {
        assert_eq!(verdict(&gateway, &by_id), refused(), "restarted: {restarted}");
        assert_eq!(verdict(&gateway, &by_subject), refused(), "restarted: {restarted}");
        assert_eq!(verdict(&gateway, &good).0, 200, "restarted: {restarted}");
        // "Now" is earlier than it was; the later cutoff stays.
        gateway.revoke(&subject);
        assert_eq!(cutoff(&gateway), before, "restarted: {restarted}");
        gateway.kill9();
        gateway.restart();
    }
    // It really is three days ago over there: a token of yesterday comes from the future.
    let yesterday =
        legacy().token(&claims("w", &json!({ "sub": "eve", "iat": now() - DAY, "exp": now() + DAY })));
    assert_eq!(verdict(&gateway, &yesterday).1, "token_invalid");
    clock.set(0);
    assert_eq!(verdict(&gateway, &yesterday).0, 200);
    assert_eq!(verdict(&gateway, &by_id), refused());
    assert_eq!(verdict(&gateway, &by_subject), refused());
}

#[test]
fn a_leap_ahead_that_is_taken_back_revives_nothing() {
    let clock = Clock::new();
    let mut gateway = clock.start("snapshot_every = \"1s\"\nsnapshot_log_bytes = \"4KiB\"\n");
    let revoked = token("t", "x");
    gateway
        .revoke(&json!({ "kind": "token", "value": "t", "issuer": "legacy", "expires_at": now() + 2 * DAY }));
    for restarted in [false, true] {
        clock.set(400 * DAY);
        if restarted {
            gateway.restart();
        }
        assert_eq!(verdict(&gateway, &revoked).1, "token_expired", "it really is next year over there");
        // A snapshot of next year: the thread that takes it is the one that sweeps, once after each.
        gateway
            .revoke(&json!({ "kind": "token", "value": format!("other-{restarted}"), "issuer": "legacy" }));
        for _ in 0..2 {
            let sequence = gateway.revoke(&json!({ "kind": "session", "value": "s", "issuer": "legacy" }));
            wait_for("a snapshot", || {
                let snapshot =
                    gateway.admin("GET", "/admin/stats").send().expect(200).json()["snapshot"].clone();
                (snapshot["sequence"].as_u64() >= sequence["sequence"].as_u64()).then_some(())
            });
        }
        clock.set(0);
        assert_eq!(verdict(&gateway, &revoked), refused(), "restarted: {restarted}");
        gateway.restart();
        assert_eq!(verdict(&gateway, &revoked), refused(), "restarted: {restarted}");
    }
}

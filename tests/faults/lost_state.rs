//! The log is gone, or an old copy of it is back, and the store has seen more: `on_lost_state`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::ledger::{legacy, with_issuer};
use crate::mount::{files, tell};
use crate::support::jwt::claims;
use crate::support::{Account, Call, Gateway, Setup, now, wait_for};

/// What somebody restores, loses or deletes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// Segments and snapshots.
    Log,
    /// And the gateway's id.
    LogAndId,
    /// A backup of the log takes its place that lacks the newest revocations.
    OldCopy,
}

/// One login that was revoked and one that was not, one legacy token of each sort, and a log that is lost.
struct Lost {
    gateway: Gateway,
    good: Account,
    out: Account,
    revoked: String,
    never: String,
}

fn state(gateway: &Gateway) -> PathBuf {
    gateway.dir().join("state")
}

fn log_files(state: &Path) -> Vec<PathBuf> {
    ["log-", "snapshot-"].iter().flat_map(|beginning| files(state, beginning)).collect()
}

fn lose(policy: &str, loss: Loss) -> Lost {
    let mut gateway =
        with_issuer(Setup::new()).section(&format!("[revocation]\non_lost_state = \"{policy}\"\n")).start();
    let good = Account::sign_up(&gateway, "ada@example.com");
    let out = Account::sign_in(&gateway, "ada@example.com");
    let issued = json!({ "iat": now() - 60 });
    let [revoked, never] = ["revoked", "never"].map(|id| legacy().token(&claims(id, &issued)));
    let state = state(&gateway);
    let backup = gateway.dir().join("backup");
    fs::create_dir(&backup).unwrap();
    gateway.revoke(&json!({ "kind": "token", "value": "before-the-backup", "issuer": "legacy" }));
    gateway.kill9();
    for file in log_files(&state) {
        tell(Command::new("cp").arg("--archive").arg(&file).arg(&backup));
    }
    gateway.restart();
    gateway.revoke(&json!({ "kind": "token", "value": "revoked", "issuer": "legacy" }));
    gateway.post("/auth/logout").bearer(&out.access).send().expect(200);
    // A look at the trail waits until the store has seen it all.
    gateway.admin("GET", "/admin/revocations").send().expect(200);
    gateway.kill9();
    for file in log_files(&state) {
        fs::remove_file(file).unwrap();
    }
    match loss {
        Loss::Log => {}
        Loss::LogAndId => fs::remove_file(state.join("gateway-id")).unwrap(),
        Loss::OldCopy => {
            for file in log_files(&backup) {
                tell(Command::new("cp").arg("--archive").arg(&file).arg(&state));
            }
        }
    }
    Lost { gateway, good, out, revoked, never }
}

fn verdict(gateway: &Gateway, token: &str) -> (u16, String) {
    gateway.get("/x").bearer(token).send().verdict()
}

fn refused() -> (u16, String) {
    (401, "token_revoked".to_owned())
}

#[test]
fn after_a_loss_everything_issued_before_is_refused_and_what_comes_after_works() {
    for loss in [Loss::Log, Loss::LogAndId, Loss::OldCopy] {
        let Lost { mut gateway, good, out, revoked, never } = lose("cutoff", loss);
        gateway.restart();
        assert!(gateway.stderr().contains("the revocation log was lost"), "{}", gateway.stderr());
        for token in [&good.access, &out.access, &revoked, &never] {
            assert_eq!(verdict(&gateway, token), refused(), "{loss:?}");
        }
        good.refreshed(&gateway).expect_problem(401, "token_revoked");
        // The cutoff is the next whole second; after that a login works at once, and so do new tokens of others.
        let new = wait_for("a login to work", || {
            let account = Account::sign_in(&gateway, "ada@example.com");
            (verdict(&gateway, &account.access).0 == 200).then_some(account)
        });
        let issued = legacy().token(&claims("new", &json!({})));
        assert_eq!(verdict(&gateway, &issued).0, 200, "{loss:?}");
        // The trail goes on behind the loss. (Behind an old copy it once waited for ever for what was lost.)
        gateway.admin("GET", "/admin/revocations").send().expect(200);
        // It is an entry like any other, durable, and not made again by the next start.
        gateway.kill9();
        gateway.restart();
        assert!(!gateway.stderr().contains("was lost"), "{}", gateway.stderr());
        assert_eq!(verdict(&gateway, &new.access).0, 200, "{loss:?}");
        assert_eq!(verdict(&gateway, &issued).0, 200, "{loss:?}");
        assert_eq!(verdict(&gateway, &never), refused(), "{loss:?}");
        gateway.entry("issuer", "legacy", "legacy").expect(200);
        gateway.unrevoke("issuer", "legacy", "legacy").expect(200);
        assert_eq!(verdict(&gateway, &never).0, 200, "{loss:?}: who knows better can lift it");
    }
}

#[test]
fn a_gateway_told_to_refuse_does_not_start_without_its_log() {
    for loss in [Loss::Log, Loss::LogAndId, Loss::OldCopy] {
        let Lost { gateway, .. } = lose("refuse", loss);
        for _ in 0..2 {
            let ended = gateway.cli(&["run"]).expect(1);
            assert!(ended.stderr.contains("on_lost_state"), "{loss:?}: {}", ended.stderr);
            assert!(ended.stderr.contains(state(&gateway).to_str().unwrap()), "{loss:?}: {}", ended.stderr);
        }
    }
}

#[test]
fn a_gateway_told_to_start_empty_says_so_and_goes_on() {
    let Lost { mut gateway, good, revoked, never, .. } = lose("empty", Loss::Log);
    let seen = 2;
    gateway.restart();
    assert!(gateway.stderr().contains("may be accepted again"), "{}", gateway.stderr());
    for token in [&good.access, &revoked, &never] {
        assert_eq!(verdict(&gateway, token).0, 200, "that is what was asked for");
    }
    // No sequence is given out twice, or the trail would take new entries for old ones.
    let answer = gateway.revoke(&json!({ "kind": "token", "value": "revoked", "issuer": "legacy" }));
    assert!(answer["sequence"].as_u64().unwrap() > seen, "{answer}");
    gateway.kill9();
    gateway.restart();
    assert!(!gateway.stderr().contains("may be accepted again"), "{}", gateway.stderr());
    assert_eq!(verdict(&gateway, &revoked), refused());
    assert_eq!(Call::new(gateway.admin_address(), "GET", "/readyz").send().status, 200);
}

//! What was acknowledged outlives the process (CONTRACT §8): `kill -9`, restarts, torn tails, one gateway a directory.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::support::account::PASSWORD;
use crate::support::damage::flip_a_bit;
use crate::support::jwt::{Key, claims, claims_of};
use crate::support::{Account, Call, Gateway, Setup, Upstream, wait_for};

fn setup() -> Setup {
    let upstream = Upstream::echo();
    Setup::new()
        .secret("legacy.key", legacy().secret_bytes())
        .section("[[issuers]]\nname = \"legacy\"\nalgorithms = [\"HS256\"]\nsecret_file = \"legacy.key\"\n")
        .upstream("up", upstream.address())
        .route("api", "/", "up", "access")
}

fn legacy() -> Key {
    Key::secret("legacy")
}

fn item(id: &str) -> Value {
    json!({ "kind": "token", "issuer": "legacy", "value": id })
}

/// Status and code of a call with a token of `legacy` that has this id.
fn through(gateway: &Gateway, id: &str) -> (u16, String) {
    gateway.get("/x").bearer(&legacy().token(&claims(id, &json!({})))).send().verdict()
}

fn revoked() -> (u16, String) {
    (401, "token_revoked".to_owned())
}

/// The segments of the log, oldest first.
fn segments(gateway: &Gateway) -> Vec<PathBuf> {
    let state: &Path = &gateway.dir().join("state");
    let mut found: Vec<PathBuf> = fs::read_dir(state)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("log-"))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no segment in {}", state.display());
    found
}

#[test]
fn an_acknowledged_revocation_outlives_kill_9() {
    let mut gateway = setup().start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let other = Account::sign_in(&gateway, "ada@example.com");
    gateway.revoke(&item("t-1"));
    gateway.post("/auth/logout").bearer(&other.access).send().expect(200);
    gateway.revoke(&item("t-2"));
    gateway.unrevoke("token", "t-2", "legacy").expect(200);
    gateway.kill9();
    gateway.restart();
    assert_eq!(through(&gateway, "t-1"), revoked());
    assert_eq!(through(&gateway, "t-2").0, 200, "what was lifted stays lifted");
    assert_eq!(gateway.get("/x").bearer(&other.access).send().verdict(), revoked());
    other.refreshed(&gateway).expect_problem(401, "token_revoked");
    assert_eq!(gateway.get("/x").bearer(&ada.access).send().status, 200, "the signing key is still the same");
    Account::sign_in(&gateway, "ada@example.com");
}

#[test]
fn no_acknowledged_revocation_of_many_writers_is_lost() {
    const ROUNDS: usize = 5;
    const WRITERS: usize = 4;
    const ACKNOWLEDGED: usize = 80;
    let mut gateway = setup().start();
    let mut all = Vec::new();
    for round in 0..ROUNDS {
        let (address, token) = (gateway.admin_address(), gateway.admin_token().to_owned());
        let count = AtomicUsize::new(0);
        let write = |writer: usize| {
            let mut acknowledged = Vec::new();
            for number in 0.. {
                let id = format!("r{round}-w{writer}-{number}");
                let call = Call::new(address, "POST", "/admin/revocations").bearer(&token).json(&item(&id));
                let Some(answer) = call.try_send() else { break };
                assert_eq!(answer.status, 200, "{}", answer.text());
                acknowledged.push(id);
                count.fetch_add(1, Ordering::SeqCst);
            }
            acknowledged
        };
        let (write, count) = (&write, &count);
        thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || write(writer))).collect();
            wait_for("enough acknowledged revocations", || {
                (count.load(Ordering::SeqCst) >= ACKNOWLEDGED).then_some(())
            });
            gateway.kill9();
            for writer in writers {
                all.extend(writer.join().unwrap());
            }
        });
        gateway.restart();
        // Everything of every round so far, not only of this one.
        let lost: Vec<&String> =
            all.iter().filter(|id| gateway.entry("token", id, "legacy").status != 200).collect();
        assert!(lost.is_empty(), "round {round}: {} of {} lost: {lost:?}", lost.len(), all.len());
        for id in all.iter().rev().step_by(7) {
            assert_eq!(through(&gateway, id), revoked(), "round {round}: {id} is let through");
        }
        assert_eq!(through(&gateway, &format!("r{round}-never")).0, 200);
    }
}

#[test]
fn a_sign_up_is_whole_or_not_there_after_kill_9() {
    let mut gateway = setup().start();
    for round in 0..4 {
        let address = gateway.address();
        let count = AtomicUsize::new(0);
        // Each writer's acknowledged addresses, and the one it did not hear of any more.
        let write = |writer: usize| {
            let mut acknowledged = Vec::new();
            for number in 0.. {
                let email = format!("r{round}-w{writer}-{number}@example.com");
                let body = json!({ "email": email, "password": PASSWORD });
                let call = Call::new(address, "POST", "/auth/signup").json(&body);
                let Some(answer) = call.try_send() else { return (acknowledged, email) };
                assert_eq!(answer.status, 201, "{}", answer.text());
                acknowledged.push(email);
                count.fetch_add(1, Ordering::SeqCst);
            }
            unreachable!("the gateway is killed long before")
        };
        let (write, count) = (&write, &count);
        let ended: Vec<(Vec<String>, String)> = thread::scope(|scope| {
            let writers: Vec<_> = (0..3).map(|writer| scope.spawn(move || write(writer))).collect();
            wait_for("some sign-ups", || (count.load(Ordering::SeqCst) >= 6).then_some(()));
            gateway.kill9();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        gateway.restart();
        for (acknowledged, unheard) in ended {
            for email in acknowledged {
                assert_eq!(sessions(&gateway, &email), Some(2), "{email}: sign-up and sign-in");
            }
            // The last one is there with its session, or can be signed up as if nothing had been.
            match sessions(&gateway, &unheard) {
                Some(count) => assert_eq!(count, 2, "{unheard} is there without its session"),
                None => drop(Account::sign_up(&gateway, &unheard)),
            }
        }
    }
}

/// Signs in: how many sessions the account has then; `None` when there is no such account.
fn sessions(gateway: &Gateway, email: &str) -> Option<usize> {
    let body = json!({ "email": email, "password": PASSWORD });
    let answer = gateway.post("/auth/signin").json(&body).send();
    if answer.status == 401 {
        return None;
    }
    let account = Account::of(&answer.expect(200));
    let rows = gateway.get("/auth/sessions").bearer(&account.access).send().expect(200).json();
    Some(rows["data"].as_array().unwrap().len())
}

#[test]
fn a_clean_stop_and_a_start_keep_everything() {
    let mut gateway = setup().start();
    for number in 0..50 {
        gateway.revoke(&item(&format!("t-{number}")));
    }
    gateway.sigterm();
    assert_eq!(gateway.wait().code(), Some(0));
    gateway.restart();
    for number in 0..50 {
        assert_eq!(through(&gateway, &format!("t-{number}")), revoked());
    }
    let list = gateway.admin("GET", "/admin/revocations?limit=100").send().expect(200).json();
    assert_eq!(list["data"].as_array().unwrap().len(), 50);
    // The sequence goes on where it stopped.
    let before = list["data"][0]["sequence"].as_u64().unwrap();
    assert!(gateway.revoke(&item("one-more"))["sequence"].as_u64().unwrap() > before);
}

#[test]
fn a_second_gateway_on_the_same_state_does_not_start() {
    let gateway = setup().start();
    gateway.revoke(&item("t-1"));
    let second = gateway.cli(&["run"]).expect(1);
    let words = second.stderr.to_lowercase();
    assert!(words.contains("lock") || words.contains("another"), "{words}");
    assert_eq!(through(&gateway, "t-1"), revoked());
    gateway.revoke(&item("t-2"));
    assert_eq!(through(&gateway, "t-2"), revoked());
}

#[test]
fn a_torn_tail_is_cut_off_with_a_warning() {
    for cut in [1, 3, 7] {
        let mut gateway = setup().start();
        for number in 0..5 {
            gateway.revoke(&item(&format!("t-{number}")));
        }
        gateway.kill9();
        let last = segments(&gateway).pop().unwrap();
        let length = fs::metadata(&last).unwrap().len();
        OpenOptions::new().write(true).open(&last).unwrap().set_len(length - cut).unwrap();
        gateway.restart();
        for number in 0..4 {
            assert_eq!(through(&gateway, &format!("t-{number}")), revoked(), "{cut} bytes torn");
        }
        assert!(gateway.stderr().contains("WARN"), "no warning: {}", gateway.stderr());
        // And the log goes on from there.
        gateway.revoke(&item("t-4"));
        gateway.kill9();
        gateway.restart();
        assert_eq!(through(&gateway, "t-4"), revoked());
    }
}

#[test]
fn damage_before_the_tail_keeps_the_gate_shut() {
    let mut gateway = setup().start();
    for number in 0..20 {
        gateway.revoke(&item(&format!("t-{number}")));
    }
    gateway.kill9();
    let segment = segments(&gateway).pop().unwrap();
    flip_a_bit(&segment);
    let start = gateway.cli(&["run"]).expect(1);
    let name = segment.file_name().unwrap().to_string_lossy().into_owned();
    for words in [name.as_str(), "portcullis verify"] {
        assert!(start.stderr.contains(words), "{words} in {}", start.stderr);
    }
}

#[test]
fn rotation_and_reuse_are_remembered_over_a_restart() {
    let mut gateway = setup().start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let successor =
        ada.refreshed(&gateway).expect(200).json()["data"][0]["refresh_token"].as_str().unwrap().to_owned();
    gateway.post("/auth/refresh").bearer(&successor).send().expect(200);
    gateway.kill9();
    gateway.restart();
    ada.refreshed(&gateway).expect_problem(401, "token_revoked");
    let sid = claims_of(&ada.access)["sid"].as_str().unwrap().to_owned();
    gateway.entry("session", &sid, "self").expect(200);
}

//! A gateway of a fleet loses its log, or gets an old copy of it back; and the engine its data, too (CONTRACT §2
//! `on_lost_state`, §9). What was revoked stays refused, and nobody is logged out for nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::fleet::{cluster, passes, ready, refused, revoke, setup, start};
use crate::support::jwt::{Key, claims};
use crate::support::redis::Redis;
use crate::support::{Gateway, Upstream, now, wait_for};

/// A token that was issued a minute ago.
fn old(id: &str) -> String {
    Key::secret("legacy").token(&claims(id, &json!({ "iss": "https://id.test", "iat": now() - 60 })))
}

fn verdict(gateway: &Gateway, token: &str) -> (u16, String) {
    gateway.get("/x").bearer(token).send().verdict()
}

fn lets_in(gateway: &Gateway, token: &str) -> bool {
    match verdict(gateway, token) {
        (200, _) => true,
        (401, code) if code == "token_revoked" => false,
        other => panic!("{other:?}"),
    }
}

/// Its log and snapshots are gone; its id, and what the store knows of it, are not.
fn lose_log(gateway: &Gateway) {
    for entry in fs::read_dir(gateway.dir().join("state")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("log-") || name.starts_with("snapshot-") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("--archive").arg(from).arg(to).status().unwrap().success());
}

fn settled(gateway: &Gateway) {
    wait_for("the loss to be looked into", || {
        gateway.stderr().contains("the other gateways need not refuse").then_some(())
    });
}

#[test]
fn a_lost_log_is_no_reason_to_log_everybody_out_while_the_others_have_what_was_in_it() {
    let (mut engine, upstream) = (Redis::start(), Upstream::echo());
    let mut one = start(&engine.url(), &upstream, "");
    let two = start(&engine.url(), &upstream, "");
    revoke(&one, "a");
    revoke(&two, "b");
    refused(&two, "a");
    refused(&one, "b");
    one.admin("GET", "/admin/revocations").send().expect(200);
    one.kill9();
    lose_log(&one);
    one.restart();
    ready(&one);
    assert!(one.stderr().contains("the revocation log was lost"), "{}", one.stderr());
    settled(&one);
    assert!(!lets_in(&one, &old("x")), "it refuses what was issued before");
    assert!(lets_in(&two, &old("x")), "the others have lost nothing");
    assert!(!lets_in(&two, &old("a")) && !lets_in(&two, &old("b")));
    // What it takes over is in force behind the cutoff, which can be lifted.
    one.unrevoke("issuer", "legacy", "legacy").expect(200);
    assert!(lets_in(&one, &old("x")) && !lets_in(&one, &old("a")) && !lets_in(&one, &old("b")));

    // Again; and then the engine loses its data: what refills it must not bring the cutoff to the others.
    one.kill9();
    lose_log(&one);
    one.restart();
    ready(&one);
    settled(&one);
    engine.kill9();
    engine.empty();
    engine.begin();
    let three = start(&engine.url(), &upstream, "");
    refused(&three, "a");
    refused(&three, "b");
    wait_for("a revocation", || (revoke(&one, "c")["propagated"] == true).then_some(()));
    refused(&two, "c");
    refused(&three, "c");
    assert!(lets_in(&two, &old("x")) && lets_in(&three, &old("x")) && !lets_in(&one, &old("x")));
    // It is known after another start, too.
    one.restart();
    ready(&one);
    assert!(!lets_in(&one, &old("x")) && !lets_in(&one, &old("a")));
    assert!(lets_in(&two, &old("x")));
}

#[test]
fn everybody_refuses_what_was_issued_before_where_a_revocation_is_lost_everywhere() {
    let (mut engine, upstream) = (Redis::start(), Upstream::echo());
    let mut one = start(&engine.url(), &upstream, "");
    let two = start(&engine.url(), &upstream, "");
    revoke(&one, "a");
    refused(&two, "a");
    engine.kill9();
    wait_for("the link to be down", || (cluster(&one)["connected"] == false).then_some(()));
    // Acknowledged, and nobody but this gateway has it.
    assert_eq!(revoke(&one, "unheard")["propagated"], false);
    one.admin("GET", "/admin/revocations").send().expect(200);
    one.kill9();
    lose_log(&one);
    engine.begin();
    one.restart();
    assert!(!lets_in(&one, &old("unheard")) && !lets_in(&one, &old("x")), "whatever the others do");
    wait_for("the cutoff to come", || (!lets_in(&two, &old("unheard"))).then_some(()));
    assert!(!lets_in(&two, &old("x")));
    let row = two.entry("issuer", "legacy", "legacy").expect(200).json();
    assert_eq!(row["reason"], "the revocation log was lost", "{row}");
    assert!(passes(&one, "new") && passes(&two, "new"), "what was issued since is good");
    // Whoever comes later is told as well.
    let three = start(&engine.url(), &upstream, "");
    assert!(!lets_in(&three, &old("unheard")) && !passes(&three, "a") && passes(&three, "new"));
    // It is an entry like any other by now.
    two.unrevoke("issuer", "legacy", "legacy").expect(200);
    wait_for("the lift", || lets_in(&one, &old("x")).then_some(()));
    wait_for("the lift", || lets_in(&three, &old("x")).then_some(()));
}

#[test]
fn an_old_copy_of_a_whole_state_directory_is_noticed_by_what_the_shared_log_has_seen() {
    let (mut engine, upstream) = (Redis::start(), Upstream::echo());
    let mut one = start(&engine.url(), &upstream, "");
    let two = start(&engine.url(), &upstream, "");
    revoke(&one, "a");
    refused(&two, "a");
    one.admin("GET", "/admin/revocations").send().expect(200);
    one.kill9();
    let (state, backup) = (one.dir().join("state"), one.dir().join("backup"));
    copy(&state, &backup);
    one.restart();
    ready(&one);
    revoke(&one, "b");
    refused(&two, "b");
    one.kill9();
    copy(&backup, &state);
    one.restart();
    ready(&one);
    assert!(one.stderr().contains("the revocation log was lost"), "{}", one.stderr());
    assert!(!lets_in(&one, &old("x")) && lets_in(&two, &old("x")));
    refused(&one, "b");
    revoke(&one, "c");
    refused(&two, "c");

    // The same while the engine is away: noticed when it is back.
    one.kill9();
    copy(&backup, &state);
    engine.kill9();
    one.restart_unready();
    assert!(lets_in(&one, &old("x")), "nobody can know");
    engine.begin();
    wait_for("the cutoff", || (!lets_in(&one, &old("x"))).then_some(()));
    assert!(one.stderr().contains("is an old copy"), "{}", one.stderr());
    ready(&one);
    refused(&one, "b");
    refused(&one, "c");
    assert!(lets_in(&two, &old("x")));
    revoke(&one, "d");
    refused(&two, "d");
}

#[test]
fn who_starts_empty_after_a_loss_serves_nobody_before_it_has_what_the_others_know() {
    let (mut engine, upstream) = (Redis::start(), Upstream::echo());
    let more = "max_staleness = \"1s\"\n[revocation]\non_lost_state = \"empty\"\n";
    let mut one = setup(&engine.url(), &upstream, more).start();
    ready(&one);
    let two = start(&engine.url(), &upstream, "");
    revoke(&one, "a");
    refused(&two, "a");
    one.kill9();
    lose_log(&one);
    engine.kill9();
    one.restart_unready();
    let refusal = || verdict(&one, &old("a"));
    assert_eq!(refusal(), (503, "stale_revocations".to_owned()));
    engine.begin();
    ready(&one);
    assert!(!lets_in(&one, &old("a")) && lets_in(&one, &old("x")));
}

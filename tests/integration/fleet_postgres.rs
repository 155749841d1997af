//! The same fleet with its shared log in a real PostgreSQL: accepted and refused while it is away, stale, lost and refilled.

use std::time::Duration;

use serde_json::json;

use crate::fleet::{cluster, let_in, passes, ready, refused, revoke, setup, start, try_revoke};
use crate::support::postgres::Postgres;
use crate::support::{Call, Gateway, Upstream, wait_for};

#[test]
fn what_one_revokes_all_refuse_and_the_fleet_is_shown() {
    let (engine, upstream) = (Postgres::start(), Upstream::echo());
    let mut fleet: Vec<Gateway> = (0..3).map(|_| start(&engine.url(), &upstream, "")).collect();
    for (number, gateway) in fleet.iter().enumerate() {
        let id = format!("t{number}");
        assert!(fleet.iter().all(|other| passes(other, &id)));
        assert_eq!(revoke(gateway, &id)["propagated"], true);
        assert!(!passes(gateway, &id), "at once where it was asked for");
        fleet.iter().for_each(|other| refused(other, &id));
    }
    assert_eq!(fleet[1].unrevoke("token", "t0", "legacy").expect(200).json()["propagated"], true);
    fleet.iter().for_each(|other| let_in(other, "t0"));
    fleet.iter().for_each(|other| refused(other, "t1"));
    let lines: String = (0..3000)
        .map(|n| format!("{{\"kind\":\"token\",\"issuer\":\"legacy\",\"value\":\"bulk{n}\"}}\n"))
        .collect();
    let bulk = fleet[0].admin("POST", "/admin/revocations").body("application/x-ndjson", lines);
    assert_eq!(bulk.send().expect(200).json()["accepted"], 3000);
    refused(&fleet[1], "bulk2999");
    assert!(!passes(&fleet[1], "bulk0"));
    // A watermark of one holds on another.
    let body = json!({ "kind": "token", "issuer": "legacy", "value": "marked" });
    let asked = fleet[0].admin("POST", "/admin/revocations").header("Portcullis-Watermark", "?1").json(&body);
    let watermark = asked.send().expect(200).header("portcullis-watermark").unwrap().to_owned();
    fleet[2].get("/open").header("Portcullis-Min-Watermark", &watermark).send().expect(200);
    assert!(!passes(&fleet[2], "marked"));

    // Everybody is listed, also who is gone; the command tells the same.
    let listed = wait_for("all gateways to be ready in the list", || {
        let rows = fleet[0].admin("GET", "/admin/fleet").send().expect(200).json()["data"].clone();
        let rows = rows.as_array().unwrap().clone();
        (rows.len() == 3 && rows.iter().all(|row| row["state"] == "ready")).then_some(rows)
    });
    assert_eq!(listed.iter().filter(|row| row["self"] == true).count(), 1);
    fleet[2].kill9();
    let told = fleet[1].cli(&["fleet"]).expect(0).stdout;
    assert!(told.contains("of 3 ready"), "{told}");
    assert_eq!(fleet[1].cli(&["fleet", "--json"]).expect(0).json()["data"].as_array().unwrap().len(), 3);
    // Restarted it has everything, whoever was away.
    fleet[2].restart();
    ready(&fleet[2]);
    assert!(!passes(&fleet[2], "t1") && !passes(&fleet[2], "bulk2999") && passes(&fleet[2], "t0"));
    let new = start(&engine.url(), &upstream, "");
    assert!(!passes(&new, "t1") && !passes(&new, "bulk0") && passes(&new, "t0"));
}

#[test]
fn what_was_accepted_while_the_engine_was_away_is_forwarded_and_what_was_refused_is_not() {
    let (mut engine, upstream) = (Postgres::start(), Upstream::echo());
    let mut one = start(&engine.url(), &upstream, "");
    let two = start(&engine.url(), &upstream, "");
    let strict = start(&engine.url(), &upstream, "when_unreachable = \"refuse\"\n");
    revoke(&one, "before");
    refused(&two, "before");

    // It accepts connections and does not answer.
    engine.signal("STOP");
    assert_eq!(revoke(&one, "stopped")["propagated"], false);
    assert!(!passes(&one, "stopped") && passes(&two, "stopped"));
    try_revoke(&strict, "strict").expect_problem(503, "log_unavailable");
    assert!(passes(&strict, "strict"));
    std::thread::sleep(Duration::from_millis(2500));
    engine.signal("CONT");
    refused(&two, "stopped");

    // It is gone, and so is the gateway for a while.
    wait_for("the link", || (cluster(&one)["connected"] == true).then_some(()));
    engine.kill9();
    wait_for("the link to be down", || (cluster(&one)["connected"] == false).then_some(()));
    assert_eq!(revoke(&one, "gone")["propagated"], false);
    assert_eq!(one.unrevoke("token", "before", "legacy").expect(200).json()["propagated"], false);
    one.kill9();
    engine.begin();
    one.restart();
    refused(&two, "gone");
    let_in(&two, "before");
    wait_for("the strict one", || (try_revoke(&strict, "after").status == 200).then_some(()));
    refused(&one, "after");
    assert!(passes(&two, "strict"), "what was refused has no effect later");
}

#[test]
fn an_engine_that_lost_its_data_or_fell_back_to_an_older_copy_gets_it_again() {
    // The machine does not lose its power here, and a recovery that syncs every file twice takes minutes on a busy disk.
    let engine = Postgres::start_on(5432, &["fsync=off"], |_| {});
    let (mut engine, upstream) = (engine, Upstream::echo());
    let one = start(&engine.url(), &upstream, "");
    let two = start(&engine.url(), &upstream, "");
    revoke(&one, "a");
    refused(&two, "a");
    engine.kill9();
    let copy = engine.copied();
    engine.begin();
    ready(&one);
    ready(&two);
    revoke(&two, "b");
    refused(&one, "b");
    engine.kill9();
    engine.replaced_by(&copy);
    engine.begin();
    ready(&one);
    ready(&two);
    let three = start(&engine.url(), &upstream, "");
    ["a", "b"].iter().for_each(|id| refused(&three, id));

    // Everything is gone without a connection having been lost.
    engine.sql("DROP SCHEMA portcullis_log_portcullis CASCADE");
    wait_for("a revocation", || (revoke(&two, "c")["propagated"] == true).then_some(()));
    refused(&one, "c");
    let four = start(&engine.url(), &upstream, "");
    ["a", "b", "c"].iter().for_each(|id| refused(&four, id));
}

#[test]
fn who_hears_nothing_for_too_long_says_so_or_refuses() {
    let (engine, upstream) = (Postgres::start(), Upstream::echo());
    let serves = start(&engine.url(), &upstream, "max_staleness = \"1s\"\n");
    let refuses = start(&engine.url(), &upstream, "max_staleness = \"1s\"\nwhen_stale = \"refuse\"\n");
    engine.signal("STOP");
    wait_for("staleness", || (cluster(&serves)["stale"] == true).then_some(()));
    assert!(passes(&serves, "x"));
    wait_for("unreadiness", || {
        (Call::new(refuses.admin_address(), "GET", "/readyz").send().status == 503).then_some(())
    });
    assert_eq!(refuses.get("/open").send().status, 200, "public routes need no revocations");
    engine.signal("CONT");
    for gateway in [&serves, &refuses] {
        ready(gateway);
        let_in(gateway, "x");
    }
    // One that never saw the engine.
    let nowhere = setup("postgres://gate@127.0.0.1:9/log", &upstream, "max_staleness = \"1s\"\n").start();
    assert_eq!(cluster(&nowhere)["connected"], false);
}

//! Gateways that share their log through a real Redis (CONTRACT §9): what one revokes the others refuse, whatever happens
//! to the engine in between.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::fault::{Fault, FaultProxy};
use crate::support::jwt::{Key, claims};
use crate::support::pki::Authority;
use crate::support::redis::{Redis, command_at, free_port};
use crate::support::{Gateway, Setup, Upstream, wait_for};

/// A gateway of the fleet on this engine, with more lines of `[revocation.cluster]`.
pub(crate) fn setup(url: &str, upstream: &Upstream, lines: &str) -> Setup {
    Setup::without_auth()
        .secret("legacy.key", Key::secret("legacy").secret_bytes())
        .section(
            "[[issuers]]\nname = \"legacy\"\nissuer = \"https://id.test\"\nalgorithms = [\"HS256\"]\n\
             secret_file = \"legacy.key\"\n",
        )
        .section(&format!("[revocation.cluster]\nurl = \"{url}\"\n{lines}"))
        .upstream("up", upstream.address())
        .route("open", "/open", "up", "public")
        .route("api", "/", "up", "access")
}

pub(crate) fn start(url: &str, upstream: &Upstream, lines: &str) -> Gateway {
    let gateway = setup(url, upstream, lines).start();
    ready(&gateway);
    gateway
}

pub(crate) fn ready(gateway: &Gateway) {
    wait_for("the gateway to be ready", || {
        (crate::support::Call::new(gateway.admin_address(), "GET", "/readyz").send().status == 200)
            .then_some(())
    });
    wait_for("the link", || (cluster(gateway)["connected"] == true).then_some(()));
}

pub(crate) fn cluster(gateway: &Gateway) -> Value {
    gateway.admin("GET", "/admin/watermark").send().expect(200).json()["cluster"].clone()
}

fn token(id: &str) -> String {
    Key::secret("legacy").token(&claims(id, &json!({ "iss": "https://id.test" })))
}

/// Whether the gate lets this token through; anything but yes or "revoked" fails.
#[track_caller]
pub(crate) fn passes(gateway: &Gateway, id: &str) -> bool {
    match gateway.get("/x").bearer(&token(id)).send().verdict() {
        (200, _) => true,
        (401, code) if code == "token_revoked" => false,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn refused(gateway: &Gateway, id: &str) {
    wait_for(&format!("{id} to be refused"), || (!passes(gateway, id)).then_some(()));
}

pub(crate) fn let_in(gateway: &Gateway, id: &str) {
    wait_for(&format!("{id} to be let in"), || passes(gateway, id).then_some(()));
}

pub(crate) fn revoke(gateway: &Gateway, id: &str) -> Value {
    gateway.revoke(&json!({ "kind": "token", "issuer": "legacy", "value": id, "reason": "a test" }))
}

/// The same, whatever comes of it.
pub(crate) fn try_revoke(gateway: &Gateway, id: &str) -> crate::support::Answer {
    let body = json!({ "kind": "token", "issuer": "legacy", "value": id });
    gateway.admin("POST", "/admin/revocations").json(&body).send()
}

#[test]
fn what_one_revokes_all_refuse_and_what_one_takes_back_all_let_in() {
    let (engine, upstream) = (Redis::start(), Upstream::echo());
    let fleet: Vec<Gateway> = (0..3).map(|_| start(&engine.url(), &upstream, "")).collect();
    for (number, gateway) in fleet.iter().enumerate() {
        let id = format!("t{number}");
        assert!(fleet.iter().all(|other| passes(other, &id)));
        assert_eq!(revoke(gateway, &id)["propagated"], true);
        assert!(!passes(gateway, &id), "at once where it was asked for");
        fleet.iter().for_each(|other| refused(other, &id));
    }
    // Selectors with a cutoff travel too.
    let body = json!({ "kind": "issuer", "issuer": "legacy", "value": "", "issued_before": 1000 });
    fleet[0].revoke(&body);
    let row = wait_for("the entry", || {
        let answer = fleet[2].admin("GET", "/admin/revocations/issuer/legacy?issuer=legacy").send();
        (answer.status == 200).then(|| answer.json())
    });
    assert_eq!(row["issued_before"], "1970-01-01T00:16:40Z");
    // Another gateway may take it back.
    assert_eq!(fleet[1].unrevoke("token", "t0", "legacy").expect(200).json()["propagated"], true);
    fleet.iter().for_each(|other| let_in(other, "t0"));
    fleet.iter().for_each(|other| refused(other, "t1"));
    // The trail tells where it came from.
    let list = fleet[2].admin("GET", "/admin/revocations?value=t1").send().expect(200).json();
    assert!(list["data"][0]["address"].as_str().unwrap().contains("gateway "), "{list}");
    assert_eq!(list["data"][0]["reason"], "a test");
    let metrics = fleet[2].metrics();
    assert!(metrics.contains("portcullis_fleet_connected 1"), "{metrics}");
    let counted = metrics.lines().find(|line| line.starts_with("portcullis_propagation_seconds_count"));
    assert!(counted.is_some_and(|line| !line.ends_with(" 0")), "{counted:?}");
    // A bulk does, in one piece.
    let lines: String = (0..3000)
        .map(|n| format!("{{\"kind\":\"token\",\"issuer\":\"legacy\",\"value\":\"bulk{n}\"}}\n"))
        .collect();
    let bulk = fleet[0].admin("POST", "/admin/revocations").body("application/x-ndjson", lines);
    assert_eq!(bulk.send().expect(200).json()["accepted"], 3000);
    refused(&fleet[1], "bulk2999");
    assert!(!passes(&fleet[1], "bulk0"));
    // So does an array of more than one append carries.
    let items: Vec<Value> = (0..20_000)
        .map(|n| json!({ "kind": "token", "issuer": "legacy", "value": format!("array{n}") }))
        .collect();
    assert_eq!(fleet[0].revoke(&Value::from(items))["accepted"], 20_000);
    assert!(!passes(&fleet[0], "array19999"));
    refused(&fleet[1], "array19999");
    assert!(!passes(&fleet[1], "array0"));
}

#[test]
fn a_watermark_proves_that_a_revocation_holds_elsewhere() {
    let (engine, upstream) = (Redis::start(), Upstream::echo());
    let proxy = FaultProxy::before(engine.address());
    let one = start(&engine.url(), &upstream, "");
    let two = start(&format!("redis://{}", proxy.address()), &upstream, "");
    for n in 0..20 {
        let id = format!("w{n}");
        let body = json!({ "kind": "token", "issuer": "legacy", "value": id });
        let asked = one.admin("POST", "/admin/revocations").header("Portcullis-Watermark", "?1").json(&body);
        let watermark = asked.send().expect(200).header("portcullis-watermark").unwrap().to_owned();
        let call = two.get("/x").bearer(&token(&id)).header("Portcullis-Min-Watermark", &watermark);
        call.send().expect_problem(401, "token_revoked");
    }
    let answer = two.get("/open").header("Portcullis-Watermark", "?1").send().expect(200);
    let seen = answer.header("portcullis-watermark").unwrap().to_owned();
    assert!(!answer.text().to_lowercase().contains("portcullis-watermark"), "not for the upstream");
    assert!(two.get("/open").send().header("portcullis-watermark").is_none(), "on demand only");
    two.get("/open").header("Portcullis-Min-Watermark", &seen).send().expect(200);
    let call = two.get("/open").header("Portcullis-Min-Watermark", "nonsense");
    call.send().expect_problem(400, "invalid_request");
    // Who cannot hear of it cannot say that it holds.
    proxy.set(Fault::BlackHole);
    let body = json!({ "kind": "token", "issuer": "legacy", "value": "unheard" });
    let asked = one.admin("POST", "/admin/revocations").header("Portcullis-Watermark", "?1").json(&body);
    let watermark = asked.send().expect(200).header("portcullis-watermark").unwrap().to_owned();
    let call = two.get("/open").header("Portcullis-Min-Watermark", &watermark);
    let refused = call.send().expect_problem(503, "stale_revocations");
    assert!(refused.header("retry-after").is_some(), "{:?}", refused.headers);
    proxy.set(Fault::Cut);
    proxy.set(Fault::None);
    wait_for("the watermark", || (call.send().status == 200).then_some(()));
    // Alone, the sequence is the watermark.
    let alone = Setup::without_auth().upstream("up", upstream.address()).route("open", "/", "up", "public");
    let alone = alone.start();
    assert_eq!(cluster(&alone), Value::Null);
    let answer = alone.get("/x").header("Portcullis-Watermark", "?1").send().expect(200);
    assert_eq!(answer.header("portcullis-watermark"), Some("0"));
}

#[test]
fn what_was_accepted_while_the_engine_was_away_is_forwarded_also_after_a_restart() {
    let (mut engine, upstream) = (Redis::start(), Upstream::echo());
    let mut one = start(&engine.url(), &upstream, "");
    let two = start(&engine.url(), &upstream, "");
    revoke(&one, "before");
    refused(&two, "before");

    // It accepts connections and does not answer.
    engine.signal("STOP");
    let told = revoke(&one, "stopped");
    assert_eq!(told["propagated"], false, "{told}");
    assert!(!passes(&one, "stopped") && passes(&two, "stopped"));
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
    assert!(!passes(&one, "gone") && passes(&one, "before"));
    assert_eq!(cluster(&one)["outbox"], 0);
    wait_for("the link", || (revoke(&one, "after")["propagated"] == true).then_some(()));
}

#[test]
fn nothing_is_accepted_without_the_engine_where_that_is_wanted() {
    let (mut engine, upstream) = (Redis::start(), Upstream::echo());
    let lines = "when_unreachable = \"refuse\"\n";
    let one = start(&engine.url(), &upstream, lines);
    let two = start(&engine.url(), &upstream, lines);
    assert_eq!(revoke(&one, "a")["propagated"], true);
    assert!(!passes(&one, "a"));
    refused(&two, "a");
    one.unrevoke("token", "a", "legacy").expect(200);
    let_in(&two, "a");

    engine.signal("STOP");
    let answer = try_revoke(&one, "stopped").expect_problem(503, "log_unavailable");
    assert!(answer.header("retry-after").is_some(), "{:?}", answer.headers);
    assert!(passes(&one, "stopped"));
    std::thread::sleep(Duration::from_millis(1500));
    engine.signal("CONT");
    wait_for("the engine", || (try_revoke(&one, "b").status == 200).then_some(()));
    refused(&two, "b");
    assert!(passes(&one, "stopped") && passes(&two, "stopped"), "what was refused has no effect later");

    engine.kill9();
    wait_for("the refusal", || (try_revoke(&one, "gone").status == 503).then_some(()));
    assert!(passes(&one, "gone"));
    engine.begin();
    wait_for("the engine", || (try_revoke(&one, "c").status == 200).then_some(()));
    refused(&two, "c");
    assert!(passes(&two, "gone"));
}

#[test]
fn an_engine_that_lost_its_data_gets_it_again() {
    let (mut engine, upstream) = (Redis::start(), Upstream::echo());
    let mut one = start(&engine.url(), &upstream, "");
    let two = start(&engine.url(), &upstream, "");
    revoke(&one, "a");
    revoke(&two, "b");
    refused(&one, "b");
    refused(&two, "a");

    // Its maker is away: nothing is lost while one gateway lives.
    one.kill9();
    engine.kill9();
    engine.empty();
    engine.begin();
    let three = start(&engine.url(), &upstream, "");
    refused(&three, "a");
    refused(&three, "b");
    one.restart();
    ready(&one);
    assert!(!passes(&one, "a") && !passes(&one, "b"));
    revoke(&one, "c");
    refused(&two, "c");
    refused(&three, "c");

    // Everything is gone without a connection having been lost.
    engine.command(&["FLUSHALL"]);
    wait_for("the refill", || (engine.command(&["EXISTS", "{portcullis}:live"]) == ":1\r\n").then_some(()));
    wait_for("a revocation", || (revoke(&two, "d")["propagated"] == true).then_some(()));
    refused(&one, "d");
    let four = start(&engine.url(), &upstream, "");
    ["a", "b", "c", "d"].iter().for_each(|id| refused(&four, id));
}

#[test]
fn an_engine_that_fell_back_to_an_older_copy_gets_what_it_lacks() {
    let (mut engine, upstream) = (Redis::start(), Upstream::echo());
    let one = start(&engine.url(), &upstream, "");
    let two = start(&engine.url(), &upstream, "");
    revoke(&one, "old");
    refused(&two, "old");
    // The file is synced every second.
    wait_for("the disk", || {
        engine.command(&["INFO", "persistence"]).contains("aof_pending_bio_fsync:0").then_some(())
    });
    let copy = engine.copy();
    revoke(&one, "lost1");
    revoke(&two, "lost2");
    refused(&one, "lost2");
    refused(&two, "lost1");
    engine.kill9();
    engine.restore(&copy);
    engine.begin();
    let three = start(&engine.url(), &upstream, "");
    ["old", "lost1", "lost2"].iter().for_each(|id| refused(&three, id));
    assert!(!passes(&one, "lost2") && !passes(&two, "lost1"));
    wait_for("a revocation", || (revoke(&two, "new")["propagated"] == true).then_some(()));
    refused(&one, "new");
    refused(&three, "new");
}

#[test]
fn who_hears_nothing_for_too_long_says_so_or_refuses() {
    let (engine, upstream) = (Redis::start(), Upstream::echo());
    let proxy = FaultProxy::before(engine.address());
    let url = format!("redis://{}", proxy.address());
    let serves = start(&url, &upstream, "max_staleness = \"1s\"\n");
    let refuses = start(&url, &upstream, "max_staleness = \"1s\"\nwhen_stale = \"refuse\"\n");
    assert!(passes(&serves, "x") && passes(&refuses, "x"));
    assert_eq!(cluster(&serves)["lag_ms"], 0);

    proxy.set(Fault::HalfOpen);
    wait_for("staleness", || (cluster(&serves)["stale"] == true).then_some(()));
    assert!(passes(&serves, "x"));
    assert!(cluster(&serves)["lag_ms"].as_u64().unwrap() >= 1000);
    let stale = wait_for("the refusal", || {
        let answer = refuses.get("/x").bearer(&token("x")).send();
        (answer.status == 503).then_some(answer)
    });
    let stale = stale.expect_problem(503, "stale_revocations");
    assert!(stale.header("retry-after").is_some(), "{:?}", stale.headers);
    assert_eq!(refuses.get("/open").send().status, 200, "public routes need no revocations");
    let readyz =
        |gateway: &Gateway| crate::support::Call::new(gateway.admin_address(), "GET", "/readyz").send();
    assert!(readyz(&refuses).expect(503).text().contains("nothing was heard from the shared log"));
    readyz(&serves).expect(200);

    // At the start without an engine.
    let new = setup(&url, &upstream, "max_staleness = \"6s\"\n").start_unready();
    assert!(readyz(&new).expect(503).text().contains("not caught up"));
    wait_for("readiness", || (readyz(&new).status == 200).then_some(()));
    assert_eq!(cluster(&new)["stale"], true);
    let shut = setup(&url, &upstream, "max_staleness = \"1s\"\nwhen_stale = \"refuse\"\n").start_unready();
    shut.get("/x").bearer(&token("x")).send().expect_problem(503, "stale_revocations");

    proxy.set(Fault::Cut);
    proxy.set(Fault::Delay(Duration::from_millis(20)));
    for gateway in [&serves, &refuses, &new, &shut] {
        ready(gateway);
        let_in(gateway, "x");
    }
    revoke(&shut, "late");
    refused(&serves, "late");
}

#[test]
fn a_gateway_that_was_away_for_too_long_takes_over_the_state() {
    let (engine, upstream) = (Redis::start(), Upstream::echo());
    let mut one = start(&engine.url(), &upstream, "");
    let two = start(&engine.url(), &upstream, "");
    for id in ["stays", "lifted"] {
        revoke(&two, id);
        refused(&one, id);
    }
    one.kill9();
    revoke(&two, "missed");
    two.unrevoke("token", "lifted", "legacy").expect(200);
    // What it would have followed is trimmed.
    engine.command(&["XTRIM", "{portcullis}:live", "MAXLEN", "0"]);
    one.restart();
    ready(&one);
    assert!(!passes(&one, "missed") && !passes(&one, "stays") && passes(&one, "lifted"));
    assert!(passes(&two, "lifted"), "nobody brought it back");
    // It is remembered without the engine.
    one.kill9();
    one.restart();
    assert!(!passes(&one, "missed") && passes(&one, "lifted"));
}

#[test]
fn replicas_that_are_asked_for_must_have_it() {
    let (engine, upstream) = (Redis::start(), Upstream::echo());
    let lines = "wait_replicas = 1\n";
    let one = start(&engine.url(), &upstream, lines);
    assert_eq!(revoke(&one, "a")["propagated"], false);
    let strict = start(&engine.url(), &upstream, "wait_replicas = 1\nwhen_unreachable = \"refuse\"\n");
    try_revoke(&strict, "b").expect_problem(503, "log_unavailable");
    assert!(passes(&strict, "b"));
    let replica = Redis::start_with(&format!("replicaof 127.0.0.1 {}\n", engine.port()));
    wait_for("the replica", || (revoke(&one, "c")["propagated"] == true).then_some(()));
    wait_for("the replica", || (try_revoke(&strict, "d").status == 200).then_some(()));
    drop(replica);
}

#[test]
fn tls_a_user_of_the_access_control_list_and_a_password_in_a_file() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (server, client) = (ours.issue(&["localhost"]), ours.issue(&["gateway"]));
    let port = free_port();
    let settings = format!(
        "tls-port {port}\ntls-cert-file {{dir}}/cert.pem\ntls-key-file {{dir}}/key.pem\n\
         tls-ca-cert-file {{dir}}/ca.pem\ntls-auth-clients yes\nuser default off\n\
         user gate on >hunter2 ~{{gates}}:* +@all -config -info\n"
    );
    let engine = Redis::start_as("redis-server", &settings, |dir| {
        fs::write(dir.join("cert.pem"), &server.cert).unwrap();
        fs::write(dir.join("key.pem"), &server.key).unwrap();
        fs::write(dir.join("ca.pem"), &ours.pem).unwrap();
    });
    let upstream = Upstream::echo();
    let url = |password: &str| {
        format!(
            "rediss://gate@localhost:{port}?password_file={password}&ca_file=ca.pem&cert_file=c.pem&key_file=k.pem"
        )
    };
    let with = |password: &str, ca: &Authority| {
        setup(&url(password), &upstream, "namespace = \"gates\"\n")
            .secret("good", "hunter2\n")
            .secret("bad", "hunter3\n")
            .secret("ca.pem", &ca.pem)
            .secret("c.pem", &client.cert)
            .secret("k.pem", &client.key)
    };
    let one = with("good", &ours).start();
    let two = with("good", &ours).start();
    ready(&one);
    ready(&two);
    assert_eq!(revoke(&one, "a")["propagated"], true);
    refused(&two, "a");
    assert!(one.stderr().contains("it does not tell its settings"), "{}", one.stderr());

    let denied = with("bad", &ours).start_unready();
    wait_for("the refusal", || denied.stderr().contains("the link to the shared log is down").then_some(()));
    assert_eq!(revoke(&denied, "b")["propagated"], false);
    assert!(!denied.stderr().contains("hunter3"), "{}", denied.stderr());
    let strangers = with("good", &theirs).start_unready();
    wait_for("the refusal", || {
        strangers.stderr().contains("the link to the shared log is down").then_some(())
    });
    drop(engine);
}

#[test]
fn sentinels_tell_where_the_primary_is() {
    let (mut primary, upstream) = (Redis::start(), Upstream::echo());
    let replica = Redis::start_with(&format!("appendonly yes\nreplicaof 127.0.0.1 {}\n", primary.port()));
    wait_for("the replica", || {
        primary.command(&["INFO", "replication"]).contains("state=online").then_some(())
    });
    let settings = format!(
        "sentinel monitor main 127.0.0.1 {} 1\nsentinel down-after-milliseconds main 1000\n\
         sentinel failover-timeout main 5000\n",
        primary.port()
    );
    let sentinel = Redis::start_as("redis-sentinel", &settings, |_| {});
    wait_for("the replica to be known", || {
        sentinel
            .command(&["SENTINEL", "replicas", "main"])
            .contains(&replica.port().to_string())
            .then_some(())
    });
    let url = format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port());
    let one = start(&url, &upstream, "");
    let two = start(&url, &upstream, "");
    revoke(&one, "a");
    refused(&two, "a");
    wait_for("the replica", || {
        (replica.command(&["XLEN", "{portcullis}:live"]) == primary.command(&["XLEN", "{portcullis}:live"]))
            .then_some(())
    });
    primary.kill9();
    wait_for("the failover", || command_at(replica.address(), &["ROLE"]).contains("master").then_some(()));
    wait_for("a revocation", || (revoke(&one, "b")["propagated"] == true).then_some(()));
    refused(&two, "b");
    assert!(!passes(&two, "a"));
    // The old primary comes back, and is told to follow; who starts now asks the Sentinel, too.
    primary.begin();
    wait_for("the old primary to follow", || primary.command(&["ROLE"]).contains("slave").then_some(()));
    let three = start(&url, &upstream, "");
    ["a", "b"].iter().for_each(|id| refused(&three, id));
    assert_eq!(revoke(&three, "c")["propagated"], true);
    refused(&one, "c");
    wait_for("the old primary to have it", || {
        (primary.command(&["XLEN", "{portcullis}:live"]) == replica.command(&["XLEN", "{portcullis}:live"]))
            .then_some(())
    });
}

#[test]
fn a_cluster_says_who_has_the_namespace() {
    let engine = Redis::start_with("appendonly yes\ncluster-enabled yes\n");
    let slots: Vec<String> = (0..16384).map(|slot: u32| slot.to_string()).collect();
    let mut words = vec!["CLUSTER", "ADDSLOTS"];
    words.extend(slots.iter().map(String::as_str));
    engine.command(&words);
    wait_for("the cluster", || {
        engine.command(&["CLUSTER", "INFO"]).contains("cluster_state:ok").then_some(())
    });
    let upstream = Upstream::echo();
    let url = format!("redis+cluster://127.0.0.1:{}", engine.port());
    let one = start(&url, &upstream, "");
    let two = start(&url, &upstream, "");
    assert_eq!(revoke(&one, "a")["propagated"], true);
    refused(&two, "a");
}

#[test]
fn settings_of_the_engine_that_lose_entries_are_told_at_the_start() {
    let (engine, upstream) = (Redis::start_with("maxmemory-policy allkeys-lru\n"), Upstream::echo());
    let gateway = start(&engine.url(), &upstream, "");
    let told = gateway.stderr();
    assert!(told.contains("appendonly") && told.contains("allkeys-lru"), "{told}");
}

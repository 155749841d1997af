//! Many revocations at once (CONTRACT §6, §7, §8): NDJSON, idempotency keys, import and export, snapshots and
//! `verify`, with and without a gateway.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::damage::flip_a_bit;
use crate::support::gateway::{command, finish, mode};
use crate::support::jwt::{Key, claims, claims_of};
use crate::support::{Account, Answer, Call, Connection, Gateway, Setup, Upstream, now, wait_for};

fn setup() -> Setup {
    let upstream = Upstream::echo();
    Setup::new()
        .secret("legacy.key", Key::secret("legacy").secret_bytes())
        .section("[[issuers]]\nname = \"legacy\"\nalgorithms = [\"HS256\"]\nsecret_file = \"legacy.key\"\n")
        .section("[revocation]\nclaims = [\"tenant\"]\n")
        .upstream("up", upstream.address())
        .route_with("api", "/api", "up", "access", "scopes = [\"read\"]\n")
        .route("open", "/open", "up", "public")
}

fn start() -> Gateway {
    setup().start()
}

fn line(id: &str) -> String {
    format!("{}\n", json!({ "kind": "token", "issuer": "legacy", "value": id }))
}

fn lines(count: usize) -> String {
    (0..count).map(|number| line(&format!("t-{number}"))).collect()
}

fn bulk(gateway: &Gateway, body: impl Into<Vec<u8>>) -> Call {
    gateway.admin("POST", "/admin/revocations").body("application/x-ndjson", body)
}

fn entries(gateway: &Gateway) -> u64 {
    let stats = gateway.admin("GET", "/admin/stats").send().expect(200).json();
    stats["entries"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum()
}

fn sequence(gateway: &Gateway) -> u64 {
    gateway.admin("GET", "/admin/watermark").send().expect(200).json()["sequence"].as_u64().unwrap()
}

fn write(dir: &Path, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    path
}

// --- NDJSON ------------------------------------------------------------------------------------------------------

#[test]
fn ten_thousand_lines_are_taken_at_once() {
    let gateway = start();
    let answer = bulk(&gateway, lines(10_000)).send().expect(200).json();
    assert_eq!((&answer["accepted"], &answer["sequence"]), (&json!(10_000), &json!(10_000)));
    assert_eq!(entries(&gateway), 10_000);
    gateway.entry("token", "t-9999", "legacy").expect(200);
}

/// An array of more than some 13,000 items was refused, whatever its bytes.
#[test]
fn an_array_may_have_as_many_items_as_its_bytes_allow() {
    let gateway = start();
    let item = |number: usize| json!({ "kind": "token", "issuer": "legacy", "value": format!("t-{number}") });
    let send =
        |items: Vec<Value>| gateway.admin("POST", "/admin/revocations").json(&Value::from(items)).send();
    let mut bad: Vec<_> = (0..20_000).map(item).collect();
    bad.push(json!({ "kind": "token", "issuer": "legacy", "value": "" }));
    let answer = send(bad).expect_problem(400, "invalid_request");
    assert!(answer.json()["detail"].as_str().unwrap().starts_with("item 20000: "), "{}", answer.text());
    assert_eq!((entries(&gateway), sequence(&gateway)), (0, 0));
    let answer = send((0..20_000).map(item).collect()).expect(200).json();
    assert_eq!((&answer["accepted"], &answer["sequence"]), (&json!(20_000), &json!(20_000)));
    assert_eq!(entries(&gateway), 20_000);
    gateway.entry("token", "t-19999", "legacy").expect(200);
}

#[test]
fn a_bad_line_among_many_is_named_and_nothing_is_applied() {
    let gateway = start();
    let broken = |middle: &str| {
        let mut text = lines(5000);
        text.push_str(middle);
        text.push_str(&lines(5000));
        text
    };
    let long = "x".repeat(100_000);
    for middle in [
        "{\"kind\":\"token\",\n",
        "null\n",
        "{\"kind\":\"token\",\"issuer\":\"legacy\",\"value\":\"\"}\n",
        &long,
        "\u{0}\n",
    ] {
        let answer = bulk(&gateway, broken(middle)).send().expect_problem(400, "invalid_request");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.starts_with("line 5001: "), "{detail}");
        assert_eq!((entries(&gateway), sequence(&gateway)), (0, 0));
    }
    // Bytes that are no text.
    let mut bytes = lines(5000).into_bytes();
    bytes.extend_from_slice(b"{\"kind\":\"token\",\"issuer\":\"legacy\",\"value\":\"\xff\"}\n");
    bulk(&gateway, bytes).send().expect_problem(400, "invalid_request");
    assert_eq!(entries(&gateway), 0);
    bulk(&gateway, lines(1)).send().expect(200);
}

#[test]
fn a_body_that_is_cut_off_applies_nothing() {
    let gateway = start();
    let whole = bulk(&gateway, lines(10_000)).bytes();
    let chunked = |body: &str| {
        let head = gateway.admin("POST", "/admin/revocations").header("Content-Type", "application/x-ndjson");
        let head = head.header("Transfer-Encoding", "chunked").bytes();
        let size = format!("{:x}\r\n", body.len());
        [head.as_slice(), size.as_bytes(), body.as_bytes(), b"\r\n"].concat()
    };
    for cut in [whole[..whole.len() / 2].to_vec(), whole[..whole.len() - 1].to_vec(), chunked(&lines(5000))] {
        let mut connection = Connection::open(gateway.admin_address());
        connection.send(&cut);
        connection.finish();
        assert!(connection.closed());
        let left = || fs::read_dir(gateway.dir().join("state")).unwrap().flatten();
        wait_for("the spooled batch to go", || {
            let mut names = left().map(|entry| entry.file_name().to_string_lossy().into_owned());
            names.all(|name| !name.starts_with("batch-")).then_some(())
        });
        assert_eq!((entries(&gateway), sequence(&gateway)), (0, 0));
    }
}

#[test]
fn expired_lines_are_refused_or_passed_over_as_asked() {
    let gateway = start();
    let old = json!({ "kind": "token", "issuer": "legacy", "value": "old", "expires_at": now() - 10 });
    let text = format!("{}{old}\n{}", line("a"), line("b"));
    let answer = bulk(&gateway, text.clone()).send().expect_problem(400, "invalid_request");
    assert!(answer.text().contains("line 2"), "{}", answer.text());
    let call = gateway.admin("POST", "/admin/revocations?expired=skip").body("application/x-ndjson", text);
    let answer = call.send().expect(200).json();
    assert_eq!((&answer["accepted"], &answer["skipped"]), (&json!(2), &json!(1)));
    assert_eq!(entries(&gateway), 2);
}

#[test]
fn a_line_for_an_own_subject_takes_its_sessions_with_it() {
    let gateway = start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let sid = claims_of(&ada.access)["sid"].as_str().unwrap().to_owned();
    let subject = json!({ "kind": "subject", "value": ada.user["id"] });
    let token = json!({ "token": Key::secret("legacy").token(&claims("whole", &json!({}))) });
    let answer = bulk(&gateway, format!("{}{subject}\n{token}\n", line("a"))).send().expect(200).json();
    assert_eq!(answer["accepted"], 3, "{answer}");
    gateway.entry("session", &sid, "self").expect(200);
    gateway.entry("token", "whole", "legacy").expect(200);
}

// --- idempotency keys --------------------------------------------------------------------------------------------

#[test]
fn the_same_request_with_the_same_key_has_one_effect_and_one_answer() {
    let gateway = start();
    let object = json!({ "kind": "subject", "issuer": "legacy", "value": "ada" });
    let single = |key: &str| gateway.admin("POST", "/admin/revocations").header("Idempotency-Key", key);
    let first = single("k-1").json(&object).send().expect(200).json();
    let after = sequence(&gateway);
    assert_eq!(single("k-1").json(&object).send().expect(200).json(), first);
    assert_eq!(sequence(&gateway), after, "no second effect");
    let other = json!({ "kind": "subject", "issuer": "legacy", "value": "bob" });
    single("k-1").json(&other).send().expect_problem(409, "conflict");
    // Lines as well, and neither passes for the other.
    let many = |text: String| bulk(&gateway, text).header("Idempotency-Key", "k-2").send();
    let first = many(lines(100)).expect(200).json();
    assert_eq!(many(lines(100)).expect(200).json(), first);
    many(lines(101)).expect_problem(409, "conflict");
    assert_eq!(sequence(&gateway), after + 100);
    // Without a key, and with another one, it is done again.
    single("k-3").json(&object).send().expect(200);
    gateway.revoke(&object);
    assert_eq!(sequence(&gateway), after + 102);
}

#[test]
fn an_unrevoke_with_a_key_is_answered_again_and_what_failed_is_tried_again() {
    let gateway = start();
    let target = "/admin/revocations/token/t-1?issuer=legacy";
    let lift = || gateway.admin("DELETE", target).header("Idempotency-Key", "k").send();
    lift().expect_problem(404, "not_found");
    gateway.revoke(&json!({ "kind": "token", "issuer": "legacy", "value": "t-1" }));
    let first = lift().expect(200).json();
    assert_eq!(lift().expect(200).json(), first);
    gateway.admin("DELETE", target).send().expect_problem(404, "not_found");
    // The key belongs to that request alone.
    let post = gateway.admin("POST", "/admin/revocations").header("Idempotency-Key", "k");
    post.json(&json!({ "kind": "token", "issuer": "legacy", "value": "t-2" }))
        .send()
        .expect_problem(409, "conflict");
    let bad = gateway.admin("DELETE", target).header("Idempotency-Key", &"k".repeat(256));
    bad.send().expect_problem(400, "invalid_request");
}

// --- import and export -------------------------------------------------------------------------------------------

/// Every kind, with cutoffs to the millisecond and texts that need escapes.
fn every_kind() -> String {
    let expires = now() + 3600;
    let items = [
        json!({ "kind": "token", "issuer": "legacy", "value": "t-1", "expires_at": expires, "reason": "lost \"it\" \\ ünï" }),
        json!({ "kind": "session", "issuer": "self", "value": "s/1", "expires_at": expires }),
        json!({ "kind": "subject", "issuer": "legacy", "value": "ünï", "expires_at": expires,
                "issued_before": "2026-01-02T03:04:05.678Z" }),
        json!({ "kind": "client", "issuer": "legacy", "value": "c", "expires_at": expires, "issued_before": expires }),
        json!({ "kind": "key", "issuer": "legacy", "value": "k", "expires_at": expires, "issued_before": "now" }),
        json!({ "kind": "issuer", "issuer": "legacy", "value": "", "expires_at": expires, "issued_before": 5 }),
        json!({ "kind": "claim:tenant", "issuer": "legacy", "value": "acme", "expires_at": expires, "issued_before": 7.25 }),
        json!({ "kind": "token", "issuer": "legacy", "value": "gone", "expires_at": now() - 5 }),
    ];
    items.iter().map(|item| format!("{item}\n")).collect()
}

fn export(setup: &Setup, name: &str) -> String {
    let path = setup.path(name);
    setup.run(&["export", path.to_str().unwrap()]).expect(0);
    assert_eq!(mode(&path), 0o600);
    fs::read_to_string(path).unwrap()
}

#[test]
fn what_is_exported_imported_and_exported_again_is_the_same() {
    let one = setup();
    let file = write(&one.path(""), "lines", every_kind());
    let finished = one.run(&["import", file.to_str().unwrap(), "--json"]).expect(0);
    let told = finished.json();
    assert_eq!((&told["accepted"], &told["skipped"], &told["offline"]), (&json!(7), &json!(1), &json!(true)));
    assert_eq!(finished.stderr, "", "nothing on pipes");
    let first = export(&one, "first");
    assert_eq!(first.lines().count(), 7, "{first}");
    let parsed: Vec<Value> = first.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(parsed[2]["issued_before"], "2026-01-02T03:04:05.678Z");
    assert_eq!(parsed[0]["reason"], "lost \"it\" \\ ünï");
    assert!(parsed[0].get("issued_before").is_none(), "{}", parsed[0]);

    let two = setup();
    let finished = two.run(&["import", one.path("first").to_str().unwrap()]).expect(0);
    assert!(finished.stdout.contains("imported 7"), "{}", finished.stdout);
    assert_eq!(export(&two, "second"), first);
    // Through a pipe it is the same, and importing it once more changes nothing.
    two.run(&["import", one.path("first").to_str().unwrap()]).expect(0);
    assert_eq!(two.run(&["export", "-"]).expect(0).stdout, first);
}

#[test]
fn a_gateway_and_its_directory_export_the_same_and_only_what_is_in_force() {
    let mut gateway = start();
    bulk(&gateway, lines(2500)).send().expect(200);
    let subject = |before: i64| json!({ "kind": "subject", "issuer": "legacy", "value": "ada", "issued_before": before });
    gateway.revoke(&subject(now() - 10));
    gateway.revoke(&subject(now() - 500));
    gateway.unrevoke("token", "t-7", "legacy").expect(200);
    gateway.unrevoke("token", "t-8", "legacy").expect(200);
    gateway.revoke(&json!({ "kind": "token", "issuer": "legacy", "value": "t-8", "reason": "again" }));
    let by_gateway = gateway.cli(&["export", "-"]).expect(0).stdout;
    let values: Vec<Value> = by_gateway.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(values.len(), 2500, "2499 tokens and a subject, each once");
    assert!(values.iter().all(|row| row["value"] != "t-7"));
    let last = &values[2499];
    assert_eq!((&last["value"], &last["reason"]), (&json!("t-8"), &json!("again")));
    let cutoff = values.iter().find(|row| row["value"] == "ada").unwrap()["issued_before"].clone();
    let in_force = gateway.entry("subject", "ada", "legacy").expect(200).json();
    assert_eq!(cutoff, in_force["issued_before"], "the one in force, not the newest asked for");
    gateway.sigterm();
    assert_eq!(gateway.wait().code(), Some(0));
    assert_eq!(gateway.cli(&["export", "-"]).expect(0).stdout, by_gateway);
}

#[test]
fn an_import_through_a_gateway_is_in_force_at_once() {
    let gateway = start();
    let file = write(gateway.dir(), "lines", format!("{}{}", lines(3000), every_kind()));
    let told = gateway.cli(&["import", file.to_str().unwrap(), "--json"]).expect(0).json();
    assert_eq!(
        (&told["accepted"], &told["skipped"], &told["offline"]),
        (&json!(3007), &json!(1), &json!(false))
    );
    assert_eq!(gateway.entry("token", "t-2999", "legacy").status, 200);
    // Standard input does as well.
    let mut import = gateway.command(&["import", "-"]);
    let mut child = import.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(line("piped").as_bytes()).unwrap();
    let status = wait_for("the import to end", || child.try_wait().unwrap());
    assert!(status.success());
    gateway.entry("token", "piped", "legacy").expect(200);
}

#[test]
fn a_gateway_starts_on_what_was_imported_without_it() {
    let made = setup();
    let file = write(&made.path(""), "lines", lines(5000));
    made.run(&["import", file.to_str().unwrap()]).expect(0);
    let list = made.run(&["list", "--limit", "3", "--json"]).expect(0).json();
    assert_eq!(list["data"][0]["value"], "t-4999", "{list}");
    let gateway = made.start();
    assert_eq!(entries(&gateway), 5000);
    let stats = gateway.admin("GET", "/admin/stats").send().expect(200).json();
    assert_eq!(stats["snapshot"]["sequence"], 5000, "nothing to replay: {stats}");
    assert_eq!(stats["log"]["trail_position"], 5000, "nothing left to do for the trail: {stats}");
    let held = Key::secret("legacy").token(&claims("t-4242", &json!({ "scope": "read" })));
    assert_eq!(gateway.get("/api").bearer(&held).send().verdict(), (401, "token_revoked".to_owned()));
}

#[test]
fn an_import_says_which_line_is_bad_and_applies_nothing() {
    let made = setup();
    let bad = write(&made.path(""), "bad", format!("{}nonsense\n{}", lines(6000), lines(10)));
    let finished = made.run(&["import", bad.to_str().unwrap()]).expect(1);
    assert!(
        finished.stderr.contains("line 6001") && finished.stderr.contains("nothing"),
        "{}",
        finished.stderr
    );
    assert_eq!(made.run(&["export", "-"]).expect(0).stdout, "");
    for file in ["missing", "."] {
        let finished = made.run(&["import", file]).expect(1);
        assert!(finished.stderr.contains(&format!("cannot read {file}")), "{}", finished.stderr);
    }
    made.run(&["import"]).expect(2);
    // The same through a gateway.
    let gateway = start();
    let finished = gateway.cli(&["import", bad.to_str().unwrap()]).expect(1);
    assert!(finished.stderr.contains("line 6001"), "{}", finished.stderr);
    assert_eq!(entries(&gateway), 0);
}

#[test]
fn a_directory_held_by_a_gateway_that_does_not_answer_is_left_alone() {
    // The commands look for its admin listener on port 0, as its configuration says, where nobody is.
    let gateway = setup().start();
    let file = write(gateway.dir(), "lines", lines(10));
    for arguments in
        [vec!["import", file.to_str().unwrap()], vec!["export", "-"], vec!["list"], vec!["snapshot"]]
    {
        let finished = finish(command(gateway.dir(), &arguments)).expect(1);
        assert!(finished.stderr.contains("in use"), "{arguments:?}: {}", finished.stderr);
    }
    assert_eq!(entries(&gateway), 0);
}

#[test]
fn an_import_that_is_killed_is_whole_or_not_there() {
    const COUNT: usize = 20_000;
    let made = setup();
    fs::write(made.path("gateway.toml"), made.toml()).unwrap();
    let text = lines(COUNT);
    let count = |made: &Setup| made.run(&["export", "-"]).expect(0).stdout.lines().count();
    // Half-way through its input nothing of it counts.
    let mut import = command(&made.path(""), &["import", "-"]);
    let mut child = import.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&text.as_bytes()[..text.len() / 2]).unwrap();
    let spool = made.path("state/batch-0.new");
    wait_for("the batch to be spooled", || spool.exists().then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
    drop(stdin);
    assert_eq!(count(&made), 0);
    // Killed while it goes into the log, at whatever moment that is.
    let file = write(&made.path(""), "lines", &text);
    let mut before = 0;
    for round in 0..4 {
        let log_bytes = || -> u64 {
            let names = fs::read_dir(made.path("state")).unwrap().flatten();
            names
                .filter(|entry| entry.file_name().to_string_lossy().starts_with("log-"))
                .filter_map(|entry| Some(entry.metadata().ok()?.len()))
                .sum()
        };
        let size = log_bytes();
        let mut child = command(&made.path(""), &["import", file.to_str().unwrap()]).spawn().unwrap();
        wait_for("the log to grow, or the import to end", || {
            (log_bytes() > size + 100 * round || child.try_wait().unwrap().is_some()).then_some(())
        });
        let _ = child.kill();
        child.wait().unwrap();
        let found = count(&made);
        assert!(found == before || found == COUNT, "round {round}: {found} of {COUNT}");
        before = found;
    }
    made.run(&["import", file.to_str().unwrap()]).expect(0);
    assert_eq!(count(&made), COUNT);
}

// --- snapshot and verify -----------------------------------------------------------------------------------------

#[test]
fn a_snapshot_is_taken_by_the_gateway_or_without_it() {
    let mut gateway = start();
    bulk(&gateway, lines(100)).send().expect(200);
    let report = gateway.admin("POST", "/admin/snapshot").send().expect(200).json();
    assert_eq!((&report["sequence"], &report["entries"]), (&json!(100), &json!(100)), "{report}");
    gateway.revoke(&json!({ "kind": "token", "issuer": "legacy", "value": "one-more" }));
    let report = gateway.cli(&["snapshot", "--json"]).expect(0).json();
    assert_eq!(report["sequence"], 101, "{report}");
    gateway.kill9();
    let words = gateway.cli(&["snapshot"]).expect(0).stdout;
    assert!(words.contains("sequence 101") && words.contains("101 entries"), "{words}");
}

#[test]
fn verify_looks_at_every_file_and_tells_what_a_start_would_do() {
    let mut gateway = start();
    bulk(&gateway, lines(500)).send().expect(200);
    // What is behind a record tells later that it was on disk, so that damage to it is no torn end.
    gateway.revoke(&json!({ "kind": "token", "issuer": "legacy", "value": "one-more" }));
    let state = gateway.dir().join("state");
    let verdict = gateway.cli(&["verify", "--json"]).expect(0).json();
    assert_eq!((&verdict["ok"], &verdict["in_use"]), (&json!(true), &json!(true)), "{verdict}");
    gateway.cli(&["snapshot"]).expect(0);
    gateway.kill9();
    let finished = gateway.cli(&["verify"]).expect(0);
    for words in ["snapshot-", "log-", "whole", "501 entries", "sequence 501"] {
        assert!(finished.stdout.contains(words), "{words} in {}", finished.stdout);
    }
    // A directory needs no configuration.
    let mut bare = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
    bare.args(["verify", "--json"]).arg(&state).current_dir("/");
    let finished = finish({
        bare.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        bare
    });
    let verdict = finished.expect(0).json();
    assert_eq!(verdict["start"]["entries"]["token"], 501, "{verdict}");
    // One bit of the snapshot: a start would do without it, and that is said.
    let damage = |prefix: &str| -> PathBuf {
        let names = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path());
        let path =
            names.into_iter().find(|path| path.file_name().unwrap().to_string_lossy().starts_with(prefix));
        let path = path.unwrap();
        flip_a_bit(&path);
        path
    };
    let snapshot = damage("snapshot-");
    let finished = gateway.cli(&["verify"]).expect(1);
    let name = snapshot.file_name().unwrap().to_str().unwrap();
    assert!(finished.stdout.contains(name) && finished.stderr.contains("not every file"), "{finished:?}");
    // And the log: now it would not start.
    damage("log-");
    let finished = gateway.cli(&["verify", "--json"]).expect(1);
    let verdict = finished.json();
    assert_eq!((&verdict["ok"], &verdict["start"]["ok"]), (&json!(false), &json!(false)), "{verdict}");
    assert!(finished.stderr.contains("would not start"), "{}", finished.stderr);
    gateway.cli(&["verify", "/nowhere"]).expect(1);
}

// --- config and explain ------------------------------------------------------------------------------------------

#[test]
fn the_settings_are_shown_without_secrets() {
    let gateway = start();
    let answer = gateway.admin("GET", "/admin/config").send().expect(200);
    let shown = answer.json();
    assert_eq!(shown["revocation"]["claims"], json!(["tenant"]));
    assert_eq!(shown["auth"]["access_ttl"], "15m");
    assert_eq!(shown["issuers"][0]["name"], "legacy");
    assert_eq!(shown["issuers"][0]["claims"]["client"], json!(["client_id", "azp"]));
    assert_eq!(shown["auth"]["on_reuse"], "revoke_session");
    assert_eq!(shown["auth"]["password"]["min_length"], 8);
    assert_eq!(shown["upstreams"][0]["balance"], "two_choices");
    assert_eq!(
        (&shown["routes"][0]["name"], &shown["routes"][0]["scopes"]),
        (&json!("api"), &json!(["read"]))
    );
    let secret = String::from_utf8_lossy(Key::secret("legacy").secret_bytes()).into_owned();
    for secret in [secret.as_str(), gateway.admin_token()] {
        assert!(!answer.text().contains(secret), "{}", answer.text());
    }
}

fn explain(gateway: &Gateway, body: &Value) -> Answer {
    gateway.admin("POST", "/admin/explain").json(body).send()
}

/// Verdict, code, and the steps that were not passed.
fn explained(gateway: &Gateway, body: &Value) -> (String, String, Vec<String>) {
    let told = explain(gateway, body).expect(200).json();
    let steps = told["steps"].as_array().unwrap();
    let failed = steps.iter().filter(|step| step["ok"] == json!(false));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&told["verdict"]), text(&told["code"]), failed.map(|step| text(&step["step"])).collect())
}

#[test]
fn explain_tells_why_step_by_step_and_agrees_with_the_gate() {
    let gateway = start();
    let key = Key::secret("legacy");
    let signed = |id: &str, more: &Value| key.token(&claims(id, more));
    let good = signed("good", &json!({ "scope": "read", "tenant": ["acme", "other"], "client_id": "web" }));
    let check = |token: &str, path: &str, verdict: (&str, &str), failed: &[&str]| {
        let body = json!({ "token": token, "method": "GET", "host": "gateway.test", "path": path });
        let told = explained(&gateway, &body);
        assert_eq!((told.0.as_str(), told.1.as_str()), verdict, "{told:?}");
        assert_eq!(told.2, failed, "{told:?}");
        let answer = gateway.get(path).bearer(token).send();
        let expected = if verdict.0 == "allow" { String::new() } else { verdict.1.to_owned() };
        assert_eq!(if answer.status == 200 { String::new() } else { answer.code() }, expected, "{path}");
    };
    check(&good, "/api/x", ("allow", ""), &[]);
    check(&good, "/nowhere", ("refuse", "no_route"), &["route"]);
    check("nonsense", "/api", ("refuse", "token_invalid"), &["form"]);
    check("nonsense", "/open", ("allow", ""), &["form"]);
    let forged = Key::secret("other").token(&claims("t", &json!({ "scope": "read" })));
    check(&forged, "/api", ("refuse", "token_invalid"), &["signature"]);
    let old = signed("old", &json!({ "scope": "read", "iat": now() - 50, "exp": now() - 10 }));
    check(&old, "/api", ("refuse", "token_expired"), &["expiry"]);
    check(&signed("poor", &json!({})), "/api", ("refuse", "insufficient_scope"), &["policy"]);
    for (kind, value) in [("client", "web"), ("claim:tenant", "acme"), ("token", "good")] {
        gateway.revoke(&json!({ "kind": kind, "issuer": "legacy", "value": value }));
        let step = format!("revoked:{kind}");
        check(&good, "/api", ("refuse", "token_revoked"), &[step.as_str()]);
        gateway.unrevoke(kind, value, "legacy").expect(200);
    }
    // Without a path the token alone is judged; nothing is changed by asking.
    let before = gateway.admin("GET", "/admin/stats").send().json()["cache"].clone();
    assert_eq!(explained(&gateway, &json!({ "token": good })).0, "allow");
    assert_eq!(gateway.admin("GET", "/admin/stats").send().json()["cache"], before);
    for bad in [json!({}), json!([]), json!({ "token": 7 }), json!({ "token": good, "path": "no slash" })] {
        explain(&gateway, &bad).expect_problem(400, "invalid_request");
    }
    // The command says the same; a token on standard input is seen by nobody else.
    let told = gateway.cli(&["explain", &good, "--path", "/api"]).expect(0);
    assert!(told.stdout.contains("verdict: allow") && told.stdout.contains("signature"), "{}", told.stdout);
    let mut piped = gateway.command(&["explain", "-", "--json"]);
    let mut child = piped.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(forged.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["code"], "token_invalid");
    let steps = told["steps"].as_array().unwrap().iter();
    let told: Vec<_> =
        steps.map(|step| (step["step"].as_str().unwrap(), step["ok"] == json!(true))).collect();
    assert!(told.ends_with(&[("key", true), ("signature", false)]), "{told:?}");
}

//! Running it (CONTRACT §2, §6, §7): check, probes, metrics, drain, the commands, the demo.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::sync_channel;

use serde_json::{Value, json};

use crate::support::gateway::{finish, mode};
use crate::support::jwt::{Key, claims};
use crate::support::upstream::receive;
use crate::support::{Account, Call, Setup, Upstream, wait_for};

fn setup(upstream: &Upstream) -> Setup {
    Setup::new()
        .secret("legacy.key", Key::secret("legacy").secret_bytes())
        .section("[[issuers]]\nname = \"legacy\"\nalgorithms = [\"HS256\"]\nsecret_file = \"legacy.key\"\n")
        .upstream("up", upstream.address())
        .route("api", "/api", "up", "access")
        .route("open", "/open", "up", "public")
}

fn token(id: &str) -> String {
    Key::secret("legacy").token(&claims(id, &json!({})))
}

// --- check -------------------------------------------------------------------------------------------------------

#[test]
fn check_takes_a_good_file_and_starts_nothing() {
    let made = setup(&Upstream::echo());
    made.run(&["check"]).expect(0);
    assert!(!made.path("state").exists(), "check wrote state");
}

#[test]
fn check_names_every_mistake_with_its_place_in_one_run() {
    let made = setup(&Upstream::echo());
    let text = made.toml()
        + "[[routes]]\nname = \"wrong\"\npath = \"/wrong\"\nupstream = \"upp\"\nauth = \"acess\"\nmethds = [\"GET\"]\n";
    let line = |needle: &str| text.lines().position(|line| line.starts_with(needle)).unwrap() + 1;
    fs::write(made.path("gateway.toml"), &text).unwrap();
    let finished = finish(crate::support::gateway::command(&made.path(""), &["check"])).expect(2);
    for (needle, words) in
        [("upstream = \"upp\"", "up"), ("auth = \"acess\"", "access"), ("methds", "methods")]
    {
        let place = format!("gateway.toml:{}:", line(needle));
        assert!(finished.stderr.contains(&place), "{place} in {}", finished.stderr);
        assert!(finished.stderr.contains(words), "{words} in {}", finished.stderr);
    }
    // The same mistakes stop a start, with the same status.
    finish(crate::support::gateway::command(&made.path(""), &["run"])).expect(2);
}

#[test]
fn check_in_json_tells_its_verdict_on_standard_output_good_or_bad() {
    let made = setup(&Upstream::echo());
    let good = made.run(&["check", "--json"]).expect(0).json();
    assert_eq!((&good["ok"], &good["routes"]), (&json!(true), &json!(2)));
    fs::write(made.path("gateway.toml"), made.toml() + "[revocatoin]\n").unwrap();
    let bad = finish(crate::support::gateway::command(&made.path(""), &["check", "--json"])).expect(2);
    let told = bad.json();
    assert_eq!(told["ok"], false);
    assert!(told["errors"][0]["line"].is_u64() && told["errors"][0]["message"].is_string(), "{told}");
    assert_eq!(bad.stderr, "");
}

#[test]
fn a_missing_file_and_a_misspelt_command_are_bad_usage() {
    let made = setup(&Upstream::echo());
    let finished = finish(crate::support::gateway::command(&made.path(""), &["check"])).expect(2);
    assert!(finished.stderr.contains("gateway.toml"), "{}", finished.stderr);
    made.run(&["chekc"]).expect(2);
    made.run(&["revoke", "token"]).expect(2);
}

#[test]
fn a_secret_that_others_can_read_stops_the_start_and_tells_how_to_mend_it() {
    let made = setup(&Upstream::echo());
    fs::set_permissions(made.path("legacy.key"), fs::Permissions::from_mode(0o644)).unwrap();
    for command in ["check", "run"] {
        let finished = made.run(&[command]);
        assert_ne!(finished.status.code(), Some(0), "{command}");
        let words = &finished.stderr;
        assert!(words.contains("chmod") && words.contains("legacy.key"), "{command}: {words}");
        assert!(!words.contains("legacy......"), "the secret is shown: {words}");
    }
}

#[test]
fn what_it_makes_is_for_its_owner_alone() {
    let gateway = setup(&Upstream::echo()).start();
    Account::sign_up(&gateway, "ada@example.com");
    let state = gateway.dir().join("state");
    assert_eq!(mode(&state), 0o700);
    let mut folders = vec![state];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                assert_eq!(mode(&path) & 0o077, 0, "{} can be read by others", path.display());
            }
        }
    }
}

// --- probes and metrics ------------------------------------------------------------------------------------------

#[test]
fn probes_and_metrics_need_no_token() {
    let gateway = setup(&Upstream::echo()).start();
    for target in ["/livez", "/readyz", "/metrics"] {
        Call::new(gateway.admin_address(), "GET", target).send().expect(200);
        // They are on the admin listener alone.
        assert_eq!(gateway.get(target).send().verdict(), (404, "no_route".to_owned()), "{target}");
    }
}

/// The value of the first sample with this name and all of these labels.
fn sample(metrics: &str, name: &str, labels: &[&str]) -> Option<f64> {
    metrics.lines().find_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, rest) = series.split_once('{').unwrap_or((series, ""));
        (found == name && labels.iter().all(|label| rest.contains(label)))
            .then(|| value.parse().ok())
            .flatten()
    })
}

#[test]
fn metrics_count_what_happened() {
    let gateway = setup(&Upstream::echo()).start();
    for _ in 0..3 {
        gateway.get("/api").bearer(&token("unique-token")).send().expect(200);
    }
    gateway.get("/api").send().expect(401);
    gateway.revoke(&json!({ "kind": "token", "issuer": "legacy", "value": "unique-token" }));
    gateway.get("/api").bearer(&token("unique-token")).send().expect(401);
    let sequence = gateway
        .revoke(&json!({ "kind": "session", "issuer": "legacy", "value": "unique-session" }))["sequence"]
        .clone();
    let metrics = gateway.metrics();
    let value = |name: &str, labels: &[&str]| {
        sample(&metrics, name, labels).unwrap_or_else(|| panic!("{name} {labels:?} in\n{metrics}"))
    };
    let exactly =
        |name: &str, labels: &[&str], count: f64| assert_eq!(value(name, labels), count, "{name} {labels:?}");
    exactly("portcullis_requests_total", &["route=\"api\"", "status=\"200\""], 3.0);
    exactly("portcullis_requests_total", &["route=\"api\"", "status=\"401\""], 2.0);
    exactly("portcullis_refusals_total", &["code=\"token_missing\""], 1.0);
    exactly("portcullis_refusals_total", &["code=\"token_revoked\""], 1.0);
    exactly("portcullis_blocklist_entries", &["kind=\"token\""], 1.0);
    exactly("portcullis_blocklist_entries", &["kind=\"session\""], 1.0);
    exactly("portcullis_log_sequence", &[], sequence.as_f64().unwrap());
    exactly("portcullis_upstream_seconds_count", &["route=\"api\""], 3.0);
    assert!(value("portcullis_upstream_seconds_bucket", &["route=\"api\"", "le=\"+Inf\""]) == 3.0);
    // No label takes a value from a client.
    assert!(!metrics.contains("unique-token") && !metrics.contains("unique-session"), "{metrics}");
}

#[test]
fn neither_logs_nor_answers_ever_show_a_secret() {
    let gateway = setup(&Upstream::echo()).start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    let legacy = token("t-1");
    gateway.get("/api").bearer(&ada.access).send().expect(200);
    gateway.get("/api").bearer(&legacy).send().expect(200);
    gateway.get(&format!("/open?access_token={legacy}")).send().expect(200);
    gateway.get("/api").bearer(&format!("{legacy}@")).send().expect(401);
    ada.refreshed(&gateway).expect(200);
    gateway.revoke(&json!({ "token": legacy }));
    gateway
        .post("/auth/signin")
        .json(&json!({ "email": "ada@example.com", "password": "wr0ng-secret!" }))
        .send();
    gateway.get("/open/last-one").send().expect(200);
    wait_for("the last access line", || gateway.stdout().contains("/open/last-one").then_some(()));
    let written = gateway.stdout() + &gateway.stderr();
    for secret in [
        ada.access.as_str(),
        &ada.refresh,
        &legacy,
        gateway.admin_token(),
        crate::support::account::PASSWORD,
        "wr0ng-secret!",
    ] {
        let signature = secret.rsplit('.').next().unwrap();
        assert!(!written.contains(signature), "a secret is in the logs:\n{written}");
    }
}

#[test]
fn every_request_leaves_one_line_of_json() {
    let gateway = setup(&Upstream::echo()).start();
    gateway.get("/open/line-1").header("X-Request-Id", "request-1").send().expect(200);
    gateway.get("/api/line-2").header("X-Request-Id", "request-2").send().expect(401);
    for (path, status, id) in [("/open/line-1", 200, "request-1"), ("/api/line-2", 401, "request-2")] {
        let line = wait_for("an access line", || {
            gateway.stdout().lines().find(|line| line.contains(path)).map(str::to_owned)
        });
        let line: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(line["status"], status, "{line}");
        assert!(line.to_string().contains(id), "{line}");
    }
}

// --- drain -------------------------------------------------------------------------------------------------------

#[test]
fn sigterm_finishes_what_runs_and_takes_nothing_new() {
    let (arrived, arrival) = sync_channel::<()>(1);
    let (go, wait) = sync_channel::<()>(1);
    let wait = Mutex::new(wait);
    let upstream = Upstream::raw(move |mut stream, _| {
        receive(&mut stream, &mut Vec::new());
        arrived.send(()).unwrap();
        wait.lock().unwrap().recv().unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").unwrap();
    });
    let mut gateway = setup(&upstream).start();
    let mut running = gateway.connect();
    running.send(gateway.get("/open").bytes());
    arrival.recv_timeout(crate::support::wait::DEADLINE).expect("the request at the upstream");
    gateway.sigterm();
    // The admin listener stays up and says why nothing more should come.
    wait_for("/readyz to fail", || {
        (Call::new(gateway.admin_address(), "GET", "/readyz").send().status == 503).then_some(())
    });
    Call::new(gateway.admin_address(), "GET", "/livez").send().expect(200);
    wait_for("new connections to be refused", || {
        TcpStream::connect(gateway.address()).is_err().then_some(())
    });
    go.send(()).unwrap();
    let answer = running.answer("GET").expect(200);
    assert_eq!(answer.text(), "done");
    assert!(running.closed(), "a drained connection is not kept");
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn what_does_not_finish_in_time_is_cut_and_the_exit_is_still_clean() {
    let upstream = Upstream::raw(|mut stream, _| {
        receive(&mut stream, &mut Vec::new());
        receive(&mut stream, &mut Vec::new()); // never answers
    });
    let mut gateway = setup(&upstream).server("drain_timeout = \"300ms\"").start();
    let mut idle = gateway.connect();
    idle.send("GET /open HTTP/1.1\r\nHost: gateway.test\r\n\r\n");
    wait_for("the request at the upstream", || (upstream.connections() > 0).then_some(()));
    gateway.sigterm();
    assert_eq!(gateway.wait().code(), Some(0));
    assert!(idle.closed());
}

#[test]
fn an_idle_gateway_ends_at_once() {
    let mut gateway = setup(&Upstream::echo()).server("drain_timeout = \"10m\"").start();
    let mut idle = gateway.connect();
    gateway.get("/open").send_on(&mut idle).expect(200);
    gateway.sigterm();
    assert_eq!(gateway.wait().code(), Some(0), "a kept-alive connection is nothing that runs");
}

// --- the commands ------------------------------------------------------------------------------------------------

#[test]
fn revocations_can_be_made_listed_and_lifted_from_the_command_line() {
    let gateway = setup(&Upstream::echo()).start();
    let held = token("t-1");
    let passes = || gateway.get("/api").bearer(&held).send().status == 200;
    assert!(passes());
    let made = gateway
        .cli(&["revoke", "token", "t-1", "--issuer", "legacy", "--reason", "stolen", "--json"])
        .expect(0);
    assert_eq!(made.json()["accepted"], 1, "{}", made.stdout);
    assert!(!passes());
    let listed = gateway.cli(&["list", "--json"]).expect(0);
    assert_eq!(listed.json()["data"][0]["value"], "t-1", "{}", listed.stdout);
    let table = gateway.cli(&["list"]).expect(0);
    assert!(table.stdout.contains("t-1") && table.stdout.contains("stolen"), "{}", table.stdout);
    let lifted = gateway.cli(&["unrevoke", "token", "t-1", "--issuer", "legacy", "--json"]).expect(0);
    assert_eq!(lifted.json()["still_refused_by"], json!([]), "{}", lifted.stdout);
    assert!(passes());
    // What is not there cannot be lifted; what is no kind is refused with the reason.
    gateway.cli(&["unrevoke", "token", "t-1", "--issuer", "legacy"]).expect(1);
    let wrong = gateway.cli(&["revoke", "tokens", "t-1"]);
    assert_ne!(wrong.status.code(), Some(0));
    assert!(wrong.stderr.contains("tokens"), "{}", wrong.stderr);
}

#[test]
fn the_commands_say_so_when_no_gateway_answers() {
    let mut gateway = setup(&Upstream::echo()).start();
    gateway.kill9();
    let finished = gateway.cli(&["revoke", "token", "t-1", "--issuer", "legacy"]).expect(1);
    assert!(finished.stderr.contains("127.0.0.1"), "{}", finished.stderr);
}

#[test]
fn the_demo_runs_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command
        .arg("demo")
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let finished = finish(command).expect(0);
    for words in ["201", "200", "401", "token_revoked"] {
        assert!(finished.stdout.contains(words), "{words} in\n{}", finished.stdout);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "the demo leaves nothing behind");
}

#[test]
fn whoever_reads_the_demo_may_stop_after_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(["demo", "--json"]).current_dir(dir.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with('{'), "{line}");
    let status = wait_for("the demo to end", || child.try_wait().unwrap());
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(status.success() && !told.contains("panicked"), "{status}\n{told}");
}

#[test]
fn the_demo_in_json_is_a_line_a_step_without_a_whole_token() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(["demo", "--json"]).current_dir(dir.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let finished = finish(command).expect(0);
    let lines: Vec<serde_json::Value> =
        finished.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let statuses: Vec<_> = lines.iter().map(|line| line["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [201, 200, 200, 401, 200, 200, 200, 401, 401]);
    for (number, line) in lines.iter().enumerate() {
        assert_eq!(line["step"], number + 1);
    }
    assert_eq!(lines[3]["answer"]["code"], "token_revoked");
    assert!(!finished.stdout.contains("analytical-engine"), "{}", finished.stdout);
    assert!(lines[1]["bearer"].as_str().unwrap().ends_with('…'), "{}", lines[1]);
}

#[test]
fn an_address_that_is_taken_is_told_as_it_is_written() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let made = setup(&Upstream::echo());
    let toml = made.toml().replacen("127.0.0.1:0", &address.to_string(), 1);
    fs::write(made.path("gateway.toml"), toml).unwrap();
    let finished = finish(crate::support::gateway::command(&made.path(""), &["run"])).expect(1);
    assert!(finished.stderr.contains(&format!("cannot listen on {address}")), "{}", finished.stderr);
}

//! A new version in place of the old one, without a refused connection (SIGUSR2).

use std::io::Write as _;
use std::sync::mpsc::{SyncSender, sync_channel};

use serde_json::{Value, json};

use crate::support::gateway::signal;
use crate::support::jwt::{Key, claims};
use crate::support::upstream::receive_head;
use crate::support::{Account, Gateway, Load, Setup, Upstream, wait_for};

fn setup(upstream: &Upstream) -> Setup {
    Setup::new()
        .server("access_log = \"off\"")
        .secret("legacy.key", Key::secret("legacy").secret_bytes())
        .section("[[issuers]]\nname = \"legacy\"\nalgorithms = [\"HS256\"]\nsecret_file = \"legacy.key\"\n")
        .upstream("up", upstream.address())
        .route("api", "/api", "up", "access")
        .route("open", "/open", "up", "public")
}

fn token(id: &str) -> String {
    Key::secret("legacy").token(&claims(id, &json!({})))
}

/// A process that took over; killed at the end of its test.
struct Successor(u32);

impl Successor {
    /// The one that has taken over, as the old one says.
    fn of(gateway: &Gateway) -> Self {
        wait_for("a new process to take over", || {
            let events = gateway.stderr();
            let event = events.lines().rfind(|line| line.contains("a new process has taken over"))?;
            let event: Value = serde_json::from_str(event).ok()?;
            Some(Self(u32::try_from(event["fields"]["process"].as_u64()?).ok()?))
        })
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        let _ = std::process::Command::new("sh").args(["-c", &format!("kill -KILL {}", self.0)]).status();
    }
}

#[test]
fn no_connection_is_refused_and_no_request_fails_while_a_new_process_takes_over() {
    let mut gateway = setup(&Upstream::echo()).start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    gateway.revoke(&json!({ "kind": "token", "value": "t-0", "issuer": "legacy" }));
    let open = Load::begin(gateway.address(), &gateway.get("/open"), 2);
    let api = Load::begin(gateway.address(), &gateway.get("/api").bearer(&token("t-1")), 1);
    let me = Load::begin(gateway.address(), &gateway.get("/auth/me").bearer(&ada.access), 1);
    gateway.signal("USR2");
    let successor = Successor::of(&gateway);
    assert_eq!(gateway.wait().code(), Some(0), "the old one ends");
    for load in [&open, &api, &me] {
        load.go_on(20);
    }
    for load in [open, api, me] {
        load.expect_no_failure();
    }
    // All that was in force is; the admin API answers at the same address.
    gateway.get("/api").bearer(&token("t-0")).send().expect_problem(401, "token_revoked");
    gateway.revoke(&json!({ "kind": "token", "value": "t-1", "issuer": "legacy" }));
    gateway.get("/api").bearer(&token("t-1")).send().expect_problem(401, "token_revoked");
    gateway.admin("POST", "/admin/reload").send().expect(200);
    signal(successor.0, "TERM");
    wait_for("it to end", || std::net::TcpStream::connect(gateway.address()).is_err().then_some(()));
}

#[test]
fn what_the_old_process_still_serves_ends_well_and_obeys_the_new_one() {
    let (arrived, arrival) = sync_channel::<SyncSender<()>>(1);
    let upstream = Upstream::raw(move |mut stream, _| {
        let Some((line, _)) = receive_head(&mut stream, &mut Vec::new()) else { return };
        if line.contains("/slow") {
            let (go, wait) = sync_channel(1);
            arrived.send(go).unwrap();
            wait.recv().unwrap();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
            return;
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while stream.write_all(b"5\r\nbeat\n\r\n").is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    let mut gateway = setup(&upstream).server("drain_timeout = \"60s\"").start();
    let mut slow = gateway.connect();
    slow.send(gateway.get("/open/slow").bytes());
    let go = arrival.recv().unwrap();
    let mut stream = gateway.connect();
    stream.send(gateway.get("/api/events").bearer(&token("t-1")).bytes());
    stream.read_until("the stream", |bytes| bytes.ends_with(b"beat\n\r\n"));
    gateway.signal("USR2");
    let _successor = Successor::of(&gateway);
    let seen = stream.rest().len();
    stream.read_until("more of the stream", |bytes| bytes.len() > seen + 50);
    // Made at the new process, and heard by the old one.
    gateway.revoke(&json!({ "kind": "token", "value": "t-1", "issuer": "legacy" }));
    assert!(stream.closed(), "its stream is cut");
    go.send(()).unwrap();
    assert_eq!(slow.answer("GET").expect(200).text(), "done");
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn a_new_process_that_cannot_start_costs_nothing() {
    let gateway = setup(&Upstream::echo()).start();
    let load = Load::begin(gateway.address(), &gateway.get("/open"), 2);
    std::fs::write(gateway.dir().join("gateway.toml"), "nonsense = 1\n").unwrap();
    gateway.signal("USR2");
    wait_for("the old one to say so", || {
        gateway.stderr().contains("no new process takes over").then_some(())
    });
    load.go_on(20);
    load.expect_no_failure();
    gateway.revoke(&json!({ "kind": "token", "value": "t-1", "issuer": "legacy" }));
}

#[test]
fn a_new_process_that_fails_with_the_log_gives_it_back() {
    let gateway = setup(&Upstream::echo()).start();
    gateway.revoke(&json!({ "kind": "token", "value": "t-0", "issuer": "legacy" }));
    let load = Load::begin(gateway.address(), &gateway.get("/open"), 2);
    // A good configuration whose new listener cannot be had: found out when the log is open already.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("listen = [\"127.0.0.1:0\", \"{}\"]", taken.local_addr().unwrap());
    gateway.put_toml(&gateway.toml().replace("listen = [\"127.0.0.1:0\"]", &listen));
    gateway.signal("USR2");
    wait_for("the old one to say so", || gateway.stderr().contains("this one begins anew").then_some(()));
    load.go_on(50);
    load.expect_no_failure();
    gateway.get("/api").bearer(&token("t-0")).send().expect_problem(401, "token_revoked");
    gateway.revoke(&json!({ "kind": "token", "value": "t-1", "issuer": "legacy" }));
    gateway.get("/api").bearer(&token("t-1")).send().expect_problem(401, "token_revoked");
}

//! Another configuration for a process that runs (CONTRACT §2, last paragraph): taken whole or not at all, and nobody
//! notices but by what has changed.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::sync::mpsc::{SyncSender, sync_channel};

use serde_json::{Value, json};

use crate::support::gateway::mode;
use crate::support::jwt::{Key, claims};
use crate::support::upstream::receive_head;
use crate::support::{Account, Call, Connection, Gateway, Load, Reply, Setup, Upstream, wait_for};

fn setup(upstream: &Upstream) -> Setup {
    Setup::new()
        .server("access_log = \"off\"")
        .secret("legacy.key", Key::secret("legacy").secret_bytes())
        .section("[[issuers]]\nname = \"legacy\"\nalgorithms = [\"HS256\"]\nsecret_file = \"legacy.key\"\n")
        .upstream("up", upstream.address())
        .route("api", "/api", "up", "access")
        .route("open", "/open", "up", "public")
}

/// A route more.
fn with_route(toml: &str, name: &str) -> String {
    format!(
        "{toml}\n[[routes]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = \"up\"\nauth = \"public\"\n"
    )
}

fn token(id: &str) -> String {
    Key::secret("legacy").token(&claims(id, &json!({})))
}

/// `portcullis_config_reloads_total` by result.
fn reloads(gateway: &Gateway) -> (u64, u64) {
    let metrics = gateway.metrics();
    let count = |result: &str| {
        let name = format!("portcullis_config_reloads_total{{result=\"{result}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).expect("the metric")
    };
    (count("ok"), count("failed"))
}

fn settings_of(answer: &Value) -> Vec<&str> {
    let changed = answer["changed"].as_array().unwrap_or_else(|| panic!("no changes in {answer}"));
    changed.iter().map(|change| change["setting"].as_str().unwrap()).collect()
}

fn is_served(gateway: &Gateway, path: &str) -> bool {
    gateway.get(path).send().status == 200
}

#[test]
fn each_way_of_reloading_is_seen_and_no_request_under_load_fails() {
    let upstream = Upstream::echo();
    let gateway = setup(&upstream).start();
    let open = Load::begin(gateway.address(), &gateway.get("/open"), 2);
    let api = Load::begin(gateway.address(), &gateway.get("/api").bearer(&token("t-1")), 2);
    let served = |path: &str| wait_for(path, || is_served(&gateway, path).then_some(()));

    gateway.put_toml(&with_route(&gateway.toml(), "by-watch"));
    served("/by-watch");
    // Written in place, as some editors do.
    fs::write(gateway.dir().join("gateway.toml"), with_route(&gateway.toml(), "in-place")).unwrap();
    served("/in-place");
    gateway.put_toml(&with_route(&gateway.toml(), "by-signal"));
    gateway.signal("HUP");
    served("/by-signal");
    gateway.put_toml(&with_route(&gateway.toml(), "by-admin").replace("\"/in-place\"", "\"/elsewhere\""));
    let answer = gateway.reload().expect(200).json();
    // Unless the watch was faster.
    if answer["changed"] != json!([]) {
        assert_eq!(settings_of(&answer), ["routes.by-admin", "routes.in-place.path"], "{answer}");
    }
    assert!(is_served(&gateway, "/by-admin") && is_served(&gateway, "/elsewhere"));
    gateway.get("/in-place").send().expect_problem(404, "no_route");

    open.go_on(50);
    open.expect_no_failure();
    api.expect_no_failure();
    let (ok, failed) = reloads(&gateway);
    assert!(ok >= 4 && failed == 0, "{ok} {failed}");
    assert_eq!(gateway.reload().expect(200).json(), json!({ "changed": [] }));
}

#[test]
fn a_link_that_is_swapped_is_a_change() {
    let upstream = Upstream::echo();
    let setup = setup(&upstream);
    let (toml, at) = (setup.toml(), |name: &str| setup.path(name));
    // As Kubernetes mounts a ConfigMap.
    for (version, text) in [("v1", toml.clone()), ("v2", with_route(&toml, "new"))] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("gateway.toml"), text).unwrap();
    }
    symlink("v1", at("..data")).unwrap();
    symlink("..data/gateway.toml", at("gateway.toml")).unwrap();
    let gateway = setup.start_as_it_is();
    gateway.get("/new").send().expect(404);
    symlink("v2", gateway.dir().join("..tmp")).unwrap();
    fs::rename(gateway.dir().join("..tmp"), gateway.dir().join("..data")).unwrap();
    wait_for("the new route", || is_served(&gateway, "/new").then_some(()));
}

#[test]
fn a_bad_configuration_is_refused_whole_and_told() {
    let upstream = Upstream::echo();
    let gateway = setup(&upstream).start();
    let good = gateway.toml();
    let bad = with_route(&good, "new").replace("auth = \"access\"", "auth = \"acess\"")
        + "[[clients]]\nid = \"c\"\nsecret = \"hunter2-hunter2\"\n";
    gateway.put_toml(&bad);
    let answer = gateway.reload().expect_problem(400, "invalid_request");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    let line = bad.lines().position(|line| line.contains("acess")).unwrap() + 1;
    for words in [&*format!("gateway.toml:{line}:"), "did you mean \"access\"?", "secret"] {
        assert!(detail.contains(words), "{words} in {detail}");
    }
    let errors = answer.json()["errors"].as_array().unwrap().len();
    assert!(errors >= 2, "{}", answer.text());
    assert!(errors >= 2 && !answer.text().contains("hunter2"), "{}", answer.text());
    assert!(is_served(&gateway, "/open"), "the one before stays");
    gateway.get("/new").send().expect(404);
    assert!(reloads(&gateway).1 >= 1);
    gateway.signal("HUP");
    wait_for("the log to say so", || gateway.stderr().contains("SIGHUP").then_some(()));
    let logged = gateway.stderr();
    assert!(
        logged.contains("is refused; the one before stays in use") && !logged.contains("hunter2"),
        "{logged}"
    );
    assert!(is_served(&gateway, "/open"));
    // And it can be mended.
    gateway.put_toml(&with_route(&good, "new"));
    wait_for("the mended one", || is_served(&gateway, "/new").then_some(()));
}

#[test]
fn what_takes_a_restart_is_refused_with_that_word() {
    let upstream = Upstream::echo();
    let gateway = setup(&upstream).start();
    let good = gateway.toml();
    let workers = good.replace("[server]", "[server]\nworkers = 7");
    let text =
        with_route(&workers, "new") + "[state]\ndir = \"elsewhere\"\n[store]\nurl = \"sqlite:other.db\"\n";
    gateway.put_toml(&text);
    let answer = gateway.reload().expect_problem(409, "conflict").json();
    let reasons = answer["restart_to_apply"].as_array().unwrap();
    assert_eq!(reasons.len(), 3, "{answer}");
    for (reason, setting) in reasons.iter().zip(["[server] workers", "[state] dir", "[store] url"]) {
        assert!(reason.as_str().unwrap().starts_with(setting), "{answer}");
        assert!(reason.as_str().unwrap().contains("restart to apply"), "{answer}");
    }
    gateway.get("/new").send().expect(404);
    assert!(!gateway.dir().join("elsewhere").exists(), "nothing of it was begun");
}

#[test]
fn listeners_come_and_go_and_those_that_stay_are_not_touched() {
    let (arrived, arrival) = sync_channel::<SyncSender<()>>(1);
    let upstream = Upstream::raw(move |mut stream, _| {
        while let Some((line, _)) = receive_head(&mut stream, &mut Vec::new()) {
            if line.contains("/slow") {
                let (go, wait) = sync_channel(1);
                arrived.send(go).unwrap();
                wait.recv().unwrap();
            }
            if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").is_err() {
                return;
            }
        }
    });
    let gateway = setup(&upstream).start();
    let first = gateway.address();
    let mut kept = gateway.connect();
    gateway.get("/open").send_on(&mut kept).expect(200);
    // One more, found by its event; the admin listener moves.
    let more = gateway
        .toml()
        .replace("listen = [\"127.0.0.1:0\"]", "listen = [\"127.0.0.1:0\", \"[::1]:0\", \"unix:in.sock\"]");
    gateway.put_toml(&more);
    gateway.reload().expect(200);
    let second =
        wait_for("the second listener", || gateway.listeners("clear").into_iter().find(|at| at.is_ipv6()));
    let mut running = Connection::open(second);
    running.send(Call::new(second, "GET", "/open/slow").bytes());
    let go = arrival.recv().unwrap();
    assert!(gateway.dir().join("in.sock").exists());
    gateway.get("/open").send_on(&mut kept).expect(200);

    gateway.put_toml(
        &gateway.toml().replace("\"127.0.0.1:0\", \"[::1]:0\", \"unix:in.sock\"", "\"127.0.0.1:0\""),
    );
    let answer = gateway.reload().expect(200).json();
    if answer["changed"] != json!([]) {
        assert_eq!(settings_of(&answer), ["server.listen"]);
    }
    wait_for("the second listener to go", || TcpStream::connect(second).is_err().then_some(()));
    assert!(!gateway.dir().join("in.sock").exists(), "its name is gone");
    go.send(()).unwrap();
    assert_eq!(running.answer("GET").expect(200).text(), "done", "what ran there is finished");
    assert!(running.closed(), "and then its connection ends");
    gateway.get("/open").send_on(&mut kept).expect(200);
    assert_eq!(gateway.address(), first);
    assert_eq!(gateway.listeners("clear").len(), 2, "the first was bound once");
}

#[test]
fn an_address_that_is_taken_refuses_the_reload_whole() {
    let upstream = Upstream::echo();
    let gateway = setup(&upstream).start();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let listen = format!("listen = [\"127.0.0.1:0\", \"{address}\"]");
    let text = gateway.toml().replace("listen = [\"127.0.0.1:0\"]", &listen);
    gateway.put_toml(&with_route(&text, "new"));
    let answer = gateway.reload().expect_problem(409, "conflict");
    assert!(answer.text().contains(&format!("cannot listen on {address}")), "{}", answer.text());
    gateway.get("/new").send().expect(404);
}

#[test]
fn the_admin_listener_can_move_and_its_token_change() {
    let upstream = Upstream::echo();
    let gateway = setup(&upstream).start();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    fs::write(gateway.dir().join("other.token"), "another-admin-token-0123456789\n").unwrap();
    let path = gateway.dir().join("other.token");
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(mode(&path), 0o600);
    let admin = format!("[admin]\nlisten = \"127.0.0.1:{port}\"\ntoken_file = \"other.token\"");
    gateway.put_toml(&gateway.toml().replace("[admin]\nlisten = \"127.0.0.1:0\"", &admin));
    let address = wait_for("the new admin listener", || {
        gateway.listeners("admin").into_iter().find(|address| address.port() == port)
    });
    let ask = |token: &str| {
        wait_for("an answer", || Call::new(address, "GET", "/admin/config").bearer(token).try_send()).status
    };
    assert_eq!((ask("another-admin-token-0123456789"), ask(gateway.admin_token())), (200, 401));
    wait_for("the old one to go", || TcpStream::connect(gateway.admin_address()).is_err().then_some(()));
}

#[test]
fn another_upstream_takes_over_and_an_unchanged_one_keeps_its_connections() {
    let one = Upstream::new(|_| Reply::Full(200, Vec::new(), b"one".to_vec()));
    let two = Upstream::new(|_| Reply::Full(200, Vec::new(), b"two".to_vec()));
    let other = Upstream::echo();
    let setup = setup(&one).upstream("other", other.address()).route("other", "/other", "other", "public");
    let gateway = setup.start();
    assert_eq!(gateway.get("/open").send().text(), "one");
    gateway.get("/other").send().expect(200);
    let load = Load::begin(gateway.address(), &gateway.get("/open"), 2);
    let text = gateway.toml().replace(&one.address().to_string(), &two.address().to_string());
    gateway.put_toml(&text);
    gateway.reload().expect(200);
    assert_eq!(gateway.get("/open").send().text(), "two");
    load.go_on(20);
    load.expect_no_failure();
    gateway.get("/other").send().expect(200);
    assert_eq!(other.connections(), 1, "the connection to it was kept");
    let answered = one.received().len();
    gateway.get("/open").send().expect(200);
    assert_eq!(one.received().len(), answered, "nothing more goes there");
}

#[test]
fn another_key_in_its_file_is_the_key() {
    let upstream = Upstream::echo();
    let gateway = setup(&upstream).start();
    let (old, new) = (token("t-1"), Key::secret("other").token(&claims("t-2", &json!({}))));
    let passes = |token: &str| gateway.get("/api").bearer(token).send().status == 200;
    assert!(passes(&old) && !passes(&new));
    let path = gateway.dir().join("legacy.key");
    let next = gateway.dir().join("legacy.key.new");
    fs::copy(&path, &next).unwrap(); // with its mode
    fs::write(&next, Key::secret("other").secret_bytes()).unwrap();
    fs::rename(next, path).unwrap();
    wait_for("the new key", || passes(&new).then_some(()));
    assert!(!passes(&old), "though it was kept as verified");
    wait_for("the event", || gateway.stderr().contains("\"changed\":\"issuers.legacy\"").then_some(()));
}

#[test]
fn streams_live_on_over_a_reload_and_still_end_with_their_token() {
    let upstream = Upstream::raw(|mut stream, _| {
        if receive_head(&mut stream, &mut Vec::new()).is_none() {
            return;
        }
        let head =
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head).unwrap();
        let _ = stream.write_all(b"6\r\nbegun\n\r\n");
        while stream.write_all(b"5\r\nbeat\n\r\n").is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    let gateway = setup(&upstream).start();
    let mut stream = gateway.connect();
    stream.send(gateway.get("/api/events").bearer(&token("t-1")).bytes());
    assert_eq!(stream.head().status, 200);
    stream.read_until("the beginning", |bytes| bytes.ends_with(b"beat\n\r\n"));
    // The upstream that it comes from is replaced, and its route goes.
    let text = with_route(&gateway.toml(), "new").replace("path = \"/api\"", "path = \"/gone\"");
    gateway.put_toml(&text.replace("name = \"up\"\n", "name = \"up\"\nretries = 0\n"));
    gateway.reload().expect(200);
    gateway.get("/api/events").bearer(&token("t-1")).send().expect(404);
    let seen = stream.rest().len();
    stream.read_until("more beats", |bytes| bytes.len() > seen + 50);
    gateway.revoke(&json!({ "kind": "token", "value": "t-1", "issuer": "legacy" }));
    assert!(stream.closed(), "it is cut when its token is revoked");
    assert!(!stream.rest().ends_with(b"0\r\n\r\n"), "and cannot be taken for complete");
}

#[test]
fn sign_ins_go_on_under_other_settings() {
    let upstream = Upstream::echo();
    let gateway = setup(&upstream).start();
    let ada = Account::sign_up(&gateway, "ada@example.com");
    gateway.get("/api").bearer(&ada.access).send().expect(200);
    let text = gateway.toml().replace("[auth]\n", "[auth]\naccess_ttl = \"5m\"\nsignup = false\n");
    gateway.put_toml(&text);
    let answer = gateway.reload().expect(200).json();
    if answer["changed"] != json!([]) {
        assert_eq!(settings_of(&answer), ["auth.access_ttl", "auth.signup"], "{answer}");
    }
    gateway.get("/api").bearer(&ada.access).send().expect(200);
    gateway
        .post("/auth/signup")
        .json(&json!({ "email": "b@example.com", "password": "x" }))
        .send()
        .expect(403);
    let refreshed = ada.refreshed(&gateway).expect(200).json();
    let access = refreshed["data"][0]["access_token"].as_str().unwrap();
    let claims = crate::support::jwt::claims_of(access);
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 300);
    let config = gateway.admin("GET", "/admin/config").send().expect(200).json();
    assert_eq!(config["auth"]["access_ttl"], "5m", "what is shown is what is in use");
}

#[test]
fn limits_change_for_the_next_connection() {
    let upstream = Upstream::echo();
    let gateway = setup(&upstream).start();
    let long = format!("/open/{}", "x".repeat(500));
    gateway.get(&long).send().expect(200);
    let text =
        gateway.toml().replace("[server]\n", "[server]\nmax_uri_bytes = \"256B\"\nmax_connections = 1\n");
    gateway.put_toml(&text);
    gateway.reload().expect(200);
    wait_for("the limits", || (gateway.get(&long).send().status == 414).then_some(()));
    let mut held = gateway.connect();
    wait_for("room for one", || {
        held = gateway.connect();
        (gateway.get("/open").send_on(&mut held).status == 200).then_some(())
    });
    let mut second = TcpStream::connect(gateway.address()).unwrap();
    second.write_all(b"GET /open HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = String::new();
    second.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
}

//! WebSockets over HTTP/2 (RFC 8441), on either side, with `ws` and Node's streams on one and `websockets` of PyPI on the
//! other: programs that we did not write, each of which checks what the other version of HTTP has no need of.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::account::Account;
use crate::support::jwt::claims_of;
use crate::support::program::file;
use crate::support::{Gateway, Program, Setup, Upstream, node, wait_for};

fn script(arguments: &[&str]) -> Program {
    let script = node::with("tunnels", &file("tunnels/package.json"), &file("tunnels/tunnels.mjs"));
    Program::start(Command::new("node").arg(script).args(arguments))
}

/// An echo that takes WebSockets on streams of HTTP/2, without TLS.
fn streams() -> (Program, String) {
    let mut server = script(&["server"]);
    let address = format!("127.0.0.1:{}", server.step("listening")["port"]);
    (server, address)
}

/// An echo over HTTP/1.1 that prints how each connection ended.
fn sockets() -> (Program, String) {
    let mut server = Program::python("websockets", "echo.py", &[]);
    let address = server.line().strip_prefix("echo listening on ").unwrap().to_owned();
    (server, address)
}

fn walk(gateway: &Gateway, token: &str) -> Program {
    script(&["client", &format!("http://{}", gateway.address()), token])
}

/// What a client over HTTP/2 meets, whatever the upstream speaks; until it waits for the cut.
fn check(client: &mut Program, no_socket: (u16, &str), refused: (u16, &str)) -> Value {
    assert_eq!(client.step("settings")["connect"], true);
    for (name, (status, code)) in [
        ("anonymous", (401, "token_missing")),
        ("refused", refused),
        ("no route", (404, "no_route")),
        ("no socket", no_socket),
        ("endpoint", (400, "invalid_request")),
        ("another protocol", (405, "method_not_allowed")),
    ] {
        let step = client.step(name);
        assert_eq!(
            (step["status"].as_u64(), step["code"].as_str()),
            (Some(status.into()), Some(code)),
            "{step}"
        );
    }
    let open = client.step("open");
    assert_eq!((&open["status"], &open["subprotocol"]), (&json!(200), &json!("chat")), "{open}");
    assert!(open["accept"].is_null(), "there is no key to answer: {open}");
    let seen = client.step("seen")["seen"].as_str().unwrap().to_owned();
    let echoed = client.step("echoed");
    assert_eq!(echoed["small"], "h\u{e9}llo");
    assert_eq!((&echoed["same"], &echoed["parts"]), (&json!(true), &json!("in three parts")));
    assert_eq!(echoed["pong"], "p");
    assert_eq!(client.step("beside")["status"], 200);
    let polite = client.step("polite");
    assert_eq!((&polite["code"], &polite["reason"]), (&json!(4001), &json!("enough")));
    client.step("rude");
    serde_json::from_str(&seen).unwrap_or(Value::String(seen))
}

#[test]
fn a_client_over_http_2_reaches_a_server_over_http_1() {
    let (mut server, address) = sockets();
    let plain = Upstream::echo();
    let gateway = Setup::new()
        .server("idle_timeout = \"500ms\"")
        .upstream("echo", address.parse().unwrap())
        .upstream("plain", plain.address())
        .route("sockets", "/ws", "echo", "access")
        .route("refusing", "/no", "plain", "access")
        .route("plain", "/plain", "plain", "public")
        .start();
    let ann = Account::sign_up(&gateway, "ann@a.test");
    let mut client = walk(&gateway, &ann.access);
    // An answer that is no tunnel must not pass for one.
    let no_tunnel = (502, "upstream_protocol_error");
    assert_eq!(check(&mut client, no_tunnel, no_tunnel), json!("who?"));
    let asked = plain.nth(2);
    assert_eq!(asked.line, "GET /plain HTTP/1.1");
    assert_eq!((asked.one("upgrade"), asked.one("connection")), ("websocket", "upgrade"));
    assert_eq!(asked.one("sec-websocket-key").len(), 24);
    assert_eq!(server.line(), "closed 4001 enough");
    assert_eq!(server.line(), "closed None");

    // A connection with a tunnel on it is not idle.
    let mut idle = gateway.connect();
    idle.send(gateway.get("/plain").bytes());
    idle.answer("GET");
    assert!(idle.closed());
    gateway.revoke(&json!({ "kind": "session", "value": claims_of(&ann.access)["sid"] }));
    let cut = client.step("cut");
    assert_eq!((&cut["code"], &cut["reason"]), (&json!(1008), &json!("token revoked")));
    assert_eq!(cut["away"], false);
    assert_eq!(server.line(), "closed 1008 token revoked");
    assert!(client.wait().success());
    wait_for("the lines of the log", || {
        let log = gateway.stdout();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let ours = lines.filter(|line| line["path"].as_str().is_some_and(|path| path.starts_with("/ws")));
        let ours: Vec<_> = ours.filter(|line| line["status"] == 200).collect();
        let cut = ours.iter().find(|line| line["code"] == "token_revoked")?;
        assert!(ours.iter().all(|line| line["method"] == "GET"), "{ours:?}");
        assert!(cut["aborted"] == true && cut["bytes"].as_u64() > Some(3_000_000), "{cut}");
        (ours.len() == 3).then_some(())
    });
    assert!(gateway.metrics().contains("portcullis_live_connections 0"));
}

#[test]
fn a_client_over_http_2_reaches_a_server_over_http_2() {
    let (mut server, address) = streams();
    let gateway = Setup::new()
        .section(&format!("[[upstreams]]\nname = \"echo\"\ntargets = [\"h2c://{address}\"]"))
        .route("sockets", "/ws", "echo", "access")
        .route("refusing", "/no", "echo", "access")
        .route("plain", "/plain", "echo", "public")
        .start();
    let ann = Account::sign_up(&gateway, "ann@a.test");
    let mut client = walk(&gateway, &ann.access);
    let refused = (403, "no tunnel");
    let seen = check(&mut client, refused, refused);
    let subject = &claims_of(&ann.access)["sub"];
    let expected =
        json!({ "path": "/ws/path?q=1", "protocol": "websocket", "subject": subject, "unasked": [] });
    assert_eq!(seen, expected);
    let closed = server.step("closed");
    assert_eq!((&closed["code"], &closed["reason"]), (&json!(4001), &json!("enough")));
    server.step("closed");
    gateway.revoke(&json!({ "kind": "session", "value": claims_of(&ann.access)["sid"] }));
    assert_eq!(client.step("cut")["code"], 1008);
    assert_eq!(server.step("closed")["code"], 1008);
    assert!(client.wait().success());
}

#[test]
fn a_client_over_http_1_reaches_a_server_over_http_2() {
    let (mut server, address) = streams();
    let gateway = Setup::new()
        .section(&format!("[[upstreams]]\nname = \"echo\"\ntargets = [\"h2c://{address}\"]"))
        .route("sockets", "/ws", "echo", "access")
        .start();
    let ann = Account::sign_up(&gateway, "ann@a.test");
    let url = format!("ws://{}/ws", gateway.address());
    // It does not talk before the answer to its key is right.
    let mut client = Program::python("websockets", "client.py", &[&url, &ann.access]);
    assert_eq!(client.line(), "echoed chat");
    gateway.revoke(&json!({ "kind": "session", "value": claims_of(&ann.access)["sid"] }));
    assert_eq!(client.line(), "closed 1008 token revoked");
    let closed = server.step("closed");
    assert_eq!((&closed["code"], &closed["reason"]), (&json!(1008), &json!("token revoked")));
    assert!(client.wait().success());
}

//! WebSockets over HTTP/2 (RFC 8441), on either side, with `ws` and Node's streams on one and `websockets` of PyPI on the
//! other: programs that we did not write, each of which checks what the other version of HTTP has no need of.

use std::future::Future;
use std::io::Write as _;
use std::process::Command;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use serde_json::{Value, json};

use crate::support::account::{Account, PASSWORD};
use crate::support::jwt::claims_of;
use crate::support::program::file;
use crate::support::upstream::receive_head;
use crate::support::wait::DEADLINE;
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
pub(crate) fn sockets() -> (Program, String) {
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
    // Said by threads of their own, in whichever order.
    let mut closed = [server.line(), server.line()];
    closed.sort();
    assert_eq!(closed, ["closed 4001 enough", "closed None"]);

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
    assert_eq!(server.step("over")["path"], "/plain");
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

// --- ordinary requests to such a server --------------------------------------------------------------------------

fn before(address: &str) -> Setup {
    Setup::new()
        .section(&format!("[[upstreams]]\nname = \"up\"\ntargets = [\"h2c://{address}\"]"))
        .route("open", "/", "up", "public")
        .route("events", "/events", "up", "access")
}

pub(crate) async fn connect(gateway: &Gateway) -> SendRequest<Bytes> {
    let stream = tokio::net::TcpStream::connect(gateway.address()).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    send.ready().await.unwrap()
}

/// Status (0 without one), body, and how the answer to a request over HTTP/2 ended.
async fn ask(
    client: &mut SendRequest<Bytes>,
    request: Request<()>,
    body: &[u8],
) -> (u16, String, Result<Option<http::HeaderMap>, h2::Error>) {
    let (answer, mut upload) = client.send_request(request, body.is_empty()).unwrap();
    if !body.is_empty() {
        upload.send_data(Bytes::copy_from_slice(body), false).unwrap(); // and more is to come
    }
    let mut answer = match answer.await {
        Ok(answer) => answer,
        Err(error) => return (0, String::new(), Err(error)),
    };
    let (status, mut text) = (answer.status().as_u16(), Vec::new());
    while let Some(data) = answer.body_mut().data().await {
        match data {
            Ok(data) => text.extend_from_slice(&data),
            Err(error) => return (status, String::from_utf8(text).unwrap(), Err(error)),
        }
    }
    (status, String::from_utf8(text).unwrap(), answer.body_mut().trailers().await)
}

pub(crate) fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(DEADLINE, test).await.expect("in time") })
}

#[test]
fn what_a_server_over_http_2_does_with_a_request_reaches_its_client() {
    let (mut server, address) = streams();
    let gateway = before(&address).start();
    // A half is a half to everybody; a reset may overtake what was sent before it.
    let mut client = gateway.connect();
    client.send(gateway.get("/broken").bytes());
    assert!(client.closed());
    assert!(!client.rest().ends_with(b"\r\n0\r\n\r\n"));
    assert_eq!(server.step("over")["path"], "/broken");
    // What was not looked at is asked for again.
    assert_eq!(gateway.get("/refused").send().expect(200).text(), "try 2");
    assert_eq!(server.step("over")["reset"], 7);
    assert_eq!(server.step("over")["reset"], 0);
    gateway.post("/refused").body("text/plain", "x").send().expect(502);
    server.step("over");
    // An answer that is whole before its request is.
    let mut client = gateway.connect();
    client.send("POST /early HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9000000\r\n\r\nthe beginning");
    assert_eq!(client.answer("POST").expect(413).text(), "enough");
    server.step("over");
    assert_eq!(gateway.get("/hints").send().expect(200).text(), "hinted");
    server.step("over");
    // A client that leaves.
    let mut client = gateway.connect();
    client.send(gateway.get("/silent").bytes());
    wait_for("the request", || {
        let report = gateway.admin("GET", "/admin/upstreams").send().expect(200).text();
        report.contains("\"in_flight\":1").then_some(())
    });
    drop(client);
    assert_eq!(server.step("over")["reset"], 8, "CANCEL");
    run(async {
        let mut client = connect(&gateway).await;
        let get = |path: &str| Request::get(format!("http://a.test{path}")).body(()).unwrap();
        let (_, _, end) = ask(&mut client, get("/broken"), b"").await;
        assert!(end.unwrap_err().is_reset());
        let (status, body, end) = ask(&mut client, get("/trailers"), b"").await;
        assert_eq!((status, body.as_str()), (200, "words"));
        assert_eq!(end.unwrap().unwrap()["x-sum"], "5");
        let early = Request::post("http://a.test/early").body(()).unwrap();
        let (status, body, end) = ask(&mut client, early, b"the beginning").await;
        assert_eq!((status, body.as_str()), (413, "enough"));
        assert!(end.is_ok(), "{end:?}");
    });
    assert_eq!(gateway.get("/trailers").send().expect(200).text(), "words");
    // A good-bye costs nobody anything.
    for _ in 0..5 {
        assert_eq!(gateway.get("/last").send().expect(200).text(), "last");
        assert_eq!(gateway.get("/any").send().expect(200).text(), "GET /any");
    }
}

#[test]
fn events_from_a_server_over_http_2_end_with_their_token() {
    let (mut server, address) = streams();
    let gateway = before(&address).start();
    let ann = Account::sign_up(&gateway, "ann@a.test");
    let mut first = gateway.connect();
    first.send(gateway.get("/events").bearer(&ann.access).bytes());
    first.read_until("an event", |bytes| bytes.ends_with(b"data: begun\n\n\r\n"));
    run(async {
        let mut second = connect(&gateway).await;
        let request =
            Request::get("http://a.test/events").header("authorization", format!("Bearer {}", ann.access));
        let (answer, _) = second.send_request(request.body(()).unwrap(), true).unwrap();
        let mut answer = answer.await.unwrap();
        assert_eq!(answer.body_mut().data().await.unwrap().unwrap(), "data: begun\n\n");
        gateway.revoke(&json!({ "kind": "session", "value": claims_of(&ann.access)["sid"] }));
        let end = answer.body_mut().data().await.unwrap().unwrap_err();
        assert_eq!(end.reason(), Some(h2::Reason::CANCEL));
    });
    assert!(first.closed());
    assert!(!first.rest().ends_with(b"0\r\n\r\n"));
    for _ in 0..2 {
        assert_eq!(server.step("over"), json!({ "step": "over", "path": "/events", "reset": 8 }));
    }
}

// --- by hand -----------------------------------------------------------------------------------------------------

/// Asks for a WebSocket on a stream.
pub(crate) async fn dial(
    client: &mut SendRequest<Bytes>,
    fields: &[(&str, &str)],
) -> (Response<RecvStream>, SendStream<Bytes>) {
    // The setting that allows it comes with the first frames.
    while !client.is_extended_connect_protocol_enabled() {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let mut request = Request::builder().method("CONNECT").uri("https://gateway.test/ws");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.extension(h2::ext::Protocol::from_static("websocket")).body(()).unwrap();
    let (answer, upload) = client.send_request(request, false).unwrap();
    (answer.await.unwrap(), upload)
}

#[test]
fn a_page_of_another_origin_opens_none_with_our_cookies() {
    let (_server, address) = sockets();
    let gateway = Setup::new()
        .auth("token_transport = [\"cookie\"]")
        .upstream("echo", address.parse().unwrap())
        .route("sockets", "/ws", "echo", "access")
        .start();
    let account = json!({ "email": "ann@a.test", "password": PASSWORD });
    let answer = gateway.post("/auth/signup").json(&account).send().expect(201);
    let set = answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
    let cookies: Vec<_> = set.map(|(_, set)| set.split(';').next().unwrap()).collect();
    let cookies = cookies.join("; ");
    run(async {
        let mut client = connect(&gateway).await;
        for (origin, status) in [("https://evil.example", 403), ("null", 403), ("https://gateway.test", 200)]
        {
            let fields = [("cookie", &*cookies), ("origin", origin), ("sec-websocket-protocol", "chat")];
            let fields = [&fields[..], &[("sec-websocket-version", "13")]].concat();
            let (answer, _upload) = dial(&mut client, &fields).await;
            assert_eq!(answer.status(), status, "{origin}");
        }
    });
}

/// A gateway before a server that answers the key of a WebSocket, or another one, and sends frames for ever.
fn before_flood(right: bool, lines: &str) -> Gateway {
    let upstream = Upstream::raw(move |mut stream, _| {
        let Some((_, fields)) = receive_head(&mut stream, &mut Vec::new()) else { return };
        let key = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key")).unwrap();
        let accept = if right { accept(&key.1) } else { accept("another") };
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let frame = [&[0x82, 126, 0x40, 0][..], &[0; 0x4000]].concat();
        while stream.write_all(&frame).is_ok() {}
    });
    Setup::new()
        .upstream_with("up", upstream.address(), lines)
        .route("sockets", "/ws", "up", "access")
        .start()
}

fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

#[test]
fn an_answer_to_another_key_opens_nothing() {
    let gateway = before_flood(false, "");
    let ann = Account::sign_up(&gateway, "ann@a.test");
    run(async {
        let mut client = connect(&gateway).await;
        let bearer = format!("Bearer {}", ann.access);
        let (answer, _upload) = dial(&mut client, &[("authorization", &bearer)]).await;
        assert_eq!(answer.status(), 502);
    });
}

#[test]
fn a_client_that_takes_nothing_of_a_tunnel_is_cut_too() {
    let gateway = before_flood(true, "max_requests = 1");
    let ann = Account::sign_up(&gateway, "ann@a.test");
    let bob = Account::sign_up(&gateway, "bob@a.test");
    run(async {
        let mut client = connect(&gateway).await;
        let bearer = |account: &Account| format!("Bearer {}", account.access);
        let (mut answer, _upload) = dial(&mut client, &[("authorization", &bearer(&ann))]).await;
        assert_eq!(answer.status(), 200);
        // It holds its place among the requests.
        let (refused, _) = dial(&mut client, &[("authorization", &bearer(&bob))]).await;
        assert_eq!(refused.status(), 503);
        // All that it has room for comes, and is never acknowledged; the refusal has taken some of the connection's.
        let mut came = 0;
        while came < 65_000 {
            came += answer.body_mut().data().await.unwrap().unwrap().len();
        }
        gateway.revoke(&json!({ "kind": "session", "value": claims_of(&ann.access)["sid"] }));
        let end = loop {
            if let Err(end) = answer.body_mut().data().await.unwrap() {
                break end;
            }
        };
        assert_eq!(end.reason(), Some(h2::Reason::CANCEL));
        // The connection goes on, and the place is free.
        let (again, _upload) = dial(&mut client, &[("authorization", &bearer(&bob))]).await;
        assert_eq!(again.status(), 200);
    });
}

#[test]
fn a_drain_waits_for_a_tunnel_and_ends_all_the_same() {
    let (mut server, address) = sockets();
    let mut gateway = Setup::without_auth()
        .server("drain_timeout = \"3s\"")
        .upstream("echo", address.parse().unwrap())
        .route("sockets", "/ws", "echo", "public")
        .start();
    run(async {
        let mut client = connect(&gateway).await;
        let fields = [("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat")];
        let (mut answer, mut upload) = dial(&mut client, &fields).await;
        assert_eq!(answer.status(), 200);
        gateway.sigterm();
        while gateway.admin("GET", "/readyz").send().status != 503 {}
        // A masked "hi", and the same back without a mask.
        upload.send_data(Bytes::from_static(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']), false).unwrap();
        assert_eq!(answer.body_mut().data().await.unwrap().unwrap()[..], [0x81, 2, b'h', b'i']);
        while let Some(Ok(_)) = answer.body_mut().data().await {}
    });
    assert!(gateway.wait().success());
    assert!(server.line().starts_with("closed"));
}

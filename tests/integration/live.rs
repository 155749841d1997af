//! Connections that are open when their token is revoked or expires (CONTRACT §3.8): cut, and nobody else's.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::support::account::Account;
use crate::support::jwt::{Key, claims, claims_of};
use crate::support::upstream::{receive_head, take};
use crate::support::{Call, Connection, Gateway, Setup, Upstream, now, python, wait_for};

const ISSUERS: &str = r#"
[[issuers]]
name = "legacy"
issuer = "https://legacy.test"
algorithms = ["HS256"]
secret_file = "legacy.key"

[[issuers]]
name = "other"
issuer = "https://other.test"
algorithms = ["HS256"]
secret_file = "other.key"

[revocation]
claims = ["tenant"]
"#;

/// An upstream whose responses begin and then wait for the test to go on.
struct Streams {
    upstream: Upstream,
    /// With the numbers of their connections.
    open: Arc<Mutex<Vec<(usize, TcpStream)>>>,
    /// Blocks that `/flood` was rid of.
    flooded: Arc<AtomicUsize>,
}

impl Streams {
    /// By path: `/events` and `/chunked` are chunked, `/download` has a length, `/flood` never stops, `/socket` is a
    /// WebSocket (of which only the head is answered), `/late` answers nothing before the first [`Streams::say`].
    fn start() -> Self {
        let open = Arc::new(Mutex::new(Vec::<(usize, TcpStream)>::new()));
        let flooded = Arc::new(AtomicUsize::new(0));
        let (list, count) = (open.clone(), flooded.clone());
        let upstream = Upstream::raw(move |mut stream, number| {
            let Some((line, headers)) = receive_head(&mut stream, &mut Vec::new()) else { return };
            let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n";
            let answer = match line.split(' ').nth(1).unwrap().rsplit('/').next().unwrap() {
                "download" => "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegun".to_owned(),
                "late" => String::new(),
                "socket" => {
                    let field = |name: &str| {
                        headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.clone())
                    };
                    assert_eq!(field("upgrade").as_deref(), Some("websocket"));
                    assert_eq!(field("connection").as_deref(), Some("upgrade"));
                    let protocol = field("sec-websocket-protocol").unwrap_or_default();
                    let extensions = field("sec-websocket-extensions").unwrap_or_default();
                    format!(
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\
                         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
                         Sec-WebSocket-Protocol: {protocol}\r\nSec-WebSocket-Extensions: {extensions}\r\n\r\n"
                    )
                }
                _ => chunked.to_owned(),
            };
            stream.write_all(answer.as_bytes()).unwrap();
            let mine = stream.try_clone().unwrap();
            list.lock().unwrap().push((number, mine));
            if line.contains("/flood") {
                let block = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
                while stream.write_all(block.as_bytes()).is_ok() {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            }
            if line.contains("/socket") {
                return; // the test reads it
            }
            let ended = |stream: &mut TcpStream| !matches!(stream.read(&mut [0; 64]), Ok(1..));
            while !ended(&mut stream) {}
            // By number: a connection that was reset knows its peer no more.
            list.lock().unwrap().retain(|(other, _)| *other != number);
        });
        Self { upstream, open, flooded }
    }

    /// Writes these bytes to every stream that is open.
    fn say(&self, bytes: &str) {
        for (_, stream) in self.open.lock().unwrap().iter() {
            let mut stream = stream;
            let _ = stream.write_all(bytes.as_bytes());
        }
    }

    /// Waits until so many are open.
    fn expect_open(&self, count: usize) {
        wait_for(&format!("{count} streams at the upstream"), || {
            (self.open.lock().unwrap().len() == count).then_some(())
        });
    }

    /// The connection that was opened last.
    fn last(&self) -> TcpStream {
        wait_for("a connection", || Some(self.open.lock().unwrap().last()?.1.try_clone().unwrap()))
    }
}

struct Stage {
    gateway: Gateway,
    streams: Streams,
    /// Marks, no two the same.
    said: AtomicUsize,
}

impl Stage {
    fn begin() -> Self {
        Self::with(|setup| setup.section(ISSUERS))
    }

    /// `legacy` and `other` must be declared by `more`.
    fn with(more: impl FnOnce(Setup) -> Setup) -> Self {
        let streams = Streams::start();
        let setup = Setup::new()
            .secret("legacy.key", Key::secret("legacy").secret_bytes())
            .secret("other.key", Key::secret("other").secret_bytes())
            .upstream("up", streams.upstream.address())
            .route("open", "/open", "up", "public")
            .route_with("shadow", "/shadow", "up", "access", "mode = \"shadow\"")
            .route("all", "/", "up", "access");
        Self { gateway: more(setup).start(), streams, said: AtomicUsize::new(0) }
    }

    fn stream(&self, target: &str, token: &str) -> Stream {
        Stream::open(&self.gateway, target, token)
    }

    /// Whether these streams, the only ones open, get what the upstream says now.
    #[track_caller]
    fn expect_alive(&self, streams: &mut [&mut Stream]) {
        let mark = format!("<{}>", self.said.fetch_add(1, Ordering::Relaxed));
        self.streams.say(&format!("{:x}\r\n{mark}\r\n", mark.len()));
        for stream in streams {
            let seen = |bytes: &[u8]| bytes.windows(mark.len()).any(|window| window == mark.as_bytes());
            stream.connection.read_until(&format!("{mark} on {}", stream.target), seen);
        }
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.gateway.metrics();
        let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("{name} in {text}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// The access-log line of a stream to this target that has ended.
    fn line(&self, target: &str) -> Value {
        wait_for(&format!("the line of {target}"), || {
            let stdout = self.gateway.stdout();
            let mut lines = stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.find(|line| line["path"] == target)
        })
    }
}

/// One response that has begun.
struct Stream {
    target: String,
    connection: Connection,
}

impl Stream {
    fn open(gateway: &Gateway, target: &str, token: &str) -> Self {
        let mut connection = gateway.connect();
        let mut call = gateway.get(target);
        if !token.is_empty() {
            call = call.bearer(token);
        }
        connection.send(call.bytes());
        connection.read_until(&format!("the beginning of {target}"), |bytes| {
            bytes.windows(5).any(|window| window == b"begun" || window == b"x".repeat(5))
        });
        Self { target: target.to_owned(), connection }
    }

    /// Fails unless the response now ends without being whole.
    #[track_caller]
    fn expect_cut(mut self) {
        let answer = self.connection.answer("GET");
        assert_eq!(answer.status, 200);
        assert!(!answer.complete, "{} looks complete", self.target);
    }
}

/// A token of one of the two issuers.
fn token(issuer: &str, id: &str, more: Value) -> String {
    let mut all = json!({ "iss": format!("https://{issuer}.test") });
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Key::secret(issuer).token(&claims(id, &all))
}

// --- by selector -------------------------------------------------------------------------------------------------

#[test]
fn each_selector_cuts_its_streams_and_leaves_the_neighbours() {
    let stage = Stage::begin();
    let cases = [
        ("token", "t-0", json!({}), json!({})),
        ("session", "s-1", json!({ "sid": "s-1" }), json!({ "sid": "s-2" })),
        // Not the subject that all others have: its cutoff is rounded up, and refuses their next tokens for a moment.
        ("subject", "grace", json!({ "sub": "grace" }), json!({ "sub": "bob" })),
        ("client", "app", json!({ "client_id": "app" }), json!({ "client_id": "web" })),
        ("claim:tenant", "north", json!({ "tenant": ["east", "north"] }), json!({ "tenant": "south" })),
    ];
    for (number, (kind, value, mine, theirs)) in cases.into_iter().enumerate() {
        let cut = ["events", "download"].map(|name| {
            let target = format!("/{number}/{name}");
            stage.stream(&target, &token("legacy", &format!("t-{number}"), mine.clone()))
        });
        let mut neighbour = stage.stream("/n/events", &token("legacy", &format!("n-{number}"), theirs));
        let mut namesake = stage.stream("/n/chunked", &token("other", &format!("t-{number}"), mine));
        stage.streams.expect_open(4);
        stage.gateway.revoke(&json!({ "kind": kind, "value": value, "issuer": "legacy" }));
        cut.into_iter().for_each(Stream::expect_cut);
        stage.streams.expect_open(2);
        stage.expect_alive(&mut [&mut neighbour, &mut namesake]);
        drop((neighbour, namesake));
        stage.streams.expect_open(0);
    }
    assert_eq!(stage.metric("portcullis_cut_connections_total"), 10);
}

#[test]
fn an_issuer_takes_all_its_streams_along() {
    let stage = Stage::begin();
    let cut: Vec<_> =
        (0..20).map(|n| stage.stream("/events", &token("legacy", &format!("t-{n}"), json!({})))).collect();
    let mut other = stage.stream("/events", &token("other", "t-0", json!({})));
    assert_eq!(stage.metric("portcullis_live_connections"), 21);
    assert_eq!(stage.gateway.admin("GET", "/admin/stats").send().expect(200).json()["live_connections"], 21);
    stage.gateway.revoke(&json!({ "kind": "issuer", "value": "", "issuer": "legacy" }));
    cut.into_iter().for_each(Stream::expect_cut);
    stage.streams.expect_open(1);
    stage.expect_alive(&mut [&mut other]);
    assert_eq!(stage.metric("portcullis_cut_connections_total"), 20);
    assert_eq!(stage.metric("portcullis_live_connections"), 1);
}

#[test]
fn a_cutoff_leaves_the_streams_of_later_tokens() {
    let stage = Stage::begin();
    let iat = now();
    let old = stage.stream("/events", &token("legacy", "t-1", json!({ "iat": iat - 100 })));
    let mut new = stage.stream("/events", &token("legacy", "t-2", json!({ "iat": iat - 50 })));
    let cutoff = json!({ "kind": "subject", "value": "ada", "issuer": "legacy", "issued_before": iat - 50 });
    stage.gateway.revoke(&cutoff);
    old.expect_cut();
    stage.streams.expect_open(1);
    stage.gateway.unrevoke("subject", "ada", "legacy").expect(200);
    stage.expect_alive(&mut [&mut new]);
}

#[test]
fn an_expiry_cuts_by_itself() {
    let stage = Stage::begin();
    let mut long = stage.stream("/events", &token("legacy", "t-1", json!({})));
    let short = stage.stream("/short/download", &token("legacy", "t-2", json!({ "exp": now() + 2 })));
    stage.streams.expect_open(2);
    short.expect_cut();
    stage.streams.expect_open(1);
    stage.expect_alive(&mut [&mut long]);
    let line = stage.line("/short/download");
    assert_eq!((&line["aborted"], &line["code"]), (&json!(true), &json!("token_expired")));
}

// --- own tokens --------------------------------------------------------------------------------------------------

#[test]
fn logout_cuts_its_session_and_logout_all_every_one() {
    let stage = Stage::begin();
    let gateway = &stage.gateway;
    let one = Account::sign_up(gateway, "ada@example.com");
    let two = Account::sign_in(gateway, "ada@example.com");
    let three = Account::sign_in(gateway, "ada@example.com");
    let grace = Account::sign_up(gateway, "grace@example.com");
    let first = stage.stream("/one/events", &one.access);
    let mut second = stage.stream("/two/events", &two.access);
    let mut third = stage.stream("/three/events", &three.access);
    let mut neighbour = stage.stream("/grace/events", &grace.access);
    gateway.post("/auth/logout").bearer(&one.refresh).send().expect(200);
    first.expect_cut();
    stage.streams.expect_open(3);
    stage.expect_alive(&mut [&mut second, &mut third, &mut neighbour]);
    let line = stage.line("/one/events");
    assert_eq!((&line["aborted"], &line["code"]), (&json!(true), &json!("token_revoked")));
    assert_eq!((&line["status"], &line["subject"]), (&json!(200), &claims_of(&one.access)["sub"]));
    gateway.post("/auth/logout-all").bearer(&two.access).send().expect(200);
    second.expect_cut();
    third.expect_cut();
    stage.streams.expect_open(1);
    stage.expect_alive(&mut [&mut neighbour]);
}

#[test]
fn a_refresh_does_not_cut_the_streams_of_its_session_and_a_reuse_does() {
    let stage = Stage::begin();
    let account = Account::sign_up(&stage.gateway, "ada@example.com");
    let mut stream = stage.stream("/events", &account.access);
    let mut tokens = json!({ "refresh_token": account.refresh });
    for _ in 0..3 {
        let refresh = tokens["refresh_token"].as_str().unwrap();
        let answer = stage.gateway.post("/auth/refresh").bearer(refresh).send().expect(200);
        tokens = answer.json()["data"][0].clone();
    }
    stage.expect_alive(&mut [&mut stream]);
    let mut later = stage.stream("/events", tokens["access_token"].as_str().unwrap());
    stage.streams.expect_open(2);
    stage.expect_alive(&mut [&mut stream, &mut later]);
    // Its successor has been used: whoever comes with it now has stolen it, or was stolen from.
    account.refreshed(&stage.gateway).expect(401);
    stream.expect_cut();
    later.expect_cut();
    stage.streams.expect_open(0);
}

// --- how a cut looks ---------------------------------------------------------------------------------------------

#[test]
fn a_client_that_takes_nothing_is_cut_all_the_same() {
    let stage = Stage::begin();
    let flood = stage.stream("/flood", &token("legacy", "t-1", json!({})));
    stage.streams.expect_open(1);
    // The client does not read, so the gateway and the upstream come to stand: fifty looks without a change.
    let (mut before, mut looks) = (0, 0);
    wait_for("the flood to stand", || {
        let now = stage.streams.flooded.load(Ordering::SeqCst);
        looks = if now == before { looks + 1 } else { 0 };
        before = now;
        (looks == 50).then_some(())
    });
    stage.gateway.revoke(&json!({ "kind": "token", "value": "t-1", "issuer": "legacy" }));
    stage.streams.expect_open(0);
    flood.expect_cut();
    assert_eq!(stage.line("/flood")["code"], "token_revoked");
}

#[test]
fn an_answer_that_comes_after_the_revocation_is_a_refusal() {
    let stage = Stage::begin();
    let ask = |method: &str, id: &str| {
        let mut connection = stage.gateway.connect();
        let call = stage.gateway.call(method, "/late").bearer(&token("legacy", id, json!({})));
        connection.send(call.bytes());
        connection
    };
    let (mut get, mut post) = (ask("GET", "t-1"), ask("POST", "t-2"));
    stage.streams.expect_open(2);
    stage.gateway.revoke(&json!([
        { "kind": "token", "value": "t-1", "issuer": "legacy" },
        { "kind": "token", "value": "t-2", "issuer": "legacy" },
    ]));
    stage.streams.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n");
    get.answer("GET").expect_problem(401, "token_revoked");
    // Its effect may be there: it is not told to try again.
    assert!(post.closed());
    assert!(!post.rest().windows(3).any(|window| window == b"yes"));
    stage.streams.expect_open(0);
}

// --- who is left alone -------------------------------------------------------------------------------------------

#[test]
fn public_and_shadow_routes_are_left_alone() {
    let stage = Stage::begin();
    let token = token("legacy", "t-1", json!({}));
    let mut streams = [("/open/events", &*token), ("/shadow/events", &token), ("/open/chunked", "")]
        .map(|(target, token)| stage.stream(target, token));
    assert_eq!(stage.metric("portcullis_live_connections"), 0);
    stage.gateway.revoke(&json!({ "kind": "token", "value": "t-1", "issuer": "legacy" }));
    let [one, two, three] = &mut streams;
    stage.expect_alive(&mut [one, two, three]);
}

#[test]
fn it_can_be_switched_off() {
    let issuers = ISSUERS.replace("[revocation]", "[revocation]\ncut_live_connections = false");
    let stage = Stage::with(|setup| setup.section(&issuers));
    let mut stream = stage.stream("/events", &token("legacy", "t-1", json!({ "exp": now() + 2 })));
    stage.gateway.revoke(&json!({ "kind": "token", "value": "t-1", "issuer": "legacy" }));
    stage.expect_alive(&mut [&mut stream]);
}

#[test]
fn whole_answers_are_not_registered() {
    let upstream = Upstream::echo();
    let gateway = Setup::without_auth()
        .secret("legacy.key", Key::secret("legacy").secret_bytes())
        .secret("other.key", Key::secret("other").secret_bytes())
        .section(ISSUERS)
        .upstream("up", upstream.address())
        .route("all", "/", "up", "access")
        .start();
    let token = token("legacy", "t-1", json!({}));
    let mut connection = gateway.connect();
    for _ in 0..10 {
        gateway.get("/").bearer(&token).send_on(&mut connection).expect(200);
    }
    gateway.revoke(&json!({ "kind": "token", "value": "t-1", "issuer": "legacy" }));
    gateway.get("/").bearer(&token).send_on(&mut connection).expect_problem(401, "token_revoked");
    assert!(gateway.metrics().contains("portcullis_cut_connections_total 0"));
}

/// Opened at the moment of the revocation: refused or cut, never alive afterwards.
#[test]
fn no_stream_outlives_a_revocation_of_the_same_moment() {
    let stage = Stage::begin();
    let acknowledged = AtomicBool::new(false);
    for round in 0..60 {
        let id = format!("t-{round}");
        acknowledged.store(false, Ordering::SeqCst);
        let mut opened: Vec<Connection> = thread::scope(|scope| {
            let token = token("legacy", &id, json!({}));
            let (stage, acknowledged) = (&stage, &acknowledged);
            let openers: Vec<_> = (0..2)
                .map(|_| {
                    let call = stage.gateway.get("/events").bearer(&token);
                    scope.spawn(move || {
                        let mut opened = Vec::new();
                        while !acknowledged.load(Ordering::SeqCst) && opened.len() < 50 {
                            let mut connection = stage.gateway.connect();
                            connection.send(call.bytes());
                            opened.push(connection);
                        }
                        opened
                    })
                })
                .collect();
            stage.gateway.revoke(&json!({ "kind": "token", "value": id, "issuer": "legacy" }));
            acknowledged.store(true, Ordering::SeqCst);
            openers.into_iter().flat_map(|opener| opener.join().unwrap()).collect()
        });
        for connection in &mut opened {
            // 401, or a response that is cut; one that stays open runs into the deadline and panics.
            let text = |c: &Connection| String::from_utf8_lossy(c.rest()).into_owned();
            // A head that is cut at once may not come through: a reset takes with it what was not read yet.
            let _ = connection.came(|bytes| bytes.windows(4).any(|window| window == b"\r\n\r\n"));
            if text(connection).starts_with("HTTP/1.1 401") {
                connection.answer("GET").expect_problem(401, "token_revoked");
            } else {
                assert!(connection.closed(), "round {round}: {}", text(connection));
            }
        }
    }
    stage.streams.expect_open(0);
    assert_eq!(stage.metric("portcullis_live_connections"), 0);
}

// --- WebSockets --------------------------------------------------------------------------------------------------

/// A WebSocket of this token, its 101 read.
fn socket(gateway: &Gateway, token: &str) -> Connection {
    let mut connection = gateway.connect();
    let call = gateway
        .get("/socket")
        .bearer(token)
        .header("Upgrade", "websocket")
        .header("Connection", "keep-alive, Upgrade")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("Sec-WebSocket-Protocol", "chat, superchat")
        .header("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits");
    connection.send(call.bytes());
    let answer = connection.answer("GET").expect(101);
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    assert_eq!(answer.header("connection"), Some("upgrade"));
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(answer.header("sec-websocket-protocol"), Some("chat, superchat"));
    assert_eq!(answer.header("sec-websocket-extensions"), Some("permessage-deflate; client_max_window_bits"));
    connection
}

/// A Close frame with 1008 and these words.
fn close(reason: &str) -> Vec<u8> {
    [&[0x88, reason.len() as u8 + 2, 0x03, 0xF0], reason.as_bytes()].concat()
}

/// What the upstream of a WebSocket gets to its end.
fn to_the_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

fn unmasked(frame: &[u8]) -> Vec<u8> {
    let mask = &frame[2..6];
    let payload = frame[6..].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    [frame[0], frame[1] & 0x7F].into_iter().chain(payload).collect()
}

#[test]
fn a_websocket_gets_a_close_1008_on_both_sides() {
    let stage = Stage::begin();
    let mut client = socket(&stage.gateway, &token("legacy", "t-1", json!({})));
    let mut server = stage.streams.last();
    let mut other = socket(&stage.gateway, &token("legacy", "t-2", json!({})));
    stage.streams.expect_open(2); // an answer is sent before its stream is listed
    let mut other_server = stage.streams.last();
    assert_eq!(stage.metric("portcullis_live_connections"), 2);

    // Whatever the payload, it passes as it is; RSV1 marks a compressed one.
    let down = [&[0xC2, 126, 0x01, 0x00][..], &[0x88; 256]].concat();
    let up = [&[0x82, 0x82, 1, 2, 3, 4][..], &[0xFF, 0x00]].concat();
    server.write_all(&down).unwrap();
    client.send(&up);
    client.read_until("the frame", |bytes| bytes == down);
    assert_eq!(take(&mut server, &mut Vec::new(), up.len()).unwrap(), up);

    stage.gateway.revoke(&json!({ "kind": "token", "value": "t-1", "issuer": "legacy" }));
    assert!(client.closed());
    assert_eq!(client.rest()[down.len()..], close("token revoked"));
    let frame = to_the_end(&mut server);
    assert_eq!(frame[1] & 0x80, 0x80, "every frame to a server is masked");
    assert_eq!(unmasked(&frame), close("token revoked"));
    let line = stage.line("/socket");
    assert_eq!((&line["status"], &line["aborted"]), (&json!(101), &json!(true)));
    assert_eq!((&line["code"], &line["bytes"]), (&json!("token_revoked"), &json!(down.len() + 17)));

    // The other one does not notice, and ends by itself.
    assert_eq!(stage.metric("portcullis_live_connections"), 1);
    other_server.write_all(&down).unwrap();
    other.read_until("the frame", |bytes| bytes == down);
    other.send([0x88, 0x80, 0, 0, 0, 0]);
    assert_eq!(take(&mut other_server, &mut Vec::new(), 6).unwrap(), [0x88, 0x80, 0, 0, 0, 0]);
    other_server.write_all(&[0x88, 0]).unwrap();
    other_server.shutdown(std::net::Shutdown::Both).unwrap();
    assert!(other.closed());
    assert_eq!(other.rest()[down.len()..], [0x88, 0]);
    drop(other);
    wait_for("the end", || (stage.metric("portcullis_live_connections") == 0).then_some(()));
    assert_eq!(stage.metric("portcullis_cut_connections_total"), 1);
}

#[test]
fn a_close_waits_for_the_end_of_a_frame_but_not_for_long() {
    let stage = Stage::begin();
    let frame = [&[0x82, 10][..], &[b'x'; 10]].concat();

    let mut client = socket(&stage.gateway, &token("legacy", "t-1", json!({})));
    let mut server = stage.streams.last();
    server.write_all(&frame[..5]).unwrap();
    client.read_until("half a frame", |bytes| bytes == &frame[..5]);
    thread::scope(|scope| {
        scope.spawn(|| stage.gateway.revoke(&json!({ "kind": "token", "value": "t-1", "issuer": "legacy" })));
        // The upstream is told at once, and that is how we know that the cut has come.
        let mut told = [0; 6 + 15];
        server.read_exact(&mut told).unwrap();
        assert_eq!(unmasked(&told), close("token revoked"));
        server.write_all(&[&frame[5..], &frame].concat()).unwrap();
    });
    assert!(client.closed());
    assert_eq!(client.rest(), [frame.clone(), close("token revoked")].concat());

    let mut client = socket(&stage.gateway, &token("legacy", "t-2", json!({})));
    stage.streams.expect_open(2); // an answer is sent before its stream is listed
    let mut server = stage.streams.last();
    server.write_all(&frame[..5]).unwrap();
    client.read_until("half a frame", |bytes| bytes == &frame[..5]);
    stage.gateway.revoke(&json!({ "kind": "token", "value": "t-2", "issuer": "legacy" }));
    assert!(client.closed());
    assert_eq!(client.rest(), &frame[..5], "nothing stands inside a frame");
}

#[test]
fn a_websocket_of_a_revoked_token_is_refused() {
    let stage = Stage::begin();
    let token = token("legacy", "t-1", json!({ "exp": now() + 3600 }));
    stage.gateway.revoke(&json!({ "token": token }));
    let call = stage.gateway.get("/socket").bearer(&token);
    let call = call.header("Upgrade", "websocket").header("Connection", "Upgrade");
    call.send().expect_problem(401, "token_revoked");
    assert_eq!(stage.streams.upstream.connections(), 0);
}

#[test]
fn an_upgrade_that_is_no_websocket_is_forwarded_without_it() {
    let upstream = Upstream::echo();
    let gateway =
        Setup::without_auth().upstream("up", upstream.address()).route("all", "/", "up", "public").start();
    let plain = gateway.get("/").header("Connection", "Upgrade");
    let with_body = plain.clone().header("Upgrade", "websocket").body("text/plain", "x");
    for (number, call) in [plain.header("Upgrade", "irc"), with_body].into_iter().enumerate() {
        call.send().expect(200);
        let request = upstream.nth(number + 1);
        assert!(!request.folded("upgrade") && !request.folded("connection"), "{:?}", request.headers);
    }
}

#[test]
fn a_websocket_in_which_nothing_moves_ends() {
    let streams = Streams::start();
    let gateway = Setup::without_auth()
        .secret("legacy.key", Key::secret("legacy").secret_bytes())
        .secret("other.key", Key::secret("other").secret_bytes())
        .section(ISSUERS)
        .upstream_with("up", streams.upstream.address(), "stream_idle_timeout = \"300ms\"")
        .route("all", "/", "up", "access")
        .start();
    let mut client = socket(&gateway, &token("legacy", "t-1", json!({})));
    assert!(client.closed());
    assert!(client.rest().is_empty());
    assert!(to_the_end(&mut streams.last()).is_empty());
    assert!(gateway.metrics().contains("portcullis_cut_connections_total 0"));
}

#[test]
fn a_websocket_holds_its_place_under_max_requests() {
    let streams = Streams::start();
    let gateway = Setup::without_auth()
        .secret("legacy.key", Key::secret("legacy").secret_bytes())
        .secret("other.key", Key::secret("other").secret_bytes())
        .section(ISSUERS)
        .upstream_with("up", streams.upstream.address(), "max_requests = 1")
        .route("all", "/", "up", "access")
        .start();
    let token = token("legacy", "t-1", json!({}));
    let client = socket(&gateway, &token);
    gateway.get("/events").bearer(&token).send().expect_problem(503, "overloaded");
    drop(client);
    drop(streams.last().shutdown(std::net::Shutdown::Both));
    wait_for("the place to be free", || {
        let mut connection = gateway.connect();
        connection.send(gateway.get("/events").bearer(&token).bytes());
        (connection.head().status == 200).then_some(())
    });
}

#[test]
fn a_drain_waits_for_a_websocket_and_then_says_good_bye() {
    let mut stage = Stage::with(|setup| setup.section(ISSUERS).server("drain_timeout = \"2s\""));
    let mut client = socket(&stage.gateway, &token("legacy", "t-1", json!({})));
    let mut server = stage.streams.last();
    stage.gateway.sigterm();
    wait_for("the drain to begin", || {
        (Call::new(stage.gateway.admin_address(), "GET", "/readyz").send().status == 503).then_some(())
    });
    server.write_all(&[0x81, 2, b'h', b'i']).unwrap();
    client.read_until("a frame", |bytes| bytes == [0x81, 2, b'h', b'i']);
    // Neither side answers: it ends all the same.
    assert!(client.closed());
    let close = [&[0x88, 12, 0x03, 0xE9][..], b"going away"].concat();
    assert_eq!(client.rest()[4..], close);
    assert_eq!(stage.gateway.wait().code(), Some(0));
    assert!(stage.gateway.stderr().contains("WebSockets are told that it is over"));
}

/// `websockets` of PyPI on both sides: a server and a client that we did not write.
#[test]
fn a_real_client_and_a_real_server_talk_until_the_token_is_revoked() {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/websockets");
    let python = python::with("websockets", &files.join("requirements.txt"));
    let mut echo = Script::start(&python, &files.join("echo.py"), &[]);
    let address = echo.line().strip_prefix("echo listening on ").unwrap().parse().unwrap();
    let gateway = Setup::without_auth()
        .secret("legacy.key", Key::secret("legacy").secret_bytes())
        .secret("other.key", Key::secret("other").secret_bytes())
        .section(ISSUERS)
        .upstream("up", address)
        .route("all", "/", "up", "access")
        .start();
    let url = format!("ws://{}/chat", gateway.address());
    for (id, exp, reason) in [("t-1", 600, "token revoked"), ("t-2", 8, "token expired")] {
        let token = token("legacy", id, json!({ "exp": now() + exp }));
        let mut client = Script::start(&python, &files.join("client.py"), &[&url, &token]);
        assert_eq!(client.line(), "echoed chat permessage-deflate");
        if exp == 600 {
            gateway.revoke(&json!({ "kind": "subject", "value": "ada", "issuer": "legacy" }));
            gateway.unrevoke("subject", "ada", "legacy").expect(200);
        }
        assert_eq!(client.line(), format!("closed 1008 {reason}"));
        assert_eq!(echo.line(), format!("closed 1008 {reason}"));
        assert!(client.child.wait().unwrap().success());
    }
}

/// A Python script that runs until dropped.
struct Script {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Script {
    fn start(python: &Path, file: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(python)
            .arg(file)
            .args(arguments)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The next line that it prints; empty at its end.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

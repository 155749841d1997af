//! What is open when the configuration changes, when another process takes over and when the process ends: WebSockets over
//! both versions of HTTP, requests over HTTP/2, calls of gRPC.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::Request;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::gateway::Successor;
use crate::support::jwt::{Key, claims};
use crate::support::{Connection, Gateway, Program, Setup, Upstream, wait_for};
use crate::tunnels::{dial, run, sockets};

/// A public `/open` and `/ws`, which asks for a token, at an echo of WebSockets.
fn before(echo: &str, plain: &Upstream) -> Setup {
    Setup::new()
        .server("access_log = \"off\"")
        .secret("legacy.key", Key::secret("legacy").secret_bytes())
        .section("[[issuers]]\nname = \"legacy\"\nalgorithms = [\"HS256\"]\nsecret_file = \"legacy.key\"\n")
        .upstream("echo", echo.parse().unwrap())
        .upstream("plain", plain.address())
        .route("sockets", "/ws", "echo", "access")
        .route("open", "/open", "plain", "public")
}

fn token(id: &str) -> String {
    Key::secret("legacy").token(&claims(id, &json!({})))
}

fn revoke(gateway: &Gateway, id: &str) {
    gateway.revoke(&json!({ "kind": "token", "value": id, "issuer": "legacy" }));
}

// --- WebSockets --------------------------------------------------------------------------------------------------

/// The client's side of a WebSocket.
enum Socket {
    Http1(Connection, usize),
    Http2(RecvStream, SendStream<Bytes>, Vec<u8>),
}

impl Socket {
    fn http1(address: SocketAddr, id: &str) -> Self {
        let mut connection = Connection::open(address);
        connection.send(format!(
            "GET /ws HTTP/1.1\r\nHost: gateway.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: chat\r\n\
             Authorization: Bearer {}\r\n\r\n",
            token(id)
        ));
        assert_eq!(connection.head().status, 101);
        Self::Http1(connection, 0)
    }

    async fn http2(client: &mut SendRequest<Bytes>, id: &str) -> Self {
        let bearer = format!("Bearer {}", token(id));
        let fields = [("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat")];
        let (answer, upload) =
            dial(client, &[&fields[..], &[("authorization", bearer.as_str())]].concat()).await;
        assert_eq!(answer.status(), 200);
        Self::Http2(answer.into_body(), upload, Vec::new())
    }

    fn send(&mut self, frame: &'static [u8]) {
        match self {
            Self::Http1(connection, _) => connection.send(frame),
            Self::Http2(_, upload, _) => upload.send_data(Bytes::from_static(frame), false).unwrap(),
        }
    }

    /// The next frame, which is a short one: its first byte and its payload.
    async fn frame(&mut self) -> (u8, Vec<u8>) {
        let whole = |bytes: &[u8]| bytes.len() > 1 && bytes.len() >= 2 + usize::from(bytes[1]);
        let bytes = match self {
            Self::Http1(connection, seen) => {
                connection.read_until("a frame", |bytes| whole(&bytes[*seen..]));
                let bytes = connection.rest()[*seen..].to_vec();
                *seen += 2 + usize::from(bytes[1]);
                bytes
            }
            Self::Http2(down, _, kept) => {
                while !whole(kept) {
                    let data = down.data().await.expect("a frame").unwrap();
                    down.flow_control().release_capacity(data.len()).unwrap();
                    kept.extend_from_slice(&data);
                }
                let rest = kept.split_off(2 + usize::from(kept[1]));
                std::mem::replace(kept, rest)
            }
        };
        (bytes[0], bytes[2..2 + usize::from(bytes[1])].to_vec())
    }

    /// Says something and hears it.
    async fn expect_alive(&mut self) {
        self.send(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']);
        assert_eq!(self.frame().await, (0x81, b"hi".to_vec()));
    }

    /// How it ends: the code and the words of the Close frame, and nothing after it.
    async fn expect_end(mut self, code: u16, words: &str) {
        let (first, payload) = self.frame().await;
        assert_eq!(first, 0x88, "a Close frame");
        assert_eq!(payload, [&code.to_be_bytes()[..], words.as_bytes()].concat());
        self.send(&[0x88, 0x80, 0, 0, 0, 0]);
        match self {
            Self::Http1(mut connection, seen) => {
                assert!(connection.closed());
                assert_eq!(connection.rest().len(), seen, "nothing follows");
            }
            Self::Http2(mut down, _, kept) => {
                assert!(kept.is_empty() && !matches!(down.data().await, Some(Ok(data)) if !data.is_empty()));
            }
        }
    }
}

async fn connect(address: SocketAddr) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    (send.ready().await.unwrap(), tokio::spawn(connection))
}

#[test]
fn websockets_live_on_over_a_reload_that_takes_their_route_and_are_still_cut() {
    let ((_echo, address), plain) = (sockets(), Upstream::echo());
    let gateway = before(&address, &plain).start();
    run(async {
        let (mut client, _end) = connect(gateway.address()).await;
        let mut cut = [Socket::http1(gateway.address(), "t-1"), Socket::http2(&mut client, "t-1").await];
        let mut kept = [Socket::http1(gateway.address(), "t-2"), Socket::http2(&mut client, "t-2").await];
        // Their route goes, and the upstream that they lead to is another one.
        let toml = gateway.toml().replace("path = \"/ws\"", "path = \"/gone\"");
        gateway.put_toml(&toml.replace("name = \"echo\"\n", "name = \"echo\"\nretries = 0\n"));
        gateway.reload().expect(200);
        gateway.get("/ws").bearer(&token("t-1")).send().expect(404);
        for socket in cut.iter_mut().chain(&mut kept) {
            socket.expect_alive().await;
        }
        revoke(&gateway, "t-1");
        for socket in cut {
            socket.expect_end(1008, "token revoked").await;
        }
        for socket in &mut kept {
            socket.expect_alive().await;
        }
    });
}

#[test]
fn the_old_process_carries_its_websockets_and_obeys_the_new_one() {
    let ((_echo, address), plain) = (sockets(), Upstream::echo());
    let mut gateway = before(&address, &plain).server("drain_timeout = \"5m\"").start();
    run(async {
        let (mut client, end) = connect(gateway.address()).await;
        let cut = [Socket::http1(gateway.address(), "t-1"), Socket::http2(&mut client, "t-1").await];
        let mut kept = [Socket::http1(gateway.address(), "t-2"), Socket::http2(&mut client, "t-2").await];
        gateway.signal("USR2");
        let _successor = Successor::of(&gateway);
        assert!(gateway.metrics().contains("portcullis_live_connections 0"), "the new one has none of them");
        // Others go to the new one.
        let (mut other, _end) = connect(gateway.address()).await;
        let mut new = [Socket::http1(gateway.address(), "t-1"), Socket::http2(&mut other, "t-2").await];
        assert!(gateway.metrics().contains("portcullis_live_connections 2"));
        for socket in kept.iter_mut().chain(&mut new) {
            socket.expect_alive().await;
        }
        revoke(&gateway, "t-1");
        let [one, mut two] = new;
        for socket in cut.into_iter().chain([one]) {
            socket.expect_end(1008, "token revoked").await;
        }
        for socket in kept.iter_mut().chain([&mut two]) {
            socket.expect_alive().await;
        }
        // When the last of them has ended, so does the old process.
        drop((kept, client));
        end.await.unwrap().unwrap();
        assert_eq!(gateway.wait().code(), Some(0));
        two.expect_alive().await;
    });
}

#[test]
fn websockets_are_told_that_the_process_or_their_listener_goes() {
    let ((mut echo, address), plain) = (sockets(), Upstream::echo());
    let setup = before(&address, &plain).server("drain_timeout = \"2s\"");
    let toml = setup.toml().replacen("[\"127.0.0.1:0\"]", "[\"127.0.0.1:0\", \"[::1]:0\"]", 1);
    let mut gateway = setup.start_with(&toml);
    run(async {
        let second = gateway.listeners("clear")[1];
        let (mut client, _end) = connect(gateway.address()).await;
        let mut kept = [Socket::http1(gateway.address(), "t-1"), Socket::http2(&mut client, "t-1").await];
        let (mut other, _end) = connect(second).await;
        let gone = [Socket::http1(second, "t-1"), Socket::http2(&mut other, "t-1").await];
        gateway.put_toml(&toml.replace(", \"[::1]:0\"", ""));
        gateway.reload().expect(200);
        for socket in gone {
            socket.expect_end(1001, "going away").await;
            assert_eq!(echo.line(), "closed 1001 going away");
        }
        for socket in &mut kept {
            socket.expect_alive().await;
        }
        gateway.sigterm();
        for socket in kept {
            socket.expect_end(1001, "going away").await;
            assert_eq!(echo.line(), "closed 1001 going away");
        }
    });
    assert_eq!(gateway.wait().code(), Some(0));
}

// --- requests over HTTP/2 ----------------------------------------------------------------------------------------

/// Clients that never stop asking over HTTP/2 and forgive nothing: a request that was sent must be answered in whole. A
/// connection is left for another one when it has said good-bye.
struct Asking {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    /// Said to them.
    good_byes: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<()>>,
}

impl Asking {
    async fn begin(address: SocketAddr, clients: usize) -> Self {
        let (stop, [answered, good_byes]) =
            (Arc::<AtomicBool>::default(), <[Arc<AtomicUsize>; 2]>::default());
        let ask = |_| tokio::spawn(ask(address, stop.clone(), answered.clone(), good_byes.clone()));
        let clients = (0..clients).map(ask).collect();
        let asking = Self { stop, answered, good_byes, clients };
        asking.go_on(10).await;
        asking
    }

    async fn go_on(&self, count: usize) {
        let enough = self.answered.load(Ordering::SeqCst) + count;
        while self.answered.load(Ordering::SeqCst) < enough
            && !self.clients.iter().any(JoinHandle::is_finished)
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn good_byes(&self) -> usize {
        self.good_byes.load(Ordering::SeqCst)
    }

    /// Ends it. A client that met a failure has panicked.
    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.await.unwrap();
        }
    }
}

async fn ask(
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    good_byes: Arc<AtomicUsize>,
) {
    while !stop.load(Ordering::SeqCst) {
        let (client, end) = connect(address).await;
        while !stop.load(Ordering::SeqCst) {
            // Nothing was sent where this fails.
            let Ok(mut sender) = client.clone().ready().await else { break };
            let request = Request::get("http://gateway.test/open").body(()).unwrap();
            // Two at once.
            let Ok((one, _)) = sender.send_request(request.clone(), true) else { break };
            let two = match sender.ready().await {
                Ok(mut sender) => sender.send_request(request, true).ok(),
                Err(_) => None,
            };
            for answer in [Some(one), two.map(|(two, _)| two)].into_iter().flatten() {
                let mut answer = answer.await.expect("an answer");
                assert_eq!(answer.status(), 200);
                while let Some(data) = answer.body_mut().data().await {
                    let length = data.expect("the whole body").len();
                    answer.body_mut().flow_control().release_capacity(length).unwrap();
                }
                answered.fetch_add(1, Ordering::SeqCst);
            }
        }
        if !stop.load(Ordering::SeqCst) {
            drop(client);
            end.await.unwrap().expect("GOAWAY without an error");
            good_byes.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Runs on more than one thread: what blocks does not keep the clients from asking.
fn run_beside<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(crate::support::wait::DEADLINE, test).await.expect("in time")
    })
}

#[test]
fn no_request_over_http_2_fails_while_the_configuration_changes_or_a_new_process_takes_over() {
    let plain = Upstream::echo();
    let mut gateway = before("127.0.0.1:1", &plain).start();
    run_beside(async {
        let asking = Asking::begin(gateway.address(), 3).await;
        for path in ["/one", "/two"] {
            gateway.put_toml(&gateway.toml().replace("path = \"/ws\"", &format!("path = \"{path}\"")));
            gateway.signal("HUP");
            asking.go_on(20).await;
        }
        assert_eq!(asking.good_byes(), 0, "a reload says good-bye to nobody");
        gateway.signal("USR2");
        let _successor = Successor::of(&gateway);
        asking.go_on(20).await;
        assert_eq!(gateway.wait().code(), Some(0), "the old one ends though its clients would go on");
        asking.go_on(20).await;
        assert!(asking.good_byes() >= 3, "the old process said so to each");
        asking.end().await;
    });
}

// --- calls of gRPC -----------------------------------------------------------------------------------------------

#[test]
fn calls_of_grpc_that_the_old_process_has_run_to_their_end() {
    let mut server = Program::python("grpc", "server.py", &[]);
    let address: SocketAddr = format!("127.0.0.1:{}", server.line()).parse().unwrap();
    let mut gateway = Setup::without_auth()
        .server("drain_timeout = \"5m\"")
        .upstream_with("g", address, "http2 = true\n")
        .route("t", "/t.T", "g", "public")
        .start();
    let mut client = Program::python("grpc", "paced.py", &[&gateway.address().to_string()]);
    let mut go_on = |word: &str| {
        client.tell(word);
        assert_eq!(client.step("stream")["answer"], format!("re {word}"));
        client.tell("unary");
        assert_eq!(client.step("unary")["answer"], "got hello");
    };
    go_on("begun");
    gateway.put_toml(&gateway.toml().replace("http2 = true\n", "http2 = true\nretries = 0\n"));
    gateway.reload().expect(200);
    go_on("reloaded");
    gateway.signal("USR2");
    let _successor = Successor::of(&gateway);
    // The stream is where it was; other calls of the same channel are served by the new process.
    go_on("upgraded");
    go_on("still there");
    client.tell("end");
    assert_eq!(client.step("end")["code"], 0);
    assert_eq!(gateway.wait().code(), Some(0), "that was all that the old process had");
    assert!(client.wait().success());
    wait_for("the new one to be alone", || {
        gateway.metrics().contains("portcullis_connections{} 0.0\n").then_some(())
    });
}

//! Many clients at once, and what each of them may cost.

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use bytes::Bytes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::hostile::frames;
use crate::support::pki::Authority;
use crate::support::wait::DEADLINE;
use crate::support::{Connection, Gateway, Load, Setup, Upstream, wait_for};

/// As many as the promise says.
const MANY: usize = 10_000;
/// Sent before the answers are read.
const AT_A_TIME: usize = 250;
const GET: &[u8] = b"GET /x HTTP/1.1\r\nhost: gateway.test\r\n\r\n";
/// So long that no timeout of the gateway can be what a test sees.
const PATIENT: &str = "header_read_timeout = \"10m\"\nidle_timeout = \"10m\"\naccess_log = \"off\"";

/// Has this process, and the gateways that it starts, open as many files as the system lets it; fails unless that is
/// enough for the tests here.
fn open_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    assert!(
        allowed > MANY as u64 + 2_000,
        "the hard limit on open files is {allowed}: raise it for this test"
    );
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, DEADLINE).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Reads one answer with this body; nothing else may come.
fn expect_answer(stream: &mut impl Read, body: &str) {
    let mut seen = Vec::new();
    let mut buffer = [0; 2048];
    while !seen.ends_with(body.as_bytes()) {
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&buffer[..read]);
    }
    assert!(seen.starts_with(b"HTTP/1.1 200 "), "{:?}", String::from_utf8_lossy(&seen));
}

/// What the gateway's memory grew by, for each of so many.
fn kib_each(gateway: &Gateway, before: usize, count: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a figure to be read")]
    let each = gateway.resident().saturating_sub(before) as f64 / 1024.0 / count as f64;
    each
}

/// Speaks HTTP/2 without TLS, so that ten thousand requests need few descriptors, and answers when its gate is open.
struct Gated {
    address: SocketAddr,
    gate: watch::Sender<bool>,
    arrived: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl Gated {
    fn start(open: bool) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (gate, opened) = watch::channel(open);
        let arrived = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&arrived);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Self::serve(stream, opened.clone(), Arc::clone(&count)));
            }
        });
        Self { address, gate, arrived, _runtime: runtime }
    }

    async fn serve(stream: tokio::net::TcpStream, opened: watch::Receiver<bool>, arrived: Arc<AtomicUsize>) {
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(20_000).initial_window_size(1 << 20);
        let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            arrived.fetch_add(1, Ordering::SeqCst);
            let mut opened = opened.clone();
            tokio::spawn(async move {
                let mut body = request.into_body();
                while let Some(Ok(data)) = body.data().await {
                    let _ = body.flow_control().release_capacity(data.len());
                }
                let _ = opened.wait_for(|open| *open).await;
                let answer = http::Response::builder().header("content-length", "4").body(()).unwrap();
                if let Ok(mut sending) = respond.send_response(answer, false) {
                    let _ = sending.send_data(Bytes::from_static(b"held"), true);
                }
            });
        }
    }

    fn arrived(&self) -> usize {
        self.arrived.load(Ordering::SeqCst)
    }

    fn gateway(&self, server: &str) -> Gateway {
        Setup::without_auth()
            .server(server)
            .upstream_with("up", self.address, "http2 = true\nresponse_timeout = \"10m\"\n")
            .route("all", "/", "up", "public")
            .start()
    }
}

#[test]
fn ten_thousand_idle_connections_cost_at_most_sixteen_kib_each() {
    open_many_files();
    let upstream = Upstream::new(|_| crate::support::Reply::Full(200, Vec::new(), b"idle".to_vec()));
    let gateway = Setup::without_auth()
        .server(PATIENT)
        .upstream("up", upstream.address())
        .route("all", "/", "up", "public")
        .start();
    // What is made once: connections to the upstream, the allocator's own.
    let mut first: Vec<TcpStream> = (0..AT_A_TIME).map(|_| connect(gateway.address())).collect();
    first.iter_mut().for_each(|stream| stream.write_all(GET).unwrap());
    first.iter_mut().for_each(|stream| expect_answer(stream, "idle"));
    drop(first);

    let before = gateway.resident();
    let mut clients: Vec<TcpStream> = (0..MANY).map(|_| connect(gateway.address())).collect();
    wait_for("all to be let in", || {
        gateway.metrics().contains("portcullis_connections{} 10000.0\n").then_some(())
    });
    let silent = kib_each(&gateway, before, MANY);
    assert!(silent <= 16.0, "{silent:.1} KiB for a connection that has said nothing");

    for clients in clients.chunks_mut(AT_A_TIME) {
        clients.iter_mut().for_each(|stream| stream.write_all(GET).unwrap());
        clients.iter_mut().for_each(|stream| expect_answer(stream, "idle"));
    }
    let mut used = f64::MAX;
    // They give their buffers back a second after their last answer.
    wait_for("connections that were used to cost at most 16 KiB", || {
        let now = kib_each(&gateway, before, MANY);
        if now < used {
            eprintln!("{now:.1} KiB for a connection that was used");
        }
        used = now;
        (used <= 16.0).then_some(())
    });
    eprintln!("idle: {silent:.1} KiB silent, {used:.1} KiB used");

    // And they are good for another request.
    for stream in clients.iter_mut().step_by(20) {
        stream.write_all(GET).unwrap();
        expect_answer(stream, "idle");
    }
}

/// A connection to the gateway, over TLS or not.
trait Wire: Read + Write {}
impl<S: Read + Write> Wire for S {}

/// One that has sent one request over HTTP/2 and nothing else.
struct Http2 {
    wire: Box<dyn Wire>,
    buffer: Vec<u8>,
    stream: u32,
}

impl Http2 {
    fn open(wire: Box<dyn Wire>) -> Self {
        let mut client = Self { wire, buffer: Vec::new(), stream: 1 };
        client.wire.write_all(frames::PREFACE).unwrap();
        client.wire.write_all(&frames::frame(frames::SETTINGS, 0, 0, [])).unwrap();
        client
    }

    fn ask(&mut self, scheme: &str) {
        let fields =
            [(":method", "GET"), (":scheme", scheme), (":path", "/x"), (":authority", "gateway.test")];
        let flags = frames::END_STREAM | frames::END_HEADERS;
        let head = frames::frame(frames::HEADERS, flags, self.stream, frames::block(&fields));
        self.wire.write_all(&head).unwrap();
    }

    /// Reads to the end of the answer, and answers what the gateway asks meanwhile.
    fn expect_answer(&mut self) {
        loop {
            let (kind, flags, stream, payload) = self.frame();
            match (kind, flags & frames::ACK) {
                (frames::SETTINGS | frames::PING, 0) => {
                    let payload = if kind == frames::PING { payload } else { Vec::new() };
                    self.wire.write_all(&frames::frame(kind, frames::ACK, 0, payload)).unwrap();
                }
                (frames::GOAWAY | frames::RST_STREAM, _) => panic!("a frame {kind} in place of an answer"),
                (frames::HEADERS | frames::DATA, frames::END_STREAM) if stream == self.stream => break,
                _ => {}
            }
        }
        self.stream += 2;
    }

    fn frame(&mut self) -> (u8, u8, u32, Vec<u8>) {
        loop {
            if let Some(head) = self.buffer.first_chunk::<9>().copied() {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                if self.buffer.len() >= 9 + length {
                    let payload = self.buffer.drain(..9 + length).skip(9).collect();
                    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                    return (head[3], head[4], stream, payload);
                }
            }
            let mut block = [0; 2048];
            let read = self.wire.read(&mut block).unwrap();
            assert!(read > 0, "the gateway hung up");
            self.buffer.extend_from_slice(&block[..read]);
        }
    }
}

/// What a connection costs that has been used and waits, over TLS or HTTP/2; and it is good for more.
fn idle_connections(tls: bool, http2: bool, bound: f64) {
    const COUNT: usize = 1_000;
    open_many_files();
    let ca = Authority::new("ca");
    let pair = ca.issue(&["gateway.test"]);
    // Each answer has something in it that HTTP/2 remembers on its connection.
    let number = AtomicUsize::default();
    let upstream = Upstream::new(move |_| {
        let number = number.fetch_add(1, Ordering::SeqCst).to_string();
        crate::support::Reply::Full(200, vec![("x-number", number)], b"idle".to_vec())
    });
    let gateway = Setup::without_auth()
        .server(PATIENT)
        .secret("a.pem", &pair.cert)
        .secret("a.key", &pair.key)
        .section(
            "[server.tls]\nlisten = [\"127.0.0.1:0\"]\ncertificates = [{ cert = \"a.pem\", key = \"a.key\" }]",
        )
        .upstream("up", upstream.address())
        .route("all", "/", "up", "public")
        .start();
    let address = if tls { gateway.listening("tls") } else { gateway.address() };
    let config = ca.client(None, if http2 { &["h2"] } else { &["http/1.1"] });
    let open = || -> Box<dyn Wire> {
        let stream = connect(address);
        if !tls {
            return Box::new(stream);
        }
        let name = rustls::pki_types::ServerName::try_from("gateway.test").unwrap();
        let session = rustls::ClientConnection::new(Arc::clone(&config), name).unwrap();
        Box::new(rustls::StreamOwned::new(session, stream))
    };
    let scheme = if tls { "https" } else { "http" };
    let mut before = 0;
    let mut clients = Vec::with_capacity(COUNT);
    // The first ones are not counted: what is made once is made by then.
    for turn in 0..COUNT + AT_A_TIME {
        if turn == AT_A_TIME {
            before = gateway.resident();
        }
        let mut client = Http2 { wire: open(), buffer: Vec::new(), stream: 1 };
        if http2 {
            client = Http2::open(client.wire);
            for _ in 0..5 {
                client.ask(scheme);
                client.expect_answer();
            }
        } else {
            client.wire.write_all(GET).unwrap();
            expect_answer(&mut client.wire, "idle");
        }
        clients.push(client);
    }
    let mut least = f64::MAX;
    wait_for("idle connections to cost no more than they may", || {
        let now = kib_each(&gateway, before, COUNT);
        if now < least {
            eprintln!("{now:.1} KiB for an idle connection, TLS {tls}, HTTP/2 {http2}");
        }
        least = least.min(now);
        (least <= bound).then_some(())
    });
    for client in clients.iter_mut().step_by(20) {
        if http2 {
            client.ask(scheme);
            client.expect_answer();
        } else {
            client.wire.write_all(GET).unwrap();
            expect_answer(&mut client.wire, "idle");
        }
    }
}

#[test]
fn idle_connections_over_tls_cost_little_more() {
    idle_connections(true, false, 28.0);
}

#[test]
fn idle_connections_over_http_2_have_a_bound_with_and_without_tls() {
    idle_connections(false, true, 56.0);
    idle_connections(true, true, 68.0);
}

#[test]
fn ten_thousand_requests_at_once_are_all_answered_and_memory_stays_bounded() {
    open_many_files();
    let upstream = Gated::start(false);
    let gateway = upstream.gateway(PATIENT);
    let before = gateway.resident();
    let mut clients = Vec::with_capacity(MANY);
    while clients.len() < MANY {
        for _ in 0..AT_A_TIME {
            let mut stream = connect(gateway.address());
            stream.write_all(GET).unwrap();
            clients.push(stream);
        }
        wait_for("the requests to reach the upstream", || {
            (upstream.arrived() >= clients.len()).then_some(())
        });
    }
    let each = kib_each(&gateway, before, MANY);
    eprintln!("active: {each:.1} KiB");
    assert!(each <= 64.0, "{each:.1} KiB for a request that waits for its answer");
    upstream.gate.send_replace(true);
    clients.iter_mut().for_each(|stream| expect_answer(stream, "held"));
    assert_eq!(upstream.arrived(), MANY, "nothing was sent twice");
}

#[test]
fn four_thousand_slow_clients_keep_no_honest_request_from_being_served() {
    const SLOW: usize = 2_000;
    open_many_files();
    let upstream = Gated::start(true);
    let gateway = upstream.gateway("header_read_timeout = \"10s\"\naccess_log = \"off\"");
    let before = gateway.resident();
    let heads: Vec<TcpStream> = (0..SLOW)
        .map(|_| {
            let mut stream = connect(gateway.address());
            stream.write_all(b"GET /x HTTP/1.1\r\nhost: gateway.test\r\nx-slow: ").unwrap();
            stream
        })
        .collect();
    let bodies: Vec<TcpStream> = (0..SLOW)
        .map(|_| {
            let mut stream = connect(gateway.address());
            let head = "POST /x HTTP/1.1\r\nhost: gateway.test\r\ncontent-length: 100000\r\n\r\n";
            stream.write_all(head.as_bytes()).unwrap();
            stream
        })
        .collect();
    wait_for("the slow bodies to be under way", || (upstream.arrived() >= SLOW).then_some(()));

    // A byte for each of them, again and again; a head that was given up takes no more.
    let over = AtomicBool::new(false);
    let (mut cut, mut served) = (0, 0);
    thread::scope(|scope| {
        let dripping = scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                for mut stream in heads.iter().chain(&bodies) {
                    let _ = stream.write_all(b"a");
                }
            }
        });
        let honest = Load::begin(gateway.address(), &gateway.get("/honest"), 4);
        honest.go_on(400);
        // However many bytes it sends, a head has to be whole in time.
        for mut stream in &heads {
            let mut answer = [0; 512];
            let read = stream.read(&mut answer).unwrap_or(0);
            assert!(read == 0 || answer.starts_with(b"HTTP/1.1 408 "), "{:?}", answer[..read].escape_ascii());
            cut += 1;
        }
        honest.go_on(100);
        served += honest.expect_no_failure();
        over.store(true, Ordering::SeqCst);
        dripping.join().unwrap();
    });
    let each = kib_each(&gateway, before, 2 * SLOW);
    eprintln!("{cut} slow heads cut, {served} honest requests served, {each:.1} KiB for a slow client");
    assert!(each <= 64.0, "{each:.1} KiB for a slow client");
}

#[test]
fn beyond_max_connections_each_is_told_to_come_back_and_a_place_that_is_left_is_free() {
    const PLACES: usize = 500;
    open_many_files();
    let upstream = Gated::start(true);
    let gateway = upstream.gateway(&format!("max_connections = {PLACES}\n{PATIENT}"));
    let mut held: Vec<TcpStream> = (0..PLACES).map(|_| connect(gateway.address())).collect();
    for stream in &mut held {
        stream.write_all(GET).unwrap();
        expect_answer(stream, "held");
    }
    for _ in 0..300 {
        let mut turned_away = Connection::open(gateway.address());
        turned_away.send(GET);
        let answer = turned_away.answer("GET");
        assert_eq!(answer.verdict(), (503, "overloaded".to_owned()));
        assert!(answer.header("retry-after").is_some());
    }
    for stream in &mut held {
        stream.write_all(GET).unwrap();
        expect_answer(stream, "held");
    }
    drop(held);
    wait_for("a place to be free", || (gateway.get("/x").send().status == 200).then_some(()));
}

#[test]
fn the_limit_on_open_files_is_raised_and_one_that_is_too_low_is_told_of_in_numbers() {
    let setup = Setup::without_auth().server("max_connections = 5000");
    fs::write(setup.path("gateway.toml"), setup.toml()).unwrap();
    let mut gateway = Command::new("sh")
        .args(["-c", "ulimit -Sn 256 && ulimit -Hn 4096 && exec \"$0\" run --config gateway.toml"])
        .arg(env!("CARGO_BIN_EXE_portcullis"))
        .current_dir(setup.path(""))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let events = BufReader::new(gateway.stderr.take().unwrap()).lines().map(Result::unwrap);
    let told = events.take(50).find(|event| event.contains("open files"));
    let limits = fs::read_to_string(format!("/proc/{}/limits", gateway.id())).unwrap();
    gateway.kill().unwrap();
    gateway.wait().unwrap();
    let open_files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(open_files.split_whitespace().collect::<Vec<_>>()[3..5], ["4096", "4096"], "{open_files}");
    let told: serde_json::Value = serde_json::from_str(&told.unwrap()).unwrap();
    assert_eq!(told["level"], "WARN");
    let fields = &told["fields"];
    assert_eq!(fields["needed"], 11_536, "{fields}");
    assert_eq!(fields["allowed"], 4096, "{fields}");
    assert!(fields["message"].as_str().unwrap().contains("lower max_connections to 1280"), "{fields}");
}

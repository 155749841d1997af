//! What passes through while it happens (CONTRACT §3.7): clients that leave, answers that come early, 1xx, slow sides, and
//! what a route changes of it.

use std::future::Future;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use serde_json::Value;

use crate::support::curl::Curl;
use crate::support::jwt::{Key, claims};
use crate::support::upstream::{receive, receive_head};
use crate::support::wait::DEADLINE;
use crate::support::{Gateway, Setup, Upstream, wait_for};

/// Nothing of a body is kept beyond what lies in sockets and windows.
const KEPT_MAX: usize = 32 << 20;

fn open(upstream: &Upstream) -> Gateway {
    Setup::without_auth().upstream("up", upstream.address()).route("all", "/", "up", "public").start()
}

fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(DEADLINE, test).await.expect("in time") })
}

async fn connect(address: SocketAddr) -> SendRequest<Bytes> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    send.ready().await.unwrap()
}

/// An upstream that takes a head, answers with these bytes, and tells when its connection has ended.
fn waiting(answer: &'static str) -> (Upstream, Receiver<&'static str>) {
    let (tell, told) = sync_channel(16);
    let upstream = Upstream::raw(move |mut stream, _| {
        if receive_head(&mut stream, &mut Vec::new()).is_none() {
            return;
        }
        stream.write_all(answer.as_bytes()).unwrap();
        tell.send("asked").unwrap();
        while stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
        tell.send("left").unwrap();
    });
    (upstream, told)
}

#[test]
fn a_client_that_leaves_takes_its_request_along() {
    let begun = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n";
    for answer in ["", begun] {
        for body in ["", "Content-Length: 100\r\n\r\nhalf"] {
            let (upstream, told) = waiting(answer);
            let gateway = open(&upstream);
            let mut client = gateway.connect();
            let end = if body.is_empty() { "\r\n" } else { body };
            client.send(format!("POST / HTTP/1.1\r\nHost: a.test\r\n{end}"));
            assert_eq!(told.recv_timeout(DEADLINE), Ok("asked"));
            drop(client);
            assert_eq!(told.recv_timeout(DEADLINE), Ok("left"), "{answer:?} {body:?}");

            // Over HTTP/2 the connection stays, and serves others.
            run(async {
                let mut client = connect(gateway.address()).await;
                let request = || Request::post("http://a.test/").body(()).unwrap();
                let (given_up, upload) = client.send_request(request(), body.is_empty()).unwrap();
                wait_async(&told, "asked").await;
                drop((given_up, upload));
                wait_async(&told, "left").await;
                let (_other, _) = client.send_request(request(), true).unwrap();
                wait_async(&told, "asked").await;
            });
            assert_eq!(told.recv_timeout(DEADLINE), Ok("left"));
        }
    }
}

/// Without holding up the connection that the runtime drives.
async fn wait_async(told: &Receiver<&'static str>, expected: &str) {
    loop {
        match told.try_recv() {
            Ok(word) => return assert_eq!(word, expected),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

#[test]
fn interim_answers_go_on_to_clients_of_http_1_1() {
    let upstream = Upstream::raw(|mut stream, _| {
        let mut buffer = Vec::new();
        while receive(&mut stream, &mut buffer).is_some() {
            let answer = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
                          HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n\
                          HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let gateway = open(&upstream);
    let mut client = gateway.connect();
    for _ in 0..3 {
        let answer = gateway.get("/").send_on(&mut client).expect(200);
        assert_eq!((answer.text().as_str(), answer.header("link")), ("ok", None));
        assert_eq!(answer.interim, [102, 103], "the 100 is not the upstream's to say");
    }
    let fetched = Curl::new("http://a.test/", gateway.address()).run();
    assert_eq!((fetched.status, fetched.exit), (200, 0));
    assert_eq!(fetched.header("link"), Some("</a.css>; rel=preload"), "of the 103");
    let mut old = gateway.connect();
    old.send("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n");
    let old = old.answer("GET").expect(200);
    assert!(old.interim.is_empty(), "HTTP/1.0 knows nothing of them: {:?}", old.interim);
    run(async {
        let mut client = connect(gateway.address()).await;
        let (answer, _) =
            client.send_request(Request::get("http://a.test/").body(()).unwrap(), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
    });
    assert_eq!(upstream.connections(), 1, "none of it spoils the connection");
}

#[test]
fn early_hints_come_while_the_answer_is_made_and_are_rewritten_like_one() {
    let (go, gone) = sync_channel::<()>(1);
    let gone = Mutex::new(gone);
    let upstream = Upstream::raw(move |mut stream, _| {
        if receive_head(&mut stream, &mut Vec::new()).is_none() {
            return;
        }
        for link in ["</a.css>", "</b.css>"] {
            let hints = format!(
                "HTTP/1.1 103 Early Hints\r\nLink: {link}\r\nConnection: x-own\r\nX-Own: 1\r\nKeep-Alive: 5\r\n\
                 Content-Length: 5\r\n\r\n"
            );
            stream.write_all(hints.as_bytes()).unwrap();
        }
        gone.lock().unwrap().recv().unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
    });
    let gateway = open(&upstream);
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    for link in ["</a.css>", "</b.css>"] {
        let head = client.head();
        assert_eq!((head.status, head.header("link")), (103, Some(link)));
        assert_eq!(head.header("via"), Some("1.1 portcullis"));
        for name in ["connection", "x-own", "keep-alive", "content-length", "transfer-encoding", "date"] {
            assert_eq!(head.header(name), None, "{name}");
        }
    }
    go.send(()).unwrap();
    assert_eq!(client.answer("GET").expect(200).text(), "ok");
}

#[test]
fn hints_without_end_are_an_upstream_that_is_broken() {
    let upstream = Upstream::raw(|mut stream, _| {
        if receive_head(&mut stream, &mut Vec::new()).is_some() {
            while stream.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n").is_ok() {}
        }
    });
    let gateway = open(&upstream);
    let answer = gateway.get("/").send_on(&mut gateway.connect()).expect(502);
    assert!(answer.interim.len() <= 100, "{}", answer.interim.len());
}

/// Answers 413 to a head, and reads nothing of the body; `stay`: for as long as the test likes.
fn early(stay: bool) -> Upstream {
    Upstream::raw(move |mut stream, _| {
        if receive_head(&mut stream, &mut Vec::new()).is_some() {
            stream.write_all(b"HTTP/1.1 413 Too Much\r\nContent-Length: 5\r\n\r\nenoug").unwrap();
            while stay && stream.peek(&mut [0]).is_ok_and(|count| count > 0) {
                std::thread::sleep(Duration::from_millis(20));
                let _ = stream.read(&mut [0; 16]); // a little at a time: it does not want it
            }
        }
    })
}

#[test]
fn an_answer_before_the_end_of_the_request_is_passed_on_at_once() {
    for stay in [false, true] {
        let upstream = early(stay);
        let gateway = open(&upstream);
        let mut client = gateway.connect();
        client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9000000\r\n\r\nonly the beginning");
        let answer = client.answer("POST").expect(413);
        assert_eq!((answer.text().as_str(), answer.complete), ("enoug", true));
        // What is still to come of the body is not waited for.
        assert_eq!(answer.header("connection"), Some("close"), "{stay}");

        run(async {
            let mut client = connect(gateway.address()).await;
            let request = Request::post("http://a.test/").body(()).unwrap();
            let (answer, mut upload) = client.send_request(request, false).unwrap();
            upload.send_data(Bytes::from_static(b"only the beginning"), false).unwrap();
            let mut answer = answer.await.unwrap();
            assert_eq!(answer.status(), 413);
            let mut body = Vec::new();
            while let Some(data) = answer.body_mut().data().await {
                body.extend_from_slice(&data.unwrap());
            }
            assert_eq!(body, b"enoug");
            // The connection goes on.
            let (answer, _) =
                client.send_request(Request::post("http://a.test/").body(()).unwrap(), true).unwrap();
            assert_eq!(answer.await.unwrap().status(), 413);
        });
    }
}

/// Writes until nobody takes any more for a while; how much was taken.
fn fill(stream: &mut TcpStream, framed: impl Fn(&[u8]) -> Vec<u8>) -> usize {
    stream.set_write_timeout(Some(Duration::from_millis(700))).unwrap();
    let block = framed(&[b'x'; 64 * 1024]);
    let mut taken = 0;
    while taken < 256 << 20 {
        match stream.write(&block) {
            Ok(count) => taken += count,
            Err(_) => return taken,
        }
    }
    taken
}

#[test]
fn an_upstream_that_reads_nothing_holds_the_client_back() {
    let (tell, told) = sync_channel(4);
    let upstream = Upstream::raw(move |mut stream, _| {
        receive_head(&mut stream, &mut Vec::new());
        tell.send(stream).unwrap(); // and so it stays open
    });
    let gateway = Setup::without_auth()
        .server("max_body = 0")
        .upstream("up", upstream.address())
        .route("all", "/", "up", "public")
        .start();
    let before = gateway.memory();
    let mut client = TcpStream::connect(gateway.address()).unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000000\r\n\r\n").unwrap();
    let kept = told.recv_timeout(DEADLINE).unwrap();
    let taken = fill(&mut client, <[u8]>::to_vec);
    assert!(taken < KEPT_MAX, "{taken} bytes were taken for an upstream that reads nothing");
    let more = gateway.memory().saturating_sub(before);
    assert!(more < 8 << 20, "{more} bytes more");
    drop((client, kept));
}

#[test]
fn either_side_of_a_websocket_holds_the_other_back() {
    let (tell, told) = sync_channel(4);
    let upstream = Upstream::raw(move |mut stream, _| {
        receive_head(&mut stream, &mut Vec::new());
        let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
        stream.write_all(answer.as_bytes()).unwrap();
        tell.send(stream).unwrap();
    });
    let gateway = open(&upstream);
    let before = gateway.memory();
    let mut client = TcpStream::connect(gateway.address()).unwrap();
    client
        .write_all(
            b"GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: k\r\n\r\n",
        )
        .unwrap();
    let mut server = told.recv_timeout(DEADLINE).unwrap();
    let framed =
        |payload: &[u8]| [&[0x82, 127][..], &(payload.len() as u64).to_be_bytes()[..], payload].concat();
    for stream in [&mut client, &mut server] {
        let taken = fill(stream, framed);
        assert!(taken < KEPT_MAX, "{taken} bytes were taken for one that reads nothing");
    }
    let more = gateway.memory().saturating_sub(before);
    assert!(more < 8 << 20, "{more} bytes more");
}

#[test]
fn a_stream_that_is_not_read_holds_its_upstream_back_and_no_other_stream() {
    let sent = Arc::new(AtomicUsize::new(0));
    let (count, stuck) = (Arc::clone(&sent), Arc::new(Mutex::new(false)));
    let told = Arc::clone(&stuck);
    let upstream = Upstream::raw(move |mut stream, _| {
        let Some((line, _)) = receive_head(&mut stream, &mut Vec::new()) else { return };
        if line.contains("/small") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nsmall");
            return;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        let framed = |block: &[u8]| [format!("{:x}\r\n", block.len()).as_bytes(), block, b"\r\n"].concat();
        count.store(fill(&mut stream, framed), Ordering::SeqCst);
        *told.lock().unwrap() = true;
        let _ = stream.read(&mut [0; 1]);
    });
    let gateway = open(&upstream);
    let before = gateway.memory();
    run(async {
        let mut client = connect(gateway.address()).await;
        let get = |path: &str| Request::get(format!("http://a.test{path}")).body(()).unwrap();
        let mut unread = Vec::new();
        for _ in 0..4 {
            let (answer, _) = client.send_request(get("/large"), true).unwrap();
            unread.push(answer.await.unwrap());
        }
        while !*stuck.lock().unwrap() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let taken = sent.load(Ordering::SeqCst);
        assert!(taken < KEPT_MAX, "{taken} bytes were taken for a client that reads nothing");
        let more = gateway.memory().saturating_sub(before);
        assert!(more < 16 << 20, "{more} bytes more");
        drop(unread);
        let (answer, _) = client.send_request(get("/small"), true).unwrap();
        let mut answer = answer.await.unwrap();
        assert_eq!(&answer.body_mut().data().await.unwrap().unwrap()[..], b"small");
    });
}

// --- what a route changes ----------------------------------------------------------------------------------------

#[test]
fn a_route_has_its_own_patience_and_its_own_limit() {
    let silent = Upstream::raw(|mut stream, _| {
        receive_head(&mut stream, &mut Vec::new());
        let _ = stream.read(&mut [0; 1]);
    });
    let echo = Upstream::echo();
    let gateway = Setup::without_auth()
        .server("max_body = \"1KiB\"")
        .upstream("silent", silent.address())
        .upstream("echo", echo.address())
        .route_with("hurried", "/hurried", "silent", "public", "timeout = \"200ms\"\n")
        .route_with("small", "/small", "echo", "public", "max_body = \"10B\"\n")
        .route_with("large", "/large", "echo", "public", "max_body = \"4KiB\"\n")
        .route_with("any", "/any", "echo", "public", "max_body = 0\n")
        .route("default", "/", "echo", "public")
        .start();
    gateway.get("/hurried").send().expect_problem(504, "upstream_timeout");
    for (path, most) in [("/small", 10), ("/default", 1024), ("/large", 4096)] {
        let post = |length: usize| gateway.post(path).body("text/plain", "x".repeat(length)).send();
        post(most).expect(200);
        post(most + 1).expect_problem(413, "body_too_large");
        let mut client = gateway.connect();
        let chunk = "x".repeat(most + 1);
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{chunk}\r\n0\r\n\r\n",
            most + 1
        ));
        client.answer("POST").expect_problem(413, "body_too_large");
    }
    gateway.post("/any").body("text/plain", "x".repeat(200_000)).send().expect(200);
}

#[test]
fn a_route_in_shadow_mode_refuses_nothing_and_tells_everything() {
    let upstream = Upstream::echo();
    let key = Key::secret("legacy");
    let lines = "mode = \"shadow\"\nscopes = [\"rare\"]\n";
    let gateway = Setup::without_auth()
        .secret("legacy.key", key.secret_bytes())
        .section("[[issuers]]\nname = \"legacy\"\nalgorithms = [\"HS256\"]\nsecret_file = \"legacy.key\"\n")
        .upstream("up", upstream.address())
        .route_with("shadow", "/", "up", "access", lines)
        .start();
    let good = |id: &str, scope: &str| key.token(&claims(id, &serde_json::json!({ "scope": scope })));
    let revoked = good("t-2", "rare");
    gateway.revoke(&serde_json::json!({ "token": revoked }));
    let cases = [
        ("", Some("token_missing")),
        ("a.b.c", Some("token_invalid")),
        (&*revoked, Some("token_revoked")),
        (&*good("t-3", "other"), Some("insufficient_scope")),
        (&*good("t-1", "rare"), None),
    ];
    for (number, (token, code)) in cases.into_iter().enumerate() {
        let path = format!("/{number}");
        let call = gateway.get(&path);
        let call = if token.is_empty() { call } else { call.bearer(token) };
        call.send().expect(200);
        let seen = upstream.nth(number + 1);
        // Nobody is vouched for who would have been refused.
        assert_eq!(seen.folded("x-auth-subject"), code.is_none(), "{code:?}");
        let line = wait_for("its line in the log", || {
            let lines = gateway.stdout();
            let mut lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.find(|line| line["path"] == *path)
        });
        assert_eq!((line["shadow"].as_str(), line["code"].as_str()), (code, None), "{line}");
        assert_eq!(line["status"], 200);
    }
    let metrics = gateway.metrics();
    for code in ["token_missing", "token_invalid", "token_revoked", "insufficient_scope"] {
        let sample = format!("portcullis_shadow_refusals_total{{code=\"{code}\"}} 1");
        assert!(metrics.contains(&sample), "{sample} in {metrics}");
    }
    assert!(!metrics.contains("portcullis_refusals_total{code=\"token_missing\"} 1"));
}

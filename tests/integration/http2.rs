//! HTTP/2 of clients: what differs from HTTP/1.1, and what must not.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{self, SendRequest};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::support::account::Account;
use crate::support::curl::Curl;
use crate::support::jwt::claims_of;
use crate::support::upstream::receive_head;
use crate::support::wait::DEADLINE;
use crate::support::{Connection, Gateway, Reply, Setup, Upstream};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(DEADLINE, test).await.expect("in time") })
}

/// A connection by prior knowledge, and what it ends with.
async fn connect(address: SocketAddr) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (send, connection) = client::handshake(stream).await.unwrap();
    (send.ready().await.unwrap(), tokio::spawn(connection))
}

fn get(uri: &str) -> http::request::Builder {
    Request::get(uri)
}

async fn send(
    connection: &mut SendRequest<Bytes>,
    request: http::request::Builder,
) -> Result<Response<RecvStream>, h2::Error> {
    let (answer, _) = connection.send_request(request.body(()).unwrap(), true).unwrap();
    answer.await
}

async fn body(answer: &mut Response<RecvStream>) -> Result<Vec<u8>, h2::Error> {
    let mut bytes = Vec::new();
    while let Some(data) = answer.body_mut().data().await {
        let data = data?;
        answer.body_mut().flow_control().release_capacity(data.len()).unwrap();
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

async fn verdict(connection: &mut SendRequest<Bytes>, request: http::request::Builder) -> (u16, String) {
    let mut answer = send(connection, request).await.unwrap();
    let status = answer.status().as_u16();
    let body: Value = serde_json::from_slice(&body(&mut answer).await.unwrap()).unwrap_or_default();
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}

fn open(server: &str) -> (Gateway, Upstream) {
    let upstream = Upstream::echo();
    let setup = Setup::new().server(server).upstream("u", upstream.address());
    (setup.route("open", "/", "u", "public").start(), upstream)
}

#[test]
fn curl_speaks_it_by_prior_knowledge() {
    let (gateway, upstream) = open("");
    let address = gateway.address();
    let call = |url: &str| Curl::new(url, address).arg("--http2-prior-knowledge");
    let answer = call("http://a.test/x?y").run().expect(200);
    assert_eq!((answer.version.as_str(), &answer.json()["line"]), ("2", &json!("GET /x?y HTTP/1.1")));
    let upload = "z".repeat(300_000);
    let path = gateway.dir().join("upload");
    std::fs::write(&path, &upload).unwrap();
    let answer = call("http://a.test/up").arg("--data-binary").arg(&format!("@{}", path.display())).run();
    assert_eq!(answer.expect(200).json()["body"], upload);
    assert_eq!(upstream.nth(1).one("via"), "2 portcullis");
    // Upgrade: h2c is not spoken: the request is served without it.
    let answer = Curl::new("http://a.test/", address).arg("--http2").run().expect(200);
    assert_eq!(answer.version, "1.1");
    assert!(!upstream.nth(3).folded("http2-settings") && !upstream.nth(3).folded("upgrade"));
}

#[test]
fn heads_are_judged_like_those_of_http_1() {
    let (gateway, upstream) = open("max_header_bytes = \"4KiB\"\nmax_uri_bytes = \"256B\"");
    run(async {
        let (mut connection, _) = connect(gateway.address()).await;
        let connection = &mut connection;
        let ok = || get("http://a.test/");
        let invalid = (400, "invalid_request".to_owned());
        assert_eq!(verdict(connection, ok().header("host", "b.test")).await, invalid);
        assert_eq!(
            verdict(connection, ok().header("host", "a.test").header("host", "a.test")).await,
            invalid
        );
        let twice = ok().header("authorization", "Bearer a").header("authorization", "Bearer b");
        assert_eq!(verdict(connection, twice).await, invalid);
        assert_eq!(verdict(connection, get("http://a.test/a%2fb")).await, invalid);
        assert_eq!(verdict(connection, get("http://a.test/%2e%2e/b")).await, invalid);
        let long = format!("http://a.test/{}", "x".repeat(300));
        assert_eq!(verdict(connection, get(&long)).await, (414, "uri_too_long".to_owned()));
        let large = ok().header("x-large", "x".repeat(5000));
        assert_eq!(verdict(connection, large).await, (431, "headers_too_large".to_owned()));
        let trace = Request::builder().method("TRACE").uri("http://a.test/");
        assert_eq!(verdict(connection, trace).await, (405, "method_not_allowed".to_owned()));
        let tunnel = Request::builder().method("CONNECT").uri("a.test:443");
        assert_eq!(verdict(connection, tunnel).await, (405, "method_not_allowed".to_owned()));
        let expecting = ok().header("expect", "x");
        assert_eq!(verdict(connection, expecting).await, (417, "expectation_failed".to_owned()));
        assert!(upstream.received().is_empty());
        // None of that ended the connection.
        let good = ok().header("host", "a.test").header("cookie", "a=1").header("cookie", "b=2");
        assert_eq!(verdict(connection, good.header("te", "trailers")).await.0, 200);
        let seen = upstream.nth(1);
        assert_eq!((seen.one("cookie"), seen.one("host")), ("a=1; b=2", "a.test"));
        assert!(!seen.folded("te"), "HTTP/1.1 carries no trailers");
    });
}

#[test]
fn trailers_of_a_request_do_not_reach_http_1() {
    let (gateway, upstream) = open("");
    run(async {
        let (mut connection, _) = connect(gateway.address()).await;
        let request = Request::post("http://a.test/").body(()).unwrap();
        let (answer, mut upload) = connection.send_request(request, false).unwrap();
        upload.send_data(Bytes::from_static(b"abc"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-auth-subject", "root".parse().unwrap());
        upload.send_trailers(trailers).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
    });
    let seen = upstream.nth(1);
    assert_eq!((seen.body.as_slice(), seen.trailers.len()), (&b"abc"[..], 0));
}

#[test]
fn a_cut_resets_the_streams_of_that_token_alone() {
    let upstream = Upstream::raw(|mut stream, _| {
        let Some((line, _)) = receive_head(&mut stream, &mut Vec::new()) else { return };
        let answer = match line.contains("/plain") {
            true => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain".to_owned(),
            false => {
                format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{}\r\n", 5, "begun")
            }
        };
        std::io::Write::write_all(&mut stream, answer.as_bytes()).unwrap();
        let _ = std::io::Read::read(&mut stream, &mut [0; 1]);
    });
    let gateway = Setup::new().upstream("u", upstream.address()).route("api", "/", "u", "access").start();
    let (ann, bob) = (Account::sign_up(&gateway, "ann@a.test"), Account::sign_up(&gateway, "bob@a.test"));
    run(async {
        let (mut connection, _) = connect(gateway.address()).await;
        let connection = &mut connection;
        let ask = |who: &Account, path: &str| {
            get(&format!("http://a.test{path}")).header("authorization", format!("Bearer {}", who.access))
        };
        let mut cut = send(connection, ask(&ann, "/events")).await.unwrap();
        let mut kept = send(connection, ask(&bob, "/events")).await.unwrap();
        for stream in [&mut cut, &mut kept] {
            assert_eq!(stream.body_mut().data().await.unwrap().unwrap(), "begun");
        }
        gateway.revoke(&json!({ "kind": "session", "value": claims_of(&ann.access)["sid"] }));
        let error = body(&mut cut).await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::CANCEL));
        assert_eq!(verdict(connection, ask(&ann, "/plain")).await, (401, "token_revoked".to_owned()));
        assert_eq!(verdict(connection, ask(&bob, "/plain")).await.0, 200);
        assert!(!kept.body().is_end_stream());
    });
}

#[test]
fn a_client_that_takes_nothing_is_cut_too() {
    let block = "x".repeat(100_000);
    let upstream = Upstream::raw(move |mut stream, _| {
        if receive_head(&mut stream, &mut Vec::new()).is_none() {
            return;
        }
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let _ = std::io::Write::write_all(&mut stream, head.as_bytes());
        let chunk = format!("{:x}\r\n{block}\r\n", block.len());
        while std::io::Write::write_all(&mut stream, chunk.as_bytes()).is_ok() {}
    });
    let gateway = Setup::new().upstream("u", upstream.address()).route("api", "/", "u", "access").start();
    let ann = Account::sign_up(&gateway, "ann@a.test");
    run(async {
        let (mut connection, _) = connect(gateway.address()).await;
        let request = get("http://a.test/flood").header("authorization", format!("Bearer {}", ann.access));
        let mut flood = send(&mut connection, request).await.unwrap();
        // All that the window lets through, and none of it given back.
        let mut taken = 0;
        while taken < 65_535 {
            taken += flood.body_mut().data().await.unwrap().unwrap().len();
        }
        gateway.revoke(&json!({ "kind": "session", "value": claims_of(&ann.access)["sid"] }));
        let metric = "portcullis_cut_connections_total 1";
        while !gateway.metrics().contains(metric) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn draining_lets_streams_end_and_says_good_bye() {
    let upstream = Upstream::new(|request| {
        if request.target() == "/slow" {
            std::thread::sleep(Duration::from_millis(300));
        }
        Reply::Full(200, Vec::new(), b"done".to_vec())
    });
    let mut gateway = Setup::new().upstream("u", upstream.address()).route("o", "/", "u", "public").start();
    run(async {
        let (mut connection, end) = connect(gateway.address()).await;
        let (slow, _) = connection.send_request(get("http://a.test/slow").body(()).unwrap(), true).unwrap();
        while upstream.connections() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        gateway.sigterm();
        let mut answer = slow.await.unwrap();
        assert_eq!(body(&mut answer).await.unwrap(), b"done");
        // An end by GOAWAY without an error is a good one.
        end.await.unwrap().unwrap();
    });
    assert!(gateway.wait().success());
}

#[test]
fn silent_and_idle_connections_are_hung_up_on() {
    let (gateway, _upstream) = open("header_read_timeout = \"300ms\"\nidle_timeout = \"300ms\"");
    for beginning in [&PREFACE[..5], &PREFACE[..24], PREFACE] {
        let mut client = Connection::open(gateway.address());
        client.send(beginning);
        assert!(client.closed(), "{beginning:?}");
    }
    run(async {
        let (mut connection, end) = connect(gateway.address()).await;
        assert_eq!(verdict(&mut connection, get("http://a.test/")).await.0, 200);
        end.await.unwrap().unwrap();
    });
}

#[test]
fn a_slow_body_is_408() {
    let (gateway, _upstream) = open("body_read_timeout = \"200ms\"");
    run(async {
        let (mut connection, _) = connect(gateway.address()).await;
        let request = Request::post("http://a.test/").body(()).unwrap();
        let (answer, mut upload) = connection.send_request(request, false).unwrap();
        upload.send_data(Bytes::from_static(b"abc"), false).unwrap();
        assert_eq!(answer.await.unwrap().status(), 408);
        assert_eq!(verdict(&mut connection, get("http://a.test/")).await.0, 200);
    });
}

#[test]
fn too_large_bodies_are_413_with_or_without_a_length() {
    let (gateway, _upstream) = open("max_body = \"1KiB\"");
    run(async {
        let (mut connection, _) = connect(gateway.address()).await;
        for said in [false, true] {
            let mut request = Request::post("http://a.test/");
            if said {
                request = request.header("content-length", "2000");
            }
            let (answer, mut upload) = connection.send_request(request.body(()).unwrap(), false).unwrap();
            let _ = upload.send_data(Bytes::from(vec![b'x'; 2000]), true);
            assert_eq!(answer.await.unwrap().status(), 413, "length said: {said}");
        }
    });
}

#[test]
fn beyond_the_limit_of_connections_streams_get_503() {
    let (gateway, _upstream) = open("max_connections = 1");
    run(async {
        let (mut first, _) = connect(gateway.address()).await;
        assert_eq!(verdict(&mut first, get("http://a.test/")).await.0, 200);
        let (mut second, end) = connect(gateway.address()).await;
        assert_eq!(verdict(&mut second, get("http://a.test/")).await, (503, "overloaded".to_owned()));
        end.await.unwrap().unwrap();
        assert_eq!(verdict(&mut first, get("http://a.test/")).await.0, 200);
    });
}

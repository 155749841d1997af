//! Answers before the answer (1xx) where HTTP/2 is spoken.

use std::future::{Future, poll_fn};
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{self, ResponseFuture, SendRequest};
use http::{HeaderMap, Request, Response};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

use crate::support::pki::Authority;
use crate::support::upstream::receive_head;
use crate::support::wait::DEADLINE;
use crate::support::{Gateway, Setup, Upstream};

fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(DEADLINE, test).await.expect("in time") })
}

/// A gateway that speaks with and without TLS.
fn open(upstream: SocketAddr, scheme: &str) -> (Gateway, Authority) {
    let ca = Authority::new("ca");
    let pair = ca.issue(&["a.test"]);
    let gateway = Setup::without_auth()
        .server("max_body = \"1KiB\"")
        .secret("tls/a.pem", &pair.cert)
        .secret("tls/a.key", &pair.key)
        .section(
            "[server.tls]\nlisten = [\"127.0.0.1:0\"]\n\
             certificates = [{ cert = \"tls/a.pem\", key = \"tls/a.key\" }]",
        )
        .section(&format!("[[upstreams]]\nname = \"up\"\ntargets = [\"{scheme}://{upstream}\"]"))
        .route("all", "/", "up", "public")
        .start();
    (gateway, ca)
}

async fn connect(gateway: &Gateway, ca: Option<&Authority>) -> SendRequest<Bytes> {
    let Some(ca) = ca else {
        return over(TcpStream::connect(gateway.address()).await.unwrap()).await;
    };
    let stream = TcpStream::connect(gateway.listening("tls")).await.unwrap();
    let connector = TlsConnector::from(ca.client(None, &["h2"]));
    over(connector.connect(ServerName::try_from("a.test").unwrap(), stream).await.unwrap()).await
}

async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> SendRequest<Bytes> {
    let (send, connection) = client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    send.ready().await.unwrap()
}

fn ask(connection: &mut SendRequest<Bytes>, path: &str) -> ResponseFuture {
    let request = Request::get(format!("http://a.test{path}")).body(()).unwrap();
    connection.send_request(request, true).unwrap().0
}

/// What comes next before the answer; `None`: the answer does.
async fn interim(answer: &mut ResponseFuture) -> Option<(u16, HeaderMap)> {
    let told = poll_fn(|cx| answer.poll_informational(cx)).await?.unwrap();
    Some((told.status().as_u16(), told.into_parts().0.headers))
}

async fn text(mut answer: Response<RecvStream>) -> String {
    let mut text = String::new();
    while let Some(data) = answer.body_mut().data().await {
        let data = data.unwrap();
        answer.body_mut().flow_control().release_capacity(data.len()).unwrap();
        text.push_str(std::str::from_utf8(&data).unwrap());
    }
    text
}

/// An upstream of HTTP/1.1 that gives hints, and its answer when it is told to.
fn hinting() -> (Upstream, SyncSender<()>) {
    let (go, gone) = sync_channel::<()>(1);
    let gone = Mutex::new(gone);
    let upstream = Upstream::raw(move |mut stream, _| {
        let mut read = Vec::new();
        while receive_head(&mut stream, &mut read).is_some() {
            stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").unwrap();
            for link in ["</a.css>", "</b.css>"] {
                let hints = format!(
                    "HTTP/1.1 103 Early Hints\r\nLink: {link}\r\nConnection: x-own\r\nX-Own: 1\r\n\
                     Keep-Alive: 5\r\nContent-Length: 5\r\n\r\n"
                );
                stream.write_all(hints.as_bytes()).unwrap();
            }
            gone.lock().unwrap().recv().unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        }
    });
    (upstream, go)
}

async fn hinted(mut answer: ResponseFuture, via: &str, go: impl Fn()) {
    assert_eq!(interim(&mut answer).await.unwrap().0, 102);
    for link in ["</a.css>", "</b.css>"] {
        let (status, fields) = interim(&mut answer).await.unwrap();
        let told = ["link", "via"].map(|name| fields[name].to_str().unwrap());
        assert_eq!((status, told), (103, [link, via]));
        for name in ["connection", "x-own", "keep-alive", "content-length", "transfer-encoding", "date"] {
            assert_eq!(fields.get(name), None, "{name}");
        }
    }
    go();
    assert!(interim(&mut answer).await.is_none(), "the answer has come");
    let answer = answer.await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers().get("link")), (200, None));
    assert_eq!(text(answer).await, "ok");
}

#[test]
fn hints_of_an_upstream_reach_clients_of_http_2_in_order_and_before_the_answer() {
    let (upstream, go) = hinting();
    let (gateway, ca) = open(upstream.address(), "http");
    run(async {
        for ca in [None, Some(&ca)] {
            let mut connection = connect(&gateway, ca).await;
            for _ in 0..3 {
                let answer = ask(&mut connection, "/");
                hinted(answer, "1.1 portcullis", || go.send(()).unwrap()).await;
            }
        }
    });
    assert_eq!(upstream.connections(), 1, "none of it spoils the connection");
}

#[test]
fn hints_without_end_are_an_upstream_that_is_broken_over_http_2_too() {
    let upstream = Upstream::raw(|mut stream, _| {
        if receive_head(&mut stream, &mut Vec::new()).is_some() {
            while stream.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n").is_ok() {}
        }
    });
    let (gateway, _ca) = open(upstream.address(), "http");
    run(async {
        let mut connection = connect(&gateway, None).await;
        let mut answer = ask(&mut connection, "/");
        let mut count = 0;
        while interim(&mut answer).await.is_some() {
            count += 1;
        }
        assert!(count <= 100, "{count}");
        assert_eq!(answer.await.unwrap().status(), 502);
    });
}

#[test]
fn a_client_of_http_2_that_waits_for_100_gets_it_when_its_body_is_wanted_and_never_before_a_refusal() {
    let upstream = Upstream::echo();
    let (gateway, _ca) = open(upstream.address(), "http");
    run(async {
        let mut connection = connect(&gateway, None).await;
        let expecting = |path: &str, length: &str| {
            Request::post(format!("http://a.test{path}"))
                .header("expect", "100-continue")
                .header("content-length", length)
                .body(())
                .unwrap()
        };
        let (mut answer, mut upload) = connection.send_request(expecting("/", "3"), false).unwrap();
        assert_eq!(interim(&mut answer).await.unwrap().0, 100);
        upload.send_data(Bytes::from_static(b"abc"), true).unwrap();
        assert!(interim(&mut answer).await.is_none(), "no other");
        assert_eq!(answer.await.unwrap().status(), 200);
        assert_eq!(upstream.nth(1).body, b"abc");
        for (path, length, status) in [("/", "2000", 413), ("/%2e%2e/x", "3", 400)] {
            let (mut answer, _upload) = connection.send_request(expecting(path, length), false).unwrap();
            assert!(interim(&mut answer).await.is_none(), "{path} {length}");
            assert_eq!(answer.await.unwrap().status(), status);
        }
        // A body that is there is not waited for.
        let mut together = expecting("/", "3");
        together.headers_mut().insert("x-case", "together".parse().unwrap());
        let (mut answer, mut upload) = connection.send_request(together, false).unwrap();
        upload.send_data(Bytes::from_static(b"abc"), true).unwrap();
        while let Some((status, _)) = interim(&mut answer).await {
            assert_eq!(status, 100, "where the frames came apart");
        }
        assert_eq!(answer.await.unwrap().status(), 200);
    });
}

#[test]
fn a_client_that_gives_up_after_the_hints_takes_its_request_along() {
    let (tell, told) = sync_channel(1);
    let upstream = Upstream::raw(move |mut stream, _| {
        if receive_head(&mut stream, &mut Vec::new()).is_some() {
            stream.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n").unwrap();
            while std::io::Read::read(&mut stream, &mut [0; 64]).is_ok_and(|count| count > 0) {}
            tell.send(()).unwrap();
        }
    });
    let (gateway, _ca) = open(upstream.address(), "http");
    run(async {
        let mut connection = connect(&gateway, None).await;
        let mut answer = ask(&mut connection, "/");
        assert_eq!(interim(&mut answer).await.unwrap().0, 103);
        drop(answer);
        while told.try_recv().is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

/// The same over HTTP/2; each answer waits for a permit.
fn hinting_by_http2(endless: bool) -> (SocketAddr, Arc<Semaphore>) {
    let (gate, listener) = (Arc::new(Semaphore::new(0)), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let (address, permits) = (listener.local_addr().unwrap(), Arc::clone(&gate));
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let gate = Arc::clone(&permits);
                tokio::spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    while let Some(Ok((_, respond))) = connection.accept().await {
                        tokio::spawn(hint(respond, Arc::clone(&gate), endless));
                    }
                });
            }
        });
    });
    (address, gate)
}

async fn hint(mut respond: h2::server::SendResponse<Bytes>, gate: Arc<Semaphore>, endless: bool) {
    let early = |status: u16| Response::builder().status(status);
    if endless {
        let early = || early(103).header("link", "</a.css>").body(()).unwrap();
        while respond.send_informational(early()).is_ok() {
            tokio::task::yield_now().await;
        }
        return;
    }
    for status in [100, 102] {
        respond.send_informational(early(status).body(()).unwrap()).unwrap();
    }
    for link in ["</a.css>", "</b.css>"] {
        respond.send_informational(early(103).header("link", link).body(()).unwrap()).unwrap();
    }
    gate.acquire().await.unwrap().forget();
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data(Bytes::from_static(b"ok"), true).unwrap();
}

#[test]
fn hints_of_an_upstream_of_http_2_reach_clients_of_either_version() {
    let (upstream, gate) = hinting_by_http2(false);
    let (gateway, ca) = open(upstream, "h2c");
    run(async {
        for ca in [None, Some(&ca)] {
            let mut connection = connect(&gateway, ca).await;
            for _ in 0..3 {
                let answer = ask(&mut connection, "/");
                hinted(answer, "2 portcullis", || gate.add_permits(1)).await;
            }
        }
    });
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(client.head().status, 102);
    for link in ["</a.css>", "</b.css>"] {
        let head = client.head();
        assert_eq!((head.status, head.header("link")), (103, Some(link)));
        assert_eq!((head.header("via"), head.header("content-length")), (Some("2 portcullis"), None));
    }
    gate.add_permits(1);
    assert_eq!(client.answer("GET").expect(200).text(), "ok");
}

#[test]
fn hints_without_end_by_http_2_are_an_upstream_that_is_broken() {
    let (upstream, _gate) = hinting_by_http2(true);
    let (gateway, _ca) = open(upstream, "h2c");
    let answer = gateway.get("/").send_on(&mut gateway.connect()).expect(502);
    assert!(answer.interim.len() <= 100, "{}", answer.interim.len());
}

//! Answers before the answer (1xx) where HTTP/2 is spoken.

use std::future::{Future, poll_fn};
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{self, ResponseFuture, SendRequest};
use http::{HeaderMap, Request, Response};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
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
fn open(upstream: &Upstream) -> (Gateway, Authority) {
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
        .upstream("up", upstream.address())
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

async fn hinted(mut answer: ResponseFuture, go: &SyncSender<()>) {
    assert_eq!(interim(&mut answer).await.unwrap().0, 102);
    for link in ["</a.css>", "</b.css>"] {
        let (status, fields) = interim(&mut answer).await.unwrap();
        let told = ["link", "via"].map(|name| fields[name].to_str().unwrap());
        assert_eq!((status, told), (103, [link, "1.1 portcullis"]));
        for name in ["connection", "x-own", "keep-alive", "content-length", "transfer-encoding", "date"] {
            assert_eq!(fields.get(name), None, "{name}");
        }
    }
    go.send(()).unwrap();
    assert!(interim(&mut answer).await.is_none(), "the answer has come");
    let answer = answer.await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers().get("link")), (200, None));
    assert_eq!(text(answer).await, "ok");
}

#[test]
fn hints_of_an_upstream_reach_clients_of_http_2_in_order_and_before_the_answer() {
    let (upstream, go) = hinting();
    let (gateway, ca) = open(&upstream);
    run(async {
        for ca in [None, Some(&ca)] {
            let mut connection = connect(&gateway, ca).await;
            for _ in 0..3 {
                let answer = ask(&mut connection, "/");
                hinted(answer, &go).await;
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
    let (gateway, _ca) = open(&upstream);
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
    let (gateway, _ca) = open(&upstream);
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
    let (gateway, _ca) = open(&upstream);
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

//! The whole room against scripted upstreams: real sockets, raw bytes.

mod answers;
mod channels;
mod connections;
mod failures;
mod health;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::answer::{Body, BoxError, Code};

use super::settings::{Balance, Health, PassiveHealth, Settings, Target};
use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// An upstream that does what a test says with each connection.
struct Scripted {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scripted {
    /// Runs `script` on each connection, with its number.
    async fn new<F>(script: impl Fn(usize, TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, script)
    }

    fn on<F>(listener: TcpListener, script: impl Fn(usize, TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(script(count.fetch_add(1, Ordering::SeqCst), stream));
            }
        });
        Self { address, accepted, task }
    }

    /// Answers every request on every connection with the same bytes.
    async fn always(answer: impl Into<String>) -> Self {
        let answer: Arc<str> = answer.into().into();
        Self::new(move |_, mut stream| {
            let answer = Arc::clone(&answer);
            async move {
                while head(&mut stream).await.is_some() {
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// Answers the first request with these bytes and closes.
    async fn once(answer: impl Into<Vec<u8>>) -> Self {
        let answer: Arc<[u8]> = answer.into().into();
        Self::new(move |_, mut stream| {
            let answer = Arc::clone(&answer);
            async move {
                head(&mut stream).await;
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
                // Read on, so that the close is no reset that would overtake what was written.
                while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
            }
        })
        .await
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// One request head as it came; `None` at the end of the connection.
async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(bytes).unwrap())
}

async fn reads_until_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    bytes
}

fn settings(addresses: &[SocketAddr]) -> Settings {
    Settings {
        name: "legacy".into(),
        targets: addresses
            .iter()
            .map(|address| Target {
                url: format!("http://{address}").into(),
                authority: address.to_string().parse().unwrap(),
                unix: None,
                tls: None,
                http2: false,
                weight: 1,
            })
            .collect(),
        balance: Balance::RoundRobin,
        connect_timeout: Duration::from_secs(5),
        resolve_every: Duration::from_secs(10),
        response_timeout: Some(Duration::from_secs(5)),
        stream_idle_timeout: None,
        retries: 1,
        max_requests: None,
        keepalive_idle: Duration::from_secs(60),
        keepalive_max_idle: 16,
        health: None,
        passive_health: PassiveHealth {
            failures: 0,
            window: Duration::from_secs(10),
            eject: Duration::from_secs(30),
        },
    }
}

fn start(settings: Settings) -> Arc<Upstreams> {
    Upstreams::new(&[settings], &Handle::current(), 1)
}

fn one(upstream: &Scripted) -> Arc<Upstreams> {
    start(settings(&[upstream.address]))
}

fn get() -> Request<Body> {
    Request::get("/a?b").header("host", "api.example").body(Body::empty()).unwrap()
}

fn post(body: Body) -> Request<Body> {
    Request::post("/a").header("host", "api.example").body(body).unwrap()
}

/// A body of unknown length that ends when the sender is dropped.
fn streaming() -> (mpsc::Sender<Result<Frame<Bytes>, BoxError>>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    let frames = stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
    (sender, Body::boxed(StreamBody::new(Box::pin(frames))))
}

fn chunk(text: &'static str) -> Result<Frame<Bytes>, BoxError> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

async fn text(upstreams: &Upstreams, request: Request<Body>) -> Result<String, SendError> {
    let exchange = upstreams.send(Call::default(), request).await?;
    let body = exchange.response.into_body().collect().await.unwrap().to_bytes();
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

async fn code(upstreams: &Upstreams, request: Request<Body>) -> Code {
    upstreams.send(Call::default(), request).await.unwrap_err().code()
}

fn target(upstreams: &Upstreams) -> TargetReport {
    upstreams.report().remove(0).targets.remove(0)
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..5_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("never: {what}");
}

async fn refusing() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

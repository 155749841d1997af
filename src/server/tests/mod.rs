//! Raw sockets against a small handler.

mod cases;
mod life;
mod property;
mod time;

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use super::settings::Listen;
use super::{Drain, Handler, HeadFacts, HeadLimits, Layers, Listener, LiveRules, Rules, serve};
use crate::answer::{Body, BoxError, Code, Context, Handover, Interim, Problem};
use crate::route::Peer;
use crate::worker::Workers;

/// Longer than anything a test waits for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers with what it saw; its path says how.
#[derive(Clone)]
struct Echo(Arc<Seen>);

struct Seen {
    /// `METHOD target body` of every request that was let through.
    requests: Mutex<Vec<String>>,
    refusals: Mutex<Vec<&'static str>>,
    facts: Mutex<Vec<HeadFacts>>,
    /// Requests to `/gate` wait for a permit.
    gate: Semaphore,
}

impl Handler for Echo {
    async fn handle(
        &self,
        peer: Peer,
        verdict: Result<HeadFacts, Problem>,
        request: Request<Body>,
        interim: &Interim,
    ) -> Response<Body> {
        assert!(peer.address.is_some() && peer.local.is_some() && !peer.secure);
        let head = request.method() == http::Method::HEAD;
        match verdict {
            Ok(facts) => {
                self.0.facts.lock().unwrap().push(facts);
                if request.uri().path() == "/hints" {
                    for name in ["a", "b"] {
                        let link = HeaderMap::from_iter([(http::header::LINK, name.parse().unwrap())]);
                        interim.tell(StatusCode::EARLY_HINTS, link);
                    }
                    self.0.gate.acquire().await.unwrap().forget();
                    interim.tell(StatusCode::PROCESSING, HeaderMap::new());
                }
                self.echo(request).await.unwrap_or_else(|problem| document(problem, head))
            }
            Err(problem) => {
                self.0.refusals.lock().unwrap().push(problem.code().name());
                document(problem, head)
            }
        }
    }
}

fn document(problem: Problem, head: bool) -> Response<Body> {
    problem.into_response(&Context {
        request_id: "r-1",
        realm: "test",
        invalid_token_status: StatusCode::UNAUTHORIZED,
        head,
        grpc: false,
        error_member: false,
    })
}

impl Echo {
    async fn echo(&self, request: Request<Body>) -> Result<Response<Body>, Problem> {
        let line = format!("{} {}", request.method(), request.uri());
        match request.uri().path() {
            "/early" => {
                self.0.requests.lock().unwrap().push(line);
                return Err(Problem::new(Code::BodyTooLarge, "too large"));
            }
            "/gate" => self.0.gate.acquire().await.unwrap().forget(),
            "/panic" => panic!("asked to"),
            "/endless" => {
                let chunks = futures_util::stream::repeat_with(|| {
                    Ok::<_, Infallible>(http_body::Frame::data(Bytes::from_static(&[b'x'; 65536])))
                });
                return Ok(Response::new(Body::boxed(http_body_util::StreamBody::new(chunks))));
            }
            "/switch" => {
                let handover: Handover = request.into_parts().0.extensions.remove().unwrap();
                tokio::spawn(async move {
                    let (mut from, mut to) = tokio::io::split(handover.take().await.unwrap());
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                return Ok(response);
            }
            _ => {}
        }
        let body = request.into_body().collect().await.map_err(body_problem)?.to_bytes();
        let seen = format!("{line} {}", body.escape_ascii());
        self.0.requests.lock().unwrap().push(seen.clone());
        Ok(Response::new(Body::full(seen)))
    }
}

/// As the gateway maps it.
fn body_problem(error: BoxError) -> Problem {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&*error);
    while let Some(error) = source {
        match error.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::TimedOut) => {
                return Problem::new(Code::RequestTimeout, "slow body").closing();
            }
            Some(io::ErrorKind::InvalidData) => {
                return Problem::new(Code::InvalidRequest, "bad body").closing();
            }
            _ => source = error.source(),
        }
    }
    Problem::new(Code::InvalidRequest, "body cut short").closing()
}

/// A listener on a free port.
struct Server {
    address: SocketAddr,
    seen: Arc<Seen>,
    drain: Drain,
    rules: LiveRules,
    runtime: Runtime,
}

fn rules() -> Rules {
    Rules {
        head: HeadLimits::new(32 * 1024, 100, 8 * 1024),
        header_read_timeout: Some(PATIENCE),
        body_read_timeout: Some(PATIENCE),
        idle_timeout: Some(PATIENCE),
        write_stall: Some(PATIENCE),
        max_connections: None,
    }
}

impl Server {
    fn start(rules: Rules) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let seen = Arc::new(Seen {
            requests: Mutex::default(),
            refusals: Mutex::default(),
            facts: Mutex::default(),
            gate: Semaphore::new(0),
        });
        let (drain, rules) = (Drain::new(), rules.live());
        let listener = Listener::bind(&Listen::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(serve(
            listener,
            Layers::default().live(),
            Echo(Arc::clone(&seen)),
            Arc::clone(&rules),
            drain.clone(),
            Workers::one(runtime.handle().clone()),
        ));
        Self { address, seen, drain, rules, runtime }
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, read: Vec::new() }
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.requests.lock().unwrap())
    }

    fn refusals(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.seen.refusals.lock().unwrap())
    }
}

/// Waits for a condition, not for a time.
fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "never came: {what}");
        std::thread::yield_now();
    }
}

struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

#[derive(Debug)]
struct Answered {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answered {
    fn closes(&self) -> bool {
        self.head.contains("connection: close")
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Client {
    /// A server that has closed may refuse the rest.
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// `false` at the end of input, or a reset.
    fn fill(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(n) => {
                self.read.extend_from_slice(&chunk[..n]);
                n > 0
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("no answer in time"),
            Err(_) => false,
        }
    }

    /// The next answer; `None` when the connection ends before a whole one.
    fn answer(&mut self) -> Option<Answered> {
        self.answer_to(false)
    }

    fn answer_to(&mut self, head_request: bool) -> Option<Answered> {
        let end = loop {
            match memchr::memmem::find(&self.read, b"\r\n\r\n") {
                Some(end) => break end + 4,
                None if self.fill() => {}
                None => return None,
            }
        };
        let head = String::from_utf8(self.read.drain(..end).collect()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        let length = if head_request || status == 101 { 0 } else { length };
        while self.read.len() < length {
            if !self.fill() {
                return None;
            }
        }
        Some(Answered { status, head, body: self.read.drain(..length).collect() })
    }

    /// Whether the server has closed its side, with nothing more said.
    fn is_closed(&mut self) -> bool {
        self.read.is_empty() && !self.fill()
    }

    /// Whether another request is answered.
    fn is_open(&mut self) -> bool {
        self.send("GET /probe HTTP/1.1\r\nhost: a\r\n\r\n");
        self.answer().is_some_and(|answer| answer.status == 200)
    }
}

//! HTTP/1.1 clients that keep their connections, and the target that requests are forwarded to.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::probe::Samples;

/// One kept connection.
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4096) })
    }

    /// Sends a request and reads its whole answer; gives the status.
    pub(crate) async fn send(&mut self, request: &[u8]) -> io::Result<u16> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            if let Some((status, length)) = whole(&self.buffer)
                && self.buffer.len() >= length
            {
                return Ok(status);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The body of the last answer.
    pub(crate) fn body(&self) -> &[u8] {
        let head = memchr::memmem::find(&self.buffer, b"\r\n\r\n").map_or(0, |end| end + 4);
        &self.buffer[head..]
    }
}

/// Status and length of an answer whose head is there.
fn whole(bytes: &[u8]) -> Option<(u16, usize)> {
    let end = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    head.parse(bytes).unwrap();
    let length = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let body: usize = length.map_or(0, |header| std::str::from_utf8(header.value).unwrap().parse().unwrap());
    Some((head.code.unwrap(), end + body))
}

/// Clients that each send the next request when the one before is answered. Gives the time of each, and how many
/// were answered with something else than `status`.
pub(crate) async fn one_by_one(
    address: SocketAddr,
    clients: u64,
    during: Duration,
    status: u16,
    request: impl Fn(u64) -> Vec<u8> + Clone + Send + 'static,
) -> (Samples, u64) {
    let until = Instant::now() + during;
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let request = request.clone();
            tokio::spawn(async move {
                let mut connection = Client::connect(address).await.unwrap();
                let (mut samples, mut others, mut turn) = (Vec::new(), 0, 0);
                while Instant::now() < until {
                    let bytes = request(turn * clients + client);
                    turn += 1;
                    let start = Instant::now();
                    others += u64::from(connection.send(&bytes).await.unwrap() != status);
                    samples.push(start.elapsed());
                }
                (samples, others)
            })
        })
        .collect();
    gather(tasks).await
}

/// Clients that together send `per_second` requests, whether or not those before were slow: a time counts from when
/// its request should have been sent.
pub(crate) async fn at_a_rate(
    address: SocketAddr,
    clients: u64,
    per_second: u64,
    during: Duration,
    status: u16,
    request: impl Fn(u64) -> Vec<u8> + Clone + Send + 'static,
) -> (Samples, u64) {
    let start = Instant::now() + Duration::from_millis(50);
    let total = per_second * during.as_secs();
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let request = request.clone();
            tokio::spawn(async move {
                let mut connection = Client::connect(address).await.unwrap();
                let (mut samples, mut others, mut number) = (Vec::new(), 0, client);
                while number < total {
                    let due = start + Duration::from_micros(number * 1_000_000 / per_second);
                    // The runtime's timer is a millisecond coarse, the same for every measurement.
                    tokio::time::sleep_until(due.into()).await;
                    let sent = Instant::now();
                    others += u64::from(connection.send(&request(number)).await.unwrap() != status);
                    // Late because of the timer is not late because of the gateway; late behind another request is.
                    samples.push(sent.elapsed().max(due.elapsed().saturating_sub(Duration::from_millis(2))));
                    number += clients;
                }
                (samples, others)
            })
        })
        .collect();
    gather(tasks).await
}

async fn gather(tasks: Vec<tokio::task::JoinHandle<(Vec<Duration>, u64)>>) -> (Samples, u64) {
    let (mut all, mut others) = (Samples::default(), 0);
    for task in tasks {
        let (samples, unexpected) = task.await.unwrap();
        all.0.extend(samples);
        others += unexpected;
    }
    (all, others)
}

/// A target that answers every request without a body with a short text.
pub(crate) async fn target() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(async move {
                let mut buffer = Vec::with_capacity(4096);
                while stream.read_buf(&mut buffer).await.is_ok_and(|count| count > 0) {
                    while let Some(end) = memchr::memmem::find(&buffer, b"\r\n\r\n") {
                        buffer.drain(..end + 4);
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                        if stream.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

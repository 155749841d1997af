//! How many refresh tokens are exchanged a second: `cargo bench --bench refresh`.
//!
//! Starts the real gateway, once on SQLite and once on a PostgreSQL server of its own (fsync on, its defaults), on this
//! machine's disk. Clients, each with a session of its own, exchange their refresh token one after the other for the
//! next one. Every exchange is on disk before it is answered. The disk's own figure, an append of 4 KiB and fdatasync
//! again and again, is measured before and after each.
//!
//! `REFRESH_CLIENTS` and `REFRESH_SECONDS` set how many and how long (64 and 10).
#![allow(clippy::unwrap_used, reason = "a failed step of a measurement is a failed measurement")]

#[allow(dead_code, reason = "the tests use the rest of it")]
#[path = "../tests/integration/support/postgres.rs"]
mod postgres;

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const DISK_SECONDS: u64 = 2;

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        // `cargo test --benches` only wants to see that it builds.
        return;
    }
    let (clients, seconds) = (number("REFRESH_CLIENTS", 64), number("REFRESH_SECONDS", 10));
    println!("{clients} clients, {seconds} s each");
    println!("| store | exchanges/s | median | p99 | longest | fdatasync/s of the disk, before and after |");
    println!("| --- | --- | --- | --- | --- | --- |");
    measure("SQLite", "sqlite:state/portcullis.db", clients, seconds);
    // The default that the tests' servers go below.
    let server = postgres::Postgres::start_on(5432, &["shared_buffers=128MB"], |_| {});
    measure("PostgreSQL", &server.url(), clients, seconds);
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn measure(name: &str, store: &str, clients: u64, seconds: u64) {
    let dir = tempfile::tempdir().unwrap();
    let before = syncs(dir.path());
    let gateway = Gateway::start(dir.path(), store);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut times, took) =
        runtime.block_on(exchange(gateway.address, clients, Duration::from_secs(seconds)));
    drop(gateway);
    let after = syncs(dir.path());
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "| {name} | {:.0} | {:.1?} | {:.1?} | {:.1?} | {before:.0}, {after:.0} |",
        times.len() as f64 / took.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

/// Appends of 4 KiB, each synced, in a second.
fn syncs(dir: &Path) -> f64 {
    let mut file = File::create(dir.join("syncs")).unwrap();
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(DISK_SECONDS) {
        file.write_all(&[7; 4096]).unwrap();
        file.sync_data().unwrap();
        count += 1;
    }
    f64::from(count) / start.elapsed().as_secs_f64()
}

/// How long each exchange took, and all of them together.
async fn exchange(address: SocketAddr, clients: u64, during: Duration) -> (Vec<Duration>, Duration) {
    let mut sessions = Vec::new();
    for number in 0..clients {
        let mut client = Client { stream: TcpStream::connect(address).await.unwrap(), buffer: Vec::new() };
        client.stream.set_nodelay(true).unwrap();
        let body = format!(r#"{{"email":"user{number}@example.com","password":"tr1cky-pass!word"}}"#);
        let (status, answer) = client.post("/auth/signup", "", &body).await;
        assert_eq!(status, 201, "{answer}");
        let refresh = answer["data"][0]["refresh_token"].as_str().unwrap().to_owned();
        sessions.push((client, refresh));
    }
    let start = Instant::now();
    let tasks = sessions.into_iter().map(|(mut client, mut refresh)| {
        tokio::spawn(async move {
            let mut times = Vec::new();
            while start.elapsed() < during {
                let sent = Instant::now();
                let (status, answer) = client.post("/auth/refresh", &refresh, "").await;
                assert_eq!(status, 200, "{answer}");
                answer["data"][0]["refresh_token"].as_str().unwrap().clone_into(&mut refresh);
                times.push(sent.elapsed());
            }
            times
        })
    });
    let all = futures_util::future::join_all(tasks).await;
    (all.into_iter().flat_map(Result::unwrap).collect(), start.elapsed())
}

/// One kept connection.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    async fn post(&mut self, path: &str, token: &str, body: &str) -> (u16, Value) {
        let authorization =
            if token.is_empty() { String::new() } else { format!("authorization: Bearer {token}\r\n") };
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: gate\r\n{authorization}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        self.stream.write_all(request.as_bytes()).await.unwrap();
        self.buffer.clear();
        loop {
            assert!(self.stream.read_buf(&mut self.buffer).await.unwrap() > 0, "the gateway hung up");
            let Some(head) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") else { continue };
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut response = httparse::Response::new(&mut headers);
            response.parse(&self.buffer).unwrap();
            let length =
                response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
            let length: usize = std::str::from_utf8(length.unwrap().value).unwrap().parse().unwrap();
            if self.buffer.len() >= head + 4 + length {
                return (response.code.unwrap(), serde_json::from_slice(&self.buffer[head + 4..]).unwrap());
            }
        }
    }
}

/// A running gateway; killed when dropped.
struct Gateway {
    child: Child,
    address: SocketAddr,
}

impl Gateway {
    fn start(dir: &Path, store: &str) -> Self {
        let [address, admin] = [(); 2]
            .map(|()| TcpListener::bind("127.0.0.1:0").unwrap())
            .map(|held| held.local_addr().unwrap());
        let config = format!(
            "[server]\nlisten = [\"{address}\"]\naccess_log = \"off\"\n[admin]\nlisten = \"{admin}\"\n[store]\nurl = \"{store}\"\n"
        );
        fs::write(dir.join("gateway.toml"), config).unwrap();
        let events = File::create(dir.join("events")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .arg("--config")
            .arg(dir.join("gateway.toml"))
            .stdout(Stdio::null())
            .stderr(events)
            .spawn()
            .unwrap();
        let mut gateway = Self { child, address };
        while std::net::TcpStream::connect(address).is_err() {
            let ended = gateway.child.try_wait().unwrap();
            assert!(ended.is_none(), "{}", fs::read_to_string(dir.join("events")).unwrap());
            std::thread::sleep(Duration::from_millis(5));
        }
        gateway
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

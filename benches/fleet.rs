//! How fast a fleet is: `cargo bench --bench fleet`.
//!
//! Starts three real gateways and a Redis server of its own (appendonly yes, appendfsync everysec) on this machine, and
//! measures what the shared log promises: how long after a revocation is asked for on one gateway the others refuse
//! the token, at a steady rate of other revocations; how many a second get through; how long a gateway that was away
//! takes to catch up; how long a new one takes to load everything. Tokens are asked for again and again until they are
//! refused, so a figure contains the time of one such question.
//!
//! `FLEET_RATE` (1000 a second), `FLEET_SECONDS` (20), `FLEET_MISSED` (1000000) and `FLEET_NEW` (10000000) set the sizes.
#![allow(clippy::unwrap_used, reason = "a failed step of a measurement is a failed measurement")]

#[allow(dead_code, reason = "the tests use the rest of it")]
#[path = "../tests/integration/support/redis.rs"]
mod redis;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::Value;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// Entries of one bulk request.
const BULK: u64 = 500_000;
/// Who revoke one by one.
const CLIENTS: u64 = 64;
/// Tokens whose way is measured, a second.
const SAMPLES: u64 = 20;

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        // `cargo test --benches` only wants to see that it builds.
        return;
    }
    let (rate, seconds) = (number("FLEET_RATE", 1000), number("FLEET_SECONDS", 20));
    let (missed, new) = (number("FLEET_MISSED", 1_000_000), number("FLEET_NEW", 10_000_000));
    let engine = redis::Redis::start();
    let dir = tempfile::tempdir().unwrap();
    let upstream = upstream();
    let make = |name: &str| Gateway::new(dir.path().join(name), &engine.url(), upstream);
    let (one, two, mut three) = (make("one"), make("two"), make("three"));
    println!("| what | figure |");
    println!("| --- | --- |");

    let mut times = latency(&one, &[&two, &three], rate, seconds);
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "| revoked on one, refused on two others, at {rate}/s, {} samples | median {:.1?}, p99 {:.1?}, longest {:.1?} |",
        times.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );

    let (done, last) = sustained(&one, seconds);
    let start = Instant::now();
    until(|| two.refuses(&last) && three.refuses(&last) && one.outbox() == 0);
    println!(
        "| revocations one by one from {CLIENTS} clients for {seconds} s, each acknowledged | {:.0}/s; the last one in \
         force everywhere {:.1?} later |",
        done as f64 / seconds as f64,
        start.elapsed()
    );

    three.stop();
    let start = Instant::now();
    bulk(&one, "missed", missed);
    let last = format!("missed{}", missed - 1);
    until(|| two.refuses(&last));
    let took = start.elapsed();
    println!(
        "| {missed} revocations in bulk, from the first byte to the last one refused elsewhere | {took:.1?}, {:.0}/s |",
        missed as f64 / took.as_secs_f64()
    );
    let start = Instant::now();
    three.start();
    until(|| three.refuses(&last) && three.is_ready());
    println!(
        "| a gateway that missed {missed} is started, ready with all of them | {:.1?} |",
        start.elapsed()
    );

    let mut sent = missed;
    while sent < new {
        let count = (new - sent).min(1_000_000);
        bulk(&one, &format!("more{sent}x"), count);
        sent += count;
    }
    until(|| one.outbox() == 0);
    let start = Instant::now();
    let four = make("four");
    println!(
        "| a new gateway with {sent} in the shared log, ready | {:.1?} ({} entries) |",
        start.elapsed(),
        four.entries()
    );
    let memory = engine.command(&["INFO", "memory"]);
    let memory =
        memory.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse::<u64>().ok());
    println!("| memory of Redis then | {} MiB |", memory.unwrap_or(0) >> 20);
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(600), "it does not come");
        thread::sleep(Duration::from_millis(1));
    }
}

/// From asking for each revocation to its refusal on each of the others.
fn latency(one: &Gateway, others: &[&Gateway], rate: u64, seconds: u64) -> Vec<Duration> {
    let stop = Arc::new(AtomicBool::new(false));
    let noise: Vec<_> = (0..4)
        .map(|worker| {
            let (stop, mut client) = (stop.clone(), one.client(one.admin));
            let pause = Duration::from_secs(1) * 4 / u32::try_from(rate).unwrap();
            let authorization = one.authorization.clone();
            thread::spawn(move || {
                let (start, mut count) = (Instant::now(), 0_u32);
                while !stop.load(Ordering::Relaxed) {
                    let body = revocation(&format!("noise{worker}-{count}"));
                    assert_eq!(client.ask("POST", "/admin/revocations", &authorization, &body).0, 200);
                    count += 1;
                    thread::sleep((pause * count).saturating_sub(start.elapsed()));
                }
            })
        })
        .collect();
    let mut times = Vec::new();
    let mut admin = one.client(one.admin);
    let mut clients: Vec<Client> = others.iter().map(|other| other.client(other.address)).collect();
    for sample in 0..seconds * SAMPLES {
        let id = format!("sample{sample}");
        let bearer = format!("Bearer {}", token(&id));
        for client in &mut clients {
            assert_eq!(client.ask("GET", "/x", &bearer, "").0, 204);
        }
        let start = Instant::now();
        thread::scope(|scope| {
            let waiting: Vec<_> = clients
                .iter_mut()
                .map(|client| {
                    let bearer = &bearer;
                    scope.spawn(move || {
                        while client.ask("GET", "/x", bearer, "").0 != 401 {
                            assert!(start.elapsed() < Duration::from_secs(60));
                        }
                        start.elapsed()
                    })
                })
                .collect();
            let body = revocation(&id);
            assert_eq!(admin.ask("POST", "/admin/revocations", &one.authorization, &body).0, 200);
            times.extend(waiting.into_iter().map(|one| one.join().unwrap()));
        });
        thread::sleep(Duration::from_millis(1000 / SAMPLES).saturating_sub(start.elapsed()));
    }
    stop.store(true, Ordering::Relaxed);
    noise.into_iter().for_each(|worker| worker.join().unwrap());
    times
}

/// As many as get through; and the last of them. One thread serves all clients, each of which has one request under way
/// and sends its next when that is answered: a thread for each would cost more than what is measured.
fn sustained(one: &Gateway, seconds: u64) -> (u64, String) {
    let start = Instant::now();
    let during = Duration::from_secs(seconds);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| one.client(one.admin)).collect();
    let body = revocation("each0000000000");
    let mut request = format!(
        "POST /admin/revocations HTTP/1.1\r\nhost: gate\r\nauthorization: {}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        one.authorization,
        body.len()
    )
    .into_bytes();
    let id = request.len() - "0000000000\"}".len();
    let mut sent = 0_u64;
    let mut send = |client: &mut Client| {
        write!(&mut request[id..], "{sent:010}").unwrap();
        client.stream.write_all(&request).unwrap();
        sent += 1;
    };
    clients.iter_mut().for_each(&mut send);
    let (mut done, mut buffer) = (0, [0; 4096]);
    while start.elapsed() < during {
        for client in &mut clients {
            client.hear_200(&mut buffer);
            done += 1;
            send(client);
        }
    }
    for client in &mut clients {
        client.hear_200(&mut buffer);
        done += 1;
    }
    let mut client = one.client(one.admin);
    assert_eq!(client.ask("POST", "/admin/revocations", &one.authorization, &revocation("last")).0, 200);
    (done, "last".to_owned())
}

fn revocation(id: &str) -> String {
    format!(r#"{{"kind":"token","issuer":"bench","value":"{id}"}}"#)
}

fn bulk(gateway: &Gateway, prefix: &str, count: u64) {
    let mut from = 0;
    while from < count {
        let to = (from + BULK).min(count);
        let lines: String = (from..to).map(|n| revocation(&format!("{prefix}{n}")) + "\n").collect();
        let mut client = gateway.client(gateway.admin);
        let head = "content-type: application/x-ndjson\r\n";
        let answer = client.ask_with("POST", "/admin/revocations", &gateway.authorization, head, &lines);
        assert_eq!(answer.0, 200, "{}", answer.1);
        from = to;
    }
}

#[expect(clippy::disallowed_methods, reason = "tokens are made at the real time, as issuers do")]
fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn token(id: &str) -> String {
    let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let now = now();
    let until = now + 20 * 24 * 3600;
    let claims =
        format!(r#"{{"iss":"https://bench.test","sub":"s","jti":"{id}","iat":{now},"exp":{until}}}"#);
    let input = format!("{}.{}", encode(r#"{"alg":"HS256","typ":"JWT"}"#), encode(&claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = BASE64_URL_SAFE_NO_PAD.encode(hmac::sign(&key, input.as_bytes()));
    format!("{input}.{signature}")
}

/// Answers everything with 204.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            thread::spawn(move || {
                let mut buffer = vec![0; 16 << 10];
                let mut have = Vec::new();
                while let Ok(count) = stream.read(&mut buffer) {
                    if count == 0 {
                        break;
                    }
                    have.extend_from_slice(&buffer[..count]);
                    while let Some(end) = memchr::memmem::find(&have, b"\r\n\r\n") {
                        have.drain(..end + 4);
                        if stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

struct Gateway {
    dir: PathBuf,
    address: SocketAddr,
    admin: SocketAddr,
    authorization: String,
    process: Option<Child>,
}

impl Gateway {
    fn new(dir: PathBuf, engine: &str, upstream: SocketAddr) -> Self {
        use std::os::unix::fs::OpenOptionsExt as _;
        fs::create_dir(&dir).unwrap();
        let [address, admin] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], redis::free_port())));
        let toml = format!(
            "[server]\nlisten = [\"{address}\"]\naccess_log = \"off\"\n[admin]\nlisten = \"{admin}\"\n\
             [auth]\nenabled = false\n[revocation]\nsnapshot_every = \"1h\"\n\
             [revocation.cluster]\nurl = \"{engine}\"\n\
             [[issuers]]\nname = \"bench\"\nissuer = \"https://bench.test\"\nalgorithms = [\"HS256\"]\n\
             secret_file = \"secret\"\n\
             [[upstreams]]\nname = \"up\"\ntargets = [\"http://{upstream}\"]\n\
             [[routes]]\nname = \"api\"\npath = \"/\"\nupstream = \"up\"\nauth = \"access\"\n"
        );
        fs::write(dir.join("gateway.toml"), toml).unwrap();
        let mut options = File::options();
        let mut secret = options.write(true).create(true).mode(0o600).open(dir.join("secret")).unwrap();
        secret.write_all(SECRET.as_bytes()).unwrap();
        let mut gateway = Self { dir, address, admin, authorization: String::new(), process: None };
        gateway.start();
        gateway
    }

    fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_portcullis"), "run"]);
        command.current_dir(&self.dir).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(command.spawn().unwrap());
        until(|| self.is_ready());
        let token = fs::read_to_string(self.dir.join("state/admin.token")).unwrap();
        self.authorization = format!("Bearer {}", token.trim());
    }

    fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        assert!(Command::new("kill").arg(process.id().to_string()).status().unwrap().success());
        process.wait().unwrap();
    }

    fn client(&self, address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream }
    }

    fn is_ready(&self) -> bool {
        let Ok(stream) = TcpStream::connect(self.admin) else { return false };
        Client { stream }.ask("GET", "/readyz", "", "").0 == 200
    }

    fn refuses(&self, id: &str) -> bool {
        self.client(self.address).ask("GET", "/x", &format!("Bearer {}", token(id)), "").0 == 401
    }

    fn told(&self, path: &str) -> Value {
        serde_json::from_str(&self.client(self.admin).ask("GET", path, &self.authorization, "").1).unwrap()
    }

    fn outbox(&self) -> u64 {
        self.told("/admin/watermark")["cluster"]["outbox"].as_u64().unwrap()
    }

    fn entries(&self) -> u64 {
        self.told("/admin/stats")["entries"]["token"].as_u64().unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// One kept connection.
struct Client {
    stream: TcpStream,
}

impl Client {
    /// Reads one whole answer, which must be a 200 that tells of its length.
    fn hear_200(&mut self, buffer: &mut [u8]) {
        let mut have = 0;
        loop {
            let count = self.stream.read(&mut buffer[have..]).unwrap();
            assert!(count > 0, "the gateway hung up");
            have += count;
            let Some(end) = memchr::memmem::find(&buffer[..have], b"\r\n\r\n") else { continue };
            let head = &buffer[..end + 2];
            assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..have]));
            let length = memchr::memmem::find(head, b"content-length: ").expect("a length") + 16;
            let digits = head[length..].iter().take_while(|byte| byte.is_ascii_digit());
            let length = digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
            assert!(have <= end + 4 + length, "more than one answer");
            if have == end + 4 + length {
                return;
            }
        }
    }

    fn ask(&mut self, method: &str, path: &str, authorization: &str, body: &str) -> (u16, String) {
        self.ask_with(method, path, authorization, "content-type: application/json\r\n", body)
    }

    fn ask_with(
        &mut self,
        method: &str,
        path: &str,
        authorization: &str,
        head: &str,
        body: &str,
    ) -> (u16, String) {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: gate\r\nauthorization: {authorization}\r\n{head}content-length: {length}\r\n\r\n"
        );
        self.stream.write_all(request.as_bytes()).unwrap();
        self.stream.write_all(body.as_bytes()).unwrap();
        let (mut buffer, mut have) = (vec![0; 16 << 10], Vec::new());
        loop {
            let count = self.stream.read(&mut buffer).unwrap();
            assert!(count > 0, "the gateway hung up");
            have.extend_from_slice(&buffer[..count]);
            let Some(end) = memchr::memmem::find(&have, b"\r\n\r\n") else { continue };
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut response = httparse::Response::new(&mut headers);
            response.parse(&have).unwrap();
            let status = response.code.unwrap();
            let length = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
            let length = length.map_or(0, |h| std::str::from_utf8(h.value).unwrap().parse().unwrap());
            if have.len() >= end + 4 + length {
                return (status, String::from_utf8_lossy(&have[end + 4..]).into_owned());
            }
        }
    }
}

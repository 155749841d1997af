//! How fast open streams end when their token is revoked: `cargo bench --bench live`.
//!
//! Starts the real gateway, an upstream whose responses never end, and clients, each a process of its own, over
//! loopback. Measured from before the revocation is sent to the moment when a client sees its stream end:
//!
//! 1. one stream, while all the others are open (by token id, 200 times);
//! 2. all the streams of one subject at once; not one of another subject may end.
//!
//! `LIVE_STREAMS` and `LIVE_NEIGHBOURS` set how many there are (10,000 and 1,000). The gateway needs two descriptors a
//! stream; the limit is raised as far as the machine allows.
#![allow(clippy::unwrap_used, reason = "a failed step of a measurement is a failed measurement")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::event::epoll;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const SECRET: &[u8] = b"a secret for a measurement, and long enough for HS256";
const SINGLES: usize = 200;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|argument| argument == "--upstream") {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(serve());
    } else if arguments.iter().any(|argument| argument == "--measure") {
        measure();
    } else if arguments.iter().any(|argument| argument == "--bench") {
        let this = std::env::current_exe().unwrap();
        let status = raised(&this).arg("--measure").status().unwrap();
        std::process::exit(status.code().unwrap_or(1));
    }
    // `cargo test --benches` only wants to see that it builds.
}

/// A program with as many descriptors as it may have.
fn raised(program: &Path) -> Command {
    let mut command = Command::new("sh");
    let script = "ulimit -n 1000000 2>/dev/null || ulimit -n 200000 2>/dev/null || ulimit -n $(ulimit -Hn); exec \"$0\" \"$@\"";
    command.args(["-c", script]).arg(program);
    command
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Every response begins and never ends.
async fn serve() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let begun = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n";
            let _ = stream.write_all(begun).await;
            while stream.read(&mut head).await.is_ok_and(|count| count > 0) {}
        });
    }
}

/// The clients' streams, and what tells when one of them ends. They cost as little as can be, for they share the machine with
/// the gateway: one system call tells of thousands of ends, and none is read or closed meanwhile.
struct Streams {
    epoll: rustix::fd::OwnedFd,
    all: Vec<TcpStream>,
    ended: Vec<Option<Instant>>,
    events: Vec<epoll::Event>,
}

impl Streams {
    fn new() -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        Self { epoll, all: Vec::new(), ended: Vec::new(), events: Vec::with_capacity(16 * 1024) }
    }

    /// Takes one that has begun; gives its number.
    fn add(&mut self, stream: TcpStream) -> usize {
        stream.set_nonblocking(true).unwrap();
        let number = self.all.len();
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(number as u64), flags).unwrap();
        self.all.push(stream);
        self.ended.push(None);
        number
    }

    /// Looks at what has happened, for so long at most.
    fn look(&mut self, within: Duration) {
        let within = rustix::event::Timespec::try_from(within).unwrap();
        let buffer = rustix::buffer::spare_capacity(&mut self.events);
        epoll::wait(&self.epoll, buffer, Some(&within)).unwrap();
        let seen = Instant::now();
        for event in self.events.drain(..) {
            let number = event.data.u64() as usize;
            let (flags, ended) = (event.flags, epoll::EventFlags::HUP | epoll::EventFlags::ERR);
            let mut rest = [0; 4096];
            if flags.intersects(ended | epoll::EventFlags::RDHUP)
                || matches!(self.all[number].read(&mut rest), Ok(0))
            {
                self.ended[number].get_or_insert(seen);
            }
        }
    }

    /// When these ended; waits until they have.
    fn ends(&mut self, numbers: std::ops::Range<usize>) -> Vec<Instant> {
        let wait = |number| loop {
            match self.ended[number] {
                Some(ended) => return ended,
                None => self.look(Duration::from_secs(60)),
            }
        };
        numbers.map(wait).collect()
    }

    /// The same to a millisecond: a look at thousands of ends that nobody was woken for, as if clients were on other machines.
    fn ends_seen_at_times(&mut self, numbers: std::ops::Range<usize>) -> Vec<Instant> {
        while self.ended[numbers.clone()].iter().any(Option::is_none) {
            std::thread::sleep(Duration::from_millis(1));
            self.look(Duration::ZERO);
        }
        self.ends(numbers)
    }
}

fn measure() {
    let (streams, neighbours) = (number("LIVE_STREAMS", 10_000), number("LIVE_NEIGHBOURS", 1_000));
    let stage = Stage::start();
    let mut clients = Streams::new();
    let started = Instant::now();
    for number in 0..streams {
        clients.add(stage.open(&token("ada", &format!("ada-{number}"))));
    }
    for number in 0..neighbours {
        clients.add(stage.open(&token("bob", &format!("bob-{number}"))));
    }
    println!("{} streams open after {:.1?}", streams + neighbours, started.elapsed());
    assert_eq!(stage.live(), streams + neighbours);

    let mut singles = Vec::new();
    let mut acknowledged = Vec::new();
    for number in 0..SINGLES {
        let id = format!("one-{number}");
        let one = clients.add(stage.open(&token("eve", &id)));
        let sent = Instant::now();
        let answer = stage.revoke("token", &id);
        singles.push(clients.ends(one..one + 1)[0] - sent);
        acknowledged.push(answer.join().unwrap() - sent);
    }
    report("one stream, to its end", &mut singles);
    report("  to the acknowledgement", &mut acknowledged);

    let sent = Instant::now();
    let answer = stage.revoke("subject", "ada");
    let mut ends: Vec<Duration> =
        clients.ends_seen_at_times(0..streams).iter().map(|ended| *ended - sent).collect();
    report(&format!("{streams} streams, to their ends"), &mut ends);
    println!("  acknowledged after {:.1?}", answer.join().unwrap() - sent);
    let until = Instant::now() + Duration::from_secs(1);
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        clients.look(left);
    }
    let touched = clients.ended[streams..streams + neighbours].iter().flatten().count();
    println!("neighbours that ended: {touched} of {neighbours}; still registered: {}", stage.live());
    assert_eq!((touched, stage.live()), (0, neighbours));
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("{what}: median {:.2?}, p99 {:.2?}, last {:.2?}", at(0.5), at(0.99), at(1.0));
}

#[expect(clippy::disallowed_methods, reason = "tokens are made at the real time, as issuers do")]
fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn token(subject: &str, id: &str) -> String {
    let iat = now();
    let exp = iat + 24 * 3600;
    let claims = format!(r#"{{"sub":"{subject}","jti":"{id}","iat":{iat},"exp":{exp}}}"#);
    let input = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#),
        URL_SAFE_NO_PAD.encode(claims)
    );
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), input.as_bytes());
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The gateway and its upstream, ended with this value.
struct Stage {
    dir: tempfile::TempDir,
    children: Vec<Child>,
    clear: SocketAddr,
    admin: SocketAddr,
}

impl Stage {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut upstream = raised(&std::env::current_exe().unwrap());
        let mut upstream = upstream.arg("--upstream").stdout(Stdio::piped()).spawn().unwrap();
        let address = line(&mut BufReader::new(upstream.stdout.take().unwrap()));
        let secret = dir.path().join("secret");
        std::fs::write(&secret, SECRET).unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        let toml = format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\nmax_connections = 100000\naccess_log = \"off\"\n\
             [admin]\nlisten = \"127.0.0.1:0\"\n[auth]\nenabled = false\n\
             [[issuers]]\nname = \"legacy\"\nalgorithms = [\"HS256\"]\nsecret_file = \"secret\"\nmax_token_ttl = \"400d\"\n\
             [[upstreams]]\nname = \"up\"\ntargets = [\"http://{address}\"]\n\
             [[routes]]\nname = \"all\"\npath = \"/\"\nupstream = \"up\"\nauth = \"access\"\n"
        );
        let config = dir.path().join("gateway.toml");
        std::fs::write(&config, toml).unwrap();
        let mut gateway = raised(Path::new(env!("CARGO_BIN_EXE_portcullis")));
        let mut gateway = gateway.arg("--config").arg(&config).stderr(Stdio::piped()).spawn().unwrap();
        let mut events = BufReader::new(gateway.stderr.take().unwrap());
        let (mut clear, mut admin) = (None, None);
        while clear.is_none() || admin.is_none() {
            let event = line(&mut events);
            assert!(!event.is_empty(), "the gateway ended");
            // Notices about the configuration come before, as text.
            let Ok(event) = serde_json::from_str::<serde_json::Value>(&event) else {
                eprintln!("{event}");
                continue;
            };
            let address = event["fields"]["address"].as_str().and_then(|text| text.parse().ok());
            match event["fields"]["listener"].as_str() {
                Some("clear") => clear = address,
                Some("admin") => admin = address,
                _ => {}
            }
        }
        // The pipe must not fill up.
        std::thread::spawn(move || std::io::copy(&mut events, &mut std::io::stderr()));
        Self { dir, children: vec![gateway, upstream], clear: clear.unwrap(), admin: admin.unwrap() }
    }

    /// Opens a stream and waits until it has begun.
    fn open(&self, token: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.clear).unwrap();
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let (mut read, mut piece) = (Vec::new(), [0; 4096]);
        while !read.windows(5).any(|window| window == b"begun") {
            let count = stream.read(&mut piece).unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&read));
            read.extend_from_slice(&piece[..count]);
        }
        stream
    }

    /// Revokes on a thread of its own; gives the moment of the acknowledgement.
    fn revoke(&self, kind: &str, value: &str) -> std::thread::JoinHandle<Instant> {
        let body = format!(r#"{{"kind":"{kind}","value":"{value}"}}"#);
        let (admin, token) = (self.admin, self.admin_token());
        std::thread::spawn(move || {
            let answer = call(admin, "POST /admin/revocations", &token, &body);
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            Instant::now()
        })
    }

    fn live(&self) -> usize {
        let text = call(self.admin, "GET /metrics", &self.admin_token(), "");
        let line = text.lines().find_map(|line| line.strip_prefix("portcullis_live_connections "));
        line.unwrap().parse().unwrap()
    }

    fn admin_token(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("state/admin.token")).unwrap().trim().to_owned()
    }
}

fn call(address: SocketAddr, line: &str, token: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn line(lines: &mut BufReader<impl std::io::Read>) -> String {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    line.trim().to_owned()
}

impl Drop for Stage {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

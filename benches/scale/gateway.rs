//! The program itself, started on what the engine left: how long until it is ready, its memory, and what requests
//! notice of a snapshot.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::check::mib;
use super::engine::tokens;
use super::load_client::{Client, at_a_rate, target};
use super::probe::{Samples, micros, resident};
use super::{Options, row};

/// Requests a second, well below what the machine can do, so that a wait is the snapshot's and not the queue's.
const RATE: u64 = 2000;
const CLIENTS: u64 = 16;
const TOKENS: u64 = 5000;
const ROUNDS: usize = 5;

/// A running gateway; killed when dropped.
pub(crate) struct Gateway {
    child: Child,
    dir: PathBuf,
    pub(crate) clear: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// From its start until `/readyz` said so.
    pub(crate) ready_after: Duration,
}

impl Gateway {
    /// Starts it in `dir`, where its state is `state`, and waits until it is ready.
    pub(crate) fn start(dir: &Path, upstream: SocketAddr, more: &str) -> Self {
        fs::create_dir_all(dir).unwrap();
        let [clear, admin] = free_ports();
        let config = format!(
            r#"
[server]
listen = ["{clear}"]
access_log = "off"
[admin]
listen = "{admin}"
[auth]
algorithm = "HS256"
[revocation]
claims = ["tenant"]
{more}
[[upstreams]]
name = "api"
targets = ["http://{upstream}"]
[[routes]]
name = "api"
path = "/"
upstream = "api"
auth = "access"
"#
        );
        fs::write(dir.join("gateway.toml"), config).unwrap();
        let start = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .arg("--config")
            .arg(dir.join("gateway.toml"))
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.join("events")).unwrap())
            .spawn()
            .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let is_ready = async || {
            let mut client = Client::connect(admin).await.ok()?;
            client.send(b"GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n").await.ok()
        };
        while runtime.block_on(is_ready()) != Some(200) {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "{}", fs::read_to_string(dir.join("events")).unwrap());
            std::thread::sleep(Duration::from_millis(2));
        }
        let ready_after = start.elapsed();
        Self { child, dir: dir.to_owned(), clear, admin, ready_after }
    }

    pub(crate) fn admin_token(&self) -> String {
        fs::read_to_string(self.dir.join("state/admin.token")).unwrap().trim().to_owned()
    }

    /// The names of its snapshots, finished or not.
    fn snapshots(&self) -> Vec<String> {
        let files = fs::read_dir(self.dir.join("state")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.starts_with("snapshot-")).collect();
        names.sort();
        names
    }

    /// Returns when none has been taken for a while.
    fn wait_for_the_last_snapshot(&self) {
        let mut before = self.snapshots();
        loop {
            std::thread::sleep(Duration::from_secs(3));
            let after = self.snapshots();
            if after == before && !after.iter().any(|name| name.ends_with(".new")) {
                return;
            }
            before = after;
        }
    }

    fn resident(&self) -> u64 {
        resident(&self.child.id().to_string())
    }

    /// The most that it ever was.
    pub(crate) fn most_resident(&self) -> u64 {
        super::probe::status_bytes(&self.child.id().to_string(), "VmHWM:")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_ports() -> [SocketAddr; 2] {
    let held = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap())
}

pub(crate) fn measure(dir: &Path, entries: u64, options: &Options) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let upstream = runtime.block_on(target());
    // A snapshot is due every second, if there was a revocation: without any, there are no snapshots.
    let settings = "snapshot_every = \"1s\"";
    let settled = |gateway: &Gateway| {
        std::thread::sleep(Duration::from_secs(1));
        gateway.resident()
    };
    let empty = settled(&Gateway::start(&dir.join("empty-gateway"), upstream, settings));
    let gateway = Gateway::start(dir, upstream, settings);
    let full = settled(&gateway);
    let target = "≤ 15 s at 100 M";
    row(
        "start of the program, until ready",
        entries,
        target,
        &format!("{:.2} s", gateway.ready_after.as_secs_f64()),
        "",
    );
    // Sessions and cutoffs are in it too.
    let all = entries + entries / 20 + 102_101;
    row(
        "memory of the program",
        all,
        "≤ 40 B at 10 M, ≤ 32 B at 100 M",
        &format!("{:.1} B an entry", (full - empty) as f64 / all as f64),
        &format!("{} above {} when empty", mib(full - empty), mib(empty)),
    );

    let tokens = tokens(&dir.join("state"), TOKENS);
    let requests: Arc<Vec<Vec<u8>>> = Arc::new(
        tokens
            .texts
            .iter()
            .map(|token| {
                format!("GET /x HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n").into_bytes()
            })
            .collect(),
    );
    let send = |during: Duration| {
        let requests = Arc::clone(&requests);
        let request = move |number: u64| requests[number as usize % requests.len()].clone();
        let (samples, others) =
            runtime.block_on(at_a_rate(gateway.clear, CLIENTS, RATE, during, 200, request));
        assert_eq!(others, 0, "every token is good");
        samples
    };
    send(Duration::from_secs(2));
    let during = Duration::from_secs(options.seconds.max(5));
    let (mut ratios, mut last) = (Vec::new(), (Samples::default(), Samples::default()));
    for _ in 0..ROUNDS {
        let without = send(during);
        let before = gateway.snapshots();
        let revoking = runtime.spawn(revoke_now_and_then(gateway.admin, gateway.admin_token()));
        let with = send(during);
        assert_ne!(gateway.snapshots(), before, "snapshots are taken");
        revoking.abort();
        gateway.wait_for_the_last_snapshot();
        last = (without, with);
        ratios.push(last.1.quantile(0.99).as_secs_f64() / last.0.quantile(0.99).as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    row(
        "p99 of requests while snapshots are taken",
        entries,
        "≤ 1.2 × without",
        &format!("{:.2} × (of {:.2} to {:.2})", ratios[ROUNDS / 2], ratios[0], ratios[ROUNDS - 1]),
        &format!(
            "last: p99 {}, without {}; p50 {}, without {}; {RATE} requests/s",
            micros(last.1.quantile(0.99)),
            micros(last.0.quantile(0.99)),
            micros(last.1.quantile(0.5)),
            micros(last.0.quantile(0.5)),
        ),
    );
    drop(gateway);
}

/// Gives the gateway a reason to take one snapshot after the other.
async fn revoke_now_and_then(admin: SocketAddr, token: String) {
    let mut client = Client::connect(admin).await.unwrap();
    let body = r#"{"kind":"token","value":"another"}"#;
    let length = body.len();
    let request = format!(
        "POST /admin/revocations HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    while client.send(request.as_bytes()).await.is_ok_and(|status| status == 200) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

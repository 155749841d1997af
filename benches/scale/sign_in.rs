//! What proxied requests notice while 200 clients sign in without a pause, and what memory that takes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::check::mib;
use super::gateway::Gateway;
use super::load_client::{Client, at_a_rate, target};
use super::probe::{Samples, micros};
use super::{Options, row};

const SIGNING_IN: u64 = 200;
/// Proxied requests a second; together with what sends them, well below what the machine can do.
const RATE: u64 = 1000;
const CLIENTS: u64 = 16;
const ROUNDS: usize = 5;
const PASSWORD: &str = "tr1cky-pass!word";

pub(crate) fn measure(dir: &Path, options: &Options) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let upstream = runtime.block_on(target());
    let gateway = Gateway::start(dir, upstream, "");
    let tokens = runtime.block_on(sign_up(gateway.clear));
    let requests: Arc<Vec<Vec<u8>>> = Arc::new(
        tokens
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
    let during = Duration::from_secs(options.seconds);
    let (mut ratios, mut last) = (Vec::new(), (Samples::default(), Samples::default()));
    let done = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    for _ in 0..ROUNDS {
        let without = send(during);
        let stop = Arc::new(AtomicBool::new(false));
        let signing: Vec<_> = (0..SIGNING_IN)
            .map(|number| runtime.spawn(sign_in(gateway.clear, number, Arc::clone(&stop), Arc::clone(&done))))
            .collect();
        let with = send(during);
        stop.store(true, Ordering::Relaxed);
        runtime.block_on(async {
            for client in signing {
                client.await.unwrap();
            }
        });
        last = (without, with);
        ratios.push(last.1.quantile(0.99).as_secs_f64() / last.0.quantile(0.99).as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    let [signed, refused] = [0, 1].map(|at| done[at].load(Ordering::Relaxed));
    row(
        "p99 of requests while 200 clients sign in",
        0,
        "≤ 2 × without",
        &format!("{:.2} × (of {:.2} to {:.2})", ratios[ROUNDS / 2], ratios[0], ratios[ROUNDS - 1]),
        &format!(
            "last: p99 {}, without {}; p50 {}, without {}; {RATE} requests/s; {:.0} sign-ins/s, {refused} answered 503",
            micros(last.1.quantile(0.99)),
            micros(last.0.quantile(0.99)),
            micros(last.1.quantile(0.5)),
            micros(last.0.quantile(0.5)),
            signed as f64 / (ROUNDS as f64 * during.as_secs_f64()),
        ),
    );
    let hashes = std::thread::available_parallelism().unwrap().get() as u64;
    row(
        "greatest resident set meanwhile",
        0,
        &format!("≤ {hashes} hashes × 19 MiB + 64 MiB = {} MiB", hashes * 19 + 64),
        &mib(gateway.most_resident()),
        "",
    );
}

/// One account for each client; gives their access tokens.
async fn sign_up(address: SocketAddr) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut client = Client::connect(address).await.unwrap();
    for number in 0..SIGNING_IN {
        assert_eq!(client.send(&post("/auth/signup", number)).await.unwrap(), 201);
        let body = client.body();
        let answer: Value = serde_json::from_slice(body).unwrap();
        tokens.push(answer["data"][0]["access_token"].as_str().unwrap().to_owned());
    }
    tokens
}

/// Signs in again and again; counts the answers, 200 and 503.
async fn sign_in(address: SocketAddr, number: u64, stop: Arc<AtomicBool>, done: Arc<[AtomicU64; 2]>) {
    let mut client = Client::connect(address).await.unwrap();
    let request = post("/auth/signin", number);
    while !stop.load(Ordering::Relaxed) {
        match client.send(&request).await.unwrap() {
            200 => done[0].fetch_add(1, Ordering::Relaxed),
            503 => done[1].fetch_add(1, Ordering::Relaxed),
            other => panic!("{other}: {}", String::from_utf8_lossy(client.body())),
        };
    }
}

fn post(path: &str, number: u64) -> Vec<u8> {
    let body = format!(r#"{{"email":"user{number}@example.com","password":"{PASSWORD}"}}"#);
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

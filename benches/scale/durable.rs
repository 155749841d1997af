//! Revocations one by one from many clients, and a million in one request, durable before they are answered, beside the
//! disk's own fdatasync.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portcullis::revocation::Kind;

use super::check::rate;
use super::engine::{Engine, entry, name, now};
use super::gateway::Gateway;
use super::load_client::{Client, at_a_rate, one_by_one, target};
use super::probe::{Samples, disk_sync, disk_write, micros};
use super::{Options, row};

const CLIENTS: u64 = 64;
/// What one group of so many clients writes, about.
const GROUP_BYTES: usize = 100 * CLIENTS as usize;
const ROUNDS: usize = 3;
/// Revocations a second that leave the machine room.
const RATE: u64 = 5000;

pub(crate) fn measure(dir: &Path, options: &Options) {
    let during = Duration::from_secs(options.seconds);
    let probe = || disk_sync(dir, GROUP_BYTES, Duration::from_secs(2), Duration::ZERO);
    {
        let (engine, _) = Engine::open(&dir.join("handle"));
        for _ in 0..ROUNDS {
            let mut disk = probe();
            let (mut acks, count, took) = in_process(&engine, during);
            report("durable, in process", &mut acks, count, took, &mut disk);
        }
        let start = Instant::now();
        engine.fill(&Kind::Token, 1 << 32..(1 << 32) + 2_000_000);
        row(
            "bulk, in process",
            0,
            "≥ 500 k/s",
            &rate(2_000_000, start.elapsed()),
            "2 M, one batch a million",
        );
        engine.close();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let gateway = Gateway::start(&dir.join("gateway"), runtime.block_on(target()), "");
    for round in 0..2 * ROUNDS as u64 {
        let mut disk = probe();
        let token = gateway.admin_token();
        let revoke = move |number: u64| {
            let value = name(round << 40 | number);
            let body = format!(r#"{{"kind":"token","value":"{value}"}}"#);
            let length = body.len();
            format!(
                "POST /admin/revocations HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\
                 content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
            )
            .into_bytes()
        };
        let start = Instant::now();
        // As fast as it goes, and at a rate at which the machine is not full: the time that an answer takes.
        let (what, (mut acks, others)) = if round % 2 == 0 {
            let done = runtime.block_on(one_by_one(gateway.admin, CLIENTS, during, 200, revoke));
            ("durable, over HTTP", done)
        } else {
            let done = runtime.block_on(at_a_rate(gateway.admin, CLIENTS, RATE, during, 200, revoke));
            ("durable, over HTTP, at 5 k/s", done)
        };
        assert_eq!(others, 0, "every revocation is acknowledged");
        let (count, took) = (acks.0.len() as u64, start.elapsed());
        report(what, &mut acks, count, took, &mut disk);
        if round % 2 == 1 {
            let mut beside = runtime.block_on(disk_beside_requests(dir, &gateway));
            report("beside as many requests that write nothing", &mut acks, count, took, &mut beside);
        }
    }
}

/// The disk's own fdatasync as often as the log does it at this rate, while the gateway answers as many requests that
/// write nothing: what the machine makes of both at once, without anything of the revocation engine.
async fn disk_beside_requests(dir: &Path, gateway: &Gateway) -> Samples {
    const DURING: Duration = Duration::from_secs(3);
    let (dir, token) = (dir.to_owned(), gateway.admin_token());
    let pause = Duration::from_micros(600);
    let probe = tokio::task::spawn_blocking(move || disk_sync(&dir, GROUP_BYTES, DURING, pause));
    let look = move |number: u64| {
        let id = name(u64::MAX - number);
        format!(
            "GET /admin/revocations/token/{id} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n"
        )
        .into_bytes()
    };
    let (_, others) = at_a_rate(gateway.admin, CLIENTS, RATE, DURING, 404, look).await;
    assert_eq!(others, 0, "nothing of it is in force");
    probe.await.unwrap()
}

/// A million in one request.
pub(crate) fn lines(dir: &Path) {
    const LINES: u64 = 1_000_000;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let gateway = Gateway::start(&dir.join("gateway"), runtime.block_on(target()), "");
    let token = gateway.admin_token();
    let expires_at = now().secs() + 30 * 86_400;
    for round in 0..ROUNDS as u64 {
        let mut body = String::new();
        for number in 0..LINES {
            let value = name(round << 40 | number);
            writeln!(body, r#"{{"kind":"token","value":"{value}","expires_at":{expires_at}}}"#).unwrap();
        }
        let mut request = format!(
            "POST /admin/revocations HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\
             content-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        request.push_str(&body);
        let mut disk = disk_write(dir, body.len());
        let took = runtime.block_on(async {
            let mut client = Client::connect(gateway.admin).await.unwrap();
            let start = Instant::now();
            assert_eq!(client.send(request.as_bytes()).await.unwrap(), 200);
            let took = start.elapsed();
            // The trail follows; the next round is not to be disturbed by it.
            let list = format!(
                "GET /admin/revocations?limit=1 HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n"
            );
            while client.send(list.as_bytes()).await.unwrap() != 200 {}
            took
        });
        disk = disk.min(disk_write(dir, body.len()));
        let remark = format!(
            "{} MB; answered after {:.2} s; to write and sync as much takes {:.2} s here",
            body.len() / 1_000_000,
            took.as_secs_f64(),
            disk.as_secs_f64()
        );
        row("NDJSON, over HTTP", LINES, "≥ 500 k/s", &rate(LINES, took), &remark);
    }
}

fn report(what: &str, acks: &mut Samples, count: u64, took: Duration, disk: &mut Samples) {
    let (ack, sync) = (acks.quantile(0.99), disk.quantile(0.99));
    let middle = disk.quantile(0.5);
    let remark = format!(
        "ack p50 {}, p99 {}; fdatasync p50 {}, p99 {}: {:.1} × its p99, {:.1} × its p50",
        micros(acks.quantile(0.5)),
        micros(ack),
        micros(middle),
        micros(sync),
        ack.as_secs_f64() / sync.as_secs_f64(),
        ack.as_secs_f64() / middle.as_secs_f64(),
    );
    row(what, 0, "≥ 20 k/s, p99 ≤ 5 × fdatasync", &rate(count, took), &remark);
}

fn in_process(engine: &Engine, during: Duration) -> (Samples, u64, Duration) {
    static NEXT: AtomicU64 = AtomicU64::new(1 << 36);
    let start = Instant::now();
    let mut all = Samples::default();
    engine.runtime.block_on(async {
        let handle = Arc::new(engine.handle.clone());
        let tasks: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let handle = Arc::clone(&handle);
                tokio::spawn(async move {
                    let mut samples = Vec::new();
                    while start.elapsed() < during {
                        let name = name(NEXT.fetch_add(1, Ordering::Relaxed));
                        let sent = Instant::now();
                        handle.append(vec![entry(&Kind::Token, &name, now())]).await.unwrap();
                        samples.push(sent.elapsed());
                    }
                    samples
                })
            })
            .collect();
        for task in tasks {
            all.0.extend(task.await.unwrap());
        }
    });
    let count = all.0.len() as u64;
    (all, count, start.elapsed())
}

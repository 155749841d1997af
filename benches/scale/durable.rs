//! Revocations one by one from many clients, each durable before it is answered, beside the disk's own fdatasync.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portcullis::revocation::Kind;

use super::check::rate;
use super::engine::{Engine, entry, name, now};
use super::gateway::Gateway;
use super::load_client::{one_by_one, target};
use super::probe::{Samples, disk_sync, micros};
use super::{Options, row};

const CLIENTS: u64 = 64;
/// What one group of so many clients writes, about.
const GROUP_BYTES: usize = 100 * CLIENTS as usize;
const ROUNDS: usize = 3;

pub(crate) fn measure(dir: &Path, options: &Options) {
    let during = Duration::from_secs(options.seconds);
    let probe = || disk_sync(dir, GROUP_BYTES, Duration::from_secs(2));
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
    for round in 0..ROUNDS as u64 {
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
        let (mut acks, others) = runtime.block_on(one_by_one(gateway.admin, CLIENTS, during, 200, revoke));
        assert_eq!(others, 0, "every revocation is acknowledged");
        let count = acks.0.len() as u64;
        report("durable, over HTTP", &mut acks, count, start.elapsed(), &mut disk);
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

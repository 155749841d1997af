//! The engine in process: filled or loaded, then checked on two threads while it is written to.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portcullis::revocation::{Handle, Kind};

use super::engine::{Engine, Tokens, entry, fill_cutoffs, name, now, tokens};
use super::probe::{Samples, resident};
use super::snapshots::snapshot;
use super::{Options, row};

/// Revocations a second while checks go on, in batches of this many.
const WRITES: u64 = 50_000;
const WRITE_BATCH: u64 = 50;
/// So many checks are timed together, for reading the clock takes as long as one.
const BATCH: u32 = 16;
/// Tokens in the cache, at most.
const TOKENS: u64 = 50_000;

/// Fills an empty engine.
pub(crate) fn grow(dir: &Path, entries: u64, options: &Options) {
    let (engine, _) = Engine::open(&dir.join("state"));
    std::thread::sleep(Duration::from_millis(200));
    let empty = resident("self");
    let start = Instant::now();
    let mut at = 0;
    while at < entries {
        let to = (at + 20_000_000).min(entries);
        engine.fill(&Kind::Token, at..to);
        at = to;
        if at < entries {
            // Else the log would fill the disk.
            snapshot(&engine);
        }
    }
    let took = start.elapsed();
    memory("memory, grown", &engine, entries, empty);
    row("bulk, in process", entries, "≥ 500 k/s", &rate(entries, took), "one batch a million, durable");
    let (took, report) = timed(|| snapshot(&engine));
    row("a snapshot", entries, "", &format!("{:.1} s", took.as_secs_f64()), &mib(report.bytes));
    // Once more, so that the log is not needed any more.
    snapshot(&engine);

    let tokens = prepare(&engine, dir, entries);
    both_sets(&engine, &tokens, entries, options);
    if entries < super::HUGE {
        beside_snapshots(&engine, &tokens, entries, options);
    }
    // Two, so that nothing is left to be replayed.
    snapshot(&engine);
    snapshot(&engine);
    engine.close();
}

/// Opens what [`grow`] left.
pub(crate) fn load(dir: &Path, entries: u64, options: &Options) {
    let (other, _) = Engine::open(&dir.join("empty"));
    std::thread::sleep(Duration::from_millis(200));
    let empty = resident("self");
    other.close();
    let (engine, report) = Engine::open(&dir.join("state"));
    let counts = engine.blocklist.counts();
    let remark = format!("{} entries, {} replayed", counts.total(), report.replayed);
    let took = format!("{:.2} s", report.took.as_secs_f64());
    row("start, in process", entries, "≤ 15 s at 100 M", &took, &remark);
    memory("memory, loaded", &engine, counts.total(), empty);
    let tokens = tokens(dir, TOKENS);
    both_sets(&engine, &tokens, entries, options);
    if entries < super::HUGE {
        // The program starts from here next.
        snapshot(&engine);
        snapshot(&engine);
    }
    engine.close();
}

/// Every kind has entries, so that every selector is looked up.
fn prepare(engine: &Engine, dir: &Path, entries: u64) -> Tokens {
    engine.fill(&Kind::Session, 0..entries / 20);
    fill_cutoffs(engine);
    tokens(dir, TOKENS)
}

fn memory(what: &str, engine: &Engine, entries: u64, empty: u64) {
    // What was freed a moment ago goes back to the system after a while.
    std::thread::sleep(Duration::from_millis(500));
    let resident = resident("self") - empty;
    let each = |bytes: u64| bytes as f64 / entries as f64;
    let tables = each(engine.blocklist.memory_bytes());
    let measured = format!("{:.1} B an entry", each(resident));
    let huge = super::probe::in_huge_pages();
    let remark = format!(
        "tables {tables:.1} B; {} above {} when empty; {} in pages of 2 MiB",
        mib(resident),
        mib(empty),
        mib(huge)
    );
    row(what, entries, "≤ 40 B at 10 M, ≤ 32 B at 100 M", &measured, &remark);
}

fn both_sets(engine: &Engine, tokens: &Tokens, entries: u64, options: &Options) {
    let read = format!("{} ns", super::probe::memory_read().as_nanos());
    row("one read of memory, for comparison", entries, "", &read, "256 MiB, no order, one thread");
    for set in [1000, TOKENS] {
        let during = Duration::from_secs(options.seconds);
        let mut figures = checks(engine, tokens, set as usize, WRITES, during, || {});
        let what = format!("whole check, {set} tokens in turn");
        let target = if entries > 10_000_000 { "≤ 1 µs" } else { "≤ 300 ns at 1 M, ≤ 1 µs at 100 M" };
        row(&what, entries, target, &figures.measured(), &figures.remark());
    }
}

fn beside_snapshots(engine: &Engine, tokens: &Tokens, entries: u64, options: &Options) {
    let mut ratios = Vec::new();
    let (mut last_without, mut last_with) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..3 {
        let during = Duration::from_secs(options.seconds);
        let mut without = checks(engine, tokens, TOKENS as usize, 1000, during, || {});
        let mut with = checks(engine, tokens, TOKENS as usize, 1000, during, || _ = snapshot(engine));
        last_without = without.each.quantile(0.99);
        last_with = with.each.quantile(0.99);
        ratios.push(last_with.as_secs_f64() / last_without.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    row(
        "p99 of checks while snapshots are taken",
        entries,
        "≤ 1.2 × without",
        &format!("{:.2} × (of {:.2} to {:.2})", ratios[1], ratios[0], ratios[2]),
        &format!("last: {} ns, without {} ns", last_with.as_nanos(), last_without.as_nanos()),
    );
}

/// What came of some seconds of checks.
pub(crate) struct Figures {
    /// The mean time of a check in each batch of checks.
    each: Samples,
    written: u64,
    during: Duration,
}

impl Figures {
    fn measured(&mut self) -> String {
        let mean = self.each.0.iter().sum::<Duration>().as_nanos() / self.each.0.len().max(1) as u128;
        format!("median {} ns, mean {mean} ns", self.each.quantile(0.5).as_nanos())
    }

    fn remark(&mut self) -> String {
        let writes = self.written as f64 / self.during.as_secs_f64() / 1000.0;
        let [low, high, top] = [0.1, 0.9, 0.99].map(|share| self.each.quantile(share).as_nanos());
        format!("p10 {low}, p90 {high}, p99 {top} ns; {writes:.0} k writes/s")
    }
}

/// Checks tokens on two threads for so long, while `writes` a second are made and `beside` is done again and again.
fn checks(
    engine: &Engine,
    tokens: &Tokens,
    set: usize,
    writes: u64,
    during: Duration,
    beside: impl Fn() + Sync,
) -> Figures {
    let stop = AtomicBool::new(false);
    let texts = &tokens.texts[..set.min(tokens.texts.len())];
    let at = now();
    texts.iter().for_each(|text| drop(tokens.issuers.verify(text, at).unwrap()));
    let written = Arc::new(AtomicU64::new(0));
    let writer = engine.runtime.spawn(write(engine.handle.clone(), writes, Arc::clone(&written)));
    let mut each = Samples::default();
    std::thread::scope(|scope| {
        let check = |seed: u64| {
            let (mut each, mut random) = (Vec::new(), seed * 0x9e37_79b9_7f4a_7c15);
            let mut batch = [(); BATCH as usize].map(|()| String::with_capacity(1024));
            while !stop.load(Ordering::Relaxed) {
                // A request has just been read, so the text of its token is in the processor's cache.
                for text in &mut batch {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    text.clear();
                    text.push_str(&texts[random as usize % texts.len()]);
                }
                let start = Instant::now();
                for text in &batch {
                    let known = tokens.issuers.verify(text, at).unwrap();
                    assert_eq!(engine.blocklist.check(&known.keys), None);
                }
                each.push(start.elapsed() / BATCH);
            }
            each
        };
        let workers = [1, 2].map(|seed| scope.spawn(move || check(seed)));
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                beside();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        std::thread::sleep(during);
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().for_each(|worker| each.0.extend(worker.join().unwrap()));
    });
    writer.abort();
    Figures { each, written: written.load(Ordering::Relaxed), during }
}

/// Revokes so many tokens a second, in small durable batches, without waiting for the one before.
async fn write(handle: Handle, per_second: u64, written: Arc<AtomicU64>) {
    // Names that no other part uses, new ones each time.
    let mut next = 1 << 44 | (now().millis() & 0xff_ffff) << 20;
    let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 * WRITE_BATCH / per_second));
    loop {
        ticks.tick().await;
        let at = now();
        let batch = (next..next + WRITE_BATCH).map(|number| entry(&Kind::Token, &name(number), at)).collect();
        next += WRITE_BATCH;
        let (handle, written) = (handle.clone(), Arc::clone(&written));
        tokio::spawn(async move {
            if handle.append(batch).await.is_ok() {
                written.fetch_add(WRITE_BATCH, Ordering::Relaxed);
            }
        });
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let done = work();
    (start.elapsed(), done)
}

pub(crate) fn rate(count: u64, took: Duration) -> String {
    format!("{:.0} k/s", count as f64 / took.as_secs_f64() / 1000.0)
}

pub(crate) fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

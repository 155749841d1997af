//! The whole check of a cached token, and its parts, with a million tokens and every other kind revoked too.
//!
//! `cargo bench --bench check`. How it holds out under writes, and at other sizes: `make scale`.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

#[path = "scale/engine.rs"]
mod engine;

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use engine::{Engine, fill_cutoffs, now, tokens};
use portcullis::revocation::{Kind, SelectorKey, TokenKeys};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ENTRIES: u64 = 1_000_000;

fn main() {
    let dir = tempfile::Builder::new().prefix("check-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut criterion = Criterion::default().configure_from_args();
    let (engine, _) = Engine::open(&dir.path().join("state"));

    for (label, count) in [("1 token", 1), ("1,000 tokens", 1000), ("50,000 tokens", 50_000)] {
        let tokens = tokens(dir.path(), count);
        let at = now();
        let known: Vec<_> =
            tokens.texts.iter().map(|text| tokens.issuers.verify(text, at).unwrap()).collect();
        if count == 1 {
            let mut group = criterion.benchmark_group("part");
            group.throughput(Throughput::Elements(1));
            group.bench_function("verified anew", |bencher| {
                bencher.iter(|| tokens.issuers.explain(black_box(&tokens.texts[0]), at).1.unwrap());
            });
            group.bench_function("keys of a token", |bencher| {
                bencher.iter(|| TokenKeys::of(black_box(&known[0].token), &["tenant".into()]));
            });
            group.bench_function("one key", |bencher| {
                bencher.iter(|| SelectorKey::of(&Kind::Token, "self", black_box(&known[0].token.token_id)));
            });
            group.bench_function("blocklist, empty", |bencher| {
                bencher.iter(|| engine.blocklist.check(black_box(&known[0].keys)));
            });
            engine.fill(&Kind::Token, 0..ENTRIES);
            engine.fill(&Kind::Session, 0..ENTRIES / 20);
            fill_cutoffs(&engine);
        }
        let mut group = criterion.benchmark_group(label);
        group.throughput(Throughput::Elements(1));
        let mut next = 0_usize;
        let mut turn = move || {
            // Not in order, or the next one would be in the processor's cache already.
            next = next.wrapping_add(7919);
            next % usize::try_from(count).unwrap()
        };
        group.bench_function("cache hit", |bencher| {
            bencher.iter(|| tokens.issuers.verify(&tokens.texts[turn()], at).unwrap());
        });
        group.bench_function("blocklist", |bencher| {
            bencher.iter(|| engine.blocklist.check(&known[turn()].keys));
        });
        group.bench_function("whole check", |bencher| {
            bencher.iter(|| {
                let known = tokens.issuers.verify(&tokens.texts[turn()], at).unwrap();
                engine.blocklist.check(&known.keys)
            });
        });
    }
    criterion.final_summary();
    engine.close();
}

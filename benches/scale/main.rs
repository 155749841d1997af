//! Measures what the revocation engine promises at scale, and prints a table.
//!
//! ```text
//! cargo bench --bench scale -- [PART…] [--entries N] [--seconds N]
//! ```
//!
//! | part | what |
//! | --- | --- |
//! | `grow` | N tokens through bulk batches; then memory, checks under writes, and checks while snapshots are taken |
//! | `load` | the same entries from their snapshot, in a new process: start, memory, checks under writes |
//! | `gateway` | the program itself on the same entries: start, memory, requests while snapshots are taken |
//! | `durable` | revocations one by one from 64 clients, in process and over HTTP, beside the disk's own fdatasync |
//! | `lines` | a million revocations in one NDJSON request over HTTP, parsed, durable and in force when answered |
//! | `cache` | the memory of a kept token |
//! | `verify` | verification of a token that is not kept, beside aws-lc-rs alone |
//! | `sign_in` | requests while 200 clients sign in, and the memory that takes |
//!
//! Without parts: all of them, at a million and at ten million, and `grow` and `load` at a hundred million too. Each
//! runs in a process of its own, so that its memory is its own. Files are made below `target/tmp` and removed; N entries
//! take some 150 N bytes of disk for a while, but never more than 10 GB.
#![allow(clippy::unwrap_used, reason = "a step of a benchmark that fails ends it")]

mod check;
mod durable;
mod engine;
mod gateway;
mod load_client;
mod probe;
mod sign_in;
mod snapshots;
mod tokens;
mod verify;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PARTS: [&str; 8] = ["grow", "load", "gateway", "durable", "lines", "cache", "verify", "sign_in"];

/// From there on, what does not need so many entries is left out.
pub(crate) const HUGE: u64 = 50_000_000;

/// What the command line asks for.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    parts: Vec<String>,
    entries: Option<u64>,
    pub(crate) seconds: u64,
    /// Set in the process of one part: where its files are.
    dir: Option<PathBuf>,
}

fn main() {
    let options = options();
    match &options.dir {
        Some(dir) => one(&options.parts[0], dir, options.entries.unwrap_or(0), &options),
        None => all(&options),
    }
}

fn options() -> Options {
    let mut options = Options { parts: Vec::new(), entries: None, seconds: 5, dir: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} needs a value"));
        match &*argument {
            // Cargo says so to every benchmark.
            "--bench" => {}
            "--entries" => options.entries = Some(value().replace('_', "").parse().unwrap()),
            "--seconds" => options.seconds = value().parse().unwrap(),
            "--dir" => options.dir = Some(value().into()),
            part if PARTS.contains(&part) => options.parts.push(part.to_owned()),
            other => panic!("{other}: one of {PARTS:?}, --entries N, --seconds N"),
        }
    }
    options
}

fn all(options: &Options) {
    let place = tempfile::Builder::new().prefix("scale-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let wanted = |part: &str| options.parts.is_empty() || options.parts.iter().any(|name| name == part);
    let sizes = options.entries.map_or(vec![1_000_000, 10_000_000, 100_000_000], |entries| vec![entries]);
    let mut rows = Vec::new();
    for part in ["verify", "durable", "lines", "cache", "sign_in"].into_iter().filter(|part| wanted(part)) {
        rows.extend(run(part, &place.path().join(part), 0, options));
    }
    for entries in sizes {
        let dir = place.path().join(entries.to_string());
        if !["grow", "load", "gateway"].into_iter().any(wanted) {
            continue;
        }
        // The others start from what it leaves.
        rows.extend(run("grow", &dir, entries, options));
        // The program on a hundred million: only when asked for by name, for it takes minutes.
        let others: &[&str] =
            if entries > HUGE && options.parts.is_empty() { &["load"] } else { &["load", "gateway"] };
        for part in others.iter().copied().filter(|part| wanted(part)) {
            rows.extend(run(part, &dir, entries, options));
        }
        let _ = std::fs::remove_dir_all(&dir);
    }
    println!("\n| what | entries | must reach | measured | |\n| --- | --- | --- | --- | --- |");
    rows.iter().for_each(|row| println!("{row}"));
}

/// Runs a part in a process of its own and gives its rows.
fn run(part: &str, dir: &Path, entries: u64, options: &Options) -> Vec<String> {
    std::fs::create_dir_all(dir).unwrap();
    eprintln!("--- {part}, {entries} entries");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([part, "--entries", &entries.to_string(), "--seconds", &options.seconds.to_string(), "--dir"])
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let rows = lines.map(Result::unwrap).inspect(|line| eprintln!("{line}")).collect();
    assert!(child.wait().unwrap().success(), "{part} failed");
    rows
}

fn one(part: &str, dir: &Path, entries: u64, options: &Options) {
    match part {
        "grow" => check::grow(dir, entries, options),
        "load" => check::load(dir, entries, options),
        "gateway" => gateway::measure(dir, entries, options),
        "durable" => durable::measure(dir, options),
        "lines" => durable::lines(dir),
        "verify" => verify::measure(dir),
        "sign_in" => sign_in::measure(dir, options),
        _ => tokens::measure(dir),
    }
}

/// Prints one row of the table.
pub(crate) fn row(what: &str, entries: u64, target: &str, measured: &str, remark: &str) {
    let entries = match entries {
        0 => String::new(),
        n if n % 1_000_000 == 0 => format!("{} M", n / 1_000_000),
        n => n.to_string(),
    };
    println!("| {what} | {entries} | {target} | {measured} | {remark} |");
}

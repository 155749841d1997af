//! `portcullis verify`: looks through a state directory, every file to its last byte, and changes nothing.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::Args;
use comfy_table::{Table, TableStyle};
use serde_json::{Value, json};

use super::{Common, Outcome, load, progress};
use crate::revocation::{self, OpenError, RealDisk, Verdict};

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The directory (default: [state] dir of the configuration).
    dir: Option<PathBuf>,
}

pub(super) fn run(common: &Common, what: &Verify) -> Outcome {
    let dir = match &what.dir {
        Some(dir) => dir.clone(),
        None => load(common)?.revocation.state_dir,
    };
    let disk = RealDisk::existing(&dir).with_context(|| format!("cannot look at {}", dir.display()))?;
    let spinner = progress::spinner("looking at every byte");
    let verdict = revocation::verify(&disk).map_err(anyhow::Error::from);
    spinner.finish_and_clear();
    let verdict = verdict?;
    if common.json {
        say!("{}", in_json(&verdict));
    } else {
        show(&verdict);
    }
    if verdict.is_good() {
        return Ok(());
    }
    let why = match &verdict.start {
        Ok(_) => "a gateway would start, but not every file is whole",
        Err(_) => "a gateway would not start",
    };
    Err(anyhow!("{}: {why}", dir.display()).into())
}

fn problem(problem: Option<&OpenError>) -> Option<String> {
    problem.map(told)
}

/// With what caused it, as far as that says more.
fn told(error: &OpenError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn in_json(verdict: &Verdict) -> Value {
    let segments = verdict.segments.iter().map(|segment| {
        json!({
            "file": segment.file, "bytes": segment.bytes, "first": segment.first, "last": segment.last,
            "frames": segment.frames, "torn_bytes": segment.torn_bytes,
            "problem": problem(segment.problem.as_ref()),
        })
    });
    let snapshots = verdict.snapshots.iter().map(|snapshot| {
        json!({
            "file": snapshot.file, "bytes": snapshot.bytes, "sequence": snapshot.position,
            "at": snapshot.taken_at.map(|at| at.rfc3339()),
            "entries": { "token": snapshot.entries[0], "session": snapshot.entries[1], "other": snapshot.entries[2] },
            "problem": problem(snapshot.problem.as_ref()),
        })
    });
    let start = match &verdict.start {
        Ok(load) => {
            let entries: serde_json::Map<String, Value> =
                load.counts.each().into_iter().map(|(kind, count)| (kind.to_owned(), count.into())).collect();
            json!({
                "ok": true, "gateway": load.gateway.map(|id| id.to_string()), "snapshot": load.snapshot,
                "replayed": load.replayed, "sequence": load.sequence, "entries": entries,
            })
        }
        Err(error) => json!({ "ok": false, "problem": told(error) }),
    };
    json!({
        "ok": verdict.is_good(), "dir": verdict.place, "in_use": verdict.in_use,
        "segments": segments.collect::<Vec<_>>(), "snapshots": snapshots.collect::<Vec<_>>(),
        "unfinished": verdict.unfinished, "start": start,
    })
}

fn show(verdict: &Verdict) {
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    table.set_header(["file", "bytes", "sequences", "entries", "verdict"]);
    for snapshot in &verdict.snapshots {
        table.add_row([
            snapshot.file.clone(),
            snapshot.bytes.to_string(),
            format!("up to {}", snapshot.position),
            snapshot.entries.iter().sum::<u64>().to_string(),
            problem(snapshot.problem.as_ref()).unwrap_or_else(|| "whole".to_owned()),
        ]);
    }
    for segment in &verdict.segments {
        let whole = match segment.torn_bytes {
            0 => "whole".to_owned(),
            bytes => format!("whole, then {bytes} bytes that were never acknowledged"),
        };
        table.add_row([
            segment.file.clone(),
            segment.bytes.to_string(),
            format!("{} to {}", segment.first, segment.last),
            (segment.last + 1).saturating_sub(segment.first).to_string(),
            problem(segment.problem.as_ref()).unwrap_or(whole),
        ]);
    }
    say!("{table}");
    for name in &verdict.unfinished {
        say!("{name} was never finished; the next start removes it");
    }
    if verdict.in_use {
        say!("a gateway is using {}: the end of its log may have moved on", verdict.place.display());
    }
    match &verdict.start {
        Ok(load) => {
            let from = load
                .snapshot
                .map_or_else(|| "no snapshot".to_owned(), |position| format!("the snapshot at {position}"));
            say!(
                "a start would load {from} and replay {} records: {} entries, sequence {}",
                load.replayed,
                load.counts.total(),
                load.sequence
            );
        }
        Err(error) => say!("a start would stop: {}", told(error)),
    }
}

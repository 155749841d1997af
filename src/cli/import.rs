//! `portcullis import`: revocations out of a file of JSON lines. Each batch of a million lines is whole or not there,
//! whatever happens; importing a file again changes nothing but the trail.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use anyhow::{Context, anyhow};
use clap::Args;
use serde_json::json;

use super::client::Admin;
use super::lines::{Batch, Lines};
use super::way::{Missing, Offline, Way};
use super::{Common, Outcome, load, progress};
use crate::admin::{Intake, IntakeError, Live, Lookup, live_of, token_of};
use crate::app;
use crate::clock::UnixTime;
use crate::config::Settings;
use crate::issuer::Issuers;
use crate::revocation::{Revocation, Selector};
use crate::store::StoreError;

/// Lines of one batch: each may bring its subject's live sessions with it, and a batch may have two million entries.
const BATCH_LINES: u64 = 1_000_000;

#[derive(Debug, Args)]
pub(super) struct Import {
    /// Lines of JSON as POST /admin/revocations takes them; `-` is standard input.
    file: String,
}

/// What came of it.
#[derive(Default)]
struct Imported {
    accepted: u64,
    skipped: u64,
    sequence: u64,
}

pub(super) fn run(common: &Common, what: &Import) -> Outcome {
    let settings = load(common)?;
    let started = Instant::now();
    let lines = Lines::open(&what.file)?;
    let way = Way::to(&settings, Missing::Make)?;
    let offline = matches!(way, Way::Offline(_));
    let imported = match way {
        Way::Gateway(admin) => through(&admin, &what.file, lines)?,
        Way::Offline(offline) => {
            let imported = directly(&offline, &settings, &what.file, lines);
            offline.close();
            imported?
        }
    };
    let Imported { accepted, skipped, sequence } = imported;
    if common.json {
        let told = json!({
            "accepted": accepted, "skipped": skipped, "sequence": sequence, "offline": offline,
        });
        say!("{told}");
    } else {
        let passed_over =
            if skipped > 0 { format!(", passed over {skipped} that have expired") } else { String::new() };
        let took = started.elapsed().as_secs_f32();
        say!("imported {accepted} revocations{passed_over} in {took:.1} s (sequence {sequence})");
    }
    Ok(())
}

/// Through the admin listener, one request a batch.
fn through(admin: &Admin, file: &str, lines: Lines) -> anyhow::Result<Imported> {
    let lines = Arc::new(Mutex::new(lines));
    let locked = || lines.lock().unwrap_or_else(PoisonError::into_inner);
    let mut imported = Imported::default();
    loop {
        if locked().is_over().with_context(|| format!("cannot read {file}"))? {
            return Ok(imported);
        }
        let before = locked().given();
        let batch = Batch { lines: lines.clone(), left: BATCH_LINES };
        let answer = admin
            .post_lines("/admin/revocations?expired=skip", batch)
            .map_err(|error| counted(error, before).context(stopped(file, before)))?;
        let number = |name: &str| answer[name].as_u64().unwrap_or_default();
        imported.accepted += number("accepted");
        imported.skipped += number("skipped");
        imported.sequence = number("sequence");
    }
}

/// On the state directory itself.
fn directly(
    offline: &Offline,
    settings: &Settings,
    file: &str,
    mut lines: Lines,
) -> anyhow::Result<Imported> {
    let local = Local { offline, settings, issuers: OnceLock::new() };
    let mut imported = Imported::default();
    while !lines.is_over().with_context(|| format!("cannot read {file}"))? {
        let before = lines.given();
        let scope = app::revocation_scope(settings);
        let mut intake = Intake::new(scope, "", Offline::now(), true, &local).behind(before);
        let mut batch = || -> anyhow::Result<u64> {
            let mut bulk = offline.log.bulk().context("cannot write to the state directory")?;
            let mut push = |entries: Vec<Revocation>| Ok::<_, IntakeError>(bulk.push(entries)?);
            let mut left = BATCH_LINES;
            while let Some(piece) = lines.piece(&mut left)? {
                intake.feed(&piece, &mut push)?;
            }
            intake.finish(&mut push)?;
            Ok(offline.runtime.block_on(bulk.commit())?.sequence)
        };
        imported.sequence = batch().map_err(|error| error.context(stopped(file, before)))?;
        imported.accepted += intake.accepted();
        imported.skipped += intake.skipped();
    }
    drop(lines);
    if imported.accepted > 0 {
        settle(offline)?;
    }
    Ok(imported)
}

/// Who, when and why goes to the store now, and a snapshot is taken, so that the next start has nothing to make up for.
fn settle(offline: &Offline) -> anyhow::Result<()> {
    let bar = progress::count("audit trail", offline.log.sequence());
    let fed = offline.feed_trail(&bar);
    bar.finish_and_clear();
    if let Err(error) = fed {
        // They are in the log, which keeps them until the trail has them.
        eprintln!("portcullis: warning: {error:#}; the gateway goes on with it when it starts");
    }
    let spinner = progress::spinner("snapshot");
    let taken = offline.runtime.block_on(offline.log.snapshot());
    spinner.finish_and_clear();
    taken.map_err(|error| anyhow!(error).context("imported, but no snapshot could be taken")).map(drop)
}

/// What holds when it stopped in the batch behind so many lines.
fn stopped(file: &str, before: u64) -> String {
    match before {
        0 => format!("nothing of {file} was imported"),
        _ => format!("of {file} only lines 1 to {before} were imported"),
    }
}

/// A gateway counts lines from the beginning of its request; here they count from the beginning of the file.
fn counted(error: anyhow::Error, before: u64) -> anyhow::Error {
    let words = error.to_string();
    let found = words.split_once(": line ").and_then(|(status, rest)| {
        let (line, rest) = rest.split_once(':')?;
        Some(anyhow!("{status}: line {}:{rest}", line.parse::<u64>().ok()? + before))
    });
    found.unwrap_or(error)
}

/// What a line may ask, without a gateway.
struct Local<'a> {
    offline: &'a Offline,
    settings: &'a Settings,
    issuers: OnceLock<Result<Issuers, String>>,
}

impl Lookup for Local<'_> {
    fn live_of(&self, subject: &str, now: UnixTime) -> Result<Vec<Live>, StoreError> {
        let Offline { store, log, runtime, .. } = self.offline;
        runtime.block_on(live_of(&**store, log.blocklist(), subject, now))
    }

    fn token(&self, text: &str, now: UnixTime) -> Result<(Selector, UnixTime), String> {
        let load = || self.offline.issuers(self.settings).map_err(|error| format!("{error:#}"));
        let issuers = self.issuers.get_or_init(load).as_ref().map_err(Clone::clone)?;
        token_of(issuers, text, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_later_batch_is_named_as_the_file_counts() {
        let check = |words: &'static str, expected: &str| {
            assert_eq!(counted(anyhow!(words), 1_000_000).to_string(), expected);
        };
        check("400: line 7: 'kind' is missing: x", "400: line 1000007: 'kind' is missing: x");
        check("503: the disk is full", "503: the disk is full");
        check("400: line x: y", "400: line x: y");
    }
}

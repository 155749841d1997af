//! `portcullis export`: every revocation in force as a line of JSON that `import` takes, oldest first, so that what is
//! exported, imported and exported again is the same.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use super::way::{Missing, PAGE_ROWS_MAX, Wanted, Way};
use super::{Common, Outcome, load, progress};

#[derive(Debug, Args)]
pub(super) struct Export {
    /// Where the lines go; `-` is standard output.
    file: String,
}

/// One line, in the spelling of `POST /admin/revocations`.
#[derive(Serialize)]
struct Line<'a> {
    kind: &'a str,
    value: &'a str,
    issuer: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_before: Option<&'a str>,
    expires_at: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
}

pub(super) fn run(common: &Common, what: &Export) -> Outcome {
    let settings = load(common)?;
    let way = Way::to(&settings, Missing::Refuse)?;
    let written = write(&way, &what.file);
    way.close();
    let (count, missing) = written?;
    if missing > 0 {
        // Memory holds digests: what the trail does not name cannot be named any more.
        return Err(anyhow!(
            "exported {count} revocations, but {missing} more are in force that the audit trail does not name"
        )
        .into());
    }
    match (common.json, what.file.as_str()) {
        (true, "-") => eprintln!("{}", json!({ "exported": count })),
        (true, _) => say!("{}", json!({ "exported": count })),
        (false, "-") => {}
        (false, file) => say!("exported {count} revocations to {file}"),
    }
    Ok(())
}

/// How many were written, and how many more are in force.
fn write(way: &Way, file: &str) -> anyhow::Result<(u64, u64)> {
    let mut out = Output::open(file).with_context(|| format!("cannot write {file}"))?;
    let before = way.entries()?;
    let bar = progress::count("exporting", before);
    let wanted = Wanted { in_force: true, oldest_first: true, ..Wanted::default() };
    let (mut after, mut count) = (None, 0);
    loop {
        let (rows, next) = way.page(&wanted, after, PAGE_ROWS_MAX)?;
        for row in &rows {
            let written = out.line(row);
            if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
                return Ok((count, 0)); // whoever reads has enough
            }
            written.with_context(|| format!("cannot write {file}"))?;
            count += 1;
        }
        bar.set_position(count);
        after = next;
        if next.is_none() {
            break;
        }
    }
    bar.finish_and_clear();
    out.finish().with_context(|| format!("cannot write {file}"))?;
    // Others may come and go while we read; what was there all the time must be in it.
    let all_the_time = before.min(way.entries()?);
    Ok((count, all_the_time.saturating_sub(count)))
}

/// A file that is whole or not there, for its owner alone; or standard output, or whatever else is there already.
struct Output {
    to: BufWriter<Box<dyn Write>>,
    rename: Option<(PathBuf, PathBuf)>,
    sync: Option<File>,
}

impl Output {
    fn open(path: &str) -> io::Result<Self> {
        if path == "-" {
            let to = BufWriter::new(Box::new(io::stdout().lock()) as Box<dyn Write>);
            return Ok(Self { to, rename: None, sync: None });
        }
        let path = Path::new(path);
        if path.exists() && !path.is_file() {
            let to = BufWriter::new(Box::new(OpenOptions::new().write(true).open(path)?) as Box<dyn Write>);
            return Ok(Self { to, rename: None, sync: None });
        }
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        let sync = Some(file.try_clone()?);
        let to = BufWriter::with_capacity(1 << 18, Box::new(file) as Box<dyn Write>);
        Ok(Self { to, rename: Some((temporary, path.to_owned())), sync })
    }

    fn line(&mut self, row: &Value) -> io::Result<()> {
        let text = |name: &str| row[name].as_str().unwrap_or_default();
        let line = Line {
            kind: text("kind"),
            value: text("value"),
            issuer: text("issuer"),
            issued_before: row["issued_before"].as_str(),
            expires_at: text("expires_at"),
            reason: text("reason"),
        };
        serde_json::to_writer(&mut self.to, &line)?;
        self.to.write_all(b"\n")
    }

    fn finish(mut self) -> io::Result<()> {
        self.to.flush()?;
        if let Some(file) = &self.sync {
            file.sync_all()?;
        }
        self.rename.take().map_or(Ok(()), |(from, to)| std::fs::rename(from, to))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some((temporary, _)) = &self.rename {
            let _ = std::fs::remove_file(temporary);
        }
    }
}

//! `portcullis users import`: a CSV or NDJSON file, in small batches. Each line is an account or nothing; what is wrong
//! is told with its line, and an email that has an account is passed over, so the same file can be imported again.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use anyhow::{Context, anyhow};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use http_body_util::Full;
use indicatif::ProgressBar;
use serde_json::{Map, Value, json};

use super::client::Admin;
use super::revocations::words;
use super::{Common, progress};

/// Accounts of one request: with passwords in plain a hash each has to be computed within the patience for an answer.
const BATCH_LINES: usize = 100;
/// The most bytes of one line: as much as the gateway takes of one account.
const LINE_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, Args)]
pub(super) struct Import {
    /// The file; `-` is standard input.
    file: String,
    /// What it is (default: by its name, `.csv` or else NDJSON).
    #[arg(long)]
    format: Option<Format>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A header line with the names of the members; empty cells are left out.
    Csv,
    /// A JSON object a line, as POST /admin/users takes it.
    Ndjson,
}

/// What came of it.
#[derive(Default)]
struct Imported {
    created: u64,
    skipped: u64,
    failed: u64,
}

/// Lines with their numbers in the file.
type Line = (u64, Vec<u8>);

pub(super) fn run(common: &Common, admin: &Admin, what: &Import) -> anyhow::Result<()> {
    let cannot = || format!("cannot read {}", what.file);
    let (input, bytes): (Box<dyn Read>, _) = if what.file == "-" {
        (Box::new(io::stdin()), None)
    } else {
        let file = File::open(&what.file).with_context(cannot)?;
        let bytes = file.metadata().with_context(cannot)?.len();
        (Box::new(file), Some(bytes))
    };
    let bar = progress::bytes("importing", bytes);
    let input = BufReader::new(bar.wrap_read(input));
    let csv = what.format.map_or(what.file.ends_with(".csv"), |format| format == Format::Csv);
    let mut imported = Imported::default();
    let done = if csv {
        of_csv(input, &mut |batch| send(common, admin, &what.file, &bar, batch, &mut imported))
    } else {
        of_ndjson(input, &mut |batch| send(common, admin, &what.file, &bar, batch, &mut imported))
    };
    bar.finish_and_clear();
    let Imported { created, skipped, failed } = imported;
    done.with_context(|| {
        format!("stopped after {created} users were created; those are there, and the same file can be imported again")
    })?;
    if common.json {
        say!("{}", json!({ "created": created, "skipped": skipped, "failed": failed }));
    } else {
        say!("created {created} users, passed over {skipped} that were there already");
    }
    if failed > 0 {
        return Err(anyhow!("{failed} lines of {} made no user", what.file));
    }
    Ok(())
}

fn of_ndjson(
    mut input: impl BufRead,
    send: &mut dyn FnMut(Vec<Line>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut batch = Vec::new();
    for number in 1.. {
        let mut line = Vec::new();
        let count = input.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line)?;
        if count == 0 {
            break;
        }
        if count as u64 > LINE_BYTES_MAX {
            return Err(anyhow!("line {number} is longer than {LINE_BYTES_MAX} bytes"));
        }
        let line = line.trim_ascii();
        if !line.is_empty() {
            batch.push((number, line.to_vec()));
        }
        if batch.len() == BATCH_LINES {
            send(std::mem::take(&mut batch))?;
        }
    }
    if batch.is_empty() { Ok(()) } else { send(batch) }
}

fn of_csv(input: impl Read, send: &mut dyn FnMut(Vec<Line>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::Headers).from_reader(input);
    let names = reader.headers()?.clone();
    if !names.iter().any(|name| name == "email") {
        return Err(anyhow!("the first line names no column \"email\""));
    }
    if let Some(twice) =
        names.iter().enumerate().find(|(at, name)| names.iter().take(*at).any(|n| n == *name))
    {
        return Err(anyhow!("the first line names the column \"{}\" twice", twice.1));
    }
    let mut batch = Vec::new();
    for record in reader.records() {
        // Its words name the line, and no cell.
        let record = record?;
        let number = record.position().map_or(0, csv::Position::line);
        let mut user = Map::new();
        for (name, cell) in names.iter().zip(&record).filter(|(_, cell)| !cell.is_empty()) {
            let value = match (name, cell.to_ascii_lowercase().as_str()) {
                ("disabled", "true" | "t" | "yes" | "1") => json!(true),
                ("disabled", "false" | "f" | "no" | "0") => json!(false),
                _ => json!(cell),
            };
            user.insert(name.to_owned(), value);
        }
        batch.push((number, Value::Object(user).to_string().into_bytes()));
        if batch.len() == BATCH_LINES {
            send(std::mem::take(&mut batch))?;
        }
    }
    if batch.is_empty() { Ok(()) } else { send(batch) }
}

fn send(
    common: &Common,
    admin: &Admin,
    file: &str,
    bar: &ProgressBar,
    batch: Vec<Line>,
    imported: &mut Imported,
) -> anyhow::Result<()> {
    let body = batch.iter().flat_map(|(_, line)| line.iter().copied().chain([b'\n'])).collect::<Vec<u8>>();
    let answer = admin.post_lines("/admin/users", Full::new(Bytes::from(body)))?;
    let number = |name: &str| answer[name].as_u64().unwrap_or_default();
    imported.created += number("created");
    imported.skipped += number("skipped");
    for error in answer["errors"].as_array().into_iter().flatten() {
        imported.failed += 1;
        let place = error["line"].as_u64().and_then(|line| usize::try_from(line - 1).ok());
        let line = place.and_then(|place| batch.get(place)).map_or(0, |(number, _)| *number);
        let detail = words(&error["detail"]);
        bar.suspend(|| match common.json {
            true => eprintln!("{}", json!({ "line": line, "error": detail })),
            false => eprintln!("{file}:{line}: {detail}"),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(csv: bool, text: &str) -> Result<Vec<(u64, String)>, String> {
        let mut all = Vec::new();
        let mut send = |batch: Vec<Line>| {
            assert!(batch.len() <= BATCH_LINES);
            all.extend(batch.into_iter().map(|(number, line)| (number, String::from_utf8(line).unwrap())));
            Ok(())
        };
        let done =
            if csv { of_csv(text.as_bytes(), &mut send) } else { of_ndjson(text.as_bytes(), &mut send) };
        done.map_err(|error| format!("{error:#}")).map(|()| all)
    }

    #[test]
    fn cells_become_members_and_lines_keep_their_numbers() {
        let text = "email, username ,disabled\na@x.de,\"Ada, L\",no\n\"b@x.de\",\"two\nlines\",\nc@x.de,,1\n";
        let lines = batches(true, text).unwrap();
        assert_eq!(lines[0], (2, r#"{"disabled":false,"email":"a@x.de","username":"Ada, L"}"#.to_owned()));
        assert_eq!(lines[1].1, r#"{"email":"b@x.de","username":"two\nlines"}"#);
        assert_eq!(lines[2], (5, r#"{"disabled":true,"email":"c@x.de"}"#.to_owned()));
        assert!(batches(true, "mail,name\n").unwrap_err().contains("\"email\""));
        assert!(batches(true, "email,x,x\n").unwrap_err().contains("twice"));
        assert!(batches(true, "email,x\na@x.de\n").unwrap_err().contains("line: 2"));
    }

    #[test]
    fn lines_of_any_number_go_in_batches() {
        let text: String = (0..250).map(|n| format!("{{\"n\":{n}}}\n\n")).collect();
        let lines = batches(false, text.trim_end()).unwrap();
        assert_eq!((lines.len(), lines[249].0), (250, 499));
        assert!(batches(false, &"x".repeat(70_000)).unwrap_err().contains("line 1 is longer"));
    }
}

//! `portcullis snapshot`: takes one now, in the running gateway or on its state directory.

use anyhow::{Context, anyhow};
use http::Method;
use serde_json::{Value, json};

use super::way::{Missing, Way};
use super::{Common, Outcome, load, progress};

pub(super) fn run(common: &Common) -> Outcome {
    let settings = load(common)?;
    let way = Way::to(&settings, Missing::Refuse)?;
    let spinner = progress::spinner("snapshot");
    let taken = take(&way);
    spinner.finish_and_clear();
    way.close();
    let report = taken?;
    if common.json {
        say!("{report}");
    } else {
        say!(
            "snapshot at sequence {}: {} entries, {} bytes; {} segments of the log went",
            report["sequence"],
            report["entries"],
            report["bytes"],
            report["segments_removed"]
        );
    }
    Ok(())
}

fn take(way: &Way) -> anyhow::Result<Value> {
    match way {
        Way::Gateway(admin) => admin.call(Method::POST, "/admin/snapshot", None),
        Way::Offline(offline) => {
            // Segments that the trail has not seen would have to stay.
            if let Err(error) = offline.feed_trail(&indicatif::ProgressBar::hidden()) {
                eprintln!("portcullis: warning: {error:#}");
            }
            let report = offline.runtime.block_on(offline.log.snapshot());
            let report = report.map_err(|error| anyhow!(error)).context("no snapshot was taken")?;
            Ok(json!({
                "sequence": report.sequence, "entries": report.entries, "bytes": report.bytes,
                "segments_removed": report.segments_removed,
            }))
        }
    }
}

//! `portcullis fleet`: every gateway of the fleet, its lag and age, as the running gateway tells of them.

use comfy_table::{Table, TableStyle};
use serde_json::Value;

use super::client::Admin;
use super::revocations::words;
use super::{Common, Outcome, load};
use crate::clock::UnixTime;

pub(super) fn run(common: &Common) -> Outcome {
    let settings = load(common)?;
    let answer = Admin::of(&settings)?.get("/admin/fleet")?;
    if common.json {
        say!("{answer}");
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    table.set_header(["gateway", "host", "version", "state", "lag", "outbox", "heard", "up", "position"]);
    let rows = answer["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    for row in rows {
        let own = if row["self"] == true { " *" } else { "" };
        let up = age(&row["beat_at"], &row["started_at"]);
        table.add_row([
            format!("{}{own}", words(&row["gateway"])),
            words(&row["host"]),
            words(&row["version"]),
            words(&row["state"]),
            span(row["lag_ms"].as_u64()),
            words(&row["outbox"]),
            format!("{} ago", span(row["silent_ms"].as_u64())),
            up,
            words(&row["position"]),
        ]);
    }
    say!("{table}");
    let ready = rows.iter().filter(|row| row["state"] == "ready").count();
    say!("{ready} of {} ready; * is this gateway", rows.len());
    Ok(())
}

/// A span for people: two digits are enough.
fn span(millis: Option<u64>) -> String {
    match millis {
        None => "?".to_owned(),
        Some(millis @ 0..1_000) => format!("{millis} ms"),
        Some(millis @ 1_000..120_000) => format!("{} s", millis / 1_000),
        Some(millis @ 120_000..7_200_000) => format!("{} min", millis / 60_000),
        Some(millis @ 7_200_000..172_800_000) => format!("{} h", millis / 3_600_000),
        Some(millis) => format!("{} d", millis / 86_400_000),
    }
}

/// How long after `start` a gateway said so itself.
fn age(end: &Value, start: &Value) -> String {
    let at = |value: &Value| UnixTime::parse_rfc3339(value.as_str()?);
    match (at(end), at(start)) {
        (Some(end), Some(start)) => span(Some(end.millis().saturating_sub(start.millis()))),
        _ => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_in_the_unit_that_fits() {
        let told =
            [0, 999, 1_000, 119_999, 120_000, 7_199_999, 7_200_000, 172_800_000].map(|ms| span(Some(ms)));
        assert_eq!(told, ["0 ms", "999 ms", "1 s", "119 s", "2 min", "119 min", "2 h", "2 d"]);
    }
}

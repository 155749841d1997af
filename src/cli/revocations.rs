//! `portcullis revoke` and `unrevoke`, through the admin listener; `list`, also without a gateway.

use clap::Args;
use comfy_table::{Table, TableStyle};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::client::Admin;
use super::way::{Missing, PAGE_ROWS_MAX, Wanted, Way};
use super::{Common, Failure, Outcome, load};
use crate::revocation::Kind;

#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// token, session, subject, client, key, issuer or claim:NAME.
    kind: String,
    /// The value; for kind issuer the issuer's name.
    value: String,
    /// The issuer's name in the configuration (default: self, or the only one there is).
    #[arg(long)]
    issuer: Option<String>,
    /// Refuse tokens issued before this: "now", Unix seconds or RFC 3339 (not for token and session).
    #[arg(long, value_name = "TIME")]
    issued_before: Option<String>,
    /// When the entry can be forgotten: Unix seconds or RFC 3339.
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    /// Why, for the audit trail.
    #[arg(long)]
    reason: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Unrevoke {
    /// token, session, subject, client, key, issuer or claim:NAME.
    kind: String,
    /// The value; for kind issuer the issuer's name.
    value: String,
    /// The issuer's name in the configuration (default: self, or the only one there is).
    #[arg(long)]
    issuer: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Only this kind.
    #[arg(long)]
    kind: Option<String>,
    /// Only this value.
    #[arg(long)]
    value: Option<String>,
    /// Only this issuer.
    #[arg(long)]
    issuer: Option<String>,
    /// Only entries after this sequence.
    #[arg(long)]
    since: Option<u64>,
    /// At most so many.
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

pub(super) fn revoke(common: &Common, what: &Revoke) -> Outcome {
    known(&what.kind)?;
    let settings = load(common)?;
    let mut item = Map::new();
    item.insert("kind".into(), json!(what.kind));
    item.insert("value".into(), json!(what.value));
    let optional = [("issuer", &what.issuer), ("reason", &what.reason)];
    for (name, value) in optional {
        if let Some(value) = value {
            item.insert(name.into(), json!(value));
        }
    }
    for (name, time) in [("issued_before", &what.issued_before), ("expires_at", &what.expires_at)] {
        if let Some(time) = time {
            // Whole seconds go as a number, anything else as the text that the gateway judges.
            item.insert(name.into(), time.parse::<u64>().map_or_else(|_| json!(time), |secs| json!(secs)));
        }
    }
    let answer =
        Admin::of(&settings)?.call(Method::POST, "/admin/revocations", Some(&Value::Object(item)))?;
    if common.json {
        say!("{answer}");
    } else {
        say!("revoked {} {} (sequence {})", what.kind, what.value, answer["sequence"]);
    }
    Ok(())
}

pub(super) fn unrevoke(common: &Common, what: &Unrevoke) -> Outcome {
    known(&what.kind)?;
    let settings = load(common)?;
    let mut path = format!("/admin/revocations/{}/{}", encoded(&what.kind), encoded(&what.value));
    if let Some(issuer) = &what.issuer {
        path = format!("{path}?issuer={}", encoded(issuer));
    }
    let answer = Admin::of(&settings)?.call(Method::DELETE, &path, None)?;
    if common.json {
        say!("{answer}");
        return Ok(());
    }
    say!("unrevoked {} {} (sequence {})", what.kind, what.value, answer["sequence"]);
    for still in answer["still_refused_by"].as_array().into_iter().flatten() {
        say!("still refused by {} {}", words(&still["kind"]), words(&still["value"]));
    }
    Ok(())
}

pub(super) fn list(common: &Common, what: &List) -> Outcome {
    if let Some(kind) = &what.kind {
        known(kind)?;
    }
    let settings = load(common)?;
    let way = Way::to(&settings, Missing::Refuse)?;
    let wanted = Wanted {
        kind: what.kind.clone(),
        value: what.value.clone(),
        issuer: what.issuer.clone(),
        since: what.since,
        ..Wanted::default()
    };
    let mut rows = Vec::new();
    let mut after = None;
    while rows.len() < what.limit {
        let (page, next) = way.page(&wanted, after, (what.limit - rows.len()).min(PAGE_ROWS_MAX))?;
        rows.extend(page);
        after = next;
        if next.is_none() {
            break;
        }
    }
    way.close();
    if common.json {
        say!("{}", json!({ "data": rows }));
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    table.set_header(["sequence", "at", "", "kind", "value", "issuer", "expires", "actor", "reason"]);
    for row in &rows {
        let action = if row["lift"] == json!(true) { "unrevoke" } else { "revoke" };
        table.add_row([
            row["sequence"].to_string(),
            words(&row["at"]),
            action.to_owned(),
            words(&row["kind"]),
            words(&row["value"]),
            words(&row["issuer"]),
            words(&row["expires_at"]),
            words(&row["actor"]),
            words(&row["reason"]),
        ]);
    }
    say!("{table}");
    Ok(())
}

/// A misspelt kind is bad usage, said before anything is asked of the gateway.
fn known(kind: &str) -> Result<(), Failure> {
    kind.parse::<Kind>().map(|_| ()).map_err(|error| Failure::Usage(format!("portcullis: {error}")))
}

pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// A string for a terminal: no control characters of whoever chose it.
pub(super) fn words(value: &Value) -> String {
    let text = value.as_str().unwrap_or_default();
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

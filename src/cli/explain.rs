//! `portcullis explain`: what would become of a request with this token, by the running gateway.

use std::io::Read as _;

use anyhow::Context;
use clap::Args;
use comfy_table::{Table, TableStyle};
use http::Method;
use serde_json::{Map, json};

use super::client::Admin;
use super::revocations::words;
use super::{Common, Outcome, load};

/// More than any token that could be taken.
const TOKEN_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The token; `-` reads it from standard input, where nobody sees it among the processes.
    token: String,
    /// Of the request (default: GET).
    #[arg(long, requires = "path")]
    method: Option<String>,
    /// Of the request (default: localhost).
    #[arg(long, requires = "path")]
    host: Option<String>,
    /// Of the request; without one the token alone is judged.
    #[arg(long)]
    path: Option<String>,
}

pub(super) fn run(common: &Common, what: &Explain) -> Outcome {
    let settings = load(common)?;
    let mut token = what.token.clone();
    if token == "-" {
        token.clear();
        std::io::stdin()
            .take(TOKEN_BYTES_MAX)
            .read_to_string(&mut token)
            .context("cannot read the token from standard input")?;
    }
    let mut asked = Map::new();
    asked.insert("token".into(), json!(token.trim()));
    for (name, value) in [("method", &what.method), ("host", &what.host), ("path", &what.path)] {
        if let Some(value) = value {
            asked.insert(name.into(), json!(value));
        }
    }
    let answer = Admin::of(&settings)?.call(Method::POST, "/admin/explain", Some(&asked.into()))?;
    if common.json {
        say!("{answer}");
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    table.set_header(["", "step", "detail"]);
    for step in answer["steps"].as_array().into_iter().flatten() {
        let mark = if step["ok"] == json!(true) { "ok" } else { "NO" };
        table.add_row([mark.to_owned(), words(&step["step"]), words(&step["detail"])]);
    }
    say!("{table}");
    match answer["code"].as_str() {
        Some(code) => say!("verdict: {} ({code})", words(&answer["verdict"])),
        None => say!("verdict: {}", words(&answer["verdict"])),
    }
    Ok(())
}

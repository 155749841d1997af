//! `portcullis keys`: our own keys, through the admin listener, or on the state directory when no gateway holds it.

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use comfy_table::{Table, TableStyle};
use http::Method;
use serde_json::{Value, json};

use super::client::Admin;
use super::revocations::{encoded, words};
use super::way::{Missing, Offline, Way};
use super::{Common, Outcome, input, load};
use crate::admin::{duration, imported_key, key_revocation, keys_shown};
use crate::clock::UnixTime;
use crate::config::Settings;
use crate::issuer::Keyring;
use crate::issuer::settings::Own;

#[derive(Debug, Args)]
pub(super) struct Keys {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List them, newest first (the default).
    List,
    /// Let a new key sign; the others verify until the overlap ends.
    Rotate {
        /// How long the others verify, such as "36h" (default: as long as the longest token lives).
        #[arg(long, value_name = "DURATION")]
        overlap: Option<String>,
    },
    /// Let a key verify no more, from the next request on.
    Retire {
        /// Its id.
        kid: String,
        /// Revoke its tokens too, so that importing it again does not revive them.
        #[arg(long)]
        revoke: bool,
        /// Why, for the audit trail.
        #[arg(long, requires = "revoke")]
        reason: Option<String>,
    },
    /// Take in a private key: PEM or a JWK.
    Import {
        /// The file; `-` is standard input.
        file: String,
        /// What it signs with (default: what it says itself, else the configured algorithm if it fits).
        #[arg(long)]
        algorithm: Option<String>,
    },
}

pub(super) fn run(common: &Common, what: &Keys) -> Outcome {
    let settings = load(common)?;
    let action = what.action.as_ref().unwrap_or(&Action::List);
    let request = request(action)?;
    let way = Way::to(&settings, Missing::Refuse)?;
    let answer = match &way {
        Way::Gateway(admin) => through(admin, action, &request),
        Way::Offline(offline) => directly(offline, &settings, action, &request),
    };
    way.close();
    tell(common, action, &answer?);
    Ok(())
}

/// The body of the request that does it.
fn request(action: &Action) -> anyhow::Result<Value> {
    Ok(match action {
        Action::List => Value::Null,
        Action::Rotate { overlap } => {
            let overlap = overlap.as_ref().map(|text| match text.parse::<u64>() {
                Ok(seconds) => json!(seconds),
                Err(_) => json!(text),
            });
            json!({ "overlap": overlap })
        }
        Action::Retire { revoke, reason, .. } => json!({ "revoke": revoke, "reason": reason }),
        Action::Import { file, algorithm } => {
            let text = input::text(file)?;
            let key = if text.trim_start().starts_with('{') {
                // The parser's own message might quote the key.
                serde_json::from_str(&text).map_err(|_| anyhow!("{file} is no well-formed JWK"))?
            } else {
                json!(*text)
            };
            json!({ "key": key, "algorithm": algorithm })
        }
    })
}

fn through(admin: &Admin, action: &Action, request: &Value) -> anyhow::Result<Value> {
    match action {
        Action::List => admin.get("/admin/keys?limit=1000"),
        Action::Rotate { .. } => admin.call(Method::POST, "/admin/keys/rotate", Some(request)),
        Action::Retire { kid, .. } => {
            admin.call(Method::POST, &format!("/admin/keys/{}/retire", encoded(kid)), Some(request))
        }
        Action::Import { .. } => admin.call(Method::POST, "/admin/keys/import", Some(request)),
    }
}

/// On the files, which nobody else changes while the directory is held, or on the store that gateways share.
fn directly(
    offline: &Offline,
    settings: &Settings,
    action: &Action,
    request: &Value,
) -> anyhow::Result<Value> {
    let auth = settings.auth.as_ref().context("the gateway issues no tokens: [auth] is off")?;
    let own = &auth.own;
    let now = Offline::now();
    let (keyring, kid) = match offline.shared_keys(settings)? {
        Some(shared) => offline
            .runtime
            .block_on(shared.keys.change(|keyring| changed(keyring, own, action, request, now)))?,
        None => changed(&Keyring::open(&own.keys_dir, own.algorithm, now)?, own, action, request, now)?,
    };
    let Some(kid) = kid else { return Ok(keys_shown(&keyring, now)) };
    if let Action::Retire { revoke: true, reason, .. } = action {
        let longest = own.refresh_ttl.max(own.access_ttl);
        let reason = reason.as_deref().unwrap_or("key retired");
        let entry = key_revocation(&kid, longest, reason, "", Offline::now());
        offline
            .runtime
            .block_on(offline.log.append(vec![entry]))
            .context("the key is retired, but its tokens are not revoked; do it again")?;
    }
    let mut shown = keys_shown(&keyring, now);
    let rows = shown["data"].as_array_mut().map(std::mem::take).unwrap_or_default();
    let mut row = rows.into_iter().find(|row| row["kid"] == *kid).unwrap_or_default();
    row["signing"] = keyring.signing_key().id().into();
    Ok(row)
}

/// The keys after the action, and the id of the one that it was about.
fn changed(
    keyring: &Keyring,
    own: &Own,
    action: &Action,
    request: &Value,
    now: UnixTime,
) -> anyhow::Result<(Keyring, Option<String>)> {
    Ok(match action {
        Action::List => (keyring.clone(), None),
        Action::Rotate { .. } => {
            let overlap = Some(&request["overlap"]).filter(|overlap| !overlap.is_null());
            let overlap = overlap.map(duration).transpose().map_err(|error| anyhow!(error))?;
            let longest = own.refresh_ttl.max(own.access_ttl);
            let keyring = keyring.rotate(now.plus(overlap.unwrap_or(longest)), now)?;
            let kid = keyring.signing_key().id().to_owned();
            (keyring, Some(kid))
        }
        Action::Retire { kid, .. } => (keyring.retire(kid, now)?, Some(kid.clone())),
        Action::Import { .. } => {
            let key = imported_key(request.to_string().as_bytes(), own.algorithm);
            let key = key.map_err(|error| anyhow!(error))?;
            let kid = key.id().to_owned();
            (keyring.import(key, now)?, Some(kid))
        }
    })
}

fn tell(common: &Common, action: &Action, answer: &Value) {
    if common.json {
        say!("{answer}");
        return;
    }
    let (kid, signing) = (words(&answer["kid"]), words(&answer["signing"]));
    match action {
        Action::List => {
            let mut table = Table::new();
            table.load_style(TableStyle::new());
            table.set_header(["kid", "algorithm", "state", "created", "verifies until"]);
            for row in answer["data"].as_array().into_iter().flatten() {
                let until = if row["retired"].is_null() { &row["not_after"] } else { &row["retired"] };
                table.add_row([
                    words(&row["kid"]),
                    words(&row["algorithm"]),
                    words(&row["state"]),
                    words(&row["created"]),
                    words(until),
                ]);
            }
            say!("{table}");
        }
        Action::Rotate { .. } => say!("{kid} signs now; the others verify until their overlap ends"),
        Action::Retire { revoke, .. } => {
            let revoked = if *revoke { ", and its tokens are revoked" } else { "" };
            say!("{kid} is retired{revoked}; {signing} signs");
        }
        Action::Import { .. } => say!("{kid} verifies now; {signing} signs"),
    }
}

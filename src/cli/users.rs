//! `portcullis users`: accounts, through the admin listener.

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use comfy_table::{Table, TableStyle};
use http::Method;
use serde_json::{Map, Value, json};

use super::client::Admin;
use super::revocations::{encoded, words};
use super::way::PAGE_ROWS_MAX;
use super::{Common, Outcome, input, load, user_import};

#[derive(Debug, Args)]
pub(super) struct Users {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List them in the order of their emails (the default).
    List {
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Only the one with this email.
        #[arg(long)]
        email: Option<String>,
    },
    /// Make one. The password is asked for, or read from a file or standard input.
    Create(Create),
    /// Nobody signs in to it any more, and what it has is revoked.
    Disable(Whom),
    /// It may sign in again.
    Enable(Whom),
    /// Revoke everything that was issued to it; it may sign in again.
    Revoke(Whom),
    /// Set its password, and revoke everything that was issued to it.
    Password {
        #[command(flatten)]
        whom: Whom,
        /// Read the password from this file (`-`: standard input).
        #[arg(long, value_name = "FILE")]
        password_file: Option<String>,
    },
    /// Revoke everything, and forget it.
    Delete(Whom),
    /// Make one of each line of a CSV or NDJSON file; those that are there already are passed over.
    Import(user_import::Import),
}

#[derive(Debug, Args)]
struct Whom {
    /// Id or email.
    user: String,
    /// Why, for the audit trail.
    #[arg(long)]
    reason: Option<String>,
}

#[derive(Debug, Args)]
struct Create {
    /// Email.
    email: String,
    /// Shown name (default: the email).
    #[arg(long)]
    username: Option<String>,
    /// Put into its access tokens, separated by spaces.
    #[arg(long)]
    scope: Option<String>,
    /// A configured field, as NAME=VALUE; any number of times.
    #[arg(long = "field", value_name = "NAME=VALUE")]
    fields: Vec<String>,
    /// Read the password from this file (`-`: standard input).
    #[arg(long, value_name = "FILE")]
    password_file: Option<String>,
    /// Read a hash that another program made from this file (`-`: standard input).
    #[arg(long, value_name = "FILE", conflicts_with = "password_file")]
    hash_file: Option<String>,
}

pub(super) fn run(common: &Common, what: &Users) -> Outcome {
    let settings = load(common)?;
    let admin = Admin::of(&settings)?;
    match &what.action {
        None => list(common, &admin, 100, None)?,
        Some(Action::List { limit, email }) => list(common, &admin, *limit, email.as_deref())?,
        Some(Action::Create(what)) => {
            let answer = admin.call(Method::POST, "/admin/users", Some(&what.request()?))?;
            tell(common, &answer, "created");
        }
        Some(Action::Disable(whom)) => tell(common, &change(&admin, whom, "disable", json!({}))?, "disabled"),
        Some(Action::Enable(whom)) => tell(common, &change(&admin, whom, "enable", json!({}))?, "enabled"),
        Some(Action::Revoke(whom)) => {
            tell(common, &change(&admin, whom, "revoke", json!({}))?, "revoked everything issued to");
        }
        Some(Action::Password { whom, password_file }) => {
            let password = input::password(password_file.as_deref())?;
            let answer = change(&admin, whom, "password", json!({ "password": *password }))?;
            tell(common, &answer, "set the password of");
        }
        Some(Action::Delete(whom)) => {
            let path = format!("/admin/users/{}", encoded(&id(&admin, &whom.user)?));
            let answer = admin.call(Method::DELETE, &path, None)?;
            if common.json {
                say!("{answer}");
            } else {
                say!("deleted {}", words(&answer["id"]));
            }
        }
        Some(Action::Import(what)) => user_import::run(common, &admin, what)?,
    }
    Ok(())
}

impl Create {
    fn request(&self) -> anyhow::Result<Value> {
        let mut user = Map::new();
        user.insert("email".into(), json!(self.email));
        for (name, value) in [("username", &self.username), ("scope", &self.scope)] {
            if let Some(value) = value {
                user.insert(name.into(), json!(value));
            }
        }
        let mut fields = Map::new();
        for field in &self.fields {
            let (name, value) =
                field.split_once('=').with_context(|| format!("--field {field}: write NAME=VALUE"))?;
            fields.insert(name.to_owned(), json!(value));
        }
        user.insert("user_fields".into(), Value::Object(fields));
        let (name, secret) = match &self.hash_file {
            Some(file) => ("password_hash", json!(input::text(file)?.trim())),
            None => ("password", json!(*input::password(self.password_file.as_deref())?)),
        };
        user.insert(name.into(), secret);
        Ok(Value::Object(user))
    }
}

fn list(common: &Common, admin: &Admin, limit: usize, email: Option<&str>) -> anyhow::Result<()> {
    let mut rows: Vec<Value> = Vec::new();
    let mut after = None;
    while rows.len() < limit {
        let mut path = format!("/admin/users?limit={}", (limit - rows.len()).min(PAGE_ROWS_MAX));
        for (name, text) in [("email", email), ("after", after.as_deref())] {
            if let Some(text) = text {
                path += &format!("&{name}={}", encoded(text));
            }
        }
        let mut answer = admin.get(&path)?;
        if let Value::Array(page) = answer["data"].take() {
            rows.extend(page);
        }
        after = answer["next"].as_str().map(str::to_owned);
        if after.is_none() {
            break;
        }
    }
    if common.json {
        say!("{}", json!({ "data": rows }));
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    table.set_header(["id", "email", "username", "scope", "state", "password", "created"]);
    for row in &rows {
        table.add_row([
            words(&row["id"]),
            words(&row["email"]),
            words(&row["username"]),
            words(&row["scope"]),
            (if row["disabled"] == json!(true) { "disabled" } else { "enabled" }).to_owned(),
            words(&row["password_kind"]),
            words(&row["createdon"]),
        ]);
    }
    say!("{table}");
    Ok(())
}

fn change(admin: &Admin, whom: &Whom, action: &str, mut request: Value) -> anyhow::Result<Value> {
    if let Some(reason) = &whom.reason {
        request["reason"] = json!(reason);
    }
    let path = format!("/admin/users/{}/{action}", encoded(&id(admin, &whom.user)?));
    admin.call(Method::POST, &path, Some(&request))
}

/// The id of whoever is meant: by email where it looks like one and somebody has it.
fn id(admin: &Admin, user: &str) -> anyhow::Result<String> {
    if !user.contains('@') {
        return Ok(user.to_owned());
    }
    let found = admin.get(&format!("/admin/users?email={}", encoded(user)))?;
    let id = found["data"][0]["id"].as_str().map(str::to_owned);
    id.ok_or_else(|| anyhow!("there is no user with the email {user}"))
}

fn tell(common: &Common, answer: &Value, done: &str) {
    if common.json {
        say!("{answer}");
    } else {
        say!("{done} {} ({})", words(&answer["email"]), words(&answer["id"]));
    }
}

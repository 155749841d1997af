//! Command line: one file per command. Exit status: 0 done, 1 failed, 2 bad usage or configuration.

#[macro_use]
mod out;

mod check;
mod client;
mod demo;
mod described;
mod explain;
mod export;
mod fleet;
mod health;
mod import;
mod input;
mod keys;
mod lines;
mod progress;
mod revocations;
mod snapshot;
mod user_import;
mod users;
mod verify;
mod way;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::{app, config};

/// A reverse-proxy gateway that makes JWT revocation real.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, about, propagate_version = true, arg_required_else_help = false)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Debug, Args)]
struct Common {
    /// The configuration.
    #[arg(
        long,
        short,
        global = true,
        default_value = "gateway.toml",
        value_name = "FILE",
        env = "PORTCULLIS_CONFIG"
    )]
    config: PathBuf,
    /// Answer in JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve (the default).
    Run,
    /// Show the main job on a sample API, from sign-up to a refused token.
    Demo(demo::Options),
    /// Read the configuration and say what is wrong with it.
    Check,
    /// Revoke what a selector matches.
    Revoke(revocations::Revoke),
    /// Take a revocation back.
    Unrevoke(revocations::Unrevoke),
    /// List revocations, newest first.
    List(revocations::List),
    /// Say what would become of a request with this token, step by step.
    Explain(explain::Explain),
    /// Revoke what a file of JSON lines says.
    Import(import::Import),
    /// Write every revocation in force to a file of JSON lines.
    Export(export::Export),
    /// List, rotate, retire or take in our own keys.
    Keys(keys::Keys),
    /// Show every gateway of the fleet, how old its knowledge is, and which are silent.
    Fleet,
    /// List, make and manage accounts.
    Users(users::Users),
    /// Take a snapshot, so that the next start is fast.
    Snapshot,
    /// Look through a state directory without changing it.
    Verify(verify::Verify),
    /// Print the JSON Schema of the configuration, for editors.
    Schema,
    /// Print the OpenAPI description of the auth endpoints and the admin API.
    Openapi,
    /// Print what a shell needs to complete these commands.
    Completions(described::Completions),
    /// Ask the running gateway whether it is alive, for container health checks.
    Health,
}

/// What a command that did not succeed ends with.
#[derive(Debug)]
enum Failure {
    /// 2: the configuration or the usage is bad; said already, or in these words.
    Usage(String),
    /// 1: it did not work.
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

type Outcome = Result<(), Failure>;

/// Runs the command of this process; `clap` itself ends it with 2 on bad usage.
pub fn main() -> ExitCode {
    let Arguments { common, command } = Arguments::parse();
    let json = common.json;
    let outcome = match command.unwrap_or(Command::Run) {
        Command::Run => load(&common).and_then(|settings| Ok(app::run(settings)?)),
        Command::Demo(options) => demo::run(&common, &options),
        Command::Check => check::run(&common),
        Command::Revoke(what) => revocations::revoke(&common, &what),
        Command::Unrevoke(what) => revocations::unrevoke(&common, &what),
        Command::List(what) => revocations::list(&common, &what),
        Command::Explain(what) => explain::run(&common, &what),
        Command::Import(what) => import::run(&common, &what),
        Command::Export(what) => export::run(&common, &what),
        Command::Keys(what) => keys::run(&common, &what),
        Command::Fleet => fleet::run(&common),
        Command::Users(what) => users::run(&common, &what),
        Command::Snapshot => snapshot::run(&common),
        Command::Verify(what) => verify::run(&common, &what),
        Command::Schema => described::schema(),
        Command::Openapi => described::openapi(),
        Command::Completions(what) => described::completions(&what),
        Command::Health => health::run(&common),
    };
    match outcome {
        Ok(()) if out::has_lost() => ExitCode::FAILURE,
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(words)) => {
            if !words.is_empty() {
                eprintln!("{}", words.trim_end());
            }
            ExitCode::from(2)
        }
        Err(Failure::Failed(error)) => {
            if json {
                eprintln!("{}", serde_json::json!({ "ok": false, "error": format!("{error:#}") }));
            } else {
                eprintln!("portcullis: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

/// The configuration, or every problem in it.
fn load(common: &Common) -> Result<config::Settings, Failure> {
    config::load(&common.config).map_err(|errors| Failure::Usage(told(&common.config, &errors, common.json)))
}

fn told(path: &Path, errors: &config::Errors, json: bool) -> String {
    if json {
        return serde_json::json!({ "ok": false, "file": path, "errors": errors }).to_string();
    }
    errors.to_string()
}

//! `gateway.toml` to settings; the only room that knows TOML, defaults and line numbers.
//!
//! Promises: everything of the contract's section 2 is read, typed and checked, none is silently ignored, and one run
//! finds every problem of a file. Whatever [`load`] gives back is complete: all references
//! are resolved, all secrets loaded, all numbers within their bounds.
//!
//! How a file is read: `syntax` makes a tree with spans of it, going on after syntax errors; `reader` is a typed
//! cursor over that tree that records problems in a `context` and goes on with defaults; one file per table says
//! which keys there are. Refuses to know: what any setting does.

mod auth;
mod check;
mod context;
mod delegate;
mod error;
mod files;
mod fleet;
mod headers;
mod issuers;
mod json;
mod policy;
mod quantity;
mod reader;
mod routes;
mod schema;
mod server;
mod source;
mod state;
mod suggest;
mod syntax;
mod upstreams;

use std::path::{Path, PathBuf};

use toml::de::DeTable;

use self::context::Context;
pub use self::error::{Errors, Problem};
use self::reader::Table;
use crate::{admin, endpoint, forward, gateway, issuer, revocation, route, store, upstream};
pub use schema::schema;

/// A file larger than this is not a configuration.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads the configuration at `path`, with the variables of this process's environment.
///
/// Relative paths in it are relative to its directory. Blocks: files are read.
///
/// # Errors
/// Everything that is wrong with it, also that it is missing or not UTF-8.
pub fn load(path: &Path) -> Result<Settings, Errors> {
    read(path).settings
}

/// What reading a configuration came to.
pub struct Loaded {
    /// The settings, or everything that is wrong.
    pub settings: Result<Settings, Errors>,
    /// The file itself and every file that it names with a part of the configuration in it, so far as they were found
    /// out: whoever changes one of them changes the configuration.
    pub files: Vec<PathBuf>,
}

/// As [`load`], and tells what was looked into.
pub fn read(path: &Path) -> Loaded {
    let mut files = vec![path.to_owned()];
    let settings = read_noting(path, &mut files);
    Loaded { settings, files }
}

fn read_noting(path: &Path, files: &mut Vec<PathBuf>) -> Result<Settings, Errors> {
    let failure = |message: String, hint: &str| {
        let cx = Context::new(path, "", &|_| None, false);
        cx.fail(None, message, hint.to_owned());
        Err(Errors::new(cx.into_problems()))
    };
    let bytes = match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => {
            return failure("this is a directory".to_owned(), "name the file in it with --config");
        }
        Ok(meta) if meta.len() > FILE_BYTES_MAX => {
            return failure(
                "this file is larger than 1MiB".to_owned(),
                "name a configuration file with --config",
            );
        }
        Ok(_) => std::fs::read(path),
        Err(error) => Err(error),
    };
    match bytes {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => parse_noting(path, &text, &|name| std::env::var(name).ok(), files),
            Err(error) => Err(not_utf8(path, error.utf8_error().valid_up_to(), error.as_bytes())),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => failure(
            "there is no such file".to_owned(),
            "name the configuration with --config FILE, or start from the gateway.toml that comes with portcullis",
        ),
        Err(error) => failure(
            format!("this file cannot be read: {}", files::reason(&error)),
            "the user that runs the gateway must be able to read it",
        ),
    }
}

/// Reads `text`, the configuration at `path`, with the variables that `env` knows.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(path: &Path, text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Settings, Errors> {
    parse_noting(path, text, env, &mut Vec::new())
}

fn parse_noting(
    path: &Path,
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
    files: &mut Vec<PathBuf>,
) -> Result<Settings, Errors> {
    // A byte order mark is no part of the first line.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let recovered = syntax::recover(text);
    let cx = Context::new(path, text, env, recovered.partial);
    for error in recovered.errors {
        cx.fail(Some(&error.span), error.message, error.hint);
    }
    let (tree, _) = DeTable::parse_recoverable(&recovered.text);
    let settings = settings(path, Table::root(&cx, tree.get_ref()));
    files.extend(cx.files());
    let problems = cx.into_problems();
    if problems.is_empty() { Ok(settings) } else { Err(Errors::new(problems)) }
}

/// Every table, in an order in which each finds what it refers to.
fn settings(path: &Path, mut root: Table<'_>) -> Settings {
    let server = self::server::read(&mut root);
    let admin = self::server::read_admin(&mut root, &server);
    let state_dir = state::read_dir(&mut root);
    let store = state::read_store(&mut root);
    let is_shared = matches!(store, store::settings::Settings::Postgres(_));
    let own = auth::read(&mut root, &state_dir, server.limits.token_bytes_max, is_shared);
    let clients = auth::clients(&mut root);
    let own_issuer = own.settings.as_ref().map(|settings| (&*settings.own.issuer, own.issuer_at.as_ref()));
    let issuers = issuers::read(&mut root, own_issuer, &state_dir);
    let (revocation, fleet) = state::read(&mut root, &state_dir);
    let upstreams = upstreams::read(&mut root);
    let declared = routes::Declared {
        upstreams: upstreams.iter().map(|upstream| &*upstream.name).collect(),
        issuers: issuers.iter().map(|issuer| &*issuer.name).collect(),
        own: own.settings.is_some(),
        max_body: server.max_body,
        request_id: &server.forward.request_id_header,
    };
    let routes = routes::read(&mut root, &declared);
    root.finish();
    Settings {
        path: path.to_owned(),
        server: server.server,
        limits: server.limits,
        forward: server.forward,
        gateway: server.gateway,
        admin,
        store,
        auth: own.settings,
        clients,
        issuers,
        revocation,
        fleet,
        upstreams,
        routes,
    }
}

fn not_utf8(path: &Path, offset: usize, bytes: &[u8]) -> Errors {
    let text = String::from_utf8_lossy(bytes);
    // What stands before `offset` is the same in both.
    let cx = Context::new(path, &text, &|_| None, false);
    let utf16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
    let hint = if utf16 { "it is UTF-16: save the file as UTF-8" } else { "save the file as UTF-8" };
    let message = format!("byte {:#04x} at offset {offset} is not UTF-8", bytes[offset]);
    cx.fail(Some(&(offset..offset + '\u{fffd}'.len_utf8())), message, hint.to_owned());
    Errors::new(cx.into_problems())
}

/// A configuration, complete and checked: all references resolved, all secrets loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The file it came from.
    pub path: PathBuf,
    /// Sockets.
    pub server: crate::server::settings::Settings,
    /// Limits on request heads.
    pub limits: route::settings::Limits,
    /// Rewriting.
    pub forward: forward::settings::Settings,
    /// Answers.
    pub gateway: gateway::settings::Settings,
    /// The admin listener.
    pub admin: admin::settings::Settings,
    /// Users, sessions, tokens.
    pub store: store::settings::Settings,
    /// `None`: the gateway issues no tokens of its own.
    pub auth: Option<endpoint::settings::Settings>,
    /// Who may call the OAuth endpoints.
    pub clients: Vec<endpoint::settings::Client>,
    /// External issuers.
    pub issuers: Vec<issuer::settings::External>,
    /// The log.
    pub revocation: revocation::settings::Settings,
    /// The log that gateways share; `None`: this one is alone.
    pub fleet: Option<crate::fleet::settings::Settings>,
    /// In the order of the file.
    pub upstreams: Vec<upstream::settings::Settings>,
    /// In the order of the file.
    pub routes: Vec<route::settings::Route>,
}

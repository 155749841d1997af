//! `[store]` as used.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

/// How long one attempt to connect may take, where the URL does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection without an acknowledged byte for so long is given up, where the URL does not say.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Where users, sessions, issued tokens and the audit trail live.
#[derive(Clone, PartialEq, Eq)]
pub enum Settings {
    /// `sqlite:PATH`, resolved.
    Sqlite(PathBuf),
    /// `postgres://…`.
    Postgres(Box<Postgres>),
}

impl fmt::Display for Settings {
    /// Without user, password and parameters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(postgres) => postgres.fmt(f),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A PostgreSQL server, or several of which one takes writes.
#[derive(Clone, PartialEq, Eq)]
pub struct Postgres {
    pub(super) config: Config,
    pub(super) tls: Option<Roots>,
}

/// Whose certificates are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Roots {
    /// The machine's.
    System,
    /// Those of a PEM file (`sslrootcert`).
    File(PathBuf),
}

/// What is wrong with a URL, and what to do; neither repeats any part of it that may be secret.
#[derive(Debug, PartialEq, Eq)]
pub struct UrlError {
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub hint: String,
}

impl Postgres {
    /// Reads `postgres://USER:PASSWORD@HOST:PORT/DATABASE?PARAMETERS`, as libpq does but for `sslmode`: it is
    /// `disable`, or `require` and `verify-full`, which are the same here, for a certificate that nobody checks keeps
    /// nobody out. Left out, it is `disable` on this machine and `require` for any other. `sslrootcert` is a PEM file,
    /// found by `resolve`, or `system`.
    ///
    /// # Errors
    /// When it names no server, or holds what is not understood.
    pub fn parse(url: &str, resolve: impl Fn(&str) -> PathBuf) -> Result<Self, UrlError> {
        let (base, query) = split(url);
        let mut kept = Vec::new();
        let (mut mode, mut roots) = (None, Roots::System);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "sslmode" => mode = Some(tls_wanted(value)?),
                "sslrootcert" if value == "system" => roots = Roots::System,
                "sslrootcert" => {
                    let path = percent_encoding::percent_decode_str(value).decode_utf8_lossy();
                    roots = Roots::File(resolve(&path));
                }
                "channel_binding" if value == "require" => {
                    return Err(error(
                        "channel_binding=require is not supported",
                        "leave it out: sslmode=verify-full tells who the server is",
                    ));
                }
                "sslcert" | "sslkey" | "sslpassword" | "passfile" | "service" => {
                    return Err(error(
                        &format!("the parameter {name} is not supported"),
                        "give a password: postgres://USER:${PASSWORD}@HOST/DATABASE",
                    ));
                }
                _ => kept.push(pair),
            }
        }
        let rest = if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
        // The error of the parser is not shown: with an unescaped "@" or "?" it may speak of the password.
        let mut config: Config = rest.parse().map_err(|_| {
            error(
                "the url is not one that PostgreSQL's clients take",
                "write \"postgres://USER:PASSWORD@HOST/DATABASE\", with @ : / ? % of the password percent-encoded",
            )
        })?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(error(
                "the url names no server",
                "write \"postgres://USER@HOST/DATABASE\", or \"postgres:///DATABASE?host=/run/postgresql\"",
            ));
        }
        let here = is_here(&config);
        let tls = mode.unwrap_or(!here).then_some(roots);
        config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(SILENCE_MAX);
        }
        if config.get_keepalives_idle() > SILENCE_MAX {
            config.keepalives_idle(SILENCE_MAX);
        }
        if config.get_application_name().is_none() {
            config.application_name("portcullis");
        }
        Ok(Self { config, tls })
    }
}

impl fmt::Display for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.config.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        });
        let hosts: Vec<String> = hosts.collect();
        write!(f, "postgres://{}/{}", hosts.join(","), self.config.get_dbname().unwrap_or_default())
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What stands before the parameters, and the parameters. Everything up to the first `@` is user and password.
fn split(url: &str) -> (&str, &str) {
    let host = url.find('@').map_or(0, |at| at + 1);
    match url[host..].find('?') {
        Some(mark) => (&url[..host + mark], &url[host + mark + 1..]),
        None => (url, ""),
    }
}

fn tls_wanted(mode: &str) -> Result<bool, UrlError> {
    match mode {
        "disable" => Ok(false),
        "require" | "verify-full" => Ok(true),
        "allow" | "prefer" => Err(error(
            &format!("sslmode={mode} gives way to whoever stands in between"),
            "write sslmode=verify-full, or sslmode=disable where the network is trusted",
        )),
        "verify-ca" => Err(error(
            "sslmode=verify-ca takes any server's certificate of that authority",
            "write sslmode=verify-full",
        )),
        _ => Err(error("that sslmode is not known", "write sslmode=verify-full, or sslmode=disable")),
    }
}

/// Whether every server is on this machine, where nobody can listen in.
fn is_here(config: &Config) -> bool {
    let host = |host: &Host| match host {
        Host::Unix(path) => path.is_absolute() || path == Path::new(""),
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
    };
    match config.get_hostaddrs() {
        [] => config.get_hosts().iter().all(host),
        addresses => addresses.iter().all(std::net::IpAddr::is_loopback),
    }
}

fn error(what: &str, hint: &str) -> UrlError {
    UrlError { what: what.to_owned(), hint: hint.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Postgres, UrlError> {
        Postgres::parse(url, |path| Path::new("/etc/portcullis").join(path))
    }

    #[test]
    fn tls_is_on_for_other_machines_unless_said_otherwise() {
        let check = |url: &str, tls: Option<Roots>| {
            let parsed = parse(url).unwrap_or_else(|error| panic!("{url}: {error:?}"));
            assert_eq!(parsed.tls, tls, "{url}");
        };
        check("postgres://gate:pw@127.0.0.1:5433/p", None);
        check("postgresql://gate@localhost/p", None);
        check("postgres://gate@[::1]/p", None);
        check("postgres:///p?host=/run/postgresql&user=gate", None);
        check("postgres://gate@%2Frun%2Fpostgresql/p", None);
        check("postgres://gate@db/p", Some(Roots::System));
        check("postgres://gate@db,localhost/p", Some(Roots::System));
        check("postgres://gate@db/p?sslmode=disable", None);
        check("postgres://gate@localhost/p?sslmode=verify-full", Some(Roots::System));
        check(
            "postgres://gate@db/p?sslrootcert=tls%2Fca.pem",
            Some(Roots::File("/etc/portcullis/tls/ca.pem".into())),
        );
        check("postgres://gate@db/p?sslmode=require&sslrootcert=system", Some(Roots::System));
    }

    #[test]
    fn what_is_shown_of_a_url_holds_no_secret() {
        let settings =
            Settings::Postgres(Box::new(parse("postgres://gate:hunter2@db:5433/p?options=x").unwrap()));
        assert_eq!(format!("{settings} {settings:?}"), "postgres://db/p postgres://db/p");
        for url in [
            "postgres://gate:hun@ter2?x=y@db:z/p",
            "postgres://gate:hunter2@db:port/p",
            "postgres://gate:hunter2@db/p?hunter2=hunter2",
            "postgres://gate:hunter2@",
            "postgres://gate:hunter2@db/p?sslmode=hunter2",
            "postgres://gate:hunter2@db/p?sslmode=prefer",
            "postgres://gate:hunter2@db/p?channel_binding=require",
        ] {
            let error = parse(url).expect_err(url);
            assert!(
                !format!("{error:?}").contains("hunter2") && !format!("{error:?}").contains("ter2"),
                "{error:?}"
            );
        }
    }

    #[test]
    fn a_server_that_is_silent_is_given_up() {
        let config = parse("postgres://gate@db/p").unwrap().config;
        assert_eq!(config.get_connect_timeout(), Some(&CONNECT_TIMEOUT));
        assert_eq!(config.get_tcp_user_timeout(), Some(&SILENCE_MAX));
        let config = parse("postgres://gate@db/p?connect_timeout=7").unwrap().config;
        assert_eq!(config.get_connect_timeout(), Some(&Duration::from_secs(7)));
    }
}

//! `[revocation.cluster]` as used.

use std::fmt;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use crate::store;
use crate::tls;

/// Where a Redis server listens if its URL does not say.
const PORT: u16 = 6379;
/// And where a Sentinel does.
const SENTINEL_PORT: u16 = 26379;

/// What happens to a revocation while the shared log cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenUnreachable {
    /// Durable and enforced here, forwarded later.
    Accept,
    /// 503.
    Refuse,
}

/// What happens when nothing was heard from the shared log for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenStale {
    /// Going on with what is known, flagged.
    Serve,
    /// Not ready, and 503 on protected routes.
    Refuse,
}

/// `[revocation.cluster]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Who holds the shared log.
    pub engine: Engine,
    /// Tells fleets on one engine apart; letters, digits, `_`, `-` and `.`.
    pub namespace: Box<str>,
    /// Replicas of the engine that must have an entry.
    pub wait_replicas: u32,
    /// See [`WhenUnreachable`].
    pub when_unreachable: WhenUnreachable,
    /// Not heard from the shared log for this long: stale.
    pub max_staleness: Duration,
    /// See [`WhenStale`].
    pub when_stale: WhenStale,
}

/// Who holds the shared log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Redis or Valkey.
    Redis(Box<Redis>),
    /// PostgreSQL.
    Postgres(Box<store::settings::Postgres>),
}

/// How the server that takes writes is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Servers {
    /// The first of these that takes writes.
    Plain,
    /// These are Sentinels, which know the primary of this name.
    Sentinel(Box<str>),
    /// These are of a cluster, whose members tell who holds the slot of the namespace.
    Cluster,
}

/// A Redis or Valkey server, or several.
#[derive(Clone, PartialEq, Eq)]
pub struct Redis {
    /// How the one that takes writes is found.
    pub servers: Servers,
    /// Names or addresses and ports, in the order of the URL.
    pub addresses: Vec<(Box<str>, u16)>,
    /// TLS, to all of them.
    pub tls: Option<tls::settings::Client>,
    /// The user of the access control list; `None`: `default`.
    pub user: Option<Box<str>>,
    /// From the URL or from a file.
    pub password: Option<Zeroizing<String>>,
    /// The number of the database.
    pub database: u32,
    /// Sentinels have users and passwords of their own.
    pub sentinel_user: Option<Box<str>>,
    /// From a file.
    pub sentinel_password: Option<Zeroizing<String>>,
}

/// Files that a URL names, to be read by who reads the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// `password_file`.
    pub password: Option<String>,
    /// `sentinel_password_file`.
    pub sentinel_password: Option<String>,
    /// `ca_file`.
    pub ca: Option<String>,
    /// `cert_file`.
    pub cert: Option<String>,
    /// `key_file`.
    pub key: Option<String>,
}

/// What is wrong with a URL, and what to do; neither repeats any part of it that may be secret.
#[derive(Debug, PartialEq, Eq)]
pub struct UrlError {
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub hint: String,
}

impl Redis {
    /// Whether this is the beginning of such a URL.
    pub fn is_meant(url: &str) -> bool {
        url.split_once("://").is_some_and(|(scheme, _)| parse_scheme(scheme).is_some())
    }

    /// Reads `redis://USER:PASSWORD@HOST:PORT,…/DATABASE?PARAMETERS`; `rediss` is with TLS, `redis+sentinel` has
    /// `/PRIMARY/DATABASE` for a path, `redis+cluster` none. The files of the second are not read yet: their contents
    /// go to [`Redis::password`], [`Redis::sentinel_password`] and [`Redis::tls`].
    ///
    /// # Errors
    /// When it names no server, or holds what is not understood.
    pub fn parse(url: &str) -> Result<(Self, Files), UrlError> {
        const FORM: &str =
            "write \"redis://USER:PASSWORD@HOST:PORT\", with @ : / ? % of the password percent-encoded";
        let (scheme, rest) = url.split_once("://").ok_or_else(|| error("this is no URL", FORM))?;
        let (mut servers, tls) =
            parse_scheme(scheme).ok_or_else(|| error("this is no URL of Redis", FORM))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (rest, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) =
            rest.rsplit_once('@').map_or((None, rest), |(login, hosts)| (Some(login), hosts));
        let port = if matches!(servers, Servers::Sentinel(_)) { SENTINEL_PORT } else { PORT };
        let addresses = hosts.split(',').map(|host| address(host, port)).collect::<Option<Vec<_>>>();
        let addresses = addresses.ok_or_else(|| error("the url names no server, or not a good one", FORM))?;
        let database = match &mut servers {
            Servers::Sentinel(name) => {
                let (primary, database) = path.split_once('/').unwrap_or((path, ""));
                if primary.is_empty() {
                    let hint = "write \"redis+sentinel://HOST:26379,HOST:26379/NAME\"";
                    return Err(error(
                        "the url does not say which primary the Sentinels are asked for",
                        hint,
                    ));
                }
                *name = primary.into();
                database
            }
            Servers::Cluster if !path.is_empty() => {
                return Err(error("a Redis cluster has one database only", "end the url behind the port"));
            }
            _ => path,
        };
        let database = if database.is_empty() { Ok(0) } else { database.parse() };
        let database = database.map_err(|_| error("the database is not a number", "write \"…/0\""))?;
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            Some((user, password)) => (decoded(user)?, decoded(password)?),
            None => (None, None),
        };
        let mut parsed = Self {
            servers,
            addresses,
            tls: tls.then(tls::settings::Client::default),
            user: user.map(Into::into),
            password: password.map(Zeroizing::new),
            database,
            sentinel_user: None,
            sentinel_password: None,
        };
        let files = parsed.take_parameters(query)?;
        if files.password.is_some() && parsed.password.is_some() {
            return Err(error("the password is in the url and in a file", "leave one of them out"));
        }
        Ok((parsed, files))
    }

    fn take_parameters(&mut self, query: &str) -> Result<Files, UrlError> {
        let mut files = Files::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value)?;
            match name {
                "password_file" => files.password = value,
                "sentinel_password_file" => files.sentinel_password = value,
                "sentinel_user" => self.sentinel_user = value.map(Into::into),
                "ca_file" | "cert_file" | "key_file" | "server_name" if self.tls.is_none() => {
                    return Err(error(&format!("{name} is for TLS"), "write \"rediss://\""));
                }
                "ca_file" => files.ca = value,
                "cert_file" => files.cert = value,
                "key_file" => files.key = value,
                "server_name" => {
                    if let Some(tls) = &mut self.tls {
                        tls.server_name = value.map(Into::into);
                    }
                }
                _ => {
                    let known = "password_file, ca_file, cert_file, key_file, server_name, sentinel_user and \
                                 sentinel_password_file are known";
                    return Err(error("the url has a parameter that is not known", known));
                }
            }
        }
        Ok(files)
    }
}

impl fmt::Display for Redis {
    /// Without user, password and parameters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls.is_some() { "rediss" } else { "redis" })?;
        f.write_str(match self.servers {
            Servers::Plain => "://",
            Servers::Sentinel(_) => "+sentinel://",
            Servers::Cluster => "+cluster://",
        })?;
        for (index, (host, port)) in self.addresses.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let bracketed = host.contains(':');
            let (open, close) = if bracketed { ("[", "]") } else { ("", "") };
            write!(f, "{comma}{open}{host}{close}:{port}")?;
        }
        if let Servers::Sentinel(name) = &self.servers {
            write!(f, "/{name}")?;
        }
        if self.database > 0 { write!(f, "/{}", self.database) } else { Ok(()) }
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redis(redis) => redis.fmt(f),
            Self::Postgres(postgres) => postgres.fmt(f),
        }
    }
}

/// How servers are found, and whether with TLS.
fn parse_scheme(scheme: &str) -> Option<(Servers, bool)> {
    let (base, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
    let tls = match base {
        "redis" | "valkey" => false,
        "rediss" | "valkeys" => true,
        _ => return None,
    };
    let servers = match kind {
        "" if !scheme.contains('+') => Servers::Plain,
        "sentinel" => Servers::Sentinel("".into()),
        "cluster" => Servers::Cluster,
        _ => return None,
    };
    Some((servers, tls))
}

fn address(text: &str, port: u16) -> Option<(Box<str>, u16)> {
    let (host, rest) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port = match rest.strip_prefix(':') {
        Some(number) => number.parse().ok().filter(|port| *port > 0)?,
        None if rest.is_empty() => port,
        None => return None,
    };
    let good = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:".contains(&b));
    good.then(|| (host.into(), port))
}

/// `None` for nothing.
fn decoded(text: &str) -> Result<Option<String>, UrlError> {
    let decoded = percent_decode_str(text).decode_utf8();
    let decoded = decoded.map_err(|_| error("the url is not UTF-8", "percent-encode its bytes"))?;
    Ok(Some(decoded.into_owned()).filter(|text| !text.is_empty()))
}

fn error(what: &str, hint: &str) -> UrlError {
    UrlError { what: what.to_owned(), hint: hint.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_url_is_understood() {
        let check = |url: &str, shown: &str| {
            let (parsed, _) = Redis::parse(url).unwrap_or_else(|error| panic!("{url}: {error:?}"));
            assert_eq!(parsed.to_string(), shown, "{url}");
        };
        check("redis://localhost", "redis://localhost:6379");
        check("valkey://localhost/2", "redis://localhost:6379/2");
        check("redis://gate:pw@10.0.0.1:7000", "redis://10.0.0.1:7000");
        check("rediss://:pw@[::1]:7000,b", "rediss://[::1]:7000,b:6379");
        check("redis+sentinel://a,b:7/main/1", "redis+sentinel://a:26379,b:7/main/1");
        check("rediss+cluster://a:7000,b:7000?ca_file=x.pem", "rediss+cluster://a:7000,b:7000");
        let (parsed, files) = Redis::parse(
            "rediss://gate:p%40w@r?ca_file=tls%2Fca.pem&cert_file=c&key_file=k&server_name=s&sentinel_user=u",
        )
        .unwrap();
        assert_eq!(parsed.user.as_deref(), Some("gate"));
        assert_eq!(parsed.password.as_deref().map(String::as_str), Some("p@w"));
        assert_eq!(parsed.tls.unwrap().server_name.as_deref(), Some("s"));
        assert_eq!(files.ca.as_deref(), Some("tls/ca.pem"));
        assert_eq!((files.cert.as_deref(), files.key.as_deref()), (Some("c"), Some("k")));
    }

    #[test]
    fn a_url_that_is_wrong_is_refused_without_telling_its_secrets() {
        for url in [
            "redis://",
            "redis://gate:hunter2@",
            "redis://gate:hunter2@h:port",
            "redis://gate:hunter2@h:0",
            "redis://gate:hunter2@h/x",
            "redis://gate:hunter2@h?hunter2=hunter2",
            "redis://gate:hunter2@h?ca_file=x",
            "redis://gate:hunter2@h?password_file=x",
            "redis+sentinel://gate:hunter2@h",
            "redis+cluster://gate:hunter2@h/1",
            "redis+unix://gate:hunter2@h",
            "redis+://gate:hunter2@h",
            "redis://gate:hunter2@h/%ff?password_file=%ff",
        ] {
            let error = Redis::parse(url).expect_err(url);
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        let (parsed, _) = Redis::parse("redis://gate:hunter2@h").unwrap();
        assert_eq!(format!("{parsed} {parsed:?}"), "redis://h:6379 redis://h:6379");
    }
}

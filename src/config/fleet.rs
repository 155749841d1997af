//! `[revocation.cluster]`.

use std::time::Duration;

use super::files;
use super::reader::{Table, Text};
use crate::fleet::settings::{Engine, Files, Redis, Settings, WhenStale, WhenUnreachable};
use crate::store::settings::Postgres;
use crate::tls;

/// Reads it; `None` where there is no such table, or no engine in it.
pub(super) fn read(revocation: &mut Table<'_>) -> Option<Settings> {
    let mut t = revocation.section("cluster", "[revocation.cluster]");
    let url = t.get("url");
    let url = if t.is_given() { url.required("add url = \"redis://127.0.0.1:6379\"").filled() } else { None };
    let engine = url.and_then(|url| engine(&url));
    let mut named: Box<str> = "portcullis".into();
    if let Some(namespace) = t.get("namespace").filled() {
        let good =
            namespace.value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
        if !good || namespace.value.len() > 64 {
            let hint = "write up to 64 letters, digits, \"_\", \"-\" and \".\"".to_owned();
            namespace.fail(format!("namespace {} is not a plain name", namespace.quoted()), hint);
        }
        named = namespace.boxed();
    }
    let wait_replicas = t.get("wait_replicas").number_u32(0, 0..=100);
    let when_unreachable = t.get("when_unreachable").choice(
        &[("accept", WhenUnreachable::Accept), ("refuse", WhenUnreachable::Refuse)],
        WhenUnreachable::Accept,
    );
    let max_staleness = t
        .get("max_staleness")
        .duration_within(Duration::from_secs(30), Duration::from_secs(1)..=Duration::MAX);
    let when_stale = t
        .get("when_stale")
        .choice(&[("serve", WhenStale::Serve), ("refuse", WhenStale::Refuse)], WhenStale::Serve);
    t.finish();
    Some(Settings {
        engine: engine?,
        namespace: named,
        wait_replicas,
        when_unreachable,
        max_staleness,
        when_stale,
    })
}

fn engine(url: &Text<'_>) -> Option<Engine> {
    let scheme = url.value.split_once("://").filter(|(_, rest)| !rest.is_empty()).map(|(scheme, _)| scheme);
    match scheme {
        Some("postgres" | "postgresql") => match Postgres::parse(&url.value, |path| url.cx.resolve(path)) {
            Ok(postgres) => return Some(Engine::Postgres(Box::new(postgres))),
            Err(error) => url.fail(error.what, error.hint),
        },
        Some(_) if Redis::is_meant(&url.value) => match Redis::parse(&url.value) {
            Ok((redis, files)) => return Some(Engine::Redis(Box::new(with_files(url, redis, &files)))),
            Err(error) => url.fail(error.what, error.hint),
        },
        _ => {
            let hint = "write \"redis://HOST:PORT\", \"rediss://HOST:PORT\" or \"postgres://HOST/DATABASE\""
                .to_owned();
            url.fail(format!("{} is not a shared log", url.quoted()), hint);
        }
    }
    None
}

/// With what its files hold; problems with them are recorded.
fn with_files(url: &Text<'_>, mut redis: Redis, files: &Files) -> Redis {
    let part = |label: &str, path: &Option<String>| {
        let mut part = url.part(path.as_deref()?);
        part.label = format!("{label} of");
        Some(part)
    };
    let secret = |label: &str, path: &Option<String>| {
        let part = part(label, path)?;
        let secret = files::secret(&part)?;
        let Ok(text) = std::str::from_utf8(&secret) else {
            part.fail(format!("{label} is not UTF-8"), None);
            return None;
        };
        Some(text.to_owned().into())
    };
    if files.password.is_some() {
        redis.password = secret("password_file", &files.password);
    }
    redis.sentinel_password = secret("sentinel_password_file", &files.sentinel_password);
    let ca = part("ca_file", &files.ca).filter(files::authorities).map(|ca| url.cx.resolve(&ca.value));
    let (cert, key) = (part("cert_file", &files.cert), part("key_file", &files.key));
    if cert.is_some() != key.is_some() {
        url.fail("cert_file and key_file go together", "name both, or neither".to_owned());
    }
    let certificate: Option<tls::settings::Pair> = files::pair(cert.as_ref(), key.as_ref());
    if let Some(tls) = &mut redis.tls {
        (tls.ca, tls.certificate) = (ca, certificate);
    }
    redis
}

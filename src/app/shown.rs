//! The settings as `GET /admin/config` shows them: under the names of `gateway.toml`, with every default, without a
//! secret. What is not named here does not get out.

use std::time::Duration;

use serde_json::{Value, json};

use crate::config::Settings;
use crate::issuer::Issuers;
use crate::issuer::settings::{External, KeySource};
use crate::revocation::settings::{Fsync, OnLostState};
use crate::server::settings::Listen;

pub(super) fn settings(settings: &Settings) -> Value {
    json!({
        "file": settings.path,
        "server": server(settings),
        "admin": { "listen": settings.admin.listen.to_string(), "token_file": settings.admin.token_file },
        "state": { "dir": settings.revocation.state_dir },
        "store": { "url": settings.store.to_string() },
        "auth": auth(settings),
        "clients": settings.clients.iter().map(|client| json!({
            "id": client.id, "scopes": client.scopes, "secret": "(redacted)",
        })).collect::<Vec<_>>(),
        "issuers": settings.issuers.iter().map(issuer).collect::<Vec<_>>(),
        "revocation": revocation(settings),
        "upstreams": settings.upstreams.iter().map(|upstream| json!({
            "name": upstream.name,
            "targets": upstream.targets.iter()
                .map(|target| json!({ "url": target.url, "weight": target.weight }))
                .collect::<Vec<_>>(),
            "connect_timeout": span(upstream.connect_timeout),
            "response_timeout": limit(upstream.response_timeout),
            "stream_idle_timeout": limit(upstream.stream_idle_timeout),
            "retries": upstream.retries,
            "max_requests": upstream.max_requests.unwrap_or(0),
        })).collect::<Vec<_>>(),
        "routes": settings.routes.len(),
    })
}

fn server(settings: &Settings) -> Value {
    let (server, limits) = (&settings.server, &settings.limits);
    let listen = server.listen.iter().map(|listen| match listen {
        Listen::Tcp(address) => address.to_string(),
        Listen::Unix(path) => format!("unix:{}", path.display()),
    });
    json!({
        "listen": listen.collect::<Vec<_>>(),
        "workers": server.workers,
        "realm": settings.gateway.realm,
        "dpop_nonce": settings.gateway.dpop_nonce,
        "invalid_token_status": settings.gateway.invalid_token_status.as_u16(),
        "header_read_timeout": limit(server.header_read_timeout),
        "body_read_timeout": limit(server.body_read_timeout),
        "idle_timeout": limit(server.idle_timeout),
        "max_connections": server.max_connections.unwrap_or(0),
        "max_header_bytes": limits.header_bytes_max,
        "max_headers": limits.headers_max,
        "max_uri_bytes": limits.uri_bytes_max,
        "max_token_bytes": limits.token_bytes_max,
        "underscore_headers": if limits.underscore_headers { "allow" } else { "drop" },
        "trusted_proxies": settings.forward.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "strip_headers": settings.forward.strip_headers.iter().map(|name| name.as_str()).collect::<Vec<_>>(),
        "request_id_header": settings.forward.request_id_header.as_str(),
        "drain_timeout": span(server.drain_timeout),
    })
}

fn auth(settings: &Settings) -> Value {
    let Some(auth) = &settings.auth else { return json!({ "enabled": false }) };
    json!({
        "enabled": true,
        "prefixes": auth.prefixes,
        "hosts": auth.hosts,
        "signup": auth.signup,
        "issuer": auth.own.issuer,
        "audience": auth.own.audience,
        "algorithm": format!("{:?}", auth.own.algorithm),
        "access_ttl": span(auth.own.access_ttl),
        "refresh_ttl": span(auth.own.refresh_ttl),
        "fresh_ttl": span(auth.own.fresh_ttl),
        "registry": if auth.own.strict { "strict" } else { "blocklist" },
        "rotate_refresh": auth.rotate_refresh,
        "reuse_grace": span(auth.reuse_grace),
        "lockout": { "attempts": auth.lockout.attempts, "window": span(auth.lockout.window) },
    })
}

fn issuer(issuer: &External) -> Value {
    let mut shown = json!({
        "name": &*issuer.name,
        "issuer": issuer.issuer,
        "audience": issuer.audience,
        "algorithms": issuer.algorithms.iter().map(|algorithm| format!("{algorithm:?}")).collect::<Vec<_>>(),
        "leeway": span(issuer.leeway),
        "max_token_ttl": span(issuer.max_token_ttl),
        "require": issuer.require,
        "typ": issuer.typ,
    });
    match &issuer.keys {
        KeySource::JwksFile { path, .. } => shown["jwks_file"] = json!(path),
        KeySource::PublicKeyFile { path, .. } => shown["public_key_file"] = json!(path),
        KeySource::SecretFile { path, .. } => shown["secret_file"] = json!(path),
        KeySource::Published(published) => {
            let key = if published.discovery { "discovery_url" } else { "jwks_url" };
            shown[key] = json!(address(&published.url));
            shown["jwks_refresh"] = json!(span(published.refresh));
        }
        KeySource::Introspection(at) => {
            shown["introspect"] =
                json!({ "url": address(&at.url), "client_id": at.client_id, "cache": span(at.cache) });
        }
    }
    shown
}

/// The same with how it stands with the keys that are fetched.
pub(super) fn with_fetched(mut shown: Value, issuers: &Issuers) -> Value {
    for issuer in shown["issuers"].as_array_mut().into_iter().flatten() {
        let fetched = issuer["name"].as_str().map_or(Value::Null, |name| issuers.fetched(name));
        if !fetched.is_null() {
            issuer["fetched"] = fetched;
        }
    }
    shown
}

/// Without its query, which may carry a secret.
fn address(url: &http::Uri) -> String {
    let (scheme, authority) =
        (url.scheme_str().unwrap_or_default(), url.authority().map_or("", |a| a.as_str()));
    format!("{scheme}://{authority}{}", url.path())
}

fn revocation(settings: &Settings) -> Value {
    let revocation = &settings.revocation;
    json!({
        "fsync": match revocation.fsync {
            Fsync::Always => "always".to_owned(),
            Fsync::Every(interval) => span(interval),
        },
        "snapshot_every": span(revocation.snapshot_every),
        "snapshot_log_bytes": revocation.snapshot_log_bytes,
        "claims": revocation.claims,
        "on_lost_state": match revocation.on_lost_state {
            OnLostState::Cutoff => "cutoff",
            OnLostState::Refuse => "refuse",
            OnLostState::Empty => "empty",
        },
        "cut_live_connections": revocation.cut_live_connections,
        "token_cache": revocation.token_cache,
    })
}

/// As `gateway.toml` writes a duration, in the largest unit that is exact.
fn span(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    match units.into_iter().find(|(unit, _)| millis > 0 && millis.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", millis / unit),
        None => format!("{millis}ms"),
    }
}

/// The same where 0 means that there is no limit.
fn limit(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "0".to_owned(), span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_they_are_read() {
        for (millis, text) in [(250, "250ms"), (90_000, "90s"), (60_000, "1m"), (2_592_000_000, "30d")] {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
    }
}

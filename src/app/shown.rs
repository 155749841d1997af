//! The settings as `GET /admin/config` shows them: under the names of `gateway.toml`, with every default, without a
//! secret. What is not named here does not get out.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::Settings;
use crate::endpoint::settings::{Delegate, OnReuse};
use crate::fleet::settings::{WhenStale, WhenUnreachable};
use crate::gateway::settings::AccessLog;
use crate::issuer::Issuers;
use crate::issuer::settings::{External, KeySource};
use crate::revocation::settings::{Fsync, OnLostState};
use crate::route::settings::{
    Cors, HeaderEdits, HostPattern, PathPattern, RateLimit, RateLimitBy, Requirement, Route,
};
use crate::upstream::settings::Balance;

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
            "may": named([(client.introspect, "introspect"), (client.revoke, "revoke"), (client.token, "token")]),
        })).collect::<Vec<_>>(),
        "issuers": settings.issuers.iter().map(issuer).collect::<Vec<_>>(),
        "revocation": revocation(settings),
        "upstreams": settings.upstreams.iter().map(|upstream| json!({
            "name": upstream.name,
            "targets": upstream.targets.iter()
                .map(|target| json!({
                    "url": target.url, "weight": target.weight, "http2": target.http2, "tls": target.tls.is_some(),
                }))
                .collect::<Vec<_>>(),
            "connect_timeout": span(upstream.connect_timeout),
            "resolve_every": span(upstream.resolve_every),
            "response_timeout": limit(upstream.response_timeout),
            "stream_idle_timeout": limit(upstream.stream_idle_timeout),
            "retries": upstream.retries,
            "max_requests": upstream.max_requests.unwrap_or(0),
            "balance": balance(&upstream.balance),
            "keepalive": { "idle": span(upstream.keepalive_idle), "max_idle": upstream.keepalive_max_idle },
            "health": upstream.health.as_ref().map(|health| json!({
                "path": health.path, "interval": span(health.interval), "timeout": span(health.timeout),
                "unhealthy_after": health.unhealthy_after, "healthy_after": health.healthy_after,
            })),
            "passive_health": {
                "failures": upstream.passive_health.failures, "window": span(upstream.passive_health.window),
                "eject": span(upstream.passive_health.eject),
            },
        })).collect::<Vec<_>>(),
        "routes": settings.routes.iter().map(|route| self::route(settings, route)).collect::<Vec<_>>(),
    })
}

/// The names of those that are on.
fn named<const N: usize>(switches: [(bool, &'static str); N]) -> Vec<&'static str> {
    switches.into_iter().filter_map(|(on, name)| on.then_some(name)).collect()
}

fn balance(balance: &Balance) -> String {
    match balance {
        Balance::RoundRobin => "round_robin".to_owned(),
        Balance::LeastRequests => "least_requests".to_owned(),
        Balance::TwoChoices => "two_choices".to_owned(),
        Balance::HashHeader(name) => format!("hash:header:{name}"),
        Balance::HashSubject => "hash:subject".to_owned(),
    }
}

fn route(settings: &Settings, route: &Route) -> Value {
    let host = match &route.host {
        HostPattern::Any => String::new(),
        HostPattern::Exact(host) => host.to_string(),
        HostPattern::Suffix(suffix) => format!("*.{}", suffix.trim_start_matches('.')),
    };
    let (path, exact) = match &route.path {
        PathPattern::Exact(path) => (path, true),
        PathPattern::Prefix(path) => (path, false),
    };
    let auth = match route.auth {
        Requirement::Public => "public",
        Requirement::Optional => "optional",
        Requirement::Access => "access",
        Requirement::Refresh => "refresh",
        Requirement::Fresh => "fresh",
    };
    // Values that are set may be secrets of the upstream.
    let edits = |edits: &HeaderEdits| {
        json!({
            "set": edits.set.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            "remove": edits.remove.iter().map(|name| name.as_str()).collect::<Vec<_>>(),
        })
    };
    json!({
        "name": &*route.name,
        "host": host,
        "path": path,
        "exact": exact,
        "methods": route.methods.iter().map(|method| method.as_str()).collect::<Vec<_>>(),
        "upstream": settings.upstreams.get(route.upstream).map(|upstream| &upstream.name),
        "auth": auth,
        "mode": if route.shadow { "shadow" } else { "enforce" },
        "issuers": route.issuers.iter().map(|name| &**name).collect::<Vec<_>>(),
        "scopes": route.scopes,
        "require_claims": route.require_claims.iter()
            .map(|(name, values)| (name.to_string(), json!(values)))
            .collect::<serde_json::Map<_, _>>(),
        "strip_prefix": route.strip_prefix,
        "rewrite": route.rewrite,
        "timeout": limit(route.timeout),
        "max_body": route.max_body.unwrap_or(0),
        "allow_encoded_slash": route.allow_encoded_slash,
        "allow_method_override": route.allow_method_override,
        "rate_limit": route.rate_limit.as_ref().map(rate_limit),
        "cors": route.cors.as_deref().map(cors),
        "request_headers": edits(&route.request_headers),
        "response_headers": edits(&route.response_headers),
        "identity_headers": {
            "subject": route.identity_headers.subject.as_ref().map(|name| name.as_str()),
            "session": route.identity_headers.session.as_ref().map(|name| name.as_str()),
            "token": route.identity_headers.token.as_ref().map(|name| name.as_str()),
            "scope": route.identity_headers.scope.as_ref().map(|name| name.as_str()),
            "issuer": route.identity_headers.issuer.as_ref().map(|name| name.as_str()),
        },
        "forward_authorization": route.forward_authorization,
    })
}

fn rate_limit(limit: &RateLimit) -> Value {
    let by = match limit.by {
        RateLimitBy::Subject => "subject",
        RateLimitBy::Address => "address",
        RateLimitBy::Token => "token",
    };
    json!({ "requests": limit.requests, "per": span(limit.per), "burst": limit.burst, "by": by })
}

fn cors(cors: &Cors) -> Value {
    json!({
        "origins": cors.origins,
        "credentials": cors.credentials,
        "headers": cors.headers,
        "expose": cors.expose.as_ref().and_then(|value| value.to_str().ok()),
        "max_age": span(cors.max_age),
    })
}

fn server(settings: &Settings) -> Value {
    let (server, limits) = (&settings.server, &settings.limits);
    let listen = server.listen.iter().map(ToString::to_string);
    json!({
        "listen": listen.collect::<Vec<_>>(),
        "proxy_protocol": server.proxies.is_some(),
        "tls": server.tls.as_ref().map(|tls| json!({
            "listen": tls.listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "certificates": tls.files.certificates.iter()
                .map(|pair| json!({ "cert": pair.cert, "key": pair.key }))
                .collect::<Vec<_>>(),
            "client_ca": tls.files.client_ca,
            "client_auth": if tls.files.client_may_have_none { "request" } else { "require" },
            "hsts": tls.hsts.as_ref().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
        })),
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
        "access_log": match settings.gateway.access_log {
            AccessLog::Json => "json",
            AccessLog::Text => "text",
            AccessLog::Off => "off",
        },
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
        "on_reuse": match auth.on_reuse {
            OnReuse::RevokeSession => "revoke_session",
            OnReuse::RevokeSubject => "revoke_subject",
            OnReuse::Log => "log",
        },
        "user_fields": auth.user_fields,
        "max_sessions_per_user": auth.max_sessions_per_user.unwrap_or(0),
        "token_transport": named([(auth.header_transport, "header"), (auth.cookie_transport, "cookie")]),
        "claims": auth.claims,
        "password": {
            "min_length": auth.password.min_length,
            "require_digit": auth.password.require_digit,
            "require_symbol": auth.password.require_symbol,
            "deny_common": auth.password.deny_common,
            "argon2": {
                "memory": format!("{}KiB", auth.password.memory_kib),
                "iterations": auth.password.iterations,
                "parallelism": auth.password.parallelism,
            },
            "max_concurrent_hashes": auth.password.max_concurrent_hashes,
        },
        "lockout": { "attempts": auth.lockout.attempts, "window": span(auth.lockout.window) },
        "cors": auth.cors.as_deref().map(cors),
        "delegate": auth.delegate.as_ref().map(delegate),
    })
}

fn delegate(delegate: &Delegate) -> Value {
    let pointers = |named: &[(Box<str>, Box<str>)]| named.iter().cloned().collect::<BTreeMap<_, _>>();
    json!({
        "url": address(&delegate.url),
        "ca_file": delegate.ca_pem.is_some(),
        "subject": delegate.subject,
        "claims": pointers(&delegate.claims),
        "fields": pointers(&delegate.fields),
        "account": delegate.account,
        "pass": delegate.pass,
        "timeout": span(delegate.timeout),
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
        "claims": {
            "subject": issuer.claims.subject, "session": issuer.claims.session, "scope": issuer.claims.scope,
            "client": issuer.claims.client, "type": issuer.claims.token_type,
        },
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
        "cluster": settings.fleet.as_ref().map(|fleet| json!({
            "url": fleet.engine.to_string(),
            "namespace": fleet.namespace,
            "wait_replicas": fleet.wait_replicas,
            "when_unreachable": match fleet.when_unreachable {
                WhenUnreachable::Accept => "accept",
                WhenUnreachable::Refuse => "refuse",
            },
            "max_staleness": span(fleet.max_staleness),
            "when_stale": match fleet.when_stale {
                WhenStale::Serve => "serve",
                WhenStale::Refuse => "refuse",
            },
        })),
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

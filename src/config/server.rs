//! `[server]`, `[server.tls]` and `[admin]`.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use ipnet::IpNet;

use super::reader::{Table, Text, Value};
use super::source::Span;
use super::{check, files};
use crate::admin::settings::Settings as Admin;
use crate::forward::settings::Settings as Forward;
use crate::gateway::settings::{AccessLog, Settings as Gateway};
use crate::route::settings::Limits;
use crate::server::settings::{Listen, Settings as Server, Tls};
use crate::tls::settings::{Pair, Server as Files};

/// Removed from every request unless `strip_headers` says otherwise.
const STRIP_HEADERS: [&str; 11] = [
    "proxy",
    "remote-user",
    "x-remote-user",
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-auth-request-user",
    "x-auth-request-email",
    "x-webauth-user",
    "x-original-url",
    "x-rewrite-url",
];

/// Each is a socket of its own for every worker.
const LISTEN_MAX: usize = 64;

/// All that `[server]` says.
pub(super) struct Read {
    pub(super) server: Server,
    pub(super) limits: Limits,
    pub(super) forward: Forward,
    pub(super) gateway: Gateway,
    /// Where its listeners are named.
    listen_at: Option<Span>,
    /// For routes that set none of their own; `None`: no limit.
    pub(super) max_body: Option<u64>,
}

/// Reads `[server]` and `[server.tls]`.
pub(super) fn read(table: &mut Table<'_>) -> Read {
    let mut t = table.section("server", "[server]");
    let secs = Duration::from_secs;
    let listen_value = t.get("listen");
    let mut listen: Vec<Listen> = listen_value.texts().iter().filter_map(listen_on).collect();
    if !listen_value.is_given() {
        listen.push(Listen::Tcp(([127, 0, 0, 1], 8080).into()));
    }
    let workers = t.get("workers").count(0, 0..=1024);
    let trusted_proxies: Vec<IpNet> =
        t.get("trusted_proxies").texts().iter().filter_map(check::network).collect();
    let proxy_protocol = t.get("proxy_protocol");
    let speak_proxy_protocol = proxy_protocol.flag(false);
    if speak_proxy_protocol && trusted_proxies.is_empty() {
        let hint = "list the load balancers that may connect in trusted_proxies".to_owned();
        proxy_protocol.cx.fail_absent(
            proxy_protocol.at.as_ref(),
            "proxy_protocol = true needs trusted_proxies",
            hint,
        );
    }
    let realm = t.get("realm").filled().filter(good_realm);
    let status = t.get("invalid_token_status");
    let invalid_token_status = match status.number(401, 0..=999) {
        401 => StatusCode::UNAUTHORIZED,
        422 => StatusCode::UNPROCESSABLE_ENTITY,
        other => {
            let message = format!("invalid_token_status = {other} is not known");
            status
                .fail(message, "it must be 401 (RFC 6750) or 422 (as flask-jwt-extended answers)".to_owned());
            StatusCode::UNAUTHORIZED
        }
    };
    let dpop_nonce = t.get("dpop_nonce").flag(false);
    let header_read_timeout = t.get("header_read_timeout").duration_or_unlimited(secs(10));
    let body_read_timeout = t.get("body_read_timeout").duration_or_unlimited(secs(30));
    let idle_timeout = t.get("idle_timeout").duration_or_unlimited(secs(75));
    let max_connections = t.get("max_connections").count_or_unlimited(16384);
    let limits = Limits {
        header_bytes_max: t.get("max_header_bytes").size_in_memory(32 << 10, 1 << 10..=1 << 20),
        headers_max: t.get("max_headers").count(100, 1..=10_000),
        // `http::Uri` holds at most 65,534 bytes.
        uri_bytes_max: t.get("max_uri_bytes").size_in_memory(8 << 10, 64..=63 << 10),
        token_bytes_max: t.get("max_token_bytes").size_in_memory(8 << 10, 256..=1 << 20),
        underscore_headers: t.get("underscore_headers").choice(&[("drop", false), ("allow", true)], false),
    };
    let max_body = t.get("max_body").size_or_unlimited(Some(10 << 20));
    let strip = t.get("strip_headers");
    let strip_headers = match strip.is_given() {
        true => strip.texts().iter().filter_map(check::editable_header).collect(),
        false => STRIP_HEADERS.map(HeaderName::from_static).into(),
    };
    // Zero cuts what runs at once; without limit a drain might never end.
    let drain_timeout = t.get("drain_timeout").duration_within(secs(30), Duration::ZERO..=secs(86_400));
    let access_log = t.get("access_log").choice(
        &[("json", AccessLog::Json), ("text", AccessLog::Text), ("off", AccessLog::Off)],
        AccessLog::Json,
    );
    let request_id_header =
        t.get("request_id_header").filled().and_then(|text| check::editable_header(&text));
    let tls = tls(&mut t, &listen_value);
    let tls_listens = tls.as_ref().is_some_and(|tls| !tls.listen.is_empty());
    if listen_value.is_empty_array() && !tls_listens {
        let hint = "name an address here, or give [server.tls] a listen of its own".to_owned();
        listen_value.cx.fail_absent(
            listen_value.at.as_ref(),
            "listen is empty: no client could connect",
            hint,
        );
    }
    overlaps(&listen_value);
    t.finish();
    Read {
        server: Server {
            listen,
            proxies: speak_proxy_protocol.then(|| trusted_proxies.clone().into()),
            tls,
            workers: if workers == 0 { cores() } else { workers },
            header_read_timeout,
            body_read_timeout,
            idle_timeout,
            max_connections,
            drain_timeout,
        },
        limits,
        forward: Forward {
            trusted_proxies,
            strip_headers,
            request_id_header: request_id_header.unwrap_or(HeaderName::from_static("x-request-id")),
        },
        gateway: Gateway {
            realm: realm.map_or("portcullis".into(), |text| text.boxed()),
            invalid_token_status,
            dpop_nonce,
            access_log,
        },
        listen_at: listen_value.at,
        max_body,
    }
}

/// Reads `[admin]`, whose listener must be none of `[server]`'s.
pub(super) fn read_admin(table: &mut Table<'_>, server: &Read) -> Admin {
    let mut t = table.section("admin", "[admin]");
    let cx = t.cx;
    let listen_value = t.get("listen");
    let text = listen_value.filled();
    let listen = text.as_ref().and_then(|text| {
        if text.value.starts_with("unix:") {
            text.fail(
                "the admin listener takes no Unix socket",
                "write an address such as \"127.0.0.1:9901\"".to_owned(),
            );
            return None;
        }
        check::listen_address(text)
    });
    let listen = listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 9901)));
    let tls = server.server.tls.iter().flat_map(|tls| &tls.listen);
    let mut bound = server.server.listen.iter().chain(tls);
    if bound.any(|other| matches!(other, Listen::Tcp(other) if collide(*other, listen))) {
        let message = format!("[admin] listens on {listen}, which [server] listens on too");
        let at = listen_value.at.as_ref().or(server.listen_at.as_ref());
        cx.fail(at, message, "give one of them another port".to_owned());
    }
    let token_value = t.get("token_file");
    let token_file =
        cx.resolve(token_value.filled().as_ref().map_or("state/admin.token", |text| &text.value));
    files::own(cx, "token_file", &token_file, token_value.at.as_ref(), false);
    t.finish();
    Admin { listen, token_file }
}

fn listen_on(text: &Text<'_>) -> Option<Listen> {
    let Some(path) = text.value.strip_prefix("unix:") else {
        return check::listen_address(text).map(Listen::Tcp);
    };
    if path.is_empty() {
        text.fail(
            format!("{} names no socket", text.quoted()),
            "write \"unix:/run/portcullis.sock\"".to_owned(),
        );
        return None;
    }
    Some(Listen::Unix(text.cx.resolve(path)))
}

/// Two of one list that could not both be bound.
fn overlaps(listen: &Value<'_>) {
    let items = listen.items("strings");
    if items.len() > LISTEN_MAX {
        listen.fail(
            format!("listen names {} addresses", items.len()),
            format!("at most {LISTEN_MAX} are taken"),
        );
        return;
    }
    let mut seen: Vec<(SocketAddr, String)> = Vec::new();
    for text in items.iter().filter_map(Value::text) {
        // Bad ones are reported by `listen_on`.
        let Ok(address) = text.value.replacen("localhost:", "127.0.0.1:", 1).parse() else { continue };
        // The very same string is reported as listed twice.
        let other = seen.iter().find(|(other, written)| collide(*other, address) && *written != text.value);
        if let Some((_, other)) = other {
            let message = format!("{} is within what {other:?} listens on", text.quoted());
            text.fail(message, "leave one of them out".to_owned());
        }
        seen.push((address, text.value));
    }
}

/// Whether the second of two binds would fail.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let wide = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || wide && a.is_ipv4() == b.is_ipv4())
}

fn good_realm(text: &Text<'_>) -> bool {
    let good = text.value.bytes().all(|b| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\\'));
    if !good {
        let message = format!("realm {} does not fit a header", text.quoted());
        text.fail(message, "write visible ASCII characters without '\"' and '\\'".to_owned());
    }
    good
}

/// Reads `[server.tls]`. Its listeners must be none of `clear`'s.
fn tls(server: &mut Table<'_>, clear: &Value<'_>) -> Option<Tls> {
    let mut t = server.section("tls", "[server.tls]");
    let cx = t.cx;
    if !t.is_given() {
        t.finish();
        return None;
    }
    let listen_value = t.get("listen");
    let pairs = t.get("certificates");
    listen_value.clone().required("add listen = [\"0.0.0.0:8443\"]");
    pairs.clone().required("add certificates = [{ cert = \"tls/cert.pem\", key = \"tls/key.pem\" }]");
    let listen: Vec<Listen> = listen_value.texts().iter().filter_map(listen_on).collect();
    overlaps(&listen_value);
    let bound: Vec<SocketAddr> = clear.texts().iter().filter_map(|text| text.value.parse().ok()).collect();
    for text in listen_value.texts() {
        if text.value.parse().is_ok_and(|address| bound.iter().any(|other| collide(*other, address))) {
            let message = format!("[server] listens on {} in clear text, too", text.quoted());
            text.fail(message, "give one of them another port".to_owned());
        }
    }
    if pairs.is_empty_array() {
        let hint = "name one such as { cert = \"tls/cert.pem\", key = \"tls/key.pem\" }".to_owned();
        pairs.fail("certificates is empty: no client could connect", hint);
    }
    let certificates = pairs.items("tables").iter().filter_map(certificate).collect();
    let client_ca = t.get("client_ca").text_or_none();
    if let Some(text) = &client_ca {
        files::authorities(text);
    }
    let client_auth = t.get("client_auth");
    let client_may_have_none = client_auth.choice(&[("require", false), ("request", true)], false);
    if client_may_have_none && client_ca.is_none() {
        client_auth.cx.fail_absent(client_auth.at.as_ref(), "client_auth needs client_ca", None);
    }
    let hsts = t.get("hsts").text_or_none().and_then(|text| hsts(&text));
    t.finish();
    let client_ca = client_ca.map(|text| cx.resolve(&text.value));
    Some(Tls { listen, files: Files { certificates, client_ca, client_may_have_none }, hsts })
}

fn certificate(item: &Value<'_>) -> Option<Pair> {
    let mut t = item.table();
    let cert = t.get("cert").required("name a PEM file with the chain").filled();
    let key = t.get("key").required("name a PEM file with the private key").filled();
    t.finish();
    files::pair(cert.as_ref(), key.as_ref())
}

fn hsts(text: &Text<'_>) -> Option<HeaderValue> {
    let value = HeaderValue::from_str(&text.value).ok().filter(|_| text.value.starts_with("max-age="));
    if value.is_none() {
        let message = format!("hsts {} does not begin with max-age", text.quoted());
        text.fail(message, "write \"max-age=31536000\"".to_owned());
    }
    value
}

/// Processor cores that this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

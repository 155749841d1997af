//! `[[upstreams]]`.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use http::uri::{Authority, Uri};

use super::context::Context;
use super::reader::{Table, Text, Value};
use super::suggest::{did_you_mean, quote};
use super::{check, files};
use crate::tls::Connect;
use crate::tls::settings::Client;
use crate::upstream::settings::{Balance, Health, PassiveHealth, Settings, Target};

const BALANCES: [&str; 5] =
    ["round_robin", "least_requests", "two_choices", "hash:header:NAME", "hash:subject"];

/// Reads `[[upstreams]]`.
pub(super) fn read(root: &mut Table<'_>) -> Vec<Settings> {
    let mut names = check::Names::new(root.cx, "upstreams");
    root.sections("upstreams").into_iter().map(|t| upstream(t, &mut names)).collect()
}

fn upstream<'c>(mut t: Table<'c>, names: &mut check::Names<'c>) -> Settings {
    let secs = Duration::from_secs;
    let name = t.get("name").required("give it a name, for routes to refer to").filled().filter(check::name);
    if let Some(name) = &name {
        t.rename("upstream", &name.value);
        names.add(&name.value, &name.at);
    }
    let addresses = targets(&t.get("targets").required("add targets = [\"http://127.0.0.1:5000\"]"));
    let balance = t.get("balance").text().and_then(|text| balance(&text)).unwrap_or(Balance::TwoChoices);
    let connect_timeout = t.get("connect_timeout").duration(secs(2));
    let resolve_every =
        t.get("resolve_every").duration_within(secs(10), Duration::from_millis(100)..=secs(3600));
    let response_timeout = t.get("response_timeout").duration_or_unlimited(secs(30));
    let stream_idle_timeout = t.get("stream_idle_timeout").duration_or_unlimited(secs(300));
    let retries = t.get("retries").number_u32(1, 0..=10);
    let max_requests = t.get("max_requests").count_or_unlimited(0);
    let http2 = t.get("http2").flag(false);
    let mut keepalive = t.get("keepalive").table();
    let keepalive_idle = keepalive.get("idle").duration(secs(60));
    let keepalive_max_idle = keepalive.get("max_idle").count(256, 0..=1_000_000);
    keepalive.finish();
    let health = health(&t.get("health"));
    let mut passive = t.get("passive_health").table();
    let passive_health = PassiveHealth {
        failures: passive.get("failures").number_u32(5, 0..=u32::MAX),
        window: passive.get("window").duration(secs(10)),
        eject: passive.get("eject").duration(secs(30)),
    };
    passive.finish();
    let targets = secured(addresses, tls(&t.get("tls")), http2, t.cx);
    t.finish();
    Settings {
        name: name.map_or_else(Box::default, |name| name.boxed()),
        targets,
        balance,
        connect_timeout,
        resolve_every,
        response_timeout,
        stream_idle_timeout,
        retries,
        max_requests,
        keepalive_idle,
        keepalive_max_idle,
        health,
        passive_health,
    }
}

/// A target as written.
struct Address<'c> {
    text: Text<'c>,
    authority: Authority,
    unix: Option<PathBuf>,
    https: bool,
    http2: bool,
    weight: u32,
}

/// The targets with what is needed to connect to them. Files are read when there is a target that needs them.
fn secured(addresses: Vec<Address<'_>>, files: Client, http2: bool, cx: &Context<'_>) -> Vec<Target> {
    let mut connect: Option<Connect> = None;
    let mut failed = false;
    let mut targets = Vec::with_capacity(addresses.len());
    for Address { text, authority, unix, https, http2: prior_knowledge, weight } in addresses {
        let http2 = http2 || prior_knowledge;
        if https && connect.is_none() && !failed {
            let alpn: &[u8] = if http2 { b"h2" } else { b"http/1.1" };
            match Connect::load(&files, alpn) {
                Ok(loaded) => connect = Some(loaded),
                Err(error) => {
                    failed = true;
                    let message = format!("target {} cannot be connected to: {error}", text.quoted());
                    cx.fail(Some(&text.at), message, None);
                }
            }
        }
        let tls = match https {
            true => connect.as_ref().and_then(|connect| connect.to(authority.host())),
            false => None,
        };
        targets.push(Target { url: text.boxed(), authority, unix, tls, http2, weight });
    }
    targets
}

fn targets<'c>(value: &Value<'c>) -> Vec<Address<'c>> {
    let items = value.items("strings or tables");
    if value.is_empty_array() {
        value.fail(
            "targets is empty: no request could be forwarded",
            "name one such as \"http://127.0.0.1:5000\"".to_owned(),
        );
    }
    let mut targets: Vec<Address<'_>> = Vec::new();
    let mut seen = HashSet::new();
    for item in items {
        let (text, weight) = match item.raw() {
            Some(toml::de::DeValue::Table(_)) => {
                let mut t = item.table();
                let url =
                    t.get("url").required("write { url = \"http://127.0.0.1:5000\", weight = 2 }").filled();
                let weight = t.get("weight").number_u32(1, 1..=1000);
                t.finish();
                (url, weight)
            }
            Some(toml::de::DeValue::String(_)) => (item.filled(), 1),
            _ => {
                item.fail_type("a string or a table { url, weight }");
                continue;
            }
        };
        let Some(text) = text else { continue };
        let Some(address) = target(text, weight) else { continue };
        let Address { text, authority, unix, .. } = &address;
        if !seen.insert(unix.as_ref().map_or(authority.to_string(), |path| path.display().to_string())) {
            let hint = "give it more requests with { url = \"…\", weight = 2 }".to_owned();
            text.fail(format!("target {} is listed twice", text.quoted()), hint);
        }
        targets.push(address);
    }
    targets
}

/// `http://HOST[:PORT]`, `unix:PATH`; the authority always has a port, unless it is a Unix socket's.
fn target(text: Text<'_>, weight: u32) -> Option<Address<'_>> {
    let wrong = |hint: String| {
        text.fail(format!("target {} is not an address", text.quoted()), hint);
        None
    };
    let value = text.value.as_str();
    if let Some(path) = value.strip_prefix("unix:") {
        if path.is_empty() {
            return wrong("write \"unix:/run/backend.sock\"".to_owned());
        }
        let unix = Some(text.cx.resolve(path));
        let authority = Authority::from_static("localhost");
        return Some(Address { authority, unix, https: false, http2: false, weight, text });
    }
    let Some((scheme, rest)) = value.split_once("://") else {
        let plain = !text.is_expanded() && !value.is_empty() && value.parse::<Authority>().is_ok();
        return wrong(if plain {
            format!("write {}", quote(&format!("http://{value}")))
        } else {
            "write it such as \"http://127.0.0.1:5000\"".to_owned()
        });
    };
    let default_port = match scheme {
        "http" | "h2c" => 80,
        "https" => 443,
        other => {
            let known = ["http://", "https://", "h2c://"];
            let all = || "targets start with \"http://\", \"https://\", \"h2c://\" or \"unix:\"".to_owned();
            return wrong(if text.is_expanded() {
                all()
            } else {
                did_you_mean(&format!("{other}://"), known, all)
            });
        }
    };
    if rest.contains('@') {
        return wrong(
            "leave user and password out: a client's credentials are forwarded, or set a header per route"
                .to_owned(),
        );
    }
    if let Some(end) = rest.find(['/', '?', '#']) {
        let hint = if text.is_expanded() {
            "leave out what comes after the port; rewrite of a route can set a path".to_owned()
        } else {
            let rewrite = if rest[end..].trim_matches('/').is_empty() {
                ""
            } else {
                "; rewrite of a route can set a path"
            };
            format!("write {}{rewrite}", quote(&format!("{scheme}://{}", &rest[..end])))
        };
        return wrong(hint);
    }
    // `Uri` wants what an `Authority` alone lets pass: a host, and a port that is a number.
    let uri: Option<Uri> = format!("http://{rest}/").parse().ok();
    let Some(host) = uri.as_ref().and_then(Uri::host).filter(|host| good_host(host)) else {
        return wrong(
            "write it such as \"http://127.0.0.1:5000\" or \"http://backend.internal:5000\"".to_owned(),
        );
    };
    let port = match uri.as_ref().and_then(Uri::port_u16) {
        Some(0) => return wrong("no server can be reached at port 0".to_owned()),
        Some(port) => port,
        None if rest.len() != host.len() => return wrong("ports are from 1 to 65535".to_owned()),
        None => default_port,
    };
    let authority = format!("{}:{port}", host.to_ascii_lowercase()).parse().ok()?;
    let (https, http2) = (scheme == "https", scheme == "h2c");
    Some(Address { authority, unix: None, https, http2, weight, text })
}

fn good_host(host: &str) -> bool {
    match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']').is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok()),
        None => {
            !host.is_empty()
                && host.len() <= 253
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
                && !host.starts_with('.')
                && !host.contains("..")
        }
    }
}

fn balance(text: &Text<'_>) -> Option<Balance> {
    if let Some(name) = text.value.strip_prefix("hash:header:") {
        return check::header_name(&text.part(name)).map(Balance::HashHeader);
    }
    Some(match text.value.as_str() {
        "round_robin" => Balance::RoundRobin,
        "least_requests" => Balance::LeastRequests,
        "two_choices" => Balance::TwoChoices,
        "hash:subject" => Balance::HashSubject,
        other => {
            let all = || format!("it must be {}", super::suggest::quoted_list(BALANCES, "or"));
            let hint = if text.is_expanded() { all() } else { did_you_mean(other, BALANCES, all) };
            text.fail(format!("balance = {} is not known", text.quoted()), hint);
            return None;
        }
    })
}

fn health(value: &Value<'_>) -> Option<Health> {
    let mut t = value.table();
    let secs = Duration::from_secs;
    let path_value = t.get("path");
    let interval = t.get("interval").duration(secs(5));
    let timeout_value = t.get("timeout");
    let timeout = timeout_value.duration(secs(1));
    let unhealthy_after = t.get("unhealthy_after").number_u32(3, 1..=1000);
    let healthy_after = t.get("healthy_after").number_u32(2, 1..=1000);
    let given = t.is_given();
    if !given {
        return None;
    }
    t.finish();
    if timeout > interval {
        let at = timeout_value.at.as_ref().or(value.at.as_ref());
        let hint = "probes would overlap: raise interval or lower timeout".to_owned();
        value.cx.fail(at, "the timeout of health is longer than its interval", hint);
    }
    let path = path_value.required("add path = \"/health\"").filled();
    let path = path.filter(|path| probe_path(path)).map_or_else(Box::default, |path| path.boxed());
    Some(Health { path, interval, timeout, unhealthy_after, healthy_after })
}

/// What is sent to a target as it is, with a query if it has one.
fn probe_path(text: &Text<'_>) -> bool {
    let good = text.value.starts_with('/') && !text.value.contains('#') && text.value.parse::<Uri>().is_ok();
    if !good {
        text.fail(
            format!("path {} cannot be asked for", text.quoted()),
            "write it such as \"/health\"".to_owned(),
        );
    }
    good
}

fn tls(value: &Value<'_>) -> Client {
    let mut t = value.table();
    let keys = ["ca_file", "server_name", "cert_file", "key_file"].map(|key| t.get(key));
    t.finish();
    let [ca, server_name, cert, key] = keys.each_ref().map(Value::text_or_none);
    let ca = ca.filter(files::authorities).map(|text| text.cx.resolve(&text.value));
    let server_name = server_name.filter(|name| check::host(name).is_some()).map(|name| name.boxed());
    match (&cert, &key) {
        (Some(cert), None) => cert.cx.fail_absent(Some(&cert.at), "cert_file needs key_file", None),
        (None, Some(key)) => key.cx.fail_absent(Some(&key.at), "key_file needs cert_file", None),
        _ => {}
    }
    let certificate = files::pair(cert.as_ref(), key.as_ref());
    Client { ca, server_name, certificate }
}

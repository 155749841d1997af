//! Rules for single words: names, header names, hosts, addresses, paths. Each records what is wrong with its text.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use http::HeaderName;
use ipnet::IpNet;

use super::context::Context;
use super::reader::Text;
use super::source::Span;
use super::suggest::quote;
use crate::route::path::{PathError, normalise};

/// Longest name: one that a revocation can carry.
const NAME_BYTES_MAX: usize = 255;

/// Fields that belong to one connection or to the framing of a message (RFC 9110 §7.6.1, RFC 9112 §6): neither set nor
/// removed by configuration.
const FRAMING: [&str; 12] = [
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A name that fits logs, metrics and revocations: 1 to 255 bytes, no control characters, no space at either end.
pub(super) fn name(text: &Text<'_>) -> bool {
    let value = &text.value;
    let wrong = if value.is_empty() {
        "is empty"
    } else if value.len() > NAME_BYTES_MAX {
        "is longer than 255 bytes"
    } else if value.chars().any(char::is_control) {
        "has a control character"
    } else if value.trim() != value {
        "begins or ends with a space"
    } else {
        return true;
    };
    text.fail(format!("{} {wrong}", text.named()), None);
    false
}

/// Names of which each may be there once.
pub(super) struct Names<'c> {
    cx: &'c Context<'c>,
    kind: &'static str,
    seen: HashMap<String, Span>,
}

impl<'c> Names<'c> {
    pub(super) fn new(cx: &'c Context<'c>, kind: &'static str) -> Self {
        Self { cx, kind, seen: HashMap::new() }
    }

    /// Records a problem if `name` was added before.
    pub(super) fn add(&mut self, name: &str, at: &Span) {
        if let Some(first) = self.seen.get(name) {
            let message = format!("there are two {} named {}", self.kind, quote(name));
            self.cx.fail(Some(at), message, format!("the first is on line {}", self.cx.line(first)));
            return;
        }
        self.seen.insert(name.to_owned(), at.clone());
    }
}

/// A scope (RFC 6749 §3.3).
pub(super) fn scope(text: &Text<'_>) -> bool {
    let good = text.value.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e));
    if !good {
        let hint = text.value.contains(' ').then(|| "list each scope by itself".to_owned());
        text.fail(format!("{} is not a scope", text.quoted()), hint);
    }
    good
}

/// A field name, in lower case.
pub(super) fn header_name(text: &Text<'_>) -> Option<HeaderName> {
    let name = HeaderName::from_bytes(text.value.as_bytes()).ok();
    if name.is_none() {
        let hint = "header names are letters, digits and \"-\", such as \"x-request-id\"".to_owned();
        text.fail(format!("{} is not a header name", text.quoted()), hint);
    }
    name
}

/// A field name that configuration may change.
pub(super) fn editable_header(text: &Text<'_>) -> Option<HeaderName> {
    let name = header_name(text)?;
    if FRAMING.contains(&name.as_str()) {
        let message = format!("header {} belongs to the gateway and cannot be changed", text.quoted());
        text.fail(message, "it says how a message is framed or where it goes".to_owned());
        return None;
    }
    Some(name)
}

/// [`editable_header`] for a name that is a key of the file.
pub(super) fn editable_header_key<'c>(cx: &'c Context<'c>, name: &str, at: &Span) -> Option<HeaderName> {
    editable_header(&Text::of_key(cx, name, at))
}

/// `name` with `_` for `-`: many programs take the two for the same.
pub(super) fn folded(name: &HeaderName) -> String {
    name.as_str().replace('_', "-")
}

/// `10.0.0.0/8`, or an address alone.
pub(super) fn network(text: &Text<'_>) -> Option<IpNet> {
    let value = text.value.as_str();
    if let Ok(address) = value.parse::<IpAddr>() {
        return Some(address.into());
    }
    match value.parse::<IpNet>() {
        Ok(net) if net.trunc() == net => Some(net),
        Ok(net) => {
            let message = format!("{} has bits set beyond its prefix", text.quoted());
            let hint =
                if text.is_expanded() { None } else { Some(format!("did you mean \"{}\"?", net.trunc())) };
            text.fail(message, hint);
            None
        }
        Err(_) => {
            let hint = "write networks such as \"10.0.0.0/8\", \"fd00::/8\" or \"192.0.2.7\"".to_owned();
            text.fail(format!("{} is not a network", text.quoted()), hint);
            None
        }
    }
}

/// `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080`.
pub(super) fn listen_address(text: &Text<'_>) -> Option<SocketAddr> {
    let value = text.value.as_str();
    let numeric = value.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    if let Ok(address) = numeric.as_deref().unwrap_or(value).parse() {
        return Some(address);
    }
    let port = |text: &str| text.parse::<u16>().is_ok();
    let shown = |hint: String| if text.is_expanded() { "write ADDRESS:PORT".to_owned() } else { hint };
    let hint = if port(value) {
        shown(format!("write \"127.0.0.1:{value}\", or \"0.0.0.0:{value}\" for every interface"))
    } else if let Some(number) = value.strip_prefix(':').or(value.strip_prefix("*:")).filter(|p| port(p)) {
        shown(format!("write \"0.0.0.0:{number}\" for every interface"))
    } else if value.contains("://") {
        "write an address and a port without a scheme, such as \"127.0.0.1:8080\"".to_owned()
    } else if value.parse::<IpAddr>().is_ok() || value == "localhost" {
        "add a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\"".to_owned()
    } else if value.rsplit_once(':').is_some_and(|(host, number)| port(number) && !host.contains(':')) {
        "write the address in numbers, such as \"127.0.0.1:8080\"; of host names only \"localhost\" is taken"
            .to_owned()
    } else {
        "write an address and a port, such as \"127.0.0.1:8080\", \"[::1]:8080\" or \"localhost:8080\""
            .to_owned()
    };
    text.fail(format!("{} is not an address to listen on", text.quoted()), hint);
    None
}

/// A host name or an address, without port, in lower case.
pub(super) fn host(text: &Text<'_>) -> Option<Box<str>> {
    let value = text.value.to_ascii_lowercase();
    let number = value.strip_prefix('[').and_then(|v| v.strip_suffix(']')).unwrap_or(&value);
    if number.parse::<IpAddr>().is_ok() {
        return match number.contains(':') {
            true => Some(format!("[{number}]").into()),
            false => Some(number.into()),
        };
    }
    let hint = if value.contains("://") {
        "write the host alone, without scheme and path".to_owned()
    } else if value.contains('/') {
        "the path belongs in path".to_owned()
    } else if value.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())) {
        "leave the port out: it is not looked at".to_owned()
    } else if !value.is_ascii() {
        "write international names in their ASCII form (\"xn--…\")".to_owned()
    } else if value == "*" {
        "leave it empty for any host".to_owned()
    } else if value.starts_with("*.") {
        "write the whole name; only the host of a route may begin with one \"*.\"".to_owned()
    } else if value.contains('*') {
        "a wildcard stands alone as the first label, such as \"*.example.com\"".to_owned()
    } else if value.ends_with('.') {
        "leave the dot at the end out".to_owned()
    } else if is_host_name(&value) {
        return Some(value.into());
    } else {
        "write a host name such as \"api.example.com\"".to_owned()
    };
    text.fail(format!("{} is not a host", text.quoted()), hint);
    None
}

fn is_host_name(value: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    value.len() <= 253 && value.split('.').all(label)
}

/// A path in the form in which the gateway matches and forwards it (CONTRACT §3.2). `None`, with a problem, for any
/// other. A `%2F` passes only with `encoded_slash`.
pub(super) fn path<'v>(text: &Text<'_>, value: &'v str, encoded_slash: bool) -> Option<&'v str> {
    let wrong = |message: &str, hint: String| {
        text.fail(format!("{} {message}", text.named()), hint);
        None
    };
    if !value.starts_with('/') {
        let hint = if text.is_expanded() {
            "paths start with \"/\"".to_owned()
        } else {
            format!("write {}", quote(&format!("/{value}")))
        };
        return wrong("does not start with \"/\"", hint);
    }
    match normal_path(value) {
        Err(reason) => wrong(reason.0, reason.1.to_owned()),
        Ok(normal) if normal != value => {
            let hint = if text.is_expanded() {
                "write it in its normal form".to_owned()
            } else {
                format!("write {}", quote(&normal))
            };
            wrong("is not in the form that paths are compared in", hint)
        }
        Ok(normal) if normal.contains("%2F") && !encoded_slash => wrong(
            "has an encoded slash",
            "set allow_encoded_slash = true, or no request can match".to_owned(),
        ),
        Ok(_) => Some(value),
    }
}

/// The one spelling that requests are matched in, by the very function that brings them into it; or what is wrong, and
/// what to do.
fn normal_path(path: &str) -> Result<std::borrow::Cow<'_, str>, (&'static str, &'static str)> {
    // What a person may mean by these, no request can have.
    for (c, message, hint) in [
        ('?', "has a query", "leave it out: the query is not looked at, and forwarded as it is"),
        ('#', "has a \"#\"", "leave the fragment out: clients never send it"),
        ('{', "has braces", "templates are not supported; a path matches everything below it"),
        ('}', "has braces", "templates are not supported; a path matches everything below it"),
    ] {
        if path.contains(c) {
            return Err((message, hint));
        }
    }
    if path.trim_end_matches('/').ends_with('*') {
        return Err(("ends with a \"*\"", "a path matches everything below it anyway; leave the \"*\" out"));
    }
    match normalise(path) {
        Ok(normal) => Ok(normal.path),
        Err(PathError::Escape) => {
            Err(("has a \"%\" that encodes nothing", "write \"%25\" for a percent sign"))
        }
        Err(PathError::Backslash) => {
            Err(("has a backslash", "write \"/\"; requests with a backslash are refused"))
        }
        Err(PathError::Control) => Err((
            "has a space or a control character",
            "write \"%20\" for a space; requests with control characters are refused",
        )),
        Err(_) => Err((
            "can never match",
            "requests are refused whose path is doubly encoded, not UTF-8 or has a disguised dot segment",
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_have_one_normal_form() {
        let check = |path: &str, expected: &str| assert_eq!(normal_path(path).unwrap(), expected, "{path}");
        check("/", "/");
        check("/a/b/", "/a/b/");
        check("//a//b", "/a/b");
        check("/a/./b/../c", "/a/c");
        check("/../..", "/");
        check("/a/..", "/");
        check("/%7euser/%c3%a9", "/~user/%C3%A9");
        check("/é", "/%C3%A9");
        check("/a%2fb", "/a%2Fb");
        let refuse =
            |path: &str, expected: &str| assert_eq!(normal_path(path).unwrap_err().0, expected, "{path}");
        refuse("/a?b", "has a query");
        refuse("/a#b", "has a \"#\"");
        refuse("/a\\b", "has a backslash");
        refuse("/a/*", "ends with a \"*\"");
        refuse("/%", "has a \"%\" that encodes nothing");
        refuse("/%+1", "has a \"%\" that encodes nothing");
        refuse("/%é1", "has a \"%\" that encodes nothing");
        refuse("/a b", "has a space or a control character");
        refuse("/a%00", "has a space or a control character");
        refuse("/a%5Cb", "has a backslash");
        refuse("/a/%252e/b", "can never match");
        refuse("/a/..;/b", "can never match");
        refuse("/%ff", "can never match");
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(path in "/[a-c./%0-9éF?*]{0,20}") {
            if let Ok(normal) = normal_path(&path) {
                prop_assert_eq!(normal_path(&normal), Ok(normal.clone()));
            }
        }
    }
}

//! Who a request came from and by which way: `Via` (RFC 9110 §7.6.3), `Forwarded` (RFC 7239) and `X-Forwarded-*`.
//!
//! Anyone can write these fields, so they are believed from trusted proxies alone, and then only as far back as the
//! chain of trusted proxies goes: each of them vouches for the entry it appended, nobody for those further left.

use std::net::IpAddr;

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue, Version};
use ipnet::IpNet;

use crate::route::{Head, Peer};

use super::fields::Lines;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// A field by which a proxy tells of its client; from anyone else it is a claim. Those that we do not write
/// (`X-Forwarded-Port`, `X-Forwarded-Prefix`, `X-Real-IP`) steer backends just as well.
pub(super) fn is_claim(folded: &str) -> bool {
    folded == "forwarded" || folded.starts_with("x-forwarded-") || folded == "x-real-ip"
}

/// The peer's address is in one of the trusted networks.
pub(super) fn is_trusted(trusted: &[IpNet], peer: &Peer) -> bool {
    peer.address.is_some_and(|address| holds(trusted, address.ip().to_canonical()))
}

/// The client's address: the peer's, or when that is a trusted proxy the rightmost hop that is not one. Where all are
/// trusted it is the leftmost; an entry that is no address hides everything left of it.
///
/// `X-Forwarded-For` is read before `Forwarded`: most proxies write the first, and those hand a `Forwarded` that
/// their client made up on as it is.
pub(super) fn client_address(trusted: &[IpNet], peer: &Peer, headers: &HeaderMap) -> Option<IpAddr> {
    let peer_address = peer.address?.ip().to_canonical();
    if !is_trusted(trusted, peer) {
        return Some(peer_address);
    }
    // Split at every comma, quoted or not: no address holds one, and an unbalanced quote that a client made up must
    // not swallow the entry which a proxy put after it.
    let entries =
        |name| headers.get_all(name).iter().flat_map(|value: &HeaderValue| value.as_bytes().split(comma));
    let hop = if headers.contains_key(X_FORWARDED_FOR) {
        farthest(trusted, entries(X_FORWARDED_FOR).map(node_address))
    } else {
        farthest(trusted, entries(FORWARDED).map(|element| for_parameter(element).and_then(node_address)))
    };
    Some(hop.unwrap_or(peer_address))
}

/// Scheme and authority in the URL that the client used. Of several trusted proxies the first one that wrote them down
/// met the client, so its entry counts: the leftmost.
pub(super) fn client_origin<'a>(
    trusted: &[IpNet],
    head: &'a Head,
    headers: &'a HeaderMap,
) -> (&'a str, &'a str) {
    let own = if head.peer().secure { "https" } else { "http" };
    let said = |name| {
        let text = headers.get(name).filter(|_| is_trusted(trusted, head.peer()))?.to_str().ok()?;
        text.split(',').next().map(str::trim).filter(|text| !text.is_empty())
    };
    let scheme = said(X_FORWARDED_PROTO).filter(|text| matches!(*text, "http" | "https"));
    (scheme.unwrap_or(own), said(X_FORWARDED_HOST).unwrap_or(head.authority().as_str()))
}

/// Writes what we know ourselves. Whatever of these fields is still in the map came from a trusted proxy, and goes on
/// before it.
pub(super) fn write(headers: &mut HeaderMap, trusted: bool, head: &Head, lines: &mut Lines) {
    let peer = head.peer();
    let address = peer.address.map(|address| address.ip().to_canonical());
    let proto: &[u8] = if peer.secure { b"https" } else { b"http" };
    let host = head.authority().as_str().as_bytes();
    let mut begin = |name: HeaderName, lines: &mut Lines| {
        lines.begin(&name);
        if trusted {
            lines.push_all(headers, &name, b", ");
            headers.remove(name);
        }
    };

    begin(X_FORWARDED_FOR, lines);
    push_node(address, false, lines);
    lines.end();

    begin(X_FORWARDED_PROTO, lines);
    lines.push(proto);
    lines.end();

    begin(X_FORWARDED_HOST, lines);
    lines.push(host);
    lines.end();

    begin(FORWARDED, lines);
    lines.push(b"for=");
    push_node(address, true, lines);
    // RFC 7239 §4: a colon is no token character.
    let quote: &[u8] = if host.contains(&b':') { b"\"" } else { b"" };
    for part in [b";host=", quote, host, quote, b";proto=", proto] {
        lines.push(part);
    }
    lines.end();
}

/// `Via` with the version in which the message was received.
pub(super) const fn via(received: Version) -> &'static str {
    match received {
        Version::HTTP_09 | Version::HTTP_10 => "1.0 portcullis",
        Version::HTTP_11 => "1.1 portcullis",
        _ => "2 portcullis",
    }
}

fn holds(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// Of the hops from left to right, the rightmost untrusted one, or the leftmost of the trusted run at the end.
fn farthest(trusted: &[IpNet], hops: impl Iterator<Item = Option<IpAddr>>) -> Option<IpAddr> {
    hops.fold(None, |found, hop| match hop {
        Some(address) if found.is_some() && holds(trusted, address) => found,
        hop => hop,
    })
}

fn comma(byte: &u8) -> bool {
    *byte == b','
}

/// The value of `for` in one element of `Forwarded`.
fn for_parameter(element: &[u8]) -> Option<&[u8]> {
    let mut pairs = element.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    pairs.find_map(|pair| match pair.split_at_checked("for=".len()) {
        Some((name, value)) if name.eq_ignore_ascii_case(b"for=") => Some(value),
        _ => None,
    })
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`, quoted or not.
fn node_address(node: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(node).ok()?.trim();
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None if text.matches(':').count() == 1 => text.split(':').next()?,
        None => text,
    };
    bare.parse().ok().map(|address: IpAddr| address.to_canonical())
}

fn push_node(address: Option<IpAddr>, quoted: bool, lines: &mut Lines) {
    match address {
        None => lines.push(b"unknown"), // a Unix socket (RFC 7239 §6.2)
        Some(address) if quoted && address.is_ipv6() => {
            lines.push(b"\"[");
            lines.push_address(address);
            lines.push(b"]\"");
        }
        Some(address) => lines.push_address(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(peer: &str, fields: &[(&'static str, &str)], expected: &str) {
        let trusted: Vec<IpNet> =
            ["10.0.0.0/8", "fd00::/8"].iter().map(|network| network.parse().unwrap()).collect();
        let peer = Peer { address: Some(peer.parse().unwrap()), local: None, secure: false, tls: None };
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let address = client_address(&trusted, &peer, &headers).unwrap();
        assert_eq!(address.to_string(), expected, "for {fields:?}");
    }

    #[test]
    fn an_untrusted_peer_is_the_client_whatever_it_says() {
        check("192.0.2.9:1", &[], "192.0.2.9");
        check("192.0.2.9:1", &[("x-forwarded-for", "10.0.0.1")], "192.0.2.9");
        check("[::ffff:192.0.2.9]:1", &[("forwarded", "for=1.1.1.1")], "192.0.2.9");
    }

    #[test]
    fn the_rightmost_untrusted_hop_is_the_client() {
        let xff = "x-forwarded-for";
        check("10.0.0.1:1", &[], "10.0.0.1");
        check("10.0.0.1:1", &[(xff, "203.0.113.7")], "203.0.113.7");
        check("[::ffff:10.0.0.1]:1", &[(xff, "203.0.113.7")], "203.0.113.7");
        check("10.0.0.1:1", &[(xff, "1.1.1.1, 203.0.113.7")], "203.0.113.7");
        check("10.0.0.1:1", &[(xff, "1.1.1.1, 203.0.113.7, 10.2.2.2, fd00::1")], "203.0.113.7");
        check("10.0.0.1:1", &[(xff, "1.1.1.1"), (xff, "203.0.113.7"), (xff, "10.2.2.2")], "203.0.113.7");
        check("10.0.0.1:1", &[(xff, "10.9.9.9, 10.2.2.2")], "10.9.9.9");
        check("10.0.0.1:1", &[(xff, "203.0.113.7, unknown, 10.2.2.2")], "10.2.2.2");
        check("10.0.0.1:1", &[(xff, "203.0.113.7, unknown")], "10.0.0.1");
        check("10.0.0.1:1", &[(xff, "203.0.113.7:8080")], "203.0.113.7");
        check("10.0.0.1:1", &[(xff, "[2001:db8::1]:80")], "2001:db8::1");
        check("10.0.0.1:1", &[(xff, "2001:db8::1")], "2001:db8::1");
    }

    #[test]
    fn forwarded_is_read_where_there_is_no_other_chain() {
        let f = "forwarded";
        check("10.0.0.1:1", &[(f, "for=203.0.113.7")], "203.0.113.7");
        check("10.0.0.1:1", &[(f, "proto=https; FOR=\"[2001:db8::1]:47011\";host=a")], "2001:db8::1");
        check("10.0.0.1:1", &[(f, "for=1.1.1.1, for=203.0.113.7;proto=http, for=10.1.1.1")], "203.0.113.7");
        check("10.0.0.1:1", &[(f, "for=\"evil, for=203.0.113.7")], "203.0.113.7");
        check("10.0.0.1:1", &[(f, "for=203.0.113.7, for=_hidden")], "10.0.0.1");
        check("10.0.0.1:1", &[(f, "for=1.1.1.1"), ("x-forwarded-for", "203.0.113.7")], "203.0.113.7");
    }

    #[test]
    fn a_unix_socket_has_no_address_and_no_trust() {
        let peer = Peer::default();
        assert_eq!(client_address(&["0.0.0.0/0".parse().unwrap()], &peer, &HeaderMap::new()), None);
    }
}

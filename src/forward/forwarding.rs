//! What the rewriting of all messages has in common, prepared once per configuration.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use crate::clock::UnixTime;
use crate::route::settings::{Limits, Route};
use crate::route::{Head, Peer, is_underscored};

use super::fields::{fold, retain};
use super::forwarded;
use super::hop::is_hop_by_hop;
use super::identity::Reserved;
use super::request_id::RequestId;
use super::settings::Settings;

/// Whom we believe, and which names never pass.
#[derive(Clone, Debug)]
pub struct Forwarding {
    trusted_proxies: Vec<IpNet>,
    reserved: Reserved,
    request_id_header: HeaderName,
    underscores: bool,
}

impl Forwarding {
    /// Reserves `strip_headers` and the identity headers of **every** route: backends stand behind several routes,
    /// and one of them must not let through what another vouches for.
    pub fn new<'r>(
        settings: &Settings,
        limits: &Limits,
        routes: impl IntoIterator<Item = &'r Route>,
    ) -> Self {
        let mut reserved = Reserved::default();
        settings.strip_headers.iter().for_each(|name| reserved.insert(name));
        routes.into_iter().for_each(|route| reserved.insert_all(&route.identity_headers));
        Self {
            trusted_proxies: settings.trusted_proxies.clone(),
            reserved,
            request_id_header: settings.request_id_header.clone(),
            underscores: limits.underscore_headers,
        }
    }

    /// The address of the client behind any trusted proxies, for logs and rate limits; `None` on a Unix socket.
    /// `headers` as received.
    pub fn client_address(&self, peer: &Peer, headers: &HeaderMap) -> Option<IpAddr> {
        forwarded::client_address(&self.trusted_proxies, peer, headers)
    }

    /// Scheme and authority as the client wrote them: those of the request, or what a trusted proxy says of them.
    pub fn client_origin<'a>(&self, head: &'a Head, headers: &'a HeaderMap) -> (&'a str, &'a str) {
        forwarded::client_origin(&self.trusted_proxies, head, headers)
    }

    /// The request's id: the client's if it is fit, else a new one. `headers` as received.
    pub fn request_id(&self, headers: &HeaderMap, now: UnixTime) -> RequestId {
        RequestId::kept_or_made(headers, &self.request_id_header, now)
    }

    /// Takes out of trailers, of either direction, whatever must be known before the body or is ours to say
    /// (RFC 9110 §6.5.1).
    pub fn strip_trailers(&self, trailers: &mut HeaderMap) {
        retain(trailers, |name| {
            let folded = fold(name.as_str());
            let dropped = (is_underscored(name) && !self.underscores)
                || is_hop_by_hop(&folded)
                || forwarded::is_claim(&folded)
                || is_head_only(&folded)
                || self.is_ours(&folded);
            !dropped
        });
    }

    pub(super) fn trusts(&self, peer: &Peer) -> bool {
        forwarded::is_trusted(&self.trusted_proxies, peer)
    }

    /// The header that carries the request's id.
    pub const fn request_id_header(&self) -> &HeaderName {
        &self.request_id_header
    }

    pub(super) const fn allows_underscores(&self) -> bool {
        self.underscores
    }

    /// Stripped, or set by us alone.
    pub(super) fn is_reserved(&self, folded: &str) -> bool {
        self.reserved.covers(folded)
    }

    /// Reserved, or the request id's.
    pub(super) fn is_ours(&self, folded: &str) -> bool {
        self.is_reserved(folded) || folded == fold(self.request_id_header.as_str())
    }
}

/// Framing, routing, credentials, and how to read the content.
fn is_head_only(folded: &str) -> bool {
    matches!(
        folded,
        "authorization"
            | "cache-control"
            | "content-encoding"
            | "content-length"
            | "content-range"
            | "content-type"
            | "cookie"
            | "expect"
            | "host"
            | "max-forwards"
            | "set-cookie"
            | "via"
            | "www-authenticate"
    )
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use crate::route::fixtures;

    use super::*;

    #[test]
    fn trailers_cannot_say_what_heads_cannot() {
        let settings = Settings {
            trusted_proxies: Vec::new(),
            strip_headers: vec![HeaderName::from_static("remote-user")],
            request_id_header: HeaderName::from_static("x-request-id"),
        };
        let limits = Limits { underscore_headers: true, ..fixtures::LIMITS };
        let forwarding = Forwarding::new(&settings, &limits, [&fixtures::route()]);
        let mut trailers = HeaderMap::new();
        for name in [
            "x-auth-subject",
            "x_auth_subject",
            "remote_user",
            "authorization",
            "content-length",
            "transfer-encoding",
            "host",
            "x-forwarded-for",
            "x_request_id",
            "grpc-status",
            "x_note",
        ] {
            trailers.append(name, HeaderValue::from_static("v"));
        }
        forwarding.strip_trailers(&mut trailers);
        let mut left: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["grpc-status", "x_note"]);
    }
}

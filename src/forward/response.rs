//! From the upstream's response to the client's.

use http::header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, TRANSFER_ENCODING, UPGRADE, VIA};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, Version};

use crate::route::settings::Route;

use super::fields::retain;
use super::forwarding::Forwarding;
use super::request::edit;
use super::request_id::RequestId;
use super::{forwarded, hop};

/// What the rewriting of one response needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Inbound<'a> {
    /// The route of its request.
    pub route: &'a Route,
    /// Prepared settings.
    pub forwarding: &'a Forwarding,
    /// The id of its request.
    pub request_id: &'a RequestId,
    /// It is a 101 that the caller turns into a tunnel, to a client that speaks this version: in HTTP/1.1, `Connection`
    /// and `Upgrade` go on to it; in HTTP/2, the answer is 200 (RFC 8441 §5).
    pub tunnel: Option<Version>,
}

/// Rewrites a response head for its client. `Content-Length` stays, for HEAD and 304 too, where it tells the length
/// of a body that is not sent (RFC 9110 §8.6). Allocates nothing of its own.
pub fn response(mut parts: Parts, inbound: &Inbound<'_>) -> Parts {
    let headers = &mut parts.headers;
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH); // the other one rules (RFC 9112 §6.3), and is about to go
    }
    hop::remove_nominated(headers);
    retain(headers, |name| !hop::is_hop_by_hop(name.as_str()));
    headers.append(VIA, HeaderValue::from_static(forwarded::via(parts.version)));
    headers.insert(inbound.forwarding.request_id_header(), inbound.request_id.value());
    edit(headers, &inbound.route.response_headers);
    match inbound.tunnel.filter(|_| parts.status == StatusCode::SWITCHING_PROTOCOLS) {
        Some(Version::HTTP_2) => {
            headers.remove(SEC_WEBSOCKET_ACCEPT);
            parts.status = StatusCode::OK;
        }
        Some(_) => {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        }
        None => {}
    }
    // The client's connection decides what is spoken on it; an upstream of HTTP/1.0 must not end it.
    parts.version = Version::HTTP_11;
    parts
}

/// Takes out of a response's trailers what speaks of the upstream's connection.
pub fn response_trailers(trailers: &mut HeaderMap) {
    retain(trailers, |name| !hop::is_hop_by_hop(name.as_str()));
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, Response};

    use crate::clock::UnixTime;
    use crate::route::fixtures;
    use crate::route::settings::HeaderEdits;

    use super::super::settings::Settings;
    use super::*;

    fn back(
        route: &Route,
        status: u16,
        tunnel: Option<Version>,
        fields: &[(&'static str, &'static str)],
    ) -> HeaderMap {
        let mut received = Response::builder().status(status).version(Version::HTTP_10);
        for (name, value) in fields {
            received = received.header(*name, *value);
        }
        let settings = Settings {
            trusted_proxies: Vec::new(),
            strip_headers: Vec::new(),
            request_id_header: HeaderName::from_static("x-request-id"),
        };
        let forwarding = Forwarding::new(&settings, &fixtures::LIMITS, [route]);
        let request_id = RequestId::made(UnixTime::from_secs(1));
        let inbound = Inbound { route, forwarding: &forwarding, request_id: &request_id, tunnel };
        let parts = response(received.body(()).unwrap().into_parts().0, &inbound);
        assert_eq!(parts.version, Version::HTTP_11);
        assert_eq!(parts.headers["via"], "1.0 portcullis");
        assert_eq!(parts.headers["x-request-id"], request_id.value());
        let mut headers = parts.headers;
        headers.remove("via");
        headers.remove("x-request-id");
        headers
    }

    fn check(fields: &[(&'static str, &'static str)], expected: &[&str]) {
        let headers = back(&fixtures::route(), 200, None, fields);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, expected, "for {fields:?}");
    }

    #[test]
    fn hop_by_hop_fields_end_here() {
        check(
            &[
                ("connection", "keep-alive, x-own"),
                ("keep-alive", "timeout=5"),
                ("x-own", "1"),
                ("upgrade", "h2c"),
                ("trailer", "x"),
                ("proxy-authenticate", "Basic"),
                ("set-cookie", "a=1"),
                ("server", "legacy"),
            ],
            &["server", "set-cookie"],
        );
        check(&[("x-request-id", "the upstream's own")], &[]);
    }

    #[test]
    fn the_length_of_a_body_that_is_not_sent_stays() {
        check(&[("content-length", "1234")], &["content-length"]);
        check(&[("connection", "content-length"), ("content-length", "1234")], &["content-length"]);
    }

    #[test]
    fn a_length_beside_chunked_is_not_believed() {
        check(&[("content-length", "1"), ("transfer-encoding", "chunked")], &[]);
    }

    #[test]
    fn the_routes_edits_speak_last() {
        let mut route = fixtures::route();
        route.response_headers = HeaderEdits {
            set: vec![(HeaderName::from_static("server"), HeaderValue::from_static("gate"))],
            remove: vec![HeaderName::from_static("x-powered-by")],
        };
        let headers = back(&route, 200, None, &[("x-powered-by", "php"), ("server", "legacy")]);
        assert_eq!(headers.len(), 1);
        assert_eq!(headers["server"], "gate");
    }

    #[test]
    fn only_a_tunnel_that_was_asked_for_goes_on_as_one() {
        let sent = [("connection", "upgrade"), ("upgrade", "websocket")];
        let (http1, http2) = (Some(Version::HTTP_11), Some(Version::HTTP_2));
        assert_eq!(back(&fixtures::route(), 101, http1, &sent).len(), 2);
        assert_eq!(back(&fixtures::route(), 101, http2, &sent).len(), 0);
        assert_eq!(back(&fixtures::route(), 101, None, &sent).len(), 0);
        assert_eq!(back(&fixtures::route(), 200, http1, &sent).len(), 0);
    }
}

//! The opening of a WebSocket, from either version of HTTP to either: over HTTP/1.1 with a key that the server answers
//! (RFC 6455 §4), over HTTP/2 with CONNECT and neither (RFC 8441 §5).
//!
//! The caller asks with `Upgrade` and gets a 101, whatever is spoken to the target; `Sec-WebSocket-Key` may be absent
//! from the request then, and the answer to one that was not is in the 101.

use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use h2::ext::Protocol;
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, TE, UPGRADE,
};
use http::response::Parts;
use http::{Method, Request, Response, StatusCode};

use super::channel::{self, Channels, Place};
use super::error::Fault;
use super::request;
use super::response::{self, Lease};
use super::stream::Download;
use super::target::{Failed, Manner, Target, Ticket};
use super::upload::Outgoing;
use super::wire::Lost;
use super::{Exchange, Served, Slot};

/// RFC 6455 §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// RFC 6455 §4.1, point 7 of the request.
const KEY_BYTES: usize = 16;

/// The answer to a key (RFC 6455 §4.2.2).
fn accept(key: &[u8]) -> HeaderValue {
    // What the protocol says; nothing secret depends on it.
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(GUID);
    let text = STANDARD.encode(hash.finish().as_ref());
    HeaderValue::try_from(text).expect("base64 is visible ASCII")
}

/// Gives a request over HTTP/1.1 a key of ours where its client, that speaks HTTP/2, has none; what the target must
/// answer to it.
pub(super) fn ask(headers: &mut HeaderMap) -> Option<HeaderValue> {
    if headers.contains_key(SEC_WEBSOCKET_KEY) {
        return None; // the answer is for the client to judge
    }
    let mut key = [0; KEY_BYTES];
    // Any key will do: it tells a server that knows WebSockets from one that does not, and a cache.
    let _ = getrandom::fill(&mut key);
    let key = HeaderValue::try_from(STANDARD.encode(key)).expect("base64 is visible ASCII");
    let expected = accept(key.as_bytes());
    headers.insert(SEC_WEBSOCKET_KEY, key);
    Some(expected)
}

/// Judges the answer to a key of ours.
pub(super) fn answered(head: &Parts, expected: Option<&HeaderValue>) -> Result<(), Fault> {
    let said = head.headers.get(SEC_WEBSOCKET_ACCEPT);
    match expected {
        Some(expected) if head.status == StatusCode::SWITCHING_PROTOCOLS && said != Some(expected) => {
            Err(Fault::WebSocketAccept)
        }
        _ => Ok(()),
    }
}

/// The same question over HTTP/2, and the answer to the client's key.
fn connect(mut request: Request<Outgoing>) -> (Request<Outgoing>, Option<HeaderValue>) {
    *request.method_mut() = Method::CONNECT;
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    let headers = request.headers_mut();
    for name in [UPGRADE, CONNECTION, TE] {
        headers.remove(name);
    }
    let key = headers.remove(SEC_WEBSOCKET_KEY);
    (request, key.map(|key| accept(key.as_bytes())))
}

/// The 200 of HTTP/2 as the 101 that it would be in HTTP/1.1.
fn switched(head: &mut Parts, accept: Option<HeaderValue>) {
    head.status = StatusCode::SWITCHING_PROTOCOLS;
    head.headers.remove(SEC_WEBSOCKET_ACCEPT);
    if let Some(accept) = accept {
        head.headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
}

impl Target {
    /// A WebSocket to a target that speaks HTTP/2: on a stream where the target takes them there, else over a
    /// connection that ALPN has made HTTP/1.1. Where it takes neither, the request goes on without the upgrade.
    pub(super) async fn attempt_websocket(
        self: &Arc<Self>,
        channels: &Channels,
        request: Request<Outgoing>,
        manner: Manner<'_>,
        retries: &mut u32,
        slot: &mut Option<Slot>,
        ticket: Ticket,
    ) -> Result<Exchange, Failed> {
        let mut idle = channels.take();
        loop {
            let (place, took) = match idle.take() {
                Some(place) => (place, None),
                None => match self.open_channel(channels).await {
                    Ok((place, took)) => (place, Some(took)),
                    Err(error) => return Err(Failed { error, unsent: Some(Box::new(request)) }),
                },
            };
            if !place.takes_websockets(self.connect_timeout()).await {
                drop(place);
                return match self.open_http1().await {
                    Some(wire) => {
                        self.attempt_http1(Some(wire), Box::new(request), manner, retries, slot, ticket).await
                    }
                    None => self.attempt_plain(channels, request, manner, retries, slot, ticket).await,
                };
            }
            let reused = place.reused;
            let (asking, accept) = connect(self.as_http2(*channel::copy(&request)));
            let lost = match place.send(asking, manner).await {
                Ok(response) => {
                    let served = Served { target: Arc::clone(&self.name), reused, connect: took };
                    let lease = Lease::new(ticket, slot.take(), None);
                    return self.opened(response, accept, place, lease, served).await;
                }
                Err(lost) => lost,
            };
            drop(place);
            match lost {
                Lost::Unsent(..) if reused => {}
                Lost::Unsent(_, error) => {
                    return Err(self.lost(Lost::Unsent(Box::new(request), error), reused, false));
                }
                lost => return Err(self.lost(lost, reused, false)),
            }
        }
    }

    async fn opened(
        self: &Arc<Self>,
        response: Response<Download>,
        accept: Option<HeaderValue>,
        place: Place,
        lease: Lease,
        served: Served,
    ) -> Result<Exchange, Failed> {
        let (mut head, body) = response.into_parts();
        if let Err(fault) = response::check(&mut head, false) {
            return Err(self.lost(Lost::Fault(fault), false, true));
        }
        let idle = self.stream_idle_timeout();
        if head.status != StatusCode::OK {
            let response = Response::from_parts(head, body);
            let response = response::stream_http2(response, place, lease, idle).await;
            return Ok(Exchange { response, served, tunnel: None });
        }
        let Some(stream) = body.into_tunnel() else {
            let error = std::io::Error::other("the stream was not to become a tunnel");
            return Err(self.lost(Lost::Silent(None, error.into()), false, true));
        };
        switched(&mut head, accept);
        let (response, tunnel) = response::switch_http2(head, stream, place, lease, idle);
        Ok(Exchange { response, served, tunnel: Some(tunnel) })
    }

    /// As any other request over HTTP/2.
    async fn attempt_plain(
        self: &Arc<Self>,
        channels: &Channels,
        mut request: Request<Outgoing>,
        manner: Manner<'_>,
        retries: &mut u32,
        slot: &mut Option<Slot>,
        ticket: Ticket,
    ) -> Result<Exchange, Failed> {
        for name in [UPGRADE, CONNECTION] {
            request.headers_mut().remove(name);
        }
        let request = self.as_http2(request);
        self.attempt_http2(channels, Box::new(request), manner, retries, slot, ticket).await
    }

    fn as_http2(&self, mut request: Request<Outgoing>) -> Request<Outgoing> {
        request::to_http2(&mut request, self.scheme(), &self.host);
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_key_is_the_one_of_the_standard() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_key_is_made_only_where_there_is_none() {
        let mut headers = HeaderMap::new();
        let expected = ask(&mut headers).unwrap();
        let key = headers[SEC_WEBSOCKET_KEY].clone();
        assert_eq!(STANDARD.decode(key.as_bytes()).unwrap().len(), KEY_BYTES);
        assert_eq!(accept(key.as_bytes()), expected);
        assert_eq!(ask(&mut headers), None);
        assert_eq!(headers[SEC_WEBSOCKET_KEY], key);
    }
}

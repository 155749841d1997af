//! Requests on their way out: one framing, decided here.

use http::header::{CONTENT_LENGTH, HOST, HeaderValue, TE, TRANSFER_ENCODING};
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{Request, Uri, Version};
use http_body::Body as _;

use crate::answer::Body;

use super::upload::Outgoing;

/// The request as HTTP/1.1 with an origin-form target and a framing that fits its body.
pub(super) fn outgoing(request: Request<Body>) -> Box<Request<Outgoing>> {
    let (mut head, body) = request.into_parts();
    head.version = Version::HTTP_11;
    if head.uri.scheme().is_some() || head.uri.authority().is_some() {
        let target = head.uri.path_and_query().cloned();
        head.uri = target.map_or_else(Uri::default, Uri::from);
    }
    // Framing is the body's, never what a header claims: with a Content-Length that it finds and no body, the
    // upstream would take the next request for it.
    let headers = &mut head.headers;
    headers.remove(TRANSFER_ENCODING);
    if body.is_end_stream() {
        if headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0") {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
    } else if let Some(length) = body.size_hint().exact() {
        let mut said = headers.get_all(CONTENT_LENGTH).iter();
        if said
            .next()
            .is_none_or(|said| said.to_str().ok().and_then(|text| text.parse().ok()) != Some(length))
            || said.next().is_some()
        {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
    } else if !headers.contains_key(CONTENT_LENGTH) {
        // Over HTTP/1.1 nothing else would tell of the body.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    Box::new(Request::from_parts(head, Outgoing::new(body)))
}

/// For a target that speaks HTTP/1.1, whatever it was made ready for before. `Host` is required (RFC 9112 §3.2); the
/// target's own where the caller has set none.
pub(super) fn to_http1(request: &mut Request<Outgoing>, host: &HeaderValue) {
    request.body_mut().keep_trailers(false);
    if request.version() == Version::HTTP_2 {
        *request.version_mut() = Version::HTTP_11;
        let authority = request.uri().authority().map(|authority| HeaderValue::from_str(authority.as_str()));
        if let Some(Ok(authority)) = authority {
            request.headers_mut().insert(HOST, authority);
        }
        let target = request.uri().path_and_query().cloned();
        *request.uri_mut() = target.map_or_else(Uri::default, Uri::from);
        let unsaid = !request.headers().contains_key(CONTENT_LENGTH);
        if unsaid && !request.body().is_end_stream() && request.body().size_hint().exact().is_none() {
            request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
    // Trailers were asked for in the hope of a target that can send them.
    request.headers_mut().remove(TE);
    if !request.headers().contains_key(HOST) {
        request.headers_mut().insert(HOST, host.clone());
    }
}

/// For a target that speaks HTTP/2: scheme and host go into pseudo-fields (RFC 9113 §8.3.1), and frames delimit the
/// body.
pub(super) fn to_http2(request: &mut Request<Outgoing>, scheme: &Scheme, host: &HeaderValue) {
    request.body_mut().keep_trailers(true);
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    headers.remove(TRANSFER_ENCODING);
    let said = headers.remove(HOST);
    let mut parts = Parts::default();
    parts.scheme = Some(scheme.clone());
    let authority = |host: &HeaderValue| Authority::try_from(host.as_bytes()).ok();
    parts.authority = said.as_ref().and_then(authority).or_else(|| authority(host));
    let target = request.uri().path_and_query().cloned();
    parts.path_and_query = Some(target.unwrap_or(PathAndQuery::from_static("/")));
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;

    use crate::answer::BoxError;

    use super::*;

    fn framing(headers: &[(&'static str, &'static str)], body: Body) -> Vec<String> {
        let mut request = Request::get("http://client.example:1/a?b").body(body).unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        let request = outgoing(request);
        assert_eq!(request.uri(), "/a?b");
        let mut lines: Vec<String> = request
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort();
        lines
    }

    fn streaming() -> Body {
        let frame = Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"abc")));
        Body::boxed(StreamBody::new(stream::iter([frame])))
    }

    #[test]
    fn the_body_decides_its_framing() {
        let chunked = ["transfer-encoding: chunked"];
        assert!(framing(&[], Body::empty()).is_empty());
        assert_eq!(framing(&[("content-length", "0")], Body::empty()), ["content-length: 0"]);
        assert_eq!(framing(&[("content-length", "5")], Body::empty()), ["content-length: 0"]);
        assert!(framing(&[("transfer-encoding", "chunked")], Body::empty()).is_empty());
        assert_eq!(framing(&[], Body::full("abc")), ["content-length: 3"]);
        assert_eq!(framing(&[("content-length", "9")], Body::full("abc")), ["content-length: 3"]);
        let twice = [("content-length", "3"), ("content-length", "3")];
        assert_eq!(framing(&twice, Body::full("abc")), ["content-length: 3"]);
        assert_eq!(framing(&[], streaming()), chunked);
        assert_eq!(framing(&[("transfer-encoding", "gzip")], streaming()), chunked);
        assert_eq!(framing(&[("content-length", "3")], streaming()), ["content-length: 3"]);
    }

    #[test]
    fn an_asterisk_stays_one() {
        let request = Request::options("*").body(Body::empty()).unwrap();
        assert_eq!(outgoing(request).uri(), "*");
    }
}

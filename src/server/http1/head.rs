//! A good head as a request; its values share the bytes that were read.

use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use crate::answer::Body;
use crate::server::HeadFacts;
use crate::server::guard::{Fault, Head, HeadScan};

/// On a request.
pub(super) type Verdict = Result<HeadFacts, Fault>;

/// Fields that are added before the request goes on; there is to be room for them.
const ADDED: usize = 4;

/// The request whose head these bytes are; `spare` is a map whose room is used again.
///
/// # Errors
/// What `http` does not take. The scan is at least as strict everywhere.
pub(super) fn request(
    bytes: &Bytes,
    scan: &HeadScan,
    head: &Head,
    mut spare: HeaderMap,
    body: Body,
) -> Result<Request<Body>, Fault> {
    let (method, target) = scan.request_line();
    let method = Method::from_bytes(&bytes[method]).map_err(|_| Fault::Method)?;
    let uri = Uri::from_maybe_shared(bytes.slice(target)).map_err(|_| Fault::TargetBytes)?;
    spare.clear();
    spare.reserve(scan.fields().len() + ADDED);
    for field in scan.fields() {
        let name = HeaderName::from_bytes(&bytes[field.name.clone()]).map_err(|_| Fault::HeadTooLarge)?;
        let value = HeaderValue::from_maybe_shared(bytes.slice(field.value.clone()));
        spare.append(name, value.map_err(|_| Fault::Control)?);
    }
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = if head.http_10 { Version::HTTP_10 } else { Version::HTTP_11 };
    *request.headers_mut() = spare;
    Ok(request)
}

/// What stands for a request that was refused on its raw bytes. For a HEAD it is one, so that the answer has no body.
pub(super) fn stand_in(head: bool) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    if head {
        *request.method_mut() = Method::HEAD;
    }
    request.headers_mut().insert(HOST, HeaderValue::from_static("refused"));
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    request
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::server::HeadLimits;
    use crate::server::guard::Scanned;

    /// Heads, some of them good.
    fn near_head() -> impl Strategy<Value = Vec<u8>> {
        let line = "(GET|POST|get|M-SEARCH|OPTIONS) (/[!-~]{0,12}|http://a[!-~]{0,9}|\\*|/[a-z?%]{1,20}) HTTP/1\\.[01]";
        let field = "[!-~]{1,9}: ?[ -~\t\u{80}-\u{ff}]{0,20}|x-[a-z]{1,5}:[ \t]{0,3}[a-z ]{0,9}[ \t]{0,3}";
        let odd = prop::sample::select(vec![
            &b"\r"[..],
            b"\n",
            b"\0",
            b" ",
            b"\t",
            b":",
            b"\r\n",
            b"\x7f",
            b"\xff",
            b"#",
            b"\\",
            b"\"",
            b"{",
        ]);
        let edits = prop::collection::vec((any::<prop::sample::Index>(), odd), 0..2);
        (line, prop::collection::vec(field, 0..6), edits).prop_map(|(line, fields, edits)| {
            let mut bytes = format!("{line}\r\nhost: a\r\n").into_bytes();
            for field in fields {
                bytes.extend_from_slice(field.as_bytes());
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"\r\n");
            for (at, odd) in edits {
                let at = at.index(bytes.len());
                bytes.splice(at..at, odd.iter().copied());
            }
            bytes
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_the_scan_passes_is_a_request_and_another_parser_reads_it_so(bytes in near_head()) {
            let bytes = Bytes::from(bytes);
            let mut scan = HeadScan::default();
            let Scanned::Head(head) = scan.scan(&bytes, &HeadLimits::new(1024, 16, 100)) else { return Ok(()) };
            let ours = request(&bytes, &scan, &head, HeaderMap::new(), Body::empty());
            prop_assert!(ours.is_ok(), "{ours:?}");
            let ours = ours.unwrap();
            let mut fields = [httparse::EMPTY_HEADER; 32];
            let mut theirs = httparse::Request::new(&mut fields);
            let end = theirs.parse(&bytes);
            prop_assert_eq!(end, Ok(httparse::Status::Complete(head.end)));
            prop_assert_eq!(theirs.method, Some(ours.method().as_str()));
            let target = theirs.path.unwrap_or_default();
            prop_assert_eq!(&target.parse::<Uri>().unwrap(), ours.uri());
            prop_assert_eq!(theirs.version, Some(u8::from(!head.http_10)));
            prop_assert_eq!(theirs.headers.len(), ours.headers().len());
            for field in theirs.headers.iter() {
                let mut same = ours.headers().get_all(field.name).iter();
                prop_assert!(same.any(|value| value.as_bytes() == field.value), "{field:?}");
            }
        }
    }

    #[test]
    fn a_good_head_is_the_request_that_it_says() {
        let bytes = Bytes::from_static(
            b"\r\nPOST http://b:80/x?y HTTP/1.1\r\nHOST:a\r\nX: \t a\tb \t\r\nx:\r\nCaf: \xc3\xa9\r\n\r\nrest",
        );
        let mut scan = HeadScan::default();
        let Scanned::Head(head) = scan.scan(&bytes, &HeadLimits::new(1024, 8, 100)) else { panic!() };
        let request = request(&bytes, &scan, &head, HeaderMap::new(), Body::empty()).unwrap();
        assert_eq!((request.method(), request.version()), (&Method::POST, Version::HTTP_11));
        assert_eq!(request.uri(), "http://b:80/x?y");
        let fields: Vec<_> =
            request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let expected: [(&str, &[u8]); 4] =
            [("host", b"a"), ("x", b"a\tb"), ("x", b""), ("caf", "é".as_bytes())];
        assert_eq!(fields, expected);
        assert_eq!(&bytes[head.end..], b"rest");
    }
}

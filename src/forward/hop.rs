//! Hop-by-hop fields: they speak of one connection and end with it (RFC 9110 §7.6.1).

use http::HeaderMap;
use http::header::{CONNECTION, CONTENT_LENGTH, TE};

use super::fields::members;

/// Never forwarded, nominated or not.
pub(super) fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
            | "proxy-authenticate"
            | "proxy-authentication-info"
            | "proxy-authorization"
    )
}

/// Removes every field that `Connection` lists, except `Content-Length`: the client may not change how the body is
/// delimited. `Connection` itself stays for the caller to remove.
///
/// Any name can be listed, those of essential fields too. `Authorization`, `Cookie` and the like are removed as the
/// RFC says: the upstream then knows less of the client than we do, never more. What we vouch for is safe because it
/// is set afterwards.
pub(super) fn remove_nominated(headers: &mut HeaderMap) {
    let mut line = 0;
    // The value is cloned (a reference count) because its names are removed from the map it stands in.
    while let Some(value) = headers.get_all(CONNECTION).iter().nth(line).cloned() {
        line += 1;
        // What nearly everybody says; it names nothing that would not go anyway.
        if value.as_bytes().eq_ignore_ascii_case(b"keep-alive") {
            continue;
        }
        for name in members(&value) {
            let kept = name.eq_ignore_ascii_case(CONTENT_LENGTH.as_str())
                || name.eq_ignore_ascii_case(CONNECTION.as_str());
            if !kept {
                headers.remove(name);
            }
        }
    }
}

/// The client reads trailers: `TE: trailers` (RFC 9110 §10.1.4), which gRPC asks for end to end.
pub(super) fn wants_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(TE).iter().flat_map(members).any(|coding| coding.eq_ignore_ascii_case("trailers"))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn check(fields: &[(&'static str, &'static str)], expected: &[&str]) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        remove_nominated(&mut headers);
        headers.remove(CONNECTION);
        let mut left: Vec<_> = headers.keys().map(|name| name.as_str()).collect();
        left.sort_unstable();
        assert_eq!(left, expected, "for {fields:?}");
    }

    #[test]
    fn removes_what_connection_lists() {
        check(&[("connection", "keep-alive"), ("a", "1")], &["a"]);
        check(
            &[("connection", "X-One, close ,,x-two"), ("x-one", "1"), ("x-two", "2"), ("x-three", "3")],
            &["x-three"],
        );
        check(&[("connection", "a"), ("connection", "b,c"), ("a", "1"), ("b", "2"), ("c", "3")], &[]);
        check(&[("connection", "connection, a"), ("connection", "b"), ("a", "1"), ("b", "2")], &[]);
        check(&[("connection", "a"), ("a", "1"), ("a", "2")], &[]);
        check(&[("connection", "\"a\", a b, (c)"), ("a", "1")], &["a"]);
    }

    #[test]
    fn framing_cannot_be_nominated_away() {
        check(
            &[
                ("connection", "Content-Length, authorization"),
                ("content-length", "3"),
                ("authorization", "x"),
            ],
            &["content-length"],
        );
    }
}

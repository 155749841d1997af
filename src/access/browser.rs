//! Whether a request that a browser may have sent with our cookies was made by our own pages: pages elsewhere can make
//! a browser send requests, and the browser adds the cookies by itself (RFC 6265 §8.2).

use http::header::ORIGIN;
use http::{HeaderMap, HeaderValue};
use subtle::ConstantTimeEq as _;

use crate::route::Authority;
use crate::token::{BearerError, CSRF_COOKIE, own_cookie};

const CSRF_HEADER: &str = "x-csrf-token";
const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Whether the page that made the request is one of this host, or of `allowed` origins, as far as the browser tells:
/// `Origin` (RFC 6454 §7) must name this host and port, and `Sec-Fetch-Site` (W3C Fetch Metadata) must be
/// `same-origin` or `none`. What says neither is no browser of today, and nobody's page.
pub fn is_own_page(headers: &HeaderMap, host: &HeaderValue, allowed: &[Box<str>]) -> bool {
    if is_allowed(headers, allowed) {
        return true;
    }
    let site_is_ours = all(headers, SEC_FETCH_SITE, |value| matches!(value, b"same-origin" | b"none"));
    site_is_ours && is_own_origin(headers, host, &[])
}

/// The same by `Origin` alone, for the handshake of a WebSocket.
pub fn is_own_origin(headers: &HeaderMap, host: &HeaderValue, allowed: &[Box<str>]) -> bool {
    is_allowed(headers, allowed) || all(headers, ORIGIN.as_str(), |value| is_of_host(value, host))
}

/// Whether the request repeats in `x-csrf-token` the value of the cookie, which a page of another host cannot read;
/// and, where the token was issued with such a value, that very one, so that a value of another session does not do.
///
/// # Errors
/// One of our cookies is there twice.
pub fn repeats_csrf(headers: &HeaderMap, of_token: Option<&str>) -> Result<bool, BearerError> {
    let Some(cookie) = own_cookie(headers, CSRF_COOKIE)? else { return Ok(false) };
    let mut repeated = headers.get_all(CSRF_HEADER).iter();
    let (Some(first), None) = (repeated.next(), repeated.next()) else { return Ok(false) };
    let same = |text: &str| bool::from(text.as_bytes().ct_eq(first.as_bytes()));
    Ok(same(cookie) && of_token.is_none_or(same))
}

/// An origin of the list; `*` is none, for it goes without credentials (Fetch §3.2.5).
fn is_allowed(headers: &HeaderMap, allowed: &[Box<str>]) -> bool {
    let is_listed =
        |value: &[u8]| allowed.iter().any(|origin| &**origin != "*" && origin.as_bytes() == value);
    headers.contains_key(ORIGIN) && all(headers, ORIGIN.as_str(), is_listed)
}

fn all(headers: &HeaderMap, name: &str, holds: impl Fn(&[u8]) -> bool) -> bool {
    headers.get_all(name).iter().all(|value| holds(value.as_bytes()))
}

/// `scheme://host[:port]` of this host. Whether we are reached by TLS is not known behind a proxy that ends it, so
/// both schemes do; the cookies themselves travel over TLS alone.
fn is_of_host(origin: &[u8], host: &HeaderValue) -> bool {
    let Ok(text) = std::str::from_utf8(origin) else { return false };
    let (rest, default) = match text.split_once("://") {
        Some(("https", rest)) => (rest, 443),
        Some(("http", rest)) => (rest, 80),
        _ => return false,
    };
    let parse = |value: &HeaderValue| Authority::parse(value).ok();
    let Some((theirs, ours)) = HeaderValue::from_str(rest).ok().and_then(|v| parse(&v)).zip(parse(host))
    else {
        return false;
    };
    theirs.host() == ours.host() && theirs.port().unwrap_or(default) == ours.port().unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn check(host: &str, fields: &[(&'static str, &str)], expected: bool) {
        let allowed = ["https://app.example.com".into(), "*".into()];
        let host = HeaderValue::from_str(host).unwrap();
        assert_eq!(is_own_page(&headers(fields), &host, &allowed), expected, "{host:?} {fields:?}");
    }

    #[test]
    fn the_page_must_be_of_this_host_and_port() {
        let host = "api.example.com";
        check(host, &[], true);
        for own in ["https://api.example.com", "https://API.example.com:443", "http://api.example.com"] {
            check(host, &[("origin", own)], true);
        }
        check("api.example.com:8443", &[("origin", "https://api.example.com:8443")], true);
        check("api.example.com:443", &[("origin", "https://api.example.com")], true);
        for other in [
            "null",
            "",
            "*",
            "https://evil.example",
            "https://api.example.com.evil.example",
            "https://x.api.example.com",
            "https://api.example.com:8443",
            "ftp://api.example.com",
            "https://api.example.com/",
            "https://api.example.com https://evil.example",
        ] {
            check(host, &[("origin", other)], false);
            check(host, &[("origin", "https://api.example.com"), ("origin", other)], false);
        }
    }

    #[test]
    fn fetch_metadata_is_believed_when_it_says_no() {
        for (site, expected) in
            [("same-origin", true), ("none", true), ("same-site", false), ("cross-site", false), ("", false)]
        {
            check("a.example", &[("sec-fetch-site", site)], expected);
            check("a.example", &[("sec-fetch-site", site), ("origin", "https://a.example")], expected);
            check("a.example", &[("sec-fetch-site", site), ("origin", "https://evil.example")], false);
        }
    }

    #[test]
    fn an_allowed_origin_may_be_another_site() {
        let other = ("sec-fetch-site", "cross-site");
        check("a.example", &[("origin", "https://app.example.com"), other], true);
        check("a.example", &[("origin", "*"), other], false);
    }

    #[test]
    fn the_value_is_that_of_the_cookie_and_of_the_token() {
        for (cookie, repeated, of_token, expected) in [
            ("v", &["v"][..], None, true),
            ("v", &["v"], Some("v"), true),
            ("v", &["v"], Some("w"), false),
            ("w", &["v"], Some("v"), false),
            ("v", &["V"], None, false),
            ("v", &[], None, false),
            ("v", &["v", "v"], None, false),
            ("", &[""], None, false),
        ] {
            let cookie = format!("__Host-portcullis_csrf={cookie}");
            let mut fields = vec![("cookie", &*cookie)];
            fields.extend(repeated.iter().map(|value| ("x-csrf-token", *value)));
            assert_eq!(repeats_csrf(&headers(&fields), of_token), Ok(expected), "{fields:?} {of_token:?}");
        }
    }
}

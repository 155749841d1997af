//! Tokens in cookies (RFC 6265): which of a request's cookies are ours, and the one that is its token.
//!
//! The prefix `__Host-` has browsers take them only over TLS, for this host alone and for every path
//! (draft-ietf-httpbis-rfc6265bis §4.1.3.2): no neighbouring host can plant one.

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

use super::bearer::{BearerError, credentials, is_b64token};
use super::binding::Scheme;
use super::types::TokenType;

/// The access token; scripts cannot read it.
pub const ACCESS_COOKIE: &str = "__Host-portcullis_access";
/// The refresh token; scripts cannot read it.
pub const REFRESH_COOKIE: &str = "__Host-portcullis_refresh";
/// What unsafe requests repeat in `x-csrf-token`; scripts of the same host read it.
pub const CSRF_COOKIE: &str = "__Host-portcullis_csrf";

/// The session of the dashboard. It is for the admin listener alone, but browsers do not tell the ports of a host apart,
/// so it comes to the other listeners as well; it ends there.
pub const DASHBOARD_COOKIE: &str = "portcullis_dashboard";

/// Where tokens are looked for (`token_transport`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// In `Authorization`.
    pub header: bool,
    /// In cookies.
    pub cookie: bool,
}

impl Transport {
    /// `Authorization` alone.
    pub const HEADER: Self = Self { header: true, cookie: false };
}

/// The token of a request, not verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presented<'a> {
    /// Its text.
    pub text: &'a str,
    /// How it was presented; by a cookie as a bearer token.
    pub scheme: Scheme,
    /// A browser may have sent it by itself, whoever made it send the request.
    pub by_cookie: bool,
}

/// The name of the cookie for tokens of this type.
pub const fn cookie_name(token_type: TokenType) -> &'static str {
    match token_type {
        TokenType::Access => ACCESS_COOKIE,
        TokenType::Refresh => REFRESH_COOKIE,
    }
}

/// The token of a request, of the type that is wanted. One in `Authorization` beside one in a cookie is an error
/// whichever of the two would count: an upstream may look at the other. Allocates nothing.
///
/// # Errors
/// See [`BearerError`].
pub fn presented(
    headers: &HeaderMap,
    wanted: TokenType,
    transport: Transport,
    token_bytes_max: usize,
) -> Result<Option<Presented<'_>>, BearerError> {
    let header = credentials(headers, token_bytes_max).map(|found| {
        found.map(|found| Presented { text: found.token, scheme: found.scheme, by_cookie: false })
    });
    if !transport.cookie {
        return header;
    }
    match (header, own_cookie(headers, cookie_name(wanted))?) {
        (Ok(Some(_)) | Err(BearerError::Twice), Some(_)) => Err(BearerError::Twice),
        (_, Some(text)) if text.len() > token_bytes_max => Err(BearerError::TooLong),
        (_, Some(text)) if !is_b64token(text.as_bytes()) => Err(BearerError::Malformed),
        (Err(error), Some(_)) => Err(error),
        (Ok(None), Some(text)) => Ok(Some(Presented { text, scheme: Scheme::Bearer, by_cookie: true })),
        (header, None) if transport.header => header,
        (_, None) => Ok(None),
    }
}

/// The value of one of our cookies; an empty one counts as none. HTTP/2 may split the field (RFC 9113 §8.2.3).
///
/// # Errors
/// [`BearerError::Twice`] when any of ours is there twice: it is not known which one another program would take.
pub fn own_cookie<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, BearerError> {
    let mut found = None;
    let mut seen = [false; OURS.len()];
    for pair in pairs(headers) {
        let Some(at) = OURS.iter().position(|ours| ours.as_bytes() == pair.0) else { continue };
        if std::mem::replace(&mut seen[at], true) {
            return Err(BearerError::Twice);
        }
        if OURS[at] == name && !pair.1.is_empty() {
            found = Some(std::str::from_utf8(pair.1).map_err(|_| BearerError::Malformed)?);
        }
    }
    Ok(found)
}

/// Takes our cookies out of a request, so that no upstream sees a refresh token. All others stay as they are, byte
/// for byte and in their order; a field that has none of ours is not touched.
pub fn remove_own_cookies(headers: &mut HeaderMap) {
    if !pairs(headers).any(|(name, _)| is_ours(name)) {
        return;
    }
    let mut kept: Vec<HeaderValue> = Vec::new();
    for value in headers.get_all(COOKIE) {
        let mut rest = Vec::with_capacity(value.len());
        let pieces = value.as_bytes().split(|&byte| byte == b';').filter(|piece| !is_ours(pair(piece).0));
        for piece in pieces {
            match rest.is_empty() {
                true => rest.extend_from_slice(piece.trim_ascii_start()),
                false => {
                    rest.push(b';');
                    rest.extend_from_slice(piece);
                }
            }
        }
        // What is left of a field value is one.
        kept.extend((!rest.is_empty()).then(|| HeaderValue::from_bytes(&rest).ok()).flatten());
    }
    headers.remove(COOKIE);
    for value in kept {
        headers.append(COOKIE, value);
    }
}

const OURS: [&str; 4] = [ACCESS_COOKIE, REFRESH_COOKIE, CSRF_COOKIE, DASHBOARD_COOKIE];

fn is_ours(name: &[u8]) -> bool {
    OURS.iter().any(|ours| ours.as_bytes() == name)
}

/// Name and value of every cookie (RFC 6265 §5.4).
fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b';').map(pair))
}

fn pair(piece: &[u8]) -> (&[u8], &[u8]) {
    let equals = piece.iter().position(|&byte| byte == b'=');
    let (name, value) = match equals {
        Some(at) => (&piece[..at], &piece[at + 1..]),
        None => (piece, &[][..]),
    };
    (name.trim_ascii(), value.trim_ascii())
}

#[cfg(test)]
mod tests {
    use http::header::AUTHORIZATION;

    use super::*;

    fn headers(authorization: &str, cookies: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if !authorization.is_empty() {
            headers.append(AUTHORIZATION, HeaderValue::from_str(authorization).unwrap());
        }
        for value in cookies {
            headers.append(COOKIE, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn check(
        transport: (bool, bool),
        authorization: &str,
        cookies: &[&str],
        expected: Result<Option<(&str, bool)>, BearerError>,
    ) {
        let transport = Transport { header: transport.0, cookie: transport.1 };
        let headers = headers(authorization, cookies);
        let found = presented(&headers, TokenType::Access, transport, 16);
        let found = found.map(|found| found.map(|found| (found.text, found.by_cookie)));
        assert_eq!(found, expected, "{transport:?} {authorization:?} {cookies:?}");
    }

    const COOKIE_A: &str = "__Host-portcullis_access=a.b.c";

    #[test]
    fn a_token_is_taken_from_where_it_may_be() {
        check((true, false), "Bearer x.y.z", &[COOKIE_A], Ok(Some(("x.y.z", false))));
        check((true, false), "", &[COOKIE_A], Ok(None));
        check((false, true), "", &[COOKIE_A], Ok(Some(("a.b.c", true))));
        check((false, true), "Bearer x.y.z", &[], Ok(None));
        check(
            (true, true),
            "Bearer x.y.z",
            &["a=1; __host-portcullis_access=no"],
            Ok(Some(("x.y.z", false))),
        );
        check((true, true), "Basic eDp5", &[COOKIE_A], Ok(Some(("a.b.c", true))));
        check((true, true), "", &["a=1;__Host-portcullis_access=a.b.c ;b"], Ok(Some(("a.b.c", true))));
        check((true, true), "", &["a=1", "b=\u{fc}; __Host-portcullis_access=a"], Ok(Some(("a", true))));
        check((true, true), "", &["__Host-portcullis_access="], Ok(None));
        check((true, true), "", &["__Host-portcullis_refresh=a.b.c"], Ok(None));
    }

    #[test]
    fn a_token_in_two_places_is_ambiguous() {
        for transport in [(true, true), (false, true)] {
            check(transport, "Bearer x.y.z", &[COOKIE_A], Err(BearerError::Twice));
            check(transport, "", &[COOKIE_A, COOKIE_A], Err(BearerError::Twice));
            check(transport, "", &[COOKIE_A, "__Host-portcullis_access="], Err(BearerError::Twice));
            let csrf = "__Host-portcullis_csrf=1; __Host-portcullis_csrf=2";
            check(transport, "", &[COOKIE_A, csrf], Err(BearerError::Twice));
        }
    }

    #[test]
    fn a_cookie_holds_a_token_of_bounded_length_or_nothing_of_use() {
        check((true, true), "", &["__Host-portcullis_access=a b"], Err(BearerError::Malformed));
        check((true, true), "", &["__Host-portcullis_access=\u{fc}"], Err(BearerError::Malformed));
        check((true, true), "", &["__Host-portcullis_access=\"a.b.c\""], Err(BearerError::Malformed));
        check((true, true), "", &["__Host-portcullis_access=0123456789abcdefg"], Err(BearerError::TooLong));
    }

    #[test]
    fn only_our_cookies_are_taken_out() {
        for (before, after) in [
            (&["a=1; b=\"2\" ;c", "\u{fc}=;;"][..], &["a=1; b=\"2\" ;c", "\u{fc}=;;"][..]),
            (&[COOKIE_A], &[]),
            (&["__Host-portcullis_access=x; a=1;  b=2"], &["a=1;  b=2"]),
            (&["a=1; __Host-portcullis_refresh=x;b=2"], &["a=1;b=2"]),
            (&["a=1; __Host-portcullis_csrf", "b = 2; __Host-portcullis_csrf = x"], &["a=1", "b = 2"]),
            (
                &["a=__Host-portcullis_refresh; x__Host-portcullis_csrf=1", COOKIE_A],
                &["a=__Host-portcullis_refresh; x__Host-portcullis_csrf=1"],
            ),
        ] {
            let mut headers = headers("", before);
            remove_own_cookies(&mut headers);
            let left: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
            let expected: Vec<_> = after.iter().map(|text| text.as_bytes()).collect();
            assert_eq!(left, expected, "{before:?}");
        }
    }
}

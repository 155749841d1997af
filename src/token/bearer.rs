//! Credentials out of a request (RFC 6750 §2.1). Never the query string (RFC 6750 §2.3 is not implemented: tokens in
//! URLs end up in logs and histories).

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use super::Scheme;

/// Why the credentials of a request cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BearerError {
    /// Two `Authorization` fields, or (with cookies) a token in two places: 400 `invalid_request`, for it is not
    /// known which one the upstream would take.
    #[error("the request carries credentials more than once")]
    Twice,
    /// `Bearer` without a token, or with one that is not of RFC 6750's `b64token` form.
    #[error("the bearer token is malformed")]
    Malformed,
    /// Longer than `max_token_bytes`.
    #[error("the token is longer than allowed")]
    TooLong,
}

/// A token as a request carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials<'a> {
    /// Its text.
    pub token: &'a str,
    /// How it was presented.
    pub scheme: Scheme,
}

/// The token of the `Authorization` field; `None` without the field or with another scheme than `Bearer` (RFC 6750) and
/// `DPoP` (RFC 9449 §7.1). The scheme is case-insensitive (RFC 9110 §11.1). Allocates nothing.
///
/// # Errors
/// See [`BearerError`].
pub fn credentials(
    headers: &HeaderMap,
    token_bytes_max: usize,
) -> Result<Option<Credentials<'_>>, BearerError> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let Some(field) = fields.next() else { return Ok(None) };
    if fields.next().is_some() {
        return Err(BearerError::Twice);
    }
    read(field, token_bytes_max)
}

/// `Bearer 1*SP b64token` (RFC 9110 §11.4, RFC 6750 §2.1), `DPoP 1*SP b64token`.
fn read(field: &HeaderValue, token_bytes_max: usize) -> Result<Option<Credentials<'_>>, BearerError> {
    let bytes = field.as_bytes();
    let scheme = bytes.split(|&byte| byte == b' ' || byte == b'\t').next().unwrap_or_default();
    let (length, scheme) = match scheme {
        name if name.eq_ignore_ascii_case(b"bearer") => (name.len(), Scheme::Bearer),
        name if name.eq_ignore_ascii_case(b"dpop") => (name.len(), Scheme::Dpop),
        _ => return Ok(None),
    };
    let mut token = &bytes[length..];
    while let [b' ', rest @ ..] | [rest @ .., b' '] = token {
        token = rest;
    }
    if token.len() > token_bytes_max {
        return Err(BearerError::TooLong);
    }
    if !is_b64token(token) {
        return Err(BearerError::Malformed);
    }
    let token = std::str::from_utf8(token).map_err(|_| BearerError::Malformed)?;
    Ok(Some(Credentials { token, scheme }))
}

/// `1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="`
pub(super) fn is_b64token(token: &[u8]) -> bool {
    let mut body = token;
    while let [rest @ .., b'='] = body {
        body = rest;
    }
    // Looks at all of it, whatever the first byte says: without a way out of the loop, the compiler takes many at once.
    let is_char = |byte: u8| {
        byte.is_ascii_alphanumeric() | matches!(byte, b'-'..=b'/') | matches!(byte, b'_' | b'~' | b'+')
    };
    !body.is_empty() && body.iter().fold(true, |good, &byte| good & is_char(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(fields: &[&[u8]]) -> Result<Option<String>, BearerError> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(field).unwrap());
        }
        credentials(&headers, 16).map(|found| found.map(|found| found.token.to_owned()))
    }

    #[test]
    fn reads_the_token_whatever_the_case_of_the_scheme() {
        for field in ["Bearer a.b.c", "bearer a.b.c", "BEARER a.b.c", "bEaReR   a.b.c"] {
            assert_eq!(of(&[field.as_bytes()]), Ok(Some("a.b.c".to_owned())), "{field}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("dPoP a.b.c"));
        let found = credentials(&headers, 16).unwrap().unwrap();
        assert_eq!((found.token, found.scheme), ("a.b.c", Scheme::Dpop));
        assert_eq!(of(&[b"Bearer -._~+/9z=="]), Ok(Some("-._~+/9z==".to_owned())));
    }

    #[test]
    fn another_scheme_counts_as_no_token() {
        for field in
            [&b"Basic YTpi"[..], b"", b"Bearera.b.c", b"Digest a=\"Bearer x\"", b"Dpop2 a.b.c", b"\xff x"]
        {
            assert_eq!(of(&[field]), Ok(None), "{field:?}");
        }
        assert_eq!(of(&[]), Ok(None));
    }

    #[test]
    fn refuses_a_bearer_field_that_carries_no_well_formed_token() {
        for field in [
            &b"Bearer"[..],
            b"Bearer ",
            b"Bearer  ",
            b"Bearer a b",
            b"Bearer a,b",
            b"Bearer\ta.b.c",
            b"Bearer a\t",
            b"Bearer a@",
            b"Bearer =",
            b"Bearer a=b",
            b"Bearer \"a\"",
            b"Bearer a\xff",
            b"Bearer a%2e",
        ] {
            assert_eq!(of(&[field]), Err(BearerError::Malformed), "{field:?}");
        }
    }

    #[test]
    fn refuses_two_fields_and_tokens_that_are_too_long() {
        assert_eq!(of(&[b"Bearer a", b"Bearer a"]), Err(BearerError::Twice));
        assert_eq!(of(&[b"Basic a", b"Bearer a"]), Err(BearerError::Twice));
        assert_eq!(of(&[b"Bearer 0123456789abcdef"]), Ok(Some("0123456789abcdef".to_owned())));
        assert_eq!(of(&[b"Bearer 0123456789abcdefg"]), Err(BearerError::TooLong));
    }
}

//! The standard documents at the root: the public keys, and what the server can do.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;

use super::Endpoints;
use super::call::Call;
use super::fields::bad;
use super::settings::ASSERTION_ALGORITHMS;
use crate::answer::{Body, Problem};
use crate::token::PROOF_ALGORITHMS;

/// Long enough that nobody fetches keys for each token, short enough that a new key is known before it is needed.
const CACHE: &str = "public, max-age=300";

impl Endpoints {
    /// GET `/.well-known/jwks.json` (RFC 7517 §5).
    pub(super) fn jwks(&self, call: &Call) -> Response<Body> {
        kept(call, "application/jwk-set+json", self.parts.tokens.jwks(call.now))
    }

    /// GET `/.well-known/oauth-authorization-server` (RFC 8414 §3): what truly works. Its URLs are at the host
    /// of the issuer where that is a URL itself, else at the address that the client came to.
    ///
    /// # Errors
    /// 400 without a host.
    pub(super) fn metadata(&self, call: &Call) -> Result<Response<Body>, Problem> {
        let own = &self.auth()?.own;
        let base = match self.issuer_origin() {
            Some(origin) => origin,
            None => call.base().ok_or_else(|| bad("The request names no host"))?,
        };
        let secret_or_key = ["client_secret_basic", "client_secret_post", "private_key_jwt"];
        let any_or_none = ["none", "client_secret_basic", "client_secret_post", "private_key_jwt"];
        let algorithms = ASSERTION_ALGORITHMS.map(|algorithm| format!("{algorithm:?}"));
        let mut document = json!({
            "issuer": own.issuer,
            "jwks_uri": format!("{base}/.well-known/jwks.json"),
            "token_endpoint": format!("{base}/oauth2/token"),
            "token_endpoint_auth_methods_supported": any_or_none,
            "dpop_signing_alg_values_supported": PROOF_ALGORITHMS.split(' ').collect::<Vec<_>>(),
            "tls_client_certificate_bound_access_tokens": true,
            "token_endpoint_auth_signing_alg_values_supported": algorithms,
            "grant_types_supported": ["refresh_token", "client_credentials"],
            "response_types_supported": [],
            "revocation_endpoint": format!("{base}/oauth2/revoke"),
            "revocation_endpoint_auth_methods_supported": any_or_none,
            "revocation_endpoint_auth_signing_alg_values_supported": algorithms,
            "introspection_endpoint": format!("{base}/oauth2/introspect"),
            "introspection_endpoint_auth_methods_supported": secret_or_key,
            "introspection_endpoint_auth_signing_alg_values_supported": algorithms,
        });
        // RFC 9701 §7: where answers can be signed so that others can verify them.
        if ASSERTION_ALGORITHMS.contains(&own.algorithm) {
            document["introspection_signing_alg_values_supported"] = json!([format!("{:?}", own.algorithm)]);
        }
        Ok(kept(call, "application/json", document.to_string().into()))
    }
}

impl Endpoints {
    /// Scheme and authority of our issuer, where that is a URL.
    pub(super) fn issuer_origin(&self) -> Option<String> {
        origin(&self.parts.auth.as_ref()?.own.issuer).map(|(origin, _)| origin.to_owned())
    }
}

/// An `http` or `https` URL in two: `https://host:port`, and the path without a `/` at its end.
pub(super) fn origin(issuer: &str) -> Option<(&str, &str)> {
    let rest = issuer.strip_prefix("https://").or_else(|| issuer.strip_prefix("http://"))?;
    let host = rest.find('/').unwrap_or(rest.len());
    let (origin, path) = issuer.split_at(issuer.len() - rest.len() + host);
    (host > 0).then(|| (origin, path.trim_end_matches('/')))
}

/// A document that clients may keep, with an entity tag (RFC 9110 §8.8.3); 304 for one that has it.
fn kept(call: &Call, content_type: &'static str, document: bytes::Bytes) -> Response<Body> {
    let hash = digest::digest(&digest::SHA256, &document);
    let tag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(&hash.as_ref()[..16]));
    let mut known = call.headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let fresh = known.any(|tags| {
        tags.split(',').map(str::trim).any(|known| known == "*" || known.trim_start_matches("W/") == tag)
    });
    let mut response = Response::new(if fresh { Body::empty() } else { Body::full(document) });
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(CACHE));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    if fresh {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_an_origin_and_a_path() {
        assert_eq!(origin("https://id.example:8443"), Some(("https://id.example:8443", "")));
        assert_eq!(origin("http://id.example/"), Some(("http://id.example", "")));
        assert_eq!(origin("https://id.example/a/b/"), Some(("https://id.example", "/a/b")));
        for other in ["portcullis", "https://", "https:///x", "ftp://x", ""] {
            assert_eq!(origin(other), None, "{other}");
        }
    }
}

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
use crate::answer::{Body, Problem};

/// Long enough that nobody fetches keys for each token, short enough that a new key is known before it is needed.
const CACHE: &str = "public, max-age=300";

impl Endpoints {
    /// GET `/.well-known/jwks.json` (RFC 7517 §5).
    pub(super) fn jwks(&self, call: &Call) -> Response<Body> {
        kept(call, "application/jwk-set+json", self.parts.tokens.jwks())
    }

    /// GET `/.well-known/oauth-authorization-server` (RFC 8414 §3): what truly works. Its URLs are under the issuer
    /// where that is a URL itself, else under the address that the client came to.
    ///
    /// # Errors
    /// 400 without a host.
    pub(super) fn metadata(&self, call: &Call) -> Result<Response<Body>, Problem> {
        let issuer = &*self.auth()?.own.issuer;
        let is_url = issuer.starts_with("https://") || issuer.starts_with("http://");
        let base = match is_url {
            true => issuer.trim_end_matches('/').to_owned(),
            false => call.base().ok_or_else(|| bad("The request names no host"))?,
        };
        let document = json!({
            "issuer": issuer,
            "jwks_uri": format!("{base}/.well-known/jwks.json"),
            "token_endpoint": format!("{base}/oauth2/token"),
            "token_endpoint_auth_methods_supported": ["none", "client_secret_basic", "client_secret_post"],
            "grant_types_supported": ["refresh_token"],
            "response_types_supported": [],
            "revocation_endpoint": format!("{base}/oauth2/revoke"),
            "revocation_endpoint_auth_methods_supported": ["none", "client_secret_basic", "client_secret_post"],
            "introspection_endpoint": format!("{base}/oauth2/introspect"),
            "introspection_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        });
        Ok(kept(call, "application/json", document.to_string().into()))
    }
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

//! POST `/oauth2/introspect` (RFC 7662): for the administrator, and for clients that may. In JSON, or as a signed JWT
//! for those who ask for one (RFC 9701).

use http::header::{ACCEPT, CONTENT_TYPE, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use super::{OauthError, answered, token_type};
use crate::answer::{Body, Problem};
use crate::endpoint::Endpoints;
use crate::endpoint::call::Call;
use crate::endpoint::fields::Fields;
use crate::endpoint::ports::Unverified;
use crate::endpoint::reply::answer;
use crate::issuer::settings::SELF;
use crate::store::Standing;
use crate::token::{Claims, VerifiedToken};

/// The media type of a signed answer (RFC 9701 §4).
const JWT: &str = "application/token-introspection+jwt";
/// Whom an answer to the administrator is for.
const ADMIN: &str = "admin";

impl Endpoints {
    /// Whether a token is active, and what it says if it is.
    pub(in crate::endpoint) async fn oauth_introspect(&self, call: &Call) -> Response<Body> {
        answered(self.introspect(call).await)
    }

    async fn introspect(&self, call: &Call) -> Result<Response<Body>, OauthError> {
        let fields = Fields::of_form(&call.headers, &call.body)?;
        let client = self.client(call, &fields).await?;
        let asking = match (self.is_admin(call), client) {
            (true, _) => ADMIN,
            (false, None) => return Err(OauthError::invalid_client(&self.parts.realm)),
            (false, Some(client)) if !client.introspect => {
                let words = "This client may not introspect tokens";
                return Err(OauthError::new(StatusCode::FORBIDDEN, "unauthorized_client", words));
            }
            (false, Some(client)) => &client.id,
        };
        let text = fields.required("token", call.body.len())?;
        let verified = match text.len() <= self.parts.token_bytes_max {
            true => self.parts.tokens.verify(text, call.now).await,
            false => Err(Unverified::Invalid),
        };
        let view = match verified {
            Ok(token) if self.is_active(call, &token).await? => self.active(&token).await?,
            Err(Unverified::Unavailable) => return Err(Problem::from(Unverified::Unavailable).into()),
            // RFC 7662 §2.2: of an inactive token nothing else is told, not even why.
            _ => Claims::from_iter([("active".to_owned(), false.into())]),
        };
        self.told(call, asking, view)
    }

    /// The answer in the form that was asked for.
    fn told(&self, call: &Call, asking: &str, view: Claims) -> Result<Response<Body>, OauthError> {
        let signed = match prefers_jwt(&call.headers) {
            true => self.parts.tokens.sign_introspection(asking, &view, call.now).map_err(Problem::from)?,
            false => None,
        };
        let mut response = answer(StatusCode::OK, &Value::Object(view));
        if let Some(text) = signed {
            *response.body_mut() = Body::full(text);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JWT));
        }
        response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
        Ok(response)
    }

    async fn is_active(&self, call: &Call, token: &VerifiedToken) -> Result<bool, OauthError> {
        if !self.parts.revocations.refused_by(&self.keys(token), call.now).is_empty() {
            return Ok(false);
        }
        if *token.issuer != *SELF {
            return Ok(true);
        }
        let strict = self.parts.auth.as_ref().is_some_and(|auth| auth.own.strict);
        let standing = self.parts.store.standing(&token.token_id).await.map_err(Problem::from)?;
        Ok(match standing {
            Standing::Good => true,
            Standing::Retired => false,
            Standing::Unknown => !strict,
        })
    }

    /// The members of RFC 7662 §2.2, as far as the token has them.
    async fn active(&self, token: &VerifiedToken) -> Result<Claims, OauthError> {
        let mut view = json!({
            "active": true,
            "token_type": token_type(token.binding.as_deref()),
            "token_use": token.token_type.name(),
            "exp": token.expires_at.secs(),
        });
        for name in ["iss", "sub", "aud", "iat", "nbf", "jti", "cnf"] {
            if let Some(value) = token.claims.get(name) {
                view[name] = value;
            }
        }
        if let Some(session) = &token.session {
            view["sid"] = (&**session).into();
        }
        if let Some(client) = &token.client {
            view["client_id"] = (&**client).into();
        }
        if !token.scopes.is_empty() {
            view["scope"] = token.scopes.join(" ").into();
        }
        if let (SELF, Some(subject), Some(_)) = (&*token.issuer, &token.subject, &token.session)
            && let Some(user) = self.parts.store.user(subject).await.map_err(Problem::from)?
        {
            view["username"] = (*user.username).into();
        }
        match view {
            Value::Object(view) => Ok(view),
            _ => Ok(Claims::new()),
        }
    }
}

/// Whether the client would rather have a JWT than JSON: it names the one, and gives the other no more weight
/// (RFC 9110 §12.5.1). What it does not name it gets no JWT for, wild cards included: JSON is what RFC 7662 promises.
fn prefers_jwt(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (mut jwt, mut json) = (0.0, 0.0);
    for range in lines.flat_map(|line| line.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let weight = parts
            .find_map(|parameter| parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q=")))
            .map_or(1.0, |text| text.parse::<f32>().ok().filter(|q| (0.0..=1.0).contains(q)).unwrap_or(0.0));
        if kind.eq_ignore_ascii_case(JWT) {
            jwt = weight;
        } else if kind.eq_ignore_ascii_case("application/json") {
            json = weight;
        }
    }
    jwt > 0.0 && jwt >= json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jwt_is_for_those_who_name_it() {
        let check = |accept: &str, expected: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            assert_eq!(prefers_jwt(&headers), expected, "{accept:?}");
        };
        check(JWT, true);
        check("Application/Token-Introspection+JWT;q=0.5", true);
        check("application/json;q=0.1, application/token-introspection+jwt", true);
        check("application/json, application/token-introspection+jwt", true);
        check("application/json, application/token-introspection+jwt;q=0.9", false);
        check("application/token-introspection+jwt;q=0", false);
        check("application/token-introspection+jwt;q=x", false);
        for other in ["*/*", "application/*", "application/json", "application/jwt", "", ",;,"] {
            check(other, false);
        }
        assert!(!prefers_jwt(&HeaderMap::new()));
    }
}

//! POST `/oauth2/introspect` (RFC 7662): for the administrator, and for clients that may.

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::{OauthError, answered};
use crate::answer::{Body, Problem};
use crate::endpoint::Endpoints;
use crate::endpoint::call::Call;
use crate::endpoint::fields::Fields;
use crate::endpoint::ports::Unverified;
use crate::endpoint::reply::answer;
use crate::issuer::settings::SELF;
use crate::store::Standing;
use crate::token::VerifiedToken;

impl Endpoints {
    /// Whether a token is active, and what it says if it is.
    pub(in crate::endpoint) async fn oauth_introspect(&self, call: &Call) -> Response<Body> {
        answered(self.introspect(call).await)
    }

    async fn introspect(&self, call: &Call) -> Result<Response<Body>, OauthError> {
        let fields = Fields::of_form(&call.headers, &call.body)?;
        let client = self.client(call, &fields)?;
        if !self.is_admin(call) {
            let client = client.ok_or_else(|| OauthError::invalid_client(&self.parts.realm))?;
            if !client.introspect {
                let words = "This client may not introspect tokens";
                return Err(OauthError::new(StatusCode::FORBIDDEN, "unauthorized_client", words));
            }
        }
        let text = fields.required("token", call.body.len())?;
        let verified = match text.len() <= self.parts.token_bytes_max {
            true => self.parts.tokens.verify(text, call.now).await,
            false => Err(Unverified::Invalid),
        };
        let view = match verified {
            Ok(token) if self.is_active(call, &token).await? => active(&token),
            Err(Unverified::Unavailable) => return Err(Problem::from(Unverified::Unavailable).into()),
            // RFC 7662 §2.2: of an inactive token nothing else is told, not even why.
            _ => json!({ "active": false }),
        };
        Ok(answer(StatusCode::OK, &view))
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
}

/// The members of RFC 7662 §2.2, as far as the token has them.
fn active(token: &VerifiedToken) -> Value {
    let mut view = json!({
        "active": true,
        "token_type": "Bearer",
        "token_use": token.token_type.name(),
        "exp": token.expires_at.secs(),
    });
    for name in ["iss", "sub", "aud", "iat", "nbf", "jti"] {
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
    view
}

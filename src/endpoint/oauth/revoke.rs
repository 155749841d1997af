//! POST `/oauth2/revoke` (RFC 7009): own tokens and those of external issuers.

use http::header::CACHE_CONTROL;
use http::{HeaderValue, Response, StatusCode};

use super::{OauthError, answered};
use crate::answer::Body;
use crate::endpoint::Endpoints;
use crate::endpoint::call::Call;
use crate::endpoint::fields::Fields;
use crate::endpoint::ports::Unverified;
use crate::endpoint::revoking::Cause;
use crate::issuer::settings::SELF;
use crate::revocation::{Kind, Revocation, Selector};
use crate::store::Mark;
use crate::token::{TokenType, VerifiedToken};

const REASON: &str = "revoked by its holder";

impl Endpoints {
    /// Whoever holds a well-signed token may revoke it; a refresh token revokes its session.
    pub(in crate::endpoint) async fn oauth_revoke(&self, call: &Call) -> Response<Body> {
        answered(self.revoke_presented(call).await)
    }

    async fn revoke_presented(&self, call: &Call) -> Result<Response<Body>, OauthError> {
        let fields = Fields::of_form(&call.headers, &call.body)?;
        let client = self.client(call, &fields).await?;
        if client.is_some_and(|client| !client.revoke) {
            let words = "This client may not revoke tokens";
            return Err(OauthError::new(StatusCode::BAD_REQUEST, "unauthorized_client", words));
        }
        let text = fields.required("token", call.body.len())?;
        if text.len() > self.parts.token_bytes_max {
            return Ok(done());
        }
        let token = match self.parts.tokens.verify_for_revoking(text, call.now).await {
            Ok(token) => token,
            // RFC 7009 §2.2: an invalid token is no error, there is nothing to revoke.
            Err(Unverified::Invalid | Unverified::Expired) => return Ok(done()),
            Err(error) => return Err(crate::answer::Problem::from(error).into()),
        };
        let actor = match (client, &token.subject) {
            (Some(client), _) => format!("client:{}", client.id),
            (None, Some(subject)) => format!("subject:{subject}"),
            (None, None) => "gateway".to_owned(),
        };
        self.revoke_verified(call, &token, Cause { actor: &actor, reason: REASON }).await?;
        Ok(done())
    }

    async fn revoke_verified(
        &self,
        call: &Call,
        token: &VerifiedToken,
        cause: Cause<'_>,
    ) -> Result<(), OauthError> {
        let own = *token.issuer == *SELF;
        let (selector, expires_at) = match (&token.session, token.token_type) {
            (Some(_), TokenType::Refresh) if own => {
                return Ok(self.end_session_of(call, token, cause).await?);
            }
            (Some(session), TokenType::Refresh) => {
                // Other tokens of that session may live longer than this one.
                let longest = call.now.plus(self.parts.tokens.lifetime_max(&token.issuer));
                let selector = Selector::new(Kind::Session, &*token.issuer, &**session);
                (selector, longest.max(token.expires_at))
            }
            _ => (Selector::new(Kind::Token, &*token.issuer, &*token.token_id), token.expires_at),
        };
        if self.is_in_force(&selector, expires_at) {
            return Ok(());
        }
        let entry = self.entry(call, Kind::Token, "", expires_at, cause);
        let entry = Revocation { selector, ..entry };
        self.parts.revocations.append(vec![entry]).await.map_err(crate::answer::Problem::from)?;
        if own {
            let tokens = vec![token.token_id.clone()];
            self.mark(Mark { sessions: Vec::new(), tokens, at: call.now, by: cause.actor.into() }).await;
        }
        Ok(())
    }
}

/// RFC 7009 §2.2: 200, and nothing to read.
fn done() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

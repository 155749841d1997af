//! The grant `client_credentials` (RFC 6749 §4.4): a token that a client gets for itself.

use http::{Response, StatusCode};
use uuid::Uuid;

use super::OauthError;
use super::token::{SCOPE_BYTES_MAX, token_view};
use crate::answer::{Body, Problem};
use crate::clock::UnixTime;
use crate::endpoint::Endpoints;
use crate::endpoint::call::Call;
use crate::endpoint::fields::Fields;
use crate::endpoint::login::seconds_later;
use crate::endpoint::ports::Grant;
use crate::endpoint::reply::answer;
use crate::endpoint::settings::Client;
use crate::token::TokenType;

impl Endpoints {
    /// An access token whose `sub` and `client_id` are the client's id. It has no session, for nobody has signed in,
    /// and no refresh token (§4.4.3). It is recorded before it is given out, so that a strict registry knows it; it is
    /// revoked by itself, by `client` or by `subject`.
    pub(super) async fn client_credentials(
        &self,
        call: &Call,
        fields: &Fields,
        client: Option<&Client>,
    ) -> Result<Response<Body>, OauthError> {
        let client = client.ok_or_else(|| OauthError::invalid_client(&self.parts.realm))?;
        if !client.token {
            let words = "This client may not get tokens for itself";
            return Err(OauthError::new(StatusCode::BAD_REQUEST, "unauthorized_client", words));
        }
        let scope = match fields.text("scope", SCOPE_BYTES_MAX)?.filter(|scope| !scope.is_empty()) {
            // RFC 6749 §3.3: without a wish it gets all that it may have.
            None => client.scopes.join(" "),
            Some(wanted) => {
                if !wanted.split(' ').all(|scope| client.scopes.iter().any(|granted| **granted == *scope)) {
                    return Err(OauthError::invalid_scope());
                }
                wanted.to_owned()
            }
        };
        let auth = self.auth()?;
        let now = self.parts.clock.now();
        let binding = self.binding_for(call)?;
        let token_id = Uuid::new_v4().to_string();
        let grant = Grant {
            token_type: TokenType::Access,
            token_id: &token_id,
            subject: &client.id,
            session: None,
            client: Some(&client.id),
            issued_at: UnixTime::from_secs(now.secs()),
            expires_at: seconds_later(now, auth.own.access_ttl),
            fresh: false,
            scope: &scope,
            binding,
            claims: &auth.claims,
        };
        let (access, row) = self.new_token(call, &grant)?;
        self.parts.store.record_token(row.clone()).await.map_err(Problem::from)?;
        Ok(answer(StatusCode::OK, &token_view(access, &row, &scope, binding.as_ref())))
    }
}

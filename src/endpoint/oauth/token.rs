//! POST `/oauth2/token` (RFC 6749 §3.2): the grants `refresh_token` (§6) and `client_credentials` (§4.4).

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::{OauthError, answered, token_type};
use crate::answer::{Body, Problem};
use crate::endpoint::Endpoints;
use crate::endpoint::call::Call;
use crate::endpoint::fields::Fields;
use crate::endpoint::login::scope_of;
use crate::endpoint::reply::answer;
use crate::store::Token;
use crate::token::Binding;

/// The most bytes of `scope`.
pub(super) const SCOPE_BYTES_MAX: usize = 4096;

impl Endpoints {
    /// Tokens for a refresh token, or for a client itself.
    pub(in crate::endpoint) async fn oauth_token(&self, call: &Call) -> Response<Body> {
        answered(self.grant(call).await)
    }

    async fn grant(&self, call: &Call) -> Result<Response<Body>, OauthError> {
        let fields = Fields::of_form(&call.headers, &call.body)?;
        let client = self.client(call, &fields).await?;
        match fields.required("grant_type", 256)? {
            "refresh_token" => self.refresh_grant(call, &fields).await,
            "client_credentials" => self.client_credentials(call, &fields, client).await,
            _ => {
                let words = "The grants are refresh_token and client_credentials";
                Err(OauthError::new(StatusCode::BAD_REQUEST, "unsupported_grant_type", words))
            }
        }
    }

    /// The same exchange as `/auth/refresh`, in the words of OAuth. A refresh token is bound to no client: it came of
    /// a sign-in, and rotation is what protects it (RFC 9700 §2.2.2).
    async fn refresh_grant(&self, call: &Call, fields: &Fields) -> Result<Response<Body>, OauthError> {
        let text = fields.required("refresh_token", call.body.len())?;
        if text.len() > self.parts.token_bytes_max {
            return Err(OauthError::invalid_grant("The token is not valid"));
        }
        let possession = call.possession(None)?;
        let token = self.parts.tokens.admit_own(text, &possession, call.now).await.map_err(Problem::from)?;
        self.take_proof_anywhere(call, &possession).await?;
        let caller = self.refresher(call, token).await?;
        let wanted = fields.text("scope", SCOPE_BYTES_MAX)?.filter(|scope| !scope.is_empty());
        if let Some(wanted) = wanted {
            let user = self.parts.store.user(&caller.subject).await.map_err(Problem::from)?;
            let auth = self.auth()?;
            let granted = user.as_ref().map(|user| scope_of(auth, user)).unwrap_or_default();
            if !wanted.split(' ').all(|scope| granted.split(' ').any(|granted| granted == scope)) {
                return Err(OauthError::invalid_scope());
            }
        }
        let exchanged = self.exchange(call, &caller, wanted).await?;
        let row = &exchanged.access_row;
        let mut view = token_view(exchanged.access, row, &exchanged.scope, exchanged.binding.as_ref());
        if let Some(refresh) = exchanged.refresh {
            view["refresh_token"] = refresh.into();
        }
        Ok(answer(StatusCode::OK, &view))
    }
}

/// A successful answer (RFC 6749 §5.1).
pub(super) fn token_view(access: String, row: &Token, scope: &str, binding: Option<&Binding>) -> Value {
    let mut view = json!({
        "access_token": access,
        "token_type": token_type(binding),
        "expires_in": row.expires_at.secs().saturating_sub(row.issued_at.secs()),
    });
    if !scope.is_empty() {
        view["scope"] = scope.into();
    }
    view
}

//! POST `/oauth2/token` (RFC 6749 §6): the grant `refresh_token`.

use http::{Response, StatusCode};
use serde_json::json;

use super::{OauthError, answered};
use crate::answer::{Body, Problem};
use crate::endpoint::Endpoints;
use crate::endpoint::call::Call;
use crate::endpoint::fields::Fields;
use crate::endpoint::login::scope_of;
use crate::endpoint::reply::answer;

impl Endpoints {
    /// The same exchange as `/auth/refresh`, in the words of OAuth.
    pub(in crate::endpoint) async fn oauth_token(&self, call: &Call) -> Response<Body> {
        answered(self.grant(call).await)
    }

    async fn grant(&self, call: &Call) -> Result<Response<Body>, OauthError> {
        let fields = Fields::of_form(&call.headers, &call.body)?;
        self.client(call, &fields)?;
        match fields.required("grant_type", 256)? {
            "refresh_token" => {}
            _ => {
                let words = "Only the grant refresh_token is available";
                return Err(OauthError::new(StatusCode::BAD_REQUEST, "unsupported_grant_type", words));
            }
        }
        let text = fields.required("refresh_token", call.body.len())?;
        if text.len() > self.parts.token_bytes_max {
            return Err(OauthError::invalid_grant("The token is not valid"));
        }
        let token = self.parts.tokens.verify_own(text, call.now).map_err(Problem::from)?;
        let caller = self.refresher(call, token).await?;
        // RFC 6749 §6: no scope may be asked for that was not granted.
        let wanted = fields.text("scope", 4096)?.unwrap_or_default();
        if !wanted.is_empty() {
            let user = self.parts.store.user(&caller.subject).await.map_err(Problem::from)?;
            let auth = self.auth()?;
            let granted = user.as_ref().map(|user| scope_of(auth, user)).unwrap_or_default();
            if !wanted.split(' ').all(|scope| granted.split(' ').any(|granted| granted == scope)) {
                let words = "The scope goes beyond what was granted";
                return Err(OauthError::new(StatusCode::BAD_REQUEST, "invalid_scope", words));
            }
        }
        let exchanged = self.exchange(call, &caller).await?;
        let row = &exchanged.access_row;
        let mut view = json!({
            "access_token": exchanged.access,
            "token_type": "Bearer",
            "expires_in": row.expires_at.secs().saturating_sub(row.issued_at.secs()),
        });
        if let Some(refresh) = exchanged.refresh {
            view["refresh_token"] = refresh.into();
        }
        if !exchanged.scope.is_empty() {
            view["scope"] = (&*exchanged.scope).into();
        }
        Ok(answer(StatusCode::OK, &view))
    }
}

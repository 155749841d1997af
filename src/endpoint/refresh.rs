//! The exchange of a refresh token for a new pair (RFC 9700 §4.14.2): the old one is retired, and whoever comes with
//! it later gives away that it was stolen.

use std::sync::Arc;

use http::{Response, StatusCode};
use serde_json::json;

use super::Endpoints;
use super::browser::{Cookies, csrf_value, set_cookies};
use super::call::Call;
use super::caller::{Caller, revoked};
use super::login::{Holder, scope_of};
use super::reply::one;
use super::revoking::Cause;
use super::settings::OnReuse;
use crate::answer::{Body, Code, Problem};
use crate::clock::UnixTime;
use crate::revocation::Kind;
use crate::store::{Rotated, Rotation, Session, Token};
use crate::token::{Binding, TokenType, VerifiedToken};

/// What a refresh gives.
pub(super) struct Exchanged {
    pub(super) access: String,
    pub(super) access_row: Token,
    /// `None` when refresh tokens are not rotated.
    pub(super) refresh: Option<String>,
    pub(super) scope: Box<str>,
    /// What the new tokens are bound to.
    pub(super) binding: Option<Binding>,
}

impl Endpoints {
    /// POST `/auth/refresh`.
    pub(super) async fn refresh(&self, call: &Call) -> Result<Response<Body>, Problem> {
        let token = self.own_token(call).await?;
        let caller = self.refresher(call, token).await?;
        let exchanged = self.exchange(call, &caller, None).await?;
        if self.presented(call)?.is_some_and(|token| token.by_cookie) {
            return self.exchanged_by_cookie(call, &caller, &exchanged);
        }
        let mut pair = json!({ "access_token": exchanged.access });
        if let Some(refresh) = exchanged.refresh {
            pair["refresh_token"] = refresh.into();
        }
        Ok(one(StatusCode::OK, pair))
    }

    /// What came by a cookie goes by cookies, and by these alone: a script that can have a page refresh its session
    /// does not get to see a token.
    fn exchanged_by_cookie(
        &self,
        call: &Call,
        caller: &Caller,
        exchanged: &Exchanged,
    ) -> Result<Response<Body>, Problem> {
        let csrf = csrf_value(&self.carried_claims(&caller.token))?;
        let until = caller.token.expires_at;
        let mut response = one(StatusCode::OK, json!({ "csrf_token": csrf }));
        let cookies = Cookies {
            access: (&exchanged.access, exchanged.access_row.expires_at),
            refresh: exchanged.refresh.as_deref().map(|text| (text, until)),
            csrf: (&csrf, until),
        };
        set_cookies(&mut response, call.now, cookies);
        Ok(response)
    }

    /// Who comes with this refresh token.
    ///
    /// # Errors
    /// As [`Endpoints::accept`]. A retired token that was also revoked by itself is still a reuse: its owner has a
    /// newer one, so whoever brings it is not to be trusted with the session.
    pub(super) async fn refresher(&self, call: &Call, token: Arc<VerifiedToken>) -> Result<Caller, Problem> {
        let refused = self.parts.revocations.refused_by(&self.keys(&token), call.now);
        if token.token_type == TokenType::Refresh
            && refused == [Kind::Token]
            && let (Some(subject), Some(session)) = (token.subject.clone(), token.session.clone())
            && self.parts.store.token(&token.token_id).await?.is_some_and(|row| row.retired_at.is_some())
        {
            return Err(self.reused(call, &Caller { token, subject, session }).await?);
        }
        self.accept(token, TokenType::Refresh, call).await
    }

    /// Exchanges the refresh token of `caller`. New tokens are signed before the store decides; those it does not
    /// take are thrown away unseen. `narrowed`: fewer scopes for this access token than were granted; the refresh
    /// token keeps them all (RFC 6749 §6).
    ///
    /// # Errors
    /// 401 reused, unknown, or of an account that is gone or disabled; 503.
    pub(super) async fn exchange(
        &self,
        call: &Call,
        caller: &Caller,
        narrowed: Option<&str>,
    ) -> Result<Exchanged, Problem> {
        let auth = self.auth()?;
        let presented = &caller.token;
        let user = self.parts.store.user(&caller.subject).await?.ok_or_else(revoked)?;
        let now = self.parts.clock.now();
        let claims = self.carried_claims(&caller.token);
        let holder = Holder {
            subject: &caller.subject,
            session: &caller.session,
            // A refresh token lives as long as its session, and its successor no longer.
            until: presented.expires_at,
            scope: narrowed.unwrap_or_else(|| scope_of(auth, &user)),
            // A binding is never lost by a refresh: whoever brought the token has shown it. One can be won.
            binding: match presented.binding.as_deref() {
                Some(binding) => Some(*binding),
                None => self.binding_for(call)?,
            },
            claims: &claims,
        };
        let (access, access_row) = self.new_access(call, holder, now, false)?;
        let successor = match auth.rotate_refresh {
            true => Some(self.new_refresh(call, holder, now)?),
            false => None,
        };
        let (successor, successor_row) = successor.unzip();
        let presented_row = Token {
            id: presented.token_id.clone(),
            session: caller.session.clone(),
            subject: caller.subject.clone(),
            token_type: TokenType::Refresh,
            key_id: presented.key_id.clone(),
            issued_at: presented.issued_at.unwrap_or_default(),
            expires_at: presented.expires_at,
            user_agent: call.user_agent(),
            address: call.address(),
        };
        let rotated = self
            .parts
            .store
            .rotate(Rotation {
                presented: presented_row,
                now,
                grace: auth.reuse_grace,
                // With `registry = "blocklist"` a token is good unless revoked, also when the store, restored from
                // an older copy, has never heard of it.
                adopt: (!auth.own.strict).then(|| self.session_of_refresh(call, caller)),
                access: access_row.clone(),
                successor: successor_row,
            })
            .await?;
        let exchanged = |refresh| Exchanged {
            access,
            access_row,
            refresh,
            scope: holder.scope.into(),
            binding: holder.binding,
        };
        match rotated {
            Rotated::Done => Ok(exchanged(successor)),
            Rotated::Repeated(successor) => {
                let (at, until) = (successor.issued_at, successor.expires_at);
                let (text, _) = self.refresh_as(call, holder, &successor.id, at, until)?;
                Ok(exchanged(Some(text)))
            }
            Rotated::Reused => Err(self.reused(call, caller).await?),
            Rotated::Unknown | Rotated::NoAccount => Err(revoked()),
        }
    }

    /// A retired refresh token came back: one of the two who have it is a thief. Gives the refusal.
    async fn reused(&self, call: &Call, caller: &Caller) -> Result<Problem, Problem> {
        let on_reuse = self.auth()?.on_reuse;
        tracing::warn!(
            target: "portcullis::audit",
            subject = &*caller.subject,
            session = &*caller.session,
            address = &*call.address(),
            ?on_reuse,
            "a retired refresh token was used again"
        );
        let cause = Cause { actor: "gateway", reason: "a retired refresh token was used again" };
        let words = match on_reuse {
            OnReuse::RevokeSession => {
                let session = self.session_of_refresh(call, caller);
                self.revoke_sessions(call, &[session], cause).await?;
                "The refresh token was used before; its session is revoked"
            }
            OnReuse::RevokeSubject => {
                let session = self.session_of_refresh(call, caller);
                self.revoke_subject(call, &caller.subject, session, cause).await?;
                "The refresh token was used before; all sessions are revoked"
            }
            OnReuse::Log => "The refresh token was used before",
        };
        Ok(Problem::new(Code::TokenRevoked, words))
    }

    /// The session of a refresh token, as far as the token itself tells: it ends when the token does.
    fn session_of_refresh(&self, call: &Call, caller: &Caller) -> Session {
        Session {
            id: caller.session.clone(),
            subject: caller.subject.clone(),
            created: caller.token.issued_at.unwrap_or(UnixTime::ZERO),
            expires: caller.token.expires_at,
            user_agent: call.user_agent(),
            address: call.address(),
        }
    }
}

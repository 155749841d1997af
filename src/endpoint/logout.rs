//! The end of a session, or of all of them.

use http::Response;

use super::Endpoints;
use super::browser::clear_cookies;
use super::call::Call;
use super::ports::Unverified;
use super::reply::message;
use super::revoking::Cause;
use crate::answer::{Body, Problem};
use crate::clock::UnixTime;
use crate::issuer::settings::SELF;
use crate::revocation::{Kind, Selector};
use crate::store::Session;
use crate::token::VerifiedToken;

impl Endpoints {
    /// POST or DELETE `/auth/logout`: by an access or a refresh token, revoked and expired ones among them, so that
    /// it can be said twice.
    pub(super) async fn log_out(&self, call: &Call) -> Result<Response<Body>, Problem> {
        let text = self.token_text(call)?;
        let token = self.parts.tokens.verify_own_tolerating_expiry(text, call.now).await?;
        self.guard(call, &token)?;
        let subject = token.subject.as_deref().ok_or(Unverified::Invalid)?;
        let actor = format!("subject:{subject}");
        self.end_session_of(call, &token, Cause { actor: &actor, reason: "logout" }).await?;
        self.farewell(call, "Logged out")
    }

    /// POST `/auth/logout-all`.
    pub(super) async fn log_out_everywhere(&self, call: &Call) -> Result<Response<Body>, Problem> {
        let caller = self.caller(call).await?;
        let actor = format!("subject:{}", caller.subject);
        let here = self.session_of(call, &caller.token, &caller.session, &caller.subject).await;
        let cause = Cause { actor: &actor, reason: "logout-all" };
        self.revoke_subject(call, &caller.subject, here, cause).await?;
        self.farewell(call, "Logged out everywhere")
    }

    /// The session is over; a browser forgets its cookies.
    fn farewell(&self, call: &Call, words: &str) -> Result<Response<Body>, Problem> {
        let mut response = message(words);
        if self.presented(call)?.is_some_and(|token| token.by_cookie) {
            clear_cookies(&mut response);
        }
        Ok(response)
    }

    /// Revokes the session of a token of ours, unless it is over or revoked already.
    ///
    /// # Errors
    /// 422 for a token without a session; 503 when the log does not take it.
    pub(super) async fn end_session_of(
        &self,
        call: &Call,
        token: &VerifiedToken,
        cause: Cause<'_>,
    ) -> Result<(), Problem> {
        let (Some(id), Some(subject)) = (&token.session, &token.subject) else {
            return Err(Unverified::Invalid.into());
        };
        let session = self.session_of(call, token, id, subject).await;
        let selector = Selector::new(Kind::Session, SELF, id.clone());
        if session.expires <= call.now || self.is_in_force(&selector, session.expires) {
            return Ok(());
        }
        self.revoke_sessions(call, &[session], cause).await
    }

    /// The session of a token. A store that is away, or was restored from an older copy, does not keep anybody from
    /// logging out: the entry then lives as long as any session does.
    async fn session_of(&self, call: &Call, token: &VerifiedToken, id: &str, subject: &str) -> Session {
        let known = self.parts.store.session(id).await.ok().flatten().map(|row| row.session);
        known.unwrap_or_else(|| Session {
            id: id.into(),
            subject: subject.into(),
            created: token.issued_at.unwrap_or(UnixTime::ZERO),
            expires: self.longest_from(call.now).max(token.expires_at),
            user_agent: "".into(),
            address: "".into(),
        })
    }
}

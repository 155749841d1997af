//! Revocations that the endpoints make: first the log, then the marks in the store.
//!
//! The log decides what is refused; the marks are for people to read. A crash between the two leaves a mark missing,
//! which the lists make good from the trail. The other way round it would leave a token that is shown as revoked and
//! is not.

use super::Endpoints;
use super::call::Call;
use crate::answer::Problem;
use crate::clock::UnixTime;
use crate::issuer::settings::SELF;
use crate::revocation::{Kind, Revocation, Selector};
use crate::store::{Mark, Session, StoreError, TokenRow};

/// Who revokes, and why.
#[derive(Clone, Copy)]
pub(super) struct Cause<'a> {
    /// `subject:ID`, `client:ID`, `gateway`.
    pub(super) actor: &'a str,
    pub(super) reason: &'a str,
}

impl Endpoints {
    /// Revokes sessions, for good.
    ///
    /// # Errors
    /// 503 when the log does not take it: nothing is revoked then.
    pub(super) async fn revoke_sessions(
        &self,
        call: &Call,
        sessions: &[Session],
        cause: Cause<'_>,
    ) -> Result<(), Problem> {
        self.revoke_sessions_from(&call.address(), sessions, cause).await
    }

    /// The same for whoever asks from this address.
    ///
    /// # Errors
    /// As [`Endpoints::revoke_sessions`].
    pub(super) async fn revoke_sessions_from(
        &self,
        address: &str,
        sessions: &[Session],
        cause: Cause<'_>,
    ) -> Result<(), Problem> {
        if sessions.is_empty() {
            return Ok(());
        }
        let batch = sessions.iter().map(|session| self.session_entry(address, session, cause)).collect();
        self.parts.revocations.append(batch).await?;
        self.mark_sessions(sessions, cause).await;
        Ok(())
    }

    /// The sessions of a subject that nothing has ended, oldest first. The blocklist says which: the marks in the store
    /// stay when a revocation is taken back, and are missing where one was made past it (`/admin/revocations`).
    ///
    /// # Errors
    /// When the store is away.
    pub(super) async fn live_sessions(&self, subject: &str) -> Result<Vec<Session>, StoreError> {
        let now = self.parts.clock.now();
        let mut live = self.parts.store.unexpired_sessions(subject, now).await?;
        live.retain(|session| {
            !self.is_in_force(&Selector::new(Kind::Session, SELF, session.id.clone()), session.expires)
        });
        Ok(live)
    }

    /// Whether a revocation of this selector until then would change nothing. One that ends sooner does not count: it
    /// would let back in what was revoked here.
    pub(super) fn is_in_force(&self, selector: &Selector, until: UnixTime) -> bool {
        self.parts.revocations.in_force_until(selector).is_some_and(|end| end >= until)
    }

    /// Revokes everything of a subject that was issued until now. `iat` counts whole seconds, so tokens of this very
    /// second are not before the cutoff: the live sessions go with it, in the same batch, and a login that follows at
    /// once has a session that is not among them (CONTRACT §1). So do the tokens of that second that have no session,
    /// for a subject may be a client. `also`: a session that goes with them, whether or not the store still knows it.
    ///
    /// # Errors
    /// 503 when the log or the store is away: nothing is revoked then.
    pub(super) async fn revoke_subject(
        &self,
        call: &Call,
        subject: &str,
        also: Session,
        cause: Cause<'_>,
    ) -> Result<(), Problem> {
        self.revoke_subject_from(&call.address(), subject, Some(also), cause).await.map(drop)
    }

    /// The same for whoever asks from this address; gives the sequence of the last entry.
    ///
    /// # Errors
    /// As [`Endpoints::revoke_subject`].
    pub(super) async fn revoke_subject_from(
        &self,
        address: &str,
        subject: &str,
        also: Option<Session>,
        cause: Cause<'_>,
    ) -> Result<u64, Problem> {
        let now = self.parts.clock.now();
        let mut sessions = self.live_sessions(subject).await?;
        sessions.extend(also.filter(|also| sessions.iter().all(|session| session.id != also.id)));
        let cutoff = UnixTime::from_secs(now.secs());
        let tokens = self.parts.store.lone_tokens(subject, cutoff, now).await?;
        let last = sessions.iter().map(|session| session.expires).max();
        let expires_at = last.unwrap_or_default().max(self.longest_from(now));
        let mut batch: Vec<_> =
            sessions.iter().map(|session| self.session_entry(address, session, cause)).collect();
        batch.extend(tokens.iter().map(|TokenRow { token, .. }| {
            self.entry_from(address, Kind::Token, &token.id, token.expires_at, cause)
        }));
        batch.push(Revocation {
            issued_before: Some(cutoff),
            ..self.entry_from(address, Kind::Subject, subject, expires_at, cause)
        });
        let sequence = self.parts.revocations.append(batch).await?;
        self.mark_sessions(&sessions, cause).await;
        Ok(sequence)
    }

    /// One entry, about a token or a session of ours, or the start of another kind.
    pub(super) fn entry(
        &self,
        call: &Call,
        kind: Kind,
        value: &str,
        expires_at: UnixTime,
        cause: Cause<'_>,
    ) -> Revocation {
        self.entry_from(&call.address(), kind, value, expires_at, cause)
    }

    fn entry_from(
        &self,
        address: &str,
        kind: Kind,
        value: &str,
        expires_at: UnixTime,
        cause: Cause<'_>,
    ) -> Revocation {
        Revocation {
            selector: Selector::new(kind, SELF, value),
            lift: false,
            issued_before: None,
            expires_at,
            reason: cause.reason.into(),
            actor: cause.actor.into(),
            address: address.into(),
            at: self.parts.clock.now(),
        }
    }

    /// When every token of ours that is issued until `now` has expired, under the settings in force.
    pub(super) fn longest_from(&self, now: UnixTime) -> UnixTime {
        let own = self.parts.auth.as_ref().map(|auth| &auth.own);
        own.map_or(now, |own| now.plus(own.refresh_ttl.max(own.access_ttl)))
    }

    fn session_entry(&self, address: &str, session: &Session, cause: Cause<'_>) -> Revocation {
        self.entry_from(address, Kind::Session, &session.id, session.expires, cause)
    }

    /// The marks. What matters is in the log already, so a store that is away fails nobody's logout.
    async fn mark_sessions(&self, sessions: &[Session], cause: Cause<'_>) {
        let mark = Mark {
            sessions: sessions.iter().map(|session| session.id.clone()).collect(),
            tokens: Vec::new(),
            at: self.parts.clock.now(),
            by: cause.actor.into(),
        };
        self.mark(mark).await;
    }

    pub(super) async fn mark(&self, mark: Mark) {
        if let Err(error) = self.parts.store.mark_revoked(mark).await {
            tracing::warn!(%error, "a revocation is in force, and could not be marked in the store");
        }
    }
}

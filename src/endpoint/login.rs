//! The start of a session, and the tokens of one.

use std::time::Duration;

use http::{Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Endpoints;
use super::browser::{Cookies, csrf_value, set_cookies};
use super::call::Call;
use super::place::Place;
use super::ports::Grant;
use super::reply::one;
use super::revoking::Cause;
use super::settings::Settings;
use crate::answer::{Body, Problem};
use crate::clock::UnixTime;
use crate::store::{Login, Session, Token, User};
use crate::token::{Binding, Claims, TokenType};

/// What the tokens of a session have in common.
#[derive(Clone, Copy)]
pub(super) struct Holder<'a> {
    pub(super) subject: &'a str,
    pub(super) session: &'a str,
    /// The end of the session, and so of each of its tokens.
    pub(super) until: UnixTime,
    pub(super) scope: &'a str,
    /// What its tokens are bound to.
    pub(super) binding: Option<Binding>,
    /// More claims, in every token of the session.
    pub(super) claims: &'a Claims,
}

/// A session that is about to be recorded, with the texts of its first tokens.
pub(super) struct Prepared {
    pub(super) login: Login,
    access: String,
    access_until: UnixTime,
    refresh: String,
    claims: Claims,
}

impl Endpoints {
    /// What the client gets once the session is recorded.
    ///
    /// # Errors
    /// No random bytes.
    pub(super) fn signed_in(
        &self,
        status: StatusCode,
        prepared: &Prepared,
        user: &User,
        by_cookie: bool,
    ) -> Result<Response<Body>, Problem> {
        let auth = self.auth()?;
        let mut view = json!({ "user": user_view(auth, user) });
        if auth.header_transport {
            view["access_token"] = (&*prepared.access).into();
            view["refresh_token"] = (&*prepared.refresh).into();
        }
        if !by_cookie {
            return Ok(one(status, view));
        }
        let (csrf, until) = (csrf_value(&prepared.claims)?, prepared.login.session.expires);
        view["csrf_token"] = (&*csrf).into();
        let mut response = one(status, view);
        let cookies = Cookies {
            access: (&prepared.access, prepared.access_until),
            refresh: Some((&prepared.refresh, until)),
            csrf: (&csrf, until),
        };
        set_cookies(&mut response, self.parts.clock.now(), cookies);
        Ok(response)
    }

    /// A session that begins now, of a user who has just given their password, with its first tokens.
    ///
    /// # Errors
    /// The signer failed.
    pub(super) fn prepare_login(
        &self,
        call: &Call,
        user: &User,
        claims: Claims,
    ) -> Result<Prepared, Problem> {
        let auth = self.auth()?;
        // The clock is read here and not when the request came: between the two lies the hash, and a logout-all in
        // that time is not meant for this session.
        let now = self.parts.clock.now();
        let session = Session {
            id: Uuid::new_v4().to_string().into(),
            subject: user.id.clone(),
            created: now,
            expires: seconds_later(now, auth.own.refresh_ttl),
            user_agent: call.user_agent(),
            address: call.address(),
        };
        let holder = Holder {
            subject: &user.id,
            session: &session.id,
            until: session.expires,
            scope: &user.scope,
            binding: self.binding_for(call)?,
            claims: &claims,
        };
        let (access, access_row) = self.new_access(call, holder, now, true)?;
        let (refresh, refresh_row) = self.new_refresh(call, holder, now)?;
        let access_until = access_row.expires_at;
        let login = Login { session, tokens: vec![access_row, refresh_row] };
        Ok(Prepared { login, access, access_until, refresh, claims })
    }

    /// What the tokens of a client that asks for its first ones are to be bound to: the key of its proof, the
    /// certificate of its connection.
    ///
    /// # Errors
    /// 401 for a proof that is no good or was used before.
    pub(super) fn binding_for(&self, call: &Call) -> Result<Option<Binding>, Problem> {
        let token =
            if call.place == Place::Refresh { self.presented(call)?.map(|token| token.text) } else { None };
        let possession = call.possession(token)?;
        if let Some(proof) = &possession.proof {
            self.parts.tokens.take_proof(proof, call.now)?;
        }
        Ok(possession.binding())
    }

    /// A new access token: its text, and its row.
    ///
    /// # Errors
    /// The signer failed.
    pub(super) fn new_access(
        &self,
        call: &Call,
        holder: Holder<'_>,
        now: UnixTime,
        fresh: bool,
    ) -> Result<(String, Token), Problem> {
        let auth = self.auth()?;
        // Never longer than its session, so that the revocation of the session can be forgotten when that ends.
        let expires_at = seconds_later(now, auth.own.access_ttl).min(holder.until);
        let token_id = Uuid::new_v4().to_string();
        let mut claims = auth.claims.clone();
        claims.extend(holder.claims.clone());
        self.new_token(
            call,
            &Grant {
                token_type: TokenType::Access,
                token_id: &token_id,
                subject: holder.subject,
                session: Some(holder.session),
                client: None,
                issued_at: UnixTime::from_secs(now.secs()),
                expires_at,
                fresh,
                scope: holder.scope,
                binding: holder.binding,
                claims: &claims,
            },
        )
    }

    /// A new refresh token: its text, and its row.
    ///
    /// # Errors
    /// The signer failed.
    pub(super) fn new_refresh(
        &self,
        call: &Call,
        holder: Holder<'_>,
        now: UnixTime,
    ) -> Result<(String, Token), Problem> {
        let id = Uuid::new_v4().to_string();
        self.refresh_as(call, holder, &id, UnixTime::from_secs(now.secs()), holder.until)
    }

    /// A refresh token with this very id and these very times.
    ///
    /// # Errors
    /// The signer failed.
    pub(super) fn refresh_as(
        &self,
        call: &Call,
        holder: Holder<'_>,
        id: &str,
        issued_at: UnixTime,
        expires_at: UnixTime,
    ) -> Result<(String, Token), Problem> {
        self.new_token(
            call,
            &Grant {
                token_type: TokenType::Refresh,
                token_id: id,
                subject: holder.subject,
                session: Some(holder.session),
                client: None,
                issued_at,
                expires_at,
                fresh: false,
                scope: "",
                binding: holder.binding,
                claims: holder.claims,
            },
        )
    }

    /// A new token as granted: its text, and its row.
    ///
    /// # Errors
    /// The signer failed.
    pub(super) fn new_token(&self, call: &Call, grant: &Grant<'_>) -> Result<(String, Token), Problem> {
        let issued = self.parts.tokens.issue(grant)?;
        let row = Token {
            id: grant.token_id.into(),
            session: grant.session.unwrap_or_default().into(),
            subject: grant.subject.into(),
            token_type: grant.token_type,
            key_id: issued.key_id,
            issued_at: grant.issued_at,
            expires_at: grant.expires_at,
            user_agent: call.user_agent(),
            address: call.address(),
        };
        Ok((issued.text, row))
    }

    /// Revokes the oldest sessions of a subject that has too many now.
    ///
    /// # Errors
    /// 503 when the log or the store is away.
    pub(super) async fn keep_session_limit(&self, call: &Call, subject: &str) -> Result<(), Problem> {
        let Some(limit) = self.auth()?.max_sessions_per_user else { return Ok(()) };
        let live = self.live_sessions(subject).await?;
        let surplus = live.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        let cause = Cause { actor: "gateway", reason: "max_sessions_per_user" };
        self.revoke_sessions(call, &live[..surplus], cause).await
    }
}

/// A whole second, so that a row and the `exp` of its token say the same.
pub(super) fn seconds_later(now: UnixTime, ttl: Duration) -> UnixTime {
    UnixTime::from_secs(now.secs()).plus(ttl)
}

/// The scope of a user's access tokens: their own, else the one that all have by `[auth.claims]`.
pub(super) fn scope_of<'a>(auth: &'a Settings, user: &'a User) -> &'a str {
    match &*user.scope {
        "" => auth.claims.get("scope").and_then(Value::as_str).unwrap_or_default(),
        own => own,
    }
}

/// A user as clients see one (CONTRACT §5).
pub(super) fn user_view(auth: &Settings, user: &User) -> Value {
    let mut view: Claims = auth
        .user_fields
        .iter()
        .map(|name| (name.to_string(), user.fields.get(&**name).cloned().unwrap_or(Value::Null)))
        .collect();
    view.insert("id".to_owned(), (*user.id).into());
    view.insert("email".to_owned(), (*user.email).into());
    view.insert("username".to_owned(), (*user.username).into());
    view.insert("createdon".to_owned(), user.created.rfc3339().into());
    Value::Object(view)
}

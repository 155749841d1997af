//! Sign-up, sign-in, password change, and who one is.

use aws_lc_rs::hmac;
use http::{Response, StatusCode};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::Endpoints;
use super::call::Call;
use super::caller::{Caller, revoked};
use super::email::{EMAIL_BYTES_MAX, email_key, is_email};
use super::fields::{Fields, bad};
use super::lockout::{Attempt, Locked};
use super::login::user_view;
use super::password::{check, password, usable};
use super::reply::{message, one};
use super::revoking::Cause;
use crate::answer::{Body, Code, Problem};
use crate::store::{Created, PasswordHash, Session, Started, User};
use crate::token::Claims;

/// Members of a sign-up or a user that mean something already; whatever the configuration says, none of them is kept
/// as an extra field, the password least of all.
const RESERVED: [&str; 5] = ["id", "email", "username", "createdon", "password"];
/// The most bytes of a username and of each of the `user_fields`.
pub(super) const FIELD_BYTES_MAX: usize = 1024;

impl Endpoints {
    /// POST `/auth/signup`: an account, its first session and tokens, all or nothing.
    pub(super) async fn sign_up(&self, call: &Call) -> Result<Response<Body>, Problem> {
        let auth = self.auth()?;
        if auth.delegate.is_some() {
            return Err(Problem::new(
                Code::Forbidden,
                "Accounts are not made here, but where passwords are kept",
            ));
        }
        if !auth.signup {
            return Err(Problem::new(Code::Forbidden, "Sign-up is closed"));
        }
        let by_cookie = self.signs_in_by_cookie(call)?;
        let fields = call.fields()?;
        let email = fields.given("email")?;
        if !is_email(email) {
            return Err(bad("Invalid email format"));
        }
        let password = password(&fields, "password")?;
        check(&password, &auth.password)?;
        let username = fields.text("username", FIELD_BYTES_MAX)?.filter(|name| !name.is_empty());
        let user_fields = self.user_fields(&fields)?;
        let key = email_key(email);
        let taken = || bad("User already exists");
        if self.parts.store.user_by_email(&key).await?.is_some() {
            return Err(taken());
        }

        let user = User {
            id: Uuid::new_v4().to_string().into(),
            email: email.into(),
            username: username.unwrap_or(email).into(),
            password_hash: self.hasher()?.hash(password).await?,
            fields: user_fields,
            scope: "".into(),
            created: self.parts.clock.now(),
            disabled: false,
        };
        let prepared = self.prepare_login(call, &user, self.session_claims()?)?;
        match self.parts.store.create_user(user.clone(), key.into(), Some(prepared.login.clone())).await? {
            Created::Done => self.signed_in(StatusCode::CREATED, &prepared, &user, by_cookie),
            Created::EmailTaken | Created::IdTaken => Err(taken()),
        }
    }

    /// POST `/auth/signin`. Whether there is such an account, and whether it may sign in, shows neither in the
    /// words nor in the time: a hash is computed on the same queue, for nobody's account one like somebody's.
    pub(super) async fn sign_in(&self, call: &Call) -> Result<Response<Body>, Problem> {
        if let Some(delegate) = &self.delegate {
            return self.sign_in_elsewhere(call, delegate).await;
        }
        let by_cookie = self.signs_in_by_cookie(call)?;
        let fields = call.fields()?;
        let (email, password) = (fields.given("email")?, fields.given("password")?);
        // What can be nobody's is wrong like any other: the same words after the same time.
        let key = if is_email(email) { email_key(email) } else { nobody(email) };
        let password = usable(password).unwrap_or_default();
        let user = self.check_password(call, &key, &password, None).await?;
        let user = self.rehashed(user, password).await?;

        let prepared = self.prepare_login(call, &user, self.session_claims()?)?;
        match self.parts.store.start_session(prepared.login.clone(), user.password_hash.clone()).await? {
            Started::Done => {}
            Started::CredentialsChanged => return Err(bad_credentials()),
        }
        self.keep_session_limit(call, &user.id).await?;
        self.signed_in(StatusCode::OK, &prepared, &user, by_cookie)
    }

    /// GET `/auth/me`.
    pub(super) async fn me(&self, call: &Call) -> Result<Response<Body>, Problem> {
        let caller = self.caller(call).await?;
        let user = self.parts.store.user(&caller.subject).await?.ok_or_else(revoked)?;
        Ok(one(StatusCode::OK, user_view(self.auth()?, &user)))
    }

    /// POST `/auth/password`. All other sessions are revoked first: should we stop in between, the password is the
    /// old one and its owner tries again. What was begun with the old password meanwhile is revoked after.
    pub(super) async fn change_password(&self, call: &Call) -> Result<Response<Body>, Problem> {
        let caller = self.fresh_caller(call).await?;
        if self.delegate.is_some() {
            return Err(Problem::new(
                Code::Forbidden,
                "The password is not kept here; change it where it is",
            ));
        }
        let fields = call.fields()?;
        let old = password(&fields, "password")?;
        let new = password(&fields, "new_password")?;
        check(&new, &self.auth()?.password)?;
        let user = self.parts.store.user(&caller.subject).await?.ok_or_else(revoked)?;
        let key = email_key(&user.email);
        let user = self.check_password(call, &key, &old, Some(user)).await?;
        let hash = self.hasher()?.hash(new).await?;

        self.revoke_other_sessions(call, &caller).await?;
        if !self.parts.store.set_password(user.id.clone(), user.password_hash, hash).await? {
            return Err(Problem::new(Code::Conflict, "The password was changed elsewhere meanwhile"));
        }
        self.revoke_other_sessions(call, &caller).await?;
        Ok(message("Password changed; all other sessions are revoked"))
    }

    async fn revoke_other_sessions(&self, call: &Call, caller: &Caller) -> Result<(), Problem> {
        let live = self.live_sessions(&caller.subject).await?;
        let others: Vec<Session> = live.into_iter().filter(|session| session.id != caller.session).collect();
        let actor = format!("subject:{}", caller.subject);
        self.revoke_sessions(call, &others, Cause { actor: &actor, reason: "password changed" }).await
    }

    /// The account whose password this is. `known`: the caller's own account; else the one with this email.
    async fn check_password(
        &self,
        call: &Call,
        key: &str,
        password: &Zeroizing<String>,
        known: Option<User>,
    ) -> Result<User, Problem> {
        let rule = self.auth()?.lockout;
        let attempt = Attempt { account: key, address: call.ip };
        self.common.check(&self.lockout, attempt, rule, call.now).await.map_err(locked_out)?;
        let user = match known {
            Some(user) => Some(user),
            None => self.parts.store.user_by_email(key).await?,
        };
        // Asked for whether or not it is needed: its time is part of the answer's.
        let decoy = self.decoy(key).await?;
        let hash = user.as_ref().map(|user| user.password_hash.clone()).or(decoy);
        let fits = self.hasher()?.verify(password.clone(), hash).await?;
        let known = user.as_ref().map(|user| user.id.clone());
        let user = user.filter(|user| fits && !user.disabled);
        let now = self.parts.clock.now();
        let concluded = self.common.conclude(&self.lockout, attempt, rule, now, user.is_some()).await;
        if user.is_none() {
            // Never what was typed: people type passwords where the email goes.
            tracing::info!(
                target: "portcullis::audit",
                subject = known.as_deref().unwrap_or_default(),
                address = &*call.address(),
                locked = concluded.is_err(),
                "a sign-in was refused"
            );
        }
        concluded.map_err(locked_out)?;
        user.ok_or_else(bad_credentials)
    }

    /// What is computed for an email that nobody has: the hash of an account drawn by a keyed digest of the email, so
    /// that hashes of other programs, slower or faster than ours, are as frequent behind emails without an account as
    /// behind those with one, and the same email always takes the same time.
    async fn decoy(&self, key: &str) -> Result<Option<PasswordHash>, Problem> {
        let drawn = hmac::sign(&self.decoys, key.as_bytes());
        let id = Uuid::from_slice(&drawn.as_ref()[..16]).unwrap_or_default();
        let near = self.parts.store.hash_near(&id.to_string()).await?;
        let hasher = self.hasher()?;
        Ok(near.filter(|hash| hasher.understands(hash)))
    }

    /// A user who has just given their password, with a hash by the parameters in force.
    async fn rehashed(&self, user: User, password: Zeroizing<String>) -> Result<User, Problem> {
        let hasher = self.hasher()?;
        if !hasher.is_outdated(&user.password_hash) {
            return Ok(user);
        }
        // When the queue is full, the next sign-in will do.
        let Ok(new) = hasher.hash(password).await else { return Ok(user) };
        let old: PasswordHash = user.password_hash.clone();
        let changed = self.parts.store.set_password(user.id.clone(), old, new.clone()).await?;
        Ok(if changed { User { password_hash: new, ..user } } else { user })
    }

    /// The configured extra fields that are given.
    fn user_fields(&self, fields: &Fields) -> Result<Claims, Problem> {
        let mut given = Claims::new();
        let extra = self.auth()?.user_fields.iter().filter(|name| !RESERVED.contains(&&***name));
        for name in extra {
            if let Some(text) = fields.text(name, FIELD_BYTES_MAX)? {
                given.insert(name.to_string(), text.into());
            }
        }
        Ok(given)
    }
}

/// A key that no account has, to count failures by.
pub(super) fn nobody(email: &str) -> String {
    let start: String = email.chars().take(EMAIL_BYTES_MAX).collect();
    format!("\0{start}")
}

pub(super) fn bad_credentials() -> Problem {
    Problem::new(Code::BadCredentials, "Bad email or password")
}

pub(super) fn locked_out(Locked(wait): Locked) -> Problem {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    Problem::new(Code::LockedOut, "Too many failed sign-ins; try again later")
        .with_retry_after(seconds.max(1))
}

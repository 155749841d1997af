//! What the operator does to accounts (CONTRACT §6 `/admin/users`).
//!
//! The order is the same everywhere: the log first, then the store, then the log once more for what began in between.
//! Should we stop half-way, an account has lost sessions and is otherwise as it was, and the operator tries again; no
//! account is ever shown as disabled or gone while its tokens are good.

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde_json::Value;
use uuid::Uuid;

use super::Endpoints;
use super::account::FIELD_BYTES_MAX;
use super::email::{email_key, is_email};
use super::fields::{Fields, bad};
use super::login::user_view;
use super::password::{check, password};
use super::revoking::Cause;
use super::settings::Settings;
use crate::answer::{Code, Problem};
use crate::clock::UnixTime;
use crate::store::{Created, PasswordHash, User};
use crate::token::Claims;

/// What an account may be made of, beside the configured `user_fields`.
const MEMBERS: [&str; 9] =
    ["id", "email", "username", "password", "password_hash", "scope", "disabled", "createdon", "user_fields"];
/// The most bytes of an id that is brought along, of a scope, and of a reason.
const ID_BYTES_MAX: usize = 128;
const SCOPE_BYTES_MAX: usize = 1024;
const REASON_BYTES_MAX: usize = 1024;
/// Lines of one request that are worked on at once: enough to share the store's commits, few enough to leave room for
/// sign-ins in the queue of hashes.
const LINES_AT_ONCE: usize = 32;
/// How often a password is set anew when it is changed elsewhere at the same time.
const ATTEMPTS: usize = 5;

/// Who asks.
#[derive(Clone, Debug)]
pub struct Operator {
    /// From where, for the trail.
    pub address: String,
    /// Why, for the trail; empty: what was done.
    pub reason: String,
}

impl Operator {
    /// An operator at this address, whose request has this body: nothing, or `{reason?}` and what `also` names.
    ///
    /// # Errors
    /// 400 for a body that is no such object.
    fn asking(address: String, fields: &Fields, also: &[&str]) -> Result<Self, Problem> {
        if let Some(name) = fields.unknown(|name| name == "reason" || also.contains(&name)) {
            return Err(bad(format!("Unknown '{}' in body", shown(name))));
        }
        let reason = fields.text("reason", REASON_BYTES_MAX)?.unwrap_or_default().to_owned();
        Ok(Self { address, reason })
    }

    fn cause<'a>(&'a self, done: &'a str) -> Cause<'a> {
        Cause { actor: "admin", reason: if self.reason.is_empty() { done } else { &self.reason } }
    }
}

/// What became of an account that was to be made.
#[derive(Debug)]
pub enum CreatedUser {
    /// It is there, as the operator sees it.
    Done(Value),
    /// One with that email was there before; nothing was written.
    EmailTaken,
}

/// What became of lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// Accounts made.
    pub created: u64,
    /// Lines whose email has an account already.
    pub skipped: u64,
    /// Lines that made none: the number, from 1, and why.
    pub errors: Vec<(u64, String)>,
}

impl Endpoints {
    /// A page of the accounts in the order of their emails, and the cursor of the next one.
    ///
    /// # Errors
    /// 404 without `[auth]`; 503.
    pub async fn users(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Value>, Option<String>), Problem> {
        let auth = self.accounts()?;
        let mut users = self.parts.store.users(after.unwrap_or_default(), limit + 1).await?;
        let more = users.len() > limit;
        users.truncate(limit);
        let next = users.last().filter(|_| more).map(|user| email_key(&user.email));
        Ok((users.iter().map(|user| shown_user(auth, user)).collect(), next))
    }

    /// The account with this email, however it is spelt.
    ///
    /// # Errors
    /// As [`Endpoints::users`].
    pub async fn user_of_email(&self, email: &str) -> Result<Option<Value>, Problem> {
        let auth = self.accounts()?;
        let user = self.parts.store.user_by_email(&email_key(email)).await?;
        Ok(user.map(|user| shown_user(auth, &user)))
    }

    /// One account, with how many sessions of it are live.
    ///
    /// # Errors
    /// 404; 503.
    pub async fn user(&self, id: &str) -> Result<Value, Problem> {
        let auth = self.accounts()?;
        let user = self.known_user(id).await?;
        let live = self.live_sessions(id).await?;
        let mut view = shown_user(auth, &user);
        view["live_sessions"] = live.len().into();
        Ok(view)
    }

    /// Makes an account of one JSON object: `{email, password | password_hash, username?, scope?, id?, disabled?,
    /// createdon?, user_fields?}`; the configured fields may also stand beside the rest, as in a sign-up.
    ///
    /// # Errors
    /// 400 in words; 409 when the id is taken; 503.
    pub async fn create_user(&self, json: &[u8]) -> Result<CreatedUser, Problem> {
        let auth = self.accounts()?;
        let Some((user, key)) = self.new_user(auth, &Fields::of_json(json)?).await? else {
            return Ok(CreatedUser::EmailTaken);
        };
        match self.parts.store.create_user(user.clone(), key.into(), None).await? {
            Created::Done => Ok(CreatedUser::Done(shown_user(auth, &user))),
            Created::EmailTaken => Ok(CreatedUser::EmailTaken),
            Created::IdTaken => Err(Problem::new(Code::Conflict, "There is a user with this 'id'")),
        }
    }

    /// Makes an account of each line, as [`Endpoints::create_user`]; each for itself, all of it or nothing. An email
    /// that has an account is passed over, so that the same lines can be sent again.
    ///
    /// # Errors
    /// 404 without `[auth]`. What is wrong with a line, or kept it from being written, is told with its number.
    pub async fn create_users(&self, lines: &Bytes) -> Result<Lines, Problem> {
        self.accounts()?;
        let mut wanted = Vec::new();
        for (number, line) in (1..).zip(lines.split(|byte| *byte == b'\n')) {
            let line = line.trim_ascii();
            if !line.is_empty() {
                wanted.push((number, lines.slice_ref(line)));
            }
        }
        let made = |(number, line): (u64, Bytes)| async move { (number, self.create_user(&line).await) };
        let mut made = stream::iter(wanted).map(made).buffered(LINES_AT_ONCE);
        let mut done = Lines::default();
        while let Some((number, made)) = made.next().await {
            match made {
                Ok(CreatedUser::Done(_)) => done.created += 1,
                Ok(CreatedUser::EmailTaken) => done.skipped += 1,
                Err(problem) => done.errors.push((number, problem.detail().to_owned())),
            }
        }
        Ok(done)
    }

    /// Nobody signs in to it or refreshes any more, and what it has is revoked. Gives the account, with the sequence.
    ///
    /// # Errors
    /// 400 for the body; 404; 503: nothing more than revocations was done.
    pub async fn disable_user(&self, id: &str, address: String, json: &[u8]) -> Result<Value, Problem> {
        let operator = Operator::asking(address, &optional(json)?, &[])?;
        self.known_user(id).await?;
        let sequence = self.shut(id, &operator, operator.cause("account disabled")).await?;
        self.user_at(id, sequence).await
    }

    /// It may sign in again; what was revoked stays revoked.
    ///
    /// # Errors
    /// As [`Endpoints::disable_user`].
    pub async fn enable_user(&self, id: &str, address: String, json: &[u8]) -> Result<Value, Problem> {
        Operator::asking(address, &optional(json)?, &[])?;
        if !self.parts.store.set_disabled(id, false).await? {
            return Err(no_such_user());
        }
        self.user(id).await
    }

    /// Revokes everything that was issued to it until now; it may sign in again at once.
    ///
    /// # Errors
    /// As [`Endpoints::disable_user`].
    pub async fn revoke_user(&self, id: &str, address: String, json: &[u8]) -> Result<Value, Problem> {
        let operator = Operator::asking(address, &optional(json)?, &[])?;
        self.known_user(id).await?;
        let cause = operator.cause("revoked by the operator");
        let sequence = self.revoke_subject_from(&operator.address, id, None, cause).await?;
        self.user_at(id, sequence).await
    }

    /// Sets a password (by the rule) or a hash, and revokes everything that was issued before.
    ///
    /// # Errors
    /// As [`Endpoints::disable_user`]; 409 when it is being changed elsewhere all the time.
    pub async fn reset_password(&self, id: &str, address: String, json: &[u8]) -> Result<Value, Problem> {
        let auth = self.accounts()?;
        let fields = Fields::of_json(json)?;
        let operator = Operator::asking(address, &fields, &["password", "password_hash"])?;
        let mut user = self.known_user(id).await?;
        let hash = self.given_hash(auth, &fields).await?;
        let cause = operator.cause("password set by the operator");
        let sequence = self.revoke_subject_from(&operator.address, id, None, cause).await?;
        for _ in 0..ATTEMPTS {
            let old = user.password_hash.clone();
            if self.parts.store.set_password(id.into(), old, hash.clone()).await? {
                // Who signed in with the old password meanwhile goes too.
                self.revoke_begun_meanwhile(id, &operator.address, cause).await?;
                return self.user_at(id, sequence).await;
            }
            user = self.known_user(id).await?;
        }
        Err(Problem::new(Code::Conflict, "The password is being changed elsewhere"))
    }

    /// Revokes everything and forgets the account with its sessions and tokens. Gives the sequence.
    ///
    /// # Errors
    /// As [`Endpoints::disable_user`].
    pub async fn delete_user(&self, id: &str, address: String) -> Result<u64, Problem> {
        let operator = Operator { address, reason: String::new() };
        self.known_user(id).await?;
        let sequence = self.shut(id, &operator, operator.cause("account deleted")).await?;
        self.parts.store.delete_user(id).await?;
        Ok(sequence)
    }

    async fn shut(&self, id: &str, operator: &Operator, cause: Cause<'_>) -> Result<u64, Problem> {
        let sequence = self.revoke_subject_from(&operator.address, id, None, cause).await?;
        if !self.parts.store.set_disabled(id, true).await? {
            return Err(no_such_user());
        }
        // No session begins from here on; what began between the two goes too.
        self.revoke_begun_meanwhile(id, &operator.address, cause).await?;
        Ok(sequence)
    }

    async fn revoke_begun_meanwhile(&self, id: &str, address: &str, cause: Cause<'_>) -> Result<(), Problem> {
        let begun = self.live_sessions(id).await?;
        self.revoke_sessions_from(address, &begun, cause).await
    }

    async fn user_at(&self, id: &str, sequence: u64) -> Result<Value, Problem> {
        let mut view = self.user(id).await?;
        view["sequence"] = sequence.into();
        Ok(view)
    }

    async fn known_user(&self, id: &str) -> Result<User, Problem> {
        self.accounts()?;
        self.parts.store.user(id).await?.ok_or_else(no_such_user)
    }

    fn accounts(&self) -> Result<&Settings, Problem> {
        let without = || Problem::new(Code::NotFound, "The gateway keeps no accounts: [auth] is off");
        self.parts.auth.as_ref().ok_or_else(without)
    }

    /// The account that is asked for, with the spelling by which its email is compared; `None` when that is taken, so
    /// that nobody computes a hash for nothing.
    async fn new_user(&self, auth: &Settings, fields: &Fields) -> Result<Option<(User, String)>, Problem> {
        let is_field = |name: &str| auth.user_fields.iter().any(|field| **field == *name);
        if let Some(name) = fields.unknown(|name| MEMBERS.contains(&name) || is_field(name)) {
            let words = format!("Unknown '{}' in body: it is not listed in user_fields", shown(name));
            return Err(bad(words));
        }
        let email = fields.given("email")?;
        if !is_email(email) {
            return Err(bad("Invalid email format"));
        }
        let key = email_key(email);
        let username = fields.text("username", FIELD_BYTES_MAX)?.filter(|name| !name.is_empty());
        let created = match fields.text("createdon", 64)? {
            None => self.parts.clock.now(),
            Some(text) => {
                UnixTime::parse_rfc3339(text).ok_or_else(|| bad("'createdon' must be a time in RFC 3339"))?
            }
        };
        let (id, scope, given) = (id(fields)?, scope(fields)?, user_fields(auth, fields)?);
        let disabled = fields.has("disabled") && fields.boolean("disabled")?;
        if self.parts.store.user_by_email(&key).await?.is_some() {
            return Ok(None);
        }
        let user = User {
            id: id.into(),
            email: email.into(),
            username: username.unwrap_or(email).into(),
            password_hash: self.given_hash(auth, fields).await?,
            fields: given,
            scope: scope.into(),
            created,
            disabled,
        };
        Ok(Some((user, key)))
    }

    /// The hash of `password`, which must keep the rule, or the one given as `password_hash`.
    async fn given_hash(&self, auth: &Settings, fields: &Fields) -> Result<PasswordHash, Problem> {
        match (fields.has("password"), fields.has("password_hash")) {
            (true, true) => Err(bad("Give 'password' or 'password_hash', not both")),
            (false, false) => Err(bad("Missing 'password' or 'password_hash' in body")),
            (true, false) => {
                let password = password(fields, "password")?;
                check(&password, &auth.password)?;
                self.hasher()?.hash(password).await
            }
            (false, true) => {
                let text = fields.given("password_hash")?;
                let told = |words| bad(format!("'password_hash' {words}"));
                self.hasher()?.accept(text).map_err(told)
            }
        }
    }
}

/// No body is an empty object.
fn optional(json: &[u8]) -> Result<Fields, Problem> {
    if json.is_empty() { Ok(Fields::default()) } else { Fields::of_json(json) }
}

fn no_such_user() -> Problem {
    Problem::new(Code::NotFound, "There is no such user")
}

/// A name that somebody sent, fit to be sent back.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// The id that is brought along, or a new one.
fn id(fields: &Fields) -> Result<String, Problem> {
    let Some(id) = fields.text("id", ID_BYTES_MAX)? else { return Ok(Uuid::new_v4().to_string()) };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:@".contains(&byte);
    if id.is_empty() || !id.bytes().all(plain) {
        return Err(bad("'id' must be made of letters, digits, \"-\", \"_\", \".\", \":\" and \"@\""));
    }
    Ok(id.to_owned())
}

/// Scopes (RFC 6749 §3.3) with one space between them.
fn scope(fields: &Fields) -> Result<String, Problem> {
    let text = fields.text("scope", SCOPE_BYTES_MAX)?.unwrap_or_default();
    let scopes: Vec<&str> = text.split(' ').filter(|scope| !scope.is_empty()).collect();
    let is_good = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    if !scopes.iter().all(|scope| scope.bytes().all(is_good)) {
        return Err(bad("'scope' must be scopes with spaces between them (RFC 6749 section 3.3)"));
    }
    Ok(scopes.join(" "))
}

/// The configured fields, from `user_fields` or from beside it.
fn user_fields(auth: &Settings, fields: &Fields) -> Result<Claims, Problem> {
    let nested = fields.object("user_fields")?.unwrap_or_default();
    if let Some(name) = nested.unknown(|name| auth.user_fields.iter().any(|field| **field == *name)) {
        return Err(bad(format!("'{}' is not listed in user_fields", shown(name))));
    }
    let mut given = Claims::new();
    for name in &auth.user_fields {
        let inner = nested.text(name, FIELD_BYTES_MAX)?;
        if let Some(text) = inner.or(fields.text(name, FIELD_BYTES_MAX)?) {
            given.insert(name.to_string(), text.into());
        }
    }
    Ok(given)
}

/// An account as the operator sees it: as its owner does, and the rest. Never the hash, only of what kind it is.
fn shown_user(auth: &Settings, user: &User) -> Value {
    let mut view = user_view(auth, user);
    view["scope"] = (*user.scope).into();
    view["disabled"] = user.disabled.into();
    let text = &*user.password_hash.0;
    let name = text.trim_start_matches('$').split(['$', ':']).next().unwrap_or_default();
    view["password_kind"] = if name.starts_with('2') { "bcrypt".into() } else { name.into() };
    view
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::support::{GOOD, World};
    use super::*;
    use crate::issuer::settings::SELF;
    use crate::revocation::{Kind, Selector};
    use crate::store::Session;

    const WERKZEUG: &str = "scrypt:16:1:1$salt$";

    async fn made(world: &World, body: Value) -> Result<Value, String> {
        match world.endpoints.create_user(body.to_string().as_bytes()).await {
            Ok(CreatedUser::Done(view)) => Ok(view),
            Ok(CreatedUser::EmailTaken) => Err("taken".to_owned()),
            Err(problem) => Err(problem.detail().to_owned()),
        }
    }

    #[tokio::test]
    async fn an_account_is_made_of_what_was_given() {
        let world = World::new();
        let view = made(
            &world,
            json!({ "email": "Ada@x.de", "password": GOOD, "scope": " read  write ", "id": "7",
                    "user_fields": { "firstname": "Ada" }, "lastname": "L", "createdon": "2020-01-02T03:04:05Z" }),
        );
        let view = view.await.unwrap();
        assert_eq!((&view["id"], &view["scope"]), (&json!("7"), &json!("read write")));
        assert_eq!((&view["firstname"], &view["lastname"]), (&json!("Ada"), &json!("L")));
        assert_eq!((&view["disabled"], &view["password_kind"]), (&json!(false), &json!("argon2id")));
        assert_eq!(view["createdon"], "2020-01-02T03:04:05Z");
        let (access, _) = world.sign_in("ada@x.de").await;
        assert_eq!(super::super::support::claim(&access, "scope"), "read write");
        assert!(!view.to_string().contains("$argon2"), "{view}");
    }

    #[tokio::test]
    async fn what_makes_no_account_is_told_in_words_without_secrets() {
        let world = World::new();
        let with = |more: Value| {
            let mut body = json!({ "email": "a@x.de", "password": GOOD });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            body
        };
        for (body, words) in [
            (json!({}), "Missing 'email'"),
            (json!({ "email": "a@x.de" }), "Missing 'password' or 'password_hash'"),
            (json!({ "email": "nobody", "password": GOOD }), "Invalid email format"),
            (json!({ "email": "a@x.de", "password": "short" }), "at least 8 characters"),
            (with(json!({ "password_hash": "$2b$04$" })), "not both"),
            (with(json!({ "password": null, "password_hash": "plaintext1!" })), "of no kind that is known"),
            (with(json!({ "colour": "red" })), "Unknown 'colour'"),
            (with(json!({ "user_fields": { "colour": "red" } })), "'colour' is not listed"),
            (with(json!({ "user_fields": "x" })), "must be an object"),
            (with(json!({ "firstname": 7 })), "'firstname' must be a string"),
            (with(json!({ "id": "a b" })), "'id' must be made of"),
            (with(json!({ "scope": "a\"b" })), "'scope' must be"),
            (with(json!({ "disabled": "yes" })), "'disabled' must be true or false"),
            (with(json!({ "createdon": "today" })), "RFC 3339"),
        ] {
            let error = made(&world, body.clone()).await.unwrap_err();
            assert!(error.contains(words), "{body}: {error}");
            assert!(!error.contains(GOOD) && !error.contains("plaintext1!"), "{error}");
        }
        assert!(world.endpoints.users(None, 10).await.unwrap().0.is_empty());
        made(&world, with(json!({ "id": "7" }))).await.unwrap();
        assert_eq!(made(&world, with(json!({}))).await.unwrap_err(), "taken");
        let same_id = json!({ "email": "b@x.de", "password": GOOD, "id": "7" });
        assert!(made(&world, same_id).await.unwrap_err().contains("this 'id'"));
    }

    #[tokio::test]
    async fn lines_stand_each_for_itself_and_can_be_sent_again() {
        let world = World::new();
        let hash = format!("{WERKZEUG}{}", "ab".repeat(64));
        let line = |email: &str| json!({ "email": email, "password_hash": hash }).to_string();
        let lines = format!("{}\n\n{{\"email\":\n{}\r\n{}", line("a@x.de"), line("nobody"), line("b@x.de"));
        let done = world.endpoints.create_users(&lines.clone().into()).await.unwrap();
        assert_eq!((done.created, done.skipped), (2, 0));
        let numbers: Vec<u64> = done.errors.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [3, 4], "{:?}", done.errors);
        let again = world.endpoints.create_users(&lines.clone().into()).await.unwrap();
        assert_eq!((again.created, again.skipped, again.errors.len()), (0, 2, 2));
        let (page, next) = world.endpoints.users(None, 1).await.unwrap();
        assert_eq!((&page[0]["email"], next.as_deref()), (&json!("a@x.de"), Some("a@x.de")));
        assert_eq!(page[0]["password_kind"], "scrypt");
        let (page, next) = world.endpoints.users(next.as_deref(), 1).await.unwrap();
        assert_eq!((&page[0]["email"], next), (&json!("b@x.de"), None));
    }

    #[tokio::test]
    async fn without_the_log_nothing_is_done_to_an_account() {
        let world = World::new();
        world.sign_up("a@x.de").await;
        let id = world.endpoints.user_of_email("A@x.de").await.unwrap().unwrap()["id"].clone();
        let id = id.as_str().unwrap();
        let at = || "192.0.2.1".to_owned();
        world.log.failing.store(true, std::sync::atomic::Ordering::SeqCst);
        let endpoints = &world.endpoints;
        let refused = [
            endpoints.disable_user(id, at(), b"").await.map(drop),
            endpoints.revoke_user(id, at(), b"").await.map(drop),
            endpoints.reset_password(id, at(), br#"{"password":"another horse 1!"}"#).await.map(drop),
            endpoints.delete_user(id, at()).await.map(drop),
        ];
        for refused in refused {
            assert_eq!(refused.unwrap_err().code(), Code::LogUnavailable);
        }
        assert_eq!(endpoints.user(id).await.unwrap()["disabled"], false);
        world.sign_in("a@x.de").await;
    }

    #[tokio::test]
    async fn a_session_that_begins_while_its_account_is_disabled_goes_with_it() {
        let world = World::new();
        world.sign_up("a@x.de").await;
        let user = world.store.user_by_email("a@x.de").await.unwrap().unwrap();
        // Between the revocation and the store somebody signs in, who is not among the sessions of the first batch.
        let session = Session {
            id: "late".into(),
            subject: user.id.clone(),
            created: world.endpoints.parts.clock.now(),
            expires: world.endpoints.parts.clock.now().plus(std::time::Duration::from_secs(600)),
            user_agent: "".into(),
            address: "".into(),
        };
        let login = crate::store::Login { session, tokens: Vec::new() };
        let (store, hash) = (world.store.clone(), user.password_hash.clone());
        // The store's writer does it in its turn, whether or not anybody waits.
        let sign_in = Box::new(move |_: &mut Vec<_>| drop(store.start_session(login, hash)));
        *world.log.crossing.lock().unwrap() = Some(sign_in);
        let address = "192.0.2.1".to_owned();
        world.endpoints.disable_user(&user.id, address, br#"{"reason":"left"}"#).await.unwrap();
        assert!(world.store.session("late").await.unwrap().is_some());
        let late = Selector::new(Kind::Session, SELF, "late");
        assert!(world.log.entries.lock().unwrap().iter().any(|entry| entry.selector == late));
        let entries = world.log.entries.lock().unwrap();
        assert!(entries.iter().all(|entry| &*entry.reason == "left" && &*entry.actor == "admin"));
    }
}

//! Issued tokens, and the face of accounts.

use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use super::{
    OWN_ISSUER, Sqlite, integer, malformed, maybe_time, millis, number, rotation, sessions, time, users,
};
use crate::clock::UnixTime;
use crate::store::{
    Accounts, Answer, Created, Guest, Login, Mark, Page, PasswordHash, Rotated, Rotation, Session,
    SessionRow, Started, Token, TokenRow, User,
};
use crate::token::TokenType;

/// A token with when it was revoked: as marked, or as the trail tells of revocations made elsewhere.
const SELECT: &str = "
    SELECT t.number, t.id, t.session, t.subject, t.type, t.key_id, t.issued_at, t.expires_at, t.user_agent,
           t.address, t.revoked_by, t.retired_at,
           coalesce(t.revoked_at, s.revoked_at,
               (SELECT max(at) FROM trail WHERE value = t.id AND kind = 'token' AND issuer = :own AND lift = 0),
               (SELECT max(at) FROM trail WHERE value = t.session AND kind = 'session' AND issuer = :own
                   AND lift = 0),
               (SELECT max(at) FROM trail WHERE value = t.subject AND kind = 'subject' AND issuer = :own
                   AND lift = 0 AND issued_before > t.issued_at)) AS revoked_at
    FROM tokens t LEFT JOIN sessions s ON s.id = t.session";

pub(super) fn insert(connection: &Connection, token: &Token) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO tokens (id, session, subject, type, key_id, issued_at, expires_at, user_agent, address)
             VALUES (:id, :session, :subject, :type, :key_id, :issued_at, :expires_at, :user_agent, :address)",
        )?
        .execute(named_params! {
            ":id": token.id,
            ":session": token.session,
            ":subject": token.subject,
            ":type": token.token_type.name(),
            ":key_id": token.key_id,
            ":issued_at": millis(token.issued_at),
            ":expires_at": millis(token.expires_at),
            ":user_agent": token.user_agent,
            ":address": token.address,
        })?;
    Ok(())
}

fn by_id(connection: &Connection, id: &str) -> rusqlite::Result<Option<TokenRow>> {
    connection
        .prepare_cached(&format!("{SELECT} WHERE t.id = :id"))?
        .query_row(named_params! { ":own": OWN_ISSUER, ":id": id }, read)
        .optional()
}

fn list(connection: &Connection, subject: &str, page: Page) -> rusqlite::Result<Vec<TokenRow>> {
    connection
        .prepare_cached(&format!(
            "{SELECT} WHERE t.subject = :subject AND t.number < :before ORDER BY t.number DESC LIMIT :limit"
        ))?
        .query_map(
            named_params! {
                ":own": OWN_ISSUER,
                ":subject": subject,
                ":before": page.before.map_or(i64::MAX, integer),
                ":limit": integer(page.limit),
            },
            read,
        )?
        .collect()
}

/// The `+` has it look among the tokens of the subject, not among all that have no session.
fn lone(
    connection: &Connection,
    subject: &str,
    since: UnixTime,
    now: UnixTime,
) -> rusqlite::Result<Vec<TokenRow>> {
    connection
        .prepare_cached(&format!(
            "{SELECT} WHERE t.subject = :subject AND +t.session = '' AND t.issued_at >= :since
                 AND t.expires_at > :now ORDER BY t.number"
        ))?
        .query_map(
            named_params! {
                ":own": OWN_ISSUER,
                ":subject": subject,
                ":since": millis(since),
                ":now": millis(now),
            },
            read,
        )?
        .collect()
}

fn read(row: &Row<'_>) -> rusqlite::Result<TokenRow> {
    Ok(TokenRow {
        number: number(row, "number")?,
        token: Token {
            id: row.get("id")?,
            session: row.get("session")?,
            subject: row.get("subject")?,
            token_type: match row.get_ref("type")?.as_str()? {
                "access" => TokenType::Access,
                "refresh" => TokenType::Refresh,
                _ => return Err(malformed("a token type that this version does not know")),
            },
            key_id: row.get("key_id")?,
            issued_at: time(row, "issued_at")?,
            expires_at: time(row, "expires_at")?,
            user_agent: row.get("user_agent")?,
            address: row.get("address")?,
        },
        revoked_at: maybe_time(row, "revoked_at")?,
        revoked_by: row.get("revoked_by")?,
        retired_at: maybe_time(row, "retired_at")?,
    })
}

impl Accounts for Sqlite {
    fn create_user(&self, user: User, email_key: Box<str>, login: Option<Login>) -> Answer<'_, Created> {
        self.write(move |connection| users::create(connection, &user, &email_key, login.as_ref()))
    }

    fn welcome(&self, guest: Guest) -> Answer<'_, User> {
        self.write(move |connection| users::welcome(connection, &guest))
    }

    fn user_by_email<'a>(&'a self, email_key: &'a str) -> Answer<'a, Option<User>> {
        let email_key = email_key.to_owned();
        self.read(move |connection| users::by_email(connection, &email_key))
    }

    fn user<'a>(&'a self, id: &'a str) -> Answer<'a, Option<User>> {
        let id = id.to_owned();
        self.read(move |connection| users::by_id(connection, &id))
    }

    fn users<'a>(&'a self, after: &'a str, limit: usize) -> Answer<'a, Vec<User>> {
        let after = after.to_owned();
        self.read(move |connection| users::list(connection, &after, limit))
    }

    fn hash_near<'a>(&'a self, id: &'a str) -> Answer<'a, Option<PasswordHash>> {
        let id = id.to_owned();
        self.read(move |connection| users::hash_near(connection, &id))
    }

    fn set_disabled<'a>(&'a self, id: &'a str, disabled: bool) -> Answer<'a, bool> {
        let id = id.to_owned();
        self.write(move |connection| users::set_disabled(connection, &id, disabled))
    }

    fn delete_user<'a>(&'a self, id: &'a str) -> Answer<'a, bool> {
        let id = id.to_owned();
        self.write(move |connection| users::delete(connection, &id))
    }

    fn start_session(&self, login: Login, checked: PasswordHash) -> Answer<'_, Started> {
        self.write(move |connection| users::start_session(connection, &login, &checked))
    }

    fn set_password(&self, user: Box<str>, old: PasswordHash, new: PasswordHash) -> Answer<'_, bool> {
        self.write(move |connection| users::set_password(connection, &user, &old, &new))
    }

    fn session<'a>(&'a self, id: &'a str) -> Answer<'a, Option<SessionRow>> {
        let id = id.to_owned();
        self.read(move |connection| sessions::by_id(connection, &id))
    }

    fn sessions<'a>(&'a self, subject: &'a str, page: Page) -> Answer<'a, Vec<SessionRow>> {
        let subject = subject.to_owned();
        self.read(move |connection| sessions::list(connection, &subject, page))
    }

    fn unexpired_sessions<'a>(&'a self, subject: &'a str, now: UnixTime) -> Answer<'a, Vec<Session>> {
        let subject = subject.to_owned();
        self.read(move |connection| sessions::unexpired(connection, &subject, now))
    }

    fn record_token(&self, token: Token) -> Answer<'_, ()> {
        self.write(move |connection| insert(connection, &token))
    }

    fn token<'a>(&'a self, id: &'a str) -> Answer<'a, Option<TokenRow>> {
        let id = id.to_owned();
        self.read(move |connection| by_id(connection, &id))
    }

    fn tokens<'a>(&'a self, subject: &'a str, page: Page) -> Answer<'a, Vec<TokenRow>> {
        let subject = subject.to_owned();
        self.read(move |connection| list(connection, &subject, page))
    }

    fn lone_tokens<'a>(
        &'a self,
        subject: &'a str,
        since: UnixTime,
        now: UnixTime,
    ) -> Answer<'a, Vec<TokenRow>> {
        let subject = subject.to_owned();
        self.read(move |connection| lone(connection, &subject, since, now))
    }

    fn mark_revoked(&self, mark: Mark) -> Answer<'_, ()> {
        self.write(move |connection| sessions::mark(connection, &mark))
    }

    fn unmark_token<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        let id = id.to_owned();
        self.write(move |connection| {
            connection
                .prepare_cached("UPDATE tokens SET revoked_at = NULL, revoked_by = NULL WHERE id = ?1")?
                .execute(params![id])
                .map(drop)
        })
    }

    fn rotate(&self, rotation: Rotation) -> Answer<'_, Rotated> {
        self.write(move |connection| rotation::rotate(connection, &rotation))
    }

    fn prune(&self, before: UnixTime, limit: usize) -> Answer<'_, u64> {
        self.write(move |connection| sessions::prune(connection, before, limit))
    }
}

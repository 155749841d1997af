//! Issued tokens, and the face of accounts.

use deadpool_postgres::{Client, GenericClient};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::values::{Result, Text, integer, malformed, maybe_text, maybe_time, millis, number, text, time};
use super::{OWN_ISSUER, Postgres, sessions, users};
use crate::clock::UnixTime;
use crate::store::{
    Accounts, Answer, Created, Guest, Login, Mark, Page, PasswordHash, Rotated, Rotation, Session,
    SessionRow, Started, Token, TokenRow, User,
};
use crate::token::TokenType;

/// A token with when it was revoked: as marked, or as the trail tells of revocations made elsewhere. `$1` is the
/// gateway's own issuer.
const SELECT: &str = "
    SELECT t.number, t.id, t.session, t.subject, t.type, t.key_id, t.issued_at, t.expires_at, t.user_agent,
           t.address, t.revoked_by, t.retired_at,
           coalesce(t.revoked_at, s.revoked_at,
               (SELECT max(at) FROM trail WHERE value = t.id AND kind = 'token' AND issuer = $1 AND NOT lift),
               (SELECT max(at) FROM trail WHERE value = t.session AND kind = 'session' AND issuer = $1
                   AND NOT lift),
               (SELECT max(at) FROM trail WHERE value = t.subject AND kind = 'subject' AND issuer = $1
                   AND NOT lift AND issued_before > t.issued_at)) AS revoked_at
    FROM tokens t LEFT JOIN sessions s ON s.id = t.session";

/// Tokens column by column, as one statement takes any number of them.
pub(super) struct Columns<'a> {
    texts: [Vec<Text<'a>>; 6],
    key_ids: Vec<Option<Text<'a>>>,
    times: [Vec<i64>; 2],
}

impl<'a> Columns<'a> {
    pub(super) fn of(tokens: &[&'a Token]) -> Self {
        let texts = |of: fn(&Token) -> &str| tokens.iter().map(|token| Text(of(token))).collect();
        let times = |of: fn(&Token) -> UnixTime| tokens.iter().map(|token| millis(of(token))).collect();
        Self {
            texts: [
                texts(|token| &token.id),
                texts(|token| &token.session),
                texts(|token| &token.subject),
                texts(|token| token.token_type.name()),
                texts(|token| &token.user_agent),
                texts(|token| &token.address),
            ],
            key_ids: tokens.iter().map(|token| token.key_id.as_deref().map(Text)).collect(),
            times: [times(|token| token.issued_at), times(|token| token.expires_at)],
        }
    }

    /// In the order of `INSERT`.
    pub(super) fn parameters(&self) -> [&(dyn ToSql + Sync); 9] {
        let [ids, sessions, subjects, types, agents, addresses] = &self.texts;
        let [issued, expires] = &self.times;
        [ids, sessions, subjects, types, &self.key_ids, issued, expires, agents, addresses]
    }
}

pub(super) async fn insert(client: &impl GenericClient, tokens: &[Token]) -> Result<()> {
    let statement = client
        .prepare_cached(
            "INSERT INTO tokens (id, session, subject, type, key_id, issued_at, expires_at, user_agent, address)
             SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[],
                                  $7::bigint[], $8::text[], $9::text[])",
        )
        .await?;
    let tokens: Vec<&Token> = tokens.iter().collect();
    client.execute(&statement, &Columns::of(&tokens).parameters()).await?;
    Ok(())
}

async fn by_id(client: &Client, id: &str) -> Result<Option<TokenRow>> {
    let statement = client.prepare_cached(&format!("{SELECT} WHERE t.id = $2")).await?;
    client.query_opt(&statement, &[&OWN_ISSUER, &Text(id)]).await?.as_ref().map(read).transpose()
}

async fn list(client: &Client, (subject, page): &(Box<str>, Page)) -> Result<Vec<TokenRow>> {
    let statement = client
        .prepare_cached(&format!(
            "{SELECT} WHERE t.subject = $2 AND t.number < $3 ORDER BY t.number DESC LIMIT $4"
        ))
        .await?;
    let (before, limit) = (page.before.map_or(i64::MAX, integer), integer(page.limit));
    let rows = client.query(&statement, &[&OWN_ISSUER, &Text(subject), &before, &limit]).await?;
    rows.iter().map(read).collect()
}

async fn lone(
    client: &Client,
    (subject, since, now): &(Box<str>, UnixTime, UnixTime),
) -> Result<Vec<TokenRow>> {
    let statement = client
        .prepare_cached(&format!(
            "{SELECT} WHERE t.subject = $2 AND t.session = '' AND t.issued_at >= $3 AND t.expires_at > $4
             ORDER BY t.number"
        ))
        .await?;
    let (since, now) = (millis(*since), millis(*now));
    let rows = client.query(&statement, &[&OWN_ISSUER, &Text(subject), &since, &now]).await?;
    rows.iter().map(read).collect()
}

async fn unmark(client: &Client, id: &str) -> Result<()> {
    let statement =
        client.prepare_cached("UPDATE tokens SET revoked_at = NULL, revoked_by = NULL WHERE id = $1").await?;
    client.execute(&statement, &[&Text(id)]).await?;
    Ok(())
}

fn read(row: &Row) -> Result<TokenRow> {
    Ok(TokenRow {
        number: number(row, "number")?,
        token: Token {
            id: text(row, "id")?,
            session: text(row, "session")?,
            subject: text(row, "subject")?,
            token_type: match row.try_get("type")? {
                "access" => TokenType::Access,
                "refresh" => TokenType::Refresh,
                _ => return Err(malformed("a token type that this version does not know")),
            },
            key_id: maybe_text(row, "key_id")?,
            issued_at: time(row, "issued_at")?,
            expires_at: time(row, "expires_at")?,
            user_agent: text(row, "user_agent")?,
            address: text(row, "address")?,
        },
        revoked_at: maybe_time(row, "revoked_at")?,
        revoked_by: maybe_text(row, "revoked_by")?,
        retired_at: maybe_time(row, "retired_at")?,
    })
}

impl Accounts for Postgres {
    fn create_user(&self, user: User, email_key: Box<str>, login: Option<Login>) -> Answer<'_, Created> {
        self.run((user, email_key, login), |client, new| Box::pin(users::create(client, new)))
    }

    fn welcome(&self, guest: Guest) -> Answer<'_, User> {
        self.run(guest, |client, guest| Box::pin(users::welcome(client, guest)))
    }

    fn user_by_email<'a>(&'a self, email_key: &'a str) -> Answer<'a, Option<User>> {
        self.run(Box::<str>::from(email_key), |client, key| Box::pin(users::by_email(client, key)))
    }

    fn user<'a>(&'a self, id: &'a str) -> Answer<'a, Option<User>> {
        self.run(Box::<str>::from(id), |client, id| Box::pin(users::by_id(client, id)))
    }

    fn users<'a>(&'a self, after: &'a str, limit: usize) -> Answer<'a, Vec<User>> {
        self.run((after.into(), limit), |client, which| Box::pin(users::list(client, which)))
    }

    fn hash_near<'a>(&'a self, id: &'a str) -> Answer<'a, Option<PasswordHash>> {
        self.run(Box::<str>::from(id), |client, id| Box::pin(users::hash_near(client, id)))
    }

    fn set_disabled<'a>(&'a self, id: &'a str, disabled: bool) -> Answer<'a, bool> {
        self.run((id.into(), disabled), |client, change| Box::pin(users::set_disabled(client, change)))
    }

    fn delete_user<'a>(&'a self, id: &'a str) -> Answer<'a, bool> {
        self.run(Box::<str>::from(id), |client, id| Box::pin(users::delete(client, id)))
    }

    fn start_session(&self, login: Login, checked: PasswordHash) -> Answer<'_, Started> {
        self.run((login, checked), |client, login| Box::pin(users::start_session(client, login)))
    }

    fn set_password(&self, user: Box<str>, old: PasswordHash, new: PasswordHash) -> Answer<'_, bool> {
        self.run((user, old, new), |client, change| Box::pin(users::set_password(client, change)))
    }

    fn session<'a>(&'a self, id: &'a str) -> Answer<'a, Option<SessionRow>> {
        self.run(Box::<str>::from(id), |client, id| Box::pin(sessions::by_id(client, id)))
    }

    fn sessions<'a>(&'a self, subject: &'a str, page: Page) -> Answer<'a, Vec<SessionRow>> {
        self.run((subject.into(), page), |client, which| Box::pin(sessions::list(client, which)))
    }

    fn unexpired_sessions<'a>(&'a self, subject: &'a str, now: UnixTime) -> Answer<'a, Vec<Session>> {
        self.run((subject.into(), now), |client, which| Box::pin(sessions::unexpired(client, which)))
    }

    fn token<'a>(&'a self, id: &'a str) -> Answer<'a, Option<TokenRow>> {
        self.run(Box::<str>::from(id), |client, id| Box::pin(by_id(client, id)))
    }

    fn tokens<'a>(&'a self, subject: &'a str, page: Page) -> Answer<'a, Vec<TokenRow>> {
        self.run((subject.into(), page), |client, which| Box::pin(list(client, which)))
    }

    fn record_token(&self, token: Token) -> Answer<'_, ()> {
        self.run(token, |client, token| Box::pin(insert(client, std::slice::from_ref(token))))
    }

    fn lone_tokens<'a>(
        &'a self,
        subject: &'a str,
        since: UnixTime,
        now: UnixTime,
    ) -> Answer<'a, Vec<TokenRow>> {
        self.run((subject.into(), since, now), |client, which| Box::pin(lone(client, which)))
    }

    fn mark_revoked(&self, mark: Mark) -> Answer<'_, ()> {
        self.run(mark, |client, mark| Box::pin(sessions::mark(client, mark)))
    }

    fn unmark_token<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        self.run(Box::<str>::from(id), |client, id| Box::pin(unmark(client, id)))
    }

    fn rotate(&self, rotation: Rotation) -> Answer<'_, Rotated> {
        self.exchanges.exchange(&self.link, rotation)
    }

    fn prune(&self, before: UnixTime, limit: usize) -> Answer<'_, u64> {
        self.run((before, limit), |client, what| Box::pin(sessions::prune(client, what)))
    }
}

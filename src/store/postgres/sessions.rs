//! Sessions, marks of revocation, and forgetting what has expired.

use deadpool_postgres::{Client, GenericClient};
use tokio_postgres::Row;

use super::OWN_ISSUER;
use super::values::{Result, Text, integer, maybe_time, millis, number, text, texts, time};
use crate::clock::UnixTime;
use crate::store::{Mark, Page, Session, SessionRow};

/// A session with when it was revoked: as marked, or as the trail tells of revocations made elsewhere. `$1` is the
/// gateway's own issuer.
const SELECT: &str = "
    SELECT s.number, s.id, s.subject, s.created, s.expires, s.user_agent, s.address,
           coalesce(s.revoked_at,
               (SELECT max(at) FROM trail WHERE value = s.id AND kind = 'session' AND issuer = $1 AND NOT lift),
               (SELECT max(at) FROM trail WHERE value = s.subject AND kind = 'subject' AND issuer = $1
                   AND NOT lift AND issued_before > s.created)) AS revoked_at,
           coalesce((SELECT max(issued_at) FROM tokens t WHERE t.session = s.id), s.created) AS last_issued_at
    FROM sessions s";

pub(super) async fn insert(client: &impl GenericClient, session: &Session) -> Result<()> {
    let statement = client
        .prepare_cached(
            "INSERT INTO sessions (id, subject, created, expires, user_agent, address)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING",
        )
        .await?;
    client
        .execute(
            &statement,
            &[
                &Text(&session.id),
                &Text(&session.subject),
                &millis(session.created),
                &millis(session.expires),
                &Text(&session.user_agent),
                &Text(&session.address),
            ],
        )
        .await?;
    Ok(())
}

pub(super) async fn by_id(client: &Client, id: &str) -> Result<Option<SessionRow>> {
    let statement = client.prepare_cached(&format!("{SELECT} WHERE s.id = $2")).await?;
    client.query_opt(&statement, &[&OWN_ISSUER, &Text(id)]).await?.as_ref().map(read).transpose()
}

pub(super) async fn list(client: &Client, (subject, page): &(Box<str>, Page)) -> Result<Vec<SessionRow>> {
    let statement = client
        .prepare_cached(&format!(
            "{SELECT} WHERE s.subject = $2 AND s.number < $3 ORDER BY s.number DESC LIMIT $4"
        ))
        .await?;
    let (before, limit) = (page.before.map_or(i64::MAX, integer), integer(page.limit));
    let rows = client.query(&statement, &[&OWN_ISSUER, &Text(subject), &before, &limit]).await?;
    rows.iter().map(read).collect()
}

pub(super) async fn unexpired(
    client: &Client,
    (subject, now): &(Box<str>, UnixTime),
) -> Result<Vec<Session>> {
    let statement = client
        .prepare_cached(
            "SELECT id, subject, created, expires, user_agent, address FROM sessions
             WHERE subject = $1 AND expires > $2 ORDER BY number",
        )
        .await?;
    client.query(&statement, &[&Text(subject), &millis(*now)]).await?.iter().map(read_session).collect()
}

pub(super) async fn mark(client: &Client, mark: &Mark) -> Result<()> {
    let statement = client
        .prepare_cached(
            "WITH marked AS (
                UPDATE sessions SET revoked_at = $3, revoked_by = $4 WHERE id = ANY ($1) AND revoked_at IS NULL)
             UPDATE tokens SET revoked_at = $3, revoked_by = $4 WHERE id = ANY ($2) AND revoked_at IS NULL",
        )
        .await?;
    let (sessions, tokens) = (texts(&mark.sessions), texts(&mark.tokens));
    client.execute(&statement, &[&sessions, &tokens, &millis(mark.at), &Text(&mark.by)]).await?;
    Ok(())
}

/// Tokens first: a session goes when the last of its tokens has gone. What another gateway forgets at this moment is
/// passed over.
pub(super) async fn prune(client: &Client, (before, limit): &(UnixTime, usize)) -> Result<u64> {
    let statements = [
        "DELETE FROM tokens WHERE id IN
            (SELECT id FROM tokens WHERE expires_at < $1 ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        "DELETE FROM sessions WHERE id IN
            (SELECT id FROM sessions s WHERE expires < $1
                AND NOT EXISTS (SELECT 1 FROM tokens t WHERE t.session = s.id)
             ORDER BY expires LIMIT $2 FOR UPDATE SKIP LOCKED)",
    ];
    let mut gone = 0;
    for statement in statements {
        let statement = client.prepare_cached(statement).await?;
        gone += client.execute(&statement, &[&millis(*before), &integer(*limit)]).await?;
    }
    Ok(gone)
}

fn read(row: &Row) -> Result<SessionRow> {
    Ok(SessionRow {
        number: number(row, "number")?,
        session: read_session(row)?,
        revoked_at: maybe_time(row, "revoked_at")?,
        last_issued_at: time(row, "last_issued_at")?,
    })
}

fn read_session(row: &Row) -> Result<Session> {
    Ok(Session {
        id: text(row, "id")?,
        subject: text(row, "subject")?,
        created: time(row, "created")?,
        expires: time(row, "expires")?,
        user_agent: text(row, "user_agent")?,
        address: text(row, "address")?,
    })
}

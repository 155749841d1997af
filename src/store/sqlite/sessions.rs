//! Sessions, marks of revocation, and forgetting what has expired.

use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use super::{OWN_ISSUER, integer, maybe_time, millis, number, time};
use crate::clock::UnixTime;
use crate::store::{Mark, Page, Session, SessionRow};

/// A session with when it was revoked: as marked, or as the trail tells of revocations made elsewhere.
const SELECT: &str = "
    SELECT s.number, s.id, s.subject, s.created, s.expires, s.user_agent, s.address,
           coalesce(s.revoked_at,
               (SELECT max(at) FROM trail WHERE value = s.id AND kind = 'session' AND issuer = :own AND lift = 0),
               (SELECT max(at) FROM trail WHERE value = s.subject AND kind = 'subject' AND issuer = :own
                   AND lift = 0 AND issued_before > s.created)) AS revoked_at,
           coalesce((SELECT max(issued_at) FROM tokens t WHERE t.session = s.id), s.created) AS last_issued_at
    FROM sessions s";

pub(super) fn insert(connection: &Connection, session: &Session) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO sessions (id, subject, created, expires, user_agent, address)
             VALUES (:id, :subject, :created, :expires, :user_agent, :address)
             ON CONFLICT (id) DO NOTHING",
        )?
        .execute(named_params! {
            ":id": session.id,
            ":subject": session.subject,
            ":created": millis(session.created),
            ":expires": millis(session.expires),
            ":user_agent": session.user_agent,
            ":address": session.address,
        })?;
    Ok(())
}

pub(super) fn by_id(connection: &Connection, id: &str) -> rusqlite::Result<Option<SessionRow>> {
    connection
        .prepare_cached(&format!("{SELECT} WHERE s.id = :id"))?
        .query_row(named_params! { ":own": OWN_ISSUER, ":id": id }, read)
        .optional()
}

pub(super) fn list(connection: &Connection, subject: &str, page: Page) -> rusqlite::Result<Vec<SessionRow>> {
    connection
        .prepare_cached(&format!(
            "{SELECT} WHERE s.subject = :subject AND s.number < :before ORDER BY s.number DESC LIMIT :limit"
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

pub(super) fn unexpired(
    connection: &Connection,
    subject: &str,
    now: UnixTime,
) -> rusqlite::Result<Vec<Session>> {
    connection
        .prepare_cached(
            "SELECT id, subject, created, expires, user_agent, address FROM sessions
             WHERE subject = ?1 AND expires > ?2 ORDER BY number",
        )?
        .query_map(params![subject, millis(now)], read_session)?
        .collect()
}

pub(super) fn mark(connection: &Connection, mark: &Mark) -> rusqlite::Result<()> {
    let marks = |sql, ids: &[Box<str>]| {
        let mut statement = connection.prepare_cached(sql)?;
        ids.iter().try_for_each(|id| statement.execute(params![id, millis(mark.at), mark.by]).map(drop))
    };
    marks(
        "UPDATE sessions SET revoked_at = ?2, revoked_by = ?3 WHERE id = ?1 AND revoked_at IS NULL",
        &mark.sessions,
    )?;
    marks(
        "UPDATE tokens SET revoked_at = ?2, revoked_by = ?3 WHERE id = ?1 AND revoked_at IS NULL",
        &mark.tokens,
    )
}

/// Tokens first: a session goes when the last of its tokens has gone.
pub(super) fn prune(connection: &Connection, before: UnixTime, limit: usize) -> rusqlite::Result<u64> {
    let forget = |sql| connection.prepare_cached(sql)?.execute(params![millis(before), integer(limit)]);
    let tokens = forget(
        "DELETE FROM tokens WHERE number IN
            (SELECT number FROM tokens WHERE expires_at < ?1 ORDER BY expires_at LIMIT ?2)",
    )?;
    let sessions = forget(
        "DELETE FROM sessions WHERE number IN
            (SELECT number FROM sessions s WHERE expires < ?1
                AND NOT EXISTS (SELECT 1 FROM tokens t WHERE t.session = s.id)
             ORDER BY expires LIMIT ?2)",
    )?;
    Ok(u64::try_from(tokens + sessions).unwrap_or(u64::MAX))
}

fn read(row: &Row<'_>) -> rusqlite::Result<SessionRow> {
    Ok(SessionRow {
        number: number(row, "number")?,
        session: read_session(row)?,
        revoked_at: maybe_time(row, "revoked_at")?,
        last_issued_at: time(row, "last_issued_at")?,
    })
}

fn read_session(row: &Row<'_>) -> rusqlite::Result<Session> {
    Ok(Session {
        id: row.get("id")?,
        subject: row.get("subject")?,
        created: time(row, "created")?,
        expires: time(row, "expires")?,
        user_agent: row.get("user_agent")?,
        address: row.get("address")?,
    })
}

//! The exchange of a refresh token, inside the writer's transaction: whoever comes first retires it.

use rusqlite::{Connection, OptionalExtension, params};

use super::{maybe_time, millis, sessions, tokens, users};
use crate::clock::UnixTime;
use crate::store::{Rotated, Rotation, Successor};

/// What the store knows of the presented token.
struct Known {
    retired_at: Option<UnixTime>,
    successor: Option<Successor>,
    successor_used: bool,
}

pub(super) fn rotate(connection: &Connection, rotation: &Rotation) -> rusqlite::Result<Rotated> {
    // A disabled account has its sessions revoked too; this closes the moment between the two.
    if users::enabled(connection, &rotation.presented.subject)? != Some(true) {
        return Ok(Rotated::NoAccount);
    }
    let known = match (known(connection, &rotation.presented.id)?, &rotation.adopt) {
        (Some(known), _) => known,
        (None, None) => return Ok(Rotated::Unknown),
        (None, Some(session)) => {
            sessions::insert(connection, session)?;
            tokens::insert(connection, &rotation.presented)?;
            Known { retired_at: None, successor: None, successor_used: false }
        }
    };
    let done = match known {
        Known { retired_at: None, .. } => {
            retire(connection, rotation)?;
            Rotated::Done
        }
        Known { retired_at: Some(at), successor: Some(successor), successor_used: false }
            if rotation.now.since(at) < rotation.grace =>
        {
            Rotated::Repeated(successor)
        }
        _ => return Ok(Rotated::Reused),
    };
    tokens::insert(connection, &rotation.access)?;
    Ok(done)
}

fn known(connection: &Connection, id: &str) -> rusqlite::Result<Option<Known>> {
    connection
        .prepare_cached(
            "SELECT p.retired_at, p.successor_id, p.successor_issued_at, p.successor_expires_at,
                    s.used_at IS NOT NULL AS successor_used
             FROM tokens p LEFT JOIN tokens s ON s.id = p.successor_id WHERE p.id = ?1",
        )?
        .query_row(params![id], |row| {
            let successor = match (
                row.get("successor_id")?,
                maybe_time(row, "successor_issued_at")?,
                maybe_time(row, "successor_expires_at")?,
            ) {
                (Some(id), Some(issued_at), Some(expires_at)) => {
                    Some(Successor { id, issued_at, expires_at })
                }
                _ => None,
            };
            Ok(Known {
                retired_at: maybe_time(row, "retired_at")?,
                successor,
                successor_used: row.get("successor_used")?,
            })
        })
        .optional()
}

fn retire(connection: &Connection, rotation: &Rotation) -> rusqlite::Result<()> {
    let now = millis(rotation.now);
    let id = &rotation.presented.id;
    let Some(successor) = &rotation.successor else {
        return connection
            .prepare_cached("UPDATE tokens SET used_at = coalesce(used_at, ?2) WHERE id = ?1")?
            .execute(params![id, now])
            .map(drop);
    };
    connection
        .prepare_cached(
            "UPDATE tokens SET used_at = coalesce(used_at, ?2), retired_at = ?2, successor_id = ?3,
                successor_issued_at = ?4, successor_expires_at = ?5
             WHERE id = ?1 AND retired_at IS NULL",
        )?
        .execute(params![id, now, successor.id, millis(successor.issued_at), millis(successor.expires_at)])?;
    tokens::insert(connection, successor)
}

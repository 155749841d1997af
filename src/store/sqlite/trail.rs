//! The audit trail.

use rusqlite::{Connection, Row, named_params, params};

use super::{Sqlite, integer, maybe_time, millis, number, time};
use crate::store::{Answer, Trail, TrailEntry, TrailFilter};
use crate::worker::Pace;

impl Trail for Sqlite {
    fn trail_position(&self) -> Answer<'_, u64> {
        let gateway = self.gateway();
        self.read(move |connection| position(connection, gateway))
    }

    fn trail_append(&self, entries: Vec<TrailEntry>) -> Answer<'_, ()> {
        let gateway = self.gateway();
        self.write_lazily(move |connection| append(connection, gateway, &entries))
    }

    fn trail_sync(&self) -> Answer<'_, ()> {
        let gateway = self.gateway();
        self.write(move |connection| {
            // A commit syncs when it writes a page, and a page is written when something in it has changed: a row that
            // gets what it has already is passed over.
            for step in [1, -1] {
                connection
                    .prepare_cached(
                        "UPDATE gateways SET trail_position = trail_position + ?2 WHERE number = ?1",
                    )?
                    .execute(params![gateway, step])?;
            }
            Ok(())
        })
    }

    fn trail_list(&self, filter: TrailFilter) -> Answer<'_, Vec<TrailEntry>> {
        let gateway = self.gateway();
        self.read(move |connection| list(connection, gateway, &filter))
    }
}

fn position(connection: &Connection, gateway: i64) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT trail_position FROM gateways WHERE number = ?1")?
        .query_row(params![gateway], |row| number(row, "trail_position"))
}

/// So many entries come a moment later if the one who writes them rests in between.
const UNHURRIED: usize = 512;

/// Entries and position in one transaction: after a crash, what is fed again is passed over. A few are written with rests, and
/// requests go first; many are all that matters by then.
fn append(connection: &Connection, gateway: i64, entries: &[TrailEntry]) -> rusqlite::Result<()> {
    let position = position(connection, gateway)?;
    let Some(last) = entries.last().filter(|last| last.sequence > position) else { return Ok(()) };
    let mut insert = connection.prepare_cached(
        "INSERT INTO trail (gateway, sequence, kind, issuer, value, lift, issued_before, expires_at, reason, actor,
                            address, at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?;
    let mut pace = Pace::new(u32::from(entries.len() <= UNHURRIED));
    for entry in entries.iter().filter(|entry| entry.sequence > position) {
        pace.rest();
        insert.execute(params![
            gateway,
            integer(entry.sequence),
            entry.kind,
            entry.issuer,
            entry.value,
            entry.lift,
            entry.issued_before.map(millis),
            millis(entry.expires_at),
            entry.reason,
            entry.actor,
            entry.address,
            millis(entry.at),
        ])?;
    }
    connection
        .prepare_cached("UPDATE gateways SET trail_position = ?2 WHERE number = ?1")?
        .execute(params![gateway, integer(last.sequence)])
        .map(drop)
}

fn list(connection: &Connection, gateway: i64, filter: &TrailFilter) -> rusqlite::Result<Vec<TrailEntry>> {
    // Conditions are added only where they are asked for, so that each shape of a question uses its index.
    let mut sql = "SELECT * FROM trail WHERE gateway = :gateway AND sequence > :since AND sequence < :before"
        .to_owned();
    for (column, wanted) in [("kind", &filter.kind), ("issuer", &filter.issuer), ("value", &filter.value)] {
        // Every parameter is bound whether it is used or not.
        sql += &match wanted {
            Some(_) => format!(" AND {column} = :{column}"),
            None => format!(" AND :{column} IS NULL"),
        };
    }
    if filter.standing {
        // `trail_of` holds all that this looks at.
        sql += " AND NOT lift AND NOT EXISTS (SELECT 1 FROM trail AS later
                     WHERE later.value = trail.value AND later.kind = trail.kind AND later.issuer = trail.issuer
                         AND later.gateway = trail.gateway AND later.sequence > trail.sequence)";
    }
    sql += if filter.oldest_first {
        " ORDER BY sequence LIMIT :limit"
    } else {
        " ORDER BY sequence DESC LIMIT :limit"
    };
    connection
        .prepare_cached(&sql)?
        .query_map(
            named_params! {
                ":gateway": gateway,
                ":since": filter.since.map_or(-1, integer),
                ":before": filter.before.map_or(i64::MAX, integer),
                ":kind": filter.kind,
                ":issuer": filter.issuer,
                ":value": filter.value,
                ":limit": integer(filter.limit),
            },
            read,
        )?
        .collect()
}

fn read(row: &Row<'_>) -> rusqlite::Result<TrailEntry> {
    Ok(TrailEntry {
        sequence: number(row, "sequence")?,
        kind: row.get("kind")?,
        issuer: row.get("issuer")?,
        value: row.get("value")?,
        lift: row.get("lift")?,
        issued_before: maybe_time(row, "issued_before")?,
        expires_at: time(row, "expires_at")?,
        reason: row.get("reason")?,
        actor: row.get("actor")?,
        address: row.get("address")?,
        at: time(row, "at")?,
    })
}

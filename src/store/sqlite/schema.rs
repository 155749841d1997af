//! The tables, and how a store of an older version becomes one of this version. Forward only.
//!
//! Times are milliseconds since the epoch. `meta` says which version of the schema the file has; each step below
//! takes it one version further, all of them in one transaction, so that two gateways that start at once, or a crash
//! in between, leave either the old schema or the new one.

use rusqlite::{Connection, OptionalExtension};

use super::worker::unavailable;
use crate::store::StoreError;

/// Step `n` makes version `n + 1`. A released step is never changed: a new one is added below it.
const STEPS: &[&str] = &["
    CREATE TABLE users (
        id            TEXT PRIMARY KEY NOT NULL,
        email_key     TEXT NOT NULL UNIQUE,
        email         TEXT NOT NULL,
        username      TEXT NOT NULL,
        password_hash TEXT NOT NULL,
        fields        TEXT NOT NULL,           -- a JSON object
        scope         TEXT NOT NULL DEFAULT '',
        created       INTEGER NOT NULL,
        disabled      INTEGER NOT NULL DEFAULT 0
    ) STRICT, WITHOUT ROWID;

    -- No foreign key to users: with a delegated login the subject is somebody else's account.
    CREATE TABLE sessions (
        number     INTEGER PRIMARY KEY AUTOINCREMENT,
        id         TEXT NOT NULL UNIQUE,
        subject    TEXT NOT NULL,
        created    INTEGER NOT NULL,
        expires    INTEGER NOT NULL,
        user_agent TEXT NOT NULL,
        address    TEXT NOT NULL,
        revoked_at INTEGER,
        revoked_by TEXT
    ) STRICT;
    CREATE INDEX sessions_of ON sessions (subject, number);
    CREATE INDEX sessions_expire ON sessions (expires);

    CREATE TABLE tokens (
        number       INTEGER PRIMARY KEY AUTOINCREMENT,
        id           TEXT NOT NULL UNIQUE,     -- jti
        session      TEXT NOT NULL,
        subject      TEXT NOT NULL,
        type         TEXT NOT NULL,            -- access, refresh
        key_id       TEXT,
        issued_at    INTEGER NOT NULL,
        expires_at   INTEGER NOT NULL,
        user_agent   TEXT NOT NULL,
        address      TEXT NOT NULL,
        revoked_at   INTEGER,
        revoked_by   TEXT,
        used_at      INTEGER,                  -- a refresh token: first exchanged
        retired_at   INTEGER,                  -- a refresh token: replaced by its successor
        successor_id TEXT,
        successor_issued_at  INTEGER,
        successor_expires_at INTEGER
    ) STRICT;
    CREATE INDEX tokens_of ON tokens (subject, number);
    CREATE INDEX tokens_in ON tokens (session);
    CREATE INDEX tokens_expire ON tokens (expires_at);

    -- Each gateway that ever joined, and how far the trail was fed from its log.
    CREATE TABLE gateways (
        number         INTEGER PRIMARY KEY AUTOINCREMENT,
        id             TEXT NOT NULL UNIQUE,
        trail_position INTEGER NOT NULL DEFAULT 0
    ) STRICT;

    CREATE TABLE trail (
        gateway       INTEGER NOT NULL REFERENCES gateways (number),
        sequence      INTEGER NOT NULL,
        kind          TEXT NOT NULL,
        issuer        TEXT NOT NULL,
        value         TEXT NOT NULL,
        lift          INTEGER NOT NULL,
        issued_before INTEGER,
        expires_at    INTEGER NOT NULL,
        reason        TEXT NOT NULL,
        actor         TEXT NOT NULL,
        address       TEXT NOT NULL,
        at            INTEGER NOT NULL,
        PRIMARY KEY (gateway, sequence)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX trail_of ON trail (value, kind, issuer, sequence);
"];

/// Brings the schema up to date.
pub(super) fn migrate(connection: &Connection) -> Result<(), StoreError> {
    connection.execute_batch("BEGIN IMMEDIATE").map_err(unavailable)?;
    let migrated = steps(connection);
    connection.execute_batch(if migrated.is_ok() { "COMMIT" } else { "ROLLBACK" }).map_err(unavailable)?;
    migrated
}

fn steps(connection: &Connection) -> Result<(), StoreError> {
    let version = version(connection)?;
    let known = STEPS.len();
    let steps = STEPS.get(version..).ok_or_else(|| {
        StoreError::Unusable(format!(
            "its schema has version {version}, written by a newer portcullis; this one knows version {known}"
        ))
    })?;
    for step in steps {
        connection.execute_batch(step).map_err(unavailable)?;
    }
    connection
        .execute("INSERT OR REPLACE INTO meta VALUES ('schema', ?1)", [known.to_string()])
        .map_err(unavailable)?;
    Ok(())
}

/// The version of the file; 0 for an empty one, whose `meta` this makes.
fn version(connection: &Connection) -> Result<usize, StoreError> {
    let count = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(unavailable);
    if count("SELECT count(*) FROM sqlite_schema WHERE name = 'meta'")? == 0 {
        if count("SELECT count(*) FROM sqlite_schema")? > 0 {
            return Err(StoreError::Unusable("it is a database of another program".to_owned()));
        }
        connection
            .execute_batch(
                "CREATE TABLE meta (name TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
            )
            .map_err(unavailable)?;
        return Ok(0);
    }
    let text: Option<String> = connection
        .query_row("SELECT value FROM meta WHERE name = 'schema'", [], |row| row.get(0))
        .optional()
        .map_err(unavailable)?;
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| StoreError::Unusable("it is a database of another program".to_owned()))
}

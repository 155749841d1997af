//! The store in one SQLite file: WAL, every commit on disk before it is answered (`synchronous = FULL`), but for those
//! of the audit trail, which can be had again from the log.

mod rotation;
mod schema;
mod sessions;
mod tokens;
mod trail;
mod users;
mod worker;

#[cfg(test)]
mod tests;

use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rusqlite::types::Type;
use rusqlite::{Connection, OpenFlags, Row, params};

use super::{Answer, KnownGateway, Registry, Standing, Store, StoreError};
use crate::clock::UnixTime;
use worker::{Workers, unavailable};

/// Connections that read beside the writer: the control plane is small.
const READERS: usize = 2;
/// The name of the gateway's own issuer in the trail (CONTRACT §2 `[auth] issuer`).
const OWN_ISSUER: &str = "self";
/// Another process (the command line, a backup) may hold the file this long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The store in one SQLite file.
pub struct Sqlite {
    writer: Workers,
    readers: Workers,
    /// The row of `gateways` whose log feeds the trail.
    gateway: AtomicI64,
}

impl Sqlite {
    /// Opens the file, making it (mode 0600, and its directory 0700) where it is missing, and brings its schema up
    /// to date. Blocks.
    ///
    /// # Errors
    /// The file can be read by others, is no store, or was written by a newer version; the disk cannot be used.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        prepare_file(path)?;
        let writer = connect(path)?;
        schema::migrate(&writer)?;
        let gateway = current_gateway(&writer).map_err(unavailable)?;
        let readers = (0..READERS)
            .map(|_| {
                let reader = connect(path)?;
                reader.pragma_update(None, "query_only", true).map_err(unavailable)?;
                Ok(reader)
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        Ok(Self {
            writer: Workers::writer(writer).map_err(unavailable)?,
            readers: Workers::readers(readers).map_err(unavailable)?,
            gateway: AtomicI64::new(gateway),
        })
    }

    fn write<'a, T, F>(&'a self, work: F) -> Answer<'a, T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.writer.run(work)
    }

    /// The same for what can be had again: its commit waits for no sync of the disk.
    fn write_lazily<'a, T, F>(&'a self, work: F) -> Answer<'a, T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.writer.run_lazily(work)
    }

    fn read<'a, T, F>(&'a self, work: F) -> Answer<'a, T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.readers.run(work)
    }

    fn gateway(&self) -> i64 {
        self.gateway.load(Ordering::Acquire)
    }
}

impl Store for Sqlite {
    fn gateways(&self) -> Answer<'_, Vec<KnownGateway>> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT id, trail_position FROM gateways WHERE id <> '' ORDER BY number")?
                .query_map([], |row| {
                    Ok(KnownGateway { id: row.get(0)?, trail_position: number(row, "trail_position")? })
                })?
                .collect()
        })
    }

    fn join<'a>(&'a self, gateway_id: &'a str) -> Answer<'a, ()> {
        let id = gateway_id.to_owned();
        let joined = self.write(move |connection| {
            connection
                .execute("INSERT INTO gateways (id) VALUES (?1) ON CONFLICT (id) DO NOTHING", params![id])?;
            connection.query_row("SELECT number FROM gateways WHERE id = ?1", params![id], |row| row.get(0))
        });
        Box::pin(async move {
            self.gateway.store(joined.await?, Ordering::Release);
            Ok(())
        })
    }
}

impl Registry for Sqlite {
    fn standing<'a>(&'a self, token_id: &'a str) -> Answer<'a, Standing> {
        let id = token_id.to_owned();
        self.read(move |connection| {
            let mut statement =
                connection.prepare_cached("SELECT retired_at IS NOT NULL FROM tokens WHERE id = ?1")?;
            let mut rows = statement.query(params![id])?;
            Ok(match rows.next()? {
                None => Standing::Unknown,
                Some(row) if row.get(0)? => Standing::Retired,
                Some(_) => Standing::Good,
            })
        })
    }
}

/// Sees to it that nobody else can read the file, nor what SQLite makes beside it: that takes its mode.
fn prepare_file(path: &Path) -> Result<(), StoreError> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unavailable)?;
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(unavailable)?;
    let mode = file.metadata().map_err(unavailable)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(StoreError::Unusable(format!(
            "others can read {path} (mode {mode:03o}); run: chmod 600 {path}",
            path = path.display(),
            mode = mode & 0o777
        )));
    }
    Ok(())
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(unavailable)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(unavailable)?;
    connection.set_prepared_statement_cache_capacity(64);
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(
        |error| match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
                StoreError::Unusable(format!("{} is not an SQLite database", path.display()))
            }
            _ => unavailable(error),
        },
    )?;
    if mode != "wal" {
        return Err(StoreError::Unusable(format!("SQLite uses journal mode {mode} here, and WAL is needed")));
    }
    connection
        .execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF")
        .map_err(unavailable)?;
    Ok(connection)
}

/// The gateway that joined last; a nameless one before the first has.
fn current_gateway(connection: &Connection) -> rusqlite::Result<i64> {
    connection
        .execute("INSERT INTO gateways (id) SELECT '' WHERE NOT EXISTS (SELECT 1 FROM gateways)", [])?;
    connection.query_row("SELECT max(number) FROM gateways", [], |row| row.get(0))
}

/// A time as stored.
fn millis(at: UnixTime) -> i64 {
    i64::try_from(at.millis()).unwrap_or(i64::MAX)
}

/// A number of a list or a limit as stored.
fn integer(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// A whole number of a row; none of ours is ever negative.
fn number(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
    u64::try_from(row.get::<_, i64>(column)?).map_err(malformed)
}

/// A time of a row.
fn time(row: &Row<'_>, column: &str) -> rusqlite::Result<UnixTime> {
    number(row, column).map(UnixTime::from_millis)
}

/// A time of a row that may be absent.
fn maybe_time(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<UnixTime>> {
    let millis: Option<i64> = row.get(column)?;
    millis.map(|millis| u64::try_from(millis).map(UnixTime::from_millis).map_err(malformed)).transpose()
}

/// What is in a row cannot have been written by us.
fn malformed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, error.into())
}

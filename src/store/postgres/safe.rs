//! The safe: a compare-and-set on its version, which `meta` holds, guards every change.

use deadpool_postgres::{Client, GenericClient};

use super::values::{Result, Text, integer, malformed, text};
use super::{Answer, Postgres};
use crate::store::{Content, Safe, Sealed};

impl Safe for Postgres {
    fn safe_version(&self) -> Answer<'_, u64> {
        self.run((), |client, ()| Box::pin(async move { version(client).await }))
    }

    fn safe_content(&self) -> Answer<'_, Content> {
        self.run((), |client, ()| Box::pin(content(client)))
    }

    fn safe_put(&self, version: u64, changed: Vec<Sealed>) -> Answer<'_, bool> {
        self.run((version, changed), |client, change| Box::pin(put(client, change)))
    }
}

async fn version(client: &impl GenericClient) -> Result<u64> {
    let statement = client.prepare_cached("SELECT value FROM meta WHERE name = 'safe'").await?;
    let row = client.query_one(&statement, &[]).await?;
    row.try_get::<_, String>(0)?.parse().map_err(malformed)
}

/// One snapshot of both tables: a version and a content that do not belong together would undo a change.
async fn content(client: &mut Client) -> Result<Content> {
    let transaction = client
        .build_transaction()
        .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await?;
    let version = version(&transaction).await?;
    let statement = transaction.prepare_cached("SELECT id, sealed FROM safe").await?;
    let rows = transaction.query(&statement, &[]).await?;
    let read = |row: &tokio_postgres::Row| {
        Ok(Sealed { id: text(row, "id")?, sealed: row.try_get::<_, Vec<u8>>("sealed")?.into() })
    };
    let all = rows.iter().map(read).collect::<Result<_>>()?;
    transaction.commit().await?;
    Ok(Content { version, all })
}

/// The row of `meta` is held to the end: whoever changes at the same time waits, looks again, and finds another
/// version.
async fn put(client: &mut Client, (version, changed): &(u64, Vec<Sealed>)) -> Result<bool> {
    let transaction = client.transaction().await?;
    let forward =
        transaction.prepare_cached("UPDATE meta SET value = $2 WHERE name = 'safe' AND value = $1").await?;
    let next = version.saturating_add(1);
    if transaction.execute(&forward, &[&version.to_string(), &next.to_string()]).await? == 0 {
        return Ok(false);
    }
    let insert = transaction
        .prepare_cached(
            "INSERT INTO safe (id, sealed, version) VALUES ($1, $2, $3)
             ON CONFLICT (id) DO UPDATE SET sealed = excluded.sealed, version = excluded.version",
        )
        .await?;
    for each in changed {
        transaction.execute(&insert, &[&Text(&each.id), &&*each.sealed, &integer(next)]).await?;
    }
    transaction.commit().await?;
    Ok(true)
}

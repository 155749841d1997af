//! The audit trail. Each gateway feeds it from its own log, under its own number.

use deadpool_postgres::{Client, GenericClient as _};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::Postgres;
use super::values::{Result, Text, integer, malformed, maybe_time, millis, number, text, time};
use crate::clock::UnixTime;
use crate::store::{Answer, Trail, TrailEntry, TrailFilter};

/// Entries and position in one transaction: after a crash, what is fed again is passed over. The gateway's row is
/// held, so that two programs with one id (a copied state directory) cannot both count the same entry.
const POSITION: &str = "SELECT trail_position FROM gateways WHERE number = $1 FOR UPDATE";
const MOVE: &str = "UPDATE gateways SET trail_position = $2 WHERE number = $1";
const APPEND: &str = "
    INSERT INTO trail (gateway, sequence, kind, issuer, value, lift, issued_before, expires_at, reason, actor,
                       address, at)
    SELECT $1, new.* FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::boolean[], $7::bigint[],
                                 $8::bigint[], $9::text[], $10::text[], $11::text[], $12::bigint[]) AS new";

impl Trail for Postgres {
    fn trail_position(&self) -> Answer<'_, u64> {
        self.run(self.gateway(), |client, gateway| Box::pin(position(client, *gateway)))
    }

    fn trail_append(&self, entries: Vec<TrailEntry>) -> Answer<'_, ()> {
        self.run((self.gateway(), entries), |client, new| Box::pin(append(client, new)))
    }

    /// Every commit is on the server's disk when it is answered.
    fn trail_sync(&self) -> Answer<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn trail_list(&self, filter: TrailFilter) -> Answer<'_, Vec<TrailEntry>> {
        self.run((self.gateway(), filter), |client, which| Box::pin(list(client, which)))
    }
}

async fn position(client: &Client, gateway: i64) -> Result<u64> {
    let statement = client.prepare_cached("SELECT trail_position FROM gateways WHERE number = $1").await?;
    client.query_opt(&statement, &[&gateway]).await?.map_or(Ok(0), |row| number(&row, "trail_position"))
}

async fn append(client: &mut Client, (gateway, entries): &(i64, Vec<TrailEntry>)) -> Result<()> {
    let transaction = client.transaction().await?;
    let held = transaction.prepare_cached(POSITION).await?;
    let row = transaction.query_opt(&held, &[gateway]).await?;
    let position = number(&row.ok_or_else(|| malformed("no gateway has joined"))?, "trail_position")?;
    let new: Vec<&TrailEntry> = entries.iter().filter(|entry| entry.sequence > position).collect();
    let Some(last) = new.last() else { return Ok(()) };
    let texts = |of: fn(&TrailEntry) -> &str| new.iter().map(|entry| Text(of(entry))).collect::<Vec<_>>();
    let times =
        |of: fn(&TrailEntry) -> UnixTime| new.iter().map(|entry| millis(of(entry))).collect::<Vec<_>>();
    let insert = transaction.prepare_cached(APPEND).await?;
    transaction
        .execute(
            &insert,
            &[
                gateway,
                &new.iter().map(|entry| integer(entry.sequence)).collect::<Vec<_>>(),
                &texts(|entry| &entry.kind),
                &texts(|entry| &entry.issuer),
                &texts(|entry| &entry.value),
                &new.iter().map(|entry| entry.lift).collect::<Vec<_>>(),
                &new.iter().map(|entry| entry.issued_before.map(millis)).collect::<Vec<_>>(),
                &times(|entry| entry.expires_at),
                &texts(|entry| &entry.reason),
                &texts(|entry| &entry.actor),
                &texts(|entry| &entry.address),
                &times(|entry| entry.at),
            ],
        )
        .await?;
    let forward = transaction.prepare_cached(MOVE).await?;
    transaction.execute(&forward, &[gateway, &integer(last.sequence)]).await?;
    transaction.commit().await?;
    Ok(())
}

async fn list(client: &Client, (gateway, filter): &(i64, TrailFilter)) -> Result<Vec<TrailEntry>> {
    let (since, before) = (filter.since.map_or(-1, integer), filter.before.map_or(i64::MAX, integer));
    let limit = integer(filter.limit);
    let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![gateway, &since, &before, &limit];
    let columns = [("kind", &filter.kind), ("issuer", &filter.issuer), ("value", &filter.value)];
    let wanted: Vec<(&str, Text<'_>)> =
        columns.iter().filter_map(|(column, wanted)| Some((*column, Text(wanted.as_deref()?)))).collect();
    // Conditions are added only where they are asked for, so that each shape of a question uses its index.
    let mut sql = "SELECT * FROM trail WHERE gateway = $1 AND sequence > $2 AND sequence < $3".to_owned();
    for (column, wanted) in &wanted {
        parameters.push(wanted);
        sql += &format!(" AND {column} = ${}", parameters.len());
    }
    if filter.standing {
        // `trail_of` holds all that this looks at.
        sql += " AND NOT lift AND NOT EXISTS (SELECT 1 FROM trail AS later
                     WHERE later.value = trail.value AND later.kind = trail.kind AND later.issuer = trail.issuer
                         AND later.gateway = trail.gateway AND later.sequence > trail.sequence)";
    }
    let order = if filter.oldest_first { "" } else { " DESC" };
    sql += &format!(" ORDER BY sequence{order} LIMIT $4");
    let statement = client.prepare_cached(&sql).await?;
    client.query(&statement, &parameters).await?.iter().map(read).collect()
}

fn read(row: &Row) -> Result<TrailEntry> {
    Ok(TrailEntry {
        sequence: number(row, "sequence")?,
        kind: text(row, "kind")?,
        issuer: text(row, "issuer")?,
        value: text(row, "value")?,
        lift: row.try_get("lift")?,
        issued_before: maybe_time(row, "issued_before")?,
        expires_at: time(row, "expires_at")?,
        reason: text(row, "reason")?,
        actor: text(row, "actor")?,
        address: text(row, "address")?,
        at: time(row, "at")?,
    })
}

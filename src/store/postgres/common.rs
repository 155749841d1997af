//! What gateways hold in common for a short while: one row for each key, `until` when it counts for nothing any more.

use deadpool_postgres::Client;
use tokio_postgres::Row;

use super::values::{Result, integer, millis, number, time};
use super::{Answer, Postgres};
use crate::clock::UnixTime;
use crate::store::{Common, CommonKey, Count};

/// Rows that count for nothing go with each new one, so many of them: there are never many more than are needed.
const SWEPT: i64 = 20;
const NOTHING: Count = Count { count: 0, until: UnixTime::ZERO };

impl Common for Postgres {
    fn counts(&self, keys: [CommonKey; 2], now: UnixTime) -> Answer<'_, [Count; 2]> {
        self.run((keys, now), |client, (keys, now)| {
            Box::pin(async move {
                let sql = "SELECT key, count, until FROM brief WHERE key = ANY($1) AND until > $2";
                let statement = client.prepare_cached(sql).await?;
                let rows = client.query(&statement, &[&slices(keys), &millis(*now)]).await?;
                in_order(keys, &rows)
            })
        })
    }

    fn count(
        &self,
        keys: [CommonKey; 2],
        first_max: u64,
        until: UnixTime,
        now: UnixTime,
    ) -> Answer<'_, [Count; 2]> {
        self.run((keys, first_max, until, now), |client, (keys, first_max, until, now)| {
            Box::pin(async move {
                sweep(client, *now).await?;
                let first = add(client, &keys[0], *until, *now).await?;
                // Else one address could fill up what stands for all of them, with many attempts at once.
                if first.count > *first_max {
                    return Ok([first, NOTHING]);
                }
                Ok([first, add(client, &keys[1], *until, *now).await?])
            })
        })
    }

    fn forget(&self, key: CommonKey) -> Answer<'_, ()> {
        self.run(key, |client, key| {
            Box::pin(async move {
                let statement = client.prepare_cached("DELETE FROM brief WHERE key = $1").await?;
                client.execute(&statement, &[&&key[..]]).await?;
                Ok(())
            })
        })
    }

    fn use_once(&self, key: CommonKey, until: UnixTime, now: UnixTime) -> Answer<'_, bool> {
        self.run((key, until, now), |client, (key, until, now)| {
            Box::pin(async move {
                sweep(client, *now).await?;
                let sql = "
                    INSERT INTO brief AS known (key, until, count) VALUES ($1, $2, 1)
                    ON CONFLICT (key) DO UPDATE SET until = excluded.until WHERE known.until <= $3";
                let statement = client.prepare_cached(sql).await?;
                let used = client.execute(&statement, &[&&key[..], &millis(*until), &millis(*now)]).await?;
                Ok(used == 1)
            })
        })
    }
}

/// One more under this key.
async fn add(client: &Client, key: &CommonKey, until: UnixTime, now: UnixTime) -> Result<Count> {
    let sql = "
        INSERT INTO brief AS known (key, until, count) VALUES ($1, $2, 1)
        ON CONFLICT (key) DO UPDATE SET
            count = CASE WHEN known.until <= $3 THEN 1 ELSE known.count + 1 END,
            until = CASE WHEN known.until <= $3 THEN excluded.until ELSE known.until END
        RETURNING count, until";
    let statement = client.prepare_cached(sql).await?;
    let row = client.query_one(&statement, &[&&key[..], &millis(until), &millis(now)]).await?;
    Ok(Count { count: number(&row, "count")?, until: time(&row, "until")? })
}

fn slices(keys: &[CommonKey; 2]) -> Vec<&[u8]> {
    keys.iter().map(|key| &key[..]).collect()
}

/// The counts of rows in the order of their keys.
fn in_order(keys: &[CommonKey; 2], rows: &[Row]) -> Result<[Count; 2]> {
    let mut counts = [NOTHING; 2];
    for row in rows {
        let key: &[u8] = row.try_get("key")?;
        let known = Count { count: number(row, "count")?, until: time(row, "until")? };
        keys.iter().zip(&mut counts).filter(|(own, _)| own[..] == *key).for_each(|(_, count)| *count = known);
    }
    Ok(counts)
}

/// Takes away some rows that count for nothing; those that another gateway takes away at the moment are its.
async fn sweep(client: &Client, now: UnixTime) -> Result<()> {
    let sql = "
        DELETE FROM brief WHERE key IN
            (SELECT key FROM brief WHERE until <= $1 ORDER BY until LIMIT $2 FOR UPDATE SKIP LOCKED)";
    let statement = client.prepare_cached(sql).await?;
    client.execute(&statement, &[&millis(now), &integer(SWEPT)]).await?;
    Ok(())
}

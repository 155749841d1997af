//! What gateways hold in common for a short while: one row for each key, `until` when it counts for nothing any more.

use deadpool_postgres::Client;
use tokio_postgres::Row;

use super::values::{Result, integer, millis, number, time};
use super::{Answer, Postgres};
use crate::clock::UnixTime;
use crate::store::{Common, CommonKey, Count};

/// Rows that count for nothing go with each new one, so many of them: there are never many more than are needed.
const SWEPT: i64 = 20;

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

    fn count(&self, keys: [CommonKey; 2], until: UnixTime, now: UnixTime) -> Answer<'_, [Count; 2]> {
        self.run((keys, until, now), |client, (keys, until, now)| {
            Box::pin(async move {
                sweep(client, *now).await?;
                // In the order of the keys, so that no two of them wait for each other.
                let sql = "
                    INSERT INTO brief AS known (key, until, count)
                    SELECT new.key, $2, 1 FROM unnest($1::bytea[]) AS new (key) ORDER BY new.key
                    ON CONFLICT (key) DO UPDATE SET
                        count = CASE WHEN known.until <= $3 THEN 1 ELSE known.count + 1 END,
                        until = CASE WHEN known.until <= $3 THEN excluded.until ELSE known.until END
                    RETURNING key, count, until";
                let statement = client.prepare_cached(sql).await?;
                let rows = client.query(&statement, &[&slices(keys), &millis(*until), &millis(*now)]).await?;
                in_order(keys, &rows)
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

    fn kept(&self, key: CommonKey, now: UnixTime) -> Answer<'_, Option<Vec<u8>>> {
        self.run((key, now), |client, (key, now)| {
            Box::pin(async move {
                let sql = "SELECT content FROM brief WHERE key = $1 AND until > $2";
                let statement = client.prepare_cached(sql).await?;
                let row = client.query_opt(&statement, &[&&key[..], &millis(*now)]).await?;
                Ok(row.map(|row| row.try_get::<_, Option<Vec<u8>>>(0)).transpose()?.flatten())
            })
        })
    }

    fn keep(&self, key: CommonKey, what: Vec<u8>, until: UnixTime, now: UnixTime) -> Answer<'_, ()> {
        self.run((key, what, until, now), |client, (key, what, until, now)| {
            Box::pin(async move {
                sweep(client, *now).await?;
                let sql = "
                    INSERT INTO brief (key, until, count, content) VALUES ($1, $2, 1, $3)
                    ON CONFLICT (key) DO UPDATE SET until = excluded.until, content = excluded.content";
                let statement = client.prepare_cached(sql).await?;
                client.execute(&statement, &[&&key[..], &millis(*until), &&what[..]]).await?;
                Ok(())
            })
        })
    }
}

fn slices(keys: &[CommonKey; 2]) -> Vec<&[u8]> {
    keys.iter().map(|key| &key[..]).collect()
}

/// The counts of rows in the order of their keys.
fn in_order(keys: &[CommonKey; 2], rows: &[Row]) -> Result<[Count; 2]> {
    let mut counts = [Count { count: 0, until: UnixTime::ZERO }; 2];
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

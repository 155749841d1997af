//! The shared log in PostgreSQL. `schema` has the tables, and why positions become visible in their order.
//!
//! Every question is one transaction under a deadline, on a connection of a small pool; who follows has a connection of
//! its own. One notification goes out with each batch, as part of its commit; a lost one costs a second, for the follower
//! asks that often by itself.
//!
//! Loss is noticed thus: a database made anew has another epoch; so has one whose server has another system identifier or
//! timeline than when the epoch was drawn (a promotion, a restore), at the next append or meeting; and of an older copy on
//! the same timeline (a file system snapshot) the positions that gateways know are gone, and are not given out again.

mod follow;
mod schema;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use deadpool_postgres::Client;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;

use super::engine::Answer;
use super::{
    Appended, Batch, Engine, EngineError, Epoch, Follow, Member, Met, Pages, Position, Stamp, StateEntry,
};
use crate::clock::UnixTime;
use crate::revocation::GatewayId;
use crate::store::server::{Failure, Link, OPERATION_MAX, Work, malformed, number};
use crate::store::{StoreError, settings};
use follow::{Follower, Reader};
use schema::Names;

/// Connections for everything but following.
const CONNECTIONS_MAX: usize = 4;
/// A segment of the live part.
const SEGMENT_BYTES: u64 = 64 << 20;
/// How often this gateway looks for what can be dropped.
const MAINTAIN_EVERY: Duration = Duration::from_secs(60);
/// How long replicas are waited for, and how often they are looked at.
const REPLICAS_PATIENCE: Duration = Duration::from_secs(1);
const REPLICAS_PAUSE: Duration = Duration::from_millis(2);
/// A schema's name has 63 bytes at most.
const SCHEMA_BYTES_MAX: usize = 63;
/// Days that get a partition each; what expires later shares one for [`FAR_DAYS`].
const NEAR_DAYS: u64 = 35;
const FAR_DAYS: u64 = 30;
/// No gateway is remembered longer after its last beat.
const MEMBER_DAYS: i32 = 1;

/// See the module.
pub(super) struct Postgres {
    settings: settings::Postgres,
    link: Arc<Link>,
    names: Arc<Names>,
    wait_replicas: u32,
    maintained: Mutex<Option<Instant>>,
}

impl Postgres {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// When the certificates of the settings cannot be used.
    pub(super) fn new(
        settings: &settings::Postgres,
        namespace: &str,
        wait_replicas: u32,
    ) -> Result<Self, EngineError> {
        Ok(Self {
            settings: settings.clone(),
            link: Arc::new(Link::new(settings, CONNECTIONS_MAX)?),
            names: Arc::new(names(namespace, SEGMENT_BYTES)),
            wait_replicas,
            maintained: Mutex::new(None),
        })
    }

    #[cfg(test)]
    fn with_segments_of(self, segment_bytes: u64) -> Self {
        let names = Names { segment_bytes, ..(*self.names).clone() };
        Self { names: Arc::new(names), ..self }
    }

    async fn run<A: Sync, T>(&self, arguments: A, work: Work<(Arc<Names>, A), T>) -> Result<T, EngineError> {
        let _place = self.link.admit()?;
        let arguments = (self.names.clone(), arguments);
        Ok(self.link.run(Instant::now() + OPERATION_MAX, &arguments, work).await?)
    }

    /// Replicas that have flushed everything that is committed now, as soon as they are as many as asked for.
    async fn replicas(&self) -> Result<u32, EngineError> {
        if self.wait_replicas == 0 {
            return Ok(0);
        }
        let until = Instant::now() + REPLICAS_PATIENCE;
        let written = self.run((), |client, _| {
            Box::pin(async move {
                let row = client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?;
                Ok(row.try_get::<_, String>(0)?)
            })
        });
        let written = written.await?;
        loop {
            let have = self.run(written.clone(), |client, (_, written)| {
                Box::pin(async move {
                    let statement = client
                        .prepare_cached(
                            "SELECT count(*) FROM pg_stat_replication WHERE flush_lsn >= $1::text::pg_lsn",
                        )
                        .await?;
                    Ok(client.query_one(&statement, &[written]).await?.try_get::<_, i64>(0)?)
                })
            });
            let have = u32::try_from(have.await?).unwrap_or(u32::MAX);
            if have >= self.wait_replicas || Instant::now() >= until {
                return Ok(have.min(self.wait_replicas));
            }
            sleep(REPLICAS_PAUSE).await;
        }
    }

    async fn maintain_now_and_then(&self) {
        {
            let mut last = self.maintained.lock().await;
            if last.is_some_and(|last| last.elapsed() < MAINTAIN_EVERY) {
                return;
            }
            *last = Some(Instant::now());
        }
        let done = self.run((), |client, (names, ())| Box::pin(schema::maintain(client, names))).await;
        if let Err(error) = done {
            tracing::debug!(%error, "what has expired in the shared log is dropped another time");
        }
    }
}

/// What the names of a namespace are made of it.
fn names(namespace: &str, segment_bytes: u64) -> Names {
    let digest = digest::digest(&digest::SHA256, format!("portcullis log {namespace}").as_bytes());
    let hex: String = digest.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let mut schema = format!("portcullis_log_{namespace}");
    if schema.len() > SCHEMA_BYTES_MAX {
        schema.truncate(SCHEMA_BYTES_MAX - hex.len() - 1);
        schema.push('_');
        schema.push_str(&hex);
    }
    // The last bit is left for whoever tidies up.
    let lock = i64::from_be_bytes(digest.as_ref()[..8].try_into().expect("a digest has 32 bytes")) & !1;
    Names { schema, channel: format!("portcullis_log_{hex}"), lock, segment_bytes }
}

/// What one append changes in `state`: its entries by the day on which they can be forgotten, lifts apart.
fn by_day(batch: &Batch) -> Vec<(i32, bool, Vec<u8>)> {
    let today = batch.sent_at.secs() / 86_400;
    let mut parts: Vec<(i32, bool, Vec<u8>)> = Vec::new();
    for entry in batch.state() {
        let day = u64::from(entry.expires) / 86_400;
        let day = if day <= today + NEAR_DAYS { day } else { day.next_multiple_of(FAR_DAYS) };
        let day = i32::try_from(day).unwrap_or(i32::MAX);
        let place = parts.iter().position(|part| (part.0, part.1) == (day, entry.lift));
        let place = place.unwrap_or_else(|| {
            parts.push((day, entry.lift, Vec::new()));
            parts.len() - 1
        });
        entry.encode(&mut parts[place].2);
    }
    parts
}

impl From<StoreError> for EngineError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(why) => Self::Unreachable(why.to_string()),
            StoreError::Unusable(why) => Self::Refused(why),
        }
    }
}

impl From<Failure> for EngineError {
    fn from(failure: Failure) -> Self {
        StoreError::from(failure).into()
    }
}

/// Whether this is how a server answers when the tables, the functions or the whole schema are gone: somebody dropped them,
/// or the database was made anew. The next meeting makes them again, with another epoch.
fn is_made_anew(error: &tokio_postgres::Error) -> bool {
    let gone = [
        SqlState::INVALID_SCHEMA_NAME,
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_FUNCTION,
        SqlState::NO_DATA_FOUND, // `head` has no row
    ];
    error.code().is_some_and(|code| gone.contains(code))
}

/// `None` where the shared log is gone.
fn unless_gone<T>(answer: Result<T, tokio_postgres::Error>) -> Result<Option<T>, Failure> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if is_made_anew(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A place as stored; the second number is for other engines.
fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Engine for Postgres {
    fn name(&self) -> String {
        self.settings.to_string()
    }

    fn meet(&self, gateway: GatewayId) -> Answer<'_, Met> {
        Box::pin(self.run(gateway, |client, (names, gateway)| Box::pin(meet(client, names, *gateway))))
    }

    fn append(&self, epoch: Epoch, stamp: Stamp, batch: Batch) -> Answer<'_, Appended> {
        Box::pin(async move {
            let (outcome, place, own) = self
                .run((epoch, stamp, batch), |client, (names, (epoch, stamp, batch))| {
                    Box::pin(append(client, names, *epoch, *stamp, batch))
                })
                .await?;
            match outcome {
                0 => {
                    let replicas = self.replicas().await?;
                    Ok(Appended { position: Position(place, 0), replicas })
                }
                1 => Err(EngineError::OtherEpoch),
                2 => Err(EngineError::OutOfStep { own }),
                3 => Err(EngineError::TooLate),
                other => Err(EngineError::Unreadable(format!("an append ended with {other}"))),
            }
        })
    }

    fn enter(&self, epoch: Epoch, gateway: GatewayId, sequence: u64) -> Answer<'_, ()> {
        Box::pin(async move {
            let entered = self.run((epoch, gateway, sequence), |client, (names, entry)| {
                Box::pin(async move {
                    let sql = names.sql(
                        "INSERT INTO {s}.books (gateway, sequence)
                         SELECT $2, $3 FROM {s}.head WHERE epoch = $1 AND identity = {s}.identity()
                         ON CONFLICT (gateway) DO UPDATE SET sequence = excluded.sequence",
                    );
                    let (epoch, gateway, sequence) = entry;
                    let epoch = epoch.0.cast_signed();
                    let entered = async {
                        let statement = client.prepare_cached(&sql).await?;
                        client.execute(&statement, &[&epoch, &&gateway.0[..], &stored(*sequence)]).await
                    };
                    Ok(unless_gone(entered.await)?.unwrap_or(0))
                })
            });
            if entered.await? == 0 { Err(EngineError::OtherEpoch) } else { Ok(()) }
        })
    }

    fn holds(&self, position: Position) -> Answer<'_, bool> {
        Box::pin(async move {
            if position.1 != 0 {
                return Ok(false);
            }
            self.run(position.0, |client, (names, position)| {
                Box::pin(async move {
                    let sql = names.sql("SELECT EXISTS (SELECT FROM {s}.live WHERE position = $1)");
                    let statement = client.prepare_cached(&sql).await?;
                    Ok(client.query_one(&statement, &[&stored(*position)]).await?.try_get(0)?)
                })
            })
            .await
        })
    }

    fn follow(&self, after: Position) -> Answer<'_, Box<dyn Follow>> {
        Box::pin(async move {
            let follower = Follower::new(&self.settings, &self.names, after.0).await?;
            Ok(Box::new(follower) as Box<dyn Follow>)
        })
    }

    fn state(&self) -> Answer<'_, Box<dyn Pages>> {
        let reader = Reader::new(self.link.clone(), self.names.clone());
        Box::pin(async move { Ok(Box::new(reader) as Box<dyn Pages>) })
    }

    fn warnings(&self) -> Answer<'_, Vec<String>> {
        Box::pin(self.run(self.wait_replicas, |client, (_, wait_replicas)| {
            Box::pin(async move { warnings(client, *wait_replicas).await })
        }))
    }

    fn beat(&self, member: Member) -> Answer<'_, ()> {
        Box::pin(async move {
            let Some(gateway) = GatewayId::parse(&member.gateway) else {
                return Err(EngineError::Unreadable("a gateway's id".to_owned()));
            };
            let text =
                serde_json::to_string(&member).map_err(|error| EngineError::Unreadable(error.to_string()))?;
            self.run((gateway, text), |client, (names, (gateway, text))| {
                Box::pin(async move {
                    let sql = names.sql(
                        "WITH gone AS (DELETE FROM {s}.members WHERE at < now() - make_interval(days => $3))
                         INSERT INTO {s}.members (gateway, at, member) VALUES ($1, now(), $2)
                         ON CONFLICT (gateway) DO UPDATE SET at = excluded.at, member = excluded.member",
                    );
                    let statement = client.prepare_cached(&sql).await?;
                    client.execute(&statement, &[&&gateway.0[..], text, &MEMBER_DAYS]).await?;
                    Ok(())
                })
            })
            .await?;
            self.maintain_now_and_then().await;
            Ok(())
        })
    }

    fn members(&self) -> Answer<'_, Vec<Member>> {
        Box::pin(self.run((), |client, (names, ())| {
            Box::pin(async move {
                let sql =
                    names.sql("SELECT member FROM {s}.members WHERE at > now() - make_interval(days => $1)");
                let statement = client.prepare_cached(&sql).await?;
                let rows = client.query(&statement, &[&MEMBER_DAYS]).await?;
                rows.iter()
                    .map(|row| serde_json::from_str(row.try_get(0)?).map_err(malformed))
                    .collect::<Result<Vec<Member>, Failure>>()
            })
        }))
    }
}

async fn meet(client: &mut Client, names: &Names, gateway: GatewayId) -> Result<Met, Failure> {
    let transaction = client.transaction().await?;
    schema::migrate(&transaction, names).await?;
    let drawn = getrandom::u64().map_err(malformed)?.cast_signed();
    let make = names.sql(
        "INSERT INTO {s}.head (epoch, identity, newest, trimmed, segment, filled)
         VALUES ($1, {s}.identity(), 0, 0, 0, 0) ON CONFLICT DO NOTHING",
    );
    transaction.execute(&make, &[&drawn]).await?;
    let redraw = names
        .sql("UPDATE {s}.head SET epoch = $1, identity = {s}.identity() WHERE identity <> {s}.identity()");
    if transaction.execute(&redraw, &[&drawn]).await? > 0 {
        tracing::warn!(
            "the shared log is on another server or timeline than before: what it may have lost is refilled"
        );
    }
    let look = names.sql(
        "SELECT epoch, newest, (SELECT sequence FROM {s}.books WHERE gateway = $1), {s}.millis() AS now,
                (SELECT count(*) FROM pg_stat_replication) FROM {s}.head",
    );
    let row = transaction.query_one(&look, &[&&gateway.0[..]]).await?;
    let own: Option<i64> = row.try_get(2)?;
    let met = Met {
        epoch: Epoch(row.try_get::<_, i64>(0)?.cast_unsigned()),
        newest: Position(number(&row, "newest")?, 0),
        own: own.map(u64::try_from).transpose().map_err(malformed)?,
        now: UnixTime::from_millis(number(&row, "now")?),
        replicas: u32::try_from(row.try_get::<_, i64>(4)?).unwrap_or(u32::MAX),
    };
    transaction.commit().await?;
    Ok(met)
}

/// The outcome, the position, and what the books say.
async fn append(
    client: &Client,
    names: &Names,
    epoch: Epoch,
    stamp: Stamp,
    batch: &Batch,
) -> Result<(i32, u64, Option<u64>), Failure> {
    let sql = names.sql("SELECT * FROM {s}.append($1, $2, $3, $4, $5, $6, $7, $8, $9)");
    let (kind, first, second) = match stamp {
        Stamp::Log { after, last } => (0_i32, stored(after), stored(last)),
        Stamp::Direct { until } => (1, stored(until.millis()), 0),
        Stamp::Refill => (2, 0, 0),
    };
    let payload = if batch.entries.is_empty() { Vec::new() } else { batch.payload() };
    let parts = by_day(batch);
    let days: Vec<i32> = parts.iter().map(|part| part.0).collect();
    let lifts: Vec<bool> = parts.iter().map(|part| part.1).collect();
    let entries: Vec<&[u8]> = parts.iter().map(|part| &*part.2).collect();
    let gateway = &batch.gateway.0[..];
    let epoch = epoch.0.cast_signed();
    let appended = async {
        let statement = client.prepare_cached(&sql).await?;
        client
            .query_one(
                &statement,
                &[&epoch, &gateway, &kind, &first, &second, &payload, &days, &lifts, &entries],
            )
            .await
    };
    let Some(row) = unless_gone(appended.await)? else { return Ok((1, 0, None)) };
    let place: Option<i64> = row.try_get("place")?;
    let own: Option<i64> = row.try_get("own")?;
    let unsigned = |number: Option<i64>| number.map(u64::try_from).transpose().map_err(malformed);
    Ok((row.try_get("outcome")?, unsigned(place)?.unwrap_or(0), unsigned(own)?))
}

async fn warnings(client: &Client, wait_replicas: u32) -> Result<Vec<String>, Failure> {
    let row = client
        .query_one(
            "SELECT current_setting('fsync'), current_setting('full_page_writes'),
                    current_setting('synchronous_standby_names'),
                    pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')",
            &[],
        )
        .await?;
    let text = |place: usize| row.try_get::<_, String>(place);
    let mut warnings = Vec::new();
    if text(0)? != "on" {
        warnings.push("the server runs with fsync off: a crash of it loses what was acknowledged".to_owned());
    }
    if text(1)? != "on" {
        warnings.push(
            "the server runs with full_page_writes off: a power cut can damage what was acknowledged"
                .to_owned(),
        );
    }
    if wait_replicas > 0 && !row.try_get::<_, bool>(3)? {
        warnings.push(
            "wait_replicas needs the right to see how far replicas are, or nothing counts as propagated: \
             GRANT pg_read_all_stats TO the gateway's user"
                .to_owned(),
        );
    }
    Ok(warnings)
}

/// From the bytes of a row of `state`.
fn entries_of(position: Position, mut bytes: &[u8]) -> Result<Vec<(Position, StateEntry)>, EngineError> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let entry = StateEntry::decode(&mut bytes);
        entries.push((position, entry.map_err(|error| EngineError::Unreadable(error.to_string()))?));
    }
    Ok(entries)
}

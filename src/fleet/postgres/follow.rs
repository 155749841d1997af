//! Reading the shared log: its live part as it grows, and the whole state.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_postgres::Statement;

use super::schema::Names;
use super::{EngineError, Failure, entries_of, malformed, number, stored, unless_gone};
use crate::clock::UnixTime;
use crate::fleet::engine::Answer;
use crate::fleet::{Delivered, Follow, Pages, Position, StateEntry};
use crate::store::server::{Link, Listener, OPERATION_MAX};
use crate::store::settings;

/// The longest that a lost notification can hold up a batch.
const POLL: Duration = Duration::from_secs(1);

/// Some batches behind a position, some megabytes at most. Whether the live part still begins there is told with them, by
/// the same snapshot: what a follower that was too slow would have missed is not passed over silently.
const NEXT: &str = "
    SELECT trimmed, position, at, payload FROM {s}.head LEFT JOIN (
        SELECT position, at, payload, sum(octet_length(payload)) OVER (ORDER BY position) AS upto FROM
            (SELECT position, at, payload FROM {s}.live WHERE position > $1 ORDER BY position LIMIT 1024) AS rows_behind
    ) AS page ON upto - octet_length(payload) < 4194304
    ORDER BY position";

/// Some of the state behind a row of it.
const PAGE: &str = "
    SELECT position, forgotten, entries FROM (
        SELECT position, forgotten, entries,
               sum(octet_length(entries)) OVER (ORDER BY position, forgotten) AS upto FROM
            (SELECT position, forgotten, entries FROM {s}.state
             WHERE lifting = $1 AND (position, forgotten) > ($2, $3)
             ORDER BY position, forgotten LIMIT 8192) AS rows_behind
    ) AS page WHERE upto - octet_length(entries) < 4194304 ORDER BY position, forgotten";

pub(super) struct Follower {
    listener: Listener,
    next: Statement,
    after: u64,
}

impl Follower {
    pub(super) async fn new(
        settings: &settings::Postgres,
        names: &Names,
        after: u64,
    ) -> Result<Self, EngineError> {
        // Listening begins before the first look: what comes in between is heard.
        let listener = Listener::on(settings, &names.channel).await?;
        let next = soon(listener.client().prepare(&names.sql(NEXT))).await?;
        Ok(Self { listener, next, after })
    }

    async fn look(&self) -> Result<Vec<Delivered>, EngineError> {
        let rows = soon(self.listener.client().query(&self.next, &[&stored(self.after)])).await?;
        let mut batches = Vec::with_capacity(rows.len());
        for row in &rows {
            let trimmed = number(row, "trimmed")?;
            if trimmed > self.after && self.after > 0 {
                return Err(EngineError::Unreachable(
                    "the shared log was trimmed past where this gateway was reading".to_owned(),
                ));
            }
            let Some(payload) = row.try_get::<_, Option<Vec<u8>>>("payload").map_err(Failure::Server)? else {
                break;
            };
            batches.push(Delivered {
                position: Position(number(row, "position")?, 0),
                at: UnixTime::from_millis(number(row, "at")?),
                payload,
            });
        }
        Ok(batches)
    }
}

/// The answer of the server, or that there is none.
async fn soon<T>(answer: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, EngineError> {
    match timeout(OPERATION_MAX, answer).await {
        Ok(answer) => unless_gone(answer)?.ok_or(EngineError::OtherEpoch),
        Err(_) => Err(EngineError::Unreachable("the server did not answer in time".to_owned())),
    }
}

impl Follow for Follower {
    fn next(&mut self, patience: Duration) -> Answer<'_, Vec<Delivered>> {
        Box::pin(async move {
            let until = Instant::now() + patience;
            loop {
                let batches = self.look().await?;
                if let Some(last) = batches.last() {
                    self.after = last.position.0;
                    return Ok(batches);
                }
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(batches);
                }
                self.listener.wait(left.min(POLL)).await;
            }
        })
    }
}

/// First the lifts, then the rest.
pub(super) struct Reader {
    link: Arc<Link>,
    names: Arc<Names>,
    lifting: bool,
    behind: (i64, i32),
}

impl Reader {
    pub(super) fn new(link: Arc<Link>, names: Arc<Names>) -> Self {
        Self { link, names, lifting: true, behind: (-1, -1) }
    }
}

type Row = (i64, i32, Vec<u8>);

impl Pages for Reader {
    fn next(&mut self) -> Answer<'_, Option<Vec<(Position, StateEntry)>>> {
        Box::pin(async move {
            loop {
                let arguments = (self.names.sql(PAGE), self.lifting, self.behind);
                let _place = self.link.admit()?;
                let rows: Option<Vec<Row>> = self
                    .link
                    .run(Instant::now() + OPERATION_MAX, &arguments, |client, (sql, lifting, behind)| {
                        Box::pin(async move {
                            let read = async {
                                let statement = client.prepare_cached(sql).await?;
                                client.query(&statement, &[lifting, &behind.0, &behind.1]).await
                            };
                            let Some(rows) = unless_gone(read.await)? else { return Ok(None) };
                            let row = |row: &tokio_postgres::Row| {
                                Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
                            };
                            rows.iter().map(row).collect::<Result<_, Failure>>().map(Some)
                        })
                    })
                    .await?;
                let rows = rows.ok_or(EngineError::OtherEpoch)?;
                let Some(last) = rows.last() else {
                    if !self.lifting {
                        return Ok(None);
                    }
                    (self.lifting, self.behind) = (false, (-1, -1));
                    continue;
                };
                self.behind = (last.0, last.1);
                let mut page = Vec::new();
                for (position, _, entries) in rows {
                    let position = Position(u64::try_from(position).map_err(malformed)?, 0);
                    page.extend(entries_of(position, &entries)?);
                }
                return Ok(Some(page));
            }
        })
    }
}

//! The store in a PostgreSQL database that several gateways may share: every commit on disk before it is answered
//! (`synchronous_commit`), every question under a deadline.
//!
//! Tables live in a schema of their own, `portcullis`, so that the database of the application can be used. Isolation
//! is READ COMMITTED: what must not cross is held by row locks, each named where it is taken. All work runs on a
//! thread of the store's own, in tasks that end by themselves, so that nobody who stops waiting leaves a connection
//! in the middle of a transaction.

mod common;
mod exchanges;
pub(super) mod link;
pub(super) mod listen;
mod rotation;
mod safe;
mod schema;
mod sessions;
mod tls;
mod tokens;
mod trail;
mod users;
pub(super) mod values;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use super::settings;
use super::{Answer, Common, KnownGateway, Registry, Safe, Standing, Store, StoreError};
use exchanges::Exchanges;
use link::{Link, OPERATION_MAX, Work, unavailable};
use values::{Result, Text, number, text};

/// The name of the gateway's own issuer in the trail (CONTRACT §2 `[auth] issuer`).
const OWN_ISSUER: &str = "self";
/// Connections: enough that commits share an fsync of the server, few enough for many gateways on one server (its
/// default is 100).
const CONNECTIONS_MAX: usize = 16;
/// A server that is not there when the gateway starts may be starting too.
const START_PATIENCE: Duration = Duration::from_secs(10);
const START_PAUSE: Duration = Duration::from_millis(200);
/// A step of a migration may have to rewrite tables.
const MIGRATION_MAX: Duration = Duration::from_secs(600);

/// The store in a PostgreSQL database.
pub struct Postgres {
    link: Arc<Link>,
    exchanges: Exchanges,
    /// Taken when it is dropped.
    runtime: Option<Runtime>,
    /// The row of `gateways` whose log feeds the trail; 0 before one has joined.
    gateway: AtomicI64,
}

impl Postgres {
    /// Connects, and brings the schema up to date. Blocks; a server that is not there is tried again for ten seconds.
    ///
    /// # Errors
    /// The server cannot be reached or refuses the user; the database cannot hold the store, or was written by a newer
    /// version.
    pub fn open(settings: &settings::Postgres) -> Result<Self, StoreError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("store")
            .enable_all()
            .build()
            .map_err(unavailable)?;
        let link = Arc::new(Link::new(settings, CONNECTIONS_MAX)?);
        let (done, outcome) = std::sync::mpsc::sync_channel(1);
        runtime.spawn({
            let link = link.clone();
            async move {
                let _ = done.send(prepare(&link).await);
            }
        });
        // Not `block_on`, which must not be called where a runtime runs already.
        let prepared = outcome.recv().map_err(unavailable);
        let exchanges = Exchanges::start(&runtime, &link);
        let store = Self { link, exchanges, runtime: Some(runtime), gateway: AtomicI64::new(0) };
        prepared??;
        Ok(store)
    }

    /// Runs `work` on a connection, on the store's own thread.
    fn run<'a, A, T>(&'a self, arguments: A, work: Work<A, T>) -> Answer<'a, T>
    where
        A: Send + Sync + 'static,
        T: Send + 'static,
    {
        let Some(runtime) = &self.runtime else {
            return std::future::ready(Err(unavailable("the store is closed"))).boxed();
        };
        let admitted = match self.link.admit() {
            Ok(admitted) => admitted,
            Err(full) => return std::future::ready(Err(full)).boxed(),
        };
        let link = self.link.clone();
        let task = runtime.spawn(async move {
            let _admitted = admitted;
            link.run(Instant::now() + OPERATION_MAX, &arguments, work).await
        });
        Box::pin(async move { task.await.map_err(unavailable)? })
    }

    fn gateway(&self) -> i64 {
        self.gateway.load(Ordering::Acquire)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Does not wait: this may be dropped on a thread that must not block.
            runtime.shutdown_background();
        }
    }
}

/// Migrates, waiting for a server that is not there yet.
async fn prepare(link: &Link) -> Result<(), StoreError> {
    let patient_until = Instant::now() + START_PATIENCE;
    let mut told = false;
    loop {
        let deadline = Instant::now() + MIGRATION_MAX;
        let connected =
            link.run(Instant::now() + OPERATION_MAX, &(), |_, ()| Box::pin(std::future::ready(Ok(()))));
        let outcome = match connected.await {
            Ok(()) => link.run(deadline, &(), |client, ()| Box::pin(schema::migrate(client))).await,
            Err(error) => Err(error),
        };
        match outcome {
            Err(StoreError::Unavailable(error)) if Instant::now() < patient_until => {
                if !told {
                    tracing::warn!(error, "the store cannot be reached; trying again");
                    told = true;
                }
                tokio::time::sleep(START_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

impl Store for Postgres {
    fn gateways(&self) -> Answer<'_, Vec<KnownGateway>> {
        self.run((), |client, ()| {
            Box::pin(async move {
                let statement =
                    client.prepare_cached("SELECT id, trail_position FROM gateways ORDER BY number").await?;
                let rows = client.query(&statement, &[]).await?;
                rows.iter()
                    .map(|row| {
                        Ok(KnownGateway {
                            id: text(row, "id")?,
                            trail_position: number(row, "trail_position")?,
                        })
                    })
                    .collect()
            })
        })
    }

    fn join<'a>(&'a self, gateway_id: &'a str) -> Answer<'a, ()> {
        let joined = self.run(Box::<str>::from(gateway_id), |client, id| {
            Box::pin(async move {
                let known = client.prepare_cached("SELECT number FROM gateways WHERE id = $1").await?;
                let new = client
                    .prepare_cached("INSERT INTO gateways (id) VALUES ($1) ON CONFLICT (id) DO NOTHING")
                    .await?;
                client.execute(&new, &[&Text(id)]).await?;
                Ok(client.query_one(&known, &[&Text(id)]).await?.try_get::<_, i64>(0)?)
            })
        });
        Box::pin(async move {
            self.gateway.store(joined.await?, Ordering::Release);
            Ok(())
        })
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn safe(self: Arc<Self>) -> Option<Arc<dyn Safe>> {
        Some(self)
    }

    fn common(self: Arc<Self>) -> Option<Arc<dyn Common>> {
        Some(self)
    }
}

impl Registry for Postgres {
    fn standing<'a>(&'a self, token_id: &'a str) -> Answer<'a, Standing> {
        self.run(Box::<str>::from(token_id), |client, id| {
            Box::pin(async move {
                let statement =
                    client.prepare_cached("SELECT retired_at IS NOT NULL FROM tokens WHERE id = $1").await?;
                Ok(match client.query_opt(&statement, &[&Text(id)]).await? {
                    None => Standing::Unknown,
                    Some(row) if row.try_get(0)? => Standing::Retired,
                    Some(_) => Standing::Good,
                })
            })
        })
    }
}

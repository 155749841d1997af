//! Connections to the server: a bounded pool of them, a bounded number of callers, a deadline for each.
//!
//! A connection is given up whenever it cannot be told in which state it is: after a deadline, and after any error
//! that is not about the data. The next caller makes a new one, so the store is back as soon as the server is.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{
    Client, ClientWrapper, Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod,
};
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::error::SqlState;

use super::tls::Tls;
use super::values::Failure;
use crate::store::{StoreError, settings};

/// From a question to its answer; then the caller is told that the store is away.
pub(crate) const OPERATION_MAX: Duration = Duration::from_secs(5);
/// Callers that may wait for a connection, as many as the SQLite store has places in its queue.
pub(super) const CALLERS_MAX: usize = 1024;
/// How often a transaction is tried that another one was in the way of.
const ATTEMPTS: usize = 4;

/// What each connection is set to. `idle_in_transaction_session_timeout` frees the row locks of a gateway that was
/// stopped in the middle; `statement_timeout` ends what nobody waits for any more. A `synchronous_commit` that loses
/// acknowledged commits is not taken over from the server; a stricter one (a standby that must have it) is.
pub(super) const SETTINGS: &str = "
    SET search_path = portcullis, pg_temp;
    SET statement_timeout = '5s';
    SET idle_in_transaction_session_timeout = '10s';
    SET default_transaction_isolation = 'read committed';
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// A piece of work on one connection, which may be tried again from its beginning.
pub(crate) type Work<A, T> = for<'c> fn(&'c mut Client, &'c A) -> BoxFuture<'c, Result<T, Failure>>;

/// The way to the server.
pub(crate) struct Link {
    pool: Pool,
    callers: Arc<Semaphore>,
}

impl Link {
    /// Nothing is connected yet.
    pub(crate) fn new(settings: &settings::Postgres, connections_max: usize) -> Result<Self, StoreError> {
        let tls = Tls::new(settings.tls.as_ref())?;
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(settings.config.clone(), tls, recycling);
        let set = Hook::async_fn(|client: &mut ClientWrapper, _| {
            Box::pin(async move { client.batch_execute(SETTINGS).await.map_err(HookError::Backend) })
        });
        let pool = Pool::builder(manager).max_size(connections_max).post_create(set).build();
        Ok(Self { pool: pool.map_err(unavailable)?, callers: Arc::new(Semaphore::new(CALLERS_MAX)) })
    }

    /// A place among those who wait; an error at once when there is none.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit, StoreError> {
        self.callers.clone().try_acquire_owned().map_err(|_| unavailable("too many wait for the store"))
    }

    /// Runs `work` to its end or to the deadline. What did not end may have had its effect.
    pub(crate) async fn run<A, T>(
        &self,
        deadline: Instant,
        arguments: &A,
        work: Work<A, T>,
    ) -> Result<T, StoreError> {
        let mut attempts = 0..ATTEMPTS;
        loop {
            let connected = timeout_at(deadline.min(Instant::now() + OPERATION_MAX), self.pool.get()).await;
            let mut client = connected
                .map_err(|_| unavailable("no connection to the server in time"))?
                .map_err(refused)?;
            attempts.next();
            match timeout_at(deadline, work(&mut client, arguments)).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(failure)) => {
                    if !leaves_the_connection_usable(&failure) {
                        drop(Object::take(client));
                    }
                    if !was_crossed(&failure) || attempts.is_empty() {
                        return Err(failure.into());
                    }
                }
                Err(_) => {
                    drop(Object::take(client));
                    return Err(unavailable("the server did not answer in time"));
                }
            }
        }
    }
}

/// Errors about the data, and of transactions that were in each other's way: the connection goes on. After all others
/// (the server stops, has become a standby, does not know a prepared statement any more) a new one is better.
fn leaves_the_connection_usable(failure: &Failure) -> bool {
    match failure {
        Failure::Server(_) => is_of_class(failure, &["22", "23", "40"]),
        Failure::Malformed(_) | Failure::Unusable(_) => true,
    }
}

/// Whether the server refused what it was given (data exceptions and violated constraints), and nothing else is wrong.
pub(super) fn is_about_data(failure: &Failure) -> bool {
    is_of_class(failure, &["22", "23"])
}

fn is_of_class(failure: &Failure, classes: &[&str]) -> bool {
    let Failure::Server(error) = failure else { return false };
    error.code().is_some_and(|code| classes.iter().any(|class| code.code().starts_with(class)))
}

/// Whether it was rolled back for the sake of another transaction, so that it may be tried again.
fn was_crossed(failure: &Failure) -> bool {
    let Failure::Server(error) = failure else { return false };
    [SqlState::T_R_DEADLOCK_DETECTED, SqlState::T_R_SERIALIZATION_FAILURE]
        .iter()
        .any(|code| error.code() == Some(code))
}

/// An error as the store's.
pub(super) fn unavailable(error: impl Into<Box<dyn Error + Send + Sync>>) -> StoreError {
    StoreError::Unavailable(error.into())
}

/// Why there is no connection.
fn refused(error: PoolError) -> StoreError {
    match error {
        PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
            Failure::Server(error).into()
        }
        error => unavailable(error.to_string()),
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        let error = match failure {
            Failure::Server(error) => error,
            Failure::Malformed(what) => return unavailable(what),
            Failure::Unusable(why) => return Self::Unusable(why),
        };
        let Some(said) = error.as_db_error() else { return unavailable(error) };
        let said = Said { code: said.code().clone(), message: said.message().to_owned() };
        // Nothing that trying again could mend: the operator's to change (authorization, privileges, database name).
        let lasting = said.code.code().starts_with("28")
            || [SqlState::INVALID_CATALOG_NAME, SqlState::INSUFFICIENT_PRIVILEGE].contains(&said.code);
        if lasting { Self::Unusable(said.to_string()) } else { unavailable(said) }
    }
}

/// What the server said, without the details: these repeat values of rows.
#[derive(Debug)]
struct Said {
    code: SqlState,
    message: String,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code.code())
    }
}

impl Error for Said {}

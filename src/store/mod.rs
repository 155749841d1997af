//! Users, sessions, issued tokens, the audit trail: SQL behind one trait.
//!
//! What the room promises: a method either has its whole effect or none; what it said is done is on disk; no token
//! text ever comes in, so none can leak (a token is known by its id alone, and that is no credential without the
//! signature); a store that is away is [`StoreError::Unavailable`] and nothing else. What it refuses to know: HTTP,
//! tokens, the revocation log. Marks of revocations here are for people to read; what is refused is in the blocklist.

mod account;
mod common;
mod postgres;
mod registry;
mod safe;
pub mod settings;
mod sqlite;
mod trail;

#[cfg(test)]
pub(crate) mod tests;

use std::pin::Pin;
use std::sync::Arc;

pub use account::{
    Accounts, Created, Guest, Login, Mark, Page, PasswordHash, Rotated, Rotation, Session, SessionRow,
    Started, Successor, Token, TokenRow, User,
};
pub use common::{Common, CommonKey, Count};
pub use postgres::Postgres;
pub use registry::{Registry, Standing};
pub use safe::{Content, Safe, Sealed};
pub use sqlite::Sqlite;
pub use trail::{Trail, TrailEntry, TrailFilter};

/// The way to a PostgreSQL server, for whoever else has tables there.
pub(crate) mod server {
    pub(crate) use super::postgres::link::{Link, OPERATION_MAX, Work};
    pub(crate) use super::postgres::listen::Listener;
    pub(crate) use super::postgres::values::{Failure, malformed, number};
}

/// What every method of the store gives back. Dropping it before it is done may or may not have its effect.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be read or written now; nothing was half-applied.
    #[error("the store is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What is in it was not written by this version of the program or an older one.
    #[error("the store cannot be used: {0}")]
    Unusable(String),
}

/// A gateway that has used the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownGateway {
    /// The id in its state directory.
    pub id: Box<str>,
    /// How far the trail has been fed from its log.
    pub trail_position: u64,
}

/// The whole store.
pub trait Store: Accounts + Registry + Trail {
    /// Every gateway that has ever joined, oldest first: when one is known and its log is gone, state was lost
    /// (`on_lost_state`).
    fn gateways(&self) -> Answer<'_, Vec<KnownGateway>>;

    /// Makes this the gateway whose log feeds the trail from now on. The trail of a gateway id not seen before
    /// starts at position 0; positions and lists of the trail are of the joined gateway alone.
    fn join<'a>(&'a self, gateway_id: &'a str) -> Answer<'a, ()>;

    /// Whether several gateways may use it at once, each with a log of its own.
    fn is_shared(&self) -> bool {
        false
    }

    /// Where its gateways keep secrets that they have in common; `None` where there is but one gateway.
    fn safe(self: Arc<Self>) -> Option<Arc<dyn Safe>> {
        None
    }

    /// What its gateways know in common; `None` where there is but one gateway.
    fn common(self: Arc<Self>) -> Option<Arc<dyn Common>> {
        None
    }
}

/// Opens what `[store]` names, brings its schema up to date, and starts its threads.
///
/// # Errors
/// A file that others can read, that is no store, or that a newer version wrote; a disk or a server that cannot be
/// used.
pub fn open(settings: &settings::Settings) -> Result<Arc<dyn Store>, StoreError> {
    match settings {
        settings::Settings::Sqlite(path) => Ok(Arc::new(Sqlite::open(path)?)),
        settings::Settings::Postgres(server) => Ok(Arc::new(Postgres::open(server)?)),
    }
}

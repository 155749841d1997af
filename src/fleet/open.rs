//! Which engine a configuration means.

use std::sync::Arc;

use super::postgres::Postgres;
use super::redis::Redis;
use super::settings::{Engine as Named, Settings};
use super::{Engine, EngineError};

/// The engine of these settings; it is not connected to yet.
///
/// # Errors
/// When its files cannot be used.
pub fn open(settings: &Settings) -> Result<Arc<dyn Engine>, EngineError> {
    match &settings.engine {
        Named::Redis(redis) => {
            Ok(Arc::new(Redis::new((**redis).clone(), &settings.namespace, settings.wait_replicas)?))
        }
        Named::Postgres(postgres) => {
            Ok(Arc::new(Postgres::new(postgres, &settings.namespace, settings.wait_replicas)?))
        }
    }
}

//! Which engine a configuration means.

use std::sync::Arc;
use std::time::Duration;

use super::postgres::Postgres;
use super::redis::Redis;
use super::settings::{Engine as Named, Settings};
use super::{Engine, EngineError};
use crate::revocation::GatewayId;

/// How long a start waits for the engine. Without an answer, what it has seen is compared when it is linked to.
const SEEN_PATIENCE: Duration = Duration::from_secs(2);

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

/// The last sequence of this gateway that the shared log has; 0 when it has none, or does not answer soon.
pub async fn seen(settings: &Settings, gateway: GatewayId) -> u64 {
    let Ok(engine) = open(settings) else { return 0 };
    let met = tokio::time::timeout(SEEN_PATIENCE, engine.meet(gateway)).await;
    met.ok().and_then(Result::ok).and_then(|met| met.own).unwrap_or(0)
}

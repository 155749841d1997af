//! The engine against a real Redis.

use std::sync::Arc;

#[path = "../../../tests/integration/support/redis.rs"]
#[allow(dead_code, reason = "the integration tests use the rest of it")]
mod support;

use super::super::settings;
use super::super::{Engine, suite};
use super::Redis;

#[tokio::test(flavor = "multi_thread")]
async fn redis_does_what_every_engine_must() {
    let server = support::Redis::start();
    let url = server.url();
    let make = || {
        let (settings, _) = settings::Redis::parse(&url).unwrap();
        Arc::new(Redis::new(settings, "suite", 0).unwrap()) as Arc<dyn Engine>
    };
    suite::holds(make, || drop(server.command(&["FLUSHALL"]))).await;
}

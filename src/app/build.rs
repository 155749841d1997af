//! What one configuration is made into: everything that a request needs, built whole before any of it is used.

use std::sync::Arc;

use anyhow::Context;
use tokio::runtime::Handle;

use super::ports;
use crate::access::Limiters;
use crate::admin::AdminToken;
use crate::clock::Clock;
use crate::config::Settings;
use crate::endpoint::{self, Endpoints};
use crate::fleet;
use crate::gateway;
use crate::issuer;
use crate::store::Store;
use crate::telemetry::{AccessLog, Metrics};
use crate::upstream::Upstreams;

/// What outlives every configuration.
pub(super) struct Base {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) store: Arc<dyn Store>,
    pub(super) log: fleet::Log,
    pub(super) access_log: AccessLog,
    pub(super) control: Handle,
}

impl Base {
    /// The setup of these settings. Of `before` is taken over what has not changed: connections to upstreams and what
    /// is known of their health, failed sign-ins, used assertions, hashing threads,
    /// counts of limited routes.
    ///
    /// # Errors
    /// Threads that cannot be started; parameters that Argon2 does not take.
    pub(super) fn setup(
        &self,
        settings: &Settings,
        issuers: &Arc<issuer::Current>,
        admin_token: &AdminToken,
        before: Option<&gateway::Setup>,
    ) -> anyhow::Result<gateway::Setup> {
        let parts = endpoint::Parts {
            auth: settings.auth.clone(),
            clients: settings.clients.clone(),
            realm: settings.gateway.realm.clone(),
            revocable_claims: settings.revocation.claims.clone(),
            token_bytes_max: settings.limits.token_bytes_max,
            admin_token: Some(admin_token.secret()),
            store: self.store.clone(),
            tokens: Arc::new(ports::Tokens::new(issuers.clone())),
            revocations: Arc::new(ports::Revocations::new(self.log.clone())),
            clock: self.clock.clone(),
        };
        let endpoints = match before {
            Some(before) => before.endpoints.renewed(parts),
            None => Endpoints::new(parts),
        };
        let parts = gateway::Parts {
            settings: settings.gateway.clone(),
            limits: settings.limits.clone(),
            forward: settings.forward.clone(),
            issuers: issuers.clone(),
            upstreams: match before {
                Some(before) => before.upstreams.rebuild(&settings.upstreams),
                None => Upstreams::new(&settings.upstreams, &self.control, settings.server.workers),
            },
            endpoints: Arc::new(endpoints.context("cannot start the auth endpoints")?),
            access_log: self.access_log.with_format(settings.gateway.access_log),
            cut_live_connections: settings.revocation.cut_live_connections,
            limiters: before.map_or_else(Limiters::default, |before| before.limiters.clone()),
        };
        let routes = settings.routes.iter().cloned().map(Arc::new).collect();
        Ok(gateway::Setup::new(parts, routes, &self.metrics))
    }
}

//! What `/admin/upstreams` and the metrics show of upstreams.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::Upstream;
use super::channel::Channels;
use super::target::Target;

/// One upstream at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UpstreamReport {
    /// Its name.
    pub name: String,
    /// Requests under way, to the end of their response bodies.
    pub in_flight: usize,
    /// `max_requests`.
    pub max_requests: Option<usize>,
    /// In the order of the configuration.
    pub targets: Vec<TargetReport>,
}

/// One target at a moment. Counts begin with the upstream's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TargetReport {
    /// Its URL as configured.
    pub url: String,
    /// Of a target with a name: its addresses, as last resolved.
    pub addresses: Option<Vec<SocketAddr>>,
    /// Why its name was not resolved anew the last time.
    pub unresolved: Option<String>,
    /// Whether requests go to it.
    pub state: TargetState,
    /// How long it stays ejected, in milliseconds.
    pub ejected_for_ms: Option<u64>,
    /// Requests under way, to the end of their response bodies.
    pub in_flight: usize,
    /// Connections open, idle or not, those of probes included.
    pub connections: usize,
    /// Connections that wait for a request.
    pub idle_connections: usize,
    /// Attempts made.
    pub requests_total: u64,
    /// Connections asked for.
    pub connects_total: u64,
    /// Attempts that failed for the target's part.
    pub failures_total: u64,
    /// Times it was ejected.
    pub ejections_total: u64,
}

/// Whether requests go to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetState {
    /// They do.
    Healthy,
    /// Passed over while there is another, for its failures.
    Ejected,
    /// They do not: probes have failed.
    Unhealthy,
}

pub(super) fn upstream(upstream: &Upstream) -> UpstreamReport {
    let targets: Vec<_> = upstream.targets.iter().map(|one| target(one)).collect();
    UpstreamReport {
        name: upstream.settings.name.to_string(),
        in_flight: targets.iter().map(|target| target.in_flight).sum(),
        max_requests: upstream.settings.max_requests,
        targets,
    }
}

fn target(target: &Target) -> TargetReport {
    let ejected_for = target.health.ejected_for(Instant::now());
    let state = match ejected_for {
        _ if target.health.down() => TargetState::Unhealthy,
        Some(_) => TargetState::Ejected,
        None => TargetState::Healthy,
    };
    let counts = &target.counts;
    TargetReport {
        url: target.name.to_string(),
        addresses: target.resolved().map(|name| name.addresses().to_vec()),
        unresolved: target.resolved().and_then(|name| name.trouble()).map(String::from),
        state,
        ejected_for_ms: ejected_for.map(|left: Duration| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        in_flight: counts.in_flight.load(Ordering::Relaxed),
        connections: counts.open.load(Ordering::Relaxed),
        idle_connections: target.pool.idle() + target.channels.as_ref().map_or(0, Channels::idle),
        requests_total: counts.requests.load(Ordering::Relaxed),
        connects_total: counts.connects.load(Ordering::Relaxed),
        failures_total: counts.failures.load(Ordering::Relaxed),
        ejections_total: counts.ejections.load(Ordering::Relaxed),
    }
}

//! `[[upstreams]]` as used.

use std::path::PathBuf;
use std::time::Duration;

use http::uri::Authority;

use crate::tls::Connect;

/// `[[upstreams]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Its name in routes.
    pub name: Box<str>,
    /// At least one.
    pub targets: Vec<Target>,
    /// How a target is chosen.
    pub balance: Balance,
    /// 504 on timeout, 502 when refused.
    pub connect_timeout: Duration,
    /// How old the addresses of a name may get while they are in use.
    pub resolve_every: Duration,
    /// To the response head: 504.
    pub response_timeout: Option<Duration>,
    /// No byte in either direction of a response or tunnel.
    pub stream_idle_timeout: Option<Duration>,
    /// Attempts beyond the first.
    pub retries: u32,
    /// Concurrent requests, then 503.
    pub max_requests: Option<usize>,
    /// How long an idle connection is kept.
    pub keepalive_idle: Duration,
    /// Idle connections kept to each target.
    pub keepalive_max_idle: usize,
    /// Active probes; `None`: no probes.
    pub health: Option<Health>,
    /// When a target that fails requests is passed over.
    pub passive_health: PassiveHealth,
}

/// Active probes of every target (`health`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is asked for with GET; 2xx and 3xx are healthy.
    pub path: Box<str>,
    /// Between two probes.
    pub interval: Duration,
    /// For the whole probe, connecting included.
    pub timeout: Duration,
    /// Failed probes in a row that take a target out.
    pub unhealthy_after: u32,
    /// Good probes in a row that bring it back.
    pub healthy_after: u32,
}

/// Ejection of a target by what requests to it show (`passive_health`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassiveHealth {
    /// Failures within `window` that eject; 0: never.
    pub failures: u32,
    /// How far back failures count.
    pub window: Duration,
    /// For how long an ejected target is passed over.
    pub eject: Duration,
}

/// One address of an upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// As configured, for messages and metrics.
    pub url: Box<str>,
    /// `host:port`, port always given; `localhost` for a Unix socket.
    pub authority: Authority,
    /// It is a Unix socket.
    pub unix: Option<PathBuf>,
    /// TLS is spoken to it.
    pub tls: Option<Connect>,
    /// HTTP/2 is spoken to it: as ALPN agrees over TLS, else by prior knowledge.
    pub http2: bool,
    /// At least 1.
    pub weight: u32,
}

/// How a target is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Balance {
    /// In turn.
    RoundRobin,
    /// The one with the fewest requests under way.
    LeastRequests,
    /// The better of two chosen by chance.
    TwoChoices,
    /// By a request header.
    HashHeader(http::HeaderName),
    /// By the token's subject.
    HashSubject,
}

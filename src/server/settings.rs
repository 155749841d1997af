//! What of `[server]` concerns sockets.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use ipnet::IpNet;

use crate::tls;

/// An address that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Listen {
    /// `127.0.0.1:8080`, `[::1]:8080`.
    Tcp(SocketAddr),
    /// `unix:/run/portcullis.sock`.
    Unix(PathBuf),
}

/// As `gateway.toml` writes it.
impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Sockets and their limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Clear-text listeners.
    pub listen: Vec<Listen>,
    /// The PROXY protocol is required from every peer, and all others than these are disconnected.
    pub proxies: Option<Arc<[IpNet]>>,
    /// Listeners that speak TLS.
    pub tls: Option<Tls>,
    /// Threads of the data plane; never 0 here.
    pub workers: usize,
    /// From accept, or from the first byte of a later head, to the end of the head: 408.
    pub header_read_timeout: Option<Duration>,
    /// Between two chunks of a request body: 408.
    pub body_read_timeout: Option<Duration>,
    /// Between requests.
    pub idle_timeout: Option<Duration>,
    /// Beyond: 503 + `Retry-After`, then closed.
    pub max_connections: Option<usize>,
    /// For what runs at SIGTERM.
    pub drain_timeout: Duration,
}

/// `[server.tls]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// At least one.
    pub listen: Vec<Listen>,
    /// Certificates and whom they are verified against.
    pub files: tls::settings::Server,
    /// `Strict-Transport-Security` of every answer (RFC 6797).
    pub hsts: Option<HeaderValue>,
}

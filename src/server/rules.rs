//! The limits and timeouts of a listener; can be swapped while it runs.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::settings::Settings;
use crate::route::settings::Limits;

/// What a running listener reads: `max_connections` at every accept, the rest once per connection.
pub type LiveRules = Arc<ArcSwap<Rules>>;

/// A client that takes no byte of its answer for this long is gone: `stream_idle_timeout` of an upstream, which
/// rules the same wait from the other side, has the same default.
const WRITE_STALL: Duration = Duration::from_secs(300);

/// Limits and timeouts of the connections of one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Limits on a request head.
    pub head: HeadLimits,
    /// From accept, or from the first byte of a later head, to the end of the head; `None`: no end.
    pub header_read_timeout: Option<Duration>,
    /// Between two chunks of a request body.
    pub body_read_timeout: Option<Duration>,
    /// Between requests; does not run while an answer is being produced.
    pub idle_timeout: Option<Duration>,
    /// The client takes no byte of its answer.
    pub write_stall: Option<Duration>,
    /// Connections at once on all listeners that share a [`Drain`](super::Drain); `None`: no limit.
    pub max_connections: Option<usize>,
}

/// Limits on a request head, already within what `http` can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// All of the head, from the method to the empty line: 431.
    pub bytes_max: usize,
    /// Number of fields: 431.
    pub fields_max: usize,
    /// The request target: 414.
    pub uri_bytes_max: usize,
}

impl HeadLimits {
    /// Clamped to what lies below: a `HeaderMap` holds 32,768 fields, an `http::Uri` 65,534 bytes.
    pub fn new(bytes_max: usize, fields_max: usize, uri_bytes_max: usize) -> Self {
        Self {
            bytes_max: bytes_max.clamp(64, 16 << 20),
            fields_max: fields_max.clamp(1, 16_384),
            uri_bytes_max: uri_bytes_max.clamp(1, 65_534),
        }
    }
}

impl Rules {
    /// The rules of `[server]`.
    pub fn new(server: &Settings, head: &Limits) -> Self {
        Self {
            head: HeadLimits::new(head.header_bytes_max, head.headers_max, head.uri_bytes_max),
            header_read_timeout: server.header_read_timeout,
            body_read_timeout: server.body_read_timeout,
            idle_timeout: server.idle_timeout,
            write_stall: Some(WRITE_STALL),
            max_connections: server.max_connections,
        }
    }

    /// In the shape that [`serve`](super::serve) takes; keep a clone to change them while it runs.
    pub fn live(self) -> LiveRules {
        Arc::new(ArcSwap::from_pointee(self))
    }
}

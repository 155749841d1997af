//! Why an upstream gave no answer, by who is to blame.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::answer::{BoxError, Code};

/// No answer came of a request. The text is for the operator: it names the target.
#[derive(Debug, Error)]
pub enum SendError {
    /// The target was refused, has no address, or broke the connection before the first byte of an answer.
    #[error("{target} is not reachable")]
    Unreachable {
        /// Its URL as configured.
        target: Arc<str>,
        /// What the socket or the resolver said.
        #[source]
        source: BoxError,
    },
    /// The target neither took nor refused the connection in time.
    #[error("{target} did not connect within {limit:?}")]
    ConnectTimeout {
        /// Its URL as configured.
        target: Arc<str>,
        /// `connect_timeout`.
        limit: Duration,
    },
    /// No response head came in time after the request was sent.
    #[error("{target} did not answer within {limit:?}")]
    ResponseTimeout {
        /// Its URL as configured.
        target: Arc<str>,
        /// `response_timeout`, or the route's own.
        limit: Duration,
    },
    /// What the target sent is not one unambiguous HTTP/1.1 response.
    #[error("{target} did not answer in HTTP: {fault}")]
    Protocol {
        /// Its URL as configured.
        target: Arc<str>,
        /// What was wrong with it.
        #[source]
        fault: Fault,
    },
    /// The upstream has `max_requests` under way.
    #[error("upstream {upstream} has {limit} requests under way")]
    Overloaded {
        /// Its name.
        upstream: Box<str>,
        /// `max_requests`.
        limit: usize,
    },
    /// Health checks have taken every target out.
    #[error("upstream {upstream} has no healthy target")]
    NoHealthyTarget {
        /// Its name.
        upstream: Box<str>,
    },
    /// The request's own body failed: too large, too slow, the client gone. The error is the one that the body
    /// gave, so that the caller can tell these apart.
    #[error("the request body failed")]
    RequestBody(#[source] BoxError),
    /// A fault of ours: there is no such upstream.
    #[error("no upstream has index {0}")]
    UnknownUpstream(usize),
}

/// What was wrong with a response.
#[derive(Debug, Error)]
pub enum Fault {
    /// It is no HTTP.
    #[error("it cannot be parsed")]
    Parse(#[source] BoxError),
    /// Bytes came before the request was sent, so nothing was sent.
    #[error("it spoke before it was asked")]
    Unsolicited(#[source] BoxError),
    /// The connection ended within the response head.
    #[error("the connection ended within the response head")]
    Truncated(#[source] BoxError),
    /// More than one `Content-Length`, or one that is not a number (RFC 9110 §8.6).
    #[error("its Content-Length is repeated or is not a number")]
    ContentLength,
    /// Both `Content-Length` and `Transfer-Encoding` (RFC 9112 §6.3).
    #[error("it has both Content-Length and Transfer-Encoding")]
    TwoLengths,
    /// A transfer coding other than exactly one `chunked`.
    #[error("its Transfer-Encoding is not exactly \"chunked\"")]
    TransferEncoding,
    /// 101 where no upgrade was asked for (RFC 9110 §15.2.2).
    #[error("it switched protocols without being asked")]
    Unasked101,
    /// An answer to another key than the one that it was asked with (RFC 6455 §4.1).
    #[error("it opened a WebSocket with the answer to another key")]
    WebSocketAccept,
    /// Informational responses without end.
    #[error("it sent informational responses without end")]
    Informational,
}

impl SendError {
    /// The code of the answer that the client gets; [`SendError::RequestBody`] has the caller's own codes for
    /// what failed, and `invalid_request` where it knows none.
    pub const fn code(&self) -> Code {
        match self {
            Self::Unreachable { .. } => Code::UpstreamUnreachable,
            Self::ConnectTimeout { .. } | Self::ResponseTimeout { .. } => Code::UpstreamTimeout,
            Self::Protocol { .. } => Code::UpstreamProtocolError,
            Self::Overloaded { .. } => Code::Overloaded,
            Self::NoHealthyTarget { .. } => Code::NoHealthyTarget,
            Self::RequestBody(_) => Code::InvalidRequest,
            Self::UnknownUpstream(_) => Code::Internal,
        }
    }

    /// The words for the client: nothing of our insides.
    pub const fn detail(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "The service behind the gateway cannot be reached.",
            Self::ConnectTimeout { .. } => {
                "The service behind the gateway did not accept a connection in time."
            }
            Self::ResponseTimeout { .. } => "The service behind the gateway did not answer in time.",
            Self::Protocol { .. } => "The service behind the gateway did not give a valid answer.",
            Self::Overloaded { .. } => "The service behind the gateway has as many requests as it may have.",
            Self::NoHealthyTarget { .. } => "No healthy instance of the service behind the gateway is left.",
            Self::RequestBody(_) => "The request body could not be read.",
            Self::UnknownUpstream(_) => "The gateway failed.",
        }
    }

    /// The target that was asked last, where one was.
    pub fn target(&self) -> Option<&Arc<str>> {
        match self {
            Self::Unreachable { target, .. }
            | Self::ConnectTimeout { target, .. }
            | Self::ResponseTimeout { target, .. }
            | Self::Protocol { target, .. } => Some(target),
            Self::Overloaded { .. }
            | Self::NoHealthyTarget { .. }
            | Self::RequestBody(_)
            | Self::UnknownUpstream(_) => None,
        }
    }
}

/// Why a response body ended before its end. The connection is gone with it; the client's must not end as if
/// the response were complete.
#[derive(Debug, Error)]
pub enum BodyError {
    /// No byte in either direction for `stream_idle_timeout`.
    #[error("nothing moved for {0:?}")]
    Idle(Duration),
    /// The upstream broke it off.
    #[error("the upstream ended its response early")]
    Broken(#[source] BoxError),
}

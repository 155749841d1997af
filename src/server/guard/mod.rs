//! The judgement on the raw bytes of an HTTP/1.1 connection.
//!
//! A parsed view has lost what request smuggling lives on: which `Content-Length` came twice, how
//! `Transfer-Encoding` was spelt, where a bare CR stood. So what is parsed here is the byte stream itself (strict head,
//! body, next head), and whatever two programs could read in two ways is a [`Fault`]: the request is answered with that,
//! and nobody looks at another byte, for after a framing doubt nothing has a meaning.

mod chars;
mod chunked;
mod fault;
mod scan;

pub(in crate::server) use chunked::Chunked;
pub(in crate::server) use fault::Fault;
pub use scan::BodyLength;
pub(in crate::server) use scan::{Head, HeadScan, Scanned};

/// What the raw bytes say of a good head, and its parsed form does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadFacts {
    /// 1 for the first request of the connection.
    pub sequence: u64,
    /// From the method to the end of the empty line.
    pub head_bytes: usize,
    /// How the end of the body is told.
    pub body: BodyLength,
    /// Has an `Expect` field (its value is in the parsed head).
    pub expect: bool,
    /// Has an `Upgrade` field: what follows is not looked at until the answer's status is known.
    pub upgrade: bool,
}

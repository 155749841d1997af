//! Nothing smuggled, nothing twice (CONTRACT §3.1–3.2, §3.7): hostile clients and upstreams on raw sockets, every byte
//! on the other side written down and read by three parsers that share no code.

pub(crate) mod frames;
mod http2;
mod paths;
mod requests;
mod responses;
mod upstreams;
mod wire;

//! The other end of a connection.

use std::net::SocketAddr;

/// Who is at the other end of a client connection, as the socket says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address; `None` on a Unix socket.
    pub address: Option<SocketAddr>,
    /// The address it connected to.
    pub local: Option<SocketAddr>,
    /// Over TLS.
    pub secure: bool,
}

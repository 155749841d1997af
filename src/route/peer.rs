//! The other end of a connection.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Who is at the other end of a client connection, as the socket says. A clone copies two addresses and a reference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its address; `None` on a Unix socket.
    pub address: Option<SocketAddr>,
    /// The address it connected to.
    pub local: Option<SocketAddr>,
    /// Over TLS.
    pub secure: bool,
    /// What the handshake told; `None` over clear text.
    pub tls: Option<Arc<PeerTls>>,
}

/// What a TLS handshake told of the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerTls {
    /// The host that it asked for (SNI, RFC 6066 §3), in lower case.
    pub server_name: Option<Box<str>>,
    /// The listener verifies client certificates.
    pub verifies_clients: bool,
    /// Its certificate, verified; `None` when it has shown none.
    pub certificate: Option<ClientCertificate>,
}

/// A client's verified certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The end-entity certificate in DER.
    pub der: Box<[u8]>,
    /// SHA-256 over it: `x5t#S256` of RFC 8705 §3.1, before base64url.
    pub sha256: [u8; 32],
}

impl Peer {
    /// The client's verified certificate.
    pub fn certificate(&self) -> Option<&ClientCertificate> {
        self.tls.as_ref()?.certificate.as_ref()
    }
}

/// What counts as one client: an IPv4 address, or the /64 of an IPv6 one, all of which a customer has for the asking
/// (RFC 6177).
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

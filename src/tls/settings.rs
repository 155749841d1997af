//! Which files, and what they are for.

use std::path::PathBuf;

/// The side that clients connect to (`[server.tls]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// At least one; the first is the default.
    pub certificates: Vec<Pair>,
    /// Client certificates are verified against it; `None`: none are asked for.
    pub client_ca: Option<PathBuf>,
    /// A client without a certificate is let in; one with a bad one never is.
    pub client_may_have_none: bool,
}

/// The side that connects to others (`tls` of an upstream).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// The only authorities that are trusted; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// The name that the certificate must be for, where it is not the address's own.
    pub server_name: Option<Box<str>>,
    /// Shown when a client certificate is asked for.
    pub certificate: Option<Pair>,
}

/// A certificate with its chain, and its key, both in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The chain, end-entity certificate first.
    pub cert: PathBuf,
    /// The private key: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

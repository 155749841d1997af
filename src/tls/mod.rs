//! TLS: certificates and keys out of PEM files, and what both sides of the gateway speak with. No sockets here.
//!
//! One provider (aws-lc-rs) for everything, TLS 1.2 and 1.3. What is read from a file is judged at once: a pair whose
//! key is not the certificate's never gets as far as a handshake.

mod accept;
mod connect;
mod names;
mod pem;
pub mod settings;

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;

pub use accept::{Acceptor, Reload, TlsError};
pub use connect::{ClientSetupError, Connect};
pub use pem::{PemFault, authorities, pair};

/// The provider of all cryptography.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

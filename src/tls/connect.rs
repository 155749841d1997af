//! The side that connects to others.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use zeroize::Zeroizing;

use super::pem::{PemFault, authorities, pair};
use super::provider;
use super::settings::Client;

/// Why nothing can be connected to with these files.
#[derive(Debug, Error)]
pub enum ClientSetupError {
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} {fault}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: PemFault,
    },
    /// The system has no authorities, or none that can be read.
    #[error("no authorities are installed on this system; name some in ca_file (Debian: ca-certificates)")]
    NoRoots,
    /// What was read does not make a configuration.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// A configuration with which `alpn` is offered. Reads files; the system's authorities where no other is named.
///
/// # Errors
/// [`ClientSetupError`].
pub fn client(settings: &Client, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, ClientSetupError> {
    let roots = match &settings.ca {
        Some(path) => {
            authorities(&read(path)?).map_err(|fault| ClientSetupError::Pem { path: path.clone(), fault })?
        }
        None => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(ClientSetupError::NoRoots);
            }
            roots
        }
    };
    let config = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(ClientSetupError::Setup)?
        .with_root_certificates(roots);
    let mut config = match &settings.certificate {
        None => config.with_no_client_auth(),
        Some(files) => {
            let (cert, key) = (read(&files.cert)?, Zeroizing::new(read(&files.key)?));
            let shown = pair(&cert, &key).map_err(|fault| {
                let of_cert = matches!(fault, PemFault::NoCertificate | PemFault::BadCertificate);
                ClientSetupError::Pem { path: if of_cert { &files.cert } else { &files.key }.clone(), fault }
            })?;
            config.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(shown)))
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

/// The name that a host's certificate must be for: a DNS name, or an address with or without brackets.
pub fn server_name(host: &str) -> Option<ServerName<'static>> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(bare.to_owned()).ok()
}

fn read(path: &Path) -> Result<Vec<u8>, ClientSetupError> {
    std::fs::read(path).map_err(|source| ClientSetupError::Read { path: path.to_owned(), source })
}

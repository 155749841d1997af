//! The side that connects to others.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
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

/// All that connecting to one host needs. Equal when the files held the same, the names are the same and the same
/// protocols are offered; a clone shares everything, resumable sessions included.
#[derive(Clone)]
pub struct Connect {
    made_of: Arc<MadeOf>,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

#[derive(PartialEq)]
struct MadeOf {
    settings: Client,
    alpn: Box<[u8]>,
    ca: Option<Vec<u8>>,
    pair: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
}

impl Connect {
    /// Reads all files; the system's authorities where no other is named. `alpn` is offered unless it is empty, and certificates must be
    /// for the `server_name` of the settings, or else for [`Connect::to`]'s host. Blocks.
    ///
    /// # Errors
    /// [`ClientSetupError`].
    pub fn load(settings: &Client, alpn: &[u8]) -> Result<Self, ClientSetupError> {
        let ca = settings.ca.as_deref().map(read).transpose()?;
        let pair = settings
            .certificate
            .as_ref()
            .map(|files| Ok((read(&files.cert)?, Zeroizing::new(read(&files.key)?))));
        let made_of = MadeOf { settings: settings.clone(), alpn: alpn.into(), ca, pair: pair.transpose()? };
        let config = configure(&made_of)?;
        // Never asked for: `to` comes first where there is no name.
        let name = settings.server_name.as_deref().and_then(server_name);
        let name = name.unwrap_or(ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into()));
        Ok(Self { made_of: Arc::new(made_of), config, name })
    }

    /// The same for this host, a name or an address; `None` when it is neither.
    pub fn to(&self, host: &str) -> Option<Self> {
        match self.made_of.settings.server_name {
            Some(_) => Some(self.clone()),
            None => Some(Self { name: server_name(host)?, ..self.clone() }),
        }
    }

    /// The same, offering another protocol.
    pub fn offering(&self, alpn: &[u8]) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = vec![alpn.to_vec()];
        Self { config: Arc::new(config), ..self.clone() }
    }

    /// For the handshake.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// Whom the certificate must be for.
    pub fn server_name(&self) -> ServerName<'static> {
        self.name.clone()
    }
}

impl PartialEq for Connect {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.made_of == other.made_of
    }
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect").field("name", &self.name).field("files", &self.made_of.settings).finish()
    }
}

fn configure(made_of: &MadeOf) -> Result<Arc<ClientConfig>, ClientSetupError> {
    let settings = &made_of.settings;
    let roots = match made_of.ca.as_ref().zip(settings.ca.as_ref()) {
        Some((pem, path)) => {
            authorities(pem).map_err(|fault| ClientSetupError::Pem { path: path.clone(), fault })?
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
    let mut config = match made_of.pair.as_ref().zip(settings.certificate.as_ref()) {
        None => config.with_no_client_auth(),
        Some(((cert, key), files)) => {
            let shown = pair(cert, key).map_err(|fault| {
                let of_cert = matches!(fault, PemFault::NoCertificate | PemFault::BadCertificate);
                ClientSetupError::Pem { path: if of_cert { &files.cert } else { &files.key }.clone(), fault }
            })?;
            config.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(shown)))
        }
    };
    let offered = Some(made_of.alpn.to_vec()).filter(|alpn| !alpn.is_empty());
    config.alpn_protocols = offered.into_iter().collect();
    Ok(Arc::new(config))
}

/// A DNS name, or an address with or without brackets.
fn server_name(host: &str) -> Option<ServerName<'static>> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(bare.to_owned()).ok()
}

fn read(path: &Path) -> Result<Vec<u8>, ClientSetupError> {
    std::fs::read(path).map_err(|source| ClientSetupError::Read { path: path.to_owned(), source })
}

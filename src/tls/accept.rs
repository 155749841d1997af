//! The side that clients connect to: one configuration in use, replaced whole when its files change.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{NoClientAuth, ProducesTickets, WebPkiClientVerifier};
use thiserror::Error;
use zeroize::Zeroizing;

use super::names::ByName;
use super::pem::{PemFault, authorities, pair};
use super::provider;
use super::settings::{Pair, Server};
use crate::watch::Watch;

/// A file larger than this is neither a certificate nor a key.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why certificates cannot be used; in words for the operator.
#[derive(Debug, Error)]
pub enum TlsError {
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
    /// Others can read a key.
    #[error("{} has mode {mode:04o}: others on this machine can get at it; chmod 600 mends it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// What was read does not make a configuration.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
    /// The authorities for client certificates cannot be used.
    #[error("client certificates cannot be verified")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
}

/// What a look at the files came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// They are as they were.
    Unchanged,
    /// New handshakes use what is in them now.
    Replaced,
}

/// TLS for accepted connections. A clone is the same.
#[derive(Clone)]
pub struct Acceptor(Arc<Inner>);

struct Inner {
    settings: Server,
    config: ArcSwap<ServerConfig>,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    files: Files,
    ticketer: Arc<dyn ProducesTickets>,
}

/// All that was read.
#[derive(PartialEq)]
struct Files {
    pairs: Vec<(Vec<u8>, Zeroizing<Vec<u8>>)>,
    client_ca: Option<Vec<u8>>,
}

impl Acceptor {
    /// Reads all files. Blocks.
    ///
    /// # Errors
    /// The first thing that is wrong with them.
    pub fn load(settings: Server) -> Result<Self, TlsError> {
        let files = Files::read(&settings)?;
        let ticketer = Ticketer::new().map_err(TlsError::Setup)?;
        let config = configure(&settings, &files, &ticketer)?;
        let loaded = Mutex::new(Loaded { files, ticketer });
        Ok(Self(Arc::new(Inner { settings, config: ArcSwap::new(config), loaded })))
    }

    /// What the next handshake uses.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.0.config.load_full()
    }

    /// Client certificates are asked for.
    pub fn verifies_clients(&self) -> bool {
        self.0.settings.client_ca.is_some()
    }

    /// Reads the files again and goes over to what is in them. Connections that are open stay as they are. Blocks.
    ///
    /// # Errors
    /// As [`Acceptor::load`]; what was in use stays in use.
    pub fn reload(&self) -> Result<Reload, TlsError> {
        let inner = &*self.0;
        let files = Files::read(&inner.settings)?;
        let mut loaded = inner.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.files == files {
            return Ok(Reload::Unchanged);
        }
        // A ticket vouches for the client certificate of the first handshake. It must not outlive the authority that
        // this one was verified against; in all other cases clients may go on resuming their sessions.
        let ticketer = match loaded.files.client_ca == files.client_ca {
            true => Arc::clone(&loaded.ticketer),
            false => Ticketer::new().map_err(TlsError::Setup)?,
        };
        inner.config.store(configure(&inner.settings, &files, &ticketer)?);
        *loaded = Loaded { files, ticketer };
        Ok(Reload::Replaced)
    }

    /// What is in the files of these settings now, for a reload of the configuration: this acceptor goes on as it is until
    /// the caller puts the new one in its place, or does not. Sessions can be resumed still, unless client certificates are
    /// verified in another way. Blocks.
    ///
    /// # Errors
    /// As [`Acceptor::load`].
    pub fn renewed(&self, settings: &Server) -> Result<Self, TlsError> {
        let inner = &*self.0;
        let files = Files::read(settings)?;
        let loaded = inner.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.settings == *settings && loaded.files == files {
            return Ok(self.clone());
        }
        let same_clients = loaded.files.client_ca == files.client_ca
            && inner.settings.client_may_have_none == settings.client_may_have_none;
        let ticketer = match same_clients {
            true => Arc::clone(&loaded.ticketer),
            false => Ticketer::new().map_err(TlsError::Setup)?,
        };
        drop(loaded);
        let config = ArcSwap::new(configure(settings, &files, &ticketer)?);
        let loaded = Mutex::new(Loaded { files, ticketer });
        Ok(Self(Arc::new(Inner { settings: settings.clone(), config, loaded })))
    }

    /// Goes over to new files when there are some, for as long as it is polled.
    pub async fn keep_fresh(self) {
        let mut watch = Watch::new(self.files());
        let mut complained = String::new();
        loop {
            watch.changed().await;
            let this = self.clone();
            let Ok(reloaded) = tokio::task::spawn_blocking(move || this.reload()).await else { continue };
            match reloaded {
                Ok(Reload::Unchanged) => complained.clear(),
                Ok(Reload::Replaced) => {
                    complained.clear();
                    tracing::info!("certificates were read anew");
                }
                Err(error) => {
                    let words = format!("{:#}", anyhow::Error::from(error));
                    if words != complained {
                        tracing::warn!(
                            error = words,
                            "new certificates are refused; the old ones stay in use"
                        );
                        complained = words;
                    }
                }
            }
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        let Server { certificates, client_ca, .. } = &self.0.settings;
        certificates.iter().flat_map(|pair| [&pair.cert, &pair.key]).chain(client_ca).cloned().collect()
    }
}

impl Files {
    fn read(settings: &Server) -> Result<Self, TlsError> {
        let pairs = settings.certificates.iter().map(|Pair { cert, key }| {
            private(key)?;
            Ok((read(cert)?, Zeroizing::new(read(key)?)))
        });
        let pairs = pairs.collect::<Result<_, TlsError>>()?;
        let client_ca = settings.client_ca.as_deref().map(read).transpose()?;
        Ok(Self { pairs, client_ca })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let fail = |source| TlsError::Read { path: path.to_owned(), source };
    let meta = std::fs::metadata(path).map_err(fail)?;
    if !meta.is_file() || meta.len() > FILE_BYTES_MAX {
        return Err(fail(io::Error::other("it is not a regular file of at most 1MiB")));
    }
    std::fs::read(path).map_err(fail)
}

fn private(path: &Path) -> Result<(), TlsError> {
    let meta = std::fs::metadata(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(TlsError::Exposed { path: path.to_owned(), mode }) }
}

fn configure(
    settings: &Server,
    files: &Files,
    ticketer: &Arc<dyn ProducesTickets>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut certificates = Vec::with_capacity(files.pairs.len());
    for ((cert, key), from) in files.pairs.iter().zip(&settings.certificates) {
        let of_key = |fault| matches!(fault, PemFault::NoKey | PemFault::UnusableKey | PemFault::Mismatch);
        let blame = |fault| if of_key(fault) { &from.key } else { &from.cert };
        certificates
            .push(pair(cert, key).map_err(|fault| TlsError::Pem { path: blame(fault).clone(), fault })?);
    }
    let names = ByName::new(certificates).ok_or(TlsError::Setup(rustls::Error::NoCertificatesPresented))?;
    let verifier = match files.client_ca.as_ref().zip(settings.client_ca.as_ref()) {
        None => Arc::new(NoClientAuth),
        Some((pem, path)) => {
            let roots = authorities(pem).map_err(|fault| TlsError::Pem { path: path.clone(), fault })?;
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider()));
            let verifier = match settings.client_may_have_none {
                true => verifier.allow_unauthenticated(),
                false => verifier,
            };
            verifier.build().map_err(TlsError::Verifier)?
        }
    };
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(TlsError::Setup)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(names));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = Arc::clone(ticketer);
    // A revoked or replaced authority must not be escaped by resuming; without tickets of old sessions this is the
    // only memory of sessions there is, and it begins anew with each configuration.
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt as _;

    use super::*;

    fn write(path: &Path, text: &str) {
        use std::io::Write as _;
        let _ = std::fs::remove_file(path);
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        file.unwrap().write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn new_files_are_taken_and_bad_ones_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let put = || {
            let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
            write(&cert, &made.cert.pem());
            write(&key, &made.signing_key.serialize_pem());
        };
        put();
        let certificates = vec![Pair { cert: cert.clone(), key: key.clone() }];
        let settings = Server { certificates, client_ca: None, client_may_have_none: false };
        let acceptor = Acceptor::load(settings).unwrap();
        let first = acceptor.config();
        assert_eq!(acceptor.reload().unwrap(), Reload::Unchanged);

        write(&key, "nonsense");
        let error = acceptor.reload().unwrap_err();
        assert!(
            matches!(error, TlsError::Pem { fault: PemFault::NoKey, ref path } if *path == key),
            "{error}"
        );
        assert!(Arc::ptr_eq(&first, &acceptor.config()), "the old one stays");

        put();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(acceptor.reload(), Err(TlsError::Exposed { mode: 0o644, .. })));
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(acceptor.reload().unwrap(), Reload::Replaced);
        assert!(!Arc::ptr_eq(&first, &acceptor.config()));
        assert!(Arc::ptr_eq(&first.ticketer, &acceptor.config().ticketer), "sessions can be resumed");

        std::fs::remove_file(&cert).unwrap();
        assert!(matches!(acceptor.reload(), Err(TlsError::Read { .. })));
    }

    #[test]
    fn one_that_is_made_for_a_reload_leaves_the_one_before_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let put = || {
            let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
            write(&cert, &made.cert.pem());
            write(&key, &made.signing_key.serialize_pem());
        };
        put();
        let certificates = vec![Pair { cert: cert.clone(), key: key.clone() }];
        let settings = Server { certificates, client_ca: None, client_may_have_none: false };
        let acceptor = Acceptor::load(settings.clone()).unwrap();
        let before = acceptor.config();
        let same = acceptor.renewed(&settings).unwrap();
        assert!(Arc::ptr_eq(&before, &same.config()), "nothing has changed");
        put();
        let next = acceptor.renewed(&settings).unwrap();
        assert!(Arc::ptr_eq(&before, &acceptor.config()), "the reload may still fail");
        assert!(!Arc::ptr_eq(&before, &next.config()));
        assert!(Arc::ptr_eq(&before.ticketer, &next.config().ticketer), "sessions can be resumed");
    }
}

//! TLS to whom we ask: the system's certificate authorities or named ones, TLS 1.2 and 1.3, one provider.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::connect::Place;
use super::{FetchError, RootsError};

#[derive(Clone)]
pub(super) struct Tls(TlsConnector);

impl Tls {
    pub(super) fn new(ca_pem: Option<&[u8]>) -> Result<Self, RootsError> {
        let roots = match ca_pem {
            Some(pem) => named(pem)?,
            None => of_the_system(),
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(RootsError::Certificate)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// The handshake; the certificate must be for the host of the address.
    pub(super) async fn over(
        &self,
        place: &Place,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, FetchError> {
        let name = ServerName::try_from(place.host.to_string())
            .map_err(|_| FetchError::Address("its host cannot be in a certificate"))?;
        self.0.connect(name, stream).await.map_err(FetchError::Tls)
    }
}

fn named(pem: &[u8]) -> Result<RootCertStore, RootsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.map_err(RootsError::Pem)?).map_err(RootsError::Certificate)?;
    }
    if roots.is_empty() { Err(RootsError::Empty) } else { Ok(roots) }
}

fn of_the_system() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "some of the system's certificate authorities cannot be read");
    }
    // Some systems carry certificates that no one can use; the others count all the same.
    let (usable, _) = roots.add_parsable_certificates(native.certs);
    if usable == 0 {
        tracing::warn!(
            "the system has no certificate authorities: no https address can be reached through them"
        );
    }
    roots
}

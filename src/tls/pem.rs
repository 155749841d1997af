//! Certificates and keys out of PEM text (RFC 7468).

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use thiserror::Error;

use super::provider;

/// What is wrong with a PEM file. The words complete a sentence that begins with the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PemFault {
    /// No `-----BEGIN CERTIFICATE-----`.
    #[error("holds no certificate")]
    NoCertificate,
    /// What stands between the lines is not base64, or not a certificate.
    #[error("holds a certificate that cannot be read")]
    BadCertificate,
    /// No private key that is not encrypted.
    #[error("holds no private key (or an encrypted one)")]
    NoKey,
    /// A key that the provider cannot use.
    #[error("holds a private key of a kind that cannot be used")]
    UnusableKey,
    /// The key is not that of the certificate.
    #[error("is not the key of this certificate")]
    Mismatch,
}

/// A chain and its key, ready for use.
///
/// # Errors
/// All of [`PemFault`]; those about certificates concern `cert`, the others `key`.
pub fn pair(cert: &[u8], key: &[u8]) -> Result<CertifiedKey, PemFault> {
    let chain = certificates(cert)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
        pem::Error::NoItemsFound => PemFault::NoKey,
        _ => PemFault::UnusableKey,
    })?;
    let signing = provider().key_provider.load_private_key(key).map_err(|_| PemFault::UnusableKey)?;
    let pair = CertifiedKey::new(chain, signing);
    match pair.keys_match() {
        // The provider tells the public key of every kind of key that it loads.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(pair),
        Err(rustls::Error::InconsistentKeys(_)) => Err(PemFault::Mismatch),
        Err(_) => Err(PemFault::BadCertificate),
    }
}

/// Certificates of authorities.
///
/// # Errors
/// [`PemFault::NoCertificate`], [`PemFault::BadCertificate`].
pub fn authorities(pem: &[u8]) -> Result<RootCertStore, PemFault> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|_| PemFault::BadCertificate)?;
    }
    Ok(roots)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemFault> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(PemFault::NoCertificate),
        Ok(chain) => Ok(chain),
        Err(_) => Err(PemFault::BadCertificate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_taken_with_its_own_certificate_only() {
        let one = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let (cert, key) = (one.cert.pem(), one.signing_key.serialize_pem());
        let fault = |cert: &str, key: &str| pair(cert.as_bytes(), key.as_bytes()).unwrap_err();
        assert_eq!(pair(cert.as_bytes(), key.as_bytes()).unwrap().cert.len(), 1);
        assert_eq!(fault(&cert, &other.signing_key.serialize_pem()), PemFault::Mismatch);
        assert_eq!(fault(&cert, &cert), PemFault::NoKey);
        assert_eq!(fault(&key, &key), PemFault::NoCertificate);
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(fault(broken, &key), PemFault::BadCertificate);
        let broken = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert_eq!(fault(&cert, broken), PemFault::UnusableKey);
        assert!(authorities(cert.as_bytes()).is_ok());
        assert_eq!(authorities(b"").unwrap_err(), PemFault::NoCertificate);
    }
}

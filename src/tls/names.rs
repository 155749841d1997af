//! Which certificate a client gets: by the host that it asks for (SNI, RFC 6066 §3).

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Certificates by the names in them (subjectAltName). An exact name is looked for first, then the wildcard that
/// covers the host's first label (RFC 9525 §6.3); whoever asks for neither gets the first certificate. Where two
/// certificates have the same name, the earlier one has it.
#[derive(Debug)]
pub(super) struct ByName {
    exact: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// By what follows the `*.`.
    wildcard: HashMap<Box<str>, Arc<CertifiedKey>>,
    default: Arc<CertifiedKey>,
}

impl ByName {
    /// `None` without a certificate.
    pub(super) fn new(certificates: Vec<CertifiedKey>) -> Option<Self> {
        let certificates: Vec<_> = certificates.into_iter().map(Arc::new).collect();
        let default = Arc::clone(certificates.first()?);
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        for certificate in certificates {
            let Ok(leaf) = certificate.end_entity_cert() else { continue };
            let Ok(parsed) = webpki::EndEntityCert::try_from(leaf) else { continue };
            for name in parsed.valid_dns_names() {
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                let (map, name) = match name.strip_prefix("*.") {
                    Some(rest) => (&mut wildcard, rest),
                    None => (&mut exact, &*name),
                };
                map.entry(name.into()).or_insert_with(|| Arc::clone(&certificate));
            }
        }
        Some(Self { exact, wildcard, default })
    }

    fn find(&self, host: Option<&str>) -> &Arc<CertifiedKey> {
        let Some(host) = host.map(str::to_ascii_lowercase) else { return &self.default };
        let host = host.trim_end_matches('.');
        let by_wildcard = || self.wildcard.get(host.split_once('.')?.1);
        self.exact.get(host).or_else(by_wildcard).unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.find(hello.server_name())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: &[&str]) -> CertifiedKey {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        super::super::pair(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes()).unwrap()
    }

    #[test]
    fn the_most_fitting_certificate_is_shown() {
        let made = [&["first.test"][..], &["*.wild.test", "wild.test"], &["Own.Wild.Test", "127.0.0.1"]];
        let made: Vec<_> = made.into_iter().map(certificate).collect();
        let leaves: Vec<_> = made.iter().map(|made| made.cert[0].clone()).collect();
        let names = ByName::new(made).unwrap();
        for (host, expected) in [
            (None, 0),
            (Some("first.test"), 0),
            (Some("a.wild.test"), 1),
            (Some("A.WILD.test."), 1),
            (Some("wild.test"), 1),
            (Some("a.b.wild.test"), 0),
            (Some("own.wild.test"), 2),
            (Some("unknown.test"), 0),
        ] {
            assert_eq!(names.find(host).cert[0], leaves[expected], "{host:?}");
        }
        assert!(ByName::new(Vec::new()).is_none());
    }
}

//! External issuers: what `[[issuers]]` says, made ready for verifying.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::settings::{External, KeySource};
use crate::token::{Fresh, KeyError, KeySet, Skipped, Terms, Typ};

/// The keys of an external issuer cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("issuer \"{issuer}\": {} cannot be used", path.display())]
pub struct ExternalError {
    /// The issuer's name in the configuration.
    pub issuer: Arc<str>,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub why: KeyError,
}

/// Its keys as the configuration has read them (none where they are fetched), and those of its set that were passed over. No I/O: the configuration has read the file.
///
/// # Errors
/// When no key of it can be used with the issuer's algorithms.
pub fn external_keys(settings: &External) -> Result<(KeySet, Vec<Skipped>), ExternalError> {
    let algorithms = &settings.algorithms;
    let (path, keys): (&Path, _) = match &settings.keys {
        KeySource::JwksFile { path, text } => (path, KeySet::from_jwks(text, algorithms)),
        KeySource::PublicKeyFile { path, pem } => {
            (path, KeySet::from_public_key(pem, algorithms).map(|keys| (keys, Vec::new())))
        }
        KeySource::Published(_) | KeySource::Introspection(_) => return Ok((KeySet::none(), Vec::new())),
        KeySource::SecretFile { path, secret } => {
            (path, KeySet::from_secret(secret, algorithms).map(|keys| (keys, Vec::new())))
        }
    };
    keys.map_err(|why| ExternalError { issuer: Arc::clone(&settings.name), path: path.to_owned(), why })
}

/// On what terms its tokens are accepted.
pub(super) fn terms(settings: &External, keys: Arc<KeySet>, revocable: &Arc<[Box<str>]>) -> Terms {
    Terms {
        issuer: Arc::clone(&settings.name),
        keys,
        audience: settings.audience.clone(),
        leeway: settings.leeway,
        skew: settings.leeway,
        lifetime_max: settings.max_token_ttl,
        require: settings.require.clone(),
        typ: if settings.typ.is_empty() { Typ::Any } else { Typ::Listed(settings.typ.clone()) },
        claims: settings.claims.clone(),
        revocable: Arc::clone(revocable),
        fresh: Fresh::Claimed,
    }
}

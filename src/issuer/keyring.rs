//! Our own keys: one signs, the others go on verifying what they signed. A keyring is a value: each change gives a new
//! one, which the caller puts in place of the old. Where the keys are files, the change is on disk first; where gateways
//! share them, [`super::shared`] puts it into the store first.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::key_file::{self, KeptKey, KeyringError};
use crate::clock::UnixTime;
use crate::token::{Algorithm, KeyError, KeySet, SigningKey};

/// The keys in `<state>/keys` (see `key_file` for the files) or in the store that gateways share, of which one signs.
#[derive(Clone, Debug)]
pub struct Keyring {
    /// `None` for shared ones.
    dir: Option<PathBuf>,
    /// Of the safe in the store; 0 for files.
    version: u64,
    algorithm: Algorithm,
    /// Oldest first. Never without one that signs.
    keys: Vec<KeptKey>,
}

impl Keyring {
    /// Reads the keys of `dir`, which is made with mode 0700 if it is not there, and makes one for `algorithm` when
    /// none can sign with it: on the first start, or when the algorithm was changed. Does file I/O.
    ///
    /// # Errors
    /// When a file cannot be read or written, is damaged or newer than this program, or when files or directory are
    /// open to others.
    pub fn open(dir: &Path, algorithm: Algorithm, now: UnixTime) -> Result<Self, KeyringError> {
        let mut keys = key_file::read_all(dir)?;
        keys.sort_by_key(|kept| kept.created);
        let ring = Self { dir: Some(dir.to_owned()), version: 0, algorithm, keys };
        if ring.can_sign() { Ok(ring) } else { ring.with_new_key(now) }
    }

    /// Keys that gateways share, as they were at `version`. There may be none that signs yet.
    pub(super) fn shared(algorithm: Algorithm, version: u64, mut keys: Vec<KeptKey>) -> Self {
        // Every gateway must come to the same order: of two made in the same second, the ids decide.
        keys.sort_by(|one, other| {
            one.created.cmp(&other.created).then_with(|| one.key.id().cmp(other.key.id()))
        });
        Self { dir: None, version, algorithm, keys }
    }

    /// The version of the safe that it was read at.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// The same keys, which the store has now as this version.
    pub(super) fn stored_as(self, version: u64) -> Self {
        Self { version, ..self }
    }

    /// Whether there is a key that signs. Always, once it is in use.
    pub(super) fn can_sign(&self) -> bool {
        self.signer().is_some()
    }

    /// Takes in a key of files that were used before: it verifies what it signed, until `end`; with `None` it goes on
    /// as it was.
    pub(super) fn adopt(&mut self, kept: KeptKey, end: Option<UnixTime>) {
        let not_after = match end {
            Some(end) => Some(kept.not_after.map_or(end, |own| own.min(end))),
            None => kept.not_after,
        };
        self.keys.push(KeptKey { not_after, ..kept });
        self.keys.sort_by_key(|kept| kept.created);
    }

    /// The key that signs.
    pub fn signing_key(&self) -> &SigningKey {
        &self.signer().expect("open, rotate, retire and import leave none without").key
    }

    /// Every key, oldest first, retired ones too.
    pub fn keys(&self) -> &[KeptKey] {
        &self.keys
    }

    /// What verifies our tokens: every key that is not retired, each until its end.
    ///
    /// # Errors
    /// When the library refuses a key that it made or read itself.
    pub fn key_set(&self) -> Result<KeySet, KeyError> {
        let living = self.keys.iter().filter(|kept| kept.retired.is_none());
        KeySet::from_signing_keys(living.map(|kept| (&*kept.key, kept.not_after)))
    }

    /// The public keys that verify at `now`, as a JWK set (RFC 7517 §5). Secrets never are in it.
    pub fn jwks_json(&self, now: UnixTime) -> String {
        let lives = |kept: &&KeptKey| kept.retired.is_none() && kept.not_after.is_none_or(|end| now < end);
        let jwks: Vec<_> = self
            .keys
            .iter()
            .filter(lives)
            .filter_map(|kept| Some(kept.key.public_key()?.to_jwk(kept.key.id(), kept.key.algorithm())))
            .collect();
        serde_json::json!({ "keys": jwks }).to_string()
    }

    /// A new key signs from now on; all others verify until `overlap_end`. The new key is on disk before
    /// the old ones change, so a crash between leaves two keys of which the newer signs. Does file I/O.
    ///
    /// # Errors
    /// When a key cannot be made or written; the keyring in use stays as good as it was.
    pub fn rotate(&self, overlap_end: UnixTime, now: UnixTime) -> Result<Self, KeyringError> {
        let mut ring = self.with_new_key(now)?;
        let newest = ring.signing_key().id().to_owned();
        for kept in &mut ring.keys {
            if kept.key.id() != newest && kept.not_after.is_none() && kept.retired.is_none() {
                kept.not_after = Some(overlap_end);
                write(ring.dir.as_deref(), kept)?;
            }
        }
        Ok(ring)
    }

    /// The key with this id verifies no more; a new one is made first when it was the one that signed. Does file I/O.
    ///
    /// # Errors
    /// When there is no such key, or a file cannot be written.
    pub fn retire(&self, id: &str, now: UnixTime) -> Result<Self, KeyringError> {
        let mut ring = if self.signing_key().id() == id { self.with_new_key(now)? } else { self.clone() };
        let kept = ring.keys.iter_mut().find(|kept| kept.key.id() == id);
        let kept = kept.ok_or_else(|| KeyringError::UnknownKey(id.into()))?;
        kept.retired.get_or_insert(now);
        write(ring.dir.as_deref(), kept)?;
        Ok(ring)
    }

    /// Takes in a key made elsewhere, or one that was retired: it verifies from now on, and signs if it is of the
    /// configured algorithm. Does file I/O.
    ///
    /// # Errors
    /// When its file cannot be written, or when the keyring has it for another algorithm: one key goes with one
    /// (RFC 8725 §3.1).
    pub fn import(&self, key: SigningKey, now: UnixTime) -> Result<Self, KeyringError> {
        let known = self.keys.iter().find(|kept| kept.key.id() == key.id());
        if known.is_some_and(|kept| kept.key.algorithm() != key.algorithm()) {
            return Err(KeyringError::OtherAlgorithm(key.id().into()));
        }
        // Later than every other, whatever the clock says: the newest signs.
        let after_all =
            self.keys.last().map_or(UnixTime::ZERO, |last| UnixTime::from_secs(last.created.secs() + 1));
        let created = now.max(after_all);
        let kept = KeptKey { key: Arc::new(key), created, not_after: None, retired: None };
        write(self.dir.as_deref(), &kept)?;
        let mut ring = self.clone();
        ring.keys.retain(|other| other.key.id() != kept.key.id());
        ring.keys.push(kept);
        Ok(ring)
    }

    pub(super) fn with_new_key(&self, now: UnixTime) -> Result<Self, KeyringError> {
        self.import(SigningKey::generate(self.algorithm).map_err(KeyringError::Key)?, now)
    }

    fn signer(&self) -> Option<&KeptKey> {
        let can_sign = |kept: &&KeptKey| {
            kept.key.algorithm() == self.algorithm && kept.not_after.is_none() && kept.retired.is_none()
        };
        self.keys.iter().rfind(can_sign)
    }
}

fn write(dir: Option<&Path>, kept: &KeptKey) -> Result<(), KeyringError> {
    dir.map_or(Ok(()), |dir| key_file::write(dir, kept))
}

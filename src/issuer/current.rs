//! The issuers in use: one value that everybody who verifies reads, replaced whole when keys or settings change.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};

use super::{Issuers, Keyring, KeyringError};
use crate::clock::UnixTime;

/// See the module. Reading it takes no lock.
pub struct Current {
    issuers: ArcSwap<Issuers>,
    /// Held while one value is made of another, so that no change is lost.
    changing: Mutex<()>,
}

impl Current {
    /// Begins with these.
    pub fn new(issuers: Issuers) -> Self {
        Self { issuers: ArcSwap::from_pointee(issuers), changing: Mutex::new(()) }
    }

    /// The issuers now; not to be held across an await.
    pub fn load(&self) -> Guard<Arc<Issuers>> {
        self.issuers.load()
    }

    /// The issuers now, to keep.
    pub fn load_full(&self) -> Arc<Issuers> {
        self.issuers.load_full()
    }

    /// Puts in place what `next` makes of the issuers in use; of several changes at once each sees the one before.
    /// Gives what is in use then.
    ///
    /// # Errors
    /// What `next` says; the issuers stay as they were.
    pub fn change<E>(&self, next: impl FnOnce(&Issuers) -> Result<Issuers, E>) -> Result<Arc<Issuers>, E> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Arc::new(next(&self.issuers.load())?);
        self.issuers.store(next.clone());
        Ok(next)
    }

    /// Puts shared keys of our own in use, unless newer ones are.
    ///
    /// # Errors
    /// When the library refuses one of them; the issuers stay as they were.
    pub fn adopt(&self, keyring: Keyring, now: UnixTime) -> Result<(), KeyringError> {
        let change = self.change(|issuers| {
            let is_old = issuers.own().is_none_or(|own| own.keyring().version() >= keyring.version());
            if is_old {
                return Err(None);
            }
            issuers.with_keyring(keyring, now).map_err(Some)
        });
        match change {
            Ok(issuers) => {
                if let Some(own) = issuers.own() {
                    let ring = own.keyring();
                    tracing::info!(
                        signing = ring.signing_key().id(),
                        keys = ring.keys().len(),
                        version = ring.version(),
                        "our own keys have changed"
                    );
                }
                Ok(())
            }
            Err(None) => Ok(()),
            Err(Some(error)) => Err(KeyringError::Key(error)),
        }
    }
}

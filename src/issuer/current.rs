//! The issuers in use: one value that everybody who verifies reads, replaced whole when keys or settings change.
//!
//! Other keys ([`Current::change`]) are in force for everybody at once. Other settings make another [`Current`]
//! ([`Current::succession`]): requests that began under the old ones end with the old issuers, so that none is judged
//! by the routes of one configuration and the issuers of another.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::{ArcSwap, Guard};

use super::{Issuers, Keyring, KeyringError};
use crate::clock::UnixTime;

/// See the module. Reading it takes no lock.
pub struct Current {
    issuers: ArcSwap<Issuers>,
    /// Shared by all that follow from one another: the last of them, once there are two. Held while one value is made
    /// of another, so that no change is lost.
    newest: Arc<Mutex<Weak<Self>>>,
}

impl Current {
    /// Begins with these.
    pub fn new(issuers: Issuers) -> Self {
        Self { issuers: ArcSwap::from_pointee(issuers), newest: Arc::default() }
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
    /// Gives what is in use then. After a reload the change is that of the newest.
    ///
    /// # Errors
    /// What `next` says; the issuers stay as they were.
    pub fn change<E>(&self, next: impl FnOnce(&Issuers) -> Result<Issuers, E>) -> Result<Arc<Issuers>, E> {
        let newest = self.lock();
        let newest_of_all = newest.upgrade();
        let current = newest_of_all.as_deref().unwrap_or(self);
        let next = Arc::new(next(&current.issuers.load())?);
        current.issuers.store(next.clone());
        Ok(next)
    }

    /// Begins a reload: nothing changes the issuers in use until it is over.
    pub fn succession(&self) -> Succession<'_> {
        let newest = self.lock();
        let before = newest.upgrade().map_or_else(|| self.load_full(), |newest| newest.load_full());
        Succession { newest, line: &self.newest, before }
    }

    /// The one that has taken this one's place, or this one.
    pub(super) fn newest(self: &Arc<Self>) -> Arc<Self> {
        self.lock().upgrade().unwrap_or_else(|| Arc::clone(self))
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

    fn lock(&self) -> MutexGuard<'_, Weak<Self>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reload that has begun; dropping it leaves everything as it was.
pub struct Succession<'a> {
    newest: MutexGuard<'a, Weak<Current>>,
    line: &'a Arc<Mutex<Weak<Current>>>,
    before: Arc<Issuers>,
}

impl Succession<'_> {
    /// The issuers in use.
    pub fn before(&self) -> &Issuers {
        &self.before
    }

    /// What will be in use.
    pub fn heir(&self, issuers: Issuers) -> Arc<Current> {
        Arc::new(Current { issuers: ArcSwap::from_pointee(issuers), newest: Arc::clone(self.line) })
    }

    /// From now on, changes are changes of this one.
    pub fn commit(mut self, heir: &Arc<Current>) {
        *self.newest = Arc::downgrade(heir);
    }
}

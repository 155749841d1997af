//! Signing keys that gateways share: sealed in the store, the same for all of them.
//!
//! A key is in the store before anybody signs with it. A gateway that meets a token of ours with a key id that it does
//! not know looks into the store before it refuses, so no rotation anywhere makes a token fail here; that a key was
//! retired it learns by looking every second. Both looks ask for the version alone, unless it is another.
//!
//! Everything here happens on the control plane. A request waits at most [`WAIT_MAX`]; all that wait are answered by one
//! look, and looks begin at most ten times a second, whatever tokens are shown.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::key_file::{self, KeptKey, KeyringError, Wrong};
use super::keyring::Keyring;
use super::sealing::{Sealing, Unsealable};
use super::settings::Own;
use super::{Current, Issuers};
use crate::clock::Clock;
use crate::store::{Safe, Sealed};

/// How often a gateway looks for changes: within this a retired key is refused everywhere.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The least between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// After a look that failed, for so long nobody waits for another.
const FAILED_FOR: Duration = Duration::from_secs(1);
/// How long a request waits for a look.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// Requests that may wait at once.
const WAITING_MAX: usize = 1024;
/// How often a change is made anew because another gateway was faster.
const ATTEMPTS: usize = 16;
/// Where the secret of DPoP nonces is. No key id has a colon.
const NONCE_SECRET: &str = "secret:dpop-nonce";
const SECRET_BYTES: usize = 32;

/// See the module.
pub struct SharedKeys {
    safe: Arc<dyn Safe>,
    sealing: Arc<Sealing>,
    own: Own,
    clock: Arc<dyn Clock>,
    wake: Notify,
    looks: watch::Sender<Looks>,
    waiting: Semaphore,
    failed_at: Mutex<Option<Instant>>,
    /// A task looks for changes.
    kept: AtomicBool,
}

/// Looks into the store, counted.
#[derive(Clone, Copy, Debug, Default)]
struct Looks {
    begun: u64,
    ended: u64,
    failed: bool,
}

/// What a look brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// The keys in use are those in the store.
    Done,
    /// It cannot be told now.
    Failed,
}

/// All that is in the safe, opened.
struct Opened {
    version: u64,
    keys: Vec<KeptKey>,
    nonce_secret: Option<Zeroizing<Vec<u8>>>,
    /// Under an older key-encryption key.
    stale: bool,
}

impl SharedKeys {
    /// For the gateway `own`, whose keys are sealed by `sealing`.
    pub fn new(own: &Own, sealing: Arc<Sealing>, safe: Arc<dyn Safe>, clock: Arc<dyn Clock>) -> Self {
        Self {
            safe,
            sealing,
            own: own.clone(),
            clock,
            wake: Notify::new(),
            looks: watch::Sender::default(),
            waiting: Semaphore::new(WAITING_MAX),
            failed_at: Mutex::new(None),
            kept: AtomicBool::new(false),
        }
    }

    /// The shared keys and the secret of DPoP nonces; made by the first gateway of all. Keys of this gateway's own files
    /// come in too, so that the tokens which they signed stay good: where there were none before, the one that signs goes
    /// on signing; else they verify as long as a token lives.
    ///
    /// # Errors
    /// When the store cannot be used, or holds what we cannot open; when a key file is damaged.
    pub async fn open(&self) -> Result<(Keyring, Zeroizing<Vec<u8>>), KeyringError> {
        let now = self.clock.now();
        let lives = |kept: &KeptKey| kept.retired.is_none() && kept.not_after.is_none_or(|end| now < end);
        let mut files = Vec::new();
        if self.own.keys_dir.is_dir() {
            files = key_file::read_all(&self.own.keys_dir)?;
        }
        files.retain(lives);
        files.sort_by_key(|kept| kept.created);
        for _ in 0..ATTEMPTS {
            let opened = self.read().await?;
            let before = Keyring::shared(self.own.algorithm, opened.version, opened.keys);
            let mut ring = before.clone();
            let is_first = ring.keys().is_empty();
            let longest = self.own.refresh_ttl.max(self.own.access_ttl);
            for kept in &files {
                if ring.keys().iter().all(|known| known.key.id() != kept.key.id()) {
                    ring.adopt(kept.clone(), (!is_first).then(|| now.plus(longest)));
                }
            }
            let adopted = ring.keys().len() - before.keys().len();
            if !ring.can_sign() {
                ring = ring.with_new_key(now)?;
            }
            let mut changed =
                if opened.stale { self.sealed(ring.keys())? } else { self.changed(&before, &ring)? };
            let (secret, is_new) = match opened.nonce_secret {
                Some(secret) => (secret, false),
                None => (new_secret()?, true),
            };
            if is_new || opened.stale {
                changed.push(self.seal(NONCE_SECRET, &secret)?);
            }
            if changed.is_empty() {
                return Ok((ring, secret));
            }
            if self.safe.safe_put(opened.version, changed).await? {
                if adopted > 0 {
                    tracing::info!(
                        keys = adopted,
                        dir = %self.own.keys_dir.display(),
                        "keys of this gateway are shared now: its own files of them are no longer used"
                    );
                }
                return Ok((ring.stored_as(opened.version + 1), secret));
            }
        }
        Err(KeyringError::Crossed)
    }

    /// Changes the keys for every gateway: `next` is asked with the keys as they are, again if another gateway was
    /// faster. The change is in the store when this returns; to put it in use is the caller's. Makes keys, which takes
    /// its time: not to be run on a thread that serves others.
    ///
    /// # Errors
    /// What `next` says; when the store cannot be used.
    pub async fn change<T, E: From<KeyringError>>(
        &self,
        next: impl Fn(&Keyring) -> Result<(Keyring, T), E>,
    ) -> Result<(Keyring, T), E> {
        for _ in 0..ATTEMPTS {
            let opened = self.read().await?;
            let before = Keyring::shared(self.own.algorithm, opened.version, opened.keys);
            let signing = match before.can_sign() {
                true => before.clone(),
                // All gateways of the configured algorithm were of another one until now.
                false => before.with_new_key(self.clock.now())?,
            };
            let (after, more) = next(&signing)?;
            let changed = self.changed(&before, &after)?;
            if changed.is_empty() {
                return Ok((after, more));
            }
            if self.safe.safe_put(opened.version, changed).await.map_err(KeyringError::from)? {
                return Ok((after.stored_as(opened.version + 1), more));
            }
        }
        Err(KeyringError::Crossed.into())
    }

    /// Waits for a look into the store that begins from now on. May be dropped at any time.
    pub(super) async fn looked(&self) -> Look {
        let failed = *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.is_some_and(|at| at.elapsed() < FAILED_FOR) {
            return Look::Failed;
        }
        let Ok(_place) = self.waiting.try_acquire() else { return Look::Failed };
        let mut looks = self.looks.subscribe();
        let wanted = looks.borrow().begun + 1;
        self.wake.notify_one();
        let looked = timeout(WAIT_MAX, looks.wait_for(|looks| looks.ended >= wanted)).await;
        match looked {
            Ok(Ok(looks)) if !looks.failed => Look::Done,
            _ => Look::Failed,
        }
    }

    /// Whether no task looks for changes yet; from now on the caller's does.
    pub(super) fn wants_keeping(&self) -> bool {
        !self.kept.swap(true, Ordering::SeqCst)
    }

    /// Keeps the keys in use those of the store, for as long as the issuers in use were made with this.
    pub(super) async fn keep(self: Arc<Self>, mut current: Arc<Current>) {
        let mut told = false;
        loop {
            current = current.newest();
            if current.load().shared_keys().is_none_or(|used| !Arc::ptr_eq(&used, &self)) {
                return;
            }
            self.looks.send_modify(|looks| looks.begun += 1);
            let looked = self.look(&current).await;
            let failed = looked.is_err();
            *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner) = failed.then(Instant::now);
            self.looks.send_modify(|looks| *looks = Looks { ended: looks.begun, failed, ..*looks });
            match looked {
                Err(error) if !told => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "the shared keys cannot be read: those that are there stay in use");
                }
                Ok(()) if told => tracing::info!("the shared keys can be read again"),
                _ => {}
            }
            told = failed;
            sleep(PAUSE).await;
            tokio::select! {
                () = sleep(LOOK_EVERY) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// Puts in use what is in the store, if it is another version.
    async fn look(&self, current: &Current) -> Result<(), KeyringError> {
        let version = self.safe.safe_version().await?;
        let is_known = |issuers: &Issuers| issuers.own().is_none_or(|own| own.keyring().version() >= version);
        if is_known(&current.load()) {
            return Ok(());
        }
        let (keyring, ()) = self.change(|keyring| Ok::<_, KeyringError>((keyring.clone(), ()))).await?;
        current.adopt(keyring, self.clock.now())
    }

    async fn read(&self) -> Result<Opened, KeyringError> {
        let content = self.safe.safe_content().await?;
        let mut opened =
            Opened { version: content.version, keys: Vec::new(), nonce_secret: None, stale: false };
        for Sealed { id, sealed } in content.all {
            let plain = match self.sealing.open(&id, &sealed) {
                Ok(plain) => plain,
                Err(why) => return Err(KeyringError::Sealed { id, why }),
            };
            opened.stale |= !self.sealing.is_newest(&sealed);
            if &*id == NONCE_SECRET {
                opened.nonce_secret = Some(plain);
            } else if !id.contains(':') {
                opened.keys.push(parsed(&id, &plain)?);
            }
        }
        Ok(opened)
    }

    /// The keys of `after` that are not in `before`, or not like that.
    fn changed(&self, before: &Keyring, after: &Keyring) -> Result<Vec<Sealed>, KeyringError> {
        let is_as_before = |kept: &&KeptKey| {
            let state = |kept: &KeptKey| (kept.created, kept.not_after, kept.retired);
            before.keys().iter().any(|old| old.key.id() == kept.key.id() && state(old) == state(kept))
        };
        after.keys().iter().filter(|kept| !is_as_before(kept)).map(|kept| self.seal_key(kept)).collect()
    }

    fn sealed(&self, keys: &[KeptKey]) -> Result<Vec<Sealed>, KeyringError> {
        keys.iter().map(|kept| self.seal_key(kept)).collect()
    }

    fn seal_key(&self, kept: &KeptKey) -> Result<Sealed, KeyringError> {
        self.seal(kept.key.id(), key_file::text(kept)?.as_bytes())
    }

    fn seal(&self, id: &str, plain: &[u8]) -> Result<Sealed, KeyringError> {
        let sealed = self.sealing.seal(id, plain);
        let sealed = sealed.map_err(|why| KeyringError::Sealed { id: id.into(), why })?;
        Ok(Sealed { id: id.into(), sealed })
    }
}

fn parsed(id: &str, plain: &[u8]) -> Result<KeptKey, KeyringError> {
    let damaged = |why: String| KeyringError::DamagedInStore { id: id.into(), why };
    match key_file::parse(plain) {
        Ok(kept) if kept.key.id() == id => Ok(kept),
        Ok(_) => Err(damaged("it is another key's".to_owned())),
        Err(Wrong::Damaged(why)) => Err(damaged(why)),
        Err(Wrong::Newer(_)) => Err(KeyringError::Sealed { id: id.into(), why: Unsealable::Newer }),
    }
}

fn new_secret() -> Result<Zeroizing<Vec<u8>>, KeyringError> {
    let mut secret = Zeroizing::new(vec![0; SECRET_BYTES]);
    getrandom::fill(&mut secret).map_err(|error| KeyringError::Io {
        action: "make",
        path: Path::new("a secret").to_owned(),
        source: std::io::Error::other(error),
    })?;
    Ok(secret)
}

//! The issuers of a configuration, made anew or taken over from the configuration before.
//!
//! An issuer whose settings are the same goes on as it was: with the keys it has by now, which a fetch or a rotation
//! may have changed since it was loaded, with whom it asks, and with the tokens that were verified. The last only
//! where nothing else has changed that a verified token is made of.

use std::sync::Arc;

use super::ask::Asked;
use super::external::{self, ExternalError, external_keys};
use super::introspection::Introspector;
use super::remote::Remote;
use super::settings::{External, KeySource, Own};
use super::{Issuer, Issuers, Keyring, LoadError, OwnIssuer, SharedKeys};
use crate::clock::UnixTime;
use crate::token::{Replays, Skipped};

/// Where issuers come from.
pub(super) struct Heir<'a> {
    before: Option<&'a Issuers>,
    /// Tokens verified before are known by the same keys, and could be as long.
    alike: bool,
    revocable: Arc<[Box<str>]>,
    known: Arc<super::KnownTokens>,
}

impl<'a> Heir<'a> {
    /// Of `before`, for `next`.
    pub(super) fn of(before: Option<&'a Issuers>, next: &Issuers) -> Self {
        let alike = before.is_some_and(|before| {
            before.revocable == next.revocable && before.token_bytes_max == next.token_bytes_max
        });
        Self { before, alike, revocable: Arc::clone(&next.revocable), known: Arc::clone(&next.known) }
    }

    /// Our own issuer, with the keys that gateways share, or those of this one's files, which are read and made where
    /// they are not at hand.
    pub(super) fn own(
        &self,
        settings: &Own,
        shared: Option<(&Keyring, &Arc<SharedKeys>)>,
        now: UnixTime,
    ) -> Result<(Arc<OwnIssuer>, Issuer), LoadError> {
        let before = self.before.and_then(|before| before.own.as_ref().zip(before.issuers.first()));
        let same = before.filter(|(own, _)| own.settings() == settings);
        let (own, asked) = match (same, shared) {
            (Some((own, issuer)), _) => (Arc::clone(own), issuer.asked.clone()),
            (None, Some((keyring, shared))) => {
                let own = OwnIssuer::new(settings.clone(), keyring.clone(), now);
                (Arc::new(own), Some(Asked::Own(Arc::clone(shared))))
            }
            (None, None) => {
                let same_files = before.filter(|(own, _)| {
                    let old = own.settings();
                    old.sealing.is_none()
                        && old.keys_dir == settings.keys_dir
                        && old.algorithm == settings.algorithm
                });
                let keyring = match same_files {
                    Some((own, _)) => own.keyring().clone(),
                    None => Keyring::open(&settings.keys_dir, settings.algorithm, now)?,
                };
                (Arc::new(OwnIssuer::new(settings.clone(), keyring, now)), None)
            }
        };
        let terms = own.terms(&self.revocable).map_err(LoadError::OwnKey)?;
        let generation = self.generation(same.map(|(_, issuer)| issuer));
        Ok((own, Issuer { terms: Arc::new(terms), generation, settings: None, asked }))
    }

    /// An external issuer, which will stand at `place`.
    pub(super) fn external(
        &self,
        settings: &External,
        place: usize,
    ) -> Result<(Issuer, Vec<Skipped>), ExternalError> {
        let same = self.before.and_then(|before| {
            before.issuers.iter().find(|issuer| issuer.settings.as_deref() == Some(settings))
        });
        let remote = || match same.map(|issuer| (&issuer.asked, Arc::clone(&issuer.terms.keys))) {
            Some((Some(asked @ Asked::Keys(_)), keys)) => Some((Some(asked.clone()), (keys, Vec::new()))),
            _ => None,
        };
        let (asked, (keys, skipped)) = match &settings.keys {
            KeySource::Published(published) => remote().unwrap_or_else(|| {
                let (remote, keys) = Remote::new(settings, published);
                (Some(Asked::Keys(Arc::new(remote))), (Arc::new(keys), Vec::new()))
            }),
            _ => {
                let (keys, skipped) = external_keys(settings)?;
                (None, (Arc::new(keys), skipped))
            }
        };
        let generation = self.generation(same);
        let terms = Arc::new(external::terms(settings, keys, &self.revocable));
        let asked = match &settings.keys {
            KeySource::Introspection(at) => {
                let kept = same.filter(|_| self.alike).and_then(|issuer| match &issuer.asked {
                    Some(asked @ Asked::Token(introspector)) if introspector.place() == place => {
                        Some(asked.clone())
                    }
                    _ => None,
                });
                let revocable = Arc::clone(&self.revocable);
                kept.or_else(|| {
                    let iss = settings.issuer.as_deref();
                    let made = Introspector::new(at, iss, Arc::clone(&terms), revocable, (place, generation));
                    Some(Asked::Token(Arc::new(made)))
                })
            }
            _ => asked,
        };
        Ok((Issuer { terms, generation, settings: Some(Arc::new(settings.clone())), asked }, skipped))
    }

    /// The number of an issuer's keys: its own still, where its verified tokens are as good as before.
    fn generation(&self, same: Option<&Issuer>) -> u64 {
        match same.filter(|_| self.alike) {
            Some(issuer) => issuer.generation,
            None => self.known.next_generation(),
        }
    }
}

impl Issuers {
    /// Used proofs, with or without nonces from now on.
    pub(super) fn replays_with(&self, nonce_secret: Option<&[u8]>) -> Arc<Replays> {
        match (self.replays.asks_for_nonces(), nonce_secret) {
            // Nonces that were given out are good for a while: the secret stays.
            (true, Some(_)) | (false, None) => Arc::clone(&self.replays),
            (_, secret) => Arc::new(self.replays.with_nonces(secret)),
        }
    }
}

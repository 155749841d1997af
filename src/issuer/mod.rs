//! What must be fetched or kept to judge a token: our own keys, external key sets.
//!
//! What the room promises: [`Issuers::verify`] touches memory only, whether it finds the token among those verified
//! before or verifies it anew; [`Current::verify`] waits, within bounds, only where an issuer must be asked by network
//! (`ask.rs`). Files are read when an [`Issuers`] is loaded and written when our own keys change;
//! the store is asked in [`Issuers::standing`] alone, through a trait. It refuses to know what is revoked and what a
//! route asks for.

mod ask;
mod copy;
mod current;
mod external;
mod fingerprint;
mod heir;
mod introspection;
mod key_file;
mod keyring;
mod known;
mod own;
mod remote;
mod sealing;
pub mod settings;
mod shared;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

pub use current::{Current, Succession};
pub use external::{ExternalError, external_keys};
pub use key_file::{KeptKey, KeyringError};
pub use keyring::Keyring;
pub use own::{Grant, OwnIssuer};
pub use remote::Means;
pub use sealing::Sealing;
pub use shared::SharedKeys;

use crate::clock::UnixTime;
pub use crate::revocation::{Admitted, KnownToken};
use crate::revocation::{TextMark, TokenKeys};
use crate::store::{Registry, Standing, StoreError};
use crate::token::{
    KeyError, KeySet, Possession, Proof, Replays, Skipped, Statement, Step, Steps, Terms, TokenType,
    Verified, VerifiedToken, VerifyError, verify, verify_statement,
};
use ask::Asked;
use heir::Heir;
use known::KnownTokens;
use settings::{External, Own, SELF};

/// What an [`Issuers`] is made of.
#[derive(Clone, Copy)]
pub struct Setup<'a> {
    /// `[auth]`; `None`: the gateway issues no tokens of its own.
    pub own: Option<&'a Own>,
    /// `[[issuers]]`.
    pub external: &'a [External],
    /// `[revocation] claims`: claims that can be revoked by.
    pub revocable: &'a [Box<str>],
    /// `[revocation] token_cache`: verified tokens kept; 0 turns the cache off.
    pub token_cache: usize,
    /// `[server] max_token_bytes`.
    pub token_bytes_max: usize,
    /// `[server] dpop_nonce`: the secret of nonces that every proof must have.
    pub nonce_secret: Option<&'a [u8]>,
    /// Our own keys where gateways share them; `None`: they are files of this gateway's.
    pub shared: Option<(&'a Keyring, &'a Arc<SharedKeys>)>,
}

/// Why the issuers cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Our own keys.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// Our own keys, refused by the library.
    #[error("a key of our own {0}")]
    OwnKey(#[source] KeyError),
    /// The keys of an external issuer.
    #[error(transparent)]
    External(#[from] ExternalError),
    /// A token of this `iss` could be of either.
    #[error("the issuers \"{first}\" and \"{second}\" have the same iss: give each its own")]
    SameIss {
        /// One.
        first: Arc<str>,
        /// The other.
        second: Arc<str>,
    },
    /// A selector or a route of this name could mean either.
    #[error("the issuer name \"{0}\" is taken")]
    SameName(Arc<str>),
}

/// A key of an external set that was passed over; for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The issuer's name in the configuration.
    pub issuer: Arc<str>,
    /// Which key, and why.
    pub skipped: Skipped,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "issuer \"{}\": {}", self.issuer, self.skipped)
    }
}

/// One issuer, and the number of its current keys.
#[derive(Clone)]
struct Issuer {
    terms: Arc<Terms>,
    generation: u64,
    /// What it was made of; `None` for our own.
    settings: Option<Arc<External>>,
    /// By network, if its keys are not at hand.
    asked: Option<Asked>,
}

/// Everybody whose tokens are accepted. Immutable: a reload or other keys make a new one, which is put in place of the
/// old. One that follows from another ([`with_keyring`](Self::with_keyring), [`with_keys`](Self::with_keys)) shares
/// its cache; tokens verified with keys that were replaced are verified anew.
pub struct Issuers {
    /// Ours first, if there is one.
    issuers: Vec<Issuer>,
    by_iss: HashMap<Box<str>, usize>,
    /// The one whose tokens have no `iss`.
    without_iss: Option<usize>,
    own: Option<Arc<OwnIssuer>>,
    revocable: Arc<[Box<str>]>,
    token_bytes_max: usize,
    known: Arc<KnownTokens>,
    replays: Arc<Replays>,
}

/// A statement of an external issuer: a security event or logout token. Its form and signature are good; what it says
/// has not been looked at.
#[derive(Clone, Debug)]
pub struct Stated {
    /// What it says.
    pub statement: Statement,
    /// On what terms its issuer's tokens are accepted.
    pub terms: Arc<Terms>,
}

/// Later than any `nbf` and `iat` that a token can have.
const END_OF_TIME: UnixTime = UnixTime::from_secs(u64::MAX / 1000);

/// Whose tokens are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Any,
    Own,
}

impl Issuers {
    /// Loads everything; our own keys are made if they are not there. Reads and writes `keys_dir`.
    ///
    /// # Errors
    /// All that is wrong, not only the first thing.
    pub fn load(setup: &Setup<'_>, now: UnixTime) -> Result<(Self, Vec<Notice>), Vec<LoadError>> {
        Self::load_after(setup, None, now)
    }

    /// The same in place of `before`: of an issuer whose settings are the same, its keys, what is known of them and its
    /// verified tokens are taken over; proofs that were used stay used.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_after(
        setup: &Setup<'_>,
        before: Option<&Self>,
        now: UnixTime,
    ) -> Result<(Self, Vec<Notice>), Vec<LoadError>> {
        let (mut errors, mut notices) = (Vec::new(), Vec::new());
        let known = Arc::new(match before {
            Some(before) => before.known.resized(setup.token_cache, setup.token_bytes_max),
            None => KnownTokens::new(setup.token_cache, setup.token_bytes_max),
        });
        let mut all = Self {
            issuers: Vec::new(),
            by_iss: HashMap::new(),
            without_iss: None,
            own: None,
            revocable: setup.revocable.into(),
            token_bytes_max: setup.token_bytes_max,
            known,
            replays: match before {
                Some(before) => before.replays_with(setup.nonce_secret),
                None => Arc::new(Replays::default().with_nonces(setup.nonce_secret)),
            },
        };
        let heir = Heir::of(before, &all);
        if let Some(settings) = setup.own {
            match heir.own(settings, setup.shared, now) {
                Ok((own, issuer)) => {
                    all.own = Some(own);
                    errors.extend(all.add(Some(&settings.issuer), issuer).err());
                }
                Err(error) => errors.push(error),
            }
        }
        for settings in setup.external {
            // Ours even when `[auth]` is off: entries of the log may carry it.
            if *settings.name == *SELF {
                errors.push(LoadError::SameName(Arc::clone(&settings.name)));
                continue;
            }
            match heir.external(settings, all.issuers.len()) {
                Ok((issuer, skipped)) => {
                    let notice = |skipped| Notice { issuer: Arc::clone(&settings.name), skipped };
                    notices.extend(skipped.into_iter().map(notice));
                    errors.extend(all.add(settings.issuer.as_deref(), issuer).err());
                }
                Err(error) => errors.push(error.into()),
            }
        }
        if errors.is_empty() { Ok((all, notices)) } else { Err(errors) }
    }

    fn add(&mut self, iss: Option<&str>, issuer: Issuer) -> Result<(), LoadError> {
        let name = &issuer.terms.issuer;
        if self.issuers.iter().any(|other| other.terms.issuer == *name) {
            return Err(LoadError::SameName(Arc::clone(name)));
        }
        let place = self.issuers.len();
        let taken = match iss {
            Some(iss) => self.by_iss.get(iss).copied(),
            None => self.without_iss,
        };
        if let Some(taken) = taken {
            let first = Arc::clone(&self.issuers[taken].terms.issuer);
            return Err(LoadError::SameIss { first, second: Arc::clone(name) });
        }
        match iss {
            Some(iss) => drop(self.by_iss.insert(iss.into(), place)),
            None => self.without_iss = Some(place),
        }
        self.issuers.push(issuer);
        Ok(())
    }

    /// The same issuers with other keys of our own (after a rotation, a retirement or an import).
    ///
    /// # Errors
    /// When the library refuses a key of the keyring; the old issuers stay as they were.
    pub fn with_keyring(&self, keyring: Keyring, now: UnixTime) -> Result<Self, KeyError> {
        let Some(own) = &self.own else { return Ok(self.derived()) };
        let own = OwnIssuer::new(own.settings().clone(), keyring, now);
        let mut all = self.derived();
        all.issuers[0] = Issuer {
            terms: Arc::new(own.terms(&self.revocable)?),
            generation: self.known.next_generation(),
            settings: None,
            asked: self.issuers[0].asked.clone(),
        };
        all.own = Some(Arc::new(own));
        Ok(all)
    }

    /// The same issuers with other keys for the external issuer `name` (after its set was fetched again). Without an
    /// issuer of that name nothing changes.
    pub fn with_keys(&self, name: &str, keys: KeySet) -> Self {
        let mut all = self.derived();
        let is_meant = |issuer: &&mut Issuer| *issuer.terms.issuer == *name && name != SELF;
        if let Some(issuer) = all.issuers.iter_mut().find(is_meant) {
            let terms = Terms { keys: Arc::new(keys), ..(*issuer.terms).clone() };
            issuer.generation = self.known.next_generation();
            issuer.terms = Arc::new(terms);
        }
        all
    }

    fn derived(&self) -> Self {
        Self {
            issuers: self.issuers.clone(),
            by_iss: self.by_iss.clone(),
            without_iss: self.without_iss,
            own: self.own.clone(),
            revocable: Arc::clone(&self.revocable),
            token_bytes_max: self.token_bytes_max,
            known: Arc::clone(&self.known),
            replays: Arc::clone(&self.replays),
        }
    }

    /// What a token says, whoever has it: verified now or found among those verified before. Its expiry has been
    /// checked at `now`, the blocklist has not. Touches memory only. A hit allocates nothing.
    ///
    /// # Errors
    /// See [`VerifyError`].
    pub fn verify(&self, text: &str, now: UnixTime) -> Result<Arc<KnownToken>, VerifyError> {
        unless_expired(self.verify_of(Whose::Any, text, now)?, now)
    }

    /// [`verify`](Self::verify), and takes the token from a client that has shown `possession`. The one way for a
    /// request to get past us.
    ///
    /// # Errors
    /// See [`VerifyError`].
    pub fn admit(&self, text: &str, possession: &Possession, now: UnixTime) -> Result<Admitted, VerifyError> {
        self.verify(text, now)?.admit(possession, &self.replays, now)
    }

    /// The same for a token of our own; one of another issuer is refused as of an unknown one.
    ///
    /// # Errors
    /// See [`VerifyError`].
    pub fn admit_own(
        &self,
        text: &str,
        possession: &Possession,
        now: UnixTime,
    ) -> Result<Admitted, VerifyError> {
        self.verify_own(text, now)?.admit(possession, &self.replays, now)
    }

    /// Proofs that were used; see [`Replays::handed_over`].
    pub fn replays(&self) -> &Replays {
        &self.replays
    }

    /// Takes a proof that comes without a token, where one is asked for.
    ///
    /// # Errors
    /// It was used before, or there is no room to remember it.
    pub fn take_proof(&self, proof: &Proof, now: UnixTime) -> Result<(), VerifyError> {
        Ok(self.replays.take(proof, now)?)
    }

    /// The same for a token of our own; one of another issuer is refused as of an unknown one.
    ///
    /// # Errors
    /// See [`VerifyError`].
    pub fn verify_own(&self, text: &str, now: UnixTime) -> Result<Arc<KnownToken>, VerifyError> {
        unless_expired(self.verify_of(Whose::Own, text, now)?, now)
    }

    /// The same, where an expired token is good too (RFC 7009): see [`KnownToken::is_expired`].
    ///
    /// # Errors
    /// See [`VerifyError`]; never [`VerifyError::Expired`].
    pub fn verify_tolerating_expiry(
        &self,
        text: &str,
        now: UnixTime,
    ) -> Result<Arc<KnownToken>, VerifyError> {
        self.verify_of(Whose::Any, text, now)
    }

    /// The same for a token of our own (logout).
    ///
    /// # Errors
    /// See [`VerifyError`]; never [`VerifyError::Expired`].
    pub fn verify_own_tolerating_expiry(
        &self,
        text: &str,
        now: UnixTime,
    ) -> Result<Arc<KnownToken>, VerifyError> {
        self.verify_of(Whose::Own, text, now)
    }

    /// For revoking alone: a token that is good but for its times, expired or not valid yet. What revokes must not wait
    /// until a skewed clock has caught up. Never kept.
    ///
    /// # Errors
    /// See [`VerifyError`]; none about the time.
    pub fn verify_at_any_time(&self, text: &str, now: UnixTime) -> Result<Arc<KnownToken>, VerifyError> {
        match self.verify_of(Whose::Any, text, now) {
            Err(VerifyError::NotYetValid | VerifyError::IssuedInFuture) => {}
            other => return other,
        }
        let (place, verified) = self.verify_anew(Whose::Any, text, END_OF_TIME, &mut (), &mut None)?;
        Ok(Arc::new(self.known(place, verified, None)))
    }

    fn known(&self, place: usize, verified: Verified, mark: Option<TextMark>) -> KnownToken {
        KnownToken {
            mark,
            keys: TokenKeys::of(&verified.token, &self.revocable),
            good_until: verified.good_until,
            key_until: verified.key_until,
            place: place as u32,
            bound: verified.token.binding.is_some(),
            generation: self.issuers[place].generation,
            token: verified.token,
        }
    }

    fn verify_of(&self, whose: Whose, text: &str, now: UnixTime) -> Result<Arc<KnownToken>, VerifyError> {
        let still_good = |known: &KnownToken| {
            self.issuers.get(known.place as usize).is_some_and(|issuer| issuer.generation == known.generation)
                && known.key_until.is_none_or(|end| now < end)
        };
        let mark = self.known.mark(text);
        if let Some(known) = mark.and_then(|mark| self.known.get(&mark, still_good)) {
            let wanted = whose == Whose::Any || *known.token.issuer == *SELF;
            return if wanted { Ok(known) } else { Err(VerifyError::UnknownIssuer) };
        }
        let (place, verified) = self.verify_anew(whose, text, now, &mut (), &mut None)?;
        let known = Arc::new(self.known(place, verified, mark));
        // An expired one would only push out one that is still of use.
        if !known.is_expired(now) {
            self.known.insert(&known);
        }
        Ok(known)
    }

    /// `place` gets whose token it says it is, also where it is not good.
    fn verify_anew(
        &self,
        whose: Whose,
        text: &str,
        now: UnixTime,
        steps: &mut impl Steps,
        place: &mut Option<usize>,
    ) -> Result<(usize, Verified), VerifyError> {
        let find = |iss: Option<&str>| {
            let found = match iss {
                Some(iss) => self.by_iss.get(iss).copied(),
                None => self.without_iss,
            }?;
            let issuer = &self.issuers[found];
            if whose == Whose::Own && *issuer.terms.issuer != *SELF {
                return None;
            }
            *place = Some(found);
            Some(&*issuer.terms)
        };
        let verified = verify(text, self.token_bytes_max, find, now, steps)?;
        Ok((place.ok_or(VerifyError::UnknownIssuer)?, verified))
    }

    /// Verifies a JWT of an external issuer that is no credential, with the keys of its tokens. Ours never are: we state
    /// nothing to ourselves. Never kept.
    ///
    /// # Errors
    /// See [`verify_statement`].
    pub fn verify_statement(
        &self,
        text: &str,
        bytes_max: usize,
        now: UnixTime,
    ) -> Result<Stated, VerifyError> {
        let mut terms = None;
        let find = |iss: Option<&str>| {
            let issuer = &self.issuers[*self.by_iss.get(iss?)?];
            terms = (*issuer.terms.issuer != *SELF).then(|| Arc::clone(&issuer.terms));
            terms.as_ref().map(|_| &*issuer.terms.keys)
        };
        let statement = verify_statement(text, bytes_max, find, now)?;
        Ok(Stated { statement, terms: terms.ok_or(VerifyError::UnknownIssuer)? })
    }

    /// Verifies without the cache and tells of each step that was passed (`POST /admin/explain`). The step that was
    /// not is [`VerifyError::step`]. No side effect.
    pub fn explain(
        &self,
        text: &str,
        now: UnixTime,
    ) -> (Vec<(Step, String)>, Result<VerifiedToken, VerifyError>) {
        let mut steps = Vec::new();
        let verified = self.verify_anew(Whose::Any, text, now, &mut steps, &mut None);
        let verdict = verified.and_then(|(_, verified)| {
            if verified.is_expired(now) { Err(VerifyError::Expired) } else { Ok(verified.token) }
        });
        if let Ok(token) = &verdict {
            steps.passed(Step::Expiry, format_args!("{:?}", token.expires_at));
        }
        (steps, verdict)
    }

    /// Whether the store must be asked about this token: a refresh token of our own always (it may be retired), any
    /// token of our own with `registry = "strict"`.
    pub fn asks_registry(&self, token: &VerifiedToken) -> bool {
        let strict = self.own.as_ref().is_some_and(|own| own.settings().strict);
        *token.issuer == *SELF && (strict || token.token_type == TokenType::Refresh)
    }

    /// How the store stands to a token, as far as that matters: it is asked only where it must be, and not to know a
    /// token is good enough unless the registry is strict. May be dropped at any time; it only reads.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn standing(
        &self,
        token: &VerifiedToken,
        registry: &dyn Registry,
    ) -> Result<Standing, StoreError> {
        if !self.asks_registry(token) {
            return Ok(Standing::Good);
        }
        let strict = self.own.as_ref().is_some_and(|own| own.settings().strict);
        Ok(match registry.standing(&token.token_id).await? {
            Standing::Unknown if !strict => Standing::Good,
            standing => standing,
        })
    }

    /// Our own keys, where gateways share them.
    pub fn shared_keys(&self) -> Option<Arc<SharedKeys>> {
        match self.issuers.first()?.asked.as_ref()? {
            Asked::Own(shared) => Some(Arc::clone(shared)),
            _ => None,
        }
    }

    /// The gateway as an issuer, if it is one.
    pub fn own(&self) -> Option<&Arc<OwnIssuer>> {
        self.own.as_ref()
    }

    /// The body of `/.well-known/jwks.json` at `now`, if the gateway issues tokens.
    pub fn jwks_json(&self, now: UnixTime) -> Option<Bytes> {
        self.own.as_ref().map(|own| own.jwks_json(now))
    }

    /// The names of all issuers, ours (`self`) first.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.issuers.iter().map(|issuer| &issuer.terms.issuer)
    }

    /// The longest that a token of the issuer `name` can live from now on: its longest lifetime and its leeway.
    pub fn lifetime_max(&self, name: &str) -> Option<std::time::Duration> {
        let issuer = self.issuers.iter().find(|issuer| *issuer.terms.issuer == *name)?;
        Some(issuer.terms.lifetime_max.saturating_add(issuer.terms.skew).saturating_add(issuer.terms.leeway))
    }

    /// Verified tokens that are kept.
    pub fn cached_tokens(&self) -> usize {
        self.known.len()
    }

    /// Look-ups that found a kept token which was still good.
    pub fn cache_hits(&self) -> u64 {
        self.known.hits()
    }

    /// Look-ups that did not.
    pub fn cache_misses(&self) -> u64 {
        self.known.misses()
    }
}

impl fmt::Debug for Issuers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

fn unless_expired(known: Arc<KnownToken>, now: UnixTime) -> Result<Arc<KnownToken>, VerifyError> {
    if known.is_expired(now) { Err(VerifyError::Expired) } else { Ok(known) }
}

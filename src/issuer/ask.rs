//! Verifying a token where memory may not be enough: a key id that is not known makes for one fetch of its issuer's keys,
//! an opaque token is shown to its issuer. Everything else is answered from memory and never waits.

use std::sync::Arc;

use serde_json::Value;

use super::introspection::Introspector;
use super::remote::{Means, Remote};
use super::shared::{Look, SharedKeys};
use super::{Admitted, Current, Issuers, KnownToken, Stated, Whose, unless_expired};
use crate::clock::UnixTime;
use crate::token::{Possession, Step, Steps as _, VerifiedToken, VerifyError};

/// Who can be asked about the tokens of an issuer.
#[derive(Clone)]
pub(super) enum Asked {
    /// For its keys.
    Keys(Arc<Remote>),
    /// For what a token stands for.
    Token(Arc<Introspector>),
    /// The store, for the keys of our own that gateways share.
    Own(Arc<SharedKeys>),
}

impl Issuers {
    /// Whom to ask about a token that was not verified for this reason; `None`: asking would change nothing.
    fn whom_to_ask(&self, text: &str, error: &VerifyError, now: UnixTime) -> Option<Asked> {
        match error {
            VerifyError::UnknownKey | VerifyError::NoKeys => {
                let mut place = None;
                let _ = self.verify_anew(Whose::Any, text, now, &mut (), &mut place);
                self.issuers.get(place?)?.asked.clone()
            }
            VerifyError::TooLong => None,
            // No JWT, so it is of the one issuer whose tokens need not be any.
            error if error.step() == Step::Form => self.introspector().map(Asked::Token),
            _ => None,
        }
    }

    /// The issuer whose tokens are opaque, if there is one.
    fn introspector(&self) -> Option<Arc<Introspector>> {
        self.issuers.iter().find_map(|issuer| match &issuer.asked {
            Some(Asked::Token(introspector)) => Some(introspector.clone()),
            _ => None,
        })
    }

    fn remotes(&self) -> impl Iterator<Item = &Arc<Remote>> {
        self.issuers.iter().filter_map(|issuer| match &issuer.asked {
            Some(Asked::Keys(remote)) => Some(remote),
            _ => None,
        })
    }

    /// Whether the keys that it fetches are in use.
    pub(super) fn uses(&self, remote: &Remote) -> bool {
        self.remotes().any(|used| std::ptr::eq(&raw const **used, &raw const *remote))
    }

    /// How it stands with the keys that are fetched for the issuer `name`: `{keys, fetched_at, failed}`; null for an
    /// issuer whose keys are in a file.
    pub fn fetched(&self, name: &str) -> Value {
        let issuer = self.issuers.iter().find(|issuer| *issuer.terms.issuer == *name);
        match issuer.and_then(|issuer| issuer.asked.as_ref()) {
            Some(Asked::Keys(remote)) => remote.shown(),
            _ => Value::Null,
        }
    }
}

impl Current {
    /// Begins to fetch the keys of the issuers in use and to keep them new; from then on opaque tokens can be asked
    /// about. Those that were taken over from other issuers go on as they were. The tasks end when nothing in use has
    /// the issuer that they were started for.
    pub fn begin(self: &Arc<Self>, means: &Means) {
        let issuers = self.load_full();
        if let Some(introspector) = issuers.introspector() {
            introspector.start(means);
        }
        if let Some(shared) = issuers.shared_keys().filter(|shared| shared.wants_keeping()) {
            means.runtime.spawn(shared.keep(self.clone()));
        }
        for remote in issuers.remotes().filter(|remote| remote.wants_keeping()) {
            means.runtime.spawn(remote.clone().keep(self.clone(), means.clone()));
        }
    }

    /// [`begin`](Self::begin), then waits until each issuer was tried once, three seconds at most.
    pub async fn start(self: &Arc<Self>, means: &Means) {
        self.begin(means);
        let issuers = self.load_full();
        futures_util::future::join_all(issuers.remotes().map(|remote| remote.first())).await;
    }

    /// Whether any of the issuers in use must be asked by network.
    pub fn is_remote(&self) -> bool {
        self.load().issuers.iter().any(|issuer| issuer.asked.is_some())
    }

    /// As [`Issuers::verify`]; waits only where its issuer must be asked, and then within bounds: three seconds for
    /// keys, once in ten seconds for everybody; five for what an opaque token stands for. May be dropped at any time.
    ///
    /// # Errors
    /// See [`VerifyError`]; [`VerifyError::is_unavailable`] where it cannot be told now.
    pub async fn verify(&self, text: &str, now: UnixTime) -> Result<Arc<KnownToken>, VerifyError> {
        self.asking(text, now, |issuers| issuers.verify(text, now))
            .await
            .and_then(|known| unless_expired(known, now))
    }

    /// As [`Issuers::admit`], with the waits of [`verify`](Self::verify). A proof is used up only where the token is good.
    ///
    /// # Errors
    /// See [`VerifyError`].
    pub async fn admit(
        &self,
        text: &str,
        possession: &Possession,
        now: UnixTime,
    ) -> Result<Admitted, VerifyError> {
        self.verify(text, now).await?.admit(possession, &self.load().replays, now)
    }

    /// As [`Issuers::admit_own`], where a key of ours that is not known is looked for in the store.
    ///
    /// # Errors
    /// See [`VerifyError`].
    pub async fn admit_own(
        &self,
        text: &str,
        possession: &Possession,
        now: UnixTime,
    ) -> Result<Admitted, VerifyError> {
        let known = self.asking(text, now, |issuers| issuers.verify_own_tolerating_expiry(text, now)).await?;
        unless_expired(known, now)?.admit(possession, &self.load().replays, now)
    }

    /// As [`Issuers::verify_own_tolerating_expiry`], with the same wait.
    ///
    /// # Errors
    /// See [`VerifyError`]; never [`VerifyError::Expired`].
    pub async fn verify_own_tolerating_expiry(
        &self,
        text: &str,
        now: UnixTime,
    ) -> Result<Arc<KnownToken>, VerifyError> {
        self.asking(text, now, |issuers| issuers.verify_own_tolerating_expiry(text, now)).await
    }

    /// As [`Issuers::verify_statement`]; waits for its issuer's keys as [`verify`](Self::verify) does.
    ///
    /// # Errors
    /// See [`VerifyError`].
    pub async fn verify_statement(
        &self,
        text: &str,
        bytes_max: usize,
        now: UnixTime,
    ) -> Result<Stated, VerifyError> {
        let (error, asked) = {
            let issuers = self.load();
            match issuers.verify_statement(text, bytes_max, now) {
                Ok(stated) => return Ok(stated),
                Err(error) => {
                    let asked = issuers.whom_to_ask(text, &error, now);
                    (error, asked)
                }
            }
        };
        match asked {
            Some(Asked::Keys(remote)) if remote.refetched().await => {
                self.load().verify_statement(text, bytes_max, now)
            }
            _ => Err(error),
        }
    }

    /// As [`Issuers::verify_at_any_time`], with the waits of [`verify`](Self::verify).
    ///
    /// # Errors
    /// See [`VerifyError`]; none about the time.
    pub async fn verify_at_any_time(
        &self,
        text: &str,
        now: UnixTime,
    ) -> Result<Arc<KnownToken>, VerifyError> {
        self.asking(text, now, |issuers| issuers.verify_at_any_time(text, now)).await
    }

    async fn asking(
        &self,
        text: &str,
        now: UnixTime,
        verify: impl Fn(&Issuers) -> Result<Arc<KnownToken>, VerifyError>,
    ) -> Result<Arc<KnownToken>, VerifyError> {
        let (error, asked) = {
            let issuers = self.load();
            match verify(&issuers) {
                Ok(known) => return Ok(known),
                Err(error) => {
                    let asked = issuers.whom_to_ask(text, &error, now);
                    (error, asked)
                }
            }
        };
        match asked {
            None => Err(error),
            Some(Asked::Token(introspector)) => introspector.ask(text, now).await,
            // A gateway may have begun to sign with a key that we have not seen yet. While the store cannot be asked,
            // it cannot be told whether this is such a token.
            Some(Asked::Own(shared)) => match shared.looked().await {
                Look::Done => verify(&self.load()),
                Look::Failed => Err(VerifyError::Unavailable),
            },
            Some(Asked::Keys(remote)) => match remote.refetched().await {
                true => verify(&self.load()),
                false => Err(error),
            },
        }
    }

    /// As [`Issuers::explain`]; an opaque token is asked about, and no keys are fetched.
    pub async fn explain(
        &self,
        text: &str,
        now: UnixTime,
    ) -> (Vec<(Step, String)>, Result<VerifiedToken, VerifyError>) {
        let issuers = self.load_full();
        let (mut steps, verdict) = issuers.explain(text, now);
        let Err(error) = &verdict else { return (steps, verdict) };
        let Some(Asked::Token(introspector)) = issuers.whom_to_ask(text, error, now) else {
            return (steps, verdict);
        };
        steps.passed(Step::Issuer, format_args!("{:?}, by introspection", introspector.name()));
        let verdict = introspector.ask(text, now).await.and_then(|known| unless_expired(known, now));
        if let Ok(known) = &verdict {
            steps.passed(Step::Signature, format_args!("the issuer says that it is active"));
            steps.passed(Step::Expiry, format_args!("{:?}", known.token.expires_at));
        }
        (steps, verdict.map(|known| known.token.clone()))
    }
}

//! Where rooms that do not know each other are put together.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};

use crate::admin::Admin;
use crate::answer::{Body, Interim, Problem};
use crate::clock::{Clock, UnixTime};
use crate::endpoint::{self, Issued, LogUnavailable, SigningFailed, Unstated, Unverified};
use crate::fleet;
use crate::gateway::{AtDoor, Gateway};
use crate::issuer::{self, Admitted, KnownToken, Stated};
use crate::revocation::{self, Kind, Revocation, Selector, TokenKeys};
use crate::route::Peer;
use crate::server::{Drain, Handler, HeadFacts};
use crate::store::{Registry, Store, Trail};
use crate::telemetry::{Metrics, Sample};
use crate::token::{Claims, Possession, Proof, TokenType, VerifiedToken, VerifyError};

/// Clients' connections end in the gateway.
#[derive(Clone)]
pub(super) struct GatewayHandler(pub(super) AtDoor);

impl Handler for GatewayHandler {
    // Not `async`: each layer of that would copy the request twice.
    fn handle(
        &self,
        peer: Peer,
        verdict: Result<HeadFacts, Problem>,
        request: Request<Body>,
        interim: &Interim,
    ) -> impl Future<Output = Response<Body>> + Send {
        self.0.serve(peer, verdict.map(|_| ()), request, interim)
    }
}

/// The admin listener's connections end in the admin API.
#[derive(Clone)]
pub(super) struct AdminHandler(pub(super) Admin);

impl Handler for AdminHandler {
    async fn handle(
        &self,
        peer: Peer,
        verdict: Result<HeadFacts, Problem>,
        request: Request<Body>,
        _: &Interim,
    ) -> Response<Body> {
        self.0.serve(peer, verdict.err(), request).await
    }
}

/// The store's part in the audit trail.
pub(super) fn trail_of(store: &Arc<dyn Store>) -> Arc<dyn Trail> {
    store.clone()
}

/// The store's part in judging own tokens.
pub(super) fn registry_of(store: &Arc<dyn Store>) -> Arc<dyn Registry> {
    store.clone()
}

/// The issuers, as the endpoints see them.
pub(super) struct Tokens(Arc<issuer::Current>);

impl Tokens {
    pub(super) fn new(issuers: Arc<issuer::Current>) -> Self {
        Self(issuers)
    }
}

/// The token of one that is known; a copy, for the endpoints keep it.
fn verified(known: Result<Arc<KnownToken>, VerifyError>) -> Result<Arc<VerifiedToken>, Unverified> {
    match known {
        Ok(known) => Ok(Arc::new(known.token.clone())),
        Err(error) => Err(unverified(&error)),
    }
}

fn unverified(error: &VerifyError) -> Unverified {
    match error {
        error if error.is_expired() => Unverified::Expired,
        error if error.is_unavailable() => Unverified::Unavailable,
        error if error.is_about_possession() => Unverified::Unheld(Box::new(error.to_problem())),
        _ => Unverified::Invalid,
    }
}

impl endpoint::Tokens for Tokens {
    fn admit_own<'a>(
        &'a self,
        text: &'a str,
        possession: &'a Possession,
        now: UnixTime,
    ) -> BoxFuture<'a, Result<Arc<VerifiedToken>, Unverified>> {
        Box::pin(
            async move { verified(self.0.admit_own(text, possession, now).await.map(Admitted::into_known)) },
        )
    }

    fn take_proof(&self, proof: &Proof, now: UnixTime) -> Result<(), Unverified> {
        self.0.load().take_proof(proof, now).map_err(|error| unverified(&error))
    }

    fn verify_own_tolerating_expiry<'a>(
        &'a self,
        text: &'a str,
        now: UnixTime,
    ) -> BoxFuture<'a, Result<Arc<VerifiedToken>, Unverified>> {
        Box::pin(async move { verified(self.0.verify_own_tolerating_expiry(text, now).await) })
    }

    fn verify<'a>(
        &'a self,
        text: &'a str,
        now: UnixTime,
    ) -> BoxFuture<'a, Result<Arc<VerifiedToken>, Unverified>> {
        Box::pin(async move { verified(self.0.verify(text, now).await) })
    }

    fn verify_for_revoking<'a>(
        &'a self,
        text: &'a str,
        now: UnixTime,
    ) -> BoxFuture<'a, Result<Arc<VerifiedToken>, Unverified>> {
        Box::pin(async move {
            let known = self.0.verify_at_any_time(text, now).await;
            verified(known.and_then(|known| match known.is_expired(now) {
                true => Err(VerifyError::Expired),
                false => Ok(known),
            }))
        })
    }

    fn verify_statement<'a>(
        &'a self,
        text: &'a str,
        now: UnixTime,
    ) -> BoxFuture<'a, Result<Stated, Unstated>> {
        Box::pin(
            async move { self.0.verify_statement(text, text.len(), now).await.map_err(Unstated::Invalid) },
        )
    }

    fn lifetime_max(&self, issuer: &str) -> Duration {
        self.0.load().lifetime_max(issuer).unwrap_or_default()
    }

    fn issue(&self, grant: &endpoint::Grant<'_>) -> Result<Issued, SigningFailed> {
        let issuers = self.0.load();
        let own = issuers.own().ok_or(SigningFailed)?;
        let scopes: Vec<Box<str>> = grant.scope.split_ascii_whitespace().map(Into::into).collect();
        let granted = issuer::Grant {
            subject: grant.subject,
            session: grant.session,
            client: grant.client,
            token_id: grant.token_id,
            issued_at: grant.issued_at,
            expires_at: grant.expires_at,
            fresh: grant.fresh,
            binding: grant.binding,
            scopes: &scopes,
            extra: grant.claims,
        };
        let text = match grant.token_type {
            TokenType::Access => own.issue_access(&granted),
            TokenType::Refresh => own.issue_refresh(&granted),
        };
        let text = text.map_err(|_| SigningFailed)?;
        Ok(Issued { text, key_id: Some(own.keyring().signing_key().id().into()) })
    }

    fn sign_introspection(
        &self,
        audience: &str,
        view: &Claims,
        now: UnixTime,
    ) -> Result<Option<String>, SigningFailed> {
        match self.0.load().own() {
            Some(own) => own.sign_introspection(audience, view, now).map_err(|_| SigningFailed),
            None => Ok(None),
        }
    }

    fn jwks(&self, now: UnixTime) -> Bytes {
        self.0.load().jwks_json(now).unwrap_or_else(|| Bytes::from_static(b"{\"keys\":[]}"))
    }
}

/// The log and the blocklist, as the endpoints see them.
pub(super) struct Revocations(fleet::Log);

impl Revocations {
    pub(super) fn new(log: fleet::Log) -> Self {
        Self(log)
    }
}

impl endpoint::Revocations for Revocations {
    fn append(&self, batch: Vec<Revocation>) -> BoxFuture<'_, Result<u64, LogUnavailable>> {
        Box::pin(async move {
            self.0.append(batch).await.map(|ack| ack.sequence).map_err(|error| {
                tracing::warn!(%error, "a revocation was not accepted");
                LogUnavailable
            })
        })
    }

    fn refused_by(&self, keys: &TokenKeys, _now: UnixTime) -> Vec<Kind> {
        let kind = |hit: revocation::Hit| match hit {
            revocation::Hit::Token => Kind::Token,
            revocation::Hit::Session => Kind::Session,
            revocation::Hit::Subject => Kind::Subject,
            revocation::Hit::Client => Kind::Client,
            revocation::Hit::Key => Kind::Key,
            revocation::Hit::Issuer => Kind::Issuer,
            revocation::Hit::Claim => Kind::Claim("".into()),
        };
        self.0.blocklist().refused_by(keys).into_iter().map(kind).collect()
    }

    fn in_force_until(&self, selector: &Selector) -> Option<UnixTime> {
        self.0.blocklist().get(selector).map(|entry| entry.expires_at)
    }

    fn sequence(&self) -> u64 {
        self.0.sequence()
    }

    fn trail_caught_up(&self, sequence: u64) -> BoxFuture<'_, ()> {
        Box::pin(self.0.trail_has(sequence))
    }
}

/// Figures that other rooms keep themselves.
pub(super) fn sample(
    metrics: &Metrics,
    log: &fleet::Log,
    gateway: &Gateway,
    drain: &Drain,
    clock: &Arc<dyn Clock>,
) {
    let (log, gateway, drain, clock) = (log.clone(), gateway.clone(), drain.clone(), clock.clone());
    metrics.sample(Box::new(move || {
        let setup = gateway.setup();
        let issuers = setup.issuers.load();
        let mut samples = Vec::new();
        for (kind, count) in log.blocklist().counts().each() {
            samples.push(Sample {
                name: "blocklist_entries",
                help: "Entries of the blocklist",
                label: Some(("kind", kind)),
                value: count as f64,
                counter: false,
            });
        }
        let stats = log.stats();
        let available = u8::from(log.health() == revocation::Health::Ready);
        let age = stats.snapshot_at.map_or(f64::NAN, |at| clock.now().since(at).as_secs_f64());
        let gauges = [
            ("blocklist_bytes", "Memory of the blocklist", log.blocklist().memory_bytes() as f64),
            ("log_sequence", "The last sequence in force", stats.sequence as f64),
            ("log_available", "1 while the log can be written, else 0", f64::from(available)),
            ("log_segments", "Segments of the log on disk", stats.segments as f64),
            ("log_bytes", "Bytes of the log on disk", stats.segment_bytes as f64),
            ("trail_position", "How far the audit trail has been fed", stats.trail_position as f64),
            ("snapshot_age_seconds", "Since the newest snapshot was taken", age),
            ("connections", "Open client connections", drain.open() as f64),
            ("token_cache_entries", "Verified tokens kept", issuers.cached_tokens() as f64),
        ];
        let counters = [
            ("token_cache_hits", "Tokens found verified", issuers.cache_hits()),
            ("token_cache_misses", "Tokens verified anew", issuers.cache_misses()),
            ("connections_accepted", "Client connections let in", drain.accepted_total()),
            ("connections_turned_away", "Client connections over the limit", drain.turned_away_total()),
        ];
        let linked = log.link().map(|link| {
            let is = |flag: bool| f64::from(u8::from(flag));
            [
                ("fleet_connected", "1 while the shared log is followed, else 0", is(link.connected)),
                ("fleet_lag_seconds", "How old the knowledge of the shared log is", link.lag.as_secs_f64()),
                ("fleet_stale", "1 when that is more than max_staleness, else 0", is(link.stale)),
                ("fleet_outbox", "Entries of the log not looked at for forwarding", link.outbox as f64),
            ]
        });
        let gauges = gauges.into_iter().chain(linked.into_iter().flatten());
        let gauges = gauges.map(|(name, help, value)| (name, help, value, false));
        let counters = counters.into_iter().map(|(name, help, value)| (name, help, value as f64, true));
        samples.extend(gauges.chain(counters).map(|(name, help, value, counter)| Sample {
            name,
            help,
            label: None,
            value,
            counter,
        }));
        samples
    }));
}

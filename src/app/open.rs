//! What a process opens before it serves: the state directory, the store, the log, the keys.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

use crate::admin;
use crate::clock::Clock;
use crate::config::Settings;
use crate::fleet;
use crate::gateway::Live;
use crate::issuer::settings::SELF;
use crate::issuer::{self, Issuers, Keyring, SharedKeys};
use crate::revocation::{self, GatewayId, IssuerTerm, Opening, RealDisk};
use crate::store::{self, KnownGateway, Store};
use crate::telemetry::Metrics;

/// The log as one of a fleet, where there is one; the link is made as soon as the engine answers.
///
/// # Errors
/// When the files of the engine's TLS cannot be used.
pub(super) fn join_fleet(
    settings: &Settings,
    (log, must_join): (revocation::Handle, bool),
    store: &Arc<dyn Store>,
    live: &Live,
    control: &Runtime,
    clock: &Arc<dyn Clock>,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<fleet::Log> {
    let Some(fleet) = &settings.fleet else { return Ok(fleet::Log::alone(log)) };
    let engine = fleet::open(fleet).context("cannot use the engine of [revocation.cluster]")?;
    let (live, blocklist) = (live.clone(), log.blocklist().clone());
    let linking = fleet::Linking {
        engine,
        settings: fleet.clone(),
        clock: clock.clone(),
        metrics: metrics.clone(),
        on_absorbed: Box::new(move || live.recheck(&blocklist)),
        losing: fleet::Losing {
            trail: super::ports::trail_of(store),
            issuers: issuer_terms(settings),
            on_lost_state: settings.revocation.on_lost_state,
        },
        must_join,
    };
    Ok(fleet::Log::linked(log, linking, control.handle()))
}

/// A directory for the gateway alone; one that is there already is checked by those who use it.
pub(crate) fn make_private(dir: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot make the state directory {}", dir.display()))
}

/// The store that `[store]` names.
///
/// # Errors
/// As [`store::open`].
pub(crate) fn open_store(settings: &Settings) -> anyhow::Result<Arc<dyn Store>> {
    if let store::settings::Settings::Sqlite(path) = &settings.store
        && let Some(dir) = path.parent()
    {
        make_private(dir)?;
    }
    store::open(&settings.store).context("cannot open the store")
}

/// The log of `[state] dir`, in force when this returns; its gateway has joined the store.
///
/// # Errors
/// As [`revocation::open`]; when the store cannot be used.
pub(crate) fn open_log(
    settings: &Settings,
    control: &Runtime,
    store: &dyn Store,
    clock: &Arc<dyn Clock>,
    metrics: &Arc<Metrics>,
    projections: Vec<Box<dyn revocation::Projection>>,
) -> anyhow::Result<(revocation::Handle, Arc<revocation::Blocklist>, revocation::Report)> {
    let dir = &settings.revocation.state_dir;
    let disk = Arc::new(RealDisk::at(dir).with_context(|| format!("cannot use {}", dir.display()))?);
    let gateways = control.block_on(store.gateways()).context("cannot read the store")?;
    let own = revocation::gateway_of(&*disk);
    let (mut seen, known) = met(store.is_shared(), &gateways, own);
    if let (Some(fleet), Some(own)) = (&settings.fleet, own) {
        seen = seen.max(control.block_on(fleet::seen(fleet, own)));
    }
    // A new gateway of a fleet learns what was revoked from the others, and serves nobody before.
    let known = known && !(own.is_none() && store.is_shared() && settings.fleet.is_some());
    let fsyncs = metrics.clone();
    let (log, blocklist, report) = revocation::open(Opening {
        settings: &settings.revocation,
        disk,
        clock: clock.clone(),
        projections,
        on_fsync: Box::new(move |took| fsyncs.fsync_seconds.observe(took)),
        leeway_max: leeway_max(settings),
        seen,
        known,
        gateway: if store.is_shared() {
            None
        } else {
            gateways.last().and_then(|known| GatewayId::parse(&known.id))
        },
        issuers: issuer_terms(settings),
    })
    .context("cannot open the revocation log")?;
    let gateway = report.gateway.to_string();
    let others = gateways.iter().filter(|known| *known.id != *gateway).count();
    if store.is_shared() && others > 0 && settings.fleet.is_none() {
        tracing::warn!(
            others,
            "the store knows other gateways: what they revoke is not refused here, for there is no [revocation.cluster]"
        );
    }
    let has_own_keys = settings.auth.as_ref().is_some_and(|auth| auth.own.sealing.is_none());
    if store.is_shared() && others > 0 && has_own_keys {
        tracing::warn!(
            others,
            "the store knows other gateways, and the signing keys are files of this gateway alone: unless all have the \
             same files, each refuses the tokens of the others; set [auth] key_encryption_file on all of them (docs/keys.md)"
        );
    }
    control.block_on(store.join(&gateway)).context("cannot write to the store")?;
    tracing::info!(
        sequence = report.sequence,
        entries = report.counts.total(),
        replayed = report.replayed,
        took_ms = u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX),
        "the revocation log is in force"
    );
    Ok((log, blocklist, report))
}

/// What the store has seen of the log in this state directory (its last sequence), and whether it has met the gateway
/// that it belongs to; `own` is the id in the directory.
fn met(is_shared: bool, gateways: &[KnownGateway], own: Option<GatewayId>) -> (u64, bool) {
    let own = own.map(|id| id.to_string());
    match (is_shared, own) {
        // A store on one machine belongs to one gateway: what it has seen of any log must be in this one.
        (false, _) => {
            (gateways.iter().map(|gateway| gateway.trail_position).max().unwrap_or(0), !gateways.is_empty())
        }
        // A gateway is known by its id; what the others do is none of its concern.
        (true, Some(own)) => {
            let known = gateways.iter().find(|gateway| *gateway.id == *own);
            (known.map_or(0, |gateway| gateway.trail_position), known.is_some())
        }
        // A new gateway beside others, or one of these after a loss: nothing tells. Either way it does not know what
        // was revoked before, so `on_lost_state` decides (docs/store.md).
        (true, None) => (0, !gateways.is_empty()),
    }
}

/// The greatest leeway of all issuers.
pub(super) fn leeway_max(settings: &Settings) -> Duration {
    settings.issuers.iter().map(|issuer| issuer.leeway).max().unwrap_or_default()
}

/// Every issuer by name, with the longest that one of its tokens can live; `self` first.
fn terms(settings: &Settings) -> impl Iterator<Item = (Box<str>, Duration)> {
    let own = settings.auth.as_ref().map(|auth| (SELF.into(), auth.own.access_ttl.max(auth.own.refresh_ttl)));
    own.into_iter().chain(settings.issuers.iter().map(|issuer| ((*issuer.name).into(), issuer.max_token_ttl)))
}

/// The same, for the revocation log.
fn issuer_terms(settings: &Settings) -> Vec<IssuerTerm> {
    terms(settings).map(|(name, lifetime_max)| IssuerTerm { name, lifetime_max }).collect()
}

/// Signing keys that gateways share, and what goes with them.
pub(crate) struct Shared {
    pub(crate) keys: Arc<SharedKeys>,
    keyring: Keyring,
    nonce_secret: Zeroizing<Vec<u8>>,
}

/// The signing keys in the store, if that is where they are.
///
/// # Errors
/// When the store cannot be used, or holds keys that cannot be read here.
pub(crate) fn open_shared_keys(
    settings: &Settings,
    control: &Runtime,
    store: &Arc<dyn Store>,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Option<Shared>> {
    control.block_on(find_shared_keys(settings, store, clock))
}

/// The same, for whoever must not block.
///
/// # Errors
/// As [`open_shared_keys`].
pub(super) async fn find_shared_keys(
    settings: &Settings,
    store: &Arc<dyn Store>,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Option<Shared>> {
    let own = settings.auth.as_ref().map(|auth| &auth.own);
    let Some((own, sealing)) = own.and_then(|own| Some((own, own.sealing.clone()?))) else {
        return Ok(None);
    };
    let safe =
        store.clone().safe().context("[auth] key_encryption_file needs a store that gateways share")?;
    let keys = Arc::new(SharedKeys::new(own, sealing, safe, clock.clone()));
    let (keyring, nonce_secret) = keys.open().await.context("cannot use the signing keys in the store")?;
    Ok(Some(Shared { keys, keyring, nonce_secret }))
}

/// Everybody whose tokens are accepted.
///
/// # Errors
/// All that is wrong with their keys.
pub(crate) fn load_issuers(
    settings: &Settings,
    clock: &dyn Clock,
    shared: Option<&Shared>,
) -> anyhow::Result<Issuers> {
    issuers_after(settings, None, clock, shared)
}

/// The same in place of `before`, of which is taken over what has not changed.
///
/// # Errors
/// All that is wrong with their keys.
pub(super) fn issuers_after(
    settings: &Settings,
    before: Option<&Issuers>,
    clock: &dyn Clock,
    shared: Option<&Shared>,
) -> anyhow::Result<Issuers> {
    let mut secret = Zeroizing::new(vec![0; 32]);
    match shared {
        // A client may show the nonce of one gateway to the next.
        Some(shared) => secret.clone_from(&shared.nonce_secret),
        None => getrandom::fill(&mut secret).context("there is no randomness to be had")?,
    }
    let setup = issuer::Setup {
        own: settings.auth.as_ref().map(|auth| &auth.own),
        external: &settings.issuers,
        revocable: &settings.revocation.claims,
        token_cache: settings.revocation.token_cache,
        token_bytes_max: settings.limits.token_bytes_max,
        nonce_secret: settings.gateway.dpop_nonce.then_some(&secret[..]),
        shared: shared.map(|shared| (&shared.keyring, &shared.keys)),
    };
    let (issuers, notices) = Issuers::load_after(&setup, before, clock.now()).map_err(|errors| {
        let words: Vec<String> =
            errors.into_iter().map(|error| format!("{:#}", anyhow::Error::from(error))).collect();
        anyhow!(words.join("\n"))
    })?;
    for notice in notices {
        tracing::warn!(%notice, "a key of an issuer cannot be used");
    }
    Ok(issuers)
}

/// What can be revoked by.
pub(crate) fn revocation_scope(settings: &Settings) -> admin::RevocationScope {
    let issuers = terms(settings).map(|(name, lifetime_max)| admin::Issuer { name, lifetime_max }).collect();
    admin::RevocationScope { issuers, claims: settings.revocation.claims.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_store_knows_a_gateway_by_its_id() {
        let (one, two) = (GatewayId([1; 16]), GatewayId([2; 16]));
        let known =
            |id: GatewayId, trail_position| KnownGateway { id: id.to_string().into(), trail_position };
        let both = [known(one, 7), known(two, 900)];
        assert_eq!(met(false, &both, Some(one)), (900, true), "of one machine: the store's is ours");
        assert_eq!(met(false, &[], None), (0, false));
        assert_eq!(met(true, &both, Some(one)), (7, true));
        assert_eq!(
            met(true, &both[1..], Some(one)),
            (0, false),
            "a log of ours that this store has not seen"
        );
        assert_eq!(met(true, &both, None), (0, true), "new, or lost");
        assert_eq!(met(true, &[], None), (0, false), "the first of all");
    }
}

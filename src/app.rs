//! Assembly, and the life of the process: load, replay the log, bind, serve, drain, stop.

mod ports;
mod shown;

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

use crate::access::Limiters;
use crate::admin::{self, Admin, AdminToken};
use crate::clock::{Clock, SystemClock};
use crate::config::Settings;
use crate::endpoint::{self, Endpoints};
use crate::fetch::Fetcher;
use crate::gateway::{self, ControlPlane, Gateway, Live};
use crate::issuer::settings::SELF;
use crate::issuer::{self, Issuers, Keyring, SharedKeys};
use crate::revocation::{self, GatewayId, Health, IssuerTerm, Opening, RealDisk};
use crate::server::{self, Drain, Inherited, Layers, Listener, Rules};
use crate::store::{self, KnownGateway, Store};
use crate::telemetry::{AccessLog, Metrics};
use crate::tls::Acceptor;
use crate::upstream::Upstreams;

/// Threads of the control plane: endpoints, store, admin; password hashes have threads of their own.
const CONTROL_THREADS: usize = 2;
/// How often expired tokens and sessions are forgotten.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
/// How long the admin listener's own connections may take to end.
const ADMIN_DRAIN: Duration = Duration::from_secs(1);

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// What keeps the gateway from starting, in words for the operator.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    crate::telemetry::start_events();
    let running = start(settings)?;
    running.wait()
}

/// A gateway that serves.
pub struct Running {
    control: Runtime,
    data: Runtime,
    clear: Vec<SocketAddr>,
    admin: SocketAddr,
    drain: Drain,
    admin_drain: Drain,
    drain_timeout: Duration,
    log: revocation::Handle,
    access_log: AccessLog,
}

/// Starts a gateway: when this returns, every acknowledged revocation is in force and clients are served.
///
/// # Errors
/// What keeps the gateway from starting, in words for the operator.
pub fn start(settings: Settings) -> anyhow::Result<Running> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let metrics = Arc::new(Metrics::new());
    let control = runtime("control", CONTROL_THREADS)?;
    let data = runtime("data", settings.server.workers)?;

    // The truth first: nothing is served before it is in force.
    make_private(&settings.revocation.state_dir)?;
    let store = open_store(&settings)?;
    let live = Live::new(&metrics);
    let projections = vec![live.projection()];
    let (log, blocklist, _) = open_log(&settings, &control, &*store, &clock, &metrics, projections)?;
    control.spawn({
        let (live, clock) = (live.clone(), clock.clone());
        async move { live.keep_expiring(clock).await }
    });
    control.spawn(revocation::audit::project(log.clone(), ports::trail_of(&store)));

    let shared = open_shared_keys(&settings, &control, &store, &clock)?;
    let issuers = Arc::new(issuer::Current::new(load_issuers(&settings, &*clock, shared.as_ref())?));
    if issuers.is_remote() {
        let means = issuer::Means {
            fetcher: Fetcher::new(None).context("cannot use TLS")?,
            runtime: control.handle().clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
        };
        control.block_on(issuers.start(&means));
    }
    let admin_token = AdminToken::load_or_make(&settings.admin.token_file)?;
    let endpoints = Arc::new(
        Endpoints::new(endpoint::Parts {
            auth: settings.auth.clone(),
            clients: settings.clients.clone(),
            realm: settings.gateway.realm.clone(),
            revocable_claims: settings.revocation.claims.clone(),
            token_bytes_max: settings.limits.token_bytes_max,
            admin_token: Some(admin_token.secret()),
            store: store.clone(),
            tokens: Arc::new(ports::Tokens::new(issuers.clone())),
            revocations: Arc::new(ports::Revocations::new(log.clone())),
            clock: clock.clone(),
        })
        .context("cannot start the auth endpoints")?,
    );
    control.spawn({
        let endpoints = endpoints.clone();
        async move { endpoints.keep_pruned(PRUNE_EVERY).await }
    });

    let access_log = AccessLog::start(settings.gateway.access_log, metrics.clone())
        .context("cannot start the access log's thread")?;
    let setup = gateway::Setup::new(
        gateway::Parts {
            settings: settings.gateway.clone(),
            limits: settings.limits.clone(),
            forward: settings.forward.clone(),
            issuers: issuers.clone(),
            upstreams: Upstreams::new(&settings.upstreams, control.handle()),
            endpoints,
            access_log: access_log.clone(),
            cut_live_connections: settings.revocation.cut_live_connections,
            limiters: Limiters::default(),
        },
        settings.routes.iter().cloned().map(Arc::new).collect(),
        &metrics,
    );
    let gateway = Gateway::new(
        setup,
        blocklist.clone(),
        live.clone(),
        ports::registry_of(&store),
        ControlPlane::new(control.handle().clone(), gateway::AT_ONCE),
        metrics.clone(),
        clock.clone(),
    );

    let (drain, admin_drain) = (Drain::new(), Drain::new());
    ports::sample(&metrics, &log, &issuers, &drain, &clock);
    let admin = Admin::new(admin::Parts {
        token: admin_token,
        scope: admin_scope(&settings),
        log: log.clone(),
        blocklist,
        store,
        gateway: gateway.clone(),
        metrics,
        not_ready: not_ready(&log, &drain),
        live_connections: Box::new(move || live.open()),
        config: {
            let (shown, issuers) = (shown::settings(&settings), issuers.clone());
            Box::new(move || shown::with_fetched(shown.clone(), &issuers.load()))
        },
        clock,
    });

    let rules = Rules::new(&settings.server, &settings.limits).live();
    let admin_rules =
        Rules { max_connections: Some(1024), ..Rules::new(&settings.server, &settings.limits) }.live();
    let mut inherited = Inherited::take();
    let tls = settings.server.tls.as_ref().map(|tls| accept_tls(&mut inherited, tls)).transpose()?;
    let admin_listener =
        bind(&mut inherited, "admin", &server::settings::Listen::Tcp(settings.admin.listen))?;
    let admin_address = admin_listener.local_addr().unwrap_or(settings.admin.listen);
    let listeners = settings.server.listen.iter().map(|listen| bind(&mut inherited, "clear", listen));
    let listeners = listeners.collect::<anyhow::Result<Vec<_>>>()?;
    let clear = listeners.iter().filter_map(Listener::local_addr).collect();
    for listener in inherited.left() {
        tracing::warn!(%listener, "a socket was handed over that no listen names; it is closed");
    }
    drop(inherited);
    if let Some((_, layers)) = &tls
        && let Some(acceptor) = layers.tls.clone()
    {
        control.spawn(acceptor.keep_fresh());
    }
    control.spawn(server::serve(
        admin_listener,
        Layers::default(),
        ports::AdminHandler(admin),
        admin_rules,
        admin_drain.clone(),
    ));
    let listeners = listeners
        .into_iter()
        .map(|listener| (listener, Layers { proxies: settings.server.proxies.clone(), ..Layers::default() }));
    let (secured, layers) = tls.unwrap_or_default();
    let layers = Layers { proxies: settings.server.proxies.clone(), ..layers };
    let secured = secured.into_iter().map(|listener| (listener, layers.clone()));
    for (listener, layers) in listeners.chain(secured) {
        let handler = ports::GatewayHandler(gateway.clone());
        data.spawn(server::serve(listener, layers, handler, rules.clone(), drain.clone()));
    }
    tracing::info!(config = %settings.path.display(), "serving");
    let drain_timeout = settings.server.drain_timeout;
    Ok(Running {
        control,
        data,
        clear,
        admin: admin_address,
        drain,
        admin_drain,
        drain_timeout,
        log,
        access_log,
    })
}

impl Running {
    /// Where clients connect in clear text, Unix sockets left out, in the order of the configuration.
    pub fn listening(&self) -> &[SocketAddr] {
        &self.clear
    }

    /// Where the admin API listens.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Serves until SIGTERM or SIGINT, then stops. A second signal does not wait any longer.
    ///
    /// # Errors
    /// When signals cannot be listened for.
    pub fn wait(self) -> anyhow::Result<()> {
        let mut signals = self.control.block_on(async { Signals::listen() })?;
        let name = self.control.block_on(signals.next());
        tracing::info!(signal = name, timeout_s = self.drain_timeout.as_secs(), "draining");
        let impatient = async move {
            signals.next().await;
        };
        self.end(impatient)
    }

    /// Stops accepting, lets what runs finish within `drain_timeout`, cuts the rest.
    ///
    /// # Errors
    /// None at present.
    pub fn stop(self) -> anyhow::Result<()> {
        self.end(std::future::pending())
    }

    fn end(self, impatient: impl Future<Output = ()>) -> anyhow::Result<()> {
        self.control.block_on(async {
            let cut = tokio::select! {
                cut = self.drain.stop(self.drain_timeout) => cut,
                () = impatient => self.drain.stop(Duration::ZERO).await,
            };
            if cut > 0 {
                tracing::warn!(connections = cut, "cut what did not end in time");
            }
            // The admin listener stays up to the end, so that /readyz can be seen to fail.
            self.admin_drain.stop(ADMIN_DRAIN).await;
            self.log.close().await;
        });
        self.access_log.close();
        self.data.shutdown_timeout(ADMIN_DRAIN);
        self.control.shutdown_timeout(ADMIN_DRAIN);
        tracing::info!("stopped");
        Ok(())
    }
}

/// The signals that end the gateway.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                // Unheard it would end the process.
                _ = self.hangup.recv() => {
                    tracing::warn!("SIGHUP: reloading is not available yet; restart to read the configuration anew");
                }
            }
        }
    }
}

fn runtime(name: &'static str, threads: usize) -> anyhow::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(threads.max(1))
        .thread_name(name)
        .enable_all()
        .build()
        .with_context(|| format!("cannot start the threads of the {name} plane"))
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
    let (seen, known) = met(store.is_shared(), &gateways, revocation::gateway_of(&*disk));
    let fsyncs = metrics.clone();
    let (log, blocklist, report) = revocation::open(Opening {
        settings: &settings.revocation,
        disk,
        clock: clock.clone(),
        projections,
        on_fsync: Box::new(move |took| fsyncs.fsync_seconds.observe(took)),
        leeway_max: settings.issuers.iter().map(|issuer| issuer.leeway).max().unwrap_or_default(),
        seen,
        known,
        issuers: terms(settings).map(|(name, lifetime_max)| IssuerTerm { name, lifetime_max }).collect(),
    })
    .context("cannot open the revocation log")?;
    let gateway = report.gateway.to_string();
    let others = gateways.iter().filter(|known| *known.id != *gateway).count();
    if store.is_shared() && others > 0 {
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

/// Every issuer by name, with the longest that one of its tokens can live; `self` first.
fn terms(settings: &Settings) -> impl Iterator<Item = (Box<str>, Duration)> {
    let own = settings.auth.as_ref().map(|auth| (SELF.into(), auth.own.access_ttl.max(auth.own.refresh_ttl)));
    own.into_iter().chain(settings.issuers.iter().map(|issuer| ((*issuer.name).into(), issuer.max_token_ttl)))
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
    let own = settings.auth.as_ref().map(|auth| &auth.own);
    let Some((own, sealing)) = own.and_then(|own| Some((own, own.sealing.clone()?))) else {
        return Ok(None);
    };
    let safe =
        store.clone().safe().context("[auth] key_encryption_file needs a store that gateways share")?;
    let keys = Arc::new(SharedKeys::new(own, sealing, safe, clock.clone()));
    let (keyring, nonce_secret) =
        control.block_on(keys.open()).context("cannot use the signing keys in the store")?;
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
    let (issuers, notices) = Issuers::load(&setup, clock.now()).map_err(|errors| {
        let words: Vec<String> =
            errors.into_iter().map(|error| format!("{:#}", anyhow::Error::from(error))).collect();
        anyhow!(words.join("\n"))
    })?;
    for notice in notices {
        tracing::warn!(%notice, "a key of an issuer cannot be used");
    }
    Ok(issuers)
}

fn admin_scope(settings: &Settings) -> Box<dyn Fn() -> admin::RevocationScope + Send + Sync> {
    let scope = revocation_scope(settings);
    Box::new(move || scope.clone())
}

/// What can be revoked by.
pub(crate) fn revocation_scope(settings: &Settings) -> admin::RevocationScope {
    let issuers = terms(settings).map(|(name, lifetime_max)| admin::Issuer { name, lifetime_max }).collect();
    admin::RevocationScope { issuers, claims: settings.revocation.claims.clone() }
}

/// Why requests should not come here.
fn not_ready(log: &revocation::Handle, drain: &Drain) -> Box<dyn Fn() -> Vec<String> + Send + Sync> {
    let (log, drain) = (log.clone(), drain.clone());
    Box::new(move || {
        let mut reasons = Vec::new();
        if drain.phase() != server::Phase::Serving {
            reasons.push("draining".to_owned());
        }
        match log.health() {
            Health::Ready => {}
            Health::LogUnavailable { since, why } => {
                reasons
                    .push(format!("the revocation log cannot be written since {}: {why}", since.rfc3339()));
            }
            Health::Closed => reasons.push("the revocation log is closed".to_owned()),
        }
        reasons
    })
}

/// The listeners of `[server.tls]`, and what lies between them and HTTP.
fn accept_tls(
    inherited: &mut Inherited,
    tls: &server::settings::Tls,
) -> anyhow::Result<(Vec<Listener>, Layers)> {
    let acceptor =
        Acceptor::load(tls.files.clone()).context("cannot use the certificates of [server.tls]")?;
    let listeners =
        tls.listen.iter().map(|listen| bind(inherited, "tls", listen)).collect::<anyhow::Result<_>>()?;
    Ok((listeners, Layers { tls: Some(acceptor), hsts: tls.hsts.clone(), proxies: None }))
}

fn bind(
    inherited: &mut Inherited,
    name: &'static str,
    listen: &server::settings::Listen,
) -> anyhow::Result<Listener> {
    let listener = inherited.or_bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    tracing::info!(listener = name, address = %listener, "listening");
    Ok(listener)
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

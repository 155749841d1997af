//! Assembly, and the life of the process: load, replay the log, bind, serve, reload, drain, stop.

mod build;
mod changes;
mod listeners;
mod open;
mod ports;
mod reload;
mod shown;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::admin::{self, Admin, AdminToken};
use crate::clock::{Clock, SystemClock};
use crate::config::Settings;
use crate::fleet;
use crate::gateway::{self, ControlPlane, Gateway, Live};
use crate::issuer;
use crate::revocation::{self, Health};
use crate::server::{self, Drain, Inherited};
use crate::telemetry::{AccessLog, Metrics};
use crate::watch::Watch;

use build::Base;
use listeners::Listeners;
use open::join_fleet;
use reload::Trigger;

pub(crate) use open::{
    Shared, load_issuers, make_private, open_log, open_shared_keys, open_store, revocation_scope,
};

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

/// A gateway that serves. Whoever has it reloads it: [`Running::wait`] does.
pub struct Running {
    control: Runtime,
    data: Runtime,
    base: Base,
    settings: Arc<ArcSwap<Settings>>,
    gateway: Gateway,
    admin_token: AdminToken,
    listeners: Listeners,
    /// Once there is an issuer that must be asked by network.
    means: Option<issuer::Means>,
    /// The files of the configuration.
    watch: Watch,
    asked: mpsc::Receiver<reload::Asked>,
    signals: Signals,
    /// What was last said of a configuration that was refused.
    refused_before: String,
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
    let (log, blocklist, report) = open_log(&settings, &control, &*store, &clock, &metrics, projections)?;
    let must_join = report.sequence == 0 && store.is_shared();
    let log = join_fleet(&settings, (log, must_join), &live, &control, &clock, &metrics)?;
    control.spawn({
        let (live, clock) = (live.clone(), clock.clone());
        async move { live.keep_expiring(clock).await }
    });
    control.spawn(revocation::audit::project((*log).clone(), ports::trail_of(&store)));

    let access_log = AccessLog::start(settings.gateway.access_log, metrics.clone())
        .context("cannot start the access log's thread")?;
    let base = Base { clock, metrics, store, log, access_log, control: control.handle().clone() };
    let shared = open_shared_keys(&settings, &control, &base.store, &base.clock)?;
    let issuers = load_issuers(&settings, &*base.clock, shared.as_ref())?;
    let issuers = Arc::new(issuer::Current::new(issuers));
    let means = if issuers.is_remote() { Some(reload::means(&base)?) } else { None };
    if let Some(means) = &means {
        control.block_on(issuers.start(means));
    }
    let admin_token = AdminToken::load_or_make(&settings.admin.token_file)?;
    let gateway = Gateway::new(
        base.setup(&settings, &issuers, &admin_token, None)?,
        blocklist.clone(),
        live.clone(),
        ports::registry_of(&base.store),
        ControlPlane::new(control.handle().clone(), gateway::AT_ONCE),
        base.metrics.clone(),
        base.clock.clone(),
        base.log.clone(),
    );
    control.spawn(keep_pruned(gateway.clone()));

    let settings = Arc::new(ArcSwap::from_pointee(settings));
    let clients = Drain::new();
    ports::sample(&base.metrics, &base.log, &gateway, &clients, &base.clock);
    let (reload, asked) = reload::way();
    let admin = Admin::new(admin::Parts {
        token: admin_token.clone(),
        scope: {
            let settings = settings.clone();
            Box::new(move || revocation_scope(&settings.load()))
        },
        log: base.log.clone(),
        blocklist,
        store: base.store.clone(),
        gateway: gateway.clone(),
        metrics: base.metrics.clone(),
        not_ready: not_ready(&base.log, &clients),
        live_connections: Box::new(move || live.open()),
        config: {
            let (settings, gateway) = (settings.clone(), gateway.clone());
            Box::new(move || {
                let shown = shown::settings(&settings.load());
                shown::with_fetched(shown, &gateway.setup().issuers.load())
            })
        },
        reload,
        clock: base.clock.clone(),
    });

    // Before anybody can take us for ready: unheard, a signal would end the process.
    let signals = control.block_on(async { Signals::listen() })?;
    let now = settings.load_full();
    let (control_handle, data_handle) = (control.handle().clone(), data.handle().clone());
    let mut listeners = Listeners::new(gateway.clone(), admin, clients, control_handle, data_handle, &now);
    let mut inherited = Inherited::take();
    let plan = listeners.plan(&now, &mut inherited)?;
    for listener in inherited.left() {
        tracing::warn!(%listener, "a socket was handed over that no listen names; it is closed");
    }
    drop(inherited);
    listeners.carry_out(plan, now.server.drain_timeout);
    tracing::info!(config = %now.path.display(), "serving");
    let watch = Watch::new(vec![now.path.clone()]);
    let refused_before = String::new();
    Ok(Running {
        control,
        data,
        base,
        settings,
        gateway,
        admin_token,
        listeners,
        means,
        watch,
        asked,
        signals,
        refused_before,
    })
}

impl Running {
    /// Where clients connect in clear text, Unix sockets left out, in the order of the configuration.
    pub fn listening(&self) -> Vec<SocketAddr> {
        self.listeners.clear_addresses()
    }

    /// Where the admin API listens.
    pub fn admin(&self) -> SocketAddr {
        self.listeners.admin_address().unwrap_or_else(|| self.settings.load().admin.listen)
    }

    /// Serves until SIGTERM or SIGINT, then stops. A second signal does not wait any longer.
    ///
    /// # Errors
    /// None at present.
    pub fn wait(mut self) -> anyhow::Result<()> {
        let control = self.control.handle().clone();
        let name = control.block_on(self.reload_until_end());
        let timeout_s = self.settings.load().server.drain_timeout.as_secs();
        tracing::info!(signal = name, timeout_s, "draining");
        self.end(true)
    }

    /// Reloads whenever it is asked to; the name of the signal that ends that.
    async fn reload_until_end(&mut self) -> &'static str {
        loop {
            tokio::select! {
                biased;
                _ = self.signals.terminate.recv() => return "SIGTERM",
                _ = self.signals.interrupt.recv() => return "SIGINT",
                _ = self.signals.hangup.recv() => drop(self.reload(Trigger::Signal).await),
                Some(answer) = self.asked.recv() => {
                    let reloaded = self.reload(Trigger::Admin).await;
                    // Whoever asked may have hung up; it is done all the same.
                    let _ = answer.send(reloaded);
                }
                () = self.watch.changed() => drop(self.reload(Trigger::Files).await),
            }
        }
    }

    /// Stops accepting, lets what runs finish within `drain_timeout`, cuts the rest.
    ///
    /// # Errors
    /// None at present.
    pub fn stop(self) -> anyhow::Result<()> {
        self.end(false)
    }

    fn end(mut self, hears_signals: bool) -> anyhow::Result<()> {
        let drain_timeout = self.settings.load().server.drain_timeout;
        drop(self.asked);
        self.listeners.let_go();
        self.control.block_on(async {
            let clients = &self.listeners.clients;
            let cut = tokio::select! {
                cut = clients.stop(drain_timeout) => cut,
                () = self.signals.end(), if hears_signals => clients.stop(Duration::ZERO).await,
            };
            if cut > 0 {
                tracing::warn!(connections = cut, "cut what did not end in time");
            }
            // The admin listener stays up to the end, so that /readyz can be seen to fail.
            self.listeners.admins.stop(ADMIN_DRAIN).await;
            self.base.log.close().await;
        });
        self.base.access_log.close();
        self.data.shutdown_timeout(ADMIN_DRAIN);
        self.control.shutdown_timeout(ADMIN_DRAIN);
        tracing::info!("stopped");
        Ok(())
    }
}

/// Forgets what has expired, for ever.
async fn keep_pruned(gateway: Gateway) {
    loop {
        tokio::time::sleep(PRUNE_EVERY).await;
        gateway.setup().endpoints.tidy().await;
    }
}

/// The signals that we hear.
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

    /// The next one that ends the gateway.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
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

/// Why requests should not come here.
fn not_ready(log: &fleet::Log, drain: &Drain) -> Box<dyn Fn() -> Vec<String> + Send + Sync> {
    let (log, drain) = (log.clone(), drain.clone());
    Box::new(move || {
        let mut reasons = Vec::new();
        if drain.phase() != server::Phase::Serving {
            reasons.push("draining".to_owned());
        }
        reasons.extend(log.not_ready());
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

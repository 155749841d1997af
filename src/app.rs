//! Assembly, and the life of the process: load, replay the log, bind, serve, reload, drain, stop.

mod build;
mod changes;
mod descriptors;
mod listeners;
mod memory;
mod open;
mod ports;
mod reload;
mod shown;
mod upgrade;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use sd_notify::NotifyState;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::admin::{self, Admin, AdminToken};
use crate::clock::{Clock, SystemClock};
use crate::config::Settings;
use crate::fleet;
use crate::gateway::{self, ControlPlane, Gateway, Live};
use crate::issuer;
use crate::revocation::settings::OnLostState;
use crate::revocation::{self, Health};
use crate::server::{self, Drain, Inherited};
use crate::telemetry::{AccessLog, Metrics};
use crate::watch::Watch;
use crate::worker::Threads;

use build::Base;
use listeners::Listeners;
use memory::Memory;
use open::join_fleet;
use reload::Trigger;
use upgrade::{Predecessor, Successor};

pub(crate) use open::{
    Shared, load_issuers, make_private, open_log, open_shared_keys, open_store, revocation_scope,
};

/// Threads of the control plane: endpoints, store, admin; password hashes have threads of their own.
const CONTROL_THREADS: usize = 2;
/// How often expired tokens and sessions are forgotten.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
/// How long the admin listener's own connections may take to end.
const ADMIN_DRAIN: Duration = Duration::from_secs(1);

/// How long what is at work on the log and the store may take to end before a new process gets them.
const SETTLING: Duration = Duration::from_secs(2);
/// Between two looks at it, and for what has been sent and not read yet.
const SETTLE_LOOK: Duration = Duration::from_millis(5);

/// Serves until SIGTERM or SIGINT, then drains. A process that was started by another of its kind takes its place.
///
/// # Errors
/// What keeps the gateway from starting, in words for the operator.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    crate::telemetry::start_events();
    let running = match Predecessor::meet()? {
        None => start(settings)?,
        Some((mut predecessor, inherited)) => {
            let memory = predecessor.release()?;
            let running = start_with(settings, inherited, &memory)?;
            let _runtime = running.control.enter();
            predecessor.serving(&running.base.log, running.opened_at)?;
            running
        }
    };
    tell_supervisor(&[NotifyState::Ready]);
    running.wait()
}

/// A gateway that serves. Whoever has it reloads it: [`Running::wait`] does.
pub struct Running {
    control: Runtime,
    data: Threads,
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
    live: Live,
    /// Where the log stood when it was opened.
    opened_at: u64,
    /// What this process was started from; what stands there by now is the next version.
    program: std::io::Result<PathBuf>,
    /// What was last said of a configuration that was refused.
    refused_before: String,
}

/// Starts a gateway: when this returns, every acknowledged revocation is in force and clients are served.
///
/// # Errors
/// What keeps the gateway from starting, in words for the operator.
pub fn start(settings: Settings) -> anyhow::Result<Running> {
    start_with(settings, Inherited::take(), &Memory::default())
}

/// The same, with sockets that are open, and what another process knew by heart.
fn start_with(settings: Settings, mut inherited: Inherited, memory: &Memory) -> anyhow::Result<Running> {
    descriptors::raise();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let metrics = Arc::new(Metrics::new());
    let control = control_runtime()?;
    let data =
        Threads::start(settings.server.workers).context("cannot start the threads of the data plane")?;

    // The truth first: nothing is served before it is in force.
    make_private(&settings.revocation.state_dir)?;
    let store = open_store(&settings)?;
    let live = Live::new(&metrics);
    let projections = vec![live.projection()];
    let (log, blocklist, report) = open_log(&settings, &control, &*store, &clock, &metrics, projections)?;
    let opened_at = log.sequence();
    let is_empty = report.sequence == 0 && store.is_shared() || report.lost == Some(OnLostState::Empty);
    let log = join_fleet(&settings, (log, is_empty), &store, &live, &control, &clock, &metrics)?;
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
    memory.give_to(&gateway);
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
        live_connections: {
            let live = live.clone();
            Box::new(move || live.open())
        },
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
    let (control_handle, data_workers) = (control.handle().clone(), data.workers().clone());
    let mut listeners = Listeners::new(gateway.clone(), admin, clients, control_handle, data_workers, &now);
    let plan = listeners.plan(&now, &mut inherited)?;
    listeners.carry_out(plan, now.server.drain_timeout);
    listeners.see_off(inherited, now.server.drain_timeout);
    tracing::info!(config = %now.path.display(), "serving");
    descriptors::warn(now.server.max_connections);
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
        live,
        opened_at,
        program: std::env::current_exe(),
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

    /// Serves until SIGTERM or SIGINT, then stops; a second signal does not wait any longer. On SIGUSR2 a new process
    /// takes over, and this one ends when all that it serves has.
    ///
    /// # Errors
    /// The log was let go of for a new process that failed, and cannot be opened again.
    pub fn wait(mut self) -> anyhow::Result<()> {
        let control = self.control.handle().clone();
        loop {
            let name = control.block_on(self.reload_until_end());
            if name != UPGRADE {
                let timeout_s = self.settings.load().server.drain_timeout.as_secs();
                tracing::info!(signal = name, timeout_s, "draining");
                tell_supervisor(&[NotifyState::Stopping]);
                return self.end(true);
            }
            match self.hand_over() {
                Ok(()) => return self.end(true),
                Err(HandOverError::Unprepared(error)) => {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "no new process takes over; this one goes on"
                    );
                }
                Err(HandOverError::LetGo(error)) => {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "the new process failed; this one begins anew"
                    );
                    return self.begin_anew()?.wait();
                }
            }
        }
    }

    /// Reloads whenever it is asked to; the name of the signal that ends that.
    async fn reload_until_end(&mut self) -> &'static str {
        loop {
            tokio::select! {
                biased;
                _ = self.signals.terminate.recv() => return "SIGTERM",
                _ = self.signals.interrupt.recv() => return "SIGINT",
                _ = self.signals.upgrade.recv() => return UPGRADE,
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

    /// Has a new process take over: the sockets, then the log.
    fn hand_over(&mut self) -> Result<(), HandOverError> {
        let program = self.program.as_ref().map_err(|error| anyhow::anyhow!("unknown program: {error}"));
        let handles = self.listeners.handles().context("no descriptor is left");
        let prepared = program.and_then(|program| Successor::prepare(program, &handles?));
        let mut successor = prepared.map_err(HandOverError::Unprepared)?;
        let control = self.control.handle().clone();
        control.block_on(async {
            self.listeners.leave_the_door().await;
            self.settle().await;
            self.base.log.close().await;
        });
        // When nobody uses a proof or fails to sign in any more.
        successor.take_over(&Memory::of(&self.gateway)).map_err(HandOverError::LetGo)?;
        tracing::info!(process = successor.id(), "a new process has taken over; draining");
        tell_supervisor(&[NotifyState::MainPid(successor.id()), NotifyState::Ready]);
        successor.obey((*self.base.log).clone(), &self.live);
        Ok(())
    }

    /// Waits until nothing is at work on the log and the store, within bounds. What clients have sent when the door was
    /// left is read by then, for idle connections are closed no sooner.
    async fn settle(&self) {
        let latest = tokio::time::Instant::now() + SETTLING;
        let mut quiet = 0;
        while quiet < 30 && tokio::time::Instant::now() < latest {
            tokio::time::sleep(SETTLE_LOOK).await;
            let idle = self.gateway.endpoints_are_idle() && self.listeners.admins.open() == 0;
            quiet = if idle { quiet + 1 } else { 0 };
        }
    }

    /// Opens everything again in this process, which has let go of the log; what is served meanwhile is served to its end.
    fn begin_anew(mut self) -> anyhow::Result<Self> {
        let handles = self.listeners.handles().context("no descriptor is left")?;
        let settings = (*self.settings.load_full()).clone();
        self.listeners.let_go();
        let next = start_with(settings, Inherited::of(handles), &Memory::of(&self.gateway))?;
        std::thread::Builder::new().name("draining".to_owned()).spawn(move || self.end(false))?;
        Ok(next)
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
            let cut = tokio::select! {
                cut = self.listeners.drain(drain_timeout) => cut,
                () = self.signals.end(), if hears_signals => self.listeners.clients.stop(Duration::ZERO).await,
            };
            if cut > 0 {
                tracing::warn!(connections = cut, "cut what did not end in time");
            }
            // The admin listener stays up to the end, so that /readyz can be seen to fail.
            self.listeners.admins.stop(ADMIN_DRAIN).await;
            self.base.log.close().await;
        });
        self.base.access_log.close();
        self.data.stop(ADMIN_DRAIN);
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
    upgrade: tokio::signal::unix::Signal,
}

/// The signal on which a new process takes over.
const UPGRADE: &str = "SIGUSR2";

/// Why no new process took over.
enum HandOverError {
    /// Nothing has changed.
    Unprepared(anyhow::Error),
    /// It failed when it had the log.
    LetGo(anyhow::Error),
}

/// What systemd is told, where it has started us (sd_notify(3)).
fn tell_supervisor(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the supervisor cannot be told");
    }
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
            upgrade: listen(SignalKind::user_defined2())?,
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

fn control_runtime() -> anyhow::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the threads of the control plane")
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

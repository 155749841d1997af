//! Connections out: pools, balancing, health, retries, limits.
//!
//! Promises: a request reaches at most one target unless no byte of it reached the ones before, or it may be
//! repeated and the connection was an idle one that died without a byte in return; a body that was polled is
//! never sent twice; a response that could be read in two ways is refused, and one that is cut short ends in an
//! error, never in an end; a client that goes away takes its upstream request with it; a connection serves the
//! next request only after the response before has ended and nothing followed it.
//!
//! Knows nothing of routes, tokens or clients: the request comes rewritten, and goes out with no field added but
//! what frames its body, and what opens a WebSocket (see `websocket.rs`).

mod balance;
mod channel;
mod connect;
mod decode;
mod error;
mod frames;
mod health;
mod names;
mod pool;
mod report;
mod request;
mod response;
mod sending;
pub mod settings;
mod socket;
mod stream;
mod target;
mod tunnel;
mod upload;
mod websocket;
mod wire;

#[cfg(test)]
mod tests;

pub use error::{BodyError, Fault, SendError};
pub use report::{TargetReport, TargetState, UpstreamReport};

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::response::Parts;
use http::{Request, Response};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::access::Permit;
use crate::answer::Body;
use crate::forward::Lines;

use balance::{Balancer, View};
use names::Name;
use settings::{Balance, Settings};
use target::{Manner, Target};

/// All upstreams of a configuration. Dropping it stops its health checks and closes its idle connections;
/// responses that are under way go on to their end.
#[derive(Debug)]
pub struct Upstreams {
    list: Box<[Arc<Upstream>]>,
    handle: Handle,
    workers: usize,
}

/// What a request asks of an upstream. Only a [`Permit`] makes one, so that forgetting the decision does not
/// compile.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(test, derive(Default))]
pub struct Call<'a> {
    /// Index into the settings that [`Upstreams::new`] was given.
    upstream: usize,
    /// To the response head, in place of the upstream's `response_timeout`.
    timeout: Option<Duration>,
    /// The token's subject, for `hash:subject`; without one the request is spread.
    subject: Option<&'a str>,
    /// Fields of ours, that go out beside those of the request.
    lines: Option<&'a Lines>,
    /// Who hears of informational answers.
    tell: Tell<'a>,
}

/// Whom informational answers (RFC 9110 §15.2) are told to, as they come; by default nobody.
#[derive(Clone, Copy, Default)]
struct Tell<'a>(Option<&'a (dyn Fn(Parts) + Sync)>);

impl<'a> Call<'a> {
    /// The call that this permit was given for; `lines` go out beside the fields of the request.
    pub fn permitted(permit: &'a Permit, lines: &'a Lines) -> Self {
        let route = permit.route();
        let subject = permit.token().and_then(|known| known.token.subject.as_deref());
        let tell = Tell::default();
        Self { upstream: route.upstream, timeout: route.timeout, subject, lines: Some(lines), tell }
    }

    /// The same, where `tell` hears of informational answers, all but 100 and 101. There are
    /// a hundred at most.
    #[must_use]
    pub fn telling(self, tell: &'a (dyn Fn(Parts) + Sync)) -> Self {
        Self { tell: Tell(Some(tell)), ..self }
    }
}

/// An answer, and who gave it.
#[derive(Debug)]
pub struct Exchange {
    /// The head as it came; the body streams, and ends with a [`BodyError`] where it is cut short.
    pub response: Response<Body>,
    /// For logs and metrics.
    pub served: Served,
    /// Of a 101. What opened over HTTP/2 is a 101 here, too.
    pub tunnel: Option<Tunnel>,
}

/// The connection behind a 101, which keeps its place among the requests under way.
#[derive(Debug)]
pub struct Tunnel {
    /// No byte in either direction for so long ends it.
    pub idle: Option<Duration>,
    side: tunnel::Side,
    _ticket: target::Ticket,
    _slot: Option<Slot>,
}

/// Who gave an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The target's URL as configured.
    pub target: Arc<str>,
    /// It came on a connection that had served before.
    pub reused: bool,
    /// How long connecting took, name included, where a connection was made.
    pub connect: Option<Duration>,
}

/// One upstream with its targets.
#[derive(Debug)]
struct Upstream {
    settings: Settings,
    targets: Box<[Arc<Target>]>,
    balancer: Balancer,
    limit: Option<Arc<Limit>>,
    /// A target or the balancer wants to see all fields in one map.
    one_map: bool,
    tasks: Vec<JoinHandle<()>>,
}

/// `max_requests` and how many there are.
#[derive(Debug)]
struct Limit {
    max: usize,
    now: AtomicUsize,
}

/// One of the requests that `max_requests` allows.
#[derive(Debug)]
struct Slot(Arc<Limit>);

impl Upstreams {
    /// Connections are made as requests need them; health checks and the tidying of pools start at once on
    /// `handle`. What drives a connection runs on the runtime of the request that opened it; each of so many
    /// `workers` keeps those that it opened.
    pub fn new(settings: &[Settings], handle: &Handle, workers: usize) -> Arc<Self> {
        let start = |settings| Arc::new(Upstream::start(settings, None, handle, workers));
        Arc::new(Self { list: settings.iter().map(start).collect(), handle: handle.clone(), workers })
    }

    /// The upstreams of a new configuration. One whose settings are the same in every point is taken over as it
    /// is, pools included, whatever its place in the list; of a changed one the health of the targets that it
    /// keeps is.
    pub fn rebuild(&self, settings: &[Settings]) -> Arc<Self> {
        let start = |settings: &Settings| {
            let before = self.list.iter().find(|before| before.settings.name == settings.name);
            match before {
                Some(before) if before.settings == *settings => Arc::clone(before),
                before => {
                    Arc::new(Upstream::start(settings, before.map(Arc::as_ref), &self.handle, self.workers))
                }
            }
        };
        Arc::new(Self {
            list: settings.iter().map(start).collect(),
            handle: self.handle.clone(),
            workers: self.workers,
        })
    }

    /// Stops the health checks of what `next` did not take over, and closes its idle connections. Requests that still
    /// come are served all the same: those that began before a reload end where they were to go.
    pub fn give_way_to(&self, next: &Self) {
        let taken = |upstream: &Arc<Upstream>| next.list.iter().any(|other| Arc::ptr_eq(other, upstream));
        self.list.iter().filter(|upstream| !taken(upstream)).for_each(|upstream| upstream.retire());
    }

    /// Sends a request and waits for the response head. The request must carry its `Host`; its URI may be in
    /// any form and is sent in origin-form; hop-by-hop fields are for the caller to have removed (RFC 9110
    /// §7.6.1), all but `Transfer-Encoding`, which is set here as the body needs it.
    ///
    /// Dropping the future, or the response body before its end, closes the connection that the request is on.
    /// Allocates nothing of its own for a request without body whose answer is short and of known length, but
    /// what the library for HTTP/2 does; holds a lock only to pop and to push an idle connection.
    ///
    /// # Errors
    /// [`SendError`]; nothing of an answer has been passed on then.
    pub async fn send(&self, call: Call<'_>, mut request: Request<Body>) -> Result<Exchange, SendError> {
        let upstream = self.list.get(call.upstream).ok_or(SendError::UnknownUpstream(call.upstream))?;
        let mut slot = upstream.enter()?;
        let mut lines = call.lines.map_or(&[][..], Lines::as_bytes);
        if upstream.one_map
            && let Some(fields) = call.lines
        {
            fields.append_to(request.headers_mut());
            lines = &[];
        }
        let key = upstream.balancer.key(request.headers(), call.subject);
        let timeout = call.timeout.or(upstream.settings.response_timeout);
        let manner = Manner { lines, timeout, tell: call.tell };
        let mut retries = upstream.settings.retries;
        let mut tried = Vec::new();
        let mut last = None;
        let mut request = request::outgoing(request);
        while let Some(index) = upstream.pick(key, &tried) {
            let target = &upstream.targets[index];
            let failed = match target.attempt(request, manner, &mut retries, &mut slot).await {
                Ok(exchange) => return Ok(exchange),
                Err(failed) => failed,
            };
            match failed.unsent {
                Some(unsent) if retries > 0 => request = unsent,
                _ => return Err(failed.error),
            }
            retries -= 1;
            tried.push(index);
            last = Some(failed.error);
        }
        Err(last.unwrap_or_else(|| SendError::NoHealthyTarget { upstream: upstream.settings.name.clone() }))
    }

    /// Whether a request to this upstream may go out over HTTP/2, with trailers.
    pub fn speaks_http2(&self, upstream: usize) -> bool {
        self.list
            .get(upstream)
            .is_some_and(|upstream| upstream.targets.iter().any(|target| target.channels.is_some()))
    }

    /// The state of every upstream and target at this moment.
    pub fn report(&self) -> Vec<UpstreamReport> {
        self.list.iter().map(|upstream| report::upstream(upstream)).collect()
    }
}

impl Upstream {
    fn start(settings: &Settings, before: Option<&Self>, handle: &Handle, workers: usize) -> Self {
        let targets: Box<[_]> = settings
            .targets
            .iter()
            .map(|target| {
                let same = |before: &&Arc<Target>| *before.name == *target.url;
                let before = before.and_then(|before| before.targets.iter().find(same));
                Arc::new(Target::new(target, settings, before.map(Arc::as_ref), workers))
            })
            .collect();
        let mut tasks = vec![handle.spawn(tidy(targets.clone(), settings.keepalive_idle))];
        for target in &targets {
            if let Some(name) = target.resolved() {
                tasks.push(handle.spawn(follow(Arc::clone(target), Arc::clone(name))));
            }
        }
        if let Some(health) = &settings.health {
            for target in &targets {
                let watch = health::watch(Arc::clone(target), health.clone(), settings.name.clone());
                tasks.push(handle.spawn(watch));
            }
        }
        Self {
            settings: settings.clone(),
            balancer: Balancer::new(&settings.balance, &settings.targets),
            targets,
            one_map: settings.targets.iter().any(|target| target.http2)
                || matches!(settings.balance, Balance::HashHeader(_)),
            limit: settings.max_requests.map(|max| Arc::new(Limit { max, now: AtomicUsize::new(0) })),
            tasks,
        }
    }

    fn enter(&self) -> Result<Option<Slot>, SendError> {
        let Some(limit) = &self.limit else { return Ok(None) };
        let slot = Slot(Arc::clone(limit));
        if limit.now.fetch_add(1, Ordering::Relaxed) < limit.max {
            return Ok(Some(slot));
        }
        Err(SendError::Overloaded { upstream: self.settings.name.clone(), limit: limit.max })
    }

    /// A target that was not tried yet and that probes have not taken out: one that is not ejected, where there
    /// is one.
    fn pick(&self, key: Option<u64>, tried: &[usize]) -> Option<usize> {
        let view = |index: usize, ejected_too: bool| {
            let Target { health, counts, .. } = &*self.targets[index];
            View {
                usable: !health.down() && (ejected_too || !health.ejected()) && !tried.contains(&index),
                load: counts.in_flight.load(Ordering::Relaxed),
            }
        };
        self.balancer
            .pick(key, |index| view(index, false))
            .or_else(|| self.balancer.pick(key, |index| view(index, true)))
    }
}

impl Upstream {
    fn retire(&self) {
        for task in &self.tasks {
            task.abort();
        }
        // Responses under way hold their target: what they give back is closed.
        for target in &self.targets {
            target.pool.retire();
            if let Some(channels) = &target.channels {
                channels.retire();
            }
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.retire();
    }
}

impl std::fmt::Debug for Tell<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tell").field(&self.0.is_some()).finish()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Closes idle connections when their time has come.
async fn tidy(targets: Box<[Arc<Target>]>, keep: Duration) {
    let mut ticks = interval(pool::tick_every(keep));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for target in &targets {
            target.tick();
        }
    }
}

/// Asks for the target's name again and again, while connections to it are open.
async fn follow(target: Arc<Target>, name: Arc<Name>) {
    let mut ticks = interval(name.every());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if target.counts.open.load(Ordering::Relaxed) > 0 {
            name.refresh().await;
            target.follow_name();
        }
    }
}

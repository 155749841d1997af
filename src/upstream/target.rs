//! One target: its connections, its health, and one attempt to get an answer from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http::header::{HeaderValue, UPGRADE};
use http::uri::Scheme;
use http::{Request, Response, StatusCode};
use tokio::time::Instant;

use super::channel::{self, Channels};
use super::connect::{ConnectError, Connector};
use super::error::{Fault, SendError};
use super::health::Health;
use super::names::Name;
use super::pool::Pool;
use super::request;
use super::response::{self, Lease};
use super::settings::{self, Settings};
use super::upload::Outgoing;
use super::wire::{Lost, Wire};
use super::{Exchange, Served, Slot, Tell, websocket};

/// One address of an upstream.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) name: Arc<str>,
    /// The `Host` of requests that are the gateway's own.
    pub(super) host: HeaderValue,
    pub(super) health: Health,
    pub(super) pool: Pool,
    /// In place of the pool, where HTTP/2 is spoken.
    pub(super) channels: Option<Channels>,
    pub(super) counts: Counts,
    scheme: Scheme,
    connector: Connector,
    /// Beside it, where HTTP/2 is spoken: for WebSockets that the target does not take there.
    http1: Option<Connector>,
    stream_idle_timeout: Option<Duration>,
    /// The edition of the name's addresses that the pool and the channels have followed.
    followed: AtomicU32,
}

/// What is counted of a target.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Requests under way, to the end of their response bodies.
    pub(super) in_flight: AtomicUsize,
    /// Connections open, idle or not.
    pub(super) open: Arc<AtomicUsize>,
    pub(super) requests: AtomicU64,
    pub(super) connects: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) ejections: AtomicU64,
}

/// An attempt that failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: SendError,
    /// The request, where no byte of it reached the target.
    pub(super) unsent: Option<Box<Request<Outgoing>>>,
}

/// How a request is sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Manner<'a> {
    /// Fields beside those of the request, as they go out over HTTP/1.1.
    pub(super) lines: &'a [u8],
    /// To the response head.
    pub(super) timeout: Option<Duration>,
    /// Who hears of informational answers.
    pub(super) tell: Tell<'a>,
}

/// A request under way at a target.
#[derive(Debug)]
pub(super) struct Ticket(Arc<Target>);

impl Target {
    /// `before` is the same target under settings that a reload replaced.
    pub(super) fn new(
        target: &settings::Target,
        settings: &Settings,
        before: Option<&Self>,
        workers: usize,
    ) -> Self {
        let passive = settings.passive_health.clone();
        let host = HeaderValue::from_str(target.authority.as_str());
        let before_connector = before.map(|before| &before.connector);
        let (limit, every) = (settings.connect_timeout, settings.resolve_every);
        let connector = Connector::new(target, limit, every, before_connector);
        let name = connector.name().map(Arc::clone);
        Self {
            name: (&*target.url).into(),
            host: host.expect("an authority is visible ASCII"),
            health: Health::new(passive, settings.health.is_some(), before.map(|before| &before.health)),
            pool: Pool::new(settings.keepalive_idle, settings.keepalive_max_idle, workers, name),
            channels: target.http2.then(|| Channels::new(settings.keepalive_idle)),
            scheme: if target.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP },
            counts: Counts::default(),
            http1: connector.by_http1(),
            connector,
            stream_idle_timeout: settings.stream_idle_timeout,
            followed: AtomicU32::new(0),
        }
    }

    /// The status of the answer to one request on a connection of its own; `None` without one.
    pub(super) async fn probe(&self, mut request: Box<Request<Outgoing>>) -> Option<StatusCode> {
        let open = &self.counts.open;
        if self.channels.is_some() {
            request::to_http2(&mut request, &self.scheme, &self.host);
            let place = Channels::alone(&self.connector, open).await.ok()?;
            return Some(place.send(*request, Manner::default()).await.ok()?.status());
        }
        let mut wire = Wire::open(&self.connector, open).await.ok()?;
        Some(wire.send(request, Manner::default()).await.ok()?.0.status)
    }

    /// One attempt: an idle connection if there is one, else a new one. A request that an idle connection did
    /// not take, because it was ended at that moment, goes on to a new one; one that it took and left without a
    /// byte in return does so too if it may be repeated (RFC 9110 §9.2.2) and `retries` allows it.
    pub(super) async fn attempt(
        self: &Arc<Self>,
        mut request: Box<Request<Outgoing>>,
        manner: Manner<'_>,
        retries: &mut u32,
        slot: &mut Option<Slot>,
    ) -> Result<Exchange, Failed> {
        let ticket = Ticket::new(self);
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
        if let Some(channels) = &self.channels {
            if request.headers().contains_key(UPGRADE) {
                return self.attempt_websocket(channels, *request, manner, retries, slot, ticket).await;
            }
            request::to_http2(&mut request, &self.scheme, &self.host);
            return self.attempt_http2(channels, request, manner, retries, slot, ticket).await;
        }
        self.attempt_http1(None, request, manner, retries, slot, ticket).await
    }

    /// The same over HTTP/1.1, on a new connection where one is given.
    pub(super) async fn attempt_http1(
        self: &Arc<Self>,
        fresh: Option<(Wire, Duration)>,
        mut request: Box<Request<Outgoing>>,
        manner: Manner<'_>,
        retries: &mut u32,
        slot: &mut Option<Slot>,
        ticket: Ticket,
    ) -> Result<Exchange, Failed> {
        request::to_http1(&mut request, &self.host);
        let upload = request.body().upload().cloned();
        let upgrade = request.headers().contains_key(UPGRADE);
        let accept = if upgrade { websocket::ask(request.headers_mut()) } else { None };
        let fresh = fresh.map(|(wire, took)| (wire, Some(took)));
        let mut open = fresh.or_else(|| Some((self.pool.take()?, None)));
        loop {
            let reused = matches!(open, Some((_, None)));
            let (mut wire, connect) = match open.take() {
                Some(open) => open,
                None => match self.connect().await {
                    Ok((wire, took)) => (wire, Some(took)),
                    Err(error) => return Err(Failed { error, unsent: Some(request) }),
                },
            };
            let lost = match wire.send(request, manner).await {
                Ok((head, framing)) => {
                    let lease = Lease::new(ticket, slot.take(), upload);
                    let served = Served { target: Arc::clone(&self.name), reused, connect };
                    if let Err(fault) = websocket::answered(&head, accept.as_ref()) {
                        return Err(self.lost(Lost::Fault(fault), false, true));
                    }
                    let idle = self.stream_idle_timeout;
                    let (response, tunnel) = if head.status == StatusCode::SWITCHING_PROTOCOLS {
                        response::switch(head, wire, lease, idle)
                    } else {
                        (response::stream(head, wire, framing, lease, idle), None)
                    };
                    return Ok(Exchange { response, served, tunnel });
                }
                Err(lost) => lost,
            };
            match lost {
                // It ended while it was idle: the next one of those, or a new one.
                Lost::Unsent(again, _) if reused => {
                    request = again;
                    open = self.pool.take().map(|wire| (wire, None));
                }
                Lost::Silent(Some(again), _) if reused && *retries > 0 => {
                    *retries -= 1;
                    request = again;
                }
                lost => return Err(self.lost(lost, reused, wire.spoke())),
            }
        }
    }

    /// The same over a connection that others share.
    pub(super) async fn attempt_http2(
        self: &Arc<Self>,
        channels: &Channels,
        mut request: Box<Request<Outgoing>>,
        manner: Manner<'_>,
        retries: &mut u32,
        slot: &mut Option<Slot>,
        ticket: Ticket,
    ) -> Result<Exchange, Failed> {
        let upload = request.body().upload().cloned();
        let mut idle = channels.take();
        self.spread(channels);
        // A target may refuse every stream, and the channel is as good as before: each turn but the first is a retry.
        let mut spare = true;
        loop {
            let (place, connect) = match idle.take() {
                Some(place) => (place, None),
                None => match self.open_channel(channels).await {
                    Ok((place, took)) => {
                        let took = (!place.reused).then_some(took);
                        (place, took)
                    }
                    Err(error) => return Err(Failed { error, unsent: Some(request) }),
                },
            };
            let reused = place.reused;
            let lost = match place.send(*request, manner).await {
                Ok(response) => {
                    let (mut head, body) = response.into_parts();
                    if let Err(fault) = response::check(&mut head, false) {
                        return Err(self.lost(Lost::Fault(fault), false, true));
                    }
                    let response = Response::from_parts(head, body);
                    let lease = Lease::new(ticket, slot.take(), upload);
                    let served = Served { target: Arc::clone(&self.name), reused, connect };
                    let idle = self.stream_idle_timeout;
                    let response = response::stream_http2(response, place, lease, idle).await;
                    return Ok(Exchange { response, served, tunnel: None });
                }
                Err(lost) => lost,
            };
            drop(place);
            match lost {
                Lost::Unsent(again, _) if reused && std::mem::take(&mut spare) => request = again,
                Lost::Unsent(again, _) if reused && *retries > 0 => {
                    *retries -= 1;
                    request = again;
                }
                Lost::Silent(Some(again), _) if reused && *retries > 0 => {
                    *retries -= 1;
                    request = again;
                }
                lost => return Err(self.lost(lost, reused, false)),
            }
        }
    }

    /// A connection that speaks HTTP/1.1 with a target that is spoken to in HTTP/2 else; `None` where there is no such.
    /// That is no failure of the target: nobody has said that it speaks both.
    pub(super) async fn open_http1(&self) -> Option<(Wire, Duration)> {
        let connector = self.http1.as_ref()?;
        let started = Instant::now();
        self.counts.connects.fetch_add(1, Ordering::Relaxed);
        let wire = Wire::open(connector, &self.counts.open).await.ok()?;
        Some((wire, started.elapsed()))
    }

    pub(super) async fn open_channel(
        &self,
        channels: &Channels,
    ) -> Result<(channel::Place, Duration), SendError> {
        let started = Instant::now();
        self.counts.connects.fetch_add(1, Ordering::Relaxed);
        match channels.open(&self.connector, &self.counts.open).await {
            Ok(place) => Ok((place, started.elapsed())),
            Err(error) => Err(self.unconnected(error)),
        }
    }

    /// Opens channels to the addresses of the name that have none, for requests to come. That one of them is away is no
    /// failure of the target: no request has met it.
    fn spread(self: &Arc<Self>, channels: &Channels) {
        while let Some(lead) = channels.lacking() {
            let target = Arc::clone(self);
            target.counts.connects.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let Some(channels) = &target.channels else { return };
                if let Err(error) = channels.open_to(lead, &target.connector, &target.counts.open).await {
                    let (target, error) = (&*target.name, &error as &dyn std::error::Error);
                    tracing::debug!(target, address = %lead.address, error, "an address of a target is away");
                }
            });
        }
    }

    /// By which it is found, where it has to be resolved.
    pub(super) const fn resolved(&self) -> Option<&Arc<Name>> {
        self.connector.name()
    }

    /// Lets go of idle connections, and of those that carry many requests, to addresses that the name no longer has.
    pub(super) fn follow_name(&self) {
        let Some(name) = self.resolved() else { return };
        self.followed.store(name.edition(), Ordering::Relaxed);
        self.pool.leave();
        if let Some(channels) = &self.channels {
            channels.follow(name);
        }
    }

    /// One tick of the pool later.
    pub(super) fn tick(&self) {
        self.pool.tick();
        if let Some(channels) = &self.channels {
            channels.tick();
        }
        // Whoever connects may have learnt of it before the one who asks every so often.
        if self.resolved().is_some_and(|name| name.edition() != self.followed.load(Ordering::Relaxed)) {
            self.follow_name();
        }
    }

    async fn connect(&self) -> Result<(Wire, Duration), SendError> {
        let started = Instant::now();
        self.counts.connects.fetch_add(1, Ordering::Relaxed);
        match Wire::open(&self.connector, &self.counts.open).await {
            Ok(wire) => Ok((wire, started.elapsed())),
            Err(error) => Err(self.unconnected(error)),
        }
    }

    fn unconnected(&self, error: ConnectError) -> SendError {
        self.note_failure();
        let target = Arc::clone(&self.name);
        match error {
            ConnectError::Timeout(limit) => SendError::ConnectTimeout { target, limit },
            ConnectError::Failed(source) => SendError::Unreachable { target, source: source.into() },
        }
    }

    pub(super) const fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// Of tunnels and response bodies.
    pub(super) const fn stream_idle_timeout(&self) -> Option<Duration> {
        self.stream_idle_timeout
    }

    /// How long connecting may take.
    pub(super) const fn connect_timeout(&self) -> Duration {
        self.connector.limit()
    }

    pub(super) fn lost(&self, lost: Lost, reused: bool, spoke: bool) -> Failed {
        let target = Arc::clone(&self.name);
        let (error, unsent) = match lost {
            Lost::Body(source) => return Failed { error: SendError::RequestBody(source), unsent: None },
            Lost::Unsent(request, source) if spoke => {
                (SendError::Protocol { target, fault: Fault::Unsolicited(source) }, Some(request))
            }
            Lost::Unsent(request, source) => (SendError::Unreachable { target, source }, Some(request)),
            Lost::Silent(_, source) => {
                let error = SendError::Unreachable { target, source };
                if reused {
                    return Failed { error, unsent: None };
                }
                (error, None)
            }
            Lost::Timeout(limit) => (SendError::ResponseTimeout { target, limit }, None),
            Lost::Fault(fault) => (SendError::Protocol { target, fault }, None),
        };
        self.note_failure();
        Failed { error, unsent }
    }

    fn note_failure(&self) {
        self.counts.failures.fetch_add(1, Ordering::Relaxed);
        if self.health.failed(Instant::now()) {
            self.counts.ejections.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(target = &*self.name, "target is ejected for its failures");
        }
    }
}

impl Ticket {
    fn new(target: &Arc<Target>) -> Self {
        target.counts.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(target))
    }

    /// The target that it is for.
    pub(super) fn target(&self) -> &Target {
        &self.0
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.counts.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

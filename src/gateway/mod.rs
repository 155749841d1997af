//! One request to one response.
//!
//! `Inner::answer` is the life of a request, in the order of the contract (§3): it gathers first and decides
//! after, so that the decision itself needs only memory and `now`, and every early exit is a `?`. What comes out of
//! it, good or bad, is written down by `Story` when the answer has been sent.

mod body;
mod control;
mod frames;
mod gather;
mod live;
mod parting;
mod policy;
mod respond;
pub mod settings;
mod setup;
mod story;
mod tunnel;
pub mod watermark;

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use http::{Method, Request, Response};

pub use control::{AT_ONCE, ControlPlane};
pub use live::Live;
pub use parting::Parting;
pub use setup::{Parts, Setup};

use crate::access::Permit;
use crate::answer::{Body, Code, Interim, Problem};
use crate::clock::Clock;
use crate::fleet::Log;
use crate::forward::{self, RequestId};
use crate::revocation::Blocklist;
use crate::route::settings::Requirement;
use crate::route::{Head, Peer};
use crate::store::Registry;
use crate::telemetry::Metrics;
use crate::upstream::Call;

use live::Watched;
use respond::Stop;
use story::Story;

/// Answers the requests of clients. A clone shares everything.
#[derive(Clone)]
pub struct Gateway(Arc<Inner>);

/// A gateway as the clients of one listener meet it.
#[derive(Clone)]
pub struct AtDoor {
    gateway: Gateway,
    /// Whichever begins first ends the tunnels that were opened here.
    partings: Arc<[Parting; 2]>,
}

impl AtDoor {
    /// The answer to one request; it counts and logs itself when its body has been sent or given up. `verdict` is
    /// what the raw bytes of the head were judged; `interim` takes what the upstream says before its answer.
    pub fn serve(
        &self,
        peer: Peer,
        verdict: Result<(), Problem>,
        request: Request<Body>,
        interim: &Interim,
    ) -> impl Future<Output = Response<Body>> + Send {
        self.gateway.serve(peer, verdict, request, interim, &self.partings)
    }
}

struct Inner {
    setup: ArcSwap<Setup>,
    blocklist: Arc<Blocklist>,
    live: Live,
    registry: Arc<dyn Registry>,
    control: ControlPlane,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    log: Log,
}

impl Gateway {
    /// A gateway that answers by this setup. `live` must be fed by the log that feeds the blocklist.
    #[allow(clippy::too_many_arguments, reason = "each is a part of its own, put together once, in `app`")]
    pub fn new(
        setup: Setup,
        blocklist: Arc<Blocklist>,
        live: Live,
        registry: Arc<dyn Registry>,
        control: ControlPlane,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
        log: Log,
    ) -> Self {
        let setup = ArcSwap::from_pointee(setup);
        Self(Arc::new(Inner { setup, blocklist, live, registry, control, metrics, clock, log }))
    }

    /// The setup in use.
    pub fn setup(&self) -> Arc<Setup> {
        self.0.setup.load_full()
    }

    /// For the clients of one listener, whose tunnels end with the first of these that begins.
    pub fn at_door(&self, partings: [Parting; 2]) -> AtDoor {
        AtDoor { gateway: self.clone(), partings: Arc::new(partings) }
    }

    /// No request for one of our own endpoints is at work.
    pub fn endpoints_are_idle(&self) -> bool {
        self.0.control.is_idle()
    }

    /// Goes over to another setup. Requests under way end with the one that they began with.
    pub fn replace(&self, setup: Setup) {
        self.0.setup.store(Arc::new(setup));
    }

    async fn serve(
        &self,
        peer: Peer,
        verdict: Result<(), Problem>,
        mut request: Request<Body>,
        interim: &Interim,
        partings: &Arc<[Parting; 2]>,
    ) -> Response<Body> {
        let gateway = &*self.0;
        let setup = gateway.setup.load_full();
        let now = gateway.clock.now();
        let id = setup.forwarding.request_id(request.headers(), now);
        let mut story = Story::begin(&setup, &peer, &request, verdict.is_ok(), &id, now, Instant::now());
        let reached = watermark::reach(request.headers_mut(), &gateway.log).await; // 400 503
        let tells = matches!(reached, Ok(true));
        let verdict = verdict.and(reached.map(|_| ()));
        let answered = gateway.answer(&setup, &mut story, &id, peer, verdict, &mut request, interim).await;
        let mut response = answered.unwrap_or_else(|stop| respond::to(stop, &setup, &mut story));
        if let Some(tunnel) = &mut story.tunnel {
            tunnel.ends_with(partings);
        }
        if tells {
            watermark::tell(response.headers_mut(), &gateway.log).await;
        }
        story.told(response, &setup, &gateway.metrics, &id)
    }
}

/// A request out of where it waits: it is large, so it goes from hand to hand by reference as long as it can.
fn taken(request: &mut Request<Body>) -> Request<Body> {
    std::mem::replace(request, Request::new(Body::empty()))
}

impl Inner {
    #[allow(clippy::too_many_arguments, reason = "a request, what is known of it, and the ways out")]
    async fn answer(
        &self,
        setup: &Arc<Setup>,
        story: &mut Story,
        id: &RequestId,
        peer: Peer,
        verdict: Result<(), Problem>,
        request: &mut Request<Body>,
        interim: &Interim,
    ) -> Result<Response<Body>, Stop> {
        verdict?; // 400 405 408 414 431, judged on the raw bytes
        let now = story.at;
        let head = Head::admit(request, peer.clone(), &setup.limits)?; // the same, on what the parser made of them
        story.admitted(&head);

        let asked = policy::preflight(&head, request);
        if setup.endpoints.matches(head.path(), head.host()) {
            story.at_endpoint(setup);
            tunnel::no_tunnel::<()>(&head, Code::InvalidRequest)?; // 400
            let cors = setup.endpoints.cors();
            if let Some(answer) = policy::cross_origin(cors, None, asked.as_ref(), request.headers(), story)?
            {
                return Ok(answer);
            }
            return Ok(self.control.run(setup.endpoint(peer, id, &head, taken(request))).await?); // 503
        }
        let found = policy::find(setup, &head, asked.as_ref())?; // 404 405
        story.routed(setup, found.route);
        let (cors, route) = (found.route.cors.as_ref(), Some(&**found.route));
        if let Some(answer) = policy::cross_origin(cors, route, asked.as_ref(), request.headers(), story)? {
            return Ok(answer); // 204 403
        }
        respond::within_limit(&head, found.route)?; // 413
        if self.log.is_refusing() && found.route.auth != Requirement::Public {
            let words = "too little is known of what other gateways have revoked";
            return Err(Problem::new(Code::StaleRevocations, words).into()); // 503
        }

        let evidence =
            gather::evidence(setup, &*self.registry, found.route, &head, request.headers(), now).await;
        let seen = (&head, request.headers());
        let permit = policy::decide(setup, &found, evidence, asked.as_ref(), seen, &self.blocklist, story)?; // 401 403 429
        story.permitted(&permit, &self.metrics);

        let client = tunnel::asked_for(&head, request);
        gather::hand_over(setup, &permit, request.headers_mut());
        let (parts, body) = taken(request).into_parts();
        let outbound = setup.outbound(&head, &found, &permit, id, client.is_some());
        let (parts, lines) = forward::request(parts, &outbound)?;
        let body = respond::limited(body, &head, found.route);
        let body = respond::with_trailers(body, &head, setup, outbound.http2);
        let sent = Instant::now();
        let tell = |parts: http::response::Parts| {
            let parts = forward::response(parts, &setup.inbound(found.route, id, None));
            interim.tell(parts.status, parts.headers);
        };
        let mut call = Call::permitted(&permit, &lines);
        if interim.is_open() {
            call = call.telling(&tell);
        }
        let mut exchange = setup.upstreams.send(call, Request::from_parts(parts, body)).await?;
        story.served(&exchange.served, sent.elapsed()); // 502 503 504 are behind us

        let tunnel = tunnel::opened(&head, client, &mut exchange)?; // 502
        if tunnel.is_some() || exchange.response.body().streams() {
            story.live = self.watch(setup, &permit, &story.method)?; // 401
        }
        let (parts, body) = exchange.response.into_parts();
        let parts = forward::response(
            parts,
            &setup.inbound(found.route, id, tunnel.is_some().then(|| head.version())),
        );
        story.tunnel = tunnel;
        Ok(Response::from_parts(parts, body))
    }

    /// Has what follows a response head end with the token that it was permitted with. Where that one was revoked
    /// since the decision, a client that may safely ask again is told so; to any other it is a response cut short,
    /// for its request has been served.
    fn watch(&self, setup: &Setup, permit: &Permit, method: &Method) -> Result<Option<Watched>, Problem> {
        let Some(token) = permit.token().filter(|_| setup.cut_live_connections && !permit.route().shadow)
        else {
            return Ok(None);
        };
        let watched = self.live.watch(token, &self.blocklist, self.clock.now());
        match watched.cause().filter(|_| method.is_safe()) {
            Some(cause) => Err(Problem::new(cause.code(), cause.words())),
            None => Ok(Some(watched)),
        }
    }
}

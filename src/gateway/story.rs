//! What is told of one request when it is over: its metrics and its access-log line.

use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::header::USER_AGENT;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

use super::body::Told;
use super::live::{Cause, Watched};
use super::policy;
use super::setup::Setup;
use super::tunnel::Tunnel;
use crate::access::{Permit, Quota};
use crate::answer::{Body, Code};
use crate::clock::UnixTime;
use crate::forward::RequestId;
use crate::forward::cors::Page;
use crate::revocation::KnownToken;
use crate::route::settings::Route;
use crate::route::{Authority, Head, Peer};
use crate::telemetry::{AccessLog, Metrics, Record, RouteMetrics};
use crate::upstream::Served;

/// Filled in while the request lives; large, hence boxed.
pub(super) struct Story {
    pub(super) at: UnixTime,
    pub(super) request_id: RequestId,
    pub(super) method: Method,
    pub(super) grpc: bool,
    pub(super) target: Option<Arc<str>>,
    pub(super) token: Option<Arc<KnownToken>>,
    /// Its response or tunnel ends with its token.
    pub(super) live: Option<Watched>,
    /// What CORS says of the answer, on a route that has rules.
    pub(super) page: Option<Page>,
    /// What is left to the caller, on a route that counts.
    pub(super) quota: Option<Quota>,
    /// The answer opens it.
    pub(super) tunnel: Option<Tunnel>,
    log: AccessLog,
    began: Instant,
    /// Behind any trusted proxies.
    client: Option<IpAddr>,
    authority: Option<Authority>,
    /// As sent; shares the request's bytes.
    target_sent: Option<PathAndQuery>,
    /// As admitted, where that is not how it was sent.
    normal_path: Option<Box<str>>,
    user_agent: Option<HeaderValue>,
    route: Arc<RouteMetrics>,
    status: StatusCode,
    code: Option<Code>,
    shadowed: Option<Code>,
}

impl Story {
    /// The beginning. `whole` is false for the stand-in of a head that was refused on its raw bytes: it says nothing
    /// of the client's request but its method.
    pub(super) fn begin<B>(
        setup: &Setup,
        peer: &Peer,
        request: &Request<B>,
        whole: bool,
        id: &RequestId,
        at: UnixTime,
        began: Instant,
    ) -> Box<Self> {
        let log = setup.access_log.clone();
        let told_of = |headers: &HeaderMap| headers.get(USER_AGENT).filter(|_| log.is_on()).cloned();
        Box::new(Self {
            at,
            request_id: id.clone(),
            method: request.method().clone(),
            grpc: false,
            target: None,
            token: None,
            live: None,
            page: None,
            quota: None,
            tunnel: None,
            began,
            client: setup.forwarding.client_address(peer, request.headers()),
            authority: None,
            target_sent: request.uri().path_and_query().filter(|_| whole).cloned(),
            normal_path: None,
            user_agent: told_of(request.headers()),
            log,
            route: setup.no_route.clone(),
            status: StatusCode::OK,
            code: None,
            shadowed: None,
        })
    }

    /// As admitted, or as sent where it was not.
    pub(super) fn path(&self) -> &str {
        let sent = || self.target_sent.as_ref().map_or("-", PathAndQuery::path);
        self.normal_path.as_deref().unwrap_or_else(sent)
    }

    /// In lower case; `-` where none was admitted.
    pub(super) fn host(&self) -> &str {
        self.authority.as_ref().map_or("-", Authority::host)
    }

    /// The head could be read in one way only.
    pub(super) fn admitted(&mut self, head: &Head) {
        self.authority = Some(head.authority().clone());
        self.normal_path = head.normal_target().is_none().then(|| head.path().into());
        self.grpc = head.is_grpc();
        self.method = head.method().clone();
    }

    /// It is for one of our own endpoints.
    pub(super) fn at_endpoint(&mut self, setup: &Setup) {
        self.route = setup.own_endpoints.clone();
    }

    /// It falls under this route.
    pub(super) fn routed(&mut self, setup: &Setup, route: &Route) {
        self.route = setup.metrics_of(route).clone();
    }

    /// It may pass, or would not have but for the shadow mode.
    pub(super) fn permitted(&mut self, permit: &Permit, metrics: &Metrics) {
        self.token = permit.token().cloned();
        self.shadowed = permit.shadowed();
        if let Some(code) = self.shadowed {
            metrics.shadow_refused(code);
        }
    }

    /// This target answered, so long after the request was sent.
    pub(super) fn served(&mut self, served: &Served, took: Duration) {
        self.target = Some(served.target.clone());
        self.route.upstream_seconds.observe(took);
    }

    /// The response with its id, and with the story's end tied to the end of its body.
    pub(super) fn told(
        mut self: Box<Self>,
        mut response: Response<Body>,
        setup: &Setup,
        metrics: &Metrics,
        id: &RequestId,
    ) -> Response<Body> {
        self.status = response.status();
        self.code = response.extensions().get::<Code>().copied();
        if let Some(code) = self.code {
            metrics.refused(code);
        }
        if let Some(quota) = &self.quota {
            policy::tell(quota, self.route.name(), response.headers_mut());
        }
        if let Some(page) = &self.page {
            page.dress(response.headers_mut());
        }
        let tunnel = self.tunnel.take();
        // A tunnel looks for itself.
        let cut = self.live.as_ref().filter(|_| tunnel.is_none()).map(Watched::cut);
        let ending = Ending { story: self, bytes: 0, complete: false };
        response = match tunnel {
            Some(tunnel) => {
                tokio::spawn(tunnel.run(ending));
                response
            }
            None => response.map(|body| Body::boxed(Told::new(body, ending))),
        };
        if let Some(cut) = cut {
            response.extensions_mut().insert(cut);
        }
        let name = setup.forwarding.request_id_header();
        if !response.headers().contains_key(name) {
            response.headers_mut().insert(name, id.value());
        }
        response
    }

    /// Counts and logs; called once, when the answer has been sent or given up.
    fn end(&self, bytes: u64, aborted: bool) {
        let cut =
            self.live.as_ref().filter(|_| aborted).and_then(|live| live.cause().map(|cause| (live, cause)));
        if let Some((live, _)) = cut {
            live.count();
        }
        let took = self.began.elapsed();
        self.route.request_seconds.observe(took);
        self.route.answered(self.status.as_u16());
        if !self.log.is_on() {
            return;
        }
        let token = self.token.as_ref().map(|known| &known.token);
        self.log.write(&Record {
            at: self.at,
            request_id: self.request_id.as_str(),
            client: self.client,
            method: self.method.as_str(),
            host: self.host(),
            path: self.path(),
            status: self.status.as_u16(),
            bytes,
            took,
            route: self.route.name(),
            target: self.target.as_deref(),
            code: self.code.or(cut.map(|(_, cause)| cause.code())).map(Code::name),
            shadow: self.shadowed.map(Code::name),
            issuer: token.map(|token| &*token.issuer),
            subject: token.and_then(|token| token.subject.as_deref()),
            user_agent: self.user_agent.as_ref().and_then(|value| value.to_str().ok()),
            aborted,
        });
    }
}

/// The end of a story, tied to what the client still gets; dropping it tells it.
pub(super) struct Ending {
    story: Box<Story>,
    /// Sent so far.
    pub(super) bytes: u64,
    /// Nothing is missing.
    pub(super) complete: bool,
}

impl Ending {
    /// Whether the token was revoked or has expired meanwhile.
    pub(super) fn is_cut(&self) -> bool {
        self.story.live.as_ref().is_some_and(|live| live.cause().is_some())
    }

    /// Ready when the token was revoked or has expired; else the task is woken then. Exclusive, for a stream of HTTP/2 that
    /// has become a tunnel cannot be looked at from two threads, and a story holds its tunnel for a while.
    pub(super) fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        self.story.live.as_ref().map_or(Poll::Pending, |live| live.poll_cut(cx))
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.story.end(self.bytes, !self.complete);
    }
}

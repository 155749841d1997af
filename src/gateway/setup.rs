//! Everything about a configuration that a request needs: built whole, never changed, swapped by a reload.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{Request, Uri, Version};

use super::settings::Settings;
use crate::access::{Limiters, Permit};
use crate::answer::Body;
use crate::endpoint::{Endpoints, Origin};
use crate::forward::{Forwarding, Identity, Inbound, Outbound, RequestId};
use crate::issuer;
use crate::route::settings::{Limits, Route};
use crate::route::{Head, Match, Peer, Table};
use crate::telemetry::{AccessLog, Metrics, RouteMetrics};
use crate::upstream::Upstreams;

/// See the module.
pub struct Setup {
    /// Answers and the access log.
    pub settings: Settings,
    /// Limits on request heads.
    pub limits: Limits,
    /// Rewriting, prepared.
    pub forwarding: Forwarding,
    /// The routes, searchable.
    pub routes: Table,
    /// Who may have issued a token.
    pub issuers: Arc<issuer::Current>,
    /// Connections out.
    pub upstreams: Arc<Upstreams>,
    /// Requests that we answer ourselves.
    pub endpoints: Arc<Endpoints>,
    /// Where lines go.
    pub access_log: AccessLog,
    /// Streams end when their token is revoked or expires.
    pub cut_live_connections: bool,
    /// Counts of the routes that have a `rate_limit`.
    pub limiters: Limiters,
    /// The routes as configured.
    pub list: Vec<Arc<Route>>,
    /// Handles of routes, by name.
    by_route: HashMap<Arc<str>, Arc<RouteMetrics>>,
    /// Of requests that fell under no route.
    pub(super) no_route: Arc<RouteMetrics>,
    /// Of requests for our own endpoints.
    pub(super) own_endpoints: Arc<RouteMetrics>,
}

/// What a setup is made of, beside the routes.
pub struct Parts {
    /// Answers and the access log.
    pub settings: Settings,
    /// Limits on request heads.
    pub limits: Limits,
    /// Whom we believe, and what never passes.
    pub forward: crate::forward::settings::Settings,
    /// Who may have issued a token.
    pub issuers: Arc<issuer::Current>,
    /// Connections out.
    pub upstreams: Arc<Upstreams>,
    /// Requests that we answer ourselves.
    pub endpoints: Arc<Endpoints>,
    /// Where lines go.
    pub access_log: AccessLog,
    /// Streams end when their token is revoked or expires.
    pub cut_live_connections: bool,
    /// Those of the setup before, so that a reload starts nobody's count anew; none at first.
    pub limiters: Limiters,
}

impl Setup {
    /// From these parts and routes.
    pub fn new(parts: Parts, routes: Vec<Arc<Route>>, metrics: &Metrics) -> Self {
        let forwarding = Forwarding::new(&parts.forward, &parts.limits, routes.iter().map(|route| &**route));
        let handles = |name: &Arc<str>| (name.clone(), Arc::new(metrics.route(name)));
        let limiters = parts.limiters.renewed(&routes, Instant::now());
        let by_route = routes.iter().map(|route| handles(&route.name)).collect();
        Self {
            settings: parts.settings,
            limits: parts.limits,
            forwarding,
            list: routes.clone(),
            routes: Table::new(routes),
            issuers: parts.issuers,
            upstreams: parts.upstreams,
            endpoints: parts.endpoints,
            access_log: parts.access_log,
            cut_live_connections: parts.cut_live_connections,
            limiters,
            by_route,
            // The brackets tell them from names that people give to routes.
            no_route: handles(&Arc::from("(none)")).1,
            own_endpoints: handles(&Arc::from("(auth)")).1,
        }
    }

    pub(super) fn metrics_of(&self, route: &Route) -> &Arc<RouteMetrics> {
        self.by_route.get(&route.name).unwrap_or(&self.no_route)
    }

    /// Serves a request for one of our endpoints; owns all that it needs, for it runs on the control plane. What
    /// the endpoint sees is the path that was matched, and the client behind any trusted proxies.
    pub(super) fn endpoint(
        &self,
        peer: Peer,
        id: &RequestId,
        head: &Head,
        mut request: Request<Body>,
    ) -> impl Future<Output = http::Response<Body>> + Send + use<> {
        let client = self.forwarding.client_address(&peer, request.headers());
        let port = peer.address.map_or(0, |address| address.port());
        let peer = Peer { address: client.map(|ip| SocketAddr::new(ip, port)), ..peer };
        let (scheme, authority) = self.forwarding.client_origin(head, request.headers());
        let origin = Origin { scheme: scheme.into(), authority: authority.into() };
        request.extensions_mut().insert(origin);
        *request.uri_mut() = normal_uri(head);
        // HTTP/2 and absolute-form say it elsewhere.
        request.headers_mut().insert(http::header::HOST, head.authority().value().clone());
        let (endpoints, id) = (self.endpoints.clone(), id.as_str().to_owned());
        async move { endpoints.serve(peer, &id, request).await }
    }

    pub(super) fn outbound<'a>(
        &'a self,
        head: &'a Head,
        found: &Match<'a>,
        permit: &'a Permit,
        request_id: &'a RequestId,
        upgrade: bool,
    ) -> Outbound<'a> {
        Outbound {
            head,
            route: found.route,
            prefix_len: found.prefix_len,
            identity: permit.token().map(|known| Identity {
                subject: known.token.subject.as_deref(),
                session: known.token.session.as_deref(),
                token_id: &known.token.token_id,
                scope: &known.token.scopes,
                issuer: &known.token.issuer,
            }),
            forwarding: &self.forwarding,
            request_id,
            chunked: head.is_chunked(),
            upgrade,
            http2: self.upstreams.speaks_http2(found.route.upstream),
        }
    }

    pub(super) fn inbound<'a>(
        &'a self,
        route: &'a Route,
        request_id: &'a RequestId,
        tunnel: Option<Version>,
    ) -> Inbound<'a> {
        Inbound { route, forwarding: &self.forwarding, request_id, tunnel }
    }
}

/// The normalised path with the query as it came.
fn normal_uri(head: &Head) -> Uri {
    if let Some(target) = head.normal_target() {
        return Uri::from(target.clone());
    }
    let query = head.query().map(|query| format!("?{query}")).unwrap_or_default();
    // Normalising decodes unreserved characters and drops segments, so a target stays a target.
    Uri::try_from(format!("{}{query}", head.path())).unwrap_or_default()
}

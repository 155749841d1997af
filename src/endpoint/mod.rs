//! Requests that we answer ourselves; one file per endpoint. Lives on the control plane.
//!
//! What the room promises: an endpoint either does all of what it says or nothing; a revocation is in the log before
//! anything else is touched; a client that hangs up changes nothing about that (every request runs in a task of its
//! own). What it refuses to know: sockets, routes, TOML. Tokens and the log come in through [`Tokens`] and
//! [`Revocations`].

mod account;
mod browser;
mod call;
mod caller;
mod common;
mod delegate;
mod email;
mod events;
mod fields;
mod hasher;
mod imported;
mod lockout;
mod login;
mod logout;
mod oauth;
mod operator;
mod password;
mod place;
mod ports;
mod refresh;
mod reply;
mod revoking;
mod sessions;
pub mod settings;
mod tokens;
mod well_known;

#[cfg(test)]
mod support;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use zeroize::Zeroizing;

use crate::answer::{Body, BoxError, Code, Context, Problem};
use crate::clock::Clock;
use crate::route::Peer;
use crate::route::settings::Cors;
use crate::store::{Store, StoreError};
use crate::token::Transport;
use call::Call;
use delegate::Delegate;
use hasher::Hasher;
use lockout::Lockout;
use place::Place;

pub use browser::CSRF_CLAIM;
pub use call::Origin;
pub use operator::{CreatedUser, Lines as UserLines, Operator};
pub use place::catalogue;
pub use ports::{Grant, Issued, LogUnavailable, Revocations, SigningFailed, Tokens, Unstated, Unverified};

/// Rows stay this long after they expired, for clocks that disagree.
const PRUNE_MARGIN: Duration = Duration::from_secs(60);
/// Rows forgotten in one transaction: about ten milliseconds.
const PRUNE_ROWS: usize = 2_000;

/// What is handed over to the next process, each in a form that has its number.
const FAILED: &str = "failed sign-ins 1";
const ASSERTED: &str = "used assertions 1";

/// What the endpoints are made of.
#[derive(Clone)]
pub struct Parts {
    /// `[auth]`; `None`: only `/oauth2/revoke`, `/oauth2/introspect` and `/events` are served.
    pub auth: Option<settings::Settings>,
    /// `[[clients]]`.
    pub clients: Vec<settings::Client>,
    /// `realm` of challenges.
    pub realm: Box<str>,
    /// `[revocation] claims`.
    pub revocable_claims: Vec<Box<str>>,
    /// `max_token_bytes`.
    pub token_bytes_max: usize,
    /// Opens `/oauth2/introspect` as a bearer token; `None`: only clients do.
    pub admin_token: Option<Zeroizing<Vec<u8>>>,
    /// Users, sessions, tokens, trail.
    pub store: Arc<dyn Store>,
    /// Verifies and issues.
    pub tokens: Arc<dyn Tokens>,
    /// The log and the blocklist.
    pub revocations: Arc<dyn Revocations>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Every endpoint of CONTRACT §5.
pub struct Endpoints {
    parts: Parts,
    /// There whenever `[auth]` is.
    hasher: Option<Arc<Hasher>>,
    lockout: Arc<Lockout>,
    assertions: Arc<oauth::Assertions>,
    common: common::Shared,
    doors: Arc<events::Doors>,
    /// There where `[auth.delegate]` is.
    delegate: Option<Delegate>,
    /// Draws the hash that stands in for an account that is not there.
    decoys: hmac::Key,
}

impl Endpoints {
    /// Starts the hashing threads, where `[auth]` is there.
    ///
    /// # Errors
    /// Argon2 parameters out of range, threads that cannot be started, or no randomness to be had.
    pub fn new(parts: Parts) -> std::io::Result<Self> {
        let assertions = Arc::new(oauth::Assertions::new(parts.clock.now()));
        Self::start(parts, None, Arc::new(Lockout::new()?), assertions)
    }

    /// What these endpoints know by heart, for the process that takes the place of this one: failed sign-ins, and
    /// assertions that were used.
    pub fn memory(&self) -> Vec<(&'static str, Vec<u8>)> {
        vec![(FAILED, self.lockout.handed_over()), (ASSERTED, self.assertions.handed_over())]
    }

    /// Goes on with one part of what [`memory`](Self::memory) gave, before anybody is served; a part of another name is
    /// none of ours.
    pub fn recall(&self, name: &str, bytes: &[u8]) {
        match name {
            FAILED => self.lockout.take_over(bytes),
            ASSERTED => self.assertions.take_over(bytes),
            _ => {}
        }
    }

    /// The same endpoints with other settings, for a reload: failed sign-ins stay counted, used assertions stay used,
    /// and the hashing threads go on where their settings did not change.
    ///
    /// # Errors
    /// As [`Endpoints::new`].
    pub fn renewed(&self, parts: Parts) -> std::io::Result<Self> {
        Self::start(parts, self.hasher.clone(), self.lockout.clone(), self.assertions.clone())
    }

    fn start(
        parts: Parts,
        hasher: Option<Arc<Hasher>>,
        lockout: Arc<Lockout>,
        assertions: Arc<oauth::Assertions>,
    ) -> std::io::Result<Self> {
        let hasher = match &parts.auth {
            None => None,
            Some(auth) => Some(match hasher.filter(|hasher| hasher.fits(&auth.password)) {
                Some(hasher) => hasher,
                None => Arc::new(Hasher::start(&auth.password)?),
            }),
        };
        // The admin token outlives a restart, and so the draw.
        let secret = match &parts.admin_token {
            Some(token) => token.clone(),
            None => {
                let mut random = Zeroizing::new(vec![0; 32]);
                getrandom::fill(&mut random).map_err(std::io::Error::other)?;
                random
            }
        };
        let delegate = parts.auth.as_ref().and_then(|auth| auth.delegate.as_ref());
        let delegate = delegate.map(|it| Delegate::new(it, parts.token_bytes_max)).transpose()?;
        let decoys = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let common = common::Shared(parts.store.clone().common());
        Ok(Self { parts, hasher, lockout, assertions, common, doors: Arc::default(), delegate, decoys })
    }

    /// Whether a request is for one of the endpoints: its normalised path, and its host (a port is passed over).
    /// Unknown paths under a prefix of ours are ours too, and get a 404.
    pub fn matches(&self, path: &str, host: &str) -> bool {
        let auth = self.parts.auth.as_ref();
        if Place::find(path, auth).is_none() {
            return false;
        }
        let name = host.strip_suffix(|c: char| c.is_ascii_digit()).map_or(host, |_| {
            host.rsplit_once(':').map_or(host, |(name, port)| {
                if port.bytes().all(|c| c.is_ascii_digit()) { name } else { host }
            })
        });
        let served = |hosts: &[Box<str>]| {
            hosts.is_empty() || hosts.iter().any(|wanted| wanted.eq_ignore_ascii_case(name))
        };
        auth.is_none_or(|auth| served(&auth.hosts))
    }

    /// Which pages of other origins may use the endpoints.
    pub fn cors(&self) -> Option<&Arc<Cors>> {
        self.parts.auth.as_ref()?.cors.as_ref()
    }

    /// Where tokens are looked for.
    pub fn transport(&self) -> Transport {
        self.parts.auth.as_ref().map_or(Transport::HEADER, |auth| Transport {
            header: auth.header_transport,
            cookie: auth.cookie_transport,
        })
    }

    /// Answers a request, whose path is the normalised one that [`Endpoints::matches`] said yes to. `peer.address` is
    /// whom lockout counts and what is recorded: behind a trusted proxy, the gateway puts the client's address there.
    /// A refusal carries its [`Code`] as an extension, for the access log and the metrics. Dropping the future does
    /// not stop what has begun.
    pub async fn serve<B>(
        self: &Arc<Self>,
        peer: Peer,
        request_id: &str,
        request: Request<B>,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let head = *request.method() == Method::HEAD;
        let path = request.uri().path().to_owned();
        let answered = match self.admit(peer, request).await {
            Ok(call) => {
                let this = self.clone();
                // A task of its own: a client that hangs up drops this future, and must not stop a change half-way.
                tokio::spawn(async move { this.answer(&call).await }).await.unwrap_or_else(|_| {
                    tracing::error!(request_id, "an endpoint panicked");
                    Err(Problem::new(Code::Internal, "The request could not be processed"))
                })
            }
            Err(problem) => Err(problem),
        };
        let mut response = answered.unwrap_or_else(|problem| {
            let code = problem.code();
            let mut response = self.refuse(problem, request_id, head, &path);
            response.extensions_mut().insert(code);
            response
        });
        if head {
            *response.body_mut() = Body::empty();
        }
        response
    }

    fn refuse(&self, problem: Problem, request_id: &str, head: bool, path: &str) -> Response<Body> {
        let context = Context {
            request_id,
            realm: &self.parts.realm,
            invalid_token_status: StatusCode::UNPROCESSABLE_ENTITY,
            head,
            grpc: false,
            error_member: true,
        };
        match Place::find(path, self.parts.auth.as_ref()) {
            Some(Place::OauthToken | Place::Revoke | Place::Introspect) => oauth::refuse(problem, &context),
            Some(Place::SecurityEvent) => events::refuse_push(problem, &context),
            Some(Place::BackchannelLogout) => events::refuse_logout_token(problem, &context),
            _ => problem.into_response(&context),
        }
    }

    /// Finds the endpoint, and reads the body within its limit.
    async fn admit<B>(&self, peer: Peer, request: Request<B>) -> Result<Call, Problem>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let nothing = || Problem::new(Code::NotFound, "There is nothing here");
        let place = Place::find(request.uri().path(), self.parts.auth.as_ref()).ok_or_else(nothing)?;
        let methods = place.methods();
        if methods.is_empty() {
            return Err(nothing());
        }
        if !methods.contains(request.method()) {
            let allow = methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
            let words = format!("This takes {allow} only");
            return Err(Problem::new(Code::MethodNotAllowed, words).with_allow(allow));
        }
        Call::read(place, peer, request, self.parts.clock.now()).await
    }

    async fn answer(&self, call: &Call) -> Result<Response<Body>, Problem> {
        match &call.place {
            Place::Signup => self.sign_up(call).await,
            Place::Signin => self.sign_in(call).await,
            Place::Refresh => self.refresh(call).await,
            Place::Logout => self.log_out(call).await,
            Place::LogoutAll => self.log_out_everywhere(call).await,
            Place::Password => self.change_password(call).await,
            Place::Me => self.me(call).await,
            Place::Tokens if call.method == Method::DELETE => self.prune_tokens(call).await,
            Place::Tokens => self.list_tokens(call).await,
            Place::Token(id) => self.revoke_or_restore_token(call, id).await,
            Place::Sessions => self.list_sessions(call).await,
            Place::Session(id) => self.revoke_session(call, id).await,
            Place::Jwks => Ok(self.jwks(call)),
            Place::Metadata => self.metadata(call),
            Place::OauthToken => Ok(self.oauth_token(call).await),
            Place::Revoke => Ok(self.oauth_revoke(call).await),
            Place::Introspect => Ok(self.oauth_introspect(call).await),
            Place::SecurityEvent => Ok(self.push(call).await),
            Place::BackchannelLogout => Ok(self.backchannel_logout(call).await),
            Place::Nothing => Err(Problem::new(Code::NotFound, "There is nothing here")),
        }
    }

    /// Forgets tokens and sessions that have expired; how many went. In pieces, so that nobody waits long for the
    /// store's writer.
    ///
    /// # Errors
    /// The store is away; what went so far is gone all the same.
    pub async fn prune(&self) -> Result<u64, StoreError> {
        let before = self.parts.clock.now().minus(PRUNE_MARGIN);
        let mut all = 0;
        loop {
            let some = self.parts.store.prune(before, PRUNE_ROWS).await?;
            all += some;
            if some == 0 {
                return Ok(all);
            }
        }
    }

    /// [`prune`](Self::prune), with its outcome in the log.
    pub async fn tidy(&self) {
        match self.prune().await {
            Ok(0) => {}
            Ok(rows) => tracing::debug!(rows, "pruned expired tokens and sessions"),
            Err(error) => tracing::warn!(%error, "expired tokens and sessions could not be pruned"),
        }
    }

    /// `[auth]`; the places that need it are found only where it is there.
    fn auth(&self) -> Result<&settings::Settings, Problem> {
        self.parts.auth.as_ref().ok_or_else(|| Problem::new(Code::NotFound, "There is nothing here"))
    }

    fn hasher(&self) -> Result<&Hasher, Problem> {
        self.hasher.as_deref().ok_or_else(|| Problem::new(Code::NotFound, "There is nothing here"))
    }
}

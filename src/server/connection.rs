//! One client connection, from its first bytes to its close.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::drain::{Admission, Drain, Phase, Ticket, Watch};
use super::guard::{Answer, Answering, Fault, Guard, HeadFacts, Link, Upgrade};
use super::layers::{Layers, LiveLayers, Speaks};
use super::lent::lend;
use super::stream::Stream;
use super::{LiveRules, Rules, http2};
use crate::answer::{Body, Code, Problem};
use crate::clock::Timer;
use crate::route::Peer;

/// The most that is read before it is decided who reads the rest; a common head fits.
const FIRST_BYTES: usize = 2048;

/// A client that is turned away gets this long to send its request, so that the answer does not come before it.
const TURN_AWAY_AFTER: Duration = Duration::from_millis(500);

/// A connection that has said nothing when the drain begins may have a request on its way through the kernel.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// After so long without a request, a connection is given no more buffers than one that has said nothing yet. Those
/// that are in use never come to it. Sooner in unit tests, so that connections there do.
const REST_AFTER: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 1000 });

/// hyper's buffers hold a whole head and something of the next.
const BESIDE_HEAD: usize = 16 * 1024;
/// Enough for a response body to be written in large pieces.
const BUFFER_BYTES: usize = 64 * 1024;

/// Answers requests.
pub trait Handler: Clone + Send + Sync + 'static {
    /// The answer to one request. With `Err(problem)` the request is a stand-in that says nothing (the client's own
    /// never got this far), and the answer must be the problem's; its `connection: close`, if it has one, stays.
    ///
    /// A request body that errs holds an [`std::io::Error`] among its sources: `TimedOut` when the client was too
    /// slow (408), `InvalidData` when its framing was bad (400), `UnexpectedEof` when it left. The future is dropped
    /// when the client leaves. Panics end this connection alone.
    fn handle(
        &self,
        peer: Peer,
        verdict: Result<HeadFacts, Problem>,
        request: Request<Body>,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// What all connections of a listener share.
pub(super) struct Site<H> {
    pub(super) handler: H,
    pub(super) rules: LiveRules,
    pub(super) drain: Drain,
    pub(super) layers: LiveLayers,
    pub(super) http1: http1::Builder,
}

impl<H: Handler> Site<H> {
    pub(super) fn new(handler: H, layers: LiveLayers, rules: LiveRules, drain: Drain) -> Self {
        let mut http1 = http1::Builder::new();
        // The guard's time-outs rule; hyper's timer is there for whatever else may come to ask for one.
        http1.timer(TokioTimer::new()).header_read_timeout(None).keep_alive(true).half_close(false);
        Self { handler, rules, drain, layers, http1 }
    }

    fn http1(&self, rules: &Rules) -> http1::Builder {
        let mut http1 = self.http1.clone();
        http1.max_buf_size(BUFFER_BYTES.max(rules.head.bytes_max + BESIDE_HEAD));
        if rules.head.fields_max > 100 {
            // Up to its own default of 100, hyper keeps the table of fields on the stack.
            http1.max_headers(rules.head.fields_max);
        }
        http1
    }
}

/// How a clear-text connection begins.
enum Opening {
    /// With HTTP/1.1, or what goes for it.
    Http1(Vec<u8>),
    /// With the preface of HTTP/2.
    Http2(Vec<u8>),
    /// With nothing good.
    Refused(Fault),
    /// With its end.
    Closed,
}

/// One connection that was let in, or is to be told that there are too many.
pub(super) struct Entrant<H> {
    pub(super) site: Arc<Site<H>>,
    /// The listener's when it was accepted.
    pub(super) layers: Arc<Layers>,
    pub(super) accepted: Instant,
    pub(super) admission: Admission,
    pub(super) ticket: Ticket,
}

impl<H> Entrant<H> {
    /// When its first head must be whole, or it has to have asked for what it will not get.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.admission {
            Admission::Welcome => {
                self.site.rules.load().header_read_timeout.map(|limit| self.accepted + limit)
            }
            Admission::TurnedAway => Some(self.accepted + TURN_AWAY_AFTER),
        }
    }
}

/// Serves one connection until it ends, is drained or is cut.
pub(super) async fn serve<S: Stream, H: Handler>(
    mut stream: S,
    speaks: Speaks,
    peer: Peer,
    entrant: Entrant<H>,
) {
    let deadline = entrant.deadline();
    let rules = entrant.site.rules.load_full();
    let mut watch = Watch::new(entrant.site.drain.clone());
    let turned_away = entrant.admission == Admission::TurnedAway;
    let late = if turned_away { Fault::Overloaded } else { Fault::HeadTimeout };
    let opening = match speaks {
        Speaks::Http2 => Opening::Http2(Vec::new()),
        Speaks::Http1 => open(&mut stream, deadline, &mut watch, late, false).await,
        Speaks::Either => open(&mut stream, deadline, &mut watch, late, true).await,
    };
    let opening = match opening {
        Opening::Http2(first) => return http2::serve(stream, first, peer, rules, watch, entrant).await,
        Opening::Http1(_) if turned_away => Opening::Refused(Fault::Overloaded),
        other => other,
    };
    let Entrant { site, layers, ticket, .. } = entrant;
    let link = Arc::new(Link::default());
    let http1 = site.http1(&rules);
    let guard = |first| Guard::new(stream, first, deadline, rules, Arc::clone(&link), ticket);
    let guard = match opening {
        Opening::Http1(first) => guard(first),
        Opening::Refused(fault) => guard(Vec::new()).refusing(fault),
        Opening::Closed | Opening::Http2(_) => return,
    };
    let service = Arc::new(Service { site, layers, peer, link });
    let mut guard = Box::new(guard);
    while let Some(rested) = talk(guard, &http1, &service, &mut watch).await {
        guard = rested;
        if !rest(&mut guard, &service.link, &mut watch).await {
            return;
        }
    }
}

/// Has hyper serve requests until the connection ends, or has been idle for a while; then gives back the stream and
/// keeps no buffer.
async fn talk<S: Stream, H: Handler>(
    guard: Box<Guard<S>>,
    http1: &http1::Builder,
    service: &Arc<Service<H>>,
    watch: &mut Watch,
) -> Option<Box<Guard<S>>> {
    let link = Arc::clone(&service.link);
    let service = Arc::clone(service);
    let answer = service_fn(move |request| {
        let service = Arc::clone(&service);
        async move { Ok::<_, Infallible>(service.answer(request).await) }
    });
    let (guard, lender) = lend(guard);
    let mut connection = Box::pin(http1.serve_connection(TokioIo::new(guard), answer).with_upgrades());
    let mut drained = false;
    let mut grace: Option<Pin<Box<Sleep>>> = None;
    let mut idle = Idle::default();
    let end = poll_fn(|cx| {
        loop {
            if let Poll::Ready(end) = connection.as_mut().poll(cx) {
                return Poll::Ready(End::Over(end));
            }
            // A client that takes nothing keeps hyper from asking the body, which would say so, too.
            if link.poll_cut(cx).is_ready() {
                return Poll::Ready(End::Cut);
            }
            match watch.poll_phase(cx) {
                Phase::Serving if idle.poll_long(&link, cx).is_ready() => return Poll::Ready(End::Idle),
                Phase::Serving => return Poll::Pending,
                Phase::Stopped => return Poll::Ready(End::Cut),
                Phase::Draining if drained => return Poll::Pending,
                // Half a head has come: hyper would take the connection for idle. Its answer says close.
                Phase::Draining if link.mid_head() && link.outstanding() == 0 => return Poll::Pending,
                // An idle client may have sent its next request a moment ago; that one is still answered, and says close.
                Phase::Draining if link.outstanding() == 0 => {
                    let grace =
                        grace.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + LAST_WORDS)));
                    if grace.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    drained = true;
                    connection.as_mut().graceful_shutdown();
                }
                Phase::Draining => {
                    drained = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    })
    .await;
    match end {
        End::Idle => return lender.recall(connection),
        End::Over(Ok(())) => {}
        End::Over(Err(error)) => {
            tracing::debug!(%error, "connection ended early");
            link.set_abort();
        }
        End::Cut => link.set_abort(),
    }
    None
}

/// Why hyper is done with a connection.
enum End {
    /// It ended.
    Over(hyper::Result<()>),
    /// It is to be cut.
    Cut,
    /// It has been idle for [`REST_AFTER`].
    Idle,
}

/// How long nothing has been asked on a connection.
#[derive(Default)]
struct Idle {
    since: Option<Instant>,
    timer: Timer,
}

impl Idle {
    /// Ready when it has been for long.
    fn poll_long(&mut self, link: &Link, cx: &mut Context<'_>) -> Poll<()> {
        if link.outstanding() > 0 || link.mid_head() {
            self.since = None;
            return Poll::Pending;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        ready!(self.timer.poll(since + REST_AFTER, cx));
        if link.resting() {
            return Poll::Ready(());
        }
        // Something of the last request is still with hyper: another look, later.
        let since = *self.since.insert(Instant::now());
        self.timer.poll(since + REST_AFTER, cx)
    }
}

/// Waits for the next request, or whatever else comes: then there is something for hyper to do. False when everything
/// is to be cut.
async fn rest<S: Stream>(guard: &mut Guard<S>, link: &Link, watch: &mut Watch) -> bool {
    poll_fn(|cx| {
        let mut buffer = [std::mem::MaybeUninit::uninit(); FIRST_BYTES];
        let mut read = ReadBuf::uninit(&mut buffer);
        // An end and an error come again when hyper asks.
        if Pin::new(&mut *guard).poll_read(cx, &mut read).is_ready() {
            guard.unread(read.filled());
            return Poll::Ready(true);
        }
        match watch.poll_phase(cx) {
            Phase::Serving => Poll::Pending,
            // Half a head has come, and has its deadline.
            Phase::Draining if link.mid_head() => Poll::Pending,
            Phase::Draining => Poll::Ready(true),
            Phase::Stopped => {
                link.set_abort();
                Poll::Ready(false)
            }
        }
    })
    .await
}

/// Reads the first bytes of a connection, before any other buffer is made for it: ten thousand silent connections
/// cost a task and a socket each. Where `peek`, the preface of HTTP/2 (prior knowledge, RFC 9113 §3.3) is told apart.
async fn open<S: Stream>(
    stream: &mut S,
    mut deadline: Option<Instant>,
    watch: &mut Watch,
    late: Fault,
    peek: bool,
) -> Opening {
    let mut peeked: Vec<u8> = Vec::new();
    let mut hurried = false;
    let mut sleep: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        let mut buffer = [std::mem::MaybeUninit::uninit(); FIRST_BYTES];
        let mut first = ReadBuf::uninit(&mut buffer);
        loop {
            first.clear();
            match Pin::new(&mut *stream).poll_read(cx, &mut first) {
                Poll::Ready(Ok(())) if first.filled().is_empty() => return Poll::Ready(Opening::Closed),
                Poll::Ready(Ok(())) => peeked.extend_from_slice(first.filled()),
                Poll::Ready(Err(_)) => return Poll::Ready(Opening::Closed),
                Poll::Pending => break,
            }
            let same = peeked.iter().zip(http2::PREFACE).take_while(|(a, b)| a == b).count();
            if peek && same == http2::PREFACE.len() {
                return Poll::Ready(Opening::Http2(std::mem::take(&mut peeked)));
            }
            // Else it may become a preface with the bytes that are still to come.
            if !peek || same < peeked.len() {
                return Poll::Ready(Opening::Http1(std::mem::take(&mut peeked)));
            }
        }
        let serving = watch.poll_phase(cx) == Phase::Serving;
        if !serving && !hurried {
            hurried = true;
            let soon = Instant::now() + LAST_WORDS;
            deadline = Some(deadline.map_or(soon, |deadline| deadline.min(soon)));
            sleep = None;
        }
        let Some(deadline) = deadline else { return Poll::Pending };
        let sleep = sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        sleep.as_mut().poll(cx).map(|()| if serving { Opening::Refused(late) } else { Opening::Closed })
    })
    .await
}

/// What stands between hyper and the handler of one connection.
struct Service<H> {
    site: Arc<Site<H>>,
    layers: Arc<Layers>,
    peer: Peer,
    link: Arc<Link>,
}

impl<H: Handler> Service<H> {
    async fn answer(&self, request: Request<Incoming>) -> Response<Answer> {
        let verdict = self.link.take();
        let answering = Answering::new(Arc::clone(&self.link));
        let undecided = matches!(verdict, Some(Ok(HeadFacts { upgrade: true, .. })));
        let verdict = match verdict {
            Some(verdict) => verdict.map_err(Fault::problem),
            None => Err(Problem::new(Code::Internal, "the request cannot be served").closing()),
        };
        let request = request.map(Body::incoming);
        let mut response = self.site.handler.handle(self.peer.clone(), verdict, request).await;
        if let Some(cut) = response.extensions_mut().remove() {
            self.link.watch(cut);
        }
        self.layers.mark(&mut response);
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if undecided {
            self.link.decide(if switched { Upgrade::Accepted } else { Upgrade::Refused });
        }
        // A body that has not come in by now would have to be waited for before the next request: say so. And nobody
        // gets another request in while we drain.
        if !switched && (self.link.owes_body() || self.site.drain.phase() != Phase::Serving) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response.map(|body| answering.with(body))
    }
}

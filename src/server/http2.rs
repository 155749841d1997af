//! One HTTP/2 connection: streams in place of a queue, each a task of its own.
//!
//! What the judgement on raw bytes does for HTTP/1.1, the frames do here: a message has one beginning and one end. The library
//! refuses malformed heads by itself (connection-specific fields, upper case, bad pseudo-fields: RFC 9113 §8.1.1),
//! and resets their streams. What it leaves to us are the waits: for the first head, for the next request, for a
//! body, and for a client that does not take its answer.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::Rules;
use super::connection::{Entrant, Handler, Site};
use super::drain::{Admission, Phase, Ticket, Watch};
use super::guard::{BodyLength, Fault, HeadFacts};
use super::layers::Layers;
use super::stream::{Prefixed, Stream};
use crate::answer::{Body, BoxError, Cut, Hold, Holding, Interim};
use crate::clock::Timer;
use crate::route::Peer;

/// What a connection begins with (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Requests of one connection at once: as many as RFC 9113 §6.5.2 wants at least, and some.
const STREAMS_MAX: u32 = 128;
/// Streams that a client has opened and reset at once, and that we have not come to (CVE-2023-44487).
const RESETS_WAITING_MAX: usize = 20;
/// Streams that the client made us reset (CVE-2025-8671).
const RESETS_CAUSED_MAX: usize = 128;
/// Requests of one connection that the client gave up at once, after we had begun to serve them: each has cost an
/// upstream its work and the client two small frames. More of them, and more than it waited for, end the connection.
const GIVEN_UP_MAX: u64 = 500;
/// Given up later than this, an answer was waited for.
const AT_ONCE: Duration = Duration::from_secs(1);
/// What a client may send of one body before it is read.
const STREAM_WINDOW: u32 = 256 * 1024;
/// And of all bodies. Wide, for with a narrow one many small DATA frames are taken for a flood.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What is kept of an answer that the client does not take.
const SEND_BYTES_MAX: usize = 64 * 1024;
/// What RFC 9113 §6.5.2 adds to each field's length where `max_header_bytes` counts octets.
const FIELD_OVERHEAD: usize = 32;
/// A client that has said nothing for so long is asked whether it is there. No other frame may come between the
/// frames of one head, so this also ends a head that never does.
const PING_EVERY: Duration = Duration::from_secs(20);
/// And has so long to answer: what we have sent before may be on its way for a while.
const PING_WITHIN: Duration = Duration::from_secs(40);
/// After we have said good-bye, an idle client has so long to hang up.
const FAREWELL: Duration = Duration::from_secs(5);

/// What the requests of a connection have in common.
struct Shared<H> {
    site: Arc<Site<H>>,
    layers: Arc<Layers>,
    peer: Peer,
    rules: Arc<Rules>,
    streams: Arc<Streams>,
    turned_away: bool,
}

/// How many requests there are.
#[derive(Default)]
struct Streams {
    open: AtomicUsize,
    total: AtomicU64,
    given_up: AtomicU64,
    connection: AtomicWaker,
}

impl Streams {
    fn abused(&self) -> bool {
        let given_up = self.given_up.load(Ordering::Acquire);
        given_up > GIVEN_UP_MAX && given_up > self.total.load(Ordering::Acquire) / 2
    }
}

/// A request that is not over.
struct Place {
    streams: Arc<Streams>,
    since: Instant,
    answered: bool,
}

impl Place {
    fn take(streams: &Arc<Streams>) -> Self {
        streams.open.fetch_add(1, Ordering::AcqRel);
        streams.total.fetch_add(1, Ordering::AcqRel);
        Self { streams: Arc::clone(streams), since: Instant::now(), answered: false }
    }

    /// Another hold on the same connection, for the tunnel that a request may become.
    fn once_more(&self) -> Self {
        self.streams.open.fetch_add(1, Ordering::AcqRel);
        Self { streams: Arc::clone(&self.streams), since: self.since, answered: true }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let early = !self.answered && self.since.elapsed() < AT_ONCE;
        if early {
            self.streams.given_up.fetch_add(1, Ordering::AcqRel);
        }
        if self.streams.open.fetch_sub(1, Ordering::AcqRel) == 1 || early && self.streams.abused() {
            self.streams.connection.wake();
        }
    }
}

/// Serves one connection until it ends, is drained or is cut. `first` has been read of it already.
pub(super) async fn serve<S: Stream, H: Handler>(
    stream: S,
    first: Vec<u8>,
    peer: Peer,
    rules: Arc<Rules>,
    watch: Watch,
    entrant: Entrant<H>,
) {
    // One type for all kinds of streams: the frames are what costs, not the call.
    let stream: Box<dyn Stream> = Box::new(Prefixed::new(first, stream));
    Box::pin(drive(stream, peer, rules, watch, entrant)).await;
}

async fn drive<H: Handler>(
    stream: Box<dyn Stream>,
    peer: Peer,
    rules: Arc<Rules>,
    mut watch: Watch,
    entrant: Entrant<H>,
) {
    let deadline = entrant.deadline();
    let Entrant { site, layers, admission, ticket, .. } = entrant;
    let streams = Arc::new(Streams::default());
    let turned_away = admission == Admission::TurnedAway;
    let http2 = builder(&rules);
    let idle_timeout = rules.idle_timeout;
    let shared = Arc::new(Shared { site, layers, peer, rules, streams: Arc::clone(&streams), turned_away });
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        // Counted here, on the connection's own task, so that none is overlooked when it is taken for idle.
        let place = Place::take(&shared.streams);
        async move { Ok::<_, Infallible>(shared.answer(request, place).await) }
    });
    let mut connection = pin!(http2.serve_connection(TokioIo::new(stream), service));
    let mut waits = Waits { first: deadline, idle: idle_timeout, since: None, parting: None };
    let mut timer = Timer::default();
    let end = poll_fn(|cx| {
        streams.connection.register(cx.waker());
        loop {
            if let Poll::Ready(end) = connection.as_mut().poll(cx) {
                return Poll::Ready(Some(end));
            }
            if streams.abused() {
                tracing::debug!("a client gives up its requests as fast as it makes them");
                return Poll::Ready(None);
            }
            let phase = watch.poll_phase(cx);
            if phase == Phase::Stopped {
                return Poll::Ready(None);
            }
            let served = streams.total.load(Ordering::Acquire);
            if (phase == Phase::Draining || turned_away && served > 0) && waits.parting.is_none() {
                waits.parting = Some(None);
                connection.as_mut().graceful_shutdown();
                continue;
            }
            let idle = streams.open.load(Ordering::Acquire) == 0;
            let Some(until) = waits.until(idle, served > 0) else { return Poll::Pending };
            ready!(timer.poll(until, cx));
            if waits.parting.is_some() || served == 0 {
                return Poll::Ready(None);
            }
            waits.parting = Some(None);
            connection.as_mut().graceful_shutdown();
        }
    })
    .await;
    if let Some(Err(error)) = end {
        tracing::debug!(%error, "connection ended early");
    }
    drop::<Ticket>(ticket);
}

/// What a connection without requests waits for.
struct Waits {
    /// The first request.
    first: Option<Instant>,
    /// The next one.
    idle: Option<Duration>,
    since: Option<Instant>,
    /// We have said good-bye; when we hang up, once it is known.
    parting: Option<Option<Instant>>,
}

impl Waits {
    /// When the wait is over; `None` while requests are served, and where there is no limit.
    fn until(&mut self, idle: bool, served: bool) -> Option<Instant> {
        if !idle {
            self.since = None;
            self.parting = self.parting.map(|_| None);
            return None;
        }
        if let Some(until) = &mut self.parting {
            return Some(*until.get_or_insert_with(|| Instant::now() + FAREWELL));
        }
        if !served {
            return self.first;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        self.idle.map(|limit| since + limit)
    }
}

fn builder(rules: &Rules) -> http2::Builder<Tasks> {
    let mut http2 = http2::Builder::new(Tasks { stall: rules.write_stall });
    let list = rules.head.bytes_max + rules.head.fields_max * FIELD_OVERHEAD;
    http2
        .timer(TokioTimer::new())
        // WebSockets (RFC 8441); what else is asked for this way is refused with all CONNECT.
        .enable_connect_protocol()
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(RESETS_WAITING_MAX)
        .max_local_error_reset_streams(RESETS_CAUSED_MAX)
        .max_header_list_size(u32::try_from(list).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BYTES_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WITHIN);
    http2
}

/// Of one connection alone (RFC 9113 §8.2.2).
const CONNECTION_SPECIFIC: [HeaderName; 4] =
    [CONNECTION, TRANSFER_ENCODING, UPGRADE, HeaderName::from_static("keep-alive")];

impl<H: Handler> Shared<H> {
    async fn answer(&self, request: Request<Incoming>, mut place: Place) -> Response<Answer> {
        let verdict =
            if self.turned_away { Err(Fault::Overloaded.problem()) } else { Ok(self.facts(&request)) };
        let mut request = request.map(|body| match body.is_end_stream() {
            true => Body::empty(),
            false => Body::boxed(Timed::new(body, self.rules.body_read_timeout)),
        });
        if *request.method() == Method::CONNECT {
            let state = STATE.try_with(Arc::clone).unwrap_or_default();
            let held = Held { state, _place: place.once_more() };
            request.extensions_mut().insert(Hold(Arc::new(held)));
        }
        // The library cannot send what comes before an answer.
        let interim = Interim::default();
        let mut response = self.site.handler.handle(self.peer.clone(), verdict, request, &interim).await;
        self.layers.mark(&mut response);
        for name in &CONNECTION_SPECIFIC {
            response.headers_mut().remove(name);
        }
        own_values(response.headers_mut());
        let state = STATE.try_with(Arc::clone).unwrap_or_default();
        if let Some(cut) = response.extensions_mut().remove() {
            state.watch(cut);
        }
        place.answered = true;
        response.map(|body| Answer { body, state, _place: place })
    }

    fn facts(&self, request: &Request<Incoming>) -> HeadFacts {
        let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
        HeadFacts {
            sequence: self.streams.total.load(Ordering::Relaxed),
            head_bytes: request.uri().to_string().len() + fields.sum::<usize>(),
            body: match request
                .headers()
                .get(CONTENT_LENGTH)
                .and_then(|length| length.to_str().ok()?.parse().ok())
            {
                _ if request.body().is_end_stream() => BodyLength::None,
                Some(length) => BodyLength::Known(length),
                None => BodyLength::Chunked,
            },
            expect: request.headers().contains_key(http::header::EXPECT),
            upgrade: false,
        }
    }
}

/// Gives each value memory of its own. The library remembers what it has sent for as long as the connection lives (RFC
/// 7541 §2.3.2), and values are parts of the buffer that the upstream's head was read into: each would keep all of it.
fn own_values(headers: &mut HeaderMap) {
    for value in headers.values_mut() {
        let mut own = HeaderValue::from_bytes(value.as_bytes()).expect("it is one already");
        own.set_sensitive(value.is_sensitive());
        *value = own;
    }
}

tokio::task_local! {
    /// Of the stream whose task this is.
    static STATE: Arc<State>;
}

/// What a stream's task must know of its answer.
#[derive(Default)]
struct State {
    cut: Mutex<Option<Cut>>,
    cuttable: AtomicBool,
    /// The last bytes that the body gave have not been taken.
    holding: AtomicBool,
    /// Goes up when the body gives bytes.
    moved: AtomicU64,
    /// The tunnel on it is over, and so is the stream.
    abandoned: AtomicBool,
    tunnel: AtomicWaker,
}

/// A stream that has become a tunnel.
struct Held {
    state: Arc<State>,
    _place: Place,
}

impl Holding for Held {
    fn abandon(&self) {
        self.state.abandoned.store(true, Ordering::Release);
        self.state.tunnel.wake();
    }
}

impl State {
    fn watch(&self, cut: Cut) {
        *self.cut.lock().unwrap_or_else(PoisonError::into_inner) = Some(cut);
        self.cuttable.store(true, Ordering::Release);
    }

    fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.cuttable.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        let cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        cut.as_ref().map_or(Poll::Pending, |cut| cut.0.poll_cut(cx))
    }

    fn poll_abandoned(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.tunnel.register(cx.waker());
        if self.abandoned.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Has each stream of a connection be a task that can be cut.
#[derive(Clone)]
struct Tasks {
    stall: Option<Duration>,
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, future: F) {
        // The task of a stream starts another one when the stream becomes a tunnel: it writes what the tunnel gives it,
        // and waits for the client to take it.
        let parent = STATE.try_with(Arc::clone).ok();
        let tunnel = parent.is_some();
        let state = parent.unwrap_or_default();
        let task = Task {
            tunnel,
            future,
            state: Arc::clone(&state),
            stall: self.stall,
            seen: 0,
            deadline: None,
            timer: Timer::default(),
        };
        tokio::spawn(STATE.scope(state, task));
    }
}

pin_project! {
    /// A stream's task. A client that takes nothing keeps the library from asking the body, so the task itself looks
    /// for a cut, and gives up such a client; dropping the future resets the stream.
    struct Task<F> {
        #[pin]
        future: F,
        state: Arc<State>,
        tunnel: bool,
        stall: Option<Duration>,
        seen: u64,
        deadline: Option<Instant>,
        timer: Timer,
    }
}

impl<F: Future<Output = ()>> Future for Task<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.future.poll(cx).is_ready() || this.state.poll_cut(cx).is_ready() {
            return Poll::Ready(());
        }
        if *this.tunnel {
            return this.state.poll_abandoned(cx);
        }
        let Some(stall) = this.stall.filter(|_| this.state.holding.load(Ordering::Acquire)) else {
            *this.deadline = None;
            return Poll::Pending;
        };
        let moved = this.state.moved.load(Ordering::Acquire);
        if moved != *this.seen {
            (*this.seen, *this.deadline) = (moved, None);
        }
        let deadline = *this.deadline.get_or_insert_with(|| Instant::now() + stall);
        this.timer.poll(deadline, cx)
    }
}

/// The body of an answer.
struct Answer {
    body: Body,
    state: Arc<State>,
    _place: Place,
}

/// Resets the stream with CANCEL: nothing is wrong, but the answer must not go on. (Other errors of a body reset it
/// with INTERNAL_ERROR, or with the reason for which the upstream did.)
#[derive(Debug, thiserror::Error)]
#[error("the answer is cut short")]
struct CutShort(#[source] h2::Error);

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.state.holding.store(false, Ordering::Release);
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.state.moved.fetch_add(1, Ordering::AcqRel);
        self.state.holding.store(true, Ordering::Release);
        if matches!(frame, Some(Err(_))) && self.state.poll_cut(cx).is_ready() {
            return Poll::Ready(Some(Err(CutShort(h2::Error::from(h2::Reason::CANCEL)).into())));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request body that errs when the client is too slow.
struct Timed {
    body: Incoming,
    limit: Option<Duration>,
    deadline: Option<Instant>,
    timer: Timer,
}

impl Timed {
    fn new(body: Incoming, limit: Option<Duration>) -> Self {
        Self { body, limit, deadline: None, timer: Timer::default() }
    }
}

impl HttpBody for Timed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.deadline = None;
            // The library takes a reset by CANCEL or NO_ERROR for the end of a body; the upstream would take what came
            // before for all of it.
            if frame.is_none() && !this.body.is_end_stream() {
                let gone =
                    io::Error::new(io::ErrorKind::UnexpectedEof, "the request was reset before its end");
                return Poll::Ready(Some(Err(gone.into())));
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let Some(limit) = this.limit else { return Poll::Pending };
        let deadline = *this.deadline.get_or_insert_with(|| Instant::now() + limit);
        ready!(this.timer.poll(deadline, cx));
        let late = io::Error::new(io::ErrorKind::TimedOut, "the request body did not arrive in time");
        Poll::Ready(Some(Err(late.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

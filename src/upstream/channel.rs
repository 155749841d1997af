//! Connections to a target that speaks HTTP/2: each carries many requests.
//!
//! A channel takes no more requests at once than the target allows (SETTINGS_MAX_CONCURRENT_STREAMS): the library would
//! queue them, and one that waits there holds up all behind it. When all channels are full, another is opened.
//!
//! A name with several addresses gets a channel to each of them, and the requests are spread over these. A channel to an
//! address that the name no longer has gets no more requests, and is closed when those on it are over.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::client::{Builder, Connection, SendRequest};
use http::header::{CONNECTION, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::{Method, Request, Response};
use http_body::Body as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::connect::{ADDRESSES_MAX, ConnectError, Connector, Reached};
use super::decode::HEAD_BYTES_MAX;
use super::error::Fault;
use super::frames::Bounded;
use super::names::{Lead, Name};
use super::pool;
use super::stream::{Download, NoAnswer, Stream};
use super::target::Manner;
use super::upload::Outgoing;
use super::wire::{Counted, Lost, within};
use crate::clock::Timer;
use crate::http2::{Heard, Pulse};

/// What one response may have under way before it is read.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// And all of a connection.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// What is kept of a request's body that the target does not take.
const SEND_BYTES_MAX: usize = 64 * 1024;
/// A connection on which requests wait and nothing comes is asked whether it lives, and given up if it does not say so.
/// Unit tests do not wait for so long.
const PING_EVERY: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 20 });
const PING_WITHIN: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 20 });
/// What a target is taken to allow before it has said anything. A strange number, so that one that says this very one
/// is unlikely; it would count as silent.
const STREAMS_UNSAID: usize = 101;
/// The first look for what the target says; each further one is twice as late.
const LOOK_AFTER: Duration = Duration::from_millis(1);
/// Whatever a target allows, so that not everything hangs on one connection.
const STREAMS_MAX: usize = 1024;

/// All connections to one target.
#[derive(Debug)]
pub(super) struct Channels {
    list: Mutex<List>,
    /// One is opened at a time: those who wait share it.
    opening: AtomicBool,
    /// Why the last opening failed; changes with each that ends.
    outcome: watch::Sender<Option<ConnectError>>,
    /// The list has addresses to which there is no channel.
    lacking: AtomicBool,
    now: AtomicU32,
    keep_ticks: u32,
}

#[derive(Debug, Default)]
struct List {
    channels: Vec<Arc<Channel>>,
    /// Addresses to which a channel is wanted.
    lacking: Vec<Lead>,
    /// Where the search for the channel with the fewest requests begins.
    turn: usize,
    retired: bool,
}

/// Of one connection alone (RFC 9113 §8.2.2).
const CONNECTION_SPECIFIC: [HeaderName; 5] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// One connection. Dropping the last reference closes it.
#[derive(Debug)]
struct Channel {
    sender: SendRequest<Bytes>,
    /// Of a target that has a name.
    lead: Option<Lead>,
    streams: Arc<AtomicUsize>,
    /// It takes no more requests.
    over: Arc<AtomicBool>,
    heard: Heard,
    /// As the target last said.
    streams_max: Arc<AtomicUsize>,
    /// Whether it takes WebSockets (SETTINGS_ENABLE_CONNECT_PROTOCOL, RFC 8441 §3), once it has said anything.
    websockets: watch::Receiver<Option<bool>>,
    /// It was ended for its informational answers.
    flooded: Arc<AtomicBool>,
    used_at: AtomicU32,
    driver: JoinHandle<()>,
}

/// A place on a channel for one request; keeps the channel open.
#[derive(Debug)]
pub(super) struct Place {
    channel: Arc<Channel>,
    /// It had carried requests before.
    pub(super) reused: bool,
}

/// What somebody who needs a connection is to do.
enum Turn<'a> {
    Place(Place),
    Open(Opening<'a>),
    /// As whoever opened one, for them too, was told.
    Failed(ConnectError),
}

/// The task to open a connection. Given up, or done, it lets the next one begin.
struct Opening<'a> {
    channels: &'a Channels,
    failed: Option<ConnectError>,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.channels.opening.store(false, Ordering::Release);
        self.channels.outcome.send_replace(self.failed.take());
    }
}

impl Channels {
    /// Each is closed after it has been idle for `keep`.
    pub(super) fn new(keep: Duration) -> Self {
        Self {
            list: Mutex::default(),
            opening: AtomicBool::new(false),
            outcome: watch::Sender::new(None),
            lacking: AtomicBool::new(false),
            now: AtomicU32::new(0),
            keep_ticks: pool::keep_ticks(keep),
        }
    }

    /// A place on a connection that is open.
    pub(super) fn take(&self) -> Option<Place> {
        let mut list = self.list();
        list.channels.retain(|channel| !channel.is_over());
        list.turn = list.turn.wrapping_add(1);
        list.place()
    }

    /// A place on a new connection, or on one that somebody else has just opened; the time that connecting took
    /// where it was this one.
    pub(super) async fn open(
        &self,
        connector: &Connector,
        open: &Arc<AtomicUsize>,
    ) -> Result<Place, ConnectError> {
        if self.keep_ticks == 0 {
            return self.open_one(connector, open).await; // nobody else can have a place on it
        }
        let limit = connector.limit();
        let turn = timeout(limit, self.turn()).await;
        let mut opening = match turn.map_err(|_| ConnectError::Timeout(limit))? {
            Turn::Place(place) => return Ok(place),
            Turn::Failed(error) => return Err(error),
            Turn::Open(opening) => opening,
        };
        let opened = self.open_one(connector, open).await;
        opening.failed = opened.as_ref().err().map(ConnectError::again);
        opened
    }

    /// What came of waiting for those who open a connection now, or the task to do so. All who wait are told at once: handed
    /// on from one to the next, thousands of them would each wait for all before it.
    async fn turn(&self) -> Turn<'_> {
        let mut outcome = self.outcome.subscribe();
        loop {
            outcome.mark_unchanged();
            if let Some(place) = self.take() {
                return Turn::Place(place);
            }
            if !self.opening.swap(true, Ordering::AcqRel) {
                let opening = Opening { channels: self, failed: None };
                // Somebody may have opened one since we looked.
                return self.take().map_or(Turn::Open(opening), Turn::Place);
            }
            // An error: the sender lives in `self`.
            let _ = outcome.changed().await;
            let failed = outcome.borrow().as_ref().map(ConnectError::again);
            if let Some(failed) = failed {
                return Turn::Failed(failed);
            }
        }
    }

    async fn open_one(&self, connector: &Connector, open: &Arc<AtomicUsize>) -> Result<Place, ConnectError> {
        let channel = Channel::open(connector.connect().await?, open).await?;
        let place = Place { channel: Arc::clone(&channel), reused: false };
        channel.streams.fetch_add(1, Ordering::AcqRel);
        self.keep(channel, connector);
        if let Some(name) = connector.name() {
            self.follow(name);
        }
        Ok(place)
    }

    /// Opens one to this address, for requests to come.
    pub(super) async fn open_to(
        &self,
        lead: Lead,
        connector: &Connector,
        open: &Arc<AtomicUsize>,
    ) -> Result<(), ConnectError> {
        let channel = Channel::open(connector.connect_to(lead).await?, open).await?;
        self.keep(channel, connector);
        Ok(())
    }

    fn keep(&self, channel: Arc<Channel>, connector: &Connector) {
        channel.used_at.store(self.now.load(Ordering::Relaxed), Ordering::Relaxed);
        let mut list = self.list();
        // Looked up under the lock: either this sees that the address is gone, or `follow` sees the channel.
        let leads = match (connector.name(), channel.lead) {
            (Some(name), Some(mut lead)) => lead.holds(name),
            _ => true,
        };
        if !list.retired && self.keep_ticks > 0 && leads {
            list.channels.push(channel);
        }
    }

    /// Lets go of the connections to addresses that the name no longer has: each closes when its last request is over.
    /// Notes to which of the others there is none.
    pub(super) fn follow(&self, name: &Name) {
        let mut list = self.list();
        let Ok(answer) = name.current() else { return };
        let has = |lead: Lead| answer.addresses.contains(&lead.address);
        list.channels.retain(|channel| channel.lead.is_none_or(has));
        // Of the family that is known to work: the other one may lead to the same machine, or nowhere.
        let family = list.channels.iter().find_map(|channel| channel.address()).map(|it| it.is_ipv4());
        let channels = &list.channels;
        let lacking = answer.addresses.iter().filter(|address| {
            Some(address.is_ipv4()) == family
                && !channels.iter().any(|channel| channel.address() == Some(**address))
        });
        let room = ADDRESSES_MAX.saturating_sub(channels.len());
        list.lacking = lacking.take(room).map(|address| answer.lead(*address)).collect();
        self.lacking.store(!list.lacking.is_empty(), Ordering::Relaxed);
    }

    /// An address to which the caller is to open a connection.
    pub(super) fn lacking(&self) -> Option<Lead> {
        if !self.lacking.load(Ordering::Relaxed) {
            return None;
        }
        let mut list = self.list();
        let lead = list.lacking.pop();
        self.lacking.store(!list.lacking.is_empty(), Ordering::Relaxed);
        lead
    }

    /// A connection for one request alone.
    pub(super) async fn alone(connector: &Connector, open: &Arc<AtomicUsize>) -> Result<Place, ConnectError> {
        let channel = Channel::open(connector.connect().await?, open).await?;
        channel.streams.fetch_add(1, Ordering::AcqRel);
        Ok(Place { channel, reused: false })
    }

    /// One tick later: lets go of what has been idle for too long, and of what the other side closed.
    pub(super) fn tick(&self) {
        let now = self.now.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        self.list().channels.retain(|channel| {
            if channel.streams.load(Ordering::Acquire) > 0 {
                channel.used_at.store(now, Ordering::Relaxed);
            }
            let idle = now.wrapping_sub(channel.used_at.load(Ordering::Relaxed));
            !channel.is_over() && idle <= self.keep_ticks
        });
    }

    /// Connections without a request.
    pub(super) fn idle(&self) -> usize {
        let idle = |channel: &&Arc<Channel>| channel.streams.load(Ordering::Acquire) == 0;
        self.list().channels.iter().filter(idle).count()
    }

    /// Lets go of all connections; each closes when its last request is over.
    pub(super) fn retire(&self) {
        let mut list = self.list();
        list.retired = true;
        list.channels.clear();
    }

    /// As if each had been idle for too long.
    #[cfg(test)]
    pub(super) fn close_idle(&self) {
        self.list().channels.clear();
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl List {
    /// On the first channel with room, so that a surplus ages; where channels lead to several addresses, on the one of
    /// these with the fewest requests.
    fn place(&self) -> Option<Place> {
        let list = &self.channels;
        let first = list.first()?.address();
        if list.iter().all(|channel| channel.address() == first) {
            return list.iter().find_map(|channel| channel.place(true));
        }
        let is_first = |index: usize| {
            let address = list[index].address();
            !list[..index].iter().any(|before| before.address() == address && before.has_room())
        };
        let index = (0..list.len())
            .map(|step| self.turn.wrapping_add(step) % list.len())
            .filter(|&index| list[index].has_room() && is_first(index))
            .min_by_key(|&index| list[index].streams.load(Ordering::Acquire))?;
        list[index].place(true)
    }
}

impl Channel {
    async fn open((socket, lead): Reached, open: &Arc<AtomicUsize>) -> Result<Arc<Self>, ConnectError> {
        let open = Counted::new(open);
        let flooded = Arc::<AtomicBool>::default();
        let io = Bounded::new(socket, Arc::clone(&flooded));
        let handshake = Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BYTES_MAX)
            .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
            .initial_max_send_streams(STREAMS_UNSAID)
            .handshake(io)
            .await;
        let (sender, connection) =
            handshake.map_err(|error| ConnectError::Failed(std::io::Error::other(error)))?;
        let streams_max = Arc::new(AtomicUsize::new(connection.max_concurrent_send_streams()));
        let (tell, websockets) = watch::channel(None);
        let (streams, over, heard) =
            (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default(), Heard::default());
        let mut drive = Drive {
            connection,
            streams: Arc::clone(&streams),
            streams_max: Arc::clone(&streams_max),
            heard: heard.clone(),
            asker: Some((sender.clone(), tell)),
            pulse: None,
            timer: Timer::default(),
        };
        let ended = Arc::clone(&over);
        let driver = tokio::spawn(async move {
            let _open = open;
            drive.run().await;
            ended.store(true, Ordering::Release);
        });
        let used_at = AtomicU32::new(0);
        Ok(Arc::new(Self {
            sender,
            lead,
            streams,
            over,
            heard,
            streams_max,
            websockets,
            flooded,
            used_at,
            driver,
        }))
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    fn address(&self) -> Option<SocketAddr> {
        self.lead.map(|lead| lead.address)
    }

    fn streams_max(&self) -> usize {
        self.streams_max.load(Ordering::Relaxed).min(STREAMS_MAX)
    }

    fn has_room(&self) -> bool {
        self.streams.load(Ordering::Acquire) < self.streams_max()
    }

    fn place(self: &Arc<Self>, reused: bool) -> Option<Place> {
        let max = self.streams_max();
        let more = |streams| (streams < max).then_some(streams + 1);
        self.streams.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Place { channel: Arc::clone(self), reused })
    }
}

/// What reads and writes a connection's frames.
struct Drive {
    connection: Connection<Bounded, Bytes>,
    streams: Arc<AtomicUsize>,
    streams_max: Arc<AtomicUsize>,
    heard: Heard,
    /// Until the target has said what it allows: who is asked, and who is told.
    asker: Option<(SendRequest<Bytes>, watch::Sender<Option<bool>>)>,
    pulse: Option<Pulse>,
    timer: Timer,
}

impl Drive {
    /// Until the connection ends. What ends it is told to the requests that wait on it; of an idle one nobody needs to
    /// know.
    async fn run(&mut self) {
        self.pulse = self.connection.ping_pong().map(|pings| Pulse::new(pings, PING_EVERY, PING_WITHIN));
        let mut look_after = LOOK_AFTER;
        // The library does not wake us when settings come.
        let mut look = pin!(sleep(look_after));
        poll_fn(|cx| {
            loop {
                if Pin::new(&mut self.connection).poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                let max = self.connection.max_concurrent_send_streams();
                self.streams_max.store(max, Ordering::Relaxed);
                if max != STREAMS_UNSAID
                    && let Some((asked, tell)) = self.asker.take()
                {
                    let _ = tell.send(Some(asked.is_extended_connect_protocol_enabled()));
                }
                if self.asker.is_none() || look.as_mut().poll(cx).is_pending() {
                    return self.poll_pulse(cx);
                }
                look_after *= 2;
                look.as_mut().reset(Instant::now() + look_after);
            }
        })
        .await;
    }

    /// Ready when requests wait, and the target does not say that it is there.
    fn poll_pulse(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(pulse) = &mut self.pulse else { return Poll::Pending };
        if self.heard.take() {
            pulse.hear(Instant::now());
        }
        pulse.look(cx);
        while self.streams.load(Ordering::Acquire) > 0 {
            ready!(self.timer.poll(pulse.next(), cx));
            if !pulse.beat() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.channel.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Place {
    /// Whether the target opens WebSockets on streams; waits so long for its word.
    pub(super) async fn takes_websockets(&self, limit: Duration) -> bool {
        let mut word = self.channel.websockets.clone();
        let word = timeout(limit, word.wait_for(Option::is_some)).await;
        // A connection that has ended says so itself when it is used.
        word.is_ok_and(|word| word.is_ok_and(|word| *word == Some(true)))
    }

    /// As [`super::wire::Wire::send`]; the connection is of use after an error, too. Dropping the future, or the
    /// response's body, resets the stream.
    pub(super) async fn send(
        &self,
        request: Request<Outgoing>,
        manner: Manner<'_>,
    ) -> Result<Response<Download>, Lost> {
        let Manner { timeout: limit, tell, .. } = manner;
        let channel = &*self.channel;
        let upload = request.body().upload().cloned();
        let again = upload.is_none().then(|| copy(&request));
        let (idempotent, tunnel) = (request.method().is_idempotent(), *request.method() == Method::CONNECT);
        let mut sender = channel.sender.clone();
        if let Err(error) = poll_fn(|cx| sender.poll_ready(cx)).await {
            channel.over.store(true, Ordering::Release);
            return Err(Lost::Unsent(Box::new(request), error.into()));
        }
        let (mut head, body) = request.into_parts();
        for name in &CONNECTION_SPECIFIC {
            head.headers.remove(name);
        }
        if head.headers.get(TE).is_some_and(|te| te != "trailers") {
            head.headers.remove(TE);
        }
        let over = !tunnel && body.is_end_stream();
        // From now on silence counts.
        channel.heard.hear();
        let (answer, to) = match sender.send_request(Request::from_parts(head, ()), over) {
            Ok(sent) => sent,
            Err(error) => {
                return Err(match again {
                    Some(again) => Lost::Unsent(again, error.into()),
                    None => Lost::Silent(None, error.into()),
                });
            }
        };
        let answer = async {
            let stream = Stream::begin(answer, to, body, tunnel, channel.heard.clone()).await;
            stream.answer(tell).await
        };
        let error = match within(answer, upload.as_deref(), limit).await {
            Err(limit) => return Err(Lost::Timeout(limit)),
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(error)) => error,
        };
        if let Some(cause) = upload.and_then(|upload| upload.take_error()) {
            return Err(Lost::Body(cause));
        }
        let error = match error {
            NoAnswer::Ended(error) if !channel.flooded.load(Ordering::Acquire) => error,
            NoAnswer::Ended(_) | NoAnswer::Flood => return Err(Lost::Fault(Fault::Informational)),
        };
        Err(match (why(&error), again) {
            (Why::Untouched, Some(again)) => Lost::Unsent(again, error.into()),
            (Why::NotHttp2, _) => Lost::Fault(Fault::Parse(error.into())),
            (_, again) => Lost::Silent(again.filter(|_| idempotent), error.into()),
        })
    }
}

enum Why {
    /// The target says that it has not looked at the request (RFC 9113 §8.7).
    Untouched,
    /// What came is not HTTP/2, or breaks its rules.
    NotHttp2,
    Broken,
}

fn why(error: &h2::Error) -> Why {
    if error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM)
        || error.is_go_away() && error.is_remote()
    {
        Why::Untouched
    } else if error.is_library() {
        Why::NotHttp2
    } else {
        Why::Broken
    }
}

/// A request without a body once more.
pub(super) fn copy(request: &Request<Outgoing>) -> Box<Request<Outgoing>> {
    let mut again = Request::new(Outgoing::empty());
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.version_mut() = request.version();
    *again.headers_mut() = request.headers().clone();
    Box::new(again)
}

//! One HTTP/2 connection: streams in place of a queue.
//!
//! What the judgement on raw bytes does for HTTP/1.1, the frames do here: a message has one beginning and one end. The library
//! refuses malformed heads by itself (connection-specific fields, upper case, bad pseudo-fields: RFC 9113 §8.1.1),
//! and resets their streams. What it leaves to us are the waits: for the first head, for the next request, for a
//! body, and for a client that does not take its answer.
//!
//! One task has the connection and all its streams ([`places`]). In each of its turns it runs the streams that
//! something has come for ([`hub`]), has the library write what they answer and read what the client asks, and begins the new
//! streams; what was written leaves at the end, at once ([`cork`]).

mod cork;
mod exchange;
mod fields;
mod held;
mod hub;
mod places;
mod upload;
mod waits;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::{Builder, Connection, Handshake};
use tokio::task::coop::has_budget_remaining;
use tokio::time::Instant;

use super::Rules;
use super::connection::{Entrant, Handler};
use super::drain::{Admission, Phase, Ticket, Watch};
use super::stream::{Prefixed, Stream};
use crate::clock::Timer;
use crate::http2::Pulse;
use crate::route::Peer;
use cork::Cork;
use exchange::{Accepted, End, Shared};
use hub::{Hub, PLACES};
use places::Places;
use waits::{Due, Waits};

/// What a connection begins with (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Requests of one connection at once: as many as RFC 9113 §6.5.2 wants at least, and some.
const STREAMS_MAX: u32 = PLACES as u32;
/// Streams that a client has opened and reset at once, and that we have not come to (CVE-2023-44487).
const RESETS_WAITING_MAX: usize = 20;
/// Streams that the client made us reset (CVE-2025-8671).
const RESETS_CAUSED_MAX: usize = 128;
/// Requests of one connection that the client gave up at once, after we had begun to serve them: each has cost an
/// upstream its work and the client two small frames. More of them, and more than it waited for, end the connection.
const GIVEN_UP_MAX: u64 = 500;
/// What a client may send of one body before it is read.
const STREAM_WINDOW: u32 = 256 * 1024;
/// And of all bodies. Wide, for with a narrow one many small DATA frames are taken for a flood.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What is kept of an answer that the client does not take.
const SEND_BYTES_MAX: usize = 64 * 1024;
/// A client that has said nothing for so long is asked whether it is there. No other frame may come between the
/// frames of one head, so this also ends a head that never does. (Here and below, unit tests do not wait for so long.)
const PING_EVERY: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 20 });
/// And has so long to answer: what we have sent before may be on its way for a while.
const PING_WITHIN: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 40 });
/// What RFC 9113 §6.5.2 adds to each field's length where `max_header_bytes` counts octets.
const FIELD_OVERHEAD: usize = 32;

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
    let stream: Box<dyn Stream> = match first.is_empty() {
        true => Box::new(stream),
        false => Box::new(Prefixed::new(first, stream)),
    };
    Box::pin(drive(stream, peer, rules, watch, entrant)).await;
}

async fn drive<H: Handler>(
    stream: Box<dyn Stream>,
    peer: Peer,
    rules: Arc<Rules>,
    watch: Watch,
    entrant: Entrant<H>,
) {
    let deadline = entrant.deadline();
    let Entrant { site, layers, admission, ticket, .. } = entrant;
    let turned_away = admission == Admission::TurnedAway;
    let (cork, hub) = (Cork::new(stream), Arc::new(Hub::default()));
    let mut talk = Talk {
        library: Library::Greeting(builder(&rules).handshake(cork.clone())),
        cork,
        bell: hub.own_bell(),
        places: Places::new(&hub),
        watch,
        waits: Waits::new(deadline, rules.idle_timeout),
        timer: Timer::default(),
        served: 0,
        given_up: 0,
        turned_away,
        hub: Arc::clone(&hub),
    };
    let shared = Arc::new(Shared { site, layers, peer, rules, hub, turned_away });
    let serve =
        |accepted: Accepted, bell: &Waker| exchange::serve(Arc::clone(&shared), accepted, bell.clone());
    talk.bell.wake_by_ref();
    poll_fn(|cx| talk.poll(&serve, cx)).await;
    drop::<Ticket>(ticket);
}

fn builder(rules: &Rules) -> Builder {
    let mut builder = Builder::new();
    let list = rules.head.bytes_max + rules.head.fields_max * FIELD_OVERHEAD;
    builder
        // WebSockets (RFC 8441); what else is asked for this way is refused with all CONNECT.
        .enable_connect_protocol()
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(RESETS_WAITING_MAX)
        .max_local_error_reset_streams(Some(RESETS_CAUSED_MAX))
        .max_header_list_size(u32::try_from(list).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BYTES_MAX);
    builder
}

/// What frames the connection.
enum Library {
    Greeting(Handshake<Cork, Bytes>),
    Open(Connection<Cork, Bytes>, Pulse),
}

/// A connection, and where it stands. `F` serves one request.
struct Talk<F> {
    library: Library,
    cork: Cork,
    hub: Arc<Hub>,
    /// Rung for the library.
    bell: Waker,
    places: Places<F>,
    watch: Watch,
    waits: Waits,
    timer: Timer,
    served: u64,
    given_up: u64,
    turned_away: bool,
}

impl<F: Future<Output = End>> Talk<F> {
    /// Ready when the connection is to be dropped.
    fn poll(&mut self, serve: &impl Fn(Accepted, &Waker) -> F, cx: &mut Context<'_>) -> Poll<()> {
        self.hub.begin(cx.waker());
        while has_budget_remaining() {
            for place in places::each(self.hub.places()) {
                self.run(place);
            }
            if self.hub.connection() && self.poll_library(serve).is_ready() {
                return Poll::Ready(());
            }
            if !self.hub.is_quiet() {
                continue;
            }
            if self.poll_state(cx).is_ready() || self.poll_out().is_ready() {
                return Poll::Ready(());
            }
            if self.places.is_empty() {
                // Others may have the use of it: a silent connection keeps nothing for requests to come.
                self.places.rest();
                self.cork.rest();
            }
            if self.hub.rest() {
                return Poll::Pending;
            }
        }
        // Others have their turn. What there is to write would find no budget, either.
        self.hub.pause();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Has a stream go on.
    fn run(&mut self, place: usize) {
        if self.places.poll(place) == Poll::Ready(Some(End::GivenUpAtOnce)) {
            self.given_up += 1;
        }
    }

    /// Reads frames and writes them. Ready when the connection is over.
    fn poll_library(&mut self, serve: &impl Fn(Accepted, &Waker) -> F) -> Poll<()> {
        let bell = self.bell.clone();
        let mut cx = Context::from_waker(&bell);
        if let Library::Greeting(handshake) = &mut self.library {
            match ready!(Pin::new(handshake).poll(&mut cx)) {
                Ok(mut connection) => {
                    let pings = connection.ping_pong().expect("it is the first to ask");
                    let pulse = Pulse::new(pings, PING_EVERY, PING_WITHIN);
                    if self.waits.is_parting() {
                        connection.graceful_shutdown();
                    }
                    self.library = Library::Open(connection, pulse);
                }
                Err(error) => return ended_early(&error),
            }
        }
        let mut now = None;
        loop {
            let Library::Open(connection, pulse) = &mut self.library else { return Poll::Pending };
            let (request, respond) = match ready!(connection.poll_accept(&mut cx)) {
                Some(Ok(accepted)) => accepted,
                Some(Err(error)) => return ended_early(&error),
                None => return Poll::Ready(()),
            };
            let at = *now.get_or_insert_with(Instant::now);
            pulse.hear(at);
            self.served += 1;
            self.begin(serve, Accepted { request, respond, at, sequence: self.served });
        }
    }

    fn begin(&mut self, serve: &impl Fn(Accepted, &Waker) -> F, mut accepted: Accepted) {
        if self.places.free().is_none() {
            // Those that the client has reset are still in their places.
            places::each(self.places.taken()).for_each(|place| self.run(place));
        }
        match self.places.free() {
            Some(place) => {
                self.places.put(place, |bell| serve(accepted, bell));
                self.run(place);
            }
            None => accepted.respond.send_reset(Reason::REFUSED_STREAM),
        }
    }

    /// What time and the drain want. Ready when the connection is to be cut.
    fn poll_state(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.given_up > GIVEN_UP_MAX && self.given_up > self.served / 2 {
            tracing::debug!("a client gives up its requests as fast as it makes them");
            return Poll::Ready(());
        }
        let phase = self.watch.poll_phase(cx);
        if phase == Phase::Stopped {
            return Poll::Ready(());
        }
        if phase == Phase::Draining || self.turned_away && self.served > 0 {
            self.part();
        }
        if let Library::Open(_, pulse) = &mut self.library {
            if self.hub.heard.take() {
                pulse.hear(Instant::now());
            }
            pulse.look(&mut Context::from_waker(&self.bell));
        }
        loop {
            let idle = self.places.is_empty() && !self.hub.has_tunnels();
            let wait = self.waits.next(idle, self.served > 0);
            let beat = match &self.library {
                Library::Open(_, pulse) => Some(pulse.next()),
                Library::Greeting(_) => None,
            };
            let until = wait.map(|(until, _)| until);
            let Some(next) = until.into_iter().chain(beat).min() else { return Poll::Pending };
            ready!(self.timer.poll(next, cx));
            match wait {
                Some((until, due)) if until == next => match due {
                    Due::Parting => self.part(),
                    Due::End => return Poll::Ready(()),
                },
                _ => {
                    if let Library::Open(_, pulse) = &mut self.library
                        && !pulse.beat()
                    {
                        tracing::debug!("a client does not say that it is there");
                        return Poll::Ready(());
                    }
                }
            }
        }
    }

    /// Says good-bye, once.
    fn part(&mut self) {
        if self.waits.is_parting() {
            return;
        }
        self.waits.part();
        if let Library::Open(connection, _) = &mut self.library {
            connection.graceful_shutdown();
            self.bell.wake_by_ref();
        }
    }

    /// Writes what there is to write. Ready when nobody takes it any more.
    fn poll_out(&mut self) -> Poll<()> {
        match ready!(self.cork.poll_out(&mut Context::from_waker(&self.bell))) {
            Ok(()) => Poll::Pending,
            Err(error) => {
                tracing::debug!(%error, "a connection could not be written to");
                Poll::Ready(())
            }
        }
    }
}

fn ended_early(error: &h2::Error) -> Poll<()> {
    tracing::debug!(%error, "connection ended early");
    Poll::Ready(())
}

//! One client connection, from its first bytes to its close.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use tokio::io::ReadBuf;
use tokio::time::{Instant, Sleep, sleep_until};

use super::drain::{Admission, Drain, Phase, Ticket, Watch};
use super::guard::{Fault, HeadFacts};
use super::layers::{Layers, LiveLayers, Speaks};
use super::stream::Stream;
use super::{LiveRules, http1, http2};
use crate::answer::{Body, Interim, Problem};
use crate::route::Peer;

/// The most that is read before it is decided who reads the rest; a common head fits.
const FIRST_BYTES: usize = 2048;

/// A client that is turned away gets this long to send its request, so that the answer does not come before it.
const TURN_AWAY_AFTER: Duration = Duration::from_millis(500);

/// A connection that has said nothing when the drain begins may have a request on its way through the kernel.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(100);

/// Answers requests.
pub trait Handler: Clone + Send + Sync + 'static {
    /// The answer to one request. With `Err(problem)` the request is a stand-in that says nothing (the client's own
    /// never got this far), and the answer must be the problem's; its `connection: close`, if it has one, stays.
    ///
    /// A request body that errs holds an [`std::io::Error`] among its sources: `TimedOut` when the client was too
    /// slow (408), `InvalidData` when its framing was bad (400), `UnexpectedEof` when it left. The future is dropped
    /// when the client leaves. Panics end this connection alone. What `interim` is told before the answer is there goes
    /// to the client before it.
    fn handle(
        &self,
        peer: Peer,
        verdict: Result<HeadFacts, Problem>,
        request: Request<Body>,
        interim: &Interim,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// What all connections of a listener share.
pub(super) struct Site<H> {
    pub(super) handler: H,
    pub(super) rules: LiveRules,
    pub(super) drain: Drain,
    pub(super) layers: LiveLayers,
}

impl<H: Handler> Site<H> {
    pub(super) const fn new(handler: H, layers: LiveLayers, rules: LiveRules, drain: Drain) -> Self {
        Self { handler, rules, drain, layers }
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
    let first = match opening {
        Opening::Http1(first) => Ok(first),
        Opening::Refused(fault) => Err(fault),
        Opening::Closed | Opening::Http2(_) => return,
    };
    http1::serve(stream, first, deadline, peer, rules, watch, entrant).await;
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

//! One stream: a request, and its answer.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::{CONTENT_LENGTH, EXPECT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body as _;
use tokio::time::Instant;

use super::fields;
use super::held::Held;
use super::hub::Hub;
use super::upload::{Expected, Upload};
use crate::answer::{Body, BoxError, Cut, Handing, Hold, Interim, handover};
use crate::clock::Timer;
use crate::http2::{Pump, Tunnel};
use crate::route::Peer;
use crate::server::Rules;
use crate::server::connection::{Handler, Site};
use crate::server::guard::{BodyLength, Fault, HeadFacts};
use crate::server::layers::Layers;

/// Given up later than this, an answer was waited for.
const AT_ONCE: Duration = Duration::from_secs(1);

/// What the requests of a connection have in common.
pub(super) struct Shared<H> {
    pub(super) site: Arc<Site<H>>,
    pub(super) layers: Arc<Layers>,
    pub(super) peer: Peer,
    pub(super) rules: Arc<Rules>,
    pub(super) hub: Arc<Hub>,
    pub(super) turned_away: bool,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// There was an answer for it.
    Answered,
    /// The client gave it up before.
    GivenUp,
    /// The same, before it can have waited for one.
    GivenUpAtOnce,
}

/// A request as it was accepted.
pub(super) struct Accepted {
    pub(super) request: Request<RecvStream>,
    pub(super) respond: SendResponse<Bytes>,
    pub(super) at: Instant,
    /// Its number on the connection.
    pub(super) sequence: u64,
}

/// What of a request concerns its stream beside its answer.
struct Asked {
    head: bool,
    expected: Option<Arc<Expected>>,
    /// It may become a tunnel.
    tunnel: Option<(RecvStream, Handing, Arc<AtomicBool>)>,
}

/// Serves one request. `bell` is rung for it.
pub(super) async fn serve<H: Handler>(shared: Arc<Shared<H>>, accepted: Accepted, bell: Waker) -> End {
    let Accepted { request, mut respond, at, sequence } = accepted;
    let ended = request.body().is_end_stream();
    let verdict = if shared.turned_away {
        Err(Fault::Overloaded.problem())
    } else {
        Ok(facts(&request, ended, sequence))
    };
    let (request, asked) = shared.take(request, ended, bell);
    let interim = Interim::default();
    interim.begin(true);
    let answered = {
        let mut handler = pin!(shared.site.handler.handle(shared.peer.clone(), verdict, request, &interim));
        poll_fn(|cx| {
            let polled = handler.as_mut().poll(cx);
            for (status, headers) in interim.take() {
                tell(&mut respond, status, headers);
            }
            if polled.is_pending() && asked.expected.as_deref().is_some_and(Expected::take) {
                tell(&mut respond, StatusCode::CONTINUE, HeaderMap::new());
            }
            match polled {
                Poll::Ready(response) => Poll::Ready(Some(response)),
                Poll::Pending => respond.poll_reset(cx).map(|_| None),
            }
        })
        .await
    };
    let Some(mut response) = answered else {
        return if at.elapsed() < AT_ONCE { End::GivenUpAtOnce } else { End::GivenUp };
    };
    shared.layers.mark(&mut response);
    let Some(mut sending) = Sending::begin(&mut respond, response, asked, &shared) else {
        return End::Answered;
    };
    poll_fn(|cx| sending.poll(cx)).await;
    End::Answered
}

/// What is known of a head before anybody looks at it.
fn facts(request: &Request<RecvStream>, ended: bool, sequence: u64) -> HeadFacts {
    let (uri, headers) = (request.uri(), request.headers());
    let fields = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    let scheme = uri.scheme_str().map_or(0, |scheme| scheme.len() + 3);
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    HeadFacts {
        sequence,
        head_bytes: scheme + authority + path + fields.sum::<usize>(),
        body: match length(headers) {
            _ if ended => BodyLength::None,
            Some(length) => BodyLength::Known(length),
            None => BodyLength::Chunked,
        },
        expect: headers.contains_key(EXPECT),
        upgrade: false,
    }
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Tells the client what comes before its answer. It may have left.
fn tell(respond: &mut SendResponse<Bytes>, status: StatusCode, mut headers: HeaderMap) {
    fields::prepare(&mut headers);
    // It frames nothing (RFC 9110 §8.6).
    headers.remove(CONTENT_LENGTH);
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if let Err(error) = respond.send_informational(response) {
        tracing::debug!(%error, "a client could not be told what comes before its answer");
    }
}

impl<H: Handler> Shared<H> {
    fn take(&self, request: Request<RecvStream>, ended: bool, bell: Waker) -> (Request<Body>, Asked) {
        let (mut head, stream) = request.into_parts();
        let mut asked = Asked { head: head.method == Method::HEAD, expected: None, tunnel: None };
        let body = if head.method == Method::CONNECT {
            let ((handing, handover), (held, abandoned)) = (handover(), Held::new(&self.hub));
            head.extensions.insert(handover);
            head.extensions.insert(Hold(Arc::new(held)));
            asked.tunnel = Some((stream, handing, abandoned));
            Body::empty()
        } else if ended {
            Body::empty()
        } else {
            let limit = self.rules.body_read_timeout;
            let mut upload = Upload::new(stream, self.hub.heard.clone(), length(&head.headers), limit);
            let expects = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
            if head.headers.get(EXPECT).is_some_and(expects) {
                let expected = asked.expected.insert(Expected::new(bell));
                upload.expects(Arc::clone(expected));
            }
            Body::boxed(upload)
        };
        (Request::from_parts(head, body), asked)
    }
}

/// An answer whose head has been sent.
struct Sending {
    pump: Pump<Body>,
    cut: Option<Cut>,
    /// The client takes nothing for so long.
    stall: Option<Duration>,
    /// When that is, since so many pieces went out.
    deadline: Option<(u64, Instant)>,
    timer: Timer,
}

impl Sending {
    /// Sends the head; what is left then, if anything.
    fn begin<H>(
        respond: &mut SendResponse<Bytes>,
        mut response: Response<Body>,
        asked: Asked,
        shared: &Shared<H>,
    ) -> Option<Self> {
        let cut = response.extensions_mut().remove();
        let (mut head, body) = response.into_parts();
        fields::prepare_head(&mut head.headers);
        let tunnel = asked.tunnel.filter(|_| head.status.is_success());
        let lengthless = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let empty = body.is_end_stream();
        if tunnel.is_some() {
            head.headers.remove(CONTENT_LENGTH);
        } else if !empty
            && !lengthless
            && let Some(length) = body.size_hint().exact()
        {
            head.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
        }
        let over = tunnel.is_none() && (asked.head || lengthless || empty);
        let to = match respond.send_response(Response::from_parts(head, ()), over) {
            Ok(to) => to,
            Err(error) => {
                tracing::debug!(%error, "an answer could not be sent");
                respond.send_reset(Reason::INTERNAL_ERROR);
                return None;
            }
        };
        if let Some((from, handing, abandoned)) = tunnel {
            handing.give(Box::new(Tunnel::new(from, to, shared.hub.heard.clone(), abandoned)));
            return None;
        }
        let (pump, stall) = (Pump::new(body, to, fields::prepare_trailers), shared.rules.write_stall);
        let sending = Self { pump, cut, stall, deadline: None, timer: Timer::default() };
        (!over).then_some(sending)
    }

    /// Sends the body; ready when that is over, one way or the other. A client that takes nothing keeps us from asking
    /// the body, so here it is looked for a cut, too.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.pump.poll(cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(()),
            Poll::Ready(Err(error)) => {
                tracing::debug!(%error, "the body of an answer broke off");
                let reason = if self.is_cut(cx) { Reason::CANCEL } else { reason(&error) };
                self.pump.reset(reason);
                return Poll::Ready(());
            }
            Poll::Pending => {}
        }
        if self.is_cut(cx) {
            // Nothing is wrong, but the answer must not go on.
            self.pump.reset(Reason::CANCEL);
            return Poll::Ready(());
        }
        ready!(self.poll_stall(cx));
        tracing::debug!("a client takes nothing of its answer");
        self.pump.reset(Reason::CANCEL);
        Poll::Ready(())
    }

    fn is_cut(&self, cx: &mut Context<'_>) -> bool {
        self.cut.as_ref().is_some_and(|cut| cut.0.poll_cut(cx).is_ready())
    }

    /// Ready when the client has taken nothing for too long.
    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(stall) = self.stall.filter(|_| self.pump.waits_for_room()) else {
            self.deadline = None;
            return Poll::Pending;
        };
        let pieces = self.pump.pieces();
        let deadline = match self.deadline {
            Some((before, deadline)) if before == pieces => deadline,
            _ => Instant::now() + stall,
        };
        self.deadline = Some((pieces, deadline));
        self.timer.poll(deadline, cx)
    }
}

/// Why an answer breaks off: for the reason for which the upstream did, where there is one.
fn reason(error: &BoxError) -> Reason {
    let mut cause = Some(&**error as &(dyn std::error::Error + 'static));
    while let Some(error) = cause {
        if let Some(reason) = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason) {
            return reason;
        }
        cause = error.source();
    }
    Reason::INTERNAL_ERROR
}

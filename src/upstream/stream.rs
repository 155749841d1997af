//! One request on a stream of a connection that speaks HTTP/2, and its answer.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::{Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::task::JoinHandle;

use crate::http2::{Heard, Pump, Tunnel};

use super::Tell;
use super::decode::INFORMATIONAL_BYTES_MAX;
use super::upload::Outgoing;

/// A request whose head has been sent. Dropping it, or its answer, resets the stream.
pub(super) struct Stream {
    answer: ResponseFuture,
    way: Way,
    heard: Heard,
}

/// What becomes of the way to the target.
#[derive(Debug)]
enum Way {
    /// All was said.
    Over,
    /// A task sends what is left.
    Rest(#[expect(dead_code, reason = "the task ends with it")] Rest),
    /// It is the half of a tunnel.
    Half(SendStream<Bytes>),
}

/// The task that sends the rest of a request; ends with this.
#[derive(Debug)]
struct Rest(JoinHandle<()>);

impl Drop for Rest {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// The stream or the connection ended.
    Ended(h2::Error),
    /// More informational answers than anybody has use for.
    Flood,
}

impl Stream {
    /// `to` takes the body; `tunnel`: the stream is to become one.
    pub(super) async fn begin(
        answer: ResponseFuture,
        to: SendStream<Bytes>,
        body: Outgoing,
        tunnel: bool,
        heard: Heard,
    ) -> Self {
        if tunnel {
            return Self { answer, way: Way::Half(to), heard };
        }
        if body.is_end_stream() {
            return Self { answer, way: Way::Over, heard };
        }
        let mut pump = Pump::new(body, to, |_| {});
        // What is there already goes out with the head, and most bodies are there.
        let over = poll_fn(|cx| Poll::Ready(send(&mut pump, cx).is_ready())).await;
        let way = match over {
            true => Way::Over,
            false => Way::Rest(Rest(tokio::spawn(async move { poll_fn(|cx| send(&mut pump, cx)).await }))),
        };
        Self { answer, way, heard }
    }

    /// The answer. `tell` hears of what comes before it.
    pub(super) async fn answer(mut self, tell: Tell<'_>) -> Result<Response<Download>, NoAnswer> {
        let mut told = 0;
        let answered = poll_fn(|cx| {
            loop {
                match ready!(self.answer.poll_informational(cx)) {
                    Some(Ok(interim)) => {
                        let headers = interim.headers().iter();
                        told += headers.map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
                        if told > INFORMATIONAL_BYTES_MAX {
                            return Poll::Ready(Err(NoAnswer::Flood));
                        }
                        self.heard.hear();
                        // Whether a body is wanted is for us to say, and nobody has asked for a switch.
                        let own = [StatusCode::CONTINUE, StatusCode::SWITCHING_PROTOCOLS];
                        if let Tell(Some(tell)) = tell
                            && !own.contains(&interim.status())
                        {
                            tell(interim.into_parts().0);
                        }
                    }
                    Some(Err(error)) => return Poll::Ready(Err(NoAnswer::Ended(error))),
                    None => return Pin::new(&mut self.answer).poll(cx).map_err(NoAnswer::Ended),
                }
            }
        })
        .await?;
        self.heard.hear();
        let Self { way, heard, .. } = self;
        let length = answered.headers().get(CONTENT_LENGTH);
        let left = match answered.body().is_end_stream() {
            true => Some(0),
            false => length.and_then(|length| length.to_str().ok()?.parse().ok()),
        };
        Ok(answered.map(|stream| Download { stream, left, over: false, way, heard }))
    }
}

/// Ready when all is with the connection, or nothing more is to be. The error of a body is kept by the body.
fn send(pump: &mut Pump<Outgoing>, cx: &mut Context<'_>) -> Poll<()> {
    if let Err(error) = ready!(pump.poll(cx)) {
        tracing::debug!(%error, "the body of a request broke off");
        pump.reset(Reason::CANCEL);
    }
    Poll::Ready(())
}

/// The body of an answer. What is taken of it makes room for more. Dropping it before its end resets the stream.
#[derive(Debug)]
pub(super) struct Download {
    stream: RecvStream,
    /// What is still to come, where that is said.
    left: Option<u64>,
    over: bool,
    way: Way,
    heard: Heard,
}

impl Download {
    /// The stream as a tunnel, where that was asked for.
    pub(super) fn into_tunnel(self) -> Option<Tunnel> {
        match self.way {
            Way::Half(to) => Some(Tunnel::new(self.stream, to, self.heard, Arc::default())),
            Way::Over | Way::Rest(_) => None,
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        loop {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() && !self.stream.is_end_stream() => {}
                Some(Ok(data)) => {
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    // An error: the stream has ended, and its room with it.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // Behind the whole of an answer this says that the rest of the request is not wanted (RFC 9113 §8.1); before
                // its end it would be another code (see `frames.rs`). A reset of ours, for a request that broke off, cuts the answer.
                Some(Err(error))
                    if matches!(error.reason(), Some(Reason::NO_ERROR | Reason::CANCEL))
                        && error.is_reset()
                        && error.is_remote() =>
                {
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    let trailers = ready!(self.stream.poll_trailers(cx));
                    return Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).transpose());
                }
            }
        }
    }
}

impl HttpBody for Download {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let frame = ready!(self.poll_next(cx));
        self.heard.hear();
        self.over |= frame.is_none();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

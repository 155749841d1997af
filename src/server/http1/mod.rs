//! One connection of HTTP/1.1: a request, its answer, the next request.
//!
//! One task has the stream, judges heads on their raw bytes ([`guard`](super::guard)), runs the handler and writes what
//! it answers. Nothing stands between these but a function call: the head that was judged is the head that is parsed,
//! its fields share the bytes that were read, and an answer that is here whole goes out in one write.
//!
//! A bad head never becomes a request. The [`Handler`] gets a stand-in that says nothing, with the problem for a
//! verdict, and no other byte of the connection is looked at.

mod encode;
mod head;
mod intake;
mod line;
mod out;
mod talk;
mod tunnel;

use std::future::poll_fn;
use std::sync::Arc;

use http::StatusCode;
use tokio::time::Instant;

use super::Rules;
use super::connection::{Entrant, Handler};
use super::drain::{Phase, Watch};
use super::guard::Fault;
use super::stream::Stream;
use crate::answer::Interim;
use crate::route::Peer;
use crate::worker;
use head::Verdict;
use line::{Closing, Line};
use talk::{Next, Talk};

/// Serves a connection of which `first` has been read; in its place, the fault that ends it. The first head must be
/// whole at `deadline`.
pub(super) async fn serve<S: Stream, H: Handler>(
    stream: S,
    first: Result<Vec<u8>, Fault>,
    deadline: Option<Instant>,
    peer: Peer,
    rules: Arc<Rules>,
    watch: Watch,
    entrant: Entrant<H>,
) {
    let Entrant { site, layers, ticket, .. } = entrant;
    let line = Line::new(stream, first.as_deref().unwrap_or_default(), rules);
    let mut talk = Talk::new(line, deadline, watch);
    let mut refused = first.err();
    let interim = Interim::default();
    // A handler's future is large: its place is used again, and given back with the buffers.
    let mut place = None;
    let is_cut = loop {
        let next = match refused.take() {
            Some(fault) => Next::Refused { fault, head: false },
            None => poll_fn(|cx| talk.poll_next(cx)).await,
        };
        let (request, verdict): (_, Verdict) = match next {
            Next::Request(head) => talk.request(&head),
            Next::Refused { fault, head } => talk.refusal(fault, head),
            Next::Idle => {
                place = None;
                talk.rest();
                continue;
            }
            Next::End => break false,
            Next::Cut => break true,
        };
        interim.begin(talk.knows_interim());
        let running = place.get_or_insert_with(|| Box::pin(None));
        running.set(Some(site.handler.handle(
            peer.clone(),
            verdict.map_err(Fault::problem),
            request,
            &interim,
        )));
        let answered = poll_fn(|cx| talk.poll_handler(running.as_mut(), &interim, cx)).await;
        running.set(None);
        let Some(mut response) = answered else { break true };
        layers.mark(&mut response);
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        talk.begin(response, site.drain.phase() != Phase::Serving);
        if !poll_fn(|cx| talk.poll_answer(cx)).await {
            break true;
        }
        if switches {
            return talk.hand_over(ticket);
        }
        if talk.is_last() || talk.owes() && !poll_fn(|cx| talk.poll_owed(cx)).await {
            break false;
        }
    };
    drop(place);
    if !is_cut {
        let mut closing = Closing::Begun { owes: talk.owes() || talk.has_more() };
        if poll_fn(|cx| talk.poll_close(&mut closing, cx)).await {
            return;
        }
    }
    if talk.cut_short() {
        // Where a revocation cuts thousands, each client is told first, and what is left of them is cleared away after that.
        worker::turn().await;
    }
}

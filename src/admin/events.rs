//! `GET /admin/events`: every revocation as server-sent events, from now on or from behind a sequence.
//!
//! `id:` is the sequence, `event:` is `revocation` or `unrevoke`, `data:` the entry. A reader that was away goes on
//! by `Last-Event-ID` (or `?since=`): from memory, from the log, and where that does not reach back any more from the
//! audit trail. What cannot be had any more is told by one `event: gap` with `from` and `to`. The next entries are
//! looked up when the reader has taken the last ones, so a slow one costs one batch of memory and nothing else.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Shared;
use super::query::{Pairs, Parameters};
use super::reply::{Refused, time};
use crate::answer::{Code, Problem};
use crate::revocation::{self, FollowError, Follower, Record};
use crate::store::{TrailEntry, TrailFilter};

/// Streams at once.
const STREAMS_MAX: usize = 64;
/// A quiet stream says that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Events written at once.
const EVENTS_AT_ONCE: usize = 256;
/// Entries read from the audit trail at once.
const TRAIL_AT_ONCE: usize = 1000;
/// How soon a reader that lost its connection should come back.
const OPENING: &[u8] = b"retry: 1000\n\n";

/// Room for streams. A clone is the same.
#[derive(Clone)]
pub(super) struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(STREAMS_MAX)))
    }
}

pub(super) async fn events(
    State(parts): State<Shared>,
    Extension(places): Extension<Places>,
    pairs: Pairs,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let since = Parameters::of(pairs, &["since"])?.number("since")?;
    // What the reader has seen last is newer than where it once began.
    let behind = match headers.get("last-event-id").map(|value| value.to_str().unwrap_or("?").trim()) {
        None | Some("") => since,
        Some(text) => {
            Some(text.parse().map_err(|_| Refused::invalid("Last-Event-ID is the sequence of an entry"))?)
        }
    };
    let place = places.0.try_acquire_owned().map_err(|_| {
        let words = format!("{STREAMS_MAX} streams of events are open already");
        Refused(Problem::new(Code::Overloaded, words))
    })?;
    let feed = Feed::begin(parts, behind, place);
    let stream = futures_util::stream::unfold(feed, |mut feed| async {
        let piece = feed.next().await?;
        Some((Ok::<_, std::convert::Infallible>(piece), feed))
    });
    let mut response = Body::from_stream(stream).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// One reader.
struct Feed {
    parts: Shared,
    follower: Follower,
    /// The sequence that it was told last, or told to go on behind.
    told: u64,
    /// What came in force after this was seen coming in force, so that its delay can be told.
    live_after: u64,
    waiting: VecDeque<TrailEntry>,
    /// Goes out before anything else.
    first: Option<String>,
    _place: OwnedSemaphorePermit,
}

impl Feed {
    fn begin(parts: Shared, behind: Option<u64>, place: OwnedSemaphorePermit) -> Self {
        let now = parts.log.sequence();
        let mut first = String::from_utf8_lossy(OPENING).into_owned();
        // Seen by another log than this one: it was lost, or is an old copy.
        if let Some(behind) = behind.filter(|behind| *behind > now) {
            gap(now + 1, behind, now, &mut first);
        }
        let told = behind.unwrap_or(now).min(now);
        let follower = parts.log.follow(told);
        Self {
            parts,
            follower,
            told,
            live_after: now,
            waiting: VecDeque::new(),
            first: Some(first),
            _place: place,
        }
    }

    /// The next bytes; `None` when there will be none.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first.into());
        }
        while self.waiting.is_empty() {
            match tokio::time::timeout(HEARTBEAT, self.follower.next()).await {
                Err(_) => return Some(Bytes::from_static(b":\n\n")),
                Ok(Ok(records)) => self.waiting.extend(records.into_iter().map(entry)),
                Ok(Err(FollowError::Gone { oldest })) => self.read_trail(oldest).await?,
                Ok(Err(FollowError::Closed)) => return None,
                Ok(Err(error @ FollowError::Read(_))) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "a stream of events ends");
                    return None;
                }
            }
        }
        let mut text = String::new();
        let count = self.waiting.len().min(EVENTS_AT_ONCE);
        for entry in self.waiting.drain(..count) {
            // Sequences follow each other without a hole.
            if entry.sequence > self.told + 1 {
                gap(self.told + 1, entry.sequence - 1, entry.sequence - 1, &mut text);
            }
            self.told = entry.sequence;
            let live = entry.sequence > self.live_after;
            let delay = live.then(|| self.parts.clock.now().since(entry.at).as_millis() as u64);
            tell(&entry, delay, &mut text);
        }
        Some(text.into())
    }

    /// The log begins behind `oldest` now; the audit trail had all of it before it went.
    async fn read_trail(&mut self, oldest: u64) -> Option<()> {
        let filter = TrailFilter {
            since: Some(self.told),
            before: Some(oldest.saturating_add(1)),
            oldest_first: true,
            limit: TRAIL_AT_ONCE,
            ..TrailFilter::default()
        };
        let rows = self.parts.store.trail_list(filter).await;
        // The reader comes back and asks again.
        let rows = rows.map_err(|error| tracing::warn!(%error, "a stream of events ends")).ok()?;
        let reached = rows.last().map_or(oldest, |row| row.sequence);
        self.follower = self.parts.log.follow(reached);
        self.waiting.extend(rows);
        Some(())
    }
}

fn entry(record: Record) -> TrailEntry {
    let address = revocation::audit::address(&record);
    let Record { sequence, revocation, .. } = record;
    TrailEntry {
        sequence,
        kind: revocation.selector.kind.to_string().into(),
        issuer: revocation.selector.issuer,
        value: revocation.selector.value,
        lift: revocation.lift,
        issued_before: revocation.issued_before,
        expires_at: revocation.expires_at,
        reason: revocation.reason,
        actor: revocation.actor,
        address,
        at: revocation.at,
    }
}

fn tell(entry: &TrailEntry, delay_ms: Option<u64>, text: &mut String) {
    let name = if entry.lift { "unrevoke" } else { "revocation" };
    let data = json!({
        "sequence": entry.sequence, "kind": entry.kind, "value": entry.value, "issuer": entry.issuer,
        "lift": entry.lift, "issued_before": time(entry.issued_before),
        "expires_at": entry.expires_at.rfc3339(), "reason": entry.reason, "actor": entry.actor,
        "address": entry.address, "at": entry.at.rfc3339(), "delay_ms": delay_ms,
    });
    event(entry.sequence, name, &data, text);
}

fn gap(from: u64, to: u64, id: u64, text: &mut String) {
    event(id, "gap", &json!({ "from": from, "to": to }), text);
}

/// JSON has no bare line ends, so it is one `data:` line.
fn event(id: u64, name: &str, data: &serde_json::Value, text: &mut String) {
    use std::fmt::Write as _;
    let _ = write!(text, "id: {id}\nevent: {name}\ndata: {data}\n\n");
}

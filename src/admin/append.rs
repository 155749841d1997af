//! `POST /admin/revocations`: one object, an array, or lines of JSON in any number. All or nothing: the first bad item
//! refuses the request, and nothing of it is applied.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, BodyDataStream};
use axum::extract::{Extension, Request, State};
use bytes::Bytes;
use futures_util::StreamExt;
use http::header::CONTENT_TYPE;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::idempotency::{Answers, Fingerprint, Turn};
use super::intake::{Intake, IntakeError, Live, Lookup, live_of, of_live, of_token, token_asking};
use super::items::{Asked, Item, Understood};
use super::query::{Pairs, Parameters};
use super::reply::{Refused, Reply, ended_early, not_whole};
use super::{From, Parts, Shared};
use crate::answer::{Code, Problem};
use crate::clock::UnixTime;
use crate::fleet::Bulk;
use crate::revocation::{AppendError, Revocation, Selector};
use crate::store::StoreError;

/// The most bytes of a body that is one JSON value; bulk goes as NDJSON.
const JSON_BYTES_MAX: usize = 16 << 20;
/// Pieces of a body that may wait for the thread that reads their lines.
const PIECES_WAITING: usize = 16;
/// How long the rest of a refused body is read and thrown away, so that its sender gets to see the answer.
const DISCARD_FOR: Duration = Duration::from_secs(10);

/// What was appended.
struct Done {
    sequence: u64,
    accepted: u64,
    skipped: u64,
    propagated: bool,
}

/// A body on its way to the log: where its first answer is kept, and what tells it from others of the same key.
struct Keyed {
    turn: Turn,
    fingerprint: Fingerprint,
}

pub(super) async fn append(
    State(parts): State<Shared>,
    Extension(from): Extension<From>,
    Extension(answers): Extension<Answers>,
    pairs: Pairs,
    request: Request,
) -> Reply {
    // Items whose `expires_at` has passed: refused, or passed over and counted.
    let skip_expired = Parameters::of(pairs, &["expired"])?.choice("expired", &["refuse", "skip"])? == 1;
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.unwrap_or("application/json").split(';').next().unwrap_or_default().trim();
    let ndjson = essence.eq_ignore_ascii_case("application/x-ndjson");
    if !ndjson && !essence.eq_ignore_ascii_case("application/json") {
        let words = "revocations come as application/json or application/x-ndjson";
        return Err(Refused(Problem::new(Code::UnsupportedMediaType, words)));
    }
    let now = parts.clock.now();
    let turn = answers.turn(request.headers(), now)?;
    let keyed = turn.map(|turn| Keyed { turn, fingerprint: Fingerprint::of(&request) });
    let asked = Asked { scope: (parts.scope)(), address: from.0.into(), now, skip_expired };
    let body = request.into_body();
    if !ndjson && keyed.is_none() {
        // One append, which happens or does not, whoever hangs up; a task of its own would cost as much as the rest.
        return Ok(Json(told(&taken(&parts, asked, body, false, None).await?, skip_expired)));
    }
    // A client that hangs up must not leave the work half-way: it is a task of its own.
    let work = tokio::spawn(async move {
        match keyed {
            Some(Keyed { turn: Turn::Again(first), mut fingerprint }) => {
                let mut body = body.into_data_stream();
                while let Some(piece) = body.next().await {
                    fingerprint.add(&piece.map_err(|error| broke_off(&error))?);
                }
                first.answer_to(fingerprint)
            }
            Some(Keyed { turn: Turn::First(claim), mut fingerprint }) => {
                let done = taken(&parts, asked, body, ndjson, Some(&mut fingerprint)).await?;
                Ok(claim.keep(fingerprint, parts.clock.now(), told(&done, skip_expired)))
            }
            None => Ok(told(&taken(&parts, asked, body, ndjson, None).await?, skip_expired)),
        }
    });
    work.await.map_err(ended_early)?.map(Json)
}

fn told(done: &Done, skip_expired: bool) -> Value {
    let mut answer =
        json!({ "sequence": done.sequence, "accepted": done.accepted, "propagated": done.propagated });
    if skip_expired {
        answer["skipped"] = done.skipped.into();
    }
    answer
}

async fn taken(
    parts: &Shared,
    asked: Asked,
    body: Body,
    ndjson: bool,
    fingerprint: Option<&mut Fingerprint>,
) -> Result<Done, Refused> {
    if ndjson {
        append_lines(parts, asked, body.into_data_stream(), fingerprint).await
    } else {
        append_json(parts, &asked, body, fingerprint).await
    }
}

async fn append_json(
    parts: &Parts,
    asked: &Asked,
    body: Body,
    fingerprint: Option<&mut Fingerprint>,
) -> Result<Done, Refused> {
    let bytes = axum::body::to_bytes(body, JSON_BYTES_MAX).await.map_err(|error| {
        let larger =
            format!("the body is larger than {JSON_BYTES_MAX} bytes; send bulk as application/x-ndjson");
        not_whole(&error, &larger)
    })?;
    if let Some(fingerprint) = fingerprint {
        fingerprint.add(&bytes);
    }
    let bad = |error: serde_json::Error| Refused::invalid(format!("the body is not JSON: {error}"));
    let raw: &RawValue = serde_json::from_slice(&bytes).map_err(bad)?;
    let is_list = raw.get().trim_start().starts_with('[');
    let list: Vec<&RawValue> =
        if is_list { serde_json::from_str(raw.get()).map_err(bad)? } else { vec![raw] };
    let mut entries = Vec::with_capacity(list.len());
    let (mut accepted, mut skipped) = (0, 0);
    for (index, raw) in list.into_iter().enumerate() {
        let told =
            |words: String| Refused::invalid(if is_list { format!("item {index}: {words}") } else { words });
        match Item::understand_json(raw.get().as_bytes(), asked).map_err(told)? {
            Understood::Expired => {
                skipped += 1;
                continue;
            }
            Understood::Token { text, revocation } => {
                let found =
                    token_asking(&parts.gateway.setup().issuers, &text, asked.now).await.map_err(told)?;
                entries.push(of_token(revocation, found));
            }
            Understood::Entry { revocation, sessions_of } => {
                if let Some(subject) = &sessions_of {
                    let live = live_of(&*parts.store, &parts.blocklist, subject, asked.now).await?;
                    entries.extend(live.into_iter().map(|live| of_live(&revocation, live)));
                }
                entries.push(revocation);
            }
        }
        accepted += 1;
    }
    let ack = parts.log.append(entries).await?;
    Ok(Done { sequence: ack.sequence, accepted, skipped, propagated: ack.propagated })
}

/// What lines may ask, on a thread that may wait for it.
struct Blocking<'a> {
    parts: &'a Parts,
    runtime: Handle,
}

impl Lookup for Blocking<'_> {
    fn live_of(&self, subject: &str, now: UnixTime) -> Result<Vec<Live>, StoreError> {
        let Parts { store, blocklist, .. } = self.parts;
        self.runtime.block_on(live_of(&**store, blocklist, subject, now))
    }

    fn token(&self, text: &str, now: UnixTime) -> Result<(Selector, UnixTime), String> {
        self.runtime.block_on(token_asking(&self.parts.gateway.setup().issuers, text, now))
    }
}

/// A body of any size in bounded memory: what comes in is handed to a thread that may block, which reads the lines
/// and spools the entries; the log gets them in one piece when the body is whole.
async fn append_lines(
    parts: &Shared,
    asked: Asked,
    mut body: BodyDataStream,
    mut fingerprint: Option<&mut Fingerprint>,
) -> Result<Done, Refused> {
    let bulk = parts.log.bulk()?;
    let (pieces, waiting) = mpsc::channel(PIECES_WAITING);
    let reader = tokio::task::spawn_blocking({
        let (parts, runtime) = (parts.clone(), Handle::current());
        move || read_lines(&Blocking { parts: &parts, runtime }, asked, waiting, bulk)
    });
    loop {
        match body.next().await {
            Some(Ok(piece)) => {
                if let Some(fingerprint) = fingerprint.as_mut() {
                    fingerprint.add(&piece);
                }
                if pieces.send(piece).await.is_err() {
                    // A line is wrong.
                    discard(body).await;
                    break;
                }
            }
            None => break,
            // The reader ends with what it has, and nobody commits it.
            Some(Err(error)) => return Err(broke_off(&error)),
        }
    }
    drop(pieces);
    let (bulk, mut done) = reader.await.map_err(ended_early)?.map_err(refused)?;
    let ack = bulk.commit().await?;
    (done.sequence, done.propagated) = (ack.sequence, ack.propagated);
    Ok(done)
}

fn read_lines(
    lookup: &Blocking<'_>,
    asked: Asked,
    mut pieces: mpsc::Receiver<Bytes>,
    mut bulk: Bulk,
) -> Result<(Bulk, Done), IntakeError> {
    let Asked { scope, address, now, skip_expired } = asked;
    let mut intake = Intake::new(scope, &address, now, skip_expired, lookup);
    let mut push = |entries: Vec<Revocation>| Ok::<_, IntakeError>(bulk.push(entries)?);
    while let Some(piece) = pieces.blocking_recv() {
        intake.feed(&piece, &mut push)?;
    }
    intake.finish(&mut push)?;
    let (accepted, skipped) = (intake.accepted(), intake.skipped());
    let done = Done { sequence: 0, accepted, skipped, propagated: false };
    Ok((bulk, done))
}

async fn discard(mut body: BodyDataStream) {
    let all = async { while let Some(Ok(_)) = body.next().await {} };
    let _ = tokio::time::timeout(DISCARD_FOR, all).await;
}

fn broke_off(error: &axum::Error) -> Refused {
    not_whole(error, "the body is too large")
}

fn refused(error: IntakeError) -> Refused {
    match error {
        IntakeError::Line { .. } => Refused::invalid(error.to_string()),
        IntakeError::Store(error) => error.into(),
        IntakeError::Log(AppendError::TooLarge) => {
            let words = format!(
                "more than {} revocations in one request; send the rest in another",
                crate::revocation::BULK_ENTRIES_MAX
            );
            Refused(Problem::new(Code::BodyTooLarge, words))
        }
        IntakeError::Log(error) => error.into(),
    }
}

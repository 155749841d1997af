//! What the parts of the link to the shared log have in common.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::log::{Linking, Losing};
use super::pending::Pending;
use super::settings::Settings;
use super::status::Status;
use super::{Batch, BatchEntry, Engine, Epoch, Position, Stamp};
use crate::clock::{Clock, UnixTime};
use crate::revocation::{Ack, AppendError, GatewayId, Handle, Promise, Revocation};
use crate::telemetry::Metrics;

/// How long an acknowledgement waits for the shared log.
pub(super) const ACK_PATIENCE: Duration = Duration::from_secs(1);
/// How long a revocation may be on its way to the shared log and back, where nothing is to be accepted without it.
const DIRECT_PATIENCE: Duration = Duration::from_secs(2);
/// Who has heard from the engine since then follows closely: it says twice a second that there is nothing new.
const FOLLOWED: Duration = Duration::from_secs(1);
/// Positions of own entries remembered for those who wait for them.
const DIRECT_KEPT: usize = 4096;

/// How far the shared log has this gateway's entries.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    /// The link is up, and answers in time.
    pub(super) up: bool,
    /// In the shared log.
    pub(super) sent: u64,
    /// On as many replicas as are asked for.
    pub(super) sure: u64,
    /// Where the last of them stands.
    pub(super) position: Position,
}

/// Who wait for the shared log to have an entry, by its sequence.
type Waiting = BTreeMap<u64, Vec<oneshot::Sender<bool>>>;

/// A batch that has its place in the order of the log, and whose ticket must be settled, also if whoever asked for it
/// hangs up.
struct Settling {
    hub: Arc<Hub>,
    ticket: u64,
    promise: Option<Promise>,
}

impl Settling {
    async fn settled(mut self) -> Result<Ack, AppendError> {
        let ack = match &mut self.promise {
            Some(promise) => promise.keeping().await,
            None => Err(AppendError::Closed),
        };
        self.promise = None;
        self.hub.settle(self.ticket, &ack);
        ack
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        if let (Some(promise), Ok(runtime)) = (self.promise.take(), tokio::runtime::Handle::try_current()) {
            let (hub, ticket) = (self.hub.clone(), self.ticket);
            runtime.spawn(async move { hub.settle(ticket, &promise.kept().await) });
        }
    }
}

pub(super) struct Hub {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) settings: Settings,
    pub(super) log: Handle,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
    /// Something came in force that the log did not tell of.
    pub(super) on_absorbed: Box<dyn Fn() + Send + Sync>,
    pub(super) losing: Losing,
    /// What the books had of this gateway when it met the shared log first.
    booked: Mutex<Option<Option<u64>>>,
    pub(super) status: Status,
    /// Changed by [`Hub::set_sent`] alone.
    pub(super) sent: watch::Sender<Sent>,
    waiting: Mutex<Waiting>,
    pub(super) applied: watch::Sender<Position>,
    /// The shared log as last met; `None` while the link is down.
    pub(super) epoch: Mutex<Option<(Epoch, u32)>>,
    pending: Mutex<Pending>,
    direct: Mutex<BTreeMap<Position, u64>>,
    pub(super) started_at: UnixTime,
}

impl Hub {
    pub(super) fn new(log: Handle, linking: Linking) -> Self {
        let Linking { engine, settings, clock, metrics, on_absorbed, losing, must_join } = linking;
        let place = log.place().map_or(Position::START, |place| Position(place.position.0, place.position.1));
        let started_at = clock.now();
        Self {
            status: Status::new(&settings, must_join),
            engine,
            settings,
            log,
            clock,
            metrics,
            on_absorbed,
            losing,
            booked: Mutex::default(),
            sent: watch::Sender::default(),
            waiting: Mutex::default(),
            applied: watch::Sender::new(place),
            epoch: Mutex::default(),
            pending: Mutex::default(),
            direct: Mutex::default(),
            started_at,
        }
    }

    pub(super) fn gateway(&self) -> GatewayId {
        self.log.gateway()
    }

    /// What the books say of this gateway; kept the first time.
    pub(super) fn books_say(&self, own: Option<u64>) {
        self.booked.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(own);
    }

    /// What they said first.
    pub(super) fn booked(&self) -> Option<u64> {
        self.booked.lock().unwrap_or_else(PoisonError::into_inner).flatten()
    }

    /// How old the knowledge of the shared log is; zero while it is followed closely.
    pub(super) fn lag(&self) -> Duration {
        let age = self.status.age();
        if self.status.is_connected() && age < FOLLOWED { Duration::ZERO } else { age }
    }

    /// While it is held, no own batch and none of others takes its place in the order of the log.
    pub(super) fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An own entry that was appended to the shared log first is in this log now.
    pub(super) fn came_back(&self, position: Position, sequence: u64) {
        let mut direct = self.direct.lock().unwrap_or_else(PoisonError::into_inner);
        direct.insert(position, sequence);
        while direct.len() > DIRECT_KEPT {
            direct.pop_first();
        }
    }

    /// First the log of this gateway, then the shared one: the acknowledgement, and whether the shared log has it.
    pub(super) async fn forward(
        self: &Arc<Self>,
        entries: Vec<Revocation>,
    ) -> Result<(Ack, bool), AppendError> {
        let prepared = self.log.prepare(entries, Vec::new(), false).await?;
        let (ticket, promise) = {
            let mut pending = self.pending();
            let lifts = prepared.entries().iter().map(|entry| entry.lift);
            let ticket = pending.begin(prepared.keys().iter().copied().zip(lifts));
            match self.log.put(prepared) {
                Ok(promise) => (ticket, promise),
                Err(error) => {
                    pending.settle(ticket, None);
                    return Err(error);
                }
            }
        };
        let ack = Settling { hub: self.clone(), ticket, promise: Some(promise) }.settled().await?;
        let sent = self.is_sent(ack.sequence).await;
        // A lift that was overtaken is done with, and the others do not have it.
        let first = ack.sequence.saturating_sub(ack.accepted as u64) + 1;
        Ok((ack, sent && !self.pending().has_dropped(first..=ack.sequence)))
    }

    fn settle(&self, ticket: u64, ack: &Result<Ack, AppendError>) {
        self.pending().settle(ticket, ack.as_ref().ok().map(|ack| ack.sequence));
    }

    /// Waits until the shared log has everything up to this sequence; not for long, and not while the link is down.
    pub(super) async fn is_sent(&self, sequence: u64) -> bool {
        let told = {
            let mut waiting = self.waiting();
            let sent = *self.sent.borrow();
            if sent.sent >= sequence || !sent.up {
                return sent.sure >= sequence;
            }
            let (tell, told) = oneshot::channel();
            waiting.entry(sequence).or_default().push(tell);
            told
        };
        match tokio::time::timeout(ACK_PATIENCE, told).await {
            Ok(told) => told.unwrap_or(false),
            Err(_) => {
                // Nobody else is made to wait before it has answered again.
                self.set_sent(|sent| sent.up = false);
                false
            }
        }
    }

    /// Changes how far the shared log is, and tells those who wait for that; nobody else is woken.
    pub(super) fn set_sent(&self, change: impl FnOnce(&mut Sent)) {
        let mut waiting = self.waiting();
        self.sent.send_modify(change);
        let sent = *self.sent.borrow();
        let later = if sent.up { waiting.split_off(&(sent.sent + 1)) } else { BTreeMap::new() };
        let done = std::mem::replace(&mut *waiting, later);
        drop(waiting);
        for (sequence, told) in done {
            for told in told {
                let _ = told.send(sent.sure >= sequence);
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// First the shared log, from where it comes back like the entries of others: nothing is in force that the shared
    /// log does not have.
    pub(super) async fn direct(&self, entries: Vec<Revocation>) -> Result<Ack, AppendError> {
        for (index, entry) in entries.iter().enumerate() {
            entry.validate().map_err(|why| AppendError::Invalid { index, why })?;
        }
        let accepted = entries.len();
        let met = *self.epoch.lock().unwrap_or_else(PoisonError::into_inner);
        let (epoch, replicas) = met.ok_or(AppendError::SharedLogUnavailable)?;
        let wanted = self.settings.wait_replicas;
        if replicas < wanted {
            return Err(AppendError::SharedLogUnavailable);
        }
        let now = self.clock.now();
        let until = self.status.engine_time(now).plus(DIRECT_PATIENCE / 2);
        let entries = entries.into_iter().map(|revocation| BatchEntry { sequence: 0, revocation }).collect();
        let batch = Batch { gateway: self.gateway(), sent_at: now, entries };
        let done = async {
            let appended = self.engine.append(epoch, Stamp::Direct { until }, batch).await;
            let appended = appended.map_err(|error| {
                tracing::warn!(%error, "a revocation was not accepted");
                AppendError::SharedLogUnavailable
            })?;
            let mut applied = self.applied.subscribe();
            let here = applied.wait_for(|applied| *applied >= appended.position).await;
            here.map_err(|_| AppendError::Closed)?;
            let sequence =
                self.direct.lock().unwrap_or_else(PoisonError::into_inner).remove(&appended.position);
            // A load of the whole state may have brought it instead.
            let sequence = sequence.unwrap_or_else(|| self.log.sequence());
            if appended.replicas < wanted {
                return Err(AppendError::SharedLogUnavailable);
            }
            Ok(Ack { sequence, accepted })
        };
        tokio::time::timeout(DIRECT_PATIENCE, done).await.unwrap_or(Err(AppendError::SharedLogUnavailable))
    }
}

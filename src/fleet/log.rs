//! The log as the rest of the gateway holds it: of this gateway alone, or of one of a fleet.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use super::hub::Hub;
use super::settings::{Settings, WhenUnreachable};
use super::{Engine, EngineError, Member, Position, link};
use crate::clock::Clock;
use crate::revocation::settings::OnLostState;
use crate::revocation::{self, AppendError, Handle, IssuerTerm, Revocation};
use crate::store::Trail;
use crate::telemetry::Metrics;

/// How long a request waits for a watermark.
const WATERMARK_PATIENCE: Duration = Duration::from_secs(2);
/// Entries of a large batch that are encoded at once.
const ENTRIES_AT_ONCE: usize = 4096;

/// A batch is on disk, by the policy of `fsync`, and in force here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The sequence of its last entry.
    pub sequence: u64,
    /// How many entries it had.
    pub accepted: usize,
    /// The shared log has it, on as many replicas as are asked for. Always, where there is none.
    pub propagated: bool,
}

/// How the link to the shared log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linked {
    /// Everything up to here is in force.
    pub position: Position,
    /// The link is up.
    pub connected: bool,
    /// How old the knowledge of the shared log is; zero while it is followed closely.
    pub lag: Duration,
    /// Nothing was heard for longer than `max_staleness`.
    pub stale: bool,
    /// Own entries, and those of others behind them, that were not looked at for forwarding yet.
    pub outbox: u64,
}

/// Why a watermark was not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReached {
    /// It is none.
    Malformed,
    /// Not in time.
    Late,
}

/// The log. It reads as the one of this gateway alone ([`Handle`]); what is appended here reaches the fleet. A clone is
/// the same.
#[derive(Clone)]
pub struct Log {
    local: Handle,
    hub: Option<Arc<Hub>>,
}

/// What the link to the shared log needs.
pub struct Linking {
    /// Who holds the shared log.
    pub engine: Arc<dyn Engine>,
    /// `[revocation.cluster]`.
    pub settings: Settings,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// For the delay of what others revoke.
    pub metrics: Arc<Metrics>,
    /// Called when something came in force that no projection is told of: streams must be looked at.
    pub on_absorbed: Box<dyn Fn() + Send + Sync>,
    /// For a loss of the log: what the trail knows of it, who gets a cutoff, and whether anybody does.
    pub losing: Losing,
    /// This gateway has no log of its own, and others are known: it serves nobody before it knows what they know.
    pub must_join: bool,
}

/// What a loss of this gateway's log is judged by.
pub struct Losing {
    /// What was revoked here, as the store knows it.
    pub trail: Arc<dyn Trail>,
    /// Who gets a cutoff.
    pub issuers: Vec<IssuerTerm>,
    /// Whether they do.
    pub on_lost_state: OnLostState,
}

impl Deref for Log {
    type Target = Handle;

    /// For all that is not different in a fleet.
    fn deref(&self) -> &Handle {
        &self.local
    }
}

impl Log {
    /// Of a gateway that is alone.
    pub fn alone(local: Handle) -> Self {
        Self { local, hub: None }
    }

    /// Of a gateway of a fleet. The link is kept by tasks on `runtime`.
    pub fn linked(local: Handle, linking: Linking, runtime: &tokio::runtime::Handle) -> Self {
        // Until the shared log has said what it has.
        local.keep_behind(0);
        let hub = Arc::new(Hub::new(local.clone(), linking));
        runtime.spawn(link::keep(hub.clone()));
        runtime.spawn(link::watch(hub.clone()));
        Self { local, hub: Some(hub) }
    }

    /// Makes a batch durable, puts it in force and tells the fleet, as `when_unreachable` says; all of it or nothing,
    /// whatever its size. A subject may have more live sessions than one append carries: those go as a [`Bulk`].
    ///
    /// # Errors
    /// As [`Handle::append`], or as [`Log::bulk`] for a large batch; [`AppendError::SharedLogUnavailable`].
    pub async fn append(&self, entries: Vec<Revocation>) -> Result<Ack, AppendError> {
        if revocation::is_for_bulk(&entries) {
            return self.append_large(entries).await;
        }
        let (ack, propagated) = match &self.hub {
            Some(_) if entries.is_empty() => {
                (revocation::Ack { sequence: self.local.sequence(), accepted: 0 }, true)
            }
            None => (self.local.append(entries).await?, true),
            Some(hub) if hub.settings.when_unreachable == WhenUnreachable::Refuse => {
                (hub.direct(entries).await?, true)
            }
            Some(hub) => hub.forward(entries).await?,
        };
        Ok(Ack { sequence: ack.sequence, accepted: ack.accepted, propagated })
    }

    async fn append_large(&self, mut entries: Vec<Revocation>) -> Result<Ack, AppendError> {
        let mut bulk = self.bulk()?;
        let spooled = tokio::task::spawn_blocking(move || {
            while !entries.is_empty() {
                let rest = entries.split_off(entries.len().min(ENTRIES_AT_ONCE));
                bulk.push(std::mem::replace(&mut entries, rest))?;
            }
            Ok(bulk)
        });
        spooled.await.map_err(|_| AppendError::Closed)??.commit().await
    }

    /// Begins a batch of any size.
    ///
    /// # Errors
    /// As [`Handle::bulk`]; when nothing is accepted without the shared log, and it is away.
    pub fn bulk(&self) -> Result<Bulk, AppendError> {
        if let Some(hub) = &self.hub
            && hub.settings.when_unreachable == WhenUnreachable::Refuse
            && !hub.status.is_connected()
        {
            return Err(AppendError::SharedLogUnavailable);
        }
        Ok(Bulk { bulk: self.local.bulk()?, hub: self.hub.clone() })
    }

    /// `None` where there is no fleet.
    pub fn link(&self) -> Option<Linked> {
        let hub = self.hub.as_ref()?;
        Some(Linked {
            position: *hub.applied.borrow(),
            connected: hub.status.is_connected(),
            lag: hub.lag(),
            stale: hub.status.is_stale(),
            outbox: hub.outbox(),
        })
    }

    /// Protected routes are answered with 503: too little is known. One atomic load.
    pub fn is_refusing(&self) -> bool {
        self.hub.as_ref().is_some_and(|hub| hub.status.is_refusing())
    }

    /// Why requests should not come here, as far as the fleet is concerned.
    pub fn not_ready(&self) -> Option<String> {
        self.hub.as_ref()?.status.not_ready()
    }

    /// The watermark, to be shown to another gateway: the position in the shared log up to which everything, and what
    /// was revoked here before now, is in force; the sequence where there is no fleet.
    pub async fn watermark(&self) -> String {
        let Some(hub) = &self.hub else { return self.local.sequence().to_string() };
        let own = hub.sent.borrow().position;
        let mut applied = hub.applied.subscribe();
        let wait = applied.wait_for(|applied| *applied >= own);
        let reached = tokio::time::timeout(WATERMARK_PATIENCE, wait).await;
        let reached = reached.ok().and_then(Result::ok).map(|applied| *applied);
        reached.unwrap_or_else(|| *hub.applied.borrow()).to_string()
    }

    /// Waits until a watermark is reached here.
    ///
    /// # Errors
    /// When it is none, or is not reached in time.
    pub async fn reach(&self, watermark: &str) -> Result<(), NotReached> {
        let wanted = Position::parse(watermark).ok_or(NotReached::Malformed)?;
        let Some(hub) = &self.hub else {
            return self.reach_sequence(wanted).await;
        };
        let mut applied = hub.applied.subscribe();
        let wait = applied.wait_for(|applied| *applied >= wanted);
        match tokio::time::timeout(WATERMARK_PATIENCE, wait).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(NotReached::Late),
        }
    }

    async fn reach_sequence(&self, wanted: Position) -> Result<(), NotReached> {
        if wanted.1 > 0 {
            return Err(NotReached::Malformed);
        }
        // Nobody but this gateway can have said it, so it is nearly always there.
        let step = Duration::from_millis(10);
        let mut left = WATERMARK_PATIENCE;
        while self.local.sequence() < wanted.0 {
            left = left.checked_sub(step).ok_or(NotReached::Late)?;
            tokio::time::sleep(step).await;
        }
        Ok(())
    }

    /// All gateways of the fleet, as far as the engine has heard of them; `None` where there is no fleet.
    ///
    /// # Errors
    /// When the engine is away.
    pub async fn members(&self) -> Option<Result<Vec<Member>, EngineError>> {
        Some(self.hub.as_ref()?.engine.members().await)
    }
}

/// A batch under way; see [`revocation::Bulk`].
pub struct Bulk {
    bulk: revocation::Bulk,
    hub: Option<Arc<Hub>>,
}

impl Bulk {
    /// As [`revocation::Bulk::push`].
    ///
    /// # Errors
    /// As there.
    pub fn push(&mut self, entries: Vec<Revocation>) -> Result<(), AppendError> {
        self.bulk.push(entries)
    }

    /// As [`revocation::Bulk::commit`].
    ///
    /// # Errors
    /// As there.
    pub async fn commit(self) -> Result<Ack, AppendError> {
        let ack = self.bulk.commit().await?;
        let propagated = match &self.hub {
            None => true,
            Some(hub) => hub.is_sent(ack.sequence).await,
        };
        if !propagated && self.hub.is_some_and(|hub| hub.settings.when_unreachable == WhenUnreachable::Refuse)
        {
            return Err(AppendError::SharedLogUnavailable);
        }
        Ok(Ack { sequence: ack.sequence, accepted: ack.accepted, propagated })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixTime;
    use crate::revocation::settings::Settings;
    use crate::revocation::{Kind, Opening, Selector};

    fn session(number: usize) -> Revocation {
        Revocation {
            selector: Selector::new(Kind::Session, "self", format!("s-{number}")),
            lift: false,
            issued_before: None,
            expires_at: UnixTime::from_secs(4_000_000_000),
            reason: "".into(),
            actor: "admin".into(),
            address: "".into(),
            at: UnixTime::from_secs(1),
        }
    }

    /// A subject had more sessions than one append carries, and could not be revoked.
    #[tokio::test]
    async fn a_batch_too_heavy_for_one_append_is_taken_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings::for_test(dir.path());
        let (local, blocklist, _) = revocation::open(Opening::for_test(&settings, dir.path())).unwrap();
        let log = Log::alone(local);
        let total = || blocklist.counts().total();

        let mut bad = session(19_999);
        bad.selector.value = "".into();
        let refused: Vec<_> = (0..19_999).map(session).chain([bad]).collect();
        let error = log.append(refused).await.unwrap_err();
        assert!(matches!(error, AppendError::Invalid { index: 19_999, .. }), "{error}");
        assert_eq!((total(), log.sequence()), (0, 0), "nothing of it");

        let sizes = [1, 8_000, 12_000, 13_000, 14_000, 16_384, 16_385, 20_000];
        let mut sequence = 0;
        for size in sizes {
            let ack = log.append((0..size).map(session).collect()).await.unwrap();
            sequence += size as u64;
            assert_eq!(ack, Ack { sequence, accepted: size, propagated: true });
            assert!(blocklist.get(&session(size - 1).selector).is_some() && total() >= size as u64);
        }
        // Few, and long.
        let long: Vec<_> = (0..15_000)
            .map(|number| Revocation { reason: "x".repeat(1000).into(), ..session(number) })
            .collect();
        assert_eq!(log.append(long).await.unwrap().accepted, 15_000);
        log.close().await;
    }
}

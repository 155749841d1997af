//! How old this gateway's knowledge of the shared log is.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::settings::{Settings, WhenStale};
use crate::clock::UnixTime;

/// What was heard and when.
pub(super) struct Status {
    max_staleness: Duration,
    when_stale: WhenStale,
    /// There is no own copy to go on with: what others have revoked is not known before it has caught up.
    must_join: bool,
    started: Instant,
    connected: AtomicBool,
    /// Everything there was at some time since the start is in force here.
    caught_up: AtomicBool,
    /// The shared log was at its end here at this time.
    heard: Mutex<Option<Instant>>,
    /// The engine's clock less ours, in milliseconds.
    offset: AtomicI64,
    /// Read by each request to a protected route.
    refusing: AtomicBool,
}

impl Status {
    pub(super) fn new(settings: &Settings, must_join: bool) -> Self {
        Self {
            max_staleness: settings.max_staleness,
            when_stale: settings.when_stale,
            must_join,
            started: Instant::now(),
            connected: AtomicBool::new(false),
            caught_up: AtomicBool::new(false),
            heard: Mutex::default(),
            offset: AtomicI64::new(0),
            refusing: AtomicBool::new(must_join || settings.when_stale == WhenStale::Refuse),
        }
    }

    pub(super) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::SeqCst);
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::SeqCst)
    }

    /// Nothing is in the shared log at this moment that is not in force here.
    pub(super) fn heard_all(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        if !self.caught_up.swap(true, Ordering::SeqCst) {
            tracing::info!("caught up with the shared log");
        }
        self.look();
    }

    pub(super) fn is_caught_up(&self) -> bool {
        self.caught_up.load(Ordering::SeqCst)
    }

    pub(super) fn compare_clocks(&self, engine: UnixTime, ours: UnixTime) {
        let difference = i128::from(engine.millis()) - i128::from(ours.millis());
        self.offset.store(i64::try_from(difference).unwrap_or(0), Ordering::Relaxed);
    }

    /// The engine's clock, when ours says `ours`.
    pub(super) fn engine_time(&self, ours: UnixTime) -> UnixTime {
        UnixTime::from_millis(ours.millis().saturating_add_signed(self.offset.load(Ordering::Relaxed)))
    }

    /// How old the knowledge is; since the start where there is none.
    pub(super) fn age(&self) -> Duration {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.unwrap_or(self.started).elapsed()
    }

    /// Nothing was heard for too long.
    pub(super) fn is_stale(&self) -> bool {
        self.age() > self.max_staleness
    }

    /// Protected routes are answered with 503; one atomic load.
    pub(super) fn is_refusing(&self) -> bool {
        self.refusing.load(Ordering::Relaxed)
    }

    /// Keeps [`Status::is_refusing`] up to date; called some times a second.
    pub(super) fn look(&self) {
        let refuses = self.when_stale == WhenStale::Refuse;
        let refusing = refuses && self.is_stale() || (refuses || self.must_join) && !self.is_caught_up();
        self.refusing.store(refusing, Ordering::Relaxed);
    }

    /// Why requests should not come here.
    pub(super) fn not_ready(&self) -> Option<String> {
        let age = self.age();
        if self.must_join && !self.is_caught_up() {
            return Some("not caught up with the shared log yet, and there is no own copy".to_owned());
        }
        match (self.when_stale, self.is_caught_up(), age > self.max_staleness) {
            (WhenStale::Serve, true, _) | (WhenStale::Serve, false, true) | (_, true, false) => None,
            (WhenStale::Refuse, _, true) => {
                Some(format!("nothing was heard from the shared log for {} s", age.as_secs()))
            }
            (_, false, _) => Some("not caught up with the shared log yet".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::{Engine, Redis, WhenUnreachable};
    use super::*;

    fn status(when_stale: WhenStale, max_staleness: Duration) -> Status {
        of(when_stale, max_staleness, false)
    }

    fn of(when_stale: WhenStale, max_staleness: Duration, must_join: bool) -> Status {
        let (redis, _) = Redis::parse("redis://r").unwrap();
        let settings = Settings {
            engine: Engine::Redis(Box::new(redis)),
            namespace: "n".into(),
            wait_replicas: 0,
            when_unreachable: WhenUnreachable::Accept,
            max_staleness,
            when_stale,
        };
        Status::new(&settings, must_join)
    }

    #[test]
    fn who_has_heard_nothing_is_not_ready_until_it_is_stale_and_may_serve() {
        let long = Duration::from_secs(3600);
        assert!(status(WhenStale::Serve, long).not_ready().is_some());
        assert!(status(WhenStale::Serve, Duration::ZERO).not_ready().is_none());
        assert!(status(WhenStale::Refuse, Duration::ZERO).not_ready().is_some());
        assert!(status(WhenStale::Refuse, long).is_refusing());
        let heard = status(WhenStale::Refuse, long);
        heard.heard_all();
        assert!(heard.not_ready().is_none() && !heard.is_refusing());
        let new = of(WhenStale::Serve, Duration::ZERO, true);
        assert!(new.not_ready().is_some() && new.is_refusing(), "it knows nothing");
        new.heard_all();
        assert!(new.not_ready().is_none() && !new.is_refusing());
    }
}

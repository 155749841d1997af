//! Whether a target can be used, by probes and by what requests show.
//!
//! * **Probes** (`health`) are a verdict. A target starts as usable and its very first probe decides; after that
//!   `unhealthy_after` failures in a row take it out and `healthy_after` successes bring it back. When probes
//!   have taken every target out, requests get `no_healthy_target`.
//! * **Ejection** (`passive_health`) is a preference. `failures` within `window` eject a target for `eject`, and
//!   requests pass it over while there is another. Where all that probes leave are ejected, ejections are not
//!   looked at: a single target is never cut off by its own failures (as in NGINX, and Envoy below its panic
//!   threshold), and nobody can shut an upstream off by asking it for slow answers.
//!
//! A failure is a connection refused, timed out or broken before an answer, an answer that is not HTTP, and a
//! response timeout. A status of 500 and above is the application's answer and no failure; neither is an idle
//! connection that the upstream closed while it was being reused.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::{CONNECTION, HOST, HeaderValue, USER_AGENT};
use http::{Request, Uri};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::settings;
use super::target::Target;
use super::upload::Outgoing;

/// The state of one target.
#[derive(Debug)]
pub(super) struct Health {
    down: AtomicBool,
    /// In milliseconds after `began`; 0: not ejected.
    ejected_until_ms: AtomicU64,
    began: Instant,
    passive: settings::PassiveHealth,
    /// When requests failed, within the window; at most `failures` of them.
    failures: Mutex<VecDeque<Instant>>,
}

impl Health {
    /// A usable target; `before` is its state under settings that a reload replaced.
    pub(super) fn new(passive: settings::PassiveHealth, probed: bool, before: Option<&Self>) -> Self {
        let now = Instant::now();
        let ejected_for = before.and_then(|before| before.ejected_for(now)).map_or(0, millis);
        Self {
            down: AtomicBool::new(probed && before.is_some_and(Self::down)),
            ejected_until_ms: AtomicU64::new(ejected_for),
            began: now,
            passive,
            failures: Mutex::default(),
        }
    }

    /// Whether probes have taken it out.
    pub(super) fn down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    /// Whether it is to be passed over. Reads the clock only for a target that was ejected.
    pub(super) fn ejected(&self) -> bool {
        if self.ejected_until_ms.load(Ordering::Relaxed) == 0 {
            return false;
        }
        if self.ejected_for(Instant::now()).is_some() {
            return true;
        }
        self.ejected_until_ms.store(0, Ordering::Relaxed);
        false
    }

    /// For how much longer.
    pub(super) fn ejected_for(&self, now: Instant) -> Option<Duration> {
        let until = Duration::from_millis(self.ejected_until_ms.load(Ordering::Relaxed));
        until.checked_sub(now.duration_since(self.began)).filter(|left| !left.is_zero())
    }

    /// A request failed; whether the target is ejected by that.
    pub(super) fn failed(&self, now: Instant) -> bool {
        let enough = self.passive.failures as usize;
        if enough == 0 || self.passive.eject.is_zero() || self.ejected_for(now).is_some() {
            return false;
        }
        let mut failures = self.failures();
        while failures.front().is_some_and(|&at| now.duration_since(at) > self.passive.window) {
            failures.pop_front();
        }
        failures.push_back(now);
        if failures.len() < enough {
            return false;
        }
        failures.clear();
        let until = now.duration_since(self.began).saturating_add(self.passive.eject);
        self.ejected_until_ms.store(millis(until), Ordering::Relaxed);
        true
    }

    fn failures(&self) -> MutexGuard<'_, VecDeque<Instant>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// The outcomes of probes, in a row. Pure.
#[derive(Debug)]
struct Streak {
    up: bool,
    /// The first probe decides alone.
    fresh: bool,
    against: u32,
    unhealthy_after: u32,
    healthy_after: u32,
}

impl Streak {
    fn new(settings: &settings::Health, down: bool) -> Self {
        Self {
            up: !down,
            fresh: !down,
            against: 0,
            unhealthy_after: settings.unhealthy_after,
            healthy_after: settings.healthy_after,
        }
    }

    /// The new state, when this outcome changes it.
    fn record(&mut self, good: bool) -> Option<bool> {
        let fresh = std::mem::replace(&mut self.fresh, false);
        if good == self.up {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let enough = if self.up { self.unhealthy_after } else { self.healthy_after };
        if !fresh && self.against < enough {
            return None;
        }
        self.against = 0;
        self.up = good;
        Some(good)
    }
}

/// Probes a target until it is stopped.
pub(super) async fn watch(target: Arc<Target>, settings: settings::Health, upstream: Box<str>) {
    let mut streak = Streak::new(&settings, target.health.down());
    let mut ticks = interval(settings.interval.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let good = timeout(settings.timeout, probe(&target, &settings)).await.unwrap_or(false);
        let Some(up) = streak.record(good) else { continue };
        target.health.down.store(!up, Ordering::Relaxed);
        if up {
            tracing::info!(upstream = &*upstream, target = &*target.name, "target is healthy again");
        } else {
            tracing::warn!(upstream = &*upstream, target = &*target.name, "target is unhealthy");
        }
    }
}

/// One probe on a connection of its own, so that it sees what a new client would see.
async fn probe(target: &Target, settings: &settings::Health) -> bool {
    let Ok(uri) = Uri::try_from(&*settings.path) else { return false };
    let mut request = Request::new(Outgoing::empty());
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(HOST, target.host.clone());
    headers.insert(USER_AGENT, HeaderValue::from_static("portcullis-health"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    target.probe(Box::new(request)).await.is_some_and(|status| status.is_success() || status.is_redirection())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passive(failures: u32) -> settings::PassiveHealth {
        let (window, eject) = (Duration::from_secs(10), Duration::from_secs(30));
        settings::PassiveHealth { failures, window, eject }
    }

    fn streak(down: bool) -> Streak {
        let second = Duration::from_secs(1);
        let settings = settings::Health {
            path: "/".into(),
            interval: second,
            timeout: second,
            unhealthy_after: 3,
            healthy_after: 2,
        };
        Streak::new(&settings, down)
    }

    #[test]
    fn the_first_probe_decides_alone() {
        assert_eq!(streak(false).record(false), Some(false));
        assert_eq!(streak(false).record(true), None);
        assert_eq!(streak(true).record(true), None);
    }

    #[test]
    fn later_probes_decide_in_a_row() {
        let mut streak = streak(false);
        let outcomes = [true, false, false, true, false, false, false, true, false, true, true];
        let changes: Vec<_> = outcomes.into_iter().map(|good| streak.record(good)).collect();
        let mut expected = [None; 11];
        expected[6] = Some(false);
        expected[10] = Some(true);
        assert_eq!(changes, expected);
    }

    #[tokio::test]
    async fn failures_within_the_window_eject_for_a_time() {
        let health = Health::new(passive(3), false, None);
        let at = |secs| health.began + Duration::from_secs(secs);
        assert!(!health.failed(at(0)));
        assert!(!health.failed(at(1)));
        assert!(!health.failed(at(11)), "the first has left the window");
        assert!(health.failed(at(11)));
        assert!(health.ejected());
        assert!(!health.failed(at(12)), "ejected already");
        assert_eq!(health.ejected_for(at(12)), Some(Duration::from_secs(29)));
        assert_eq!(health.ejected_for(at(41)), None);
        assert!(!health.failed(at(41)), "it begins with a clean slate");
    }

    #[tokio::test]
    async fn no_failures_mean_never() {
        let health = Health::new(passive(0), false, None);
        let now = health.began;
        assert!((0..1000).all(|_| !health.failed(now)));
    }

    #[tokio::test]
    async fn a_reload_keeps_what_is_known_of_a_target() {
        let before = Health::new(passive(1), true, None);
        assert!(before.failed(Instant::now()));
        before.down.store(true, Ordering::Relaxed);
        let after = Health::new(passive(5), true, Some(&before));
        assert!(after.ejected() && after.down());
        assert!(!Health::new(passive(5), false, Some(&before)).down(), "nobody would bring it back");
    }
}

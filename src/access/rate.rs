//! How often a route may be used by one caller: `rate_limit`.
//!
//! The generic cell rate algorithm: of a caller one number is kept, the time at which their bucket is full again. The
//! numbers are kept in two generations. Whoever was not seen for as long as a bucket takes to fill has a full one, so
//! after that time the older generation goes as a whole, and nobody loses anything: memory follows the callers of the
//! last two such times, without a sweep, and is bounded: when a generation is full it turns early, and callers of the
//! one before the last begin with a full bucket.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Permit, Refusal};
use crate::answer::{Code, Problem};
use crate::route::network;
use crate::route::settings::{RateLimit, RateLimitBy, Route};

const SHARDS: usize = 64;
/// Callers of a shard in one generation, at about 20 bytes each: 1,048,576 in all, 20 MiB.
const CALLERS_MAX: usize = 8192;

/// The limiters of all routes that have one.
#[derive(Clone, Default)]
pub struct Limiters(HashMap<Arc<str>, Arc<Limiter>>);

impl Limiters {
    /// Those of these routes. A route whose name and limit are as before goes on with its counts.
    pub fn renewed<'r>(&self, routes: impl IntoIterator<Item = &'r Arc<Route>>, at: Instant) -> Self {
        let limiter = |route: &Arc<Route>| {
            let rule = route.rate_limit.clone()?;
            let same = self.0.get(&route.name).filter(|limiter| limiter.rule == rule).cloned();
            let limiter = same.unwrap_or_else(|| Arc::new(Limiter::new(rule, at, CALLERS_MAX)));
            Some((route.name.clone(), limiter))
        };
        Self(routes.into_iter().filter_map(limiter).collect())
    }

    /// Counts a request that may pass, where its route is limited. `address` is that of its client.
    ///
    /// # Errors
    /// 429, unless the route is in shadow mode; the quota says when to come back.
    pub fn count(
        &self,
        mut permit: Permit,
        address: impl FnOnce() -> Option<IpAddr>,
        at: Instant,
    ) -> (Result<Permit, Refusal>, Option<Quota>) {
        // Looked up only where there is one: a route without costs a comparison.
        let limiter = permit.route.rate_limit.as_ref().and_then(|_| self.0.get(&permit.route.name));
        let Some(limiter) = limiter.filter(|_| permit.shadowed.is_none()) else { return (Ok(permit), None) };
        let quota = limiter.take(&permit, address, at);
        if permit.route.shadow {
            permit.shadowed = quota.wait.map(|_| Code::RateLimited);
            return (Ok(permit), None);
        }
        match quota.wait {
            None => (Ok(permit), Some(quota)),
            Some(wait) => {
                let problem = Problem::new(Code::RateLimited, "too many requests; try again later")
                    .with_retry_after(whole_seconds(wait).max(1));
                (Err(Refusal { problem, token: permit.token }), Some(quota))
            }
        }
    }
}

/// What is left to a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// So many requests…
    pub requests: u64,
    /// … in so many seconds.
    pub window_secs: u64,
    /// So many at once now.
    pub left: u64,
    /// In so many seconds all of the burst is there again.
    pub reset_secs: u64,
    /// Over it; the next request may come after this.
    pub wait: Option<Duration>,
}

/// The counts of one route.
pub(super) struct Limiter {
    rule: RateLimit,
    began: Instant,
    /// Nanoseconds for which one request takes from the bucket, and all of them.
    interval: u64,
    full: u64,
    callers_max: usize,
    hash: RandomState,
    shards: Box<[Mutex<Shard>]>,
}

#[derive(Default)]
struct Shard {
    now: HashMap<u64, u64>,
    before: HashMap<u64, u64>,
    turned: u64,
}

impl Limiter {
    fn new(rule: RateLimit, began: Instant, callers_max: usize) -> Self {
        let interval = (rule.per.as_nanos() / u128::from(rule.requests.max(1))).max(1);
        let full = interval.saturating_mul(u128::from(rule.burst.max(1)));
        let nanos = |nanos: u128| u64::try_from(nanos).unwrap_or(u64::MAX / 4).min(u64::MAX / 4);
        Self {
            rule,
            began,
            interval: nanos(interval),
            full: nanos(full),
            callers_max,
            hash: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    fn take(&self, permit: &Permit, address: impl FnOnce() -> Option<IpAddr>, at: Instant) -> Quota {
        let token = permit.token.as_ref().map(|known| &known.token);
        let key = match (self.rule.by, token) {
            (RateLimitBy::Subject, Some(token)) if token.subject.is_some() => {
                self.hash.hash_one((0, &*token.issuer, token.subject.as_deref()))
            }
            (RateLimitBy::Subject | RateLimitBy::Token, Some(token)) => {
                self.hash.hash_one((1, &*token.issuer, &*token.token_id))
            }
            _ => self.hash.hash_one((2, address().map(network))),
        };
        self.take_of(key, at)
    }

    fn take_of(&self, key: u64, at: Instant) -> Quota {
        let now = u64::try_from(at.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX / 4);
        let shard = &self.shards[(key >> 32) as usize % SHARDS];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        shard.turn(now, self.full, self.callers_max);
        let full_at = shard.now.get(&key).or_else(|| shard.before.get(&key)).map_or(now, |at| (*at).max(now));
        let next = full_at.saturating_add(self.interval);
        let over = (next - now).checked_sub(self.full).filter(|over| *over > 0);
        let full_at = if over.is_some() { full_at } else { next };
        // Also of one who is refused, so that their count does not go with the generation before.
        shard.now.insert(key, full_at);
        drop(shard);
        self.quota(full_at - now, over)
    }

    fn quota(&self, missing: u64, over: Option<u64>) -> Quota {
        let per = self.rule.per;
        let window_secs = whole_seconds(per).max(1);
        // As many as the window of whole seconds has.
        let scaled =
            u128::from(self.rule.requests) * u128::from(window_secs) * 1_000_000_000 / per.as_nanos().max(1);
        let requests = u64::try_from(scaled).unwrap_or(u64::MAX);
        Quota {
            requests,
            window_secs,
            left: (self.full.saturating_sub(missing) / self.interval).min(requests),
            reset_secs: whole_seconds(Duration::from_nanos(missing)),
            wait: over.map(Duration::from_nanos),
        }
    }
}

impl Shard {
    fn turn(&mut self, now: u64, full: u64, callers_max: usize) {
        let idle = now.saturating_sub(self.turned);
        if idle < full && self.now.len() < callers_max {
            return;
        }
        self.before =
            if idle < full.saturating_mul(2) { std::mem::take(&mut self.now) } else { HashMap::new() };
        self.now = HashMap::new();
        self.turned = now;
    }
}

/// Rounded up.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(requests: u32, per: Duration, burst: u32, callers_max: usize, at: Instant) -> Limiter {
        Limiter::new(RateLimit { requests, per, burst, by: RateLimitBy::Address }, at, callers_max)
    }

    fn passed(limiter: &Limiter, key: u64, count: usize, at: Instant) -> usize {
        (0..count).filter(|_| limiter.take_of(key, at).wait.is_none()).count()
    }

    #[test]
    fn a_burst_passes_at_once_and_then_so_many_in_a_time() {
        let at = Instant::now();
        let limiter = limiter(10, Duration::from_secs(1), 5, CALLERS_MAX, at);
        assert_eq!(limiter.take_of(1, at).left, 4);
        assert_eq!(passed(&limiter, 1, 10, at), 4);
        let refused = limiter.take_of(1, at);
        assert_eq!((refused.left, refused.wait), (0, Some(Duration::from_millis(100))));
        assert_eq!((refused.requests, refused.window_secs, refused.reset_secs), (10, 1, 1));
        let second = |n: u64| at + Duration::from_millis(n * 100);
        assert_eq!((1..=30).filter(|n| limiter.take_of(1, second(*n)).wait.is_none()).count(), 30);
        assert_eq!(passed(&limiter, 1, 9, at + Duration::from_secs(60)), 5);
        assert_eq!(passed(&limiter, 2, 9, at), 5, "another caller has a bucket of their own");
    }

    #[test]
    fn being_refused_costs_nothing() {
        let at = Instant::now();
        let limiter = limiter(1, Duration::from_secs(1), 1, CALLERS_MAX, at);
        passed(&limiter, 1, 1000, at);
        assert_eq!(passed(&limiter, 1, 2, at + Duration::from_secs(1)), 1);
    }

    #[test]
    fn a_count_outlives_a_generation_and_not_two() {
        let at = Instant::now();
        let limiter = limiter(10, Duration::from_secs(10), 10, CALLERS_MAX, at);
        let after = |secs: u64| at + Duration::from_secs(secs);
        assert_eq!(passed(&limiter, 1, 99, after(9)), 10);
        assert_eq!(passed(&limiter, 1, 99, after(11)), 2);
        assert_eq!(passed(&limiter, 1, 99, after(21)), 10);
        assert_eq!(passed(&limiter, 1, 99, after(900)), 10);
    }

    #[test]
    fn callers_take_bounded_memory() {
        let at = Instant::now();
        let limiter = limiter(10, Duration::from_secs(10), 10, 4, at);
        (0..100_000_u64).for_each(|n| {
            limiter.take_of(n << 30 | n, at);
        });
        let kept: usize =
            limiter.shards.iter().map(|s| s.lock().map_or(0, |s| s.now.len() + s.before.len())).sum();
        assert!(kept <= SHARDS * 2 * 4, "{kept}");
    }

    #[test]
    fn any_rate_that_can_be_written_can_be_counted() {
        let at = Instant::now();
        for (requests, per, burst) in [
            (u32::MAX, Duration::from_millis(1), u32::MAX),
            (1, Duration::MAX, u32::MAX),
            (3, Duration::from_millis(7), 1),
        ] {
            let limiter = limiter(requests, per, burst, CALLERS_MAX, at);
            assert!(limiter.take_of(1, at).wait.is_none());
            limiter.take_of(1, at + Duration::from_secs(1 << 40));
        }
    }
}

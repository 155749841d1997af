//! The brake on guessing passwords: failed sign-ins counted per account and address, and per account.
//!
//! It knows accounts by the email that was tried, whether or not there is such an account, so that it tells nobody
//! which ones exist. Its memory is bounded: when it is full the oldest count is forgotten, and filling it costs an
//! attacker one Argon2 hash per entry.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::settings;
use crate::clock::UnixTime;
use crate::route::network;

/// Counts kept, at about 64 bytes each: 12 MiB.
const COUNTS_MAX: usize = 200_000;
/// How much more an account may fail over all addresses than from one (CONTRACT §2 `[auth.lockout]`).
const ALL_ADDRESSES: u32 = 10;

const SECRET_BYTES: usize = 32;
/// What is handed over of a count: its key, when its window began (milliseconds), and how many have failed.
const COUNT_BYTES: usize = 20; // = 8 + 8 + 4

/// Counts of failed sign-ins.
pub(super) struct Lockout {
    counts: Mutex<Counts>,
    counts_max: usize,
}

struct Counts {
    /// Nobody can choose emails whose keys are the same.
    secret: Zeroizing<[u8; SECRET_BYTES]>,
    by_key: HashMap<u64, Count>,
    /// Keys in the order in which their windows began.
    order: VecDeque<(UnixTime, u64)>,
}

#[derive(Clone, Copy)]
struct Count {
    began: UnixTime,
    failed: u32,
}

/// Who tries to sign in, from where.
#[derive(Clone, Copy)]
pub(super) struct Attempt<'a> {
    /// The email, in the spelling by which emails are compared.
    pub(super) account: &'a str,
    /// `None` on a Unix socket.
    pub(super) address: Option<IpAddr>,
}

/// No more attempts for so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Locked(pub(super) Duration);

impl Lockout {
    /// None has failed.
    ///
    /// # Errors
    /// There is no randomness to be had.
    pub(super) fn new() -> std::io::Result<Self> {
        let mut secret = Zeroizing::new([0; SECRET_BYTES]);
        getrandom::fill(&mut *secret).map_err(std::io::Error::other)?;
        let counts = Counts { secret, by_key: HashMap::new(), order: VecDeque::new() };
        Ok(Self { counts: Mutex::new(counts), counts_max: COUNTS_MAX })
    }

    /// All counts, for the process that takes the place of this one.
    pub(super) fn handed_over(&self) -> Vec<u8> {
        let counts = self.lock();
        let mut bytes = counts.secret.to_vec();
        bytes.reserve(counts.order.len() * COUNT_BYTES);
        for (began, key) in &counts.order {
            let Some(count) = counts.by_key.get(key).filter(|count| count.began == *began) else { continue };
            bytes.extend_from_slice(&key.to_le_bytes());
            bytes.extend_from_slice(&began.millis().to_le_bytes());
            bytes.extend_from_slice(&count.failed.to_le_bytes());
        }
        bytes
    }

    /// Goes on with what [`handed_over`](Self::handed_over) gave, before anybody has signed in here.
    pub(super) fn take_over(&self, bytes: &[u8]) {
        let Some((secret, bytes)) = bytes.split_first_chunk::<SECRET_BYTES>() else { return };
        let mut counts = self.lock();
        *counts.secret = *secret;
        counts.by_key.clear();
        counts.order.clear();
        for count in bytes.as_chunks::<COUNT_BYTES>().0.iter().take(self.counts_max) {
            let (key, rest) = count.split_first_chunk().expect("eight of twenty bytes");
            let (began, failed) = rest.split_first_chunk().expect("eight of twelve bytes");
            let (key, began) = (u64::from_le_bytes(*key), UnixTime::from_millis(u64::from_le_bytes(*began)));
            let failed = u32::from_le_bytes(failed.try_into().expect("the last four bytes"));
            counts.by_key.insert(key, Count { began, failed });
            counts.order.push_back((began, key));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asked before the password is looked at.
    ///
    /// # Errors
    /// Locked, and for how long yet.
    pub(super) fn check(
        &self,
        attempt: Attempt<'_>,
        rule: settings::Lockout,
        now: UnixTime,
    ) -> Result<(), Locked> {
        let mut counts = self.lock();
        let limits = counts.limits(attempt, rule);
        counts.check(&limits, rule.window, now)
    }

    /// Told what became of the attempt. Of many attempts that ran at once, those that end after the limit was
    /// reached are refused whatever the password was, so that a burst tells no more than one attempt after another.
    ///
    /// # Errors
    /// Locked meanwhile.
    pub(super) fn conclude(
        &self,
        attempt: Attempt<'_>,
        rule: settings::Lockout,
        now: UnixTime,
        good: bool,
    ) -> Result<(), Locked> {
        let mut counts = self.lock();
        let limits = counts.limits(attempt, rule);
        counts.check(&limits, rule.window, now)?;
        if good {
            // The account's own count stays: a good sign-in somewhere says nothing for the guesses from elsewhere.
            counts.by_key.remove(&limits[0].0);
            return Ok(());
        }
        for (key, _) in limits {
            counts.add(key, now, self.counts_max);
        }
        Ok(())
    }
}

/// How many failures an account may have from one address, and from all of them.
pub(super) const fn limits(rule: settings::Lockout) -> [u32; 2] {
    [rule.attempts, rule.attempts.saturating_mul(ALL_ADDRESSES)]
}

impl Counts {
    /// The keys of an attempt, with how many failures each may have.
    fn limits(&self, attempt: Attempt<'_>, rule: settings::Lockout) -> [(u64, u32); 2] {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &*self.secret);
        let key = |kind: u8, octets: &[u8]| {
            let mut context = hmac::Context::with_key(&secret);
            // The kind tells how many octets there are, so that no account can pass for an address and another one.
            context.update(&[kind]);
            context.update(octets);
            context.update(attempt.account.as_bytes());
            let tag = context.sign();
            u64::from_le_bytes(*tag.as_ref().first_chunk().expect("HMAC-SHA-256 has 32 bytes"))
        };
        let here = match attempt.address.map(network) {
            None => key(0, &[]),
            Some(IpAddr::V4(address)) => key(4, &address.octets()),
            Some(IpAddr::V6(address)) => key(6, &address.octets()),
        };
        let [limit, everywhere] = limits(rule);
        [(here, limit), (key(1, &[]), everywhere)]
    }

    fn check(&mut self, limits: &[(u64, u32)], window: Duration, now: UnixTime) -> Result<(), Locked> {
        self.forget(now.minus(window));
        limits.iter().try_for_each(|(key, limit)| match self.by_key.get(key) {
            Some(count) if count.failed >= *limit => Err(Locked(count.began.plus(window).since(now))),
            _ => Ok(()),
        })
    }

    fn add(&mut self, key: u64, now: UnixTime, counts_max: usize) {
        if let Some(count) = self.by_key.get_mut(&key) {
            count.failed = count.failed.saturating_add(1);
            return;
        }
        while self.order.len() >= counts_max {
            self.forget_first();
        }
        self.by_key.insert(key, Count { began: now, failed: 1 });
        self.order.push_back((now, key));
    }

    /// Forgets windows that began at `before` or earlier.
    fn forget(&mut self, before: UnixTime) {
        while self.order.front().is_some_and(|&(began, _)| began <= before) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((began, key)) = self.order.pop_front()
            && self.by_key.get(&key).is_some_and(|count| count.began == began)
        {
            self.by_key.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: settings::Lockout = settings::Lockout { attempts: 3, window: Duration::from_secs(60) };
    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn attempt<'a>(account: &'a str, address: &str) -> Attempt<'a> {
        Attempt { account, address: Some(address.parse().unwrap()) }
    }

    fn fail(lockout: &Lockout, attempt: Attempt<'_>, times: u32) {
        for _ in 0..times {
            lockout.conclude(attempt, RULE, NOW, false).unwrap();
        }
    }

    #[test]
    fn locks_after_so_many_failures_until_the_window_ends() {
        let lockout = Lockout::new().unwrap();
        let ada = attempt("ada", "192.0.2.1");
        fail(&lockout, ada, 3);
        assert_eq!(lockout.check(ada, RULE, NOW), Err(Locked(RULE.window)));
        let nearly = NOW.plus(Duration::from_secs(59));
        assert_eq!(lockout.check(ada, RULE, nearly), Err(Locked(Duration::from_secs(1))));
        assert_eq!(lockout.check(ada, RULE, NOW.plus(RULE.window)), Ok(()));
        assert_eq!(lockout.check(attempt("ada", "192.0.2.2"), RULE, NOW), Ok(()));
        assert_eq!(lockout.check(attempt("bob", "192.0.2.1"), RULE, NOW), Ok(()));
    }

    #[test]
    fn a_burst_learns_no_more_than_one_after_another() {
        let lockout = Lockout::new().unwrap();
        let ada = attempt("ada", "192.0.2.1");
        fail(&lockout, ada, 3);
        assert!(lockout.conclude(ada, RULE, NOW, true).is_err(), "even with the right password");
    }

    #[test]
    fn locks_an_account_tried_from_everywhere() {
        let lockout = Lockout::new().unwrap();
        for n in 0..30 {
            fail(&lockout, attempt("ada", &format!("192.0.2.{n}")), 1);
        }
        assert!(lockout.check(attempt("ada", "198.51.100.1"), RULE, NOW).is_err());
    }

    #[test]
    fn success_clears_the_count_of_that_address() {
        let lockout = Lockout::new().unwrap();
        let ada = attempt("ada", "192.0.2.1");
        fail(&lockout, ada, 2);
        lockout.conclude(ada, RULE, NOW, true).unwrap();
        fail(&lockout, ada, 3);
        assert!(lockout.check(ada, RULE, NOW).is_err());
    }

    #[test]
    fn one_ipv6_network_is_one_address() {
        let lockout = Lockout::new().unwrap();
        for n in 0..3 {
            fail(&lockout, attempt("ada", &format!("2001:db8::{n}")), 1);
        }
        assert!(lockout.check(attempt("ada", "2001:db8::ffff"), RULE, NOW).is_err());
        assert!(lockout.check(attempt("ada", "2001:db8:0:1::1"), RULE, NOW).is_ok());
    }

    #[test]
    fn what_is_handed_over_counts_on() {
        let (before, after) = (Lockout::new().unwrap(), Lockout::new().unwrap());
        let (ada, bob) = (attempt("ada", "192.0.2.1"), attempt("bob", "192.0.2.1"));
        fail(&before, ada, 3);
        fail(&before, bob, 2);
        after.take_over(&before.handed_over());
        assert_eq!(after.check(ada, RULE, NOW), Err(Locked(RULE.window)));
        assert_eq!(after.check(bob, RULE, NOW), Ok(()));
        fail(&after, bob, 1);
        assert!(after.check(bob, RULE, NOW).is_err());
        assert_eq!(after.check(ada, RULE, NOW.plus(RULE.window)), Ok(()), "and it ends when it would have");
        // Nothing that could come in its place breaks anything.
        for bytes in [&[][..], &[1; 31], &[1; 33], &[255; 100]] {
            Lockout::new().unwrap().take_over(bytes);
        }
    }

    #[test]
    fn memory_is_bounded() {
        let lockout = Lockout { counts_max: 100, ..Lockout::new().unwrap() };
        for n in 0..1000 {
            fail(&lockout, attempt(&n.to_string(), "192.0.2.1"), 1);
        }
        let counts = lockout.counts.lock().unwrap();
        assert!(counts.by_key.len() <= 100 && counts.order.len() <= 100);
    }
}

//! Wall-clock time, read in one place and passed down as a value; and the timer of a connection.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::{Instant, Sleep, sleep_until};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixTime(u64);

impl UnixTime {
    /// The beginning of time.
    pub const ZERO: Self = Self(0);

    /// From milliseconds since the epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// From whole seconds since the epoch; saturates.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down (as `iat` counts, RFC 7519 §2 NumericDate).
    pub const fn secs(self) -> u64 {
        self.0 / 1000
    }

    /// Whole seconds since the epoch, rounded up.
    pub const fn secs_ceil(self) -> u64 {
        self.0.div_ceil(1000)
    }

    /// This time and `later` more; saturates.
    pub fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_millis()).unwrap_or(u64::MAX)))
    }

    /// This time less `earlier`; saturates at the epoch.
    pub fn minus(self, earlier: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(earlier.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// RFC 3339 in UTC; with milliseconds only where there are some.
    pub fn rfc3339(self) -> String {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .ok()
            .and_then(|at| at.format(&Rfc3339).ok())
            .unwrap_or_else(|| "9999-12-31T23:59:59Z".to_owned())
    }

    /// The same with three decimals always, behind what is in `out`; for the access log, which cannot spend on it what a
    /// general formatter does.
    pub fn write_rfc3339(self, out: &mut Vec<u8>) {
        let (days, millis) = (self.0 / 86_400_000, self.0 % 86_400_000);
        // Days since 0000-03-01, so that a leap day ends its year (Howard Hinnant, "chrono-compatible date algorithms").
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = era * 400 + year + u64::from(month <= 2);
        let seconds = millis / 1000;
        let digit = |number: u64| b'0' + (number % 10) as u8;
        let two = |number: u64| [digit(number / 10), digit(number)];
        let [y, e] = two(year / 100);
        let ([a, r], [m, o], [d, i]) = (two(year), two(month), two(day));
        let ([h, u], [n, t], [s, c]) = (two(seconds / 3600), two(seconds / 60 % 60), two(seconds % 60));
        let [x, z, w] = [digit(millis / 100), digit(millis / 10), digit(millis)];
        out.extend_from_slice(&[
            y, e, a, r, b'-', m, o, b'-', d, i, b'T', h, u, b':', n, t, b':', s, c, b'.', x, z, w, b'Z',
        ]);
    }

    /// As HTTP writes it (RFC 9110 §5.6.7).
    pub fn http_date(self) -> [u8; 29] {
        const DAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
        const MONTHS: [&[u8; 3]; 12] =
            [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
        let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
        let mut plain = Vec::with_capacity(24);
        self.write_rfc3339(&mut plain);
        // 1970-01-01T00:00:00.000Z
        let two = |at: usize| usize::from(plain[at] - b'0') * 10 + usize::from(plain[at + 1] - b'0');
        let day = usize::try_from(self.0 / 86_400_000 % 7).unwrap_or_default();
        text[..3].copy_from_slice(DAYS[day]);
        text[5..7].copy_from_slice(&plain[8..10]);
        text[8..11].copy_from_slice(MONTHS[(two(5) + 11) % 12]);
        text[12..16].copy_from_slice(&plain[..4]);
        text[17..25].copy_from_slice(&plain[11..19]);
        text
    }

    /// Parses RFC 3339; `None` for anything else and for times before the epoch.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok().map(Self)
    }
}

impl fmt::Debug for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339())
    }
}

/// Where the time comes from; the real one is made in `app` alone.
pub trait Clock: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> UnixTime;
}

/// The machine's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the one place")]
    fn now(&self) -> UnixTime {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Wakes the connection's task at a deadline or before it. A later deadline costs nothing: the timer goes off at
/// the old one, and is moved then. So a busy keep-alive connection touches the timer wheel once per idle timeout,
/// not once per request.
#[derive(Debug, Default)]
pub struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Whether `deadline` has passed; if not, the task is woken for another look no later than then.
    pub fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        loop {
            if sleep.deadline() > deadline {
                sleep.as_mut().reset(deadline);
            }
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

/// A clock that a test sets.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock that stands at `at`.
    pub fn at(at: UnixTime) -> Self {
        Self(AtomicU64::new(at.0))
    }

    /// Moves it to `at`.
    pub fn set(&self, at: UnixTime) {
        self.0.store(at.0, Ordering::SeqCst);
    }

    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        self.set(self.now().plus(by));
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixTime {
        UnixTime(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_write_a_time_say_the_same() {
        let mut at = 0;
        while at < 253_402_300_800_000 {
            let mut text = Vec::new();
            UnixTime::from_millis(at).write_rfc3339(&mut text);
            let text = String::from_utf8(text).unwrap();
            assert_eq!(UnixTime::parse_rfc3339(&text), Some(UnixTime::from_millis(at)), "{text}");
            at += 29 * 86_400_000 + 123_457;
        }
    }

    #[test]
    fn the_date_of_http_is_its_own() {
        for (at, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (1_709_164_800, "Thu, 29 Feb 2024 00:00:00 GMT"),
            (1_795_443_129, "Mon, 23 Nov 2026 14:12:09 GMT"),
        ] {
            assert_eq!(UnixTime::from_secs(at).http_date(), text.as_bytes(), "{text}");
        }
    }

    #[test]
    fn rfc3339_survives_the_round_trip() {
        let at = UnixTime::from_millis(1_795_443_129_250);
        assert_eq!(UnixTime::parse_rfc3339(&at.rfc3339()), Some(at));
        assert_eq!(UnixTime::from_secs(0).rfc3339(), "1970-01-01T00:00:00Z");
        assert_eq!(UnixTime::parse_rfc3339("1969-12-31T23:59:59Z"), None);
        assert_eq!(UnixTime::from_millis(1001).secs_ceil(), 2);
    }
}

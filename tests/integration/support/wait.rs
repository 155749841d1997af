//! Waiting for conditions, never for durations.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long anything may take before its test fails. Far more than it needs: the machine may be busy.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(5);

/// What `look` finds, as soon as it finds something.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < DEADLINE, "waited {DEADLINE:?} for {what}");
        thread::sleep(POLL);
    }
}

/// Unix seconds, whole ones, as tokens count.
#[expect(clippy::disallowed_methods, reason = "tests make tokens of the real time, as issuers do")]
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    i64::try_from(since.as_secs()).expect("seconds fit")
}

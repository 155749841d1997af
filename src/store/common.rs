//! What the gateways of one store hold in common for a short while: counts of what failed, and what may be used once.
//! Everything here is forgotten by itself.

use super::Answer;
use crate::clock::UnixTime;

/// By what a thing is known: a digest over what it is and whose.
pub type CommonKey = [u8; 32];

/// How much is counted under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Since its window began.
    pub count: u64,
    /// When its window ends; 0 where nothing is counted.
    pub until: UnixTime,
}

/// Small things that several gateways have in common.
pub trait Common: Send + Sync {
    /// What is counted under each of these keys, in their order.
    fn counts(&self, keys: [CommonKey; 2], now: UnixTime) -> Answer<'_, [Count; 2]>;

    /// Counts one more under the first of these keys, and under the second unless that makes more than `first_max`: what is
    /// counted then, in their order; nothing under a key that was left alone. A window that begins with this ends at `until`.
    fn count(
        &self,
        keys: [CommonKey; 2],
        first_max: u64,
        until: UnixTime,
        now: UnixTime,
    ) -> Answer<'_, [Count; 2]>;

    /// Nothing is known of this key any more.
    fn forget(&self, key: CommonKey) -> Answer<'_, ()>;

    /// Uses something that may be used once until `until`: whether this was the first time.
    fn use_once(&self, key: CommonKey, until: UnixTime, now: UnixTime) -> Answer<'_, bool>;
}

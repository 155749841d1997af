//! What an engine of the shared log owes; `redis/` and `postgres/` are the two there are.
//!
//! The shared log has three parts. **Live**: batches in one order, each at a [`Position`]; old ones may be trimmed.
//! **State**: of every entry that has not expired its key, expiry and cutoff, at the position of its batch; with it a
//! gateway that is new, or was away for too long, knows everything. **Books**: the [`Epoch`], and of each gateway the
//! last sequence that was appended. One append changes all three, or nothing.

use std::fmt;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{Batch, EngineError, Member, StateEntry};
use crate::clock::UnixTime;
use crate::revocation::GatewayId;

/// The answer of an engine, some time later. Every one comes within some seconds, if only as
/// [`EngineError::Unreachable`]. If the future is dropped, what was asked for may or may not be done.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, EngineError>>;

/// A place in the shared log. Positions of one epoch only grow. Engines that count with one number leave the second 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64, pub u64);

impl Position {
    /// Before everything.
    pub const START: Self = Self(0, 0);

    /// As it is written: `1795000000000-0`; the second number may be left out when it is 0.
    pub fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| {
            let good = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            good.then(|| text.parse().ok()).flatten()
        };
        match text.split_once('-') {
            Some((first, second)) => Some(Self(number(first)?, number(second)?)),
            None => Some(Self(number(text)?, 0)),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

/// Tells one shared log from another in the same place: drawn at random when it is made, and gone with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(pub u64);

/// What a gateway learns when it meets the shared log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Met {
    /// Which one it is.
    pub epoch: Epoch,
    /// The position of the newest batch there ever was; [`Position::START`] when there is none.
    pub newest: Position,
    /// The last sequence of the gateway that asks which was appended; `None` when the shared log does not know it.
    pub own: Option<u64>,
    /// The engine's clock.
    pub now: UnixTime,
    /// Replicas that follow the engine, where it knows them.
    pub replicas: u32,
}

/// What an append is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// From a gateway's log: appended only if the last sequence of the gateway is `after`, which it then raises to
    /// `last`. So each is appended once, however often it is tried: if the books say `last` already, that is the
    /// answer, and if they say anything else [`EngineError::OutOfStep`].
    Log {
        /// What the gateway thinks that the books say.
        after: u64,
        /// The sequence of its last entry in the batch, or of a later one that is not to be forwarded.
        last: u64,
    },
    /// Asked for by somebody who waits: not appended any more once the engine's clock has passed `until`
    /// ([`EngineError::TooLate`]). The books stay as they are.
    Direct {
        /// By the engine's clock.
        until: UnixTime,
    },
    /// What the shared log has lost. The books stay as they are.
    Refill,
}

/// A batch is in the shared log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Where; or, if it was there already, a position at or behind it.
    pub position: Position,
    /// Replicas that have it for sure; counted only as far as `wait_replicas` asks.
    pub replicas: u32,
}

/// A batch as it comes out of the shared log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Where it stands.
    pub position: Position,
    /// When it was appended, by the engine's clock.
    pub at: UnixTime,
    /// The bytes of [`Batch::payload`].
    pub payload: Vec<u8>,
}

/// An engine that holds the shared log of a fleet, for one namespace. It connects when it is first asked for
/// something, and again whenever a connection was lost.
pub trait Engine: Send + Sync + 'static {
    /// Its kind and address for logs and answers, without user, password and parameters.
    fn name(&self) -> String;

    /// Makes the shared log if there is none (whoever is first, of several at once, draws the epoch), and tells about
    /// it. The first answer a caller relies on; it must come from the copy that takes writes.
    fn meet(&self, gateway: GatewayId) -> Answer<'_, Met>;

    /// Appends a batch: to the live part, to the state and to the books, all or nothing.
    ///
    /// [`EngineError::OtherEpoch`] if the shared log is not of this epoch. What an answer says is as durable as the
    /// engine's settings make it, and on `wait_replicas` replicas as far as [`Appended::replicas`] tells.
    fn append(&self, epoch: Epoch, stamp: Stamp, batch: Batch) -> Answer<'_, Appended>;

    /// Puts into the books that the shared log has all of this gateway's entries up to `sequence`: after a refill.
    fn enter(&self, epoch: Epoch, gateway: GatewayId, sequence: u64) -> Answer<'_, ()>;

    /// Whether there is a batch at exactly this position, so that what follows it can be followed without a gap.
    fn holds(&self, position: Position) -> Answer<'_, bool>;

    /// Follows the live part from behind a position, which must be held, or [`Position::START`].
    fn follow(&self, after: Position) -> Answer<'_, Box<dyn Follow>>;

    /// Reads the whole state. What is appended meanwhile may or may not be in it: read `meet().newest` first and
    /// follow from there.
    fn state(&self) -> Answer<'_, Box<dyn Pages>>;

    /// What of the engine's settings could lose entries that it has acknowledged, in words for the operator; also
    /// that it does not say.
    fn warnings(&self) -> Answer<'_, Vec<String>>;

    /// Writes down how a gateway does; it is forgotten when nothing is heard of it for a day.
    fn beat(&self, member: Member) -> Answer<'_, ()>;

    /// All gateways that have been heard of, in no order.
    fn members(&self) -> Answer<'_, Vec<Member>>;
}

/// One who follows the live part; on a connection of its own.
pub trait Follow: Send {
    /// The next batches in order, some megabytes at most; waits for some, for about `patience`. No batches: there
    /// were none up to now, and the engine has just said so. Nothing is lost if the future is dropped.
    fn next(&mut self, patience: Duration) -> Answer<'_, Vec<Delivered>>;
}

/// The state, page by page: first all lifts there are, then what was revoked, in no order. A lift is of everything
/// of its key at an earlier position.
pub trait Pages: Send {
    /// The next page; `None` when that was all.
    fn next(&mut self) -> Answer<'_, Option<Vec<(Position, StateEntry)>>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_as_they_are_written() {
        for position in [Position(0, 0), Position(1_795_000_000_000, 7), Position(u64::MAX, u64::MAX)] {
            assert_eq!(Position::parse(&position.to_string()), Some(position));
        }
        assert_eq!(Position::parse("42"), Some(Position(42, 0)));
        for wrong in ["", "-", "1-", "-1", "+1", "1-2-3", " 1", "0x1", "18446744073709551616"] {
            assert_eq!(Position::parse(wrong), None, "{wrong}");
        }
    }
}

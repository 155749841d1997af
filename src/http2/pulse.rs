//! Whether the other side of a connection is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::Instant;

/// Whether the other side has said something: not just a frame, but a part of a message. A clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Heard(Arc<AtomicBool>);

impl Heard {
    /// It has.
    pub fn hear(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it has since the last time.
    pub fn take(&self) -> bool {
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}

/// Asks a silent connection whether it lives.
#[derive(Debug)]
pub struct Pulse {
    pings: PingPong,
    every: Duration,
    within: Duration,
    heard: Instant,
    /// It is being asked since then.
    asked: Option<Instant>,
}

impl Pulse {
    /// Heard of just now; asked after so long a silence, and to answer within so long.
    pub fn new(pings: PingPong, every: Duration, within: Duration) -> Self {
        Self { pings, every, within, heard: Instant::now(), asked: None }
    }

    /// It has said something.
    pub const fn hear(&mut self, now: Instant) {
        self.heard = now;
    }

    /// When there is something to do.
    pub fn next(&self) -> Instant {
        self.asked.map_or(self.heard + self.every, |asked| asked + self.within)
    }

    /// Takes the answer, if it comes.
    pub fn look(&mut self, cx: &mut Context<'_>) {
        if self.asked.is_some() && matches!(self.pings.poll_pong(cx), Poll::Ready(Ok(_))) {
            self.asked = None;
            self.hear(Instant::now());
        }
    }

    /// Does what was due at [`Pulse::next`]; false when there was no answer.
    pub fn beat(&mut self) -> bool {
        if self.asked.is_some() {
            return false;
        }
        // An error: the connection ends.
        if self.pings.send_ping(Ping::opaque()).is_ok() {
            self.asked = Some(Instant::now());
        } else {
            self.hear(Instant::now());
        }
        true
    }
}

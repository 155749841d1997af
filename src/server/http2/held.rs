//! A stream that may become a tunnel keeps its connection from being taken for idle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::hub::{Hub, TunnelCount};
use crate::answer::Holding;

/// Counts for its connection until it is dropped.
pub(super) struct Held {
    abandoned: Arc<AtomicBool>,
    _count: TunnelCount,
}

impl Held {
    /// One on this connection, and what tells that it was given up.
    pub(super) fn new(hub: &Arc<Hub>) -> (Self, Arc<AtomicBool>) {
        let abandoned = Arc::new(AtomicBool::new(false));
        (Self { abandoned: Arc::clone(&abandoned), _count: hub.tunnel() }, abandoned)
    }
}

impl Holding for Held {
    fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }
}

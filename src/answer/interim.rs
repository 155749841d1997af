//! Answers before the answer (RFC 9110 §15.2).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use http::{HeaderMap, StatusCode};

/// Where informational answers to the request under way go, whose client may be told of them: to the connection, which
/// writes them before the answer. The default takes none.
#[derive(Debug, Default)]
pub struct Interim {
    open: AtomicBool,
    some: AtomicBool,
    told: Mutex<Vec<(StatusCode, HeaderMap)>>,
}

impl Interim {
    /// Whether the client can be told anything.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// The next request begins; `open`: its client can be told something.
    pub fn begin(&self, open: bool) {
        self.open.store(open, Ordering::Relaxed);
        if self.some.load(Ordering::Relaxed) {
            self.take();
        }
    }

    /// Tells the client of this answer. To be called by the task of the connection, and not without bounds: it is kept
    /// until the client takes it.
    pub fn tell(&self, status: StatusCode, headers: HeaderMap) {
        if self.is_open() {
            self.told.lock().unwrap_or_else(PoisonError::into_inner).push((status, headers));
            self.some.store(true, Ordering::Release);
        }
    }

    /// What was told since the last time.
    pub fn take(&self) -> Vec<(StatusCode, HeaderMap)> {
        if !self.some.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        self.some.store(false, Ordering::Release);
        std::mem::take(&mut *told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_for_a_client_that_cannot_be_told_nor_for_the_next_request() {
        let interim = Interim::default();
        interim.tell(StatusCode::EARLY_HINTS, HeaderMap::new());
        assert!(interim.take().is_empty());
        interim.begin(true);
        interim.tell(StatusCode::EARLY_HINTS, HeaderMap::new());
        interim.tell(StatusCode::PROCESSING, HeaderMap::new());
        let told: Vec<_> = interim.take().into_iter().map(|(status, _)| status.as_u16()).collect();
        assert_eq!(told, [103, 102]);
        interim.tell(StatusCode::PROCESSING, HeaderMap::new());
        interim.begin(true);
        assert!(interim.take().is_empty());
    }
}

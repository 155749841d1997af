//! `Idempotency-Key` on requests that revoke or unrevoke: for 24 hours the same request with the same key gets the
//! first answer again and has no second effect; another request with that key is refused.
//!
//! Kept in memory only, for the newest [`KEYS_MAX`] keys. A restart forgets them, which is cheap to live with: to
//! revoke again what is revoked changes nothing but the trail. Only success is kept: what failed had no effect, and is
//! tried again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{self, SHA256};
use axum::extract::Request;
use http::HeaderMap;
use serde_json::Value;

use super::reply::Refused;
use crate::answer::{Code, Problem};
use crate::clock::UnixTime;

/// The request header.
const NAME: &str = "idempotency-key";
/// The most bytes of a key.
const KEY_BYTES_MAX: usize = 255;
/// How long an answer is kept.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
/// Keys kept, the oldest forgotten first: at some 400 bytes each, 25 MiB.
const KEYS_MAX: usize = if cfg!(test) { 4 } else { 64 << 10 };

/// First answers. A clone is the same.
#[derive(Clone, Default)]
pub(super) struct Answers(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    by_key: HashMap<Arc<str>, Known>,
    /// Answers, oldest first; those under way are not in it.
    kept: VecDeque<(UnixTime, Arc<str>)>,
}

#[derive(Clone)]
enum Known {
    UnderWay,
    Answered(First),
}

/// What the first request with a key was, and what it got.
#[derive(Clone)]
pub(super) struct First {
    fingerprint: [u8; 32],
    answer: Value,
}

/// Whose turn it is.
pub(super) enum Turn {
    /// Nobody has used this key: do it.
    First(Claim),
    /// Somebody has.
    Again(First),
}

/// The right to be the first; given back when dropped without an answer.
pub(super) struct Claim {
    answers: Answers,
    key: Arc<str>,
    kept: bool,
}

/// What tells one request from another: method, target and body.
pub(super) struct Fingerprint(digest::Context);

impl Answers {
    /// `None` without a key.
    ///
    /// # Errors
    /// 400 for a key that is none; 409 while the first request with it is under way.
    pub(super) fn turn(&self, headers: &HeaderMap, now: UnixTime) -> Result<Option<Turn>, Refused> {
        let mut values = headers.get_all(NAME).iter();
        let Some(value) = values.next() else { return Ok(None) };
        let key = value.to_str().unwrap_or_default();
        if values.next().is_some() || key.is_empty() || key.len() > KEY_BYTES_MAX {
            let words = format!("Idempotency-Key comes once, with 1 to {KEY_BYTES_MAX} visible characters");
            return Err(Refused::invalid(words));
        }
        let mut state = self.lock();
        state.forget(now);
        match state.by_key.get(key) {
            Some(Known::Answered(first)) => Ok(Some(Turn::Again(first.clone()))),
            Some(Known::UnderWay) => {
                Err(conflict("the first request with this Idempotency-Key is under way"))
            }
            None => {
                let key: Arc<str> = key.into();
                state.by_key.insert(key.clone(), Known::UnderWay);
                Ok(Some(Turn::First(Claim { answers: self.clone(), key, kept: false })))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget(&mut self, now: UnixTime) {
        while let Some((at, _)) = self.kept.front()
            && (self.kept.len() > KEYS_MAX || now.since(*at) >= KEPT_FOR)
        {
            if let Some((_, key)) = self.kept.pop_front() {
                self.by_key.remove(&key);
            }
        }
    }
}

impl First {
    /// The first answer again.
    ///
    /// # Errors
    /// 409 when it was another request.
    pub(super) fn answer_to(self, fingerprint: Fingerprint) -> Result<Value, Refused> {
        if self.fingerprint == fingerprint.finish() {
            return Ok(self.answer);
        }
        Err(conflict("this Idempotency-Key was used for another request"))
    }
}

impl Claim {
    /// Keeps the answer, and gives it back.
    pub(super) fn keep(mut self, fingerprint: Fingerprint, now: UnixTime, answer: Value) -> Value {
        let first = First { fingerprint: fingerprint.finish(), answer: answer.clone() };
        let mut state = self.answers.lock();
        state.by_key.insert(self.key.clone(), Known::Answered(first));
        state.kept.push_back((now, self.key.clone()));
        state.forget(now);
        drop(state);
        self.kept = true;
        answer
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.kept {
            self.answers.lock().by_key.remove(&self.key);
        }
    }
}

impl Fingerprint {
    /// Of the head; the body is still to be added.
    pub(super) fn of(request: &Request) -> Self {
        let mut context = digest::Context::new(&SHA256);
        context.update(request.method().as_str().as_bytes());
        context.update(b" ");
        let target = request.uri().path_and_query().map_or("", |target| target.as_str());
        context.update(target.as_bytes());
        context.update(b"\n");
        Self(context)
    }

    /// Adds a piece of the body.
    pub(super) fn add(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    fn finish(self) -> [u8; 32] {
        self.0.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

fn conflict(words: &'static str) -> Refused {
    Refused(Problem::new(Code::Conflict, words))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn fingerprint(body: &str) -> Fingerprint {
        let mut fingerprint = Fingerprint(digest::Context::new(&SHA256));
        fingerprint.add(body.as_bytes());
        fingerprint
    }

    fn turn(answers: &Answers, key: &str, now: UnixTime) -> Option<Turn> {
        let mut headers = HeaderMap::new();
        headers.insert(NAME, key.parse().unwrap());
        answers.turn(&headers, now).ok().flatten()
    }

    fn first(answers: &Answers, key: &str, now: UnixTime) -> Option<Claim> {
        match turn(answers, key, now) {
            Some(Turn::First(claim)) => Some(claim),
            _ => None,
        }
    }

    #[test]
    fn the_same_request_gets_the_first_answer_and_another_one_is_refused() {
        let answers = Answers::default();
        first(&answers, "k", NOW).unwrap().keep(fingerprint("a"), NOW, Value::from(7));
        let again = || match turn(&answers, "k", NOW) {
            Some(Turn::Again(first)) => first,
            _ => panic!("not answered"),
        };
        assert_eq!(again().answer_to(fingerprint("a")).ok(), Some(Value::from(7)));
        assert!(again().answer_to(fingerprint("b")).is_err());
    }

    #[test]
    fn a_key_under_way_is_taken_and_free_again_when_it_failed() {
        let answers = Answers::default();
        let claim = first(&answers, "k", NOW).unwrap();
        assert!(turn(&answers, "k", NOW).is_none());
        drop(claim);
        assert!(first(&answers, "k", NOW).is_some());
    }

    #[test]
    fn answers_are_forgotten_after_a_day_and_when_there_are_too_many() {
        let answers = Answers::default();
        for (number, key) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
            first(&answers, key, NOW).unwrap().keep(fingerprint(""), NOW, Value::from(number));
        }
        assert!(first(&answers, "a", NOW).is_some(), "the oldest of five");
        assert!(first(&answers, "b", NOW).is_none());
        assert!(first(&answers, "b", NOW.plus(KEPT_FOR)).is_some());
        assert!(answers.lock().by_key.is_empty() && answers.lock().kept.is_empty());
    }
}

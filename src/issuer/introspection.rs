//! Opaque tokens: their issuer is asked what each stands for (RFC 7662), on the control plane, at most once in the time
//! that an answer holds, however many requests carry the token at once.
//!
//! An answer is kept under a digest of the token's text, never longer than the token lives, and the blocklist is asked
//! about it on every request: no answer that is kept outlives a revocation of ours. While the issuer is away, answers that
//! still hold are used; whoever has none is told to come again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use quick_cache::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zeroize::Zeroizing;

use super::remote::Means;
use super::settings::Introspection;
use crate::clock::UnixTime;
use crate::fetch::{Fetcher, Limits, form};
use crate::revocation::{KnownToken, TokenKeys};
use crate::token::{Introspected, Terms, VerifyError, introspected};

/// Answers kept, good and bad ones.
const ANSWERS_MAX: usize = 65_536;
/// Questions under way at once; any more are told to come again.
const QUESTIONS_MAX: usize = 256;
/// A request waits for it.
const LIMITS: Limits =
    Limits { connect: Duration::from_secs(2), total: Duration::from_secs(5), body_bytes: 256 * 1024 };

/// SHA-256 of a token's text.
type Digest = [u8; 32];
type Outcome = Result<Arc<KnownToken>, VerifyError>;
type Question = Shared<BoxFuture<'static, Outcome>>;

/// What the issuer said of one token.
#[derive(Clone)]
struct Answer {
    outcome: Outcome,
    holds_until: UnixTime,
}

/// See the module.
pub(super) struct Introspector {
    settings: Introspection,
    iss: Option<Box<str>>,
    terms: Arc<Terms>,
    revocable: Arc<[Box<str>]>,
    place: usize,
    generation: u64,
    answers: Cache<Digest, Answer>,
    questions: Mutex<HashMap<Digest, Question>>,
    places: Arc<Semaphore>,
    means: OnceLock<(Means, Fetcher)>,
}

impl Introspector {
    pub(super) fn new(
        settings: &Introspection,
        iss: Option<&str>,
        terms: Arc<Terms>,
        revocable: Arc<[Box<str>]>,
        (place, generation): (usize, u64),
    ) -> Self {
        Self {
            settings: settings.clone(),
            iss: iss.map(Into::into),
            terms,
            revocable,
            place,
            generation,
            answers: Cache::new(ANSWERS_MAX),
            questions: Mutex::default(),
            places: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            means: OnceLock::new(),
        }
    }

    /// Where its issuer stands among all.
    pub(super) const fn place(&self) -> usize {
        self.place
    }

    /// Before that, nobody can be asked.
    pub(super) fn start(&self, means: &Means) {
        let fetcher = means.fetcher.clone().with_limits(LIMITS);
        let _ = self.means.set((means.clone(), fetcher));
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.terms.issuer
    }

    /// What the token of this text stands for, from memory or from its issuer. Expiry is left to the caller. May be
    /// dropped at any time; the question goes on for the others.
    pub(super) async fn ask(self: Arc<Self>, text: &str, now: UnixTime) -> Outcome {
        let digest = digest_of(text);
        if let Some(answer) = self.answers.get(&digest).filter(|answer| now < answer.holds_until) {
            return answer.outcome;
        }
        let question = {
            let mut questions = self.questions();
            match questions.get(&digest) {
                Some(question) => question.clone(),
                None => {
                    // Answered between the two looks.
                    if let Some(answer) = self.answers.get(&digest).filter(|answer| now < answer.holds_until)
                    {
                        return answer.outcome;
                    }
                    let place = self.places.clone().try_acquire_owned();
                    let (Ok(place), Some((means, _))) = (place, self.means.get()) else {
                        return Err(VerifyError::Unavailable);
                    };
                    let text = Zeroizing::new(text.to_owned());
                    let task = means.runtime.spawn(self.clone().answer(digest, text, place));
                    let question =
                        task.map(|done| done.unwrap_or(Err(VerifyError::Unavailable))).boxed().shared();
                    questions.insert(digest, question.clone());
                    question
                }
            }
        };
        question.await
    }

    /// Asks, keeps the answer, and makes room for the next question about this token.
    async fn answer(
        self: Arc<Self>,
        digest: Digest,
        text: Zeroizing<String>,
        place: OwnedSemaphorePermit,
    ) -> Outcome {
        let answered = match self.means.get() {
            Some((means, fetcher)) => self.asked(&text, means, fetcher).await,
            None => None,
        };
        let outcome = match answered {
            None => Err(VerifyError::Unavailable),
            Some(Answer { outcome, holds_until }) => {
                self.answers.insert(digest, Answer { outcome: outcome.clone(), holds_until });
                outcome
            }
        };
        self.questions().remove(&digest);
        drop(place);
        outcome
    }

    /// `None`: there was no answer; the log has why.
    async fn asked(&self, text: &str, means: &Means, fetcher: &Fetcher) -> Option<Answer> {
        let count = |result| means.metrics.issuer_fetched(self.name(), result);
        let failed = |why: String| {
            count("failed");
            tracing::warn!(
                issuer = &**self.name(),
                error = why,
                "an issuer did not say what a token stands for"
            );
        };
        let (headers, body) = self.question(text);
        let fetched = match fetcher.post(&self.settings.url, headers, body).await {
            Ok(fetched) => fetched,
            Err(error) => {
                failed(error.to_string());
                return None;
            }
        };
        if fetched.status != StatusCode::OK {
            failed(format!("the answer has the status {}", fetched.status));
            return None;
        }
        let now = means.clock.now();
        let held = now.plus(self.settings.cache);
        match introspected(text, &fetched.body, self.iss.as_deref(), &self.terms, now) {
            Ok(Introspected::Active(verified)) => {
                count("ok");
                let verified = *verified;
                let holds_until = held.min(verified.good_until.max(now));
                let known = KnownToken {
                    mark: None,
                    keys: TokenKeys::of(&verified.token, &self.revocable),
                    good_until: verified.good_until,
                    key_until: None,
                    place: self.place as u32,
                    bound: verified.token.binding.is_some(),
                    generation: self.generation,
                    token: verified.token,
                };
                Some(Answer { outcome: Ok(Arc::new(known)), holds_until })
            }
            Ok(Introspected::Inactive) => {
                count("ok");
                Some(Answer { outcome: Err(VerifyError::Inactive), holds_until: held })
            }
            Ok(Introspected::Refused(error)) => {
                count("ok");
                Some(Answer { outcome: Err(error), holds_until: held })
            }
            Err(error) => {
                failed(format!("the answer is none: {error}"));
                None
            }
        }
    }

    /// RFC 7662 §2.1, with the client's credentials by RFC 6749 §2.3.1: both halves form-encoded before they are joined.
    fn question(&self, text: &str) -> (HeaderMap, Bytes) {
        let mut pair = Zeroizing::new(String::new());
        form::encode(&mut pair, self.settings.client_id.as_bytes());
        pair.push(':');
        form::encode(&mut pair, &self.settings.secret);
        let credentials = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
        let mut headers = HeaderMap::new();
        if let Ok(mut value) = HeaderValue::from_str(&credentials) {
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let mut body = String::new();
        form::add_pair(&mut body, "token", text);
        form::add_pair(&mut body, "token_type_hint", "access_token");
        (headers, Bytes::from(body))
    }

    fn questions(&self) -> MutexGuard<'_, HashMap<Digest, Question>> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn digest_of(text: &str) -> Digest {
    let mut digest = [0; 32];
    digest.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_form_encoded() {
        let mut out = String::new();
        form::encode(&mut out, "a b:c+%~é*-._".as_bytes());
        assert_eq!(out, "a+b%3Ac%2B%25%7E%C3%A9*-._");
    }
}

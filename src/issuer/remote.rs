//! The keys of one external issuer that are fetched by network, on the control plane alone.
//!
//! They are fetched at the start, then every `jwks_refresh` (sooner where the answer's `Cache-Control: max-age` says so,
//! but not more often than once a minute for that), and after a failure at growing distances. A token with a `kid` that is
//! not known makes for one more fetch in 10 seconds, whoever shows it and whatever it says: its address is always the
//! configured one. Whatever goes wrong, the keys that there are stay in use; a set without a usable key is something
//! that goes wrong.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Uri, header};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::Current;
use super::copy::Copy;
use super::settings::{External, Published};
use crate::clock::{Clock, UnixTime};
use crate::fetch::{FetchError, Fetched, Fetcher};
use crate::telemetry::Metrics;
use crate::token::{Algorithm, JsonError, KeyError, KeySet, json_object};

/// Unknown key ids make for one fetch in this time.
const REFETCH_EVERY: Duration = Duration::from_secs(10);
/// How long a request waits for it.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// Requests that may wait at once; any more are answered by the keys that there are.
const WAITING_MAX: usize = 1024;
/// How long a start waits for the first fetches.
const START_MAX: Duration = Duration::from_secs(3);
/// The least that `max-age` can bring it down to.
const MAX_AGE_MIN: Duration = Duration::from_secs(60);
/// After the first failure; each further one doubles it.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The most between two attempts while they fail.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// What fetching needs of the process around it.
#[derive(Clone)]
pub struct Means {
    /// Sends the requests.
    pub fetcher: Fetcher,
    /// The control plane's.
    pub runtime: tokio::runtime::Handle,
    /// Tells what time it is when an answer has come.
    pub clock: Arc<dyn Clock>,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// See the module.
pub(super) struct Remote {
    name: Arc<str>,
    iss: Option<Box<str>>,
    published: Published,
    algorithms: Vec<Algorithm>,
    copy: Copy,
    demand: Mutex<Demand>,
    wake: Notify,
    /// Fetches that have ended.
    rounds: watch::Sender<u64>,
    waiting: Semaphore,
    status: Mutex<Status>,
    /// A task keeps its keys new.
    kept: AtomicBool,
}

/// Unknown key ids.
#[derive(Default)]
struct Demand {
    /// When one last made for a fetch.
    last: Option<Instant>,
    /// That fetch has not ended.
    pending: bool,
}

/// For people, and to see whether something is new.
#[derive(Default)]
struct Status {
    /// The set in use.
    text: Option<String>,
    keys: usize,
    fetched_at: Option<UnixTime>,
    failed: Option<String>,
}

/// Why a fetch brought no keys.
#[derive(Debug, thiserror::Error)]
enum RemoteError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the metadata {0}")]
    Json(JsonError),
    #[error("the metadata is of the issuer {0:?}, not of the configured one")]
    OtherIssuer(String),
    #[error("the metadata has no usable \"jwks_uri\"")]
    NoJwksUri,
    #[error("the metadata leads from https to http")]
    Downgrade,
    #[error("the answer is not UTF-8")]
    NotText,
    #[error("the answer {0}")]
    Keys(#[from] KeyError),
}

impl Remote {
    /// With the keys of the last good copy, if there is one. Reads a file.
    pub(super) fn new(settings: &External, published: &Published) -> (Self, KeySet) {
        let copy = Copy::of(&settings.name, published);
        let mut status = Status::default();
        let mut keys = KeySet::none();
        if let Some((text, fetched_at)) = copy.read() {
            match KeySet::from_jwks(&text, &settings.algorithms) {
                Ok((kept, _)) => {
                    status = Status {
                        text: Some(text),
                        keys: kept.len(),
                        fetched_at: Some(fetched_at),
                        failed: None,
                    };
                    keys = kept;
                }
                Err(error) => {
                    tracing::warn!(issuer = &*settings.name, %error, "the copy of an issuer's keys cannot be used");
                }
            }
        }
        let remote = Self {
            name: Arc::clone(&settings.name),
            iss: settings.issuer.clone(),
            published: published.clone(),
            algorithms: settings.algorithms.clone(),
            copy,
            demand: Mutex::default(),
            wake: Notify::new(),
            rounds: watch::Sender::new(0),
            waiting: Semaphore::new(WAITING_MAX),
            status: Mutex::new(status),
            kept: AtomicBool::new(false),
        };
        (remote, keys)
    }

    /// For the administrator.
    pub(super) fn shown(&self) -> Value {
        let status = self.status();
        json!({
            "keys": status.keys,
            "fetched_at": status.fetched_at.map(UnixTime::rfc3339),
            "failed": status.failed,
        })
    }

    /// Waits for the one fetch that a token with an unknown key may make for; false at once where there was one in the
    /// last 10 seconds, and where it takes too long. May be dropped at any time.
    pub(super) async fn refetched(&self) -> bool {
        let Ok(_place) = self.waiting.try_acquire() else { return false };
        let mut rounds = {
            let mut demand = lock(&self.demand);
            if !demand.pending {
                let now = Instant::now();
                if demand.last.is_some_and(|last| now.duration_since(last) < REFETCH_EVERY) {
                    return false;
                }
                *demand = Demand { last: Some(now), pending: true };
                self.wake.notify_one();
            }
            self.rounds.subscribe()
        };
        matches!(timeout(WAIT_MAX, rounds.changed()).await, Ok(Ok(())))
    }

    /// Whether nobody keeps the keys new yet; from now on the caller does.
    pub(super) fn wants_keeping(&self) -> bool {
        !self.kept.swap(true, Ordering::SeqCst)
    }

    /// Keeps the keys new for as long as the issuers in use have them.
    pub(super) async fn keep(self: Arc<Self>, mut current: Arc<Current>, means: Means) {
        let mut failures: u32 = 0;
        loop {
            current = current.newest();
            if !current.load().uses(&self) {
                return;
            }
            let next = match self.fetch(&current, &means).await {
                Ok(max_age) => {
                    failures = 0;
                    means.metrics.issuer_fetched(&self.name, "ok");
                    self.until_refresh(max_age)
                }
                Err(error) => {
                    failures += 1;
                    means.metrics.issuer_fetched(&self.name, "failed");
                    let error = error.to_string();
                    tracing::warn!(
                        issuer = &*self.name,
                        error,
                        failures,
                        "an issuer's keys cannot be fetched: those that are there stay in use"
                    );
                    self.status().failed = Some(error);
                    until_retry(failures, self.published.refresh)
                }
            };
            {
                let mut demand = lock(&self.demand);
                demand.pending = false;
                self.rounds.send_modify(|rounds| *rounds += 1);
            }
            tokio::select! {
                () = sleep(jittered(next)) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// Done when the first fetch has ended, well or not, or has taken too long for a start to wait.
    pub(super) async fn first(&self) {
        let mut rounds = self.rounds.subscribe();
        let _ = timeout(START_MAX, rounds.wait_for(|rounds| *rounds > 0)).await;
    }

    /// Fetches the set and puts it in place if it is new; gives its `max-age`.
    async fn fetch(&self, current: &Current, means: &Means) -> Result<Option<Duration>, RemoteError> {
        let url = match self.published.discovery {
            true => self.discovered(&means.fetcher).await?,
            false => self.published.url.clone(),
        };
        let fetched = means.fetcher.get(&url, accepting()).await?.ok()?;
        let max_age = max_age(&fetched.headers);
        let text = String::from_utf8(fetched.body.into()).map_err(|_| RemoteError::NotText)?;
        let now = means.clock.now();
        let is_new = self.status().text.as_ref() != Some(&text);
        if is_new {
            let (keys, skipped) = KeySet::from_jwks(&text, &self.algorithms)?;
            for skipped in skipped {
                tracing::warn!(issuer = &*self.name, %skipped, "a key of an issuer cannot be used");
            }
            let count = keys.len();
            let changed = current.change(|issuers| match issuers.uses(self) {
                true => Ok(issuers.with_keys(&self.name, keys)),
                false => Err(()),
            });
            if changed.is_err() {
                return Ok(max_age); // reloaded in between; the loop ends
            }
            tracing::info!(issuer = &*self.name, keys = count, "an issuer's keys are new");
            let mut status = self.status();
            status.text = Some(text.clone());
            status.keys = count;
        }
        {
            let mut status = self.status();
            status.fetched_at = Some(now);
            status.failed = None;
        }
        means.metrics.issuer_keys_at(&self.name, now.secs());
        if is_new {
            let copy = self.copy.clone();
            let written = tokio::task::spawn_blocking(move || copy.write(&text, now)).await;
            if let Ok(Err(error)) = written {
                tracing::warn!(issuer = &*self.name, %error, "the copy of an issuer's keys cannot be written");
            }
        }
        Ok(max_age)
    }

    /// The address of the key set by the issuer's metadata, which must be the metadata of this very issuer
    /// (OpenID Connect Discovery 1.0 §4.3, RFC 8414 §3.3).
    async fn discovered(&self, fetcher: &Fetcher) -> Result<Uri, RemoteError> {
        let Fetched { body, .. } = fetcher.get(&self.published.url, accepting()).await?.ok()?;
        let metadata = json_object(&body).map_err(RemoteError::Json)?;
        let issuer = metadata.get("issuer").and_then(Value::as_str).unwrap_or_default();
        if self.iss.as_deref() != Some(issuer) {
            return Err(RemoteError::OtherIssuer(issuer.chars().take(200).collect()));
        }
        let url = metadata.get("jwks_uri").and_then(Value::as_str).and_then(|url| url.parse::<Uri>().ok());
        let url = url.ok_or(RemoteError::NoJwksUri)?;
        if self.published.url.scheme_str() == Some("https") && url.scheme_str() != Some("https") {
            return Err(RemoteError::Downgrade);
        }
        Ok(url)
    }

    fn until_refresh(&self, max_age: Option<Duration>) -> Duration {
        let refresh = self.published.refresh;
        max_age.map_or(refresh, |age| age.max(MAX_AGE_MIN).min(refresh))
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        lock(&self.status)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accepting() -> HeaderMap {
    HeaderMap::from_iter([(
        header::ACCEPT,
        HeaderValue::from_static("application/jwk-set+json, application/json"),
    )])
}

/// Doubles from a second to a minute, and never waits longer than a refresh would.
fn until_retry(failures: u32, refresh: Duration) -> Duration {
    let doubled = RETRY_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(6));
    doubled.min(RETRY_MAX).min(refresh)
}

/// Up to a tenth sooner, so that a fleet that was started together does not ask together.
fn jittered(delay: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(0);
    delay.saturating_sub(delay.mul_f64(0.1 * f64::from(random) / f64::from(u32::MAX)))
}

/// RFC 9111 §5.2.2.1.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let fields = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|field| field.to_str().ok());
    fields
        .flat_map(|field| field.split(','))
        .filter_map(|directive| directive.trim().split_once('='))
        .find(|(name, _)| name.eq_ignore_ascii_case("max-age"))
        .and_then(|(_, seconds)| seconds.trim_matches('"').parse().ok())
        .map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_that_fail_grow_apart_up_to_a_minute() {
        let seconds: Vec<u64> = (1..=9).map(|n| until_retry(n, Duration::from_secs(600)).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(until_retry(40, Duration::from_secs(5)).as_secs(), 5);
        for _ in 0..100 {
            let delay = jittered(Duration::from_secs(100));
            assert!((90.0..=100.0).contains(&delay.as_secs_f64()), "{delay:?}");
        }
    }

    #[test]
    fn the_age_of_an_answer_is_read_from_its_cache_control() {
        let read = |value: &'static str| {
            max_age(&HeaderMap::from_iter([(header::CACHE_CONTROL, HeaderValue::from_static(value))]))
                .map(|age| age.as_secs())
        };
        assert_eq!(read("public, Max-Age=300, must-revalidate"), Some(300));
        assert_eq!(read("max-age=\"5\""), Some(5));
        for none in ["no-store", "max-age=-1", "max-age=x", "s-maxage=3", ""] {
            assert_eq!(read(none), None, "{none}");
        }
    }
}

//! How a command gets at the revocations: through the admin listener while a gateway holds the state directory, else by
//! opening that directory itself, as a gateway would.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use indicatif::ProgressBar;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::client::Admin;
use super::revocations::encoded;
use crate::admin::row_shown;
use crate::app;
use crate::clock::{Clock, SystemClock, UnixTime};
use crate::config::Settings;
use crate::issuer::Issuers;
use crate::revocation::{self, Blocklist, Disk as _, RealDisk, Report};
use crate::store::{Store, TrailFilter};
use crate::telemetry::Metrics;

/// The most rows of one page.
pub(super) const PAGE_ROWS_MAX: usize = 1000;
/// How long the audit trail may stand still before nobody waits for it any more.
const TRAIL_PATIENCE: Duration = Duration::from_secs(30);

/// What is to be done where there is no state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// Begin one.
    Make,
    /// A gateway elsewhere may know more; if there is none, that is the error.
    Refuse,
}

/// See the module.
pub(super) enum Way {
    Gateway(Admin),
    Offline(Offline),
}

/// Which rows are wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    pub(super) kind: Option<String>,
    pub(super) value: Option<String>,
    pub(super) issuer: Option<String>,
    pub(super) since: Option<u64>,
    /// Only what is in force, each selector once.
    pub(super) in_force: bool,
    pub(super) oldest_first: bool,
}

/// The state directory, held like a gateway holds it.
pub(super) struct Offline {
    pub(super) runtime: Runtime,
    pub(super) store: Arc<dyn Store>,
    pub(super) log: revocation::Handle,
    blocklist: Arc<Blocklist>,
}

impl Way {
    /// The way that is open now.
    ///
    /// # Errors
    /// When a gateway holds the directory and does not answer; when the directory cannot be opened.
    pub(super) fn to(settings: &Settings, missing: Missing) -> anyhow::Result<Self> {
        let dir = &settings.revocation.state_dir;
        match is_held(dir).with_context(|| format!("cannot use the state directory {}", dir.display()))? {
            Some(true) => {
                let silent = || {
                    format!(
                        "{} is in use by a gateway or another command, which does not answer on the admin listener {}",
                        dir.display(),
                        Admin::without_token(settings).address()
                    )
                };
                Admin::without_token(settings).get("/livez").with_context(silent)?;
                Ok(Self::Gateway(Admin::of(settings)?))
            }
            None if missing == Missing::Refuse => Ok(Self::Gateway(Admin::of(settings)?)),
            _ => Ok(Self::Offline(Offline::open(settings)?)),
        }
    }

    /// A page of the trail, and the cursor of the next one.
    ///
    /// # Errors
    /// When the gateway or the store does not answer.
    pub(super) fn page(
        &self,
        wanted: &Wanted,
        after: Option<u64>,
        limit: usize,
    ) -> anyhow::Result<(Vec<Value>, Option<u64>)> {
        match self {
            Self::Gateway(admin) => {
                let mut path = format!("/admin/revocations?limit={limit}&in_force={}", wanted.in_force);
                if wanted.oldest_first {
                    path += "&order=oldest";
                }
                let texts = [("kind", &wanted.kind), ("value", &wanted.value), ("issuer", &wanted.issuer)];
                for (name, text) in texts {
                    if let Some(text) = text {
                        path += &format!("&{name}={}", encoded(text));
                    }
                }
                for (name, number) in [("since", wanted.since), ("after", after)] {
                    if let Some(number) = number {
                        path += &format!("&{name}={number}");
                    }
                }
                let mut answer = admin.get(&path)?;
                let next = answer["next"].as_str().and_then(|next| next.parse().ok());
                match answer["data"].take() {
                    Value::Array(rows) => Ok((rows, next)),
                    _ => Err(anyhow!("the gateway answered with something else than a list")),
                }
            }
            Self::Offline(offline) => offline.page(wanted, after, limit),
        }
    }

    /// Entries in force, by the count of the blocklist.
    ///
    /// # Errors
    /// When the gateway does not answer.
    pub(super) fn entries(&self) -> anyhow::Result<u64> {
        match self {
            Self::Gateway(admin) => {
                let stats = admin.get("/admin/stats")?;
                let counts = stats["entries"].as_object().into_iter().flatten();
                Ok(counts.filter_map(|(_, count)| count.as_u64()).sum())
            }
            Self::Offline(offline) => Ok(offline.blocklist.counts().total()),
        }
    }

    /// Ends what was begun; blocks until everything is on disk.
    pub(super) fn close(self) {
        if let Self::Offline(offline) = self {
            offline.close();
        }
    }
}

/// Whether somebody holds the directory; `None` when there is none.
fn is_held(dir: &Path) -> io::Result<Option<bool>> {
    match RealDisk::existing(dir) {
        Ok(disk) => Ok(Some(disk.lock()?.is_none())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Offline {
    fn open(settings: &Settings) -> anyhow::Result<Self> {
        app::make_private(&settings.revocation.state_dir)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let store = app::open_store(settings)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let metrics = Arc::new(Metrics::new());
        let (log, blocklist, report) =
            app::open_log(settings, &runtime, &*store, &clock, &metrics, Vec::new())?;
        warn_of(&report);
        runtime.spawn(revocation::audit::project(log.clone(), store.clone()));
        Ok(Self { runtime, store, log, blocklist })
    }

    fn page(
        &self,
        wanted: &Wanted,
        after: Option<u64>,
        limit: usize,
    ) -> anyhow::Result<(Vec<Value>, Option<u64>)> {
        if after.is_none() {
            self.feed_trail(&ProgressBar::hidden())?;
        }
        let since = if wanted.oldest_first { after.max(wanted.since) } else { wanted.since };
        let rows = self.runtime.block_on(self.store.trail_list(TrailFilter {
            kind: wanted.kind.as_deref().map(Into::into),
            value: wanted.value.as_deref().map(Into::into),
            issuer: wanted.issuer.as_deref().map(Into::into),
            since,
            before: after.filter(|_| !wanted.oldest_first),
            standing: wanted.in_force,
            oldest_first: wanted.oldest_first,
            limit,
        }))?;
        let next = rows.last().filter(|_| rows.len() == limit).map(|row| row.sequence);
        let shown = rows.iter().filter_map(|row| row_shown(&self.blocklist, row, wanted.in_force));
        Ok((shown.collect(), next))
    }

    /// Waits until the audit trail has the whole log.
    ///
    /// # Errors
    /// When it stands still: the store does not take it.
    pub(super) fn feed_trail(&self, bar: &ProgressBar) -> anyhow::Result<()> {
        let until = self.log.sequence();
        self.runtime.block_on(async {
            let (mut reached, mut since) = (0, Instant::now());
            loop {
                let waited = Duration::from_millis(100);
                if tokio::time::timeout(waited, self.log.trail_has(until)).await.is_ok() {
                    return Ok(());
                }
                let now = self.log.stats().trail_position;
                if now != reached {
                    (reached, since) = (now, Instant::now());
                }
                bar.set_position(now);
                if since.elapsed() > TRAIL_PATIENCE {
                    return Err(anyhow!(
                        "the store does not take the audit trail (it is at {now} of {until})"
                    ));
                }
            }
        })
    }

    /// Everybody whose tokens are accepted.
    ///
    /// # Errors
    /// All that is wrong with their keys.
    pub(super) fn issuers(&self, settings: &Settings) -> anyhow::Result<Issuers> {
        app::load_issuers(settings, &SystemClock, self.shared_keys(settings)?.as_ref())
    }

    /// Our own keys in the store, if that is where they are.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(super) fn shared_keys(&self, settings: &Settings) -> anyhow::Result<Option<app::Shared>> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        app::open_shared_keys(settings, &self.runtime, &self.store, &clock)
    }

    pub(super) fn close(self) {
        self.runtime.block_on(self.log.close());
    }

    /// The time now, for entries.
    pub(super) fn now() -> UnixTime {
        SystemClock.now()
    }
}

/// What a gateway would write to its log when it starts.
fn warn_of(report: &Report) {
    for damage in &report.passed_over {
        eprintln!(
            "portcullis: warning: {} is damaged at byte {} ({}) and was passed over",
            damage.file.display(),
            damage.offset,
            damage.what
        );
    }
    if let Some((damage, bytes)) = &report.torn {
        eprintln!(
            "portcullis: warning: {bytes} bytes that were never acknowledged were cut off the end of {}",
            damage.file.display()
        );
    }
    if report.lost.is_some() {
        eprintln!(
            "portcullis: warning: the revocation log had been lost; [revocation] on_lost_state was done about it"
        );
    }
}

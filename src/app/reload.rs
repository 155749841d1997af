//! Going over to another configuration: read, build all of it, then swap.
//!
//! Everything that can fail comes before the first swap, so that a bad configuration is refused whole. Requests under
//! way end with the setup that they began with; the next ones begin with the new one.

use std::fmt;
use std::sync::Arc;

use anyhow::Context;
use sd_notify::NotifyState;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::{Running, changes, descriptors, open, tell_supervisor};
use crate::admin::{AdminToken, NotReloaded};
use crate::config::{self, Settings};
use crate::fetch::Fetcher;
use crate::issuer;
use crate::server::Inherited;

/// Reloads that may be asked for at once by the admin API; any more are told to come again.
const ASKED_MAX: usize = 8;

/// What made us look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trigger {
    /// SIGHUP.
    Signal,
    /// `POST /admin/reload`.
    Admin,
    /// One of its files is not what it was.
    Files,
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Signal => "SIGHUP",
            Self::Admin => "POST /admin/reload",
            Self::Files => "changed files",
        })
    }
}

/// What came of a reload.
pub(super) type Reloaded = Result<Value, NotReloaded>;

/// A reload that the admin API wants, and who waits for what came of it.
pub(super) type Asked = oneshot::Sender<Reloaded>;

/// The way from the admin API to whoever drives the process.
pub(super) fn way() -> (crate::admin::Reload, mpsc::Receiver<Asked>) {
    let (ask, asked) = mpsc::channel::<Asked>(ASKED_MAX);
    let reload = move || {
        let ask = ask.clone();
        let answered = async move {
            let (answer, answered) = oneshot::channel();
            ask.send(answer).await.map_err(|_| NotReloaded::Draining)?;
            answered.await.unwrap_or(Err(NotReloaded::Draining))
        };
        Box::pin(answered) as futures_util::future::BoxFuture<'static, Reloaded>
    };
    (Box::new(reload), asked)
}

impl Running {
    /// Reads the configuration anew and goes over to it, counts that and tells of it. Blocks for as long as files are
    /// read.
    pub(super) async fn reload(&mut self, trigger: Trigger) -> Reloaded {
        let begun = NotifyState::monotonic_usec_now();
        let loaded = config::read(&self.settings.load().path);
        // A look at files that finds them as they were, as the first one does, is no reload to anybody but us.
        let same = loaded.settings.as_ref().is_ok_and(|settings| *settings == **self.settings.load());
        let told = !(same && trigger == Trigger::Files);
        if told && let Ok(begun) = begun {
            tell_supervisor(&[NotifyState::Reloading, begun]);
        }
        self.watch.follow(loaded.files);
        let reloaded = match loaded.settings {
            Ok(settings) => self.go_over_to(settings).await,
            Err(errors) => {
                let value = serde_json::to_value(&errors).unwrap_or_default();
                Err(NotReloaded::Invalid { errors: value, words: errors.to_string() })
            }
        };
        self.tell(trigger, &reloaded);
        if told {
            tell_supervisor(&[NotifyState::Ready]);
        }
        reloaded
    }

    fn tell(&mut self, trigger: Trigger, reloaded: &Reloaded) {
        match reloaded {
            // A file was touched, or changed and changed back: nobody asked, and nothing is to be told.
            Ok(report) if trigger == Trigger::Files && report["changed"] == json!([]) => {
                self.refused_before.clear();
            }
            Ok(report) => {
                let settings = report["changed"].as_array().into_iter().flatten();
                let names: Vec<&str> = settings.filter_map(|change| change["setting"].as_str()).collect();
                tracing::info!(%trigger, changed = names.join(", "), "the configuration was reloaded");
                if names.contains(&"server.max_connections") {
                    descriptors::warn(self.settings.load().server.max_connections);
                }
                self.refused_before.clear();
                self.base.metrics.reloads_ok.inc();
            }
            Err(why) => {
                let words = words(why);
                // The same file looked at again says nothing new.
                if trigger == Trigger::Files && words == self.refused_before {
                    return;
                }
                tracing::error!(
                    %trigger,
                    errors = words,
                    "the new configuration is refused; the one before stays in use"
                );
                self.refused_before = words;
                self.base.metrics.reloads_failed.inc();
            }
        }
    }

    async fn go_over_to(&mut self, next: Settings) -> Reloaded {
        let before = self.settings.load_full();
        let reasons = changes::needing_restart(&before, &next);
        if !reasons.is_empty() {
            return Err(NotReloaded::Restart(reasons));
        }
        let changed = changes::between(&before, &next);
        self.swap(&before, next).await.map_err(|error| NotReloaded::Failed(format!("{error:#}")))?;
        Ok(json!({ "changed": changed }))
    }

    /// Builds, then swaps.
    async fn swap(&mut self, before: &Settings, next: Settings) -> anyhow::Result<()> {
        let base = &self.base;
        let old = self.gateway.setup();
        let admin_token = AdminToken::load_or_make(&next.admin.token_file)?;
        let own = |settings: &Settings| settings.auth.as_ref().map(|auth| auth.own.clone());
        let as_before = own(before) == own(&next) && before.gateway.dpop_nonce == next.gateway.dpop_nonce;
        let shared = match as_before {
            true => None, // what there is is taken over
            false => open::find_shared_keys(&next, &base.store, &base.clock).await?,
        };
        let succession = old.issuers.succession();
        let before_it = Some(succession.before());
        let issuers = open::issuers_after(&next, before_it, &*base.clock, shared.as_ref())?;
        let issuers = succession.heir(issuers);
        if issuers.is_remote() && self.means.is_none() {
            self.means = Some(means(base)?);
        }
        let setup = base.setup(&next, &issuers, &admin_token, Some(&old))?;
        let plan = self.listeners.plan(&next, &mut Inherited::default())?;

        // From here on nothing fails.
        succession.commit(&issuers);
        if let Some(means) = &self.means {
            issuers.begin(means);
        }
        old.upstreams.give_way_to(&setup.upstreams);
        self.gateway.replace(setup);
        self.admin_token.replace(&admin_token);
        base.log.adjust(&next.revocation, open::leeway_max(&next));
        self.settings.store(Arc::new(next));
        // Last, so that nobody comes in by a new listener and is served by old rules.
        self.listeners.carry_out(plan, before.server.drain_timeout);
        Ok(())
    }
}

/// For fetching keys of issuers.
///
/// # Errors
/// TLS cannot be used.
pub(super) fn means(base: &super::build::Base) -> anyhow::Result<issuer::Means> {
    Ok(issuer::Means {
        fetcher: Fetcher::new(None).context("cannot use TLS")?,
        runtime: base.control.clone(),
        clock: base.clock.clone(),
        metrics: base.metrics.clone(),
    })
}

/// As the operator reads it.
fn words(why: &NotReloaded) -> String {
    match why {
        NotReloaded::Invalid { words, .. } | NotReloaded::Failed(words) => words.clone(),
        NotReloaded::Restart(reasons) => reasons.join("\n"),
        NotReloaded::Draining => "the gateway is about to end".to_owned(),
    }
}

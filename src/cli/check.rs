//! `portcullis check`: reads the configuration as `run` would, and says every problem of it.

use super::{Common, Failure, Outcome, told};
use crate::config;

pub(super) fn run(common: &Common) -> Outcome {
    let settings = match config::load(&common.config) {
        Ok(settings) => settings,
        // The verdict is what was asked for, good or bad: for programs it stands in one place.
        Err(errors) if common.json => {
            say!("{}", told(&common.config, &errors, true));
            return Err(Failure::Usage(String::new()));
        }
        Err(errors) => return Err(Failure::Usage(told(&common.config, &errors, false))),
    };
    let (routes, upstreams, issuers) =
        (settings.routes.len(), settings.upstreams.len(), settings.issuers.len());
    if common.json {
        let summary = serde_json::json!({
            "ok": true, "file": common.config, "routes": routes, "upstreams": upstreams,
            "issuers": issuers, "auth": settings.auth.is_some(),
        });
        say!("{summary}");
    } else {
        say!(
            "{}: good ({routes} routes, {upstreams} upstreams, {issuers} external issuers, auth endpoints {})",
            common.config.display(),
            if settings.auth.is_some() { "on" } else { "off" },
        );
    }
    Ok(())
}

//! `portcullis check`: reads the configuration as `run` would, and says every problem of it.

use super::{Common, Outcome, load};

pub(super) fn run(common: &Common) -> Outcome {
    let settings = load(common)?;
    let (routes, upstreams, issuers) =
        (settings.routes.len(), settings.upstreams.len(), settings.issuers.len());
    if common.json {
        let summary = serde_json::json!({
            "ok": true, "file": common.config, "routes": routes, "upstreams": upstreams,
            "issuers": issuers, "auth": settings.auth.is_some(),
        });
        println!("{summary}");
    } else {
        println!(
            "{}: good ({routes} routes, {upstreams} upstreams, {issuers} external issuers, auth endpoints {})",
            common.config.display(),
            if settings.auth.is_some() { "on" } else { "off" },
        );
    }
    Ok(())
}

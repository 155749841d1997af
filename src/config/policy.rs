//! `rate_limit` and `cors`, of routes and of `[auth]`.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use super::check;
use super::reader::{Text, Value, boxed};
use crate::route::settings::{Cors, RateLimit, RateLimitBy, Requirement};

/// Fields of the gateway's own that a page has a use for.
const EXPOSED: [&str; 5] =
    ["X-Request-Id", "Retry-After", "RateLimit", "RateLimit-Policy", "WWW-Authenticate"];

/// `rate_limit = { … }`.
pub(super) fn rate_limit(value: &Value<'_>, auth: Requirement) -> Option<RateLimit> {
    let mut t = value.table();
    if !t.is_given() {
        return None;
    }
    let requests = t.get("requests").required("add requests = 100").number_u32(1, 1..=u32::MAX);
    let per = t.get("per").duration_within(
        Duration::from_secs(1),
        Duration::from_millis(1)..=Duration::from_secs(365 * 86_400),
    );
    let burst = t.get("burst").number_u32(requests, 1..=u32::MAX);
    let by_value = t.get("by");
    // A public route looks at no token.
    let usual = if auth == Requirement::Public { RateLimitBy::Address } else { RateLimitBy::Subject };
    let choices =
        [("subject", RateLimitBy::Subject), ("address", RateLimitBy::Address), ("token", RateLimitBy::Token)];
    let by = if by_value.is_given() {
        by_value.text().and_then(|text| text.choose(&choices))
    } else {
        Some(usual)
    };
    let by = by.unwrap_or(usual);
    t.finish();
    Some(RateLimit { requests, per, burst, by })
}

/// `cors = { … }`.
pub(super) fn cors(value: &Value<'_>) -> Option<Arc<Cors>> {
    let mut t = value.table();
    if !t.is_given() {
        return None;
    }
    let origins = t.get("origins").required("add origins = [\"https://app.example.com\"]").texts();
    origins.iter().filter(|text| text.value != "*").for_each(origin);
    let credentials = t.get("credentials");
    if credentials.flag(false) && origins.iter().any(|text| text.value == "*") {
        // Fetch standard, "CORS protocol and credentials".
        credentials.fail(
            "credentials = true cannot be with any origin (\"*\")",
            "list the origins by name".to_owned(),
        );
    }
    let max_age = t
        .get("max_age")
        .duration_within(Duration::from_secs(600), Duration::ZERO..=Duration::from_secs(86_400));
    let headers = t.get("headers").texts();
    headers.iter().for_each(|text| drop(check::header_name(text)));
    let expose_value = t.get("expose");
    let exposed = expose_value.texts();
    exposed.iter().for_each(|text| drop(check::header_name(text)));
    let expose = match expose_value.is_given() {
        true => exposed.iter().map(|text| text.value.as_str()).collect::<Vec<_>>().join(", "),
        false => EXPOSED.join(", "),
    };
    let expose = HeaderValue::from_str(&expose).ok().filter(|value| !value.is_empty());
    let credentials = credentials.flag(false);
    t.finish();
    Some(Arc::new(Cors { origins: boxed(&origins), credentials, headers: boxed(&headers), expose, max_age }))
}

/// `scheme://host[:port]`, as browsers send it (RFC 6454 §6.2).
fn origin(text: &Text<'_>) {
    let bare = text.value.split_once("://").is_some_and(|(scheme, rest)| {
        matches!(scheme, "http" | "https") && !rest.is_empty() && !rest.contains(['/', '?', '#', '@'])
    });
    if !bare || text.value.parse::<http::Uri>().is_err() || text.value.chars().any(char::is_uppercase) {
        let hint =
            "write it as browsers do, such as \"https://app.example.com\": no path, no \"/\" at the end"
                .to_owned();
        text.fail(format!("{} is not an origin", text.quoted()), hint);
    }
}

//! Watermarks in requests and answers, so that a caller can prove that what it revoked holds here.
//!
//! `Portcullis-Min-Watermark: W` has a request wait until `W` is in force, or refused. `Portcullis-Watermark: ?1` (a boolean
//! of RFC 9651) asks for `Portcullis-Watermark: W` in the answer. Neither reaches an upstream, nor does an upstream's
//! own header of that name reach the client of one who asked.

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use crate::answer::{Code, Problem};
use crate::fleet::{Log, NotReached};

/// In the answer; in a request it asks for that.
const WATERMARK: HeaderName = HeaderName::from_static("portcullis-watermark");
/// The least that has to be in force.
const MIN_WATERMARK: HeaderName = HeaderName::from_static("portcullis-min-watermark");

/// Waits for what the request asks for, and takes its headers away; whether it asks for the watermark. A request
/// without them pays two look-ups.
///
/// # Errors
/// 400 for what is no watermark, 503 when it is not reached in time.
pub async fn reach(headers: &mut HeaderMap, log: &Log) -> Result<bool, Problem> {
    let asked = headers.contains_key(&WATERMARK) && headers.remove(&WATERMARK).is_some_and(|v| v == "?1");
    if headers.contains_key(&MIN_WATERMARK)
        && let Some(wanted) = headers.remove(&MIN_WATERMARK)
    {
        log.reach(wanted.to_str().unwrap_or("")).await.map_err(|not| match not {
            NotReached::Malformed => {
                Problem::new(Code::InvalidRequest, "Portcullis-Min-Watermark is not a watermark")
            }
            NotReached::Late => Problem::new(
                Code::StaleRevocations,
                "the revocations up to Portcullis-Min-Watermark are not in force here yet",
            ),
        })?;
    }
    Ok(asked)
}

/// Puts the watermark into an answer.
pub async fn tell(headers: &mut HeaderMap, log: &Log) {
    if let Ok(value) = HeaderValue::from_str(&log.watermark().await) {
        headers.insert(WATERMARK, value);
    }
}

//! `/admin/keys`: our own keys. Every change is on disk before it is in use, and in use before it is answered; of several
//! at once each sees the one before.

use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, Request, State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::query::{InPath, Pairs, Parameters};
use super::reply::{Refused, Reply, body, ended_early, time};
use super::{From, Parts, Shared};
use crate::answer::{Code, Problem};
use crate::clock::UnixTime;
use crate::issuer::settings::SELF;
use crate::issuer::{Issuers, KeptKey, Keyring, KeyringError};
use crate::revocation::{Kind, Revocation, Selector, cutoff_now};
use crate::token::{Algorithm, KeyError, SigningKey};

/// The most bytes of a request.
const BODY_BYTES_MAX: usize = 64 << 10;
/// The longest overlap.
const OVERLAP_MAX: Duration = Duration::from_secs(3650 * 86_400);

/// `GET /admin/keys`: newest first.
pub(super) async fn list(State(parts): State<Shared>, pairs: Pairs) -> Reply {
    let asked = Parameters::of(pairs, &["limit", "after"])?;
    let limit = asked.limit()?;
    let issuers = parts.gateway.setup().issuers.load_full();
    let own = issuers.own().ok_or_else(no_own_keys)?;
    let mut shown = keys_shown(own.keyring(), parts.clock.now());
    if let Some(rows) = shown["data"].as_array_mut() {
        let next = page(rows, asked.text("after"), limit).map_err(Refused::invalid)?;
        shown["next"] = next.into();
    }
    Ok(Json(shown))
}

/// Leaves the `limit` rows behind the key `after`, and tells behind which key the next page begins.
fn page(rows: &mut Vec<Value>, after: Option<&str>, limit: usize) -> Result<Option<String>, String> {
    if let Some(after) = after {
        let place = rows.iter().position(|row| row["kid"] == after);
        let place = place.ok_or_else(|| format!("\"after\" is the id of a key, not {after:?}"))?;
        rows.drain(..=place);
    }
    let more = rows.len() > limit;
    rows.truncate(limit);
    Ok(rows.last().filter(|_| more).and_then(|row| row["kid"].as_str()).map(str::to_owned))
}

/// A keyring as it is listed, newest first; no private key is in it.
pub fn keys_shown(keyring: &Keyring, now: UnixTime) -> Value {
    let rows: Vec<Value> = keyring.keys().iter().rev().map(|kept| key_shown(keyring, kept, now)).collect();
    json!({ "data": rows, "next": null })
}

fn key_shown(keyring: &Keyring, kept: &KeptKey, now: UnixTime) -> Value {
    let state = if kept.retired.is_some() {
        "retired"
    } else if kept.not_after.is_some_and(|end| end <= now) {
        "expired"
    } else if kept.key.id() == keyring.signing_key().id() {
        "signing"
    } else {
        "verifying"
    };
    json!({
        "kid": kept.key.id(), "algorithm": format!("{:?}", kept.key.algorithm()), "state": state,
        "created": kept.created.rfc3339(), "not_after": time(kept.not_after), "retired": time(kept.retired),
    })
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotate {
    overlap: Option<Value>,
}

/// `POST /admin/keys/rotate`: a new key signs; the others verify until the overlap ends.
pub(super) async fn rotate(State(parts): State<Shared>, request: Request) -> Reply {
    let Rotate { overlap } = asked(request).await?;
    let overlap = overlap.filter(|overlap| !overlap.is_null());
    let overlap = overlap.map(|overlap| duration(&overlap).map_err(Refused::invalid)).transpose()?;
    let keyring = changed(&parts, move |issuers, keyring, now| {
        keyring.rotate(now.plus(overlap.unwrap_or_else(|| overlap_default(issuers))), now)
    });
    let keyring = keyring.await?;
    Ok(Json(with_kid(keyring.signing_key().id(), &keyring, parts.clock.now())))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Retire {
    #[serde(default)]
    revoke: bool,
    reason: Option<String>,
}

/// `POST /admin/keys/{kid}/retire`: it neither signs nor verifies any more. With `revoke`, its tokens stay refused even
/// if it is imported again. The key goes first: from then on its tokens are refused, and none that is newer than the
/// cutoff can be signed with it.
pub(super) async fn retire(
    State(parts): State<Shared>,
    Extension(From(address)): Extension<From>,
    InPath(kid): InPath<String>,
    request: Request,
) -> Reply {
    let Retire { revoke, reason } = asked(request).await?;
    let reason = reason.unwrap_or_else(|| "key retired".to_owned());
    if reason.len() > 1024 || reason.contains(char::is_control) {
        return Err(Refused::invalid("'reason' must have at most 1024 bytes and no control characters"));
    }
    let work = tokio::spawn(async move {
        let id = kid.clone();
        let keyring = changed(&parts, move |_, keyring, now| keyring.retire(&id, now)).await?;
        let now = parts.clock.now();
        let mut answer = with_kid(&kid, &keyring, now);
        answer["revoked"] = revoke.into();
        if revoke {
            let longest = parts.gateway.setup().issuers.load().lifetime_max(SELF).unwrap_or_default();
            let entry = key_revocation(&kid, longest, &reason, &address, now);
            answer["sequence"] = parts.log.append(vec![entry]).await?.sequence.into();
        }
        Ok(Json(answer))
    });
    work.await.map_err(ended_early)?
}

/// The entry that goes with a retired key: every token that it has signed until now, for as long as one can live.
pub fn key_revocation(
    kid: &str,
    longest: Duration,
    reason: &str,
    address: &str,
    now: UnixTime,
) -> Revocation {
    Revocation {
        selector: Selector::new(Kind::Key, SELF, kid),
        lift: false,
        issued_before: cutoff_now(&Kind::Key, true, now),
        expires_at: now.plus(longest),
        reason: reason.into(),
        actor: "admin".into(),
        address: address.into(),
        at: now,
    }
}

/// `POST /admin/keys/import`: `{key, algorithm?}`, the key being PEM in a string or a private JWK.
pub(super) async fn import(State(parts): State<Shared>, request: Request) -> Reply {
    let bytes = body(request, BODY_BYTES_MAX).await?;
    let keyring = changed_by(&parts, move |issuers, keyring, now| {
        let own = issuers.own().ok_or_else(no_own_keys)?;
        let key = imported_key(&bytes, own.settings().algorithm).map_err(Refused::invalid)?;
        let kid = key.id().to_owned();
        Ok((keyring.import(key, now)?, kid))
    });
    let (keyring, kid) = keyring.await?;
    Ok(Json(with_kid(&kid, &keyring, parts.clock.now())))
}

/// The key of an import: `{key, algorithm?}`. Without an algorithm the key's own `alg` counts, then the `configured` one
/// if the key fits it, then the one that fits.
///
/// # Errors
/// In words without key material.
pub fn imported_key(json: &[u8], configured: Algorithm) -> Result<SigningKey, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Given {
        key: Value,
        algorithm: Option<String>,
    }
    // The parser's own message might quote the key.
    let Ok(Given { key, algorithm }) = serde_json::from_slice(json) else {
        return Err("the body must be {key, algorithm?}: PEM in a string, or a private JWK".to_owned());
    };
    let algorithm = match algorithm.as_deref().or(key["alg"].as_str()) {
        None => None,
        Some(name) => Some(name.parse().map_err(|_| "'algorithm' is none that tokens can be signed with")?),
    };
    let told = |error: KeyError| format!("the key {error}");
    match key {
        Value::String(pem) => SigningKey::from_pem(&zeroize::Zeroizing::new(pem), algorithm, configured),
        Value::Object(jwk) => SigningKey::from_jwk(&jwk, algorithm, configured),
        _ => return Err("'key' must be PEM in a string, or a private JWK".to_owned()),
    }
    .map_err(told)
}

/// The longest that a token of ours lives: with it, no token becomes invalid by a rotation.
fn overlap_default(issuers: &Issuers) -> Duration {
    issuers.lifetime_max(SELF).unwrap_or_default()
}

fn with_kid(kid: &str, keyring: &Keyring, now: UnixTime) -> Value {
    let kept = keyring.keys().iter().find(|kept| kept.key.id() == kid);
    let mut shown = kept.map_or_else(|| json!({ "kid": kid }), |kept| key_shown(keyring, kept, now));
    shown["signing"] = keyring.signing_key().id().into();
    shown
}

/// Puts in use what `next` makes of our keys.
async fn changed(
    parts: &Shared,
    next: impl Fn(&Issuers, &Keyring, UnixTime) -> Result<Keyring, KeyringError> + Send + 'static,
) -> Result<Keyring, Refused> {
    let made = changed_by(parts, move |issuers, keyring, now| Ok((next(issuers, keyring, now)?, ())));
    made.await.map(|(keyring, ())| keyring)
}

/// On a thread that may wait: keys are made, and files are written and synced. The task goes on when the client hangs up.
/// Where gateways share the keys, `next` may be asked more than once.
async fn changed_by<T: Send + 'static>(
    parts: &Shared,
    next: impl Fn(&Issuers, &Keyring, UnixTime) -> Result<(Keyring, T), Refused> + Send + 'static,
) -> Result<(Keyring, T), Refused> {
    let parts: std::sync::Arc<Parts> = parts.clone();
    let runtime = tokio::runtime::Handle::current();
    let work = tokio::task::spawn_blocking(move || {
        let current = parts.gateway.setup().issuers.clone();
        let now = parts.clock.now();
        if let Some(shared) = current.load().shared_keys() {
            let made = runtime.block_on(shared.change(|keyring| next(&current.load(), keyring, now)))?;
            current.adopt(made.0.clone(), now)?;
            return Ok(made);
        }
        let mut made = None;
        current.change(|issuers| {
            let own = issuers.own().ok_or_else(no_own_keys)?;
            let (keyring, more) = next(issuers, own.keyring(), now)?;
            made = Some((keyring.clone(), more));
            issuers.with_keyring(keyring, now).map_err(|error| failed(&error))
        })?;
        made.ok_or_else(|| failed(&"nothing was made"))
    });
    let (keyring, more) = work.await.map_err(ended_early)??;
    tracing::info!(
        signing = keyring.signing_key().id(),
        keys = keyring.keys().len(),
        "our own keys have changed"
    );
    Ok((keyring, more))
}

async fn asked<T: Default + serde::de::DeserializeOwned>(request: Request) -> Result<T, Refused> {
    let bytes = body(request, BODY_BYTES_MAX).await?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&bytes).map_err(|error| Refused::invalid(format!("the body is wrong: {error}")))
}

/// `"30d"`, `"12h"`, `"15m"`, `"10s"`, `"250ms"`, or whole seconds.
///
/// # Errors
/// In words.
pub fn duration(value: &Value) -> Result<Duration, String> {
    let wrong =
        || "'overlap' must be a duration such as \"36h\" or a number of seconds, at most 3650d".to_owned();
    let millis = match value {
        Value::Number(number) => number.as_u64().and_then(|seconds| seconds.checked_mul(1000)),
        Value::String(text) => {
            let digits = text.bytes().take_while(u8::is_ascii_digit).count();
            let (number, unit) = text.split_at(digits);
            let unit = match unit {
                "ms" => Some(1),
                "s" => Some(1000),
                "m" => Some(60_000),
                "h" => Some(3_600_000),
                "d" => Some(86_400_000),
                "" if number == "0" => Some(0),
                _ => None,
            };
            unit.and_then(|unit| number.parse::<u64>().ok()?.checked_mul(unit))
        }
        _ => None,
    };
    millis.map(Duration::from_millis).filter(|overlap| *overlap <= OVERLAP_MAX).ok_or_else(wrong)
}

fn no_own_keys() -> Refused {
    Refused::not_found("the gateway issues no tokens: [auth] is off")
}

impl std::convert::From<KeyringError> for Refused {
    fn from(error: KeyringError) -> Self {
        refused(error)
    }
}

fn refused(error: KeyringError) -> Refused {
    match error {
        KeyringError::UnknownKey(_) => Refused::not_found("there is no such key"),
        KeyringError::OtherAlgorithm(_) => Refused(Problem::new(Code::Conflict, error.to_string())),
        KeyringError::UnusableId(_) => Refused::invalid(error.to_string()),
        KeyringError::Store(_) | KeyringError::Crossed => {
            tracing::error!(error = &error as &dyn std::error::Error, "the shared keys cannot be changed");
            let words = "the store that has the keys cannot be used now; the keys in use are as they were";
            Refused(Problem::new(Code::StoreUnavailable, words))
        }
        KeyringError::Io { .. } => {
            tracing::error!(error = &error as &dyn std::error::Error, "a key cannot be written");
            let words = "the key files cannot be written now; the keys in use are as they were";
            Refused(Problem::new(Code::StoreUnavailable, words))
        }
        error => failed(&error),
    }
}

fn failed(error: &dyn std::fmt::Display) -> Refused {
    tracing::error!(%error, "our own keys cannot be changed");
    Refused(Problem::new(Code::Internal, "the keys cannot be changed; those in use are as they were"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlap_is_a_duration_or_seconds() {
        for (value, millis) in [
            (json!(90), Some(90_000)),
            (json!(0), Some(0)),
            (json!("0"), Some(0)),
            (json!("250ms"), Some(250)),
            (json!("36h"), Some(129_600_000)),
            (json!("3650d"), Some(315_360_000_000)),
            (json!("3651d"), None),
            (json!("5"), None),
            (json!("h"), None),
            (json!("-5s"), None),
            (json!(-5), None),
            (json!(1.5), None),
            (json!("99999999999999999999d"), None),
            (json!(u64::MAX), None),
            (json!([]), None),
        ] {
            assert_eq!(duration(&value).ok(), millis.map(Duration::from_millis), "{value}");
        }
    }
}

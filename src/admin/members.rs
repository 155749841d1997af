//! `GET /admin/fleet`: every gateway of the fleet, how old its knowledge is, and since when it has been silent. What each
//! says of itself stands in the engine of the shared log, so any gateway can tell of all of them, also of one that is gone.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::Shared;
use super::reply::{Refused, Reply};
use crate::answer::{Code, Problem};
use crate::clock::UnixTime;
use crate::fleet::Member;

/// Not heard of for this long: silent. Gateways write every few seconds.
const SILENT_AFTER_MS: u64 = 30_000;

/// See the module.
pub(super) async fn list(State(parts): State<Shared>) -> Reply {
    let Some(members) = parts.log.members().await else {
        return Err(Refused::not_found("this gateway is in no fleet: there is no [revocation.cluster]"));
    };
    let members = members.map_err(|error| {
        tracing::warn!(%error, "the fleet cannot be listed");
        Refused(Problem::new(Code::LogUnavailable, "the engine of the shared log does not answer now"))
    })?;
    let own = parts.log.gateway().to_string();
    Ok(Json(shown(members, &own, parts.clock.now())))
}

/// The members, newest first.
fn shown(mut members: Vec<Member>, own: &str, now: UnixTime) -> Value {
    members.sort_by(|one, other| {
        other.started_at.cmp(&one.started_at).then_with(|| one.gateway.cmp(&other.gateway))
    });
    let rows = members.iter().map(|member| {
        // By the clocks of two machines: a little before its time is now.
        let silent_ms = now.millis().saturating_sub(member.beat_at);
        let state = match member.ready {
            _ if silent_ms > SILENT_AFTER_MS => "silent",
            true => "ready",
            false => "not_ready",
        };
        json!({
            "gateway": member.gateway, "host": member.host, "version": member.version, "state": state,
            "self": *member.gateway == *own, "position": member.position, "sequence": member.sequence,
            "outbox": member.outbox,
            // What it knew then, and the time since: nobody can say more of one that is silent.
            "lag_ms": member.lag_ms.saturating_add(if state == "silent" { silent_ms } else { 0 }),
            "silent_ms": silent_ms,
            "started_at": UnixTime::from_millis(member.started_at).rfc3339(),
            "beat_at": UnixTime::from_millis(member.beat_at).rfc3339(),
        })
    });
    json!({ "data": rows.collect::<Vec<_>>(), "next": null })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(gateway: &str, started_at: u64, beat_at: u64, ready: bool) -> Member {
        Member {
            gateway: gateway.into(),
            host: "h".into(),
            version: "1".into(),
            started_at,
            beat_at,
            position: "7-0".into(),
            sequence: 3,
            outbox: 0,
            lag_ms: 12,
            ready,
        }
    }

    #[test]
    fn a_gateway_is_shown_as_it_said_and_one_that_says_nothing_as_silent() {
        let now = UnixTime::from_secs(1_800_000_000);
        let ago = |ms| now.millis() - ms;
        let members = vec![
            member("aa", ago(90_000), ago(2_000), true),
            member("bb", ago(10_000), ago(1_000), false),
            member("cc", ago(80_000), ago(60_000), true),
            // Its clock is ahead.
            member("dd", ago(1_000), now.millis() + 400, true),
        ];
        let shown = shown(members, "aa", now);
        let rows: Vec<_> = shown["data"].as_array().unwrap().iter().collect();
        let told = |row: &&Value| {
            let text = |name: &str| row[name].as_str().unwrap().to_owned();
            (text("gateway"), text("state"), row["lag_ms"].as_u64().unwrap(), row["self"] == true)
        };
        let told: Vec<_> = rows.iter().map(told).collect();
        let row = |gateway: &str, state: &str, lag, own| (gateway.to_owned(), state.to_owned(), lag, own);
        assert_eq!(
            told,
            [
                row("dd", "ready", 12, false),
                row("bb", "not_ready", 12, false),
                row("cc", "silent", 60_012, false),
                row("aa", "ready", 12, true),
            ]
        );
    }
}

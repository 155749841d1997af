//! What must be known of the credentials before the decision. Memory only, but for the two cases that ask the store:
//! `registry = "strict"` and routes that take refresh tokens.

use http::HeaderMap;

use super::setup::Setup;
use crate::access::Evidence;
use crate::answer::{Code, Problem};
use crate::clock::UnixTime;
use crate::revocation::KnownToken;
use crate::route::settings::{Requirement, Route};
use crate::store::{Registry, Standing};
use crate::token::{self, BearerError, TokenType, VerifyError};

pub(super) async fn evidence(
    setup: &Setup,
    registry: &dyn Registry,
    route: &Route,
    headers: &HeaderMap,
    now: UnixTime,
) -> Evidence {
    if route.auth == Requirement::Public {
        return Evidence::Absent;
    }
    let text = match token::bearer(headers, setup.limits.token_bytes_max) {
        Ok(Some(text)) => text,
        Ok(None) => return Evidence::Absent,
        Err(error @ BearerError::Twice) => {
            return Evidence::Unusable(Problem::new(Code::InvalidRequest, error.to_string()));
        }
        Err(error) => return Evidence::Unusable(Problem::new(Code::TokenInvalid, error.to_string())),
    };
    let known = match setup.issuers.load().verify(text, now) {
        Ok(known) => known,
        Err(error) => return Evidence::Unusable(unverified(&error)),
    };
    match standing(setup, registry, route, &known).await {
        Ok(standing) => Evidence::Token(known, standing),
        Err(problem) => Evidence::Unusable(problem),
    }
}

fn unverified(error: &VerifyError) -> Problem {
    let code = if error.is_expired() { Code::TokenExpired } else { Code::TokenInvalid };
    Problem::new(code, error.to_string())
}

async fn standing(
    setup: &Setup,
    registry: &dyn Registry,
    route: &Route,
    known: &KnownToken,
) -> Result<Standing, Problem> {
    let of_its_type = match known.token.token_type {
        TokenType::Refresh => route.auth == Requirement::Refresh,
        TokenType::Access => route.auth != Requirement::Refresh,
    };
    // A token of the wrong type is refused whatever the store says.
    if !of_its_type || !setup.issuers.load().asks_registry(&known.token) {
        return Ok(Standing::Good);
    }
    setup.issuers.load_full().standing(&known.token, registry).await.map_err(|error| {
        tracing::warn!(%error, "the store did not say whether a token is on record");
        Problem::new(Code::StoreUnavailable, "whether the token is on record cannot be told now")
    })
}

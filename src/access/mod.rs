//! The decision: route, evidence, blocklist, now to a [`Permit`] or a [`Refusal`]. Pure: it awaits nothing, and its
//! checks speak in the order of the contract (§3.6): missing, invalid, expired, wrong type, not fresh, revoked,
//! scope and claims; the rate limit last ([`Limiters::count`]), whose counts are memory too.
//!
//! Nothing is forwarded without a `Permit`, and [`decide`] alone makes one: its fields are private to this file.

mod browser;
mod rate;

use std::sync::Arc;

use serde_json::Value;

use crate::answer::{Code, Problem};
use crate::clock::UnixTime;
use crate::revocation::{Admitted, Blocklist, KnownToken};
use crate::route::settings::{Requirement, Route};
use crate::store::Standing;
use crate::token::{TokenType, VerifiedToken};

pub use browser::{is_own_origin, is_own_page, repeats_csrf};
pub use rate::{Limiters, Quota};

/// What was gathered of the client's credentials before the decision.
#[derive(Debug)]
pub enum Evidence {
    /// None were sent, or the route does not look at them.
    Absent,
    /// They cannot be processed, or the token is expired; the problem says which.
    Unusable(Problem),
    /// A verified token, and what the store knows of it where it was asked (`Standing::Good` where not).
    Token(Admitted, Standing),
}

/// The right to forward one request, and what may be said about its sender.
#[derive(Clone, Debug)]
pub struct Permit {
    route: Arc<Route>,
    token: Option<Arc<KnownToken>>,
    shadowed: Option<Code>,
}

impl Permit {
    /// The route it was given for.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// The token that it was given for; `None` for an anonymous request. Identity comes from here alone.
    pub fn token(&self) -> Option<&Arc<KnownToken>> {
        self.token.as_ref()
    }

    /// Why an enforcing route would have refused.
    pub fn shadowed(&self) -> Option<Code> {
        self.shadowed
    }
}

/// We said no by policy.
#[derive(Debug)]
pub struct Refusal {
    /// What the client is told.
    pub problem: Problem,
    /// The token that was refused, for the access log.
    pub token: Option<Arc<KnownToken>>,
}

/// Decides whether this request may pass.
///
/// # Errors
/// The first check that says no, unless the route is in shadow mode.
pub fn decide(
    route: &Arc<Route>,
    evidence: Evidence,
    blocklist: &Blocklist,
    now: UnixTime,
) -> Result<Permit, Refusal> {
    let token = match &evidence {
        Evidence::Token(admitted, _) => Some(admitted.known().clone()),
        _ => None,
    };
    match judge(route, evidence, blocklist, now) {
        Ok(token) => Ok(Permit { route: route.clone(), token, shadowed: None }),
        // A refused token vouches for nobody: the request goes on without identity.
        Err(problem) if route.shadow => {
            Ok(Permit { route: route.clone(), token: None, shadowed: Some(problem.code()) })
        }
        Err(problem) => Err(Refusal { problem, token }),
    }
}

/// A preflight on its way to an upstream that answers it itself: browsers put no token on it (Fetch standard,
/// "CORS-preflight fetch"), so a route that needs one lets it pass, as nobody's.
pub fn pass_preflight(route: &Arc<Route>) -> Permit {
    Permit { route: route.clone(), token: None, shadowed: None }
}

fn judge(
    route: &Route,
    evidence: Evidence,
    blocklist: &Blocklist,
    now: UnixTime,
) -> Result<Option<Arc<KnownToken>>, Problem> {
    let (known, standing) = match evidence {
        Evidence::Absent => {
            return match route.auth {
                Requirement::Public | Requirement::Optional => Ok(None),
                _ => Err(Problem::new(Code::TokenMissing, "this resource needs a bearer token")),
            };
        }
        Evidence::Unusable(problem) => return Err(problem),
        Evidence::Token(admitted, standing) => (admitted.into_known(), standing),
    };
    let token = &known.token;
    if !route.issuers.is_empty() && !route.issuers.contains(&token.issuer) {
        return Err(invalid("tokens of this issuer are not accepted here"));
    }
    if standing == Standing::Unknown {
        return Err(invalid("the token is not on record"));
    }
    if token.token_type != wanted_type(route.auth) {
        return Err(invalid(match token.token_type {
            TokenType::Access => "only refresh tokens are accepted here",
            TokenType::Refresh => "only access tokens are accepted here",
        }));
    }
    if route.auth == Requirement::Fresh && token.fresh_until.is_none_or(|until| now >= until) {
        return Err(Problem::new(Code::TokenNotFresh, "this resource needs a token from a recent sign-in"));
    }
    if blocklist.check(&known.keys).is_some() || standing == Standing::Retired {
        return Err(Problem::new(Code::TokenRevoked, "the token has been revoked"));
    }
    scopes(route, token)?;
    claims(route, token)?;
    Ok(Some(known))
}

const fn wanted_type(requirement: Requirement) -> TokenType {
    match requirement {
        Requirement::Refresh => TokenType::Refresh,
        _ => TokenType::Access,
    }
}

fn invalid(words: &'static str) -> Problem {
    Problem::new(Code::TokenInvalid, words)
}

fn scopes(route: &Route, token: &VerifiedToken) -> Result<(), Problem> {
    if route.scopes.iter().all(|wanted| token.scopes.contains(wanted)) {
        return Ok(());
    }
    let wanted = route.scopes.join(" ");
    Err(Problem::new(Code::InsufficientScope, "the token lacks a scope that is needed here")
        .with_scope(wanted))
}

fn claims(route: &Route, token: &VerifiedToken) -> Result<(), Problem> {
    let has = |name: &str, wanted: &[Box<str>]| match token.claims.get(name) {
        Some(Value::Array(values)) => values.iter().any(|value| is_one_of(value, wanted)),
        Some(value) => is_one_of(&value, wanted),
        None => false,
    };
    if route.require_claims.iter().all(|(name, wanted)| has(name, wanted)) {
        return Ok(());
    }
    Err(Problem::new(Code::Forbidden, "the token lacks a claim that is needed here").challenging())
}

/// Strings as they are; numbers and booleans in JSON spelling.
fn is_one_of(value: &Value, wanted: &[Box<str>]) -> bool {
    match value {
        Value::String(text) => wanted.iter().any(|w| **w == **text),
        Value::Number(_) | Value::Bool(_) => {
            let text = value.to_string();
            wanted.iter().any(|w| **w == *text)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;

//! What must be known of the credentials before the decision. Memory only, but for the cases that must ask: the store
//! (`registry = "strict"`, routes that take refresh tokens) and an external issuer (an unknown key id, opaque tokens).

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::setup::Setup;
use crate::access::{self, Evidence, Permit};
use crate::answer::{Code, Problem};
use crate::clock::UnixTime;
use crate::endpoint::CSRF_CLAIM;
use crate::issuer::settings::SELF;
use crate::revocation::KnownToken;
use crate::route::Head;
use crate::route::settings::{Requirement, Route};
use crate::store::{Registry, Standing};
use crate::token::{
    self, BearerError, Possession, Presented, ProofError, ProofFor, Scheme, Thumbprint, TokenType,
};

pub(super) async fn evidence(
    setup: &Setup,
    registry: &dyn Registry,
    route: &Route,
    head: &Head,
    headers: &HeaderMap,
    now: UnixTime,
) -> Evidence {
    if route.auth == Requirement::Public {
        return Evidence::Absent;
    }
    let token = match presented(setup, route, headers) {
        Ok(Some(token)) => token,
        Ok(None) => return Evidence::Absent,
        Err(error) => return Evidence::Unusable(unreadable(error)),
    };
    let possession = match possession(setup, token, head, headers, now) {
        Ok(possession) => possession,
        Err(error) => return Evidence::Unusable(token::VerifyError::from(error).to_problem()),
    };
    let admitted = match setup.issuers.admit(token.text, &possession, now).await {
        Ok(admitted) => admitted,
        Err(error) => return Evidence::Unusable(error.to_problem()),
    };
    if token.by_cookie
        && let Err(problem) = from_own_page(route, head, headers, admitted.known())
    {
        return Evidence::Unusable(problem);
    }
    match standing(setup, registry, route, admitted.known()).await {
        Ok(standing) => Evidence::Token(admitted, standing),
        Err(problem) => Evidence::Unusable(problem),
    }
}

/// What the client has shown to hold beside its token: the certificate of its connection (RFC 8705), and a proof for
/// this very request where the token came as one that needs it (RFC 9449 §7.1).
fn possession(
    setup: &Setup,
    token: Presented<'_>,
    head: &Head,
    headers: &HeaderMap,
    now: UnixTime,
) -> Result<Possession, ProofError> {
    let certificate = head.peer().certificate().map(|certificate| Thumbprint(certificate.sha256));
    if token.scheme == Scheme::Bearer {
        return Ok(Possession { certificate, ..Possession::default() });
    }
    let text = crate::token::proof_text(headers)?.ok_or(ProofError::Missing)?;
    let (scheme, authority) = setup.forwarding.client_origin(head, headers);
    let wanted = ProofFor {
        method: head.method().as_str(),
        scheme,
        authority,
        path: head.path(),
        token: Some(token.text),
        with_ath: true,
    };
    let proof = crate::token::check_proof(text, &wanted, now)?;
    Ok(Possession { scheme: Scheme::Dpop, proof: Some(proof), certificate })
}

/// Has the request ready for its upstream: a token that was taken from a cookie goes on in `Authorization`, where a
/// backend that reads tokens itself looks for it (`forward_authorization` takes it off again), and our own cookies end
/// here, refresh token and all.
pub(super) fn hand_over(setup: &Setup, permit: &Permit, headers: &mut HeaderMap) {
    if setup.endpoints.transport().cookie
        && permit.token().is_some()
        && !headers.contains_key(AUTHORIZATION)
        && let Ok(Some(Presented { text, by_cookie: true, .. })) = presented(setup, permit.route(), headers)
        && let Ok(mut value) = http::HeaderValue::from_str(&format!("Bearer {text}"))
    {
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    token::remove_own_cookies(headers);
}

fn presented<'a>(
    setup: &Setup,
    route: &Route,
    headers: &'a HeaderMap,
) -> Result<Option<Presented<'a>>, BearerError> {
    let wanted = if route.auth == Requirement::Refresh { TokenType::Refresh } else { TokenType::Access };
    token::presented(headers, wanted, setup.endpoints.transport(), setup.limits.token_bytes_max)
}

fn unreadable(error: BearerError) -> Problem {
    let code = if error == BearerError::Twice { Code::InvalidRequest } else { Code::TokenInvalid };
    Problem::new(code, error.to_string())
}

/// A browser adds cookies to whatever a page makes it send. What may change something must come from a page of ours,
/// and prove it; and so must a WebSocket, which begins as a GET and is open to every page (RFC 6455 §10.2). Scripts
/// cannot add a field to that one, so its `Origin` has to do.
fn from_own_page(route: &Route, head: &Head, headers: &HeaderMap, known: &KnownToken) -> Result<(), Problem> {
    let csrf = |words: &'static str| Problem::new(Code::Csrf, words);
    let cors = route.cors.as_ref().filter(|cors| cors.credentials);
    let (host, allowed) = (head.authority().value(), cors.map_or(&[][..], |cors| &cors.origins));
    if head.wants_websocket() && !access::is_own_origin(headers, host, allowed) {
        return Err(csrf("the page that opens the WebSocket is of another origin"));
    }
    if head.method().is_safe() {
        return Ok(());
    }
    if !access::is_own_page(headers, host, allowed) {
        return Err(csrf("the page that made the request is of another origin"));
    }
    let own = *known.token.issuer == *SELF;
    let claim = known.token.claims.get(CSRF_CLAIM).filter(|_| own);
    match access::repeats_csrf(headers, claim.as_ref().and_then(|claim| claim.as_str())) {
        Ok(true) => Ok(()),
        Ok(false) => Err(csrf("x-csrf-token does not repeat the value of the session's cookie")),
        Err(error) => Err(unreadable(error)),
    }
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

//! What must be known of the credentials before the decision. Memory only, but for the cases that must ask: the store
//! (`registry = "strict"`, routes that take refresh tokens) and an external issuer (an unknown key id, opaque tokens).

use http::HeaderMap;

use super::setup::Setup;
use crate::access::Evidence;
use crate::answer::{Code, Problem};
use crate::clock::UnixTime;
use crate::revocation::KnownToken;
use crate::route::Head;
use crate::route::settings::{Requirement, Route};
use crate::store::{Registry, Standing};
use crate::token::{
    self, BearerError, Credentials, Possession, ProofError, ProofFor, Scheme, Thumbprint, TokenType,
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
    let credentials = match token::credentials(headers, setup.limits.token_bytes_max) {
        Ok(Some(credentials)) => credentials,
        Ok(None) => return Evidence::Absent,
        Err(error @ BearerError::Twice) => {
            return Evidence::Unusable(Problem::new(Code::InvalidRequest, error.to_string()));
        }
        Err(error) => return Evidence::Unusable(Problem::new(Code::TokenInvalid, error.to_string())),
    };
    let possession = match possession(setup, credentials, head, headers, now) {
        Ok(possession) => possession,
        Err(error) => return Evidence::Unusable(token::VerifyError::from(error).to_problem()),
    };
    let admitted = match setup.issuers.admit(credentials.token, &possession, now).await {
        Ok(admitted) => admitted,
        Err(error) => return Evidence::Unusable(error.to_problem()),
    };
    match standing(setup, registry, route, admitted.known()).await {
        Ok(standing) => Evidence::Token(admitted, standing),
        Err(problem) => Evidence::Unusable(problem),
    }
}

/// What the client has shown to hold beside its token: the certificate of its connection (RFC 8705), and a proof for
/// this very request where the token came as one that needs it (RFC 9449 §7.1).
fn possession(
    setup: &Setup,
    credentials: Credentials<'_>,
    head: &Head,
    headers: &HeaderMap,
    now: UnixTime,
) -> Result<Possession, ProofError> {
    let certificate = head.peer().certificate().map(|certificate| Thumbprint(certificate.sha256));
    if credentials.scheme == Scheme::Bearer {
        return Ok(Possession { certificate, ..Possession::default() });
    }
    let text = token::proof_text(headers)?.ok_or(ProofError::Missing)?;
    let (scheme, authority) = setup.forwarding.client_origin(head, headers);
    let wanted = ProofFor {
        method: head.method().as_str(),
        scheme,
        authority,
        path: head.path(),
        token: Some(credentials.token),
        with_ath: true,
    };
    let proof = token::check_proof(text, &wanted, now)?;
    Ok(Possession { scheme: Scheme::Dpop, proof: Some(proof), certificate })
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

//! Who calls: the token of a request, verified and looked up.

use std::sync::Arc;

use serde_json::Value;

use super::Endpoints;
use super::call::Call;
use super::place::Place;
use super::ports::Unverified;
use crate::answer::{Code, Problem};
use crate::clock::UnixTime;
use crate::issuer::settings::SELF;
use crate::revocation::{Kind, SelectorKey, TokenKeys};
use crate::store::{self, Standing};
use crate::token::{PROOF_REMEMBERED, Possession, ProofError, TokenType, VerifiedToken, VerifyError};

/// Somebody with a good token of ours.
pub(super) struct Caller {
    pub(super) token: Arc<VerifiedToken>,
    pub(super) subject: Box<str>,
    pub(super) session: Box<str>,
}

impl Endpoints {
    /// The caller by their access token.
    ///
    /// # Errors
    /// 401 missing, expired, revoked; 422 anything else that is wrong with it.
    pub(super) async fn caller(&self, call: &Call) -> Result<Caller, Problem> {
        let token = self.own_token(call).await?;
        self.accept(token, TokenType::Access, call).await
    }

    /// The same, soon after a password sign-in.
    ///
    /// # Errors
    /// As [`Endpoints::caller`], and 401 `token_not_fresh`.
    pub(super) async fn fresh_caller(&self, call: &Call) -> Result<Caller, Problem> {
        let token = self.own_token(call).await?;
        if token.token_type == TokenType::Access && token.fresh_until.is_none_or(|until| until <= call.now) {
            return Err(Problem::new(Code::TokenNotFresh, "Sign in again to do this"));
        }
        self.accept(token, TokenType::Access, call).await
    }

    /// The token of the request, verified; of any type, revoked or not.
    ///
    /// # Errors
    /// 401 missing or expired; 403 by a cookie, and not from a page of ours; 422 anything else that is wrong with it.
    pub(super) async fn own_token(&self, call: &Call) -> Result<Arc<VerifiedToken>, Problem> {
        let text = self.token_text(call)?;
        let possession = call.possession(Some(text))?;
        let token = self.parts.tokens.admit_own(text, &possession, call.now).await?;
        if call.place == Place::Refresh {
            self.take_proof_anywhere(call, &possession).await?;
        }
        self.guard(call, &token)?;
        Ok(token)
    }

    /// Looks whether the proof of a refresh was used on another gateway of the store. On its own requests a gateway
    /// remembers all proofs by itself (RFC 9449 §11.1): a question to the store with each would cost more than it gains.
    ///
    /// # Errors
    /// 401: it was.
    pub(super) async fn take_proof_anywhere(
        &self,
        call: &Call,
        possession: &Possession,
    ) -> Result<(), Problem> {
        let Some(proof) = &possession.proof else { return Ok(()) };
        let until = call.now.plus(PROOF_REMEMBERED);
        match self.common.is_first_use("proof", &proof.id(), until, call.now).await {
            true => Ok(()),
            false => Err(VerifyError::Proof(ProofError::Replayed).to_problem()),
        }
    }

    /// The text of the request's token.
    ///
    /// # Errors
    /// 401 missing; 422 too long.
    pub(super) fn token_text<'a>(&self, call: &'a Call) -> Result<&'a str, Problem> {
        let missing = || Problem::new(Code::TokenMissing, "The token is missing");
        let text = self.presented(call)?.ok_or_else(missing)?.text;
        if text.len() > self.parts.token_bytes_max {
            return Err(Unverified::Invalid.into());
        }
        Ok(text)
    }

    /// Takes a verified token of ours for what it is wanted for.
    ///
    /// # Errors
    /// 422 of another type; 401 revoked, or unknown to the store under `registry = "strict"`.
    pub(super) async fn accept(
        &self,
        token: Arc<VerifiedToken>,
        wanted: TokenType,
        call: &Call,
    ) -> Result<Caller, Problem> {
        of_type(&token, wanted)?;
        let (Some(subject), Some(session)) = (token.subject.clone(), token.session.clone()) else {
            return Err(Unverified::Invalid.into());
        };
        self.stands(&token, call).await?;
        Ok(Caller { token, subject, session })
    }

    /// An access token of ours, whoever has it: one that a client got for itself belongs to no session.
    ///
    /// # Errors
    /// As [`Endpoints::caller`].
    pub(super) async fn access_of_anybody(&self, call: &Call) -> Result<Arc<VerifiedToken>, Problem> {
        let token = self.own_token(call).await?;
        of_type(&token, TokenType::Access)?;
        self.stands(&token, call).await?;
        Ok(token)
    }

    async fn stands(&self, token: &VerifiedToken, call: &Call) -> Result<(), Problem> {
        if !self.parts.revocations.refused_by(&self.keys(token), call.now).is_empty() {
            return Err(revoked());
        }
        // A refresh asks the store for more than this, in the exchange itself.
        if token.token_type == TokenType::Access
            && self.parts.auth.as_ref().is_some_and(|auth| auth.own.strict)
            && self.parts.store.standing(&token.token_id).await? != Standing::Good
        {
            return Err(revoked());
        }
        Ok(())
    }

    /// The blocklist keys of a token.
    pub(super) fn keys(&self, token: &VerifiedToken) -> TokenKeys {
        TokenKeys::of(token, &self.parts.revocable_claims)
    }

    /// The blocklist keys of a token of ours that only the store remembers. Of its claims, those that every token of
    /// ours has are known here.
    pub(super) fn token_keys(&self, token: &store::Token) -> TokenKeys {
        TokenKeys {
            token: SelectorKey::of(&Kind::Token, SELF, &token.id),
            key: token.key_id.as_deref().map(|id| SelectorKey::of(&Kind::Key, SELF, id)),
            ..self.session_keys(&token.session, &token.subject, token.issued_at)
        }
    }

    /// By which claims every access token of ours can be revoked: those of `[auth.claims]`, each value of an array for
    /// itself.
    pub fn fixed_claims(&self) -> Vec<(Kind, Box<str>)> {
        let Some(auth) = &self.parts.auth else { return Vec::new() };
        let mut found = Vec::new();
        for name in &self.parts.revocable_claims {
            let values = match auth.claims.get(&**name) {
                Some(Value::Array(values)) => values.as_slice(),
                Some(value) => std::slice::from_ref(value),
                None => &[],
            };
            let texts = values.iter().filter_map(|value| match value {
                Value::String(text) => Some(text.as_str().into()),
                Value::Number(_) | Value::Bool(_) => Some(value.to_string().into()),
                _ => None,
            });
            found.extend(texts.map(|text| (Kind::Claim(name.clone()), text)));
        }
        found
    }

    /// The blocklist keys of a session whose newest token was issued then. Where a token has its own key, this has the
    /// session's once more.
    pub(super) fn session_keys(&self, session: &str, subject: &str, issued_at: UnixTime) -> TokenKeys {
        let of = |kind: Kind, value: &str| SelectorKey::of(&kind, SELF, value);
        let claims = self.fixed_claims().into_iter().map(|(kind, value)| of(kind, &value));
        TokenKeys {
            token: of(Kind::Session, session),
            session: Some(of(Kind::Session, session)),
            subject: Some(of(Kind::Subject, subject)),
            client: None,
            other_clients: Box::default(),
            key: None,
            issuer: of(Kind::Issuer, ""),
            claims: claims.collect(),
            issued_at,
        }
    }
}

/// # Errors
/// 422: it is of the other type.
fn of_type(token: &VerifiedToken, wanted: TokenType) -> Result<(), Problem> {
    let words = match wanted {
        _ if token.token_type == wanted => return Ok(()),
        TokenType::Access => "An access token is needed here",
        TokenType::Refresh => "A refresh token is needed here",
    };
    Err(Problem::new(Code::TokenInvalid, words))
}

/// 401, whatever revoked it.
pub(super) fn revoked() -> Problem {
    Problem::new(Code::TokenRevoked, "The token has been revoked")
}

//! The gateway as an issuer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::keyring::Keyring;
use super::settings::{Own, SELF};
use crate::clock::UnixTime;
use crate::token::{
    Binding, ClaimNames, Claims, Fresh, IssueError, KeyError, NewToken, Terms, TokenType, Typ, issue, sign,
};

/// How far ahead the `iat` of our own tokens may lie: the clocks of a fleet differ a little, and a token that one
/// gateway has just issued is shown to the next.
const SKEW: Duration = Duration::from_secs(5);

/// What a token that we are about to issue says, beside who we are and for whom it is.
#[derive(Clone, Copy, Debug)]
pub struct Grant<'a> {
    /// `sub`.
    pub subject: &'a str,
    /// `sid`; `None` for a token that a client got for itself.
    pub session: Option<&'a str>,
    /// `client_id`.
    pub client: Option<&'a str>,
    /// `jti`.
    pub token_id: &'a str,
    /// `iat`, rounded down to seconds.
    pub issued_at: UnixTime,
    /// `exp`, rounded down to seconds.
    pub expires_at: UnixTime,
    /// It comes of a password sign-in.
    pub fresh: bool,
    /// `cnf`.
    pub binding: Option<Binding>,
    /// Granted scopes, in order.
    pub scopes: &'a [Box<str>],
    /// Static claims; one that is named like a claim of ours does not count.
    pub extra: &'a Claims,
}

/// The gateway's own issuer (`self`): its settings, its keys. Immutable; other keys make a new one.
#[derive(Debug)]
pub struct OwnIssuer {
    settings: Own,
    keyring: Keyring,
    jwks: Bytes,
    /// When the next of the keys in `jwks` verifies no more.
    jwks_until: Option<UnixTime>,
}

impl OwnIssuer {
    pub(super) fn new(settings: Own, keyring: Keyring, now: UnixTime) -> Self {
        let jwks = Bytes::from(keyring.jwks_json(now));
        let ends = keyring.keys().iter().filter_map(|kept| kept.not_after).filter(|end| now < *end);
        let jwks_until = ends.min();
        Self { settings, keyring, jwks, jwks_until }
    }

    /// On what terms its tokens are accepted.
    pub(super) fn terms(&self, revocable: &Arc<[Box<str>]>) -> Result<Terms, KeyError> {
        let own = &self.settings;
        Ok(Terms {
            issuer: SELF.into(),
            keys: Arc::new(self.keyring.key_set()?),
            audience: own.audience.clone(),
            leeway: Duration::ZERO,
            skew: SKEW,
            lifetime_max: own.refresh_ttl.max(own.access_ttl),
            require: ["sub", "iat", "jti"].map(Into::into).to_vec(),
            typ: Typ::Own,
            claims: ClaimNames::default(),
            revocable: Arc::clone(revocable),
            fresh: Fresh::For(own.fresh_ttl),
        })
    }

    /// Its settings.
    pub fn settings(&self) -> &Own {
        &self.settings
    }

    /// Its keys, for rotation and lists.
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// The body of `/.well-known/jwks.json` at `now`: the keys whose overlap has ended are not in it.
    pub fn jwks_json(&self, now: UnixTime) -> Bytes {
        match self.jwks_until {
            Some(until) if until <= now => self.keyring.jwks_json(now).into(),
            _ => self.jwks.clone(),
        }
    }

    /// Signs an access token.
    ///
    /// # Errors
    /// When the library fails to sign.
    pub fn issue_access(&self, grant: &Grant<'_>) -> Result<String, IssueError> {
        self.issue(TokenType::Access, grant)
    }

    /// Signs a refresh token.
    ///
    /// # Errors
    /// When the library fails to sign.
    pub fn issue_refresh(&self, grant: &Grant<'_>) -> Result<String, IssueError> {
        self.issue(TokenType::Refresh, grant)
    }

    /// Signs an introspection response for a resource server (RFC 9701 §5): `view` is what the JSON answer would be.
    /// `None` where nobody else could verify it: our secrets are nobody else's.
    ///
    /// # Errors
    /// When the library fails to sign.
    pub fn sign_introspection(
        &self,
        audience: &str,
        view: &Claims,
        now: UnixTime,
    ) -> Result<Option<String>, IssueError> {
        let key = self.keyring.signing_key();
        if key.public_key().is_none() {
            return Ok(None);
        }
        // `sub` and `exp` stay out, so that it cannot be taken for an access token (RFC 9701 §8.1).
        let mut claims = Claims::new();
        claims.insert("iss".to_owned(), (*self.settings.issuer).into());
        claims.insert("aud".to_owned(), audience.into());
        claims.insert("iat".to_owned(), now.secs().into());
        claims.insert("token_introspection".to_owned(), view.clone().into());
        sign(key, "token-introspection+jwt", claims).map(Some)
    }

    fn issue(&self, token_type: TokenType, grant: &Grant<'_>) -> Result<String, IssueError> {
        let token = NewToken {
            issuer: &self.settings.issuer,
            audience: &self.settings.audience,
            token_type,
            subject: grant.subject,
            session: grant.session,
            client: grant.client,
            token_id: grant.token_id,
            issued_at: grant.issued_at,
            expires_at: grant.expires_at,
            fresh: grant.fresh,
            binding: grant.binding,
            scopes: grant.scopes,
            extra: grant.extra,
        };
        issue(self.keyring.signing_key(), &token)
    }
}

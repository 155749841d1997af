//! Everything that a token can be revoked by, precomputed when it is verified, so that a check is look-ups only.

use std::sync::Arc;

use serde_json::Value;

use super::{Kind, SelectorKey};
use crate::clock::UnixTime;
use crate::token::{KeptClaims, Possession, Replays, Scheme, VerifiedToken, VerifyError};

/// The blocklist keys of one verified token, and its `iat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenKeys {
    /// By token id.
    pub token: SelectorKey,
    /// By `sid`.
    pub session: Option<SelectorKey>,
    /// By `sub`.
    pub subject: Option<SelectorKey>,
    /// By `client_id` or `azp`.
    pub client: Option<SelectorKey>,
    /// By the other one, where it has both and they differ.
    pub other_clients: Box<[SelectorKey]>,
    /// By `kid`.
    pub key: Option<SelectorKey>,
    /// By issuer.
    pub issuer: SelectorKey,
    /// By the claims of `[revocation] claims` that it has.
    pub claims: ClaimKeys,
    /// When it was issued; a token without `iat` counts as issued at the beginning of time.
    pub issued_at: UnixTime,
}

impl TokenKeys {
    /// The keys of `token`, where `claims` are the claims that can be revoked by.
    pub fn of(token: &VerifiedToken, claims: &[Box<str>]) -> Self {
        let issuer = &*token.issuer;
        let by = |kind: Kind, value: &Option<Box<str>>| {
            value.as_deref().map(|value| SelectorKey::of(&kind, issuer, value))
        };
        Self {
            token: SelectorKey::of(&Kind::Token, issuer, &token.token_id),
            session: by(Kind::Session, &token.session),
            subject: by(Kind::Subject, &token.subject),
            client: by(Kind::Client, &token.client),
            other_clients: token
                .other_clients
                .iter()
                .map(|value| SelectorKey::of(&Kind::Client, issuer, value))
                .collect(),
            key: by(Kind::Key, &token.key_id),
            issuer: SelectorKey::of(&Kind::Issuer, issuer, ""),
            claims: claims.iter().flat_map(|name| claim_keys(name, issuer, &token.claims)).collect(),
            issued_at: token.issued_at.unwrap_or(UnixTime::ZERO),
        }
    }
}

/// Any number of keys; the first few lie beside the others, so that a check need not fetch them from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimKeys(Keys);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Keys {
    Few(u8, [SelectorKey; FEW]),
    Many(Box<[SelectorKey]>),
}

const FEW: usize = 2;

impl std::ops::Deref for ClaimKeys {
    type Target = [SelectorKey];

    fn deref(&self) -> &[SelectorKey] {
        match &self.0 {
            Keys::Few(count, keys) => &keys[..usize::from(*count)],
            Keys::Many(keys) => keys,
        }
    }
}

impl FromIterator<SelectorKey> for ClaimKeys {
    fn from_iter<I: IntoIterator<Item = SelectorKey>>(keys: I) -> Self {
        let keys: Vec<_> = keys.into_iter().collect();
        let mut few = [SelectorKey([0; 4]); FEW];
        Self(match few.get_mut(..keys.len()) {
            Some(place) => {
                place.copy_from_slice(&keys);
                Keys::Few(keys.len() as u8, few)
            }
            None => Keys::Many(keys.into()),
        })
    }
}

/// One key for a string, number or boolean, one for each of those in an array.
fn claim_keys(name: &str, issuer: &str, claims: &KeptClaims) -> Vec<SelectorKey> {
    let kind = Kind::Claim(name.into());
    let one = |value: &Value| match value {
        Value::String(text) => Some(SelectorKey::of(&kind, issuer, text)),
        Value::Number(number) => Some(SelectorKey::of(&kind, issuer, &number.to_string())),
        Value::Bool(flag) => Some(SelectorKey::of(&kind, issuer, if *flag { "true" } else { "false" })),
        _ => None,
    };
    match claims.get(name) {
        Some(Value::Array(values)) => values.iter().filter_map(one).collect(),
        Some(value) => one(&value).into_iter().collect(),
        None => Vec::new(),
    }
}

/// What the cache of verified tokens knows the text of a token by (`issuer/fingerprint.rs`). Equal ones are the same text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextMark {
    pub(crate) sums: [u64; 4],
    pub(crate) length: u32,
}

/// A verified token with everything that it can be revoked by; what the cache keeps and a request carries. Made in
/// `issuer`; lives here because the decision, below that room, reads it.
///
/// Its fields stand in this order in memory, so that what every request reads lies in three cache lines.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct KnownToken {
    /// Of its text, where it may be kept for the next request.
    pub(crate) mark: Option<TextMark>,
    /// Its issuer's place, and that one's generation, when it was verified.
    pub(crate) place: u32,
    /// Whether it is bound to anything.
    pub(crate) bound: bool,
    pub(crate) generation: u64,
    /// The end of the key that verified it.
    pub(crate) key_until: Option<UnixTime>,
    /// `exp` and the issuer's leeway.
    pub(crate) good_until: UnixTime,
    /// Its keys in the blocklist.
    pub keys: TokenKeys,
    /// What it says.
    pub token: VerifiedToken,
}

/// A verified token, taken from whom it was given to: what it is bound to has been shown (RFC 7800). Only
/// [`KnownToken::admit`] makes one of what a client presents, and only such a token opens anything.
#[derive(Clone, Debug)]
pub struct Admitted(Arc<KnownToken>);

impl Admitted {
    /// For telling what a token would do (`POST /admin/explain`), where nobody presents it.
    pub fn for_explaining(known: Arc<KnownToken>) -> Self {
        Self(known)
    }

    /// The token.
    pub fn known(&self) -> &Arc<KnownToken> {
        &self.0
    }

    /// The token, to keep.
    pub fn into_known(self) -> Arc<KnownToken> {
        self.0
    }
}

impl KnownToken {
    /// Takes the token from a client that has shown `possession`. A token that is bound to nothing, presented as a
    /// bearer token, costs one comparison. A proof counts as used when this has succeeded.
    ///
    /// # Errors
    /// What the token is bound to was not shown, or the proof was used before ([`VerifyError`]).
    pub fn admit(
        self: Arc<Self>,
        possession: &Possession,
        replays: &Replays,
        now: UnixTime,
    ) -> Result<Admitted, VerifyError> {
        if self.bound || possession.scheme != Scheme::Bearer {
            possession.suits(self.token.binding.as_deref())?;
            if let Some(proof) = &possession.proof {
                replays.take(proof, now)?;
            }
        }
        Ok(Admitted(self))
    }

    /// One that no issuer verified, for tests of other rooms.
    #[cfg(test)]
    pub(crate) fn for_test(token: VerifiedToken, keys: TokenKeys) -> Self {
        let bound = token.binding.is_some();
        Self {
            mark: None,
            good_until: token.expires_at,
            token,
            keys,
            key_until: None,
            place: 0,
            bound,
            generation: 0,
        }
    }

    /// From then on it is expired (`exp` and the issuer's leeway): when its live connections are to be cut.
    pub fn good_until(&self) -> UnixTime {
        self.good_until
    }

    /// Whether its time is over.
    pub fn is_expired(&self, now: UnixTime) -> bool {
        now >= self.good_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_claims_are_kept_in_order_whatever_their_number() {
        for count in 0..6 {
            let keys: Vec<_> = (0..count).map(|number| SelectorKey([number, 0, 0, 1])).collect();
            assert_eq!(keys.iter().copied().collect::<ClaimKeys>()[..], keys[..]);
        }
    }
}

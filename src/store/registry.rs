//! What the store says of one of the gateway's own tokens.

use super::Answer;

/// How the store knows a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It was issued here, and nothing newer took its place.
    Good,
    /// It was never issued here, or it was forgotten after it had expired.
    Unknown,
    /// A refresh gave its holder a newer one.
    Retired,
}

/// Which tokens were issued here.
pub trait Registry: Send + Sync {
    /// How the token with this token id stands.
    fn standing<'a>(&'a self, token_id: &'a str) -> Answer<'a, Standing>;
}

//! What gateways share and only they may read. The store keeps it sealed: whoever can read the database learns nothing
//! from it.

use super::Answer;

/// One sealed thing: a signing key under its id, or another secret under a name that no key can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// By which it is known; in clear.
    pub id: Box<str>,
    /// What only those with the key-encryption key can read.
    pub sealed: Box<[u8]>,
}

/// Everything in the safe at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Grows with every change; 0 before the first.
    pub version: u64,
    /// In no order.
    pub all: Vec<Sealed>,
}

/// A few secrets that several gateways have in common.
pub trait Safe: Send + Sync {
    /// The version of its content: the cheapest question, asked often.
    fn safe_version(&self) -> Answer<'_, u64>;

    /// All of it.
    fn safe_content(&self) -> Answer<'_, Content>;

    /// Puts these in, over what has their ids, if nobody has changed anything since `version`; whether it did. Of
    /// gateways that change at once, one succeeds and the others look again.
    fn safe_put(&self, version: u64, changed: Vec<Sealed>) -> Answer<'_, bool>;
}

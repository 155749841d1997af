//! Which revocations can be written, and can have an effect.

use super::{Kind, NAME_BYTES_MAX, Revocation, Selector};

/// The most bytes of a reason.
pub const REASON_BYTES_MAX: usize = 1024;
/// The most bytes of an actor: `subject:` and the longest subject, and room for another prefix.
pub const ACTOR_BYTES_MAX: usize = 1024 + 32;
/// The most bytes of an address.
pub const ADDRESS_BYTES_MAX: usize = 255;

/// Why an entry cannot be written; the client's fault. The text names no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRevocation {
    /// Every kind but `issuer` needs a value.
    #[error("the value is empty")]
    EmptyValue,
    /// Longer than the kind allows; for `issuer` there is none at all.
    #[error("the value is longer than its kind allows")]
    LongValue,
    /// Could never match: no verified token has such a name.
    #[error("the value holds control characters")]
    ControlCharacters,
    /// No issuer name, or one of more than 255 bytes.
    #[error("the issuer is empty or longer than 255 bytes")]
    Issuer,
    /// No claim name, or one of more than 255 bytes.
    #[error("the claim name is empty or longer than 255 bytes")]
    ClaimName,
    /// Tokens and sessions have none (CONTRACT §1).
    #[error("a token or session has no cutoff")]
    UnwantedCutoff,
    /// All other kinds need one.
    #[error("the cutoff is missing")]
    MissingCutoff,
    /// Over 1,024 bytes.
    #[error("the reason is longer than 1024 bytes")]
    LongReason,
    /// Over [`ACTOR_BYTES_MAX`] or [`ADDRESS_BYTES_MAX`].
    #[error("the actor or its address is too long")]
    LongActor,
}

impl Revocation {
    /// Whether it can be written and can have an effect.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn validate(&self) -> Result<(), InvalidRevocation> {
        let Selector { kind, issuer, value } = &self.selector;
        let name_is_good = |name: &str| !name.is_empty() && name.len() <= NAME_BYTES_MAX;
        let cutoff_is_wrong = match (kind.is_absolute(), self.lift, self.issued_before) {
            (true, _, Some(_)) => Some(InvalidRevocation::UnwantedCutoff),
            (false, false, None) => Some(InvalidRevocation::MissingCutoff),
            _ => None,
        };
        let named = self.selector.as_unnamed().is_none();
        let checks = [
            (value.is_empty() && *kind != Kind::Issuer, InvalidRevocation::EmptyValue),
            (named && value.len() > kind.value_bytes_max(), InvalidRevocation::LongValue),
            (value.chars().any(char::is_control), InvalidRevocation::ControlCharacters),
            (named && !name_is_good(issuer), InvalidRevocation::Issuer),
            (named && matches!(kind, Kind::Claim(name) if !name_is_good(name)), InvalidRevocation::ClaimName),
            (self.reason.len() > REASON_BYTES_MAX, InvalidRevocation::LongReason),
            (self.actor.len() > ACTOR_BYTES_MAX, InvalidRevocation::LongActor),
            (self.address.len() > ADDRESS_BYTES_MAX, InvalidRevocation::LongActor),
        ];
        let wrong = checks.into_iter().find_map(|(wrong, why)| wrong.then_some(why)).or(cutoff_is_wrong);
        wrong.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixTime;

    #[test]
    fn refuses_what_cannot_be_written_or_cannot_match() {
        let good = Revocation {
            selector: Selector::new(Kind::Session, "self", "s"),
            lift: false,
            issued_before: None,
            expires_at: UnixTime::ZERO,
            reason: "".into(),
            actor: "admin".into(),
            address: "".into(),
            at: UnixTime::ZERO,
        };
        let check = |change: &dyn Fn(&mut Revocation), expected| {
            let mut revocation = good.clone();
            change(&mut revocation);
            assert_eq!(revocation.validate(), expected);
        };
        check(&|_| {}, Ok(()));
        check(&|r| r.selector.value = "".into(), Err(InvalidRevocation::EmptyValue));
        check(&|r| r.selector.value = "x".repeat(256).into(), Err(InvalidRevocation::LongValue));
        check(&|r| r.selector.value = "a\u{0}".into(), Err(InvalidRevocation::ControlCharacters));
        check(&|r| r.selector.issuer = "".into(), Err(InvalidRevocation::Issuer));
        check(&|r| r.issued_before = Some(UnixTime::ZERO), Err(InvalidRevocation::UnwantedCutoff));
        check(&|r| r.selector.kind = Kind::Subject, Err(InvalidRevocation::MissingCutoff));
        check(&|r| (r.selector.kind, r.lift) = (Kind::Subject, true), Ok(()));
        check(&|r| r.reason = "x".repeat(1025).into(), Err(InvalidRevocation::LongReason));
    }
}

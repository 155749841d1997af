//! What verification tells of its way, for `POST /admin/explain`; on the request path nobody listens, and nothing is
//! formatted.

use std::fmt;

/// A step of verification, in the order in which they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Size, three parts, base64url, JSON.
    Form,
    /// `alg`, `kid`, `crit`.
    Header,
    /// Whose it is, by `iss`.
    Issuer,
    /// What kind of JWT it is, by `typ`.
    Typ,
    /// Which key, and whether the algorithm is its own.
    Key,
    /// The signature.
    Signature,
    /// Types of the registered claims, presence of the required ones.
    Claims,
    /// `aud`.
    Audience,
    /// `nbf`, `iat` and the lifetime.
    Times,
    /// Everything that it can be revoked by.
    Names,
    /// Access or refresh.
    TokenType,
    /// `exp`.
    Expiry,
}

impl Step {
    /// Its name in answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Header => "header",
            Self::Issuer => "issuer",
            Self::Typ => "typ",
            Self::Key => "key",
            Self::Signature => "signature",
            Self::Claims => "claims",
            Self::Audience => "audience",
            Self::Times => "times",
            Self::Names => "names",
            Self::TokenType => "token_type",
            Self::Expiry => "expiry",
        }
    }
}

/// Who is told of each step that was passed. The one that was not is [`super::VerifyError::step`].
pub trait Steps {
    /// `step` was passed; `detail` holds no token and no key.
    fn passed(&mut self, step: Step, detail: fmt::Arguments<'_>);
}

/// Nobody listens.
impl Steps for () {
    fn passed(&mut self, _: Step, _: fmt::Arguments<'_>) {}
}

impl Steps for Vec<(Step, String)> {
    fn passed(&mut self, step: Step, detail: fmt::Arguments<'_>) {
        self.push((step, detail.to_string()));
    }
}

/// An optional name in words: quoted, or `none`.
pub(super) struct OrNone<T>(pub(super) Option<T>);

impl<T: fmt::Display> fmt::Display for OrNone<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(name) => write!(f, "\"{name}\""),
            None => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::OrNone;

    #[test]
    fn an_operator_reads_words_not_syntax() {
        assert_eq!(OrNone(Some("at+jwt")).to_string(), "\"at+jwt\"");
        assert_eq!(OrNone::<&str>(None).to_string(), "none");
    }
}

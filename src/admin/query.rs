//! What the address of a request to the admin API says, read in words that name what is wrong.

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path};
use http::request::Parts;

use super::reply::Refused;

/// The variable parts of a path. axum's own [`Path`] refuses what is no UTF-8 in plain text.
pub(super) struct InPath<T>(pub(super) T);

impl<T, S> FromRequestParts<S> for InPath<T>
where
    Path<T>: FromRequestParts<S, Rejection = PathRejection>,
    T: Send,
    S: Send + Sync,
{
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(value)| Self(value)).map_err(|rejection| Refused::invalid(rejection.body_text()))
    }
}

/// Rows of a list where nothing else is asked for, and at most.
const LIMIT_DEFAULT: u64 = 100;
const LIMIT_MAX: u64 = 1000;

/// The parameters of one request, each once and each known.
pub(super) struct Parameters(Vec<(String, String)>);

/// As axum gives them, whatever they are.
pub(super) type Pairs = axum::extract::Query<Vec<(String, String)>>;

impl Parameters {
    /// # Errors
    /// When one is given that is not `known`, or twice.
    pub(super) fn of(axum::extract::Query(pairs): Pairs, known: &[&str]) -> Result<Self, Refused> {
        for (index, (name, _)) in pairs.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let known: Vec<_> = known.iter().map(|name| format!("\"{name}\"")).collect();
                let words = format!("there is no parameter {name:?} here; there are: {}", known.join(", "));
                return Err(Refused::invalid(words));
            }
            if pairs[..index].iter().any(|(other, _)| other == name) {
                return Err(Refused::invalid(format!("parameter \"{name}\" is given twice")));
            }
        }
        Ok(Self(pairs))
    }

    /// Its text, where it is given.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// # Errors
    /// When it is not a whole number that fits in 64 bits.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Refused> {
        let digits = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let read = |text: &str| {
            let number = Some(text).filter(digits).and_then(|text| text.parse().ok());
            number.ok_or_else(|| Refused::invalid(format!("\"{name}\" is a whole number, not {text:?}")))
        };
        self.text(name).map(read).transpose()
    }

    /// How many rows of a list are wanted.
    ///
    /// # Errors
    /// When it is none, or more than a list may have.
    pub(super) fn limit(&self) -> Result<usize, Refused> {
        let limit = self.number("limit")?.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(Refused::invalid(format!("\"limit\" is between 1 and {LIMIT_MAX}, not {limit}")));
        }
        Ok(usize::try_from(limit).unwrap_or(usize::MAX))
    }

    /// Which of `choices` it is; the first one where it is not given.
    ///
    /// # Errors
    /// When it is none of them.
    pub(super) fn choice(&self, name: &str, choices: &[&str]) -> Result<usize, Refused> {
        let Some(text) = self.text(name) else { return Ok(0) };
        choices.iter().position(|choice| *choice == text).ok_or_else(|| {
            let choices: Vec<_> = choices.iter().map(|choice| format!("\"{choice}\"")).collect();
            Refused::invalid(format!("\"{name}\" is {}, not {text:?}", choices.join(" or ")))
        })
    }
}

//! How texts, times and numbers of ours become PostgreSQL's and come back.

use std::borrow::Cow;
use std::error::Error;

use bytes::BytesMut;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::clock::UnixTime;

/// Why a piece of work did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server said so, or cannot be heard.
    Server(tokio_postgres::Error),
    /// What is in a row cannot have been written by us.
    Malformed(String),
    /// What is there is no store for this version.
    Unusable(String),
}

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Server(error)
    }
}

/// Stands for NUL, which PostgreSQL's texts cannot hold, with `0` behind it; itself is written with `1` behind it. A
/// reason for a revocation may hold a NUL, and the trail must not stop at it.
const ESCAPE: char = '\u{1a}';

/// A text of ours on its way into the database.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'a>(pub(super) &'a str);

impl ToSql for Text<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        (&*escaped(self.0)).to_sql(ty, out)
    }

    fn accepts(ty: &Type) -> bool {
        <&str as ToSql>::accepts(ty)
    }

    to_sql_checked!();
}

fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', ESCAPE]) {
        return text.into();
    }
    text.replace(ESCAPE, "\u{1a}1").replace('\0', "\u{1a}0").into()
}

/// A text of a row on its way back.
struct Restored(Box<str>);

impl<'a> FromSql<'a> for Restored {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let text = <&str as FromSql<'a>>::from_sql(ty, raw)?;
        if !text.contains(ESCAPE) {
            return Ok(Self(text.into()));
        }
        Ok(Self(text.replace("\u{1a}0", "\0").replace("\u{1a}1", "\u{1a}").into()))
    }

    fn accepts(ty: &Type) -> bool {
        <&str as FromSql<'a>>::accepts(ty)
    }
}

/// All of them, for an array.
pub(super) fn texts(all: &[Box<str>]) -> Vec<Text<'_>> {
    all.iter().map(|text| Text(text)).collect()
}

/// A time as stored.
pub(super) fn millis(at: UnixTime) -> i64 {
    i64::try_from(at.millis()).unwrap_or(i64::MAX)
}

/// A number of a list or a limit as stored.
pub(super) fn integer(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// A text of a row.
pub(super) fn text(row: &Row, column: &str) -> Result<Box<str>> {
    Ok(row.try_get::<_, Restored>(column)?.0)
}

/// A text of a row that may be absent.
pub(super) fn maybe_text(row: &Row, column: &str) -> Result<Option<Box<str>>> {
    Ok(row.try_get::<_, Option<Restored>>(column)?.map(|text| text.0))
}

/// A whole number of a row; none of ours is ever negative.
pub(crate) fn number(row: &Row, column: &str) -> Result<u64> {
    u64::try_from(row.try_get::<_, i64>(column)?).map_err(malformed)
}

/// A time of a row.
pub(super) fn time(row: &Row, column: &str) -> Result<UnixTime> {
    number(row, column).map(UnixTime::from_millis)
}

/// A time of a row that may be absent.
pub(super) fn maybe_time(row: &Row, column: &str) -> Result<Option<UnixTime>> {
    let millis: Option<i64> = row.try_get(column)?;
    millis.map(|millis| u64::try_from(millis).map(UnixTime::from_millis).map_err(malformed)).transpose()
}

/// What is in a row cannot have been written by us.
pub(crate) fn malformed(error: impl ToString) -> Failure {
    Failure::Malformed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_survives() {
        for text in ["", "ada", "a\0b", "\0", "\u{1a}", "\u{1a}0", "\u{1a}1\0\u{1a}", "\u{10ffff}\u{1a}10"] {
            let there = escaped(text);
            assert!(!there.contains('\0'));
            let back = Restored::from_sql(&Type::TEXT, there.as_bytes()).unwrap();
            assert_eq!(&*back.0, text, "{there:?}");
        }
    }
}

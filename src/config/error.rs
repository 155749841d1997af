//! What is wrong with a configuration, said to the operator: where, what, and what to do about it.

use std::fmt;

use serde::Serialize;
use serde::ser::{SerializeStruct as _, Serializer};

/// Everything that is wrong with one configuration, in the order of the file. Never empty.
///
/// `Display` gives all of it in the operator's format, one blank line between two problems and no newline at the end;
/// `Serialize` gives an array of objects with `file`, `line`, `column`, `message` and `hint` (the last three may be
/// null). Neither holds a secret: what looks like one in the offending line is masked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Errors(Vec<Problem>);

impl Errors {
    /// `problems` in any order; sorted by position, what is said twice is said once.
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        // What has no position concerns the file as a whole and comes first: `None` sorts before `Some`.
        problems.sort_by_key(|problem| problem.position());
        let mut unique: Vec<Problem> = Vec::with_capacity(problems.len());
        for problem in problems {
            // Only neighbours of one position can be equal.
            let same = unique.iter().rev().take_while(|other| other.position() == problem.position());
            if !same.into_iter().any(|other| *other == problem) {
                unique.push(problem);
            }
        }
        Self(unique)
    }

    /// How many there are.
    #[allow(clippy::len_without_is_empty, reason = "there is always at least one")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// One after the other, in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Errors {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub(super) file: String,
    pub(super) place: Option<Place>,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// Where in the file, and the line as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// From 1.
    pub(super) line: usize,
    /// In characters, from 1.
    pub(super) column: usize,
    /// The line, secrets masked, clipped to what fits a terminal.
    pub(super) excerpt: String,
    /// Characters of `excerpt` before the first caret.
    pub(super) indent: usize,
    /// Number of carets, at least 1.
    pub(super) carets: usize,
}

impl Problem {
    /// The configuration file, as the caller named it.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Line, from 1; `None` where the problem is not about one place in the file.
    pub fn line(&self) -> Option<usize> {
        self.place.as_ref().map(|place| place.line)
    }

    /// Column in characters, from 1.
    pub fn column(&self) -> Option<usize> {
        self.place.as_ref().map(|place| place.column)
    }

    /// What is wrong, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    fn position(&self) -> Option<(usize, usize)> {
        self.place.as_ref().map(|place| (place.line, place.column))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            None => write!(f, "{}: {}", self.file, self.message)?,
            Some(Place { line, column, excerpt, indent, carets }) => {
                writeln!(f, "{}:{line}:{column}: {}", self.file, self.message)?;
                writeln!(f, "{line:>5} | {excerpt}")?;
                write!(f, "{:>5} | {:indent$}{:^<carets$}", "", "", "")?;
            }
        }
        match &self.hint {
            None => Ok(()),
            Some(hint) => write!(f, "\nhint: {hint}"),
        }
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Problem", 5)?;
        object.serialize_field("file", &self.file)?;
        object.serialize_field("line", &self.line())?;
        object.serialize_field("column", &self.column())?;
        object.serialize_field("message", &self.message)?;
        object.serialize_field("hint", &self.hint)?;
        object.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(line: usize, message: &str) -> Problem {
        let excerpt = r#"upstream = "order""#.to_owned();
        Problem {
            file: "gateway.toml".to_owned(),
            place: Some(Place { line, column: 12, excerpt, indent: 11, carets: 7 }),
            message: message.to_owned(),
            hint: Some("did you mean \"orders\"?".to_owned()),
        }
    }

    #[test]
    fn is_shown_in_the_form_of_the_style_guide() {
        let errors = Errors::new(vec![problem(14, "no such upstream"), problem(3, "first")]);
        assert_eq!(
            errors.to_string(),
            "gateway.toml:3:12: first\n    3 | upstream = \"order\"\n      |            ^^^^^^^\nhint: did you mean \
             \"orders\"?\n\ngateway.toml:14:12: no such upstream\n   14 | upstream = \"order\"\n      |            \
             ^^^^^^^\nhint: did you mean \"orders\"?"
        );
    }

    #[test]
    fn the_machine_form_has_five_members() {
        let mut whole = problem(1, "no file");
        (whole.place, whole.hint) = (None, None);
        let json = serde_json::to_value(Errors::new(vec![problem(3, "a"), whole])).unwrap();
        assert_eq!(
            json,
            serde_json::json!([
                {"file": "gateway.toml", "line": null, "column": null, "message": "no file", "hint": null},
                {"file": "gateway.toml", "line": 3, "column": 12, "message": "a", "hint": "did you mean \"orders\"?"},
            ])
        );
    }
}

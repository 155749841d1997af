//! One value of the tree: what type it is of, and what it holds.

use std::collections::HashSet;

use toml::de::DeValue;

use super::super::quantity::{self, ExpandError};
use super::{Context, Shape, Span, Table, Text, quote};

/// A value, whether it is in the file or not.
#[derive(Clone)]
pub(in crate::config) struct Value<'c> {
    pub(in crate::config) cx: &'c Context<'c>,
    /// The key, or "an item of KEY".
    pub(super) label: String,
    /// For notes.
    pub(super) path: String,
    pub(super) owner: String,
    pub(super) owner_at: Option<Span>,
    pub(super) key_at: Option<Span>,
    /// Where the value stands.
    pub(in crate::config) at: Option<Span>,
    pub(super) value: Option<&'c DeValue<'c>>,
}

impl<'c> Value<'c> {
    /// Whether it is in the file.
    pub(in crate::config) fn is_given(&self) -> bool {
        self.value.is_some()
    }

    /// Where its key stands, else where it does.
    pub(in crate::config) fn key_at(&self) -> Option<&Span> {
        self.key_at.as_ref().or(self.at.as_ref())
    }

    /// Where the table that it belongs to stands.
    pub(in crate::config) fn owner_at(&self) -> Option<&Span> {
        self.owner_at.as_ref()
    }

    /// Notes that it is read as this.
    pub(super) fn note(&self, shape: impl FnOnce() -> Shape) {
        if let Some(notes) = self.cx.notes() {
            notes.take(&self.path, shape());
        }
    }

    /// Records a problem with the value.
    pub(in crate::config) fn fail(&self, message: impl Into<String>, hint: impl Into<Option<String>>) {
        self.cx.fail(self.at.as_ref(), message, hint);
    }

    /// Records that it is missing, if it is.
    pub(in crate::config) fn required(self, hint: &str) -> Self {
        self.note(|| Shape::Required);
        if !self.is_given() {
            let owner = if self.owner.is_empty() { "the file" } else { &self.owner };
            let message = format!("{owner} has no {}", self.label);
            self.cx.fail_absent(self.owner_at.as_ref(), message, hint.to_owned());
        }
        self
    }

    pub(super) fn mistyped(&self, expected: &str, hint: Option<String>) {
        let found = match self.value {
            Some(DeValue::Array(_)) => "an array",
            Some(DeValue::Integer(_)) => "an integer",
            Some(DeValue::Boolean(true)) => "true",
            Some(DeValue::Boolean(false)) => "false",
            Some(DeValue::String(_)) => "a string",
            Some(DeValue::Float(_)) => "a float",
            Some(DeValue::Datetime(_)) => "a date or time",
            Some(DeValue::Table(_)) => "a table",
            None => return,
        };
        self.fail(format!("{} must be {expected}, not {found}", self.label), hint);
    }

    /// A string with its variables filled in; `None` if it is absent or wrong.
    pub(in crate::config) fn text(&self) -> Option<Text<'c>> {
        self.text_as("a string")
    }

    pub(super) fn text_as(&self, expected: &str) -> Option<Text<'c>> {
        self.note(|| Shape::Text);
        let (Some(value), Some(at)) = (self.value, &self.at) else { return None };
        let DeValue::String(written) = value else {
            let hint = match value {
                DeValue::Integer(_) | DeValue::Boolean(_) | DeValue::Float(_) if expected == "a string" => {
                    Some("put it in double quotes".to_owned())
                }
                _ => None,
            };
            self.mistyped(expected, hint);
            return None;
        };
        match quantity::expand(written, self.cx.env()) {
            Ok(value) => Some(Text {
                cx: self.cx,
                label: self.label.clone(),
                path: self.path.clone(),
                at: at.clone(),
                expanded: value != **written,
                written: written.to_string(),
                value,
            }),
            Err(errors) => {
                errors.iter().for_each(|error| self.unexpandable(at, error));
                None
            }
        }
    }

    fn unexpandable(&self, at: &Span, error: &ExpandError) {
        let (part, message, hint) = match error {
            ExpandError::Unset(name) => (
                format!("${{{name}}}"),
                format!("environment variable {} is not set", quote(name)),
                format!(
                    "set it before starting the gateway, or write \"$${{{name}}}\" for these very characters"
                ),
            ),
            ExpandError::Malformed(part) => {
                let message = format!("{} is no variable", quote(part));
                let hint = "write ${NAME} for an environment variable and $$ for a dollar".to_owned();
                (part.clone(), message, hint)
            }
        };
        // Escapes may spell the same characters in another way; then the whole string is marked.
        let written = self.cx.written(at);
        let found = match part.as_str() {
            "${" => written.rfind("${"),
            "$" => written.char_indices().map(|(i, _)| i).find(|&i| {
                written[i..].starts_with('$')
                    && !written[i + 1..].starts_with(['$', '{'])
                    && !written[..i].ends_with('$')
            }),
            part => written.find(part),
        };
        let found = found.map(|offset| at.start + offset..at.start + offset + part.len());
        self.cx.fail(Some(found.as_ref().unwrap_or(at)), message, hint);
    }

    /// A string that is not empty; `None` if it is absent, wrong or empty.
    pub(in crate::config) fn text_or_none(&self) -> Option<Text<'c>> {
        self.text().filter(|text| !text.value.is_empty())
    }

    /// A string that must not be empty when it is there.
    pub(in crate::config) fn filled(&self) -> Option<Text<'c>> {
        let text = self.text()?;
        if text.value.is_empty() {
            self.fail(format!("{} is empty", self.label), None);
            return None;
        }
        Some(text)
    }

    /// `true` or `false`.
    pub(in crate::config) fn flag(&self, default: bool) -> bool {
        self.note(|| Shape::Flag(default));
        match self.value {
            Some(DeValue::Boolean(flag)) => return *flag,
            Some(DeValue::String(text)) => {
                let hint = match text.to_lowercase().as_str() {
                    "true" | "yes" | "on" => Some("write true, without quotes".to_owned()),
                    "false" | "no" | "off" => Some("write false, without quotes".to_owned()),
                    _ => None,
                };
                self.mistyped("true or false", hint);
            }
            _ => self.mistyped("true or false", None),
        }
        default
    }

    /// One of the words of `choices`.
    pub(in crate::config) fn choice<T: Copy>(&self, choices: &[(&str, T)], default: T) -> T {
        self.note(|| Shape::Choice(choices.iter().map(|(name, _)| (*name).to_owned()).collect()));
        self.text().and_then(|text| text.choose(choices)).unwrap_or(default)
    }

    /// The items of an array of `what` ("strings").
    pub(in crate::config) fn items(&self, what: &str) -> Vec<Value<'c>> {
        self.note(|| Shape::List { strings: what == "strings" });
        let Some(value) = self.value else { return Vec::new() };
        let DeValue::Array(items) = value else {
            let hint = match (value, &self.at) {
                (DeValue::String(_), Some(at)) if self.cx.written(at).len() < 64 => {
                    Some(format!("write [{}]", self.cx.written(at)))
                }
                _ => None,
            };
            self.mistyped(&format!("an array of {what}"), hint);
            return Vec::new();
        };
        let item = |item: &'c toml::Spanned<DeValue<'c>>| Value {
            cx: self.cx,
            label: format!("an item of {}", self.label),
            path: format!("{}/[]", self.path),
            owner: self.owner.clone(),
            owner_at: self.owner_at.clone(),
            key_at: None,
            at: Some(item.span()),
            value: Some(item.get_ref()),
        };
        items.iter().map(item).collect()
    }

    /// The strings of an array; none of them empty, none given twice.
    pub(in crate::config) fn texts(&self) -> Vec<Text<'c>> {
        let texts: Vec<_> = self.items("strings").iter().filter_map(Value::filled).collect();
        let mut seen = HashSet::new();
        for text in &texts {
            if !seen.insert(text.value.as_str()) {
                text.fail(format!("{} is listed twice in {}", text.quoted(), self.label), None);
            }
        }
        texts
    }

    /// A string, or an array of strings.
    pub(in crate::config) fn one_or_more(&self) -> Vec<Text<'c>> {
        self.note(|| Shape::Text);
        self.note(|| Shape::List { strings: true });
        match self.value {
            Some(DeValue::String(_)) => self.filled().into_iter().collect(),
            Some(DeValue::Array(_)) | None => self.texts(),
            Some(_) => {
                self.mistyped("a string or an array of strings", None);
                Vec::new()
            }
        }
    }

    /// A table, inline or with a header of its own.
    pub(in crate::config) fn table(&self) -> Table<'c> {
        self.note(|| Shape::Table);
        let entries = match self.value {
            Some(DeValue::Table(entries)) => Some(entries),
            _ => {
                self.mistyped("a table", None);
                None
            }
        };
        let label = if self.owner.is_empty() {
            self.label.clone()
        } else {
            format!("{} of {}", self.label, self.owner)
        };
        Table { cx: self.cx, label, at: self.at.clone(), path: self.path.clone(), entries, asked: Vec::new() }
    }

    /// Whether it is an array with nothing in it.
    pub(in crate::config) fn is_empty_array(&self) -> bool {
        matches!(self.value, Some(DeValue::Array(items)) if items.is_empty())
    }

    /// Whether it is the empty string, which stands for not being set.
    pub(in crate::config) fn is_empty_text(&self) -> bool {
        self.note(|| Shape::Empty);
        matches!(self.value, Some(DeValue::String(text)) if text.is_empty())
    }

    /// The value as it is, for the few that may be of several types.
    pub(in crate::config) fn raw(&self) -> Option<&'c DeValue<'c>> {
        self.note(|| Shape::Any);
        self.value
    }

    /// Records that a value of this type does not belong here.
    pub(in crate::config) fn fail_type(&self, expected: &str) {
        self.mistyped(expected, None);
    }

    /// The key, or "an item of KEY".
    pub(in crate::config) fn label(&self) -> &str {
        &self.label
    }
}

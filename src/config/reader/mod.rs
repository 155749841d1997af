//! A typed reader of the spanned TOML tree. Nothing here gives up: what is absent or wrong becomes the default, the
//! problem is recorded in the [`Context`], and reading goes on, so that one run finds everything.

mod amount;
mod text;
mod value;

use toml::de::{DeTable, DeValue};

pub(super) use self::amount::{written_duration, written_size};
pub(super) use self::text::{Text, boxed};
pub(super) use self::value::Value;
use super::context::Context;
use super::schema::Shape;
use super::source::Span;
use super::suggest::{did_you_mean, quote};

/// One table, whether it is in the file or not. Every key of it must be asked for; [`Table::finish`] reports the rest.
pub(super) struct Table<'c> {
    pub(super) cx: &'c Context<'c>,
    /// `[server]`, `route "api"`; empty for the file itself.
    pub(super) label: String,
    /// The header or the inline table; `None` for a table that is not in the file, and for the file itself.
    pub(super) at: Option<Span>,
    /// Its path, for notes.
    path: String,
    entries: Option<&'c DeTable<'c>>,
    asked: Vec<&'static str>,
}

impl<'c> Table<'c> {
    /// The whole file.
    pub(super) fn root(cx: &'c Context<'c>, entries: &'c DeTable<'c>) -> Self {
        Self {
            cx,
            label: String::new(),
            at: None,
            path: String::new(),
            entries: Some(entries),
            asked: Vec::new(),
        }
    }

    /// Whether it is in the file.
    pub(super) fn is_given(&self) -> bool {
        self.entries.is_some()
    }

    /// The value of `key`, which may be absent.
    pub(super) fn get(&mut self, key: &'static str) -> Value<'c> {
        self.asked.push(key);
        let path = format!("{}/{key}", self.path);
        if let Some(notes) = self.cx.notes() {
            notes.ask(&path);
        }
        let entry = self.entries.and_then(|entries| entries.iter().find(|(name, _)| name.get_ref() == key));
        Value {
            cx: self.cx,
            label: key.to_owned(),
            path,
            owner: self.label.clone(),
            owner_at: self.at.clone(),
            key_at: entry.map(|(name, _)| name.span()),
            at: entry.map(|(_, value)| value.span()),
            value: entry.map(|(_, value)| value.get_ref()),
        }
    }

    /// The table `[key]`, labelled so.
    pub(super) fn section(&mut self, key: &'static str, label: &str) -> Table<'c> {
        let mut table = self.get(key).table();
        table.label = label.to_owned();
        table
    }

    /// The tables `[[key]]`, labelled so.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Table<'c>> {
        let value = self.get(key);
        let label = format!("[[{key}]]");
        if let Some(DeValue::Table(_)) = value.value {
            value.fail(format!("{key} is a list of tables"), format!("write {label} for each of them"));
            return Vec::new();
        }
        // What is not a table is reported as such, not as one without its keys.
        let mut tables: Vec<_> =
            value.items("tables").iter().map(Value::table).filter(Table::is_given).collect();
        tables.iter_mut().for_each(|table| table.label.clone_from(&label));
        tables
    }

    /// Names this table by what its `name` or `id` says, for messages.
    pub(super) fn rename(&mut self, kind: &str, name: &str) {
        if !name.is_empty() {
            self.label = format!("{kind} {}", quote(name));
        }
    }

    /// Every entry of a table whose keys are the operator's own: key, where it stands, value.
    pub(super) fn entries(self) -> Vec<(String, Span, Value<'c>)> {
        if let Some(notes) = self.cx.notes() {
            notes.take(&self.path, Shape::Entries);
        }
        let entries = self.entries.into_iter().flatten();
        entries
            .map(|(name, value)| {
                let found = Value {
                    cx: self.cx,
                    label: name.get_ref().to_string(),
                    path: format!("{}/{{}}", self.path),
                    owner: self.label.clone(),
                    owner_at: self.at.clone(),
                    key_at: Some(name.span()),
                    at: Some(value.span()),
                    value: Some(value.get_ref()),
                };
                (name.get_ref().to_string(), name.span(), found)
            })
            .collect()
    }

    /// Reports every key that was not asked for.
    pub(super) fn finish(self) {
        for (name, value) in self.entries.into_iter().flatten() {
            let key = name.get_ref().as_ref();
            if self.asked.contains(&key) {
                continue;
            }
            let mut known = self.asked.clone();
            known.sort_unstable();
            let list = || format!("known here: {}", known.join(", "));
            let message = if self.label.is_empty() {
                let table = match value.get_ref() {
                    DeValue::Table(_) => format!("unknown table [{key}]"),
                    DeValue::Array(items) if items.iter().any(|item| item.get_ref().is_table()) => {
                        format!("unknown table [[{key}]]")
                    }
                    _ => {
                        let hint = format!(
                            "keys stand below a table such as [server]; the tables are {}",
                            known.join(", ")
                        );
                        self.cx.fail(
                            Some(&name.span()),
                            format!("unknown key {} before the first table", quote(key)),
                            did_you_mean(key, self.asked.iter().copied(), || hint),
                        );
                        continue;
                    }
                };
                table.chars().filter(|c| !c.is_control()).collect()
            } else {
                format!("unknown key {} in {}", quote(key), self.label)
            };
            self.cx.fail(Some(&name.span()), message, did_you_mean(key, self.asked.iter().copied(), list));
        }
    }
}

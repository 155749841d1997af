//! A string of the file.

use super::super::suggest::quoted_list;
use super::{Context, Shape, Span, did_you_mean, quote};

/// A string of the file, variables filled in.
#[derive(Clone)]
pub(in crate::config) struct Text<'c> {
    pub(in crate::config) cx: &'c Context<'c>,
    pub(in crate::config) label: String,
    pub(super) path: String,
    pub(in crate::config) at: Span,
    pub(in crate::config) value: String,
    pub(super) written: String,
    pub(super) expanded: bool,
}

impl<'c> Text<'c> {
    /// A key of the file, for rules that hold for keys too.
    pub(in crate::config) fn of_key(cx: &'c Context<'c>, key: &str, at: &Span) -> Self {
        let key = key.to_owned();
        Self {
            cx,
            label: "key".to_owned(),
            path: String::new(),
            at: at.clone(),
            value: key.clone(),
            written: key,
            expanded: false,
        }
    }

    /// As the operator wrote it, in quotes: what a variable holds may be a secret and is never shown.
    pub(in crate::config) fn quoted(&self) -> String {
        // A URL may hold a password of its own.
        match (self.written.find("://"), self.written.rfind('@')) {
            (Some(scheme), Some(at)) if scheme < at => {
                quote(&format!("{}***{}", &self.written[..scheme + 3], &self.written[at..]))
            }
            _ => quote(&self.written),
        }
    }

    /// Its key and itself: `path "/a"`.
    pub(in crate::config) fn named(&self) -> String {
        let key = self.label.strip_prefix("an item of ").unwrap_or(&self.label);
        format!("{key} {}", self.quoted())
    }

    /// A part of it, which is shown as the whole.
    pub(in crate::config) fn part(&self, value: &str) -> Self {
        Self { value: value.to_owned(), ..self.clone() }
    }

    /// Whether a variable was filled in, so that `value` must not be shown.
    pub(in crate::config) fn is_expanded(&self) -> bool {
        self.expanded
    }

    /// Records a problem with it.
    pub(in crate::config) fn fail(&self, message: impl Into<String>, hint: impl Into<Option<String>>) {
        self.cx.fail(Some(&self.at), message, hint);
    }

    /// The choice of this name; `None`, with a problem, if there is none.
    pub(in crate::config) fn choose<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        if let Some(notes) = self.cx.notes().filter(|_| !self.path.is_empty()) {
            let words = choices.iter().map(|(name, _)| (*name).to_owned()).collect();
            notes.take(&self.path, Shape::Choice(words));
        }
        let found = choices.iter().find(|(name, _)| *name == self.value).map(|(_, choice)| *choice);
        if found.is_none() {
            let names = || choices.iter().map(|(name, _)| *name);
            let list = format!("it must be {}", quoted_list(names(), "or"));
            let hint = if self.expanded { list } else { did_you_mean(&self.value, names(), || list) };
            let message = match self.label.strip_prefix("an item of ") {
                Some(key) => format!("{key} {} is not known", self.quoted()),
                None => format!("{} = {} is not known", self.label, self.quoted()),
            };
            self.fail(message, hint);
        }
        found
    }

    /// The value, owned.
    pub(in crate::config) fn boxed(&self) -> Box<str> {
        self.value.as_str().into()
    }
}

/// All of them, owned.
pub(in crate::config) fn boxed(texts: &[Text<'_>]) -> Vec<Box<str>> {
    texts.iter().map(Text::boxed).collect()
}

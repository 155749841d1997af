//! What the readers of all tables share: the file, the environment, and the problems found so far.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use super::error::Problem;
use super::schema::Notes;
use super::source::{Source, Span};

/// Whoever has so many named the wrong file.
const PROBLEMS_MAX: usize = 1000;

/// One run over one configuration.
pub(super) struct Context<'a> {
    file: &'a Path,
    source: Source<'a>,
    env: &'a dyn Fn(&str) -> Option<String>,
    /// Something of the file could not be read as TOML.
    partial: bool,
    problems: RefCell<Vec<Problem>>,
    /// Files that were looked into.
    files: RefCell<Vec<PathBuf>>,
    /// What is read, where somebody wants to know.
    notes: Option<Notes>,
}

impl<'a> Context<'a> {
    pub(super) fn new(
        file: &'a Path,
        text: &'a str,
        env: &'a dyn Fn(&str) -> Option<String>,
        partial: bool,
    ) -> Self {
        Self {
            file,
            source: Source::new(text),
            env,
            partial,
            problems: RefCell::default(),
            files: RefCell::default(),
            notes: None,
        }
    }

    /// Has it noted what is read, and as what.
    pub(super) fn note_all(&mut self) {
        self.notes = Some(Notes::default());
    }

    /// What was read so far.
    pub(super) fn notes(&self) -> Option<&Notes> {
        self.notes.as_ref()
    }

    /// Records that something is wrong, at `at` or with the file as a whole.
    pub(super) fn fail(
        &self,
        at: Option<&Span>,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        let mut problems = self.problems.borrow_mut();
        let (at, message, hint) = match problems.len() + 1 {
            PROBLEMS_MAX => {
                (None, format!("there are {PROBLEMS_MAX} problems or more: not all of them are shown"), None)
            }
            count if count > PROBLEMS_MAX => return,
            _ => (at, message.into(), hint.into()),
        };
        let place = at.map(|span| self.source.place(span));
        problems.push(Problem { file: self.file.display().to_string(), place, message, hint });
    }

    /// Records that something is not there, unless it may be in a part of the file that could not be read.
    pub(super) fn fail_absent(
        &self,
        at: Option<&Span>,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        if !self.partial {
            self.fail(at, message, hint);
        }
    }

    /// An environment variable.
    pub(super) fn env(&self) -> &dyn Fn(&str) -> Option<String> {
        self.env
    }

    /// The text at `span`, as written.
    pub(super) fn written(&self, span: &Span) -> &'a str {
        self.source.slice(span)
    }

    /// The line that `span` begins on, from 1.
    pub(super) fn line(&self, span: &Span) -> usize {
        self.source.line(span.start)
    }

    /// `path`, which is relative to the directory of the configuration file.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path)
    }

    /// Records that what is in this file is part of the configuration.
    pub(super) fn looked_into(&self, path: &Path) {
        let mut files = self.files.borrow_mut();
        if !files.iter().any(|file| file == path) {
            files.push(path.to_owned());
        }
    }

    /// The files that were looked into.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.files.borrow().clone()
    }

    /// All that was recorded.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }
}

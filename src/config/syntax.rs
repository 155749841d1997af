//! TOML text to a tree with spans, going on after a syntax error so that the rest of the file is checked as well.
//!
//! The parser recovers by itself, but one slip can make it drop all that follows or report a trail of errors. So the
//! statements in error are blanked out (their bytes become spaces, all offsets stay) and the text is parsed again,
//! until nothing but doubled keys is left to report.

use std::borrow::Cow;

use toml::de::DeTable;

use super::source::Span;

/// When so many are found, no more are looked for: a run over the file may find a single one.
const ERRORS_MAX: usize = 50;

/// A syntax error.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) span: Span,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// What can be read of a text, and what cannot.
pub(super) struct Recovered {
    /// The text with every statement in error blanked out; parses but for doubled keys. Same length as the original.
    pub(super) text: String,
    /// In no order.
    pub(super) errors: Vec<SyntaxError>,
    /// Something was blanked out, so that what is missing may only be unread.
    pub(super) partial: bool,
}

/// Finds the syntax errors of `text`, at most [`ERRORS_MAX`].
pub(super) fn recover(text: &str) -> Recovered {
    let mut recovered = Recovered { text: text.to_owned(), errors: Vec::new(), partial: false };
    while recovered.errors.len() < ERRORS_MAX {
        let (_, mut errors) = DeTable::parse_recoverable(&recovered.text);
        let statements = statements(&recovered.text);
        if errors.iter().all(is_doubled) {
            recovered.partial |= !errors.is_empty();
            let doubled =
                errors.iter().take(ERRORS_MAX).map(|e| doubled_key(&recovered.text, &statements, e));
            recovered.errors.extend(doubled.collect::<Vec<_>>());
            break;
        }
        errors.retain(|error| !is_doubled(error));
        errors.sort_by_key(start);
        let broken = broken_statements(&recovered.text, &statements, &errors);
        if broken.is_empty() {
            break;
        }
        recovered.partial = true;
        for (index, error) in broken {
            let statement = &statements[index];
            recovered.errors.push(describe(text, statement, error));
            // Without its header a section's keys would fall into the one before: they go with it.
            let next = statements[index + 1..].iter().find(|s| s.header).filter(|_| statement.header);
            let end = match next {
                Some(next) => next.span.start,
                None if statement.header => text.len(),
                None => statement.span.end,
            };
            blank(&mut recovered.text, statement.span.start..end);
        }
    }
    recovered
}

fn start(error: &toml::de::Error) -> usize {
    error.span().map_or(0, |span| span.start)
}

/// Which statements are to blame for `errors`, each with its first one, in order and at most [`ERRORS_MAX`].
///
/// What is not closed swallows the statements after it and brings errors about there: while there is such a statement,
/// no other is blamed.
fn broken_statements<'e>(
    text: &str,
    statements: &[Statement],
    errors: &'e [toml::de::Error],
) -> Vec<(usize, &'e toml::de::Error)> {
    let Some(first) = errors.first() else { return Vec::new() };
    let unclosed = statements.iter().enumerate().filter(|(_, s)| s.unclosed.is_some());
    let mut broken: Vec<_> = unclosed.map(|(index, _)| (index, first)).take(ERRORS_MAX).collect();
    if broken.is_empty() {
        for error in errors {
            let offset = start(error).min(text.len().saturating_sub(1));
            let index = statements.partition_point(|s| s.span.start <= offset).saturating_sub(1);
            if index < statements.len() && broken.last().is_none_or(|(last, _)| *last < index) {
                broken.push((index, error));
            }
        }
        broken.truncate(ERRORS_MAX);
    }
    broken
}

fn is_doubled(error: &toml::de::Error) -> bool {
    error.message() == "duplicate key" || error.message().starts_with("cannot extend value")
}

fn blank(text: &mut String, span: Span) {
    let blanked: String = text[span.clone()]
        .bytes()
        .map(|b| if matches!(b, b'\n' | b'\r') { b as char } else { ' ' })
        .collect();
    text.replace_range(span, &blanked);
}

fn describe(text: &str, statement: &Statement, error: &toml::de::Error) -> SyntaxError {
    let span = error.span().unwrap_or(statement.span.clone());
    if let Some((open, bracket)) = statement.unclosed {
        let close = if bracket == b'[' { ']' } else { '}' };
        let kind = if bracket == b'[' { "array" } else { "inline table" };
        return SyntaxError {
            span: open..open + 1,
            message: format!("this {kind} is not closed"),
            hint: Some(format!("add the missing {:?}", close.to_string())),
        };
    }
    let hint = |hint: &str| Some(hint.to_owned());
    let at_line_end =
        text[span.start.min(text.len())..].trim_start_matches([' ', '\t']).starts_with(['\n', '\r'])
            || span.start >= text.len();
    let (message, hint) = match error.message() {
        m if m.starts_with("string values must be quoted")
            && (span.is_empty() || at_line_end && text[span.clone()].trim().is_empty()) =>
        {
            ("a value is missing after \"=\"".to_owned(), None)
        }
        m if is_bare_value(m)
            && text[span.clone()].trim().contains([' ', '\t'])
            && after(text, &span).starts_with('=') =>
        {
            ("more than one value on a line".to_owned(), hint("write each key on a line of its own"))
        }
        m if is_bare_value(m) => {
            let value = &text[span.clone()];
            let hint_text = match value.to_lowercase().as_str() {
                "yes" | "on" | "true" => "write true",
                "no" | "off" | "false" => "write false",
                _ if value.starts_with(|c: char| c.is_ascii_digit()) => {
                    "write it in double quotes, such as \"10s\" or \"10MiB\""
                }
                _ => "write strings in double quotes",
            };
            ("this value is not a string, a number, true or false".to_owned(), hint(hint_text))
        }
        m if m.contains("multi-line basic string") && span.start >= text.len() => {
            ("a string is not closed".to_owned(), hint("add the missing \"\"\""))
        }
        m if m.contains("multi-line literal string") && span.start >= text.len() => {
            ("a string is not closed".to_owned(), hint("add the missing '''"))
        }
        m if m.starts_with("invalid basic string") && at_line_end => {
            ("a string is not closed".to_owned(), hint("add the missing '\"'"))
        }
        m if m.starts_with("invalid literal string")
            && at_line_end
            && text[..span.start].ends_with(|c| c != ' ') =>
        {
            ("a string is not closed".to_owned(), hint("add the missing \"'\""))
        }
        m if m.starts_with("missing escaped value") => (
            "an unknown escape in a string".to_owned(),
            hint("write \"\\\\\" for a backslash, or put the string in single quotes"),
        ),
        m if m.starts_with("key with no value") => {
            ("a key without a value".to_owned(), hint("write key = value"))
        }
        m if m.starts_with("unclosed table") => {
            ("this table header is not closed".to_owned(), hint("add the missing \"]\""))
        }
        m if m.starts_with("unclosed array table") => {
            ("this table header is not closed".to_owned(), hint("add the missing \"]]\""))
        }
        m if m.starts_with("unexpected key or value, expected newline") => {
            ("more than one value on a line".to_owned(), hint("write each key on a line of its own"))
        }
        m => (format!("not valid TOML: {m}"), None),
    };
    SyntaxError { span, message, hint }
}

/// What the parser says of a value that is neither a string nor a number, true or false.
fn is_bare_value(message: &str) -> bool {
    message.starts_with("string values must be quoted")
        || message.starts_with("invalid float")
        || message.starts_with("invalid boolean")
}

/// The text after `span`, white space left out.
fn after<'a>(text: &'a str, span: &Span) -> &'a str {
    text[span.end..].trim_start_matches([' ', '\t'])
}

/// The second of two keys or table headers of one name.
fn doubled_key(text: &str, statements: &[Statement], error: &toml::de::Error) -> SyntaxError {
    let span = error.span().unwrap_or_default();
    let index = statements.partition_point(|s| s.span.start <= span.start).saturating_sub(1);
    let Some(this) = statements.get(index) else {
        return SyntaxError { span, message: error.message().to_owned(), hint: None };
    };
    let line = |offset: usize| text[..offset].matches('\n').count() + 1;
    let head = this.head(text);
    let sections = || statements[..index].iter().rev();
    let first = if this.header {
        // Only plain tables are doubled by their own name; `[x]` after `[[x]]` is one too.
        statements[..index].iter().find(|s| s.header && bare(s.head(text)) == bare(head))
    } else {
        sections().take_while(|s| !s.header).filter(|s| s.head(text) == head).last()
    };
    let what = if this.header {
        format!(
            "table {}",
            if head.starts_with("[[") { head.to_owned() } else { format!("[{}]", bare(head)) }
        )
    } else {
        format!(
            "key {}",
            super::suggest::quote(text.get(span.clone()).unwrap_or(head).trim_matches(['"', '\'']))
        )
    };
    let at = first.map(|s| format!("it is first given on line {}", line(s.span.start)));
    SyntaxError { span, message: format!("the {what} is given twice"), hint: at }
}

fn bare(head: &str) -> Cow<'_, str> {
    let inner = head.trim_matches(['[', ']', ' ', '\t']);
    if inner.contains([' ', '\t']) {
        Cow::Owned(inner.replace([' ', '\t'], ""))
    } else {
        Cow::Borrowed(inner)
    }
}

/// A table header or `key = value`, with the white space and comments after it.
#[derive(Debug, PartialEq, Eq)]
struct Statement {
    span: Span,
    header: bool,
    /// An array or inline table that another statement or the end of the text broke off: where it opens, and with what.
    unclosed: Option<(usize, u8)>,
}

impl Statement {
    /// The header, or the key.
    fn head<'a>(&self, text: &'a str) -> &'a str {
        let text = &text[self.span.clone()];
        let line = text.lines().next().unwrap_or_default();
        if self.header {
            line.split_once('#').map_or(line, |(head, _)| head).trim()
        } else {
            line.split_once('=').map_or(line, |(key, _)| key).trim()
        }
    }
}

/// Cuts `text` into statements, in order. Every statement begins at the first character of a line that is not blank.
fn statements(text: &str) -> Vec<Statement> {
    let bytes = text.as_bytes();
    let mut list: Vec<Statement> = Vec::new();
    let mut brackets: Vec<(usize, u8)> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let line_end = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |n| at + n);
        let start = at + bytes[at..line_end].iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\r')).count();
        let line = &text[start..line_end];
        let header = begins_header(line);
        let breaks_off = match brackets.last() {
            None => true,
            Some((_, b'[')) => header || begins_key_value(line),
            // The lines of an inline table look like statements themselves.
            Some(_) => header,
        };
        if breaks_off && !line.is_empty() && !line.starts_with('#') {
            let unclosed = brackets.first().copied();
            brackets.clear();
            if let Some(last) = list.last_mut() {
                (last.span.end, last.unclosed) = (at, unclosed);
            }
            let header = header || line.starts_with('[');
            list.push(Statement { span: start..bytes.len(), header, unclosed: None });
            at = if header { line_end + 1 } else { scan(bytes, start, &mut brackets) };
        } else {
            at = scan(bytes, start, &mut brackets);
        }
    }
    if let Some(last) = list.last_mut() {
        last.unclosed = brackets.first().copied();
    }
    list
}

/// Goes to the start of the next line (past the strings of several lines that begin on this one) and keeps count of
/// the brackets that are open.
fn scan(bytes: &[u8], mut at: usize, brackets: &mut Vec<(usize, u8)>) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\n' => return at + 1,
            b'#' => return memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |n| at + n + 1),
            quote @ (b'"' | b'\'') if bytes[at..].starts_with(&[quote; 3]) => {
                let mut end = at + 3;
                while end < bytes.len() && !bytes[end..].starts_with(&[quote; 3]) {
                    end += if quote == b'"' && bytes[end] == b'\\' { 2 } else { 1 };
                }
                at = (end + 3).min(bytes.len());
            }
            quote @ (b'"' | b'\'') => {
                at += 1;
                while at < bytes.len() && bytes[at] != quote && bytes[at] != b'\n' {
                    let escape = quote == b'"' && bytes[at] == b'\\' && bytes.get(at + 1) != Some(&b'\n');
                    at += if escape { 2 } else { 1 };
                }
                if bytes.get(at) == Some(&quote) {
                    at += 1;
                }
            }
            open @ (b'[' | b'{') => {
                brackets.push((at, open));
                at += 1;
            }
            b']' | b'}' => {
                brackets.pop();
                at += 1;
            }
            _ => at += 1,
        }
    }
    bytes.len()
}

/// `[name]` or `[[name]]` alone on its line.
fn begins_header(line: &str) -> bool {
    let line = line.split_once('#').map_or(line, |(line, _)| line).trim_end();
    let name = line.trim_start_matches('[').trim_end_matches(']').trim();
    line.starts_with('[')
        && line.ends_with(']')
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && !matches!(name, "true" | "false" | "inf" | "nan")
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ' '))
}

/// `key =` at the start of a line.
fn begins_key_value(line: &str) -> bool {
    let key = line.chars().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')).count();
    key > 0 && line[key..].trim_start().starts_with('=')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: &[(&str, &str)]) {
        let mut errors = recover(text).errors;
        errors.sort_by_key(|error| error.span.start);
        let found: Vec<_> = errors.iter().map(|e| (&text[e.span.clone()], e.message.as_str())).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn each_broken_statement_is_one_error() {
        check(
            "[server]\nlisten \"x\"\nworkers = \n[admin]\nlisten = abc\n",
            &[
                ("", "a key without a value"),
                ("", "a value is missing after \"=\""),
                ("abc", "this value is not a string, a number, true or false"),
            ],
        );
        check(
            "a = 'x' b = 2\nc = \"x\nd = '''\n",
            &[
                ("", "more than one value on a line"),
                ("", "a string is not closed"),
                ("", "a string is not closed"),
            ],
        );
    }

    #[test]
    fn an_array_that_is_not_closed_is_reported_where_it_opens() {
        check(
            "[server]\nlisten = [\"a\",\nworkers = 1\n[admin]\nlisten = \"q\n",
            &[("[", "this array is not closed"), ("", "a string is not closed")],
        );
        check(
            "a = { b = 1,\n[x]\nc = [1, 2\n",
            &[("{", "this inline table is not closed"), ("[", "this array is not closed")],
        );
    }

    #[test]
    fn the_keys_of_a_broken_header_fall_into_no_other_table() {
        let recovered = recover("[server]\nworkers = 1\n[admin\nlisten = \"x\"\n[auth]\nsignup = true\n");
        assert_eq!(recovered.errors.len(), 1);
        assert_eq!(recovered.text.replace(' ', ""), "[server]\nworkers=1\n\n\n[auth]\nsignup=true\n");
    }

    #[test]
    fn a_doubled_key_names_the_line_of_the_first() {
        let recovered = recover("[a]\nx = 1\ny = 2\nx = 3\n[b]\nx = 1\n[a]\nz = 1\n");
        let hints: Vec<_> =
            recovered.errors.iter().map(|e| (e.message.as_str(), e.hint.as_deref())).collect();
        assert_eq!(
            hints,
            [
                ("the key \"x\" is given twice", Some("it is first given on line 2")),
                ("the table [a] is given twice", Some("it is first given on line 1")),
            ]
        );
    }

    #[test]
    fn arrays_and_inline_tables_may_span_lines() {
        let text =
            "a = [\n  \"x\", # one = two\n  { b = 1 },\n]\nc = {\n  d = 1,\n}\ne = \"\"\"\nf = \n\"\"\"\n";
        check(text, &[]);
        assert_eq!(statements(text).len(), 3);
    }

    proptest! {
        #[test]
        fn nothing_panics_and_no_offset_moves(text in "([\\[\\]{}=\"'#\\\\,\n a.é]|a = 1\n|\\[a\\]\n|\\[\\[b\\]\\]\n|x = \\[|'''|\"\"\"){0,40}") {
            let recovered = recover(&text);
            prop_assert_eq!(recovered.text.len(), text.len());
            for error in &recovered.errors {
                prop_assert!(text.get(error.span.clone()).is_some(), "{:?}", error);
            }
        }
    }
}

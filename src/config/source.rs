//! The text of a configuration file: which line and column an offset is, and how a line may be shown.

use std::ops::Range;

use super::error::Place;

/// A range of byte offsets.
pub(super) type Span = Range<usize>;

/// Longest excerpt, in characters: two terminals of 80 less the gutter.
const EXCERPT_CHARS_MAX: usize = 150;

/// Longer lines are not shown: no setting needs one.
const LINE_BYTES_MAX: usize = 16 << 10;

/// The text, and where its lines begin.
#[derive(Debug)]
pub(super) struct Source<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Source<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let starts = std::iter::once(0).chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1));
        Self { text, starts: starts.collect() }
    }

    /// What stands at `span`; empty for one that is not in the text.
    pub(super) fn slice(&self, span: &Span) -> &'a str {
        self.text.get(span.clone()).unwrap_or_default()
    }

    /// The line of `offset`, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|&start| start <= offset).max(1)
    }

    /// Where `span` is, and its first line with carets under what of the span is on it.
    pub(super) fn place(&self, span: &Span) -> Place {
        let line = self.line(span.start);
        let start = self.starts[line - 1];
        let end = self.starts.get(line).map_or(self.text.len(), |next| next - 1);
        let text = self.text[start..end].trim_end_matches('\r');
        let chars_to = |offset: usize| {
            let offset = offset.saturating_sub(start).min(text.len());
            text.char_indices().take_while(|(at, _)| *at < offset).count()
        };
        let (from, to) = (chars_to(span.start), chars_to(span.end));
        if text.len() > LINE_BYTES_MAX {
            return Place { line, column: from + 1, excerpt: "…".to_owned(), indent: 0, carets: 1 };
        }
        let shown: Vec<char> = masked(text).chars().map(printable).collect();
        // Two characters more than fit before the place, so that one sees what it belongs to.
        let skip = if to <= EXCERPT_CHARS_MAX { 0 } else { from.saturating_sub(40) };
        let mut excerpt: String = shown.iter().skip(skip).take(EXCERPT_CHARS_MAX).collect();
        if skip + EXCERPT_CHARS_MAX < shown.len() {
            excerpt.push('…');
        }
        let mut indent = from - skip;
        if skip > 0 {
            excerpt.insert_str(0, "… ");
            indent += 2;
        }
        let carets = to.saturating_sub(from).clamp(1, EXCERPT_CHARS_MAX);
        Place { line, column: from + 1, excerpt, indent, carets }
    }
}

/// A character that keeps the carets in place and does nothing to the terminal.
fn printable(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        // Bidirectional controls reorder what is shown (CVE-2021-42574).
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => '\u{fffd}',
        c => c,
    }
}

/// `line` with the same number of characters and no secret: the password of a URL, and every string that stands
/// after a key that is named like a secret (`secret`, `client_secret`, `password`, but not `secret_file`).
fn masked(line: &str) -> String {
    let mut chars: Vec<char> = line.chars().collect();
    let mut at = 0;
    while at < chars.len() {
        let quote = chars[at];
        let (start, end, after) = if matches!(quote, '"' | '\'') {
            let end = (at + 1..chars.len()).find(|&i| chars[i] == quote).unwrap_or(chars.len());
            // A string is a key only if a value is given to it.
            let next = chars.iter().skip(end + 1).find(|c| !c.is_whitespace());
            let key = next == Some(&'=');
            (if key { at + 1 } else { end }, end, end + 1)
        } else {
            let end = (at..chars.len()).find(|&i| !is_word(chars[i])).unwrap_or(chars.len());
            (at, end, end.max(at + 1))
        };
        let word: String = chars[start..end].iter().collect();
        let first = chars[..start].iter().all(|c| matches!(c, ' ' | '\t' | '"' | '\''));
        if names_a_secret(&word, first) {
            mask_values(&mut chars, end);
            break;
        }
        at = after;
    }
    mask_url_passwords(&mut chars);
    chars.into_iter().collect()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-')
}

fn names_a_secret(word: &str, first: bool) -> bool {
    const PARTS: [&str; 8] =
        ["secret", "passw", "passphrase", "private", "api_key", "apikey", "authorization", "cookie"];
    let word = word.to_lowercase().replace('-', "_");
    let safe = ["_file", "_hashes", "allow_short_secret", "forward_authorization"];
    let token = word.ends_with("_token") || first && word == "token";
    (token || PARTS.iter().any(|part| word.contains(part))) && !safe.iter().any(|end| word.ends_with(end))
}

/// Masks what comes after the first `=` or `:` from `from` on, but for spaces and a trailing comment's place.
fn mask_values(chars: &mut [char], from: usize) {
    let Some(equals) = (from..chars.len()).find(|&i| matches!(chars[i], '=' | ':')) else {
        // No value that we know the place of (`secret "abc"` is a syntax error): everything goes.
        let in_word = chars[from..].iter().any(|c| matches!(c, '"' | '\''));
        chars[from..].iter_mut().filter(|c| in_word && !c.is_whitespace()).for_each(|c| *c = '*');
        return;
    };
    let bare = chars[equals + 1..].iter().find(|c| !c.is_whitespace()).copied();
    if matches!(bare, Some('{')) {
        // A table such as `password = { min_length = 8 }` of [auth] holds no secret by itself.
        return;
    }
    for c in &mut chars[equals + 1..] {
        if !c.is_whitespace() && !matches!(c, '"' | '\'' | '[' | ']' | '{' | '}' | ',') {
            *c = '*';
        }
    }
}

/// `scheme://user:password@host`: the password.
fn mask_url_passwords(chars: &mut [char]) {
    let mut at = 0;
    while at + 2 < chars.len() {
        if chars[at..at + 3] != [':', '/', '/'] {
            at += 1;
            continue;
        }
        let start = at + 3;
        let end = (start..chars.len())
            .find(|&i| matches!(chars[i], '"' | '\'' | ' ' | '\t'))
            .unwrap_or(chars.len());
        // The last `@`: a password may hold one that somebody forgot to encode.
        let user_info = (start..end).rev().find(|&i| chars[i] == '@');
        let colon = user_info.and_then(|sign| (start..sign).find(|&i| chars[i] == ':'));
        if let (Some(sign), Some(colon)) = (user_info, colon) {
            chars[colon + 1..sign].fill('*');
        }
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, needle: &str, line: usize, column: usize, excerpt: &str, under: &str) {
        let start = text.find(needle).unwrap();
        let place = Source::new(text).place(&(start..start + needle.len()));
        assert_eq!((place.line, place.column, place.excerpt.as_str()), (line, column, excerpt));
        let carets: String = place.excerpt.chars().skip(place.indent).take(place.carets).collect();
        assert_eq!(carets, under);
    }

    #[test]
    fn columns_count_characters_from_one() {
        check("a = 1\nnäme = \"ö\" # x", "\"ö\"", 2, 8, "näme = \"ö\" # x", "\"ö\"");
        check("a = 1", "a", 1, 1, "a = 1", "a");
    }

    #[test]
    fn a_tab_is_one_column_and_keeps_the_carets_in_place() {
        check("\tkey\t= 1", "1", 1, 8, " key = 1", "1");
    }

    #[test]
    fn a_carriage_return_is_no_part_of_the_line() {
        check("a = 1\r\nb = 2\r\n", "b = 2\r\n", 2, 1, "b = 2", "b = 2");
    }

    #[test]
    fn a_span_of_several_lines_is_marked_on_its_first() {
        check("a = [\n 1,\n]\n", "[\n 1,\n]", 1, 5, "a = [", "[");
    }

    #[test]
    fn a_place_at_the_end_of_the_text_still_has_a_caret() {
        let place = Source::new("a =").place(&(3..3));
        assert_eq!((place.line, place.column, place.indent, place.carets), (1, 4, 3, 1));
        let place = Source::new("a =\n").place(&(4..9));
        assert_eq!((place.line, place.column, place.excerpt.as_str()), (2, 1, ""));
    }

    #[test]
    fn a_long_line_is_clipped_around_the_place() {
        let text = format!("a = [{}\"needle\", {}]", "\"x\", ".repeat(100), "\"y\", ".repeat(100));
        let start = text.find("\"needle\"").unwrap();
        let place = Source::new(&text).place(&(start..start + 8));
        let carets: String = place.excerpt.chars().skip(place.indent).take(place.carets).collect();
        assert_eq!(carets, "\"needle\"");
        assert!(place.excerpt.starts_with("… ") && place.excerpt.ends_with('…'));
        assert!(place.excerpt.chars().count() < 160);
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        check("a = '\u{1b}[31m\u{202e}'", "a", 1, 1, "a = '\u{fffd}[31m\u{fffd}'", "a");
    }

    #[test]
    fn secrets_in_a_line_are_masked() {
        let check = |line: &str, expected: &str| assert_eq!(masked(line), expected);
        check(r#"secret = "hunter2""#, r#"secret = "*******""#);
        check(r#"  client-secret = 'a b'"#, r#"  client-secret = '* *'"#);
        check(r#"x = { url = "a", client_secret = "b" }"#, r#"x = { url = "a", client_secret = "*" }"#);
        check(r#"secret "hunter2"#, r#"secret ********"#);
        check(r#"token = "abc""#, r#"token = "***""#);
        check(r#"url = "postgres://u:p@ss@db/x""#, r#"url = "postgres://u:****@db/x""#);
        check(r#"secret_file = "secrets/a""#, r#"secret_file = "secrets/a""#);
        check(r#""client_secret" = "a""#, r#""client_secret" = "*""#);
        check("allow_short_secret = true", "allow_short_secret = true");
        check("[auth.password]", "[auth.password]");
        check(r#"password = { min_lenght = 8 }"#, r#"password = { min_lenght = 8 }"#);
        check(r#"identity_headers = { token = "x" }"#, r#"identity_headers = { token = "x" }"#);
    }
}

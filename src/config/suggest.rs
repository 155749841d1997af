//! The nearest valid word to a misspelt one, and lists in words.

/// The candidate that `word` was most likely meant to be, if one is near enough.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace(['-', ' '], "_");
    let word = plain(word);
    // A third of the word may be wrong, of a short one a single letter.
    let allowed = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Singular for plural and a word that was cut short count as one slip.
fn distance(word: &str, candidate: &str) -> usize {
    let cut = word.len() >= 4
        && (candidate.starts_with(word) || word.starts_with(candidate) && candidate.len() >= 4);
    let edits = strsim::osa_distance(word, candidate);
    if cut { edits.min(1) } else { edits }
}

/// `did you mean "x"?`, or `otherwise`.
pub(super) fn did_you_mean<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    otherwise: impl FnOnce() -> String,
) -> String {
    nearest(word, candidates).map_or_else(otherwise, |near| format!("did you mean {near:?}?"))
}

/// `a`, `a and b`, `a, b and c`; each quoted. Long lists end in "…".
pub(super) fn quoted_list<'a>(words: impl IntoIterator<Item = &'a str>, last: &str) -> String {
    const MOST: usize = 12;
    let mut words: Vec<String> = words.into_iter().map(quote).collect();
    if words.len() > MOST {
        words.truncate(MOST);
        return format!("{}, …", words.join(", "));
    }
    match words.pop() {
        None => String::new(),
        Some(only) if words.is_empty() => only,
        Some(end) => format!("{} {last} {end}", words.join(", ")),
    }
}

/// In double quotes, control characters escaped, clipped to a readable length.
pub(super) fn quote(text: &str) -> String {
    const MOST: usize = 64;
    match text.char_indices().nth(MOST) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let keys = ["listen", "workers", "header_read_timeout", "max_body", "idle_timeout"];
        let check = |word: &str, expected: Option<&str>| assert_eq!(nearest(word, keys), expected, "{word}");
        check("lisen", Some("listen"));
        check("Listen", Some("listen"));
        check("max-body", Some("max_body"));
        check("maxbody", Some("max_body"));
        check("header_read", Some("header_read_timeout"));
        check("worker", Some("workers"));
        check("colour", None);
        check("x", None);
        check("", None);
    }

    #[test]
    fn lists_read_as_words() {
        assert_eq!(quoted_list(["a"], "or"), r#""a""#);
        assert_eq!(quoted_list(["a", "b", "c"], "or"), r#""a", "b" or "c""#);
        assert_eq!(quote(&"x".repeat(70)), format!("\"{}\"…", "x".repeat(64)));
    }
}

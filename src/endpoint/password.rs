//! What a password must be like.

use std::collections::HashSet;
use std::sync::LazyLock;

use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

use super::fields::{Fields, bad};
use super::settings::Password;
use crate::answer::Problem;

/// After NFC: enough for any phrase, and a bound on what is hashed.
const PASSWORD_BYTES_MAX: usize = 1024;

/// The worst passwords that people choose, one a line, lower case.
static COMMON: LazyLock<HashSet<&str>> =
    LazyLock::new(|| include_str!("common_passwords.txt").lines().collect());

/// The password in this member, in NFC, so that it is the same on every keyboard (RFC 8265 §4.2 OpaqueString, which
/// also refuses control characters).
///
/// # Errors
/// 400 when it is missing, no string, too long, or has control characters.
pub(super) fn password(fields: &Fields, name: &str) -> Result<Zeroizing<String>, Problem> {
    // Bounded by the body; what counts is the length after NFC.
    let text = fields.required(name, usize::MAX)?;
    usable(text).ok_or_else(|| bad(format!("'{name}' must have at most {PASSWORD_BYTES_MAX} bytes")))
}

/// A password in NFC; `None` for one that nobody can have: too long, or with control characters.
pub(super) fn usable(text: &str) -> Option<Zeroizing<String>> {
    let normal = Zeroizing::new(text.nfc().collect::<String>());
    (normal.len() <= PASSWORD_BYTES_MAX && !normal.contains(char::is_control)).then_some(normal)
}

/// Whether a new password, in NFC, is good enough.
///
/// # Errors
/// 400 with the whole rule in words.
pub(super) fn check(password: &str, rule: &Password) -> Result<(), Problem> {
    let has = |what: fn(char) -> bool| password.chars().any(what);
    let good = password.chars().count() >= rule.min_length
        && (!rule.require_digit || has(char::is_numeric))
        && (!rule.require_symbol || has(|c| !c.is_alphanumeric()));
    if !good {
        return Err(bad(in_words(rule)));
    }
    if rule.deny_common && COMMON.contains(&*password.to_lowercase()) {
        return Err(bad("The password is one of the most common ones; choose another"));
    }
    Ok(())
}

fn in_words(rule: &Password) -> String {
    let needs = [(rule.require_digit, "one digit"), (rule.require_symbol, "one symbol")];
    let needs: Vec<_> = needs.iter().filter(|(needed, _)| *needed).map(|(_, words)| *words).collect();
    let length = format!("The password must have at least {} characters", rule.min_length);
    match needs[..] {
        [] => length,
        _ => format!("{length}, with at least {}", needs.join(" and ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::support;
    use super::*;

    fn check_words(password: &str, expected: &str) {
        let words =
            check(password, &support::settings().password).map_err(|problem| problem.detail().to_owned());
        assert_eq!(words.err().unwrap_or_default(), expected, "{password}");
    }

    #[test]
    fn the_rule_is_told_in_words() {
        let rule = "The password must have at least 8 characters, with at least one digit and one symbol";
        for short in ["", "a1!", "abcdefgh", "abcdefg1", "abcdefg!", "äöüßäö1"] {
            check_words(short, rule);
        }
        check_words("äöüßäö1!", "");
        check_words("correct horse 1", "");
    }

    #[test]
    fn the_worst_are_refused_in_any_case() {
        let common = "The password is one of the most common ones; choose another";
        check_words("P@ssw0rd", common);
        check_words("password1!", common);
        check_words("Admin@123", common);
    }

    #[test]
    fn the_list_is_long_and_clean() {
        assert!(COMMON.len() >= 1000, "{}", COMMON.len());
        assert_eq!(COMMON.len(), include_str!("common_passwords.txt").lines().count(), "no line twice");
        assert!(COMMON.iter().all(|word| word.to_lowercase() == *word && !word.is_empty()));
    }
}

//! Durations, sizes and `${NAME}`: what strings of `gateway.toml` mean. Pure.

use std::time::Duration;

/// Longest duration taken: ten years. Larger ones are slips of the pen.
const DURATION_MAX: Duration = Duration::from_secs(3650 * 86400);

/// Reads `"250ms"`, `"10s"`, `"15m"`, `"4h"`, `"30d"`.
///
/// # Errors
/// What is wrong, fit to stand after the quoted text, and what to do.
pub(super) fn duration(text: &str) -> Result<Duration, (String, String)> {
    const HOW: &str =
        "durations are a whole number with ms, s, m, h or d, such as \"250ms\", \"10s\" or \"15m\"";
    let (number, unit) = split(text, HOW, "duration")?;
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" => return Err(("has no unit".to_owned(), format!("write \"{number}s\" or \"{number}ms\""))),
        unit => return Err((format!("has the unknown unit {unit:?}"), HOW.to_owned())),
    };
    number
        .checked_mul(millis)
        .map(Duration::from_millis)
        .filter(|duration| *duration <= DURATION_MAX)
        .ok_or_else(|| ("is too long".to_owned(), "at most \"3650d\" is taken".to_owned()))
}

/// Reads `"512B"`, `"32KiB"`, `"10MiB"`, `"1GiB"` into bytes.
///
/// # Errors
/// What is wrong, fit to stand after the quoted text, and what to do.
pub(super) fn size(text: &str) -> Result<u64, (String, String)> {
    const HOW: &str = "sizes are a whole number with B, KiB, MiB or GiB, such as \"32KiB\" or \"10MiB\"";
    let (number, unit) = split(text, HOW, "size")?;
    let bytes: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "" => {
            return Err((
                "has no unit".to_owned(),
                format!("write \"{number}B\", \"{number}KiB\" or \"{number}MiB\""),
            ));
        }
        unit => {
            let near = ["KiB", "MiB", "GiB"]
                .into_iter()
                .find(|known| known[..1].eq_ignore_ascii_case(&unit[..1.min(unit.len())]));
            let hint = near.map_or_else(|| HOW.to_owned(), |near| format!("write \"{number}{near}\""));
            return Err((format!("has the unknown unit {unit:?}"), hint));
        }
    };
    number
        .checked_mul(bytes)
        .filter(|bytes| i64::try_from(*bytes).is_ok())
        .ok_or_else(|| ("is too large".to_owned(), "at most \"8589934591GiB\" is taken".to_owned()))
}

fn split<'a>(text: &'a str, how: &str, kind: &str) -> Result<(u64, &'a str), (String, String)> {
    let hint = || how.to_owned();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if unit.starts_with(['.', ',']) {
        return Err(("is a fraction".to_owned(), format!("write a whole number of a smaller unit; {how}")));
    }
    if text.starts_with('-') {
        return Err(("is negative".to_owned(), hint()));
    }
    if digits == 0 || !unit.bytes().all(|b| b.is_ascii_alphabetic()) {
        return Err((format!("is not a {kind}"), hint()));
    }
    let number = number.parse().map_err(|_| (format!("is too large for a {kind}"), hint()))?;
    Ok((number, unit))
}

/// Why a `${NAME}` could not be filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ExpandError {
    /// The variable is not set.
    Unset(String),
    /// `${` without a `}`, an empty or impossible name, or a `$` alone; the offending part.
    Malformed(String),
}

/// Fills in `${NAME}` from `env` and makes `$$` a `$`, once: what a variable holds is not looked at again.
///
/// # Errors
/// Every variable that is not set and everything malformed, in order.
pub(super) fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, Vec<ExpandError>> {
    let (mut out, mut errors, mut rest) = (String::with_capacity(text.len()), Vec::new(), text);
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            rest = after;
            match env(name) {
                _ if !is_variable(name) => errors.push(ExpandError::Malformed(format!("${{{name}}}"))),
                Some(value) => out.push_str(&value),
                None => errors.push(ExpandError::Unset(name.to_owned())),
            }
        } else {
            errors.push(ExpandError::Malformed(if rest.starts_with('{') { "${" } else { "$" }.to_owned()));
        }
    }
    out.push_str(rest);
    if errors.is_empty() { Ok(out) } else { Err(errors) }
}

fn is_variable(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_have_five_units() {
        let check =
            |text: &str, millis: u64| assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        check("250ms", 250);
        check("10s", 10_000);
        check("15m", 900_000);
        check("4h", 14_400_000);
        check("30d", 2_592_000_000);
        check("0s", 0);
        check("3650d", 315_360_000_000);
    }

    #[test]
    fn refuses_what_is_no_duration() {
        let check =
            |text: &str, expected: &str| assert_eq!(duration(text).unwrap_err().0, expected, "{text}");
        check("", "is not a duration");
        check("s", "is not a duration");
        check(" 1s", "is not a duration");
        check("1 s", "is not a duration");
        check("1h30m", "is not a duration");
        check("10", "has no unit");
        check("10sec", "has the unknown unit \"sec\"");
        check("10S", "has the unknown unit \"S\"");
        check("1.5s", "is a fraction");
        check("-1s", "is negative");
        check("3651d", "is too long");
        check("99999999999999999999s", "is too large for a duration");
        check("18446744073709551615d", "is too long");
    }

    #[test]
    fn sizes_have_four_units() {
        let check = |text: &str, bytes: u64| assert_eq!(size(text), Ok(bytes), "{text}");
        check("512B", 512);
        check("32KiB", 32 << 10);
        check("10MiB", 10 << 20);
        check("2GiB", 2 << 30);
        let refuse = |text: &str, hint: &str| assert_eq!(size(text).unwrap_err().1, hint, "{text}");
        refuse("10MB", "write \"10MiB\"");
        refuse("10k", "write \"10KiB\"");
        refuse("8589934592GiB", "at most \"8589934591GiB\" is taken");
        assert_eq!(size("é").unwrap_err().0, "is not a size");
    }

    #[test]
    fn a_variable_is_filled_in_once() {
        let env = |name: &str| match name {
            "A" => Some("${B}$$".to_owned()),
            "B" => Some("never".to_owned()),
            _ => None,
        };
        assert_eq!(expand("x${A}y$$z$${B}", &env), Ok("x${B}$$y$z${B}".to_owned()));
        assert_eq!(
            expand("${C} $x ${ ${1} ${", &env),
            Err(vec![
                ExpandError::Unset("C".to_owned()),
                ExpandError::Malformed("$".to_owned()),
                ExpandError::Malformed("${ ${1}".to_owned()),
                ExpandError::Malformed("${".to_owned()),
            ])
        );
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,24}") {
            let _ = (duration(&text), size(&text), expand(&text, &|_| None));
        }

        #[test]
        fn doubling_every_dollar_gives_the_text_back(text in "[a${}A]{0,24}") {
            prop_assert_eq!(expand(&text.replace('$', "$$"), &|_| None), Ok(text));
        }
    }
}

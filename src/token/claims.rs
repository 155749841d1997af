//! Claims read by type and form (RFC 7519 §4.1, CONTRACT §1): what is there must be what it should be.

use serde_json::Value;

use super::VerifyError;
use super::json::{Member, Members};
use crate::clock::UnixTime;

/// The most bytes of `sub`.
pub const SUBJECT_BYTES_MAX: usize = 1024;
/// The most bytes of any other name that can be revoked by.
pub const NAME_BYTES_MAX: usize = 255;

/// 9999-12-31T23:59:59Z. Beyond, something else than seconds was meant (milliseconds, usually).
const DATE_MAX: u64 = 253_402_300_799;

/// A claim that must be a string when it is there.
pub(super) fn text<'a>(claims: &'a impl Members, name: &str) -> Result<Option<&'a str>, VerifyError> {
    match claims.member(name) {
        None => Ok(None),
        Some(Member::Text(text)) => Ok(Some(text)),
        Some(Member::Other(_)) => Err(VerifyError::claim_type(name)),
    }
}

/// A NumericDate (RFC 7519 §2), which may have a fraction; to the millisecond.
pub(super) fn date(claims: &impl Members, name: &str) -> Result<Option<UnixTime>, VerifyError> {
    let Some(member) = claims.member(name) else { return Ok(None) };
    member.other().and_then(numeric_date).map(Some).ok_or_else(|| VerifyError::claim_type(name))
}

/// `None` for what is no number, negative, or after the year 9999.
pub(super) fn numeric_date(value: &Value) -> Option<UnixTime> {
    if let Some(seconds) = value.as_u64() {
        return (seconds <= DATE_MAX).then(|| UnixTime::from_secs(seconds));
    }
    let seconds = value.as_f64()?;
    // Exact: a double holds every millisecond up to DATE_MAX.
    (0.0..=DATE_MAX as f64)
        .contains(&seconds)
        .then(|| UnixTime::from_millis((seconds * 1000.0).round() as u64))
}

/// The first of `names` that is there, as a name that can be revoked by.
pub(super) fn usable_name(
    claims: &impl Members,
    names: &[Box<str>],
    bytes_max: usize,
) -> Result<Option<Box<str>>, VerifyError> {
    for name in names {
        if let Some(text) = text(claims, name)? {
            return usable(text, bytes_max)
                .map(|text| Some(text.into()))
                .ok_or_else(|| VerifyError::name(name));
        }
    }
    Ok(None)
}

/// What is there under any of `names`, in their order, each value once.
pub(super) fn usable_names(
    claims: &impl Members,
    names: &[Box<str>],
    bytes_max: usize,
) -> Result<Vec<Box<str>>, VerifyError> {
    let mut found: Vec<Box<str>> = Vec::new();
    for name in names {
        let value = usable_name(claims, std::slice::from_ref(name), bytes_max)?;
        found.extend(value.filter(|value| !found.contains(value)));
    }
    Ok(found)
}

/// `text`, unless it is empty, longer than `bytes_max` or has control characters.
pub(super) fn usable(text: &str, bytes_max: usize) -> Option<&str> {
    let good = !text.is_empty() && text.len() <= bytes_max && !text.chars().any(char::is_control);
    good.then_some(text)
}

/// That every value of a claim that can be revoked by has one spelling: a usable string, a boolean, an integer that
/// is kept exactly, or an array of those. Another number has several spellings (`1.0`, `1e0`, digits that a double
/// loses), so a revocation might miss it. `null` counts as absent.
pub(super) fn revocable(claims: &impl Members, name: &str) -> Result<(), VerifyError> {
    let one = |member: Member<'_>| match member {
        Member::Text(text) => usable(text, NAME_BYTES_MAX).is_some(),
        Member::Other(Value::Number(number)) => number.is_u64() || number.is_i64(),
        Member::Other(Value::Bool(_)) => true,
        Member::Other(_) => false,
    };
    let good = match claims.member(name) {
        None | Some(Member::Other(Value::Null)) => true,
        Some(Member::Other(Value::Array(values))) => values.iter().map(Member::from).all(one),
        Some(member) => one(member),
    };
    if good { Ok(()) } else { Err(VerifyError::name(name)) }
}

/// `aud`: a string or an array of strings (RFC 7519 §4.1.3). With `wanted`, one of them must be in it.
pub(super) fn audience(claims: &impl Members, wanted: &[Box<str>]) -> Result<(), VerifyError> {
    let is_wanted = |text: &str| wanted.iter().any(|wanted| **wanted == *text);
    let good = match claims.member("aud") {
        None => false,
        Some(Member::Text(text)) => is_wanted(text),
        Some(Member::Other(Value::Array(values))) => {
            let texts: Option<Vec<&str>> = values.iter().map(Value::as_str).collect();
            texts.ok_or_else(|| VerifyError::claim_type("aud"))?.into_iter().any(is_wanted)
        }
        Some(_) => return Err(VerifyError::claim_type("aud")),
    };
    if good || wanted.is_empty() { Ok(()) } else { Err(VerifyError::Audience) }
}

/// The first of `names` that is there, as scopes in order: a string of words (RFC 8693 §4.2) or an array of strings.
pub(super) fn scopes(claims: &impl Members, names: &[Box<str>]) -> Result<Box<[Box<str>]>, VerifyError> {
    let Some((name, member)) = names.iter().find_map(|name| claims.member(name).map(|member| (name, member)))
    else {
        return Ok(Box::default());
    };
    match member {
        Member::Text(words) => {
            Some(words.split(' ').filter(|word| !word.is_empty()).map(Into::into).collect())
        }
        Member::Other(Value::Array(values)) => {
            values.iter().map(|value| value.as_str().map(Into::into)).collect()
        }
        Member::Other(_) => None,
    }
    .ok_or_else(|| VerifyError::claim_type(name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Claims;
    use super::*;

    fn claims(value: Value) -> Claims {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_numeric_date_is_a_number_of_seconds_between_1970_and_9999() {
        let read = |value: Value| numeric_date(&value).map(UnixTime::millis);
        assert_eq!(read(json!(0)), Some(0));
        assert_eq!(read(json!(1_700_000_000)), Some(1_700_000_000_000));
        assert_eq!(read(json!(1_700_000_000.25)), Some(1_700_000_000_250));
        assert_eq!(read(json!(1.7e9)), Some(1_700_000_000_000));
        assert_eq!(read(json!(253_402_300_799_u64)), Some(253_402_300_799_000));
        let bad = [
            json!(-1),
            json!(-0.5),
            json!(253_402_300_800_u64),
            json!(1e300),
            json!(u64::MAX),
            json!("1"),
            json!(null),
            json!(true),
            json!([1]),
            json!({}),
        ];
        for value in bad {
            assert_eq!(read(value.clone()), None, "{value}");
        }
    }

    #[test]
    fn a_name_that_cannot_be_revoked_by_is_refused() {
        let names = ["sid".into()];
        let check = |value: Value| usable_name(&claims(json!({ "sid": value })), &names, 255);
        assert_eq!(check(json!("s")), Ok(Some("s".into())));
        assert_eq!(check(json!("ü".repeat(127))), Ok(Some("ü".repeat(127).into())));
        for bad in ["", "a\nb", "a\u{0}", "\u{7f}", "\u{85}", &"a".repeat(256), &"ü".repeat(128)] {
            assert_eq!(check(json!(bad)), Err(VerifyError::name("sid")), "{bad:?}");
        }
        for bad in [json!(1), json!(null), json!(["s"]), json!({}), json!(true)] {
            assert_eq!(check(bad.clone()), Err(VerifyError::claim_type("sid")), "{bad}");
        }
        assert_eq!(usable_name(&claims(json!({})), &names, 255), Ok(None));
    }

    #[test]
    fn the_first_name_of_a_list_that_is_there_counts() {
        let names = ["client_id".into(), "azp".into()];
        let read = |value| usable_name(&claims(value), &names, 255).unwrap();
        assert_eq!(read(json!({ "azp": "b" })).as_deref(), Some("b"));
        assert_eq!(read(json!({ "azp": "b", "client_id": "a" })).as_deref(), Some("a"));
    }

    #[test]
    fn every_name_of_a_list_that_is_there_is_read_and_must_be_usable() {
        let names = ["client_id".into(), "azp".into()];
        let read = |value| usable_names(&claims(value), &names, 255).map(|found| found.join("|"));
        assert_eq!(read(json!({ "azp": "b", "client_id": "a" })), Ok("a|b".to_owned()));
        assert_eq!(read(json!({ "azp": "a", "client_id": "a" })), Ok("a".to_owned()));
        assert_eq!(read(json!({ "azp": "b" })), Ok("b".to_owned()));
        assert_eq!(read(json!({})), Ok(String::new()));
        assert_eq!(read(json!({ "client_id": "a", "azp": "" })), Err(VerifyError::name("azp")));
    }

    #[test]
    fn a_listed_claim_needs_values_of_one_spelling() {
        let check = |text: &str| revocable(&super::super::json_object(text.as_bytes()).unwrap(), "t");
        for good in [
            r#"{}"#,
            r#"{"t":null}"#,
            r#"{"t":"a"}"#,
            r#"{"t":-5}"#,
            r#"{"t":18446744073709551615}"#,
            r#"{"t":true}"#,
            r#"{"t":[]}"#,
            r#"{"t":["a",1,false]}"#,
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            r#"{"t":""}"#,
            r#"{"t":1.0}"#,
            r#"{"t":1e3}"#,
            r#"{"t":18446744073709551616}"#,
            r#"{"t":-0}"#,
            r#"{"t":{}}"#,
            r#"{"t":[["a"]]}"#,
            r#"{"t":["a",""]}"#,
            r#"{"t":[null]}"#,
            r#"{"t":"a\u0000"}"#,
        ] {
            assert_eq!(check(bad), Err(VerifyError::name("t")), "{bad}");
        }
    }

    #[test]
    fn an_audience_is_a_string_or_an_array_of_strings() {
        let check = |value: Value, wanted: &[&str]| {
            let wanted: Vec<Box<str>> = wanted.iter().map(|&one| one.into()).collect();
            audience(&claims(value), &wanted)
        };
        assert_eq!(check(json!({ "aud": "api" }), &["x", "api"]), Ok(()));
        assert_eq!(check(json!({ "aud": ["a", "api"] }), &["api"]), Ok(()));
        assert_eq!(check(json!({}), &[]), Ok(()));
        assert_eq!(check(json!({ "aud": "any" }), &[]), Ok(()));
        for bad in [json!({}), json!({ "aud": "API" }), json!({ "aud": [] }), json!({ "aud": "api x" })] {
            assert_eq!(check(bad.clone(), &["api"]), Err(VerifyError::Audience), "{bad}");
        }
        for bad in
            [json!({ "aud": 1 }), json!({ "aud": ["api", 1] }), json!({ "aud": null }), json!({ "aud": {} })]
        {
            assert_eq!(check(bad.clone(), &[]), Err(VerifyError::claim_type("aud")), "{bad}");
            assert_eq!(check(bad.clone(), &["api"]), Err(VerifyError::claim_type("aud")), "{bad}");
        }
    }

    #[test]
    fn scopes_are_words_or_an_array_of_strings() {
        let names = ["scope".into(), "scp".into()];
        let read = |value| scopes(&claims(value), &names).map(|list| list.join("|"));
        assert_eq!(read(json!({ "scope": "a  b c " })), Ok("a|b|c".to_owned()));
        assert_eq!(read(json!({ "scp": ["a", "b c"] })), Ok("a|b c".to_owned()));
        assert_eq!(read(json!({})), Ok(String::new()));
        assert_eq!(read(json!({ "scope": 1 })), Err(VerifyError::claim_type("scope")));
        assert_eq!(read(json!({ "scp": ["a", 1] })), Err(VerifyError::claim_type("scp")));
    }
}

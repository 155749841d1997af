//! TOML values as JSON, for claims.

use serde_json::{Number, Value as Json};
use toml::de::DeValue;

use super::reader::Value;

/// Deepest nesting of a claim: tokens with JSON deeper than 32 levels are refused.
const DEPTH_MAX: usize = 16;

/// `value` in JSON, variables filled in. `None`, with a problem, for what JSON cannot say.
pub(super) fn value(value: &Value<'_>) -> Option<Json> {
    nested(value, DEPTH_MAX)
}

fn nested(value: &Value<'_>, depth: usize) -> Option<Json> {
    let label = value.label().to_owned();
    if depth == 0 {
        value.fail(format!("{label} is nested too deeply"), format!("at most {DEPTH_MAX} levels are taken"));
        return None;
    }
    match value.raw()? {
        DeValue::String(_) => value.text().map(|text| Json::String(text.value)),
        DeValue::Boolean(flag) => Some(Json::Bool(*flag)),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix()).ok();
            if parsed.is_none() {
                value.fail(format!("{label} = {number} is out of range"), None);
            }
            parsed.map(|number| Json::Number(number.into()))
        }
        DeValue::Float(number) => {
            let parsed = number.as_str().parse().ok().and_then(Number::from_f64);
            if parsed.is_none() {
                value.fail(format!("{label} = {number} cannot be said in JSON"), None);
            }
            parsed.map(Json::Number)
        }
        DeValue::Datetime(_) => {
            value.fail(
                format!("{label} is a date, which JSON does not have"),
                "write it in quotes".to_owned(),
            );
            None
        }
        DeValue::Array(_) => value.items("values").iter().map(|item| nested(item, depth - 1)).collect(),
        DeValue::Table(_) => {
            let entries = value.table().entries();
            entries.into_iter().map(|(name, _, value)| Some((name, nested(&value, depth - 1)?))).collect()
        }
    }
}

/// A string, number or boolean as revocations and route policies compare it: a string itself, others in JSON spelling.
pub(super) fn scalar(value: &Value<'_>) -> Option<Box<str>> {
    match value.raw()? {
        DeValue::Array(_) | DeValue::Table(_) => {
            value.fail_type("a string, a number, true or false");
            None
        }
        _ => self::value(value).map(|json| match json {
            Json::String(text) => text.into(),
            other => other.to_string().into(),
        }),
    }
}

//! The members of a request body, JSON or form, strictly typed.

use std::fmt;

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use percent_encoding::percent_decode_str;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::answer::{Code, Problem};

/// The members of a body: of a JSON object, or the pairs of a form.
#[derive(Debug, Default)]
pub(super) struct Fields {
    members: Map<String, Value>,
    /// A form has strings only: what shall be something else is spelt.
    form: bool,
}

impl Fields {
    /// Reads a body; an empty one has no members, whatever it says it is.
    ///
    /// # Errors
    /// 415 for another content type; 400 for what is malformed, a name given twice (at any level), or a JSON value
    /// that is no object.
    pub(super) fn of(headers: &HeaderMap, body: &[u8]) -> Result<Self, Problem> {
        if body.is_empty() {
            return Ok(Self::default());
        }
        match media_type(headers).as_deref() {
            Some("application/json") => json(body),
            Some("application/x-www-form-urlencoded") => form(body),
            _ => Err(Problem::new(
                Code::UnsupportedMediaType,
                "The body must be application/json or application/x-www-form-urlencoded",
            )),
        }
    }

    /// Reads a body that must be a form (RFC 6749 Appendix B).
    ///
    /// # Errors
    /// As [`Fields::of`], and 415 for JSON.
    pub(super) fn of_form(headers: &HeaderMap, body: &[u8]) -> Result<Self, Problem> {
        if body.is_empty() || media_type(headers).as_deref() == Some("application/x-www-form-urlencoded") {
            return form(body);
        }
        Err(Problem::new(Code::UnsupportedMediaType, "The body must be application/x-www-form-urlencoded"))
    }

    /// Reads one JSON object, whatever carries it.
    ///
    /// # Errors
    /// 400 as [`Fields::of`].
    pub(super) fn of_json(bytes: &[u8]) -> Result<Self, Problem> {
        json(bytes)
    }

    /// The first member that has none of these names.
    pub(super) fn unknown(&self, known: impl Fn(&str) -> bool) -> Option<&str> {
        self.members.keys().map(String::as_str).find(|name| !known(name))
    }

    /// The members of a member that is an object; `None` when it is missing or null.
    ///
    /// # Errors
    /// 400 for anything else.
    pub(super) fn object(&self, name: &str) -> Result<Option<Self>, Problem> {
        match self.members.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(members)) => Ok(Some(Self { members: members.clone(), form: false })),
            Some(_) => Err(bad(format!("'{name}' must be an object"))),
        }
    }

    /// Whether it came as a form.
    pub(super) fn is_form(&self) -> bool {
        self.form
    }

    /// Whether there is such a member, and it is not null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.members.get(name).is_some_and(|value| !value.is_null())
    }

    /// The pairs of a query string.
    ///
    /// # Errors
    /// 400 when malformed, or a name is given twice.
    pub(super) fn of_query(query: &str) -> Result<Self, Problem> {
        form(query.as_bytes())
    }

    /// A string of at most `bytes_max` bytes without control characters; `None` when it is missing or null.
    ///
    /// # Errors
    /// 400 for anything else.
    pub(super) fn text(&self, name: &str, bytes_max: usize) -> Result<Option<&str>, Problem> {
        let text = match self.members.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => text,
            Some(_) => return Err(bad(format!("'{name}' must be a string"))),
        };
        if text.len() > bytes_max {
            return Err(bad(format!("'{name}' must have at most {bytes_max} bytes")));
        }
        if text.contains(char::is_control) {
            return Err(bad(format!("'{name}' must not contain control characters")));
        }
        Ok(Some(text))
    }

    /// A string that must be there, whatever it holds.
    ///
    /// # Errors
    /// 400 `Missing 'NAME' in body`, and when it is no string.
    pub(super) fn given(&self, name: &str) -> Result<&str, Problem> {
        match self.members.get(name) {
            None | Some(Value::Null) => Err(bad(format!("Missing '{name}' in body"))),
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(bad(format!("'{name}' must be a string"))),
        }
    }

    /// As [`Fields::text`], and it must be there.
    ///
    /// # Errors
    /// 400 `Missing 'NAME' in body`, and as [`Fields::text`].
    pub(super) fn required(&self, name: &str, bytes_max: usize) -> Result<&str, Problem> {
        self.text(name, bytes_max)?.ok_or_else(|| bad(format!("Missing '{name}' in body")))
    }

    /// `true` or `false`: a JSON boolean, or the word in a form.
    ///
    /// # Errors
    /// 400 when it is missing or anything else.
    pub(super) fn boolean(&self, name: &str) -> Result<bool, Problem> {
        match (self.members.get(name), self.form) {
            (Some(Value::Bool(flag)), _) => Ok(*flag),
            (Some(Value::String(word)), true) if word == "true" => Ok(true),
            (Some(Value::String(word)), true) if word == "false" => Ok(false),
            (None, _) => Err(bad(format!("Missing '{name}' in body"))),
            _ => Err(bad(format!("'{name}' must be true or false"))),
        }
    }
}

/// A body that cannot be taken as it is.
pub(super) fn bad(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(Code::InvalidRequest, detail)
}

/// The media type in lower case, less its parameters; `None` also for a charset other than UTF-8.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let text = values.next()?.to_str().ok()?.to_ascii_lowercase();
    if values.next().is_some() {
        return None;
    }
    let mut parts = text.split(';').map(str::trim);
    let kind = parts.next()?.to_owned();
    let utf8 = |parameter: &str| match parameter.strip_prefix("charset=") {
        Some(charset) => matches!(charset.trim_matches('"'), "utf-8" | "utf8"),
        None => true,
    };
    parts.all(utf8).then_some(kind)
}

fn json(body: &[u8]) -> Result<Fields, Problem> {
    // The message of the parser may quote the body, and with it a password: only its place is told.
    let Strict(value) = serde_json::from_slice(body).map_err(|error| {
        if error.is_data() {
            bad("The body is not JSON, or a name is given twice")
        } else {
            bad(format!("The body is not JSON: line {}, column {}", error.line(), error.column()))
        }
    })?;
    match value {
        Value::Object(members) => Ok(Fields { members, form: false }),
        _ => Err(bad("The body must be a JSON object")),
    }
}

fn form(body: &[u8]) -> Result<Fields, Problem> {
    let malformed = || bad("The body is not a well-formed form");
    let text = std::str::from_utf8(body).map_err(|_| malformed())?;
    let mut members = Map::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = form_decoded(name).ok_or_else(malformed)?;
        let value = form_decoded(value).ok_or_else(malformed)?;
        if members.insert(name, Value::String(value)).is_some() {
            return Err(bad("A name is given twice"));
        }
    }
    Ok(Fields { members, form: true })
}

/// Percent-decoded, with `+` for a space; `None` for a `%` without two hexadecimal digits and for bad UTF-8.
pub(super) fn form_decoded(text: &str) -> Option<String> {
    let hex =
        |part: &str| part.as_bytes().get(..2).is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit));
    if !text.split('%').skip(1).all(hex) {
        return None;
    }
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(|text| text.into_owned())
}

/// A JSON value in which no object has a name twice, escapes decoded. `serde_json::Value` keeps the last one, and
/// whoever stands behind us might keep the first.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(value)) = values.next_element()? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((name, Strict(value))) = entries.next_entry::<String, Strict>()? {
            if map.insert(name, value).is_some() {
                return Err(A::Error::custom("a name is given twice"));
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(content_type: &str, body: &str) -> Result<Fields, u16> {
        let mut headers = HeaderMap::new();
        if !content_type.is_empty() {
            headers.insert(CONTENT_TYPE, content_type.parse().unwrap());
        }
        Fields::of(&headers, body.as_bytes()).map_err(|problem| problem.code().status().as_u16())
    }

    fn check(content_type: &str, body: &str, status: u16) {
        assert_eq!(fields(content_type, body).map(drop), Err(status), "{content_type}: {body}");
    }

    #[test]
    fn refuses_what_is_ambiguous_or_malformed() {
        for body in [
            "{",
            "[]",
            "\"x\"",
            "{} {}",
            "{\"a\":1,\"a\":2}",
            "{\"a\":1,\"\\u0061\":2}",
            "{\"x\":{\"a\":1,\"a\":2}}",
            "{\"x\":[{\"a\":1,\"a\":2}]}",
            "{\"a\":\"\\ud800\"}",
            "{'a':1}",
        ] {
            check("application/json", body, 400);
        }
        check("application/json", &format!("{{\"a\":{}}}", "[".repeat(200_000)), 400);
        for body in ["a=1&a=2", "a=%", "a=%f", "a=%zz", "a=%ff", "a=1&%61=2"] {
            check("application/x-www-form-urlencoded", body, 400);
        }
        for kind in ["", "text/plain", "multipart/form-data; boundary=x", "application/json; charset=latin1"]
        {
            check(kind, "{}", 415);
        }
    }

    #[test]
    fn a_form_spells_its_booleans_and_json_does_not() {
        let revoke = |kind, body| fields(kind, body).unwrap().boolean("revoke").map_err(|_| ());
        let (json, form) = ("application/json; charset=utf-8", "application/x-www-form-urlencoded");
        assert_eq!(revoke(json, r#"{"revoke": false}"#), Ok(false));
        assert_eq!(revoke(form, "revoke=false"), Ok(false));
        assert_eq!(revoke(form, "revoke=true"), Ok(true));
        for body in [r#"{"revoke": "false"}"#, r#"{"revoke": 1}"#, r#"{"revoke": null}"#, "{}"] {
            assert_eq!(revoke(json, body), Err(()), "{body}");
        }
        for body in ["revoke", "revoke=1", "revoke=False", "revoke=", "x=1"] {
            assert_eq!(revoke(form, body), Err(()), "{body}");
        }
    }

    #[test]
    fn strings_are_strings_and_bounded() {
        let fields =
            fields("application/json", r#"{"a":"x\u0000","b":7,"c":null,"d":"long","e":"ok"}"#).unwrap();
        assert!(fields.text("a", 10).is_err());
        assert!(fields.text("b", 10).is_err());
        assert_eq!(fields.text("c", 10).unwrap(), None);
        assert!(fields.text("d", 3).is_err());
        assert_eq!(fields.required("e", 2).unwrap(), "ok");
        assert_eq!(fields.required("email", 9).unwrap_err().detail(), "Missing 'email' in body");
    }

    proptest::proptest! {
        #[test]
        fn no_body_makes_it_panic(body: Vec<u8>, text: String) {
            for kind in ["application/json", "application/x-www-form-urlencoded"] {
                let mut headers = HeaderMap::new();
                headers.insert(CONTENT_TYPE, kind.parse().unwrap());
                for body in [&body, text.as_bytes()] {
                    if let Ok(fields) = Fields::of(&headers, body) {
                        drop(fields.text("a", 9));
                    }
                }
            }
        }
    }

    #[test]
    fn a_form_is_decoded_once() {
        let fields = fields("application/x-www-form-urlencoded", "email=a%2Bb%40x.org&p=1+%252B").unwrap();
        assert_eq!(fields.required("email", 99).unwrap(), "a+b@x.org");
        assert_eq!(fields.required("p", 99).unwrap(), "1 %2B");
    }
}

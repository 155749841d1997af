//! JSON objects read strictly: what two readers could take differently is refused.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

use super::Claims;

/// The deepest nesting that is read; the object itself is level 1.
pub const DEPTH_MAX: u8 = 32;

/// Why a text is not a JSON object that can be trusted to mean one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON (RFC 8259), not UTF-8, a number beyond a double, or more after the object.
    #[error("is not JSON")]
    Syntax,
    /// JSON, but not an object.
    #[error("is not a JSON object")]
    NotAnObject,
    /// A member name twice in one object, escapes decoded: readers differ on which one counts (RFC 7519 §4).
    #[error("has a member twice")]
    Duplicate,
    /// Nested deeper than [`DEPTH_MAX`].
    #[error("is nested too deeply")]
    TooDeep,
}

/// Reads one JSON object that fills `bytes` (white space around it aside). Integers from −2⁶³ to 2⁶⁴−1 are kept
/// exactly, other numbers as doubles. Allocates the members.
///
/// # Errors
/// See [`JsonError`].
pub fn json_object(bytes: &[u8]) -> Result<Claims, JsonError> {
    let fault = Cell::new(None);
    // Checked once here, and not string by string.
    let text = std::str::from_utf8(bytes).map_err(|_| JsonError::Syntax)?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = reader.deserialize_map(Object { depth: 1, fault: &fault }).and_then(|object| {
        reader.end()?;
        Ok(object)
    });
    read.map_err(|error| match (fault.get(), error.is_data()) {
        (Some(fault), _) => fault,
        (None, true) => JsonError::NotAnObject,
        (None, false) => JsonError::Syntax,
    })
}

/// An object at `depth`.
struct Object<'a> {
    depth: u8,
    fault: &'a Cell<Option<JsonError>>,
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Claims;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Claims, A::Error> {
        let mut object = Claims::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(Any { depth: self.depth, fault: self.fault })?;
            if object.insert(name, value).is_some() {
                self.fault.set(Some(JsonError::Duplicate));
                return Err(A::Error::custom(JsonError::Duplicate));
            }
        }
        Ok(object)
    }
}

/// A value inside something at `depth`.
#[derive(Clone, Copy)]
struct Any<'a> {
    depth: u8,
    fault: &'a Cell<Option<JsonError>>,
}

impl<'a> Any<'a> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == DEPTH_MAX {
            self.fault.set(Some(JsonError::TooDeep));
            return Err(E::custom(JsonError::TooDeep));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Any<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Value, E> {
        Number::from_f64(number).map(Value::Number).ok_or_else(|| E::custom("not finite"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let inside = self.deeper()?;
        let mut array = Vec::new();
        while let Some(element) = elements.next_element_seed(inside)? {
            array.push(element);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Value, A::Error> {
        let inside = self.deeper()?;
        Object { depth: inside.depth, fault: inside.fault }.visit_map(members).map(Value::Object)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: JsonError) {
        assert_eq!(json_object(text.as_bytes()), Err(expected), "{text}");
    }

    #[test]
    fn refuses_a_member_given_twice_at_any_level_and_in_any_spelling() {
        check(r#"{"a":1,"a":1}"#, JsonError::Duplicate);
        check(r#"{"sub":1,"\u0073ub":2}"#, JsonError::Duplicate);
        check(r#"{"a":{"b":1,"b":2}}"#, JsonError::Duplicate);
        check(r#"{"a":[{"b":1,"\u0062":2}]}"#, JsonError::Duplicate);
        check(r#"{"😀":1,"\ud83d\ude00":2}"#, JsonError::Duplicate);
        check(r#"{"":1,"":2}"#, JsonError::Duplicate);
        assert!(json_object(br#"{"a":{"a":{"a":1}},"A":1}"#).is_ok());
    }

    #[test]
    fn refuses_what_is_not_one_object() {
        for text in ["[]", "1", "\"a\"", "null", "true", " [{}]"] {
            check(text, JsonError::NotAnObject);
        }
        for text in [
            "",
            " ",
            "{",
            "{}x",
            "{} {}",
            "{}\0",
            "\u{feff}{}",
            "{'a':1}",
            "{a:1}",
            "{\"a\":1,}",
            "{\"a\":01}",
            "{\"a\":+1}",
            "{\"a\":.5}",
            "{\"a\":NaN}",
            "{\"a\":Infinity}",
            "{\"a\":1e999}",
            "{\"a\":\"\n\"}",
            "{\"a\":\"\\ud800\"}",
            "{\"a\":\"\\x41\"}",
            "{/**/}",
            "{\"a\":tru}",
        ] {
            check(text, JsonError::Syntax);
        }
        assert_eq!(json_object(b"{\"a\":\"\xff\"}"), Err(JsonError::Syntax));
        assert_eq!(json_object(b"{\"\xc0\xae\":1}"), Err(JsonError::Syntax));
        assert!(json_object(b" {\"a\" : 1}\r\n").is_ok());
    }

    #[test]
    fn refuses_nesting_beyond_the_limit_and_never_overflows_the_stack() {
        let nested = |open: &str, close: &str, depth: usize| {
            format!("{{\"a\":{}1{}}}", open.repeat(depth - 1), close.repeat(depth - 1))
        };
        assert!(json_object(nested("[", "]", 32).as_bytes()).is_ok());
        assert!(json_object(nested("{\"a\":", "}", 32).as_bytes()).is_ok());
        check(&nested("[", "]", 33), JsonError::TooDeep);
        check(&nested("{\"a\":", "}", 33), JsonError::TooDeep);
        check(&"{\"a\":".repeat(100_000), JsonError::TooDeep);
        check(&format!("{{\"a\":{}", "[".repeat(100_000)), JsonError::TooDeep);
    }

    #[test]
    fn keeps_integers_exactly() {
        let object = json_object(br#"{"a":18446744073709551615,"b":-9223372036854775808,"c":1.5}"#).unwrap();
        assert_eq!(object["a"].to_string(), "18446744073709551615");
        assert_eq!(object["b"].to_string(), "-9223372036854775808");
        assert_eq!(object["c"].to_string(), "1.5");
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<String>().prop_map(Value::String),
        ];
        leaf.prop_recursive(5, 40, 6, |inside| {
            prop_oneof![
                prop::collection::vec(inside.clone(), 0..6).prop_map(Value::Array),
                prop::collection::btree_map(any::<String>(), inside, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn reads_back_what_was_written(value in json()) {
            let mut object = Claims::new();
            object.insert("value".to_owned(), value);
            let text = serde_json::to_vec(&object).unwrap();
            prop_assert_eq!(json_object(&text), Ok(object));
        }

        #[test]
        fn never_accepts_what_serde_json_refuses(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if json_object(&bytes).is_ok() {
                prop_assert!(serde_json::from_slice::<Claims>(&bytes).is_ok());
            }
        }
    }
}

//! JSON objects read strictly: what two readers could take differently is refused.

use std::borrow::Cow;
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
    read(bytes, Object { depth: 1, fault: &fault }, &fault)
}

/// What `object` makes of the one object that fills `bytes`; it leaves in `fault` what is no error of syntax.
fn read<'de, O: Visitor<'de>>(
    bytes: &'de [u8],
    object: O,
    fault: &Cell<Option<JsonError>>,
) -> Result<O::Value, JsonError> {
    // Checked once here, and not string by string.
    let text = std::str::from_utf8(bytes).map_err(|_| JsonError::Syntax)?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = reader.deserialize_map(object).and_then(|object| {
        reader.end()?;
        Ok(object)
    });
    read.map_err(|error| match (fault.get(), error.is_data()) {
        (Some(fault), _) => fault,
        (None, true) => JsonError::NotAnObject,
        (None, false) => JsonError::Syntax,
    })
}

/// A member of an object as claims are read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Member<'a> {
    /// A string.
    Text(&'a str),
    /// Anything else.
    Other(&'a Value),
}

impl<'a> Member<'a> {
    /// Its text, if it is one.
    pub(super) const fn text(self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Other(_) => None,
        }
    }

    /// What it is, if it is no text.
    pub(super) const fn other(self) -> Option<&'a Value> {
        match self {
            Self::Text(_) => None,
            Self::Other(value) => Some(value),
        }
    }
}

impl<'a> From<&'a Value> for Member<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::String(text) => Self::Text(text),
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Member<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => Value::from(*text).fmt(f),
            Self::Other(value) => value.fmt(f),
        }
    }
}

/// An object whose members are looked up by their names.
pub(super) trait Members {
    /// The member of this name.
    fn member(&self, name: &str) -> Option<Member<'_>>;
}

impl Members for Claims {
    fn member(&self, name: &str) -> Option<Member<'_>> {
        self.get(name).map(Into::into)
    }
}

/// One JSON object, read as strictly as by [`json_object`], whose texts stay where they are: a list of members, a
/// dozen in most tokens, costs less than a tree of copies.
#[derive(Debug)]
pub(super) struct FlatObject<'a>(Vec<(Cow<'a, str>, Flat<'a>)>);

#[derive(Debug)]
enum Flat<'a> {
    Text(Cow<'a, str>),
    Other(Value),
}

/// With so many members or fewer, each is compared with those before it.
const FEW: usize = 32;

impl<'a> FlatObject<'a> {
    /// Reads what fills `bytes`. Allocates the list, strings with escapes in them, and what is nested.
    ///
    /// # Errors
    /// See [`JsonError`].
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, JsonError> {
        let fault = Cell::new(None);
        read(bytes, FlatReader { fault: &fault }, &fault)
    }

    fn has_duplicates(&self) -> bool {
        let Self(list) = self;
        if list.len() <= FEW {
            let is_before = |(index, (name, _)): (usize, &(Cow<'_, str>, _))| {
                list[..index].iter().any(|(before, _)| before == name)
            };
            return list.iter().enumerate().any(is_before);
        }
        let mut names: Vec<&str> = list.iter().map(|(name, _)| &**name).collect();
        names.sort_unstable();
        names.windows(2).any(|pair| pair[0] == pair[1])
    }
}

impl Members for FlatObject<'_> {
    fn member(&self, name: &str) -> Option<Member<'_>> {
        let (_, value) = self.0.iter().find(|(own, _)| own == name)?;
        Some(match value {
            Flat::Text(text) => Member::Text(text),
            Flat::Other(value) => Member::Other(value),
        })
    }
}

/// Reads a [`FlatObject`].
struct FlatReader<'a> {
    fault: &'a Cell<Option<JsonError>>,
}

impl<'de> Visitor<'de> for FlatReader<'_> {
    type Value = FlatObject<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<FlatObject<'de>, A::Error> {
        let mut object = FlatObject(Vec::with_capacity(16));
        while let Some(name) = members.next_key_seed(Text)? {
            let value = members.next_value_seed(FlatValue(Any { depth: 1, fault: self.fault }))?;
            object.0.push((name, value));
        }
        if object.has_duplicates() {
            self.fault.set(Some(JsonError::Duplicate));
            return Err(A::Error::custom(JsonError::Duplicate));
        }
        Ok(object)
    }
}

/// A string, borrowed where it can be.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Cow<'de, str>, D::Error> {
        reader.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

/// The value of a member of a [`FlatObject`].
struct FlatValue<'a>(Any<'a>);

impl<'de> DeserializeSeed<'de> for FlatValue<'_> {
    type Value = Flat<'de>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Flat<'de>, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FlatValue<'_> {
    type Value = Flat<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Flat<'de>, E> {
        Ok(Flat::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Flat<'de>, E> {
        Ok(Flat::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Flat<'de>, E> {
        self.0.visit_unit().map(Flat::Other)
    }

    fn visit_bool<E: serde::de::Error>(self, flag: bool) -> Result<Flat<'de>, E> {
        self.0.visit_bool(flag).map(Flat::Other)
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Flat<'de>, E> {
        self.0.visit_u64(number).map(Flat::Other)
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Flat<'de>, E> {
        self.0.visit_i64(number).map(Flat::Other)
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Flat<'de>, E> {
        self.0.visit_f64(number).map(Flat::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<Flat<'de>, A::Error> {
        self.0.visit_seq(elements).map(Flat::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Flat<'de>, A::Error> {
        self.0.visit_map(members).map(Flat::Other)
    }
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
        assert_eq!(FlatObject::read(text.as_bytes()).unwrap_err(), expected, "flat: {text}");
    }

    #[test]
    fn refuses_a_member_given_twice_at_any_level_and_in_any_spelling() {
        check(r#"{"a":1,"a":1}"#, JsonError::Duplicate);
        check(r#"{"sub":1,"\u0073ub":2}"#, JsonError::Duplicate);
        check(r#"{"a":{"b":1,"b":2}}"#, JsonError::Duplicate);
        check(r#"{"a":[{"b":1,"\u0062":2}]}"#, JsonError::Duplicate);
        check(r#"{"😀":1,"\ud83d\ude00":2}"#, JsonError::Duplicate);
        check(r#"{"":1,"":2}"#, JsonError::Duplicate);
        let many: String = (0..2000).map(|n| format!("\"{n}\":1,")).collect();
        check(&format!("{{{many}\"7\":1}}"), JsonError::Duplicate);
        assert!(FlatObject::read(format!("{{{many}\"a\":1}}").as_bytes()).is_ok());
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
        fn both_readers_agree(members in prop::collection::vec(("\\PC{0,4}", json()), 0..60), cut in any::<bool>()) {
            let mut text = "{".to_owned();
            for (name, value) in &members {
                let comma = if text.len() > 1 { "," } else { "" };
                text += &format!("{comma}{}:{value}", Value::from(&**name));
            }
            text += if cut { "" } else { "}" };
            let whole = json_object(text.as_bytes());
            match (&whole, FlatObject::read(text.as_bytes())) {
                (Ok(whole), Ok(flat)) => {
                    prop_assert_eq!(whole.len(), flat.0.len());
                    for name in whole.keys() {
                        prop_assert_eq!(whole.member(name), flat.member(name));
                    }
                }
                // Of two faults, either may be told.
                (whole, flat) if cut => prop_assert!(whole.is_err() && flat.is_err()),
                (whole, flat) => prop_assert_eq!(whole.clone().err(), flat.err()),
            }
        }

        #[test]
        fn never_accepts_what_serde_json_refuses(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if json_object(&bytes).is_ok() {
                prop_assert!(serde_json::from_slice::<Claims>(&bytes).is_ok());
            }
        }
    }
}

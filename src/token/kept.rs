//! The claims of a verified token as they are kept: in JSON, for a tree of them takes five times the memory, and most
//! tokens are never asked for one.

use std::fmt;

use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::Claims;

/// The claims of a token that was verified, so of an object without duplicate members.
#[derive(Clone, PartialEq, Eq)]
pub struct KeptClaims(Box<[u8]>);

impl KeptClaims {
    /// From the text of an object that was read by [`super::json_object`].
    pub(super) const fn of(json: Box<[u8]>) -> Self {
        Self(json)
    }

    /// The claim of this name. Reads through the text: about a microsecond, and the allocation of the value.
    pub fn get(&self, name: &str) -> Option<Value> {
        serde_json::Deserializer::from_slice(&self.0).deserialize_map(Wanted(name)).ok().flatten()
    }
}

impl From<&Claims> for KeptClaims {
    fn from(claims: &Claims) -> Self {
        Self(Value::Object(claims.clone()).to_string().into_bytes().into())
    }
}

impl fmt::Debug for KeptClaims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of claims", self.0.len())
    }
}

struct Wanted<'a>(&'a str);

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Option<Value>, A::Error> {
        let mut found = None;
        while let Some(name) = members.next_key::<std::borrow::Cow<'_, str>>()? {
            if name == self.0 {
                found = Some(members.next_value()?);
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::json_object;
    use super::*;

    #[test]
    fn a_claim_is_found_under_its_name_however_that_is_written() {
        let kept = KeptClaims::of((*br#" {"a":{"b":1},"b":2,"\u0063\n":[true,null],"d":1e2} "#).into());
        assert_eq!(kept.get("a"), Some(json!({ "b": 1 })));
        assert_eq!(kept.get("b"), Some(json!(2)));
        assert_eq!(kept.get("c\n"), Some(json!([true, null])));
        assert_eq!(kept.get("d"), Some(json!(100.0)));
        assert_eq!((kept.get("e"), kept.get(""), kept.get("c")), (None, None, None));
    }

    proptest! {
        #[test]
        fn every_claim_is_what_the_whole_object_says(
            members in prop::collection::btree_map("\\PC{0,8}", any::<(f64, String, bool)>(), 0..8),
        ) {
            let text = serde_json::to_string(&members).unwrap();
            let whole = json_object(text.as_bytes()).unwrap();
            let kept = KeptClaims::of(text.as_bytes().into());
            for name in members.keys() {
                prop_assert_eq!(kept.get(name), whole.get(name).cloned());
            }
        }
    }
}

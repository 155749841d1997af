//! What `POST /admin/revocations` takes: one object, an array of them, or one a line, to entries of the log.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use crate::clock::UnixTime;
use crate::issuer::settings::SELF;
use crate::revocation::{self, Kind, Revocation, Selector};

/// The most bytes of a reason.
const REASON_BYTES_MAX: usize = 1024;
/// No entry outlives this many seconds since the epoch: expiries are kept in 32 bits.
const EXPIRY_SECS_MAX: u64 = u32::MAX as u64 - 3600;

/// One item as it was sent. Borrows from its line, for there may be a million of them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Item<'a> {
    #[serde(borrow)]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    value: Option<Plain<'a>>,
    #[serde(borrow)]
    issuer: Option<Text<'a>>,
    issued_before: Option<Time>,
    expires_at: Option<Time>,
    #[serde(borrow)]
    reason: Option<Text<'a>>,
    /// A whole JWT instead of a selector; must be well signed.
    #[serde(borrow)]
    token: Option<Text<'a>>,
}

/// A string, copied only where it has escapes. (serde borrows a bare `Cow`, but not one inside an `Option`.)
#[derive(Clone, Debug)]
struct Text<'a>(Cow<'a, str>);

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Any)
    }
}

/// A string, or what a claim may have instead, in its JSON spelling.
#[derive(Clone, Debug)]
struct Plain<'a> {
    text: Cow<'a, str>,
    is_string: bool,
}

impl Plain<'_> {
    fn spelt<T: ToString>(value: T) -> Self {
        Self { text: Cow::Owned(value.to_string()), is_string: false }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Plain<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Plain<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string, a number or a boolean")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Plain<'de>, E> {
                Ok(Plain { text: Cow::Borrowed(text), is_string: true })
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Plain<'de>, E> {
                Ok(Plain { text: Cow::Owned(text.to_owned()), is_string: true })
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Plain<'de>, E> {
                Ok(Plain::spelt(value))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Plain<'de>, E> {
                Ok(Plain::spelt(value))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Plain<'de>, E> {
                Ok(Plain::spelt(value))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Plain<'de>, E> {
                // As the same number in a token is spelt.
                Ok(Plain::spelt(serde_json::Value::from(value)))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// Unix seconds, RFC 3339, or `"now"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Time {
    /// The time of the request.
    Now,
    /// This one.
    At(UnixTime),
}

/// What must be known of the configuration to understand an item.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Every issuer that there is, `self` first when the gateway issues tokens.
    pub issuers: Vec<Issuer>,
    /// Claims that can be revoked by.
    pub claims: Vec<Box<str>>,
}

/// One issuer, as far as revocations go.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// In the configuration.
    pub name: Box<str>,
    /// The longest that one of its tokens can live.
    pub lifetime_max: Duration,
}

/// An item understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Understood {
    /// One entry.
    Entry {
        /// What goes into the log.
        revocation: Revocation,
        /// The subject of our own whose live sessions belong into the same batch (CONTRACT §1, the blurred second).
        sessions_of: Option<Box<str>>,
    },
    /// A whole JWT, whose issuer, id and expiry are still to be found.
    Token {
        /// Its text.
        text: Box<str>,
        /// The entry, but for these.
        revocation: Revocation,
    },
    /// Its expiry has passed, and the request says that such are to be passed over.
    Expired,
}

/// What is the same for every item of one request.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// Resolved once a request: a reload in between does not change the rules for the rest.
    pub(super) scope: Scope,
    /// From where.
    pub(super) address: Box<str>,
    /// When.
    pub(super) now: UnixTime,
    /// Items whose expiry has passed are passed over, not refused.
    pub(super) skip_expired: bool,
}

impl Scope {
    /// The issuer meant when none is named.
    fn default_issuer(&self) -> Option<&Issuer> {
        match &self.issuers[..] {
            [first, ..] if &*first.name == SELF => Some(first),
            [only] => Some(only),
            _ => None,
        }
    }

    /// The issuer of this name, or the one meant by none.
    ///
    /// # Errors
    /// In words for whoever sent it.
    pub(super) fn issuer(&self, name: Option<&str>) -> Result<&Issuer, String> {
        let names = || {
            let names: Vec<_> = self.issuers.iter().map(|issuer| format!("\"{}\"", issuer.name)).collect();
            names.join(", ")
        };
        match name {
            Some(name) => self
                .issuers
                .iter()
                .find(|issuer| *issuer.name == *name)
                .ok_or_else(|| format!("there is no issuer of this name; there are {}", names())),
            None => self.default_issuer().ok_or_else(|| format!("'issuer' is needed: one of {}", names())),
        }
    }

    /// A selector of these parts, checked.
    ///
    /// # Errors
    /// In words for whoever sent it.
    pub(super) fn selector(&self, kind: &str, value: &str, issuer: Option<&str>) -> Result<Selector, String> {
        self.resolve(kind, value, issuer).map(|(selector, _)| selector)
    }

    /// The same, and the longest lifetime of its issuer's tokens.
    fn resolve(&self, kind: &str, value: &str, issuer: Option<&str>) -> Result<(Selector, Duration), String> {
        let kind: Kind = kind.parse().map_err(|error: revocation::UnknownKind| error.to_string())?;
        // The value of kind `issuer` is empty; where one is given it is the issuer's name.
        let (value, issuer) = match kind {
            Kind::Issuer if !value.is_empty() => {
                if issuer.is_some_and(|issuer| issuer != value) {
                    return Err("for kind \"issuer\" the value is empty or the issuer's name".into());
                }
                ("", Some(value))
            }
            _ => (value, issuer),
        };
        let issuer = self.issuer(issuer)?;
        if let Kind::Claim(name) = &kind
            && !self.claims.contains(name)
        {
            return Err(format!(
                "claim \"{name}\" cannot be revoked by: it is not listed in [revocation] claims"
            ));
        }
        if kind != Kind::Issuer && value.is_empty() {
            return Err("'value' is empty".into());
        }
        if value.len() > kind.value_bytes_max() {
            return Err(format!("'value' is longer than {} bytes", kind.value_bytes_max()));
        }
        if value.chars().any(char::is_control) {
            return Err("'value' holds a control character".into());
        }
        Ok((Selector::new(kind, issuer.name.clone(), value), issuer.lifetime_max))
    }
}

impl Item<'_> {
    /// The item in these bytes, which are one JSON object.
    ///
    /// # Errors
    /// In words for whoever sent it.
    pub(super) fn understand_json(json: &[u8], asked: &Asked) -> Result<Understood, String> {
        // An array would pass for the members in their order.
        if !json.trim_ascii_start().starts_with(b"{") {
            return Err("not a JSON object".into());
        }
        let item: Item<'_> = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        item.understand(asked)
    }

    fn understand(&self, asked: &Asked) -> Result<Understood, String> {
        if let Some(token) = &self.token {
            if self.has_selector() {
                return Err("'token' goes with 'reason' alone".to_owned());
            }
            let nameless = Selector::new(Kind::Token, "", "");
            let revocation = asked.entry(nameless, None, UnixTime::ZERO, self.reason()?);
            return Ok(Understood::Token { text: (**token).into(), revocation });
        }
        let kind = self.kind.as_deref().ok_or("'kind' is missing")?;
        if self.value.is_none() && kind != "issuer" {
            return Err("'value' is missing".into());
        }
        if self.value.as_ref().is_some_and(|value| !value.is_string) && !kind.starts_with("claim:") {
            return Err("'value' is a string: numbers and booleans are for claims".into());
        }
        let value = self.value.as_ref().map_or("", |value| &*value.text);
        let (selector, lifetime) = asked.scope.resolve(kind, value, self.issuer.as_deref())?;
        let own = &*selector.issuer == SELF;
        if selector.kind.is_absolute() && self.issued_before.is_some() {
            return Err(format!("kind \"{}\" takes no 'issued_before': it has no cutoff", selector.kind));
        }
        let issued_before = match self.issued_before {
            _ if selector.kind.is_absolute() => None,
            Some(Time::At(at)) => Some(at),
            Some(Time::Now) | None => revocation::cutoff_now(&selector.kind, own, asked.now),
        };
        let blurred =
            own && selector.kind == Kind::Subject && !matches!(self.issued_before, Some(Time::At(_)));
        let expires_at = match self.expires_at {
            None => asked.now.plus(lifetime),
            Some(Time::Now) => return Err("'expires_at' is a time, not \"now\"".into()),
            Some(Time::At(at)) if at <= asked.now && asked.skip_expired => return Ok(Understood::Expired),
            Some(Time::At(at)) if at <= asked.now => return Err("'expires_at' has passed already".into()),
            Some(Time::At(at)) => at,
        };
        Ok(Understood::Entry {
            sessions_of: blurred.then(|| selector.value.clone()),
            revocation: asked.entry(selector, issued_before, expires_at, self.reason()?),
        })
    }

    fn reason(&self) -> Result<Box<str>, String> {
        let reason = self.reason.as_deref().unwrap_or_default();
        if reason.len() > REASON_BYTES_MAX {
            return Err(format!("'reason' is longer than {REASON_BYTES_MAX} bytes"));
        }
        if reason.chars().any(char::is_control) {
            return Err("'reason' holds a control character".into());
        }
        Ok(reason.into())
    }

    /// Whether anything but `token` and `reason` was sent.
    fn has_selector(&self) -> bool {
        self.kind.is_some()
            || self.value.is_some()
            || self.issuer.is_some()
            || self.issued_before.is_some()
            || self.expires_at.is_some()
    }
}

impl Asked {
    fn entry(
        &self,
        selector: Selector,
        issued_before: Option<UnixTime>,
        expires_at: UnixTime,
        reason: Box<str>,
    ) -> Revocation {
        Revocation {
            selector,
            lift: false,
            issued_before,
            expires_at: capped(expires_at),
            reason,
            actor: "admin".into(),
            address: self.address.clone(),
            at: self.now,
        }
    }
}

/// An expiry that fits its place in memory.
pub(super) fn capped(expires_at: UnixTime) -> UnixTime {
    expires_at.min(UnixTime::from_secs(EXPIRY_SECS_MAX))
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Time;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("Unix seconds or an RFC 3339 time")
            }

            fn visit_u64<E: de::Error>(self, secs: u64) -> Result<Time, E> {
                Ok(Time::At(UnixTime::from_secs(secs)))
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Time, E> {
                Err(E::custom("a time is not negative"))
            }

            fn visit_f64<E: de::Error>(self, secs: f64) -> Result<Time, E> {
                if !(0.0..=1e13).contains(&secs) {
                    return Err(E::custom("a time is not negative"));
                }
                Ok(Time::At(UnixTime::from_millis((secs * 1000.0).round() as u64)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Time, E> {
                if text == "now" {
                    return Ok(Time::Now);
                }
                UnixTime::parse_rfc3339(text)
                    .map(Time::At)
                    .ok_or_else(|| E::custom("not a time: Unix seconds or RFC 3339, as 2026-11-23T12:00:00Z"))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::from_millis(1_800_000_000_400);

    fn scope() -> Scope {
        let issuer = |name: &str| Issuer { name: name.into(), lifetime_max: Duration::from_secs(3600) };
        Scope { issuers: vec![issuer("self"), issuer("legacy")], claims: vec!["tenant".into()] }
    }

    fn understand(json: &str) -> Result<(Revocation, Option<Box<str>>), String> {
        let asked = Asked { scope: scope(), address: "127.0.0.1".into(), now: NOW, skip_expired: false };
        match Item::understand_json(json.as_bytes(), &asked)? {
            Understood::Entry { revocation, sessions_of } => Ok((revocation, sessions_of)),
            other => panic!("{other:?}"),
        }
    }

    fn check(json: &str, words: &str) {
        let error = understand(json).expect_err(json);
        assert!(error.contains(words), "{json}: {error}");
    }

    #[test]
    fn says_what_is_wrong_with_an_item() {
        check(r#"{"value":"x"}"#, "'kind' is missing");
        check(r#"{"kind":"token"}"#, "'value' is missing");
        check(r#"{"kind":"tokens","value":"x"}"#, "unknown kind");
        check(r#"{"kind":"token","value":""}"#, "empty");
        check(r#"{"kind":"token","value":"x","issued_before":"now"}"#, "no cutoff");
        check(r#"{"kind":"session","value":"x","issued_before":5}"#, "no cutoff");
        check(r#"{"kind":"token","value":"x","issuer":"nobody"}"#, "\"legacy\"");
        check(r#"{"kind":"claim:device","value":"x"}"#, "not listed");
        check(r#"{"kind":"token","value":"x","expires_at":1}"#, "has passed");
        check(r#"{"kind":"token","value":"x","expires_at":"tomorrow"}"#, "RFC 3339");
        check(r#"{"kind":"token","value":"x","kind":"token"}"#, "duplicate");
        check(r#"{"kind":"token","value":"x","more":1}"#, "unknown field");
        check(r#"{"kind":"token","value":"a\u0000b"}"#, "control");
        check(&format!(r#"{{"kind":"token","value":"{}"}}"#, "x".repeat(256)), "255");
        check(r#"{"kind":"issuer","value":"legacy","issuer":"self"}"#, "issuer's name");
        check(r#"{"kind":"token","value":"x","reason":"a\nb"}"#, "'reason' holds a control");
        for text in [r#"["token","x"]"#, r#" ["token","x"]"#, r#""token""#, "null", "7"] {
            check(text, "not a JSON object");
        }
    }

    #[test]
    fn defaults_are_the_own_issuer_its_longest_lifetime_and_now() {
        let (one, sessions_of) = understand(r#"{"kind":"subject","value":"u"}"#).unwrap();
        assert_eq!(&*one.selector.issuer, "self");
        assert_eq!(one.expires_at, NOW.plus(Duration::from_secs(3600)));
        // Our own sessions close the blurred second, so the cutoff is not rounded up.
        assert_eq!(one.issued_before, Some(UnixTime::from_secs(NOW.secs())));
        assert_eq!(sessions_of.as_deref(), Some("u"));
        let (one, sessions_of) = understand(r#"{"kind":"subject","value":"u","issuer":"legacy"}"#).unwrap();
        assert_eq!(one.issued_before, Some(UnixTime::from_secs(NOW.secs() + 1)));
        assert_eq!(sessions_of, None);
        let (one, sessions_of) =
            understand(r#"{"kind":"subject","value":"u","issued_before":1700000000}"#).unwrap();
        assert_eq!((one.issued_before, sessions_of), (Some(UnixTime::from_secs(1_700_000_000)), None));
    }

    #[test]
    fn times_with_a_fraction_are_exact_to_the_millisecond() {
        for (text, millis) in [("1700000000.251", 1_700_000_000_251), ("1700000000.5", 1_700_000_000_500)] {
            let json = format!(r#"{{"kind":"client","value":"c","issued_before":{text}}}"#);
            let (one, _) = understand(&json).unwrap();
            assert_eq!(one.issued_before, Some(UnixTime::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn strings_with_escapes_are_read_as_they_are_meant() {
        let (one, _) =
            understand(r#"{"kind":"t\u006fken","value":"a\/\"b\u00e9","reason":"l\u00e9ak"}"#).unwrap();
        assert_eq!((&*one.selector.value, &*one.reason), ("a/\"bé", "léak"));
    }

    #[test]
    fn claims_take_numbers_and_booleans_in_their_json_spelling() {
        for (value, expected) in
            [("42", "42"), ("-7", "-7"), ("1.5", "1.5"), ("true", "true"), ("\"42\"", "42")]
        {
            let (one, _) = understand(&format!(r#"{{"kind":"claim:tenant","value":{value}}}"#)).unwrap();
            assert_eq!(&*one.selector.value, expected);
        }
        check(r#"{"kind":"token","value":42}"#, "is a string");
        check(r#"{"kind":"subject","value":true}"#, "is a string");
        check(r#"{"kind":"claim:tenant","value":[1]}"#, "a string, a number or a boolean");
    }

    #[test]
    fn what_has_expired_is_passed_over_only_where_that_was_asked_for() {
        let asked = Asked { scope: scope(), address: "".into(), now: NOW, skip_expired: true };
        let read = |json: &str| Item::understand_json(json.as_bytes(), &asked);
        assert_eq!(read(r#"{"kind":"token","value":"t","expires_at":5}"#), Ok(Understood::Expired));
        assert!(read(r#"{"kind":"token","value":"","expires_at":5}"#).is_err(), "but it must be an item");
    }

    #[test]
    fn the_kind_issuer_names_its_issuer_either_way() {
        for json in [r#"{"kind":"issuer","value":"legacy"}"#, r#"{"kind":"issuer","issuer":"legacy"}"#] {
            let one = understand(json).unwrap().0.selector;
            assert_eq!((&*one.issuer, &*one.value), ("legacy", ""));
        }
    }
}

//! Whom an event is about (RFC 9493, and the complex subjects of the Shared Signals Framework), as selectors.
//!
//! Pure. A subject that no token could name gives nothing, and that is no error: the sender cannot know what is known
//! here. A subject that is not formed as its format says is one.

use serde_json::{Map, Value};

use crate::revocation::Kind;

/// What of a subject an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sought {
    /// The session that it names, else everything of the user.
    Session,
    /// Everything of the user; where none is named, the session.
    Account,
    /// What tokens say of the user: those issued so far are out of date, their sessions go on.
    Claims,
}

/// One thing to revoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) kind: Kind,
    pub(super) value: Box<str>,
}

/// Not formed as its format says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Whose subjects are looked for, and how tokens name them.
pub(super) struct Subjects<'a> {
    /// `iss` of the statement: nobody speaks of another's subjects.
    pub(super) issuer: &'a str,
    /// Where its tokens have their subject.
    pub(super) subject_claims: &'a [Box<str>],
    /// Claims that can be revoked by.
    pub(super) revocable: &'a [Box<str>],
}

impl Subjects<'_> {
    /// What to revoke for an event about this subject.
    ///
    /// # Errors
    /// [`Malformed`].
    pub(super) fn find(&self, subject: &Value, sought: Sought) -> Result<Vec<Named>, Malformed> {
        let subject = subject.as_object().ok_or(Malformed)?;
        let text = |member: &str| subject.get(member).map(|it| it.as_str().ok_or(Malformed)).transpose();
        // RISC had another name for it before RFC 9493, and hyphens: some that send events still do.
        let older = text("subject_type")?.map(|format| format.replace('-', "_"));
        match text("format")?.or(older.as_deref()) {
            Some("complex") => self.complex(subject, sought),
            Some(format) => self.simple(subject, format, sought),
            // Complex subjects had no format once.
            None if MEMBERS.iter().any(|member| subject.contains_key(*member)) => {
                self.complex(subject, sought)
            }
            None => Err(Malformed),
        }
    }

    /// The subject with this `sub`.
    pub(super) fn by_subject(&self, sub: &str) -> Vec<Named> {
        usable(Kind::Subject, sub).into_iter().collect()
    }

    fn complex(&self, subject: &Map<String, Value>, sought: Sought) -> Result<Vec<Named>, Malformed> {
        let member =
            |name: &str| subject.get(name).map(|value| value.as_object().ok_or(Malformed)).transpose();
        let (user, session) = (member("user")?, member("session")?);
        let of_user = |user: Option<&Map<String, Value>>| match user {
            Some(user) => self.simple(user, text(user, "format")?, Sought::Account),
            None => Ok(Vec::new()),
        };
        let of_session = |session: Option<&Map<String, Value>>| match session {
            Some(session) => session_of(session),
            None => Ok(Vec::new()),
        };
        // Both are read, so that a malformed one is told in any case.
        let (user, session) = (of_user(user)?, of_session(session)?);
        let (first, second) = match sought {
            Sought::Session => (session, user),
            Sought::Account => (user, session),
            Sought::Claims => (user, Vec::new()),
        };
        if !first.is_empty() {
            return Ok(first);
        }
        if !second.is_empty() {
            return Ok(second);
        }
        // Whole groups, where tokens name theirs in a claim that can be revoked by.
        let mut groups = Vec::new();
        for name in ["tenant", "org_unit", "group", "device"] {
            if let Some(member) = member(name)?
                && let "opaque" = text(member, "format")?
            {
                groups.extend(self.by_claim(name, text(member, "id")?));
            }
        }
        Ok(groups)
    }

    fn simple(
        &self,
        subject: &Map<String, Value>,
        format: &str,
        sought: Sought,
    ) -> Result<Vec<Named>, Malformed> {
        let ours = |name| Ok(text(subject, name)? == self.issuer);
        Ok(match format {
            "iss_sub" => {
                let sub = text(subject, "sub")?;
                if ours("iss")? { self.by_subject(sub) } else { Vec::new() }
            }
            "opaque" => {
                let id = text(subject, "id")?;
                let mut found = self.by_subject(id);
                // CAEP's own example of session-revoked names a session this way; and nobody has both by one name.
                if sought == Sought::Session {
                    found.extend(usable(Kind::Session, id));
                }
                found
            }
            "email" => self.by_claim("email", text(subject, "email")?).into_iter().collect(),
            "phone_number" => {
                self.by_claim("phone_number", text(subject, "phone_number")?).into_iter().collect()
            }
            "jwt_id" => {
                let id = text(subject, "jti")?;
                if ours("iss")? { usable(Kind::Token, id).into_iter().collect() } else { Vec::new() }
            }
            "aliases" => {
                let aliases = subject.get("identifiers").and_then(Value::as_array).ok_or(Malformed)?;
                let mut found = Vec::new();
                for alias in aliases {
                    let alias = alias.as_object().ok_or(Malformed)?;
                    match text(alias, "format")? {
                        // RFC 9493 §3.2.8: not in each other.
                        "aliases" => return Err(Malformed),
                        format => found.extend(self.simple(alias, format, sought)?),
                    }
                }
                found
            }
            // Formats that no token names anybody by: account, uri, did, and those that are yet to come.
            _ => Vec::new(),
        })
    }

    /// By the claim of this name, where tokens have it for their subject, or it can be revoked by.
    fn by_claim(&self, name: &str, value: &str) -> Option<Named> {
        let is_listed = |list: &[Box<str>]| list.iter().any(|listed| **listed == *name);
        if is_listed(self.subject_claims) {
            return usable(Kind::Subject, value);
        }
        is_listed(self.revocable).then(|| usable(Kind::Claim(name.into()), value))?
    }
}

/// What makes a subject a complex one.
const MEMBERS: [&str; 7] = ["user", "session", "device", "application", "tenant", "org_unit", "group"];

fn session_of(session: &Map<String, Value>) -> Result<Vec<Named>, Malformed> {
    match text(session, "format")? {
        "opaque" => Ok(usable(Kind::Session, text(session, "id")?).into_iter().collect()),
        _ => Ok(Vec::new()),
    }
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a str, Malformed> {
    object.get(name).and_then(Value::as_str).ok_or(Malformed)
}

/// `None` for what no token can be called: it could not be revoked by.
fn usable(kind: Kind, value: &str) -> Option<Named> {
    let good =
        !value.is_empty() && value.len() <= kind.value_bytes_max() && !value.contains(char::is_control);
    good.then(|| Named { kind, value: value.into() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const ISS: &str = "https://id.example";

    fn find(subject: Value, sought: Sought) -> Result<String, Malformed> {
        let revocable = ["email".into(), "tenant".into()];
        let subjects = Subjects { issuer: ISS, subject_claims: &["sub".into()], revocable: &revocable };
        let found = subjects.find(&subject, sought)?;
        Ok(found.iter().map(|named| format!("{}={}", named.kind, named.value)).collect::<Vec<_>>().join(" "))
    }

    fn check(subject: Value, sought: Sought, expected: &str) {
        assert_eq!(find(subject.clone(), sought), Ok(expected.to_owned()), "{subject} {sought:?}");
    }

    #[test]
    fn a_simple_subject_is_a_user() {
        use Sought::{Account, Claims, Session};
        for sought in [Account, Claims, Session] {
            check(json!({ "format": "iss_sub", "iss": ISS, "sub": "7" }), sought, "subject=7");
            check(json!({ "format": "iss_sub", "iss": "https://else", "sub": "7" }), sought, "");
            check(json!({ "format": "email", "email": "a@b.c" }), sought, "claim:email=a@b.c");
            check(json!({ "format": "phone_number", "phone_number": "+1" }), sought, "");
            check(json!({ "format": "jwt_id", "iss": ISS, "jti": "t" }), sought, "token=t");
            check(json!({ "format": "jwt_id", "iss": "https://else", "jti": "t" }), sought, "");
            for other in ["account", "uri", "did", "new"] {
                check(json!({ "format": other, "uri": "acct:a@b.c" }), sought, "");
            }
        }
        check(json!({ "format": "opaque", "id": "x" }), Account, "subject=x");
        check(json!({ "format": "opaque", "id": "x" }), Session, "subject=x session=x");
        let aliases = json!([{ "format": "opaque", "id": "x" }, { "format": "email", "email": "a@b.c" }]);
        check(json!({ "format": "aliases", "identifiers": aliases }), Account, "subject=x claim:email=a@b.c");
    }

    #[test]
    fn an_email_is_the_subject_where_tokens_have_it_so() {
        let subjects = Subjects { issuer: ISS, subject_claims: &["email".into()], revocable: &[] };
        let found = subjects.find(&json!({ "format": "email", "email": "a@b.c" }), Sought::Account);
        assert_eq!(found, Ok(vec![Named { kind: Kind::Subject, value: "a@b.c".into() }]));
    }

    #[test]
    fn a_complex_subject_is_what_the_event_is_about() {
        let both = json!({
            "format": "complex",
            "user": { "format": "iss_sub", "iss": ISS, "sub": "7" },
            "session": { "format": "opaque", "id": "s" },
            "tenant": { "format": "opaque", "id": "acme" },
        });
        check(both.clone(), Sought::Session, "session=s");
        check(both.clone(), Sought::Account, "subject=7");
        check(both.clone(), Sought::Claims, "subject=7");
        let mut old = both.clone();
        old.as_object_mut().unwrap().remove("format");
        check(old, Sought::Session, "session=s");
        let without = |name: &str| {
            let mut less = both.clone();
            less.as_object_mut().unwrap().remove(name);
            less
        };
        check(without("session"), Sought::Session, "subject=7");
        check(without("user"), Sought::Account, "session=s");
        check(without("user"), Sought::Claims, "claim:tenant=acme");
        check(
            json!({ "tenant": { "format": "opaque", "id": "acme" } }),
            Sought::Account,
            "claim:tenant=acme",
        );
        check(json!({ "device": { "format": "opaque", "id": "d" } }), Sought::Account, "");
    }

    #[test]
    fn what_no_token_can_be_called_gives_nothing() {
        for id in ["", "a\u{0}b", &"x".repeat(1025)] {
            check(json!({ "format": "opaque", "id": id }), Sought::Account, "");
        }
        check(
            json!({ "format": "opaque", "id": "x".repeat(256) }),
            Sought::Session,
            &format!("subject={}", "x".repeat(256)),
        );
    }

    #[test]
    fn a_malformed_subject_is_told() {
        for subject in [
            json!(null),
            json!("x"),
            json!([]),
            json!({}),
            json!({ "format": 1 }),
            json!({ "id": "x" }),
            json!({ "format": "opaque" }),
            json!({ "format": "opaque", "id": 7 }),
            json!({ "format": "iss_sub", "sub": "7" }),
            json!({ "format": "iss_sub", "iss": ISS }),
            json!({ "format": "email", "email": ["a"] }),
            json!({ "format": "aliases", "identifiers": {} }),
            json!({ "format": "aliases", "identifiers": [{ "format": "aliases", "identifiers": [] }] }),
            json!({ "format": "complex", "user": "7" }),
            json!({ "user": {} }),
            json!({ "format": "complex", "session": { "format": "opaque" } }),
        ] {
            assert_eq!(find(subject.clone(), Sought::Session), Err(Malformed), "{subject}");
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let word = prop_oneof![
            Just("format"),
            Just("opaque"),
            Just("complex"),
            Just("iss_sub"),
            Just("aliases"),
            Just("iss"),
            Just("user"),
            Just("session"),
            Just("id"),
            Just("sub"),
            Just("identifiers"),
            Just(ISS),
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            word.clone().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, move |inside| {
            prop_oneof![
                prop::collection::vec(inside.clone(), 0..4).prop_map(Value::Array),
                prop::collection::btree_map(word.clone().prop_map(str::to_owned), inside, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_it_is_it_names_only_what_can_be_revoked(subject in json()) {
            let subjects = Subjects { issuer: ISS, subject_claims: &["sub".into()], revocable: &["tenant".into()] };
            for sought in [Sought::Session, Sought::Account, Sought::Claims] {
                for named in subjects.find(&subject, sought).unwrap_or_default() {
                    prop_assert!(!named.value.is_empty() && named.value.len() <= named.kind.value_bytes_max());
                    prop_assert!(!named.value.contains(char::is_control));
                    prop_assert_ne!(named.kind, Kind::Issuer);
                }
            }
        }
    }
}

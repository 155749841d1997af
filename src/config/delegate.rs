//! `[auth.delegate]`.

use std::time::Duration;

use http::Uri;

use super::auth::{OWN_CLAIMS, web_address};
use super::files;
use super::reader::{Table, Text, Value, boxed};
use super::source::Span;
use super::suggest::{did_you_mean, quote, quoted_list};
use crate::endpoint::settings::Delegate;
use crate::token::Claims;

/// What a user has beside the `user_fields`.
const USER: [&str; 2] = ["email", "username"];

/// Reads `[auth.delegate]`; `fixed` are the `[auth.claims]`, which stand at `fixed_at`.
pub(super) fn read(
    auth: &mut Table<'_>,
    user_fields: &[Box<str>],
    fixed: &Claims,
    fixed_at: Option<&Span>,
) -> Option<Delegate> {
    let mut t = auth.section("delegate", "[auth.delegate]");
    let (cx, given) = (t.cx, t.is_given());
    let (url_value, subject_value) = (t.get("url"), t.get("subject"));
    let ca = t.get("ca_file").text_or_none();
    let ca_pem = ca.as_ref().and_then(files::authorities_pem);
    let (mut url, mut subject) = (None, None);
    if given {
        let named = url_value.required("name the sign-in of the old backend").filled();
        url = named.and_then(|text| web_address(&text));
        subject = subject_value.required("add subject = \"/user/id\"").text().filter(pointer);
    }
    let in_clear = url.as_ref().is_some_and(|url: &Uri| url.scheme_str() == Some("http"));
    if let Some(ca) = ca.filter(|_| in_clear) {
        ca.fail("ca_file is of no use: the address is not https".to_owned(), "leave it out".to_owned());
    }
    let claims = pointers(&t.get("claims"), |text| {
        let name = &text.value;
        if fixed.contains_key(name) {
            let hint = match fixed_at {
                Some(at) => format!("[auth.claims] on line {} has it too; leave one out", cx.line(at)),
                None => "[auth.claims] has it too".to_owned(),
            };
            text.fail(format!("claim {} is set twice", quote(name)), hint);
        } else if name != "scope" && OWN_CLAIMS.contains(&name.as_str()) {
            let hint = "leave it out: the gateway writes it into each token".to_owned();
            text.fail(format!("claim {} is the gateway's own", quote(name)), hint);
        }
    });
    let fields = pointers(&t.get("fields"), |text| {
        let known = || USER.into_iter().chain(user_fields.iter().map(|field| &**field));
        if !known().any(|field| field == text.value) {
            let list =
                || format!("known are {}; others are named in user_fields", quoted_list(known(), "and"));
            text.fail(
                format!("a user has no field {}", quote(&text.value)),
                did_you_mean(&text.value, known(), list),
            );
        }
    });
    let account = t.get("account").filled();
    let pass_value = t.get("pass");
    let pass = pass_value.texts();
    let name = account.as_ref().map_or("email", |text| &text.value);
    for text in pass.iter().chain(&account) {
        let taken = text.value == "password" || text.label != "account" && text.value == name;
        if taken {
            text.fail(format!("{} is sent already", text.quoted()), "leave it out".to_owned());
        }
    }
    let account = name.into();
    let seconds = Duration::from_secs;
    let timeout = t.get("timeout").duration_within(seconds(10), Duration::from_millis(1)..=seconds(60));
    t.finish();
    Some(Delegate {
        url: url?,
        ca_pem,
        subject: subject?.boxed(),
        claims,
        fields,
        account,
        pass: boxed(&pass),
        timeout,
    })
}

/// A table of names and JSON pointers.
fn pointers(value: &Value<'_>, check: impl Fn(&Text<'_>)) -> Vec<(Box<str>, Box<str>)> {
    let mut read = Vec::new();
    for (name, at, value) in value.table().entries() {
        check(&Text::of_key(value.cx, &name, &at));
        if let Some(text) = value.text_as_pointer() {
            read.push((name.into(), text));
        }
    }
    read
}

impl Value<'_> {
    fn text_as_pointer(&self) -> Option<Box<str>> {
        match self.raw() {
            Some(toml::de::DeValue::String(_)) => self.text().filter(pointer).map(|text| text.boxed()),
            _ => {
                self.fail_type("a JSON pointer such as \"/user/roles\"");
                None
            }
        }
    }
}

/// RFC 6901 §3, and perhaps another one behind a `#`.
fn pointer(text: &Text<'_>) -> bool {
    let value = &text.value;
    let escapes = value.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    let begins = value.is_empty() || value.starts_with('/') || value.starts_with("#/");
    // A member whose own name has a `#` cannot be reached; a slash that was forgotten would find nothing, silently.
    let leads_on = value.split('#').skip(1).all(|rest| rest.starts_with('/'));
    if !begins || !escapes || !leads_on {
        let hint = "write it such as \"/user/id\", or \"/access_token#/sub\" for a claim of a JWT".to_owned();
        text.fail(format!("{} is not a JSON pointer", text.quoted()), hint);
        return false;
    }
    if value.matches('#').count() > 1 {
        let hint = "leave out what comes behind the second #".to_owned();
        text.fail(format!("{} leads into a JWT inside of a JWT", text.quoted()), hint);
        return false;
    }
    true
}

//! What is different between two configurations, told without a secret.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::shown;
use crate::config::Settings;

/// Settings that a running process cannot go over to, each in words.
pub(super) fn needing_restart(before: &Settings, after: &Settings) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut needs = |same: bool, what: &str, why: &str| {
        if !same {
            reasons.push(format!("{what} was changed: restart to apply ({why})"));
        }
    };
    needs(
        before.server.workers == after.server.workers,
        "[server] workers",
        "connections belong to the threads that accepted them",
    );
    needs(
        before.revocation.state_dir == after.revocation.state_dir,
        "[state] dir",
        "the log is open there, under its lock",
    );
    needs(before.fleet == after.fleet, "[revocation.cluster]", "the shared log is followed there");
    needs(before.store == after.store, "[store] url", "users and sessions are open there");
    reasons
}

/// Every setting that differs, as an array of `{setting, from, to}`; `from` is null for what is new, `to` for what is
/// gone, and both are missing where only the content of a file or a secret has changed.
pub(super) fn between(before: &Settings, after: &Settings) -> Vec<Value> {
    let mut changes = Vec::new();
    compare("", &shown::settings(before), &shown::settings(after), &mut changes);
    // What is not shown, for it is secret or in a file.
    let hidden = [
        unlike("issuers", &before.issuers, &after.issuers, |issuer| &issuer.name),
        unlike("clients", &before.clients, &after.clients, |client| &client.id),
        unlike("upstreams", &before.upstreams, &after.upstreams, |upstream| &upstream.name),
        unlike("routes", &before.routes, &after.routes, |route| &route.name),
    ];
    for name in hidden.into_iter().flatten() {
        let within = |change: &Value| {
            let setting = change["setting"].as_str().unwrap_or_default();
            setting == name || setting.strip_prefix(&*name).is_some_and(|rest| rest.starts_with('.'))
        };
        if !changes.iter().any(within) {
            changes.push(json!({ "setting": name }));
        }
    }
    if changes.is_empty() && before != after {
        changes.push(json!({ "setting": "configuration" }));
    }
    changes
}

/// Items of these names that are there both before and after, and are not the same.
fn unlike<T: PartialEq>(table: &str, before: &[T], after: &[T], name: impl Fn(&T) -> &str) -> Vec<String> {
    let same_name = |item: &T| before.iter().find(|other| name(other) == name(item));
    let changed = after.iter().filter(|item| same_name(item).is_some_and(|other| other != *item));
    changed.map(|item| format!("{table}.{}", name(item))).collect()
}

fn compare(path: &str, before: &Value, after: &Value, changes: &mut Vec<Value>) {
    if before == after {
        return;
    }
    match (named(before), named(after)) {
        (Some(before), Some(after)) => {
            let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let (before, after) = (before.get(key), after.get(key));
                match before.zip(after) {
                    Some((before, after)) => compare(&path, before, after, changes),
                    None => changes.push(json!({ "setting": path, "from": before, "to": after })),
                }
            }
        }
        _ => changes.push(json!({ "setting": path, "from": before, "to": after })),
    }
}

/// An object, or a list of objects that have names: by these.
fn named(value: &Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(object) => Some(object.clone()),
        Value::Array(list) if !list.is_empty() => list
            .iter()
            .map(|item| {
                let name = item.get("name").or_else(|| item.get("id"))?.as_str()?;
                Some((name.to_owned(), item.clone()))
            })
            .collect(),
        Value::Array(_) => Some(Map::new()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(before: Value, after: Value, expected: Value) {
        let mut changes = Vec::new();
        compare("", &before, &after, &mut changes);
        assert_eq!(Value::Array(changes), expected);
    }

    #[test]
    fn changes_are_told_by_the_names_of_things() {
        check(json!({ "a": 1 }), json!({ "a": 1 }), json!([]));
        check(
            json!({ "server": { "idle_timeout": "75s", "realm": "x" } }),
            json!({ "server": { "idle_timeout": "1s", "realm": "x" } }),
            json!([{ "setting": "server.idle_timeout", "from": "75s", "to": "1s" }]),
        );
        check(
            json!({ "routes": [{ "name": "a", "auth": "access" }, { "name": "b" }] }),
            json!({ "routes": [{ "name": "c" }, { "name": "a", "auth": "public" }] }),
            json!([
                { "setting": "routes.a.auth", "from": "access", "to": "public" },
                { "setting": "routes.b", "from": { "name": "b" }, "to": null },
                { "setting": "routes.c", "from": null, "to": { "name": "c" } },
            ]),
        );
        check(
            json!({ "listen": ["a:1"] }),
            json!({ "listen": ["a:2"] }),
            json!([{ "setting": "listen", "from": ["a:1"], "to": ["a:2"] }]),
        );
    }
}

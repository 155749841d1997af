//! The JSON Schema (draft 2020-12) of `gateway.toml`, for editors and checks before a file reaches a gateway.
//!
//! It is made by the reader itself: [`schema`] reads a file in which everything is there, and the typed reader notes
//! each key that is asked for and as what (`reader/`). So a key cannot be read and be missing here, or the other way
//! round. Defaults that the reader does not know at that point, and what the keys are for, come from
//! `docs/configuration.md`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::context::Context;
use super::reader::Table;

const REFERENCE: &str = include_str!("../../docs/configuration.md");

/// Everything that is read only where something of its kind is there. What it holds is beside the point, so the
/// problems of this file are too.
const EVERYTHING: &str = r#"
[server.tls]
certificates = [{}]
[auth]
algorithm = "ES256"
token_transport = ["header"]
cors = {}
[auth.delegate]
claims = { x = "" }
fields = { x = "" }
[auth.claims]
x = 1
[[clients]]
may = ["introspect"]
[[issuers]]
algorithms = ["RS256"]
introspect = {}
[revocation]
fsync = "50ms"
[revocation.cluster]
url = "redis://127.0.0.1"
[[upstreams]]
targets = ["http://127.0.0.1", {}]
health = { path = "/" }
[[routes]]
timeout = "1s"
require_claims = { x = 1 }
rate_limit = { by = "subject" }
cors = {}
request_headers = { set = { x = "" } }
response_headers = { set = { x = "" } }
"#;

/// What a value was read as.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shape {
    Flag(bool),
    Number {
        default: u64,
        least: u64,
        most: u64,
    },
    Duration {
        default: Duration,
        unlimited: bool,
    },
    Size {
        default: Option<u64>,
        unlimited: bool,
    },
    Choice(Vec<String>),
    Text,
    /// Empty, for what is not set.
    Empty,
    /// A list; of strings, where it says so.
    List {
        strings: bool,
    },
    /// With the keys that are asked for.
    Table,
    /// With keys of the operator's own.
    Entries,
    /// It must be there.
    Required,
    /// Of several types.
    Any,
}

/// What was read, by path: keys with `/` before each, `/[]` for the items of a list, `/{}` for own keys.
#[derive(Debug, Default)]
pub(super) struct Notes(RefCell<BTreeMap<String, BTreeSet<Shape>>>);

impl Notes {
    /// The value at this path was read as this.
    pub(super) fn take(&self, path: &str, shape: Shape) {
        self.0.borrow_mut().entry(path.to_owned()).or_default().insert(shape);
    }

    /// There is a key of this path.
    pub(super) fn ask(&self, path: &str) {
        self.0.borrow_mut().entry(path.to_owned()).or_default();
    }
}

/// The schema of `gateway.toml`.
pub fn schema() -> Value {
    let recovered = super::syntax::recover(EVERYTHING);
    let mut cx = Context::new(Path::new("gateway.toml"), EVERYTHING, &|_| None, false);
    cx.note_all();
    let (tree, _) = toml::de::DeTable::parse_recoverable(&recovered.text);
    let _ = super::settings(Path::new("gateway.toml"), Table::root(&cx, tree.get_ref()));
    let notes = cx.notes().map(|notes| notes.0.take()).unwrap_or_default();
    let mut schema = object(&notes, "", &reference());
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["$id"] = "urn:portcullis:gateway.toml".into();
    schema["title"] = format!("gateway.toml of Portcullis {}", env!("CARGO_PKG_VERSION")).into();
    schema["$defs"] = json!({
        "variable": {
            "type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*\}",
            "description": "a string that takes something from an environment variable",
        },
        "duration": {
            "type": "string", "pattern": r"^[0-9]+(ms|s|m|h|d)$",
            "description": "a whole number and a unit, such as \"250ms\", \"10s\", \"15m\", \"4h\", \"30d\"",
        },
        "size": {
            "type": "string", "pattern": r"^[0-9]+(B|KiB|MiB|GiB)$",
            "description": "a whole number and a unit, such as \"512B\", \"32KiB\", \"10MiB\", \"1GiB\"",
        },
    });
    schema
}

/// A table with the keys below `path`.
fn object(notes: &BTreeMap<String, BTreeSet<Shape>>, path: &str, reference: &Reference) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (key, shapes) in children(notes, path) {
        if key == "[]" || key == "{}" {
            continue;
        }
        properties.insert(key.to_owned(), value(notes, &format!("{path}/{key}"), shapes, reference));
        if shapes.contains(&Shape::Required) {
            required.push(key);
        }
    }
    let mut object = json!({ "type": "object", "additionalProperties": false, "properties": properties });
    if !required.is_empty() {
        object["required"] = required.into();
    }
    object
}

fn value(
    notes: &BTreeMap<String, BTreeSet<Shape>>,
    path: &str,
    shapes: &BTreeSet<Shape>,
    reference: &Reference,
) -> Value {
    let known = reference.get(path);
    // A word, an amount or the like was read as a text first.
    let special = shapes.iter().any(|shape| {
        !matches!(
            shape,
            Shape::Text | Shape::Required | Shape::Any | Shape::Table | Shape::Entries | Shape::List { .. }
        )
    });
    let mut forms: Vec<Value> = Vec::new();
    let mut default = None;
    let mut add = |form: Value| {
        if !forms.contains(&form) {
            forms.push(form);
        }
    };
    for shape in shapes {
        match shape {
            Shape::Flag(usual) => {
                default = Some(json!(usual));
                add(json!({ "type": "boolean" }));
            }
            Shape::Number { default: usual, least, most } => {
                default = Some(json!(usual));
                add(json!({ "type": "integer", "minimum": least, "maximum": most }));
            }
            Shape::Duration { default: usual, unlimited } => {
                default = Some(super::reader::written_duration(*usual).into());
                add(json!({ "$ref": "#/$defs/duration" }));
                add(json!({ "$ref": "#/$defs/variable" }));
                unlimited.then(|| add(json!({ "const": 0, "description": "no limit" })));
            }
            Shape::Size { default: usual, unlimited } => {
                default = usual.map(|usual| super::reader::written_size(usual).into());
                add(json!({ "$ref": "#/$defs/size" }));
                add(json!({ "$ref": "#/$defs/variable" }));
                unlimited.then(|| add(json!({ "const": 0, "description": "no limit" })));
            }
            Shape::Choice(words) => {
                add(json!({ "enum": words }));
                add(json!({ "$ref": "#/$defs/variable" }));
            }
            Shape::Text if !special => add(json!({ "type": "string" })),
            Shape::Empty => add(json!({ "const": "" })),
            Shape::List { strings } => {
                let item = format!("{path}/[]");
                let items = match notes.get(&item) {
                    Some(shapes) if !shapes.is_empty() => value(notes, &item, shapes, reference),
                    _ if *strings => json!({ "type": "string" }),
                    _ => json!({}),
                };
                add(json!({ "type": "array", "items": items }));
            }
            Shape::Table => {
                let own = format!("{path}/{{}}");
                add(match (shapes.contains(&Shape::Entries), notes.get(&own)) {
                    (false, _) => object(notes, path, reference),
                    (true, Some(shapes)) => {
                        let each = value(notes, &own, shapes, reference);
                        json!({ "type": "object", "additionalProperties": each })
                    }
                    (true, None) => json!({ "type": "object" }),
                });
            }
            Shape::Text | Shape::Entries | Shape::Required | Shape::Any => {}
        }
    }
    // What stands in the reference counts: it is what the reader falls back to, also where it takes several types.
    let default = known.and_then(|known| known.default.clone()).or(default);
    if let Some(usual @ Value::String(_)) = &default
        && special
        && !shapes
            .iter()
            .any(|shape| matches!(shape, Shape::Choice(_) | Shape::Duration { .. } | Shape::Size { .. }))
    {
        add(json!({ "const": usual }));
    }
    if path == "/revocation/fsync" {
        add(json!({ "const": "always" }));
    }
    let mut told = match forms.len() {
        0 => json!({}),
        1 => forms.remove(0),
        _ => json!({ "anyOf": forms }),
    };
    if let Some(known) = known {
        told["description"] = known.meaning.clone().into();
    }
    if let Some(default) = default.filter(|_| !shapes.contains(&Shape::Required)) {
        told["default"] = default;
    }
    told
}

/// The keys right below a path.
fn children<'n>(
    notes: &'n BTreeMap<String, BTreeSet<Shape>>,
    path: &'n str,
) -> impl Iterator<Item = (&'n str, &'n BTreeSet<Shape>)> {
    notes.iter().filter_map(move |(other, shapes)| {
        let key = other.strip_prefix(path)?.strip_prefix('/')?;
        (!key.is_empty() && !key.contains('/')).then_some((key, shapes))
    })
}

/// What `docs/configuration.md` says of each path.
type Reference = BTreeMap<String, Known>;

struct Known {
    default: Option<Value>,
    meaning: String,
}

/// Reads the tables of the reference: each stands below a heading, or has a head, that names tables in code.
fn reference() -> Reference {
    let mut found = Reference::new();
    let mut tables: Vec<String> = Vec::new();
    for line in REFERENCE.lines() {
        let heading = line.starts_with("## ") || line.starts_with("| `[");
        if heading {
            tables = codes(line.split(" | ").next().unwrap_or_default())
                .filter(|code| code.starts_with('['))
                .map(|code| match code.strip_prefix("[[") {
                    Some(name) => format!("/{}/[]", name.trim_end_matches(']')),
                    None => format!("/{}", code.trim_matches(['[', ']']).replace('.', "/")),
                })
                .collect();
            continue;
        }
        // A `|` within code is no border; none of ours has one.
        let line = line.replace(" | | ", " |  | "); // no default
        let mut cells = line.split(" | ");
        let (Some(keys), Some(default), Some(meaning)) = (cells.next(), cells.next(), cells.next()) else {
            continue;
        };
        if !keys.starts_with("| `") {
            continue;
        }
        let default = codes(default).next().and_then(as_json);
        for key in codes(keys) {
            for table in &tables {
                let meaning = plain(meaning.trim_end_matches(" |"));
                found.insert(format!("{table}/{key}"), Known { default: default.clone(), meaning });
            }
        }
    }
    found
}

/// What stands between backticks.
fn codes(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// A default as it is written in the file.
fn as_json(text: &str) -> Option<Value> {
    let mut table: Map<String, Value> = toml::from_str(&format!("x = {text}")).ok()?;
    table.remove("x")
}

/// Without the marks of Markdown: links become their words.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(open) = rest.find('[') {
        let (before, after) = rest.split_at(open);
        plain.push_str(before);
        match after.find("](").and_then(|close| Some((close, close + after[close..].find(')')?))) {
            Some((close, end)) => {
                plain.push_str(&after[1..close]);
                rest = &after[end + 1..];
            }
            None => {
                plain.push('[');
                rest = &after[1..];
            }
        }
    }
    plain.push_str(rest);
    plain.replace('`', "").replace("**", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The schema below this path of keys; `[]` for the items of a list.
    fn at<'s>(schema: &'s Value, path: &str) -> &'s Value {
        path.split('/').fold(schema, |schema, key| {
            let all = schema["anyOf"].as_array().map_or(std::slice::from_ref(schema), Vec::as_slice);
            let inner = |form: &'s Value| {
                if key == "[]" { form.pointer("/items") } else { form["properties"].get(key) }
            };
            all.iter().find_map(inner).unwrap_or_else(|| panic!("{key} of {path} in {schema}"))
        })
    }

    #[test]
    fn it_says_what_the_reader_takes() {
        let schema = schema();
        for (path, default) in [
            ("server/workers", json!(0)),
            ("server/idle_timeout", json!("75s")),
            ("server/max_body", json!("10MiB")),
            ("server/listen", json!(["127.0.0.1:8080"])),
            ("auth/algorithm", json!("ES256")),
            ("auth/password/argon2/memory", json!("19MiB")),
            ("auth/delegate/timeout", json!("10s")),
            ("revocation/fsync", json!("always")),
            ("upstreams/[]/balance", json!("two_choices")),
            ("upstreams/[]/targets/[]/weight", json!(1)),
            ("routes/[]/auth", json!("access")),
            ("routes/[]/rate_limit/by", json!(null)),
            ("routes/[]/cors/max_age", json!("10m")),
            ("routes/[]/request_headers/remove", json!(null)),
        ] {
            assert_eq!(at(&schema, path).pointer("/default").unwrap_or(&Value::Null), &default, "{path}");
        }
        assert_eq!(at(&schema, "routes/[]")["required"], json!(["name", "upstream"]));
        assert_eq!(schema["additionalProperties"], false);
    }

    #[test]
    fn every_key_is_explained() {
        let reference = reference();
        let schema = schema();
        let mut silent = Vec::new();
        for (table, keys) in schema["properties"].as_object().unwrap() {
            let (of, path) = match keys.pointer("/items") {
                Some(items) => (items, format!("/{table}/[]")),
                None => (keys, format!("/{table}")),
            };
            for key in of["properties"].as_object().unwrap().keys() {
                let path = format!("{path}/{key}");
                let table = of["properties"][key]["properties"].is_object();
                if !reference.contains_key(&path) && !table && path != "/auth/claims" {
                    silent.push(path);
                }
            }
        }
        assert!(silent.is_empty(), "docs/configuration.md has no row for {silent:?}");
    }
}

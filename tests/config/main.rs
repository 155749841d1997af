//! Every `cases/*.toml` against the exact words in the `*.expected` beside it, and what valid files resolve to.
//!
//! A maintainer who changes a message runs this with `UPDATE=1` and reads the diff.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod modes;
mod valid;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use portcullis::config::{self, Errors, Settings};

/// The environment that cases see.
fn env(name: &str) -> Option<String> {
    let value = match name {
        "UPSTREAM" => "http://127.0.0.1:5000",
        "PORT" => "8081",
        "SECRET_VALUE" => "hunter2",
        "NESTED" => "${PORT} and $$",
        "EMPTY" => "",
        _ => return None,
    };
    Some(value.to_owned())
}

/// Reads one configuration under the name that its messages show.
fn parse(name: &str, text: &str) -> Result<Settings, Errors> {
    stage();
    config::parse(Path::new(name), text, &env)
}

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/cases")
}

/// Copies the files that cases name into a directory of its own with the modes that they need (a checkout keeps none)
/// and goes there, so that messages hold no path of this machine. Every test of this binary runs there.
fn stage() -> &'static Path {
    static STAGE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let stage = STAGE.get_or_init(|| {
        let stage = tempfile::tempdir().unwrap();
        fs::create_dir(stage.path().join("files")).unwrap();
        for entry in fs::read_dir(cases().join("files")).unwrap() {
            let entry = entry.unwrap();
            let copy = stage.path().join("files").join(entry.file_name());
            fs::copy(entry.path(), &copy).unwrap();
            modes::set(&copy, 0o600);
        }
        std::env::set_current_dir(stage.path()).unwrap();
        stage
    });
    stage.path()
}

#[test]
fn every_broken_file_is_refused_in_exactly_these_words() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut names: Vec<_> = fs::read_dir(cases())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    names.sort();
    assert!(names.len() >= 45, "only {} cases", names.len());
    let mut wrong = Vec::new();
    for path in names {
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let found = match parse(name, &text) {
            Ok(_) => "loads\n".to_owned(),
            Err(errors) => format!("{errors}\n"),
        };
        assert!(!found.contains("hunter2"), "{name} shows a secret:\n{found}");
        let expected = path.with_extension("expected");
        if update {
            fs::write(&expected, &found).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != found {
            wrong.push(format!("--- {name}\n{found}"));
        }
    }
    assert!(wrong.is_empty(), "these differ from what is expected:\n{}", wrong.join("\n"));
}

#[test]
fn no_truncation_or_mutation_of_a_file_makes_it_panic() {
    let seed: String = fs::read_dir(cases())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| fs::read_to_string(path).unwrap())
        .filter(|text| text.len() > 800)
        .collect();
    let cuts = seed.char_indices().map(|(at, _)| at).step_by(211);
    for cut in cuts {
        let _ = parse("cut.toml", &seed[..cut]);
        let _ = parse("cut.toml", &seed[cut..]);
        for junk in ["\"", "[", "}", "=", "\\", "'''", "\u{0}", "é"] {
            let end = seed.char_indices().map(|(at, _)| at).find(|at| *at >= cut + 700).unwrap_or(seed.len());
            let _ = parse(
                "cut.toml",
                &format!("{}{junk}{}", &seed[cut..(cut + end) / 2], &seed[(cut + end) / 2..end]),
            );
        }
    }
}

#[test]
fn the_reference_explains_every_key_that_is_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let reference = fs::read_to_string(root.join("docs/configuration.md")).unwrap();
    let mut keys = 0;
    for entry in fs::read_dir(root.join("src/config")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let source = fs::read_to_string(&path).unwrap();
        for key in source.split(".get(\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            // JSON members that `files.rs` looks at.
            if ["keys", "kty", "d"].contains(&key) {
                continue;
            }
            keys += 1;
            let named = reference.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == key);
            assert!(named, "docs/configuration.md does not name {key}, which {} reads", path.display());
        }
    }
    assert!(keys > 100, "only {keys} keys were found");
}

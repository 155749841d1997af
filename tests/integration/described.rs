//! `schema`, `openapi` and `completions`: what they print, judged by validators and shells that others wrote.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Setup, python};

fn printed(arguments: &[&str]) -> String {
    let done = Setup::new().run(arguments);
    assert!(done.status.success(), "{}", done.stderr);
    done.stdout
}

#[test]
fn the_schema_takes_what_the_gateway_takes_and_both_documents_are_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = root.join("tests/integration/described");
    let python = python::with("described", &files.join("requirements.txt"));
    let dir = tempfile::tempdir().unwrap();
    let (schema, api) = (dir.path().join("schema.json"), dir.path().join("openapi.json"));
    fs::write(&schema, printed(&["schema"])).unwrap();
    fs::write(&api, printed(&["openapi"])).unwrap();
    let judged =
        Command::new(python).arg(files.join("check.py")).args([&schema, &api]).arg(root).output().unwrap();
    let told = String::from_utf8_lossy(&judged.stdout);
    assert!(judged.status.success() && told.is_empty(), "{told}{}", String::from_utf8_lossy(&judged.stderr));
}

#[test]
fn bash_completes_our_commands_by_what_is_printed() {
    let script = printed(&["completions", "bash"]);
    let ask = "COMP_WORDS=(portcullis unre); COMP_CWORD=1; _portcullis portcullis unre portcullis; echo ${COMPREPLY[@]}";
    let bash = Command::new("bash").args(["--norc", "-c", &format!("{script}\n{ask}")]).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&bash.stdout).trim(),
        "unrevoke",
        "{}",
        String::from_utf8_lossy(&bash.stderr)
    );
    for shell in ["zsh", "fish", "powershell", "elvish"] {
        assert!(printed(&["completions", shell]).contains("unrevoke"), "{shell}");
    }
}

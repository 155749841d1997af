//! Keeps the tree in order: imports point down, shipped configurations load, nothing of one machine is committed.
#![allow(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The rooms, from the door down: each imports only rooms that stand after it.
const ROOMS: [&str; 24] = [
    "cli",
    "app",
    "config",
    "server",
    "admin",
    "gateway",
    "endpoint",
    "issuer",
    "upstream",
    "fetch",
    "forward",
    "access",
    "fleet",
    "revocation",
    "store",
    "route",
    "token",
    "telemetry",
    "tls",
    "answer",
    "http2",
    "watch",
    "worker",
    "clock",
];

/// Rooms without an await, a file, a socket, a thread or a reading of the time: `now` is an argument.
const PURE: [&str; 4] = ["forward", "access", "route", "token"];

/// What a pure room does not name. (`tokio::io` traits would need a socket to be of use.)
const IMPURE: [&str; 9] = [
    ".await",
    "tokio::",
    "std::fs",
    "std::net::Tcp",
    "std::thread",
    "std::process",
    "SystemTime",
    "Instant::now",
    "SystemClock",
];

/// A source file longer than this wants its second idea taken out.
const LINES_MAX: usize = 600;

/// Files that may be longer, each with its reason.
const LONG: [(&str, &str); 1] =
    [("src/revocation/model.rs", "tests alone: one model, and every fault that is put to it")];

// --- rooms -------------------------------------------------------------------------------------------------------

#[test]
fn every_room_is_declared_and_listed() {
    let lib = read("src/lib.rs");
    let mut declared: Vec<&str> = lib
        .lines()
        .filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'))
        .collect();
    let mut listed = ROOMS.to_vec();
    declared.sort_unstable();
    listed.sort_unstable();
    assert_eq!(declared, listed, "src/lib.rs and the order of rooms in tests/tidy.rs");
}

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    for file in Source::all() {
        for (line, other) in file.imports() {
            if place(&other).is_some_and(|other| other < place(&file.room).unwrap()) {
                wrong.push(format!(
                    "{}:{line}: `{}` imports `{other}`, which stands above it",
                    file.path, file.room
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn pure_rooms_touch_nothing_outside() {
    let mut wrong = Vec::new();
    for file in Source::all().into_iter().filter(|file| PURE.contains(&file.room.as_str())) {
        for (number, line) in file.code.lines().enumerate() {
            if let Some(named) = IMPURE.iter().find(|named| line.contains(*named)) {
                wrong.push(format!("{}:{}: `{named}` in a pure room", file.path, number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_imports_sees_what_it_should() {
    let check = |path: &str, text: &str, expected: &[&str]| {
        let found: Vec<String> = Source::new(path, text)
            .imports()
            .into_iter()
            .map(|(line, room)| format!("{line} {room}"))
            .collect();
        assert_eq!(found, expected, "{text}");
    };
    check("src/token/verify.rs", "use crate::config::Settings;\n", &["1 config"]);
    check(
        "src/token/verify.rs",
        "use crate::{\n  answer::Code,\n  route::{Head, config},\n};",
        &["1 answer", "1 route"],
    );
    check("src/token/verify.rs", "fn f(x: crate::gateway::X) {}", &["1 gateway"]);
    check("src/token/mod.rs", "use super::admin;\npub(super) fn x() {}", &["1 admin"]);
    check("src/token/verify.rs", "use super::keys;\nuse super::super::app;", &["2 app"]);
    check("src/app.rs", "use super::{cli, server};", &["1 cli", "1 server"]);
    check("src/token/verify.rs", "// crate::config\n/// [`crate::config`]\n//! crate::config", &[]);
    check("src/token/verify.rs", "let x = 1; // crate::config", &[]);
    check(
        "src/token/verify.rs",
        "#[cfg(test)]\nmod tests {\n  use crate::config;\n  fn f() {}\n}\nuse crate::cli;",
        &["6 cli"],
    );
    check("src/token/verify.rs", "#[cfg(test)]\n#[path = \"x.rs\"]\nmod tests {\n use crate::config; }", &[]);
    check(
        "src/token/verify.rs",
        "let x = \"} // {\";\n#[cfg(test)]\nmod tests { const X: char = '{'; }\nuse crate::cli;",
        &["4 cli"],
    );
}

#[test]
fn every_source_file_says_what_it_is() {
    let wrong: Vec<String> = files("src", "rs")
        .into_iter()
        .filter(|path| {
            !read(path).lines().next().is_some_and(|line| line.starts_with("//! ") && line.len() > 8)
        })
        .collect();
    assert!(wrong.is_empty(), "no `//!` head: {wrong:?}");
}

#[test]
fn no_source_file_has_grown_too_long() {
    let mut wrong = Vec::new();
    for path in files("src", "rs") {
        let lines = read(&path).lines().count();
        let allowed = LONG.iter().any(|(name, _)| *name == path);
        if lines > LINES_MAX && !allowed {
            wrong.push(format!("{path}: {lines} lines; which of its ideas is the second?"));
        }
        if lines <= LINES_MAX && allowed {
            wrong.push(format!("{path}: {lines} lines; it need not be on the list any more"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// A source file of a room, its unit tests, comments and strings blanked out.
struct Source {
    path: String,
    room: String,
    /// Names from the crate's root down to this module.
    depth: usize,
    code: String,
}

impl Source {
    fn all() -> Vec<Self> {
        let paths = files("src", "rs");
        let texts: Vec<(String, String)> =
            paths.into_iter().map(|path| (path.clone(), read(&path))).collect();
        // `#[cfg(test)] mod name;` makes a whole file a test.
        let tests: Vec<String> = texts.iter().flat_map(|(path, text)| test_files(path, text)).collect();
        let all: Vec<Self> = texts
            .iter()
            .filter(|(path, _)| {
                !tests.contains(path) && !matches!(path.as_str(), "src/lib.rs" | "src/main.rs")
            })
            .map(|(path, text)| Self::new(path, text))
            .collect();
        assert!(all.len() >= ROOMS.len(), "the sources were not found");
        all
    }

    fn new(path: &str, text: &str) -> Self {
        let inner = path.strip_prefix("src/").unwrap().strip_suffix(".rs").unwrap();
        let inner = inner.strip_suffix("/mod").unwrap_or(inner);
        let room = inner.split('/').next().unwrap().to_owned();
        assert!(place(&room).is_some(), "{path} is in no room");
        let depth = inner.split('/').count();
        Self { path: path.to_owned(), room, depth, code: without_tests(&without_comments(text)) }
    }

    /// Every name right below the crate's root that the code mentions, with its line.
    fn imports(&self) -> Vec<(usize, String)> {
        let root_by_super = "super::".repeat(self.depth);
        let mut found = Vec::new();
        for root in ["crate::", root_by_super.as_str()] {
            for (at, _) in self.code.match_indices(root) {
                let before = self.code[..at].chars().next_back();
                // One `super::` more or less is another path; so is a longer identifier.
                if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                    continue;
                }
                let line =
                    self.code[..at].lines().count().max(1) + usize::from(self.code[..at].ends_with('\n'));
                let names = names(&self.code[at + root.len()..]);
                found.extend(names.into_iter().filter(|name| name != "super").map(|name| (line, name)));
            }
        }
        found.sort();
        found
    }
}

/// The first names of a path or of a group of paths.
fn names(text: &str) -> Vec<String> {
    let name =
        |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let Some(group) = text.strip_prefix('{') else { return vec![name(text)] };
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' | ',' if depth == 0 => {
                found.push(name(group[start..at].trim_start()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

/// The same text with comments, and the insides of strings and characters, as spaces: places stay, braces count.
fn without_comments(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    let blank = |out: &mut Vec<u8>, from: usize, to: usize| {
        for byte in &mut out[from..to] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    };
    let end_of =
        |from: usize, needle: &str| text[from..].find(needle).map_or(bytes.len(), |found| from + found);
    while at < bytes.len() {
        let rest = &text.as_bytes()[at..];
        let (from, to) = if rest.starts_with(b"//") {
            (at, end_of(at, "\n"))
        } else if rest.starts_with(b"/*") {
            (at, (end_of(at + 2, "*/") + 2).min(bytes.len()))
        } else if let Some(hashes) = raw_string(rest) {
            let open = at + hashes + 2;
            (open, end_of(open, &format!("\"{}", "#".repeat(hashes))))
        } else if rest[0] == b'"' {
            (at + 1, at + 1 + quoted(&rest[1..], b'"'))
        } else if rest[0] == b'\'' && (rest.get(1) == Some(&b'\\') || rest.get(2) == Some(&b'\'')) {
            (at + 1, at + 1 + quoted(&rest[1..], b'\''))
        } else {
            at += 1;
            while !text.is_char_boundary(at) {
                at += 1;
            }
            continue;
        };
        blank(&mut out, from, to);
        let closing = usize::from(matches!(bytes.get(to), Some(b'"' | b'\'')));
        at = to + closing;
    }
    String::from_utf8(out).unwrap()
}

/// The number of hashes, where a raw string begins here.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let after = rest.strip_prefix(b"r")?;
    let hashes = after.iter().take_while(|byte| **byte == b'#').count();
    (after.get(hashes) == Some(&b'"')).then_some(hashes)
}

/// How many bytes stand before the closing quote.
fn quoted(text: &[u8], quote: u8) -> usize {
    let mut at = 0;
    while at < text.len() && text[at] != quote {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    at.min(text.len())
}

/// The same text without the modules under `#[cfg(test)]`; lines stay where they are.
fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    for (at, _) in code.match_indices("#[cfg(test)]") {
        let body = code[at..].find(['{', ';']).map_or(code.len(), |found| at + found);
        let end = if code[body..].starts_with('{') { closing(code, body) } else { body };
        // Byte by byte, so that every other place stays as it is.
        let blank: String = code[at..end].bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }).collect();
        out.replace_range(at..end, &blank);
    }
    out
}

/// The place after the brace that closes the one at `open`.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// Files that a `#[cfg(test)] mod name;` of this one names.
fn test_files(path: &str, text: &str) -> Vec<String> {
    let code = without_comments(text);
    let folder = match path.strip_suffix("/mod.rs") {
        Some(folder) => folder.to_owned(),
        None => path.strip_suffix(".rs").unwrap().to_owned(),
    };
    code.match_indices("#[cfg(test)]")
        .filter_map(|(at, marker)| {
            let item = code[at + marker.len()..].trim_start();
            let item = item.trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ");
            let name = item.strip_prefix("mod ")?.split_once(';')?.0;
            name.chars().all(|c| c.is_alphanumeric() || c == '_').then(|| format!("{folder}/{name}.rs"))
        })
        .collect()
}

fn place(room: &str) -> Option<usize> {
    ROOMS.iter().position(|name| *name == room)
}

// --- what is shipped ---------------------------------------------------------------------------------------------

fn portcullis(arguments: &[&str], config: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(arguments)
        .arg("--config")
        .arg(config)
        .env("PORTCULLIS_UPSTREAM", "http://127.0.0.1:5000")
        .output()
        .unwrap()
}

#[track_caller]
fn loads(config: &Path) {
    assert!(config.exists(), "{} is missing", config.display());
    let output = portcullis(&["check"], config);
    assert!(output.status.success(), "{}\n{}", config.display(), String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_shipped_configurations_load() {
    loads(&root().join("gateway.toml"));
    loads(&root().join("examples/container/gateway.toml"));
}

#[test]
fn the_configuration_of_the_flask_example_loads_with_its_secret() {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("secrets")).unwrap();
    let mut secret = fs::OpenOptions::new();
    let mut secret =
        secret.write(true).create_new(true).mode(0o600).open(dir.path().join("secrets/jwt")).unwrap();
    writeln!(secret, "{}", "s".repeat(48)).unwrap();
    fs::copy(root().join("examples/flask-legacy/gateway.toml"), dir.path().join("gateway.toml")).unwrap();
    loads(&dir.path().join("gateway.toml"));
}

// --- what must not be committed ----------------------------------------------------------------------------------

/// Every text file of the project.
fn texts() -> Vec<(String, String)> {
    let found = files("", "");
    let texts: Vec<(String, String)> = found
        .into_iter()
        .filter(|path| path != "Cargo.lock")
        .filter_map(|path| fs::read_to_string(root().join(&path)).ok().map(|text| (path, text)))
        .collect();
    assert!(texts.len() > 40, "the project was not found");
    texts
}

fn no_text_has(what: &str, needles: &[String]) {
    let mut wrong = Vec::new();
    for (path, text) in texts() {
        for (number, line) in text.lines().enumerate() {
            if let Some(needle) = needles.iter().find(|needle| line.contains(needle.as_str())) {
                wrong.push(format!("{path}:{}: {needle}", number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
}

#[test]
fn no_path_of_one_machine_is_committed() {
    let homes = ["work", "root", "farm", "Users", "home/runner", "tmp/bash_jobs"];
    let needles: Vec<String> = homes.iter().map(|name| format!("/{name}/")).collect();
    no_text_has("paths of one machine", &needles);
}

#[test]
fn no_host_of_a_package_registry_is_committed() {
    let hosts = [
        ("index.crates", "io"),
        ("static.crates", "io"),
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("registry.npmjs", "org"),
        ("deb.debian", "org"),
        ("security.debian", "org"),
        ("proxy.golang", "org"),
        ("docker", "io"),
        ("ghcr", "io"),
        ("quay", "io"),
    ];
    let needles: Vec<String> = hosts.iter().map(|(name, end)| format!("{name}.{end}")).collect();
    no_text_has("hosts of package registries", &needles);
}

// --- files -------------------------------------------------------------------------------------------------------

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Paths from the root of the project, sorted, of files under `folder` with this extension; empty: any.
fn files(folder: &str, extension: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            // Built, fetched or made while running: not ours to judge.
            let foreign =
                [".git", "target", "state", "secrets", ".venv", "__pycache__", "proptest-regressions"];
            if foreign.contains(&name.as_str()) || path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if extension.is_empty() || path.extension().is_some_and(|found| found == extension) {
                found.push(path.strip_prefix(root()).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

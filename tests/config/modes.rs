//! Files that others can read, files that are missing, and the shipped example: what needs a real directory.

use std::fs;
use std::path::Path;

use portcullis::config;

/// Sets the mode of a file.
#[cfg(unix)]
pub(crate) fn set(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[cfg(not(unix))]
pub(crate) fn set(_: &Path, _: u32) {}

/// Loads `text` from a directory prepared by `prepare`; the message has `DIR` for the directory.
fn load(text: &[u8], prepare: impl FnOnce(&Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path());
    let path = dir.path().join("gateway.toml");
    fs::write(&path, text).unwrap();
    match config::load(&path) {
        Ok(_) => "loads".to_owned(),
        Err(errors) => errors.to_string().replace(dir.path().to_str().unwrap(), "DIR"),
    }
}

const SECRET_ISSUER: &[u8] =
    b"[[issuers]]\nname = \"legacy\"\nalgorithms = [\"HS256\"]\nsecret_file = \"my secret\"\n";

#[cfg(unix)]
#[test]
fn a_secret_that_others_can_read_is_refused_with_the_command_that_mends_it() {
    let found = load(SECRET_ISSUER, |dir| {
        fs::write(dir.join("my secret"), [b'x'; 32]).unwrap();
        set(&dir.join("my secret"), 0o640);
    });
    assert_eq!(
        found,
        "DIR/gateway.toml:4:15: secret_file \"my secret\" has mode 0640: others on this machine can get at it\n    4 \
         | secret_file = \"my secret\"\n      |               ^^^^^^^^^^^\nhint: chmod 600 'DIR/my secret'"
    );
}

#[cfg(unix)]
#[test]
fn a_secret_of_the_owner_alone_is_taken() {
    let found = load(SECRET_ISSUER, |dir| {
        fs::write(dir.join("my secret"), [b'x'; 32]).unwrap();
        set(&dir.join("my secret"), 0o400);
    });
    assert_eq!(found, "loads");
}

#[cfg(unix)]
#[test]
fn state_that_others_can_read_is_refused_even_where_its_path_is_the_default() {
    let found = load(b"", |dir| {
        fs::create_dir(dir.join("state")).unwrap();
        set(&dir.join("state"), 0o755);
        fs::write(dir.join("state/admin.token"), "t").unwrap();
        set(&dir.join("state/admin.token"), 0o604);
    });
    assert_eq!(
        found,
        "DIR/gateway.toml: token_file \"DIR/state/admin.token\" has mode 0604: others on this machine can get at \
         it\nhint: chmod 600 DIR/state/admin.token\n\nDIR/gateway.toml: state directory \"DIR/state\" has mode 0755: \
         others on this machine can get at it\nhint: chmod 700 DIR/state"
    );
}

#[test]
fn a_file_where_the_state_directory_should_be_is_refused() {
    let found = load(b"[state]\ndir = \"here\"\n", |dir| fs::write(dir.join("here"), "").unwrap());
    assert_eq!(
        found,
        "DIR/gateway.toml:2:7: state directory \"DIR/here\" is not a directory\n    2 | dir = \"here\"\n      |       \
         ^^^^^^"
    );
}

#[cfg(unix)]
#[test]
fn a_pipe_for_a_secret_does_not_make_the_start_wait() {
    let found = load(SECRET_ISSUER, |dir| {
        let status = std::process::Command::new("mkfifo").arg(dir.join("my secret")).status().unwrap();
        assert!(status.success());
        set(&dir.join("my secret"), 0o600);
    });
    assert!(found.contains("secret_file \"my secret\" is not a regular file"), "{found}");
}

#[test]
fn a_missing_file_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let errors = config::load(&dir.path().join("none.toml")).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(
        errors.to_string().replace(dir.path().to_str().unwrap(), "DIR"),
        "DIR/none.toml: there is no such file\nhint: name the configuration with --config FILE, or start from the \
         gateway.toml that comes with portcullis"
    );
    let errors = config::load(dir.path()).unwrap_err();
    assert!(errors.to_string().contains("this is a directory"), "{errors}");
}

#[test]
fn a_file_that_is_not_utf_8_is_refused_with_line_and_offset() {
    assert_eq!(
        load(b"[server]\nrealm = \"caf\xe9\"\n", |_| ()),
        "DIR/gateway.toml:2:13: byte 0xe9 at offset 21 is not UTF-8\n    2 | realm = \"caf\u{fffd}\"\n      |             \
         ^\nhint: save the file as UTF-8"
    );
    assert!(load(b"\xff\xfe[\0", |_| ()).ends_with("hint: it is UTF-16: save the file as UTF-8"));
}

#[test]
fn a_byte_order_mark_and_carriage_returns_move_no_column() {
    assert_eq!(
        load(b"\xef\xbb\xbf[server]\r\nworkers = -1\r\n", |_| ()),
        "DIR/gateway.toml:2:11: workers = -1 is out of range\n    2 | workers = -1\n      |           ^^\nhint: it must \
         be from 0 to 1024"
    );
    assert!(load(b"\xef\xbb\xbfx = 1\r\n", |_| ()).starts_with("DIR/gateway.toml:1:1: "));
}

#[test]
fn the_machine_form_says_the_same() {
    let errors = config::parse(Path::new("g.toml"), "[server]\nlisen = []\n", &|_| None).unwrap_err();
    assert_eq!(
        serde_json::to_value(&errors).unwrap(),
        serde_json::json!([{
            "file": "g.toml",
            "line": 2,
            "column": 1,
            "message": "unknown key \"lisen\" in [server]",
            "hint": "did you mean \"listen\"?",
        }])
    );
}

#[test]
fn the_shipped_example_loads_as_it_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("gateway.toml");
    // From a directory of its own: a state directory of somebody's trial run beside it has no say here.
    let found = load(&fs::read(path).unwrap(), |_| ());
    assert_eq!(found, "loads");
}

#[test]
fn the_example_shows_every_default_and_each_loads_when_it_is_written_out() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("gateway.toml");
    let text = fs::read_to_string(path).unwrap();
    // A commented default is "#key = value"; prose and examples have a space after the sign.
    let uncommented: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => {
                format!("{rest}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    assert_ne!(text, uncommented);
    let path = Path::new("gateway.toml");
    let plain = config::parse(path, &text, &|_| None).unwrap();
    let explicit = config::parse(path, &uncommented, &|_| None).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(plain, explicit);
}

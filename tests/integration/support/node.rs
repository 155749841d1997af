//! Node with packages from npm, for clients that we did not write.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::python::must_run;

/// A directory under `target/` with this script and the packages of `package.json` beside it, made once and kept until
/// that file changes. Several test processes may want it at the same time.
pub(crate) fn with(name: &str, package: &Path, script: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&root).unwrap();
    let lock = File::create(root.join("lock")).unwrap();
    lock.lock().unwrap();
    let place = root.join(script.file_name().expect("a file"));
    fs::copy(script, &place).unwrap();
    let wanted = fs::read_to_string(package).unwrap();
    let stamp = root.join("installed");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return place;
    }
    let _ = fs::remove_dir_all(root.join("node_modules"));
    let _ = fs::remove_file(root.join("package-lock.json"));
    fs::copy(package, root.join("package.json")).unwrap();
    must_run(
        Command::new("npm").args(["install", "--silent", "--no-audit", "--no-fund"]).current_dir(&root),
        "node and npm are needed, and the npm registry (Debian: apt-get install nodejs npm; `make test` does it)",
    );
    fs::write(&stamp, wanted).unwrap();
    place
}

//! Python with packages from PyPI, for servers and clients that we did not write.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A Python with the packages of `requirements`, in a virtual environment under `target/`, made once and kept until
/// the file changes. Several test processes may want it at the same time.
pub(crate) fn with(name: &str, requirements: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&root).unwrap();
    let lock = File::create(root.join("lock")).unwrap();
    lock.lock().unwrap();
    let wanted = fs::read_to_string(requirements).unwrap();
    let (venv, stamp) = (root.join("venv"), root.join("installed"));
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted)
        && venv.join("bin/python").exists()
    {
        return venv.join("bin/python");
    }
    let _ = fs::remove_dir_all(&venv);
    must_run(
        Command::new("python3").args(["-m", "venv"]).arg(&venv),
        "python3 with its venv module is needed (Debian: apt-get install python3-venv; `make test` does it)",
    );
    must_run(
        Command::new(venv.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--requirement"])
            .arg(requirements),
        &format!("the packages of {} could not be installed from PyPI", requirements.display()),
    );
    fs::write(&stamp, wanted).unwrap();
    venv.join("bin/python")
}

/// Never skips: what is missing fails the test, with words.
pub(super) fn must_run(command: &mut Command, hint: &str) {
    match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => panic!(
            "{hint}\n{command:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) => panic!("{hint}\n{command:?}: {error}"),
    }
}

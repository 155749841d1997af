//! A real browser without a window, on a profile of its own.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// Runs until it is dropped.
pub(crate) struct Chromium {
    child: Child,
    _profile: TempDir,
}

impl Chromium {
    /// Opens this page.
    pub(crate) fn open(url: &str) -> Self {
        let (mut command, profile) = prepared();
        let child = command.arg("--remote-debugging-port=0").arg(url).spawn();
        Self { child: child.unwrap_or_else(|error| panic!("{NEEDED}: {error}")), _profile: profile }
    }
}

const NEEDED: &str = "chromium is needed (Debian: apt-get install chromium; `make test` does it)";

fn prepared() -> (Command, TempDir) {
    let profile = tempfile::Builder::new().prefix("portcullis-chromium-").tempdir().unwrap();
    let mut command = Command::new("chromium");
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        .args(["--no-first-run", "--disable-sync", "--disable-component-update", "--no-proxy-server"])
        .args(["--disable-dev-shm-usage", "--disable-extensions", "--disable-default-apps"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    (command, profile)
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // Its helpers are in its group.
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.child.wait();
    }
}

//! What is put under the program, compiled by the test: a library that it loads first, and a program that cuts power.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::mount::tell;

/// The compiled pieces, in a directory of their own.
#[derive(Debug)]
pub(crate) struct Shim {
    dir: TempDir,
}

impl Shim {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("portcullis-shim-").tempdir().unwrap();
        let shim = Self { dir };
        let source = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults").join(name);
        let warnings = ["-O1", "-Wall", "-Werror"];
        tell(
            Command::new("cc")
                .args(warnings)
                .args(["-shared", "-fPIC", "-o"])
                .arg(shim.library())
                .arg(source("shim.c")),
        );
        tell(Command::new("cc").args(warnings).arg("-o").arg(shim.power_cutter()).arg(source("power.c")));
        shim
    }

    /// For `LD_PRELOAD`.
    pub(crate) fn library(&self) -> PathBuf {
        self.path("shim.so")
    }

    pub(crate) fn power_cutter(&self) -> PathBuf {
        self.path("power")
    }

    /// A file beside them.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

//! System calls of the log's writer that fail because `strace` says so, while the gateway runs.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::support::gateway::signal;
use crate::support::{Gateway, wait_for};

/// The thread that alone writes the log, as the kernel knows it.
const THREAD: &str = "revocation-log";

/// A tracer at work; the calls fail until it is gone.
#[derive(Debug)]
pub(crate) struct Tracer {
    child: Child,
    dir: TempDir,
}

impl Tracer {
    /// Makes calls of the log's writer fail: each as `strace -e inject=` takes it, such as
    /// `fdatasync:error=EIO:when=3+5`, which is the third from now and every fifth from there.
    pub(crate) fn attach(gateway: &Gateway, injections: &[&str]) -> Self {
        let thread = writer(gateway.process());
        let dir = tempfile::Builder::new().prefix("portcullis-strace-").tempdir().unwrap();
        let calls: Vec<&str> = injections.iter().map(|text| text.split(':').next().unwrap()).collect();
        let mut command = Command::new("strace");
        command
            .args(["-p", &thread, "-e", &format!("trace={}", calls.join(","))])
            .arg("-o")
            .arg(dir.path().join("trace"));
        for injection in injections {
            command.args(["-e", &format!("inject={injection}")]);
        }
        let stderr = fs::File::create(dir.path().join("words")).unwrap();
        let child = command.stdin(Stdio::null()).stderr(stderr).spawn().unwrap_or_else(|error| {
            panic!("strace: {error}; scripts/test-needs installs what the tests need")
        });
        let mut tracer = Self { child, dir };
        wait_for("strace to attach", || {
            let words = fs::read_to_string(tracer.dir.path().join("words")).unwrap();
            let ended = tracer.child.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "strace cannot trace the gateway; it needs the right to (ptrace): {words}"
            );
            words.contains("attached").then_some(())
        });
        tracer
    }

    /// How many calls were made to fail so far.
    pub(crate) fn failures(&self) -> usize {
        let trace = fs::read_to_string(self.dir.path().join("trace")).unwrap_or_default();
        trace.lines().filter(|line| line.ends_with("(INJECTED)")).count()
    }

    /// Lets go of the gateway; how many calls failed.
    pub(crate) fn detach(mut self) -> usize {
        signal(self.child.id(), "INT");
        wait_for("strace to end", || self.child.try_wait().unwrap());
        self.failures()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The id of the writer's thread.
fn writer(process: u32) -> String {
    let tasks = PathBuf::from(format!("/proc/{process}/task"));
    let mut threads = fs::read_dir(&tasks).unwrap().map(|entry| entry.unwrap().path());
    let writer = threads
        .find(|path| fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim_end() == THREAD));
    let path = writer.unwrap_or_else(|| panic!("no thread {THREAD} in {}", tasks.display()));
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

//! Programs that others wrote, or that run what others wrote, for as long as a test wants them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;

use serde_json::Value;

use super::wait::{DEADLINE, wait_for};

/// A program with its lines of output; killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
}

/// A file of the tests, by its name under `tests/integration/`.
pub(crate) fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration").join(name)
}

impl Program {
    pub(crate) fn start(command: &mut Command) -> Self {
        command.env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = mpsc::sync_channel(1024);
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, input, lines }
    }

    /// A script of the tests, in a Python that has the packages of a `requirements.txt` beside it.
    pub(crate) fn python(directory: &str, script: &str, arguments: &[&str]) -> Self {
        let python = super::python::with(directory, &file(directory).join("requirements.txt"));
        Self::start(Command::new(python).arg(file(directory).join(script)).args(arguments))
    }

    /// The next line that it prints; empty at its end.
    pub(crate) fn line(&mut self) -> String {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => line.trim_end().to_owned(),
            Err(mpsc::RecvTimeoutError::Disconnected) => String::new(),
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("no line within {DEADLINE:?}"),
        }
    }

    /// The next line, which must be JSON with this `step`.
    #[track_caller]
    pub(crate) fn step(&mut self, name: &str) -> Value {
        let line = self.line();
        let step: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{name}: {error}: {line:?}"));
        assert_eq!(step["step"], name, "{step}");
        step
    }

    /// A line of input.
    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
        self.input.flush().unwrap();
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for it to end by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for("a program to end", || self.child.try_wait().unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

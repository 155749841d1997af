//! A real Redis server of the test's own, in a temporary directory, on a port of loopback. Unit tests, integration tests
//! and benches include this file.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// A running server; dropping it ends the process and removes the directory.
pub(crate) struct Redis {
    dir: TempDir,
    program: &'static str,
    port: u16,
    settings: String,
    process: Option<Child>,
}

impl Redis {
    /// One that keeps an append-only file, synced each second.
    pub(crate) fn start() -> Self {
        Self::start_with("appendonly yes\nappendfsync everysec\nmaxmemory-policy noeviction\n")
    }

    /// One with these lines in its configuration, beside its place and port.
    pub(crate) fn start_with(settings: &str) -> Self {
        Self::start_as("redis-server", settings, |_| {})
    }

    /// The same, after `prepare` has put files into its directory. `{dir}` in the settings is that directory.
    pub(crate) fn start_as(program: &'static str, settings: &str, prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::Builder::new().prefix("portcullis-redis-").tempdir().unwrap();
        prepare(dir.path());
        let settings = settings.replace("{dir}", &dir.path().display().to_string());
        let mut server = Self { dir, program, port: free_port(), settings, process: None };
        server.begin();
        server
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn process(&self) -> u32 {
        self.process.as_ref().expect("a running server").id()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// `STOP` makes it a server that accepts and never answers.
    pub(crate) fn signal(&self, name: &str) {
        let killed = Command::new("kill").arg(format!("-{name}")).arg(self.process().to_string()).status();
        assert!(killed.unwrap().success(), "kill -{name}");
    }

    pub(crate) fn kill9(&mut self) {
        let mut process = self.process.take().expect("a running server");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Starts it again where it was, with what it has on disk.
    pub(crate) fn begin(&mut self) {
        let dir = self.dir.path();
        let config = dir.join("server.conf");
        let whole = format!(
            "bind 127.0.0.1\nport {}\ndir {}\nsave \"\"\n{}",
            self.port,
            dir.display(),
            self.settings
        );
        fs::write(&config, whole.replace("{port}", &self.port.to_string())).unwrap();
        let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", self.program]).arg(&config).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let hint =
            "Redis is needed (Debian: apt-get install redis-server redis-sentinel; `make test` does it)";
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{hint}: {error}"));
        let started = Instant::now();
        loop {
            if TcpStream::connect(self.address()).is_ok() {
                break;
            }
            let ended = child.try_wait().unwrap();
            let log = || fs::read_to_string(dir.join("log")).unwrap_or_default();
            assert!(ended.is_none(), "{hint}\n{} ended: {ended:?}\n{}", self.program, log());
            assert!(started.elapsed() < PATIENCE, "{} does not start\n{}", self.program, log());
            thread::sleep(Duration::from_millis(10));
        }
        self.process = Some(child);
    }

    /// Removes everything that it has on disk; it must not run.
    pub(crate) fn empty(&self) {
        assert!(self.process.is_none());
        let _ = fs::remove_dir_all(self.dir.path().join("appendonlydir"));
        let _ = fs::remove_file(self.dir.path().join("dump.rdb"));
    }

    /// A copy of what it has on disk now.
    pub(crate) fn copy(&self) -> PathBuf {
        let copy = self.dir.path().join("copy");
        let _ = fs::remove_dir_all(&copy);
        let from = self.dir.path().join("appendonlydir");
        must(Command::new("cp").arg("-r").arg(from).arg(&copy));
        copy
    }

    /// Puts such a copy in the place of what it has; it must not run.
    pub(crate) fn restore(&self, copy: &Path) {
        self.empty();
        must(Command::new("cp").arg("-r").arg(copy).arg(self.dir.path().join("appendonlydir")));
    }

    /// One command, as words; what came back, raw. Waits until the server has loaded its data.
    pub(crate) fn command(&self, words: &[&str]) -> String {
        command_at(self.address(), words)
    }
}

/// One command to whoever listens there.
pub(crate) fn command_at(address: SocketAddr, words: &[&str]) -> String {
    let started = Instant::now();
    loop {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut text = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| text.push_str(&format!("${}\r\n{word}\r\n", word.len())));
        stream.write_all(text.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        if !answer.starts_with("-LOADING") {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "{answer}");
        thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill9();
        }
    }
}

/// A port that nobody listens on; somebody else could take it before us, which fails loudly.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn must(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

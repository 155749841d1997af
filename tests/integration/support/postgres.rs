//! A real PostgreSQL server of the test's own, in a temporary directory, with fsync on. Unit tests, integration tests
//! and benches include this file.
//!
//! `initdb` takes seconds, so it runs once: what it made is kept as an archive under `target/tmp/`, and every server
//! starts from a copy. It refuses to run as root; then the server runs as another user.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
/// Only the name of a socket: the server listens on no network address unless asked to.
const PORT: u16 = 5432;

/// A running server; dropping it ends the processes and removes the directory.
pub(crate) struct Postgres {
    dir: TempDir,
    port: u16,
    settings: Vec<String>,
    postmaster: Option<Child>,
}

impl Postgres {
    /// Starts a server with one empty database, `portcullis`.
    pub(crate) fn start() -> Self {
        Self::start_on(PORT, &[], |_| {})
    }

    /// The same with settings (`name=value`), after `prepare` has put files into its data directory.
    pub(crate) fn start_on(port: u16, settings: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let archive = archive();
        let dir = tempfile::Builder::new().prefix("portcullis-pg-").tempdir().unwrap();
        must(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(dir.path()));
        prepare(&dir.path().join("data"));
        own(dir.path());
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let mut server = Self { dir, port, settings, postmaster: None };
        server.begin();
        server
    }

    /// Where clients find it: over a socket in its directory.
    pub(crate) fn url(&self) -> String {
        format!("postgres:///portcullis?host={}&port={}&user=gate", self.dir.path().display(), self.port)
    }

    /// Its process.
    pub(crate) fn process(&self) -> u32 {
        self.postmaster.as_ref().expect("a running server").id()
    }

    /// Every process of it gets this signal: `STOP` makes it a server that accepts and never answers.
    pub(crate) fn signal(&self, name: &str) {
        let postmaster = self.process();
        let children = children_of(postmaster);
        send(name, std::iter::once(postmaster).chain(children));
    }

    /// SIGKILL to all its processes, as a power cut would.
    pub(crate) fn kill9(&mut self) {
        let mut postmaster = self.postmaster.take().expect("a running server");
        // Stopped it makes no more of them; one that was missed would hold its memory, and the next server would not start.
        send("STOP", [postmaster.id()]);
        let children = children_of(postmaster.id());
        send("KILL", children.iter().copied().chain([postmaster.id()]));
        let _ = postmaster.wait();
        let deadline = Instant::now() + PATIENCE;
        while children.iter().any(|child| is_alive(*child)) {
            assert!(Instant::now() < deadline, "a process of PostgreSQL outlives SIGKILL");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts it again where it was.
    pub(crate) fn begin(&mut self) {
        let dir = self.dir.path();
        let mut server = as_somebody("postgres");
        server.arg("-D").arg(dir.join("data")).arg("-k").arg(dir).args(["-p", &self.port.to_string()]);
        let settings =
            ["listen_addresses=", "shared_buffers=32MB", "max_connections=60", "log_min_messages=warning"];
        for setting in settings.iter().copied().chain(self.settings.iter().map(String::as_str)) {
            server.args(["-c", setting]);
        }
        let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
        server.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).current_dir("/");
        let mut child = server.spawn().unwrap();
        let started = Instant::now();
        loop {
            let mut ready = Command::new(program("pg_isready"));
            ready.arg("-q").arg("-h").arg(dir).args(["-p", &self.port.to_string()]);
            if ready.status().unwrap().success() {
                break;
            }
            let ended = child.try_wait().unwrap();
            let log = || fs::read_to_string(dir.join("log")).unwrap_or_default();
            assert!(ended.is_none(), "PostgreSQL ended: {ended:?}\n{}", log());
            assert!(started.elapsed() < PATIENCE, "PostgreSQL does not start\n{}", log());
            thread::sleep(Duration::from_millis(20));
        }
        self.postmaster = Some(child);
    }

    /// Its disk as it is now; to be asked of a server that was killed.
    pub(crate) fn copied(&self) -> TempDir {
        let copy = tempfile::Builder::new().prefix("portcullis-pg-copy-").tempdir().unwrap();
        must(Command::new("cp").arg("-a").arg(self.dir.path().join("data")).arg(copy.path()));
        copy
    }

    /// A copy takes the place of its disk; of a server that was killed.
    pub(crate) fn replaced_by(&self, copy: &TempDir) {
        let data = self.dir.path().join("data");
        fs::remove_dir_all(&data).unwrap();
        must(Command::new("cp").arg("-a").arg(copy.path().join("data")).arg(&data));
    }

    /// A standby that follows it, by streaming.
    pub(crate) fn standby(&self) -> Self {
        let dir = tempfile::Builder::new().prefix("portcullis-pg-").tempdir().unwrap();
        own(dir.path());
        let mut copy = as_somebody("pg_basebackup");
        copy.arg("-h").arg(self.dir.path()).args(["-p", &self.port.to_string(), "-U", "gate"]);
        copy.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "-D"])
            .arg(dir.path().join("data"));
        must(copy.current_dir("/"));
        let mut standby = Self { dir, port: self.port, settings: self.settings.clone(), postmaster: None };
        standby.begin();
        standby
    }

    /// Runs SQL as the superuser, in the database `portcullis`; gives what it printed.
    pub(crate) fn sql(&self, sql: &str) -> String {
        let mut psql = Command::new(program("psql"));
        psql.arg("-h").arg(self.dir.path()).args(["-p", &self.port.to_string(), "-U", "gate", "-qAtX"]);
        psql.args(["-v", "ON_ERROR_STOP=1", "-d", "portcullis", "-c", sql]);
        must(&mut psql)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.postmaster.is_some() {
            self.kill9();
        }
    }
}

/// A signal to each; one that has ended meanwhile is none of our concern.
fn send(name: &str, processes: impl IntoIterator<Item = u32>) {
    let all: Vec<String> = processes.into_iter().map(|process| process.to_string()).collect();
    let script = format!("kill -{name} {} 2>/dev/null", all.join(" "));
    let _ = Command::new("sh").args(["-c", &script]).status();
}

fn children_of(parent: u32) -> Vec<u32> {
    let processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    processes.filter(|process| parent_of(*process) == Some(parent)).collect()
}

/// Not gone, and not a zombie, which holds nothing any more.
fn is_alive(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// The parent of a process, from `/proc/ID/stat` (proc(5)): the second field behind the name in parentheses.
fn parent_of(process: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// A data directory as `initdb` leaves it, with the database, packed.
fn archive() -> PathBuf {
    let kept = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().join("tmp/postgres");
    fs::create_dir_all(&kept).unwrap();
    let lock = File::create(kept.join("lock")).unwrap();
    lock.lock().unwrap();
    let version = must(Command::new(program("postgres")).arg("--version"));
    let name: String = version.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.').collect();
    let archive = kept.join(format!("{name}-1.tar"));
    if archive.exists() {
        return archive;
    }
    let dir = tempfile::Builder::new().prefix("portcullis-pg-").tempdir().unwrap();
    own(dir.path());
    let data = dir.path().join("data");
    let mut initdb = as_somebody("initdb");
    initdb.args(["--username=gate", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"]);
    must(initdb.arg(&data).current_dir("/"));
    let mut single = as_somebody("postgres");
    single.args(["--single", "-D"]).arg(&data).arg("postgres").current_dir("/").stdin(Stdio::piped());
    let mut single = single.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::io::Write::write_all(&mut single.stdin.take().unwrap(), b"CREATE DATABASE portcullis\n").unwrap();
    assert!(single.wait().unwrap().success(), "CREATE DATABASE");
    let new = archive.with_extension("new");
    must(Command::new("tar").arg("-cf").arg(&new).arg("-C").arg(dir.path()).arg("data"));
    fs::rename(new, &archive).unwrap();
    archive
}

/// Gives everything below `dir` to whom the server runs as.
fn own(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    if is_root() {
        must(Command::new("chown").arg("-R").arg(somebody()).arg(dir));
    }
}

/// A program of PostgreSQL, as a user who is not root, that ends with the thread that starts it.
fn as_somebody(name: &str) -> Command {
    let mut command = Command::new("setpriv");
    if is_root() {
        command.args(["--reuid", somebody(), "--regid", somebody(), "--clear-groups"]);
    }
    command.args(["--pdeathsig", "QUIT"]).arg(program(name));
    command
}

/// The user that the Debian package makes.
fn somebody() -> &'static str {
    "postgres"
}

fn is_root() -> bool {
    must(Command::new("id").arg("-u")).trim() == "0"
}

/// Debian keeps the server's programs out of the path.
fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|version| {
            let path = version.path().join("bin").join(name);
            Some((version.file_name().to_str()?.parse().ok()?, path)).filter(|(_, path)| path.exists())
        })
        .collect();
    found.sort();
    found.pop().map_or_else(|| name.into(), |(_, path)| path)
}

/// Never skips: what is missing fails the test, with words.
fn must(command: &mut Command) -> String {
    let hint = "PostgreSQL is needed (Debian: apt-get install postgresql; `make test` does it)";
    let output = command.output().unwrap_or_else(|error| panic!("{hint}\n{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{hint}\n{command:?}: {}\n{}", output.status, text(&output.stderr));
    text(&output.stdout)
}

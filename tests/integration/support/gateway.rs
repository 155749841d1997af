//! The real program, started on a generated `gateway.toml` in a directory of its own, on ports that it picks.

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;
use tempfile::TempDir;

use super::http::{Answer, Call, Connection, encoded};
use super::resolver::{RESOLV_CONF, Resolver, resolving_by};
use super::wait::wait_for;

/// The admin listener as every configuration here has it.
const ANY_ADMIN_PORT: &str = "[admin]\nlisten = \"127.0.0.1:0\"";
/// The configuration of commands for a gateway that runs: with the port that it picked.
const REACHING: &str = "reaching.toml";

/// Both mounts that the tutorial's clients know.
const PREFIXES: &str = r#"prefixes = ["/auth", "/api/v1/auth"]"#;

thread_local! {
    static EACH_START: RefCell<Option<EachStart>> = const { RefCell::new(None) };
}

/// The store of the next configurations that this thread makes, and what is done before each.
struct EachStart {
    url: String,
    before: Box<dyn Fn()>,
}

/// From now on, every configuration made on this thread has the store `url`, and `before` is run when it is begun: for
/// a story that is told on another store than the default one.
pub(crate) fn each_start_on(url: &str, before: impl Fn() + 'static) {
    EACH_START.set(Some(EachStart { url: url.to_owned(), before: Box::new(before) }));
}

/// A configuration in the making, and the directory it will stand in.
#[derive(Debug)]
pub(crate) struct Setup {
    dir: TempDir,
    server: String,
    auth: String,
    sections: String,
    environment: Vec<(String, String)>,
}

impl Setup {
    /// Auth endpoints under both prefixes; neither upstream nor route yet.
    pub(crate) fn new() -> Self {
        let sections = EACH_START.with_borrow(|each| {
            each.as_ref().map_or_else(String::new, |each| {
                (each.before)();
                format!("[store]\nurl = \"{}\"\n", each.url)
            })
        });
        Self {
            dir: tempfile::Builder::new().prefix("portcullis-").tempdir().unwrap(),
            server: String::new(),
            auth: format!("{PREFIXES}\n"),
            sections,
            environment: Vec::new(),
        }
    }

    /// The gateway issues no tokens of its own.
    pub(crate) fn without_auth() -> Self {
        Self { auth: "enabled = false\n".to_owned(), ..Self::new() }
    }

    /// Lines of `[server]`.
    pub(crate) fn server(mut self, lines: &str) -> Self {
        self.server.push_str(lines);
        self.server.push('\n');
        self
    }

    /// Lines of `[auth]`.
    pub(crate) fn auth(mut self, lines: &str) -> Self {
        self.auth.push_str(lines);
        self.auth.push('\n');
        self
    }

    /// A variable in the environment of the program, from its first start on.
    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Whole tables.
    pub(crate) fn section(mut self, text: &str) -> Self {
        self.sections.push_str(text);
        self.sections.push('\n');
        self
    }

    pub(crate) fn upstream(self, name: &str, address: SocketAddr) -> Self {
        self.upstream_with(name, address, "")
    }

    pub(crate) fn upstream_with(self, name: &str, address: SocketAddr, lines: &str) -> Self {
        self.section(&format!("[[upstreams]]\nname = \"{name}\"\ntargets = [\"http://{address}\"]\n{lines}"))
    }

    pub(crate) fn route(self, name: &str, path: &str, upstream: &str, auth: &str) -> Self {
        self.route_with(name, path, upstream, auth, "")
    }

    pub(crate) fn route_with(self, name: &str, path: &str, upstream: &str, auth: &str, lines: &str) -> Self {
        self.section(&format!(
            "[[routes]]\nname = \"{name}\"\npath = \"{path}\"\nupstream = \"{upstream}\"\nauth = \"{auth}\"\n{lines}"
        ))
    }

    /// A file beside the configuration that its owner alone can read.
    pub(crate) fn secret(self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
        file.write_all(bytes.as_ref()).unwrap();
        self
    }

    /// The program resolves names by this alone.
    pub(crate) fn resolver(self, resolver: &Resolver) -> Self {
        self.secret(RESOLV_CONF, resolver.resolv_conf())
    }

    /// A file's place, from its name in the configuration.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The whole configuration.
    pub(crate) fn toml(&self) -> String {
        format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\n{}\n{ANY_ADMIN_PORT}\n\n[auth]\n{}\n{}",
            self.server, self.auth, self.sections
        )
    }

    /// Starts on this configuration and waits until the gateway is ready.
    pub(crate) fn start(self) -> Gateway {
        let toml = self.toml();
        self.start_with(&toml)
    }

    /// Starts on another text in the same directory.
    pub(crate) fn start_with(self, toml: &str) -> Gateway {
        fs::write(self.path("gateway.toml"), toml).unwrap();
        self.start_as_it_is()
    }

    /// Starts on the configuration that stands in the directory.
    pub(crate) fn start_as_it_is(self) -> Gateway {
        let running = Running::start(self.dir.path(), &self.environment, true);
        Gateway { dir: self.dir, environment: self.environment, running: Some(running) }
    }

    /// Starts on this configuration and waits until the gateway says whether it is ready.
    pub(crate) fn start_unready(self) -> Gateway {
        fs::write(self.path("gateway.toml"), self.toml()).unwrap();
        let running = Running::start(self.dir.path(), &self.environment, false);
        Gateway { dir: self.dir, environment: self.environment, running: Some(running) }
    }

    /// Runs a command on this configuration to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Finished {
        fs::write(self.path("gateway.toml"), self.toml()).unwrap();
        run(self.dir.path(), arguments)
    }
}

/// A gateway and its directory; dropping it kills the process and removes the directory.
#[derive(Debug)]
pub(crate) struct Gateway {
    dir: TempDir,
    environment: Vec<(String, String)>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    clear: SocketAddr,
    admin: SocketAddr,
    token: String,
    output: Output,
}

/// What the process has written so far.
#[derive(Clone, Debug, Default)]
struct Output {
    stdout: Arc<Mutex<Vec<String>>>,
    stderr: Arc<Mutex<Vec<String>>>,
}

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Gateway {
    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.running().clear
    }

    /// Where another listener than the first clear one and the admin's is, by its name in the events.
    pub(crate) fn listening(&self, listener: &str) -> SocketAddr {
        wait_for(listener, || self.running().output.listening(listener))
    }

    /// Every listener of this name that was opened so far, in order.
    pub(crate) fn listeners(&self, name: &str) -> Vec<SocketAddr> {
        self.running().output.all_listening(name)
    }

    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.running().admin
    }

    pub(crate) fn admin_token(&self) -> &str {
        &self.running().token
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A request of a client.
    pub(crate) fn call(&self, method: &str, target: &str) -> Call {
        Call::new(self.address(), method, target)
    }

    pub(crate) fn get(&self, target: &str) -> Call {
        self.call("GET", target)
    }

    pub(crate) fn post(&self, target: &str) -> Call {
        self.call("POST", target)
    }

    /// A raw connection to the client listener.
    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.address())
    }

    /// A request to the admin API, with its token.
    pub(crate) fn admin(&self, method: &str, target: &str) -> Call {
        Call::new(self.admin_address(), method, target).bearer(self.admin_token())
    }

    /// Revokes by one object or an array, and fails unless that is acknowledged.
    #[track_caller]
    pub(crate) fn revoke(&self, body: &Value) -> Value {
        self.admin("POST", "/admin/revocations").json(body).send().expect(200).json()
    }

    /// The entry in force, or 404.
    pub(crate) fn entry(&self, kind: &str, value: &str, issuer: &str) -> Answer {
        self.admin("GET", &entry_path(kind, value, issuer)).send()
    }

    pub(crate) fn unrevoke(&self, kind: &str, value: &str, issuer: &str) -> Answer {
        self.admin("DELETE", &entry_path(kind, value, issuer)).send()
    }

    /// The text of `/metrics`.
    pub(crate) fn metrics(&self) -> String {
        Call::new(self.admin_address(), "GET", "/metrics").send().expect(200).text()
    }

    /// A command of the program on this configuration, run to its end. While the gateway runs, the command finds its
    /// admin listener; afterwards there is none to find.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Finished {
        finish(self.command(arguments))
    }

    /// The same, to be started by the test.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let dir = self.dir.path();
        let Some(running) = self.running.as_ref().filter(|_| arguments.first() != Some(&"run")) else {
            return command(dir, arguments);
        };
        // The gateway picked its port. A port picked for it beforehand could be somebody else's by the time it starts.
        let toml = fs::read_to_string(dir.join("gateway.toml")).unwrap();
        let found = format!("[admin]\nlisten = \"{}\"", running.admin);
        fs::write(dir.join(REACHING), toml.replace(ANY_ADMIN_PORT, &found)).unwrap();
        configured(dir, REACHING, arguments)
    }

    /// The configuration as it is on disk.
    pub(crate) fn toml(&self) -> String {
        fs::read_to_string(self.dir.path().join("gateway.toml")).unwrap()
    }

    /// Puts another configuration in place in one step.
    pub(crate) fn put_toml(&self, toml: &str) {
        let (new, path) = (self.dir.path().join("gateway.toml.new"), self.dir.path().join("gateway.toml"));
        fs::write(&new, toml).unwrap();
        fs::rename(new, path).unwrap();
    }

    /// Has the gateway read its configuration anew.
    pub(crate) fn reload(&self) -> Answer {
        self.admin("POST", "/admin/reload").send()
    }

    /// Sends the process a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.process(), name);
    }

    /// SIGKILL, as sudden as it gets.
    pub(crate) fn kill9(&mut self) {
        self.running.take().expect("a running gateway").kill();
    }

    /// SIGTERM; the process goes on until it has drained.
    pub(crate) fn sigterm(&self) {
        signal(self.running().child.id(), "TERM");
    }

    /// Waits for the process to end by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let running = self.running.as_mut().expect("a running gateway");
        wait_for("the gateway to end", || running.child.try_wait().unwrap())
    }

    /// Kills what still runs and starts again on the same directory.
    pub(crate) fn restart(&mut self) {
        if let Some(running) = self.running.take() {
            running.kill();
        }
        self.running = Some(Running::start(self.dir.path(), &self.environment, true));
    }

    /// Like `restart`, where it need not get ready.
    pub(crate) fn restart_unready(&mut self) {
        if let Some(running) = self.running.take() {
            running.kill();
        }
        self.running = Some(Running::start(self.dir.path(), &self.environment, false));
    }

    /// Like `restart`, where the program may rather end by itself.
    pub(crate) fn try_restart(&mut self) -> Result<(), Finished> {
        if let Some(running) = self.running.take() {
            running.kill();
        }
        self.running = Some(Running::try_start(self.dir.path(), &self.environment, true)?);
        Ok(())
    }

    /// The environment from the next start on.
    pub(crate) fn set_environment(&mut self, variables: &[(&str, &str)]) {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.environment = variables.iter().map(owned).collect();
    }

    /// Its resident memory in bytes; where the kernel keeps track of it, the most that there ever was.
    pub(crate) fn memory(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process())).unwrap();
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let line = line("VmHWM:").or_else(|| line("VmRSS:")).expect("a line about memory");
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    /// Its resident memory in bytes, as it is now.
    pub(crate) fn resident(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line about memory");
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    /// The id of the running process.
    pub(crate) fn process(&self) -> u32 {
        self.running().child.id()
    }

    /// Everything written to standard error so far.
    pub(crate) fn stderr(&self) -> String {
        self.running().output.stderr()
    }

    /// Everything written to standard output so far.
    pub(crate) fn stdout(&self) -> String {
        self.running().output.stdout()
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("a running gateway")
    }
}

/// A process that took over (SIGUSR2); killed at the end of its test.
pub(crate) struct Successor(pub(crate) u32);

impl Successor {
    /// The one that has taken over, as the old one says.
    pub(crate) fn of(gateway: &Gateway) -> Self {
        Self::nth(gateway, 0)
    }

    /// The same, after so many others.
    pub(crate) fn nth(gateway: &Gateway, before: usize) -> Self {
        wait_for("a new process to take over", || {
            let events = gateway.stderr();
            let mut found = events.lines().filter(|line| line.contains("a new process has taken over"));
            let event = found.nth(before)?;
            let event: Value = serde_json::from_str(event).ok()?;
            Some(Self(u32::try_from(event["fields"]["process"].as_u64()?).ok()?))
        })
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        let _ = Command::new("sh").args(["-c", &format!("kill -KILL {}", self.0)]).status();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            if thread::panicking() {
                running.output.show();
            }
            running.kill();
        }
    }
}

impl Running {
    fn start(dir: &Path, environment: &[(String, String)], ready: bool) -> Self {
        Self::try_start(dir, environment, ready).unwrap_or_else(|ended| {
            show(&ended.stdout, &ended.stderr);
            panic!("the gateway ended by itself: {}", ended.status);
        })
    }

    /// Ready to serve, or able to say that it is not; or ended by itself before it was.
    fn try_start(dir: &Path, environment: &[(String, String)], ready: bool) -> Result<Self, Finished> {
        let mut command = command(dir, &["run"]);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let mut child = command.spawn().unwrap();
        let output = Output::default();
        collect(child.stdout.take().unwrap(), output.stdout.clone());
        collect(child.stderr.take().unwrap(), output.stderr.clone());
        let mut ended = || {
            let status = child.try_wait().unwrap()?;
            // Its last words may still be in the pipes.
            let drained = |lines: &Arc<_>| Arc::strong_count(lines) == 1;
            wait_for("the pipes to drain", || {
                (drained(&output.stdout) && drained(&output.stderr)).then_some(())
            });
            Some(Finished { status, stdout: output.stdout(), stderr: output.stderr() })
        };
        let mut wait_until = |what: &str, look: &dyn Fn() -> Option<SocketAddr>| {
            wait_for(what, || match look() {
                Some(found) => Some(Ok(found)),
                None => ended().map(Err),
            })
        };
        let clear = wait_until("the clear listener", &|| output.listening("clear"))?;
        let admin = wait_until("the admin listener", &|| output.listening("admin"))?;
        wait_until("/readyz", &|| {
            let answer = Call::new(admin, "GET", "/readyz").try_send()?;
            (answer.status == 200 || !ready).then_some(admin)
        })?;
        let token = fs::read_to_string(dir.join("state/admin.token")).unwrap().trim_end().to_owned();
        Ok(Self { child, clear, admin, token, output })
    }

    fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Output {
    /// The address in the event that the program writes once a listener is bound.
    fn listening(&self, listener: &str) -> Option<SocketAddr> {
        self.all_listening(listener).first().copied()
    }

    fn all_listening(&self, listener: &str) -> Vec<SocketAddr> {
        let address = |line: &String| {
            let event: Value = serde_json::from_str(line).ok()?;
            let fields = &event["fields"];
            (fields["message"] == "listening" && fields["listener"] == listener)
                .then(|| fields["address"].as_str()?.parse().ok())
                .flatten()
        };
        self.stderr.lock().unwrap().iter().filter_map(address).collect()
    }

    fn stdout(&self) -> String {
        self.stdout.lock().unwrap().join("\n")
    }

    fn stderr(&self) -> String {
        self.stderr.lock().unwrap().join("\n")
    }

    fn show(&self) {
        show(&self.stdout(), &self.stderr());
    }
}

fn show(stdout: &str, stderr: &str) {
    eprintln!("--- stdout of the gateway\n{stdout}");
    eprintln!("--- stderr of the gateway\n{stderr}\n---");
}

impl Finished {
    /// Fails, showing the output, unless the exit status is this one.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.status.code(),
            Some(code),
            "--- stdout\n{}\n--- stderr\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {:?}", self.stdout))
    }
}

/// The program with these arguments, its `gateway.toml` in `dir`, which is also where it starts.
pub(crate) fn command(dir: &Path, arguments: &[&str]) -> Command {
    configured(dir, "gateway.toml", arguments)
}

fn configured(dir: &Path, file: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(arguments).arg("--config").arg(dir.join(file)).current_dir(dir);
    if dir.join(RESOLV_CONF).exists() {
        command = resolving_by(&dir.join(RESOLV_CONF), &command);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(dir: &Path, arguments: &[&str]) -> Finished {
    finish(command(dir, arguments))
}

/// Runs to the end, before the deadline.
pub(crate) fn finish(mut command: Command) -> Finished {
    let mut child = command.spawn().unwrap();
    let (stdout, stderr) = (all(child.stdout.take().unwrap()), all(child.stderr.take().unwrap()));
    let status = wait_for("a command to end", || child.try_wait().unwrap());
    Finished { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

/// Sends a signal by its name.
pub(crate) fn signal(process: u32, name: &str) {
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {process}")]).status().unwrap();
    assert!(status.success(), "kill -{name} {process}");
}

/// The permission bits of a file or directory.
pub(crate) fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode()
        & 0o777
}

fn entry_path(kind: &str, value: &str, issuer: &str) -> String {
    format!("/admin/revocations/{}/{}?issuer={}", encoded(kind), encoded(value), encoded(issuer))
}

fn collect(pipe: impl Read + Send + 'static, lines: Arc<Mutex<Vec<String>>>) {
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            let Ok(line) = line else { return };
            lines.lock().unwrap().push(line);
        }
    });
}

fn all(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

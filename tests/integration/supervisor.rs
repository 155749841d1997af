//! What systemd is told (sd_notify(3)), by a socket in its place, and sockets that it has bound (sd_listen_fds(3)).

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::Command;

use crate::support::gateway::{Successor, signal};
use crate::support::wait::DEADLINE;
use crate::support::{Call, Setup, Upstream, wait_for};

/// The one that is told.
struct Supervisor(UnixDatagram);

impl Supervisor {
    /// For a gateway that is still to be started.
    fn of(setup: Setup) -> (Self, Setup) {
        let path = setup.path("notify.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let setup = setup.environment("NOTIFY_SOCKET", path.to_str().unwrap());
        (Self(socket), setup)
    }

    /// The next message, a line an assignment.
    fn told(&self) -> Vec<String> {
        let mut message = [0; 4096];
        let length = self.0.recv(&mut message).expect("a message");
        std::str::from_utf8(&message[..length]).unwrap().lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn expect(&self, message: &[&str]) {
        assert_eq!(self.told(), message);
    }

    /// That the configuration is read anew, since when, and that this is over. Reloads that began earlier, for a file was
    /// written, are passed over; how many there were.
    #[track_caller]
    fn expect_reload(&self, since: u64) -> usize {
        let mut before = 0;
        loop {
            let told = self.told();
            if told == ["READY=1"] {
                continue; // of a process that has just taken over
            }
            assert_eq!((&*told[0], told.len()), ("RELOADING=1", 2), "{told:?}");
            let at: u64 = told[1].strip_prefix("MONOTONIC_USEC=").expect("the time").parse().unwrap();
            assert!(at <= monotonic(), "{told:?}");
            self.expect(&["READY=1"]);
            if at >= since {
                return before;
            }
            before += 1;
        }
    }

    /// This, and nothing but reloads before.
    #[track_caller]
    fn expect_at_last(&self, message: &[&str]) {
        loop {
            let told = self.told();
            if told == message {
                return;
            }
            assert!(told == ["READY=1"] || told[0] == "RELOADING=1", "{told:?}");
        }
    }
}

/// The clock that systemd goes by, in microseconds.
fn monotonic() -> u64 {
    let script = "import time; print(time.monotonic_ns() // 1000)";
    let output = Command::new("python3").args(["-c", script]).output().unwrap().stdout;
    std::str::from_utf8(&output).unwrap().trim_end().parse().unwrap()
}

fn open(upstream: &Upstream) -> Setup {
    Setup::new().upstream("up", upstream.address()).route("open", "/open", "up", "public")
}

#[test]
fn the_supervisor_is_told_of_start_reload_and_stop() {
    let upstream = Upstream::echo();
    let (supervisor, setup) = Supervisor::of(open(&upstream));
    let mut gateway = setup.start();
    supervisor.expect(&["READY=1"]);
    // Files that are as they were are nothing to tell of, but whoever asks for a reload is told of it.
    let begun = monotonic();
    gateway.signal("HUP");
    assert_eq!(supervisor.expect_reload(begun), 0);
    // One that is refused is over, too, and the one before goes on.
    let begun = monotonic();
    gateway.put_toml("nonsense = 1\n");
    gateway.reload().expect(400);
    supervisor.expect_reload(begun);
    gateway.sigterm();
    supervisor.expect_at_last(&["STOPPING=1"]);
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn the_supervisor_learns_who_has_taken_over() {
    let upstream = Upstream::echo();
    let (supervisor, setup) = Supervisor::of(open(&upstream));
    let mut gateway = setup.start();
    supervisor.expect(&["READY=1"]);
    gateway.signal("USR2");
    let successor = Successor::of(&gateway);
    // Said by the old one, which is the main process until then; nobody says that the service stops.
    supervisor.expect_at_last(&[&format!("MAINPID={}", successor.0), "READY=1"]);
    assert_eq!(gateway.wait().code(), Some(0));
    let begun = monotonic();
    signal(successor.0, "HUP");
    supervisor.expect_reload(begun);
    signal(successor.0, "TERM");
    supervisor.expect_at_last(&["STOPPING=1"]);
}

#[test]
fn sockets_of_the_supervisor_are_used_and_go_on_to_the_next_process() {
    let upstream = Upstream::echo();
    let setup = Setup::without_auth().upstream("u", upstream.address()).route("open", "/", "u", "public");
    let (clear, path) = (TcpListener::bind("127.0.0.1:0").unwrap(), setup.path("in.sock"));
    let (address, unix) = (clear.local_addr().unwrap(), UnixListener::bind(&path).unwrap());
    let toml = setup.toml().replacen("\"127.0.0.1:0\"", &format!("\"{address}\", \"unix:in.sock\""), 1);
    fs::write(setup.path("gateway.toml"), toml).unwrap();
    // Handed over as standard input and output, which the standard library passes on, and from there as 3 and 4.
    let script = "import os, sys\n\
        os.dup2(0, 3, inheritable=True)\n\
        os.dup2(1, 4, inheritable=True)\n\
        os.dup2(2, 1)\n\
        os.environ.update(LISTEN_FDS='2', LISTEN_FDNAMES='web:local', LISTEN_PID=str(os.getpid()))\n\
        os.execv(sys.argv[1], sys.argv[1:])\n";
    let events = fs::File::create(setup.path("events")).unwrap();
    let mut command = Command::new("python3");
    command.args(["-c", script, env!("CARGO_BIN_EXE_portcullis"), "run", "--config"]);
    command.arg(setup.path("gateway.toml")).current_dir(setup.path(""));
    command.stdin(OwnedFd::from(clear)).stdout(OwnedFd::from(unix)).stderr(events);
    let mut child = command.spawn().unwrap();
    drop(command); // and with it our ends of the sockets
    let inode = fs::metadata(&path).unwrap().ino();
    let asks = || {
        // The sockets are open before the gateway is: its first clients wait for it to start.
        Call::new(address, "GET", "/x").send().expect(200);
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"GET /y HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    };
    asks();
    signal(child.id(), "USR2");
    assert!(wait_for("the first process to end", || child.try_wait().unwrap()).success());
    asks();
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode, "it was not bound again");
    let events = fs::read_to_string(setup.path("events")).unwrap();
    let taken_over = events.lines().find(|line| line.contains("has taken over")).unwrap();
    let event: serde_json::Value = serde_json::from_str(taken_over).unwrap();
    let successor = Successor(u32::try_from(event["fields"]["process"].as_u64().unwrap()).unwrap());
    assert!(!events.contains("no listen names"), "{events}");
    drop(successor);
}

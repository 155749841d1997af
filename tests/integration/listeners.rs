//! Other ways in than a TCP port of our own: Unix sockets, the PROXY protocol, sockets that were handed over.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::upstream::receive_head_of;
use crate::support::{Connection, Setup, Upstream};

const GET: &str = "GET /x HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";

fn sent(echo: &Value, name: &str) -> String {
    let fields = echo["headers"].as_array().unwrap();
    let found = fields.iter().find(|field| field[0].as_str().unwrap().eq_ignore_ascii_case(name));
    found.map_or_else(String::new, |field| field[1].as_str().unwrap().to_owned())
}

fn body_of(answer: &str) -> Value {
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error} in {answer:?}"))
}

#[test]
fn clients_come_by_a_unix_socket_and_requests_leave_by_one() {
    let echo = Upstream::echo();
    let setup = Setup::new();
    let backend = UnixListener::bind(setup.path("backend.sock")).unwrap();
    std::thread::spawn(move || {
        for mut stream in backend.incoming().flatten() {
            let head = receive_head_of(&mut stream);
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len());
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let gateway = setup
        .upstream("echo", echo.address())
        .section("[[upstreams]]\nname = \"local\"\ntargets = [\"unix:backend.sock\"]")
        .route("echo", "/", "echo", "public")
        .route("local", "/local", "local", "public");
    let toml =
        gateway.toml().replace("listen = [\"127.0.0.1:0\"]", "listen = [\"127.0.0.1:0\", \"unix:in.sock\"]");
    let mut gateway = gateway.start_with(&toml);
    let path = gateway.dir().join("in.sock");
    let ask = |request: &str| {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let echo = body_of(&ask(GET));
    assert_eq!(sent(&echo, "forwarded"), "for=unknown;host=a.test;proto=http");
    assert!(ask(&GET.replace("/x", "/local/y")).contains("GET /local/y HTTP/1.1\r\n"));
    // What a killed gateway leaves behind is no hindrance.
    gateway.kill9();
    gateway.restart();
    assert!(ask(GET).starts_with("HTTP/1.1 200"));
}

#[test]
fn the_proxy_protocol_tells_the_client_and_nobody_else_may() {
    let upstream = Upstream::echo();
    let setup = |trusted: &str| {
        let lines =
            format!("proxy_protocol = true\ntrusted_proxies = [\"{trusted}\"]\nheader_read_timeout = \"2s\"");
        let setup = Setup::new().server(&lines).upstream("u", upstream.address());
        setup.route("open", "/", "u", "public").start()
    };
    let gateway = setup("127.0.0.1/32");
    let ask = |header: &[u8]| {
        let mut client = Connection::open(gateway.address());
        client.send([header, GET.as_bytes()].concat());
        assert!(client.closed());
        String::from_utf8_lossy(client.rest()).into_owned()
    };
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x0a\0\0\x01\x12\x34\x01\xbb";
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    for (header, client) in [
        (&b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 443\r\n"[..], "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 4660 443\r\n", "2001:db8::7"),
        (v2, "192.0.2.7"),
        (local, "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    ] {
        let echo = body_of(&ask(header));
        assert_eq!(sent(&echo, "x-forwarded-for"), client);
    }
    assert_eq!(ask(b""), "", "a header is required");
    assert_eq!(ask(b"PROXY TCP4 192.0.2.7\r\n"), "");
    // A client that the balancer speaks for is not the balancer.
    let request = GET.replace("\r\n\r\n", "\r\nX-Forwarded-For: 8.8.8.8\r\n\r\n");
    let mut client = Connection::open(gateway.address());
    client.send(format!("PROXY TCP4 192.0.2.7 10.0.0.1 4660 443\r\n{request}"));
    assert_eq!(sent(&client.answer("GET").json(), "x-forwarded-for"), "192.0.2.7");

    let count = upstream.received().len();
    let stranger = setup_stranger(&upstream);
    let mut client = Connection::open(stranger.address());
    client.send(format!("PROXY TCP4 192.0.2.7 10.0.0.1 4660 443\r\n{GET}"));
    assert!(client.closed() && client.rest().is_empty());
    assert_eq!(upstream.received().len(), count);
}

fn setup_stranger(upstream: &Upstream) -> crate::support::Gateway {
    let lines = "proxy_protocol = true\ntrusted_proxies = [\"192.0.2.0/24\"]";
    let setup = Setup::new().server(lines).upstream("u", upstream.address());
    setup.route("open", "/", "u", "public").start()
}

#[test]
fn a_socket_that_was_handed_over_is_used() {
    let upstream = Upstream::echo();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let setup = Setup::without_auth().upstream("u", upstream.address()).route("open", "/", "u", "public");
    let toml = setup.toml().replacen("127.0.0.1:0", &address.to_string(), 1);
    let dir = setup.path("");
    std::fs::write(setup.path("gateway.toml"), toml).unwrap();
    // Handed over as standard input, the only descriptor that the standard library passes on, and from there as 3.
    let script = "import os, sys\n\
        os.dup2(0, 3, inheritable=True)\n\
        os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n\
        os.execv(sys.argv[1], sys.argv[1:])\n";
    let mut command = Command::new("python3");
    command.args(["-c", script, env!("CARGO_BIN_EXE_portcullis"), "run", "--config"]);
    command.arg(setup.path("gateway.toml")).current_dir(dir).stdout(Stdio::null());
    let mut child = command.stdin(OwnedFd::from(socket)).spawn().unwrap();
    drop(command); // and with it our end of the socket
    // The socket is open before the gateway is: its first client waits for it to start.
    let mut client = Connection::open(address);
    client.send(GET);
    let answer = client.answer("GET");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(answer.expect(200).json()["line"], "GET /x HTTP/1.1");
}

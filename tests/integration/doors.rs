//! Listeners and certificates that a reload changes: who is inside stays, who comes finds a door, and a reload that fails has
//! touched none.

use std::fs;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::support::gateway::Successor;
use crate::support::pki::{Authority, Pair};
use crate::support::{Call, Gateway, Load, Setup, Upstream, wait_for};

fn open(upstream: &Upstream) -> Setup {
    Setup::new()
        .server("access_log = \"off\"\ndrain_timeout = \"5s\"")
        .upstream("up", upstream.address())
        .route("open", "/", "up", "public")
}

/// Two certificates for one name, by different authorities: `one.pem` and `two.pem`, with their keys.
fn two_pairs(setup: Setup) -> (Setup, [Authority; 2]) {
    let authorities = [Authority::new("one"), Authority::new("two")];
    let [one, two] = authorities.each_ref().map(|authority| authority.issue(&["a.test"]));
    let put = |setup: Setup, name: &str, pair: &Pair| {
        setup.secret(&format!("{name}.pem"), &pair.cert).secret(&format!("{name}.key"), &pair.key)
    };
    (put(put(setup, "one", &one), "two", &two), authorities)
}

fn tls(listen: &str, name: &str) -> String {
    format!(
        "\n[server.tls]\nlisten = [\"{listen}\"]\n\
         certificates = [{{ cert = \"{name}.pem\", key = \"{name}.key\" }}]\n"
    )
}

const ASK: &str = "GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Asks on a connection that stays open.
fn ask(stream: &mut (impl std::io::Read + std::io::Write)) {
    stream.write_all(ASK.as_bytes()).unwrap();
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    while !answer.ends_with(b"}") {
        let read = stream.read(&mut piece).unwrap();
        assert!(read > 0, "an answer, not {:?}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece[..read]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

/// Whether a new client that trusts this authority is served.
fn trusts(authority: &Authority, address: SocketAddr) -> bool {
    let request = ASK.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
    let answer = authority.exchange(address, "a.test", None, &request);
    answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

#[test]
fn a_tls_listener_comes_takes_another_certificate_and_goes() {
    let upstream = Upstream::echo();
    let (setup, [one, two]) = two_pairs(open(&upstream));
    let gateway = setup.start();
    let plain = gateway.toml();
    let load = Load::begin(gateway.address(), &gateway.get("/x"), 2);
    gateway.put_toml(&(plain.clone() + &tls("127.0.0.1:0", "one")));
    gateway.reload().expect(200);
    let address = gateway.listening("tls");
    assert!(trusts(&one, address) && !trusts(&two, address));
    let mut kept = one.connect(address, "a.test", None).unwrap();
    ask(&mut kept);

    gateway.put_toml(&(plain.clone() + &tls("127.0.0.1:0", "two")));
    gateway.reload().expect(200);
    assert!(trusts(&two, address) && !trusts(&one, address), "new handshakes get the new one");
    ask(&mut kept);
    assert_eq!(gateway.listeners("tls").len(), 1, "the socket is the same");

    // One that is taken away answers who is inside and nobody else.
    let mut last = two.connect(address, "a.test", None).unwrap();
    ask(&mut last);
    gateway.put_toml(&plain);
    gateway.reload().expect(200);
    wait_for("the listener to go", || TcpStream::connect(address).is_err().then_some(()));
    let mut rest = Vec::new();
    assert!(
        last.read_to_end(&mut rest).is_ok() && rest.is_empty(),
        "an idle connection is closed as it should be"
    );
    load.go_on(10);
    load.expect_no_failure();
}

#[test]
fn a_reload_that_fails_has_exchanged_no_certificate() {
    let upstream = Upstream::echo();
    let (setup, [one, two]) = two_pairs(open(&upstream));
    let plain = setup.toml();
    let gateway = setup.start_with(&(plain.clone() + &tls("127.0.0.1:0", "one")));
    let address = gateway.listening("tls");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let also = format!("[\"127.0.0.1:0\", \"{}\"]", taken.local_addr().unwrap());
    let both = plain.replacen("[\"127.0.0.1:0\"]", &also, 1) + &tls("127.0.0.1:0", "two");
    gateway.put_toml(&both);
    let words = gateway.reload().expect_problem(409, "conflict").text();
    assert!(
        words.contains(&format!("[server] listen: cannot listen on {}", taken.local_addr().unwrap())),
        "{words}"
    );
    assert!(trusts(&one, address) && !trusts(&two, address), "the certificate is the one before");
    assert_eq!(gateway.listeners("clear").len(), 1);
    // With a bad key it is the same, and the rest of such a configuration is not taken either.
    fs::copy(gateway.dir().join("one.key"), gateway.dir().join("two.key")).unwrap();
    let routed = plain.replace("path = \"/\"", "path = \"/elsewhere\"");
    gateway.put_toml(&(routed + &tls("127.0.0.1:0", "two")));
    gateway.reload().expect_problem(400, "invalid_request");
    assert!(trusts(&one, address));
    drop(taken);
}

/// The same configuration with another first listener.
fn listening(gateway: &Gateway, from: &str, to: &str) {
    let toml = gateway.toml();
    let next = toml.replacen(&format!("[\"{from}\"]"), &format!("[\"{to}\"]"), 1);
    assert_ne!(toml, next);
    gateway.put_toml(&next);
}

#[test]
fn an_address_gives_way_to_all_of_its_port_and_back_without_a_refused_connection() {
    let upstream = Upstream::echo();
    let gateway = open(&upstream).start();
    let here = gateway.address();
    let port = here.port();
    let [everywhere, beside] = [format!("0.0.0.0:{port}"), format!("127.0.0.2:{port}")];
    let beside: SocketAddr = beside.parse().unwrap();
    let load = Load::begin(here, &gateway.get("/x"), 3);
    assert!(TcpStream::connect(beside).is_err());
    listening(&gateway, "127.0.0.1:0", &everywhere);
    gateway.reload().expect(200);
    Call::new(beside, "GET", "/x").send().expect(200);
    // Enough of them to open connections anew.
    load.go_on(200);
    listening(&gateway, &everywhere, &here.to_string());
    gateway.reload().expect(200);
    wait_for("the others to be refused", || TcpStream::connect(beside).is_err().then_some(()));
    load.go_on(200);
    load.expect_no_failure();
    Call::new(here, "GET", "/x").send().expect(200);
}

#[test]
fn a_port_that_was_any_and_is_named_stays_the_socket_that_it_is() {
    let upstream = Upstream::echo();
    let gateway = open(&upstream).start();
    let here = gateway.address();
    let load = Load::begin(here, &gateway.get("/x"), 2);
    listening(&gateway, "127.0.0.1:0", &here.to_string());
    gateway.reload().expect(200);
    load.go_on(100);
    load.expect_no_failure();
}

#[test]
fn a_new_process_can_go_over_to_all_of_a_port_too() {
    let upstream = Upstream::echo();
    let mut gateway = open(&upstream).start();
    let here = gateway.address();
    let load = Load::begin(here, &gateway.get("/x"), 3);
    // Not by a reload: the watch must not be faster.
    listening(&gateway, "127.0.0.1:0", &format!("0.0.0.0:{}", here.port()));
    gateway.signal("USR2");
    let _successor = Successor::of(&gateway);
    assert_eq!(gateway.wait().code(), Some(0));
    Call::new(SocketAddr::new([127, 0, 0, 2].into(), here.port()), "GET", "/x").send().expect(200);
    load.go_on(50);
    load.expect_no_failure();
}

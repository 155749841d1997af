//! Targets with a name, by a resolver that changes its mind: where requests go, and what becomes of the connections to
//! addresses that the name no longer has.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::support::resolver::{Resolver, Says};
use crate::support::upstream::receive;
use crate::support::{Gateway, Setup, wait_for};

/// Whoever counts on it waits for what it brings.
const OFTEN: &str = "resolve_every = \"200ms\"\nretries = 0\npassive_health = { failures = 0 }\n";

const A: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const B: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 12);
/// Nobody listens there.
const NOBODY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 13);

/// The machines behind the name: they listen on one port of different addresses, and answer with their address.
struct Machines {
    port: u16,
    /// Connections open, in their order.
    open: Vec<Arc<AtomicUsize>>,
    /// Opened, it lets `/held` be answered over HTTP/2.
    gate: watch::Sender<bool>,
    _runtime: Runtime,
}

impl Machines {
    fn start(addresses: &[Ipv4Addr], http2: bool) -> Self {
        let listeners = wait_for("a port that is free on all addresses", || {
            let first = TcpListener::bind((addresses[0], 0)).ok()?;
            let port = first.local_addr().ok()?.port();
            let others = addresses[1..].iter().map(|address| TcpListener::bind((*address, port)).ok());
            std::iter::once(Some(first)).chain(others).collect::<Option<Vec<_>>>()
        });
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (gate, opened) = watch::channel(false);
        let port = listeners[0].local_addr().unwrap().port();
        let serve = |listener: TcpListener| {
            let open = Arc::<AtomicUsize>::default();
            match http2 {
                true => over_http2(&runtime, listener, &open, &opened),
                false => over_http1(listener, &open),
            }
            open
        };
        let open = listeners.into_iter().map(serve).collect();
        Self { port, open, gate, _runtime: runtime }
    }

    fn open(&self, machine: usize) -> usize {
        self.open[machine].load(Ordering::SeqCst)
    }

    fn gateway(&self, resolver: &Resolver, scheme: &str, lines: &str) -> Gateway {
        Setup::without_auth()
            .resolver(resolver)
            .section(&format!(
                "[[upstreams]]\nname = \"up\"\ntargets = [\"{scheme}://api.test:{}\"]\n{OFTEN}{lines}",
                self.port
            ))
            .route("all", "/", "up", "public")
            .start()
    }
}

fn over_http1(listener: TcpListener, open: &Arc<AtomicUsize>) {
    let (name, open) = (listener.local_addr().unwrap().ip().to_string(), Arc::clone(open));
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (name, open) = (name.clone(), Arc::clone(&open));
            open.fetch_add(1, Ordering::SeqCst);
            thread::spawn(move || {
                let mut buffer = Vec::new();
                while receive(&mut stream, &mut buffer).is_some() {
                    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
                }
                open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
}

fn over_http2(
    runtime: &Runtime,
    listener: TcpListener,
    open: &Arc<AtomicUsize>,
    opened: &watch::Receiver<bool>,
) {
    let (name, open, opened) = (listener.local_addr().unwrap().ip(), Arc::clone(open), opened.clone());
    listener.set_nonblocking(true).unwrap();
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            let (open, opened) = (Arc::clone(&open), opened.clone());
            open.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                if let Ok(mut connection) = h2::server::handshake(stream).await {
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        let mut opened = opened.clone();
                        tokio::spawn(async move {
                            if request.uri().path() == "/held" {
                                let _ = opened.wait_for(|open| *open).await;
                            }
                            if let Ok(mut body) = respond.send_response(http::Response::new(()), false) {
                                let _ = body.send_data(Bytes::from(name.to_string()), true);
                            }
                        });
                    }
                }
                open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
}

fn answered(gateway: &Gateway) -> String {
    gateway.get("/").send().expect(200).text()
}

/// What the admin API shows of the target.
fn shown(gateway: &Gateway) -> Value {
    let shown = gateway.admin("GET", "/admin/upstreams").send().expect(200).json();
    shown.pointer("/data/0/targets/0").unwrap_or_else(|| panic!("no target in {shown}")).clone()
}

#[test]
fn a_name_that_moves_takes_its_idle_connections_along_and_one_that_fails_stays_where_it_was() {
    let machines = Machines::start(&[A, B], false);
    let resolver = Resolver::start(Says::Addresses(vec![A]));
    let gateway = machines.gateway(&resolver, "http", "");
    assert_eq!(answered(&gateway), A.to_string());
    assert_eq!(machines.open(0), 1);

    resolver.set(Says::Addresses(vec![B]));
    wait_for("the idle connection to the old address to be closed", || (machines.open(0) == 0).then_some(()));
    assert_eq!(answered(&gateway), B.to_string());

    for says in [Says::Failure, Says::NoSuchName, Says::Nothing] {
        resolver.set(says);
        let why =
            wait_for("the failure to be told", || shown(&gateway)["unresolved"].as_str().map(str::to_owned));
        assert!(!why.is_empty());
        let address = SocketAddr::from((B, machines.port)).to_string();
        assert_eq!(shown(&gateway)["addresses"], serde_json::json!([address]));
        // On connections that are there, and on new ones.
        let many: Vec<_> = (0..8).map(|_| gateway.connect()).collect();
        for mut connection in many {
            connection.send(gateway.get("/").bytes());
            assert_eq!(connection.answer("GET").expect(200).text(), B.to_string());
        }
        resolver.set(Says::Addresses(vec![B]));
        wait_for("it to be well again", || shown(&gateway)["unresolved"].is_null().then_some(()));
    }
    let told = gateway.stderr();
    assert_eq!(told.matches("does not resolve; its last addresses stay in use").count(), 3, "{told}");
    assert_eq!(told.matches("the name of a target resolves again").count(), 3, "{told}");

    // What nobody uses is not asked for.
    resolver.set(Says::Addresses(vec![A]));
    wait_for("it to be back", || (answered(&gateway) == A.to_string()).then_some(()));
}

#[test]
fn a_busy_connection_to_an_address_that_is_gone_ends_its_streams_while_new_requests_go_to_the_new_one() {
    let machines = Machines::start(&[A, B], true);
    let resolver = Resolver::start(Says::Addresses(vec![A]));
    let gateway = machines.gateway(&resolver, "h2c", "");
    let mut held = gateway.connect();
    held.send(gateway.get("/held").bytes());
    wait_for("it to be under way", || (shown(&gateway)["in_flight"] == 1).then_some(()));
    assert_eq!(answered(&gateway), A.to_string());

    resolver.set(Says::Addresses(vec![B]));
    wait_for("new requests to go to the new address", || (answered(&gateway) == B.to_string()).then_some(()));
    for _ in 0..20 {
        assert_eq!(answered(&gateway), B.to_string());
    }
    assert_eq!((machines.open(0), machines.open(1)), (1, 1), "the old one is still busy, the new one shared");
    machines.gate.send_replace(true);
    assert_eq!(held.answer("GET").expect(200).text(), A.to_string());
    wait_for("the old connection to be closed", || (machines.open(0) == 0).then_some(()));

    // An idle one is not waited for.
    resolver.set(Says::Addresses(vec![A]));
    wait_for("the idle connection to be closed", || (machines.open(1) == 0).then_some(()));
    assert_eq!(answered(&gateway), A.to_string());
}

#[test]
fn requests_are_spread_over_the_addresses_of_a_name_and_one_that_refuses_fails_none() {
    for (scheme, lines) in [("http", "keepalive = { max_idle = 0 }\n"), ("h2c", "")] {
        let machines = Machines::start(&[A, B], scheme == "h2c");
        let resolver = Resolver::start(Says::Addresses(vec![NOBODY, A, B]));
        let gateway = machines.gateway(&resolver, scheme, lines);
        let mut last: Vec<String> = Vec::new();
        wait_for("both to be asked in turn", || {
            last.push(answered(&gateway));
            let last = &last[last.len().saturating_sub(12)..];
            let asked = |machine: Ipv4Addr| last.iter().filter(|name| **name == machine.to_string()).count();
            (asked(A) >= 3 && asked(B) >= 3).then_some(())
        });
        assert_eq!(shown(&gateway)["failures_total"], 0, "{scheme}");
    }
}

#[test]
fn a_name_that_nobody_knows_yet_fails_the_request_and_is_asked_for_again_with_the_next() {
    let machines = Machines::start(&[A], false);
    let resolver = Resolver::start(Says::NoSuchName);
    let gateway = machines.gateway(&resolver, "http", "");
    gateway.get("/").send().expect_problem(502, "upstream_unreachable");
    resolver.set(Says::Addresses(vec![A]));
    assert_eq!(answered(&gateway), A.to_string());
}

#[test]
fn a_silent_resolver_makes_nobody_wait_who_has_an_address() {
    let machines = Machines::start(&[A], false);
    let resolver = Resolver::start(Says::Addresses(vec![A]));
    let gateway = machines.gateway(&resolver, "http", "keepalive = { max_idle = 0 }\n");
    assert_eq!(answered(&gateway), A.to_string());
    resolver.set(Says::Nothing);
    wait_for("the silence to be told", || {
        assert_eq!(answered(&gateway), A.to_string());
        shown(&gateway)["unresolved"].as_str().map(str::to_owned)
    });
    let (asked, began) = (resolver.asked(), Instant::now());
    for _ in 0..100 {
        assert_eq!(answered(&gateway), A.to_string());
    }
    // Had each of these waited for its own question, that would have taken a hundred seconds.
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(resolver.asked() - asked < 80, "one question at a time, however many connections are made");
}

#[test]
fn a_target_that_has_just_moved_costs_no_request() {
    let machines = Machines::start(&[B], false);
    let resolver = Resolver::start(Says::Addresses(vec![A]));
    // So seldom that only a request can find out.
    let gateway = machines.gateway(&resolver, "http", "keepalive = { max_idle = 0 }\n");
    let seldom = gateway.toml().replace("200ms", "1h");
    gateway.put_toml(&seldom);
    gateway.reload().expect(200);
    gateway.get("/").send().expect_problem(502, "upstream_unreachable");
    resolver.set(Says::Addresses(vec![B]));
    // A name is not asked for twice in a second, whatever its addresses do.
    wait_for("the new address to be found", || {
        let answer = gateway.get("/").send();
        (answer.status == 200).then(|| assert_eq!(answer.text(), B.to_string()))
    });
}

//! What a target's failures lead to, seen from the targets: ejection and return, what is sent again and what is not,
//! `max_requests`, streams in which nothing moves, and names with several addresses.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use crate::support::upstream::receive;
use crate::support::{Gateway, Reply, Setup, Upstream, wait_for};

/// An upstream that answers with its name.
fn named(name: &'static str) -> Upstream {
    Upstream::new(move |_| Reply::Full(200, vec![], name.as_bytes().to_vec()))
}

/// `[[upstreams]]` with these targets, each with its weight.
fn upstream(targets: &[(SocketAddr, u32)], lines: &str) -> String {
    let targets: Vec<String> = targets
        .iter()
        .map(|(address, weight)| format!("{{ url = \"http://{address}\", weight = {weight} }}"))
        .collect();
    format!("[[upstreams]]\nname = \"up\"\ntargets = [{}]\n{lines}", targets.join(", "))
}

fn start(targets: &[(SocketAddr, u32)], lines: &str) -> Gateway {
    Setup::without_auth().section(&upstream(targets, lines)).route("all", "/", "up", "public").start()
}

#[test]
fn failures_eject_a_target_and_time_brings_it_back() {
    let ill = Arc::new(AtomicBool::new(true));
    let (now, tried) = (ill.clone(), Arc::new(AtomicUsize::new(0)));
    let count = tried.clone();
    let bad = Upstream::raw(move |mut stream, _| {
        let mut buffer = Vec::new();
        while receive(&mut stream, &mut buffer).is_some() {
            count.fetch_add(1, Ordering::SeqCst);
            if now.load(Ordering::SeqCst) {
                return;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nback");
        }
    });
    let good = named("good");
    let gateway = start(
        &[(bad.address(), 1), (good.address(), 1)],
        "balance = \"round_robin\"\nretries = 0\npassive_health = { failures = 3, window = \"60s\", eject = \"3s\" }",
    );
    // What was sent and not answered is not sent again: three clients are told, and then no more.
    let statuses: Vec<u16> = (0..30).map(|_| gateway.get("/").send().status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 502).count(), 3, "{statuses:?}");
    assert_eq!(tried.load(Ordering::SeqCst), 3);
    ill.store(false, Ordering::SeqCst);
    wait_for("it to be back", || (gateway.get("/").send().text() == "back").then_some(()));
}

#[test]
fn a_request_goes_to_another_target_only_where_the_first_got_no_byte_of_it() {
    let good = named("good");
    let refused = Upstream::nobody();
    let body = "x".repeat(100_000);
    let gateway = start(
        &[(refused, 1), (good.address(), 1)],
        "balance = \"round_robin\"\npassive_health = { failures = 0 }",
    );
    for _ in 0..6 {
        gateway.get("/").send().expect(200);
        gateway.post("/").body("text/plain", body.clone()).send().expect(200);
    }
    let gateway = start(
        &[(refused, 1), (good.address(), 1)],
        "balance = \"round_robin\"\nretries = 0\npassive_health = { failures = 0 }",
    );
    let statuses: Vec<u16> = (0..4).map(|_| gateway.get("/").send().status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 502).count(), 2, "{statuses:?}");
    // Twenty clients at once upload to a target that takes the head and leaves: each of them was sent once at most.
    let taken = Arc::new(Mutex::new(HashMap::<String, usize>::new()));
    let record = taken.clone();
    let leaves = Upstream::raw(move |mut stream, _| {
        if let Some((line, _)) = crate::support::upstream::receive_head(&mut stream, &mut Vec::new()) {
            *record.lock().unwrap().entry(line).or_default() += 1;
        }
    });
    let other = named("other");
    let gateway = start(
        &[(leaves.address(), 1), (other.address(), 1)],
        "balance = \"round_robin\"\nretries = 3\npassive_health = { failures = 0 }",
    );
    for number in 0..20 {
        let answer = gateway.post(&format!("/{number}")).body("text/plain", "once").send();
        assert!(matches!(answer.status, 200 | 502), "{answer:?}");
    }
    let taken = taken.lock().unwrap();
    assert!(!taken.is_empty() && taken.values().all(|count| *count == 1), "{taken:?}");
    let seen = other.received();
    for line in taken.keys() {
        assert!(!seen.iter().any(|request| request.line == *line), "{line} was done twice");
    }
}

#[test]
fn more_requests_than_an_upstream_may_have_are_told_so() {
    let (go, wait) = sync_channel::<()>(8);
    let wait = Mutex::new(wait);
    let upstream = Upstream::new(move |_| {
        wait.lock().unwrap().recv().unwrap();
        Reply::Full(200, vec![], b"ok".to_vec())
    });
    let gateway = start(&[(upstream.address(), 1)], "max_requests = 2");
    let mut held: Vec<_> = (0..2)
        .map(|_| {
            let mut connection = gateway.connect();
            connection.send(gateway.get("/").bytes());
            connection
        })
        .collect();
    wait_for("both to be under way", || {
        let shown = gateway.admin("GET", "/admin/upstreams").send().expect(200).text();
        shown.replace(' ', "").contains("\"in_flight\":2").then_some(())
    });
    let answer = gateway.get("/").send().expect_problem(503, "overloaded");
    assert!(answer.header("retry-after").is_some());
    // Whichever of them was the first at the upstream.
    held.iter().for_each(|_| go.send(()).unwrap());
    for connection in &mut held {
        connection.answer("GET").expect(200);
    }
    go.send(()).unwrap();
    gateway.get("/").send().expect(200);
}

#[test]
fn a_stream_in_which_nothing_moves_is_ended_and_one_in_which_something_does_is_not() {
    let upstream = Upstream::raw(|mut stream, _| {
        let mut buffer = Vec::new();
        while let Some(request) = receive(&mut stream, &mut buffer) {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            let pieces = if request.target() == "/moves" { 12 } else { 1 };
            for _ in 0..pieces {
                let _ = stream.write_all(b"1\r\nx\r\n");
                std::thread::sleep(Duration::from_millis(100));
            }
            if pieces > 1 {
                let _ = stream.write_all(b"0\r\n\r\n");
            }
        }
    });
    let gateway = start(&[(upstream.address(), 1)], "stream_idle_timeout = \"800ms\"");
    let answer = gateway.get("/moves").send().expect(200);
    assert!(answer.complete && answer.text().len() == 12, "{answer:?}");
    let begun = Instant::now();
    let answer = gateway.get("/stops").send();
    assert!(!answer.complete && begun.elapsed() >= Duration::from_millis(700), "{answer:?}");
}

/// A port that is free on both loopback addresses; `ours` is listened on.
fn on_one_family(ours: &str) -> Option<(TcpListener, u16)> {
    let listener = TcpListener::bind((ours, 0)).ok()?;
    let port = listener.local_addr().ok()?.port();
    Some((listener, port))
}

#[test]
fn a_name_leads_to_whichever_of_its_addresses_answers() {
    // `localhost` is 127.0.0.1 and, on most machines, ::1; whichever family the target listens on is found.
    for ours in ["127.0.0.1", "::1"] {
        let Some((listener, port)) = on_one_family(ours) else {
            assert_eq!(ours, "::1", "there is always IPv4 here");
            continue;
        };
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut buffer = Vec::new();
                    while receive(&mut stream, &mut buffer).is_some() {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                    }
                });
            }
        });
        if ours == "::1" && !resolves_to_ipv6() {
            continue;
        }
        let gateway = Setup::without_auth()
            .section(&format!("[[upstreams]]\nname = \"up\"\ntargets = [\"http://localhost:{port}\"]\nkeepalive = {{ max_idle = 0 }}"))
            .route("all", "/", "up", "public")
            .start();
        for _ in 0..4 {
            assert_eq!(gateway.get("/").send().expect(200).text(), "ok", "{ours}");
        }
    }
}

fn resolves_to_ipv6() -> bool {
    use std::net::ToSocketAddrs as _;
    ("localhost", 1).to_socket_addrs().is_ok_and(|mut found| found.any(|address| address.is_ipv6()))
}

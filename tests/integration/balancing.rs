//! Which target of an upstream gets a request, and which does not (CONTRACT §2 `[[upstreams]]`).

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

use serde_json::{Value, json};

use crate::support::jwt::{Key, claims};
use crate::support::upstream::receive_head;
use crate::support::wait::DEADLINE;
use crate::support::{Gateway, Reply, Setup, Upstream, wait_for};

/// Targets that say who they are.
fn targets(count: usize) -> Vec<Upstream> {
    let named =
        |name: usize| Upstream::new(move |_| Reply::Full(200, Vec::new(), name.to_string().into_bytes()));
    (0..count).map(named).collect()
}

fn before(addresses: &[SocketAddr], lines: &str) -> Gateway {
    setup(addresses, lines).start()
}

fn setup(addresses: &[SocketAddr], lines: &str) -> Setup {
    let list: Vec<_> = addresses.iter().map(|address| format!("\"http://{address}\"")).collect();
    let upstream = format!("[[upstreams]]\nname = \"up\"\ntargets = [{}]\n{lines}", list.join(", "));
    Setup::without_auth().section(&upstream).route("all", "/", "up", "public")
}

fn addresses(targets: &[Upstream]) -> Vec<SocketAddr> {
    targets.iter().map(Upstream::address).collect()
}

fn counts(targets: &[Upstream]) -> Vec<usize> {
    targets.iter().map(|target| target.received().len()).collect()
}

/// What the gateway says of a target.
fn state(gateway: &Gateway, address: SocketAddr) -> Value {
    let report = gateway.admin("GET", "/admin/upstreams").send().expect(200).json();
    let targets = report["data"][0]["targets"].as_array().unwrap().clone();
    let url = format!("http://{address}");
    targets.into_iter().find(|target| target["url"] == *url).unwrap()
}

#[test]
fn turns_go_by_weight() {
    let targets = targets(3);
    let [one, two, three] = addresses(&targets)[..] else { panic!("three") };
    let upstream = format!(
        "[[upstreams]]\nname = \"up\"\nbalance = \"round_robin\"\n\
         targets = [{{ url = \"http://{one}\", weight = 3 }}, \"http://{two}\", {{ url = \"http://{three}\", weight = 2 }}]"
    );
    let gateway = Setup::without_auth().section(&upstream).route("all", "/", "up", "public").start();
    let mut client = gateway.connect();
    for _ in 0..60 {
        gateway.get("/").send_on(&mut client).expect(200);
    }
    assert_eq!(counts(&targets), [30, 10, 20]);
}

#[test]
fn two_choices_leave_nobody_out() {
    let targets = targets(4);
    let gateway = before(&addresses(&targets), "balance = \"two_choices\"");
    let mut client = gateway.connect();
    for _ in 0..200 {
        gateway.get("/").send_on(&mut client).expect(200);
    }
    // The least of four, by chance alone, has fewer than 10 of 200 once in some hundred million times.
    assert!(counts(&targets).iter().all(|count| *count >= 10), "{:?}", counts(&targets));
}

#[test]
fn who_is_busy_is_spared() {
    let (tell, told) = sync_channel(64);
    let busy = Upstream::raw(move |mut stream, _| {
        if receive_head(&mut stream, &mut Vec::new()).is_some() {
            tell.send(()).unwrap();
            let _ = stream.read(&mut [0; 1]);
        }
    });
    let idle = targets(1);
    let gateway = before(&[busy.address(), idle[0].address()], "balance = \"least_requests\"");
    // Until the busy one has one: from then on it has more than the other.
    let mut waiting = Vec::new();
    while told.try_recv().is_err() {
        let mut client = gateway.connect();
        client.send(gateway.get("/").bytes());
        waiting.push(client);
        assert!(waiting.len() < 1000);
        std::thread::yield_now();
    }
    wait_for("the others to be answered", || {
        (state(&gateway, idle[0].address())["in_flight"] == 0).then_some(())
    });
    for _ in 0..20 {
        gateway.get("/").send().expect(200);
    }
}

#[test]
fn the_same_value_goes_to_the_same_target() {
    let targets = targets(4);
    let key = Key::secret("legacy");
    let issuer = "[[issuers]]\nname = \"legacy\"\nalgorithms = [\"HS256\"]\nsecret_file = \"legacy.key\"\n";
    let by_header = before(&addresses(&targets), "balance = \"hash:header:X-Tenant\"");
    let by_subject = setup(&addresses(&targets), "balance = \"hash:subject\"")
        .secret("legacy.key", key.secret_bytes())
        .section(issuer)
        .route("own", "/own", "up", "access")
        .start();
    let mut seen = BTreeSet::new();
    for number in 0..30 {
        let name = format!("tenant-{number}");
        let ask = || by_header.get("/").header("X-Tenant", &name).send().expect(200).text();
        let first = ask();
        assert_eq!((ask(), ask()), (first.clone(), first.clone()), "{name}");
        seen.insert(first);
        // Another token of the same subject.
        let ask = |id: &str| {
            let token = key.token(&claims(id, &json!({ "sub": name })));
            by_subject.get("/own").bearer(&token).send().expect(200).text()
        };
        assert_eq!(ask(&format!("a-{number}")), ask(&format!("b-{number}")), "{name}");
    }
    assert!(seen.len() >= 3, "{seen:?}");
    // One that is gone takes only its own along: the others stay where they were.
    let fewer = before(&addresses(&targets[..3]), "balance = \"hash:header:X-Tenant\"");
    for number in 0..30 {
        let call = |gateway: &Gateway| {
            gateway.get("/").header("X-Tenant", &format!("tenant-{number}")).send().expect(200).text()
        };
        let before = call(&by_header);
        assert!(before == "3" || before == call(&fewer), "tenant-{number}");
    }
}

#[test]
fn probes_take_a_target_out_and_bring_it_back() {
    let health = Arc::new([AtomicU16::new(200), AtomicU16::new(200)]);
    let target = |number: usize| {
        let health = Arc::clone(&health);
        Upstream::new(move |request| {
            let status =
                if request.target() == "/health" { health[number].load(Ordering::SeqCst) } else { 200 };
            Reply::Full(status, Vec::new(), number.to_string().into_bytes())
        })
    };
    let targets = [target(0), target(1)];
    let lines = "balance = \"round_robin\"\nhealth = { path = \"/health\", interval = \"700ms\", timeout = \"700ms\", \
                 unhealthy_after = 2, healthy_after = 1 }";
    let gateway = before(&addresses(&targets), lines);
    let wait = |number: usize, expected: &str| {
        wait_for(expected, || {
            (state(&gateway, targets[number].address())["state"] == *expected).then_some(())
        });
    };
    wait(0, "healthy");
    wait(1, "healthy");
    health[0].store(503, Ordering::SeqCst);
    wait(0, "unhealthy");
    for _ in 0..10 {
        assert_eq!(gateway.get("/").send().expect(200).text(), "1");
    }
    health[1].store(404, Ordering::SeqCst);
    wait(1, "unhealthy");
    let answer = gateway.get("/").send().expect_problem(503, "no_healthy_target");
    assert!(answer.header("retry-after").is_some());
    // A redirection is healthy.
    health[0].store(302, Ordering::SeqCst);
    wait(0, "healthy");
    assert_eq!(gateway.get("/").send().expect(200).text(), "0");
}

#[test]
fn a_target_that_refuses_costs_no_request_and_is_passed_over() {
    let good = targets(1);
    let nobody = Upstream::nobody();
    let lines =
        "balance = \"round_robin\"\npassive_health = { failures = 3, window = \"60s\", eject = \"60s\" }";
    let gateway = before(&[nobody, good[0].address()], lines);
    for _ in 0..20 {
        gateway.get("/").send().expect(200);
    }
    gateway.post("/").body("text/plain", "once").send().expect(200);
    let state = state(&gateway, nobody);
    assert_eq!((&state["failures_total"], &state["ejections_total"]), (&json!(3), &json!(1)), "{state}");
    assert_eq!(state["state"], "ejected");
    assert_eq!(good[0].received().len(), 21);
}

#[test]
fn what_may_have_had_its_effect_is_not_sent_twice() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    // Takes a request and hangs up on it.
    let breaking = Upstream::raw(move |mut stream, _| {
        if receive_head(&mut stream, &mut Vec::new()).is_some() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let lines = "retries = 5\npassive_health = { failures = 0, window = \"10s\", eject = \"30s\" }";
    let gateway = before(&[breaking.address()], lines);
    for (number, method) in ["GET", "POST", "PUT"].into_iter().enumerate() {
        gateway.call(method, "/").send().expect_problem(502, "upstream_unreachable");
        assert_eq!(asked.load(Ordering::SeqCst), number + 1, "{method}");
    }
}

#[test]
fn idle_connections_are_kept_for_their_time_and_up_to_their_number() {
    let (tell, told) = sync_channel(64);
    let upstream = Upstream::raw(move |mut stream, _| {
        let mut buffer = Vec::new();
        while receive_head(&mut stream, &mut buffer).is_some() {
            use std::io::Write as _;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
        tell.send(()).unwrap();
    });
    let gateway = before(&[upstream.address()], "keepalive = { idle = \"300ms\", max_idle = 1 }");
    for _ in 0..5 {
        gateway.get("/").send().expect(200);
    }
    let connections = upstream.connections();
    assert!(connections >= 1);
    for _ in 0..connections {
        assert_eq!(told.recv_timeout(DEADLINE), Ok(()), "nothing is kept for ever");
    }
    assert_eq!(state(&gateway, upstream.address())["connections"], 0);
    // It is at hand again when it is needed.
    gateway.get("/").send().expect(200);
}

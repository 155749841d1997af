//! Requests against revocations: one that begins after the acknowledgement is refused, always. Clients hammer a
//! route with a set of tokens while all of them are revoked at once; each first request after that is a trial.

use std::io::{Read as _, Write as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::json;

use crate::ledger::{Fate, KINDS, Kind, Selector, legacy};
use crate::seed::Rng;
use crate::support::{Call, Connection, Gateway, Setup, Upstream, now, wait_for};

const CLIENTS: usize = 6;
/// Tokens that are revoked in one request.
const TOKENS: usize = 40;
/// Requests of each client before the revocation is sent, so that it comes while they are at it.
const REQUESTS_BEFORE: usize = 2;

/// Tokens that share their end.
struct Set {
    /// Whole requests, one a token.
    requests: Vec<Vec<u8>>,
    begun: AtomicUsize,
    acknowledged: AtomicBool,
    accepted: AtomicUsize,
    leaks: Mutex<Vec<String>>,
}

/// However the revocation ends: the clients must not go on for ever.
struct AcknowledgeOnDrop<'a>(&'a Set);

impl Drop for AcknowledgeOnDrop<'_> {
    fn drop(&mut self) {
        self.0.acknowledged.store(true, Ordering::SeqCst);
    }
}

fn start(cache: &str) -> Gateway {
    Setup::without_auth()
        .server("workers = 2\naccess_log = \"off\"")
        .secret("legacy.key", legacy().secret_bytes())
        .section("[[issuers]]\nname = \"legacy\"\nalgorithms = [\"HS256\"]\nsecret_file = \"legacy.key\"\n")
        .section(&format!("[revocation]\ntoken_cache = {cache}\n"))
        .upstream("up", quick_upstream())
        .route("api", "/", "up", "access")
        .start()
}

/// Answers 200 to everything and remembers nothing.
fn quick_upstream() -> std::net::SocketAddr {
    let serve = |mut stream: std::net::TcpStream, _| {
        let (mut bytes, mut block) = (Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = stream.read(&mut block) {
            bytes.extend_from_slice(&block[..count]);
            while let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                bytes.drain(..end + 4);
                if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_err() {
                    return;
                }
            }
        }
    };
    Upstream::raw(serve).address()
}

/// Requests until the acknowledgement has come, then one more with each token: that must be refused.
fn hammer(connection: &mut Connection, set: &Set, mut rng: Rng) -> usize {
    while !set.acknowledged.load(Ordering::SeqCst) {
        connection.send(rng.pick(&set.requests));
        set.begun.fetch_add(1, Ordering::SeqCst);
        if connection.answer("GET").status == 200 {
            set.accepted.fetch_add(1, Ordering::SeqCst);
        }
    }
    let first = rng.below(set.requests.len());
    let (after, before) = (&set.requests[first..], &set.requests[..first]);
    connection.send([after, before].concat().concat());
    for request in after.iter().chain(before) {
        let answer = connection.answer("GET");
        if answer.verdict() != (401, "token_revoked".to_owned()) {
            let words = format!("{} for {:?}", answer.status, String::from_utf8_lossy(request));
            set.leaks.lock().unwrap().push(words);
        }
    }
    set.requests.len()
}

/// Many sets, one after the other.
fn race(gateway: &Gateway, trials_wanted: usize) {
    let mut rng = Rng::new();
    let mut connections: Vec<Connection> = (0..CLIENTS).map(|_| gateway.connect()).collect();
    let mut admin = Connection::open(gateway.admin_address());
    let (mut trials, mut accepted, mut round) = (0, 0, 0);
    while trials < trials_wanted {
        round += 1;
        // The cutoff of subjects is ahead of the tokens, however the clock stands within its second.
        let fate = |kind| Fate::Refused((kind == Kind::Subject).then(now));
        let selectors: Vec<Selector> = (0..TOKENS)
            .map(|number| Selector::new(*rng.pick(&KINDS), format!("r{round}-{number}")))
            .collect();
        let items: Vec<_> = selectors.iter().map(|selector| selector.item(fate(selector.kind))).collect();
        let request = |selector: &Selector| {
            gateway.get("/x").bearer(&selector.token(Fate::Refused(Some(now() - 5)))).bytes()
        };
        let set = Set {
            requests: selectors.iter().map(request).collect(),
            begun: AtomicUsize::new(0),
            acknowledged: AtomicBool::new(false),
            accepted: AtomicUsize::new(0),
            leaks: Mutex::default(),
        };
        let revoke: Call = gateway.admin("POST", "/admin/revocations").json(&json!(items));
        trials += thread::scope(|scope| {
            let set = &set;
            let acknowledge = AcknowledgeOnDrop(set);
            let threads: Vec<_> = connections
                .iter_mut()
                .map(|connection| {
                    let rng = rng.fork();
                    scope.spawn(move || hammer(connection, set, rng))
                })
                .collect();
            wait_for("requests", || {
                (set.begun.load(Ordering::SeqCst) >= CLIENTS * REQUESTS_BEFORE).then_some(())
            });
            let answer = revoke.send_on(&mut admin);
            drop(acknowledge);
            assert_eq!(answer.status, 200, "{}", answer.text());
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        accepted += set.accepted.into_inner();
        let leaks = set.leaks.into_inner().unwrap();
        assert!(leaks.is_empty(), "after {trials} trials {} leaks: {leaks:#?}", leaks.len());
    }
    assert!(accepted > round, "the tokens were good before: {accepted} requests went through");
    println!("{trials} trials over {round} revocations, {accepted} requests accepted before, 0 leaks");
}

#[test]
fn no_request_that_begins_after_the_acknowledgement_is_let_through() {
    let gateway = start("65536");
    race(&gateway, 80_000);
    let hits = gateway.metrics();
    let hits = hits.lines().find(|line| line.starts_with("portcullis_token_cache_hits_total")).unwrap();
    assert!(!hits.ends_with(" 0.0"), "the cache was not used: {hits}");
}

#[test]
fn nor_is_one_without_a_token_cache() {
    race(&start("0"), 30_000);
}

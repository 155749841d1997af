//! Refresh while the gateway is killed again and again; and what becomes of a thief.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use serde_json::json;

use crate::support::jwt::claims_of;
use crate::support::upstream::receive_head;
use crate::support::wait::wait_for;
use crate::support::{Account, Call, Connection, Setup, Upstream};

const CLIENTS: usize = 6;
const KILLS: usize = 3;

/// What all clients see of the gateway.
struct World {
    address: Mutex<SocketAddr>,
    refreshed: AtomicUsize,
    enough: AtomicBool,
}

/// Refreshes until it is enough, with the same token until an answer comes. Gives every token that it had.
fn client(world: &World, first: &str) -> Result<Vec<String>, String> {
    let mut tokens = vec![first.to_owned()];
    while !world.enough.load(Ordering::SeqCst) {
        let address = *world.address.lock().unwrap_or_else(PoisonError::into_inner);
        let call = Call::new(address, "POST", "/auth/refresh").bearer(tokens.last().unwrap());
        let Some(answer) = call.try_send() else {
            thread::yield_now();
            continue;
        };
        match answer.status {
            200 => {
                tokens.push(answer.json()["data"][0]["refresh_token"].as_str().unwrap().to_owned());
                world.refreshed.fetch_add(1, Ordering::SeqCst);
            }
            // Told to come back.
            503 => {}
            status => {
                return Err(format!("{status} after {} refreshes: {}", tokens.len() - 1, answer.text()));
            }
        }
    }
    Ok(tokens)
}

#[test]
fn a_gateway_that_is_killed_signs_nobody_out() {
    // A restart on a busy machine takes its time.
    let mut gateway = Setup::new().auth("reuse_grace = \"300s\"").start();
    let emails: Vec<String> = (0..CLIENTS).map(|number| format!("{number}@example.com")).collect();
    let accounts: Vec<Account> = emails.iter().map(|email| Account::sign_up(&gateway, email)).collect();
    let world = World {
        address: Mutex::new(gateway.address()),
        refreshed: AtomicUsize::new(0),
        enough: AtomicBool::new(false),
    };
    let histories = thread::scope(|scope| {
        let world = &world;
        let clients: Vec<_> =
            accounts.iter().map(|account| scope.spawn(|| client(world, &account.refresh))).collect();
        for _ in 0..=KILLS {
            let before = world.refreshed.load(Ordering::SeqCst);
            wait_for("clients to refresh", || {
                let all_ended = clients.iter().all(thread::ScopedJoinHandle::is_finished);
                (all_ended || world.refreshed.load(Ordering::SeqCst) > before + 5 * CLIENTS).then_some(())
            });
            gateway.kill9();
            gateway.restart();
            *world.address.lock().unwrap() = gateway.address();
        }
        world.enough.store(true, Ordering::SeqCst);
        clients.into_iter().map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    for history in histories {
        let tokens = history.unwrap();
        let mut ids: Vec<_> = tokens.iter().map(|token| claims_of(token)["jti"].to_string()).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count, "each successor was new");
        // The last is still good; the first, after all this, is a thief's.
        let last = gateway.post("/auth/refresh").bearer(tokens.last().unwrap()).send().expect(200);
        let last = last.json()["data"][0]["refresh_token"].as_str().unwrap().to_owned();
        gateway.post("/auth/refresh").bearer(&tokens[0]).send().expect_problem(401, "token_revoked");
        gateway.post("/auth/refresh").bearer(&last).send().expect_problem(401, "token_revoked");
    }
}

#[test]
fn reuse_cuts_the_streams_of_the_session_and_is_on_record() {
    let upstream = Upstream::raw(|mut stream, _| {
        receive_head(&mut stream, &mut Vec::new());
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n");
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let gateway =
        Setup::new().upstream("api", upstream.address()).route("stream", "/stream", "api", "access").start();
    let first = Account::sign_up(&gateway, "ada@example.com");
    let other = Account::sign_in(&gateway, "ada@example.com");
    let token_of = |answer: crate::support::Answer| {
        answer.expect(200).json()["data"][0]["refresh_token"].as_str().unwrap().to_owned()
    };
    let second = token_of(first.refreshed(&gateway));
    token_of(gateway.post("/auth/refresh").bearer(&second).send());

    let open = |token: &str| {
        let mut connection: Connection = gateway.connect();
        connection.send(gateway.get("/stream").bearer(token).bytes());
        connection.read_until("the stream to begin", |bytes| bytes.ends_with(b"begun\r\n"));
        connection
    };
    let (mut stream, mut neighbour) = (open(&first.access), open(&other.access));
    first.refreshed(&gateway).expect_problem(401, "token_revoked");
    assert!(stream.closed());
    // The stream of the other session is there yet, until that one ends too.
    assert!(neighbour.rest().ends_with(b"begun\r\n"));
    gateway.get("/auth/me").bearer(&other.access).send().expect(200);

    let session = claims_of(&first.access)["sid"].as_str().unwrap().to_owned();
    let entry = gateway.entry("session", &session, "self").expect(200).json();
    let shown = entry.to_string();
    assert!(shown.contains("a retired refresh token was used again") && shown.contains("gateway"), "{shown}");
    assert!(gateway.stderr().contains("a retired refresh token was used again"));
    gateway.revoke(&json!({ "kind": "session", "value": claims_of(&other.access)["sid"], "issuer": "self" }));
    assert!(neighbour.closed());
}

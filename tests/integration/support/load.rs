//! Clients that never stop asking, and that forgive nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use super::wait::wait_for;
use super::{Call, Connection};

/// How often one connection is used before it is closed by the client.
const REQUESTS_A_CONNECTION: usize = 25;

/// Clients at work, each on a thread of its own.
#[derive(Debug)]
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// Begins: so many clients send the same request, one after the other, over connections that they keep for a
    /// while. Returns when every one has been answered.
    pub(crate) fn begin(address: SocketAddr, call: &Call, clients: usize) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let clients = (0..clients).map(|_| {
            let (stop, answered, call) = (stop.clone(), answered.clone(), call.clone());
            thread::spawn(move || ask(address, &call, &stop, &answered))
        });
        let load = Self { clients: clients.collect(), stop, answered };
        load.go_on(load.clients.len() * 2);
        load
    }

    /// Waits until so many more requests were answered.
    pub(crate) fn go_on(&self, count: usize) {
        let before = self.answered.load(Ordering::SeqCst);
        wait_for("requests under load", || {
            let over = self.clients.iter().any(JoinHandle::is_finished);
            (over || self.answered.load(Ordering::SeqCst) >= before + count).then_some(())
        });
    }

    /// Ends it; fails if any request did.
    #[track_caller]
    pub(crate) fn expect_no_failure(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        let failures: Vec<String> =
            self.clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        let answered = self.answered.load(Ordering::SeqCst);
        assert!(failures.is_empty(), "{} failed beside {answered} good ones: {failures:?}", failures.len());
        answered
    }
}

/// What failed, in words; a client stops at its first failure.
fn ask(address: SocketAddr, call: &Call, stop: &AtomicBool, answered: &AtomicUsize) -> Vec<String> {
    while !stop.load(Ordering::SeqCst) {
        let Some(mut connection) = Connection::try_open(address) else {
            return vec!["a connection was refused".to_owned()];
        };
        for number in 0..REQUESTS_A_CONNECTION {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let Some(answer) = call.try_send_on(&mut connection) else {
                return vec![format!("no whole answer to request {number} of a connection")];
            };
            if answer.status != 200 {
                return vec![format!("{} {}", answer.status, answer.text())];
            }
            answered.fetch_add(1, Ordering::SeqCst);
            if answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
                break;
            }
        }
    }
    Vec::new()
}

//! Connections from beginning to end: many requests, limits, early answers, upgrades, drain.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::*;

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

#[test]
fn a_thousand_requests_on_one_connection() {
    let server = Server::start(rules());
    let mut client = server.connect();
    for n in 0..1000 {
        client.send(format!("POST /{n} HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nok"));
        assert_eq!(client.answer().unwrap().text(), format!("POST /{n} ok"));
    }
    assert_eq!(server.drain.accepted_total(), 1);
    let facts = std::mem::take(&mut *server.seen.facts.lock().unwrap());
    assert!(facts.iter().map(|facts| facts.sequence).eq(1..=1000));
    assert_eq!((facts[0].head_bytes, facts[0].body), (48, crate::server::BodyLength::Known(2)));
}

#[test]
fn pipelined_requests_are_answered_in_order_up_to_the_bad_one() {
    let server = Server::start(rules());
    let mut client = server.connect();
    client.send(format!("{GET}{GET}GET / HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n{GET}"));
    assert_eq!(client.answer().unwrap().status, 200);
    assert_eq!(client.answer().unwrap().status, 200);
    let answer = client.answer().unwrap();
    assert_eq!((answer.status, answer.closes()), (400, true));
    assert!(client.is_closed());
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn five_hundred_pipelined_requests_are_all_answered() {
    let server = Server::start(rules());
    let mut client = server.connect();
    let bytes: String = (0..500).map(|n| format!("GET /{n} HTTP/1.1\r\nhost: a\r\n\r\n")).collect();
    client.send(bytes);
    for n in 0..500 {
        assert_eq!(client.answer().unwrap().text(), format!("GET /{n} "));
    }
    assert!(client.is_open());
}

#[test]
fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let server = Server::start(rules());
    let mut client = server.connect();
    client.send(format!("POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", 1 << 20));
    client.stream.write_all(&vec![b'x'; 1 << 20]).expect("the server reads on while it closes");
    let answer = client.answer().unwrap();
    assert_eq!((answer.status, answer.closes()), (413, true));
    assert!(client.is_closed());
    drop(client);
    until("closed", || server.drain.open() == 0);
}

#[test]
fn a_client_that_never_stops_sending_is_cut_off() {
    let server = Server::start(rules());
    let mut client = server.connect();
    client.send(format!("POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", 1u64 << 40));
    let start = Instant::now();
    while client.stream.write_all(&[b'x'; 65536]).is_ok() {
        assert!(start.elapsed() < PATIENCE, "never cut off");
    }
    until("closed", || server.drain.open() == 0);
}

#[test]
fn an_early_answer_to_a_body_that_is_all_there_keeps_the_connection() {
    let server = Server::start(rules());
    let mut client = server.connect();
    client.send("POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc");
    let answer = client.answer().unwrap();
    assert_eq!((answer.status, answer.closes()), (413, false));
    assert!(client.is_open());
}

#[test]
fn a_short_body_that_comes_after_its_answer_keeps_the_connection() {
    let server = Server::start(rules());
    let mut client = server.connect();
    for _ in 0..3 {
        client.send("POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\n");
        let answer = client.answer().unwrap();
        assert_eq!((answer.status, answer.closes()), (413, false));
        client.send("abc");
        client.send(format!("def{GET}"));
        assert_eq!(client.answer().unwrap().text(), "GET / ");
    }
    client.send("POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nabc");
    assert_eq!(client.answer().unwrap().status, 413);
    assert!(client.is_closed(), "it is not waited for without end");
    let mut client = server.connect();
    client.send(format!("POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", 64 * 1024 + 1));
    let answer = client.answer().unwrap();
    assert_eq!((answer.status, answer.closes()), (413, true));
}

#[test]
fn expect_gets_a_100_only_when_the_body_is_wanted() {
    let server = Server::start(rules());
    let head = |path| {
        format!("POST {path} HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
    };
    let mut client = server.connect();
    client.send(head("/"));
    assert_eq!(client.answer().unwrap().status, 100);
    client.send("abc");
    assert_eq!(client.answer().unwrap().text(), "POST / abc");
    assert!(client.is_open());
    client.send(head("/early"));
    let answer = client.answer().unwrap();
    assert_eq!((answer.status, answer.closes()), (413, true));
    assert!(client.is_closed());
}

#[test]
fn interim_answers_come_before_the_answer_and_to_clients_that_know_them() {
    let server = Server::start(rules());
    let mut client = server.connect();
    client.send("GET /hints HTTP/1.1\r\nhost: a\r\n\r\n");
    for link in ["link: a\r\n", "link: b\r\n"] {
        let answer = client.answer().unwrap();
        assert_eq!(answer.status, 103);
        assert!(answer.head.contains(link) && !answer.head.contains("content-length"), "{}", answer.head);
    }
    assert!(client.read.is_empty(), "the answer itself has to wait");
    server.seen.gate.add_permits(1);
    assert_eq!(client.answer().unwrap().status, 102);
    assert_eq!(client.answer().unwrap().text(), "GET /hints ");
    assert!(client.is_open());
    server.seen.gate.add_permits(1);
    client.send("GET /hints HTTP/1.0\r\nconnection: keep-alive\r\n\r\n");
    assert_eq!(client.answer().unwrap().text(), "GET /hints ");
}

#[test]
fn a_panic_ends_its_own_connection_alone() {
    let server = Server::start(rules());
    let (mut one, mut two) = (server.connect(), server.connect());
    assert!(two.is_open());
    one.send("GET /panic HTTP/1.1\r\nhost: a\r\n\r\n");
    assert!(one.answer().is_none());
    assert!(two.is_open());
    assert!(server.connect().is_open());
}

#[test]
fn an_upgraded_connection_passes_every_byte() {
    let server = Server::start(rules());
    let mut client = server.connect();
    // Sent before the answer: no request, but the tunnel's.
    let early = "GET /smuggled HTTP/1.1\r\n\0\r\r";
    client
        .send(format!("GET /switch HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n{early}"));
    assert_eq!(client.answer().unwrap().status, 101);
    client.send([0, 255, b'\n']);
    let expected = [early.as_bytes(), &[0, 255, b'\n']].concat();
    while client.read.len() < expected.len() {
        assert!(client.fill());
    }
    assert_eq!(client.read, expected);
    assert_eq!(server.drain.open(), 1);
    // A tunnel has no end of its own: the drain waits for it, then cuts it.
    let drain = server.drain.clone();
    assert_eq!(server.runtime.block_on(drain.stop(Duration::from_millis(50))), 1);
    assert!(!client.fill());
    assert_eq!(server.drain.open(), 0);
}

#[test]
fn after_a_declined_upgrade_the_next_request_is_judged() {
    let server = Server::start(rules());
    let upgrade = "GET /a HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    let mut client = server.connect();
    client.send(format!("{upgrade}{GET}{upgrade}GET / HTTP/1.1\r\nhost : a\r\n\r\n"));
    for status in [200, 200, 200, 400] {
        assert_eq!(client.answer().unwrap().status, status);
    }
    assert!(client.is_closed());
    let mut client = server.connect();
    client.send(upgrade);
    assert_eq!(client.answer().unwrap().status, 200);
    assert!(client.is_open());
}

#[test]
fn one_connection_too_many_is_told_so_and_let_in_later() {
    let server = Server::start(Rules { max_connections: Some(2), ..rules() });
    let (mut one, mut two) = (server.connect(), server.connect());
    assert!(one.is_open() && two.is_open());
    let mut three = server.connect();
    three.send(GET);
    let answer = three.answer().unwrap();
    assert_eq!((answer.status, answer.closes()), (503, true));
    assert!(answer.head.contains("retry-after: 1"), "{}", answer.head);
    assert!(answer.text().contains("\"code\":\"overloaded\""));
    assert!(three.is_closed());
    drop(three);
    assert_eq!(server.refusals(), ["overloaded"]);
    // A silent one is told, too.
    assert_eq!(server.connect().answer().unwrap().status, 503);
    assert!(one.is_open() && two.is_open());
    drop(one);
    until("a place is free", || server.drain.open() == 1);
    assert!(server.connect().is_open());
    // The limit can be changed while the listener runs.
    server.rules.store(Arc::new(Rules { max_connections: Some(1), ..rules() }));
    assert!(two.is_open());
    until("alone", || server.drain.open() == 1);
    let mut four = server.connect();
    four.send(GET);
    assert_eq!(four.answer().unwrap().status, 503);
}

#[test]
fn a_drain_closes_the_idle_lets_the_busy_finish_and_cuts_the_stuck() {
    let server = Server::start(rules());
    let (mut idle, mut busy, mut stuck, mut halfway) =
        (server.connect(), server.connect(), server.connect(), server.connect());
    let mut silent = server.connect();
    assert!(idle.is_open() && halfway.is_open());
    halfway.send("GET /half HTTP/1.1\r\nho");
    busy.send("GET /gate HTTP/1.1\r\nhost: a\r\n\r\n");
    until("busy", || server.seen.facts.lock().unwrap().len() == 3);
    stuck.send("GET /endless HTTP/1.1\r\nhost: a\r\n\r\n");
    until("all in", || server.seen.facts.lock().unwrap().len() == 4 && server.drain.open() == 5);
    let drain = server.drain.clone();
    let stop = server.runtime.spawn(async move { drain.stop(Duration::from_secs(3)).await });
    assert!(idle.is_closed());
    assert!(silent.is_closed());
    until("the door is shut", || TcpStream::connect(server.address).is_err());
    halfway.send("st: a\r\n\r\n");
    let answer = halfway.answer().unwrap();
    assert_eq!((answer.status, answer.closes()), (200, true));
    server.seen.gate.add_permits(1);
    let answer = busy.answer().unwrap();
    assert_eq!((answer.status, answer.closes()), (200, true));
    assert!(busy.is_closed() && halfway.is_closed());
    assert_eq!(server.runtime.block_on(stop).unwrap(), 1);
    assert_eq!(server.drain.open(), 0);
}

#[test]
fn one_drain_can_outlive_another() {
    let (one, two) = (Server::start(rules()), Server::start(rules()));
    assert_eq!(one.runtime.block_on(one.drain.stop(Duration::ZERO)), 0);
    until("the door is shut", || TcpStream::connect(one.address).is_err());
    assert!(two.connect().is_open());
}

#[test]
fn a_connection_that_has_rested_is_as_good_as_before() {
    // Ten times what it takes; where the machine is too busy for it to rest, it is as good as before all the same.
    let rest = || std::thread::sleep(Duration::from_millis(200));
    let server = Server::start(rules());
    let mut client = server.connect();
    assert!(client.is_open());
    rest();
    client.send("POST /1 HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\no");
    rest();
    client.send("kGET /2 HT");
    assert_eq!(client.answer().unwrap().text(), "POST /1 ok");
    rest();
    client.send("TP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(client.answer().unwrap().text(), "GET /2 ");
    rest();
    // Longer than what is read at a time, and two at once.
    let long = format!("GET /3 HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(5000));
    client.send(format!("{long}{GET}"));
    assert_eq!(client.answer().unwrap().text(), "GET /3 ");
    assert_eq!(client.answer().unwrap().text(), "GET / ");
    rest();
    client.send("GET /gate HTTP/1.1\r\nhost: a\r\n\r\n");
    rest();
    server.seen.gate.add_permits(1);
    assert_eq!(client.answer().unwrap().text(), "GET /gate ");
    rest();
    client.send("GET /switch HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nearly");
    assert_eq!(client.answer().unwrap().status, 101);
    while client.read != b"early" {
        assert!(client.fill());
    }
    drop(client);

    let mut refused = server.connect();
    assert!(refused.is_open());
    rest();
    refused.send("GET / HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n");
    assert_eq!(refused.answer().unwrap().status, 400);
    assert!(refused.is_closed());

    let (mut idle, mut gone) = (server.connect(), server.connect());
    assert!(idle.is_open() && gone.is_open());
    rest();
    gone.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(gone.is_closed());
    let drain = server.drain.clone();
    assert_eq!(server.runtime.block_on(drain.stop(PATIENCE)), 0, "nothing is left to be cut");
    assert!(idle.is_closed());
}

/// The next frame: its kind, its flags, its payload.
async fn frame(stream: &mut tokio::net::TcpStream) -> io::Result<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload).await?;
    Ok((head[3], head[4], payload))
}

/// Over HTTP/2 a client that is silent is asked; one that answers may stay, one that does not is let go.
#[tokio::test]
async fn a_client_over_http2_that_does_not_answer_pings_is_let_go() {
    const PING: u8 = 6;
    let server = Server::start(Rules { header_read_timeout: None, idle_timeout: None, ..rules() });
    let mut client = tokio::net::TcpStream::connect(server.address).await.unwrap();
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    for _ in 0..3 {
        let payload = loop {
            if let (PING, 0, payload) = timeout(PATIENCE, frame(&mut client)).await.unwrap().unwrap() {
                break payload;
            }
        };
        client.write_all(b"\0\0\x08\x06\x01\0\0\0\0").await.unwrap();
        client.write_all(&payload).await.unwrap();
    }
    let mut pings = 0;
    while let Ok((kind, ..)) = timeout(PATIENCE, frame(&mut client)).await.expect("it is let go") {
        pings += u32::from(kind == PING);
    }
    assert_eq!(pings, 1);
    tokio::task::spawn_blocking(|| drop(server)).await.unwrap();
}

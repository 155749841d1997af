//! Slow clients: every wait ends, and none ends that should not.

use super::*;

const SHORT: Option<Duration> = Some(Duration::from_millis(400));

/// Sends `bytes` for as long as the server lets it, a byte at a time.
fn drip(client: &mut Client, bytes: &[u8]) {
    for byte in bytes.iter().cycle() {
        if client.stream.write_all(&[*byte]).is_err() {
            return;
        }
        client.stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let mut chunk = [0; 1024];
        if let Ok(n) = client.stream.read(&mut chunk) {
            client.read.extend_from_slice(&chunk[..n]);
            client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
            return;
        }
    }
}

#[test]
fn a_silent_client_gets_408() {
    let server = Server::start(Rules { header_read_timeout: SHORT, ..rules() });
    let mut client = server.connect();
    let answer = client.answer().unwrap();
    assert_eq!((answer.status, answer.closes()), (408, true));
    assert!(client.is_closed());
    assert_eq!(server.refusals(), ["request_timeout"]);
}

#[test]
fn a_head_that_drips_for_ever_gets_408() {
    let server = Server::start(Rules { header_read_timeout: SHORT, ..rules() });
    let mut client = server.connect();
    client.send("GET / HTTP/1.1\r\n");
    drip(&mut client, b"x: y\r\n");
    assert_eq!(client.answer().unwrap().status, 408);
    assert!(client.is_closed());
}

#[test]
fn a_later_head_has_its_own_time_from_its_first_byte() {
    let server = Server::start(Rules { header_read_timeout: SHORT, ..rules() });
    let mut client = server.connect();
    assert!(client.is_open());
    // Longer than a head may take: but this is idle time, and that is another limit.
    std::thread::sleep(Duration::from_millis(900));
    assert!(client.is_open());
    client.send("\r\n");
    std::thread::sleep(Duration::from_millis(900));
    assert!(client.is_open(), "empty lines are not the start of a head");
    client.send("HEAD / HT");
    assert_eq!(client.answer_to(true).unwrap().status, 408);
    assert!(client.is_closed());
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let server = Server::start(Rules { idle_timeout: SHORT, ..rules() });
    let mut client = server.connect();
    assert!(client.is_open());
    assert!(client.is_closed());
    assert!(server.refusals().is_empty());
    until("all closed", || server.drain.open() == 0);
}

#[test]
fn idle_time_does_not_run_while_an_answer_is_produced() {
    let server = Server::start(Rules { idle_timeout: SHORT, header_read_timeout: SHORT, ..rules() });
    let mut client = server.connect();
    assert!(client.is_open());
    client.send("GET /gate HTTP/1.1\r\nhost: a\r\n\r\n");
    std::thread::sleep(Duration::from_millis(900));
    server.seen.gate.add_permits(1);
    assert_eq!(client.answer().unwrap().status, 200);
    assert!(client.is_open());
}

#[test]
fn a_body_that_stops_is_a_timeout_of_the_body() {
    let server = Server::start(Rules { body_read_timeout: SHORT, ..rules() });
    for body in ["content-length: 10\r\n\r\nabc", "transfer-encoding: chunked\r\n\r\n5\r\nabc"] {
        let mut client = server.connect();
        client.send(format!("POST / HTTP/1.1\r\nhost: a\r\n{body}"));
        let answer = client.answer().unwrap();
        assert_eq!((answer.status, answer.closes()), (408, true), "{body:?}");
        assert!(client.is_closed());
    }
}

#[test]
fn a_body_that_goes_on_slowly_is_taken() {
    let server = Server::start(Rules { body_read_timeout: SHORT, ..rules() });
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n");
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(40));
        client.send("x");
    }
    assert_eq!(client.answer().unwrap().text(), "POST / xxxxxxxxxx");
}

#[test]
fn a_client_that_takes_nothing_is_let_go() {
    let server = Server::start(Rules { write_stall: SHORT, ..rules() });
    let mut client = server.connect();
    client.send("GET /endless HTTP/1.1\r\nhost: a\r\n\r\n");
    until("the answer has begun", || server.drain.open() == 1);
    until("the connection is cut", || server.drain.open() == 0);
    // What was under way ends with a reset: nobody takes it for complete.
    let mut chunk = [0; 65536];
    let end = loop {
        match client.stream.read(&mut chunk) {
            Ok(0) => break None,
            Ok(_) => {}
            Err(error) => break Some(error.kind()),
        }
    };
    assert_eq!(end, Some(io::ErrorKind::ConnectionReset));
}

#[test]
fn a_half_closed_client_still_gets_its_answer() {
    let server = Server::start(rules());
    let mut client = server.connect();
    client.send("GET /a HTTP/1.1\r\nhost: a\r\n\r\nGET /b HTTP/1.1\r\nhost: a\r\n\r\n");
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.answer().unwrap().text(), "GET /a ");
    assert_eq!(client.answer().unwrap().text(), "GET /b ");
    assert!(client.is_closed());
}

#[test]
fn a_client_that_leaves_has_its_request_given_up() {
    let server = Server::start(rules());
    let mut client = server.connect();
    client.send("GET /gate HTTP/1.1\r\nhost: a\r\n\r\n");
    until("the handler has it", || !server.seen.facts.lock().unwrap().is_empty());
    drop(client);
    until("given up", || server.drain.open() == 0);
}

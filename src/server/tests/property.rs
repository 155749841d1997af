//! What holds for all requests: pieces do not matter, and every frame is found.

use proptest::prelude::*;

use super::*;

/// Sends `bytes` in pieces, as many reads for the server if the machine is quick enough.
fn outcome(server: &Server, pieces: &[&[u8]]) -> Vec<String> {
    let mut client = server.connect();
    for piece in pieces {
        client.send(piece);
    }
    // Ends a connection that is still open.
    client.send("GET /end HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let mut outcome = Vec::new();
    while let Some(answer) = client.answer() {
        outcome.push(format!("{} {}", answer.status, answer.text()));
    }
    outcome
}

#[test]
fn the_answers_do_not_depend_on_where_the_bytes_were_cut() {
    let server = Server::start(rules());
    for bytes in [
        "GET /a?b=c HTTP/1.1\r\nhost: a\r\nx: y\r\n\r\n",
        "\r\nPOST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nabcdGET /b HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3;e\r\nabc\r\n0\r\nt: u\r\n\r\nGET /b HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /a HTTP/1.1\r\nhost: a\r\n\r\nGET /b HTTP/1.1\r\nhost : a\r\n\r\n",
        "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcX\r\n",
        "GET /\rx HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        let bytes = bytes.as_bytes();
        let whole = outcome(&server, &[bytes]);
        assert!(!whole.is_empty());
        for at in 1..bytes.len() {
            let (one, two) = bytes.split_at(at);
            assert_eq!(outcome(&server, &[one, two]), whole, "cut at {at}: {}", bytes.escape_ascii());
        }
        let single: Vec<_> = bytes.chunks(1).collect();
        assert_eq!(outcome(&server, &single), whole, "byte by byte: {}", bytes.escape_ascii());
    }
}

#[derive(Clone, Debug)]
struct Sent {
    bytes: Vec<u8>,
    seen: String,
}

/// A good request, and what the handler must see of it.
fn request() -> impl Strategy<Value = Sent> {
    let field = ("x-[a-z]{1,10}", "[ -~\t]{0,40}");
    let body = prop::collection::vec(any::<u8>(), 0..3000);
    let target = "/[a-zA-Z0-9/._~%-]{0,60}(\\?[a-z0-9=&\\[\\]|]{0,40})?";
    (
        "GET|POST|PUT|DELETE|QUERY",
        target,
        prop::collection::vec(field, 0..20),
        body,
        prop::collection::vec(1..700usize, 1..6),
        0..3usize,
    )
        .prop_map(|(method, target, fields, body, chunks, kind)| {
            let mut bytes = format!("{method} {target} HTTP/1.1\r\nHost: a.example:80\r\n").into_bytes();
            for (name, value) in fields {
                bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
            }
            let body = if kind == 0 { Vec::new() } else { body };
            match kind {
                0 => bytes.extend_from_slice(b"\r\n"),
                1 => {
                    bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
                    bytes.extend_from_slice(&body);
                }
                _ => {
                    bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                    let mut rest = &body[..];
                    for size in chunks.iter().cycle() {
                        let (chunk, after) = rest.split_at(rest.len().min(*size));
                        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                        bytes.extend_from_slice(chunk);
                        bytes.extend_from_slice(b"\r\n");
                        if chunk.is_empty() {
                            break;
                        }
                        rest = after;
                    }
                }
            }
            Sent { bytes, seen: format!("{method} {target} {}", body.escape_ascii()) }
        })
}

/// Whatever bytes, near enough to a request to be interesting.
fn near_request() -> impl Strategy<Value = Vec<u8>> {
    let odd = prop::sample::select(vec![
        &b"\r"[..],
        b"\n",
        b"\0",
        b" ",
        b"\t",
        b":",
        b"\r\n",
        b"\r\n ",
        b",",
        b"\xe9",
        b"\x7f",
        b"chunked",
        b"content-length: 3\r\n",
        b"transfer-encoding: chunked\r\n",
        b"host: b\r\n",
        b"HTTP/1.0",
        b"http://",
        b"upgrade: x\r\n",
        b"?",
        b"#",
        b"0",
        b"\x80",
    ]);
    (request(), prop::collection::vec((any::<prop::sample::Index>(), odd, any::<bool>()), 0..3)).prop_map(
        |(sent, edits)| {
            let mut bytes = sent.bytes;
            for (at, odd, replace) in edits {
                let at = at.index(bytes.len().min(200));
                let end = if replace { (at + odd.len()).min(bytes.len()) } else { at };
                bytes.splice(at..end, odd.iter().copied());
            }
            bytes
        },
    )
}

#[test]
fn the_handler_sees_exactly_the_requests_that_were_sent() {
    let server = Server::start(rules());
    let config = ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(sent in prop::collection::vec(request(), 1..6), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4))| {
        let bytes: Vec<u8> = sent.iter().flat_map(|sent| sent.bytes.clone()).collect();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len())).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        let mut client = server.connect();
        for pair in cuts.windows(2) {
            client.send(&bytes[pair[0]..pair[1]]);
        }
        for sent in &sent {
            let answer = client.answer().unwrap();
            prop_assert_eq!(answer.status, 200, "{}", answer.text());
            prop_assert_eq!(answer.text(), &sent.seen);
        }
        prop_assert!(client.is_open());
    });
}

#[test]
fn whatever_is_sent_is_answered_or_refused_with_a_problem() {
    let server = Server::start(rules());
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(bytes in near_request())| {
        let mut client = server.connect();
        client.send(&bytes);
        let _ = client.stream.shutdown(std::net::Shutdown::Write);
        while let Some(answer) = client.answer() {
            let problem = answer.head.contains("content-type: application/problem+json");
            prop_assert!(answer.status == 200 || problem, "{} to {}", answer.head, bytes.escape_ascii());
        }
    });
}

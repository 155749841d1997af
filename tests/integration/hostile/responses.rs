//! Answers of an upstream that lies, breaks off or talks too much: what the client gets, whether it can take it for
//! complete, and whether the connection to that upstream is ever used again.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::sync::{Arc, Mutex};

use super::upstreams::descriptors;
use super::wire::strict;
use crate::support::upstream::receive_head;
use crate::support::{Gateway, Setup, Upstream, wait_for};

/// What the client must get.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// This status, these fields (one a line), this body, whole.
    Whole(u16, &'static str, &'static str),
    /// This status, no more than this of the body, and an end that nobody takes for one.
    Broken(u16, &'static str),
    /// The gateway's own answer.
    Problem(u16, &'static str),
}
use Then::{Broken, Problem, Whole};

/// What becomes of the connection to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// It serves the next request.
    Reused,
    /// The gateway closes it.
    Spent,
}
use After::{Reused, Spent};

const PROTOCOL: Then = Problem(502, "upstream_protocol_error");
const GONE: Then = Problem(502, "upstream_unreachable");

struct Case {
    method: &'static str,
    answer: Vec<u8>,
    /// How the upstream goes on.
    ends: Ends,
    then: Then,
    after: After,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    /// It waits for the next request.
    Waits,
    Closes,
    /// With a reset.
    Resets,
}
use Ends::{Closes, Resets, Waits};

fn case(answer: impl Into<Vec<u8>>, ends: Ends, then: Then, after: After) -> Case {
    Case { method: "GET", answer: answer.into(), ends, then, after }
}

fn cases() -> Vec<Case> {
    let ok = |head: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}");
    let chunked = |body: &str| ok("Transfer-Encoding: chunked", body);
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    let mut cases = vec![
        case(ok("Content-Length: 2", "ok"), Waits, Whole(200, "content-length: 2", "ok"), Reused),
        case(ok("Content-Length:   2  ", "ok"), Waits, Whole(200, "content-length: 2", "ok"), Reused),
        case(ok("Content-Length: 0002", "ok"), Waits, Whole(200, "content-length: 2", "ok"), Reused),
        case(ok("Content-Length: 0", ""), Waits, Whole(200, "content-length: 0", ""), Reused),
        case(chunked("2\r\nok\r\n0\r\n\r\n"), Waits, Whole(200, "", "ok"), Reused),
        case(chunked("1\r\no\r\n1\r\nk\r\n0\r\n\r\n"), Waits, Whole(200, "", "ok"), Reused),
        case(chunked("2;x=\"y\"\r\nok\r\n0\r\n\r\n"), Waits, Whole(200, "", "ok"), Reused),
        case(
            chunked("2\r\nok\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\n"),
            Waits,
            Whole(200, "", "ok"),
            Reused,
        ),
        case(ok("Transfer-Encoding: CHUNKED", "2\r\nok\r\n0\r\n\r\n"), Waits, Whole(200, "", "ok"), Reused),
        case(ok("X: y", "ok"), Closes, Whole(200, "x: y", "ok"), Spent),
        case(ok("Connection: close", "ok"), Closes, Whole(200, "", "ok"), Spent),
        case(
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            Closes,
            Whole(200, "content-length: 2", "ok"),
            Spent,
        ),
        case("HTTP/1.0 200 OK\r\n\r\nok", Closes, Whole(200, "", "ok"), Spent),
        case("HTTP/1.1 204 No Content\r\n\r\n", Waits, Whole(204, "", ""), Reused),
        case("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", Waits, Whole(204, "", ""), Reused),
        case(
            "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
            Waits,
            Whole(304, "etag: \"x\"", ""),
            Reused,
        ),
        case("HTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\n", Waits, Whole(304, "", ""), Reused),
        case(
            "HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n",
            Waits,
            Whole(205, "content-length: 0", ""),
            Reused,
        ),
        case(
            "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok",
            Waits,
            Whole(200, "content-length: 2", "ok"),
            Reused,
        ),
        case(
            "HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok",
            Waits,
            Whole(200, "content-length: 2", "ok"),
            Reused,
        ),
        case(
            "HTTP/1.1 599 x\r\nContent-Length: 2\r\n\r\nok",
            Waits,
            Whole(599, "content-length: 2", "ok"),
            Reused,
        ),
        case(
            "HTTP/1.1 404 x\r\nContent-Length: 2\r\n\r\nno",
            Waits,
            Whole(404, "content-length: 2", "no"),
            Reused,
        ),
        case(
            ok("Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0", ""),
            Waits,
            Whole(200, "content-length: 0\nset-cookie: a=1\nset-cookie: b=2", ""),
            Reused,
        ),
        case(
            ok(
                "Connection: X-Own, keep-alive\r\nX-Own: 1\r\nKeep-Alive: timeout=9\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\nTrailer: X\r\nContent-Length: 0",
                "",
            ),
            Waits,
            Whole(200, "content-length: 0", ""),
            Reused,
        ),
        case(
            ok("X: caf\u{e9}\r\nContent-Length: 0", ""),
            Waits,
            Whole(200, "content-length: 0\nx: caf\\xc3\\xa9", ""),
            Reused,
        ),
        case(
            format!("HTTP/1.1 100 Continue\r\n\r\n{}", ok("Content-Length: 0", "")),
            Waits,
            Whole(200, "content-length: 0", ""),
            Reused,
        ),
        case(
            format!("HTTP/1.1 103 x\r\nLink: y\r\n\r\n{}", ok("Content-Length: 0", "")),
            Waits,
            Whole(200, "content-length: 0", ""),
            Reused,
        ),
        case(
            "HTTP/1.1 102 x\r\n\r\n".repeat(9) + &ok("Content-Length: 0", ""),
            Waits,
            Whole(200, "content-length: 0", ""),
            Reused,
        ),
        // More than the answer.
        case(ok("Content-Length: 2", "okX"), Waits, Whole(200, "content-length: 2", "ok"), Spent),
        case(ok("Content-Length: 2", "ok") + poison, Waits, Whole(200, "content-length: 2", "ok"), Spent),
        case(ok("Content-Length: 0", "ok"), Waits, Whole(200, "content-length: 0", ""), Spent),
        case(chunked("2\r\nok\r\n0\r\n\r\n") + poison, Waits, Whole(200, "", "ok"), Spent),
        case(format!("HTTP/1.1 204 x\r\n\r\n{poison}"), Waits, Whole(204, "", ""), Spent),
        case(
            format!("HTTP/1.1 204 x\r\nContent-Length: 45\r\n\r\n{poison}"),
            Waits,
            Whole(204, "", ""),
            Spent,
        ),
        case(
            "HTTP/1.1 204 x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Waits,
            Whole(204, "", ""),
            Spent,
        ),
        case(
            format!("HTTP/1.1 304 x\r\nContent-Length: 45\r\n\r\n{poison}"),
            Waits,
            Whole(304, "", ""),
            Spent,
        ),
        // Less than the answer.
        case(ok("Content-Length: 9", "half"), Closes, Broken(200, "half"), Spent),
        case(ok("Content-Length: 9", ""), Closes, Broken(200, ""), Spent),
        case(ok("Content-Length: 9", "half"), Resets, Broken(200, "half"), Spent),
        case(chunked("4\r\nhalf\r\n"), Closes, Broken(200, "half"), Spent),
        case(chunked("4\r\nhalf\r\n"), Resets, Broken(200, "half"), Spent),
        case(chunked("9\r\nhalf"), Closes, Broken(200, "half"), Spent),
        case(chunked("4\r\nhalf\r\n0\r\n"), Closes, Broken(200, "half"), Spent),
        case(chunked("4\r\nhalf\r\n0\r\nX-Sum"), Closes, Broken(200, "half"), Spent),
        case(chunked("4\r\nhalfX\r\n0\r\n\r\n"), Waits, Broken(200, "half"), Spent),
        case(chunked("4\r\nhalf\r\nxx\r\n"), Waits, Broken(200, "half"), Spent),
        case(chunked("4\r\nhalf\r\n-1\r\n"), Waits, Broken(200, "half"), Spent),
        case(chunked("4\r\nhalf\r\nfffffffffffffffff\r\n"), Waits, Broken(200, "half"), Spent),
        case(chunked("4\r\nhalf\r\n\r\n"), Waits, Broken(200, "half"), Spent),
        // No answer, or two.
        case("", Closes, GONE, Spent),
        case("", Resets, GONE, Spent),
        case("HTTP/1.1 200 OK\r\nContent-Le", Closes, PROTOCOL, Spent),
        case("HTTP/1.1 100 Continue\r\n\r\n", Closes, PROTOCOL, Spent),
        case("HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", Waits, PROTOCOL, Spent),
        case("HTTP/1.1 101 x\r\n\r\n", Waits, PROTOCOL, Spent),
        case("<html></html>\r\n\r\n", Waits, PROTOCOL, Spent),
        case("SSH-2.0-OpenSSH_9.2\r\n", Waits, PROTOCOL, Spent),
        case(b"\x15\x03\x01\x00\x02\x02\x46".to_vec(), Waits, PROTOCOL, Spent),
        case("HTTP/2.0 200 OK\r\n\r\n", Waits, PROTOCOL, Spent),
        case("HTTP/1.2 200 OK\r\n\r\n", Waits, PROTOCOL, Spent),
        case("HTTP/1.1 2000 OK\r\n\r\n", Waits, PROTOCOL, Spent),
        case("HTTP/1.1 20 OK\r\n\r\n", Waits, PROTOCOL, Spent),
        case("HTTP/1.1 099 OK\r\n\r\n", Waits, PROTOCOL, Spent),
        case("HTTP/1.1 abc OK\r\n\r\n", Waits, PROTOCOL, Spent),
        case("HTTP/1.1 -20 OK\r\n\r\n", Waits, PROTOCOL, Spent),
        case(b"\0\0\x12\x04\0\0\0\0\0".to_vec(), Waits, PROTOCOL, Spent),
        case("HTTP/1.1 102 x\r\n\r\n".repeat(4000), Waits, PROTOCOL, Spent),
        case(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(1 << 20)), Waits, PROTOCOL, Spent),
        case(format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(10_000)), Waits, PROTOCOL, Spent),
    ];
    for head in [
        "Content-Length: 2\r\nContent-Length: 3",
        "Content-Length: 2\r\nContent-Length: 2",
        "Content-Length: 2, 2",
        "Content-Length: +2",
        "Content-Length: -2",
        "Content-Length: 0x2",
        "Content-Length: 2 2",
        "Content-Length: two",
        "Content-Length:",
        "Content-Length: 99999999999999999999",
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 2",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding:",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked;x",
        "Transfer-Encoding: \"chunked\"",
        "X : y",
        "X",
        "X: a\0b",
        "X: a\rb",
        "X: a\x07b",
        "X: y\r\n folded",
        "X Y: z",
        "X\u{e9}: y",
        ": y",
        "X: a\x7fb",
    ] {
        cases.push(case(ok(head, "0\r\n\r\n"), Waits, PROTOCOL, Spent));
    }
    cases.push(case(
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Waits,
        PROTOCOL,
        Spent,
    ));
    for (answer, ends, then, after) in [
        (ok("Content-Length: 9", ""), Waits, Whole(200, "content-length: 9", ""), Reused),
        (chunked(""), Waits, Whole(200, "", ""), Reused),
        (ok("Content-Length: 4", "oops"), Waits, Whole(200, "content-length: 4", ""), Spent),
        (ok("X: y", ""), Waits, Whole(200, "x: y", ""), Reused),
        (ok("Content-Length: 2\r\nContent-Length: 3", ""), Waits, Problem(502, ""), Spent),
    ] {
        cases.push(Case { method: "HEAD", ..case(answer, ends, then, after) });
    }
    cases
}

/// An upstream that answers `/N` as case N says and everything else with the number of the connection, and knows
/// which connections the gateway has closed.
struct Liar {
    upstream: Upstream,
    ended: Arc<Mutex<Vec<usize>>>,
    /// By which connection each case was served last.
    served: Arc<Mutex<Vec<Option<usize>>>>,
}

impl Liar {
    fn start(cases: Arc<Vec<Case>>) -> Self {
        let ended = Arc::new(Mutex::new(Vec::new()));
        let served = Arc::new(Mutex::new(vec![None; cases.len()]));
        let (ends, serves) = (ended.clone(), served.clone());
        let upstream = Upstream::raw(move |mut stream, connection| {
            let mut buffer = Vec::new();
            while let Some((line, _)) = receive_head(&mut stream, &mut buffer) {
                let number = line.split(['/', ' ']).nth(2).and_then(|text| text.parse::<usize>().ok());
                let Some(case) = number.and_then(|number| cases.get(number)) else {
                    let body = connection.to_string();
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                    let _ = stream.write_all(answer.as_bytes());
                    continue;
                };
                serves.lock().unwrap()[number.unwrap()] = Some(connection);
                let _ = stream.write_all(&case.answer);
                match case.ends {
                    Waits => continue,
                    Closes => {
                        let _ = stream.shutdown(Shutdown::Write);
                        let _ = stream.read_to_end(&mut Vec::new());
                    }
                    Resets => {
                        // What has been written is to arrive before the reset.
                        std::thread::sleep(std::time::Duration::from_millis(30));
                        let _ = socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
                    }
                }
                break;
            }
            ends.lock().unwrap().push(connection);
        });
        Self { upstream, ended, served }
    }
}

fn check(gateway: &Gateway, liar: &Liar, number: usize, case: &Case) -> Result<(), String> {
    let mut client = gateway.connect();
    client.send(format!("{} /{number} HTTP/1.1\r\nHost: a.test\r\n\r\n", case.method));
    if let Broken(status, most) = case.then {
        // An end that comes with the head may overtake it.
        if !client.closed() || !cut_short(client.rest(), status, most) {
            return Err(format!("answered {}", client.rest().escape_ascii()));
        }
        return settled(gateway, liar, number, case);
    }
    let answer = client.answer(case.method);
    let status = answer.status;
    match case.then {
        Whole(wanted, fields, body) => {
            if (status, answer.text().as_str(), answer.complete) != (wanted, body, true) {
                return Err(format!("answered {answer:?}"));
            }
            let mut came: Vec<String> = answer
                .headers
                .iter()
                .map(|(name, value)| format!("{}: {}", name.to_lowercase(), value.as_bytes().escape_ascii()))
                .map(|field| field.replace("\\\"", "\""))
                .filter(|field| {
                    !["via: 1.", "x-request-id: ", "date: "].iter().any(|own| field.starts_with(own))
                })
                .filter(|field| field != "transfer-encoding: chunked")
                .collect();
            came.sort();
            let mut wanted: Vec<&str> = fields.lines().collect();
            wanted.sort_unstable();
            if came != wanted {
                return Err(format!("the fields {came:?} and not {wanted:?}"));
            }
        }
        Broken(..) => {}
        Problem(wanted, code) => {
            if answer.verdict() != (wanted, code.to_owned()) {
                return Err(format!("answered {answer:?}"));
            }
        }
    }
    client.send("GET /who HTTP/1.1\r\nHost: a.test\r\n\r\n");
    if !client.came(|bytes| matches!(strict(bytes), Ok(Some(_)))) {
        return Err("the client's connection is gone".to_owned());
    }
    settled(gateway, liar, number, case)
}

/// Nothing, or the head and some of the body, and not the end of it.
fn cut_short(bytes: &[u8], status: u16, most: &str) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return bytes.is_empty() };
    let data = body.split("\r\n").find(|line| line.contains(|c: char| c.is_ascii_lowercase())).unwrap_or("");
    head.starts_with(&format!("HTTP/1.1 {status} "))
        && matches!(strict(bytes), Ok(None))
        && most.starts_with(data)
}

/// What becomes of the connection to the upstream.
fn settled(gateway: &Gateway, liar: &Liar, number: usize, case: &Case) -> Result<(), String> {
    let connection = liar.served.lock().unwrap()[number].ok_or("never reached the upstream")?;
    let next = || -> usize { gateway.get("/who").send().expect(200).text().parse().unwrap() };
    match case.after {
        Reused => {
            wait_for("the connection to be used again", || (next() == connection).then_some(()));
        }
        Spent => {
            wait_for("the connection to be closed", || {
                assert_ne!(next(), connection, "a spent connection was used again: {number}");
                liar.ended.lock().unwrap().contains(&connection).then_some(())
            });
        }
    }
    Ok(())
}

#[test]
fn an_upstream_cannot_say_two_things_with_one_answer() {
    let cases = Arc::new(cases());
    let liar = Liar::start(cases.clone());
    let gateway = Setup::without_auth()
        .server("access_log = \"off\"")
        .upstream_with("up", liar.upstream.address(), "passive_health = { failures = 0 }")
        .route("all", "/", "up", "public")
        .start();
    gateway.get("/who").send().expect(200);
    let before = descriptors(&gateway);
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        if let Err(why) = check(&gateway, &liar, number, case) {
            let shown = case.answer[..case.answer.len().min(150)].escape_ascii();
            wrong.push(format!("case {number}: {} {shown} {:?}: {why}", case.method, case.ends));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(cases.len() >= 100, "{} cases", cases.len());
    // What is idle stays; of what was broken off nothing does.
    wait_for("all descriptors to be given back", || (descriptors(&gateway) <= before + 2).then_some(()));
}

/// HTTP/1.0 has no chunks: the end of the connection is the end of the body, so that a broken one must end otherwise.
#[test]
fn a_client_of_http_1_0_does_not_take_half_an_answer_for_all_of_it() {
    let cases = Arc::new(cases());
    let liar = Liar::start(cases.clone());
    let gateway = Setup::without_auth()
        .upstream("up", liar.upstream.address())
        .route("all", "/", "up", "public")
        .start();
    for (number, case) in cases.iter().enumerate().filter(|(_, case)| matches!(case.then, Broken(..))) {
        let mut client = std::net::TcpStream::connect(gateway.address()).unwrap();
        client.set_read_timeout(Some(crate::support::wait::DEADLINE)).unwrap();
        client.write_all(format!("GET /{number} HTTP/1.0\r\nHost: a.test\r\n\r\n").as_bytes()).unwrap();
        let mut came = Vec::new();
        let end = client.read_to_end(&mut came);
        let told = String::from_utf8_lossy(&came).to_lowercase();
        let reset = end.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        assert!(reset || told.contains("content-length: 9"), "{number}: {:?} {told:?} {end:?}", case.ends);
        assert!(!told.contains("transfer-encoding"), "{told:?}");
    }
}

//! Paths and heads: what was matched is what is forwarded, byte for byte, and no two readers of a head disagree.

use std::cell::Cell;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::wire::Recorder;
use crate::support::wait::DEADLINE;
use crate::support::{Gateway, Setup};

/// What is left of a request target at the upstream, or the status and code of a refusal.
type Forwarded = Result<&'static str, (u16, &'static str)>;
const BAD: Forwarded = Err((400, "invalid_request"));
const NONE: Forwarded = Err((404, "no_route"));

#[test]
fn odd_paths_reach_the_upstream_as_they_were_matched() {
    let recorder = Recorder::start();
    let gateway = Setup::without_auth()
        .server("access_log = \"off\"")
        .upstream("up", recorder.address())
        .route("plain", "/plain", "up", "public")
        .route_with("strip", "/api", "up", "public", "strip_prefix = true")
        .route_with("deep", "/api/v1/deep", "up", "public", "strip_prefix = true")
        .route_with("swap", "/old", "up", "public", "rewrite = \"/v2\"")
        .route_with("top", "/top", "up", "public", "rewrite = \"/\"")
        .route_with("exact", "=/one", "up", "public", "rewrite = \"/other\"")
        .route_with("gone", "=/two/", "up", "public", "strip_prefix = true")
        .route_with("data", "/files", "up", "public", "strip_prefix = true\nallow_encoded_slash = true")
        .route_with("named", "/caf%C3%A9", "up", "public", "strip_prefix = true")
        .start();
    let cases: &[(&str, Forwarded)] = &[
        // The whole path, in its one spelling.
        ("/plain", Ok("/plain")),
        ("/plain/", Ok("/plain/")),
        ("/plain//a///b//", Ok("/plain/a/b/")),
        ("//plain", Ok("/plain")),
        ("/./plain/./a", Ok("/plain/a")),
        ("/x/../plain/a/..", Ok("/plain/")),
        ("/plain/..", NONE),
        ("/plain/../api/a", Ok("/a")),
        ("/%70lain/%7e%41", Ok("/plain/~A")),
        ("/plain/%7euser%2etxt", Ok("/plain/~user.txt")),
        ("/plain/...", Ok("/plain/...")),
        ("/plain/.a/..b", Ok("/plain/.a/..b")),
        ("/plain/a%20b%22", Ok("/plain/a%20b%22")),
        ("/plain/a%3fb%23c", Ok("/plain/a%3Fb%23c")),
        ("/plain/100%25", Ok("/plain/100%25")),
        ("/plain/%c3%a9%E2%82%ac", Ok("/plain/%C3%A9%E2%82%AC")),
        ("/plain/%f0%9f%98%80", Ok("/plain/%F0%9F%98%80")),
        ("/plain/a;v=1,2/b:c@d", Ok("/plain/a;v=1,2/b:c@d")),
        ("/plainly", NONE),
        ("/PLAIN", NONE),
        // Without its prefix.
        ("/api", Ok("/")),
        ("/api/", Ok("/")),
        ("/api?", Ok("/?")),
        ("/api?q=/../%2e%2F", Ok("/?q=/../%2e%2F")),
        ("/api/?x=1?y#", BAD),
        ("/api//", Ok("/")),
        ("/api//a", Ok("/a")),
        ("/api///api/a", Ok("/api/a")),
        ("/api/a/", Ok("/a/")),
        ("/api/a//../b", Ok("/b")),
        ("/api/../api/a", Ok("/a")),
        ("/api/./.", Ok("/")),
        ("/%61pi/a", Ok("/a")),
        ("/api/%c3%89t%c3%a9", Ok("/%C3%89t%C3%A9")),
        ("/apix/a", NONE),
        ("/api/v1", Ok("/v1")),
        ("/api/v1/deep", Ok("/")),
        ("/api/v1//deep/x", Ok("/x")),
        ("/api/v1/deeper", Ok("/v1/deeper")),
        // With another one in its place.
        ("/old", Ok("/v2")),
        ("/old/", Ok("/v2/")),
        ("/old?a=b&c", Ok("/v2?a=b&c")),
        ("/old//x//", Ok("/v2/x/")),
        ("/old/../old/x", Ok("/v2/x")),
        ("/top", Ok("/")),
        ("/top/", Ok("/")),
        ("/top/x/", Ok("/x/")),
        ("/one", Ok("/other")),
        ("/one?x", Ok("/other?x")),
        ("/one/", NONE),
        ("/two/", Ok("/")),
        ("/two", NONE),
        ("/caf%c3%a9/x", Ok("/x")),
        ("/caf%C3%A9", Ok("/")),
        ("/cafe%CC%81/x", NONE),
        // An encoded slash is data where a route says so, and no way around a dot segment.
        ("/files/a%2fb", Ok("/a%2Fb")),
        ("/files/a%2Fb/?c%2fd", Ok("/a%2Fb/?c%2fd")),
        ("/files/%2F", Ok("/%2F")),
        ("/files%2Fa", BAD),
        ("/files/..%2fx", BAD),
        ("/files/a%2f..%2fb", BAD),
        ("/plain/a%2Fb", BAD),
        ("/api%2Fa", BAD),
        ("/api/a%2fb", BAD),
        // What programs read differently is nobody's path.
        ("/api/%2e%2e/plain", BAD),
        ("/api/.%2E/plain", BAD),
        ("/api/%2e/a", BAD),
        ("/api/..;/plain", BAD),
        ("/api/a\\b", BAD),
        ("/api/a%5cb", BAD),
        ("/api/%252e%252e/x", BAD),
        ("/api/%252fx", BAD),
        ("/api/%00", BAD),
        ("/api/%0d%0aX:%20y", BAD),
        ("/api/%c0%af", BAD),
        ("/api/%ff", BAD),
        ("/api/%ed%a0%80", BAD),
        ("/api/%u0041", BAD),
        ("/api/%4", BAD),
        ("/api/a#b", BAD),
    ];
    let mut wrong = Vec::new();
    for (sent, expected) in cases {
        let before = recorder.count();
        let answer = gateway.get(sent).send();
        let got = match answer.status {
            200 => Ok(recorder.requests(before, 1)[0].line.clone()),
            status => Err((status, answer.code())),
        };
        let expected = match expected {
            Ok(target) => Ok(format!("GET {target} HTTP/1.1")),
            Err((status, code)) => Err((*status, (*code).to_owned())),
        };
        if got != expected {
            wrong.push(format!("{sent}: {got:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert_eq!(recorder.settle(recorder.count()), 0);
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Pieces that matter, in any order.
fn spelling() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        3 => Just("/".to_owned()),
        1 => Just(".".to_owned()),
        1 => Just("..".to_owned()),
        1 => select(vec![";", "%25", "2e", "%2f", "%7E", "%c3%a9", "%C3%89", "é", "?", ":", "|", "\"", "{", "~"])
            .prop_map(str::to_owned),
        1 => "%[0-9a-fA-F]{2}",
        3 => "[a-c]{1,2}",
    ];
    prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
}

/// The target that reached the upstream, if the gateway let it through.
fn forwarded(gateway: &Gateway, recorder: &Recorder, host: &str, target: &str) -> Option<String> {
    let before = recorder.count();
    let mut connection = gateway.connect();
    connection.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    let answer = connection.answer("GET");
    assert!([200, 400].contains(&answer.status), "{target}: {} {}", answer.status, answer.text());
    if answer.status == 400 {
        assert_eq!(recorder.count(), before, "{target} was refused, and reached the upstream");
        return None;
    }
    let line = recorder.requests(before, 1).remove(0).line;
    Some(line.split(' ').nth(1).unwrap_or_default().to_owned())
}

#[test]
fn a_forwarded_path_sent_again_is_forwarded_as_it_is() {
    let recorder = Recorder::start();
    let host = |name: &str, path: &str, lines: &str| {
        let (route, slash) = (format!("{name}-{}", path.len()), "allow_encoded_slash = true");
        format!(
            "[[routes]]\nname = \"{route}\"\nhost = \"{name}.test\"\npath = \"{path}\"\nupstream = \"up\"\n\
             auth = \"public\"\n{slash}\n{lines}"
        )
    };
    let gateway = Setup::without_auth()
        .server("access_log = \"off\"")
        .upstream("up", recorder.address())
        .section(&host("plain", "/", ""))
        .section(&host("strip", "/", ""))
        .section(&host("strip", "/a", "strip_prefix = true"))
        .section(&host("swap", "/", ""))
        .section(&host("swap", "/a", "rewrite = \"/b/c\""))
        .start();
    let passed = Cell::new(0);
    proptest!(config(300), |(spelled in spelling(), host in select(vec!["plain", "strip", "swap"]))| {
        let sent = format!("/a{spelled}");
        let Some(once) = forwarded(&gateway, &recorder, &format!("{host}.test"), &sent) else { return Ok(()) };
        passed.set(passed.get() + 1);
        let again = forwarded(&gateway, &recorder, "plain.test", &once);
        prop_assert_eq!(again, Some(once), "{} by {}", sent, host);
    });
    let passed = passed.get();
    assert!(passed > 50, "{passed} of 300 were let through: hardly a test");
    assert_eq!(recorder.settle(recorder.count()), 0);
}

/// A request that is good, or nearly so.
fn near_request() -> impl Strategy<Value = Vec<u8>> {
    let odd = select(vec![
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
        b"0",
        b"\"",
        b"content-length: 3\r\n",
        b"transfer-encoding: chunked\r\n",
        b"host: b\r\n",
        b"HTTP/1.0",
        b"http://",
        b"connection: x-qa\r\n",
        b"?",
        b"#",
        b"/",
    ]);
    let field = ("x-q[a-z]{1,6}", "[ -~\t]{0,30}");
    (
        select(vec!["GET", "POST", "PUT", "DELETE", "QUERY", "OPTIONS"]),
        "/[a-zA-Z0-9/._~-]{0,30}(\\?[a-z0-9=&]{0,20})?",
        prop::collection::vec(field, 0..8),
        prop::option::of("[a-z\r\n]{0,40}"),
        prop::collection::vec((any::<Index>(), odd, any::<bool>()), 0..3),
    )
        .prop_map(|(method, target, fields, body, edits)| {
            let mut head = format!("{method} {target} HTTP/1.1\r\nHost: a.test\r\n");
            for (name, value) in fields {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            if let Some(body) = &body {
                head.push_str(&format!("Content-Length: {}\r\n", body.len()));
            }
            let mut bytes = head.into_bytes();
            bytes.extend_from_slice(b"\r\n");
            for (at, odd, replace) in edits {
                let at = at.index(bytes.len());
                let end = if replace { (at + odd.len()).min(bytes.len()) } else { at };
                bytes.splice(at..end, odd.iter().copied());
            }
            bytes.extend_from_slice(body.unwrap_or_default().as_bytes());
            bytes
        })
}

/// Names and values.
type Fields = Vec<(String, Vec<u8>)>;

/// All that comes back for these bytes, and nothing more.
fn exchange(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(gateway.address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    // A connection that was refused something may be reset behind the answer.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Method and `x-q…` fields in order, as httparse reads the first request; `None` where it reads none.
fn by_httparse(bytes: &[u8]) -> Option<(String, Fields)> {
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut fields);
    if !request.parse(bytes).ok()?.is_complete() {
        return None;
    }
    let ours = request.headers.iter().filter(|field| is_ours(field.name));
    let ours = ours.map(|field| (field.name.to_ascii_lowercase(), field.value.trim_ascii().to_vec()));
    Some((request.method?.to_owned(), sorted(ours.collect())))
}

fn is_ours(name: &str) -> bool {
    name.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("x-q"))
}

/// By name; values of one name keep their order.
fn sorted(mut fields: Fields) -> Fields {
    fields.sort_by(|one, other| one.0.cmp(&other.0));
    fields
}

#[test]
fn a_head_is_refused_or_reaches_the_upstream_as_other_parsers_read_it() {
    let recorder = Recorder::start();
    let gateway = Setup::without_auth()
        .server("access_log = \"off\"")
        .upstream("up", recorder.address())
        .route("all", "/", "up", "public")
        .start();
    let passed = Cell::new(0);
    proptest!(config(300), |(bytes in near_request())| {
        let before = recorder.count();
        let answers = exchange(&gateway, &bytes);
        // One edit makes it HTTP/1.0, and so the answer.
        let good = ["HTTP/1.1 200 OK\r\n", "HTTP/1.0 200 OK\r\n"].map(|line| answers.matches(line).count());
        let good = good[0] + good[1];
        prop_assert_eq!(recorder.count() - before, good, "{} for {}", answers, bytes.escape_ascii());
        if good == 0 {
            return Ok(());
        }
        passed.set(passed.get() + 1);
        let Some((method, sent)) = by_httparse(&bytes) else {
            return Err(TestCaseError::fail(format!("httparse reads no {}", bytes.escape_ascii())));
        };
        let seen = recorder.requests(before, good).remove(0);
        prop_assert_eq!(seen.line.split(' ').next(), Some(&*method));
        let nominated = sent_connection(&bytes);
        let sent: Vec<_> = sent.into_iter().filter(|(name, _)| !nominated.contains(name)).collect();
        let ours = seen.fields.iter().filter(|(name, _)| is_ours(name)).cloned().collect();
        prop_assert_eq!(sorted(ours), sent, "{}", bytes.escape_ascii());
    });
    let passed = passed.get();
    assert!(passed > 50, "{passed} of 300 were let through: hardly a test");
    recorder.settle(recorder.count());
}

/// Fields that the client itself has named as meant for us alone.
fn sent_connection(bytes: &[u8]) -> Vec<String> {
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut fields);
    let _ = request.parse(bytes);
    let connection = request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("connection"));
    let names = connection.flat_map(|field| {
        String::from_utf8_lossy(field.value)
            .split(',')
            .map(|name| name.trim().to_ascii_lowercase())
            .collect::<Vec<_>>()
    });
    names.collect()
}

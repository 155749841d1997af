//! Requests, one or several to a connection, from RFC 9110 and 9112 and from what smuggles past other gateways: what
//! the client is told, what reaches the upstream, byte for byte, and whether the connection goes on.

use std::collections::BTreeMap;

use super::wire::{Message, Recorder};
use crate::support::{Gateway, Setup};

/// What must come of the bytes of one case.
enum Then {
    /// These requests reach the upstream, each written as line, fields, empty line, body, and the connection stays open.
    Passed(Vec<&'static str>),
    /// The same, and the last answer closes the connection.
    PassedAndClosed(Vec<&'static str>),
    /// An answer of the gateway's own with this status and code; nothing reaches the upstream.
    Refused(u16, &'static str),
    /// The same, and the connection is closed: nothing behind the bad request is looked at.
    Shut(u16, &'static str),
}
use Then::{Passed, PassedAndClosed, Refused, Shut};

/// A gateway with a public route for everything, and its upstream.
struct Bench {
    gateway: Gateway,
    recorder: Recorder,
    passed: usize,
    /// Wrong cases, all told at the end.
    wrong: BTreeMap<String, String>,
    cases: usize,
}

impl Bench {
    fn start() -> Self {
        let recorder = Recorder::start();
        let gateway = Setup::without_auth()
            .server("access_log = \"off\"")
            .upstream("up", recorder.address())
            .route("all", "/", "up", "public")
            .route_with("strict", "/get-only", "up", "public", "methods = [\"GET\"]")
            .start();
        Self { gateway, recorder, passed: 0, wrong: BTreeMap::new(), cases: 0 }
    }

    fn check(&mut self, case: &str, sent: impl AsRef<[u8]>, then: &Then) {
        self.cases += 1;
        let outcome = self.outcome(sent.as_ref(), then);
        self.passed = self.recorder.count();
        if let Err(why) = outcome {
            self.wrong.insert(case.to_owned(), why);
        }
    }

    fn outcome(&self, sent: &[u8], then: &Then) -> Result<(), String> {
        let mut connection = self.gateway.connect();
        connection.send(sent);
        let (wants, open) = match then {
            Passed(wants) => (&wants[..], true),
            PassedAndClosed(wants) => (&wants[..], false),
            Refused(..) => (&[][..], true),
            Shut(..) => (&[][..], false),
        };
        for want in wants {
            let method = want.split(' ').next().unwrap_or_default();
            let answer = connection.answer(method);
            let told = (answer.status, answer.text(), answer.complete);
            let body = if method == "HEAD" { "" } else { "ok" };
            if told != (200, body.to_owned(), true) {
                return Err(format!("answered {told:?}"));
            }
            let mut names: Vec<_> = answer.headers.iter().map(|(name, _)| name.to_lowercase()).collect();
            names.retain(|name| name != "connection");
            names.sort();
            if names != ["content-length", "date", "via", "x-request-id"] {
                return Err(format!("answered with {:?}", answer.headers));
            }
        }
        if let Refused(status, code) | Shut(status, code) = then {
            let answer = connection.answer(if sent.starts_with(b"HEAD ") { "HEAD" } else { "GET" });
            let known = if sent.starts_with(b"HEAD ") { "" } else { code };
            if (answer.status, answer.code().as_str()) != (*status, known) {
                return Err(format!("answered {} {}", answer.status, answer.text()));
            }
            let closes = answer.header("connection").is_some_and(|value| value.contains("close"));
            if closes == open {
                return Err(format!("connection: {:?}", answer.header("connection")));
            }
        }
        let mut wants = wants.to_vec();
        connection.send("GET /next HTTP/1.1\r\nHost: next.test\r\n\r\n");
        if open {
            wants.push("GET /next HTTP/1.1\nhost: next.test");
            let answer = connection.answer("GET");
            if answer.status != 200 {
                return Err(format!("the next request is answered {} {}", answer.status, answer.text()));
            }
        } else if !connection.closed() || !connection.rest().is_empty() {
            return Err(format!("it goes on: {}", connection.rest().escape_ascii()));
        }
        let seen = self.recorder.requests(self.passed, wants.len());
        for (want, seen) in wants.iter().zip(&seen) {
            same(want, seen, sent)?;
        }
        Ok(())
    }

    /// All of it once more: nothing came late, and all parsers agree.
    fn finish(self, cases_min: usize) {
        let told: Vec<String> = self.wrong.iter().map(|(case, why)| format!("{case}: {why}")).collect();
        assert!(told.is_empty(), "\n{}", told.join("\n"));
        assert!(self.cases >= cases_min, "{} cases", self.cases);
        self.recorder.settle(self.passed);
    }
}

/// Whether this reached the upstream: the fields that are written down, those that the gateway adds, and no other.
fn same(want: &str, seen: &Message, sent: &[u8]) -> Result<(), String> {
    let (head, body) = want.split_once("\n\n").unwrap_or((want, ""));
    let mut lines = head.split('\n');
    let line = lines.next().unwrap_or_default();
    let mut fields: Vec<String> = lines.map(str::to_owned).collect();
    let host = seen.all("host").join("");
    let quoted = if host.contains(':') { format!("\\\"{host}\\\"") } else { host.clone() };
    let version = if sent.windows(9).any(|part| part == b" HTTP/1.0") { "1.0" } else { "1.1" };
    let trace = seen.all("traceparent").join("");
    let id = seen.all("x-request-id").join("");
    fields.extend([
        format!("via: {version} portcullis"),
        "x-forwarded-for: 127.0.0.1".to_owned(),
        "x-forwarded-proto: http".to_owned(),
        format!("x-forwarded-host: {host}"),
        format!("forwarded: for=127.0.0.1;host={quoted};proto=http"),
        format!("traceparent: {trace}"),
        format!("x-request-id: {id}"),
    ]);
    let mut came: Vec<String> = seen
        .fields
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.escape_ascii()).trim_end().to_owned())
        .collect();
    fields.sort();
    came.sort();
    let (wanted, came) = ((line, fields, body.as_bytes()), (&*seen.line, came, &seen.body[..]));
    if (trace.len(), id.len()) != (55, 36) || wanted != came {
        return Err(format!("the upstream got {came:?}\n     instead of {wanted:?}"));
    }
    Ok(())
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n")
}

fn with(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n")
}

fn post(fields: &str, body: &str) -> String {
    format!("POST /p HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n{body}")
}

const INVALID: Then = Shut(400, "invalid_request");

#[test]
fn what_is_clear_passes_and_the_upstream_reads_what_was_meant() {
    let mut bench = Bench::start();
    for (sent, seen) in [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a?", "/a?"),
        ("/?q=1&r=%20&s=%2f%2F", "/?q=1&r=%20&s=%2f%2F"),
        ("/?a=../../b//c\\d", "/?a=../../b//c\\d"),
        ("/?[1]={2}|3^`", "/?[1]={2}|3^`"),
        ("/?%zz", "/?%zz"),
        ("/?a'b", "/?a'b"),
        ("//a//b", "/a/b"),
        ("/a/../b", "/b"),
        ("/%7ea", "/~a"),
        ("/%c3%a9", "/%C3%A9"),
        ("/a|b", "/a%7Cb"),
        ("/a{b}", "/a%7Bb%7D"),
        ("/a;x=1,2/b:c@d!$&'()*+", "/a;x=1,2/b:c@d!$&'()*+"),
        ("http://a.test", "/"),
        ("http://a.test?x", "/?x"),
        ("http://a.test/x//y", "/x/y"),
        ("HTTP://a.test/x", "/x"),
        ("https://a.test/x", "/x"),
    ] {
        let want = format!("GET {seen} HTTP/1.1\nhost: a.test").leak();
        bench.check(&format!("target {sent}"), get(sent), &Passed(vec![want]));
    }
    for method in ["HEAD", "DELETE", "PATCH", "PROPFIND", "M-SEARCH", "QUERY", "get", "!#$%&'*+-.^_`|~9"] {
        let want = format!("{method} / HTTP/1.1\nhost: a.test").leak();
        let sent = format!("{method} / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        bench.check(&format!("method {method}"), sent, &Passed(vec![want]));
    }
    bench.check(
        "OPTIONS *",
        "OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n",
        &Passed(vec!["OPTIONS * HTTP/1.1\nhost: a.test"]),
    );
    for (sent, seen) in [
        ("X: y", "x: y"),
        ("X:y", "x: y"),
        ("X:   y   ", "x: y"),
        ("X:\t y\t", "x: y"),
        ("X: a\tb", "x: a\\tb"),
        ("X:", "x:"),
        ("X: a, b,,c", "x: a, b,,c"),
        ("X: \"q\\\"", "x: \\\"q\\\\\\\""),
        ("X: caf\u{e9}", "x: caf\\xc3\\xa9"),
        ("X: 1\r\nX: 2", "x: 1\nx: 2"),
        ("!#$%&'*+-.^`|~: odd", "!#$%&'*+-.^`|~: odd"),
        ("X-Long-Name-0123456789: v", "x-long-name-0123456789: v"),
        ("Cookie: a=1\r\nCookie: b=2", "cookie: a=1; b=2"),
        ("Authorization: Basic dTpw", "authorization: Basic dTpw"),
        ("Content-Length: 0", "content-length: 0"),
        ("Content_Length: 5", ""),
        ("Transfer_Encoding: chunked", ""),
        ("Content-Length_: 5", ""),
        ("X_Y: dropped", ""),
        ("Connection: X-Mine\r\nX-Mine: 1", ""),
        ("Connection: Host\r\nX: y", "x: y"),
        ("Connection: Content-Length, X-Forwarded-For, Via", ""),
        ("Connection: close, , \"x\", a b", "=closed"),
        ("Keep-Alive: timeout=5", ""),
        ("Proxy-Connection: close", ""),
        ("Proxy-Authorization: Basic eDp5", ""),
        ("TE: trailers", ""),
        ("TE: trailers, chunked;q=0.5", ""),
        ("Trailer: X-Sum", ""),
        ("Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nConnection: Upgrade, HTTP2-Settings", ""),
        ("Upgrade: TLS/1.0\r\nConnection: upgrade", ""),
        ("Upgrade: foo/2\r\nConnection: upgrade", ""),
        ("Max-Forwards: 0", "max-forwards: 0"),
        ("X-Forwarded-For: 6.6.6.6", ""),
        ("X-Forwarded-Port: 1", ""),
        ("X-Forwarded-Prefix: /x", ""),
        ("X_Forwarded_For: 6.6.6.6", ""),
        ("X-Real-IP: 6.6.6.6", ""),
        ("Forwarded: for=6.6.6.6", ""),
        ("Via: 1.0 evil", ""),
        ("X-Auth-Subject: root", ""),
        ("x-auth-ISSUER: root", ""),
        ("X_Auth_Subject: root", ""),
        ("X.Auth.Subject: root", ""),
        ("X-Auth+Subject: root", ""),
        ("X~Remote~User: root", ""),
        ("Proxy: http://evil", ""),
        ("Remote-User: root", ""),
        ("X-Original-URL: /admin", ""),
        ("X-Rewrite-URL: /admin", ""),
        ("X-HTTP-Method-Override: DELETE", ""),
        ("X-HTTP-Method: DELETE", ""),
        ("X-Method-Override: DELETE", ""),
        ("X.HTTP.Method.Override: DELETE", ""),
        ("Expect: 100-continue", ""),
    ] {
        let closed = seen == "=closed";
        let seen = if seen.starts_with('=') { "" } else { seen };
        let bar = if seen.is_empty() { "" } else { "\n" };
        let want = vec![&*format!("GET / HTTP/1.1\nhost: a.test{bar}{seen}").leak()];
        let then = if closed { PassedAndClosed(want) } else { Passed(want) };
        bench.check(&format!("field {sent:?}"), with(sent), &then);
    }
    for (sent, seen) in [
        ("HOST:a.test", "a.test"),
        ("Host:  a.test  ", "a.test"),
        ("Host: A.Test", "a.test"),
        ("Host: a.test:8080", "a.test:8080"),
        ("Host: [::1]:80", "[::1]:80"),
        ("Host: 127.0.0.1", "127.0.0.1"),
        ("Host: a_b.test", "a_b.test"),
    ] {
        let want = format!("GET / HTTP/1.1\nhost: {seen}").leak();
        bench.check(
            &format!("host {sent:?}"),
            format!("GET / HTTP/1.1\r\n{sent}\r\n\r\n"),
            &Passed(vec![want]),
        );
    }
    bench.check(
        "the target's authority, not Host",
        "GET http://b.test:81/x HTTP/1.1\r\nHost: a.test\r\n\r\n",
        &Passed(vec!["GET /x HTTP/1.1\nhost: b.test:81"]),
    );
    bench.finish(90);
}

#[test]
fn bodies_and_pipelines_end_where_they_end() {
    let mut bench = Bench::start();
    let length = |n: usize| format!("POST /p HTTP/1.1\nhost: a.test\ncontent-length: {n}\n\n");
    let chunked = "POST /p HTTP/1.1\nhost: a.test\ntransfer-encoding: chunked\n\n";
    let want = |head: &str, body: &str| vec![&*format!("{head}{body}").leak()];
    for body in ["x", "hello", "\r\n\r\n", "0\r\n\r\n", "GET /x HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let n = body.len();
        bench.check(
            &format!("length {body:?}"),
            post(&format!("Content-Length: {n}"), body),
            &Passed(want(&length(n), body)),
        );
    }
    for (framed, body) in [
        ("5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("0\r\n\r\n", ""),
        ("000\r\n\r\n", ""),
        ("1\r\na\r\n01\r\nb\r\n001\r\nc\r\n0\r\n\r\n", "abc"),
        ("A\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        ("5;a\r\nhello\r\n0\r\n\r\n", "hello"),
        ("5;a=b;c=\"d;e\"\r\nhello\r\n0;f\r\n\r\n", "hello"),
        ("5;\r\nhello\r\n0\r\n\r\n", "hello"),
        ("5\r\n0\r\n\r\n\r\n0\r\n\r\n", "0\r\n\r\n"),
        ("5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", "hello"),
        ("0\r\nX-Auth-Subject: root\r\nContent-Length: 9\r\nHost: b\r\n\r\n", ""),
        (
            "25\r\nGET /x HTTP/1.1\r\nHost: a.test\r\n\r\nxxxx\r\n0\r\n\r\n",
            "GET /x HTTP/1.1\r\nHost: a.test\r\n\r\nxxxx",
        ),
    ] {
        let sent = post("Transfer-Encoding: chunked", framed);
        bench.check(&format!("chunked {framed:?}"), sent, &Passed(want(chunked, body)));
    }
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let seen = |path: &str| &*format!("GET {path} HTTP/1.1\nhost: a.test").leak();
    bench.check(
        "three in one",
        get("/1") + &get("/2") + &get("/3"),
        &Passed(vec![seen("/1"), seen("/2"), seen("/3")]),
    );
    bench.check(
        "empty lines between",
        get("/1") + "\r\n\r\n" + &get("/2"),
        &Passed(vec![seen("/1"), seen("/2")]),
    );
    bench.check(
        "a body between two",
        get("/1") + &post("Content-Length: 5", "hello") + &get("/2"),
        &Passed(vec![seen("/1"), want(&length(5), "hello")[0], seen("/2")]),
    );
    bench.check(
        "chunks between two",
        post("Transfer-Encoding: chunked", "3\r\nabc\r\n0\r\n\r\n") + &get("/2"),
        &Passed(vec![want(chunked, "abc")[0], seen("/2")]),
    );
    bench.check(
        "a GET with a body, then another",
        "GET /1 HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\nGET ".to_owned() + &get("/2"),
        &Passed(vec!["GET /1 HTTP/1.1\nhost: a.test\ncontent-length: 4\n\nGET ", seen("/2")]),
    );
    bench.check(
        "a HEAD, then another",
        "HEAD /1 HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned() + &get("/2"),
        &Passed(vec!["HEAD /1 HTTP/1.1\nhost: a.test", seen("/2")]),
    );
    bench.check(
        "a close in the middle",
        "GET /1 HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n".to_owned() + &get("/2"),
        &PassedAndClosed(vec![seen("/1")]),
    );
    bench.check(
        "an upgrade to nothing known, then another",
        with("Upgrade: x\r\nConnection: upgrade") + &get("/2"),
        &Passed(vec![seen("/"), seen("/2")]),
    );
    bench.check(
        "a body with an upgrade",
        post("Upgrade: h2c\r\nContent-Length: 2", "hi") + &get("/2"),
        &Passed(vec![want(&length(2), "hi")[0], seen("/2")]),
    );
    let old = |fields: &str| format!("GET /1 HTTP/1.0\r\nHost: a.test\r\n{fields}\r\n");
    bench.check("1.0", old(""), &PassedAndClosed(vec![seen("/1")]));
    bench.check(
        "1.0 with a body",
        "POST /p HTTP/1.0\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi",
        &PassedAndClosed(want(&length(2), "hi")),
    );
    bench.check("1.0, expecting", old("Expect: 100-continue\r\n"), &PassedAndClosed(vec![seen("/1")]));
    bench.check(
        "1.0, upgrading",
        old("Upgrade: websocket\r\nConnection: upgrade\r\n"),
        &PassedAndClosed(vec![seen("/1")]),
    );
    bench.finish(30);
}

#[test]
fn a_head_that_two_programs_could_read_differently_goes_no_further() {
    let mut bench = Bench::start();
    let rest = "\r\nHost: a.test\r\n\r\n";
    for line in [
        "GET",
        "GET /",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "\tGET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /\tHTTP/1.1",
        "GET\x0b/\x0bHTTP/1.1",
        "GET / HTTP/2",
        "GET / HTTP/3.0",
        "GET / HTTP/1.2",
        "GET / HTTP/0.9",
        "GET / HTTP/1.01",
        "GET / HTTP/01.1",
        "GET / HTTP/ 1.1",
        "GET / hTTP/1.1",
        "GET / HTTPS/1.1",
        "GET / HTTP/1.1\0",
        "GET / HTTP/1.1\r",
        "G\0T / HTTP/1.1",
        "GE:T / HTTP/1.1",
        "GE\"T / HTTP/1.1",
        "GET,POST / HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET /a\tb HTTP/1.1",
        "GET /a\u{e9} HTTP/1.1",
        "GET /?\u{e9} HTTP/1.1",
        "GET /#f HTTP/1.1",
        "GET /?#f HTTP/1.1",
        "GET /<a HTTP/1.1",
        "GET /?\" HTTP/1.1",
        "GET /\x01 HTTP/1.1",
        "GET /\x7f HTTP/1.1",
        "GET /\0 HTTP/1.1",
        "GET a HTTP/1.1",
        "GET * HTTP/1.1",
        "GET a.test:80 HTTP/1.1",
        "GET ../ HTTP/1.1",
        "GET \\ HTTP/1.1",
        "GET ftp://a.test/ HTTP/1.1",
        "GET file:///etc HTTP/1.1",
        "GET http:///x HTTP/1.1",
        "GET http:/x HTTP/1.1",
        "GET http:a.test HTTP/1.1",
        "GET http://u:p@a.test/ HTTP/1.1",
        "GET http://a.test\\@b.test/ HTTP/1.1",
        "GET http://a.test:/ HTTP/1.1",
        "GET http://a.test:99999/ HTTP/1.1",
        "GET http://a.test#x HTTP/1.1",
        "GET http://a,b/ HTTP/1.1",
        "GET http://%61/ HTTP/1.1",
        "GET http://[::1 HTTP/1.1",
        "OPTIONS ** HTTP/1.1",
        "OPTIONS *?x HTTP/1.1",
        "GET / HTTP/1.1\r\n X: y",
        "GET / HTTP/1.1\r\n\tX: y",
        "GET / HTTP/1.1\r\n Host: b",
        "PRI * HTTP/2.0",
        "CONNECT",
        "HEAD / HTTP/1.1\x01",
    ] {
        bench.check(&format!("line {line:?}"), format!("{line}{rest}"), &INVALID);
    }
    for path in [
        "/a%2fb",
        "/a%5cb",
        "/a\\b",
        "/%2e%2e/x",
        "/.%2e/x",
        "/%2e/x",
        "/..;/x",
        "/x/..;a=b/y",
        "/.;x",
        "/%252e%252e/x",
        "/%252f",
        "/%255c",
        "/%00",
        "/%0d%0aX:%20y",
        "/%0a",
        "/%7f",
        "/%ff",
        "/%c0%af",
        "/%c0%ae%c0%ae/",
        "/%e0%80%af",
        "/%ed%a0%80",
        "/%f5%80%80%80",
        "/%",
        "/%4",
        "/%g0",
        "/%u002e",
        "/%c2%80",
        "/..%2fx",
        "/x%2f..%2fy",
        "/%2e%2e",
        "/%25%32%66",
        "/%25252e",
        "http://a.test/%2e%2e/x",
        "http://a.test/a%2fb",
    ] {
        bench.check(&format!("path {path}"), get(path), &INVALID);
    }
    for fields in [
        "X : y",
        "X\t: y",
        " X: y\r\nY: z",
        "X",
        "X Y: z",
        ": y",
        "X(: y",
        "X\u{e9}: y",
        "X\0: y",
        "X\x0b: y",
        "\"X\": y",
        "X=y",
        "X;: y",
        "X\r: y",
        "X: a\rb",
        "X: a\0b",
        "X: a\x01b",
        "X: a\x08b",
        "X: a\x0bb",
        "X: a\x0cb",
        "X: a\x1bb",
        "X: a\x7fb",
        "X: a\nY: b",
        "X: a\n Y: b",
        "X: a\r\n b",
        "X: a\r\n\tb",
        "X: a\r\n \r\nY: b",
        "X: a\n\r\nGET /s HTTP/1.1",
        "Host: a.test",
        "Host: b.test",
        "host: a.test",
        "Host:",
        "Authorization: Bearer a\r\nAuthorization: Bearer b",
        "Authorization: Basic a\r\nauthorization: Basic a",
    ] {
        bench.check(&format!("field {fields:?}"), with(fields), &INVALID);
    }
    for host in [
        "X: y",
        "Host:",
        "Host: ",
        "Host: a b",
        "Host: a,b",
        "Host: u@a",
        "Host: a/b",
        "Host: a?b",
        "Host: a#b",
        "Host: a\\b",
        "Host: http://a",
        "Host: a:",
        "Host: a:b",
        "Host: a:-1",
        "Host: a:65536",
        "Host: a:80:80",
        "Host: :80",
        "Host: [::1",
        "Host: ::1",
        "Host: [::g]",
        "Host: [1.2.3.4]",
        "Host: a%00b",
        "Host: %61",
        "Host: \u{e9}",
        "Host: a\tb",
        "Host: \"a\"",
        "Host : a",
        "Host\r\n : a",
        "Hos\0t: a",
        "Host: a\r\nHost: a",
        "Host: a\r\nhOST: b",
        "Host: a;b",
        "Host: a|b",
        "Host: *",
    ] {
        bench.check(&format!("host {host:?}"), format!("GET / HTTP/1.1\r\n{host}\r\n\r\n"), &INVALID);
    }
    bench.check("1.0 without a host", "GET / HTTP/1.0\r\n\r\n", &INVALID);
    bench.check("0.9", "GET /\r\n", &Shut(400, "invalid_request"));
    bench.check("bare LF", "GET / HTTP/1.1\nHost: a.test\n\n", &INVALID);
    bench.check("LF before", "\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n", &INVALID);
    bench.check("bare CR line ends", "GET / HTTP/1.1\rHost: a.test\r\r", &INVALID);
    bench.check("TLS", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", &INVALID);
    bench.check("half a preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", &INVALID);
    bench.check("a HEAD with two hosts", "HEAD / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", &INVALID);
    bench.finish(150);
}

#[test]
fn a_length_that_two_programs_could_read_differently_goes_no_further() {
    let mut bench = Bench::start();
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";
    for fields in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
        "Content-Length: 4\r\nContent-Length: 4",
        "Content-Length: 4\r\nContent-Length: 5",
        "Content-Length: 4\r\ncontent-length: 0",
        "Content-Length: 4, 4",
        "Content-Length: 4,",
        "Content-Length: ,4",
        "Content-Length: +4",
        "Content-Length: -4",
        "Content-Length: 0x4",
        "Content-Length: 0b100",
        "Content-Length: 4.0",
        "Content-Length: 4e0",
        "Content-Length: 04",
        "Content-Length: 4 4",
        "Content-Length: 4;x",
        "Content-Length: \"4\"",
        "Content-Length: four",
        "Content-Length:",
        "Content-Length: \t4",
        "Content-Length: 4\x0b",
        "Content-Length: \u{664}",
        "Content-Length: 18446744073709551620",
        "Content-Length: 99999999999999999999999999",
        "Content-Length : 4",
        "Content-Length\t: 4",
        "Content-Length\r\n : 4",
        "Content-Length: 4\r\n ",
        "Content\0-Length: 4",
        "Transfer-Encoding: Chunked",
        "Transfer-Encoding: chunKed",
        "Transfer-Encoding: chunked ",
        "Transfer-Encoding:\tchunked",
        "Transfer-Encoding: chunked\t",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: chunked\x0b",
        "Transfer-Encoding: chunked;a=b",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: 'chunked'",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: , chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: x",
        "Transfer-Encoding:",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "Transfer-Encoding\r\n : chunked",
        "Transfer-Encoding: x\r\n chunked",
        "Transfer-Encoding: \r\n chunked",
        "Transfer-Encoding: chunked\r\n\t",
        "Transfer-Encoding: \u{a0}chunked",
        "Transfer-Encoding: chunked\0",
        "\0Transfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "X: y\nTransfer-Encoding: chunked",
    ] {
        bench.check(&format!("framing {fields:?}"), post(fields, "0\r\n\r\n") + smuggled, &INVALID);
    }
    bench.check(
        "chunked in 1.0",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &INVALID,
    );
    bench.check("TRACE with a body", "TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", &INVALID);
    // The head was good and has gone on: what the upstream has of it never becomes a whole request.
    let begun = bench.recorder.count();
    for body in [
        "x\r\n",
        "\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5\t\r\nhello\r\n",
        "5\nhello\n0\n\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\r\n\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;\0\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffff\r\n",
        "10000000000000000\r\n",
        "fffffffffffffffff0\r\n",
        "5_0\r\n",
        "5,5\r\n",
        "\u{ff15}\r\n",
        "5\r\nhello\r\n0\r\nX\r\n\r\n",
        "5\r\nhello\r\n0\r\nX : y\r\n\r\n",
        "5\r\nhello\r\n0\r\n X: y\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: a\rb\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: a\0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
        "5\r\nhello\r\n0\r\rX",
        "5\r\nhello\r\n0\r\nX: y\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
    ] {
        bench.check(
            &format!("chunks {body:?}"),
            post("Transfer-Encoding: chunked", body) + smuggled,
            &INVALID,
        );
    }
    assert_eq!(bench.recorder.count(), begun);
    bench.finish(98);
}

#[test]
fn what_is_not_served_has_its_own_answer() {
    let mut bench = Bench::start();
    let host = "\r\nHost: a.test\r\n";
    for (case, sent, then) in [
        ("CONNECT", format!("CONNECT a.test:443 HTTP/1.1{host}\r\n"), Shut(405, "method_not_allowed")),
        ("CONNECT /", format!("CONNECT / HTTP/1.1{host}\r\n"), Shut(405, "method_not_allowed")),
        ("connect", format!("connect a:1 HTTP/1.1{host}\r\n"), Shut(405, "method_not_allowed")),
        ("TRACE", format!("TRACE / HTTP/1.1{host}\r\n"), Refused(405, "method_not_allowed")),
        ("trace", format!("trace / HTTP/1.1{host}\r\n"), Refused(405, "method_not_allowed")),
        (
            "a method the route has not",
            format!("DELETE /get-only HTTP/1.1{host}\r\n"),
            Refused(405, "method_not_allowed"),
        ),
        (
            "an expectation",
            format!("GET / HTTP/1.1{host}Expect: 200-ok\r\n\r\n"),
            Refused(417, "expectation_failed"),
        ),
        (
            "two expectations",
            format!("GET / HTTP/1.1{host}Expect: 100-continue\r\nExpect: x\r\n\r\n"),
            Refused(417, "expectation_failed"),
        ),
        (
            "a list of expectations",
            format!("GET / HTTP/1.1{host}Expect: 100-continue, x\r\n\r\n"),
            Refused(417, "expectation_failed"),
        ),
        ("a long target", format!("GET /{} HTTP/1.1{host}\r\n", "x".repeat(8192)), Shut(414, "uri_too_long")),
        ("a long query", format!("GET /?{} HTTP/1.1{host}\r\n", "x".repeat(8192)), Shut(414, "uri_too_long")),
        ("an endless line", "x".repeat(100_000), Shut(414, "uri_too_long")),
        (
            "many fields",
            format!("GET / HTTP/1.1{host}{}\r\n", "a: b\r\n".repeat(100)),
            Shut(431, "headers_too_large"),
        ),
        (
            "large fields",
            format!("GET / HTTP/1.1{host}a: {}\r\n\r\n", "b".repeat(33_000)),
            Shut(431, "headers_too_large"),
        ),
        (
            "a large name",
            format!("GET / HTTP/1.1{host}{}: b\r\n\r\n", "a".repeat(33_000)),
            Shut(431, "headers_too_large"),
        ),
        (
            "a body too large",
            format!("POST / HTTP/1.1{host}Content-Length: 10485761\r\n\r\n"),
            Shut(413, "body_too_large"),
        ),
        (
            "a body of all bytes",
            format!("POST / HTTP/1.1{host}Content-Length: 999999999999999999\r\n\r\n"),
            Shut(413, "body_too_large"),
        ),
    ] {
        bench.check(case, sent, &then);
    }
    bench.finish(17);
}

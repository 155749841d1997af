//! One request each: what goes in, what comes out, what the handler saw.

use super::*;

/// Taken: the handler saw exactly this, and the connection stays open.
fn taken(server: &Server, bytes: &str, seen: &str) {
    let mut client = server.connect();
    client.send(bytes);
    let answer = client.answer().unwrap_or_else(|| panic!("no answer to {bytes:?}"));
    assert_eq!(answer.status, 200, "{bytes:?}: {}", answer.text());
    assert_eq!(server.requests(), [seen], "{bytes:?}");
    assert!(client.is_open(), "closed after {bytes:?}");
    assert_eq!(server.requests(), ["GET /probe "], "{bytes:?}");
    assert!(server.refusals().is_empty());
}

/// Refused: a problem document, `connection: close`, then the end; the handler saw no request, and what came behind
/// the bad one was not looked at.
fn refused(server: &Server, bytes: impl AsRef<[u8]>, status: u16, code: &'static str) {
    let bytes = bytes.as_ref();
    let shown = bytes[..bytes.len().min(200)].escape_ascii();
    let mut client = server.connect();
    client.send(bytes);
    client.send("GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n");
    let answer = client.answer().unwrap_or_else(|| panic!("no answer to {shown}"));
    assert_eq!(answer.status, status, "{shown}: {}", answer.text());
    assert!(answer.closes(), "{shown}: {}", answer.head);
    assert!(answer.head.contains("content-type: application/problem+json"), "{shown}");
    assert!(answer.text().contains(&format!("\"code\":\"{code}\"")), "{shown}: {}", answer.text());
    assert!(client.is_closed(), "open after {shown}");
    assert_eq!(server.requests(), <[String; 0]>::default(), "{shown}");
    assert_eq!(server.refusals(), [code], "{shown}");
}

#[test]
fn takes_what_rfc_9112_allows() {
    let server = Server::start(rules());
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n");
    let long = format!("/{}", "x".repeat(8 * 1024 - 1));
    for target in [
        "/",
        "/a/b?c=d",
        "/?",
        "//a",
        "/%2e%2e/",
        "/a;b=c",
        "/a?b=[1]",
        "/a?b={c|d}",
        "/a?b?c/d",
        "/~a!$&'()*+,=:@",
        "/a\\b",
        "/{\"a\"}",
        "/?^`",
        &long,
    ] {
        taken(&server, &get(target), &format!("GET {target} "));
    }
    taken(&server, &get("http://b.example"), "GET http://b.example/ ");
    taken(&server, &get("HTTP://b:80/x?y"), "GET http://b:80/x?y ");
    taken(&server, &get("https://[::1]:8443/x"), "GET https://[::1]:8443/x ");
    taken(&server, "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", "OPTIONS * ");
    for method in ["POST", "PATCH", "DELETE", "PROPFIND", "M-SEARCH", "get", "!#$%&'*+.^_`|~1"] {
        taken(&server, &format!("{method} / HTTP/1.1\r\nhost: a\r\n\r\n"), &format!("{method} / "));
    }
    for fields in [
        "HOST:a",
        "Host:   a  ",
        "host: a.example:8080",
        "host: 127.0.0.1",
        "host: [2001:db8::1]:80",
        "host: under_score",
        "x:\r\nhost: a",
        "x: \t a\tb \t\r\nhost: a",
        "x: caf\u{e9}\r\nhost: a",
        "host: a\r\nauthorization: Bearer x",
        "host: a\r\nx: 1\r\nx: 2",
        "host: a\r\ncontent-length: 0",
        "host: a\r\nte: trailers\r\nconnection: te",
        "host: a\r\nexpect: 100-continue",
        "host: a\r\ncontent_length: 5",
    ] {
        taken(&server, &format!("GET / HTTP/1.1\r\n{fields}\r\n\r\n"), "GET / ");
    }
    for blank in ["\r\n", "\r\n\r\n\r\n\r\n"] {
        taken(&server, &format!("{blank}{}", get("/")), "GET / ");
    }
    let many: String = (1..100).map(|n| format!("x{n}: y\r\n")).collect();
    taken(&server, &format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n"), "GET / ");
}

#[test]
fn takes_bodies_and_finds_their_ends() {
    let server = Server::start(rules());
    for (fields, body, seen) in [
        ("content-length: 3", "abc", "abc"),
        ("Content-Length:3", "\r\n\r", "\\r\\n\\r"),
        (
            "content-length: 33",
            "GET /smuggled HTTP/1.1\r\nhost: a\r\n",
            "GET /smuggled HTTP/1.1\\r\\nhost: a\\r\\n",
        ),
        ("transfer-encoding: chunked", "0\r\n\r\n", ""),
        ("Transfer-Encoding:chunked", "3\r\nabc\r\n0\r\n\r\n", "abc"),
        ("transfer-encoding:   chunked", "1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", "abc"),
        ("transfer-encoding: chunked", "3;x=y\r\nabc\r\n0;z\r\n\r\n", "abc"),
        ("transfer-encoding: chunked", "003\r\nabc\r\n000\r\n\r\n", "abc"),
        ("transfer-encoding: chunked", "a\r\n0123456789\r\n0\r\ntrailer: t\r\n\r\n", "0123456789"),
        ("transfer-encoding: chunked", "5\r\n0\r\n\r\n\r\n0\r\n\r\n", "0\\r\\n\\r\\n"),
    ] {
        taken(
            &server,
            &format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n{body}"),
            &format!("POST / {seen}"),
        );
    }
}

#[test]
fn refuses_bad_request_lines() {
    let server = Server::start(rules());
    let rest = "\r\nhost: a\r\n\r\n";
    for line in [
        "GET",
        "GET /",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET\t/\tHTTP/1.1",
        "GET /\tHTTP/1.1",
        "GET / HTTP/2.0",
        "GET / HTTP/1.2",
        "GET / HTTP/0.9",
        "GET / HTTP/1.10",
        "GET / HTTP/11",
        "GET / http/1.1",
        "GET / HTTP/1,1",
        "GET / HTTP/1.",
        "GET / FTP/1.1",
        "G(T / HTTP/1.1",
        "G\u{e9}T / HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "GET /?\u{e9} HTTP/1.1",
        "GET /#a HTTP/1.1",
        "GET /?a#b HTTP/1.1",
        "GET /<a> HTTP/1.1",
        "GET /?\"a\" HTTP/1.1",
        "GET a HTTP/1.1",
        "GET * HTTP/1.1",
        "GET ** HTTP/1.1",
        "GET a:80 HTTP/1.1",
        "GET ftp://a/ HTTP/1.1",
        "GET http:/a HTTP/1.1",
        "GET http:///a HTTP/1.1",
        "GET http://u@a/ HTTP/1.1",
        "GET http://a:b/ HTTP/1.1",
        "GET http://a,b/ HTTP/1.1",
        "GET http://a#/ HTTP/1.1",
        "GET ?a HTTP/1.1",
        "OPTIONS *x HTTP/1.1",
        " / HTTP/1.1",
        "GET HTTP/1.1",
        "PRI * HTTP/2.0",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJ / HTTP/1.1",
        "GET /\0 HTTP/1.1",
        "GET /\x7f HTTP/1.1",
        "GET /\r HTTP/1.1",
    ] {
        refused(&server, format!("{line}{rest}"), 400, "invalid_request");
    }
    refused(&server, "GET / HTTP/1.1\nhost: a\n\n", 400, "invalid_request");
    refused(&server, "\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", 400, "invalid_request");
    refused(&server, "\r\n".repeat(5) + "GET / HTTP/1.1\r\nhost: a\r\n\r\n", 400, "invalid_request");
    refused(&server, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "invalid_request");
    refused(&server, b"PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n\0\0\0\x04\0\0\0\0\0", 400, "invalid_request");
    let long = "x".repeat(8 * 1024);
    refused(&server, format!("GET /{long} HTTP/1.1{rest}"), 414, "uri_too_long");
    refused(&server, format!("GET /{long}{long}{long}{long}{long} HTTP/1.1{rest}"), 414, "uri_too_long");
    refused(&server, long.repeat(2), 414, "uri_too_long");
}

#[test]
fn refuses_bad_fields() {
    let server = Server::start(rules());
    for fields in [
        "x: a\rb",
        "x: a\r\r",
        "x: a\nb: c",
        "x: a\0b",
        "x: a\x01b",
        "x: a\x1bb",
        "x: a\x7fb",
        "x: a\x0bb",
        "x: a\r\n b",
        "x: a\r\n\tb",
        "x: a\r\n ",
        "x : a",
        "x\t: a",
        "x",
        "xy z: a",
        ": a",
        " : a",
        "(: a",
        "x\u{e9}: a",
        "x\0: a",
        "\"x\": a",
        "x=y",
        "host: a",
        "Host: b",
        "authorization: a\r\nAuthorization: b",
        "content-length: 1\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 0",
        "content-length: 5, 5",
        "content-length: 5\r\ncontent-length: 5",
        "content-length: 5\r\ncontent-length: 6",
        "content-length: +5",
        "content-length: -5",
        "content-length: 0x5",
        "content-length: 5.0",
        "content-length: 05",
        "content-length: 5 5",
        "content-length: ",
        "content-length: \t5",
        "content-length: 5;",
        "content-length: a",
        "content-length: 99999999999999999999",
        "content-length: \u{ff15}",
        "transfer-encoding: Chunked",
        "transfer-encoding: CHUNKED",
        "transfer-encoding: chunked ",
        "transfer-encoding:\tchunked",
        "transfer-encoding: chunked\t",
        "transfer-encoding: chunked;q=1",
        "transfer-encoding: \"chunked\"",
        "transfer-encoding: 'chunked'",
        "transfer-encoding: chunked, chunked",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: identity",
        "transfer-encoding: gzip",
        "transfer-encoding: ",
        "transfer-encoding: xchunked",
        "transfer-encoding: ,chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity",
        "transfer-encoding : chunked",
        "transfer-encoding\r\n : chunked",
        "transfer-encoding: \x0bchunked",
        "transfer-encoding: \u{a0}chunked",
    ] {
        refused(&server, format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n"), 400, "invalid_request");
    }
    for first in [" x: y", "\tx: y", " host: a"] {
        refused(&server, format!("GET / HTTP/1.1\r\n{first}\r\nhost: a\r\n\r\n"), 400, "invalid_request");
    }
    for host in [
        "",
        "host:",
        "host: a b",
        "host: a,b",
        "host: u@a",
        "host: a/b",
        "host: http://a",
        "host: a:",
        "host: a:b",
        "host: a:70000",
        "host: [::1",
        "host: %61",
        "host: a\r\nhost: a",
        "host: a\tb",
        "x-host: a",
    ] {
        let head = format!("GET / HTTP/1.1\r\n{host}\r\n\r\n");
        refused(&server, head.replace("1.1\r\n\r\n\r\n", "1.1\r\n\r\n"), 400, "invalid_request");
    }
    refused(&server, "GET http://a/ HTTP/1.1\r\n\r\n", 400, "invalid_request");
    refused(&server, "GET http://a/ HTTP/1.1\r\nhost: a,b\r\n\r\n", 400, "invalid_request");
    refused(&server, "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n", 400, "invalid_request");
    let wide = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(32 * 1024));
    refused(&server, wide, 431, "headers_too_large");
    let many: String = (0..100).map(|n| format!("x{n}: y\r\n")).collect();
    refused(&server, format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n"), 431, "headers_too_large");
}

#[test]
fn refuses_methods_that_are_not_served() {
    let server = Server::start(rules());
    for head in ["CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n", "connect / HTTP/1.1\r\nhost: a\r\n\r\n"] {
        refused(&server, head, 405, "method_not_allowed");
    }
    refused(&server, "TRACE / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx", 400, "invalid_request");
    // A TRACE without a body is as well framed as a GET: the connection stays.
    let mut client = server.connect();
    client.send("TRACE / HTTP/1.1\r\nhost: a\r\n\r\n");
    let answer = client.answer().unwrap();
    assert_eq!(answer.status, 405);
    assert!(answer.head.contains("allow: GET, HEAD"), "{}", answer.head);
    assert!(!answer.closes());
    assert!(client.is_open());
    assert_eq!(server.refusals(), ["method_not_allowed"]);
}

#[test]
fn bad_framing_inside_a_body_is_an_error_of_the_body() {
    let server = Server::start(rules());
    for body in [
        "x\r\n",
        "3\nabc\r\n",
        "3\r\nabcd\r\n",
        "3\r\nabc0\r\n\r\n",
        " 3\r\nabc\r\n",
        "3 \r\nabc\r\n",
        "-3\r\n",
        "0x3\r\n",
        "3;a\nb\r\nabc\r\n",
        "ffffffffffffffff\r\n",
        "3\r\nabc\r\n0\r\nx y: z\r\n\r\n",
        "0\r\n folded\r\n\r\n",
        "0\r\nx: a\0b\r\n\r\n",
        "0\r\nx\r\n\r\n",
    ] {
        let mut client = server.connect();
        client.send(format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{body}"));
        client.send("GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n");
        let answer = client.answer().unwrap();
        assert_eq!((answer.status, answer.closes()), (400, true), "{body:?}");
        assert!(answer.text().contains("bad body"), "{body:?}: {}", answer.text());
        assert!(client.is_closed(), "{body:?}");
        assert!(server.requests().is_empty(), "{body:?}");
    }
}

#[test]
fn a_refused_head_request_gets_no_body() {
    let server = Server::start(rules());
    let mut client = server.connect();
    client.send("HEAD / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n");
    assert_eq!(client.answer_to(true).unwrap().status, 400);
    assert!(client.is_closed());
}

#[test]
fn http_1_0_is_served_with_and_without_a_host() {
    let server = Server::start(rules());
    for head in ["GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\nhost: a\r\n\r\n"] {
        let mut client = server.connect();
        client.send(head);
        assert_eq!(client.answer().unwrap().status, 200);
        assert!(client.is_closed());
    }
    let mut client = server.connect();
    client.send("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n");
    assert_eq!(client.answer().unwrap().status, 200);
    assert!(client.is_open());
}

//! Heads that are admitted, and heads that are not.

use super::super::fixtures::{self, PEER};
use super::*;

const LIMITS: Limits =
    Limits { header_bytes_max: 1000, headers_max: 10, uri_bytes_max: 100, ..fixtures::LIMITS };

fn request(line: &str, version: Version, fields: &[(&str, &str)]) -> Request<()> {
    let (method, target) = line.split_once(' ').unwrap();
    let mut request = Request::new(());
    *request.method_mut() = method.parse().unwrap();
    *request.uri_mut() = target.parse().unwrap();
    *request.version_mut() = version;
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        request.headers_mut().append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    request
}

fn admit11(line: &str, fields: &[(&str, &str)]) -> Result<Head, Problem> {
    Head::admit(&request(line, Version::HTTP_11, fields), PEER, &LIMITS)
}

fn check(version: Version, line: &str, fields: &[(&str, &str)], expected: Result<(), Code>) {
    let got = Head::admit(&request(line, version, fields), PEER, &LIMITS);
    let got = got.map(drop).map_err(|problem| {
        assert_eq!(problem.closes(), problem.code() == Code::InvalidRequest, "{line} {fields:?}");
        problem.code()
    });
    assert_eq!(got, expected, "for {version:?} {line} {fields:?}");
}

#[test]
fn admits_what_has_one_meaning() {
    let host = ("host", "a.example");
    for (line, fields) in [
        ("GET /", &[host][..]),
        ("GET /a?b=../%zz", &[host]),
        ("OPTIONS *", &[host]),
        ("OPTIONS /", &[host]),
        ("PURGE /cache", &[host]),
        ("GET http://b.example/x", &[host]),
        ("GET https://b.example", &[host]),
        ("POST /", &[host, ("content-length", "0")]),
        ("POST /", &[host, ("content-length", "18446744073709551615")]),
        ("POST /", &[host, ("transfer-encoding", "chunked")]),
        ("POST /", &[host, ("transfer-encoding", "Chunked")]),
        ("POST /", &[host, ("expect", "100-Continue")]),
        ("GET /", &[host, ("x-note", "tab\tand \u{e9}")]),
        ("GET /", &[host, ("x_note", "underscores are dropped later")]),
        ("GET /", &[host, ("cookie", "a=1"), ("cookie", "b=2")]),
    ] {
        check(Version::HTTP_11, line, fields, Ok(()));
    }
    check(Version::HTTP_10, "GET /", &[host], Ok(()));
    check(Version::HTTP_2, "GET https://a.example/", &[], Ok(()));
    check(Version::HTTP_2, "GET https://a.example/", &[("host", "A.example.")], Ok(()));
    check(Version::HTTP_2, "GET /", &[host], Ok(()));
}

#[test]
fn refuses_what_two_programs_could_read_differently() {
    let host = ("host", "a.example");
    for (line, fields) in [
        ("GET /", &[][..]),
        ("GET http://a.example/", &[]),
        ("GET /", &[host, host]),
        ("GET /", &[("host", "")]),
        ("GET /", &[("host", "user@a.example")]),
        ("GET /", &[("host", "a.example/path")]),
        ("GET /", &[("host", "a.example, b.example")]),
        ("GET /", &[("host", "a.example:http")]),
        ("GET /", &[("host", "[::1")]),
        ("GET http://user:pw@b.example/", &[host]),
        ("GET http://b.example/", &[("host", "user@a.example")]),
        ("GET http://b.example:0/", &[host]),
        ("GET ftp://b.example/", &[host]),
        ("GET b.example:80", &[host]),
        ("GET *", &[host]),
        ("GET /a%2e%2e/%2e%2e/b", &[host]),
        ("GET /a\\b", &[host]),
        ("GET /%zz", &[host]),
        ("GET /", &[host, ("authorization", "Bearer a"), ("authorization", "Bearer a")]),
        ("POST /", &[host, ("content-length", "1"), ("content-length", "1")]),
        ("POST /", &[host, ("content-length", "1, 1")]),
        ("POST /", &[host, ("content-length", "+1")]),
        ("POST /", &[host, ("content-length", "-1")]),
        ("POST /", &[host, ("content-length", "0x1")]),
        ("POST /", &[host, ("content-length", "1 1")]),
        ("POST /", &[host, ("content-length", "")]),
        ("POST /", &[host, ("content-length", "18446744073709551616")]),
        ("POST /", &[host, ("content-length", "3"), ("transfer-encoding", "chunked")]),
        ("POST /", &[host, ("transfer-encoding", "identity")]),
        ("POST /", &[host, ("transfer-encoding", "gzip, chunked")]),
        ("POST /", &[host, ("transfer-encoding", "chunked, chunked")]),
        ("POST /", &[host, ("transfer-encoding", "xchunked")]),
        ("POST /", &[host, ("transfer-encoding", "\"chunked\"")]),
        ("POST /", &[host, ("transfer-encoding", "")]),
        ("POST /", &[host, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]),
    ] {
        check(Version::HTTP_11, line, fields, Err(Code::InvalidRequest));
    }
    check(Version::HTTP_10, "GET /", &[], Err(Code::InvalidRequest));
    let chunked = ("transfer-encoding", "chunked");
    check(Version::HTTP_10, "POST /", &[host, chunked], Err(Code::InvalidRequest));
    check(Version::HTTP_2, "POST https://a.example/", &[chunked], Err(Code::InvalidRequest));
    check(Version::HTTP_2, "GET https://b.example/", &[host], Err(Code::InvalidRequest));
    check(Version::HTTP_2, "GET https://a.example:444/", &[host], Err(Code::InvalidRequest));
    check(Version::HTTP_2, "GET /", &[], Err(Code::InvalidRequest));
}

#[test]
fn sees_every_control_character_in_a_value() {
    for byte in (0..=u8::MAX).filter(|byte| char::from(*byte).is_ascii_control() && *byte != b'\t') {
        assert!(holds_control(&[b'a', byte, b'b']), "{byte:#x}");
    }
    assert!(!holds_control("tab\t and é".as_bytes()));
}

#[test]
fn refuses_by_method_expectation_and_size() {
    let host = ("host", "a.example");
    let long = "x".repeat(100);
    let huge = "x".repeat(1000);
    check(Version::HTTP_11, "TRACE /", &[host], Err(Code::MethodNotAllowed));
    check(Version::HTTP_11, "CONNECT b.example:443", &[host], Err(Code::MethodNotAllowed));
    check(Version::HTTP_2, "CONNECT b.example:443", &[], Err(Code::MethodNotAllowed));
    check(Version::HTTP_11, "POST /", &[host, ("expect", "200-ok")], Err(Code::ExpectationFailed));
    let twice = [host, ("expect", "100-continue"), ("expect", "x")];
    check(Version::HTTP_11, "POST /", &twice, Err(Code::ExpectationFailed));
    check(Version::HTTP_11, &format!("GET /{long}"), &[host], Err(Code::UriTooLong));
    check(Version::HTTP_11, &format!("GET http://b.example/{}", &long[10..]), &[host], Err(Code::UriTooLong));
    check(Version::HTTP_11, "GET /", &[host, ("x", &huge)], Err(Code::HeadersTooLarge));
    check(Version::HTTP_11, "GET /", &[host; 11], Err(Code::HeadersTooLarge));
}

#[test]
fn connect_and_trace_are_told_what_is_allowed() {
    let problem = admit11("TRACE /", &[("host", "a")]).unwrap_err();
    assert_eq!(
        problem,
        Problem::new(Code::MethodNotAllowed, "the method is not allowed here")
            .with_allow("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS".to_owned())
    );
}

#[test]
fn the_target_of_absolute_form_replaces_host() {
    let head = admit11("GET http://B.example:8080//x/../y?q=//", &[("host", "a.example")]).unwrap();
    assert!(head.is_absolute_form());
    assert_eq!(head.host(), "b.example");
    assert_eq!(head.authority().as_str(), "b.example:8080");
    assert_eq!(head.path(), "/y");
    assert_eq!(head.query(), Some("q=//"));
    assert!(!admit11("GET /", &[("host", "a.example")]).unwrap().is_absolute_form());
}

#[test]
fn an_absolute_target_without_a_path_has_the_root() {
    let head = admit11("GET http://b.example?q", &[("host", "b.example")]).unwrap();
    assert_eq!((head.path(), head.query()), ("/", Some("q")));
    assert!(head.normal_target().is_none_or(|target| target.as_str() == "/?q"));
}

#[test]
fn knows_the_framing_of_the_body() {
    let head = admit11("POST /", &[("host", "a"), ("content-length", "07")]).unwrap();
    assert_eq!((head.content_length(), head.is_chunked()), (Some(7), false));
    let head = admit11("POST /", &[("host", "a"), ("transfer-encoding", "chunked")]).unwrap();
    assert_eq!((head.content_length(), head.is_chunked()), (None, true));
}

#[test]
fn knows_a_websocket_by_its_fields() {
    let wants = |line, fields: &[(&str, &str)]| {
        let fields = [&[("host", "a"), ("sec-websocket-key", "k")], fields].concat();
        admit11(line, &fields).unwrap().wants_websocket()
    };
    assert!(wants("GET /", &[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")]));
    assert!(!wants("GET /", &[("upgrade", "websocket")]));
    assert!(!wants("GET /", &[("connection", "upgrade"), ("upgrade", "h2c")]));
    assert!(!wants("POST /", &[("connection", "upgrade"), ("upgrade", "websocket")]));
    let keyless = [("host", "a"), ("connection", "upgrade"), ("upgrade", "websocket")];
    assert!(!admit11("GET /", &keyless).unwrap().wants_websocket());
}

#[test]
fn knows_a_websocket_over_http_2_by_its_protocol() {
    let admit = |version, protocol: Option<&'static str>| {
        let mut request = Request::builder().method("CONNECT").uri("https://a.test/ws?x").version(version);
        if let Some(protocol) = protocol {
            request = request.extension(h2::ext::Protocol::from_static(protocol));
        }
        Head::admit(&request.body(()).unwrap(), PEER, &LIMITS)
    };
    let head = admit(Version::HTTP_2, Some("websocket")).unwrap();
    assert!(head.wants_websocket() && head.is_extended_connect());
    assert_eq!((head.method().as_str(), head.path(), head.query()), ("GET", "/ws", Some("x")));
    assert!(admit(Version::HTTP_2, Some("connect-udp")).is_err());
    assert!(admit(Version::HTTP_2, None).is_err());
    assert!(admit(Version::HTTP_11, Some("websocket")).is_err());
}

#[test]
fn knows_grpc_by_its_content_type() {
    let grpc = |value| admit11("POST /", &[("host", "a"), ("content-type", value)]).unwrap().is_grpc();
    assert!(grpc("application/grpc") && grpc("application/grpc+proto") && grpc("Application/GRPC; x=y"));
    assert!(!grpc("application/grpc-web") && !grpc("application/json") && !grpc("a"));
}

#[test]
fn a_clean_target_is_shared_not_copied() {
    let request = request("GET /a/b?c", Version::HTTP_11, &[("host", "a.example")]);
    let head = Head::admit(&request, PEER, &LIMITS).unwrap();
    let target = head.normal_target().unwrap();
    assert_eq!(target.as_str().as_ptr(), request.uri().path_and_query().unwrap().as_str().as_ptr());
    let host = head.authority().value().as_bytes();
    assert_eq!(host.as_ptr(), request.headers()[HOST].as_bytes().as_ptr());
}

//! HTTP/2 of hostile clients before an upstream of HTTP/1.1: frames that are wrong, fields that would mean something
//! else on the other side, and floods.

use std::collections::BTreeMap;

use super::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Ended, Frames, GOAWAY, HEADERS, PADDED, PING, PREFACE,
    PRIORITISED, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame, get,
};
use super::wire::Recorder;
use crate::support::{Gateway, Setup, wait_for};

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;

enum Then {
    /// It reaches the upstream as this: line, fields of the client, an empty line, body.
    Passed(&'static str),
    /// A problem document with this status and code.
    Refused(u16, &'static str),
    /// 431, which the library gives without a body.
    TooLarge,
    /// The stream is reset, or the connection with it; the upstream sees no whole request.
    Malformed,
    /// The connection ends.
    Fatal,
}
use Then::{Fatal, Malformed, Passed, Refused, TooLarge};

struct Bench {
    gateway: Gateway,
    recorder: Recorder,
    passed: usize,
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
            .start();
        Self { gateway, recorder, passed: 0, wrong: BTreeMap::new(), cases: 0 }
    }

    /// `sent` is the first stream's, number 1.
    fn check(&mut self, case: &str, sent: impl AsRef<[u8]>, then: &Then) {
        self.cases += 1;
        if let Err(why) = self.outcome(sent.as_ref(), then) {
            self.wrong.insert(case.to_owned(), why);
        }
        self.passed = self.recorder.count();
    }

    fn outcome(&self, sent: &[u8], then: &Then) -> Result<(), String> {
        let mut client = Frames::open(self.gateway.address());
        client.send(sent);
        let ended = client.end_of(1);
        let told = format!("{ended:?}");
        match (then, &ended) {
            (Passed(want), Ended::Answered(body)) if body == "ok" => {
                let seen = &self.recorder.requests(self.passed, 1)[0];
                let own = ["via", "forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"];
                let mut lines = vec![seen.line.clone()];
                for (name, value) in &seen.fields {
                    if !own.contains(&name.as_str()) && name != "x-request-id" && name != "traceparent" {
                        lines.push(format!("{name}: {}", value.escape_ascii()));
                    }
                }
                lines[1..].sort();
                let came = lines.join("\n") + "\n\n" + &String::from_utf8_lossy(&seen.body);
                if came != *want || seen.all("via") != ["2 portcullis"] {
                    return Err(format!("the upstream got {came:?}"));
                }
            }
            (Refused(status, code), Ended::Answered(body))
                if body.contains(&format!("\"status\":{status}"))
                    && body.contains(&format!("\"code\":\"{code}\"")) => {}
            (TooLarge, Ended::Answered(body)) if body.is_empty() || body.contains("headers_too_large") => {}
            (Malformed, Ended::Reset(..)) => {}
            (Malformed | Fatal, Ended::Goaway(_) | Ended::Closed) => {
                return self.settle_after();
            }
            _ => return Err(told),
        }
        // The connection is as good as before.
        client.send(get(101, "/next"));
        if client.end_of(101) != Ended::Answered("ok".to_owned()) {
            return Err(format!("{told}, and the next request is not answered"));
        }
        self.recorder.requests(self.passed, 1 + usize::from(matches!(then, Passed(_))));
        Ok(())
    }

    /// Others are served, and the upstream has seen nothing else.
    fn settle_after(&self) -> Result<(), String> {
        let mut other = Frames::open(self.gateway.address());
        other.send(get(1, "/other"));
        let ended = other.end_of(1);
        self.recorder.requests(self.passed, 1);
        if ended == Ended::Answered("ok".to_owned()) { Ok(()) } else { Err(format!("others get {ended:?}")) }
    }

    fn finish(self, cases_min: usize) {
        let told: Vec<String> = self.wrong.iter().map(|(case, why)| format!("{case}: {why}")).collect();
        assert!(told.is_empty(), "\n{}", told.join("\n"));
        assert!(self.cases >= cases_min, "{} cases", self.cases);
        self.recorder.settle(self.passed);
    }
}

type Fields<'a> = Vec<(&'a [u8], &'a [u8])>;

fn good<'a>() -> Fields<'a> {
    vec![(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a.test"), (b":path", b"/x")]
}

/// A request without a body.
fn head(fields: &Fields<'_>) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, 1, block(fields))
}

fn and<'a>(name: &'a [u8], value: &'a [u8]) -> Fields<'a> {
    let mut fields = good();
    fields.push((name, value));
    fields
}

fn instead<'a>(name: &'a [u8], value: &'a [u8]) -> Fields<'a> {
    good().into_iter().map(|field| if field.0 == name { (name, value) } else { field }).collect()
}

fn without(name: &[u8]) -> Fields<'static> {
    good().into_iter().filter(|field| field.0 != name).collect()
}

/// A POST, its body in these frames.
fn post(fields: &[(&str, &str)], frames: &[Vec<u8>]) -> Vec<u8> {
    let mut all = vec![(":method", "POST"), (":scheme", "http"), (":authority", "a.test"), (":path", "/p")];
    all.extend_from_slice(fields);
    [frame(HEADERS, END_HEADERS, 1, block(&all)), frames.concat()].concat()
}

const INVALID: Then = Refused(400, "invalid_request");

#[test]
fn heads_cannot_mean_more_in_http_1_than_they_do_in_http_2() {
    let mut bench = Bench::start();
    bench.check("plain", head(&good()), &Passed("GET /x HTTP/1.1\nhost: a.test\n\n"));
    for (case, name, value) in [
        ("CR LF in a value", &b"x"[..], &b"a\r\nY: z"[..]),
        ("a request in a value", b"x", b"a\r\n\r\nGET /s HTTP/1.1\r\nHost: b"),
        ("LF in a value", b"x", b"a\nb"),
        ("CR in a value", b"x", b"a\rb"),
        ("NUL in a value", b"x", b"a\0b"),
        ("a control character in a value", b"x", b"a\x01b"),
        ("DEL in a value", b"x", b"a\x7fb"),
        ("upper case", b"X-Up", b"y"),
        ("no name", b"", b"y"),
        ("a name with a space", b"x y", b"z"),
        ("a name with a colon", b"x:y", b"z"),
        ("a name with CR LF", b"x\r\nhost", b"z"),
        ("a name with NUL", b"x\0", b"z"),
        ("a name above ASCII", b"x\xe9", b"z"),
        ("a name of a whole field", b"transfer-encoding: chunked\r\nx", b"z"),
        ("connection", b"connection", b"close"),
        ("keep-alive", b"keep-alive", b"timeout=5"),
        ("proxy-connection", b"proxy-connection", b"close"),
        ("transfer-encoding", b"transfer-encoding", b"chunked"),
        ("transfer-encoding, empty", b"transfer-encoding", b""),
        ("upgrade", b"upgrade", b"websocket"),
        ("te beside trailers", b"te", b"gzip"),
        (":status", b":status", b"200"),
        ("an unknown pseudo-field", b":foo", b"x"),
        (":path twice", b":path", b"/y"),
        (":method twice", b":method", b"POST"),
        (":authority twice", b":authority", b"b.test"),
        (":scheme twice", b":scheme", b"https"),
        ("a length and no body", b"content-length", b"5"),
        ("a length that is no number", b"content-length", b"x"),
    ] {
        bench.check(case, head(&and(name, value)), &Malformed);
    }
    for missing in [&b":method"[..], b":scheme", b":path"] {
        bench.check(&format!("no {}", missing.escape_ascii()), head(&without(missing)), &Malformed);
    }
    let mut late = good();
    late.rotate_left(1);
    late.insert(0, (b"x", b"y"));
    bench.check("a pseudo-field behind a field", head(&late), &Malformed);
    for (path, then) in [
        (&b""[..], Malformed),
        (b"x", Malformed),
        (b"/a b", Malformed),
        (b"/a\r\nX: y", Malformed),
        (b"/ HTTP/1.1\r\nHost: b\r\n\r\nGET /", Malformed),
        (b"/a\0", Malformed),
        (b"*", INVALID),
        (b"/a\x7f", Malformed),
        (b"/%2e%2e/x", INVALID),
        (b"/..;/x", INVALID),
        (b"/a%2fb", INVALID),
        (b"/a\\b", INVALID),
        (b"/a?\xc3\xa9", INVALID),
        (b"/a?<x>", Malformed),
        (b"/a?\"x\"", Malformed),
        (b"/a#b", Passed("GET /a HTTP/1.1\nhost: a.test\n\n")),
        (b"/a?x#b", Passed("GET /a?x HTTP/1.1\nhost: a.test\n\n")),
        (b"/\xc3\xa9", Passed("GET /%C3%A9 HTTP/1.1\nhost: a.test\n\n")),
        (b"//a/../b?c=/../d", Passed("GET /b?c=/../d HTTP/1.1\nhost: a.test\n\n")),
        (b"http://b.test/x", Malformed),
    ] {
        bench.check(&format!("path {}", path.escape_ascii()), head(&instead(b":path", path)), &then);
    }
    for (authority, then) in [
        (&b"a.test:80"[..], Passed("GET /x HTTP/1.1\nhost: a.test:80\n\n")),
        (b"A.Test", Passed("GET /x HTTP/1.1\nhost: a.test\n\n")),
        (b"u@a.test", INVALID),
        (b"a.test/x", Malformed),
        (b"a.test:x", INVALID),
        (b"a.test:99999", INVALID),
        (b"a b", Malformed),
        (b"a\r\nb", Malformed),
        (b"a,b", INVALID),
        (b"", Malformed),
    ] {
        bench.check(
            &format!("authority {}", authority.escape_ascii()),
            head(&instead(b":authority", authority)),
            &then,
        );
    }
    let mut hosted = without(b":authority");
    bench.check("no authority", head(&hosted), &INVALID);
    hosted.push((b"host", b"b.test"));
    bench.check("a host alone", head(&hosted), &Passed("GET /x HTTP/1.1\nhost: b.test\n\n"));
    bench.check(
        "the same host",
        head(&and(b"host", b"a.test")),
        &Passed("GET /x HTTP/1.1\nhost: a.test\n\n"),
    );
    bench.check("another host", head(&and(b"host", b"b.test")), &INVALID);
    bench.check("another port", head(&and(b"host", b"a.test:81")), &INVALID);
    let mut twice = and(b"host", b"a.test");
    twice.push((b"host", b"a.test"));
    bench.check("two hosts", head(&twice), &INVALID);
    let mut twice = and(b"authorization", b"Bearer a");
    twice.push((b"authorization", b"Bearer b"));
    bench.check("two authorizations", head(&twice), &INVALID);
    bench.check(
        "CONNECT",
        head(&vec![(b":method", b"CONNECT"), (b":authority", b"a.test:1")]),
        &Refused(405, "method_not_allowed"),
    );
    bench.check("CONNECT with a path", head(&instead(b":method", b"CONNECT")), &Malformed);
    bench.check(
        "extended CONNECT to nothing known",
        head(&{
            let mut fields = instead(b":method", b"CONNECT");
            fields.push((b":protocol", b"connect-udp"));
            fields
        }),
        &Refused(405, "method_not_allowed"),
    );
    bench.check("TRACE", head(&instead(b":method", b"TRACE")), &Refused(405, "method_not_allowed"));
    bench.check("a method with a space", head(&instead(b":method", b"GET / HTTP/1.1")), &Malformed);
    bench.check("a method with CR LF", head(&instead(b":method", b"GET\r\nX: y")), &Malformed);
    bench.check("a strange scheme", head(&instead(b":scheme", b"ftp")), &INVALID);
    bench.check("no scheme to speak of", head(&instead(b":scheme", b"")), &INVALID);
    bench.check("a scheme with a host", head(&instead(b":scheme", b"http://b.test/?")), &Malformed);
    for (name, value, seen) in [
        (&b"x"[..], &b"caf\xc3\xa9"[..], "\nx: caf\\xc3\\xa9"),
        (b"x", b"", "\nx: "),
        (b"te", b"trailers", ""),
        (b"zookie", b"a=1", "\nzookie: a=1"),
        (b"proxy-authorization", b"x", ""),
        (b"expect", b"100-continue", ""),
        (b"x-auth-subject", b"root", ""),
        (b"x_auth_subject", b"root", ""),
        (b"x.auth.subject", b"root", ""),
        (b"content_length", b"5", ""),
        (b"http2-settings", b"AAMA", ""),
        (b"trailer", b"x", ""),
    ] {
        let want = format!("GET /x HTTP/1.1\nhost: a.test{seen}\n\n").leak();
        bench.check(&format!("field {}", name.escape_ascii()), head(&and(name, value)), &Passed(want));
    }
    let large = "y".repeat(40_000);
    let fields = block(&and(b"x", large.as_bytes()));
    let (first, rest) = fields.split_at(16_000);
    let (second, third) = rest.split_at(16_000);
    let frames = [
        frame(HEADERS, END_STREAM, 1, first),
        frame(CONTINUATION, 0, 1, second),
        frame(CONTINUATION, END_HEADERS, 1, third),
    ];
    bench.check("a large head", frames.concat(), &TooLarge);
    bench.finish(80);
}

#[test]
fn bodies_are_what_their_frames_say() {
    let mut bench = Bench::start();
    let data = |flags, text: &str| frame(DATA, flags, 1, text);
    let trailers = |flags, fields: &[(&str, &str)]| frame(HEADERS, flags, 1, block(fields));
    let chunked =
        |body: &str| &*format!("POST /p HTTP/1.1\nhost: a.test\ntransfer-encoding: chunked\n\n{body}").leak();
    let length = |n: usize, body: &str| {
        &*format!("POST /p HTTP/1.1\ncontent-length: {n}\nhost: a.test\n\n{body}").leak()
    };
    let said = |n: &'static str| vec![("content-length", n)];
    let end = END_STREAM | END_HEADERS;
    for (case, fields, frames, then) in [
        ("a body", vec![], vec![data(END_STREAM, "hello")], Passed(chunked("hello"))),
        (
            "in pieces",
            vec![],
            vec![data(0, "hel"), data(0, ""), data(END_STREAM, "lo")],
            Passed(chunked("hello")),
        ),
        ("an empty end", vec![], vec![data(0, "hello"), data(END_STREAM, "")], Passed(chunked("hello"))),
        ("no bytes", vec![], vec![data(END_STREAM, "")], Passed(chunked(""))),
        ("a length", said("5"), vec![data(END_STREAM, "hello")], Passed(length(5, "hello"))),
        (
            "a length and an empty end",
            said("5"),
            vec![data(0, "hello"), data(END_STREAM, "")],
            Passed(length(5, "hello")),
        ),
        (
            "a request for a body",
            said("42"),
            vec![data(END_STREAM, "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n\r\n")],
            Passed(length(42, "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n\r\n")),
        ),
        (
            "a body that looks like an end",
            vec![],
            vec![data(END_STREAM, "0\r\n\r\nGET / HTTP/1.1\r\n\r\n")],
            Passed(chunked("0\r\n\r\nGET / HTTP/1.1\r\n\r\n")),
        ),
        ("trailers", vec![], vec![data(0, "hi"), trailers(end, &[("x-sum", "1")])], Passed(chunked("hi"))),
        (
            "trailers that lie",
            vec![],
            vec![
                data(0, "hi"),
                trailers(end, &[("x-auth-subject", "root"), ("host", "b"), ("content-length", "9")]),
            ],
            Passed(chunked("hi")),
        ),
        ("more than the length", said("2"), vec![data(END_STREAM, "hello")], Malformed),
        ("more than the length, later", said("2"), vec![data(0, "he"), data(END_STREAM, "llo")], Malformed),
        ("less than the length", said("9"), vec![data(END_STREAM, "hello")], Malformed),
        (
            "less than the length, by trailers",
            said("9"),
            vec![data(0, "hello"), trailers(end, &[("x", "y")])],
            Malformed,
        ),
        ("a length of nothing, and a body", said("0"), vec![data(END_STREAM, "hello")], Malformed),
        ("a signed length", said("+5"), vec![data(END_STREAM, "hello")], Malformed),
        ("a list of lengths", said("5, 5"), vec![data(END_STREAM, "hello")], Malformed),
        (
            "two lengths",
            vec![("content-length", "5"), ("content-length", "5")],
            vec![data(END_STREAM, "hello")],
            INVALID,
        ),
        (
            "two unequal lengths",
            vec![("content-length", "5"), ("content-length", "6")],
            vec![data(END_STREAM, "hello")],
            Malformed,
        ),
        // The library lets go of these; no trailer reaches HTTP/1.1 in any case.
        (
            "trailers with a pseudo-field",
            vec![],
            vec![data(0, "hi"), trailers(end, &[(":path", "/admin")])],
            Passed(chunked("hi")),
        ),
        (
            "trailers with :status",
            vec![],
            vec![data(0, "hi"), trailers(end, &[(":status", "200")])],
            Passed(chunked("hi")),
        ),
        ("trailers in upper case", vec![], vec![data(0, "hi"), trailers(end, &[("X-Sum", "1")])], Malformed),
        ("trailers with CR LF", vec![], vec![data(0, "hi"), trailers(end, &[("x", "a\r\nb: c")])], Malformed),
        (
            "trailers that do not end",
            vec![],
            vec![data(0, "hi"), trailers(END_HEADERS, &[("x", "y")])],
            Malformed,
        ),
        ("a body too large", said("10485761"), vec![], Refused(413, "body_too_large")),
        (
            "a reset in the middle",
            vec![],
            vec![
                data(0, "hi"),
                frame(RST_STREAM, 0, 1, [0, 0, 0, 8]),
                frame(PING, 0, 0, [0; 8]),
                frame(DATA, 0, 0, "x"),
            ],
            Fatal,
        ),
    ] {
        bench.check(case, post(&fields, &frames), &then);
    }
    let padded = |pad: u8, text: &str, real: usize| {
        let mut payload = vec![pad];
        payload.extend_from_slice(text.as_bytes());
        payload.extend(std::iter::repeat_n(0, real));
        frame(DATA, PADDED | END_STREAM, 1, payload)
    };
    bench.check("padding", post(&[], &[padded(200, "hello", 200)]), &Passed(chunked("hello")));
    bench.check(
        "padding and a length",
        post(&[("content-length", "5")], &[padded(3, "hello", 3)]),
        &Passed(length(5, "hello")),
    );
    bench.check("nothing but padding", post(&[], &[padded(9, "", 9)]), &Passed(chunked("")));
    bench.check("more padding than frame", post(&[], &[padded(200, "hello", 3)]), &Fatal);
    bench.check("padding of nothing", post(&[], &[frame(DATA, PADDED | END_STREAM, 1, "")]), &Fatal);
    bench.finish(30);
}

#[test]
fn frames_that_are_wrong_end_the_connection_and_nothing_else() {
    let mut bench = Bench::start();
    let fields = block(&good());
    let whole = END_STREAM | END_HEADERS;
    let setting = |id: u16, value: u32| [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat();
    let window = |stream, by: u32| frame(WINDOW_UPDATE, 0, stream, by.to_be_bytes());
    let open = frame(HEADERS, END_HEADERS, 1, &fields);
    let then = |bytes: Vec<u8>| [open.clone(), bytes].concat();
    for (case, sent) in [
        ("HEADERS on stream 0", frame(HEADERS, whole, 0, &fields)),
        ("HEADERS on an even stream", frame(HEADERS, whole, 2, &fields)),
        ("a stream that goes back", [get(5, "/five"), frame(HEADERS, whole, 3, &fields)].concat()),
        ("DATA on stream 0", frame(DATA, 0, 0, "x")),
        ("DATA on an idle stream", frame(DATA, END_STREAM, 1, "x")),
        ("DATA within a head", [frame(HEADERS, END_STREAM, 1, &fields), frame(DATA, 0, 1, "x")].concat()),
        (
            "another head within a head",
            [frame(HEADERS, END_STREAM, 1, &fields), frame(HEADERS, whole, 3, &fields)].concat(),
        ),
        (
            "a CONTINUATION of another stream",
            [frame(HEADERS, END_STREAM, 1, &fields), frame(CONTINUATION, END_HEADERS, 3, "")].concat(),
        ),
        ("a CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, 1, &fields)),
        (
            "a PING within a head",
            [frame(HEADERS, END_STREAM, 1, &fields), frame(PING, 0, 0, [0; 8])].concat(),
        ),
        ("a frame too large", frame(DATA, 0, 1, vec![0; 16_385])),
        ("a head too large for a frame", frame(HEADERS, whole, 1, vec![0; 20_000])),
        ("PUSH_PROMISE", frame(PUSH_PROMISE, END_HEADERS, 1, [0, 0, 0, 2])),
        ("RST_STREAM of an idle stream", frame(RST_STREAM, 0, 1, [0; 4])),
        ("RST_STREAM on stream 0", frame(RST_STREAM, 0, 0, [0; 4])),
        ("RST_STREAM of three bytes", then(frame(RST_STREAM, 0, 1, [0; 3]))),
        ("PING of seven bytes", frame(PING, 0, 0, [0; 7])),
        ("PING on a stream", frame(PING, 0, 1, [0; 8])),
        ("SETTINGS on a stream", frame(SETTINGS, 0, 1, "")),
        ("SETTINGS of five bytes", frame(SETTINGS, 0, 0, [0; 5])),
        ("SETTINGS acknowledged with a payload", frame(SETTINGS, ACK, 0, [0; 6])),
        ("ENABLE_PUSH of 2", frame(SETTINGS, 0, 0, setting(2, 2))),
        ("a window beyond its maximum", frame(SETTINGS, 0, 0, setting(4, 1 << 31))),
        ("a frame size below its minimum", frame(SETTINGS, 0, 0, setting(5, 1))),
        ("a frame size beyond its maximum", frame(SETTINGS, 0, 0, setting(5, 1 << 24))),
        ("WINDOW_UPDATE by 0", window(0, 0)),
        ("WINDOW_UPDATE of three bytes", frame(WINDOW_UPDATE, 0, 0, [0; 3])),
        ("WINDOW_UPDATE of an idle stream", window(1, 1)),
        ("a window of the connection that overflows", window(0, (1 << 31) - 1)),
        ("GOAWAY on a stream", frame(GOAWAY, 0, 1, [0; 8])),
        ("GOAWAY too short", frame(GOAWAY, 0, 0, [0; 4])),
        ("an index of nothing", frame(HEADERS, whole, 1, [0x80])),
        ("an index beyond the table", frame(HEADERS, whole, 1, [0xff, 0x80, 0x01])),
        ("an endless integer", frame(HEADERS, whole, 1, [0xff; 64])),
        ("a table larger than allowed", frame(HEADERS, whole, 1, [0x3f, 0xe1, 0xff, 0x03])),
        ("a string longer than the block", frame(HEADERS, whole, 1, [0x00, 0x05, b'a'])),
        ("bad Huffman code", frame(HEADERS, whole, 1, [0x00, 0x84, 0xff, 0xff, 0xff, 0xff, 0x00])),
        ("padding longer than a head", frame(HEADERS, whole | PADDED, 1, [200, 0x82])),
        ("a second preface", PREFACE.to_vec()),
        ("HTTP/1.1 in the middle", b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\nGET / HTTP/1.1\r\n\r\n".repeat(9)),
        (
            "more DATA than the window of the stream",
            then((0..70).map(|_| frame(DATA, 0, 3, vec![0; 16_384])).collect::<Vec<_>>().concat()),
        ),
    ] {
        bench.check(case, sent, &Fatal);
    }
    for (case, sent) in [
        (
            "a window of a stream that overflows",
            [frame(HEADERS, END_HEADERS, 1, block(&instead(b":method", b"POST"))), window(1, (1 << 31) - 1)]
                .concat(),
        ),
        (
            "a stream that depends on itself",
            frame(HEADERS, whole | PRIORITISED, 1, [&[0, 0, 0, 1, 9][..], &fields].concat()),
        ),
    ] {
        bench.check(case, sent, &Malformed);
    }
    let passed = || Passed("GET /x HTTP/1.1\nhost: a.test\n\n");
    for (case, sent) in [
        ("an unknown frame", [frame(0x42, 0xff, 77, "what"), head(&good())].concat()),
        ("an unknown setting", [frame(SETTINGS, 0, 0, setting(0x4242, 7)), head(&good())].concat()),
        ("PRIORITY of an idle stream", [frame(PRIORITY, 0, 9, [0, 0, 0, 0, 1]), head(&good())].concat()),
        (
            "a head in many frames",
            [
                frame(HEADERS, END_STREAM, 1, &fields[..3]),
                frame(CONTINUATION, 0, 1, &fields[3..9]),
                frame(CONTINUATION, END_HEADERS, 1, &fields[9..]),
            ]
            .concat(),
        ),
        ("a padded head", frame(HEADERS, whole | PADDED, 1, [&[3][..], &fields, &[0; 3]].concat())),
        (
            "a head with a priority",
            frame(HEADERS, whole | PRIORITISED, 1, [&[0, 0, 0, 0, 9][..], &fields].concat()),
        ),
        ("a PING first", [frame(PING, 0, 0, [7; 8]), head(&good())].concat()),
    ] {
        bench.check(case, sent, &passed());
    }
    bench.finish(45);
}

/// The most that a hostile client may make the gateway grow by, in KiB.
const GROWTH_MAX: usize = 48 * 1024;

fn resident(gateway: &Gateway) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.process())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn connections(gateway: &Gateway) -> usize {
    let metrics = gateway.metrics();
    let line = metrics.lines().find_map(|line| line.strip_prefix("portcullis_connections{} "));
    line.expect("the gauge of connections").parse::<f64>().unwrap() as usize
}

/// Sends `piece` (given the number of its turn) until the gateway has had enough, and how often that was; the gateway
/// must be as well as before, and never have grown much.
fn flood(case: &str, turns: u32, ends: bool, piece: impl Fn(u32) -> Vec<u8>) {
    let bench = Bench::start();
    bench.settle_after().unwrap();
    let before = resident(&bench.gateway);
    let mut client = Frames::open(bench.gateway.address());
    let done = (0..turns).find(|&turn| !client.send(piece(turn)));
    let ended = match done {
        Some(_) => true,
        None if ends => matches!(client.end_of(u32::MAX), Ended::Goaway(_) | Ended::Closed),
        None => false,
    };
    let grown = resident(&bench.gateway).saturating_sub(before);
    assert!(grown < GROWTH_MAX, "{case}: {grown} KiB more");
    assert_eq!(ended, ends, "{case}: whether the connection was ended ({done:?})");
    let mut other = Frames::open(bench.gateway.address());
    other.send(get(1, "/other"));
    assert_eq!(other.end_of(1), Ended::Answered("ok".to_owned()), "{case}");
    drop(client);
    wait_for("the connection to be let go", || (connections(&bench.gateway) <= 1).then_some(()));
}

fn number(turn: u32) -> u32 {
    2 * turn + 1
}

#[test]
fn a_head_of_endless_continuations_is_cut_off() {
    let begun = frame(HEADERS, END_STREAM, 1, block(&good()));
    flood(
        "empty ones",
        200_000,
        true,
        |turn| if turn == 0 { begun.clone() } else { frame(CONTINUATION, 0, 1, "") },
    );
    let more = block(&[("x", "y".repeat(1000))]);
    flood("full ones", 20_000, true, |turn| {
        if turn == 0 { begun.clone() } else { frame(CONTINUATION, 0, 1, &more) }
    });
}

#[test]
fn a_small_block_that_stands_for_a_large_head_is_refused() {
    let mut bench = Bench::start();
    // One large field into the table, then a thousand references to it, a byte each.
    let mut bomb = block(&good());
    bomb.extend_from_slice(&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    bomb.extend(std::iter::repeat_n(b'y', 4000));
    bomb.extend(std::iter::repeat_n(0xbe, 10_000));
    let before = resident(&bench.gateway);
    bench.check("bomb", frame(HEADERS, END_STREAM | END_HEADERS, 1, bomb), &Fatal);
    let grown = resident(&bench.gateway).saturating_sub(before);
    assert!(grown < GROWTH_MAX, "{grown} KiB more");
    bench.finish(1);
}

#[test]
fn streams_that_are_opened_and_reset_end_the_connection() {
    // CVE-2023-44487: at once, so that nobody has come to them yet, and one after the other.
    flood("rapid reset", 100_000, true, |turn| {
        [get(number(turn), "/x"), frame(RST_STREAM, 0, number(turn), [0, 0, 0, 8])].concat()
    });
    flood("slower resets", 20_000, true, |turn| {
        if turn % 2 == 0 {
            return get(number(turn / 2), "/x");
        }
        std::thread::sleep(std::time::Duration::from_micros(300));
        frame(RST_STREAM, 0, number(turn / 2), [0, 0, 0, 8])
    });
}

#[test]
fn a_client_that_makes_us_reset_its_streams_is_hung_up_on() {
    // CVE-2025-8671: the request is good, what follows makes the server reset the stream.
    flood("made you reset", 100_000, true, |turn| {
        let stream = number(turn);
        [get(stream, "/x"), frame(WINDOW_UPDATE, 0, stream, [0; 4])].concat()
    });
    flood("bodies too long", 100_000, true, |turn| {
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "a.test"),
            (":path", "/"),
            ("content-length", "0"),
        ];
        let stream = number(turn);
        [frame(HEADERS, END_HEADERS, stream, block(&fields)), frame(DATA, END_STREAM, stream, "x")].concat()
    });
}

#[test]
fn frames_that_cost_the_sender_nothing_are_bounded() {
    let open = frame(HEADERS, END_HEADERS, 1, block(&instead(b":method", b"POST")));
    flood("empty DATA", 100_000, true, |turn| if turn == 0 { open.clone() } else { frame(DATA, 0, 1, "") });
    // Whoever does not read the acknowledgements is not read from any more; who does costs what a request costs.
    flood("PRIORITY", 100_000, false, |_| frame(PRIORITY, 0, 7, [0, 0, 0, 0, 1]));
    flood("unknown frames", 100_000, false, |_| frame(0x77, 0, 7, "x"));
    flood("WINDOW_UPDATE", 100_000, false, |_| frame(WINDOW_UPDATE, 0, 0, [0, 0, 0, 1]));
}

#[test]
fn a_client_that_asks_for_answers_and_takes_none_holds_no_memory() {
    for (case, piece) in [
        ("PING", frame(PING, 0, 0, [1; 8]).repeat(64)),
        ("SETTINGS", frame(SETTINGS, 0, 0, [0, 3, 0, 0, 0, 100]).repeat(64)),
    ] {
        let bench = Bench::start();
        bench.settle_after().unwrap();
        let before = resident(&bench.gateway);
        let client = Frames::open(bench.gateway.address());
        client.hurry();
        let mut client = client;
        let mut sent = 0;
        while sent < 8 << 20 && client.send(&piece) {
            sent += piece.len();
        }
        let grown = resident(&bench.gateway).saturating_sub(before);
        assert!(grown < GROWTH_MAX, "{case}: {grown} KiB more after {sent} bytes");
        let mut other = Frames::open(bench.gateway.address());
        other.send(get(1, "/other"));
        assert_eq!(other.end_of(1), Ended::Answered("ok".to_owned()), "{case}");
    }
}

#[test]
fn resets_name_what_was_wrong() {
    let bench = Bench::start();
    let ended = |bytes: Vec<u8>| {
        let mut client = Frames::open(bench.gateway.address());
        client.send(bytes);
        client.end_of(1)
    };
    assert!(matches!(ended(head(&and(b"connection", b"close"))), Ended::Reset(PROTOCOL_ERROR, _)));
    assert_eq!(
        ended(frame(WINDOW_UPDATE, 0, 0, [0x7f, 0xff, 0xff, 0xff])),
        Ended::Goaway(FLOW_CONTROL_ERROR)
    );
    assert_eq!(ended(frame(DATA, 0, 0, "x")), Ended::Goaway(PROTOCOL_ERROR));
}

/// hyper takes a reset by CANCEL or NO_ERROR for the end of a body: half an upload was all of it to the upstream.
#[test]
fn an_upload_that_is_reset_never_becomes_a_whole_request() {
    let bench = Bench::start();
    for turn in 0..40_usize {
        let mut client = Frames::open(bench.gateway.address());
        let before = bench.recorder.reads();
        client.send(post(&[], &[frame(DATA, 0, 1, "half")]));
        if turn % 2 == 0 {
            wait_for("the upstream to have some", || (bench.recorder.reads() > before).then_some(()));
        }
        let code = if turn % 4 < 2 { 0 } else { 8 };
        client.send(frame(RST_STREAM, 0, 1, [0, 0, 0, code]));
        // The connection goes on.
        client.send(get(3, "/next"));
        assert_eq!(client.end_of(3), Ended::Answered("ok".to_owned()));
    }
    wait_for("the upstream to see the ends", || (bench.recorder.cut() >= 20).then_some(()));
    bench.recorder.settle(40);
    assert!(bench.recorder.requests(0, 40).iter().all(|request| request.line.starts_with("GET ")));
}

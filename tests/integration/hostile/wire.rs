//! The tools of these tests: an upstream that writes down every byte, a parser that takes nothing but what RFC 9112
//! says, and two that others wrote, which must agree with it.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::support::{Upstream, python, wait_for};

/// A request or an answer as the strict parser reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Its first line, without the line end.
    pub(crate) line: String,
    /// In order; names as they came, white space around values gone.
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    pub(crate) chunked: bool,
}

impl Message {
    /// Every value of a field.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        let named = self.fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
        named.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }
}

/// The first message in `bytes` and its length; `None` where it goes on. Takes the grammar of RFC 9112 literally: no
/// lone LF, no folding, no white space before a colon, one framing, one host, no chunk extension, no trailers.
pub(crate) fn strict(bytes: &[u8]) -> Result<Option<(Message, usize)>, String> {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        return match bytes.iter().position(|&byte| byte == 0 || byte >= 0x80) {
            Some(at) if at < 3 => Err(format!("no HTTP at {at}")),
            _ => Ok(None),
        };
    };
    let head = &bytes[..end];
    let mut lines = Vec::new();
    let mut rest = head;
    loop {
        let at = find(rest, b"\r\n").unwrap_or(rest.len());
        lines.push(&rest[..at]);
        if at == rest.len() {
            break;
        }
        rest = &rest[at + 2..];
    }
    for line in &lines {
        if let Some(bad) = line.iter().find(|&&byte| byte < 0x20 && byte != b'\t' || byte == 0x7f) {
            return Err(format!("byte {bad} in {}", line.escape_ascii()));
        }
    }
    let first = text(lines[0])?;
    let request = !first.starts_with("HTTP/");
    if request {
        request_line(&first)?;
    }
    let mut fields = Vec::new();
    for line in &lines[1..] {
        let colon = line.iter().position(|&byte| byte == b':').ok_or("a line without a colon")?;
        let name = text(&line[..colon])?;
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(format!("the name {name:?}"));
        }
        fields.push((name, line[colon + 1..].trim_ascii().to_vec()));
    }
    let mut message = Message { line: first, fields, body: Vec::new(), chunked: false };
    let (hosts, lengths) = (message.all("host"), message.all("content-length"));
    let codings = message.all("transfer-encoding");
    if request && hosts.len() != 1 {
        return Err(format!("{} hosts", hosts.len()));
    }
    let at = end + 4;
    let length = match (&lengths[..], &codings[..]) {
        ([], []) => 0,
        ([length], []) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {
            length.parse::<usize>().map_err(|error| error.to_string())?
        }
        ([], [coding]) if coding == "chunked" => {
            message.chunked = true;
            return Ok(chunks(&bytes[at..])?.map(|(body, length)| (Message { body, ..message }, at + length)));
        }
        both => return Err(format!("the framing {both:?}")),
    };
    if bytes.len() < at + length {
        return Ok(None);
    }
    message.body = bytes[at..at + length].to_vec();
    Ok(Some((message, at + length)))
}

fn request_line(line: &str) -> Result<(), String> {
    let parts: Vec<&str> = line.split(' ').collect();
    let [method, target, "HTTP/1.1"] = parts[..] else { return Err(format!("the line {line:?}")) };
    if method.is_empty() || !method.bytes().all(is_token) {
        return Err(format!("the method {method:?}"));
    }
    let path = target.starts_with('/') || target == "*";
    if !path || !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(format!("the target {target:?}"));
    }
    Ok(())
}

fn chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = find(&bytes[at..], b"\r\n") else { return Ok(None) };
        let digits = text(&bytes[at..at + end])?;
        if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("the chunk size {digits:?}"));
        }
        let size = usize::from_str_radix(&digits, 16).map_err(|error| error.to_string())?;
        at += end + 2;
        let Some(chunk) = bytes.get(at..at + size + 2) else { return Ok(None) };
        if &chunk[size..] != b"\r\n" {
            return Err("a chunk that does not end where it says, or a trailer".to_owned());
        }
        body.extend_from_slice(&chunk[..size]);
        at += size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}

fn text(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| format!("not ASCII: {}", bytes.escape_ascii()))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// An upstream that writes down every byte that reaches it, and answers each whole request with `ok`.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    upstream: Upstream,
    log: Arc<Mutex<Log>>,
}

#[derive(Debug, Default)]
struct Log {
    /// Whole requests, as they came, with what was read in them.
    whole: Vec<(Vec<u8>, Message)>,
    /// Requests that ended before their end.
    cut: Vec<Vec<u8>>,
    reads: usize,
    /// What no strict reader takes.
    wrong: Vec<String>,
}

impl Recorder {
    pub(crate) fn start() -> Self {
        Self::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    }

    /// Answers each whole request with these bytes (without the last two for HEAD).
    pub(crate) fn answering(answer: &'static str) -> Self {
        let log = Arc::new(Mutex::new(Log::default()));
        let written = log.clone();
        let upstream = Upstream::raw(move |mut stream, _| {
            let mut buffer = Vec::new();
            loop {
                match strict(&buffer) {
                    Ok(Some((message, length))) => {
                        let head = message.line.starts_with("HEAD ");
                        let bytes = buffer.drain(..length).collect();
                        written.lock().unwrap().whole.push((bytes, message));
                        let answer = if head { &answer[..answer.len() - 2] } else { answer };
                        if stream.write_all(answer.as_bytes()).is_err() {
                            return;
                        }
                        continue;
                    }
                    Ok(None) => {}
                    Err(why) => {
                        written.lock().unwrap().wrong.push(format!("{why}: {}", buffer.escape_ascii()));
                        let _ = stream.shutdown(Shutdown::Both);
                        return;
                    }
                }
                let mut block = [0; 16 * 1024];
                match stream.read(&mut block) {
                    Ok(count) if count > 0 => {
                        buffer.extend_from_slice(&block[..count]);
                        written.lock().unwrap().reads += 1;
                    }
                    _ => {
                        if !buffer.is_empty() {
                            written.lock().unwrap().cut.push(buffer);
                        }
                        return;
                    }
                }
            }
        });
        Self { upstream, log }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.upstream.address()
    }

    /// Whole requests so far.
    pub(crate) fn count(&self) -> usize {
        self.log.lock().unwrap().whole.len()
    }

    /// How often something came so far.
    pub(crate) fn reads(&self) -> usize {
        self.log.lock().unwrap().reads
    }

    /// Requests that ended before their end.
    pub(crate) fn cut(&self) -> usize {
        self.log.lock().unwrap().cut.len()
    }

    /// Those from `from` on, as soon as there are so many.
    #[track_caller]
    pub(crate) fn requests(&self, from: usize, count: usize) -> Vec<Message> {
        let taken = wait_for("requests at the upstream", || {
            let log = self.log.lock().unwrap();
            assert!(log.wrong.is_empty(), "the upstream cannot read {:#?}", log.wrong);
            let new = log.whole.get(from..)?;
            (new.len() >= count).then(|| new.iter().map(|(_, message)| message.clone()).collect::<Vec<_>>())
        });
        assert_eq!(taken.len(), count, "{taken:#?}");
        taken
    }

    /// That nothing came that a strict reader does not take, that httparse and h11 read every whole request as the
    /// strict parser does, and that there were so many. How many began and never ended.
    pub(crate) fn settle(&self, whole: usize) -> usize {
        let log = self.log.lock().unwrap();
        assert!(log.wrong.is_empty(), "the upstream cannot read {:#?}", log.wrong);
        let lines: Vec<&str> = log.whole.iter().map(|(_, message)| message.line.as_str()).collect();
        assert_eq!(lines.len(), whole, "{lines:#?}");
        for (bytes, message) in &log.whole {
            by_httparse(bytes, message);
        }
        by_h11(&log.whole);
        log.cut.len()
    }
}

/// httparse, hyper's own parser, and what it makes of the head.
fn by_httparse(bytes: &[u8], message: &Message) {
    let mut fields = [httparse::EMPTY_HEADER; 200];
    let mut request = httparse::Request::new(&mut fields);
    let shown = bytes.escape_ascii();
    let parsed = request.parse(bytes).unwrap_or_else(|error| panic!("httparse: {error} in {shown}"));
    assert!(matches!(parsed, httparse::Status::Complete(_)), "httparse wants more of {shown}");
    let line = format!("{} {} HTTP/1.1", request.method.unwrap(), request.path.unwrap());
    assert_eq!((line, request.version), (message.line.clone(), Some(1)), "{shown}");
    let fields: Vec<_> =
        request.headers.iter().map(|field| (field.name.to_owned(), field.value.to_vec())).collect();
    assert_eq!(fields, message.fields, "{shown}");
}

/// h11 (PyPI), a parser of another family, for all of them in one go: bodies and ends, too.
fn by_h11(requests: &[(Vec<u8>, Message)]) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/hostile");
    let python = python::with("hostile", &here.join("requirements.txt"));
    let mut child = Command::new(python)
        .arg(here.join("read.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let sent: String = requests.iter().map(|(bytes, _)| hex(bytes) + "\n").collect();
    let writer = std::thread::spawn(move || input.write_all(sent.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let read: Vec<Value> = output
        .stdout
        .split(|&byte| byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    assert_eq!(read.len(), requests.len(), "h11 gave up: {}", String::from_utf8_lossy(&output.stdout));
    for ((bytes, message), read) in requests.iter().zip(read) {
        let fields: Vec<Value> = message
            .fields
            .iter()
            .map(|(name, value)| serde_json::json!([name.to_lowercase(), hex(value)]))
            .collect();
        let expected = serde_json::json!({
            "line": message.line, "fields": fields, "body": hex(&message.body), "rest": "",
        });
        assert_eq!(read, expected, "h11 reads {} otherwise", bytes.escape_ascii());
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

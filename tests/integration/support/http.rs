//! A raw HTTP/1.1 client: sends exactly the bytes it is told to, and tells exactly what came back.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Instant;

use serde_json::Value;

use super::wait::DEADLINE;

/// One connection; requests go out as raw bytes, answers come in one by one.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// One whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names as they came, in order.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// False when the connection ended before the framing said so.
    pub(crate) complete: bool,
    /// Interim answers before it, such as 100.
    pub(crate) interim: Vec<u16>,
}

/// The head of an answer, its body still to come.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Self {
        Self::connect(address).unwrap_or_else(|error| panic!("connect to {address}: {error}"))
    }

    /// Where nobody may be listening any more.
    pub(crate) fn try_open(address: SocketAddr) -> Option<Self> {
        Self::connect(address).ok()
    }

    fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Sends these bytes. A peer that has closed already is no failure here: its answer is what matters.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// No more bytes follow from us.
    pub(crate) fn finish(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The next answer to a request with this method, body included.
    pub(crate) fn answer(&mut self, method: &str) -> Answer {
        let mut interim = Vec::new();
        let head = loop {
            let head = self.head();
            if !(100..200).contains(&head.status) || head.status == 101 {
                break head;
            }
            interim.push(head.status);
        };
        let bodiless = method == "HEAD" || matches!(head.status, 101 | 204 | 304);
        let (body, complete) = if bodiless { (Vec::new(), true) } else { self.body(&head) };
        Answer { status: head.status, headers: head.headers, body, complete, interim }
    }

    /// The next head, interim ones included.
    pub(crate) fn head(&mut self) -> Head {
        self.try_head().unwrap_or_else(|| {
            panic!("no whole head came, only {:?}", String::from_utf8_lossy(&self.buffer));
        })
    }

    /// The next head, unless the connection ends or the deadline passes before it.
    fn try_head(&mut self) -> Option<Head> {
        loop {
            if let Some((head, length)) = parse_head(&self.buffer) {
                self.buffer.drain(..length);
                return Some(head);
            }
            if !self.read_more().unwrap_or(false) {
                return None;
            }
        }
    }

    /// Reads until `done` says of everything read and not yet consumed that it is enough.
    pub(crate) fn read_until(&mut self, what: &str, done: impl Fn(&[u8]) -> bool) {
        assert!(self.came(done), "no more bytes while waiting for {what}");
    }

    /// The same; false when the connection ends or the deadline passes before it is enough.
    pub(crate) fn came(&mut self, done: impl Fn(&[u8]) -> bool) -> bool {
        while !done(&self.buffer) {
            if !self.read_more().unwrap_or(false) {
                return false;
            }
        }
        true
    }

    /// Whether the peer ends the connection before the deadline; bytes that come before are kept.
    pub(crate) fn closed(&mut self) -> bool {
        let started = Instant::now();
        while started.elapsed() < DEADLINE {
            match self.read_more() {
                Ok(true) => {}
                Ok(false) => return true,
                Err(error) => {
                    return !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
                }
            }
        }
        false
    }

    /// What has come beyond the last answer.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.buffer
    }

    fn body(&mut self, head: &Head) -> (Vec<u8>, bool) {
        let chunked =
            find(&head.headers, "transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"));
        if chunked {
            return self.chunks();
        }
        match find(&head.headers, "content-length") {
            Some(length) => {
                let length: usize = length.parse().expect("a number in content-length");
                while self.buffer.len() < length {
                    if !self.read_more().unwrap_or(false) {
                        return (std::mem::take(&mut self.buffer), false);
                    }
                }
                (self.buffer.drain(..length).collect(), true)
            }
            None => {
                while self.read_more().unwrap_or(false) {}
                (std::mem::take(&mut self.buffer), true)
            }
        }
    }

    fn chunks(&mut self) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        loop {
            let Some(line) = self.line() else { return (body, false) };
            let digits = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(digits, 16).expect("a chunk size");
            if size == 0 {
                while let Some(line) = self.line() {
                    if line.is_empty() {
                        return (body, true);
                    }
                }
                return (body, false);
            }
            while self.buffer.len() < size + 2 {
                if !self.read_more().unwrap_or(false) {
                    body.append(&mut self.buffer);
                    return (body, false);
                }
            }
            body.extend(self.buffer.drain(..size));
            self.buffer.drain(..2);
        }
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if !self.read_more().unwrap_or(false) {
                return None;
            }
        }
    }

    fn read_more(&mut self) -> io::Result<bool> {
        let mut block = [0; 16 * 1024];
        let count = self.stream.read(&mut block)?;
        self.buffer.extend_from_slice(&block[..count]);
        Ok(count > 0)
    }
}

fn parse_head(bytes: &[u8]) -> Option<(Head, usize)> {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => {
            let status = response.code.expect("a whole head has a status");
            let headers = response
                .headers
                .iter()
                .map(|field| (field.name.to_owned(), String::from_utf8_lossy(field.value).into_owned()))
                .collect();
            Some((Head { status, headers }, length))
        }
        Ok(httparse::Status::Partial) => None,
        Err(error) => panic!("not HTTP ({error}): {:?}", String::from_utf8_lossy(bytes)),
    }
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

impl Head {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in the body of {}: {}", self.status, self.text()))
    }

    /// `code` of a problem document; empty when the body is none.
    pub(crate) fn code(&self) -> String {
        serde_json::from_slice::<Value>(&self.body)
            .ok()
            .and_then(|body| body["code"].as_str().map(str::to_owned))
            .unwrap_or_default()
    }

    /// Status and `code`, for tables.
    pub(crate) fn verdict(&self) -> (u16, String) {
        (self.status, self.code())
    }

    /// Fails, showing the body, unless the status is this one.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// Fails unless this is a whole problem document with this status and code (CONTRACT §4).
    #[track_caller]
    pub(crate) fn expect_problem(self, status: u16, code: &str) -> Self {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let body = self.json();
        assert_eq!(body["type"], format!("urn:portcullis:error:{code}"));
        assert_eq!(body["status"], status);
        for member in ["title", "detail", "request_id"] {
            assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {body}");
        }
        self
    }
}

/// One request over a connection of its own.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    address: SocketAddr,
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Call {
    pub(crate) fn new(address: SocketAddr, method: &str, target: &str) -> Self {
        let headers = vec![("Host".to_owned(), "gateway.test".to_owned())];
        Self { address, method: method.to_owned(), target: target.to_owned(), headers, body: None }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self.header("Content-Type", content_type)
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.body("application/json", body.to_string())
    }

    pub(crate) fn form(self, fields: &[(&str, &str)]) -> Self {
        let text: Vec<String> = fields.iter().map(|(n, v)| format!("{}={}", form(n), form(v))).collect();
        self.body("application/x-www-form-urlencoded", text.join("&"))
    }

    /// The request as it goes over the wire.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = &self.body {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }

    pub(crate) fn send(&self) -> Answer {
        self.send_on(&mut Connection::open(self.address))
    }

    /// Over a connection of its own, where the other side may die at any moment: `None` unless the whole answer came.
    pub(crate) fn try_send(&self) -> Option<Answer> {
        self.try_send_on(&mut Connection::try_open(self.address)?)
    }

    /// The same over a connection that stays open.
    pub(crate) fn try_send_on(&self, connection: &mut Connection) -> Option<Answer> {
        connection.stream.write_all(&self.bytes()).ok()?;
        let head = connection.try_head()?;
        let (body, complete) = connection.body(&head);
        let answer =
            Answer { status: head.status, headers: head.headers, body, complete, interim: Vec::new() };
        complete.then_some(answer)
    }

    /// Over a connection that stays open.
    pub(crate) fn send_on(&self, connection: &mut Connection) -> Answer {
        connection.send(self.bytes());
        connection.answer(&self.method)
    }
}

/// One field of `application/x-www-form-urlencoded`.
fn form(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => {
                char::from(byte).to_string()
            }
            b' ' => "+".to_owned(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// One path segment or query value, everything but unreserved characters encoded.
pub(crate) fn encoded(text: &str) -> String {
    form(text).replace('+', "%20").replace('*', "%2A")
}

//! Scripted upstreams: real sockets, a thread per connection, and a record of everything that reached them.

use std::io::{Read, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use super::wait::{DEADLINE, wait_for};

/// An upstream that runs as long as its test.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    connections: Arc<AtomicUsize>,
}

/// One request exactly as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) line: String,
    /// In order, names as they came.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<String>,
}

/// What a scripted upstream answers.
pub(crate) enum Reply {
    /// A status, fields, and a body with its length.
    Full(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// These bytes; the connection stays open.
    Raw(Vec<u8>),
}

impl Upstream {
    /// Answers every request with what reached it, as JSON: `line`, `headers`, `body`, `trailers`.
    pub(crate) fn echo() -> Self {
        Self::new(|received| Reply::json(&received.to_json()))
    }

    /// Answers whole requests by `reply`.
    pub(crate) fn new(reply: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        let received = Arc::new(Mutex::new(Vec::new()));
        let record = received.clone();
        let upstream = Self::raw(move |mut stream, _| {
            let mut buffer = Vec::new();
            while let Some(request) = receive(&mut stream, &mut buffer) {
                let reply = reply(&request);
                let head = request.line.starts_with("HEAD ");
                record.lock().unwrap().push(request);
                if !reply.write(&mut stream, head) {
                    break;
                }
            }
            let _ = stream.shutdown(Shutdown::Both);
        });
        Self { received, ..upstream }
    }

    /// Hands over each connection, with its number from 0.
    pub(crate) fn raw(serve: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (serve, count) = (Arc::new(serve), connections.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let number = count.fetch_add(1, Ordering::SeqCst);
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                stream.set_nodelay(true).unwrap();
                let serve = serve.clone();
                thread::spawn(move || serve(stream, number));
            }
        });
        Self { address, received: Arc::default(), connections }
    }

    /// An address where nobody listens.
    pub(crate) fn nobody() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whole requests so far, of upstreams made by `echo` and `new`.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// The last request, as soon as there are so many.
    pub(crate) fn nth(&self, count: usize) -> Received {
        wait_for("a request at the upstream", || self.received().get(count - 1).cloned())
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Received {
    /// The request target as it arrived.
    pub(crate) fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    /// Every value of a field.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }

    /// The only value of a field; none and several both fail.
    #[track_caller]
    pub(crate) fn one(&self, name: &str) -> &str {
        let values = self.all(name);
        assert_eq!(values.len(), 1, "{name} in {:?}", self.headers);
        values[0]
    }

    /// Whether any spelling of this name is there: `_` is `-`, and case does not count.
    pub(crate) fn folded(&self, name: &str) -> bool {
        let fold = |text: &str| text.to_ascii_lowercase().replace('_', "-");
        self.headers.iter().any(|(n, _)| fold(n) == fold(name))
    }

    fn to_json(&self) -> Value {
        json!({
            "line": self.line,
            "headers": self.headers,
            "body": String::from_utf8_lossy(&self.body),
            "trailers": self.trailers,
        })
    }
}

impl Reply {
    pub(crate) fn json(body: &Value) -> Self {
        Self::Full(200, vec![("Content-Type", "application/json".to_owned())], body.to_string().into_bytes())
    }

    /// Writes itself; whether the connection goes on.
    fn write(self, stream: &mut TcpStream, head: bool) -> bool {
        match self {
            Self::Full(status, fields, body) => {
                let mut text = format!("HTTP/1.1 {status} Scripted\r\n");
                for (name, value) in fields {
                    text.push_str(&format!("{name}: {value}\r\n"));
                }
                if !matches!(status, 204 | 304) {
                    text.push_str(&format!("Content-Length: {}\r\n", body.len()));
                }
                text.push_str("\r\n");
                let mut bytes = text.into_bytes();
                if !head && !matches!(status, 204 | 304) {
                    bytes.extend_from_slice(&body);
                }
                stream.write_all(&bytes).is_ok()
            }
            Self::Raw(bytes) => stream.write_all(&bytes).is_ok(),
        }
    }
}

/// The next whole request of a connection; `None` at its end.
pub(crate) fn receive(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Received> {
    let (line, headers) = receive_head(stream, buffer)?;
    let mut received = Received { line, headers, body: Vec::new(), trailers: Vec::new() };
    if received.all("transfer-encoding").iter().any(|value| value.eq_ignore_ascii_case("chunked")) {
        loop {
            let size = take_line(stream, buffer)?;
            let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
            if size == 0 {
                break;
            }
            received.body.extend(take(stream, buffer, size)?);
            take(stream, buffer, 2)?;
        }
        loop {
            let line = take_line(stream, buffer)?;
            if line.is_empty() {
                break;
            }
            received.trailers.push(line);
        }
    } else if let Some(length) = received.all("content-length").first() {
        let length = length.parse().ok()?;
        received.body = take(stream, buffer, length)?;
    }
    Some(received)
}

/// The next request head of a connection: its first line and its fields.
pub(crate) fn receive_head(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
) -> Option<(String, Vec<(String, String)>)> {
    let line = take_line(stream, buffer)?;
    let mut headers = Vec::new();
    loop {
        let field = take_line(stream, buffer)?;
        if field.is_empty() {
            return Some((line, headers));
        }
        let (name, value) = field.split_once(':')?;
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

/// So many bytes of a connection.
pub(crate) fn take(stream: &mut TcpStream, buffer: &mut Vec<u8>, count: usize) -> Option<Vec<u8>> {
    while buffer.len() < count {
        more(stream, buffer)?;
    }
    Some(buffer.drain(..count).collect())
}

/// The next request head of a connection of another kind, as it came.
pub(crate) fn receive_head_of(stream: &mut impl Read) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count > 0) {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

fn take_line(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = buffer.windows(2).position(|pair| pair == b"\r\n") {
            let line: Vec<u8> = buffer.drain(..end + 2).collect();
            return Some(String::from_utf8_lossy(&line[..end]).into_owned());
        }
        more(stream, buffer)?;
    }
}

fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    let mut block = [0; 16 * 1024];
    match stream.read(&mut block) {
        Ok(count) if count > 0 => {
            buffer.extend_from_slice(&block[..count]);
            Some(())
        }
        _ => None,
    }
}

//! One line per answered request, written by a thread of its own. A worker writes its line into room that it keeps for
//! that, and copies it into a shared buffer; when standard output is too slow and the buffer is full, lines are dropped
//! and counted, never waited for. Lines gather for a moment before they are written, so that a busy gateway makes one
//! system call for hundreds of them, and none of its workers makes any but to end the writer's sleep.

use std::cell::RefCell;
use std::io::Write;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::Metrics;
use super::settings::AccessLogFormat;
use crate::clock::UnixTime;

/// Bytes that may wait for standard output.
const BUFFER_BYTES_MAX: usize = 4 << 20;
/// So many are written at once, without waiting for more.
const BATCH_BYTES: usize = 256 << 10;
/// How long lines gather.
const GATHER: Duration = Duration::from_millis(10);
/// Room for a line that a worker keeps; after a longer one it is given back.
const LINE_BYTES: usize = 4 << 10;

/// What one line says. No token, no query (it may hold secrets), no header but the user agent.
#[derive(Clone, Debug, Default)]
pub struct Record<'a> {
    /// When the head had been read.
    pub at: UnixTime,
    /// The request's id.
    pub request_id: &'a str,
    /// The client's address, as believed; `None` on a Unix socket.
    pub client: Option<IpAddr>,
    /// Method.
    pub method: &'a str,
    /// Host, in lower case.
    pub host: &'a str,
    /// Path, normalised where it was admitted.
    pub path: &'a str,
    /// Status of the answer.
    pub status: u16,
    /// Body bytes sent.
    pub bytes: u64,
    /// To the end of the answer.
    pub took: Duration,
    /// Which route, or `-`.
    pub route: &'a str,
    /// Which target served it.
    pub target: Option<&'a str>,
    /// Why we answered ourselves.
    pub code: Option<&'static str>,
    /// What enforcing would have answered, on a shadow route.
    pub shadow: Option<&'static str>,
    /// Issuer name of the token.
    pub issuer: Option<&'a str>,
    /// Subject of the token.
    pub subject: Option<&'a str>,
    /// `User-Agent`.
    pub user_agent: Option<&'a str>,
    /// Whether the answer ended before it was complete.
    pub aborted: bool,
}

/// The writer's handle. A clone shares the buffer.
#[derive(Clone)]
pub struct AccessLog {
    shared: Arc<Shared>,
    format: AccessLogFormat,
}

struct Shared {
    buffer: Mutex<Buffer>,
    filled: Condvar,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    closed: bool,
}

impl AccessLog {
    /// Starts the writing thread; it ends with the process, or after [`AccessLog::close`].
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(format: AccessLogFormat, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { buffer: Mutex::default(), filled: Condvar::new(), metrics });
        let writer = shared.clone();
        std::thread::Builder::new().name("access-log".into()).spawn(move || write_out(&writer))?;
        Ok(Self { shared, format })
    }

    /// The same writer with another format (after a reload).
    pub fn with_format(&self, format: AccessLogFormat) -> Self {
        Self { shared: self.shared.clone(), format }
    }

    /// Whether lines are written at all.
    pub fn is_on(&self) -> bool {
        self.format != AccessLogFormat::Off
    }

    /// Hands one line over. Takes a short lock; allocates nothing, once this thread has written a line.
    pub fn write(&self, record: &Record<'_>) {
        thread_local! {
            static LINE: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(LINE_BYTES));
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            match self.format {
                AccessLogFormat::Off => return,
                AccessLogFormat::Json => json(record, line),
                AccessLogFormat::Text => text(record, line),
            }
            self.hand_over(line);
            if line.capacity() > LINE_BYTES {
                *line = Vec::with_capacity(LINE_BYTES);
            }
        });
    }

    fn hand_over(&self, line: &[u8]) {
        let mut buffer = self.shared.buffer.lock().expect("nobody panics holding it");
        let before = buffer.bytes.len();
        if before + line.len() > BUFFER_BYTES_MAX {
            self.shared.metrics.access_lines_dropped.inc();
            return;
        }
        buffer.bytes.extend_from_slice(line);
        let full = before < BATCH_BYTES && buffer.bytes.len() >= BATCH_BYTES;
        drop(buffer);
        if before == 0 || full {
            self.shared.filled.notify_one();
        }
    }

    /// Writes what is left and ends the thread.
    pub fn close(&self) {
        self.shared.buffer.lock().expect("nobody panics holding it").closed = true;
        self.shared.filled.notify_one();
    }
}

fn write_out(shared: &Shared) {
    let mut taken = Vec::new();
    loop {
        let closed = {
            let buffer = shared.buffer.lock().expect("nobody panics holding it");
            let buffer = shared
                .filled
                .wait_while(buffer, |buffer| buffer.bytes.is_empty() && !buffer.closed)
                .expect("nobody panics holding it");
            let more = |buffer: &mut Buffer| buffer.bytes.len() < BATCH_BYTES && !buffer.closed;
            let (mut buffer, _) =
                shared.filled.wait_timeout_while(buffer, GATHER, more).expect("nobody panics holding it");
            std::mem::swap(&mut taken, &mut buffer.bytes);
            buffer.closed
        };
        let mut out = std::io::stdout().lock();
        // A closed standard output is no reason to stop serving.
        let _ = out.write_all(&taken).and_then(|()| out.flush());
        taken.clear();
        if closed {
            return;
        }
    }
}

fn json(record: &Record<'_>, line: &mut Vec<u8>) {
    line.extend_from_slice(b"{\"time\":\"");
    record.at.write_rfc3339(line);
    line.push(b'"');
    let field = |line: &mut Vec<u8>, name: &str, value: &str| {
        line.extend_from_slice(b",\"");
        line.extend_from_slice(name.as_bytes());
        line.extend_from_slice(b"\":");
        string(value, line);
    };
    field(line, "request_id", record.request_id);
    line.extend_from_slice(b",\"client\":\"");
    client(record, line);
    line.push(b'"');
    field(line, "method", record.method);
    field(line, "host", record.host);
    field(line, "path", record.path);
    field(line, "route", record.route);
    let optional = [
        ("target", record.target),
        ("code", record.code),
        ("shadow", record.shadow),
        ("issuer", record.issuer),
        ("subject", record.subject),
        ("user_agent", record.user_agent),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            field(line, name, value);
        }
    }
    line.extend_from_slice(b",\"status\":");
    number(record.status.into(), line);
    line.extend_from_slice(b",\"bytes\":");
    number(record.bytes, line);
    line.extend_from_slice(b",\"duration_ms\":");
    millis(record.took, line);
    if record.aborted {
        line.extend_from_slice(b",\"aborted\":true");
    }
    line.extend_from_slice(b"}\n");
}

/// A JSON string: as it is where nothing in it has to be escaped, which is nearly always.
fn string(text: &str, line: &mut Vec<u8>) {
    // Without a way out of the loop, the compiler takes many bytes at once.
    let escaped = |held, &byte: &u8| held | (byte < 0x20) | (byte == b'"') | (byte == b'\\');
    if text.as_bytes().iter().fold(false, escaped) {
        // Escapes quotes and every control byte; writing to memory does not fail.
        let _ = serde_json::to_writer(line, text);
        return;
    }
    line.push(b'"');
    line.extend_from_slice(text.as_bytes());
    line.push(b'"');
}

fn client(record: &Record<'_>, line: &mut Vec<u8>) {
    match record.client {
        None => line.push(b'-'),
        Some(IpAddr::V4(address)) => {
            for (index, octet) in address.octets().into_iter().enumerate() {
                if index > 0 {
                    line.push(b'.');
                }
                number(octet.into(), line);
            }
        }
        Some(address) => {
            let _ = write!(line, "{address}");
        }
    }
}

fn number(mut number: u64, line: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    line.extend_from_slice(&digits[at..]);
}

/// In milliseconds, with three decimals.
fn millis(took: Duration, line: &mut Vec<u8>) {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    number(micros / 1000, line);
    let rest = micros % 1000;
    line.extend_from_slice(&[b'.', digit(rest / 100), digit(rest / 10), digit(rest)]);
}

const fn digit(number: u64) -> u8 {
    b'0' + (number % 10) as u8
}

fn text(record: &Record<'_>, line: &mut Vec<u8>) {
    let plain =
        |text: &str| -> String { text.chars().map(|c| if c.is_control() { '?' } else { c }).collect() };
    let _ = writeln!(
        line,
        "{} {} \"{} {}{}\" {} {} {:.3}ms route={} code={}{}{}{} id={}",
        record.at.rfc3339(),
        record.client.map_or_else(|| "-".to_owned(), |client| client.to_string()),
        plain(record.method),
        plain(record.host),
        plain(record.path),
        record.status,
        record.bytes,
        record.took.as_secs_f64() * 1e3,
        record.route,
        record.code.unwrap_or("-"),
        record.shadow.map(|code| format!(" shadow={code}")).unwrap_or_default(),
        record.subject.map(|subject| format!(" subject={}", plain(subject))).unwrap_or_default(),
        if record.aborted { " aborted" } else { "" },
        plain(record.request_id),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_of_json_whatever_is_in_it() {
        let record =
            Record { path: "/a\"b\n", subject: Some("x\u{1b}[0m"), status: 401, ..Record::default() };
        let line = written(json, &record);
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["path"], "/a\"b\n");
        assert_eq!(value["status"], 401);
        assert!(!written(text, &record).contains('\u{1b}'));
    }

    fn written(how: fn(&Record<'_>, &mut Vec<u8>), record: &Record<'_>) -> String {
        let mut line = Vec::new();
        how(record, &mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn numbers_times_and_addresses_are_what_they_are_elsewhere() {
        for (micros, shown) in [(0, 0.0), (1, 0.001), (999, 0.999), (1_000, 1.0), (12_345_678, 12_345.678)] {
            for client in ["192.0.2.9", "10.0.100.255", "2001:db8::1"] {
                let record = Record {
                    at: UnixTime::from_millis(1_795_443_129_250 + micros),
                    client: client.parse().ok(),
                    took: Duration::from_micros(micros),
                    bytes: micros,
                    ..Record::default()
                };
                let value: serde_json::Value = serde_json::from_str(&written(json, &record)).unwrap();
                assert_eq!((value["duration_ms"].as_f64(), &value["client"]), (Some(shown), &client.into()));
                assert_eq!(value["bytes"], micros);
                assert_eq!(UnixTime::parse_rfc3339(value["time"].as_str().unwrap()), Some(record.at));
            }
        }
        assert!(written(json, &Record::default()).contains(r#""client":"-""#));
    }

    #[test]
    fn a_full_buffer_drops_and_counts() {
        let metrics = Arc::new(Metrics::new());
        let shared =
            Arc::new(Shared { buffer: Mutex::default(), filled: Condvar::new(), metrics: metrics.clone() });
        let log = AccessLog { shared, format: AccessLogFormat::Json };
        let long = "x".repeat(BUFFER_BYTES_MAX / 2);
        for _ in 0..3 {
            log.write(&Record { path: &long, ..Record::default() });
        }
        assert_eq!(metrics.access_lines_dropped.get(), 2);
    }
}

//! One line per answered request, written by a thread of its own. A worker copies its line into a shared buffer;
//! when standard output is too slow and the buffer is full, lines are dropped and counted, never waited for.

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::Metrics;
use super::settings::AccessLogFormat;
use crate::clock::UnixTime;

/// Bytes that may wait for standard output.
const BUFFER_BYTES_MAX: usize = 4 << 20;

/// What one line says. No token, no query (it may hold secrets), no header but the user agent.
#[derive(Clone, Debug, Default)]
pub struct Record<'a> {
    /// When the head had been read.
    pub at: UnixTime,
    /// The request's id.
    pub request_id: &'a str,
    /// The client's address, as believed.
    pub client: &'a str,
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

    /// Hands one line over. Takes a short lock; allocates one line.
    pub fn write(&self, record: &Record<'_>) {
        let line = match self.format {
            AccessLogFormat::Off => return,
            AccessLogFormat::Json => json(record),
            AccessLogFormat::Text => text(record),
        };
        let mut buffer = self.shared.buffer.lock().expect("nobody panics holding it");
        if buffer.bytes.len() + line.len() > BUFFER_BYTES_MAX {
            self.shared.metrics.access_lines_dropped.inc();
            return;
        }
        let was_empty = buffer.bytes.is_empty();
        buffer.bytes.extend_from_slice(&line);
        drop(buffer);
        if was_empty {
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
            let mut buffer = shared
                .filled
                .wait_while(buffer, |buffer| buffer.bytes.is_empty() && !buffer.closed)
                .expect("nobody panics holding it");
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

fn json(record: &Record<'_>) -> Vec<u8> {
    let mut line = Vec::with_capacity(384);
    line.push(b'{');
    let mut field = |name: &str, value: &str| {
        if line.len() > 1 {
            line.push(b',');
        }
        line.push(b'"');
        line.extend_from_slice(name.as_bytes());
        line.extend_from_slice(b"\":");
        // Escapes quotes and every control byte.
        let _ = serde_json::to_writer(&mut line, value);
    };
    field("time", &record.at.rfc3339());
    field("request_id", record.request_id);
    field("client", record.client);
    field("method", record.method);
    field("host", record.host);
    field("path", record.path);
    field("route", record.route);
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
            field(name, value);
        }
    }
    let _ = write!(
        line,
        ",\"status\":{},\"bytes\":{},\"duration_ms\":{:.3}",
        record.status,
        record.bytes,
        record.took.as_secs_f64() * 1e3
    );
    if record.aborted {
        line.extend_from_slice(b",\"aborted\":true");
    }
    line.extend_from_slice(b"}\n");
    line
}

fn text(record: &Record<'_>) -> Vec<u8> {
    let mut line = Vec::with_capacity(256);
    let plain =
        |text: &str| -> String { text.chars().map(|c| if c.is_control() { '?' } else { c }).collect() };
    let _ = writeln!(
        line,
        "{} {} \"{} {}{}\" {} {} {:.3}ms route={} code={}{}{}{} id={}",
        record.at.rfc3339(),
        plain(record.client),
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
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_of_json_whatever_is_in_it() {
        let record =
            Record { path: "/a\"b\n", subject: Some("x\u{1b}[0m"), status: 401, ..Record::default() };
        let line = String::from_utf8(json(&record)).unwrap();
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["path"], "/a\"b\n");
        assert_eq!(value["status"], 401);
        assert!(!String::from_utf8(text(&record)).unwrap().contains('\u{1b}'));
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

//! One connection to a target, speaking HTTP/1.1: a request at a time.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::answer::BoxError;

use super::connect::{ConnectError, Connector};
use super::error::Fault;
use super::io::{Counted, Io, Watch};
use super::upload::{Outgoing, Upload};

/// A response head, status line included, and each block of trailers.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;
/// What a connection buffers in each direction before it waits.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// As good as never; where adding a limit to a time overflows.
const FAR: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// A connection. Dropping it closes the connection, whatever is under way on it: that is how a client that has
/// gone away cancels its request at the upstream.
#[derive(Debug)]
pub(super) struct Wire {
    sender: SendRequest<Outgoing>,
    watch: Arc<Watch>,
    driver: Option<JoinHandle<()>>,
    /// When it was last pooled, in ticks of the pool.
    pub(super) pooled_at: u32,
}

/// Why a request on a connection came to nothing.
#[derive(Debug)]
pub(super) enum Lost {
    /// No byte of it was written; here it is again, its body not polled.
    Unsent(Box<Request<Outgoing>>, hyper::Error),
    /// It was written, wholly or in part, and the connection ended without a byte in return. Holds the request
    /// again when it may be sent once more.
    Silent(Option<Box<Request<Outgoing>>>, hyper::Error),
    /// The head did not come in time.
    Timeout(Duration),
    /// What came is no answer.
    Fault(Fault),
    /// The request body failed.
    Body(BoxError),
}

impl Wire {
    /// Connects, and starts the task that drives the connection on the runtime of the caller.
    pub(super) async fn open(connector: &Connector, open: &Arc<AtomicUsize>) -> Result<Self, ConnectError> {
        let stream = connector.connect().await?;
        let watch = Arc::new(Watch::default());
        let io = Io::new(stream, Arc::clone(&watch), Counted::new(open));
        let (sender, connection) = Builder::new()
            .max_header_size(HEAD_BYTES_MAX)
            .max_buf_size(BUFFER_BYTES_MAX)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| ConnectError::Failed(std::io::Error::other(error)))?;
        // What ends a connection is told to the request that waits on it; on an idle one nobody needs to know.
        let driver = tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        Ok(Self { sender, watch, driver: Some(driver), pooled_at: 0 })
    }

    /// Sends, and waits for the response head; `limit` counts from when the last byte of the request was taken,
    /// and not while we wait for the client to send its body.
    ///
    /// # Errors
    /// [`Lost`]; the connection is of no use after it. Dropping the future cancels nothing by itself: the
    /// connection must be dropped too.
    pub(super) async fn send(
        &mut self,
        request: Request<Outgoing>,
        limit: Option<Duration>,
    ) -> Result<Response<Incoming>, Lost> {
        let upload = request.body().upload().cloned();
        let replayable = upload.is_none() && request.method().is_idempotent();
        self.watch.begin(replayable);
        let answer = self.sender.try_send_request(request);
        let done = match within(answer, upload.as_deref(), limit).await {
            Ok(done) => done,
            Err(limit) => return Err(Lost::Timeout(limit)),
        };
        let mut error = match done {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        if let Some(request) = error.take_message() {
            return Err(Lost::Unsent(Box::new(request), error.into_error()));
        }
        let error = error.into_error();
        Err(if let Some(cause) = upload.and_then(|upload| upload.take_error()) {
            Lost::Body(cause)
        } else if self.watch.flooded() {
            Lost::Fault(Fault::Informational)
        } else if error.is_parse() {
            Lost::Fault(Fault::Parse(error))
        } else if error.is_user() {
            // Its body was shorter than the Content-Length it was announced with.
            Lost::Body(error.into())
        } else if self.watch.answered() {
            Lost::Fault(Fault::Truncated(error))
        } else {
            let replay = if replayable { replay(&self.watch.kept()).map(Box::new) } else { None };
            Lost::Silent(replay, error)
        })
    }

    /// A connection that stands ready, and the task that drives it, which the test ends when it likes.
    #[cfg(test)]
    pub(super) async fn by_hand() -> (Self, impl Future) {
        let (near, far) = tokio::io::duplex(64);
        let (sender, connection) = Builder::new().handshake(TokioIo::new(near)).await.expect("never fails");
        let mut driver = Box::pin(async move {
            let _far = far;
            connection.await
        });
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(driver.as_mut().poll(cx))).await;
        assert!(polled.is_pending());
        (Self { sender, watch: Arc::default(), driver: None, pooled_at: 0 }, driver)
    }

    /// Whether it ended.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether it takes a request now.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Whether a byte ever came back.
    pub(super) fn spoke(&self) -> bool {
        self.watch.spoke()
    }

    /// Leaves the connection to whoever took it over by an upgrade.
    pub(super) fn detach(mut self) {
        self.driver = None;
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(driver) = &self.driver {
            driver.abort();
        }
    }
}

/// Waits for the head of an answer. `limit` counts from when the last byte of the request was taken, and not while we
/// wait for the client to send its body.
///
/// # Errors
/// `limit`, when it is over.
pub(super) async fn within<F: Future>(
    answer: F,
    upload: Option<&Upload>,
    limit: Option<Duration>,
) -> Result<F::Output, Duration> {
    let Some(limit) = limit else { return Ok(answer.await) };
    let deadline = sleep(limit);
    tokio::pin!(answer, deadline);
    loop {
        tokio::select! {
            biased;
            done = &mut answer => return Ok(done),
            () = &mut deadline => {
                let now = Instant::now();
                let silent_since = upload.map(|upload| upload.silent_since(now));
                match silent_since.map(|since| later(since, limit)) {
                    Some(next) if next > now => deadline.as_mut().reset(next),
                    _ => return Err(limit),
                }
            }
        }
    }
}

/// `from` and `by` more, without overflow.
pub(super) fn later(from: Instant, by: Duration) -> Instant {
    from.checked_add(by).unwrap_or_else(|| from + FAR)
}

/// The request again, out of the bytes that hyper wrote of it. Only ever reads its own gateway's writing, so a
/// form that hyper does not write is no request. This costs the rare retry some parsing, and every other
/// request no copy of its header map.
fn replay(head: &[u8]) -> Option<Request<Outgoing>> {
    let head = head.strip_suffix(b"\r\n\r\n")?;
    let mut lines = head.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut start = lines.next()?.splitn(3, |&byte| byte == b' ');
    let mut request = Request::new(Outgoing::empty());
    *request.method_mut() = http::Method::from_bytes(start.next()?).ok()?;
    *request.uri_mut() = http::Uri::try_from(start.next()?).ok()?;
    if start.next()? != b"HTTP/1.1" {
        return None;
    }
    for line in lines {
        let colon = memchr::memchr(b':', line)?;
        let name = http::HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = http::HeaderValue::from_bytes(line[colon + 1..].strip_prefix(b" ")?).ok()?;
        request.headers_mut().append(name, value);
    }
    Some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_being_written_and_replayed() {
        let head = b"GET /a?b=c%20d HTTP/1.1\r\nhost: api\r\nx: 1\r\nx:  2 \xe4\r\nempty: \r\n\r\n";
        let request = replay(head).unwrap();
        assert_eq!(request.method(), "GET");
        assert_eq!(request.uri(), "/a?b=c%20d");
        assert_eq!(request.headers()["host"], "api");
        let values: Vec<&[u8]> =
            request.headers().get_all("x").iter().map(|value| value.as_bytes()).collect();
        assert_eq!(values, [&b"1"[..], b" 2 \xe4"]);
        assert_eq!(request.headers()["empty"], "");
    }

    #[test]
    fn half_a_request_is_not_replayed() {
        let head = b"GET / HTTP/1.1\r\nhost: api\r\n\r\n";
        for end in 0..head.len() {
            assert!(replay(&head[..end]).is_none(), "{end} bytes");
        }
    }
}

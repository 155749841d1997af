//! One connection to a target, speaking HTTP/1.1: a request at a time.
//!
//! No task stands behind a connection. Whoever waits for an answer moves the bytes of its request and reads its head,
//! whoever takes the body reads that, and an idle connection is looked at when it is to be used and once per tick of
//! its pool. So an answer wakes one task, once, and passes through no channel on its way. The exception is an answer
//! that comes before its request has been sent: then a task sends the rest, for a client that sends everything before
//! it reads anything must not wait for itself.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::UPGRADE;
use http::response::Parts;
use http::{HeaderMap, Request};
use http_body::Frame;
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadHalf, split};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::answer::BoxError;
use crate::clock::Timer;
use crate::worker;

use super::Tell;
use super::connect::{ConnectError, Connector};
use super::decode::{self, Framing, Malformed, Search};
use super::error::Fault;
use super::names::{Lead, Name};
use super::response;
use super::sending::{Out, Sending, Unfinished};
use super::socket::Socket;
use super::target::Manner;
use super::upload::{Outgoing, Upload};

/// What is read at once of a head and of what comes with it.
const READ_BYTES: usize = 8 * 1024;
/// What is read at once of a body that is known to be long.
const LONG_READ_BYTES: usize = 64 * 1024;
/// As good as never; where adding a limit to a time overflows.
const FAR: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// A connection. Dropping it closes the connection, whatever is under way on it: that is how a client that has
/// gone away cancels its request at the upstream.
#[derive(Debug)]
pub(super) struct Wire(Box<Line>);

/// Boxed, for a connection goes through many hands.
#[derive(Debug)]
struct Line {
    way: Way,
    /// Read, and not taken.
    read: BytesMut,
    out: Out,
    timer: Timer,
    /// A byte ever came back.
    spoke: bool,
    /// It did not take the whole of a request.
    spoilt: bool,
    /// When it was last pooled, in ticks of the pool.
    pooled_at: u32,
    /// Whose reactor wakes it.
    worker: usize,
    /// Of a target that has a name.
    lead: Option<Lead>,
    _open: Counted,
}

/// The socket, or what is left of it.
#[derive(Debug)]
enum Way {
    Whole(Socket),
    /// A task has the other half, and sends the rest of a request that was answered early, if it is not done.
    Half(ReadHalf<Socket>, Option<Rest>),
    /// Whoever it was handed over to has it.
    Gone,
}

/// The task that sends the rest of a request; ends with this.
#[derive(Debug)]
struct Rest(JoinHandle<Result<(), Unfinished>>);

impl Drop for Rest {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A number that goes up while this lives.
#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a request on a connection came to nothing.
#[derive(Debug)]
pub(super) enum Lost {
    /// No byte of it was written; here it is again, its body not sent.
    Unsent(Box<Request<Outgoing>>, BoxError),
    /// It was written, wholly or in part, and the connection ended without a byte in return. Holds the request
    /// again when it may be sent once more.
    Silent(Option<Box<Request<Outgoing>>>, BoxError),
    /// The head did not come in time.
    Timeout(Duration),
    /// What came is no answer.
    Fault(Fault),
    /// The request body failed.
    Body(BoxError),
}

/// A request that waits for its answer.
struct Waiting<'a> {
    line: &'a mut Line,
    sending: Sending,
    /// Nothing more is to be sent.
    sent: bool,
    /// Why, where that was too early. What the upstream said before it stopped listening may still be there.
    broken: Option<Unfinished>,
    /// A byte of an answer came.
    answered: bool,
    search: Search,
    tell: Tell<'a>,
    deadline: Option<Instant>,
}

/// Why there is no answer.
enum Why {
    Unsent(io::Error),
    Silent(io::Error),
    Fault(Fault),
    Timeout,
    Body,
    Length,
}

impl Wire {
    /// Connects.
    pub(super) async fn open(connector: &Connector, open: &Arc<AtomicUsize>) -> Result<Self, ConnectError> {
        let (socket, lead) = connector.connect().await?;
        Ok(Self::on(socket, lead, Counted::new(open)))
    }

    fn on(socket: Socket, lead: Option<Lead>, open: Counted) -> Self {
        let (read, out, timer) = (BytesMut::new(), Out::default(), Timer::default());
        let way = Way::Whole(socket);
        let (spoke, spoilt, pooled_at, worker) = (false, false, 0, worker::index());
        Self(Box::new(Line { way, read, out, timer, spoke, spoilt, pooled_at, worker, lead, _open: open }))
    }

    /// Sends, with the lines of `manner` behind the fields of the request, and waits for the response head; the time-out
    /// counts from when the last byte of the request was taken, and not while we wait for the client to send its body. The answer's head has been checked.
    ///
    /// # Errors
    /// [`Lost`]; the connection is of no use after it. Dropping the future cancels nothing by itself: the
    /// connection must be dropped too.
    pub(super) async fn send(
        &mut self,
        request: Box<Request<Outgoing>>,
        manner: Manner<'_>,
    ) -> Result<(Parts, Framing), Lost> {
        let Manner { lines, timeout: limit, tell } = manner;
        let line = &mut *self.0;
        let upload = request.body().upload().cloned();
        let again = upload.is_none() && request.method().is_idempotent();
        let (mut head, body) = request.into_parts();
        line.out.head(&head, lines);
        let sending = Sending::new(body, &head.headers);
        let upgrade = head.headers.contains_key(UPGRADE);
        let mut waiting = Waiting {
            line,
            sending,
            sent: false,
            broken: None,
            answered: false,
            search: Search::default(),
            tell,
            deadline: limit.map(|limit| later(Instant::now(), limit)),
        };
        let spare = &mut head.headers;
        let ended = poll_fn(|cx| waiting.poll(cx, upload.as_deref(), limit.unwrap_or_default(), spare)).await;
        let Waiting { line, sending, sent, broken, .. } = waiting;
        let why = match ended {
            Ok(mut parts) => {
                response::check(&mut parts, upgrade).map_err(Lost::Fault)?;
                let framing = Framing::of(&parts, &head.method).map_err(Lost::Fault)?;
                line.spoilt = broken.is_some();
                if !sent {
                    line.send_rest(sending);
                }
                return Ok((parts, framing));
            }
            Err(why) => why,
        };
        let data = line.out.take_data();
        let request = || Box::new(Request::from_parts(head, sending.into_body(data)));
        Err(match why {
            Why::Unsent(error) => Lost::Unsent(request(), error.into()),
            Why::Silent(error) => Lost::Silent(again.then(request), error.into()),
            Why::Fault(fault) => Lost::Fault(fault),
            Why::Timeout => Lost::Timeout(limit.unwrap_or_default()),
            Why::Length => Lost::Body("the request body is not as long as was announced".into()),
            Why::Body => {
                let cause = upload.and_then(|upload| upload.take_error());
                Lost::Body(cause.unwrap_or_else(|| "the request body failed".into()))
            }
        })
    }

    /// The next piece of the body that is framed so; `None` at its end.
    pub(super) fn poll_body(
        &mut self,
        framing: &mut Framing,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let line = &mut *self.0;
        loop {
            match framing.take(&mut line.read) {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) if framing.is_over() => return Poll::Ready(None),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
            let wanted =
                framing.left().map_or(READ_BYTES, |left| usize::try_from(left).unwrap_or(usize::MAX));
            match ready!(line.poll_read(wanted.clamp(READ_BYTES, LONG_READ_BYTES), cx)) {
                Ok(0) => {
                    if let Err(error) = framing.end() {
                        return Poll::Ready(Some(Err(error.into())));
                    }
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    /// A body that is here whole already.
    ///
    /// # Errors
    /// When what is here is no body that can be.
    pub(super) fn whole_body(&mut self, framing: &mut Framing) -> Result<Option<Bytes>, Malformed> {
        let here = framing.left().is_some_and(|left| left <= self.0.read.len() as u64);
        Ok(if here { framing.take(&mut self.0.read)?.and_then(|frame| frame.into_data().ok()) } else { None })
    }

    /// Whether `deadline` has passed; if not, the task is woken no later than then.
    pub(super) fn poll_deadline(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.0.timer.poll(deadline, cx)
    }

    /// Whether it can carry another request: nothing came behind the last answer, and nobody else is at it.
    pub(super) fn is_at_rest(&self) -> bool {
        self.0.read.is_empty() && !self.0.spoilt && matches!(self.0.way, Way::Whole(_))
    }

    /// Whether it ended while it was idle, or something came that nobody asked for.
    pub(super) fn is_closed(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.0.poll_read(1, &mut cx).is_ready()
    }

    /// Whether a byte ever came back.
    pub(super) fn spoke(&self) -> bool {
        self.0.spoke
    }

    /// When it was last pooled.
    pub(super) const fn pooled_at(&self) -> u32 {
        self.0.pooled_at
    }

    /// Whether the name still has the address that this goes to.
    pub(super) fn leads_by(&mut self, name: Option<&Name>) -> bool {
        match (name, &mut self.0.lead) {
            (Some(name), Some(lead)) => lead.holds(name),
            _ => true,
        }
    }

    /// The worker whose reactor wakes it.
    pub(super) const fn worker(&self) -> usize {
        self.0.worker
    }

    /// Has this worker's reactor wake it from now on, where that can be changed; to be called on its thread. `None`:
    /// the system did not let it.
    pub(super) fn moved_to(mut self, worker: usize) -> Option<Self> {
        let socket = match std::mem::replace(&mut self.0.way, Way::Gone) {
            Way::Whole(Socket::Tcp(stream)) => {
                Socket::Tcp(TcpStream::from_std(stream.into_std().ok()?).ok()?)
            }
            Way::Whole(Socket::Unix(stream)) => {
                Socket::Unix(UnixStream::from_std(stream.into_std().ok()?).ok()?)
            }
            way => {
                self.0.way = way;
                return Some(self);
            }
        };
        // Its timer is of the old worker's, too.
        (self.0.way, self.0.timer, self.0.worker) = (Way::Whole(socket), Timer::default(), worker);
        Some(self)
    }

    /// It is pooled at this tick. Nothing but a little room for the next head is kept while it is idle.
    pub(super) fn rest_from(&mut self, tick: u32) {
        self.0.pooled_at = tick;
        // Room that a long body needed goes back; what is left of it in other hands counts.
        if self.0.read.capacity() > READ_BYTES {
            self.0.read = BytesMut::new();
        }
    }

    /// The socket, and what came behind the answer, for whoever takes the connection over by an upgrade.
    pub(super) fn into_socket(mut self) -> Option<(Bytes, Socket)> {
        match std::mem::replace(&mut self.0.way, Way::Gone) {
            Way::Whole(socket) => Some((self.0.read.split().freeze(), socket)),
            Way::Half(..) | Way::Gone => None,
        }
    }

    /// A connection whose other end the test has.
    #[cfg(test)]
    pub(super) fn by_hand() -> (Self, tokio::io::DuplexStream) {
        let (near, far) = tokio::io::duplex(1024);
        (Self::on(Socket::Memory(near), None, Counted::new(&Arc::default())), far)
    }
}

impl Line {
    fn poll_read(&mut self, room: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.read.capacity() - self.read.len() < room {
            self.read.reserve(room);
        }
        let count = match &mut self.way {
            Way::Whole(socket) => ready!(poll_read(socket, &mut self.read, cx)),
            Way::Half(half, rest) => match poll_read(half, &mut self.read, cx) {
                // Where the rest of the request cannot be had, the answer to it is not to be waited for.
                Poll::Ready(read) => read,
                Poll::Pending => {
                    let Some(task) = rest else { return Poll::Pending };
                    let done = ready!(Pin::new(&mut task.0).poll(cx));
                    *rest = None;
                    // Where the rest of the request cannot be had, the rest of the answer need not be waited for. An
                    // upstream that takes no more of it may be speaking all the same.
                    if !matches!(done, Ok(Err(Unfinished::Body | Unfinished::Length))) {
                        return Poll::Pending;
                    }
                    Err(io::Error::other("the rest of the request failed"))
                }
            },
            Way::Gone => Err(io::ErrorKind::NotConnected.into()),
        };
        self.spoke |= matches!(count, Ok(1..));
        Poll::Ready(count)
    }

    /// Has a task send what is left of a request.
    fn send_rest(&mut self, mut sending: Sending) {
        let Way::Whole(socket) = std::mem::replace(&mut self.way, Way::Gone) else { return };
        let (reader, mut writer) = split(socket);
        let mut out = std::mem::take(&mut self.out);
        let rest = async move { poll_fn(|cx| sending.poll(&mut out, &mut writer, cx)).await };
        self.way = Way::Half(reader, Some(Rest(tokio::spawn(rest))));
    }
}

fn poll_read<R: AsyncRead + Unpin>(
    from: &mut R,
    into: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    pin!(from.read_buf(into)).poll(cx)
}

impl Waiting<'_> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        upload: Option<&Upload>,
        limit: Duration,
        spare: &mut HeaderMap,
    ) -> Poll<Result<Parts, Why>> {
        // Before the first byte goes out nothing may have come in: it would be taken for the answer.
        let first = !self.sending.begun();
        if first {
            match self.line.poll_read(READ_BYTES, cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Why::Unsent(ended()))),
                Poll::Ready(Ok(_)) => return Poll::Ready(Err(Why::Unsent(unasked()))),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Why::Unsent(error))),
            }
        }
        if !self.sent
            && let Poll::Ready(why) = self.poll_send(cx)
        {
            return Poll::Ready(Err(why));
        }
        // The answer to what has just gone out wakes us: that was asked for above.
        while !first || self.broken.is_some() {
            match self.line.poll_read(READ_BYTES, cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(self.cut_short(ended()))),
                Poll::Ready(Ok(_)) => self.answered = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.cut_short(error))),
                Poll::Pending => break,
            }
            match decode::head(&mut self.line.read, &mut self.search, spare, self.tell) {
                Ok(Some(parts)) => return Poll::Ready(Ok(parts)),
                Ok(None) => {}
                Err(fault) => return Poll::Ready(Err(Why::Fault(fault))),
            }
        }
        while let Some(deadline) = self.deadline {
            ready!(self.line.timer.poll(deadline, cx));
            let now = Instant::now();
            let silent_since = upload.map(|upload| upload.silent_since(now));
            match silent_since.map(|since| later(since, limit)) {
                Some(next) if next > now => self.deadline = Some(next),
                _ => return Poll::Ready(Err(Why::Timeout)),
            }
        }
        Poll::Pending
    }

    /// Sends on; ready when the request cannot be sent and will have no answer.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Why> {
        let Way::Whole(socket) = &mut self.line.way else { return Poll::Pending };
        match ready!(self.sending.poll(&mut self.line.out, socket, cx)) {
            Ok(()) => self.sent = true,
            Err(Unfinished::Body) => return Poll::Ready(Why::Body),
            Err(Unfinished::Length) => return Poll::Ready(Why::Length),
            // TLS may have sent something of what it says it has not taken.
            Err(Unfinished::Write(error)) if !self.sending.begun() && !socket.is_tls() => {
                return Poll::Ready(Why::Unsent(error));
            }
            Err(error) => (self.sent, self.broken) = (true, Some(error)),
        }
        Poll::Pending
    }

    /// The connection ended before the answer's head.
    fn cut_short(&mut self, error: io::Error) -> Why {
        let error = match self.broken.take() {
            Some(Unfinished::Write(first)) => first,
            _ => error,
        };
        if self.answered { Why::Fault(Fault::Truncated(error.into())) } else { Why::Silent(error) }
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the upstream closed the connection")
}

fn unasked() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the upstream spoke unasked")
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

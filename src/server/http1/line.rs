//! One connection: its stream, what was read and what is to be written, and every wait with its end.

use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, ReadBuf};
use tokio::time::Instant;

use super::out::Out;
use crate::clock::Timer;
use crate::server::Rules;
use crate::server::stream::Stream;

/// Room for heads, and for bodies of no great length.
const READ_BYTES: usize = 8 * 1024;
/// With less room than this left, more is made before the next read.
const ROOM_MIN: usize = 2 * 1024;
/// What is read at once of a long body.
pub(super) const LONG_READ_BYTES: usize = 64 * 1024;
/// The most that is read of what comes behind a request before that is answered; the rest waits in the socket.
const AHEAD_BYTES: usize = 8 * 1024;

/// How long a closing connection takes in what the client still sends, so that a reset does not overtake the answer.
const LINGER: Duration = Duration::from_secs(1);
/// How much of it. The answer and the end of our output are with the client already; a client that uploads without
/// listening is cut off here.
const LINGER_BYTES: usize = 4 << 20;

/// A stream that ends with a reset where what was sent must not be taken for complete.
#[derive(Debug)]
pub(super) struct Socket<S: Stream> {
    pub(super) stream: S,
    pub(super) cut_short: bool,
}

impl<S: Stream> Drop for Socket<S> {
    fn drop(&mut self) {
        if self.cut_short || std::thread::panicking() {
            self.stream.abort();
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Line<S: Stream> {
    pub(super) socket: Socket<S>,
    /// Read, and not taken.
    pub(super) read: BytesMut,
    pub(super) out: Out,
    /// The client sends nothing more.
    pub(super) eof: bool,
    /// Nothing is kept between two reads.
    resting: bool,
    unflushed: bool,
    /// Of the write that is pending.
    write_deadline: Option<Instant>,
    timer: Timer,
    pub(super) rules: Arc<Rules>,
}

impl<S: Stream> Line<S> {
    /// On `stream`, of which `first` has been read.
    pub(super) fn new(stream: S, first: &[u8], rules: Arc<Rules>) -> Self {
        let mut read = BytesMut::with_capacity(READ_BYTES.max(first.len() + ROOM_MIN));
        read.extend_from_slice(first);
        Self {
            socket: Socket { stream, cut_short: false },
            read,
            out: Out::default(),
            eof: false,
            resting: false,
            unflushed: false,
            write_deadline: None,
            timer: Timer::default(),
            rules,
        }
    }

    /// Gives its buffers back until something comes. There is nothing in them.
    pub(super) fn rest(&mut self) {
        self.resting = true;
        (self.read, self.out) = (BytesMut::new(), Out::default());
    }

    pub(super) const fn is_resting(&self) -> bool {
        self.resting
    }

    /// Whether `deadline` has passed; if not, the task is woken no later than then.
    pub(super) fn poll_deadline(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.timer.poll(deadline, cx)
    }

    /// Reads on; 0 at the end, which is remembered.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.resting {
            let mut scratch = [MaybeUninit::uninit(); ROOM_MIN];
            let mut read = ReadBuf::uninit(&mut scratch);
            ready!(Pin::new(&mut self.socket.stream).poll_read(cx, &mut read))?;
            self.resting = false;
            self.read.reserve(READ_BYTES);
            self.read.extend_from_slice(read.filled());
            self.eof = read.filled().is_empty();
            return Poll::Ready(Ok(read.filled().len()));
        }
        self.poll_read_room(0, cx)
    }

    /// The same, where `wanted` bytes are still to come.
    pub(super) fn poll_read_room(&mut self, wanted: u64, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let wanted = usize::try_from(wanted).unwrap_or(LONG_READ_BYTES).clamp(READ_BYTES, LONG_READ_BYTES);
        let room = self.read.capacity() - self.read.len();
        if room < ROOM_MIN || wanted > READ_BYTES && room < wanted / 2 {
            self.read.reserve(wanted);
        }
        let reading = pin!(self.socket.stream.read_buf(&mut self.read)).poll(cx);
        if matches!(reading, Poll::Ready(Ok(0))) {
            self.eof = true;
        }
        reading
    }

    /// Reads what comes behind the request under way, within bounds. Ready when the client can have no use for an
    /// answer.
    pub(super) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.eof && self.read.len() < AHEAD_BYTES {
            match ready!(self.poll_read(cx)) {
                Ok(_) => {}
                Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    /// Writes all that is to be written.
    ///
    /// # Errors
    /// Also when the client takes nothing for too long.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.is_empty() && !self.unflushed {
            return Poll::Ready(Ok(()));
        }
        self.unflushed = true;
        let before = self.out.written();
        let stream = &mut self.socket.stream;
        let polled = match self.out.poll_write(stream, cx) {
            Poll::Ready(Ok(())) => Pin::new(stream).poll_flush(cx),
            other => other,
        };
        if polled.is_ready() || self.out.written() != before {
            self.write_deadline = None;
        }
        if polled.is_ready() {
            self.unflushed = false;
            return polled;
        }
        let Some(limit) = self.rules.write_stall else { return Poll::Pending };
        let deadline = *self.write_deadline.get_or_insert_with(|| Instant::now() + limit);
        ready!(self.timer.poll(deadline, cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes no byte of its answer")))
    }

    /// Says that there is no more to come, then hears the client out within bounds. `owes`: it is sending us something
    /// that must be heard; somebody who does not owes us nothing.
    pub(super) fn poll_close(&mut self, closing: &mut Closing, cx: &mut Context<'_>) -> Poll<()> {
        if let Closing::Begun { owes } = *closing {
            // An error means that the client is gone: nothing to hear.
            if ready!(Pin::new(&mut self.socket.stream).poll_shutdown(cx)).is_err() {
                return Poll::Ready(());
            }
            let until = Instant::now() + LINGER;
            *closing = Closing::Lingering { until, bytes: LINGER_BYTES, owes };
        }
        let Closing::Lingering { until, bytes, owes } = closing else { return Poll::Ready(()) };
        let mut scratch = [MaybeUninit::uninit(); READ_BYTES];
        while *bytes > 0 && !self.eof {
            let mut out = ReadBuf::uninit(&mut scratch);
            match Pin::new(&mut self.socket.stream).poll_read(cx, &mut out) {
                Poll::Ready(Ok(())) if !out.filled().is_empty() => {
                    *bytes = bytes.saturating_sub(out.filled().len());
                    *owes = true;
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending if !*owes => return Poll::Ready(()),
                Poll::Pending => return self.timer.poll(*until, cx),
            }
        }
        Poll::Ready(())
    }
}

/// How far a connection has come in its close.
#[derive(Clone, Copy, Debug)]
pub(super) enum Closing {
    Begun { owes: bool },
    Lingering { until: Instant, bytes: usize, owes: bool },
}

//! The raw-byte guard: an `AsyncRead + AsyncWrite` around a client's stream, under hyper.
//!
//! hyper's parsed view has lost what request smuggling lives on: which `Content-Length` came twice, how
//! `Transfer-Encoding` was spelt, where a bare CR stood. So the guard follows the framing of the byte stream itself
//! (strict head, body, next head, also pipelined) and releases a head only when it is whole and good. The bytes of
//! a good head that came in one read stay where they were read; only unfinished heads are held in a buffer of the
//! guard's own, bounded by `max_header_bytes` and one read.
//!
//! A bad head is never released. hyper gets a stand-in with `connection: close`, the service a [`Fault`] for a
//! verdict, and the guard never looks at another byte: after a framing doubt, nothing has a meaning.
//!
//! hyper may refuse nothing that the guard passes (it would answer with a bare status of its own): the guard is at
//! least as strict everywhere, and tests hold the two against each other.

mod chars;
mod chunked;
mod fault;
mod framer;
mod link;
mod scan;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::Rules;
use super::drain::Ticket;
use super::stream::Stream;
use crate::clock::Timer;
pub(in crate::server) use fault::Fault;
pub use framer::HeadFacts;
use framer::{Framer, Then};
pub(in crate::server) use link::{Answer, Answering, Link, Upgrade};
pub use scan::BodyLength;

/// What hyper is given in place of a bad head.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";
/// The same for a bad HEAD request, so that the answer has no body.
const STAND_IN_HEAD: &[u8] = b"HEAD / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";

/// How long an answer under way outlives the client's end of input. Most clients that end their input have gone, and
/// the work for them is to be given up; but some only half-close after their last request and wait for the answer.
const HALF_CLOSE_GRACE: Duration = Duration::from_millis(500);

/// How long a closing connection takes in what the client still sends, so that a reset does not overtake the answer.
const LINGER: Duration = Duration::from_secs(1);
/// How much of it. The answer and the end of our output are with the client already; a client that uploads without
/// listening is cut off here.
const LINGER_BYTES: usize = 4 << 20;

/// What a read waits for; each has a deadline of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// For nothing that has a deadline.
    Free,
    Head,
    Body,
    /// For the next request.
    Idle,
    /// For an answer, after the client's end of input.
    Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Judging heads.
    Http,
    /// A bad head was replaced; nothing more is read.
    Refused,
    /// Bad framing or a time-out inside a body; only the error is told.
    Broken(io::ErrorKind, &'static str),
    /// Upgraded: bytes pass unseen.
    Tunnel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    No,
    Lingering { until: Instant, bytes: usize },
    Done,
}

/// A client's stream whose request heads are judged before anybody else sees them.
pub(in crate::server) struct Guard<S: Stream> {
    stream: S,
    framer: Framer,
    mode: Mode,
    /// Bytes not released yet; the first `release` of them may be.
    held: Vec<u8>,
    release: usize,
    /// `held` goes on only when the link says so.
    stalled: bool,
    eof: bool,
    wait: Wait,
    /// Of `wait`; `None`: no limit.
    deadline: Option<Instant>,
    write_deadline: Option<Instant>,
    /// The last write or flush has not come through.
    writing: bool,
    timer: Timer,
    closing: Closing,
    rules: Arc<Rules>,
    link: Arc<Link>,
    ticket: Ticket,
}

impl<S: Stream> Guard<S> {
    /// Around `stream`, of which `first` has been read already. The first head must be whole at `deadline`.
    pub(in crate::server) fn new(
        stream: S,
        first: Vec<u8>,
        deadline: Option<Instant>,
        rules: Arc<Rules>,
        link: Arc<Link>,
        ticket: Ticket,
    ) -> Self {
        let mut guard = Self {
            stream,
            framer: Framer::new(rules.head),
            mode: Mode::Http,
            held: first,
            release: 0,
            stalled: false,
            eof: false,
            wait: Wait::Head,
            deadline,
            write_deadline: None,
            writing: false,
            timer: Timer::default(),
            closing: Closing::No,
            rules,
            link,
            ticket,
        };
        if !guard.held.is_empty() {
            guard.judge_held();
        }
        guard
    }

    /// Answers `fault` to whatever comes.
    pub(in crate::server) fn refusing(mut self, fault: Fault) -> Self {
        self.refuse(fault, false);
        self
    }

    /// Takes back what has passed and nobody has taken; it comes first again.
    pub(in crate::server) fn unread(&mut self, bytes: &[u8]) {
        self.held.splice(..0, bytes.iter().copied());
        self.release += bytes.len();
    }

    /// Judges all that is held.
    fn judge_held(&mut self) {
        let held = std::mem::take(&mut self.held);
        let link = &self.link;
        let fed = self.framer.feed(&held, link.room(), |verdict| link.push(verdict));
        self.held = held;
        self.release = fed.release;
        self.act(fed.then, fed.release);
    }

    /// Judges what a read put into `out` from `before` on, in place, and takes out of it what may not pass.
    fn judge_in_place(&mut self, out: &mut ReadBuf<'_>, before: usize) {
        let link = &self.link;
        let read = &out.filled()[before..];
        let fed = self.framer.feed(read, link.room(), |verdict| link.push(verdict));
        if fed.release < read.len() && matches!(fed.then, Then::Keep | Then::Stall) {
            self.held.extend_from_slice(&read[fed.release..]);
        }
        out.set_filled(before + fed.release);
        self.act(fed.then, 0);
    }

    /// `keep`: bytes at the start of `held` that have passed and must not be thrown away.
    fn act(&mut self, then: Then, keep: usize) {
        self.stalled = false;
        match then {
            Then::Keep => {}
            Then::Drop => self.held.truncate(keep),
            Then::Stall => self.stalled = true,
            Then::Refuse { fault, head } => {
                self.held.truncate(keep);
                self.refuse(fault, head);
            }
            Then::Broken(fault) => {
                self.held.truncate(keep);
                self.mode = Mode::Broken(io::ErrorKind::InvalidData, fault.detail());
            }
        }
        if self.mode == Mode::Refused {
            return;
        }
        let mid_head = self.mode == Mode::Http && self.held.len() > self.release && !self.stalled;
        self.link.set_place(self.framer.in_body(), mid_head);
        if !(mid_head && self.wait == Wait::Head) {
            self.wait_for(if mid_head { Wait::Head } else { Wait::Free });
        }
    }

    /// Puts the stand-in behind what has passed.
    fn refuse(&mut self, fault: Fault, head: bool) {
        self.link.push(Err(fault));
        self.held.truncate(self.release);
        self.held.extend_from_slice(if head { STAND_IN_HEAD } else { STAND_IN });
        self.release = self.held.len();
        self.mode = Mode::Refused;
        self.wait_for(Wait::Free);
        self.link.set_place(false, false);
    }

    fn wait_for(&mut self, wait: Wait) {
        let limit = match wait {
            Wait::Free => None,
            Wait::Head => self.rules.header_read_timeout,
            Wait::Body => self.rules.body_read_timeout,
            Wait::Idle => self.rules.idle_timeout,
            Wait::Answer => Some(HALF_CLOSE_GRACE),
        };
        self.wait = wait;
        self.deadline = limit.map(|limit| Instant::now() + limit);
    }

    /// Each side asks the timer for its own deadline only. When the other's goes off, the whole task is woken, and
    /// both sides that still wait ask again.
    fn poll_read_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.deadline {
            Some(deadline) => self.timer.poll(deadline, cx),
            None => Poll::Pending,
        }
    }

    /// The stream has nothing to read: what are we waiting for, and has it been too long?
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wait = if self.framer.in_body() {
            Wait::Body
        } else if self.link.outstanding() > 0 {
            if self.wait == Wait::Head { Wait::Head } else { Wait::Free }
        } else if self.wait == Wait::Head || self.framer.is_new() {
            Wait::Head
        } else {
            Wait::Idle
        };
        if wait != self.wait {
            self.wait_for(wait);
        }
        self.link.set_resting(wait == Wait::Idle && self.held.is_empty() && !self.writing);
        self.poll_deadline(cx)
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_read_timer(cx));
        match self.wait {
            Wait::Head => self.refuse(Fault::HeadTimeout, self.held.starts_with(b"HEAD ")),
            Wait::Body => {
                self.mode = Mode::Broken(io::ErrorKind::TimedOut, "the request body did not arrive in time");
            }
            // As if the client had left.
            Wait::Idle | Wait::Answer => {
                self.eof = true;
                self.wait_for(Wait::Free);
                return Poll::Ready(Ok(()));
            }
            Wait::Free => {}
        }
        Poll::Ready(Ok(()))
    }

    /// After the client's end of input.
    fn poll_eof(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.framer.in_body() || self.link.outstanding() == 0 {
            return Poll::Ready(Ok(()));
        }
        if self.wait != Wait::Answer {
            self.wait_for(Wait::Answer);
        }
        self.poll_deadline(cx)
    }

    /// Held bytes that wait for an answer; `true` when they can go on.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> bool {
        self.link.stall(cx.waker());
        if self.framer.is_undecided() {
            match self.link.decision() {
                Some(Upgrade::Accepted) => self.become_tunnel(),
                Some(Upgrade::Refused) => self.framer.resume(),
                None => return false,
            }
        } else if self.link.room() == 0 {
            return false;
        }
        if self.mode == Mode::Http {
            self.judge_held();
        }
        true
    }

    fn become_tunnel(&mut self) {
        self.mode = Mode::Tunnel;
        self.stalled = false;
        self.release = self.held.len();
        self.wait_for(Wait::Free);
        self.write_deadline = None;
    }

    fn release_into(&mut self, out: &mut ReadBuf<'_>) {
        let now = self.release.min(out.remaining());
        out.put_slice(&self.held[..now]);
        self.release -= now;
        if now == self.held.len() {
            self.held = Vec::new(); // an idle connection holds no buffer
        } else {
            self.held.drain(..now);
        }
    }

    fn poll_tunnel(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ticket.poll_cut(cx).is_ready() {
            self.link.set_abort();
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, out)
    }

    /// Whether a pending write has been pending for too long.
    fn poll_write_stall(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Some(limit) = self.rules.write_stall.filter(|_| self.mode != Mode::Tunnel) else {
            return Poll::Pending;
        };
        let deadline = *self.write_deadline.get_or_insert_with(|| Instant::now() + limit);
        ready!(self.timer.poll(deadline, cx));
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the client takes no byte of its answer"))
    }

    fn wrote(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.writing = written.is_pending();
        if written.is_ready() {
            self.write_deadline = None;
            return written;
        }
        self.poll_write_stall(cx).map(Err)
    }

    /// Takes in what the client still sends; ready when the stream may be closed.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Somebody who sends us something now must be heard out; somebody who does not owes us nothing.
        let mut owes = self.mode == Mode::Refused
            || matches!(self.mode, Mode::Broken(..))
            || self.framer.in_body()
            || !self.held.is_empty();
        let Closing::Lingering { until, bytes } = &mut self.closing else {
            return Poll::Ready(());
        };
        let mut scratch = [std::mem::MaybeUninit::uninit(); 8192];
        while *bytes > 0 {
            let mut out = ReadBuf::uninit(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut out) {
                Poll::Ready(Ok(())) if !out.filled().is_empty() => {
                    *bytes = bytes.saturating_sub(out.filled().len());
                    owes = true;
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending if !owes => return Poll::Ready(()),
                Poll::Pending => return self.timer.poll(*until, cx),
            }
        }
        Poll::Ready(())
    }
}

impl<S: Stream> AsyncRead for Guard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.release > 0 {
                this.release_into(out);
                return Poll::Ready(Ok(()));
            }
            match this.mode {
                Mode::Http => {}
                Mode::Tunnel => return this.poll_tunnel(cx, out),
                Mode::Refused => return Poll::Pending,
                Mode::Broken(kind, why) => return Poll::Ready(Err(io::Error::new(kind, why))),
            }
            if this.framer.is_undecided() || this.stalled {
                if this.poll_stalled(cx) {
                    continue;
                }
                if !this.held.is_empty() {
                    return Poll::Pending;
                }
            }
            if this.eof {
                ready!(this.poll_eof(cx))?;
                return Poll::Ready(Ok(()));
            }
            let before = out.filled().len();
            match Pin::new(&mut this.stream).poll_read(cx, out) {
                Poll::Pending => {
                    ready!(this.poll_wait(cx))?;
                    if this.eof {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) if out.filled().len() == before => {
                    this.eof = true;
                    this.held.clear();
                }
                Poll::Ready(Ok(())) if this.held.is_empty() => {
                    this.judge_in_place(out, before);
                    if out.filled().len() > before {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(Ok(())) => {
                    this.held.extend_from_slice(&out.filled()[before..]);
                    out.set_filled(before);
                    this.judge_held();
                }
            }
        }
    }
}

impl<S: Stream> AsyncWrite for Guard<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.wrote(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.wrote(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes last of all after each answer, and may not read again before it is woken: here begins the wait
    /// for the next request.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.writing = flushed.is_pending();
        ready!(flushed)?;
        let idle = this.mode == Mode::Http
            && this.wait != Wait::Idle
            && this.wait != Wait::Head
            && !this.framer.is_new()
            && !this.framer.in_body()
            && this.link.outstanding() == 0;
        if idle {
            if this.eof {
                cx.waker().wake_by_ref();
            } else {
                this.wait_for(Wait::Idle);
                if this.poll_read_timer(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Says that there is no more to come, then hears the client out within bounds.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.mode == Mode::Tunnel {
            return Pin::new(&mut this.stream).poll_shutdown(cx);
        }
        if this.closing == Closing::No {
            // An error means that the client is gone: nothing to hear.
            if ready!(Pin::new(&mut this.stream).poll_shutdown(cx)).is_err() {
                this.closing = Closing::Done;
            } else {
                this.closing = Closing::Lingering { until: Instant::now() + LINGER, bytes: LINGER_BYTES };
            }
        }
        ready!(this.poll_linger(cx));
        this.closing = Closing::Done;
        Poll::Ready(Ok(()))
    }
}

impl<S: Stream> Drop for Guard<S> {
    fn drop(&mut self) {
        let cut_short = self.link.abort() || std::thread::panicking();
        if cut_short && self.closing != Closing::Done {
            self.stream.abort();
        }
    }
}

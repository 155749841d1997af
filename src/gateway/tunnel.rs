//! A WebSocket between client and upstream (RFC 6455): bytes pass unread in both directions, each as fast as its
//! receiver takes them, until both sides have ended, nothing has moved for too long, the token is cut, or the process
//! ends.
//!
//! An idle tunnel holds no buffer: what is read goes on at once, and only what the receiver did not take is kept,
//! [`READ_BYTES`] at most. Of the payload only the ends of frames are known, so that a Close frame can be put between
//! two of them when the token is revoked or expires.

use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::ext::Protocol;
use http::Request;
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep, timeout};

use super::frames::{self, Frames};
use super::live::Cause;
use super::parting::{First, Parting};
use super::story::Ending;
use crate::answer::{Body, Code, Handover, Hold, Problem};
use crate::route::Head;
use crate::upstream::{self, Exchange};

/// What is read at once, and the most that is kept of one direction.
const READ_BYTES: usize = 16 * 1024;
/// After one side has ended, this much silence ends the other.
const HALF_OPEN: Duration = Duration::from_secs(10);
/// A frame that is under way when its token is cut has so long to end; else the tunnel ends within it.
const FRAME_WITHIN: Duration = Duration::from_millis(250);
/// So long do both sides have to hang up after the Close frame. Closing at once would reset the connection where
/// something of theirs is unread, and the reset might overtake the frame.
const LINGER: Duration = Duration::from_secs(1);

/// A tunnel whose 101 (200 over HTTP/2) is on its way to the client.
pub(super) struct Tunnel {
    client: Client,
    /// The upstream's connection.
    server: upstream::Tunnel,
    /// The first that begins ends it.
    parting: Option<First>,
}

/// The client's side of a tunnel.
pub(super) struct Client {
    /// Comes once the answer's head is written.
    handover: Handover,
    /// Its place on a connection that it shares.
    hold: Option<Hold>,
}

/// The client's side, when its request asks for a WebSocket. One with a body is served without the upgrade, as are all
/// other upgrades.
pub(super) fn asked_for(head: &Head, request: &mut Request<Body>) -> Option<Client> {
    if !head.wants_websocket() || !request.body().is_end_stream() {
        return None;
    }
    let extensions = request.extensions_mut();
    let handover = extensions.remove()?;
    // It speaks of this connection: nothing of it goes on to the upstream.
    extensions.remove::<Protocol>();
    Some(Client { handover, hold: extensions.remove() })
}

/// The tunnel that the upstream has switched to.
///
/// # Errors
/// 502 where there is none, and the client would take the answer for one.
pub(super) fn opened(
    head: &Head,
    client: Option<Client>,
    exchange: &mut Exchange,
) -> Result<Option<Tunnel>, Problem> {
    match client.zip(exchange.tunnel.take()) {
        Some((client, server)) => Ok(Some(Tunnel { client, server, parting: None })),
        None if exchange.response.status().is_success() => no_tunnel(head, Code::UpstreamProtocolError),
        None => Ok(None),
    }
}

/// Refuses with this code who asks for a WebSocket over HTTP/2 where there is none: it would take any 2xx for one.
///
/// # Errors
/// As said.
pub(super) fn no_tunnel<T>(head: &Head, code: Code) -> Result<Option<T>, Problem> {
    match head.is_extended_connect() {
        true => Err(Problem::new(code, "there is no WebSocket here")),
        false => Ok(None),
    }
}

/// How the passing of bytes ended.
enum End {
    Both,
    Broken,
    Idle,
    Cut(Cause),
    /// Its listener or the process ends.
    Parting,
}

impl Tunnel {
    /// Has it end with a good-bye when one of these begins.
    pub(super) fn ends_with(&mut self, partings: &Arc<[Parting; 2]>) {
        self.parting = Some(First::of(partings));
    }

    /// Passes bytes until the tunnel ends, then ends the story.
    pub(super) async fn run(self, mut ending: Ending) {
        let Client { handover, hold } = self.client;
        let Some(client) = handover.take().await else { return };
        let idle = self.server.idle;
        let mut link = Link { client, server: self.server, up: Way::default(), down: Way::default() };
        let end = link.pass(idle, &mut ending, self.parting).await;
        let farewell = match end {
            End::Cut(cause) => Some((frames::POLICY, cause.words())),
            End::Parting => Some((frames::GOING_AWAY, "going away")),
            End::Both | End::Broken | End::Idle => None,
        };
        if let Some((code, words)) = farewell {
            let said = link.say_farewell(code, words).await;
            ending.bytes = link.down.bytes;
            drop(ending);
            if said {
                link.linger().await;
            }
            abandon(hold.as_ref());
            return;
        }
        if matches!(end, End::Idle) {
            abandon(hold.as_ref());
        }
        let closed = link.up.frames.closed() && link.down.frames.closed();
        ending.bytes = link.down.bytes;
        ending.complete = closed || matches!(end, End::Both);
    }
}

/// Dropping a connection throws away what its client has not taken; a stream waits for it until it is told not to.
fn abandon(hold: Option<&Hold>) {
    if let Some(hold) = hold {
        hold.0.abandon();
    }
}

/// Both connections, and the two ways between them.
struct Link<C, S> {
    client: C,
    server: S,
    up: Way,
    down: Way,
}

impl<C, S> Link<C, S>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    async fn pass(&mut self, idle: Option<Duration>, ending: &mut Ending, mut parting: Option<First>) -> End {
        let mut limit = idle;
        let mut moved = Instant::now();
        let mut alarm = pin!(sleep(idle.unwrap_or(HALF_OPEN)));
        let (mut up_over, mut down_over) = (false, false);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(cause) = ending.poll_cut(cx) {
                return Poll::Ready(End::Cut(cause));
            }
            if parting.as_mut().is_some_and(|parting| parting.poll(cx).is_ready()) {
                return Poll::Ready(End::Parting);
            }
            let before = self.up.bytes + self.down.bytes;
            let Self { client, server, up, down } = self;
            for (over, polled) in [
                (&mut up_over, up.poll_pass(cx, client, server)),
                (&mut down_over, down.poll_pass(cx, server, client)),
            ] {
                match polled {
                    Poll::Ready(Ok(())) if !*over => {
                        *over = true;
                        limit = Some(idle.map_or(HALF_OPEN, |idle| idle.min(HALF_OPEN)));
                        moved = Instant::now();
                        alarm.as_mut().reset(moved); // for a look at the new limit
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(End::Broken),
                    _ => {}
                }
            }
            if up_over && down_over {
                return Poll::Ready(End::Both);
            }
            if up.bytes + down.bytes != before {
                moved = Instant::now();
            }
            let Some(limit) = limit else { return Poll::Pending };
            loop {
                ready!(alarm.as_mut().poll(cx));
                let next = moved.checked_add(limit).unwrap_or_else(|| Instant::now() + HALF_OPEN);
                if next <= Instant::now() {
                    return Poll::Ready(End::Idle);
                }
                alarm.as_mut().reset(next);
            }
        })
        .await
    }

    /// Puts a Close frame between two frames in each direction and ends it; whether both could be told in time.
    async fn say_farewell(&mut self, code: u16, words: &str) -> bool {
        let mut mask = [0; 4];
        // Any mask will do for words that we choose ourselves.
        let _ = getrandom::fill(&mut mask);
        self.down.part(frames::close(code, words, None));
        self.up.part(frames::close(code, words, Some(mask)));
        let Self { client, server, up, down } = self;
        let both = std::future::poll_fn(|cx| {
            // Who is gone need not be told.
            let up = up.poll_pass(cx, client, server).is_ready();
            let down = down.poll_pass(cx, server, client).is_ready();
            if up && down { Poll::Ready(()) } else { Poll::Pending }
        });
        timeout(FRAME_WITHIN, both).await.is_ok()
    }

    /// Hears both sides out, to no effect, until they hang up.
    async fn linger(&mut self) {
        let Self { client, server, .. } = self;
        let both = std::future::poll_fn(|cx| {
            let (client, server) = (poll_out(cx, client), poll_out(cx, server));
            if client.is_ready() && server.is_ready() { Poll::Ready(()) } else { Poll::Pending }
        });
        let _ = timeout(LINGER, both).await;
    }
}

/// One way: from the side that is read to the side that is written.
#[derive(Default)]
struct Way {
    /// Read, and not taken by the receiver yet; from `at` on.
    kept: Vec<u8>,
    at: usize,
    /// Follows what was written.
    frames: Frames,
    bytes: u64,
    unflushed: bool,
    /// To be written after the frame that is under way, and nothing after it.
    farewell: Option<Vec<u8>>,
    /// Nothing more is read.
    ended: bool,
    shut: bool,
}

impl Way {
    /// Has this way end with a Close frame, after the frame that is under way.
    fn part(&mut self, close: Vec<u8>) {
        if let Some(rest) = self.frames.rest_in(&self.kept[self.at..]) {
            self.kept.truncate(self.at + rest);
        }
        self.farewell = Some(close);
    }

    /// Passes bytes on until the reading side has ended; ready when that was told to the writing side.
    fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        loop {
            while self.at < self.kept.len() {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.kept[self.at..]))?;
                let kept = std::mem::take(&mut self.kept);
                let wrote = self.wrote(&kept[self.at..], written);
                self.kept = kept;
                wrote?;
                self.at += written;
            }
            (self.kept, self.at) = (Vec::new(), 0);
            if self.frames.is_between()
                && let Some(close) = self.farewell.take()
            {
                self.ended = true;
                // After a Close frame nothing may follow, not even another.
                if !self.frames.closed() {
                    self.kept = close;
                }
                continue;
            }
            if self.ended {
                if !self.shut {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.shut = true;
                }
                return Poll::Ready(Ok(()));
            }
            let mut scratch = [MaybeUninit::uninit(); READ_BYTES];
            let mut read = ReadBuf::uninit(&mut scratch);
            if Pin::new(&mut *from).poll_read(cx, &mut read)?.is_pending() {
                if self.unflushed {
                    ready!(Pin::new(&mut *to).poll_flush(cx))?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
            self.ended = read.filled().is_empty();
            self.offer(cx, to, read.filled())?;
        }
    }

    /// Writes what the receiver takes now and keeps the rest.
    fn offer(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
        mut bytes: &[u8],
    ) -> io::Result<()> {
        if self.farewell.is_some() {
            bytes = &bytes[..self.frames.rest_in(bytes).unwrap_or(bytes.len())];
        }
        while !bytes.is_empty() {
            let Poll::Ready(written) = Pin::new(&mut *to).poll_write(cx, bytes)? else {
                self.kept.extend_from_slice(bytes);
                break;
            };
            self.wrote(bytes, written)?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    fn wrote(&mut self, bytes: &[u8], written: usize) -> io::Result<()> {
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.frames.pass(&bytes[..written]);
        self.bytes += written as u64;
        self.unflushed = true;
        Ok(())
    }
}

/// Reads and forgets; ready at the end.
fn poll_out(cx: &mut Context<'_>, from: &mut (impl AsyncRead + Unpin)) -> Poll<()> {
    let mut scratch = [MaybeUninit::uninit(); READ_BYTES];
    loop {
        let mut read = ReadBuf::uninit(&mut scratch);
        match ready!(Pin::new(&mut *from).poll_read(cx, &mut read)) {
            Ok(()) if !read.filled().is_empty() => {}
            _ => return Poll::Ready(()),
        }
    }
}

#[cfg(test)]
mod tests;

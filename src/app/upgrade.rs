//! A new version takes the place of the old one without a refused connection (SIGUSR2).
//!
//! The old process starts the program anew, from the path that it was started from itself, with a socket pair as its
//! standard input. Over that it hands the listening sockets, and the two agree, a line at a time:
//!
//! ```text
//!   old   sockets ──────────────── go, memory ────── ends when all it serves has ended
//!                                 ↗    ↘                              ↑ (it refuses what they say)
//!   new   configuration ─ prepared      log, store ─ serving ─ revocations, as they come in force
//! ```
//!
//! The [memory](super::memory) is sent where the new one has said that it reads it ([`PREPARED_TO_READ`]), and that it says
//! only to a process that has said that it can ([`TELLS`]): versions that know nothing of it can come before or after.
//!
//! Until `prepared` nothing has changed, and a new process that ends costs nothing. Then the old one stops accepting,
//! lets what is at work on the log and the store end, and gives the log's lock back. From there to `serving` clients that
//! connect wait in the kernel's queue; the sockets are never closed. If the new process fails in that time, the old one
//! opens its log again and goes on.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use super::memory::Memory;
use crate::clock::UnixTime;
use crate::fleet::{Batch, BatchEntry};
use crate::gateway::Live;
use crate::revocation::{self, Revocation};
use crate::server::{Inherited, Listener};

/// The process whose place is to be taken.
const SUCCEEDS: &str = "PORTCULLIS_SUCCEEDS";
/// The same process, if it can tell what it knows by heart.
const TELLS: &str = "PORTCULLIS_TELLS";
/// What a new process says that is ready.
const PREPARED: &str = "prepared";
/// The same, of one that wants to be told.
const PREPARED_TO_READ: &str = "prepared to read";
/// What the old process says then.
const GO: &str = "go";
/// And what the new one says at last.
const SERVING: &str = "serving";
/// For reading what it is told.
const READ_WITHIN: Duration = Duration::from_secs(60);
/// For reading the configuration.
const PREPARED_WITHIN: Duration = Duration::from_secs(60);
/// For reading snapshot and log, however large they are.
const SERVING_WITHIN: Duration = Duration::from_secs(600);
/// Sockets that one message can carry (SCM_MAX_FD).
const SOCKETS_MAX: usize = 253;
/// Their names.
const NAMES_BYTES_MAX: usize = 128 * 1024;

/// The new process, as the old one has it.
pub(super) struct Successor {
    child: Child,
    way: BufReader<UnixStream>,
    /// It wants to be told what this process knows.
    reads: bool,
}

impl Successor {
    /// Starts `program` with the arguments of this process, hands it these sockets, each with its name, and waits until
    /// it is prepared. Blocks.
    ///
    /// # Errors
    /// It cannot be started, or ends by itself; it has said why on standard error.
    pub(super) fn prepare(program: &Path, sockets: &[(String, Listener)]) -> anyhow::Result<Self> {
        let (ours, theirs) = UnixStream::pair().context("no socket pair can be had")?;
        let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
        let child = Command::new(program)
            .args(arguments)
            .env(SUCCEEDS, std::process::id().to_string())
            .env(TELLS, std::process::id().to_string())
            .stdin(OwnedFd::from(theirs))
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut successor = Self { child, way: BufReader::new(ours), reads: false };
        let words = [PREPARED, PREPARED_TO_READ];
        let prepared = successor.give(sockets).and_then(|()| successor.expect(&words, PREPARED_WITHIN));
        match prepared {
            Ok(word) => successor.reads = word == PREPARED_TO_READ,
            Err(error) => {
                successor.end();
                return Err(error);
            }
        }
        Ok(successor)
    }

    /// Lets it have the log and what this process knows by heart, and waits until it serves. Blocks.
    ///
    /// # Errors
    /// It has failed, and has ended.
    pub(super) fn take_over(&mut self, memory: &Memory) -> anyhow::Result<()> {
        let told = self.tell(memory).context("it does not listen");
        let served = told.and_then(|()| self.expect(&[SERVING], SERVING_WITHIN));
        served.map(drop).inspect_err(|_| self.end())
    }

    fn tell(&mut self, memory: &Memory) -> std::io::Result<()> {
        let way = self.way.get_mut();
        way.set_write_timeout(Some(READ_WITHIN))?;
        writeln!(way, "{GO}")?;
        if self.reads { memory.write(way) } else { Ok(()) }
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Puts in force here what comes in force there, on a thread of its own, until either process ends: what is still
    /// served here is refused, or cut, as it would be there.
    pub(super) fn obey(self, log: revocation::Handle, live: &Live) {
        let mut cutter = live.projection();
        let _ = self.way.get_ref().set_read_timeout(None);
        let obey = move || {
            for line in self.way.lines() {
                let Ok(line) = line else { return };
                let bytes = URL_SAFE_NO_PAD.decode(line).ok();
                let Some(batch) = bytes.and_then(|bytes| Batch::read(&bytes).ok()) else { return };
                let entries: Vec<Revocation> =
                    batch.entries.into_iter().map(|entry| entry.revocation).collect();
                log.learn(&entries);
                cutter.applied(0, &entries);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("successor".to_owned()).spawn(obey) {
            tracing::warn!(%error, "revocations made from now on are not seen by what still runs here");
        }
    }

    fn give(&self, sockets: &[(String, Listener)]) -> anyhow::Result<()> {
        if sockets.len() > SOCKETS_MAX {
            bail!("{} listeners are more than can be handed over", sockets.len());
        }
        let names: Vec<&str> = sockets.iter().map(|(name, _)| name.as_str()).collect();
        let names = serde_json::to_vec(&names).context("names of listeners")?;
        let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            bail!("the listeners do not fit one message");
        }
        let sent = rustix::net::sendmsg(
            self.way.get_ref(),
            &[IoSlice::new(&names)],
            &mut control,
            SendFlags::empty(),
        );
        match sent {
            Ok(bytes) if bytes == names.len() => Ok(()),
            Ok(_) => bail!("the names of the listeners do not fit one message"),
            Err(error) => Err(error).context("the listeners cannot be handed over"),
        }
    }

    /// Waits for one of these words.
    fn expect(&mut self, words: &[&'static str], within: Duration) -> anyhow::Result<&'static str> {
        self.way.get_ref().set_read_timeout(Some(within))?;
        let mut line = String::new();
        match self.way.read_line(&mut line) {
            Ok(0) => bail!("the new process has ended; it has said why"),
            Ok(_) => {
                let word = words.iter().find(|word| **word == line.trim_end());
                word.copied().context("the new process does not know how to take over")
            }
            Err(error) => Err(error).with_context(|| format!("the new process is not {}", words[0])),
        }
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The old process, as the new one has it.
pub(super) struct Predecessor(BufReader<UnixStream>);

impl Predecessor {
    /// The process whose place this one is to take, and its sockets; `None` for one that was started by itself.
    ///
    /// # Errors
    /// The other does not speak as it should.
    pub(super) fn meet() -> anyhow::Result<Option<(Self, Inherited)>> {
        let parent = std::env::var(SUCCEEDS).ok().and_then(|id| id.parse().ok());
        // The variable goes on to whatever this process may start.
        if parent != Some(std::os::unix::process::parent_id()) {
            return Ok(None);
        }
        let way = std::io::stdin().as_fd().try_clone_to_owned().context("no standard input")?;
        let way = UnixStream::from(way);
        let mut names = vec![0; NAMES_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            &way,
            &mut [IoSliceMut::new(&mut names)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        let bytes = received.context("no listeners were handed over")?.bytes;
        let names: Vec<String> = serde_json::from_slice(&names[..bytes]).context("names of listeners")?;
        let mut sockets = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                sockets.extend(descriptors);
            }
        }
        if sockets.len() != names.len() {
            bail!("{} listeners were handed over under {} names", sockets.len(), names.len());
        }
        let sockets = sockets.into_iter().map(Listener::adopt).collect::<Result<Vec<_>, _>>();
        let sockets = sockets.context("a listener cannot be taken over")?;
        Ok(Some((Self(BufReader::new(way)), Inherited::of(names.into_iter().zip(sockets).collect()))))
    }

    /// Says that all is ready, and waits until the log is free; what the other knows by heart. Blocks.
    ///
    /// # Errors
    /// The other has ended, or has thought better of it.
    pub(super) fn release(&mut self) -> anyhow::Result<Memory> {
        // Both variables go on to whatever a process starts, which may know only one of them.
        let tells =
            std::env::var(TELLS).is_ok_and(|id| id == std::os::unix::process::parent_id().to_string());
        let word = if tells { PREPARED_TO_READ } else { PREPARED };
        writeln!(self.0.get_mut(), "{word}").context("the old process is gone")?;
        let mut line = String::new();
        self.0.read_line(&mut line).context("the old process is gone")?;
        if line.trim_end() != GO {
            bail!("the old process goes on serving");
        }
        match tells {
            true => Memory::read(&mut self.0).context("the old process does not tell what it knows"),
            false => Ok(Memory::default()),
        }
    }

    /// Says that this process serves, and from then on what comes in force behind `position` of the log.
    ///
    /// # Errors
    /// The other is gone.
    pub(super) fn serving(mut self, log: &revocation::Handle, position: u64) -> anyhow::Result<()> {
        writeln!(self.0.get_mut(), "{SERVING}").context("the old process is gone")?;
        let way = self.0.into_inner();
        way.set_nonblocking(true).context("standard input")?;
        let log = log.clone();
        tokio::spawn(async move {
            let Ok(mut way) = tokio::net::UnixStream::from_std(way) else { return };
            let mut follower = log.follow(position);
            while let Ok(records) = follower.next().await {
                let entries = records
                    .into_iter()
                    .map(|record| BatchEntry { sequence: record.sequence, revocation: record.revocation });
                let batch =
                    Batch { gateway: log.gateway(), sent_at: UnixTime::ZERO, entries: entries.collect() };
                let line = URL_SAFE_NO_PAD.encode(batch.payload()) + "\n";
                if tokio::io::AsyncWriteExt::write_all(&mut way, line.as_bytes()).await.is_err() {
                    return; // all that it served has ended
                }
            }
        });
        Ok(())
    }
}

//! Bind, accept, hand over.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockFilter, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::Instant;

use super::LiveRules;
use super::connection::{Entrant, Handler, Site};
use super::drain::{Drain, Phase};
use super::layers::{self, LiveLayers};
use super::settings::Listen;
use super::stream::Stream;
use crate::route::Peer;
use crate::worker::Workers;

/// Connections that the kernel has set up and we have not accepted yet.
const BACKLOG: i32 = 4096;

/// How long the door stays open for the next of those who connected before the drain began.
const LAST_CALL: Duration = Duration::from_millis(10);

/// How long the accept loop rests when the process has no descriptor or memory for another connection.
const REST: Duration = Duration::from_millis(50);

/// A socket filter of one instruction: no byte of any packet is let through (`ret #0`).
const NOTHING: [SockFilter; 1] = [SockFilter::new(0x06, 0, 0, 0)];

/// A bound socket that nobody serves yet.
#[derive(Debug)]
pub struct Listener(Bound);

#[derive(Debug)]
enum Bound {
    Tcp(std::net::TcpListener, SocketAddr),
    Unix(std::os::unix::net::UnixListener, PathBuf),
}

impl Listener {
    /// Binds and listens; from here on clients can connect, and wait. Port 0 takes any free one. A Unix socket that
    /// nobody listens on any more is replaced; owner and group of the process may connect to it.
    ///
    /// # Errors
    /// Whatever the system says: the address is taken, not ours, or not allowed.
    pub fn bind(listen: &Listen) -> io::Result<Self> {
        match listen {
            Listen::Tcp(address) => Self::bind_tcp(*address, false),
            Listen::Unix(path) => Self::bind_unix(path),
        }
    }

    /// The same on a port that some of `going`, listeners of ours that will go, may still have: `0.0.0.0:80` while
    /// `127.0.0.1:80` is open. Else there would be a moment in which nobody listens. They are as they were afterwards.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub fn bind_beside(listen: &Listen, going: &[&Self]) -> io::Result<Self> {
        let taken = match Self::bind(listen) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => error,
            other => return other,
        };
        let Listen::Tcp(address) = listen else { return Err(taken) };
        let in_the_way = going.iter().filter(|listener| listener.has_port_of(listen));
        let in_the_way: Vec<_> = in_the_way.map(|listener| SockRef::from(*listener)).collect();
        if in_the_way.is_empty() {
            return Err(taken);
        }
        // Only between sockets that all have it, and of one user, does the kernel not mind; that it is set later is enough.
        in_the_way.iter().try_for_each(|socket| socket.set_reuse_port(true))?;
        let bound = Self::bind_tcp(*address, true);
        // Nobody else is to come in by it.
        let closed = in_the_way.iter().try_for_each(|socket| socket.set_reuse_port(false));
        let bound = bound?;
        if let Bound::Tcp(socket, _) = &bound.0 {
            SockRef::from(socket).set_reuse_port(false)?;
        }
        closed.map(|()| bound)
    }

    fn bind_tcp(address: SocketAddr, beside: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restart must not wait for connections of the last run in TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(beside)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let socket = std::net::TcpListener::from(socket);
        let local = socket.local_addr()?;
        Ok(Self(Bound::Tcp(socket, local)))
    }

    fn bind_unix(path: &Path) -> io::Result<Self> {
        let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
        // Left behind by a process that was killed: nobody answers there.
        if is_socket
            && std::os::unix::net::UnixStream::connect(path)
                .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        {
            std::fs::remove_file(path)?;
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(path)?)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        socket.listen(BACKLOG)?;
        Ok(Self(Bound::Unix(socket.into(), path.to_owned())))
    }

    /// Takes a listening socket over as it is.
    ///
    /// # Errors
    /// It is no socket of a kind that we listen on.
    pub fn adopt(socket: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(socket);
        socket.set_nonblocking(true)?;
        let local = socket.local_addr()?;
        if let Some(address) = local.as_socket() {
            return Ok(Self(Bound::Tcp(socket.into(), address)));
        }
        let path = local.as_pathname().map(Path::to_owned);
        let path =
            path.ok_or_else(|| io::Error::other("neither a TCP socket nor a Unix socket with a path"))?;
        Ok(Self(Bound::Unix(socket.into(), path)))
    }

    /// Another handle to the same socket: it listens until the last is dropped, whoever accepts meanwhile.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(match &self.0 {
            Bound::Tcp(socket, local) => Bound::Tcp(socket.try_clone()?, *local),
            Bound::Unix(socket, path) => Bound::Unix(socket.try_clone()?, path.clone()),
        }))
    }

    /// Takes the name of a Unix socket away, so that nobody finds it any more.
    pub fn unlink(&self) {
        if let Bound::Unix(_, path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Whether this one has the port that `listen` asks for, at whatever address.
    pub fn has_port_of(&self, listen: &Listen) -> bool {
        let asked = match listen {
            Listen::Tcp(address) => Some(address.port()),
            Listen::Unix(_) => None,
        };
        asked.is_some() && self.local_addr().map(|local| local.port()) == asked
    }

    /// Whether all who can connect to `other` could connect here, too, if it went; the two are not the same socket.
    pub fn stands_in_for(&self, other: &Self) -> bool {
        let (Some(here), Some(there)) = (self.local_addr(), other.local_addr()) else { return false };
        here.ip().is_unspecified() && here.port() == there.port() && here != there
    }

    /// Has the kernel pass over whoever connects from now on, as if the packet had been lost: they try again within a
    /// second or so, and find who listens on that port then. Who is waiting already can still be accepted. Without it,
    /// those who come in the last moment would be reset when the socket is closed.
    pub fn turn_away(&self) {
        if let Bound::Tcp(socket, _) = &self.0
            && let Err(error) = SockRef::from(socket).attach_filter(&NOTHING)
        {
            tracing::debug!(%error, "who connects in the last moment is not passed over");
        }
    }

    /// The address it is bound to, with the real port; `None` for a Unix socket.
    pub const fn local_addr(&self) -> Option<SocketAddr> {
        match &self.0 {
            Bound::Tcp(_, local) => Some(*local),
            Bound::Unix(..) => None,
        }
    }

    /// Whether this socket is what `listen` asks for. systemd writes `[::]:80` for a plain `ListenStream=80`.
    fn fits(&self, listen: &Listen) -> bool {
        match (&self.0, listen) {
            (Bound::Tcp(_, local), Listen::Tcp(asked)) => {
                let everywhere = local.ip().is_unspecified() && asked.ip().is_unspecified();
                local == asked || everywhere && local.port() == asked.port()
            }
            (Bound::Unix(_, path), Listen::Unix(asked)) => path == asked,
            _ => false,
        }
    }
}

/// To be handed over to another process.
impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Bound::Tcp(socket, _) => socket.as_fd(),
            Bound::Unix(socket, _) => socket.as_fd(),
        }
    }
}

impl std::fmt::Display for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Bound::Tcp(_, local) => local.fmt(f),
            Bound::Unix(_, path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Sockets that whoever started the process has bound for it (socket activation, sd_listen_fds(3)).
#[derive(Debug, Default)]
pub struct Inherited(Vec<(Option<String>, Listener)>);

impl Inherited {
    /// All that were handed over. To be called once.
    pub fn take() -> Self {
        let mut handed = listenfd::ListenFd::from_env();
        let count = handed.len();
        let take = |index| {
            if let Ok(Some(socket)) = handed.take_tcp_listener(index) {
                return Listener::adopt(socket.into()).ok();
            }
            Listener::adopt(handed.take_unix_listener(index).ok()??.into()).ok()
        };
        Self((0..count).filter_map(take).map(|listener| (None, listener)).collect())
    }

    /// These ones, each with a name that says for what it is.
    pub fn of(listeners: Vec<(String, Listener)>) -> Self {
        Self(listeners.into_iter().map(|(name, listener)| (Some(name), listener)).collect())
    }

    /// The socket of this name, or for this address, if it was handed over; else it is bound, where need be
    /// [beside](Listener::bind_beside) those that were handed over and `going`.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub fn or_bind(&mut self, name: &str, listen: &Listen, going: &[&Listener]) -> io::Result<Listener> {
        let named = self.0.iter().position(|(its, _)| its.as_deref() == Some(name));
        match named.or_else(|| self.0.iter().position(|(_, listener)| listener.fits(listen))) {
            Some(index) => Ok(self.0.remove(index).1),
            None => {
                let going: Vec<_> = going.iter().copied().chain(self.0.iter().map(|(_, its)| its)).collect();
                Listener::bind_beside(listen, &going)
            }
        }
    }

    /// Those that nothing has asked for, with their names if they have some.
    pub fn left(self) -> impl Iterator<Item = (Option<String>, Listener)> {
        self.0.into_iter()
    }
}

/// Accepts connections on `listener` and has `handler` answer their requests, until `drain` begins; then returns,
/// with its handle to the socket dropped. `layers` stand between a socket and HTTP. Connections run on in tasks of their
/// own, on `workers`: [`Drain::stop`] waits for them.
///
/// # Errors
/// Only when the socket cannot be given to the runtime. What goes wrong while accepting is logged and survived.
pub async fn serve<H: Handler>(
    listener: Listener,
    layers: LiveLayers,
    handler: H,
    rules: LiveRules,
    drain: Drain,
    workers: Workers,
) -> io::Result<()> {
    tracing::debug!(%listener, "accepting connections");
    let site = Arc::new(Site::new(handler, layers, rules, drain));
    match listener.0 {
        Bound::Tcp(socket, local) => {
            let socket = TcpListener::from_std(socket)?;
            accept_all(Tcp { socket, local }, site, workers).await;
        }
        Bound::Unix(socket, _) => {
            let socket = UnixListener::from_std(socket)?;
            accept_all(socket, site, workers).await;
        }
    }
    Ok(())
}

/// Where connections come from.
trait Accept {
    /// A connection that is woken by the reactor of whoever accepted it.
    type Accepted: Send + 'static;
    type Stream: Stream;
    /// The next one. Dropping the future loses none.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Accepted, Peer)>> + Send;
    /// The same, woken by the reactor of the thread that calls this.
    fn moved_here(accepted: Self::Accepted) -> io::Result<Self::Stream>;
}

struct Tcp {
    socket: TcpListener,
    local: SocketAddr,
}

impl Accept for Tcp {
    type Accepted = TcpStream;
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Peer)> {
        let (stream, address) = self.socket.accept().await?;
        // Heads and small bodies go out at once; a failure means that the client has gone already.
        let _ = stream.set_nodelay(true);
        // On a wildcard address each connection has its own; asking costs a system call, so only there.
        let local = if self.local.ip().is_unspecified() {
            stream.local_addr().unwrap_or(self.local)
        } else {
            self.local
        };
        Ok((stream, Peer { address: Some(address), local: Some(local), secure: false, tls: None }))
    }

    fn moved_here(accepted: TcpStream) -> io::Result<TcpStream> {
        TcpStream::from_std(accepted.into_std()?)
    }
}

impl Accept for UnixListener {
    type Accepted = UnixStream;
    // One type for everything beside TCP: what comes by a Unix socket does not hang on a call.
    type Stream = Box<dyn Stream>;

    async fn accept(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = Self::accept(self).await?;
        Ok((stream, Peer::default()))
    }

    fn moved_here(accepted: UnixStream) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(UnixStream::from_std(accepted.into_std()?)?))
    }
}

async fn accept_all<A: Accept, H: Handler>(source: A, site: Arc<Site<H>>, workers: Workers) {
    let mut draining = pin!(site.drain.reached(Phase::Draining));
    let mut quiet_until: Option<Instant> = None;
    while site.drain.phase() == Phase::Serving {
        // Looked at first: where the door is handed over, whoever comes now is somebody else's.
        let accepted = tokio::select! {
            biased;
            () = &mut draining => break,
            accepted = source.accept() => accepted,
        };
        let error = match accepted {
            Ok((stream, peer)) => {
                welcome::<A, H>(stream, peer, &site, &workers);
                continue;
            }
            Err(error) if concerns_one_connection(&error) => continue,
            Err(error) => error,
        };
        let now = Instant::now();
        if quiet_until.is_none_or(|until| now >= until) {
            tracing::warn!(%error, "cannot accept connections; trying again");
            quiet_until = Some(now + Duration::from_secs(1));
        }
        tokio::select! {
            () = tokio::time::sleep(REST) => {}
            () = &mut draining => break,
        }
    }
    if site.drain.is_handed_over() {
        return; // who waits at the door is served by whoever has the socket now
    }
    // Who connected before the drain began is still served; no more than can have waited at the door.
    for _ in 0..BACKLOG {
        match tokio::time::timeout(LAST_CALL, source.accept()).await {
            Ok(Ok((stream, peer))) => welcome::<A, H>(stream, peer, &site, &workers),
            _ => return,
        }
    }
}

fn welcome<A: Accept, H: Handler>(accepted: A::Accepted, peer: Peer, site: &Arc<Site<H>>, workers: &Workers) {
    let now = Instant::now();
    if let Some((admission, ticket)) = site.drain.admit(site.rules.load().max_connections) {
        let layers = site.layers.load_full();
        let entrant = Entrant { site: Arc::clone(site), layers, accepted: now, admission, ticket };
        workers.place().carry(async move {
            match A::moved_here(accepted) {
                Ok(stream) => layers::enter(stream, peer, entrant).await,
                Err(error) => tracing::warn!(%error, "cannot serve a connection"),
            }
        });
    }
}

/// The client was gone before we came to it (accept(2): network errors of the new socket are handed on).
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::runtime::Handle;

    use super::*;
    use crate::answer::{Body, Interim, Problem};
    use crate::server::{HeadFacts, HeadLimits, Layers, Rules};

    #[derive(Clone)]
    struct Empty;

    impl Handler for Empty {
        async fn handle(
            &self,
            _: Peer,
            _: Result<HeadFacts, Problem>,
            _: http::Request<Body>,
            _: &Interim,
        ) -> http::Response<Body> {
            http::Response::new(Body::empty())
        }
    }

    /// Fails in each of these ways first.
    struct Failing(Mutex<Vec<io::Error>>, Tcp);

    impl Accept for Failing {
        type Accepted = TcpStream;
        type Stream = TcpStream;

        fn moved_here(accepted: TcpStream) -> io::Result<TcpStream> {
            Tcp::moved_here(accepted)
        }

        async fn accept(&self) -> io::Result<(TcpStream, Peer)> {
            let error = self.0.lock().unwrap().pop();
            match error {
                Some(error) => Err(error),
                None => self.1.accept().await,
            }
        }
    }

    fn site(drain: &Drain) -> Arc<Site<Empty>> {
        let rules = Rules {
            head: HeadLimits::new(1024, 10, 100),
            header_read_timeout: None,
            body_read_timeout: None,
            idle_timeout: None,
            write_stall: None,
            max_connections: None,
        };
        Arc::new(Site::new(Empty, Layers::default().live(), rules.live(), drain.clone()))
    }

    #[tokio::test]
    async fn accepting_goes_on_after_every_kind_of_failure() {
        let listener = Listener::bind(&Listen::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let Bound::Tcp(socket, local) = listener.0 else { panic!("bound to {listener}") };
        let socket = TcpListener::from_std(socket).unwrap();
        // EMFILE, ENFILE, ENOMEM, ENOBUFS, ECONNABORTED, EPERM, EPROTO on Linux.
        let errors = [24, 23, 12, 105, 103, 1, 71].map(io::Error::from_raw_os_error).into();
        let drain = Drain::new();
        let source = Failing(Mutex::new(errors), Tcp { socket, local });
        let accepting = tokio::spawn(accept_all(source, site(&drain), Workers::one(Handle::current())));
        let mut stream = TcpStream::connect(local).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
        drain.begin();
        accepting.await.unwrap();
    }

    #[tokio::test]
    async fn who_connected_before_the_drain_is_still_served() {
        let listener = Listener::bind(&Listen::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let drain = Drain::new();
        drain.begin();
        let workers = Workers::one(Handle::current());
        serve(listener, Layers::default().live(), Empty, site(&drain).rules.clone(), drain.clone(), workers)
            .await
            .unwrap();
        let mut answer = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    }

    #[test]
    fn a_taken_address_is_an_error() {
        let first = Listener::bind(&Listen::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let again = Listener::bind(&Listen::Tcp(first.local_addr().unwrap())).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn all_of_a_port_can_follow_one_address_of_it_and_the_other_way_round() {
        let listen = |host: &str, port: u16| Listen::Tcp(format!("{host}:{port}").parse().unwrap());
        for (first, second) in [("127.0.0.1", "0.0.0.0"), ("0.0.0.0", "127.0.0.1"), ("0.0.0.0", "[::]")] {
            let first = Listener::bind(&listen(first, 0)).unwrap();
            let port = first.local_addr().unwrap().port();
            let second = listen(second, port);
            assert_eq!(Listener::bind(&second).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            let second = Listener::bind_beside(&second, &[&first]).unwrap();
            assert_eq!(second.stands_in_for(&first), second.local_addr().unwrap().ip().is_unspecified());
            for listener in [&first, &second] {
                let Bound::Tcp(socket, _) = &listener.0 else { panic!("bound to {listener}") };
                assert!(!SockRef::from(socket).reuse_port().unwrap(), "nobody else comes in by it");
            }
            // Who connects before the first is gone comes to the second, if a little late.
            first.turn_away();
            let knocking = std::thread::spawn(move || std::net::TcpStream::connect(("127.0.0.1", port)));
            drop(first);
            knocking.join().unwrap().unwrap();
        }
        // What is not ours is still in the way.
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = Listener::bind(&listen("127.0.0.1", 0)).unwrap();
        let taken = Listener::bind_beside(&listen("0.0.0.0", other.local_addr().unwrap().port()), &[&ours]);
        assert_eq!(taken.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_unix_socket_is_taken_over_from_the_dead_alone() {
        let dir = tempfile::tempdir().unwrap();
        let listen = Listen::Unix(dir.path().join("a.sock"));
        let first = Listener::bind(&listen).unwrap();
        let mode = std::fs::metadata(dir.path().join("a.sock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        assert_eq!(Listener::bind(&listen).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        Listener::bind(&listen).unwrap();
        std::fs::write(dir.path().join("file"), "mine").unwrap();
        assert!(Listener::bind(&Listen::Unix(dir.path().join("file"))).is_err());
        assert_eq!(std::fs::read_to_string(dir.path().join("file")).unwrap(), "mine");
    }

    #[test]
    fn a_socket_fits_its_address() {
        let tcp = |text: &str| Listen::Tcp(text.parse().unwrap());
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let bound = |text: &str| Listener(Bound::Tcp(socket.try_clone().unwrap(), text.parse().unwrap()));
        assert!(bound("127.0.0.1:80").fits(&tcp("127.0.0.1:80")));
        assert!(bound("[::]:80").fits(&tcp("0.0.0.0:80")));
        assert!(!bound("[::]:80").fits(&tcp("0.0.0.0:81")));
        assert!(!bound("[::]:80").fits(&tcp("127.0.0.1:80")));
        assert!(!bound("[::]:80").fits(&Listen::Unix("80".into())));
    }
}

//! Bind, accept, hand over.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::LiveRules;
use super::connection::{Entrant, Handler, Site};
use super::drain::{Drain, Phase};
use super::layers::{self, Layers};
use super::settings::Listen;
use super::stream::Stream;
use crate::route::Peer;

/// Connections that the kernel has set up and we have not accepted yet.
const BACKLOG: i32 = 4096;

/// How long the door stays open for the next of those who connected before the drain began.
const LAST_CALL: Duration = Duration::from_millis(10);

/// How long the accept loop rests when the process has no descriptor or memory for another connection.
const REST: Duration = Duration::from_millis(50);

/// A bound socket that nobody serves yet.
#[derive(Debug)]
pub struct Listener {
    socket: std::net::TcpListener,
    local: SocketAddr,
}

impl Listener {
    /// Binds and listens; from here on clients can connect, and wait. Port 0 takes any free one.
    ///
    /// # Errors
    /// Whatever the system says: the address is taken, not ours, or not allowed. `Unsupported` for a Unix socket.
    pub fn bind(listen: &Listen) -> io::Result<Self> {
        let Listen::Tcp(address) = listen else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "Unix sockets are not available yet"));
        };
        let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
        // A restart must not wait for connections of the last run in TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&(*address).into())?;
        socket.listen(BACKLOG)?;
        let socket = std::net::TcpListener::from(socket);
        let local = socket.local_addr()?;
        Ok(Self { socket, local })
    }

    /// The address it is bound to, with the real port.
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

/// Accepts connections on `listener` and has `handler` answer their requests, until `drain` begins; then returns,
/// with the socket closed. `layers` stand between a socket and HTTP. Connections run on in tasks of their own: [`Drain::stop`] waits for them. Must run on the
/// runtime that is to carry them.
///
/// # Errors
/// Only when the socket cannot be given to the runtime. What goes wrong while accepting is logged and survived.
pub async fn serve<H: Handler>(
    listener: Listener,
    layers: Layers,
    handler: H,
    rules: LiveRules,
    drain: Drain,
) -> io::Result<()> {
    let local = listener.local;
    let socket = TcpListener::from_std(listener.socket)?;
    tracing::debug!(%local, "accepting connections");
    let site = Arc::new(Site::new(handler, layers, rules, drain));
    accept_all(Tcp { socket, local }, site).await;
    Ok(())
}

/// Where connections come from.
trait Accept {
    type Stream: Stream;
    /// The next one. Dropping the future loses none.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

struct Tcp {
    socket: TcpListener,
    local: SocketAddr,
}

impl Accept for Tcp {
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
}

async fn accept_all<A: Accept, H: Handler>(source: A, site: Arc<Site<H>>) {
    let mut draining = pin!(site.drain.reached(Phase::Draining));
    let mut quiet_until: Option<Instant> = None;
    while site.drain.phase() == Phase::Serving {
        let accepted = tokio::select! {
            biased;
            accepted = source.accept() => accepted,
            () = &mut draining => break,
        };
        let error = match accepted {
            Ok((stream, peer)) => {
                welcome(stream, peer, &site);
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
    // Who connected before the drain began is still served; no more than can have waited at the door.
    for _ in 0..BACKLOG {
        match tokio::time::timeout(LAST_CALL, source.accept()).await {
            Ok(Ok((stream, peer))) => welcome(stream, peer, &site),
            _ => return,
        }
    }
}

fn welcome<S: Stream, H: Handler>(stream: S, peer: Peer, site: &Arc<Site<H>>) {
    let now = Instant::now();
    if let Some((admission, ticket)) = site.drain.admit(site.rules.load().max_connections) {
        let entrant = Entrant { site: Arc::clone(site), accepted: now, admission, ticket };
        tokio::spawn(layers::enter(stream, peer, entrant));
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

    use super::*;
    use crate::answer::{Body, Problem};
    use crate::server::{HeadFacts, HeadLimits, Rules};

    #[derive(Clone)]
    struct Empty;

    impl Handler for Empty {
        async fn handle(
            &self,
            _: Peer,
            _: Result<HeadFacts, Problem>,
            _: http::Request<Body>,
        ) -> http::Response<Body> {
            http::Response::new(Body::empty())
        }
    }

    /// Fails in each of these ways first.
    struct Failing(Mutex<Vec<io::Error>>, Tcp);

    impl Accept for Failing {
        type Stream = TcpStream;

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
        Arc::new(Site::new(Empty, Layers::default(), rules.live(), drain.clone()))
    }

    #[tokio::test]
    async fn accepting_goes_on_after_every_kind_of_failure() {
        let listener = Listener::bind(&Listen::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let local = listener.local_addr();
        let socket = TcpListener::from_std(listener.socket).unwrap();
        // EMFILE, ENFILE, ENOMEM, ENOBUFS, ECONNABORTED, EPERM, EPROTO on Linux.
        let errors = [24, 23, 12, 105, 103, 1, 71].map(io::Error::from_raw_os_error).into();
        let drain = Drain::new();
        let source = Failing(Mutex::new(errors), Tcp { socket, local });
        let accepting = tokio::spawn(accept_all(source, site(&drain)));
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
        let mut stream = TcpStream::connect(listener.local_addr()).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let drain = Drain::new();
        drain.begin();
        serve(listener, Layers::default(), Empty, site(&drain).rules.clone(), drain.clone()).await.unwrap();
        let mut answer = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    }

    #[test]
    fn a_taken_address_and_a_unix_socket_are_errors() {
        let first = Listener::bind(&Listen::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let again = Listener::bind(&Listen::Tcp(first.local_addr())).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
        let unix = Listener::bind(&Listen::Unix("x.sock".into())).unwrap_err();
        assert_eq!(unix.kind(), io::ErrorKind::Unsupported);
    }
}

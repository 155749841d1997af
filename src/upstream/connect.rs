//! From a target's address to a connected stream: names resolved anew for each connection, addresses tried in
//! the manner of RFC 8305.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use thiserror::Error;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::settings::Target;
use super::socket::Socket;
use crate::tls::Connect;

/// RFC 8305 §8, Connection Attempt Delay.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Addresses tried for one connection; a name with more of them is answered by the first ones.
const ADDRESSES_MAX: usize = 8;

/// How a target is reached.
#[derive(Debug)]
pub(super) struct Connector {
    at: At,
    tls: Option<Connect>,
    http2: bool,
    limit: Duration,
    /// Connections so far by name: each begins at the next address.
    turn: AtomicUsize,
}

#[derive(Debug)]
enum At {
    Address(SocketAddr),
    Name { host: Box<str>, port: u16 },
    Unix(PathBuf),
}

/// Why there is no connection; nothing was sent.
#[derive(Debug, Error)]
pub(super) enum ConnectError {
    /// Refused, no route, no such name.
    #[error("no connection")]
    Failed(#[source] io::Error),
    /// Neither connected nor refused within the limit.
    #[error("no connection within {0:?}")]
    Timeout(Duration),
}

impl Connector {
    /// `limit` covers resolving the name and the TLS handshake as well.
    pub(super) fn new(target: &Target, limit: Duration) -> Self {
        let authority = &target.authority;
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        let port = authority.port_u16().unwrap_or(80);
        let at = match (&target.unix, bare.parse::<IpAddr>()) {
            (Some(path), _) => At::Unix(path.clone()),
            (None, Ok(ip)) => At::Address(SocketAddr::new(ip, port)),
            (None, Err(_)) => At::Name { host: bare.into(), port },
        };
        Self { at, tls: target.tls.clone(), http2: target.http2, limit, turn: AtomicUsize::new(0) }
    }

    /// The same target by HTTP/1.1, where ALPN can agree on it; by prior knowledge nobody knows both.
    pub(super) fn by_http1(target: &Target, limit: Duration) -> Option<Self> {
        let tls = target.tls.as_ref().filter(|_| target.http2)?.offering(b"http/1.1");
        Some(Self { tls: Some(tls), http2: false, ..Self::new(target, limit) })
    }

    /// How long connecting may take.
    pub(super) const fn limit(&self) -> Duration {
        self.limit
    }

    /// A new connection, with Nagle's algorithm off.
    ///
    /// # Errors
    /// [`ConnectError`]; dropping the future abandons the attempt.
    pub(super) async fn connect(&self) -> Result<Socket, ConnectError> {
        match timeout(self.limit, self.reach()).await {
            Ok(done) => done.map_err(ConnectError::Failed),
            Err(_) => Err(ConnectError::Timeout(self.limit)),
        }
    }

    async fn reach(&self) -> io::Result<Socket> {
        let stream = match &self.at {
            At::Unix(path) => return UnixStream::connect(path).await.map(Socket::Unix),
            At::Address(address) => TcpStream::connect(*address).await?,
            At::Name { host, port } => {
                let found = tokio::net::lookup_host((&**host, *port)).await?;
                first_of(in_turn(found, self.turn.fetch_add(1, Ordering::Relaxed))).await?
            }
        };
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Socket::Tcp(stream)) };
        let connector = TlsConnector::from(tls.config());
        let stream = connector.connect(tls.server_name(), stream).await?;
        // Without this agreement its answer would be HTTP/1.1, if anything.
        if self.http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::other("the target does not speak HTTP/2 (ALPN)"));
        }
        Ok(Socket::Tls(Box::new(stream)))
    }
}

/// Families in turn, beginning with the resolver's first choice (RFC 8305 §4). Within each, every connection begins at
/// the address after the one before: many resolvers always answer in the same order, and the first of the addresses
/// behind a name would get all there is to do.
fn in_turn(found: impl Iterator<Item = SocketAddr>, turn: usize) -> Vec<SocketAddr> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for address in found {
        match first.first() {
            Some(SocketAddr::V4(_)) if address.is_ipv6() => second.push(address),
            Some(SocketAddr::V6(_)) if address.is_ipv4() => second.push(address),
            _ => first.push(address),
        }
    }
    for family in [&mut first, &mut second] {
        let by = turn % family.len().max(1);
        family.rotate_left(by);
    }
    let mut order = Vec::with_capacity(first.len() + second.len());
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    loop {
        match (first.next(), second.next()) {
            (None, None) => break,
            (one, other) => order.extend(one.into_iter().chain(other)),
        }
    }
    order.truncate(ADDRESSES_MAX);
    order
}

/// The first to connect wins; the next one starts when the one before failed or has been silent for a while.
async fn first_of(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
    let mut running = FuturesUnordered::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        match waiting.next() {
            Some(address) => running.push(TcpStream::connect(address)),
            None if running.is_empty() => return Err(last),
            None => {}
        }
        let more = waiting.len() > 0;
        tokio::select! {
            biased;
            done = running.next() => match done {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => last = error,
                None => {}
            },
            () = sleep(ATTEMPT_DELAY), if more => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(authority: &str) -> Target {
        let (url, authority) = (authority.into(), authority.parse().unwrap());
        Target { url, authority, unix: None, tls: None, http2: false, weight: 1 }
    }

    #[test]
    fn addresses_need_no_resolver() {
        for (text, expected) in
            [("127.0.0.1:80", "127.0.0.1:80"), ("[::1]:8080", "[::1]:8080"), ("10.0.0.1", "10.0.0.1:80")]
        {
            let connector = Connector::new(&target(text), Duration::from_secs(1));
            assert!(matches!(connector.at, At::Address(at) if at == expected.parse().unwrap()), "{text}");
        }
        let connector = Connector::new(&target("api.internal:81"), Duration::from_secs(1));
        assert!(matches!(connector.at, At::Name { host, port: 81 } if &*host == "api.internal"));
    }

    #[test]
    fn families_take_turns_after_the_resolvers_first_choice() {
        let all = ["[::1]:1", "[::2]:1", "127.0.0.1:1", "[::3]:1"].map(|text| text.parse().unwrap());
        let expected: Vec<SocketAddr> =
            ["[::1]:1", "127.0.0.1:1", "[::2]:1", "[::3]:1"].map(|text| text.parse().unwrap()).to_vec();
        assert_eq!(in_turn(all.into_iter(), 0), expected);
        let first: Vec<SocketAddr> = (0..4).map(|turn| in_turn(all.into_iter(), turn)[0]).collect();
        assert_eq!(first, ["[::1]:1", "[::2]:1", "[::3]:1", "[::1]:1"].map(|text| text.parse().unwrap()));
        assert_eq!(in_turn(all.into_iter(), 5).len(), 4, "all of them, in whatever turn");
        assert!(in_turn(std::iter::empty(), 3).is_empty());
    }

    #[tokio::test]
    async fn a_refusing_address_does_not_hide_a_good_one() {
        let good = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refusing = gone.local_addr().unwrap();
        drop(gone);
        let stream = first_of(vec![refusing, good.local_addr().unwrap()]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good.local_addr().unwrap());
        assert!(first_of(vec![refusing]).await.is_err());
        assert!(first_of(Vec::new()).await.is_err());
    }
}

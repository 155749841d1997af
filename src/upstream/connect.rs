//! From a target's address to a connected stream: the addresses of a name are tried in the manner of RFC 8305.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use thiserror::Error;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::names::{Answer, Lead, Name};
use super::settings::Target;
use super::socket::Socket;
use crate::tls::Connect;

/// RFC 8305 §8, Connection Attempt Delay.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Addresses tried for one connection; a name with more of them is answered by the first ones.
pub(super) const ADDRESSES_MAX: usize = 8;

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

#[derive(Clone, Debug)]
enum At {
    Address(SocketAddr),
    Name(Arc<Name>),
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

impl ConnectError {
    /// The same, for somebody else.
    pub(super) fn again(&self) -> Self {
        match self {
            Self::Failed(error) => Self::Failed(io::Error::new(error.kind(), error.to_string())),
            Self::Timeout(limit) => Self::Timeout(*limit),
        }
    }
}

/// A connection, and where it leads if that was found by a name.
pub(super) type Reached = (Socket, Option<Lead>);

impl Connector {
    /// `limit` covers resolving the name, which is asked for every so often, and the TLS handshake as well. `before` is
    /// the way to the same target under settings that a reload replaced.
    pub(super) fn new(target: &Target, limit: Duration, every: Duration, before: Option<&Self>) -> Self {
        let authority = &target.authority;
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        let port = authority.port_u16().unwrap_or(80);
        let before = before.and_then(Self::name);
        let at = match (&target.unix, bare.parse::<IpAddr>()) {
            (Some(path), _) => At::Unix(path.clone()),
            (None, Ok(ip)) => At::Address(SocketAddr::new(ip, port)),
            (None, Err(_)) => At::Name(Arc::new(Name::new(bare, port, every, before.map(Arc::as_ref)))),
        };
        Self { at, tls: target.tls.clone(), http2: target.http2, limit, turn: AtomicUsize::new(0) }
    }

    /// The same target by HTTP/1.1, where ALPN can agree on it; by prior knowledge nobody knows both.
    pub(super) fn by_http1(&self) -> Option<Self> {
        let tls = self.tls.as_ref().filter(|_| self.http2)?.offering(b"http/1.1");
        let turn = AtomicUsize::new(0);
        Some(Self { at: self.at.clone(), tls: Some(tls), http2: false, limit: self.limit, turn })
    }

    /// How long connecting may take.
    pub(super) const fn limit(&self) -> Duration {
        self.limit
    }

    /// What has to be resolved.
    pub(super) const fn name(&self) -> Option<&Arc<Name>> {
        match &self.at {
            At::Name(name) => Some(name),
            At::Address(_) | At::Unix(_) => None,
        }
    }

    /// A new connection, with Nagle's algorithm off.
    ///
    /// # Errors
    /// [`ConnectError`]; dropping the future abandons the attempt.
    pub(super) async fn connect(&self) -> Result<Reached, ConnectError> {
        match timeout(self.limit, self.reach()).await {
            Ok(done) => done.map_err(ConnectError::Failed),
            Err(_) => {
                if let Some(name) = self.name() {
                    name.doubt();
                }
                Err(ConnectError::Timeout(self.limit))
            }
        }
    }

    /// The same to this one of the name's addresses.
    pub(super) async fn connect_to(&self, lead: Lead) -> Result<Reached, ConnectError> {
        let reach = async {
            let stream = TcpStream::connect(lead.address).await?;
            Ok((self.over(stream).await?, Some(lead)))
        };
        let done = timeout(self.limit, reach).await.map_err(|_| ConnectError::Timeout(self.limit))?;
        done.map_err(ConnectError::Failed)
    }

    async fn reach(&self) -> io::Result<Reached> {
        let stream = match &self.at {
            At::Unix(path) => {
                let stream = UnixStream::connect(path).await?;
                return Ok((Socket::Unix(stream), None));
            }
            At::Address(address) => TcpStream::connect(*address).await?,
            At::Name(name) => return self.by_name(name).await,
        };
        Ok((self.over(stream).await?, None))
    }

    async fn by_name(&self, name: &Arc<Name>) -> io::Result<Reached> {
        let answer = name.answer(self.limit).await?;
        let order = self.order(&answer, &[]);
        let error = match self.any_of(name, &answer, order.clone()).await {
            Ok(reached) => return Ok(reached),
            Err(error) => error,
        };
        // None of them will have us: these may be the addresses of yesterday.
        let Some(newer) = name.once_more(self.limit).await else { return Err(error) };
        let order = self.order(&newer, &order);
        if order.is_empty() { Err(error) } else { self.any_of(name, &newer, order).await }
    }

    /// One that takes connections and does not speak as it should is passed by, too.
    async fn any_of(&self, name: &Name, answer: &Answer, mut order: Vec<SocketAddr>) -> io::Result<Reached> {
        loop {
            let (stream, at) = first_of(&order).await?;
            let address = order[at];
            let error = match self.over(stream).await {
                Ok(socket) => {
                    name.note(&order[..at], Some(address));
                    return Ok((socket, Some(answer.lead(address))));
                }
                Err(error) => error,
            };
            name.note(&order[..=at], None);
            order.drain(..=at);
            if order.is_empty() {
                return Err(error);
            }
        }
    }

    /// Which addresses are tried, and in which order.
    fn order(&self, answer: &Answer, but: &[SocketAddr]) -> Vec<SocketAddr> {
        let addresses = answer.addresses.iter().copied().filter(|address| !but.contains(address));
        let mut order = in_turn(addresses, self.turn.fetch_add(1, Ordering::Relaxed));
        order.sort_by_key(|address| answer.ill.contains(address));
        order.truncate(ADDRESSES_MAX);
        order
    }

    async fn over(&self, stream: TcpStream) -> io::Result<Socket> {
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
    order
}

/// The first to connect wins, and is told by its place; the next one starts when the one before failed or has been
/// silent for a while.
async fn first_of(addresses: &[SocketAddr]) -> io::Result<(TcpStream, usize)> {
    let mut waiting = addresses.iter().copied().enumerate();
    let mut running = FuturesUnordered::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        match waiting.next() {
            Some((at, address)) => running.push(async move { (TcpStream::connect(address).await, at) }),
            None if running.is_empty() => return Err(last),
            None => {}
        }
        let more = waiting.len() > 0;
        tokio::select! {
            biased;
            done = running.next() => match done {
                Some((Ok(stream), at)) => return Ok((stream, at)),
                Some((Err(error), _)) => last = error,
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

    fn connector(authority: &str) -> Connector {
        let every = Duration::from_secs(10);
        Connector::new(&target(authority), Duration::from_secs(1), every, None)
    }

    #[test]
    fn addresses_need_no_resolver() {
        for (text, expected) in
            [("127.0.0.1:80", "127.0.0.1:80"), ("[::1]:8080", "[::1]:8080"), ("10.0.0.1", "10.0.0.1:80")]
        {
            let connector = connector(text);
            assert!(matches!(connector.at, At::Address(at) if at == expected.parse().unwrap()), "{text}");
        }
        let connector = connector("api.internal:81");
        assert!(matches!(connector.at, At::Name(_)));
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
        let (stream, at) = first_of(&[refusing, good.local_addr().unwrap()]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good.local_addr().unwrap());
        assert_eq!(at, 1);
        assert!(first_of(&[refusing]).await.is_err());
        assert!(first_of(&[]).await.is_err());
    }
}

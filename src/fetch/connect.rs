//! From an address to a connected stream.

use std::io;
use std::time::Duration;

use http::Uri;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::FetchError;

/// How long one of several addresses of a name may keep the others waiting.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(2);
/// Addresses tried.
const ADDRESSES_MAX: usize = 8;

/// Whom to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// A name or an address, IPv6 without brackets.
    pub(super) host: Box<str>,
    pub(super) port: u16,
    pub(super) tls: bool,
}

impl Place {
    pub(super) fn of(url: &Uri) -> Result<Self, FetchError> {
        let tls = match url.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(FetchError::Address("its scheme is neither http nor https")),
        };
        let authority = url.authority().ok_or(FetchError::Address("it has no host"))?;
        // A password in an address ends up in logs; whoever needs one has a setting for it.
        if authority.as_str().contains('@') {
            return Err(FetchError::Address("it carries a user name"));
        }
        let host = authority.host();
        let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(FetchError::Address("it has no host"));
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { host: host.into(), port, tls })
    }
}

/// A new connection to the first address that takes one.
pub(super) async fn connect(place: &Place) -> Result<TcpStream, FetchError> {
    let found = tokio::net::lookup_host((&*place.host, place.port)).await.map_err(FetchError::Connect)?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let addresses: Vec<_> = found.take(ADDRESSES_MAX).collect();
    for (number, address) in addresses.iter().enumerate() {
        let attempt = TcpStream::connect(address);
        let is_last = number + 1 == addresses.len();
        // The last one has all the time that is left.
        let connected = if is_last { Ok(attempt.await) } else { timeout(ADDRESS_TIMEOUT, attempt).await };
        match connected {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).map_err(FetchError::Connect)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, "an address did not answer"),
        }
    }
    Err(FetchError::Connect(last))
}

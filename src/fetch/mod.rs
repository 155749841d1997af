//! Small requests of our own to other programs: key sets, discovery, introspection, password checks.
//!
//! What the room promises: every request ends within its time, an answer is held whole and never larger than its
//! limit, and the address is one that the operator wrote down (or, for a GET, one on the same host that a redirect
//! named). One connection per request; HTTP/1.1; no proxy, no cookies, no content codings. It refuses to know what the
//! answers mean. For the control plane: nothing on the request path waits for it.
//!
//! Redirects are followed for GET alone, three at most, and only where they cannot widen what the operator allowed:
//! the host stays the same, and so does the port, unless `http` becomes `https`; `https` never becomes `http`. A 3xx
//! answer to a POST is given to the caller as it is, so credentials never travel on.

mod connect;
mod error;
pub mod form;
#[cfg(test)]
mod tests;
mod tls;

use std::future::pending;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

pub use error::{FetchError, RootsError};

/// A GET follows so many redirects.
const REDIRECTS_MAX: usize = 3;
/// Answer heads: nobody whom we ask has a reason to send more.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 100;

/// What one request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Name look-up, connection and TLS handshake together, for each hop.
    pub connect: Duration,
    /// Everything together, redirects and body too.
    pub total: Duration,
    /// The answer's body.
    pub body_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), total: Duration::from_secs(10), body_bytes: 1024 * 1024 }
    }
}

/// Sends requests. A clone shares the certificates; making one reads those of the system, so make it once.
#[derive(Clone)]
pub struct Fetcher {
    tls: tls::Tls,
    limits: Limits,
}

/// A whole answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// 100 to 999; redirects that were followed are not seen.
    pub status: StatusCode,
    /// As sent.
    pub headers: HeaderMap,
    /// Whole, within the limit.
    pub body: Bytes,
}

impl Fetched {
    /// The answer, if its status says that it is one (200).
    ///
    /// # Errors
    /// [`FetchError::Status`] for every other status.
    pub fn ok(self) -> Result<Self, FetchError> {
        if self.status == StatusCode::OK { Ok(self) } else { Err(FetchError::Status(self.status)) }
    }
}

impl Fetcher {
    /// Trusts the certificate authorities of `ca_pem`, in place of the system's (or those of `SSL_CERT_FILE` and
    /// `SSL_CERT_DIR`, whose files are read).
    ///
    /// # Errors
    /// When `ca_pem` has no usable certificate. That the system has none is told in the log and by every request to an
    /// `https` address.
    pub fn new(ca_pem: Option<&[u8]>) -> Result<Self, RootsError> {
        Ok(Self { tls: tls::Tls::new(ca_pem)?, limits: Limits::default() })
    }

    /// The same with other limits.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The limits in use.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// GET, with these fields beside our own. Dropping the future ends the connection.
    ///
    /// # Errors
    /// See [`FetchError`]; a status that is no success is none.
    pub async fn get(&self, url: &Uri, headers: HeaderMap) -> Result<Fetched, FetchError> {
        self.within(async {
            let mut url = url.clone();
            let mut followed = 0;
            loop {
                let fetched = self.exchange(&Method::GET, &url, &headers, Bytes::new()).await?;
                if !is_redirect(fetched.status) {
                    return Ok(fetched);
                }
                if followed == REDIRECTS_MAX {
                    return Err(FetchError::Redirect("there are too many of them"));
                }
                followed += 1;
                url = next_url(&url, &fetched.headers)?;
            }
        })
        .await
    }

    /// POST, with these fields (`Content-Type` among them) beside our own. Dropping the future ends the connection;
    /// the other side may have acted all the same.
    ///
    /// # Errors
    /// See [`FetchError`]; a status that is no success is none.
    pub async fn post(&self, url: &Uri, headers: HeaderMap, body: Bytes) -> Result<Fetched, FetchError> {
        self.within(self.exchange(&Method::POST, url, &headers, body)).await
    }

    async fn within(
        &self,
        request: impl Future<Output = Result<Fetched, FetchError>>,
    ) -> Result<Fetched, FetchError> {
        timeout(self.limits.total, request).await.unwrap_or(Err(FetchError::Timeout(self.limits.total)))
    }

    /// One request on a connection of its own.
    async fn exchange(
        &self,
        method: &Method,
        url: &Uri,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Fetched, FetchError> {
        let place = connect::Place::of(url)?;
        let request = request(method, url, headers, body)?;
        let limit = self.limits.connect;
        let late = |_| FetchError::ConnectTimeout(limit);
        if place.tls {
            let connecting = async { self.tls.over(&place, connect::connect(&place).await?).await };
            let stream = timeout(limit, connecting).await.map_err(late)??;
            self.talk(stream, request).await
        } else {
            let stream = timeout(limit, connect::connect(&place)).await.map_err(late)??;
            self.talk(stream, request).await
        }
    }

    async fn talk<S>(&self, stream: S, request: Request<Full<Bytes>>) -> Result<Fetched, FetchError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(FetchError::Http)?;
        // Driven by this very future, so that dropping it drops the connection.
        let driven = async {
            let _ = connection.await;
            pending::<()>().await;
        };
        let answered = async {
            let response = sender.send_request(request).await.map_err(FetchError::Http)?;
            let (parts, body) = response.into_parts();
            if parts.headers.get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
                return Err(FetchError::ContentCoding);
            }
            Ok(Fetched { status: parts.status, headers: parts.headers, body: self.whole(body).await? })
        };
        tokio::select! {
            answered = answered => answered,
            () = driven => unreachable!("it never ends"),
        }
    }

    async fn whole(&self, mut body: Incoming) -> Result<Bytes, FetchError> {
        let limit = self.limits.body_bytes;
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(FetchError::Http)?;
            let Ok(data) = frame.into_data() else { continue };
            if whole.len() + data.len() > limit {
                return Err(FetchError::TooLarge(limit));
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    }
}

fn request(
    method: &Method,
    url: &Uri,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, FetchError> {
    let bad = |_| FetchError::Address("it makes no request");
    let authority = url.authority().ok_or(FetchError::Address("it has no host"))?;
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    let mut request = Request::builder().method(method).uri(target).body(Full::new(body)).map_err(bad)?;
    let fields = request.headers_mut();
    *fields = headers.clone();
    let host = HeaderValue::from_str(authority.as_str())
        .map_err(|_| FetchError::Address("its host is malformed"))?;
    fields.insert(HOST, host);
    fields.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    fields.insert(USER_AGENT, HeaderValue::from_static(concat!("portcullis/", env!("CARGO_PKG_VERSION"))));
    fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    )
}

/// Where a redirect leads, if we may go there. See the head of the room.
fn next_url(from: &Uri, headers: &HeaderMap) -> Result<Uri, FetchError> {
    let refused = FetchError::Redirect;
    let location = headers.get(LOCATION).and_then(|location| location.to_str().ok());
    let location = location.ok_or(refused("it does not say where to"))?;
    let location = location.split_once('#').map_or(location, |(place, _)| place);
    let malformed = |_| refused("its address is malformed");
    let parts = from.clone().into_parts();
    let whole = |target: &str| {
        Uri::builder()
            .scheme(parts.scheme.clone().unwrap_or(http::uri::Scheme::HTTP))
            .authority(from.authority().map_or("", |authority| authority.as_str()))
            .path_and_query(target)
            .build()
            .map_err(|_| refused("its address is malformed"))
    };
    let to = match location {
        network if network.starts_with("//") => {
            let scheme = from.scheme_str().unwrap_or("http");
            format!("{scheme}:{network}").parse::<Uri>().map_err(malformed)?
        }
        rooted if rooted.starts_with('/') => whole(rooted)?,
        other if other.contains("://") => other.parse::<Uri>().map_err(malformed)?,
        _ => return Err(refused("its address is relative")),
    };
    let (old, new) = (connect::Place::of(from)?, connect::Place::of(&to)?);
    if old.tls && !new.tls {
        return Err(refused("it leads from https to http"));
    }
    let upgraded = !old.tls && new.tls;
    if !old.host.eq_ignore_ascii_case(&new.host) || (old.port != new.port && !upgraded) {
        return Err(refused("it leads to another host or port"));
    }
    Ok(to)
}

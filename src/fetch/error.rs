//! Why there is no answer. The operator reads it: no request, no body, no secret gets into it.

use std::io;
use std::time::Duration;

use http::StatusCode;

/// Why a request has no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The address cannot be used.
    #[error("the address cannot be used: {0}")]
    Address(&'static str),
    /// No such name, refused, no route.
    #[error("no connection: {0}")]
    Connect(#[source] io::Error),
    /// Neither connected nor refused in time, TLS included.
    #[error("no connection within {0:?}")]
    ConnectTimeout(Duration),
    /// The handshake failed; a certificate that is not trusted, mostly.
    #[error("no TLS connection: {0}")]
    Tls(#[source] io::Error),
    /// Connected, but the whole answer did not come in time.
    #[error("no whole answer within {0:?}")]
    Timeout(Duration),
    /// The answer is no HTTP, or the connection broke.
    #[error("no whole answer: {0}")]
    Http(#[source] hyper::Error),
    /// The body is larger than so many bytes.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
    /// A redirect that is not followed.
    #[error("the redirect is not followed: {0}")]
    Redirect(&'static str),
    /// Compressed, though we said that we would not take that.
    #[error("the answer has a content coding")]
    ContentCoding,
    /// Another status than the caller can use.
    #[error("the answer has the status {0}")]
    Status(StatusCode),
}

/// Why certificate authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// Broken PEM.
    #[error("the certificate authorities are not PEM: {0}")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// Not a certificate that the library takes.
    #[error("a certificate authority cannot be used: {0}")]
    Certificate(#[source] rustls::Error),
    /// PEM without a certificate.
    #[error("there is no certificate among the certificate authorities")]
    Empty,
}

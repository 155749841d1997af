//! A request as the endpoints see it: complete, bounded, owned.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, USER_AGENT};
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::fields::{Fields, bad};
use super::place::Place;
use crate::answer::{BoxError, Code, Problem};
use crate::clock::UnixTime;
use crate::route::Peer;
use crate::store::Page;
use crate::token::{self, Possession, ProofError, ProofFor, Scheme, Thumbprint, VerifyError};

/// The largest body that an endpoint takes (CONTRACT §5).
const BODY_BYTES_MAX: usize = 64 * 1024;
/// As much of a `User-Agent` as is kept.
const USER_AGENT_BYTES_MAX: usize = 256;
/// Rows of a list where nothing is asked for, and at the most.
const ROWS_DEFAULT: usize = 100;
const ROWS_MAX: usize = 1000;

/// A request, its body read.
pub(super) struct Call {
    pub(super) place: Place,
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// When it came. What waits for a hash reads the clock again.
    pub(super) now: UnixTime,
    /// The client's address.
    pub(super) ip: Option<IpAddr>,
    /// The address that the client connected to.
    pub(super) local: Option<SocketAddr>,
    uri: Uri,
    /// Scheme and authority as the client wrote them.
    origin: Option<Origin>,
    certificate: Option<Thumbprint>,
}

/// Scheme and authority of the URL that the client used; an extension of the request, where the gateway knows more
/// than the request says (behind trusted proxies).
#[derive(Clone, Debug)]
pub struct Origin {
    /// `http` or `https`.
    pub scheme: Box<str>,
    /// Host and port.
    pub authority: Box<str>,
}

impl Call {
    /// Reads the body within its limit.
    pub(super) async fn read<B>(
        place: Place,
        peer: Peer,
        request: Request<B>,
        now: UnixTime,
    ) -> Result<Self, Problem>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let (head, body) = request.into_parts();
        let too_large = || Problem::new(Code::BodyTooLarge, "The body must have at most 64 KiB");
        // A length that is told is refused before a byte is read.
        if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
            return Err(too_large());
        }
        let body = Limited::new(body, BODY_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| if error.is::<LengthLimitError>() { too_large() } else { broken(&*error) })?;
        Ok(Self {
            place,
            body: body.to_bytes(),
            now,
            ip: peer.address.map(|address| address.ip().to_canonical()),
            local: peer.local,
            origin: head.extensions.get().cloned().or_else(|| origin(&head.uri, &head.headers, peer.secure)),
            certificate: peer.certificate().map(|certificate| Thumbprint(certificate.sha256)),
            method: head.method,
            headers: head.headers,
            uri: head.uri,
        })
    }

    /// The members of the body.
    pub(super) fn fields(&self) -> Result<Fields, Problem> {
        Fields::of(&self.headers, &self.body)
    }

    /// What the client has shown to hold: the certificate of its connection (RFC 8705), and a proof for this request
    /// (RFC 9449), whether or not the token needs them. `token` is the one in `Authorization`; `ath` may be left out
    /// where that is a refresh token.
    ///
    /// # Errors
    /// 401 `token_invalid` for a proof that is no good.
    pub(super) fn possession(&self, token: Option<&str>) -> Result<Possession, Problem> {
        let certificate = self.certificate;
        let scheme = match self.credentials() {
            Ok(Some((scheme, _))) => scheme,
            _ => Scheme::Bearer,
        };
        let refused = |error: ProofError| VerifyError::from(error).to_problem();
        let Some(text) = token::proof_text(&self.headers).map_err(refused)? else {
            return match scheme {
                Scheme::Bearer => Ok(Possession { certificate, ..Possession::default() }),
                Scheme::Dpop => Err(refused(ProofError::Missing)),
            };
        };
        let origin = self.origin.as_ref().ok_or_else(|| bad("The request names no host"))?;
        let wanted = ProofFor {
            method: self.method.as_str(),
            scheme: &origin.scheme,
            authority: &origin.authority,
            path: self.uri.path(),
            token,
            with_ath: token.is_some() && self.place != Place::Refresh,
        };
        let proof = token::check_proof(text, &wanted, self.now).map_err(refused)?;
        Ok(Possession { scheme, proof: Some(proof), certificate })
    }

    /// The token in `Authorization` (RFC 6750 §2.1, RFC 9449 §7.1), if there is one.
    ///
    /// # Errors
    /// As [`Call::credentials`].
    pub(super) fn bearer(&self) -> Result<Option<&str>, Problem> {
        Ok(self.credentials()?.map(|(_, token)| token))
    }

    /// The scheme and the token of `Authorization`, which may be empty, and is malformed then; another scheme counts as none.
    ///
    /// # Errors
    /// 400 for two `Authorization` fields.
    fn credentials(&self) -> Result<Option<(Scheme, &str)>, Problem> {
        let mut values = self.headers.get_all(AUTHORIZATION).iter();
        let first = values.next();
        if values.next().is_some() {
            return Err(bad("There is more than one Authorization field"));
        }
        let Some(text) = first.and_then(|value| value.to_str().ok()) else { return Ok(None) };
        let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
        let token = token.trim_matches([' ', '\t']);
        let scheme = match scheme {
            name if name.eq_ignore_ascii_case("Bearer") => Scheme::Bearer,
            name if name.eq_ignore_ascii_case("DPoP") => Scheme::Dpop,
            _ => return Ok(None),
        };
        Ok(Some((scheme, token)))
    }

    /// The client's address in words; empty on a Unix socket.
    pub(super) fn address(&self) -> Box<str> {
        self.ip.map(|ip| ip.to_string()).unwrap_or_default().into()
    }

    /// What the client calls itself, cut to size.
    pub(super) fn user_agent(&self) -> Box<str> {
        let bytes = self.headers.get(USER_AGENT).map_or(&[][..], |value| value.as_bytes());
        let mut text: String = String::from_utf8_lossy(bytes)
            .chars()
            .filter(|c| !c.is_control())
            .take(USER_AGENT_BYTES_MAX)
            .collect();
        while text.len() > USER_AGENT_BYTES_MAX {
            text.pop();
        }
        text.into()
    }

    /// Which part of a list is asked for: `?limit=&after=`.
    ///
    /// # Errors
    /// 400 for a limit or a cursor that is none.
    pub(super) fn page(&self) -> Result<Page, Problem> {
        let query = Fields::of_query(self.uri.query().unwrap_or_default())?;
        let limit = match query.text("limit", 20)? {
            None => ROWS_DEFAULT,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=ROWS_MAX).contains(limit))
                .ok_or_else(|| bad(format!("'limit' must be a number from 1 to {ROWS_MAX}")))?,
        };
        let before = match query.text("after", 20)? {
            None => None,
            Some(text) => {
                Some(text.parse().map_err(|_| bad("'after' must be a 'next' of an earlier answer"))?)
            }
        };
        Ok(Page { before, limit })
    }

    /// The path, normalised.
    pub(super) fn path(&self) -> &str {
        self.uri.path()
    }

    /// The host that the client asked for, with its port.
    pub(super) fn authority(&self) -> Option<&str> {
        match self.uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => self.headers.get(HOST)?.to_str().ok(),
        }
    }

    /// Where the client believes to be: `https://host:port`.
    pub(super) fn base(&self) -> Option<String> {
        let origin = self.origin.as_ref()?;
        Some(format!("{}://{}", origin.scheme, origin.authority))
    }
}

fn origin(uri: &Uri, headers: &HeaderMap, secure: bool) -> Option<Origin> {
    let authority = match uri.authority() {
        Some(authority) => authority.as_str(),
        None => headers.get(HOST)?.to_str().ok()?,
    };
    Some(Origin { scheme: if secure { "https" } else { "http" }.into(), authority: authority.into() })
}

/// A body that did not come to its end; the connection cannot go on.
fn broken(error: &(dyn std::error::Error + 'static)) -> Problem {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::TimedOut) {
            return Problem::new(Code::RequestTimeout, "The body came too slowly").closing();
        }
        cause = error.source();
    }
    bad("The body could not be read").closing()
}

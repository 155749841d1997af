//! What stands between a socket and HTTP: the PROXY protocol, then TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use http::header::STRICT_TRANSPORT_SECURITY;
use http::{HeaderValue, Response};
use ipnet::IpNet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::connection::{self, Entrant, Handler};
use super::drain::Phase;
use super::proxy::{self, Speaker};
use super::stream::Stream;
use crate::route::{ClientCertificate, Peer, PeerTls};
use crate::tls::Acceptor;

/// What connections of a listener pass through before they speak HTTP. The default is nothing.
#[derive(Clone, Default)]
pub struct Layers {
    /// The PROXY protocol is required, and from these alone. Who may open a Unix socket may speak on it.
    pub proxies: Option<Arc<[IpNet]>>,
    /// TLS is spoken.
    pub tls: Option<Acceptor>,
    /// `Strict-Transport-Security` of every answer; over TLS alone (RFC 6797 §7.2).
    pub hsts: Option<HeaderValue>,
}

/// What a running listener reads once per connection; can be swapped while it runs.
pub type LiveLayers = Arc<ArcSwap<Layers>>;

impl Layers {
    /// In the shape that [`serve`](super::serve) takes; keep a clone to change them while it runs.
    pub fn live(self) -> LiveLayers {
        Arc::new(ArcSwap::from_pointee(self))
    }

    /// Puts what belongs to the listener into an answer.
    pub(super) fn mark<B>(&self, response: &mut Response<B>) {
        if let Some(hsts) = &self.hsts {
            response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, hsts.clone());
        }
    }
}

/// The version of HTTP on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    /// ALPN chose it, or nothing was chosen.
    Http1,
    /// ALPN chose it.
    Http2,
    /// Its first bytes tell.
    Either,
}

/// Takes a connection through all layers and serves it.
pub(super) async fn enter<S: Stream, H: Handler>(mut stream: S, peer: Peer, entrant: Entrant<H>) {
    let Some(trusted) = &entrant.layers.proxies else { return secure(stream, peer, entrant).await };
    let told = introduce(&mut stream, peer, trusted);
    if let Some(peer) = in_time(told, &entrant).await.flatten() {
        secure(stream, peer, entrant).await;
    }
}

/// The peer that a balancer speaks for; `None` when it is none of ours, or does not say.
async fn introduce<S: Stream>(stream: &mut S, peer: Peer, trusted: &[IpNet]) -> Option<Peer> {
    let ours = |from: SocketAddr| trusted.iter().any(|network| network.contains(&from.ip().to_canonical()));
    if !peer.address.is_none_or(ours) {
        tracing::debug!(from = ?peer.address, "a connection that is not from a trusted proxy");
        return None;
    }
    match proxy::read(stream).await {
        Ok(Speaker::Itself) => Some(peer),
        Ok(Speaker::For(address, local)) => Some(Peer { address: Some(address), local: Some(local), ..peer }),
        Err(error) => {
            tracing::debug!(from = ?peer.address, %error, "a proxy did not say whom it speaks for");
            None
        }
    }
}

async fn secure<S: Stream, H: Handler>(stream: S, peer: Peer, entrant: Entrant<H>) {
    let Some(acceptor) = &entrant.layers.tls else {
        return connection::serve(stream, Speaks::Either, peer, entrant).await;
    };
    // Boxed, as what follows it is: a connection is not to cost for ever what its handshake did.
    let handshake = Box::pin(handshake(stream, acceptor, peer.address));
    let Some((stream, tls, speaks)) = in_time(handshake, &entrant).await.flatten() else { return };
    let peer = Peer { secure: true, tls: Some(Arc::new(tls)), ..peer };
    // Boxed: a connection that says nothing should not cost what a served one does.
    Box::pin(connection::serve(stream, speaks, peer, entrant)).await;
}

/// `None` when it took too long, or everything is being cut.
async fn in_time<F: Future, H>(work: F, entrant: &Entrant<H>) -> Option<F::Output> {
    let late = async {
        match entrant.deadline() {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        done = work => Some(done),
        () = late => None,
        () = entrant.site.drain.reached(Phase::Stopped) => None,
    }
}

async fn handshake<S: Stream>(
    stream: S,
    acceptor: &Acceptor,
    from: Option<SocketAddr>,
) -> Option<(TlsStream<S>, PeerTls, Speaks)> {
    let stream = match TlsAcceptor::from(acceptor.config()).accept(stream).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(?from, %error, "no TLS connection came about");
            return None;
        }
    };
    let session = stream.get_ref().1;
    let certificate = session.peer_certificates().and_then(<[_]>::first).map(|leaf| {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest::digest(&digest::SHA256, leaf).as_ref());
        ClientCertificate { der: leaf.as_ref().into(), sha256 }
    });
    let tls = PeerTls {
        server_name: session.server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase().into()),
        verifies_clients: acceptor.verifies_clients(),
        certificate,
    };
    let speaks = match session.alpn_protocol() {
        Some(b"h2") => Speaks::Http2,
        _ => Speaks::Http1,
    };
    Some((stream, tls, speaks))
}

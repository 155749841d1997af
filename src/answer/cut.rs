//! What goes beside a message between the connection and whoever answers.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

/// Something that may be cut at any moment.
pub trait Cuttable: Send + Sync {
    /// Ready when it is cut; else `cx` is woken then. The last one to ask is woken.
    fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<()>;
}

/// An extension of a response that may be cut while it is sent. Its body errs then; but a client that does not take
/// what was sent before keeps the body from being asked, so whoever drives the connection watches for this, too.
#[derive(Clone)]
pub struct Cut(pub Arc<dyn Cuttable>);

/// What a connection that carries other requests beside it has to do with a tunnel.
pub trait Holding: Send + Sync {
    /// The tunnel is over, whatever of it the client has not taken.
    fn abandon(&self);
}

/// An extension of a request that may become a tunnel: the connection counts it as under way for as long as this is
/// kept.
#[derive(Clone)]
pub struct Hold(pub Arc<dyn Holding>);

/// A connection whose bytes are nobody's but those of whoever holds it.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// An extension of a request that asks for an upgrade in HTTP/1.1, or by CONNECT in HTTP/2: the way to its connection or
/// stream, for whoever answers 101, or 200 there.
#[derive(Clone)]
pub struct Handover(Arc<Mutex<Option<Connection>>>);

type Connection = oneshot::Receiver<Box<dyn Duplex>>;

/// The connection's end of a [`Handover`].
pub struct Handing(oneshot::Sender<Box<dyn Duplex>>);

/// Both ends of the way that a connection takes once a 101 has been written on it, or a stream after a 200.
pub fn handover() -> (Handing, Handover) {
    let (give, take) = oneshot::channel();
    (Handing(give), Handover(Arc::new(Mutex::new(Some(take)))))
}

impl Handing {
    /// Hands the connection over; it is closed where nobody waits for it.
    pub fn give(self, connection: Box<dyn Duplex>) {
        drop(self.0.send(connection));
    }
}

impl Handover {
    /// Waits for the connection. `None`: the answer was none that opens a tunnel, or it did not get to the client.
    pub async fn take(self) -> Option<Box<dyn Duplex>> {
        let take = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        take?.await.ok()
    }
}

impl fmt::Debug for Handing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handing")
    }
}

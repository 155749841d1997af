//! What goes beside a message between the connection and whoever answers.

use std::sync::Arc;
use std::task::{Context, Poll};

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

//! Which route a request falls under. Pure.
//!
//! [`Head::admit`] turns a parsed request into the one view that everything after it uses: method, host, path and
//! framing, each read once and in one way; what two programs would read in two ways is refused there (CONTRACT §3.1,
//! §3.2). [`Table::find`] then says which [`Route`](settings::Route) decides. This room knows nothing of tokens.

mod authority;
#[cfg(test)]
pub(crate) mod fixtures;
mod head;
pub mod path;
mod peer;
pub mod settings;
mod table;

pub use authority::{Authority, AuthorityError};
pub use head::{Head, is_underscored};
pub use peer::{ClientCertificate, Peer, PeerTls, network};
pub use table::{Match, Table};

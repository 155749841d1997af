//! Portcullis: a reverse-proxy gateway that makes JWT revocation real.
//!
//! Three stories, each read top to bottom in one file:
//!
//! | story | file |
//! | --- | --- |
//! | the life of the process | [`app`] |
//! | the life of a request | [`gateway`] |
//! | the life of a revocation | `revocation/writer.rs` |
//!
//! The rooms below stand in an order: a room imports only rooms that stand below it
//! (`tests/tidy.rs` reads the `use` lines and fails when one points up).
//!
//! | room | what it is for |
//! | --- | --- |
//! | [`cli`] | the command line, one file per command |
//! | [`app`] | assembly, and the life of the process |
//! | [`config`] | `gateway.toml` to settings |
//! | [`server`] | sockets: listen, judge raw request heads, drain |
//! | [`admin`] | the admin listener's API |
//! | [`gateway`] | one request to one response |
//! | [`endpoint`] | requests that we answer ourselves |
//! | [`issuer`] | keys: ours, and those of others |
//! | [`upstream`] | connections out |
//! | [`fetch`] | small requests of our own to other programs |
//! | [`forward`] | rewriting a message between its two sides |
//! | [`access`] | the decision |
//! | [`fleet`] | the log that gateways share |
//! | [`revocation`] | the log, and what is projected from it |
//! | [`store`] | users, sessions, issued tokens, the audit trail |
//! | [`route`] | which route a request falls under |
//! | [`token`] | JWTs |
//! | [`telemetry`] | metrics, access log, events |
//! | [`tls`] | certificates, keys, TLS of both sides |
//! | [`answer`] | bodies, codes, problem documents |
//! | [`http2`] | what both sides of HTTP/2 share |
//! | [`watch`] | files that change |
//! | [`clock`] | the time |
//!
//! Invariants that hold everywhere:
//! * The revocation log is the truth; the blocklist, the snapshot and the audit trail are projections of it.
//! * A revocation is acknowledged only when it is durable and in force.
//! * Nothing reaches an upstream without a `Permit`, and only `access` makes one.
//! * Nothing on the request path waits for SQL, Argon2 or a disk.

pub mod access;
pub mod admin;
pub mod answer;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod endpoint;
pub mod fetch;
pub mod fleet;
pub mod forward;
pub mod gateway;
pub mod http2;
pub mod issuer;
pub mod revocation;
pub mod route;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod token;
pub mod upstream;
pub mod watch;
pub mod worker;

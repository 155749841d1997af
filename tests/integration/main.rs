//! The real program over real sockets, seen from outside: a module per subject, all expectations from CONTRACT.md.
#![allow(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

mod auth_endpoints;
mod bad_input;
mod balancers;
mod balancing;
mod bound;
mod bulk;
mod components;
mod cookies;
mod cross_origin;
mod dashboard;
mod delegate;
mod described;
mod durability;
mod events;
mod external;
mod flask_story;
mod fleet;
mod grpc;
mod hostile;
mod http2;
mod keys;
mod kit;
mod lasting;
mod libraries;
mod listeners;
mod live;
mod operations;
mod passing;
mod proxying;
mod rate_limits;
mod receivers;
mod refresh;
mod reload;
mod revocations;
mod shared_keys;
mod shared_store;
mod sockets;
#[allow(dead_code, reason = "the fault tests use the rest of it")]
mod support;
mod targets;
mod tls;
mod tunnels;
mod upstream_tls;
mod users;
mod verdicts;

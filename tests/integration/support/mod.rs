//! What every subject uses: the real program, raw clients, scripted upstreams, hand-made tokens.

pub(crate) mod account;
pub(crate) mod chromium;
pub(crate) mod curl;
pub(crate) mod damage;
pub(crate) mod fault;
pub(crate) mod gateway;
pub(crate) mod http;
pub(crate) mod jwt;
pub(crate) mod load;
pub(crate) mod nginx;
pub(crate) mod node;
pub(crate) mod pki;
pub(crate) mod postgres;
pub(crate) mod program;
pub(crate) mod provider;
pub(crate) mod python;
pub(crate) mod redis;
pub(crate) mod resolver;
pub(crate) mod upstream;
pub(crate) mod wait;

pub(crate) use account::Account;
pub(crate) use gateway::{Gateway, Setup};
pub(crate) use http::{Answer, Call, Connection};
pub(crate) use load::Load;
pub(crate) use program::Program;
pub(crate) use upstream::{Received, Reply, Upstream};
pub(crate) use wait::{now, wait_for};

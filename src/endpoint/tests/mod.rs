//! Every endpoint through `serve`.

mod accounts;
mod bad_input;
mod browser;
mod clients;
mod events;
mod oauth;
mod refresh;
mod revoking;
mod simulation;

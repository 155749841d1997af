//! The real program on real disks, when things break: killed, out of space, lied to by its disk, cut from its power,
//! damaged, its clock turned. What was acknowledged holds, all the same (CONTRACT §8).
#![allow(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

mod clock;
mod damage;
mod failing_sync;
mod full_disk;
mod history;
mod kill;
mod ledger;
mod lost_state;
mod mount;
mod power_cut;
mod race;
mod seed;
mod shim;
#[path = "../integration/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the integration tests, which use all of it")]
mod support;
mod tracer;

//! `portcullis health`: the health check of a container that has no other program in it.

use super::client::Admin;
use super::{Common, Outcome, load};

pub(super) fn run(common: &Common) -> Outcome {
    let settings = load(common)?;
    Admin::without_token(&settings).get("/livez")?;
    say!("alive");
    Ok(())
}

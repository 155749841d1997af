//! The memory of the tokens that are kept.

use std::path::Path;

use super::engine::tokens;
use super::probe::resident;
use super::row;

const COUNT: u64 = 60_000;

pub(crate) fn measure(dir: &Path) {
    let set = tokens(dir, COUNT);
    let at = super::engine::now();
    let text: usize = set.texts.iter().map(String::len).sum::<usize>() / set.texts.len();
    // Some are verified first, so that what verifying itself takes is there already.
    set.texts[..5000].iter().for_each(|text| drop(set.issuers.verify(text, at).unwrap()));
    let before = resident("self");
    set.texts[5000..].iter().for_each(|text| drop(set.issuers.verify(text, at).unwrap()));
    let each = (resident("self") - before) / (COUNT - 5000);
    let kept = format!("{} kept", set.issuers.cached_tokens());
    row("memory of a kept token", 0, "", &format!("{each} B"), &format!("{text} B of text, {kept}"));
}

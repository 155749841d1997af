//! Progress bars: on a terminal, for long work; nothing on pipes.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const BYTES: &str = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
const COUNT: &str = "{msg} {wide_bar} {human_pos}/{human_len} {per_sec} {eta}";
const UNKNOWN: &str = "{msg} {spinner} {human_pos} {per_sec}";

/// Over so many bytes, where that is known.
pub(super) fn bytes(what: &'static str, total: Option<u64>) -> ProgressBar {
    bar(what, total, BYTES)
}

/// Over so many things.
pub(super) fn count(what: &'static str, total: u64) -> ProgressBar {
    bar(what, Some(total), COUNT)
}

/// Over nobody knows how many.
pub(super) fn spinner(what: &'static str) -> ProgressBar {
    let bar = bar(what, None, UNKNOWN);
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    bar
}

fn bar(what: &'static str, total: Option<u64>, template: &str) -> ProgressBar {
    // Draws nothing where standard error is no terminal.
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    let template = if total.is_some() { template } else { UNKNOWN };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style);
    bar.set_message(what);
    bar
}

//! What commands print. Whoever reads may stop, as `head` does: that is no failure, and the command goes on to its end.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Something that was to be printed could not be, and somebody may have wanted it.
static LOST: AtomicBool = AtomicBool::new(false);

/// As `println!`, which panics where nobody reads any more.
macro_rules! say {
    ($($words:tt)*) => { $crate::cli::out::line(format_args!($($words)*)) };
}

/// One line, of words that may have lines of their own.
pub(super) fn line(words: fmt::Arguments<'_>) {
    note(writeln!(io::stdout().lock(), "{words}"));
}

/// As it is.
pub(super) fn text(text: &str) {
    let mut out = io::stdout().lock();
    note(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// Whether something was lost that a reader was there for, as on a full disk. It has been told.
pub(super) fn has_lost() -> bool {
    LOST.load(Ordering::Relaxed)
}

fn note(written: io::Result<()>) {
    let Err(error) = written else { return };
    if error.kind() != ErrorKind::BrokenPipe && !LOST.swap(true, Ordering::Relaxed) {
        let _ = writeln!(io::stderr().lock(), "portcullis: cannot write: {error}");
    }
}

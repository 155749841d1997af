//! What a command reads besides its arguments: files, standard input, and passwords, which are never arguments.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};

use anyhow::{Context, bail};
use console::Term;
use zeroize::Zeroizing;

/// The most bytes of a key or a password with what is around it.
const BYTES_MAX: u64 = 64 << 10;

/// A small file, or standard input for `-`, in one piece.
///
/// # Errors
/// When it cannot be read, is no UTF-8, or is larger than any key.
pub(super) fn text(path: &str) -> anyhow::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    let read = if path == "-" {
        io::stdin().take(BYTES_MAX + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(BYTES_MAX + 1).read_to_string(&mut text))
    };
    if read.with_context(|| format!("cannot read {path}"))? as u64 > BYTES_MAX {
        bail!("{path} is larger than {BYTES_MAX} bytes");
    }
    Ok(text)
}

/// A new password: from a file, from a terminal where it is asked for twice and not shown, or else the first line of
/// standard input.
///
/// # Errors
/// When it cannot be read, or is not the same the second time.
pub(super) fn password(file: Option<&str>) -> anyhow::Result<Zeroizing<String>> {
    if let Some(file) = file {
        return Ok(first_line(&text(file)?));
    }
    if !io::stdin().is_terminal() {
        let mut line = Zeroizing::new(String::new());
        io::stdin().lock().take(BYTES_MAX).read_line(&mut line).context("cannot read the password")?;
        return Ok(first_line(&line));
    }
    let terminal = Term::stderr();
    let ask = |words: &str| -> anyhow::Result<Zeroizing<String>> {
        eprint!("{words}: ");
        terminal.read_secure_line().map(Zeroizing::new).context("cannot read the password")
    };
    let password = ask("password")?;
    if *password != *ask("the same again")? {
        bail!("that is not the same password");
    }
    Ok(password)
}

fn first_line(text: &str) -> Zeroizing<String> {
    let line = text.split('\n').next().unwrap_or_default();
    Zeroizing::new(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

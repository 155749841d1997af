//! A file of lines in pieces that end where a line ends, so that it can be sent in batches of whole lines.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use anyhow::Context as _;
use bytes::Bytes;
use http_body::Frame;
use indicatif::ProgressBar;

use super::progress;

/// Bytes read at once.
const BLOCK_BYTES: usize = 256 << 10;

pub(super) struct Lines {
    input: Box<dyn Read + Send>,
    /// Read, and for a later batch.
    held: Vec<u8>,
    over: bool,
    lines: u64,
    bar: ProgressBar,
}

impl Lines {
    /// A file, or standard input for `-`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(super) fn open(path: &str) -> anyhow::Result<Self> {
        let (input, bytes): (Box<dyn Read + Send>, _) = if path == "-" {
            if io::stdin().is_terminal() {
                eprintln!("reading lines of JSON from the terminal; end them with Ctrl-D");
            }
            (Box::new(io::stdin()), None)
        } else {
            let file = File::open(path).with_context(|| format!("cannot read {path}"))?;
            let meta = file.metadata().with_context(|| format!("cannot read {path}"))?;
            anyhow::ensure!(!meta.is_dir(), "cannot read {path}: it is a directory");
            (Box::new(file), Some(meta.len()).filter(|_| meta.is_file()))
        };
        let bar = progress::bytes("importing", bytes);
        Ok(Self { input, held: Vec::new(), over: false, lines: 0, bar })
    }

    /// Lines given out so far.
    pub(super) const fn given(&self) -> u64 {
        self.lines
    }

    /// Whether there is nothing left.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn is_over(&mut self) -> io::Result<bool> {
        if self.held.is_empty() && !self.over {
            self.held = self.read()?;
        }
        Ok(self.held.is_empty())
    }

    /// The next bytes, of at most `left` lines, which are taken off it; `None` when the batch is full or all is over.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn piece(&mut self, left: &mut u64) -> io::Result<Option<Vec<u8>>> {
        if *left == 0 || self.is_over()? {
            return Ok(None);
        }
        let mut piece = std::mem::take(&mut self.held);
        let count = memchr::memchr_iter(b'\n', &piece).count() as u64;
        if count >= *left {
            let last = usize::try_from(*left - 1).unwrap_or(usize::MAX);
            let end = memchr::memchr_iter(b'\n', &piece).nth(last).map_or(piece.len(), |end| end + 1);
            self.held = piece.split_off(end);
        }
        let taken = count.min(*left);
        *left -= taken;
        self.lines += taken;
        Ok(Some(piece))
    }

    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        let count = self.input.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        self.over = count < BLOCK_BYTES;
        self.bar.inc(count as u64);
        Ok(block)
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// One batch as the body of a request. It reads where it is polled: nothing else runs on that thread.
pub(super) struct Batch {
    pub(super) lines: Arc<Mutex<Lines>>,
    /// Lines that it may still have.
    pub(super) left: u64,
}

impl http_body::Body for Batch {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let batch = self.get_mut();
        let mut lines = batch.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let piece = lines.piece(&mut batch.left).transpose();
        Poll::Ready(piece.map(|piece| piece.map(|piece| Frame::data(piece.into()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_have_whole_lines_and_together_everything() {
        let text: String = (0..30_000).map(|number| format!("line {number} of a file\n")).collect();
        for (lines_max, text) in [(7000, text.as_str()), (30_000, text.as_str()), (1, "a\nb\nc"), (5, "")] {
            let mut lines = Lines {
                input: Box::new(io::Cursor::new(text.as_bytes().to_vec())),
                held: Vec::new(),
                over: false,
                lines: 0,
                bar: ProgressBar::hidden(),
            };
            let mut whole = Vec::new();
            while !lines.is_over().unwrap() {
                let (mut batch, mut left) = (Vec::new(), lines_max);
                while let Some(piece) = lines.piece(&mut left).unwrap() {
                    batch.extend(piece);
                }
                let count = memchr::memchr_iter(b'\n', &batch).count() as u64;
                assert!(count == lines_max || lines.is_over().unwrap(), "{count} lines of {lines_max}");
                whole.extend(batch);
            }
            assert!(whole == text.as_bytes());
        }
    }
}

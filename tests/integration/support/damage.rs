//! Files that are not as they were written.

use std::fs;
use std::path::Path;

/// Makes one bit another one in the middle of what was written to the file. Zeros at its end are not part of that: a
/// log makes room ahead of its records.
pub(crate) fn flip_a_bit(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[last / 2] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

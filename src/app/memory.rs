//! What a process knows by heart and the one that takes its place must know, too: a guesser of passwords does not begin
//! anew, and what was used once stays used. It goes over the socket pair of [`upgrade`](super::upgrade), never to a disk.
//!
//! ```text
//!   [["failed sign-ins 1",1032],["used proofs 1",768]] \n   then all bytes of the first, of the second, ...
//! ```
//!
//! A part whose name is not known is skipped, so that versions can follow one another in either direction.

use std::io::{self, BufRead, Write};

use crate::gateway::Gateway;

/// All parts together: 200,000 counts of 20 bytes, 2 x 2^20 proofs of 16, 65,536 assertions of 40, and room.
const BYTES_MAX: u64 = 64 << 20;
/// Their names and lengths.
const NAMES_BYTES_MAX: u64 = 4096;

/// DPoP proofs, in a form that has its number.
const PROOFS: &str = "used proofs 1";

/// See the module.
#[derive(Default)]
pub(super) struct Memory(Vec<(String, Vec<u8>)>);

impl Memory {
    /// Of a gateway that serves.
    pub(super) fn of(gateway: &Gateway) -> Self {
        let setup = gateway.setup();
        let mut parts = setup.endpoints.memory();
        parts.push((PROOFS, setup.issuers.load().replays().handed_over()));
        Self(parts.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect())
    }

    /// Has a gateway that does not serve yet know all of it.
    pub(super) fn give_to(&self, gateway: &Gateway) {
        let setup = gateway.setup();
        for (name, bytes) in &self.0 {
            match &**name {
                PROOFS => setup.issuers.load().replays().take_over(bytes),
                name => setup.endpoints.recall(name, bytes),
            }
        }
    }

    /// # Errors
    /// As writing.
    pub(super) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let names: Vec<_> = self.0.iter().map(|(name, bytes)| (name, bytes.len())).collect();
        let mut head = serde_json::to_vec(&names)?;
        head.push(b'\n');
        to.write_all(&head)?;
        self.0.iter().try_for_each(|(_, bytes)| to.write_all(bytes))
    }

    /// # Errors
    /// It is not what [`write`](Self::write) writes, or larger than it can be.
    pub(super) fn read(from: &mut impl BufRead) -> io::Result<Self> {
        let mut head = String::new();
        io::Read::take(&mut *from, NAMES_BYTES_MAX).read_line(&mut head)?;
        let names: Vec<(String, u64)> = serde_json::from_str(&head)?;
        let total = names.iter().fold(0, |total: u64, (_, length)| total.saturating_add(*length));
        if total > BYTES_MAX {
            return Err(io::Error::other("the memory of the old process is too large"));
        }
        let part = |(name, length): (String, u64)| {
            let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
            from.read_exact(&mut bytes)?;
            Ok((name, bytes))
        };
        names.into_iter().map(part).collect::<io::Result<_>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let memory = Memory(vec![("a 1".to_owned(), vec![1, 10, 3]), ("b".to_owned(), Vec::new())]);
        let mut bytes = Vec::new();
        memory.write(&mut bytes).unwrap();
        assert_eq!(bytes, b"[[\"a 1\",3],[\"b\",0]]\n\x01\x0a\x03");
        assert_eq!(Memory::read(&mut &bytes[..]).unwrap().0, memory.0);
        let huge = format!("[[\"a\",{}]]\n", BYTES_MAX + 1);
        for bad in [&bytes[..bytes.len() - 1], b"", b"go", b"[[\"a\",-1]]\n", huge.as_bytes()] {
            assert!(Memory::read(&mut &*bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}

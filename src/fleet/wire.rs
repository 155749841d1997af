//! The bytes of the shared log; pure. All numbers are little-endian.
//!
//! ```text
//! payload of a batch                              entry of the state
//!  0  1  version (1)                               0  1  kind, 1 to 7; 128 is added for a lift
//!  1 16  gateway that made it                      1 16  key
//! 17  8  sent at, ms, by that gateway's clock     17  4  expiry, seconds since 1970
//! 25  4  number of entries                        21  8  cutoff, ms (only where the kind is 3 or more, not of a lift)
//! 29  .  entries: sequence 8 (0: of no log),
//!        then as in the log of a gateway
//! ```

use crate::clock::UnixTime;
use crate::revocation::{GatewayId, Revocation, SelectorKey};

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 29;
const LIFT: u8 = 128;

/// What is not as this version writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Written by a newer program.
    #[error("a batch is of version {0}; this program knows versions up to {VERSION}")]
    Newer(u8),
    /// Not written by this program.
    #[error("a batch is not as it was written")]
    Damaged,
}

/// One entry of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchEntry {
    /// Its sequence in the log of the gateway that made it; 0 when it is of no log yet.
    pub sequence: u64,
    /// What was asked for.
    pub revocation: Revocation,
}

/// Entries that one gateway appends at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Who.
    pub gateway: GatewayId,
    /// When, by its clock.
    pub sent_at: UnixTime,
    /// What, in order.
    pub entries: Vec<BatchEntry>,
}

impl Batch {
    /// As the live part holds it. Every entry must have passed [`Revocation::validate`].
    pub fn payload(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_BYTES + 120 * self.entries.len());
        out.push(VERSION);
        out.extend_from_slice(&self.gateway.0);
        out.extend_from_slice(&self.sent_at.millis().to_le_bytes());
        out.extend_from_slice(&u32::try_from(self.entries.len()).unwrap_or(u32::MAX).to_le_bytes());
        for entry in &self.entries {
            out.extend_from_slice(&entry.sequence.to_le_bytes());
            entry.revocation.encode(&mut out);
        }
        out
    }

    /// From the bytes of [`Batch::payload`].
    ///
    /// # Errors
    /// Anything else, and what a newer version wrote.
    pub fn read(payload: &[u8]) -> Result<Self, Malformed> {
        let (head, mut rest) = payload.split_at_checked(HEAD_BYTES).ok_or(Malformed::Damaged)?;
        if head[0] != VERSION {
            return Err(if head[0] > VERSION { Malformed::Newer(head[0]) } else { Malformed::Damaged });
        }
        let gateway = GatewayId(head[1..17].try_into().map_err(|_| Malformed::Damaged)?);
        let sent_at = UnixTime::from_millis(number(&head[17..25]));
        let count = u32::from_le_bytes(head[25..29].try_into().map_err(|_| Malformed::Damaged)?);
        let mut entries = Vec::with_capacity((count as usize).min(rest.len() / 30 + 1));
        for _ in 0..count {
            let (sequence, behind) = rest.split_at_checked(8).ok_or(Malformed::Damaged)?;
            rest = behind;
            let revocation = Revocation::decode(&mut rest).ok_or(Malformed::Damaged)?;
            entries.push(BatchEntry { sequence: number(sequence), revocation });
        }
        if rest.is_empty() { Ok(Self { gateway, sent_at, entries }) } else { Err(Malformed::Damaged) }
    }

    /// What the state holds of it, in order.
    pub fn state(&self) -> impl Iterator<Item = StateEntry> {
        self.entries.iter().map(|entry| StateEntry::of(&entry.revocation))
    }
}

/// What the state holds of one entry: enough to refuse by, not who asked and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateEntry {
    /// The number of its kind, as in the log.
    pub kind: u8,
    /// What tokens are matched by.
    pub key: SelectorKey,
    /// Seconds since 1970, rounded up; `u32::MAX` also for what is later.
    pub expires: u32,
    /// For the kinds that have one.
    pub issued_before: Option<UnixTime>,
    /// It takes away what stood before it.
    pub lift: bool,
}

impl StateEntry {
    /// Of this entry.
    pub fn of(revocation: &Revocation) -> Self {
        Self {
            kind: revocation.selector.kind.number(),
            key: revocation.selector.key(),
            expires: u32::try_from(revocation.expires_at.secs_ceil()).unwrap_or(u32::MAX),
            issued_before: revocation.issued_before.filter(|_| !revocation.lift),
            lift: revocation.lift,
        }
    }

    /// Writes its bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.kind | if self.lift { LIFT } else { 0 });
        out.extend_from_slice(&self.key.to_bytes());
        out.extend_from_slice(&self.expires.to_le_bytes());
        if self.has_cutoff() {
            let cutoff = self.issued_before.unwrap_or(UnixTime::ZERO);
            out.extend_from_slice(&cutoff.millis().to_le_bytes());
        }
    }

    /// Takes one off the front of `bytes`.
    ///
    /// # Errors
    /// What was not written by [`StateEntry::encode`].
    pub fn decode(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        let (head, rest) = bytes.split_first_chunk::<21>().ok_or(Malformed::Damaged)?;
        *bytes = rest;
        let key: [u8; 16] = head[1..17].try_into().map_err(|_| Malformed::Damaged)?;
        let expires: [u8; 4] = head[17..21].try_into().map_err(|_| Malformed::Damaged)?;
        let mut entry = Self {
            kind: head[0] & !LIFT,
            key: SelectorKey::from_bytes(key),
            expires: u32::from_le_bytes(expires),
            issued_before: None,
            lift: head[0] & LIFT != 0,
        };
        if !(1..=7).contains(&entry.kind) {
            return Err(Malformed::Damaged);
        }
        if entry.has_cutoff() {
            let (cutoff, rest) = bytes.split_first_chunk::<8>().ok_or(Malformed::Damaged)?;
            *bytes = rest;
            entry.issued_before = Some(UnixTime::from_millis(u64::from_le_bytes(*cutoff)));
        }
        Ok(entry)
    }

    const fn has_cutoff(&self) -> bool {
        self.kind >= 3 && !self.lift
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::revocation::{Kind, Selector};

    fn entries() -> Vec<BatchEntry> {
        let kinds = [Kind::Token, Kind::Session, Kind::Subject, Kind::Issuer, Kind::Claim("tenant".into())];
        let noon = UnixTime::from_secs(1_795_000_000);
        let both = kinds.into_iter().enumerate().flat_map(|(number, kind)| {
            let value = if kind == Kind::Issuer { "" } else { "v" };
            let entry = move |lift| Revocation {
                selector: Selector::new(kind.clone(), "self", value),
                lift,
                issued_before: (!lift && !kind.is_absolute()).then_some(noon),
                expires_at: noon.plus(Duration::from_millis(1)),
                reason: "why".into(),
                actor: "admin".into(),
                address: "".into(),
                at: noon,
            };
            [(number as u64, entry(false)), (number as u64 + 100, entry(true))]
        });
        both.map(|(sequence, revocation)| BatchEntry { sequence, revocation }).collect()
    }

    #[test]
    fn a_batch_survives_its_bytes_and_nothing_else_passes_for_one() {
        let batch =
            Batch { gateway: GatewayId([9; 16]), sent_at: UnixTime::from_millis(77), entries: entries() };
        let bytes = batch.payload();
        assert_eq!(Batch::read(&bytes), Ok(batch));
        for end in 0..bytes.len() {
            assert!(Batch::read(&bytes[..end]).is_err(), "{end}");
        }
        assert!(Batch::read(&[&bytes[..], &[0]].concat()).is_err());
        assert_eq!(Batch::read(&[&[2], &bytes[1..]].concat()), Err(Malformed::Newer(2)));
    }

    #[test]
    fn a_state_entry_survives_its_bytes() {
        let batch = Batch { gateway: GatewayId([9; 16]), sent_at: UnixTime::ZERO, entries: entries() };
        let mut bytes = Vec::new();
        batch.state().for_each(|entry| entry.encode(&mut bytes));
        let mut rest = &bytes[..];
        let mut read = Vec::new();
        while !rest.is_empty() {
            read.push(StateEntry::decode(&mut rest).unwrap());
        }
        assert_eq!(read, batch.state().collect::<Vec<_>>());
        assert_eq!(read[0].expires, 1_795_000_001, "rounded up");
        assert!(StateEntry::decode(&mut &bytes[..20]).is_err());
        assert!(StateEntry::decode(&mut &[0; 40][..]).is_err());
    }
}

//! What is remembered of a loss of the log, in a file beside the log, until it is known who else must hear of it.
//!
//! The cutoffs that a loss leaves are in the log like any other entry, but a fleet need not follow them: what this
//! gateway lost the others may have. `fleet/loss.rs` finds out.

use std::io;
use std::sync::PoisonError;

use super::disk::Disk;
use super::files::{LOSS_NAME, unfinished};
use super::{AppendError, Handle, IssuerTerm, Kind, LOST_REASON, Revocation, Selector, cutoff_now};
use crate::clock::UnixTime;

/// A loss of the log, after which every issuer has got a cutoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The last sequence that the store or the fleet had seen.
    pub seen: u64,
    /// What was issued before this is refused.
    pub cutoff: UnixTime,
    /// The others have all that was lost, as far as anybody knows: the cutoffs stay with this gateway.
    pub is_settled: bool,
}

impl Loss {
    /// What is remembered, if anything is.
    pub(super) fn recall(disk: &dyn Disk) -> io::Result<Option<Self>> {
        let mut bytes = [0; 128];
        let count = match disk.open(LOSS_NAME) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?.read_at(0, &mut bytes)?,
        };
        let text = std::str::from_utf8(&bytes[..count]).unwrap_or_default();
        let loss = Self::parse(text);
        if loss.is_none() {
            tracing::warn!(
                file = %disk.place().join(LOSS_NAME).display(),
                "what is remembered of a loss of the log cannot be read: its cutoffs count as any other"
            );
        }
        Ok(loss)
    }

    /// Remembers it, durable when this returns.
    pub(super) fn remember(&self, disk: &dyn Disk) -> io::Result<()> {
        let state = if self.is_settled { "settled" } else { "open" };
        let mut file = disk.create(&unfinished(LOSS_NAME))?;
        file.append(format!("{} {} {state}\n", self.seen, self.cutoff.millis()).as_bytes())?;
        file.sync()?;
        disk.rename(&unfinished(LOSS_NAME), LOSS_NAME)?;
        disk.sync_dir()
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.strip_suffix('\n')?.split(' ');
        let seen = words.next()?.parse().ok()?;
        let cutoff = UnixTime::from_millis(words.next()?.parse().ok()?);
        let is_settled = match words.next()? {
            "open" => false,
            "settled" => true,
            _ => return None,
        };
        words.next().is_none().then_some(Self { seen, cutoff, is_settled })
    }
}

/// After a loss: a cutoff for every issuer, as entries of the log, so that they can be seen, explained and lifted.
pub(super) fn cutoffs(issuers: &[IssuerTerm], now: UnixTime) -> Vec<Revocation> {
    let cutoff = |issuer: &IssuerTerm| Revocation {
        selector: Selector::new(Kind::Issuer, issuer.name.clone(), ""),
        lift: false,
        issued_before: cutoff_now(&Kind::Issuer, false, now),
        expires_at: now.plus(issuer.lifetime_max),
        reason: LOST_REASON.into(),
        actor: "gateway".into(),
        address: "".into(),
        at: now,
    };
    issuers.iter().map(cutoff).collect()
}

/// The loss whose cutoffs are made at `now`.
pub(super) fn loss_of(seen: u64, now: UnixTime) -> Loss {
    let cutoff = cutoff_now(&Kind::Issuer, false, now).unwrap_or(now);
    Loss { seen, cutoff, is_settled: false }
}

impl Handle {
    /// The last loss whose cutoffs are not those of everybody.
    pub fn loss(&self) -> Option<Loss> {
        *self.shared().loss.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log turned out to be an old copy while it was open: what was issued before now is refused from now on.
    ///
    /// # Errors
    /// As [`Handle::append`].
    pub async fn cut_everything(
        &self,
        issuers: &[IssuerTerm],
        seen: u64,
        now: UnixTime,
    ) -> Result<(), AppendError> {
        self.set_loss(Some(loss_of(seen, now))).map_err(|_| AppendError::LogUnavailable)?;
        self.append(cutoffs(issuers, now)).await.map(drop)
    }

    /// Remembers whom the loss concerns: this gateway alone, or everybody (`None`). Waits for the disk.
    ///
    /// # Errors
    /// When it cannot be written; then nothing has changed.
    pub fn set_loss(&self, loss: Option<Loss>) -> io::Result<()> {
        match loss {
            Some(loss) => loss.remember(&**self.disk())?,
            None => {
                self.disk().remove(LOSS_NAME)?;
                self.disk().sync_dir()?;
            }
        }
        *self.shared().loss.lock().unwrap_or_else(PoisonError::into_inner) = loss;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::sim::SimDisk;
    use super::*;

    #[test]
    fn a_loss_survives_a_power_cut_and_damage_is_none() {
        let disk = SimDisk::default();
        assert_eq!(Loss::recall(&disk).unwrap(), None);
        let loss = loss_of(500, UnixTime::from_millis(1_795_000_000_001));
        loss.remember(&disk).unwrap();
        assert_eq!(loss.cutoff, UnixTime::from_secs(1_795_000_001));
        let settled = Loss { is_settled: true, ..loss };
        for loss in [loss, settled] {
            loss.remember(&disk).unwrap();
            assert_eq!(Loss::recall(&disk.power_cut(1)).unwrap(), Some(loss));
        }
        for text in ["", "1 2 open", "1 2 open \n", "1 open\n", "x 2 open\n", "1 2 both\n", "1 2 open 3\n"] {
            assert_eq!(Loss::parse(text), None, "{text:?}");
        }
    }
}

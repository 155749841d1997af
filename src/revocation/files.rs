//! The names of files in the state directory that belong to the log.

/// A file of the log, by its name. Sequences are written with 20 digits, so that order of names is order of
/// sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    /// A segment, by the sequence of its first record.
    Segment(u64),
    /// A snapshot, by the sequence after which replay goes on.
    Snapshot(u64),
    /// Not finished: made under this name, then renamed. Left over after a crash, and worth nothing.
    Unfinished,
    /// The gateway's id.
    Identity,
    /// What is remembered of a loss of the log.
    Loss,
    /// The lock.
    Lock,
}

impl Name {
    /// What a file of this name is; `None` when it is not ours.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let sequence = |digits: &str| {
            (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
        };
        if name == super::disk::LOCK_NAME {
            Some(Self::Lock)
        } else if name == IDENTITY_NAME {
            Some(Self::Identity)
        } else if name == LOSS_NAME {
            Some(Self::Loss)
        } else if let Some(stem) = name.strip_suffix(".new") {
            let ours = Self::parse(stem).is_some() || stem.starts_with("batch-");
            ours.then_some(Self::Unfinished)
        } else if let Some(digits) = name.strip_prefix("log-") {
            sequence(digits).map(Self::Segment)
        } else if let Some(digits) = name.strip_prefix("snapshot-") {
            sequence(digits).map(Self::Snapshot)
        } else {
            None
        }
    }
}

/// The file that holds the gateway's id.
pub(super) const IDENTITY_NAME: &str = "gateway-id";

/// The file that tells of a loss of the log.
pub(super) const LOSS_NAME: &str = "loss";

/// The segment whose first record has this sequence.
pub(super) fn segment_name(first: u64) -> String {
    format!("log-{first:020}")
}

/// The snapshot after which replay goes on behind this sequence.
pub(super) fn snapshot_name(position: u64) -> String {
    format!("snapshot-{position:020}")
}

/// Where a file of this name is written before it is whole.
pub(super) fn unfinished(name: &str) -> String {
    format!("{name}.new")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_the_round_trip_and_others_are_left_alone() {
        assert_eq!(Name::parse(&segment_name(7)), Some(Name::Segment(7)));
        assert_eq!(Name::parse(&snapshot_name(u64::MAX)), Some(Name::Snapshot(u64::MAX)));
        assert_eq!(Name::parse(&unfinished(&segment_name(7))), Some(Name::Unfinished));
        assert_eq!(Name::parse("batch-3.new"), Some(Name::Unfinished));
        for other in [
            "admin.token",
            "portcullis.db",
            "log-7",
            "log-99999999999999999999",
            "x.new",
            "log-+0000000000000000007",
        ] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }
}

//! Own entries that are in force here and whose place in the shared log is not known yet.
//!
//! Revoking commutes, lifting does not. What others append gets its place in the order of the shared log before ours
//! do; so a lift of theirs must not take away what we are about to revoke again, and what they revoke is not for a lift
//! of ours that knew nothing of it. Where both are on their way at once, revoking wins.

use std::collections::VecDeque;

use crate::revocation::SelectorKey;

struct Item {
    /// In the log of this gateway; 0 while it is not known yet.
    sequence: u64,
    ticket: u64,
    key: SelectorKey,
    lift: bool,
    /// A lift that is not to be forwarded: its key was revoked again by others.
    void: bool,
}

/// In the order of the log.
#[derive(Default)]
pub(super) struct Pending {
    items: VecDeque<Item>,
    tickets: u64,
    lifts: usize,
}

impl Pending {
    /// A batch takes its place in the order of the log now; [`Pending::settle`] must follow with this ticket.
    pub(super) fn begin(&mut self, entries: impl Iterator<Item = (SelectorKey, bool)>) -> u64 {
        self.tickets += 1;
        let ticket = self.tickets;
        for (key, lift) in entries {
            self.lifts += usize::from(lift);
            self.items.push_back(Item { sequence: 0, ticket, key, lift, void: false });
        }
        ticket
    }

    /// The batch of this ticket has these sequences, up to `last`; `None`: it is not in the log.
    pub(super) fn settle(&mut self, ticket: u64, last: Option<u64>) {
        match last {
            Some(last) => {
                let count = self.items.iter().filter(|item| item.ticket == ticket).count() as u64;
                let mine = self.items.iter_mut().filter(|item| item.ticket == ticket);
                mine.zip(last + 1 - count..).for_each(|(item, sequence)| item.sequence = sequence);
            }
            None => self.items.retain(|item| item.ticket != ticket),
        }
        self.count();
    }

    /// What the shared log does not have by its books, read back from the log; what was known up to the last of it is
    /// forgotten.
    pub(super) fn recall(&mut self, upto: u64, entries: Vec<(u64, SelectorKey, bool, bool)>) {
        self.items.retain(|item| item.sequence == 0 || item.sequence > upto);
        for (sequence, key, lift, void) in entries.into_iter().rev() {
            self.items.push_front(Item { sequence, ticket: 0, key, lift, void });
        }
        self.count();
    }

    /// Everything up to this sequence has its place in the shared log, and what stands before it was applied.
    pub(super) fn returned(&mut self, sequence: u64) {
        while let Some(item) = self.items.front() {
            if item.sequence == 0 || item.sequence > sequence {
                break;
            }
            self.lifts -= usize::from(item.lift);
            self.items.pop_front();
        }
    }

    /// Whether it holds lifts.
    pub(super) const fn has_lifts(&self) -> bool {
        self.lifts > 0
    }

    /// Whether something of this key is on its way which does this, later than `behind`.
    pub(super) fn has(&self, key: &SelectorKey, lift: bool, behind: u64) -> bool {
        let later = |item: &&Item| item.sequence == 0 || item.sequence > behind;
        let mut items = self.items.iter().rev().take_while(later);
        items.any(|item| item.key == *key && item.lift == lift && !item.void)
    }

    /// Others have revoked this key: lifts of it that they could not know of are not forwarded.
    pub(super) fn void_lifts(&mut self, key: &SelectorKey) {
        if self.lifts > 0 {
            let lifts = self.items.iter_mut().filter(|item| item.lift && item.key == *key);
            lifts.for_each(|item| item.void = true);
        }
    }

    /// Whether the lift of this sequence is not to be forwarded.
    pub(super) fn is_void(&self, sequence: u64) -> bool {
        self.lifts > 0 && self.items.iter().any(|item| item.sequence == sequence && item.void)
    }

    fn count(&mut self) {
        self.lifts = self.items.iter().filter(|item| item.lift).count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SelectorKey = SelectorKey([1; 4]);
    const B: SelectorKey = SelectorKey([2; 4]);

    #[test]
    fn what_is_on_its_way_is_known_until_it_has_its_place() {
        let mut pending = Pending::default();
        let first = pending.begin([(A, false), (B, true)].into_iter());
        assert!(pending.has(&A, false, 0) && pending.has(&B, true, 0) && !pending.has(&B, false, 0));
        pending.settle(first, Some(8));
        let second = pending.begin([(A, false)].into_iter());
        pending.returned(7);
        assert!(pending.has(&A, false, 7), "the second one");
        pending.settle(second, None);
        assert!(!pending.has(&A, false, 0) && pending.has_lifts());
        pending.returned(8);
        assert!(!pending.has_lifts());
    }

    #[test]
    fn a_lift_that_others_overtook_is_not_forwarded() {
        let mut pending = Pending::default();
        pending.recall(9, vec![(4, A, true, false), (5, B, true, false)]);
        pending.void_lifts(&A);
        assert!(pending.is_void(4) && !pending.is_void(5));
        assert!(!pending.has(&A, true, 0), "it will not happen");
    }
}

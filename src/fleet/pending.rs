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
    /// Everything up to this sequence has come back from the shared log.
    returned: u64,
    /// The last lifts that were not forwarded, for those who asked for them.
    dropped: VecDeque<u64>,
}

/// So many of them are remembered; who asked is told at once.
const DROPPED_MAX: usize = 1024;

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
                // It is among the last, however many wait for an engine that is away.
                let later = self.items.iter_mut().rev().skip_while(|item| item.ticket > ticket);
                let mine = later.take_while(|item| item.ticket == ticket);
                mine.zip((1..=last).rev()).for_each(|(item, sequence)| item.sequence = sequence);
            }
            None => {
                self.items.retain(|item| item.ticket != ticket);
                self.count();
            }
        }
        // The shared log may have given it back before this was called.
        self.returned(self.returned);
    }

    /// What the shared log does not have by its books, which say `own`, read back from the log up to `upto`. With
    /// `goes_on` what it does have is still to come back; else it was part of the state that was taken over.
    pub(super) fn recall(
        &mut self,
        own: u64,
        upto: u64,
        goes_on: bool,
        entries: Vec<(u64, SelectorKey, bool, bool)>,
    ) {
        let mut kept = VecDeque::new();
        let mut voids = Vec::new();
        for item in std::mem::take(&mut self.items) {
            if item.sequence == 0 || item.sequence > upto || (goes_on && item.sequence <= own) {
                kept.push_back(item);
            } else if item.void {
                voids.push(item.sequence);
            }
        }
        let at = kept.iter().position(|item| item.sequence == 0 || item.sequence > own).unwrap_or(kept.len());
        let later = kept.split_off(at);
        kept.extend(entries.into_iter().map(|(sequence, key, lift, void)| {
            let void = void || voids.binary_search(&sequence).is_ok();
            Item { sequence, ticket: 0, key, lift, void }
        }));
        kept.extend(later);
        self.items = kept;
        self.returned = if goes_on { self.returned.min(own) } else { 0 };
        self.count();
    }

    /// Everything up to this sequence has its place in the shared log, and what stands before it was applied.
    pub(super) fn returned(&mut self, sequence: u64) {
        self.returned = self.returned.max(sequence);
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

    /// Whether something of this key is on its way which does this, later than `behind`: what stands up to there has
    /// its place in the shared log before the one in question.
    pub(super) fn has(&self, key: &SelectorKey, lift: bool, behind: u64) -> bool {
        let later = |item: &&Item| item.sequence == 0 || item.sequence > behind;
        let mut items = self.items.iter().filter(later);
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

    /// The lift of this sequence is not forwarded.
    pub(super) fn drop_lift(&mut self, sequence: u64) {
        self.dropped.push_back(sequence);
        if self.dropped.len() > DROPPED_MAX {
            self.dropped.pop_front();
        }
    }

    /// Whether any of these was not forwarded.
    pub(super) fn has_dropped(&self, sequences: std::ops::RangeInclusive<u64>) -> bool {
        self.dropped.iter().any(|sequence| sequences.contains(sequence))
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
        pending.recall(3, 9, false, vec![(4, A, true, false), (5, B, true, false)]);
        pending.void_lifts(&A);
        assert!(pending.is_void(4) && !pending.is_void(5));
        assert!(!pending.has(&A, true, 0), "it will not happen");
        // Not after the link was made anew, either.
        pending.recall(3, 9, true, vec![(4, A, true, false), (5, B, true, false)]);
        assert!(pending.is_void(4) && !pending.is_void(5));
        pending.drop_lift(4);
        assert!(pending.has_dropped(3..=4) && !pending.has_dropped(5..=9));
    }

    #[test]
    fn what_the_books_have_and_did_not_come_back_is_known_while_the_shared_log_goes_on() {
        let mut pending = Pending::default();
        let first = pending.begin([(A, false)].into_iter());
        pending.settle(first, Some(3));
        let second = pending.begin([(B, false)].into_iter());
        pending.settle(second, Some(4));
        let unsettled = pending.begin([(B, true)].into_iter());
        pending.recall(3, 4, true, vec![(4, B, false, false)]);
        assert!(pending.has(&A, false, 0) && pending.has(&B, false, 3) && pending.has(&B, true, 4));
        pending.returned(4);
        assert!(!pending.has(&A, false, 0) && !pending.has(&B, false, 0));
        // It came back before it was known where it stands here.
        pending.returned(5);
        assert!(pending.has_lifts());
        pending.settle(unsettled, Some(5));
        assert!(!pending.has_lifts());
        pending.recall(3, 5, false, Vec::new());
        assert!(!pending.has(&A, false, 0));
    }
}

//! Whether one subscriber got everything, once, in order, and whether all got the same order.

use std::collections::BTreeMap;

use crate::payload::Stamp;

/// What went wrong, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Faults {
    /// Publications that never came.
    pub lost: u64,
    /// Publications that came again.
    pub duplicated: u64,
    /// Publications that came after a later one.
    pub reordered: u64,
    /// Deliveries with other bytes than were published, or with a `seq` that belongs to another
    /// publication.
    pub corrupted: u64,
}

impl Faults {
    /// Whether there is none.
    pub fn is_clean(&self) -> bool {
        *self == Faults::default()
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Faults) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.corrupted += other.corrupted;
    }
}

/// The order that the first subscriber to get each publication saw, as far back as anyone may be
/// behind: a run of hours is to take no more memory than one of seconds.
#[derive(Debug, Default)]
pub struct Order {
    /// A circle by place in the topic: the place plus 1 (0 is "none yet"), and what was there.
    places: Vec<(u64, u64)>,
}

impl Order {
    /// How many places are remembered.
    const WINDOW: usize = 1 << 18;

    /// Whether `stamp` is what everyone else got at this place; one that is forgotten agrees.
    fn agrees(&mut self, index: u64, stamp: Stamp) -> bool {
        let wanted = usize::try_from(index).unwrap_or(usize::MAX).saturating_add(1);
        if wanted > self.places.len() && self.places.len() < Order::WINDOW {
            // Below the window's size each place is at its own index, so that nothing has to move.
            let len = wanted.checked_next_power_of_two().unwrap_or(usize::MAX).min(Order::WINDOW);
            self.places.resize(len, (0, 0));
        }
        let publication = (stamp.publisher as u64) << 48 | stamp.sequence;
        let slot = (index % self.places.len() as u64) as usize;
        let (place, remembered) = &mut self.places[slot];
        if *place < index + 1 {
            (*place, *remembered) = (index + 1, publication);
        }
        *place > index + 1 || *remembered == publication
    }
}

/// Numbers as ranges: a long gap is one entry.
#[derive(Debug, Default)]
struct Missing {
    /// First to one after the last.
    ranges: BTreeMap<u64, u64>,
}

impl Missing {
    /// Adds a range beyond all others.
    fn add(&mut self, from: u64, to: u64) {
        if from < to {
            self.ranges.insert(from, to);
        }
    }

    /// Takes one out; whether it was there.
    fn remove(&mut self, number: u64) -> bool {
        let Some((&from, &to)) = self.ranges.range(..=number).next_back() else { return false };
        if number >= to {
            return false;
        }
        self.ranges.remove(&from);
        self.add(from, number);
        self.add(number + 1, to);
        true
    }

    fn first(&self) -> Option<u64> {
        self.ranges.keys().next().copied()
    }
}

/// Follows one subscriber's deliveries of one topic.
#[derive(Debug)]
pub struct Verifier {
    first_seq: u64,
    next_seq: u64,
    /// Passed over and not yet come.
    missing: Missing,
    received: u64,
    faults: Faults,
}

impl Verifier {
    /// For a subscription whose `ok` said `seq`: the first delivery is the one after it.
    pub fn new(seq: u64) -> Verifier {
        Verifier {
            first_seq: seq + 1,
            next_seq: seq + 1,
            missing: Missing::default(),
            received: 0,
            faults: Faults::default(),
        }
    }

    /// A delivery came. `stamp` is `None` if its payload is not one of ours. Whether it is the first of
    /// its publication.
    pub fn on_delivery(&mut self, seq: u64, stamp: Option<Stamp>, order: &mut Order) -> bool {
        let is_new = self.on_number(seq);
        if is_new && !stamp.is_some_and(|it| order.agrees(seq - self.first_seq, it)) {
            self.faults.corrupted += 1;
        }
        is_new
    }

    /// The same for a delivery that is known by nothing but its number.
    pub fn on_number(&mut self, seq: u64) -> bool {
        if seq < self.next_seq && !self.missing.remove(seq) {
            self.faults.duplicated += 1;
            return false;
        }
        if seq < self.next_seq {
            self.faults.reordered += 1;
        } else {
            // A gap longer than this is a broken `seq`, not a loss to list.
            const GAP_MAX: u64 = 1 << 24;
            if seq - self.next_seq > GAP_MAX {
                self.faults.corrupted += 1;
                return false;
            }
            self.missing.add(self.next_seq, seq);
            self.next_seq = seq + 1;
        }
        self.received += 1;
        true
    }

    /// How many different publications came.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The place of the newest that came, counted from 1 at the subscription's start; 0: none came.
    pub fn newest(&self) -> u64 {
        self.next_seq - self.first_seq
    }

    /// The first that is missing of `published`, counted from 1 at the subscription's start.
    pub fn first_missing(&self, published: u64) -> Option<u64> {
        let first = self.missing.first().or((self.received < published).then_some(self.next_seq));
        first.map(|it| it - self.first_seq + 1)
    }

    /// The verdict after `published` publications.
    pub fn faults(&self, published: u64) -> Faults {
        Faults { lost: published.saturating_sub(self.received), ..self.faults }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(seqs: &[u64], published: u64) -> Faults {
        let (mut verifier, mut order) = (Verifier::new(10), Order::default());
        for &seq in seqs {
            verifier.on_delivery(seq, Some(stamp(seq)), &mut order);
        }
        verifier.faults(published)
    }

    fn stamp(seq: u64) -> Stamp {
        Stamp { due_ns: 0, topic: 0, publisher: 1, sequence: seq }
    }

    #[test]
    fn everything_once_and_in_order_is_clean() {
        assert!(verdict(&[11, 12, 13], 3).is_clean());
        assert!(verdict(&[], 0).is_clean());
    }

    #[test]
    fn a_loss_is_told_wherever_it_is() {
        for seqs in [&[12, 13][..], &[11, 13], &[11, 12]] {
            assert_eq!(verdict(seqs, 3), Faults { lost: 1, ..Faults::default() }, "{seqs:?}");
        }
    }

    #[test]
    fn a_duplicate_is_told_and_does_not_hide_a_loss() {
        assert_eq!(verdict(&[11, 12, 12, 13], 3), Faults { duplicated: 1, ..Faults::default() });
        assert_eq!(verdict(&[11, 11, 13], 3), Faults { lost: 1, duplicated: 1, ..Faults::default() });
        assert_eq!(verdict(&[10, 11, 12, 13], 3), Faults { duplicated: 1, ..Faults::default() });
    }

    #[test]
    fn a_swap_is_told_and_is_no_loss() {
        assert_eq!(verdict(&[12, 11, 13], 3), Faults { reordered: 1, ..Faults::default() });
        assert_eq!(
            verdict(&[12, 11, 11, 13], 3),
            Faults { reordered: 1, duplicated: 1, ..Faults::default() }
        );
    }

    #[test]
    fn foreign_bytes_and_absurd_numbers_are_told() {
        let (mut verifier, mut order) = (Verifier::new(0), Order::default());
        verifier.on_delivery(1, None, &mut order);
        verifier.on_delivery(u64::MAX, Some(stamp(2)), &mut order);
        assert_eq!(verifier.faults(1), Faults { corrupted: 2, ..Faults::default() });
    }

    #[test]
    fn two_subscribers_that_see_different_orders_are_told() {
        let mut order = Order::default();
        let (mut one, mut other) = (Verifier::new(0), Verifier::new(0));
        for (seq, sequence) in [(1, 1), (2, 2)] {
            one.on_delivery(seq, Some(stamp(sequence)), &mut order);
        }
        for (seq, sequence) in [(1, 2), (2, 1)] {
            other.on_delivery(seq, Some(stamp(sequence)), &mut order);
        }
        assert!(one.faults(2).is_clean());
        assert_eq!(other.faults(2), Faults { corrupted: 2, ..Faults::default() });
    }
    #[test]
    fn the_first_that_is_missing_is_named() {
        let first_missing = |seqs: &[u64], published| {
            let mut verifier = Verifier::new(10);
            assert!(seqs.iter().all(|it| verifier.on_number(*it)));
            verifier.first_missing(published)
        };
        assert_eq!(first_missing(&[11, 12], 2), None);
        assert_eq!(first_missing(&[11, 12], 3), Some(3));
        assert_eq!(first_missing(&[12], 2), Some(1));
        assert_eq!(first_missing(&[11, 20, 13, 12, 15], 10), Some(4));
    }

    /// The window comes round: the newest places are compared, the forgotten ones are let pass.
    #[test]
    fn an_order_remembers_a_window() {
        let mut order = Order::default();
        let last = 3 * Order::WINDOW as u64;
        for index in 0..=last {
            assert!(order.agrees(index, stamp(index)));
        }
        assert!(order.agrees(last - 5, stamp(last - 5)));
        assert!(!order.agrees(last - 5, stamp(1)));
        assert!(order.agrees(0, stamp(99)));
        assert_eq!(order.places.len(), Order::WINDOW);
    }
}

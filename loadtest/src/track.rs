//! A subscriber's deliveries against what was published, by the broker's numbers or by our own.

use crate::{
    payload::Stamp,
    verify::{Faults, Order, Verifier},
};

/// Follows one subscriber's deliveries of one topic.
#[derive(Debug)]
pub enum Tracker {
    /// The broker numbers them, and everybody must see the same order.
    BySeq(Verifier),
    /// It does not: each publisher's own publications must come in the order of their stamps.
    ByStamp {
        /// By publisher.
        publishers: Vec<Verifier>,
        /// Deliveries that are nobody's.
        foreign: u64,
    },
}

impl Tracker {
    /// For a subscription whose `ok` said `seq`.
    pub fn by_seq(seq: u64) -> Tracker {
        Tracker::BySeq(Verifier::new(seq))
    }

    /// For a protocol without numbers, with so many publishers.
    pub fn by_stamp(publishers: usize) -> Tracker {
        Tracker::ByStamp { publishers: (0..publishers).map(|_| Verifier::new(0)).collect(), foreign: 0 }
    }

    /// A delivery came. `stamp` is `None` if its payload is not one of ours. Whether it is the first of
    /// its publication.
    pub fn on_delivery(&mut self, seq: Option<u64>, stamp: Option<Stamp>, order: &mut Order) -> bool {
        match self {
            Tracker::BySeq(verifier) => verifier.on_delivery(seq.unwrap_or(0), stamp, order),
            Tracker::ByStamp { publishers, foreign } => {
                let known = stamp.and_then(|it| Some((publishers.get_mut(it.publisher as usize)?, it)));
                let Some((publisher, stamp)) = known else {
                    *foreign += 1;
                    return false;
                };
                publisher.on_number(stamp.sequence + 1)
            }
        }
    }

    /// How many different publications came.
    pub fn received(&self) -> u64 {
        match self {
            Tracker::BySeq(verifier) => verifier.received(),
            Tracker::ByStamp { publishers, .. } => publishers.iter().map(Verifier::received).sum(),
        }
    }

    /// Whether the newest of `published` came, of every publisher that there is.
    pub fn has_newest(&self, published: u64) -> bool {
        let newest = match self {
            Tracker::BySeq(verifier) => verifier.newest(),
            Tracker::ByStamp { publishers, .. } => publishers.iter().map(Verifier::newest).sum(),
        };
        newest >= published
    }

    /// The verdict after `published` publications when only the newest had to come: one is lost, or none.
    pub fn faults_of_conflated(&self, published: u64) -> Faults {
        Faults { lost: !self.has_newest(published) as u64, ..self.faults(0) }
    }

    /// The first that is missing of `published`, counted from 1 at the subscription's start; without the
    /// broker's numbers nobody knows.
    pub fn first_missing(&self, published: u64) -> Option<u64> {
        match self {
            Tracker::BySeq(verifier) => verifier.first_missing(published),
            Tracker::ByStamp { .. } => None,
        }
    }

    /// The verdict after `published` publications.
    pub fn faults(&self, published: u64) -> Faults {
        match self {
            Tracker::BySeq(verifier) => verifier.faults(published),
            Tracker::ByStamp { publishers, foreign } => {
                let mut faults = Faults {
                    lost: published.saturating_sub(self.received()),
                    corrupted: *foreign,
                    ..Faults::default()
                };
                publishers.iter().for_each(|it| faults.add(&it.faults(0)));
                faults
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(deliveries: &[Option<(u16, u64)>], published: u64) -> Faults {
        let mut tracker = Tracker::by_stamp(2);
        for it in deliveries {
            let stamp = it.map(|(publisher, sequence)| Stamp { due_ns: 0, topic: 0, publisher, sequence });
            tracker.on_delivery(None, stamp, &mut Order::default());
        }
        tracker.faults(published)
    }

    #[test]
    fn publishers_may_interleave_but_each_keeps_its_order() {
        assert!(verdict(&[Some((0, 0)), Some((1, 0)), Some((1, 1)), Some((0, 1))], 4).is_clean());
        let swapped = verdict(&[Some((0, 1)), Some((1, 0)), Some((0, 0))], 3);
        assert_eq!(swapped, Faults { reordered: 1, ..Faults::default() });
    }

    #[test]
    fn conflated_only_the_newest_must_come_and_the_order_must_rise() {
        let mut order = Order::default();
        let stamp = |sequence| Some(Stamp { due_ns: 0, topic: 0, publisher: 0, sequence });
        let verdict = |tracker: &mut Tracker, order: &mut Order, seqs: &[u64]| {
            for &seq in seqs {
                tracker.on_delivery(Some(seq), stamp(seq - 1), order);
            }
            tracker.faults_of_conflated(9)
        };
        for tracker in [|| Tracker::by_seq(0), || Tracker::by_stamp(1)] {
            let mut verdict = |seqs: &[u64]| verdict(&mut tracker(), &mut order, seqs);
            assert!(verdict(&[2, 3, 9]).is_clean());
            assert_eq!(verdict(&[2, 3, 8]), Faults { lost: 1, ..Faults::default() });
            assert_eq!(verdict(&[]), Faults { lost: 1, ..Faults::default() });
            assert_eq!(verdict(&[3, 2, 9]), Faults { reordered: 1, ..Faults::default() });
            assert_eq!(verdict(&[3, 3, 9]), Faults { duplicated: 1, ..Faults::default() });
        }
    }

    #[test]
    fn losses_duplicates_and_foreign_bytes_are_told() {
        let lost = verdict(&[Some((0, 0)), Some((0, 2))], 3);
        assert_eq!(lost, Faults { lost: 1, ..Faults::default() });
        let duplicated = verdict(&[Some((0, 0)), Some((0, 0))], 1);
        assert_eq!(duplicated, Faults { duplicated: 1, ..Faults::default() });
        let foreign = verdict(&[None, Some((7, 0))], 0);
        assert_eq!(foreign, Faults { corrupted: 2, ..Faults::default() });
    }
}

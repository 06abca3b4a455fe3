//! What a subscription lets through, and what is due by it.

use super::{Delivered, Subscription, Tour, policy::matches};

impl Subscription {
    /// Whether its unsubscribe was answered: by then its client has what it published before, unless that was still to
    /// be replayed.
    pub(super) fn has_own(&self) -> bool {
        self.is_ended && self.left_count > 0 && self.from.is_none()
    }

    /// Whether it matches, has started for certain and is not left.
    pub(super) fn covers(&self, topic: &str) -> bool {
        self.ok_step.is_some() && !self.is_left && matches(&self.filter, topic)
    }

    /// Whether a publication was accepted after its `ok` for certain.
    pub(super) fn is_due(&self, seq: u64, step: u64) -> bool {
        self.ok_step.is_some_and(|ok_step| step > ok_step) || self.ok_seq.is_some_and(|ok_seq| seq > ok_seq)
    }

    /// Whether it lets messages through: only after its `ok`. Which must be the first is checked elsewhere.
    pub(super) fn allows(&self, topic: &str) -> bool {
        let may_have_started = self.id.is_none() || self.ok_step.is_some() || self.tour == Some(Tour::Begun);
        may_have_started && !self.is_ended && !self.is_refused && matches(&self.filter, topic)
    }
}

impl Delivered {
    /// Whether the client got `seq`, or was told that it will not.
    pub(super) fn has(&self, seq: u64) -> bool {
        self.seqs.contains(&seq) || self.gaps.iter().any(|(from, to)| (*from..=*to).contains(&seq))
    }
}

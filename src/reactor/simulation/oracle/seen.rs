//! What a client knows of its subscriptions, by what it was told.

use super::{
    Next, Seen, Start, Subscription,
    policy::{is_wild, matches},
    value::Awaited,
};

impl Seen {
    /// Every subscription to `filter` that was asked for before the command `id` has ended.
    pub(super) fn end_before(&mut self, filter: &str, id: u64) {
        for (place, subscription) in self.subscriptions.iter_mut().enumerate() {
            if subscription.filter == filter && subscription.id.is_some_and(|asked| asked < id) {
                (subscription.is_left, subscription.is_ended) = (true, true);
                if self.held.get(filter) == Some(&place) {
                    self.held.remove(filter);
                }
            }
        }
        self.forget_uncovered(filter);
    }

    pub(super) fn hold(&mut self, filter: &str, start: Start, id: Option<u64>) -> usize {
        self.held.insert(filter.to_owned(), self.subscriptions.len());
        self.subscriptions.push(Subscription {
            filter: filter.to_owned(),
            ok_step: None,
            ok_seq: None,
            id,
            start,
            from: None,
            tour: None,
            jumps: false,
            is_received: false,
            is_refused: false,
            is_left: false,
            left_count: 0,
            is_ended: false,
        });
        self.subscriptions.len() - 1
    }

    /// Whether the client receives the topic for certain: a subscription has started and is not left.
    pub(super) fn is_covered(&self, topic: &str) -> bool {
        self.subscriptions.iter().any(|subscription| subscription.covers(topic))
    }

    /// An unsubscribe is under way: where nothing else matches, deliveries end somewhere.
    pub(super) fn forget_uncovered(&mut self, filter: &str) {
        let mut topics = std::mem::take(&mut self.topics);
        for (topic, delivered) in &mut topics {
            if matches(filter, topic) && !self.is_covered(topic) {
                delivered.next = Next::Any;
                delivered.value = delivered.value.map(|awaited| Awaited { is_due: false, ..awaited });
            }
        }
        self.topics = topics;
    }

    /// `from`: it begins with what is behind that.
    pub(super) fn on_started(
        &mut self,
        place: usize,
        topic: &str,
        seq: Option<u64>,
        from: Option<u64>,
        step: u64,
    ) {
        let subscription = &self.subscriptions[place];
        let filter = subscription.filter.clone();
        assert_eq!(filter, topic, "the ok names what was asked");
        assert_eq!(seq.is_none(), is_wild(&filter), "the ok to a topic has a seq, to a filter none");
        assert_eq!(subscription.ok_step, None, "a subscribe has one ok");
        let is_left = subscription.is_left;
        let was_covered = self.is_covered(topic);
        let may_be_covered = self.subscriptions.iter().enumerate().any(|(other, subscription)| {
            other != place
                && !subscription.is_ended
                && !subscription.is_refused
                && (subscription.ok_step.is_some() || subscription.id.is_none())
                && matches(&subscription.filter, topic)
        });
        let subscription = &mut self.subscriptions[place];
        (subscription.ok_step, subscription.ok_seq, subscription.from) = (Some(step), from.or(seq), from);
        if let Some(from) = from {
            let delivered = self.topics.entry(filter).or_default();
            delivered.last = from;
            delivered.next = if is_left { Next::AtMost(from + 1) } else { Next::Exactly(from + 1) };
            return;
        }
        let Some(seq) = seq.filter(|_| !is_left) else { return };
        let delivered = self.topics.entry(filter).or_default();
        assert!(seq >= delivered.last, "{topic} starts at {seq}, and {} was there", delivered.last);
        delivered.next = match delivered.next {
            Next::Exactly(next) if was_covered => {
                assert!(next <= seq + 1, "{topic} starts at {seq}, and {next} was next");
                Next::Exactly(next)
            }
            Next::AtMost(next) if was_covered => Next::AtMost(next.min(seq + 1)),
            _ if was_covered || may_be_covered => Next::AtMost(seq + 1),
            _ => Next::Exactly(seq + 1),
        };
    }
}

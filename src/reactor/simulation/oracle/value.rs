//! What the broker promises of topics' values.

use super::{
    Oracle,
    policy::{is_wild, matches},
};
use crate::reactor::simulation::client::{Begin, Start};

/// A value that may have been retained comes first, unless the topic is left before.
#[derive(Clone, Copy)]
pub(super) struct Awaited {
    /// It is below what comes behind it.
    pub before: u64,
    pub is_due: bool,
    /// Which replay of values by key it is.
    pub replay: Option<usize>,
}

impl Oracle {
    /// Whether the last publication that was sent is to be retained.
    pub fn note_retain(&mut self, retain: bool) {
        self.publications.last_mut().expect("one was sent").retain = retain;
    }

    /// Whether topics of this name have a value, by any configuration.
    pub(super) fn may_have_value(&self, topic: &str) -> bool {
        let mut keeps = self.keeping.iter().filter_map(|keeping| keeping.keep_of(topic));
        keeps.any(|keep| keep.has_value())
    }

    /// Whether their publishers say which it is, by any.
    pub(super) fn may_retain(&self, topic: &str) -> bool {
        let mut keeps = self.keeping.iter().filter_map(|keeping| keeping.keep_of(topic));
        keeps.any(|keep| keep.has_value() && !keep.is_newest() && !keep.is_keyed())
    }

    /// Whether there may be no room for a topic, or for its value.
    pub(super) fn may_be_full(&self) -> bool {
        self.evicts || (self.is_past_short && self.keeping.iter().any(|keeping| keeping.has_values()))
    }

    /// Whether a publication may be refused with `code`.
    pub(super) fn may_refuse_publish(&self, number: usize, code: &str) -> bool {
        let publication = &self.publications[number];
        match code {
            "limit_reached" => self.may_be_full(),
            "unsupported" => {
                let keeps = self.keeping.iter().map(|keeping| keeping.keep_of(&publication.topic));
                let mut has_value = keeps.map(|keep| keep.is_some_and(|keep| keep.has_value()));
                publication.retain && has_value.any(|has_value| !has_value)
            }
            _ => false,
        }
    }

    /// A null of which nothing but its place tells which one it is: the first of the topic's that have none, if none has this
    /// one.
    pub(super) fn null_at(&self, topic: &str, seq: u64) -> usize {
        let nulls = || {
            let publications = self.publications.iter().enumerate();
            publications.filter(|(_, it)| it.topic == topic && it.payload == b"null" && !it.is_refused)
        };
        let placed = nulls().find(|(_, it)| it.seq == Some(seq));
        placed.or_else(|| nulls().find(|(_, it)| it.seq.is_none())).expect("somebody published it").0
    }

    /// Whoever subscribes to a topic that has a value is sent that, and told so, unless it receives the topic by a filter.
    pub(super) fn check_is_sent_value(&self, client: usize, topic: &str, start: &Start, begin: &Begin) {
        let seen = &self.clients[client];
        let mut subscriptions = seen.subscriptions.iter();
        let may_be_received = subscriptions.any(|it| is_wild(&it.filter) && matches(&it.filter, topic));
        let mut keeps = self.keeping.iter().map(|keeping| keeping.keep_of(topic));
        let has_value = !is_wild(topic) && keeps.all(|keep| keep.is_some_and(|keep| keep.has_value()));
        let (may_know, must_know) = self.knows_past(client, topic);
        let is_plain = *start == Start::default();
        assert!(
            begin.replayed.is_some() || !is_plain || may_be_received || !has_value || !must_know,
            "client {client} is told nothing of the value of {topic}"
        );
        assert!(
            begin.replayed.is_none() || !is_plain || may_know,
            "client {client} is told of the value of {topic}, and may not know its past"
        );
    }

    /// One publication, or none, comes as a topic's value, which is at `seq`.
    pub(super) fn check_value_count(&self, topic: &str, seq: u64, count: u64) {
        let mut keeps = self.keeping.iter().filter_map(|keeping| keeping.keep_of(topic));
        let is_newest = keeps.clone().count() == self.keeping.len() && keeps.all(|keep| keep.is_newest());
        let is_null = |seq: &u64| {
            let number = self.topics.get(topic).and_then(|by_seq| by_seq.get(seq));
            number.is_some_and(|&number| self.publications[number].payload == b"null")
        };
        if is_newest && !self.evicts {
            assert_eq!(count, u64::from(seq > 0 && !is_null(&seq)), "{topic} has a value at {seq}");
        }
        let mut keeps = self.keeping.iter().filter_map(|keeping| keeping.keep_of(topic));
        let is_retained = keeps.clone().count() == self.keeping.len()
            && keeps.all(|keep| keep.has_value() && !keep.is_newest() && !keep.is_keyed());
        let of_topic = self.publications.iter().filter(|it| it.topic == topic && it.retain);
        let newest = of_topic.filter(|it| it.seq.is_some_and(|at| at <= seq)).max_by_key(|it| it.seq);
        if let Some(newest) = newest.filter(|_| is_retained) {
            // Another one may be at a place that nobody was told of.
            let is_known = newest.payload != b"null"
                && !self
                    .publications
                    .iter()
                    .any(|it| it.topic == topic && it.retain && it.seq.is_none() && it.payload == b"null");
            assert!(count == 1 || !is_known, "{topic} has a value at {:?}", newest.seq);
        }
    }

    /// What the `ok` has told of a value may be one that was retained.
    pub(super) fn await_value(
        &mut self,
        client: usize,
        place: usize,
        topic: &str,
        seq: Option<u64>,
        begin: &Begin,
    ) {
        if let Some(delivered) = self.clients[client].topics.get_mut(topic) {
            delivered.value = None;
        }
        if self.await_keyed(client, place, topic, seq, begin) {
            return;
        }
        let (Some(seq), Some(1), Some(false) | None) = (seq, begin.replayed, begin.recovered) else { return };
        let subscription = &self.clients[client].subscriptions[place];
        if self.may_retain(topic) && subscription.start.last != Some(0) {
            let awaited = Awaited { before: seq + 1, is_due: !subscription.is_left, replay: None };
            self.clients[client].topics.entry(topic.to_owned()).or_default().value = Some(awaited);
        }
    }

    /// Whether a message is the value that was awaited, which is the newest publication, or the newest of those that were to be
    /// retained. Nothing else comes before it.
    pub(super) fn takes_value(&mut self, client: usize, topic: &str, seq: u64) -> bool {
        if let Some(is_value) = self.takes_keyed(client, topic, seq) {
            return is_value;
        }
        let delivered = self.clients[client].topics.get_mut(topic);
        let Some(awaited) = delivered.and_then(|delivered| delivered.value.take()) else { return false };
        let Awaited { before, is_due, .. } = awaited;
        if seq >= before {
            assert!(!is_due, "client {client} gets {topic} {seq} before the topic's value");
            return false;
        }
        if seq + 1 == before {
            return true;
        }
        let retained = self.publications.iter().filter(|it| it.topic == topic && it.retain);
        let newest = retained.filter_map(|it| it.seq.filter(|seq| *seq < before)).max();
        assert_eq!(Some(seq), newest, "the value of {topic} is another one");
        true
    }
}

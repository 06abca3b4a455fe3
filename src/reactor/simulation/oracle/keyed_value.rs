//! What the broker promises of topics' values by key.

use super::{Oracle, payload::key_of, value::Awaited};
use crate::{
    pubsub::past::{PAGE_BYTES_MAX, PAGE_SPANS_MAX},
    reactor::simulation::client::Begin,
};

/// Values by key that a client was told to get.
pub(super) struct KeyedReplay {
    client: usize,
    topic: String,
    place: usize,
    /// Up to this `seq`: what the `ok` told.
    until: u64,
    count: u64,
    /// It asked for all of them.
    is_all: bool,
    /// They come together, with nothing between them and what is live.
    is_one_page: bool,
    got: Vec<u64>,
    /// It was told that some do not come.
    is_missed: bool,
}

impl Oracle {
    /// Whether topics of this name have values by key, by any configuration.
    pub(super) fn may_be_keyed(&self, topic: &str) -> bool {
        let mut keeps = self.keeping.iter().filter_map(|keeping| keeping.keep_of(topic));
        keeps.any(|keep| keep.is_keyed())
    }

    /// Whether they have such alone, or may have.
    fn may_be_keyed_alone(&self, topic: &str) -> bool {
        let mut keeps = self.keeping.iter().filter_map(|keeping| keeping.keep_of(topic));
        keeps.any(|keep| keep.is_keyed_alone())
    }

    /// Whether something but what is published may take values away: their time, or a policy without such.
    pub(super) fn may_lose_values(&self, topic: &str) -> bool {
        let mut keeps = self.keeping.iter().map(|keeping| keeping.keep_of(topic));
        !keeps.all(|keep| keep.is_some_and(|keep| keep.is_keyed() && !keep.has_age()))
    }

    /// Whether they had such alone all the time, and nothing but what is published takes one away.
    fn is_keyed_for_good(&self, topic: &str) -> bool {
        let mut keeps = self.keeping.iter().filter_map(|keeping| keeping.keep_of(topic));
        keeps.all(|keep| keep.is_keyed_alone()) && !self.may_lose_values(topic)
    }

    /// Of replays of more than a page, some of which may go on where their topics keep nothing but values by now: of each key the
    /// newest is enough then.
    pub(super) fn let_replays_jump(&mut self) {
        let may_jump = |it: &&KeyedReplay| !it.is_one_page && self.may_be_keyed_alone(&it.topic);
        let jumping: Vec<_> = self.replays.iter().filter(may_jump).map(|it| (it.client, it.place)).collect();
        for (client, place) in jumping {
            self.clients[client].subscriptions[place].jumps = true;
        }
    }

    /// What the `ok` has told comes of values by key, or may; tells whether that is so.
    pub(super) fn await_keyed(
        &mut self,
        client: usize,
        place: usize,
        topic: &str,
        seq: Option<u64>,
        begin: &Begin,
    ) -> bool {
        let subscription = &self.clients[client].subscriptions[place];
        let is_declined = subscription.start.last == Some(0) || begin.recovered == Some(true);
        let (Some(seq), Some(count), true) = (seq, begin.replayed, self.may_be_keyed(topic) && !is_declined)
        else {
            return false;
        };
        let is_all = subscription.start.last.is_none();
        let of_topic = self.publications.iter().filter(|it| it.topic == topic);
        let record_bytes = of_topic.map(|it| it.record_bytes_max()).max().unwrap_or(0);
        let is_one_page = count <= PAGE_SPANS_MAX as u64 && count * record_bytes <= PAGE_BYTES_MAX.into();
        let awaited = Awaited { before: seq + 1, is_due: false, replay: Some(self.replays.len()) };
        let delivered = self.clients[client].topics.entry(topic.to_owned()).or_default();
        (delivered.value, delivered.values_before) = (Some(awaited), seq + 1);
        let topic = topic.to_owned();
        let (got, is_missed) = (Vec::new(), false);
        self.replays.push(KeyedReplay {
            client,
            topic,
            place,
            until: seq,
            count,
            is_all,
            is_one_page,
            got,
            is_missed,
        });
        self.let_replays_jump();
        true
    }

    /// Whether a message is one of the values by key that were awaited, if any are.
    pub(super) fn takes_keyed(&mut self, client: usize, topic: &str, seq: u64) -> Option<bool> {
        let delivered = self.clients[client].topics.get_mut(topic)?;
        let Awaited { before, replay: Some(replay), .. } = delivered.value? else { return None };
        if seq >= before {
            delivered.value = None;
            return Some(false);
        }
        let got = &mut self.replays[replay].got;
        assert!(
            got.last().is_none_or(|last| *last < seq),
            "client {client} gets {topic} {seq} behind {got:?}"
        );
        got.push(seq);
        assert!(
            got.len() as u64 <= self.replays[replay].count,
            "client {client} gets more of {topic} than it was told"
        );
        Some(true)
    }

    /// The client was told that it will not get some of them. Tells whether all that it will not get up to `to` is of these: others
    /// of them may come behind that, as where the topic is to keep a history from now on.
    pub(super) fn miss_keyed(&mut self, client: usize, topic: &str, to: u64) -> bool {
        let delivered = self.clients[client].topics.get(topic);
        let awaited = delivered.and_then(|delivered| delivered.value);
        let Some(Awaited { before, replay: Some(replay), .. }) = awaited else { return false };
        self.replays[replay].is_missed = true;
        to < before
    }

    /// Whether a newer publication of the topic has the key of this one, or it has none.
    pub(super) fn is_superseded(&self, topic: &str, seq: u64) -> bool {
        let key = self.key_at(topic, seq);
        key.is_none() || self.seqs_of(topic, key).any(|other| other > seq)
    }

    fn key_at(&self, topic: &str, seq: u64) -> Option<&[u8]> {
        let publication = &self.publications[*self.topics.get(topic)?.get(&seq)?];
        key_of(&publication.payload, publication.is_json)
    }

    /// Where all are that have this key, as far as somebody was told.
    fn seqs_of<'a>(&'a self, topic: &'a str, key: Option<&'a [u8]>) -> impl Iterator<Item = u64> + 'a {
        let seqs = self.topics.get(topic).into_iter().flat_map(|by_seq| by_seq.keys());
        seqs.copied().filter(move |seq| self.key_at(topic, *seq) == key)
    }

    /// Nothing moves any more: whoever reads has all that it was told to get, but for what was published to meanwhile.
    pub(super) fn check_replays(&self, client: usize) {
        let is_held = |it: &&KeyedReplay| !self.clients[client].subscriptions[it.place].is_left;
        for it in self.replays.iter().filter(|it| it.client == client && !it.is_missed).filter(is_held) {
            let KeyedReplay { topic, until, count, is_all, got, .. } = it;
            if !self.is_keyed_for_good(topic) {
                continue;
            }
            let of_topic = self.topics.get(topic).into_iter().flatten();
            for (&seq, _) in of_topic.filter(|(seq, _)| *seq <= until) {
                let is_there = !is_all || self.is_superseded(topic, seq) || got.contains(&seq);
                assert!(is_there, "client {client} neither has nor misses the value {topic} {seq}: {got:?}");
            }
            assert!(
                got.len() as u64 == *count || self.clients[client].subscriptions[it.place].jumps,
                "client {client} gets {got:?} of {count} values of {topic}"
            );
        }
    }

    /// The world is over, and where most of what was published is was told: each was the newest of its key when it was sent.
    pub(super) fn check_values(&self) {
        for KeyedReplay { client, topic, until, got, .. } in &self.replays {
            if !self.is_keyed_for_good(topic) {
                continue;
            }
            for seq in got {
                let key = self.key_at(topic, *seq);
                let newer = self.seqs_of(topic, key).find(|other| (seq + 1..=*until).contains(other));
                assert!(
                    key.is_some() && newer.is_none(),
                    "client {client} gets {topic} {seq} and not {newer:?}"
                );
            }
        }
    }
}

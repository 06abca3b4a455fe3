//! What the broker promises whoever publishes with a key: one publication of a topic, a user and a key within the window, and
//! whoever repeats it is told which. Those without a name have their keys in common.

use std::collections::BTreeMap;

use super::{Asked, Oracle};
use crate::config::Config;

/// What is known of publications with keys, by their numbers.
#[derive(Default)]
pub(in super::super) struct Keyed {
    keys: BTreeMap<usize, String>,
    /// When it was seen first that they have their place, in milliseconds.
    known_ms: BTreeMap<usize, u64>,
    /// Those that repeat another, and where that is said to be.
    repeats: BTreeMap<usize, u64>,
    window_ms: u64,
    /// Homes may have to forget some before their window is over.
    is_short: bool,
}

impl Keyed {
    pub fn set(&mut self, config: &Config) {
        self.window_ms = u64::from(config.publish.key_window_ms);
        self.is_short = config.limits.keys_max < 1_000;
    }

    /// The publication of this number is to have a key.
    pub fn on_publish(&mut self, number: usize, key: &str) {
        self.keys.insert(number, key.to_owned());
    }

    /// The newest of those that clients sent.
    pub fn newest(&self, count: usize) -> impl Iterator<Item = (usize, &str)> {
        self.keys.iter().rev().take(count).map(|(number, key)| (*number, key.as_str()))
    }

    /// It is seen that the publication has its place.
    pub(super) fn on_placed(&mut self, number: usize, now_ms: u64) {
        assert!(!self.repeats.contains_key(&number), "publication {number} repeats another and is published");
        self.known_ms.entry(number).or_insert(now_ms);
    }
}

impl Oracle {
    /// Where the publication of this number was to go.
    pub fn topic_of(&self, number: usize) -> &str {
        &self.publications[number].topic
    }

    /// The publication that the client asked for was there already.
    pub(super) fn on_duplicate(
        &mut self,
        client: usize,
        id: u64,
        topic: &str,
        seq: Option<u64>,
        receivers: Option<u64>,
    ) {
        let asked = self.clients[client].asked.remove(&id);
        let Some(Asked::Publish { number, .. }) = asked else {
            panic!("client {client}: {id} is a duplicate, and is {asked:?}")
        };
        let publication = &self.publications[number];
        assert!(self.keyed.keys.contains_key(&number), "publication {number} has no key and repeats another");
        assert_eq!((publication.topic.as_str(), publication.seq, receivers), (topic, None, None));
        self.keyed.repeats.insert(number, seq.expect("a duplicate is told where the first one is"));
        self.check_repeated(number, false);
    }

    /// What a publication repeats has its key, and was there within the window. `is_over`: nothing more will be known.
    fn check_repeated(&self, number: usize, is_over: bool) {
        let (repeat, seq) = (&self.publications[number], self.keyed.repeats[&number]);
        let publishers = self.publishers(number);
        let is_alike = |other: &usize| {
            *other != number
                && self.publishers(*other).iter().any(|publisher| publishers.contains(publisher))
                && self.keyed.keys.get(other) == self.keyed.keys.get(&number)
                && self.publications[*other].topic == repeat.topic
        };
        match self.topics.get(&repeat.topic).and_then(|by_seq| by_seq.get(&seq)) {
            Some(first) => {
                assert!(
                    is_alike(first),
                    "publication {number} is said to repeat {first}, whose key is another"
                );
                let known_ms = self.keyed.known_ms[first];
                assert!(
                    repeat.sent_ms < known_ms + self.keyed.window_ms,
                    "publication {first} is remembered too long"
                );
            }
            // Nobody saw it, so that it is one that nobody saw.
            None if is_over => {
                let mut unseen =
                    self.keyed.keys.keys().filter(|other| self.publications[**other].seq.is_none());
                let is_there = unseen.any(|other| is_alike(other) && !self.keyed.repeats.contains_key(other));
                assert!(is_there, "publication {number} is said to repeat one at {seq} that never was");
            }
            None => {}
        }
    }

    /// The world is over: of each topic, user and key there was one publication within the window.
    pub(super) fn check_keys(&self) {
        self.keyed.repeats.keys().for_each(|number| self.check_repeated(*number, true));
        let mut published: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (number, key) in &self.keyed.keys {
            // Of one that may be of several nothing is known.
            if let (Some(_), [publisher]) = (self.publications[*number].seq, &self.publishers(*number)[..]) {
                published.entry((self.topic_of(*number), key, *publisher)).or_default().push(*number);
            }
        }
        for ((topic, key, _), mut numbers) in published {
            numbers.sort_by_key(|number| self.publications[*number].seq);
            for pair in numbers.windows(2) {
                let (first, second) = (&self.publications[pair[0]], self.keyed.known_ms[&pair[1]]);
                let is_apart = second >= first.sent_ms + self.keyed.window_ms;
                assert!(is_apart || self.keyed.is_short, "{key} is published twice to {topic}: {pair:?}");
            }
        }
    }
}

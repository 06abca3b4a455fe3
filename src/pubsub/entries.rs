//! What the operator has set by filters, and what a topic comes to by that.

use super::filter::FilterTree;
use crate::protocol::{tenant, topic};

/// What is set for the topics that some filters match.
///
/// Entries may match the same topics: of each key the most specific entry that sets it counts, so a narrow one need not
/// repeat what a wide one says. A lookup visits the nodes of a tree, however many entries there are.
#[derive(Debug)]
pub(super) struct Entries<K> {
    /// The most specific first.
    filters: Vec<String>,
    /// What each sets.
    keys: Vec<K>,
    /// Their places, by filter.
    places: FilterTree<u32>,
}

/// What an entry sets, or several together; by default nothing.
pub trait Keys: Clone + Default {
    /// These, and from `wider` what they leave open.
    fn or(self, wider: Self) -> Self;
}

impl<K: Keys> Entries<K> {
    /// What each entry sets for the topics that its filter matches; no two filters are the same.
    pub fn new(entries: impl IntoIterator<Item = (String, K)>) -> Entries<K> {
        let mut entries: Vec<(String, K)> = entries.into_iter().collect();
        entries.sort_by(|(one, _), (other, _)| topic::by_specificity(one, other));
        let mut places = FilterTree::new();
        for (place, (filter, _)) in (0..).zip(&entries) {
            places.insert(filter, place);
        }
        let (filters, keys) = entries.into_iter().unzip();
        Entries { filters, keys, places }
    }

    /// What `topic` comes to, whosever it is, and how many nodes were visited to find it.
    pub fn keys_of(&self, topic: &str) -> (K, u32) {
        let mut found = Vec::new();
        let visited = self.places.for_each_match(tenant::outer(topic), |place| found.push(place));
        found.sort_unstable();
        let keys = found.into_iter().map(|place| self.keys[place as usize].clone());
        (keys.fold(K::default(), K::or), visited)
    }

    /// What each entry sets, the most specific first, and for the topics of which filter.
    pub fn iter(&self) -> impl Iterator<Item = (&str, K)> {
        self.filters.iter().map(String::as_str).zip(self.keys.iter().cloned())
    }

    #[cfg(test)]
    pub fn node_count(&self) -> usize {
        self.places.node_count()
    }
}

/// The definition, entry by entry.
#[cfg(any(test, fuzzing))]
pub(super) mod naive {
    use super::topic;

    /// The value of one key for `topic`: what the most specific of all entries says that match it and set the key.
    pub fn most_specific<K, T>(
        entries: &[(String, K)],
        topic: &str,
        value: impl Fn(&K) -> Option<T>,
    ) -> Option<T> {
        let matching = entries.iter().filter(|(filter, _)| topic::matches(filter, topic));
        let setting = matching.filter_map(|(filter, keys)| Some((filter, value(keys)?)));
        setting.min_by_key(|(filter, _)| levels(filter)).map(|(_, value)| value)
    }

    /// What filters of the same topic are compared by, the least being the most specific: 1 where a level is literal,
    /// or there is none up to the most that there may be, 2 where it is `+`, 3 where it is `#`.
    fn levels(filter: &str) -> Vec<u8> {
        let mut levels: Vec<u8> = filter
            .split('/')
            .map(|level| match level {
                "+" => 2,
                "#" => 3,
                _ => 1,
            })
            .collect();
        levels.resize(topic::TOPIC_LEVELS_MAX, 1);
        levels
    }
}

/// Entries and topics that meet.
#[cfg(test)]
pub(super) mod strategies {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    /// A topic of few levels, so that filters match it, and sometimes of the broker's own.
    pub fn topic() -> impl Strategy<Value = String> {
        // An empty name is none.
        levels().prop_map(|levels| if levels == [""] { "a".into() } else { levels.join("/") })
    }

    /// Up to eleven, each with a filter of its own.
    pub fn entries<K: std::fmt::Debug>(
        keys: impl Strategy<Value = K>,
    ) -> impl Strategy<Value = Vec<(String, K)>> {
        prop::collection::vec((filter(), keys), 0..12).prop_map(|entries| {
            let named = entries.into_iter().filter(|(filter, _)| !filter.is_empty());
            named.collect::<BTreeMap<_, _>>().into_iter().collect()
        })
    }

    fn filter() -> impl Strategy<Value = String> {
        (levels(), prop::collection::vec(prop::option::weighted(0.6, Just(())), 4), 0..3).prop_map(
            |(levels, literal, end)| {
                let levels = levels.into_iter().zip(literal);
                let mut levels: Vec<&str> = levels
                    .map(|(level, is_literal)| if is_literal.is_some() { level } else { "+" })
                    .collect();
                match end {
                    0 => levels.push("#"),
                    1 => *levels.last_mut().expect("one level at least") = "#",
                    _ => {}
                }
                levels.join("/")
            },
        )
    }

    fn levels() -> impl Strategy<Value = Vec<&'static str>> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "", "$c"]), 1..4)
    }
}

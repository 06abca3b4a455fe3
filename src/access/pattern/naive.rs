//! Covering and overlapping, found by going through all topics of a few levels of a small alphabet.

use std::sync::LazyLock;

use crate::protocol::topic;

/// Levels that filters name, and some that none does.
const ALPHABET: [&str; 6] = ["a", "b", "", "$s", "z", "$z"];
const LEVELS_MAX: usize = 4;

/// Every topic that can be made of the alphabet.
static TOPICS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let mut all: Vec<Vec<&str>> = ALPHABET.iter().map(|level| vec![*level]).collect();
    let mut last = all.clone();
    for _ in 1..LEVELS_MAX {
        last = last
            .iter()
            .flat_map(|topic| ALPHABET.iter().map(|level| [topic.as_slice(), &[*level]].concat()))
            .collect();
        all.extend(last.iter().cloned());
    }
    all.iter().map(|levels| levels.join("/")).filter(|topic| !topic.is_empty()).collect()
});

/// Whether every topic that `filter` matches is matched by one of `grants`.
pub fn covers(grants: &[&str], filter: &str) -> bool {
    let is_granted = |topic: &String| grants.iter().any(|grant| topic::matches(grant, topic));
    TOPICS.iter().filter(|topic| topic::matches(filter, topic)).all(is_granted)
}

/// Whether some topic is matched by both.
pub fn overlaps(one: &str, other: &str) -> bool {
    TOPICS.iter().any(|topic| topic::matches(one, topic) && topic::matches(other, topic))
}

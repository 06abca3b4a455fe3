//! What the configurations of a world say of topics, read from their entries one by one.

use crate::config::{Config, SlowConsumer};

/// Whether who falls behind may be told a gap, and what is stamped.
pub(super) struct Policy {
    may_skip: bool,
    /// Of the topics that a filter matches, where the entry says so.
    entries: Vec<(String, bool)>,
    times: Vec<(String, bool)>,
    users: Vec<(String, bool)>,
}

pub(super) fn is_wild(filter: &str) -> bool {
    filter.contains(['+', '#'])
}

/// MQTT's rules again, recursively.
pub(super) fn matches(filter: &str, topic: &str) -> bool {
    fn levels_match(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) => true,
            ([], []) => true,
            (["+", filter @ ..], [_, topic @ ..]) => levels_match(filter, topic),
            ([level, filter @ ..], [name, topic @ ..]) => level == name && levels_match(filter, topic),
            _ => false,
        }
    }
    let filter: Vec<&str> = filter.split('/').collect();
    let topic: Vec<&str> = topic.split('/').collect();
    levels_match(&filter, &topic)
}

/// The lowest is the most specific: at the first level that differs a name before `+` before `#`.
pub(super) fn specificity(filter: &str) -> Vec<usize> {
    let ranks = filter.split('/').map(|level| ["+", "#"].iter().position(|wild| *wild == level));
    ranks.map(|rank| rank.map_or(0, |rank| rank + 1)).chain([0]).collect()
}

/// As the most specific entry says.
fn most_specific(entries: &[(String, bool)], topic: &str) -> Option<bool> {
    let matching = entries.iter().filter(|(filter, _)| matches(filter, topic));
    matching.min_by_key(|(filter, _)| specificity(filter)).map(|(_, is_so)| *is_so)
}

impl Policy {
    pub fn new(config: &Config) -> Policy {
        let may_skip = |slow_consumer| slow_consumer == SlowConsumer::Skip;
        let entries =
            config.topic.iter().filter_map(|it| Some((it.filter.clone(), may_skip(it.slow_consumer?))));
        let stamps = || config.topic.iter().filter_map(|it| Some((it.filter.clone(), it.stamp?)));
        Policy {
            may_skip: may_skip(config.delivery.slow_consumer),
            entries: entries.collect(),
            times: stamps().map(|(filter, stamps)| (filter, stamps.time)).collect(),
            users: stamps().map(|(filter, stamps)| (filter, stamps.user)).collect(),
        }
    }

    pub fn may_skip(&self, topic: &str) -> bool {
        most_specific(&self.entries, topic).unwrap_or(self.may_skip)
    }

    pub fn stamps_time(&self, topic: &str) -> bool {
        most_specific(&self.times, topic).unwrap_or(false)
    }

    pub fn stamps_user(&self, topic: &str) -> bool {
        most_specific(&self.users, topic).unwrap_or(false)
    }

    pub fn may_skip_any(&self) -> bool {
        self.may_skip || self.entries.iter().any(|(_, may_skip)| *may_skip)
    }
}

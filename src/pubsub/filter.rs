//! Filters with wildcards as a tree of levels: which values a topic's name matches.
//!
//! The tree holds every (filter, value) pair at most once. Matching visits at most two branches per
//! level that exist (the level itself and `+`), and every `#` on the way.

use std::collections::HashMap;

use foldhash::fast::RandomState;

const ROOT: usize = 0;

/// Values by filter, found by topic name.
#[derive(Debug)]
pub struct FilterTree<V> {
    nodes: slab::Slab<Node<V>>,
}

#[derive(Debug)]
struct Node<V> {
    /// The levels that follow literally. Strangers choose the keys: the hasher has a random seed.
    children: HashMap<Box<str>, usize, RandomState>,
    /// The `+` level that follows.
    plus: Option<usize>,
    /// Values whose filter ends here.
    here: Vec<V>,
    /// Values whose filter ends in `#` after this level.
    hash: Vec<V>,
}

impl<V: Copy + Eq> Default for FilterTree<V> {
    fn default() -> Self {
        FilterTree::new()
    }
}

impl<V: Copy + Eq> FilterTree<V> {
    /// An empty tree.
    pub fn new() -> Self {
        let mut nodes = slab::Slab::new();
        nodes.insert(Node::new());
        FilterTree { nodes }
    }

    /// Whether nothing is in it: the common case, in which matching costs nothing.
    pub fn is_empty(&self) -> bool {
        self.nodes.len() == 1 && self.nodes[ROOT].is_empty()
    }

    /// Adds `value` under `filter`; false if it is there already.
    pub fn insert(&mut self, filter: &str, value: V) -> bool {
        let mut at = ROOT;
        for level in filter.split('/') {
            let next = match level {
                "#" => return insert_once(&mut self.nodes[at].hash, value),
                "+" => self.nodes[at].plus,
                _ => self.nodes[at].children.get(level).copied(),
            };
            at = next.unwrap_or_else(|| {
                let new = self.nodes.insert(Node::new());
                match level {
                    "+" => self.nodes[at].plus = Some(new),
                    _ => drop(self.nodes[at].children.insert(level.into(), new)),
                }
                new
            });
        }
        insert_once(&mut self.nodes[at].here, value)
    }

    /// Takes `value` from under `filter`; false if it is not there.
    pub fn remove(&mut self, filter: &str, value: V) -> bool {
        self.remove_below(ROOT, filter, value)
    }

    /// Calls `on_match` for each value whose filter matches `topic`: once per matching filter, so that
    /// a value under two of them comes twice.
    pub fn for_each_match(&self, topic: &str, mut on_match: impl FnMut(V)) {
        if self.is_empty() {
            return;
        }
        self.match_below(ROOT, Some(topic), topic.starts_with('$'), &mut on_match);
    }

    fn match_below(&self, at: usize, rest: Option<&str>, is_reserved: bool, on_match: &mut impl FnMut(V)) {
        let node = &self.nodes[at];
        if !is_reserved {
            node.hash.iter().for_each(|&value| on_match(value));
        }
        let Some(rest) = rest else {
            return node.here.iter().for_each(|&value| on_match(value));
        };
        let (level, below) = match memchr::memchr(b'/', rest.as_bytes()) {
            Some(slash) => (&rest[..slash], Some(&rest[slash + 1..])),
            None => (rest, None),
        };
        if let Some(&child) = node.children.get(level) {
            self.match_below(child, below, false, on_match);
        }
        if let Some(plus) = node.plus.filter(|_| !is_reserved) {
            self.match_below(plus, below, false, on_match);
        }
    }

    /// Depth is at most the levels of a filter, which are bounded.
    fn remove_below(&mut self, at: usize, rest: &str, value: V) -> bool {
        if rest == "#" {
            return remove_one(&mut self.nodes[at].hash, value);
        }
        let (level, below) = match rest.split_once('/') {
            Some((level, below)) => (level, Some(below)),
            None => (rest, None),
        };
        let child = match level {
            "+" => self.nodes[at].plus,
            _ => self.nodes[at].children.get(level).copied(),
        };
        let Some(child) = child else { return false };
        let removed = match below {
            Some(below) => self.remove_below(child, below, value),
            None => remove_one(&mut self.nodes[child].here, value),
        };
        if self.nodes[child].is_empty() {
            self.nodes.remove(child);
            match level {
                "+" => self.nodes[at].plus = None,
                _ => drop(self.nodes[at].children.remove(level)),
            }
        }
        removed
    }
}

impl<V> Node<V> {
    fn new() -> Self {
        Node { children: HashMap::default(), plus: None, here: Vec::new(), hash: Vec::new() }
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.plus.is_none() && self.here.is_empty() && self.hash.is_empty()
    }
}

fn insert_once<V: Eq>(values: &mut Vec<V>, value: V) -> bool {
    if values.contains(&value) {
        return false;
    }
    values.push(value);
    true
}

fn remove_one<V: Eq>(values: &mut Vec<V>, value: V) -> bool {
    match values.iter().position(|held| *held == value) {
        Some(place) => {
            values.swap_remove(place);
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, test_runner::Config};

    use super::*;
    use crate::pubsub::topic;

    fn level() -> impl Strategy<Value = String> {
        prop_oneof![Just(""), Just("a"), Just("b"), Just("$s")].prop_map(str::to_owned)
    }

    fn name() -> impl Strategy<Value = String> {
        prop::collection::vec(level(), 1..5).prop_map(|levels| levels.join("/"))
    }

    fn filter() -> impl Strategy<Value = String> {
        let levels = prop::collection::vec(prop_oneof![3 => level(), 1 => Just("+".to_owned())], 1..5);
        (levels, any::<bool>()).prop_map(|(mut levels, ends_in_hash)| {
            if ends_in_hash {
                levels.push("#".to_owned());
            }
            levels.join("/")
        })
    }

    proptest! {
        #![proptest_config(Config { failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(7), ..Config::default() })]

        #[test]
        fn the_tree_matches_what_the_naive_matcher_matches(
            operations in prop::collection::vec((filter(), 0u8..4, prop::bool::weighted(0.7)), 1..40),
            names in prop::collection::vec(name(), 1..10),
        ) {
            let mut tree = FilterTree::new();
            let mut naive: Vec<(String, u8)> = Vec::new();
            for (filter, value, insert) in operations {
                let held = naive.iter().position(|entry| *entry == (filter.clone(), value));
                if insert {
                    prop_assert_eq!(tree.insert(&filter, value), held.is_none());
                    if held.is_none() {
                        naive.push((filter, value));
                    }
                } else {
                    prop_assert_eq!(tree.remove(&filter, value), held.is_some());
                    held.map(|place| naive.swap_remove(place));
                }
                prop_assert_eq!(tree.is_empty(), naive.is_empty());
            }
            for name in names.iter().filter(|name| !name.is_empty()) {
                let mut found = Vec::new();
                tree.for_each_match(name, |value| found.push(value));
                let mut expected: Vec<u8> = naive
                    .iter()
                    .filter(|(filter, _)| topic::matches(filter, name))
                    .map(|(_, value)| *value)
                    .collect();
                found.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(found, expected, "{}", name);
            }
        }
    }

    #[test]
    fn an_emptied_tree_holds_no_nodes() {
        let mut tree = FilterTree::new();
        for filter in ["a/+/c/#", "a/+/c", "#", "+/b"] {
            tree.insert(filter, 1);
        }
        for filter in ["a/+/c/#", "#", "+/b", "a/+/c"] {
            assert!(tree.remove(filter, 1));
        }
        assert!(tree.is_empty());
        assert_eq!(tree.nodes.len(), 1);
    }
}

//! Filters with wildcards as a tree of levels: which values a topic's name matches.
//!
//! The tree holds every (filter, value) pair at most once. Matching visits at most two branches per
//! level that exist (the level itself and `+`), and every `#` on the way; it tells how many nodes that
//! were, since strangers choose the filters and can make it all of them. What bounds that is the shape of
//! filters: those with `+` have few levels (`limits.plus_levels_max`).
//!
//! A level costs one node and one entry of one table, about 85 bytes; only a level of more than
//! `Level::INLINE_BYTES` is an allocation of its own. What the tree has grown to is kept for the
//! filters to come, and given back when the last one goes: how far it grows is bounded by how many
//! filters, and of how many levels, whoever fills it may have.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::protocol::{tenant, topic};

/// The node in which every filter begins. No node has it as a child.
const ROOT: u32 = 0;
/// No node: no `+` child, or the end of the list of vacant nodes.
const NONE: u32 = u32::MAX;
/// So many nodes lie together: the tree grows by a page, and never copies more than one.
const PAGE_NODES: usize = 256;
/// So many values may end at one place: each reactor in each encoding at a home, one at a reactor. They are
/// searched one by one.
const VALUES_MAX: usize = 256;

/// Values by filter, found by topic name.
#[derive(Debug)]
pub struct FilterTree<V> {
    /// All of them have [`PAGE_NODES`] but the last.
    pages: Vec<Vec<Node<V>>>,
    /// Nodes that literally follow another, by that one and their level. Strangers choose the levels: the
    /// hasher has a random seed.
    literals: HashTable<u32>,
    hasher: RandomState,
    /// The first vacant node, which has the next as its parent.
    vacant: u32,
    /// How many nodes are not vacant.
    node_count: u32,
    /// What nodes refer to outside of the pages, in bytes.
    outside_bytes: usize,
}

#[derive(Debug)]
struct Node<V> {
    /// Its own level; empty for `+`, the root, and a vacant node.
    level: Level,
    parent: u32,
    /// The `+` level that follows.
    plus: u32,
    /// How many levels follow literally.
    literal_count: u32,
    /// Values whose filter ends here.
    here: Values<V>,
    /// Values whose filter ends in `#` after this level.
    hash: Values<V>,
}

/// Mostly none, mostly one where there are any.
#[derive(Debug)]
enum Values<V> {
    None,
    One(V),
    #[expect(
        clippy::box_collection,
        reason = "few nodes have many, and all nodes are as large as the largest"
    )]
    Many(Box<Vec<V>>),
}

/// The text of a level.
#[derive(Debug)]
enum Level {
    Inline(u8, [u8; Level::INLINE_BYTES]),
    Boxed(Box<str>),
}

const _: () = assert!(size_of::<Node<u32>>() <= 72);

impl<V: Copy + Eq> Default for FilterTree<V> {
    fn default() -> Self {
        FilterTree::new()
    }
}

impl<V: Copy + Eq> FilterTree<V> {
    /// An empty tree.
    pub fn new() -> Self {
        FilterTree {
            pages: vec![vec![Node::new(Level::new(""), NONE)]],
            literals: HashTable::new(),
            hasher: RandomState::default(),
            vacant: NONE,
            node_count: 1,
            outside_bytes: 0,
        }
    }

    /// Whether nothing is in it: the common case, in which matching costs nothing.
    pub fn is_empty(&self) -> bool {
        self.node_count == 1 && self.node(ROOT).is_empty()
    }

    /// How many nodes it has: one for each level of its filters that they do not have in common, and the
    /// one in which all of them begin.
    pub fn node_count(&self) -> usize {
        self.node_count as usize
    }

    /// What it has allocated, in bytes, without what the allocator adds to that.
    pub fn memory_bytes(&self) -> usize {
        let last = self.pages.last().map_or(0, Vec::capacity);
        let nodes = (self.pages.len() - 1) * PAGE_NODES + last;
        self.pages.capacity() * size_of::<Vec<Node<V>>>()
            + nodes * size_of::<Node<V>>()
            + self.literals.allocation_size()
            + self.outside_bytes
    }

    /// Adds `value` under `filter`; false if it is there already.
    ///
    /// # Panics
    /// If more than 256 values are under one filter: values are reactors and encodings, or one per filter.
    pub fn insert(&mut self, filter: &str, value: V) -> bool {
        let mut at = ROOT;
        for level in filter.split('/') {
            if level == "#" {
                return self.change_values(at, |node| &mut node.hash, |values| values.insert(value));
            }
            at = match self.child(at, level) {
                Some(child) => child,
                None => self.add_child(at, level),
            };
        }
        self.change_values(at, |node| &mut node.here, |values| values.insert(value))
    }

    /// Takes `value` from under `filter`; false if it is not there.
    pub fn remove(&mut self, filter: &str, value: V) -> bool {
        let mut at = ROOT;
        let mut values: fn(&mut Node<V>) -> &mut Values<V> = |node| &mut node.here;
        for level in filter.split('/') {
            if level == "#" {
                values = |node| &mut node.hash;
                break;
            }
            let Some(child) = self.child(at, level) else { return false };
            at = child;
        }
        let is_removed = self.change_values(at, values, |values| values.remove(value));
        if is_removed {
            self.prune(at);
        }
        is_removed
    }

    /// Calls `on_match` for each value whose filter matches `topic`: once per matching filter, so that
    /// a value under two of them comes twice. Tells how many nodes were visited.
    pub fn for_each_match(&self, topic: &str, mut on_match: impl FnMut(V)) -> u32 {
        if self.is_empty() {
            return 0;
        }
        let (tenant, topic) = tenant::split(topic);
        // No wildcard stands for a tenant: it is looked for by its name, and what is behind it is the first level.
        let (at, visited) = match tenant {
            None => (ROOT, 0),
            Some(tenant) => match self.literal(ROOT, tenant) {
                Some(at) => (at, 1),
                None => return 1,
            },
        };
        visited + self.match_below(at, Some(topic), topic::is_reserved(topic), &mut on_match)
    }

    /// Calls itself at most once per level of the topic, which are bounded.
    fn match_below(
        &self,
        at: u32,
        rest: Option<&str>,
        is_reserved: bool,
        on_match: &mut impl FnMut(V),
    ) -> u32 {
        let node = self.node(at);
        if !is_reserved {
            node.hash.as_slice().iter().for_each(|&value| on_match(value));
        }
        let Some(rest) = rest else {
            node.here.as_slice().iter().for_each(|&value| on_match(value));
            return 1;
        };
        let (level, below) = match memchr::memchr(b'/', rest.as_bytes()) {
            Some(slash) => (&rest[..slash], Some(&rest[slash + 1..])),
            None => (rest, None),
        };
        let mut visited = 1;
        if let Some(child) = self.literal(at, level) {
            visited += self.match_below(child, below, false, on_match);
        }
        if node.plus != NONE && !is_reserved {
            visited += self.match_below(node.plus, below, false, on_match);
        }
        visited
    }

    /// The node of `level` after `at`, as a filter names it.
    fn child(&self, at: u32, level: &str) -> Option<u32> {
        match level {
            "+" => Some(self.node(at).plus).filter(|&plus| plus != NONE),
            _ => self.literal(at, level),
        }
    }

    fn literal(&self, at: u32, level: &str) -> Option<u32> {
        if self.node(at).literal_count == 0 {
            return None;
        }
        let is_it =
            |&key: &u32| self.node(key).parent == at && self.node(key).level.as_bytes() == level.as_bytes();
        self.literals.find(hash(&self.hasher, at, level.as_bytes()), is_it).copied()
    }

    fn add_child(&mut self, at: u32, level: &str) -> u32 {
        if level == "+" {
            let new = self.add_node(Node::new(Level::new(""), at));
            self.node_mut(at).plus = new;
            return new;
        }
        let new = self.add_node(Node::new(Level::new(level), at));
        self.node_mut(at).literal_count += 1;
        let FilterTree { pages, literals, hasher, .. } = self;
        let hash_of = |&key: &u32| {
            let node = node_of(pages, key);
            hash(hasher, node.parent, node.level.as_bytes())
        };
        literals.insert_unique(hash(hasher, at, level.as_bytes()), new, hash_of);
        new
    }

    fn add_node(&mut self, node: Node<V>) -> u32 {
        self.node_count += 1;
        self.outside_bytes += node.level.outside_bytes();
        if self.vacant != NONE {
            let key = self.vacant;
            self.vacant = std::mem::replace(self.node_mut(key), node).parent;
            return key;
        }
        if self.pages.last().is_none_or(|page| page.len() == PAGE_NODES) {
            self.pages.push(Vec::with_capacity(PAGE_NODES));
        }
        let full_count = self.pages.len() - 1;
        let page = self.pages.last_mut().expect("a page with room was just put there");
        page.push(node);
        (full_count * PAGE_NODES + page.len() - 1) as u32
    }

    /// Drops `at` and those before it that lead to nothing any more.
    fn prune(&mut self, mut at: u32) {
        while at != ROOT && self.node(at).is_empty() {
            let parent = self.node(at).parent;
            if self.node(parent).plus == at {
                self.node_mut(parent).plus = NONE;
            } else {
                let hash = hash(&self.hasher, parent, self.node(at).level.as_bytes());
                let entry = self.literals.find_entry(hash, |&key| key == at);
                entry.expect("a node that is no + is in the table").remove();
                self.node_mut(parent).literal_count -= 1;
            }
            let vacant = Node::new(Level::new(""), self.vacant);
            self.outside_bytes -= std::mem::replace(self.node_mut(at), vacant).level.outside_bytes();
            self.vacant = at;
            self.node_count -= 1;
            at = parent;
        }
        if self.is_empty() {
            *self = FilterTree::new();
        }
    }

    fn change_values(
        &mut self,
        at: u32,
        values: impl FnOnce(&mut Node<V>) -> &mut Values<V>,
        change: impl FnOnce(&mut Values<V>) -> bool,
    ) -> bool {
        let values = values(self.node_mut(at));
        let before_bytes = values.outside_bytes();
        let is_changed = change(values);
        let after_bytes = values.outside_bytes();
        self.outside_bytes = self.outside_bytes + after_bytes - before_bytes;
        is_changed
    }

    fn node(&self, key: u32) -> &Node<V> {
        node_of(&self.pages, key)
    }

    fn node_mut(&mut self, key: u32) -> &mut Node<V> {
        &mut self.pages[key as usize / PAGE_NODES][key as usize % PAGE_NODES]
    }
}

fn node_of<V>(pages: &[Vec<Node<V>>], key: u32) -> &Node<V> {
    &pages[key as usize / PAGE_NODES][key as usize % PAGE_NODES]
}

fn hash(hasher: &RandomState, parent: u32, level: &[u8]) -> u64 {
    hasher.hash_one((parent, level))
}

impl<V> Node<V> {
    fn new(level: Level, parent: u32) -> Self {
        Node { level, parent, plus: NONE, literal_count: 0, here: Values::None, hash: Values::None }
    }

    /// Whether nothing ends here or follows.
    fn is_empty(&self) -> bool {
        self.literal_count == 0 && self.plus == NONE && self.here.is_empty() && self.hash.is_empty()
    }
}

impl<V> Values<V> {
    fn is_empty(&self) -> bool {
        matches!(self, Values::None)
    }

    fn as_slice(&self) -> &[V] {
        match self {
            Values::None => &[],
            Values::One(value) => std::slice::from_ref(value),
            Values::Many(values) => values,
        }
    }

    fn outside_bytes(&self) -> usize {
        match self {
            Values::None | Values::One(_) => 0,
            Values::Many(values) => size_of::<Vec<V>>() + values.capacity() * size_of::<V>(),
        }
    }
}

impl<V: Copy + Eq> Values<V> {
    fn insert(&mut self, value: V) -> bool {
        if self.as_slice().contains(&value) {
            return false;
        }
        match self {
            Values::None => *self = Values::One(value),
            Values::One(first) => *self = Values::Many(Box::new(vec![*first, value])),
            Values::Many(values) => {
                assert!(values.len() < VALUES_MAX, "{} values are under one filter", values.len());
                values.push(value);
            }
        }
        true
    }

    fn remove(&mut self, value: V) -> bool {
        let Some(place) = self.as_slice().iter().position(|held| *held == value) else { return false };
        match self {
            Values::None | Values::One(_) => *self = Values::None,
            Values::Many(values) => {
                values.swap_remove(place);
                if let [last] = ***values {
                    *self = Values::One(last);
                }
            }
        }
        true
    }
}

impl Level {
    /// So long a level is in its node. Few are longer, and 32 of them cannot be: a filter has 256 bytes.
    const INLINE_BYTES: usize = 22;

    fn new(text: &str) -> Level {
        let mut bytes = [0; Level::INLINE_BYTES];
        match bytes.get_mut(..text.len()) {
            Some(room) => {
                room.copy_from_slice(text.as_bytes());
                Level::Inline(text.len() as u8, bytes)
            }
            None => Level::Boxed(text.into()),
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Level::Inline(len, bytes) => &bytes[..usize::from(*len)],
            Level::Boxed(text) => text.as_bytes(),
        }
    }

    fn outside_bytes(&self) -> usize {
        match self {
            Level::Inline(..) => 0,
            Level::Boxed(text) => text.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::{prelude::*, test_runner::Config};

    use super::*;

    fn level() -> impl Strategy<Value = String> {
        prop_oneof![Just(""), Just("a"), Just("b"), Just("$s")].prop_map(str::to_owned)
    }

    /// What it begins with: mostly nothing, or a tenant.
    fn tenant() -> impl Strategy<Value = &'static str> {
        prop_oneof![4 => Just(""), 1 => Just("\0t/"), 1 => Just("\0u/")]
    }

    fn name() -> impl Strategy<Value = String> {
        let levels = prop::collection::vec(level(), 1..5);
        (tenant(), levels).prop_map(|(tenant, levels)| format!("{tenant}{}", levels.join("/")))
    }

    fn filter() -> impl Strategy<Value = String> {
        let levels = prop::collection::vec(prop_oneof![3 => level(), 1 => Just("+".to_owned())], 1..5);
        (tenant(), levels, any::<bool>()).prop_map(|(tenant, mut levels, ends_in_hash)| {
            if ends_in_hash {
                levels.push("#".to_owned());
            }
            format!("{tenant}{}", levels.join("/"))
        })
    }

    /// The levels of each filter without its `#`, and everything that they begin with.
    fn prefixes(filters: &[(String, u8)]) -> BTreeSet<Vec<&str>> {
        let mut prefixes = BTreeSet::from([Vec::new()]);
        for (filter, _) in filters {
            let levels: Vec<&str> = filter.split('/').filter(|level| *level != "#").collect();
            prefixes.extend((1..=levels.len()).map(|len| levels[..len].to_vec()));
        }
        prefixes
    }

    /// How many of them match what `name` begins with: so many nodes must be visited.
    fn matching_prefixes(filters: &[(String, u8)], name: &str) -> usize {
        let levels: Vec<&str> = name.split('/').collect();
        // No wildcard stands for a tenant.
        let is_of_its = |prefix: &Vec<&str>| prefix[0] == levels[0] || !levels[0].starts_with('\0');
        let is_match = |prefix: &&Vec<&str>| {
            prefix.is_empty()
                || is_of_its(prefix)
                    && prefix.len() <= levels.len()
                    && topic::matches(&prefix.join("/"), &levels[..prefix.len()].join("/"))
        };
        if filters.is_empty() { 0 } else { prefixes(filters).iter().filter(is_match).count() }
    }

    impl<V: Copy + Eq> FilterTree<V> {
        /// Walks the whole tree: every count is of what is there.
        fn check(&self) {
            let keys = 0..((self.pages.len() - 1) * PAGE_NODES + self.pages.last().unwrap().len()) as u32;
            let mut vacant = BTreeSet::new();
            let mut next = self.vacant;
            while next != NONE {
                assert!(vacant.insert(next));
                next = self.node(next).parent;
            }
            assert_eq!(keys.len(), self.node_count() + vacant.len());
            let mut literal_counts = BTreeMap::new();
            for &child in &self.literals {
                *literal_counts.entry(self.node(child).parent).or_insert(0) += 1;
            }
            let (mut outside_bytes, mut plus_count) = (0, 0);
            for key in keys.filter(|key| !vacant.contains(key)) {
                let node = self.node(key);
                assert!(key == ROOT || !node.is_empty(), "a node leads to something");
                assert_eq!(node.literal_count, literal_counts.get(&key).copied().unwrap_or(0));
                plus_count += usize::from(node.plus != NONE);
                outside_bytes +=
                    node.level.outside_bytes() + node.here.outside_bytes() + node.hash.outside_bytes();
                if key != ROOT && self.node(node.parent).plus != key {
                    let level = str::from_utf8(node.level.as_bytes()).unwrap();
                    assert_eq!(self.literal(node.parent, level), Some(key));
                }
            }
            assert_eq!(self.node_count(), 1 + self.literals.len() + plus_count);
            assert_eq!(self.outside_bytes, outside_bytes);
        }
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
                prop_assert_eq!(tree.node_count(), prefixes(&naive).len());
                tree.check();
            }
            for name in names.iter().filter(|name| !name.is_empty()) {
                let mut found = Vec::new();
                let visited = tree.for_each_match(name, |value| found.push(value));
                prop_assert_eq!(visited as usize, matching_prefixes(&naive, name), "{}", name);
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

    /// The most nodes that a name of so many levels visits, where filters with `+` have at most so many: of each
    /// depth the one that the name spells, and down to where `+` may be every other that has it.
    fn visited_max(plus_levels_max: usize, level_count: usize) -> usize {
        let deep = level_count.min(topic::TOPIC_LEVELS_MAX - 1).saturating_sub(plus_levels_max);
        (2 << plus_levels_max.min(level_count)) - 1 + deep
    }

    /// Every filter of so many levels that are `a` or `+`, and one without `+` that is as deep as may be.
    fn full_tree(plus_levels_max: usize) -> FilterTree<u32> {
        let mut tree = FilterTree::new();
        for bits in 1..1u32 << plus_levels_max {
            let levels = (0..plus_levels_max).map(|level| if bits >> level & 1 == 1 { "+" } else { "a" });
            tree.insert(&levels.collect::<Vec<_>>().join("/"), bits);
        }
        tree.insert(&format!("{}#", "a/".repeat(topic::TOPIC_LEVELS_MAX - 1)), 0);
        tree
    }

    #[test]
    fn the_worst_name_visits_every_node_of_a_full_tree_and_there_are_as_many_as_is_said() {
        for plus_levels_max in 1..=10 {
            let tree = full_tree(plus_levels_max);
            for level_count in 1..=topic::TOPIC_LEVELS_MAX {
                let name = vec!["a"; level_count].join("/");
                let visited = tree.for_each_match(&name, |_| {}) as usize;
                assert_eq!(visited, visited_max(plus_levels_max, level_count), "{name}");
            }
            assert_eq!(tree.node_count(), visited_max(plus_levels_max, topic::TOPIC_LEVELS_MAX));
        }
        assert_eq!(visited_max(10, topic::TOPIC_LEVELS_MAX), 2_068);
    }

    /// Of at most twelve levels; one with `+` of no more than `plus_levels_max`.
    fn bounded_filters(plus_levels_max: usize) -> impl Strategy<Value = Vec<String>> {
        let level = prop_oneof![2 => Just("a"), 1 => Just("b"), 3 => Just("+")];
        let levels = (prop::collection::vec(level, 1..=12), any::<bool>());
        let filter = levels.prop_map(move |(mut levels, ends_in_hash)| {
            if ends_in_hash {
                levels.push("#");
            }
            if levels.len() > plus_levels_max {
                levels.iter_mut().filter(|level| **level == "+").for_each(|level| *level = "a");
            }
            levels.join("/")
        });
        prop::collection::vec(filter, 1..60)
    }

    proptest! {
        #![proptest_config(Config { failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(7), ..Config::default() })]

        #[test]
        fn no_name_visits_more_nodes_than_the_levels_of_filters_with_a_plus_allow(
            (plus_levels_max, filters) in (1usize..=6).prop_flat_map(|max| (Just(max), bounded_filters(max))),
            levels in prop::collection::vec(prop_oneof![3 => Just("a"), 1 => Just("b")], 1..=14),
        ) {
            let mut tree = FilterTree::new();
            let filters: Vec<(String, u8)> = filters.into_iter().map(|filter| (filter, 0)).collect();
            for (filter, value) in &filters {
                tree.insert(filter, *value);
            }
            let name = levels.join("/");
            let visited = tree.for_each_match(&name, |_| {}) as usize;
            prop_assert_eq!(visited, matching_prefixes(&filters, &name), "{}", name);
            prop_assert!(visited <= visited_max(plus_levels_max, levels.len()), "{visited} nodes for {name}");
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
        assert_eq!((tree.node_count(), tree.memory_bytes()), (1, FilterTree::<i32>::new().memory_bytes()));
    }

    /// As many filters as a connection has, each of as many levels as one has, with nothing in common but
    /// their first level.
    #[test]
    fn a_level_costs_at_most_110_bytes() {
        let mut tree = FilterTree::new();
        let filters: Vec<String> =
            (0..1_024u32).map(|number| format!("{}#", format!("{number}/").repeat(31))).collect();
        for (filter, key) in filters.iter().zip(0u32..) {
            assert!(tree.insert(filter, key));
        }
        assert_eq!(tree.node_count(), 1 + 1_024 * 31);
        let bytes = tree.memory_bytes() / (1_024 * 31);
        assert!(bytes <= 110, "{bytes} bytes per level");
        tree.check();
        for (filter, key) in filters.iter().zip(0u32..) {
            assert!(tree.remove(filter, key));
        }
        assert!(tree.is_empty() && tree.memory_bytes() < 1_000, "{} bytes are kept", tree.memory_bytes());
    }

    /// A subscriber that comes and goes beside one that stays: its nodes are used again.
    #[test]
    fn what_is_vacant_is_used_again() {
        let mut tree = FilterTree::new();
        tree.insert("stays/+", 0);
        let come_and_go = |tree: &mut FilterTree<u32>, round: usize| {
            let filters: Vec<String> = (0..600)
                .map(|number| format!("{round}/{number}/a-level-that-is-too-long-to-be-inline/+"))
                .collect();
            filters.iter().for_each(|filter| assert!(tree.insert(filter, 1)));
            filters.iter().for_each(|filter| assert!(tree.insert(filter, 2) && tree.insert(filter, 3)));
            tree.check();
            filters.iter().for_each(|filter| (1..=3).for_each(|value| assert!(tree.remove(filter, value))));
            tree.check();
        };
        come_and_go(&mut tree, 0);
        let bytes = tree.memory_bytes();
        (1..10).for_each(|round| come_and_go(&mut tree, round));
        assert_eq!((tree.node_count(), tree.memory_bytes()), (3, bytes));
    }

    /// Every reactor in every encoding under one filter.
    #[test]
    fn one_filter_has_as_many_values_as_there_are_receivers_of_it() {
        let mut tree = FilterTree::new();
        (0..=255u8).for_each(|value| assert!(tree.insert("a/#", value)));
        assert!(!tree.insert("a/#", 255));
        let mut count = 0;
        assert_eq!(tree.for_each_match("a/b", |_| count += 1), 2);
        assert_eq!(count, 256);
        (0..=255u8).for_each(|value| assert!(tree.remove("a/#", value)));
        assert!(tree.is_empty());
    }
}

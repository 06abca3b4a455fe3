//! The filters with wildcards of one reactor's connections, each registered once with every home.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;

use crate::{
    protocol::Encoding,
    pubsub::{filter::FilterTree, message::PendingId},
    work::price,
};

/// Filters with wildcards of this reactor's connections.
#[derive(Debug, Default)]
pub(super) struct Filters {
    pub(super) entries: slab::Slab<Filter>,
    pub(super) by_text: [HashMap<Arc<str>, u32, RandomState>; Encoding::COUNT],
    by_registration: HashMap<PendingId, u32, RandomState>,
    next_registration: PendingId,
    /// Keys of `entries`.
    trees: [FilterTree<u32>; Encoding::COUNT],
    /// Counts subscriptions to filters.
    pub(super) generation: u64,
}

#[derive(Debug)]
pub(super) struct Filter {
    pub(super) text: Arc<str>,
    pub(super) encoding: Encoding,
    pub(super) registration: PendingId,
    /// Connections that subscribed to it.
    pub(super) holders: Vec<Holder>,
    /// The generation of the newest of them.
    newest: u64,
    /// Homes that have not answered yet.
    pub(super) missing_count: usize,
    pub(super) waiting: Vec<PendingId>,
}

/// A connection that subscribed to a filter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    pub(super) connection: u32,
    /// The generation of the filters that its subscription made: views of an earlier one have not met it.
    pub(super) since: u64,
}

impl Filters {
    /// A filter that nobody holds yet, to be registered with `home_count` homes.
    pub(super) fn insert(&mut self, text: Arc<str>, encoding: Encoding, home_count: usize) -> u32 {
        let registration = self.next_registration;
        self.next_registration = registration.wrapping_add(1);
        let key = self.entries.insert(Filter {
            text: text.clone(),
            encoding,
            registration,
            holders: Vec::new(),
            newest: 0,
            missing_count: home_count,
            waiting: Vec::new(),
        }) as u32;
        self.trees[encoding.index()].insert(&text, key);
        self.by_text[encoding.index()].insert(text, key);
        self.by_registration.insert(registration, key);
        key
    }

    pub(super) fn remove(&mut self, key: u32) -> Filter {
        let entry = self.entries.remove(key as usize);
        self.trees[entry.encoding.index()].remove(&entry.text, key);
        self.by_text[entry.encoding.index()].remove(&entry.text);
        self.by_registration.remove(&entry.registration);
        entry
    }

    /// The connection subscribes to the filter `key`; tells its place among the holders.
    pub(super) fn hold(&mut self, key: u32, connection: u32) -> u32 {
        self.generation += 1;
        let entry = &mut self.entries[key as usize];
        entry.newest = self.generation;
        entry.holders.push(Holder { connection, since: self.generation });
        entry.holders.len() as u32 - 1
    }

    /// The filter of a registration that a home has answered, if it is still there.
    pub(super) fn registered(&mut self, registration: PendingId) -> Option<&mut Filter> {
        // It may have been taken back while a home's answer was on its way: nothing waits for it.
        let &key = self.by_registration.get(&registration)?;
        Some(&mut self.entries[key as usize])
    }

    /// The filters that match `name` and were subscribed to after `since`, by their keys; and the price of the
    /// search.
    pub(super) fn matches_since(
        &self,
        encoding: Encoding,
        name: &str,
        since: u64,
        matched: &mut Vec<u32>,
    ) -> u64 {
        let visited = self.trees[encoding.index()].for_each_match(name, |key| {
            if self.entries[key as usize].newest > since {
                matched.push(key);
            }
        });
        price::MATCH * u64::from(1 + visited)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
            && self.by_registration.is_empty()
            && self.trees.iter().all(FilterTree::is_empty)
    }
}

//! The filters with wildcards of one reactor's connections, each registered once with every home.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;

use crate::{
    protocol::Encoding,
    pubsub::{
        filter::FilterTree,
        message::{PendingId, RegistrationId, ReplayId},
    },
    work::price,
};

/// They wrap, in tests soon.
const REGISTRATION_FIRST: RegistrationId = RegistrationId(if cfg!(test) { u32::MAX - 1 } else { 0 });

/// The key of a filter, which is no view's and no connection's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FilterKey(u32);

impl FilterKey {
    /// Its place in [`Filters::entries`].
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Filters with wildcards of this reactor's connections.
#[derive(Debug)]
pub(super) struct Filters {
    pub(super) entries: slab::Slab<Filter>,
    pub(super) by_text: [HashMap<Arc<str>, FilterKey, RandomState>; Encoding::COUNT],
    by_registration: HashMap<RegistrationId, FilterKey, RandomState>,
    next_registration: RegistrationId,
    trees: [FilterTree<FilterKey>; Encoding::COUNT],
    /// Counts when subscriptions to filters started.
    pub(super) generation: u64,
}

#[derive(Debug)]
pub(super) struct Filter {
    pub(super) text: Arc<str>,
    pub(super) encoding: Encoding,
    pub(super) registration: RegistrationId,
    /// Connections that subscribed to it.
    pub(super) holders: Vec<Holder>,
    /// The generation of the newest of them; 0 as long as a home has not answered.
    newest: u64,
    /// Homes that have not answered yet.
    pub(super) missing_count: usize,
    pub(super) waiting: Vec<PendingId>,
    /// Tours that go on when all homes have answered.
    pub(super) touring: Vec<ReplayId>,
}

/// A connection that subscribed to a filter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    pub(super) connection: u32,
    /// The generation of the filters that its subscription made: views of an earlier one have not met it. 0 if it has
    /// not started, and none has.
    pub(super) since: u64,
}

impl Default for Filters {
    fn default() -> Filters {
        Filters {
            entries: slab::Slab::new(),
            by_text: Default::default(),
            by_registration: HashMap::default(),
            next_registration: REGISTRATION_FIRST,
            trees: Default::default(),
            generation: 0,
        }
    }
}

impl Filters {
    /// A filter that nobody holds yet, to be registered with `home_count` homes.
    pub(super) fn insert(&mut self, text: Arc<str>, encoding: Encoding, home_count: usize) -> FilterKey {
        let registration = self.next_registration;
        self.next_registration = RegistrationId(registration.0.wrapping_add(1));
        let index = self.entries.insert(Filter {
            text: text.clone(),
            encoding,
            registration,
            holders: Vec::new(),
            newest: 0,
            missing_count: home_count,
            waiting: Vec::new(),
            touring: Vec::new(),
        });
        let key = FilterKey(index as u32);
        self.trees[encoding.index()].insert(&text, key);
        self.by_text[encoding.index()].insert(text, key);
        self.by_registration.insert(registration, key);
        key
    }

    pub(super) fn remove(&mut self, key: FilterKey) -> Filter {
        let entry = self.entries.remove(key.index());
        self.trees[entry.encoding.index()].remove(&entry.text, key);
        self.by_text[entry.encoding.index()].remove(&entry.text);
        self.by_registration.remove(&entry.registration);
        entry
    }

    /// The connection subscribes to the filter `key`; tells its place among the holders. It starts now if all homes have
    /// answered, else with the last answer: what comes before was sent for another filter, which may have been taken
    /// back meanwhile, so that there would be a hole behind it.
    pub(super) fn hold(&mut self, key: FilterKey, connection: u32) -> u32 {
        let entry = &mut self.entries[key.index()];
        let mut since = 0;
        if entry.missing_count == 0 {
            self.generation += 1;
            since = self.generation;
            entry.newest = since;
        }
        entry.holders.push(Holder { connection, since });
        entry.holders.len() as u32 - 1
    }

    /// All homes have answered: those who hold the filter `key` start, but for those of whom `is_leaving` says that they
    /// are taking it back.
    pub(super) fn start(&mut self, key: FilterKey, is_leaving: impl Fn(u32) -> bool) {
        self.generation += 1;
        let entry = &mut self.entries[key.index()];
        entry.newest = self.generation;
        for holder in &mut entry.holders {
            if !is_leaving(holder.connection) {
                holder.since = self.generation;
            }
        }
    }

    /// The key of the filter of a registration that a home has answered, if it is still there.
    pub(super) fn registered(&self, registration: RegistrationId) -> Option<FilterKey> {
        // It may have been taken back while a home's answer was on its way: nothing waits for it.
        self.by_registration.get(&registration).copied()
    }

    /// The filters that match `name` and of which a subscription started after `since`, by their keys; and the price of
    /// the search.
    pub(super) fn matches_since(
        &self,
        encoding: Encoding,
        name: &str,
        since: u64,
        matched: &mut Vec<FilterKey>,
    ) -> u64 {
        let visited = self.trees[encoding.index()].for_each_match(name, |key| {
            if self.entries[key.index()].newest > since {
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

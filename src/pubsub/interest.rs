//! The filters with wildcards of one reactor's connections, each registered once with every home.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;

use super::{filter::FilterTree, message::PendingId};
use crate::protocol::Encoding;

/// Filters with wildcards of this reactor's connections.
#[derive(Debug, Default)]
pub(super) struct Filters {
    pub(super) entries: slab::Slab<Filter>,
    pub(super) by_text: [HashMap<Arc<str>, u32, RandomState>; Encoding::COUNT],
    pub(super) by_registration: HashMap<PendingId, u32, RandomState>,
    pub(super) next_registration: PendingId,
    /// Keys of `entries`.
    pub(super) trees: [FilterTree<u32>; Encoding::COUNT],
    /// Counts additions.
    pub(super) generation: u64,
}

#[derive(Debug)]
pub(super) struct Filter {
    pub(super) text: Arc<str>,
    pub(super) encoding: Encoding,
    pub(super) registration: PendingId,
    /// Connections that subscribed to it.
    pub(super) subscribers: Vec<u32>,
    /// Homes that have not answered yet.
    pub(super) missing_count: usize,
    pub(super) waiting: Vec<PendingId>,
}

impl Filters {
    pub(super) fn insert(&mut self, text: Arc<str>, encoding: Encoding, home_count: usize) -> u32 {
        let registration = self.next_registration;
        self.next_registration = registration.wrapping_add(1);
        let key = self.entries.insert(Filter {
            text: text.clone(),
            encoding,
            registration,
            subscribers: Vec::new(),
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
}

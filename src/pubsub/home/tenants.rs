//! How many topics each tenant has at a home, and may have; and which, for one that has as many as it may.

use std::collections::{HashMap, hash_map::Entry};

use foldhash::fast::RandomState;

use super::{EVICTION_PROBES, Home, TopicRefusal};
use crate::{protocol::tenant, work::price};

/// Topics by tenant: of those alone that have any.
#[derive(Debug, Default)]
pub(super) struct TenantTopics {
    /// By the first level of the names inside.
    shelves: HashMap<Box<str>, Shelf, RandomState>,
    /// Likewise; none is no limit.
    limits: HashMap<Box<str>, u32, RandomState>,
    /// By the topic's key, where it is among its tenant's; as long as the highest key of any.
    places: Vec<u32>,
}

/// A tenant's topics.
#[derive(Debug, Default)]
struct Shelf {
    keys: Vec<u32>,
    /// Which of them is looked at next.
    hand: usize,
}

impl TenantTopics {
    /// From now on a tenant has so many at most. Those that are there stay.
    pub fn set_limits(&mut self, limits: impl IntoIterator<Item = (Box<str>, u32)>) {
        self.limits = limits.into_iter().filter(|(_, topics_max)| *topics_max > 0).collect();
    }

    /// Whether whosever topic this would be may have one more.
    pub fn has_room(&self, name: &str) -> bool {
        let room = || {
            let tenant = tenant::split(name).0?;
            let topics_max = *self.limits.get(tenant)?;
            Some(self.shelves.get(tenant).is_none_or(|shelf| shelf.keys.len() < topics_max as usize))
        };
        room().unwrap_or(true)
    }

    /// There is one more, with this key.
    pub fn note_made(&mut self, name: &str, key: usize) {
        let Some(tenant) = tenant::split(name).0 else { return };
        let shelf = match self.shelves.get_mut(tenant) {
            Some(shelf) => shelf,
            None => self.shelves.entry(tenant.into()).or_default(),
        };
        if self.places.len() <= key {
            self.places.resize(key + 1, 0);
        }
        self.places[key] = shelf.keys.len() as u32;
        shelf.keys.push(key as u32);
    }

    /// There is one less.
    pub fn note_gone(&mut self, name: &str, key: usize) {
        let Some(tenant) = tenant::split(name).0 else { return };
        let Entry::Occupied(mut shelf) = self.shelves.entry(tenant.into()) else {
            unreachable!("a topic that goes was made")
        };
        let (keys, place) = (&mut shelf.get_mut().keys, self.places[key] as usize);
        keys.swap_remove(place);
        match keys.get(place) {
            Some(moved) => self.places[*moved as usize] = place as u32,
            None if keys.is_empty() => _ = shelf.remove(),
            None => {}
        }
    }

    /// The key of the tenant's topic that is next in turn.
    fn next(&mut self, tenant: &str) -> Option<usize> {
        let shelf = self.shelves.get_mut(tenant)?;
        let place = shelf.hand % shelf.keys.len();
        shelf.hand = place + 1;
        Some(shelf.keys[place] as usize)
    }

    /// Asserts that it knows these, by their names and keys, and no others.
    pub fn check<'a>(&self, topics: impl Iterator<Item = (&'a str, usize)>) {
        let mut keys: HashMap<&str, Vec<u32>, RandomState> = HashMap::default();
        for (tenant, key) in topics.filter_map(|(name, key)| Some((tenant::split(name).0?, key))) {
            keys.entry(tenant).or_default().push(key as u32);
        }
        assert_eq!(self.shelves.len(), keys.len());
        for (tenant, keys) in keys {
            let shelf = &self.shelves[tenant];
            assert_eq!(shelf.keys.len(), keys.len(), "tenants have as many topics as are counted");
            let is_there = |key: &u32| shelf.keys[self.places[*key as usize] as usize] == *key;
            assert!(keys.iter().all(is_there), "a tenant's topics are found again");
        }
    }
}

impl Home {
    /// Drops a topic of the tenant whose topic `name` is to be, to make room for that: one that is idle, or one that nobody uses
    /// and that has no value. Another tenant's never goes for it.
    pub(super) fn evict_of_tenant(&mut self, name: &str) -> Result<(), TopicRefusal> {
        let tenant = tenant::split(name).0.expect("only tenants have too many");
        let mut keeping = None;
        for _ in 0..EVICTION_PROBES {
            let Some(key) = self.tenants.next(tenant) else { break };
            self.work += price::LOOK;
            let topic = &self.topics[key];
            if topic.is_idle() {
                self.drop_topic(key);
                return Ok(());
            }
            if topic.is_unused() && !topic.has_value() {
                keeping.get_or_insert(key);
            }
        }
        self.drop_topic(keeping.ok_or(TopicRefusal::TenantMax)?);
        Ok(())
    }
}

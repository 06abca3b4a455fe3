//! How many topics each tenant has at a home, and may have.

use std::collections::{HashMap, hash_map::Entry};

use foldhash::fast::RandomState;

use crate::protocol::tenant;

/// Topics by tenant: of those alone that have any.
#[derive(Debug, Default)]
pub(super) struct TenantTopics {
    /// By the first level of the names inside.
    counts: HashMap<Box<str>, u32, RandomState>,
    /// Likewise; none is no limit.
    limits: HashMap<Box<str>, u32, RandomState>,
}

impl TenantTopics {
    /// From now on a tenant has so many at most. Those that are there stay.
    pub fn set_limits(&mut self, limits: impl IntoIterator<Item = (Box<str>, u32)>) {
        self.limits = limits.into_iter().filter(|(_, topics_max)| *topics_max > 0).collect();
    }

    /// Whether whosever topic this would be may have one more.
    pub fn has_room(&self, name: &str) -> bool {
        self.room(name).is_none_or(|(count, topics_max)| count < topics_max)
    }

    /// Whether whosever topic this is has more than three quarters of what it may.
    pub fn is_crowded(&self, name: &str) -> bool {
        self.room(name).is_some_and(|(count, topics_max)| count > topics_max / 4 * 3)
    }

    fn room(&self, name: &str) -> Option<(u32, u32)> {
        let tenant = tenant::split(name).0?;
        Some((self.counts.get(tenant).copied().unwrap_or(0), *self.limits.get(tenant)?))
    }

    /// There is one more.
    pub fn note_made(&mut self, name: &str) {
        let Some(tenant) = tenant::split(name).0 else { return };
        match self.counts.get_mut(tenant) {
            Some(count) => *count += 1,
            None => _ = self.counts.insert(tenant.into(), 1),
        }
    }

    /// There is one less.
    pub fn note_gone(&mut self, name: &str) {
        let Some(tenant) = tenant::split(name).0 else { return };
        let Entry::Occupied(mut count) = self.counts.entry(tenant.into()) else {
            unreachable!("a topic that goes was made")
        };
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }

    /// Asserts that it counts these.
    pub fn check<'a>(&self, names: impl Iterator<Item = &'a str>) {
        let mut counts: HashMap<Box<str>, u32, RandomState> = HashMap::default();
        for tenant in names.filter_map(|name| tenant::split(name).0) {
            *counts.entry(tenant.into()).or_default() += 1;
        }
        assert_eq!(self.counts, counts, "tenants have as many topics as are counted");
    }
}

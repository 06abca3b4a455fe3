//! Seconds: what each of them brought, collected by the workers and read by the monitor.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Mutex,
};

use hdrhistogram::Histogram;

/// By second since the start, then by group.
pub type Seconds = Mutex<BTreeMap<u64, Vec<GroupSecond>>>;

/// A second of one group.
#[derive(Clone, Debug)]
pub struct GroupSecond {
    /// What everybody received.
    pub bytes: u64,
    /// What sampled subscribers received.
    pub sampled_bytes: u64,
    /// How many deliveries that was.
    pub sampled_count: u64,
    /// From due to received, of those.
    pub latency: Histogram<u64>,
}

impl GroupSecond {
    fn new() -> GroupSecond {
        GroupSecond { bytes: 0, sampled_bytes: 0, sampled_count: 0, latency: coarse_histogram() }
    }

    /// Adds another worker's.
    pub fn add(&mut self, other: &GroupSecond) {
        self.bytes += other.bytes;
        self.sampled_bytes += other.sampled_bytes;
        self.sampled_count += other.sampled_count;
        self.latency.add(&other.latency).expect("the same bounds");
    }

    fn clear(&mut self) {
        (self.bytes, self.sampled_bytes, self.sampled_count) = (0, 0, 0);
        self.latency.reset();
    }
}

/// One worker's current second.
pub struct CurrentSecond {
    /// Which, since the start.
    pub second: u64,
    /// By group.
    pub groups: Vec<GroupSecond>,
}

impl CurrentSecond {
    /// The first.
    pub fn new(group_count: usize) -> CurrentSecond {
        CurrentSecond { second: 0, groups: (0..group_count).map(|_| GroupSecond::new()).collect() }
    }

    /// Adds it to what the others collected of the same second, and goes on with `second`.
    pub fn hand_over(&mut self, seconds: &Seconds, second: u64) {
        let mut seconds = seconds.lock().expect("nobody panics with it");
        match seconds.entry(self.second) {
            Entry::Vacant(entry) => {
                entry.insert(self.groups.clone());
            }
            Entry::Occupied(mut entry) => {
                entry.get_mut().iter_mut().zip(&self.groups).for_each(|(sum, it)| sum.add(it));
            }
        }
        drop(seconds);
        self.groups.iter_mut().for_each(GroupSecond::clear);
        self.second = second;
    }
}

/// A microsecond to two minutes, to three digits: for a whole run.
pub fn fine_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 120_000_000_000, 3).expect("the bounds are right")
}

/// The same to two digits, a tenth of the memory: for a second.
pub fn coarse_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 120_000_000_000, 2).expect("the bounds are right")
}

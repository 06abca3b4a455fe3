//! What is known of origins, of so many at most: the one that was touched least recently is forgotten for another.

use std::collections::HashMap;

use super::addresses::Origin;

/// No entry.
const NONE: u32 = u32::MAX;

/// What is known of each origin, in the order in which they were touched. Finding, touching and forgetting take constant time.
#[derive(Debug)]
pub(super) struct Recent<T> {
    places: HashMap<Origin, u32>,
    entries: Vec<Entry<T>>,
    newest: u32,
    oldest: u32,
    len_max: usize,
}

#[derive(Debug)]
struct Entry<T> {
    origin: Origin,
    /// The one that was touched next after it.
    newer: u32,
    /// The one that was touched last before it.
    older: u32,
    value: T,
}

impl<T: Default> Recent<T> {
    /// Knows at most so many.
    pub fn new(len_max: usize) -> Recent<T> {
        assert!(len_max > 0 && len_max < NONE as usize, "entries have indexes");
        Recent { places: HashMap::new(), entries: Vec::new(), newest: NONE, oldest: NONE, len_max }
    }

    /// What is known of `origin`.
    pub fn get(&self, origin: Origin) -> Option<&T> {
        self.places.get(&origin).map(|place| &self.entries[*place as usize].value)
    }

    /// What is known of `origin`, which is touched now; nothing at first.
    pub fn touch(&mut self, origin: Origin) -> &mut T {
        let place = match self.places.get(&origin) {
            Some(place) => *place,
            None => self.add(origin),
        };
        if self.newest != place {
            self.unlink(place);
            self.link(place);
        }
        &mut self.entries[place as usize].value
    }

    /// All that is known.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|entry| &entry.value)
    }

    /// A place for `origin`, in the order already.
    fn add(&mut self, origin: Origin) -> u32 {
        let place = if self.entries.len() < self.len_max {
            self.entries.push(Entry { origin, newer: NONE, older: NONE, value: T::default() });
            self.entries.len() as u32 - 1
        } else {
            let place = self.oldest;
            self.unlink(place);
            let entry = &mut self.entries[place as usize];
            self.places.remove(&entry.origin);
            (entry.origin, entry.value) = (origin, T::default());
            place
        };
        self.places.insert(origin, place);
        self.link(place);
        place
    }

    /// The entry, which is in no order, becomes the newest.
    fn link(&mut self, place: u32) {
        let before = std::mem::replace(&mut self.newest, place);
        let entry = &mut self.entries[place as usize];
        (entry.newer, entry.older) = (NONE, before);
        match before {
            NONE => self.oldest = place,
            before => self.entries[before as usize].newer = place,
        }
    }

    fn unlink(&mut self, place: u32) {
        let Entry { newer, older, .. } = self.entries[place as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        prelude::*,
        test_runner::{Config, RngSeed},
    };

    use super::*;

    proptest! {
        #![proptest_config(Config { failure_persistence: None, rng_seed: RngSeed::Fixed(7), ..Config::default() })]

        /// The naive twin is a list, the newest last.
        #[test]
        fn the_least_recently_touched_goes_first(
            len_max in 1usize..6,
            touched in prop::collection::vec(0u32..9, 0..100),
        ) {
            let mut recent: Recent<u64> = Recent::new(len_max);
            let mut list: Vec<(u32, u64)> = Vec::new();
            for address in touched {
                let known = list.iter().position(|(it, _)| *it == address).map(|at| list.remove(at));
                let (_, count) = known.unwrap_or((address, 0));
                if list.len() == len_max {
                    list.remove(0);
                }
                list.push((address, count + 1));
                *recent.touch(Origin::V4(address)) += 1;
                for address in 0..9 {
                    let expected = list.iter().find(|(it, _)| *it == address).map(|(_, count)| count);
                    prop_assert_eq!(recent.get(Origin::V4(address)), expected);
                }
                prop_assert_eq!(recent.iter().sum::<u64>(), list.iter().map(|(_, count)| count).sum::<u64>());
            }
        }
    }
}

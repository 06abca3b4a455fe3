//! A hash table that never moves all of its entries in one go.
//!
//! A table that doubles moves everything that it holds: for a quarter of a million names some ten milliseconds. This
//! one is as many small tables as it takes, each found by the upper bits of the hash, and each grows by itself.

use std::{
    borrow::Borrow,
    hash::{BuildHasher, Hash},
};

use foldhash::fast::RandomState;
use hashbrown::HashTable;

/// Beyond so many entries there are many small tables.
const SPLIT: usize = if cfg!(test) { 8 } else { 1_024 };
/// How many: a power of two.
const SHARD_COUNT: usize = if cfg!(test) { 4 } else { 256 };

/// Values by key. Strangers choose the keys: the hasher has a random seed.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    /// One, or `SHARD_COUNT`.
    shards: Vec<HashTable<(K, V)>>,
    len: usize,
    hasher: RandomState,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Table { shards: vec![HashTable::new()], len: 0, hasher: RandomState::default() }
    }
}

impl<K: Hash + Eq, V: Copy> Table<K, V> {
    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of `key`.
    #[inline]
    pub(super) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let hash = self.hasher.hash_one(key);
        self.shards[self.shard(hash)].find(hash, |(held, _)| held.borrow() == key).map(|(_, value)| *value)
    }

    /// Gives `key` the value, in place of any that it has.
    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.len == SPLIT && self.shards.len() == 1 {
            self.split();
        }
        let hash = self.hasher.hash_one(&key);
        let shard = self.shard(hash);
        let hasher = &self.hasher;
        match self.shards[shard].find_mut(hash, |(held, _)| *held == key) {
            Some(entry) => entry.1 = value,
            None => {
                self.shards[shard].insert_unique(hash, (key, value), |(key, _)| hasher.hash_one(key));
                self.len += 1;
            }
        }
    }

    /// Takes the entry of `key` out.
    pub(super) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let hash = self.hasher.hash_one(key);
        let shard = self.shard(hash);
        let entry = self.shards[shard].find_entry(hash, |(held, _)| held.borrow() == key).ok()?;
        let ((_, value), _) = entry.remove();
        self.len -= 1;
        if self.shards[shard].is_empty() {
            self.shards[shard] = HashTable::new();
        }
        if self.len == 0 {
            self.shards.truncate(1);
        }
        Some(value)
    }

    #[inline]
    fn shard(&self, hash: u64) -> usize {
        // Not the bits that a table chooses its place by, which are the lowest, nor those of its tags, the highest
        // seven.
        (hash >> 40) as usize & (self.shards.len() - 1)
    }

    /// The few entries that there are go into many tables.
    fn split(&mut self) {
        let few = std::mem::take(&mut self.shards[0]);
        self.shards.resize_with(SHARD_COUNT, HashTable::new);
        for entry in few {
            let hash = self.hasher.hash_one(&entry.0);
            let shard = self.shard(hash);
            let hasher = &self.hasher;
            self.shards[shard].insert_unique(hash, entry, |(key, _)| hasher.hash_one(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::{
        prelude::*,
        test_runner::{Config, RngSeed},
    };

    use super::*;

    proptest! {
        #![proptest_config(Config {
            cases: 300,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(29),
            ..Config::default()
        })]

        #[test]
        fn a_table_holds_what_the_standard_one_does(acts in prop::collection::vec((0u8..3, 0u32..40, any::<u32>()), 1..200)) {
            let (mut table, mut twin) = (Table::default(), HashMap::new());
            for (act, key, value) in acts {
                match act {
                    0 => prop_assert_eq!(table.remove(&key), twin.remove(&key)),
                    _ => {
                        table.insert(key, value);
                        twin.insert(key, value);
                    }
                }
                prop_assert_eq!((table.len(), table.is_empty()), (twin.len(), twin.is_empty()));
                for key in 0..40 {
                    prop_assert_eq!(table.get(&key), twin.get(&key).copied());
                }
            }
        }
    }
}

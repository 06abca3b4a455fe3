//! How many connections each peer has, over all reactors.
//!
//! Touched when a connection is accepted and when it ends, and only where there is a limit.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::Mutex,
};

/// So many reactors that accept at once rarely meet.
const SHARD_COUNT: usize = 64;

/// Whose a connection is: an IPv4 address, or an IPv6 network of 64 bits, which is what one peer is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// An address.
    V4(u32),
    /// The first half of an address.
    V6(u64),
}

/// Connections by origin.
#[derive(Debug)]
pub struct Addresses {
    shards: Vec<Mutex<HashMap<Origin, u32>>>,
    hasher: RandomState,
}

impl Origin {
    /// Whose `address` is.
    pub fn of(address: IpAddr) -> Origin {
        match address {
            IpAddr::V4(address) => Origin::V4(address.to_bits()),
            IpAddr::V6(address) => Origin::V6((address.to_bits() >> 64) as u64),
        }
    }
}

impl Addresses {
    /// Without connections.
    pub fn new() -> Addresses {
        Addresses { shards: (0..SHARD_COUNT).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }

    /// Counts a connection of `origin` unless it has `count_max` already; tells whether it did.
    pub fn enter(&self, origin: Origin, count_max: usize) -> bool {
        let mut shard = self.shard(origin).lock().expect("nobody panics with a shard in hand");
        let count = shard.entry(origin).or_insert(0);
        let has_room = (*count as usize) < count_max;
        // Where there is no room there was one before, as a limit is at least 1: no entry of 0 stays.
        *count += u32::from(has_room);
        has_room
    }

    /// A connection that was counted is over.
    pub fn leave(&self, origin: Origin) {
        let mut shard = self.shard(origin).lock().expect("nobody panics with a shard in hand");
        let Entry::Occupied(mut entry) = shard.entry(origin) else {
            panic!("{origin:?} leaves and never entered");
        };
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
    }

    /// Whether nobody is counted.
    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.lock().expect("nobody panics with a shard in hand").is_empty())
    }

    fn shard(&self, origin: Origin) -> &Mutex<HashMap<Origin, u32>> {
        &self.shards[self.hasher.hash_one(origin) as usize % SHARD_COUNT]
    }
}

impl Default for Addresses {
    fn default() -> Self {
        Addresses::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_as_many_as_it_may_and_no_more() {
        let addresses = Addresses::new();
        let origin = |text: &str| Origin::of(text.parse().unwrap());
        let one = origin("192.0.2.1");
        assert!(addresses.enter(one, 2) && addresses.enter(one, 2) && !addresses.enter(one, 2));
        assert!(addresses.enter(origin("192.0.2.2"), 2), "another address is another's");
        addresses.leave(one);
        assert!(addresses.enter(one, 2));
        for it in [one, one, origin("192.0.2.2")] {
            addresses.leave(it);
        }
        assert!(addresses.is_empty());
    }

    #[test]
    fn a_network_of_64_bits_is_one_origin() {
        let origin = |text: &str| Origin::of(text.parse().unwrap());
        assert_eq!(origin("2001:db8:0:1::1"), origin("2001:db8:0:1:ffff::2"));
        assert_ne!(origin("2001:db8:0:1::1"), origin("2001:db8:0:2::1"));
        assert_ne!(origin("0.0.0.1"), origin("::1"));
    }
}

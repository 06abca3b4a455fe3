//! What is known of each origin, over all reactors: how many connections it has, how often it upgrades, and whether it is banned.
//!
//! Touched when a connection is accepted, judged and ended, and only where there is something to be known. Connections are as many
//! entries as there are connections; of upgrades and strikes there are so many that only the least recent are forgotten:
//! bans are lost then, not memory.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{Mutex, MutexGuard},
};

use super::{rate::Rate, recent::Recent};

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

/// Of so many origins it is known how often they upgrade, and of as many what they are struck for.
const KNOWN_MAX: usize = 65_536;
/// Strikes are counted from the first on for so long, in milliseconds.
const STRIKES_MS: u64 = 60_000;

/// What is known, by origin.
#[derive(Debug)]
pub struct Addresses {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Shard {
    connections: HashMap<Origin, u32>,
    /// What the rate knows of their upgrades.
    upgrades_due_ns: Recent<u64>,
    struck: Recent<Struck>,
}

/// What an origin did that it must not.
#[derive(Debug, Default)]
struct Struck {
    /// So often since then.
    count: u32,
    since_ms: u64,
    /// It is banned before that.
    until_ms: u64,
}

/// When an origin is banned, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BanRule {
    /// After so many strikes within a minute.
    pub strikes: u32,
    /// In milliseconds.
    pub ban_ms: u64,
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
        Addresses::with_known_max(KNOWN_MAX)
    }

    fn with_known_max(known_max: usize) -> Addresses {
        let shard = || Shard {
            connections: HashMap::new(),
            upgrades_due_ns: Recent::new(known_max / SHARD_COUNT),
            struck: Recent::new(known_max / SHARD_COUNT),
        };
        let shards = (0..SHARD_COUNT).map(|_| Mutex::new(shard())).collect();
        Addresses { shards, hasher: RandomState::new() }
    }

    /// Counts a connection of `origin` unless it has `count_max` already; tells whether it did.
    pub fn enter(&self, origin: Origin, count_max: usize) -> bool {
        let mut shard = self.shard(origin);
        let count = shard.connections.entry(origin).or_insert(0);
        let has_room = (*count as usize) < count_max;
        // Where there is no room there was one before, as a limit is at least 1: no entry of 0 stays.
        *count += u32::from(has_room);
        has_room
    }

    /// A connection that was counted is over.
    pub fn leave(&self, origin: Origin) {
        let mut shard = self.shard(origin);
        let Entry::Occupied(mut entry) = shard.connections.entry(origin) else {
            panic!("{origin:?} leaves and never entered");
        };
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
    }

    /// Whether nobody is counted.
    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| locked(shard).connections.is_empty())
    }

    /// Takes one upgrade of `origin` at `now_ns`, if `rate` allows it.
    ///
    /// # Errors
    /// When it allows the next, in nanoseconds.
    pub fn take_upgrade(&self, origin: Origin, rate: Rate, now_ns: u64) -> Result<(), u64> {
        let mut shard = self.shard(origin);
        let due_ns = shard.upgrades_due_ns.touch(origin);
        if rate.take(due_ns, now_ns) { Ok(()) } else { Err(rate.next_ns(*due_ns)) }
    }

    /// Strikes `origin` at `now_ms`; tells whether that is what it is banned for.
    pub fn strike(&self, origin: Origin, rule: BanRule, now_ms: u64) -> bool {
        let mut shard = self.shard(origin);
        let struck = shard.struck.touch(origin);
        if struck.count == 0 || now_ms.saturating_sub(struck.since_ms) >= STRIKES_MS {
            (struck.count, struck.since_ms) = (0, now_ms);
        }
        struck.count += 1;
        let is_banned = struck.count >= rule.strikes;
        if is_banned {
            (struck.count, struck.until_ms) = (0, now_ms + rule.ban_ms);
        }
        is_banned
    }

    /// Until when `origin` is banned, in milliseconds, if it is at `now_ms`.
    pub fn banned_until_ms(&self, origin: Origin, now_ms: u64) -> Option<u64> {
        self.shard(origin)
            .struck
            .get(origin)
            .map(|struck| struck.until_ms)
            .filter(|until_ms| *until_ms > now_ms)
    }

    /// How many are banned at `now_ms`. This looks at everybody who was struck: it is for who has time.
    pub fn ban_count(&self, now_ms: u64) -> usize {
        let count = |shard| locked(shard).struck.iter().filter(|struck| struck.until_ms > now_ms).count();
        self.shards.iter().map(count).sum()
    }

    fn shard(&self, origin: Origin) -> MutexGuard<'_, Shard> {
        locked(&self.shards[self.hasher.hash_one(origin) as usize % SHARD_COUNT])
    }
}

fn locked(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().expect("nobody panics with a shard in hand")
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

    const RULE: BanRule = BanRule { strikes: 3, ban_ms: 1_000 };

    #[test]
    fn an_origin_is_banned_for_its_strikes_within_a_minute_and_nobody_else_is() {
        let addresses = Addresses::new();
        let origin = |text: &str| Origin::of(text.parse().unwrap());
        let (one, other) = (origin("192.0.2.1"), origin("192.0.2.2"));
        assert!(!addresses.strike(one, RULE, 0) && !addresses.strike(one, RULE, STRIKES_MS - 1));
        assert!(
            !addresses.strike(one, RULE, STRIKES_MS),
            "the first is forgotten, and what was counted with it"
        );
        assert!(!addresses.strike(one, RULE, STRIKES_MS));
        assert_eq!(addresses.banned_until_ms(one, STRIKES_MS), None);
        assert!(addresses.strike(one, RULE, STRIKES_MS));
        let until_ms = STRIKES_MS + RULE.ban_ms;
        assert_eq!(addresses.banned_until_ms(one, STRIKES_MS), Some(until_ms));
        assert_eq!((addresses.ban_count(until_ms - 1), addresses.ban_count(until_ms)), (1, 0));
        assert_eq!(addresses.banned_until_ms(one, until_ms), None);
        assert_eq!(addresses.banned_until_ms(other, STRIKES_MS), None);
        assert!(addresses.is_empty(), "nobody is counted for it");
    }

    /// However many addresses of a network somebody has.
    #[test]
    fn a_ban_is_not_evaded_within_a_network_of_64_bits() {
        let addresses = Addresses::new();
        let origin = |host: u32| Origin::of(format!("2001:db8:0:1::{host:x}").parse().unwrap());
        for host in 1..=3 {
            assert_eq!(addresses.strike(origin(host), RULE, 0), host == 3);
        }
        assert!(addresses.banned_until_ms(origin(4_711), 1).is_some());
        assert_eq!(addresses.banned_until_ms(Origin::of("2001:db8:0:2::1".parse().unwrap()), 1), None);
    }

    /// Strikers come and go without end, between them one that is banned and goes on.
    #[test]
    fn the_least_recently_struck_are_forgotten() {
        let addresses = Addresses::with_known_max(8 * SHARD_COUNT);
        let fresh = Origin::V4(u32::MAX);
        for count in 0..100 * SHARD_COUNT as u32 {
            addresses.strike(Origin::V4(count), RULE, 0);
            addresses.strike(fresh, RULE, 0);
        }
        assert!(addresses.banned_until_ms(fresh, 0).is_some());
        for shard in &addresses.shards {
            assert!(locked(shard).struck.iter().count() <= 8);
        }
        assert_eq!(KNOWN_MAX % SHARD_COUNT, 0);
    }

    #[test]
    fn an_origin_upgrades_as_often_as_it_may() {
        let addresses = Addresses::new();
        let rate = Rate::new(2, 1, 2).unwrap();
        let (one, other) = (Origin::V4(1), Origin::V4(2));
        assert!(addresses.take_upgrade(one, rate, 0).is_ok() && addresses.take_upgrade(one, rate, 0).is_ok());
        assert_eq!(addresses.take_upgrade(one, rate, 0), Err(500_000_000));
        assert_eq!(addresses.take_upgrade(other, rate, 0), Ok(()));
        assert_eq!(addresses.take_upgrade(one, rate, 500_000_000), Ok(()));
        assert!(addresses.is_empty(), "it is known whether or not there is a connection");
    }
}

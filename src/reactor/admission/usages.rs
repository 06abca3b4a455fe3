//! How many connections each user and each tenant has, and how much it publishes, over all reactors.
//!
//! Touched when a connection of theirs is let in and when it ends, and only where there is a limit. What its rates know of it is
//! in a [`Usage`], which each of its connections holds, so that a publish looks nothing up.

use std::{
    borrow::Borrow,
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher, Hash, Hasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    access::principal::Named,
    config::{Limits, TenantPolicy},
};

const SECOND_NS: u64 = 1_000_000_000;

/// So many reactors that let in at once rarely meet.
const SHARD_COUNT: usize = 64;
/// So many users of a shard are kept that have no connection, since their rates are not over: of more the one goes that would
/// be let go of first.
const GONE_MAX: usize = if cfg!(test) { 4 } else { 1_024 };
/// How many of those that are over go when somebody comes or leaves: more than come.
const FORGOTTEN_AT_ONCE: usize = 2;
/// And how many when it is the shard's turn.
const TIDIED_AT_ONCE: usize = 64;

/// So many per second, and a second's worth of them at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaRate {
    per_s: u64,
}

/// What each user may, or a tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// So many connections at a time; 0 is any number.
    pub connections_max: u32,
    /// So many publications.
    pub publishes: Option<QuotaRate>,
    /// So many bytes of them.
    pub bytes: Option<QuotaRate>,
}

/// What a user or a tenant publishes, as moments: when all of it would be over if it came evenly (GCRA).
#[derive(Debug)]
pub struct Usage {
    name: Box<[u8]>,
    publishes_due_ns: AtomicU64,
    bytes_due_ns: AtomicU64,
}

/// Usages by name.
#[derive(Debug)]
pub struct Usages {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Shard {
    users: HashMap<ByName, State>,
    /// Those without a connection, the first first that may be let go of.
    gone: BTreeSet<(u64, ByName)>,
}

#[derive(Debug)]
struct State {
    connections: u32,
    /// Until when it is kept without a connection, in nanoseconds, if it has none.
    kept_until_ns: Option<u64>,
}

/// A usage, found by whose it is.
#[derive(Clone, Debug)]
struct ByName(Arc<Usage>);

impl QuotaRate {
    /// `per_s` per second; none for 0, which is no limit.
    pub fn new(per_s: u64) -> Option<QuotaRate> {
        (per_s > 0).then_some(QuotaRate { per_s })
    }

    /// Takes `count` at `now_ns`, or tells from when on that is allowed. `due` is what is known of those before: 0 at first.
    /// More than a second's worth is allowed where nothing is owed: else it never would be.
    fn take(self, due: &AtomicU64, count: u64, now_ns: u64) -> Result<(), u64> {
        let cost_ns = self.cost_ns(count);
        let mut due_ns = due.load(Ordering::Relaxed);
        loop {
            let next_ns = due_ns.saturating_sub(SECOND_NS.saturating_sub(cost_ns));
            if next_ns > now_ns {
                return Err(next_ns);
            }
            let after_ns = due_ns.max(now_ns).saturating_add(cost_ns);
            // What it guards is in the number itself.
            match due.compare_exchange_weak(due_ns, after_ns, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(newer_ns) => due_ns = newer_ns,
            }
        }
    }

    /// Gives back what was just taken and is not used.
    fn give_back(self, due: &AtomicU64, count: u64) {
        due.fetch_sub(self.cost_ns(count), Ordering::Relaxed);
    }

    fn cost_ns(self, count: u64) -> u64 {
        let cost_ns = u128::from(count) * u128::from(SECOND_NS) / u128::from(self.per_s);
        u64::try_from(cost_ns).unwrap_or(u64::MAX / 4)
    }
}

impl Quota {
    /// Those of `limits`.
    pub fn of(limits: &Limits) -> Quota {
        Quota {
            connections_max: limits.connections_per_user_max,
            publishes: QuotaRate::new(limits.publishes_per_s_per_user_max),
            bytes: QuotaRate::new(limits.bytes_per_s_per_user_max),
        }
    }

    /// Those of a tenant.
    pub fn of_tenant(policy: &TenantPolicy) -> Quota {
        Quota {
            connections_max: policy.connections_max,
            publishes: QuotaRate::new(policy.publishes_per_s_max.into()),
            bytes: QuotaRate::new(policy.bytes_per_s_max),
        }
    }

    /// How many connections those have who have no limit as well.
    pub fn count_max(&self) -> u32 {
        if self.connections_max == 0 { u32::MAX } else { self.connections_max }
    }

    /// Whether there is any.
    pub fn is_any(&self) -> bool {
        *self != Quota::default()
    }

    /// Whether there is one of what is published.
    #[inline]
    pub fn has_rates(&self) -> bool {
        self.publishes.is_some() || self.bytes.is_some()
    }
}

impl Usage {
    /// Takes a publication of so many bytes at `now_ns`; else nothing is taken, and it is told from when on that is allowed.
    pub fn take(&self, limits: &Quota, len: usize, now_ns: u64) -> Result<(), u64> {
        let Quota { publishes, bytes, .. } = *limits;
        if let Some(rate) = publishes {
            rate.take(&self.publishes_due_ns, 1, now_ns)?;
        }
        let taken = bytes.map_or(Ok(()), |rate| rate.take(&self.bytes_due_ns, len as u64, now_ns));
        if let (Err(_), Some(rate)) = (taken, publishes) {
            rate.give_back(&self.publishes_due_ns, 1);
        }
        taken
    }

    /// Gives back a publication of so many bytes that was just taken, and is not published.
    pub fn give_back(&self, quota: &Quota, len: usize) {
        if let Some(rate) = quota.publishes {
            rate.give_back(&self.publishes_due_ns, 1);
        }
        if let Some(rate) = quota.bytes {
            rate.give_back(&self.bytes_due_ns, len as u64);
        }
    }

    /// From when on nothing is known of it that counts.
    fn over_ns(&self) -> u64 {
        self.publishes_due_ns.load(Ordering::Relaxed).max(self.bytes_due_ns.load(Ordering::Relaxed))
    }
}

impl Usages {
    /// Counts a connection of `named` unless it has `count_max` already, and gives its usage.
    pub fn enter(&self, named: Named<'_>, count_max: u32, now_ns: u64) -> Option<Arc<Usage>> {
        self.enter_as(key_of(named), count_max, now_ns)
    }

    /// The same of the tenant of this name.
    pub fn enter_tenant(&self, tenant: &str, count_max: u32, now_ns: u64) -> Option<Arc<Usage>> {
        self.enter_as([TENANT, tenant.as_bytes()].concat().into(), count_max, now_ns)
    }

    fn enter_as(&self, name: Box<[u8]>, count_max: u32, now_ns: u64) -> Option<Arc<Usage>> {
        let mut shard = self.shard(&name);
        shard.forget(FORGOTTEN_AT_ONCE, now_ns);
        let Shard { users, gone } = &mut *shard;
        if let Some((user, state)) = users.get_key_value(&*name) {
            if state.connections >= count_max {
                return None;
            }
            if let Some(until_ns) = state.kept_until_ns {
                gone.remove(&(until_ns, user.clone()));
            }
            let meter = user.0.clone();
            let state = users.get_mut(&*name).expect("it was just there");
            state.connections += 1;
            state.kept_until_ns = None;
            return Some(meter);
        }
        let meter = Arc::new(Usage { name, publishes_due_ns: 0.into(), bytes_due_ns: 0.into() });
        users.insert(ByName(meter.clone()), State { connections: 1, kept_until_ns: None });
        Some(meter)
    }

    /// A connection that was counted is over. A user without any is kept until its rates are over: else whoever comes back would
    /// begin anew.
    pub fn leave(&self, meter: &Usage, now_ns: u64) {
        let mut shard = self.shard(&meter.name);
        let Shard { users, gone } = &mut *shard;
        let state = users.get_mut(&*meter.name).expect("who leaves has entered");
        state.connections -= 1;
        if state.connections > 0 {
            return;
        }
        let over_ns = meter.over_ns();
        if over_ns <= now_ns {
            users.remove(&*meter.name);
        } else {
            state.kept_until_ns = Some(over_ns);
            let (user, _) = users.get_key_value(&*meter.name).expect("it was just there");
            gone.insert((over_ns, user.clone()));
        }
        shard.forget(FORGOTTEN_AT_ONCE, now_ns);
    }

    /// Lets go of some of those in one shard that have no connection and are over; of each shard, for one `round` after the other.
    pub fn tidy(&self, round: u64, now_ns: u64) {
        let place = round as usize % SHARD_COUNT;
        lock(&self.shards[place]).forget(TIDIED_AT_ONCE, now_ns);
    }

    /// How many are known, those included that have no connection any more.
    pub fn count(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).users.len()).sum()
    }

    fn shard(&self, name: &[u8]) -> MutexGuard<'_, Shard> {
        lock(&self.shards[self.hasher.hash_one(name) as usize % SHARD_COUNT])
    }
}

impl Default for Usages {
    fn default() -> Self {
        Usages { shards: (0..SHARD_COUNT).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }
}

impl Shard {
    /// Lets go of `count_max` at most that have no connection: of those that are over, or too many.
    fn forget(&mut self, count_max: usize, now_ns: u64) {
        for _ in 0..count_max {
            let is_too_many = self.gone.len() > GONE_MAX;
            if !self.gone.first().is_some_and(|(until_ns, _)| is_too_many || *until_ns <= now_ns) {
                return;
            }
            let (_, user) = self.gone.pop_first().expect("it is the first");
            self.users.remove(&*user.0.name);
        }
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().expect("nobody panics with a shard in hand")
}

/// What a tenant's bytes begin with: no text does, nor a user's.
const TENANT: &[u8] = b"\xfd";

/// The user, in bytes that are no other's: text has none of those between and before.
fn key_of(Named { issuer, tenant, user }: Named<'_>) -> Box<[u8]> {
    let issuer = issuer.map_or(&b"\xfe"[..], str::as_bytes);
    let tenant = tenant.unwrap_or_default().as_bytes();
    [issuer, b"\xff", tenant, b"\xff", user.as_bytes()].concat().into()
}

impl Borrow<[u8]> for ByName {
    fn borrow(&self) -> &[u8] {
        &self.0.name
    }
}

impl Hash for ByName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As that of what it borrows as.
        self.0.name[..].hash(state);
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for ByName {}

impl PartialOrd for ByName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.name.cmp(&other.0.name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        prelude::*,
        test_runner::{Config, RngSeed},
    };

    use super::*;

    fn named(user: &str) -> Named<'_> {
        Named { issuer: None, tenant: None, user }
    }

    fn rates(publishes_per_s: u64, bytes_per_s: u64) -> Quota {
        let [publishes, bytes] = [publishes_per_s, bytes_per_s].map(QuotaRate::new);
        Quota { publishes, bytes, ..Quota::default() }
    }

    /// What a user may publish, by a bucket that fills with a second's worth in a second: the naive twin.
    struct Bucket {
        per_s: u64,
        /// In billionths of one.
        left: u128,
    }

    impl Bucket {
        fn pass(&mut self, ns: u64) {
            let full = u128::from(self.per_s) * u128::from(SECOND_NS);
            self.left = full.min(self.left + u128::from(ns) * u128::from(self.per_s));
        }
    }

    proptest! {
        #![proptest_config(Config { failure_persistence: None, rng_seed: RngSeed::Fixed(7), ..Config::default() })]

        /// Rates that divide a second, so that neither rounds; and nothing beyond a second's worth, which a bucket never has.
        #[test]
        fn a_rate_allows_what_a_bucket_would(
            per_s in prop::sample::select(vec![1u64, 2, 10, 1_000, 1_000_000]),
            steps in prop::collection::vec((prop_oneof![Just(0u64), 0u64..30_000_000, 0u64..3_000_000_000], 1u64..20), 1..200),
        ) {
            let rate = QuotaRate::new(per_s).unwrap();
            let due = AtomicU64::new(0);
            let mut now_ns = 5 * SECOND_NS;
            let mut bucket = Bucket { per_s, left: u128::from(per_s) * u128::from(SECOND_NS) };
            for (step_ns, count) in steps {
                now_ns += step_ns;
                bucket.pass(step_ns);
                let count = count.min(per_s);
                let cost = u128::from(count) * u128::from(SECOND_NS);
                match rate.take(&due, count, now_ns) {
                    Ok(()) => {
                        prop_assert!(bucket.left >= cost);
                        bucket.left -= cost;
                    }
                    Err(next_ns) => {
                        let missing = cost.checked_sub(bucket.left).expect("it has not so much");
                        let wait_ns = missing.div_ceil(u128::from(per_s));
                        prop_assert_eq!(u128::from(next_ns - now_ns), wait_ns);
                    }
                }
            }
        }

        /// As many as a map from names to numbers would have, whoever comes and leaves.
        #[test]
        fn users_have_as_many_connections_as_they_may(
            steps in prop::collection::vec((0usize..3, 1u32..4, any::<bool>()), 1..80),
        ) {
            const NAMES: [&str; 3] = ["a", "b", "ab"];
            let users = Usages::default();
            let mut held: [Vec<Arc<Usage>>; 3] = Default::default();
            for (who, count_max, enters) in steps {
                if enters {
                    let entered = users.enter(named(NAMES[who]), count_max, 0);
                    prop_assert_eq!(entered.is_some(), held[who].len() < count_max as usize);
                    held[who].extend(entered);
                } else if let Some(meter) = held[who].pop() {
                    users.leave(&meter, 0);
                }
                let present = held.iter().filter(|meters| !meters.is_empty()).count();
                prop_assert_eq!(users.count(), present);
                for meters in &held {
                    prop_assert!(meters.windows(2).all(|pair| Arc::ptr_eq(&pair[0], &pair[1])));
                }
            }
        }
    }

    #[test]
    fn a_message_beyond_a_seconds_worth_goes_where_nothing_is_owed() {
        let meter = Usages::default().enter(named("a"), 1, 0).unwrap();
        let limits = rates(0, 1_000);
        assert_eq!(meter.take(&limits, 5_000, 7), Ok(()));
        assert_eq!(meter.take(&limits, 1, 7), Err(7 + 5 * SECOND_NS - SECOND_NS + 1_000_000));
        assert_eq!(meter.take(&limits, 5_000, 7), Err(7 + 5 * SECOND_NS));
        assert_eq!(meter.take(&limits, 5_000, 7 + 5 * SECOND_NS), Ok(()));
        assert!(!rates(0, 0).is_any() && !rates(0, 0).has_rates());
    }

    /// What is refused for its bytes does not count as a publish.
    #[test]
    fn what_is_refused_takes_nothing() {
        let meter = Usages::default().enter(named("a"), 1, 0).unwrap();
        let limits = rates(2, 10);
        assert_eq!(meter.take(&limits, 10, 0), Ok(()));
        for _ in 0..5 {
            assert_eq!(meter.take(&limits, 10, 0), Err(SECOND_NS));
        }
        assert_eq!(meter.take(&limits, 0, 0), Ok(()));
        assert_eq!(meter.take(&limits, 0, 0), Err(SECOND_NS / 2));
        meter.give_back(&limits, 10);
        assert_eq!(meter.take(&limits, 10, 0), Ok(()));
    }

    /// Whoever comes back does not begin anew; and is forgotten when it would.
    #[test]
    fn a_user_is_kept_until_its_rates_are_over() {
        let users = Usages::default();
        let meter = users.enter(named("a"), 1, 0).unwrap();
        assert_eq!(meter.take(&rates(1, 0), 1, 0), Ok(()));
        users.leave(&meter, 0);
        assert_eq!(users.count(), 1);
        let again = users.enter(named("a"), 1, SECOND_NS / 2).unwrap();
        assert!(
            again.take(&rates(1, 0), 1, SECOND_NS / 2).is_err() && users.enter(named("a"), 1, 0).is_none()
        );
        users.leave(&again, SECOND_NS / 2);
        (0..SHARD_COUNT as u64).for_each(|round| users.tidy(round, SECOND_NS - 1));
        assert_eq!(users.count(), 1);
        (0..SHARD_COUNT as u64).for_each(|round| users.tidy(round, SECOND_NS));
        assert_eq!(users.count(), 0);
        let once_more = users.enter(named("a"), 1, SECOND_NS).unwrap();
        assert_eq!(once_more.take(&rates(1, 0), 1, SECOND_NS), Ok(()));
    }

    /// The one goes that is over first.
    #[test]
    fn those_without_connections_are_bounded() {
        let users = Usages::default();
        let names: Vec<String> = (0..SHARD_COUNT * GONE_MAX * 4).map(|number| format!("u{number}")).collect();
        for name in &names {
            let meter = users.enter(named(name), 1, 0).unwrap();
            meter.take(&rates(1, 0), 1, 0).unwrap();
            users.leave(&meter, 0);
        }
        assert!(users.count() <= SHARD_COUNT * GONE_MAX, "{}", users.count());
        let last = users.enter(named("last"), 1, 0).unwrap();
        assert_eq!(last.take(&rates(1, 0), 3, 0), Ok(()));
    }

    #[test]
    fn the_same_name_of_somebody_else_is_another_user() {
        let users = Usages::default();
        let all = [
            named("a"),
            Named { issuer: Some("i"), ..named("a") },
            Named { issuer: Some("j"), ..named("a") },
            Named { issuer: Some("ia"), ..named("") },
            Named { issuer: Some(""), ..named("a") },
            Named { tenant: Some("t"), ..named("a") },
            Named { tenant: Some("u"), ..named("a") },
            Named { tenant: Some("t"), issuer: Some("i"), user: "a" },
        ];
        all.iter().for_each(|named| drop(users.enter(*named, 1, 0).expect("its first")));
        assert!(all.iter().all(|named| users.enter(*named, 1, 0).is_none()));
        for tenant in ["a", "t"] {
            assert!(users.enter_tenant(tenant, 1, 0).is_some() && users.enter_tenant(tenant, 1, 0).is_none());
        }
    }

    /// Several reactors take at once: no more than a second's worth and what the time between gives.
    #[test]
    fn reactors_that_take_at_once_take_no_more_than_there_is() {
        let meter = Usages::default().enter(named("a"), 1, 0).unwrap();
        let taken = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for step in 0..2_000 {
                        let is_taken = meter.take(&rates(1_000, 1_000_000), 1, step * 500_000).is_ok();
                        taken.fetch_add(u64::from(is_taken), Ordering::Relaxed);
                    }
                });
            }
        });
        // Of 1,000 per second in a second, and a second's worth at once.
        let taken = taken.into_inner();
        assert!((1_000..=2_000).contains(&taken), "{taken}");
    }
}

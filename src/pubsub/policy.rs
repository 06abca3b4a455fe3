//! What the operator has set for which topics, and what becomes of subscribers that are too far behind.

use std::num::NonZeroU32;

use super::entries::{Entries, Keys};

/// What holds for which topics: of each key of a rule what the most specific entry says that sets it. What a topic comes
/// to is looked up once in a while and kept.
#[derive(Debug)]
pub struct Policy {
    /// Which one of those that came one after the other.
    generation: u32,
    owed_bytes_max: u64,
    default: Rule,
    entries: Entries<RuleKeys>,
}

/// What an entry sets of a rule, or several together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleKeys {
    /// See [`Rule::may_skip`].
    pub may_skip: Option<bool>,
    /// See [`Rule::owed_bytes_max`].
    pub owed_bytes_max: Option<u64>,
    /// See [`Rule::owed_ms_max`]; 0 is any age.
    pub owed_ms_max: Option<u32>,
}

/// What becomes of a subscriber that is too far behind in a topic, and how far that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// It is moved forward instead of being disconnected.
    pub may_skip: bool,
    /// The bound of what it is owed of this topic, in bytes.
    pub owed_bytes_max: u64,
    /// How old the oldest publication that it is owed of this topic may be, in milliseconds.
    pub owed_ms_max: Option<NonZeroU32>,
}

// Every view has its own.
const _: () = assert!(size_of::<Rule>() == 16);

/// What of, a slow consumer has too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// It is owed too many bytes.
    OwedBytes,
    /// It is owed something too old.
    OwedMs,
    /// It keeps the oldest of a log that is full.
    LogBytes,
    /// It takes nothing of what is being sent to it.
    WriteStallMs,
}

/// What to do with a connection that is owed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is within its bounds.
    Keep,
    /// It was beyond this one, was moved forward, and has gaps to be told.
    Skip(Bound),
    /// It is beyond this one, and its topics do not allow to skip: close it with 4000.
    Disconnect(Bound),
    /// What its send in flight keeps is beyond this one, and only the end of that lets go: reset it.
    Reset(Bound),
}

impl Policy {
    /// One by which nobody is closed: whoever is owed more than so many bytes is moved forward.
    pub fn skipping(owed_bytes_max: u64) -> Policy {
        let default = Rule { may_skip: true, owed_bytes_max, owed_ms_max: None };
        Policy::new(owed_bytes_max, default, [])
    }

    /// What `entries` set for the topics that their filters match, no two of which are the same; `default` is for what
    /// they leave open. A connection is owed `owed_bytes_max` at most, of all topics together.
    pub fn new(
        owed_bytes_max: u64,
        default: Rule,
        entries: impl IntoIterator<Item = (String, RuleKeys)>,
    ) -> Policy {
        Policy { generation: 0, owed_bytes_max, default, entries: Entries::new(entries) }
    }

    /// The same in place of `previous`: whoever keeps what a topic came to by that one can see that it is old.
    pub fn after(self, previous: &Policy) -> Policy {
        Policy { generation: previous.generation.wrapping_add(1), ..self }
    }

    /// What [`Policy::rule_of`] tells is of this generation.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The bound of what a connection is owed of all topics together, in bytes.
    pub fn owed_bytes_max(&self) -> u64 {
        self.owed_bytes_max
    }

    /// The rule of `topic`, and how many nodes were visited to find it.
    pub fn rule_of(&self, topic: &str) -> (Rule, u32) {
        let (keys, visited) = self.entries.keys_of(topic);
        (self.default.with(keys), visited)
    }

    /// The least age that any topic's subscribers are held to, in milliseconds.
    pub fn owed_ms_min(&self) -> Option<u32> {
        let rules = self.entries.iter().map(|(_, keys)| self.default.with(keys));
        rules.chain([self.default]).filter_map(|rule| rule.owed_ms_max).min().map(NonZeroU32::get)
    }
}

impl Keys for RuleKeys {
    fn or(self, wider: RuleKeys) -> RuleKeys {
        RuleKeys {
            may_skip: self.may_skip.or(wider.may_skip),
            owed_bytes_max: self.owed_bytes_max.or(wider.owed_bytes_max),
            owed_ms_max: self.owed_ms_max.or(wider.owed_ms_max),
        }
    }
}

impl Rule {
    /// This rule where `keys` leave it open.
    pub fn with(self, keys: RuleKeys) -> Rule {
        Rule {
            may_skip: keys.may_skip.unwrap_or(self.may_skip),
            owed_bytes_max: keys.owed_bytes_max.unwrap_or(self.owed_bytes_max),
            owed_ms_max: keys.owed_ms_max.map_or(self.owed_ms_max, NonZeroU32::new),
        }
    }
}

impl Bound {
    /// Every bound.
    pub const ALL: [Bound; Bound::COUNT] =
        [Bound::OwedBytes, Bound::OwedMs, Bound::LogBytes, Bound::WriteStallMs];
    /// How many there are.
    pub const COUNT: usize = 4;

    /// Its place in [`Bound::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Its name, which is that of its key in the configuration without `_max`.
    pub fn as_str(self) -> &'static str {
        match self {
            Bound::OwedBytes => "owed_bytes",
            Bound::OwedMs => "owed_ms",
            Bound::LogBytes => "log_bytes",
            Bound::WriteStallMs => "write_stall_ms",
        }
    }

    /// What a connection is told that is closed for it, as the reason of its close frame.
    pub fn reason(self) -> &'static str {
        match self {
            Bound::OwedBytes => "too far behind: read faster, or subscribe to less",
            Bound::OwedMs => "what is owed to this connection is too old: read faster, or subscribe to less",
            Bound::LogBytes => "the broker's log is full, and this connection keeps the oldest of it",
            Bound::WriteStallMs => "nothing of what was sent was taken for timeouts.write_stall_ms",
        }
    }
}

/// The definition, entry by entry.
#[cfg(any(test, fuzzing))]
pub(crate) mod naive {
    use super::{Rule, RuleKeys};
    use crate::pubsub::entries::naive::most_specific;

    /// The rule of `topic`: of each key what the most specific of all entries says that match it and set the key.
    pub(crate) fn rule_of(entries: &[(String, RuleKeys)], default: Rule, topic: &str) -> Rule {
        default.with(RuleKeys {
            may_skip: most_specific(entries, topic, |keys| keys.may_skip),
            owed_bytes_max: most_specific(entries, topic, |keys| keys.owed_bytes_max),
            owed_ms_max: most_specific(entries, topic, |keys| keys.owed_ms_max),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        prelude::*,
        test_runner::{Config, RngSeed},
    };

    use super::*;
    use crate::{protocol::topic, pubsub::entries::strategies};

    const DEFAULT: Rule = Rule { may_skip: false, owed_bytes_max: 1, owed_ms_max: NonZeroU32::new(1) };

    fn keys() -> impl Strategy<Value = RuleKeys> {
        (any::<Option<bool>>(), prop::option::of(2u64..9), prop::option::of(0u32..9)).prop_map(
            |(may_skip, owed_bytes_max, owed_ms_max)| RuleKeys { may_skip, owed_bytes_max, owed_ms_max },
        )
    }

    proptest! {
        #![proptest_config(Config {
            cases: 2_000,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(11),
            ..Config::default()
        })]

        #[test]
        fn a_topic_has_of_each_key_what_the_most_specific_entry_says(
            entries in strategies::entries(keys()),
            topic in strategies::topic(),
        ) {
            let policy = Policy::new(9, DEFAULT, entries.clone());
            prop_assert_eq!(policy.rule_of(&topic).0, naive::rule_of(&entries, DEFAULT, &topic));
        }
    }

    /// One key from each of three entries, and the last from none.
    #[test]
    fn a_narrow_entry_need_not_repeat_a_wide_one() {
        let keys = RuleKeys::default();
        let entries = [
            ("#", RuleKeys { may_skip: Some(true), owed_bytes_max: Some(2), ..keys }),
            ("a/#", RuleKeys { owed_bytes_max: Some(3), ..keys }),
            ("a/+/c", RuleKeys { owed_bytes_max: Some(4), ..keys }),
            ("a/b/#", RuleKeys { owed_bytes_max: Some(5), ..keys }),
        ];
        let policy = Policy::new(9, DEFAULT, entries.map(|(filter, keys)| (filter.into(), keys)));
        let rule_of = |topic| policy.rule_of(topic).0;
        let skipping = |owed_bytes_max| Rule { may_skip: true, owed_bytes_max, ..DEFAULT };
        assert_eq!(rule_of("b"), skipping(2));
        assert_eq!(rule_of("a"), skipping(3));
        assert_eq!(rule_of("a/x/c"), skipping(4));
        assert_eq!(rule_of("a/b/c"), skipping(5), "the first level that differs decides, not the last");
        assert_eq!(rule_of("$sys"), DEFAULT, "no wildcard at the first level matches the broker's own");
    }

    /// 0 is any age, not that nothing is said of it; and so it is with topics that do not skip.
    #[test]
    fn an_entry_may_lift_what_a_wider_one_or_the_default_bounds() {
        let ms = |owed_ms_max| RuleKeys { owed_ms_max, ..RuleKeys::default() };
        let entries = [("a/#", ms(Some(7))), ("+/b", ms(Some(0))), ("a/b", ms(Some(0)))];
        let policy = Policy::new(9, DEFAULT, entries.map(|(filter, keys)| (filter.into(), keys)));
        let owed_ms_max = |topic| policy.rule_of(topic).0.owed_ms_max.map(NonZeroU32::get);
        assert_eq!(["c", "c/b", "a/c", "a/b"].map(owed_ms_max), [Some(1), None, Some(7), None]);
        let firm = RuleKeys { may_skip: Some(false), ..RuleKeys::default() };
        let skipping = Policy::new(9, Rule { may_skip: true, ..DEFAULT }, [("a".into(), firm)]);
        assert_eq!(["a", "b"].map(|topic| skipping.rule_of(topic).0.may_skip), [false, true]);
    }

    /// As many entries as there may be, with as many levels, all of which begin as the topic does: a wildcard and the
    /// level itself in every order. Each node is visited once, and told.
    #[test]
    fn a_lookup_visits_no_node_twice_whatever_the_entries() {
        let filter = |entry: u32| {
            let level = |bit: u32| if bit < 8 && entry & (1 << bit) != 0 { "+" } else { "a" };
            (0..topic::TOPIC_LEVELS_MAX as u32).map(level).collect::<Vec<_>>().join("/")
        };
        let entries: Vec<(String, RuleKeys)> =
            (0..256).map(|entry| (filter(entry), RuleKeys::default())).collect();
        let policy = Policy::new(9, DEFAULT, entries);
        let topic = ["a"; topic::TOPIC_LEVELS_MAX].join("/");
        let (rule, visited) = policy.rule_of(&topic);
        assert_eq!((rule, visited as usize), (DEFAULT, policy.entries.node_count()));
        assert_eq!(visited, 511 + 24 * 256);
        assert_eq!(policy.rule_of("b").1, 2, "what matches nothing costs little");
    }

    /// An entry may lift the bound of a wider one, and what is checked how often follows the least.
    #[test]
    fn the_least_age_is_that_of_any_topic() {
        let ms = |owed_ms_max| RuleKeys { owed_ms_max, ..RuleKeys::default() };
        let policy = |default, keys: &[RuleKeys]| {
            let entries = ["a", "b"].map(String::from).into_iter().zip(keys.iter().copied());
            let default = Rule { owed_ms_max: NonZeroU32::new(default), ..DEFAULT };
            Policy::new(9, default, entries).owed_ms_min()
        };
        assert_eq!(policy(0, &[]), None);
        assert_eq!(policy(7, &[]), Some(7));
        assert_eq!(policy(0, &[ms(None), ms(Some(0))]), None);
        assert_eq!(policy(7, &[ms(None), ms(Some(0))]), Some(7));
        assert_eq!(policy(0, &[ms(Some(9)), ms(Some(8))]), Some(8));
    }
}

//! What the operator has set for which topics, and what becomes of subscribers that are too far behind.

use std::num::NonZeroU32;

use super::filter::FilterTree;
use crate::protocol::topic;

/// What holds for which topics.
///
/// Entries may match the same topics: of each key the most specific entry that sets it counts, so a narrow one need not
/// repeat what a wide one says. What a topic comes to is looked up once in a while and kept; a lookup visits the nodes
/// of a tree, however many entries there are.
#[derive(Debug)]
pub struct Policy {
    /// Which one of those that came one after the other.
    generation: u32,
    owed_bytes_max: u64,
    default: Rule,
    /// The most specific first.
    entries: Vec<Keys>,
    /// Their places, by filter.
    places: FilterTree<u32>,
}

/// What an entry sets, or several together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keys {
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
        entries: impl IntoIterator<Item = (String, Keys)>,
    ) -> Policy {
        let mut entries: Vec<(String, Keys)> = entries.into_iter().collect();
        entries.sort_by(|(one, _), (other, _)| topic::by_specificity(one, other));
        let mut places = FilterTree::new();
        for (place, (filter, _)) in (0..).zip(&entries) {
            places.insert(filter, place);
        }
        let entries = entries.into_iter().map(|(_, keys)| keys).collect();
        Policy { generation: 0, owed_bytes_max, default, entries, places }
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
        let mut found = Vec::new();
        let visited = self.places.for_each_match(topic, |place| found.push(place));
        found.sort_unstable();
        let entries = found.into_iter().map(|place| self.entries[place as usize]);
        (self.default.with(entries.fold(Keys::default(), Keys::or)), visited)
    }

    /// The least age that any topic's subscribers are held to, in milliseconds.
    pub fn owed_ms_min(&self) -> Option<u32> {
        let rules = self.entries.iter().map(|keys| self.default.with(*keys));
        rules.chain([self.default]).filter_map(|rule| rule.owed_ms_max).min().map(NonZeroU32::get)
    }
}

impl Keys {
    /// These, and from `wider` what they leave open.
    pub fn or(self, wider: Keys) -> Keys {
        Keys {
            may_skip: self.may_skip.or(wider.may_skip),
            owed_bytes_max: self.owed_bytes_max.or(wider.owed_bytes_max),
            owed_ms_max: self.owed_ms_max.or(wider.owed_ms_max),
        }
    }
}

impl Rule {
    /// This rule where `keys` leave it open.
    pub fn with(self, keys: Keys) -> Rule {
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
    use super::{Keys, Rule, topic};

    /// The rule of `topic`: of each key what the most specific of all entries says that match it and set the key.
    pub(crate) fn rule_of(entries: &[(String, Keys)], default: Rule, topic: &str) -> Rule {
        fn most_specific<T>(
            entries: &[(String, Keys)],
            topic: &str,
            value: impl Fn(&Keys) -> Option<T>,
        ) -> Option<T> {
            let matching = entries.iter().filter(|(filter, _)| topic::matches(filter, topic));
            let setting = matching.filter_map(|(filter, keys)| Some((filter, value(keys)?)));
            setting.min_by_key(|(filter, _)| levels(filter)).map(|(_, value)| value)
        }
        default.with(Keys {
            may_skip: most_specific(entries, topic, |keys| keys.may_skip),
            owed_bytes_max: most_specific(entries, topic, |keys| keys.owed_bytes_max),
            owed_ms_max: most_specific(entries, topic, |keys| keys.owed_ms_max),
        })
    }

    /// What filters of the same topic are compared by, the least being the most specific: 1 where a level is literal,
    /// or there is none up to the most that there may be, 2 where it is `+`, 3 where it is `#`.
    fn levels(filter: &str) -> Vec<u8> {
        let mut levels: Vec<u8> = filter
            .split('/')
            .map(|level| match level {
                "+" => 2,
                "#" => 3,
                _ => 1,
            })
            .collect();
        levels.resize(topic::TOPIC_LEVELS_MAX, 1);
        levels
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{
        prelude::*,
        test_runner::{Config, RngSeed},
    };

    use super::*;

    const DEFAULT: Rule = Rule { may_skip: false, owed_bytes_max: 1, owed_ms_max: NonZeroU32::new(1) };

    /// Of few levels, so that filters meet, and sometimes of the broker's own.
    fn levels() -> impl Strategy<Value = Vec<&'static str>> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "", "$c"]), 1..4)
    }

    fn filter() -> impl Strategy<Value = String> {
        (levels(), prop::collection::vec(prop::option::weighted(0.6, Just(())), 4), 0..3).prop_map(
            |(levels, literal, end)| {
                let levels = levels.into_iter().zip(literal);
                let mut levels: Vec<&str> = levels
                    .map(|(level, is_literal)| if is_literal.is_some() { level } else { "+" })
                    .collect();
                match end {
                    0 => levels.push("#"),
                    1 => *levels.last_mut().expect("one level at least") = "#",
                    _ => {}
                }
                levels.join("/")
            },
        )
    }

    fn keys() -> impl Strategy<Value = Keys> {
        (any::<Option<bool>>(), prop::option::of(2u64..9), prop::option::of(0u32..9)).prop_map(
            |(may_skip, owed_bytes_max, owed_ms_max)| Keys { may_skip, owed_bytes_max, owed_ms_max },
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
            entries in prop::collection::vec((filter(), keys()), 0..12),
            topic in levels(),
        ) {
            // An empty name is none.
            let topic = if topic == [""] { "a".into() } else { topic.join("/") };
            let entries: Vec<(String, Keys)> =
                entries.into_iter().filter(|(filter, _)| !filter.is_empty()).collect::<BTreeMap<_, _>>().into_iter().collect();
            let policy = Policy::new(9, DEFAULT, entries.clone());
            prop_assert_eq!(policy.rule_of(&topic).0, naive::rule_of(&entries, DEFAULT, &topic));
        }
    }

    /// One key from each of three entries, and the last from none.
    #[test]
    fn a_narrow_entry_need_not_repeat_a_wide_one() {
        let keys = Keys::default();
        let entries = [
            ("#", Keys { may_skip: Some(true), owed_bytes_max: Some(2), ..keys }),
            ("a/#", Keys { owed_bytes_max: Some(3), ..keys }),
            ("a/+/c", Keys { owed_bytes_max: Some(4), ..keys }),
            ("a/b/#", Keys { owed_bytes_max: Some(5), ..keys }),
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
        let ms = |owed_ms_max| Keys { owed_ms_max, ..Keys::default() };
        let entries = [("a/#", ms(Some(7))), ("+/b", ms(Some(0))), ("a/b", ms(Some(0)))];
        let policy = Policy::new(9, DEFAULT, entries.map(|(filter, keys)| (filter.into(), keys)));
        let owed_ms_max = |topic| policy.rule_of(topic).0.owed_ms_max.map(NonZeroU32::get);
        assert_eq!(["c", "c/b", "a/c", "a/b"].map(owed_ms_max), [Some(1), None, Some(7), None]);
        let firm = Keys { may_skip: Some(false), ..Keys::default() };
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
        let entries: Vec<(String, Keys)> = (0..256).map(|entry| (filter(entry), Keys::default())).collect();
        let policy = Policy::new(9, DEFAULT, entries);
        let topic = ["a"; topic::TOPIC_LEVELS_MAX].join("/");
        let (rule, visited) = policy.rule_of(&topic);
        assert_eq!((rule, visited as usize), (DEFAULT, policy.places.node_count()));
        assert_eq!(visited, 511 + 24 * 256);
        assert_eq!(policy.rule_of("b").1, 2, "what matches nothing costs little");
    }

    /// An entry may lift the bound of a wider one, and what is checked how often follows the least.
    #[test]
    fn the_least_age_is_that_of_any_topic() {
        let ms = |owed_ms_max| Keys { owed_ms_max, ..Keys::default() };
        let policy = |default, keys: &[Keys]| {
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

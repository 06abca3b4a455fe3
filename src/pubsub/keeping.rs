//! What the operator has set for which topics to be kept, and to be written into their messages.

use std::num::NonZeroU32;

use super::entries::{Entries, Keys};
use crate::protocol::{
    Format,
    publication::{LastValue, Stamps},
    topic,
};

/// Which topics keep their past, and how much of it, and which stamp their messages: of each key what the most specific
/// entry says that sets it.
#[derive(Debug)]
pub struct Keeping {
    /// Which one of those that came one after the other.
    generation: u16,
    sets_any: bool,
    keeps_values: bool,
    stamps_users: bool,
    refuses_anonymous: bool,
    value_keys_max: usize,
    /// Those that set something.
    entries: Entries<KeepKeys>,
}

/// What an entry sets of what a topic keeps and stamps, or several together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeepKeys {
    /// See [`Keep::count_max`]; with 0 nothing is kept but a value, whatever is said of bytes and age.
    pub count: Option<u64>,
    /// See [`Keep::bytes_max`].
    pub bytes: Option<u64>,
    /// See [`Keep::ms_max`].
    pub ms: Option<NonZeroU32>,
    /// See [`Keep::format`]; by itself it keeps nothing.
    pub format: Option<Format>,
    /// What is written into its messages; what is kept of them has it as well.
    pub stamps: Option<Stamps>,
    /// Whether somebody without a name may publish to them.
    pub anonymous: Option<bool>,
    /// See [`Keep::last_value`].
    pub last_value: Option<LastValue>,
    /// See [`Keep::retain`].
    pub retain: Option<bool>,
}

/// How much of its past a topic keeps: the newest publications that are within each of these bounds; and whether it has a
/// *value*, which is kept whatever its age, or one for each key, and which new subscribers are sent first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    /// So many publications; 0 of a topic that keeps nothing but its value.
    pub count_max: u64,
    /// So many bytes of them, as they are kept.
    pub bytes_max: u64,
    /// Of this age, in milliseconds; of any if there is none.
    pub ms_max: Option<NonZeroU32>,
    /// The form in which they are kept, if it does not go by who is there.
    pub format: Option<Format>,
    /// What its values are.
    pub last_value: LastValue,
    /// Its value is what its publishers say. Where that is the newest publication it is without effect, and where there is one
    /// of each key they say that there is none any more.
    pub retain: bool,
}

impl Keeping {
    /// What `entries` set for the topics that their filters match, no two of which are the same.
    pub fn new(entries: impl IntoIterator<Item = (String, KeepKeys)>) -> Keeping {
        let nothing = KeepKeys::default();
        let entries = Entries::new(entries.into_iter().filter(|(_, keys)| *keys != nothing));
        // Where a topic keeps or stamps something, one of the entries that it goes by would by itself.
        let sets_any =
            entries.iter().any(|(_, keys)| keys.keep().is_some() || keys.stamps() != Stamps::default());
        let keeps_values = entries.iter().any(|(_, keys)| keys.keeps_value());
        let stamps_users = entries.iter().any(|(_, keys)| keys.stamps().user);
        let refuses_anonymous = entries.iter().any(|(_, keys)| !keys.takes_anonymous());
        Keeping {
            generation: 1,
            sets_any,
            keeps_values,
            stamps_users,
            refuses_anonymous,
            value_keys_max: usize::MAX,
            entries,
        }
    }

    /// The same where each topic has values of so many keys at most.
    pub fn with_value_keys_max(self, value_keys_max: usize) -> Keeping {
        Keeping { value_keys_max, ..self }
    }

    /// Of how many keys a topic has a value at most.
    pub fn value_keys_max(&self) -> usize {
        self.value_keys_max
    }

    /// The same in place of `previous`: whoever holds what a topic kept by that one can see that it is old.
    pub fn after(self, previous: &Keeping) -> Keeping {
        Keeping { generation: previous.generation.checked_add(1).unwrap_or(1), ..self }
    }

    /// What [`Keeping::keys_of`] tells is of this generation, which is never 0.
    pub fn generation(&self) -> u16 {
        self.generation
    }

    /// Whether there may be a topic that keeps or stamps something; if not, nobody need look.
    pub fn sets_any(&self) -> bool {
        self.sets_any
    }

    /// Whether there may be a topic that has a value; if not, nobody need look.
    pub fn keeps_values(&self) -> bool {
        self.keeps_values
    }

    /// Whether there may be a topic whose messages say who published them; if not, nobody need tell.
    #[inline]
    pub fn stamps_users(&self) -> bool {
        self.stamps_users
    }

    /// Whether there may be a topic to which nobody publishes without a name; if not, nobody need look.
    #[inline]
    pub fn refuses_anonymous(&self) -> bool {
        self.refuses_anonymous
    }

    /// Whether every topic that `filter` matches is known to keep something; and how many entries that took to find. There may be
    /// sets of entries of which that is so and it is not seen: many narrow ones in place of a wide one.
    pub fn keeps_all(&self, filter: &str) -> (bool, usize) {
        let covers = |(entry, _): &(&str, KeepKeys)| topic::covers(entry, filter);
        let has_bound = self
            .entries
            .iter()
            .filter(covers)
            .any(|(_, keys)| keys.count > Some(0) || KeepKeys { count: None, ..keys }.has_history());
        // An entry that turns it off counts unless a more specific one that says otherwise covers all of the filter.
        let overlapping =
            self.entries.iter().filter(|(entry, keys)| keys.count.is_some() && topic::overlap(entry, filter));
        let until_covered = overlapping.scan(false, |is_covered, (entry, keys)| {
            let is_first = !std::mem::replace(is_covered, *is_covered || topic::covers(entry, filter));
            is_first.then_some(keys)
        });
        let is_off = until_covered.into_iter().any(|keys| keys.count == Some(0));
        (has_bound && !is_off, 2 * self.entries.iter().count())
    }

    /// What is set for `topic`, and how many nodes were visited to find it.
    pub fn keys_of(&self, topic: &str) -> (KeepKeys, u32) {
        self.entries.keys_of(topic)
    }
}

impl KeepKeys {
    /// What is written into the messages of a topic for which these are all that is set.
    pub fn stamps(&self) -> Stamps {
        self.stamps.unwrap_or_default()
    }

    /// Whether whoever has no name may publish to a topic for which these are all that is set.
    pub fn takes_anonymous(&self) -> bool {
        self.anonymous != Some(false)
    }

    /// What a topic keeps for which these are all that is set.
    pub fn keep(&self) -> Option<Keep> {
        let is_bounded = self.count.is_some() || self.bytes.is_some() || self.ms.is_some();
        let count_max = self.count.unwrap_or(if is_bounded { u64::MAX } else { 0 });
        (count_max > 0 || self.keeps_value()).then(|| Keep {
            count_max,
            bytes_max: self.bytes.unwrap_or(u64::MAX),
            ms_max: self.ms,
            format: self.format,
            last_value: self.last_value.clone().unwrap_or_default(),
            retain: self.retain == Some(true),
        })
    }

    /// Whether such a topic keeps something of its past but its value.
    fn has_history(&self) -> bool {
        self.keep().is_some_and(|keep| keep.has_history())
    }

    /// Whether such a topic has a value.
    fn keeps_value(&self) -> bool {
        self.last_value.as_ref().is_some_and(|it| *it != LastValue::Nothing) || self.retain == Some(true)
    }
}

impl Keys for KeepKeys {
    fn or(self, wider: KeepKeys) -> KeepKeys {
        KeepKeys {
            count: self.count.or(wider.count),
            bytes: self.bytes.or(wider.bytes),
            ms: self.ms.or(wider.ms),
            format: self.format.or(wider.format),
            stamps: self.stamps.or(wider.stamps),
            anonymous: self.anonymous.or(wider.anonymous),
            last_value: self.last_value.or(wider.last_value),
            retain: self.retain.or(wider.retain),
        }
    }
}

impl Keep {
    /// Whether it is kept for what came of a topic lately, and not for its value alone.
    pub fn has_history(&self) -> bool {
        self.count_max > 0
    }

    /// Whether there may be values.
    pub fn has_values(&self) -> bool {
        self.retain || self.last_value != LastValue::Nothing
    }

    /// Whether the newest publication is the value.
    pub fn is_newest_value(&self) -> bool {
        self.last_value == LastValue::Newest
    }
}

/// The definition, entry by entry.
#[cfg(any(test, fuzzing))]
pub(crate) mod naive {
    use super::{Keep, KeepKeys, LastValue};
    use crate::{protocol::publication::Stamps, pubsub::entries::naive::most_specific};

    /// What `topic` keeps: each bound is what the most specific of all entries says that match it and set the key. It
    /// keeps nothing if it has no bound, or may keep 0 publications, and has no value.
    pub(crate) fn keep_of(entries: &[(String, KeepKeys)], topic: &str) -> Option<Keep> {
        let count = most_specific(entries, topic, |keys| keys.count);
        let bytes = most_specific(entries, topic, |keys| keys.bytes);
        let ms_max = most_specific(entries, topic, |keys| keys.ms);
        let format = most_specific(entries, topic, |keys| keys.format);
        let last_value = most_specific(entries, topic, |keys| keys.last_value.clone()).unwrap_or_default();
        let retain = most_specific(entries, topic, |keys| keys.retain).unwrap_or(false);
        let has_values = last_value != LastValue::Nothing || retain;
        let keep = |count_max| Keep {
            count_max,
            bytes_max: bytes.unwrap_or(u64::MAX),
            ms_max,
            format,
            last_value,
            retain,
        };
        match (count, bytes, ms_max) {
            (Some(0), _, _) | (None, None, None) => has_values.then(|| keep(0)),
            _ => Some(keep(count.unwrap_or(u64::MAX))),
        }
    }

    /// What is written into the messages of `topic`: what the most specific of all entries says that match it and say
    /// anything of it.
    pub(crate) fn stamps_of(entries: &[(String, KeepKeys)], topic: &str) -> Stamps {
        most_specific(entries, topic, |keys| keys.stamps).unwrap_or_default()
    }

    /// Whether whoever has no name may publish to `topic`: likewise.
    pub(crate) fn takes_anonymous(entries: &[(String, KeepKeys)], topic: &str) -> bool {
        most_specific(entries, topic, |keys| keys.anonymous).unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::{
        prelude::*,
        test_runner::{Config, RngSeed},
    };

    use super::*;
    use crate::{protocol::json::Pointer, pubsub::entries::strategies};

    const NOTHING: KeepKeys = KeepKeys {
        count: None,
        bytes: None,
        ms: None,
        format: None,
        stamps: None,
        anonymous: None,
        last_value: None,
        retain: None,
    };

    /// Of a topic that has no value either it is nothing.
    const VALUE_ALONE: Keep = Keep {
        count_max: 0,
        bytes_max: u64::MAX,
        ms_max: None,
        format: None,
        last_value: LastValue::Nothing,
        retain: false,
    };

    fn keys() -> impl Strategy<Value = KeepKeys> {
        let format = prop::option::of(prop::sample::select(Format::ALL.to_vec()));
        let ms = prop::option::weighted(0.3, 1u32..9);
        let bounds = (prop::option::weighted(0.3, 0u64..3), prop::option::weighted(0.3, 1u64..9), ms);
        let is_so = || prop::option::weighted(0.3, any::<bool>());
        let last_value =
            prop::sample::select(vec![LastValue::Nothing, LastValue::Newest, per_key("/a"), per_key("/b")]);
        let stamps = prop::option::weighted(0.3, any::<(bool, bool)>());
        let values = (prop::option::weighted(0.3, last_value), is_so());
        (bounds, format, (stamps, is_so()), values).prop_map(
            |((count, bytes, ms), format, (stamps, anonymous), (last_value, retain))| KeepKeys {
                count,
                bytes,
                ms: ms.and_then(NonZeroU32::new),
                format,
                stamps: stamps.map(|(user, time)| Stamps { user, time }),
                anonymous,
                last_value,
                retain,
            },
        )
    }

    fn per_key(pointer: &str) -> LastValue {
        LastValue::PerKey(Arc::new(Pointer::parse(pointer).expect("a pointer")))
    }

    fn keep_of(keeping: &Keeping, topic: &str) -> Option<Keep> {
        keeping.keys_of(topic).0.keep()
    }

    fn keeping(entries: &[(&str, KeepKeys)]) -> Keeping {
        Keeping::new(entries.iter().map(|(filter, keys)| ((*filter).into(), keys.clone())))
    }

    proptest! {
        #![proptest_config(Config {
            cases: 2_000,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(12),
            ..Config::default()
        })]

        #[test]
        fn a_topic_keeps_and_stamps_what_the_most_specific_entry_says_of_each_key(
            entries in strategies::entries(keys()),
            topic in strategies::topic(),
        ) {
            let keeping = Keeping::new(entries.clone());
            let keys = keeping.keys_of(&topic).0;
            let (keep, stamps) = (keys.keep(), keys.stamps());
            prop_assert_eq!(&keep, &naive::keep_of(&entries, &topic));
            prop_assert_eq!(stamps, naive::stamps_of(&entries, &topic));
            prop_assert!(!stamps.user || keeping.stamps_users());
            let takes_anonymous = keys.takes_anonymous();
            prop_assert_eq!(takes_anonymous, naive::takes_anonymous(&entries, &topic));
            prop_assert!(takes_anonymous || keeping.refuses_anonymous());
            let is_nothing = keep.is_none() && stamps == Stamps::default();
            prop_assert!(is_nothing || keeping.sets_any(), "whoever is told so does not look");
            let has_value = keep.is_some_and(|keep| keep.has_values());
            prop_assert!(!has_value || keeping.keeps_values(), "whoever is told so does not look");
        }
    }

    /// What is not said is the largest there is; the form alone is no bound.
    #[test]
    fn one_bound_is_enough_to_keep_and_the_form_is_none() {
        let keep = Keep { count_max: u64::MAX, ..VALUE_ALONE };
        let ms = NonZeroU32::new(5);
        for (keys, expected) in [
            (KeepKeys { count: Some(5), ..NOTHING }, Some(Keep { count_max: 5, ..keep.clone() })),
            (KeepKeys { bytes: Some(5), ..NOTHING }, Some(Keep { bytes_max: 5, ..keep.clone() })),
            (KeepKeys { ms, ..NOTHING }, Some(Keep { ms_max: ms, ..keep })),
            (KeepKeys { format: Some(Format::Json), ..NOTHING }, None),
            (NOTHING, None),
        ] {
            let keeping = keeping(&[("a/+", keys.clone())]);
            assert_eq!(keep_of(&keeping, "a/b"), expected, "{keys:?}");
            assert_eq!(keep_of(&keeping, "a"), None, "{keys:?}");
            assert_eq!(keeping.sets_any(), expected.is_some(), "{keys:?}");
        }
    }

    /// A wide entry keeps; of what it matches one part keeps nothing, and in that another keeps again: a bound of another
    /// kind does not bring it back, a count does, and then the wide entry's other bounds are there as well.
    #[test]
    fn a_count_of_0_keeps_nothing_until_a_narrower_entry_counts() {
        let ms = NonZeroU32::new(7);
        let keeping = keeping(&[
            ("#", KeepKeys { count: Some(100), bytes: Some(9), format: Some(Format::Binary), ..NOTHING }),
            ("a/#", KeepKeys { count: Some(0), ..NOTHING }),
            ("a/b/#", KeepKeys { ms, ..NOTHING }),
            ("a/b/c", KeepKeys { count: Some(2), ..NOTHING }),
        ]);
        let wide = Keep { count_max: 100, bytes_max: 9, format: Some(Format::Binary), ..VALUE_ALONE };
        assert_eq!(keep_of(&keeping, "b").as_ref(), Some(&wide));
        assert_eq!(keep_of(&keeping, "a/x"), None);
        assert_eq!(keep_of(&keeping, "a/b/x"), None, "0 holds whatever else is said");
        assert_eq!(keep_of(&keeping, "a/b/c"), Some(Keep { count_max: 2, ms_max: ms, ..wide }));
        assert_eq!(
            keep_of(&keeping, "$sys"),
            None,
            "no wildcard at the first level matches the broker's own"
        );
    }

    /// A topic that keeps nothing may stamp, and one that keeps something not.
    #[test]
    fn a_narrower_entry_may_stamp_and_stop_stamping() {
        let (time, none) = (Some(Stamps { time: true, user: false }), Some(Stamps::default()));
        let keeping = keeping(&[
            ("a/#", KeepKeys { stamps: time, ..NOTHING }),
            ("a/b/#", KeepKeys { stamps: none, ..NOTHING }),
            ("a/b/c", KeepKeys { count: Some(1), ..NOTHING }),
            ("a/b/+", KeepKeys { stamps: time, ..NOTHING }),
        ]);
        assert!(keeping.sets_any());
        let stamps_time = |topic| keeping.keys_of(topic).0.stamps().time;
        let topics = ["x", "a", "a/b", "a/b/c", "a/b/c/d"];
        assert_eq!(topics.map(stamps_time), [false, true, false, true, false]);
        assert_eq!(keep_of(&keeping, "a"), None);
    }

    /// What says that it has one counts whatever is said of its history, and the other way round.
    #[test]
    fn a_topic_may_have_a_value_and_no_history() {
        let keeping = keeping(&[
            ("#", KeepKeys { last_value: Some(LastValue::Newest), ..NOTHING }),
            ("a/#", KeepKeys { count: Some(0), bytes: Some(9), ..NOTHING }),
            ("a/b/#", KeepKeys { last_value: Some(LastValue::Nothing), ..NOTHING }),
            ("a/b/c/#", KeepKeys { retain: Some(true), count: Some(2), ..NOTHING }),
            ("a/b/c/d", KeepKeys { retain: Some(false), ..NOTHING }),
        ]);
        let value = Keep { last_value: LastValue::Newest, ..VALUE_ALONE };
        assert!(keeping.keeps_values());
        assert_eq!(keep_of(&keeping, "b").as_ref(), Some(&value));
        assert_eq!(keep_of(&keeping, "a"), Some(Keep { bytes_max: 9, ..value }));
        assert_eq!(keep_of(&keeping, "a/b"), None);
        let retained = Keep { retain: true, bytes_max: 9, count_max: 2, ..VALUE_ALONE };
        assert_eq!(keep_of(&keeping, "a/b/c").as_ref(), Some(&retained));
        assert_eq!(keep_of(&keeping, "a/b/c/d"), Some(Keep { retain: false, ..retained }));
        let none = [("a", KeepKeys { last_value: Some(LastValue::Nothing), retain: Some(false), ..NOTHING })];
        assert!(!super::Keeping::new(none.map(|(filter, keys)| (filter.into(), keys))).keeps_values());
    }

    /// An entry of another kind is not among those that are looked through.
    #[test]
    fn entries_that_set_nothing_cost_nothing() {
        let no_stamps = KeepKeys { stamps: Some(Stamps::default()), ..NOTHING };
        let nothing_kept = KeepKeys { count: Some(0), ..NOTHING };
        let keeping = keeping(&[("a/b/c/#", NOTHING), ("a/b", nothing_kept), ("a/c", no_stamps)]);
        assert!(!keeping.sets_any() && !keeping.stamps_users() && !keeping.refuses_anonymous());
        assert_eq!(keeping.entries.node_count(), 4);
        assert_eq!(Keeping::new([]).keys_of("a/b/c"), (NOTHING, 0));
    }

    #[test]
    fn each_is_of_another_generation_than_the_one_before() {
        let (first, last) = (Keeping::new([]), Keeping { generation: u16::MAX, ..Keeping::new([]) });
        assert_eq!(first.generation(), 1);
        assert_eq!(Keeping::new([]).after(&first).generation(), 2);
        assert_eq!(Keeping::new([]).after(&last).generation(), 1, "0 is nobody's");
    }
}

//! Publications that a home knows by a key of their publisher's, so that none is published twice.
//!
//! What is remembered of one is a fingerprint of its topic, its publisher and its key, and its `seq`: as much whatever the two are, and
//! whether the topic is still there or not. No `seq` is used twice, so it is still that publication's when its topic has
//! gone and come back.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    num::NonZeroU32,
};

use super::entries::{Entries, Keys};

/// How many of those that are over go when one comes: more than come, so that they do not become more.
const FORGOTTEN_PER_KEY: usize = 2;

/// The publications that are remembered, each until its window is over or it has to make room.
///
/// Both tables are trees: none ever moves all that it holds, and strangers cannot fill a bucket.
#[derive(Debug)]
pub struct Keyed {
    hasher: RandomState,
    count_max: usize,
    publications: BTreeMap<Fingerprint, Remembered>,
    /// When each of them is over, the first first.
    ends: BTreeMap<End, Fingerprint>,
    /// Of the next, to tell those apart that are over at the same time.
    serial: u32,
}

/// What stands for a topic, a publisher and a key: 128 bits of a keyed hash whose key nobody knows, so that nobody finds two that are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint([u64; 2]);

/// A key of a publisher's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key<'a> {
    /// Whose it is; none is whoever has no name, and all of these have their keys in common.
    pub scope: Option<Scope>,
    /// What the publisher gave.
    pub bytes: &'a [u8],
}

/// What stands for somebody with a name: the same on all reactors, and nobody finds two that are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scope(pub [u8; 16]);

/// Makes scopes: of this start, whose secret each reactor has a copy of.
#[derive(Clone, Debug, Default)]
pub struct Scopes(RandomState);

impl Scopes {
    /// What stands for the user of this name of the issuer of that one; none are those who bring a static token.
    pub fn of(&self, issuer: Option<&str>, user: &str) -> Scope {
        let [first, second] = [0u8, 1].map(|half| self.0.hash_one((half, issuer, user)).to_ne_bytes());
        let mut scope = [0; 16];
        scope[..8].copy_from_slice(&first);
        scope[8..].copy_from_slice(&second);
        Scope(scope)
    }
}

/// When a publication is over, in milliseconds, and which one it was.
type End = (u64, u32);

#[derive(Debug)]
struct Remembered {
    seq: u64,
    end: End,
    window_ms: u32,
}

/// For how long the publications of which topics are remembered: what the most specific entry says that matches.
#[derive(Debug)]
pub struct KeyWindows {
    /// Of topics of which no entry says another; 0 is not at all.
    default_ms: u32,
    entries: Entries<Window>,
}

/// What an entry sets, in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Window(Option<u32>);

impl Keys for Window {
    fn or(self, wider: Window) -> Window {
        Window(self.0.or(wider.0))
    }
}

impl KeyWindows {
    /// What `entries` set for the topics that their filters match, in milliseconds; `default_ms` is for the others, and 0 is
    /// not at all.
    pub fn new(default_ms: u32, entries: impl IntoIterator<Item = (String, u32)>) -> KeyWindows {
        let entries = entries.into_iter().map(|(filter, ms)| (filter, Window(Some(ms))));
        KeyWindows { default_ms, entries: Entries::new(entries) }
    }

    /// For how long publications of `topic` are remembered, in milliseconds, if they are; and how many nodes were visited to
    /// find that.
    pub fn window_of(&self, topic: &str) -> (Option<NonZeroU32>, u32) {
        let (Window(ms), visited) = self.entries.keys_of(topic);
        (NonZeroU32::new(ms.unwrap_or(self.default_ms)), visited)
    }

    /// The same of topics of which nothing else is said; 0 is not at all.
    pub fn default_ms(&self) -> u32 {
        self.default_ms
    }
}

impl Keyed {
    /// None yet, and at most `count_max`.
    pub fn new(count_max: usize) -> Keyed {
        Keyed {
            hasher: RandomState::new(),
            count_max,
            publications: BTreeMap::new(),
            ends: BTreeMap::new(),
            serial: 0,
        }
    }

    /// From now on so many are remembered at most. Those that are too many go as others come and by [`Keyed::forget`].
    pub fn set_count_max(&mut self, count_max: usize) {
        self.count_max = count_max;
    }

    /// What stands for `key` in `topic`.
    pub fn fingerprint(&self, topic: &str, key: Key<'_>) -> Fingerprint {
        let Key { scope, bytes } = key;
        Fingerprint([0u8, 1].map(|half| self.hasher.hash_one((half, topic, scope, bytes))))
    }

    /// The `seq` of the publication, if it is remembered and not over.
    pub fn seq_of(&self, fingerprint: Fingerprint, now_ms: u64) -> Option<u64> {
        let remembered = self.publications.get(&fingerprint)?;
        (remembered.end.0 > now_ms).then_some(remembered.seq)
    }

    /// Remembers a publication that was given its `seq`, for so long. If they are too many, the one goes that is over first.
    pub fn remember(&mut self, fingerprint: Fingerprint, seq: u64, window_ms: NonZeroU32, now_ms: u64) {
        self.forget_for(1, FORGOTTEN_PER_KEY, now_ms);
        let end = (now_ms + u64::from(window_ms.get()), self.serial);
        self.serial = self.serial.wrapping_add(1);
        let remembered = Remembered { seq, end, window_ms: window_ms.get() };
        if let Some(before) = self.publications.insert(fingerprint, remembered) {
            self.ends.remove(&before.end);
        }
        self.ends.insert(end, fingerprint);
    }

    /// Forgets those that are over or too many, `count_max` at most; tells how many these were.
    pub fn forget(&mut self, count_max: usize, now_ms: u64) -> usize {
        self.forget_for(0, count_max, now_ms)
    }

    /// The same where so many more are to come.
    fn forget_for(&mut self, coming: usize, count_max: usize, now_ms: u64) -> usize {
        for count in 0..count_max {
            let is_too_many = self.len() + coming > self.count_max;
            let first = self.ends.first_entry().filter(|first| is_too_many || first.key().0 <= now_ms);
            let Some(first) = first else { return count };
            self.publications.remove(&first.remove());
        }
        count_max
    }

    /// How many are remembered, those included that are over and not forgotten yet.
    pub fn len(&self) -> usize {
        self.publications.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.publications.is_empty()
    }

    /// For how long a publication is remembered where the next has to make room for another, in milliseconds; none as long as
    /// there is room.
    pub fn room_ms(&self, now_ms: u64) -> Option<u64> {
        let first = self.ends.values().next().filter(|_| self.len() >= self.count_max)?;
        let Remembered { end: (end_ms, _), window_ms, .. } = self.publications[first];
        let left_ms = end_ms.saturating_sub(now_ms);
        Some(u64::from(window_ms) - left_ms)
    }

    /// Asserts the invariants; for tests and simulations.
    pub fn check(&self) {
        assert_eq!(self.publications.len(), self.ends.len(), "each is over once");
        for (end, fingerprint) in &self.ends {
            let remembered = &self.publications[fingerprint];
            assert_eq!(remembered.end, *end, "each is listed by when it is over");
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
    use crate::pubsub::entries::{naive::most_specific, strategies};

    const TOPICS: [&str; 3] = ["a", "ab", "b"];
    const KEYS: [&[u8]; 4] = [b"b", b"bb", b"", b"\xff\0"];

    fn anonymous(bytes: &[u8]) -> Key<'_> {
        Key { scope: None, bytes }
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// Of this topic, by this key, in this window.
        Publish(usize, usize, u32),
        Pass(u64),
        Forget(usize),
        CountMax(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..TOPICS.len(), 0..KEYS.len(), prop::sample::select(vec![1, 10, 100]))
                .prop_map(|(topic, key, window_ms)| Step::Publish(topic, key, window_ms)),
            4 => (0u64..8).prop_map(Step::Pass),
            1 => (0usize..4).prop_map(Step::Forget),
            1 => (1usize..9).prop_map(Step::CountMax),
        ]
    }

    /// The naive twin: a list of all that is remembered, from which what is over goes at once.
    #[derive(Default)]
    struct Twin {
        /// Topic, key, `seq`, when it is over and for how long it is remembered.
        list: Vec<(usize, usize, u64, u64, u32)>,
    }

    impl Twin {
        fn seq_of(&self, topic: usize, key: usize) -> Option<u64> {
            let found = self.list.iter().find(|it| (it.0, it.1) == (topic, key));
            found.map(|(_, _, seq, ..)| *seq)
        }

        fn pass(&mut self, now_ms: u64) {
            self.list.retain(|it| it.3 > now_ms);
        }

        /// Those go that are over first, of several the one that came first.
        fn cut(&mut self, count_max: usize) {
            while self.list.len() > count_max {
                let first = self.list.iter().map(|it| it.3).min();
                let place = self.list.iter().position(|it| Some(it.3) == first).expect("there is one");
                self.list.remove(place);
            }
        }
    }

    proptest! {
        #![proptest_config(Config {
            cases: 2_000,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(17),
            ..Config::default()
        })]

        #[test]
        fn what_is_remembered_is_what_a_list_would_hold(
            count_max in 1usize..9,
            steps in prop::collection::vec(step(), 0..120),
        ) {
            let (mut keyed, mut twin) = (Keyed::new(count_max), Twin::default());
            let (mut now_ms, mut count_max, mut seq) = (u64::from(u32::MAX) - 50, count_max, 0);
            for step in steps {
                match step {
                    Step::Publish(topic, key, window_ms) => {
                        let fingerprint = keyed.fingerprint(TOPICS[topic], anonymous(KEYS[key]));
                        let before = keyed.seq_of(fingerprint, now_ms);
                        prop_assert_eq!(before, twin.seq_of(topic, key));
                        if before.is_none() {
                            seq += 1;
                            let window = NonZeroU32::new(window_ms).expect("none is 0");
                            keyed.remember(fingerprint, seq, window, now_ms);
                            twin.cut(count_max - 1);
                            twin.list.push((topic, key, seq, now_ms + u64::from(window_ms), window_ms));
                        }
                    }
                    Step::Pass(ms) => {
                        now_ms += ms;
                        twin.pass(now_ms);
                    }
                    Step::Forget(count) => {
                        let before = keyed.len();
                        let forgotten = keyed.forget(count, now_ms);
                        prop_assert!(forgotten <= count && keyed.len() == before - forgotten);
                        prop_assert!(forgotten == count || keyed.len() == twin.list.len());
                    }
                    Step::CountMax(new) => {
                        count_max = new;
                        keyed.set_count_max(new);
                        while keyed.forget(1, now_ms) > 0 {}
                        twin.cut(new);
                    }
                }
                keyed.check();
                prop_assert!(keyed.len() <= count_max, "it is bounded");
                prop_assert!(keyed.len() >= twin.list.len());
                for (topic, key) in (0..TOPICS.len()).flat_map(|topic| (0..KEYS.len()).map(move |key| (topic, key))) {
                    let fingerprint = keyed.fingerprint(TOPICS[topic], anonymous(KEYS[key]));
                    prop_assert_eq!(keyed.seq_of(fingerprint, now_ms), twin.seq_of(topic, key));
                }
                if twin.list.len() == count_max {
                    let first = twin.list.iter().min_by_key(|it| it.3).expect("one at least");
                    let age_ms = now_ms + u64::from(first.4) - first.3;
                    prop_assert_eq!(keyed.room_ms(now_ms), Some(age_ms));
                }
            }
        }

        #[test]
        fn a_topic_has_the_window_of_the_most_specific_entry(
            entries in strategies::entries(0u32..4),
            topic in strategies::topic(),
        ) {
            let expected = most_specific(&entries, &topic, |ms| Some(*ms)).unwrap_or(9);
            let windows = KeyWindows::new(9, entries);
            prop_assert_eq!(windows.window_of(&topic).0, NonZeroU32::new(expected));
        }
    }

    /// However many are over, one that comes forgets no more than two; and none is told of that is over.
    #[test]
    fn what_is_over_goes_a_few_at_a_time() {
        let mut keyed = Keyed::new(1_000);
        let window = NonZeroU32::new(10).expect("not 0");
        let fingerprints: Vec<_> = (0u8..100).map(|key| keyed.fingerprint("t", anonymous(&[key]))).collect();
        for (seq, fingerprint) in (1..).zip(&fingerprints) {
            keyed.remember(*fingerprint, seq, window, 0);
        }
        assert_eq!((keyed.len(), keyed.seq_of(fingerprints[99], 9)), (100, Some(100)));
        assert_eq!((keyed.seq_of(fingerprints[99], 10), keyed.room_ms(9)), (None, None));
        keyed.remember(fingerprints[99], 101, window, 10);
        assert_eq!((keyed.len(), keyed.seq_of(fingerprints[99], 10)), (98, Some(101)));
        assert_eq!((keyed.forget(50, 10), keyed.forget(50, 10), keyed.len()), (50, 47, 1));
        assert_eq!((keyed.forget(50, 20), keyed.is_empty()), (1, true));
    }

    /// Where a topic ends and a key begins is told apart, and so is the same key in two topics, or of two publishers.
    #[test]
    fn fingerprints_are_of_topic_publisher_and_key() {
        let (keyed, scopes) = (Keyed::new(1), Scopes::default());
        let of = |topic: &str, key: &str| keyed.fingerprint(topic, anonymous(key.as_bytes()));
        let of_user = |issuer: Option<&str>, user: &str, key: &str| {
            let scope = Some(scopes.clone().of(issuer, user));
            keyed.fingerprint("a", Key { scope, bytes: key.as_bytes() })
        };
        assert_eq!(of("a", "b"), of("a", "b"));
        assert_eq!(of_user(Some("i"), "u", "b"), of_user(Some("i"), "u", "b"));
        let all = [
            of("a", "b"),
            of("b", "a"),
            of("ab", "c"),
            of("a", "bc"),
            of("b", "b"),
            of_user(None, "u", "b"),
            of_user(None, "v", "b"),
            of_user(None, "u", "c"),
            of_user(Some("i"), "u", "b"),
            of_user(Some("iu"), "", "b"),
            of_user(Some("j"), "u", "b"),
        ];
        assert!((1..all.len()).all(|place| !all[..place].contains(&all[place])));
        assert!(all.iter().all(|it| it.0[0] != it.0[1]), "both halves tell something");
    }
}

//! Topics' values by key: one is written with its publication, and those who subscribe get pages of them.
//!
//! A page goes on from a `seq`, as pages of the past do, so nothing of it stays here. A key that is published to between two
//! pages has its value behind them: what is before the place where a page ended is never come by again, and what moved is
//! behind it, so each key comes once at least, and no publication twice.

use super::{Draft, Home, dropping::BLOCKS_TOGETHER, place, touring::TOUR_BYTES_MAX};
use crate::{
    protocol::Format,
    pubsub::{
        message::{PageContent, PageFrom},
        past::{KeyedValues, PAGE_SPANS_MAX, PageCost, Window},
    },
    work::price,
};

/// So many values a page has at most, and so many go that are needless before one is made.
const VALUES_PER_PAGE: usize = PAGE_SPANS_MAX;

impl Home {
    /// The topic's newest publication is the value of its key.
    pub(super) fn keep_keyed(&mut self, key: usize, value_key: u64, draft: Draft<'_>) {
        let topic = &mut self.topics[key];
        let past = topic.past.as_mut().expect("who has a key has a past");
        let publication = place(&topic.name, topic.flags, topic.seq, draft, self.wall_ms);
        let format = past.encoding().format();
        let (len, before) = (publication.encoded_len(format), past.held().bytes);
        let written = (topic.seq, self.tick, self.now_ms as u32);
        past.keep_keyed(value_key, written, len, &mut self.pool, |room| publication.encode(format, room));
        let more_bytes = past.held().bytes.saturating_sub(before);
        self.work += price::KEY + len as u64 * price::PUBLISHED_BYTE;
        self.note_value(key);
        self.make_up_for(more_bytes);
    }

    /// Some of the topic's values by key go that are too old or too many, before somebody asks for them.
    pub(super) fn drop_old_keyed(&mut self, key: usize) {
        let past = self.topics[key].past.as_mut();
        let Some(past) = past.filter(|past| past.has_keyed()) else { return };
        let count = past.drop_needless_keyed(self.now_ms as u32, VALUES_PER_PAGE, &mut self.pool);
        self.work += count as u64 * price::LOOK;
        self.note_value(key);
    }

    /// The page of the topic's values by key that is asked for; none where it is not of these.
    pub(super) fn page_of_keyed(
        &mut self,
        key: usize,
        from: PageFrom,
        format: Format,
    ) -> Option<PageContent> {
        self.topics[key].past.as_ref()?.keyed()?;
        self.drop_old_keyed(key);
        let topic = &self.topics[key];
        let past = topic.past.as_ref()?;
        let (keyed, head) = (past.keyed()?, topic.seq);
        let (first_seq, count, until) = match from {
            PageFrom::Next(_) => return None,
            PageFrom::NextValue { seq, until } => (seq, 0, until),
            PageFrom::Start { since: Some(since), .. } if past.is_recovered(since, self.now_ms as u32) => {
                return None;
            }
            PageFrom::Start { last: Some(0), .. } => return None,
            // What a topic keeps of its history goes before them.
            PageFrom::Start { last: Some(_), .. } if past.lowest(self.now_ms as u32) <= head => return None,
            PageFrom::Start { last, .. } => {
                let count = last.map_or(keyed.len(), |last| keyed.len().min(last as usize));
                let (first_seq, passed) = keyed.first_of(count, head + 1);
                self.work += passed as u64 * price::VISIT;
                (first_seq, count, head)
            }
            PageFrom::Value => (0, keyed.len(), head),
        };
        // Behind them everything comes, if it can be had; else of each key what was published meanwhile.
        let end_seq = if past.keeps_history() { until + 1 } else { head + 1 };
        if first_seq >= end_seq && past.keeps_history() {
            return None;
        }
        let window = Window { first_seq, end_seq, bytes_max: TOUR_BYTES_MAX };
        let (formats, mut cost) = ((past.encoding().format(), format), PageCost::default());
        let mut spans = keyed.part(window, VALUES_PER_PAGE, formats, &mut self.pool, &mut cost);
        self.work += cost.price;
        self.transcoded_bytes_total += cost.transcoded_bytes;
        let (page_count, next_seq) = (spans.spans.len() as u64, spans.next_seq);
        if page_count == 0 && next_seq <= head {
            // There are none any more: what is behind them is next.
            return None;
        }
        if formats.0 == format {
            self.copy_together(spans.spans.iter_mut().map(|span| &mut span.range).collect());
        }
        spans.join();
        Some(PageContent {
            spans,
            page_count,
            next: PageFrom::NextValue { seq: next_seq, until },
            count: count as u64,
            gap: None,
            head,
            is_recovered: false,
            is_last: next_seq > head,
        })
    }

    /// No key has a value any more, in the topic of which these were.
    pub(super) fn leave(&mut self, values: Option<Box<KeyedValues>>) {
        if let Some(values) = values {
            self.leaving_values.push_back(values);
            self.drop_leaving(BLOCKS_TOGETHER);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, num::NonZeroU32, sync::Arc};

    use proptest::{
        prelude::*,
        sample::select,
        test_runner::{Config, RngSeed},
    };

    use super::{
        super::{
            PublishRefusal, TopicRefusal,
            values::tests::{Bench, NOTHING, told},
        },
        *,
    };
    use crate::{
        protocol::{json::Pointer, publication::LastValue},
        pubsub::{
            keeping::{KeepKeys, Keeping},
            message::PastFrom,
        },
    };

    fn per_key(pointer: &str) -> KeepKeys {
        let pointer = Arc::new(Pointer::parse(pointer).expect("a pointer"));
        KeepKeys { last_value: Some(LastValue::PerKey(pointer)), ..NOTHING }
    }

    fn quote(key: &str, price: u64) -> String {
        format!("{{\"k\":\"{key}\",\"price\":{price}}}")
    }

    impl Bench {
        /// The topic `a` keeps this, and values of so many keys.
        fn say(&mut self, keys: &KeepKeys, keys_max: usize) {
            let keeping = Keeping::new([("a".to_owned(), keys.clone())]);
            self.home.set_keeping(keeping.with_value_keys_max(keys_max));
        }

        fn keyed(keys: &KeepKeys) -> Bench {
            let mut bench = Bench::new(1 << 20);
            bench.say(keys, 1_000);
            bench
        }

        /// All pages of the topic `a` from there on, in either format alike: the `seq`s of what is in them, and how many were told.
        fn replay(&mut self, from: PageFrom) -> (Vec<u64>, u64) {
            let [json, binary] = Format::ALL.map(|format| {
                let mut page = self.page("a", format, from);
                let (count, mut seqs) = (page.count, Vec::new());
                loop {
                    let told = told(&page.spans, format);
                    assert_eq!(told.len() as u64, page.page_count);
                    assert!(!told.is_empty() || page.is_last, "a page that is empty is the last");
                    assert!(told.len() <= VALUES_PER_PAGE && page.gap.is_none());
                    seqs.extend(told.into_iter().map(|(seq, _)| seq));
                    if page.is_last {
                        break (seqs, count);
                    }
                    page = self.page("a", format, page.next);
                }
            });
            assert_eq!(json, binary);
            json
        }

        /// The `seq`s of a page of what is kept, the lowest that can be had, and whether there are more.
        fn excerpt(&mut self, from: PastFrom, limit: u32) -> (Vec<u64>, u64, bool) {
            let past = self.history("a", from, limit).expect("it keeps something");
            let seqs = told(&past.spans, past.format).into_iter().map(|(seq, _)| seq).collect();
            (seqs, past.lowest, past.has_more)
        }
    }

    /// Ten keys, the odd ones again; and what is no object, or has no key that is one value.
    #[test]
    fn a_new_subscriber_is_sent_the_newest_of_each_key_in_order() {
        let mut bench = Bench::keyed(&per_key("/k"));
        assert_eq!(bench.replay(PageFrom::Value), (vec![], 0));
        for number in (0..10).chain([1, 3, 5, 7, 9]) {
            bench.publish("a", &quote(&number.to_string(), number), false).unwrap();
        }
        for none in ["{}", "null", "1", "[\"k\"]", "{\"k\":[1]}", "{\"k\":{}}", "{\"j\":{\"k\":1}}"] {
            bench.publish("a", none, false).unwrap();
        }
        let all = vec![1, 3, 5, 7, 9, 11, 12, 13, 14, 15];
        let start = |since, last| PageFrom::Start { since, last };
        assert_eq!(bench.replay(PageFrom::Value), (all.clone(), 10));
        assert_eq!(bench.replay(start(Some(15), None)), (all.clone(), 10), "something came behind that");
        assert_eq!(bench.replay(start(Some(22), None)), (vec![], 0), "nothing came behind that");
        assert_eq!(bench.replay(start(None, Some(0))), (vec![], 0));
        assert_eq!(bench.replay(start(None, Some(1))), (vec![15], 1));
        assert_eq!(bench.replay(start(None, Some(7))), (all[3..].to_vec(), 7));
        assert_eq!(bench.replay(start(None, Some(10_000))), (all.clone(), 10));
        assert_eq!(bench.home.value_count(), 1, "the topic counts once");
        assert_eq!(bench.excerpt(PastFrom::Newest, 100), (all.clone(), 1, false));
        assert_eq!(bench.excerpt(PastFrom::Newest, 3), (all[7..].to_vec(), 1, true));
        assert_eq!(bench.excerpt(PastFrom::Before(13), 4), (all[3..7].to_vec(), 1, true));
        assert_eq!(bench.excerpt(PastFrom::Before(5), 4), (vec![1, 3], 1, false));
        assert_eq!(bench.excerpt(PastFrom::After(5), 2), (vec![7, 9], 1, true));
        assert_eq!(bench.excerpt(PastFrom::After(13), 2), (vec![14, 15], 1, false));
        assert_eq!(bench.excerpt(PastFrom::After(22), 2), (vec![], 1, false));
        assert_eq!(bench.excerpt(PastFrom::Newest, 0), (vec![], 1, false));
    }

    /// What it keeps of its history counts where that is asked for; who asks for nothing has the values, and then all that comes.
    #[test]
    fn a_topic_with_a_history_has_its_values_beside_it() {
        let mut bench = Bench::keyed(&KeepKeys { count: Some(3), ..per_key("/k") });
        for number in 0..20 {
            bench.publish("a", &quote(&(number % 6).to_string(), number), false).unwrap();
        }
        let start = |since, last| PageFrom::Start { since, last };
        assert_eq!(bench.replay(PageFrom::Value), ((15..=20).collect(), 6));
        assert_eq!(bench.replay(start(Some(5), None)), ((15..=20).collect(), 6));
        assert_eq!(bench.replay(start(Some(18), None)), (vec![19, 20], 2));
        assert_eq!(bench.replay(start(None, Some(5))), (vec![18, 19, 20], 3));
        assert_eq!(bench.excerpt(PastFrom::Newest, 100).0, [18, 19, 20]);
        let first = bench.page("a", Format::Json, PageFrom::Value);
        assert_eq!((first.count, first.page_count, first.is_last), (6, VALUES_PER_PAGE as u64, false));
        bench.publish("a", "no key", false).unwrap();
        bench.publish("a", &quote("1", 1), false).unwrap();
        let second = bench.page("a", Format::Json, first.next);
        let seqs =
            |content: &PageContent| told(&content.spans, Format::Json).into_iter().map(|it| it.0).collect();
        let (second, third): (Vec<u64>, _) = (seqs(&second), bench.page("a", Format::Json, second.next));
        assert_eq!((second, seqs(&third), third.is_last), (vec![19], vec![21, 22], true));
        let late = bench.page("a", Format::Json, PageFrom::NextValue { seq: 15, until: 16 });
        let overtaken = bench.page("a", Format::Json, late.next);
        assert_eq!((late.gap, overtaken.gap), (None, Some((17, 19))), "what is not kept any more is missed");
    }

    #[test]
    fn only_a_null_that_is_retained_clears_and_only_where_publishers_may() {
        for retain in [None, Some(false), Some(true)] {
            let mut bench = Bench::keyed(&KeepKeys { retain, ..per_key("/k") });
            for number in 0..30 {
                bench.publish("a", &quote(&number.to_string(), 0), number % 2 == 0).unwrap();
            }
            bench.publish("a", "null", false).unwrap();
            assert_eq!(bench.replay(PageFrom::Value).1, 30);
            bench.publish("a", "null", true).unwrap();
            let left = if retain == Some(true) { 0 } else { 30 };
            assert_eq!(bench.replay(PageFrom::Value).1, left);
            bench.publish("a", &quote("1", 0), false).unwrap();
            assert_eq!(bench.replay(PageFrom::Value).1, left.max(1));
            bench.pass(0, 10);
            assert_eq!(bench.home.kept_bytes(), 128 * left.max(1) as usize, "what was cleared is gone");
        }
    }

    /// As many as several periods let go.
    #[test]
    fn what_is_cleared_goes_bit_by_bit() {
        const COUNT: usize = 100;
        let mut bench = Bench::keyed(&KeepKeys { retain: Some(true), ..per_key("/k") });
        for number in 0..COUNT {
            bench.publish("a", &quote(&number.to_string(), 0), false).unwrap();
        }
        let before = bench.home.kept_bytes();
        bench.publish("a", "null", true).unwrap();
        let most = BLOCKS_TOGETHER * before / COUNT;
        assert!(bench.home.kept_bytes() >= before - most, "not all in one go");
        bench.home.take_work();
        bench.pass(0, 1);
        let gone = (before - most - bench.home.kept_bytes()) / (before / COUNT);
        assert!((1..COUNT / 4).contains(&gone), "{gone} in a period");
        assert!(bench.home.take_work() >= gone as u64 * price::LOOK, "each has its price");
        bench.pass(0, 20);
        assert_eq!(bench.home.kept_bytes(), 0);
    }

    #[test]
    fn beyond_so_many_keys_the_oldest_goes_and_a_reload_makes_them_fewer() {
        let keys = per_key("/k");
        let mut bench = Bench::keyed(&keys);
        bench.say(&keys, 3);
        for number in [0, 1, 2, 0, 3, 4] {
            bench.publish("a", &quote(&number.to_string(), 0), false).unwrap();
        }
        assert_eq!(bench.replay(PageFrom::Value), (vec![4, 5, 6], 3));
        bench.say(&keys, 1);
        assert_eq!(bench.replay(PageFrom::Value), (vec![6], 1));
    }

    #[test]
    fn a_value_ends_with_what_is_said_of_age() {
        let ms = NonZeroU32::new(1_000);
        let mut bench = Bench::keyed(&KeepKeys { count: Some(0), ms, ..per_key("/k") });
        for key in ["1", "2", "3"] {
            bench.publish("a", &quote(key, 0), false).unwrap();
            bench.pass(400, 0);
        }
        assert_eq!(bench.replay(PageFrom::Value), (vec![2, 3], 2), "whether a period has passed or not");
        bench.publish("a", &quote("2", 0), false).unwrap();
        bench.pass(900, 1);
        assert_eq!(bench.replay(PageFrom::Value), (vec![4], 1));
        bench.pass(101, 1);
        assert_eq!((bench.home.kept_bytes(), bench.home.value_count()), (0, 0), "and nobody has to ask");
    }

    #[test]
    fn another_pointer_begins_anew_and_the_same_one_goes_on() {
        let mut bench = Bench::keyed(&per_key("/k"));
        bench.publish("a", &quote("1", 7), false).unwrap();
        bench.say(&KeepKeys { retain: Some(true), ..per_key("/k") }, 1_000);
        assert_eq!(bench.replay(PageFrom::Value).0, [1]);
        bench.say(&per_key("/price"), 1_000);
        assert_eq!(bench.replay(PageFrom::Value).1, 0);
        bench.publish("a", &quote("1", 7), false).unwrap();
        bench.publish("a", &quote("2", 7), false).unwrap();
        assert_eq!(bench.replay(PageFrom::Value).0, [3]);
        bench.say(&KeepKeys { last_value: Some(LastValue::Newest), ..NOTHING }, 1_000);
        assert_eq!(bench.replay(PageFrom::Value).1, 0);
        bench.pass(0, 2);
        assert_eq!(bench.home.kept_bytes(), 0);
    }

    /// What takes no more than what it replaces is taken; a key more is not, and is not published.
    #[test]
    fn values_for_which_there_is_no_room_are_refused() {
        let mut bench = Bench::new(2 << 10);
        bench.say(&KeepKeys { retain: Some(true), ..per_key("/k") }, 100);
        let mut seq = 0;
        while bench.publish("a", &quote(&seq.to_string(), 0), false).is_ok() {
            seq += 1;
        }
        assert!((3..8).contains(&seq), "what the places of {seq} take is counted");
        let full = Err(PublishRefusal::Topic(TopicRefusal::ValuesMax));
        assert_eq!(bench.publish("a", &quote("new", 0), false), full);
        assert_eq!(bench.publish("a", &quote("0", u64::MAX), false), Ok(seq + 1));
        let long = format!("{{\"k\":\"0\",\"pad\":\"{}\"}}", "x".repeat(200));
        assert_eq!(bench.publish("a", &long, false), full);
        assert_eq!(bench.publish("a", "{}", false), Ok(seq + 2), "what has no key takes nothing");
        bench.say(&per_key("/k"), seq as usize);
        assert_eq!(
            bench.publish("a", &quote("new", 0), false),
            Ok(seq + 3),
            "it takes the oldest one's place"
        );
        assert_eq!(bench.replay(PageFrom::Value).1, seq);
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// Of so manieth key, or without one, with so many bytes beside it; retained or not.
        Publish(Option<usize>, usize, bool),
        Clear,
        /// Somebody subscribes, to all values or to the newest so many.
        Begin(Option<u32>, Format),
        /// And is sent another page.
        Next,
        /// Milliseconds.
        Pass(u64),
        KeysMax(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let len = prop_oneof![8 => 0usize..60, 1 => 0usize..900];
        let last = prop_oneof![3 => Just(None), 1 => (1u32..12).prop_map(Some)];
        let format = select(&Format::ALL[..]);
        prop_oneof![
            14 => (prop::option::weighted(0.9, 0usize..12), len, any::<bool>())
                .prop_map(|(key, len, retain)| Step::Publish(key, len, retain)),
            1 => Just(Step::Clear),
            4 => (last, format).prop_map(|(last, format)| Step::Begin(last, format)),
            8 => Just(Step::Next),
            1 => (0u64..1_500).prop_map(Step::Pass),
            1 => (1usize..14).prop_map(Step::KeysMax),
        ]
    }

    /// What is there by the definition: all that was published, and which of it is a value.
    #[derive(Default)]
    struct Twin {
        /// Key and time in milliseconds of each.
        published: Vec<(Option<usize>, u64)>,
        cleared: u64,
        /// Those up to there were too many, or too old.
        gone: Vec<u64>,
    }

    impl Twin {
        fn values(&self) -> Vec<u64> {
            let mut newest = BTreeMap::new();
            for (seq, (key, _)) in (1..).zip(&self.published) {
                if let Some(key) = key.filter(|_| seq > self.cleared) {
                    newest.insert(key, seq);
                }
            }
            let mut seqs: Vec<u64> = newest.into_values().filter(|seq| !self.gone.contains(seq)).collect();
            seqs.sort_unstable();
            seqs
        }

        fn cut(&mut self, keys_max: usize, ms_max: Option<u64>, now_ms: u64) {
            let values = self.values();
            let is_too_old = |seq: &u64| {
                ms_max.is_some_and(|ms_max| now_ms - self.published[*seq as usize - 1].1 > ms_max)
            };
            let beyond = values.len().saturating_sub(keys_max);
            let gone = values.iter().enumerate().filter(|(at, seq)| *at < beyond || is_too_old(seq));
            let gone: Vec<u64> = gone.map(|(_, seq)| *seq).collect();
            self.gone.extend(gone);
        }
    }

    /// Somebody who subscribes, and what came so far.
    struct Reader {
        format: Format,
        next: PageFrom,
        until: u64,
        /// What its `ok` counted.
        promised: Vec<u64>,
        is_all: bool,
        got: Vec<u64>,
    }

    proptest! {
        #![proptest_config(Config { rng_seed: RngSeed::Fixed(23), cases: 400, failure_persistence: None, ..Config::default() })]

        /// While others publish, clear, and let values grow old.
        #[test]
        fn a_subscriber_is_sent_what_the_twin_says_however_its_pages_come(
            (has_history, ms) in (any::<bool>(), prop::option::weighted(0.3, 500u32..3_000)),
            (keys_max, past_bytes_max) in (1usize..14, select(vec![3_000usize, 1 << 20])),
            format in prop::option::of(select(&Format::ALL[..])),
            steps in prop::collection::vec(step(), 1..150),
        ) {
            let count = Some(if has_history { 1_000 } else { 0 });
            let keys = KeepKeys { count, ms: ms.and_then(NonZeroU32::new), format, retain: Some(true), ..per_key("/k") };
            let mut bench = Bench::new(past_bytes_max);
            let (mut keys_max, mut twin, mut reader) = (keys_max, Twin::default(), None::<Reader>);
            let is_short = past_bytes_max < 1 << 20;
            bench.say(&keys, keys_max);
            for step in steps {
                match step {
                    Step::Publish(key, len, retain) => {
                        let key_text = key.map_or(String::new(), |key| format!("\"k\":{key},"));
                        let payload = format!("{{{key_text}\"pad\":\"{}\"}}", "x".repeat(len));
                        match bench.publish("a", &payload, retain) {
                            Ok(seq) => {
                                twin.published.push((key, bench.now_ms));
                                prop_assert_eq!(seq, twin.published.len() as u64);
                                twin.cut(keys_max, ms.map(u64::from), bench.now_ms);
                            }
                            Err(refusal) => {
                                prop_assert_eq!(refusal, PublishRefusal::Topic(TopicRefusal::ValuesMax));
                                prop_assert!(key.is_some() && bench.home.pool.value_bytes() >= past_bytes_max);
                            }
                        }
                    }
                    Step::Clear => {
                        let seq = bench.publish("a", "null", true).unwrap();
                        twin.published.push((None, bench.now_ms));
                        twin.cleared = seq;
                    }
                    Step::Begin(last, format) => {
                        let values = twin.values();
                        let from = match last {
                            None => PageFrom::Value,
                            // Where there is a history it is that which is asked for.
                            Some(_) if has_history => continue,
                            Some(_) => PageFrom::Start { since: None, last },
                        };
                        let count = values.len().min(last.map_or(usize::MAX, |last| last as usize));
                        let promised = values[values.len() - count..].to_vec();
                        let until = twin.published.len() as u64;
                        reader = Some(Reader { format, next: from, until, promised, is_all: last.is_none(), got: vec![] });
                    }
                    Step::Next => {}
                    Step::Pass(ms_passed) => {
                        bench.pass(ms_passed, 1);
                        (0..2).for_each(|_| bench.pass(1, 1));
                        twin.cut(keys_max, ms.map(u64::from), bench.now_ms);
                    }
                    Step::KeysMax(new) => {
                        keys_max = new;
                        bench.say(&keys, new);
                        bench.page("a", Format::Json, PageFrom::Value);
                        (0..2).for_each(|_| bench.pass(1, 1));
                        twin.cut(keys_max, ms.map(u64::from), bench.now_ms);
                    }
                }
                let mut held: Vec<u64> = twin.values();
                if let Some(keyed) = bench.home.by_name.get("a").and_then(|key| bench.home.topics[key].past.as_ref()?.keyed()) {
                    prop_assert_eq!(keyed.len(), held.len());
                } else {
                    prop_assert!(held.is_empty());
                }
                let Some(it) = &mut reader else { continue };
                if !matches!(step, Step::Begin(..) | Step::Next) {
                    continue;
                }
                let page = bench.page("a", it.format, it.next);
                let told: Vec<u64> = told(&page.spans, it.format).into_iter().map(|(seq, _)| seq).collect();
                prop_assert!(told.windows(2).all(|pair| pair[0] < pair[1]));
                prop_assert!(told.first().is_none_or(|first| it.got.last().is_none_or(|last| first > last)), "none twice");
                prop_assert!(!it.next.is_first() || page.count == it.promised.len() as u64);
                prop_assert!(!it.next.is_first() || it.promised.starts_with(&told));
                prop_assert!(page.gap.is_none() || (has_history && (ms.is_some() || is_short)));
                let (is_gone, is_last) = (page.gap.is_some(), page.is_last);
                it.got.extend(told);
                it.next = page.next;
                if is_gone {
                    reader = None;
                    continue;
                }
                if !is_last {
                    continue;
                }
                let (before, behind): (Vec<u64>, Vec<u64>) = it.got.iter().partition(|seq| **seq <= it.until);
                prop_assert!(before.iter().all(|seq| it.promised.contains(seq)), "{:?} of {:?}", before, it.promised);
                match has_history {
                    true => prop_assert_eq!(behind, (it.until + 1..=twin.published.len() as u64).collect::<Vec<_>>()),
                    false => prop_assert!(behind.iter().all(|seq| twin.published[*seq as usize - 1].0.is_some())),
                }
                // What is a value now came, from among those that it was promised and those since.
                held.retain(|seq| it.is_all || *seq > it.until || it.promised.contains(seq));
                prop_assert!(held.iter().all(|seq| it.got.contains(seq)), "{:?} of {:?}", it.got, held);
                reader = None;
            }
            bench.home.set_keeping(Keeping::new([]));
            bench.page("a", Format::Json, PageFrom::Value);
            bench.pass(0, 200);
            prop_assert_eq!((bench.home.kept_bytes(), bench.home.pool.value_bytes()), (0, 0));
        }
    }
}

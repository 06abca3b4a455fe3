use std::{collections::BTreeMap, num::NonZeroU32, sync::Arc};

use proptest::{
    prelude::*,
    sample::select,
    test_runner::{Config, RngSeed},
};

use super::*;
use crate::{
    protocol::{Encoding, Format, deflate::Settings, json::Pointer, record::Records},
    pubsub::{
        keeping::{KeepKeys, Keeping},
        log::Budget,
        message::{
            Delivery, Page, PageContent, PageFrom, PageRequest, PastContent, PastFrom, PastRequest,
            PendingId, ReplayId,
        },
        past::Spans,
        subscription::ConnectionId,
    },
};

const TOPICS_MAX: usize = 6;
pub const NOTHING: KeepKeys = KeepKeys {
    count: None,
    bytes: None,
    ms: None,
    format: None,
    stamps: None,
    anonymous: None,
    last_value: None,
    retain: None,
};
const LAST_VALUE: KeepKeys = KeepKeys { last_value: Some(LastValue::Newest), ..NOTHING };
const RETAIN: KeepKeys = KeepKeys { retain: Some(true), ..NOTHING };

/// A home alone.
pub struct Bench {
    pub home: Home,
    deflater: Deflater,
    outboxes: Outboxes,
    pub now_ms: u64,
}

impl Bench {
    /// With room for so much of what is kept.
    pub fn new(past_bytes_max: usize) -> Bench {
        let budget = Budget::with_past(1 << 24, past_bytes_max);
        Bench {
            home: Home::new(1, TOPICS_MAX, 0, Encoding::COUNT, budget),
            deflater: Deflater::new(Settings { level: 1, bytes_min: 100, window_bits: 15 }),
            outboxes: vec![Default::default()],
            now_ms: 0,
        }
    }

    pub fn keeps(entries: &[(&str, KeepKeys)]) -> Bench {
        let mut bench = Bench::new(1 << 20);
        bench.set(entries);
        bench
    }

    pub fn set(&mut self, entries: &[(&str, KeepKeys)]) {
        let entries = entries.iter().map(|(filter, keys)| ((*filter).to_owned(), keys.clone()));
        self.home.set_keeping(Keeping::new(entries));
    }

    pub fn publish(&mut self, topic: &str, payload: &str, retain: bool) -> Result<u64, PublishRefusal> {
        let (topic, payload, kind) = (TopicName::checked(topic), payload.as_bytes(), PayloadKind::Json);
        let Bench { home, deflater, outboxes, .. } = self;
        let published = match retain {
            true => home.handle_retain(topic, Draft::anonymous(payload, kind), 0, deflater, outboxes),
            false => {
                Ok(home.handle_publish(topic, Draft::anonymous(payload, kind), 0, deflater, outboxes)?)
            }
        };
        self.outboxes[0].clear();
        self.home.check();
        published
    }

    pub fn page(&mut self, topic: &str, format: Format, from: PageFrom) -> PageContent {
        let connection = ConnectionId { slot: 0, generation: 0 };
        let replay = ReplayId { place: 0, serial: 0 };
        let encoding = Encoding::new(format, false);
        let request = PageRequest { topic: topic.into(), encoding, from, connection, replay, creator: 0 };
        self.home.handle_page(0, request, &mut self.outboxes);
        let Some(Delivery::Page(page)) = self.outboxes[0].pop_back() else {
            panic!("it is answered at once")
        };
        self.home.handle_unsubscribe(0, topic, encoding, &mut self.outboxes);
        self.outboxes[0].clear();
        self.home.check();
        let Page { content, .. } = *page;
        content.expect("there is room")
    }

    /// What a new subscriber is sent first, in either format alike, where `head` is the newest.
    fn value(&mut self, topic: &str) -> Option<(u64, String)> {
        let [json, binary] = Format::ALL.map(|format| {
            let page = self.page(topic, format, PageFrom::Value);
            assert!(page.is_last && !page.is_recovered && page.gap.is_none());
            let told = told(&page.spans, format);
            assert!(told.len() < 2 && page.count == told.len() as u64, "{page:?}");
            told.into_iter().next()
        });
        assert_eq!(json, binary);
        json
    }

    pub fn history(&mut self, topic: &str, from: PastFrom, limit: u32) -> Option<PastContent> {
        let request = PastRequest { topic: topic.into(), from, limit, pending: PendingId(0) };
        self.home.handle_past(0, &request, &mut self.outboxes);
        let Some(Delivery::Past(answer)) = self.outboxes[0].pop_back() else {
            panic!("it is answered at once")
        };
        answer.content
    }

    pub fn pass(&mut self, ms: u64, periods: u32) {
        self.now_ms += ms;
        self.home.begin_turn(self.now_ms, 0);
        (0..periods).for_each(|_| self.home.handle_period());
        self.home.check();
    }
}

pub fn told(spans: &Spans, format: Format) -> Vec<(u64, String)> {
    let records = spans.spans.iter().flat_map(|span| Records::new(format, span.range.bytes()));
    records.map(|record| (record.seq, String::from_utf8(record.payload.into()).unwrap())).collect()
}

fn is(seq: u64, payload: &str) -> Option<(u64, String)> {
    Some((seq, payload.into()))
}

#[test]
fn the_newest_is_sent_first_until_a_null_clears_it() {
    let mut bench = Bench::keeps(&[("#", LAST_VALUE)]);
    assert!(bench.home.may_have_value("a") && !bench.home.may_have_value("$sys"));
    assert_eq!(bench.value("a"), None);
    for seq in 1..=50 {
        assert_eq!(bench.publish("a", &format!("[{seq}]"), false), Ok(seq));
    }
    assert_eq!((bench.value("a"), bench.home.value_count()), (is(50, "[50]"), 1));
    assert!(bench.home.kept_bytes() <= 128, "the others are not kept: {}", bench.home.kept_bytes());
    assert_eq!(bench.publish("a", "null", false), Ok(51));
    assert_eq!((bench.value("a"), bench.home.value_count(), bench.home.kept_bytes()), (None, 0, 0));
    assert_eq!(bench.publish("a", "[52]", true), Ok(52), "it changes nothing that it is to be retained");
    assert_eq!(bench.value("a"), is(52, "[52]"));
}

#[test]
fn what_is_retained_is_sent_first_whatever_came_behind_it() {
    for history in [NOTHING, KeepKeys { count: Some(3), ..NOTHING }] {
        let mut bench = Bench::keeps(&[("a", KeepKeys { count: history.count, ..RETAIN })]);
        assert_eq!(bench.publish("a", "1", false), Ok(1));
        assert_eq!(bench.value("a"), None);
        assert_eq!(bench.publish("a", "2", true), Ok(2));
        for seq in 3..=60 {
            assert_eq!(bench.publish("a", &seq.to_string(), false), Ok(seq));
        }
        assert_eq!(bench.value("a"), is(2, "2"));
        assert_eq!(bench.publish("a", "61", true), Ok(61));
        assert_eq!(bench.publish("a", " null ", false), Ok(62));
        assert_eq!(bench.value("a"), is(61, "61"), "it was not said to be retained");
        assert_eq!(bench.publish("a", " null ", true), Ok(63));
        assert_eq!((bench.value("a"), bench.home.value_count()), (None, 0));
        assert_eq!(bench.publish("b", "1", true), Err(PublishRefusal::NotRetained));
        assert_eq!(bench.home.topic_count(), 1, "it is not even there");
        assert_eq!(bench.publish("b", "1", false), Ok(1), "it was not published");
    }
}

/// In the order of what is asked: as much as was asked for, else the value.
#[test]
fn whoever_asks_for_the_past_gets_the_value_where_nothing_else_can_be_had() {
    let start = |since, last| PageFrom::Start { since, last };
    let mut bench = Bench::keeps(&[
        ("last", LAST_VALUE),
        ("last/history", KeepKeys { count: Some(5), ..LAST_VALUE }),
        ("retain", RETAIN),
        ("retain/history", KeepKeys { count: Some(5), ..RETAIN }),
    ]);
    let topics = ["last", "last/history", "retain", "retain/history"];
    for topic in topics {
        for number in 1..=20 {
            bench.publish(topic, &number.to_string(), number == 2 && topic.starts_with("retain")).unwrap();
        }
    }
    let cases = [
        (PageFrom::Value, false, [20..21, 20..21, 2..3, 2..3]),
        (start(None, None), false, [20..21, 20..21, 2..3, 2..3]),
        (start(None, Some(0)), false, [21..21, 21..21, 21..21, 21..21]),
        (start(None, Some(2)), false, [20..21, 19..21, 2..3, 19..21]),
        (start(Some(20), Some(9)), true, [21..21, 21..21, 21..21, 21..21]),
        (start(Some(7), None), false, [20..21, 20..21, 2..3, 2..3]),
        (start(Some(7), Some(0)), false, [21..21, 21..21, 21..21, 21..21]),
        (start(Some(7), Some(4)), false, [20..21, 17..21, 2..3, 17..21]),
        (start(Some(21), None), false, [20..21, 20..21, 2..3, 2..3]),
    ];
    for (from, is_recovered, expected) in cases {
        for format in Format::ALL {
            for (topic, expected) in topics.into_iter().zip(&expected) {
                let page = bench.page(topic, format, from);
                let mut told = told(&page.spans, format);
                let (mut is_last, mut next_seq) = (page.is_last, page.spans.next_seq);
                while !is_last {
                    let next = bench.page(topic, format, PageFrom::Next(next_seq));
                    (is_last, next_seq) = (next.is_last, next.spans.next_seq);
                    told.extend(super::tests::told(&next.spans, format));
                }
                let seqs: Vec<u64> = told.into_iter().map(|(seq, _)| seq).collect();
                assert_eq!(seqs, expected.clone().collect::<Vec<_>>(), "{topic} {from:?}");
                assert_eq!(
                    (page.count, page.is_recovered),
                    (seqs.len() as u64, is_recovered),
                    "{topic} {from:?}"
                );
            }
        }
    }
    let page = bench.page("last/history", Format::Json, start(Some(17), None));
    assert!(page.is_recovered && page.count == 3);
    let seqs = |bench: &mut Bench, topic, from, limit| {
        let past = bench.history(topic, from, limit).expect("it keeps something");
        assert!(past.head == 20 && !past.has_more);
        let told = told(&past.spans, past.format);
        (past.lowest, told.into_iter().map(|(seq, _)| seq).collect::<Vec<_>>())
    };
    for (topic, lowest) in [("last", 20), ("last/history", 16), ("retain", 2), ("retain/history", 16)] {
        let all = if topic.ends_with("history") { (16..=20).collect() } else { vec![lowest] };
        assert_eq!(seqs(&mut bench, topic, PastFrom::Newest, 10), (lowest, all.clone()), "{topic}");
        assert_eq!(seqs(&mut bench, topic, PastFrom::After(1), 10), (lowest, all), "{topic}");
        assert_eq!(seqs(&mut bench, topic, PastFrom::Before(lowest), 10), (lowest, vec![]), "{topic}");
        assert_eq!(seqs(&mut bench, topic, PastFrom::After(20), 10), (lowest, vec![]), "{topic}");
        let behind = (lowest + 1..=20).filter(|_| topic.ends_with("history")).collect::<Vec<_>>();
        assert_eq!(seqs(&mut bench, topic, PastFrom::After(lowest), 10), (lowest, behind), "{topic}");
        assert_eq!(seqs(&mut bench, topic, PastFrom::Newest, 0), (lowest, vec![]), "{topic}");
    }
}

#[test]
fn a_value_stays_whatever_its_age_and_goes_when_it_is_cleared() {
    let history = KeepKeys { ms: NonZeroU32::new(1_000), ..NOTHING };
    let mut bench = Bench::keeps(&[
        ("last", KeepKeys { last_value: Some(LastValue::Newest), ..history }),
        ("retain", KeepKeys { retain: Some(true), ..history }),
    ]);
    for topic in ["last", "retain"] {
        bench.publish(topic, "1", false).unwrap();
        bench.publish(topic, "2", true).unwrap();
    }
    bench.pass(100_000, 2);
    assert_eq!((bench.value("last"), bench.value("retain")), (is(2, "2"), is(2, "2")));
    assert_eq!(bench.history("last", PastFrom::Newest, 10).unwrap().lowest, 2);
    for topic in ["last", "retain"] {
        bench.publish(topic, "null", true).unwrap();
        assert_eq!(bench.value(topic), None);
        let past = bench.history(topic, PastFrom::Newest, 10).unwrap();
        assert_eq!((past.lowest, past.spans.next_seq), (3, 4), "a null is a publication like any other");
    }
    bench.pass(100_000, 2);
    assert_eq!(bench.home.kept_bytes(), 0, "and gets as old");
    assert_eq!(bench.history("last", PastFrom::Newest, 10).unwrap().lowest, 4);
}

/// Topics beyond those that there may be, and what they keep beyond what may be kept, go in place of it.
#[test]
fn neither_other_topics_nor_their_pasts_drive_a_value_out() {
    let history = KeepKeys { count: Some(1_000), ..NOTHING };
    let mut bench = Bench::new(64 << 10);
    bench.set(&[("#", history), ("v/#", LAST_VALUE), ("r/#", RETAIN)]);
    for topic in ["v/1", "r/1"] {
        bench.publish(topic, "\"kept\"", true).unwrap();
    }
    let long = format!("\"{}\"", "x".repeat(3_000));
    for number in 0..200 {
        bench.publish(&format!("t/{number}"), &long, false).unwrap();
        bench.publish(&format!("t/{number}"), &long, false).unwrap();
    }
    bench.pass(1_000, 20);
    assert_eq!((bench.value("v/1"), bench.value("r/1")), (is(1, "\"kept\""), is(1, "\"kept\"")));
    for topic in ["v/1", "r/1"] {
        bench.publish(topic, "null", true).unwrap();
    }
    (200..220).for_each(|number| _ = bench.publish(&format!("t/{number}"), "1", false).unwrap());
    assert!(["v/1", "r/1"].iter().all(|topic| bench.home.by_name.get(*topic).is_none()), "they went");
    for number in 0..TOPICS_MAX {
        bench.publish(&format!("v/{number}"), "1", false).unwrap();
    }
    let refused = bench.publish("v/more", "1", false);
    assert_eq!(refused, Err(TopicRefusal::TopicsMax.into()), "every topic has a value");
}

#[test]
fn a_value_for_which_there_is_no_room_is_refused_and_not_published() {
    let mut bench = Bench::new(1 << 10);
    bench.set(&[("v/#", LAST_VALUE), ("r/#", RETAIN)]);
    let long = format!("\"{}\"", "x".repeat(500));
    assert_eq!(bench.publish("v/2", "1", false), Ok(1));
    assert_eq!((bench.publish("v/1", &long, false), bench.publish("r/1", &long, true)), (Ok(1), Ok(1)));
    assert!(bench.home.pool.value_bytes() >= 1 << 10);
    let full = Err(TopicRefusal::ValuesMax.into());
    assert_eq!(bench.publish("v/3", "1", false), full);
    assert_eq!(bench.publish("r/3", "1", true), full);
    assert_eq!(bench.publish("r/4", "null", true), Ok(1), "a null takes nothing");
    assert_eq!(bench.publish("r/3", "1", false), Ok(1), "nothing was published, and this is not kept");
    let longer = format!("\"{}\"", "x".repeat(900));
    assert_eq!(bench.publish("v/1", &longer, false), full);
    assert_eq!((bench.publish("v/1", &long, false), bench.publish("r/1", &long, true)), (Ok(2), Ok(2)));
    assert_eq!((bench.publish("v/1", "1", false), bench.publish("r/1", "1", true)), (Ok(3), Ok(3)));
    assert_eq!(bench.publish("v/2", "null", false), Ok(2), "a null takes nothing");
    assert_eq!(bench.publish("v/3", "1", false), Ok(1), "and makes room");
    assert_eq!((bench.value("v/1"), bench.value("r/1"), bench.value("v/2")), (is(3, "1"), is(3, "1"), None));
}

/// A topic that is there, and nobody's, makes no room for one that has no value.
#[test]
fn what_is_refused_as_a_value_brings_no_topic_into_being() {
    let pointer = Pointer::parse("/k").expect("a pointer");
    let per_key = KeepKeys { last_value: Some(LastValue::PerKey(Arc::new(pointer))), ..NOTHING };
    let mut bench = Bench::new(1 << 10);
    bench.set(&[("v/#", LAST_VALUE), ("r/#", RETAIN), ("k/#", per_key)]);
    let long = format!("\"{}\"", "x".repeat(2_000));
    bench.publish("v/1", &long, false).unwrap();
    (1..TOPICS_MAX).for_each(|number| _ = bench.publish(&format!("t/{number}"), "1", false).unwrap());
    let refused = [("v/2", "1", false), ("v/2", "1", true), ("r/2", "1", true), ("k/2", "{\"k\":1}", false)];
    for (topic, payload, retain) in refused {
        assert_eq!(bench.publish(topic, payload, retain), Err(TopicRefusal::ValuesMax.into()));
        assert!(bench.home.by_name.get(topic).is_none(), "{topic}");
    }
    assert!((1..TOPICS_MAX).all(|number| bench.home.by_name.get(&*format!("t/{number}")).is_some()));
    for (topic, payload, retain) in
        [("v/2", "null", false), ("r/2", "1", false), ("r/3", "null", true), ("k/2", "{\"j\":1}", false)]
    {
        assert_eq!(bench.publish(topic, payload, retain).map(|_| ()), Ok(()), "{topic} has no value by it");
    }
}

/// Blocks that are leaving were of a topic that is gone, and another has its place by now.
#[test]
fn a_topic_that_makes_room_is_the_one_that_was_written_to_longest_ago() {
    let history = |count| KeepKeys { count: Some(count), ..NOTHING };
    let mut bench = Bench::keeps(&[("x", history(1_000)), ("h/#", history(10))]);
    let long = format!("\"{}\"", "x".repeat(500));
    (0..50).for_each(|_| _ = bench.publish("x", &long, false).unwrap());
    bench.publish("h/oldest", "1", false).unwrap();
    bench.set(&[("h/#", history(10))]);
    bench.publish("x", "1", false).unwrap();
    assert!(bench.home.kept_bytes() > 10_000, "much of it is leaving");
    (2..TOPICS_MAX).for_each(|number| _ = bench.publish(&format!("h/{number}"), "1", false).unwrap());
    bench.publish("h/in-its-place", "1", false).unwrap();
    assert!(bench.home.by_name.get("x").is_none(), "it was idle");
    bench.publish("h/newest", "1", false).unwrap();
    assert!(bench.home.by_name.get("h/oldest").is_none(), "it was written to longest ago");
    assert!(bench.home.by_name.get("h/in-its-place").is_some());
}

/// Whether somebody asks for a place to come back to between any two, or not.
#[test]
fn what_is_known_of_each_tick_counts_with_what_is_kept() {
    const COUNT: usize = 1_000;
    let [none, each] = [false, true].map(|is_asked| {
        let mut bench = Bench::keeps(&[("h", KeepKeys { count: Some(COUNT as u64), ..NOTHING })]);
        for _ in 0..COUNT {
            if is_asked {
                bench.home.raise_tick();
            }
            bench.publish("h", "1", false).unwrap();
        }
        let bytes = bench.home.kept_bytes();
        bench.set(&[]);
        bench.publish("h", "1", false).unwrap();
        bench.pass(0, 20);
        assert_eq!(bench.home.kept_bytes(), 0);
        bytes
    });
    assert!(each - none >= 16 * (COUNT - 1), "{each} and {none}");
}

/// What is retained is transcoded for each who wants it in the other format.
#[test]
fn a_retained_value_costs_what_it_takes_to_transcode_it() {
    let mut bench = Bench::keeps(&[("r", RETAIN)]);
    assert_eq!(bench.publish("r", &format!("\"{}\"", "x".repeat(500)), true), Ok(1));
    let mut cost = |format| {
        let before = bench.home.transcoded_bytes_total();
        bench.home.take_work();
        bench.page("r", format, PageFrom::Value);
        (bench.home.take_work(), bench.home.transcoded_bytes_total() - before)
    };
    let ((work, none), (more_work, bytes)) = (cost(Format::Json), cost(Format::Binary));
    assert!(none == 0 && bytes > 500 && more_work > work, "{work} and {more_work}, {bytes} bytes");
}

/// What a topic keeps that has no value any more is none that could be replaced.
#[test]
fn what_is_kept_beside_a_null_makes_no_room_for_a_value() {
    // However much room is left in the newest of what is kept.
    for null_count in 16..26 {
        let mut bench = Bench::new(1 << 10);
        bench.set(&[("v/#", LAST_VALUE), ("h", KeepKeys { count: Some(5), ..LAST_VALUE })]);
        for seq in 1..=null_count {
            assert_eq!(bench.publish("h", "null", false), Ok(seq));
        }
        for topic in ["v/1", "v/2"] {
            assert_eq!(bench.publish(topic, &format!("\"{}\"", "x".repeat(500)), false), Ok(1));
        }
        assert_eq!(bench.publish("h", "3", false), Err(TopicRefusal::ValuesMax.into()));
    }
}

/// Publications that topics keep make room for values, at once.
#[test]
fn what_is_retained_has_others_go() {
    const BYTES: usize = 4 << 10;
    let mut bench = Bench::new(BYTES);
    bench.set(&[("h", KeepKeys { count: Some(1_000), ..NOTHING }), ("r/#", RETAIN)]);
    for seq in 1..=200 {
        assert_eq!(bench.publish("h", "1", false), Ok(seq));
    }
    assert!(bench.home.kept_bytes() > BYTES / 2);
    for topic in ["r/1", "r/2", "r/3"] {
        assert_eq!(bench.publish(topic, &format!("\"{}\"", "x".repeat(900)), true), Ok(1));
        assert!(bench.home.kept_bytes() <= BYTES / 4 * 5, "{} bytes", bench.home.kept_bytes());
    }
}

#[test]
fn a_reload_gives_values_and_takes_them() {
    let history = KeepKeys { count: Some(3), ..NOTHING };
    let mut bench = Bench::keeps(&[("a", history.clone())]);
    for number in 1..=5 {
        bench.publish("a", &number.to_string(), false).unwrap();
    }
    assert!(!bench.home.may_have_value("a"));
    bench.set(&[("a", KeepKeys { last_value: Some(LastValue::Newest), ..history })]);
    assert!(bench.home.may_have_value("a"));
    assert_eq!(bench.value("a"), is(5, "5"), "what it keeps is its value");
    bench.set(&[("a", RETAIN)]);
    assert_eq!(bench.value("a"), None, "nobody said that it was");
    assert_eq!(bench.home.kept_bytes(), 0);
    assert_eq!(bench.publish("a", "6", true), Ok(6));
    bench.set(&[("a", KeepKeys { retain: Some(true), ..history })]);
    assert_eq!(bench.value("a"), is(6, "6"));
    bench.set(&[("a", LAST_VALUE)]);
    assert_eq!(bench.value("a"), None, "nothing of it is kept");
    assert_eq!(bench.publish("a", "7", false), Ok(7));
    bench.set(&[]);
    assert_eq!(bench.value("a"), None);
    assert_eq!((bench.home.value_count(), bench.home.kept_bytes()), (0, 0));
    assert!(bench.history("a", PastFrom::Newest, 1).is_none());
}

#[derive(Clone, Debug)]
enum Step {
    /// To so manieth topic, so many bytes, a null where that is none; retained or not.
    Publish(usize, usize, bool),
    Look(usize),
    /// Milliseconds.
    Pass(u64),
    Set(usize, KeepKeys),
}

/// Of one topic what its new subscribers are sent.
#[derive(Clone, Default)]
struct Topic {
    keys: KeepKeys,
    seq: u64,
    value: Option<(u64, String)>,
}

const TOPICS: [&str; 4] = ["a", "b", "c/\"d\"", "e"];

fn keys() -> impl Strategy<Value = KeepKeys> {
    let ms = prop::option::weighted(0.3, 1_000u32..3_000);
    let is_so = || prop::option::weighted(0.7, any::<bool>());
    (prop::option::weighted(0.5, 0u64..20), ms, prop::option::of(select(&Format::ALL[..])), is_so(), is_so())
        .prop_map(|(count, ms, format, last_value, retain)| KeepKeys {
            count,
            ms: ms.and_then(NonZeroU32::new),
            format,
            last_value: last_value.map(|is_so| if is_so { LastValue::Newest } else { LastValue::Nothing }),
            retain,
            ..NOTHING
        })
}

fn step() -> impl Strategy<Value = Step> {
    let topic = || 0..TOPICS.len();
    let len = prop_oneof![2 => Just(0usize), 8 => 1usize..60, 2 => 1usize..1_500];
    prop_oneof![
        10 => (topic(), len, any::<bool>()).prop_map(|(topic, len, retain)| Step::Publish(topic, len, retain)),
        6 => topic().prop_map(Step::Look),
        2 => (0u64..2_000).prop_map(Step::Pass),
        1 => (topic(), keys()).prop_map(|(topic, keys)| Step::Set(topic, keys)),
    ]
}

proptest! {
    #![proptest_config(Config { rng_seed: RngSeed::Fixed(14), cases: 300, failure_persistence: None, ..Config::default() })]

    /// As long as nothing is said anew of a topic: what its value is then, and whether it has one, is told by other tests.
    #[test]
    fn a_new_subscriber_is_sent_what_the_twin_remembers(
        first in prop::collection::vec(keys(), TOPICS.len()),
        past_bytes_max in select(vec![2_000usize, 1 << 20]),
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut bench = Bench::new(past_bytes_max);
        let mut twin: BTreeMap<&str, Topic> = TOPICS.into_iter().zip(first.into_iter()
            .map(|keys| Topic { keys, ..Topic::default() })).collect();
        let set = |bench: &mut Bench, twin: &BTreeMap<&str, Topic>| {
            let entries: Vec<(&str, KeepKeys)> = twin.iter().map(|(name, topic)| (*name, topic.keys.clone())).collect();
            bench.set(&entries);
        };
        set(&mut bench, &twin);
        for step in steps {
            match step {
                Step::Publish(at, len, retain) => {
                    let topic = twin.get_mut(TOPICS[at]).unwrap();
                    let payload = if len == 0 { "null".to_owned() } else { format!("{:0len$}", topic.seq).replace('0', "7") };
                    let last = topic.keys.last_value == Some(LastValue::Newest);
                    let takes = last || topic.keys.retain == Some(true);
                    match bench.publish(TOPICS[at], &payload, retain) {
                        Ok(seq) => {
                            prop_assert!(takes || !retain);
                            prop_assert_eq!(seq, topic.seq + 1);
                            topic.seq = seq;
                            if last || retain {
                                topic.value = (len > 0).then_some((seq, payload));
                            }
                        }
                        Err(PublishRefusal::NotRetained) => prop_assert!(retain && !takes),
                        Err(PublishRefusal::NoKeys) => prop_assert!(false, "nobody gave a key"),
                        Err(PublishRefusal::Topic(refusal)) => {
                            prop_assert_eq!(refusal, TopicRefusal::ValuesMax);
                            prop_assert!(len > 0 && (last || retain));
                            prop_assert!(bench.home.pool.value_bytes() >= past_bytes_max);
                        }
                    }
                }
                Step::Look(at) => prop_assert_eq!(&bench.value(TOPICS[at]), &twin[TOPICS[at]].value),
                Step::Pass(ms) => bench.pass(ms, 1),
                Step::Set(at, keys) => {
                    let topic = twin.get_mut(TOPICS[at]).unwrap();
                    let kind = |keys: &KeepKeys| (keys.last_value == Some(LastValue::Newest), keys.retain == Some(true));
                    let is_same = kind(&keys) == kind(&topic.keys);
                    topic.keys = keys;
                    set(&mut bench, &twin);
                    let value = bench.value(TOPICS[at]);
                    let topic = twin.get_mut(TOPICS[at]).unwrap();
                    prop_assert!(!is_same || value == topic.value);
                    topic.value = value;
                }
            }
            let value_count = twin.values().filter(|topic| topic.value.is_some()).count();
            prop_assert_eq!(bench.home.value_count(), value_count);
        }
        bench.set(&[]);
        TOPICS.into_iter().for_each(|topic| _ = bench.value(topic));
        // What many blocks are goes bit by bit.
        bench.pass(0, 100);
        prop_assert_eq!((bench.home.kept_bytes(), bench.home.pool.value_bytes()), (0, 0));
    }
}

//! Topics' values by key, each scene arranged on purpose.

use std::sync::Arc;

use super::*;
use crate::protocol::{json::Pointer, publication::LastValue};

/// What payloads have behind their number is the key of a value, of every topic; and so much of its past is kept, if anything.
fn keyed(reactor_count: usize, count: Option<u64>) -> Knobs {
    let pointer = Arc::new(Pointer::parse("/1").expect("a pointer"));
    let policy = TopicPolicy {
        filter: "#".into(),
        last_value: Some(LastValue::PerKey(pointer)),
        history_count: count,
        ..TopicPolicy::default()
    };
    Knobs { policies: vec![policy], ..Knobs::calm(reactor_count) }
}

impl World {
    /// Publications of these keys, one after the other.
    fn publish_keys(&mut self, client: usize, topic: &str, keys: impl IntoIterator<Item = usize>) {
        for key in keys {
            self.publish_as(client, topic, 12 + key, true, true, false, None);
        }
    }

    /// Each reactor has so many turns, and clients write what they have to.
    fn go_on(&mut self, turns: usize) {
        for _ in 0..turns {
            self.write_all();
            (0..self.reactors.len()).for_each(|index| self.turns(index, 1));
        }
    }
}

/// From either reactor and in either format, a page of them and several.
#[test]
fn a_new_subscriber_is_sent_the_newest_of_each_key_and_then_what_comes() {
    for (keys, kept_in) in [(3, Format::Json), (25, Format::Binary), (25, Format::Json)] {
        let mut knobs = keyed(2, None);
        knobs.policies[0].history_format = Some(kept_in);
        let mut world = World::new(knobs);
        let topic = world.topic_at(1, "t");
        let publisher = world.open(0, Format::Json);
        world.publish_keys(publisher, &topic, (0..keys).chain(0..2));
        world.settle();
        let expected: Vec<u64> = (3..=keys as u64 + 2).collect();
        for (reactor, format) in
            [(0, Format::Json), (0, Format::Binary), (1, Format::Json), (1, Format::Binary)]
        {
            let reader = world.open(reactor, format);
            world.subscribe(reader, &topic);
            world.settle();
            assert_eq!(world.begun(reader), [(keys as u64 + 2, Some(keys as u64))]);
            assert_eq!(world.seqs(reader, &topic), expected);
        }
        world.publish_keys(publisher, &topic, [7, 7]);
        world.settle();
        world.end();
    }
}

/// However far its pages have come somebody publishes, of keys that were sent and of others; with a history nothing of that is left
/// out, and without it each key's newest comes.
#[test]
fn what_is_published_to_meanwhile_comes_behind_what_is_there() {
    for (moment, count) in (0..40).map(|number| (number / 2, [None, Some(100)][number % 2])) {
        let mut world = World::new(keyed(2, count));
        let topic = world.topic_at(1, "t");
        let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Json));
        world.publish_keys(publisher, &topic, 0..20);
        world.settle();
        world.subscribe(reader, &topic);
        world.go_on(moment);
        world.publish_keys(publisher, &topic, [0, 19, 50, 10, 0]);
        world.settle();
        let got = world.seqs(reader, &topic);
        assert!(got.is_sorted() && got.iter().all(|seq| *seq <= 25), "{got:?}");
        let values = (2..20).filter(|seq| *seq != 11).chain([22, 23, 24, 25]);
        assert!(values.clone().all(|seq| got.contains(&seq)), "{got:?} at {moment}");
        assert!(count.is_none() || (21..=25).all(|seq| got.contains(&seq)), "{got:?} at {moment}");
        world.end();
    }
}

/// They come by a filter that asks for what was, and behind that what changed while it was away.
#[test]
fn a_tour_brings_values_by_key() {
    for reactor_count in [1, 2] {
        let mut world = World::new(keyed(reactor_count, None));
        let (first, publisher) = (world.open(0, Format::Json), world.open(0, Format::Json));
        for topic in ["a/1", "a/2"] {
            world.publish_keys(publisher, topic, (0..12).chain(0..3));
        }
        world.settle();
        world.tour(first, "a/#", r#""last":9"#);
        world.settle();
        for topic in ["a/1", "a/2"] {
            assert_eq!(world.seqs(first, topic), (7..=15).collect::<Vec<u64>>());
        }
        let at = world.replayed(first)[0].at.clone();
        assert_eq!(world.replayed(first)[0].count, 18);
        world.publish_keys(publisher, "a/1", [5]);
        world.settle();
        assert_eq!(world.seqs(first, "a/1").last(), Some(&16));
        world.say_goodbye(first);
        world.settle();
        world.publish_keys(publisher, "a/1", [5, 7, 7]);
        world.settle();
        let second = world.open(reactor_count - 1, Format::Binary);
        world.tour(second, "a/#", &format!(r#""since":{{"at":"{at}"}}"#));
        world.settle();
        assert_eq!(world.seqs(second, "a/1"), [17, 19], "of each key what it is by now");
        assert_eq!((world.replayed(second)[0].count, world.replayed(second)[0].is_recovered), (2, false));
        world.publish_keys(publisher, "a/1", [1]);
        world.settle();
        assert_eq!(world.seqs(second, "a/1"), [17, 19, 20]);
        for (listed, expected) in [(17, vec![19, 20]), (20, vec![]), (99, vec![17, 19, 20])] {
            let reader = world.open(0, Format::Json);
            let since = format!(r#"{{"epochs":{{"{}":{{"a/1":{listed}}}}}}}"#, world.epoch());
            world.tour(reader, "a/#", &format!(r#""last":3,"since":{since}"#));
            world.settle();
            assert_eq!(world.seqs(reader, "a/1"), expected, "{listed} is what it has");
        }
        world.end();
    }
}

/// Somebody publishes to many keys all the time while tours go on; every key's newest comes, and no publication twice.
#[test]
fn a_tour_of_values_that_change_meanwhile_has_each_once() {
    for moment in 0..30 {
        let mut world = World::new(keyed(2, None));
        let (reader, publisher) = (world.open(0, Format::Json), world.open(1, Format::Json));
        world.publish_keys(publisher, "a/1", 0..20);
        world.settle();
        world.tour(reader, "a/#", r#""last":100"#);
        for turn in 0..moment {
            world.go_on(1);
            world.publish_keys(publisher, "a/1", [turn % 25]);
        }
        world.settle();
        let got = world.seqs(reader, "a/1");
        assert!(got.windows(2).all(|pair| pair[0] < pair[1]), "{got:?} at {moment}");
        let newest = (0..25).filter_map(|key| {
            let of_key = (0..20).chain((0..moment).map(|turn| turn % 25));
            of_key.zip(1_u64..).filter(|(of, _)| *of == key).map(|(_, seq)| seq).last()
        });
        newest.for_each(|seq| assert!(got.contains(&seq), "{seq} is in {got:?} at {moment}"));
        world.end();
    }
}

/// A topic keeps no history any more while its values are sent, so that what was published meanwhile may be passed over.
#[test]
fn a_history_that_ends_meanwhile_leaves_the_newest_of_each_key() {
    for moment in 0..20 {
        let mut world = World::new(keyed(2, Some(100)));
        let topic = world.topic_at(1, "t");
        let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Json));
        world.publish_keys(publisher, &topic, 0..20);
        world.settle();
        world.subscribe(reader, &topic);
        world.go_on(moment);
        world.read(reader, usize::MAX);
        world.publish_keys(publisher, &topic, [0, 19, 50, 10, 0]);
        world.go_on(2);
        world.knobs.policies[0].history_count = None;
        world.reload();
        world.settle();
        let got = world.seqs(reader, &topic);
        let values = (2..20).filter(|seq| *seq != 11).chain([22, 23, 24, 25]);
        assert!(values.clone().all(|seq| got.contains(&seq)), "{got:?} at {moment}");
        world.end();
    }
}

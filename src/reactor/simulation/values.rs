//! Topics' values, each scene arranged on purpose.

use super::*;
use crate::{config::Retain, protocol::publication::LastValue};

/// Of every topic the newest is the value, or what clients say; and so much of its past is kept, if anything.
fn valued(reactor_count: usize, last_value: bool, count: Option<u64>, ms: Option<u32>) -> Knobs {
    let policy = TopicPolicy {
        filter: "#".into(),
        last_value: last_value.then_some(LastValue::Newest),
        retain: (!last_value).then_some(Retain::Clients),
        history_count: count,
        history_ms: ms,
        ..TopicPolicy::default()
    };
    Knobs { policies: vec![policy], ..Knobs::calm(reactor_count) }
}

impl World {
    /// The `ok`s to subscribes that the client saw: where each began, and how many it was to be sent first.
    pub(super) fn begun(&self, client: usize) -> Vec<(u64, Option<u64>)> {
        let begun = self.clients[client].seen.iter().filter_map(|event| match event {
            Event::Ok { seq: Some(seq), begin, .. } if begin.epoch.is_some() => Some((*seq, begin.replayed)),
            _ => None,
        });
        begun.collect()
    }

    /// A client in this format subscribes and is sent what there is.
    fn newcomer(&mut self, reactor: usize, format: Format, topic: &str) -> usize {
        let client = self.open(reactor, format);
        self.subscribe(client, topic);
        self.settle();
        client
    }
}

/// What was retained is far below the head, and others publish on; in whichever format it is kept.
#[test]
fn a_value_below_the_head_comes_first_and_then_what_is_above_the_ok() {
    for (count, kept_in) in [(None, Format::Json), (Some(3), Format::Binary), (Some(100), Format::Json)] {
        let mut knobs = valued(2, false, count, None);
        knobs.policies[0].history_format = Some(kept_in);
        let mut world = World::new(knobs);
        let topic = world.topic_at(1, "t");
        let publisher = world.open(0, Format::Json);
        world.publish_value(publisher, &topic, 30, false, true);
        world.publish_each_turn(publisher, &topic, 20);
        for format in [Format::Json, Format::Binary] {
            let reader = world.newcomer(0, format, &topic);
            assert_eq!(world.begun(reader), [(21, Some(1))]);
            assert_eq!(world.seqs(reader, &topic), [1]);
            world.unsubscribe(reader, &topic);
            world.settle();
        }
        let readers = [Format::Json, Format::Binary].map(|format| world.newcomer(1, format, &topic));
        world.publish_each_turn(publisher, &topic, 2);
        for reader in readers {
            assert_eq!(world.seqs(reader, &topic), [1, 22, 23]);
        }
        world.end();
    }
}

/// Somebody publishes while the value is on its way, however far that has come.
#[test]
fn what_is_published_while_a_value_is_on_its_way_comes_behind_it() {
    for moment in 0..24 {
        let (last_value, home_turns, own_turns) = (moment % 2 == 0, moment / 2 % 3, moment / 6);
        let mut world = World::new(valued(2, last_value, None, None));
        let topic = world.topic_at(1, "t");
        let (reader, publisher) = (world.open(0, Format::Json), world.open(1, Format::Json));
        world.publish_value(publisher, &topic, 30, false, true);
        world.settle();
        world.subscribe(reader, &topic);
        world.write_all();
        world.turns(0, 1 + own_turns);
        world.publish(publisher, &topic);
        world.write_all();
        world.turns(1, home_turns);
        world.publish(publisher, &topic);
        world.settle();
        let [(seq, Some(1))] = world.begun(reader)[..] else { panic!("at moment {moment}") };
        let value = if last_value { seq } else { 1 };
        let expected: Vec<u64> = [value].into_iter().chain(seq + 1..=3).collect();
        assert_eq!(world.seqs(reader, &topic), expected, "at moment {moment}");
        world.end();
    }
}

#[test]
fn a_null_clears_a_value_and_is_told() {
    for last_value in [true, false] {
        let mut world = World::new(valued(2, last_value, None, None));
        let (reader, publisher) = (world.newcomer(0, Format::Binary, "t"), world.open(1, Format::Json));
        assert_eq!(world.begun(reader), [(0, Some(0))]);
        world.publish_value(publisher, "t", 30, false, true);
        world.settle();
        world.publish_value(publisher, "t", 0, true, true);
        world.settle();
        assert_eq!(world.seqs(reader, "t"), [1, 2]);
        let second = world.newcomer(1, Format::Json, "t");
        assert_eq!(world.begun(second), [(2, Some(0))]);
        world.publish_value(publisher, "t", 30, false, true);
        world.settle();
        assert_eq!(world.seqs(second, "t"), [3]);
        let third = world.newcomer(1, Format::Json, "t");
        assert_eq!((world.begun(third), world.seqs(third, "t")), (vec![(3, Some(1))], vec![3]));
        world.end();
    }
}

#[test]
fn a_value_is_sent_however_old_it_is() {
    for last_value in [true, false] {
        let mut world = World::new(valued(2, last_value, None, Some(1_000)));
        let publisher = world.open(1, Format::Json);
        world.publish_each_turn(publisher, "t", 3);
        world.publish_value(publisher, "t", 30, false, true);
        world.settle();
        world.pass(100 * SECOND);
        let reader = world.newcomer(0, Format::Json, "t");
        assert_eq!((world.begun(reader), world.seqs(reader, "t")), (vec![(4, Some(1))], vec![4]));
        world.end();
    }
}

/// A filter that begins while a value is on its way is refused; one that was there before brings none.
#[test]
fn whoever_receives_a_topic_by_a_filter_is_sent_no_value() {
    let mut world = World::new(valued(2, true, None, None));
    let publisher = world.open(1, Format::Json);
    for topic in ["a/x", "b/x"] {
        world.publish(publisher, topic);
    }
    world.settle();
    let reader = world.newcomer(0, Format::Json, "a/+");
    world.subscribe(reader, "a/x");
    world.subscribe(reader, "b/x");
    world.settle();
    assert_eq!(world.begun(reader), [(1, None), (1, Some(1))]);
    world.publish_each_turn(publisher, "a/x", 2);
    assert_eq!((world.seqs(reader, "a/x"), world.seqs(reader, "b/x")), (vec![2, 3], vec![1]));
    // In the order in which it asks: the filter is gone.
    world.ask_together(reader, |world| {
        world.unsubscribe(reader, "a/x");
        world.unsubscribe(reader, "a/+");
        world.subscribe(reader, "a/x");
    });
    world.settle();
    assert_eq!(world.seqs(reader, "a/x"), [2, 3, 3]);
    world.end();
}

/// Whoever leaves a topic before it has heard of its value is answered both, the subscribe first.
#[test]
fn a_topic_is_left_before_its_value_has_come() {
    let mut world = World::new(valued(2, false, None, None));
    let topic = world.topic_at(1, "t");
    let (reader, publisher) = (world.open(0, Format::Json), world.open(1, Format::Json));
    world.publish_value(publisher, &topic, 30, false, true);
    world.settle();
    world.subscribe(reader, &topic);
    world.unsubscribe(reader, &topic);
    world.subscribe(reader, &topic);
    world.settle();
    assert_eq!(world.seqs(reader, &topic), [1]);
    world.end();
}

/// Other topics keep more than there is room for, and more of them come than there may be.
#[test]
fn neither_eviction_nor_want_of_room_takes_a_value() {
    let mut knobs = valued(2, true, None, None);
    knobs.topics_max = 4;
    knobs.history_bytes_max = 16 << 10;
    knobs.policies[0].filter = "v/#".into();
    knobs.policies.push(TopicPolicy {
        filter: "#".into(),
        history_count: Some(100),
        ..TopicPolicy::default()
    });
    let mut world = World::new(knobs);
    let publisher = world.open(0, Format::Json);
    world.publish(publisher, "v/1");
    world.settle();
    for number in 0..60 {
        world.publish_as(publisher, &format!("t/{number}"), 2_000, true, true, false, None);
        world.settle();
    }
    world.pass(SECOND);
    let reader = world.newcomer(1, Format::Json, "v/1");
    assert_eq!((world.begun(reader), world.seqs(reader, "v/1")), (vec![(1, Some(1))], vec![1]));
    world.end();
}

/// Until there is room again none is taken, and none that was is lost.
#[test]
fn a_value_too_many_is_refused() {
    let mut knobs = valued(2, false, None, None);
    knobs.history_bytes_max = 4 << 10;
    let mut world = World::new(knobs);
    let publisher = world.open(0, Format::Json);
    for number in 0..20 {
        world.publish_value(publisher, &format!("t/{number}"), 500, false, true);
        world.settle();
    }
    let refused = |world: &World| {
        let is_refused =
            |event: &&Event| matches!(event, Event::Error { code, .. } if code == "limit_reached");
        world.clients[publisher].seen.iter().filter(is_refused).count()
    };
    let before = refused(&world);
    assert!((8..15).contains(&before), "{before} of 20 are refused");
    let reader = world.newcomer(1, Format::Binary, "t/0");
    assert_eq!(world.seqs(reader, "t/0"), [1]);
    world.publish_value(publisher, "t/0", 0, true, true);
    world.publish_value(publisher, "t/1", 0, true, true);
    world.settle();
    world.publish_value(publisher, "t/19", 500, false, true);
    world.settle();
    assert_eq!(refused(&world), before, "there is room again");
    world.end();
}

/// It begins with what is kept, and ends with the policy.
#[test]
fn a_reload_gives_values_and_takes_them() {
    let mut world = World::new(valued(2, true, Some(10), None));
    let publisher = world.open(0, Format::Json);
    world.publish_each_turn(publisher, "t", 3);
    let reader = world.newcomer(1, Format::Json, "t");
    assert_eq!(world.begun(reader), [(3, Some(1))]);
    world.knobs.policies[0].last_value = Some(LastValue::Nothing);
    world.reload();
    world.settle();
    let reader = world.newcomer(1, Format::Json, "t");
    assert_eq!((world.begun(reader), world.seqs(reader, "t")), (vec![(3, None)], vec![]));
    world.publish_value(publisher, "t", 30, false, true);
    world.settle();
    assert_eq!(
        world.clients[publisher].seen.iter().filter(|event| matches!(event, Event::Error { .. })).count(),
        1
    );
    world.knobs.policies[0].retain = Some(Retain::Clients);
    world.reload();
    world.settle();
    world.publish_value(publisher, "t", 30, false, true);
    world.publish_each_turn(publisher, "t", 2);
    let reader = world.newcomer(0, Format::Json, "t");
    assert_eq!((world.begun(reader), world.seqs(reader, "t")), (vec![(6, Some(1))], vec![4]));
    world.end();
}

//! Races and limits, each arranged on purpose.

use super::*;

/// Two clients on one reactor; one publishes, the other receives.
#[test]
fn a_publication_reaches_its_subscriber() {
    let mut world = World::new(Knobs::calm(1));
    let (a, b) = (world.open(0, Format::Json), world.open(0, Format::Binary));
    world.subscribe(a, "t");
    world.settle();
    for _ in 0..3 {
        world.publish(b, "t");
    }
    world.settle();
    assert_eq!(world.seqs(a, "t"), [1, 2, 3]);
    world.end();
}

/// A slow reader subscribes to a filter whose registration waits for a home that is not running, and is
/// then closed for being too far behind.
#[test]
fn a_close_frame_is_the_last_frame_even_if_a_subscribe_waits() {
    let knobs = Knobs { owed_bytes_max: 200, may_close: true, ..Knobs::calm(2) };
    let mut world = World::new(knobs);
    let (slow, publisher) = (world.open(0, Format::Json), world.open(0, Format::Json));
    let topic = world.topic_at(0, "t");
    world.subscribe(slow, &topic);
    world.settle();
    world.clients[slow].pace = Pace::Stuck;
    world.net.set_window(world.clients[slow].peer, 10);
    world.subscribe(slow, "a/#");
    for _ in 0..10 {
        world.publish(publisher, &topic);
        world.write_all();
        world.turns(0, 3);
    }
    assert!(matches!(world.reactor(0).core().connections[0].phase, Phase::Closing(_)));
    world.net.set_window(world.clients[slow].peer, 1 << 20);
    world.clients[slow].pace = Pace::Eager;
    world.settle();
    assert!(matches!(world.closed_with(slow), Some(Some(4000))));
    world.end();
}

/// A wildcard subscriber has taken all of a topic, but its socket has not. More topics than the reactor
/// keeps move on, and then the first one does again.
#[test]
fn a_view_is_not_evicted_while_its_bytes_are_in_flight() {
    let mut world = World::new(Knobs { topics_max: 4, ..Knobs::calm(1) });
    let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Json));
    world.subscribe(reader, "t/#");
    world.settle();
    world.net.set_window(world.clients[reader].peer, 10);
    world.clients[reader].pace = Pace::Stuck;
    for topic in ["t/0", "t/1", "t/2", "t/3", "t/4", "t/5", "t/6", "t/7", "t/0"] {
        world.publish(publisher, topic);
        world.settle();
    }
    world.net.set_window(world.clients[reader].peer, 1 << 20);
    world.clients[reader].pace = Pace::Eager;
    world.settle();
    assert_eq!(world.seqs(reader, "t/0").len(), 2);
    world.end();
}

/// A reactor asks a home that drains, and sleeps. The home's last turn answers.
#[test]
fn a_reactor_that_ends_wakes_those_whom_it_answered() {
    let mut world = World::new(Knobs { may_close: true, ..Knobs::calm(2) });
    let subscriber = world.open(0, Format::Json);
    let topic = world.topic_at(1, "t");
    world.order_drain(1);
    world.turns(1, 1);
    world.subscribe(subscriber, &topic);
    world.write_all();
    world.turns(0, 5);
    assert!(world.asleep_until_ns[0].is_some());
    world.turns(1, 5);
    assert!(world.reactors[1].is_none(), "the home has ended");
    world.turns(0, 5);
    world.read(subscriber, usize::MAX);
    assert!(matches!(world.clients[subscriber].seen.last(), Some(Event::Ok { seq: Some(0), .. })));
    world.end();
}

/// A subscriber that takes nothing is moved forward twice, and between the two leaves the topic and comes
/// back.
#[test]
fn a_gap_is_told_before_its_topic_is_left() {
    let knobs = Knobs { owed_bytes_max: 200, policy: SlowConsumer::Skip, ..Knobs::calm(1) };
    let mut world = World::new(knobs);
    let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Json));
    world.subscribe(reader, "t");
    world.settle();
    world.stick(reader);
    world.publish_each_turn(publisher, "t", 8);
    let left = world.unsubscribe(reader, "t");
    let back = world.subscribe(reader, "t");
    world.settle();
    world.publish_each_turn(publisher, "t", 8);
    world.unstick(reader);
    let told: Vec<Event> = world.clients[reader].seen.iter().skip(2).cloned().collect();
    let gap = |from, to| Event::Gap { topic: "t".into(), from, to };
    let at = |wanted: &dyn Fn(&Event) -> bool| {
        told.iter().position(wanted).unwrap_or_else(|| panic!("not all was told: {told:?}"))
    };
    let first_gap = at(&|event| *event == gap(2, 5));
    let ok_left = at(&|event| matches!(event, Event::Ok { id, .. } if *id == left));
    let ok_back = at(&|event| matches!(event, Event::Ok { id, seq: Some(8), .. } if *id == back));
    let second_gap = at(&|event| *event == gap(9, 16));
    assert!(first_gap < ok_left && ok_left < ok_back && ok_back < second_gap, "{told:?}");
    world.end();
}

/// A subscriber that takes nothing is moved past everything that it is owed, and nothing is published
/// after that.
#[test]
fn a_gap_is_told_even_if_nothing_follows_it() {
    let knobs = Knobs { owed_bytes_max: 200, policy: SlowConsumer::Skip, ..Knobs::calm(1) };
    let mut world = World::new(knobs);
    let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Json));
    world.subscribe(reader, "t");
    world.settle();
    world.stick(reader);
    world.publish_each_turn(publisher, "t", 5);
    world.unstick(reader);
    assert_eq!(world.clients[reader].seen.last(), Some(&Event::Gap { topic: "t".into(), from: 2, to: 5 }));
    world.publish(publisher, "t");
    world.settle();
    assert_eq!(world.seqs(reader, "t"), [1, 6]);
    world.end();
}

/// A subscriber that takes nothing is moved forward in more topics than gaps are kept for: topics that it
/// named, beside a filter that matches none of them.
#[test]
fn more_gaps_than_are_kept_tell_to_resynchronise_all_that_is_missing() {
    let knobs = Knobs { owed_bytes_max: 60, policy: SlowConsumer::Skip, ..Knobs::calm(1) };
    let mut world = World::new(knobs);
    let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Json));
    world.subscribe(reader, "other/#");
    let topics: Vec<String> = (0..70).map(|number| format!("t/{number}")).collect();
    for topic in &topics {
        world.subscribe(reader, topic);
    }
    world.settle();
    world.stick(reader);
    for topic in &topics {
        world.publish(publisher, topic);
        world.settle();
    }
    world.unstick(reader);
    let seen = &world.clients[reader].seen;
    assert_eq!(seen.iter().filter(|event| matches!(event, Event::Gap { .. })).count(), 64);
    assert!(seen.contains(&Event::Resync { filter: "#".into() }));
    world.end();
}

/// As above, but every topic is of one filter.
#[test]
fn more_gaps_than_are_kept_name_the_filter_that_they_are_of() {
    let knobs = Knobs { owed_bytes_max: 60, policy: SlowConsumer::Skip, ..Knobs::calm(1) };
    let mut world = World::new(knobs);
    let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Json));
    world.subscribe(reader, "other/#");
    world.subscribe(reader, "t/#");
    world.settle();
    world.stick(reader);
    for number in 0..70 {
        world.publish(publisher, &format!("t/{number}"));
        world.settle();
    }
    world.unstick(reader);
    assert!(world.clients[reader].seen.contains(&Event::Resync { filter: "t/#".into() }));
    world.end();
}

/// A wildcard subscriber is moved forward in a topic while its socket takes nothing. Before it can be
/// told, more topics than the reactor keeps move on.
#[test]
fn a_gap_outlives_the_view_that_it_is_of() {
    let knobs = Knobs { topics_max: 4, owed_bytes_max: 100, policy: SlowConsumer::Skip, ..Knobs::calm(1) };
    let mut world = World::new(knobs);
    let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Json));
    world.subscribe(reader, "t/#");
    world.settle();
    world.stick(reader);
    for topic in ["t/0", "t/1", "t/1", "t/2", "t/3", "t/4", "t/5", "t/6", "t/7"] {
        world.publish(publisher, topic);
        world.settle();
    }
    world.unstick(reader);
    let is_told = |event: &Event| matches!(event, Event::Gap { topic, .. } if topic == "t/1");
    assert!(world.clients[reader].seen.iter().any(is_told));
    world.end();
}

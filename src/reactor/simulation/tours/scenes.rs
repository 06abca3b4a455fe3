//! Tours, scene by scene.

use super::*;
use crate::protocol::publication::LastValue;

#[test]
fn a_tour_begins_with_the_newest_of_each_topic_and_says_when_it_has_all() {
    for reactor_count in [1, 2, 4] {
        let mut world = World::new(keeping(reactor_count, 100));
        let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Binary));
        for index in 0..30 {
            world.publish_each_turn(publisher, &format!("a/{index}"), 3);
        }
        world.publish_each_turn(publisher, "b", 3);
        world.tour(reader, "a/#", r#""last":1"#);
        world.settle();
        world.publish_each_turn(publisher, "a/7", 2);
        world.publish_each_turn(publisher, "a/new", 1);
        for index in (0..30).filter(|index| *index != 7) {
            assert_eq!(world.seqs(reader, &format!("a/{index}")), [3]);
        }
        assert_eq!(world.seqs(reader, "a/7"), [3, 4, 5]);
        assert_eq!(world.seqs(reader, "a/new"), [1]);
        let replayed = world.replayed(reader);
        assert_eq!(replayed.iter().map(|it| (it.count, it.is_recovered)).collect::<Vec<_>>(), [(30, true)]);
        world.end();
    }
}

/// Of topics that keep their values alone, whichever way.
#[test]
fn a_tour_brings_values() {
    for reactor_count in [1, 2] {
        let mut knobs = Knobs::calm(reactor_count);
        let policy = |filter: &str| TopicPolicy { filter: filter.into(), ..TopicPolicy::default() };
        knobs.policies = vec![
            TopicPolicy { last_value: Some(LastValue::Newest), ..policy("a/last/+") },
            TopicPolicy { retain: Some(Retain::Clients), ..policy("a/kept/+") },
        ];
        let mut world = World::new(knobs);
        let (first, publisher) = (world.open(0, Format::Json), world.open(0, Format::Binary));
        for index in 0..6 {
            world.publish_each_turn(publisher, &format!("a/last/{index}"), 2);
            world.publish_value(publisher, &format!("a/kept/{index}"), 20, false, true);
            world.publish_each_turn(publisher, &format!("a/kept/{index}"), 2);
        }
        world.publish_value(publisher, "a/kept/5", 20, true, true);
        world.publish_value(publisher, "a/last/5", 20, true, false);
        world.settle();
        world.tour(first, "a/#", r#""last":1"#);
        world.settle();
        for index in 0..5 {
            assert_eq!(world.seqs(first, &format!("a/last/{index}")), [2]);
            assert_eq!(world.seqs(first, &format!("a/kept/{index}")), [1], "and none of those behind it");
        }
        assert!(world.seqs(first, "a/kept/5").is_empty() && world.seqs(first, "a/last/5").is_empty());
        let at = world.replayed(first)[0].at.clone();
        assert_eq!(world.replayed(first)[0].count, 10);
        world.say_goodbye(first);
        world.settle();
        world.publish_value(publisher, "a/kept/1", 20, false, true);
        world.publish_each_turn(publisher, "a/kept/2", 1);
        world.publish_each_turn(publisher, "a/last/3", 1);
        let second = world.open(reactor_count - 1, Format::Json);
        world.tour(second, "a/#", &format!(r#""since":{{"at":"{at}"}}"#));
        world.settle();
        assert_eq!(world.seqs(second, "a/kept/1"), [4]);
        assert_eq!(world.seqs(second, "a/last/3"), [3]);
        assert_eq!((world.replayed(second)[0].count, world.replayed(second)[0].is_recovered), (2, false));
        world.publish_each_turn(publisher, "a/kept/2", 1);
        assert_eq!(world.seqs(second, "a/kept/2"), [5]);
        world.end();
    }
}

/// What is retained in mid tour comes once, in its place: with the last pass, or live.
#[test]
fn a_value_that_is_retained_in_mid_tour_comes_once() {
    for moment in 0..6 {
        let mut knobs = Knobs::calm(2);
        knobs.net.window_bytes = 700;
        let retain = Some(Retain::Clients);
        knobs.policies = vec![TopicPolicy { filter: "a/#".into(), retain, ..TopicPolicy::default() }];
        let mut world = World::new(knobs);
        let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Binary));
        for index in 0..3 {
            world.publish_value(publisher, &format!("a/{index}"), 20, false, true);
        }
        world.settle();
        world.tour(reader, "a/#", r#""last":1"#);
        world.write_all();
        for step in 0..40 {
            world.turns(0, 1);
            world.turns(1, 1);
            world.read(reader, 600);
            for index in 0..3 {
                let is_now = (step + index + moment) % 3 == 0;
                world.publish_value(publisher, &format!("a/{index}"), 20, false, is_now);
            }
            world.write_all();
        }
        world.settle();
        assert_eq!(world.replayed(reader).len(), 1);
        for index in 0..3 {
            let topic = format!("a/{index}");
            world.publish_each_turn(publisher, &topic, 1);
            let seqs = world.seqs(reader, &topic);
            assert!(seqs.is_sorted_by(|one, next| one < next), "{topic} after {moment}: {seqs:?}");
            assert_eq!(seqs.last(), Some(&42));
        }
        world.end();
    }
}

/// A topic that the connection receives by its name goes on, and is left out.
#[test]
fn a_tour_leaves_out_what_a_name_brings() {
    let mut world = World::new(keeping(1, 100));
    let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Binary));
    for index in 0..3 {
        world.publish_each_turn(publisher, &format!("a/{index}"), 2);
    }
    world.subscribe(reader, "a/1");
    world.settle();
    world.tour(reader, "a/#", r#""last":2"#);
    world.settle();
    assert_eq!(world.seqs(reader, "a/0"), [1, 2]);
    assert!(world.seqs(reader, "a/1").is_empty());
    world.end();
}

/// Exactly those that changed, of which some the client never heard.
#[test]
fn a_client_comes_back_for_what_changed() {
    for reactor_count in [1, 2, 4] {
        let mut world = World::new(keeping(reactor_count, 100));
        let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Binary));
        for index in 0..20 {
            world.publish_each_turn(publisher, &format!("a/{index}"), 2);
        }
        world.tour(reader, "a/#", r#""resume":true"#);
        world.settle();
        world.publish_each_turn(publisher, "a/1", 2);
        let at = world.replayed(reader)[0].at.clone();
        assert_eq!(world.replayed(reader)[0].count, 0);
        world.say_goodbye(reader);
        world.settle();
        for topic in ["a/1", "a/2", "a/never"] {
            world.publish_each_turn(publisher, topic, 3);
        }
        let reader = world.open(reactor_count - 1, Format::Binary);
        let epoch = world.epoch();
        world.tour(reader, "a/#", &format!(r#""since":{{"at":"{at}","epochs":{{"{epoch}":{{"a/1":4}}}}}}"#));
        world.settle();
        assert_eq!(world.seqs(reader, "a/1"), [5, 6, 7]);
        assert_eq!(world.seqs(reader, "a/2"), [3, 4, 5]);
        assert_eq!(world.seqs(reader, "a/never"), [1, 2, 3]);
        assert!(world.seqs(reader, "a/3").is_empty());
        let replayed = world.replayed(reader);
        assert_eq!(replayed.iter().map(|it| (it.count, it.is_recovered)).collect::<Vec<_>>(), [(9, true)]);
        world.end();
    }
}

/// What a moment of another broker, or none, is worth: the newest that are asked for, and no claim.
#[test]
fn a_place_of_another_broker_is_not_come_back_to() {
    let mut world = World::new(keeping(2, 100));
    let publisher = world.open(0, Format::Json);
    world.publish_each_turn(publisher, "a/1", 3);
    let epoch = world.epoch();
    for (since, is_recovered) in [
        (r#"{"at":"0123456789abcdef.1.1"}"#.to_owned(), false),
        (format!(r#"{{"at":"{epoch}.1"}}"#), false),
        (format!(r#"{{"at":"{epoch}.1.1.1"}}"#), false),
        (r#"{"at":"no moment"}"#.to_owned(), false),
        (format!(r#"{{"epochs":{{"{epoch}":{{"a/1":1}}}}}}"#), false),
        (format!(r#"{{"at":"{epoch}.1.1","epochs":{{"0123456789abcdef":{{"a/1":1}}}}}}"#), false),
        (format!(r#"{{"at":"{epoch}.1.1","epochs":{{"{epoch}":{{"a/gone":1}}}}}}"#), false),
        (format!(r#"{{"at":"{epoch}.1.1","epochs":{{"{epoch}":{{"a/1":9}}}}}}"#), false),
        (format!(r#"{{"at":"{epoch}.1.1","epochs":{{"{epoch}":{{"a/1":2}}}}}}"#), true),
        (format!(r#"{{"at":"{epoch}.1.1","epochs":{{"0123456789abcdef":{{}}}}}}"#), true),
    ] {
        let reader = world.open(0, Format::Json);
        world.tour(reader, "a/#", &format!(r#""last":2,"since":{since}"#));
        world.settle();
        assert_eq!(world.replayed(reader)[0].is_recovered, is_recovered, "{since}");
        world.publish_each_turn(publisher, "a/2", 1);
        let newest = world.oracle.newest().find(|(topic, _)| *topic == "a/2").map(|(_, seq)| seq);
        assert_eq!(world.seqs(reader, "a/2").last().copied(), newest, "it is subscribed in any case");
        world.say_goodbye(reader);
        world.settle();
    }
    world.end();
}

/// What was published meanwhile to a topic that is not there any more is missing, whoever does not list it.
#[test]
fn a_filter_of_whose_topics_one_was_evicted_meanwhile_is_not_recovered() {
    for (is_evicted_before, is_recovered) in [(true, true), (false, false)] {
        let mut world = World::new(Knobs { topics_max: 4, ..keeping(1, 100) });
        let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Binary));
        let evict = |world: &mut World| {
            world.publish_each_turn(publisher, "a/1", 1);
            world.settle();
            for index in 0..8 {
                world.publish_each_turn(publisher, &format!("b/{index}"), 1);
                world.settle();
            }
        };
        if is_evicted_before {
            evict(&mut world);
        }
        world.tour(reader, "a/#", r#""resume":true"#);
        world.settle();
        let at = world.replayed(reader)[0].at.clone();
        world.say_goodbye(reader);
        world.settle();
        if !is_evicted_before {
            evict(&mut world);
        }
        let reader = world.open(0, Format::Json);
        world.tour(reader, "a/#", &format!(r#""since":{{"at":"{at}"}}"#));
        world.settle();
        assert_eq!(world.replayed(reader)[0].is_recovered, is_recovered);
        world.end();
    }
}

/// A topic that keeps nothing among those that do is none of which anybody can say that nothing is missing.
#[test]
fn a_filter_over_topics_of_which_some_keep_nothing_is_not_recovered() {
    let mut knobs = keeping(1, 100);
    knobs.policies.push(TopicPolicy {
        filter: "a/loose/#".into(),
        history_count: Some(0),
        ..TopicPolicy::default()
    });
    let mut world = World::new(knobs);
    for (filter, is_recovered) in
        [("a/#", false), ("a/+", false), ("b/#", true), ("+/x", true), ("a/loose/+", false)]
    {
        let reader = world.open(0, Format::Json);
        let at = format!("{}.1", world.epoch());
        world.tour(reader, filter, &format!(r#""since":{{"at":"{at}"}}"#));
        world.settle();
        assert_eq!(world.replayed(reader)[0].is_recovered, is_recovered, "{filter}");
    }
    world.end();
}

/// A client that holds filters, by which it receives some of the topics: these are left out, and nothing else is.
#[test]
fn a_tour_leaves_out_what_other_filters_bring() {
    let mut world = World::new(keeping(2, 100));
    let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Binary));
    for index in 0..30 {
        world.publish_each_turn(publisher, &format!("a/{}/{index}", index % 3), 1);
    }
    for index in 0..20 {
        world.subscribe(reader, &format!("z/{index}/#"));
    }
    world.subscribe(reader, "a/1/+");
    world.settle();
    let desk = world.reactor(0).desk();
    assert_eq!(desk.fanout.filters_of(0).0.max(desk.fanout.filters_of(1).0), 21);
    world.tour(reader, "a/#", r#""last":1"#);
    world.settle();
    for index in 0..30 {
        let is_left_out = index % 3 == 1;
        assert_eq!(world.seqs(reader, &format!("a/{}/{index}", index % 3)).is_empty(), is_left_out);
    }
    assert_eq!(world.replayed(reader)[0].count, 20);
    world.publish_each_turn(publisher, "a/1/1", 1);
    assert_eq!(world.seqs(reader, "a/1/1"), [2]);
    world.end();
}

/// A client that takes nothing is in mid tour: what matches the same is refused, and what does not is not.
#[test]
fn what_a_tour_is_about_is_left_alone_until_it_is_over() {
    let mut knobs = keeping(2, 1_000);
    knobs.net.window_bytes = 500;
    let mut world = World::new(knobs);
    let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Binary));
    for index in 0..40 {
        world.publish_each_turn(publisher, &format!("a/{index}"), 5);
    }
    world.publish_each_turn(publisher, "b/1", 2);
    world.stick(reader);
    world.tour(reader, "a/#", r#""last":5"#);
    world.settle();
    assert_eq!(world.reactor(0).desk().fanout.tour_count(), 1);
    world.subscribe(reader, "a/1");
    world.subscribe(reader, "a/+");
    world.tour(reader, "#", r#""last":1"#);
    world.subscribe(reader, "b/1");
    world.tour(reader, "b/+", r#""last":1"#);
    world.publish_each_turn(publisher, "a/1", 2);
    world.unstick(reader);
    assert_eq!(world.errors(reader), ["busy"; 3]);
    assert_eq!(world.seqs(reader, "a/1"), (1..=7).collect::<Vec<_>>());
    assert!(world.seqs(reader, "b/1").is_empty(), "it is received by its name, from now on");
    assert_eq!(world.replayed(reader).iter().map(|it| it.count).collect::<Vec<_>>(), [0, 202]);
    world.publish_each_turn(publisher, "b/1", 1);
    assert_eq!(world.seqs(reader, "b/1"), [3]);
    world.end();
}

/// The filter of a tour is taken back at every moment of it, and subscribed to again.
#[test]
fn a_tour_ends_with_its_filter() {
    for moment in 0..24 {
        let mut knobs = keeping(2, 1_000);
        knobs.net.window_bytes = 700;
        let mut world = World::new(knobs);
        let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Binary));
        for index in 0..20 {
            world.publish_each_turn(publisher, &format!("a/{index}"), 2);
        }
        world.tour(reader, "a/#", r#""last":2"#);
        world.write_all();
        for _ in 0..moment {
            world.turns(0, 1);
            world.turns(1, 1);
            world.read(reader, 300);
            world.publish(publisher, "a/1");
            world.write_all();
        }
        world.unsubscribe(reader, "a/#");
        world.settle();
        assert_eq!(world.reactor(0).desk().fanout.tour_count(), 0);
        let before = world.clients[reader].seen.len();
        world.publish_each_turn(publisher, "a/2", 1);
        assert_eq!(world.clients[reader].seen.len(), before, "after {moment}: nothing comes any more");
        world.subscribe(reader, "a/#");
        world.settle();
        world.publish_each_turn(publisher, "a/3", 1);
        assert_eq!(world.clients[reader].seen.len(), before + 2);
        world.end();
    }
}

/// Topics that have lost all since: each is told, however many they are, and no more of that waits than the client takes.
#[test]
fn what_is_gone_of_very_many_topics_waits_for_who_takes_nothing() {
    let mut knobs = keeping(1, 100);
    knobs.policies[0].history_ms = Some(1_000);
    knobs.net.window_bytes = 500;
    let mut world = World::new(knobs);
    let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Binary));
    world.tour(reader, "a/#", r#""resume":true"#);
    world.settle();
    let at = world.replayed(reader)[0].at.clone();
    world.say_goodbye(reader);
    for index in 0..300 {
        world.publish(publisher, &format!("a/{index}"));
        world.write_all();
    }
    world.settle();
    world.pass(2 * SECOND);
    world.settle();
    let reader = world.open(0, Format::Json);
    world.stick(reader);
    world.tour(reader, "a/#", &format!(r#""since":{{"at":"{at}"}}"#));
    world.peaks.replies = 0;
    world.settle();
    assert!(world.peaks.replies < 2_000, "{} bytes of replies wait", world.peaks.replies);
    assert_eq!(world.reactor(0).desk().fanout.tour_count(), 1);
    world.unstick(reader);
    assert_eq!(world.replayed(reader).iter().map(|it| it.count).collect::<Vec<_>>(), [0]);
    let is_gap = |event: &&Event| matches!(event, Event::Lapsed { .. });
    assert_eq!(world.clients[reader].seen.iter().filter(is_gap).count(), 300);
    world.end();
}

/// What clients list is counted as what they have under way, as long as it is needed.
#[test]
fn names_that_are_listed_count_until_what_came_after_is_asked_for() {
    let mut world = World::new(keeping(2, 1_000));
    let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Binary));
    for tour in 0..4 {
        for index in 0..20 {
            world.publish_each_turn(publisher, &format!("a/{tour}/{index}"), 2);
        }
    }
    world.stick(reader);
    world.ping(reader);
    world.settle();
    let name = "n".repeat(200);
    let bytes = |world: &World| world.reactor(0).desk().buffered.bytes();
    let mut listed_bytes = 0;
    for tour in 0..4 {
        let listed: Vec<String> = (0..100).map(|index| format!(r#""a/{tour}/{index:02}{name}":1"#)).collect();
        let epochs = format!(r#"{{"{}":{{{}}}}}"#, world.epoch(), listed.join(","));
        world.tour(reader, &format!("a/{tour}/+"), &format!(r#""last":2,"since":{{"epochs":{epochs}}}"#));
        world.settle();
        listed_bytes += 100 * (200 + 24);
        assert!(bytes(&world) > listed_bytes, "{} bytes of {listed_bytes}", bytes(&world));
    }
    world.unsubscribe(reader, "a/3/+");
    world.settle();
    assert!(bytes(&world) < listed_bytes, "whose filter is taken back needs no names");
    world.unstick(reader);
    assert_eq!((bytes(&world), world.replayed(reader).len()), (0, 3));
    world.end();
}

/// Pages that wait until the log is full are let go of, and come all the same when their client takes something: nothing that is kept
/// is missing, in whichever pass that is.
#[test]
fn pages_that_the_log_has_no_room_for_are_asked_for_anew() {
    let mut anew_count = 0;
    for (moment, keeps_since) in (0..12).flat_map(|moment| [(moment, true), (moment, false)]) {
        let mut world = World::new(with_little_log(keeping(2, 1_000)));
        let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Binary));
        world.hoard();
        for index in 0..10 {
            world.publish_each_turn(publisher, &format!("a/{index}"), 3);
        }
        world.tour(reader, "a/#", r#""resume":true"#);
        world.settle();
        let at = world.replayed(reader)[0].at.clone();
        world.say_goodbye(reader);
        if !keeps_since {
            for index in 0..10 {
                world.publish_each_turn(publisher, &format!("a/{index}"), 2);
            }
        }
        let reader = world.open(0, Format::Json);
        world.stick(reader);
        world.ping(reader);
        world.settle();
        let listed: Vec<String> = (0..10).map(|index| format!(r#""a/{index}":3"#)).collect();
        let epochs = format!(r#""epochs":{{"{}":{{{}}}}}"#, world.epoch(), listed.join(","));
        world.tour(reader, "a/#", &format!(r#""since":{{"at":"{at}",{epochs}}}"#));
        world.write_all();
        for _ in 0..moment {
            world.turns(0, 1);
            world.turns(1, 1);
            for index in 0..10 {
                world.publish(publisher, &format!("a/{index}"));
            }
            world.write_all();
        }
        world.settle();
        let before = world.reactor(0).desk().fanout.replayed_total();
        world.fill_log(publisher, 100);
        world.unstick(reader);
        let replayed = world.replayed(reader);
        assert_eq!(replayed.len(), 1);
        let count = replayed[0].count;
        assert!(replayed[0].is_recovered, "after {moment}: nothing is missing");
        let handed_over = world.reactor(0).desk().fanout.replayed_total();
        anew_count += u64::from(handed_over > count);
        assert!(handed_over >= before.max(count));
        for index in 0..10 {
            let topic = format!("a/{index}");
            let newest = world.oracle.newest().find(|(name, _)| *name == topic).expect("it is there").1;
            assert_eq!(world.seqs(reader, &topic), (4..=newest).collect::<Vec<_>>(), "after {moment}");
        }
        world.end();
    }
    assert!(anew_count > 12, "pages went {anew_count} times");
}

/// What is live of a client waits for the last pages of its tour, and is held to what it may be owed meanwhile.
#[test]
fn who_is_held_up_is_owed_no_more_than_others() {
    let mut knobs = Knobs { owed_bytes_max: 4_000, may_close: true, ..keeping(2, 100) };
    knobs.policies[0].history_count = Some(1);
    let mut world = World::new(knobs);
    let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Json));
    let live = world.topic_at(0, "t");
    let holder = world.open(0, Format::Json);
    world.subscribe(holder, "a/#");
    world.subscribe(reader, &live);
    world.settle();
    world.tour(reader, "a/#", r#""resume":true"#);
    world.write_all();
    // The other home does not answer.
    for _ in 0..100 {
        world.publish_as(publisher, &live, 300, true, false, false, None);
        world.write_all();
        world.turns(0, 4);
        world.read(reader, usize::MAX);
    }
    assert_eq!(world.closed_with(reader), Some(Some(4000)));
    world.settle();
    world.end();
}

/// A drain goes on until a tour is over, though its client takes little, and its home has no connections.
#[test]
fn a_tour_is_over_before_its_connection_is_drained() {
    for is_live in [false, true] {
        let mut knobs = Knobs { may_close: true, ..keeping(2, 100) };
        knobs.net.window_bytes = 500;
        let mut world = World::new(knobs);
        let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Json));
        for index in 0..20 {
            world.publish_each_turn(publisher, &format!("a/{index}"), 3);
        }
        world.tour(reader, "a/#", r#""last":3"#);
        world.write_all();
        // While its pages are asked for, or in mid tour with something that is live besides.
        if is_live {
            for index in 0..20 {
                world.turns(0, 1);
                world.turns(1, 1);
                world.publish(publisher, &format!("a/{index}"));
                world.write_all();
            }
        }
        (0..2).for_each(|index| world.order_drain(index));
        world.pass(2 * SECOND);
        let count = if is_live { 4 } else { 3 };
        for index in 0..20 {
            assert_eq!(world.seqs(reader, &format!("a/{index}")), (1..=count).collect::<Vec<_>>());
        }
        assert_eq!(world.replayed(reader).len(), 1);
        assert_eq!(world.closed_with(reader), Some(Some(1012)));
        assert!(world.reactors.iter().all(Option::is_none));
        world.oracle.check_over();
    }
}

/// One that never ends, since its client takes nothing, does not hold a drain up.
#[test]
fn a_stuck_tour_ends_with_the_drain() {
    let mut world = World::new(Knobs { may_close: true, ..keeping(2, 100) });
    let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Json));
    for index in 0..40 {
        world.publish_each_turn(publisher, &format!("a/{index}"), 5);
    }
    world.stick(reader);
    world.tour(reader, "a/#", r#""last":5"#);
    world.settle();
    assert_eq!(world.reactor(0).desk().fanout.tour_count(), 1);
    (0..2).for_each(|index| world.order_drain(index));
    world.pass(60 * SECOND);
    assert!(world.reactors.iter().all(Option::is_none));
}

/// Nothing is left of a tour whose client goes before it holds its filter.
#[test]
fn whoever_goes_in_mid_tour_leaves_nothing() {
    for moment in 0..6 {
        let mut world = World::new(keeping(2, 100));
        let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Json));
        for index in 0..40 {
            world.publish_each_turn(publisher, &format!("a/{index}"), 2);
        }
        world.stick(reader);
        world.tour(reader, "a/#", r#""last":2"#);
        world.write_all();
        world.turns(0, moment);
        world.turns(1, moment);
        world.reset(reader);
        world.settle();
        assert_eq!(world.reactor(0).desk().fanout.subscription_count(), 0);
        world.end();
    }
}

/// A guest that receives the same by a filter, publishes to it and hangs for a while, while clients are in mid tour: they have
/// everything once, and so has it what came after its subscription.
#[test]
fn a_guest_and_tours_do_not_mind_each_other() {
    for moment in 0..16 {
        let mut knobs = keeping(2, 1_000);
        knobs.net.window_bytes = 700;
        let mut world = World::new(knobs);
        let (reader, publisher) = (world.open(0, Format::Json), world.open(1, Format::Binary));
        for index in 0..20 {
            world.publish_each_turn(publisher, &format!("a/{index}"), 2);
        }
        let by_guest = world.oracle.add_client();
        let listener = world.listen();
        world.tour(reader, "a/#", r#""last":2"#);
        world.write_all();
        for round in 0..24 {
            if round == moment {
                world.listener_subscribes(listener, "a/+");
            }
            world.guest.is_hung = round > moment + 4;
            world.turns(0, 1);
            world.turns(1, 1);
            world.turn_guest();
            world.read(reader, 300);
            world.publish(publisher, &format!("a/{round}"));
            if !world.guest.is_hung {
                world.guest_publishes(by_guest, "a/7", 40, None);
            }
            world.write_all();
        }
        world.guest.is_hung = false;
        world.settle();
        assert_eq!(world.replayed(reader).len(), 1, "after {moment}");
        let newest: Vec<(String, u64)> =
            world.oracle.newest().map(|(topic, seq)| (topic.to_owned(), seq)).collect();
        for (topic, newest) in newest {
            assert_eq!(
                world.seqs(reader, &topic),
                (1..=newest).collect::<Vec<_>>(),
                "{topic} after {moment}"
            );
        }
        world.end();
    }
}

//! Races and limits, each arranged on purpose.

use std::sync::mpsc;

use super::*;
use crate::{
    protocol::topic,
    pubsub::policy::Bound,
    reactor::{
        buffered::Buffered,
        lingering::{LINGER_BYTES_MAX, QUIET_MS},
        share::Share,
        transport::Flight,
    },
};

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
    let topic = world.topic_at(0, "t");
    let (slow, publisher) = world.open_stuck(&[&topic]);
    world.subscribe(slow, "a/#");
    for _ in 0..10 {
        world.publish(publisher, &topic);
        world.write_all();
        world.turns(0, 3);
    }
    assert!(matches!(world.reactor(0).desk().connections[0].phase, Phase::Closing(_)));
    world.unstick(slow);
    assert!(matches!(world.closed_with(slow), Some(Some(4000))));
    world.end();
}

/// A wildcard subscriber has taken all of a topic, but its socket has not. More topics than the reactor
/// keeps move on, and then the first one does again.
#[test]
fn a_view_is_not_evicted_while_its_bytes_are_in_flight() {
    let mut world = World::new(Knobs { topics_max: 4, ..Knobs::calm(1) });
    let (reader, publisher) = world.open_stuck(&["t/#"]);
    for topic in ["t/0", "t/1", "t/2", "t/3", "t/4", "t/5", "t/6", "t/7", "t/0"] {
        world.publish(publisher, topic);
        world.settle();
    }
    world.unstick(reader);
    assert_eq!(world.seqs(reader, "t/0").len(), 2);
    world.end();
}

/// A reactor asks a home that drains, and sleeps. The home's last turn answers.
#[test]
fn a_reactor_that_ends_wakes_those_whom_it_answered() {
    let mut world = World::new(Knobs { may_close: true, ..Knobs::calm(2) });
    let subscriber = world.open(0, Format::Json);
    let topic = world.topic_at(1, "t");
    world.order(1, Order::Drain { within_ms: 0, emptied: None });
    world.turns(1, 1);
    world.subscribe(subscriber, &topic);
    world.write_all();
    world.turns(0, 5);
    assert!(world.asleep_until_ns[0].is_some());
    world.net.fail_wakes(1);
    world.turns(1, 5);
    assert!(world.reactors[1].is_none(), "the home has ended");
    world.turns(0, 5);
    world.read(subscriber, usize::MAX);
    assert!(matches!(world.clients[subscriber].seen.last(), Some(Event::Ok { seq: Some(0), .. })));
    world.end();
}

/// A subscriber that takes nothing is moved forward twice, and between the two says that it leaves the topic and comes
/// back: it leaves when it has been sent, or told, what was published before.
#[test]
fn a_gap_is_told_before_its_topic_is_left() {
    let knobs = Knobs { owed_bytes_max: 200, policy: SlowConsumer::Skip, ..Knobs::calm(1) };
    let mut world = World::new(knobs);
    let (reader, publisher) = world.open_stuck(&["t"]);
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
    let first_gap = at(&|event| *event == gap(2, 7));
    let ok_left = at(&|event| matches!(event, Event::Ok { id, .. } if *id == left));
    let ok_back = at(&|event| matches!(event, Event::Ok { id, seq: Some(16), .. } if *id == back));
    let second_gap = at(&|event| *event == gap(8, 13));
    assert!(first_gap < second_gap && second_gap < ok_left && ok_left < ok_back, "{told:?}");
    world.end();
}

/// A subscriber that takes nothing is moved past everything that it is owed, since half of its bound is less
/// than one publication, and nothing is published after that.
#[test]
fn a_gap_is_told_even_if_nothing_follows_it() {
    let knobs = Knobs { owed_bytes_max: 100, policy: SlowConsumer::Skip, ..Knobs::calm(1) };
    let mut world = World::new(knobs);
    let (reader, publisher) = world.open_stuck(&["t"]);
    world.publish_each_turn(publisher, "t", 5);
    world.unstick(reader);
    assert_eq!(world.clients[reader].seen.last(), Some(&Event::Gap { topic: "t".into(), from: 2, to: 5 }));
    world.publish(publisher, "t");
    world.settle();
    assert_eq!(world.seqs(reader, "t"), [1, 6]);
    world.end();
}

/// A frame is half sent when its reader is too far behind: the frame comes whole, the gap begins with the
/// next one, and the newest publications that fit into half of the bound are left.
#[test]
fn who_is_moved_forward_in_mid_frame_gets_that_frame_the_gap_and_the_newest() {
    let knobs = Knobs { owed_bytes_max: 400, policy: SlowConsumer::Skip, ..Knobs::calm(1) };
    let mut world = World::new(knobs);
    let (reader, publisher) = world.open_stuck(&["t"]);
    // Of the first, ten bytes are on their way; of the others, 59 bytes each, six are within the bound.
    world.publish_each_turn(publisher, "t", 8);
    world.unstick(reader);
    assert_eq!(world.seqs(reader, "t"), [1, 6, 7, 8]);
    assert!(world.clients[reader].seen.contains(&Event::Gap { topic: "t".into(), from: 2, to: 5 }));
    world.end();
}

/// Subscribers that take nothing, of topics of both policies, and nothing more is published: what is owed to
/// them grows too old all the same.
#[test]
fn what_is_owed_for_too_long_is_skipped_or_closes_its_connection() {
    for policy in [SlowConsumer::Disconnect, SlowConsumer::Skip] {
        let may_close = policy == SlowConsumer::Disconnect;
        let mut world = World::new(Knobs { owed_ms_max: 2_000, policy, may_close, ..Knobs::calm(1) });
        let (readers, publisher) = world.open_many_stuck(20, "t");
        world.publish_each_turn(publisher, "t", 3);
        world.pass(1_500 * MS);
        world.publish_each_turn(publisher, "t", 2);
        let judged = |world: &World| {
            let stats = &world.reactor(0).desk().stats;
            let totals = [stats.slow_skips_total, stats.slow_disconnects_total];
            totals.map(|totals| totals[Bound::OwedMs.index()])
        };
        assert_eq!(judged(&world), [0, 0], "nothing is older than two seconds");
        world.pass(SECOND);
        assert_eq!(judged(&world), if may_close { [0, 20] } else { [20, 0] });
        for &reader in &readers {
            world.unstick(reader);
            let gap = Event::Gap { topic: "t".into(), from: 2, to: 3 };
            assert_eq!(world.clients[reader].seen.contains(&gap), !may_close);
            match may_close {
                true => assert_eq!(world.closed_with(reader), Some(Some(4000))),
                false => assert_eq!(world.seqs(reader, "t"), [1, 4, 5]),
            }
        }
        world.end();
    }
}

/// Subscribers that take nothing and are held to no age, and nothing more is published: what a reload says of the topic of
/// one of them closes it all the same, and only it.
#[test]
fn a_policy_that_comes_later_closes_who_is_stuck_in_its_topic() {
    let mut world = World::new(Knobs { may_close: true, ..Knobs::calm(1) });
    let (held, publisher) = world.open_stuck(&["a/x"]);
    let (free, _) = world.open_stuck(&["b"]);
    for topic in ["a/x", "b"] {
        world.publish_each_turn(publisher, topic, 3);
    }
    world.pass(2 * SECOND);
    let policy = TopicPolicy { filter: "a/#".into(), owed_ms_max: Some(1_000), ..TopicPolicy::default() };
    world.knobs.policies = vec![policy];
    world.reload();
    world.pass(SECOND / 2);
    assert_eq!(world.reactor(0).desk().stats.slow_disconnects_total[Bound::OwedMs.index()], 1);
    [held, free].into_iter().for_each(|reader| world.unstick(reader));
    assert_eq!(world.closed_with(held), Some(Some(4000)));
    assert_eq!(world.seqs(free, "b"), [1, 2, 3]);
    world.end();
}

/// A subscriber that takes nothing is moved forward in more topics than gaps are kept for: topics that it
/// named, beside a filter that matches none of them.
#[test]
fn more_gaps_than_are_kept_tell_to_resynchronise_all_that_is_missing() {
    let knobs = Knobs { owed_bytes_max: 60, policy: SlowConsumer::Skip, ..Knobs::calm(1) };
    let mut world = World::new(knobs);
    let topics: Vec<String> = (0..70).map(|number| format!("t/{number}")).collect();
    let filters: Vec<&str> = ["other/#"].into_iter().chain(topics.iter().map(String::as_str)).collect();
    let (reader, publisher) = world.open_stuck(&filters);
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
    let (reader, publisher) = world.open_stuck(&["other/#", "t/#"]);
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
    let (reader, publisher) = world.open_stuck(&["t/#"]);
    for topic in ["t/0", "t/1", "t/1", "t/2", "t/3", "t/4", "t/5", "t/6", "t/7"] {
        world.publish(publisher, topic);
        world.settle();
    }
    world.unstick(reader);
    let is_told = |event: &Event| matches!(event, Event::Gap { topic, .. } if topic == "t/1");
    assert!(world.clients[reader].seen.iter().any(is_told));
    world.end();
}

/// Twelve subscribers, of whom a turn serves a few. While the sweep is under way, one that was served, one
/// that was not, and the one next in line leave, and two join.
#[test]
fn members_leave_and_join_during_a_sweep() {
    let mut world = World::new(Knobs::calm(1));
    let publisher = world.open(0, Format::Binary);
    let readers: Vec<usize> = (0..12).map(|_| world.open(0, Format::Json)).collect();
    for &reader in &readers {
        world.subscribe(reader, "t");
    }
    world.settle();
    world.publish(publisher, "t");
    world.write_all();
    while !world.reactor(0).desk().fanout.is_sweeping() {
        world.turns(0, 1);
    }
    for leaver in [0, 5, 11] {
        world.unsubscribe(readers[leaver], "t");
    }
    let joiners = [world.connect(0, Format::Json), world.connect(0, Format::Json)];
    world.write_all();
    world.turns(0, 1);
    assert!(world.reactor(0).desk().fanout.is_sweeping(), "the sweep is not over");
    world.settle();
    for joiner in joiners {
        world.subscribe(joiner, "t");
    }
    world.publish(publisher, "t");
    world.settle();
    for (index, &reader) in readers.iter().enumerate() {
        match index {
            0 | 5 | 11 => assert!(world.seqs(reader, "t").len() <= 1),
            _ => assert_eq!(world.seqs(reader, "t"), [1, 2]),
        }
    }
    world.end();
}

/// More members leave than stay, again and again, while publications go on: places are closed between
/// sweeps and nobody is lost by it.
#[test]
fn places_of_those_who_left_are_closed_without_losing_who_stays() {
    let mut world = World::new(Knobs::calm(1));
    let publisher = world.open(0, Format::Json);
    let stayer = world.open(0, Format::Json);
    world.subscribe(stayer, "t");
    for _ in 0..4 {
        let passers: Vec<usize> = (0..12).map(|_| world.open(0, Format::Json)).collect();
        passers.iter().for_each(|&passer| {
            world.subscribe(passer, "t");
        });
        world.settle();
        for passer in passers {
            world.publish(publisher, "t");
            world.hang_up(passer);
            world.write_all();
            world.turns(0, 1);
        }
        world.settle();
    }
    assert_eq!(world.seqs(stayer, "t"), (1..=48).collect::<Vec<u64>>());
    world.end();
}

/// A subscriber leaves and comes back while its reactor's batches are on their way, in one message and in
/// two.
#[test]
fn who_leaves_and_comes_back_starts_anew_behind_the_batches_in_flight() {
    for together in [false, true] {
        let mut world = World::new(Knobs::calm(2));
        let (reader, publisher) = (world.open(0, Format::Json), world.open(1, Format::Json));
        let topic = world.topic_at(1, "t");
        world.subscribe(reader, &topic);
        world.settle();
        for _ in 0..4 {
            world.publish(publisher, &topic);
            world.write_all();
            world.turns(1, 3);
        }
        // Four batches are in the queue to reactor 0, and it has not looked.
        if together {
            let topic = topic.clone();
            world.ask_together(reader, |world| {
                world.unsubscribe(reader, &topic);
                world.subscribe(reader, &topic);
            });
        } else {
            world.unsubscribe(reader, &topic);
            world.subscribe(reader, &topic);
        }
        world.publish(publisher, &topic);
        world.settle();
        world.publish(publisher, &topic);
        world.settle();
        assert_eq!(world.seqs(reader, &topic).last(), Some(&6));
        world.end();
    }
}

/// One connection, four subscriptions that match the same topic, two reactors and both formats.
#[test]
fn overlapping_filters_deliver_once_until_the_last_is_left() {
    for format in Format::ALL {
        let mut world = World::new(Knobs::calm(2));
        let (reader, publisher) = (world.open(0, format), world.open(1, Format::Json));
        for filter in ["a/#", "a/+", "#", "a/x"] {
            world.subscribe(reader, filter);
        }
        world.settle();
        for (left, filter) in ["a/x", "a/#", "#", "a/+"].into_iter().enumerate() {
            world.publish_counted(publisher, "a/x", Some(1));
            world.settle();
            assert_eq!(world.seqs(reader, "a/x").len(), left + 1);
            world.unsubscribe(reader, filter);
            world.settle();
        }
        world.publish_counted(publisher, "a/x", Some(0));
        world.settle();
        assert_eq!(world.seqs(reader, "a/x"), [1, 2, 3, 4]);
        world.end();
    }
}

/// A topic is in a reactor's view for one connection; another's filter begins to match it.
#[test]
fn a_wildcard_subscriber_gets_a_topic_that_is_already_in_view() {
    let mut world = World::new(Knobs::calm(2));
    let (first, second) = (world.open(0, Format::Json), world.open(0, Format::Json));
    let publisher = world.open(1, Format::Json);
    world.subscribe(first, "a/x");
    world.settle();
    world.publish(publisher, "a/x");
    world.settle();
    world.subscribe(second, "a/+");
    world.settle();
    world.publish_counted(publisher, "a/x", Some(2));
    world.settle();
    assert_eq!((world.seqs(first, "a/x"), world.seqs(second, "a/x")), (vec![1, 2], vec![2]));
    world.end();
}

/// Queues of one entry each way, and everyone publishes and subscribes across: for a while no reactor has
/// room anywhere.
#[test]
fn full_queues_in_both_directions_come_free_again() {
    let mut world = World::new(Knobs { queue_entries: 1, ..Knobs::calm(4) });
    let clients: Vec<usize> = (0..8).map(|index| world.open(index % 4, Format::ALL[index / 4])).collect();
    let topics: Vec<String> = (0..4).map(|home| world.topic_at(home, "t")).collect();
    for &client in &clients {
        for topic in &topics {
            world.subscribe(client, topic);
        }
        world.subscribe(client, "t0/#");
    }
    for round in 0..20 {
        for &client in &clients {
            world.publish_counted(client, &topics[(round + client) % 4], None);
        }
    }
    world.write_all();
    let mut has_been_closed = false;
    for round in 0..400 {
        // One reactor after another is left behind.
        for index in (0..4).filter(|index| *index != round / 10 % 4) {
            world.turns(index, 1);
            has_been_closed |= !world.reactor(index).desk().is_home_open();
        }
    }
    assert!(has_been_closed, "a home takes no more while nobody takes what it says");
    world.settle();
    for &client in &clients {
        assert_eq!(world.oracle.asked_count(client), 0);
    }
    world.end();
}

/// The home is not running. A client subscribes, leaves, and subscribes again; then the home answers.
#[test]
fn an_unsubscribe_may_overtake_the_answer_to_its_subscribe() {
    let mut world = World::new(Knobs::calm(2));
    let (reader, publisher) = (world.open(0, Format::Json), world.open(1, Format::Json));
    let topic = world.topic_at(1, "t");
    for returns in [false, true] {
        world.subscribe(reader, &topic);
        world.unsubscribe(reader, &topic);
        if returns {
            world.subscribe(reader, &topic);
        }
        world.write_all();
        world.turns(0, 4);
        world.settle();
        world.publish_counted(publisher, &topic, Some(u64::from(returns)));
        world.settle();
    }
    assert_eq!(world.seqs(reader, &topic), [2]);
    let desk = world.reactor(0).desk();
    assert_eq!((desk.fanout.view_count(), desk.pending.len()), (1, 0));
    world.end();
}

/// At home on the same reactor, or another; with an answer to the subscribe before, or without; while it reads, or not.
#[test]
fn whoever_publishes_and_unsubscribes_has_its_own_message_before_the_answer() {
    for (home, waits, sticks) in [(0, true, false), (1, true, false), (1, false, false), (1, true, true)] {
        let mut world = World::new(Knobs::calm(2));
        let topic = world.topic_at(home, "t");
        let (reader, other) = (world.open(0, Format::Json), world.open(1, Format::Json));
        world.subscribe(reader, &topic);
        if waits {
            world.settle();
        }
        if sticks {
            world.stick(reader);
            world.publish_each_turn(other, &topic, 3);
        }
        world.publish(reader, &topic);
        let left = world.unsubscribe(reader, &topic);
        world.settle();
        // Whoever reads has left; whoever does not is still owed this one as well.
        world.publish(other, &topic);
        world.settle();
        if sticks {
            world.unstick(reader);
        }
        let seqs = if sticks { vec![1, 2, 3, 4, 5] } else { vec![1] };
        assert_eq!(world.seqs(reader, &topic), seqs, "home {home}");
        let last = world.clients[reader].seen.last();
        assert!(matches!(last, Some(Event::Ok { id, .. }) if *id == left), "{last:?}");
        world.publish_counted(other, &topic, Some(0));
        world.settle();
        assert_eq!(world.reactor(0).desk().pending.len(), 0);
        world.end();
    }
}

/// It reads nothing, so that each of its unsubscribes waits: so do its commands, once there are as many as may be.
#[test]
fn whoever_is_leaving_many_topics_waits_with_its_commands() {
    let mut world = World::new(Knobs::calm(1));
    let topics: Vec<String> = (0..10).map(|number| format!("t/{number}")).collect();
    let (reader, other) = world.open_stuck(&topics);
    for topic in &topics {
        world.publish(other, topic);
    }
    world.settle();
    for topic in &topics {
        world.unsubscribe(reader, topic);
    }
    world.settle();
    // One whose message is in flight, and as many as may wait.
    assert_eq!(world.reactor(0).desk().fanout.subscription_count(), 10 - 1 - 3);
    world.unstick(reader);
    assert_eq!(world.reactor(0).desk().fanout.view_count(), 0);
    assert!(topics.iter().all(|topic| world.seqs(reader, topic) == [1]));
    world.end();
}

/// Nobody reads, so that their unsubscribes wait; and filters came since, which the topics' names are held against when
/// somebody leaves. Then all read at once.
#[test]
fn what_leaving_costs_counts_for_the_sends_that_bring_it_about() {
    let mut world = World::new(Knobs { plus_levels_max: Some(6), ..Knobs::calm(1) });
    let (stranger, other) = (world.open(0, Format::Json), world.open(0, Format::Json));
    for choice in 0..1 << 5 {
        let levels = (0..5).map(|level| if choice >> level & 1 == 1 { "+" } else { "a" });
        let filter: Vec<&str> = levels.chain(["none"]).collect();
        world.subscribe(stranger, &filter.join("/"));
        world.settle();
    }
    let readers: Vec<usize> = (0..share::SENDS_MAX).map(|_| world.open(0, Format::Json)).collect();
    // One whose message is in flight, and as many as may wait.
    let topic_of = |reader: usize, number: usize| format!("a/a/a/a/a/{reader}-{number}");
    for &reader in &readers {
        for number in 0..4 {
            world.subscribe(reader, &topic_of(reader, number));
        }
        world.settle();
        world.stick(reader);
        for number in 0..4 {
            world.publish(other, &topic_of(reader, number));
            world.settle();
        }
        for number in 1..4 {
            world.unsubscribe(reader, &topic_of(reader, number));
        }
        world.settle();
    }
    world.subscribe(stranger, "one/more/+");
    world.settle();
    world.peaks.work = 0;
    for &reader in &readers {
        world.clients[reader].pace = Pace::Eager;
        world.net.set_window(world.clients[reader].peer, 1 << 20);
    }
    world.settle();
    assert_eq!(world.reactor(0).desk().fanout.subscription_count() as usize, (1 << 5) + 1 + readers.len());
    // The last one's send, and the last topic that it leaves.
    let work_max = share::TURN + share::QUANTUM + 10 * UNIT;
    assert!(world.peaks.work <= work_max, "{} of {work_max}", world.peaks.work);
    world.end();
}

/// In every turn somebody subscribes to a new topic at home on the same reactor and publishes to it, which is handed over
/// later and might cost much.
#[test]
fn those_who_use_a_home_on_their_own_reactor_do_not_keep_it_from_others() {
    let mut world = World::new(Knobs::calm(2));
    let (busy, other) = (world.open(0, Format::Json), world.open(1, Format::Json));
    let far = world.topic_at(0, "far");
    world.publish(other, &far);
    world.write_all();
    world.turns(1, 3);
    for round in 0..5 {
        let topic = world.topic_at(0, &format!("t/{round}/"));
        world.ask_together(busy, |world| {
            world.subscribe(busy, &topic);
            world.publish(busy, &topic);
        });
        world.write_all();
        world.turns(0, 1);
        world.turns(1, 1);
        let commands = world.reactor(0).desk().stats.commands_total;
        assert_eq!(commands, 2 * (round + 1), "both in one turn");
    }
    assert_eq!(world.reactor(1).desk().pending.len(), 0, "the other's publication has its place");
    world.settle();
    world.end();
}

/// The home is not running. A client subscribes by name and by filter and publishes, and is gone, and
/// another has its slot, when the answers come.
#[test]
fn an_answer_that_comes_late_is_not_given_to_the_slots_next_owner() {
    let mut world = World::new(Knobs::calm(2));
    let topic = world.topic_at(1, "t");
    let first = world.open(0, Format::Json);
    world.subscribe(first, &topic);
    world.subscribe(first, "a/#");
    world.publish_counted(first, &topic, None);
    world.write_all();
    world.turns(0, 4);
    assert!(world.reactor(0).desk().pending.len() >= 2);
    world.reset(first);
    world.turns(0, 4);
    let second = world.connect(0, Format::Json);
    world.write_all();
    world.turns(0, 4);
    world.read(second, usize::MAX);
    assert_eq!(world.reactor(0).desk().connections.slot_count(), 1, "the second has the first one's slot");
    world.subscribe(second, &topic);
    world.write_all();
    world.turns(0, 4);
    world.settle();
    let oks = world.clients[second].seen.iter().filter(|event| matches!(event, Event::Ok { .. }));
    assert_eq!(oks.count(), 1, "the ok to its own subscribe");
    assert_eq!(world.reactor(0).desk().pending.len(), 0);
    world.end();
}

/// Publications that fill a chunk several times within a turn, and one that is larger than any chunk.
#[test]
fn a_chunk_that_is_full_in_mid_turn_loses_and_repeats_nothing() {
    for format in Format::ALL {
        let mut world = World::new(Knobs::calm(2));
        let (reader, publisher) = (world.open(0, format), world.open(1, Format::Binary));
        world.subscribe(reader, "t");
        world.settle();
        world.ask_together(publisher, |world| {
            for number in 0..20 {
                let len = if number == 10 { 400_000 } else { 30_000 };
                world.publish_as(publisher, "t", len, number % 2 == 0, true, false, None);
            }
        });
        world.settle();
        assert_eq!(world.seqs(reader, "t"), (1..=20).collect::<Vec<u64>>());
        world.end();
    }
}

/// A home keeps four topics. One that was forgotten comes back above everything that was forgotten.
#[test]
fn a_topic_that_comes_back_goes_on_above() {
    let mut world = World::new(Knobs { topics_max: 4, ..Knobs::calm(1) });
    let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Json));
    world.subscribe(reader, "t/#");
    world.settle();
    world.publish_each_turn(publisher, "t/0", 3);
    for number in 1..10 {
        world.publish_each_turn(publisher, &format!("t/{number}"), 1);
    }
    world.publish_each_turn(publisher, "t/0", 1);
    let seqs = world.seqs(reader, "t/0");
    assert_eq!(seqs.len(), 4);
    assert!(seqs[3] > 4, "{seqs:?}: what came between is counted as well");
    world.end();
}

/// As many topics with subscribers by name as the home keeps: one more is refused, to a subscriber and to
/// a publisher with and without an id, near and far.
#[test]
fn a_topic_too_many_is_told_to_whoever_asked() {
    let mut world = World::new(Knobs { topics_max: 2, ..Knobs::calm(2) });
    let (near, far) = (world.open(0, Format::Json), world.open(1, Format::Json));
    let topics: Vec<String> = ["a", "b", "c"].map(|prefix| world.topic_at(0, prefix)).into();
    world.subscribe(near, &topics[0]);
    world.subscribe(near, &topics[1]);
    world.settle();
    for client in [near, far] {
        world.subscribe(client, &topics[2]);
        world.publish(client, &topics[2]);
        world.publish_as(client, &topics[2], 20, true, false, false, None);
        world.settle();
        let refusals = world.clients[client].seen.iter();
        let refusals =
            refusals.filter(|event| matches!(event, Event::Error { code, .. } if code == "limit_reached"));
        assert_eq!(refusals.count(), 3);
    }
    world.end();
}

/// A subscriber that takes nothing, of a topic that does not skip, beside one that takes everything.
#[test]
fn a_slow_consumer_is_closed_with_4000_and_costs_nobody_else() {
    let knobs = Knobs { owed_bytes_max: 200, may_close: true, ..Knobs::calm(1) };
    let mut world = World::new(knobs);
    let (slow, publisher) = world.open_stuck(&["t"]);
    let quick = world.open(0, Format::Json);
    world.subscribe(quick, "t");
    world.settle();
    world.publish_each_turn(publisher, "t", 10);
    assert_eq!(world.seqs(quick, "t").len(), 10);
    world.unstick(slow);
    assert_eq!(world.closed_with(slow), Some(Some(4000)));
    assert_eq!(world.clients[slow].state, State::Over);
    assert_eq!(world.closed_with(quick), None);
    world.end();
}

/// A connection has topics of both policies: those that may skip are moved forward first, and as long as
/// that is enough it stays.
#[test]
fn topics_that_may_skip_do_before_a_connection_is_closed() {
    let knobs = Knobs { owed_bytes_max: 400, has_skip_rule: true, may_close: true, ..Knobs::calm(1) };
    let mut world = World::new(knobs);
    let (reader, publisher) = world.open_stuck(&["skip/a", "keep"]);
    for _ in 0..5 {
        world.publish_each_turn(publisher, "keep", 1);
        world.publish_each_turn(publisher, "skip/a", 3);
    }
    world.unstick(reader);
    assert_eq!(world.seqs(reader, "keep"), [1, 2, 3, 4, 5]);
    assert_eq!(world.closed_with(reader), None);
    let gaps = world.clients[reader].seen.iter().filter(|event| matches!(event, Event::Gap { .. })).count();
    assert!(gaps > 0);
    world.end();
}

/// Three descriptors and five clients: who waits is accepted when another goes, or a little later.
#[test]
fn accepting_goes_on_when_there_are_descriptors_again() {
    let mut knobs = Knobs::calm(2);
    knobs.net.sockets_max = 3;
    let mut world = World::new(knobs);
    let clients: Vec<usize> = (0..5).map(|_| world.connect(0, Format::Json)).collect();
    world.settle();
    assert_eq!(world.net.backlog_len(), 2);
    world.reset(clients[0]);
    world.settle();
    assert_eq!(world.net.backlog_len(), 1);
    // Nobody goes here, but somewhere a descriptor is free again.
    world.net.set_sockets_max(10);
    world.settle();
    world.pass(SECOND);
    world.settle();
    assert_eq!(world.net.backlog_len(), 0);
    assert!(clients[1..].iter().all(|&client| world.clients[client].state == State::Open));
    world.end();
}

/// One receive buffer of 16 bytes, and ten clients that all write at once.
#[test]
fn a_want_of_buffers_loses_no_byte() {
    let mut knobs = Knobs::calm(1);
    (knobs.net.buffer_count, knobs.net.buffer_bytes) = (1, 16);
    let mut world = World::new(knobs);
    let clients: Vec<usize> = (0..10).map(|_| world.connect(0, Format::Json)).collect();
    world.settle();
    for &client in &clients {
        (0..20).for_each(|_| {
            world.publish(client, "t");
        });
    }
    world.settle();
    assert!(world.reactor(0).desk().stats.no_buffers_total > 0);
    assert_eq!(world.oracle.newest().collect::<Vec<_>>(), [("t", 200)]);
    world.end();
}

/// A long message comes where there are two buffers: when it has used them up, it gets one, and only with what follows
/// as many as there are.
#[test]
fn who_was_short_of_buffers_gets_one_first() {
    let mut short_count = 0;
    for seed in 0..20 {
        let mut knobs = Knobs::calm(1);
        (knobs.net.seed, knobs.net.buffer_count, knobs.net.buffer_bytes) = (seed, 2, 64);
        let mut world = World::new(knobs);
        let client = world.open(0, Format::Binary);
        world.publish_as(client, "t", 1_000, true, true, false, None);
        world.write_all();
        for _ in 0..20 {
            let before = world.reactor(0).desk().stats.clone();
            world.turn(0);
            if before.no_buffers_total == world.reactor(0).desk().stats.no_buffers_total {
                continue;
            }
            short_count += 1;
            let bytes_before = world.reactor(0).desk().stats.received_bytes_total;
            world.turn(0);
            let bytes = world.reactor(0).desk().stats.received_bytes_total - bytes_before;
            assert!((1..=64).contains(&bytes), "{bytes} bytes come at once");
        }
        world.settle();
        world.end();
    }
    assert!(short_count > 10, "buffers were wanting {short_count} times");
}

/// Who sends much is received into a larger buffer at a time; into the others while what all have under way is much, and
/// once after a want of larger ones, of which there may be none.
#[test]
fn who_sends_much_gets_larger_buffers_while_there_are_some() {
    for (large_buffer_count, is_short) in [(1, false), (1, true), (0, false)] {
        // Who has most while all have too much is closed.
        let mut knobs = Knobs { may_close: is_short, ..Knobs::calm(1) };
        (knobs.net.buffer_count, knobs.net.buffer_bytes) = (1, 1_000);
        knobs.net.large_buffer_count = large_buffer_count;
        let mut world = World::new(knobs);
        let client = world.open(0, Format::Json);
        // Others have more than three quarters of what may be, and less than that.
        let bytes_max = world.shared.config.limits.buffered_bytes_max;
        let mut others = Buffered::new(world.shared.buffered.clone(), bytes_max);
        (0..bytes_max >> 25).for_each(|_| others.note(&mut Share::default(), 28 << 20));
        if is_short {
            others.tell();
        }
        (0..2_000).for_each(|_| world.ping(client));
        world.write_all();
        let mut most = 0;
        for _ in 0..1_000 {
            let received = |world: &World| world.reactor(0).desk().stats.received_bytes_total;
            let before = received(&world);
            world.turn(0);
            most = most.max(received(&world) - before);
            world.read(client, usize::MAX);
        }
        world.settle();
        // Of the others there is one, so a turn brings no more than that.
        assert_eq!(most, if large_buffer_count > 0 && !is_short { 4_000 } else { 1_000 });
        world.end();
    }
}

/// A send is cut short by the client's reset while others, and the log that it sends from, go on.
#[test]
fn a_send_that_is_cut_short_ends_its_connection_and_no_other() {
    for seed in 0..20 {
        let mut knobs = Knobs::calm(1);
        knobs.net.seed = seed;
        let mut world = World::new(knobs);
        let (cut, publisher) = world.open_stuck(&["t"]);
        let whole = world.open(0, Format::Json);
        world.subscribe(whole, "t");
        world.settle();
        world.publish_each_turn(publisher, "t", 3);
        world.reset(cut);
        world.publish_each_turn(publisher, "t", 3);
        assert_eq!(world.seqs(whole, "t"), [1, 2, 3, 4, 5, 6]);
        assert_eq!(world.reactor(0).desk().connections.open_count(), 2);
        world.end();
    }
}

/// The home of a topic is not running, so that its publisher is paused in the midst of what it sends: what
/// its receive brings after it was cancelled is kept, and taken in order.
#[test]
fn what_a_cancelled_receive_still_brings_is_taken_in_order() {
    let mut grown_count = 0;
    for seed in 0..30 {
        let mut knobs = Knobs { queue_entries: 2, ..Knobs::calm(2) };
        knobs.net.seed = seed;
        knobs.net.buffer_bytes = 64;
        let mut world = World::new(knobs);
        let (publisher, reader) = (world.open(0, Format::Json), world.open(1, Format::Json));
        let topic = world.topic_at(1, "t");
        world.subscribe(reader, &topic);
        world.settle();
        let mut unread_lens = Vec::new();
        for _ in 0..8 {
            (0..5).for_each(|_| {
                world.publish(publisher, &topic);
            });
            world.write(publisher, usize::MAX);
            world.turns(0, 1);
            let connection = &world.reactor(0).desk().connections[0];
            unread_lens.extend(connection.unread.as_ref().map(|unread| unread.memory()));
        }
        grown_count += u32::from(unread_lens.first().expect("it was paused") < unread_lens.last().unwrap());
        assert!(!world.reactor(0).desk().connections[0].is_receiving, "its receive is over");
        world.settle();
        assert_eq!(world.seqs(reader, &topic), (1..=40).collect::<Vec<u64>>());
        world.end();
    }
    assert!(grown_count > 0, "bytes came after some of the cancellations");
}

/// A publisher is paused for a minute because its topic's home does not run.
#[test]
fn a_connection_that_we_paused_is_not_closed_for_its_silence() {
    let mut world = World::new(Knobs { queue_entries: 1, ..Knobs::calm(2) });
    let publisher = world.open(0, Format::Json);
    let topic = world.topic_at(1, "t");
    for _ in 0..10 {
        world.publish(publisher, &topic);
    }
    world.write_all();
    for _ in 0..120 {
        world.turns(0, 3);
        world.now_ns += SECOND / 2;
    }
    assert!(world.reactor(0).desk().connections[0].is_paused());
    world.settle();
    assert_eq!(world.oracle.newest().collect::<Vec<_>>(), [(topic.as_str(), 10)]);
    assert_eq!(world.clients[publisher].state, State::Open);
    world.end();
}

/// A client pings and publishes without reading the answers: its commands are not taken for ever.
#[test]
fn who_does_not_read_replies_is_not_read() {
    let mut world = World::new(Knobs::calm(1));
    let client = world.open(0, Format::Json);
    world.stick(client);
    for _ in 0..300 {
        world.ping(client);
    }
    world.settle();
    let connection = &world.reactor(0).desk().connections[0];
    assert!(connection.is_paused() && !connection.is_receiving);
    assert!(connection.replies.len() < REPLIES_BYTES_MAX + 100);
    world.unstick(client);
    assert_eq!(world.oracle.asked_count(client), 0);
    world.end();
}

/// Subscribers of both formats on every reactor, by name and by filter, some by both.
#[test]
fn receivers_are_counted_once_each_on_every_reactor() {
    let mut world = World::new(Knobs::calm(4));
    let publisher = world.open(2, Format::Json);
    let mut count = 0;
    for index in 0..4 {
        let (both, wild) = (world.open(index, Format::Json), world.open(index, Format::Binary));
        world.subscribe(both, "a/x");
        world.subscribe(both, "a/+");
        world.subscribe(wild, "#");
        count += 2;
        world.settle();
        world.publish_counted(publisher, "a/x", Some(count));
        world.settle();
    }
    world.end();
}

/// A reactor keeps one view, and one subscriber of each format needs its own: one is evicted before the
/// question for the count comes, which a queue of one entry keeps back.
#[test]
fn receivers_whose_view_was_evicted_are_counted() {
    let mut world = World::new(Knobs { topics_max: 1, queue_entries: 1, ..Knobs::calm(2) });
    let (json, binary) = (world.open(0, Format::Json), world.open(0, Format::Binary));
    let publisher = world.open(1, Format::Json);
    let topic = world.topic_at(1, "t/");
    world.subscribe(json, "t/#");
    world.subscribe(binary, "t/#");
    world.settle();
    for _ in 0..3 {
        world.publish_counted(publisher, &topic, Some(2));
        world.settle();
    }
    world.end();
}

/// A queue's worth of publications, and a silent moment: a reactor that sleeps is woken for each of them.
#[test]
fn a_reactor_that_sleeps_is_woken_for_what_comes() {
    let mut world = World::new(Knobs::calm(2));
    let (reader, publisher) = (world.open(0, Format::Json), world.open(1, Format::Json));
    let topic = world.topic_at(1, "t");
    world.subscribe(reader, &topic);
    world.settle();
    for _ in 0..5 {
        assert!(world.asleep_until_ns.iter().all(Option::is_some), "both sleep");
        world.publish(publisher, &topic);
        // No time passes: only a wake ends a sleep.
        for _ in 0..10 {
            world.write_all();
            world.turns(1, 1);
            world.turns(0, 1);
            world.read(reader, usize::MAX);
        }
        world.settle();
    }
    assert_eq!(world.seqs(reader, &topic), [1, 2, 3, 4, 5]);
    world.end();
}

/// The first wake fails, and the one after it, and the third is kept back for another enter: the reactor that
/// sent them sends it again, though nothing else has happened to it.
#[test]
fn a_wake_that_failed_is_sent_again() {
    let mut world = World::new(Knobs::calm(2));
    let (reader, publisher) = (world.open(0, Format::Json), world.open(1, Format::Json));
    let topic = world.topic_at(1, "t");
    world.subscribe(reader, &topic);
    world.settle();
    assert!(world.asleep_until_ns.iter().all(Option::is_some), "both sleep");
    world.publish(publisher, &topic);
    world.write_all();
    world.net.fail_wakes(2);
    world.turns(1, 2);
    assert!(!world.net.is_woken(0), "both have failed");
    world.reactors[1].as_mut().expect("it runs").io().take_only(0);
    // No time passes.
    world.turns(1, 1);
    assert!(!world.net.is_woken(0), "the third is kept");
    world.turns(1, 1);
    assert!(world.net.is_woken(0));
    world.turns(0, 2);
    world.read(reader, usize::MAX);
    assert_eq!(world.seqs(reader, &topic), [1]);
    world.end();
}

/// A subscriber of many topics owes nothing much of any, and then the bound of all together is lowered below
/// what it is owed.
#[test]
fn a_lower_bound_is_held_against_what_is_owed_already() {
    let mut world = World::new(Knobs { may_close: true, ..Knobs::calm(1) });
    let (slow, publisher) = world.open_stuck(&["t/#"]);
    let topics: Vec<String> = (0..10).map(|topic| format!("t/{topic}")).collect();
    let publish_all = |world: &mut World| {
        for topic in &topics {
            world.publish(publisher, topic);
        }
        world.settle();
    };
    publish_all(&mut world);
    publish_all(&mut world);
    world.knobs.owed_bytes_max = 600;
    world.shared.config = Arc::new(world.knobs.config());
    world.order(0, Order::Reload(Arc::clone(&world.shared.config), None));
    // Views and connections learn of it over turns.
    world.settle();
    publish_all(&mut world);
    assert!(matches!(world.reactor(0).desk().connections[0].phase, Phase::Closing(_)));
    world.unstick(slow);
    world.settle();
    assert!(matches!(world.closed_with(slow), Some(Some(4000))));
    world.end();
}

/// What is owed grows old after 300 ms, and nothing is owed any more.
#[test]
fn a_reactor_that_owes_nothing_does_not_wake_to_look_for_what_is_old() {
    let mut world = World::new(Knobs { owed_ms_max: 300, may_close: true, ..Knobs::calm(1) });
    let (reader, publisher) = world.open_stuck(&["t"]);
    for _ in 0..3 {
        world.publish(publisher, "t");
        world.settle();
    }
    assert!(world.reactor(0).desk().fanout.may_owe(), "what is sent now is stuck, and more waits for it");
    world.unstick(reader);
    world.pass(100 * MS);
    world.settle();
    let until_ns = world.asleep_until_ns[0].expect("it sleeps");
    assert!(until_ns > world.now_ns + 500 * MS, "it wakes in {} ms", (until_ns - world.now_ns) / MS);
    world.end();
}

/// The reactor is told to look again for so long before it sleeps.
fn reload_spin(world: &mut World, spin_us: u32) {
    let mut config = world.knobs.config();
    config.reactor.spin_us = spin_us;
    world.shared.config = Arc::new(config);
    world.order(0, Order::Reload(Arc::clone(&world.shared.config), None));
}

/// Turns a microsecond apart at a reactor that is to look again for 20 of them: it sleeps so long after the last turn
/// that did something, and those that did nothing are not told of as turns.
#[test]
fn a_reactor_looks_again_for_a_while_before_it_sleeps() {
    let mut world = World::new(Knobs::calm(1));
    let client = world.open(0, Format::Json);
    world.settle();
    reload_spin(&mut world, 20);
    world.settle();
    for _ in 0..2 {
        assert!(world.asleep_until_ns[0].is_some(), "it sleeps");
        let told_of = |world: &World| -> u64 { world.reactor(0).desk().stats.turn_ns.counts().iter().sum() };
        let told_before = told_of(&world);
        world.ping(client);
        world.write_all();
        let (mut worked_ns, mut worked_count) = (world.now_ns, 0);
        loop {
            assert!(world.turn(0));
            if world.reactor(0).desk().meter.spent() > 0 {
                (worked_ns, worked_count) = (world.now_ns, worked_count + 1);
            }
            let is_asleep = world.asleep_until_ns[0].is_some();
            assert_eq!(
                is_asleep,
                world.now_ns - worked_ns >= 20_000,
                "{} ns later",
                world.now_ns - worked_ns
            );
            if is_asleep {
                break;
            }
            world.now_ns += 1_000;
        }
        assert_eq!(
            told_of(&world) - told_before,
            worked_count + 1,
            "those that worked, and the one that sleeps"
        );
        world.settle();
    }
    world.end();
}

/// The time that goes into looking again is time that the core has: topics do not wait because of it.
#[test]
fn a_reactor_that_only_looks_again_has_time() {
    let mut world = World::new(Knobs { max_delay_us: None, ..Knobs::calm(1) });
    world.settle();
    reload_spin(&mut world, 60_000_000);
    for turn in 0..3_000 {
        world.now_ns += MS;
        world.turn(0);
        let delay_ns = world.reactor(0).desk().pacing.delay_ns();
        assert!(turn < 1_000 || delay_ns == 0, "topics wait for {delay_ns} ns after {turn} turns");
    }
    reload_spin(&mut world, 0);
    world.end();
}

/// A storm of connections at a reactor that accepts a hundred per second, ten of them at once.
#[test]
fn accepts_keep_to_their_rate_and_leave_nobody_waiting_for_good() {
    let mut world = World::new(Knobs { accepts_per_s_max: 100, ..Knobs::calm(1) });
    let storm: Vec<usize> = (0..60).map(|_| world.connect(0, Format::Json)).collect();
    let mut accepted = 0;
    for passed_ms in (0..600).step_by(5) {
        world.pass(5 * MS);
        accepted = world.reactor(0).desk().stats.accepts_total;
        assert!(accepted <= 10 + (passed_ms + 5) / 10 + 1, "{accepted} after {passed_ms} ms");
    }
    assert_eq!(accepted, 60);
    world.settle();
    assert!(storm.iter().all(|client| world.clients[*client].state == State::Open));
    world.end();
}

/// Readers of every pace, owed something; then the broker drains.
#[test]
fn a_drain_delivers_what_is_owed_and_ends_in_its_time() {
    let mut world = World::new(Knobs { may_close: true, ..Knobs::calm(2) });
    let (eager, stuck) = (world.open(0, Format::Json), world.open(0, Format::Json));
    let publisher = world.open(1, Format::Json);
    world.subscribe(eager, "t");
    world.subscribe(stuck, "t");
    world.settle();
    world.stick(stuck);
    for _ in 0..10 {
        world.publish(publisher, "t");
    }
    world.settle();
    (0..2).for_each(|index| world.order_drain(index));
    world.pass(4 * SECOND);
    assert_eq!(world.closed_with(eager), Some(Some(1012)));
    assert_eq!(world.seqs(eager, "t").len(), 10);
    assert!(world.reactors[0].is_some(), "one client is stuck");
    world.pass(7 * SECOND);
    assert!(world.reactors.iter().all(Option::is_none));
    assert_eq!(world.net.open_count(), 0);
    world.oracle.check_over();
}

/// More readers than a turn sends to, and more for each than a send has; the drain comes so many turns later: while the topic
/// is swept, and when all have taken what was in flight and there is more to come.
#[test]
fn a_drain_closes_nobody_before_it_has_what_it_is_owed() {
    for turns in 0..16 {
        let mut knobs = Knobs { may_close: true, ..Knobs::calm(1) };
        knobs.net.window_bytes = 500;
        let mut world = World::new(knobs);
        let readers: Vec<usize> = (0..12).map(|_| world.open(0, Format::Json)).collect();
        let publisher = world.open(0, Format::Json);
        for &reader in &readers {
            world.subscribe(reader, "t");
        }
        world.settle();
        for _ in 0..4 {
            world.publish_as(publisher, "t", 600, true, false, false, None);
        }
        world.write(publisher, usize::MAX);
        world.turns(0, turns);
        for &reader in &readers {
            world.read(reader, usize::MAX);
        }
        world.order_drain(0);
        world.pass(SECOND);
        for &reader in &readers {
            assert_eq!(world.seqs(reader, "t"), [1, 2, 3, 4], "after {turns} turns");
            assert_eq!(world.closed_with(reader), Some(Some(1012)));
        }
        assert!(world.reactors[0].is_none());
        world.oracle.check_over();
    }
}

/// The reactors stop accepting and close their connections for a successor, which goes away: they accept again,
/// first whoever waited meanwhile.
#[test]
fn reactors_that_were_emptied_serve_again() {
    let mut world = World::new(Knobs { may_close: true, max_delay_us: Some(1_000), ..Knobs::calm(2) });
    let before = [world.open(0, Format::Json), world.open(1, Format::Binary)];
    let upgrading = world.net.connect(0);
    world.turns(0, 2);
    let (stopped, stops) = mpsc::channel();
    (0..2).for_each(|index| world.order(index, Order::StopAccepting(stopped.clone())));
    world.settle();
    assert_eq!(stops.try_iter().count(), 2);
    let waiting = [world.connect(0, Format::Json), world.connect(1, Format::Json)];
    world.settle();
    assert_eq!(world.net.backlog_len(), 2, "nobody accepts");

    let (emptied, ends) = mpsc::channel();
    for index in 0..2 {
        world.order(index, Order::Drain { within_ms: 2_000, emptied: Some(emptied.clone()) });
    }
    world.pass(100 * MS);
    for client in before {
        assert_eq!(world.closed_with(client), Some(Some(1012)));
    }
    assert_eq!(ends.try_iter().count(), 1, "a client is in mid-upgrade at the other");
    world.pass(2 * SECOND);
    assert_eq!(ends.try_iter().count(), 1);
    assert_eq!((world.net.backlog_len(), world.net.open_count()), (2, 0));
    let _ = upgrading;

    (0..2).for_each(|index| world.order(index, Order::Accept));
    world.settle();
    for client in waiting {
        assert_eq!(world.clients[client].state, State::Open);
        world.subscribe(client, "t");
    }
    world.settle();
    world.publish(waiting[0], "t");
    world.publish(waiting[1], "t");
    world.settle();
    assert_eq!(world.seqs(waiting[0], "t"), [1, 2]);
    assert_eq!(world.reactor(0).desk().pacing.delay_ns(), 1_000_000, "pacing is as configured");
    world.end();
}

/// The successor goes away while a reader keeps the reactor from being emptied: who connects is served at
/// once, and the reader stays, however much later than the drain was to end.
#[test]
fn a_reactor_that_is_to_accept_in_the_middle_of_a_drain_closes_nobody_else() {
    let mut world = World::new(Knobs { may_close: true, max_delay_us: Some(1_000), ..Knobs::calm(1) });
    let (stuck, idle) = world.open_stuck(&["t"]);
    for _ in 0..10 {
        world.publish(idle, "t");
    }
    world.settle();
    let (emptied, ends) = mpsc::channel();
    world.order(0, Order::Drain { within_ms: 2_000, emptied: Some(emptied) });
    world.pass(100 * MS);
    assert_eq!(world.closed_with(idle), Some(Some(1012)));
    let waiting = world.connect(0, Format::Json);
    world.pass(100 * MS);
    assert_eq!(world.net.backlog_len(), 1, "nobody accepts");

    world.order(0, Order::Accept);
    world.pass(100 * MS);
    assert_eq!(ends.try_recv(), Err(mpsc::TryRecvError::Disconnected), "it was not emptied and will not be");
    assert_eq!(world.clients[waiting].state, State::Open);
    world.pass(3 * SECOND);
    world.unstick(stuck);
    world.publish(waiting, "t");
    world.settle();
    assert_eq!(world.seqs(stuck, "t").len(), 11);
    assert_eq!(world.reactor(0).desk().pacing.delay_ns(), 1_000_000, "pacing is as configured");
    world.end();
}

/// A send takes a part of its bytes and no more, while the receive stays as it was: a frame is cut, and
/// nothing may follow it.
#[test]
fn nothing_follows_a_send_that_was_cut_short() {
    let mut world = World::new(Knobs { may_close: true, ..Knobs::calm(1) });
    let (reader, publisher) = world.open_stuck(&["t"]);
    world.publish_each_turn(publisher, "t", 3);
    world.net.cut(world.clients[reader].peer);
    world.unstick(reader);
    assert_eq!((world.clients[reader].state, world.seqs(reader, "t")), (State::Over, vec![]));
    world.publish_each_turn(publisher, "t", 3);
    world.end();
}

/// A hundred members, of whom most leave while a sweep has visited some, and then somebody joins: places are
/// not closed under the cursor.
#[test]
fn places_are_not_closed_during_a_sweep() {
    let mut world = World::new(Knobs { connections_max: 300, ..Knobs::calm(1) });
    let publisher = world.open(0, Format::Binary);
    let late = world.open(0, Format::Binary);
    let readers: Vec<usize> = (0..110).map(|_| world.connect(0, Format::Binary)).collect();
    world.settle();
    for &reader in &readers {
        world.subscribe(reader, "t");
    }
    world.settle();
    world.publish(publisher, "t");
    world.write_all();
    while !world.reactor(0).desk().fanout.is_sweeping() {
        world.turns(0, 1);
    }
    for &reader in &readers[..70] {
        world.reset(reader);
    }
    world.turns(0, 6);
    world.subscribe(late, "t");
    world.write_all();
    world.turns(0, 2);
    assert!(world.reactor(0).desk().fanout.is_sweeping(), "the sweep is not over");
    world.settle();
    for &reader in &readers[70..] {
        assert_eq!(world.seqs(reader, "t"), [1]);
    }
    world.end();
}

/// A reactor with a subscriber does not run, and the home of its topic is flooded from a third one.
#[test]
fn a_home_takes_no_more_while_a_reactor_does_not_take_what_it_says() {
    let mut world = World::new(Knobs { queue_entries: 2, ..Knobs::calm(3) });
    let (reader, publisher) = (world.open(1, Format::Json), world.open(2, Format::Json));
    let topic = world.topic_at(0, "t");
    world.subscribe(reader, &topic);
    world.settle();
    for _ in 0..100 {
        world.publish(publisher, &topic);
        world.write_all();
        world.turns(2, 2);
        world.turns(0, 2);
    }
    assert!(!world.reactor(0).desk().is_home_open());
    assert!(world.peaks.outbox <= OUTBOX_MAX + 1, "{:?}", world.peaks);
    world.settle();
    assert_eq!(world.seqs(reader, &topic), (1..=100).collect::<Vec<u64>>());
    world.end();
}

/// What is said to a reactor while it does not run: how many subscribe to what is published elsewhere, by name or by
/// filter; or none, and it is the home of the topic.
#[derive(Clone, Copy)]
enum Said {
    DeliveriesByName,
    DeliveriesByFilter { readers: u64 },
    Publications { bytes: usize },
}

/// Another reactor has said much: of that a turn takes so many, or as many as its share pays for.
#[test]
fn what_another_reactor_says_is_taken_a_turns_share_at_a_time() {
    const COUNT: usize = 40;
    let cases = [
        Said::DeliveriesByName,
        Said::DeliveriesByFilter { readers: 10 },
        Said::Publications { bytes: 20 },
        Said::Publications { bytes: 1_500 },
    ];
    for said in cases {
        let mut world = World::new(Knobs::calm(2));
        let publisher = world.open(1, Format::Binary);
        let (is_home, readers, bytes) = match said {
            Said::DeliveriesByName => (false, 1, 20),
            Said::DeliveriesByFilter { readers } => (false, readers, 20),
            Said::Publications { bytes } => (true, 0, bytes),
        };
        let topics: Vec<String> = match is_home {
            true => vec![world.topic_at(0, "t/"); COUNT],
            false => (0..COUNT).map(|topic| world.topic_at(1, &format!("t/{topic}/"))).collect(),
        };
        for _ in 0..readers {
            let reader = world.open(0, Format::Binary);
            let filters = if readers == 1 { &topics[..] } else { &["t/#".to_owned()] };
            for filter in filters {
                world.subscribe(reader, filter);
            }
        }
        world.settle();
        for topic in &topics {
            world.publish_as(publisher, topic, bytes, false, false, false, None);
        }
        world.write_all();
        world.turns(1, 60);
        let (max, price) = match said {
            Said::DeliveriesByName => (DELIVERIES_MAX, price::EXCHANGE),
            // Each is of a topic that comes into view with it.
            Said::DeliveriesByFilter { readers } => {
                (DELIVERIES_MAX, price::EXCHANGE + price::VIEW + readers * price::MEMBERSHIP)
            }
            Said::Publications { bytes } => {
                (RECEIVES_MAX, price::EXCHANGE + price::PUBLICATION + bytes as u64 * price::PUBLISHED_BYTE)
            }
        };
        let max = (share::EXCHANGE / 2).div_ceil(price).min(max as u64);
        let taken = |world: &World| match world.reactor(0).desk() {
            desk if is_home => desk.home.publications_total(),
            desk => desk.fanout.deliveries_total() / readers,
        };
        let mut counts = Vec::new();
        while taken(&world) < COUNT as u64 {
            let before = taken(&world);
            world.turn(0);
            counts.push(taken(&world) - before);
        }
        assert_eq!(counts.iter().max(), Some(&max), "{counts:?}");
        world.settle();
        world.end();
    }
}

/// Two reactors ask more of a home than it takes in a turn, without end. What a third asks is taken, at the latest in
/// the turn in which that one is first.
#[test]
fn a_home_hears_each_reactor_however_much_others_ask() {
    const REACTORS: usize = 4;
    let mut world = World::new(Knobs::calm(REACTORS));
    let flooders = [world.open(1, Format::Binary), world.open(2, Format::Binary)];
    let client = world.open(3, Format::Binary);
    let topic = world.topic_at(0, "t");
    let mut asked = 0;
    for round in 0..60 {
        for flooder in flooders {
            while world.net.unreceived(world.clients[flooder].peer) < 600 {
                world.publish_as(flooder, &topic, 20, false, false, false, None);
                world.write(flooder, usize::MAX);
            }
        }
        if world.oracle.asked_count(client) == 0 {
            asked = round;
            world.publish(client, &topic);
        }
        world.write_all();
        for index in 0..REACTORS {
            world.turn(index);
        }
        world.read(client, usize::MAX);
        // Two rounds to come and be carried, and one to be answered.
        assert!(round - asked <= 3 + REACTORS, "an answer takes {} rounds", round - asked);
    }
    let is_behind = |index: usize| !world.reactor(index).desk().exchange.is_posted();
    assert!(is_behind(1) && is_behind(2), "more waits for the home than finds room in its queues");
    world.settle();
    world.end();
}

/// A reactor with a subscriber does not run, so that nobody lets go of the log: what is published waits
/// with its publisher, and goes on when there is room.
#[test]
fn a_full_log_makes_publishers_wait() {
    let knobs = Knobs { log_bytes_max: 256 << 10, queue_entries: 1_000, ..Knobs::calm(3) };
    let mut world = World::new(Knobs { policy: SlowConsumer::Skip, ..knobs });
    let (reader, publisher) = (world.open(1, Format::Json), world.open(2, Format::Json));
    let topic = world.topic_at(0, "t");
    world.subscribe(reader, &topic);
    world.settle();
    for _ in 0..400 {
        world.publish_as(publisher, &topic, 1_500, true, true, false, None);
        world.write_all();
        world.turns(2, 2);
        world.turns(0, 2);
    }
    assert!(world.reactor(0).desk().is_log_full());
    assert!(!world.reactor(2).desk().queues.is_nobody_waiting());
    world.settle();
    assert!(world.reactor(2).desk().queues.is_nobody_waiting());
    assert_eq!(world.oracle.asked_count(publisher), 0, "every publication has its ok");
    assert_eq!(world.seqs(reader, &topic).last(), Some(&400));
    world.end();
}

/// Who is not read because it does not read its replies is silent by its own doing.
#[test]
fn who_never_reads_its_replies_is_closed_for_its_silence() {
    let mut world = World::new(Knobs { may_close: true, ..Knobs::calm(1) });
    let client = world.open(0, Format::Json);
    world.stick(client);
    for _ in 0..200 {
        world.ping(client);
    }
    world.settle();
    assert_eq!(world.reactor(0).desk().queues.paused_count(), 1);
    world.pass(120 * SECOND);
    assert_eq!(world.reactor(0).desk().connections.open_count(), 0);
    world.unstick(client);
    world.end();
}

/// One filter, or one level, beyond what a connection may have is refused; names do not count, and what is taken back
/// makes room.
#[test]
fn a_filter_too_many_or_too_deep_is_refused_until_one_is_taken_back() {
    let cases = [((2, 100), ["a/+", "b/c/#", "+/+"]), ((100, 6), ["a/b/+", "b/c/#", "+"])];
    for (limits, [first, second, third]) in cases {
        let knobs = Knobs { filter_limits: Some(limits), topics_max: 99, ..Knobs::calm(1) };
        let mut world = World::new(knobs);
        let client = world.open(0, Format::Json);
        let refused_count = |world: &World| {
            let is_refusal =
                |event: &&Event| matches!(event, Event::Error { code, .. } if code == "limit_reached");
            world.clients[client].seen.iter().filter(is_refusal).count()
        };
        for (filter, refused) in [(first, 0), (second, 0), ("x/y/z", 0), (third, 1)] {
            world.subscribe(client, filter);
            world.settle();
            assert_eq!(refused_count(&world), refused, "{filter} with {limits:?}");
        }
        world.unsubscribe(client, first);
        world.subscribe(client, third);
        world.settle();
        assert_eq!(refused_count(&world), 1);
        world.end();
    }
}

/// A filter with `+` may have ten levels by default, its `#` included; without `+` it may have as many as a topic.
#[test]
fn a_filter_with_a_plus_is_refused_beyond_its_levels_and_no_other_is() {
    let filter = |levels: usize, first: &str, last: &str| {
        [&[first][..], &vec!["a"; levels - 2], &[last]].concat().join("/")
    };
    for (plus_levels_max, levels_max) in [(None, 10), (Some(2), 2), (Some(32), 32)] {
        let mut world = World::new(Knobs { plus_levels_max, topics_max: 99, ..Knobs::calm(1) });
        let client = world.open(0, Format::Json);
        let mut taken = vec![filter(32, "a", "b"), filter(32, "a", "#")];
        taken.extend(
            [("+", "b"), ("a", "+"), ("+", "#")].map(|(first, last)| filter(levels_max, first, last)),
        );
        let beyond =
            [("+", "b"), ("a", "+"), ("+", "#")].map(|(first, last)| filter(levels_max + 1, first, last));
        let refused = if levels_max < topic::TOPIC_LEVELS_MAX { &beyond[..] } else { &[] };
        for (filter, is_refused) in
            taken.iter().map(|it| (it, false)).chain(refused.iter().map(|it| (it, true)))
        {
            let before = world.clients[client].seen.len();
            world.subscribe(client, filter);
            world.settle();
            let answers = &world.clients[client].seen[before..];
            let is_refusal =
                |event: &Event| matches!(event, Event::Error { code, .. } if code == "limit_reached");
            assert_eq!(answers.iter().any(is_refusal), is_refused, "{filter} with {plus_levels_max:?}");
        }
        world.end();
    }
}

/// A subscriber is behind and has an answer to get: that is one send, not two.
#[test]
fn what_a_subscriber_is_owed_goes_along_with_its_answer() {
    let mut world = World::new(Knobs::calm(1));
    let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Json));
    world.subscribe(reader, "t");
    world.settle();
    let sends_before = world.reactor(0).desk().stats.sends_total;
    world.ping(reader);
    world.publish_as(publisher, "t", 20, true, false, false, None);
    world.settle();
    assert_eq!(world.seqs(reader, "t"), [1]);
    assert_eq!(world.reactor(0).desk().stats.sends_total - sends_before, 1);
    world.end();
}

/// Who sent much waits for its turn; once it has little to say it is taken at once again.
#[test]
fn who_has_calmed_down_does_not_wait_any_more() {
    let mut world = World::new(Knobs::calm(1));
    let client = world.open(0, Format::Json);
    (0..60).for_each(|_| world.ping(client));
    world.write_all();
    world.turns(0, 2);
    assert!(world.reactor(0).desk().connections.share(0).is_flooding);
    world.settle();
    world.clients[client].frame(10, true, b"little", &mut Rng::new(1));
    world.settle();
    let pauses_before = world.reactor(0).desk().stats.pauses_total;
    world.ping(client);
    world.settle();
    assert_eq!(world.reactor(0).desk().stats.pauses_total, pauses_before);
    world.end();
}

/// Many are behind on one topic when another with one member moves on: that is sent in the same turn, be it that many
/// sends or their bytes would take all of a turn.
#[test]
fn a_small_topic_is_sent_in_its_turn_beside_a_large_one() {
    for large_bytes in [20, 5 << 10] {
        let mut world = World::new(Knobs::calm(1));
        let publishers = [world.open(0, Format::Json), world.open(0, Format::Json)];
        let readers: Vec<usize> = (0..30).map(|_| world.open(0, Format::Json)).collect();
        let reader = world.open(0, Format::Json);
        for &reader in &readers {
            world.subscribe(reader, "large");
        }
        world.subscribe(reader, "small");
        world.settle();
        world.publish_as(publishers[0], "large", large_bytes, true, false, false, None);
        world.write_all();
        while !world.reactor(0).desk().fanout.is_sweeping() {
            world.turn(0);
        }
        world.publish_as(publishers[1], "small", 20, true, false, false, None);
        world.write_all();
        // It is received with the first turn's end, and taken and sent by the second.
        world.turns(0, 2);
        world.read(reader, usize::MAX);
        assert_eq!(world.seqs(reader, "small"), [1], "beside frames of {large_bytes} bytes");
        assert!(world.reactor(0).desk().fanout.is_sweeping(), "the large one is not over");
        world.settle();
        world.end();
    }
}

/// Members that take nothing are owed something already when their topic moves on: the cursor passes all of them by,
/// which is all that a turn does for them.
#[test]
fn members_that_are_passed_by_count_for_the_turn() {
    const MEMBERS: u64 = 500;
    let mut world = World::new(Knobs::calm(1));
    let publisher = world.open(0, Format::Json);
    let readers: Vec<usize> = (0..MEMBERS).map(|_| world.connect(0, Format::Json)).collect();
    world.settle();
    for &reader in &readers {
        world.subscribe(reader, "t");
    }
    world.settle();
    readers.iter().for_each(|&reader| world.stick(reader));
    world.publish_each_turn(publisher, "t", 2);
    let work_before = world.reactor(0).desk().stats.turn_work_total;
    world.publish_each_turn(publisher, "t", 1);
    let work = world.reactor(0).desk().stats.turn_work_total - work_before;
    assert!(work >= MEMBERS * price::VISIT / UNIT, "{work} units");
    world.end();
}

/// Somebody sends as many commands as there are, one in each message: a turn takes what it has for what comes in.
#[test]
fn so_many_commands_are_taken_at_once_as_a_turn_can_pay_for() {
    let mut world = World::new(Knobs::calm(1));
    let client = world.open(0, Format::Json);
    (0..100).for_each(|_| world.ping(client));
    world.write_all();
    // It is received with the first turn's end.
    world.turn(0);
    let before = world.reactor(0).desk().stats.commands_total;
    world.turn(0);
    let count = world.reactor(0).desk().stats.commands_total - before;
    let count_max = share::INPUT.div_ceil(price::MESSAGE + price::COMMAND);
    assert!((1..=count_max).contains(&count), "{count} of {count_max} commands");
    world.settle();
    world.end();
}

/// Readers are owed much: of one piece of log when its topic has waited for its sweep, of several when they took nothing.
/// A send, of which a connection has one in a turn, takes so much of that, and the rest of a frame.
#[test]
fn what_is_owed_goes_out_a_sends_share_at_a_time() {
    const FRAMES: usize = 20;
    const BYTES: usize = 900;
    for is_stuck in [false, true] {
        let mut world = World::new(Knobs { max_delay_us: Some(10_000), ..Knobs::calm(1) });
        let publisher = world.open(0, Format::Binary);
        let readers: Vec<usize> = (0..20).map(|_| world.open(0, Format::Binary)).collect();
        for &reader in &readers {
            world.subscribe(reader, "t");
        }
        world.settle();
        if is_stuck {
            readers.iter().for_each(|&reader| world.stick(reader));
        }
        for _ in 0..FRAMES {
            world.publish_as(publisher, "t", BYTES, false, false, false, None);
            world.write_all();
            // No time passes: but for the first, the sweep is not due.
            world.turns(0, 12);
        }
        world.now_ns += MS;
        for &reader in &readers {
            world.read(reader, usize::MAX);
            world.net.set_window(world.clients[reader].peer, 1 << 20);
        }
        let got = |world: &World| world.seqs(readers[0], "t").len();
        while got(&world) < FRAMES {
            let before = got(&world);
            world.turn(0);
            world.read(readers[0], usize::MAX);
            // What was in flight already may be another.
            let (count, bytes_max) = (got(&world) - before, SEND_BYTES_MAX as usize + 2 * BYTES);
            assert!(count * BYTES <= bytes_max, "{count} frames at once");
        }
        world.end();
    }
}

/// Many have sent much, of which most waits; then somebody sends a little more than is taken at once. It goes on in
/// the same turn, however many they are.
#[test]
fn who_has_little_left_does_not_wait_for_those_with_much() {
    const FLOODERS: usize = 40;
    let mut world = World::new(Knobs::calm(1));
    let flooders: Vec<usize> = (0..FLOODERS).map(|_| world.open(0, Format::Json)).collect();
    let client = world.open(0, Format::Json);
    for &flooder in &flooders {
        for _ in 0..60 {
            world.publish_as(flooder, "t", 20, true, false, false, None);
        }
    }
    world.write_all();
    while world.reactor(0).desk().queues.waiting.len() < FLOODERS {
        world.turn(0);
    }
    (0..8).for_each(|_| world.ping(client));
    world.write_all();
    let pauses_before = world.reactor(0).desk().stats.pauses_total;
    // It is received with the first turn's end.
    world.turns(0, 2);
    world.read(client, usize::MAX);
    assert_eq!(world.oracle.asked_count(client), 0);
    let desk = world.reactor(0).desk();
    assert_eq!((desk.stats.pauses_total - pauses_before, desk.queues.waiting.len()), (1, FLOODERS));
    world.settle();
    world.end();
}

/// A world in which a publication to a topic that nobody knew is heavy: many receive it, as it turns out. With those who
/// publish such.
fn world_of_heavy_names(reader_count: usize, publisher_count: usize) -> (World, Vec<usize>) {
    let mut world = World::new(Knobs { topics_max: 999, ..Knobs::calm(1) });
    let readers: Vec<usize> = (0..reader_count).map(|_| world.open(0, Format::Json)).collect();
    for &reader in &readers {
        world.subscribe(reader, "new/#");
    }
    world.settle();
    let publishers = (0..publisher_count).map(|_| world.open(0, Format::Json)).collect();
    world.settle();
    (world, publishers)
}

/// Whoever names a topic that nobody knew spends what it costs to find out who receives it, then and there: the
/// home is not kept from taking more, and whoever sent that waits with those who send much.
#[test]
fn who_does_much_by_little_waits_with_those_who_send_much() {
    let (mut world, publishers) = world_of_heavy_names(100, 1);
    for index in 0..10 {
        world.publish(publishers[0], &format!("new/{index}"));
    }
    world.write_all();
    let slot = world.reactor(0).desk().connections.slot_count() as u32 - 1;
    let mut turns = 0;
    while world.reactor(0).desk().home.topic_count() < 10 {
        let before = world.reactor(0).desk().home.topic_count();
        world.turn(0);
        turns += 1;
        let desk = world.reactor(0).desk();
        assert!(desk.home.topic_count() - before <= 2, "a turn takes one as it comes, and one that waited");
        assert!(desk.has_room() && desk.exchange.own_count() == 0, "nothing of it is left to others");
        assert!(desk.connections.share(slot).is_flooding || desk.home.topic_count() == 0);
        assert!(desk.queues.little_waiting.is_empty(), "what is left is few bytes, and much");
    }
    assert!(turns <= 2 * 10 + 2, "{turns} turns");
    world.settle();
    // It says little, and is calm; then one of that kind is enough.
    world.ping(publishers[0]);
    world.settle();
    assert!(!world.reactor(0).desk().connections.share(slot).is_flooding);
    world.publish(publishers[0], "new/last");
    world.write_all();
    world.turns(0, 2);
    assert!(world.reactor(0).desk().connections.share(slot).is_flooding);
    world.settle();
    world.end();
}

/// One that asks how many receive it goes by way of the home's answers, and what stands behind it may not be done at once.
/// It is no way around the bound: at most one more is taken before it is known what that costs.
#[test]
fn who_asks_for_receivers_makes_no_more_new_topics_in_a_turn() {
    let (mut world, publishers) = world_of_heavy_names(100, 1);
    for index in 0..6 {
        world.publish_as(publishers[0], "count", 20, true, true, true, None);
        world.publish(publishers[0], &format!("new/{index}"));
        world.publish(publishers[0], &format!("new/{index}/too"));
    }
    world.write_all();
    for _ in 0..60 {
        let before = world.reactor(0).desk().home.topic_count();
        world.turn(0);
        let made = world.reactor(0).desk().home.topic_count() - before;
        assert!(made <= 3, "{made} topics in a turn");
    }
    assert_eq!(world.reactor(0).desk().home.topic_count(), 13);
    world.settle();
    world.end();
}

/// Many come at once, each with much that is heavy, and one with little behind them: it does not wait for one of theirs
/// each.
#[test]
fn who_asks_little_does_not_wait_for_the_first_of_many_who_ask_much() {
    const PUBLISHERS: usize = 12;
    let (mut world, publishers) = world_of_heavy_names(100, PUBLISHERS);
    let client = world.open(0, Format::Json);
    world.settle();
    for &publisher in &publishers {
        for index in 0..3 {
            world.publish(publisher, &format!("new/{publisher}.{index}"));
        }
        world.write_all();
    }
    world.ping(client);
    world.write_all();
    let mut turns = 0;
    while world.oracle.asked_count(client) > 0 {
        world.turn(0);
        world.read(client, usize::MAX);
        turns += 1;
    }
    let taken = world.reactor(0).desk().home.topic_count();
    assert!(taken <= 3, "{taken} of {PUBLISHERS} are taken before it, in {turns} turns");
    world.settle();
    world.end();
}

/// A turn was far too long for one step of somebody who sends much: the next serves the others alone.
#[test]
fn those_who_send_much_wait_a_turn_after_one_that_was_far_too_long() {
    let (mut world, publishers) = world_of_heavy_names(600, 4);
    for &publisher in &publishers {
        for _ in 0..60 {
            world.publish(publisher, "t");
        }
    }
    world.write_all();
    for _ in 0..20 {
        if world.reactor(0).desk().queues.waiting.len() < publishers.len() {
            world.turn(0);
        }
    }
    assert_eq!(world.reactor(0).desk().queues.waiting.len(), publishers.len());
    for &publisher in &publishers {
        for index in 0..3 {
            world.publish(publisher, &format!("new/{publisher}.{index}"));
        }
    }
    world.write_all();
    let (mut last, mut turns) = (None, 0);
    while world.reactor(0).desk().home.topic_count() < 13 {
        let before = world.reactor(0).desk().home.topic_count();
        world.turn(0);
        turns += 1;
        assert!(turns < 1_000, "all are taken");
        if world.reactor(0).desk().home.topic_count() > before {
            let waited = turns - last.replace(turns).unwrap_or(turns - 2);
            assert!((2..=8).contains(&waited), "{waited} turns from one to the next");
        }
    }
    world.settle();
    world.end();
}

/// A peer breaks a rule in the middle of what it sends. It is told so, and its connection ends when it falls silent: or
/// when it has gone on for long, or with much.
#[test]
fn whoever_is_not_understood_any_more_is_listened_to_until_it_falls_silent() {
    let close_ms = Knobs::calm(1).config().timeouts.close_ms;
    for (written_bytes, silence_ms, lasts_ms) in
        [(10, 10 * QUIET_MS, 0), (10, QUIET_MS / 2, close_ms), (QUIET_MS as usize * 10, QUIET_MS / 5, 0)]
    {
        let mut world = World::new(Knobs { may_close: true, ..Knobs::calm(1) });
        let client = world.open(0, Format::Json);
        let peer = world.clients[client].peer;
        let said = |world: &World| {
            let mut bytes = Vec::new();
            (world.net.read(peer, usize::MAX, &mut bytes), bytes)
        };
        let say = |world: &mut World, len: usize| {
            world.net.write(peer, &vec![0xff; len]);
            world.turns(0, 6);
        };
        said(&world);
        say(&mut world, 20);
        let (stream, bytes) = said(&world);
        assert_eq!(
            (stream, &bytes[..1], &bytes[2..4]),
            (Stream::Open, &[0x88][..], &1002u16.to_be_bytes()[..])
        );
        let began_ns = world.now_ns;
        let mut passed_bytes = 0;
        loop {
            say(&mut world, written_bytes);
            passed_bytes += written_bytes;
            let stream = said(&world).0;
            if stream != Stream::Open {
                assert_eq!(stream, Stream::Ended);
                break;
            }
            assert!(passed_bytes <= LINGER_BYTES_MAX as usize + 2 * written_bytes);
            world.now_ns += silence_ms * MS;
            world.turns(0, 6);
        }
        let elapsed_ms = (world.now_ns - began_ns) / MS;
        let slack_ms = 2 * QUIET_MS.max(silence_ms);
        assert!((lasts_ms..=lasts_ms + slack_ms).contains(&elapsed_ms), "{elapsed_ms} ms, {silence_ms} each");
        world.over(client);
        world.net.close(peer);
        world.end();
    }
}

/// It answers with a close frame, and is not waited for any longer.
#[test]
fn whoever_is_not_understood_and_says_goodbye_is_let_go_at_once() {
    for (bytes, ends) in [
        (&[0x88, 0x82, 0, 0, 0, 0, 3, 0xea][..], true),
        (&[0x88, 0x80, 1, 2, 3, 4][..], true),
        // Not masked, cut off, and the middle of something.
        (&[0x88, 0x02, 0, 0, 0, 0, 3, 0xea][..], false),
        (&[0x88, 0x82, 0, 0, 0, 0, 3][..], false),
        (&[0x81, 0x82, 0, 0, 0, 0, 3, 0xea][..], false),
    ] {
        let mut world = World::new(Knobs { may_close: true, ..Knobs::calm(1) });
        let client = world.open(0, Format::Json);
        let peer = world.clients[client].peer;
        world.net.write(peer, &[0xff; 20]);
        world.turns(0, 6);
        world.net.write(peer, bytes);
        world.turns(0, 6);
        world.now_ns += 60 * MS;
        world.turns(0, 6);
        let stream = world.net.read(peer, usize::MAX, &mut Vec::new());
        assert_eq!(stream == Stream::Ended, ends, "{bytes:02x?}: {stream:?}");
        world.over(client);
        world.net.close(peer);
        world.end();
    }
}

/// A home takes nothing, so that everybody waits, with little. When it does again, they go on in the order in which they
/// came.
#[test]
fn who_waits_with_little_goes_on_first_come_first_served() {
    let mut world = World::new(Knobs { queue_entries: 1, ..Knobs::calm(2) });
    let publisher = world.open(0, Format::Json);
    let clients: Vec<usize> = (0..20).map(|_| world.open(0, Format::Json)).collect();
    let topic = world.topic_at(1, "t");
    for _ in 0..10 {
        world.publish(publisher, &topic);
    }
    world.write_all();
    world.turns(0, 3);
    for &client in &clients {
        world.ping(client);
        world.write_all();
        world.now_ns += FULL_RETRY_NS;
        world.turns(0, 2);
    }
    assert_eq!(world.reactor(0).desk().queues.little_waiting.len(), clients.len());
    let is_answered = |world: &World, client: usize| world.oracle.asked_count(client) == 0;
    while !clients.iter().all(|&client| is_answered(&world, client)) {
        world.now_ns += FULL_RETRY_NS;
        world.turn(1);
        world.turn(0);
        for &client in &clients {
            world.read(client, usize::MAX);
        }
        assert!(clients.iter().map(|&client| is_answered(&world, client)).is_sorted_by(|a, b| a >= b));
    }
    world.settle();
    world.end();
}

/// Lets reactor 0 turn until it checks a long message.
fn until_checking(world: &mut World) {
    for _ in 0..200 {
        if world.reactor(0).desk().checking.len() == 1 {
            return;
        }
        world.turn(0);
    }
    panic!("no long message is checked");
}

/// Long messages are checked a slice at a time, in turn: one that is much shorter than another before it is done first.
#[test]
fn a_long_message_does_not_wait_for_a_longer_one() {
    const LONGER: usize = 1_000;
    let mut world = World::new(Knobs::calm(1));
    let (longer, long) = (world.open(0, Format::Json), world.open(0, Format::Json));
    let ask = |world: &mut World, client, count: usize| {
        world.ask_together(client, |world| (0..count).for_each(|_| world.ping(client)));
        world.write_all();
    };
    ask(&mut world, longer, LONGER);
    until_checking(&mut world);
    ask(&mut world, long, LONGER / 10);
    while world.oracle.asked_count(long) > 0 {
        assert_eq!(world.oracle.asked_count(longer), LONGER, "the longer is done");
        world.turn(0);
        world.read(long, usize::MAX);
        world.read(longer, usize::MAX);
    }
    world.settle();
    world.end();
}

/// It is the first to be answered, however long its check takes.
#[test]
fn what_is_said_behind_a_long_message_waits_for_its_check() {
    let mut world = World::new(Knobs::calm(1));
    let client = world.open(0, Format::Json);
    world.publish_as(client, "t", 9_000, true, true, false, None);
    world.ping(client);
    world.write_all();
    until_checking(&mut world);
    world.read(client, usize::MAX);
    assert_eq!(world.oracle.asked_count(client), 2);
    world.settle();
    assert_eq!(world.oracle.asked_count(client), 0);
    world.end();
}

/// The end of the stream is met behind the message, as behind any other.
#[test]
fn a_long_message_before_the_end_of_the_stream_is_carried_out() {
    let mut world = World::new(Knobs { may_close: true, ..Knobs::calm(1) });
    let (publisher, subscriber) = (world.open(0, Format::Json), world.open(0, Format::Json));
    world.subscribe(subscriber, "t");
    world.settle();
    world.publish_as(publisher, "t", 9_000, true, false, false, None);
    world.write_all();
    world.net.finish(world.clients[publisher].peer);
    world.clients[publisher].state = State::Closing;
    world.oracle.on_over(publisher);
    world.settle();
    assert_eq!(world.seqs(subscriber, "t"), [1]);
    world.end();
}

/// Whoever gets the slot of a client that left in mid-check is not held up by that.
#[test]
fn a_slot_whose_client_left_in_the_middle_of_a_check_serves_the_next() {
    let mut world = World::new(Knobs { may_close: true, ..Knobs::calm(1) });
    let long = world.open(0, Format::Json);
    world.publish_as(long, "t", 9_000, true, false, false, None);
    world.write_all();
    until_checking(&mut world);
    world.reset(long);
    world.settle();
    let next = world.open(0, Format::Json);
    world.ping(next);
    world.settle();
    assert_eq!(world.oracle.asked_count(next), 0);
    world.end();
}

/// A reactor that sleeps keeps log for one that takes nothing. Another finds that the log is short: it wakes it.
#[test]
fn who_finds_the_log_short_wakes_those_who_keep_it() {
    let knobs =
        Knobs { log_bytes_max: 256 << 10, policy: SlowConsumer::Skip, may_close: true, ..Knobs::calm(2) };
    let mut world = World::new(knobs);
    let (near, far) = (world.open(0, Format::Json), world.open(1, Format::Json));
    let publisher = world.open(0, Format::Json);
    let (kept_there, kept_here) = (world.topic_at(0, "far"), world.topic_at(0, "near"));
    world.subscribe(far, &kept_there);
    world.subscribe(near, &kept_here);
    world.settle();
    world.stick(near);
    world.stick(far);
    for _ in 0..20 {
        world.publish_as(publisher, &kept_there, 1_500, true, true, false, None);
        world.settle();
    }
    assert!(!world.shared.budget.is_short() && !world.net.is_woken(1));
    while !world.shared.budget.is_short() {
        world.publish_as(publisher, &kept_here, 1_500, true, true, false, None);
        world.write_all();
        world.now_ns += 3 * MS;
        world.turns(0, 2);
        world.read(publisher, usize::MAX);
    }
    world.now_ns += 3 * MS;
    world.asleep_until_ns[0] = Some(0);
    world.turns(0, 2);
    assert!(world.net.is_woken(1));
    world.end();
}

/// Whoever takes nothing of a send for too long is a slow consumer like others, also where it is owed little. What of, it
/// had too much is counted: see [`World::check`].
#[test]
fn whoever_takes_nothing_is_counted_with_what_it_was_beyond() {
    let mut world = World::new(Knobs { may_close: true, ..Knobs::calm(1) });
    let (_, publisher) = world.open_stuck(&["t"]);
    world.publish_each_turn(publisher, "t", 1);
    world.pass(world.shared.config.timeouts.write_stall_ms * MS * 3 / 2);
    let stats = &world.reactor(0).desk().stats;
    assert_eq!(stats.slow_disconnects_total[Bound::WriteStallMs.index()], 1);
    world.end();
}

/// It is closed for what it was closed for, whatever it says before it is gone: see [`World::check`].
#[test]
fn a_slow_consumer_that_breaks_a_rule_while_it_is_closed_stays_one() {
    let mut world = World::new(Knobs { may_close: true, ..Knobs::calm(1) });
    let (reader, publisher) = world.open_stuck(&["t"]);
    world.publish_each_turn(publisher, "t", 1);
    let step_ms = world.shared.config.timeouts.close_ms / 4;
    for _ in 0..world.shared.config.timeouts.write_stall_ms * 3 / 2 / step_ms {
        if world.reactor(0).desk().stats.slow_disconnects_total[Bound::WriteStallMs.index()] == 0 {
            world.pass(step_ms * MS);
        }
    }
    world.net.write(world.clients[reader].peer, &[0xff; 20]);
    world.has_lost = true;
    world.turns(0, 3);
    world.pass(world.shared.config.timeouts.close_ms * MS * 2);
    let stats = &world.reactor(0).desk().stats;
    assert_eq!(stats.slow_disconnects_total[Bound::WriteStallMs.index()], 1);
    assert_eq!(stats.closes_total[CloseReason::SlowConsumer.index()], 1);
    world.end();
}

/// A log that is full is kept by what somebody is owed who takes nothing, and by its send in flight. It is closed for the
/// former, or where its topic skips reset for the latter, and counted once.
#[test]
fn whoever_keeps_a_full_log_is_counted_once() {
    for topic in ["t", "skip/t"] {
        let knobs =
            Knobs { log_bytes_max: 256 << 10, has_skip_rule: true, may_close: true, ..Knobs::calm(1) };
        let mut world = World::new(knobs);
        let (_, publisher) = world.open_stuck(&[topic]);
        for _ in 0..1_000 {
            world.publish_as(publisher, topic, 1_500, true, true, false, None);
            world.write_all();
            world.now_ns += 3 * MS;
            world.turns(0, 2);
            world.read(publisher, usize::MAX);
        }
        let stats = &world.reactor(0).desk().stats;
        let [skips, disconnects] = [stats.slow_skips_total, stats.slow_disconnects_total];
        assert_eq!(disconnects[Bound::LogBytes.index()], 1, "{topic}");
        assert_eq!(skips[Bound::LogBytes.index()] > 0, topic != "t");
        world.end();
    }
}

/// What is left of what came, since its connection has had its share, and what comes while it waits, is copied: as much of
/// either costs as much more.
#[test]
fn bytes_that_are_kept_count_for_the_turn() {
    const MORE: usize = 64 << 10;
    let spent_with = |more_bytes: usize| {
        let mut world = World::new(Knobs::calm(1));
        let client = world.open(0, Format::Json);
        (0..100).for_each(|_| world.ping(client));
        let mut bytes: Vec<u8> = world.clients[client].out.drain(..).collect();
        bytes.resize(bytes.len() + more_bytes, 0);
        let desk = world.reactors[0].as_mut().expect("it runs").desk_mut();
        let before = desk.meter.spent();
        desk.handle_bytes(0, &mut bytes);
        let left = desk.meter.spent();
        assert!(desk.connections[0].is_paused());
        desk.handle_bytes(0, &mut vec![0; more_bytes]);
        [left - before, desk.meter.spent() - left]
    };
    let [little, nothing] = spent_with(0);
    let more = MORE as u64 / 1_024 * price::KEPT_KIB;
    assert_eq!((spent_with(MORE), nothing), ([little + more, more], 0));
}

/// The log is full, kept by a send in flight that makes no progress: of log alone, or of that and a reply. It may take its
/// time before the connection is reset for it.
#[test]
fn a_send_that_keeps_a_full_log_may_make_no_progress_for_a_while() {
    for has_reply in [false, true] {
        let knobs =
            Knobs { log_bytes_max: 256 << 10, has_skip_rule: true, may_close: true, ..Knobs::calm(1) };
        let mut world = World::new(knobs);
        let (reader, publisher) = world.open_stuck(&["skip/t"]);
        if has_reply {
            world.ping(reader);
        }
        world.publish_as(publisher, "skip/t", 1_500, true, true, false, None);
        world.write_all();
        world.turns(0, 2);
        let flight = &world.reactor(0).desk().connections[0].flight;
        assert!(matches!(flight, Flight::Gather(_)) == has_reply && !matches!(flight, Flight::None));
        let reset_count =
            |world: &World| world.reactor(0).desk().stats.slow_disconnects_total[Bound::LogBytes.index()];
        let publish_for = |world: &mut World, ms: u64| {
            for _ in 0..500 {
                world.publish_as(publisher, "skip/t", 1_500, true, true, false, None);
                world.write_all();
                world.now_ns += ms * MS / 500;
                world.turns(0, 2);
                world.read(publisher, usize::MAX);
            }
        };
        publish_for(&mut world, 150);
        assert_eq!((world.shared.budget.is_short(), reset_count(&world)), (true, 0));
        publish_for(&mut world, 150);
        assert_eq!(reset_count(&world), 1, "with a reply: {has_reply}");
        world.end();
    }
}

/// Readers that took nothing take everything at once, more of them than a turn sends to, and what they are owed is too old
/// by then. Whoever only waits for its send is not judged: it gets everything.
#[test]
fn whoever_waits_for_a_send_of_ours_is_not_too_slow() {
    let mut world = World::new(Knobs { owed_ms_max: 2_000, policy: SlowConsumer::Skip, ..Knobs::calm(1) });
    let (readers, publisher) = world.open_many_stuck(2 * share::SENDS_MAX, "t");
    world.publish_each_turn(publisher, "t", 3);
    // The reactor is away meanwhile.
    world.now_ns += 2_100 * MS;
    for &reader in &readers {
        world.net.set_window(world.clients[reader].peer, 1 << 20);
    }
    world.turns(0, 1);
    let desk = world.reactor(0).desk();
    let waiting = readers.iter().filter(|&&reader| !desk.connections[reader as u32].is_sending());
    assert_eq!(waiting.count(), readers.len() - share::SENDS_MAX);
    assert_eq!(desk.stats.slow_skips_total[Bound::OwedMs.index()], 0);
    for &reader in &readers {
        world.unstick(reader);
        assert_eq!(world.seqs(reader, "t"), [1, 2, 3]);
    }
    world.end();
}

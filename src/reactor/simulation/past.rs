//! Races and limits of topics' pasts, each arranged on purpose.

use super::*;

/// Every topic keeps so many publications.
fn keeping(reactor_count: usize, count: u64) -> Knobs {
    let policy = TopicPolicy { filter: "#".into(), history_count: Some(count), ..TopicPolicy::default() };
    Knobs { policies: vec![policy], ..Knobs::calm(reactor_count) }
}

/// The newest so many.
fn last(count: u32) -> Start {
    Start { since: None, last: Some(count) }
}

impl World {
    /// What comes after `seq` of this world's epoch.
    fn after(&self, seq: u64) -> Start {
        Start { since: Some(self.since(seq)), last: None }
    }

    /// The codes of errors that the client saw.
    pub(super) fn errors(&self, client: usize) -> Vec<&str> {
        let code = self.clients[client].seen.iter().filter_map(|event| match event {
            Event::Error { code, .. } => Some(code.as_str()),
            _ => None,
        });
        code.collect()
    }

    /// What the client was told to miss of what is kept no more.
    fn lapses(&self, client: usize) -> Vec<(u64, u64)> {
        let lapse =
            |event: &_| if let Event::Lapsed { from, to, .. } = event { Some((*from, *to)) } else { None };
        self.clients[client].seen.iter().filter_map(lapse).collect()
    }
}

/// The last subscriber by name goes, in one way or another, while the page that is to make another one a member is on its
/// way, however far that has come.
#[test]
fn the_last_subscriber_by_name_goes_while_anothers_last_page_is_on_its_way() {
    for moment in 0..24 {
        let (hangs_up, home_turns, own_turns) = (moment % 2 == 0, moment / 2 % 3, moment / 6);
        let mut world = World::new(keeping(2, 100));
        let topic = world.topic_at(1, "t");
        let (first, second) = (world.open(0, Format::Json), world.open(0, Format::Json));
        let publisher = world.open(1, Format::Json);
        world.subscribe(first, &topic);
        world.settle();
        world.publish_each_turn(publisher, &topic, 3);
        let start = world.after(1);
        world.subscribe_from(second, &topic, start);
        world.write_all();
        world.turns(0, 1 + own_turns);
        world.turns(1, home_turns);
        match hangs_up {
            true => world.hang_up(first),
            false => _ = world.unsubscribe(first, &topic),
        }
        world.write_all();
        world.turns(0, 2);
        world.publish(publisher, &topic);
        world.settle();
        world.publish_each_turn(publisher, &topic, 2);
        assert_eq!(world.seqs(second, &topic), [2, 3, 4, 5, 6], "at moment {moment}");
        world.unsubscribe(second, &topic);
        world.settle();
        world.knobs.may_close = true;
        world.end();
    }
}

/// A connection that takes nothing is sent a topic's past when it subscribes to a filter that would match the topic.
#[test]
fn a_filter_does_not_begin_in_a_replay_of_what_it_matches() {
    let mut world = World::new(keeping(2, 1_000));
    let topic = format!("a/{}", world.topic_at(1, "a/").trim_start_matches("a/"));
    let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Binary));
    world.publish_each_turn(publisher, &topic, 100);
    world.stick(reader);
    world.subscribe_from(reader, &topic, last(1_000));
    world.settle();
    assert!(world.reactor(0).desk().fanout.replay_count() > 0, "it is still under way");
    world.subscribe(reader, "a/#");
    world.subscribe(reader, "b/#");
    world.publish_each_turn(publisher, &topic, 3);
    world.unstick(reader);
    assert_eq!(world.errors(reader), ["busy"]);
    world.subscribe(reader, "a/#");
    world.settle();
    world.publish_each_turn(publisher, &topic, 2);
    assert_eq!(world.errors(reader), ["busy"], "it is over");
    assert_eq!(world.seqs(reader, &topic), (1..=105).collect::<Vec<_>>());
    world.unsubscribe(reader, &topic);
    world.settle();
    world.publish_each_turn(publisher, &topic, 2);
    assert_eq!(world.seqs(reader, &topic), (1..=107).collect::<Vec<_>>(), "the filter matches it as well");
    world.end();
}

/// Whoever receives a topic by a filter may have it by name as well, and not its past.
#[test]
fn the_past_of_what_a_filter_matches_is_refused() {
    let mut world = World::new(keeping(2, 1_000));
    let (reader, publisher) = (world.open(0, Format::Json), world.open(1, Format::Json));
    world.publish_each_turn(publisher, "a/x", 3);
    world.subscribe(reader, "a/+");
    world.settle();
    world.subscribe_from(reader, "a/x", last(2));
    let start = world.after(1);
    world.subscribe_from(reader, "a/x", start);
    world.settle();
    assert_eq!(world.errors(reader), ["already_subscribed"; 2]);
    world.subscribe(reader, "a/x");
    world.settle();
    world.publish_each_turn(publisher, "a/x", 2);
    assert_eq!(world.seqs(reader, "a/x"), [4, 5]);
    // In the order in which it asks: the filter is gone.
    world.ask_together(reader, |world| {
        world.unsubscribe(reader, "a/x");
        world.unsubscribe(reader, "a/+");
        world.subscribe_from(reader, "a/x", last(2));
    });
    world.settle();
    assert_eq!(world.seqs(reader, "a/x"), [4, 5, 4, 5]);
    world.end();
}

/// Whoever leaves a topic before it has heard of its past is answered both, the subscribe first; what it asks then waits.
#[test]
fn a_topic_is_left_before_its_past_has_come() {
    for goes in [false, true] {
        let mut world = World::new(keeping(2, 100));
        let topic = world.topic_at(1, "t");
        let (reader, publisher) = (world.open(0, Format::Json), world.open(1, Format::Json));
        world.publish_each_turn(publisher, &topic, 3);
        let asked = [
            world.subscribe_from(reader, &topic, last(2)),
            world.unsubscribe(reader, &topic),
            world.subscribe_from(reader, &topic, last(1)),
        ];
        world.write_all();
        if goes {
            world.turns(0, 3);
            world.hang_up(reader);
        }
        world.settle();
        if !goes {
            let ok = |event: &_| if let Event::Ok { id, .. } = event { Some(*id) } else { None };
            let oks: Vec<u64> = world.clients[reader].seen.iter().filter_map(ok).collect();
            assert_eq!(oks, asked);
            assert_eq!(world.seqs(reader, &topic), [3]);
        }
        world.end();
    }
}

/// More replays of a connection than pages may be out, of topics that nobody else receives: each waits for its turn.
#[test]
fn replays_wait_for_each_other() {
    let mut world = World::new(keeping(2, 100));
    let (reader, publisher) = (world.open(0, Format::Json), world.open(1, Format::Json));
    let topics: Vec<String> = (0..6).map(|number| format!("t/{number}")).collect();
    for topic in &topics {
        world.publish_each_turn(publisher, topic, 40);
    }
    world.stick(reader);
    let start = world.after(10);
    world.ask_together(reader, |world| {
        topics.iter().for_each(|topic| _ = world.subscribe_from(reader, topic, start.clone()));
    });
    world.settle();
    world.unsubscribe(reader, &topics[5]);
    topics.iter().for_each(|topic| _ = world.publish(publisher, topic));
    world.unstick(reader);
    for topic in &topics[..5] {
        assert_eq!(world.seqs(reader, topic), (11..=41).collect::<Vec<_>>());
    }
    world.end();
}

/// Retention passes whoever takes nothing in its replay: it is told what it misses, exactly.
#[test]
fn retention_overtakes_a_replay() {
    for format in [Format::Json, Format::Binary] {
        let mut world = World::new(keeping(2, 40));
        let (reader, publisher) = (world.open(0, format), world.open(1, Format::Json));
        world.publish_each_turn(publisher, "t", 40);
        world.stick(reader);
        world.subscribe_from(reader, "t", last(40));
        world.settle();
        world.publish_each_turn(publisher, "t", 100);
        world.unstick(reader);
        let lapses = world.lapses(reader);
        assert!(matches!(lapses[..], [(from, 100)] if from > 1), "the newest 40 of 140 are kept: {lapses:?}");
        let from = lapses[0].0;
        assert_eq!(world.seqs(reader, "t"), (1..from).chain(101..=140).collect::<Vec<_>>());
        world.end();
    }
}

/// Whoever takes nothing in its replay pins what the topic keeps no more, and another one all that it is owed, until the log
/// is full: publishers go on. If it is being sent that, it goes; if it waits for something else to be sent, it is told.
#[test]
fn a_stuck_replay_does_not_hold_the_log() {
    for waits in [false, true] {
        let knobs = Knobs { log_bytes_max: 192 << 10, may_close: true, ..keeping(1, 40) };
        let policies = vec![TopicPolicy { filter: "t".into(), ..knobs.policies[0].clone() }];
        let mut world = World::new(Knobs { policies, ..knobs });
        let (replayer, reader) = (world.open(0, Format::Json), world.open(0, Format::Json));
        let publisher = world.open(0, Format::Json);
        world.publish_each_turn(publisher, "t", 40);
        world.subscribe(reader, "other");
        world.settle();
        [replayer, reader].into_iter().for_each(|client| world.stick(client));
        if waits {
            world.ping(replayer);
            world.settle();
        }
        world.subscribe_from(replayer, "t", last(40));
        world.settle();
        assert!(world.reactor(0).desk().fanout.replay_count() > 0, "it is still under way");
        for _ in 0..100 {
            world.publish(publisher, "t");
            world.publish_as(publisher, "other", 3_000, true, true, false, None);
            world.settle();
        }
        let is_ok = |event: &&Event| matches!(event, Event::Ok { .. });
        assert_eq!(world.clients[publisher].seen.iter().filter(is_ok).count(), 240);
        world.unstick(replayer);
        let lapses = world.lapses(replayer);
        let (first, last) = (lapses.first().map(|(from, _)| *from), lapses.last().map(|(_, to)| *to));
        assert_eq!(
            (first, last),
            (waits.then_some(1), waits.then_some(100)),
            "40 are kept of 140: {lapses:?}"
        );
        assert_eq!(world.clients[replayer].state == State::Over, !waits, "it is told, or goes");
        world.end();
    }
}

/// The last page of a topic's past waits for something else to be sent until the log is full, and its topic is left: it is
/// told what it misses, before it is told that it has left.
#[test]
fn the_last_page_is_missed_where_the_log_is_full() {
    let knobs = Knobs { log_bytes_max: 192 << 10, may_close: true, ..keeping(1, 40) };
    let slow_consumer = Some(SlowConsumer::Skip);
    let policies = vec![TopicPolicy { filter: "t".into(), slow_consumer, ..knobs.policies[0].clone() }];
    let mut world = World::new(Knobs { policies, ..knobs });
    let (replayer, reader) = (world.open(0, Format::Json), world.open(0, Format::Json));
    let publisher = world.open(0, Format::Json);
    world.publish_each_turn(publisher, "t", 40);
    world.subscribe(reader, "other");
    world.settle();
    [replayer, reader].into_iter().for_each(|client| world.stick(client));
    world.ping(replayer);
    world.settle();
    world.subscribe_from(replayer, "t", last(5));
    world.settle();
    assert_eq!(world.reactor(0).desk().fanout.replay_count(), 0, "its last page has come");
    let left = world.unsubscribe(replayer, "t");
    world.settle();
    world.publish_each_turn(publisher, "t", 100);
    for _ in 0..100 {
        world.publish_as(publisher, "other", 3_000, true, true, false, None);
        world.settle();
    }
    world.unstick(replayer);
    let seen = &world.clients[replayer].seen;
    let lapse = Event::Lapsed { topic: "t".into(), from: 36, to: 40 };
    let lapse = seen.iter().position(|event| *event == lapse).expect("it is told");
    let ok = seen.iter().position(|event| matches!(event, Event::Ok { id, .. } if *id == left));
    assert!(lapse < ok.expect("it is answered"), "{seen:?}");
    world.end();
}

/// Pages of a topic's past without a subscription, in both directions.
#[test]
fn history_is_paged_in_both_directions() {
    for format in [Format::Json, Format::Binary] {
        let mut world = World::new(keeping(2, 60));
        let (reader, publisher) = (world.open(0, format), world.open(1, Format::Json));
        world.publish_each_turn(publisher, "t", 100);
        for is_forward in [true, false] {
            let mut anchor = if is_forward { Anchor::After(world.since(0)) } else { Anchor::Newest };
            let mut seqs = Vec::new();
            loop {
                world.ask_history(reader, "t", Some(25), anchor);
                world.settle();
                let Some(Event::History(page)) = world.clients[reader].seen.last() else { panic!("no page") };
                let page_seqs: Vec<u64> = page.messages.iter().map(|told| told.seq).collect();
                let (first, last) = (page_seqs[0], *page_seqs.last().expect("it has one"));
                anchor = match is_forward {
                    true => Anchor::After(world.since(last)),
                    false => Anchor::Before(world.since(first)),
                };
                seqs.extend(page_seqs);
                if !page.has_more {
                    break;
                }
            }
            seqs.sort_unstable();
            assert_eq!(seqs, (41..=100).collect::<Vec<_>>());
        }
        world.ask_history(reader, "t", Some(0), Anchor::Newest);
        world.settle();
        let Some(Event::History(page)) = world.clients[reader].seen.last() else { panic!("no page") };
        assert_eq!((page.seq, page.from, page.has_more, page.messages.len()), (100, 41, false, 0));
        world.end();
    }
}

/// A drain goes on as long as a page of some topic's past, and the next, are asked for at a home that has no connections.
#[test]
fn a_home_without_connections_answers_until_the_last_is_closed() {
    let mut knobs = Knobs { may_close: true, ..keeping(2, 100) };
    knobs.net.window_bytes = 500;
    let mut world = World::new(knobs);
    let topic = world.topic_at(1, "t");
    let (reader, publisher) = (world.open(0, Format::Json), world.open(0, Format::Json));
    world.publish_each_turn(publisher, &topic, 100);
    world.subscribe_from(reader, &topic, last(100));
    world.write_all();
    (0..2).for_each(|index| world.order_drain(index));
    world.turns(1, 20);
    assert!(world.reactors[1].is_some(), "others have connections");
    world.pass(2 * SECOND);
    assert_eq!(world.seqs(reader, &topic), (1..=100).collect::<Vec<_>>());
    assert_eq!(world.closed_with(reader), Some(Some(1012)));
    assert!(world.reactors.iter().all(Option::is_none));
    world.oracle.check_over();
}

//! What listeners are promised beside clients, scene by scene, and in random worlds.

use super::*;

fn knobs(reactor_count: usize, seed: u64) -> Knobs {
    let mut knobs = Knobs::calm(reactor_count);
    knobs.net.seed = seed;
    // Listeners are moved forward whatever clients are.
    knobs.policy = SlowConsumer::Skip;
    knobs
}

#[test]
fn a_guest_hears_what_clients_publish_and_they_what_it_does() {
    let mut world = World::new(knobs(2, 7));
    let client = world.open(0, Format::Json);
    let other = world.open(1, Format::Binary);
    world.subscribe(client, "a/#");
    let publisher = world.oracle.add_client();
    let (by_filter, by_name) = (world.listen(), world.listen());
    world.listener_subscribes(by_filter, "a/+");
    world.listener_subscribes(by_name, "a/x");
    world.settle();
    world.publish_counted(other, "a/x", Some(1));
    world.settle();
    for topic in ["a/x", "a/y", "b"] {
        let receivers = u64::from(topic != "b");
        assert!(world.guest_publishes(publisher, topic, 40, Some(receivers)));
    }
    world.settle();
    assert_eq!((world.seqs(client, "a/x"), world.seqs(client, "a/y")), (vec![1, 2], vec![1]));
    world.listener_unsubscribes(by_name, "a/x");
    world.listener_unsubscribes(by_name, "a/x");
    world.settle();
    world.publish(other, "a/x");
    world.settle();
    world.end();
}

/// Nobody waits for it. Its listeners are closed, and begin again.
#[test]
fn a_guest_that_hangs_stops_no_publisher_and_loses_its_listeners() {
    let mut world = World::new(knobs(2, 8));
    let client = world.open(0, Format::Json);
    let listener = world.listen();
    world.listener_subscribes(listener, "#");
    world.settle();
    world.publish_each_turn(client, "a", 3);
    world.guest.is_hung = true;
    world.publish_each_turn(client, "a", 400);
    world.publish_each_turn(client, "b", 1);
    assert_eq!(world.oracle.asked_count(client), 0, "every publication has its place");
    for reactor in world.reactors.iter().flatten() {
        assert!(reactor.desk().exchange.lens().0 <= 17, "what waits for a guest is bounded");
    }
    world.guest.is_hung = false;
    world.settle();
    assert_eq!((world.guest.overruns, world.guest.listeners.len()), (1, 0), "its listener is closed");
    let again = world.listen();
    world.listener_subscribes(again, "a");
    world.listener_subscribes(again, "b");
    world.settle();
    world.publish_each_turn(client, "a", 3);
    world.publish_each_turn(client, "b", 3);
    world.end();
}

/// What its views take for the newest may be old: nobody subscribes before all of them are gone, which takes some turns.
#[test]
fn after_an_overrun_nobody_subscribes_to_what_is_left() {
    let mut world = World::new(knobs(1, 15));
    let client = world.open(0, Format::Json);
    let listener = world.listen();
    for number in 0..SUBSCRIPTIONS_MAX {
        world.listener_subscribes(listener, &format!("t/{number}"));
        world.settle();
    }
    world.guest.is_hung = true;
    world.publish_each_turn(client, "t/0", 40);
    world.guest.is_hung = false;
    for _ in 0..100 {
        if world.guest.overruns == 0 {
            world.now_ns += MS;
            world.turn(0);
            world.turn_guest();
        }
    }
    assert_eq!(world.guest.overruns, 1);
    let again = world.listen();
    let id = world.guest.listeners[again].id;
    assert_eq!(world.guest.guest.subscribe(id, filter_of("t/0")), Err(NotAsked::Homes));
    world.settle();
    world.listener_subscribes(again, "t/0");
    assert_eq!(world.guest.asked.len(), 1);
    world.settle();
    world.publish_each_turn(client, "t/0", 2);
    world.end();
}

/// What it keeps of a log that becomes short is let go of, but for what is in its queue.
#[test]
fn a_guest_that_hangs_does_not_fill_the_log() {
    let mut knobs = knobs(1, 14);
    knobs.log_bytes_max = 1 << 20;
    let mut world = World::new(knobs);
    let client = world.open(0, Format::Json);
    let listener = world.listen();
    world.listener_subscribes(listener, "#");
    world.settle();
    world.guest.is_hung = true;
    for _ in 0..100 {
        world.publish_as(client, "t", 60_000, true, true, false, None);
        world.settle();
    }
    assert_eq!(world.oracle.asked_count(client), 0, "every publication has its place");
    world.end();
}

#[test]
fn a_guest_that_is_awake_takes_many_topics_of_one_turn() {
    let mut world = World::new(knobs(1, 13));
    let client = world.open(0, Format::Json);
    let listener = world.listen();
    world.listener_subscribes(listener, "#");
    world.settle();
    for number in 0..20 {
        world.publish(client, &format!("t/{number}"));
    }
    world.settle();
    assert_eq!(world.guest.overruns, 0);
    world.end();
}

/// What waits for it is tried again, seldom: it may hang for ever.
#[test]
fn nobody_spins_for_a_guest_that_hangs() {
    let mut world = World::new(knobs(1, 11));
    let client = world.open(0, Format::Json);
    let listener = world.listen();
    world.listener_subscribes(listener, "a");
    world.settle();
    world.guest.is_hung = true;
    world.publish_each_turn(client, "a", 20);
    for _ in 0..20 {
        assert!(!world.reactor(0).desk().exchange.is_posted_to_guests());
        let until_ns = world.asleep_until_ns[0].expect("there is nothing to do");
        world.now_ns = until_ns;
        world.turn(0);
        assert_eq!(world.asleep_until_ns[0], Some(until_ns + GUEST_RETRY_NS));
    }
    world.guest.is_hung = false;
    world.settle();
    world.end();
}

/// One that does not take what it is owed is moved forward, and told so; the other has everything.
#[test]
fn a_listener_that_takes_nothing_is_told_a_gap_and_costs_nobody_else() {
    let mut world = World::new(knobs(2, 9));
    let client = world.open(0, Format::Json);
    let (slow, eager) = (world.listen(), world.listen());
    world.listener_subscribes(slow, "a");
    world.listener_subscribes(eager, "a");
    world.settle();
    world.guest.listeners[slow].takes = false;
    // Who does not take has no part in a world at rest.
    for _ in 0..200 {
        world.publish(client, "a");
        for _ in 0..20 {
            world.write_all();
            for index in 0..2 {
                world.turn(index);
            }
            world.turn_guest();
            world.read(client, usize::MAX);
            world.now_ns += MS;
        }
    }
    world.guest.listeners[slow].takes = true;
    world.guest.is_asked = true;
    world.settle();
    world.end();
}

#[test]
fn a_guest_has_so_many_listeners_questions_and_subscriptions() {
    let mut world = World::new(knobs(1, 10));
    let listeners: Vec<usize> = (0..LISTENERS_MAX).map(|_| world.listen()).collect();
    assert_eq!(world.guest.guest.open(), None);
    // Who was in nothing makes room at once.
    let Listener { id: last, client, .. } = world.guest.listeners.pop().expect("as many as there may be");
    world.guest.guest.close(last);
    world.oracle.on_over(client);
    assert!(world.guest.guest.has_room());
    world.listen();
    assert_eq!(world.guest.guest.open(), None);
    for number in 0..SUBSCRIPTIONS_MAX {
        world.listener_subscribes(listeners[0], &format!("t/{number}"));
        world.settle();
    }
    let first = world.guest.listeners[0].id;
    let one_more = world.guest.guest.subscribe(first, filter_of("more"));
    assert_eq!(one_more, Err(NotAsked::Subscriptions));
    let second = world.guest.listeners[1].id;
    let levels_max = world.shared.config.limits.plus_levels_max;
    let many_levels = format!("+{}", "/a".repeat(levels_max));
    assert_eq!(world.guest.guest.subscribe(second, filter_of(&many_levels)), Err(NotAsked::Levels));
    world.listener_subscribes(listeners[1], &format!("+{}", "/a".repeat(levels_max - 1)));
    world.listener_subscribes(listeners[1], &format!("a{}/#", "/a".repeat(levels_max)));
    world.settle();
    let publisher = world.oracle.add_client();
    for _ in 0..QUESTIONS_MAX {
        assert!(world.guest_publishes(publisher, "t/0", 20, None));
    }
    assert!(!world.guest_publishes(publisher, "t/0", 20, None), "as many as may wait");
    world.settle();
    world.guest.guest.close(first);
    assert_eq!(world.guest.guest.subscribe(first, filter_of("more")), Err(NotAsked::Closed));
    world.oracle.on_over(world.guest.listeners[0].client);
    world.guest.is_asked = true;
    world.settle();
    let again = world.guest.guest.open().expect("who is closed makes room");
    assert!(again.slot == first.slot && again != first);
    assert_eq!(world.guest.guest.take(first, &mut Vec::new()).map(|_| ()), None, "the slot is another's");
    world.guest.guest.close(first);
    assert_eq!(world.guest.guest.subscribe(first, filter_of("more")), Err(NotAsked::Closed));
    world.guest.listeners[0].id = again;
    world.guest.listeners[0].client = world.oracle.add_client();
    world.listener_subscribes(0, "more");
    assert_eq!(world.guest.asked.len(), 1, "and it is open");
    world.settle();
    world.end();
}

/// One record is more than it may be owed: there is nothing left for it but that it missed it.
#[test]
fn a_listener_is_told_a_gap_with_nothing_behind_it() {
    let mut world = World::new(knobs(1, 17));
    let client = world.open(0, Format::Json);
    let listener = world.listen();
    world.listener_subscribes(listener, "a");
    world.settle();
    world.publish_as(client, "a", OWED_BYTES_MAX as usize + 1, true, true, false, None);
    world.settle();
    assert_eq!(world.guest.gaps, 1);
    world.end();
}

/// What it has not taken is old, and the log is short: it is let go of.
#[test]
fn a_listener_keeps_no_old_log_while_the_log_is_short() {
    let mut knobs = knobs(1, 18);
    knobs.log_bytes_max = 1 << 20;
    let mut world = World::new(knobs);
    let client = world.open(0, Format::Json);
    let listener = world.listen();
    world.listener_subscribes(listener, "a");
    world.subscribe(client, "b/+");
    world.settle();
    world.guest.listeners[listener].takes = false;
    world.publish(client, "a");
    // Nothing is written to the chunk any more.
    for number in 0..8 {
        world.publish_as(client, &format!("b/{number}"), 900, true, true, false, None);
    }
    let go_on = |world: &mut World| {
        for _ in 0..20 {
            world.write_all();
            world.turn(0);
            world.guest.is_asked = true;
            world.turn_guest();
            world.now_ns += MS;
        }
    };
    go_on(&mut world);
    let mut pool = ChunkPool::new(world.shared.budget.clone());
    let hog = pool.acquire(700 << 10, 0);
    go_on(&mut world);
    pool.retire(hog);
    pool.release_free();
    world.guest.listeners[listener].takes = true;
    world.guest.is_asked = true;
    world.settle();
    assert_eq!(world.guest.gaps, 1);
    world.end();
}

/// Of topics that a filter matched and that are quiet.
#[test]
fn a_guest_forgets_views_that_have_not_moved_for_long() {
    let mut world = World::new(knobs(1, 19));
    let client = world.open(0, Format::Json);
    let listener = world.listen();
    world.listener_subscribes(listener, "#");
    world.settle();
    world.publish_each_turn(client, "a", 1);
    assert_eq!(world.guest.guest.view_count(), 1);
    for _ in 0..20 {
        world.now_ns += SECOND;
        world.guest.is_asked = true;
        world.turn_guest();
    }
    assert_eq!(world.guest.guest.view_count(), 0);
    world.settle();
    world.publish_each_turn(client, "a", 1);
    world.end();
}

/// Whoever takes nothing keeps waiting who has it unsubscribed, and nobody else.
#[test]
fn listeners_that_take_nothing_keep_nobody_from_publishing() {
    const TOPICS: [&str; 3] = ["a", "b", "c"];
    let mut world = World::new(knobs(1, 16));
    let publisher = world.oracle.add_client();
    for listener in 0..3 {
        world.listen();
        for topic in TOPICS {
            world.listener_subscribes(listener, topic);
            world.settle();
        }
    }
    world.guest.listeners.iter_mut().for_each(|it| it.takes = false);
    // Who does not take has no part in a world at rest.
    let go_on = |world: &mut World| {
        for _ in 0..20 {
            world.turn(0);
            world.turn_guest();
            world.now_ns += MS;
        }
    };
    for topic in TOPICS {
        assert!(world.guest_publishes(publisher, topic, 20, None));
    }
    go_on(&mut world);
    for listener in 0..3 {
        TOPICS.iter().for_each(|topic| world.listener_unsubscribes(listener, topic));
    }
    go_on(&mut world);
    assert_eq!(world.guest.asked.len(), QUESTIONS_MAX, "as many as may wait");
    assert!(world.guest_publishes(publisher, "a", 20, None));
    world.guest.listeners.iter_mut().for_each(|it| it.takes = true);
    world.guest.is_asked = true;
    world.settle();
    world.end();
}

/// One question has the queue's only place and one waits for it.
#[test]
fn a_guest_asks_nothing_while_a_home_has_no_room() {
    let mut knobs = knobs(1, 20);
    knobs.queue_entries = 1;
    let mut world = World::new(knobs);
    let publisher = world.oracle.add_client();
    assert!(
        world.guest_publishes(publisher, "a", 20, None) && world.guest_publishes(publisher, "a", 20, None)
    );
    assert!(!world.guest_publishes(publisher, "a", 20, None));
    let id = world.guest.guest.open().expect("there is room for a listener");
    assert_eq!(world.guest.guest.subscribe(id, filter_of("a")), Err(NotAsked::Homes));
    assert_eq!(world.guest.guest.unsubscribe(id, filter_of("a")), Err(NotAsked::Homes));
    world.guest.guest.close(id);
    world.settle();
    assert!(world.guest_publishes(publisher, "a", 20, None));
    world.settle();
    world.end();
}

#[test]
fn a_guest_is_refused_topics_beyond_as_many_as_there_may_be() {
    let mut knobs = knobs(1, 21);
    knobs.topics_max = 1;
    let mut world = World::new(knobs);
    let publisher = world.oracle.add_client();
    let listener = world.listen();
    world.listener_subscribes(listener, "a");
    world.settle();
    let Listener { id, .. } = world.guest.listeners[listener];
    let refused = |world: &mut World, question: Result<PendingId, NotAsked>| {
        for _ in 0..20 {
            world.guest.guest.turn(world.now_ns, &mut Vec::new());
            world.net.wake(0);
            world.turn(0);
            world.now_ns += MS;
        }
        let answers = std::mem::take(&mut world.guest.guest.answers);
        assert_eq!(answers, [(question.unwrap(), Answer::Refused(TopicRefusal::TopicsMax))]);
    };
    let subscribed = world.guest.guest.subscribe(id, filter_of("b"));
    refused(&mut world, subscribed);
    let kind = crate::protocol::command::PayloadKind::Json;
    let published = world.guest.guest.publish(TopicName::checked("c"), b"1", kind, true);
    refused(&mut world, published);
    assert!(world.guest_publishes(publisher, "a", 20, None));
    world.settle();
    world.end();
}

#[test]
fn a_guest_publishes_nothing_while_much_is_under_way_or_the_log_is_full() {
    let mut knobs = knobs(1, 12);
    knobs.log_bytes_max = 1 << 20;
    let mut world = World::new(knobs);
    let publisher = world.oracle.add_client();
    let mut count = 0;
    while world.guest_publishes(publisher, "t", 20_000, None) {
        count += 1;
    }
    assert_eq!(count, 4, "a sixteenth of the log");
    world.settle();
    let mut pool = ChunkPool::new(world.shared.budget.clone());
    let hog = pool.acquire(900 << 10, 0);
    assert!(!world.guest_publishes(publisher, "t", 20, None));
    pool.retire(hog);
    pool.release_free();
    assert!(world.guest_publishes(publisher, "t", 20, None));
    world.settle();
    world.end();
}

/// Whatever clients, listeners and a guest that hangs now and then do.
fn run(seed: u64) -> (usize, usize) {
    const TOPICS: [&str; 4] = ["a/x", "a/y", "b", "b/x/y"];
    const FILTERS: [&str; 6] = ["a/#", "+", "a/x", "b", "#", "b/+/y"];
    let mut rng = Rng::new(seed ^ 0x0067_7565);
    let mut knobs = knobs(*rng.pick(&[1, 2, 3]), seed);
    knobs.net.trouble = rng.below(5) as u64;
    knobs.queue_entries = rng.between(1, 8);
    let mut world = World::new(knobs);
    world.net.set_trouble(0);
    let count = world.reactors.len();
    let clients: Vec<usize> = (0..3)
        .map(|place| world.open(place % count, if place == 1 { Format::Binary } else { Format::Json }))
        .collect();
    world.net.set_trouble(world.knobs.net.trouble);
    let publisher = world.oracle.add_client();
    for _ in 0..600 {
        if world.guest.listeners.len() < LISTENERS_MAX && world.guest.guest.has_room() {
            world.listen();
        }
        let listener = rng.below(world.guest.listeners.len().max(1));
        let has_listener = listener < world.guest.listeners.len();
        let (topic, filter) = (*rng.pick(&TOPICS), *rng.pick(&FILTERS));
        match rng.below(24) {
            0 if has_listener => world.listener_subscribes(listener, filter),
            1 if has_listener => world.listener_unsubscribes(listener, filter),
            2 => {
                let client = *rng.pick(&clients);
                world.subscribe(client, filter);
            }
            3..6 => {
                world.publish(*rng.pick(&clients), topic);
            }
            6..8 => {
                let len = *rng.pick(&[16, 100, 900]);
                world.guest_publishes(publisher, topic, len, None);
            }
            8 if rng.chance(1, 8) => world.guest.is_hung = !world.guest.is_hung,
            9 if has_listener => {
                let takes = &mut world.guest.listeners[listener].takes;
                *takes = !*takes;
                world.guest.is_asked = true;
            }
            10..14 => {
                world.turn_guest();
            }
            14..16 => {
                let client = *rng.pick(&clients);
                world.write(client, usize::MAX);
                world.read(client, usize::MAX);
            }
            _ => {
                world.turn(rng.below(count));
            }
        }
        world.now_ns += rng.below(200) as u64 * 1_000;
    }
    world.guest.is_hung = false;
    world.guest.listeners.iter_mut().for_each(|it| it.takes = true);
    world.guest.is_asked = true;
    world.settle();
    let told = (world.guest.overruns, world.guest.gaps);
    world.end();
    told
}

#[test]
fn listeners_of_a_guest_are_promised_what_clients_are() {
    let (mut overruns, mut gaps) = (0, 0);
    for seed in 0..150 {
        println!("seed {seed}");
        let told = run(seed);
        (overruns, gaps) = (overruns + told.0, gaps + told.1);
    }
    assert!(overruns > 10 && gaps > 100, "{overruns} overruns, {gaps} gaps: all of it comes about");
}

//! Clients that come back to a filter for what was published meanwhile, to any topic that it matches.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{self, AssertUnwindSafe},
};

use super::*;
use crate::{protocol::topic, reactor::simulation::client::Replayed};

/// So many random worlds.
const SEEDS: u64 = 150;
const TOPIC_COUNT: usize = 12;
/// Which nobody keeps, and who reads it takes nothing: so the log is full of it.
const HOARD: &str = "c/hoard/d";

/// What a reader of `filter` has, over all of its connections.
struct Reader {
    filter: &'static str,
    client: Option<usize>,
    /// How much of what its connection was told it has looked at.
    looked_at: usize,
    /// Of each topic what it got.
    got: BTreeMap<String, BTreeSet<u64>>,
    /// And what it was told that it will not get.
    missed: BTreeMap<String, Vec<(u64, u64)>>,
    /// As of when it has all that it does not list.
    at: Option<String>,
    /// Topics of which it got something since.
    listed: BTreeMap<String, u64>,
    is_recovered: bool,
}

impl Reader {
    fn new(filter: &'static str) -> Reader {
        Reader {
            filter,
            client: None,
            looked_at: 0,
            got: BTreeMap::new(),
            missed: BTreeMap::new(),
            at: None,
            listed: BTreeMap::new(),
            is_recovered: true,
        }
    }

    /// What it says when it subscribes.
    fn members(&self, epoch: &str) -> String {
        let Some(at) = &self.at else { return r#""last":10000"#.to_owned() };
        let listed: Vec<String> =
            self.listed.iter().map(|(topic, seq)| format!(r#""{topic}":{seq}"#)).collect();
        format!(r#""since":{{"at":"{at}","epochs":{{"{epoch}":{{{}}}}}}}"#, listed.join(","))
    }

    /// Looks at what its connection was told since. Whoever began with the newest of all, and was not told that it has them, begins
    /// anew.
    fn look(&mut self, world: &World) {
        let Some(client) = self.client else { return };
        let seen = &world.clients[client].seen;
        for event in &seen[self.looked_at..] {
            match event {
                Event::Message { topic, told } => {
                    let seq = told.seq;
                    let is_new = self.got.entry(topic.clone()).or_default().insert(seq);
                    assert!(is_new, "{topic} {seq} comes twice to who reads {}", self.filter);
                    self.listed.insert(topic.clone(), seq);
                }
                Event::Lapsed { topic, from, to } | Event::Gap { topic, from, to } => {
                    self.missed.entry(topic.clone()).or_default().push((*from, *to));
                    self.listed.insert(topic.clone(), *to);
                }
                Event::Replayed(Replayed { at, is_recovered, .. }) => {
                    self.at = Some(at.clone());
                    self.is_recovered &= is_recovered;
                    self.listed.clear();
                }
                _ => {}
            }
        }
        self.looked_at = seen.len();
    }

    fn connect(&mut self, world: &mut World, rng: &mut Rng) {
        if self.at.is_none() {
            *self = Reader::new(self.filter);
        }
        let reactor = rng.below(world.reactors.len());
        let client = world.open(reactor, *rng.pick(&[Format::Json, Format::Binary]));
        world.clients[client].pace = *rng.pick(&[Pace::Eager, Pace::Slow]);
        let members = self.members(&world.epoch());
        world.tour(client, self.filter, &members);
        (self.client, self.looked_at) = (Some(client), 0);
    }

    /// Whoever is closed by the broker is to connect anew.
    fn notice(&mut self, world: &World) {
        if self.client.is_some_and(|client| world.clients[client].state == State::Over) {
            self.look(world);
            self.client = None;
        }
    }

    fn part(&mut self, world: &mut World, rng: &mut Rng) {
        self.look(world);
        let Some(client) = self.client.take() else { return };
        match rng.below(3) {
            0 => world.reset(client),
            1 => world.hang_up(client),
            _ => world.say_goodbye(client),
        }
    }

    /// It has, or was told that it misses, all that there is.
    fn check_all(&self, world: &World, keeps_all: bool, seed: u64) {
        for (topic, newest) in world.oracle.newest() {
            if !topic::matches(self.filter, topic) || topic == HOARD {
                continue;
            }
            let got = self.got.get(topic);
            let missed = self.missed.get(topic).map_or(&[][..], Vec::as_slice);
            // The newest of each are asked for first, whatever was not kept before.
            let first_got = got.and_then(|got| got.first()).copied();
            let first_missed = missed.first().map(|(from, _)| *from);
            let first = if keeps_all { Some(1) } else { first_got.into_iter().chain(first_missed).min() };
            // All of it may have gone before.
            let Some(first) = first else { continue };
            for seq in first..=newest {
                let is_got = got.is_some_and(|got| got.contains(&seq));
                let is_missed = missed.iter().any(|(from, to)| (*from..=*to).contains(&seq));
                assert!(
                    is_got || is_missed,
                    "seed {seed}: who reads {} neither has nor misses {topic} {seq}",
                    self.filter
                );
            }
        }
    }
}

fn keeping(reactor_count: usize, count: u64) -> Knobs {
    let policy = TopicPolicy { filter: "#".into(), history_count: Some(count), ..TopicPolicy::default() };
    Knobs { policies: vec![policy], ..Knobs::calm(reactor_count) }
}

/// The log is short of room as soon as somebody hoards it.
fn with_little_log(mut knobs: Knobs) -> Knobs {
    let keeps_nothing = TopicPolicy { history_count: Some(0), ..knobs.policies[0].clone() };
    knobs.policies.push(TopicPolicy { filter: HOARD.into(), ..keeps_nothing });
    Knobs { policy: SlowConsumer::Skip, log_bytes_max: 192 << 10, may_close: true, ..knobs }
}

/// Readers come and go while others publish; each has all in the end, once, or was told.
fn run(seed: u64) {
    let mut rng = Rng::new(seed);
    let keeps_all = rng.chance(2, 3);
    let mut knobs =
        keeping(*rng.pick(&[1, 2, 4]), if keeps_all { 100_000 } else { rng.between(2, 12) as u64 });
    knobs.net.window_bytes = *rng.pick(&[300, 2_000, 1 << 20]);
    knobs.policies[0].history_format = *rng.pick(&[None, Some(Format::Json), Some(Format::Binary)]);
    let mut fate = Rng::new(seed ^ 0x7025);
    let trouble = if fate.chance(1, 2) { Some(fate.below(5)) } else { None };
    let keeps_all = keeps_all && trouble.is_none();
    match trouble {
        Some(0) => (knobs.policy, knobs.owed_bytes_max) = (SlowConsumer::Skip, fate.between(300, 3_000)),
        Some(1) => knobs.history_bytes_max = fate.between(2, 12) * 700,
        Some(2) => knobs.topics_max = fate.between(4, 10),
        Some(4) => knobs = with_little_log(knobs),
        _ => {}
    }
    // Topics that were evicted, and what a reload turned off, are known to be missing and not of which topic.
    let may_forget = matches!(trouble, Some(2 | 3));
    let mut world = World::new(knobs);
    let publishers = [world.open(0, Format::Json), world.open(0, Format::Binary)];
    if trouble == Some(4) {
        world.hoard();
    }
    let mut readers = ["a/#", "#", "a/+"].map(Reader::new);
    let mut topics: Vec<String> = (0..TOPIC_COUNT).map(|index| format!("a/{index}")).collect();
    topics.extend(["a".to_owned(), "b/1".to_owned(), "a/0/1".to_owned()]);
    for _ in 0..rng.between(30, 200) {
        let reader = rng.below(readers.len());
        readers.iter_mut().for_each(|reader| reader.notice(&world));
        match rng.below(10) {
            0..5 => {
                let topic = rng.pick(&topics[..]).clone();
                let publisher = *rng.pick(&publishers);
                for _ in 0..rng.between(1, 8) {
                    world.publish_as(publisher, &topic, rng.between(12, 400), true, false, false, None);
                }
                world.write(publisher, usize::MAX);
            }
            5 => match readers[reader].client {
                None => readers[reader].connect(&mut world, &mut rng),
                Some(_) => readers[reader].part(&mut world, &mut rng),
            },
            6 => match readers[reader].client {
                Some(client) if trouble.is_some() && fate.chance(1, 3) => {
                    world.unsubscribe(client, readers[reader].filter);
                    readers[reader].part(&mut world, &mut rng);
                    readers[reader] = Reader::new(readers[reader].filter);
                }
                Some(client) if trouble == Some(4) => {
                    let pace = world.clients[client].pace;
                    world.clients[client].pace = *fate.pick(&[Pace::Stuck, pace]);
                    world.fill_log(publishers[0], fate.between(1, 60));
                    world.clients[client].pace = pace;
                }
                _ if trouble == Some(3) && fate.chance(1, 2) => {
                    world.knobs.policies[0].history_count = Some(*fate.pick(&[0, 3, 100]));
                    world.reload();
                }
                _ => world.settle(),
            },
            _ => {
                world.write_all();
                let reactor = rng.below(world.reactors.len());
                world.turns(reactor, rng.between(1, 6));
                for reader in &readers {
                    let Some(client) = reader.client else { continue };
                    world.read(client, rng.between(1, 3_000));
                }
            }
        }
    }
    loop {
        for reader in &mut readers {
            reader.notice(&world);
            if reader.client.is_none() {
                reader.connect(&mut world, &mut rng);
            }
            world.clients[reader.client.expect("it has just connected")].pace = Pace::Eager;
        }
        world.settle();
        // Whoever took too little until now may still have been closed for that.
        readers.iter_mut().for_each(|reader| reader.notice(&world));
        if readers.iter().all(|reader| reader.client.is_some()) {
            break;
        }
    }
    for reader in &mut readers {
        reader.look(&world);
        if !may_forget || reader.is_recovered && keeps_all {
            reader.check_all(&world, keeps_all, seed);
        }
        if keeps_all {
            assert!(reader.is_recovered && reader.missed.is_empty(), "seed {seed}: nothing was lost");
        }
    }
    world.knobs.may_close = true;
    world.end();
}

#[test]
fn who_comes_back_to_a_filter_has_each_publication_once_or_is_told() {
    (0..SEEDS).for_each(run);
}

/// Seeds that were never run, for as long as `FANFARE_SIM_SECONDS` says.
#[test]
fn fresh_random_tours_lose_nothing() {
    random::run_fresh(|seed| {
        if let Err(failure) = panic::catch_unwind(AssertUnwindSafe(|| run(seed))) {
            eprintln!("the tours of seed {seed} fail");
            panic::resume_unwind(failure);
        }
    });
}

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
            TopicPolicy { last_value: Some(true), ..policy("a/last/+") },
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

impl World {
    /// A client that takes nothing is owed all of a topic that nobody keeps.
    fn hoard(&mut self) {
        let hoarder = self.open(0, Format::Json);
        self.subscribe(hoarder, HOARD);
        self.settle();
        self.stick(hoarder);
        // What is in flight to it is none of that.
        self.ping(hoarder);
        self.settle();
    }

    /// So many publications of a few kilobytes are to come to whoever hoards them.
    fn fill_log(&mut self, publisher: usize, count: usize) {
        for _ in 0..count {
            self.publish_as(publisher, HOARD, 3_000, true, false, false, None);
            self.settle();
        }
    }

    /// What the client was told of tours that are over.
    fn replayed(&self, client: usize) -> Vec<&Replayed> {
        let seen = self.clients[client].seen.iter();
        seen.filter_map(|event| if let Event::Replayed(replayed) = event { Some(replayed) } else { None })
            .collect()
    }
}

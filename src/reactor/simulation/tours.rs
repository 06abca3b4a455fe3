//! Clients that come back to a filter for what was published meanwhile, to any topic that it matches.

mod scenes;

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
    pub(super) fn replayed(&self, client: usize) -> Vec<&Replayed> {
        let seen = self.clients[client].seen.iter();
        seen.filter_map(|event| if let Event::Replayed(replayed) = event { Some(replayed) } else { None })
            .collect()
    }
}

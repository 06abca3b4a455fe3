//! Load that never calms: clients that always have something more to say, beside clients that do nothing wrong.
//!
//! Nobody is waited for here: a moment is a turn of each reactor, in which flooders have bytes ready again, and what
//! the healthy ask must have come within so many moments.

use super::*;

/// So many commands are in a flooder's message.
const BATCH: usize = 4;
/// A flooder writes again while the broker has received all but so many bytes.
const READY_BYTES: usize = 600;
/// A moment's time, in nanoseconds: longer than a full queue is waited for.
const MOMENT_NS: u64 = FULL_RETRY_NS + 1;

/// What a flooder does without end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flood {
    Pings,
    Publishes,
    Subscribes,
    /// It pings, and reads nothing.
    PingsUnread,
}

/// A world under load.
struct Load {
    world: World,
    flooders: Vec<(usize, Flood)>,
    rng: Rng,
    moment: usize,
    /// How often each flooder has written.
    rounds: Vec<usize>,
    /// And when it last did.
    wrote: Vec<usize>,
}

/// Buffers of the ring of each reactor, and the size of each.
const BUFFERS: usize = 6;
const BUFFER_BYTES: usize = 256;
/// Entries of each queue between two reactors.
const QUEUE_ENTRIES: usize = 8;

/// What a crowded turn does at most for one buffer of these: its first message, and the pause that follows.
const TAKEN_MAX: u64 = 6 * UNIT;

/// In how many moments a buffer is taken that is behind one of each of so many connections.
const fn taken_within(connection_count: usize) -> usize {
    connection_count.div_ceil((share::INPUT / TAKEN_MAX) as usize)
}

/// In how many moments a command is answered beside `flooder_count` flooders of its reactor.
///
/// Those who flood have one buffer in flight each. The command may be behind all of them, as its answer may be behind
/// theirs: but these come as they were taken. Then there are a buffer that was wanting, a wait in the queue of those with
/// little, what waits of this home's own, and the send. That part is what worlds were seen to take, and some more.
const fn answered_within(flooder_count: usize) -> usize {
    taken_within(flooder_count) + 12
}

/// In how many moments a publication is with its subscriber, beside flooders and `topic_count` topics that are always
/// behind: it is taken like any command, carried to its home and to the subscriber's reactor by queues that may be
/// full, and sent when each of the topics had its quantum once, of the half of a turn's sends that sweeps get.
const fn delivered_within(flooder_count: usize, topic_count: usize) -> usize {
    let swept = share::SENDS_MAX / 2 / QUANTUM;
    answered_within(flooder_count) + 2 * QUEUE_MOMENTS + topic_count.div_ceil(swept)
}

/// In how many moments what is in a queue between reactors is taken, however full it is: a turn takes so many requests of
/// each other reactor, and more deliveries, as these cost little here.
const QUEUE_MOMENTS: usize = QUEUE_ENTRIES.div_ceil(RECEIVES_MAX);

/// In how many moments a flooder's next bytes are taken: of those who wait with much a turn lets at least one go on
/// by a quantum, and a message takes two; and a turn that was far too long puts them off for the next.
const fn read_within(flooder_count: usize) -> usize {
    4 * flooder_count + 8
}

impl Load {
    /// Flooders are connected and silent yet.
    fn new(seed: u64, reactor_count: usize, floods: &[Flood]) -> Load {
        let mut knobs = Knobs::calm(reactor_count);
        knobs.net.seed = seed;
        knobs.net.buffer_count = BUFFERS;
        knobs.net.buffer_bytes = BUFFER_BYTES;
        knobs.queue_entries = QUEUE_ENTRIES;
        let mut world = World::new(knobs);
        let flooders: Vec<(usize, Flood)> = floods
            .iter()
            .enumerate()
            .map(|(place, flood)| {
                let format = if place % 2 == 0 { Format::Json } else { Format::Binary };
                (world.open(place % reactor_count, format), *flood)
            })
            .collect();
        for (client, flood) in &flooders {
            if *flood == Flood::PingsUnread {
                world.stick(*client);
            }
        }
        let rounds = vec![0; flooders.len()];
        Load { world, flooders, rng: Rng::new(seed), moment: 0, rounds, wrote: vec![0; floods.len()] }
    }

    /// Every flooder has bytes ready again; every reactor has a turn; whoever reads does.
    fn pass(&mut self) {
        for place in 0..self.flooders.len() {
            self.flood(place);
            let waited = self.moment - self.wrote[place];
            let is_read = self.flooders[place].1 != Flood::PingsUnread;
            let moments_max = read_within(self.per_reactor());
            assert!(
                !is_read || waited <= moments_max,
                "{place} is not read for {waited} of {moments_max} moments"
            );
        }
        self.world.write_all();
        for index in 0..self.world.reactors.len() {
            self.world.turn(index);
        }
        for client in 0..self.world.clients.len() {
            if self.world.clients[client].pace == Pace::Eager {
                self.world.read(client, usize::MAX);
            }
        }
        self.world.now_ns += MOMENT_NS;
        self.moment += 1;
    }

    fn flood(&mut self, place: usize) {
        let (client, flood) = self.flooders[place];
        while self.world.net.unreceived(self.world.clients[client].peer) < READY_BYTES {
            let round = self.rounds[place];
            self.rounds[place] += 1;
            self.wrote[place] = self.moment;
            let topic = format!("f/{}", self.rng.below(3));
            self.world.ask_together(client, |world| match flood {
                Flood::Pings | Flood::PingsUnread => (0..BATCH).for_each(|_| world.ping(client)),
                Flood::Publishes => (0..BATCH).for_each(|_| {
                    world.publish(client, &topic);
                }),
                Flood::Subscribes => {
                    let filter = if round.is_multiple_of(2) { "f/+" } else { "own/x" };
                    world.subscribe(client, filter);
                    world.ping(client);
                    world.unsubscribe(client, filter);
                }
            });
            self.world.write(client, usize::MAX);
        }
    }

    /// Passes moments until `is_done`; fails if that takes more than `moments_max`. Tells how many it took.
    fn pass_until(
        &mut self,
        what: &str,
        moments_max: usize,
        mut is_done: impl FnMut(&Load) -> bool,
    ) -> usize {
        let began = self.moment;
        while !is_done(self) {
            if self.moment - began >= moments_max {
                (0..self.world.reactors.len()).for_each(|index| self.world.describe(index));
                panic!("{what} takes more than {moments_max} moments");
            }
            self.pass();
        }
        self.moment - began
    }

    /// The client's command is answered in time.
    fn pass_until_answered(&mut self, client: usize, moments_max: usize) -> usize {
        self.pass_until("an answer", moments_max, |load| load.world.oracle.asked_count(client) == 0)
    }

    fn per_reactor(&self) -> usize {
        self.flooders.len().div_ceil(self.world.reactors.len())
    }

    /// Nobody floods any more, and nothing is lost of all that was said.
    fn end(self) {
        self.world.end();
    }
}

/// Floods of every kind, in turn.
fn mixed(count: usize) -> Vec<Flood> {
    let kinds = [Flood::Pings, Flood::Publishes, Flood::Subscribes, Flood::PingsUnread];
    (0..count).map(|place| kinds[place / 2 % kinds.len()]).collect()
}

/// Beside clients that flood, those who ask little are answered in time, every time, and those who flood are read.
#[test]
fn who_asks_little_is_answered_in_time_beside_floods() {
    for seed in 0..6 {
        let mut load = Load::new(seed, 2, &mixed(8 + 12 * seed as usize));
        let healthy: Vec<usize> = (0..8).map(|place| load.world.open(place % 2, Format::Json)).collect();
        let mut asked = vec![0; healthy.len()];
        for _ in 0..150 {
            for (client, asked) in healthy.iter().zip(&mut asked) {
                let waited = load.moment - *asked;
                if load.world.oracle.asked_count(*client) == 0 {
                    *asked = load.moment;
                    (0..4).for_each(|_| load.world.ping(*client));
                } else {
                    let moments_max = answered_within(load.per_reactor() + healthy.len() / 2);
                    assert!(waited <= moments_max, "an answer takes {waited} of {moments_max} moments");
                }
            }
            load.pass();
        }
        load.end();
    }
}

/// A topic's subscriber gets each publication in time, beside topics that are always behind.
#[test]
fn who_keeps_up_gets_each_publication_in_time_beside_floods() {
    for seed in 0..6 {
        let mut load = Load::new(seed, 2, &mixed(8));
        let followers: Vec<usize> = (0..40).map(|place| load.world.open(place % 2, Format::Json)).collect();
        let publisher = load.world.open(0, Format::Json);
        let readers = [load.world.open(0, Format::Json), load.world.open(1, Format::Binary)];
        for client in followers {
            load.world.subscribe(client, "f/#");
        }
        for client in readers {
            load.world.subscribe(client, "calm");
        }
        load.world.settle();
        (0..20).for_each(|_| load.pass());
        for published in 1..=20 {
            load.world.publish(publisher, "calm");
            let moments_max = delivered_within(load.per_reactor(), 3);
            load.pass_until("a publication", moments_max, |load| {
                readers.iter().all(|client| load.world.seqs(*client, "calm").len() == published)
            });
        }
        load.end();
    }
}

/// Connections come all at once, and what each asks is much: a turn takes as much of that as it may.
#[test]
fn many_who_come_at_once_are_taken_a_turns_share_at_a_time() {
    let mut world = World::new(Knobs::calm(1));
    let clients: Vec<usize> = (0..60).map(|_| world.connect(0, Format::Json)).collect();
    world.write_all();
    world.settle();
    for client in &clients {
        world.ask_together(*client, |world| (0..20).for_each(|_| world.ping(*client)));
    }
    world.write_all();
    world.settle();
    assert!(clients.iter().all(|client| world.oracle.asked_count(*client) == 0));
    world.end();
}

/// What takes more than a turn comes to its end beside floods: a filter over many topics is taken back, a client
/// that was in as many goes, and a new policy is taken over.
#[test]
fn tasks_end_in_time_beside_floods() {
    const TOPICS: usize = 120;
    let mut load = Load::new(1, 1, &mixed(8));
    let (one, other) = (load.world.open(0, Format::Json), load.world.open(0, Format::Json));
    let publisher = load.world.open(0, Format::Json);
    for client in [one, other] {
        load.world.subscribe(client, "w/#");
    }
    load.world.settle();
    for topic in 0..TOPICS {
        load.world.publish(publisher, &format!("w/{topic}"));
    }
    load.world.settle();
    (0..20).for_each(|_| load.pass());
    // A view costs a look, a match and a membership; a turn has a share for that, of which others' tasks, one per
    // flooder, take theirs.
    let view_price = (price::LOOK + price::MATCH + 2 * price::MEMBERSHIP + price::VIEW) as usize;
    let task_moments = TOPICS * view_price / (share::TASKS / 2) as usize;
    let moments_max = answered_within(8) + task_moments;
    load.world.unsubscribe(one, "w/#");
    let took = load.pass_until_answered(one, moments_max);
    assert!(took > 2, "it takes more than a turn: {took}");
    let open_count = load.world.reactor(0).desk().connections.open_count();
    load.world.hang_up(other);
    load.pass_until("a disconnect", moments_max, |load| {
        load.world.reactor(0).desk().connections.open_count() < open_count
    });
    let mut config = load.world.knobs.config();
    config.delivery.owed_bytes_max = 2 << 20;
    load.world.order(0, Order::Reload(Arc::new(config), None));
    load.pass();
    load.pass_until("a reload", moments_max, |load| !load.world.reactor(0).desk().has_tasks());
    load.end();
}

/// A long message is taken in time all the same: each of its buffers in its turn, then the whole, a slice in each
/// turn.
#[test]
fn a_long_message_is_taken_in_time_beside_floods() {
    const BYTES: usize = 3_000;
    let mut load = Load::new(2, 1, &mixed(8));
    let publisher = load.world.open(0, Format::Binary);
    (0..20).for_each(|_| load.pass());
    load.world.publish_as(publisher, "t", BYTES, false, true, false, None);
    let received = BYTES.div_ceil(BUFFER_BYTES) * (taken_within(8) + 1);
    let checked = BYTES.div_ceil(SLICE_BYTES);
    load.pass_until_answered(publisher, received + checked + answered_within(8));

    load.end();
}

/// There is one buffer, and all have always something to say. Whoever comes first when it is free has it, as chance will
/// have it: but whoever does not get it then stands in a queue, so that all get about as much, and in a turn no more look
/// for one in vain than whoever is next in the queue and whoever had it last.
#[test]
fn whoever_waits_for_a_buffer_gets_one_in_its_turn() {
    const TURNS: u64 = 400;
    for seed in 0..4 {
        let mut knobs = Knobs::calm(1);
        (knobs.net.seed, knobs.net.buffer_count) = (seed, 1);
        let mut world = World::new(knobs);
        let clients: Vec<usize> = (0..12).map(|_| world.open(0, Format::Json)).collect();
        let mut answered = vec![0; clients.len()];
        for _ in 0..TURNS {
            for (client, answered) in clients.iter().zip(&mut answered) {
                if world.oracle.asked_count(*client) == 0 {
                    *answered += 1;
                    world.ping(*client);
                }
            }
            world.write_all();
            world.turn(0);
            for client in &clients {
                world.read(*client, usize::MAX);
            }
            world.now_ns += MOMENT_NS;
        }
        let (least, most) = (answered.iter().min().unwrap(), answered.iter().max().unwrap());
        assert!(4 * least >= *most, "{answered:?}");
        let in_vain = world.reactor(0).desk().stats.no_buffers_total;
        assert!((TURNS..=2 * TURNS).contains(&in_vain), "{in_vain} find none in {TURNS} turns");
        world.end();
    }
}

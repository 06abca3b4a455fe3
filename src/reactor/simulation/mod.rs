//! Reactors in a simulated world: one thread, one seed, every guarantee checked.
//!
//! A [`World`] interleaves reactors, clients and the clock. Clients are eager, slow or stuck; the
//! network does what [`crate::uring::sim`] does; an [`Oracle`] that knows only what clients asked and
//! saw holds the broker to its promises, and after each step the broker's own invariants and bounds are
//! checked. The bounds of a turn and of queues are small in tests, so that everything fills up.
//!
//! `FANFARE_SIM_SEED=n cargo test simulation -- --nocapture` runs one seed and tells what happens;
//! `FANFARE_SIM_SECONDS=n cargo test --release simulation` looks for a seed that fails for so long.

mod addresses;
mod client;
mod directed;
mod grants;
mod guest;
mod keyed;
mod keyed_values;
mod load;
mod oracle;
mod past;
mod random;
mod rights;
mod stranger;
mod tenants;
mod tours;
mod values;

use std::sync::{Arc, atomic::AtomicUsize};

use super::{
    Order,
    admission::accept::Source,
    connection::{Connection, Phase},
    desk::Shared,
    exchange::{DELIVERIES_MAX, OUTBOX_MAX, RECEIVES_MAX},
    reading::{REPLIES_BYTES_MAX, SLICE_BYTES},
    sending::{QUANTUM, SEND_BYTES_MAX},
    share,
    turn::{COMPLETIONS_MAX, FULL_RETRY_NS, Reactor, Turn},
};
use crate::{
    access::Access,
    channel::Mesh,
    config::{Config, Retain, SlowConsumer, TopicPolicy},
    protocol::{Encoding, Format, close::CloseReason, topic::TopicName},
    pubsub::{
        home::Homes,
        log::{Budget, OWN_CHUNK_BYTES, SHARED_CHUNK_BYTES},
        message::{Delivery, Request},
    },
    uring::{
        Wait,
        sim::{Rng, SimConfig, SimNet, SimRing, Stream},
    },
    work::{UNIT, price},
};
use client::{Anchor, Ask, Client, Event, Pace, Since, Start, State};
use guest::Hearing;
use oracle::{Oracle, payload_of};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
/// When worlds begin: milliseconds in 32 bits wrap soon after, as they do on a machine that runs for 49 days.
const START_NS: u64 = (1 << 32) * MS - 2 * SECOND;
/// The longest publication of a random world, in the longest of its encodings.
const PUBLICATION_BYTES_MAX: usize = 28_000;

/// More than any world keeps of its topics' past.
const PAST_BYTES_AMPLE: usize = 1 << 30;

/// The last thing that a part of a turn does may be more than was left of the part: the most that is not as long as a
/// message is a connection that goes, and what a task does of that at once.
const STEP_MAX: u64 = price::END + UNIT;
/// The most work of a turn in which no message is long, no deadline passes and nobody drains.
const WORK_MAX: u64 = share::INPUT
    // Its last completion.
    + STEP_MAX
    // Those who waited, with or without much, and a quantum of one whose message is long.
    + share::RESUMED + share::QUANTUM
    // What others say.
    + share::EXCHANGE
    + share::TOURS
    // What the home says to its own reactor, and who joins for that. No share bounds it: so much these worlds bring.
    + 12 * UNIT
    // Whatever was done before, sends get theirs; and the last of them.
    + share::SENDS + price::SEND + price::SENT_KIB * 2
    // So do sends of topics' pasts.
    + share::PASTS + price::SEND + price::SENT_KIB * 2
    // Sweeps that begin, connections that are judged, tasks, and half as much for a search for old log.
    + 3 * share::TASKS + share::TASKS / 2;
/// And of one in which they do: each has a share, and its last connection goes.
const DEADLINES_WORK_MAX: u64 = 2 * (share::DEADLINES + STEP_MAX);

/// So many parts of a turn take messages: what comes in, who waited with little and with much, the long message that is
/// checked, and what other reactors publish. Each may end with one that is longer than its part.
const MESSAGE_PARTS: u64 = 5;

/// A longer message may be more than one block.
const ZLIB_BLOCK_BYTES_MIN: u64 = 16_383;

/// Before this no connection's deadline passes, in nanoseconds from the world's beginning.
const DEADLINE_NS_MIN: u64 = SECOND;

/// Everything, in one place.
struct World {
    rng: Rng,
    net: SimNet,
    mesh: Arc<Mesh<Request, Delivery, Order>>,
    reactors: Vec<Option<Reactor<SimRing>>>,
    /// Until when each sleeps, if nothing comes.
    asleep_until_ns: Vec<Option<u64>>,
    guest: Hearing,
    shared: Shared,
    now_ns: u64,
    clients: Vec<Client>,
    oracle: Oracle,
    knobs: Knobs,
    /// Commands that go into one message, while they are collected.
    batch: Option<Vec<(Ask, Option<u64>)>>,
    /// What the next publication is to have, if that is a key.
    key: Option<String>,
    /// The most that was seen of what is bounded.
    peaks: Peaks,
    /// A client is over of which the broker may not know.
    has_lost: bool,
    /// Reactors were told to close their connections.
    is_draining: bool,
}

/// What a world is like.
#[derive(Clone, Debug)]
struct Knobs {
    net: SimConfig,
    /// Entries of each queue between two reactors.
    queue_entries: usize,
    connections_max: usize,
    owed_bytes_max: usize,
    owed_ms_max: u32,
    policy: SlowConsumer,
    /// Topics under `skip/` skip in any case.
    has_skip_rule: bool,
    /// What else holds for some topics.
    policies: Vec<TopicPolicy>,
    topics_max: usize,
    log_bytes_max: usize,
    /// What topics keep of their past, all together.
    history_bytes_max: usize,
    /// For how long publications are remembered by their keys, and how many of them.
    key_window_ms: u32,
    keys_max: usize,
    max_delay_us: Option<u32>,
    /// Reactors accept as if others accepted from their listeners too.
    shares_listeners: bool,
    accepts_per_s_max: u32,
    subscriptions_max: usize,
    /// How many filters a connection may have, and levels of all of them, if not as many as by default.
    filter_limits: Option<(usize, usize)>,
    /// Levels that a filter with `+` may have, if not as many as by default.
    plus_levels_max: Option<usize>,
    /// The broker compresses, and every other client offers that.
    deflates: bool,
    /// Who may do what, if clients are asked who they are.
    access: Option<Arc<Access>>,
    /// What else is said in the configuration.
    configure: fn(&mut Config),
    /// Clients may be closed for being too far behind, idle or late.
    may_close: bool,
    is_verbose: bool,
}

#[derive(Debug, Default)]
struct Peaks {
    outbox: usize,
    backlog: usize,
    replies: usize,
    unread: usize,
    rest: usize,
    pending: usize,
    paused: usize,
    kept: usize,
    /// What values took when the last turn was over; and when each home last looked for what is too much, as its reactor knows that
    /// time.
    values: usize,
    looked: Vec<(u64, usize)>,
    /// Of a turn, in thousandths of a unit.
    work: u64,
    /// Of a client's.
    message_bytes: usize,
}

impl Knobs {
    /// A world with room for everything and no trouble.
    fn calm(reactor_count: usize) -> Knobs {
        Knobs {
            net: SimConfig::calm(1, reactor_count),
            queue_entries: 64,
            connections_max: 1_000,
            owed_bytes_max: 1 << 20,
            owed_ms_max: 0,
            policy: SlowConsumer::Disconnect,
            has_skip_rule: false,
            policies: Vec::new(),
            topics_max: 1_000,
            log_bytes_max: 1 << 30,
            history_bytes_max: PAST_BYTES_AMPLE,
            key_window_ms: 10_000,
            keys_max: 65_536,
            max_delay_us: Some(0),
            shares_listeners: false,
            accepts_per_s_max: 0,
            subscriptions_max: 1_000,
            filter_limits: None,
            plus_levels_max: None,
            deflates: false,
            access: None,
            configure: |_| {},
            may_close: false,
            is_verbose: false,
        }
    }

    fn config(&self) -> Config {
        let mut config = Config::default();
        config.reactor.max_delay_us = self.max_delay_us;
        config.limits.topics_max = self.topics_max;
        config.limits.accepts_per_s_max = self.accepts_per_s_max;
        config.limits.subscriptions_max = self.subscriptions_max;
        if let Some(limits) = self.filter_limits {
            (config.limits.filters_max, config.limits.filter_levels_max) = limits;
        }
        if let Some(levels) = self.plus_levels_max {
            config.limits.plus_levels_max = levels;
        }
        config.limits.message_bytes_max = 1 << 20;
        // Simulated payloads repeat one byte.
        config.deflate.ratio_max = 1_032;
        config.deflate.enabled = self.deflates;
        config.deflate.bytes_min = 60;
        config.delivery.owed_bytes_max = self.owed_bytes_max;
        config.delivery.owed_ms_max = self.owed_ms_max;
        config.delivery.slow_consumer = self.policy;
        config.history.bytes_max = self.history_bytes_max;
        config.publish.key_window_ms = self.key_window_ms;
        config.limits.keys_max = self.keys_max;
        if self.has_skip_rule {
            let slow_consumer = Some(SlowConsumer::Skip);
            config.topic.push(TopicPolicy {
                filter: "skip/#".into(),
                slow_consumer,
                ..TopicPolicy::default()
            });
        }
        config.topic.extend(self.policies.iter().cloned());
        if self.access.is_some() {
            // Else nobody looks for tokens.
            config.auth.tokens_file = Some("tokens".into());
        }
        (self.configure)(&mut config);
        config
    }
}

impl World {
    fn new(knobs: Knobs) -> World {
        let count = knobs.net.ring_count;
        let mut rng = Rng::new(knobs.net.seed ^ 0x00fa_0fa2);
        let (net, rings) = SimNet::new(knobs.net.clone());
        let shared = Shared {
            is_loopback: false,
            access: knobs.access.clone(),
            revocations: Arc::default(),
            homes: Homes::new(count, rng.next_u64()),
            budget: Budget::with_past(knobs.log_bytes_max, knobs.history_bytes_max),
            epoch: rng.next_u64(),
            config: Arc::new(knobs.config()),
            addresses: Arc::default(),
            veil: Default::default(),
            usages: Arc::default(),
            scopes: Default::default(),
            troubles: Arc::default(),
            audit: Arc::default(),
            buffered: Arc::default(),
        };
        let (mesh, mut ports) = Mesh::new(count, 1, knobs.queue_entries);
        let guest = Hearing::new(ports.pop().expect("the last port is the guest's"), &shared);
        let connection_count = Arc::new(AtomicUsize::new(0));
        let reactors = rings.into_iter().zip(ports).enumerate().map(|(index, (ring, port))| {
            let sources = vec![Source { socket: net.listener(index), is_shared: knobs.shares_listeners }];
            let count = connection_count.clone();
            Some(Reactor::new(ring, port, shared.clone(), sources, count, knobs.connections_max))
        });
        let is_past_short = knobs.history_bytes_max < PAST_BYTES_AMPLE;
        let mut oracle = Oracle::new(knobs.topics_max < 100, is_past_short);
        oracle.on_policy(&shared.config);
        oracle.keyed.set(&shared.config);
        World {
            rng,
            reactors: reactors.collect(),
            asleep_until_ns: vec![None; count],
            guest,
            net,
            mesh,
            shared,
            now_ns: START_NS,
            clients: Vec::new(),
            oracle,
            knobs,
            batch: None,
            key: None,
            peaks: Peaks::default(),
            has_lost: false,
            is_draining: false,
        }
    }

    /// A topic whose home is reactor `home`.
    fn topic_at(&self, home: usize, prefix: &str) -> String {
        let mut names = (0..).map(|number| format!("{prefix}{number}"));
        names
            .find(|name| self.shared.homes.of(TopicName::checked(name)) == home)
            .expect("some name hashes there")
    }

    fn reactor(&self, index: usize) -> &Reactor<SimRing> {
        self.reactors[index].as_ref().expect("the reactor runs")
    }

    /// A client connects to reactor `index`; its request is written, and not yet on its way.
    fn connect(&mut self, index: usize, format: Format) -> usize {
        self.connect_with(index, format, None)
    }

    /// So does one that brings a token, if it has one.
    fn connect_with(&mut self, index: usize, format: Format, token: Option<&str>) -> usize {
        let peer = self.net.connect(index);
        let offer = match self.clients.len() % 8 {
            1 | 3 | 5 => Some("permessage-deflate; client_max_window_bits"),
            7 => Some("permessage-deflate; server_max_window_bits=9"),
            _ => None,
        };
        let offer = offer.filter(|_| self.knobs.deflates);
        self.clients.push(Client::new(peer, format, offer, token));
        self.tell(|| format!("client {} connects to {index}, {format:?}, {offer:?}", self.clients.len() - 1));
        let client = self.oracle.add_client();
        self.oracle.on_connect(client, index, token);
        client
    }

    /// A client connects and is upgraded.
    fn open(&mut self, index: usize, format: Format) -> usize {
        let client = self.connect(index, format);
        self.settle();
        assert_eq!(self.clients[client].state, State::Open);
        client
    }

    /// Two clients on reactor 0: one that subscribed to `filters` and now takes nothing, so that sends to it stall; the
    /// other may publish.
    fn open_stuck(&mut self, filters: &[impl AsRef<str>]) -> (usize, usize) {
        let (reader, publisher) = (self.open(0, Format::Json), self.open(0, Format::Json));
        for filter in filters {
            self.subscribe(reader, filter.as_ref());
        }
        self.settle();
        self.stick(reader);
        (reader, publisher)
    }

    fn subscribe(&mut self, client: usize, filter: &str) -> u64 {
        self.subscribe_as(client, filter, true).expect("an id")
    }

    fn subscribe_as(&mut self, client: usize, filter: &str, has_id: bool) -> Option<u64> {
        let id = has_id.then(|| self.clients[client].new_id());
        self.subscribe_with(client, filter, Start::default(), id);
        id
    }

    /// Subscribes to a topic from somewhere in its past.
    fn subscribe_from(&mut self, client: usize, topic: &str, start: Start) -> u64 {
        let id = self.clients[client].new_id();
        self.subscribe_with(client, topic, start, Some(id));
        id
    }

    fn subscribe_with(&mut self, client: usize, filter: &str, start: Start, id: Option<u64>) {
        self.oracle.on_subscribe(client, filter, start.clone(), id);
        self.ask(client, Ask::Subscribe { filter: filter.into(), start }, id);
    }

    /// The client subscribes to a filter with these further members of the object.
    fn tour(&mut self, client: usize, filter: &str, members: &str) -> u64 {
        let id = self.clients[client].new_id();
        self.oracle.on_tour(client, filter, id);
        self.ask(client, Ask::Tour { filter: filter.to_owned(), members: members.to_owned() }, Some(id));
        id
    }

    fn ask_history(&mut self, client: usize, topic: &str, limit: Option<u32>, anchor: Anchor) -> u64 {
        let id = self.clients[client].new_id();
        self.oracle.on_ask_history(client, topic, limit.unwrap_or(100), anchor.clone(), id);
        self.ask(client, Ask::History { topic: topic.into(), limit, anchor }, Some(id));
        id
    }

    /// The epoch that clients are told.
    fn epoch(&self) -> String {
        format!("{:016x}", self.shared.epoch)
    }

    /// A place in a topic's order.
    fn since(&self, seq: u64) -> Since {
        Since { epoch: self.epoch(), seq }
    }

    fn unsubscribe(&mut self, client: usize, filter: &str) -> u64 {
        let id = self.clients[client].new_id();
        self.oracle.on_unsubscribe(client, filter, Some(id));
        self.ask(client, Ask::Unsubscribe { filter: filter.into() }, Some(id));
        id
    }

    fn ping(&mut self, client: usize) {
        let id = self.clients[client].new_id();
        self.oracle.on_ping(client, id);
        self.ask(client, Ask::Ping, Some(id));
    }

    /// Publishes with an id; gives the publication's number.
    fn publish(&mut self, client: usize, topic: &str) -> usize {
        self.publish_as(client, topic, 20, true, true, false, None)
    }

    /// Publishes and asks for the receivers, of which there must be `receivers`.
    fn publish_counted(&mut self, client: usize, topic: &str, receivers: Option<u64>) -> usize {
        self.publish_as(client, topic, 20, true, true, true, receivers)
    }

    /// The client's next publication has this key.
    fn give_key(&mut self, key: &str) {
        self.key = Some(key.to_owned());
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one command")]
    fn publish_as(
        &mut self,
        client: usize,
        topic: &str,
        len: usize,
        is_json: bool,
        has_id: bool,
        counts: bool,
        receivers: Option<u64>,
    ) -> usize {
        let key = self.key.take();
        let is_json = is_json || self.clients[client].format == Format::Json;
        let number = self.oracle.next_number();
        let payload = payload_of(number, len, is_json);
        let id = has_id.then(|| self.clients[client].new_id());
        self.oracle.on_publish(client, topic, payload.clone(), is_json, id, counts && has_id, receivers);
        key.iter().for_each(|key| self.oracle.keyed.on_publish(number, key));
        let ask =
            Ask::Publish { topic: topic.into(), payload, is_json, receivers: counts, retain: false, key };
        self.ask(client, ask, id);
        number
    }

    /// Publishes, with an id, what is to be the topic's value; or a null.
    fn publish_value(&mut self, client: usize, topic: &str, len: usize, is_null: bool, retain: bool) {
        let payload = match is_null {
            true => b"null".to_vec(),
            false => payload_of(self.oracle.next_number(), len, true),
        };
        let id = self.clients[client].new_id();
        self.oracle.on_publish(client, topic, payload.clone(), true, Some(id), false, None);
        self.oracle.note_retain(retain);
        let ask =
            Ask::Publish { topic: topic.into(), payload, is_json: true, receivers: false, retain, key: None };
        self.ask(client, ask, Some(id));
    }

    fn ask(&mut self, client: usize, ask: Ask, id: Option<u64>) {
        if self.knobs.is_verbose {
            let text = match &ask {
                Ask::Publish { topic, payload, .. } => {
                    format!("publishes to {topic} {} bytes", payload.len())
                }
                ask => format!("asks {ask:?}"),
            };
            eprintln!("{:>6} client {client} {text}, id {id:?}", self.oracle.step);
        }
        self.oracle.on_ask(client, &ask, id);
        match &mut self.batch {
            Some(batch) => batch.push((ask, id)),
            None => self.say(client, &[(ask, id)]),
        }
    }

    /// What `asks` lets the client ask goes into one message.
    fn ask_together(&mut self, client: usize, asks: impl FnOnce(&mut World)) {
        self.batch = Some(Vec::new());
        asks(self);
        let batch = self.batch.take().expect("it was put there");
        if !batch.is_empty() {
            self.say(client, &batch);
        }
    }

    fn say(&mut self, client: usize, asks: &[(Ask, Option<u64>)]) {
        let is_cut = self.knobs.net.trouble > 0 && self.rng.chance(1, 6);
        let fragments = if is_cut { self.rng.between(2, 4) } else { 1 };
        let bytes = self.clients[client].ask(asks, fragments, &mut self.rng);
        self.peaks.message_bytes = self.peaks.message_bytes.max(bytes);
    }

    /// Sends what the client wrote, at most `bytes_max` of it.
    fn write(&mut self, client: usize, bytes_max: usize) {
        let client = &mut self.clients[client];
        if client.state == State::Over {
            return;
        }
        let len = client.out.len().min(bytes_max);
        let bytes: Vec<u8> = client.out.drain(..len).collect();
        if len > 0 {
            self.net.write(client.peer, &bytes);
        }
    }

    /// Sends what all clients wrote.
    fn write_all(&mut self) {
        (0..self.clients.len()).for_each(|client| self.write(client, usize::MAX));
    }

    /// Reads at most `bytes_max` bytes, and does what they ask for; tells whether anything came.
    fn read(&mut self, client: usize, bytes_max: usize) -> bool {
        if self.clients[client].state == State::Over {
            return false;
        }
        let mut bytes = Vec::new();
        let stream = self.net.read(self.clients[client].peer, bytes_max, &mut bytes);
        for event in self.clients[client].understand(&bytes) {
            self.tell(|| format!("client {client} sees {event:?}"));
            self.oracle.on_event(client, &event);
            let it = &mut self.clients[client];
            match &event {
                Event::Ping(payload) if it.state == State::Open => {
                    it.frame(10, true, payload, &mut self.rng);
                }
                Event::Close { code, text } => {
                    let may_be = match code {
                        Some(4000 | 4008) => self.knobs.may_close,
                        Some(1012) => text.starts_with("retry_after_ms="),
                        Some(1000) => it.state == State::Closing,
                        Some(4001) => self.oracle.may_turn_away(client, text),
                        _ => false,
                    };
                    assert!(may_be, "client {client} is closed with {code:?} {text}");
                    if it.state == State::Open {
                        it.close(&mut self.rng);
                    }
                }
                _ => {}
            }
            it.seen.push(event);
        }
        if stream != Stream::Open {
            let it = &self.clients[client];
            let may_end = self.knobs.may_close || matches!(it.state, State::Closing | State::Refused);
            assert!(may_end, "client {client} loses its connection: {stream:?}");
            self.over(client);
            self.net.close(self.clients[client].peer);
        }
        !bytes.is_empty() || stream != Stream::Open
    }

    fn over(&mut self, client: usize) {
        self.tell(|| format!("client {client} is over"));
        self.clients[client].state = State::Over;
        self.oracle.on_over(client);
    }

    /// The client reads nothing more, and its connection takes next to nothing.
    fn stick(&mut self, client: usize) {
        self.clients[client].pace = Pace::Stuck;
        self.net.set_window(self.clients[client].peer, 10);
    }

    /// So many clients subscribe to `filter` and read nothing from then on; another, on their reactor, is to publish.
    fn open_many_stuck(&mut self, count: usize, filter: &str) -> (Vec<usize>, usize) {
        let readers: Vec<usize> = (0..count).map(|_| self.open(0, Format::Json)).collect();
        let publisher = self.open(0, Format::Json);
        for &reader in &readers {
            self.subscribe(reader, filter);
        }
        self.settle();
        readers.iter().for_each(|&reader| self.stick(reader));
        (readers, publisher)
    }

    /// The client reads again, and gets everything that waited.
    fn unstick(&mut self, client: usize) {
        self.clients[client].pace = Pace::Eager;
        self.net.set_window(self.clients[client].peer, 1 << 20);
        self.settle();
    }

    /// Publishes, a publication at a time, each on its way before the next.
    fn publish_each_turn(&mut self, publisher: usize, topic: &str, count: usize) {
        for _ in 0..count {
            self.publish(publisher, topic);
            self.settle();
        }
    }

    /// The client breaks its connection.
    fn reset(&mut self, client: usize) {
        self.net.reset(self.clients[client].peer);
        self.over(client);
    }

    /// The client's network is gone: what is sent to it fails.
    fn cut(&mut self, client: usize) {
        self.net.cut(self.clients[client].peer);
        self.has_lost = true;
        self.over(client);
    }

    /// The client sends what no client may send, and is no client any more: what it is answered is nobody's
    /// business, as long as it costs nobody else.
    fn babble(&mut self, client: usize, rng: &mut Rng) {
        // Else what it says would be the rest of a publication that it had begun, and be published.
        self.write(client, usize::MAX);
        let bytes = stranger::utterance(rng);
        self.tell(|| format!("client {client} says {bytes:02x?}"));
        self.peaks.message_bytes = self.peaks.message_bytes.max(bytes.len());
        self.net.write(self.clients[client].peer, &bytes);
        self.has_lost = true;
        self.over(client);
    }

    /// The client closes its socket without a close frame.
    fn hang_up(&mut self, client: usize) {
        self.net.close(self.clients[client].peer);
        self.over(client);
    }

    /// The client says goodbye; it goes when the broker has answered.
    fn say_goodbye(&mut self, client: usize) {
        self.clients[client].close(&mut self.rng);
    }

    /// Whether reactor `index` would come out of its enter now.
    fn is_runnable(&self, index: usize) -> bool {
        let Some(reactor) = &self.reactors[index] else { return false };
        match self.asleep_until_ns[index] {
            None => true,
            Some(until_ns) => until_ns <= self.now_ns || reactor.io_ref().is_ready(),
        }
    }

    /// One turn of reactor `index`, if it is not asleep.
    fn turn(&mut self, index: usize) -> bool {
        if !self.is_runnable(index) {
            return false;
        }
        let now_ns = self.now_ns;
        self.oracle.step += 1;
        self.oracle.now_ms = (now_ns - START_NS) / MS;
        self.oracle.on_turn(index);
        self.net.set_now_ns(now_ns);
        let reactor = self.reactors[index].as_mut().expect("a runnable reactor is there");
        if self.asleep_until_ns[index].is_some() {
            reactor.io().run();
        }
        let before = reactor.desk().stats.clone();
        let turn = reactor.turn(now_ns).expect("a simulated ring cannot fail");
        let (after, spent) = (&reactor.desk().stats, reactor.desk().meter.spent());
        let completions = after.completions_total - before.completions_total;
        let sends = after.sends_total - before.sends_total;
        assert!(completions <= COMPLETIONS_MAX as u64, "a turn's completions are bounded");
        // Those of topics' pasts apart.
        assert!(sends <= 2 * share::SENDS_MAX as u64, "a turn's sends are bounded");
        let least = completions * price::COMPLETION
            + sends * price::SEND
            + (after.commands_total - before.commands_total) * price::COMMAND
            + (after.accepts_total - before.accepts_total) * price::ACCEPT
            + (after.upgrades_total - before.upgrades_total) * price::UPGRADE;
        assert!(spent >= least, "a turn that counts work of {least} is charged {spent}");
        self.asleep_until_ns[index] = match reactor.io().waited() {
            Wait::Poll => None,
            Wait::Sleep { timeout_ns } => Some(now_ns + timeout_ns),
        };
        if turn == Turn::Ended {
            self.tell(|| format!("reactor {index} has ended"));
            self.reactors[index] = None;
            self.asleep_until_ns[index] = None;
            self.check_sleepers();
            return true;
        }
        self.check(index);
        true
    }

    /// One turn of reactor `index`; whether anything came of it. A look at the clock is nothing.
    fn moves(&mut self, index: usize) -> bool {
        let Some(reactor) = &self.reactors[index] else { return false };
        let is_due_only = self.asleep_until_ns[index].is_some() && !reactor.io_ref().is_ready();
        let sends_before = reactor.desk().stats.sends_total;
        let has_run = self.turn(index);
        let sends = self.reactors[index].as_ref().map(|reactor| reactor.desk().stats.sends_total);
        // Whoever goes on at once has begun something.
        let sleeps_again = self.asleep_until_ns[index].is_some();
        has_run && !(is_due_only && sleeps_again && sends == Some(sends_before))
    }

    /// Several turns of one reactor.
    fn turns(&mut self, index: usize, count: usize) {
        for _ in 0..count {
            self.turn(index);
        }
    }

    /// The reactor's invariants and bounds, after its turn.
    fn check(&mut self, index: usize) {
        let desk = self.reactors[index].as_ref().expect("it has just run").desk();
        desk.fanout.check();
        desk.home.check();
        desk.exchange.check();
        desk.connections.check();
        desk.queues.check(&desk.connections);
        for (place, connection) in desk.connections.iter().enumerate() {
            let has_something = !connection.replies.is_empty() || desk.fanout.is_owing(place as u32);
            assert!(
                !has_something
                    || connection.is_sending()
                    || connection.is_listed
                    || matches!(
                        connection.phase,
                        Phase::Lingering(_) | Phase::Finishing(_) | Phase::Ending(_)
                    ),
                "slot {place} has something to send, and nobody will: {:?}",
                connection.phase
            );
        }
        let is_slow = |it: &&Connection| it.phase.reason() == Some(CloseReason::SlowConsumer);
        assert_eq!(
            desk.stats.slow_disconnects_total.iter().sum::<u64>(),
            desk.stats.closes_total[CloseReason::SlowConsumer.index()]
                + desk.connections.iter().filter(is_slow).count() as u64,
            "each slow consumer is counted once with what it was beyond"
        );
        self.check_sleepers();
        self.check_bounds(index);
    }

    /// A reactor that sleeps is woken when somebody has put something into its queues, or looks again soon.
    fn check_sleepers(&self) {
        for sleeper in 0..self.reactors.len() {
            let Some(reactor) = &self.reactors[sleeper] else { continue };
            let sleeps_long =
                self.asleep_until_ns[sleeper].is_some_and(|until_ns| until_ns > self.now_ns + FULL_RETRY_NS);
            let mut others = self.reactors.iter().flatten();
            let is_owed_wake = others.any(|other| other.io_ref().owes_wake(sleeper));
            // What a guest asks between its turns it tells of in the next.
            let is_owed_wake = is_owed_wake || self.guest.is_asked;
            if sleeps_long && !self.net.is_woken(sleeper) && !is_owed_wake {
                let desk = reactor.desk();
                assert!(
                    desk.exchange.is_drained(desk.is_home_open()),
                    "reactor {sleeper} sleeps on its inbox"
                );
            }
        }
    }

    fn check_bounds(&mut self, index: usize) {
        let is_timed = self.is_draining || self.now_ns > START_NS + DEADLINE_NS_MIN;
        let desk = self.reactors[index].as_ref().expect("it has just run").desk();
        let peaks = &mut self.peaks;
        peaks.work = peaks.work.max(desk.meter.spent());
        let message_price =
            price::RECEIVED_BYTE + price::READ_BYTE + price::INFLATED_BYTE + price::PUBLISHED_BYTE;
        // Compressed once for each format.
        let message_price = message_price + if self.knobs.deflates { 2 * price::DEFLATED_BYTE } else { 0 };
        // zlib's blocks, and the empty one at the end.
        let block_count = 2 + peaks.message_bytes as u64 / ZLIB_BLOCK_BYTES_MIN;
        let blocks_price = if self.knobs.deflates { block_count * price::INFLATED_BLOCK } else { 0 };
        let work_max = WORK_MAX
            + if is_timed { DEADLINES_WORK_MAX } else { 0 }
            + MESSAGE_PARTS * (message_price * peaks.message_bytes as u64 + blocks_price);
        assert!(peaks.work <= work_max, "a turn's work is at most {work_max}: {peaks:?}");
        let (outbox, backlog) = desk.exchange.lens();
        peaks.outbox = peaks.outbox.max(outbox);
        peaks.backlog = peaks.backlog.max(backlog);
        peaks.pending = peaks.pending.max(desk.pending.len());
        peaks.paused = peaks.paused.max(desk.queues.waiting.len());
        for connection in desk.connections.iter() {
            peaks.replies = peaks.replies.max(connection.replies.len());
            if let Some(unread) = &connection.unread {
                let rest = unread.rest.as_ref().map_or(0, |rest| rest.len_bytes());
                peaks.rest = peaks.rest.max(rest);
                peaks.unread = peaks.unread.max(unread.memory() - rest - unread.checked_bytes);
            }
        }
        let bounds = &self.knobs;
        let log_bytes = self.shared.budget.bytes();
        assert!(
            log_bytes <= bounds.log_bytes_max,
            "{log_bytes} bytes of log, {} are allowed",
            bounds.log_bytes_max
        );
        let kept_bytes = self.shared.budget.kept_bytes();
        peaks.kept = peaks.kept.max(kept_bytes);
        // Each home goes beyond it by the block that it writes: one that holds what is kept already, or a long record. For what
        // values take in one home the others make room when they look for what is too much.
        let value_bytes = self.shared.budget.value_bytes();
        peaks.looked.resize(self.reactors.len(), (0, 0));
        if peaks.looked[index].0 != desk.home_period_ns {
            peaks.looked[index] = (desk.home_period_ns, peaks.values);
        }
        peaks.values = value_bytes;
        let looked = (0..).zip(&peaks.looked).filter(|(reactor, _)| self.reactors[*reactor].is_some());
        let fewest_bytes = looked.map(|(_, (_, bytes))| *bytes).min().expect("one has just run");
        let kept_bytes_max = bounds.history_bytes_max / 4 * 5;
        let block_bytes =
            kept_bytes_max.min(OWN_CHUNK_BYTES).max(PUBLICATION_BYTES_MAX.min(4 * peaks.message_bytes));
        let kept_bytes_max =
            kept_bytes_max + bounds.net.ring_count * block_bytes + value_bytes.saturating_sub(fewest_bytes);
        assert!(kept_bytes <= kept_bytes_max, "{kept_bytes} bytes are kept, {kept_bytes_max} are allowed");
        let buffers_bytes =
            (bounds.net.buffer_count + 4 * bounds.net.large_buffer_count) * bounds.net.buffer_bytes;
        assert!(peaks.outbox <= OUTBOX_MAX + 400, "{peaks:?}");
        assert!(peaks.backlog <= 400, "{peaks:?}");
        assert!(peaks.replies <= REPLIES_BYTES_MAX + (64 << 10), "{peaks:?}");
        assert!(peaks.unread <= 4 * buffers_bytes + (64 << 10), "{peaks:?}");
        assert!(peaks.rest <= self.shared.config.limits.message_bytes_max, "{peaks:?}");
        assert!(peaks.pending <= 1_000, "{peaks:?}");
        assert!(peaks.paused <= 4 * self.clients.len() + 4, "{peaks:?}");
    }

    /// Tells reactor `index` to drain and end, as the control thread does.
    fn order_drain(&mut self, index: usize) {
        let within_ms = self.shared.config.timeouts.drain_ms;
        self.order(index, Order::Drain { within_ms, emptied: None });
    }

    fn order(&mut self, index: usize, order: Order) {
        self.is_draining |= matches!(order, Order::Drain { .. });
        match self.mesh.send_order(index, order) {
            Ok(true) => self.net.wake(index),
            Ok(false) => {}
            Err(_) => panic!("the order finds room"),
        }
    }

    /// Every reactor takes over what the knobs say now.
    fn reload(&mut self) {
        let config = Arc::new(self.knobs.config());
        self.oracle.on_policy(&config);
        for index in 0..self.reactors.len() {
            self.order(index, Order::Reload(Arc::clone(&config), self.knobs.access.clone()));
        }
    }

    /// Lets everything that can happen happen, with little time passing: everybody writes all, the eager
    /// read all.
    fn settle(&mut self) {
        let trouble = self.knobs.net.trouble;
        self.net.set_trouble(0);
        let mut quiet_rounds = 0;
        for round in 0.. {
            if round == 20_000 {
                (0..self.reactors.len()).for_each(|index| self.describe(index));
                panic!("the world does not come to rest");
            }
            let mut has_moved = false;
            for client in 0..self.clients.len() {
                has_moved |=
                    !self.clients[client].out.is_empty() && self.clients[client].state != State::Over;
                self.write(client, usize::MAX);
                if self.clients[client].pace == Pace::Eager {
                    has_moved |= self.read(client, usize::MAX);
                }
            }
            for index in 0..self.reactors.len() {
                has_moved |= self.moves(index);
            }
            has_moved |= self.turn_guest();
            quiet_rounds = if has_moved { 0 } else { quiet_rounds + 1 };
            // Sweeps wait for at most 10 ms, full queues for less.
            if quiet_rounds > 12 {
                break;
            }
            self.now_ns += if has_moved { MS / 100 } else { MS };
        }
        self.net.set_trouble(trouble);
        let clients = &self.clients;
        let is_hung = self.guest.is_hung;
        self.oracle.check_quiet(|client| match clients.get(client) {
            Some(client) => client.pace == Pace::Eager && client.state == State::Open,
            None => !is_hung,
        });
        self.oracle.check_rights();
        for reactor in self.reactors.iter().flatten() {
            let desk = reactor.desk();
            let is_posted = desk.exchange.is_posted() && (is_hung || desk.exchange.is_posted_to_guests());
            if !(desk.exchange.is_drained(true) && is_posted) {
                (0..self.reactors.len()).for_each(|index| self.describe(index));
                panic!("what was said is not taken");
            }
            assert!(desk.has_room() && (is_hung || desk.exchange.is_silent()));
            let is_reading = |it: &Client| it.pace == Pace::Eager || it.state == State::Over;
            if !self.has_lost && self.clients.iter().all(is_reading) {
                assert_eq!(desk.fanout.replay_count(), 0, "a replay comes to its end where all is read");
                assert_eq!(desk.fanout.tour_count(), 0, "and so does a tour");
            }
        }
    }

    /// Lets `ns` pass, with turns as they become due.
    fn pass(&mut self, ns: u64) {
        let end_ns = self.now_ns + ns;
        while self.now_ns < end_ns {
            let ready = (0..self.reactors.len()).any(|index| self.is_runnable(index));
            let due_ns = self.asleep_until_ns.iter().flatten().min().copied().unwrap_or(end_ns);
            let next_ns = if ready { self.now_ns + MS } else { due_ns.max(self.now_ns + 5 * MS) };
            self.now_ns = next_ns.min(end_ns);
            for index in 0..self.reactors.len() {
                self.turn(index);
            }
            self.turn_guest();
            for client in 0..self.clients.len() {
                if self.clients[client].pace == Pace::Eager {
                    self.read(client, usize::MAX);
                }
                self.write(client, usize::MAX);
            }
        }
    }

    /// Everyone leaves; then nothing may be left of anybody.
    fn end(mut self) {
        for client in 0..self.clients.len() {
            if self.clients[client].state != State::Over {
                self.clients[client].out.clear();
                match self.rng.below(2) {
                    0 => self.reset(client),
                    _ => self.hang_up(client),
                }
            }
        }
        self.close_hearing();
        self.knobs.may_close = true;
        self.settle();
        // What waits for a deadline is over then, and homes forget what was busy.
        self.pass(120 * SECOND);
        self.oracle.check_over();
        assert_eq!(self.net.open_count(), 0, "sockets stay open");
        for index in 0..self.reactors.len() {
            let Some(reactor) = &mut self.reactors[index] else { continue };
            assert!(reactor.io_ref().is_idle() && reactor.io_ref().has_all_buffers());
            let desk = reactor.desk_mut();
            assert_eq!(
                (desk.connections.open_count(), desk.fanout.view_count(), desk.pending.len()),
                (0, 0, 0)
            );
            assert_eq!(desk.fanout.subscription_count(), 0);
            assert!(desk.fanout.is_empty(), "the fan-out holds something for nobody");
            assert_eq!(desk.home.interest_count(), 0, "the home sends to somebody");
            assert_eq!(desk.home.key_count(), 0, "the home remembers what is over");
            // One shared chunk per encoding that is being written, and the carrier's: as long as the publication
            // for which it was begun, if that is longer.
            let log_bytes = desk.snapshot().log_bytes as usize;
            let chunk_bytes = SHARED_CHUNK_BYTES.max(PUBLICATION_BYTES_MAX);
            assert!(log_bytes <= (Encoding::COUNT + 1) * chunk_bytes, "{log_bytes} bytes of log stay");
        }
        assert!(self.guest.is_empty(), "the guest holds something for nobody");
        self.tell(|| format!("{:?}", self.peaks));
    }

    /// The code of the close frame that the client got, if it got one.
    fn closed_with(&self, client: usize) -> Option<Option<u16>> {
        self.clients[client].seen.iter().find_map(|event| match event {
            Event::Close { code, .. } => Some(*code),
            _ => None,
        })
    }

    /// The seqs of `topic` that the client got, in order.
    fn seqs(&self, client: usize, topic: &str) -> Vec<u64> {
        let seq_of = |event: &Event| match event {
            Event::Message { topic: of, told } if of == topic => Some(told.seq),
            _ => None,
        };
        self.clients[client].seen.iter().filter_map(seq_of).collect()
    }

    /// Tells where a reactor is stuck.
    fn describe(&self, index: usize) {
        let Some(reactor) = &self.reactors[index] else { return };
        let desk = reactor.desk();
        eprintln!(
            "reactor {index}: open {}, paused {:?}, replying {:?}, posted {}, asleep until {:?} of {}, ring idle {}, \
             log {} of {}, carriers {}",
            desk.connections.open_count(),
            desk.queues.waiting,
            desk.queues.replying,
            desk.exchange.is_posted(),
            self.asleep_until_ns[index],
            self.now_ns,
            reactor.io_ref().is_idle(),
            desk.shared.budget.bytes(),
            desk.shared.budget.bytes_max(),
            desk.carrier.allocated_bytes(),
        );
        for connection in desk.connections.iter().filter(|it| it.phase != Phase::Free) {
            eprintln!(
                "  {:?} socket {} receiving {} sending {} paused {:?} replies {}",
                connection.phase,
                connection.socket,
                connection.is_receiving,
                connection.is_sending(),
                connection.pause,
                connection.replies.len(),
            );
        }
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        if self.knobs.is_verbose {
            eprintln!("{:>6} {}", self.oracle.step, what());
        }
    }
}

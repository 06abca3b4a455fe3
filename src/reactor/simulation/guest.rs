//! A guest beside the reactors of a simulated world: its listeners are held to what clients are promised.

use std::collections::BTreeMap;

use super::*;
use crate::{
    protocol::topic::Filter,
    pubsub::{home::TopicRefusal, log::ChunkPool, message::PendingId, subscription::Gap},
    reactor::{
        exchange::ReactorPort,
        guest::{
            Answer, Guest, LISTENERS_MAX, ListenerId, Missed, NotAsked, OWED_BYTES_MAX, QUESTIONS_MAX,
            SUBSCRIPTIONS_MAX,
        },
        turn::GUEST_RETRY_NS,
    },
};

/// The world's guest, and who hears by it.
pub(super) struct Hearing {
    guest: Guest,
    is_asleep: bool,
    /// Somebody asked something since its last turn.
    pub is_asked: bool,
    /// It does not run.
    pub is_hung: bool,
    listeners: Vec<Listener>,
    /// Questions without an answer: whose, its id and its topic.
    asked: BTreeMap<PendingId, (usize, u64, String)>,
    next_id: u64,
    /// How many listeners were closed, and gaps were told.
    pub overruns: usize,
    pub gaps: usize,
}

/// A listener, and the client that the oracle takes it for.
struct Listener {
    id: ListenerId,
    client: usize,
    /// It takes what it is owed, when it is told that there is something.
    takes: bool,
    /// It was told so, and has not found nothing since.
    is_told: bool,
}

impl Hearing {
    pub fn new(port: ReactorPort, shared: &Shared) -> Hearing {
        Hearing {
            guest: Guest::new(port, shared),
            is_asleep: false,
            is_asked: true,
            is_hung: false,
            listeners: Vec::new(),
            asked: BTreeMap::new(),
            next_id: 1,
            overruns: 0,
            gaps: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.guest.is_empty()
    }

    fn expect(&mut self, asked: Result<PendingId, NotAsked>, client: usize, topic: &str) -> u64 {
        let question = asked.expect("there is room for a question");
        let id = self.next_id;
        self.next_id += 1;
        self.asked.insert(question, (client, id, topic.to_owned()));
        self.is_asked = true;
        id
    }
}

impl World {
    /// A new listener, whom the oracle takes for a client. No client connects after it.
    fn listen(&mut self) -> usize {
        let client = self.oracle.add_client();
        let id = self.guest.guest.open().expect("there is room for a listener");
        self.guest.listeners.push(Listener { id, client, takes: true, is_told: false });
        self.guest.listeners.len() - 1
    }

    fn listener_subscribes(&mut self, listener: usize, filter: &str) {
        let Listener { id, client, .. } = self.guest.listeners[listener];
        let asked = self.guest.guest.subscribe(id, filter_of(filter));
        if matches!(asked, Err(NotAsked::Homes | NotAsked::Questions)) {
            return;
        }
        let id = self.guest.expect(asked, client, filter);
        self.oracle.on_subscribe(client, filter, Some(id));
        self.hear_answers();
    }

    fn listener_unsubscribes(&mut self, listener: usize, filter: &str) {
        let Listener { id, client, .. } = self.guest.listeners[listener];
        let asked = self.guest.guest.unsubscribe(id, filter_of(filter));
        if matches!(asked, Err(NotAsked::Homes | NotAsked::Questions)) {
            return;
        }
        let id = self.guest.expect(asked, client, filter);
        self.oracle.on_unsubscribe(client, filter, Some(id));
        self.hear_answers();
    }

    /// The guest publishes for `client`, whom the oracle takes for a client that only publishes; false if there was no
    /// room.
    fn guest_publishes(&mut self, client: usize, topic: &str, len: usize, receivers: Option<u64>) -> bool {
        let payload = payload_of(self.oracle.next_number(), len, true);
        let counts = receivers.is_some();
        let name = TopicName::checked(topic);
        let kind = crate::protocol::command::PayloadKind::Json;
        let asked = self.guest.guest.publish(name, &payload, kind, counts);
        if matches!(asked, Err(NotAsked::Homes | NotAsked::Questions)) {
            return false;
        }
        let id = self.guest.expect(asked, client, topic);
        self.oracle.on_publish(client, topic, payload, true, Some(id), counts, receivers);
        true
    }

    /// A turn of the guest, if it is not asleep, and takes of those who take; whether there was any.
    pub(super) fn turn_guest(&mut self) -> bool {
        let count = self.reactors.len();
        let guest = &mut self.guest;
        if guest.is_hung {
            return false;
        }
        if guest.is_asleep {
            let is_woken = self.net.take_wake(count) | std::mem::take(&mut guest.is_asked);
            let may_be_woken = self.reactors.iter().flatten().any(|it| it.io_ref().owes_wake(count));
            if !is_woken && guest.guest.is_posted() {
                if !may_be_woken {
                    guest.guest.check_asleep();
                }
                return false;
            }
            guest.guest.announce_awake();
        }
        guest.is_asked = false;
        self.oracle.step += 1;
        let mut wakes = Vec::new();
        let has_more = guest.guest.turn(self.now_ns, &mut wakes);
        wakes.into_iter().for_each(|index| self.net.wake(index));
        self.hear();
        let guest = &mut self.guest;
        guest.guest.check();
        guest.is_asleep = !has_more && !guest.is_asked && guest.guest.announce_sleep();
        true
    }

    /// What came of the guest's turn, as clients see it.
    fn hear(&mut self) {
        self.hear_answers();
        for closed in std::mem::take(&mut self.guest.guest.closed) {
            let place = self.guest.listeners.iter().position(|it| it.id == closed);
            let Listener { client, .. } =
                self.guest.listeners.remove(place.expect("a listener is closed once"));
            self.tell(|| format!("listener of {client} is closed"));
            self.oracle.on_over(client);
            self.guest.overruns += 1;
        }
        for ready in std::mem::take(&mut self.guest.guest.ready) {
            if let Some(listener) = self.guest.listeners.iter_mut().find(|it| it.id == ready) {
                assert!(!std::mem::replace(&mut listener.is_told, true), "a listener is told once");
            }
        }
        for listener in 0..self.guest.listeners.len() {
            let Listener { id, client, takes, is_told } = self.guest.listeners[listener];
            if !(takes && is_told) {
                continue;
            }
            self.guest.listeners[listener].is_told = false;
            let mut records = Vec::new();
            while let Some(missed) = self.guest.guest.take(id, &mut records) {
                self.guest.gaps += missed.gaps.len();
                for event in told(missed).chain(client::events(&records)) {
                    self.tell(|| format!("listener {listener} hears {event:?}"));
                    self.oracle.on_event(client, &event);
                }
                records.clear();
                // What taking let happen comes behind what was taken, and may ask something.
                self.hear_answers();
                self.guest.is_asked = true;
            }
        }
    }

    fn hear_answers(&mut self) {
        for (question, answer) in std::mem::take(&mut self.guest.guest.answers) {
            let (client, id, topic) = self.guest.asked.remove(&question).expect("a question has one answer");
            if let Answer::Unsubscribed(missed) = &answer {
                told(missed.clone()).for_each(|event| self.oracle.on_event(client, &event));
            }
            let refused = |code: &str| Event::Error { id: Some(id), code: code.to_owned() };
            let event = match answer {
                Answer::Published { seq, receivers } => Event::Ok { id, topic, seq: Some(seq), receivers },
                Answer::Subscribed { seq } => Event::Ok { id, topic, seq, receivers: None },
                Answer::Unsubscribed(_) => Event::Ok { id, topic, seq: None, receivers: None },
                Answer::Refused(_) => refused("limit_reached"),
                Answer::AlreadySubscribed => refused("already_subscribed"),
                Answer::NotSubscribed => refused("not_subscribed"),
                Answer::Closed => continue,
            };
            self.tell(|| format!("a listener is answered {event:?}"));
            self.oracle.on_event(client, &event);
        }
    }

    /// All listeners are closed, and the guest runs.
    pub(super) fn close_hearing(&mut self) {
        self.guest.is_hung = false;
        for Listener { id, client, .. } in std::mem::take(&mut self.guest.listeners) {
            self.guest.guest.close(id);
            self.oracle.on_over(client);
        }
        self.guest.is_asked = true;
    }
}

/// What of that a client would be told.
fn told(Missed { gaps, resync }: Missed) -> impl Iterator<Item = Event> {
    let resync = resync.map(|filter| Event::Resync { filter: filter.to_string() });
    let gap = |gap: Gap| Event::Gap { topic: gap.topic.to_string(), from: gap.from, to: gap.to };
    resync.into_iter().chain(gaps.into_iter().map(gap))
}

fn filter_of(text: &str) -> Filter<&str> {
    Filter::parse(text).expect("a filter")
}

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

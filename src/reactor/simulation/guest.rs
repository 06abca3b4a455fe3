//! A guest beside the reactors of a simulated world: its listeners are held to what clients are promised.

mod scenes;

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
    pub(super) fn listen(&mut self) -> usize {
        let client = self.oracle.add_client();
        let id = self.guest.guest.open().expect("there is room for a listener");
        self.guest.listeners.push(Listener { id, client, takes: true, is_told: false });
        self.guest.listeners.len() - 1
    }

    pub(super) fn listener_subscribes(&mut self, listener: usize, filter: &str) {
        let Listener { id, client, .. } = self.guest.listeners[listener];
        let asked = self.guest.guest.subscribe(id, filter_of(filter));
        if matches!(asked, Err(NotAsked::Homes | NotAsked::Questions)) {
            return;
        }
        let id = self.guest.expect(asked, client, filter);
        self.oracle.on_subscribe(client, filter, Start::default(), Some(id));
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
    pub(super) fn guest_publishes(
        &mut self,
        client: usize,
        topic: &str,
        len: usize,
        receivers: Option<u64>,
    ) -> bool {
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
            let ok = |seq: Option<u64>, receivers, epoch| {
                let begin = client::Begin { epoch, ..client::Begin::default() };
                Event::Ok { id, topic, seq, receivers, is_duplicate: false, begin }
            };
            let event = match answer {
                Answer::Published { seq, receivers } => ok(Some(seq), receivers, None),
                Answer::Subscribed { seq } => ok(seq, None, seq.map(|_| self.epoch())),
                Answer::Unsubscribed(_) => ok(None, None, None),
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

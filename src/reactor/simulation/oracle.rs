//! What the broker promises, held against what its clients see.
//!
//! The oracle knows what clients asked and what they were told, and nothing of the broker's insides.
//! A publication is known by its number, which its payload carries.

mod keyed;
mod keyed_value;
mod past;
mod payload;
mod policy;
pub(super) mod rights;
mod seen;
mod stamps;
mod subscription;
mod value;

use std::collections::{BTreeMap, BTreeSet};

use super::client::{Anchor, Begin, Event, Start, Told};
use crate::config::Config;
use keyed::Keyed;
use keyed_value::KeyedReplay;
use past::Keeping;
pub(super) use payload::{number_of, payload_of};
use policy::{Policy, is_wild, matches};
use value::Awaited;

/// What all clients together have seen.
#[derive(Default)]
pub(super) struct Oracle {
    /// Counts what the world did: a moment.
    pub step: u64,
    /// The time, in milliseconds from the world's beginning.
    pub now_ms: u64,
    /// Homes forget topics: their `seq`s jump, and commands may be refused for want of room.
    evicts: bool,
    /// The policies that there were so far: a reactor may still go by any of them.
    policies: Vec<Policy>,
    /// And what these have topics keep.
    keeping: Vec<Keeping>,
    /// Topics may have to let go of what they keep, since all together keep too much.
    is_past_short: bool,
    /// The one that was told.
    epoch: Option<String>,
    /// By topic, by `seq`: the publication.
    topics: BTreeMap<String, BTreeMap<u64, usize>>,
    publications: Vec<Publication>,
    clients: Vec<Seen>,
    jumps: Vec<Jump>,
    pub keyed: Keyed,
    /// Who may do what, if anybody is asked.
    pub rights: Option<rights::Rights>,
    replays: Vec<KeyedReplay>,
}

/// `seq`s that a client neither got nor was told to miss. That is in order if nothing was published there, or before
/// its first message where its subscription had not started for certain.
struct Jump {
    client: usize,
    topic: String,
    first: u64,
    last: u64,
    /// It had the `seq` before that by a subscription that it still has.
    is_inside: bool,
    /// The subscriptions that matched.
    by: Vec<usize>,
}

/// A publication that a client sent.
struct Publication {
    client: usize,
    topic: String,
    payload: Vec<u8>,
    is_json: bool,
    step: u64,
    sent_ms: u64,
    /// It was to be retained.
    retain: bool,
    seq: Option<u64>,
    /// The publisher and the time that it was told with, if it was told.
    stamps: Option<(Option<String>, Option<u64>)>,
    is_refused: bool,
}

/// What one client asked and was told.
#[derive(Default)]
struct Seen {
    subscriptions: Vec<Subscription>,
    /// What it is subscribed to once the broker has taken all that it sent.
    held: BTreeMap<String, usize>,
    /// Commands without an answer, by id.
    asked: BTreeMap<u64, Asked>,
    topics: BTreeMap<String, Delivered>,
    resyncs: Vec<(String, u64)>,
    is_over: bool,
    got_close: bool,
}

/// A subscribe command.
struct Subscription {
    filter: String,
    /// When its `ok` was read.
    ok_step: Option<u64>,
    /// Whatever is above it must come.
    ok_seq: Option<u64>,
    id: Option<u64>,
    start: Start,
    /// Behind which `seq` it begins, as its `ok` says of one that asked for the past.
    from: Option<u64>,
    /// It is to a filter and asked for the past: all is due when that is told to be over.
    tour: Option<Tour>,
    /// While values by key are sent to it, of each key the newest is enough.
    jumps: bool,
    /// The client receives the topic by a filter, so that it must be refused.
    is_received: bool,
    /// It was refused for want of room, or as one too many, or since the past of some topic is being sent.
    is_refused: bool,
    /// Its unsubscribe is under way, or done.
    is_left: bool,
    /// How many publications there were when it was sent.
    left_count: usize,
    /// The unsubscribe's `ok` was read.
    is_ended: bool,
}

/// Where the past of a filter's topics is that a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tour {
    Asked,
    Begun,
    Over,
}

/// What a client got of a topic.
#[derive(Default)]
struct Delivered {
    last: u64,
    next: Next,
    value: Option<Awaited>,
    /// What is below that was a value by key, if it came.
    values_before: u64,
    seqs: BTreeSet<u64>,
    gaps: Vec<(u64, u64)>,
}

/// Which `seq` must come next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Next {
    #[default]
    Any,
    AtMost(u64),
    Exactly(u64),
}

/// A command that waits for its answer.
#[derive(Debug)]
pub(super) enum Asked {
    Subscribe(usize),
    /// One that the connection has: refused.
    SubscribeAgain(String, Start),
    Unsubscribe(usize),
    /// One that the connection has not: refused.
    UnsubscribeNothing(String),
    Publish {
        number: usize,
        counts: bool,
        /// How many receivers, where that is determined.
        receivers: Option<u64>,
    },
    History {
        topic: String,
        limit: u32,
        anchor: Anchor,
        /// It may have come while another one was not answered.
        is_second: bool,
    },
    Ping,
}

impl Oracle {
    pub fn new(evicts: bool, is_past_short: bool) -> Oracle {
        Oracle { evicts, is_past_short, ..Oracle::default() }
    }

    /// Reactors go by `config` from now on, each from when it hears of it.
    pub fn on_policy(&mut self, config: &Config) {
        self.policies.push(Policy::new(config));
        self.keeping.push(Keeping::new(config));
        self.let_replays_jump();
    }

    pub fn add_client(&mut self) -> usize {
        self.clients.push(Seen::default());
        self.clients.len() - 1
    }

    /// The number of the next publication.
    pub fn next_number(&self) -> usize {
        self.publications.len()
    }

    pub fn is_held(&self, client: usize, filter: &str) -> bool {
        self.clients[client].held.contains_key(filter)
    }

    pub fn held(&self, client: usize) -> impl Iterator<Item = &str> {
        self.clients[client].held.keys().map(String::as_str)
    }

    pub fn asked_count(&self, client: usize) -> usize {
        self.clients[client].asked.len()
    }

    /// How many connections have a subscription that matches, in a world at rest.
    pub fn receiver_count(&self, topic: &str) -> u64 {
        let receives = |seen: &&Seen| {
            let mut held = seen.held.keys();
            !seen.is_over && !seen.got_close && held.any(|filter| matches(filter, topic))
        };
        self.clients.iter().filter(receives).count() as u64
    }

    /// The client sends a subscribe.
    pub fn on_subscribe(&mut self, client: usize, filter: &str, start: Start, id: Option<u64>) {
        let is_received = start != Start::default() && self.is_received(client, filter);
        let seen = &mut self.clients[client];
        let asked = if seen.held.contains_key(filter) {
            Asked::SubscribeAgain(filter.to_owned(), start)
        } else {
            let place = seen.hold(filter, start, id);
            seen.subscriptions[place].is_received = is_received;
            Asked::Subscribe(place)
        };
        seen.asked.extend(id.map(|id| (id, asked)));
    }

    /// The client sends an unsubscribe.
    pub fn on_unsubscribe(&mut self, client: usize, filter: &str, id: Option<u64>) {
        let seen = &mut self.clients[client];
        let asked = match seen.held.remove(filter) {
            None => Asked::UnsubscribeNothing(filter.to_owned()),
            Some(place) => {
                seen.subscriptions[place].is_left = true;
                seen.subscriptions[place].left_count = self.publications.len();
                seen.forget_uncovered(filter);
                Asked::Unsubscribe(place)
            }
        };
        seen.asked.extend(id.map(|id| (id, asked)));
    }

    /// The client sends a publish, which must have the number that was next.
    #[expect(clippy::too_many_arguments, reason = "the fields of one command")]
    pub fn on_publish(
        &mut self,
        client: usize,
        topic: &str,
        payload: Vec<u8>,
        is_json: bool,
        id: Option<u64>,
        counts: bool,
        receivers: Option<u64>,
    ) {
        let number = self.publications.len();
        let topic = topic.to_owned();
        let step = self.step;
        self.publications.push(Publication {
            client,
            topic,
            payload,
            is_json,
            step,
            sent_ms: self.now_ms,
            retain: false,
            seq: None,
            stamps: None,
            is_refused: false,
        });
        self.clients[client].asked.extend(id.map(|id| (id, Asked::Publish { number, counts, receivers })));
    }

    pub fn on_ping(&mut self, client: usize, id: u64) {
        self.clients[client].asked.insert(id, Asked::Ping);
    }

    /// The client's connection is over.
    pub fn on_over(&mut self, client: usize) {
        self.clients[client].is_over = true;
    }

    /// The client reads `event`.
    pub fn on_event(&mut self, client: usize, event: &Event) {
        assert!(!self.clients[client].got_close, "client {client}: {event:?} after a close frame");
        self.check_answer(client, event);
        match event {
            Event::Hello { .. }
            | Event::Authenticated { .. }
            | Event::Expiring { .. }
            | Event::Unsubscribed { .. } => {
                self.on_identity(client, event);
            }
            Event::Refused | Event::Ping(_) => {}
            Event::Close { .. } => self.clients[client].got_close = true,
            Event::Pong { id } => {
                let asked = self.clients[client].asked.remove(id);
                assert!(matches!(asked, Some(Asked::Ping)), "client {client}: pong {id} for {asked:?}");
            }
            Event::Ok { id, topic, seq, receivers, is_duplicate: true, .. } => {
                self.on_duplicate(client, *id, topic, *seq, *receivers);
            }
            Event::Ok { id, topic, seq, receivers, begin, .. } => {
                self.on_ok(client, *id, topic, *seq, *receivers, begin);
            }
            Event::Error { id, code } => self.on_error(client, *id, code),
            Event::Message { topic, told } => self.on_message(client, topic, told),
            Event::Gap { topic, from, to } => self.on_gap(client, topic, *from, *to),
            Event::Lapsed { topic, from, to } => self.on_lapsed(client, topic, *from, *to),
            Event::History(page) => self.on_history(client, page),
            Event::Replayed(replayed) => self.on_replayed(client, replayed),
            Event::Resync { filter } => {
                let may_skip = self.policies.iter().any(Policy::may_skip_any);
                assert!(may_skip, "client {client} is told to resynchronise");
                let seen = &mut self.clients[client];
                seen.resyncs.push((filter.clone(), self.step));
                for (topic, delivered) in &mut seen.topics {
                    if matches(filter, topic) {
                        delivered.next = Next::Any;
                    }
                }
            }
        }
    }

    fn on_ok(
        &mut self,
        client: usize,
        id: u64,
        topic: &str,
        seq: Option<u64>,
        receivers: Option<u64>,
        begin: &Begin,
    ) {
        let asked = self.clients[client].asked.remove(&id);
        let asked = asked.unwrap_or_else(|| panic!("client {client}: ok {id} for nothing"));
        match asked {
            Asked::Subscribe(place) => self.on_started(client, place, topic, seq, begin),
            Asked::Unsubscribe(place) => {
                let seen = &mut self.clients[client];
                assert_eq!((seen.subscriptions[place].filter.as_str(), seq), (topic, None));
                seen.subscriptions[place].is_ended = true;
                // One that was refused, and another that was taken in its place.
                seen.end_before(topic, id);
                self.check_own(client, place);
            }
            Asked::Publish { number, counts, receivers: expected } => {
                let seq = seq.expect("the ok to a publish has a seq");
                assert_eq!(receivers.is_some(), counts, "client {client}: receivers where asked");
                if let Some(expected) = expected {
                    assert_eq!(receivers, Some(expected), "client {client}: the receivers of {topic} {seq}");
                }
                self.place(number, topic, seq);
            }
            // The one before was refused for want of room, which the client did not know.
            Asked::SubscribeAgain(filter, start) if self.refuses() => {
                let seen = &mut self.clients[client];
                // Who left it since, in vain as it believed, may have asked once more, and has that.
                let (newer, is_left) = (seen.held.remove(&filter), seen.leaves_behind(&filter, id));
                let place = seen.hold(&filter, start, Some(id));
                if is_left {
                    seen.subscriptions[place].is_left = true;
                    seen.held.remove(&filter);
                }
                seen.held.extend(newer.map(|newer| (filter.clone(), newer)));
                self.on_started(client, place, topic, seq, begin);
            }
            Asked::UnsubscribeNothing(filter) if self.refuses() => {
                self.clients[client].end_before(&filter, id);
            }
            asked => panic!("client {client}: ok {id} for {asked:?}"),
        }
    }

    /// A subscription by name has ended: its client has what it published to the topic before it unsubscribed.
    fn check_own(&self, client: usize, place: usize) {
        let seen = &self.clients[client];
        let subscription = &seen.subscriptions[place];
        let Some(ok_seq) = subscription.ok_seq.filter(|_| subscription.has_own()) else { return };
        let topic = &subscription.filter;
        if seen.resyncs.iter().any(|(filter, _)| matches(filter, topic)) {
            return;
        }
        let own = self.publications[..subscription.left_count].iter();
        let own = own.filter(|it| it.client == client && it.topic == *topic);
        for seq in own.filter_map(|it| it.seq).filter(|seq| *seq > ok_seq) {
            let is_there = seen.topics.get(topic).is_some_and(|delivered| delivered.has(seq));
            assert!(
                is_there,
                "client {client} unsubscribed from {topic} behind its own {seq}, and has it not"
            );
        }
    }

    fn on_error(&mut self, client: usize, id: Option<u64>, code: &str) {
        if self.takes_refusal(client, id, code) {
            return;
        }
        let Some(id) = id else {
            let is_right = self.may_be_full() && code == "limit_reached";
            assert!(is_right, "client {client}: an error {code} without an id");
            return;
        };
        let asked = self.clients[client].asked.remove(&id);
        let asked = asked.unwrap_or_else(|| panic!("client {client}: error {id} {code} for nothing"));
        match (asked, code) {
            (Asked::SubscribeAgain(..), "already_subscribed") => {}
            (Asked::SubscribeAgain(..), "limit_reached") if self.evicts => {}
            (Asked::SubscribeAgain(filter, _), "busy") if is_wild(&filter) && self.asks_past() => {}
            (asked @ Asked::History { .. }, code) => self.on_history_refused(&asked, code),
            (Asked::UnsubscribeNothing(_), "not_subscribed") => {}
            (Asked::Publish { number, .. }, code) if self.may_refuse_publish(number, code) => {
                let publication = &mut self.publications[number];
                assert_eq!(publication.seq, None, "a refused publication has no seq");
                publication.is_refused = true;
            }
            // Or another is under way, which the client believed to be refused; or it receives the topic whose past it
            // asks for, or is being sent that of a topic that the filter matches.
            (Asked::Subscribe(place), code) if self.may_refuse(client, place, code) => {
                let seen = &mut self.clients[client];
                let subscription = &mut seen.subscriptions[place];
                subscription.is_refused = true;
                subscription.is_left = true;
                let filter = subscription.filter.clone();
                if seen.held.get(&filter) == Some(&place) {
                    seen.held.remove(&filter);
                }
            }
            // It was refused, which the client did not know.
            (Asked::Unsubscribe(_), "not_subscribed") if self.refuses() => {}
            (asked, code) => panic!("client {client}: error {id} {code} for {asked:?}"),
        }
    }

    /// The one place of a publication, and the one publication of a place.
    fn place(&mut self, number: usize, topic: &str, seq: u64) {
        let publication = &mut self.publications[number];
        assert_eq!(publication.topic, topic);
        assert!(!publication.is_refused, "a refused publication is in {topic} at {seq}");
        self.check_may_publish(number);
        let publication = &mut self.publications[number];
        let known = *publication.seq.get_or_insert(seq);
        assert_eq!(known, seq, "publication {number} is twice in {topic}");
        self.keyed.on_placed(number, self.now_ms);
        let holder = *self.topics.entry(topic.to_owned()).or_default().entry(seq).or_insert(number);
        assert_eq!(holder, number, "{topic} {seq} is two publications");
    }

    /// A publication is what was published, at its place.
    fn recognise(&mut self, topic: &str, told: &Told) {
        let is_null = told.payload == b"null";
        let number = if is_null { self.null_at(topic, told.seq) } else { number_of(&told.payload) };
        let publication = &self.publications[number];
        let seq = told.seq;
        assert!(publication.payload == told.payload, "{topic} {seq}: the payload is not what was published");
        assert_eq!(publication.is_json, told.is_json, "{topic} {seq}: the payload is JSON or not");
        self.check_stamps(number, topic, told);
        self.place(number, topic, seq);
    }

    fn on_message(&mut self, client: usize, topic: &str, told: &Told) {
        self.recognise(topic, told);
        let seq = told.seq;
        let is_allowed = self.clients[client].subscriptions.iter().any(|it| it.allows(topic));
        assert!(is_allowed, "client {client} gets {topic} {seq} without a subscription");
        if self.takes_value(client, topic, seq) {
            return;
        }
        let seen = &mut self.clients[client];
        let is_covered = seen.is_covered(topic);
        let mut jump = None;
        let delivered = seen.topics.entry(topic.to_owned()).or_default();
        assert!(seq > delivered.last, "client {client} gets {topic} {seq} after {}", delivered.last);
        let is_inside = matches!(delivered.next, Next::Exactly(_));
        let expected = match delivered.next {
            Next::Exactly(next) => next,
            Next::AtMost(next) => next.min(seq),
            Next::Any => seq,
        };
        if expected != seq {
            assert!(expected < seq, "client {client} gets {topic} {seq} instead of {:?}", delivered.next);
            jump = Some((expected, seq - 1, is_inside));
        }
        delivered.last = seq;
        delivered.next = if is_covered { Next::Exactly(seq + 1) } else { Next::Any };
        delivered.seqs.insert(seq);
        self.note_jump(client, topic, jump);
    }

    fn note_jump(&mut self, client: usize, topic: &str, jump: Option<(u64, u64, bool)>) {
        let Some((first, last, is_inside)) = jump else { return };
        let subscriptions = self.clients[client].subscriptions.iter().enumerate();
        // Behind where the past began each one comes, whoever saw it.
        let is_exact =
            subscriptions.clone().any(|(_, it)| it.from.is_some() && !it.jumps && it.covers(topic));
        assert!(!(is_inside && is_exact), "client {client} neither has nor misses {topic} {first}..{last}");
        if subscriptions.clone().any(|(_, it)| it.jumps && it.covers(topic)) {
            return;
        }
        let by = subscriptions.filter(|(_, it)| it.covers(topic)).map(|(place, _)| place).collect();
        let jump = Jump { client, topic: topic.to_owned(), first, last, is_inside, by };
        self.check_jump(&jump, false);
        self.jumps.push(jump);
    }

    /// `is_over`: nothing more will be known.
    fn check_jump(&self, jump: &Jump, is_over: bool) {
        let Jump { client, topic, first, last, is_inside, by } = jump;
        let subscriptions = || by.iter().map(|place| &self.clients[*client].subscriptions[*place]);
        for seq in *first..=*last {
            let is_due = match self.topics.get(topic).and_then(|by_seq| by_seq.get(&seq)) {
                Some(&number) => {
                    *is_inside || subscriptions().any(|it| it.is_due(seq, self.publications[number].step))
                }
                // Nobody saw it, so that it may be any that nobody saw.
                None if !self.evicts && is_over => {
                    let mut unseen =
                        self.publications.iter().filter(|it| it.seq.is_none() && it.topic == *topic);
                    *is_inside || !unseen.any(|unseen| subscriptions().all(|it| !it.is_due(seq, unseen.step)))
                }
                None => false,
            };
            assert!(!is_due, "client {client} neither has nor misses {topic} {seq}");
        }
    }

    fn on_gap(&mut self, client: usize, topic: &str, from: u64, to: u64) {
        let may_skip = self.policies.iter().any(|policy| policy.may_skip(topic));
        assert!(may_skip, "client {client} is told a gap {from}..{to} of {topic}");
        self.note_gap(client, topic, from, to);
    }

    fn note_gap(&mut self, client: usize, topic: &str, from: u64, to: u64) {
        assert!(from <= to, "client {client}: a gap {from}..{to} of {topic}");
        let seen = &mut self.clients[client];
        assert!(
            seen.subscriptions.iter().any(|subscription| subscription.allows(topic)),
            "client {client} is told a gap {from}..{to} of {topic} without a subscription"
        );
        let is_covered = seen.is_covered(topic);
        let mut jump = None;
        let delivered = seen.topics.entry(topic.to_owned()).or_default();
        if delivered.value.take_if(|awaited| to < awaited.before).is_some() {
            return;
        }
        let from = if from <= delivered.last { from.max(delivered.values_before) } else { from };
        assert!(from > delivered.last, "client {client} is told a gap {from}..{to} after {}", delivered.last);
        match delivered.next {
            Next::Exactly(next) if next < from => jump = Some((next, from - 1, true)),
            Next::Exactly(next) => {
                assert_eq!(from, next, "client {client}: a gap {from}..{to} of {topic} begins where it was");
            }
            Next::AtMost(next) if next < from => jump = Some((next, from - 1, false)),
            Next::AtMost(_) | Next::Any => {}
        }
        delivered.last = to;
        delivered.next = if is_covered { Next::Exactly(to + 1) } else { Next::Any };
        delivered.gaps.push((from, to));
        self.note_jump(client, topic, jump);
    }

    /// Nothing moves any more: everyone who reads has everything. `reads` says who.
    pub fn check_quiet(&self, reads: impl Fn(usize) -> bool) {
        for (client, seen) in self.clients.iter().enumerate() {
            if seen.is_over || seen.got_close || !reads(client) {
                continue;
            }
            let unanswered = seen.asked.iter().next();
            assert!(
                unanswered.is_none() || self.is_turned_away(client),
                "client {client} has no answer to {unanswered:?}"
            );
            self.check_replays(client);
            for subscription in &seen.subscriptions {
                for topic in self.topics.keys().filter(|topic| subscription.covers(topic)) {
                    self.check_complete(client, topic, subscription);
                }
            }
        }
    }

    fn check_complete(&self, client: usize, topic: &str, subscription: &Subscription) {
        let seen = &self.clients[client];
        let resync_step =
            seen.resyncs.iter().filter(|(filter, _)| matches(filter, topic)).map(|(_, step)| *step).max();
        let delivered = seen.topics.get(topic);
        for (&seq, &number) in &self.topics[topic] {
            let step = self.publications[number].step;
            if !subscription.is_due(seq, step) || resync_step.is_some_and(|resync_step| step <= resync_step) {
                continue;
            }
            // What came meanwhile has a newer one of its key, or went as values do.
            let may_be_passed = || self.may_lose_values(topic) || self.is_superseded(topic, seq);
            if subscription.jumps && may_be_passed() {
                continue;
            }
            let is_there = delivered.is_some_and(|delivered| delivered.has(seq));
            assert!(is_there, "client {client} neither has nor misses {topic} {seq}");
        }
    }

    /// The world is over: what could not be told before.
    pub fn check_over(&self) {
        self.jumps.iter().for_each(|jump| self.check_jump(jump, true));
        self.check_keys();
        self.check_values();
        for (client, seen) in self.clients.iter().enumerate() {
            let ended = (0..seen.subscriptions.len()).filter(|place| seen.subscriptions[*place].has_own());
            ended.for_each(|place| self.check_own(client, place));
        }
        // One publisher's publications to one topic are in the order in which it sent them.
        let mut newest: BTreeMap<(usize, &str), u64> = BTreeMap::new();
        for publication in &self.publications {
            let Some(seq) = publication.seq else { continue };
            let before = newest.insert((publication.client, &publication.topic), seq);
            assert!(before.is_none_or(|before| before < seq), "{}: one publisher's order", publication.topic);
        }
    }
}

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
};

use proptest::{
    prelude::*,
    test_runner::{Config, RngSeed},
};

use super::{ending::ENDINGS_MAX, owing::AT_ONCE_MAX, subscriber::GAPS_MAX, *};
use crate::{
    protocol::{
        command::PayloadKind,
        frame,
        publication::Publication,
        topic::{self, Filter, TopicName},
    },
    pubsub::{
        home::TopicRefusal,
        log::{Appender, ChunkPool},
        message::{Batch, PendingId, RegistrationId},
        policy::{Bound, Rule, RuleKeys, Verdict},
        subscription::{ConnectionId, SubscribeRefused, Subscribed, Wanted},
        view::{MemberSlot, Pin},
    },
    work::{UNIT, price},
};

const CONNECTIONS: usize = 5;
const TOPICS: [&str; 4] = ["a", "a/x", "a/y", "b"];
const FILTERS: [&str; 4] = ["a/#", "+", "#", "a/+"];
const ENCODING: Encoding = Encoding::Json;

fn wanted(topic: TopicName<&str>, pending: Option<PendingId>) -> Wanted<'_> {
    Wanted { topic, encoding: ENCODING, past: None, pending, creator: 0 }
}

#[derive(Clone, Debug)]
enum Step {
    Subscribe(usize, usize),
    AddFilter(usize, usize),
    Unsubscribe(usize, usize),
    RemoveFilter(usize, usize),
    Disconnect(usize),
    Publish(usize),
    /// So many deliveries of the home arrive.
    Arrive(usize),
    /// So many visits; at most so many bytes each.
    Sweep(usize, u32),
    Complete(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..CONNECTIONS, 0..TOPICS.len()).prop_map(|(c, t)| Step::Subscribe(c, t)),
        2 => (0..CONNECTIONS, 0..FILTERS.len()).prop_map(|(c, f)| Step::AddFilter(c, f)),
        2 => (0..CONNECTIONS, 0..TOPICS.len()).prop_map(|(c, t)| Step::Unsubscribe(c, t)),
        1 => (0..CONNECTIONS, 0..FILTERS.len()).prop_map(|(c, f)| Step::RemoveFilter(c, f)),
        1 => (0..CONNECTIONS).prop_map(Step::Disconnect),
        8 => (0..TOPICS.len()).prop_map(Step::Publish),
        6 => (1usize..6).prop_map(Step::Arrive),
        5 => (1usize..8, 1u32..300).prop_map(|(visits, bytes_max)| Step::Sweep(visits, bytes_max)),
        4 => (0..CONNECTIONS).prop_map(Step::Complete),
    ]
}

/// A connection as the naive twin has it: what it asked for, and every frame that it is owed.
#[derive(Default)]
struct Reader {
    generation: u32,
    waiting: BTreeSet<&'static str>,
    exact: BTreeSet<&'static str>,
    /// Filters that the home has not answered.
    waiting_filters: BTreeSet<&'static str>,
    filters: BTreeSet<&'static str>,
    /// Topics that it has unsubscribed from and still receives.
    ending: BTreeMap<&'static str, Ending>,
    /// One of those, to which it has subscribed again, and that question.
    again: Option<(&'static str, PendingId)>,
    owed: BTreeMap<&'static str, VecDeque<Vec<u8>>>,
    in_flight: Vec<(ViewKey, Pin)>,
}

/// An unsubscribe that is not answered.
struct Ending {
    question: PendingId,
    /// How many frames it gets at least before that is answered: known when the mark has come back.
    left: Option<usize>,
}

impl Reader {
    fn receives(&self, name: &str) -> bool {
        self.exact.contains(name) || self.filters.iter().any(|filter| topic::matches(filter, name))
    }

    fn forget_unmatched(&mut self) {
        let mut owed = std::mem::take(&mut self.owed);
        owed.retain(|name, _| self.receives(name));
        self.owed = owed;
    }

    /// Takes `bytes` off what it is owed: they must be next, of one topic.
    fn get(&mut self, bytes: &[u8]) {
        let of = |frames: &VecDeque<Vec<u8>>| frames.front().is_some_and(|frame| bytes.starts_with(frame));
        let (name, frames) =
            self.owed.iter_mut().find(|(_, frames)| of(frames)).expect("some topic's next frame");
        let left = self.ending.get_mut(name).and_then(|ending| ending.left.as_mut());
        let before = frames.len();
        let mut rest = bytes;
        while !rest.is_empty() {
            let frame = frames.pop_front().expect("a frame that is owed");
            rest = rest.strip_prefix(frame.as_slice()).expect("the frame that is next");
        }
        if let Some(left) = left {
            *left = left.saturating_sub(before - frames.len());
        }
    }

    /// Whether its further commands wait.
    fn is_unsubscribing(&self) -> bool {
        self.again.is_some() || self.ending.len() >= ENDINGS_MAX
    }
}

/// A fan-out, a home that answers late, and the twin.
struct Bench {
    fanout: Fanout,
    readers: Vec<Reader>,
    pool: ChunkPool,
    appender: crate::pubsub::log::Appender,
    seqs: BTreeMap<&'static str, u64>,
    /// What the home knows.
    names: BTreeSet<&'static str>,
    /// With the registration that counts.
    filters: BTreeMap<&'static str, RegistrationId>,
    /// What it said, and has not arrived.
    coming: VecDeque<Coming>,
    outcome: Outcome,
    /// Questions that were answered.
    answered: BTreeSet<PendingId>,
    next_question: u32,
    now_ns: u64,
}

enum Coming {
    Batch(Batch, &'static str, Vec<u8>),
    Subscribed(&'static str, u64),
    Marked(&'static str, ConnectionId, PendingId),
    FilterAdded(RegistrationId),
}

/// The first connection of a slot.
fn first(slot: u32) -> ConnectionId {
    ConnectionId { slot, generation: 0 }
}

fn ours(names: &[&'static str], name: &str) -> &'static str {
    names.iter().find(|ours| **ours == name).expect("one of ours")
}

impl Bench {
    fn new() -> Bench {
        let rule = Rule { may_skip: false, owed_bytes_max: u64::MAX, owed_ms_max: None };
        let policy = Policy::new(u64::MAX, rule, []);
        let mut pool = ChunkPool::new(Budget::new(1 << 30));
        Bench {
            fanout: Fanout::new(Homes::new(1, 0), policy, 1_000, CONNECTIONS, Budget::new(1 << 30)),
            readers: (0..CONNECTIONS).map(|_| Reader::default()).collect(),
            appender: pool.acquire(600, 0),
            pool,
            seqs: BTreeMap::new(),
            names: BTreeSet::new(),
            filters: BTreeMap::new(),
            coming: VecDeque::new(),
            outcome: Outcome::default(),
            answered: BTreeSet::new(),
            next_question: 1,
            now_ns: 1,
        }
    }

    fn question(&mut self) -> PendingId {
        self.next_question += 1;
        PendingId(self.next_question)
    }

    /// The home carries out what it was asked, at once, and answers later.
    fn ask_home(&mut self) {
        for (_, request) in self.outcome.requests.drain(..) {
            match request {
                Request::Subscribe { topic, .. } => {
                    let name = ours(&TOPICS, &topic);
                    self.names.insert(name);
                    let seq = self.seqs.get(name).copied().unwrap_or(0);
                    self.coming.push_back(Coming::Subscribed(name, seq));
                }
                Request::Unsubscribe { topic, .. } => assert!(self.names.remove(&*topic)),
                Request::Mark { topic, connection, pending, .. } => {
                    let name = ours(&TOPICS, &topic);
                    self.coming.push_back(Coming::Marked(name, connection, pending));
                }
                Request::AddFilter { filter, registration, .. } => {
                    self.filters.insert(ours(&FILTERS, &filter), registration);
                    self.coming.push_back(Coming::FilterAdded(registration));
                }
                Request::RemoveFilter { filter, .. } => {
                    assert!(self.filters.remove(&*filter).is_some());
                }
                other => panic!("{other:?}"),
            }
        }
        self.answered.extend(self.outcome.started.drain(..).filter_map(|started| started.pending));
        self.end();
    }

    /// Whoever has been sent what it was owed when its mark came back has left, and is answered; nobody else is.
    fn end(&mut self) {
        for (connection, reader) in self.readers.iter_mut().enumerate() {
            let mut ending = std::mem::take(&mut reader.ending);
            ending.retain(|name, Ending { question, left }| {
                let is_held = reader.filters.iter().any(|filter| topic::matches(filter, name));
                let is_over = *left == Some(0);
                assert_eq!(self.answered.contains(question), is_over, "{name} of {connection}");
                if !is_over {
                    return true;
                }
                reader.exact.remove(name);
                if let Some((_, question)) = reader.again.take_if(|again| again.0 == *name) {
                    match self.answered.contains(&question) {
                        true => assert!(reader.exact.insert(name)),
                        false => assert!(reader.waiting.insert(name)),
                    }
                    // What it was owed before is not of this one.
                    if !is_held {
                        reader.owed.remove(name);
                    }
                }
                false
            });
            reader.ending = ending;
            reader.forget_unmatched();
            assert_eq!(self.fanout.is_unsubscribing(connection as u32), reader.is_unsubscribing());
        }
    }

    fn publish(&mut self, name: &'static str) {
        let seq = self.seqs.entry(name).or_default();
        *seq += 1;
        if !self.names.contains(name) && !self.filters.keys().any(|filter| topic::matches(filter, name)) {
            return;
        }
        let publication = Publication {
            topic: name,
            seq: *seq,
            user: None,
            time_ms: None,
            payload: b"1",
            kind: PayloadKind::Json,
        };
        let mut frame = vec![0; publication.encoded_len(ENCODING.format())];
        publication.encode(ENCODING.format(), &mut frame);
        if self.appender.room() < frame.len() {
            let next = self.pool.acquire(600, 0);
            self.pool.retire(std::mem::replace(&mut self.appender, next));
        }
        let range = self.appender.append(frame.len(), |room| room.copy_from_slice(&frame));
        let batch = Batch { topic: name.into(), encoding: ENCODING, seq: *seq, count: 1, range };
        self.coming.push_back(Coming::Batch(batch, name, frame));
    }

    fn arrive(&mut self) {
        let Some(coming) = self.coming.pop_front() else { return };
        match coming {
            Coming::Batch(batch, name, frame) => {
                for reader in self.readers.iter_mut().filter(|reader| reader.receives(name)) {
                    reader.owed.entry(name).or_default().push_back(frame.clone());
                }
                self.fanout.handle_batch(batch, self.now_ns, 0);
            }
            Coming::Subscribed(name, seq) => {
                self.fanout.handle_subscribed(name, ENCODING, Ok(seq), &mut self.outcome);
                for reader in &mut self.readers {
                    if reader.waiting.remove(name) {
                        reader.exact.insert(name);
                    }
                }
            }
            Coming::Marked(name, whose, pending) => {
                self.fanout.handle_marked(name, ENCODING, whose, pending, &mut self.outcome);
                let reader = &mut self.readers[whose.slot as usize];
                if reader.generation == whose.generation {
                    let owed = reader.owed.get(name).map_or(0, VecDeque::len);
                    reader.ending.get_mut(name).expect("it waits for that").left = Some(owed);
                }
            }
            Coming::FilterAdded(registration) => {
                self.fanout.handle_filter_added(registration, &mut self.outcome);
                // From here on all that matches comes. What came before was for others.
                let started = self.filters.iter().find(|(_, counts)| **counts == registration);
                for reader in &mut self.readers {
                    let started = started.and_then(|(filter, _)| reader.waiting_filters.take(filter));
                    reader.filters.extend(started);
                }
            }
        }
        self.ask_home();
    }

    fn subscribe(&mut self, connection: usize, name: &'static str) {
        let question = self.question();
        let reader = &mut self.readers[connection];
        if reader.is_unsubscribing() {
            return;
        }
        let is_ending = reader.ending.contains_key(name);
        let is_held = !is_ending && (reader.exact.contains(name) || reader.waiting.contains(name));
        let id = ConnectionId { slot: connection as u32, generation: reader.generation };
        let (topic, outcome) = (TopicName::checked(name), &mut self.outcome);
        match self.fanout.handle_subscribe_topic(id, wanted(topic, Some(question)), outcome) {
            Ok(subscribed) if is_ending => {
                assert_eq!(subscribed, Subscribed::Later);
                reader.again = Some((name, question));
            }
            Err(refused) => assert!(is_held && refused == SubscribeRefused::Already),
            Ok(Subscribed::Now(_)) => assert!(!is_held && reader.exact.insert(name)),
            Ok(Subscribed::Later) => assert!(!is_held && reader.waiting.insert(name)),
        }
        self.ask_home();
    }

    fn unsubscribe(&mut self, connection: usize, text: &'static str) {
        let question = self.question();
        let reader = &mut self.readers[connection];
        if reader.is_unsubscribing() {
            return;
        }
        let is_name = reader.exact.contains(text) || reader.waiting.contains(text);
        let is_ending = is_name && !reader.ending.contains_key(text);
        let is_held = is_ending | reader.waiting_filters.remove(text) | reader.filters.remove(text);
        let outcome = &mut self.outcome;
        let left = self.fanout.handle_unsubscribe(connection as u32, ENCODING, text, question, outcome);
        assert_eq!(left.is_ok(), is_held);
        if is_ending {
            reader.ending.insert(text, Ending { question, left: None });
        }
        reader.forget_unmatched();
        self.finish_tasks();
        self.ask_home();
    }

    fn add_filter(&mut self, connection: usize, filter: &'static str) {
        let reader = &mut self.readers[connection];
        let id = ConnectionId { slot: connection as u32, generation: reader.generation };
        let outcome = &mut self.outcome;
        let is_held = reader.filters.contains(filter) || reader.waiting_filters.contains(filter);
        let parsed = Filter::parse(filter).expect("a filter");
        match self.fanout.handle_subscribe_filter(id, ENCODING, parsed, Some(PendingId(0)), outcome) {
            Err(refused) => assert!(is_held && refused == SubscribeRefused::Already),
            Ok(Subscribed::Now(_)) => assert!(!is_held && reader.filters.insert(filter)),
            Ok(Subscribed::Later) => assert!(!is_held && reader.waiting_filters.insert(filter)),
        }
        self.ask_home();
    }

    fn disconnect(&mut self, connection: usize) {
        self.complete(connection, false);
        if !self.fanout.handle_disconnect(connection as u32, &mut self.outcome) {
            self.finish_tasks();
            assert_eq!(self.outcome.departed.pop(), Some(connection as u32));
        }
        let generation = self.readers[connection].generation + 1;
        self.readers[connection] = Reader { generation, ..Reader::default() };
        self.ask_home();
    }

    /// A reactor has the connection's further commands wait for that.
    fn finish_tasks(&mut self) {
        while self.fanout.run_tasks(1, 0, &mut self.outcome) {
            self.fanout.check();
        }
    }

    fn sweep(&mut self, visits: usize, bytes_max: u32) {
        self.now_ns += 1;
        self.fanout.start_due_sweeps(self.now_ns, u64::MAX >> 1);
        let Some(view) = self.fanout.take_sweeping() else { return };
        let mut steps = 100;
        for _ in 0..visits {
            let Some((slot, member)) = self.fanout.next_visit(view, &mut steps) else { break };
            if self.readers[slot as usize].in_flight.is_empty() {
                self.take(slot as usize, view, member, bytes_max);
            } else {
                self.fanout.mark_owing(view, member);
            }
        }
        self.fanout.put_back(view, self.now_ns, 0);
    }

    fn take(&mut self, connection: usize, view: ViewKey, member: MemberSlot, bytes_max: u32) {
        let Some(owed) = self.fanout.take(view, member, bytes_max) else { return };
        // SAFETY: the pin keeps the bytes there.
        let bytes = unsafe { std::slice::from_raw_parts(owed.bytes, owed.len as usize) };
        self.readers[connection].get(bytes);
        self.readers[connection].in_flight.push((view, owed.pin));
        let is_ending = self.fanout.is_ending(connection as u32);
        let has_left = is_ending && self.fanout.note_sent(view, member, &mut self.outcome);
        if !has_left && self.fanout.is_behind(view, member) {
            self.fanout.mark_owing(view, member);
        }
        if is_ending {
            self.ask_home();
        }
    }

    fn complete(&mut self, connection: usize, goes_on: bool) {
        for (view, pin) in std::mem::take(&mut self.readers[connection].in_flight) {
            self.fanout.unpin(view, pin);
        }
        if goes_on && let Some((view, member)) = self.fanout.pop_owing(connection as u32) {
            self.take(connection, view, member, 100);
        }
    }

    fn is_served(&self) -> bool {
        self.readers.iter().all(|reader| reader.owed.values().all(VecDeque::is_empty))
    }
}

proptest! {
    #![proptest_config(Config {
        cases: 200,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(17),
        ..Config::default()
    })]

    #[test]
    fn everyone_gets_what_queues_per_subscriber_would_give(steps in prop::collection::vec(step(), 1..150)) {
        let mut bench = Bench::new();
        for step in steps {
            match step {
                Step::Subscribe(connection, topic) => bench.subscribe(connection, TOPICS[topic]),
                Step::AddFilter(connection, filter) => bench.add_filter(connection, FILTERS[filter]),
                Step::Unsubscribe(connection, topic) => bench.unsubscribe(connection, TOPICS[topic]),
                Step::RemoveFilter(connection, filter) => bench.unsubscribe(connection, FILTERS[filter]),
                Step::Disconnect(connection) => bench.disconnect(connection),
                Step::Publish(topic) => bench.publish(TOPICS[topic]),
                Step::Arrive(count) => (0..count).for_each(|_| bench.arrive()),
                Step::Sweep(visits, bytes_max) => bench.sweep(visits, bytes_max),
                Step::Complete(connection) => bench.complete(connection, true),
            }
            bench.fanout.check();
            bench.fanout.check_rested();
        }
        while !bench.coming.is_empty() {
            bench.arrive();
        }
        // Each round serves everyone behind by at least a frame.
        for _ in 0..1_000 {
            bench.sweep(10, 100);
            (0..CONNECTIONS).for_each(|connection| bench.complete(connection, true));
        }
        prop_assert!(bench.is_served(), "somebody is owed something and is not visited");
        (0..CONNECTIONS).for_each(|connection| bench.disconnect(connection));
        while !bench.coming.is_empty() {
            bench.arrive();
        }
        bench.fanout.check();
        prop_assert!(bench.fanout.is_empty());
        prop_assert!(bench.names.is_empty() && bench.filters.is_empty());
    }
}

/// Nothing moved for long, and a view lets go of its members, some of which are left: then it moves on.
#[test]
fn a_view_that_moves_on_while_its_members_leave_it_loses_none_of_them() {
    let mut bench = Bench::new();
    (0..CONNECTIONS).for_each(|connection| bench.add_filter(connection, "a/#"));
    let serve = |bench: &mut Bench| {
        while !bench.coming.is_empty() {
            bench.arrive();
        }
        bench.finish_tasks();
        for _ in 0..10 {
            bench.sweep(10, 100);
            (0..CONNECTIONS).for_each(|connection| bench.complete(connection, true));
        }
        assert!(bench.is_served());
        bench.fanout.check();
        bench.fanout.check_rested();
    };
    serve(&mut bench);
    bench.publish("a/x");
    serve(&mut bench);
    bench.fanout.handle_period(u64::MAX);
    assert!(bench.fanout.run_tasks(1, 0, &mut bench.outcome), "members are left");
    bench.publish("a/x");
    serve(&mut bench);
}

/// A fan-out whose connections all have a send in flight, and topics of which some may skip.
struct Stalled {
    fanout: Fanout,
    budget: Arc<Budget>,
    pool: ChunkPool,
    seqs: BTreeMap<String, u64>,
    now_ms: u32,
}

/// Every publication is one frame of so many bytes.
const FRAME_BYTES: u64 = 100;

impl Stalled {
    fn new(owed_bytes_max: u64, owed_ms_max: Option<u32>) -> Stalled {
        let owed_ms_max = owed_ms_max.and_then(NonZeroU32::new);
        let rule = Rule { may_skip: false, owed_bytes_max, owed_ms_max };
        let skip = RuleKeys { may_skip: Some(true), ..RuleKeys::default() };
        let small = RuleKeys { owed_bytes_max: Some(5 * FRAME_BYTES), ..skip };
        let policy = Policy::new(owed_bytes_max, rule, [("small/#".into(), small), ("skip/#".into(), skip)]);
        let budget = Budget::new(1 << 30);
        let fanout = Fanout::new(Homes::new(1, 0), policy, 10_000, CONNECTIONS, budget.clone());
        Stalled { fanout, pool: ChunkPool::new(budget.clone()), budget, seqs: BTreeMap::new(), now_ms: 1_000 }
    }

    fn subscribe(&mut self, connection: u32, topic: &str) {
        let mut outcome = Outcome::default();
        let (id, name) = (first(connection), TopicName::checked(topic));
        let subscribed = self.fanout.handle_subscribe_topic(id, wanted(name, None), &mut outcome);
        if subscribed.unwrap() == Subscribed::Later {
            self.fanout.handle_subscribed(topic, ENCODING, Ok(0), &mut outcome);
        }
    }

    /// Publishes `count` frames, each into a chunk of its own, visits everybody, and tells what became of
    /// whoever was beyond a bound.
    fn publish(&mut self, topic: &str, count: u64) -> Option<Verdict> {
        for _ in 0..count {
            let mut chunk = self.pool.acquire(FRAME_BYTES as usize, 0);
            self.publish_into(topic, &mut chunk);
            self.pool.retire(chunk);
        }
        self.visit()
    }

    fn publish_into(&mut self, topic: &str, appender: &mut Appender) {
        self.publish_paced(topic, appender, 0);
    }

    /// As it is where sweeps keep a distance of `delay_ns`.
    fn publish_paced(&mut self, topic: &str, appender: &mut Appender, delay_ns: u64) {
        let seq = self.seqs.entry(topic.into()).or_default();
        *seq += 1;
        let mut frame = vec![0; FRAME_BYTES as usize];
        frame::write_header(frame::Opcode::Text, FRAME_BYTES as usize - 2, &mut frame);
        let range = appender.append(frame.len(), |room| room.copy_from_slice(&frame));
        let batch = Batch { topic: topic.into(), encoding: ENCODING, seq: *seq, count: 1, range };
        self.fanout.handle_batch(batch, u64::from(self.now_ms) * 1_000_000, delay_ns);
    }

    /// Visits everybody, who all have a send in flight.
    fn visit(&mut self) -> Option<Verdict> {
        let mut verdict = None;
        while let Some(view) = self.fanout.take_sweeping() {
            let mut steps = 1_000;
            while let Some((connection, member)) = self.fanout.next_visit(view, &mut steps) {
                if self.fanout.mark_owing(view, member) {
                    verdict = Some(self.fanout.judge(connection, self.now_ms));
                }
            }
            self.fanout.put_back(view, u64::from(self.now_ms) * 1_000_000, 0);
        }
        // Of many topics a task judges.
        verdict = self.run_tasks().pop().map(|(_, verdict)| verdict).or(verdict);
        verdict.filter(|verdict| *verdict != Verdict::Keep)
    }

    /// Does all that is left to tasks; tells who was judged.
    fn run_tasks(&mut self) -> Vec<(u32, Verdict)> {
        let mut outcome = Outcome::default();
        while self.fanout.run_tasks(1, self.now_ms, &mut outcome) {}
        outcome.judged
    }

    fn owed_bytes(&self, connection: usize) -> u64 {
        let held = self.fanout.subscribers[connection].subscriptions().iter();
        held.map(|held| self.fanout.views[held.view as usize].owed_bytes(held.member)).sum()
    }

    fn gaps(&mut self, connection: u32) -> Vec<(String, u64, u64)> {
        self.fanout.check();
        let (gaps, _) = self.fanout.take_gaps(connection).unwrap_or_default();
        gaps.into_iter().map(|gap| (gap.topic.to_string(), gap.from, gap.to)).collect()
    }
}

/// The furthest behind loses as much as brings the sum to half of the bound, and keeps its newest; what
/// does not skip is not touched as long as it fits.
#[test]
fn a_connection_beyond_its_bound_is_moved_forward_where_it_may_skip_the_furthest_behind_first() {
    let mut stalled = Stalled::new(20 * FRAME_BYTES, None);
    for topic in ["keep", "skip/far", "skip/near"] {
        stalled.subscribe(0, topic);
    }
    assert_eq!(stalled.publish("keep", 4), None);
    assert_eq!(stalled.publish("skip/near", 3), None);
    assert_eq!(stalled.publish("skip/far", 13), None);
    assert_eq!(stalled.publish("skip/far", 2), Some(Verdict::Skip(Bound::OwedBytes)));
    assert_eq!(stalled.owed_bytes(0), 10 * FRAME_BYTES);
    assert_eq!(stalled.gaps(0), [("skip/far".into(), 1, 12)]);
    // What does not skip is too much alone: nothing is moved in vain.
    assert_eq!(stalled.publish("keep", 17), Some(Verdict::Disconnect(Bound::OwedBytes)));
    assert_eq!(stalled.gaps(0), []);
}

/// Nothing goes to all views: one that gets a batch follows the new policy, and one of which a member is judged.
#[test]
fn a_view_follows_a_new_policy_when_it_is_looked_at() {
    let mut stalled = Stalled::new(20 * FRAME_BYTES, None);
    ["a", "b"].iter().for_each(|topic| stalled.subscribe(0, topic));
    assert_eq!(stalled.publish("a", 4), None);
    assert_eq!(stalled.publish("b", 1), None);
    let rule = Rule { may_skip: false, owed_bytes_max: 20 * FRAME_BYTES, owed_ms_max: None };
    let narrow =
        RuleKeys { may_skip: Some(true), owed_bytes_max: Some(3 * FRAME_BYTES), ..RuleKeys::default() };
    let narrow = || Policy::new(20 * FRAME_BYTES, rule, [("+".into(), narrow)]);
    let wide = || Policy::new(20 * FRAME_BYTES, rule, []);
    stalled.fanout.set_policy(narrow());
    stalled.run_tasks();
    assert_eq!(stalled.fanout.judge(0, stalled.now_ms), Verdict::Skip(Bound::OwedBytes));
    assert_eq!(stalled.gaps(0), [("a".into(), 1, 3)]);
    stalled.fanout.set_policy(wide());
    assert_eq!(stalled.publish("b", 2), None);
    // Summed up since, and no task comes by: only the bound of the topic itself gives a reason to judge.
    assert_eq!(stalled.publish("b", 1), None);
    stalled.fanout.set_policy(narrow());
    assert_eq!(stalled.publish("b", 1), Some(Verdict::Skip(Bound::OwedBytes)));
    assert_eq!(stalled.gaps(0), [("b".into(), 1, 4)]);
    stalled.fanout.set_policy(wide());
    assert_eq!(stalled.publish("b", 19), Some(Verdict::Disconnect(Bound::OwedBytes)));
}

/// What goes on over turns looks at views that have had no batch since: those of a connection that is owed in many topics,
/// and those that keep old log.
#[test]
fn tasks_go_by_a_new_policy() {
    let rule = Rule { may_skip: false, owed_bytes_max: u64::MAX, owed_ms_max: None };
    let narrow =
        RuleKeys { may_skip: Some(true), owed_bytes_max: Some(2 * FRAME_BYTES), ..RuleKeys::default() };
    let narrow = || Policy::new(u64::MAX, rule, [("#".into(), narrow)]);
    let mut stalled = Stalled::new(u64::MAX, None);
    let topics: Vec<String> = (0..=AT_ONCE_MAX).map(|topic| format!("t/{topic}")).collect();
    for topic in &topics {
        stalled.subscribe(0, topic);
        assert_eq!(stalled.publish(topic, 3), None);
    }
    stalled.fanout.set_policy(narrow());
    assert_eq!(stalled.fanout.judge(0, stalled.now_ms), Verdict::Keep, "a task does it");
    assert_eq!(stalled.run_tasks(), [(0, Verdict::Skip(Bound::OwedBytes))]);
    assert_eq!(stalled.owed_bytes(0), topics.len() as u64 * FRAME_BYTES);
    let mut stalled = Stalled::new(u64::MAX, None);
    stalled.subscribe(0, "old");
    assert_eq!(stalled.publish("old", 1), None);
    let clock = stalled.budget.clock() + 1;
    stalled.fanout.set_policy(narrow());
    stalled.fanout.shed(clock);
    assert_eq!(stalled.run_tasks(), [(0, Verdict::Skip(Bound::LogBytes))]);
}

/// A stranger names new topics, and a reload has every view looked into again: each time that is counted, once.
#[test]
fn what_looking_into_the_policy_takes_is_counted() {
    let mut stalled = Stalled::new(20 * FRAME_BYTES, None);
    let rule = Rule { may_skip: false, owed_bytes_max: 20 * FRAME_BYTES, owed_ms_max: None };
    // The root and a node per level.
    let keys = RuleKeys { may_skip: Some(true), ..RuleKeys::default() };
    let deep = || Policy::new(20 * FRAME_BYTES, rule, [("+/+/+/+".into(), keys)]);
    let lookup = 5 * price::MATCH;
    let work = |stalled: &mut Stalled, topic: &str, deed: fn(&mut Stalled, &str)| {
        stalled.fanout.take_work();
        deed(stalled, topic);
        stalled.fanout.take_work()
    };
    let subscribe: fn(&mut Stalled, &str) = |stalled, topic| stalled.subscribe(0, topic);
    let publish: fn(&mut Stalled, &str) = |stalled, topic| {
        let mut chunk = stalled.pool.acquire(FRAME_BYTES as usize, 0);
        stalled.publish_into(topic, &mut chunk);
    };
    let judge: fn(&mut Stalled, &str) = |stalled, _| {
        let _ = stalled.fanout.judge(0, stalled.now_ms);
    };
    stalled.fanout.set_policy(Policy::new(20 * FRAME_BYTES, rule, []));
    stalled.run_tasks();
    let plain = work(&mut stalled, "a/b/c/d", subscribe);
    let batch = work(&mut stalled, "a/b/c/d", publish);
    stalled.fanout.set_policy(deep());
    stalled.run_tasks();
    assert_eq!(work(&mut stalled, "a/b/c/e", subscribe), plain + lookup, "a view is made");
    assert_eq!(work(&mut stalled, "a/b/c/d", publish), batch + lookup, "a view follows");
    assert_eq!(work(&mut stalled, "a/b/c/d", publish), batch, "it has followed");
    assert_eq!(
        work(&mut stalled, "a/b/c/e", publish),
        batch,
        "one that was made since has nothing to follow"
    );
    stalled.visit();
    let judged = work(&mut stalled, "", judge);
    stalled.fanout.set_policy(deep());
    stalled.run_tasks();
    assert_eq!(work(&mut stalled, "", judge), judged + 2 * lookup, "both follow");
    assert_eq!(work(&mut stalled, "", judge), judged);
}

#[test]
fn a_gap_that_is_not_told_yet_is_widened_in_place() {
    let mut stalled = Stalled::new(6 * FRAME_BYTES, None);
    stalled.subscribe(0, "skip/a");
    for _ in 0..12 {
        stalled.publish("skip/a", 1);
    }
    // Beyond six frames, three are left: 1 to 4 at the seventh, 5 to 8 at the eleventh.
    assert_eq!(stalled.gaps(0), [("skip/a".into(), 1, 8)]);
    assert_eq!(stalled.owed_bytes(0), 4 * FRAME_BYTES);
}

/// It was not told, and nobody else is.
#[test]
fn a_gap_goes_with_the_connection_that_it_was_of() {
    let mut stalled = Stalled::new(6 * FRAME_BYTES, None);
    stalled.subscribe(0, "skip/a");
    assert_eq!(stalled.publish("skip/a", 7), Some(Verdict::Skip(Bound::OwedBytes)));
    stalled.fanout.handle_disconnect(0, &mut Outcome::default());
    stalled.run_tasks();
    assert_eq!(stalled.gaps(0), []);
}

#[test]
fn a_connection_is_served_topics_in_the_order_in_which_they_began_to_wait() {
    let mut stalled = Stalled::new(u64::MAX, None);
    ["a", "b", "c"].iter().for_each(|topic| stalled.subscribe(0, topic));
    for topic in ["b", "c", "a", "b"] {
        stalled.publish(topic, 1);
    }
    let served = std::iter::from_fn(|| {
        let (view, _) = stalled.fanout.pop_owing(0)?;
        Some(stalled.fanout.views[view as usize].name.to_string())
    });
    assert_eq!(served.collect::<Vec<_>>(), ["b", "c", "a"]);
}

/// A bound of a topic's own, far below the connection's.
#[test]
fn a_topic_may_have_a_bound_of_its_own() {
    let mut stalled = Stalled::new(1_000 * FRAME_BYTES, None);
    stalled.subscribe(0, "small/a");
    stalled.subscribe(0, "skip/a");
    assert_eq!(stalled.publish("skip/a", 20), None);
    assert_eq!(stalled.publish("small/a", 5), None);
    assert_eq!(stalled.publish("small/a", 1), Some(Verdict::Skip(Bound::OwedBytes)));
    assert_eq!(stalled.gaps(0), [("small/a".into(), 1, 4)]);
}

#[test]
fn a_connection_with_topics_of_both_policies_is_closed_for_the_old_one_that_does_not_skip() {
    let mut stalled = Stalled::new(u64::MAX, Some(1_000));
    stalled.subscribe(0, "skip/a");
    stalled.subscribe(0, "keep");
    stalled.publish("skip/a", 2);
    stalled.now_ms += 600;
    stalled.publish("skip/a", 2);
    stalled.publish("keep", 1);
    stalled.now_ms += 600;
    assert_eq!(stalled.fanout.judge(0, stalled.now_ms), Verdict::Skip(Bound::OwedMs));
    assert_eq!(stalled.gaps(0), [("skip/a".into(), 1, 4)], "what is left is younger than half");
    stalled.now_ms += 600;
    assert_eq!(stalled.fanout.judge(0, stalled.now_ms), Verdict::Disconnect(Bound::OwedMs));
}

/// However early it is clear that it will be closed: whoever is judged anew before that is judged whole.
#[test]
fn a_connection_that_a_task_closes_was_summed_up_to_the_end() {
    let mut stalled = Stalled::new(u64::MAX, Some(1_000));
    let topics: Vec<String> = (0..2 * AT_ONCE_MAX).map(|topic| format!("keep/{topic}")).collect();
    for topic in &topics {
        stalled.subscribe(0, topic);
        assert_eq!(stalled.publish(topic, 1), None);
    }
    stalled.now_ms += 1_200;
    for _ in 0..2 {
        assert_eq!(stalled.fanout.judge(0, stalled.now_ms), Verdict::Keep, "a task tells");
        assert_eq!(stalled.run_tasks(), [(0, Verdict::Disconnect(Bound::OwedMs))]);
        stalled.fanout.check();
    }
}

/// Beyond 64, gaps are not told one by one. Judging once must be enough, and quick.
#[test]
fn a_connection_is_moved_forward_in_5_000_topics_at_once() {
    const TOPICS: u64 = 5_000;
    let mut stalled = Stalled::new(TOPICS * FRAME_BYTES, None);
    for topic in 0..TOPICS {
        stalled.subscribe(0, &format!("skip/{topic}"));
        assert_eq!(stalled.publish(&format!("skip/{topic}"), 1), None);
    }
    assert_eq!(stalled.publish("skip/0", 1), Some(Verdict::Skip(Bound::OwedBytes)));
    assert_eq!(stalled.owed_bytes(0), TOPICS / 2 * FRAME_BYTES);
    assert_eq!(stalled.fanout.skipped_total(), TOPICS / 2 + 1);
    let (gaps, resync) = stalled.fanout.take_gaps(0).unwrap();
    assert_eq!((gaps.len(), resync.as_deref()), (GAPS_MAX, Some("#")));
}

/// What a connection is owed in many topics is summed up though each visit sees only one of them.
#[test]
fn a_bound_is_kept_whatever_topics_grow_while_nothing_is_taken() {
    const BOUND: u64 = 1_000 * FRAME_BYTES;
    let mut stalled = Stalled::new(BOUND, None);
    for topic in 0..500 {
        stalled.subscribe(0, &format!("skip/{topic}"));
    }
    for round in 0..10_000u64 {
        // Some topics grow often, most seldom.
        let topic = if round % 3 == 0 { round * 7 % 500 } else { round % 2 };
        stalled.publish(&format!("skip/{topic}"), 1);
        assert!(stalled.owed_bytes(0) <= BOUND + BOUND / 16);
    }
}

/// What was appended before is chosen, and is moved only out of that; whoever has no send in flight is not
/// chosen, however old what it is owed.
#[test]
fn whoever_keeps_the_oldest_of_a_full_log_is_chosen() {
    let mut stalled = Stalled::new(u64::MAX, None);
    stalled.subscribe(0, "skip/old");
    stalled.subscribe(1, "old");
    stalled.publish("skip/old", 2);
    stalled.publish("old", 1);
    let clock = stalled.budget.clock() + 1;
    drop(stalled.pool.acquire(100, 0));
    stalled.subscribe(2, "skip/young");
    stalled.subscribe(3, "young");
    stalled.publish("skip/old", 2);
    stalled.publish("skip/young", 1);
    stalled.publish("young", 1);
    stalled.fanout.shed(clock);
    let skipped = (0, Verdict::Skip(Bound::LogBytes));
    let closed = (1, Verdict::Disconnect(Bound::LogBytes));
    assert_eq!(stalled.run_tasks(), [skipped, closed]);
    assert_eq!(stalled.gaps(0), [("skip/old".into(), 1, 2)]);
    assert_eq!(stalled.owed_bytes(0), 2 * FRAME_BYTES);
    stalled.fanout.handle_disconnect(1, &mut Outcome::default());
    stalled.fanout.shed(clock);
    assert_eq!(stalled.run_tasks(), []);
}

/// A publication of this very moment, in a chunk that was begun long ago.
#[test]
fn who_was_owed_nothing_a_moment_ago_is_not_chosen() {
    let mut stalled = Stalled::new(u64::MAX, None);
    stalled.subscribe(0, "cold");
    let mut shared = stalled.pool.acquire(4_096, 0);
    for _ in 0..1_000 {
        let other = stalled.pool.acquire(64, 0);
        stalled.pool.retire(other);
    }
    stalled.publish_into("cold", &mut shared);
    stalled.visit();
    stalled.pool.retire(shared);
    let clock = stalled.budget.clock();
    stalled.fanout.shed(clock);
    assert_eq!(stalled.run_tasks(), [], "the content is young, however old its chunk");
    stalled.fanout.shed(clock + 1);
    assert_eq!(stalled.run_tasks(), [(0, Verdict::Disconnect(Bound::LogBytes))]);
}

#[test]
fn the_budget_knows_what_refers_to_the_log() {
    let mut stalled = Stalled::new(u64::MAX, None);
    stalled.subscribe(0, "a");
    stalled.publish("a", 100);
    stalled.fanout.charge();
    let index_bytes: usize = stalled.fanout.views.iter().map(|(_, view)| view.index_bytes()).sum();
    assert!(index_bytes > 0);
    assert_eq!(stalled.budget.charged_bytes(), index_bytes);
    stalled.fanout.handle_disconnect(0, &mut Outcome::default());
    stalled.run_tasks();
    stalled.fanout.charge();
    assert_eq!(stalled.budget.charged_bytes(), 0);
}

/// Old content in a chunk that is still written: letting go of it frees nothing.
#[test]
fn a_chunk_that_is_still_written_is_not_freed_by_closing_anybody() {
    let mut stalled = Stalled::new(u64::MAX, None);
    stalled.subscribe(0, "cold");
    let mut shared = stalled.pool.acquire(4_096, 0);
    stalled.publish_into("cold", &mut shared);
    stalled.visit();
    stalled.fanout.shed(u64::MAX);
    assert_eq!(stalled.run_tasks(), []);
    stalled.pool.retire(shared);
    stalled.fanout.shed(u64::MAX);
    assert_eq!(stalled.run_tasks(), [(0, Verdict::Disconnect(Bound::LogBytes))]);
}

/// Nobody has visited it yet: what it keeps is our doing.
#[test]
fn who_was_not_visited_is_not_chosen() {
    let mut stalled = Stalled::new(u64::MAX, None);
    stalled.subscribe(0, "cold");
    let mut shared = stalled.pool.acquire(4_096, 0);
    stalled.publish_into("cold", &mut shared);
    stalled.pool.retire(shared);
    stalled.fanout.shed(u64::MAX);
    assert_eq!(stalled.run_tasks(), []);
    stalled.visit();
    stalled.fanout.shed(u64::MAX);
    assert_eq!(stalled.run_tasks(), [(0, Verdict::Disconnect(Bound::LogBytes))]);
}

/// A connection in 1,000 topics goes, and then one that is in 20: each has its quantum in its turn, and what a turn
/// does is what it is given and a step more.
#[test]
fn a_long_task_ends_a_quantum_at_a_time_and_does_not_hold_up_a_short_one() {
    let mut stalled = Stalled::new(u64::MAX, None);
    for (connection, count) in [(0, 1_000), (1, 20)] {
        (0..count).for_each(|topic| stalled.subscribe(connection, &format!("{connection}/{topic}")));
    }
    let mut outcome = Outcome::default();
    assert!(!stalled.fanout.handle_disconnect(0, &mut outcome));
    assert!(!stalled.fanout.handle_disconnect(1, &mut outcome));
    let step_price = price::VIEW + price::SUBSCRIPTION + 2 * price::MEMBERSHIP + price::LOOK;
    // Much at once: the short one has as much of it as the long one, and ends.
    assert!(stalled.fanout.run_tasks(100 * UNIT, 0, &mut outcome));
    assert_eq!(outcome.departed, [1]);
    let mut turns = 0;
    let mut goes_on = true;
    while goes_on {
        stalled.fanout.take_work();
        goes_on = stalled.fanout.run_tasks(4 * UNIT, 0, &mut outcome);
        assert!(stalled.fanout.take_work() <= 4 * UNIT + step_price);
        turns += 1;
    }
    assert_eq!(outcome.departed, [1, 0]);
    assert!(turns > 100, "{turns} turns");
    stalled.fanout.check();
}

/// It joins once, and each filter is looked at.
#[test]
fn a_connection_joins_a_view_at_one_price_however_many_of_its_filters_match() {
    let price_of_joining = |filters: &[&str]| {
        let mut stalled = Stalled::new(u64::MAX, None);
        for filter in filters {
            let mut outcome = Outcome::default();
            let fanout = &mut stalled.fanout;
            let filter = Filter::parse(*filter).expect("a filter");
            fanout.handle_subscribe_filter(first(0), ENCODING, filter, None, &mut outcome).unwrap();
            let [(_, Request::AddFilter { registration, .. })] = outcome.requests[..] else {
                panic!("it is registered: {:?}", outcome.requests)
            };
            fanout.handle_filter_added(registration, &mut outcome);
        }
        stalled.fanout.take_work();
        let mut chunk = stalled.pool.acquire(FRAME_BYTES as usize, 0);
        stalled.publish_into("a/x", &mut chunk);
        stalled.pool.retire(chunk);
        assert_eq!(stalled.fanout.receiver_count("a/x"), 1);
        stalled.fanout.take_work()
    };
    let one = price_of_joining(&["#"]);
    // Nodes that the name visits besides the root: `a`, `+`, `a/+` and `a/x`.
    let five = price_of_joining(&["#", "a/#", "+/#", "a/+", "a/x/#"]);
    assert_eq!(five - one, 4 * (price::MATCH + price::HOLDER));
}

/// What is saved by waiting is in proportion to the members.
#[test]
fn a_topic_waits_for_its_next_sweep_by_its_members() {
    const DELAY_NS: u64 = 120_000;
    for (member_count, delay_ns) in [(1, 50_000), (2, 100_000), (3, DELAY_NS)] {
        let mut stalled = Stalled::new(u64::MAX, None);
        (0..member_count).for_each(|connection| stalled.subscribe(connection, "t"));
        stalled.publish("t", 1);
        let mut chunk = stalled.pool.acquire(FRAME_BYTES as usize, 0);
        stalled.publish_paced("t", &mut chunk, DELAY_NS);
        let began_ns = u64::from(stalled.now_ms) * 1_000_000;
        assert_eq!(stalled.fanout.next_sweep_ns(), Some(began_ns + delay_ns));
        stalled.pool.retire(chunk);
    }
}

/// It takes a subscription back and subscribes again before the home has answered; then it goes, which takes more than a
/// turn, and the home refuses.
#[test]
fn who_is_going_does_not_subscribe_again() {
    let mut stalled = Stalled::new(u64::MAX, None);
    let mut outcome = Outcome::default();
    let fanout = &mut stalled.fanout;
    let topic = TopicName::checked("new");
    fanout.handle_subscribe_topic(first(0), wanted(topic, Some(PendingId(1))), &mut outcome).unwrap();
    fanout.handle_unsubscribe(0, ENCODING, "new", PendingId(2), &mut outcome).unwrap();
    fanout.handle_subscribe_topic(first(0), wanted(topic, Some(PendingId(3))), &mut outcome).unwrap();
    assert!(fanout.is_unsubscribing(0), "what else it asks has to wait");
    (0..20).for_each(|topic| stalled.subscribe(0, &topic.to_string()));
    assert!(!stalled.fanout.handle_disconnect(0, &mut outcome));
    stalled.fanout.handle_subscribed("new", ENCODING, Err(TopicRefusal::TopicsMax), &mut outcome);
    let answered: Vec<_> = outcome.started.iter().map(|started| started.pending).collect();
    assert_eq!(answered, [Some(PendingId(1)), Some(PendingId(3))], "the mark is on its way");
    stalled.run_tasks();
    stalled.fanout.handle_marked("new", ENCODING, first(0), PendingId(2), &mut outcome);
    assert_eq!(outcome.started.pop().and_then(|started| started.pending), Some(PendingId(2)));
    stalled.fanout.check();
    assert!(stalled.fanout.is_empty());
}

//! Publishing and subscribing without connections: what a guest of the mesh knows and decides.
//!
//! A guest is at a port behind those of the reactors ([`crate::channel::Mesh`]). It asks homes what a reactor asks them, and
//! has a fan-out of its own; whom that serves are [listeners](ListenerId), which take what they are owed when they like. What
//! a listener does not take is let go of beyond [`OWED_BYTES_MAX`], and it is told so. No home waits for a guest: batches that
//! it did not take in time are gone as well. Then all of its listeners are closed, and begin again as whoever lost a connection.

use std::sync::Arc;

use super::{
    carrier::Carrier,
    desk::Shared,
    exchange::{Exchange, ReactorPort},
    pending::Placing,
};
use crate::{
    channel::GUEST_ENTRIES,
    protocol::{
        Encoding,
        command::PayloadKind,
        topic::{Filter, TopicName},
    },
    pubsub::{
        fanout::{Fanout, Outcome},
        home::{Draft, Homes, PublishRefusal, TopicRefusal},
        log::Budget,
        message::{Carried, Delivery, PendingId, PendingPublish, PublishRequest, Request, Shape},
        policy::Policy,
        subscription::{ConnectionId, Gap, Refused, Started, Subscribed, Unsubscribed, ViewKey, Wanted},
        view::{MemberSlot, Owed},
    },
    work::{UNIT, price},
};

/// The most listeners at a time.
pub const LISTENERS_MAX: usize = if cfg!(test) { 4 } else { 32 };
/// The most subscriptions of a listener.
pub const SUBSCRIPTIONS_MAX: usize = if cfg!(test) { 8 } else { 64 };
/// The most publications that wait for an answer, and the most questions of listeners that do: these may wait until a
/// listener takes what it is owed.
pub const QUESTIONS_MAX: usize = if cfg!(test) { 8 } else { 1_024 };
/// The most that a listener is owed, in bytes, before it is moved forward.
pub const OWED_BYTES_MAX: u64 = if cfg!(test) { 4 << 10 } else { 1 << 20 };
/// The most that one take takes, in bytes; one record may be longer.
const TAKEN_BYTES_MAX: u32 = if cfg!(test) { 1 << 10 } else { 256 << 10 };
/// The work of one turn in each of its parts, as a price.
const PART: u64 = if cfg!(test) { 4 * UNIT } else { 100 * UNIT };
/// How often views that went quiet are looked for, in nanoseconds.
const PERIOD_NS: u64 = 250_000_000;
/// How often log that only listeners keep is looked for while the log is short, in nanoseconds.
const SHED_PERIOD_NS: u64 = 2_000_000;
/// Topics that a guest makes nobody answers for.
const CREATOR: u32 = 0;
/// What guests are told publications in: records are whole text messages of the plain JSON wire.
pub const ENCODING: Encoding = Encoding::Json;

/// One guest.
///
/// [`Guest::turn`] is to be called when the port has something, when something was asked, and as long as it tells that there
/// is more to do. It puts into [`Guest::answers`], [`Guest::ready`] and [`Guest::closed`] what came of that; so does asking.
#[derive(Debug)]
pub struct Guest {
    exchange: Exchange,
    fanout: Fanout,
    carrier: Carrier,
    homes: Homes,
    budget: Arc<Budget>,
    plus_levels_max: usize,
    questions: slab::Slab<Question>,
    /// How many of them are publications.
    publication_count: usize,
    listeners: Vec<Listener>,
    /// Slots of listeners that are closed, and in nothing any more.
    free: Vec<u32>,
    outcome: Outcome,
    turns_total: u64,
    now_ns: u64,
    period_ns: u64,
    shed_ns: u64,
    /// It was overrun: what its views take for the newest may be old, so nobody subscribes until all of them are gone.
    is_beginning_again: bool,
    /// Questions that have their answers, to be taken by the owner.
    pub answers: Vec<(PendingId, Answer)>,
    /// Listeners that were closed because the guest was overrun, to be taken by the owner.
    pub closed: Vec<ListenerId>,
    /// Listeners that have something to take, each once until it has taken all, to be taken by the owner.
    pub ready: Vec<ListenerId>,
}

/// A listener, for as long as it is open.
pub type ListenerId = ConnectionId;

/// What a question came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The publication has its place; and so many subscribers had it to come, if that was asked.
    Published {
        /// Its place.
        seq: u64,
        /// How many connections receive it; listeners are none.
        receivers: Option<u64>,
    },
    /// The subscription has started: what follows `seq`, which a filter with wildcards has none of.
    Subscribed {
        /// The topic's newest publication.
        seq: Option<u64>,
    },
    /// The subscription is over. What the listener was to be told to have missed until then is told with it, since it may be
    /// of what it has left.
    Unsubscribed(Missed),
    /// The topic was to be made, and there are too many.
    Refused(TopicRefusal),
    /// The listener has this subscription already.
    AlreadySubscribed,
    /// The listener has no such subscription.
    NotSubscribed,
    /// The listener was closed meanwhile.
    Closed,
}

/// Why nothing was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAsked {
    /// As many publications wait for answers as may, or as many questions of listeners.
    Questions,
    /// A home has no room for more, or the log: it may have soon.
    Homes,
    /// The listener has as many subscriptions as one may have.
    Subscriptions,
    /// The filter has `+`, and more levels than one with it may have (`limits.plus_levels_max` at the start): each doubles
    /// what homes look at.
    Levels,
    /// The listener is closed.
    Closed,
}

/// Publications that a listener will not get, of what it did not take in time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missed {
    /// By topic.
    pub gaps: Vec<Gap>,
    /// So many topics had gaps that they are not listed: those that match have some.
    pub resync: Option<Arc<str>>,
}

#[derive(Debug)]
enum Question {
    Publish(Placing),
    Subscribe(ListenerId),
    Unsubscribe(ListenerId),
}

#[derive(Debug)]
struct Listener {
    generation: u32,
    is_open: bool,
    /// It is among those that have something to take.
    is_ready: bool,
}

impl Question {
    fn is_publication(&self) -> bool {
        matches!(self, Question::Publish(_))
    }
}

impl Guest {
    /// The guest whose end of the queues `port` is.
    pub fn new(port: ReactorPort, shared: &Shared) -> Guest {
        let (homes, budget) = (shared.homes.clone(), shared.budget.clone());
        let views_max = LISTENERS_MAX * SUBSCRIPTIONS_MAX;
        Guest {
            exchange: Exchange::new(port, homes.count()),
            fanout: Fanout::new(
                homes.clone(),
                Policy::skipping(OWED_BYTES_MAX),
                views_max,
                LISTENERS_MAX,
                budget.clone(),
            ),
            carrier: Carrier::new(budget.clone(), homes.count()),
            homes,
            budget,
            plus_levels_max: shared.config.limits.plus_levels_max,
            questions: slab::Slab::new(),
            publication_count: 0,
            listeners: Vec::new(),
            free: Vec::new(),
            outcome: Outcome::default(),
            turns_total: 0,
            now_ns: 0,
            period_ns: 0,
            shed_ns: 0,
            is_beginning_again: false,
            answers: Vec::new(),
            closed: Vec::new(),
            ready: Vec::new(),
        }
    }

    /// Asks for a publication; answered with [`Answer::Published`] or [`Answer::Refused`].
    ///
    /// # Errors
    /// [`NotAsked`]: nothing was published.
    pub fn publish(
        &mut self,
        topic: TopicName<&str>,
        payload: &[u8],
        kind: PayloadKind,
        receivers: bool,
    ) -> Result<PendingId, NotAsked> {
        if self.budget.is_full() || self.carrier.is_full() {
            return Err(NotAsked::Homes);
        }
        let question = self.ask(Question::Publish(Placing::new(receivers)))?;
        let carried = Carried { topic, draft: Draft::anonymous(payload, kind), key: None, retain: false };
        let publish = PublishRequest {
            bytes: self.carrier.carry(carried.parts()),
            shape: Shape::of(&carried),
            connection: ConnectionId { slot: 0, generation: 0 },
            pending: Some(PendingPublish { id: question, receivers }),
            creator: CREATOR,
        };
        self.exchange.request(self.homes.of(topic), Request::Publish(publish));
        Ok(question)
    }

    /// A new listener, without subscriptions; none while there are [`LISTENERS_MAX`].
    pub fn open(&mut self) -> Option<ListenerId> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.listeners.len() < LISTENERS_MAX => {
                let fresh = Listener { generation: 0, is_open: false, is_ready: false };
                self.listeners.push(fresh);
                self.listeners.len() as u32 - 1
            }
            None => return None,
        };
        let listener = &mut self.listeners[slot as usize];
        let generation = listener.generation.wrapping_add(1);
        *listener = Listener { generation, is_open: true, is_ready: false };
        Some(ListenerId { slot, generation })
    }

    /// The listener takes nothing more, and its subscriptions are over.
    pub fn close(&mut self, id: ListenerId) {
        if self.is_open(id) {
            self.listeners[id.slot as usize].is_open = false;
            if self.fanout.handle_disconnect(id.slot, &mut self.outcome) {
                self.free.push(id.slot);
            }
            self.work_off();
        }
    }

    /// Subscribes the listener to a topic or a filter; answered with [`Answer::Subscribed`], [`Answer::AlreadySubscribed`] or
    /// [`Answer::Refused`].
    ///
    /// # Errors
    /// [`NotAsked`]: nothing was asked.
    pub fn subscribe(&mut self, id: ListenerId, filter: Filter<&str>) -> Result<PendingId, NotAsked> {
        if !self.is_open(id) || self.fanout.is_unsubscribing(id.slot) {
            return Err(if self.is_open(id) { NotAsked::Questions } else { NotAsked::Closed });
        }
        if self.is_beginning_again {
            return Err(NotAsked::Homes);
        }
        if self.fanout.subscriptions_of(id.slot) >= SUBSCRIPTIONS_MAX {
            return Err(NotAsked::Subscriptions);
        }
        if filter.has_plus() && filter.level_count() > self.plus_levels_max {
            return Err(NotAsked::Levels);
        }
        let question = self.ask(Question::Subscribe(id))?;
        let (outcome, asked) = (&mut self.outcome, Some(question));
        let subscribed = match filter.as_topic() {
            Some(topic) => self.fanout.handle_subscribe_topic(
                id,
                Wanted { topic, encoding: ENCODING, past: None, pending: asked, creator: CREATOR },
                outcome,
            ),
            None => self.fanout.handle_subscribe_filter(id, ENCODING, filter, asked, outcome),
        };
        match subscribed {
            Ok(Subscribed::Later) => {}
            Ok(Subscribed::Now(seq)) => self.answer(question, Answer::Subscribed { seq }),
            Err(_) => self.answer(question, Answer::AlreadySubscribed),
        }
        self.work_off();
        Ok(question)
    }

    /// Takes a subscription back; answered with [`Answer::NotSubscribed`], or, when the listener has taken what it is owed
    /// of it, with [`Answer::Unsubscribed`], behind which nothing comes of it.
    ///
    /// # Errors
    /// [`NotAsked`]: nothing was asked.
    pub fn unsubscribe(&mut self, id: ListenerId, filter: Filter<&str>) -> Result<PendingId, NotAsked> {
        if !self.is_open(id) || self.fanout.is_unsubscribing(id.slot) {
            return Err(if self.is_open(id) { NotAsked::Questions } else { NotAsked::Closed });
        }
        let question = self.ask(Question::Unsubscribe(id))?;
        let outcome = &mut self.outcome;
        match self.fanout.handle_unsubscribe(id.slot, ENCODING, filter.as_str(), question, outcome) {
            Ok(Unsubscribed::Later) => {}
            Ok(Unsubscribed::Now) => {
                let missed = self.missed(id.slot);
                self.answer(question, Answer::Unsubscribed(missed));
            }
            Err(Refused::NotSubscribed | Refused::Busy) => self.answer(question, Answer::NotSubscribed),
        }
        self.work_off();
        Ok(question)
    }

    /// Takes what the listener is owed, or a part of it: the records are added to `records`, and what it missed before them
    /// is told. None: it is owed nothing, and will be among [`Guest::ready`] when it is again; or it is closed.
    pub fn take(&mut self, id: ListenerId, records: &mut Vec<u8>) -> Option<Missed> {
        if !self.is_open(id) {
            return None;
        }
        let missed = self.missed(id.slot);
        let begun = records.len();
        while records.len() - begun < TAKEN_BYTES_MAX as usize
            && let Some((view, member)) = self.fanout.pop_owing(id.slot)
        {
            self.take_from(id.slot, view, member, begun, records);
        }
        self.work_off();
        if records.len() == begun && missed == Missed::default() {
            self.listeners[id.slot as usize].is_ready = false;
            return None;
        }
        Some(missed)
    }

    fn missed(&mut self, slot: u32) -> Missed {
        let (gaps, resync) = self.fanout.take_gaps(slot).unwrap_or_default();
        Missed { gaps, resync }
    }

    fn take_from(
        &mut self,
        slot: u32,
        view: ViewKey,
        member: MemberSlot,
        begun: usize,
        records: &mut Vec<u8>,
    ) {
        let is_ending = self.fanout.is_ending(slot);
        while let Some(left) =
            TAKEN_BYTES_MAX.checked_sub((records.len() - begun) as u32).filter(|left| *left > 0)
            && let Some(Owed { bytes, len, pin }) = self.fanout.take(view, member, left)
        {
            // SAFETY: the view keeps the range where it is, and unwritten, until it is unpinned, which is behind the copy.
            records.extend_from_slice(unsafe { std::slice::from_raw_parts(bytes, len as usize) });
            self.fanout.unpin(view, pin);
        }
        let has_left = is_ending && self.fanout.note_sent(view, member, &mut self.outcome);
        if !has_left && self.fanout.is_behind(view, member) {
            self.fanout.mark_owing(view, member);
        }
    }

    /// Takes what homes say, finds who is owed something, does what goes on over turns, and asks what is to be asked.
    /// `wakes` gets the reactors whose ring must be woken. Tells whether there is more to do at once.
    pub fn turn(&mut self, now_ns: u64, wakes: &mut Vec<usize>) -> bool {
        self.now_ns = now_ns;
        self.turns_total += 1;
        if now_ns - self.period_ns >= PERIOD_NS {
            self.period_ns = now_ns;
            self.fanout.handle_period(now_ns);
            self.carrier.trim();
        }
        if self.carrier.is_full() {
            self.carrier.release_free();
        }
        if self.budget.is_short() && now_ns - self.shed_ns >= SHED_PERIOD_NS {
            self.shed_ns = now_ns;
            self.carrier.release_free();
            self.fanout.shed(self.budget.stale_before());
        }
        let has_more = self.receive();
        self.sweep();
        self.fanout.run_tasks(PART, self.now_ms(), &mut self.outcome);
        self.work_off();
        self.is_beginning_again &= self.fanout.view_count() > 0;
        self.fanout.charge();
        self.fanout.take_work();
        self.exchange.post(wakes);
        has_more || self.fanout.is_sweeping() || self.fanout.has_tasks()
    }

    /// Tells reactors that the guest goes to sleep; false if it must not: there is something to take. To be followed by
    /// [`Guest::announce_awake`], and by another turn when a reactor wakes it, or as soon as [`Guest::is_posted`] says.
    pub fn announce_sleep(&mut self) -> bool {
        self.exchange.announce_sleep(false)
    }

    /// Tells them that it is awake.
    pub fn announce_awake(&mut self) {
        self.exchange.announce_awake();
    }

    /// Whether everything that was asked is in the queues of reactors; else another turn is to try again soon.
    pub fn is_posted(&self) -> bool {
        self.exchange.is_posted()
    }

    /// Whether some listener has not taken all: its log may have to be let go of soon.
    pub fn is_behind(&self) -> bool {
        self.fanout.behind_count() > 0
    }

    fn now_ms(&self) -> u32 {
        (self.now_ns / 1_000_000) as u32
    }

    fn is_open(&self, id: ListenerId) -> bool {
        let listener = self.listeners.get(id.slot as usize);
        listener.is_some_and(|it| it.is_open && it.generation == id.generation)
    }

    fn ask(&mut self, question: Question) -> Result<PendingId, NotAsked> {
        if self.exchange.is_backlogged() {
            return Err(NotAsked::Homes);
        }
        let is_publication = question.is_publication();
        let listeners_count = self.questions.len() - self.publication_count;
        if (if is_publication { self.publication_count } else { listeners_count }) >= QUESTIONS_MAX {
            return Err(NotAsked::Questions);
        }
        self.publication_count += usize::from(is_publication);
        Ok(PendingId(self.questions.insert(question) as u32))
    }

    fn answer(&mut self, question: PendingId, answer: Answer) {
        let answered = self.questions.remove(question.0 as usize);
        self.publication_count -= usize::from(answered.is_publication());
        self.answers.push((question, answer));
    }

    /// Takes what homes say, as far as a part of a turn goes; tells whether there is more.
    fn receive(&mut self) -> bool {
        let senders = self.exchange.senders(self.turns_total);
        let until = self.fanout.work() + PART;
        for from in senders.iter() {
            let mut received = 0;
            while let Some(delivery) = self.exchange.receive_delivery(from) {
                received += 1;
                if received == GUEST_ENTRIES {
                    // More may wait there for room, and its reactor sleep.
                    self.exchange.touch(from);
                }
                self.handle_delivery(delivery);
                if self.fanout.work() >= until {
                    return true;
                }
            }
            // Nobody asks a guest: the queue is looked into so that its sender is forgotten.
            let asked = self.exchange.receive_request(from);
            assert!(asked.is_none(), "a guest is no home");
        }
        false
    }

    fn handle_delivery(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Batch(batch) => self.fanout.handle_batch(batch, self.now_ns, 0),
            Delivery::Subscribed { topic, encoding, seq } => {
                self.fanout.handle_subscribed(&topic, encoding, seq, &mut self.outcome);
            }
            Delivery::Marked { topic, encoding, connection, pending } => {
                self.fanout.handle_marked(&topic, encoding, connection, pending, &mut self.outcome);
            }
            Delivery::FilterAdded { registration } => {
                self.fanout.handle_filter_added(registration, &mut self.outcome);
            }
            Delivery::Published { pending, placed, counts } => {
                self.placing(pending).note_published(placed, counts);
                self.answer_publish(pending);
            }
            Delivery::Refused(publish, refusal) => {
                let question = publish.pending.expect("a guest waits for every answer").id;
                let PublishRefusal::Topic(refusal) = refusal else {
                    unreachable!("a guest gives no keys, and wants nothing retained")
                };
                self.answer(question, Answer::Refused(refusal));
            }
            Delivery::Counted { pending, receivers } => {
                self.placing(pending).note_counted(receivers);
                self.answer_publish(pending);
            }
            Delivery::Overrun => self.handle_overrun(),
            Delivery::Count { .. } => unreachable!("nobody counts a guest's listeners"),
            Delivery::Page(_) | Delivery::Past(_) | Delivery::Toured(_) => {
                unreachable!("a guest asks for no past")
            }
        }
        self.work_off();
    }

    fn placing(&mut self, question: PendingId) -> &mut Placing {
        match &mut self.questions[question.0 as usize] {
            Question::Publish(placing) => placing,
            other => unreachable!("a publication's answer comes to {other:?}"),
        }
    }

    fn answer_publish(&mut self, question: PendingId) {
        if let Some((placed, receivers)) = self.placing(question).placed() {
            self.answer(question, Answer::Published { seq: placed.seq, receivers });
        }
    }

    fn handle_overrun(&mut self) {
        self.is_beginning_again = true;
        for slot in 0..self.listeners.len() as u32 {
            let Listener { generation, is_open, .. } = self.listeners[slot as usize];
            if is_open {
                let id = ListenerId { slot, generation };
                self.close(id);
                self.closed.push(id);
            }
        }
    }

    /// Finds who is behind: owed, until it takes that.
    fn sweep(&mut self) {
        self.fanout.start_due_sweeps(self.now_ns, PART);
        let mut visits = (PART / price::VISIT) as u32;
        while visits > 0
            && let Some(view) = self.fanout.take_sweeping()
        {
            while let Some((slot, member)) = self.fanout.next_visit(view, &mut visits) {
                if self.fanout.mark_owing(view, member) {
                    // All topics may skip: what is too much is gaps now.
                    self.fanout.judge(slot, self.now_ms());
                }
                self.note_ready(slot);
            }
            self.fanout.put_back(view, self.now_ns, 0);
        }
    }

    /// Asserts what holds while it sleeps: nothing waits for it.
    #[cfg(test)]
    pub fn check_asleep(&self) {
        assert!(self.exchange.is_drained(false), "the guest sleeps on its inbox");
    }

    /// Asserts the invariants; and how many bounds allow.
    #[cfg(test)]
    pub fn check(&self) {
        self.fanout.check();
        self.exchange.check_guest();
        let publication_count = self.questions.iter().filter(|(_, it)| it.is_publication()).count();
        assert_eq!(self.publication_count, publication_count);
        assert!(publication_count.max(self.questions.len() - publication_count) <= QUESTIONS_MAX);
        for (slot, listener) in (0..).zip(&self.listeners).filter(|(_, it)| it.is_open) {
            assert!(
                !self.fanout.is_owing(slot) || listener.is_ready,
                "listener {slot} has something, and is not told"
            );
        }
    }

    /// Whether a listener can be opened; for tests.
    #[cfg(test)]
    pub fn has_room(&self) -> bool {
        !self.free.is_empty() || self.listeners.len() < LISTENERS_MAX
    }

    /// How many topics it has views of; for tests.
    #[cfg(test)]
    pub fn view_count(&self) -> usize {
        self.fanout.view_count()
    }

    /// Whether nothing is kept for anybody; for tests.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.questions.is_empty() && self.fanout.is_empty() && self.exchange.is_posted()
    }

    fn note_ready(&mut self, slot: u32) {
        let listener = &mut self.listeners[slot as usize];
        if listener.is_open && !std::mem::replace(&mut listener.is_ready, true) {
            self.ready.push(ListenerId { slot, generation: listener.generation });
        }
    }

    /// Works off what the fan-out asks for.
    fn work_off(&mut self) {
        while !self.outcome.is_empty() {
            let mut outcome = std::mem::take(&mut self.outcome);
            for (home, request) in outcome.requests.drain(..) {
                self.exchange.request(home, request);
            }
            for Started { pending, seq, refusal, .. } in outcome.started.drain(..) {
                let Some(question) = pending else { continue };
                let answer = match (&self.questions[question.0 as usize], refusal) {
                    (&Question::Subscribe(id) | &Question::Unsubscribe(id), _) if !self.is_open(id) => {
                        Answer::Closed
                    }
                    (_, Some(refusal)) => Answer::Refused(refusal),
                    (&Question::Unsubscribe(id), None) => Answer::Unsubscribed(self.missed(id.slot)),
                    (_, None) => Answer::Subscribed { seq },
                };
                self.answer(question, answer);
            }
            self.free.append(&mut outcome.departed);
            // Who was told that it is unsubscribing asks again; who was moved forward is told when it takes.
            outcome.released.clear();
            outcome.judged.clear();
            if self.outcome.is_empty() {
                self.outcome = outcome;
            }
        }
    }
}

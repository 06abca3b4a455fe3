//! Unsubscribing by name, in order with what the connection published before.
//!
//! A mark goes to the topic's home behind those publications, and comes back behind their batches. What the view
//! holds then the member is still sent, or told that it will not get; then it leaves, and is answered. Until then its
//! subscription is *ending*.

use super::{Fanout, Outcome};
use crate::{
    protocol::{Encoding, topic::TopicName},
    pubsub::{
        message::{PageFrom, PendingId, Request},
        subscription::{ConnectionId, Started, Subscribed, ViewKey, Wanted},
        table::Table,
        view::MemberSlot,
    },
    work::price,
};

/// So many subscriptions of a connection are ending at most: its further commands wait.
pub(super) const ENDINGS_MAX: usize = if cfg!(test) { 3 } else { 1_024 };

/// A connection's subscriptions that are ending.
#[derive(Debug, Default)]
pub(super) struct Endings {
    by_view: Table<ViewKey, Ending>,
    /// Of how many the mark has come back.
    marked_count: usize,
    again: Option<Again>,
}

#[derive(Clone, Copy, Debug)]
struct Ending {
    pending: PendingId,
    /// Up to where the member is to be sent the view's log, in bytes that were ever appended: known when the mark has
    /// come back.
    until_bytes: Option<u64>,
}

/// It subscribes to one of those topics again, which begins when it has left: its further commands wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Again {
    view: ViewKey,
    past: Option<PageFrom>,
    pub(super) pending: Option<PendingId>,
    creator: u32,
}

impl Endings {
    /// Whether one ends when its connection has been sent enough.
    pub(super) fn is_any_marked(&self) -> bool {
        self.marked_count > 0
    }

    /// Whether the connection's further commands wait.
    pub(super) fn is_full(&self) -> bool {
        self.again.is_some() || self.by_view.len() >= ENDINGS_MAX
    }

    /// Whether the connection subscribes to this one again when it has left.
    pub(super) fn is_again(&self, view: ViewKey) -> bool {
        self.again.is_some_and(|again| again.view == view)
    }

    /// Asserts the invariants; for tests and simulations. `count`: how many subscriptions say that they are ending.
    pub(super) fn check(&self, count: usize) {
        assert_eq!(self.by_view.len(), count, "an ending is recorded twice, alike");
        assert!(self.marked_count <= count);
        assert!(self.again.is_none_or(|again| self.by_view.get(&again.view).is_some()));
    }
}

impl Fanout {
    /// The subscription at `place` is ending.
    pub(super) fn begin_ending(
        &mut self,
        connection: u32,
        place: u32,
        pending: PendingId,
        outcome: &mut Outcome,
    ) {
        let subscriber = &mut self.subscribers[connection as usize];
        let held = subscriber.get_mut(place);
        held.set_ending(true);
        let key = held.view;
        let id = subscriber.id(connection);
        let endings = subscriber.rare.get_or_insert_default().endings.get_or_insert_default();
        endings.by_view.insert(key, Ending { pending, until_bytes: None });
        let view = &self.views[key as usize];
        let (topic, encoding) = (view.name.clone(), view.encoding());
        let home = self.homes.of(view.topic());
        outcome.requests.push((home, Request::Mark { topic, encoding, connection: id, pending }));
    }

    /// The connection subscribes to a topic that it is still leaving.
    pub(super) fn begin_after_ending(
        &mut self,
        connection: u32,
        view: ViewKey,
        past: Option<PageFrom>,
        pending: Option<PendingId>,
        creator: u32,
    ) {
        let rare = self.subscribers[connection as usize].rare.as_mut();
        let endings = rare.and_then(|rare| rare.endings.as_mut()).expect("an ending is recorded twice");
        let before = endings.again.replace(Again { view, past, pending, creator });
        assert!(before.is_none(), "the commands of whoever subscribes again wait");
    }

    /// A mark has come back from the topic's home. Whoever sent it may be gone; else it leaves as soon as it was sent
    /// what the view holds now.
    pub fn handle_marked(
        &mut self,
        topic: &str,
        encoding: Encoding,
        ConnectionId { slot: connection, generation }: ConnectionId,
        pending: PendingId,
        outcome: &mut Outcome,
    ) {
        self.work += price::SUBSCRIPTION;
        let subscriber = self.subscribers.get_mut(connection as usize);
        let endings = subscriber
            .filter(|subscriber| subscriber.generation == generation)
            .and_then(|subscriber| subscriber.rare.as_mut()?.endings.as_mut());
        let key = self.by_name[encoding.index()].get(topic);
        let ending = key.and_then(|key| Some((key, endings?)));
        // Another's may have begun where the subscription was refused.
        let ending =
            ending.filter(|(key, endings)| endings.by_view.get(key).is_some_and(|it| it.pending == pending));
        let Some((key, endings)) = ending else {
            return outcome.started.push(Started::at(Some(pending), None));
        };
        let until_bytes = Some(self.views[key as usize].head_bytes());
        endings.by_view.insert(key, Ending { pending, until_bytes });
        endings.marked_count += 1;
        self.end_if_sent(connection, key, outcome);
    }

    /// Whether one of the connection's subscriptions ends when it has been sent enough: see [`Fanout::note_sent`].
    #[inline]
    pub fn is_ending(&self, connection: u32) -> bool {
        let rare = self.subscribers.get(connection as usize).and_then(|subscriber| subscriber.rare.as_ref());
        rare.and_then(|rare| rare.endings.as_ref()).is_some_and(|endings| endings.is_any_marked())
    }

    /// The member in `slot` of a connection of which [`Fanout::is_ending`] tells that has been sent something. Tells
    /// whether it has left, since that was all: then its place may be another's.
    pub fn note_sent(&mut self, key: ViewKey, slot: MemberSlot, outcome: &mut Outcome) -> bool {
        let connection = self.views[key as usize].member(slot).connection;
        self.end_if_sent(connection, key, outcome)
    }

    /// The last of a topic's past has been sent to the connection, and what is live behind it as far as it went: that may
    /// be what its subscription waits for if it is ending.
    pub fn note_past_sent(&mut self, connection: u32, key: ViewKey, outcome: &mut Outcome) {
        let subscriber = &self.subscribers[connection as usize];
        // Else it has left by what was live.
        if !subscriber.is_leaving() && subscriber.find(key).is_some() {
            self.end_if_sent(connection, key, outcome);
        }
    }

    fn end_if_sent(&mut self, connection: u32, key: ViewKey, outcome: &mut Outcome) -> bool {
        let subscriber = &mut self.subscribers[connection as usize];
        let place = subscriber.find(key).expect("whoever is sent something is subscribed to it");
        let held = subscriber.get(place);
        let endings = subscriber.rare.as_ref().and_then(|rare| rare.endings.as_ref());
        let until_bytes = endings.and_then(|endings| endings.by_view.get(&key)?.until_bytes);
        let Some(until_bytes) = until_bytes else { return false };
        if held.is_urgent() {
            return false;
        }
        assert!(held.is_exact(), "a home answers what it is asked in order");
        self.views[key as usize].sent_bytes(held.member) >= until_bytes
            && self.end(connection, key, place, outcome)
    }

    /// Tells whether the member has left; else a filter holds it.
    fn end(&mut self, connection: u32, key: ViewKey, place: u32, outcome: &mut Outcome) -> bool {
        self.work += price::SUBSCRIPTION;
        let (topic, encoding) = (self.views[key as usize].name.clone(), self.views[key as usize].encoding());
        let again = self.forget_ending(connection, place, outcome);
        // A filter of the connection's that the view has not looked at yet may hold it there.
        self.join_matched(key);
        let held = self.subscribers[connection as usize].get_mut(place);
        let is_held = held.filter_count > 0;
        if is_held {
            held.set_exact(false);
            self.views[key as usize].set_exact(false);
        } else {
            self.leave(connection, place);
        }
        self.let_go(key, outcome);
        self.begin_again(connection, &topic, encoding, again, outcome);
        !is_held
    }

    /// The topic's home refused the subscription, which is ending: there is nothing to leave, and its mark is on its
    /// way.
    pub(super) fn end_refused(&mut self, connection: u32, key: ViewKey, place: u32, outcome: &mut Outcome) {
        let (topic, encoding) = (self.views[key as usize].name.clone(), self.views[key as usize].encoding());
        let again = self.forget_ending(connection, place, outcome);
        if self.subscribers[connection as usize].get(place).member == MemberSlot::NONE {
            self.remove_subscription(connection, place);
        }
        self.begin_again(connection, &topic, encoding, again, outcome);
    }

    /// The subscription at `place` is not ending any more. It is answered if its mark has come back; else when that
    /// does.
    pub(super) fn forget_ending(
        &mut self,
        connection: u32,
        place: u32,
        outcome: &mut Outcome,
    ) -> Option<Again> {
        let subscriber = &mut self.subscribers[connection as usize];
        let held = subscriber.get_mut(place);
        held.set_ending(false);
        let key = held.view;
        let rare = subscriber.rare.as_mut().expect("who is ending has the rare parts");
        let endings = rare.endings.as_mut().expect("likewise");
        let was_full = endings.is_full();
        let ending = endings.by_view.remove(&key).expect("an ending is recorded twice, alike");
        if ending.until_bytes.is_some() {
            endings.marked_count -= 1;
            outcome.started.push(Started::at(Some(ending.pending), None));
        }
        let again = endings.again.take_if(|again| again.view == key);
        if was_full && !endings.is_full() {
            outcome.released.push(connection);
        }
        if endings.by_view.is_empty() {
            rare.endings = None;
        }
        again
    }

    fn begin_again(
        &mut self,
        connection: u32,
        topic: &str,
        encoding: Encoding,
        again: Option<Again>,
        outcome: &mut Outcome,
    ) {
        let Some(Again { past, pending, creator, .. }) = again else { return };
        let subscriber = &self.subscribers[connection as usize];
        if subscriber.is_leaving() {
            return outcome.started.push(Started::at(pending, None));
        }
        let id = subscriber.id(connection);
        let topic = TopicName::checked(topic);
        match self.handle_subscribe_topic(id, Wanted { topic, encoding, past, pending, creator }, outcome) {
            Ok(Subscribed::Now(seq)) => outcome.started.push(Started::at(pending, seq)),
            Ok(Subscribed::Later) => {}
            // It has just left the topic, but for a filter: then it asks for the past of what it receives.
            Err(_) => outcome.again_refused.push(pending),
        }
    }
}

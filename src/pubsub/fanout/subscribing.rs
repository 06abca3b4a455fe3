//! Subscribing and unsubscribing, by name and by filter.

use std::sync::Arc;

use super::{
    Fanout, Outcome,
    filters::FilterKey,
    subscriber::{HeldFilter, LEAVING, UNSUBSCRIBING},
    tasks::Task,
};
use crate::{
    protocol::{
        Encoding,
        topic::{self, Filter},
    },
    pubsub::{
        home::TopicRefusal,
        message::{PageFrom, PendingId, RegistrationId, Request},
        subscription::{
            ConnectionId, Refused, Started, SubscribeRefused, Subscribed, Unsubscribed, ViewKey, Wanted,
        },
        view::{MemberSlot, Registration, Waiting},
    },
    work::price,
};

impl Fanout {
    /// Subscribes the connection to a topic.
    ///
    /// # Errors
    /// [`SubscribeRefused::Already`]: it has this subscription; or receives the topic, and asks for its past.
    pub fn handle_subscribe_topic(
        &mut self,
        id: ConnectionId,
        wanted: Wanted<'_>,
        outcome: &mut Outcome,
    ) -> Result<Subscribed, SubscribeRefused> {
        let Wanted { topic: name, encoding, mut past, pending, creator } = wanted;
        self.work += price::SUBSCRIPTION;
        let connection = self.open(id);
        if self.is_touring_any(connection, name.as_str()) {
            return Err(SubscribeRefused::Busy);
        }
        if past.is_some() && self.is_received_by_filter(connection, name) {
            // Whoever receives it has had its newest publications: it wants no value that it did not ask for.
            past = past.filter(|from| *from != PageFrom::Value);
            if past.is_some() {
                return Err(SubscribeRefused::Already);
            }
        }
        let key = match self.by_name[encoding.index()].get(name.as_str()) {
            Some(key) => key,
            None => self.create_view(name.as_str().into(), encoding),
        };
        let subscriber = &mut self.subscribers[connection as usize];
        let place = subscriber.find(key);
        let held = place.map(|place| subscriber.get(place));
        if held.is_some_and(|held| held.is_ending()) {
            self.begin_after_ending(connection, key, past, pending, creator);
            return Ok(Subscribed::Later);
        }
        past = past.filter(|from| held.is_none() || *from != PageFrom::Value);
        if held.is_some_and(|held| held.is_by_name() || past.is_some()) {
            return Err(SubscribeRefused::Already);
        }
        subscriber.asked_count += 1;
        self.subscription_count += 1;
        let place = place.unwrap_or_else(|| subscriber.push(key));
        let view = &mut self.views[key as usize];
        view.is_dropping = false;
        if let Some(from) = past {
            self.begin_replay(connection, place, from, pending, creator, outcome);
            return Ok(Subscribed::Later);
        }
        if view.registration == Registration::Active {
            let seq = view.head_seq();
            self.make_exact(connection, place);
            return Ok(Subscribed::Now(Some(seq)));
        }
        if view.registration == Registration::None {
            view.registration = Registration::Pending;
            let request = Request::Subscribe { topic: view.name.clone(), encoding, creator };
            outcome.requests.push((self.homes.of(name), request));
        }
        view.waiting.push(Waiting { connection: id, pending });
        subscriber.get_mut(place).set_waiting(true);
        Ok(Subscribed::Later)
    }

    /// Subscribes the connection in `slot` to a filter with wildcards.
    ///
    /// # Errors
    /// [`SubscribeRefused`]: it has this subscription, or is being sent the past of what that would match.
    pub fn handle_subscribe_filter(
        &mut self,
        id: ConnectionId,
        encoding: Encoding,
        filter: Filter<&str>,
        pending: Option<PendingId>,
        outcome: &mut Outcome,
    ) -> Result<Subscribed, SubscribeRefused> {
        let levels = filter.level_count();
        let connection = self.open_for_filter(id, encoding, filter)?;
        let key = self.find_or_add_filter(filter.as_str(), encoding, outcome);
        let filters = &mut self.filters;
        let subscriber = &mut self.subscribers[connection as usize];
        let rare = subscriber.rare.get_or_insert_default();
        let place = filters.hold(key, connection);
        rare.filters.push(HeldFilter { key, place });
        rare.level_count += levels as u32;
        subscriber.asked_count += 1;
        self.subscription_count += 1;
        let entry = &mut filters.entries[key.index()];
        let has_started = entry.missing_count == 0;
        if !has_started {
            entry.waiting.extend(pending);
        }
        Ok(if has_started { Subscribed::Now(None) } else { Subscribed::Later })
    }

    /// The connection subscribes to a filter, if it may: tells its slot.
    pub(super) fn open_for_filter(
        &mut self,
        id: ConnectionId,
        encoding: Encoding,
        filter: Filter<&str>,
    ) -> Result<u32, SubscribeRefused> {
        self.work += price::SUBSCRIPTION + price::MATCH * filter.level_count() as u64;
        let connection = self.open(id);
        if self.holds_filter(connection, encoding, filter.as_str()) {
            return Err(SubscribeRefused::Already);
        }
        if self.is_replaying_any(connection, filter) || self.is_touring_any(connection, filter.as_str()) {
            return Err(SubscribeRefused::Busy);
        }
        Ok(connection)
    }

    /// The key of a filter, which is registered with all homes if nobody held it.
    pub(super) fn find_or_add_filter(
        &mut self,
        text: &str,
        encoding: Encoding,
        outcome: &mut Outcome,
    ) -> FilterKey {
        if let Some(&key) = self.filters.by_text[encoding.index()].get(text) {
            return key;
        }
        let key = self.filters.insert(text.into(), encoding, self.homes.count);
        let entry = &self.filters.entries[key.index()];
        self.work += self.homes.count as u64 * price::EXCHANGE;
        for home in 0..self.homes.count {
            let (filter, registration) = (entry.text.clone(), entry.registration);
            outcome.requests.push((home, Request::AddFilter { filter, encoding, registration }));
        }
        key
    }

    /// The name of a view, or a filter that somebody subscribed to, that reads `text`.
    pub fn shared_text(&self, encoding: Encoding, text: &str) -> Option<Arc<str>> {
        if let Some(key) = self.filters.by_text[encoding.index()].get(text) {
            return Some(self.filters.entries[key.index()].text.clone());
        }
        let key = self.by_name[encoding.index()].get(text)?;
        Some(self.views[key as usize].name.clone())
    }

    /// Takes back the connection's subscription to the topic or filter `text`.
    ///
    /// # Errors
    /// [`Refused`]: it has no such subscription, or is being sent the past of what other subscriptions begin with.
    pub fn handle_unsubscribe(
        &mut self,
        connection: u32,
        encoding: Encoding,
        text: &str,
        pending: PendingId,
        outcome: &mut Outcome,
    ) -> Result<Unsubscribed, Refused> {
        self.work += price::SUBSCRIPTION;
        if self.is_touring_any(connection, text) {
            return Err(Refused::Busy);
        }
        if let Some(unsubscribed) = self.cancel_tour(connection, text, outcome) {
            return Ok(unsubscribed);
        }
        if let Some(&key) = self.filters.by_text[encoding.index()].get(text) {
            return self.unsubscribe_filter(connection, key, pending, outcome);
        }
        let key = self.by_name[encoding.index()].get(text).ok_or(Refused::NotSubscribed)?;
        let subscriber = self.subscribers.get_mut(connection as usize).ok_or(Refused::NotSubscribed)?;
        let place = subscriber.find(key).ok_or(Refused::NotSubscribed)?;
        let held = subscriber.get(place);
        if held.is_ending() || !held.is_by_name() {
            return Err(Refused::NotSubscribed);
        }
        if held.is_replaying() {
            return Ok(self.cancel_replay(connection, key, pending, outcome));
        }
        subscriber.asked_count -= 1;
        self.subscription_count -= 1;
        self.begin_ending(connection, place, pending, outcome);
        Ok(Unsubscribed::Later)
    }

    /// Takes back a filter. The connection leaves at once what it matched if that is little; else a task sees to
    /// that, and answers when it is done.
    fn unsubscribe_filter(
        &mut self,
        connection: u32,
        key: FilterKey,
        pending: PendingId,
        outcome: &mut Outcome,
    ) -> Result<Unsubscribed, Refused> {
        let subscriber = self.subscribers.get_mut(connection as usize).ok_or(Refused::NotSubscribed)?;
        let rare = subscriber.rare.as_mut().ok_or(Refused::NotSubscribed)?;
        let held = rare.filters.iter().find(|held| held.key == key).ok_or(Refused::NotSubscribed)?;
        // No view has met one that has not started.
        let since = match self.filters.entries[key.index()].holders[held.place as usize].since {
            0 => u64::MAX,
            since => since,
        };
        rare.unsubscribing = Some(key);
        subscriber.begin_walk();
        subscriber.set(UNSUBSCRIBING, true);
        let id = subscriber.id(connection);
        let task = Task::Unsubscribe { connection: id, key, since, pending };
        Ok(match self.begin(task, outcome) {
            true => Unsubscribed::Now,
            false => Unsubscribed::Later,
        })
    }

    /// Whether the connection is still leaving what a filter matched that it has taken back, or very many topics, or
    /// one to which it has subscribed again: what else it asks has to wait.
    pub fn is_unsubscribing(&self, connection: u32) -> bool {
        self.subscribers.get(connection as usize).is_some_and(|subscriber| {
            let endings = subscriber.rare.as_ref().and_then(|rare| rare.endings.as_ref());
            let is_full = endings.is_some_and(|endings| endings.is_full());
            subscriber.is(UNSUBSCRIBING) || subscriber.is_leaving_unheard() || is_full
        })
    }

    /// Forgets the connection: nothing more is taken for it. Tells whether that is done; else a task goes on with
    /// it, and until [`Outcome::departed`] names the connection its slot must not be given away.
    pub fn handle_disconnect(&mut self, connection: u32, outcome: &mut Outcome) -> bool {
        let Some(subscriber) = self.subscribers.get_mut(connection as usize) else { return true };
        if subscriber.is_leaving() {
            return false;
        }
        subscriber.set(LEAVING, true);
        subscriber.forget_pages();
        self.begin(Task::Depart { connection }, outcome)
    }

    /// Whether a task still takes the connection out of what it was in.
    pub fn is_leaving(&self, connection: u32) -> bool {
        self.subscribers.get(connection as usize).is_some_and(|subscriber| subscriber.is_leaving())
    }

    /// The home answered: who waited starts after `seq`; or it refused, and nobody starts.
    pub fn handle_subscribed(
        &mut self,
        name: &str,
        encoding: Encoding,
        seq: Result<u64, TopicRefusal>,
        outcome: &mut Outcome,
    ) {
        let Some(key) = self.by_name[encoding.index()].get(name) else {
            unreachable!("a view stays while its registration is pending")
        };
        let view = &mut self.views[key as usize];
        assert_eq!(view.registration, Registration::Pending, "a home answers only what it was asked");
        view.registration = if seq.is_ok() { Registration::Active } else { Registration::None };
        if let Ok(seq) = seq {
            view.set_head_seq(seq);
        }
        for waiting in std::mem::take(&mut view.waiting) {
            self.work += price::SUBSCRIPTION;
            let Waiting { connection, pending } = waiting;
            outcome.started.push(Started { refusal: seq.err(), ..Started::at(pending, seq.ok()) });
            self.answer_waiting(connection, key, seq.is_ok(), outcome);
        }
        self.let_go(key, outcome);
    }

    /// The connection's subscription to the view has started or was refused, if it still waits for that.
    fn answer_waiting(
        &mut self,
        ConnectionId { slot: connection, generation }: ConnectionId,
        key: ViewKey,
        is_granted: bool,
        outcome: &mut Outcome,
    ) {
        let subscriber = &mut self.subscribers[connection as usize];
        if subscriber.generation != generation {
            return;
        }
        let is_granted = is_granted && !subscriber.is_leaving();
        let Some(place) = subscriber.find(key) else { return };
        if !subscriber.get(place).is_waiting() {
            return;
        }
        subscriber.get_mut(place).set_waiting(false);
        if is_granted {
            return self.make_exact(connection, place);
        }
        if subscriber.get(place).is_ending() {
            return self.end_refused(connection, key, place, outcome);
        }
        subscriber.asked_count -= 1;
        self.subscription_count -= 1;
        if subscriber.get(place).member == MemberSlot::NONE {
            self.remove_subscription(connection, place);
        }
    }

    /// One more home has a filter.
    pub fn handle_filter_added(&mut self, registration: RegistrationId, outcome: &mut Outcome) {
        let Some(key) = self.filters.registered(registration) else { return };
        let entry = &mut self.filters.entries[key.index()];
        entry.missing_count -= 1;
        if entry.missing_count > 0 {
            return;
        }
        // As long as the filter is there nobody waits for it again.
        let waiting = std::mem::take(&mut entry.waiting);
        self.work += waiting.len() as u64 * price::SUBSCRIPTION + entry.holders.len() as u64 * price::HOLDER;
        outcome.started.extend(waiting.into_iter().map(|pending| Started::at(Some(pending), None)));
        let subscribers = &self.subscribers;
        let is_leaving = |connection: u32| {
            let rare = subscribers[connection as usize].rare.as_ref();
            rare.is_some_and(|rare| rare.unsubscribing == Some(key))
        };
        let touring = std::mem::take(&mut entry.touring);
        self.filters.start(key, is_leaving);
        self.go_on_holding(touring, outcome);
    }

    /// The connection has let go of a filter: it leaves the filter's list, and the last one ends it.
    pub(super) fn drop_filter(&mut self, connection: u32, held: HeldFilter, outcome: &mut Outcome) {
        let entry = &mut self.filters.entries[held.key.index()];
        let levels = topic::level_count(&entry.text);
        self.work += price::SUBSCRIPTION + price::MATCH * levels as u64;
        let subscriber = &mut self.subscribers[connection as usize];
        subscriber.asked_count -= 1;
        self.subscription_count -= 1;
        let rare = subscriber.rare.as_mut().expect("who holds a filter has the rare parts");
        rare.level_count -= levels as u32;
        entry.holders.swap_remove(held.place as usize);
        if let Some(moved) = entry.holders.get(held.place as usize) {
            let rare = self.subscribers[moved.connection as usize].rare.as_mut();
            let theirs = rare.and_then(|rare| rare.filters.iter_mut().find(|theirs| theirs.key == held.key));
            theirs.expect("who is in a filter's list holds the filter").place = held.place;
        }
        if self.filters.entries[held.key.index()].holders.is_empty() {
            let entry = self.filters.remove(held.key);
            outcome.started.extend(entry.waiting.iter().map(|&pending| Started::at(Some(pending), None)));
            self.work += self.homes.count as u64 * price::EXCHANGE;
            for home in 0..self.homes.count {
                let (filter, encoding) = (entry.text.clone(), entry.encoding);
                outcome.requests.push((home, Request::RemoveFilter { filter, encoding }));
            }
        }
    }

    /// Tells the home when its batches are no longer wanted by name, and drops the view when it is
    /// not wanted at all.
    pub(super) fn let_go(&mut self, key: ViewKey, outcome: &mut Outcome) {
        let view = &mut self.views[key as usize];
        // A page that is asked for may be the one that registers us.
        let is_registered = view.registration == Registration::Active && view.replaying_count == 0;
        if is_registered && view.exact_count() == 0 {
            view.registration = Registration::None;
            let request = Request::Unsubscribe { topic: view.name.clone(), encoding: view.encoding() };
            outcome.requests.push((self.homes.of(view.topic()), request));
        }
        self.remove_if_unused(key);
    }

    /// The connection subscribes to something: tells its slot.
    pub(super) fn open(&mut self, ConnectionId { slot, generation }: ConnectionId) -> u32 {
        if self.subscribers.len() <= slot as usize {
            self.subscribers.resize_with(slot as usize + 1, Default::default);
        }
        self.subscribers[slot as usize].generation = generation;
        slot
    }
}

//! One reactor's fan-out: its views of topics, who of its connections is in which, and whose turn it is.
//!
//! A connection is known by its slot. Membership is recorded twice, in the view (a [`Member`], which
//! has the position) and in the connection's own list (a `Subscription`); each names the other's
//! place, so that either side is left in constant time.
//!
//! [`Member`]: super::view::Member

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    sync::Arc,
};

use foldhash::fast::RandomState;

use super::{
    home::Homes,
    interest::Filters,
    message::{Batch, PendingId, Request},
    policy::{Bound, Policy, Verdict},
    subscription::{
        GAPS_MAX, Gap, HeldFilter, NOT_A_MEMBER, Refused, Started, Subscribed, Subscriber, Subscription,
        Unsubscribed, ViewKey,
    },
    topic,
    view::{Owed, Pin, Position, Registration, View, Waiting},
};
use crate::protocol::Encoding;

/// A topic waits for its next sweep at most so long per member, in nanoseconds: some twenty times what
/// sending to one costs.
const MEMBER_DELAY_NS: u64 = 50_000;
/// How many views one eviction looks at for an idle one.
const EVICTION_PROBES: usize = 64;

/// All views of one reactor.
#[derive(Debug)]
pub struct Fanout {
    views: slab::Slab<View>,
    by_name: [HashMap<Arc<str>, ViewKey, RandomState>; Encoding::COUNT],
    views_max: usize,
    eviction_hand: usize,
    /// By connection slot.
    subscribers: Vec<Subscriber>,
    subscription_count: u64,
    filters: Filters,
    /// Views whose sweep goes on, in turn.
    sweeping: VecDeque<ViewKey>,
    /// Views whose next sweep waits for its time.
    paced: BinaryHeap<Reverse<(u64, ViewKey)>>,
    homes: Homes,
    policy: Policy,
    /// By connection slot: the last search that met it.
    marks: Vec<u32>,
    mark: u32,
    matched: Vec<u32>,
    /// Since this was last set to false, a connection has begun to owe.
    may_owe: bool,
    deliveries_total: u64,
    skipped_total: u64,
}

/// Where requests to homes go: (home, request).
pub type Requests = Vec<(usize, Request)>;

/// What came of freeing chunks.
#[derive(Debug, Default)]
pub struct Shed {
    /// Connections that were moved forward and have gaps to be told.
    pub skipped: Vec<u32>,
    /// Connections that must be disconnected.
    pub closing: Vec<u32>,
    /// Sends in flight keep some.
    pub is_pinned: bool,
}

impl Fanout {
    /// A fan-out without views; it keeps about `views_max` of them before it drops idle ones, and has room
    /// for `slots_max` connections.
    pub fn new(homes: Homes, policy: Policy, views_max: usize, slots_max: usize) -> Fanout {
        Fanout {
            views: slab::Slab::new(),
            by_name: Default::default(),
            views_max,
            eviction_hand: 0,
            subscribers: Vec::with_capacity(slots_max),
            subscription_count: 0,
            filters: Filters::default(),
            sweeping: VecDeque::new(),
            paced: BinaryHeap::new(),
            homes,
            policy,
            marks: Vec::with_capacity(slots_max),
            mark: 0,
            matched: Vec::new(),
            may_owe: false,
            deliveries_total: 0,
            skipped_total: 0,
        }
    }

    /// Judges by `policy` from now on, in views that are there as well: a walk over all of them.
    pub fn set_policy(&mut self, policy: Policy) {
        for (_, view) in &mut self.views {
            view.rule = policy.rule_of(&view.name);
        }
        for subscriber in &mut self.subscribers {
            let owed_bytes = self.policy.owed_bytes_max.saturating_sub(subscriber.slack_bytes);
            subscriber.slack_bytes = policy.owed_bytes_max.saturating_sub(owed_bytes);
        }
        self.policy = policy;
    }

    /// Deliveries that became owed since the start.
    pub fn deliveries_total(&self) -> u64 {
        self.deliveries_total
    }

    /// Deliveries that were skipped since the start.
    pub fn skipped_total(&self) -> u64 {
        self.skipped_total
    }

    /// Subscriptions of all connections, by name and by filter.
    pub fn subscription_count(&self) -> u64 {
        self.subscription_count
    }

    /// How many subscriptions are behind, and how many bytes the furthest: a walk over all views, for
    /// when metrics are asked for.
    pub fn behind(&self) -> (u64, u64) {
        let mut count = 0;
        let mut bytes_max = 0;
        for (_, view) in &self.views {
            if view.behind_count() > 0 {
                count += u64::from(view.behind_count());
                bytes_max =
                    view.members().map(|(slot, _)| view.owed_bytes(slot)).max().unwrap_or(0).max(bytes_max);
            }
        }
        (count, bytes_max)
    }

    /// How many topics and filters the connection subscribed to.
    pub fn subscriptions_of(&self, connection: u32) -> usize {
        self.subscribers.get(connection as usize).map_or(0, |subscriber| subscriber.asked_count as usize)
    }

    /// Subscribes the connection in `slot` to the topic `name`.
    ///
    /// # Errors
    /// [`Refused`]: it has this subscription.
    pub fn handle_subscribe_topic(
        &mut self,
        connection: u32,
        generation: u32,
        encoding: Encoding,
        name: &str,
        pending: Option<PendingId>,
        requests: &mut Requests,
    ) -> Result<Subscribed, Refused> {
        self.open(connection, generation);
        let key = match self.by_name[encoding.index()].get(name) {
            Some(&key) => key,
            None => self.create_view(name.into(), encoding),
        };
        let held = self.find(connection, key);
        if held.is_some_and(|place| {
            let held = &self.subscribers[connection as usize].subscriptions[place];
            held.is_exact || held.is_waiting
        }) {
            return Err(Refused);
        }
        self.count_asked(connection);
        let view = &mut self.views[key as usize];
        if view.registration == Registration::Active {
            let seq = view.head_seq();
            self.make_exact(connection, key, held);
            return Ok(Subscribed::Now(Some(seq)));
        }
        if view.registration == Registration::None {
            view.registration = Registration::Pending;
            let request = Request::Subscribe { topic: view.name.clone(), encoding, creator: 0 };
            requests.push((self.homes.of(name), request));
        }
        view.waiting.push(Waiting { connection, generation, pending, is_cancelled: false, then: None });
        let subscriptions = &mut self.subscribers[connection as usize].subscriptions;
        match held {
            Some(place) => subscriptions[place].is_waiting = true,
            None => subscriptions.push(Subscription {
                view: key,
                member: NOT_A_MEMBER,
                is_exact: false,
                is_waiting: true,
                is_owing: false,
            }),
        }
        Ok(Subscribed::Later)
    }

    /// Subscribes the connection in `slot` to a filter with wildcards.
    ///
    /// # Errors
    /// [`Refused`]: it has this subscription.
    pub fn handle_subscribe_filter(
        &mut self,
        connection: u32,
        generation: u32,
        encoding: Encoding,
        filter: &str,
        pending: Option<PendingId>,
        requests: &mut Requests,
    ) -> Result<Subscribed, Refused> {
        self.open(connection, generation);
        let filters = &mut self.filters;
        let key = match filters.by_text[encoding.index()].get(filter) {
            Some(&key) => key,
            None => {
                let key = filters.insert(filter.into(), encoding, self.homes.count);
                let entry = &filters.entries[key as usize];
                for home in 0..self.homes.count {
                    let (filter, registration) = (entry.text.clone(), entry.registration);
                    requests.push((home, Request::AddFilter { filter, encoding, registration }));
                }
                key
            }
        };
        let held = &mut self.subscribers[connection as usize].rare.get_or_insert_default().filters;
        if held.iter().any(|held| held.key == key) {
            return Err(Refused);
        }
        filters.generation += 1;
        let entry = &mut filters.entries[key as usize];
        held.push(HeldFilter { key, place: entry.subscribers.len() as u32 });
        entry.subscribers.push(connection);
        let has_started = entry.missing_count == 0;
        if !has_started {
            entry.waiting.extend(pending);
        }
        self.count_asked(connection);
        Ok(if has_started { Subscribed::Now(None) } else { Subscribed::Later })
    }

    /// Takes back the connection's subscription to the topic or filter `text`. `started` gets questions
    /// that nobody will answer any more.
    ///
    /// # Errors
    /// [`Refused`]: it has no such subscription.
    pub fn handle_unsubscribe(
        &mut self,
        connection: u32,
        encoding: Encoding,
        text: &str,
        pending: Option<PendingId>,
        started: &mut Vec<Started>,
        requests: &mut Requests,
    ) -> Result<Unsubscribed, Refused> {
        if let Some(&key) = self.filters.by_text[encoding.index()].get(text) {
            let subscriber = self.subscribers.get_mut(connection as usize).ok_or(Refused)?;
            let filters = &mut subscriber.rare.as_mut().ok_or(Refused)?.filters;
            let place = filters.iter().position(|held| held.key == key).ok_or(Refused)?;
            let held = filters.swap_remove(place);
            self.drop_filter(connection, held, started, requests);
            self.leave_unmatched(connection);
            return Ok(Unsubscribed::Now);
        }
        let &key = self.by_name[encoding.index()].get(text).ok_or(Refused)?;
        let place = self.find(connection, key).ok_or(Refused)?;
        let held = self.subscribers[connection as usize].subscriptions[place];
        if !held.is_exact && !held.is_waiting {
            return Err(Refused);
        }
        self.uncount_asked(connection);
        if held.is_waiting {
            self.cancel_waiting(connection, place, key, pending);
            return Ok(Unsubscribed::Later);
        }
        if self.is_matched(connection, key) {
            self.subscribers[connection as usize].subscriptions[place].is_exact = false;
            self.views[key as usize].set_exact(false);
        } else {
            self.leave(connection, place);
        }
        self.settle(key, requests);
        Ok(Unsubscribed::Now)
    }

    /// Forgets the connection: nothing more is taken for it. `started` as in [`Fanout::handle_unsubscribe`].
    pub fn handle_disconnect(
        &mut self,
        connection: u32,
        started: &mut Vec<Started>,
        requests: &mut Requests,
    ) {
        let Some(subscriber) = self.subscribers.get_mut(connection as usize) else { return };
        let rare = subscriber.rare.take().unwrap_or_default();
        for held in rare.filters {
            self.drop_filter(connection, held, started, requests);
        }
        // All at once: each subscription by itself would be looked for in the list.
        let subscriber = &mut self.subscribers[connection as usize];
        for place in subscriber.owing.drain(..) {
            subscriber.subscriptions[place as usize].is_owing = false;
        }
        while let Some(held) = self.subscribers[connection as usize].subscriptions.last().copied() {
            let place = self.subscribers[connection as usize].subscriptions.len() - 1;
            if held.is_exact || held.is_waiting {
                self.uncount_asked(connection);
            }
            if held.is_waiting {
                self.cancel_waiting(connection, place, held.view, None);
            }
            if held.member != NOT_A_MEMBER {
                self.leave(connection, place);
            }
            self.settle(held.view, requests);
        }
        self.subscribers[connection as usize] = Subscriber::default();
    }

    /// The home answered: who waited starts after `seq`. Without a `seq` the home refused, and nobody
    /// starts. `started` gets everyone to answer.
    pub fn handle_subscribed(
        &mut self,
        name: &str,
        encoding: Encoding,
        seq: Option<u64>,
        started: &mut Vec<Started>,
        requests: &mut Requests,
    ) {
        let Some(&key) = self.by_name[encoding.index()].get(name) else {
            unreachable!("a view stays while its registration is pending")
        };
        let view = &mut self.views[key as usize];
        assert_eq!(view.registration, Registration::Pending, "a home answers only what it was asked");
        view.registration = if seq.is_some() { Registration::Active } else { Registration::None };
        if let Some(seq) = seq {
            view.set_head_seq(seq);
        }
        for waiting in std::mem::take(&mut view.waiting) {
            started.push(Started { pending: waiting.pending, seq, is_refused: seq.is_none() });
            if waiting.then.is_some() {
                started.push(Started::at(waiting.then, None));
            }
            let subscriber = &self.subscribers[waiting.connection as usize];
            if waiting.is_cancelled || subscriber.generation != waiting.generation {
                continue;
            }
            let subscriptions = &self.subscribers[waiting.connection as usize].subscriptions;
            let held = subscriptions.iter().position(|held| held.view == key);
            let place = held.expect("who waits has a subscription that says so");
            self.subscribers[waiting.connection as usize].subscriptions[place].is_waiting = false;
            match seq {
                Some(_) => self.make_exact(waiting.connection, key, held),
                None => {
                    self.uncount_asked(waiting.connection);
                    let subscriptions = &self.subscribers[waiting.connection as usize].subscriptions;
                    if subscriptions[place].member == NOT_A_MEMBER {
                        self.remove_subscription(waiting.connection, place);
                    }
                }
            }
        }
        self.settle(key, requests);
    }

    /// One more home has a filter.
    pub fn handle_filter_added(&mut self, registration: PendingId, started: &mut Vec<Started>) {
        // Taken back while a home's answer was on its way: nothing waits for it.
        let Some(&key) = self.filters.by_registration.get(&registration) else { return };
        let entry = &mut self.filters.entries[key as usize];
        entry.missing_count -= 1;
        if entry.missing_count == 0 {
            started.extend(entry.waiting.drain(..).map(|pending| Started::at(Some(pending), None)));
        }
    }

    /// A topic's head moves; its members are behind now and will be visited.
    pub fn handle_batch(&mut self, batch: Batch, now_ns: u64, delay_ns: u64) {
        let encoding = batch.encoding;
        let key = match self.by_name[encoding.index()].get(&*batch.topic) {
            Some(&key) => key,
            None => {
                // Nobody by name: for those whose filter matches, or left over from who is gone.
                let mut is_matched = false;
                self.filters.trees[encoding.index()].for_each_match(&batch.topic, |_| is_matched = true);
                if !is_matched {
                    return;
                }
                self.create_view(batch.topic.clone(), encoding)
            }
        };
        self.join_matched(key);
        let view = &mut self.views[key as usize];
        self.deliveries_total += u64::from(batch.count) * u64::from(view.member_count());
        view.append(batch, (now_ns / 1_000_000) as u32);
        if view.sweep.is_listed {
            view.sweep.is_outrun = true;
        } else if view.member_count() > 0 {
            self.list(key, now_ns, delay_ns);
        } else {
            self.remove_if_unused(key);
        }
    }

    /// How many connections receive `topic`: the members of its view, or where that was evicted, those
    /// whose filters match.
    pub fn receiver_count(&mut self, topic: &str) -> u64 {
        let count_of = |encoding: Encoding| match self.by_name[encoding.index()].get(topic) {
            Some(&key) => u64::from(self.views[key as usize].member_count()),
            None => {
                let (matched, entries) = (&mut self.matched, &self.filters.entries);
                self.filters.trees[encoding.index()].for_each_match(topic, |key| {
                    matched.extend_from_slice(&entries[key as usize].subscribers)
                });
                matched.sort_unstable();
                matched.dedup();
                matched.drain(..).len() as u64
            }
        };
        Encoding::ALL.into_iter().map(count_of).sum()
    }

    /// Lists what is due to sweep.
    pub fn start_due_sweeps(&mut self, now_ns: u64) {
        while let Some(&Reverse((due_ns, key))) = self.paced.peek() {
            if due_ns > now_ns {
                return;
            }
            self.paced.pop();
            self.start_sweep(key, now_ns);
        }
    }

    /// Lists every view that waits for its time, whenever that is.
    pub fn start_all_sweeps(&mut self, now_ns: u64) {
        while let Some(Reverse((_, key))) = self.paced.pop() {
            self.start_sweep(key, now_ns);
        }
    }

    /// When the next view's sweep is due, of those that wait for their time.
    pub fn next_sweep_ns(&self) -> Option<u64> {
        self.paced.peek().map(|Reverse((due_ns, _))| *due_ns)
    }

    /// Takes the view whose turn it is to be swept; give it back with [`Fanout::end_turn`].
    pub fn begin_turn(&mut self) -> Option<ViewKey> {
        self.sweeping.pop_front()
    }

    /// The next connection that the view's cursor visits and that is behind, with its place among the
    /// members; none when the sweep is over.
    pub fn next_visit(&mut self, key: ViewKey) -> Option<(u32, u32)> {
        let view = &mut self.views[key as usize];
        while view.sweep.next < view.sweep.end {
            let slot = view.sweep.next;
            view.sweep.next += 1;
            if let Some(member) = view.member(slot)
                && view.is_behind(slot)
            {
                return Some((member.connection, slot));
            }
        }
        None
    }

    /// The view's turn is over: its sweep goes on later, or is over.
    pub fn end_turn(&mut self, key: ViewKey, now_ns: u64, delay_ns: u64) {
        let view = &mut self.views[key as usize];
        if view.sweep.next < view.sweep.end {
            self.sweeping.push_back(key);
            return;
        }
        view.sweep.is_listed = false;
        if view.sweep.is_outrun && view.behind_count() > 0 {
            self.list(key, now_ns, delay_ns);
        } else {
            self.remove_if_unused(key);
        }
    }

    /// Whether a sweep goes on.
    pub fn is_sweeping(&self) -> bool {
        !self.sweeping.is_empty()
    }

    /// Takes what a visited member is owed; see [`View::take`].
    pub fn take(&mut self, key: ViewKey, slot: u32, bytes_max: u32) -> Option<Owed> {
        self.views[key as usize].take(slot, bytes_max)
    }

    /// Whether the member is (still) behind.
    pub fn is_behind(&self, key: ViewKey, slot: u32) -> bool {
        self.views[key as usize].is_behind(slot)
    }

    /// A send of what was taken is over.
    pub fn unpin(&mut self, key: ViewKey, pin: Pin) {
        self.views[key as usize].unpin(pin);
        self.remove_if_unused(key);
    }

    /// The member was visited while its connection had a send in flight, or is behind in spite of the send
    /// that it was given: it is served when that is over. Tells whether the connection is to be judged.
    pub fn mark_owing(&mut self, key: ViewKey, slot: u32) -> bool {
        let view = &self.views[key as usize];
        let member = view.member(slot).expect("a visited member is there");
        let subscriber = &mut self.subscribers[member.connection as usize];
        let held = &mut subscriber.subscriptions[member.subscription as usize];
        let owed_bytes = view.owed_bytes(slot);
        let mut grown_bytes = view.grown_bytes().min(owed_bytes);
        if !held.is_owing {
            if subscriber.owing.is_empty() {
                subscriber.slack_bytes = self.policy.owed_bytes_max;
            }
            held.is_owing = true;
            subscriber.owing.push(member.subscription);
            self.may_owe = true;
            grown_bytes = owed_bytes;
        }
        let slack_bytes = subscriber.slack_bytes.checked_sub(grown_bytes);
        subscriber.slack_bytes = slack_bytes.unwrap_or(0);
        slack_bytes.is_none() || owed_bytes > view.rule.owed_bytes_max
    }

    /// Takes one of the views that the connection is to be served from, and its place among the members.
    pub fn pop_owing(&mut self, connection: u32) -> Option<(ViewKey, u32)> {
        let subscriber = self.subscribers.get_mut(connection as usize)?;
        let held = &mut subscriber.subscriptions[subscriber.owing.pop()? as usize];
        held.is_owing = false;
        Some((held.view, held.member))
    }

    /// Whether the connection has to be served when its send is over: ranges wait for it, or gaps are to be
    /// told.
    pub fn is_owing(&self, connection: u32) -> bool {
        let subscriber = self.subscribers.get(connection as usize);
        subscriber.is_some_and(|subscriber| {
            let has_gaps = subscriber.rare.as_ref().is_some_and(|rare| rare.gaps.is_some());
            has_gaps || !subscriber.owing.is_empty()
        })
    }

    /// Whether a connection has begun to owe since this was set to false.
    pub fn may_owe(&self) -> bool {
        self.may_owe
    }

    /// Sets what [`Fanout::may_owe`] tells.
    pub fn set_may_owe(&mut self, may_owe: bool) {
        self.may_owe = may_owe;
    }

    /// In how many views the connection is to be served when its send is over.
    pub fn owing_count(&self, connection: u32) -> usize {
        self.subscribers.get(connection as usize).map_or(0, |subscriber| subscriber.owing.len())
    }

    /// Holds the connection to the bounds of what it may be owed at `now_ms` (wrapping): moves it forward
    /// where its topics allow it, the furthest behind first, until half of a bound is left, so that the next
    /// publication is not one too many again.
    pub fn judge(&mut self, connection: u32, now_ms: u32) -> Verdict {
        let owed_bytes_max = self.policy.owed_bytes_max;
        let subscriber = &mut self.subscribers[connection as usize];
        let (mut total_bytes, mut firm_bytes) = (0, 0);
        let mut exceeded = None;
        for &place in &subscriber.owing {
            let held = &subscriber.subscriptions[place as usize];
            let view = &self.views[held.view as usize];
            let bytes = view.owed_bytes(held.member);
            total_bytes += bytes;
            firm_bytes += if view.rule.may_skip { 0 } else { bytes };
            match view.exceeded(held.member, now_ms) {
                Some(bound) if !view.rule.may_skip => return Verdict::Disconnect(bound),
                bound => exceeded = exceeded.or(bound),
            }
        }
        if firm_bytes > owed_bytes_max {
            return Verdict::Disconnect(Bound::OwedBytes);
        }
        let is_too_much = total_bytes > owed_bytes_max;
        let Some(bound) = exceeded.or(is_too_much.then_some(Bound::OwedBytes)) else {
            subscriber.set_slack(total_bytes, owed_bytes_max);
            return Verdict::Keep;
        };
        self.move_forward(connection, now_ms);
        Verdict::Skip(bound)
    }

    /// Frees chunks that were begun before `born_bytes`: moves members that keep them forward, and tells
    /// who was moved, whose topics do not allow that, and whether sends in flight keep some.
    pub fn shed(&mut self, born_bytes: u64, shed: &mut Shed) {
        let begun = |(key, view): (usize, &View)| Some((key as ViewKey, view.position_begun(born_bytes)?));
        let stale: Vec<_> = self.views.iter().filter_map(begun).collect();
        for (key, position) in stale {
            let view = &self.views[key as usize];
            let behind: Vec<(u32, u32)> = view.members_before(position).collect();
            let may_skip = view.rule.may_skip;
            for (slot, connection) in behind {
                if may_skip {
                    let member = self.views[key as usize].member(slot).expect("it was just listed");
                    self.skip(connection, member.subscription, position);
                    shed.skipped.push(connection);
                } else {
                    shed.closing.push(connection);
                }
            }
            shed.is_pinned |= self.views[key as usize].position_begun(born_bytes).is_some();
        }
    }

    /// Whether `pin` keeps a chunk that was begun before `born_bytes`.
    pub fn pins_before(&self, key: ViewKey, pin: Pin, born_bytes: u64) -> bool {
        self.views[key as usize].pins_before(pin, born_bytes)
    }

    /// Takes the gaps that the connection must be told before anything else of those topics, and
    /// whether there are more than are listed.
    pub fn take_gaps(&mut self, connection: u32) -> Option<(Vec<Gap>, Option<Arc<str>>)> {
        let subscriber = self.subscribers.get_mut(connection as usize)?;
        let gaps = subscriber.rare.as_mut()?.gaps.take()?;
        Some((gaps.by_topic, gaps.resync))
    }

    /// Asserts the invariants; for tests and simulations.
    pub fn check(&self) {
        for (key, view) in &self.views {
            view.check();
            for (slot, member) in view.members() {
                let held =
                    &self.subscribers[member.connection as usize].subscriptions[member.subscription as usize];
                assert_eq!(
                    (held.view as usize, held.member),
                    (key, slot),
                    "membership is recorded twice, alike"
                );
                let sweep = view.sweep;
                let will_be_visited =
                    sweep.is_listed && (sweep.is_outrun || slot >= sweep.next || sweep.end == 0);
                assert!(
                    will_be_visited || held.is_owing || !view.is_behind(slot),
                    "whoever is behind is visited, or served when its send is over"
                );
            }
        }
        for subscriber in &self.subscribers {
            for (place, held) in subscriber.subscriptions.iter().enumerate() {
                assert_eq!(held.is_owing, subscriber.owing.contains(&(place as u32)));
                if held.member != NOT_A_MEMBER {
                    let member = self.views[held.view as usize].member(held.member);
                    assert_eq!(member.map(|member| member.subscription as usize), Some(place));
                }
            }
        }
    }

    /// Whether nothing is kept for any connection; for tests.
    pub fn is_empty(&self) -> bool {
        self.views.is_empty()
            && self.filters.entries.is_empty()
            && self.filters.by_registration.is_empty()
            && self.by_name.iter().all(HashMap::is_empty)
            && self.filters.trees.iter().all(super::filter::FilterTree::is_empty)
            && self.sweeping.is_empty()
            && self.paced.is_empty()
            && self.subscribers.iter().all(|subscriber| {
                subscriber.asked_count == 0
                    && subscriber.subscriptions.is_empty()
                    && subscriber.owing.is_empty()
            })
    }

    /// How many views there are; for tests.
    pub fn view_count(&self) -> usize {
        self.views.len()
    }

    fn open(&mut self, connection: u32, generation: u32) {
        if self.subscribers.len() <= connection as usize {
            self.subscribers.resize_with(connection as usize + 1, Subscriber::default);
        }
        let subscriptions = &mut self.subscribers[connection as usize].subscriptions;
        if subscriptions.capacity() == 0 {
            // Most connections have one: room for four would be three quarters wasted on each.
            subscriptions.reserve_exact(1);
        }
        self.subscribers[connection as usize].generation = generation;
    }

    fn count_asked(&mut self, connection: u32) {
        self.subscribers[connection as usize].asked_count += 1;
        self.subscription_count += 1;
    }

    fn uncount_asked(&mut self, connection: u32) {
        self.subscribers[connection as usize].asked_count -= 1;
        self.subscription_count -= 1;
    }

    fn create_view(&mut self, name: Arc<str>, encoding: Encoding) -> ViewKey {
        if self.views.len() >= self.views_max {
            self.evict_one();
        }
        let rule = self.policy.rule_of(&name);
        let key = self.views.insert(View::new(name.clone(), encoding, rule)) as ViewKey;
        self.by_name[encoding.index()].insert(name, key);
        key
    }

    /// Drops one view that only filters keep and whose log is empty: its members' positions are at the
    /// head, which is where they will be when it is made anew. One with a send in flight would stay, without
    /// its members.
    fn evict_one(&mut self) {
        for _ in 0..EVICTION_PROBES.min(self.views.capacity()) {
            let key = self.eviction_hand % self.views.capacity();
            self.eviction_hand = key + 1;
            let is_idle = self.views.get(key).is_some_and(|view| {
                view.registration == Registration::None
                    && view.exact_count() == 0
                    && view.is_log_empty()
                    && !view.sweep.is_listed
            });
            if !is_idle {
                continue;
            }
            let members: Vec<_> =
                self.views[key].members().map(|(_, m)| (m.connection, m.subscription)).collect();
            for (connection, place) in members {
                self.leave(connection, place as usize);
            }
            self.remove_if_unused(key as ViewKey);
            return;
        }
    }

    fn remove_if_unused(&mut self, key: ViewKey) {
        let view = &self.views[key as usize];
        if view.is_unused() && !view.sweep.is_listed {
            let view = self.views.remove(key as usize);
            self.by_name[view.encoding.index()].remove(&view.name);
        }
    }

    /// Tells the home when its batches are no longer wanted by name, and drops the view when it is
    /// not wanted at all.
    fn settle(&mut self, key: ViewKey, requests: &mut Requests) {
        let view = &mut self.views[key as usize];
        if view.registration == Registration::Active && view.exact_count() == 0 {
            view.registration = Registration::None;
            let request = Request::Unsubscribe { topic: view.name.clone(), encoding: view.encoding };
            requests.push((self.homes.of(&view.name), request));
        }
        self.remove_if_unused(key);
    }

    fn list(&mut self, key: ViewKey, now_ns: u64, delay_ns: u64) {
        let view = &mut self.views[key as usize];
        // Waiting saves sends in proportion to the members: a small topic beside a large one does not
        // wait for what the large one costs.
        let delay_ns = delay_ns.min(u64::from(view.member_count()) * MEMBER_DELAY_NS);
        let sweep = &mut view.sweep;
        sweep.is_listed = true;
        let due_ns = sweep.started_ns + delay_ns;
        // A sweep that never was is due at once.
        if due_ns <= now_ns || sweep.started_ns == 0 {
            self.start_sweep(key, now_ns);
        } else {
            // Nobody is visited before it is due.
            (sweep.next, sweep.end) = (0, 0);
            self.paced.push(Reverse((due_ns, key)));
        }
    }

    fn start_sweep(&mut self, key: ViewKey, now_ns: u64) {
        self.compact(key);
        self.views[key as usize].start_sweep(now_ns);
        self.sweeping.push_back(key);
    }

    /// Closes the places that members left, while no sweep is under way.
    fn compact(&mut self, key: ViewKey) {
        let subscribers = &mut self.subscribers;
        self.views[key as usize].compact(|connection, subscription, slot| {
            subscribers[connection as usize].subscriptions[subscription as usize].member = slot;
        });
    }

    /// Makes members of those whose filter matches and who are not yet: from the head on.
    fn join_matched(&mut self, key: ViewKey) {
        let view = &mut self.views[key as usize];
        if view.filters_generation == self.filters.generation {
            return;
        }
        view.filters_generation = self.filters.generation;
        let mut matched = std::mem::take(&mut self.matched);
        let entries = &self.filters.entries;
        self.filters.trees[view.encoding.index()]
            .for_each_match(&view.name, |key| matched.extend_from_slice(&entries[key as usize].subscribers));
        if !matched.is_empty() {
            self.mark = self.mark.wrapping_add(1);
            self.marks.resize(self.subscribers.len(), self.mark.wrapping_sub(1));
            for (_, member) in view.members() {
                self.marks[member.connection as usize] = self.mark;
            }
            for connection in matched.drain(..) {
                let mark = &mut self.marks[connection as usize];
                if std::mem::replace(mark, self.mark) != self.mark {
                    self.join(connection, key, false);
                }
            }
        }
        self.matched = matched;
    }

    /// Adds a member at the head; a subscription that waits becomes its record.
    fn join(&mut self, connection: u32, key: ViewKey, is_exact: bool) {
        if self.views[key as usize].wants_compaction() {
            self.compact(key);
        }
        let is_waiting =
            self.views[key as usize].waiting.iter().any(|waiting| waiting.connection == connection);
        let held = if is_waiting { self.find(connection, key) } else { None };
        let subscriptions = &mut self.subscribers[connection as usize].subscriptions;
        let place = held.unwrap_or(subscriptions.len());
        let member = self.views[key as usize].join(connection, place as u32, is_exact);
        match held {
            Some(_) => {
                subscriptions[place].member = member;
                subscriptions[place].is_exact = is_exact;
            }
            None => subscriptions.push(Subscription {
                view: key,
                member,
                is_exact,
                is_waiting: false,
                is_owing: false,
            }),
        }
    }

    /// Gives the connection its exact subscription: it joins, or stays the member that a filter made it.
    fn make_exact(&mut self, connection: u32, key: ViewKey, held: Option<usize>) {
        if self.views[key as usize].wants_compaction() {
            self.compact(key);
        }
        let view = &mut self.views[key as usize];
        let subscriptions = &mut self.subscribers[connection as usize].subscriptions;
        match held {
            Some(place) if subscriptions[place].member != NOT_A_MEMBER => {
                subscriptions[place].is_exact = true;
                view.set_exact(true);
            }
            Some(place) => {
                subscriptions[place].member = view.join(connection, place as u32, true);
                subscriptions[place].is_exact = true;
            }
            None => self.join(connection, key, true),
        }
    }

    /// The connection's subscription to the view, in the shorter of the two lists that have it.
    fn find(&self, connection: u32, key: ViewKey) -> Option<usize> {
        let subscriber = self.subscribers.get(connection as usize)?;
        let view = &self.views[key as usize];
        if view.waiting.is_empty() && (view.slot_count() as usize) < subscriber.subscriptions.len() {
            let (_, member) = view.members().find(|(_, member)| member.connection == connection)?;
            return Some(member.subscription as usize);
        }
        subscriber.subscriptions.iter().position(|held| held.view == key)
    }

    fn is_matched(&self, connection: u32, key: ViewKey) -> bool {
        let name = &self.views[key as usize].name;
        let Some(rare) = &self.subscribers[connection as usize].rare else { return false };
        rare.filters.iter().any(|held| topic::matches(&self.filters.entries[held.key as usize].text, name))
    }

    /// The connection leaves the view that its subscription in `place` names. A gap that it is to be told
    /// outlives that: a view may be evicted with the subscription going on.
    fn leave(&mut self, connection: u32, place: usize) {
        let held = self.subscribers[connection as usize].subscriptions[place];
        self.views[held.view as usize].leave(held.member, held.is_exact);
        self.remove_subscription(connection, place);
    }

    /// Closes the place in the connection's list by moving its last subscription there.
    fn remove_subscription(&mut self, connection: u32, place: usize) {
        let subscriber = &mut self.subscribers[connection as usize];
        let last = subscriber.subscriptions.len() - 1;
        if subscriber.subscriptions[place].is_owing {
            let at = subscriber.owing.iter().position(|&owing| owing as usize == place);
            subscriber.owing.swap_remove(at.expect("a subscription that owes is listed"));
        }
        if place != last && subscriber.subscriptions[last].is_owing {
            let at = subscriber.owing.iter().position(|&owing| owing as usize == last);
            subscriber.owing[at.expect("a subscription that owes is listed")] = place as u32;
        }
        subscriber.subscriptions.swap_remove(place);
        if let Some(moved) = subscriber.subscriptions.get(place)
            && moved.member != NOT_A_MEMBER
        {
            self.views[moved.view as usize].set_subscription(moved.member, place as u32);
        }
    }

    fn cancel_waiting(&mut self, connection: u32, place: usize, key: ViewKey, then: Option<PendingId>) {
        let waiting = &mut self.views[key as usize].waiting;
        let entry = waiting.iter_mut().rfind(|entry| entry.connection == connection && !entry.is_cancelled);
        let entry = entry.expect("a subscription that waits is listed with its view");
        (entry.is_cancelled, entry.then) = (true, then);
        let held = &mut self.subscribers[connection as usize].subscriptions[place];
        held.is_waiting = false;
        if held.member == NOT_A_MEMBER {
            self.remove_subscription(connection, place);
        }
    }

    /// The connection has let go of a filter: it leaves the filter's list, and the last one ends it.
    fn drop_filter(
        &mut self,
        connection: u32,
        held: HeldFilter,
        started: &mut Vec<Started>,
        requests: &mut Requests,
    ) {
        self.uncount_asked(connection);
        let subscribers = &mut self.filters.entries[held.key as usize].subscribers;
        subscribers.swap_remove(held.place as usize);
        if let Some(&moved) = subscribers.get(held.place as usize) {
            let rare = self.subscribers[moved as usize].rare.as_mut();
            let theirs = rare.and_then(|rare| rare.filters.iter_mut().find(|theirs| theirs.key == held.key));
            theirs.expect("who is in a filter's list holds the filter").place = held.place;
        }
        if subscribers.is_empty() {
            let entry = self.filters.remove(held.key);
            started.extend(entry.waiting.iter().map(|&pending| Started::at(Some(pending), None)));
            for home in 0..self.homes.count {
                let (filter, encoding) = (entry.text.clone(), entry.encoding);
                requests.push((home, Request::RemoveFilter { filter, encoding }));
            }
        }
    }

    /// The connection leaves every view that neither a name nor one of its filters holds it in.
    fn leave_unmatched(&mut self, connection: u32) {
        let mut place = 0;
        while let Some(held) = self.subscribers[connection as usize].subscriptions.get(place).copied() {
            if held.member != NOT_A_MEMBER && !held.is_exact && !self.is_matched(connection, held.view) {
                if held.is_waiting {
                    // It stays, as one that waits, and joins anew at the `seq` of the answer.
                    self.views[held.view as usize].leave(held.member, false);
                    let waits = Subscription { member: NOT_A_MEMBER, ..held };
                    self.subscribers[connection as usize].subscriptions[place] = waits;
                    self.forget_owing(connection, place);
                    place += 1;
                } else {
                    self.leave(connection, place);
                    self.remove_if_unused(held.view);
                }
            } else {
                place += 1;
            }
        }
    }

    fn forget_owing(&mut self, connection: u32, place: usize) {
        let subscriber = &mut self.subscribers[connection as usize];
        subscriber.owing.retain(|&owing| owing as usize != place);
        subscriber.subscriptions[place].is_owing = false;
    }

    /// Moves the connection forward: in each topic that may skip and is beyond a bound of its own, then, while
    /// all together are too much, in the others, the furthest behind first.
    fn move_forward(&mut self, connection: u32, now_ms: u32) {
        let subscriber = &mut self.subscribers[connection as usize];
        // A topic that is at its head by now stays listed: there is nothing to take when its turn comes.
        let owing = std::mem::take(&mut subscriber.owing);
        let mut total_bytes = 0;
        let mut movable: Vec<(u64, u32)> = Vec::with_capacity(owing.len());
        for &place in &owing {
            let held = self.subscribers[connection as usize].subscriptions[place as usize];
            let view = &self.views[held.view as usize];
            if view.exceeded(held.member, now_ms).is_some() {
                let position = view.position_within_rule(now_ms);
                self.skip(connection, place, position);
            }
            let view = &self.views[held.view as usize];
            let bytes = view.owed_bytes(held.member);
            total_bytes += bytes;
            if view.rule.may_skip {
                movable.push((bytes, place));
            }
        }
        let owed_bytes_max = self.policy.owed_bytes_max;
        if total_bytes > owed_bytes_max {
            movable.sort_unstable_by_key(|&(bytes, _)| Reverse(bytes));
            for (bytes, place) in movable {
                let Some(excess_bytes) = total_bytes.checked_sub(owed_bytes_max / 2).filter(|it| *it > 0)
                else {
                    break;
                };
                let held = self.subscribers[connection as usize].subscriptions[place as usize];
                let position =
                    self.views[held.view as usize].position_within(bytes.saturating_sub(excess_bytes));
                self.skip(connection, place, position);
                total_bytes -= bytes - self.views[held.view as usize].owed_bytes(held.member);
            }
        }
        let subscriber = &mut self.subscribers[connection as usize];
        subscriber.owing = owing;
        subscriber.set_slack(total_bytes, owed_bytes_max);
    }

    /// Moves the connection's subscription in `place` forward to `position`, and notes the gap.
    fn skip(&mut self, connection: u32, place: u32, position: Position) {
        let subscriber = &mut self.subscribers[connection as usize];
        let held = subscriber.subscriptions[place as usize];
        let view = &mut self.views[held.view as usize];
        let Some((from, to)) = view.skip(held.member, position) else { return };
        self.skipped_total += to - from + 1;
        let topic = view.name.clone();
        let rare = subscriber.rare.get_or_insert_default();
        let gaps = rare.gaps.get_or_insert_default();
        let has_room = gaps.by_topic.len() < GAPS_MAX;
        match gaps.by_topic.iter_mut().find(|gap| gap.topic == topic) {
            Some(gap) => gap.to = to,
            None if has_room => gaps.by_topic.push(Gap { topic, from, to }),
            None if gaps.resync.as_ref().is_some_and(|filter| topic::matches(filter, &topic)) => {}
            None => {
                let held = rare.filters.iter().map(|held| &self.filters.entries[held.key as usize].text);
                let filter = held.into_iter().find(|filter| topic::matches(filter, &topic)).cloned();
                gaps.resync = Some(match gaps.resync {
                    Some(_) => "#".into(),
                    None => filter.unwrap_or(topic),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::{
        prelude::*,
        test_runner::{Config, RngSeed},
    };

    use super::*;
    use crate::{
        protocol::{command::PayloadKind, frame, publication::Publication},
        pubsub::{
            log::{Budget, ChunkPool},
            policy::Rule,
        },
    };

    const CONNECTIONS: usize = 5;
    const TOPICS: [&str; 4] = ["a", "a/x", "a/y", "b"];
    const FILTERS: [&str; 4] = ["a/#", "+", "#", "a/+"];
    const ENCODING: Encoding = Encoding::Json;

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
        filters: BTreeSet<&'static str>,
        owed: BTreeMap<&'static str, VecDeque<Vec<u8>>>,
        in_flight: Vec<(ViewKey, Pin)>,
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
            let of =
                |frames: &VecDeque<Vec<u8>>| frames.front().is_some_and(|frame| bytes.starts_with(frame));
            let frames = self.owed.values_mut().find(|frames| of(frames)).expect("some topic's next frame");
            let mut rest = bytes;
            while !rest.is_empty() {
                let frame = frames.pop_front().expect("a frame that is owed");
                rest = rest.strip_prefix(frame.as_slice()).expect("the frame that is next");
            }
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
        filters: BTreeSet<&'static str>,
        /// What it said, and has not arrived.
        coming: VecDeque<Coming>,
        requests: Requests,
        started: Vec<Started>,
        now_ns: u64,
    }

    enum Coming {
        Batch(Batch, &'static str, Vec<u8>),
        Subscribed(&'static str, u64),
        FilterAdded(PendingId),
    }

    fn ours(names: &[&'static str], name: &str) -> &'static str {
        names.iter().find(|ours| **ours == name).expect("one of ours")
    }

    impl Bench {
        fn new() -> Bench {
            let rule = Rule { may_skip: false, owed_bytes_max: u64::MAX, owed_ms_max: None };
            let policy = Policy { owed_bytes_max: u64::MAX, rules: Vec::new(), default: rule };
            let mut pool = ChunkPool::new(Budget::new(1 << 30));
            Bench {
                fanout: Fanout::new(Homes::new(1, 0), policy, 1_000, CONNECTIONS),
                readers: (0..CONNECTIONS).map(|_| Reader::default()).collect(),
                appender: pool.acquire(600, 0),
                pool,
                seqs: BTreeMap::new(),
                names: BTreeSet::new(),
                filters: BTreeSet::new(),
                coming: VecDeque::new(),
                requests: Vec::new(),
                started: Vec::new(),
                now_ns: 1,
            }
        }

        /// The home carries out what it was asked, at once, and answers later.
        fn ask_home(&mut self) {
            for (_, request) in self.requests.drain(..) {
                match request {
                    Request::Subscribe { topic, .. } => {
                        let name = ours(&TOPICS, &topic);
                        self.names.insert(name);
                        let seq = self.seqs.get(name).copied().unwrap_or(0);
                        self.coming.push_back(Coming::Subscribed(name, seq));
                    }
                    Request::Unsubscribe { topic, .. } => assert!(self.names.remove(&*topic)),
                    Request::AddFilter { filter, registration, .. } => {
                        self.filters.insert(ours(&FILTERS, &filter));
                        self.coming.push_back(Coming::FilterAdded(registration));
                    }
                    Request::RemoveFilter { filter, .. } => assert!(self.filters.remove(&*filter)),
                    other => panic!("{other:?}"),
                }
            }
            self.started.clear();
        }

        fn publish(&mut self, name: &'static str) {
            let seq = self.seqs.entry(name).or_default();
            *seq += 1;
            if !self.names.contains(name) && !self.filters.iter().any(|filter| topic::matches(filter, name)) {
                return;
            }
            let publication = Publication { topic: name, seq: *seq, payload: b"1", kind: PayloadKind::Json };
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
                    let (started, requests) = (&mut self.started, &mut self.requests);
                    self.fanout.handle_subscribed(name, ENCODING, Some(seq), started, requests);
                    for reader in &mut self.readers {
                        if reader.waiting.remove(name) {
                            reader.exact.insert(name);
                        }
                    }
                }
                Coming::FilterAdded(registration) => {
                    self.fanout.handle_filter_added(registration, &mut self.started);
                }
            }
            self.ask_home();
        }

        fn subscribe(&mut self, connection: usize, name: &'static str) {
            let reader = &mut self.readers[connection];
            let is_held = reader.exact.contains(name) || reader.waiting.contains(name);
            let (slot, generation) = (connection as u32, reader.generation);
            let requests = &mut self.requests;
            match self.fanout.handle_subscribe_topic(slot, generation, ENCODING, name, Some(0), requests) {
                Err(Refused) => assert!(is_held),
                Ok(Subscribed::Now(_)) => assert!(!is_held && reader.exact.insert(name)),
                Ok(Subscribed::Later) => assert!(!is_held && reader.waiting.insert(name)),
            }
            self.ask_home();
        }

        fn unsubscribe(&mut self, connection: usize, text: &'static str) {
            let reader = &mut self.readers[connection];
            let is_held =
                reader.exact.remove(text) | reader.waiting.remove(text) | reader.filters.remove(text);
            let (started, requests) = (&mut self.started, &mut self.requests);
            let left =
                self.fanout.handle_unsubscribe(connection as u32, ENCODING, text, Some(0), started, requests);
            assert_eq!(left.is_ok(), is_held);
            reader.forget_unmatched();
            self.ask_home();
        }

        fn add_filter(&mut self, connection: usize, filter: &'static str) {
            let reader = &mut self.readers[connection];
            let (slot, generation) = (connection as u32, reader.generation);
            let requests = &mut self.requests;
            let added =
                self.fanout.handle_subscribe_filter(slot, generation, ENCODING, filter, Some(0), requests);
            assert_eq!(added.is_ok(), reader.filters.insert(filter));
            self.ask_home();
        }

        fn disconnect(&mut self, connection: usize) {
            self.complete(connection, false);
            let (started, requests) = (&mut self.started, &mut self.requests);
            self.fanout.handle_disconnect(connection as u32, started, requests);
            let generation = self.readers[connection].generation + 1;
            self.readers[connection] = Reader { generation, ..Reader::default() };
            self.ask_home();
        }

        fn sweep(&mut self, visits: usize, bytes_max: u32) {
            self.now_ns += 1;
            self.fanout.start_due_sweeps(self.now_ns);
            let Some(view) = self.fanout.begin_turn() else { return };
            for _ in 0..visits {
                let Some((slot, member)) = self.fanout.next_visit(view) else { break };
                if self.readers[slot as usize].in_flight.is_empty() {
                    self.take(slot as usize, view, member, bytes_max);
                } else {
                    self.fanout.mark_owing(view, member);
                }
            }
            self.fanout.end_turn(view, self.now_ns, 0);
        }

        fn take(&mut self, connection: usize, view: ViewKey, member: u32, bytes_max: u32) {
            let Some(owed) = self.fanout.take(view, member, bytes_max) else { return };
            // SAFETY: the pin keeps the bytes there.
            let bytes = unsafe { std::slice::from_raw_parts(owed.bytes, owed.len as usize) };
            self.readers[connection].get(bytes);
            self.readers[connection].in_flight.push((view, owed.pin));
            if self.fanout.is_behind(view, member) {
                self.fanout.mark_owing(view, member);
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

    /// A fan-out whose connections all have a send in flight, and topics of which some may skip.
    struct Stalled {
        fanout: Fanout,
        pool: ChunkPool,
        seqs: BTreeMap<String, u64>,
        now_ms: u32,
    }

    /// Every publication is one frame of so many bytes.
    const FRAME_BYTES: u64 = 100;

    impl Stalled {
        fn new(owed_bytes_max: u64, owed_ms_max: Option<u32>) -> Stalled {
            let rule = |may_skip| Rule { may_skip, owed_bytes_max, owed_ms_max };
            let small = Rule { owed_bytes_max: 5 * FRAME_BYTES, ..rule(true) };
            let rules = vec![("small/#".into(), small), ("skip/#".into(), rule(true))];
            let policy = Policy { owed_bytes_max, rules, default: rule(false) };
            let fanout = Fanout::new(Homes::new(1, 0), policy, 10_000, CONNECTIONS);
            Stalled {
                fanout,
                pool: ChunkPool::new(Budget::new(1 << 30)),
                seqs: BTreeMap::new(),
                now_ms: 1_000,
            }
        }

        fn subscribe(&mut self, connection: u32, topic: &str) {
            let mut requests = Vec::new();
            let subscribed =
                self.fanout.handle_subscribe_topic(connection, 0, ENCODING, topic, None, &mut requests);
            if subscribed.unwrap() == Subscribed::Later {
                self.fanout.handle_subscribed(topic, ENCODING, Some(0), &mut Vec::new(), &mut Vec::new());
            }
        }

        /// Publishes `count` frames, each into a chunk of its own, visits everybody, and tells what became of
        /// whoever was beyond a bound.
        fn publish(&mut self, topic: &str, count: u64) -> Option<Verdict> {
            let now_ns = u64::from(self.now_ms) * 1_000_000;
            for _ in 0..count {
                let seq = self.seqs.entry(topic.into()).or_default();
                *seq += 1;
                let mut frame = vec![0; FRAME_BYTES as usize];
                frame::write_header(frame::Opcode::Text, FRAME_BYTES as usize - 2, &mut frame);
                let range = self
                    .pool
                    .acquire(frame.len(), 0)
                    .append(frame.len(), |room| room.copy_from_slice(&frame));
                let batch = Batch { topic: topic.into(), encoding: ENCODING, seq: *seq, count: 1, range };
                self.fanout.handle_batch(batch, now_ns, 0);
            }
            let mut verdict = None;
            while let Some(view) = self.fanout.begin_turn() {
                while let Some((connection, member)) = self.fanout.next_visit(view) {
                    if self.fanout.mark_owing(view, member) {
                        verdict = Some(self.fanout.judge(connection, self.now_ms));
                    }
                }
                self.fanout.end_turn(view, now_ns, 0);
            }
            verdict.filter(|verdict| *verdict != Verdict::Keep)
        }

        fn owed_bytes(&self, connection: usize) -> u64 {
            let held = self.fanout.subscribers[connection].subscriptions.iter();
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

    /// Chunks are begun in the order of publications: whoever keeps one of the first is chosen, and is moved
    /// only out of those.
    #[test]
    fn whoever_keeps_the_oldest_of_a_full_log_is_chosen() {
        let mut stalled = Stalled::new(u64::MAX, None);
        stalled.subscribe(0, "skip/old");
        stalled.subscribe(1, "old");
        stalled.publish("skip/old", 2);
        stalled.publish("old", 1);
        let born_bytes = 3 * FRAME_BYTES;
        stalled.subscribe(2, "skip/young");
        stalled.subscribe(3, "young");
        stalled.publish("skip/old", 2);
        stalled.publish("skip/young", 1);
        stalled.publish("young", 1);
        let mut shed = Shed::default();
        stalled.fanout.shed(born_bytes, &mut shed);
        assert_eq!((shed.skipped.as_slice(), shed.closing.as_slice()), (&[0][..], &[1][..]));
        assert!(shed.is_pinned, "until it is closed");
        assert_eq!(stalled.gaps(0), [("skip/old".into(), 1, 2)]);
        assert_eq!(stalled.owed_bytes(0), 2 * FRAME_BYTES);
        stalled.fanout.handle_disconnect(1, &mut Vec::new(), &mut Vec::new());
        let mut shed = Shed::default();
        stalled.fanout.shed(born_bytes, &mut shed);
        assert!(shed.skipped.is_empty() && shed.closing.is_empty() && !shed.is_pinned);
    }
}

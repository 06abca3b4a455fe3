//! One reactor's fan-out: its views of topics, who of its connections is in which, and whose turn it is.
//!
//! A connection is known by its slot. Membership is recorded twice, in the view (a [`Member`], which
//! has the position) and in the connection's own list (a `Subscription`); each names the other's
//! place, so that either side is left in constant time.
//!
//! Nothing here walks all views, members, filters or subscriptions in one go. What has to look at many is a
//! task, of which [`Fanout::run_tasks`] does as much as it is given work for.
//!
//! [`Member`]: super::view::Member

mod cursor;
mod ending;
mod filters;
mod listing;
mod membership;
mod owing;
mod pages;
mod replay;
mod subscriber;
mod subscribing;
mod tasks;
#[cfg(test)]
mod tests;
mod touring;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
};

use super::{
    home::Homes,
    log::{Budget, Charge},
    message::{PendingId, Request},
    policy::Policy,
    subscription::{ConnectionId, Gap, Started, Toured, ViewKey},
    table::Table,
    view::{MemberSlot, View},
};
use crate::protocol::Encoding;
use filters::{FilterKey, Filters};
use replay::Replay;
use subscriber::Subscriber;
use tasks::Task;
use touring::Tour;

/// For so many views there is room from the start.
const RESERVED_MAX: usize = if cfg!(test) { 4 } else { 1 << 20 };

/// All views of one reactor.
#[derive(Debug)]
pub struct Fanout {
    views: slab::Slab<View>,
    /// One more than the highest key that a view ever had.
    views_end: usize,
    by_name: [Table<Arc<str>, ViewKey>; Encoding::COUNT],
    views_max: usize,
    eviction_hand: usize,
    /// By connection slot.
    subscribers: Vec<Subscriber>,
    subscription_count: u64,
    filters: Filters,
    replays: slab::Slab<Replay>,
    tours: slab::Slab<Tour>,
    /// Pages of tours that are asked for.
    tour_pages_out: u32,
    /// Connections that ask for one when some of these have come: each once, and some that are gone.
    waiting_for_others: VecDeque<ConnectionId>,
    /// Of the last of both that began (wrapping).
    replay_serial: u32,
    replayed_total: u64,
    replayed_bytes_total: u64,
    /// Views whose sweep goes on, in turn.
    sweeping: VecDeque<ViewKey>,
    /// Views whose next sweep waits for its time.
    paced: BinaryHeap<Reverse<(u64, ViewKey)>>,
    /// Nothing waits for its time any more.
    is_hurrying: bool,
    homes: Homes,
    budget: Arc<Budget>,
    policy: Policy,
    /// What goes on over turns, each in its turn.
    tasks: VecDeque<Task>,
    /// Those for which nobody waits: they have half of what there is.
    departures: VecDeque<Task>,
    /// One of the tasks is a search for who keeps old log.
    is_shedding: bool,
    matched: Vec<FilterKey>,
    /// By connection slot, while members are looked for: how many of its filters were found to match.
    counts: Vec<u16>,
    /// Connections of which that is any.
    found: Vec<u32>,
    /// Since this was last set to false, a connection has begun to owe.
    may_owe: bool,
    deliveries_total: u64,
    skipped_total: u64,
    behind_count: u64,
    kept: Kept,
    /// Memory of segments and record starts, in bytes.
    index_bytes: usize,
    /// What the budget knows of that, and what came and went since.
    charge: Charge,
    allocated_bytes: usize,
    freed_bytes: usize,
    /// What was done since it was last asked for, as a price.
    work: u64,
}

/// How much log the view keeps that keeps most, as the hand finds it that comes by all views.
#[derive(Debug, Default)]
struct Kept {
    /// Of those that it came by in this round.
    bytes_max: u64,
    /// Of the round before.
    last_bytes_max: u64,
}

/// Where requests to homes go: (home, request).
pub type Requests = Vec<(usize, Request)>;

/// What the fan-out asks for while it does something.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Questions that can be answered.
    pub started: Vec<Started>,
    /// What homes are to do.
    pub requests: Requests,
    /// Connections that are in nothing any more: see [`Fanout::handle_disconnect`].
    pub departed: Vec<u32>,
    /// Connections whose commands can be taken again: see [`Fanout::is_unsubscribing`].
    pub released: Vec<u32>,
    /// Connections that are to be sent something of a topic's past.
    pub owed: Vec<u32>,
    /// Connections, and what they will not get of a topic's past: it went while it was being sent to them.
    pub past_gaps: Vec<(u32, Gap)>,
    /// Tours that are over: their connections have all that was published before.
    pub toured: Vec<Toured>,
    /// Questions to subscribe that are refused as [`SubscribeRefused::Already`](super::subscription::SubscribeRefused).
    pub again_refused: Vec<Option<PendingId>>,
    /// Connections that were found to be owed too much, and what became of that.
    pub judged: Vec<(u32, super::policy::Verdict)>,
}

impl Outcome {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.started.is_empty()
            && self.requests.is_empty()
            && self.departed.is_empty()
            && self.released.is_empty()
            && self.owed.is_empty()
            && self.past_gaps.is_empty()
            && self.toured.is_empty()
            && self.again_refused.is_empty()
            && self.judged.is_empty()
    }
}

impl Fanout {
    /// A fan-out without views; it keeps about `views_max` of them before it drops idle ones, and has room
    /// for `slots_max` connections. What it needs to know of the log's pieces counts against `budget`.
    pub fn new(
        homes: Homes,
        policy: Policy,
        views_max: usize,
        slots_max: usize,
        budget: Arc<Budget>,
    ) -> Fanout {
        Fanout {
            // As address space: a table that grows would move all of it.
            views: slab::Slab::with_capacity(views_max.min(RESERVED_MAX)),
            views_end: 0,
            by_name: Default::default(),
            views_max,
            eviction_hand: 0,
            subscribers: Vec::with_capacity(slots_max),
            subscription_count: 0,
            filters: Filters::default(),
            replays: slab::Slab::new(),
            tours: slab::Slab::new(),
            tour_pages_out: 0,
            waiting_for_others: VecDeque::new(),
            replay_serial: 0,
            replayed_total: 0,
            replayed_bytes_total: 0,
            sweeping: VecDeque::new(),
            paced: BinaryHeap::new(),
            is_hurrying: false,
            homes,
            policy,
            tasks: VecDeque::new(),
            departures: VecDeque::new(),
            is_shedding: false,
            matched: Vec::new(),
            counts: Vec::with_capacity(slots_max),
            found: Vec::with_capacity(slots_max),
            may_owe: false,
            deliveries_total: 0,
            skipped_total: 0,
            behind_count: 0,
            kept: Kept::default(),
            index_bytes: 0,
            charge: Charge::new(budget.clone()),
            budget,
            allocated_bytes: 0,
            freed_bytes: 0,
            work: 0,
        }
    }

    /// Deliveries that became owed since the start.
    pub fn deliveries_total(&self) -> u64 {
        self.deliveries_total
    }

    /// Deliveries that were skipped since the start.
    pub fn skipped_total(&self) -> u64 {
        self.skipped_total
    }

    /// Publications of topics' pasts that were handed over for connections since the start.
    pub fn replayed_total(&self) -> u64 {
        self.replayed_total
    }

    /// Bytes of these.
    pub fn replayed_bytes_total(&self) -> u64 {
        self.replayed_bytes_total
    }

    /// Subscriptions of all connections, by name and by filter.
    pub fn subscription_count(&self) -> u64 {
        self.subscription_count
    }

    /// How many subscriptions are behind.
    pub fn behind_count(&self) -> u64 {
        self.behind_count
    }

    /// How many bytes of log the view keeps for its members that keeps most: at most one round of the hand that
    /// looks for idle views old.
    pub fn kept_bytes_max(&self) -> u64 {
        self.kept.last_bytes_max.max(self.kept.bytes_max)
    }

    /// How many topics and filters the connection subscribed to.
    pub fn subscriptions_of(&self, connection: u32) -> usize {
        self.subscribers.get(connection as usize).map_or(0, |subscriber| subscriber.asked_count as usize)
    }

    /// How many filters with wildcards the connection subscribed to, and how many levels these have together.
    pub fn filters_of(&self, connection: u32) -> (usize, usize) {
        let rare = self.subscribers.get(connection as usize).and_then(|subscriber| subscriber.rare.as_ref());
        rare.map_or((0, 0), |rare| (rare.filters.len() + rare.tour_count as usize, rare.level_count as usize))
    }

    /// The price of what was done since [`Fanout::take_work`] took it.
    pub fn work(&self) -> u64 {
        self.work
    }

    /// The price of what was done since this was last asked.
    pub fn take_work(&mut self) -> u64 {
        std::mem::take(&mut self.work)
    }

    /// Has the budget know what the pieces of the log take here.
    pub fn charge(&mut self) {
        let (allocated_bytes, freed_bytes) = (self.allocated_bytes, self.freed_bytes);
        if allocated_bytes + freed_bytes > 0 {
            self.charge.update(allocated_bytes, freed_bytes);
            (self.allocated_bytes, self.freed_bytes) = (0, 0);
        }
    }

    /// Asserts the invariants; for tests and simulations.
    pub fn check(&self) {
        let (mut behind_count, mut index_bytes) = (0, 0);
        for (key, view) in &self.views {
            view.check();
            behind_count += u64::from(view.behind_count());
            index_bytes += view.index_bytes();
            for (slot, member) in view.members() {
                let subscriber = &self.subscribers[member.connection as usize];
                let held = subscriber.get(member.subscription);
                assert_eq!(
                    (held.view as usize, held.member),
                    (key, slot),
                    "membership is recorded twice, alike"
                );
                let sweep = view.sweep;
                let will_be_visited =
                    sweep.is_listed && (sweep.is_outrun || view.will_visit(slot) || sweep.walk.is_over());
                assert!(
                    will_be_visited || held.is_owing() || subscriber.is_leaving() || !view.is_behind(slot),
                    "whoever is behind is visited, or served when its send is over"
                );
                assert!(
                    subscriber.is_leaving() || held.is_exact() || held.filter_count > 0,
                    "a member is one by name or by a filter"
                );
            }
        }
        assert_eq!((self.behind_count, self.index_bytes), (behind_count, index_bytes), "sums are kept");
        let replaying =
            self.subscribers.iter().flat_map(Subscriber::subscriptions).filter(|held| held.is_replaying());
        let replaying_count: u32 = self.views.iter().map(|(_, view)| view.replaying_count).sum();
        assert!(
            replaying.count() <= replaying_count as usize,
            "a view stays for whoever is to be sent its past"
        );
        self.check_waiting();
        for subscriber in &self.subscribers {
            subscriber.check();
            self.check_replays(subscriber);
            for (place, held) in (0..).zip(subscriber.subscriptions()) {
                if held.member != MemberSlot::NONE {
                    let member = self.views[held.view as usize].member(held.member);
                    assert_eq!(member.subscription, place, "membership is recorded twice, alike");
                }
            }
        }
    }

    /// Asserts what holds when every task has come to its end: members by filter are those whose filters have
    /// started and match, as often as their count says, where the view has looked at all filters.
    #[cfg(test)]
    pub fn check_rested(&self) {
        assert!(!self.has_tasks());
        for (_, view) in &self.views {
            if view.filters_generation != self.filters.generation {
                continue;
            }
            for (connection, subscriber) in (0u32..).zip(&self.subscribers) {
                let held = subscriber.rare.iter().flat_map(|rare| &rare.filters);
                let entries = held.map(|held| (held, &self.filters.entries[held.key.index()]));
                let started = entries.filter(|(held, entry)| entry.holders[held.place as usize].since > 0);
                let entries = started.map(|(_, entry)| entry);
                let matching = entries.filter(|entry| {
                    entry.encoding == view.encoding()
                        && crate::protocol::topic::matches(&entry.text, &view.name)
                });
                let key = self.by_name[view.encoding().index()]
                    .get(&*view.name)
                    .expect("a view is found by its name");
                let counted = subscriber.find(key).map_or(0, |place| subscriber.get(place).filter_count);
                assert_eq!(matching.count(), usize::from(counted), "{} of {connection}", view.name);
            }
        }
    }

    /// Whether nothing is kept for any connection; for tests.
    pub fn is_empty(&self) -> bool {
        self.views.is_empty()
            && self.filters.is_empty()
            && self.replays.is_empty()
            && self.tours.is_empty()
            && self.subscription_count == 0
            && self.tour_pages_out == 0
            && self.waiting_for_others.is_empty()
            && self.by_name.iter().all(Table::is_empty)
            && self.sweeping.is_empty()
            && self.paced.is_empty()
            && !self.has_tasks()
            && self.subscribers.iter().all(|subscriber| {
                subscriber.asked_count == 0
                    && subscriber.subscriptions().is_empty()
                    && subscriber.owing_count() == 0
            })
    }

    /// How many views there are; for tests.
    pub fn view_count(&self) -> usize {
        self.views.len()
    }

    /// Changes a view, and the sums over all views with it.
    fn change<T>(&mut self, key: ViewKey, change: impl FnOnce(&mut View) -> T) -> T {
        let view = &mut self.views[key as usize];
        let (behind_count, index_bytes) = (view.behind_count(), view.index_bytes());
        let changed = change(view);
        self.behind_count = self.behind_count + u64::from(view.behind_count()) - u64::from(behind_count);
        let after_bytes = view.index_bytes();
        self.index_bytes = self.index_bytes + after_bytes - index_bytes;
        self.allocated_bytes += after_bytes.saturating_sub(index_bytes);
        self.freed_bytes += index_bytes.saturating_sub(after_bytes);
        changed
    }
}

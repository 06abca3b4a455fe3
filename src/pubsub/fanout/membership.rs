//! Who is in which view: joining, leaving, and views that come and go.

use std::sync::Arc;

use super::{Fanout, tasks::Task};
use crate::{
    protocol::{Encoding, topic},
    pubsub::{
        subscription::ViewKey,
        view::{MemberSlot, Registration, View},
    },
    work::price,
};

/// How many views one eviction looks at for an idle one.
const EVICTION_PROBES: usize = 64;
/// A view that only filters keep goes when it has not moved for so long, in nanoseconds.
const IDLE_NS: u64 = if cfg!(test) { 5_000_000_000 } else { 60_000_000_000 };
/// How many views a period looks at at least, and which part of all: a round takes so many periods.
const HAND_VIEWS_MIN: usize = 64;
const HAND_PERIODS: usize = 64;
const HAND_VIEWS_MAX: usize = 4_096;

impl Fanout {
    /// A few times per second: looks at some of the views, for those that have not moved for long and can be made
    /// anew when they do.
    pub fn handle_period(&mut self, now_ns: u64) {
        let count = (self.views.len() / HAND_PERIODS + HAND_VIEWS_MIN).min(HAND_VIEWS_MAX);
        for _ in 0..count.min(self.views_end) {
            let Some(key) = self.next_idle() else { continue };
            if now_ns.saturating_sub(self.views[key as usize].sweep.started_ns) > IDLE_NS {
                self.begin_dropping(key);
            }
        }
    }

    /// The hand comes by the next view: tells which if it is idle, and notes how much log it keeps.
    fn next_idle(&mut self) -> Option<ViewKey> {
        self.work += price::LOOK;
        let key = self.eviction_hand;
        self.eviction_hand += 1;
        if self.eviction_hand >= self.views_end {
            self.eviction_hand = 0;
            self.kept.last_bytes_max = std::mem::take(&mut self.kept.bytes_max);
        }
        let view = self.views.get(key)?;
        self.kept.bytes_max = self.kept.bytes_max.max(view.kept_bytes());
        is_idle(view).then_some(key as ViewKey)
    }

    /// A view without members, in place of an idle one where there are as many as may be.
    pub(super) fn create_view(&mut self, name: Arc<str>, encoding: Encoding) -> ViewKey {
        self.work += price::VIEW;
        if self.views.len() >= self.views_max {
            self.evict_one();
        }
        let (view, work) = View::new(name.clone(), encoding, &self.policy);
        self.work += work;
        let key = self.views.insert(view) as ViewKey;
        self.views_end = self.views_end.max(key as usize + 1);
        self.by_name[encoding.index()].insert(name, key);
        key
    }

    /// Drops one view that only filters keep and whose log is empty: its members' positions are at the
    /// head, which is where they will be when it is made anew.
    fn evict_one(&mut self) {
        for _ in 0..EVICTION_PROBES.min(self.views_end) {
            if let Some(key) = self.next_idle() {
                return self.begin_dropping(key);
            }
        }
    }

    /// Its members leave a view that is idle, by a task; whatever happens to it meanwhile ends that.
    fn begin_dropping(&mut self, key: ViewKey) {
        let view = &mut self.views[key as usize];
        if view.member_count() == 0 {
            return self.remove_if_unused(key);
        }
        view.is_dropping = true;
        // Those who left have to be found again.
        view.filters_generation = 0;
        self.put_off(Task::Drop { key });
    }

    /// Drops the view if nobody needs it.
    pub(super) fn remove_if_unused(&mut self, key: ViewKey) {
        let view = &self.views[key as usize];
        if view.is_unused() && !view.sweep.is_listed {
            self.work += price::VIEW;
            let view = self.views.remove(key as usize);
            self.by_name[view.encoding().index()].remove(&*view.name);
        }
    }

    /// Makes members of those who subscribed to a filter that matches since the view last looked: from the head
    /// on. The price is of the filters that match and, of those that somebody subscribed to since, their holders.
    pub(super) fn join_matched(&mut self, key: ViewKey) {
        let view = &self.views[key as usize];
        let since = view.filters_generation;
        if since == self.filters.generation {
            return;
        }
        self.work += self.filters.matches_since(view.encoding(), &view.name, since, &mut self.matched);
        self.join_found(key, since);
    }

    /// The second half of [`Fanout::join_matched`], when the filters that were subscribed to after `since` are found.
    pub(super) fn join_found(&mut self, key: ViewKey, since: u64) {
        let view = &mut self.views[key as usize];
        view.filters_generation = self.filters.generation;
        view.is_dropping = false;
        self.find_holders(since);
        let mut found = std::mem::take(&mut self.found);
        for connection in found.drain(..) {
            let count = std::mem::take(&mut self.counts[connection as usize]);
            self.join_by_filters(connection, count, key, since);
        }
        self.found = found;
    }

    /// Who subscribed to a filter that was matched, after `since`: each connection once, since a stranger may hold a
    /// thousand of them, and with how many. Both are to be taken.
    pub(super) fn find_holders(&mut self, since: u64) {
        self.counts.resize(self.subscribers.len(), 0);
        for filter in self.matched.drain(..) {
            let holders = &self.filters.entries[filter.index()].holders;
            self.work += holders.len() as u64 * price::HOLDER;
            for holder in holders {
                if holder.since > since {
                    let count = &mut self.counts[holder.connection as usize];
                    if *count == 0 {
                        self.found.push(holder.connection);
                    }
                    *count += 1;
                }
            }
        }
    }

    /// So many more of the connection's filters match the view, those that it subscribed to after `since`.
    fn join_by_filters(&mut self, connection: u32, mut count: u16, key: ViewKey, since: u64) {
        let subscriber = &mut self.subscribers[connection as usize];
        if subscriber.is_leaving() {
            return;
        }
        let place = subscriber.find(key);
        // A filter that is being taken back counts only where the task that does so has still to come by.
        if let Some(held) = subscriber.unsubscribing_filter()
            && !place.is_some_and(|it| subscriber.is_ahead(it))
        {
            let filter = &self.filters.entries[held.key.index()];
            self.work += price::MATCH;
            let is_new = filter.holders[held.place as usize].since > since;
            if is_new && topic::matches(&filter.text, &self.views[key as usize].name) {
                count -= 1;
            }
        }
        if count == 0 {
            return;
        }
        self.work += price::MEMBERSHIP;
        let place = place.unwrap_or_else(|| subscriber.push(key));
        let held = subscriber.get_mut(place);
        assert!(!held.is_replaying(), "nobody has a filter that matches what it is sent the past of");
        // Where the view looks for all of them it counts anew, also for those who are members already.
        held.filter_count = if since == 0 { count } else { held.filter_count + count };
        if held.member == MemberSlot::NONE {
            held.member = self.views[key as usize].join(connection, place, false);
        }
    }

    /// Gives the connection its exact subscription at `place`: it joins, or stays the member that a filter made
    /// it.
    pub(super) fn make_exact(&mut self, connection: u32, place: u32) {
        self.work += price::MEMBERSHIP;
        let held = self.subscribers[connection as usize].get_mut(place);
        let view = &mut self.views[held.view as usize];
        held.set_exact(true);
        if held.member == MemberSlot::NONE {
            held.member = view.join(connection, place, true);
        } else {
            view.set_exact(true);
        }
    }

    /// The connection leaves the view that its subscription at `place` names; one that still waits for its home
    /// stays, without being a member. A gap that the connection is to be told outlives that: a view may be
    /// evicted with the subscription going on.
    pub(super) fn leave(&mut self, connection: u32, place: u32) {
        self.leave_view(connection, place);
        let held = self.subscribers[connection as usize].get_mut(place);
        if held.is_waiting() {
            held.filter_count = 0;
        } else {
            self.remove_subscription(connection, place);
        }
    }

    /// The connection is no member any more, and still has the subscription at `place`.
    pub(super) fn leave_view(&mut self, connection: u32, place: u32) {
        self.work += price::MEMBERSHIP;
        let subscriber = &mut self.subscribers[connection as usize];
        subscriber.forget_owing(place);
        let held = subscriber.get_mut(place);
        let (view, member, is_exact) = (held.view, held.member, held.is_exact());
        held.member = MemberSlot::NONE;
        let moves = self.change(view, |view| view.leave(member, is_exact));
        for moved in moves {
            self.subscribers[moved.connection as usize].get_mut(moved.subscription).member = moved.slot;
        }
    }

    /// Takes a subscription that is no membership out of the connection's list.
    pub(super) fn remove_subscription(&mut self, connection: u32, place: u32) {
        let views = &mut self.views;
        self.subscribers[connection as usize]
            .remove(place, |view, member, to| views[view as usize].set_subscription(member, to));
    }
}

/// Whether only filters keep the view, and nothing of it is owed or in flight.
fn is_idle(view: &View) -> bool {
    view.registration == Registration::None
        && view.exact_count() == 0
        && view.waiting.is_empty()
        && view.replaying_count == 0
        && view.is_log_empty()
        && !view.sweep.is_listed
        && !view.is_dropping
}

//! What has to look at many views, members or subscriptions, a little in each turn.
//!
//! A task owns nothing that others need: between two of its steps anything may join, leave or go away, and it
//! finds what is left. Each gets a quantum in its turn, so that a long one does not hold up the others.

use super::{Fanout, Outcome, filters::FilterKey, owing::Judging, subscriber::UNSUBSCRIBING};
use crate::{
    protocol::topic,
    pubsub::{
        message::PendingId,
        policy::{Bound, Policy, Verdict},
        subscription::{ConnectionId, Started, ViewKey},
        view::{MemberSlot, Position},
    },
    work::{UNIT, price},
};

/// What a task may do before it is another's turn, and what may be done at once without becoming one.
const QUANTUM: u64 = if cfg!(test) { UNIT } else { 20 * UNIT };

#[derive(Debug)]
pub(super) enum Task {
    /// A connection that is gone leaves what it was in.
    Depart { connection: u32 },
    /// A connection lets go of the filter `key`, and leaves what no other of its filters matches. Views that have
    /// not looked at filters since the generation `since` did not count it.
    Unsubscribe { connection: ConnectionId, key: FilterKey, since: u64, pending: PendingId },
    /// A connection that is owed in many topics is held to its bounds.
    Judge(Box<Judging>),
    /// The members of an idle view leave it.
    Drop { key: ViewKey },
    /// Log that only stragglers keep comes free.
    Shed(Shed),
    /// Connections learn that what they may be owed is bounded anew.
    Policy { next_subscriber: usize },
}

/// Stragglers that keep what was appended before `clock` on the log's age clock are looked for.
#[derive(Debug)]
pub(super) struct Shed {
    clock: u64,
    next_view: usize,
    next_member: u32,
    /// Behind the views: whose pages are looked at next.
    next_subscriber: usize,
}

impl Fanout {
    /// Goes on with what takes more than a turn, each task in its turn, for work of at most `price_max` (and
    /// what the last step takes); `now_ms` wraps. Tells whether anything is left.
    pub fn run_tasks(&mut self, price_max: u64, now_ms: u32, outcome: &mut Outcome) -> bool {
        let (start, until) = (self.work, self.work + price_max);
        while self.work < until {
            // Connections that are gone, however many, leave half of it to those for which somebody waits.
            let is_departures_turn = self.work - start >= price_max / 2 || self.tasks.is_empty();
            let task = match is_departures_turn {
                true => self.departures.pop_front().or_else(|| self.tasks.pop_front()),
                false => self.tasks.pop_front(),
            };
            let Some(mut task) = task else { return false };
            // Each costs something, or many that find nothing would be free; and gets on by a step at least.
            self.work += price::LOOK;
            let quantum = until.min(self.work + QUANTUM).max(self.work + 1);
            if self.go_on(&mut task, now_ms, quantum, outcome) {
                match task {
                    Task::Depart { connection } => outcome.departed.push(connection),
                    Task::Unsubscribe { connection, pending, .. } => {
                        outcome.started.push(Started::at(Some(pending), None));
                        outcome.released.push(connection.slot);
                    }
                    Task::Shed(_) => self.is_shedding = false,
                    _ => {}
                }
            } else {
                self.put_off(task);
            }
        }
        self.has_tasks()
    }

    /// Whether there is anything for [`Fanout::run_tasks`].
    pub fn has_tasks(&self) -> bool {
        !(self.tasks.is_empty() && self.departures.is_empty())
    }

    /// Judges by `policy` from now on. A view takes its rule of that at its next batch, or when a member of it is judged.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy.after(&self.policy);
        self.tasks.retain(|task| !matches!(task, Task::Policy { .. }));
        self.tasks.push_back(Task::Policy { next_subscriber: 0 });
    }

    /// Looks for members that keep what was appended before `clock` on the log's age clock, in chunks that are
    /// not written any more: they are moved forward, or told as [`Outcome::judged`] where their topics do not
    /// allow that. Whoever takes what it is given is not looked for: only those who have a send in flight, which
    /// keeps them from it. One search at a time.
    pub fn shed(&mut self, clock: u64) {
        if !std::mem::replace(&mut self.is_shedding, true) {
            self.tasks.push_back(Task::Shed(Shed {
                clock,
                next_view: 0,
                next_member: 0,
                next_subscriber: 0,
            }));
        }
    }

    /// Does a task as far as it goes at once; tells whether that was all. Else it goes on in later turns.
    pub(super) fn begin(&mut self, mut task: Task, outcome: &mut Outcome) -> bool {
        let is_over = self.go_on(&mut task, 0, self.work + QUANTUM, outcome);
        if !is_over {
            self.put_off(task);
        }
        is_over
    }

    /// The task goes on when it is its turn.
    pub(super) fn put_off(&mut self, task: Task) {
        match task {
            Task::Depart { .. } | Task::Drop { .. } => self.departures.push_back(task),
            _ => self.tasks.push_back(task),
        }
    }

    /// Goes on until it has done work up to `until`; tells whether the task is over.
    fn go_on(&mut self, task: &mut Task, now_ms: u32, until: u64, outcome: &mut Outcome) -> bool {
        match task {
            Task::Depart { connection } => self.go_on_departing(*connection, until, outcome),
            Task::Unsubscribe { connection, key, since, .. } => {
                self.go_on_unsubscribing(*connection, *key, *since, until, outcome)
            }
            Task::Judge(judging) => self.go_on_judging(judging, now_ms, until, outcome),
            Task::Drop { key } => self.go_on_dropping(*key, until),
            Task::Shed(shed) => self.go_on_shedding(shed, until, outcome),
            Task::Policy { next_subscriber } => self.go_on_reloading(next_subscriber, until),
        }
    }

    fn go_on_departing(&mut self, connection: u32, until: u64, outcome: &mut Outcome) -> bool {
        while self.work < until {
            if !self.depart_replays(connection, until, outcome) {
                return false;
            }
            let subscriber = &mut self.subscribers[connection as usize];
            if let Some(held) = subscriber.rare.as_mut().and_then(|rare| rare.filters.pop()) {
                self.drop_filter(connection, held, outcome);
                continue;
            }
            let Some(held) = subscriber.subscriptions().last().copied() else {
                *subscriber = Default::default();
                return true;
            };
            let place = subscriber.subscriptions().len() as u32 - 1;
            if held.is_ending() {
                let again = self.forget_ending(connection, place, outcome);
                outcome.started.extend(again.map(|again| Started::at(again.pending, None)));
            } else if held.is_by_name() {
                subscriber.asked_count -= 1;
                self.subscription_count -= 1;
            }
            if held.is_replaying() {
                self.views[held.view as usize].replaying_count -= 1;
            }
            if held.member != MemberSlot::NONE {
                self.leave_view(connection, place);
            }
            self.work += price::MEMBERSHIP;
            self.remove_subscription(connection, place);
            self.let_go(held.view, outcome);
        }
        false
    }

    fn go_on_unsubscribing(
        &mut self,
        ConnectionId { slot: connection, generation }: ConnectionId,
        key: FilterKey,
        since: u64,
        until: u64,
        outcome: &mut Outcome,
    ) -> bool {
        while self.work < until {
            let subscriber = &mut self.subscribers[connection as usize];
            // Whoever is gone, or going, has let go of all filters.
            if subscriber.generation != generation || subscriber.is_leaving() || !subscriber.is(UNSUBSCRIBING)
            {
                return true;
            }
            let Some(place) = subscriber.step() else {
                subscriber.set(UNSUBSCRIBING, false);
                let rare = subscriber.rare.as_mut().expect("who holds a filter has the rare parts");
                rare.unsubscribing = None;
                let place = rare.filters.iter().position(|held| held.key == key);
                let held = rare.filters.swap_remove(place.expect("it is held until the task is over"));
                self.drop_filter(connection, held, outcome);
                return true;
            };
            self.work += price::LOOK;
            let held = subscriber.get(place);
            let view = &self.views[held.view as usize];
            // A view that is to look at all filters anew finds whoever still matches.
            let is_uncounted = view.filters_generation < since && view.filters_generation != 0;
            if held.filter_count == 0 || is_uncounted {
                continue;
            }
            self.work += price::MATCH;
            if !topic::matches(&self.filters.entries[key.index()].text, &view.name) {
                continue;
            }
            // Of a view that is being dropped nothing is owed, and whoever still matches joins it anew.
            let (is_dropping, is_uncounted) = (view.is_dropping, view.filters_generation == 0);
            let left = if is_dropping || is_uncounted { 0 } else { held.filter_count - 1 };
            subscriber.get_mut(place).filter_count = left;
            if !is_dropping {
                // Those of its filters that the view has not looked at yet may hold it there.
                self.join_matched(held.view);
            }
            let held = self.subscribers[connection as usize].get(place);
            if held.filter_count == 0 && !held.is_exact() {
                self.leave(connection, place);
                self.remove_if_unused(held.view);
            }
        }
        false
    }

    fn go_on_dropping(&mut self, key: ViewKey, until: u64) -> bool {
        while self.work < until {
            // Gone, moved, or another of the same key that is not idle: nothing is to be done.
            let Some(view) = self.views.get(key as usize).filter(|view| view.is_dropping) else {
                return true;
            };
            let Some(last) = view.member_count().checked_sub(1) else {
                self.remove_if_unused(key);
                return true;
            };
            let member = view.member(MemberSlot::new(last));
            self.leave(member.connection, member.subscription);
        }
        false
    }

    fn go_on_shedding(&mut self, shed: &mut Shed, until: u64, outcome: &mut Outcome) -> bool {
        while self.work < until {
            self.work += price::LOOK;
            if shed.next_view >= self.views_end {
                if shed.next_subscriber >= self.subscribers.len() {
                    return true;
                }
                self.shed_pages(shed.next_subscriber as u32, shed.clock, outcome);
                shed.next_subscriber += 1;
                continue;
            }
            let key = shed.next_view as ViewKey;
            let fresh = self.views.get(shed.next_view).and_then(|view| view.position_fresh(shed.clock));
            let Some(fresh) = fresh.filter(|_| shed.next_member < self.views[key as usize].member_count())
            else {
                (shed.next_view, shed.next_member) = (shed.next_view + 1, 0);
                continue;
            };
            self.shed_members(key, fresh, shed, until, outcome);
        }
        false
    }

    /// Looks at the members of one view, from where it was left.
    fn shed_members(
        &mut self,
        key: ViewKey,
        fresh: Position,
        shed: &mut Shed,
        until: u64,
        outcome: &mut Outcome,
    ) {
        self.work += self.views[key as usize].follow(&self.policy);
        // One in any case, so that it gets on.
        let until = until.max(self.work + 1);
        while self.work < until && shed.next_member < self.views[key as usize].member_count() {
            self.work += price::LOOK;
            let (view, slot) = (&self.views[key as usize], MemberSlot::new(shed.next_member));
            shed.next_member += 1;
            let member = view.member(slot);
            let (connection, place) = (member.connection, member.subscription);
            let subscriber = &self.subscribers[connection as usize];
            if !view.is_before(slot, fresh) || !subscriber.get(place).is_owing() || subscriber.is_leaving() {
                continue;
            }
            if view.rule().may_skip {
                self.skip(connection, place, fresh);
                outcome.judged.push((connection, Verdict::Skip(Bound::LogBytes)));
            } else {
                outcome.judged.push((connection, Verdict::Disconnect(Bound::LogBytes)));
            }
        }
    }

    fn go_on_reloading(&mut self, next_subscriber: &mut usize, until: u64) -> bool {
        while self.work < until {
            self.work += price::LOOK;
            let Some(subscriber) = self.subscribers.get_mut(*next_subscriber) else { return true };
            // What it is owed is summed up when it is owed the next.
            subscriber.forget_slack();
            *next_subscriber += 1;
        }
        false
    }
}

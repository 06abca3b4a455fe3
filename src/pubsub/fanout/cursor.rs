//! Heads that move, and cursors that visit who is behind.

use std::cmp::Reverse;

use super::Fanout;
use crate::{
    protocol::Encoding,
    pubsub::{
        message::Batch,
        subscription::ViewKey,
        view::{MemberSlot, Owed, Pin},
    },
    work::price,
};

/// A topic waits for its next sweep at most so long per member, in nanoseconds: some twenty times what
/// sending to one costs.
const MEMBER_DELAY_NS: u64 = 50_000;

impl Fanout {
    /// A topic's head moves; its members are behind now and will be visited.
    pub fn handle_batch(&mut self, batch: Batch, now_ns: u64, delay_ns: u64) {
        self.work += price::EXCHANGE;
        let encoding = batch.encoding;
        let key = match self.by_name[encoding.index()].get(&*batch.topic) {
            Some(key) => {
                self.views[key as usize].is_dropping = false;
                self.join_matched(key);
                key
            }
            None => {
                // Nobody by name: for those whose filter matches, or left over from who is gone.
                self.work += self.filters.matches_since(encoding, &batch.topic, 0, &mut self.matched);
                if self.matched.is_empty() {
                    return;
                }
                let key = self.create_view(batch.topic.clone(), encoding);
                self.join_found(key, 0);
                key
            }
        };
        self.work += self.views[key as usize].follow(&self.policy);
        let clock = self.budget.clock();
        self.deliveries_total += u64::from(batch.count) * u64::from(self.views[key as usize].member_count());
        self.change(key, |view| view.append(batch, (now_ns / 1_000_000) as u32, clock));
        let view = &mut self.views[key as usize];
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
        Encoding::ALL.into_iter().map(|encoding| self.receiver_count_in(encoding, topic)).sum()
    }

    fn receiver_count_in(&mut self, encoding: Encoding, topic: &str) -> u64 {
        // A view that is being dropped has lost some of its members, and is looked up as if it were gone.
        if let Some(key) = self.by_name[encoding.index()].get(topic)
            && !self.views[key as usize].is_dropping
        {
            return u64::from(self.views[key as usize].member_count());
        }
        self.work += self.filters.matches_since(encoding, topic, 0, &mut self.matched);
        self.find_holders(0);
        let count = self.found.len() as u64;
        self.found.drain(..).for_each(|connection| self.counts[connection as usize] = 0);
        count
    }

    /// Lists what is due to sweep, as far as `price_max` goes.
    pub fn start_due_sweeps(&mut self, now_ns: u64, price_max: u64) {
        let until = self.work + price_max;
        while let Some(&Reverse((due_ns, key))) = self.paced.peek() {
            if (due_ns > now_ns && !self.is_hurrying) || self.work >= until {
                return;
            }
            self.work += price::LOOK;
            self.paced.pop();
            self.start_sweep(key, now_ns);
        }
    }

    /// Whether views wait for the time of their sweep, or not at all: before the end everything is owed at once.
    pub fn set_hurrying(&mut self, is_hurrying: bool) {
        self.is_hurrying = is_hurrying;
    }

    /// When the next view's sweep is due, of those that wait for their time.
    pub fn next_sweep_ns(&self) -> Option<u64> {
        let due_ns = self.paced.peek().map(|Reverse((due_ns, _))| *due_ns);
        if self.is_hurrying { due_ns.map(|_| 0) } else { due_ns }
    }

    /// Takes the view whose turn it is to be swept; give it back with [`Fanout::put_back`].
    pub fn take_sweeping(&mut self) -> Option<ViewKey> {
        self.sweeping.pop_front()
    }

    /// The next connection that the view's cursor visits and that is behind, with its place among the
    /// members; none when the sweep is over, or `steps` members were passed by, each of which takes one off.
    pub fn next_visit(&mut self, key: ViewKey, steps: &mut u32) -> Option<(u32, MemberSlot)> {
        while let Some(left) = steps.checked_sub(1) {
            let view = &mut self.views[key as usize];
            let slot = view.next_visit()?;
            *steps = left;
            if !view.is_behind(slot) {
                continue;
            }
            // Whoever is gone is left to the task that takes it out of here.
            let connection = view.member(slot).connection;
            if !self.subscribers[connection as usize].is_leaving() {
                return Some((connection, slot));
            }
        }
        None
    }

    /// The view's turn is over: its sweep goes on later, or is over.
    pub fn put_back(&mut self, key: ViewKey, now_ns: u64, delay_ns: u64) {
        let view = &mut self.views[key as usize];
        if !view.sweep.walk.is_over() {
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
        !self.sweeping.is_empty() || (self.is_hurrying && !self.paced.is_empty())
    }

    /// Takes what a visited member is owed; see [`View::take`](crate::pubsub::view::View::take).
    pub fn take(&mut self, key: ViewKey, slot: MemberSlot, bytes_max: u32) -> Option<Owed> {
        let view = &mut self.views[key as usize];
        let behind_count = view.behind_count();
        let owed = view.take(slot, bytes_max);
        self.behind_count -= u64::from(behind_count - view.behind_count());
        owed
    }

    /// Whether the member is (still) behind.
    pub fn is_behind(&self, key: ViewKey, slot: MemberSlot) -> bool {
        self.views[key as usize].is_behind(slot)
    }

    /// A send of what was taken is over.
    pub fn unpin(&mut self, key: ViewKey, pin: Pin) {
        // Most of them let go of nothing: then no sum changes, and the view stays.
        if self.views[key as usize].unpin_kept(pin) {
            return;
        }
        self.change(key, |view| view.unpin(pin));
        self.remove_if_unused(key);
    }

    /// Whether `pin` keeps log that must go: see [`View::position_fresh`](crate::pubsub::view::View::position_fresh).
    pub fn pins_stale(&self, key: ViewKey, pin: Pin, clock: u64) -> bool {
        self.views[key as usize].pins_stale(pin, clock)
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
            self.paced.push(Reverse((due_ns, key)));
        }
    }

    fn start_sweep(&mut self, key: ViewKey, now_ns: u64) {
        self.views[key as usize].start_sweep(now_ns);
        self.sweeping.push_back(key);
    }
}

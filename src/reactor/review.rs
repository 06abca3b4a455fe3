//! After what clients may do has changed: connections are looked at again, and what is not granted any more is taken back.
//!
//! Publishing and every other command obeys at once, since each is asked for anew. A subscription was granted when it began, and is
//! found here: all connections of the reactor in turn, a few steps in each turn of it, and each subscription of one by itself.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use foldhash::fast::RandomState;

use super::{
    connection::Phase,
    connections::Connections,
    desk::Desk,
    pending::{HeldTopic, Pending, PendingKind},
    share,
};
use crate::{
    access::{
        grants::Action,
        revocation::{Revocations, Why},
    },
    protocol::{
        close::CloseReason,
        reply::Reply,
        tenant::{self, Tenant},
    },
    pubsub::subscription::{ConnectionId, Refused, Started, Unsubscribed},
    work::price,
};

/// What is told of a subscription that is not granted any more.
const FORBIDDEN: &str = "forbidden";
/// And of a tour that stood in the way of taking another one back: it may be subscribed to again.
const BUSY: &str = "busy";

/// Connections that are to be looked at.
#[derive(Debug, Default)]
pub struct Review {
    /// The one that is being looked at, if a turn ended meanwhile.
    current: Option<(ConnectionId, Left)>,
    /// Of a round through all slots, the next one; none if there is no round.
    next_slot: Option<u32>,
    /// The last one was of that round.
    was_of_round: bool,
    /// Of the round that looks for those who are revoked, which goes around so many slots: the next one, and how many are left.
    revoked_slot: u32,
    revoked_left: usize,
    revoked_count: usize,
    /// Connections with what is to be looked at of them; nothing yet, of those that have just brought another credential.
    queue: VecDeque<(ConnectionId, Option<Left>)>,
    /// Slots of those that have: each is there once.
    changed: HashSet<u32, RandomState>,
    /// Those that are leaving something, by slot: they go on when they have.
    leaving: HashMap<u32, (ConnectionId, Left), RandomState>,
}

/// What is still to be looked at of a connection.
#[derive(Debug)]
struct Left {
    /// Topics and filters.
    texts: Vec<Arc<str>>,
    /// Of its subscriptions by name those that stand before this place.
    below: u32,
}

/// What those are told who cannot stay as who they are.
const NOT_ACCEPTED: &str = "the token is not accepted any more";

/// Who so many connections were is forgotten in a turn.
const GONE_PER_TURN: usize = if cfg!(test) { 2 } else { 256 };

/// So many places of a connection are looked at for subscriptions by name in one step: most may be of topics that its filters
/// match.
const PLACES_MAX: u32 = if cfg!(test) { 2 } else { 256 };

impl Review {
    /// All connections are to be looked at.
    pub fn begin(&mut self) {
        (self.next_slot, self.current, self.was_of_round) = (Some(0), None, false);
        self.queue.clear();
        self.changed.clear();
        self.leaving.clear();
    }

    /// None is any more: everybody may do everything.
    pub fn end(&mut self) {
        *self = Review::default();
    }

    /// All connections of so many slots are to be looked at for whether they are revoked; whoever takes a slot beyond is let in
    /// by the new table. A round that is under way goes on from where it is, so that rounds that follow each other fast get around.
    pub fn begin_revoking(&mut self, slot_count: usize) {
        (self.revoked_count, self.revoked_left) = (slot_count, slot_count);
    }

    /// The next slot of that round.
    fn next_revoked(&mut self) -> Option<u32> {
        self.revoked_left = self.revoked_left.checked_sub(1)?;
        let slot = if (self.revoked_slot as usize) < self.revoked_count { self.revoked_slot } else { 0 };
        self.revoked_slot = slot + 1;
        Some(slot)
    }

    /// This one is.
    pub fn note_changed(&mut self, connection: ConnectionId) {
        if self.changed.insert(connection.slot) {
            self.queue.push_back((connection, None));
        }
    }

    /// Whoever is next: by turns one of the round, however many bring credentials, and one of those.
    fn next(&mut self, connections: &Connections) -> Option<(ConnectionId, Option<Left>)> {
        if let Some((connection, left)) = self.current.take() {
            return Some((connection, Some(left)));
        }
        if !self.was_of_round
            && let Some(connection) = self.next_of_round(connections)
        {
            self.was_of_round = true;
            return Some((connection, None));
        }
        self.was_of_round = false;
        let next = self.queue.pop_front();
        if let Some((connection, None)) = &next {
            self.changed.remove(&connection.slot);
        }
        next.or_else(|| self.next_of_round(connections).map(|connection| (connection, None)))
    }

    fn next_of_round(&mut self, connections: &Connections) -> Option<ConnectionId> {
        let slot = self.next_slot?;
        let is_last = slot as usize >= connections.slot_count();
        self.next_slot = (!is_last).then_some(slot + 1);
        (!is_last).then(|| connections.id_of(slot))
    }

    /// The connection has left what it was leaving.
    pub fn note_left(&mut self, slot: u32) {
        if !self.leaving.is_empty()
            && let Some((connection, left)) = self.leaving.remove(&slot)
        {
            self.queue.push_back((connection, Some(left)));
        }
    }

    /// The connection is over.
    pub fn forget(&mut self, slot: u32) {
        if !self.changed.is_empty() {
            self.changed.remove(&slot);
        }
        if !self.leaving.is_empty() {
            self.leaving.remove(&slot);
        }
    }

    /// Whether there is anything to do.
    pub fn is_under_way(&self) -> bool {
        self.current.is_some() || self.next_slot.is_some() || !self.queue.is_empty() || self.revoked_left > 0
    }

    /// How many connections are still to be looked at, of so many slots.
    pub fn pending(&self, slot_count: usize) -> u64 {
        let of_round = self.next_slot.map_or(0, |next| slot_count.saturating_sub(next as usize));
        let is_current = usize::from(self.current.is_some());
        (of_round + is_current + self.queue.len() + self.leaving.len() + self.revoked_left) as u64
    }
}

impl Desk {
    /// Goes on with the review, by its share of a turn.
    pub(super) fn go_on_reviewing(&mut self) {
        self.forget_gone();
        if !self.review.is_under_way() {
            return;
        }
        let until = self.meter.spent() + share::REVIEW;
        self.close_revoked(until);
        while self.meter.spent() < until {
            let Some((connection, left)) = self.review.next(&self.connections) else { break };
            self.meter.spend(price::LOOK);
            if self.connections.has(connection) && self.connections[connection.slot].phase == Phase::Open {
                self.review_connection(connection, left, until);
            }
            self.take_work();
        }
    }

    /// Goes on forgetting who connections were, where nobody is asked any more. Whoever was of a tenant cannot stay: what it is
    /// subscribed to is not what it would mean from now on by the same names.
    fn forget_gone(&mut self) {
        for _ in 0..GONE_PER_TURN {
            let Some((slot, was_of_tenant)) = self.gate.forget_gone() else { return };
            self.meter.spend(price::LOOK);
            if was_of_tenant && self.connections[slot].phase == Phase::Open {
                self.close(slot, CloseReason::Revoked, NOT_ACCEPTED);
            }
        }
    }

    /// Lets in nobody any more of whom these say so, and looks for connections of theirs.
    pub fn revoke(&mut self, revocations: Arc<Revocations>) {
        if !revocations.is_empty() {
            self.review.begin_revoking(self.connections.slot_count());
        }
        self.gate.set_revocations(revocations);
    }

    /// Goes on with the round that looks for those who are revoked. Nothing else is looked at of a connection: those who must go
    /// are to be gone soon, and nobody's rights have changed.
    fn close_revoked(&mut self, until: u64) {
        while self.meter.spent() < until
            && let Some(slot) = self.review.next_revoked()
        {
            self.meter.spend(price::LOOK);
            if self.connections[slot].phase == Phase::Open {
                self.close_if_revoked(slot);
                self.take_work();
            }
        }
    }

    /// Closes the connection if whoever it is is revoked; tells whether it is.
    fn close_if_revoked(&mut self, slot: u32) -> bool {
        let Some(why) = self.gate.revoked(slot) else { return false };
        self.audit_closed(slot, why);
        match why {
            Why::Blocked => self.close(slot, CloseReason::Forbidden, "this user is blocked"),
            Why::Revoked => self.close(slot, CloseReason::Revoked, "revoked"),
        }
        true
    }

    /// Looks at the connection, or goes on with what is left of it.
    fn review_connection(&mut self, connection: ConnectionId, left: Option<Left>, until: u64) {
        let slot = connection.slot;
        if !self.gate.find_again(slot) {
            self.audit_closed(slot, Why::Revoked);
            return self.close(slot, CloseReason::Revoked, NOT_ACCEPTED);
        }
        // A static token may be another user's now.
        if self.close_if_revoked(slot) {
            return;
        }
        let mut left = left.unwrap_or_else(|| {
            let mut texts = self.fanout.list_filters(slot);
            texts.reverse();
            Left { texts, below: u32::MAX }
        });
        loop {
            if self.meter.spent() >= until {
                self.review.current = Some((connection, left));
                return;
            }
            let Some(text) = left.texts.pop() else {
                if left.below == 0 {
                    return;
                }
                (left.texts, left.below) = self.fanout.list_names(slot, left.below, PLACES_MAX);
                self.take_work();
                continue;
            };
            let (of, outer) = tenant::split(&text);
            if of != self.gate.tenant(slot).map(Tenant::first_level) {
                return self.close(slot, CloseReason::Revoked, NOT_ACCEPTED);
            }
            if self.is_allowed(slot, Action::Subscribe, outer) {
                continue;
            }
            // One at a time.
            if self.fanout.is_unsubscribing(slot) {
                left.texts.push(text);
                self.review.leaving.insert(slot, (connection, left));
                return;
            }
            match self.fanout.find_tour_in_the_way(slot, &text) {
                Some(tour) => {
                    left.texts.push(text);
                    self.take_back(slot, &tour, BUSY);
                }
                None => self.take_back(slot, &text, FORBIDDEN),
            }
            if self.connections[slot].phase != Phase::Open {
                return;
            }
        }
    }

    /// Takes back the connection's subscription to `text`, whatever of its past is being sent.
    fn take_back(&mut self, slot: u32, text: &Arc<str>, reason: &'static str) {
        self.write_gaps(slot);
        let encoding = self.encoding(slot);
        let connection = self.connections.id_of(slot);
        // Its `ok` would come behind that, if somebody else waits for the same filter.
        while let Some(asked) =
            self.fanout.take_waiting(encoding, text, |asked| self.pending.is_of(asked, connection))
        {
            self.outcome.started.push(Started::at(Some(asked), None));
        }
        let (topic, kind) = (HeldTopic::Shared(text.clone()), PendingKind::TakeBack(reason));
        let pending = self.pending.insert(Pending { connection, id: None, topic, kind });
        let outcome = &mut self.outcome;
        let unsubscribed = self.fanout.handle_unsubscribe(slot, encoding, text, pending, outcome);
        if unsubscribed != Ok(Unsubscribed::Later) {
            self.pending.remove(pending);
        }
        self.work_off();
        match unsubscribed {
            Ok(Unsubscribed::Now) => self.tell_taken_back(slot, text, reason),
            Ok(Unsubscribed::Later) | Err(Refused::NotSubscribed) => {}
            Err(Refused::Busy) => unreachable!("what stood in the way was taken back"),
        }
    }

    /// Nothing more comes of a subscription that the connection had.
    pub(super) fn tell_taken_back(&mut self, slot: u32, filter: &str, reason: &'static str) {
        self.write_reply(slot, &Reply::Unsubscribed { filter: tenant::outer(filter), reason });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_that_begins_anew_goes_on_and_comes_by_every_slot() {
        let mut review = Review::default();
        let round = |review: &mut Review| std::iter::from_fn(|| review.next_revoked()).collect::<Vec<u32>>();
        assert_eq!((review.next_revoked(), review.is_under_way()), (None, false));
        review.begin_revoking(3);
        assert_eq!((review.next_revoked(), review.pending(3)), (Some(0), 2));
        review.begin_revoking(3);
        assert_eq!((round(&mut review), review.is_under_way()), (vec![1, 2, 0], false));
        review.begin_revoking(3);
        assert_eq!((review.next_revoked(), review.next_revoked()), (Some(1), Some(2)));
        // More slots meanwhile.
        review.begin_revoking(5);
        assert_eq!(round(&mut review), [3, 4, 0, 1, 2]);
        review.begin_revoking(0);
        assert_eq!(round(&mut review), [0; 0]);
    }

    #[test]
    fn a_round_goes_on_however_many_bring_credentials_and_each_of_those_is_looked_at_once() {
        let mut connections = Connections::new(4);
        (0..4).for_each(|socket| _ = connections.open(socket, 0, 1_000));
        let mut review = Review::default();
        review.begin();
        let mut slots = Vec::new();
        while slots.len() < 9 {
            (0..2).for_each(|slot| review.note_changed(connections.id_of(slot)));
            assert!(review.queue.len() <= 2);
            slots.push(review.next(&connections).expect("some bring another one").0.slot);
        }
        assert_eq!(slots, [0, 0, 1, 1, 2, 0, 3, 1, 0]);
        // Another connection may have the slot, and be looked at as well.
        review.forget(1);
        review.note_changed(connections.id_of(1));
        assert_eq!(review.pending(4), 2);
    }
}

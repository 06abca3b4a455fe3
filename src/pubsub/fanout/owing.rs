//! Connections that have a send in flight and more to come: what they are owed, and what becomes of those that
//! are owed too much.

use std::{cmp::Reverse, sync::Arc};

use super::{
    Fanout, Outcome,
    subscriber::{GAPS_MAX, JUDGED_MARK, SUMMED_UP},
    tasks::Task,
};
use crate::{
    protocol::topic,
    pubsub::{
        policy::{Bound, Verdict},
        subscription::{ConnectionId, Gap, ViewKey},
        view::{MemberSlot, Position},
    },
    work::price,
};

/// So many subscriptions are summed up at once; more by a task.
pub(super) const AT_ONCE_MAX: usize = if cfg!(test) { 8 } else { 64 };
/// Of so many subscriptions at most a reply's send takes along what they are behind on.
const ALONG_MAX: usize = 8;
/// How many classes of what a subscription is owed there are: powers of two of bytes.
const CLASS_COUNT: usize = u64::BITS as usize + 1;

/// A connection that is owed in many topics is being summed up, or moved forward.
#[derive(Debug)]
pub(super) struct Judging {
    connection: ConnectionId,
    total_bytes: u64,
    /// What of that is of topics that do not skip.
    firm_bytes: u64,
    exceeded: Option<Bound>,
    /// The same, of topics that do not skip.
    firm_exceeded: Option<Bound>,
    /// All together it is more than the connection may be owed.
    is_too_much: bool,
    /// What is owed in topics that skip, by the class of each.
    classes: [u64; CLASS_COUNT],
    /// While it is moved forward: the least class that is.
    moves_from: Option<usize>,
}

impl Fanout {
    /// The member was visited while its connection had a send in flight, or is behind in spite of the send
    /// that it was given: it is served when that is over. Tells whether the connection is to be judged.
    pub fn mark_owing(&mut self, key: ViewKey, slot: MemberSlot) -> bool {
        let view = &self.views[key as usize];
        let member = view.member(slot);
        let subscriber = &mut self.subscribers[member.connection as usize];
        let owed_bytes = view.owed_bytes(slot);
        let mut grown_bytes = view.grown_bytes().min(owed_bytes);
        if !subscriber.get(member.subscription).is_owing() {
            if subscriber.owing_count() == 0 {
                subscriber.set_slack(0, self.policy.owed_bytes_max());
            }
            subscriber.owe(member.subscription);
            self.may_owe = true;
            grown_bytes = owed_bytes;
        }
        let is_beyond = subscriber.take_slack(grown_bytes);
        !subscriber.is(SUMMED_UP) && (is_beyond || owed_bytes > view.rule().owed_bytes_max)
    }

    /// What a connection with few subscriptions is behind on is owed from now on: a send that goes to it anyway
    /// takes that along.
    pub fn owe_along(&mut self, connection: u32) {
        let Some(subscriber) = self.subscribers.get(connection as usize) else { return };
        let count = subscriber.subscriptions().len();
        if count > ALONG_MAX || subscriber.is_leaving() {
            return;
        }
        for place in 0..count as u32 {
            let held = self.subscribers[connection as usize].get(place);
            if held.member != MemberSlot::NONE
                && !held.is_owing()
                && self.views[held.view as usize].is_behind(held.member)
            {
                self.mark_owing(held.view, held.member);
            }
        }
    }

    /// Takes one of the views that the connection is to be served from, and its place among the members: the one
    /// that has waited longest.
    pub fn pop_owing(&mut self, connection: u32) -> Option<(ViewKey, MemberSlot)> {
        let subscriber = self.subscribers.get_mut(connection as usize).filter(|it| !it.is_leaving())?;
        let place = subscriber.first_owing()?;
        subscriber.forget_owing(place);
        let held = subscriber.get(place);
        Some((held.view, held.member))
    }

    /// Whether the connection has to be served when its send is over: ranges wait for it, or gaps are to be
    /// told.
    pub fn is_owing(&self, connection: u32) -> bool {
        let subscriber = self.subscribers.get(connection as usize);
        subscriber.is_some_and(|subscriber| {
            let has_gaps = subscriber.rare.as_ref().is_some_and(|rare| rare.gaps.is_some());
            (has_gaps || subscriber.owing_count() > 0) && !subscriber.is_leaving() && !subscriber.is_held_up()
        })
    }

    /// Whether the connection waits for nothing: no range, gap, end of a subscription or topic's past.
    #[inline]
    pub fn is_owed_live_alone(&self, connection: u32) -> bool {
        let subscriber = &self.subscribers[connection as usize];
        subscriber.owing_count() == 0
            && subscriber.rare.as_ref().is_none_or(|rare| {
                let is_ending = rare.endings.as_ref().is_some_and(|endings| endings.is_any_marked());
                rare.gaps.is_none() && !is_ending && rare.replaying.is_none()
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
        self.subscribers.get(connection as usize).map_or(0, |subscriber| subscriber.owing_count())
    }

    /// Holds the connection to the bounds of what it may be owed at `now_ms` (wrapping): moves it forward
    /// where its topics allow it, the furthest behind first, until half of a bound is left, so that the next
    /// publication is not one too many again.
    ///
    /// Where that is a look at many topics a task does it, by classes of what is owed in each, and the verdict
    /// comes as [`Outcome::judged`].
    pub fn judge(&mut self, connection: u32, now_ms: u32) -> Verdict {
        let owed_bytes_max = self.policy.owed_bytes_max();
        let subscriber = &mut self.subscribers[connection as usize];
        if subscriber.is(SUMMED_UP) || subscriber.is_leaving() {
            return Verdict::Keep;
        }
        if subscriber.owing_count() > AT_ONCE_MAX {
            subscriber.set(SUMMED_UP, true);
            let id = subscriber.id(connection);
            subscriber.set(JUDGED_MARK, !subscriber.is(JUDGED_MARK));
            self.tasks.push_back(Task::Judge(Box::new(Judging::new(id))));
            return Verdict::Keep;
        }
        self.work += price::LOOK * subscriber.owing_count() as u64;
        let (mut total_bytes, mut firm_bytes) = (0, 0);
        let mut exceeded = None;
        for place in subscriber.owing() {
            let held = subscriber.get(place);
            let view = &mut self.views[held.view as usize];
            self.work += view.follow(&self.policy);
            let bytes = view.owed_bytes(held.member);
            total_bytes += bytes;
            firm_bytes += if view.rule().may_skip { 0 } else { bytes };
            match view.exceeded(held.member, now_ms) {
                Some(bound) if !view.rule().may_skip => return Verdict::Disconnect(bound),
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

    /// Takes the gaps that the connection must be told before anything else of those topics, and
    /// whether there are more than are listed.
    pub fn take_gaps(&mut self, connection: u32) -> Option<(Vec<Gap>, Option<Arc<str>>)> {
        let subscriber = self.subscribers.get_mut(connection as usize).filter(|it| !it.is_leaving())?;
        if subscriber.has_urgent() {
            // Of a tour any topic may still be to come.
            let is_touring = subscriber.replaying().is_some_and(|replaying| !replaying.tours.is_empty());
            return if is_touring { None } else { self.take_gaps_beside_urgent(connection) };
        }
        let gaps = subscriber.rare.as_mut()?.gaps.take()?;
        Some((gaps.by_topic, gaps.resync))
    }

    /// What is missing of what is live comes behind the last of a topic's past, which is still to be sent.
    fn take_gaps_beside_urgent(&mut self, connection: u32) -> Option<(Vec<Gap>, Option<Arc<str>>)> {
        let Fanout { subscribers, by_name, .. } = self;
        let subscriber = &subscribers[connection as usize];
        let is_urgent = |gap: &Gap| {
            let keys = by_name.iter().filter_map(|by_name| by_name.get(&*gap.topic));
            let mut places = keys.filter_map(|key| subscriber.find(key));
            places.any(|place| subscriber.get(place).is_urgent())
        };
        let gaps = subscriber.rare.as_ref()?.gaps.as_ref()?;
        let (kept, taken): (Vec<Gap>, Vec<Gap>) = gaps.by_topic.iter().cloned().partition(is_urgent);
        if taken.is_empty() {
            return None;
        }
        let rare = subscribers[connection as usize].rare.as_mut()?;
        let gaps = rare.gaps.as_mut()?;
        gaps.by_topic = kept;
        rare.gaps.take_if(|gaps| gaps.by_topic.is_empty() && gaps.resync.is_none());
        Some((taken, None))
    }

    /// Moves the connection forward: in each topic that may skip and is beyond a bound of its own, then, while
    /// all together are too much, in the others, the furthest behind first.
    fn move_forward(&mut self, connection: u32, now_ms: u32) {
        // A topic that is at its head by now stays listed: there is nothing to take when its turn comes.
        let owing: Vec<u32> = self.subscribers[connection as usize].owing().collect();
        let mut total_bytes = 0;
        let mut movable: Vec<(u64, u32)> = Vec::with_capacity(owing.len());
        for place in owing {
            let held = self.subscribers[connection as usize].get(place);
            if self.views[held.view as usize].exceeded(held.member, now_ms).is_some() {
                let position = self.views[held.view as usize].position_within_rule(now_ms);
                self.skip(connection, place, position);
            }
            let view = &self.views[held.view as usize];
            let bytes = view.owed_bytes(held.member);
            total_bytes += bytes;
            if view.rule().may_skip {
                movable.push((bytes, place));
            }
        }
        let owed_bytes_max = self.policy.owed_bytes_max();
        if total_bytes > owed_bytes_max {
            movable.sort_unstable_by_key(|&(bytes, _)| Reverse(bytes));
            for (bytes, place) in movable {
                let excess_bytes = total_bytes.saturating_sub(owed_bytes_max / 2);
                if excess_bytes == 0 {
                    break;
                }
                total_bytes -= self.skip_bytes(connection, place, bytes, excess_bytes);
            }
        }
        self.subscribers[connection as usize].set_slack(total_bytes, owed_bytes_max);
    }

    /// Moves the subscription, which is owed `bytes`, forward by `excess_bytes` or by all; tells by how many.
    fn skip_bytes(&mut self, connection: u32, place: u32, bytes: u64, excess_bytes: u64) -> u64 {
        let held = self.subscribers[connection as usize].get(place);
        let position = self.views[held.view as usize].position_within(bytes.saturating_sub(excess_bytes));
        self.skip(connection, place, position);
        bytes - self.views[held.view as usize].owed_bytes(held.member)
    }

    /// Moves the connection's subscription in `place` forward to `position`, and notes the gap.
    pub(super) fn skip(&mut self, connection: u32, place: u32, position: Position) {
        self.work += price::MEMBERSHIP;
        let held = self.subscribers[connection as usize].get(place);
        let Some((from, to)) = self.change(held.view, |view| view.skip(held.member, position)) else {
            return;
        };
        self.skipped_total += to - from + 1;
        let topic = self.views[held.view as usize].name.clone();
        let rare = self.subscribers[connection as usize].rare.get_or_insert_default();
        let gaps = rare.gaps.get_or_insert_default();
        let has_room = gaps.by_topic.len() < GAPS_MAX;
        match gaps.by_topic.iter_mut().find(|gap| gap.topic == topic) {
            Some(gap) => gap.to = to,
            None if has_room => gaps.by_topic.push(Gap { topic, from, to }),
            None if gaps.resync.as_ref().is_some_and(|filter| topic::matches(filter, &topic)) => {}
            None => {
                let held = rare.filters.iter().map(|held| &self.filters.entries[held.key.index()].text);
                let filter = held.into_iter().find(|filter| topic::matches(filter, &topic)).cloned();
                gaps.resync = Some(match gaps.resync {
                    Some(_) => "#".into(),
                    None => filter.unwrap_or(topic),
                });
            }
        }
    }

    /// Goes on summing up, then moving forward; whether that is over.
    pub(super) fn go_on_judging(
        &mut self,
        judging: &mut Judging,
        now_ms: u32,
        until: u64,
        outcome: &mut Outcome,
    ) -> bool {
        let ConnectionId { slot: connection, generation } = judging.connection;
        let owed_bytes_max = self.policy.owed_bytes_max();
        while self.work < until {
            let subscriber = &mut self.subscribers[connection as usize];
            // Gone, or going; even another may have the slot.
            if subscriber.generation != generation || subscriber.is_leaving() {
                return true;
            }
            let mark = subscriber.is(JUDGED_MARK);
            let next = subscriber.first_owing().filter(|place| subscriber.get(*place).judged_mark() != mark);
            let Some(place) = next else {
                let verdict = match judging.moves_from {
                    Some(_) => judging.exceeded.map_or(Verdict::Keep, Verdict::Skip),
                    None => judging.summed_up(owed_bytes_max),
                };
                if judging.moves_from.is_none() && matches!(verdict, Verdict::Skip(_)) {
                    judging.begin_moving(owed_bytes_max);
                    subscriber.set(JUDGED_MARK, !mark);
                    continue;
                }
                subscriber.set(SUMMED_UP, false);
                subscriber.set_slack(judging.total_bytes, owed_bytes_max);
                outcome.judged.push((connection, verdict));
                return true;
            };
            self.work += price::LOOK;
            // To the back, and marked: the order of those that wait stays.
            subscriber.forget_owing(place);
            subscriber.owe(place);
            let held = subscriber.get(place);
            let view = &mut self.views[held.view as usize];
            self.work += view.follow(&self.policy);
            let bytes = view.owed_bytes(held.member);
            let exceeded = view.exceeded(held.member, now_ms);
            let Some(moves_from) = judging.moves_from else {
                // Whatever is found, the round goes on to its end: after it all bear one mark.
                judging.add(bytes, view.rule().may_skip, exceeded);
                continue;
            };
            if !view.rule().may_skip {
                continue;
            }
            let excess_bytes = judging.total_bytes.saturating_sub(owed_bytes_max / 2);
            if exceeded.is_some() {
                let position = view.position_within_rule(now_ms);
                self.skip(connection, place, position);
                let left = self.views[held.view as usize].owed_bytes(held.member);
                judging.total_bytes = judging.total_bytes.saturating_sub(bytes - left);
            } else if judging.is_too_much && excess_bytes > 0 && class_of(bytes) >= moves_from {
                let skipped = self.skip_bytes(connection, place, bytes, excess_bytes);
                judging.total_bytes = judging.total_bytes.saturating_sub(skipped);
            }
        }
        false
    }
}

impl Judging {
    fn new(connection: ConnectionId) -> Judging {
        Judging {
            connection,
            total_bytes: 0,
            firm_bytes: 0,
            exceeded: None,
            firm_exceeded: None,
            is_too_much: false,
            classes: [0; CLASS_COUNT],
            moves_from: None,
        }
    }

    fn add(&mut self, bytes: u64, may_skip: bool, exceeded: Option<Bound>) {
        self.total_bytes += bytes;
        self.exceeded = self.exceeded.or(exceeded);
        if may_skip {
            self.classes[class_of(bytes)] += bytes;
        } else {
            self.firm_bytes += bytes;
            self.firm_exceeded = self.firm_exceeded.or(exceeded);
        }
    }

    /// All of what is owed is known.
    fn summed_up(&mut self, owed_bytes_max: u64) -> Verdict {
        let is_firm_too_much = self.firm_bytes > owed_bytes_max;
        if let Some(bound) = self.firm_exceeded.or(is_firm_too_much.then_some(Bound::OwedBytes)) {
            return Verdict::Disconnect(bound);
        }
        self.is_too_much = self.total_bytes > owed_bytes_max;
        self.exceeded = self.exceeded.or(self.is_too_much.then_some(Bound::OwedBytes));
        self.exceeded.map_or(Verdict::Keep, Verdict::Skip)
    }

    /// The furthest behind go first: those of the highest classes that bring the sum to half of the bound.
    fn begin_moving(&mut self, owed_bytes_max: u64) {
        let mut excess_bytes = self.total_bytes.saturating_sub(owed_bytes_max / 2);
        let mut class = CLASS_COUNT;
        while class > 1 && excess_bytes > 0 {
            class -= 1;
            excess_bytes = excess_bytes.saturating_sub(self.classes[class]);
        }
        self.moves_from = Some(class);
    }
}

/// The class of a subscription that is owed so much: a power of two above.
fn class_of(bytes: u64) -> usize {
    (u64::BITS - bytes.leading_zeros()) as usize
}

//! A connection as a subscriber: its own list of what it is subscribed to.
//!
//! The list finds a subscription by its view, lets any go, and knows which of them are *owing*, in the order
//! in which they began to, all in constant time: a connection may be in as many views as there are topics.

use std::sync::Arc;

use super::{ending::Endings, filters::FilterKey, pages::Replaying};
use crate::pubsub::{
    subscription::{ConnectionId, Gap, ViewKey},
    table::Table,
    view::MemberSlot,
    walk::Walk,
};
use crate::work::price::MATCH_LEVELS;

/// Nobody's place.
const NONE: u32 = u32::MAX;
/// So many pending gaps a connection has at most; then it is told to resynchronise.
pub(super) const GAPS_MAX: usize = 64;
/// Beyond so many subscriptions they are found by a table; below half as many by a look at each.
const LISTED_MAX: usize = if cfg!(test) { 4 } else { 32 };

/// A connection that subscribes to something.
#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) generation: u32,
    /// What it subscribed to, by name and by filter, whether or not that has started.
    pub(super) asked_count: u32,
    subscriptions: Vec<Subscription>,
    /// The ends of the chain of subscriptions that are owing.
    owing: [u32; 2],
    /// How many these are, and marks in the bits above [`COUNT`].
    owing_count: u32,
    /// See [`Subscriber::take_slack`].
    slack_bytes: u32,
    /// What few connections have, out of the way of the others.
    pub(super) rare: Option<Box<Rare>>,
}

// Every connection that subscribes to anything has one, and of the other one for each of its views.
const _: () = assert!(size_of::<Subscriber>() <= 56 && size_of::<Subscription>() <= 20);

/// The bits of [`Subscriber::owing_count`] that count: more subscriptions than that nobody has.
const COUNT: u32 = (1 << 28) - 1;
/// It is gone: a task takes it out of what it was in, and nothing more is sent to it.
pub(super) const LEAVING: u32 = 1 << 28;
/// A task takes it out of what a filter matched.
pub(super) const UNSUBSCRIBING: u32 = 1 << 29;
/// A task sums up what it is owed.
pub(super) const SUMMED_UP: u32 = 1 << 30;
/// Which subscriptions have been summed up: those of which [`Subscription::judged_mark`] tells the same.
pub(super) const JUDGED_MARK: u32 = 1 << 31;

/// The parts of a subscriber that most do without.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// The filters with wildcards that it subscribed to.
    pub(super) filters: Vec<HeldFilter>,
    /// How many more there are of which it is to be sent the past before it holds them.
    pub(super) tour_count: u32,
    /// How many levels all these have together.
    pub(super) level_count: u32,
    pub(super) gaps: Option<Gaps>,
    /// What it has unsubscribed from by name and not left yet.
    pub(super) endings: Option<Box<Endings>>,
    /// Topics whose past it is being sent.
    pub(super) replaying: Option<Box<Replaying>>,
    /// It is listed as one that waits to ask for a page of a tour until those of others have come.
    pub(super) waits_for_others: bool,
    /// The filter that is being taken back, while a task walks through the subscriptions for that.
    pub(super) unsubscribing: Option<FilterKey>,
    walk: Walk,
    /// Places by view, where there are many.
    places: Option<Table<ViewKey, u32>>,
}

impl Rare {
    /// What it takes to hold a name against all filters, in such as have few levels.
    pub(super) fn lookup_count(&self) -> usize {
        self.filters.len() + self.level_count as usize / MATCH_LEVELS
    }
}

/// A connection's subscription to a filter; the filter's list has the connection at `place`.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldFilter {
    pub(super) key: FilterKey,
    pub(super) place: u32,
}

/// What a connection has of one view.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subscription {
    pub(super) view: ViewKey,
    /// Where the view has its member; none: it has none.
    pub(super) member: MemberSlot,
    /// The neighbours in the chain of those that are owing.
    previous: u32,
    next: u32,
    /// How many of the connection's filters match, as far as the view has looked.
    pub(super) filter_count: u16,
    marks: u8,
}

/// By name, and the home has answered.
const EXACT: u8 = 1;
/// By name, and the home has not answered yet.
const WAITING: u8 = 2;
const OWING: u8 = 4;
/// See [`JUDGED_MARK`].
const JUDGED: u8 = 8;
/// By name, and taken back: see [`super::ending`].
const ENDING: u8 = 16;
/// By name, and no member before it was sent the topic's past: see [`super::replay`].
const REPLAYING: u8 = 32;
/// The last of the topic's past is still to be sent.
const URGENT: u8 = 64;

/// What a connection must be told that it will not get.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    pub(super) by_topic: Vec<Gap>,
    /// Past the most gaps: the filter whose topics have more, `#` if they are of several.
    pub(super) resync: Option<Arc<str>>,
}

impl Subscriber {
    /// What it was to be told that it will not get of the topic it gets all the same, before `seq`.
    pub(super) fn forget_gap(&mut self, topic: &str, seq: u64) {
        let Some(rare) = &mut self.rare else { return };
        if let Some(gaps) = &mut rare.gaps {
            if let Some(gap) = gaps.by_topic.iter_mut().find(|gap| *gap.topic == *topic) {
                gap.from = gap.from.max(seq);
            }
            gaps.by_topic.retain(|gap| gap.from <= gap.to);
        }
        rare.gaps.take_if(|gaps| gaps.by_topic.is_empty() && gaps.resync.is_none());
    }
}

impl Default for Subscriber {
    fn default() -> Subscriber {
        Subscriber {
            generation: 0,
            asked_count: 0,
            subscriptions: Vec::new(),
            owing: [NONE; 2],
            owing_count: 0,
            slack_bytes: 0,
            rare: None,
        }
    }
}

impl Subscriber {
    /// Who it is, in `slot`.
    pub(super) fn id(&self, slot: u32) -> ConnectionId {
        ConnectionId { slot, generation: self.generation }
    }

    pub(super) fn subscriptions(&self) -> &[Subscription] {
        &self.subscriptions
    }

    pub(super) fn get(&self, place: u32) -> Subscription {
        self.subscriptions[place as usize]
    }

    pub(super) fn get_mut(&mut self, place: u32) -> &mut Subscription {
        &mut self.subscriptions[place as usize]
    }

    /// Where its subscription to `view` is.
    #[inline]
    pub(super) fn find(&self, view: ViewKey) -> Option<u32> {
        if self.subscriptions.len() > LISTED_MAX / 2
            && let Some(places) = self.rare.as_ref().and_then(|rare| rare.places.as_ref())
        {
            return places.get(&view);
        }
        let place = self.subscriptions.iter().position(|held| held.view == view);
        place.map(|place| place as u32)
    }

    /// Adds a subscription to `view`, to which it has none, and tells its place.
    pub(super) fn push(&mut self, view: ViewKey) -> u32 {
        let place = self.subscriptions.len() as u32;
        if self.subscriptions.capacity() == 0 {
            // Most connections have one: room for four would be three quarters wasted on each.
            self.subscriptions.reserve_exact(1);
        }
        let held = Subscription {
            view,
            member: MemberSlot::NONE,
            previous: NONE,
            next: NONE,
            filter_count: 0,
            marks: 0,
        };
        self.subscriptions.push(held);
        if let Some(places) = self.rare.as_mut().and_then(|rare| rare.places.as_mut()) {
            places.insert(view, place);
        } else if self.subscriptions.len() > LISTED_MAX {
            let mut places = Table::default();
            for (place, held) in (0..).zip(&self.subscriptions) {
                places.insert(held.view, place);
            }
            self.rare.get_or_insert_default().places = Some(places);
        }
        place
    }

    /// Takes out the subscription at `place`. `on_move` learns of each that has another place for it, by its
    /// view and member.
    pub(super) fn remove(&mut self, place: u32, mut on_move: impl FnMut(ViewKey, MemberSlot, u32)) {
        self.forget_owing(place);
        let len = self.subscriptions.len();
        let view = self.subscriptions[place as usize].view;
        let moves = match &mut self.rare {
            Some(rare) => rare.walk.close(place, len),
            None => Walk::default().close(place, len),
        };
        for (from, to) in moves {
            if from == to {
                continue;
            }
            let held = self.subscriptions[from as usize];
            self.subscriptions[to as usize] = held;
            if held.is(OWING) {
                self.link(held.previous, to, 1);
                self.link(held.next, to, 0);
            }
            if let Some(places) = self.rare.as_mut().and_then(|rare| rare.places.as_mut()) {
                places.insert(held.view, to);
            }
            if held.member != MemberSlot::NONE {
                on_move(held.view, held.member, to);
            }
        }
        self.subscriptions.pop();
        if let Some(rare) = &mut self.rare
            && let Some(places) = &mut rare.places
        {
            places.remove(&view);
            if self.subscriptions.len() <= LISTED_MAX / 2 {
                rare.places = None;
            }
        }
        // Each time a quarter is left half of the room goes: a constant per subscription.
        if self.subscriptions.capacity() > 2 * LISTED_MAX
            && self.subscriptions.len() < self.subscriptions.capacity() / 4
        {
            self.subscriptions.shrink_to(self.subscriptions.capacity() / 2);
        }
    }

    /// A walk through what it is subscribed to now begins.
    pub(super) fn begin_walk(&mut self) {
        let len = self.subscriptions.len();
        self.rare.get_or_insert_default().walk = Walk::new(len);
    }

    /// The filter that it is taking back, while that walk goes on.
    pub(super) fn unsubscribing_filter(&self) -> Option<HeldFilter> {
        let rare = self.rare.as_ref()?;
        let key = rare.unsubscribing?;
        rare.filters.iter().find(|held| held.key == key).copied()
    }

    /// Whether that walk still comes by `place`.
    pub(super) fn is_ahead(&self, place: u32) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.walk.is_ahead(place))
    }

    /// The next place of that walk; none when it is over.
    pub(super) fn step(&mut self) -> Option<u32> {
        self.rare.as_mut()?.walk.step()
    }

    /// How many of its subscriptions are owing.
    pub(super) fn owing_count(&self) -> usize {
        (self.owing_count & COUNT) as usize
    }

    /// Whether it has one of the marks above.
    #[inline]
    pub(super) fn is(&self, mark: u32) -> bool {
        self.owing_count & mark != 0
    }

    pub(super) fn set(&mut self, mark: u32, value: bool) {
        self.owing_count = if value { self.owing_count | mark } else { self.owing_count & !mark };
    }

    /// See [`LEAVING`].
    #[inline]
    pub(super) fn is_leaving(&self) -> bool {
        self.is(LEAVING)
    }

    /// The subscription at `place` is owing, behind those that are.
    pub(super) fn owe(&mut self, place: u32) {
        let ([_, last], mark) = (self.owing, self.is(JUDGED_MARK));
        let held = self.get_mut(place);
        assert!(!held.is(OWING), "a subscription is owing once");
        held.set(OWING, true);
        // Summed up already, or what nobody sums up: a round begins with those that bear the other mark.
        held.set(JUDGED, mark);
        (held.previous, held.next) = (last, NONE);
        self.link(last, place, 1);
        self.owing[1] = place;
        self.owing_count += 1;
    }

    /// The subscription at `place` is not owing, whether it was or not.
    pub(super) fn forget_owing(&mut self, place: u32) {
        let held = self.get_mut(place);
        if !held.is(OWING) {
            return;
        }
        held.set(OWING, false);
        let (previous, next) = (held.previous, held.next);
        self.link(previous, next, 1);
        self.link(next, previous, 0);
        self.owing_count -= 1;
    }

    /// The first of those that are owing.
    pub(super) fn first_owing(&self) -> Option<u32> {
        Some(self.owing[0]).filter(|first| *first != NONE)
    }

    /// Those that are owing, in order: for few.
    pub(super) fn owing(&self) -> impl Iterator<Item = u32> {
        let next = |place: &u32| Some(self.subscriptions[*place as usize].next).filter(|next| *next != NONE);
        std::iter::successors(self.first_owing(), next)
    }

    /// What it was owed was summed up to `total_bytes`. The sum is not taken anew for less than a sixteenth of
    /// the bound, so much it may be exceeded; but for 4 GiB in any case.
    pub(super) fn set_slack(&mut self, total_bytes: u64, owed_bytes_max: u64) {
        let slack_bytes = owed_bytes_max.saturating_sub(total_bytes).max(owed_bytes_max / 16);
        self.slack_bytes = u32::try_from(slack_bytes).unwrap_or(u32::MAX);
    }

    /// It is owed so many bytes more. Tells whether that is more than was left until all of it is summed up: at most so
    /// much has room in its bound.
    pub(super) fn take_slack(&mut self, bytes: u64) -> bool {
        let left = u64::from(self.slack_bytes).checked_sub(bytes);
        self.slack_bytes = left.unwrap_or(0) as u32;
        left.is_none()
    }

    /// All is summed up when it is owed the next.
    pub(super) fn forget_slack(&mut self) {
        self.slack_bytes = 0;
    }

    /// Of the subscription at `place`, or of the chain where that is `NONE`, the link back (0) or on (1) leads
    /// to `to`.
    fn link(&mut self, place: u32, to: u32, which: usize) {
        match (self.subscriptions.get_mut(place as usize), which) {
            // Whoever has none before it is the first: the chain's own links are the other way round.
            (None, _) => self.owing[1 - which] = to,
            (Some(held), 0) => held.previous = to,
            (Some(held), _) => held.next = to,
        }
    }

    /// Asserts the invariants; for tests and simulations.
    pub(super) fn check(&self) {
        let mut count = 0;
        let mut previous = NONE;
        for place in self.owing() {
            let held = self.get(place);
            assert!(held.is(OWING) && held.previous == previous, "the chain leads both ways");
            assert!(
                self.is(SUMMED_UP) || held.is(JUDGED) == self.is(JUDGED_MARK),
                "whoever is owing while nobody sums up is in the next round"
            );
            (previous, count) = (place, count + 1);
        }
        assert_eq!((self.owing[1], self.owing_count()), (previous, count), "the chain ends where it says");
        let owing = self.subscriptions.iter().filter(|held| held.is(OWING)).count();
        assert_eq!(owing, count, "whoever is owing is in the chain");
        let ending = self.subscriptions.iter().filter(|held| held.is(ENDING)).count();
        match self.rare.as_ref().and_then(|rare| rare.endings.as_ref()) {
            Some(endings) => endings.check(ending),
            None => assert_eq!(ending, 0, "whatever is ending is recorded"),
        }
        for (place, held) in (0..).zip(&self.subscriptions) {
            assert_eq!(self.find(held.view), Some(place), "a subscription is found where it is");
        }
    }
}

impl Subscription {
    pub(super) fn is_exact(&self) -> bool {
        self.is(EXACT)
    }

    pub(super) fn set_exact(&mut self, is_exact: bool) {
        self.set(EXACT, is_exact);
    }

    pub(super) fn is_replaying(&self) -> bool {
        self.is(REPLAYING)
    }

    pub(super) fn set_replaying(&mut self, is_replaying: bool) {
        self.set(REPLAYING, is_replaying);
    }

    pub(super) fn is_urgent(&self) -> bool {
        self.is(URGENT)
    }

    pub(super) fn set_urgent(&mut self, is_urgent: bool) {
        self.set(URGENT, is_urgent);
    }

    /// Whether it is one by name, whether or not that has started.
    pub(super) fn is_by_name(&self) -> bool {
        self.is(EXACT | WAITING | REPLAYING)
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.is(WAITING)
    }

    pub(super) fn set_waiting(&mut self, is_waiting: bool) {
        self.set(WAITING, is_waiting);
    }

    pub(super) fn is_owing(&self) -> bool {
        self.is(OWING)
    }

    pub(super) fn judged_mark(&self) -> bool {
        self.is(JUDGED)
    }

    pub(super) fn is_ending(&self) -> bool {
        self.is(ENDING)
    }

    pub(super) fn set_ending(&mut self, is_ending: bool) {
        self.set(ENDING, is_ending);
    }

    fn is(&self, mark: u8) -> bool {
        self.marks & mark != 0
    }

    fn set(&mut self, mark: u8, value: bool) {
        self.marks = if value { self.marks | mark } else { self.marks & !mark };
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::{
        prelude::*,
        sample::Index,
        test_runner::{Config, RngSeed},
    };

    use super::*;

    #[derive(Clone, Debug)]
    enum Act {
        Push,
        Remove(Index),
        Owe(Index),
        Forget(Index),
        Begin,
        Step,
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => Just(Act::Push),
            3 => any::<Index>().prop_map(Act::Remove),
            4 => any::<Index>().prop_map(Act::Owe),
            1 => any::<Index>().prop_map(Act::Forget),
            1 => Just(Act::Begin),
            2 => Just(Act::Step),
        ]
    }

    proptest! {
        #![proptest_config(Config {
            cases: 400,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(23),
            ..Config::default()
        })]

        /// The twin is a list of views and a queue of those that are owing.
        #[test]
        fn a_subscriber_is_a_list_and_a_queue(acts in prop::collection::vec(act(), 1..150)) {
            let mut subscriber = Subscriber::default();
            let mut views: Vec<ViewKey> = Vec::new();
            let mut owing: VecDeque<ViewKey> = VecDeque::new();
            let mut ahead: Vec<ViewKey> = Vec::new();
            let mut next_view = 0;
            for act in acts {
                match act {
                    Act::Push => {
                        let place = subscriber.push(next_view);
                        subscriber.get_mut(place).member = MemberSlot::new(1_000 + next_view);
                        views.push(next_view);
                        next_view += 1;
                    }
                    Act::Remove(which) if !views.is_empty() => {
                        let view = views.swap_remove(which.index(views.len()));
                        owing.retain(|it| *it != view);
                        ahead.retain(|it| *it != view);
                        let place = subscriber.find(view).expect("it is there");
                        let mut moved = Vec::new();
                        subscriber.remove(place, |view, member, to| {
                            assert_eq!(member, MemberSlot::new(1_000 + view));
                            moved.push((view, to));
                        });
                        for (view, to) in moved {
                            prop_assert_eq!(subscriber.get(to).view, view);
                        }
                        prop_assert_eq!(subscriber.find(view), None);
                    }
                    Act::Owe(which) if !views.is_empty() => {
                        let view = views[which.index(views.len())];
                        if !owing.contains(&view) {
                            owing.push_back(view);
                            subscriber.owe(subscriber.find(view).unwrap());
                        }
                    }
                    Act::Forget(which) if !views.is_empty() => {
                        let view = views[which.index(views.len())];
                        owing.retain(|it| *it != view);
                        subscriber.forget_owing(subscriber.find(view).unwrap());
                    }
                    Act::Begin => {
                        subscriber.begin_walk();
                        ahead.clone_from(&views);
                    }
                    Act::Step => {
                        let step = subscriber.step();
                        prop_assert_eq!(step.is_none(), ahead.is_empty());
                        if let Some(place) = step {
                            let view = subscriber.get(place).view;
                            prop_assert!(ahead.contains(&view), "visited once");
                            ahead.retain(|it| *it != view);
                        }
                    }
                    _ => {}
                }
                subscriber.check();
                prop_assert_eq!(subscriber.subscriptions().len(), views.len());
                let in_order: Vec<ViewKey> = subscriber.owing().map(|place| subscriber.get(place).view).collect();
                prop_assert_eq!(in_order, Vec::from(owing.clone()));
            }
        }
    }

    /// It was skipped beyond what it gets of a past.
    #[test]
    fn what_is_missing_behind_what_comes_all_the_same_stays_to_be_told() {
        let gap = |topic: &str, from, to| Gap { topic: topic.into(), from, to };
        let mut subscriber = Subscriber::default();
        let by_topic = vec![gap("a", 10, 80), gap("b", 1, 5)];
        subscriber.rare.get_or_insert_default().gaps = Some(Gaps { by_topic, resync: None });
        let mut left_before = |seq| {
            subscriber.forget_gap("a", seq);
            let gaps = &subscriber.rare.as_ref().unwrap().gaps.as_ref().unwrap().by_topic;
            gaps.iter().map(|gap| (gap.topic.to_string(), gap.from, gap.to)).collect::<Vec<_>>()
        };
        let b = ("b".to_owned(), 1, 5);
        assert_eq!(left_before(5), [("a".to_owned(), 10, 80), b.clone()]);
        assert_eq!(left_before(31), [("a".to_owned(), 31, 80), b.clone()]);
        assert_eq!(left_before(81), [b]);
    }
}

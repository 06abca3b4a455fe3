//! Tours: a subscription to a filter that begins with what was published before, to any topic that the filter matches.
//!
//! A tour asks every home for the pasts of its topics, in pages, in *passes*: the first has what there was when it began,
//! each further one what was written during the one before. Nothing of that is live, so it costs the connection nothing
//! but its pages, however long they take. When a pass was little the filter is subscribed to like any other, and what is
//! live is *held up*: no send has any of it. The last pass, which begins at every home when the filter is there, has what was
//! written until then; where the connection is a member of such a topic already it moves behind that. So in every topic nothing is
//! missing between the past and what is live, and nothing is there twice; and the client is told when it has all of the past.
//!
//! Topics that the connection receives otherwise are left out: they go on as they are.

use std::sync::Arc;

use super::{
    Fanout, Outcome,
    filters::FilterKey,
    pages::{Asker, Queued, Replaying},
    subscriber::{HeldFilter, Subscriber},
};
use crate::{
    protocol::{
        Encoding,
        record::Records,
        topic::{self, Filter},
    },
    pubsub::{
        message::{Counted, ReplayId, TourCursor, TourEntry, TourFrom, TourPage, TourRequest},
        subscription::{ConnectionId, Gap, SubscribeRefused, Toured, Unsubscribed, WantedTour},
        view::MemberSlot,
    },
    work::price,
};

/// After so many passes what is live is held up in any case.
const PASSES_MAX: u32 = 8;
/// So many tours of a connection are under way at a time; it is to wait with more.
const TOURS_MAX: usize = 16;

/// A page of a tour holds so many topics against so many filters of its connection at most, or one against all: each is held
/// against each, in one go. One of more levels counts as several, by [`price::MATCH_LEVELS`].
const LOOKUPS_MAX: usize = if cfg!(test) { 12 } else { 16 << 10 };

/// One connection's tour.
#[derive(Debug)]
pub(super) struct Tour {
    connection: ConnectionId,
    serial: u32,
    pub(super) filter: Arc<str>,
    encoding: Encoding,
    /// How many topics the client listed.
    listed_count: usize,
    /// What their names take, as long as the first pass goes on.
    listed_bytes: usize,
    /// And how many of these were come by.
    found_count: usize,
    /// By home.
    stops: Box<[Stop]>,
    stage: Stage,
    pass: u32,
    /// How many pages this pass has had.
    page_count: u32,
    /// How many homes it is not over at.
    open_count: usize,
    /// Its place among those that wait for its filter.
    waiting_place: usize,
    count: u64,
    is_recovered: bool,
}

/// Where a tour is at one home.
#[derive(Debug)]
struct Stop {
    from: TourFrom,
    until: Option<u64>,
    cursor: Option<TourCursor>,
    /// What pages of this pass had that are asked for anew.
    counted: Counted,
    /// As of which tick the client will have all.
    tick: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The filter is not subscribed to yet.
    Passing,
    /// It is, and not all homes have answered that.
    Registering,
    /// What is live is held up.
    Holding,
    /// All is queued.
    Over,
}

impl Fanout {
    /// Subscribes the connection to a filter with wildcards, beginning with some of the pasts of its topics. It has started; when
    /// the client has all that was before comes out as [`Outcome::toured`].
    ///
    /// # Errors
    /// [`SubscribeRefused`]: it has this subscription; or is being sent some of the past of what that would match.
    pub fn handle_subscribe_tour(
        &mut self,
        id: ConnectionId,
        filter: Filter<&str>,
        encoding: Encoding,
        wanted: WantedTour,
        outcome: &mut Outcome,
    ) -> Result<(), SubscribeRefused> {
        let levels = filter.level_count();
        let connection = self.open_for_filter(id, encoding, filter)?;
        let subscriber = &mut self.subscribers[connection as usize];
        let rare = subscriber.rare.get_or_insert_default();
        if rare.replaying.as_ref().is_some_and(|replaying| replaying.tours.len() >= TOURS_MAX) {
            return Err(SubscribeRefused::Busy);
        }
        rare.level_count += levels as u32;
        rare.tour_count += 1;
        subscriber.asked_count += 1;
        self.subscription_count += 1;
        let WantedTour { start, ticks, is_recovered } = wanted;
        let has_first_pass = ticks.is_some() || start.last > 0 || !start.listed.is_empty();
        let start = Arc::new(start);
        let stops = (0..self.homes.count).map(|home| {
            let tick = ticks.as_ref().map(|ticks| ticks[home]);
            let from = if has_first_pass { TourFrom::Start(start.clone(), tick) } else { TourFrom::Nothing };
            Stop { from, until: None, cursor: None, counted: Counted::None, tick: 0 }
        });
        self.replay_serial = self.replay_serial.wrapping_add(1);
        let serial = self.replay_serial;
        let place = self.tours.insert(Tour {
            connection: id,
            serial,
            filter: filter.as_str().into(),
            encoding,
            listed_count: start.listed.len(),
            listed_bytes: if has_first_pass { start.memory() } else { 0 },
            found_count: 0,
            stops: stops.collect(),
            stage: Stage::Passing,
            pass: 0,
            page_count: 0,
            open_count: 0,
            waiting_place: 0,
            count: 0,
            is_recovered,
        });
        let tour = ReplayId { place: place as u32, serial };
        self.replaying_of(connection).tours.push(tour.place);
        match has_first_pass {
            true => self.begin_pass(tour, outcome),
            false => self.register(tour, outcome),
        }
        Ok(())
    }

    /// How many tours are under way.
    pub fn tour_count(&self) -> usize {
        self.tours.len()
    }

    /// What the names of topics take that the connection listed for tours that still ask for what came after, in bytes.
    pub fn listed_bytes(&self, connection: u32) -> usize {
        let replaying = self.subscribers.get(connection as usize).and_then(Subscriber::replaying);
        let tours = replaying.into_iter().flat_map(|replaying| &replaying.tours);
        tours.map(|place| self.tours[*place as usize].listed_bytes).sum()
    }

    /// Whether a tour of the connection, that is not of just `text`, is under way of which some topic is one of `text`'s, a
    /// topic's or a filter.
    pub(super) fn is_touring_any(&mut self, connection: u32, text: &str) -> bool {
        self.find_tour_in_the_way(connection, text).is_some()
    }

    /// Whether the connection has subscribed to the filter, by a tour or without.
    pub(super) fn holds_filter(&self, connection: u32, encoding: Encoding, text: &str) -> bool {
        let subscriber = &self.subscribers[connection as usize];
        let Some(rare) = &subscriber.rare else { return false };
        let key = self.filters.by_text[encoding.index()].get(text);
        key.is_some_and(|key| rare.filters.iter().any(|held| held.key == *key))
            || self.find_tour(connection, text).is_some()
    }

    /// The connection's tour of just this filter.
    fn find_tour(&self, connection: u32, text: &str) -> Option<ReplayId> {
        let replaying = self.subscribers.get(connection as usize)?.replaying()?;
        let place = *replaying.tours.iter().find(|place| *self.tours[**place as usize].filter == *text)?;
        Some(ReplayId { place, serial: self.tours[place as usize].serial })
    }

    /// The tour is over before it has come to its end, since the connection takes its filter back. Tells whether that was all:
    /// else it holds the filter, and is to let go of that.
    pub(super) fn cancel_tour(
        &mut self,
        connection: u32,
        text: &str,
        outcome: &mut Outcome,
    ) -> Option<Unsubscribed> {
        let tour = self.find_tour(connection, text)?;
        let id = self.tours[tour.place as usize].connection;
        let is_its = |asker| matches!(asker, Asker::Tour(its, _) if its == tour);
        self.forget_queued(id, is_its, outcome);
        let is_registered = self.tours[tour.place as usize].stage != Stage::Passing;
        let levels = topic::level_count(text);
        let it = self.forget_tour(tour);
        self.stop_waiting(tour, &it);
        self.drop_if_over(connection);
        outcome.owed.push(connection);
        if is_registered {
            return None;
        }
        let subscriber = &mut self.subscribers[connection as usize];
        subscriber.asked_count -= 1;
        self.subscription_count -= 1;
        let rare = subscriber.rare.as_mut().expect("who had a tour has the rare parts");
        rare.level_count -= levels as u32;
        rare.tour_count -= 1;
        Some(Unsubscribed::Now)
    }

    /// A page of a tour has come.
    pub fn handle_toured(&mut self, page: TourPage, outcome: &mut Outcome) {
        self.work += price::PAGE;
        self.end_tour_page(outcome);
        let TourPage { connection: id, tour, home, entries, cursor, tick, listed_count, is_recovered } = page;
        let is_there = self.tours.get(tour.place as usize).is_some_and(|it| it.serial == tour.serial);
        if !is_there || self.subscribers[id.slot as usize].is_leaving() {
            return self.end_page(id, outcome);
        }
        let it = &mut self.tours[tour.place as usize];
        it.found_count += listed_count;
        it.is_recovered &= is_recovered;
        it.page_count += 1;
        let stop = &mut it.stops[home];
        (stop.until, stop.cursor, stop.tick) = (Some(tick), cursor, tick);
        let is_last_pass = it.stage == Stage::Holding;
        let own = self.filters.by_text[it.encoding.index()].get(&*it.filter).copied();
        let (format, encoding) = (it.encoding.format(), it.encoding);
        let mut queued: Vec<Queued> = Vec::new();
        let (mut count, mut bytes, mut has_gaps) = (0, 0, false);
        for entry in entries {
            self.work += price::SPAN;
            if self.is_received_otherwise(id.slot, encoding, &entry.topic, own) {
                continue;
            }
            let TourEntry { topic, gap, seq, next_seq, range, is_retained } = entry;
            if is_retained && is_last_pass && self.is_owed(id.slot, encoding, &topic, seq) {
                // It comes live, in its place among those that are not kept.
                continue;
            }
            // Each time: a topic that is to keep nothing any more has no further page, and the rest of it comes live.
            if is_last_pass && !is_retained {
                self.move_behind(id.slot, encoding, &topic, next_seq);
            }
            if let Some((from, to)) = gap {
                outcome.past_gaps.push((id.slot, Gap { topic, from, to }));
                has_gaps = true;
            }
            let Some(range) = range else { continue };
            count += next_seq - seq;
            bytes += range.len() as u64;
            let rest = match queued.last_mut().and_then(|last| last.range.as_mut()) {
                Some(last) => last.join(range).err(),
                None => Some(range),
            };
            queued.extend(rest.map(|range| Queued::of_tour(tour, home, format, Some(range))));
        }
        self.tours[tour.place as usize].count += count;
        self.replayed_total += count;
        self.replayed_bytes_total += bytes;
        if queued.is_empty() && has_gaps {
            queued.push(Queued::of_nothing(tour, home, format));
        }
        match queued.last_mut() {
            Some(last) => {
                last.page_end = Some(0);
                self.replaying_of(id.slot).queue_mut(is_last_pass).extend(queued);
            }
            None => {
                self.go_on_touring(tour, home, outcome);
                self.end_page(id, outcome);
            }
        }
        outcome.owed.push(id.slot);
    }

    /// A page of the tour is sent: there is another at that home, or its pass is over there.
    pub(super) fn go_on_touring(&mut self, tour: ReplayId, home: usize, outcome: &mut Outcome) {
        let it = &mut self.tours[tour.place as usize];
        let connection = it.connection.slot;
        if it.stops[home].cursor.is_some() {
            return self.wait_for_page(connection, Asker::Tour(tour, home));
        }
        it.open_count -= 1;
        if it.open_count > 0 {
            return;
        }
        if it.stage == Stage::Holding {
            it.stage = Stage::Over;
            let end = Queued::of_tour(tour, home, it.encoding.format(), None);
            let replaying = self.replaying_of(connection);
            replaying.holding_count -= 1;
            replaying.queue_mut(true).push_back(end);
            return outcome.owed.push(connection);
        }
        let was_little = it.page_count as usize <= it.stops.len();
        if std::mem::take(&mut it.listed_bytes) > 0 {
            outcome.owed.push(connection);
        }
        for stop in &mut it.stops {
            stop.from = TourFrom::Tick(stop.until.take().expect("a pass is as of a tick"));
            stop.counted = Counted::None;
        }
        match was_little || it.pass >= PASSES_MAX {
            true => self.register(tour, outcome),
            false => self.begin_pass(tour, outcome),
        }
    }

    /// The next page of the tour at `home`, if it is still under way.
    pub(super) fn tour_request(&self, tour: ReplayId, home: usize) -> Option<TourRequest> {
        let it = self.tours.get(tour.place as usize).filter(|it| it.serial == tour.serial)?;
        let stop = &it.stops[home];
        let rare = self.subscribers[it.connection.slot as usize].rare.as_ref();
        let lookup_count = rare.map_or(0, |rare| rare.lookup_count());
        Some(TourRequest {
            entries_max: (LOOKUPS_MAX / (1 + lookup_count)).max(1),
            filter: it.filter.clone(),
            encoding: it.encoding,
            from: stop.from.clone(),
            until: stop.until,
            cursor: stop.cursor.clone(),
            counted: stop.counted.clone(),
            connection: it.connection,
            tour,
        })
    }

    /// All that was before is in sends, and nothing live is: the client is told.
    pub(super) fn end_tour(&mut self, asker: Asker, outcome: &mut Outcome) {
        let Asker::Tour(tour, _) = asker else { unreachable!("a replay ends with its last page") };
        let connection = self.tours[tour.place as usize].connection.slot;
        let it = self.forget_tour(tour);
        outcome.toured.push(Toured {
            connection,
            filter: it.filter,
            count: it.count,
            is_recovered: it.is_recovered && it.found_count == it.listed_count,
            ticks: it.stops.iter().map(|stop| stop.tick).collect(),
        });
        self.drop_if_over(connection);
    }

    /// What is left of a page is let go of: it is asked for anew, when the connection takes something. So nothing is missing of
    /// what is kept, and who takes nothing keeps nothing.
    pub(super) fn ask_anew<'a>(
        &mut self,
        tour: ReplayId,
        home: usize,
        is_urgent: bool,
        left: impl IntoIterator<Item = &'a Queued>,
    ) {
        let it = &mut self.tours[tour.place as usize];
        let (connection, format) = (it.connection.slot, it.encoding.format());
        let ranges = left.into_iter().filter_map(|queued| queued.range.as_ref());
        let mut records = ranges.flat_map(|range| Records::new(format, range.bytes())).peekable();
        let first = records.peek().map(|first| (Arc::from(&*first.topic_name()), first.seq));
        let (name, seq) = first.expect("what is queued of a tour are records");
        let count = records.count() as u64;
        self.work += count * price::SPAN;
        it.count -= count;
        let stop = &mut it.stops[home];
        stop.counted = match (stop.cursor.take(), &stop.counted) {
            (None, _) | (_, Counted::All) => Counted::All,
            (Some(end), Counted::UpTo(last)) if end.name < *last => Counted::UpTo(last.clone()),
            (Some(end), _) => Counted::UpTo(end.name),
        };
        stop.cursor = Some(TourCursor { name, seq: Some(seq) });
        self.replaying_of(connection).queue_mut(is_urgent).push_back(Queued::of_nothing(tour, home, format));
    }

    /// A connection that is gone has a tour no more.
    pub(super) fn depart_tour(&mut self, connection: u32, place: u32) {
        self.work += price::LOOK;
        let it = self.tours.remove(place as usize);
        self.stop_waiting(ReplayId { place, serial: it.serial }, &it);
        let subscriber = &mut self.subscribers[connection as usize];
        if it.stage == Stage::Passing {
            subscriber.asked_count -= 1;
            self.subscription_count -= 1;
        }
    }

    /// All homes have a filter: tours that waited for that go on.
    pub(super) fn go_on_holding(&mut self, waiting: Vec<ReplayId>, outcome: &mut Outcome) {
        for tour in waiting {
            let it = self.tours.get(tour.place as usize);
            let it = it.filter(|it| it.serial == tour.serial && it.stage == Stage::Registering);
            let is_there = it.is_some_and(|it| !self.subscribers[it.connection.slot as usize].is_leaving());
            if is_there {
                self.hold_up(tour, outcome);
            }
        }
    }

    /// Asserts what is said of a connection's tours; for tests and simulations.
    pub(super) fn check_tours(&self, subscriber: &Subscriber, replaying: &Replaying) {
        let tours = replaying.tours.iter().map(|place| &self.tours[*place as usize]);
        assert!(tours.clone().all(|it| it.connection.generation == subscriber.generation));
        let holding_count = tours.clone().filter(|it| it.stage == Stage::Holding).count();
        assert_eq!(holding_count, replaying.holding_count as usize, "what is held up is counted");
        let passing_count = tours.filter(|it| it.stage == Stage::Passing).count();
        let rare = subscriber.rare.as_ref().expect("who has a tour has the rare parts");
        assert_eq!(passing_count, rare.tour_count as usize, "a tour is counted until its filter is");
    }

    /// Asserts that filters know the tours that wait for them; for tests and simulations.
    pub(super) fn check_waiting(&self) {
        for (_, entry) in &self.filters.entries {
            for (place, tour) in entry.touring.iter().enumerate() {
                let it = &self.tours[tour.place as usize];
                assert_eq!((it.serial, it.waiting_place, it.stage), (tour.serial, place, Stage::Registering));
            }
        }
    }

    fn begin_pass(&mut self, tour: ReplayId, outcome: &mut Outcome) {
        let it = &mut self.tours[tour.place as usize];
        it.pass += 1;
        (it.page_count, it.open_count) = (0, it.stops.len());
        let (connection, home_count) = (it.connection.slot, it.stops.len());
        self.work += home_count as u64 * price::EXCHANGE;
        for home in 0..home_count {
            self.wait_for_page(connection, Asker::Tour(tour, home));
        }
        self.ask_pages(connection, outcome);
    }

    /// The connection subscribes to the tour's filter as others do.
    fn register(&mut self, tour: ReplayId, outcome: &mut Outcome) {
        let it = &mut self.tours[tour.place as usize];
        it.stage = Stage::Registering;
        let (connection, encoding, filter) = (it.connection.slot, it.encoding, it.filter.clone());
        let key = self.find_or_add_filter(&filter, encoding, outcome);
        let place = self.filters.hold(key, connection);
        let rare =
            self.subscribers[connection as usize].rare.as_mut().expect("who has a tour has the rare parts");
        rare.tour_count -= 1;
        rare.filters.push(HeldFilter { key, place });
        let entry = &mut self.filters.entries[key.index()];
        match entry.missing_count {
            0 => self.hold_up(tour, outcome),
            _ => {
                self.tours[tour.place as usize].waiting_place = entry.touring.len();
                entry.touring.push(tour);
            }
        }
    }

    /// The tour, which is gone, waits for its filter no more, if it did.
    fn stop_waiting(&mut self, tour: ReplayId, it: &Tour) {
        let Some(key) = self.filters.by_text[it.encoding.index()].get(&*it.filter) else { return };
        let touring = &mut self.filters.entries[key.index()].touring;
        if touring.get(it.waiting_place) != Some(&tour) {
            return;
        }
        touring.swap_remove(it.waiting_place);
        if let Some(moved) = touring.get(it.waiting_place) {
            self.tours[moved.place as usize].waiting_place = it.waiting_place;
        }
    }

    /// Batches of all that the filter matches come from now on: the last pass begins.
    fn hold_up(&mut self, tour: ReplayId, outcome: &mut Outcome) {
        let it = &mut self.tours[tour.place as usize];
        it.stage = Stage::Holding;
        let connection = it.connection.slot;
        self.replaying_of(connection).holding_count += 1;
        self.begin_pass(tour, outcome);
    }

    fn forget_tour(&mut self, tour: ReplayId) -> Tour {
        let it = self.tours.remove(tour.place as usize);
        let replaying = self.replaying_of(it.connection.slot);
        replaying.tours.retain(|place| *place != tour.place);
        replaying.holding_count -= u32::from(it.stage == Stage::Holding);
        it
    }

    fn replaying_of(&mut self, connection: u32) -> &mut Replaying {
        let rare = self.subscribers[connection as usize].rare.get_or_insert_default();
        rare.replaying.get_or_insert_default()
    }

    /// Whether the connection receives the topic by its name, or by a filter other than `own`.
    fn is_received_otherwise(
        &mut self,
        connection: u32,
        encoding: Encoding,
        name: &str,
        own: Option<FilterKey>,
    ) -> bool {
        let subscriber = &self.subscribers[connection as usize];
        if subscriber.asked_count <= 1 {
            return false;
        }
        let view = self.by_name[encoding.index()].get(name);
        if view.and_then(|view| subscriber.find(view)).is_some_and(|place| subscriber.get(place).is_by_name())
        {
            return true;
        }
        let rare = subscriber.rare.as_ref().expect("who has a tour has the rare parts");
        self.work += rare.lookup_count() as u64 * price::MATCH;
        let mut others = rare.filters.iter().filter(|held| Some(held.key) != own);
        others.any(|held| topic::matches(&self.filters.entries[held.key.index()].text, name))
    }

    /// Whether publication `seq` of the topic is live to come to the connection.
    fn is_owed(&self, connection: u32, encoding: Encoding, name: &str, seq: u64) -> bool {
        let view = self.by_name[encoding.index()].get(name);
        view.and_then(|key| {
            let held =
                self.subscribers[connection as usize].get(self.subscribers[connection as usize].find(key)?);
            (held.member != MemberSlot::NONE).then(|| self.views[key as usize].is_owed(held.member, seq))
        })
        .unwrap_or(false)
    }

    /// What the connection is owed of the topic before `seq` is in pages that have come.
    fn move_behind(&mut self, connection: u32, encoding: Encoding, name: &str, seq: u64) {
        let Some(key) = self.by_name[encoding.index()].get(name) else { return };
        let Some(place) = self.subscribers[connection as usize].find(key) else { return };
        let held = self.subscribers[connection as usize].get(place);
        if held.member != MemberSlot::NONE {
            self.work += price::MEMBERSHIP;
            self.change(key, |view| view.skip_before(held.member, seq));
            self.subscribers[connection as usize].forget_gap(name, seq);
        }
    }
}

#[cfg(test)]
mod tests;

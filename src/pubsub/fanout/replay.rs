//! Replays: what a connection is sent of a topic's past before it is a member at the head.
//!
//! The past is the home's, which hands it over in pages that this reactor asks for, one after the other. The one that
//! reaches the newest publication stands in the home's FIFO between the batches before and after it, and makes the
//! connection a member at the head: so nothing is missing between them, and nothing is there twice. It goes before
//! anything live: it is *urgent*. Pages before it are sent after what is live, as there is room.
//!
//! Until that page has come the connection has the subscription and is no member; what is published meanwhile costs it
//! nothing, and it keeps no more of the log than its pages.

use std::collections::VecDeque;

use super::{
    Fanout, Outcome,
    pages::{Asker, PAGES_MAX, Queued},
    subscriber::Subscriber,
};
use crate::{
    protocol::topic::{self, Filter, TopicName},
    pubsub::{
        message::{Page, PageContent, PageFrom, PendingId, ReplayId},
        subscription::{ConnectionId, Gap, Replayed, Started, Unsubscribed, ViewKey},
        view::Registration,
    },
    work::price,
};

/// One connection's replay of one topic.
#[derive(Debug)]
pub(super) struct Replay {
    pub(super) connection: ConnectionId,
    pub(super) view: ViewKey,
    pub(super) serial: u32,
    /// Where it is in [`super::pages::Replaying::replays`].
    index: u32,
    /// Where the next page begins.
    pub(super) from: PageFrom,
    /// The question to answer with the first page.
    pending: Option<PendingId>,
    /// The connection has unsubscribed before that: the question that ends it then.
    leaving: Option<PendingId>,
    pub(super) creator: u32,
}

impl Fanout {
    /// The connection, which has the new subscription at `place`, is to be sent what `from` says before it is a member.
    pub(super) fn begin_replay(
        &mut self,
        connection: u32,
        place: u32,
        from: PageFrom,
        pending: Option<PendingId>,
        creator: u32,
        outcome: &mut Outcome,
    ) {
        let subscriber = &mut self.subscribers[connection as usize];
        let id = subscriber.id(connection);
        let held = subscriber.get_mut(place);
        held.set_replaying(true);
        let view = held.view;
        let replaying = subscriber.rare.get_or_insert_default().replaying.get_or_insert_default();
        self.replay_serial = self.replay_serial.wrapping_add(1);
        let (serial, index) = (self.replay_serial, replaying.replays.len() as u32);
        self.views[view as usize].replaying_count += 1;
        let place = self.replays.insert(Replay {
            connection: id,
            view,
            serial,
            index,
            from,
            pending,
            leaving: None,
            creator,
        });
        replaying.replays.push(place as u32);
        replaying.waiting.push_back(Asker::Replay(ReplayId { place: place as u32, serial }, view));
        self.ask_pages(connection, outcome);
    }

    /// How many replays are under way.
    pub fn replay_count(&self) -> usize {
        self.replays.len()
    }

    /// Whether the connection receives the topic by one of its filters.
    pub(super) fn is_received_by_filter(&mut self, connection: u32, name: TopicName<&str>) -> bool {
        let rare = self.subscribers[connection as usize].rare.as_ref();
        let held = rare.map_or(&[][..], |rare| &rare.filters);
        self.work += held.len() as u64 * price::MATCH;
        held.iter().any(|held| topic::matches(&self.filters.entries[held.key.index()].text, name.as_str()))
    }

    /// Whether the past of a topic that `filter` matches is still being sent to the connection.
    pub(super) fn is_replaying_any(&mut self, connection: u32, filter: Filter<&str>) -> bool {
        let Some(replaying) = self.subscribers[connection as usize].replaying() else { return false };
        self.work += replaying.replays.len() as u64 * price::MATCH;
        let name = |place: &u32| &*self.views[self.replays[*place as usize].view as usize].name;
        replaying.replays.iter().map(name).any(|name| topic::matches(filter.as_str(), name))
    }

    /// A page has come.
    pub fn handle_page(&mut self, page: Page, outcome: &mut Outcome) {
        self.work += price::PAGE;
        let Page { topic, encoding, connection: id, replay: replay_id, content } = page;
        let key =
            self.by_name[encoding.index()].get(&*topic).expect("a view stays while a page is asked for");
        let view = &mut self.views[key as usize];
        view.replaying_count -= 1;
        if let Ok(PageContent { head, .. }) = content {
            match view.registration {
                Registration::Active => assert_eq!(view.head_seq(), head, "a home says things in order"),
                // What was asked before is answered behind it, with the same `seq`.
                Registration::Pending => view.set_head_seq(head),
                Registration::None => {
                    view.registration = Registration::Active;
                    view.set_head_seq(head);
                }
            }
        }
        // Whoever is going keeps its replays for a while, and is sent nothing more.
        let is_there =
            self.find_replay(replay_id).is_some() && !self.subscribers[id.slot as usize].is_leaving();
        match content {
            _ if !is_there => self.end_page(id, outcome),
            Ok(content) => self.take_page(replay_id, content, outcome),
            Err(refusal) => {
                let pending = self.replays[replay_id.place as usize].pending.take();
                outcome.started.push(Started { refusal: Some(refusal), ..Started::at(pending, None) });
                self.end_unheard(replay_id, outcome);
            }
        }
        self.let_go(key, outcome);
    }

    /// Takes the page of a replay that is under way.
    fn take_page(&mut self, id: ReplayId, content: PageContent, outcome: &mut Outcome) {
        let PageContent { spans, page_count, next, count, gap, head, is_recovered, is_last } = content;
        let replay = &mut self.replays[id.place as usize];
        let (connection, view) = (replay.connection, replay.view);
        if replay.from.is_first() {
            let replayed = Some(Replayed { is_recovered, count });
            let pending = replay.pending.take();
            outcome.started.push(Started { replayed, ..Started::at(pending, Some(head)) });
        }
        if replay.leaving.is_some() {
            return self.end_unheard(id, outcome);
        }
        replay.from = next;
        if let Some((from, to)) = gap {
            let topic = self.views[view as usize].name.clone();
            outcome.past_gaps.push((connection.slot, Gap { topic, from, to }));
        }
        if is_last {
            self.forget_replay(id);
        }
        let subscriber = &mut self.subscribers[connection.slot as usize];
        let place = subscriber.find(view).expect("whoever is sent a topic's past is subscribed to it");
        let held = subscriber.get_mut(place);
        held.set_urgent(is_last && !spans.spans.is_empty());
        held.set_replaying(!is_last);
        self.work += spans.spans.len() as u64 * price::SPAN;
        self.replayed_total += page_count;
        let replaying = self.subscribers[connection.slot as usize].replaying_mut();
        let queue = replaying.expect("it has a replay").queue_mut(is_last);
        let (asker, format) = (Asker::Replay(id, view), self.views[view as usize].encoding().format());
        let (is_empty, count) = (spans.spans.is_empty(), spans.spans.len());
        for (number, span) in (1..).zip(spans.spans) {
            self.replayed_bytes_total += span.range.len() as u64;
            let page_end = (number == count).then_some(spans.next_seq);
            queue.push_back(Queued { asker, format, seq: span.seq, range: Some(span.range), page_end });
        }
        if is_last {
            self.make_exact(connection.slot, place);
        }
        if is_empty {
            self.end_page(connection, outcome);
        }
        outcome.owed.push(connection.slot);
    }

    /// The replay ends with its first page, of which nothing is sent: it was refused, or the connection has left.
    fn end_unheard(&mut self, id: ReplayId, outcome: &mut Outcome) {
        let Replay { connection, view, leaving, .. } = self.forget_replay(id);
        if leaving.is_some() {
            let replaying = self.subscribers[connection.slot as usize].replaying_mut();
            replaying.expect("it had a replay").is_leaving = false;
            outcome.started.push(Started::at(leaving, None));
            outcome.released.push(connection.slot);
        }
        self.end_page(connection, outcome);
        self.drop_replaying(connection.slot, view);
    }

    /// The connection lets go of a topic whose past it is being sent, at once unless the subscribe itself is still to be
    /// answered.
    pub(super) fn cancel_replay(
        &mut self,
        connection: u32,
        key: ViewKey,
        pending: PendingId,
        outcome: &mut Outcome,
    ) -> Unsubscribed {
        let subscriber = &self.subscribers[connection as usize];
        let id = subscriber.id(connection);
        let replaying = subscriber.replaying().expect("it has a replay");
        self.work += replaying.replays.len() as u64 * price::VISIT;
        let is_its = |place: &&u32| self.replays[**place as usize].view == key;
        let place = *replaying.replays.iter().find(is_its).expect("it has a replay");
        let found = &mut self.replays[place as usize];
        if found.from.is_first() {
            found.leaving = Some(pending);
            let replaying = self.subscribers[connection as usize].replaying_mut();
            replaying.expect("it has a replay").is_leaving = true;
            return Unsubscribed::Later;
        }
        let replay = ReplayId { place, serial: found.serial };
        self.forget_replay(replay);
        self.forget_queued(id, |asker| asker == Asker::Replay(replay, key), outcome);
        self.drop_replaying(connection, key);
        self.let_go(key, outcome);
        Unsubscribed::Now
    }

    /// A connection that is gone has no replays any more; at most so many steps at a time. Tells whether that is done.
    pub(super) fn depart_replays(&mut self, connection: u32, until: u64, outcome: &mut Outcome) -> bool {
        while let Some(place) =
            self.subscribers[connection as usize].replaying_mut().and_then(|it| it.replays.pop())
        {
            // What keeps the view is let go of with the subscription, which goes after it.
            let Replay { pending, leaving, .. } = self.replays.remove(place as usize);
            let questions = pending.into_iter().chain(leaving);
            outcome.started.extend(questions.map(|question| Started::at(Some(question), None)));
            self.work += price::LOOK;
            if self.work >= until {
                return false;
            }
        }
        while let Some(place) =
            self.subscribers[connection as usize].replaying_mut().and_then(|it| it.tours.pop())
        {
            self.depart_tour(connection, place);
        }
        true
    }

    /// The last of a topic's past is not sent, of which `stale` is left.
    pub(super) fn miss_urgent(
        &mut self,
        connection: u32,
        view: ViewKey,
        stale: &VecDeque<Queued>,
        outcome: &mut Outcome,
    ) {
        let subscriber = &mut self.subscribers[connection as usize];
        let place = subscriber.find(view).expect("whoever is sent a topic's past is subscribed to it");
        subscriber.get_mut(place).set_urgent(false);
        let topic = self.views[view as usize].name.clone();
        let next_seq = stale.back().and_then(|last| last.page_end).expect("it was queued to its end");
        outcome.past_gaps.push((connection, Gap { topic, from: stale[0].seq, to: next_seq - 1 }));
        self.note_past_sent(connection, view, outcome);
    }

    fn find_replay(&self, id: ReplayId) -> Option<&Replay> {
        self.replays.get(id.place as usize).filter(|replay| replay.serial == id.serial)
    }

    fn forget_replay(&mut self, id: ReplayId) -> Replay {
        let replay = self.replays.remove(id.place as usize);
        self.views[replay.view as usize].replaying_count -= 1;
        let replaying = self.subscribers[replay.connection.slot as usize].replaying_mut();
        let replays = &mut replaying.expect("it has a replay").replays;
        replays.swap_remove(replay.index as usize);
        if let Some(&moved) = replays.get(replay.index as usize) {
            self.replays[moved as usize].index = replay.index;
        }
        replay
    }

    /// A subscription whose replay was forgotten goes.
    fn drop_replaying(&mut self, connection: u32, key: ViewKey) {
        let subscriber = &mut self.subscribers[connection as usize];
        let place = subscriber.find(key).expect("whoever is sent a topic's past is subscribed to it");
        subscriber.asked_count -= 1;
        self.subscription_count -= 1;
        self.remove_subscription(connection, place);
        self.drop_if_over(connection);
    }

    /// Asserts what is said of a connection's replays; for tests and simulations.
    pub(super) fn check_replays(&self, subscriber: &Subscriber) {
        let urgent_count = subscriber.subscriptions().iter().filter(|held| held.is_urgent()).count();
        let replaying_count = subscriber.subscriptions().iter().filter(|held| held.is_replaying()).count();
        let Some(replaying) = subscriber.replaying() else {
            assert_eq!((urgent_count, replaying_count), (0, 0));
            return;
        };
        if subscriber.is_leaving() {
            return;
        }
        assert!(!replaying.is_over(), "it is there only as long as it is needed");
        assert_eq!(replaying.replays.len(), replaying_count, "a replay is recorded twice, alike");
        for (index, &place) in (0..).zip(&replaying.replays) {
            let replay = &self.replays[place as usize];
            assert_eq!((replay.index, replay.connection.generation), (index, subscriber.generation));
            let held = subscriber.find(replay.view).map(|place| subscriber.get(place));
            assert!(held.is_some_and(|held| held.is_replaying()));
        }
        let ends = |queue: &VecDeque<Queued>| queue.iter().filter(|queued| queued.page_end.is_some()).count();
        let is_of_replay =
            |queued: &&Queued| matches!(queued.asker, Asker::Replay(..)) && queued.page_end.is_some();
        let marked_count = replaying.urgent.iter().filter(is_of_replay).count();
        assert_eq!(marked_count, urgent_count, "what is urgent is marked");
        self.check_tours(subscriber, replaying);
        let queued_count = ends(&replaying.urgent) + ends(&replaying.queue);
        assert!(queued_count <= replaying.page_count as usize && replaying.page_count <= PAGES_MAX);
        let waits_for_others = subscriber.rare.as_ref().is_some_and(|rare| rare.waits_for_others);
        let may_wait = replaying.page_count > 0 || waits_for_others;
        assert!(replaying.waiting.is_empty() || may_wait, "whoever waits, waits for a page");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        protocol::{Encoding, Format, command::PayloadKind, publication::Publication},
        pubsub::{
            home::Homes,
            log::{Budget, ChunkPool},
            message::{PageRequest, Request},
            past::{Span, Spans},
            policy::Policy,
            subscription::{Subscribed, Wanted},
        },
    };

    const TOPIC: &str = "t";
    const ENCODING: Encoding = Encoding::Json;
    const RECORD_BYTES: usize = 100;

    /// A fan-out that is told what its one home says.
    struct Bench {
        fanout: Fanout,
        budget: Arc<Budget>,
        pool: ChunkPool,
        outcome: Outcome,
    }

    impl Bench {
        fn new() -> Bench {
            let budget = Budget::new(1 << 20);
            let fanout = Fanout::new(Homes::new(1, 0), Policy::skipping(1 << 20), 10, 10, budget.clone());
            Bench { fanout, pool: ChunkPool::new(budget.clone()), budget, outcome: Outcome::default() }
        }

        /// The connection subscribes to the topic and what is behind `since` of its past.
        fn subscribe(&mut self, id: ConnectionId, since: u64, pending: u32) {
            let past = Some(PageFrom::Start { since: Some(since), last: Some(0) });
            let pending = Some(PendingId(pending));
            let wanted =
                Wanted { topic: TopicName::checked(TOPIC), encoding: ENCODING, past, pending, creator: 0 };
            let subscribed = self.fanout.handle_subscribe_topic(id, wanted, &mut self.outcome);
            assert!(matches!(subscribed, Ok(Subscribed::Later)));
        }

        /// The pages that are asked for.
        fn asked(&mut self) -> Vec<PageRequest> {
            let page = |(_, request)| if let Request::Page(page) = request { Some(*page) } else { None };
            self.outcome.requests.drain(..).filter_map(page).collect()
        }

        /// So many publications from `seq` on, in a chunk that nobody writes any more.
        fn spans(&mut self, seq: u64, count: u64) -> Spans {
            let len = RECORD_BYTES * count as usize;
            let mut appender = self.pool.acquire(len.max(1), 0);
            let range = appender.append(len, |room| room.fill(0));
            self.pool.retire(appender);
            let spans = if count > 0 { vec![Span { seq, range }] } else { Vec::new() };
            Spans { spans, next_seq: seq + count }
        }

        /// The answer to a request comes: so many publications from `seq` on of a topic that is at `head`.
        fn page(&mut self, request: PageRequest, seq: u64, count: u64, head: u64) {
            let spans = self.spans(seq, count);
            let gap = match request.from {
                PageFrom::Next(next) if next < seq => Some((next, seq - 1)),
                _ => None,
            };
            let is_last = spans.next_seq > head;
            let count = head + 1 - seq;
            let (page_count, next) = (spans.next_seq - seq, PageFrom::Next(spans.next_seq));
            let content =
                Ok(PageContent { spans, page_count, next, count, gap, head, is_recovered: true, is_last });
            let PageRequest { topic, encoding, connection, replay, .. } = request;
            let page = Page { topic, encoding, connection, replay, content };
            self.fanout.handle_page(page, &mut self.outcome);
            self.fanout.check();
        }

        /// What is as old as can be is let go of.
        fn shed(&mut self) {
            let clock = self.budget.clock() + 1;
            self.fanout.shed(clock);
            while self.fanout.run_tasks(1 << 20, 0, &mut self.outcome) {}
            self.fanout.check();
        }
    }

    /// The first of its slot, as a broker counts them, and what nobody's slot looks like.
    const FIRST: ConnectionId = ConnectionId { slot: 0, generation: 0 };

    #[test]
    fn a_page_of_a_connection_that_is_gone_goes_nowhere() {
        let mut bench = Bench::new();
        bench.subscribe(FIRST, 0, 1);
        let request = bench.asked().pop().expect("a page is asked for");
        assert!(bench.fanout.handle_disconnect(0, &mut bench.outcome));
        bench.page(request, 1, 3, 3);
        let last = bench.outcome.requests.pop();
        assert!(matches!(last, Some((0, Request::Unsubscribe { .. }))), "nobody wants its batches: {last:?}");
        assert!(bench.fanout.is_empty());
    }

    /// So that nobody who drains takes it for one that has everything.
    #[test]
    fn whoever_is_sent_a_past_is_owed_something_until_all_of_it_is_sent() {
        let mut bench = Bench::new();
        bench.subscribe(FIRST, 0, 1);
        assert!(bench.fanout.is_replaying(0), "a page is on its way");
        let request = bench.asked().pop().expect("a page is asked for");
        bench.page(request, 1, 5, 10);
        assert!(
            bench.fanout.take_past(0, false, u32::MAX, &mut bench.outcome).is_some()
                && bench.fanout.is_replaying(0)
        );
        let request = bench.asked().pop().expect("the next page is asked for");
        bench.page(request, 6, 5, 10);
        assert!(bench.fanout.take_past(0, true, u32::MAX, &mut bench.outcome).is_some());
        assert!(!bench.fanout.is_replaying(0));
    }

    /// Some of its values are sent, and the rest is let go of.
    #[test]
    fn the_rest_of_a_page_of_values_by_key_is_asked_for_again_from_its_own_seq() {
        let mut bench = Bench::new();
        bench.subscribe(FIRST, 0, 1);
        let PageRequest { topic, encoding, connection, replay, .. } =
            bench.asked().pop().expect("a page is asked for");
        let publication = |seq| {
            let (payload, kind) = (&b"{}"[..], PayloadKind::Json);
            Publication { topic: TOPIC, seq, user: None, time_ms: None, payload, kind }
        };
        let len = publication(3).encoded_len(Format::Json);
        let mut appender = bench.pool.acquire(3 * len, 0);
        let mut range = appender.append(len, |room| publication(3).encode(Format::Json, room));
        for seq in [7, 9] {
            appender.extend(&mut range, len, |room| publication(seq).encode(Format::Json, room));
        }
        bench.pool.retire(appender);
        let content = Ok(PageContent {
            spans: Spans { spans: vec![Span { seq: 3, range }], next_seq: 12 },
            page_count: 3,
            next: PageFrom::NextValue { seq: 12, until: 19 },
            count: 8,
            gap: None,
            head: 20,
            is_recovered: false,
            is_last: false,
        });
        bench.fanout.handle_page(Page { topic, encoding, connection, replay, content }, &mut bench.outcome);
        assert_eq!(bench.fanout.replayed_total(), 3);
        let (sent, _) =
            bench.fanout.take_past(0, false, len as u32, &mut bench.outcome).expect("one at least");
        assert_eq!(sent.len(), len);
        bench.shed();
        let from = bench.asked().pop().map(|request| request.from);
        assert_eq!(from, Some(PageFrom::NextValue { seq: 7, until: 19 }), "none is sent twice");
    }

    /// A connection with more subscriptions than end at once goes while pages are on their way.
    #[test]
    fn a_page_that_comes_while_its_connection_leaves_is_not_kept() {
        let mut bench = Bench::new();
        bench.subscribe(FIRST, 0, 1);
        let request = bench.asked().pop().expect("a page is asked for");
        bench.fanout.subscribers[0].set(super::super::subscriber::LEAVING, true);
        bench.page(request, 1, 5, 20);
        assert!(bench.fanout.subscribers[0].replaying().is_some_and(|replaying| replaying.queue.is_empty()));
        bench.shed();
    }
}

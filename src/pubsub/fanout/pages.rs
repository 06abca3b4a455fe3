//! Pages: what connections are being sent of topics' pasts, by replays and by tours.
//!
//! Those who ask for a page wait for their turn, and few pages of a connection are under way at a time. What comes is queued: as
//! *urgent* before anything live, or behind it.

use std::collections::VecDeque;

use super::{Fanout, Outcome, replay::Replay, subscriber::Subscriber};
use crate::{
    protocol::{Encoding, Format, record::Records},
    pubsub::{
        log::Range,
        message::{PageRequest, ReplayId, Request},
        subscription::{ConnectionId, ViewKey},
    },
    work::price,
};

/// So many pages of a connection are asked for or not sent yet; further replays of it wait.
pub(super) const PAGES_MAX: u32 = if cfg!(test) { 2 } else { 4 };

/// So many pages of tours are asked for at a time, for all connections of a reactor: homes look at very many topics for one, and
/// what else they are asked stands behind it.
const TOUR_PAGES_MAX: u32 = if cfg!(test) { 3 } else { 16 };

/// All that a connection is being sent of topics' pasts.
#[derive(Debug, Default)]
pub(super) struct Replaying {
    /// Their places in the fan-out's list.
    pub(super) replays: Vec<u32>,
    /// Of its tours likewise: see [`super::touring`].
    pub(super) tours: Vec<u32>,
    /// How many of these keep what is live from being sent until they have all that was before.
    pub(super) holding_count: u32,
    /// Those that wait until they may ask for a page, first come first served.
    pub(super) waiting: VecDeque<Asker>,
    /// One of them is only to be answered and left: what else the connection asks waits for that.
    pub(super) is_leaving: bool,
    /// Pages that are asked for, or not sent to their end.
    pub(super) page_count: u32,
    /// Of pages that are the last of their topics.
    pub(super) urgent: VecDeque<Queued>,
    /// Of others.
    pub(super) queue: VecDeque<Queued>,
}

/// Who asks for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// The replay of a view's topic.
    Replay(ReplayId, ViewKey),
    /// A tour, at this home.
    Tour(ReplayId, usize),
}

/// Publications to be sent.
#[derive(Debug)]
pub(super) struct Queued {
    /// Whose they are; of one that is not over.
    pub(super) asker: Asker,
    pub(super) format: Format,
    /// Of a replay, the first one's `seq`.
    pub(super) seq: u64,
    /// None where a tour has come to its end, or nothing is to be sent of its page.
    pub(super) range: Option<Range>,
    /// The page ends with it: of a replay, which publication comes next.
    pub(super) page_end: Option<u64>,
}

impl Replaying {
    pub(super) fn is_over(&self) -> bool {
        self.replays.is_empty() && self.tours.is_empty() && self.page_count == 0
    }

    pub(super) fn queue_mut(&mut self, is_urgent: bool) -> &mut VecDeque<Queued> {
        if is_urgent { &mut self.urgent } else { &mut self.queue }
    }
}

impl Queued {
    /// What a tour of publications in `format` has.
    pub(super) fn of_tour(tour: ReplayId, home: usize, format: Format, range: Option<Range>) -> Queued {
        Queued { asker: Asker::Tour(tour, home), format, seq: 0, range, page_end: None }
    }

    /// A page of a tour of which nothing is to be sent but what the connection is told beside it: the next one waits until it
    /// takes that.
    pub(super) fn of_nothing(tour: ReplayId, home: usize, format: Format) -> Queued {
        Queued { page_end: Some(0), ..Queued::of_tour(tour, home, format, None) }
    }

    fn len(&self) -> usize {
        self.range.as_ref().map_or(0, Range::len)
    }

    /// Takes at most `bytes_max` of whole records off, but one at least; none if that is all.
    fn split(&mut self, bytes_max: u32) -> Option<Range> {
        let plain = Encoding::new(self.format, false);
        let range = self.range.as_mut()?;
        let bytes = range.bytes();
        let (mut len, mut count) = (0, 0);
        loop {
            let next = len + plain.record_len(&bytes[len as usize..]);
            if next > bytes_max && count > 0 {
                break;
            }
            (len, count) = (next, count + 1);
            if len >= bytes_max {
                break;
            }
        }
        let left = range.len() as u32 - len;
        if left == 0 {
            return None;
        }
        let start = range.start();
        let taken = range.part(start, len);
        *range = range.part(start + len, left);
        // Of values by key it is not the next number.
        let next = Records::new(self.format, range.bytes()).next();
        self.seq = next.expect("what is left is whole records").seq;
        Some(taken)
    }
}

impl Subscriber {
    pub(super) fn replaying(&self) -> Option<&Replaying> {
        self.rare.as_ref()?.replaying.as_deref()
    }

    pub(super) fn replaying_mut(&mut self) -> Option<&mut Replaying> {
        self.rare.as_mut()?.replaying.as_deref_mut()
    }

    /// Whether it leaves a topic of whose past it has not heard yet.
    pub(super) fn is_leaving_unheard(&self) -> bool {
        self.replaying().is_some_and(|replaying| replaying.is_leaving)
    }

    pub(super) fn has_urgent(&self) -> bool {
        self.replaying().is_some_and(|it| !it.urgent.is_empty() || it.holding_count > 0)
    }

    /// Whether it is sent nothing that is live before a home has answered.
    pub(super) fn is_held_up(&self) -> bool {
        self.replaying().is_some_and(|it| it.urgent.is_empty() && it.holding_count > 0)
    }

    /// Nothing more is sent to it.
    pub(super) fn forget_pages(&mut self) {
        if let Some(replaying) = self.replaying_mut() {
            (replaying.urgent, replaying.queue) = (VecDeque::new(), VecDeque::new());
        }
    }
}

impl Fanout {
    /// Whether what is live waits until homes have answered, and nothing else is before it.
    pub fn is_held_up(&self, connection: u32) -> bool {
        self.subscribers.get(connection as usize).is_some_and(Subscriber::is_held_up)
    }

    /// Whether the last of some topic's past is to be sent to the connection, before anything live.
    pub fn has_urgent(&self, connection: u32) -> bool {
        let subscriber = self.subscribers.get(connection as usize);
        subscriber.is_some_and(|subscriber| subscriber.has_urgent() && !subscriber.is_leaving())
    }

    /// Whether some topic's past is to be sent to the connection.
    pub fn has_past(&self, connection: u32) -> bool {
        let subscriber = self.subscribers.get(connection as usize).filter(|it| !it.is_leaving());
        let replaying = subscriber.and_then(Subscriber::replaying);
        replaying.is_some_and(|replaying| !(replaying.urgent.is_empty() && replaying.queue.is_empty()))
    }

    /// Takes the next of the last of some topic's past, or of other parts: at most `bytes_max` of whole records, but one at
    /// least. Tells whose it was, if it was the end of that.
    pub fn take_past(
        &mut self,
        connection: u32,
        is_urgent: bool,
        bytes_max: u32,
        outcome: &mut Outcome,
    ) -> Option<(Range, Option<ViewKey>)> {
        let subscriber = self.subscribers.get_mut(connection as usize).filter(|it| !it.is_leaving())?;
        let id = subscriber.id(connection);
        let replaying = subscriber.replaying_mut()?;
        let first = replaying.queue_mut(is_urgent).front_mut()?;
        if first.len() > bytes_max as usize
            && let Some(range) = first.split(bytes_max)
        {
            return Some((range, None));
        }
        let queued = replaying.queue_mut(is_urgent).pop_front().expect("it is there");
        let Some(range) = queued.range else {
            match (queued.asker, queued.page_end) {
                (Asker::Tour(tour, home), Some(_)) => {
                    self.go_on_touring(tour, home, outcome);
                    self.end_page(id, outcome);
                }
                (asker, _) => self.end_tour(asker, outcome),
            }
            return self.take_past(connection, is_urgent, bytes_max, outcome);
        };
        if queued.page_end.is_none() {
            return Some((range, None));
        }
        let ended = match queued.asker {
            Asker::Replay(_, view) if is_urgent => {
                let place = subscriber.find(view);
                let place = place.expect("whoever is sent a topic's past is subscribed to it");
                subscriber.get_mut(place).set_urgent(false);
                Some(view)
            }
            Asker::Replay(..) => {
                self.wait_for_page(connection, queued.asker);
                None
            }
            Asker::Tour(tour, home) => {
                self.go_on_touring(tour, home, outcome);
                None
            }
        };
        self.end_page(id, outcome);
        Some((range, ended))
    }

    /// Nothing of what the connection is to be sent of those whom `is_its` names is sent, or asked for.
    pub(super) fn forget_queued(
        &mut self,
        id: ConnectionId,
        is_its: impl Fn(Asker) -> bool,
        outcome: &mut Outcome,
    ) {
        let replaying = self.subscribers[id.slot as usize].replaying_mut().expect("it had a replay");
        let count = replaying.urgent.len() + replaying.queue.len() + replaying.waiting.len();
        self.work += count as u64 * price::VISIT;
        replaying.waiting.retain(|waiting| !is_its(*waiting));
        let mut ended_count = 0;
        for queue in [&mut replaying.urgent, &mut replaying.queue] {
            queue.retain(|queued| {
                ended_count += u32::from(is_its(queued.asker) && queued.page_end.is_some());
                !is_its(queued.asker)
            });
        }
        for _ in 0..ended_count {
            self.end_page(id, outcome);
        }
    }

    /// What the connection is to be sent of topics' pasts and is stale by `clock`, a reading of the log's age clock, is let
    /// go of: it is asked for again, unless it is the last of a replay, and the connection a member by now; then it is told.
    pub(super) fn shed_pages(&mut self, connection: u32, clock: u64, outcome: &mut Outcome) {
        for is_urgent in [true, false] {
            while let Some(asker) = self.find_stale(connection, is_urgent, clock) {
                let subscriber = &mut self.subscribers[connection as usize];
                let id = subscriber.id(connection);
                let replaying = subscriber.replaying_mut().expect("it has something queued");
                // A page is of one replay or tour, so what is left of that is all there is of it.
                let queue = replaying.queue_mut(is_urgent);
                let (stale, kept) =
                    queue.drain(..).partition(|queued| queued.asker == asker && queued.range.is_some());
                *queue = kept;
                match asker {
                    Asker::Replay(_, view) if is_urgent => {
                        self.miss_urgent(connection, view, &stale, outcome);
                    }
                    Asker::Replay(replay, _) => {
                        let from = stale[0].seq;
                        let replay = &mut self.replays[replay.place as usize];
                        replay.from = replay.from.next(from);
                        self.wait_for_page(connection, asker);
                    }
                    Asker::Tour(tour, home) => {
                        self.ask_anew(tour, home, is_urgent, &stale);
                        outcome.owed.push(connection);
                        continue;
                    }
                }
                self.end_page(id, outcome);
                outcome.owed.push(connection);
            }
        }
    }

    /// Whose page something stale is of that the connection is to be sent.
    fn find_stale(&mut self, connection: u32, is_urgent: bool, clock: u64) -> Option<Asker> {
        let queue = self.subscribers[connection as usize].replaying_mut()?.queue_mut(is_urgent);
        self.work += queue.len() as u64 * price::VISIT;
        let is_stale = |queued: &&Queued| queued.range.as_ref().is_some_and(|range| range.is_stale(clock));
        Some(queue.iter().find(is_stale)?.asker)
    }

    /// A replay or a tour needs another page.
    pub(super) fn wait_for_page(&mut self, connection: u32, asker: Asker) {
        let replaying = self.subscribers[connection as usize].replaying_mut();
        replaying.expect("it has a replay").waiting.push_back(asker);
    }

    /// A page of the connection is sent, or goes nowhere: another may be asked for.
    pub(super) fn end_page(
        &mut self,
        ConnectionId { slot, generation }: ConnectionId,
        outcome: &mut Outcome,
    ) {
        let Some(subscriber) = self.subscribers.get_mut(slot as usize) else { return };
        if subscriber.generation != generation || subscriber.is_leaving() {
            return;
        }
        // A slot that is nobody's looks like its first connection's.
        let Some(replaying) = subscriber.replaying_mut() else { return };
        replaying.page_count -= 1;
        self.ask_pages(slot, outcome);
        self.drop_if_over(slot);
    }

    /// Whoever is sent nothing of the past any more needs no list of it.
    pub(super) fn drop_if_over(&mut self, connection: u32) {
        if let Some(rare) = &mut self.subscribers[connection as usize].rare {
            rare.replaying.take_if(|replaying| replaying.is_over());
        }
    }

    pub(super) fn ask_pages(&mut self, connection: u32, outcome: &mut Outcome) {
        loop {
            let replaying = self.subscribers[connection as usize].replaying_mut().expect("it has a replay");
            if replaying.page_count >= PAGES_MAX {
                return;
            }
            let Some(asker) = replaying.waiting.pop_front() else { return };
            let id = match asker {
                Asker::Replay(id, _) => id,
                Asker::Tour(tour, home) => {
                    let Some(request) = self.tour_request(tour, home) else { continue };
                    if self.tour_pages_out >= TOUR_PAGES_MAX {
                        return self.wait_for_others(connection, asker);
                    }
                    self.tour_pages_out += 1;
                    let replaying = self.subscribers[connection as usize].replaying_mut();
                    replaying.expect("it has a tour").page_count += 1;
                    outcome.requests.push((home, Request::Tour(Box::new(request))));
                    continue;
                }
            };
            let Some(Replay { view, from, creator, connection, .. }) =
                self.replays.get(id.place as usize).filter(|replay| replay.serial == id.serial)
            else {
                continue;
            };
            replaying.page_count += 1;
            let view = &mut self.views[*view as usize];
            view.replaying_count += 1;
            let request = PageRequest {
                topic: view.name.clone(),
                encoding: view.encoding(),
                from: *from,
                connection: *connection,
                replay: id,
                creator: *creator,
            };
            let home = self.homes.of(view.topic());
            outcome.requests.push((home, Request::Page(Box::new(request))));
        }
    }

    /// Pages of other connections' tours come first.
    fn wait_for_others(&mut self, connection: u32, asker: Asker) {
        let is_held_up = self.subscribers[connection as usize].is_held_up();
        let subscriber = &mut self.subscribers[connection as usize];
        let id = subscriber.id(connection);
        subscriber.replaying_mut().expect("it has a tour").waiting.push_front(asker);
        let rare = subscriber.rare.as_mut().expect("who has a tour has the rare parts");
        match std::mem::replace(&mut rare.waits_for_others, true) {
            true => {}
            // All that is live of it waits.
            false if is_held_up => self.waiting_for_others.push_front(id),
            false => self.waiting_for_others.push_back(id),
        }
    }

    /// A page of a tour has come: those who waited for that ask for theirs.
    pub(super) fn end_tour_page(&mut self, outcome: &mut Outcome) {
        self.tour_pages_out -= 1;
        while self.tour_pages_out < TOUR_PAGES_MAX
            && let Some(ConnectionId { slot, generation }) = self.waiting_for_others.pop_front()
        {
            self.work += price::LOOK;
            let subscriber = &mut self.subscribers[slot as usize];
            if subscriber.generation != generation || subscriber.is_leaving() {
                continue;
            }
            // A slot that is nobody's looks like its first connection's.
            let Some(rare) = &mut subscriber.rare else { continue };
            rare.waits_for_others = false;
            if rare.replaying.is_some() {
                self.ask_pages(slot, outcome);
            }
        }
    }

    /// Whether some topic's past is to be sent to the connection, or is on its way to it.
    pub fn is_replaying(&self, connection: u32) -> bool {
        self.subscribers
            .get(connection as usize)
            .is_some_and(|it| it.replaying().is_some() && !it.is_leaving())
    }
}

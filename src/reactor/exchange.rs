//! What is said between reactors: requests to homes, and what this home and this fan-out say to all of them; and what guests
//! ask, and are told. A guest is no home, and nobody waits for it: what it does not take in time it is told to have missed.
//!
//! Nothing here knows of connections, or decides what becomes of what came: [`super::desk`] does.

use std::collections::VecDeque;

use super::Order;
use crate::{
    channel::Port,
    pubsub::{
        home::bits,
        message::{Delivery, Outboxes, Request},
    },
};

/// So many deliveries may wait for room in another reactor's queue before this home takes no more
/// publications.
pub(super) const OUTBOX_MAX: usize = if cfg!(test) { 4 } else { 1_024 };
/// So many wait for a guest before the batches among them are let go of.
const GUEST_OUTBOX_MAX: usize = if cfg!(test) { 16 } else { 1_024 };
/// How many requests of each other reactor a turn takes at most.
pub(super) const RECEIVES_MAX: usize = if cfg!(test) { 4 } else { 1_024 };
/// How many deliveries of each other home a turn takes at most.
pub(super) const DELIVERIES_MAX: usize = if cfg!(test) { 6 } else { 4_096 };

/// A reactor's, or a guest's, end of the queues.
pub type ReactorPort = Port<Request, Delivery, Order>;

/// A reactor's, or a guest's, exchange with all reactors, itself included.
///
/// Whatever is said comes in by [`Exchange::request`], [`Exchange::say`] and [`Exchange::outboxes`], at any time. A turn
/// takes what its own home said by [`Exchange::take_own`], tells by [`Exchange::note_outboxes`] that this is over, and
/// goes through [`Exchange::senders`] for what others said, by [`Exchange::receive_request`] and
/// [`Exchange::receive_delivery`]. [`Exchange::post`] carries what was said to the others as far as they have room; until
/// then it waits here in the order in which it was said.
///
/// Nothing waits in a backlog unless [`Exchange::is_backlogged`] tells so.
#[derive(Debug)]
pub struct Exchange {
    port: ReactorPort,
    home_count: usize,
    /// What this home and this fan-out say, by port.
    outboxes: Outboxes,
    /// Requests to other homes, by home.
    backlog: Vec<VecDeque<Request>>,
    /// Requests to this reactor's own home that take their turn as those of others do.
    asked: VecDeque<Request>,
    /// Into whose queues something was put since the last post, by port.
    touched: Vec<bool>,
    is_backlogged: bool,
    is_outbox_full: bool,
}

/// Who has said something to this reactor.
#[derive(Clone, Copy, Debug)]
pub struct Senders {
    set: u64,
    first: usize,
}

impl Exchange {
    /// What goes over `port`, among so many homes: the first ports are theirs.
    pub fn new(port: ReactorPort, home_count: usize) -> Exchange {
        let port_count = port.count();
        Exchange {
            port,
            home_count,
            outboxes: (0..port_count).map(|_| VecDeque::new()).collect(),
            backlog: (0..home_count).map(|_| VecDeque::new()).collect(),
            asked: VecDeque::new(),
            touched: vec![false; port_count],
            is_backlogged: false,
            is_outbox_full: false,
        }
    }

    /// Which reactor this is.
    #[inline]
    pub fn index(&self) -> usize {
        self.port.index()
    }

    /// How many homes there are, this reactor's included.
    pub fn home_count(&self) -> usize {
        self.home_count
    }

    /// Whether some home has no room for what is to be said to it: as of the last post, and of what was said since.
    #[inline]
    pub fn is_backlogged(&self) -> bool {
        self.is_backlogged
    }

    /// Whether this home has said as much as it may before that is taken: likewise.
    #[inline]
    pub fn is_outbox_full(&self) -> bool {
        self.is_outbox_full
    }

    /// How much this home has said to this reactor that is not taken.
    #[inline]
    pub fn own_count(&self) -> usize {
        self.outboxes[self.index()].len()
    }

    /// Whether everything that was said to other reactors is in their queues.
    pub fn is_posted(&self) -> bool {
        let of_reactors = self.outboxes[..self.home_count].iter().enumerate();
        let mut of_others = of_reactors.filter(|(to, _)| *to != self.index());
        !self.is_backlogged && of_others.all(|(_, outbox)| outbox.is_empty())
    }

    /// Whether everything that was said to guests is in theirs.
    pub fn is_posted_to_guests(&self) -> bool {
        self.outboxes[self.home_count..].iter().all(VecDeque::is_empty)
    }

    /// Puts a request into the queue to another home, or behind those that wait for room there.
    pub fn request(&mut self, home: usize, request: Request) {
        if self.backlog[home].is_empty() {
            match self.port.send_request(home, request) {
                Ok(()) => self.touched[home] = true,
                Err(request) => {
                    self.is_backlogged = true;
                    self.backlog[home].push_back(request);
                }
            }
        } else {
            self.backlog[home].push_back(request);
        }
    }

    /// Says something to a reactor, which may be this one.
    #[inline]
    pub fn say(&mut self, to: usize, delivery: Delivery) {
        self.outboxes[to].push_back(delivery);
    }

    /// Where this home puts what it says.
    #[inline]
    pub fn outboxes(&mut self) -> &mut Outboxes {
        &mut self.outboxes
    }

    /// Asks this reactor's own home, in its turn. What is asked at once is answered at once, and one answer may ask for the next
    /// thing: what goes on for long would take whole turns one after the other, and leave none of them to anybody else.
    pub fn ask_own(&mut self, request: Request) {
        self.asked.push_back(request);
    }

    /// Whether this home is to be asked something in its turn.
    #[inline]
    pub fn is_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Takes what it is asked, the first first.
    pub fn take_asked(&mut self) -> Option<Request> {
        self.asked.pop_front()
    }

    /// Takes what this home has said to this reactor, the first first.
    #[inline]
    pub fn take_own(&mut self) -> Option<Delivery> {
        let index = self.index();
        self.outboxes[index].pop_front()
    }

    /// Notes whether this home has said as much as it may before that is taken.
    pub fn note_outboxes(&mut self) {
        let (index, home_count) = (self.index(), self.home_count);
        let is_full = |(to, outbox): (usize, &VecDeque<Delivery>)| to != index && outbox.len() >= OUTBOX_MAX;
        let mut of_reactors = self.outboxes[..home_count].iter().enumerate();
        self.is_outbox_full = self.own_count() > 0 || of_reactors.any(is_full);
    }

    /// What this home has said to this reactor beyond `own_count` is not taken at once, and what it costs not known: the home
    /// says no more before it is.
    #[inline]
    pub fn note_own_beyond(&mut self, own_count: usize) {
        self.is_outbox_full |= self.own_count() > own_count;
    }

    /// Who has said something. Another is first in each turn: as long as there is not room for all, each has its share.
    pub fn senders(&mut self, turn: u64) -> Senders {
        Senders { set: self.port.senders(), first: turn as usize % self.port.count() }
    }

    /// Takes a request to this home.
    #[inline]
    pub fn receive_request(&mut self, from: usize) -> Option<Request> {
        self.port.receive_request(from)
    }

    /// Takes what another home says.
    #[inline]
    pub fn receive_delivery(&mut self, from: usize) -> Option<Delivery> {
        self.port.receive_delivery(from)
    }

    /// Takes what the control thread asks.
    #[inline]
    pub fn receive_order(&mut self) -> Option<Order> {
        self.port.receive_order()
    }

    /// Puts what was said to others into their queues as far as it fits. `wakes` gets those whose ring must be woken.
    pub fn post(&mut self, wakes: &mut Vec<usize>) {
        self.is_backlogged = false;
        for to in 0..self.outboxes.len() {
            if to == self.index() {
                continue;
            }
            if let Some(backlog) = self.backlog.get_mut(to) {
                while let Some(request) = backlog.pop_front() {
                    match self.port.send_request(to, request) {
                        Ok(()) => self.touched[to] = true,
                        Err(request) => {
                            backlog.push_front(request);
                            break;
                        }
                    }
                }
                self.is_backlogged |= !backlog.is_empty();
            }
            while let Some(delivery) = self.outboxes[to].pop_front() {
                match self.port.send_delivery(to, delivery) {
                    Ok(()) => self.touched[to] = true,
                    Err(delivery) => {
                        self.outboxes[to].push_front(delivery);
                        break;
                    }
                }
            }
            if to >= self.home_count {
                overrun(&mut self.outboxes[to]);
            }
            if std::mem::take(&mut self.touched[to]) && self.port.notify(to) {
                wakes.push(to);
            }
        }
        self.note_outboxes();
    }

    /// The log is short: lets go of the batches that wait for guests outside their queues.
    pub fn overrun_guests(&mut self) {
        for outbox in &mut self.outboxes[self.home_count..] {
            if outbox.iter().any(|delivery| matches!(delivery, Delivery::Batch(_))) {
                let_go_of_batches(outbox);
            }
        }
    }

    /// The next post wakes `to` if it sleeps: there is room in its queue again.
    pub fn touch(&mut self, to: usize) {
        self.touched[to] = true;
    }

    /// The next post wakes all that sleep.
    pub fn touch_all(&mut self) {
        self.touched.fill(true);
    }

    /// Tells the others that this reactor goes to sleep; false if it must not: there is something in its queues that it
    /// would take, requests only with `with_requests`.
    #[inline]
    pub fn announce_sleep(&mut self, with_requests: bool) -> bool {
        self.port.announce_sleep(with_requests)
    }

    /// Tells the others that this reactor is awake.
    #[inline]
    pub fn announce_awake(&mut self) {
        self.port.announce_awake();
    }
}

/// Lets go of the batches that wait for a guest if they are too many, and puts in their place that there were some. Its
/// answers stay, however many: there are as many as it has questions.
fn overrun(outbox: &mut VecDeque<Delivery>) {
    let is_batch = |delivery: &&Delivery| matches!(delivery, Delivery::Batch(_));
    if outbox.len() <= GUEST_OUTBOX_MAX || outbox.iter().filter(is_batch).count() <= GUEST_OUTBOX_MAX {
        return;
    }
    let_go_of_batches(outbox);
}

fn let_go_of_batches(outbox: &mut VecDeque<Delivery>) {
    outbox.retain(|delivery| !matches!(delivery, Delivery::Batch(_) | Delivery::Overrun));
    outbox.push_back(Delivery::Overrun);
}

impl Senders {
    /// Their ports, the turn's first one first.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let before_first = (1 << self.first) - 1;
        bits(self.set & !before_first).chain(bits(self.set & before_first))
    }
}

#[cfg(test)]
impl Exchange {
    /// Asserts what is said of it.
    pub fn check(&self) {
        assert!(
            self.is_backlogged || self.backlog.iter().all(VecDeque::is_empty),
            "who waits is not told of"
        );
        assert!(self.backlog[self.index()].is_empty(), "a reactor asks its own home at once");
    }

    /// Asserts what is said of a guest's: it says nothing.
    pub fn check_guest(&self) {
        assert!(self.outboxes.iter().all(VecDeque::is_empty), "a guest is no home");
        let has_backlog = self.backlog.iter().any(|backlog| !backlog.is_empty());
        assert!(self.is_backlogged || !has_backlog, "who waits is not told of");
    }

    /// Whether there is nothing in this reactor's queues that it would take.
    pub fn is_drained(&self, with_requests: bool) -> bool {
        self.port.is_drained(with_requests)
    }

    /// Whether everything that was said is taken or in the others' queues.
    pub fn is_silent(&self) -> bool {
        self.is_posted() && self.is_posted_to_guests() && self.own_count() == 0
    }

    /// How many wait at most in an outbox, and in a backlog.
    pub fn lens(&self) -> (usize, usize) {
        let outbox = self.outboxes.iter().map(VecDeque::len).max();
        (outbox.unwrap_or(0), self.backlog.iter().map(VecDeque::len).max().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        channel::Mesh,
        protocol::Encoding,
        pubsub::{
            home::Placed,
            log::{Budget, ChunkPool, SHARED_CHUNK_BYTES},
            message::{Batch, PendingId},
        },
    };

    /// Exchanges of so many reactors and a guest, between any two of which there is room for one.
    fn exchanges(reactor_count: usize) -> Vec<Exchange> {
        let (_, ports) = Mesh::new(reactor_count, 1, 1);
        ports.into_iter().map(|port| Exchange::new(port, reactor_count)).collect()
    }

    fn question(number: u32) -> Request {
        Request::Unsubscribe { topic: number.to_string().into(), encoding: Encoding::Json }
    }

    fn answer(number: u32) -> Delivery {
        Delivery::Published {
            pending: PendingId(number),
            placed: Placed { seq: 1, is_duplicate: false },
            counts: 0,
        }
    }

    fn batch() -> Delivery {
        let budget = Budget::new(SHARED_CHUNK_BYTES);
        let range = ChunkPool::new(budget).acquire(SHARED_CHUNK_BYTES, 0).append(1, |room| room.fill(b'1'));
        Delivery::Batch(Batch { topic: "t".into(), encoding: Encoding::Json, seq: 1, count: 1, range })
    }

    /// The requests of `from` that there are.
    fn asked(exchange: &mut Exchange, from: usize) -> Vec<String> {
        let requests = std::iter::from_fn(|| exchange.receive_request(from));
        let topic = |request| match request {
            Request::Unsubscribe { topic, .. } => topic.to_string(),
            other => panic!("{other:?}"),
        };
        requests.map(topic).collect()
    }

    /// Answers by their number, a batch as -1 and an overrun as -2.
    fn numbers(deliveries: impl IntoIterator<Item = Delivery>) -> Vec<i64> {
        let number = |delivery| match delivery {
            Delivery::Published { pending, .. } => i64::from(pending.0),
            Delivery::Batch(_) => -1,
            Delivery::Overrun => -2,
            other => panic!("{other:?}"),
        };
        deliveries.into_iter().map(number).collect()
    }

    fn post(exchange: &mut Exchange) -> Vec<usize> {
        let mut wakes = Vec::new();
        exchange.post(&mut wakes);
        wakes
    }

    /// There is room for one. What waits is in the order in which it was asked, and so is what is asked while some waits.
    #[test]
    fn requests_that_wait_keep_their_order() {
        let mut both = exchanges(2);
        for number in 0..3 {
            both[0].request(1, question(number));
        }
        assert!(both[0].is_backlogged() && !both[0].is_posted());
        post(&mut both[0]);
        assert_eq!(asked(&mut both[1], 0), ["0"]);
        // There is room now, and yet it is for those who came before.
        both[0].request(1, question(3));
        for number in 1..4 {
            post(&mut both[0]);
            assert_eq!(both[0].is_backlogged(), number < 3, "{number}");
            assert_eq!(asked(&mut both[1], 0), [number.to_string()]);
        }
        assert!(both[0].is_posted());
    }

    #[test]
    fn another_sender_is_first_in_each_turn() {
        let mut all = exchanges(3);
        for from in [0, 1, 3] {
            all[from].request(2, question(0));
            post(&mut all[from]);
        }
        let orders: Vec<Vec<usize>> = (0..5).map(|turn| all[2].senders(turn).iter().collect()).collect();
        assert_eq!(orders, [vec![0, 1, 3], vec![1, 3, 0], vec![3, 0, 1], vec![3, 0, 1], vec![0, 1, 3]]);
    }

    /// However much it has put, and not again for nothing.
    #[test]
    fn a_post_wakes_each_who_sleeps_once() {
        let mut all = exchanges(2);
        assert_eq!(post(&mut all[0]), [0; 0]);
        for sleeper in [1, 2] {
            assert!(all[sleeper].announce_sleep(true));
        }
        all[0].request(1, question(0));
        for to in [0, 1, 2, 2] {
            all[0].say(to, answer(0));
        }
        assert_eq!(post(&mut all[0]), [1, 2]);
        assert_eq!(post(&mut all[0]), [0; 0]);
        assert_eq!(all[0].own_count(), 1, "what a reactor says to itself goes through no queue");
    }

    /// A guest's may be as long as they are, and the guest is asked nothing.
    #[test]
    fn only_what_waits_for_reactors_fills_outboxes() {
        let mut all = exchanges(2);
        for number in 0..100 {
            all[0].say(2, answer(number));
        }
        post(&mut all[0]);
        assert!(!all[0].is_outbox_full());
        for number in 0..OUTBOX_MAX as u32 {
            all[0].say(1, answer(number));
        }
        post(&mut all[0]);
        assert!(!all[0].is_outbox_full(), "one has found room");
        all[0].say(1, answer(OUTBOX_MAX as u32));
        post(&mut all[0]);
        assert!(all[0].is_outbox_full());
        assert!(all[1].receive_delivery(0).is_some());
        post(&mut all[0]);
        assert!(!all[0].is_outbox_full());
        all[0].say(0, answer(0));
        all[0].note_outboxes();
        assert!(all[0].is_outbox_full(), "what it says to itself is to be taken at once");
    }

    /// Nothing was let go of, so nobody was overrun.
    #[test]
    fn answers_overrun_no_guest_however_many() {
        let mut outbox: VecDeque<Delivery> = (0..100).map(answer).collect();
        outbox.extend((0..GUEST_OUTBOX_MAX).map(|_| batch()));
        overrun(&mut outbox);
        assert_eq!(numbers(outbox), (0..100).chain([-1; GUEST_OUTBOX_MAX]).collect::<Vec<_>>());
    }

    /// Its queue is full, and it takes nothing: batches go, answers stay in their order, and the end says so, once.
    #[test]
    fn batches_that_a_guest_does_not_take_are_let_go_of_and_it_is_told() {
        let mut all = exchanges(1);
        let mut answered = Vec::new();
        for number in 0..40 {
            all[0].say(1, batch());
            all[0].say(1, answer(number));
            all[0].say(1, batch());
            answered.push(i64::from(number));
            post(&mut all[0]);
            let batch_count = all[0].outboxes[1].iter().filter(|it| matches!(it, Delivery::Batch(_))).count();
            assert!(batch_count <= GUEST_OUTBOX_MAX, "{batch_count}");
        }
        let mut told = Vec::new();
        while told.len() < 1_000 && !(told.len() > 40 && all[0].is_posted_to_guests()) {
            told.extend(numbers(std::iter::from_fn(|| all[1].receive_delivery(0))));
            post(&mut all[0]);
        }
        told.extend(numbers(std::iter::from_fn(|| all[1].receive_delivery(0))));
        let answers: Vec<i64> = told.iter().copied().filter(|number| *number >= 0).collect();
        assert_eq!(answers, answered);
        assert_eq!(told.iter().filter(|number| **number == -2).count(), 1, "{told:?}");
        let before = told.iter().take_while(|number| **number != -2).filter(|number| **number == -1).count();
        assert!(before < 8, "only what was in the queue: {told:?}");
    }
}

//! Bounded queues between every two reactors, and each reactor's end of all of them.
//!
//! A receiver does not look into every queue to find who has put something: each reactor has one word with a
//! bit per sender. A sender puts its items, then sets its bit, then tells the [`Parker`]. The receiver takes the
//! word ([`Port::senders`]), remembers who was in it, and forgets a sender when it finds its queue empty.
//!
//! # Why nothing is missed
//!
//! *Whoever is in the word or remembered is found.* What a sender put comes before its bit (release), and
//! whoever takes the bit (acquire) finds it in the queue, or has taken it before. Other senders' bits lie
//! between the two: they are set by read-modify-writes, which continue the release.
//!
//! *Forgetting loses nothing.* A sender is forgotten when its queue is found empty. What it put before its last
//! bit that was taken was there to be found; what it put after that is followed by a bit that is still to be
//! taken. So of every item either the bit is in the word, or its sender is remembered, or its [`Port::notify`]
//! is still to come.
//!
//! *Nobody sleeps beside a bit.* The bit is set before the sender's swap of the parker's word and looked at
//! after the receiver's. If the sender's swap is first, the look sees the bit; if the receiver's is first, the
//! sender is told to wake it ([`super::parker`]).
//!
//! A bit may outlive its items: the receiver took them before the bit was set. That costs one turn.

use std::sync::Arc;

use crossbeam::utils::CachePadded;

use super::{
    parker::Parker,
    primitive::{ArrayQueue, AtomicU64, Ordering},
};

/// The most ports of a mesh: each has a bit in a word.
pub const PORTS_MAX: usize = u64::BITS as usize;
/// Entries of the queue of deliveries to a guest: it may hang, and what waits for it there keeps log that nobody can let go of.
pub const GUEST_ENTRIES: usize = if cfg!(test) { 8 } else { 32 };

/// All queues of a broker: `requests` and `deliveries` from each reactor to each other, `orders` from the control
/// thread; and those of *guests*, which are no homes: they send requests to reactors and get deliveries of them. The
/// first ports are the reactors'.
#[derive(Debug)]
pub struct Mesh<R, D, O> {
    /// From × to.
    requests: Vec<ArrayQueue<R>>,
    /// From × to.
    deliveries: Vec<ArrayQueue<D>>,
    /// By reactor.
    orders: Vec<ArrayQueue<O>>,
    /// By receiver.
    bells: Vec<CachePadded<Bell>>,
    count: usize,
}

/// How one reactor learns that something is in its queues. On a line of the cache by itself: whoever writes one
/// word of it writes the other.
#[derive(Debug)]
struct Bell {
    /// A bit per reactor that has put something since the word was last taken.
    senders: AtomicU64,
    parker: Parker,
}

/// A reactor's or a guest's end of the mesh. There is one each, and it is not `Clone`: what it sends has
/// one sender and what it receives one receiver.
#[derive(Debug)]
pub struct Port<R, D, O> {
    mesh: Arc<Mesh<R, D, O>>,
    index: usize,
    /// A bit per reactor whose bit was taken and whose queue of requests was not found empty since.
    request_senders: u64,
    /// Likewise, of deliveries.
    delivery_senders: u64,
}

/// A mesh and its ports, by reactor.
pub type MeshAndPorts<R, D, O> = (Arc<Mesh<R, D, O>>, Vec<Port<R, D, O>>);

impl<R, D, O> Mesh<R, D, O> {
    /// The queues of `reactor_count` reactors, of `capacity` entries each, and of `guest_count` guests, and all their
    /// ports in order.
    ///
    /// # Panics
    /// If there are more than [`PORTS_MAX`].
    pub fn new(reactor_count: usize, guest_count: usize, capacity: usize) -> MeshAndPorts<R, D, O> {
        let count = reactor_count + guest_count;
        assert!(count <= PORTS_MAX, "a mesh of {count} ports: at most {PORTS_MAX} fit a word");
        // A queue that nothing is put into is as small as one can be: to oneself, since a reactor is its own home
        // without one, and whatever only homes get or say.
        let size = |from: usize, to: usize, is_request: bool| match (from < reactor_count, to < reactor_count)
        {
            _ if from == to => 1,
            (true, true) => capacity,
            (false, true) if is_request => capacity,
            (true, false) if !is_request => GUEST_ENTRIES,
            _ => 1,
        };
        let pairs = || (0..count * count).map(|pair| (pair / count, pair % count));
        let bell = || CachePadded::new(Bell { senders: AtomicU64::new(0), parker: Parker::new() });
        let mesh = Arc::new(Mesh {
            requests: pairs().map(|(from, to)| ArrayQueue::new(size(from, to, true))).collect(),
            deliveries: pairs().map(|(from, to)| ArrayQueue::new(size(from, to, false))).collect(),
            orders: (0..reactor_count).map(|_| ArrayQueue::new(64)).collect(),
            bells: (0..count).map(|_| bell()).collect(),
            count,
        });
        let port = |index| Port { mesh: mesh.clone(), index, request_senders: 0, delivery_senders: 0 };
        let ports = (0..count).map(port).collect();
        (mesh, ports)
    }

    /// Puts an order into the queue of reactor `to`, and tells whether its ring must be woken.
    ///
    /// # Errors
    /// The order, when the queue is full.
    pub fn send_order(&self, to: usize, order: O) -> Result<bool, O> {
        self.orders[to].push(order)?;
        Ok(self.bells[to].parker.notify())
    }
}

impl<R, D, O> Port<R, D, O> {
    /// Which port this is: a reactor's is its number.
    pub fn index(&self) -> usize {
        self.index
    }

    /// How many ports there are, guests' included.
    pub fn count(&self) -> usize {
        self.mesh.count
    }

    /// Puts a request into the queue to `home`. Nobody looks for it before [`Port::notify`], which follows
    /// when the turn's last one is there.
    ///
    /// # Errors
    /// The request, when the queue is full.
    pub fn send_request(&mut self, home: usize, request: R) -> Result<(), R> {
        self.mesh.requests[self.index * self.mesh.count + home].push(request)
    }

    /// Puts a delivery into the queue to reactor `to`, likewise.
    ///
    /// # Errors
    /// The delivery, when the queue is full.
    pub fn send_delivery(&mut self, to: usize, delivery: D) -> Result<(), D> {
        self.mesh.deliveries[self.index * self.mesh.count + to].push(delivery)
    }

    /// Something was put into a queue to reactor `to`: whether its ring must be woken.
    #[must_use]
    pub fn notify(&mut self, to: usize) -> bool {
        let bell = &self.mesh.bells[to];
        bell.senders.fetch_or(1 << self.index, Ordering::Release);
        bell.parker.notify()
    }

    /// A bit per reactor that may have something for this one, in either queue: everybody who has put
    /// something and told so, and has not been found with an empty queue since.
    pub fn senders(&mut self) -> u64 {
        let senders = &self.bell().senders;
        // A look costs nothing while nobody writes; taking would take the line away from the senders.
        if senders.load(Ordering::Relaxed) != 0 {
            let taken = senders.swap(0, Ordering::Acquire);
            self.request_senders |= taken;
            self.delivery_senders |= taken;
        }
        self.request_senders | self.delivery_senders
    }

    /// The oldest request from reactor `from`.
    pub fn receive_request(&mut self, from: usize) -> Option<R> {
        let request = self.mesh.requests[from * self.mesh.count + self.index].pop();
        if request.is_none() {
            self.request_senders &= !(1 << from);
        }
        request
    }

    /// The oldest delivery from the home `from`.
    pub fn receive_delivery(&mut self, from: usize) -> Option<D> {
        let delivery = self.mesh.deliveries[from * self.mesh.count + self.index].pop();
        if delivery.is_none() {
            self.delivery_senders &= !(1 << from);
        }
        delivery
    }

    /// The oldest order of the control thread, to a reactor.
    pub fn receive_order(&mut self) -> Option<O> {
        self.mesh.orders[self.index].pop()
    }

    /// About to sleep: whether nobody is known to have put what would be drained, so that it may.
    /// `with_requests` says whether requests would be drained.
    pub fn announce_sleep(&mut self, with_requests: bool) -> bool {
        self.bell().parker.announce_sleep();
        let is_empty = self.is_empty(with_requests);
        if !is_empty {
            self.announce_awake();
        }
        is_empty
    }

    /// Whether nobody is known to have put what would be drained. Of a sender that was not asked yet it is
    /// not known what it has put.
    pub fn is_empty(&self, with_requests: bool) -> bool {
        self.delivery_senders == 0
            && (!with_requests || self.request_senders == 0)
            && self.bell().senders.load(Ordering::Relaxed) == 0
            && self.mesh.orders.get(self.index).is_none_or(ArrayQueue::is_empty)
    }

    /// Not asleep any more.
    pub fn announce_awake(&mut self) {
        self.bell().parker.announce_awake();
    }

    fn bell(&self) -> &Bell {
        &self.mesh.bells[self.index]
    }
}

#[cfg(test)]
impl<R, D, O> Port<R, D, O> {
    /// [`Port::is_empty`] by a look into every queue.
    pub fn is_drained(&self, with_requests: bool) -> bool {
        let mesh = &*self.mesh;
        mesh.orders.get(self.index).is_none_or(ArrayQueue::is_empty)
            && (0..mesh.count).all(|from| {
                let pair = from * mesh.count + self.index;
                mesh.deliveries[pair].is_empty() && (!with_requests || mesh.requests[pair].is_empty())
            })
    }
}

#[cfg(all(test, not(fanfare_loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_pair_has_its_own_order_and_a_full_queue_gives_the_item_back() {
        let (_, mut ports) = Mesh::<u32, u32, ()>::new(3, 0, 2);
        assert_eq!(ports[0].send_request(1, 10), Ok(()));
        assert_eq!(ports[0].send_request(1, 11), Ok(()));
        assert_eq!(ports[0].send_request(1, 12), Err(12));
        assert_eq!(ports[2].send_request(1, 20), Ok(()));
        assert_eq!(ports[1].receive_request(0), Some(10));
        assert_eq!(ports[1].receive_request(2), Some(20));
        assert_eq!(ports[1].receive_request(0), Some(11));
        assert_eq!(ports[1].receive_request(0), None);
        assert_eq!(ports[1].receive_delivery(0), None);
    }

    #[test]
    fn a_reactor_does_not_sleep_on_what_it_would_drain() {
        let (mesh, mut ports) = Mesh::<u32, u32, ()>::new(2, 0, 4);
        assert!(ports[1].announce_sleep(true));
        assert_eq!(mesh.send_order(1, ()), Ok(true));
        assert_eq!(mesh.send_order(1, ()), Ok(false));
        ports[1].announce_awake();
        assert!(!ports[1].announce_sleep(true));
        while ports[1].receive_order().is_some() {}
        ports[0].send_request(1, 1).unwrap();
        assert!(!ports[0].notify(1));
        assert!(!ports[1].announce_sleep(true));
        assert!(!ports[1].announce_sleep(false), "it may be a delivery");
        assert_eq!(ports[1].senders(), 0b01);
        assert_eq!(ports[1].receive_delivery(0), None);
        assert!(!ports[1].announce_sleep(true));
        assert!(ports[1].announce_sleep(false));
        assert!(ports[0].notify(1));
    }

    /// A request waits while a home is closed; deliveries of the same sender come and go meanwhile.
    #[test]
    fn a_sender_is_remembered_until_its_queue_was_found_empty() {
        let (_, mut ports) = Mesh::<u32, u32, ()>::new(64, 0, 4);
        ports[63].send_request(5, 1).unwrap();
        assert_eq!(ports[5].senders(), 0, "it has not said so yet");
        let _ = ports[63].notify(5);
        for number in 0..3 {
            ports[63].send_delivery(5, number).unwrap();
            let _ = ports[63].notify(5);
            assert_eq!(ports[5].senders(), 1 << 63);
            assert_eq!(ports[5].receive_delivery(63), Some(number));
            assert_eq!(ports[5].receive_delivery(63), None);
            assert_eq!(ports[5].senders(), 1 << 63, "its request waits");
            assert!(ports[5].is_empty(false) && !ports[5].is_empty(true));
        }
        assert_eq!((ports[5].receive_request(63), ports[5].receive_request(63)), (Some(1), None));
        assert_eq!(ports[5].senders(), 0);
    }

    #[test]
    #[should_panic(expected = "at most 64 fit a word")]
    fn more_ports_than_a_word_has_bits_are_refused() {
        let _ = Mesh::<u32, u32, ()>::new(63, 2, 1);
    }

    #[test]
    fn a_guest_asks_reactors_and_hears_of_them() {
        let (mesh, mut ports) = Mesh::<u32, u32, ()>::new(2, 1, 4);
        let mut guest = ports.pop().expect("the last port is the guest's");
        assert_eq!((guest.index(), guest.count(), mesh.orders.len()), (2, 3, 2));
        for number in 0..4 {
            assert_eq!(guest.send_request(1, number), Ok(()));
        }
        assert_eq!(guest.send_request(1, 4), Err(4), "as many as of a reactor");
        let _ = guest.notify(1);
        assert_eq!((ports[1].senders(), ports[1].receive_request(2)), (1 << 2, Some(0)));
        assert!(guest.announce_sleep(true), "it takes no orders");
        for number in 0..GUEST_ENTRIES as u32 {
            assert_eq!(ports[1].send_delivery(2, number), Ok(()));
        }
        assert_eq!(ports[1].send_delivery(2, 99), Err(99));
        assert!(ports[1].notify(2), "it sleeps");
        assert_eq!((guest.senders(), guest.receive_delivery(1)), (1 << 1, Some(0)));
    }

    /// What happens among three reactors, of which the first receives.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Send { from: usize, is_request: bool },
        Notify { from: usize },
        Receive { from: usize, is_request: bool },
        Look,
        Sleep { with_requests: bool },
    }

    fn a_step() -> impl Strategy<Value = Step> {
        let from = 1..3usize;
        prop_oneof![
            (from.clone(), any::<bool>()).prop_map(|(from, is_request)| Step::Send { from, is_request }),
            from.clone().prop_map(|from| Step::Notify { from }),
            (from, any::<bool>()).prop_map(|(from, is_request)| Step::Receive { from, is_request }),
            Just(Step::Look),
            any::<bool>().prop_map(|with_requests| Step::Sleep { with_requests }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 4 } else { 512 },
            rng_seed: proptest::test_runner::RngSeed::Fixed(7_692),
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        /// However sending, telling, receiving and sleeping follow on each other, the bits hide nothing that a look
        /// into every queue would find, once its sender has told.
        #[test]
        fn the_bits_hide_nothing_that_the_queues_hold(steps in prop::collection::vec(a_step(), 1..80)) {
            let (_, mut ports) = Mesh::<(), (), ()>::new(3, 0, 4);
            // By sender: what is in its queues, and whether it has told.
            let (mut requests, mut deliveries, mut is_told) = ([0; 3], [0; 3], [true; 3]);
            for step in steps {
                match step {
                    Step::Send { from, is_request: true } => {
                        requests[from] += i32::from(ports[from].send_request(0, ()).is_ok());
                        is_told[from] = false;
                    }
                    Step::Send { from, is_request: false } => {
                        deliveries[from] += i32::from(ports[from].send_delivery(0, ()).is_ok());
                        is_told[from] = false;
                    }
                    Step::Notify { from } => {
                        let _ = ports[from].notify(0);
                        is_told[from] = true;
                    }
                    Step::Receive { from, is_request: true } => {
                        prop_assert_eq!(ports[0].receive_request(from).is_some(), requests[from] > 0);
                        requests[from] = 0.max(requests[from] - 1);
                    }
                    Step::Receive { from, is_request: false } => {
                        prop_assert_eq!(ports[0].receive_delivery(from).is_some(), deliveries[from] > 0);
                        deliveries[from] = 0.max(deliveries[from] - 1);
                    }
                    Step::Look => {
                        let senders = ports[0].senders();
                        for from in 1..3 {
                            let has_something = requests[from] + deliveries[from] > 0;
                            prop_assert!(!has_something || !is_told[from] || senders & 1 << from != 0);
                        }
                    }
                    Step::Sleep { with_requests } => {
                        let may_sleep = ports[0].announce_sleep(with_requests);
                        if may_sleep {
                            ports[0].announce_awake();
                        }
                        if is_told.iter().all(|is_told| *is_told) {
                            prop_assert!(!may_sleep || ports[0].is_drained(with_requests));
                        }
                    }
                }
            }
            // When all is told, drained as a reactor does it, and looked at once more, it may sleep.
            for sender in &mut ports[1..] {
                let _ = sender.notify(0);
            }
            for from in (0..3).filter(|from| ports[0].senders() & 1 << from != 0).collect::<Vec<_>>() {
                while ports[0].receive_request(from).is_some() {}
                while ports[0].receive_delivery(from).is_some() {}
            }
            prop_assert!(ports[0].is_drained(true) && ports[0].announce_sleep(true));
        }
    }

    /// The real thing: a receiver that sleeps on a condition for as long as nobody wakes it.
    #[test]
    fn every_item_arrives_however_often_the_receiver_sleeps() {
        const COUNT: u32 = if cfg!(miri) { 200 } else { 20_000 };
        let (_, mut ports) = Mesh::<u32, u32, ()>::new(2, 0, 8);
        let mut receiver = ports.pop().unwrap();
        let mut sender = ports.pop().unwrap();
        let (wake, woken) = std::sync::mpsc::sync_channel::<()>(1);
        let sending = std::thread::spawn(move || {
            for item in 0..COUNT {
                let mut item = item;
                while let Err(full) = sender.send_delivery(1, item) {
                    item = full;
                    std::thread::yield_now();
                }
                if sender.notify(1) {
                    wake.send(()).unwrap();
                }
            }
        });
        let mut expected = 0;
        while expected < COUNT {
            if receiver.senders() != 0 {
                while let Some(item) = receiver.receive_delivery(0) {
                    assert_eq!(item, expected);
                    expected += 1;
                }
                assert_eq!(receiver.receive_request(0), None);
            }
            if expected < COUNT && receiver.announce_sleep(true) {
                woken.recv().unwrap();
                receiver.announce_awake();
            }
        }
        sending.join().unwrap();
    }
}

/// See [`parker`](super::parker) for how to run it.
#[cfg(all(test, fanfare_loom))]
mod model {
    use loom::{
        sync::{Arc, Condvar, Mutex},
        thread,
    };

    use super::*;

    /// A ring that is slept in until somebody wakes it.
    #[derive(Default)]
    struct Ring {
        wakes: Mutex<u32>,
        is_woken: Condvar,
    }

    impl Ring {
        fn wake(&self) {
            *self.wakes.lock().unwrap() += 1;
            self.is_woken.notify_one();
        }

        fn sleep(&self) {
            let mut wakes = self.wakes.lock().unwrap();
            while *wakes == 0 {
                wakes = self.is_woken.wait(wakes).unwrap();
            }
            *wakes -= 1;
        }
    }

    /// Every interleaving with at most three preemptions: more take minutes, and bugs seldom need more.
    fn check(model: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(model);
    }

    type TestMesh = Mesh<u32, u32, u32>;
    type TestPort = Port<u32, u32, u32>;

    /// Takes what the control thread and the reactors whose bits are set have put until `count` items have come,
    /// and sleeps whenever it may. A wake or a bit that is lost leaves it asleep for ever, which the model
    /// reports.
    fn receive(port: &mut TestPort, ring: &Ring, count: usize) -> Vec<u32> {
        let mut received = Vec::new();
        loop {
            received.extend(std::iter::from_fn(|| port.receive_order()));
            let senders = port.senders();
            for from in (0..port.count()).filter(|from| senders & 1 << from != 0) {
                received.extend(std::iter::from_fn(|| port.receive_request(from)));
                received.extend(std::iter::from_fn(|| port.receive_delivery(from)));
            }
            if received.len() == count {
                return received;
            }
            if port.announce_sleep(true) {
                ring.sleep();
                port.announce_awake();
            }
        }
    }

    /// The receiver, the sender and a ring of the receiver's.
    fn world(capacity: usize) -> (std::sync::Arc<TestMesh>, TestPort, TestPort, Arc<Ring>) {
        let (mesh, mut ports) = TestMesh::new(2, 0, capacity);
        let receiver = ports.pop().expect("two reactors");
        let sender = ports.pop().expect("two reactors");
        (mesh, receiver, sender, Arc::new(Ring::default()))
    }

    #[test]
    fn an_item_of_a_reactor_and_an_order_arrive_however_they_meet_the_sleep() {
        check(|| {
            let (mesh, mut receiver, mut sender, ring) = world(2);
            let reactor = thread::spawn({
                let ring = ring.clone();
                move || {
                    sender.send_delivery(1, 7).unwrap();
                    if sender.notify(1) {
                        ring.wake();
                    }
                }
            });
            let control = thread::spawn({
                let ring = ring.clone();
                move || {
                    if mesh.send_order(1, 8).unwrap() {
                        ring.wake();
                    }
                }
            });
            let mut received = receive(&mut receiver, &ring, 2);
            received.sort_unstable();
            assert_eq!(received, [7, 8]);
            reactor.join().unwrap();
            control.join().unwrap();
        });
    }

    #[test]
    fn both_queues_of_a_sender_that_notifies_once_arrive_in_order() {
        check(|| {
            let (_mesh, mut receiver, mut sender, ring) = world(2);
            let reactor = thread::spawn({
                let ring = ring.clone();
                move || {
                    sender.send_request(1, 1).unwrap();
                    sender.send_request(1, 2).unwrap();
                    sender.send_delivery(1, 9).unwrap();
                    if sender.notify(1) {
                        ring.wake();
                    }
                }
            });
            let received = receive(&mut receiver, &ring, 3);
            let requests: Vec<u32> = received.into_iter().filter(|item| *item < 9).collect();
            assert_eq!(requests, [1, 2]);
            reactor.join().unwrap();
        });
    }

    /// Two bits of one word: the second sender's must not hide what the first has put.
    #[test]
    fn what_two_reactors_put_arrives_however_their_bits_meet() {
        check(|| {
            let (_mesh, mut ports) = TestMesh::new(3, 0, 2);
            let mut receiver = ports.pop().expect("three reactors");
            let ring = Arc::new(Ring::default());
            let senders: Vec<_> = ports
                .into_iter()
                .map(|mut sender| {
                    let ring = ring.clone();
                    thread::spawn(move || {
                        sender.send_delivery(2, sender.index() as u32).unwrap();
                        if sender.notify(2) {
                            ring.wake();
                        }
                    })
                })
                .collect();
            let mut received = receive(&mut receiver, &ring, 2);
            received.sort_unstable();
            assert_eq!(received, [0, 1]);
            senders.into_iter().for_each(|sender| sender.join().unwrap());
        });
    }

    /// A sender that goes on while the receiver takes and forgets: nothing that it put after it was forgotten
    /// is left behind.
    #[test]
    fn a_sender_that_is_forgotten_is_found_again() {
        check(|| {
            let (_mesh, mut receiver, mut sender, ring) = world(2);
            let reactor = thread::spawn({
                let ring = ring.clone();
                move || {
                    for number in 0..2 {
                        sender.send_delivery(1, number).unwrap();
                        if sender.notify(1) {
                            ring.wake();
                        }
                    }
                }
            });
            assert_eq!(receive(&mut receiver, &ring, 2), [0, 1]);
            reactor.join().unwrap();
        });
    }

    /// A receiver that may not take requests sleeps beside them, and takes them in the turn after.
    #[test]
    fn requests_that_are_not_drained_do_not_hide_a_delivery() {
        check(|| {
            let (_mesh, mut receiver, mut sender, ring) = world(2);
            let reactor = thread::spawn({
                let ring = ring.clone();
                move || {
                    sender.send_request(1, 1).unwrap();
                    if sender.notify(1) {
                        ring.wake();
                    }
                    sender.send_delivery(1, 9).unwrap();
                    if sender.notify(1) {
                        ring.wake();
                    }
                }
            });
            let delivery = loop {
                if receiver.senders() != 0
                    && let Some(item) = receiver.receive_delivery(0)
                {
                    break item;
                }
                if receiver.announce_sleep(false) {
                    ring.sleep();
                    receiver.announce_awake();
                }
            };
            assert_eq!((delivery, receiver.receive_request(0)), (9, Some(1)));
            reactor.join().unwrap();
        });
    }
}

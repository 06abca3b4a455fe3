//! Bounded queues between every two reactors, and each reactor's end of all of them.

use std::sync::Arc;

use crossbeam::utils::CachePadded;

use super::{parker::Parker, primitive::ArrayQueue};

/// All queues of a broker: `requests` and `deliveries` from each reactor to each other, and `orders`
/// from the control thread.
#[derive(Debug)]
pub struct Mesh<R, D, O> {
    /// From × to.
    requests: Vec<ArrayQueue<R>>,
    /// From × to.
    deliveries: Vec<ArrayQueue<D>>,
    /// By receiver.
    orders: Vec<ArrayQueue<O>>,
    /// By receiver.
    parkers: Vec<CachePadded<Parker>>,
    count: usize,
}

/// One reactor's end of the mesh. There is one per reactor, and it is not `Clone`: what it sends has
/// one sender and what it receives one receiver.
#[derive(Debug)]
pub struct Port<R, D, O> {
    mesh: Arc<Mesh<R, D, O>>,
    index: usize,
}

/// A mesh and its ports, by reactor.
pub type MeshAndPorts<R, D, O> = (Arc<Mesh<R, D, O>>, Vec<Port<R, D, O>>);

impl<R, D, O> Mesh<R, D, O> {
    /// The queues of `count` reactors, of `capacity` entries each, and their ports in order.
    pub fn new(count: usize, capacity: usize) -> MeshAndPorts<R, D, O> {
        // A reactor is its own home without a queue: the diagonal is as small as a queue can be.
        let size = |pair: usize| if pair / count == pair % count { 1 } else { capacity };
        let mesh = Arc::new(Mesh {
            requests: (0..count * count).map(|pair| ArrayQueue::new(size(pair))).collect(),
            deliveries: (0..count * count).map(|pair| ArrayQueue::new(size(pair))).collect(),
            orders: (0..count).map(|_| ArrayQueue::new(64)).collect(),
            parkers: (0..count).map(|_| CachePadded::new(Parker::new())).collect(),
            count,
        });
        let ports = (0..count).map(|index| Port { mesh: mesh.clone(), index }).collect();
        (mesh, ports)
    }

    /// Puts an order into the queue of reactor `to`, and tells whether its ring must be woken.
    ///
    /// # Errors
    /// The order, when the queue is full.
    pub fn send_order(&self, to: usize, order: O) -> Result<bool, O> {
        self.orders[to].push(order)?;
        Ok(self.parkers[to].notify())
    }
}

impl<R, D, O> Port<R, D, O> {
    /// Which reactor this is the end of.
    pub fn index(&self) -> usize {
        self.index
    }

    /// How many reactors there are.
    pub fn count(&self) -> usize {
        self.mesh.count
    }

    /// Puts a request into the queue to `home`. [`Port::notify`] it when the turn's last one is there.
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
        self.mesh.parkers[to].notify()
    }

    /// The oldest request from reactor `from`.
    pub fn receive_request(&mut self, from: usize) -> Option<R> {
        self.mesh.requests[from * self.mesh.count + self.index].pop()
    }

    /// The oldest delivery from the home `from`.
    pub fn receive_delivery(&mut self, from: usize) -> Option<D> {
        self.mesh.deliveries[from * self.mesh.count + self.index].pop()
    }

    /// The oldest order of the control thread.
    pub fn receive_order(&mut self) -> Option<O> {
        self.mesh.orders[self.index].pop()
    }

    /// About to sleep: whether every queue that would be drained is empty, so that it may. `with_requests`
    /// says whether requests would be drained.
    pub fn announce_sleep(&mut self, with_requests: bool) -> bool {
        self.mesh.parkers[self.index].announce_sleep();
        let is_empty = self.is_empty(with_requests);
        if !is_empty {
            self.announce_awake();
        }
        is_empty
    }

    /// Whether no queue has anything that would be drained.
    pub fn is_empty(&self, with_requests: bool) -> bool {
        let mesh = &*self.mesh;
        mesh.orders[self.index].is_empty()
            && (0..mesh.count).all(|from| {
                let pair = from * mesh.count + self.index;
                mesh.deliveries[pair].is_empty() && (!with_requests || mesh.requests[pair].is_empty())
            })
    }

    /// Not asleep any more.
    pub fn announce_awake(&mut self) {
        self.mesh.parkers[self.index].announce_awake();
    }
}

#[cfg(all(test, not(fanfare_loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_pair_has_its_own_order_and_a_full_queue_gives_the_item_back() {
        let (_, mut ports) = Mesh::<u32, u32, ()>::new(3, 2);
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
        let (mesh, mut ports) = Mesh::<u32, u32, ()>::new(2, 4);
        assert!(ports[1].announce_sleep(true));
        assert_eq!(mesh.send_order(1, ()), Ok(true));
        assert_eq!(mesh.send_order(1, ()), Ok(false));
        ports[1].announce_awake();
        assert!(!ports[1].announce_sleep(true));
        while ports[1].receive_order().is_some() {}
        ports[0].send_request(1, 1).unwrap();
        assert!(!ports[0].notify(1));
        assert!(!ports[1].announce_sleep(true));
        assert!(ports[1].announce_sleep(false));
        assert!(ports[0].notify(1));
    }

    /// The real thing: a receiver that sleeps on a condition for as long as nobody wakes it.
    #[test]
    fn every_item_arrives_however_often_the_receiver_sleeps() {
        const COUNT: u32 = if cfg!(miri) { 200 } else { 20_000 };
        let (_, mut ports) = Mesh::<u32, u32, ()>::new(2, 8);
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
            while let Some(item) = receiver.receive_delivery(0) {
                assert_eq!(item, expected);
                expected += 1;
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

    /// Takes everything from reactor 0 and the control thread until `count` items have come, and sleeps
    /// whenever nothing is there. A wake that is lost leaves it asleep for ever, which the model reports.
    fn receive(port: &mut TestPort, ring: &Ring, count: usize) -> Vec<u32> {
        let mut received = Vec::new();
        loop {
            while let Some(item) =
                port.receive_order().or_else(|| port.receive_delivery(0)).or_else(|| port.receive_request(0))
            {
                received.push(item);
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
        let (mesh, mut ports) = TestMesh::new(2, capacity);
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
                if let Some(item) = receiver.receive_delivery(0) {
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

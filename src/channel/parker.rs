//! The sleep/wake protocol: a reactor goes to sleep in its ring, and whoever puts something into one
//! of its queues afterwards wakes it; nobody makes a system call for one that is awake.
//!
//! Sender: put into the queue, then [`Parker::notify`]; if that says so, wake the ring.
//! Receiver: [`Parker::announce_sleep`], look once more for whoever has put something, and sleep only if
//! nobody has; [`Parker::announce_awake`] afterwards.
//!
//! Why nothing is lost: both sides *swap* the one word, so the swaps have one order. If the sender's
//! comes first, the receiver's swap acquires what the sender put there, and the second look finds it.
//! If the receiver's comes first, the sender sees that it sleeps, and wakes it.

use super::primitive::{AtomicU32, Ordering};

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;

/// One reactor's word of the protocol.
#[derive(Debug)]
pub struct Parker {
    state: AtomicU32,
}

impl Default for Parker {
    fn default() -> Self {
        Parker::new()
    }
}

impl Parker {
    /// Of a reactor that is awake.
    pub fn new() -> Parker {
        Parker { state: AtomicU32::new(AWAKE) }
    }

    /// The sender has put something into a queue: whether the receiver must be woken. It says so to
    /// exactly one sender per sleep.
    #[must_use]
    pub fn notify(&self) -> bool {
        self.state.swap(AWAKE, Ordering::AcqRel) == ASLEEP
    }

    /// The receiver is about to sleep. It must look for senders once more before it does.
    pub fn announce_sleep(&self) {
        let before = self.state.swap(ASLEEP, Ordering::AcqRel);
        assert_eq!(before, AWAKE, "only an awake reactor goes to sleep");
    }

    /// The receiver does not sleep any more, whether it was woken or not.
    pub fn announce_awake(&self) {
        self.state.swap(AWAKE, Ordering::AcqRel);
    }
}

#[cfg(all(test, not(fanfare_loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_sender_after_a_sleep_is_told_to_wake() {
        let parker = Parker::new();
        assert!(!parker.notify());
        parker.announce_sleep();
        assert!(parker.notify());
        assert!(!parker.notify());
        parker.announce_awake();
        assert!(!parker.notify());
    }
}

/// Run with `RUSTFLAGS="--cfg fanfare_loom" cargo test --lib channel`. The name is our own, because tokio
/// takes `--cfg loom` personally and leaves its sockets out.
#[cfg(all(test, fanfare_loom))]
mod model {
    use loom::{
        sync::{Arc, Mutex, atomic::AtomicUsize},
        thread,
    };

    use super::*;

    /// A queue, a parker, and a ring that can be slept in: sleeping ends only by a wake.
    #[derive(Default)]
    struct World {
        queue: [AtomicUsize; 2],
        parker: Parker,
        wakes: Mutex<u32>,
    }

    /// Two senders put one item each; the receiver must see both without ever sleeping on a full queue
    /// that nobody will wake it for. A lost wake shows as a sleep with an item and no wake to come.
    #[test]
    fn no_wake_is_lost_in_any_interleaving() {
        loom::model(|| {
            let world = Arc::new(World::default());
            let senders: Vec<_> = (0..2)
                .map(|index| {
                    let world = world.clone();
                    thread::spawn(move || {
                        world.queue[index].store(1, Ordering::Relaxed);
                        if world.parker.notify() {
                            *world.wakes.lock().unwrap() += 1;
                        }
                    })
                })
                .collect();
            world.parker.announce_sleep();
            let looked: usize = world.queue.iter().map(|item| item.load(Ordering::Relaxed)).sum();
            for sender in senders {
                sender.join().unwrap();
            }
            // The second look saw both, or a wake comes for what it did not see.
            assert!(looked == 2 || *world.wakes.lock().unwrap() == 1, "saw {looked} and no wake comes");
        });
    }
}

//! The connections of a reactor that have not completed their upgrade, oldest first: a bounded number, so
//! that requests that never end lock nobody out.

use std::collections::VecDeque;

use crate::pubsub::subscription::ConnectionId;

/// Below this length the queue is not searched for what has left it.
const LEN_MIN: usize = 64;

/// Connections in the order of their accept.
#[derive(Debug, Default)]
pub struct Upgrading {
    /// Some have left already.
    queue: VecDeque<ConnectionId>,
    count: usize,
}

impl Upgrading {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// One is accepted. `is_upgrading` says whether a connection still is; asked now and then, so that the queue stays
    /// within twice what is there.
    pub fn enter(&mut self, connection: ConnectionId, is_upgrading: impl Fn(ConnectionId) -> bool) {
        if self.queue.len() >= LEN_MIN.max(2 * self.count) {
            self.queue.retain(|connection| is_upgrading(*connection));
        }
        self.queue.push_back(connection);
        self.count += 1;
    }

    /// One has completed its upgrade, or is over.
    pub fn leave(&mut self) {
        self.count -= 1;
    }

    /// The oldest one, if there are more than `count_max`.
    pub fn oldest_beyond(
        &mut self,
        count_max: usize,
        is_upgrading: impl Fn(ConnectionId) -> bool,
    ) -> Option<u32> {
        if self.count <= count_max {
            return None;
        }
        while let Some(connection) = self.queue.pop_front() {
            if is_upgrading(connection) {
                return Some(connection.slot);
            }
        }
        unreachable!("those that are counted are in the queue")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three at most, of which every second leaves at once; beside it a plain list.
    #[test]
    fn the_oldest_makes_room_and_the_queue_stays_short() {
        let mut upgrading = Upgrading::default();
        let mut there: Vec<u32> = Vec::new();
        for slot in 0..10_000 {
            let is_there = |id: ConnectionId| id.generation == 7 && there.contains(&id.slot);
            upgrading.enter(ConnectionId { slot, generation: 7 }, is_there);
            there.push(slot);
            if slot % 2 == 1 {
                there.pop();
                upgrading.leave();
            }
            let oldest = upgrading.oldest_beyond(3, |id| there.contains(&id.slot));
            if there.len() > 3 {
                assert_eq!(oldest, Some(there.remove(0)));
                upgrading.leave();
            } else {
                assert_eq!(oldest, None);
            }
            assert_eq!(upgrading.count(), there.len());
            assert!(upgrading.queue.len() <= LEN_MIN);
        }
    }
}

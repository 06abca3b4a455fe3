//! The connections of a reactor that have not completed their upgrade, oldest first: a bounded number, so
//! that requests that never end lock nobody out.

use std::collections::VecDeque;

/// Below this length the queue is not searched for what has left it.
const LEN_MIN: usize = 64;

/// Slots in the order of their accept.
#[derive(Debug, Default)]
pub struct Upgrading {
    /// Slot and generation; some have left already.
    queue: VecDeque<(u32, u32)>,
    count: usize,
}

impl Upgrading {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// One is accepted. `is_upgrading` says whether a slot and generation still is; asked now and then, so
    /// that the queue stays within twice what is there.
    pub fn enter(&mut self, slot: u32, generation: u32, is_upgrading: impl Fn(u32, u32) -> bool) {
        if self.queue.len() >= LEN_MIN.max(2 * self.count) {
            self.queue.retain(|&(slot, generation)| is_upgrading(slot, generation));
        }
        self.queue.push_back((slot, generation));
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
        is_upgrading: impl Fn(u32, u32) -> bool,
    ) -> Option<u32> {
        if self.count <= count_max {
            return None;
        }
        while let Some((slot, generation)) = self.queue.pop_front() {
            if is_upgrading(slot, generation) {
                return Some(slot);
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
            upgrading.enter(slot, 7, |slot, generation| generation == 7 && there.contains(&slot));
            there.push(slot);
            if slot % 2 == 1 {
                there.pop();
                upgrading.leave();
            }
            let oldest = upgrading.oldest_beyond(3, |slot, _| there.contains(&slot));
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

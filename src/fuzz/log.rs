//! Chunks, and the ranges that refer to them.

use std::sync::Arc;

use crate::pubsub::log::{Appender, Budget, ChunkPool, OWN_CHUNK_BYTES, Range};

/// Small, so that a few appends fill a chunk.
const CHUNK_BYTES: usize = 200;
/// As many as a run keeps, so that looking at all of them after each step stays cheap.
const RANGES_MAX: usize = 32;

/// Runs the pairs of `bytes`, an operation and its argument, on a pool with two appenders, and looks after
/// each whether every range still reads as what was written.
pub fn log(bytes: &[u8]) {
    let budget = Budget::new(4 * CHUNK_BYTES);
    let mut world = World {
        pool: ChunkPool::new(budget.clone()),
        budget,
        appenders: [None, None],
        ranges: Vec::new(),
        written: 0,
    };
    for pair in bytes.as_chunks::<2>().0 {
        world.step(pair[0], usize::from(pair[1]));
        world.check();
    }
    world.end();
}

struct World {
    pool: ChunkPool,
    budget: Arc<Budget>,
    appenders: [Option<Appender>; 2],
    /// Each with the bytes that it must read as.
    ranges: Vec<(Range, Vec<u8>)>,
    /// Counts writes, so that each writes other bytes.
    written: u8,
}

impl World {
    fn step(&mut self, op: u8, argument: usize) {
        let index = usize::from(op >> 4);
        let range = (!self.ranges.is_empty()).then(|| argument % self.ranges.len());
        match (op % 8, range) {
            (0, _) => self.append(index % 2, argument),
            (1, Some(range)) => self.extend(index % 2, range, index),
            (2, Some(range)) => self.join(range, index),
            (3, Some(range)) => _ = self.ranges.swap_remove(range),
            (4, Some(range)) if self.ranges.len() < RANGES_MAX => {
                self.ranges.push(self.ranges[range].clone())
            }
            (5, _) => self.retire(index % 2),
            (6, _) if argument.is_multiple_of(2) => self.pool.trim(),
            (6, _) => self.pool.release_free(),
            (7, _) => {
                self.retire(index % 2);
                self.appenders[index % 2] = Some(self.pool.acquire(CHUNK_BYTES, OWN_CHUNK_BYTES + 1));
            }
            _ => {}
        }
    }

    fn append(&mut self, appender: usize, len: usize) {
        if self.ranges.len() == RANGES_MAX {
            self.ranges.remove(0);
        }
        if self.appenders[appender].as_ref().is_none_or(|appender| appender.room() < len) {
            self.retire(appender);
            self.appenders[appender] = Some(self.pool.acquire(CHUNK_BYTES, len));
        }
        let bytes = self.fresh_bytes(len);
        let appender = self.appenders[appender].as_mut().expect("it was there or has just been acquired");
        let room = appender.room();
        let range = appender.append(len, |room| room.copy_from_slice(&bytes));
        assert_eq!(appender.room(), room - len);
        assert!(appender.continues(&range));
        self.ranges.push((range, bytes));
    }

    fn extend(&mut self, appender: usize, range: usize, len: usize) {
        let more = self.fresh_bytes(len);
        let (range, bytes) = &mut self.ranges[range];
        let Some(appender) = &mut self.appenders[appender] else { return };
        if appender.continues(range) && appender.room() >= len {
            appender.extend(range, len, |room| room.copy_from_slice(&more));
            bytes.extend(more);
        }
    }

    fn join(&mut self, first: usize, second: usize) {
        let (second, more) = self.ranges[second % self.ranges.len()].clone();
        let (first, bytes) = &mut self.ranges[first];
        let is_behind = first.end() == second.start() && first.born_bytes() == second.born_bytes();
        assert_eq!(first.join(second).is_ok(), is_behind);
        if is_behind {
            bytes.extend(more);
        }
    }

    fn retire(&mut self, appender: usize) {
        self.appenders[appender].take().into_iter().for_each(|appender| self.pool.retire(appender));
    }

    fn fresh_bytes(&mut self, len: usize) -> Vec<u8> {
        self.written = self.written.wrapping_add(1);
        (0..len).map(|index| self.written.wrapping_mul(31).wrapping_add(index as u8)).collect()
    }

    fn check(&self) {
        for (range, bytes) in &self.ranges {
            assert_eq!(range.bytes(), bytes);
            assert_eq!((range.len(), range.is_empty()), (bytes.len(), bytes.is_empty()));
        }
        assert_eq!(self.budget.bytes(), self.pool.allocated_bytes());
    }

    /// Nothing is left once nothing refers to anything.
    fn end(mut self) {
        self.retire(0);
        self.retire(1);
        self.ranges.clear();
        let mut before_bytes = usize::MAX;
        while self.pool.allocated_bytes() < before_bytes {
            before_bytes = self.pool.allocated_bytes();
            self.pool.release_free();
        }
        assert_eq!(self.pool.allocated_bytes(), 0);
        assert_eq!(self.budget.bytes(), 0);
    }
}

//! Publications on their way to homes of other reactors: copied once, into chunks that those refer to.

use std::sync::Arc;

use crate::pubsub::log::{Appender, Budget, ChunkPool, Range, SHARED_CHUNK_BYTES};

/// The chunk that takes publications to their homes, and those that are under way.
#[derive(Debug)]
pub struct Carrier {
    chunks: ChunkPool,
    /// The one that is being filled.
    current: Option<Appender>,
    /// The bound of all of them: a home always gets to those that wait for it.
    bytes_max: usize,
}

impl Carrier {
    /// One of so many reactors'.
    pub fn new(budget: Arc<Budget>, reactor_count: usize) -> Carrier {
        let bytes_max = (budget.bytes_max() / 16 / reactor_count).max(2 * SHARED_CHUNK_BYTES);
        Carrier { chunks: ChunkPool::new(budget), current: None, bytes_max }
    }

    /// Copies what goes with a publication, one part behind the other, to where it stays until its home has taken it.
    pub fn carry(&mut self, parts: [&[u8]; 5]) -> Range {
        let len = parts.iter().map(|part| part.len()).sum();
        if self.current.as_ref().is_none_or(|current| current.room() < len) {
            let full = self.current.replace(self.chunks.acquire(SHARED_CHUNK_BYTES, len));
            full.into_iter().for_each(|full| self.chunks.retire(full));
        }
        let current = self.current.as_mut().expect("a chunk with room was just put there");
        current.append(len, |mut room| {
            // Most publications have a topic and a payload alone.
            for part in parts.into_iter().filter(|part| !part.is_empty()) {
                let (place, rest) = room.split_at_mut(part.len());
                place.copy_from_slice(part);
                room = rest;
            }
        })
    }

    /// Whether more is under way than may be, until homes have taken some.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.allocated_bytes() > self.bytes_max
    }

    /// The memory of what is under way and of what is kept, in bytes.
    #[inline]
    pub fn allocated_bytes(&self) -> usize {
        self.chunks.allocated_bytes()
    }

    /// Gives back what was not used for a while.
    pub fn trim(&mut self) {
        self.chunks.trim();
    }

    /// Gives back all that homes have taken. The chunk that is being filled is filled no further: that of one long
    /// publication may be more than the bound by itself, and nothing would follow that lets go of it.
    pub fn release_free(&mut self) {
        self.current.take().into_iter().for_each(|current| self.chunks.retire(current));
        self.chunks.release_free();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of two reactors with the least log that may be configured.
    #[test]
    fn one_publication_that_is_more_than_the_bound_is_let_go_of() {
        let budget = Budget::new(16 << 20);
        let mut carrier = Carrier::new(budget.clone(), 2);
        let range = carrier.carry([b"t", b"", b"", b"", &vec![b'1'; 1 << 20]]);
        carrier.release_free();
        assert!(carrier.is_full(), "its home has not taken it");
        drop(range);
        carrier.release_free();
        assert!(!carrier.is_full());
        assert_eq!((carrier.allocated_bytes(), budget.bytes()), (0, 0));
    }
}

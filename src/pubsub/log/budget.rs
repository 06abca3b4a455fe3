//! What all homes together may have of chunks, and how old what is in them is.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// What a reactor's views have allocated to refer to chunks, as part of the budget. Dropped, it is nothing.
#[derive(Debug)]
pub struct Charge {
    bytes: usize,
    budget: Arc<Budget>,
}

/// The live chunks of all homes together, and what refers to them, in bytes; and beside these the chunks that topics keep
/// of their past, which have a bound of their own.
#[derive(Debug)]
pub struct Budget {
    bytes: AtomicUsize,
    /// The part of `bytes` that is no chunks.
    charged_bytes: AtomicUsize,
    bytes_max: usize,
    /// Bytes of all chunks that were ever begun, and of all that was ever charged: the age clock.
    begun_bytes: AtomicU64,
    kept_bytes: AtomicUsize,
    kept_bytes_max: usize,
    /// The part of `kept_bytes` that topics' values are in.
    value_bytes: AtomicUsize,
    /// Bytes of all chunks that were ever begun to be kept: the age clock of what is kept.
    kept_begun_bytes: AtomicU64,
}

impl Charge {
    /// Nothing yet, of `budget`.
    pub fn new(budget: Arc<Budget>) -> Charge {
        Charge { bytes: 0, budget }
    }

    /// So many bytes were allocated since the last call, and so many freed: once per turn. They are told
    /// apart because the age clock counts what is allocated, whether or not as much is freed meanwhile.
    ///
    /// # Panics
    /// If more is freed than is there.
    pub fn update(&mut self, allocated_bytes: usize, freed_bytes: usize) {
        let bytes = (self.bytes + allocated_bytes).checked_sub(freed_bytes);
        self.set(bytes.expect("what is freed was allocated"));
        if allocated_bytes > 0 {
            self.budget.begun_bytes.fetch_add(allocated_bytes as u64, Ordering::Relaxed);
        }
    }

    /// What is there, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn set(&mut self, bytes: usize) {
        // Wraps where it is less: so does the sum.
        let change = bytes.wrapping_sub(self.bytes);
        if change != 0 {
            self.budget.bytes.fetch_add(change, Ordering::Relaxed);
            self.budget.charged_bytes.fetch_add(change, Ordering::Relaxed);
            self.bytes = bytes;
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Budget {
    /// A budget of `bytes_max`, and nothing of the past.
    pub fn new(bytes_max: usize) -> Arc<Budget> {
        Budget::with_past(bytes_max, 0)
    }

    /// A budget of `bytes_max`, and `kept_bytes_max` for what topics keep of their past.
    pub fn with_past(bytes_max: usize, kept_bytes_max: usize) -> Arc<Budget> {
        Arc::new(Budget {
            bytes: AtomicUsize::new(0),
            charged_bytes: AtomicUsize::new(0),
            bytes_max,
            begun_bytes: AtomicU64::new(0),
            kept_bytes: AtomicUsize::new(0),
            kept_bytes_max,
            value_bytes: AtomicUsize::new(0),
            kept_begun_bytes: AtomicU64::new(0),
        })
    }

    /// Chunks of so many bytes are there.
    pub(super) fn allocate(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// They are not any more.
    pub(super) fn free(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// A chunk of so many bytes is begun; tells what the age clock showed before.
    pub(super) fn begin(&self, bytes: usize) -> u64 {
        self.begun_bytes.fetch_add(bytes as u64, Ordering::Relaxed)
    }

    /// A chunk of so many bytes, which is there, is begun and kept; tells what the clock of what is kept showed before.
    pub(super) fn keep(&self, bytes: usize) -> u64 {
        self.free(bytes);
        self.kept_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.kept_begun_bytes.fetch_add(bytes as u64, Ordering::Relaxed)
    }

    /// Chunks of so many bytes are not kept any more, and still there.
    pub(super) fn let_go(&self, bytes: usize) {
        self.kept_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.allocate(bytes);
    }

    /// So many bytes more are kept that are no chunks, and so many less.
    pub(super) fn change_kept(&self, more_bytes: usize, less_bytes: usize) {
        self.kept_bytes.fetch_add(more_bytes.wrapping_sub(less_bytes), Ordering::Relaxed);
    }

    /// Of what is kept, so many bytes more are there for topics' values, and so many less.
    pub(super) fn change_values(&self, more_bytes: usize, less_bytes: usize) {
        // Wraps where it is less: so does the sum.
        self.value_bytes.fetch_add(more_bytes.wrapping_sub(less_bytes), Ordering::Relaxed);
    }

    /// Whether values are half of what topics may keep: then no more is kept for one than it takes.
    pub fn has_many_values(&self) -> bool {
        self.value_bytes() > self.kept_bytes_max / 2
    }

    /// Whether values are all of what topics may keep: then there is no room for another.
    pub fn is_full_of_values(&self) -> bool {
        self.value_bytes() >= self.kept_bytes_max
    }

    /// What topics keep of their past, in bytes.
    pub fn kept_bytes(&self) -> usize {
        self.kept_bytes.load(Ordering::Relaxed)
    }

    /// The part of it that topics' values are in.
    pub fn value_bytes(&self) -> usize {
        self.value_bytes.load(Ordering::Relaxed)
    }

    /// Whether topics keep so much that a home does not wait for another to drop its part.
    pub fn is_far_too_much_kept(&self) -> bool {
        self.kept_bytes() > self.kept_bytes_max / 4 * 5
    }

    /// If topics keep more than they may: what was begun before this reading of the clock of what is kept is to go. That is
    /// all but the newest three quarters of the bound, so that each home finds its part of it without a word to others.
    pub fn kept_too_long_before(&self) -> Option<u64> {
        if self.kept_bytes() <= self.kept_bytes_max {
            return None;
        }
        let young_bytes = (self.kept_bytes_max / 4 * 3) as u64;
        Some(self.kept_begun_bytes.load(Ordering::Relaxed).saturating_sub(young_bytes))
    }

    /// Whether what only stragglers keep must be let go: five eighths are taken.
    pub fn is_short(&self) -> bool {
        self.bytes() > self.bytes_max / 8 * 5
    }

    /// Whether homes must take no more until that has helped: three quarters are taken. The last one is room
    /// for what they take between two looks.
    pub fn is_full(&self) -> bool {
        self.bytes() > self.bytes_max / 4 * 3
    }

    /// What the age clock shows: how many bytes of chunks were begun and charged so far. Read when something
    /// is appended to a view, it tells how old that is.
    ///
    /// Its home appended it earlier, and the queue between them orders that before the reading: what the
    /// reading says is never older than the content, and younger only by what was begun while the batch was
    /// on its way.
    pub fn clock(&self) -> u64 {
        self.begun_bytes.load(Ordering::Relaxed)
    }

    /// Content whose reading of [`Budget::clock`] is less is stale: half the budget was begun since, or a quarter
    /// where homes must take no more. A chunk that is sealed and whose newest content is stale holds memory that is
    /// needed.
    ///
    /// What topics kept moves the clock when it becomes log, which is when they let go of what others refer to.
    ///
    /// Once nothing refers to such chunks, what is left has its bounds. A chunk that is left was begun since
    /// that reading, or has content from since: then it was being written at that moment, or its content was
    /// on its way to a reactor. Of the first, and of what was charged for content since, there is half the
    /// budget, by what the clock counts. Of the second there is one for each appender, with what is charged for
    /// its older content: the shared ones of each home, one per encoding; its topics' own, for which homes
    /// together have an eighth of the budget; and each reactor's carrier. A chunk that is still being written is
    /// one of these two, however old its content: making somebody let go of it would free nothing. Of these there may
    /// be more than a quarter of the budget: with half of it they would be three quarters, and while homes take no
    /// more nothing gets older. So a full log lets go of more, and its homes write no chunk on
    /// ([`Home::seal`](crate::pubsub::home::Home::seal)): what is charged for older content goes as well.
    pub fn stale_before(&self) -> u64 {
        let young = if self.is_full() { self.bytes_max / 4 } else { self.bytes_max / 2 };
        self.clock().saturating_sub(young as u64)
    }

    /// How many bytes are allowed.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// The chunks of all homes and what is charged, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Of that, what is charged by [`Charge`]s, in bytes.
    pub fn charged_bytes(&self) -> usize {
        self.charged_bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pubsub::log::{Appender, ChunkPool, Range};

    fn append(appender: &mut Appender, bytes: &[u8]) -> Range {
        appender.append(bytes.len(), |room| room.copy_from_slice(bytes))
    }

    #[test]
    fn what_is_kept_counts_by_itself_until_it_is_let_go() {
        let budget = Budget::with_past(10_000, 2_000);
        let mut pool = ChunkPool::new(budget.clone());
        let (first, first_clock) = pool.acquire_kept(1_000);
        let (second, second_clock) = pool.acquire_kept(1_000);
        assert_eq!((budget.bytes(), budget.kept_bytes(), pool.kept_bytes()), (0, 2_000, 2_000));
        assert_eq!((first_clock, second_clock, budget.clock()), (0, 1_000, 0));
        assert_eq!(budget.kept_too_long_before(), None);
        let (third, _) = pool.acquire_kept(500);
        assert_eq!(budget.kept_too_long_before(), Some(1_000), "three quarters of the bound are young");
        assert!(!budget.is_far_too_much_kept());
        let (fourth, _) = pool.acquire_kept(1);
        assert!(budget.is_far_too_much_kept(), "a quarter more than the bound");
        let mut first = first;
        let range = first.append(3, |room| room.copy_from_slice(b"old"));
        assert!(!range.is_stale(u64::MAX), "what is kept does not come free by letting go of a range");
        pool.let_go(first);
        assert!(range.is_stale(u64::MAX));
        assert_eq!((budget.bytes(), budget.kept_bytes()), (1_000, 1_501));
        drop(range);
        pool.release_free();
        assert_eq!((budget.bytes(), budget.kept_bytes()), (0, 1_501));
        drop((pool, second, third, fourth));
        assert_eq!((budget.bytes(), budget.kept_bytes()), (0, 0));
    }

    /// Content is as old as the clock has moved since it was appended, not since its chunk was begun.
    #[test]
    fn the_age_clock_counts_what_is_begun_and_what_is_charged() {
        let budget = Budget::new(10_000);
        let mut pool = ChunkPool::new(budget.clone());
        let mut charge = Charge::new(budget.clone());
        let mut old = pool.acquire(1_000, 0);
        let range = append(&mut old, b"early");
        let early = budget.clock();
        drop(pool.acquire(3_000, 0));
        charge.update(999, 0);
        let late = budget.clock();
        assert_eq!((early, late), (1_000, 4_999));
        drop(append(&mut old, b"late"));
        charge.update(500, 1_400);
        charge.update(500, 500);
        assert_eq!(budget.stale_before(), 999);
        assert!(range.born_bytes() < budget.stale_before() && early >= budget.stale_before());
        drop(pool.acquire(1_000, 0));
        assert!(early < budget.stale_before() && late >= budget.stale_before());
    }

    #[test]
    fn what_is_charged_counts_until_it_is_freed_or_its_reactor_is_gone() {
        let budget = Budget::new(1_000);
        let (mut one, mut two) = (Charge::new(budget.clone()), Charge::new(budget.clone()));
        one.update(500, 0);
        two.update(300, 200);
        assert_eq!((one.bytes(), two.bytes(), budget.bytes(), budget.charged_bytes()), (500, 100, 600, 600));
        assert!(!budget.is_short());
        two.update(400, 0);
        assert!(budget.is_short() && budget.is_full());
        two.update(0, 500);
        assert!(!budget.is_short());
        let mut pool = ChunkPool::new(budget.clone());
        drop(pool.acquire(300, 0));
        assert_eq!((budget.bytes(), budget.charged_bytes()), (800, 500));
        drop(one);
        assert_eq!((budget.bytes(), budget.charged_bytes()), (300, 0));
        drop((two, pool));
        assert_eq!((budget.bytes(), budget.charged_bytes()), (0, 0));
    }
}

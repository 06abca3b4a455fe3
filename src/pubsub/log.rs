//! The records of publications, in whatever encoding: append-only chunks, referenced by ranges, never copied per
//! subscriber.
//!
//! Invariant: `0 ≤ a range's start ≤ its end ≤ what the appender has written ≤ the chunk's capacity`,
//! and a byte below *written* never changes while any range can reach it. One [`Appender`] at most
//! writes a chunk, always at or above *written*; [`Range`]s read below it. A chunk is written anew
//! only by whoever holds its last reference.

mod budget;

use std::{
    cell::UnsafeCell,
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

pub use budget::{Budget, Charge};

/// The capacity of a chunk that topics share, in bytes.
pub const SHARED_CHUNK_BYTES: usize = if cfg!(test) { 4 << 10 } else { 64 << 10 };
/// The capacity of a chunk that one busy topic has to itself, in bytes.
pub const OWN_CHUNK_BYTES: usize = if cfg!(test) { 16 << 10 } else { 256 << 10 };
/// So many retired chunks are kept without asking whether any is free.
const RETIRED_KEPT: usize = 32;
/// How many retired chunks one acquisition looks at for one to write anew.
const RECYCLE_PROBES: usize = 4;
/// How many retired chunks are looked at at once for free ones: what a thousand of a full log cost would
/// be a turn's.
const RELEASE_PROBES: usize = 64;

/// A span of memory that publications are appended to.
pub struct Chunk {
    bytes: Box<[UnsafeCell<u8>]>,
    /// How many bytes of chunks all homes together had begun to write before this one.
    born_bytes: u64,
    /// Nobody appends to it any more.
    is_sealed: AtomicBool,
}

// SAFETY: a `Range` reads only bytes that its `Appender` wrote before it made the range, and that
// nobody writes while a reference to the chunk exists; the appender writes only bytes above those.
// Handing a range to another thread (a queue, a mutex) orders the write before the read.
unsafe impl Sync for Chunk {}

/// The one writer of a chunk.
#[derive(Debug)]
pub struct Appender {
    chunk: Arc<Chunk>,
    written: u32,
}

/// A reference to bytes of one chunk that never change.
#[derive(Clone, Debug)]
pub struct Range {
    chunk: Arc<Chunk>,
    start: u32,
    end: u32,
}

/// Where a home's chunks come from and come back to.
///
/// A retired chunk stays listed until the last range lets go; then it is written anew instead of
/// being returned to the allocator, so that a warm home does not allocate.
#[derive(Debug)]
pub struct ChunkPool {
    retired: VecDeque<Arc<Chunk>>,
    allocated_bytes: usize,
    /// Of chunks that a topic's past keeps, beside the others.
    kept_bytes: usize,
    /// Of those that values are in, of these.
    value_bytes: usize,
    budget: Arc<Budget>,
}

impl Chunk {
    fn with_capacity(bytes: usize) -> Chunk {
        assert!(bytes <= u32::MAX as usize, "a chunk of {bytes} bytes cannot be addressed");
        let bytes = vec![0u8; bytes].into_boxed_slice();
        // SAFETY: `UnsafeCell<u8>` has the layout of `u8`, and so has a slice of them.
        let bytes = unsafe { Box::from_raw(Box::into_raw(bytes) as *mut [UnsafeCell<u8>]) };
        Chunk { bytes, born_bytes: 0, is_sealed: AtomicBool::new(false) }
    }

    /// How many bytes it holds at most.
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// # Safety
    /// `start..end` must not be written while the slice lives.
    unsafe fn read(&self, start: u32, end: u32) -> &[u8] {
        let cells = &self.bytes[start as usize..end as usize];
        // SAFETY: by the contract nobody writes the bytes while they are borrowed; they were zeroed at first.
        unsafe { std::slice::from_raw_parts(cells.as_ptr().cast::<u8>(), cells.len()) }
    }
}

impl std::fmt::Debug for Chunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chunk({} bytes)", self.capacity())
    }
}

impl Appender {
    /// Writes `chunk` from its start.
    ///
    /// # Panics
    /// If anything else refers to the chunk.
    fn new(mut chunk: Arc<Chunk>, born_bytes: u64) -> Appender {
        let own = Arc::get_mut(&mut chunk).expect("a chunk is written anew only when no range refers to it");
        own.born_bytes = born_bytes;
        *own.is_sealed.get_mut() = false;
        Appender { chunk, written: 0 }
    }

    /// How many bytes its chunk holds at most.
    pub fn capacity(&self) -> usize {
        self.chunk.capacity()
    }

    /// The `len` bytes that were appended last.
    pub fn newest(&self, len: usize) -> Range {
        Range { chunk: self.chunk.clone(), start: self.written - len as u32, end: self.written }
    }

    /// Widens `range`, which ends where those `len` bytes begin, to their end: no further reference is taken. False if it ends
    /// elsewhere.
    pub fn widen(&self, range: &mut Range, len: usize) -> bool {
        let is_next = range.end + len as u32 == self.written && Arc::ptr_eq(&range.chunk, &self.chunk);
        if is_next {
            range.end = self.written;
        }
        is_next
    }

    /// How many bytes still fit.
    pub fn room(&self) -> usize {
        self.chunk.capacity() - self.written as usize
    }

    /// Appends `len` bytes, all of which `fill` must write, and returns where they are.
    ///
    /// # Panics
    /// If they do not fit: ask [`Appender::room`] first.
    pub fn append(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> Range {
        let start = self.written;
        self.write(len, fill);
        Range { chunk: self.chunk.clone(), start, end: self.written }
    }

    /// Appends like [`Appender::append`] and widens `range`, which must end where the appender is:
    /// no further reference is taken.
    pub fn extend(&mut self, range: &mut Range, len: usize, fill: impl FnOnce(&mut [u8])) {
        assert!(self.continues(range), "a range is extended from elsewhere than its end");
        self.write(len, fill);
        range.end = self.written;
    }

    /// Whether the next byte appended comes right after `range`.
    pub fn continues(&self, range: &Range) -> bool {
        range.end == self.written && Arc::ptr_eq(&range.chunk, &self.chunk)
    }

    /// Appends `len` bytes, all of which `fill` must write, without a range of them.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn write(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) {
        assert!(len <= self.room(), "{len} bytes appended to a chunk with room for {}", self.room());
        let start = self.written as usize;
        let cells = &self.chunk.bytes[start..start + len];
        // SAFETY: we are the chunk's one writer and no range reaches bytes from `written` on, so nobody
        // reads or writes these cells while `fill` does.
        fill(unsafe { std::slice::from_raw_parts_mut(cells.as_ptr() as *mut u8, len) });
        self.written += len as u32;
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        // Nothing is ordered by it: who reads the old value takes the chunk for one that is still being
        // written a little longer. It is undone only where no range is left that could read it.
        self.chunk.is_sealed.store(true, Ordering::Relaxed);
    }
}

impl Range {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: a range is made only over written bytes, and its reference keeps them unwritten.
        unsafe { self.chunk.read(self.start, self.end) }
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether it spans nothing.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The age clock's reading when its chunk was begun: see [`Budget::clock`].
    pub fn born_bytes(&self) -> u64 {
        self.chunk.born_bytes
    }

    /// Whether nothing is appended to its chunk any more: see [`Budget::stale_before`].
    pub fn is_sealed(&self) -> bool {
        self.chunk.is_sealed.load(Ordering::Relaxed)
    }

    /// Whether it keeps memory that is needed when the log is short, for whoever has nothing but the range: nothing more is
    /// written to its chunk, and that was begun before `clock`, a reading of [`Budget::stale_before`]. Its content may be
    /// younger than its chunk, never older: what is not stale by this is not stale.
    pub fn is_stale(&self, clock: u64) -> bool {
        self.born_bytes() < clock && self.is_sealed()
    }

    /// The `len` bytes of it from `start` on, in its chunk.
    ///
    /// # Panics
    /// If they are not within it.
    pub fn part(&self, start: u32, len: u32) -> Range {
        assert!(self.start <= start && start + len <= self.end, "a part lies within its range");
        Range { chunk: self.chunk.clone(), start, end: start + len }
    }

    /// Where it begins in its chunk.
    pub fn start(&self) -> u32 {
        self.start
    }

    /// Where it ends in its chunk.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Takes in `next` if it begins where this one ends, in the same chunk; else gives it back.
    ///
    /// # Errors
    /// `next`, untouched.
    pub fn join(&mut self, next: Range) -> Result<(), Range> {
        if self.end == next.start && Arc::ptr_eq(&self.chunk, &next.chunk) {
            self.end = next.end;
            return Ok(());
        }
        Err(next)
    }
}

impl ChunkPool {
    /// A pool that accounts to `budget`.
    pub fn new(budget: Arc<Budget>) -> ChunkPool {
        ChunkPool { retired: VecDeque::new(), allocated_bytes: 0, kept_bytes: 0, value_bytes: 0, budget }
    }

    /// A chunk to write, of at least `bytes_min` bytes and normally of `bytes`.
    pub fn acquire(&mut self, bytes: usize, bytes_min: usize) -> Appender {
        let chunk = self.take(bytes.max(bytes_min));
        let born_bytes = self.budget.begin(chunk.capacity());
        Appender::new(chunk, born_bytes)
    }

    /// A chunk to write, of `bytes`, that counts as kept: until [`ChunkPool::let_go`] it is not sealed, so nobody takes it for
    /// stale. With it comes what the clock of what is kept showed, which is another for each.
    pub fn acquire_kept(&mut self, bytes: usize) -> (Appender, u64) {
        let chunk = self.take(bytes);
        self.allocated_bytes -= bytes;
        self.kept_bytes += bytes;
        let clock = self.budget.keep(bytes);
        (Appender::new(chunk, self.budget.clock()), clock)
    }

    /// A chunk from [`ChunkPool::acquire_kept`] is kept no more: as long as others refer to it, it is one of the log's, and
    /// moves the age clock as one that is begun does. Else nothing but chunks that others refer to would be the log, none
    /// of them would ever be stale, and publishers would wait for good.
    pub fn let_go(&mut self, appender: Appender) {
        let bytes = appender.capacity();
        self.kept_bytes -= bytes;
        self.allocated_bytes += bytes;
        self.budget.let_go(bytes);
        // With no other reference there is nobody who could make one.
        let is_free = Arc::strong_count(&appender.chunk) == 1;
        if is_free && self.retired.len() >= RETIRED_KEPT {
            return self.forget(&appender.chunk);
        }
        if !is_free {
            self.budget.begin(bytes);
        }
        self.retire(appender);
    }

    /// The marks of what a topic keeps take `bytes` now, and took `before`: they count with that.
    pub fn note_marks(&mut self, bytes: usize, before: usize) {
        self.kept_bytes = self.kept_bytes + bytes - before;
        self.budget.change_kept(bytes, before);
    }

    /// Of the chunks that are kept, a value's have `bytes` now, and had `before`.
    pub fn note_value(&mut self, bytes: usize, before: usize) {
        self.value_bytes = self.value_bytes + bytes - before;
        self.budget.change_values(bytes, before);
    }

    /// A chunk of exactly `bytes` that nothing refers to, counted.
    fn take(&mut self, bytes: usize) -> Arc<Chunk> {
        for _ in 0..RECYCLE_PROBES.min(self.retired.len()) {
            let mut chunk = self.retired.pop_front().expect("the loop counts what is there");
            let is_free = Arc::get_mut(&mut chunk).is_some();
            if is_free && chunk.capacity() == bytes {
                return chunk;
            }
            if is_free && chunk.capacity() > OWN_CHUNK_BYTES {
                // One large publication's own chunk: kept, it would pin its size for nothing.
                self.forget(&chunk);
                continue;
            }
            self.retired.push_back(chunk);
        }
        if self.budget.is_short() {
            self.release_free();
        }
        self.allocated_bytes += bytes;
        self.budget.allocate(bytes);
        Arc::new(Chunk::with_capacity(bytes))
    }

    /// What `appender` is, with room for `len` bytes: if it has too little, its chunk is taken back for one that is
    /// normally of `chunk_bytes`.
    pub fn make_room<'a>(
        &mut self,
        appender: &'a mut Option<Appender>,
        len: usize,
        chunk_bytes: usize,
    ) -> &'a mut Appender {
        if appender.as_ref().is_none_or(|appender| appender.room() < len) {
            let full = appender.replace(self.acquire(chunk_bytes, len));
            full.into_iter().for_each(|full| self.retire(full));
        }
        appender.as_mut().expect("an appender with room was just put there")
    }

    /// Takes back a chunk that will not be appended to any more.
    pub fn retire(&mut self, appender: Appender) {
        self.retired.push_back(appender.chunk.clone());
    }

    /// Keeps a few free chunks for the next publications and returns others to the allocator, as far as
    /// [`ChunkPool::release_free`] finds them.
    pub fn trim(&mut self) {
        if self.retired.len() > RETIRED_KEPT {
            self.release_free();
        }
    }

    /// Returns chunks that nothing refers to any more to the allocator, of the next few: however many are
    /// retired, it costs the same, and calling it often enough finds them all.
    pub fn release_free(&mut self) {
        for _ in 0..RELEASE_PROBES.min(self.retired.len()) {
            let mut chunk = self.retired.pop_front().expect("the loop counts what is there");
            match Arc::get_mut(&mut chunk) {
                Some(_) => self.forget(&chunk),
                None => self.retired.push_back(chunk),
            }
        }
    }

    /// The chunks of this pool that exist and are not kept, in bytes.
    pub fn allocated_bytes(&self) -> usize {
        self.allocated_bytes
    }

    /// Those that are kept, in bytes.
    pub fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// Those of these that values are in, in bytes.
    pub fn value_bytes(&self) -> usize {
        self.value_bytes
    }

    /// What its chunks are counted in.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    fn forget(&mut self, chunk: &Arc<Chunk>) {
        self.allocated_bytes -= chunk.capacity();
        self.budget.free(chunk.capacity());
    }
}

impl Drop for ChunkPool {
    fn drop(&mut self) {
        self.budget.change_values(0, self.value_bytes);
        self.budget.let_go(self.kept_bytes);
        self.budget.free(self.allocated_bytes + self.kept_bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        prelude::*,
        test_runner::{Config, RngSeed},
    };

    use super::*;

    fn pool() -> ChunkPool {
        ChunkPool::new(Budget::new(1 << 20))
    }

    fn append(appender: &mut Appender, bytes: &[u8]) -> Range {
        appender.append(bytes.len(), |room| room.copy_from_slice(bytes))
    }

    #[test]
    fn what_was_appended_reads_back_and_adjacent_ranges_join() {
        let mut appender = pool().acquire(SHARED_CHUNK_BYTES, 0);
        let mut first = append(&mut appender, b"one");
        let second = append(&mut appender, b"two");
        let third = append(&mut appender, b"three");
        let third = first.join(third).expect_err("a hole lies between them");
        first.join(second).unwrap();
        assert_eq!(first.bytes(), b"onetwo");
        first.join(third).unwrap();
        assert_eq!(first.bytes(), b"onetwothree");
        assert!(appender.continues(&first));
        appender.extend(&mut first, 1, |room| room.fill(b'!'));
        assert_eq!(first.bytes(), b"onetwothree!");
    }

    #[test]
    fn a_chunk_is_written_anew_only_when_its_last_range_is_gone() {
        let mut pool = pool();
        let mut appender = pool.acquire(SHARED_CHUNK_BYTES, 0);
        let range = append(&mut appender, b"held");
        pool.retire(appender);
        let second = pool.acquire(SHARED_CHUNK_BYTES, 0);
        assert_eq!(pool.allocated_bytes(), 2 * SHARED_CHUNK_BYTES);
        assert_eq!(range.bytes(), b"held");
        drop(range);
        let third = pool.acquire(SHARED_CHUNK_BYTES, 0);
        assert_eq!(pool.allocated_bytes(), 2 * SHARED_CHUNK_BYTES, "the first chunk is used again");
        drop((second, third));
    }

    #[test]
    fn a_publication_larger_than_a_chunk_gets_one_of_its_size_which_is_not_kept() {
        let mut pool = pool();
        let mut appender = pool.acquire(OWN_CHUNK_BYTES, 1 << 20);
        assert_eq!(appender.room(), 1 << 20);
        drop(append(&mut appender, &vec![7; 1 << 20]));
        pool.retire(appender);
        let small = pool.acquire(OWN_CHUNK_BYTES, 10);
        assert_eq!(pool.allocated_bytes(), OWN_CHUNK_BYTES);
        drop(small);
    }

    #[test]
    fn the_budget_counts_the_chunks_of_every_pool() {
        let budget = Budget::new(2 * OWN_CHUNK_BYTES);
        let mut one = ChunkPool::new(budget.clone());
        let mut two = ChunkPool::new(budget.clone());
        let first = one.acquire(OWN_CHUNK_BYTES, 0);
        assert!(!budget.is_short());
        let second = two.acquire(OWN_CHUNK_BYTES, 0);
        assert!(budget.is_short() && budget.is_full());
        one.retire(first);
        one.release_free();
        assert_eq!(budget.bytes(), OWN_CHUNK_BYTES);
        drop((two, second));
        assert_eq!(budget.bytes(), 0);
    }

    #[test]
    fn free_chunks_are_looked_for_a_few_at_a_time() {
        const FREE: usize = 3 * RELEASE_PROBES;
        let mut pool = ChunkPool::new(Budget::new(1 << 30));
        let mut ranges: Vec<Range> = (0..2 * FREE)
            .map(|_| {
                let mut appender = pool.acquire(100, 0);
                let range = append(&mut appender, b"held");
                pool.retire(appender);
                range
            })
            .collect();
        ranges.truncate(FREE);
        let mut looks = 0;
        while pool.allocated_bytes() > FREE * 100 {
            let before_bytes = pool.allocated_bytes();
            pool.release_free();
            assert!(before_bytes - pool.allocated_bytes() <= RELEASE_PROBES * 100);
            looks += 1;
        }
        assert!(looks <= 2 * FREE / RELEASE_PROBES, "after so many each was looked at");
        assert!(ranges.iter().all(|range| range.bytes() == b"held"));
        ranges.clear();
        for _ in 0..FREE {
            pool.trim();
        }
        assert!(pool.retired.len() <= RETIRED_KEPT);
    }

    #[test]
    fn a_chunk_is_sealed_while_nobody_appends_to_it() {
        let mut pool = pool();
        let mut appender = pool.acquire(SHARED_CHUNK_BYTES, 0);
        let range = append(&mut appender, b"one");
        assert!(!range.is_sealed());
        pool.retire(appender);
        assert!(range.is_sealed());
        drop(range);
        let mut again = pool.acquire(SHARED_CHUNK_BYTES, 0);
        assert_eq!(pool.allocated_bytes(), SHARED_CHUNK_BYTES, "it is written anew");
        let range = append(&mut again, b"two");
        assert!(!range.is_sealed());
        drop(again);
        assert!(range.is_sealed());
    }

    /// A range by itself is as old as its chunk, and none that is still being written is stale: to let go of it would free
    /// nothing.
    #[test]
    fn a_range_by_itself_is_stale_when_its_chunk_is_old_and_sealed() {
        let budget = Budget::new(10_000);
        let mut pool = ChunkPool::new(budget.clone());
        drop(pool.acquire(1_000, 0));
        let mut old = pool.acquire(1_000, 0);
        let early = append(&mut old, b"early");
        let born_bytes = early.born_bytes();
        let young = pool.acquire(6_000, 0);
        let late = append(&mut old, b"late");
        assert!(budget.stale_before() > born_bytes);
        assert!(!early.is_stale(budget.stale_before()), "its chunk is being written");
        pool.retire(old);
        assert!(early.is_stale(budget.stale_before()) && late.is_stale(budget.stale_before()));
        assert!(!early.is_stale(born_bytes) && early.is_stale(born_bytes + 1));
        pool.retire(young);
        let mut fresh = pool.acquire(500, 0);
        let fresh_range = append(&mut fresh, b"fresh");
        pool.retire(fresh);
        assert!(fresh_range.is_sealed() && !fresh_range.is_stale(budget.stale_before()));
    }

    proptest! {
        #![proptest_config(Config { failure_persistence: None, rng_seed: RngSeed::Fixed(11), ..Config::default() })]

        /// Whatever is begun, appended to, kept, let go and charged: what is left when nothing that is stale is
        /// referred to any more is half the budget, and what was being written then.
        #[test]
        fn what_is_not_stale_fits(steps in prop::collection::vec((0u8..6, 0usize..4, 1usize..200), 1..300)) {
            const BYTES_MAX: usize = 4_000;
            const CHUNK_BYTES: usize = 250;
            const APPENDERS: usize = 4;
            let budget = Budget::new(BYTES_MAX);
            let mut pool = ChunkPool::new(budget.clone());
            let mut charge = Charge::new(budget.clone());
            let mut appenders: [Option<Appender>; APPENDERS] = Default::default();
            // As a view has them: the range, the clock's reading, and what was charged for it.
            let mut segments: Vec<(Range, u64, usize)> = Vec::new();
            for (action, index, len) in steps {
                match action {
                    0..4 => {
                        let appender = &mut appenders[index];
                        if appender.as_ref().is_none_or(|appender| appender.room() < len) {
                            appender.take().into_iter().for_each(|full| pool.retire(full));
                            *appender = Some(pool.acquire(CHUNK_BYTES, 0));
                        }
                        let range = appender.as_mut().unwrap().append(len, |room| room.fill(1));
                        segments.push((range, budget.clock(), len / 2));
                        charge.update(len / 2, 0);
                    }
                    4 => appenders[index].take().into_iter().for_each(|full| pool.retire(full)),
                    _ if segments.is_empty() => {}
                    _ => charge.update(0, segments.swap_remove(len % segments.len()).2),
                }
                let stale_before = budget.stale_before();
                // A chunk is as young as the newest of it.
                let newest = |range: &Range| {
                    let same = segments.iter().filter(|it| Arc::ptr_eq(&it.0.chunk, &range.chunk));
                    same.map(|it| it.1).max().unwrap()
                };
                let is_kept: Vec<bool> = segments
                    .iter()
                    .map(|(range, ..)| !range.is_sealed() || newest(range) >= stale_before)
                    .collect();
                let mut kept = is_kept.iter();
                segments.retain(|(_, reading, charged_bytes)| {
                    let is_kept = *kept.next().unwrap();
                    if !is_kept {
                        assert!(*reading < stale_before);
                        charge.update(0, *charged_bytes);
                    }
                    is_kept
                });
                (0..10).for_each(|_| pool.release_free());
                // Old content of a chunk that is kept for its newest is charged too, which is at most half of
                // that chunk.
                let open_bytes = APPENDERS * (CHUNK_BYTES + CHUNK_BYTES / 2);
                prop_assert!(budget.bytes() <= BYTES_MAX / 2 + open_bytes, "{} bytes are left", budget.bytes());
                prop_assert!(!budget.is_full(), "{} bytes are left, and nothing gets older", budget.bytes());
            }
        }
    }

    #[test]
    fn ranges_read_on_another_thread_while_the_appender_goes_on() {
        let mut appender = pool().acquire(OWN_CHUNK_BYTES, 0);
        let (sender, receiver) = std::sync::mpsc::channel::<(u32, Range)>();
        let reader = std::thread::spawn(move || {
            for (value, range) in receiver {
                assert_eq!(range.bytes(), value.to_be_bytes().repeat(4));
            }
        });
        for value in 0..1_000u32 {
            let range = append(&mut appender, &value.to_be_bytes().repeat(4));
            sender.send((value, range)).unwrap();
        }
        drop(sender);
        reader.join().unwrap();
    }
}

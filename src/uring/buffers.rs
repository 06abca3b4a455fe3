//! Provided buffers: the memory that the kernel receives into.
//!
//! A connection that is idle holds no user memory, because a receive names this ring instead of a
//! buffer and the kernel takes one only when bytes have come. Every buffer is in exactly one place:
//!
//! - *offered*: in the kernel's ring, between its head and our tail;
//! - *on loan*: filled and handed out as a [`Lease`], until it is recycled;
//! - *free*: on our own stack.
//!
//! `offered + on loan + free = count`, always.
//!
//! # Last in, first out
//!
//! The kernel's ring is a queue: what is put at its tail is filled only after everything before it, so
//! a ring that holds every buffer walks through all of their pages however little is received, which
//! is the worst order for the caches. So the kernel is offered only a *window* of them, topped up once
//! per submission from the top of the stack, where the most recently returned ones lie. The pages in
//! use are then the window's, and the rest stay cold until leases are held for long or a burst wants
//! more: a want of buffers while some are free doubles the window. The window starts above the 256
//! items of work that one enter runs, so that only a flood widens it. All pages are faulted in at the
//! start, so that neither memory use nor latency depends on which of them have been touched.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    ptr,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::{IoUring, types::BufRingEntry};

use super::Lease;

/// The buffer group that connections share, by its id.
pub const GROUP: u16 = 0;
/// The group of larger buffers, for whoever sends much.
pub const LARGE_GROUP: u16 = 1;
/// What the ids of its buffers have, because a completion names its buffer but not the group.
pub const LARGE_BIT: u16 = 1 << 15;
/// How many buffers the kernel is offered at first.
const WINDOW_MIN: usize = 512;
/// The kernel's own limit on entries in a buffer ring.
const COUNT_MAX: usize = 1 << 15;

/// A registered buffer ring and the memory behind it.
#[derive(Debug)]
pub struct BufferRing {
    /// What the kernel reads: `entry_mask + 1` entries, page aligned.
    entries: Mapping,
    /// `count × buffer_bytes`.
    memory: Mapping,
    count: usize,
    buffer_bytes: usize,
    /// What ids have beside the buffer's place.
    id_bits: u16,
    entry_mask: u16,
    /// Our end of the ring: entries ever offered, wrapping.
    tail: u16,
    /// A stack: the next to offer is the last returned.
    free: Vec<u16>,
    offered: usize,
    window: usize,
    on_loan: Vec<bool>,
}

impl BufferRing {
    /// Maps and prefaults `count` buffers of `buffer_bytes` and registers them with `ring` as `group`.
    ///
    /// The buffers must outlive the ring: whoever holds both drops the ring first.
    ///
    /// # Errors
    /// `EINVAL` for a count of 0 or above 32,768 or buffers of 0 bytes; else what mmap(2) or
    /// io_uring_register(2) says.
    pub fn new(ring: &IoUring, group: u16, count: usize, buffer_bytes: usize) -> io::Result<BufferRing> {
        if count == 0 || count > COUNT_MAX || buffer_bytes == 0 || buffer_bytes > i32::MAX as usize {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let entry_count = count.next_power_of_two();
        let entries = Mapping::new(entry_count * size_of::<BufRingEntry>())?;
        let memory = Mapping::new(count * buffer_bytes)?;
        // SAFETY: the mapping is page aligned, holds `entry_count` entries, and lives as long as this
        // struct, which the caller keeps until the ring is gone.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                entries.base as u64,
                entry_count as u16,
                group,
                0,
            )?;
        }
        Ok(BufferRing {
            entries,
            memory,
            count,
            buffer_bytes,
            id_bits: if group == LARGE_GROUP { LARGE_BIT } else { 0 },
            entry_mask: (entry_count - 1) as u16,
            tail: 0,
            // Reversed, so that the first ones offered are the first ones in memory.
            free: (0..count as u16).rev().collect(),
            offered: 0,
            window: WINDOW_MIN.min(count),
            on_loan: vec![false; count],
        })
    }

    /// Offers the kernel free buffers up to the window. Called before every submission.
    pub fn offer(&mut self) {
        if self.offered >= self.window || self.free.is_empty() {
            return;
        }
        while self.offered < self.window
            && let Some(place) = self.free.pop()
        {
            let address = self.address(place);
            let slot = self.tail & self.entry_mask;
            // SAFETY: `slot` is within the mapped entries, and the kernel does not read an entry
            // before the tail has passed it.
            let entry = unsafe { &mut *self.entries.base.cast::<BufRingEntry>().add(slot as usize) };
            entry.set_addr(address as u64);
            entry.set_len(self.buffer_bytes as u32);
            entry.set_bid(place | self.id_bits);
            self.tail = self.tail.wrapping_add(1);
            self.offered += 1;
        }
        // SAFETY: the tail lies in the first entry's reserved field, which no `set_` above touches;
        // it is aligned, and both sides access it atomically.
        let tail = unsafe { &*BufRingEntry::tail(self.entries.base.cast()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    /// The kernel used buffer `id` for a completion with this `result`: a lease if it holds bytes.
    /// An empty one (the end of a stream, an error) goes straight back.
    ///
    /// # Panics
    /// If the kernel could not have had that buffer: our accounting would be broken.
    pub fn lend(&mut self, id: u16, result: i32) -> Option<Lease> {
        let place = id & !LARGE_BIT;
        assert!(!self.on_loan[place as usize], "the kernel filled buffer {id}, which is on loan");
        assert!(self.offered > 0, "the kernel filled buffer {id}, but it was offered none");
        self.offered -= 1;
        if result <= 0 {
            self.free.push(place);
            return None;
        }
        assert!(result as usize <= self.buffer_bytes, "{result} bytes in a buffer of {}", self.buffer_bytes);
        self.on_loan[place as usize] = true;
        Some(Lease { id, len: result as u32 })
    }

    /// Takes a lease back.
    ///
    /// # Panics
    /// If it is not on loan: recycled twice, or of another ring.
    pub fn recycle(&mut self, lease: Lease) {
        let place = lease.id & !LARGE_BIT;
        let on_loan = &mut self.on_loan[place as usize];
        assert!(*on_loan, "buffer {} is recycled but not on loan", lease.id);
        *on_loan = false;
        self.free.push(place);
    }

    /// The filled bytes of a lease.
    ///
    /// # Panics
    /// If it is not on loan: only then does nobody else touch the bytes.
    pub fn leased(&mut self, lease: &Lease) -> &mut [u8] {
        let place = lease.id & !LARGE_BIT;
        assert!(self.on_loan[place as usize], "buffer {} is read but not on loan", lease.id);
        assert!(lease.len as usize <= self.buffer_bytes);
        // SAFETY: the range lies within the buffer, which is mapped; it is on loan, so the kernel does
        // not write it, and the borrow of `self` keeps it from being recycled or lent twice.
        unsafe { std::slice::from_raw_parts_mut(self.address(place), lease.len as usize) }
    }

    /// The kernel ran out. If that was for the window and not for want of buffers, offers more.
    pub fn on_exhausted(&mut self) {
        if !self.free.is_empty() {
            self.window = (self.window * 2).min(self.count);
        }
    }

    /// How many buffers the kernel has from the next submission on.
    pub fn free_buffers(&self) -> usize {
        (self.offered + self.free.len()).min(self.window)
    }

    fn address(&self, place: u16) -> *mut u8 {
        debug_assert!((place as usize) < self.count);
        // SAFETY: `place < count`, so the offset is within the mapping.
        unsafe { self.memory.base.add(place as usize * self.buffer_bytes) }
    }
}

/// Mapped memory, page aligned.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) base: *mut u8,
    bytes: usize,
}

impl Mapping {
    /// Anonymous and prefaulted.
    fn new(bytes: usize) -> io::Result<Mapping> {
        Mapping::map(bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE, -1, 0)
    }

    /// The first `bytes` of what `ring` shares at `offset`.
    pub(super) fn of_ring(ring: &IoUring, offset: i64, bytes: usize) -> io::Result<Mapping> {
        Mapping::map(bytes, libc::MAP_SHARED | libc::MAP_POPULATE, ring.as_raw_fd(), offset)
    }

    fn map(bytes: usize, flags: i32, fd: RawFd, offset: i64) -> io::Result<Mapping> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that anything
        // else knows of; what a ring shares is its user's to map.
        let base = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, fd, offset) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping { base: base.cast(), bytes })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped, and every borrow of it ended with its owner.
        unsafe { libc::munmap(self.base.cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A buffer ring without a kernel behind it: the accounting alone.
    fn unregistered(count: usize, buffer_bytes: usize) -> BufferRing {
        let entry_count = count.next_power_of_two();
        BufferRing {
            entries: Mapping::new(entry_count * size_of::<BufRingEntry>()).expect("memory"),
            memory: Mapping::new(count * buffer_bytes).expect("memory"),
            count,
            buffer_bytes,
            id_bits: 0,
            entry_mask: (entry_count - 1) as u16,
            tail: 0,
            free: (0..count as u16).rev().collect(),
            offered: 0,
            window: WINDOW_MIN.min(count),
            on_loan: vec![false; count],
        }
    }

    fn offered_id(ring: &BufferRing, place: u16) -> u16 {
        let slot = (place & ring.entry_mask) as usize;
        // SAFETY: the slot is within the mapped entries, and there is no kernel to write them.
        unsafe { (*ring.entries.base.cast::<BufRingEntry>().add(slot)).bid() }
    }

    #[test]
    fn only_the_window_is_offered_and_what_came_back_last_is_offered_next() {
        let mut ring = unregistered(4 * WINDOW_MIN, 64);
        ring.offer();
        assert_eq!((ring.offered, ring.free_buffers()), (WINDOW_MIN, WINDOW_MIN));
        let (first, second) = (ring.lend(0, 10).unwrap(), ring.lend(1, 10).unwrap());
        ring.recycle(first);
        ring.recycle(second);
        ring.offer();
        assert_eq!(offered_id(&ring, WINDOW_MIN as u16), 1);
        assert_eq!(offered_id(&ring, WINDOW_MIN as u16 + 1), 0);
    }

    #[test]
    fn a_want_of_buffers_widens_the_window_only_while_some_are_free() {
        let mut ring = unregistered(4 * WINDOW_MIN, 64);
        ring.on_exhausted();
        ring.on_exhausted();
        ring.on_exhausted();
        assert_eq!(ring.window, 4 * WINDOW_MIN);
        let mut small = unregistered(2, 64);
        small.offer();
        small.on_exhausted();
        assert_eq!((small.window, small.free_buffers()), (2, 2));
    }

    /// A turn takes half of what came before the kernel says that it ran out, and offers what it gave back.
    #[test]
    fn a_want_that_is_told_a_turn_later_widens_the_window_too() {
        let mut ring = unregistered(4 * WINDOW_MIN, 64);
        ring.offer();
        for half in [0..WINDOW_MIN / 2, WINDOW_MIN / 2..WINDOW_MIN] {
            for id in half {
                let lease = ring.lend(id as u16, 10).unwrap();
                ring.recycle(lease);
            }
            ring.offer();
        }
        ring.on_exhausted();
        assert_eq!(ring.window, 2 * WINDOW_MIN);
    }

    #[test]
    fn a_buffer_without_bytes_goes_straight_back() {
        let mut ring = unregistered(2, 64);
        ring.offer();
        assert_eq!(ring.lend(0, 0), None);
        assert_eq!(ring.free_buffers(), 2);
    }

    #[test]
    #[should_panic(expected = "recycled but not on loan")]
    fn recycling_a_lease_twice_is_caught() {
        let mut ring = unregistered(2, 64);
        ring.offer();
        let lease = ring.lend(0, 5).unwrap();
        let forged = Lease { id: lease.id, len: lease.len };
        ring.recycle(lease);
        ring.recycle(forged);
    }
}

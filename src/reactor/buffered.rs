//! What clients have under way, held to one bound for all connections of all reactors.
//!
//! Unfinished messages, bytes that wait to be taken and replies that are not read are each bounded per connection;
//! together they could still be as many times that as there are connections. A connection counts from
//! `COUNTED_BYTES` on, to the kibibyte. Past three quarters of the bound whoever has [`MUCH_KIB`] is not read from,
//! and the one with most is closed now and then, because what was begun cannot end; past all of it one after the
//! other.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::share::Share;

/// What a connection has below this is not counted.
const COUNTED_BYTES: usize = 4 << 10;
/// Whoever has so many kibibytes has much.
pub const MUCH_KIB: u16 = if cfg!(test) { 4 } else { 64 };
/// How often the one with most is closed while it is more than three quarters, in nanoseconds: often enough that whoever
/// begins one great message after the other does not hold up those who end theirs.
const PERIOD_NS: u64 = 2_000_000;

/// What all reactors' connections have under way, in bytes.
#[derive(Debug, Default)]
pub struct Total(AtomicUsize);

/// One reactor's part of it.
#[derive(Debug)]
pub struct Buffered {
    total: Arc<Total>,
    bytes_max: usize,
    /// Of this reactor's connections, and how much of it the total knows of.
    kib: usize,
    told_bytes: usize,
    /// As of the beginning of the turn: there is more than three quarters of what may be.
    is_short: bool,
    /// The walk through all connections that looks for the one with most: where it is, who has most so far, and how
    /// much.
    walk: Option<(u32, u32, u16)>,
    /// When the next one may begin.
    due_ns: u64,
}

impl Buffered {
    /// A reactor without connections.
    pub fn new(total: Arc<Total>, bytes_max: usize) -> Buffered {
        Buffered { total, bytes_max, kib: 0, told_bytes: 0, is_short: false, walk: None, due_ns: 0 }
    }

    /// The bound is this from now on.
    pub fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// What this reactor's connections have, in bytes.
    pub fn bytes(&self) -> usize {
        self.kib << 10
    }

    /// The connection of `share` has so many bytes now.
    pub fn note(&mut self, share: &mut Share, bytes: usize) {
        let kib = if bytes < COUNTED_BYTES { 0 } else { bytes.div_ceil(1 << 10).min(usize::from(u16::MAX)) };
        self.kib = self.kib - usize::from(share.buffered_kib) + kib;
        share.buffered_kib = kib as u16;
    }

    /// A turn begins: learns what all have.
    pub fn begin_turn(&mut self) {
        self.tell();
        self.is_short = self.total.bytes() > self.bytes_max / 4 * 3;
    }

    /// Tells the others what this reactor has.
    pub fn tell(&mut self) {
        let bytes = self.bytes();
        if bytes != self.told_bytes {
            // The order of the others' additions does not matter, and nothing else is published by it.
            self.total.0.fetch_add(bytes.wrapping_sub(self.told_bytes), Ordering::Relaxed);
            self.told_bytes = bytes;
        }
    }

    /// Whether whoever has much is not read from.
    pub fn is_short(&self) -> bool {
        self.is_short
    }

    /// Whether the connection of `share` must wait.
    pub fn holds_up(&self, share: Share) -> bool {
        self.is_short && share.buffered_kib >= MUCH_KIB
    }

    /// Looks at up to `count` connections for the one with most, while there is too much; returns it when all were
    /// looked at: it is to be closed.
    pub fn find_largest(&mut self, shares: &[Share], count: usize, now_ns: u64) -> Option<u32> {
        let is_full = self.total.bytes() > self.bytes_max;
        if self.walk.is_none() {
            if !self.is_short || !(is_full || now_ns >= self.due_ns) {
                return None;
            }
            self.walk = Some((0, 0, 0));
        }
        let (next, mut largest, mut kib) = self.walk?;
        let end = (next as usize + count).min(shares.len());
        for (slot, share) in (next..).zip(&shares[next as usize..end]) {
            if share.buffered_kib > kib {
                (largest, kib) = (slot, share.buffered_kib);
            }
        }
        if end < shares.len() {
            self.walk = Some((end as u32, largest, kib));
            return None;
        }
        (self.walk, self.due_ns) = (None, now_ns + PERIOD_NS);
        // Whoever it was may have let go since, or be gone.
        let kib = kib.min(shares.get(largest as usize)?.buffered_kib);
        (kib >= MUCH_KIB || (is_full && kib > 0)).then_some(largest)
    }

    /// Whether a walk is under way.
    pub fn is_looking(&self) -> bool {
        self.walk.is_some()
    }
}

impl Drop for Buffered {
    fn drop(&mut self) {
        self.total.0.fetch_sub(self.told_bytes, Ordering::Relaxed);
    }
}

impl Total {
    fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1 << 10;

    fn world(bytes_max: usize) -> (Buffered, Buffered) {
        let total = Arc::new(Total::default());
        (Buffered::new(total.clone(), bytes_max), Buffered::new(total, bytes_max))
    }

    #[test]
    fn what_another_reactor_has_counts_too() {
        let (mut one, mut other) = world(100 * KIB);
        let mut share = Share::default();
        one.note(&mut share, 76 * KIB);
        other.begin_turn();
        assert!(!other.is_short(), "it is told once a turn");
        one.begin_turn();
        other.begin_turn();
        assert!(one.is_short() && other.is_short() && one.holds_up(share));
        assert!(!one.holds_up(Share::default()), "whoever has nothing may begin");
        one.note(&mut share, 0);
        one.begin_turn();
        assert!(!one.is_short() && one.bytes() == 0);
        one.note(&mut share, 90 * KIB);
        one.begin_turn();
        drop(one);
        other.begin_turn();
        assert!(!other.is_short(), "a reactor that is gone has nothing");
    }

    #[test]
    fn the_one_with_most_is_found_in_steps() {
        let (mut one, _) = world(100 * KIB);
        let mut shares = vec![Share::default(); 10];
        for (slot, kib) in [(2, 20), (5, 50), (7, 31)] {
            one.note(&mut shares[slot], kib * KIB);
        }
        one.begin_turn();
        let found: Vec<_> = (0..4).map(|_| one.find_largest(&shares, 3, 1)).collect();
        assert_eq!(found, [None, None, None, Some(5)]);
        assert_eq!(one.find_largest(&shares, 10, 1), Some(5), "past all of it at once");
        one.note(&mut shares[5], 40 * KIB);
        one.begin_turn();
        assert_eq!(one.find_largest(&shares, 10, 1), None, "below that now and then");
        assert_eq!(one.find_largest(&shares, 10, 1 + PERIOD_NS), Some(5));
        one.note(&mut shares[5], 0);
        one.begin_turn();
        assert_eq!(one.find_largest(&shares, 10, 9 * PERIOD_NS), None);
    }

    #[test]
    fn nobody_with_little_is_closed() {
        let (mut one, _) = world(8 * KIB);
        let mut share = Share::default();
        one.note(&mut share, COUNTED_BYTES - 1);
        assert_eq!(one.bytes(), 0);
        let mut shares = vec![share; 3];
        for share in &mut shares {
            one.note(share, (usize::from(MUCH_KIB) - 1).max(4) * KIB);
        }
        one.begin_turn();
        let found = one.find_largest(&shares, 10, 1);
        assert!(one.is_short() && (found.is_none() || MUCH_KIB <= 4));
    }
}

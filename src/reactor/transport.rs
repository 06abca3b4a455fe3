//! What stands between a connection's bytes and the ring: plain today.

use crate::pubsub::{
    log::Range,
    subscription::ViewKey,
    view::{Owed, Pin},
};

/// The most sources of one send.
pub const VECTORS_MAX: usize = if cfg!(test) { 4 } else { 64 };

/// The send in flight.
#[derive(Debug)]
pub enum Flight {
    /// None.
    None,
    /// One source, which a view pins: most sends.
    Pinned {
        /// Of which view.
        view: ViewKey,
        /// What it pins.
        pin: Pin,
        /// How many bytes.
        len: u32,
        /// When it last made progress.
        moved: Moment,
    },
    /// Any other, or several.
    Gather(Box<Gather>),
}

/// Bytes of a send, and what keeps them where they are until it completes.
#[derive(Debug)]
pub enum Source {
    /// What a member is owed: its view keeps the segment.
    Pinned {
        /// Of which view.
        view: ViewKey,
        /// What it pins.
        pin: Pin,
    },
    /// A span of a log that no view has, such as what was published before a connection subscribed: the send itself keeps
    /// the chunk.
    Range(Range),
    /// The send's own: replies, events and control frames.
    Bytes(Vec<u8>),
}

// A send may have many.
const _: () = assert!(size_of::<Source>() <= 24);

impl Flight {
    /// The memory that is its own, in bytes.
    pub fn memory(&self) -> usize {
        match self {
            Flight::Gather(gather) => gather.memory(),
            _ => 0,
        }
    }

    /// Whether it keeps log that is stale by `clock`, a reading of the log's age clock; `pins_stale` tells that of a view.
    pub fn is_stale(&self, clock: u64, pins_stale: impl Fn(ViewKey, Pin) -> bool) -> bool {
        match self {
            Flight::None => false,
            Flight::Pinned { view, pin, .. } => pins_stale(*view, *pin),
            Flight::Gather(gather) => gather.sources.iter().any(|source| match source {
                Source::Pinned { view, pin } => pins_stale(*view, *pin),
                Source::Range(range) => range.is_stale(clock),
                Source::Bytes(_) => false,
            }),
        }
    }
}

/// A vectored send. Its vectors point into its sources, so it stays where it is, untouched, until its completion.
#[derive(Debug)]
pub struct Gather {
    /// What the kernel reads.
    header: libc::msghdr,
    /// What `header` points to: the bytes of each source, in order.
    vectors: Vec<libc::iovec>,
    sources: Vec<Source>,
    /// All bytes together.
    len: u32,
    /// When it last made progress, while it is in flight.
    pub moved: Moment,
}

/// A time of at most half an hour ago, in 16 bits that fit beside what a flight has anyway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment(u16);

/// The unit of a [`Moment`], in milliseconds.
const MOMENT_MS: u64 = 50;

impl Moment {
    /// The moment `now_ms`.
    pub fn at(now_ms: u64) -> Moment {
        Moment(now_ms.div_ceil(MOMENT_MS) as u16)
    }

    pub(super) fn elapsed_ms(self, now_ms: u64) -> u64 {
        // It was rounded up, so it may lie a unit ahead.
        let units = ((now_ms / MOMENT_MS) as u16).wrapping_sub(self.0) as i16;
        u64::from(units.max(0) as u16) * MOMENT_MS
    }
}

impl Gather {
    /// An empty one.
    pub fn new() -> Box<Gather> {
        Box::new(Gather {
            // SAFETY: all zeroes is a message without name, vectors and control data.
            header: unsafe { std::mem::zeroed() },
            vectors: Vec::new(),
            sources: Vec::new(),
            len: 0,
            moved: Moment::default(),
        })
    }

    /// Adds what a member is owed, of which `view` keeps the bytes.
    pub fn add_owed(&mut self, view: ViewKey, owed: Owed) {
        self.push(owed.bytes, owed.len, Source::Pinned { view, pin: owed.pin });
    }

    /// Adds a span of a log.
    pub fn add_range(&mut self, range: Range) {
        self.push(range.bytes().as_ptr(), range.len() as u32, Source::Range(range));
    }

    /// Adds bytes.
    pub fn add_bytes(&mut self, bytes: Vec<u8>) {
        self.push(bytes.as_ptr(), bytes.len() as u32, Source::Bytes(bytes));
    }

    /// How many bytes it has.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it has as many sources as may be.
    pub fn is_full(&self) -> bool {
        self.sources.len() >= VECTORS_MAX
    }

    /// Whether any of it is of a log: publications, not only what is said to the connection alone.
    pub fn has_messages(&self) -> bool {
        self.sources.iter().any(|source| !matches!(source, Source::Bytes(_)))
    }

    /// The memory of the bytes that are its own.
    fn memory(&self) -> usize {
        let memory = |source: &Source| if let Source::Bytes(bytes) = source { bytes.capacity() } else { 0 };
        self.sources.iter().map(memory).sum()
    }

    /// Points the header at the vectors: the last step before it is sent.
    pub fn seal(&mut self) -> *const libc::msghdr {
        self.header.msg_iov = self.vectors.as_mut_ptr();
        self.header.msg_iovlen = self.vectors.len() as _;
        &raw const self.header
    }

    /// Empties it for the next send, and gives its sources back, in order.
    pub fn take_sources(&mut self) -> std::vec::Drain<'_, Source> {
        self.vectors.clear();
        self.len = 0;
        self.sources.drain(..)
    }

    fn push(&mut self, bytes: *const u8, len: u32, source: Source) {
        self.vectors.push(libc::iovec { iov_base: bytes as *mut libc::c_void, iov_len: len as usize });
        self.sources.push(source);
        self.len += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        protocol::Encoding,
        pubsub::{
            log::{Appender, Budget, ChunkPool},
            message::Batch,
            policy::Policy,
            view::{MemberSlot, View},
        },
    };

    fn append(appender: &mut Appender, bytes: &[u8]) -> Range {
        appender.append(bytes.len(), |room| room.copy_from_slice(bytes))
    }

    /// What the kernel would read.
    fn read(gather: &mut Gather) -> Vec<u8> {
        // SAFETY: the header names the gather's vectors, and these its sources' bytes, all of which are there.
        unsafe {
            let header = &*gather.seal();
            let vectors = std::slice::from_raw_parts(header.msg_iov, header.msg_iovlen as usize);
            let bytes = |it: &libc::iovec| {
                std::slice::from_raw_parts(it.iov_base.cast_const().cast::<u8>(), it.iov_len)
            };
            vectors.iter().flat_map(|vector| bytes(vector).to_vec()).collect()
        }
    }

    /// A view's member with the record `one` to come, in a topic with a chunk of its own.
    fn view_of_one() -> (View, MemberSlot) {
        let mut pool = ChunkPool::new(Budget::new(1 << 20));
        let (mut view, _) = View::new("t".into(), Encoding::Json, &Policy::skipping(200));
        let member = view.join(0, 0, true);
        // A frame of a text of three bytes.
        let range = append(&mut pool.acquire(100, 0), b"\x81\x03one");
        view.append(Batch { topic: "t".into(), encoding: Encoding::Json, seq: 1, count: 1, range }, 0, 0);
        (view, member)
    }

    #[test]
    fn a_gather_is_its_sources_bytes_in_order_and_gives_each_of_them_back() {
        let mut pool = ChunkPool::new(Budget::new(1 << 20));
        let mut appender = pool.acquire(100, 0);
        let range = append(&mut appender, b"past, ");
        pool.retire(appender);
        let (mut view, member) = view_of_one();
        let mut gather = Gather::new();
        // Emptied, it is as good as new.
        for _ in 0..2 {
            assert!(gather.is_empty() && !gather.has_messages());
            gather.add_bytes(b"reply, ".to_vec());
            assert!(!gather.has_messages(), "a reply is no message");
            gather.add_range(range.clone());
            assert!(gather.has_messages(), "what was published before is one");
            gather.add_bytes(b"event, ".to_vec());
            assert!(!gather.is_full());
            assert_eq!(read(&mut gather), b"reply, past, event, ");
            assert_eq!(gather.len() as usize, b"reply, past, event, ".len());
            let mut sources = gather.take_sources();
            assert!(matches!(sources.next(), Some(Source::Bytes(bytes)) if bytes == b"reply, "));
            assert!(matches!(sources.next(), Some(Source::Range(range)) if range.bytes() == b"past, "));
            assert!(matches!(sources.next(), Some(Source::Bytes(bytes)) if bytes == b"event, "));
            assert!(sources.next().is_none());
        }
        let owed = view.take(member, 100).expect("it is owed one record");
        gather.add_owed(7, owed);
        gather.add_range(range);
        assert_eq!(read(&mut gather), b"\x81\x03onepast, ");
        let pinned = gather.take_sources().next();
        assert!(matches!(pinned, Some(Source::Pinned { view: 7, pin }) if pin == owed.pin));
    }

    /// What was published before somebody subscribed lies in chunks that no view of theirs has.
    #[test]
    fn the_send_keeps_the_chunk_of_a_range_of_its_own() {
        let mut pool = ChunkPool::new(Budget::new(1 << 20));
        let mut appender = pool.acquire(100, 0);
        let mut gather = Gather::new();
        gather.add_range(append(&mut appender, b"past"));
        pool.retire(appender);
        pool.release_free();
        assert_eq!(pool.allocated_bytes(), 100, "the send refers to it");
        assert_eq!(read(&mut gather), b"past");
        drop(gather.take_sources());
        pool.release_free();
        assert_eq!(pool.allocated_bytes(), 0);
    }

    #[test]
    fn whatever_keeps_stale_log_is_found_in_a_flight() {
        let budget = Budget::new(1_000);
        let mut pool = ChunkPool::new(budget.clone());
        let mut appender = pool.acquire(100, 0);
        let range = append(&mut appender, b"past");
        drop(pool.acquire(600, 0));
        let clock = budget.stale_before();
        let is_stale = |flight: &Flight| flight.is_stale(clock, |view, _| view == 7);
        let gather = |add: &dyn Fn(&mut Gather)| {
            let mut gather = Gather::new();
            gather.add_bytes(b"reply".to_vec());
            add(&mut gather);
            Flight::Gather(gather)
        };
        let of_range = gather(&|gather| gather.add_range(range.clone()));
        assert!(!is_stale(&of_range), "its chunk is being written");
        pool.retire(appender);
        assert!(is_stale(&of_range));
        assert!(!of_range.is_stale(range.born_bytes(), |_, _| false), "it is not so old");
        let (mut view, member) = view_of_one();
        let owed = view.take(member, 100).expect("it is owed one record");
        let single = |view| Flight::Pinned { view, pin: owed.pin, len: owed.len, moved: Moment::default() };
        assert!(is_stale(&single(7)) && !is_stale(&single(8)));
        assert!(is_stale(&gather(&|gather| gather.add_owed(7, owed))));
        assert!(!is_stale(&gather(&|gather| gather.add_owed(8, owed))));
        assert!(!is_stale(&gather(&|_| {})) && !is_stale(&Flight::None), "bytes of its own are no log");
        assert!(gather(&|_| {}).memory() >= 5 && of_range.memory() >= 5 && single(7).memory() == 0);
    }

    /// Across the wrap of its 16 bits, too: never more than what has passed, and at most two units less.
    #[test]
    fn a_moment_tells_how_long_ago_it_was() {
        for then_ms in (0..1_000).chain((65_535 * MOMENT_MS - 500)..(65_537 * MOMENT_MS)) {
            for elapsed_ms in [0, 1, 49, 50, 51, 99, 100, 1_000, 60_000, 120_000, 1_600_000] {
                let told_ms = Moment::at(then_ms).elapsed_ms(then_ms + elapsed_ms);
                assert!(
                    told_ms <= elapsed_ms && told_ms + 2 * MOMENT_MS > elapsed_ms,
                    "{elapsed_ms} {told_ms}"
                );
            }
        }
    }
}

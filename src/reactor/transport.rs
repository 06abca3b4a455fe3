//! What stands between sessions and the ring: plain today, the bytes are sent and received as they are.
//!
//! Whoever sends composes sources, and a [`Transport`] has the ring send them; when that is over it tells what became of it, and
//! gives the sources back. What was received it gives as what the session is to take. Nothing else sends, or looks into a
//! lease: records of another transport would be made and opened here.

use super::{connection::Connection, share};
use crate::{
    pubsub::{
        log::Range,
        subscription::ViewKey,
        view::{Owed, Pin},
    },
    uring::{Io, Lease, Op, Token},
};

/// The most sources of one send.
pub const VECTORS_MAX: usize = if cfg!(test) { 4 } else { 64 };

/// How many gathers are kept for the next sends: as many as a turn submits.
const GATHERS_MAX: usize = share::SENDS_MAX;

/// All connections' sends and receives as the ring has them.
///
/// A send is [`Transport::send_owed`], or a [`Gather`] from [`Transport::gather`] which [`Transport::send`] takes, or
/// [`Transport::put_back`] if nothing came into it. It is the connection's [`Flight`] until the completion, of which
/// [`Transport::complete`] makes a [`Sent`].
#[derive(Debug, Default)]
pub struct Transport {
    #[expect(clippy::vec_box, reason = "the kernel holds pointers into a gather, so it must not move")]
    gathers: Vec<Box<Gather>>,
}

/// What became of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// How many bytes it had.
    pub len: u32,
    /// All of them were taken. Else it was shut down or cancelled, and a frame may be cut: nothing more can be said.
    pub is_whole: bool,
    /// Some were of a log: publications.
    pub has_messages: bool,
    /// Some were its own.
    pub has_bytes: bool,
}

/// The send in flight.
#[derive(Debug, Default)]
pub enum Flight {
    /// None.
    #[default]
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

impl Transport {
    /// An empty gather.
    #[inline]
    pub fn gather(&mut self) -> Box<Gather> {
        self.gathers.pop().unwrap_or_else(Gather::new)
    }

    /// A gather that is empty is of use for the next send.
    pub fn put_back(&mut self, gather: Box<Gather>) {
        if self.gathers.len() < GATHERS_MAX {
            self.gathers.push(gather);
        }
    }

    /// Sends what a member of `view` was given just now, and nothing else.
    ///
    /// # Panics
    /// If the connection has a send in flight.
    #[inline]
    pub fn send_owed<I: Io>(
        &mut self,
        slot: u32,
        connection: &mut Connection,
        view: ViewKey,
        owed: Owed,
        moved: Moment,
        io: &mut I,
    ) {
        assert!(!connection.is_sending(), "a connection has one send in flight");
        connection.flight = Flight::Pinned { view, pin: owed.pin, len: owed.len, moved };
        let token = Token::new(Op::Send, slot, connection.generation);
        // SAFETY: the view keeps the range where it is until `unpin`, which comes with the completion.
        unsafe { io.send(connection.socket, owed.bytes, owed.len, token) };
    }

    /// Sends what `gather` has, in its order.
    ///
    /// # Panics
    /// If the connection has a send in flight.
    pub fn send<I: Io>(
        &mut self,
        slot: u32,
        connection: &mut Connection,
        mut gather: Box<Gather>,
        moved: Moment,
        io: &mut I,
    ) {
        assert!(!connection.is_sending(), "a connection has one send in flight");
        gather.moved = moved;
        let message = gather.seal();
        connection.flight = Flight::Gather(gather);
        let token = Token::new(Op::Send, slot, connection.generation);
        // SAFETY: the gather is boxed and not touched while it is the connection's flight, which is until
        // the completion; its sources keep their bytes as long.
        unsafe { io.send_vectored(connection.socket, message, token) };
    }

    /// The send `flight` completed with `result`: whatever that says, `let_go` gets its sources.
    ///
    /// # Panics
    /// If there was none.
    #[inline]
    pub fn complete(&mut self, flight: Flight, result: i32, mut let_go: impl FnMut(Source)) -> Sent {
        match flight {
            Flight::None => unreachable!("a send completes once"),
            Flight::Pinned { view, pin, len, .. } => {
                let_go(Source::Pinned { view, pin });
                Sent { len, is_whole: result == len as i32, has_messages: true, has_bytes: false }
            }
            Flight::Gather(mut gather) => {
                let len = gather.len;
                let (mut has_messages, mut has_bytes) = (false, false);
                for source in gather.take_sources() {
                    match source {
                        Source::Bytes(_) => has_bytes = true,
                        _ => has_messages = true,
                    }
                    let_go(source);
                }
                self.put_back(gather);
                Sent { len, is_whole: result == len as i32, has_messages, has_bytes }
            }
        }
    }

    /// What a receive brought for the session, to be changed in place.
    #[inline]
    pub fn received<'a, I: Io>(&mut self, lease: &Lease, io: &'a mut I) -> &'a mut [u8] {
        io.leased(lease)
    }
}

impl Flight {
    /// Whether there is none.
    #[inline]
    pub fn is_none(&self) -> bool {
        matches!(self, Flight::None)
    }

    /// How many bytes it has.
    pub fn len_bytes(&self) -> u32 {
        match self {
            Flight::None => 0,
            Flight::Pinned { len, .. } => *len,
            Flight::Gather(gather) => gather.len,
        }
    }

    /// For how long it has made no progress, in milliseconds: not more than it is.
    pub fn stalled_ms(&self, now_ms: u64) -> Option<u64> {
        match self {
            Flight::None => None,
            Flight::Pinned { moved, .. } => Some(moved.elapsed_ms(now_ms)),
            Flight::Gather(gather) => Some(gather.moved.elapsed_ms(now_ms)),
        }
    }

    /// It made progress.
    pub fn note_progress(&mut self, now_ms: u64) {
        match self {
            Flight::None => {}
            Flight::Pinned { moved, .. } => *moved = Moment::at(now_ms),
            Flight::Gather(gather) => gather.moved = Moment::at(now_ms),
        }
    }

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
    moved: Moment,
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

    fn elapsed_ms(self, now_ms: u64) -> u64 {
        // It was rounded up, so it may lie a unit ahead.
        let units = ((now_ms / MOMENT_MS) as u16).wrapping_sub(self.0) as i16;
        u64::from(units.max(0) as u16) * MOMENT_MS
    }
}

impl Gather {
    fn new() -> Box<Gather> {
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
    fn seal(&mut self) -> *const libc::msghdr {
        self.header.msg_iov = self.vectors.as_mut_ptr();
        self.header.msg_iovlen = self.vectors.len() as _;
        &raw const self.header
    }

    /// Empties it for the next send, and gives its sources back, in order.
    fn take_sources(&mut self) -> std::vec::Drain<'_, Source> {
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
    use std::os::fd::RawFd;

    use super::*;
    use crate::{
        protocol::Encoding,
        pubsub::{
            log::{Appender, Budget, ChunkPool},
            message::Batch,
            policy::Policy,
            view::{MemberSlot, View},
        },
        uring::{
            Wait,
            sim::{Peer, SimConfig, SimNet, SimRing},
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
            let vectors = std::slice::from_raw_parts(header.msg_iov, header.msg_iovlen as _);
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

    /// A ring that has accepted one connection: its client's end, and its socket.
    fn accepted(config: SimConfig) -> (SimNet, SimRing, Peer, RawFd) {
        let (net, mut rings) = SimNet::new(config);
        let mut ring = rings.remove(0);
        let peer = net.connect(0);
        ring.accept(net.listener(0), Token::new(Op::Accept, 0, 0));
        ring.enter(Wait::Poll).unwrap();
        let socket = ring.reap().expect("a connection waits").result;
        (net, ring, peer, socket)
    }

    /// However a send ends, what it kept comes back, in order, and the next has its memory.
    #[test]
    fn a_send_gives_its_sources_back_whether_it_is_whole_or_cut_short() {
        let mut pool = ChunkPool::new(Budget::new(1 << 20));
        let mut appender = pool.acquire(100, 0);
        let range = append(&mut appender, b"past, ");
        for is_cut in [false, true] {
            let (mut view, member) = view_of_one();
            let (net, mut io, peer, socket) =
                accepted(SimConfig { window_bytes: 9, ..SimConfig::calm(1, 1) });
            let mut transport = Transport::default();
            let mut connection = Connection { socket, generation: 0, ..Connection::free() };
            let mut gather = transport.gather();
            gather.add_bytes(b"reply, ".to_vec());
            gather.add_range(range.clone());
            gather.add_owed(7, view.take(member, 100).expect("it is owed one record"));
            transport.send(5, &mut connection, gather, Moment::at(1_000), &mut io);
            assert_eq!((connection.flight.len_bytes(), connection.flight.stalled_ms(1_500)), (18, Some(500)));
            io.enter(Wait::Poll).unwrap();
            assert!(io.reap().is_none(), "the peer takes half of it");
            connection.flight.note_progress(2_000);
            assert_eq!(connection.flight.stalled_ms(2_100), Some(100));
            let mut read = Vec::new();
            match is_cut {
                true => io.shutdown(socket),
                false => drop(net.read(peer, 100, &mut read)),
            }
            io.enter(Wait::Poll).unwrap();
            let completion = io.reap().expect("it is over");
            assert_eq!(completion.token, Token::new(Op::Send, 5, 0));
            let flight = std::mem::take(&mut connection.flight);
            let mut sources = Vec::new();
            let sent = transport.complete(flight, completion.result, |source| sources.push(source));
            assert_eq!(sent, Sent { len: 18, is_whole: !is_cut, has_messages: true, has_bytes: true });
            assert!(matches!(&sources[0], Source::Bytes(bytes) if bytes == b"reply, "));
            assert!(matches!(&sources[1], Source::Range(range) if range.bytes() == b"past, "));
            let Source::Pinned { view: 7, pin } = sources[2] else { panic!("{sources:?}") };
            view.unpin(pin);
            view.check();
            net.read(peer, 100, &mut read);
            let bytes = b"reply, past, \x81\x03one";
            assert_eq!(read, if is_cut { &bytes[..9] } else { &bytes[..] });
            assert_eq!(transport.gathers.len(), 1, "it is kept for the next");
            assert!(transport.gather().is_empty());
        }
    }

    /// What a send had is told of each kind of source by itself.
    #[test]
    fn a_send_tells_whether_it_had_messages_and_bytes_of_its_own() {
        let mut pool = ChunkPool::new(Budget::new(1 << 20));
        let range = append(&mut pool.acquire(100, 0), b"past");
        let (mut view, member) = view_of_one();
        let owed = view.take(member, 100).expect("it is owed one record");
        let mut transport = Transport::default();
        let mut told = |add: &dyn Fn(&mut Gather)| {
            let mut gather = transport.gather();
            add(&mut gather);
            let len = gather.len() as i32;
            let sent = transport.complete(Flight::Gather(gather), len, drop);
            assert!(sent.is_whole);
            (sent.has_messages, sent.has_bytes)
        };
        assert_eq!(told(&|gather| gather.add_bytes(b"reply".to_vec())), (false, true));
        assert_eq!(told(&|gather| gather.add_range(range.clone())), (true, false));
        assert_eq!(told(&|gather| gather.add_owed(7, owed)), (true, false));
    }

    /// However many are in flight at once, of sends that are over as many are kept as a turn needs.
    #[test]
    fn no_more_gathers_are_kept_than_a_turn_submits() {
        let mut transport = Transport::default();
        let gathers: Vec<_> = (0..2 * GATHERS_MAX).map(|_| transport.gather()).collect();
        gathers.into_iter().for_each(|gather| transport.put_back(gather));
        assert_eq!(transport.gathers.len(), GATHERS_MAX);
    }

    #[test]
    fn a_send_of_one_place_in_a_view_lets_go_of_it_and_of_nothing_else() {
        let (mut view, member) = view_of_one();
        let (net, mut io, peer, socket) = accepted(SimConfig::calm(1, 1));
        let mut transport = Transport::default();
        let mut connection = Connection { socket, generation: 0, ..Connection::free() };
        let owed = view.take(member, 100).expect("it is owed one record");
        transport.send_owed(5, &mut connection, 7, owed, Moment::at(0), &mut io);
        connection.flight.note_progress(1_000);
        assert_eq!((connection.flight.len_bytes(), connection.flight.stalled_ms(1_100)), (5, Some(100)));
        io.enter(Wait::Poll).unwrap();
        let result = io.reap().expect("it is over").result;
        let mut pins = Vec::new();
        let sent =
            transport.complete(std::mem::take(&mut connection.flight), result, |source| pins.push(source));
        assert_eq!(sent, Sent { len: 5, is_whole: true, has_messages: true, has_bytes: false });
        assert!(matches!(pins[..], [Source::Pinned { view: 7, pin }] if pin == owed.pin));
        assert!(!connection.is_sending() && transport.gathers.is_empty(), "it has no memory of its own");
        view.unpin(owed.pin);
        view.check();
        let mut read = Vec::new();
        net.read(peer, 100, &mut read);
        assert_eq!(read, b"\x81\x03one");
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

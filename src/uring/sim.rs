//! [`Io`] in memory: a world of clients and sockets whose every accident follows from a seed.
//!
//! [`SimNet`] is the world: listeners, connections and the clients' ends of them. [`SimRing`] is one
//! reactor's kernel: what [`Io`] promises it does, as late, as little at a time and in as odd an order
//! as the promise allows; and what it may ask of its user it asserts. Nothing here has a clock or a thread:
//! whoever runs the reactors decides when each [`SimRing::run`]s, and what time it is.
//!
//! # What goes wrong in it
//!
//! With [`SimConfig::trouble`], now and then:
//!
//! - an enter takes only part of what is staged, or nothing, and keeps the rest for the next;
//! - it comes back though nothing has completed;
//! - a wake fails and says so, and the other ring sleeps on;
//! - more completes than the queue holds, and a later enter brings the rest;
//! - one receive fills up to 32 buffers in one enter, or a buffer only in part;
//! - whatever could go on does not, and a multishot ends for no reason.
//!
//! # What it asserts of a reactor
//!
//! - The bytes of a send, its vectors and its message are the same at completion as at submission.
//! - A socket has at most one receive and one send in flight, is closed only when it has none, and is not
//!   named after that: descriptors are never used again.
//! - The ops of a socket carry one slot and generation, which no other socket of the ring ever had.
//! - A lease is read only while on loan, recycled exactly once, and before the turn ends.
//! - Our direction is not shut down under a send, and nothing is sent after a send that was cut short: a
//!   frame may be cut.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::RawFd,
    rc::Rc,
    slice,
};

use super::{Completion, Io, Lease, Op, PeerAddress, Token, Wait};

/// When simulated time began, in nanoseconds since the Unix epoch.
pub const EPOCH_NS: u64 = 1_764_000_000_000_000_000;
/// The first descriptor of a socket; below are the listeners, by the index of their reactor.
const FIRST_SOCKET: RawFd = 1_000;
/// How much an enter does, as in the real ring.
const WORK_MAX: usize = 256;
/// How many buffers one receive fills in one enter at most, as in the kernel.
const FILLS_MAX: usize = 32;

/// Numbers that follow from a seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Rng(u64);

/// What a world is like.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// What every accident follows from.
    pub seed: u64,
    /// How many rings there will be, each with a listener.
    pub ring_count: usize,
    /// Receive buffers per ring.
    pub buffer_count: usize,
    /// The size of each, in bytes.
    pub buffer_bytes: usize,
    /// Larger ones, of four times that.
    pub large_buffer_count: usize,
    /// Sockets that may be open at a time; beyond it accepting fails with `EMFILE`.
    pub sockets_max: usize,
    /// How many bytes a new connection takes that its client has not read.
    pub window_bytes: usize,
    /// How many times in 16 something that could happen is put off, and a multishot ends for no reason.
    pub trouble: u64,
}

/// The world, as its clients see it. Cloned, it is the same world.
#[derive(Clone)]
pub struct SimNet {
    net: Rc<RefCell<Net>>,
}

/// A client's end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer(usize);

/// How one direction of a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// More may come.
    Open,
    /// Its end comes after what is there.
    Ended,
    /// The connection is broken.
    Reset,
}

/// One reactor's kernel.
pub struct SimRing {
    net: Rc<RefCell<Net>>,
    index: usize,
    rng: Rng,
    /// The larger ones behind the others.
    buffers: Vec<Buffer>,
    buffer_count: usize,
    staged: Vec<Submission>,
    /// Rings to wake at the head of the next submission, each once.
    wakes: Vec<usize>,
    accept: Option<Accepting>,
    receives: Vec<Receiving>,
    sends: Vec<Sending>,
    /// What is in the queue.
    completions: VecDeque<Completion>,
    /// What did not fit the queue.
    overflow: VecDeque<Completion>,
    /// How much the next enter takes of what is staged; else it is as `trouble` has it.
    takes: Option<usize>,
    /// Which socket has, or had, the slot and generation.
    names: BTreeMap<(u32, u32), RawFd>,
    wait: Wait,
    sends_total: u64,
}

struct Net {
    rng: Rng,
    /// Connections that were not accepted yet, by listener.
    backlogs: Vec<VecDeque<usize>>,
    links: Vec<Link>,
    /// By descriptor, from `FIRST_SOCKET` on.
    sockets: Vec<Socket>,
    open_count: usize,
    sockets_max: usize,
    window_bytes: usize,
    trouble: u64,
    /// Whether ring `index` is to be woken.
    wakes: Vec<bool>,
    /// So many wakes fail, whatever `trouble` says.
    failing_wakes: usize,
    now_ns: u64,
}

/// A connection.
struct Link {
    /// Where the client is.
    address: IpAddr,
    /// From the client, not received yet.
    up: VecDeque<u8>,
    up_end: Stream,
    /// To the client, not read yet: at most `window` bytes.
    down: VecDeque<u8>,
    down_end: Stream,
    /// How many bytes the client has read.
    read_bytes: u64,
    window: usize,
    /// The client has closed its end: what is sent to it falls into the void, or fails.
    is_deserted: bool,
    /// Sends fail, and the broker's receive does not know of it.
    is_cut: bool,
}

/// The broker's end of a connection.
#[derive(Debug)]
struct Socket {
    link: usize,
    name: Option<(u32, u32)>,
    is_open: bool,
    is_receiving: bool,
    is_sending: bool,
    is_read_shut: bool,
    is_write_shut: bool,
    resets_on_close: bool,
    /// A send did not take all of its bytes.
    has_sent_short: bool,
}

struct Buffer {
    bytes: Box<[u8]>,
    place: Place,
}

/// Whose a buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The kernel's, to fill.
    Offered,
    /// Filled, in a completion that was not reaped.
    Filled,
    /// The reactor's.
    OnLoan,
}

enum Submission {
    Wake(usize),
    Accept(Accepting),
    Receive(Receiving),
    Send(Sending),
    Cancel(Token, Token),
}

#[derive(Clone, Copy)]
struct Accepting {
    token: Token,
    is_multishot: bool,
    is_cancelled: bool,
}

struct Receiving {
    socket: RawFd,
    token: Token,
    kind: ReceiveKind,
    is_cancelled: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ReceiveKind {
    Multishot,
    Single,
    /// Single, into a larger buffer.
    Large,
}

struct Sending {
    socket: RawFd,
    token: Token,
    message: Option<*const libc::msghdr>,
    spans: Vec<(*const u8, usize)>,
    /// The bytes as they were when the op was submitted.
    bytes: Vec<u8>,
    taken: usize,
    is_cancelled: bool,
}

impl Rng {
    /// The numbers of `seed`.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next_u64() % bound as u64) as usize
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True `count` times in `of`.
    pub fn chance(&mut self, count: u64, of: u64) -> bool {
        self.next_u64() % of < count
    }

    /// One of `items`.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// Another generator, whose numbers follow from this one's.
    pub fn fork(&mut self) -> Rng {
        Rng(self.next_u64())
    }

    /// Puts `items` into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

impl SimConfig {
    /// A world without trouble: everything happens as soon as it can, with room for everything.
    pub fn calm(seed: u64, ring_count: usize) -> SimConfig {
        SimConfig {
            seed,
            ring_count,
            buffer_count: 16,
            buffer_bytes: 4_096,
            large_buffer_count: 4,
            sockets_max: 1_000,
            window_bytes: 1 << 20,
            trouble: 0,
        }
    }
}

impl SimNet {
    /// A world, and the rings in it, by index.
    pub fn new(config: SimConfig) -> (SimNet, Vec<SimRing>) {
        let mut rng = Rng::new(config.seed);
        let rngs: Vec<Rng> = (0..config.ring_count).map(|_| rng.fork()).collect();
        let net = Rc::new(RefCell::new(Net {
            rng,
            backlogs: vec![VecDeque::new(); config.ring_count],
            links: Vec::new(),
            sockets: Vec::new(),
            open_count: 0,
            sockets_max: config.sockets_max,
            window_bytes: config.window_bytes,
            trouble: config.trouble,
            // Who is no ring may be woken as well.
            wakes: vec![false; config.ring_count + 1],
            failing_wakes: 0,
            now_ns: 0,
        }));
        let buffer = |bytes: usize| Buffer { bytes: vec![0; bytes].into(), place: Place::Offered };
        let buffers = (0..config.buffer_count).map(|_| config.buffer_bytes);
        let buffers = buffers.chain((0..config.large_buffer_count).map(|_| 4 * config.buffer_bytes));
        let rings = rngs.into_iter().enumerate().map(|(index, rng)| SimRing {
            net: net.clone(),
            index,
            rng,
            buffers: buffers.clone().map(buffer).collect(),
            buffer_count: config.buffer_count,
            staged: Vec::new(),
            wakes: Vec::new(),
            accept: None,
            receives: Vec::new(),
            sends: Vec::new(),
            completions: VecDeque::new(),
            overflow: VecDeque::new(),
            takes: None,
            names: BTreeMap::new(),
            wait: Wait::Poll,
            sends_total: 0,
        });
        let rings = rings.collect();
        (SimNet { net }, rings)
    }

    /// The listener of the ring at `index`.
    pub fn listener(&self, index: usize) -> RawFd {
        index as RawFd
    }

    /// What time it is, in nanoseconds: what [`Io::clock_ns`] of all rings tells until it is set again.
    pub fn set_now_ns(&self, now_ns: u64) {
        let before_ns = std::mem::replace(&mut self.net.borrow_mut().now_ns, now_ns);
        assert!(before_ns <= now_ns, "the clock goes back from {before_ns} to {now_ns}");
    }

    /// The next `count` wakes fail.
    pub fn fail_wakes(&self, count: usize) {
        self.net.borrow_mut().failing_wakes = count;
    }

    /// How much goes wrong from now on; see [`SimConfig::trouble`].
    pub fn set_trouble(&self, trouble: u64) {
        self.net.borrow_mut().trouble = trouble;
    }

    /// How many sockets may be open from now on.
    pub fn set_sockets_max(&self, sockets_max: usize) {
        self.net.borrow_mut().sockets_max = sockets_max;
    }

    /// How many sockets the broker has open.
    pub fn open_count(&self) -> usize {
        self.net.borrow().open_count
    }

    /// Connections that wait to be accepted.
    pub fn backlog_len(&self) -> usize {
        self.net.borrow().backlogs.iter().map(VecDeque::len).sum()
    }

    /// Whether ring `index` is to be woken and has not seen it.
    pub fn is_woken(&self, index: usize) -> bool {
        self.net.borrow().wakes[index]
    }

    /// Whether somebody at `index`, who has no ring, was woken since this was last asked.
    pub fn take_wake(&self, index: usize) -> bool {
        std::mem::take(&mut self.net.borrow_mut().wakes[index])
    }

    /// Wakes ring `index`, as the control thread does.
    pub fn wake(&self, index: usize) {
        self.net.borrow_mut().wakes[index] = true;
    }

    /// A client connects; its connection waits at the listener of ring `index`.
    pub fn connect(&self, index: usize) -> Peer {
        let net = &mut *self.net.borrow_mut();
        let link = net.links.len();
        net.links.push(Link {
            address: Ipv4Addr::LOCALHOST.into(),
            up: VecDeque::new(),
            up_end: Stream::Open,
            down: VecDeque::new(),
            down_end: Stream::Open,
            read_bytes: 0,
            window: net.window_bytes,
            is_deserted: false,
            is_cut: false,
        });
        net.backlogs[index].push_back(link);
        Peer(link)
    }

    /// A client that connects from `address`, as [`SimNet::connect`].
    pub fn connect_from(&self, address: IpAddr, index: usize) -> Peer {
        let peer = self.connect(index);
        self.net.borrow_mut().links[peer.0].address = address;
        peer
    }

    /// How many unread bytes the connection takes from now on.
    pub fn set_window(&self, peer: Peer, bytes: usize) {
        self.net.borrow_mut().links[peer.0].window = bytes;
    }

    /// The client sends `bytes`. What the broker has closed swallows them.
    pub fn write(&self, peer: Peer, bytes: &[u8]) {
        let link = &mut self.net.borrow_mut().links[peer.0];
        assert_eq!(link.up_end, Stream::Open, "a client sends after its end");
        link.up.extend(bytes);
    }

    /// How many bytes there are to read.
    pub fn readable(&self, peer: Peer) -> usize {
        self.net.borrow().links[peer.0].down.len()
    }

    /// How many bytes the broker has not received.
    pub fn unreceived(&self, peer: Peer) -> usize {
        self.net.borrow().links[peer.0].up.len()
    }

    /// Reads at most `bytes_max` bytes; and, when there are no more, how the connection stands.
    pub fn read(&self, peer: Peer, bytes_max: usize, into: &mut Vec<u8>) -> Stream {
        let link = &mut self.net.borrow_mut().links[peer.0];
        let len = link.down.len().min(bytes_max);
        into.extend(link.down.drain(..len));
        link.read_bytes += len as u64;
        if link.down.is_empty() { link.down_end } else { Stream::Open }
    }

    /// What is on its way to the client, and what follows, is lost: the send in flight takes no more.
    pub fn cut(&self, peer: Peer) {
        self.net.borrow_mut().links[peer.0].is_cut = true;
    }

    /// The client ends its direction and goes on reading.
    pub fn finish(&self, peer: Peer) {
        self.net.borrow_mut().links[peer.0].up_end = Stream::Ended;
    }

    /// The client closes: what it did not read makes it a reset.
    pub fn close(&self, peer: Peer) {
        let link = &mut self.net.borrow_mut().links[peer.0];
        link.up_end = if link.down.is_empty() { Stream::Ended } else { Stream::Reset };
        link.desert();
    }

    /// The client breaks the connection.
    pub fn reset(&self, peer: Peer) {
        let link = &mut self.net.borrow_mut().links[peer.0];
        link.up_end = Stream::Reset;
        link.up.clear();
        link.desert();
    }
}

impl Link {
    /// The broker sends nothing more.
    fn end_down(&mut self) {
        if self.down_end == Stream::Open {
            self.down_end = Stream::Ended;
        }
    }

    fn desert(&mut self) {
        self.is_deserted = true;
        self.down.clear();
    }
}

impl Net {
    fn socket(&mut self, socket: RawFd) -> &mut Socket {
        let found = self.sockets.get_mut((socket - FIRST_SOCKET) as usize);
        let found = found.unwrap_or_else(|| panic!("descriptor {socket} was never opened"));
        assert!(found.is_open, "descriptor {socket} is named after it was closed");
        found
    }

    fn link_of(&mut self, socket: RawFd) -> &mut Link {
        let link = self.socket(socket).link;
        &mut self.links[link]
    }
}

impl SimRing {
    /// How the last enter waited.
    pub fn waited(&self) -> Wait {
        self.wait
    }

    /// The next enter takes at most `count` of what is staged.
    pub fn take_only(&mut self, count: usize) {
        self.takes = Some(count);
    }

    /// Whether a wake of ring `index` is on its way: to be submitted, or to be told that it failed.
    pub fn owes_wake(&self, index: usize) -> bool {
        let is_failure = |it: &Completion| it.token == Token::new(Op::WakeSent, index as u32, 0);
        self.wakes.contains(&index) || self.completions.iter().chain(&self.overflow).any(is_failure)
    }

    /// Sends submitted so far.
    pub fn sends_total(&self) -> u64 {
        self.sends_total
    }

    /// Whether the kernel could complete something now, or has.
    pub fn is_ready(&self) -> bool {
        let net = &mut *self.net.borrow_mut();
        !self.completions.is_empty()
            || !self.overflow.is_empty()
            || net.wakes[self.index]
            || self
                .accept
                .as_ref()
                .is_some_and(|accept| accept.is_cancelled || !net.backlogs[self.index].is_empty())
            || self.receives.iter().any(|receive| {
                let is_shut = net.socket(receive.socket).is_read_shut;
                let link = net.link_of(receive.socket);
                receive.is_cancelled || is_shut || !link.up.is_empty() || link.up_end != Stream::Open
            })
            || self.sends.iter().any(|send| {
                let is_shut = net.socket(send.socket).is_write_shut;
                let link = net.link_of(send.socket);
                send.is_cancelled
                    || is_shut
                    || link.is_cut
                    || link.is_deserted
                    || link.down.len() < link.window
            })
    }

    /// Whether nothing of the ring is in flight but its accept.
    pub fn is_idle(&self) -> bool {
        self.receives.is_empty()
            && self.sends.is_empty()
            && self.is_all_submitted()
            && self.completions.is_empty()
            && self.overflow.is_empty()
    }

    /// Whether every buffer is the kernel's to fill.
    pub fn has_all_buffers(&self) -> bool {
        self.buffers.iter().all(|buffer| buffer.place == Place::Offered)
    }

    /// What the kernel does while the reactor sleeps in its enter.
    pub fn run(&mut self) {
        let trouble = self.net.borrow().trouble;
        if std::mem::take(&mut self.net.borrow_mut().wakes[self.index]) {
            self.complete(Token::new(Op::Wake, 0, 0), 0, false, None);
        }
        let mut items: Vec<Token> = Vec::new();
        items.extend(self.accept.iter().map(|accept| accept.token));
        items.extend(self.receives.iter().map(|receive| receive.token));
        items.extend(self.sends.iter().map(|send| send.token));
        self.rng.shuffle(&mut items);
        for token in items.into_iter().take(WORK_MAX) {
            if self.rng.chance(trouble, 16) {
                continue;
            }
            match token.op() {
                Op::Accept => self.run_accept(),
                Op::Receive | Op::ReceiveLarge => self.run_receive(token),
                _ => self.run_send(token),
            }
        }
        self.bring();
    }

    fn complete(&mut self, token: Token, result: i32, more: bool, lease: Option<Lease>) {
        self.overflow.push_back(Completion { token, result, more, lease });
    }

    /// Fills the completion queue, in order.
    fn bring(&mut self) {
        let is_small = self.rng.chance(self.net.borrow().trouble, 32);
        let capacity = if is_small { self.rng.between(1, 4) } else { usize::MAX };
        while self.completions.len() < capacity
            && let Some(completion) = self.overflow.pop_front()
        {
            self.completions.push_back(completion);
        }
    }

    fn run_accept(&mut self) {
        loop {
            let Some(Accepting { token, is_multishot, is_cancelled }) = self.accept else { return };
            if is_cancelled {
                self.accept = None;
                return self.complete(token, -libc::ECANCELED, false, None);
            }
            let net = &mut *self.net.borrow_mut();
            if net.backlogs[self.index].is_empty() {
                return;
            }
            if net.open_count >= net.sockets_max {
                self.accept = None;
                let result = -libc::EMFILE;
                self.overflow.push_back(Completion { token, result, more: false, lease: None });
                return;
            }
            let link = net.backlogs[self.index].pop_front().expect("it was just seen");
            let socket = FIRST_SOCKET + net.sockets.len() as RawFd;
            net.open_count += 1;
            net.sockets.push(Socket {
                link,
                name: None,
                is_open: true,
                is_receiving: false,
                is_sending: false,
                is_read_shut: false,
                is_write_shut: false,
                resets_on_close: false,
                has_sent_short: false,
            });
            let more = is_multishot && !self.rng.chance(net.trouble, 64);
            self.overflow.push_back(Completion { token, result: socket, more, lease: None });
            if !more {
                self.accept = None;
            }
        }
    }

    fn run_receive(&mut self, token: Token) {
        let place = self.receives.iter().position(|receive| receive.token == token);
        let place = place.expect("a receive in flight is listed");
        let Receiving { socket, kind, is_cancelled, .. } = self.receives[place];
        let is_multishot = kind == ReceiveKind::Multishot;
        let buffers = match kind {
            ReceiveKind::Large => self.buffer_count..self.buffers.len(),
            _ => 0..self.buffer_count,
        };
        let trouble = self.net.borrow().trouble;
        // What arrived before a cancellation may still come, with the op's last completion or before it.
        let mut rounds = match is_cancelled {
            true => self.rng.below(2),
            false if self.rng.chance(trouble, 32) => FILLS_MAX,
            false => self.rng.between(1, 3),
        };
        let net = self.net.clone();
        let end = loop {
            let net = &mut *net.borrow_mut();
            let is_shut = net.socket(socket).is_read_shut;
            let link = net.link_of(socket);
            if link.up_end == Stream::Reset {
                link.up.clear();
                break -libc::ECONNRESET;
            }
            if is_shut && self.rng.chance(1, 2) {
                break 0;
            }
            let lacks_buffer =
                self.buffers[buffers.clone()].iter().all(|buffer| buffer.place != Place::Offered);
            if !is_multishot && !is_cancelled && lacks_buffer && self.rng.chance(1, 2) {
                break -libc::ENOBUFS;
            }
            if link.up.is_empty() {
                if link.up_end == Stream::Ended || is_shut {
                    break 0;
                }
                if is_cancelled {
                    break -libc::ECANCELED;
                }
                return;
            }
            if rounds == 0 {
                if is_cancelled {
                    break -libc::ECANCELED;
                }
                return;
            }
            rounds -= 1;
            let Some(id) = buffers.clone().find(|&id| self.buffers[id].place == Place::Offered) else {
                break -libc::ENOBUFS;
            };
            let most = link.up.len().min(self.buffers[id].bytes.len());
            let len = if self.rng.chance(net.trouble, 16) { self.rng.between(1, most) } else { most };
            let link = net.link_of(socket);
            let buffer = &mut self.buffers[id];
            buffer.place = Place::Filled;
            for (byte, received) in buffer.bytes.iter_mut().zip(link.up.drain(..len)) {
                *byte = received;
            }
            let ends_early = (is_cancelled && self.rng.chance(1, 2)) || self.rng.chance(net.trouble, 64);
            let is_last = !is_multishot || ends_early;
            let lease = Some(Lease { id: id as u16, len: len as u32 });
            self.overflow.push_back(Completion { token, result: len as i32, more: !is_last, lease });
            if is_last {
                net.socket(socket).is_receiving = false;
                self.receives.remove(place);
                return;
            }
        };
        net.borrow_mut().socket(socket).is_receiving = false;
        self.receives.remove(place);
        self.complete(token, end, false, None);
    }

    fn run_send(&mut self, token: Token) {
        let place = self.sends.iter().position(|send| send.token == token);
        let place = place.expect("a send in flight is listed");
        let net = self.net.clone();
        let net = &mut *net.borrow_mut();
        let send = &mut self.sends[place];
        let is_shut = net.socket(send.socket).is_write_shut;
        let trouble = net.trouble;
        let link = net.link_of(send.socket);
        let left = send.bytes.len() - send.taken;
        let is_over = if link.is_deserted {
            // What goes to a client that is gone is lost, until its reset has come.
            if self.rng.chance(1, 2) {
                send.taken = send.bytes.len();
            }
            true
        } else if is_shut || send.is_cancelled || link.is_cut {
            true
        } else {
            let room = link.window.saturating_sub(link.down.len()).min(left);
            let len = if room > 0 && self.rng.chance(trouble, 16) { self.rng.between(1, room) } else { room };
            link.down.extend(&send.bytes[send.taken..send.taken + len]);
            send.taken += len;
            send.taken == send.bytes.len()
        };
        if !is_over {
            return;
        }
        let result = match send.taken {
            0 if send.is_cancelled => -libc::ECANCELED,
            0 if is_shut => -libc::EPIPE,
            0 => -libc::ECONNRESET,
            taken => taken as i32,
        };
        let socket = send.socket;
        // SAFETY: by the contract of `send` and `send_vectored` the memory is there until we complete.
        unsafe { send.check() };
        let end = net.socket(socket);
        end.is_sending = false;
        end.has_sent_short = result != send.bytes.len() as i32;
        self.sends.remove(place);
        self.complete(token, result, false, None);
    }

    /// Takes wakes, then what is staged, in order: all of it, or as `trouble` has it; tells whether all.
    fn submit(&mut self) -> bool {
        let trouble = self.net.borrow().trouble;
        let mut queue: VecDeque<Submission> = self.wakes.drain(..).map(Submission::Wake).collect();
        queue.extend(self.staged.drain(..));
        let takes = match self.takes.take() {
            Some(takes) => takes,
            None if self.rng.chance(trouble, 32) => self.rng.below(queue.len() + 1),
            None => usize::MAX,
        };
        let mut are_wakes_over = false;
        for _ in 0..takes.min(queue.len()) {
            let submission = queue.pop_front().expect("the loop counts what is there");
            let is_wake = matches!(submission, Submission::Wake(_));
            assert!(!(is_wake && are_wakes_over), "wakes come before everything else");
            are_wakes_over |= !is_wake;
            self.take(submission);
        }
        for left in queue {
            match left {
                Submission::Wake(index) => self.wakes.push(index),
                other => self.staged.push(other),
            }
        }
        self.is_all_submitted()
    }

    fn take(&mut self, submission: Submission) {
        match submission {
            Submission::Wake(index) => self.wake_now(index),
            Submission::Accept(accepting) => {
                assert!(self.accept.is_none(), "a listener has one accept in flight");
                self.accept = Some(accepting);
            }
            Submission::Receive(receiving) => self.receives.push(receiving),
            Submission::Send(send) => {
                // SAFETY: as in `run_send`.
                unsafe { send.check() };
                self.sends.push(send);
            }
            Submission::Cancel(target, token) => self.cancel_now(target, token),
        }
    }

    fn wake_now(&mut self, index: usize) {
        let net = &mut *self.net.borrow_mut();
        let is_chosen = net.failing_wakes > 0;
        net.failing_wakes -= usize::from(is_chosen);
        if is_chosen || self.rng.chance(net.trouble, 32) {
            let token = Token::new(Op::WakeSent, index as u32, 0);
            self.overflow.push_back(Completion { token, result: -libc::EAGAIN, more: false, lease: None });
        } else {
            net.wakes[index] = true;
        }
    }

    fn cancel_now(&mut self, target: Token, token: Token) {
        let accepts = self.accept.iter_mut().map(|accept| (accept.token, &mut accept.is_cancelled));
        let receives = self.receives.iter_mut().map(|receive| (receive.token, &mut receive.is_cancelled));
        let sends = self.sends.iter_mut().map(|send| (send.token, &mut send.is_cancelled));
        let found = accepts.chain(receives).chain(sends).find(|(token, _)| *token == target);
        let result = match found {
            Some((_, is_cancelled)) => {
                *is_cancelled = true;
                0
            }
            None => -libc::ENOENT,
        };
        self.complete(token, result, false, None);
    }

    /// The socket's ops carry one name, which is no other's.
    fn name(&mut self, socket: RawFd, token: Token) {
        let name = (token.slot(), token.generation());
        let known = self.net.borrow_mut().socket(socket).name.replace(name);
        assert!(known.is_none_or(|known| known == name), "{token:?} is not of descriptor {socket}");
        let holder = *self.names.entry(name).or_insert(socket);
        assert_eq!(holder, socket, "{token:?} was descriptor {holder}'s name");
    }

    fn stage_accept(&mut self, listener: RawFd, accepting: Accepting) {
        assert_eq!((listener, accepting.token.op()), (self.index as RawFd, Op::Accept));
        let is_staged = self.staged.iter().any(|staged| matches!(staged, Submission::Accept(_)));
        assert!(self.accept.is_none() && !is_staged, "a listener has one accept in flight");
        self.staged.push(Submission::Accept(accepting));
    }

    fn stage_receive(&mut self, socket: RawFd, token: Token, kind: ReceiveKind) {
        assert_eq!(token.op() == Op::ReceiveLarge, kind == ReceiveKind::Large, "a large receive says so");
        self.name(socket, token);
        let net = &mut *self.net.borrow_mut();
        let end = net.socket(socket);
        assert!(!end.is_receiving, "descriptor {socket} has one receive in flight");
        end.is_receiving = true;
        self.staged.push(Submission::Receive(Receiving { socket, token, kind, is_cancelled: false }));
    }

    fn stage_send(
        &mut self,
        socket: RawFd,
        token: Token,
        message: Option<*const libc::msghdr>,
        spans: Vec<(*const u8, usize)>,
    ) {
        assert_eq!(token.op(), Op::Send);
        self.name(socket, token);
        let net = &mut *self.net.borrow_mut();
        let end = net.socket(socket);
        assert!(!end.is_sending, "descriptor {socket} has one send in flight");
        assert!(!end.has_sent_short, "descriptor {socket} sends after a send that was cut short");
        end.is_sending = true;
        let mut bytes = Vec::new();
        for &(start, len) in &spans {
            assert!(len > 0, "a vector of a send holds something");
            // SAFETY: by the contract of `send` and `send_vectored` the memory is there.
            bytes.extend_from_slice(unsafe { slice::from_raw_parts(start, len) });
        }
        assert!(!bytes.is_empty(), "a send sends something");
        self.sends_total += 1;
        self.staged.push(Submission::Send(Sending {
            socket,
            token,
            message,
            spans,
            bytes,
            taken: 0,
            is_cancelled: false,
        }));
    }
}

impl Sending {
    /// Asserts that nobody touched what is being sent.
    ///
    /// # Safety
    /// The message, its vectors and the bytes are allocated.
    unsafe fn check(&self) {
        if let Some(message) = self.message {
            // SAFETY: by the contract.
            let spans = unsafe { spans_of(message) };
            assert_eq!(spans, self.spans, "{:?}: the vectors changed while in flight", self.token);
        }
        let mut at = 0;
        for &(start, len) in &self.spans {
            // SAFETY: by the contract.
            let now = unsafe { slice::from_raw_parts(start, len) };
            assert!(now == &self.bytes[at..at + len], "{:?}: bytes changed while in flight", self.token);
            at += len;
        }
    }
}

/// # Safety
/// The message and its vectors are allocated.
unsafe fn spans_of(message: *const libc::msghdr) -> Vec<(*const u8, usize)> {
    // SAFETY: by the contract.
    let vectors = unsafe { slice::from_raw_parts((*message).msg_iov, (*message).msg_iovlen) };
    vectors.iter().map(|vector| (vector.iov_base as *const u8, vector.iov_len)).collect()
}

impl Io for SimRing {
    fn accept_multishot(&mut self, listener: RawFd, token: Token) {
        self.stage_accept(listener, Accepting { token, is_multishot: true, is_cancelled: false });
    }

    fn accept(&mut self, listener: RawFd, token: Token) {
        self.stage_accept(listener, Accepting { token, is_multishot: false, is_cancelled: false });
    }

    fn receive_multishot(&mut self, socket: RawFd, token: Token) {
        self.stage_receive(socket, token, ReceiveKind::Multishot);
    }

    fn receive(&mut self, socket: RawFd, token: Token) {
        self.stage_receive(socket, token, ReceiveKind::Single);
    }

    fn receive_large(&mut self, socket: RawFd, token: Token) {
        self.stage_receive(socket, token, ReceiveKind::Large);
    }

    unsafe fn send(&mut self, socket: RawFd, bytes: *const u8, len: u32, token: Token) {
        self.stage_send(socket, token, None, vec![(bytes, len as usize)]);
    }

    unsafe fn send_vectored(&mut self, socket: RawFd, message: *const libc::msghdr, token: Token) {
        // SAFETY: the caller's contract.
        let spans = unsafe { spans_of(message) };
        self.stage_send(socket, token, Some(message), spans);
    }

    fn cancel(&mut self, target: Token, token: Token) {
        assert_eq!(token.op(), Op::Cancel);
        self.staged.push(Submission::Cancel(target, token));
    }

    fn wake(&mut self, index: usize) {
        assert_ne!(index, self.index, "a reactor does not wake itself");
        if !self.wakes.contains(&index) {
            self.wakes.push(index);
        }
    }

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let kept = self.buffers.iter().position(|buffer| buffer.place == Place::OnLoan);
        assert_eq!(kept, None, "a lease is recycled before its turn ends");
        let trouble = self.net.borrow().trouble;
        let is_all_taken = self.submit();
        // The kernel does not wait when it has not taken everything, and need not look at what has come.
        let comes_back = !is_all_taken || self.rng.chance(trouble, 64);
        self.wait = if comes_back { Wait::Poll } else { wait };
        if is_all_taken || self.rng.chance(1, 2) {
            self.run();
        }
        Ok(())
    }

    fn is_all_submitted(&self) -> bool {
        self.staged.is_empty() && self.wakes.is_empty()
    }

    fn reap(&mut self) -> Option<Completion> {
        let completion = self.completions.pop_front()?;
        if let Some(lease) = &completion.lease {
            let place = &mut self.buffers[usize::from(lease.id)].place;
            assert_eq!(*place, Place::Filled);
            *place = Place::OnLoan;
        }
        Some(completion)
    }

    fn leased(&mut self, lease: &Lease) -> &mut [u8] {
        let buffer = &mut self.buffers[usize::from(lease.id)];
        assert_eq!(buffer.place, Place::OnLoan, "buffer {} is read but not on loan", lease.id);
        &mut buffer.bytes[..lease.len as usize]
    }

    fn recycle(&mut self, lease: Lease) {
        let buffer = &mut self.buffers[usize::from(lease.id)];
        assert_eq!(buffer.place, Place::OnLoan, "buffer {} is recycled but not on loan", lease.id);
        buffer.place = Place::Offered;
        // Whoever still looks at it sees nonsense.
        buffer.bytes.fill(0xee);
    }

    fn free_buffers(&self) -> usize {
        self.buffers[..self.buffer_count].iter().filter(|buffer| buffer.place == Place::Offered).count()
    }

    fn shutdown(&mut self, socket: RawFd) {
        let net = &mut *self.net.borrow_mut();
        let end = net.socket(socket);
        (end.is_read_shut, end.is_write_shut) = (true, true);
        net.link_of(socket).end_down();
    }

    fn shutdown_write(&mut self, socket: RawFd) {
        let net = &mut *self.net.borrow_mut();
        let end = net.socket(socket);
        assert!(!end.is_sending, "our direction is shut down under a send");
        end.is_write_shut = true;
        net.link_of(socket).end_down();
    }

    fn reset_on_close(&mut self, socket: RawFd) {
        self.net.borrow_mut().socket(socket).resets_on_close = true;
    }

    fn close(&mut self, socket: RawFd) {
        if socket == self.index as RawFd {
            assert!(self.accept.is_none(), "a listener is closed under an accept");
            // Whoever waits in its queue is reset.
            let net = &mut *self.net.borrow_mut();
            for link in std::mem::take(&mut net.backlogs[self.index]) {
                net.links[link].down_end = Stream::Reset;
            }
            return;
        }
        let net = &mut *self.net.borrow_mut();
        let end = net.socket(socket);
        assert!(!end.is_receiving, "descriptor {socket} is closed under a receive");
        assert!(!end.is_sending, "descriptor {socket} is closed under a send");
        end.is_open = false;
        let (link, resets) = (end.link, end.resets_on_close);
        net.open_count -= 1;
        let link = &mut net.links[link];
        // What nobody received makes a close a reset, and so may what was sent be lost.
        if resets || !link.up.is_empty() {
            link.down_end = Stream::Reset;
            let kept = net.rng.below(link.down.len() + 1);
            link.down.truncate(kept);
        } else {
            link.end_down();
        }
    }

    fn acked_bytes(&mut self, socket: RawFd) -> u64 {
        self.net.borrow_mut().link_of(socket).read_bytes
    }

    fn peer_address(&mut self, socket: RawFd) -> Option<PeerAddress> {
        let mut net = self.net.borrow_mut();
        let link = net.socket(socket).link;
        Some(PeerAddress::Ip(SocketAddr::new(net.links[link].address, link as u16)))
    }

    fn clock_ns(&mut self) -> u64 {
        self.net.borrow().now_ns
    }

    fn wall_ns(&mut self) -> u64 {
        EPOCH_NS + self.net.borrow().now_ns
    }

    fn busy_share(&mut self, _elapsed_ns: u64) -> f64 {
        self.rng.below(101) as f64 / 100.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept() -> Token {
        Token::new(Op::Accept, 0, 0)
    }

    fn receive() -> Token {
        Token::new(Op::Receive, 3, 1)
    }

    fn send() -> Token {
        Token::new(Op::Send, 3, 1)
    }

    /// A ring that has accepted one connection: its client's end, and its socket.
    fn accepted(config: SimConfig) -> (SimNet, SimRing, Peer, RawFd) {
        let (net, mut rings) = SimNet::new(config);
        let mut ring = rings.remove(0);
        let peer = net.connect(0);
        ring.accept_multishot(net.listener(0), accept());
        ring.enter(Wait::Poll).unwrap();
        let completion = ring.reap().expect("a connection waits");
        assert_eq!((completion.token, completion.more), (accept(), true));
        (net, ring, peer, completion.result)
    }

    fn reap(ring: &mut SimRing) -> (Token, i32, bool) {
        ring.enter(Wait::Poll).unwrap();
        let completion = ring.reap().expect("something has completed");
        completion.lease.into_iter().for_each(|lease| ring.recycle(lease));
        (completion.token, completion.result, completion.more)
    }

    /// The client writes more than one buffer holds, and then ends its direction.
    #[test]
    fn a_receive_brings_every_byte_and_then_the_end() {
        let config = SimConfig { buffer_bytes: 4, buffer_count: 2, ..SimConfig::calm(1, 1) };
        let (net, mut ring, peer, socket) = accepted(config);
        ring.receive_multishot(socket, receive());
        net.write(peer, b"over four");
        net.finish(peer);
        let mut received = Vec::new();
        loop {
            ring.enter(Wait::Poll).unwrap();
            let Some(completion) = ring.reap() else { continue };
            match completion.lease {
                Some(lease) => {
                    received.extend_from_slice(ring.leased(&lease));
                    ring.recycle(lease);
                }
                None if completion.result == -libc::ENOBUFS => ring.receive_multishot(socket, receive()),
                None => break assert_eq!((completion.result, completion.more), (0, false)),
            }
        }
        assert_eq!(received, b"over four");
        assert!(ring.is_idle() && ring.has_all_buffers());
    }

    /// Two buffers of four bytes: each receive brings one of them, and nothing more.
    #[test]
    fn a_single_receive_brings_one_buffer() {
        let config = SimConfig { buffer_bytes: 4, buffer_count: 2, ..SimConfig::calm(1, 1) };
        let (net, mut ring, peer, socket) = accepted(config);
        net.write(peer, b"over four");
        net.finish(peer);
        for len in [4, 4, 1, 0] {
            ring.receive(socket, receive());
            assert_eq!(reap(&mut ring), (receive(), len, false));
            ring.enter(Wait::Poll).unwrap();
            assert!(ring.reap().is_none());
        }
        assert!(ring.is_idle() && ring.has_all_buffers());
    }

    /// The enter takes one entry: that is the wake, though the send was staged before it. The next takes one of
    /// what is left and of another wake.
    #[test]
    fn a_wake_is_first_in_what_is_submitted() {
        let (net, mut rings) = SimNet::new(SimConfig::calm(1, 3));
        let mut ring = rings.remove(0);
        let peer = net.connect(0);
        ring.accept(net.listener(0), accept());
        ring.enter(Wait::Poll).unwrap();
        let socket = ring.reap().expect("a connection waits").result;
        // SAFETY: the bytes are static.
        unsafe { ring.send(socket, b"five!".as_ptr(), 5, send()) };
        for other in [1, 2] {
            ring.wake(other);
            ring.take_only(1);
            ring.enter(Wait::Sleep { timeout_ns: 1 }).unwrap();
            assert_eq!((net.is_woken(other), net.readable(peer), ring.waited()), (true, 0, Wait::Poll));
        }
        assert!(!ring.is_all_submitted());
        assert_eq!(reap(&mut ring), (send(), 5, false));
        assert!(ring.is_all_submitted());
    }

    #[test]
    fn a_wake_that_was_not_taken_is_kept() {
        let (net, mut rings) = SimNet::new(SimConfig::calm(1, 3));
        let mut ring = rings.remove(0);
        ring.wake(1);
        ring.wake(2);
        ring.take_only(1);
        ring.enter(Wait::Sleep { timeout_ns: 1 }).unwrap();
        assert_eq!((net.is_woken(1), net.is_woken(2), ring.waited()), (true, false, Wait::Poll));
        assert!(!ring.is_all_submitted() && ring.owes_wake(2));
        ring.enter(Wait::Poll).unwrap();
        assert!(net.is_woken(2) && ring.is_all_submitted());
    }

    #[test]
    fn a_wake_that_fails_wakes_nobody_and_says_so() {
        let (net, mut rings) = SimNet::new(SimConfig::calm(1, 2));
        net.fail_wakes(1);
        rings[0].wake(1);
        assert!(rings[0].owes_wake(1));
        assert_eq!(reap(&mut rings[0]), (Token::new(Op::WakeSent, 1, 0), -libc::EAGAIN, false));
        assert!(!net.is_woken(1) && !rings[0].owes_wake(1));
        rings[0].wake(1);
        rings[0].enter(Wait::Poll).unwrap();
        assert!(net.is_woken(1));
    }

    /// Whatever goes wrong, every send comes through once and in its socket's order, and every wake comes
    /// or says that it failed.
    #[test]
    fn trouble_puts_off_and_loses_nothing() {
        for seed in 0..50 {
            let (net, mut rings) = SimNet::new(SimConfig { trouble: 8, ..SimConfig::calm(seed, 2) });
            let mut ring = rings.remove(0);
            let peers: Vec<Peer> = (0..8).map(|_| net.connect(0)).collect();
            let (mut sockets, mut sent, mut is_accepting) = (Vec::new(), [0u8; 8], false);
            let mut is_sending = [false; 8];
            let mut wakes_owed = 0;
            for _ in 0..600 {
                if !is_accepting && sockets.len() < 8 {
                    ring.accept(net.listener(0), accept());
                    is_accepting = true;
                }
                if sockets.len() == 8 && wakes_owed == 0 {
                    ring.wake(1);
                    wakes_owed = 1;
                }
                ring.enter(Wait::Poll).unwrap();
                if wakes_owed == 1 && std::mem::take(&mut net.net.borrow_mut().wakes[1]) {
                    wakes_owed = 2;
                }
                while let Some(completion) = ring.reap() {
                    match completion.token.op() {
                        Op::Accept => {
                            is_accepting = false;
                            sockets.push(completion.result);
                        }
                        Op::WakeSent => {
                            assert_eq!(wakes_owed, 1, "it failed or it came");
                            wakes_owed = 0;
                        }
                        _ => {
                            sent[completion.token.slot() as usize] += 1;
                            is_sending[completion.token.slot() as usize] = false;
                        }
                    }
                }
                for (slot, &socket) in sockets.iter().enumerate() {
                    if !is_sending[slot] && sent[slot] < 3 {
                        is_sending[slot] = true;
                        let token = Token::new(Op::Send, slot as u32, 0);
                        // SAFETY: the bytes are static.
                        unsafe { ring.send(socket, &b"abc"[usize::from(sent[slot])], 1, token) };
                    }
                }
            }
            assert_eq!((sent, wakes_owed), ([3; 8], 2), "seed {seed}");
            for peer in peers {
                let mut read = Vec::new();
                net.read(peer, 10, &mut read);
                assert_eq!(read, b"abc", "seed {seed}");
            }
        }
    }

    /// A window of three bytes, and a send of five.
    #[test]
    fn a_send_completes_when_all_of_it_is_taken() {
        let config = SimConfig { window_bytes: 3, ..SimConfig::calm(1, 1) };
        let (net, mut ring, peer, socket) = accepted(config);
        // SAFETY: the bytes are static.
        unsafe { ring.send(socket, b"five!".as_ptr(), 5, send()) };
        ring.enter(Wait::Poll).unwrap();
        assert!(ring.reap().is_none());
        let mut read = Vec::new();
        assert_eq!(net.read(peer, 10, &mut read), Stream::Open);
        assert_eq!(reap(&mut ring), (send(), 5, false));
        net.read(peer, 10, &mut read);
        assert_eq!(read, b"five!");
    }

    #[test]
    fn a_send_that_is_shut_down_says_how_much_was_taken() {
        let config = SimConfig { window_bytes: 3, ..SimConfig::calm(1, 1) };
        let (net, mut ring, peer, socket) = accepted(config);
        // SAFETY: the bytes are static.
        unsafe { ring.send(socket, b"five!".as_ptr(), 5, send()) };
        ring.enter(Wait::Poll).unwrap();
        ring.shutdown(socket);
        assert_eq!(reap(&mut ring), (send(), 3, false));
        ring.close(socket);
        let mut read = Vec::new();
        assert_eq!(net.read(peer, 10, &mut read), Stream::Ended);
        assert_eq!((read.as_slice(), net.open_count()), (b"fiv".as_slice(), 0));
    }

    #[test]
    fn a_cancelled_receive_may_bring_bytes_before_it_ends() {
        let brings = (0..20).filter(|seed| {
            let (net, mut ring, peer, socket) = accepted(SimConfig::calm(*seed, 1));
            ring.receive_multishot(socket, receive());
            ring.enter(Wait::Poll).unwrap();
            net.write(peer, b"late");
            ring.cancel(receive(), Token::new(Op::Cancel, 3, 1));
            assert_eq!(reap(&mut ring), (Token::new(Op::Cancel, 3, 1), 0, false));
            let mut brought = 0;
            loop {
                let (_, result, more) = reap(&mut ring);
                brought += result.max(0);
                if !more {
                    break brought > 0;
                }
            }
        });
        assert!((1..20).contains(&brings.count()), "some do and some do not");
    }

    #[test]
    fn a_connection_waits_while_there_is_no_descriptor() {
        let (net, mut ring, _, socket) = accepted(SimConfig { sockets_max: 1, ..SimConfig::calm(1, 1) });
        net.connect(0);
        assert_eq!(reap(&mut ring), (accept(), -libc::EMFILE, false));
        ring.close(socket);
        ring.accept_multishot(net.listener(0), accept());
        assert_eq!(reap(&mut ring), (accept(), socket + 1, true));
    }

    #[test]
    #[should_panic(expected = "bytes changed while in flight")]
    fn bytes_that_change_in_flight_are_caught() {
        let (_, mut ring, _, socket) = accepted(SimConfig::calm(1, 1));
        let mut bytes = *b"abc";
        // SAFETY: the bytes stay allocated; that they are written is what is to be caught.
        unsafe { ring.send(socket, bytes.as_ptr(), 3, send()) };
        bytes[1] = b'x';
        std::hint::black_box(&mut bytes);
        ring.enter(Wait::Poll).unwrap();
    }

    #[test]
    #[should_panic(expected = "has one receive in flight")]
    fn a_second_receive_is_caught() {
        let (_, mut ring, _, socket) = accepted(SimConfig::calm(1, 1));
        ring.receive_multishot(socket, receive());
        ring.receive_multishot(socket, receive());
    }

    #[test]
    #[should_panic(expected = "closed under a receive")]
    fn closing_under_a_receive_is_caught() {
        let (_, mut ring, _, socket) = accepted(SimConfig::calm(1, 1));
        ring.receive_multishot(socket, receive());
        ring.close(socket);
    }

    #[test]
    #[should_panic(expected = "named after it was closed")]
    fn naming_a_closed_socket_is_caught() {
        let (_, mut ring, _, socket) = accepted(SimConfig::calm(1, 1));
        ring.close(socket);
        ring.shutdown(socket);
    }

    #[test]
    #[should_panic(expected = "was descriptor")]
    fn a_name_that_another_socket_had_is_caught() {
        let (net, mut ring, _, socket) = accepted(SimConfig::calm(1, 1));
        ring.receive_multishot(socket, receive());
        net.connect(0);
        let (_, other, _) = reap(&mut ring);
        ring.receive_multishot(other, receive());
    }

    #[test]
    #[should_panic(expected = "recycled before its turn ends")]
    fn a_lease_that_is_kept_is_caught() {
        let (net, mut ring, peer, socket) = accepted(SimConfig::calm(1, 1));
        ring.receive_multishot(socket, receive());
        net.write(peer, b"kept");
        ring.enter(Wait::Poll).unwrap();
        let _kept = ring.reap().expect("bytes have come").lease;
        ring.enter(Wait::Poll).unwrap();
    }
}

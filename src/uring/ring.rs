//! [`Io`] on io_uring.
//!
//! One ring per reactor, created, used and dropped on the reactor's own thread: the kernel refuses
//! any other (SINGLE_ISSUER), and runs the work of completing our ops only inside our own
//! [`Ring::enter`] (DEFER_TASKRUN). So nothing of a ring happens behind the back of the turn that owns it.
//!
//! Submissions are staged in a vector and move to the kernel's queue when the turn enters, because the
//! queue is first in, first out and a wake of another reactor belongs before the turn's sends, which
//! are only then known to need one. The second copy is 64 bytes of hot cache: 2.4 ns measured, beside
//! 2,300 for the send that it describes.
//!
//! What an enter leaves in the queue is taken back, so that the queue is empty between two enters and the
//! order holds for what is left as well: the next enter's wakes come before it. The kernel leaves something
//! only when it is short of memory for requests, or wants completions reaped first.
//!
//! # How much an enter does
//!
//! How many items of deferred work (readable sockets, sends that may go on) an enter runs follows from
//! how many completions it waits for: at least 20, at most that number. Waiting for 256 would run
//! enough, but an enter that finds less sleeps, if only for a timeout of zero, which costs 15 µs of CPU
//! time here (the timer's hardware is the hypervisor's). Waiting for none runs 20: 50 enters for 1,000
//! readable sockets.
//!
//! The kernel counts completions from the queue's head, which is ours to move. So around each enter the
//! head is set back by 256 entries, long since reaped, and the enter waits for 256 (which are there: a
//! poll) or for 257 (one more: a sleep). Both run up to 256 items, and a poll that finds nothing takes
//! 0.3 µs. It costs 256 entries of room in the queue.

use std::{
    fmt,
    fs::File,
    io::{self, Write},
    net::{Shutdown, SocketAddr},
    os::{
        fd::{AsRawFd, BorrowedFd, RawFd},
        unix::{fs::FileExt, net::UnixStream},
    },
    ptr,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue, types};
use rustix::{
    net::{self, shutdown},
    time::{ClockId, clock_gettime},
};
use socket2::SockRef;

use super::{
    Completion, Io, Lease, Op, PeerAddress, Token, Wait,
    buffers::{self, BufferRing, Mapping},
    is_passing,
    remedy::{self, Step, Surroundings},
    wake::{Peer, wake_entry},
};

/// By how much the completion queue's head is set back around an enter: how many items of deferred work
/// it runs.
const SET_BACK: usize = 256;
/// How many buffers' worth of bytes a multishot receive takes before it is armed anew.
const RECEIVE_BUFFERS_MAX: usize = 2;
const SEND_FLAGS: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

/// How large a ring is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingConfig {
    /// Submission queue entries: what a turn may queue before it submits in between.
    pub entries: u32,
    /// Receive buffers, at most 32,768.
    pub buffer_count: usize,
    /// Bytes per receive buffer.
    pub buffer_bytes: usize,
    /// Larger ones, for [`Io::receive_large`]; with none it receives into the others.
    pub large_buffer_count: usize,
    /// Bytes of each of them.
    pub large_buffer_bytes: usize,
    /// The most sends that a turn queues.
    pub sends_per_turn: usize,
    /// The most sends that may be in flight from earlier turns: slow peers.
    pub pending_sends: usize,
}

impl Default for RingConfig {
    fn default() -> RingConfig {
        RingConfig {
            entries: 2048,
            buffer_count: 2048,
            buffer_bytes: 4096,
            large_buffer_count: 0,
            large_buffer_bytes: 0,
            sends_per_turn: 1024,
            pending_sends: 8192,
        }
    }
}

impl RingConfig {
    /// Completions that can be waiting at once:
    ///
    /// - one per receive buffer: a receive cannot complete with bytes without one;
    /// - one per send of a turn: all may complete inside the enter that submits them;
    /// - one per item of deferred work of an enter (accepts, wakes, cancellations, ends of receives);
    /// - one per send still in flight from earlier turns: all their peers may start to read at once;
    /// - the entries by which the head is set back around an enter.
    ///
    /// More than that is not lost: the kernel keeps it (FEAT_NODROP) and the next enter brings it, at
    /// the price of an allocation each.
    pub fn completion_entries(&self) -> u32 {
        let buffers = self.buffer_count + self.large_buffer_count;
        let sum = buffers + self.sends_per_turn + SET_BACK + self.pending_sends + SET_BACK;
        u32::try_from(sum).unwrap_or(u32::MAX).max(2 * self.entries)
    }

    /// Bytes that count for RLIMIT_MEMLOCK on kernels that count rings: both queues and the ring that names the
    /// provided buffers, but not the buffers.
    pub fn locked_bytes(&self) -> u64 {
        const PAGES: u64 = 3 * 4096;
        let entries = u64::from(self.entries.next_power_of_two());
        let submissions = entries * (size_of::<squeue::Entry>() + size_of::<u32>()) as u64;
        let completions = u64::from(self.completion_entries().next_power_of_two());
        let completions = completions * size_of::<cqueue::Entry>() as u64;
        let buffers = [self.buffer_count, self.large_buffer_count].map(|count| match count {
            0 => 0,
            count => (count.next_power_of_two() * size_of::<types::BufRingEntry>()) as u64,
        });
        let buffers: u64 = buffers.into_iter().sum();
        submissions + completions + buffers + PAGES
    }
}

/// Why there is no ring.
#[derive(Debug)]
pub struct SetupError {
    /// What failed.
    pub step: Step,
    /// How.
    pub source: io::Error,
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&remedy::line(self.step, &self.source, &Surroundings::read(None)))
    }
}

impl std::error::Error for SetupError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// An io_uring instance with its receive buffers. Stays on its thread.
pub struct Ring {
    /// Before `buffers`: fields drop in order, and the kernel must let go of the buffers first.
    ring: IoUring,
    buffers: BufferRing,
    large_buffers: Option<BufferRing>,
    head: CompletionHead,
    tail: SubmissionTail,
    /// What was queued and the kernel has not taken, in order.
    staged: Vec<squeue::Entry>,
    /// Ports to wake at the head of the next submission, each once.
    wakes: Vec<usize>,
    peers: Vec<Peer>,
    enter_flags: EnterFlags,
    /// How many completions of those in the queue the last enter brought.
    reapable: usize,
    /// What a submission in mid-turn failed with; the next enter tells it.
    failure: Option<io::Error>,
    load: ThreadLoad,
    /// After so many bytes a multishot receive ends, so that nobody has more of the buffers than a share before
    /// its turn comes; 0: not by itself, where the kernel cannot be told.
    receive_bytes_max: u32,
    /// What the next enters do instead of what they would.
    #[cfg(test)]
    faults: std::collections::VecDeque<tests::Fault>,
}

impl Ring {
    /// A ring for the calling thread.
    ///
    /// # Errors
    /// If the kernel lacks or refuses something; the message says what, and how to allow it.
    pub fn new(config: RingConfig) -> Result<Ring, SetupError> {
        let mut ring = set_up(config.entries, config.completion_entries())
            .map_err(|source| SetupError { step: Step::Setup, source })?;
        let buffers_error = |source| SetupError { step: Step::BufferRing, source };
        let group = |group, count, bytes| BufferRing::new(&ring, group, count, bytes).map_err(buffers_error);
        let mut buffers = group(buffers::GROUP, config.buffer_count, config.buffer_bytes)?;
        let large_buffers = match config.large_buffer_count {
            0 => None,
            count => Some(group(buffers::LARGE_GROUP, count, config.large_buffer_bytes)?),
        };
        let setup_error = |source| SetupError { step: Step::Setup, source };
        let can_bound = can_bound_receives(&mut ring, &mut buffers).map_err(buffers_error)?;
        let receive_bytes_max =
            if can_bound { (RECEIVE_BUFFERS_MAX * config.buffer_bytes) as u32 } else { 0 };
        let head = CompletionHead::new(&ring).map_err(setup_error)?;
        let tail = SubmissionTail::new(&ring).map_err(setup_error)?;
        let mut enter_flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if ring.params().is_feature_no_iowait() {
            // An idle reactor always has receives in flight, and would otherwise show as 100 % iowait.
            enter_flags |= EnterFlags::NO_IOWAIT;
        }
        Ok(Ring {
            staged: Vec::with_capacity(ring.params().sq_entries() as usize),
            ring,
            buffers,
            large_buffers,
            head,
            tail,
            wakes: Vec::new(),
            peers: Vec::new(),
            enter_flags,
            reapable: 0,
            failure: None,
            load: ThreadLoad::new(),
            receive_bytes_max,
            #[cfg(test)]
            faults: Default::default(),
        })
    }

    /// The group that a buffer is of.
    fn buffers_of(&mut self, id: u16) -> &mut BufferRing {
        match (id & buffers::LARGE_BIT, &mut self.large_buffers) {
            (0, _) => &mut self.buffers,
            (_, Some(large_buffers)) => large_buffers,
            _ => unreachable!("the kernel filled buffer {id} of a group that it was not given"),
        }
    }

    /// Whom [`Io::wake`] reaches, by index.
    pub fn set_peers(&mut self, peers: Vec<Peer>) {
        self.peers = peers;
    }

    /// How many completions fit the kernel's queue.
    pub fn completion_capacity(&self) -> usize {
        self.ring.params().cq_entries() as usize
    }

    /// Queues any other op: what the load test needs beyond [`Io`].
    ///
    /// # Safety
    /// What the entry points at must stay valid until its completion, and its `user_data` must be a
    /// [`Token`]'s.
    pub unsafe fn push(&mut self, entry: squeue::Entry) {
        self.stage(entry);
    }

    /// [`Io::enter`] that comes back when `completions` more are there or `timeout_ns` have passed: for
    /// a client that would rather not be woken for each.
    ///
    /// # Errors
    /// As [`Io::enter`].
    pub fn enter_for(&mut self, completions: usize, timeout_ns: u64) -> io::Result<()> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        let to_submit = self.fill_submission_queue();
        // What did not fit (the kernel left much of the last) is tried again, not slept on.
        let is_all_queued = to_submit as usize == self.staged.len() + self.wakes.len();
        let (completions, timeout_ns) = if is_all_queued { (completions, timeout_ns) } else { (0, 0) };
        let timeout = types::Timespec::from(Duration::from_nanos(timeout_ns));
        let arguments = types::SubmitArgs::new().timespec(&timeout);
        let flags = self.enter_flags.bits();
        let head = self.head.set_back();
        // SAFETY: `arguments` is what EXT_ARG announces and outlives the call with the timespec it
        // points at; the entries' pointers are valid, as their stagers promised.
        let entered = unsafe {
            let wanted = (SET_BACK + completions) as u32;
            self.enter_kernel(to_submit, wanted, flags, Some(&arguments))
        };
        self.head.restore(head);
        self.take_back(to_submit);
        self.reapable = self.ring.completion().len();
        match entered {
            Err(error) if !is_passing(&error) => Err(error),
            _ => Ok(()),
        }
    }

    fn stage(&mut self, entry: squeue::Entry) {
        self.make_room();
        self.staged.push(entry);
    }

    /// Submits in mid-turn if the next entry would not fit the kernel's queue.
    fn make_room(&mut self) {
        if self.staged.len() + self.wakes.len() < self.ring.params().sq_entries() as usize {
            return;
        }
        let to_submit = self.fill_submission_queue();
        // Without GETEVENTS: deferred work waits for the turn's own enter.
        // SAFETY: every entry's pointers are valid, as the callers of the unsafe functions that
        // staged them promised.
        let submitted = unsafe { self.enter_kernel(to_submit, 0, 0, None) };
        self.take_back(to_submit);
        if let Err(error) = submitted
            && !is_passing(&error)
        {
            self.failure = Some(error);
        }
    }

    /// Copies wakes, then what is staged, into the kernel's queue, which is empty, as far as they fit; tells
    /// how many.
    fn fill_submission_queue(&mut self) -> u32 {
        self.buffers.offer();
        self.large_buffers.iter_mut().for_each(BufferRing::offer);
        let mut queue = self.ring.submission();
        assert!(queue.is_empty(), "what an enter leaves is taken back");
        for &index in self.wakes.iter().take(queue.capacity()) {
            let entry = wake_entry(self.peers[index], index);
            // SAFETY: a wake points at no memory, or at a static byte.
            unsafe { queue.push(&entry) }.expect("the queue has room");
        }
        let count = self.staged.len().min(queue.capacity() - queue.len());
        // SAFETY: the pointers of what is staged are valid until their completions, as the callers of
        // the unsafe functions that staged them promised.
        unsafe { queue.push_multiple(&self.staged[..count]) }.expect("the queue has room");
        queue.len() as u32
    }

    /// After an enter with `filled` entries: forgets those that the kernel took, and empties its queue of the
    /// others, which go with the next enter.
    fn take_back(&mut self, filled: u32) {
        let left = self.ring.submission().len() as u32;
        if left > 0 {
            self.tail.move_back(left);
        }
        let taken = (filled - left) as usize;
        let wakes_taken = taken.min(self.wakes.len());
        self.wakes.drain(..wakes_taken);
        self.staged.drain(..taken - wakes_taken);
    }

    /// io_uring_enter(2).
    ///
    /// # Safety
    /// `flags` says EXT_ARG exactly if there are `arguments`; what they and the entries in the queue point at
    /// is valid.
    unsafe fn enter_kernel(
        &mut self,
        to_submit: u32,
        wanted: u32,
        flags: u32,
        arguments: Option<&types::SubmitArgs<'_, '_>>,
    ) -> io::Result<usize> {
        #[cfg(test)]
        let (to_submit, wanted) = match self.faults.pop_front() {
            Some(tests::Fault::Fails(errno)) => return Err(io::Error::from_raw_os_error(errno)),
            // The kernel does not wait when it has not taken everything.
            Some(tests::Fault::Takes(count)) => (to_submit.min(count), 0),
            None => (to_submit, wanted),
        };
        // SAFETY: by the contract.
        unsafe { self.ring.submitter().enter(to_submit, wanted, flags, arguments) }
    }
}

impl Io for Ring {
    fn accept_multishot(&mut self, listener: RawFd, token: Token) {
        self.stage(
            opcode::AcceptMulti::new(types::Fd(listener))
                .flags(libc::SOCK_CLOEXEC)
                .build()
                .user_data(token.user_data()),
        );
    }

    fn accept(&mut self, listener: RawFd, token: Token) {
        self.stage(
            opcode::Accept::new(types::Fd(listener), ptr::null_mut(), ptr::null_mut())
                .flags(libc::SOCK_CLOEXEC)
                .build()
                .user_data(token.user_data()),
        );
    }

    fn receive_multishot(&mut self, socket: RawFd, token: Token) {
        self.stage(bounded_receive(socket, self.receive_bytes_max).user_data(token.user_data()));
    }

    fn receive(&mut self, socket: RawFd, token: Token) {
        self.stage(single_receive(socket, buffers::GROUP).user_data(token.user_data()));
    }

    fn receive_large(&mut self, socket: RawFd, token: Token) {
        let group = if self.large_buffers.is_some() { buffers::LARGE_GROUP } else { buffers::GROUP };
        self.stage(single_receive(socket, group).user_data(token.user_data()));
    }

    unsafe fn send(&mut self, socket: RawFd, bytes: *const u8, len: u32, token: Token) {
        self.stage(
            opcode::Send::new(types::Fd(socket), bytes, len)
                .flags(SEND_FLAGS)
                .build()
                .user_data(token.user_data()),
        );
    }

    unsafe fn send_vectored(&mut self, socket: RawFd, message: *const libc::msghdr, token: Token) {
        self.stage(
            opcode::SendMsg::new(types::Fd(socket), message)
                .flags(SEND_FLAGS as u32)
                .build()
                .user_data(token.user_data()),
        );
    }

    fn cancel(&mut self, target: Token, token: Token) {
        self.stage(opcode::AsyncCancel::new(target.user_data()).build().user_data(token.user_data()));
    }

    /// # Panics
    /// If `index` is not among the peers: a wake before [`Ring::set_peers`].
    fn wake(&mut self, index: usize) {
        assert!(index < self.peers.len(), "port {index} is woken, of {}", self.peers.len());
        if !self.wakes.contains(&index) {
            self.make_room();
            self.wakes.push(index);
        }
    }

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        match wait {
            Wait::Poll => self.enter_for(0, 0),
            Wait::Sleep { timeout_ns } => self.enter_for(1, timeout_ns),
        }
    }

    fn is_all_submitted(&self) -> bool {
        self.staged.is_empty() && self.wakes.is_empty()
    }

    fn reap(&mut self) -> Option<Completion> {
        if self.reapable == 0 {
            return None;
        }
        self.reapable -= 1;
        let entry = self.ring.completion().next()?;
        let (result, flags) = (entry.result(), entry.flags());
        let token = Token::from_user_data(entry.user_data());
        if result == -libc::ENOBUFS && token.op() == Op::Receive {
            self.buffers.on_exhausted();
        }
        Some(Completion {
            token,
            result,
            more: cqueue::more(flags),
            lease: cqueue::buffer_select(flags).and_then(|id| self.buffers_of(id).lend(id, result)),
        })
    }

    fn leased(&mut self, lease: &Lease) -> &mut [u8] {
        self.buffers_of(lease.id).leased(lease)
    }

    fn recycle(&mut self, lease: Lease) {
        self.buffers_of(lease.id).recycle(lease);
    }

    fn free_buffers(&self) -> usize {
        self.buffers.free_buffers()
    }

    fn shutdown(&mut self, socket: RawFd) {
        // A peer that is gone already (ENOTCONN) is as good as shut down.
        let _ = shutdown(borrowed(&socket), net::Shutdown::Both);
    }

    fn shutdown_write(&mut self, socket: RawFd) {
        // Likewise.
        let _ = shutdown(borrowed(&socket), net::Shutdown::Write);
    }

    fn reset_on_close(&mut self, socket: RawFd) {
        // It fails only for a socket that the kernel has reset already.
        let _ = SockRef::from(&borrowed(&socket)).set_linger(Some(Duration::ZERO));
    }

    fn close(&mut self, socket: RawFd) {
        // SAFETY: takes no pointer. Linux frees the descriptor whatever it returns.
        unsafe { libc::close(socket) };
    }

    fn acked_bytes(&mut self, socket: RawFd) -> u64 {
        /// Where `tcpi_bytes_acked` is in the kernel's `struct tcp_info` (uapi/linux/tcp.h), which
        /// later kernels only append to.
        const BYTES_ACKED_OFFSET: usize = 120;
        let mut info = [0u8; BYTES_ACKED_OFFSET + 8];
        let mut len = info.len() as libc::socklen_t;
        // SAFETY: getsockopt writes at most `len` bytes, which is how long `info` is.
        let result = unsafe {
            libc::getsockopt(
                socket,
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if result == 0 {
            let acked = info[BYTES_ACKED_OFFSET..].try_into().expect("eight bytes are there");
            return u64::from_ne_bytes(acked);
        }
        // A Unix socket tells what of its buffer the peer has not freed. Full buffers look alike, but a send that takes
        // long enough to be looked at several times meets others: the kernel fills it again at a quarter.
        let mut queued: libc::c_int = 0;
        // SAFETY: ioctl writes one number to where it is told.
        unsafe { libc::ioctl(socket, libc::TIOCOUTQ, &raw mut queued) };
        0u64.wrapping_sub(queued as u64)
    }

    fn peer_address(&mut self, socket: RawFd) -> Option<PeerAddress> {
        let address = SockRef::from(&borrowed(&socket)).peer_addr().ok()?;
        Some(match address.as_socket() {
            // A listener on [::] sees IPv4 peers as ::ffff:a.b.c.d; nobody else should.
            Some(address) => PeerAddress::Ip(SocketAddr::new(address.ip().to_canonical(), address.port())),
            None => PeerAddress::Unix,
        })
    }

    fn clock_ns(&mut self) -> u64 {
        super::clock_ns()
    }

    fn wall_ns(&mut self) -> u64 {
        // A host that takes it for earlier than 1970 knows nothing of the time.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
    }

    fn busy_share(&mut self, elapsed_ns: u64) -> f64 {
        let before = self.load.busy_ns;
        self.load.busy_ns = self.load.read();
        let busy_ns = self.load.busy_ns.saturating_sub(before);
        if elapsed_ns == 0 { 0.0 } else { (busy_ns as f64 / elapsed_ns as f64).min(1.0) }
    }
}

impl AsRawFd for Ring {
    /// What others wake this ring by.
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

/// io_uring_setup(2) with the flags that a reactor's ring needs.
pub(super) fn set_up(entries: u32, completion_entries: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(completion_entries)
        // Above the kernel's maximum, take the maximum: NODROP covers the rest.
        .setup_clamp()
        .build(entries)
}

/// The completion queue's head, which the `io-uring` crate moves only forward.
struct CompletionHead(SharedWord);

impl CompletionHead {
    fn new(ring: &IoUring) -> io::Result<CompletionHead> {
        const OFFSET_COMPLETION_RING: i64 = 0x800_0000;
        let offset = QueueOffsets::of(ring).completion_head as usize;
        SharedWord::new(ring, OFFSET_COMPLETION_RING, offset).map(CompletionHead)
    }

    /// Sets the head back and gives what it was. Completions reaped meanwhile would be lost: none may be.
    fn set_back(&mut self) -> u32 {
        let head = self.0.word().load(Ordering::Relaxed);
        self.0.word().store(head.wrapping_sub(SET_BACK as u32), Ordering::Release);
        head
    }

    fn restore(&mut self, head: u32) {
        self.0.word().store(head, Ordering::Release);
    }
}

/// The submission queue's tail, likewise. The kernel looks at it only inside an enter.
struct SubmissionTail(SharedWord);

impl SubmissionTail {
    fn new(ring: &IoUring) -> io::Result<SubmissionTail> {
        const OFFSET_SUBMISSION_RING: i64 = 0;
        let offset = QueueOffsets::of(ring).submission_tail as usize;
        SharedWord::new(ring, OFFSET_SUBMISSION_RING, offset).map(SubmissionTail)
    }

    /// Takes the last `count` entries out of the queue, which has as many.
    fn move_back(&mut self, count: u32) {
        let tail = self.0.word().load(Ordering::Relaxed);
        self.0.word().store(tail.wrapping_sub(count), Ordering::Release);
    }
}

/// `struct io_uring_params` as far as we need its offsets into what is shared: the kernel's interface, so it
/// never changes.
#[repr(C)]
struct QueueOffsets {
    before: [u32; 11],
    submission_tail: u32,
    between: [u32; 8],
    completion_head: u32,
    after: [u32; 9],
}

impl QueueOffsets {
    fn of(ring: &IoUring) -> &QueueOffsets {
        const { assert!(size_of::<QueueOffsets>() == size_of::<io_uring::Parameters>()) };
        // SAFETY: `Parameters` is a transparent wrapper of `struct io_uring_params`, plain integers.
        unsafe { &*std::ptr::from_ref(ring.params()).cast::<QueueOffsets>() }
    }
}

/// A word that we write and the kernel reads.
struct SharedWord {
    shared: Mapping,
    offset: usize,
}

impl SharedWord {
    fn new(ring: &IoUring, ring_offset: i64, offset: usize) -> io::Result<SharedWord> {
        let bytes = offset + size_of::<AtomicU32>();
        Ok(SharedWord { shared: Mapping::of_ring(ring, ring_offset, bytes)?, offset })
    }

    fn word(&self) -> &AtomicU32 {
        // SAFETY: the mapping reaches to the end of the word, which is aligned; the kernel only reads
        // it, and everyone accesses it atomically.
        unsafe { &*self.shared.base.add(self.offset).cast::<AtomicU32>() }
    }
}

/// A socket that a caller of [`Io`] names.
fn borrowed(socket: &RawFd) -> BorrowedFd<'_> {
    // SAFETY: whoever names a socket has it open during the call.
    unsafe { BorrowedFd::borrow_raw(*socket) }
}

/// A receive into one buffer of `group`.
fn single_receive(socket: RawFd, group: u16) -> squeue::Entry {
    opcode::Recv::new(types::Fd(socket), ptr::null_mut(), 0)
        .buf_group(group)
        .build()
        .flags(squeue::Flags::BUFFER_SELECT)
}

/// A multishot receive into provided buffers that ends after `bytes_max` bytes, or with 0 not by itself.
fn bounded_receive(socket: RawFd, bytes_max: u32) -> squeue::Entry {
    /// Where `optlen` is in an io_uring_sqe: include/uapi/linux/io_uring.h.
    const OPTLEN_OFFSET: usize = 44;
    const { assert!(size_of::<squeue::Entry>() == 64, "an entry is an io_uring_sqe") };
    let mut entry = opcode::RecvMulti::new(types::Fd(socket), buffers::GROUP).build();
    // SAFETY: the entry is one `io_uring_sqe` of 64 bytes, in which a u32 stands at that offset, aligned; the
    // crate has no name for it.
    unsafe { (&raw mut entry).cast::<u8>().add(OPTLEN_OFFSET).cast::<u32>().write(bytes_max) };
    entry
}

/// Whether the kernel can be told after how many bytes a multishot receive is to end (Linux 6.17; one that cannot
/// refuses it): tried on a pair of sockets.
fn can_bound_receives(ring: &mut IoUring, buffers: &mut BufferRing) -> io::Result<bool> {
    let (mut ours, theirs) = UnixStream::pair()?;
    ours.write_all(b"x")?;
    buffers.offer();
    // SAFETY: a receive into provided buffers points at no memory, and its socket is open until its last
    // completion, which the loop awaits.
    unsafe { ring.submission().push(&bounded_receive(theirs.as_raw_fd(), 1)) }.expect("the queue is empty");
    let mut can_bound = true;
    loop {
        ring.submit_and_wait(1)?;
        for completion in ring.completion() {
            if let Some(id) = cqueue::buffer_select(completion.flags()) {
                buffers.lend(id, completion.result()).into_iter().for_each(|lease| buffers.recycle(lease));
            }
            if !cqueue::more(completion.flags()) {
                return Ok(can_bound && completion.result() == 1);
            }
            // It goes on, and ends with the stream.
            can_bound = false;
            ours.shutdown(Shutdown::Both)?;
        }
    }
}

/// How much of a core this thread used, or wanted and did not get.
#[derive(Debug)]
struct ThreadLoad {
    /// `/proc/thread-self/schedstat`, kept open; absent without CONFIG_SCHED_INFO.
    schedstat: Option<File>,
    busy_ns: u64,
}

impl ThreadLoad {
    fn new() -> ThreadLoad {
        let mut load = ThreadLoad { schedstat: File::open("/proc/thread-self/schedstat").ok(), busy_ns: 0 };
        load.busy_ns = load.read();
        load
    }

    /// CPU time from the thread's clock, because schedstat's own lags by up to a tick; the time spent
    /// ready to run without running from schedstat.
    fn read(&self) -> u64 {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64 + self.waited_ns().unwrap_or(0)
    }

    fn waited_ns(&self) -> Option<u64> {
        let mut text = [0; 96];
        let len = self.schedstat.as_ref()?.read_at(&mut text, 0).ok()?;
        parse_schedstat(&text[..len]).map(|(_, waited_ns)| waited_ns)
    }
}

/// CPU and run-queue nanoseconds from a line of `schedstat`.
fn parse_schedstat(line: &[u8]) -> Option<(u64, u64)> {
    let mut fields = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        io::{Read, Write},
        net::{Ipv4Addr, TcpListener, TcpStream},
        ops::Range,
        os::unix::net::UnixStream,
        sync::mpsc,
        thread,
    };

    use rustix::io::{FdFlags, fcntl_getfd};

    use super::*;

    /// What an enter does instead of what it would.
    #[derive(Clone, Copy, Debug)]
    pub enum Fault {
        /// It fails with this errno, and takes nothing.
        Fails(i32),
        /// It takes so many entries of the queue at most, and does not wait.
        Takes(u32),
    }

    const RECEIVE: u64 = 7;
    static ALPHABET: [u8; 26] = *b"abcdefghijklmnopqrstuvwxyz";
    /// Longer than any test: a sleep that ends by it has missed its completion.
    const FOREVER: Wait = Wait::Sleep { timeout_ns: 60_000_000_000 };

    /// With 4 buffers of 64 bytes.
    fn small() -> RingConfig {
        RingConfig {
            entries: 8,
            buffer_count: 4,
            buffer_bytes: 64,
            sends_per_turn: 8,
            pending_sends: 0,
            ..RingConfig::default()
        }
    }

    /// A ring with 4 buffers of 64 bytes, or `None` as [`ring_of`] has it.
    pub fn small_ring() -> Option<Ring> {
        ring_of(small())
    }

    /// A ring; `None`, with a line that says so, where io_uring is not to be had.
    fn ring_of(config: RingConfig) -> Option<Ring> {
        match Ring::new(config) {
            Ok(ring) => Some(ring),
            Err(error) if matches!(error.source.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => {
                println!("skipped: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn tcp_pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn receive() -> Token {
        Token::new(Op::Receive, RECEIVE as u32, 1)
    }

    fn receive_large() -> Token {
        Token::new(Op::ReceiveLarge, RECEIVE as u32, 1)
    }

    fn sleep_and_reap(ring: &mut Ring) -> Vec<Completion> {
        ring.enter(FOREVER).unwrap();
        let reaped: Vec<_> = std::iter::from_fn(|| ring.reap()).collect();
        assert!(!reaped.is_empty(), "slept for a minute");
        reaped
    }

    /// Copies a lease out and gives it back.
    fn take(ring: &mut Ring, lease: Lease, into: &mut Vec<u8>) {
        into.extend_from_slice(ring.leased(&lease));
        ring.recycle(lease);
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|index| (index / 64 + index) as u8).collect()
    }

    /// 64 KiB through 4 buffers of 64 bytes: each is used many times, and every byte comes in order.
    #[test]
    fn a_multishot_receive_goes_on_with_recycled_buffers() {
        let Some(mut ring) = small_ring() else { return };
        let (mut client, server) = tcp_pair();
        let sent = pattern(64 * 1024);
        client.write_all(&sent).unwrap();
        drop(client);

        let mut received = Vec::new();
        ring.receive_multishot(server.as_raw_fd(), receive());
        'stream: loop {
            for completion in sleep_and_reap(&mut ring) {
                assert_eq!(completion.token, receive());
                if let Some(lease) = completion.lease {
                    take(&mut ring, lease, &mut received);
                }
                match completion.result {
                    0 => break 'stream,
                    result if result < 0 => assert_eq!(result, -libc::ENOBUFS),
                    _ => {}
                }
                if !completion.more {
                    ring.receive_multishot(server.as_raw_fd(), receive());
                }
            }
        }
        assert!(received == sent);
        assert_eq!(ring.free_buffers(), 4);
    }

    /// 64 KiB through two larger buffers; while both are held the others are not touched, and what they lack is not
    /// taken for a want of those.
    #[test]
    fn a_large_receive_takes_from_the_larger_buffers_alone() {
        // More than a window's.
        let config =
            RingConfig { buffer_count: 1_024, large_buffer_count: 2, large_buffer_bytes: 4_096, ..small() };
        let Some(mut ring) = ring_of(config) else { return };
        let free_before = ring.free_buffers();
        let (mut client, server) = tcp_pair();
        let sent = pattern(64 << 10);
        let writer = std::thread::spawn({
            let sent = sent.clone();
            move || client.write_all(&sent)
        });
        let (mut received, mut held, mut exhausted_count) = (Vec::new(), Vec::new(), 0);
        let mut largest = 0;
        while received.len() < sent.len() {
            ring.receive_large(server.as_raw_fd(), receive_large());
            let [completion] = &mut sleep_and_reap(&mut ring)[..] else { panic!("a receive completes once") };
            assert!(!completion.more);
            if completion.result == -libc::ENOBUFS {
                assert_eq!((held.len(), ring.free_buffers()), (2, free_before));
                exhausted_count += 1;
            } else {
                largest = largest.max(completion.result);
                held.extend(completion.lease.take());
            }
            let is_last =
                received.len() + held.iter().map(|it: &Lease| it.len as usize).sum::<usize>() == sent.len();
            if completion.result == -libc::ENOBUFS || is_last {
                held.drain(..).for_each(|lease| take(&mut ring, lease, &mut received));
            }
        }
        writer.join().unwrap().unwrap();
        assert!(received == sent);
        assert!(exhausted_count > 0 && largest > 64, "{exhausted_count} {largest}");
        // Without any it receives into the others.
        let Some(mut ring) = small_ring() else { return };
        let (mut client, server) = tcp_pair();
        client.write_all(b"few").unwrap();
        ring.receive_large(server.as_raw_fd(), receive_large());
        for completion in sleep_and_reap(&mut ring) {
            take(&mut ring, completion.lease.expect("bytes have come"), &mut received);
        }
        assert!(received.ends_with(b"few"));
    }

    #[test]
    fn larger_buffers_have_room_for_their_completions_and_count_as_locked() {
        let (without, with) = (small(), RingConfig { large_buffer_count: 2_048, ..small() });
        assert_eq!(with.completion_entries(), without.completion_entries() + 2_048);
        let completions =
            |config: &RingConfig| u64::from(config.completion_entries().next_power_of_two()) * 16;
        let beside_them = |config: &RingConfig| config.locked_bytes() - completions(config);
        assert_eq!(beside_them(&with), beside_them(&without) + 2_048 * 16);
    }

    #[test]
    fn a_reactor_is_woken_once_by_a_submission() {
        let Some(mut ring) = small_ring() else { return };
        ring.set_peers(vec![Peer::Ring(ring.as_raw_fd())]);
        ring.wake(0);
        ring.wake(0);
        let woken = sleep_and_reap(&mut ring).into_iter().filter(|it| it.token.op() == Op::Wake);
        assert_eq!(woken.count(), 1);
    }

    /// Every lease is held until the kernel says ENOBUFS; then all come back and the receive is armed
    /// again. Nothing of what was sent meanwhile is lost.
    #[test]
    fn a_receive_that_ran_out_of_buffers_loses_no_byte() {
        let Some(mut ring) = small_ring() else { return };
        // As on a kernel that cannot be told.
        ring.receive_bytes_max = 0;
        let (mut client, server) = tcp_pair();
        let sent = pattern(3000);
        client.write_all(&sent).unwrap();

        let (mut received, mut exhausted_count) = (Vec::new(), 0);
        while received.len() < sent.len() {
            ring.receive_multishot(server.as_raw_fd(), receive());
            let mut held = Vec::new();
            let mut armed = true;
            while armed
                && received.len() + held.iter().map(|it: &Lease| it.len as usize).sum::<usize>() < 3000
            {
                for completion in sleep_and_reap(&mut ring) {
                    held.extend(completion.lease);
                    armed = completion.more;
                    if completion.result == -libc::ENOBUFS {
                        assert_eq!((held.len(), ring.free_buffers()), (4, 0));
                        exhausted_count += 1;
                    }
                }
            }
            held.into_iter().for_each(|lease| take(&mut ring, lease, &mut received));
        }
        assert!(received == sent);
        assert_eq!(exhausted_count, 3000 / (4 * 64));
    }

    /// There are twice as many as the kernel is offered at a time, and one enter wants one more than that.
    #[test]
    fn a_want_of_offered_buffers_has_more_offered_at_a_time() {
        let config = RingConfig { entries: 1_024, buffer_count: 1_024, buffer_bytes: 64, ..small() };
        let Some(mut ring) = ring_of(config) else { return };
        let offered = ring.free_buffers();
        assert_eq!(offered, 512);
        let (mut client, server) = tcp_pair();
        client.write_all(&pattern((offered + 1) * 64)).unwrap();
        (0..=offered).for_each(|_| ring.receive(server.as_raw_fd(), receive()));
        let mut exhausted_count = 0;
        for completion in sleep_and_reap(&mut ring) {
            exhausted_count += u32::from(completion.result == -libc::ENOBUFS);
            completion.lease.into_iter().for_each(|lease| ring.recycle(lease));
        }
        assert_eq!((exhausted_count, ring.free_buffers()), (1, 1_024));
    }

    /// 16 MiB to a peer that does not read: part of it goes, the rest waits. The shutdown ends the send
    /// with a positive short count, not with an error.
    #[test]
    fn a_send_that_is_shut_down_reports_how_much_went() {
        let Some(mut ring) = small_ring() else { return };
        let (_client, server) = tcp_pair();
        let bytes = vec![1; 16 << 20];
        let token = Token::new(Op::Send, 1, 1);
        // SAFETY: `bytes` lives to the end of the test, after the completion below.
        unsafe { ring.send(server.as_raw_fd(), bytes.as_ptr(), bytes.len() as u32, token) };
        ring.enter(Wait::Poll).unwrap();
        assert!(ring.reap().is_none(), "nobody reads");

        ring.shutdown(server.as_raw_fd());
        let completion = sleep_and_reap(&mut ring).remove(0);
        assert_eq!(completion.token, token);
        assert!((1..16 << 20).contains(&completion.result), "{}", completion.result);
    }

    /// 60 sockets with much to read: nobody takes more than a share of the buffers.
    #[test]
    fn a_multishot_receive_ends_when_it_has_taken_its_share() {
        let config = RingConfig { buffer_count: 512, buffer_bytes: 64, ..RingConfig::default() };
        let Ok(mut ring) = Ring::new(config) else { return println!("skipped: no io_uring") };
        if ring.receive_bytes_max == 0 {
            return println!("skipped: this kernel does not bound what a multishot receive takes");
        }
        let mut pairs: Vec<_> = (0..60).map(|_| tcp_pair()).collect();
        pairs.iter_mut().for_each(|(client, _)| client.write_all(&[7; 6_400]).unwrap());
        for (slot, (_, server)) in pairs.iter().enumerate() {
            ring.receive_multishot(server.as_raw_fd(), Token::new(Op::Receive, slot as u32, 0));
        }
        let mut counts = vec![0; 60];
        for _ in 0..3 {
            ring.enter(Wait::Poll).unwrap();
            while let Some(completion) = ring.reap() {
                let count = &mut counts[completion.token.slot() as usize];
                *count += 1;
                assert_eq!(completion.more, *count < RECEIVE_BUFFERS_MAX);
                completion.lease.into_iter().for_each(|lease| ring.recycle(lease));
            }
        }
        assert_eq!(counts, vec![RECEIVE_BUFFERS_MAX; 60]);
    }

    /// A reader is paused after bytes have arrived: they come before the receive's last completion, and
    /// what comes later is for the next receive.
    #[test]
    fn a_cancelled_receive_still_brings_its_bytes_and_then_ends() {
        let Some(mut ring) = small_ring() else { return };
        let (mut client, server) = tcp_pair();
        ring.receive_multishot(server.as_raw_fd(), receive());
        ring.enter(Wait::Poll).unwrap();
        client.write_all(b"before").unwrap();
        // Brings the bytes, which nobody reaps yet.
        ring.enter(FOREVER).unwrap();
        client.write_all(b"after").unwrap();

        let cancel = Token::new(Op::Cancel, RECEIVE as u32, 1);
        ring.cancel(receive(), cancel);
        let (mut received, mut ended, mut cancelled) = (Vec::new(), false, false);
        while !(ended && cancelled) {
            for completion in sleep_and_reap(&mut ring) {
                if completion.token == cancel {
                    cancelled = true;
                    continue;
                }
                assert!(!ended, "a completion after the final one");
                if let Some(lease) = completion.lease {
                    take(&mut ring, lease, &mut received);
                }
                ended = !completion.more;
            }
        }
        assert!(received.starts_with(b"before"));

        if received != b"beforeafter" {
            ring.receive_multishot(server.as_raw_fd(), receive());
            let lease = sleep_and_reap(&mut ring).remove(0).lease.unwrap();
            take(&mut ring, lease, &mut received);
        }
        assert_eq!(received, b"beforeafter");
    }

    #[test]
    fn the_end_of_a_stream_is_a_final_completion_without_a_lease() {
        let Some(mut ring) = small_ring() else { return };
        let (client, server) = tcp_pair();
        ring.receive_multishot(server.as_raw_fd(), receive());
        drop(client);
        let completion = sleep_and_reap(&mut ring).remove(0);
        assert_eq!((completion.result, completion.more, completion.lease), (0, false, None));
        assert_eq!(ring.free_buffers(), 4);
    }

    /// 200 bytes for buffers of 64: each receive brings one, and nothing more comes until the next.
    #[test]
    fn a_single_receive_brings_one_buffer() {
        let Some(mut ring) = small_ring() else { return };
        let (mut client, server) = tcp_pair();
        let sent = pattern(200);
        client.write_all(&sent).unwrap();
        drop(client);
        let mut received = Vec::new();
        for len in [64, 64, 64, 8] {
            ring.receive(server.as_raw_fd(), receive());
            let mut completions = sleep_and_reap(&mut ring);
            let completion = completions.pop().unwrap();
            assert!(completions.is_empty());
            assert_eq!((completion.token, completion.result, completion.more), (receive(), len, false));
            take(&mut ring, completion.lease.unwrap(), &mut received);
            ring.enter(Wait::Poll).unwrap();
            assert!(ring.reap().is_none(), "nothing is in flight");
        }
        assert!(received == sent);
        ring.receive(server.as_raw_fd(), receive());
        let completion = sleep_and_reap(&mut ring).remove(0);
        assert_eq!((completion.result, completion.more, completion.lease), (0, false, None));
        assert_eq!(ring.free_buffers(), 4);
    }

    #[test]
    fn a_single_receive_waits_for_bytes() {
        let Some(mut ring) = small_ring() else { return };
        let (mut client, server) = tcp_pair();
        ring.receive(server.as_raw_fd(), receive());
        ring.enter(Wait::Poll).unwrap();
        assert!(ring.reap().is_none());
        // A receive that waits holds no buffer.
        assert_eq!(ring.free_buffers(), 4);
        client.write_all(b"late").unwrap();
        let completion = sleep_and_reap(&mut ring).remove(0);
        let mut received = Vec::new();
        take(&mut ring, completion.lease.unwrap(), &mut received);
        assert_eq!((received.as_slice(), completion.more), (b"late".as_slice(), false));
    }

    /// All four leases are held: the fifth receive is told so, and nothing is lost.
    #[test]
    fn a_single_receive_that_finds_no_buffer_loses_no_byte() {
        let Some(mut ring) = small_ring() else { return };
        let (mut client, server) = tcp_pair();
        let sent = pattern(5 * 64);
        client.write_all(&sent).unwrap();
        let mut held = Vec::new();
        for _ in 0..4 {
            ring.receive(server.as_raw_fd(), receive());
            held.extend(sleep_and_reap(&mut ring).remove(0).lease);
        }
        ring.receive(server.as_raw_fd(), receive());
        let completion = sleep_and_reap(&mut ring).remove(0);
        assert_eq!((completion.result, completion.more), (-libc::ENOBUFS, false));
        assert_eq!((completion.lease, held.len(), ring.free_buffers()), (None, 4, 0));
        let mut received = Vec::new();
        held.into_iter().for_each(|lease| take(&mut ring, lease, &mut received));
        ring.receive(server.as_raw_fd(), receive());
        let lease = sleep_and_reap(&mut ring).remove(0).lease.unwrap();
        take(&mut ring, lease, &mut received);
        assert!(received == sent);
    }

    #[test]
    fn a_single_receive_that_is_cancelled_takes_nothing() {
        let Some(mut ring) = small_ring() else { return };
        let (mut client, server) = tcp_pair();
        ring.receive(server.as_raw_fd(), receive());
        ring.enter(Wait::Poll).unwrap();
        let cancel = Token::new(Op::Cancel, RECEIVE as u32, 1);
        ring.cancel(receive(), cancel);
        let mut ended = Vec::new();
        while ended.len() < 2 {
            ended.extend(sleep_and_reap(&mut ring).into_iter().map(|it| (it.token.op(), it.result, it.more)));
        }
        assert!(ended.contains(&(Op::Receive, -libc::ECANCELED, false)), "{ended:?}");
        assert!(ended.contains(&(Op::Cancel, 0, false)), "{ended:?}");
        client.write_all(b"after").unwrap();
        ring.receive(server.as_raw_fd(), receive());
        let lease = sleep_and_reap(&mut ring).remove(0).lease.unwrap();
        let mut received = Vec::new();
        take(&mut ring, lease, &mut received);
        assert_eq!((received.as_slice(), ring.free_buffers()), (b"after".as_slice(), 4));
    }

    /// The number says nothing but that it is another one once the peer has taken something.
    #[test]
    fn what_a_peer_takes_of_a_unix_socket_shows() {
        let Some(mut ring) = small_ring() else { return };
        let (mut client, server) = UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        let piece = [0; 16 << 10];
        while (&server).write(&piece).is_ok() {}
        let before = ring.acked_bytes(server.as_raw_fd());
        assert_eq!(ring.acked_bytes(server.as_raw_fd()), before);
        let mut taken = vec![0; piece.len()];
        client.read_exact(&mut taken).unwrap();
        assert_ne!(ring.acked_bytes(server.as_raw_fd()), before);
        assert_eq!(ring.peer_address(server.as_raw_fd()), Some(PeerAddress::Unix));
    }

    #[test]
    fn accepts_come_with_their_peers_address() {
        let Some(mut ring) = small_ring() else { return };
        let listener = super::super::listener::listen("[::]:0".parse().unwrap(), 16, None)
            .or_else(|_| super::super::listener::listen("0.0.0.0:0".parse().unwrap(), 16, None))
            .unwrap();
        let port = super::super::listener::local_address(&listener).unwrap().port();
        let token = Token::new(Op::Accept, 0, 0);
        ring.accept_multishot(listener.as_raw_fd(), token);
        for _ in 0..2 {
            let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            let completion = sleep_and_reap(&mut ring).remove(0);
            assert_eq!((completion.token, completion.more), (token, true));
            assert_eq!(ring.peer_address(completion.result), client.local_addr().ok().map(PeerAddress::Ip));
            assert_eq!(fcntl_getfd(borrowed(&completion.result)), Ok(FdFlags::CLOEXEC));
            ring.close(completion.result);
        }
    }

    #[test]
    fn a_socket_that_is_to_reset_does_so_when_closed() {
        let Some(mut ring) = small_ring() else { return };
        let (mut client, server) = tcp_pair();
        let server = std::os::fd::IntoRawFd::into_raw_fd(server);
        ring.reset_on_close(server);
        ring.close(server);
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn a_vectored_send_sends_all_its_ranges_in_order() {
        let Some(mut ring) = small_ring() else { return };
        let (mut client, server) = tcp_pair();
        let ranges = [&b"one "[..], b"two ", b"three"];
        let mut vectors = ranges.map(|it| libc::iovec { iov_base: it.as_ptr() as *mut _, iov_len: it.len() });
        // SAFETY: all zeroes is an empty message.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = vectors.as_mut_ptr();
        message.msg_iovlen = vectors.len();
        // SAFETY: the message and what it names live to the end of the test, after the completion.
        unsafe { ring.send_vectored(server.as_raw_fd(), &message, Token::new(Op::Send, 1, 1)) };
        assert_eq!(sleep_and_reap(&mut ring).remove(0).result, 13);
        let mut received = [0; 13];
        client.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"one two three");
    }

    /// A sleeps for a minute; B wakes it twice in a turn, which is one message, after staging a send
    /// that the wake overtakes.
    #[test]
    fn a_wake_reaches_a_ring_that_sleeps_and_leaves_no_completion_here() {
        let Some(mut waker) = small_ring() else { return };
        let (tell, told) = mpsc::channel();
        let sleeper = thread::spawn(move || {
            let mut ring = small_ring().unwrap();
            tell.send(ring.as_raw_fd()).unwrap();
            let completion = sleep_and_reap(&mut ring).remove(0);
            assert_eq!((completion.token, completion.result), (Token::new(Op::Wake, 0, 0), 0));
        });
        waker.set_peers(vec![Peer::Ring(-1), Peer::Ring(told.recv().unwrap())]);
        let (_client, server) = tcp_pair();
        let token = Token::new(Op::Send, 1, 1);
        // SAFETY: a static string.
        unsafe { waker.send(server.as_raw_fd(), b"x".as_ptr(), 1, token) };
        waker.wake(1);
        waker.wake(1);
        let completions = sleep_and_reap(&mut waker);
        assert_eq!(completions.iter().map(|it| it.token).collect::<Vec<_>>(), [token]);
        sleeper.join().unwrap();
    }

    /// Stages a send of each letter whose place in the alphabet is in `slots`.
    fn stage_sends(ring: &mut Ring, socket: RawFd, slots: Range<u32>) {
        for slot in slots {
            // SAFETY: the bytes are static.
            unsafe { ring.send(socket, &ALPHABET[slot as usize], 1, Token::new(Op::Send, slot, 0)) };
        }
    }

    /// How many wakes have come to `ring`.
    pub fn wake_count(ring: &mut Ring) -> usize {
        ring.enter(Wait::Poll).unwrap();
        let is_wake = |it: &Completion| (it.token, it.result) == (Token::new(Op::Wake, 0, 0), 0);
        std::iter::from_fn(|| ring.reap()).filter(is_wake).count()
    }

    fn readable(client: &TcpStream) -> Vec<u8> {
        let mut bytes = [0; 4_096];
        let len = client.peek(&mut bytes).unwrap_or(0);
        bytes[..len].to_vec()
    }

    /// The kernel takes one entry of the queue: that is the wake, though the send was staged before it. Then
    /// it takes one of what is left and of a new wake: again the wake.
    #[test]
    fn a_wake_is_first_in_what_is_submitted() {
        let (Some(mut ring), Some(mut first), Some(mut second)) = (small_ring(), small_ring(), small_ring())
        else {
            return;
        };
        ring.set_peers([&first, &second].map(|it| Peer::Ring(it.as_raw_fd())).to_vec());
        let (client, server) = tcp_pair();
        client.set_nonblocking(true).unwrap();
        stage_sends(&mut ring, server.as_raw_fd(), 0..1);
        ring.wake(0);
        ring.faults.push_back(Fault::Takes(1));
        ring.enter(Wait::Poll).unwrap();
        assert_eq!((wake_count(&mut first), readable(&client)), (1, vec![]));
        ring.wake(1);
        ring.faults.push_back(Fault::Takes(1));
        ring.enter(Wait::Poll).unwrap();
        assert_eq!((wake_count(&mut second), readable(&client)), (1, vec![]));
        assert!(!ring.is_all_submitted());
        assert_eq!(sleep_and_reap(&mut ring).len(), 1);
        assert_eq!(readable(&client), b"a");
        assert!(ring.is_all_submitted());
        assert_eq!((wake_count(&mut first), wake_count(&mut second)), (0, 0));
    }

    /// The kernel takes one of two, and nothing of what is left, and then that.
    #[test]
    fn a_wake_that_the_kernel_did_not_take_is_submitted_later_and_once() {
        let (Some(mut ring), Some(mut first), Some(mut second)) = (small_ring(), small_ring(), small_ring())
        else {
            return;
        };
        ring.set_peers([&first, &second].map(|it| Peer::Ring(it.as_raw_fd())).to_vec());
        ring.wake(0);
        ring.wake(1);
        ring.faults.extend([Fault::Takes(1), Fault::Takes(0)]);
        ring.enter(Wait::Poll).unwrap();
        assert_eq!((wake_count(&mut first), wake_count(&mut second)), (1, 0));
        assert!(!ring.is_all_submitted());
        ring.wake(1);
        ring.enter(Wait::Poll).unwrap();
        assert!(!ring.is_all_submitted());
        ring.enter(Wait::Poll).unwrap();
        assert!(ring.is_all_submitted());
        ring.enter(Wait::Poll).unwrap();
        assert_eq!((wake_count(&mut first), wake_count(&mut second)), (0, 1));
    }

    /// The kernel took nothing in mid-turn, so that more is staged than its queue holds: what it waits for may be in
    /// what is left. Nothing of what fits ever completes.
    #[test]
    fn an_enter_whose_queue_does_not_hold_everything_does_not_sleep() {
        let Some(mut ring) = small_ring() else { return };
        let pairs: Vec<_> = (0..9).map(|_| tcp_pair()).collect();
        ring.faults.push_back(Fault::Takes(0));
        for (slot, (_, server)) in pairs.iter().enumerate() {
            ring.receive(server.as_raw_fd(), Token::new(Op::Receive, slot as u32, 0));
        }
        assert_eq!((ring.staged.len(), ring.faults.len()), (9, 0));
        let Wait::Sleep { timeout_ns } = FOREVER else { unreachable!() };
        let before_ns = ring.clock_ns();
        ring.enter(FOREVER).unwrap();
        assert!(ring.clock_ns() - before_ns < timeout_ns, "slept for a minute");
        assert!(ring.reap().is_none());
        assert_eq!(ring.staged.len(), 1);
    }

    /// The kernel takes some of the queue, or nothing for a reason that passes, in mid-turn as well, while more
    /// is staged than the queue holds.
    #[test]
    fn what_the_kernel_did_not_take_is_submitted_later_in_order_and_once() {
        let Some(mut ring) = small_ring() else { return };
        let (mut client, server) = tcp_pair();
        let faults = [
            Fault::Takes(3),
            Fault::Fails(libc::EAGAIN),
            Fault::Takes(0),
            Fault::Fails(libc::EBUSY),
            Fault::Takes(1),
            Fault::Fails(libc::EINTR),
            Fault::Fails(libc::ETIME),
            Fault::Takes(5),
        ];
        ring.faults.extend(faults);
        stage_sends(&mut ring, server.as_raw_fd(), 0..17);
        assert_eq!(ring.staged.len(), 17 - 3 - 1, "more than the queue holds is kept");
        stage_sends(&mut ring, server.as_raw_fd(), 17..26);
        let mut slots = Vec::new();
        while slots.len() < 26 {
            slots.extend(sleep_and_reap(&mut ring).into_iter().map(|it| {
                assert_eq!(it.result, 1);
                it.token.slot()
            }));
        }
        assert!(slots.into_iter().eq(0..26), "in order, each once");
        assert!(ring.faults.is_empty() && ring.is_all_submitted());
        ring.enter(Wait::Poll).unwrap();
        assert!(ring.reap().is_none());
        let mut received = [0; 26];
        client.read_exact(&mut received).unwrap();
        assert_eq!(received, ALPHABET);
    }

    /// The reactor's next turn decides, not a sleep: what was not taken may be what it waits for.
    #[test]
    fn an_enter_that_takes_only_part_does_not_sleep() {
        let Some(mut ring) = small_ring() else { return };
        let (_client, server) = tcp_pair();
        for fault in [Fault::Takes(0), Fault::Fails(libc::EAGAIN), Fault::Fails(libc::EBUSY)] {
            ring.receive(server.as_raw_fd(), receive());
            ring.faults.push_back(fault);
            ring.enter(FOREVER).unwrap();
            assert!(ring.reap().is_none() && !ring.is_all_submitted());
            ring.staged.clear();
        }
    }

    #[test]
    fn an_error_that_does_not_pass_is_told_whenever_it_came() {
        let Some(mut ring) = small_ring() else { return };
        let (_client, server) = tcp_pair();
        ring.faults.push_back(Fault::Fails(libc::EBADF));
        assert_eq!(ring.enter(Wait::Poll).unwrap_err().raw_os_error(), Some(libc::EBADF));
        ring.faults.push_back(Fault::Fails(libc::EFAULT));
        stage_sends(&mut ring, server.as_raw_fd(), 0..9);
        assert_eq!(ring.enter(Wait::Poll).unwrap_err().raw_os_error(), Some(libc::EFAULT));
        for errno in [libc::ETIME, libc::EINTR, libc::EAGAIN, libc::EBUSY] {
            assert!(is_passing(&io::Error::from_raw_os_error(errno)));
        }
        assert!(!is_passing(&io::Error::from_raw_os_error(libc::EBADR)), "completions were lost");
    }

    #[test]
    fn the_clock_goes_on() {
        let Some(mut ring) = small_ring() else { return };
        let before_ns = ring.clock_ns();
        ring.enter(Wait::Sleep { timeout_ns: 1_000_000 }).unwrap();
        assert!(ring.clock_ns() >= before_ns + 1_000_000);
    }

    #[test]
    fn a_wake_that_fails_says_whose_it_was() {
        let Some(mut ring) = small_ring() else { return };
        let (_client, server) = tcp_pair();
        ring.set_peers([-1, -1, server.as_raw_fd()].map(Peer::Ring).to_vec());
        ring.wake(2);
        let completion = sleep_and_reap(&mut ring).remove(0);
        assert_eq!((completion.token.op(), completion.token.slot()), (Op::WakeSent, 2));
        assert_eq!(completion.result, -libc::EBADFD);
    }

    #[test]
    fn the_completion_queue_holds_all_that_can_be_in_flight() {
        let config = RingConfig { pending_sends: 5000, ..RingConfig::default() };
        assert_eq!(config.completion_entries(), 2048 + 1024 + 256 + 5000 + 256);
        match Ring::new(config.clone()) {
            Ok(ring) => assert!(ring.completion_capacity() >= config.completion_entries() as usize),
            Err(error) => println!("skipped: {error}"),
        }
    }

    /// Ten times as many sends as the completion queue has entries, in one turn, none reaped in
    /// between: the submission queue is emptied in mid-turn, and the kernel keeps what does not fit.
    #[test]
    fn more_completions_than_fit_are_kept_and_brought_later() {
        let Some(mut ring) = small_ring() else { return };
        let (mut client, server) = tcp_pair();
        let count = 10 * ring.completion_capacity() as u32;
        for slot in 0..count {
            // SAFETY: a static string.
            unsafe { ring.send(server.as_raw_fd(), b"x".as_ptr(), 1, Token::new(Op::Send, slot, 0)) };
        }
        let mut slots = Vec::new();
        while slots.len() < count as usize {
            slots.extend(sleep_and_reap(&mut ring).into_iter().map(|it| {
                assert_eq!(it.result, 1);
                it.token.slot()
            }));
        }
        assert!(slots.into_iter().eq(0..count), "in order, each once");
        let mut received = vec![0; count as usize];
        client.read_exact(&mut received).unwrap();
    }

    /// 200 sockets become readable while the reactor is away: one enter brings them all, be it a poll
    /// or a sleep, though it would run 20 if it waited for one.
    #[test]
    fn an_enter_runs_more_than_twenty_items_of_work() {
        for wait in [Wait::Poll, FOREVER] {
            let config = RingConfig { buffer_count: 256, buffer_bytes: 64, ..RingConfig::default() };
            let Ok(mut ring) = Ring::new(config) else { return println!("skipped: no io_uring") };
            let mut pairs: Vec<_> = (0..200).map(|_| tcp_pair()).collect();
            for (slot, (_, server)) in pairs.iter().enumerate() {
                ring.receive_multishot(server.as_raw_fd(), Token::new(Op::Receive, slot as u32, 0));
            }
            ring.enter(Wait::Poll).unwrap();
            pairs.iter_mut().for_each(|(client, _)| client.write_all(b"x").unwrap());
            ring.enter(wait).unwrap();
            assert_eq!(std::iter::from_fn(|| ring.reap()).count(), 200, "{wait:?}");
        }
    }

    #[test]
    fn a_sleep_ends_at_its_timeout_and_a_poll_at_once() {
        let Some(mut ring) = small_ring() else { return };
        ring.enter(Wait::Sleep { timeout_ns: 1 }).unwrap();
        ring.enter(Wait::Poll).unwrap();
        assert!(ring.reap().is_none());
    }

    #[test]
    fn a_thread_that_burns_its_core_is_busier_than_one_that_sleeps() {
        let Some(mut ring) = small_ring() else { return };
        ring.busy_share(0);
        while ring.load.read() < ring.load.busy_ns + 20_000_000 {}
        let busy = ring.busy_share(20_000_000);
        ring.enter(Wait::Sleep { timeout_ns: 1_000_000 }).unwrap();
        let idle = ring.busy_share(60_000_000_000);
        assert!(busy == 1.0 && idle < 0.5, "{busy} {idle}");
        assert_eq!(parse_schedstat(b"123 456 7\n"), Some((123, 456)));
        assert_eq!(parse_schedstat(b""), None);
    }
}

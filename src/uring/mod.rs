//! Everything that touches the ring.
//!
//! [`Io`] is what a reactor asks of its kernel; [`ring::Ring`] is the real one on io_uring,
//! `sim` has an in-memory one under a seed. A reactor is generic over it and knows no other
//! difference.

pub mod buffers;
pub mod listener;
pub mod probe;
pub mod remedy;
pub mod ring;
#[cfg(test)]
pub mod sim;
pub mod socket_file;
pub mod token;
pub mod wake;

use std::{io, net::SocketAddr, os::fd::RawFd, sync::OnceLock, time::Instant};

pub use token::{Op, Token};

/// A receive buffer that the kernel lent us; given back with [`Io::recycle`] exactly once.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a lease that is not recycled is a buffer lost"]
pub struct Lease {
    /// The buffer's id in its ring.
    pub id: u16,
    /// How many bytes of it are filled.
    pub len: u32,
}

/// One completion.
#[derive(Debug, PartialEq, Eq)]
pub struct Completion {
    /// What was submitted.
    pub token: Token,
    /// Bytes or a descriptor, or the negated errno.
    pub result: i32,
    /// More completions of the same op follow. Without it the op is no longer in flight.
    pub more: bool,
    /// The buffer that holds what was received.
    pub lease: Option<Lease>,
}

/// Where a peer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAddress {
    /// An address and its port. An IPv4 address is never written as an IPv6 one.
    Ip(SocketAddr),
    /// This machine, through a Unix socket.
    Unix,
}

/// How long an enter may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Work is left: run up to 256 items of deferred work, do not sleep.
    Poll,
    /// Sleep until a completion comes or this many nanoseconds have passed.
    Sleep {
        /// The longest sleep, in nanoseconds.
        timeout_ns: u64,
    },
}

/// What a reactor asks of its kernel. None of the calls but [`Io::enter`] blocks.
///
/// Submissions never fail for want of room: when the submission queue is full the implementation
/// submits what is there first.
pub trait Io {
    /// Accepts on `listener` until cancelled: one completion per connection, its result the descriptor.
    fn accept_multishot(&mut self, listener: RawFd, token: Token);
    /// Accepts one connection on `listener`: the only completion's result is its descriptor.
    fn accept(&mut self, listener: RawFd, token: Token);
    /// Receives into provided buffers until cancelled, the end of the stream (result 0), an error, or
    /// want of buffers (`ENOBUFS`).
    fn receive_multishot(&mut self, socket: RawFd, token: Token);
    /// Receives into one provided buffer: one completion, like one of [`Io::receive_multishot`] that is its
    /// last. Want of buffers may be told before there are bytes to receive.
    fn receive(&mut self, socket: RawFd, token: Token);
    /// The same into one of the larger buffers, of which there are few, for whoever is known to send much. Its token's op
    /// says so, because a want of them is no want of the others.
    fn receive_large(&mut self, socket: RawFd, token: Token);
    /// Sends all of `len` bytes (`MSG_WAITALL | MSG_NOSIGNAL`).
    ///
    /// # Safety
    /// `bytes..bytes + len` must stay allocated and unwritten until the completion of `token`.
    unsafe fn send(&mut self, socket: RawFd, bytes: *const u8, len: u32, token: Token);
    /// Sends all that `message`'s vectors name (`MSG_WAITALL | MSG_NOSIGNAL`).
    ///
    /// # Safety
    /// `message`, its vectors and the bytes they name must stay allocated and unwritten until the
    /// completion of `token`.
    unsafe fn send_vectored(&mut self, socket: RawFd, message: *const libc::msghdr, token: Token);
    /// Asks that the op with token `target` end early. Its own completion, under `token`, says only
    /// whether it was found; the target's final completion still comes.
    fn cancel(&mut self, target: Token, token: Token);
    /// Wakes whoever is at port `index`, a reactor or a guest, out of its sleep; put at the head of what is submitted next. It completes
    /// only if it fails: with [`Op::WakeSent`], whose slot is `index`. Unless [`wake::is_gone`] it is to be sent
    /// again.
    fn wake(&mut self, index: usize);
    /// Submits everything and reaps what is there, waiting as `wait` says. It may come back early and with
    /// nothing. What the kernel does not take now (it may lack memory for requests, or want completions reaped
    /// first) goes with the next enter, in order but for wakes, which are always first; then it does not wait.
    ///
    /// # Errors
    /// What io_uring_enter(2) gives beyond what passes (`ETIME`, `EINTR`, `EAGAIN`, `EBUSY`): a bug or a dying
    /// kernel.
    fn enter(&mut self, wait: Wait) -> io::Result<()>;
    /// Whether the kernel has taken everything that was asked of it.
    fn is_all_submitted(&self) -> bool;
    /// Takes the next completion that the last enter brought.
    fn reap(&mut self) -> Option<Completion>;
    /// The filled bytes of a lease.
    fn leased(&mut self, lease: &Lease) -> &mut [u8];
    /// Gives a buffer back to the kernel.
    fn recycle(&mut self, lease: Lease);
    /// How many provided buffers the kernel has to fill now, the larger ones aside: the bound on re-arming after
    /// `ENOBUFS`.
    fn free_buffers(&self) -> usize;
    /// `shutdown(2)` of both directions: ends a multishot receive and fails a send in flight.
    fn shutdown(&mut self, socket: RawFd);
    /// `shutdown(2)` of our direction: the peer sees the end of the stream after what was sent.
    fn shutdown_write(&mut self, socket: RawFd);
    /// Has the kernel reset the connection instead of flushing it when the socket is closed
    /// (`SO_LINGER` of zero).
    fn reset_on_close(&mut self, socket: RawFd);
    /// `close(2)`: only when nothing of the socket is in flight.
    fn close(&mut self, socket: RawFd);
    /// How many bytes the peer has acknowledged since the socket was opened (`TCP_INFO`), or for a Unix socket a number
    /// that changes when it takes some: how a send in flight is seen to make progress. Called when a deadline has
    /// passed.
    fn acked_bytes(&mut self, socket: RawFd) -> u64;
    /// `getpeername(2)`, once per accept; `None` if the peer is already gone.
    fn peer_address(&mut self, socket: RawFd) -> Option<PeerAddress>;
    /// Nanoseconds on the clock that turns are told, now: never less than before.
    fn clock_ns(&mut self) -> u64;
    /// Nanoseconds since the Unix epoch, now: what the host takes for the time of day, which it may set back.
    fn wall_ns(&mut self) -> u64;
    /// How busy this thread's core was since the last call, 0.0 to 1.0, waiting for a turn on the core
    /// included: what pacing adapts to. Called at most every 50 ms.
    fn busy_share(&mut self, elapsed_ns: u64) -> f64;
}

/// Nanoseconds on the clock of all rings, now: what one reactor says of a time another one understands.
pub fn clock_ns() -> u64 {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    BEGAN.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// Whether an enter that failed so is simply tried again by the next one: the wait timed out or was interrupted, the
/// kernel is short of memory for requests (EAGAIN), or wants completions reaped before it takes more (EBUSY). What
/// was not submitted is kept by whoever entered.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

//! Waking whoever is at another port: a reactor from a thread that has no ring of its own, and anybody from a reactor.
//!
//! Whether somebody needs waking is the parker's business, not this file's: here is only how.

use std::{io, os::fd::RawFd};

use io_uring::{IoUring, opcode, squeue, types};

use super::{Op, Token, is_passing};

/// How often a doorbell enters its ring before it tells why a message did not go.
const TRIES_MAX: usize = 64;

/// A tiny ring that sends messages to the reactors' rings: for the control thread and for tests.
pub struct Doorbell {
    ring: IoUring,
    targets: Vec<RawFd>,
    /// Which message this is, so that the end of an earlier one is not taken for its own.
    number: u64,
    /// What the next enters fail with.
    #[cfg(test)]
    failures: std::collections::VecDeque<i32>,
}

impl Doorbell {
    /// A doorbell to the rings `targets`, by index.
    ///
    /// # Errors
    /// What io_uring_setup(2) says.
    pub fn new(targets: Vec<RawFd>) -> io::Result<Doorbell> {
        // No SINGLE_ISSUER: a doorbell may be made on one thread and move to another.
        Ok(Doorbell {
            ring: IoUring::new(4)?,
            targets,
            number: 0,
            #[cfg(test)]
            failures: Default::default(),
        })
    }

    /// Wakes the reactor at `index`: it reaps a completion of [`super::Op::Wake`].
    ///
    /// # Errors
    /// What the message failed with: `EBADFD` or `EBADF` if the reactor's ring is gone. Or why the kernel did not
    /// take it for many tries (`EINTR`, `EAGAIN`, `EBUSY`): then it may still go with a later one.
    pub fn ring(&mut self, index: usize) -> io::Result<()> {
        self.number += 1;
        let entry = wake_entry(Peer::Ring(self.targets[index]), index).clear_flags().user_data(self.number);
        let mut is_queued = false;
        let mut failure = None;
        for _ in 0..TRIES_MAX {
            // Messages that did not go may fill the queue: entering takes them out of it.
            // SAFETY: a message to a ring points at no memory.
            is_queued = is_queued || unsafe { self.ring.submission().push(&entry) }.is_ok();
            match self.enter() {
                Ok(_) => {}
                Err(error) if is_passing(&error) => failure = Some(error),
                Err(error) => return Err(error),
            }
            let mut ended = self.ring.completion().map(|sent| (sent.user_data(), sent.result()));
            if let Some((_, result)) = ended.find(|(number, _)| *number == self.number) {
                return if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) };
            }
            std::thread::yield_now();
        }
        Err(failure.unwrap_or_else(|| io::ErrorKind::TimedOut.into()))
    }

    /// Submits what is queued, and waits for something to complete.
    fn enter(&mut self) -> io::Result<usize> {
        #[cfg(test)]
        if let Some(errno) = self.failures.pop_front() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        self.ring.submit_and_wait(1)
    }
}

/// How somebody is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A reactor, by a message to its ring.
    Ring(RawFd),
    /// A guest, by a byte to the other end of this stream socket: it has no ring that takes messages.
    Socket(RawFd),
}

/// Whether a wake with this result failed because there is no ring, or no thread behind it, to wake any more.
/// Any other failure (`EOVERFLOW`, `ENOMEM`, `EAGAIN`) passes.
pub fn is_gone(result: i32) -> bool {
    matches!(-result, libc::EBADF | libc::EBADFD | libc::EOWNERDEAD | libc::EPIPE | libc::ECONNRESET)
}

/// A wake of `peer`, who is at port `index`. It completes here only if it fails.
pub(super) fn wake_entry(peer: Peer, index: usize) -> squeue::Entry {
    let entry = match peer {
        Peer::Ring(ring) => {
            let woken = Token::new(Op::Wake, 0, 0).user_data();
            opcode::MsgRingData::new(types::Fd(ring), 0, woken, None).build()
        }
        Peer::Socket(socket) => {
            static BYTE: u8 = 0;
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            opcode::Send::new(types::Fd(socket), &raw const BYTE, 1).flags(flags).build()
        }
    };
    entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(Token::new(Op::WakeSent, index as u32, 0).user_data())
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        os::{fd::AsRawFd, unix::net::UnixStream},
        sync::mpsc,
        thread,
    };

    use super::*;
    use crate::uring::{
        Io, Op, Wait,
        ring::{
            Ring,
            tests::{small_ring, wake_count},
        },
    };

    #[test]
    fn a_doorbell_wakes_a_reactor_that_sleeps() {
        if small_ring().is_none() {
            return;
        }
        let (tell, told) = mpsc::channel();
        let sleeper = thread::spawn(move || {
            let mut ring = small_ring().unwrap();
            tell.send(ring.as_raw_fd()).unwrap();
            until_woken(&mut ring);
            until_woken(&mut ring);
        });
        let mut doorbell = Doorbell::new(vec![told.recv().unwrap()]).unwrap();
        doorbell.ring(0).unwrap();
        // From yet another thread: a doorbell is Send.
        thread::spawn(move || doorbell.ring(0).unwrap()).join().unwrap();
        sleeper.join().unwrap();
    }

    #[test]
    fn a_reactor_that_is_gone_is_an_error() {
        let Some(ring) = small_ring() else { return };
        let not_a_ring = std::fs::File::open("/dev/null").unwrap();
        drop(ring);
        let mut doorbell = Doorbell::new(vec![not_a_ring.as_raw_fd()]).unwrap();
        assert_eq!(doorbell.ring(0).unwrap_err().raw_os_error(), Some(libc::EBADFD));
        // And the doorbell still works afterwards.
        assert!(doorbell.ring(0).is_err());
    }

    /// A reactor, and a doorbell to it.
    fn ring_and_doorbell() -> Option<(Ring, Doorbell)> {
        let ring = small_ring()?;
        let doorbell = Doorbell::new(vec![ring.as_raw_fd()]).unwrap();
        Some((ring, doorbell))
    }

    #[test]
    fn a_failure_that_passes_is_nobodys_business() {
        let Some((mut ring, mut doorbell)) = ring_and_doorbell() else { return };
        doorbell.failures.extend([libc::EINTR, libc::EAGAIN, libc::EBUSY]);
        doorbell.ring(0).unwrap();
        assert_eq!(wake_count(&mut ring), 1);
        assert!(doorbell.failures.is_empty());
    }

    /// Its queue has four entries: what six rings could not send fills it. The next ring finds room, sends
    /// what waits, and is told of its own message.
    #[test]
    fn a_doorbell_whose_enters_fail_says_so_and_works_again() {
        let Some((mut ring, mut doorbell)) = ring_and_doorbell() else { return };
        for errno in [libc::EINTR, libc::EAGAIN, libc::EBUSY, libc::EAGAIN, libc::EAGAIN, libc::EAGAIN] {
            doorbell.failures.extend([errno; TRIES_MAX]);
            assert_eq!(doorbell.ring(0).unwrap_err().raw_os_error(), Some(errno));
        }
        assert_eq!(wake_count(&mut ring), 0);
        doorbell.ring(0).unwrap();
        assert_eq!(wake_count(&mut ring), 4 + 1);
        doorbell.ring(0).unwrap();
        assert_eq!(wake_count(&mut ring), 1);
    }

    /// The first message could not go, and finds its ring gone when it does: that is not the second's failure.
    #[test]
    fn the_end_of_an_earlier_message_is_not_taken_for_its_own() {
        let Some((mut ring, mut doorbell)) = ring_and_doorbell() else { return };
        let not_a_ring = std::fs::File::open("/dev/null").unwrap();
        doorbell.targets.push(not_a_ring.as_raw_fd());
        doorbell.failures.extend([libc::EAGAIN; TRIES_MAX]);
        assert!(doorbell.ring(1).is_err());
        doorbell.ring(0).unwrap();
        assert_eq!(wake_count(&mut ring), 1);
    }

    #[test]
    fn a_guest_is_woken_by_a_byte_unless_it_is_gone() {
        let Some(mut ring) = small_ring() else { return };
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ring.set_peers(vec![Peer::Ring(ring.as_raw_fd()), Peer::Socket(ours.as_raw_fd())]);
        ring.wake(1);
        ring.enter(Wait::Poll).unwrap();
        assert_eq!(ring.reap(), None, "a wake that goes says nothing");
        assert_eq!(theirs.read(&mut [0; 4]).unwrap(), 1);
        drop(theirs);
        ring.wake(1);
        ring.enter(Wait::Sleep { timeout_ns: 60_000_000_000 }).unwrap();
        let failed = ring.reap().expect("a wake that fails says so");
        assert_eq!((failed.token.op(), failed.token.slot()), (Op::WakeSent, 1));
        assert!(is_gone(failed.result), "{}", failed.result);
    }

    #[test]
    fn a_wake_fails_for_good_only_where_nobody_is() {
        assert!(is_gone(-libc::EBADFD) && is_gone(-libc::EBADF) && is_gone(-libc::EPIPE));
        assert!(![-libc::EOVERFLOW, -libc::ENOMEM, -libc::EAGAIN, 0].into_iter().any(is_gone));
    }

    fn until_woken(ring: &mut Ring) {
        loop {
            ring.enter(Wait::Sleep { timeout_ns: 60_000_000_000 }).unwrap();
            let completion = ring.reap().expect("woken before the minute was over");
            if completion.token.op() == Op::Wake {
                return;
            }
        }
    }
}

//! Waking a reactor from a thread that has no ring of its own.
//!
//! Whether a reactor needs waking is the parker's business, not this file's: here is only how.

use std::{io, os::fd::RawFd};

use io_uring::{IoUring, opcode, squeue, types};

use super::{Op, Token};

/// A tiny ring that sends messages to the reactors' rings: for the control thread and for tests.
pub struct Doorbell {
    ring: IoUring,
    targets: Vec<RawFd>,
}

impl Doorbell {
    /// A doorbell to the rings `targets`, by index.
    ///
    /// # Errors
    /// What io_uring_setup(2) says.
    pub fn new(targets: Vec<RawFd>) -> io::Result<Doorbell> {
        // No SINGLE_ISSUER: a doorbell may be made on one thread and move to another.
        Ok(Doorbell { ring: IoUring::new(4)?, targets })
    }

    /// Wakes the reactor at `index`: it reaps a completion of [`super::Op::Wake`].
    ///
    /// # Errors
    /// What the message failed with: `EBADFD` if the reactor's ring is gone.
    pub fn ring(&mut self, index: usize) -> io::Result<()> {
        let entry = wake_entry(self.targets[index], index).clear_flags();
        // SAFETY: a message to a ring points at no memory.
        unsafe { self.ring.submission().push(&entry) }.expect("every earlier message was reaped");
        loop {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            if let Some(sent) = self.ring.completion().next() {
                return match sent.result() {
                    0.. => Ok(()),
                    errno => Err(io::Error::from_raw_os_error(-errno)),
                };
            }
        }
    }
}

/// A message to the ring `target`, the reactor at `index`. It completes here only if it fails.
pub(super) fn wake_entry(target: RawFd, index: usize) -> squeue::Entry {
    let woken = Token::new(Op::Wake, 0, 0).user_data();
    opcode::MsgRingData::new(types::Fd(target), 0, woken, None)
        .build()
        .flags(squeue::Flags::SKIP_SUCCESS)
        .user_data(Token::new(Op::WakeSent, index as u32, 0).user_data())
}

#[cfg(test)]
mod tests {
    use std::{os::fd::AsRawFd, sync::mpsc, thread};

    use super::*;
    use crate::uring::{
        Io, Op, Wait,
        ring::{Ring, tests::small_ring},
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

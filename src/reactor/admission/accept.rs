//! Accepting: from which listeners a reactor takes connections, and whether it does.

use std::{os::fd::RawFd, sync::mpsc};

use super::rate::Rate;
use crate::uring::{Completion, Io, Op, Token};

/// How long an accept waits after the kernel had no descriptor for it, in nanoseconds.
const RETRY_NS: u64 = 100_000_000;
/// A connection that comes so soon after a pause that the rate asked for has waited for it, in nanoseconds.
const AT_ONCE_NS: u64 = 2_000_000;

/// A socket to accept from.
#[derive(Debug)]
pub struct Source<S> {
    /// The socket.
    pub socket: S,
    /// Other reactors accept from the same queue.
    pub is_shared: bool,
}

/// A reactor's listeners, each with its accept: multishot, but single under a rate, which a multishot
/// accept would outrun. The descriptors are its own.
#[derive(Debug)]
pub(in super::super) struct Acceptor {
    listeners: Vec<Listener>,
    is_open: bool,
    rate: Option<Rate>,
    /// What the rate knows of the accepts before.
    due_ns: u64,
    /// Who is to be told once no accept is in flight.
    waiters: Vec<mpsc::Sender<()>>,
}

#[derive(Debug)]
struct Listener {
    source: Source<RawFd>,
    accept: Accept,
    /// When it was armed after a pause that the rate asked for.
    resumed_ns: u64,
    /// The accept was cancelled only to be armed anew: so that another reactor's comes first, or by what is
    /// the rate since.
    is_yielding: bool,
}

/// Where a listener's accept is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accept {
    /// In flight, though perhaps with its cancellation behind it.
    Armed,
    /// Out of descriptors: armed again then, or when a connection is closed.
    Starved {
        until_ns: u64,
    },
    /// The rate allows no more: armed again then.
    Paced {
        until_ns: u64,
    },
    Idle,
}

impl Acceptor {
    /// Accepts from `sources`, whose sockets become its own, once it is opened.
    pub fn new(sources: Vec<Source<RawFd>>) -> Acceptor {
        let listener = |source| Listener { source, accept: Accept::Idle, resumed_ns: 0, is_yielding: false };
        let listeners = sources.into_iter().map(listener).collect();
        Acceptor { listeners, is_open: false, rate: None, due_ns: 0, waiters: Vec::new() }
    }

    /// Accepts from now on.
    pub fn open(&mut self, io: &mut impl Io) {
        self.is_open = true;
        for index in 0..self.listeners.len() {
            if self.listeners[index].accept == Accept::Idle {
                self.arm(index, io);
            }
        }
    }

    /// Accepts at most so many per second from now on.
    pub fn set_rate(&mut self, rate: Option<Rate>, io: &mut impl Io) {
        if std::mem::replace(&mut self.rate, rate) == rate {
            return;
        }
        // What is known is in intervals of the old rate.
        self.due_ns = 0;
        for index in 0..self.listeners.len() {
            match self.listeners[index].accept {
                Accept::Armed => self.rearm(index, io),
                Accept::Paced { .. } => self.arm(index, io),
                Accept::Starved { .. } | Accept::Idle => {}
            }
        }
    }

    /// Accepts no more. Connections may still come until [`Acceptor::is_idle`]: the kernel has taken them
    /// from the listener's queue, so they are ours.
    pub fn stop(&mut self, io: &mut impl Io) {
        self.is_open = false;
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            match listener.accept {
                Accept::Armed => io.cancel(token(Op::Accept, index), token(Op::Cancel, index)),
                Accept::Starved { .. } | Accept::Paced { .. } => listener.accept = Accept::Idle,
                Accept::Idle => {}
            }
        }
    }

    /// `waiter` is told as soon as no accept is in flight.
    pub fn tell_when_idle(&mut self, waiter: mpsc::Sender<()>) {
        self.waiters.push(waiter);
        self.tell_waiters();
    }

    /// Whether the kernel holds no accept: no connection will come.
    pub fn is_idle(&self) -> bool {
        self.listeners.iter().all(|listener| listener.accept != Accept::Armed)
    }

    /// Closes the listeners, which accept no more. If nobody else has them, whoever connects is refused.
    pub fn close(&mut self, io: &mut impl Io) {
        assert!(!self.is_open && self.is_idle(), "a listener is closed under an accept");
        self.listeners.drain(..).for_each(|listener| io.close(listener.source.socket));
    }

    /// An accept's completion: the connection, if it brought one, or the want of a descriptor.
    pub fn on_completion(
        &mut self,
        completion: &Completion,
        now_ns: u64,
        io: &mut impl Io,
    ) -> Result<Option<Accepted>, OutOfDescriptors> {
        let index = completion.token.slot() as usize;
        let listener = &mut self.listeners[index];
        if !completion.more {
            (listener.accept, listener.is_yielding) = (Accept::Idle, false);
        } else if listener.source.is_shared {
            // The kernel gives every connection to whose accept is armed the longest.
            self.rearm(index, io);
        }
        let accepted = match completion.result {
            socket if socket >= 0 => {
                let resumed_ns = self.listeners[index].resumed_ns;
                let has_waited = self.rate.is_some() && now_ns < resumed_ns + AT_ONCE_NS;
                Ok(Some(Accepted { socket, has_waited }))
            }
            error if is_passing(-error) => Ok(None),
            // No descriptor, no memory, or what we do not know: not again at once, it would spin.
            _ => Err(OutOfDescriptors),
        };
        let paced_until_ns = self.rate.and_then(|rate| {
            if let Ok(Some(_)) = accepted {
                rate.charge(&mut self.due_ns, now_ns);
            }
            let next_ns = rate.next_ns(self.due_ns);
            (next_ns > now_ns).then_some(next_ns)
        });
        // Any end without MORE is one, a successful accept's too.
        if self.is_open && self.listeners[index].accept == Accept::Idle {
            match (accepted, paced_until_ns) {
                (Err(_), _) => self.listeners[index].accept = Accept::Starved { until_ns: now_ns + RETRY_NS },
                (Ok(_), Some(until_ns)) => self.listeners[index].accept = Accept::Paced { until_ns },
                (Ok(_), None) => self.arm(index, io),
            }
        }
        self.tell_waiters();
        accepted
    }

    /// Arms what waited long enough.
    pub fn retry(&mut self, now_ns: u64, io: &mut impl Io) {
        for index in 0..self.listeners.len() {
            match self.listeners[index].accept {
                Accept::Starved { until_ns } if now_ns >= until_ns => self.arm(index, io),
                Accept::Paced { until_ns } if now_ns >= until_ns => {
                    self.listeners[index].resumed_ns = now_ns;
                    self.arm(index, io);
                }
                _ => {}
            }
        }
    }

    /// A connection was closed: there is a descriptor for who waits for one.
    pub fn on_close(&mut self, io: &mut impl Io) {
        for index in 0..self.listeners.len() {
            if let Accept::Starved { .. } = self.listeners[index].accept {
                self.arm(index, io);
            }
        }
    }

    /// When to [`Acceptor::retry`], if anything waits.
    pub fn next_retry_ns(&self) -> Option<u64> {
        let due_ns = |listener: &Listener| match listener.accept {
            Accept::Starved { until_ns } | Accept::Paced { until_ns } => Some(until_ns),
            Accept::Armed | Accept::Idle => None,
        };
        self.listeners.iter().filter_map(due_ns).min()
    }

    fn arm(&mut self, index: usize, io: &mut impl Io) {
        let listener = &mut self.listeners[index];
        listener.accept = Accept::Armed;
        match self.rate {
            None => io.accept_multishot(listener.source.socket, token(Op::Accept, index)),
            Some(_) => io.accept(listener.source.socket, token(Op::Accept, index)),
        }
    }

    /// Ends an accept that is in flight, so that its end arms the next.
    fn rearm(&mut self, index: usize, io: &mut impl Io) {
        let listener = &mut self.listeners[index];
        if !std::mem::replace(&mut listener.is_yielding, true) {
            io.cancel(token(Op::Accept, index), token(Op::Cancel, index));
        }
    }

    fn tell_waiters(&mut self) {
        if self.is_idle() {
            for waiter in self.waiters.drain(..) {
                // Whoever asked may have gone: then nobody waits.
                let _ = waiter.send(());
            }
        }
    }
}

/// A connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Accepted {
    pub socket: RawFd,
    /// It stood in the listener's queue because of the rate.
    pub has_waited: bool,
}

/// The kernel could not give an accepted connection a descriptor; it waits in the listener's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct OutOfDescriptors;

/// Whether an accept that failed so may be tried again at once.
fn is_passing(errno: i32) -> bool {
    matches!(
        errno,
        libc::ECANCELED | libc::ECONNABORTED | libc::EINTR | libc::EAGAIN | libc::EPERM | libc::EPROTO
    )
}

fn token(op: Op, listener: usize) -> Token {
    Token::new(op, listener as u32, 0)
}

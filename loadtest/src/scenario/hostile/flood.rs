//! Attackers by the thousand on one thread: each sends its bytes as fast as they are taken, and throws away
//! what comes, or does not even read it.

use std::{
    io::{ErrorKind, Write},
    net::TcpStream,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use super::client::Client;
use crate::{client::INTERRUPTED, clock, connect::Target};

/// The most that one attacker sends before the next has a turn.
const CHUNK_BYTES: usize = 64 * 1024;
/// The most that is thrown away with one call.
const READ_BYTES: usize = 256 * 1024;
/// How long it waits when nobody can send or read, or nobody may.
const PATIENCE_MS: i32 = 1;
/// Readiness that is asked for at a time.
const EVENTS: usize = 256;
/// All is settled when everything is sent and nothing has come for so long.
const QUIET_NS: u64 = 300_000_000;

/// What an attacker sends.
#[derive(Clone)]
pub struct Source {
    bytes: Arc<Vec<u8>>,
    offset: usize,
    then: Then,
}

/// What follows when all of it is sent.
#[derive(Clone)]
enum Then {
    Nothing,
    Again,
    /// What this writes in place of it.
    More(Refill),
}

type Refill = Arc<dyn Fn(u64, &mut Vec<u8>) + Send + Sync>;

impl Source {
    /// Nothing.
    pub fn silent() -> Source {
        Source::once(Vec::new())
    }

    /// These bytes.
    pub fn once(bytes: Vec<u8>) -> Source {
        Source { bytes: Arc::new(bytes), offset: 0, then: Then::Nothing }
    }

    /// These bytes over and over.
    pub fn again(bytes: Arc<Vec<u8>>) -> Source {
        Source { bytes, offset: 0, then: Then::Again }
    }

    /// What `refill` writes, each time told a number of its own, beginning with `first`.
    pub fn ever_new(first: u64, refill: Refill) -> Source {
        let mut bytes = Vec::new();
        refill(first, &mut bytes);
        let next = move |round: u64, out: &mut Vec<u8>| refill(first + round, out);
        Source { bytes: Arc::new(bytes), offset: 0, then: Then::More(Arc::new(next)) }
    }

    /// What is to be sent next; empty when there is nothing more. `round` counts what was begun anew.
    fn remaining(&mut self, round: &mut u64) -> &[u8] {
        if self.offset == self.bytes.len() && !self.bytes.is_empty() {
            match &self.then {
                Then::Nothing => {}
                Then::Again => self.offset = 0,
                Then::More(refill) => {
                    *round += 1;
                    let bytes = Arc::make_mut(&mut self.bytes);
                    bytes.clear();
                    refill(*round, bytes);
                    self.offset = 0;
                }
            }
        }
        &self.bytes[self.offset..]
    }
}

/// One attacker.
pub struct Attacker {
    socket: TcpStream,
    source: Source,
    round: u64,
    is_reading: bool,
    /// Opened anew when the broker closes it, to say this first.
    comeback: Option<Vec<u8>>,
    is_open: bool,
    /// What the kernel was asked to tell of it.
    asked: u32,
}

impl Attacker {
    /// On an upgraded connection.
    pub fn new(client: Client, source: Source, is_reading: bool) -> Attacker {
        let Client { socket, .. } = client;
        Attacker { socket, source, round: 0, is_reading, comeback: None, is_open: true, asked: 0 }
    }

    /// One that does not read, and comes back with `first` when it is closed.
    pub fn returning(client: Client, first: Vec<u8>) -> Attacker {
        Attacker { comeback: Some(first), ..Attacker::new(client, Source::silent(), false) }
    }

    fn interests(&mut self) -> u32 {
        let wants_out = !self.source.remaining(&mut self.round).is_empty();
        // Of one who does not read, only the end is of interest.
        let input = if self.is_reading { libc::EPOLLIN } else { libc::EPOLLRDHUP };
        let output = if wants_out { libc::EPOLLOUT } else { 0 };
        (input | output) as u32
    }
}

/// Attackers that share a thread.
pub struct Flood {
    target: Target,
    poll: OwnedFd,
    attackers: Vec<Attacker>,
    /// The most that all of them send per second.
    bytes_per_s: Option<u64>,
    tally: Tally,
    last_received_ns: u64,
}

/// What came of an attack, from the attackers' side.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// What was sent.
    pub sent_bytes: u64,
    /// What was read.
    pub received_bytes: u64,
    /// How many connections the broker closed.
    pub closed: u64,
}

impl Tally {
    /// Adds another's.
    pub fn add(&mut self, other: Tally) {
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
        self.closed += other.closed;
    }
}

/// When a flood is over besides its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Only then.
    Time,
    /// When everything is sent, and what came of it has come.
    Settled,
}

impl Flood {
    /// Of attackers that have not begun.
    ///
    /// # Errors
    /// One line: what the kernel refused.
    pub fn new(target: &Target, attackers: Vec<Attacker>, bytes_per_s: Option<u64>) -> Result<Flood, String> {
        // SAFETY: takes no pointer.
        let poll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if poll < 0 {
            return Err(format!("epoll_create1: {}", std::io::Error::last_os_error()));
        }
        // SAFETY: the descriptor is new and nobody else's.
        let poll = unsafe { OwnedFd::from_raw_fd(poll) };
        let tally = Tally::default();
        let target = target.clone();
        let mut flood = Flood { target, poll, attackers, bytes_per_s, tally, last_received_ns: 0 };
        for index in 0..flood.attackers.len() {
            let socket = &flood.attackers[index].socket;
            socket.set_nonblocking(true).map_err(|error| error.to_string())?;
            // Closing resets: what the broker has not read of this attack is none of the next one's.
            let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
            flood.watch(index, libc::EPOLL_CTL_ADD)?;
        }
        Ok(flood)
    }

    /// Attacks until `end_ns`, or as long as `until` says.
    ///
    /// # Errors
    /// One line: what the kernel refused.
    pub fn run(&mut self, end_ns: u64, until: Until) -> Result<(), String> {
        let begin_ns = clock::now_ns();
        self.last_received_ns = begin_ns;
        let mut scratch = vec![0; READ_BYTES];
        let mut events: Vec<libc::epoll_event> = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        loop {
            let now_ns = clock::now_ns();
            let is_over = now_ns >= end_ns || INTERRUPTED.load(SeqCst);
            if is_over || (until == Until::Settled && self.is_settled(now_ns)) {
                return Ok(());
            }
            // SAFETY: the events are valid places for as many answers.
            let count = unsafe {
                libc::epoll_wait(self.poll.as_raw_fd(), events.as_mut_ptr(), EVENTS as i32, PATIENCE_MS)
            };
            let mut room = self.bytes_per_s.map_or(u64::MAX, |rate| {
                let due = (now_ns - begin_ns) as u128 * rate as u128 / 1_000_000_000;
                (due as u64).saturating_sub(self.tally.sent_bytes)
            });
            let is_held_back = room == 0;
            for event in &events[..count.max(0) as usize] {
                let (index, ready) = (event.u64 as usize, event.events as i32);
                self.serve(index, ready, &mut room, &mut scratch)?;
            }
            if is_held_back {
                std::thread::sleep(Duration::from_millis(PATIENCE_MS as u64));
            }
        }
    }

    /// What was done so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    fn serve(&mut self, index: usize, ready: i32, room: &mut u64, scratch: &mut [u8]) -> Result<(), String> {
        let attacker = &mut self.attackers[index];
        let mut is_over = ready & (libc::EPOLLHUP | libc::EPOLLERR | libc::EPOLLRDHUP) != 0
            && (!attacker.is_reading || ready & libc::EPOLLIN == 0);
        if ready & libc::EPOLLIN != 0 && attacker.is_reading {
            match throw_away(&attacker.socket, scratch) {
                Ok(0) => is_over = true,
                Ok(len) => {
                    self.tally.received_bytes += len as u64;
                    self.last_received_ns = clock::now_ns();
                }
                Err(error) => is_over |= !is_passing(&error),
            }
        }
        if ready & libc::EPOLLOUT != 0 && !is_over {
            let remaining = attacker.source.remaining(&mut attacker.round);
            let len = remaining.len().min(CHUNK_BYTES).min(*room as usize);
            if len > 0 {
                match (&attacker.socket).write(&remaining[..len]) {
                    Ok(len) => {
                        attacker.source.offset += len;
                        self.tally.sent_bytes += len as u64;
                        *room -= len as u64;
                    }
                    Err(error) => is_over |= !is_passing(&error),
                }
            }
        }
        match is_over {
            true => self.on_closed(index),
            false => self.watch(index, libc::EPOLL_CTL_MOD),
        }
    }

    /// It is gone, or comes back.
    fn on_closed(&mut self, index: usize) -> Result<(), String> {
        self.tally.closed += 1;
        self.attackers[index].is_open = false;
        let Some(first) = self.attackers[index].comeback.clone() else {
            return self.watch(index, libc::EPOLL_CTL_DEL);
        };
        // A broker that has no time for it is what is looked for, by others.
        let Ok(client) = Client::open(&self.target, index, false) else {
            return self.watch(index, libc::EPOLL_CTL_DEL);
        };
        client.receive_little();
        // The old one is closed with this, and with that forgotten by the kernel.
        self.attackers[index] = Attacker::returning(client, first.clone());
        let socket = &self.attackers[index].socket;
        let _ = (&*socket).write_all(&first);
        socket.set_nonblocking(true).map_err(|error| error.to_string())?;
        self.watch(index, libc::EPOLL_CTL_ADD)
    }

    /// Tells the kernel what is of interest, if that has changed.
    fn watch(&mut self, index: usize, operation: i32) -> Result<(), String> {
        let attacker = &mut self.attackers[index];
        let wanted = attacker.interests();
        if operation == libc::EPOLL_CTL_MOD && wanted == attacker.asked {
            return Ok(());
        }
        attacker.asked = wanted;
        let mut event = libc::epoll_event { events: wanted, u64: index as u64 };
        let (poll, socket) = (self.poll.as_raw_fd(), attacker.socket.as_raw_fd());
        // SAFETY: both descriptors are open, and the event is valid during the call.
        match unsafe { libc::epoll_ctl(poll, operation, socket, &mut event) } {
            0 => Ok(()),
            _ => Err(format!("epoll_ctl: {}", std::io::Error::last_os_error())),
        }
    }

    fn is_settled(&mut self, now_ns: u64) -> bool {
        let is_quiet = now_ns.saturating_sub(self.last_received_ns) >= QUIET_NS;
        let is_done = |it: &mut Attacker| !it.is_open || it.source.remaining(&mut it.round).is_empty();
        is_quiet && self.attackers.iter_mut().all(is_done)
    }
}

/// Reads without copying: how many bytes there were; 0 at the end.
fn throw_away(socket: &TcpStream, scratch: &mut [u8]) -> std::io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    // SAFETY: the bytes are valid during the call.
    match unsafe { libc::recv(socket.as_raw_fd(), scratch.as_mut_ptr().cast(), scratch.len(), flags) } {
        len @ 0.. => Ok(len as usize),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Whether it is no end, only nothing for now.
pub fn is_passing(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(source: &mut Source, round: &mut u64, len: usize) -> Vec<u8> {
        let taken = source.remaining(round)[..len].to_vec();
        source.offset += len;
        taken
    }

    #[test]
    fn a_source_goes_on_as_it_was_told() {
        let mut round = 0;
        let mut once = Source::once(b"abc".to_vec());
        assert_eq!(take(&mut once, &mut round, 2), b"ab");
        assert_eq!(take(&mut once, &mut round, 1), b"c");
        assert!(once.remaining(&mut round).is_empty() && Source::silent().remaining(&mut round).is_empty());

        let mut again = Source::again(Arc::new(b"ab".to_vec()));
        assert_eq!(take(&mut again, &mut round, 2), b"ab");
        assert_eq!(take(&mut again, &mut round, 1), b"a");

        let refill = |number: u64, out: &mut Vec<u8>| out.extend(number.to_string().bytes());
        let mut new = Source::ever_new(7, Arc::new(refill));
        assert_eq!(take(&mut new, &mut round, 1), b"7");
        assert_eq!(take(&mut new, &mut round, 1), b"8");
        assert_eq!(take(&mut new, &mut round, 1), b"9");
    }
}

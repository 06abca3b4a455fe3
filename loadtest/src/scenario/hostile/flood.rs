//! Attackers by the thousand on one thread: each sends its bytes as fast as they are taken, and throws away
//! what comes, or does not even read it.

use std::{
    io::{ErrorKind, Write},
    net::TcpStream,
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
    },
    io::Errno,
    net::{RecvFlags, recv},
};

use super::client::Client;
use crate::{client::INTERRUPTED, clock, connect::Target};

/// The most that one attacker sends before the next has a turn.
const CHUNK_BYTES: usize = 64 * 1024;
/// The most that is thrown away with one call.
const READ_BYTES: usize = 256 * 1024;
/// How long it waits when nobody can send or read, or nobody may.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
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
    asked: EventFlags,
}

impl Attacker {
    /// On an upgraded connection.
    pub fn new(client: Client, source: Source, is_reading: bool) -> Attacker {
        let Client { socket, .. } = client;
        let asked = EventFlags::empty();
        Attacker { socket, source, round: 0, is_reading, comeback: None, is_open: true, asked }
    }

    /// One that does not read, and comes back with `first` when it is closed.
    pub fn returning(client: Client, first: Vec<u8>) -> Attacker {
        Attacker { comeback: Some(first), ..Attacker::new(client, Source::silent(), false) }
    }

    fn interests(&mut self) -> EventFlags {
        let wants_out = !self.source.remaining(&mut self.round).is_empty();
        // Of one who does not read, only the end is of interest.
        let input = if self.is_reading { EventFlags::IN } else { EventFlags::RDHUP };
        let output = if wants_out { EventFlags::OUT } else { EventFlags::empty() };
        input | output
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
        let poll = epoll::create(CreateFlags::CLOEXEC).map_err(|error| format!("epoll_create1: {error}"))?;
        let tally = Tally::default();
        let target = target.clone();
        let mut flood = Flood { target, poll, attackers, bytes_per_s, tally, last_received_ns: 0 };
        for index in 0..flood.attackers.len() {
            let socket = &flood.attackers[index].socket;
            socket.set_nonblocking(true).map_err(|error| error.to_string())?;
            // Closing resets: what the broker has not read of this attack is none of the next one's.
            let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
            flood.watch(index)?;
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
        let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS);
        loop {
            let now_ns = clock::now_ns();
            let is_over = now_ns >= end_ns || INTERRUPTED.load(SeqCst);
            if is_over || (until == Until::Settled && self.is_settled(now_ns)) {
                return Ok(());
            }
            events.clear();
            // A signal is no event.
            let _ = epoll::wait(&self.poll, spare_capacity(&mut events), Some(&PATIENCE));
            let mut room = self.bytes_per_s.map_or(u64::MAX, |rate| {
                let due = (now_ns - begin_ns) as u128 * rate as u128 / 1_000_000_000;
                (due as u64).saturating_sub(self.tally.sent_bytes)
            });
            let is_held_back = room == 0;
            for event in &events {
                self.serve(event.data.u64() as usize, event.flags, &mut room, &mut scratch)?;
            }
            if is_held_back {
                std::thread::sleep(Duration::from_nanos(PATIENCE.tv_nsec as u64));
            }
        }
    }

    /// What was done so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    fn serve(
        &mut self,
        index: usize,
        ready: EventFlags,
        room: &mut u64,
        scratch: &mut [u8],
    ) -> Result<(), String> {
        let attacker = &mut self.attackers[index];
        let mut is_over = ready.intersects(EventFlags::HUP | EventFlags::ERR | EventFlags::RDHUP)
            && (!attacker.is_reading || !ready.contains(EventFlags::IN));
        if ready.contains(EventFlags::IN) && attacker.is_reading {
            match throw_away(&attacker.socket, scratch) {
                Ok(0) => is_over = true,
                Ok(len) => {
                    self.tally.received_bytes += len as u64;
                    self.last_received_ns = clock::now_ns();
                }
                Err(error) => is_over |= !is_passing(&error),
            }
        }
        if ready.contains(EventFlags::OUT) && !is_over {
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
            false => self.watch_again(index),
        }
    }

    /// It is gone, or comes back.
    fn on_closed(&mut self, index: usize) -> Result<(), String> {
        self.tally.closed += 1;
        self.attackers[index].is_open = false;
        let Some(first) = self.attackers[index].comeback.clone() else {
            return self.forget(index);
        };
        // A broker that has no time for it is what is looked for, by others.
        let Ok(client) = Client::open(&self.target, index, false) else {
            return self.forget(index);
        };
        client.receive_little();
        // The old one is closed with this, and with that forgotten by the kernel.
        self.attackers[index] = Attacker::returning(client, first.clone());
        let socket = &self.attackers[index].socket;
        let _ = (&*socket).write_all(&first);
        socket.set_nonblocking(true).map_err(|error| error.to_string())?;
        self.watch(index)
    }

    /// Tells the kernel what is of interest.
    fn watch(&mut self, index: usize) -> Result<(), String> {
        let attacker = &mut self.attackers[index];
        attacker.asked = attacker.interests();
        let data = EventData::new_u64(index as u64);
        epoll::add(&self.poll, &attacker.socket, data, attacker.asked).map_err(not_watched)
    }

    /// And again, if that has changed.
    fn watch_again(&mut self, index: usize) -> Result<(), String> {
        let attacker = &mut self.attackers[index];
        let wanted = attacker.interests();
        if wanted == attacker.asked {
            return Ok(());
        }
        attacker.asked = wanted;
        let data = EventData::new_u64(index as u64);
        epoll::modify(&self.poll, &attacker.socket, data, wanted).map_err(not_watched)
    }

    /// Nothing is of interest any more.
    fn forget(&mut self, index: usize) -> Result<(), String> {
        epoll::delete(&self.poll, &self.attackers[index].socket).map_err(not_watched)
    }

    fn is_settled(&mut self, now_ns: u64) -> bool {
        let is_quiet = now_ns.saturating_sub(self.last_received_ns) >= QUIET_NS;
        let is_done = |it: &mut Attacker| !it.is_open || it.source.remaining(&mut it.round).is_empty();
        is_quiet && self.attackers.iter_mut().all(is_done)
    }
}

fn not_watched(error: Errno) -> String {
    format!("epoll_ctl: {error}")
}

/// Reads without copying: how many bytes there were; 0 at the end.
fn throw_away(socket: &TcpStream, scratch: &mut [u8]) -> std::io::Result<usize> {
    let (_, len) = recv(socket, scratch, RecvFlags::DONTWAIT | RecvFlags::TRUNC)?;
    Ok(len)
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

//! Those who come back, all in one instant, on one ring.

use std::{io::Write, os::fd::AsRawFd, sync::atomic::Ordering::SeqCst};

use fanfare::uring::{
    Completion, Io, Op, Token, buffers,
    ring::{Ring, RingConfig},
};
use io_uring::{opcode, types};

use super::{
    MISSED, NOTHING,
    check::{Check, faults_of_bytes},
    resident_bytes, sampled_of,
};
use crate::{
    broker::BrokerProbe,
    cli::Resume,
    client::{INTERRUPTED, Window, fine_histogram},
    clock,
    connect::{self, Connected, Target},
    dialect::{Beginning, Dialect, Position, Reader, Role},
    payload::Payload,
    report::{
        Latency,
        resume::{Slice, StormReport},
    },
    verify::Faults,
};

/// Completions that are waited for together, and for how long.
const BATCH: usize = 64;
const BATCH_NS: u64 = 500_000;
/// How often everybody is asked whether it has all, and the broker's memory is looked at.
const LOOK_NS: u64 = 20_000_000;
/// How much is one point of the plots.
const SLICE_NS: u64 = 100_000_000;
/// How long duplicates are waited for when everything has come.
const LINGER_NS: u64 = 100_000_000;
/// Everybody says something this often, so that the broker does not ping those who wait.
const KEEPALIVE_NS: u64 = 10_000_000_000;

/// All of them.
pub struct Storm {
    clients: Vec<Client>,
    dialect: Dialect,
    payload: Payload,
    since: Position,
    missed: u64,
}

/// One of them.
struct Client {
    connected: Connected,
    /// Of those who are looked at.
    check: Option<Check>,
    bytes: u64,
    /// When the last of them came.
    last_ns: u64,
    /// Why it is over, if the broker ended it.
    end: Option<String>,
}

impl Storm {
    /// Connects and upgrades everybody.
    ///
    /// # Errors
    /// One line that names the broker.
    pub fn open(
        target: &Target,
        dialect: Dialect,
        options: &Resume,
        since: Position,
    ) -> Result<Storm, String> {
        let count = options.clients;
        let sampled = sampled_of(options, count);
        let is_sampled = |index: usize| index * sampled / count != (index + 1) * sampled / count;
        let connected = connect::connect(target, dialect, Role::Subscriber(NOTHING), 0, count)?;
        let client = |(index, connected): (usize, Connected)| Client {
            connected,
            check: is_sampled(index).then(|| Check::new(since.clone(), options.missed)),
            bytes: 0,
            last_ns: 0,
            end: None,
        };
        let clients = connected.into_iter().enumerate().map(client).collect();
        let payload = Payload::new(options.size as usize);
        Ok(Storm { clients, dialect, payload, since, missed: options.missed })
    }

    /// Asks for everybody's past at once, and reads until everybody has it, or `deadline_ns`. The window is from the first
    /// question to the last delivery.
    ///
    /// # Errors
    /// If the ring fails.
    pub fn run(
        mut self,
        deadline_ns: u64,
        window: &Window,
        probe: &BrokerProbe,
    ) -> Result<StormReport, String> {
        // Of this thread alone.
        let mut ring = Ring::new(RingConfig {
            entries: 4096,
            buffer_count: 256,
            buffer_bytes: 64 * 1024,
            sends_per_turn: 1,
            pending_sends: self.clients.len(),
            ..RingConfig::default()
        })
        .map_err(|error| error.to_string())?;
        let resident_bytes_before = resident_bytes(probe);
        (0..self.clients.len()).for_each(|index| self.arm(&mut ring, index));
        let begun_ns = clock::now_ns();
        window.begin(begun_ns);
        self.ask();
        let mut slices = Slices::new(begun_ns, resident_bytes_before);
        let (mut look_ns, mut keepalive_ns, mut over_ns) = (begun_ns, begun_ns + KEEPALIVE_NS, None);
        loop {
            let entered = ring.enter_for(BATCH, BATCH_NS);
            entered.map_err(|error| format!("io_uring_enter: {error}"))?;
            let now_ns = clock::now_ns();
            while let Some(completion) = ring.reap() {
                slices.bytes += self.on_completion(&mut ring, completion, now_ns);
            }
            if now_ns >= look_ns {
                look_ns = now_ns + LOOK_NS;
                slices.look(now_ns, resident_bytes(probe));
                if over_ns.is_none() && self.is_over() {
                    over_ns = Some(now_ns);
                    window.end(self.clients.iter().map(|it| it.last_ns + 1).max().unwrap_or(now_ns));
                }
            }
            if now_ns >= keepalive_ns {
                keepalive_ns += KEEPALIVE_NS;
                self.keep_alive();
            }
            let has_lingered = over_ns.is_some_and(|over_ns| now_ns >= over_ns + LINGER_NS);
            if has_lingered || now_ns >= deadline_ns || INTERRUPTED.load(SeqCst) {
                window.end(now_ns);
                return Ok(self.report(begun_ns, resident_bytes_before, slices));
            }
        }
    }

    fn ask(&mut self) {
        let mut command = Vec::new();
        self.dialect.write_subscribe_from(MISSED, Beginning::After(&self.since), &mut command);
        for client in &mut self.clients {
            // One that is over is seen when it is read.
            let _ = client.connected.socket.write_all(&command);
        }
    }

    fn keep_alive(&mut self) {
        let mut pong = Vec::new();
        self.dialect.write_keepalive(&mut pong);
        for client in &mut self.clients {
            let _ = client.connected.socket.write_all(&pong);
        }
    }

    fn arm(&self, ring: &mut Ring, index: usize) {
        let Client { connected, check, .. } = &self.clients[index];
        let (socket, token) = (connected.socket.as_raw_fd(), Token::new(Op::Receive, index as u32, 0));
        if check.is_some() {
            ring.receive_multishot(socket, token);
            return;
        }
        // With MSG_TRUNC, TCP copies nothing to the buffer that it is lent: only the number is known.
        let discard = opcode::RecvMulti::new(types::Fd(socket), buffers::GROUP)
            .flags(libc::MSG_TRUNC)
            .build()
            .user_data(token.user_data());
        // SAFETY: it points at no memory.
        unsafe { ring.push(discard) };
    }

    /// How many bytes came with it.
    fn on_completion(&mut self, ring: &mut Ring, completion: Completion, now_ns: u64) -> u64 {
        if completion.token.op() != Op::Receive {
            return 0;
        }
        let index = completion.token.slot() as usize;
        let Storm { clients, dialect, payload, .. } = self;
        let client = &mut clients[index];
        let bytes = completion.result.max(0) as u64;
        if bytes > 0 {
            client.bytes += bytes;
            client.last_ns = now_ns;
        }
        if let Some(lease) = completion.lease {
            if let Some(check) = &mut client.check {
                let read = read(&mut client.connected.reader, check, *dialect, ring.leased(&lease), payload);
                if let Err(end) = read {
                    client.end.get_or_insert(end);
                }
            }
            ring.recycle(lease);
        }
        let is_passing = [-libc::ENOBUFS, -libc::EINTR, -libc::EAGAIN].contains(&completion.result);
        if completion.result <= 0 && !is_passing {
            client.end.get_or_insert_with(|| match completion.result {
                0 => "closed by the broker".to_owned(),
                errno => std::io::Error::from_raw_os_error(-errno).to_string(),
            });
        } else if !completion.more && client.end.is_none() {
            self.arm(ring, index);
        }
        bytes
    }

    /// How many bytes one gets who gets everything once, if one did: whoever got something twice has more.
    fn expected_bytes(&self) -> Option<u64> {
        let complete = |it: &&Client| it.check.as_ref().is_some_and(Check::is_complete);
        self.clients.iter().filter(complete).map(|it| it.bytes).min()
    }

    /// Whether nobody waits for anything.
    fn is_over(&self) -> bool {
        let expected = self.expected_bytes();
        let is_looked_at = |it: &Client| it.check.is_some();
        let is_over = |it: &Client| match (&it.check, expected) {
            _ if it.end.is_some() => true,
            (Some(check), _) => check.is_over(),
            (None, Some(expected)) => it.bytes >= expected,
            // Where all who are looked at wait in vain, the others do as well.
            (None, None) => self
                .clients
                .iter()
                .filter(|it| is_looked_at(it))
                .all(|it| it.end.is_some() || it.check.as_ref().is_some_and(Check::is_over)),
        };
        self.clients.iter().all(is_over)
    }

    fn report(&self, begun_ns: u64, resident_bytes_before: Option<u64>, slices: Slices) -> StormReport {
        let expected = self.expected_bytes();
        let (mut faults, mut gaps, mut complete, mut trouble) = (Faults::default(), 0, 0, None);
        let mut times = fine_histogram();
        for client in &self.clients {
            let own = match (&client.check, expected) {
                (Some(check), _) => check.faults(),
                (None, Some(expected)) => faults_of_bytes(client.bytes, expected, self.missed),
                (None, None) => Faults { lost: self.missed, ..Faults::default() },
            };
            faults.add(&own);
            if own.lost == 0 && client.check.as_ref().is_none_or(Check::is_complete) {
                complete += 1;
                times.saturating_record(client.last_ns.saturating_sub(begun_ns));
            }
            let check = client.check.as_ref();
            gaps += check.map_or(0, |it| it.gaps);
            trouble = trouble.or_else(|| check.and_then(|it| it.trouble.clone()));
        }
        let ends = self.clients.iter().filter_map(|it| it.end.as_ref());
        let last_ns = self.clients.iter().map(|it| it.last_ns).max().unwrap_or(0);
        let elapsed_s = last_ns.saturating_sub(begun_ns) as f64 / 1e9;
        let bytes: u64 = self.clients.iter().map(|it| it.bytes).sum();
        StormReport {
            clients: self.clients.len(),
            complete,
            sampled: self.clients.iter().filter(|it| it.check.is_some()).count(),
            elapsed_s,
            bytes,
            bytes_per_s: bytes as f64 / elapsed_s.max(1e-3),
            client_ms: Latency::of_histogram(&times),
            faults,
            gaps,
            closed: ends.clone().count(),
            trouble: trouble.or_else(|| ends.clone().next().map(|end| format!("a client was closed: {end}"))),
            resident_bytes_before,
            resident_bytes_peak: slices.resident_bytes_peak,
            series: slices.slices,
        }
    }
}

/// Reads what one of them received.
fn read(
    reader: &mut Reader,
    check: &mut Check,
    dialect: Dialect,
    bytes: &[u8],
    payload: &Payload,
) -> Result<(), String> {
    let mut on_message = |message: crate::dialect::Message<'_>| {
        check.take(message, payload);
        Ok(())
    };
    reader.feed(dialect, bytes, &mut on_message)
}

/// What each part of it brought.
struct Slices {
    begun_ns: u64,
    slice_ns: u64,
    bytes: u64,
    resident_bytes_peak: Option<u64>,
    slices: Vec<Slice>,
}

impl Slices {
    fn new(begun_ns: u64, resident_bytes: Option<u64>) -> Slices {
        Slices {
            begun_ns,
            slice_ns: begun_ns,
            bytes: 0,
            resident_bytes_peak: resident_bytes,
            slices: Vec::new(),
        }
    }

    /// Notes the broker's memory, and ends the part when it is over.
    fn look(&mut self, now_ns: u64, resident_bytes: Option<u64>) {
        self.resident_bytes_peak = self.resident_bytes_peak.max(resident_bytes);
        let elapsed_ns = now_ns - self.slice_ns;
        if elapsed_ns >= SLICE_NS {
            self.slices.push(Slice {
                at_s: (self.slice_ns - self.begun_ns) as f64 / 1e9,
                bytes_per_s: self.bytes as f64 * 1e9 / elapsed_ns as f64,
                resident_bytes,
            });
            (self.slice_ns, self.bytes) = (now_ns, 0);
        }
    }
}

//! Those who do nothing wrong: they ping, publish and subscribe on a thread of their own, and note how long
//! they wait. Open loop: what is due is sent, whether or not what was sent before is answered.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{client::Client, flood::is_passing};
use crate::{
    client::fine_histogram,
    clock,
    codec::{opcode, write_frame},
    connect::Target,
    dialect::{Dialect, Message, Reader},
    payload::{Payload, Stamp},
    report::hostile::Counts,
};

/// What the healthy publish to and are subscribed to.
pub const TOPIC: &str = "hostile/healthy";
const PING_NS: u64 = 2_000_000;
const PUBLICATION_NS: u64 = 20_000_000;
const PAYLOAD_BYTES: usize = 64;
const READ_BYTES: usize = 256 * 1024;
/// Duplicates are waited for when everything has come.
const LINGER_NS: u64 = 50_000_000;

/// When the attack is, as far as that is known.
pub struct Phase {
    begin_ns: AtomicU64,
    end_ns: AtomicU64,
}

impl Phase {
    /// Not yet.
    pub fn new() -> Phase {
        Phase { begin_ns: AtomicU64::new(u64::MAX), end_ns: AtomicU64::new(u64::MAX) }
    }

    /// Now.
    pub fn begin(&self) {
        self.begin_ns.store(clock::now_ns(), SeqCst);
    }

    /// No longer: nothing more is sent, and what is owed is waited for.
    pub fn end(&self) {
        self.end_ns.store(clock::now_ns(), SeqCst);
    }

    fn has_begun(&self, at_ns: u64) -> bool {
        at_ns >= self.begin_ns.load(SeqCst)
    }
}

/// Latencies of what was due before the attack, and during it.
pub struct Latencies {
    /// Before.
    pub before: Histogram<u64>,
    /// During.
    pub during: Histogram<u64>,
}

impl Latencies {
    fn new() -> Latencies {
        Latencies { before: fine_histogram(), during: fine_histogram() }
    }

    fn record(&mut self, due_ns: u64, now_ns: u64, phase: &Phase) {
        let histogram = if phase.has_begun(due_ns) { &mut self.during } else { &mut self.before };
        histogram.saturating_record(now_ns.saturating_sub(due_ns));
    }
}

/// What the healthy found.
pub struct Findings {
    /// Of each pinger.
    pub pings: Vec<Latencies>,
    /// Of all deliveries.
    pub deliveries: Latencies,
    /// How late this program's own timer fired while it attacked.
    pub own_delay: Histogram<u64>,
    /// What they counted.
    pub counts: Counts,
    /// Why the first that the broker closed was, or what was refused first.
    pub first_trouble: Option<String>,
}

/// Everybody healthy.
pub struct Healthy {
    pingers: Vec<Pinger>,
    publisher: Publisher,
    subscribers: Vec<Subscriber>,
    payload: Payload,
    ping: Vec<u8>,
    findings: Findings,
}

struct Link {
    socket: TcpStream,
    reader: Reader,
    /// What the kernel has not taken.
    out: VecDeque<u8>,
    is_open: bool,
    /// How it came to its end, if it did.
    end: String,
}

struct Pinger {
    link: Link,
    /// When those on their way were due, oldest first.
    due_ns: VecDeque<u64>,
}

struct Publisher {
    link: Link,
    due_ns: VecDeque<u64>,
    sent: u64,
    /// The `seq` of the newest publication that was acknowledged.
    acknowledged_seq: u64,
}

struct Subscriber {
    link: Link,
    /// The `seq` of the delivery that is next.
    next_seq: u64,
}

impl Healthy {
    /// Opens everybody: `pingers` connections that ping: on which reactors they are the kernel decides, and nothing tells.
    ///
    /// # Errors
    /// One line that names the broker.
    pub fn open(target: &Target, pingers: usize, subscribers: usize) -> Result<Healthy, String> {
        let pingers = (0..pingers).map(|index| {
            Ok(Pinger { link: Link::new(Client::open(target, index, false)?)?, due_ns: VecDeque::new() })
        });
        let pingers = pingers.collect::<Result<Vec<Pinger>, String>>()?;
        let subscribers = (0..subscribers)
            .map(|index| {
                let mut client = Client::open(target, index, false)?;
                let seq = client.subscribe(TOPIC)?;
                Ok(Subscriber { link: Link::new(client)?, next_seq: seq + 1 })
            })
            .collect::<Result<Vec<Subscriber>, String>>()?;
        let link = Link::new(Client::open(target, 0, false)?)?;
        let publisher = Publisher { link, due_ns: VecDeque::new(), sent: 0, acknowledged_seq: 0 };
        let mut ping = Vec::new();
        write_frame(opcode::TEXT, 0x1234_5678, &[br#"{"op":"ping"}"#], &mut ping);
        let findings = Findings {
            pings: pingers.iter().map(|_| Latencies::new()).collect(),
            deliveries: Latencies::new(),
            own_delay: fine_histogram(),
            counts: Counts::default(),
            first_trouble: None,
        };
        let payload = Payload::new(PAYLOAD_BYTES);
        Ok(Healthy { pingers, publisher, subscribers, payload, ping, findings })
    }

    /// Goes on until the attack has ended and everything has come, or `drain_ns` after it.
    pub fn run(mut self, phase: &Phase, drain_ns: u64) -> Findings {
        let mut scratch = vec![0; READ_BYTES];
        let mut next_ping_ns = clock::now_ns();
        let mut next_publication_ns = next_ping_ns;
        let mut complete_since_ns = None;
        loop {
            let now_ns = clock::now_ns();
            let end_ns = phase.end_ns.load(SeqCst);
            let is_over = now_ns >= end_ns;
            while !is_over && next_ping_ns <= now_ns {
                if phase.has_begun(next_ping_ns) {
                    self.findings.own_delay.saturating_record(now_ns - next_ping_ns);
                }
                self.ping(next_ping_ns);
                next_ping_ns += PING_NS;
            }
            while !is_over && next_publication_ns <= now_ns {
                self.findings.counts.published += phase.has_begun(next_publication_ns) as u64;
                self.publish(next_publication_ns);
                next_publication_ns += PUBLICATION_NS;
            }
            let mut wait_ns = next_ping_ns.min(next_publication_ns).saturating_sub(now_ns);
            if is_over {
                wait_ns = PING_NS;
                if !self.is_complete() {
                    complete_since_ns = None;
                } else if now_ns - *complete_since_ns.get_or_insert(now_ns) >= LINGER_NS {
                    return self.finish(now_ns, phase);
                }
                if now_ns - end_ns >= drain_ns {
                    return self.finish(now_ns, phase);
                }
            }
            self.exchange(wait_ns, phase, &mut scratch);
        }
    }

    fn ping(&mut self, due_ns: u64) {
        for Pinger { link, due_ns: dues } in self.pingers.iter_mut().filter(|it| it.link.is_open) {
            link.out.extend(&self.ping);
            dues.push_back(due_ns);
        }
    }

    fn publish(&mut self, due_ns: u64) {
        let publisher = &mut self.publisher;
        if !publisher.link.is_open {
            return;
        }
        publisher.sent += 1;
        let stamp = Stamp { due_ns, topic: 0, publisher: 0, sequence: publisher.sent };
        let (text, filling) = self.payload.parts(stamp);
        let mut command = Vec::new();
        let data = [&text[..], filling].concat();
        Dialect::Json.write_publish_with_id(TOPIC, &data, publisher.sent, &mut command);
        publisher.link.out.extend(command);
        publisher.due_ns.push_back(due_ns);
    }

    /// Sends and receives what can be, after a wait of at most `wait_ns` for something to come.
    fn exchange(&mut self, wait_ns: u64, phase: &Phase, scratch: &mut [u8]) {
        for link in self.links() {
            link.flush();
        }
        let ready = self.await_input(wait_ns);
        let (count, findings) = (self.pingers.len(), &mut self.findings);
        for (index, pinger) in self.pingers.iter_mut().enumerate().filter(|it| ready[it.0]) {
            pinger.receive(&mut findings.pings[index], &mut findings.counts.refused, phase, scratch);
        }
        if ready[count] {
            self.publisher.receive(findings, scratch);
        }
        for (index, subscriber) in self.subscribers.iter_mut().enumerate() {
            if ready[count + 1 + index] {
                subscriber.receive(findings, &self.payload, phase, scratch);
            }
        }
    }

    /// Which links have something to read, or have ended, after a wait of at most `wait_ns`.
    fn await_input(&mut self, wait_ns: u64) -> Vec<bool> {
        let links: Vec<&Link> = self.links().map(|link| &*link).collect();
        let open = || links.iter().enumerate().filter(|it| it.1.is_open);
        let interests = |link: &Link| match link.out.is_empty() {
            true => PollFlags::IN,
            false => PollFlags::IN | PollFlags::OUT,
        };
        let mut polled: Vec<PollFd<'_>> =
            open().map(|(_, link)| PollFd::new(&link.socket, interests(link))).collect();
        let patience = Timespec { tv_sec: 0, tv_nsec: wait_ns.min(PING_NS) as _ };
        // A signal is nothing to read.
        let _ = poll(&mut polled, Some(&patience));
        let mut ready = vec![false; links.len()];
        for ((index, _), polled) in open().zip(&polled) {
            ready[index] = !polled.revents().difference(PollFlags::OUT).is_empty();
        }
        ready
    }

    /// In the order in which they are polled.
    fn links(&mut self) -> impl Iterator<Item = &mut Link> {
        let pingers = self.pingers.iter_mut().map(|it| &mut it.link);
        let others = self.subscribers.iter_mut().map(|it| &mut it.link);
        pingers.chain([&mut self.publisher.link]).chain(others)
    }

    /// Whether everything that was asked is answered, and what was acknowledged has come to everybody.
    fn is_complete(&self) -> bool {
        let acknowledged = self.publisher.acknowledged_seq;
        self.pingers.iter().all(|it| !it.link.is_open || it.due_ns.is_empty())
            && (!self.publisher.link.is_open || self.publisher.due_ns.is_empty())
            && self.subscribers.iter().all(|it| !it.link.is_open || it.next_seq > acknowledged)
    }

    /// What never came counts as long as it was waited for.
    fn finish(mut self, now_ns: u64, phase: &Phase) -> Findings {
        let ended = self.links().filter(|it| !it.is_open);
        let ends: Vec<String> = ended.map(|it| std::mem::take(&mut it.end)).collect();
        let mut findings = self.findings;
        for (pinger, latencies) in self.pingers.iter_mut().zip(&mut findings.pings) {
            findings.counts.unanswered += pinger.due_ns.len() as u64;
            pinger.due_ns.iter().for_each(|due_ns| latencies.record(*due_ns, now_ns, phase));
        }
        findings.counts.unanswered += self.publisher.due_ns.len() as u64;
        for due_ns in &self.publisher.due_ns {
            findings.deliveries.record(*due_ns, now_ns, phase);
        }
        for subscriber in &self.subscribers {
            findings.counts.lost += (self.publisher.acknowledged_seq + 1).saturating_sub(subscriber.next_seq);
        }
        findings.counts.closed = ends.len() as u64;
        findings.first_trouble = findings.first_trouble.or(ends.into_iter().next());
        findings
    }
}

impl Pinger {
    fn receive(&mut self, latencies: &mut Latencies, refused: &mut u64, phase: &Phase, scratch: &mut [u8]) {
        let Pinger { link, due_ns } = self;
        link.receive(scratch, |message, now_ns| {
            *refused += matches!(message, Message::Error(_)) as u64;
            // Answers come in the order of what was asked, and nothing else comes to it.
            if let Some(due_ns) = due_ns.pop_front() {
                latencies.record(due_ns, now_ns, phase);
            }
        });
    }
}

impl Publisher {
    fn receive(&mut self, findings: &mut Findings, scratch: &mut [u8]) {
        let Publisher { link, due_ns, acknowledged_seq, .. } = self;
        link.receive(scratch, |message, _| match message {
            Message::Ok { seq, .. } => {
                due_ns.pop_front();
                findings.counts.acknowledged += 1;
                *acknowledged_seq = seq.max(*acknowledged_seq);
            }
            Message::Error(error) => {
                due_ns.pop_front();
                findings.counts.refused += 1;
                findings.first_trouble.get_or_insert(error);
            }
            _ => {}
        });
    }
}

impl Subscriber {
    fn receive(&mut self, findings: &mut Findings, payload: &Payload, phase: &Phase, scratch: &mut [u8]) {
        let Subscriber { link, next_seq } = self;
        link.receive(scratch, |message, now_ns| match message {
            Message::Delivery { seq, data, .. } => {
                let seq = seq.unwrap_or(0);
                match payload.check(&data) {
                    Some(stamp) => findings.deliveries.record(stamp.due_ns, now_ns, phase),
                    None => findings.counts.wrong += 1,
                }
                if seq < *next_seq {
                    findings.counts.wrong += 1;
                    return;
                }
                findings.counts.lost += seq - *next_seq;
                *next_seq = seq + 1;
            }
            Message::Gap { .. } => {
                findings.first_trouble.get_or_insert("a healthy subscriber was told of a gap".to_owned());
            }
            _ => {}
        });
    }
}

impl Link {
    fn new(client: Client) -> Result<Link, String> {
        let Client { socket, reader, .. } = client;
        socket.set_nonblocking(true).map_err(|error| error.to_string())?;
        Ok(Link { socket, reader, out: VecDeque::new(), is_open: true, end: String::new() })
    }

    fn flush(&mut self) {
        while self.is_open && !self.out.is_empty() {
            match (&self.socket).write(self.out.as_slices().0) {
                Ok(len) => drop(self.out.drain(..len)),
                Err(error) if is_passing(&error) => return,
                // What it said before is still to be read, and after that its end.
                Err(_) => return self.out.clear(),
            }
        }
    }

    /// Reads all there is, each message with the instant at which its bytes were here.
    fn receive(&mut self, scratch: &mut [u8], mut on_message: impl FnMut(Message<'_>, u64)) {
        loop {
            let read = (&self.socket).read(scratch);
            let now_ns = clock::now_ns();
            let end = match read {
                Ok(0) => Err("closed without a reason".to_owned()),
                Ok(len) => self.reader.feed(Dialect::Json, &scratch[..len], &mut |message: Message<'_>| {
                    on_message(message, now_ns);
                    Ok(())
                }),
                Err(error) if is_passing(&error) => return,
                Err(error) => Err(error.to_string()),
            };
            if let Err(end) = end {
                self.is_open = false;
                self.end = end;
                return;
            }
        }
    }
}

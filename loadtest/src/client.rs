//! The client: thousands of subscribers and some publishers on a few rings, cheap enough that the
//! broker is what is measured.
//!
//! A *sampled* subscriber is received into provided buffers, parsed and verified, and its latencies are
//! recorded. Any other is a *sink*: it receives with MSG_TRUNC, which has the kernel throw the bytes
//! away uncopied, and only their number is known. Everybody's bytes are the same (one encoding for
//! all), so a sink that got as many bytes as a verified subscriber got the same publications.

use std::{
    net::TcpStream,
    os::fd::AsRawFd,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

use fanfare::uring::{
    Completion, Io, Op, Token,
    ring::{Ring, RingConfig},
};
use hdrhistogram::Histogram;
use io_uring::{opcode, types};

use crate::{
    clock,
    dialect::{Dialect, Message, Reader},
    payload::{Payload, Stamp},
    process,
    schedule::Schedule,
    track::Tracker,
    verify::{Faults, Order},
};

/// What a sink discards with one receive.
const DISCARD_BYTES: u32 = 1 << 20;
/// The most that a publisher hands to one send.
const SEND_BYTES_MAX: usize = 256 * 1024;
/// While deliveries flow, a worker waits for so many or so long. Woken for each, it would have the
/// broker pay for waking it, an interrupt to another core per send, which clients on other machines
/// do not cost. Latencies may be measured that much too long.
const BATCH: usize = 256;
const BATCH_NS: u64 = 100_000;
/// How often, at least, a worker looks whether all is over.
const LOOK_NS: u64 = 10_000_000;
/// How long duplicates are waited for when everything has come.
const LINGER_NS: u64 = 50_000_000;
/// Everybody says something this often, so that a broker does not ping those who do not answer.
const KEEPALIVE_NS: u64 = 10_000_000_000;
/// Of a frame from a server.
const FRAME_HEADER_BYTES_MAX: u64 = 10;
/// Slots from here on are publishers.
const PUBLISHER_SLOT: u32 = 1 << 31;

/// A topic under load.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// When its publications are due.
    pub schedule: Schedule,
    /// What they carry.
    pub payload: Payload,
    /// How many connections publish to it; 0: somebody else does, by the same schedule.
    pub publishers: usize,
}

/// A run's times, all by [`clock::now_ns`].
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The schedules' zero.
    pub start_ns: u64,
    /// From here on it counts: the warm-up is over.
    pub measure_ns: u64,
    /// The last publication is due before this.
    pub end_ns: u64,
    /// Nobody waits for deliveries longer than this.
    pub deadline_ns: u64,
}

impl Times {
    /// A run that starts in a moment.
    pub fn starting_soon(warmup_s: u64, duration_s: u64, drain_s: u64) -> Times {
        const SECOND_NS: u64 = 1_000_000_000;
        // Time for the threads to start; on a whole tick.
        let start_ns = (clock::now_ns() + 200_000_000).next_multiple_of(1_000_000);
        let measure_ns = start_ns + warmup_s * SECOND_NS;
        let end_ns = measure_ns + duration_s * SECOND_NS;
        Times { start_ns, measure_ns, end_ns, deadline_ns: end_ns + drain_s * SECOND_NS }
    }

    /// How long is measured, in seconds.
    pub fn measured_s(&self) -> f64 {
        (self.end_ns - self.measure_ns) as f64 / 1e9
    }
}

/// A subscriber's connection.
pub struct Subscriber {
    /// Index of its topic.
    pub topic: usize,
    /// Its socket, blocking.
    pub socket: TcpStream,
    /// What it was cut off in, if anything.
    pub reader: Reader,
    /// Where its subscription starts.
    pub seq: u64,
    /// Parsed and verified, or a sink.
    pub is_sampled: bool,
}

/// A publisher's connection.
pub struct Publisher {
    /// Index of its topic.
    pub topic: usize,
    /// Its place among the topic's publishers.
    pub index: usize,
    /// Its socket, blocking.
    pub socket: TcpStream,
    /// What it was cut off in, if anything.
    pub reader: Reader,
}

/// What a run found out.
#[derive(Debug)]
pub struct Outcome {
    /// By topic.
    pub topics: Vec<TopicOutcome>,
    /// This process's CPU time while it was measured, as a share of one core.
    pub client_cpu_share: f64,
    /// The broker's CPU time while it was measured, if it is known.
    pub broker_cpu_ns: Option<u64>,
    /// Connections that ended, with the first one's reason.
    pub broken: (u64, Option<String>),
}

/// What a run found out about one topic.
#[derive(Debug)]
pub struct TopicOutcome {
    /// From due to received, in nanoseconds, of publications due while it was measured.
    pub latency: Histogram<u64>,
    /// Publications that were sent, warm-up included.
    pub published: u64,
    /// Deliveries while it was measured.
    pub deliveries: f64,
    /// Bytes of one delivery, on average.
    pub delivery_bytes: f64,
    /// Over the whole run, all subscribers.
    pub faults: Faults,
    /// Losses that the broker announced.
    pub gaps: u64,
    /// Whether the number of a sink's bytes tells exactly which publications it has. Otherwise what it
    /// lost is seen only beyond what the frames' headers may make up for.
    pub sinks_are_exact: bool,
}

/// Runs the plan on as many threads as `cores` has, each pinned to its own; none: one thread, not pinned.
///
/// # Errors
/// One line for the operator.
pub fn run(
    topics: &[Topic],
    times: Times,
    dialect: Dialect,
    subscribers: Vec<Subscriber>,
    publishers: Vec<Publisher>,
    cores: &[usize],
    broker: Option<u32>,
) -> Result<Outcome, String> {
    let worker_count = cores.len().max(1);
    let shared = Shared::new(topics, times, &publishers, worker_count);
    let mut shares: Vec<(Vec<Subscriber>, Vec<Publisher>)> = Vec::new();
    shares.resize_with(worker_count, Default::default);
    subscribers.into_iter().enumerate().for_each(|(index, it)| shares[index % worker_count].0.push(it));
    publishers.into_iter().enumerate().for_each(|(index, it)| shares[index % worker_count].1.push(it));

    thread::scope(|scope| {
        let threads: Vec<_> = shares
            .into_iter()
            .enumerate()
            .map(|(index, (subscribers, publishers))| {
                let (core, shared) = (cores.get(index), &shared);
                scope.spawn(move || {
                    core.map_or(Ok(()), |core| process::pin_to_core(*core))?;
                    Worker::new(topics, times, dialect, subscribers, publishers, shared)?.run()
                })
            })
            .collect();
        let cpu_now = || (clock::process_cpu_ns(), broker.and_then(process::cpu_ns));
        clock::sleep_until(times.measure_ns);
        let before = cpu_now();
        clock::sleep_until(times.end_ns);
        let after = cpu_now();
        let results: Vec<WorkerResult> = threads
            .into_iter()
            .map(|it| it.join().unwrap_or_else(|_| Err("a client thread panicked".to_owned())))
            .collect::<Result<_, _>>()?;
        Ok(Outcome {
            client_cpu_share: (after.0 - before.0) as f64 / 1e9 / times.measured_s(),
            broker_cpu_ns: before.1.zip(after.1).map(|(before, after)| after.saturating_sub(before)),
            ..merge(&shared, results, dialect)
        })
    })
}

/// What the workers tell each other.
struct Shared {
    topics: Vec<SharedTopic>,
    /// Publishers that have not sent everything.
    publishing: AtomicUsize,
    /// Workers whose subscribers have everything.
    complete: AtomicUsize,
    worker_count: usize,
    failed: AtomicBool,
}

struct SharedTopic {
    /// Publications whose send completed.
    published: AtomicU64,
    /// The bytes that a verified subscriber has that got everything; 0 as long as there is none.
    bytes: AtomicU64,
    order: Mutex<Order>,
}

impl Shared {
    fn new(topics: &[Topic], times: Times, publishers: &[Publisher], worker_count: usize) -> Shared {
        let shared_topic = |topic: &Topic| SharedTopic {
            published: AtomicU64::new(match topic.publishers {
                0 => topic.schedule.total(times.end_ns - times.start_ns),
                _ => 0,
            }),
            bytes: AtomicU64::new(0),
            order: Mutex::new(Order::default()),
        };
        Shared {
            topics: topics.iter().map(shared_topic).collect(),
            publishing: AtomicUsize::new(publishers.len()),
            complete: AtomicUsize::new(0),
            worker_count,
            failed: AtomicBool::new(false),
        }
    }
}

/// One thread's part of the run.
struct Worker<'a> {
    ring: Ring,
    topics: &'a [Topic],
    times: Times,
    dialect: Dialect,
    shared: &'a Shared,
    receivers: Vec<Receiver>,
    senders: Vec<Sender>,
    latency: Vec<Histogram<u64>>,
    gaps: Vec<u64>,
    broken: (u64, Option<String>),
    keepalive: Vec<u8>,
    /// Everybody has everything; until then more may come.
    linger_until_ns: Option<u64>,
    /// The next to say something, and when.
    keepalive_next: (usize, u64),
}

struct Receiver {
    topic: usize,
    socket: TcpStream,
    /// Bytes of publications, each counted once (a sink: all bytes).
    bytes: u64,
    /// The part of them that came while it was measured.
    measured_bytes: u64,
    is_open: bool,
    sampled: Option<Box<Sampled>>,
}

struct Sampled {
    reader: Reader,
    tracker: Tracker,
    /// Bytes of publications, each counted once, without what frames them where that varies.
    publication_bytes: u64,
}

struct Sender {
    topic: usize,
    index: usize,
    socket: TcpStream,
    reader: Reader,
    envelope: (Vec<u8>, Vec<u8>),
    /// The kernel holds a send of `batch`.
    is_sending: bool,
    is_open: bool,
    batch: Vec<u8>,
    /// Publications in `batch`.
    batch_count: u64,
    /// Publications handed out, this publisher's.
    sequence: u64,
    total: u64,
    is_done: bool,
}

struct WorkerResult {
    receivers: Vec<Receiver>,
    latency: Vec<Histogram<u64>>,
    gaps: Vec<u64>,
    broken: (u64, Option<String>),
}

impl<'a> Worker<'a> {
    fn new(
        topics: &'a [Topic],
        times: Times,
        dialect: Dialect,
        subscribers: Vec<Subscriber>,
        publishers: Vec<Publisher>,
        shared: &'a Shared,
    ) -> Result<Worker<'a>, String> {
        let ring = Ring::new(RingConfig {
            entries: 4096,
            buffer_count: 512,
            buffer_bytes: 32 * 1024,
            sends_per_turn: publishers.len(),
            pending_sends: subscribers.len(),
        })
        .map_err(|error| error.to_string())?;
        let receivers = subscribers.into_iter().map(|it| Receiver::new(it, topics, dialect)).collect();
        let senders =
            publishers.into_iter().map(|it| Sender::new(it, topics, times, dialect)).collect::<Vec<_>>();
        let mut keepalive = Vec::new();
        dialect.write_keepalive(&mut keepalive);
        Ok(Worker {
            ring,
            topics,
            times,
            dialect,
            shared,
            receivers,
            senders,
            latency: topics.iter().map(|_| new_histogram()).collect(),
            gaps: vec![0; topics.len()],
            broken: (0, None),
            keepalive,
            linger_until_ns: None,
            keepalive_next: (0, times.start_ns + KEEPALIVE_NS),
        })
    }

    /// Runs to the end: every delivery there, or no more patience.
    fn run(mut self) -> Result<WorkerResult, String> {
        let result = self.turns();
        if result.is_err() {
            self.shared.failed.store(true, SeqCst);
        }
        result.map(|()| WorkerResult {
            receivers: self.receivers,
            latency: self.latency,
            gaps: self.gaps,
            broken: self.broken,
        })
    }

    fn turns(&mut self) -> Result<(), String> {
        (0..self.receivers.len()).for_each(|index| self.arm_receiver(index));
        (0..self.senders.len()).for_each(|index| self.arm_sender(index));
        let (mut was_busy, mut look_ns, mut is_complete) = (true, 0, false);
        loop {
            let now_ns = clock::now_ns();
            let next_ns = self.publish(now_ns);
            self.keep_alive(now_ns);
            let until_next_ns = next_ns.saturating_sub(now_ns);
            let (completions, timeout_ns) = match was_busy {
                true => (BATCH, until_next_ns.min(BATCH_NS)),
                false => (1, until_next_ns.min(LOOK_NS)),
            };
            let entered = self.ring.enter_for(completions, timeout_ns);
            entered.map_err(|error| format!("io_uring_enter: {error}"))?;
            // What was received is here now, however long it takes to look at it all.
            let now_ns = clock::now_ns();
            was_busy = false;
            while let Some(completion) = self.ring.reap() {
                was_busy = true;
                self.on_completion(completion, now_ns)?;
            }
            if now_ns >= look_ns {
                look_ns = now_ns + LOOK_NS;
                if self.is_over(now_ns, &mut is_complete) {
                    return Ok(());
                }
            }
        }
    }

    fn is_over(&mut self, now_ns: u64, is_complete: &mut bool) -> bool {
        if now_ns >= self.times.deadline_ns || self.shared.failed.load(SeqCst) {
            return true;
        }
        // A broker cannot have delivered what is not due; and the measured time is to be full.
        if now_ns < self.times.end_ns || self.shared.publishing.load(SeqCst) > 0 {
            return false;
        }
        if !*is_complete && self.receivers.iter().all(|it| it.has_everything(self.shared)) {
            *is_complete = true;
            self.shared.complete.fetch_add(1, SeqCst);
        }
        if self.shared.complete.load(SeqCst) < self.shared.worker_count {
            return false;
        }
        now_ns >= *self.linger_until_ns.get_or_insert(now_ns + LINGER_NS)
    }

    /// Sends what is due; when something is due next.
    fn publish(&mut self, now_ns: u64) -> u64 {
        let mut next_ns = u64::MAX;
        for (index, sender) in self.senders.iter_mut().enumerate() {
            let topic = &self.topics[sender.topic];
            if !sender.is_sending && sender.is_open {
                sender.fill_batch(topic, self.dialect, self.times.start_ns, now_ns);
                if !sender.batch.is_empty() {
                    sender.is_sending = true;
                    let token = Token::new(Op::Send, PUBLISHER_SLOT + index as u32, 0);
                    let (socket, batch) = (sender.socket.as_raw_fd(), &sender.batch);
                    // SAFETY: `batch` is not touched while `is_sending`; a worker that ends early
                    // drops its ring, which is declared first, before it.
                    unsafe { self.ring.send(socket, batch.as_ptr(), batch.len() as u32, token) };
                }
            }
            if !sender.is_sending && sender.sequence < sender.total {
                next_ns = next_ns.min(self.times.start_ns + sender.next_due_ns(topic));
            }
        }
        next_ns
    }

    fn on_completion(&mut self, completion: Completion, now_ns: u64) -> Result<(), String> {
        let slot = completion.token.slot();
        match (completion.token.op(), slot.checked_sub(PUBLISHER_SLOT)) {
            (Op::Receive, None) if self.receivers[slot as usize].sampled.is_some() => {
                self.on_sampled(slot as usize, completion, now_ns)
            }
            (Op::Receive, None) => {
                self.on_discarded(slot as usize, completion.result, now_ns);
                Ok(())
            }
            (Op::Receive, Some(index)) => self.on_reply(index as usize, completion),
            (Op::Send, Some(index)) => self.on_published(index as usize, completion.result),
            _ => Ok(()),
        }
    }

    fn on_sampled(&mut self, index: usize, completion: Completion, now_ns: u64) -> Result<(), String> {
        let receiver = &mut self.receivers[index];
        if let Some(lease) = completion.lease {
            let bytes = self.ring.leased(&lease);
            let mut reading = Reading {
                topic: &self.topics[receiver.topic],
                shared: &self.shared.topics[receiver.topic],
                dialect: self.dialect,
                times: self.times,
                latency: &mut self.latency[receiver.topic],
                gaps: &mut self.gaps[receiver.topic],
                now_ns,
            };
            let read = reading.read(receiver, bytes);
            self.ring.recycle(lease);
            if let Err(reason) = read {
                receiver.is_open = false;
                self.on_broken(reason);
                return Ok(());
            }
        }
        if is_over(completion.result) {
            receiver.is_open = false;
            self.on_broken(describe_end(completion.result));
        } else if !completion.more {
            self.arm_receiver(index);
        }
        Ok(())
    }

    fn on_discarded(&mut self, index: usize, result: i32, now_ns: u64) {
        let receiver = &mut self.receivers[index];
        if is_over(result) {
            receiver.is_open = false;
            self.on_broken(describe_end(result));
            return;
        }
        receiver.count(result.max(0) as u64, now_ns, self.times);
        self.arm_receiver(index);
    }

    /// A publisher asked for no replies: what comes is an error, a greeting or a close.
    fn on_reply(&mut self, index: usize, completion: Completion) -> Result<(), String> {
        if let Some(lease) = completion.lease {
            let bytes = self.ring.leased(&lease).to_vec();
            self.ring.recycle(lease);
            let mut on_message = |message: Message<'_>| match message {
                Message::Error(error) => Err(format!("a publication was refused: {error}")),
                _ => Ok(()),
            };
            self.senders[index].reader.feed(self.dialect, &bytes, &mut on_message)?;
        }
        if is_over(completion.result) {
            return Err(format!("a publisher's connection ended: {}", describe_end(completion.result)));
        }
        if !completion.more {
            self.arm_sender(index);
        }
        Ok(())
    }

    fn on_published(&mut self, index: usize, result: i32) -> Result<(), String> {
        let sender = &mut self.senders[index];
        sender.is_sending = false;
        if result < 0 || result as usize != sender.batch.len() {
            return Err(format!("a publisher's connection ended: {}", describe_end(result.min(0))));
        }
        self.shared.topics[sender.topic].published.fetch_add(sender.batch_count, SeqCst);
        sender.batch.clear();
        if sender.sequence == sender.total && !sender.is_done {
            sender.is_done = true;
            self.shared.publishing.fetch_sub(1, SeqCst);
        }
        Ok(())
    }

    fn on_broken(&mut self, reason: String) {
        self.broken.0 += 1;
        self.broken.1.get_or_insert(reason);
    }

    fn arm_receiver(&mut self, index: usize) {
        let receiver = &self.receivers[index];
        let token = Token::new(Op::Receive, index as u32, 0);
        if receiver.sampled.is_some() {
            self.ring.receive_multishot(receiver.socket.as_raw_fd(), token);
            return;
        }
        let discard =
            opcode::Recv::new(types::Fd(receiver.socket.as_raw_fd()), std::ptr::null_mut(), DISCARD_BYTES)
                .flags(libc::MSG_TRUNC)
                .build()
                .user_data(token.user_data());
        // SAFETY: with MSG_TRUNC, TCP copies nothing to the buffer, so there need not be one.
        unsafe { self.ring.push(discard) };
    }

    fn arm_sender(&mut self, index: usize) {
        let token = Token::new(Op::Receive, PUBLISHER_SLOT + index as u32, 0);
        self.ring.receive_multishot(self.senders[index].socket.as_raw_fd(), token);
    }

    /// An unasked pong from each subscriber in turn, a few at a time. Publishers say enough.
    fn keep_alive(&mut self, now_ns: u64) {
        let (index, at_ns) = &mut self.keepalive_next;
        while now_ns >= *at_ns && !self.receivers.is_empty() {
            let receiver = &self.receivers[*index % self.receivers.len()];
            // SAFETY: the bytes are valid during the call. A socket that cannot take six is not idle.
            unsafe {
                libc::send(
                    receiver.socket.as_raw_fd(),
                    self.keepalive.as_ptr().cast(),
                    self.keepalive.len(),
                    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                )
            };
            *index += 1;
            *at_ns += KEEPALIVE_NS / self.receivers.len() as u64;
        }
    }
}

impl Receiver {
    fn new(subscriber: Subscriber, topics: &[Topic], dialect: Dialect) -> Receiver {
        let sampled = subscriber.is_sampled.then(|| {
            let tracker = match dialect.has_seqs() {
                true => Tracker::by_seq(subscriber.seq),
                false => Tracker::by_stamp(topics[subscriber.topic].publishers),
            };
            Box::new(Sampled { reader: subscriber.reader, tracker, publication_bytes: 0 })
        });
        Receiver {
            topic: subscriber.topic,
            socket: subscriber.socket,
            bytes: 0,
            measured_bytes: 0,
            is_open: true,
            sampled,
        }
    }

    fn count(&mut self, bytes: u64, now_ns: u64, times: Times) {
        self.bytes += bytes;
        if (times.measure_ns..times.end_ns).contains(&now_ns) {
            self.measured_bytes += bytes;
        }
    }

    /// Whether it has every publication, or is closed and never will.
    fn has_everything(&self, shared: &Shared) -> bool {
        let topic = &shared.topics[self.topic];
        if !self.is_open {
            return true;
        }
        let Some(sampled) = &self.sampled else {
            let bytes = topic.bytes.load(SeqCst);
            return bytes > 0 && self.bytes >= bytes;
        };
        let has_everything = sampled.tracker.received() >= topic.published.load(SeqCst);
        if has_everything {
            topic.bytes.store(sampled.publication_bytes, SeqCst);
        }
        has_everything
    }
}

impl Sender {
    fn new(publisher: Publisher, topics: &[Topic], times: Times, dialect: Dialect) -> Sender {
        let topic = &topics[publisher.topic];
        let of_topic = topic.schedule.total(times.end_ns - times.start_ns);
        let publishers = topic.publishers as u64;
        Sender {
            topic: publisher.topic,
            index: publisher.index,
            socket: publisher.socket,
            reader: publisher.reader,
            envelope: dialect.publish_envelope(&topic.name, topic.payload.size()),
            is_sending: false,
            is_open: true,
            batch: Vec::with_capacity(SEND_BYTES_MAX),
            batch_count: 0,
            sequence: 0,
            // The topic's publications go round its publishers.
            total: (of_topic + publishers - 1 - publisher.index as u64) / publishers,
            is_done: false,
        }
    }

    /// When its next publication is due, from the start.
    fn next_due_ns(&self, topic: &Topic) -> u64 {
        topic.schedule.due_ns(self.sequence * topic.publishers as u64 + self.index as u64)
    }

    fn fill_batch(&mut self, topic: &Topic, dialect: Dialect, start_ns: u64, now_ns: u64) {
        let from = self.sequence;
        while self.sequence < self.total && self.batch.len() < SEND_BYTES_MAX - topic.payload.size() - 1024 {
            let due_ns = start_ns + self.next_due_ns(topic);
            if due_ns > now_ns {
                break;
            }
            let stamp = Stamp { due_ns, publisher: self.index as u16, sequence: self.sequence };
            let (text, filling) = topic.payload.parts(stamp);
            let parts = [&self.envelope.0[..], &text, filling, &self.envelope.1];
            dialect.frame(&parts, &mut self.batch);
            self.sequence += 1;
        }
        self.batch_count = self.sequence - from;
    }
}

/// Everything that reading one sampled receive touches.
struct Reading<'a> {
    topic: &'a Topic,
    shared: &'a SharedTopic,
    dialect: Dialect,
    times: Times,
    latency: &'a mut Histogram<u64>,
    gaps: &'a mut u64,
    now_ns: u64,
}

impl Reading<'_> {
    fn read(&mut self, receiver: &mut Receiver, bytes: &[u8]) -> Result<(), String> {
        let sampled = receiver.sampled.as_mut().expect("only sampled ones are read");
        let mut order = self.shared.order.lock().expect("no worker panics with the order");
        let Sampled { reader, tracker, publication_bytes } = &mut **sampled;
        let mut new_bytes = 0;
        let mut on_message = |message: Message<'_>| match message {
            Message::Delivery { seq, data, wire_bytes } => {
                let stamp = self.topic.payload.check(&data);
                if let Some(stamp) = stamp
                    && (self.times.measure_ns..self.times.end_ns).contains(&stamp.due_ns)
                {
                    self.latency.saturating_record(self.now_ns.saturating_sub(stamp.due_ns));
                }
                if tracker.on_delivery(seq, stamp, &mut order) {
                    new_bytes += wire_bytes as u64;
                }
                Ok(())
            }
            Message::Gap => {
                *self.gaps += 1;
                Ok(())
            }
            Message::Error(error) => Err(error),
            Message::Ok { .. } | Message::Other => Ok(()),
        };
        reader.feed(self.dialect, bytes, &mut on_message)?;
        drop(order);
        *publication_bytes += new_bytes;
        // Where frames are cut as it pleases the broker, what they take is part of a delivery's bytes.
        let wire_bytes = if self.dialect.is_stream() { bytes.len() as u64 } else { new_bytes };
        receiver.count(wire_bytes, self.now_ns, self.times);
        Ok(())
    }
}

fn merge(shared: &Shared, results: Vec<WorkerResult>, dialect: Dialect) -> Outcome {
    let mut topics: Vec<TopicOutcome> = shared
        .topics
        .iter()
        .map(|it| TopicOutcome {
            latency: new_histogram(),
            published: it.published.load(SeqCst),
            deliveries: 0.0,
            delivery_bytes: 0.0,
            faults: Faults::default(),
            gaps: 0,
            sinks_are_exact: !dialect.is_stream(),
        })
        .collect();
    let mut broken = (0, None);
    // First what is known exactly, then what follows from it by the number of bytes.
    let mut sampled_bytes = vec![SampledBytes::default(); topics.len()];
    for receiver in results.iter().flat_map(|it| &it.receivers) {
        if let Some(sampled) = &receiver.sampled {
            let topic = &mut topics[receiver.topic];
            topic.faults.add(&sampled.tracker.faults(topic.published));
            let total = &mut sampled_bytes[receiver.topic];
            total.wire += receiver.bytes;
            total.publications += sampled.publication_bytes;
            total.count += sampled.tracker.received();
        }
    }
    for (topic, total) in topics.iter_mut().zip(&sampled_bytes) {
        topic.delivery_bytes = total.wire as f64 / total.count.max(1) as f64;
    }
    for receiver in results.iter().flat_map(|it| &it.receivers) {
        let topic = &mut topics[receiver.topic];
        if topic.delivery_bytes == 0.0 {
            continue;
        }
        topic.deliveries += receiver.measured_bytes as f64 / topic.delivery_bytes;
        if receiver.sampled.is_none() {
            let total = &sampled_bytes[receiver.topic];
            let least_each = total.publications as f64 / total.count.max(1) as f64;
            let least = match shared.topics[receiver.topic].bytes.load(SeqCst) {
                0 => (topic.published as f64 * least_each) as u64,
                bytes => bytes,
            };
            let framing_max = match topic.sinks_are_exact {
                true => 0,
                false => topic.published * FRAME_HEADER_BYTES_MAX,
            };
            // In deliveries; what is short of one (a ping) is none, but a shortfall is at least one.
            if receiver.bytes < least {
                let deficit = (least - receiver.bytes) as f64 / least_each;
                topic.faults.lost += deficit.round().max(1.0) as u64;
            } else {
                let surplus = (receiver.bytes - least).saturating_sub(framing_max) as f64 / least_each;
                topic.faults.duplicated += surplus.round() as u64;
            }
        }
    }
    for result in results {
        for (index, topic) in topics.iter_mut().enumerate() {
            topic.latency.add(&result.latency[index]).expect("the same bounds");
            topic.gaps += result.gaps[index];
        }
        broken.0 += result.broken.0;
        broken.1 = broken.1.or(result.broken.1);
    }
    Outcome { topics, client_cpu_share: 0.0, broker_cpu_ns: None, broken }
}

/// Bytes that the sampled subscribers of a topic got.
#[derive(Clone, Default)]
struct SampledBytes {
    /// As the connections carried them.
    wire: u64,
    /// As they have to be for every subscriber.
    publications: u64,
    count: u64,
}

/// A microsecond to two minutes, to three digits.
fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 120_000_000_000, 3).expect("the bounds are right")
}

/// Whether a receive with this result was the connection's last.
fn is_over(result: i32) -> bool {
    result == 0 || (result < 0 && ![-libc::ENOBUFS, -libc::EINTR, -libc::EAGAIN].contains(&result))
}

fn describe_end(result: i32) -> String {
    match result {
        0 => "closed by the broker".to_owned(),
        errno => std::io::Error::from_raw_os_error(-errno).to_string(),
    }
}

//! One thread of the client: a ring, its subscribers and its publishers.

use std::{os::fd::AsRawFd, sync::atomic::Ordering::SeqCst};

use fanfare::uring::{
    Completion, Io, Op, Token, buffers,
    ring::{Ring, RingConfig},
};
use hdrhistogram::Histogram;
use io_uring::{opcode, types};
use rustix::net::{SendFlags, send};

use super::{
    plan::{Lane, Pace, Publisher, Subscriber, Times, Topic, Window},
    receiver::{Reading, Receiver},
    sender::{Filling, Sender},
    series::{CurrentSecond, fine_histogram},
    shared::Shared,
};
use crate::{
    clock,
    dialect::{Dialect, Message},
};

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
/// Slots from here on are publishers.
const PUBLISHER_SLOT: u32 = 1 << 31;

/// What every worker is told.
#[derive(Clone, Copy)]
pub struct Orders<'a> {
    /// The run's topics.
    pub topics: &'a [Topic],
    /// How many groups they are in.
    pub group_count: usize,
    /// The run's times.
    pub times: Times,
    /// See [`super::Run::window`].
    pub window: Option<&'a Window>,
    /// The protocol.
    pub dialect: Dialect,
    /// By the timetable or by a window.
    pub pace: Pace,
    /// By topic, the subscriber that sets the pace of a closed loop.
    pub pacing: &'a [Option<usize>],
    /// What the workers share.
    pub shared: &'a Shared,
}

/// What it found out.
pub struct WorkerResult {
    /// Its subscribers, each with what it got.
    pub receivers: Vec<Receiver>,
    /// By group.
    pub latency: Vec<Histogram<u64>>,
    /// Why the first of its connections that ended did.
    pub broken_reason: Option<String>,
}

/// One thread's part of the run.
pub struct Worker<'a> {
    /// Before the senders, whose batches the kernel reads.
    ring: Ring,
    orders: Orders<'a>,
    lane: Lane,
    receivers: Vec<Receiver>,
    senders: Vec<Sender>,
    latency: Vec<Histogram<u64>>,
    current: CurrentSecond,
    broken_reason: Option<String>,
    keepalive: Vec<u8>,
    /// Everybody has everything; until then more may come.
    linger_until_ns: Option<u64>,
    /// The next to say something, and when.
    keepalive_next: (usize, u64),
}

impl<'a> Worker<'a> {
    /// For these connections; subscribers come with their place among all of the run.
    ///
    /// # Errors
    /// If there is no ring.
    pub fn new(
        orders: Orders<'a>,
        lane: Lane,
        subscribers: Vec<(usize, Subscriber)>,
        publishers: Vec<Publisher>,
    ) -> Result<Worker<'a>, String> {
        let ring = Ring::new(RingConfig {
            entries: 4096,
            buffer_count: 512,
            buffer_bytes: 32 * 1024,
            sends_per_turn: publishers.len(),
            pending_sends: subscribers.len(),
            ..RingConfig::default()
        })
        .map_err(|error| error.to_string())?;
        let Orders { topics, times, dialect, pacing, .. } = orders;
        let receiver = |(index, it)| Receiver::new(index, it, pacing, topics, dialect);
        let mut keepalive = Vec::new();
        dialect.write_keepalive(&mut keepalive);
        Ok(Worker {
            ring,
            orders,
            lane,
            receivers: subscribers.into_iter().map(receiver).collect(),
            senders: publishers.into_iter().map(|it| Sender::new(it, topics, times, dialect)).collect(),
            latency: (0..orders.group_count).map(|_| fine_histogram()).collect(),
            current: CurrentSecond::new(orders.group_count),
            broken_reason: None,
            keepalive,
            linger_until_ns: None,
            keepalive_next: (0, times.start_ns + KEEPALIVE_NS),
        })
    }

    /// Runs to the end: every delivery there, or no more patience.
    ///
    /// # Errors
    /// If the ring fails.
    pub fn run(mut self) -> Result<WorkerResult, String> {
        let result = self.turns();
        if result.is_err() {
            self.orders.shared.failed.store(true, SeqCst);
        }
        let second = self.current.second;
        self.current.hand_over(&self.orders.shared.seconds, second);
        result.map(|()| WorkerResult {
            receivers: self.receivers,
            latency: self.latency,
            broken_reason: self.broken_reason,
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
            let (completions, timeout_ns) = match (self.lane, was_busy) {
                (Lane::Bulk, true) => (BATCH, until_next_ns.min(BATCH_NS)),
                // What is on the quick lane is not worth batching, and is to be seen at once.
                (Lane::Bulk, false) | (Lane::Quick, _) => (1, until_next_ns.min(LOOK_NS)),
            };
            let entered = self.ring.enter_for(completions, timeout_ns);
            entered.map_err(|error| format!("io_uring_enter: {error}"))?;
            // What was received is here now, however long it takes to look at it all.
            let now_ns = clock::now_ns();
            self.keep_seconds(now_ns);
            was_busy = false;
            while let Some(completion) = self.ring.reap() {
                was_busy = true;
                self.on_completion(completion, now_ns);
            }
            if now_ns >= look_ns {
                look_ns = now_ns + LOOK_NS;
                if self.is_over(now_ns, &mut is_complete) {
                    return Ok(());
                }
            }
        }
    }

    fn keep_seconds(&mut self, now_ns: u64) {
        let second = now_ns.saturating_sub(self.orders.times.start_ns) / super::plan::SECOND_NS;
        if second != self.current.second {
            self.current.hand_over(&self.orders.shared.seconds, second);
        }
    }

    fn is_over(&mut self, now_ns: u64, is_complete: &mut bool) -> bool {
        let shared = self.orders.shared;
        if now_ns >= self.orders.times.deadline_ns || shared.is_cut_short() {
            return true;
        }
        // A broker cannot have delivered what is not due; and the measured time is to be full.
        if now_ns < self.orders.times.end_ns || shared.publishing.load(SeqCst) > 0 {
            return false;
        }
        // Those sampled first: the others go by the bytes that they got.
        let (sampled, sinks): (Vec<_>, Vec<_>) = self.receivers.iter().partition(|it| it.sampled.is_some());
        let has_everything = |them: Vec<&Receiver>| {
            them.into_iter()
                .map(|it| it.has_everything(self.orders.topics, shared))
                .fold(true, |all, it| all & it)
        };
        if !*is_complete && has_everything(sampled) & has_everything(sinks) {
            *is_complete = true;
            shared.complete.fetch_add(1, SeqCst);
        }
        if shared.complete.load(SeqCst) < shared.worker_count {
            return false;
        }
        now_ns >= *self.linger_until_ns.get_or_insert(now_ns + LINGER_NS)
    }

    /// Sends what is due; when something is due next.
    fn publish(&mut self, now_ns: u64) -> u64 {
        let Orders { topics, times, dialect, pace, shared, .. } = self.orders;
        let filling = Filling { topics, times, dialect, pace, shared };
        let mut next_ns = u64::MAX;
        for (index, sender) in self.senders.iter_mut().enumerate() {
            if sender.is_done {
                continue;
            }
            if !sender.is_sending {
                sender.fill_batch(&filling, now_ns);
                if !sender.batch.is_empty() {
                    sender.is_sending = true;
                    let token = Token::new(Op::Send, PUBLISHER_SLOT + index as u32, 0);
                    let (socket, batch) = (sender.socket.as_raw_fd(), &sender.batch);
                    // SAFETY: `batch` is not touched while `is_sending`; a worker that ends early
                    // drops its ring, which is declared first, before it.
                    unsafe { self.ring.send(socket, batch.as_ptr(), batch.len() as u32, token) };
                } else if sender.is_finished(pace, times, now_ns) {
                    sender.is_done = true;
                    shared.publishing.fetch_sub(1, SeqCst);
                    continue;
                }
            }
            next_ns = match pace {
                Pace::Open if sender.is_sending => next_ns,
                Pace::Open => next_ns.min(sender.next_due_ns().map_or(now_ns, |it| times.start_ns + it)),
                // The window's room may come from another thread, which does not wake this one.
                Pace::Closed { .. } => next_ns.min(now_ns.max(times.start_ns) + BATCH_NS),
            };
        }
        next_ns
    }

    fn on_completion(&mut self, completion: Completion, now_ns: u64) {
        let slot = completion.token.slot();
        match (completion.token.op(), slot.checked_sub(PUBLISHER_SLOT)) {
            (Op::Receive, None) if self.receivers[slot as usize].sampled.is_some() => {
                self.on_sampled(slot as usize, completion, now_ns);
            }
            (Op::Receive, None) => self.on_discarded(slot as usize, completion, now_ns),
            (Op::Receive, Some(index)) => self.on_reply(index as usize, completion),
            (Op::Send, Some(index)) => self.on_published(index as usize, completion.result),
            _ => {}
        }
    }

    fn on_sampled(&mut self, index: usize, completion: Completion, now_ns: u64) {
        let receiver = &mut self.receivers[index];
        if let Some(lease) = completion.lease {
            let bytes = self.ring.leased(&lease);
            let Orders { topics, times, window, dialect, pace, shared, .. } = self.orders;
            let group = topics[receiver.topics[0]].group;
            let (latency, second) = (&mut self.latency[group], &mut self.current.groups[group]);
            let mut reading =
                Reading { topics, shared, dialect, pace, times, window, latency, second, now_ns };
            let read = if receiver.is_open { reading.read(receiver, bytes) } else { Ok(()) };
            self.ring.recycle(lease);
            if let Err(reason) = read {
                self.end_receiver(index, reason);
            }
        }
        self.after_receive(index, completion.result, completion.more);
    }

    fn on_discarded(&mut self, index: usize, completion: Completion, now_ns: u64) {
        let receiver = &mut self.receivers[index];
        let bytes = completion.result.max(0) as u64;
        receiver.count(bytes, now_ns, self.orders.times);
        let group = self.orders.topics[receiver.topics[0]].group;
        self.current.groups[group].bytes += bytes;
        if let Some(lease) = completion.lease {
            self.ring.recycle(lease);
        }
        self.after_receive(index, completion.result, completion.more);
    }

    fn after_receive(&mut self, index: usize, result: i32, more: bool) {
        if is_over(result) {
            self.end_receiver(index, describe_end(result));
        } else if !more && self.receivers[index].is_open {
            self.arm_receiver(index);
        }
    }

    fn end_receiver(&mut self, index: usize, reason: String) {
        if std::mem::take(&mut self.receivers[index].is_open) {
            self.on_broken(reason);
        }
    }

    /// A publisher asked for no replies: what comes is an error, a greeting or a close.
    fn on_reply(&mut self, index: usize, completion: Completion) {
        if let Some(lease) = completion.lease {
            let bytes = self.ring.leased(&lease).to_vec();
            self.ring.recycle(lease);
            let mut on_message = |message: Message<'_>| match message {
                Message::Error(error) => Err(format!("a publication was refused: {error}")),
                _ => Ok(()),
            };
            let read = self.senders[index].reader.feed(self.orders.dialect, &bytes, &mut on_message);
            if let Err(reason) = read {
                self.end_sender(index, reason);
            }
        }
        if is_over(completion.result) {
            self.end_sender(
                index,
                format!("a publisher's connection ended: {}", describe_end(completion.result)),
            );
        } else if !completion.more && self.senders[index].is_open {
            self.arm_sender(index);
        }
    }

    fn on_published(&mut self, index: usize, result: i32) {
        let sender = &mut self.senders[index];
        if result < 0 || result as usize != sender.batch.len() {
            sender.is_sending = false;
            let end = describe_end(result.min(0));
            self.end_sender(index, format!("a publisher's connection ended: {end}"));
            return;
        }
        sender.on_sent(self.orders.shared);
    }

    fn end_sender(&mut self, index: usize, reason: String) {
        let sender = &mut self.senders[index];
        if !std::mem::take(&mut sender.is_open) {
            return;
        }
        if !std::mem::replace(&mut sender.is_done, true) {
            self.orders.shared.publishing.fetch_sub(1, SeqCst);
        }
        self.on_broken(reason);
    }

    fn on_broken(&mut self, reason: String) {
        self.orders.shared.on_broken();
        self.broken_reason.get_or_insert(reason);
    }

    fn arm_receiver(&mut self, index: usize) {
        let receiver = &self.receivers[index];
        let token = Token::new(Op::Receive, index as u32, 0);
        if receiver.sampled.is_some() {
            self.ring.receive_multishot(receiver.socket.as_raw_fd(), token);
            return;
        }
        // With MSG_TRUNC, TCP copies nothing to the buffer that it is lent: only the number is known.
        let discard = opcode::RecvMulti::new(types::Fd(receiver.socket.as_raw_fd()), buffers::GROUP)
            .flags(libc::MSG_TRUNC)
            .build()
            .user_data(token.user_data());
        // SAFETY: it points at no memory.
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
            // A socket that cannot take six bytes is not idle.
            let _ = send(&receiver.socket, &self.keepalive, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            *index += 1;
            *at_ns += KEEPALIVE_NS / self.receivers.len() as u64;
        }
    }
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

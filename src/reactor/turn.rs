//! A reactor's turn: everything that it asks of its ring, with one system call.
//!
//! Who owns what: a receive buffer is the kernel's until its completion, ours until it is recycled,
//! which is before the turn ends. The bytes of a send are the kernel's until its completion: what keeps them
//! is the connection's [flight](super::transport::Flight).

use std::{
    collections::VecDeque,
    io,
    os::fd::RawFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
};

use super::{
    Order,
    admission::{
        accept::{Accepted, Acceptor, OutOfDescriptors, Source},
        addresses::Origin,
        door::Arrival,
        rate::Rate,
        refusal::Refusal,
    },
    connection::Phase,
    desk::{Desk, Shared},
    drain::{Drain, Parting},
    exchange::ReactorPort,
    sending::Sending,
    share::{self, SendBudget},
    slow::Reset,
    spin::Spin,
    wall::Wall,
};
use crate::{
    metrics::Trouble,
    protocol::close::CloseReason,
    pubsub::subscription::ConnectionId,
    uring::{Completion, Io, Op, Token, Wait, wake},
    work::{UNIT, price},
};

// Simulations reach every bound of a turn sooner.
/// The most completions that a turn takes.
pub const COMPLETIONS_MAX: usize = if cfg!(test) { 16 } else { 4_096 };
/// A turn that has done so much looks once more before it sleeps, so that its end is seen.
const LONG_TURN: u64 = 50 * UNIT;
/// How long a sleep lasts at most while another reactor's queue or the log is full, in nanoseconds.
pub const FULL_RETRY_NS: u64 = 200_000;
/// How long one lasts at most while a guest's queue is full: it may hang for long, and nobody spins for it.
pub const GUEST_RETRY_NS: u64 = 2_000_000;
/// The longest sleep, in nanoseconds.
const SLEEP_NS_MAX: u64 = 1_000_000_000;
/// Connections beyond as many as there may be that are told so before they are just closed.
pub const REFUSED_MAX: usize = 64;
/// One reactor on its ring.
pub struct Reactor<I: Io> {
    io: I,
    desk: Desk,
    acceptor: Acceptor,
    /// The last enter was a sleep, which others may have ended by a wake.
    is_asleep: bool,
    drain: Option<Drain>,
    /// Connections of all reactors.
    connection_count: Arc<AtomicUsize>,
    connections_max: usize,
    /// Connections whose receive ended for want of buffers, first come first served.
    starved: VecDeque<u32>,
    sending: Sending,
    /// Whose deadlines have passed and were not seen to.
    fired: VecDeque<ConnectionId>,
    /// When the turn before this began, unless it slept.
    began_ns: Option<u64>,
    spin: Spin,
    wall: Wall,
    /// Kept between turns for their memory.
    passed: Vec<u32>,
    resumed: Vec<u32>,
    wakes: Vec<usize>,
}

/// Whether there will be another turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There will.
    Next,
    /// The reactor has drained.
    Ended,
}

impl<I: Io> Reactor<I> {
    /// A reactor that accepts from `sources`, whose sockets become its own. `connection_count` is shared by
    /// all reactors.
    pub fn new(
        io: I,
        port: ReactorPort,
        shared: Shared,
        sources: Vec<Source<RawFd>>,
        connection_count: Arc<AtomicUsize>,
        connections_max: usize,
    ) -> Reactor<I> {
        let mut reactor = Reactor {
            io,
            desk: Desk::new(port, shared, connections_max + REFUSED_MAX),
            acceptor: Acceptor::new(sources),
            is_asleep: false,
            drain: None,
            connection_count,
            connections_max,
            starved: VecDeque::new(),
            sending: Sending::default(),
            fired: VecDeque::new(),
            began_ns: None,
            spin: Spin::default(),
            wall: Wall::default(),
            passed: Vec::new(),
            resumed: Vec::new(),
            wakes: Vec::new(),
        };
        reactor.apply_config();
        reactor.acceptor.open(&mut reactor.io);
        reactor
    }

    /// One pass, in the order that docs/ARCHITECTURE.md explains. Never blocks but in its one enter.
    ///
    /// # Errors
    /// What io_uring_enter(2) says beyond the normal.
    pub fn turn(&mut self, now_ns: u64) -> io::Result<Turn> {
        if std::mem::take(&mut self.is_asleep) {
            self.desk.exchange.announce_awake();
        }
        self.spin.begin_turn(now_ns);
        if let Some(began_ns) = self.began_ns.replace(now_ns) {
            self.desk.stats.turn_ns.observe(now_ns.saturating_sub(began_ns));
        }
        let wall_ms = self.wall.ms(now_ns, || self.io.wall_ns());
        self.desk.begin_turn(now_ns, wall_ms);
        self.reap();
        self.resume();
        self.take_orders(now_ns);
        self.desk.receive();
        self.desk.post(&mut self.wakes);
        // Before those who brought one are not read from: most go on at once.
        self.desk.look_at_credentials();
        self.pause();
        self.reset();
        let next_sweep_ns = self.serve(now_ns);
        self.fire_timers();
        let next_round_ns = self.desk.judge_stalled();
        self.run_tasks();
        self.desk.tell_audit(&mut self.io);
        let turn = self.drain(now_ns);
        self.feed_starved();
        self.acceptor.retry(now_ns, &mut self.io);
        self.adapt(now_ns);
        // Closing connections and timers may have had something to say as well.
        self.desk.post(&mut self.wakes);
        for to in self.wakes.drain(..) {
            self.io.wake(to);
        }
        // The last turn has nothing left to submit: a wake of those whom it answered may fail, or be kept.
        let is_ending = turn == Turn::Ended;
        let turn = if self.io.is_all_submitted() { turn } else { Turn::Next };
        let due_ns = [next_sweep_ns, next_round_ns].into_iter().flatten().min();
        // Looked at once: others fill the log and empty it meanwhile.
        let is_open = self.desk.is_home_open();
        let wait = if is_ending { Wait::Poll } else { self.wait(now_ns, due_ns, is_open) };
        let was_idle = self.desk.meter.spent() == 0;
        let looks_again = wait != Wait::Poll && self.spin.looks_again(now_ns, was_idle);
        let wait = if looks_again { Wait::Poll } else { wait };
        self.desk.stats.turn_work_total += self.desk.meter.spent() / UNIT;
        // Awake again from the next turn's beginning on.
        self.is_asleep = wait != Wait::Poll && self.desk.exchange.announce_sleep(is_open);
        if looks_again && was_idle {
            // No turn that anybody waited for.
            self.began_ns = None;
        }
        if self.is_asleep {
            // What it does until it sleeps is little, or it would not: its sends are not seen.
            self.began_ns = None;
            let slept_ns = self.io.clock_ns();
            self.desk.stats.turn_ns.observe(slept_ns.saturating_sub(now_ns));
        }
        self.io.enter(if self.is_asleep { wait } else { Wait::Poll }).map(|()| turn)
    }

    /// Sends: those who wait for an answer first, as far as the others leave it to them, then whoever is owed
    /// something, and what is left to whoever has most; then topics' pasts. Tells when the next sweep is due.
    fn serve(&mut self, now_ns: u64) -> Option<u64> {
        self.desk.fanout.start_due_sweeps(now_ns, share::TASKS);
        self.desk.take_work();
        self.sending.budget = SendBudget::new(self.desk.meter.spent());
        let is_live = |desk: &Desk| desk.fanout.is_sweeping() || !desk.queues.serving.is_empty();
        let kept = if is_live(&self.desk) { self.sending.budget.half() } else { SendBudget::none() };
        self.send_replies(kept);
        let kept =
            if self.desk.fanout.is_sweeping() { self.sending.budget.half() } else { SendBudget::none() };
        self.serve_owing(kept);
        self.sending.sweep(&mut self.desk, &mut self.io, now_ns);
        self.serve_owing(SendBudget::none());
        self.send_replies(SendBudget::none());
        self.send_pasts(now_ns);
        self.desk.fanout.next_sweep_ns()
    }

    fn run_tasks(&mut self) {
        self.desk.run_tasks();
        let mut departed = std::mem::take(&mut self.desk.queues.departed);
        for slot in departed.drain(..) {
            self.try_release(slot);
        }
        self.desk.queues.departed = departed;
    }

    /// What the reactor knows; for tests.
    pub fn desk(&self) -> &Desk {
        &self.desk
    }

    /// The ring; for tests.
    pub fn io(&mut self) -> &mut I {
        &mut self.io
    }

    #[cfg(test)]
    pub(super) fn io_ref(&self) -> &I {
        &self.io
    }

    #[cfg(test)]
    pub(super) fn desk_mut(&mut self) -> &mut Desk {
        &mut self.desk
    }

    fn reap(&mut self) {
        for _ in 0..COMPLETIONS_MAX {
            if self.desk.meter.spent() >= share::INPUT {
                self.desk.is_crowded = true;
                return;
            }
            let Some(completion) = self.io.reap() else {
                self.desk.is_crowded = false;
                return;
            };
            self.desk.stats.completions_total += 1;
            self.desk.meter.spend(price::COMPLETION);
            match completion.token.op() {
                Op::Receive | Op::ReceiveLarge => self.on_receive(completion),
                Op::Send => self.on_send(completion),
                Op::Accept => self.on_accept(completion),
                // Whoever was to be woken still sleeps, beside what it was to be woken for.
                Op::WakeSent if completion.result < 0 && !wake::is_gone(completion.result) => {
                    self.wakes.push(completion.token.slot() as usize);
                }
                // A cancelled op says so itself; a wake has done what it is for.
                Op::Cancel | Op::Wake | Op::WakeSent => {}
                Op::Connect => unreachable!("a broker connects to nobody"),
            }
        }
    }

    fn on_accept(&mut self, completion: Completion) {
        match self.acceptor.on_completion(&completion, self.desk.now_ns, &mut self.io) {
            Ok(Some(Accepted { socket, has_waited })) => {
                if has_waited {
                    self.desk.shared.troubles.note(Trouble::AcceptRate);
                }
                self.open(socket);
            }
            Ok(None) => {}
            Err(OutOfDescriptors) => {
                self.desk.stats.no_descriptors_total += 1;
                self.desk.shared.troubles.note(Trouble::NoDescriptors);
            }
        }
    }

    fn open(&mut self, socket: i32) {
        self.desk.stats.accepts_total += 1;
        self.desk.meter.spend(price::ACCEPT);
        let arrival = match self.desk.door.is_asking {
            true => self.desk.judge_peer(self.io.peer_address(socket)),
            false => Ok(Arrival::default()),
        };
        let arrival = match arrival {
            Ok(arrival) => arrival,
            Err(refusal) => {
                if let Some(trouble) = refusal.and_then(Refusal::trouble) {
                    self.desk.shared.troubles.note(trouble);
                }
                let reason = refusal.map_or(CloseReason::PeerGone, Refusal::reason);
                self.desk.stats.closes_total[reason.index()] += 1;
                return self.io.close(socket);
            }
        };
        let before = self.connection_count.fetch_add(1, Ordering::Relaxed);
        let (origin, is_address_full) = self.enter_address(arrival.origin);
        let refusal = match before >= self.connections_max {
            true if self.connections_max == self.desk.shared.config.limits.connections_max => {
                Some(Refusal::ConnectionsMax)
            }
            true => Some(Refusal::Descriptors),
            false => is_address_full.then_some(Refusal::AddressMax),
        };
        if let Some(trouble) = refusal.and_then(Refusal::trouble) {
            self.desk.shared.troubles.note(trouble);
        }
        let is_far_beyond = before >= self.connections_max + REFUSED_MAX;
        let slot = match refusal {
            Some(refusal) if is_far_beyond || self.desk.connections.refused_count() >= REFUSED_MAX => {
                self.connection_count.fetch_sub(1, Ordering::Relaxed);
                self.desk.stats.closes_total[refusal.reason().index()] += 1;
                origin.into_iter().for_each(|origin| self.desk.shared.addresses.leave(origin));
                return self.io.close(socket);
            }
            _ => self.desk.open(socket, origin),
        };
        self.desk.note_arrival(slot, arrival);
        self.receive(slot);
        if let Some(refusal) = refusal {
            self.desk.refuse(slot, refusal);
        }
        if let Some(oldest) = self.desk.displaced() {
            self.end(oldest, CloseReason::Displaced);
        }
    }

    /// Counts an accepted connection by whose it is, if that is known and counted: whose, if it was, and whether that has too many.
    fn enter_address(&self, origin: Option<Origin>) -> (Option<Origin>, bool) {
        let count_max = self.desk.shared.config.limits.connections_per_address_max;
        let Some(origin) = origin.filter(|_| count_max > 0) else { return (None, false) };
        let has_room = self.desk.shared.addresses.enter(origin, count_max);
        (has_room.then_some(origin), !has_room)
    }

    /// Takes what a configuration says about who may come in, and about sleeping.
    fn apply_config(&mut self) {
        self.spin.set(self.desk.shared.config.reactor.spin_us);
        let upgrading_max = self.desk.shared.config.limits.upgrading_max;
        let upgrading_max = upgrading_max.min(self.connections_max / 2);
        let reactor_count = self.desk.exchange.home_count();
        self.desk.connections.set_upgrading_max(upgrading_max.div_ceil(reactor_count).max(1));
        // A tenth of a second's at once.
        let accepts_per_s = self.desk.shared.config.limits.accepts_per_s_max;
        let burst = accepts_per_s / (10 * reactor_count as u32);
        let rate = Rate::new(accepts_per_s, reactor_count, burst.max(1));
        self.acceptor.set_rate(rate, &mut self.io);
    }

    fn on_receive(&mut self, completion: Completion) {
        let slot = completion.token.slot();
        let connection = &mut self.desk.connections[slot];
        assert_eq!(
            connection.generation & crate::uring::token::GENERATION_MASK,
            completion.token.generation(),
            "a slot is not given away while its receive is in flight"
        );
        connection.is_receiving = completion.more;
        let is_reading = connection.is_reading();
        let over = match connection.phase {
            Phase::Lingering(reason) | Phase::Finishing(reason) => Some(reason),
            _ => None,
        };
        if let Some(lease) = completion.lease {
            let bytes = self.sending.transport.received(&lease, &mut self.io);
            if is_reading {
                self.desk.handle_bytes(slot, bytes);
            }
            let is_too_much = over.is_some() && self.desk.pass_over(slot, bytes);
            self.io.recycle(lease);
            if let Some(reason) = over.filter(|_| is_too_much) {
                return self.end(slot, reason);
            }
        }
        if completion.more {
            return;
        }
        match -completion.result {
            0 => self.on_end_of_stream(slot),
            libc::ENOBUFS => {
                self.desk.stats.no_buffers_total += 1;
                self.desk.connections.share_mut(slot).is_starved = true;
                self.starved.push_back(slot);
            }
            libc::ECANCELED => self.continue_or_release(slot),
            error if error > 0 => self.end(slot, CloseReason::PeerGone),
            _ => self.continue_or_release(slot),
        }
    }

    /// A receive ended without an error: it is armed again unless the connection is paused or over.
    fn continue_or_release(&mut self, slot: u32) {
        let connection = &self.desk.connections[slot];
        match connection.phase {
            Phase::Ending(_) => self.try_release(slot),
            Phase::Lingering(_) => self.receive(slot),
            _ if connection.is_paused() => {}
            _ => self.receive(slot),
        }
    }

    fn on_end_of_stream(&mut self, slot: u32) {
        let connection = &self.desk.connections[slot];
        match connection.phase {
            // What came before the end is not taken yet. The next receive meets the end again.
            Phase::Open | Phase::Closing(_) if connection.is_paused() => {}
            // The peer shut its direction down and may still read: what waits is sent.
            Phase::Flushing(_) => {}
            Phase::Lingering(reason) | Phase::Finishing(reason) | Phase::Ending(reason) => {
                self.end(slot, reason);
            }
            Phase::Closing(reason) => self.end(slot, reason),
            _ => self.end(slot, CloseReason::PeerGone),
        }
    }

    fn on_send(&mut self, completion: Completion) {
        let slot = completion.token.slot();
        let now_ms = self.desk.now_ms() as u32;
        let flight = std::mem::take(&mut self.desk.connections[slot].flight);
        let let_go = |source| self.desk.let_go(source);
        let sent = self.sending.transport.complete(flight, completion.result, let_go);
        if sent.has_bytes {
            self.desk.note_buffered(slot);
        }
        if !sent.is_whole {
            return self.end(slot, CloseReason::PeerGone);
        }
        self.desk.stats.sent_bytes_total += u64::from(sent.len);
        if sent.has_messages {
            self.desk.meters.note_message(slot, now_ms);
        }
        let connection = &self.desk.connections[slot];
        match connection.phase {
            Phase::Ending(_) => self.try_release(slot),
            Phase::Flushing(reason) if connection.replies.is_empty() => self.linger(slot, reason),
            _ => self.desk.list_if_owed(slot),
        }
    }

    fn resume(&mut self) {
        let mut resumed = std::mem::take(&mut self.resumed);
        self.desk.resume(&mut resumed);
        for slot in resumed.drain(..) {
            let connection = &self.desk.connections[slot];
            if !connection.is_receiving && connection.phase != Phase::Free {
                self.receive(slot);
            }
        }
        self.resumed = resumed;
    }

    /// Stops receiving for connections whose commands cannot be taken now.
    fn pause(&mut self) {
        let mut pausing = std::mem::take(&mut self.desk.queues.pausing);
        for slot in pausing.drain(..) {
            let connection = &self.desk.connections[slot];
            if connection.is_paused() && connection.is_receiving {
                self.desk.meter.spend(price::RECEIVE);
                let connection = &self.desk.connections[slot];
                let token = |op| Token::new(op, slot, connection.generation);
                // One into a larger buffer goes on: it ends with what comes next.
                self.io.cancel(token(Op::Receive), token(Op::Cancel));
            }
        }
        self.desk.queues.pausing = pausing;
    }

    /// Ends connections whose send in flight keeps what must go.
    fn reset(&mut self) {
        let mut resetting = std::mem::take(&mut self.desk.queues.resetting);
        for (ConnectionId { slot, generation }, why) in resetting.drain(..) {
            let connection = &self.desk.connections[slot];
            if connection.generation != generation || connection.phase == Phase::Free {
                continue;
            }
            // What a send kept comes free with it, which may have been since.
            if connection.is_sending() || why == Reset::BufferedBytes {
                self.io.reset_on_close(connection.socket);
                self.desk.note_reset(slot, why);
                self.end(slot, why.reason());
            }
        }
        self.desk.queues.resetting = resetting;
    }

    fn take_orders(&mut self, now_ns: u64) {
        while let Some(order) = self.desk.exchange.receive_order() {
            match order {
                // Whoever asked may have gone: then nobody wants the answer.
                Order::Stats(sender) => drop(sender.send(self.desk.snapshot())),
                Order::Reload(config, access) => {
                    self.desk.reload(config, access);
                    self.apply_config();
                }
                Order::Keys(access) => self.desk.set_keys(access),
                Order::Revoke(revocations) => self.desk.revoke(revocations),
                Order::StopAccepting(sender) => {
                    self.acceptor.stop(&mut self.io);
                    self.acceptor.tell_when_idle(sender);
                }
                Order::Accept => {
                    self.end_drain();
                    self.acceptor.open(&mut self.io);
                }
                Order::Drain { within_ms, emptied } => self.begin_drain(now_ns, within_ms, emptied),
            }
        }
    }

    /// Serves connections that have replies, until no more than `kept` is left.
    fn send_replies(&mut self, kept: SendBudget) {
        self.serve_listed(kept, |desk| &mut desk.queues.replying);
    }

    /// Serves connections in whose views ranges waited for a send to end, likewise.
    fn serve_owing(&mut self, kept: SendBudget) {
        self.serve_listed(kept, |desk| &mut desk.queues.serving);
    }

    /// Sends topics' pasts to those who have no send in flight, in their turn, if it is time for that.
    fn send_pasts(&mut self, now_ns: u64) {
        let before = self.desk.meter.spent();
        self.sending.budget = SendBudget::of_pasts();
        for _ in 0..self.desk.queues.replaying_count() {
            if now_ns < self.sending.pasts_due_ns || self.sending.budget.is_spent(SendBudget::none()) {
                break;
            }
            let slot = self.desk.queues.pop_replaying().expect("the loop counts what is there");
            self.sending.serve_past(&mut self.desk, &mut self.io, slot);
        }
        let spent = self.desk.meter.spent() - before;
        if spent > 0 {
            self.sending.pasts_due_ns = now_ns + spent * share::PASTS_PAUSE;
        }
    }

    /// Each of those that are in `list` now, once.
    fn serve_listed(&mut self, kept: SendBudget, list: fn(&mut Desk) -> &mut VecDeque<u32>) {
        for _ in 0..list(&mut self.desk).len() {
            if self.sending.budget.is_spent(kept) {
                return;
            }
            let slot = list(&mut self.desk).pop_front().expect("the loop counts what is there");
            if let Some(reason) = self.sending.serve(&mut self.desk, &mut self.io, slot) {
                self.linger(slot, reason);
            }
        }
    }

    fn fire_timers(&mut self) {
        self.desk.connections.timers.fire(self.desk.now_ms(), &mut self.passed);
        for slot in self.passed.drain(..) {
            self.fired.push_back(self.desk.connections.id_of(slot));
        }
        let until = self.desk.meter.spent() + share::DEADLINES;
        while self.desk.meter.spent() < until
            && let Some(ConnectionId { slot, generation }) = self.fired.pop_front()
        {
            self.desk.meter.spend(price::DEADLINE);
            let connection = &self.desk.connections[slot];
            // While it waited here the connection may have ended, or got another deadline.
            if connection.generation != generation || self.desk.connections.timers.is_armed(slot) {
                continue;
            }
            if let Phase::Lingering(reason) = connection.phase {
                if !self.desk.goes_on_lingering(slot) {
                    self.finish(slot, reason);
                }
                continue;
            }
            // Asked only where it says something.
            let is_sending = connection.is_sending();
            let acked_bytes = is_sending.then(|| self.io.acked_bytes(connection.socket) as u32);
            if let Some(reason) = self.desk.handle_deadline(slot, acked_bytes) {
                // Else the kernel keeps what the peer does not take long after the close.
                if reason != CloseReason::HandshakeTimeout {
                    self.io.reset_on_close(self.desk.connections[slot].socket);
                }
                self.end(slot, reason);
            }
        }
    }

    /// Everything is sent: waits for a peer that may be in the middle of something to fall silent, and goes on to the end.
    fn linger(&mut self, slot: u32, reason: CloseReason) {
        if !reason.leaves_bytes() {
            return self.finish(slot, reason);
        }
        self.desk.begin_lingering(slot, reason);
        if !self.desk.connections[slot].is_receiving {
            self.receive(slot);
        }
    }

    /// Everything is sent: ends our direction, and waits for the peer to end its own.
    fn finish(&mut self, slot: u32, reason: CloseReason) {
        let is_counted = matches!(self.desk.connections[slot].phase, Phase::Lingering(_));
        self.desk.leave(slot, Phase::Finishing(reason));
        let connection = &mut self.desk.connections[slot];
        if !is_counted {
            connection.acked_bytes = 0;
        }
        self.io.shutdown_write(connection.socket);
        if !connection.is_receiving {
            if connection.is_paused() {
                self.receive(slot);
            } else {
                // Its end of stream has come already, or it waits for a buffer: nothing is awaited.
                self.end(slot, reason);
            }
        }
    }

    /// Ends the connection: at once if the kernel holds nothing of it, else with its last completion.
    fn end(&mut self, slot: u32, reason: CloseReason) {
        match self.desk.connections[slot].phase {
            Phase::Free => unreachable!("a connection ends once"),
            Phase::Ending(_) => {}
            phase => {
                // What closed it stays the reason, however the peer takes it.
                let reason = phase.reason().unwrap_or(reason);
                self.desk.leave(slot, Phase::Ending(reason));
                self.io.shutdown(self.desk.connections[slot].socket);
            }
        }
        self.try_release(slot);
    }

    /// Frees the slot of a connection that is ending, if the kernel holds nothing of it any more.
    fn try_release(&mut self, slot: u32) {
        let connection = &self.desk.connections[slot];
        let Phase::Ending(reason) = connection.phase else { return };
        if connection.is_held() || self.desk.fanout.is_leaving(slot) {
            return;
        }
        self.io.close(connection.socket);
        self.desk.release(slot, reason);
        self.connection_count.fetch_sub(1, Ordering::Relaxed);
        self.acceptor.on_close(&mut self.io);
    }

    fn receive(&mut self, slot: u32) {
        let (connection, share) = self.desk.connections.with_share(slot);
        assert!(!connection.is_receiving, "a connection has one receive in flight");
        connection.is_receiving = true;
        self.desk.meter.spend(price::RECEIVE);
        let token = |op| Token::new(op, slot, connection.generation);
        let is_starved = std::mem::take(&mut share.is_starved);
        match share.is_flooding {
            // What comes together is sent on together: it costs a receive and a send, however many messages it is.
            true if !is_starved && !self.desk.buffered.is_short() => {
                self.io.receive_large(connection.socket, token(Op::ReceiveLarge));
            }
            false if !is_starved => self.io.receive_multishot(connection.socket, token(Op::Receive)),
            _ => self.io.receive(connection.socket, token(Op::Receive)),
        }
    }

    /// Arms receives that ended for want of buffers: first come, at most as many as there are buffers.
    fn feed_starved(&mut self) {
        for _ in 0..self.starved.len().min(self.io.free_buffers()) {
            let slot = self.starved.pop_front().expect("the loop counts what is there");
            let connection = &self.desk.connections[slot];
            if !connection.is_receiving && connection.phase != Phase::Free {
                self.continue_or_release(slot);
            }
        }
    }

    fn adapt(&mut self, now_ns: u64) {
        if let Some(elapsed_ns) = self.desk.pacing.is_due(now_ns) {
            let spun = self.spin.take_spent_ns() as f64 / elapsed_ns as f64;
            let busy = self.io.busy_share(elapsed_ns) - spun;
            self.desk.pacing.adapt(now_ns, busy);
        }
    }

    fn begin_drain(&mut self, now_ns: u64, within_ms: u64, emptied: Option<mpsc::Sender<()>>) {
        if self.drain.is_none() {
            self.desk.begin_drain();
            self.drain = Some(Drain::new(now_ns, within_ms, emptied));
            self.acceptor.stop(&mut self.io);
        }
    }

    /// Closes connections whose time has come. When none is left and none can come the reactor ends, or says so.
    fn drain(&mut self, now_ns: u64) -> Turn {
        let Some(drain) = &mut self.drain else { return Turn::Next };
        if self.acceptor.is_idle() {
            if drain.is_end() {
                // So that clients are refused and go elsewhere, instead of waiting in a queue for nobody.
                self.acceptor.close(&mut self.io);
            }
            if self.desk.connections.open_count() == 0 {
                if !drain.is_end() {
                    drain.tell();
                    self.end_drain();
                    return Turn::Next;
                }
                // The home goes on answering while others owe something to connections.
                if self.connection_count.load(Ordering::Relaxed) == 0 || drain.is_over(now_ns) {
                    return Turn::Ended;
                }
            }
        }
        if !drain.is_due(now_ns) {
            return Turn::Next;
        }
        let until = self.desk.meter.spent() + share::DEADLINES;
        while let Some((slot, parting)) = self.next_parting(until, now_ns) {
            match parting {
                Parting::Close => self.desk.close_for_restart(slot),
                Parting::End => self.end(slot, CloseReason::Restart),
                Parting::Cut => {
                    self.io.reset_on_close(self.desk.connections[slot].socket);
                    // Which one that is being closed already does not take.
                    self.end(slot, CloseReason::Restart);
                }
            }
        }
        Turn::Next
    }

    fn next_parting(&mut self, until: u64, now_ns: u64) -> Option<(u32, Parting)> {
        let Desk { connections, fanout, meter, .. } = &mut self.desk;
        self.drain.as_mut()?.next(connections, fanout, meter, until, now_ns)
    }

    /// Goes on as before a drain; connections that it closes already come to their end.
    fn end_drain(&mut self) {
        if let Some(drain) = self.drain.take() {
            assert!(!drain.is_end(), "a reactor that is to end accepts no more");
            self.desk.end_drain();
        }
    }

    /// How long the enter may wait; sweeps and the like are due at `due_ns`. Nobody wakes a home that is not
    /// open, or a connection that waits for log.
    fn wait(&self, now_ns: u64, due_ns: Option<u64>, is_open: bool) -> Wait {
        let desk = &self.desk;
        let has_work = desk.fanout.is_sweeping()
            || !desk.queues.replying.is_empty()
            || !desk.queues.serving.is_empty()
            || !self.fired.is_empty()
            || desk.has_tasks()
            || desk.exchange.own_count() > 0
            || (is_open && desk.exchange.is_asked())
            || self.drain.as_ref().is_some_and(Drain::is_walking)
            || (!self.starved.is_empty() && self.io.free_buffers() > 0)
            || desk.can_resume()
            || desk.meter.spent() >= LONG_TURN;
        if has_work {
            return Wait::Poll;
        }
        let mut until_ns = now_ns + SLEEP_NS_MAX;
        if !desk.exchange.is_posted() || !is_open || desk.is_log_full() {
            until_ns = until_ns.min(now_ns + FULL_RETRY_NS);
        }
        if !desk.exchange.is_posted_to_guests() {
            until_ns = until_ns.min(now_ns + GUEST_RETRY_NS);
        }
        if let Some(drain) = &self.drain {
            until_ns = until_ns.min(drain.due_ns());
        }
        let past_ns = (desk.queues.replaying_count() > 0).then_some(self.sending.pasts_due_ns);
        let deadline_ns = desk.connections.timers.next_due_ms().map(|due_ms| due_ms * 1_000_000);
        let retry_ns = self.acceptor.next_retry_ns();
        let until_ns =
            [deadline_ns, due_ns, past_ns, retry_ns].into_iter().flatten().fold(until_ns, u64::min);
        match until_ns.saturating_sub(now_ns) {
            0 => Wait::Poll,
            timeout_ns => Wait::Sleep { timeout_ns },
        }
    }
}

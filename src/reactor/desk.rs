//! What a reactor knows and decides, without its ring: connections, commands, topics.
//!
//! Here all meet that know nothing of each other: [`Connections`] and [`Queues`], [`Exchange`], home and fan-out. What bytes
//! mean is in `reading`, what commands do in `commands`, what becomes of slow consumers in `slow`.

use std::{collections::VecDeque, os::fd::RawFd, sync::Arc};

use super::{
    admission::{
        addresses::{Addresses, Origin},
        door::Door,
        refusal::Refusal,
        usages::Usages,
    },
    audit::{Audit, Auditor},
    buffered::{self, Buffered},
    carrier::Carrier,
    connection::Phase,
    connections::Connections,
    exchange::{DELIVERIES_MAX, Exchange, RECEIVES_MAX, ReactorPort},
    gate::Gate,
    meters::Meters,
    pacing::Pacing,
    pending::PendingTable,
    queues::Queues,
    reading::Check,
    review::Review,
    settings::{
        deflate_settings, encoding_count, keeping_of, key_windows_of, policy_of, session_limits,
        stranger_limits, tenant_topics_of,
    },
    share,
    slow::{ShedFlights, StalledRound},
    transport::Source,
};
use crate::{
    access::{Access, revocation::Revocations},
    config::Config,
    metrics::{ReactorStats, Trouble, Troubles},
    protocol::{
        close::CloseReason,
        deflate::{Deflater, Inflater},
        frame, json,
        session::Limits,
        veil::Veil,
    },
    pubsub::{
        fanout::{Fanout, Outcome},
        home::{Home, Homes},
        keyed::Scopes,
        log::{Budget, Range},
        subscription::ViewKey,
        view::MemberSlot,
    },
    work::{Meter, price},
};

/// Spare reply buffers: how many, which is as many as a turn's sends empty, and how large each may be to be kept.
const SPARES_MAX: usize = share::SENDS_MAX;
const SPARE_BYTES_MAX: usize = 4 << 10;
/// How much memory a parser keeps that has not met a long message for a while, in bytes.
const PARSER_BYTES_KEPT: usize = 1 << 20;
/// How often topics that went quiet are looked for, in nanoseconds.
const HOME_PERIOD_NS: u64 = 250_000_000;
/// How often log that only stragglers keep is looked for while the log is short, in nanoseconds.
const SHED_PERIOD_NS: u64 = 2_000_000;

/// What all reactors of a broker have in common: each has its copy, which points to what is shared. A reload puts a new
/// configuration into each copy; the homes, the budget's bound and the epoch stay as they were at the start.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The configuration.
    pub config: Arc<Config>,
    /// Who may do what by it; none if everybody may do everything.
    pub access: Option<Arc<Access>>,
    /// Who is not let in all the same, at the start.
    pub revocations: Arc<Revocations>,
    /// Which reactor is a topic's home.
    pub homes: Homes,
    /// The live chunks of all homes.
    pub budget: Arc<Budget>,
    /// 64 random bits of this start.
    pub epoch: u64,
    /// What users and tenants have.
    pub usages: Arc<Usages>,
    /// What stands for users whose keys are told apart.
    pub scopes: Scopes,
    /// Covers the numbers of connections that clients are told.
    pub veil: Veil,
    /// Connections by address.
    pub addresses: Arc<Addresses>,
    /// What the operator is told.
    pub troubles: Arc<Troubles>,
    /// What whoever audits it is told.
    pub audit: Arc<Audit>,
    /// What connections have under way.
    pub buffered: Arc<buffered::Total>,
    /// Browsers reach the listeners on this machine alone.
    pub is_loopback: bool,
}

/// One reactor without its ring.
///
/// A turn calls [`Desk::begin_turn`] first. What comes in goes to [`Desk::handle_bytes`] and [`Desk::handle_deadline`],
/// [`Desk::resume`] lets those go on who waited, [`Desk::receive`] takes what others said, [`Desk::judge_stalled`] and
/// [`Desk::run_tasks`] do what goes on over turns: each as often as there is something, and in any order. [`Desk::post`],
/// last, says to others what all of that had to say. What is to be done in the ring stands in [`Desk::queues`] after each
/// of them; and a connection keeps its slot until the turn, which knows what the kernel holds, calls [`Desk::release`].
#[derive(Debug)]
pub struct Desk {
    /// Who has which slot.
    pub connections: Connections,
    /// Who receives what.
    pub fanout: Fanout,
    /// The delay between sweeps.
    pub pacing: Pacing,
    /// Counters.
    pub stats: ReactorStats,
    /// Who waits for what.
    pub queues: Queues,
    /// What is said between reactors.
    pub exchange: Exchange,
    /// Long messages that are being checked, each in its turn.
    pub(super) checking: VecDeque<Check>,
    pub(super) buffered: Buffered,
    /// More completions came than the turn before could take.
    pub(super) is_crowded: bool,
    /// What the turn before did.
    pub(super) last_spent: u64,
    /// Those who send much wait for this turn to be over.
    pub(super) is_put_off: bool,
    /// What this turn has done.
    pub meter: Meter,
    pub(super) shared: Shared,
    pub(super) limits: Limits,
    /// For those who are not let in.
    pub(super) stranger_limits: Limits,
    pub(super) home: Home,
    pub(super) home_period_ns: u64,
    shed_ns: u64,
    pub(super) shed_flights: Option<ShedFlights>,
    /// None while it is in use: an empty one would have to be allocated to stand in for it.
    pub(super) parser: Option<json::Parser>,
    pub(super) inflater: Inflater,
    pub(super) deflater: Deflater,
    pub(super) pending: PendingTable,
    pub(super) meters: Meters,
    /// Where those come from that are not let in.
    pub(super) door: Door,
    /// Who connections are.
    pub(super) gate: Gate,
    pub(super) review: Review,
    pub(super) auditor: Auditor,
    /// Publications on their way to other homes.
    pub(super) carrier: Carrier,
    /// None where nothing grows too old.
    pub(super) stalled_round: Option<StalledRound>,
    pub(super) outcome: Outcome,
    spares: Vec<Vec<u8>>,
    pub(super) now_ns: u64,
}

impl Desk {
    /// The reactor whose end of the queues `port` is, for up to `slots_max` connections.
    pub fn new(port: ReactorPort, shared: Shared, slots_max: usize) -> Desk {
        let reactor_count = shared.homes.count();
        let config = shared.config.clone();
        let policy = policy_of(&config);
        let stalled_round = StalledRound::of(&policy);
        let topics_max = config.limits.topics_max;
        let mut meters = Meters::default();
        meters.reload(&config, 0, 0);
        let mut door = Door::default();
        door.reload(&config);
        let mut home = Home::new(
            reactor_count,
            topics_max,
            config.limits.names_per_connection_max,
            encoding_count(&config),
            shared.budget.clone(),
        );
        home.set_keeping(keeping_of(&config));
        home.set_key_windows(key_windows_of(&config), config.limits.keys_max);
        home.set_tenants(tenant_topics_of(&config));
        let mut gate = Gate::new(shared.access.clone(), shared.revocations.clone(), shared.usages.clone());
        gate.set_quotas(&config);
        Desk {
            connections: Connections::new(slots_max),
            fanout: Fanout::new(shared.homes.clone(), policy, topics_max, slots_max, shared.budget.clone()),
            pacing: Pacing::new(config.reactor.max_delay_us),
            stats: ReactorStats::default(),
            exchange: Exchange::new(port, reactor_count),
            queues: Queues::default(),
            checking: VecDeque::new(),
            is_crowded: false,
            last_spent: 0,
            is_put_off: false,
            buffered: Buffered::new(shared.buffered.clone(), config.limits.buffered_bytes_max),
            meter: Meter::default(),
            limits: session_limits(&config, shared.is_loopback),
            stranger_limits: stranger_limits(&config, shared.is_loopback),
            home,
            home_period_ns: 0,
            shed_ns: 0,
            shed_flights: None,
            parser: None,
            inflater: Inflater::default(),
            deflater: Deflater::new(deflate_settings(&config)),
            pending: PendingTable::default(),
            meters,
            gate,
            door,
            review: Review::default(),
            auditor: Auditor::new(shared.audit.clone()),
            carrier: Carrier::new(shared.budget.clone(), reactor_count),
            stalled_round,
            outcome: Outcome::default(),
            spares: Vec::new(),
            now_ns: 0,
            shared,
        }
    }

    /// The time of this turn, in milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.now_ns / 1_000_000
    }

    /// A turn begins, when the wall clock shows `wall_ms` since the Unix epoch.
    pub fn begin_turn(&mut self, now_ns: u64, wall_ms: u64) {
        self.now_ns = now_ns;
        self.last_spent = self.meter.spent();
        self.meter = Meter::default();
        self.stats.turns_total += 1;
        self.buffered.begin_turn();
        self.inflater.trim();
        self.deflater.trim();
        self.gate.begin_turn(now_ns, wall_ms);
        self.home.begin_turn(now_ns / 1_000_000, wall_ms);
        if now_ns - self.home_period_ns >= HOME_PERIOD_NS {
            self.home_period_ns = now_ns;
            self.home.handle_period();
            self.fanout.handle_period(now_ns);
            self.carrier.trim();
            self.gate.tidy_usages(now_ns / HOME_PERIOD_NS);
            if let Some(parser) = &mut self.parser {
                parser.trim(PARSER_BYTES_KEPT);
            }
        }
        if self.carrier.is_full() {
            self.carrier.release_free();
        }
        if self.shared.budget.is_short() && now_ns - self.shed_ns >= SHED_PERIOD_NS {
            self.shed_ns = now_ns;
            self.shed();
        }
    }

    /// Runs with `config` from now on. A deadline that is set stays, and what follows it is by the new one.
    pub fn reload(&mut self, config: Arc<Config>, access: Option<Arc<Access>>) {
        match access.is_some() {
            true => self.review.begin(),
            false => self.review.end(),
        }
        self.gate.set_access(access.clone());
        self.gate.set_quotas(&config);
        self.shared.access = access;
        let before = std::mem::replace(&mut self.shared.config, config);
        let config = &self.shared.config;
        self.limits = session_limits(config, self.shared.is_loopback);
        self.stranger_limits = stranger_limits(config, self.shared.is_loopback);
        self.home.set_names_max(config.limits.names_per_connection_max);
        self.buffered.set_bytes_max(config.limits.buffered_bytes_max);
        let now_ms = self.now_ms() as u32;
        self.meters.reload(config, self.connections.slot_count(), now_ms);
        self.door.reload(config);
        if config.limits.json_depth_max != before.limits.json_depth_max {
            self.parser = None;
        }
        let has_other_values = config.limits.value_keys_max != before.limits.value_keys_max;
        if has_other_values || (&config.delivery, &config.topic) != (&before.delivery, &before.topic) {
            let policy = policy_of(config);
            self.stalled_round = StalledRound::of(&policy);
            self.fanout.set_policy(policy);
            self.home.set_keeping(keeping_of(config));
        }
        self.home.set_key_windows(key_windows_of(config), config.limits.keys_max);
        self.home.set_tenants(tenant_topics_of(config));
        if config.reactor.max_delay_us != before.reactor.max_delay_us {
            self.pacing = Pacing::new(config.reactor.max_delay_us);
        }
    }

    /// Goes by other keys of issuers from now on: those who are let in stay, and nobody is looked at again.
    pub fn set_keys(&mut self, access: Arc<Access>) {
        // Those of another configuration come with it.
        if self.shared.access.as_ref().is_some_and(|running| running.version() == access.version()) {
            self.gate.set_access(Some(access.clone()));
            self.shared.access = Some(access);
        }
    }

    /// Gives an accepted socket a slot; `origin` is whose it is, if it was counted.
    pub fn open(&mut self, socket: RawFd, origin: Option<Origin>) -> u32 {
        let (now_ms, handshake_ms) = (self.now_ms(), self.shared.config.timeouts.handshake_ms);
        let slot = self.connections.open(socket, now_ms, now_ms + handshake_ms);
        self.meters.open(slot, origin, now_ms as u32);
        slot
    }

    /// The oldest connection that is upgrading, if there are more than may be: it makes room.
    pub fn displaced(&mut self) -> Option<u32> {
        let oldest = self.connections.oldest_beyond()?;
        self.shared.troubles.note(Trouble::UpgradingMax);
        Some(oldest)
    }

    /// Refuses a connection that has not upgraded: an HTTP answer, then the end.
    pub fn refuse(&mut self, slot: u32, refusal: Refusal) {
        let (status, body) = refusal.answer();
        let retry_after = refusal.retry_after_s().map(|left_s| format!("Retry-After: {left_s}\r\n"));
        let retry_after = retry_after.unwrap_or_default();
        let replies = self.replies(slot);
        replies.extend_from_slice(
            format!(
                "HTTP/1.1 {status}\r\n{retry_after}Content-Type: text/plain\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        );
        self.flush(slot, refusal.reason());
    }

    /// Makes the slot free for the next connection. Its socket is closed, or about to be.
    pub fn release(&mut self, slot: u32, reason: CloseReason) {
        self.stats.closes_total[reason.index()] += 1;
        self.queues.end_pause(&mut self.connections[slot]);
        self.meter.spend(price::END);
        self.buffered.note(self.connections.share_mut(slot), 0);
        if let Some(origin) = self.meters.close(slot) {
            self.shared.addresses.leave(origin);
        }
        self.gate.forget(slot);
        self.review.forget(slot);
        self.auditor.forget(slot);
        self.connections.release(slot, reason);
    }

    /// All connections are to be closed: sweeps do not wait for their time, because what waits for its sweep is owed too.
    pub fn begin_drain(&mut self) {
        self.pacing.end();
        self.fanout.set_hurrying(true);
    }

    /// They are not any more: the delay between sweeps is what it was at the start.
    pub fn end_drain(&mut self) {
        self.pacing = Pacing::new(self.shared.config.reactor.max_delay_us);
        self.fanout.set_hurrying(false);
    }

    /// Closes the connection with 1012 and a time to come back after: at random from 0 to `drain_ms`, so
    /// that the clients do not all come at once.
    pub fn close_for_restart(&mut self, slot: u32) {
        let spread_ms = self.shared.config.timeouts.drain_ms.max(1_000);
        let salt = self.shared.epoch.wrapping_add(self.exchange.index() as u64);
        let retry_after_ms = self.shared.homes.spread(slot, salt) % spread_ms;
        self.close(slot, CloseReason::Restart, &format!("retry_after_ms={retry_after_ms}"));
    }

    /// Closes the connection with a close frame, after which the peer's is awaited for a while. Nothing
    /// more is delivered to it.
    pub fn close(&mut self, slot: u32, reason: CloseReason, text: &str) {
        match self.connections[slot].phase {
            Phase::Open | Phase::Authenticating => {}
            Phase::Upgrading => return self.flush(slot, reason),
            _ => return,
        }
        let code = reason.code().expect("a close that the broker begins has a code");
        frame::write_close(code, text, self.replies(slot));
        self.leave(slot, Phase::Closing(reason));
    }

    /// Nothing more is to be said: what waits is sent, then the connection ends.
    pub fn flush(&mut self, slot: u32, reason: CloseReason) {
        // So that it is looked at even if nothing waits.
        self.list_replying(slot);
        self.leave(slot, Phase::Flushing(reason));
    }

    /// The connection gets nothing more, and `phase` has until the close timeout to end.
    pub fn leave(&mut self, slot: u32, phase: Phase) {
        // First, so that whatever it still waited for is not answered: nothing follows a close frame.
        self.connections.enter(slot, phase);
        self.leave_gate(slot);
        self.door.forget(slot);
        self.fanout.handle_disconnect(slot, &mut self.outcome);
        self.work_off();
        let deadline_ms = self.now_ms() + self.shared.config.timeouts.close_ms;
        self.connections.timers.set(slot, deadline_ms);
        let connection = &mut self.connections[slot];
        if !connection.is_reading() {
            connection.unread = None;
        }
        // It is nobody else's, and this turn's.
        self.take_work();
    }

    /// Goes on with what takes more than a turn.
    pub fn run_tasks(&mut self) {
        self.go_on_shedding();
        self.go_on_checking();
        self.go_on_reviewing();
        self.relieve();
        let now_ms = self.now_ms() as u32;
        self.fanout.run_tasks(share::TASKS, now_ms, &mut self.outcome);
        self.take_work();
        self.work_off();
        self.fanout.charge();
        self.buffered.tell();
    }

    /// Whether there is anything for [`Desk::run_tasks`].
    pub fn has_tasks(&self) -> bool {
        self.fanout.has_tasks()
            || self.shed_flights.is_some()
            || !self.checking.is_empty()
            || self.gate.has_waiting()
            || self.review.is_under_way()
            || self.gate.has_gone()
            || self.buffered.is_looking()
            || (!self.queues.holding.is_empty() && !self.buffered.is_short())
    }

    /// What homes, fan-out and gate have done counts for this turn.
    pub(super) fn take_work(&mut self) {
        let price = self.fanout.take_work() + self.home.take_work() + self.gate.take_work();
        self.meter.spend(price);
    }

    /// The member has been sent something: see [`Fanout::note_sent`]. What leaving takes counts at once.
    pub(super) fn note_sent(&mut self, view: ViewKey, member: MemberSlot) -> bool {
        let has_left = self.fanout.note_sent(view, member, &mut self.outcome);
        self.take_work();
        has_left
    }

    /// The memory that a connection's replies were in can be used for others.
    pub fn take_spare(&mut self, mut spare: Vec<u8>) {
        if self.spares.len() < SPARES_MAX && (1..=SPARE_BYTES_MAX).contains(&spare.capacity()) {
            spare.clear();
            self.spares.push(spare);
        }
    }

    /// A send is over, and with it what kept its bytes.
    pub fn let_go(&mut self, source: Source) {
        match source {
            Source::Pinned { view, pin } => self.fanout.unpin(view, pin),
            // The chunk comes free with its last range.
            Source::Range(_) => {}
            Source::Bytes(bytes) => self.take_spare(bytes),
        }
    }

    /// Whether another message can be taken from a connection: every home took what there was for it,
    /// and every reactor what this home said.
    pub fn has_room(&self) -> bool {
        !self.exchange.is_backlogged() && !self.is_log_full() && self.is_home_open()
    }

    /// Whether this home can take more publications: there is log for them, and the other reactors take what
    /// it says.
    pub fn is_home_open(&self) -> bool {
        !self.exchange.is_outbox_full() && !self.shared.budget.is_full()
    }

    /// Whether there is no memory for more publications until some is let go: in the log, or for those on
    /// their way to other homes. The latter have a bound of their own, so that a home always gets to those
    /// that wait for it.
    pub fn is_log_full(&self) -> bool {
        self.shared.budget.is_full() || self.carrier.is_full()
    }

    /// Takes requests of other reactors for as long as this home can answer them, and what homes say.
    pub fn receive(&mut self) {
        // What this reactor's own connections had the home say waits to be taken, and would keep the home from the others
        // in every turn in which they do.
        self.take_own_until(share::TURN);
        self.exchange.note_outboxes();
        let until = self.meter.spent() + share::TOURS;
        while self.is_home_open()
            && self.meter.spent() < until
            && let Some(request) = self.exchange.take_asked()
        {
            self.handle_request(self.exchange.index(), request);
            self.take_work();
            // A page that were left would keep this home from everybody.
            self.take_own_until(share::TURN);
            self.exchange.note_outboxes();
        }
        let senders = self.exchange.senders(self.stats.turns_total);
        let until = self.meter.spent() + share::EXCHANGE / 2;
        for from in senders.iter() {
            for _ in 0..RECEIVES_MAX {
                if !self.is_home_open() || self.meter.spent() >= until {
                    break;
                }
                let Some(request) = self.exchange.receive_request(from) else { break };
                self.handle_request(from, request);
                self.take_work();
            }
        }
        // As many as there is work for: whoever sent one waits for room, and each needs nothing of anybody.
        let until = self.meter.spent() + share::EXCHANGE / 2;
        for from in senders.iter() {
            for _ in 0..DELIVERIES_MAX {
                if self.meter.spent() >= until {
                    break;
                }
                let Some(delivery) = self.exchange.receive_delivery(from) else { break };
                self.handle_delivery(delivery);
                self.take_work();
            }
        }
    }

    /// Takes what this home has said to this reactor, up to so much of the turn's work.
    fn take_own_until(&mut self, until: u64) {
        while self.meter.spent() < until
            && let Some(delivery) = self.exchange.take_own()
        {
            self.handle_delivery(delivery);
            self.take_work();
        }
    }

    /// Hands what this home says to this reactor over, and puts the rest into the others' queues as far
    /// as it fits. `wakes` gets the reactors whose ring must be woken.
    pub fn post(&mut self, wakes: &mut Vec<usize>) {
        // As much as the turn has work for, and one in any case: what is left keeps this home from taking more.
        loop {
            self.home.flush(self.exchange.outboxes());
            let Some(delivery) = self.exchange.take_own() else { break };
            self.handle_delivery(delivery);
            self.take_work();
            if self.meter.spent() >= share::TURN {
                break;
            }
        }
        self.exchange.post(wakes);
    }

    /// Fills in what is not counted as it happens.
    pub fn snapshot(&mut self) -> ReactorStats {
        self.home.release_free_chunks();
        self.carrier.release_free();
        ReactorStats {
            connections: self.connections.open_count() as u64,
            upgrading: self.connections.upgrading_count() as u64,
            publications_total: self.home.publications_total(),
            deflated_total: self.deflater.messages_total(),
            deflate_in_bytes_total: self.deflater.in_bytes_total(),
            deflate_out_bytes_total: self.deflater.out_bytes_total(),
            inflated_total: self.inflater.messages_total(),
            inflated_bytes_total: self.inflater.bytes_total(),
            deliveries_total: self.fanout.deliveries_total(),
            skipped_total: self.fanout.skipped_total(),
            topics: self.home.topic_count() as u64,
            subscriptions: self.fanout.subscription_count(),
            behind: self.fanout.behind_count(),
            behind_bytes_max: self.fanout.kept_bytes_max(),
            log_bytes: (self.home.log_bytes() + self.carrier.allocated_bytes()) as u64,
            keys: self.home.key_count() as u64,
            key_window_ms: self.home.key_window_ms(),
            duplicates_total: self.home.duplicates_total(),
            kept_bytes: self.home.kept_bytes() as u64,
            keeping: self.home.past_count() as u64,
            values: self.home.value_count() as u64,
            replays: self.fanout.replay_count() as u64,
            replayed_total: self.fanout.replayed_total(),
            replayed_bytes_total: self.fanout.replayed_bytes_total(),
            transcoded_bytes_total: self.home.transcoded_bytes_total(),
            buffered_bytes: self.buffered.bytes() as u64,
            reviews: self.review.pending(self.connections.slot_count()),
            paused: self.queues.paused_count() as u64,
            pacing_us: self.pacing.delay_ns() / 1_000,
            ..self.stats.clone()
        }
    }

    /// The connection's replies, to be added to; they are sent this turn or as soon as its send in flight
    /// is over.
    pub(super) fn replies(&mut self, slot: u32) -> &mut Vec<u8> {
        self.list_replying(slot);
        let replies = &mut self.connections[slot].replies;
        if replies.capacity() == 0
            && let Some(spare) = self.spares.pop()
        {
            *replies = spare;
        }
        replies
    }

    /// The connection, whose send is over, is to be sent what it waits for.
    pub fn list_if_owed(&mut self, slot: u32) {
        if !self.connections[slot].replies.is_empty() || self.fanout.is_owing(slot) {
            self.list(slot);
        }
        if self.fanout.has_past(slot) {
            self.queues.list_past(slot);
        }
    }

    /// Takes what is next of some topic's past, and whose it was if that is all of it; what may be asked for then is.
    pub(super) fn take_past(
        &mut self,
        slot: u32,
        is_urgent: bool,
        bytes_max: u32,
    ) -> Option<(Range, Option<ViewKey>)> {
        let taken = self.fanout.take_past(slot, is_urgent, bytes_max, &mut self.outcome);
        self.work_off();
        self.take_work();
        taken
    }

    /// The last of that topic's past is in a send, with what is live behind it: see [`Fanout::note_past_sent`].
    pub(super) fn note_past_sent(&mut self, slot: u32, view: ViewKey) {
        self.fanout.note_past_sent(slot, view, &mut self.outcome);
        self.work_off();
        self.take_work();
    }

    /// See [`Queues::list_replying`].
    pub(super) fn list_replying(&mut self, slot: u32) {
        self.queues.list_replying(slot, &mut self.connections[slot]);
    }

    /// See [`Queues::list`].
    pub(super) fn list(&mut self, slot: u32) {
        self.queues.list(slot, &mut self.connections[slot]);
    }

    /// Frees log that only those who are far behind keep: the oldest half of the budget goes, and where the log is
    /// full the oldest three quarters, those of chunks that were being written as well.
    fn shed(&mut self) {
        self.home.release_free_chunks();
        self.carrier.release_free();
        if !self.shared.budget.is_short() {
            return;
        }
        self.exchange.overrun_guests();
        if self.shed_flights.is_some() {
            return;
        }
        // Others may keep it, and one that sleeps would not look.
        self.exchange.touch_all();
        if self.shared.budget.is_full() {
            self.home.seal();
        }
        let clock = self.shared.budget.stale_before();
        self.fanout.shed(clock);
        self.shed_flights = Some(ShedFlights::new(clock));
    }
}

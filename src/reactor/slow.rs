//! Slow consumers: the walks that find those of whom nothing else tells, and what becomes of all of them.
//!
//! The verdicts come from [`crate::pubsub::policy`]: of whoever is visited while it takes nothing, of whoever a task has
//! summed up, of whoever keeps a log that is full, of a send that makes no progress. `Desk::carry_out` is where each of
//! them goes, and a slow consumer is counted with what it was beyond when its connection begins to end for it: no other
//! close has the reason [`CloseReason::SlowConsumer`].

use super::{connection::Phase, connections::Connections, desk::Desk, share};
use crate::{
    metrics::Trouble,
    protocol::close::CloseReason,
    pubsub::{
        fanout::Fanout,
        policy::{Bound, Policy, Verdict},
    },
    work::{Meter, price},
};

/// How often all connections are looked at while the least age that is allowed passes, to find who is owed
/// something old.
const STALLED_ROUNDS: u64 = 8;
/// For how long a send makes no progress before what it keeps may be taken from it, in milliseconds.
const SHED_STALLED_MS: u64 = 200;

/// Walks over all connections in search of those that are owed something old.
#[derive(Clone, Copy, Debug)]
pub(super) struct StalledRound {
    next_slot: u32,
    /// When the next one begins.
    due_ns: u64,
    period_ns: u64,
}

/// A walk over all connections in search of sends in flight that keep log which must go: what was appended
/// before `clock` on its age clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShedFlights {
    next_slot: u32,
    clock: u64,
}

/// Why a connection is to be reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// It is a slow consumer: its send in flight keeps what is beyond this.
    Slow(Bound),
    /// It has most under way of too much.
    BufferedBytes,
}

impl StalledRound {
    /// The first, if `policy` lets nothing grow too old.
    pub fn of(policy: &Policy) -> Option<StalledRound> {
        let period_ns = |owed_ms: u32| u64::from(owed_ms) * 1_000_000 / STALLED_ROUNDS;
        let owed_ms = policy.owed_ms_min()?;
        Some(StalledRound { next_slot: 0, due_ns: 0, period_ns: period_ns(owed_ms) })
    }

    fn is_over(&self, connections: &Connections) -> bool {
        self.next_slot as usize >= connections.slot_count()
    }

    fn begin(&mut self, now_ns: u64) {
        (self.next_slot, self.due_ns) = (0, now_ns + self.period_ns);
    }

    /// The next one that is to be judged, if it is found before the meter stands at `until`.
    fn next(
        &mut self,
        connections: &Connections,
        fanout: &mut Fanout,
        meter: &mut Meter,
        until: u64,
    ) -> Option<u32> {
        while meter.spent() < until && !self.is_over(connections) {
            meter.spend(price::LOOK);
            let slot = self.next_slot;
            self.next_slot += 1;
            if fanout.owing_count(slot) > 0 {
                // Looked at again, also if it is not found to be too late.
                fanout.set_may_owe(true);
                if connections[slot].is_sending() {
                    return Some(slot);
                }
            }
        }
        None
    }
}

impl ShedFlights {
    /// The walk for what is older than `clock`.
    pub fn new(clock: u64) -> ShedFlights {
        ShedFlights { next_slot: 0, clock }
    }

    fn is_over(&self, connections: &Connections) -> bool {
        self.next_slot as usize >= connections.slot_count()
    }

    /// The next one whose send keeps too much and makes no progress, if it is found before the meter stands at `until`.
    fn next(
        &mut self,
        connections: &Connections,
        fanout: &Fanout,
        meter: &mut Meter,
        until: u64,
        now_ms: u64,
    ) -> Option<u32> {
        while meter.spent() < until && !self.is_over(connections) {
            meter.spend(price::LOOK);
            let slot = self.next_slot;
            self.next_slot += 1;
            let connection = &connections[slot];
            if connection.flight.stalled_ms(now_ms) < Some(SHED_STALLED_MS) {
                continue;
            }
            let is_keeping =
                connection.flight.is_stale(self.clock, |view, pin| fanout.pins_stale(view, pin, self.clock));
            if is_keeping {
                return Some(slot);
            }
        }
        None
    }
}

impl Reset {
    /// The reason of its end.
    pub fn reason(self) -> CloseReason {
        match self {
            Reset::Slow(_) => CloseReason::SlowConsumer,
            Reset::BufferedBytes => CloseReason::BufferedBytes,
        }
    }
}

impl Desk {
    /// What is owed to the connection is looked at: too much has its consequence.
    pub fn judge(&mut self, slot: u32) {
        let verdict = self.fanout.judge(slot, self.now_ms() as u32);
        self.carry_out(slot, verdict);
    }

    /// Does what a verdict asks for. A reset is the ring's, and counted by [`Desk::note_reset`] if it comes to that.
    pub(super) fn carry_out(&mut self, slot: u32, verdict: Verdict) {
        match verdict {
            Verdict::Keep => {}
            Verdict::Skip(bound) => {
                self.stats.slow_skips_total[bound.index()] += 1;
                self.list(slot);
            }
            Verdict::Disconnect(bound) => {
                self.note_disconnect(slot, bound);
                self.close(slot, CloseReason::SlowConsumer, bound.reason());
            }
            Verdict::Reset(bound) => {
                self.queues.resetting.push((self.connections.id_of(slot), Reset::Slow(bound)))
            }
        }
    }

    /// The connection is reset now.
    pub(super) fn note_reset(&mut self, slot: u32, why: Reset) {
        if let Reset::Slow(bound) = why {
            self.note_disconnect(slot, bound);
        }
    }

    /// One that is closed already was counted then, or has another reason.
    fn note_disconnect(&mut self, slot: u32, bound: Bound) {
        if self.connections[slot].phase == Phase::Open {
            self.stats.slow_disconnects_total[bound.index()] += 1;
            self.shared.troubles.note(Trouble::SlowConsumer);
        }
    }

    /// Judges connections that take nothing even if nothing more is published: what is owed to them grows
    /// old. So many per turn that a turn stays short, all of them several times while one grows too old; none
    /// while nobody owes.
    /// Tells when it is to go on, in nanoseconds.
    pub fn judge_stalled(&mut self) -> Option<u64> {
        let mut round = self.stalled_round?;
        if round.is_over(&self.connections) {
            if !self.fanout.may_owe() {
                return None;
            }
            if self.now_ns < round.due_ns {
                return Some(round.due_ns);
            }
            round.begin(self.now_ns);
            self.fanout.set_may_owe(false);
        }
        let until = self.meter.spent() + share::TASKS;
        while let Some(slot) = round.next(&self.connections, &mut self.fanout, &mut self.meter, until) {
            self.judge(slot);
            self.take_work();
        }
        self.stalled_round = Some(round);
        if !round.is_over(&self.connections) {
            return Some(self.now_ns);
        }
        self.fanout.may_owe().then_some(round.due_ns)
    }

    /// A send in flight cannot be moved forward: only its end lets go. One that makes progress keeps what it has.
    pub(super) fn go_on_shedding(&mut self) {
        let Some(mut walk) = self.shed_flights else { return };
        let (until, now_ms) = (self.meter.spent() + share::TASKS / 2, self.now_ms());
        while let Some(slot) = walk.next(&self.connections, &self.fanout, &mut self.meter, until, now_ms) {
            self.carry_out(slot, Verdict::Reset(Bound::LogBytes));
        }
        self.shed_flights = Some(walk).filter(|walk| !walk.is_over(&self.connections));
    }
}

//! What a turn sends: to whom, how much of it, and in which order it stands in a send.
//!
//! The classes of those who are sent to, and what each leaves to the others, are [`super::turn`]'s.

use super::{
    connection::{Pause, Phase},
    desk::Desk,
    share::SendBudget,
    transport::{Moment, Transport},
};
use crate::{
    protocol::close::CloseReason,
    pubsub::{subscription::ViewKey, view::MemberSlot},
    uring::Io,
    work::{UNIT, price},
};

/// The most bytes of one send; one frame may be longer: what a stalled peer's socket takes is copied in one go.
pub const SEND_BYTES_MAX: u32 = if cfg!(test) { 1 << 10 } else { 256 << 10 };
/// How many sends, and bytes, a topic submits before it is another's turn; one frame may be longer.
pub const QUANTUM: usize = if cfg!(test) { 2 } else { 64 };
const QUANTUM_BYTES: u32 = if cfg!(test) { 2 << 10 } else { 1 << 20 };
/// How many topics one send looks at for what its connection is owed.
const POPS_MAX: usize = if cfg!(test) { 8 } else { 256 };
/// And how much that may take before it goes: a topic that is left may cost more than a send.
const POPS_WORK_MAX: u64 = if cfg!(test) { 2 * UNIT } else { 50 * UNIT };

/// A reactor's sends. A connection has one in flight at most: what comes meanwhile goes with the next.
#[derive(Debug)]
pub(super) struct Sending {
    /// What the turn may still send.
    pub budget: SendBudget,
    /// Has the ring send it.
    pub transport: Transport,
}

impl Default for Sending {
    fn default() -> Sending {
        Sending { budget: SendBudget::none(), transport: Transport::default() }
    }
}

impl Sending {
    /// Serves a connection that was listed, unless a send is in flight: then it is listed again when that is over. A reason
    /// tells that everything is sent to one that is to end for it.
    pub fn serve<I: Io>(&mut self, desk: &mut Desk, io: &mut I, slot: u32) -> Option<CloseReason> {
        desk.meter.spend(price::VISIT);
        let connection = &mut desk.connections[slot];
        connection.is_listed = false;
        if connection.is_sending() {
            return None;
        }
        match connection.phase {
            Phase::Free | Phase::Lingering(_) | Phase::Finishing(_) | Phase::Ending(_) => None,
            Phase::Flushing(reason) if connection.replies.is_empty() => Some(reason),
            _ => {
                self.send(desk, io, slot, None);
                None
            }
        }
    }

    /// Gives topics with subscribers behind their turns.
    pub fn sweep<I: Io>(&mut self, desk: &mut Desk, io: &mut I, now_ns: u64) {
        let delay_ns = desk.pacing.delay_ns();
        let mut visits = self.budget.visits();
        while visits > 0 && !self.budget.is_spent(SendBudget::none()) {
            let Some(view) = desk.fanout.take_sweeping() else { break };
            let sends_left = self.budget.sends().saturating_sub(QUANTUM);
            let bytes_left = self.budget.bytes().saturating_sub(QUANTUM_BYTES);
            let visits_before = visits;
            while self.budget.sends() > sends_left
                && self.budget.bytes() > bytes_left
                && !self.budget.is_spent(SendBudget::none())
            {
                let Some((slot, member)) = desk.fanout.next_visit(view, &mut visits) else { break };
                if !desk.connections[slot].is_sending() {
                    self.send(desk, io, slot, Some((view, member)));
                } else if desk.fanout.mark_owing(view, member) {
                    let before = desk.meter.spent();
                    desk.judge(slot);
                    desk.take_work();
                    self.budget.pass_by(desk.meter.spent() - before);
                }
            }
            let passed_by = u64::from(visits_before - visits) * price::VISIT;
            self.budget.pass_by(passed_by);
            desk.meter.spend(passed_by);
            desk.fanout.put_back(view, now_ns, delay_ns);
        }
        desk.take_work();
    }

    /// Submits the one send of a connection that has none in flight: its replies, then what it is owed
    /// in the view `first`, then in views that waited.
    fn send<I: Io>(&mut self, desk: &mut Desk, io: &mut I, slot: u32, first: Option<(ViewKey, MemberSlot)>) {
        desk.write_gaps(slot);
        if first.is_none() {
            desk.fanout.owe_along(slot);
        }
        let now_ms = desk.now_ms();
        let connection = &mut desk.connections[slot];
        let moved = Moment::at(now_ms);
        if let Some((view, member)) = first
            && connection.replies.is_empty()
            && !desk.fanout.is_owing(slot)
            && !desk.fanout.is_ending(slot)
        {
            let Some(owed) = desk.fanout.take(view, member, SEND_BYTES_MAX) else { return };
            if desk.fanout.is_behind(view, member) {
                desk.fanout.mark_owing(view, member);
            }
            desk.meters.note_message(slot, now_ms as u32);
            desk.meter.spend(self.budget.spend(owed.len));
            desk.stats.sends_total += 1;
            return self.transport.send_owed(slot, connection, view, owed, moved, io);
        }
        let mut gather = self.transport.gather();
        if !connection.replies.is_empty() {
            gather.add_bytes(std::mem::take(&mut connection.replies));
            desk.let_go_on(slot, Pause::Replies);
        }
        let is_ending = desk.fanout.is_ending(slot);
        let mut next = first.or_else(|| desk.fanout.pop_owing(slot));
        let mut pops_left = POPS_MAX;
        let before = desk.meter.spent();
        while let Some((view, member)) = next {
            while !gather.is_full()
                && gather.len() < SEND_BYTES_MAX
                && let Some(owed) = desk.fanout.take(view, member, SEND_BYTES_MAX - gather.len())
            {
                gather.add_owed(view, owed);
            }
            let has_left = is_ending && desk.note_sent(view, member);
            if !has_left && desk.fanout.is_behind(view, member) {
                desk.fanout.mark_owing(view, member);
                break;
            }
            pops_left -= 1;
            let goes_on = pops_left > 0 && desk.meter.spent() < before + POPS_WORK_MAX;
            next = if goes_on { desk.fanout.pop_owing(slot) } else { None };
        }
        desk.meter.spend((POPS_MAX - pops_left) as u64 * price::VISIT);
        self.budget.pass_by(desk.meter.spent() - before);
        if gather.is_empty() {
            self.transport.put_back(gather);
            // So many were at their head by now that others are left.
            if desk.fanout.is_owing(slot) {
                desk.list(slot);
            }
            return;
        }
        desk.meter.spend(self.budget.spend(gather.len()));
        desk.stats.sends_total += 1;
        if gather.has_messages() {
            desk.meters.note_message(slot, now_ms as u32);
        }
        self.transport.send(slot, &mut desk.connections[slot], gather, moved, io);
    }
}

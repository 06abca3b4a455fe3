//! What a turn sends: to whom, how much of it, and in which order it stands in a send.
//!
//! The classes of those who are sent to, and what each leaves to the others, are [`super::turn`]'s.

use super::{
    connection::{Pause, Phase},
    desk::Desk,
    share::SendBudget,
    transport::{Gather, Moment, Transport},
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
/// How much of topics' pasts a send takes along that is made for something else.
const PAST_BYTES_ALONG: u32 = if cfg!(test) { 256 } else { 16 << 10 };
/// How much of them a send has that is made for them.
const PAST_BYTES_MAX: u32 = if cfg!(test) { 1 << 10 } else { 64 << 10 };
/// How many topics one send looks at for what its connection is owed.
const POPS_MAX: usize = if cfg!(test) { 8 } else { 256 };
/// And how much that may take before it goes: a topic that is left may cost more than a send.
const POPS_WORK_MAX: u64 = if cfg!(test) { 2 * UNIT } else { 50 * UNIT };

/// A reactor's sends. A connection has one in flight at most: what comes meanwhile goes with the next.
#[derive(Debug)]
pub(super) struct Sending {
    /// What the turn may still send.
    pub budget: SendBudget,
    /// The views of which a send has the last of the past.
    ended: Vec<ViewKey>,
    /// When topics' pasts are sent again, in nanoseconds.
    pub pasts_due_ns: u64,
    /// Has the ring send it.
    pub transport: Transport,
}

impl Default for Sending {
    fn default() -> Sending {
        Sending {
            budget: SendBudget::none(),
            ended: Vec::new(),
            pasts_due_ns: 0,
            transport: Transport::default(),
        }
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
                self.send(desk, io, slot, None, PAST_BYTES_ALONG);
                None
            }
        }
    }

    /// Sends a connection that was listed for it some topic's past, and what else it waits for, unless a send is in flight.
    pub fn serve_past<I: Io>(&mut self, desk: &mut Desk, io: &mut I, slot: u32) {
        desk.meter.spend(price::VISIT);
        self.budget.pass_by(price::VISIT);
        let connection = &desk.connections[slot];
        if connection.phase == Phase::Open && !connection.is_sending() {
            self.send(desk, io, slot, None, PAST_BYTES_MAX);
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
                    self.send(desk, io, slot, Some((view, member)), PAST_BYTES_ALONG);
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

    /// Submits the one send of a connection that has none in flight: its replies, the last of topics' pasts, then what it is
    /// owed in the view `first`, then in views that waited, and `past_bytes` of the rest of topics' pasts.
    fn send<I: Io>(
        &mut self,
        desk: &mut Desk,
        io: &mut I,
        slot: u32,
        first: Option<(ViewKey, MemberSlot)>,
        past_bytes: u32,
    ) {
        desk.write_gaps(slot);
        if first.is_none() {
            desk.fanout.owe_along(slot);
        }
        let now_ms = desk.now_ms();
        let connection = &mut desk.connections[slot];
        let moved = Moment::at(now_ms);
        if let Some((view, member)) = first
            && connection.replies.is_empty()
            && desk.fanout.is_owed_live_alone(slot)
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
        let mut pops_left = POPS_MAX;
        let before = desk.meter.spent();
        let is_live = !desk.fanout.has_urgent(slot) || self.add_urgent(desk, slot, &mut gather, past_bytes);
        let is_ending = desk.fanout.is_ending(slot);
        let mut is_beyond = false;
        let mut next = match is_live {
            true => first.or_else(|| desk.fanout.pop_owing(slot)),
            false => {
                // When its send is over.
                is_beyond = first.is_some_and(|(view, member)| desk.fanout.mark_owing(view, member));
                None
            }
        };
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
        // A topic whose past is behind what is live is none of which that is held up.
        if is_live || desk.fanout.is_held_up(slot) {
            let until = gather.len().saturating_add(past_bytes).min(SEND_BYTES_MAX);
            while !gather.is_full()
                && gather.len() < until
                && let Some((range, _)) = desk.take_past(slot, false, until - gather.len())
            {
                gather.add_range(range);
            }
        }
        // Behind what is live: whoever leaves now would leave its place to others.
        self.ended.drain(..).for_each(|view| desk.note_past_sent(slot, view));
        desk.meter.spend((POPS_MAX - pops_left) as u64 * price::VISIT);
        self.budget.pass_by(desk.meter.spent() - before);
        if gather.is_empty() {
            self.transport.put_back(gather);
            if is_beyond {
                // What is live waits for a home, and no send is in flight after which it would be found to be too much.
                desk.judge(slot);
            }
            // So many were at their head by now that others are left.
            desk.list_if_owed(slot);
            return;
        }
        desk.meter.spend(self.budget.spend(gather.len()));
        desk.stats.sends_total += 1;
        if gather.has_messages() {
            desk.meters.note_message(slot, now_ms as u32);
        }
        self.transport.send(slot, &mut desk.connections[slot], gather, moved, io);
    }

    /// Adds `past_bytes` of the last of topics' pasts, and when that is over what is missing of what is live. Tells whether
    /// that is all: else nothing live may come before the rest.
    fn add_urgent(&mut self, desk: &mut Desk, slot: u32, gather: &mut Gather, past_bytes: u32) -> bool {
        let until = gather.len().saturating_add(past_bytes).min(SEND_BYTES_MAX);
        while !gather.is_full()
            && gather.len() < until
            && let Some((range, ended)) = desk.take_past(slot, true, until - gather.len())
        {
            gather.add_range(range);
            self.ended.extend(ended);
        }
        if desk.fanout.has_urgent(slot) {
            return false;
        }
        desk.write_gaps(slot);
        let replies = std::mem::take(&mut desk.connections[slot].replies);
        if !replies.is_empty() {
            gather.add_bytes(replies);
        }
        !gather.is_full()
    }
}

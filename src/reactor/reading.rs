//! What comes in: whose bytes are taken, how much of them, what they mean, and who waits.
//!
//! A connection's bytes are taken as they come, up to its share of the turn. The rest waits in the connection,
//! which is *paused*: nothing more is received of it than what is under way. Those that wait for their turn stand in
//! one queue; those that wait for something of their own are put into it when that has come.
//!
//! It is [`Desk`]'s, and no type: what bytes mean is commands and closes, and those are answered with all that it has.

use zeroize::Zeroize;

use super::{
    connection::{Connection, Pause, Phase, Unread},
    desk::Desk,
    share,
    slow::Reset,
};
use crate::{
    metrics::Trouble,
    protocol::{
        Format, Speech, binary,
        close::CloseReason,
        command::{CommandError, Commands, Many, Read, Rest},
        deflate::Agreement,
        frame::{self, Opcode},
        json::{self, LongMessage},
        session::{Event, Session},
    },
    pubsub::subscription::ConnectionId,
    work::price,
};

/// While so many bytes of replies wait, a connection's commands are not taken.
pub(super) const REPLIES_BYTES_MAX: usize = if cfg!(test) { 1 << 10 } else { 64 << 10 };

/// A message that is longer is checked by slices of so many bytes.
pub(super) const LONG_MESSAGE_BYTES: usize = if cfg!(test) { 2 << 10 } else { 64 << 10 };
pub(super) const SLICE_BYTES: usize = if cfg!(test) { 256 } else { 32 << 10 };

/// A long message whose check is under way.
#[derive(Debug)]
pub(super) struct Check {
    connection: ConnectionId,
    message: LongMessage,
}

/// How many connections a turn looks at for the one with most under way, and lets go on when there is room again.
const LOOKS_MAX: usize = if cfg!(test) { 4 } else { 4_096 };
const HOLDING_MAX: usize = if cfg!(test) { 2 } else { 64 };

impl Desk {
    /// Takes what was received. What cannot be taken now is kept, and the connection paused.
    pub fn handle_bytes(&mut self, slot: u32, bytes: &mut [u8]) {
        let now_ms = self.now_ms() as u32;
        self.stats.received_bytes_total += bytes.len() as u64;
        let turn = self.stats.turns_total;
        let connection = &mut self.connections[slot];
        connection.active_ms = now_ms;
        connection.is_pinged = false;
        let is_upgrading = connection.phase == Phase::Upgrading;
        let bytes = match is_upgrading && self.door.awaits_header(slot) {
            true => match self.take_proxy_header(slot, bytes) {
                Some(rest) if !rest.is_empty() => rest,
                _ => return self.note_buffered(slot),
            },
            false => bytes,
        };
        let (connection, &mut share) = self.connections.with_share(slot);
        if connection.is_paused() {
            self.meter.spend(bytes.len() as u64 * price::KEPT_KIB / 1_024);
            connection.unread.get_or_insert_default().extend(bytes);
            self.wipe_kept(bytes);
            return self.note_buffered(slot);
        }
        if self.buffered.holds_up(share) {
            connection.pause = Pause::Memory;
            connection.unread = Some(Box::new(Unread::new(None, bytes)));
            self.wipe_kept(bytes);
            return self.pause(slot);
        }
        let before = self.meter.spent();
        let most = match self.is_crowded {
            true if bytes.len() > share::LITTLE_BYTES && !is_upgrading => 0,
            true => share::CROWDED,
            false => share::FRESH,
        };
        let share = share.left(turn, most);
        let mut rest = None;
        let left = self.take_bytes(slot, &mut rest, bytes, share);
        let spent = self.meter.spent() - before;
        let share = self.connections.share_mut(slot);
        share.spend(turn, spent);
        share.is_flooding |= spent >= share::HEAVY;
        if self.connections[slot].is_paused() {
            self.meter.spend(left as u64 * price::KEPT_KIB / 1_024);
            let kept = bytes.len() - left;
            let mut unread = Unread::new(rest, &bytes[kept..]);
            self.wipe_kept(&mut bytes[kept..]);
            unread.checked_bytes = self.checked_bytes(slot);
            let is_nothing = unread.is_empty() && unread.checked_bytes == 0;
            self.connections[slot].unread = (!is_nothing).then(|| Box::new(unread));
            self.pause(slot);
        }
        self.note_buffered(slot);
    }

    /// These bytes are kept elsewhere: a credential that may be among them is not to be here as well.
    fn wipe_kept(&mut self, bytes: &mut [u8]) {
        if self.gate.asks() {
            bytes.zeroize();
            self.spend_wiped(bytes.len());
        }
    }

    /// So many bytes were overwritten.
    fn spend_wiped(&mut self, byte_count: usize) {
        self.meter.spend(byte_count as u64 * price::WIPED_BYTE);
    }

    /// Lets those that wait go on, in turn, each by a quantum, while there is room and as far as their part of the
    /// turn goes. `resumed` gets those that wait no longer: they are to receive again.
    pub fn resume(&mut self, resumed: &mut Vec<u32>) {
        let until = share::INPUT.max(self.meter.spent() + share::RESUMED);
        let little_until = until - share::RESUMED / 2;
        // Who came while a step was taken that cannot be divided is answered before the next of these, but nobody is put off
        // twice on end.
        let is_late = |spent: u64| spent > 2 * share::TURN;
        let is_over = is_late(self.meter.spent()) && !self.is_put_off;
        while !is_over && self.meter.spent() < little_until && self.has_room() {
            let Some(slot) = self.queues.little_waiting.pop_front() else { break };
            self.go_on(slot, Pause::LittleTurn, share::LITTLE, resumed);
        }
        // Whatever the last of those did: the others have their half.
        let until = until.max(self.meter.spent() + share::RESUMED / 2);
        self.is_put_off = is_late(self.last_spent.max(self.meter.spent())) && !self.is_put_off;
        while !self.is_put_off && self.meter.spent() < until && self.has_room() {
            let Some(slot) = self.queues.waiting.pop_front() else { break };
            self.go_on(slot, Pause::Turn, share::QUANTUM, resumed);
        }
    }

    /// Lets a connection that waits for `pause` go on, by a quantum.
    fn go_on(&mut self, slot: u32, pause: Pause, quantum: u64, resumed: &mut Vec<u32>) {
        let connection = &mut self.connections[slot];
        if connection.pause != pause {
            return;
        }
        self.queues.end_pause(connection);
        let mut unread = connection.unread.take().unwrap_or_default();
        let (rest, bytes) = unread.parts();
        let before = self.meter.spent();
        let left = self.take_bytes(slot, rest, bytes, quantum);
        let spent = self.meter.spent() - before;
        let share = self.connections.share_mut(slot);
        // Whoever had little to say is calm again.
        share.is_flooding =
            (share.is_flooding && spent >= share::CALM.min(quantum / 2)) || spent >= share::HEAVY;
        if self.connections[slot].is_paused() {
            unread.keep(left);
            unread.checked_bytes = self.checked_bytes(slot);
            self.connections[slot].unread = Some(unread);
            self.stay_paused(slot);
        } else {
            resumed.push(slot);
        }
        self.note_buffered(slot);
    }

    /// How long the message is whose check the connection has just begun; 0 if it has not.
    fn checked_bytes(&self, slot: u32) -> usize {
        let last = self.checking.back().filter(|_| self.connections[slot].pause == Pause::Check);
        last.filter(|check| check.connection.slot == slot).map_or(0, |check| check.message.len_bytes())
    }

    /// See [`super::queues::Queues::let_go_on`].
    pub fn let_go_on(&mut self, slot: u32, pause: Pause) {
        let (connection, share) = self.connections.with_share(slot);
        self.queues.let_go_on(slot, pause, connection, share);
    }

    /// Whether somebody who waits could go on now.
    pub fn can_resume(&self) -> bool {
        !self.queues.is_nobody_waiting() && self.has_room()
    }

    /// Takes commands for as long as there is room, up to a share of the turn: those that are left of a message
    /// before, then what `bytes` hold. Tells how many bytes at the end were not taken. If anything was not, the
    /// connection says what it waits for.
    fn take_bytes(&mut self, slot: u32, rest: &mut Option<Box<Rest>>, bytes: &mut [u8], share: u64) -> usize {
        let until = self.meter.spent() + share;
        let mut session = std::mem::take(&mut self.connections[slot].session);
        let mut inflater = std::mem::take(&mut self.inflater);
        // What is before has been taken.
        let mut at = 0;
        let left = loop {
            let mut input = &mut bytes[at..];
            if !self.connections[slot].is_reading() {
                *rest = None;
                break 0;
            }
            // The session is asked once more when all is taken, so that it lets go of what it does not need.
            if !(input.is_empty() && rest.is_none()) {
                let pause = self.pause_of(slot, until);
                if pause != Pause::None {
                    self.connections[slot].pause = pause;
                    break input.len();
                }
            }
            if let Some(commands) = rest {
                let mut parser = self.take_parser();
                match commands.next(&mut parser) {
                    Some(command) => self.handle_command(slot, command),
                    None => *rest = None,
                }
                if self.gate.take_shown()
                    && let Some(commands) = rest
                {
                    self.spend_wiped(commands.wipe_taken() + parser.wipe());
                }
                self.keep_parser(parser);
                self.take_work();
                continue;
            }
            let before = (input.len(), inflater.bytes_out_total(), inflater.blocks_total());
            let limits = match self.connections[slot].phase {
                Phase::Open => &self.limits,
                _ => &self.stranger_limits,
            };
            let event = session.poll(&mut input, limits, &mut inflater);
            self.meter.spend((before.0 - input.len()) as u64 * price::RECEIVED_BYTE);
            let Some(event) = event else {
                // A part of a message, which may be a credential and is where it belongs.
                self.wipe_kept(&mut bytes[at..]);
                break 0;
            };
            self.meter.spend(price::MESSAGE);
            let left = input.len();
            *rest = self.handle_event(slot, event, until);
            let end = bytes.len() - left;
            if self.gate.take_shown() {
                bytes[at..end].zeroize();
                let mut wiped = end - at;
                wiped += session.wipe();
                wiped += inflater.wipe();
                wiped += self.parser.as_mut().map_or(0, json::Parser::wipe);
                self.spend_wiped(wiped);
            }
            at = end;
            self.meter.spend((inflater.bytes_out_total() - before.1) * price::INFLATED_BYTE);
            self.meter.spend((inflater.blocks_total() - before.2) * price::INFLATED_BLOCK);
            self.take_work();
            // Nothing behind a long message is taken, not even the end of the stream, before that is checked; and nothing
            // behind a credential before that is looked at.
            if self.connections[slot].is_paused() {
                break left;
            }
        };
        if left == 0 && session.is_inside_message() && self.connections[slot].is_reading() {
            self.meters.note_part(slot, self.now_ms() as u32);
        }
        self.connections[slot].session = session;
        self.inflater = inflater;
        left
    }

    /// Does what the bytes meant; returns commands that have to wait, at a work of `until` for the connection's turn.
    fn handle_event(&mut self, slot: u32, event: Event<'_>, until: u64) -> Option<Box<Rest>> {
        let Connection { phase, speech, agreement, .. } = self.connections[slot];
        if matches!(event, Event::Text(_) | Event::Binary(_)) {
            let now_ms = self.now_ms() as u32;
            self.meters.note_message(slot, now_ms);
            self.meters.forget_part(slot);
        }
        match event {
            Event::Upgraded { speech, agreement, response, credential, client } => {
                if self.admit_request(slot, client) {
                    self.handle_upgraded(slot, speech, agreement, &response, credential);
                }
            }
            Event::Answered { response, reason } => {
                match reason {
                    CloseReason::OriginRefused => self.shared.troubles.note(Trouble::OriginRefused),
                    CloseReason::HostRefused => self.shared.troubles.note(Trouble::HostRefused),
                    _ => {}
                }
                self.replies(slot).extend_from_slice(&response);
                self.flush(slot, reason);
            }
            Event::Closed { code } => match phase {
                Phase::Closing(reason) => self.flush(slot, reason),
                _ => {
                    match code {
                        Some(code) => frame::write_close(code, "", self.replies(slot)),
                        None => frame::write_control(Opcode::Close, b"", self.replies(slot)),
                    }
                    self.flush(slot, CloseReason::PeerClosed);
                }
            },
            Event::Failed { reason, rule } => {
                if phase == Phase::Authenticating {
                    self.strike(slot);
                }
                if phase.is_served() {
                    let code = reason.code().expect("a broken rule has a code");
                    frame::write_close(code, rule, self.replies(slot));
                }
                // What closed it stays the reason, whatever it says before it is gone.
                self.flush(slot, phase.reason().unwrap_or(reason));
            }
            // A connection that is closing is not served any more.
            _ if !phase.is_served() => {}
            Event::Text(text) if speech == Speech::Echo => {
                self.echo(slot, Opcode::Text, text.as_bytes(), agreement);
            }
            Event::Binary(message) if speech == Speech::Echo => {
                self.echo(slot, Opcode::Binary, message, agreement);
            }
            Event::Text(text) if text.len() > LONG_MESSAGE_BYTES => {
                self.begin_check(slot, LongMessage::text(text, self.shared.config.limits.json_depth_max));
            }
            Event::Binary(message) if message.len() > LONG_MESSAGE_BYTES => {
                self.begin_check(
                    slot,
                    LongMessage::binary(message, self.shared.config.limits.json_depth_max),
                );
            }
            Event::Text(text) => {
                let mut parser = self.take_parser();
                let rest = self.run_parsed(slot, parser.parse(text), until);
                self.keep_parser(parser);
                return rest;
            }
            Event::Binary(message) => {
                let mut parser = self.take_parser();
                let rest = self.run_parsed(slot, binary::parse(&mut parser, message), until);
                self.keep_parser(parser);
                return rest;
            }
            Event::Ping(payload) => {
                frame::write_control(Opcode::Pong, payload, self.replies(slot));
                self.meter_other(slot);
            }
            Event::Pong => self.meter_other(slot),
        }
        None
    }

    fn echo(&mut self, slot: u32, opcode: Opcode, message: &[u8], agreement: Option<Agreement>) {
        let Some(agreement) = agreement else {
            return frame::write_message(opcode, message, self.replies(slot));
        };
        self.list_replying(slot);
        let replies = &mut self.connections[slot].replies;
        self.meter.spend(message.len() as u64 * price::DEFLATED_BYTE);
        self.deflater.write_message(opcode, message, agreement, replies);
    }

    fn spend_read(&mut self, read: Read) {
        self.meter.spend(read.bytes as u64 * price::READ_BYTE + read.values as u64 * price::READ_VALUE);
    }

    fn take_parser(&mut self) -> json::Parser {
        let depth_max = self.shared.config.limits.json_depth_max;
        self.parser.take().unwrap_or_else(|| json::Parser::with_depth_max(depth_max))
    }

    /// What it has read counts for this turn.
    fn keep_parser(&mut self, mut parser: json::Parser) {
        self.spend_read(parser.take_read());
        self.parser = Some(parser);
    }

    /// Carries out the commands of a message that was read, or tells why there are none; returns those that are left.
    fn run_parsed<'a, M: Many<'a>>(
        &mut self,
        slot: u32,
        parsed: Result<Commands<'a, M>, CommandError<'a>>,
        until: u64,
    ) -> Option<Box<Rest>> {
        match parsed {
            Ok(mut commands) => {
                self.spend_read(commands.take_read());
                self.run_commands(slot, commands, until)
            }
            Err(error) => {
                self.handle_command(slot, Err(error));
                None
            }
        }
    }

    /// Carries out the commands of a message, the first in any case, until they have to wait; returns those that are
    /// left.
    fn run_commands<'a, M: Many<'a>>(
        &mut self,
        slot: u32,
        mut commands: Commands<'a, M>,
        until: u64,
    ) -> Option<Box<Rest>> {
        let mut is_empty = true;
        while let Some(command) = commands.next() {
            is_empty = false;
            self.handle_command(slot, command);
            self.take_work();
            if self.pause_of(slot, until) != Pause::None {
                return commands.into_rest();
            }
        }
        if is_empty {
            self.meter_other(slot);
        }
        None
    }

    /// A long message is checked slice by slice, in turn with those of others: its commands come when that is done,
    /// and nothing behind it is taken before.
    fn begin_check(&mut self, slot: u32, message: LongMessage) {
        // It was copied, and will be once more.
        self.meter.spend(message.len_bytes() as u64 * price::RECEIVED_BYTE / 4);
        // What it has in it shows later, when it is nowhere else any more.
        self.gate.note_shown();
        self.connections[slot].pause = Pause::Check;
        self.checking.push_back(Check { connection: self.connections.id_of(slot), message });
    }

    /// Goes on with the long messages that are being checked, by a slice of the first; then with its commands.
    pub(super) fn go_on_checking(&mut self) {
        let Some(mut check) = self.checking.pop_front() else { return };
        let ConnectionId { slot, generation } = check.connection;
        let connection = &self.connections[slot];
        // It may have ended since, and even another connection have the slot.
        if connection.generation != generation || connection.pause != Pause::Check {
            return;
        }
        let is_done = check.message.go_on(SLICE_BYTES);
        self.meter.spend(share::SLICE);
        self.spend_read(check.message.take_read());
        if !is_done {
            return self.checking.push_back(check);
        }
        let until = self.meter.spent() + share::QUANTUM;
        let mut parser = self.take_parser();
        let rest = match self.connections[slot].speech {
            Speech::Commands(Format::Binary) => {
                let commands = binary::parse_long(&mut parser, &mut check.message);
                self.run_parsed(slot, commands, until)
            }
            _ => {
                let commands = parser.parse_long(&mut check.message);
                self.run_parsed(slot, commands, until)
            }
        };
        if self.gate.take_shown() {
            self.spend_wiped(check.message.wipe() + parser.wipe());
        }
        self.keep_parser(parser);
        self.take_work();
        let connection = &mut self.connections[slot];
        let unread = connection.unread.get_or_insert_default();
        (unread.rest, unread.checked_bytes) = (rest, 0);
        self.let_go_on(slot, Pause::Check);
        self.note_buffered(slot);
    }

    /// Counts what the connection has under way.
    pub(super) fn note_buffered(&mut self, slot: u32) {
        let connection = &self.connections[slot];
        let bytes = connection.session.memory()
            + connection.replies.capacity()
            + connection.unread.as_ref().map_or(0, |unread| unread.memory())
            + connection.flight.memory()
            + self.fanout.listed_bytes(slot)
            + self.gate.held_bytes(slot)
            + self.door.held_bytes(slot);
        self.buffered.note(self.connections.share_mut(slot), bytes);
    }

    /// While all connections have too much under way, closes the one with most, now and then or one after the
    /// other; else lets those go on that were not read from.
    pub(super) fn relieve(&mut self) {
        if !self.buffered.is_short() {
            for _ in 0..self.queues.holding.len().min(HOLDING_MAX) {
                let slot = self.queues.holding.pop_front().expect("the loop counts what is there");
                self.let_go_on(slot, Pause::Memory);
            }
        }
        let found = self.buffered.find_largest(self.connections.shares(), LOOKS_MAX, self.now_ns);
        if self.buffered.is_looking() || found.is_some() {
            self.meter.spend(LOOKS_MAX.min(self.connections.slot_count()) as u64 * price::VISIT);
        }
        let Some(slot) = found else { return };
        self.shared.troubles.note(Trouble::BufferedBytes);
        let connection = &self.connections[slot];
        match connection.phase {
            phase if (phase.is_stranger() || phase == Phase::Open) && !connection.is_sending() => {
                if phase.is_served() {
                    let code = CloseReason::BufferedBytes.code().expect("the broker begins that close");
                    let text = "you have most under way of more than limits.buffered_bytes_max allows";
                    frame::write_close(code, text, self.replies(slot));
                }
                self.flush(slot, CloseReason::BufferedBytes);
                self.connections[slot].session = Session::default();
                self.note_buffered(slot);
            }
            // It takes nothing, or is closing already: nothing more can be said to it.
            _ => self.queues.resetting.push((self.connections.id_of(slot), Reset::BufferedBytes)),
        }
    }

    /// What the connection's next command has to wait for, at a work of `until` for its turn.
    fn pause_of(&self, slot: u32, until: u64) -> Pause {
        let pause = self.connections[slot].pause;
        if matches!(pause, Pause::Gate | Pause::Refusal) {
            pause
        } else if self.fanout.is_unsubscribing(slot) {
            Pause::Task
        } else if self.connections[slot].replies.len() > REPLIES_BYTES_MAX {
            Pause::Replies
        } else if self.meter.spent() >= until || !self.has_room() {
            Pause::Turn
        } else {
            Pause::None
        }
    }

    /// The connection, which says what it waits for, begins to wait.
    fn pause(&mut self, slot: u32) {
        self.stats.pauses_total += 1;
        let (connection, share) = self.connections.with_share(slot);
        self.queues.pause(slot, connection, share);
    }

    fn stay_paused(&mut self, slot: u32) {
        let (connection, share) = self.connections.with_share(slot);
        self.queues.stay_paused(slot, connection, share);
    }
}
